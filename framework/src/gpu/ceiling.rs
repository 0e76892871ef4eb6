//! How large a model's batches may be while the device has no memory for more, by shape.
//!
//! A shape is the batch's [`Model::key`](crate::Model::key), a size is in the unit in which batches are cut. A batch that
//! ran out of memory puts its shape under a ceiling of half its size. After enough good batches under it the ceiling is
//! doubled, up to the size that had failed; where that passes as often, the ceiling is gone. It promises to keep at most
//! [`MOST_SHAPES`] and knows neither time nor memory: what fits is only ever seen by trying.

/// Good full batches at a ceiling before it is doubled.
const PATIENCE: usize = 64;
/// The most of them: each time that a doubled ceiling proves wrong, twice as many are asked for.
const MOST_PATIENCE: usize = 1024;
/// Shapes that are kept in mind. The one whose failure is longest past is forgotten first; it costs a failed batch.
const MOST_SHAPES: usize = 64;

/// The ceilings of one model, by when they were last found, the newest last.
#[derive(Default)]
pub(crate) struct Ceilings(Vec<Ceiling>);

struct Ceiling {
    key: u64,
    size: usize,
    /// The largest size that has failed.
    failed: usize,
    /// Good full batches since it was last moved.
    good: usize,
    patience: usize,
    /// It was doubled, and nothing has failed since.
    raised: bool,
}

impl Ceilings {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The largest size that batches of this shape may have, if there is a bound.
    pub(crate) fn of(&self, key: u64) -> Option<usize> {
        self.0.iter().find(|ceiling| ceiling.key == key).map(|ceiling| ceiling.size)
    }

    /// Whether a batch of this size is full under the ceiling of its shape, if there is one.
    pub(crate) fn is_reached(&self, key: u64, size: usize) -> Option<bool> {
        let known = self.position(key)?;
        Some(self.0[known].is_reached_by(size))
    }

    /// The lowest of them.
    pub(crate) fn lowest(&self) -> Option<usize> {
        self.0.iter().map(|ceiling| ceiling.size).min()
    }

    /// A batch of several items ran out of memory.
    pub(crate) fn ran_out(&mut self, key: u64, size: usize) {
        let mut ceiling = match self.position(key) {
            Some(known) => self.0.remove(known),
            None => Ceiling::new(key),
        };
        ceiling.lower(size);
        if self.0.len() == MOST_SHAPES {
            self.0.remove(0);
        }
        self.0.push(ceiling);
    }

    /// A batch has passed.
    pub(crate) fn passed(&mut self, key: u64, size: usize) {
        let Some(known) = self.position(key) else {
            return;
        };
        let ceiling = &mut self.0[known];
        if !ceiling.is_reached_by(size) {
            return;
        }
        ceiling.good += 1;
        if ceiling.good < ceiling.patience {
            return;
        }
        if ceiling.size < ceiling.failed {
            ceiling.raise();
        } else {
            self.0.remove(known);
        }
    }

    fn position(&self, key: u64) -> Option<usize> {
        self.0.iter().position(|ceiling| ceiling.key == key)
    }
}

impl Ceiling {
    fn new(key: u64) -> Self {
        Ceiling { key, size: usize::MAX, failed: 0, good: 0, patience: PATIENCE, raised: false }
    }

    /// Items weigh what they weigh, so a full batch may end below the ceiling; but by less than half of it, or else
    /// another item would have had room.
    fn is_reached_by(&self, size: usize) -> bool {
        size > self.size / 2
    }

    fn lower(&mut self, failed: usize) {
        if self.raised {
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
        }
        self.raised = false;
        self.good = 0;
        self.failed = self.failed.max(failed);
        self.size = self.size.min(failed / 2).max(1);
    }

    fn raise(&mut self) {
        self.raised = true;
        self.good = 0;
        self.size = self.size.saturating_mul(2).min(self.failed);
    }
}

#[cfg(test)]
mod tests;
