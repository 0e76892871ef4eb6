//! The order in which a batch is computed: longest first, and the pieces it is cut into.
//!
//! Owns token ids laid end to end, sorted by length, and the way back to the order of the inputs. It is made off the
//! device's thread (`Model::collate`) and knows neither model nor threads.

use crate::TokenIds;
use crate::bert::packing::Packing;

/// A batch, ready to be computed.
pub(crate) struct Plan {
    /// The inputs' indices, longest input first; equal lengths stay in order.
    order: Vec<usize>,
    /// The ids of all inputs end to end, in that order.
    ids: Vec<u32>,
    /// How many ids each input has, in that order.
    lengths: Vec<usize>,
    /// All of it for a card.
    packing: Packing,
}

/// Some neighbouring inputs of a plan.
pub(crate) struct Piece<'a> {
    pub ids: &'a [u32],
    pub lengths: &'a [usize],
}

impl Plan {
    pub(crate) fn of(inputs: &[TokenIds]) -> Self {
        let mut order: Vec<usize> = (0..inputs.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(inputs[*i].len()));
        let mut ids = Vec::with_capacity(inputs.iter().map(TokenIds::len).sum());
        order.iter().for_each(|i| ids.extend_from_slice(inputs[*i].as_slice()));
        let lengths: Vec<usize> = order.iter().map(|i| inputs[*i].len()).collect();
        let packing = Packing::of(&ids, &lengths);
        Self { order, ids, lengths, packing }
    }

    /// How many inputs it holds.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// How many tokens it holds.
    pub(crate) fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The whole batch as kernels on a card read it.
    pub(crate) fn packing(&self) -> &Packing {
        &self.packing
    }

    /// Cuts it into pieces of at most `tokens` tokens, or one input where that alone is more.
    pub(crate) fn pieces(&self, tokens: usize) -> Vec<Piece<'_>> {
        let mut pieces = Vec::new();
        let (mut ids, mut lengths) = (self.ids.as_slice(), self.lengths.as_slice());
        while let Some(first) = lengths.first() {
            let (mut held, mut items) = (*first, 1);
            while let Some(next) = lengths.get(items).filter(|next| held + **next <= tokens) {
                held += next;
                items += 1;
            }
            let (own_ids, left_ids) = ids.split_at(held);
            let (own_lengths, left_lengths) = lengths.split_at(items);
            pieces.push(Piece { ids: own_ids, lengths: own_lengths });
            (ids, lengths) = (left_ids, left_lengths);
        }
        pieces
    }

    /// Puts results, one an input in the plan's order, into the order of the inputs.
    pub(crate) fn restore<T>(&self, results: impl IntoIterator<Item = T>) -> Vec<T> {
        let mut pairs: Vec<(usize, T)> = self.order.iter().copied().zip(results).collect();
        pairs.sort_unstable_by_key(|(i, _)| *i);
        pairs.into_iter().map(|(_, result)| result).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(lengths: &[usize]) -> Plan {
        let inputs: Vec<TokenIds> = lengths.iter().map(|n| TokenIds::new(vec![*n as u32; *n])).collect();
        Plan::of(&inputs)
    }

    #[test]
    fn pieces_hold_every_input_once_longest_first() {
        let plan = plan(&[3, 9, 1, 5, 5, 2]);
        let pieces = plan.pieces(8);
        let lengths: Vec<Vec<usize>> = pieces.iter().map(|piece| piece.lengths.to_vec()).collect();
        assert_eq!(lengths, [vec![9], vec![5], vec![5, 3], vec![2, 1]]);
        for piece in &pieces {
            let expected: Vec<u32> = piece.lengths.iter().flat_map(|n| vec![*n as u32; *n]).collect();
            assert_eq!(piece.ids, expected);
        }
        assert_eq!((plan.len(), plan.tokens()), (6, 25));
    }

    #[test]
    fn restore_undoes_the_order() {
        let plan = plan(&[3, 9, 1, 5, 5, 2]);
        let lengths: Vec<usize> = plan.pieces(4).iter().flat_map(|piece| piece.lengths.to_vec()).collect();
        assert_eq!(plan.restore(lengths), [3, 9, 1, 5, 5, 2]);
    }

    #[test]
    fn an_empty_batch_has_no_pieces() {
        assert!(plan(&[]).pieces(8).is_empty());
    }
}
