//! The differences that `verify` finds, and its report.
//!
//! In: differences, one by one: which check failed, where, what was found, and what was expected. Out: [`Report`], as text with a closing
//! sentence or as JSON: how many differences each check found, and the first ones in full. State: counts, and a bounded number of
//! differences for each check, so that a table that is wrong everywhere does not fill the memory. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::key::Cell;
use super::window::WINDOWS;
use crate::ledger::Fingerprint;
use crate::model::rfc3339_us;
use crate::process::Exit;
use crate::terminal::{columns, grouped, head};

/// The checks that can find a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// A cell's count differs from the recount.
    Count,
    /// `counts` has no row for a cell.
    MissingRow,
    /// `counts` has a row for a cell that has no records.
    ExtraRow,
    /// A row has a count of zero or less.
    ZeroRow,
    /// A cell has a second row.
    RowTwice,
    /// The rows of a file are not ascending.
    RowOrder,
    /// A row is in a file of another bucket or period, or a file has a period that its granularity can not have.
    Segment,
    /// `window_end` is not the end of the window.
    WindowEnd,
    /// For a customer and window, the sum of a dimension differs from `total`.
    DimensionSum,
    /// Two live files of a granularity and bucket cover the same time.
    FilesOverlap,
    /// A file has another number of rows than the log says.
    FileRows,
    /// The outcome, reason or event time on record differs from what the decoder gives now.
    Outcome,
    /// `raw` holds an offset more than once.
    OffsetTwice,
    /// The next offset in the log does not follow the last one in `raw`. It must be that plus 1, or be after transaction markers.
    NextOffset,
    /// An epoch has several values of `ingested_at`, or one that is before that of an earlier epoch.
    IngestedAt,
    /// A lane or a row has an epoch beyond the newest one in the log of `raw`.
    EpochBeyond,
}

impl Check {
    /// The check in words.
    pub fn label(self) -> &'static str {
        match self {
            Check::Count => "count differs",
            Check::MissingRow => "row is missing",
            Check::ExtraRow => "row without records",
            Check::ZeroRow => "row not above zero",
            Check::RowTwice => "duplicate row of a cell",
            Check::RowOrder => "row out of order",
            Check::Segment => "row in the wrong file",
            Check::WindowEnd => "window_end is wrong",
            Check::DimensionSum => "dimension does not sum to total",
            Check::FilesOverlap => "live files overlap",
            Check::FileRows => "row count of a file",
            Check::Outcome => "outcome on record differs",
            Check::OffsetTwice => "duplicate offset in raw",
            Check::NextOffset => "next offset in the log",
            Check::IngestedAt => "ingested_at of an epoch",
            Check::EpochBeyond => "epoch beyond raw's newest",
        }
    }
}

/// Where a difference was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Subject {
    /// A cell of `counts`.
    Cell {
        /// Its granularity.
        granularity: &'static str,
        /// Start of its window.
        window_start: String,
        /// The customer.
        customer_id: String,
        /// The dimension.
        dimension: String,
        /// Its value.
        dimension_value: String,
    },
    /// A file.
    File {
        /// Its path below the table.
        file: String,
    },
    /// A record of `raw`.
    Record {
        /// Its topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
    },
    /// A partition.
    Partition {
        /// Its topic.
        topic: String,
        /// Its number.
        partition: i32,
    },
    /// An epoch.
    Epoch {
        /// Its number.
        epoch: i64,
    },
    /// A lane.
    Lane {
        /// Its name.
        lane: &'static str,
    },
}

impl Subject {
    pub(super) fn cell(cell: Cell) -> Subject {
        Subject::Cell {
            granularity: WINDOWS.get(cell.window).map_or("?", |window| window.name),
            window_start: rfc3339_us(cell.start_us),
            customer_id: cell.customer,
            dimension: cell.dimension,
            dimension_value: cell.value,
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::Cell { granularity, window_start, customer_id, dimension, dimension_value } => {
                write!(f, "{granularity} {window_start} {customer_id:?} {dimension}")?;
                if dimension_value.is_empty() { Ok(()) } else { write!(f, "={dimension_value:?}") }
            }
            Subject::File { file } => f.write_str(file),
            Subject::Record { topic, partition, offset } => write!(f, "{topic}/{partition} offset {offset}"),
            Subject::Partition { topic, partition } => write!(f, "{topic}/{partition}"),
            Subject::Epoch { epoch } => write!(f, "epoch {epoch}"),
            Subject::Lane { lane } => write!(f, "lane {lane}"),
        }
    }
}

/// A difference between the tables and the recount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The check that found it.
    pub check: Check,
    /// Where it was found.
    #[serde(flatten)]
    pub place: Subject,
    /// What the tables have.
    pub found: String,
    /// What the recount has.
    pub expected: String,
}

/// Counts differences, and keeps the first ones of each check.
pub(super) struct Differences {
    kept_max: usize,
    by_check: BTreeMap<Check, (u64, Vec<Difference>)>,
}

impl Differences {
    pub(super) fn new(kept_max: usize) -> Self {
        Differences { kept_max, by_check: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, check: Check, place: Subject, found: impl Into<String>, expected: impl Into<String>) {
        let (count, kept) = self.by_check.entry(check).or_default();
        *count += 1;
        if kept.len() < self.kept_max {
            kept.push(Difference { check, place, found: found.into(), expected: expected.into() });
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.by_check.values().map(|(count, _)| count).sum()
    }

    /// How many differences there are of each check, and the first ones: some of each check, so that no check hides another.
    pub(super) fn finish(self) -> (BTreeMap<Check, u64>, Vec<Difference>) {
        let counts = self.by_check.iter().map(|(check, (count, _))| (*check, *count)).collect();
        let mut ranked: Vec<(usize, Difference)> =
            self.by_check.into_values().flat_map(|(_, kept)| kept.into_iter().enumerate()).collect();
        ranked.sort_by_key(|(rank, difference)| (*rank, difference.check));
        ranked.truncate(self.kept_max);
        ranked.sort_by_key(|(rank, difference)| (difference.check, *rank));
        (counts, ranked.into_iter().map(|(_, difference)| difference).collect())
    }
}

/// Whether the tables keep their promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything is equal.
    Exact,
    /// Something differs.
    Differences,
}

impl Verdict {
    /// The exit code of the command.
    pub fn exit(self) -> Exit {
        match self {
            Verdict::Exact => Exit::Done,
            Verdict::Differences => Exit::Differences,
        }
    }
}

/// What can not be recounted, because a logic is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NotCheckable {
    /// Rows of `counts` that were not compared.
    pub cells: u64,
    /// The logics that are gone.
    pub because: Vec<Gone>,
}

/// A logic that this build can not count with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gone {
    /// The logic.
    pub logic: Fingerprint,
    /// The first and last epoch that live counted with it; null if a replay did.
    pub epochs: Option<(i64, i64)>,
    /// The replay that counts with it; null if live did.
    pub replay: Option<String>,
    /// What is gone, and why.
    pub why: String,
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.replay, self.epochs) {
            (Some(id), _) => write!(f, "logic {} of replay {id}: {}", self.logic, self.why),
            (None, Some((first, last))) => write!(f, "logic {} of epochs {first}..={last}: {}", self.logic, self.why),
            (None, None) => write!(f, "logic {}: {}", self.logic, self.why),
        }
    }
}

/// The result of `verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The verdict.
    pub verdict: Verdict,
    /// The version of `counts` that was checked.
    pub counts_version: u64,
    /// The version of `raw` that was read, which is at least as new.
    pub raw_version: u64,
    /// The newest epoch of `raw`.
    pub raw_epoch: i64,
    /// Each lane's epoch.
    pub lanes: BTreeMap<&'static str, i64>,
    /// Rows of `counts` that were compared.
    pub cells: u64,
    /// Rows of `raw` that were read.
    pub records: u64,
    /// The first and last epoch of those rows.
    pub epochs: Option<(i64, i64)>,
    /// Records that are counted, by the logic on record for their epoch.
    pub counted: u64,
    /// Records that the `where` of that logic leaves out.
    pub filtered: u64,
    /// Records that were rejected, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// The number of differences by check.
    pub differences: BTreeMap<Check, u64>,
    /// The first differences.
    pub first: Vec<Difference>,
    /// How often the memory budget was reached, so that sums went to disk.
    pub spilled: u64,
    /// What can not be recounted.
    pub not_checkable: NotCheckable,
    /// What a user should know about this result.
    pub notes: Vec<String>,
}

impl Report {
    /// One sentence that says what was found.
    pub fn sentence(&self) -> String {
        let epochs = match self.epochs {
            Some((first, last)) => format!("epochs {first}..={last}"),
            None => "no epochs".to_owned(),
        };
        let rejected = grouped(self.rejected.values().sum());
        let filtered = grouped(self.filtered);
        let records = format!("a recount of {} in raw ({epochs})", plural(self.records, "record"));
        let mut tail = format!("; {rejected} rejected, {filtered} filtered");
        let behind: Vec<String> = (self.lanes.iter())
            .filter(|(_, epoch)| **epoch < self.raw_epoch)
            .map(|(lane, epoch)| format!("{lane} is at epoch {epoch}"))
            .collect();
        if !behind.is_empty() {
            tail += &format!("; not yet published: {}", behind.join(", "));
        }
        let NotCheckable { cells, because } = &self.not_checkable;
        let is_whole = because.is_empty();
        if !is_whole {
            let verb = if *cells == 1 { "is" } else { "are" };
            let because: Vec<String> = because.iter().map(Gone::to_string).collect();
            tail += &format!("; {} {verb} not checkable: {}", plural(*cells, "cell"), because.join(", "));
        }
        let version = self.counts_version;
        match self.verdict {
            Verdict::Exact => {
                let equal = if self.cells == 1 { "equals" } else { "equal" };
                let exact = if is_whole { "exact" } else { "exact as far as it can be checked" };
                format!("{exact}: {} of counts version {version} {equal} {records}{tail}", plural(self.cells, "cell"))
            }
            Verdict::Differences => {
                let kinds: Vec<String> = (self.differences.iter())
                    .map(|(check, count)| format!("{} × {}", grouped(*count), check.label()))
                    .collect();
                let total = plural(self.differences.values().sum(), "difference");
                format!("{total} between counts version {version} and {records}: {}{tail}", kinds.join(", "))
            }
        }
    }

    /// The first differences as a table; empty if there are none.
    pub fn table(&self) -> String {
        if self.first.is_empty() {
            return String::new();
        }
        let mut rows = vec![head(&["check", "where", "in the tables", "recounted"])];
        rows.extend(self.first.iter().map(|difference| {
            let Difference { check, place, found, expected } = difference;
            vec![check.label().to_owned(), place.to_string(), found.clone(), expected.clone()]
        }));
        let mut text = columns(&rows, |_| false);
        let more = self.differences.values().sum::<u64>().saturating_sub(self.first.len() as u64);
        if more > 0 {
            text += &format!("… and {} more; --limit shows more of them\n", grouped(more));
        }
        text
    }
}

fn plural(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}
