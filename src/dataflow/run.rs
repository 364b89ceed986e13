//! A sorted run of one lane's updates: `pending` holds runs, and `plan` divides them among files.
//!
//! In: updates, in ascending order of their keys. Out: key and tally by index; the range of each granularity and bucket; two runs
//! merged into one, where the tallies of equal keys are summed and sums of zero are left out. A key is granularity, bucket and
//! cell, as bytes that sort in the order of the files. State: two allocations, one for all keys and one for all tallies, so
//! millions of updates cost little more than their own bytes. No I/O.

use std::cmp::Ordering;
use std::ops::Range;

use differential_dataflow::difference::{IsZero, Semigroup};

use crate::model::{Granularity, Tally};

/// Bytes of a key before the cell: granularity, bucket.
const GROUP: usize = 1 + 2;

/// Bytes of an update's key that a run's key leaves out: the target.
const TARGET: usize = 1;

/// A merged run has at most this many bytes. While it is built, it and its two sources are in memory.
const MERGED_BYTES_MAX: usize = 32 << 20;

/// Updates of one lane, sorted.
#[derive(Debug, Default)]
pub struct Run {
    keys: Vec<u8>,
    updates: Vec<(usize, Tally)>,
}

impl Run {
    /// The head of a key whose granularity and bucket do not matter.
    pub const HEAD: [u8; GROUP] = [0; GROUP];

    /// The head of a key: the number of a granularity, or another number that the run's owner chooses, and a bucket.
    pub fn group(number: u8, bucket: u16) -> [u8; GROUP] {
        let [high, low] = bucket.to_be_bytes();
        [number, high, low]
    }

    /// The part of an update's key that a run keeps: all but the target.
    pub fn key_of(key: &[u8]) -> &[u8] {
        &key[TARGET..]
    }

    /// Appends an update; its key must sort after the last one.
    pub fn push(&mut self, key: &[u8], tally: Tally) {
        self.keys.extend_from_slice(key);
        self.updates.push((self.keys.len(), tally));
    }

    /// Frees memory that is allocated but not used.
    pub fn shrink(&mut self) {
        self.keys.shrink_to_fit();
        self.updates.shrink_to_fit();
    }

    /// Bytes of memory that the run holds.
    pub fn bytes(&self) -> usize {
        self.keys.capacity() + self.updates.capacity() * size_of::<(usize, Tally)>()
    }

    /// Number of updates.
    pub fn len(&self) -> usize {
        self.updates.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.updates.is_empty()
    }

    /// The key of an update.
    pub fn key(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.updates[index - 1].0 };
        &self.keys[start..self.updates[index].0]
    }

    /// The cell of an update.
    pub fn cell(&self, index: usize) -> &[u8] {
        &self.key(index)[GROUP..]
    }

    /// The tally of an update.
    pub fn tally(&self, index: usize) -> Tally {
        self.updates[index].1
    }

    /// The range of the updates of each granularity and bucket.
    pub fn groups(&self) -> Vec<(Granularity, u16, Range<usize>)> {
        let of = |(number, bucket, range)| (Granularity::ALL[usize::from(number)], bucket, range);
        self.groups_by_number().into_iter().map(of).collect()
    }

    /// As [`Run::groups`], with the numbers that [`Run::group`] was given.
    pub fn groups_by_number(&self) -> Vec<(u8, u16, Range<usize>)> {
        let mut groups = Vec::new();
        let mut from = 0;
        while from < self.len() {
            let head = &self.key(from)[..GROUP];
            let to = from + partition_point(self.len() - from, |step| &self.key(from + step)[..GROUP] == head);
            groups.push((head[0], u16::from_be_bytes([head[1], head[2]]), from..to));
            from = to;
        }
        groups
    }

    /// Whether a run and the next one should be merged: their lengths are similar, so that each update is merged a logarithmic
    /// number of times, and together they are not too large.
    pub fn merges_with(&self, next: &Run) -> bool {
        next.len() * 2 > self.len() && self.bytes() + next.bytes() <= MERGED_BYTES_MAX
    }

    /// Two runs merged into one; sums of zero are left out.
    pub fn merged(a: &Run, b: &Run) -> Run {
        let mut run = Run::default();
        run.keys.reserve_exact(a.keys.len() + b.keys.len());
        run.updates.reserve_exact(a.len() + b.len());
        let (mut i, mut j) = (0, 0);
        while i < a.len() || j < b.len() {
            let order = match (i < a.len(), j < b.len()) {
                (true, true) => a.key(i).cmp(b.key(j)),
                (true, false) => Ordering::Less,
                _ => Ordering::Greater,
            };
            let (key, mut tally) = if order.is_le() { (a.key(i), a.tally(i)) } else { (b.key(j), b.tally(j)) };
            if order.is_eq() {
                tally.plus_equals(&b.tally(j));
            }
            i += usize::from(order.is_le());
            j += usize::from(order.is_ge());
            if !tally.is_zero() {
                run.push(key, tally);
            }
        }
        run.shrink();
        run
    }
}

/// The first index of `0..len` at which `holds` is no longer true.
fn partition_point(len: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn run(updates: &BTreeMap<Vec<u8>, i64>) -> Run {
        let mut run = Run::default();
        updates.iter().for_each(|(key, count)| run.push(key, Tally { event_count: *count }));
        run
    }

    fn updates() -> impl Strategy<Value = BTreeMap<Vec<u8>, i64>> {
        prop::collection::btree_map(
            (0u8..6, 0u8..3, prop::collection::vec(any::<u8>(), 0..4))
                .prop_map(|(granularity, bucket, cell)| [&[granularity, 0, bucket], &cell[..]].concat()),
            prop_oneof![Just(-1i64), Just(1), Just(2)],
            0..40,
        )
    }

    proptest! {
        #[test]
        fn merged_is_the_sum(a in updates(), b in updates()) {
            let merged = Run::merged(&run(&a), &run(&b));
            let mut sum = a;
            for (key, count) in b {
                *sum.entry(key).or_default() += count;
            }
            sum.retain(|_, count| *count != 0);
            let found: Vec<_> =
                (0..merged.len()).map(|index| (merged.key(index).to_vec(), merged.tally(index).event_count)).collect();
            prop_assert_eq!(&found, &sum.into_iter().collect::<Vec<_>>());
            let mut at = 0;
            for (granularity, bucket, range) in merged.groups() {
                prop_assert_eq!(range.start, at);
                at = range.end;
                for index in range {
                    prop_assert_eq!(&merged.key(index)[..GROUP], &[granularity as u8, 0, bucket as u8][..]);
                }
            }
            prop_assert_eq!(at, merged.len());
        }
    }
}
