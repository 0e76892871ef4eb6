//! The BERT encoder's forward pass on the CPU, for sequences of any lengths laid end to end.
//!
//! Owns the weights as the CPU wants them and promises the numbers of candle-transformers' `BertModel` (a test compares
//! the two) at about twice its speed: no padding is computed, no mask is needed, and what lies between two matrix
//! products is one pass in place. It does not pool, batch or pick threads; it is not used on other devices.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{Config, HiddenAct};

use crate::kernels::{AddNorm, Bias, BiasGelu, Norm, Softmax};

/// Attention scores computed together, at most: 1 MiB of them.
const SCORES: usize = 256 * 1024;

/// Names and shapes of the tensors that a model of this configuration consists of.
pub(crate) fn tensors(config: &Config) -> Vec<(String, Vec<usize>)> {
    let (width, inner) = (config.hidden_size, config.intermediate_size);
    let mut tensors = Vec::new();
    let tables = [
        ("word", config.vocab_size),
        ("position", config.max_position_embeddings),
        ("token_type", config.type_vocab_size),
    ];
    for (table, rows) in tables {
        tensors.push((format!("embeddings.{table}_embeddings.weight"), vec![rows, width]));
    }
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for layer in (0..config.num_hidden_layers).map(|i| format!("encoder.layer.{i}")) {
        let linears = [
            ("attention.self.query", width, width),
            ("attention.self.key", width, width),
            ("attention.self.value", width, width),
            ("attention.output.dense", width, width),
            ("intermediate.dense", inner, width),
            ("output.dense", width, inner),
        ];
        for (name, to, from) in linears {
            tensors.push((format!("{layer}.{name}.weight"), vec![to, from]));
            tensors.push((format!("{layer}.{name}.bias"), vec![to]));
        }
        norms.push(format!("{layer}.attention.output.LayerNorm"));
        norms.push(format!("{layer}.output.LayerNorm"));
    }
    for norm in norms {
        tensors.push((format!("{norm}.weight"), vec![width]));
        tensors.push((format!("{norm}.bias"), vec![width]));
    }
    tensors
}

/// Embedding tables and encoder layers.
pub(crate) struct Encoder {
    words: Vec<f32>,
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    heads: usize,
    width: usize,
}

struct Layer {
    qkv: Linear,
    attended: Linear,
    attended_norm: Norm,
    wide: Linear,
    narrow: Linear,
    narrow_norm: Norm,
}

/// A weight ready to be multiplied from the right, and its bias, which the next kernel adds.
struct Linear {
    weight: Tensor,
    bias: Vec<f32>,
}

impl Encoder {
    /// Whether this encoder computes what `config` asks for; candle-transformers' model serves the others.
    pub(crate) fn supports(config: &Config) -> bool {
        config.hidden_act == HiddenAct::Gelu && config.hidden_size.is_multiple_of(config.num_attention_heads.max(1))
    }

    /// Reads the weights from `vb`, which stands at the tensors `embeddings.*` and `encoder.*`.
    pub(crate) fn load(vb: &VarBuilder, config: &Config) -> Result<Self> {
        let width = config.hidden_size;
        let tables = vb.pp("embeddings");
        let words = flat(&tables.get((config.vocab_size, width), "word_embeddings.weight")?)?;
        let mut positions = flat(&tables.get((config.max_position_embeddings, width), "position_embeddings.weight")?)?;
        // Every token is of the first type, so its embedding can be added to the positions once and for all.
        let types = flat(&tables.get((config.type_vocab_size, width), "token_type_embeddings.weight")?)?;
        for row in positions.chunks_exact_mut(width) {
            row.iter_mut().zip(&types).for_each(|(p, t)| *p += t);
        }
        let norm = Norm::load(&tables.pp("LayerNorm"), config)?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::load(&vb.pp(format!("encoder.layer.{i}")), config))
            .collect::<Result<_>>()?;
        Ok(Self { words, positions, norm, layers, heads: config.num_attention_heads, width })
    }

    /// The hidden states of the last layer: `(sum of lengths, hidden)`, row by row as in `ids`.
    ///
    /// `ids` are the sequences end to end, `lengths` how many ids belong to each. Every id must lie in the vocabulary
    /// and no sequence may be longer than the position table: an error otherwise.
    pub(crate) fn forward(&self, ids: &[u32], lengths: &[usize]) -> Result<Tensor> {
        let mut x = Tensor::from_vec(self.embed(ids, lengths)?, (ids.len(), self.width), &Device::Cpu)?;
        for layer in &self.layers {
            x = layer.forward(x, lengths, self.heads)?;
        }
        Ok(x)
    }

    fn embed(&self, ids: &[u32], lengths: &[usize]) -> Result<Vec<f32>> {
        let positions = lengths.iter().flat_map(|n| 0..*n);
        let mut hidden = Vec::with_capacity(ids.len() * self.width);
        for (id, position) in ids.iter().zip(positions) {
            let word = row(&self.words, *id as usize, self.width)?;
            let position = row(&self.positions, position, self.width)?;
            hidden.extend(word.iter().zip(position).map(|(w, p)| w + p));
        }
        self.norm.rows(&mut hidden)?;
        Ok(hidden)
    }
}

impl Layer {
    fn load(vb: &VarBuilder, config: &Config) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let attention = vb.pp("attention");
        let own = attention.pp("self");
        let parts = ["query", "key", "value"].map(|name| own.pp(name));
        let weights = parts.iter().map(|vb| vb.get((width, width), "weight")).collect::<Result<Vec<_>>>()?;
        let biases = parts.iter().map(|vb| vb.get(width, "bias")).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            qkv: Linear::new(&Tensor::cat(&weights, 0)?, &Tensor::cat(&biases, 0)?)?,
            attended: Linear::load(&attention.pp("output.dense"), width, width)?,
            attended_norm: Norm::load(&attention.pp("output.LayerNorm"), config)?,
            wide: Linear::load(&vb.pp("intermediate.dense"), width, inner)?,
            narrow: Linear::load(&vb.pp("output.dense"), inner, width)?,
            narrow_norm: Norm::load(&vb.pp("output.LayerNorm"), config)?,
        })
    }

    fn forward(&self, x: Tensor, lengths: &[usize], heads: usize) -> Result<Tensor> {
        let qkv = x.matmul(&self.qkv.weight)?;
        qkv.inplace_op1(&Bias(&self.qkv.bias))?;
        let attended = attend(&qkv, lengths, heads)?.matmul(&self.attended.weight)?;
        attended.inplace_op2(&x, &AddNorm { bias: &self.attended.bias, norm: &self.attended_norm })?;

        let wide = attended.matmul(&self.wide.weight)?;
        wide.inplace_op1(&BiasGelu(&self.wide.bias))?;
        let narrow = wide.matmul(&self.narrow.weight)?;
        narrow.inplace_op2(&attended, &AddNorm { bias: &self.narrow.bias, norm: &self.narrow_norm })?;
        Ok(narrow)
    }
}

/// Attention of each sequence to itself: `(tokens, 3 * hidden)` to `(tokens, hidden)`.
///
/// Neighbours of one length go together as long as their scores stay in the cache.
fn attend(qkv: &Tensor, lengths: &[usize], heads: usize) -> Result<Tensor> {
    let size = qkv.dim(D::Minus1)? / 3 / heads;
    let mut contexts = Vec::with_capacity(lengths.len());
    let mut from = 0;
    for alike in lengths.chunk_by(|a, b| a == b) {
        let n = alike[0];
        for run in alike.chunks((SCORES / (heads * n * n).max(1)).max(1)) {
            let items = run.len();
            let own = qkv.narrow(0, from, items * n)?.reshape((items, n, 3, heads, size))?;
            let part = |i: usize| {
                let part = own.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2)?;
                // One item's heads can be multiplied where they lie.
                if items == 1 { part.squeeze(0) } else { part.contiguous() }
            };
            let scores = part(0)?.matmul(&part(1)?.t()?)?;
            scores.inplace_op1(&Softmax { width: n, scale: 1.0 / (size as f32).sqrt() })?;
            let context = scores.matmul(&part(2)?)?.reshape((items, heads, n, size))?.transpose(1, 2)?;
            contexts.push(context.reshape((items * n, heads * size))?);
            from += items * n;
        }
    }
    Tensor::cat(&contexts, 0)
}

impl Linear {
    fn load(vb: &VarBuilder, from: usize, to: usize) -> Result<Self> {
        Self::new(&vb.get((to, from), "weight")?, &vb.get(to, "bias")?)
    }

    fn new(weight: &Tensor, bias: &Tensor) -> Result<Self> {
        Ok(Self { weight: weight.t()?, bias: flat(bias)? })
    }
}

impl Norm {
    fn load(vb: &VarBuilder, config: &Config) -> Result<Self> {
        Ok(Self {
            gain: flat(&vb.get(config.hidden_size, "weight")?)?,
            shift: flat(&vb.get(config.hidden_size, "bias")?)?,
            eps: config.layer_norm_eps as f32,
        })
    }
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

fn row(table: &[f32], index: usize, width: usize) -> Result<&[f32]> {
    let from = index.saturating_mul(width);
    match table.get(from..from.saturating_add(width)) {
        Some(row) => Ok(row),
        None => candle_core::bail!("index {index} is outside a table of {} rows", table.len() / width),
    }
}
