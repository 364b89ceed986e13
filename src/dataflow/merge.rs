//! `merge`: merges a publish order's updates into the live files.
//!
//! In: the work that `plan` lists. Out: the new files of each segment, stored, as pieces of a `Staged`. Ordering: live files are read
//! batch by batch together with the updates, all in file order; if a segment has a single live file, batches that no update
//! touches are passed on whole. State: one encoded segment per task, [`Merge::at_once`] tasks; large segments run one at a time.
//! Failure: if a cell would fall below zero, the publish is refused and the job ends. Restart: files that were staged but not
//! committed are orphans.

use std::cmp::{Ordering, Reverse};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use bytes::Bytes;
use differential_dataflow::difference::{IsZero, Semigroup};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use tokio::sync::Semaphore;

use super::plan::{Part, Work};
use super::protocol::{Effort, Piece};
use super::run::Run;
use super::tally_map::TallyMap;
use crate::model::{Cell, CellParts, Granularity, Segment, Tally, TimeUs, Zone};
use crate::process::panics::of_task;
use crate::table::counts::{BATCH_BYTES, BATCH_ROWS, Columns, SegmentWriter, read_segment};
use crate::table::fetch::Batches;
use crate::table::store::{read_file, write_file};
use crate::table::{File, Log, TableError};

/// A segment whose live files have more bytes is large: a process merges one of these at a time.
const LARGE_BYTES: u64 = 32 << 20;

/// One worker's part of a publish order.
pub struct Merge {
    /// Name of the files that it writes.
    pub name: String,
    /// The table `counts`.
    pub log: Log,
    /// How many segments are merged at once.
    pub at_once: usize,
    /// Lets the large segments of a process be merged one at a time.
    pub turn: Arc<Semaphore>,
}

impl Merge {
    /// Merges every segment and stores the new files.
    ///
    /// # Errors
    /// [`TableError::Corrupt`] if a cell would fall below zero or a live file can not be read; [`TableError::Storage`].
    pub async fn stage(&self, work: Vec<Work>) -> Result<Vec<Piece>, TableError> {
        futures::stream::iter(work).map(|work| self.merge_one(work)).buffer_unordered(self.at_once).try_collect().await
    }

    async fn merge_one(&self, work: Work) -> Result<Piece, TableError> {
        let Work { segment, live, updates, split } = work;
        let large = live.iter().map(|file| file.size).sum::<u64>() > LARGE_BYTES;
        let _turn = if large { self.turn.acquire().await.ok() } else { None };
        let mut sources = Vec::with_capacity(live.len());
        for file in &live {
            let path = Path::from(file.path.as_str());
            let reading = |error| TableError::reading("counts", &path, error);
            let bytes = read_file(self.log.store().as_ref(), &path).await.map_err(reading)?;
            sources.push((file.clone(), bytes));
        }
        let name = self.name.clone();
        let merged = tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let rows = updates.iter().map(|part| part.indices.len() as u64).sum();
            let merged = merge(segment, sources, &updates, split, &name)?;
            Ok((merged, rows, started.elapsed()))
        });
        let (merged, updates, took): (Vec<(File, Bytes)>, u64, Duration) =
            merged.await.map_err(|error| TableError::Bug(of_task("a merge into counts", error)))??;
        let mut add = Vec::with_capacity(merged.len());
        for (file, bytes) in merged {
            write_file(self.log.store().as_ref(), &file.path, bytes).await?;
            add.push(file);
        }
        let rows = add.iter().map(|file| file.rows).sum();
        let effort = Effort { updates, rows, us: took.as_micros() as u64 };
        Ok(Piece { segment, add, remove: live, effort })
    }
}

/// Merges updates into a segment's live files. Returns the new files: one, none when no row is left, or, if the segment is `split`,
/// one for each of the shortest periods that has rows.
fn merge(
    segment: Segment,
    live: Vec<(File, Bytes)>,
    updates: &[Part],
    split: bool,
    name: &str,
) -> Result<Vec<(File, Bytes)>, TableError> {
    let _span = tracing::debug_span!("merge", ?segment).entered();
    let widened;
    let updates = if segment.granularity > Granularity::Day {
        widened = widen(segment.granularity, updates);
        std::slice::from_ref(&widened)
    } else {
        updates
    };
    let mut updates = Updates::new(updates);
    let next = updates.next();
    let out = RowWriter { segment, split, parts: BTreeMap::new() };
    let mut merging = Merging { updates, next, out };
    let mut files = Vec::with_capacity(live.len());
    for (file, bytes) in live {
        files.push(LiveRows {
            batches: read_segment(&file, bytes)?,
            path: file.path,
            columns: None,
            row: 0,
            key: Vec::new(),
        });
    }
    match files.as_mut_slice() {
        [file] => merging.one(file)?,
        files => merging.several(files)?,
    }
    while let Some((cell, update)) = merging.next {
        merging.out.push_cell(cell, update)?;
        merging.next = merging.updates.next();
    }
    merging.out.finish(name)
}

/// Turns updates of day windows into updates of the longer windows that contain them, sorted. Updates of such longer windows stay
/// as they are.
fn widen(granularity: Granularity, parts: &[Part]) -> Part {
    let mut sums = TallyMap::default();
    let mut key = Vec::new();
    for part in parts {
        for &index in &part.indices {
            let cell = CellParts::of(part.run.cell(index as usize)).expect("roll_up wrote the bytes of a cell");
            key.clear();
            key.extend_from_slice(&Run::HEAD);
            key.extend_from_slice(cell.head);
            Cell::encode_tail(granularity.window_start(cell.window_start, Zone::Utc), cell.value, &mut key);
            sums.add(&key, part.run.tally(index as usize));
        }
    }
    let mut cells: Vec<_> = sums.iter().collect();
    cells.sort_unstable_by_key(|(key, _)| *key);
    let mut run = Run::default();
    cells.into_iter().for_each(|(key, tally)| run.push(key, tally));
    let indices = (0..run.len() as u32).collect();
    Part { run: Arc::new(run), indices }
}

/// The rows of a live file, one after the other.
struct LiveRows {
    path: String,
    batches: Batches,
    columns: Option<Columns>,
    row: usize,
    /// The row's cell, as bytes that sort.
    key: Vec<u8>,
}

impl LiveRows {
    /// The next batch that has rows.
    fn batch(&mut self) -> Result<Option<Columns>, TableError> {
        let corrupt =
            |what: String| TableError::Corrupt { table: "counts".to_owned(), what: format!("{}: {what}", self.path) };
        for batch in self.batches.by_ref() {
            let columns = Columns::of(&batch.map_err(|error| corrupt(error.to_string()))?).map_err(corrupt)?;
            if !columns.is_empty() {
                return Ok(Some(columns));
            }
        }
        Ok(None)
    }

    /// Moves to the next row. Returns whether there is one.
    fn advance(&mut self) -> Result<bool, TableError> {
        self.row += 1;
        if self.columns.as_ref().is_none_or(|columns| self.row >= columns.len()) {
            self.columns = self.batch()?;
            self.row = 0;
        }
        if let Some(columns) = &self.columns {
            row_key(columns, self.row, &mut self.key);
        }
        Ok(self.columns.is_some())
    }
}

struct Merging<'a> {
    updates: Updates<'a>,
    next: Option<(&'a [u8], Tally)>,
    out: RowWriter,
}

impl Merging<'_> {
    fn one(&mut self, file: &mut LiveRows) -> Result<(), TableError> {
        let mut key = Vec::new();
        while let Some(columns) = file.batch()? {
            row_key(&columns, columns.len() - 1, &mut key);
            if !self.out.split && self.next.is_none_or(|(cell, _)| cell > key.as_slice()) {
                self.out.pass(columns)?;
                continue;
            }
            for row in 0..columns.len() {
                row_key(&columns, row, &mut key);
                self.row(&columns, row, &key)?;
            }
        }
        Ok(())
    }

    fn several(&mut self, files: &mut [LiveRows]) -> Result<(), TableError> {
        let mut least = BinaryHeap::with_capacity(files.len());
        for (number, file) in files.iter_mut().enumerate() {
            if file.advance()? {
                least.push(Reverse((std::mem::take(&mut file.key), number)));
            }
        }
        while let Some(Reverse((key, number))) = least.pop() {
            let file = &mut files[number];
            if let Some(columns) = &file.columns {
                self.row(columns, file.row, &key)?;
            }
            file.key = key;
            if file.advance()? {
                least.push(Reverse((std::mem::take(&mut file.key), number)));
            }
        }
        Ok(())
    }

    /// Writes a live row, after the updates that sort before it.
    fn row(&mut self, columns: &Columns, row: usize, key: &[u8]) -> Result<(), TableError> {
        let mut tally = Tally { event_count: columns.event_count.value(row) };
        while let Some((cell, update)) = self.next {
            match cell.cmp(key) {
                Ordering::Less => {
                    self.out.push_cell(cell, update)?;
                    self.next = self.updates.next();
                }
                Ordering::Equal => {
                    tally.plus_equals(&update);
                    self.next = self.updates.next();
                    break;
                }
                Ordering::Greater => break,
            }
        }
        if tally.event_count < 0 {
            return Err(below_zero(self.out.segment, key, tally));
        }
        if tally.is_zero() { Ok(()) } else { self.out.push_row(columns, row, tally) }
    }
}

fn row_key(columns: &Columns, row: usize, key: &mut Vec<u8>) {
    key.clear();
    Cell::encode(
        columns.customer.value(row).as_bytes(),
        columns.dimension.value(row).as_bytes(),
        columns.window_start.value(row),
        columns.value.value(row).as_bytes(),
        key,
    );
}

fn below_zero(segment: Segment, cell: &[u8], tally: Tally) -> TableError {
    TableError::Corrupt {
        table: "counts".to_owned(),
        what: format!(
            "{segment:?}: the cell {:?} would fall to {}; counts and archive disagree, nothing was committed: run `floodmark verify`",
            Cell::decode(cell),
            tally.event_count
        ),
    }
}

/// Several sorted parts, read as one: tallies of equal cells are summed, and sums of zero are left out.
struct Updates<'a> {
    parts: &'a [Part],
    /// The least cell first: cell, number of the part, index in the part.
    heap: BinaryHeap<Reverse<(&'a [u8], usize, usize)>>,
}

impl<'a> Updates<'a> {
    fn new(parts: &'a [Part]) -> Self {
        let heap = (parts.iter().enumerate())
            .filter_map(|(number, part)| Some(Reverse((part.run.cell(*part.indices.first()? as usize), number, 0))))
            .collect();
        Updates { parts, heap }
    }

    fn next(&mut self) -> Option<(&'a [u8], Tally)> {
        loop {
            let (cell, mut tally) = self.pop()?;
            while self.heap.peek().is_some_and(|Reverse((other, _, _))| *other == cell) {
                if let Some((_, other)) = self.pop() {
                    tally.plus_equals(&other);
                }
            }
            if !tally.is_zero() {
                return Some((cell, tally));
            }
        }
    }

    fn pop(&mut self) -> Option<(&'a [u8], Tally)> {
        let Reverse((cell, number, at)) = self.heap.pop()?;
        let part = &self.parts[number];
        if let Some(&index) = part.indices.get(at + 1) {
            self.heap.push(Reverse((part.run.cell(index as usize), number, at + 1)));
        }
        Some((cell, part.run.tally(part.indices[at] as usize)))
    }
}

/// A segment being written, row by row: into one file, or into one for each of the shortest periods.
struct RowWriter {
    segment: Segment,
    split: bool,
    /// The files, by start of their period.
    parts: BTreeMap<TimeUs, FileWriter>,
}

impl RowWriter {
    fn push_cell(&mut self, cell: &[u8], tally: Tally) -> Result<(), TableError> {
        if tally.event_count < 0 {
            return Err(below_zero(self.segment, cell, tally));
        }
        let decoded =
            Cell::decode(cell).ok_or_else(|| TableError::Bug(format!("an update of counts is no cell: {cell:?}")))?;
        let part = self.part(decoded.window_start)?;
        part.rows.push(&decoded.customer, &decoded.dimension, decoded.window_start, &decoded.value, tally);
        part.flush_if_full()
    }

    fn push_row(&mut self, columns: &Columns, row: usize, tally: Tally) -> Result<(), TableError> {
        let window_start = columns.window_start.value(row);
        let part = self.part(window_start)?;
        part.rows.push(
            columns.customer.value(row),
            columns.dimension.value(row),
            window_start,
            columns.value.value(row),
            tally,
        );
        part.flush_if_full()
    }

    fn pass(&mut self, columns: Columns) -> Result<(), TableError> {
        let part = self.part(self.segment.period_start)?;
        part.flush()?;
        part.writer.write(columns)
    }

    /// The file that takes a window.
    fn part(&mut self, window_start: TimeUs) -> Result<&mut FileWriter, TableError> {
        let Segment { granularity, bucket, .. } = self.segment;
        let segment = match self.split {
            true => Segment::holding(granularity, bucket, granularity.ladder()[0], window_start),
            false => self.segment,
        };
        Ok(match self.parts.entry(segment.period_start) {
            Entry::Occupied(part) => part.into_mut(),
            Entry::Vacant(free) => {
                free.insert(FileWriter { writer: SegmentWriter::new(segment)?, rows: RowBuilder::new() })
            }
        })
    }

    fn finish(self, name: &str) -> Result<Vec<(File, Bytes)>, TableError> {
        let mut files = Vec::with_capacity(self.parts.len());
        for mut part in self.parts.into_values() {
            part.flush()?;
            files.extend(part.writer.finish(name)?);
        }
        Ok(files)
    }
}

/// A file being written, row by row.
struct FileWriter {
    writer: SegmentWriter,
    rows: RowBuilder,
}

impl FileWriter {
    fn flush_if_full(&mut self) -> Result<(), TableError> {
        if self.rows.is_full() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), TableError> {
        let columns = self.rows.finish();
        self.writer.write(columns)
    }
}

struct RowBuilder {
    customer: StringBuilder,
    dimension: StringBuilder,
    window_start: TimestampMicrosecondBuilder,
    value: StringBuilder,
    event_count: Int64Builder,
}

impl RowBuilder {
    fn new() -> Self {
        RowBuilder {
            customer: StringBuilder::new(),
            dimension: StringBuilder::new(),
            window_start: TimestampMicrosecondBuilder::new(),
            value: StringBuilder::new(),
            event_count: Int64Builder::new(),
        }
    }

    fn push(&mut self, customer: &str, dimension: &str, window_start: i64, value: &str, tally: Tally) {
        self.customer.append_value(customer);
        self.dimension.append_value(dimension);
        self.window_start.append_value(window_start);
        self.value.append_value(value);
        self.event_count.append_value(tally.event_count);
    }

    fn is_full(&self) -> bool {
        use arrow::array::ArrayBuilder;
        let bytes = self.customer.values_slice().len() + self.value.values_slice().len();
        self.event_count.len() >= BATCH_ROWS || bytes >= BATCH_BYTES
    }

    fn finish(&mut self) -> Columns {
        Columns {
            customer: self.customer.finish(),
            dimension: self.dimension.finish(),
            window_start: self.window_start.finish(),
            value: self.value.finish(),
            event_count: self.event_count.finish(),
        }
    }
}
