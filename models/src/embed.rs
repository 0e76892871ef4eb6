//! Sentence embeddings by models of the BERT family, such as all-MiniLM-L6-v2.
//!
//! Owns the network and its threads, takes token ids and gives unit vectors: the mean of the last hidden states over an
//! input's own tokens, divided by its length. Outputs come in the order of the inputs and do not depend on what else is
//! in the batch, but for rounding on a card. It does not tokenise (that is a CPU stage, [`Tokens`](crate::Tokens)) and picks no device by itself.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use forebay::{Admit, Batching, Collated, Context, Error, Launched, Model, OutOfMemory, Result};

use crate::bert::transfer::{Courier, Flight};
use crate::bert::{self, card, cpu};
use crate::device::room_for;
use crate::lanes::Lanes;
use crate::plan::{Piece, Plan};
use crate::{DeviceChoice, TokenIds, Weights, classify};

/// Tokens of one piece of work on one core: enough rows for the matrix products, and few enough that no core waits
/// long for the last piece of a batch.
const PIECE_TOKENS: usize = 256;
/// Below this a piece is not worth a lane of its own.
const SMALL_PIECE_TOKENS: usize = 128;

/// Inputs of the batches that a card is warmed up with, of [`SMALL_PIECE_TOKENS`] tokens each: for other sizes cuBLAS may
/// take other kernels, and loads them when they are first used.
const CARD_WARM_UPS: [usize; 6] = [1, 4, 16, 64, 256, 512];

/// A BERT-like network with mean pooling and L2 norm; a [`Model`] from token ids to `hidden_size` values.
///
/// An input weighs as many as it has tokens. Nothing is padded, so `Batching` need not be told so.
///
/// On the CPU it computes in single precision. On a card it computes in half precision with sums in single precision,
/// on kernels of its own for models with heads of 32 or 64 values and at most 1,024 values a token; others, and single
/// precision there, are left to candle's model, for which a batch is padded to its longest input.
pub struct Embedder {
    network: Network,
    vocabulary: usize,
    longest: usize,
    width: usize,
}

enum Network {
    /// The fused encoder, pieces of a batch side by side on the cores.
    Fused { encoder: cpu::Encoder, lanes: Lanes },
    /// The encoder for cards, a batch at a time without padding.
    Packed { encoder: card::Encoder, courier: Courier },
    /// candle-transformers' model, a batch at a time.
    Padded { model: BertModel, device: Device },
}

impl Embedder {
    /// Builds the network from `weights` on `device`: in half precision on a card; on [`Device::Cpu`] in single, with a
    /// thread for every core that this process may use.
    ///
    /// # Errors
    /// `Failed`, naming the file: a configuration that is not BERT's, a tensor that is missing or of another shape or
    /// type than the configuration says. `Fatal` if the weights are too large for what is free of a card's memory, which
    /// is looked at before any of them is copied. Else as [`classify`] says.
    pub fn load(weights: &Weights, device: &Device) -> Result<Self> {
        Self::load_with(weights, device, std::thread::available_parallelism().map_or(1, |n| n.get()))
    }

    /// As [`Embedder::load`], with `threads` threads on the CPU (at least one; other devices use none).
    pub fn load_with(weights: &Weights, device: &Device, threads: usize) -> Result<Self> {
        let config = config(weights)?;
        if device.is_cuda() && card::Encoder::supports(&config) {
            return Self::load_packed(weights, device, DType::F16, false);
        }
        if !device.is_cpu() || !cpu::Encoder::supports(&config) {
            return Self::load_padded(weights, device);
        }
        let vb = tensors(weights, DType::F32, device)?;
        let encoder = cpu::Encoder::load(&vb, &config).context("loading the BERT encoder")?;
        Ok(Self::new(Network::Fused { encoder, lanes: Lanes::new(threads.max(1))? }, &config))
    }

    /// candle-transformers' model on any device, in single precision: what the other networks are held against.
    #[doc(hidden)]
    pub fn load_padded(weights: &Weights, device: &Device) -> Result<Self> {
        let config = config(weights)?;
        let vb = tensors(weights, DType::F32, device)?;
        let model = BertModel::load(vb, &config).map_err(classify).context("loading the BERT encoder")?;
        Ok(Self::new(Network::Padded { model, device: device.clone() }, &config))
    }

    /// The encoder for cards, on any device. `plain`: without pinned memory and streams for copies.
    #[doc(hidden)]
    pub fn load_packed(weights: &Weights, device: &Device, dtype: DType, plain: bool) -> Result<Self> {
        let config = config(weights)?;
        let vb = tensors(weights, dtype, device)?;
        let encoder = card::Encoder::load(&vb, &config).map_err(classify).context("loading the BERT encoder")?;
        let courier = Courier::new(device, plain).map_err(classify).context("making streams for copies")?;
        Ok(Self::new(Network::Packed { encoder, courier }, &config))
    }

    fn new(network: Network, config: &Config) -> Self {
        Self {
            network,
            vocabulary: config.vocab_size,
            longest: config.max_position_embeddings,
            width: config.hidden_size,
        }
    }

    /// Batches that keep the device busy: of at most 1,024 inputs or 65,536 tokens on a card, 64 or 16,384 on the CPU.
    pub fn batching(device: DeviceChoice) -> Batching {
        match device.is_card() {
            true => Batching::items(1024).weight(65_536),
            false => Batching::items(64).weight(16_384),
        }
    }

    /// How many values a vector has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Why this input cannot be embedded, if so.
    fn refusal(&self, input: &TokenIds) -> Option<Error> {
        let n = input.len();
        if n == 0 {
            return Some(Error::invalid("an input without tokens has no embedding"));
        }
        if n > self.longest {
            return Some(Error::invalid(format!("an input of {n} tokens: the model takes at most {}", self.longest)));
        }
        let unknown = input.as_slice().iter().find(|id| **id as usize >= self.vocabulary)?;
        Some(Error::invalid(format!(
            "token {unknown} is not in the model's vocabulary of {}: were the ids made with its own tokenizer.json?",
            self.vocabulary
        )))
    }

    /// Begins a batch: all of it is launched on a card, and nothing is done yet elsewhere.
    fn begin(&mut self, plan: Plan) -> Result<Begun> {
        let flight = match &mut self.network {
            Network::Packed { encoder, courier } if plan.len() > 0 => {
                let mut flight = courier.send(plan.packing())?;
                let vectors = encoder.forward(&flight.packed(plan.packing()))?;
                courier.bring(&mut flight, vectors)?;
                Some(flight)
            }
            _ => None,
        };
        Ok(Begun { plan, flight })
    }

    /// Runs a batch twice, both at once on a card, so that the memory for two is there.
    fn run_two(&mut self, inputs: &[TokenIds]) -> Result<()> {
        let first = self.launch(inputs, Collated::nothing())?;
        let second = self.launch(inputs, Collated::nothing())?;
        self.finish(inputs, first)?;
        self.finish(inputs, second).map(drop)
    }

    fn end(&mut self, begun: Begun) -> Result<Vec<Vec<f32>>> {
        let Begun { plan, flight } = begun;
        let vectors = match (&mut self.network, flight) {
            (Network::Packed { courier, .. }, Some(flight)) => courier.fetch(flight, self.width)?,
            (Network::Packed { .. }, None) => Vec::new(),
            (Network::Fused { encoder, lanes }, _) => {
                let fair = plan.tokens().div_ceil(2 * lanes.len());
                let pieces = plan.pieces(fair.clamp(SMALL_PIECE_TOKENS, PIECE_TOKENS));
                lanes.run(&pieces, |piece| fused(encoder, piece))?.concat()
            }
            (Network::Padded { model, device }, _) => {
                let whole = plan.pieces(usize::MAX);
                whole.iter().map(|piece| padded(model, device, piece)).collect::<Result<Vec<_>>>()?.concat()
            }
        };
        if vectors.iter().flatten().any(|value| !value.is_finite()) {
            return Err(Error::failed("the model gave values that are not numbers: its weights may be damaged"));
        }
        Ok(plan.restore(vectors))
    }
}

/// A batch that was begun.
struct Begun {
    plan: Plan,
    /// On a card, or on its way back from it.
    flight: Option<Flight>,
}

impl Model for Embedder {
    type Input = TokenIds;
    type Output = Vec<f32>;

    const COLLATES: bool = true;

    fn infer(&mut self, inputs: &[TokenIds]) -> Result<Vec<Vec<f32>>> {
        self.infer_collated(inputs, Collated::nothing())
    }

    fn weight(input: &TokenIds) -> usize {
        input.len()
    }

    fn warm_up(&mut self) -> Result<()> {
        let input = TokenIds::new(vec![0; self.longest.min(SMALL_PIECE_TOKENS)]);
        let sizes: &[usize] = match &self.network {
            Network::Packed { courier, .. } if courier.goes_to_a_card() => &CARD_WARM_UPS,
            _ => &[4],
        };
        for size in sizes {
            match self.run_two(&vec![input.clone(); *size]) {
                // What is too large for this card now is halved when it comes.
                Err(why) if why.find::<OutOfMemory>().is_some() && *size > 1 => break,
                ran => ran?,
            }
        }
        Ok(())
    }

    fn admit(&mut self, input: &TokenIds) -> Admit {
        self.refusal(input).map_or(Admit::Now, Admit::Never)
    }

    fn collate(inputs: &[TokenIds]) -> Result<Collated> {
        Ok(Collated::new(Plan::of(inputs)))
    }

    fn infer_collated(&mut self, inputs: &[TokenIds], collated: Collated) -> Result<Vec<Vec<f32>>> {
        let launched = self.launch(inputs, collated)?;
        self.finish(inputs, launched)
    }

    const LAUNCHES: bool = true;

    fn launch(&mut self, inputs: &[TokenIds], collated: Collated) -> Result<Launched> {
        if let Some(refusal) = inputs.iter().find_map(|input| self.refusal(input)) {
            return Err(refusal);
        }
        let plan = collated.take::<Plan>().filter(|plan| plan.len() == inputs.len());
        let begun = self.begin(plan.unwrap_or_else(|| Plan::of(inputs)));
        begun.map(Launched::new).map_err(classify)
    }

    fn finish(&mut self, inputs: &[TokenIds], launched: Launched) -> Result<Vec<Vec<f32>>> {
        match launched.take::<Begun>() {
            Some(begun) => self.end(begun).map_err(classify),
            None => self.infer(inputs),
        }
    }
}

/// The tensors of the encoder.
fn tensors(weights: &Weights, dtype: DType, device: &Device) -> Result<VarBuilder<'static>> {
    room_for(weights.bytes_while_loading(dtype), device)?;
    let vb = weights.map(dtype, device)?;
    Ok(if prefixed(weights) { vb.pp("bert") } else { vb })
}

/// The configuration, held against the tensors.
fn config(weights: &Weights) -> Result<Config> {
    let config: Config = weights.config()?;
    if config.num_attention_heads == 0 || !config.hidden_size.is_multiple_of(config.num_attention_heads) {
        return Err(Error::failed(format!(
            "config.json: hidden_size {} cannot be shared by {} attention heads",
            config.hidden_size, config.num_attention_heads
        )));
    }
    let prefix = if prefixed(weights) { "bert." } else { "" };
    for (name, shape) in bert::tensors(&config) {
        weights.expect(&format!("{prefix}{name}"), &shape)?;
    }
    Ok(config)
}

/// Some repositories keep the encoder under the prefix `bert.`.
fn prefixed(weights: &Weights) -> bool {
    weights.has("bert.embeddings.word_embeddings.weight")
}

/// The unit vectors of a piece, by the fused encoder.
fn fused(encoder: &cpu::Encoder, piece: &Piece<'_>) -> Result<Vec<Vec<f32>>> {
    let hidden = encoder.forward(piece.ids, piece.lengths)?;
    let width = hidden.len() / piece.ids.len();
    let mut from = 0;
    let vectors = piece.lengths.iter().map(|n| {
        let to = from + n * width;
        let mut vector = vec![0f32; width];
        for token in hidden[from..to].chunks_exact(width) {
            vector.iter_mut().zip(token).for_each(|(sum, x)| *sum += x);
        }
        from = to;
        // The mean's divisor falls out of the norm. Bounded below as sentence-transformers bounds it.
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        vector.iter_mut().for_each(|x| *x /= norm);
        vector
    });
    Ok(vectors.collect())
}

/// The unit vectors of a piece, padded to its longest input, by candle-transformers' model.
fn padded(model: &BertModel, device: &Device, piece: &Piece<'_>) -> Result<Vec<Vec<f32>>> {
    let (rows, columns) = (piece.lengths.len(), piece.lengths.iter().copied().max().unwrap_or(0));
    let mut ids = Vec::with_capacity(rows * columns);
    let mut mask = Vec::with_capacity(rows * columns);
    let mut left = piece.ids;
    for n in piece.lengths {
        let (own, rest) = left.split_at(*n);
        left = rest;
        ids.extend_from_slice(own);
        mask.resize(ids.len(), 1f32);
        ids.resize(ids.len() + columns - n, 0);
        mask.resize(ids.len(), 0f32);
    }
    let ids = Tensor::from_vec(ids, (rows, columns), device)?;
    let mask = Tensor::from_vec(mask, (rows, columns), device)?;
    let hidden = model.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
    let sums = hidden.broadcast_mul(&mask.unsqueeze(2)?)?.sum(1)?;
    let norms = sums.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)?;
    Ok(sums.broadcast_div(&norms)?.to_vec2()?)
}
