//! Sorts rows of `raw` by (event time, partition, offset) in bounded memory, whatever their number.
//!
//! In: batches. Out: the same rows in batches, sorted; rows without an event time come first. State: up to [`MEMORY_BYTES`] of
//! rows; beyond that, sorted runs are written to temporary files without a name, and are merged at the end. At most [`RUNS_MAX`]
//! runs are open at once: when there are that many, they are first merged into one. A kill leaves nothing behind.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::Seek;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::error::CompactError;
use crate::table::fetch::{Batches, Fetched};
use crate::table::raw::file_schema;

/// Bytes of rows in memory before they become a run.
const MEMORY_BYTES: usize = 40 << 20;

/// Runs that are read at once; each takes a page of each column and a batch of rows.
const RUNS_MAX: usize = 24;

/// Rows of about this many bytes are read from a run, or passed on, at once.
const RUN_BATCH_BYTES: usize = 256 << 10;
const OUT_BATCH_BYTES: usize = 4 << 20;

pub(super) const BATCH_ROWS_MAX: usize = 4096;

/// If the current batches of all runs hold more bytes than this, rows are passed on one by one: together they might not fit into
/// one batch.
const HELD_BYTES_MAX: usize = 1 << 30;

/// Takes rows, then gives them back sorted.
pub(super) struct Sorter {
    memory_bytes: usize,
    batches: Vec<RecordBatch>,
    bytes: usize,
    runs: Vec<RunFile>,
}

/// Sorted rows in a temporary file.
struct RunFile {
    file: File,
    row_bytes: usize,
}

/// Takes sorted batches.
pub(super) trait Sink {
    /// Takes the next one.
    fn take(&mut self, batch: &RecordBatch) -> Result<(), CompactError>;
}

impl<F: FnMut(&RecordBatch) -> Result<(), CompactError>> Sink for F {
    fn take(&mut self, batch: &RecordBatch) -> Result<(), CompactError> {
        self(batch)
    }
}

/// How many rows of this size make this many bytes.
fn batch_rows(bytes: usize, row_bytes: usize) -> usize {
    (bytes / row_bytes.max(1)).clamp(1, BATCH_ROWS_MAX)
}

impl Sorter {
    pub(super) fn new() -> Sorter {
        Sorter::with_memory(MEMORY_BYTES)
    }

    pub(super) fn with_memory(memory_bytes: usize) -> Sorter {
        Sorter { memory_bytes, batches: Vec::new(), bytes: 0, runs: Vec::new() }
    }

    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<(), CompactError> {
        self.bytes += batch.get_array_memory_size();
        self.batches.push(batch);
        if self.bytes > self.memory_bytes { self.spill() } else { Ok(()) }
    }

    /// Gives all rows to `sink`, sorted.
    pub(super) fn finish(mut self, sink: &mut impl Sink) -> Result<(), CompactError> {
        if self.runs.is_empty() {
            return sort(&self.batches, self.bytes, sink);
        }
        if !self.batches.is_empty() {
            self.spill()?;
        }
        merge(self.runs, sink)
    }

    fn spill(&mut self) -> Result<(), CompactError> {
        if self.runs.len() >= RUNS_MAX {
            let runs = std::mem::take(&mut self.runs);
            self.runs.push(run(|sink| merge(runs, sink))?);
        }
        let batches = std::mem::take(&mut self.batches);
        let bytes = std::mem::take(&mut self.bytes);
        self.runs.push(run(|sink| sort(&batches, bytes, sink))?);
        Ok(())
    }
}

/// What rows are sorted by; `None` comes first.
type Key = (Option<i64>, i32, i64);

fn keys(batch: &RecordBatch) -> impl Fn(usize) -> Key + use<> {
    let column = |name| batch.column_by_name(name).expect("all columns of raw, as it was checked");
    let times = column("event_time").as_primitive::<TimestampMicrosecondType>().clone();
    let partitions = column("kafka_partition").as_primitive::<Int32Type>().clone();
    let offsets = column("kafka_offset").as_primitive::<Int64Type>().clone();
    move |row| (times.is_valid(row).then(|| times.value(row)), partitions.value(row), offsets.value(row))
}

fn sort(batches: &[RecordBatch], bytes: usize, sink: &mut impl Sink) -> Result<(), CompactError> {
    let mut order: Vec<(Key, u32, u32)> = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    for (index, batch) in batches.iter().enumerate() {
        let key = keys(batch);
        order.extend((0..batch.num_rows()).map(|row| (key(row), index as u32, row as u32)));
    }
    order.sort_unstable();
    let batches: Vec<&RecordBatch> = batches.iter().collect();
    let rows = batch_rows(OUT_BATCH_BYTES, bytes / order.len().max(1));
    for chunk in order.chunks(rows) {
        let places: Vec<(usize, usize)> =
            chunk.iter().map(|(_, batch, row)| (*batch as usize, *row as usize)).collect();
        sink.take(&interleave_record_batch(&batches, &places).map_err(CompactError::bug)?)?;
    }
    Ok(())
}

/// Writes a run: `rows` passes its rows to the sink.
fn run(rows: impl FnOnce(&mut RunWriter) -> Result<(), CompactError>) -> Result<RunFile, CompactError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_data_page_size_limit(RUN_BATCH_BYTES)
        .set_write_batch_size(64)
        .set_max_row_group_bytes(Some(4 << 20))
        .build();
    let file = tempfile::tempfile().map_err(CompactError::Scratch)?;
    let writer = ArrowWriter::try_new(file, file_schema(), Some(properties)).map_err(CompactError::bug)?;
    let mut writer = RunWriter { writer, rows: 0, bytes: 0 };
    rows(&mut writer)?;
    let row_bytes = writer.bytes / writer.rows.max(1);
    let mut file = writer.writer.into_inner().map_err(CompactError::scratch)?;
    file.rewind().map_err(CompactError::Scratch)?;
    Ok(RunFile { file, row_bytes })
}

struct RunWriter {
    writer: ArrowWriter<File>,
    rows: usize,
    bytes: usize,
}

impl Sink for RunWriter {
    fn take(&mut self, batch: &RecordBatch) -> Result<(), CompactError> {
        self.rows += batch.num_rows();
        self.bytes += batch.get_array_memory_size();
        self.writer.write(batch).map_err(CompactError::scratch)
    }
}

/// A run that is being read.
struct Cursor {
    reader: Batches,
    batch: RecordBatch,
    key: Box<dyn Fn(usize) -> Key>,
    row: usize,
}

impl Cursor {
    /// `None` when the run is at its end.
    fn open(mut reader: Batches) -> Result<Option<Cursor>, CompactError> {
        while let Some(batch) = reader.next().transpose().map_err(|error| CompactError::scratch(error.into()))? {
            if batch.num_rows() > 0 {
                let key = Box::new(keys(&batch));
                return Ok(Some(Cursor { reader, batch, key, row: 0 }));
            }
        }
        Ok(None)
    }
}

fn merge(runs: Vec<RunFile>, sink: &mut impl Sink) -> Result<(), CompactError> {
    let mut cursors: Vec<Option<Cursor>> = Vec::with_capacity(runs.len());
    for run in runs {
        let reader = Fetched::of_disk(run.file).batches(None, None, batch_rows(RUN_BATCH_BYTES, run.row_bytes));
        cursors.push(Cursor::open(reader.map_err(CompactError::scratch)?)?);
    }
    let mut heap: BinaryHeap<Reverse<(Key, usize)>> = BinaryHeap::with_capacity(cursors.len());
    let next = |cursors: &[Option<Cursor>], run: usize| {
        cursors[run].as_ref().map(|cursor| Reverse(((cursor.key)(cursor.row), run)))
    };
    heap.extend((0..cursors.len()).filter_map(|run| next(&cursors, run)));
    let held = |cursors: &[Option<Cursor>]| {
        cursors.iter().flatten().map(|cursor| cursor.batch.get_array_memory_size()).sum::<usize>()
    };
    let mut held_bytes = held(&cursors);
    // Places of rows in the current batches of the runs. They are passed on before a run goes to its next batch.
    let mut places: Vec<(usize, usize)> = Vec::new();
    while let Some(Reverse((_, run))) = heap.pop() {
        let Some(cursor) = &mut cursors[run] else { continue };
        places.push((run, cursor.row));
        cursor.row += 1;
        let at_end = cursor.row == cursor.batch.num_rows();
        if at_end || held_bytes > HELD_BYTES_MAX {
            pass_on(&cursors, &mut places, sink)?;
        }
        if at_end && let Some(Cursor { reader, .. }) = cursors[run].take() {
            cursors[run] = Cursor::open(reader)?;
            held_bytes = held(&cursors);
        }
        heap.extend(next(&cursors, run));
    }
    pass_on(&cursors, &mut places, sink)
}

fn pass_on(
    cursors: &[Option<Cursor>],
    places: &mut Vec<(usize, usize)>,
    sink: &mut impl Sink,
) -> Result<(), CompactError> {
    if places.is_empty() {
        return Ok(());
    }
    let empty = RecordBatch::new_empty(file_schema());
    let batches: Vec<&RecordBatch> =
        cursors.iter().map(|cursor| cursor.as_ref().map_or(&empty, |cursor| &cursor.batch)).collect();
    let rows = interleave_record_batch(&batches, places).map_err(CompactError::bug)?;
    places.clear();
    sink.take(&rows)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Outcome, RecordRef, Records, TimestampType};
    use crate::table::raw::RawRows;

    /// Rows in which whatever may be null is null, empty or set; event times in no order.
    fn batches(number: usize, rows: usize) -> Vec<RecordBatch> {
        let mut seed = 88_172_645_463_325_252_u64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        let mut gathered = RawRows::new(Arc::from(["a".to_owned(), "b".to_owned()]));
        (0..number)
            .map(|batch| {
                for row in 0..rows {
                    let mut records = Records::default();
                    let bytes = vec![b'x'; random(300) as usize];
                    let some = |bytes, what| (what > 0).then_some(bytes);
                    let headers: Vec<(&[u8], Option<&[u8]>)> =
                        [(&b"h"[..], Some(&b""[..])), (b"h", None), (b"", Some(b"v"))][random(4).min(3) as usize..]
                            .to_vec();
                    let record = RecordRef {
                        epoch: 1 + batch as u64,
                        ingested_at: batch as i64,
                        topic: random(2) as u16,
                        partition: random(3) as i32,
                        offset: (batch * rows + row) as i64,
                        timestamp_ms: (random(5) > 0).then_some(7),
                        timestamp_type: TimestampType::CreateTime,
                        key: some(&b""[..], random(2)),
                        value: some(&bytes[..], random(9)),
                    };
                    records.push(record, headers);
                    gathered.push(&records, 0, &Outcome::Counted, (random(6) > 0).then(|| random(50) as i64));
                }
                gathered.finish()
            })
            .collect()
    }

    /// Rows as text, in their order.
    fn lines(batches: &[RecordBatch]) -> Vec<String> {
        let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
        writer.write_batches(&batches.iter().collect::<Vec<_>>()).expect("JSON");
        writer.finish().expect("JSON");
        String::from_utf8(writer.into_inner()).expect("UTF-8").lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_same_rows_sorted_whatever_the_memory() {
        let given = batches(150, 20);
        let mut expected = lines(&given);
        expected.sort();
        // All in memory; a few runs; more runs than may be open, some of one batch.
        for memory_bytes in [usize::MAX, 200_000, 1] {
            let mut sorter = Sorter::with_memory(memory_bytes);
            for batch in &given {
                sorter.push(batch.clone()).expect("room for runs");
            }
            let mut sorted = Vec::new();
            sorter
                .finish(&mut |batch: &RecordBatch| {
                    sorted.push(batch.clone());
                    Ok(())
                })
                .expect("runs can be read");
            let order: Vec<Key> = sorted.iter().flat_map(|batch| (0..batch.num_rows()).map(keys(batch))).collect();
            assert!(order.is_sorted(), "with {memory_bytes} bytes");
            let mut found = lines(&sorted);
            found.sort();
            assert!(found == expected, "with {memory_bytes} bytes: other rows");
        }
    }
}
