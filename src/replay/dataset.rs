//! What a replay found: every cell that would change, from what to what, as Parquet that anyone can query; and its summary.
//!
//! `replays/<id>/cells/granularity=<g>/bucket=<b>/part-<n>.parquet`: customer_id, window_start, window_end, dimension,
//! dimension_value, old_count, new_count; 0 where there is no row. The parts of a granularity and bucket are one sequence, sorted
//! as files of `counts` are. `replays/<id>/rows/` has the rows of `raw` whose outcome is another one. `replays/<id>/summary.json` is
//! written last, and once: with it a replay is complete.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, AsArray, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondArray, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use bytes::Bytes;
use foldhash::fast::FixedState;
use object_store::path::Path;
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use super::submission::Submission;
use crate::model::{Cell, Granularity, Period, TimeUs, rfc3339};
use crate::table::counts::window_ends;
use crate::table::fetch::Batches;
use crate::table::store::{create_file, load_json, read_file, write_file};
use crate::table::{Root, TableError, time_type};

/// A part is at most about so many bytes: it is encoded in memory.
const PART_BYTES_MAX: usize = 64 << 20;

/// Rows of a batch, and bytes of its texts after which it is no longer.
const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: usize = 8 << 20;
const ROW_GROUP_ROWS: usize = 262_144;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("customer_id", DataType::Utf8, false),
        Field::new("window_start", time_type(), false),
        Field::new("window_end", time_type(), false),
        Field::new("dimension", DataType::Utf8, false),
        Field::new("dimension_value", DataType::Utf8, false),
        Field::new("old_count", DataType::Int64, false),
        Field::new("new_count", DataType::Int64, false),
    ]))
});

/// The columns of the dataset, but for `granularity` and `bucket`, which its folders name.
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// A cell that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The cell.
    pub cell: Cell,
    /// What `counts` has; 0 is no row.
    pub old: i64,
    /// What it would have; 0 is no row.
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
    /// Of a cell.
    pub fn of(cell: &Cell) -> CellRef<'_> {
        let Cell { customer, dimension, window_start, value } = cell;
        CellRef { customer, dimension, window_start: *window_start, value }
    }

    /// A cell of its own.
    pub fn to_cell(self) -> Cell {
        Cell {
            customer: self.customer.to_owned(),
            dimension: self.dimension.to_owned(),
            window_start: self.window_start,
            value: self.value.to_owned(),
        }
    }
}

/// One file of the dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its path beside the tables.
    pub path: String,
    /// Granularity of its cells.
    pub granularity: Granularity,
    /// Bucket of their customers.
    pub bucket: u16,
    /// Rows.
    pub rows: u64,
    /// Size.
    pub size_bytes: u64,
    /// Rows by the day in which their windows begin, µs.
    pub days: BTreeMap<TimeUs, u64>,
}

/// Writes the changes of one granularity and bucket, in order.
pub struct Writer {
    root: Root,
    id: String,
    granularity: Granularity,
    bucket: u16,
    rows: Rows,
    encoder: Option<ArrowWriter<Vec<u8>>>,
    part: Part,
    /// The day of the newest rows, and how many there are of it in a row.
    day: Option<(TimeUs, u64)>,
    parts: Vec<Part>,
}

impl Writer {
    /// Nothing is written before there is a change.
    pub fn new(root: &Root, id: &str, granularity: Granularity, bucket: u16) -> Writer {
        Writer {
            root: root.clone(),
            id: id.to_owned(),
            granularity,
            bucket,
            rows: Rows::default(),
            encoder: None,
            part: empty_part(id, granularity, bucket, 0),
            day: None,
            parts: Vec::new(),
        }
    }

    /// Appends a change; whether a part is full: then [`Writer::store`] it before the next one.
    ///
    /// # Errors
    /// [`TableError::Bug`] when the encoder fails.
    pub fn push(&mut self, change: &Change) -> Result<bool, TableError> {
        let Change { cell, old, new } = change;
        self.push_row(CellRef::of(cell), *old, *new)
    }

    /// The same, of a cell that is elsewhere.
    ///
    /// # Errors
    /// As [`Writer::push`].
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

    /// Ends a part and stores it.
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

    /// Ends the sequence.
    ///
    /// # Errors
    /// As [`Writer::store`].
    pub async fn finish(mut self) -> Result<Vec<Part>, TableError> {
        self.store().await?;
        Ok(self.parts)
    }
}

fn empty_part(id: &str, granularity: Granularity, bucket: u16, number: usize) -> Part {
    let name = format!("cells/granularity={granularity}/bucket={bucket}/part-{number:05}.parquet");
    Part { path: Submission::path(id, &name), granularity, bucket, rows: 0, size_bytes: 0, days: BTreeMap::new() }
}

fn encoding(error: parquet::errors::ParquetError) -> TableError {
    TableError::Bug(format!("changes can not be encoded: {error}"))
}

#[derive(Default)]
struct Rows {
    customer: StringBuilder,
    window_start: TimestampMicrosecondBuilder,
    dimension: StringBuilder,
    value: StringBuilder,
    old: Int64Builder,
    new: Int64Builder,
}

impl Rows {
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

/// The changes of a part, in order; only those of windows that begin in `windows`.
///
/// # Errors
/// [`TableError::Storage`]; [`TableError::Corrupt`], also from the iterator.
pub async fn read(
    root: &Root,
    part: &Part,
    windows: Range<TimeUs>,
) -> Result<impl Iterator<Item = Result<Change, TableError>> + use<>, TableError> {
    let corrupt = {
        let path = part.path.clone();
        move |what: String| TableError::Corrupt { table: "replays".to_owned(), what: format!("{path}: {what}") }
    };
    let bytes =
        read_file(root.store().as_ref(), &Path::from(part.path.as_str())).await.map_err(|error| match error {
            object_store::Error::NotFound { .. } => {
                corrupt("it is in the summary, but there is no such file".to_owned())
            }
            error => TableError::storage(format!("reading {}", part.path), error),
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

/// Of a batch whose columns were checked.
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

/// How many cells change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// There is no row now.
    pub added: u64,
    /// There is a row, and it would count something else.
    pub changed: u64,
    /// There would be no row any more.
    pub removed: u64,
}

impl Changes {
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
    pub fn merge(&mut self, other: Changes) {
        self.added += other.added;
        self.changed += other.changed;
        self.removed += other.removed;
    }
}

/// Changes of one granularity, dimension and day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The granularity.
    pub granularity: Granularity,
    /// The dimension.
    pub dimension: String,
    /// The day in which the windows begin, as 2026-01-13.
    pub day: String,
    /// How many cells change.
    #[serde(flatten)]
    pub changes: Changes,
    /// Sum of what they count now.
    pub old_count: i64,
    /// Sum of what they would count.
    pub new_count: i64,
}

/// Sums of changes by granularity, dimension and day.
#[derive(Default, Serialize, Deserialize)]
pub struct Groups(Vec<(Granularity, String, HashMap<TimeUs, Sums, FixedState>)>);

/// How many, what they count now, what they would count.
type Sums = (Changes, i64, i64);

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
    fn days(&mut self, granularity: Granularity, dimension: &str) -> &mut HashMap<TimeUs, Sums, FixedState> {
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
    pub fn changes(&self) -> Changes {
        let mut all = Changes::default();
        self.0.iter().flat_map(|(_, _, days)| days.values()).for_each(|(changes, _, _)| all.merge(*changes));
        all
    }

    /// The groups, in order.
    pub fn finish(self) -> Vec<Group> {
        let groups = self.0.into_iter().flat_map(|(granularity, dimension, days)| {
            days.into_iter().map(move |(day, (changes, old_count, new_count))| Group {
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
    /// A change, as it is told.
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
pub struct Outcomes {
    /// On arrival: counted, filtered, or rejected with its reason.
    pub on_arrival: String,
    /// With the replay's logic.
    pub now: String,
    /// How many.
    pub rows: u64,
}

/// A window that lies only partly in the range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Partly {
    /// The granularity.
    pub granularity: Granularity,
    /// The window's start, RFC 3339.
    pub window_start: String,
    /// The window's end, RFC 3339.
    pub window_end: String,
    /// Dimensions that stay as they are in it, because it lies only partly in the range; the others get the part's difference.
    pub left_alone: Vec<String>,
}

/// What a replay found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Cells that change.
    pub cells: Changes,
    /// The same by granularity, dimension and day.
    pub groups: Vec<Group>,
    /// The largest changes, of the finest windows.
    pub largest: Vec<Largest>,
    /// Rows of `raw` in range: of all customers, also where only some are recounted.
    pub rows_in_range: u64,
    /// Of them, those that count.
    pub rows_counted: u64,
    /// Rows whose outcome is another one now: of all customers, as a rejected row has none.
    pub outcomes: Vec<Outcomes>,
    /// Windows that lie only partly in the range.
    pub partly: Vec<Partly>,
    /// How often memory was full and sorted runs went to the store.
    pub spilled: u64,
    /// The files of the dataset.
    pub parts: Vec<Part>,
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
