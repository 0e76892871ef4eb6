//! Which pairs are trained on, and in which order.
//!
//! Owns the draw of the held-out pairs and the shuffle of each epoch. Both are functions of the seed: which pairs a step
//! has depends on the number of the step alone, so nothing of the order is saved.

use super::Settings;
use crate::random::Random;

/// The stream of random numbers that the held-out pairs are drawn from.
const HELD_OUT: u64 = 0;
/// The stream of random numbers that epochs are shuffled by.
const EPOCHS: u64 = 1;

/// So many numbers from 0, shuffled (Fisher and Yates 1938).
fn shuffled(count: usize, mut random: Random) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        numbers.swap(last, random.below(last + 1));
    }
    numbers
}

/// Draws the held-out pairs: those to be trained on and those not, each in the order in which they came.
pub(super) fn split<T: Copy>(pairs: &[T], settings: &Settings) -> (Vec<T>, Vec<T>) {
    let mut trained = shuffled(pairs.len(), Random::at(settings.seed, HELD_OUT, 0));
    let mut held_out = trained.split_off(pairs.len() - settings.held_out(pairs.len()));
    trained.sort_unstable();
    held_out.sort_unstable();
    let of = |places: Vec<usize>| places.into_iter().map(|place| pairs[place]).collect();
    (of(trained), of(held_out))
}

/// The order of `count` pairs in batches.
pub(super) struct Order {
    seed: u64,
    count: usize,
    batch: usize,
    /// The epoch that `places` are of.
    epoch: u64,
    places: Vec<usize>,
}

impl Order {
    /// Of so many pairs, of which there is at least one.
    pub(super) fn new(count: usize, settings: &Settings) -> Self {
        let batch = count.min(settings.batch as usize);
        let places = shuffled(count, Random::at(settings.seed, EPOCHS, 0));
        Self { seed: settings.seed, count, batch, epoch: 0, places }
    }

    /// Steps of an epoch.
    pub(super) fn steps(&self) -> u64 {
        (self.count / self.batch) as u64
    }

    /// The pairs of a step, by their places.
    pub(super) fn batch(&mut self, step: u64) -> &[usize] {
        let (epoch, position) = (step / self.steps(), (step % self.steps()) as usize);
        if epoch != self.epoch {
            self.places = shuffled(self.count, Random::at(self.seed, EPOCHS, epoch));
            self.epoch = epoch;
        }
        &self.places[position * self.batch..][..self.batch]
    }
}
