//! The dataset of a replay: every cell that it would change, with the old and the new count, as Parquet that anyone can query.
//!
//! In: changes of one granularity and bucket, sorted as files of `counts` are. Out: one sorted sequence, in files
//! `replays/<id>/cells/granularity=<g>/bucket=<b>/part-<n>.parquet`. Their columns are customer_id, window_start, window_end, dimension,
//! dimension_value, old_count and new_count; a count is 0 where there is no row. State: one part, encoded in memory. Restart: a second run
//! writes the same files again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, AsArray, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondArray, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use bytes::Bytes;
use object_store::path::Path;
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use crate::model::{Cell, CellParts, Granularity, Period, TimeUs};
use crate::replay::request::submission::Submission;
use crate::table::counts::{schema_of_cells, window_ends};
use crate::table::fetch::Batches;
use crate::table::store::{read_file, write_file};
use crate::table::{Root, TableError};

/// Approximate size at which a part ends: it is encoded in memory.
const PART_BYTES_MAX: usize = 64 << 20;

/// Rows of a batch, and the bytes of its texts at which it ends earlier.
const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: usize = 8 << 20;
const ROW_GROUP_ROWS: usize = 262_144;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| schema_of_cells(&["old_count", "new_count"]));

/// The columns of the dataset, except `granularity` and `bucket`, which are in the names of its folders.
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// A cell that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The cell.
    pub cell: Cell,
    /// What `counts` has; 0 if there is no row.
    pub old: i64,
    /// What it would have; 0 if there is no row.
    pub new: i64,
}

/// A [`Cell`], borrowed.
#[derive(Clone, Copy)]
pub struct CellRef<'a> {
    /// Customer.
    pub customer: &'a str,
    /// Name of the dimension.
    pub dimension: &'a str,
    /// Start of the window.
    pub window_start: TimeUs,
    /// Value of the dimension.
    pub value: &'a str,
}

impl CellRef<'_> {
    /// Borrows from a cell.
    pub fn of(cell: &Cell) -> CellRef<'_> {
        let Cell { customer, dimension, window_start, value } = cell;
        CellRef { customer, dimension, window_start: *window_start, value }
    }

    /// An owned copy.
    pub fn to_cell(self) -> Cell {
        Cell {
            customer: self.customer.to_owned(),
            dimension: self.dimension.to_owned(),
            window_start: self.window_start,
            value: self.value.to_owned(),
        }
    }
}

/// Reads cells without an allocation for each: neighbours usually share their customer and dimension.
#[derive(Default)]
pub struct CellReader {
    head: Vec<u8>,
    customer: String,
    dimension: String,
}

impl CellReader {
    /// Reads a cell from its bytes.
    pub fn read<'a>(&'a mut self, cell: &'a [u8]) -> Option<CellRef<'a>> {
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

/// One file of the dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellFile {
    /// Its path beside the tables.
    pub path: String,
    /// Granularity of its cells.
    pub granularity: Granularity,
    /// Bucket of their customers.
    pub bucket: u16,
    /// Number of rows.
    pub rows: u64,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Rows by the day in which their windows begin; days in µs.
    pub days: BTreeMap<TimeUs, u64>,
}

/// Writes the changes of one granularity and bucket, in order.
pub struct DatasetWriter {
    root: Root,
    id: String,
    granularity: Granularity,
    bucket: u16,
    rows: ChangeColumns,
    encoder: Option<ArrowWriter<Vec<u8>>>,
    part: CellFile,
    /// The day of the newest rows, and how many rows in succession have it.
    day: Option<(TimeUs, u64)>,
    parts: Vec<CellFile>,
}

impl DatasetWriter {
    /// Starts a sequence. No file is written before the first change.
    pub fn new(root: &Root, id: &str, granularity: Granularity, bucket: u16) -> DatasetWriter {
        DatasetWriter {
            root: root.clone(),
            id: id.to_owned(),
            granularity,
            bucket,
            rows: ChangeColumns::default(),
            encoder: None,
            part: empty_part(id, granularity, bucket, 0),
            day: None,
            parts: Vec::new(),
        }
    }

    /// Appends a change. Returns whether the part is full; then call [`DatasetWriter::store`] before the next change.
    ///
    /// # Errors
    /// [`TableError::Bug`] when the encoder fails.
    pub fn push(&mut self, change: &Change) -> Result<bool, TableError> {
        let Change { cell, old, new } = change;
        self.push_row(CellRef::of(cell), *old, *new)
    }

    /// Appends a change from borrowed parts; otherwise as [`DatasetWriter::push`].
    ///
    /// # Errors
    /// As [`DatasetWriter::push`].
    pub fn push_row(&mut self, cell: CellRef<'_>, old: i64, new: i64) -> Result<bool, TableError> {
        let CellRef { customer, dimension, window_start, value } = cell;
        self.rows.push(customer, dimension, window_start, value, old, new);
        self.part.rows += 1;
        let day = Period::Day.start(window_start);
        match &mut self.day {
            Some((same, rows)) if *same == day => *rows += 1,
            other => {
                let done = other.replace((day, 1));
                self.count_day(done);
            }
        }
        if !self.part.rows.is_multiple_of(BATCH_ROWS as u64) && self.rows.bytes() < BATCH_BYTES {
            return Ok(false);
        }
        self.flush()?;
        Ok(self.encoder.as_ref().is_some_and(|it| it.bytes_written() + it.in_progress_size() > PART_BYTES_MAX))
    }

    fn count_day(&mut self, done: Option<(TimeUs, u64)>) {
        if let Some((day, rows)) = done {
            *self.part.days.entry(day).or_default() += rows;
        }
    }

    fn flush(&mut self) -> Result<(), TableError> {
        let batch = self.rows.finish(self.granularity);
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            None => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                    .build();
                self.encoder.insert(ArrowWriter::try_new(Vec::new(), schema(), Some(properties)).map_err(encoding)?)
            }
        };
        encoder.write(&batch).map_err(encoding)
    }

    /// Ends the current part and stores it.
    ///
    /// # Errors
    /// [`TableError::Bug`] when the encoder fails; [`TableError::Storage`].
    pub async fn store(&mut self) -> Result<(), TableError> {
        self.flush()?;
        let done = self.day.take();
        self.count_day(done);
        let Some(encoder) = self.encoder.take() else { return Ok(()) };
        let bytes = encoder.into_inner().map_err(encoding)?;
        let next = empty_part(&self.id, self.granularity, self.bucket, self.parts.len() + 1);
        let mut part = std::mem::replace(&mut self.part, next);
        part.size_bytes = bytes.len() as u64;
        write_file(self.root.store().as_ref(), &part.path, Bytes::from(bytes)).await?;
        self.parts.push(part);
        Ok(())
    }

    /// Ends the sequence, and returns its files.
    ///
    /// # Errors
    /// As [`DatasetWriter::store`].
    pub async fn finish(mut self) -> Result<Vec<CellFile>, TableError> {
        self.store().await?;
        Ok(self.parts)
    }
}

fn empty_part(id: &str, granularity: Granularity, bucket: u16, number: usize) -> CellFile {
    let name = format!("cells/granularity={granularity}/bucket={bucket}/part-{number:05}.parquet");
    CellFile { path: Submission::path(id, &name), granularity, bucket, rows: 0, size_bytes: 0, days: BTreeMap::new() }
}

fn encoding(error: parquet::errors::ParquetError) -> TableError {
    TableError::Bug(format!("cannot encode the changes: {error}"))
}

#[derive(Default)]
struct ChangeColumns {
    customer: StringBuilder,
    window_start: TimestampMicrosecondBuilder,
    dimension: StringBuilder,
    value: StringBuilder,
    old: Int64Builder,
    new: Int64Builder,
}

impl ChangeColumns {
    fn push(&mut self, customer: &str, dimension: &str, window_start: TimeUs, value: &str, old: i64, new: i64) {
        self.customer.append_value(customer);
        self.window_start.append_value(window_start);
        self.dimension.append_value(dimension);
        self.value.append_value(value);
        self.old.append_value(old);
        self.new.append_value(new);
    }

    fn bytes(&self) -> usize {
        self.customer.values_slice().len() + self.value.values_slice().len()
    }

    fn finish(&mut self, granularity: Granularity) -> RecordBatch {
        let starts = self.window_start.finish();
        let ends = window_ends(granularity, &starts);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.customer.finish()),
            Arc::new(starts.with_timezone("UTC")),
            Arc::new(ends),
            Arc::new(self.dimension.finish()),
            Arc::new(self.value.finish()),
            Arc::new(self.old.finish()),
            Arc::new(self.new.finish()),
        ];
        RecordBatch::try_new(schema(), columns).expect("every builder got one value a row, of its column's type")
    }
}

/// Reads the changes of a part, in order; only those of windows that begin in `windows`.
///
/// # Errors
/// [`TableError::Storage`]; [`TableError::Corrupt`], also from the iterator.
pub async fn read(
    root: &Root,
    file: &CellFile,
    windows: Range<TimeUs>,
) -> Result<impl Iterator<Item = Result<Change, TableError>> + use<>, TableError> {
    let corrupt = {
        let path = file.path.clone();
        move |what: String| TableError::Corrupt { table: "replays".to_owned(), what: format!("{path}: {what}") }
    };
    let bytes =
        read_file(root.store().as_ref(), &Path::from(file.path.as_str())).await.map_err(|error| match error {
            object_store::Error::NotFound { .. } => {
                corrupt("the file is in the summary, but it does not exist".to_owned())
            }
            error => TableError::storage(format!("reading {}", file.path), error),
        })?;
    let batches = Batches::open(bytes, None, None, BATCH_ROWS).map_err(|error| corrupt(error.to_string()))?;
    if batches.schema().fields() != SCHEMA.fields() {
        return Err(corrupt(format!("found columns {:?}, expected {:?}", batches.schema().fields(), SCHEMA.fields())));
    }
    Ok(batches.flat_map(move |batch| match batch {
        Ok(batch) => changes_of(&batch, &windows).into_iter().map(Ok).collect::<Vec<_>>(),
        Err(error) => vec![Err(corrupt(error.to_string()))],
    }))
}

/// The changes of a batch whose columns were checked.
fn changes_of(batch: &RecordBatch, windows: &Range<TimeUs>) -> Vec<Change> {
    let text = |index: usize| batch.column(index).as_string::<i32>();
    let (customers, dimensions, values) = (text(0), text(3), text(4));
    let starts: &TimestampMicrosecondArray = batch.column(1).as_primitive::<TimestampMicrosecondType>();
    let number = |index: usize| batch.column(index).as_primitive::<Int64Type>();
    let (old, new) = (number(5), number(6));
    (0..batch.num_rows())
        .filter(|row| windows.contains(&starts.value(*row)))
        .map(|row| Change {
            cell: Cell {
                customer: customers.value(row).to_owned(),
                dimension: dimensions.value(row).to_owned(),
                window_start: starts.value(row),
                value: values.value(row).to_owned(),
            },
            old: old.value(row),
            new: new.value(row),
        })
        .collect()
}
