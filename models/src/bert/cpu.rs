//! The BERT encoder's forward pass on the CPU, for sequences of any lengths laid end to end.
//!
//! Owns the weights as the CPU wants them and promises the numbers of candle-transformers' `BertModel` (a test compares
//! the two) at a multiple of its speed: no padding is computed, no mask is needed, and a block of rows goes through all
//! that it can go through while it lies in the cache. It spreads rows and heads over the threads of the current rayon
//! pool; it does not pool, batch or start threads, and it is not used on other devices.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{Config, HiddenAct};
use pulp::Arch;
use rayon::prelude::*;

use crate::attention::attend;
use crate::kernels::{Norm, gelu};
use crate::matmul::{Linear, TALL};

/// Rows that go through the products of a layer together: their widest state, four times `hidden_size`, stays in a
/// core's second cache (800 kB for 384), and a weight's way from memory is shared by enough of them.
const ROWS: usize = 21 * TALL;

/// Embedding tables and encoder layers.
pub(crate) struct Encoder {
    arch: Arch,
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

impl Encoder {
    /// Whether this encoder computes what `config` asks for; candle-transformers' model serves the others.
    pub(crate) fn supports(config: &Config) -> bool {
        config.hidden_act == HiddenAct::Gelu && config.hidden_size.is_multiple_of(config.num_attention_heads.max(1))
    }

    /// Reads the weights from `vb`, which stands at the tensors `embeddings.*` and `encoder.*`.
    pub(crate) fn load(vb: &VarBuilder, config: &Config) -> Result<Self> {
        let arch = Arch::new();
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
            .map(|i| Layer::load(arch, &vb.pp(format!("encoder.layer.{i}")), config))
            .collect::<Result<_>>()?;
        Ok(Self { arch, words, positions, norm, layers, heads: config.num_attention_heads, width })
    }

    /// The hidden states of the last layer, `hidden_size` values for each token, in the order of `ids`.
    ///
    /// `ids` are the sequences end to end, `lengths` how many ids belong to each. Every id must lie in the vocabulary
    /// and no sequence may be longer than the position table: an error otherwise.
    pub(crate) fn forward(&self, ids: &[u32], lengths: &[usize]) -> Result<Vec<f32>> {
        let mut x = self.embed(ids, lengths)?;
        let (mut qkv, mut context) = (vec![0.0; 3 * x.len()], vec![0.0; x.len()]);
        for layer in &self.layers {
            layer.qkv(&x, &mut qkv);
            let (mut qkv, mut own) = (qkv.as_slice(), context.as_mut_slice());
            for n in lengths {
                let (q, c) = (qkv.split_at(3 * n * self.width), own.split_at_mut(n * self.width));
                attend(self.arch, q.0, *n, self.heads, c.0);
                (qkv, own) = (q.1, c.1);
            }
            layer.rest(self.arch, &mut x, &context);
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
        self.norm.apply(self.arch, &mut hidden);
        Ok(hidden)
    }
}

impl Layer {
    fn load(arch: Arch, vb: &VarBuilder, config: &Config) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let attention = vb.pp("attention");
        let own = attention.pp("self");
        let parts = ["query", "key", "value"].map(|name| own.pp(name));
        Ok(Self {
            qkv: linear(arch, &parts, width, width)?,
            attended: linear(arch, &[attention.pp("output.dense")], width, width)?,
            attended_norm: Norm::load(&attention.pp("output.LayerNorm"), config)?,
            wide: linear(arch, &[vb.pp("intermediate.dense")], width, inner)?,
            narrow: linear(arch, &[vb.pp("output.dense")], inner, width)?,
            narrow_norm: Norm::load(&vb.pp("output.LayerNorm"), config)?,
        })
    }

    /// Queries, keys and values of every row.
    fn qkv(&self, x: &[f32], qkv: &mut [f32]) {
        let block = self.block(x.len());
        x.par_chunks(block).zip(qkv.par_chunks_mut(3 * block)).for_each(|(x, qkv)| self.qkv.apply(x, qkv));
    }

    /// All that comes after attention.
    fn rest(&self, arch: Arch, x: &mut [f32], context: &[f32]) {
        let block = self.block(x.len());
        let (width, inner) = (self.narrow.outputs(), self.wide.outputs());
        x.par_chunks_mut(block).zip(context.par_chunks(block)).for_each_init(
            || (vec![0.0; block], vec![0.0; block / width * inner]),
            |(narrow, wide), (x, context)| {
                let (narrow, wide) = (&mut narrow[..x.len()], &mut wide[..x.len() / width * inner]);
                self.attended.apply(context, narrow);
                self.attended_norm.apply_sum(arch, x, narrow);
                self.wide.apply(x, wide);
                gelu(arch, wide);
                self.narrow.apply(wide, narrow);
                self.narrow_norm.apply_sum(arch, x, narrow);
            },
        );
    }

    /// How many of `values` hidden values go together: blocks of about the same size, and enough for all threads.
    fn block(&self, values: usize) -> usize {
        let width = self.narrow.outputs();
        let rows = values / width;
        let blocks = rows.div_ceil(ROWS).next_multiple_of(rayon::current_num_threads());
        rows.div_ceil(blocks).next_multiple_of(TALL) * width
    }
}

/// The linear layers at `parts` as one, each from `from` to `to` values.
fn linear(arch: Arch, parts: &[VarBuilder], from: usize, to: usize) -> Result<Linear> {
    let (mut weight, mut bias) = (Vec::new(), Vec::new());
    for vb in parts {
        weight.extend(flat(&vb.get((to, from), "weight")?)?);
        bias.extend(flat(&vb.get(to, "bias")?)?);
    }
    Ok(Linear::new(arch, &weight, &bias))
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
