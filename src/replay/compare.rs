//! `compare`: what a replay has counted beside what `counts` has, cell by cell.
//!
//! ```text
//!            runs of the replay ──────────────┐ new
//! per bucket, finest granularity first:       ├─► cells that differ ─► dataset, sums
//!            live files of counts ────────────┤ old
//!            differences of parts (a spool) ──┘        base windows ─► differences of the parts of longer windows
//! ```
//!
//! All three come in file order, so that one pass over each is enough. A window wholly in range is compared; one that is partly in
//! it gets the difference of its part, summed from base windows. State: a batch of each input, and for one customer and dimension
//! the parts of longer windows; what was summed of them goes to disk when it is long.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::dataset::{CellRef, Change, Changes, Group, Groups, Largest, Part, Writer};
use super::fetch_kept;
use super::runs::{Kept, Merged, RunSet, Sorted, Spool};
use super::shape::{Lies, Shape, lies};
use crate::dataflow::route::Scope;
use crate::dataflow::tally_map::TallyMap;
use crate::job::Logic;
use crate::model::{Cell, CellParts, Granularity, Tally, TimeUs, Zone, bucket_of};
use crate::process::panics::of_task;
use crate::table::counts::Columns;
use crate::table::fetch::Batches;
use crate::table::layout::Layout;
use crate::table::{Log, Root, TableError};

/// Rows of a batch of each live file.
const BATCH_ROWS: usize = 2048;

/// Of each granularity, the largest changes that are told.
const LARGEST: usize = 10;

/// What is compared.
pub struct Compare {
    /// Where the tables are.
    pub root: Root,
    /// The replay.
    pub id: String,
    /// The table `counts`.
    pub counts: Log,
    /// Its live files.
    pub live: Layout,
    /// Buckets of customers.
    pub buckets: u32,
    /// Whose part of them.
    pub share: Share,
    /// The replay's logic.
    pub logic: Logic,
    /// What happens to each dimension.
    pub shape: Shape,
    /// What is recounted.
    pub scope: Arc<Scope>,
    /// What was counted.
    pub runs: RunSet,
    /// Cells compared so far.
    pub progress: Arc<AtomicU64>,
}

/// Which buckets a process compares: one of so many.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Its index.
    pub process: usize,
    /// How many they are.
    pub processes: usize,
}

impl Share {
    /// Whether it compares this one. Workers have buckets as they follow each other too, so that a run of as many processes is
    /// read by one of them.
    pub fn has(self, bucket: u16) -> bool {
        usize::from(bucket) % self.processes == self.process
    }
}

/// What was found in all buckets.
#[derive(Default)]
pub struct Compared {
    /// The files of the dataset.
    pub parts: Vec<Part>,
    /// Changes by granularity, dimension and day.
    pub groups: Vec<Group>,
    /// The largest changes, of each granularity some.
    pub largest: Vec<Largest>,
    /// All changes.
    pub changes: Changes,
}

/// Compares every bucket of the share, some at once.
///
/// # Errors
/// [`TableError`] when a table, a run or the store fails.
pub async fn compare(compare: Arc<Compare>, at_once: usize) -> Result<Found, TableError> {
    let share = compare.share;
    let buckets: Vec<u16> = match &compare.scope.customers {
        Some(customers) => {
            let mut buckets: Vec<_> = customers.iter().map(|customer| bucket_of(customer, compare.buckets)).collect();
            buckets.sort_unstable();
            buckets.dedup();
            buckets
        }
        None => (0..compare.buckets).map(|bucket| bucket as u16).collect(),
    };
    let runtime = tokio::runtime::Handle::current();
    futures::stream::iter(buckets.into_iter().filter(|bucket| share.has(*bucket)))
        .map(|bucket| {
            let (compare, runtime) = (Arc::clone(&compare), runtime.clone());
            tokio::task::spawn_blocking(move || compare.bucket(bucket, &runtime))
        })
        .buffer_unordered(at_once)
        .map(|joined| joined.unwrap_or_else(|panic| Err(TableError::Bug(of_task("comparing", panic)))))
        .try_fold(Found::default(), |mut all, found| async {
            all.merge(found);
            Ok(all)
        })
        .await
}

fn corrupt(what: String) -> TableError {
    TableError::Corrupt { table: "counts".to_owned(), what }
}

/// What was found in some buckets.
#[derive(Default, Serialize, Deserialize)]
pub struct Found {
    parts: Vec<Part>,
    groups: Groups,
    largest: BTreeMap<Granularity, Vec<Change>>,
}

/// Reads cells without an allocation each: neighbours mostly share their customer and dimension.
#[derive(Default)]
struct Row {
    head: Vec<u8>,
    customer: String,
    dimension: String,
}

impl Row {
    fn read<'a>(&'a mut self, cell: &'a [u8]) -> Option<CellRef<'a>> {
        let parts = CellParts::of(cell)?;
        if self.head != parts.head {
            let Cell { customer, dimension, .. } = Cell::decode(cell)?;
            (self.customer, self.dimension) = (customer, dimension);
            parts.head.clone_into(&mut self.head);
        }
        let value = std::str::from_utf8(parts.value).ok()?;
        Some(CellRef { customer: &self.customer, dimension: &self.dimension, window_start: parts.window_start, value })
    }
}

impl Found {
    /// Adds what was found in other buckets.
    pub fn merge(&mut self, other: Found) {
        self.parts.extend(other.parts);
        self.groups.merge(other.groups);
        for (granularity, changes) in other.largest {
            let largest = self.largest.entry(granularity).or_default();
            changes.iter().for_each(|change| push_largest(largest, change, LARGEST));
        }
    }

    /// All of it, as it is told.
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

    fn add(&mut self, granularity: Granularity, cell: CellRef<'_>, old: i64, new: i64) {
        self.groups.add(granularity, cell.dimension, cell.window_start, old, new);
        let largest = self.largest.entry(granularity).or_default();
        if largest.len() < LARGEST
            || largest.last().is_some_and(|last| (last.new - last.old).abs() <= (new - old).abs())
        {
            push_largest(largest, &Change { cell: cell.to_cell(), old, new }, LARGEST);
        }
    }
}

/// Largest first; equal ones by cell, so that the same replay says the same.
pub(super) fn push_largest(largest: &mut Vec<Change>, change: &Change, most: usize) {
    let rank = |change: &Change| std::cmp::Reverse((change.new - change.old).abs());
    let before = |other: &Change| (rank(other), &other.cell) <= (rank(change), &change.cell);
    if largest.len() >= most && largest.last().is_some_and(before) {
        return;
    }
    let at = largest.partition_point(before);
    largest.insert(at, change.clone());
    largest.truncate(most);
}

impl Compare {
    fn bucket(&self, bucket: u16, runtime: &tokio::runtime::Handle) -> Result<Found, TableError> {
        let mut found = Found::default();
        let mut parts = Parts::new(self);
        for granularity in Granularity::ALL {
            self.granularity(granularity, bucket, runtime, &mut parts, &mut found)?;
        }
        Ok(found)
    }

    fn granularity(
        &self,
        granularity: Granularity,
        bucket: u16,
        runtime: &tokio::runtime::Handle,
        parts: &mut Parts<'_>,
        found: &mut Found,
    ) -> Result<(), TableError> {
        let mut windows = Windows::new(&self.scope.coverage, granularity);
        let mut old = Merged::of(self.table(granularity, bucket, runtime)?)?;
        let mut new = Merged::of(self.recounted(granularity, bucket)?)?;
        let mut differences = Merged::of(parts.take(granularity)?)?;
        let mut writer = Writer::new(&self.root, &self.id, granularity, bucket);
        let mut row = Row::default();
        let mut compared = 0u64;
        while let Some(cell) = [old.cell(), new.cell(), differences.cell()].into_iter().flatten().min() {
            let of = |input: &dyn Sorted| (input.cell() == Some(cell)).then(|| input.count());
            let (was, counted, difference) = (of(&*old), of(&*new), of(&*differences));
            let here = [was.is_some(), counted.is_some(), difference.is_some()];
            let part = CellParts::of(cell).expect("a cell's bytes");
            let was = was.unwrap_or(0);
            let is = match windows.lies(part.window_start) {
                Lies::Inside => counted.unwrap_or(0),
                Lies::Partly => was + difference.unwrap_or(0),
                Lies::Outside => was,
            };
            compared += 1;
            if compared.is_multiple_of(BATCH_ROWS as u64) {
                self.progress.fetch_add(BATCH_ROWS as u64, Ordering::Relaxed);
            }
            if was != is || parts.takes_out {
                parts.add(granularity, part, was, is)?;
            }
            if was != is {
                let cell = row.read(cell).ok_or_else(|| TableError::Bug(format!("no cell: {cell:?}")))?;
                found.add(granularity, cell, was, is);
                if writer.push_row(cell, was, is)? {
                    runtime.block_on(writer.store())?;
                }
            }
            for (input, is_here) in [&mut old, &mut new, &mut differences].into_iter().zip(here) {
                if is_here {
                    input.advance()?;
                }
            }
        }
        parts.flush()?;
        self.progress.fetch_add(compared % BATCH_ROWS as u64, Ordering::Relaxed);
        found.parts.extend(runtime.block_on(writer.finish())?);
        Ok(())
    }

    /// What was counted anew, of a granularity.
    fn recounted(&self, granularity: Granularity, bucket: u16) -> Result<Vec<Box<dyn Sorted + '_>>, TableError> {
        let days = |of: Kept| -> Result<Vec<Box<dyn Sorted + '_>>, TableError> {
            let mut runs = self.runs.of(of, bucket)?;
            runs.extend(self.runs.of(Kept::DayOfBoth, bucket)?);
            Ok(runs)
        };
        match granularity {
            Granularity::Minute => return self.runs.of(Kept::Minute, bucket),
            Granularity::Hour => return self.runs.of(Kept::Hour, bucket),
            Granularity::Day => return days(Kept::Day),
            Granularity::Week | Granularity::Month | Granularity::Year => {}
        }
        let days = Merged::of(days(Kept::DayOfLonger)?)?;
        let counts = |dimension: &crate::job::Dimension| dimension.granularities.contains(&granularity);
        let dimensions = self.logic.dimensions.iter().filter(|dimension| counts(dimension));
        let dimensions = dimensions.map(|dimension| dimension.name.as_bytes()).collect();
        let mut longer = Longer {
            granularity,
            dimensions,
            days,
            head: Vec::new(),
            sums: TallyMap::default(),
            order: Vec::new(),
            at: 0,
        };
        longer.advance()?;
        Ok(vec![Box::new(longer)])
    }

    /// What the live files have, as far as it may be in range.
    fn table(
        &self,
        granularity: Granularity,
        bucket: u16,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Vec<Box<dyn Sorted + '_>>, TableError> {
        let mut inputs: Vec<Box<dyn Sorted>> = Vec::new();
        for (segment, file) in self.live.of(granularity, bucket) {
            // A window begins in its segment's period, and a week may end after it.
            let last = granularity.window_end(granularity.window_start(segment.period_end() - 1, Zone::Utc), Zone::Utc);
            let meets = |stretch: &Range<TimeUs>| stretch.start < last && segment.period_start < stretch.end;
            if !self.scope.coverage.iter().any(meets) {
                continue;
            }
            let fetched = runtime.block_on(fetch_kept(&self.counts, &file.path))?;
            let batches =
                fetched.batches(None, None, BATCH_ROWS).map_err(|error| corrupt(format!("{}: {error}", file.path)))?;
            let windows = Windows::new(&self.scope.coverage, granularity);
            let mut rows = TableRows {
                path: &file.path,
                scope: &self.scope,
                windows,
                batches,
                columns: None,
                row: 0,
                cell: Vec::new(),
            };
            rows.advance()?;
            inputs.push(Box::new(rows));
        }
        Ok(inputs)
    }
}

/// How windows of a granularity lie to the range; neighbours mostly are the same windows again.
struct Windows<'a> {
    coverage: &'a [Range<TimeUs>],
    granularity: Granularity,
    known: HashMap<TimeUs, Lies, foldhash::fast::FixedState>,
}

impl<'a> Windows<'a> {
    fn new(coverage: &'a [Range<TimeUs>], granularity: Granularity) -> Windows<'a> {
        Windows { coverage, granularity, known: HashMap::default() }
    }

    fn lies(&mut self, start: TimeUs) -> Lies {
        *self.known.entry(start).or_insert_with(|| lies(self.coverage, self.granularity, start))
    }
}

/// The rows of a live file that may be in range.
struct TableRows<'a> {
    path: &'a str,
    scope: &'a Scope,
    windows: Windows<'a>,
    batches: Batches,
    columns: Option<Columns>,
    row: usize,
    cell: Vec<u8>,
}

impl Sorted for TableRows<'_> {
    fn cell(&self) -> Option<&[u8]> {
        self.columns.as_ref().map(|_| self.cell.as_slice())
    }

    fn count(&self) -> i64 {
        self.columns.as_ref().map_or(0, |columns| columns.event_count.value(self.row))
    }

    fn advance(&mut self) -> Result<(), TableError> {
        loop {
            self.row += 1;
            while self.columns.as_ref().is_none_or(|columns| self.row >= columns.len()) {
                let failed = |what: String| corrupt(format!("{}: {what}", self.path));
                let Some(batch) = self.batches.next().transpose().map_err(|error| failed(error.to_string()))? else {
                    self.columns = None;
                    return Ok(());
                };
                self.columns = Some(Columns::of(&batch).map_err(failed)?);
                self.row = 0;
            }
            let Some(columns) = &self.columns else { return Ok(()) };
            let (start, customer) = (columns.window_start.value(self.row), columns.customer.value(self.row).as_bytes());
            if self.windows.lies(start) != Lies::Outside && self.scope.holds(customer) {
                self.cell.clear();
                let (dimension, value) = (columns.dimension.value(self.row), columns.value.value(self.row));
                Cell::encode(customer, dimension.as_bytes(), start, value.as_bytes(), &mut self.cell);
                return Ok(());
            }
        }
    }
}

/// Days as weeks, months or years: one customer and dimension at a time.
struct Longer<'a> {
    granularity: Granularity,
    dimensions: Vec<&'a [u8]>,
    days: Box<dyn Sorted + 'a>,
    head: Vec<u8>,
    sums: TallyMap,
    /// Places in `sums`, by key.
    order: Vec<usize>,
    at: usize,
}

impl Sorted for Longer<'_> {
    fn cell(&self) -> Option<&[u8]> {
        self.order.get(self.at).map(|at| self.sums.entry(*at).0)
    }

    fn count(&self) -> i64 {
        self.order.get(self.at).map_or(0, |at| self.sums.entry(*at).1.event_count)
    }

    fn advance(&mut self) -> Result<(), TableError> {
        self.at += 1;
        let mut longer = Vec::new();
        while self.at >= self.order.len() && self.days.cell().is_some() {
            self.head.clear();
            self.sums.clear();
            while let Some(day) = self.days.cell() {
                let parts = CellParts::of(day).expect("a cell's bytes");
                if self.head.is_empty() {
                    self.head.extend_from_slice(parts.head);
                } else if self.head != parts.head {
                    break;
                }
                if self.dimensions.contains(&parts.dimension) {
                    longer.clear();
                    longer.extend_from_slice(parts.head);
                    let start = self.granularity.window_start(parts.window_start, Zone::Utc);
                    Cell::encode_tail(start, parts.value, &mut longer);
                    self.sums.add(&longer, Tally { event_count: self.days.count() });
                }
                self.days.advance()?;
            }
            self.order.clear();
            self.order.extend(0..self.sums.len());
            let sums = &self.sums;
            self.order.sort_unstable_by_key(|at| sums.entry(*at).0);
            self.at = 0;
        }
        Ok(())
    }
}

/// Differences of the parts of longer windows.
struct Parts<'a> {
    compare: &'a Compare,
    /// Whether some longer windows lose all of their part, changed or not.
    takes_out: bool,
    /// Done, by granularity: one sequence for each that base windows were of.
    spools: BTreeMap<Granularity, Vec<Spool>>,
    /// Of the granularity at hand.
    growing: BTreeMap<Granularity, Spool>,
    /// Of the customer and dimension at hand, by granularity and cell.
    sums: BTreeMap<(Granularity, Vec<u8>), i64>,
    head: Vec<u8>,
    /// By granularity and a base window's start: the start of the longer window that is partly in range.
    partly: HashMap<(Granularity, TimeUs), Option<TimeUs>, foldhash::fast::FixedState>,
}

impl<'a> Parts<'a> {
    fn new(compare: &'a Compare) -> Parts<'a> {
        let parts = || compare.shape.dimensions.values().flat_map(|shape| &shape.parts);
        let takes_out = parts().any(|part| !part.is_counted);
        Parts {
            compare,
            takes_out,
            spools: BTreeMap::new(),
            growing: BTreeMap::new(),
            sums: BTreeMap::new(),
            head: Vec::new(),
            partly: HashMap::default(),
        }
    }

    /// A change of a cell: if its window is a base window, longer ones that are partly in range take their part of it.
    fn add(&mut self, granularity: Granularity, cell: CellParts<'_>, was: i64, is: i64) -> Result<(), TableError> {
        let dimension = std::str::from_utf8(cell.dimension).unwrap_or_default();
        let Some(shape) = self.compare.shape.dimensions.get(dimension).filter(|shape| shape.base == granularity) else {
            return Ok(());
        };
        if self.head != cell.head {
            self.end_head()?;
            cell.head.clone_into(&mut self.head);
        }
        for part in &shape.parts {
            let partly = self.partly.entry((part.granularity, cell.window_start)).or_insert_with(|| {
                let start = part.granularity.window_start(cell.window_start, Zone::Utc);
                (lies(&self.compare.scope.coverage, part.granularity, start) == Lies::Partly).then_some(start)
            });
            if let Some(start) = *partly {
                let mut longer = cell.head.to_vec();
                Cell::encode_tail(start, cell.value, &mut longer);
                *self.sums.entry((part.granularity, longer)).or_default() +=
                    if part.is_counted { is - was } else { -was };
            }
        }
        Ok(())
    }

    fn end_head(&mut self) -> Result<(), TableError> {
        for ((granularity, cell), difference) in std::mem::take(&mut self.sums) {
            if difference != 0 {
                self.growing.entry(granularity).or_default().push(&cell, difference)?;
            }
        }
        Ok(())
    }

    /// The granularity at hand is done.
    fn flush(&mut self) -> Result<(), TableError> {
        self.end_head()?;
        self.head.clear();
        for (granularity, spool) in std::mem::take(&mut self.growing) {
            self.spools.entry(granularity).or_default().push(spool);
        }
        Ok(())
    }

    /// What was summed for a granularity.
    fn take(&mut self, granularity: Granularity) -> Result<Vec<Box<dyn Sorted>>, TableError> {
        let spools = self.spools.remove(&granularity).unwrap_or_default();
        spools.into_iter().map(|spool| Ok(Box::new(spool.read()?) as Box<dyn Sorted>)).collect()
    }
}
