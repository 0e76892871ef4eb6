//! A batch as the kernels on a card read it: numbers in one buffer, so that one copy brings it there.
//!
//! Owns the layout of that buffer. It is made off the device's thread and knows no device.

/// Rows of a sequence that one block of the attention kernel computes; kernels/attention.cuh has the same number.
pub(crate) const TILE: usize = 64;

/// Sequences end to end: token ids, each token's position in its sequence, the tiles of the attention, each a sequence's
/// number and its first row there, and where sequences start (and the last one ends).
pub(crate) struct Packing {
    words: Vec<u32>,
    tokens: usize,
    sequences: usize,
    tiles: usize,
}

/// Which part of the buffer: its first number, and how many.
pub(crate) type Part = (usize, usize);

impl Packing {
    /// `ids` end to end, `lengths` how many belong to each sequence.
    pub(crate) fn of(ids: &[u32], lengths: &[usize]) -> Self {
        let tiles: usize = lengths.iter().map(|n| n.div_ceil(TILE)).sum();
        let mut words = Vec::with_capacity(2 * ids.len() + lengths.len() + 1 + 2 * tiles);
        words.extend_from_slice(ids);
        words.extend(lengths.iter().flat_map(|n| 0..*n as u32));
        for (sequence, n) in lengths.iter().enumerate() {
            words.extend((0..*n).step_by(TILE).flat_map(|row| [sequence as u32, row as u32]));
        }
        let mut start = 0;
        words.push(start);
        words.extend(lengths.iter().map(|n| {
            start += *n as u32;
            start
        }));
        Packing { words, tokens: ids.len(), sequences: lengths.len(), tiles }
    }

    /// The buffer.
    pub(crate) fn words(&self) -> &[u32] {
        &self.words
    }

    /// Token ids.
    pub(crate) fn ids(&self) -> Part {
        (0, self.tokens)
    }

    /// Positions of the tokens in their sequences.
    pub(crate) fn places(&self) -> Part {
        (self.tokens, self.tokens)
    }

    /// Pairs of numbers, one pair for each tile. They begin at an even place, so that a kernel can read pairs at once.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only the kernel works by tiles"))]
    pub(crate) fn tiles(&self) -> Part {
        (2 * self.tokens, 2 * self.tiles)
    }

    /// Where the sequences start, and the end of the last.
    pub(crate) fn starts(&self) -> Part {
        (2 * (self.tokens + self.tiles), self.sequences + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_holds_what_the_kernels_read() {
        let lengths = [130, 64, 1];
        let ids: Vec<u32> = (1000..1195).collect();
        let packing = Packing::of(&ids, &lengths);
        let part = |(from, count): Part| &packing.words()[from..from + count];
        assert_eq!(part(packing.ids()), ids);
        let places: Vec<u32> = (0..130).chain(0..64).chain(0..1).collect();
        assert_eq!(part(packing.places()), places);
        assert_eq!(part(packing.starts()), [0, 130, 194, 195]);
        assert_eq!(part(packing.tiles()), [0, 0, 0, 64, 0, 128, 1, 0, 2, 0]);
    }

    #[test]
    fn an_empty_batch_has_no_tiles() {
        let packing = Packing::of(&[], &[]);
        assert_eq!((packing.tiles(), packing.starts()), ((0, 0), (0, 1)));
    }
}
