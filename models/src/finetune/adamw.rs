//! The optimiser AdamW, whose memory can be saved.
//!
//! Owns the two moments and the number of steps; candle-nn's hides them. It neither holds the weights nor knows the rate:
//! both are handed in.

use candle_core::{Result, Tensor};

use super::Settings;

/// Adam with decoupled weight decay: Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2; its moments are those of
/// Kingma and Ba 2015 (arXiv:1412.6980).
pub(super) struct AdamW {
    /// The mean of the gradient.
    pub(super) first: Tensor,
    /// The mean of its square.
    pub(super) second: Tensor,
    /// Steps that were made.
    pub(super) step: u64,
}

impl AdamW {
    /// Before the first step, of weights that look like these.
    pub(super) fn new(weights: &Tensor) -> Result<Self> {
        Ok(Self { first: weights.zeros_like()?, second: weights.zeros_like()?, step: 0 })
    }

    /// The weights after one more step along `gradient`, at this learning rate.
    pub(super) fn update(
        &mut self,
        weights: &Tensor,
        gradient: &Tensor,
        rate: f64,
        settings: &Settings,
    ) -> Result<Tensor> {
        let Settings { beta1, beta2, epsilon, decay, .. } = *settings;
        let step = self.step + 1;
        let first = ((&self.first * beta1)? + (gradient * (1.0 - beta1))?)?;
        let second = ((&self.second * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
        // Both begin at zero; this is what they lack for it.
        let [lack1, lack2] = [beta1, beta2].map(|beta| 1.0 - beta.powi(i32::try_from(step).unwrap_or(i32::MAX)));
        let direction = ((&first / lack1)? / ((&second / lack2)?.sqrt()? + epsilon)?)?;
        let updated = ((weights * (1.0 - rate * decay))? - (direction * rate)?)?;
        (self.first, self.second, self.step) = (first, second, step);
        Ok(updated)
    }
}

/// How long a gradient is.
pub(super) fn length(gradient: &Tensor) -> Result<f64> {
    let square: f32 = gradient.sqr()?.sum_all()?.to_scalar()?;
    Ok(f64::from(square).sqrt())
}
