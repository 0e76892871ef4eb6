//! The checks of bytes as they come, cut where the object's own parts end.

use super::partial::Plan;
use crate::store::checksum::Counter;
use crate::store::{Algorithm, Crc};

/// Where pieces begin, and their checks.
pub(super) type Checks = Vec<(u64, Crc)>;

/// Counts a range, cut where the object's parts end.
pub(super) struct Tally {
    start: u64,
    counter: Counter,
    algorithm: Algorithm,
    part: u64,
    done: Checks,
}

impl Tally {
    pub(super) fn new(start: u64, plan: &Plan) -> Self {
        let (algorithm, part) = (plan.algorithm(), plan.part());
        Tally { start, counter: Counter::new(algorithm), algorithm, part, done: Checks::default() }
    }

    pub(super) fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = seam(self.start, self.part) - self.start - self.counter.crc().len;
            let (now, later) = bytes.split_at(usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len()));
            self.counter.add(now);
            bytes = later;
            if now.len() as u64 == room {
                self.cut();
            }
        }
    }

    fn cut(&mut self) {
        let crc = std::mem::replace(&mut self.counter, Counter::new(self.algorithm)).crc();
        if crc.len > 0 {
            self.done.push((self.start, crc));
            self.start += crc.len;
        }
    }

    pub(super) fn end(mut self) -> Checks {
        self.cut();
        self.done
    }
}

/// Where the part of an object ends that has the byte at `start`.
pub(super) fn seam(start: u64, part: u64) -> u64 {
    start.checked_div(part).map_or(u64::MAX, |parts| (parts + 1).saturating_mul(part))
}
