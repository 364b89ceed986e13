//! The merge of one segment: rows of its live files and updates, both in file order, become new files.
//!
//! In: [`Group`]s of the live files, [`Updates`]. Out: rows and copied row groups in a [`SegmentWriter`], one for each file.
//! Ordering: an update belongs to the first row group that ends at or after its cell; updates after the last group follow it. With a
//! single live file, a row group that no update belongs to is copied as bytes. State: a few row groups of each file that is read
//! or written. Failure: a cell below zero is refused. Runs on a thread that may block.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use differential_dataflow::difference::{IsZero, Semigroup};
use tokio::sync::mpsc::{Receiver, Sender};

use super::updates::Updates;
use crate::model::{Cell, Period, Segment, Tally, TimeUs};
use crate::table::fetch::Batches;
use crate::table::segment::{Columns, Group, PART_BYTES, Part, Requests, Rows, SegmentWriter, Shape, Sink, path_of};
use crate::table::{File, TableError};

/// What a merge made, and what it cost.
#[derive(Default)]
pub(super) struct Made {
    /// The new files.
    pub(super) files: Vec<File>,
    /// Rows that were decoded.
    pub(super) decoded: u64,
    /// Bytes that were copied.
    pub(super) copied_bytes: u64,
    /// How long it waited for the store.
    pub(super) waited: Duration,
}

/// What a merge writes.
pub(super) struct Target {
    /// The segment.
    pub(super) segment: Segment,
    /// If given, each of these periods of the segment gets a file of its own.
    pub(super) split: Option<Period>,
    /// Name of the files.
    pub(super) name: String,
    /// How large everything is.
    pub(super) sizes: Sizes,
}

/// How large row groups, parts of uploads and requests are.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Of the row groups of a file.
    pub(super) shape: fn(&Segment) -> Shape,
    /// Of a part of an upload, in bytes.
    pub(super) part_bytes: usize,
    /// Of requests that read; a window is shared by all live files of a segment.
    pub(super) requests: Requests,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes { shape: Shape::of, part_bytes: PART_BYTES, requests: Requests::default() }
    }
}

/// A merge under way.
pub(super) struct Merging<'a> {
    segment: Segment,
    updates: Updates<'a>,
    next: Option<(&'a [u8], Tally)>,
    outs: Outs,
    merged: Made,
}

impl<'a> Merging<'a> {
    /// A merge of `updates`.
    pub(super) fn new(target: Target, mut updates: Updates<'a>, parts: Sender<Part>) -> Merging<'a> {
        let next = updates.next();
        let segment = target.segment;
        let outs = Outs { target, parts, files: BTreeMap::new() };
        Merging { segment, updates, next, outs, merged: Made::default() }
    }

    /// Merges the live files, and ends the new ones.
    pub(super) fn run(mut self, live: Vec<Receiver<Option<Group>>>) -> Result<Made, TableError> {
        let mut live: Vec<_> = live.into_iter().map(LiveRows::of).collect();
        match live.as_mut_slice() {
            [file] if self.outs.target.split.is_none() => self.one(file)?,
            files => self.several(files)?,
        }
        while let Some((cell, update)) = self.next {
            self.outs.push_cell(cell, update)?;
            self.next = self.updates.next();
        }
        self.merged.decoded += live.iter().map(|file| file.decoded).sum::<u64>();
        self.merged.waited += live.iter().map(|file| file.waited).sum::<Duration>();
        self.outs.end(&mut self.merged)?;
        Ok(self.merged)
    }

    fn one(&mut self, file: &mut LiveRows) -> Result<(), TableError> {
        let start = self.segment.period_start;
        while let Some(group) = file.group()? {
            let out = self.outs.of(start)?;
            let is_touched = match (group.last_cell(), self.next) {
                (None, _) => true,
                (_, None) => false,
                (Some(last), Some((cell, _))) => {
                    cell <= last.as_slice() || group.is_last() && out.writer.is_small(&group)
                }
            };
            if !is_touched && out.may_copy(&group)? {
                self.merged.copied_bytes += out.writer.copy(&group)?;
            } else {
                self.decode(file, &group)?;
            }
        }
        Ok(())
    }

    fn decode(&mut self, file: &mut LiveRows, group: &Group) -> Result<(), TableError> {
        let mut key = Vec::new();
        file.batches = Some(group.batches()?);
        while let Some(columns) = file.batch()? {
            columns.key(columns.len() - 1, &mut key);
            if self.next.is_none_or(|(cell, _)| cell > key.as_slice()) {
                self.outs.of(self.segment.period_start)?.pass(columns)?;
                continue;
            }
            for row in 0..columns.len() {
                columns.key(row, &mut key);
                self.row(&columns, row, &key)?;
            }
        }
        group.check_last(&key)
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
                    self.outs.push_cell(cell, update)?;
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
            return Err(below_zero(self.segment, key, tally));
        }
        if tally.is_zero() { Ok(()) } else { self.outs.push_row(columns, row, tally) }
    }
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

/// The rows of a live file, one after the other.
struct LiveRows {
    groups: Receiver<Option<Group>>,
    /// Of the file.
    path: String,
    batches: Option<Batches>,
    columns: Option<Columns>,
    row: usize,
    /// The row's cell, as bytes that sort.
    key: Vec<u8>,
    decoded: u64,
    waited: Duration,
}

impl LiveRows {
    fn of(groups: Receiver<Option<Group>>) -> LiveRows {
        let (path, key, waited) = (String::new(), Vec::new(), Duration::ZERO);
        LiveRows { groups, path, batches: None, columns: None, row: 0, key, decoded: 0, waited }
    }

    /// The next row group.
    fn group(&mut self) -> Result<Option<Group>, TableError> {
        let started = Instant::now();
        let group = self.groups.blocking_recv();
        self.waited += started.elapsed();
        // Whoever reads the file has the reason.
        let group = group.ok_or_else(|| TableError::Bug(format!("{}: not read to its end", self.path)))?;
        if let Some(group) = group.as_ref().filter(|group| self.path != group.path()) {
            self.path = group.path().to_owned();
        }
        Ok(group)
    }

    /// The next batch of the row group that has rows.
    fn batch(&mut self) -> Result<Option<Columns>, TableError> {
        let path = &self.path;
        let corrupt =
            |what: String| TableError::Corrupt { table: "counts".to_owned(), what: format!("{path}: {what}") };
        for batch in self.batches.iter_mut().flatten() {
            let columns = Columns::of(&batch.map_err(|error| corrupt(error.to_string()))?).map_err(corrupt)?;
            if !columns.is_empty() {
                self.decoded += columns.len() as u64;
                return Ok(Some(columns));
            }
        }
        Ok(None)
    }

    /// Moves to the next row. Returns whether there is one.
    fn advance(&mut self) -> Result<bool, TableError> {
        self.row += 1;
        if self.columns.as_ref().is_none_or(|columns| self.row >= columns.len()) {
            self.row = 0;
            self.columns = self.batch()?;
            while self.columns.is_none() {
                let Some(group) = self.group()? else { return Ok(false) };
                self.batches = Some(group.batches()?);
                self.columns = self.batch()?;
            }
        }
        if let Some(columns) = &self.columns {
            columns.key(self.row, &mut self.key);
        }
        Ok(true)
    }
}

/// The new files: one, or one for each period of a split, by its start.
struct Outs {
    target: Target,
    parts: Sender<Part>,
    files: BTreeMap<TimeUs, RowWriter>,
}

impl Outs {
    /// The file that takes a window.
    fn of(&mut self, window_start: TimeUs) -> Result<&mut RowWriter, TableError> {
        let Target { segment, split, name, sizes } = &self.target;
        let segment = match *split {
            Some(period) => Segment::holding(segment.granularity, segment.bucket, period, window_start),
            None => *segment,
        };
        Ok(match self.files.entry(segment.period_start) {
            std::collections::btree_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                let sink = Sink::new(path_of(&segment, name), sizes.part_bytes, self.parts.clone());
                let writer = SegmentWriter::to(segment, (sizes.shape)(&segment), sink)?;
                free.insert(RowWriter { writer, rows: Rows::default() })
            }
        })
    }

    fn push_cell(&mut self, cell: &[u8], tally: Tally) -> Result<(), TableError> {
        if tally.event_count < 0 {
            return Err(below_zero(self.target.segment, cell, tally));
        }
        let decoded = Cell::decode(cell)
            .ok_or_else(|| TableError::Bug(format!("the key of an update of counts is not a cell: {cell:?}")))?;
        let out = self.of(decoded.window_start)?;
        out.rows.push(&decoded.customer, &decoded.dimension, decoded.window_start, &decoded.value, tally);
        out.flush_if_full()
    }

    fn push_row(&mut self, columns: &Columns, row: usize, tally: Tally) -> Result<(), TableError> {
        let window_start = columns.window_start.value(row);
        let out = self.of(window_start)?;
        let (customer, dimension) = (columns.customer.value(row), columns.dimension.value(row));
        out.rows.push(customer, dimension, window_start, columns.value.value(row), tally);
        out.flush_if_full()
    }

    /// Ends the files; those without rows are not stored.
    fn end(self, merged: &mut Made) -> Result<(), TableError> {
        for mut out in self.files.into_values() {
            out.flush()?;
            if let Some((file, sink)) = out.writer.end(&self.target.name)? {
                merged.waited += sink.end().map_err(|error| TableError::Bug(format!("{}: {error}", file.path)))?;
                merged.files.push(file);
            }
        }
        Ok(())
    }
}

/// A file that is written, row by row.
struct RowWriter {
    writer: SegmentWriter<Sink>,
    rows: Rows,
}

impl RowWriter {
    /// Whether a row group may be copied after the rows so far.
    fn may_copy(&mut self, group: &Group) -> Result<bool, TableError> {
        self.flush()?;
        Ok(self.writer.takes(group))
    }

    fn pass(&mut self, columns: Columns) -> Result<(), TableError> {
        self.flush()?;
        self.writer.write(columns)
    }

    fn flush_if_full(&mut self) -> Result<(), TableError> {
        if self.rows.is_full() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), TableError> {
        let columns = self.rows.finish();
        self.writer.write(columns)
    }
}
