//! `compare`: compares what a replay has counted with what `counts` has, cell by cell.
//!
//! ```text
//!            runs of the replay ──────────────┐ new
//! per bucket, finest granularity first:       ├─► cells that differ ─► dataset, sums
//!            live files of counts ────────────┤ old
//!            differences of parts (a spool) ──┘        base windows ─► differences of the parts of longer windows
//! ```
//!
//! In: three sequences of cells in file order, so that one pass over each is enough. Out: the dataset, and [`Findings`]. A window that is
//! wholly in range is compared. A window that is partly in range gets the difference of its part, summed from base windows. State: one
//! batch of each input, and for one customer and dimension the parts of longer windows. Failure: a bucket that fails ends the comparison.
//! Restart: every bucket is compared again, and the same files are written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt};

use super::dataset::{CellReader, DatasetWriter};
use super::findings::Findings;
use super::longer::LongerWindows;
use super::part_differences::PartDifferences;
use super::table_rows::{TableRows, meets};
use crate::dataflow::route::Scope;
use crate::job::Logic;
use crate::model::{CellParts, Granularity, bucket_of};
use crate::process::panics::of_task;
use crate::replay::count::runs::{Kept, RunSet};
use crate::replay::count::sorted::{MergedCells, SortedCells};
use crate::replay::request::coverage::{Lies, Windows};
use crate::replay::request::shape::RangeShape;
use crate::replay::request::versions::fetch_kept;
use crate::table::layout::Layout;
use crate::table::{Log, Root, TableError};

/// Cells between two updates of the progress.
const PROGRESS_CELLS: usize = 2048;

/// What is compared.
pub struct Comparison {
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
    /// The buckets that this process compares.
    pub own: OwnBuckets,
    /// The replay's logic.
    pub logic: Logic,
    /// What happens to each dimension.
    pub shape: RangeShape,
    /// What is recounted.
    pub scope: Arc<Scope>,
    /// The runs that were counted.
    pub runs: RunSet,
    /// Cells compared so far.
    pub progress: Arc<AtomicU64>,
}

/// The buckets that a process compares: every n-th, for n processes.
#[derive(Clone, Copy, Debug)]
pub struct OwnBuckets {
    /// The index of the process.
    pub process: usize,
    /// The number of processes.
    pub processes: usize,
}

impl OwnBuckets {
    /// Whether this process compares a bucket. Workers also take every n-th bucket, so a run that was counted by the same number of
    /// processes is read by only one of them.
    pub fn has(self, bucket: u16) -> bool {
        usize::from(bucket) % self.processes == self.process
    }
}

/// Compares the buckets of this process, up to `at_once` of them concurrently.
///
/// # Errors
/// [`TableError`] when a table, a run or the store fails.
pub async fn compare(comparison: Arc<Comparison>, at_once: usize) -> Result<Findings, TableError> {
    let own = comparison.own;
    let buckets: Vec<u16> = match &comparison.scope.customers {
        Some(customers) => {
            let mut buckets: Vec<_> =
                customers.iter().map(|customer| bucket_of(customer, comparison.buckets)).collect();
            buckets.sort_unstable();
            buckets.dedup();
            buckets
        }
        None => (0..comparison.buckets).map(|bucket| bucket as u16).collect(),
    };
    let runtime = tokio::runtime::Handle::current();
    futures::stream::iter(buckets.into_iter().filter(|bucket| own.has(*bucket)))
        .map(|bucket| {
            let (comparison, runtime) = (Arc::clone(&comparison), runtime.clone());
            tokio::task::spawn_blocking(move || comparison.bucket(bucket, &runtime))
        })
        .buffer_unordered(at_once)
        .map(|joined| joined.unwrap_or_else(|panic| Err(TableError::Bug(of_task("comparing", panic)))))
        .try_fold(Findings::default(), |mut all, found| async {
            all.merge(found);
            Ok(all)
        })
        .await
}

impl Comparison {
    fn bucket(&self, bucket: u16, runtime: &tokio::runtime::Handle) -> Result<Findings, TableError> {
        let mut found = Findings::default();
        let mut parts = PartDifferences::new(&self.shape, &self.scope.coverage);
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
        parts: &mut PartDifferences<'_>,
        found: &mut Findings,
    ) -> Result<(), TableError> {
        let mut windows = Windows::new(&self.scope.coverage, granularity);
        let mut old = MergedCells::of(self.table(granularity, bucket, runtime)?)?;
        let mut new = MergedCells::of(self.recounted(granularity, bucket)?)?;
        let mut differences = MergedCells::of(parts.take(granularity)?)?;
        let mut writer = DatasetWriter::new(&self.root, &self.id, granularity, bucket);
        let mut row = CellReader::default();
        let mut compared = 0u64;
        while let Some(cell) = [old.cell(), new.cell(), differences.cell()].into_iter().flatten().min() {
            let of = |input: &dyn SortedCells| (input.cell() == Some(cell)).then(|| input.count());
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
            if compared.is_multiple_of(PROGRESS_CELLS as u64) {
                self.progress.fetch_add(PROGRESS_CELLS as u64, Ordering::Relaxed);
            }
            if was != is || parts.takes_out {
                parts.add(granularity, part, was, is)?;
            }
            if was != is {
                let cell = row.read(cell).ok_or_else(|| TableError::Bug(format!("not an encoded cell: {cell:?}")))?;
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
        self.progress.fetch_add(compared % PROGRESS_CELLS as u64, Ordering::Relaxed);
        found.parts.extend(runtime.block_on(writer.finish())?);
        Ok(())
    }

    /// What was recounted for a granularity.
    fn recounted(&self, granularity: Granularity, bucket: u16) -> Result<Vec<Box<dyn SortedCells + '_>>, TableError> {
        let days = |of: Kept| -> Result<Vec<Box<dyn SortedCells + '_>>, TableError> {
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
        let days = MergedCells::of(days(Kept::DayOfLonger)?)?;
        let counts = |dimension: &crate::job::Dimension| dimension.granularities.contains(&granularity);
        let dimensions = self.logic.dimensions.iter().filter(|dimension| counts(dimension));
        let dimensions = dimensions.map(|dimension| dimension.name.as_bytes()).collect();
        Ok(vec![Box::new(LongerWindows::of(granularity, dimensions, days)?)])
    }

    /// What the live files have for a granularity, as far as it may be in range.
    fn table(
        &self,
        granularity: Granularity,
        bucket: u16,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Vec<Box<dyn SortedCells + '_>>, TableError> {
        let mut inputs: Vec<Box<dyn SortedCells>> = Vec::new();
        for (segment, file) in self.live.of(granularity, bucket) {
            if meets(&self.scope.coverage, segment) {
                let fetched = runtime.block_on(fetch_kept(&self.counts, &file.path))?;
                inputs.push(Box::new(TableRows::open(&file.path, &fetched, granularity, &self.scope)?));
            }
        }
        Ok(inputs)
    }
}
