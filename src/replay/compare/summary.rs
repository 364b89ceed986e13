//! The summary of a replay: what it found, in numbers.
//!
//! In: changes of cells. Out: `replays/<id>/summary.json`: sums by granularity, dimension and day, the largest changes, rows by outcome,
//! and the names of the dataset's files. It is written last and only once: a replay with a summary is complete, and a second run of the
//! same replay uses the existing summary. State: a sum for each granularity, dimension and day.

use std::collections::HashMap;

use bytes::Bytes;
use foldhash::fast::FixedState;
use serde::{Deserialize, Serialize};

use super::dataset::{CellFile, Change};
use crate::model::{Granularity, Period, TimeUs, rfc3339};
use crate::replay::request::coverage::Partly;
use crate::replay::request::submission::Submission;
use crate::table::store::{create_file, load_json};
use crate::table::{Root, TableError};

/// How many cells change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellChanges {
    /// Cells that have no row now.
    pub added: u64,
    /// Cells that have a row, and would have another count.
    pub changed: u64,
    /// Cells that would no longer have a row.
    pub removed: u64,
}

impl CellChanges {
    /// Adds one change.
    pub fn add(&mut self, old: i64, new: i64) {
        match (old, new) {
            (0, _) => self.added += 1,
            (_, 0) => self.removed += 1,
            _ => self.changed += 1,
        }
    }

    /// The total.
    pub fn total(&self) -> u64 {
        self.added + self.changed + self.removed
    }

    /// Adds the numbers of another.
    pub fn merge(&mut self, other: CellChanges) {
        self.added += other.added;
        self.changed += other.changed;
        self.removed += other.removed;
    }
}

/// The changes of one granularity, dimension and day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeGroup {
    /// The granularity.
    pub granularity: Granularity,
    /// The name of the dimension.
    pub dimension: String,
    /// The day in which the windows begin, as 2026-01-13.
    pub day: String,
    /// How many cells change.
    #[serde(flatten)]
    pub changes: CellChanges,
    /// Sum of what they count now.
    pub old_count: i64,
    /// Sum of what they would count.
    pub new_count: i64,
}

/// The sums of changes by granularity, dimension and day.
#[derive(Default, Serialize, Deserialize)]
pub struct Groups(Vec<(Granularity, String, HashMap<TimeUs, GroupSums, FixedState>)>);

/// The number of changes, the sum of the old counts, the sum of the new counts.
type GroupSums = (CellChanges, i64, i64);

impl Groups {
    /// Adds one change.
    pub fn add(&mut self, granularity: Granularity, dimension: &str, window_start: TimeUs, old: i64, new: i64) {
        let (changes, old_sum, new_sum) =
            self.days(granularity, dimension).entry(Period::Day.start(window_start)).or_default();
        changes.add(old, new);
        *old_sum += old;
        *new_sum += new;
    }

    /// The sums of a granularity and dimension. There are few of these, so they are searched in order.
    fn days(&mut self, granularity: Granularity, dimension: &str) -> &mut HashMap<TimeUs, GroupSums, FixedState> {
        let found = self.0.iter().position(|(of, name, _)| *of == granularity && name == dimension);
        let at = found.unwrap_or_else(|| {
            self.0.push((granularity, dimension.to_owned(), HashMap::default()));
            self.0.len() - 1
        });
        &mut self.0[at].2
    }

    /// Adds the sums of another.
    pub fn merge(&mut self, other: Groups) {
        for (granularity, dimension, days) in other.0 {
            let ours = self.days(granularity, &dimension);
            for (day, (changes, old, new)) in days {
                let sums = ours.entry(day).or_default();
                sums.0.merge(changes);
                sums.1 += old;
                sums.2 += new;
            }
        }
    }

    /// The total over all groups.
    pub fn changes(&self) -> CellChanges {
        let mut all = CellChanges::default();
        self.0.iter().flat_map(|(_, _, days)| days.values()).for_each(|(changes, _, _)| all.merge(*changes));
        all
    }

    /// The groups, in order.
    pub fn finish(self) -> Vec<ChangeGroup> {
        let groups = self.0.into_iter().flat_map(|(granularity, dimension, days)| {
            days.into_iter().map(move |(day, (changes, old_count, new_count))| ChangeGroup {
                granularity,
                dimension: dimension.clone(),
                day: Period::Day.label(day),
                changes,
                old_count,
                new_count,
            })
        });
        let mut groups: Vec<_> = groups.collect();
        groups.sort_by(|a, b| (a.granularity, &a.dimension, &a.day).cmp(&(b.granularity, &b.dimension, &b.day)));
        groups
    }
}

/// One of the largest changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Largest {
    /// The granularity.
    pub granularity: Granularity,
    /// The window's start, RFC 3339.
    pub window_start: String,
    /// The customer.
    pub customer_id: String,
    /// The dimension.
    pub dimension: String,
    /// Its value.
    pub dimension_value: String,
    /// What it counts now.
    pub old_count: i64,
    /// What it would count.
    pub new_count: i64,
}

impl Largest {
    /// The form that the summary has of a change.
    pub fn of(granularity: Granularity, change: Change) -> Largest {
        Largest {
            granularity,
            window_start: rfc3339(change.cell.window_start),
            customer_id: change.cell.customer,
            dimension: change.cell.dimension,
            dimension_value: change.cell.value,
            old_count: change.old,
            new_count: change.new,
        }
    }
}

/// Rows of `raw` whose outcome has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeChange {
    /// The outcome on arrival: counted, filtered, or rejected with its reason.
    pub on_arrival: String,
    /// The outcome with the replay's logic.
    pub now: String,
    /// How many rows.
    pub rows: u64,
}

/// What a replay found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many cells change.
    pub cells: CellChanges,
    /// The same by granularity, dimension and day.
    pub groups: Vec<ChangeGroup>,
    /// The largest changes, of the finest granularities.
    pub largest: Vec<Largest>,
    /// Rows of `raw` in range. They are of all customers, even where only some are recounted.
    pub rows_in_range: u64,
    /// Those of them that count.
    pub rows_counted: u64,
    /// Rows whose outcome has changed. They are of all customers, since a rejected row has none.
    pub outcomes: Vec<OutcomeChange>,
    /// Windows that lie only partly in the range.
    pub partly: Vec<Partly>,
    /// How often memory was full, so that sorted runs went to the store.
    pub spilled: u64,
    /// The files of the dataset.
    pub parts: Vec<CellFile>,
    /// Paths of the files with the rows whose outcome has changed.
    #[serde(default)]
    pub rows: Vec<String>,
}

impl Summary {
    /// Reads the summary of a replay; `None` while it is not complete.
    ///
    /// # Errors
    /// [`TableError::Storage`]; [`TableError::Corrupt`] when it can not be read.
    pub async fn load(root: &Root, id: &str) -> Result<Option<Summary>, TableError> {
        load_json(root, &Submission::path(id, "summary.json")).await
    }

    /// Writes the summary: then the replay is complete. If another run has written one before, that one is returned.
    ///
    /// # Errors
    /// As [`Summary::load`].
    pub async fn store(self, root: &Root, id: &str) -> Result<Summary, TableError> {
        let path = Submission::path(id, "summary.json");
        let bytes = serde_json::to_vec_pretty(&self).expect("a summary is made of texts, numbers and lists");
        if create_file(root.store().as_ref(), &path, Bytes::from(bytes)).await? {
            return Ok(self);
        }
        // It may also be our own, if the reply to the first try was lost.
        Ok(Summary::load(root, id).await?.unwrap_or(self))
    }
}
