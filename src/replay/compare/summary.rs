//! What a replay found, in numbers.
//!
//! In: changes of cells. Out: `replays/<id>/summary.json`: sums by granularity, dimension and day, the largest changes, rows by
//! outcome, the names of the dataset's files. It is written last, and once: with it a replay is complete; a second run of the same
//! replay takes the summary that is there. State: a sum for each granularity, dimension and day.

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
    /// There is no row now.
    pub added: u64,
    /// There is a row, and it would count something else.
    pub changed: u64,
    /// There would be no row any more.
    pub removed: u64,
}

impl CellChanges {
    /// Takes in one change.
    pub fn add(&mut self, old: i64, new: i64) {
        match (old, new) {
            (0, _) => self.added += 1,
            (_, 0) => self.removed += 1,
            _ => self.changed += 1,
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.added + self.changed + self.removed
    }

    /// Adds another's.
    pub fn merge(&mut self, other: CellChanges) {
        self.added += other.added;
        self.changed += other.changed;
        self.removed += other.removed;
    }
}

/// Changes of one granularity, dimension and day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeGroup {
    /// The granularity.
    pub granularity: Granularity,
    /// The dimension.
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

/// GroupSums of changes by granularity, dimension and day.
#[derive(Default, Serialize, Deserialize)]
pub struct Groups(Vec<(Granularity, String, HashMap<TimeUs, GroupSums, FixedState>)>);

/// How many, what they count now, what they would count.
type GroupSums = (CellChanges, i64, i64);

impl Groups {
    /// Takes in one change.
    pub fn add(&mut self, granularity: Granularity, dimension: &str, window_start: TimeUs, old: i64, new: i64) {
        let (changes, old_sum, new_sum) =
            self.days(granularity, dimension).entry(Period::Day.start(window_start)).or_default();
        changes.add(old, new);
        *old_sum += old;
        *new_sum += new;
    }

    /// Of granularities and dimensions there are few.
    fn days(&mut self, granularity: Granularity, dimension: &str) -> &mut HashMap<TimeUs, GroupSums, FixedState> {
        let found = self.0.iter().position(|(of, name, _)| *of == granularity && name == dimension);
        let at = found.unwrap_or_else(|| {
            self.0.push((granularity, dimension.to_owned(), HashMap::default()));
            self.0.len() - 1
        });
        &mut self.0[at].2
    }

    /// Adds another's.
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

    /// All of them.
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
    /// A change, as the summary has it.
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

/// Rows of `raw` whose outcome is another one now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeChange {
    /// On arrival: counted, filtered, or rejected with its reason.
    pub on_arrival: String,
    /// With the replay's logic.
    pub now: String,
    /// How many.
    pub rows: u64,
}

/// What a replay found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Cells that change.
    pub cells: CellChanges,
    /// The same by granularity, dimension and day.
    pub groups: Vec<ChangeGroup>,
    /// The largest changes, of the finest windows.
    pub largest: Vec<Largest>,
    /// Rows of `raw` in range: of all customers, also where only some are recounted.
    pub rows_in_range: u64,
    /// Of them, those that count.
    pub rows_counted: u64,
    /// Rows whose outcome is another one now: of all customers, as a rejected row has none.
    pub outcomes: Vec<OutcomeChange>,
    /// Windows that lie only partly in the range.
    pub partly: Vec<Partly>,
    /// How often memory was full and sorted runs went to the store.
    pub spilled: u64,
    /// The files of the dataset.
    pub parts: Vec<CellFile>,
    /// Paths of the files with the rows whose outcome is another one.
    #[serde(default)]
    pub rows: Vec<String>,
}

impl Summary {
    /// The summary of a replay; `None` while it is not complete.
    ///
    /// # Errors
    /// [`TableError::Storage`]; [`TableError::Corrupt`] when it can not be read.
    pub async fn load(root: &Root, id: &str) -> Result<Option<Summary>, TableError> {
        load_json(root, &Submission::path(id, "summary.json")).await
    }

    /// Writes it: the replay is complete. Where there is one already, that one is returned: another run of the replay was faster.
    ///
    /// # Errors
    /// As [`Summary::load`].
    pub async fn store(self, root: &Root, id: &str) -> Result<Summary, TableError> {
        let path = Submission::path(id, "summary.json");
        let bytes = serde_json::to_vec_pretty(&self).expect("a summary is made of texts, numbers and lists");
        if create_file(root.store().as_ref(), &path, Bytes::from(bytes)).await? {
            return Ok(self);
        }
        // Ours too, where the answer to the first try was lost.
        Ok(Summary::load(root, id).await?.unwrap_or(self))
    }
}
