//! The BERT encoder's forward pass on a card, for sequences of any lengths laid end to end.
//!
//! Owns the weights on the device and launches what a batch needs: matrix products by cuBLAS, through candle, and our
//! own kernels for all between them ([`Steps`]). No padding is computed and no mask is needed. It computes in half
//! precision on a card, with sums in single precision; on the CPU, where its tests run it, in whatever it was loaded as.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{Config, HiddenAct};

use super::steps::{Norm, Steps};
use super::transfer::Packed;

/// Embedding tables and encoder layers.
pub(crate) struct Encoder {
    words: Tensor,
    /// With the embedding of the one token type added.
    positions: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    steps: Steps,
}

struct Layer {
    /// Queries, keys and values, one product.
    qkv: Linear,
    attended: Linear,
    attended_norm: Norm,
    wide: Linear,
    narrow: Linear,
    narrow_norm: Norm,
}

/// A linear layer whose bias is added by the kernel after it.
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Encoder {
    /// Whether the kernels compute what `config` asks for; candle-transformers' model serves the others.
    pub(crate) fn supports(config: &Config) -> bool {
        let (width, heads) = (config.hidden_size, config.num_attention_heads.max(1));
        let sizes = width <= 1024 && width.is_multiple_of(8) && config.intermediate_size.is_multiple_of(8);
        let head = width.is_multiple_of(heads).then(|| width / heads);
        config.hidden_act == HiddenAct::Gelu && sizes && matches!(head, Some(32 | 64))
    }

    /// Reads the weights from `vb`, which stands at the tensors `embeddings.*` and `encoder.*` and has their device
    /// and type.
    pub(crate) fn load(vb: &VarBuilder, config: &Config) -> Result<Self> {
        let width = config.hidden_size;
        let tables = vb.pp("embeddings");
        let types = tables.get((config.type_vocab_size, width), "token_type_embeddings.weight")?;
        let positions = tables.get((config.max_position_embeddings, width), "position_embeddings.weight")?;
        // Every token is of the first type, so its embedding can be added to the positions once and for all.
        let positions = positions.to_dtype(DType::F32)?.broadcast_add(&types.narrow(0, 0, 1)?.to_dtype(DType::F32)?)?;
        Ok(Self {
            words: tables.get((config.vocab_size, width), "word_embeddings.weight")?,
            positions: positions.to_dtype(vb.dtype())?,
            norm: Norm::load(&tables.pp("LayerNorm"), None, config)?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(&vb.pp(format!("encoder.layer.{i}")), config))
                .collect::<Result<_>>()?,
            steps: Steps::new(vb.device(), width, config.num_attention_heads)?,
        })
    }

    /// The unit vectors of the sequences, `hidden_size` values each, in single precision. Only launches: on a card the
    /// values are there when its stream has come so far. Ids and positions must lie in the tables.
    pub(crate) fn forward(&self, batch: &Packed) -> Result<Tensor> {
        let mut x = self.steps.embed(batch, &self.words, &self.positions, &self.norm)?;
        for layer in &self.layers {
            x = layer.forward(batch, &x, &self.steps)?;
        }
        self.steps.pool(batch, &x)
    }
}

impl Layer {
    fn load(vb: &VarBuilder, config: &Config) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let attention = vb.pp("attention");
        let own = attention.pp("self");
        let parts = ["query", "key", "value"].map(|name| own.pp(name));
        let attended = Linear::load(&[attention.pp("output.dense")], width, width)?;
        let narrow = Linear::load(&[vb.pp("output.dense")], inner, width)?;
        Ok(Self {
            qkv: Linear::load(&parts, width, width)?,
            attended_norm: Norm::load(&attention.pp("output.LayerNorm"), Some(&attended.bias), config)?,
            attended,
            wide: Linear::load(&[vb.pp("intermediate.dense")], width, inner)?,
            narrow_norm: Norm::load(&vb.pp("output.LayerNorm"), Some(&narrow.bias), config)?,
            narrow,
        })
    }

    fn forward(&self, batch: &Packed, x: &Tensor, steps: &Steps) -> Result<Tensor> {
        let context = steps.attend(batch, &self.qkv.product(x)?, &self.qkv.bias)?;
        let x = steps.residual_norm(x, self.attended.product(&context)?, &self.attended_norm)?;
        let wide = steps.gelu(self.wide.product(&x)?, &self.wide.bias)?;
        steps.residual_norm(&x, self.narrow.product(&wide)?, &self.narrow_norm)
    }
}

impl Linear {
    /// The linear layers at `parts` as one, each from `from` to `to` values.
    fn load(parts: &[VarBuilder], from: usize, to: usize) -> Result<Self> {
        let weights = parts.iter().map(|vb| vb.get((to, from), "weight")).collect::<Result<Vec<_>>>()?;
        let biases = parts.iter().map(|vb| vb.get(to, "bias")).collect::<Result<Vec<_>>>()?;
        Ok(Linear { weight: Tensor::cat(&weights, 0)?, bias: Tensor::cat(&biases, 0)? })
    }

    fn product(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.weight.t()?)
    }
}
