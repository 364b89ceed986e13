//! What the comparison has found: in some buckets, and finally in all buckets of all processes.
//!
//! In: changes, one by one, and the findings of other buckets. Out: the files of the dataset, the sums, and the largest changes of each
//! granularity; they do not depend on the order in which buckets are merged. State: sums by granularity, dimension and day, and a few
//! changes of each granularity. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::dataset::{CellFile, CellRef, Change};
use super::summary::{CellChanges, ChangeGroup, Groups, Largest};
use crate::model::Granularity;

/// The number of largest changes kept of each granularity.
const LARGEST: usize = 10;

/// What was found in some buckets.
#[derive(Default, Serialize, Deserialize)]
pub struct Findings {
    /// The files of the dataset.
    pub parts: Vec<CellFile>,
    groups: Groups,
    largest: BTreeMap<Granularity, Vec<Change>>,
}

impl Findings {
    /// Adds what was found in other buckets.
    pub fn merge(&mut self, other: Findings) {
        self.parts.extend(other.parts);
        self.groups.merge(other.groups);
        for (granularity, changes) in other.largest {
            let largest = self.largest.entry(granularity).or_default();
            changes.iter().for_each(|change| push_largest(largest, change, LARGEST));
        }
    }

    /// The result, in the form that the summary has.
    pub fn finish(mut self) -> Compared {
        self.parts.sort_by(|a, b| a.path.cmp(&b.path));
        let largest = self.largest.into_iter();
        Compared {
            parts: self.parts,
            changes: self.groups.changes(),
            groups: self.groups.finish(),
            largest: largest.flat_map(|(of, changes)| changes.into_iter().map(move |it| Largest::of(of, it))).collect(),
        }
    }

    /// Adds one change.
    pub fn add(&mut self, granularity: Granularity, cell: CellRef<'_>, old: i64, new: i64) {
        self.groups.add(granularity, cell.dimension, cell.window_start, old, new);
        let largest = self.largest.entry(granularity).or_default();
        if largest.len() < LARGEST
            || largest.last().is_some_and(|last| (last.new - last.old).abs() <= (new - old).abs())
        {
            push_largest(largest, &Change { cell: cell.to_cell(), old, new }, LARGEST);
        }
    }
}

/// Keeps the largest changes, largest first. Equal ones are ordered by cell, so that the same replay always gives the same result.
pub fn push_largest(largest: &mut Vec<Change>, change: &Change, most: usize) {
    let rank = |change: &Change| std::cmp::Reverse((change.new - change.old).abs());
    let before = |other: &Change| (rank(other), &other.cell) <= (rank(change), &change.cell);
    if largest.len() >= most && largest.last().is_some_and(before) {
        return;
    }
    let at = largest.partition_point(before);
    largest.insert(at, change.clone());
    largest.truncate(most);
}

/// What was found in all buckets.
#[derive(Default)]
pub struct Compared {
    /// The files of the dataset.
    pub parts: Vec<CellFile>,
    /// Changes by granularity, dimension and day.
    pub groups: Vec<ChangeGroup>,
    /// The largest changes, some of each granularity.
    pub largest: Vec<Largest>,
    /// The number of changes.
    pub changes: CellChanges,
}
