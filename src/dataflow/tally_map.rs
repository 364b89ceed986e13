//! A hash map from byte keys to tallies, with all keys in one allocation.
//!
//! In: keys and tallies. Out: the sum of each key. Entries stay in the order in which their keys came, and keep their hashes:
//! growing hashes nothing again, and iterating reads memory from front to back. State: the map; its user bounds it by emptying
//! it.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::model::{Arena, Span, Tally};

/// Sums tallies by key.
#[derive(Default)]
pub struct TallyMap {
    keys: Arena,
    entries: Vec<(u64, Span, Tally)>,
    /// Indices into `entries`.
    table: HashTable<u32>,
    hasher: FixedState,
}

impl TallyMap {
    /// Adds `tally` to the sum of `key`.
    pub fn add(&mut self, key: &[u8], tally: Tally) {
        use differential_dataflow::difference::Semigroup;
        let hash = self.hasher.hash_one(key);
        let TallyMap { keys, entries, table, .. } = self;
        let is_it = |at: &u32| {
            let (known, span, _) = &entries[*at as usize];
            *known == hash && keys.get(*span) == key
        };
        match table.find(hash, is_it) {
            Some(at) => entries[*at as usize].2.plus_equals(&tally),
            None => {
                let at = u32::try_from(entries.len()).expect("its user empties it long before");
                entries.push((hash, keys.push(key), tally));
                table.insert_unique(hash, at, |at| entries[*at as usize].0);
            }
        }
    }

    /// Bytes of the keys.
    pub fn bytes(&self) -> usize {
        self.keys.len()
    }

    /// All keys with their sums, in the order in which the keys came.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Tally)> {
        (0..self.len()).map(|at| self.entry(at))
    }

    /// The key with this number, in the order in which keys came, and its sum.
    pub fn entry(&self, at: usize) -> (&[u8], Tally) {
        let (_, span, tally) = self.entries[at];
        (self.keys.get(span), tally)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Removes all entries, and keeps the allocations.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.entries.clear();
        self.table.clear();
    }
}
