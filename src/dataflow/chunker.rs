//! Builds sorted chunks for the arrangement.
//!
//! In: triples, in any order. Out: chunks of about [`TRIPLES_MAX`], sorted and consolidated, which differential merges.
//! Differential's own chunker sorts only what fits into a page, about a hundred triples; each update would then be moved at nine
//! more levels of merging. State: one chunk. Failure: none.

use std::collections::VecDeque;

use differential_dataflow::difference::{IsZero, Semigroup};
use timely::container::{ContainerBuilder, PushInto};

use super::roll_up::Triple;

/// Triples of a full chunk: a few megabytes.
const TRIPLES_MAX: usize = 1 << 15;

/// Collects triples into sorted chunks.
#[derive(Default)]
pub(super) struct Chunker {
    pending: Vec<Triple>,
    ready: VecDeque<Vec<Triple>>,
    given: Vec<Triple>,
}

impl PushInto<&mut Vec<Triple>> for Chunker {
    fn push_into(&mut self, triples: &mut Vec<Triple>) {
        self.pending.append(triples);
        if self.pending.len() >= TRIPLES_MAX {
            self.sort();
        }
    }
}

impl ContainerBuilder for Chunker {
    type Container = Vec<Triple>;

    fn extract(&mut self) -> Option<&mut Vec<Triple>> {
        self.given = self.ready.pop_front()?;
        Some(&mut self.given)
    }

    fn finish(&mut self) -> Option<&mut Vec<Triple>> {
        self.sort();
        self.extract()
    }
}

impl Chunker {
    /// Sorts small entries with the first bytes of each key, which usually decide the order, and then moves each triple once.
    fn sort(&mut self) {
        let pending = &self.pending;
        let mut order: Vec<(u128, u32)> =
            (0u32..).zip(pending).map(|(index, ((key, ()), _, _))| (prefix(key), index)).collect();
        let rest = |index: u32| {
            let ((key, ()), epoch, _) = &pending[index as usize];
            (key.as_slice(), *epoch)
        };
        order.sort_unstable_by(|(a, i), (b, j)| a.cmp(b).then_with(|| rest(*i).cmp(&rest(*j))));
        let mut sorted: Vec<Triple> = Vec::with_capacity(order.len());
        for (_, index) in order {
            let (data, epoch, tally) = std::mem::take(&mut self.pending[index as usize]);
            match sorted.last_mut() {
                Some((last, at, sum)) if (&*last, *at) == (&data, epoch) => sum.plus_equals(&tally),
                _ => sorted.push((data, epoch, tally)),
            }
        }
        self.pending.clear();
        sorted.retain(|(_, _, sum)| !sum.is_zero());
        if !sorted.is_empty() {
            self.ready.push_back(sorted);
        }
    }
}

/// The first bytes of a key, as a number that sorts as they do; a shorter key is padded with zeros.
fn prefix(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let len = key.len().min(bytes.len());
    bytes[..len].copy_from_slice(&key[..len]);
    u128::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use differential_dataflow::consolidation::consolidate_updates;
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Key, Tally};

    fn triple() -> impl Strategy<Value = Triple> {
        let key = prop_oneof![prop::collection::vec(0u8..2, 0..4), prop::collection::vec(0u8..2, 15..20)];
        (key, 0u64..3, -1i64..3)
            .prop_map(|(key, epoch, event_count)| ((Key::from_slice(&key), ()), epoch, Tally { event_count }))
    }

    proptest! {
        #[test]
        fn a_chunk_is_sorted_and_consolidated(containers in prop::collection::vec(prop::collection::vec(triple(), 0..80), 0..6)) {
            let mut chunker = Chunker::default();
            let mut expected: Vec<Triple> = containers.iter().flatten().cloned().collect();
            containers.into_iter().for_each(|mut container| chunker.push_into(&mut container));
            let found = chunker.finish().map(std::mem::take).unwrap_or_default();
            consolidate_updates(&mut expected);
            prop_assert_eq!(found, expected);
            prop_assert!(chunker.finish().is_none());
        }
    }

    #[test]
    fn a_full_chunk_leaves() {
        let mut chunker = Chunker::default();
        let of = |number: usize| ((Key::from_slice(&number.to_le_bytes()), ()), 1, Tally { event_count: 1 });
        chunker.push_into(&mut (0..TRIPLES_MAX + 1).map(of).collect());
        let chunk = chunker.extract().expect("full").clone();
        assert_eq!(chunk.len(), TRIPLES_MAX + 1);
        assert!(chunk.is_sorted());
        assert!(chunker.extract().is_none() && chunker.finish().is_none());
    }
}
