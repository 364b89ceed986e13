//! Sorted runs of a replay: in memory, in files on the store, and several of them read as one.
//!
//! In: runs of `(kept as, bucket, cell) → count`, with keys as in [`Run`]. Out: the cells of one kind and bucket, in order. A file is
//! Parquet with the columns `key` (front-coded) and `count`, and one row group for each kind and bucket, so that each can be read alone.
//! State: whenever [`FAN_IN`] files have been merged equally often, they are merged into one on disk, so a merge holds one batch of each of
//! a bounded number of inputs. Failure: a file that can not be read is corrupt; full scratch space is an error that says so.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayBuilder, AsArray, BinaryArray, BinaryBuilder, Int64Array, Int64Builder, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde::{Deserialize, Serialize};

use super::sorted::{MergedCells, SortedCells};
use crate::dataflow::run::Run;
#[cfg(test)]
use crate::model::Tally;
use crate::model::{Granularity, Lane, Target};
use crate::table::TableError;
use crate::table::fetch::{Batches, Fetched};

/// Inputs of one merge.
pub const FAN_IN: usize = 32;

/// Keys of a batch, and the bytes of keys at which it ends earlier.
const BATCH_ROWS: usize = 4096;
const BATCH_BYTES: usize = 8 << 20;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![Field::new("key", DataType::Binary, false), Field::new("count", DataType::Int64, false)]))
});

/// The kind as which an update of a replay is kept. Weeks, months and years are summed from days once all days are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day that is counted itself.
    Day,
    /// A day that weeks, months and years are summed from. (The name is from files on the store, where it was once kept as a week.)
    #[serde(rename = "week")]
    DayOfLonger,
    /// A day that is both.
    #[serde(rename = "month")]
    DayOfBoth,
}

impl Kept {
    /// All kinds, ordered by their numbers in keys.
    pub const ALL: [Kept; 5] = [Kept::Minute, Kept::Hour, Kept::Day, Kept::DayOfLonger, Kept::DayOfBoth];

    /// The kind as which an update made for `target` is kept.
    ///
    /// # Panics
    /// When the granularity is longer than a day: `roll_up` makes nothing longer.
    pub fn of(granularity: Granularity, target: Target) -> Kept {
        match (granularity, target) {
            (Granularity::Minute, _) => Kept::Minute,
            (Granularity::Hour, _) => Kept::Hour,
            (Granularity::Day, Target::Lane(Lane::Coarse)) => Kept::DayOfLonger,
            (Granularity::Day, Target::DaysOfBoth) => Kept::DayOfBoth,
            (Granularity::Day, Target::Lane(_)) => Kept::Day,
            (Granularity::Week | Granularity::Month | Granularity::Year, _) => {
                unreachable!("longer windows are made of days when all are there")
            }
        }
    }
}

/// A run in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRun {
    /// Its path beside the tables.
    pub path: String,
    /// The kind and bucket of each row group, in file order.
    pub groups: Vec<(Kept, u16)>,
}

fn corrupt(error: impl ToString) -> TableError {
    TableError::Corrupt { table: "replays".to_owned(), what: format!("a sorted run: {}", error.to_string()) }
}

/// The part of a run in memory that belongs to one kind and bucket.
struct MemorySlice {
    run: Arc<Run>,
    range: Range<usize>,
}

impl SortedCells for MemorySlice {
    fn cell(&self) -> Option<&[u8]> {
        (!self.range.is_empty()).then(|| self.run.cell(self.range.start))
    }

    fn count(&self) -> i64 {
        self.run.tally(self.range.start).event_count
    }

    fn advance(&mut self) -> Result<(), TableError> {
        self.range.start += 1;
        Ok(())
    }
}

/// Some row groups of a run in a file.
struct FileSlice {
    batches: Batches,
    batch: Option<(BinaryArray, Int64Array)>,
    row: usize,
}

impl FileSlice {
    fn open(file: &Fetched, row_groups: Vec<usize>) -> Result<FileSlice, TableError> {
        let batches = file.batches(None, Some(row_groups), BATCH_ROWS).map_err(corrupt)?;
        let mut rows = FileSlice { batches, batch: None, row: 0 };
        rows.next_batch()?;
        Ok(rows)
    }

    fn next_batch(&mut self) -> Result<(), TableError> {
        self.row = 0;
        self.batch = match self.batches.next().transpose().map_err(corrupt)? {
            Some(batch) => {
                let key = batch.column(0).as_binary_opt::<i32>().ok_or_else(|| corrupt("column key is not binary"))?;
                let count = batch.column(1).as_primitive_opt::<Int64Type>();
                let count = count.ok_or_else(|| corrupt("column count is not an integer"))?;
                Some((key.clone(), count.clone()))
            }
            None => None,
        };
        Ok(())
    }

    fn key(&self) -> Option<&[u8]> {
        self.batch.as_ref().map(|(keys, _)| keys.value(self.row))
    }
}

impl SortedCells for FileSlice {
    fn cell(&self) -> Option<&[u8]> {
        self.key().map(|key| &key[Run::HEAD.len()..])
    }

    fn count(&self) -> i64 {
        self.batch.as_ref().map_or(0, |(_, counts)| counts.value(self.row))
    }

    fn advance(&mut self) -> Result<(), TableError> {
        self.row += 1;
        if self.batch.as_ref().is_some_and(|(keys, _)| self.row >= keys.len()) { self.next_batch() } else { Ok(()) }
    }
}

/// The runs of a replay, readable by kind and bucket.
#[derive(Default)]
pub struct RunSet {
    memory: Vec<Arc<Run>>,
    /// Files by how often they were merged.
    levels: Vec<Vec<FetchedRun>>,
}

/// The kind and bucket of each row group, and the file.
type FetchedRun = (Vec<(Kept, u16)>, Fetched);

impl RunSet {
    /// Adds a run in memory.
    pub fn push(&mut self, run: Arc<Run>) {
        self.memory.push(run);
    }

    /// Adds a file that was fetched. Whenever [`FAN_IN`] files have been merged equally often, they are merged into one temporary file.
    ///
    /// # Errors
    /// [`TableError`] when a run can not be read or written.
    pub fn push_file(&mut self, groups: Vec<(Kept, u16)>, file: Fetched) -> Result<(), TableError> {
        let mut run = (groups, file);
        for level in 0.. {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            self.levels[level].push(run);
            if self.levels[level].len() < FAN_IN {
                break;
            }
            let inputs = RunSet { memory: Vec::new(), levels: vec![std::mem::take(&mut self.levels[level])] };
            let mut disk = tempfile::tempfile().map_err(scratch)?;
            let groups = write(&inputs, &mut disk)?;
            run = (groups, Fetched::of_disk(disk));
        }
        Ok(())
    }

    /// All kinds and buckets that there are, in order.
    pub fn groups(&self) -> Vec<(Kept, u16)> {
        let of_memory =
            |run: &Arc<Run>| groups_of(run).into_iter().map(|(kept, bucket, _)| (kept, bucket)).collect::<Vec<_>>();
        let mut groups: Vec<_> = self.memory.iter().flat_map(of_memory).collect();
        groups.extend(self.levels.iter().flatten().flat_map(|(groups, _)| groups.iter().copied()));
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// The runs of one kind and bucket.
    ///
    /// # Errors
    /// [`TableError`] when a file can not be read.
    pub fn of(&self, kept: Kept, bucket: u16) -> Result<Vec<Box<dyn SortedCells + '_>>, TableError> {
        let mut inputs: Vec<Box<dyn SortedCells>> = Vec::new();
        for run in &self.memory {
            for (of, in_bucket, range) in groups_of(run) {
                if (of, in_bucket) == (kept, bucket) {
                    inputs.push(Box::new(MemorySlice { run: Arc::clone(run), range }));
                }
            }
        }
        for (groups, file) in self.levels.iter().flatten() {
            let row_groups: Vec<_> = groups
                .iter()
                .enumerate()
                .filter(|(_, group)| **group == (kept, bucket))
                .map(|(index, _)| index)
                .collect();
            if !row_groups.is_empty() {
                inputs.push(Box::new(FileSlice::open(file, row_groups)?));
            }
        }
        Ok(inputs)
    }
}

fn groups_of(run: &Run) -> Vec<(Kept, u16, Range<usize>)> {
    let of = |(number, bucket, range)| (Kept::ALL[usize::from(number)], bucket, range);
    run.groups_by_number().into_iter().map(of).collect()
}

/// The error behind an error of the encoder: that of the file that it writes to, or a bug.
fn encoding(error: ParquetError) -> TableError {
    match error {
        ParquetError::External(cause) if cause.is::<std::io::Error>() => TableError::Scratch(cause.to_string()),
        error => TableError::Bug(format!("cannot encode a sorted run: {error}")),
    }
}

fn scratch(error: std::io::Error) -> TableError {
    TableError::Scratch(error.to_string())
}

/// Writes runs as one file; returns the kind and bucket of each row group.
///
/// # Errors
/// [`TableError`] when a run can not be read or written.
pub fn write<W: std::io::Write + Send>(runs: &RunSet, sink: W) -> Result<Vec<(Kept, u16)>, TableError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(None)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_dictionary_enabled(false)
        .set_column_encoding("key".into(), Encoding::DELTA_BYTE_ARRAY)
        .build();
    let mut writer = ArrowWriter::try_new(sink, Arc::clone(&SCHEMA), Some(properties)).map_err(encoding)?;
    let mut written = Vec::new();
    let mut key = Vec::new();
    for (kept, bucket) in runs.groups() {
        let mut merged = MergedCells::of(runs.of(kept, bucket)?)?;
        let (mut keys, mut counts) = (BinaryBuilder::new(), Int64Builder::new());
        let mut rows = 0;
        while let Some(cell) = merged.cell() {
            if merged.count() != 0 {
                key.clear();
                key.extend_from_slice(&Run::group(kept as u8, bucket));
                key.extend_from_slice(cell);
                keys.append_value(&key);
                counts.append_value(merged.count());
                rows += 1;
            }
            merged.advance()?;
            if keys.len() >= BATCH_ROWS || keys.values_slice().len() >= BATCH_BYTES || merged.cell().is_none() {
                writer.write(&batch(&mut keys, &mut counts)).map_err(encoding)?;
            }
        }
        if rows > 0 {
            written.push((kept, bucket));
            writer.flush().map_err(encoding)?;
        }
    }
    writer.close().map_err(encoding)?;
    Ok(written)
}

fn batch(keys: &mut BinaryBuilder, counts: &mut Int64Builder) -> RecordBatch {
    RecordBatch::try_new(Arc::clone(&SCHEMA), vec![Arc::new(keys.finish()), Arc::new(counts.finish())])
        .expect("every key has a count")
}

/// Appends a run to others, and merges those that should become one.
pub fn push_merging(runs: &mut Vec<Arc<Run>>, mut run: Run) {
    run.shrink();
    runs.push(Arc::new(run));
    while let [.., a, b] = runs.as_slice()
        && a.merges_with(b)
    {
        let merged = Arc::new(Run::merged(a, b));
        runs.truncate(runs.len() - 2);
        runs.push(merged);
    }
}

/// A run of some updates, for tests: kind, bucket, cell and count, in order.
#[cfg(test)]
pub(super) fn run_of(updates: &[(Kept, u16, &[u8], i64)]) -> Run {
    let mut run = Run::default();
    for (kept, bucket, cell, count) in updates {
        let mut key = Run::group(*kept as u8, *bucket).to_vec();
        key.extend_from_slice(cell);
        run.push(&key, Tally { event_count: *count });
    }
    run
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Seek;

    use proptest::prelude::*;

    use super::*;

    type Updates = BTreeMap<(u8, u16, Vec<u8>), i64>;

    fn run(updates: &Updates) -> Arc<Run> {
        let updates: Vec<_> = updates.iter().collect();
        let of = |((kept, bucket, cell), count): &(&(u8, u16, Vec<u8>), &i64)| {
            (Kept::ALL[usize::from(*kept)], *bucket, cell.clone(), **count)
        };
        let updates: Vec<_> = updates.iter().map(of).collect();
        let updates: Vec<_> =
            updates.iter().map(|(kept, bucket, cell, count)| (*kept, *bucket, cell.as_slice(), *count)).collect();
        Arc::new(run_of(&updates))
    }

    fn read(runs: &RunSet) -> Updates {
        let mut found = Updates::new();
        for (kept, bucket) in runs.groups() {
            let mut merged = MergedCells::of(runs.of(kept, bucket).expect("readable")).expect("readable");
            let mut last: Option<Vec<u8>> = None;
            while let Some(cell) = merged.cell().map(<[u8]>::to_vec) {
                assert!(last.as_ref().is_none_or(|last| *last < cell), "ascending, each once");
                last = Some(cell.clone());
                if merged.count() != 0 {
                    found.insert((kept as u8, bucket, cell), merged.count());
                }
                merged.advance().expect("readable");
            }
        }
        found
    }

    fn updates() -> impl Strategy<Value = Updates> {
        let key = (0u8..4, 0u16..3, prop::collection::vec(0u8..3, 0..4));
        prop::collection::btree_map(key, prop_oneof![Just(-1i64), Just(1), Just(7)], 0..30)
    }

    proptest! {
        #[test]
        fn runs_in_memory_and_in_files_are_one_sum(all in prop::collection::vec((updates(), any::<bool>()), 0..40)) {
            let mut runs = RunSet::default();
            let mut sum = Updates::new();
            for (updates, in_file) in &all {
                for (key, count) in updates {
                    *sum.entry(key.clone()).or_default() += count;
                }
                if *in_file {
                    let mut one = RunSet::default();
                    one.push(run(updates));
                    let mut disk = tempfile::tempfile().expect("a file");
                    let groups = write(&one, &mut disk).expect("written");
                    disk.rewind().expect("a file");
                    runs.push_file(groups, Fetched::of_disk(disk)).expect("readable");
                } else {
                    runs.push(run(updates));
                }
            }
            sum.retain(|_, count| *count != 0);
            prop_assert_eq!(read(&runs), sum);
        }
    }
}
