//! What a store says of an object's bytes, and the running count that it is compared with.
//!
//! It owns the three cyclic redundancy checks that S3 knows and that can be put together from those of parts, so that
//! parts may come in any order and no byte is read twice. It does not decide what happens to bytes that are wrong.

use std::fmt;

use crc_fast::{CrcAlgorithm, Digest, checksum_combine};

/// A cyclic redundancy check, by S3's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// 64 bits, the one that AWS gives an object that comes with none.
    Crc64Nvme,
    /// 32 bits, Castagnoli's.
    Crc32c,
    /// 32 bits, that of zip and Ethernet.
    Crc32,
}

/// What a store says of an object's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The check of all bytes.
    Whole {
        /// Which check.
        algorithm: Algorithm,
        /// Its value.
        value: u64,
    },
    /// The check of the checks of the object's parts, each as big-endian bytes.
    OfParts {
        /// Which check, of the parts and of their checks.
        algorithm: Algorithm,
        /// Its value.
        value: u64,
        /// Length of each part but the last, in bytes; at least 1.
        part: u64,
    },
}

impl Algorithm {
    /// All of them, the longest first.
    pub const ALL: [Algorithm; 3] = [Algorithm::Crc64Nvme, Algorithm::Crc32c, Algorithm::Crc32];

    /// Its name in lower case, as S3's headers spell it.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Crc64Nvme => "crc64nvme",
            Algorithm::Crc32c => "crc32c",
            Algorithm::Crc32 => "crc32",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    pub(crate) fn of(self, bytes: &[u8]) -> u64 {
        crc_fast::checksum(self.standard(), bytes)
    }

    /// The check of `left` and then `right`, which has `len` bytes.
    pub(crate) fn join(self, left: u64, right: u64, len: u64) -> u64 {
        checksum_combine(self.standard(), left, right, len)
    }

    /// The check as S3 spells it, before base64.
    pub(crate) fn bytes(self, value: u64) -> Vec<u8> {
        let all = value.to_be_bytes();
        match self {
            Algorithm::Crc64Nvme => all.to_vec(),
            Algorithm::Crc32c | Algorithm::Crc32 => all[4..].to_vec(),
        }
    }

    fn standard(self) -> CrcAlgorithm {
        match self {
            Algorithm::Crc64Nvme => CrcAlgorithm::Crc64Nvme,
            Algorithm::Crc32c => CrcAlgorithm::Crc32Iscsi,
            Algorithm::Crc32 => CrcAlgorithm::Crc32IsoHdlc,
        }
    }
}

impl Checksum {
    /// Which check it is.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Checksum::Whole { algorithm, .. } | Checksum::OfParts { algorithm, .. } => *algorithm,
        }
    }

    /// Where counting has to start anew; 0 if nowhere.
    pub(crate) fn part(&self) -> u64 {
        match self {
            Checksum::Whole { .. } => 0,
            Checksum::OfParts { part, .. } => *part,
        }
    }

    /// Whether the object of these bytes is the one that the store means.
    #[cfg(any(test, feature = "s3"))]
    pub(crate) fn holds_all(&self, bytes: &[u8]) -> bool {
        let algorithm = self.algorithm();
        let part = usize::try_from(self.part()).ok().filter(|part| *part > 0).unwrap_or(usize::MAX);
        let crc = |bytes: &[u8]| Crc { algorithm, value: algorithm.of(bytes), len: bytes.len() as u64 };
        self.holds(&bytes.chunks(part).map(crc).collect::<Vec<_>>())
    }

    /// Whether the object of these pieces, in order and without gaps, is the one that the store means.
    pub(crate) fn holds(&self, pieces: &[Crc]) -> bool {
        match *self {
            Checksum::Whole { algorithm, value } => joined(algorithm, pieces).value == value,
            Checksum::OfParts { algorithm, value, part } => {
                let mut parts: Vec<Crc> = Vec::new();
                for piece in pieces {
                    match parts.last_mut() {
                        Some(last) if last.len < part => *last = last.and(*piece),
                        _ => parts.push(*piece),
                    }
                }
                let spelt: Vec<u8> = parts.iter().flat_map(|part| algorithm.bytes(part.value)).collect();
                algorithm.of(&spelt) == value
            }
        }
    }
}

/// Compares bytes that come in order with what a store says of them.
#[derive(Debug)]
pub struct Comparison {
    checksum: Checksum,
    pieces: Vec<Crc>,
    counter: Counter,
}

impl Comparison {
    /// With no bytes yet.
    pub fn with(checksum: Checksum) -> Self {
        Comparison { checksum, pieces: Vec::new(), counter: Counter::new(checksum.algorithm()) }
    }

    /// Takes the next bytes.
    pub fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = match self.checksum.part() {
                0 => u64::MAX,
                part => part - self.counter.len,
            };
            let (now, later) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            self.counter.add(now);
            if now.len() as u64 == room {
                let full = std::mem::replace(&mut self.counter, Counter::new(self.checksum.algorithm()));
                self.pieces.push(full.crc());
            }
            bytes = later;
        }
    }

    /// Whether all the bytes were those that the store means.
    pub fn holds(mut self) -> bool {
        if self.counter.len > 0 {
            self.pieces.push(self.counter.crc());
        }
        self.checksum.holds(&self.pieces)
    }
}

/// The check of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crc {
    /// Which check.
    pub algorithm: Algorithm,
    /// Its value.
    pub value: u64,
    /// Of how many bytes.
    pub len: u64,
}

impl Crc {
    /// The check of these bytes and then `next`'s.
    pub(crate) fn and(self, next: Crc) -> Crc {
        if self.len == 0 {
            return next;
        }
        let value = self.algorithm.join(self.value, next.value, next.len);
        Crc { value, len: self.len + next.len, ..self }
    }
}

/// The check of all pieces, in order.
pub(crate) fn joined(algorithm: Algorithm, pieces: &[Crc]) -> Crc {
    let nothing = Crc { algorithm, value: algorithm.of(&[]), len: 0 };
    pieces.iter().fold(nothing, |all, piece| all.and(*piece))
}

/// Counts bytes as they come.
pub(crate) struct Counter {
    algorithm: Algorithm,
    digest: Digest,
    len: u64,
}

impl Counter {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        Counter { algorithm, digest: Digest::new(algorithm.standard()), len: 0 }
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.len += bytes.len() as u64;
    }

    pub(crate) fn crc(&self) -> Crc {
        Crc { algorithm: self.algorithm, value: self.digest.finalize(), len: self.len }
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.crc().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Algorithm; 3] = Algorithm::ALL;

    fn crc(algorithm: Algorithm, bytes: &[u8]) -> Crc {
        let mut counter = Counter::new(algorithm);
        counter.add(bytes);
        counter.crc()
    }

    /// The check values of the published parameters: <https://reveng.sourceforge.io/crc-catalogue/>.
    #[test]
    fn the_checks_are_the_published_ones() {
        let values = ALL.map(|algorithm| algorithm.of(b"123456789"));
        assert_eq!(values, [0xae8b_1486_0a79_9888, 0xe306_9283, 0xcbf4_3926]);
        assert_eq!(Algorithm::Crc32c.bytes(values[1]), [0xe3, 0x06, 0x92, 0x83]);
        assert_eq!(Algorithm::Crc64Nvme.bytes(values[0]).len(), 8);
    }

    fn compared<'a>(checksum: Checksum, pieces: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let mut comparison = Comparison::with(checksum);
        pieces.into_iter().for_each(|piece| comparison.add(piece));
        comparison.holds()
    }

    proptest! {
        #[test]
        fn pieces_in_any_cut_have_the_check_of_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
            mut cuts in prop::collection::vec(0usize..2000, 0..6),
            part in 1usize..700,
        ) {
            // What is counted in parts is cut at their ends too, as a download does.
            cuts.extend((0..bytes.len()).step_by(part));
            cuts.retain(|cut| *cut <= bytes.len());
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            cuts.dedup();
            for algorithm in ALL {
                let pieces: Vec<Crc> = cuts.windows(2).map(|ends| crc(algorithm, &bytes[ends[0]..ends[1]])).collect();
                let whole = Checksum::Whole { algorithm, value: algorithm.of(&bytes) };
                prop_assert!(whole.holds(&pieces));
                // These may be cut anywhere.
                prop_assert!(compared(whole, bytes.chunks(97)) && whole.holds_all(&bytes));
                let spelt: Vec<u8> =
                    bytes.chunks(part).flat_map(|part| algorithm.bytes(algorithm.of(part))).collect();
                let value = algorithm.of(&spelt);
                let parts = Checksum::OfParts { algorithm, value, part: part as u64 };
                prop_assert!(parts.holds(&pieces));
                prop_assert!(compared(parts, bytes.chunks(97)));
                let other = Checksum::Whole { algorithm, value: algorithm.of(&bytes) ^ 1 };
                prop_assert!(!other.holds(&pieces));
                let other = Checksum::OfParts { algorithm, value: value ^ 1, part: part as u64 };
                prop_assert!(!other.holds(&pieces) && !compared(other, bytes.chunks(97)));
            }
        }
    }
}
