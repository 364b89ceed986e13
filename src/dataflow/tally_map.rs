//! A hash map from keys of bytes to tallies, with all keys in one allocation.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::model::{Arena, Span, Tally};

/// Sums tallies by key.
#[derive(Default)]
pub(super) struct TallyMap {
    keys: Arena,
    table: HashTable<(Span, Tally)>,
    hasher: FixedState,
}

impl TallyMap {
    /// Adds `tally` to the key's.
    pub(super) fn add(&mut self, key: &[u8], tally: Tally) {
        use differential_dataflow::difference::Semigroup;
        let hash = self.hasher.hash_one(key);
        match self.table.find_mut(hash, |(span, _)| self.keys.get(*span) == key) {
            Some((_, sum)) => sum.plus_equals(&tally),
            None => {
                let span = self.keys.push(key);
                let (keys, hasher) = (&self.keys, &self.hasher);
                self.table.insert_unique(hash, (span, tally), |(span, _)| hasher.hash_one(keys.get(*span)));
            }
        }
    }

    /// Bytes of the keys.
    pub(super) fn bytes(&self) -> usize {
        self.keys.len()
    }

    /// All keys with their sums, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Tally)> {
        self.table.iter().map(|(span, tally)| (self.keys.get(*span), *tally))
    }
}
