//! `merge`: a lane's pending updates into the segments that are live.
//!
//! In: sorted runs of updates, and each segment's live file. Out: one new file per touched segment, stored, in one `Staged`.
//! The live file is read a batch at a time beside the updates, both in file order; batches that no update touches are passed
//! on whole. State: one encoded segment a task, [`SEGMENTS_AT_ONCE`] tasks. A cell below zero refuses the publish.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use bytes::Bytes;
use differential_dataflow::difference::{IsZero, Semigroup};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;

use super::protocol::Staged;
use crate::model::{Cell, Segment, Tally};
use crate::table::counts::{BATCH_ROWS, Columns, SegmentWriter, read_segment};
use crate::table::store::{read_file, write_file};
use crate::table::{File, Log, TableError};

/// Segments that a worker merges at once.
const SEGMENTS_AT_ONCE: usize = 4;

/// Bytes of an update's key before the cell: lane, then segment.
const LANE: usize = 1;
const SEGMENT: usize = 11;

/// Updates of one lane and epoch, sorted by segment and cell, in two allocations.
#[derive(Debug, Default)]
pub struct Run {
    keys: Vec<u8>,
    updates: Vec<(usize, Tally)>,
}

impl Run {
    /// The part of an update's key that a run keeps: all but the lane.
    pub fn key_of(key: &[u8]) -> &[u8] {
        &key[LANE..]
    }

    /// Appends an update; keys come sorted.
    pub fn push(&mut self, key: &[u8], tally: Tally) {
        self.keys.extend_from_slice(key);
        self.updates.push((self.keys.len(), tally));
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.keys.capacity() + self.updates.capacity() * size_of::<(usize, Tally)>()
    }

    fn key(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.updates[index - 1].0 };
        &self.keys[start..self.updates[index].0]
    }

    /// Where each segment's updates stand.
    fn segments(&self) -> Vec<(Segment, Range<usize>)> {
        let mut segments: Vec<(Segment, Range<usize>)> = Vec::new();
        let mut head: &[u8] = &[];
        for index in 0..self.updates.len() {
            let key = self.key(index);
            if &key[..SEGMENT] == head {
                if let Some((_, range)) = segments.last_mut() {
                    range.end = index + 1;
                }
            } else {
                head = &key[..SEGMENT];
                segments.push((segment_of(key), index..index + 1));
            }
        }
        segments
    }
}

fn segment_of(key: &[u8]) -> Segment {
    let mut whole = vec![0; LANE];
    whole.extend_from_slice(&key[..SEGMENT]);
    Cell::decode_head(&whole).expect("a run's keys begin with a segment").1
}

/// One worker's part of a publish order.
pub struct Merge {
    /// The order.
    pub order: u64,
    /// Its attempt.
    pub attempt: u32,
    /// Name of its files.
    pub name: String,
    /// The table `counts`.
    pub log: Log,
}

/// One segment's updates in a run.
pub type RunPart = (Arc<Run>, Range<usize>);

/// A segment to be merged: its live file and its updates.
pub struct Work {
    segment: Segment,
    live: Option<File>,
    updates: Vec<RunPart>,
}

impl Merge {
    /// Sorts runs by segment, and looks up what is live.
    pub fn plan(&self, runs: Vec<Arc<Run>>, live: impl Fn(Segment) -> Option<File>) -> Vec<Work> {
        let mut segments: BTreeMap<Segment, Vec<RunPart>> = BTreeMap::new();
        for run in runs {
            for (segment, range) in run.segments() {
                segments.entry(segment).or_default().push((Arc::clone(&run), range));
            }
        }
        segments.into_iter().map(|(segment, updates)| Work { segment, live: live(segment), updates }).collect()
    }

    /// Merges every segment and stores the new files.
    ///
    /// # Errors
    /// [`TableError::Corrupt`] when a cell would fall below zero or a live file can not be read; [`TableError::Storage`].
    pub async fn stage(&self, work: Vec<Work>) -> Result<Staged, TableError> {
        let staged = Staged { order: self.order, attempt: self.attempt, add: Vec::new(), remove: Vec::new() };
        futures::stream::iter(work)
            .map(|work| self.merge_one(work))
            .buffer_unordered(SEGMENTS_AT_ONCE)
            .try_fold(staged, async |mut staged, (add, remove)| {
                staged.add.extend(add);
                staged.remove.extend(remove);
                Ok(staged)
            })
            .await
    }

    async fn merge_one(&self, work: Work) -> Result<(Option<File>, Option<File>), TableError> {
        let live = match &work.live {
            Some(file) => {
                let path = Path::from(file.path.as_str());
                let reading = |error| TableError::storage(format!("reading {path} of table counts"), error);
                let bytes = read_file(self.log.store().as_ref(), &path).await.map_err(reading)?;
                Some((file.clone(), bytes))
            }
            None => None,
        };
        let name = self.name.clone();
        let (segment, updates) = (work.segment, work.updates);
        let encoded =
            tokio::task::spawn_blocking(move || merge(segment, live, &updates, &name)).await.map_err(|error| {
                TableError::Corrupt { table: "counts".to_owned(), what: format!("a merge failed: {error}") }
            })??;
        match encoded {
            Some((file, bytes)) => {
                write_file(self.log.store().as_ref(), &file.path, bytes).await?;
                Ok((Some(file), work.live))
            }
            None => Ok((None, work.live)),
        }
    }
}

/// Merges updates into a segment's rows; `None` where no row is left.
fn merge(
    segment: Segment,
    live: Option<(File, Bytes)>,
    updates: &[RunPart],
    name: &str,
) -> Result<Option<(File, Bytes)>, TableError> {
    let _span = tracing::debug_span!("merge", ?segment).entered();
    let mut updates = Updates::new(updates);
    let mut out = Output { writer: SegmentWriter::new(segment)?, rows: RowBuilder::new() };
    let mut next = updates.next();
    if let Some((file, bytes)) = live {
        let corrupt =
            |what: String| TableError::Corrupt { table: "counts".to_owned(), what: format!("{}: {what}", file.path) };
        let mut key = Vec::new();
        for batch in read_segment(&file, bytes)? {
            let batch = batch.map_err(|error| corrupt(error.to_string()))?;
            let columns = Columns::of(&batch).map_err(corrupt)?;
            if columns.is_empty() {
                continue;
            }
            row_key(&columns, columns.len() - 1, &mut key);
            if next.is_none_or(|(cell, _)| cell > key.as_slice()) {
                out.pass(columns)?;
                continue;
            }
            for row in 0..columns.len() {
                row_key(&columns, row, &mut key);
                let mut tally = Tally { event_count: columns.event_count.value(row) };
                while let Some((cell, update)) = next {
                    match cell.cmp(key.as_slice()) {
                        Ordering::Less => {
                            out.push_cell(segment, cell, update)?;
                            next = updates.next();
                        }
                        Ordering::Equal => {
                            tally.plus_equals(&update);
                            next = updates.next();
                            break;
                        }
                        Ordering::Greater => break,
                    }
                }
                if tally.event_count < 0 {
                    return Err(below_zero(segment, &key, tally));
                }
                if !tally.is_zero() {
                    out.push_row(&columns, row, tally)?;
                }
            }
        }
    }
    while let Some((cell, update)) = next {
        out.push_cell(segment, cell, update)?;
        next = updates.next();
    }
    out.flush()?;
    out.writer.finish(name)
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

/// Several sorted runs as one, with the tallies of equal cells summed and zeros left out.
struct Updates<'a> {
    runs: &'a [RunPart],
    /// Least first: cell, run, index in it.
    heap: BinaryHeap<Reverse<(&'a [u8], usize, usize)>>,
}

impl<'a> Updates<'a> {
    fn new(runs: &'a [RunPart]) -> Self {
        let heap = (runs.iter().enumerate())
            .filter(|(_, (_, range))| !range.is_empty())
            .map(|(number, (run, range))| Reverse((&run.key(range.start)[SEGMENT..], number, range.start)))
            .collect();
        Updates { runs, heap }
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
        let Reverse((cell, number, index)) = self.heap.pop()?;
        let (run, range) = &self.runs[number];
        if index + 1 < range.end {
            self.heap.push(Reverse((&run.key(index + 1)[SEGMENT..], number, index + 1)));
        }
        Some((cell, run.updates[index].1))
    }
}

struct Output {
    writer: SegmentWriter,
    rows: RowBuilder,
}

impl Output {
    fn push_cell(&mut self, segment: Segment, cell: &[u8], tally: Tally) -> Result<(), TableError> {
        if tally.event_count < 0 {
            return Err(below_zero(segment, cell, tally));
        }
        let decoded = Cell::decode(cell).ok_or_else(|| TableError::Corrupt {
            table: "counts".to_owned(),
            what: format!("an update is no cell: {cell:?}"),
        })?;
        self.rows.push(&decoded.customer, &decoded.dimension, decoded.window_start, &decoded.value, tally);
        self.flush_if_full()
    }

    fn push_row(&mut self, columns: &Columns, row: usize, tally: Tally) -> Result<(), TableError> {
        self.rows.push(
            columns.customer.value(row),
            columns.dimension.value(row),
            columns.window_start.value(row),
            columns.value.value(row),
            tally,
        );
        self.flush_if_full()
    }

    fn pass(&mut self, columns: Columns) -> Result<(), TableError> {
        self.flush()?;
        self.writer.write(columns)
    }

    fn flush_if_full(&mut self) -> Result<(), TableError> {
        if self.rows.event_count_len() < BATCH_ROWS { Ok(()) } else { self.flush() }
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

    fn event_count_len(&self) -> usize {
        use arrow::array::ArrayBuilder;
        self.event_count.len()
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
