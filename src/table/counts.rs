//! The table `counts`: one row per cell, in segments. `schemas/counts.json` describes its columns.
//!
//! A segment is one Parquet file per version, sorted by (customer_id, dimension, window_start, dimension_value). This module has
//! its path, its encoder and its reader; updates are merged into it by [`crate::dataflow`]'s `merge`.
//!
//! In: the columns of a segment, in file order. Out: the bytes of its file with its entry for the log; and back, batches of at most
//! [`BATCH_ROWS`] rows. State: what is encoded of one segment. Failure: what can not be encoded is a bug, what can not be read is a
//! damaged table.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use bytes::Bytes;
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::error::TableError;
use super::fetch::Batches;
use super::state::time_type;
use super::state::{Definition, File, State};
use super::stats::Stats;
use crate::model::{Epoch, Granularity, Lane, Period, Segment, TimeUs, Zone};

/// The table property that pins the number of buckets.
pub const BUCKETS: &str = "floodmark.buckets";

/// The table property that says how many bytes of unpublished updates the job may hold, in all of its processes.
const PENDING_BYTES_MAX: &str = "floodmark.pending_bytes_max";

/// How many bytes of unpublished updates the job that wrote the table may hold; `None` if an older build wrote it.
pub fn pending_bytes_max(state: &State) -> Option<u64> {
    state.properties.get(PENDING_BYTES_MAX)?.parse().ok()
}

/// The table property for this budget of unpublished updates, of all processes together.
pub fn pending_properties(budget_bytes: u64) -> BTreeMap<String, String> {
    BTreeMap::from([(PENDING_BYTES_MAX.to_owned(), budget_bytes.to_string())])
}

/// How many bytes of updates may be fed from the archive at a start before some must be published. What a job held within its
/// budget fits into a budget of the same size, however many rows it came from. So there is a bound only if the budget is smaller
/// now.
pub fn feed_bytes_max(state: &State, budget_bytes: u64) -> u64 {
    match pending_bytes_max(state) {
        Some(held) if held > budget_bytes => budget_bytes,
        _ => u64::MAX,
    }
}

/// Rows of a batch, in reading and in writing, and bytes of texts at which it is cut: a customer's id may be as large as a record.
pub const BATCH_ROWS: usize = 8192;
pub(crate) const BATCH_BYTES: usize = 8 << 20;

/// Rows in a row group, and in a page: to read one customer's series should cost a few pages.
const ROW_GROUP_ROWS: usize = 262_144;
const PAGE_ROWS: usize = 8192;

/// The application transaction that holds a lane's epoch.
pub fn lane_txn(lane: Lane) -> String {
    format!("lane/{}", lane.name())
}

/// The epoch of each lane of [`Lane::ALL`].
pub fn lane_epochs(counts: &State) -> [Epoch; Lane::ALL.len()] {
    Lane::ALL.map(|lane| counts.txn(&lane_txn(lane)) as Epoch)
}

/// The application transaction that says up to which time (ms) a lane is complete.
pub fn complete_until_txn(lane: Lane) -> String {
    format!("complete_until/{}", lane.name())
}

/// The parameter in the history of `counts` that says how long a lane waits between two publishes.
pub fn interval_parameter(lane: Lane) -> String {
    format!("interval/{}", lane.name())
}

static FILE_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| schema_of_cells(&["event_count"]));

/// The columns that say which cell a row is of, followed by integers of these names.
pub fn schema_of_cells(integers: &[&str]) -> SchemaRef {
    let mut fields = vec![
        Field::new("customer_id", DataType::Utf8, false),
        Field::new("window_start", time_type(), false),
        Field::new("window_end", time_type(), false),
        Field::new("dimension", DataType::Utf8, false),
        Field::new("dimension_value", DataType::Utf8, false),
    ];
    fields.extend(integers.iter().map(|name| Field::new(*name, DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

/// The columns of a file: all but the partition columns.
pub fn file_schema() -> SchemaRef {
    Arc::clone(&FILE_SCHEMA)
}

/// The table as it is created, with this many buckets.
pub fn definition(buckets: u32) -> Definition {
    let mut fields: Vec<_> = FILE_SCHEMA.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("granularity", DataType::Utf8, false)));
    fields.push(Arc::new(Field::new("period", DataType::Utf8, false)));
    fields.push(Arc::new(Field::new("bucket", DataType::Int32, false)));
    Definition {
        schema: Arc::new(Schema::new(fields)),
        partitioned_by: &["granularity", "period", "bucket"],
        properties: BTreeMap::from([
            (BUCKETS.to_owned(), buckets.to_string()),
            ("delta.checkpointInterval".to_owned(), "100".to_owned()),
        ]),
    }
}

/// The number of buckets that the table was made with.
///
/// # Errors
/// [`TableError::Corrupt`] when its property is not a power of two.
pub fn buckets(state: &State) -> Result<u32, TableError> {
    let found = state.properties.get(BUCKETS).map(String::as_str).unwrap_or_default();
    match found.parse::<u32>() {
        Ok(buckets) if buckets.is_power_of_two() && buckets <= 1 << 16 => Ok(buckets),
        _ => Err(TableError::Corrupt {
            table: "counts".to_owned(),
            what: format!("property {BUCKETS} = {found:?}, expected a power of two"),
        }),
    }
}

/// The segment that a live file holds.
///
/// # Errors
/// [`TableError::Corrupt`] when its partition values are not a segment's.
pub fn segment_of(file: &File) -> Result<Segment, TableError> {
    let value = |name: &str| file.partition.get(name).map(String::as_str).unwrap_or_default();
    let segment = || {
        let granularity: Granularity = value("granularity").parse().ok()?;
        let bucket = value("bucket").parse().ok()?;
        let (period, period_start) = Period::parse(value("period"), granularity)?;
        let known = granularity.ladder().contains(&period) || granularity.former() == Some(period);
        known.then_some(Segment { granularity, bucket, period, period_start })
    };
    segment().ok_or_else(|| TableError::Corrupt {
        table: "counts".to_owned(),
        what: format!(
            "{}: its partition values {:?} do not name a granularity, a period and a bucket",
            file.path, file.partition
        ),
    })
}

/// Encodes one segment from columns that arrive in order.
pub struct SegmentWriter {
    segment: Segment,
    writer: ArrowWriter<Vec<u8>>,
}

/// Rows of a segment in columns, in file order.
pub struct Columns {
    /// customer_id
    pub customer: StringArray,
    /// dimension
    pub dimension: StringArray,
    /// window_start
    pub window_start: TimestampMicrosecondArray,
    /// dimension_value
    pub value: StringArray,
    /// event_count
    pub event_count: Int64Array,
}

impl Columns {
    /// The columns of a batch as a [`SegmentWriter`] wrote it.
    ///
    /// # Errors
    /// A text that says which column is not as expected.
    pub fn of(batch: &RecordBatch) -> Result<Columns, String> {
        let column = |name: &str, wanted: &DataType| match batch.column_by_name(name) {
            Some(column) if column.data_type() == wanted => Ok(column),
            Some(column) => Err(format!("column {name} has type {}, expected {wanted}", column.data_type())),
            None => Err(format!("column {name} is missing")),
        };
        Ok(Columns {
            customer: column("customer_id", &DataType::Utf8)?.as_string::<i32>().clone(),
            dimension: column("dimension", &DataType::Utf8)?.as_string::<i32>().clone(),
            window_start: column("window_start", &time_type())?.as_primitive::<TimestampMicrosecondType>().clone(),
            value: column("dimension_value", &DataType::Utf8)?.as_string::<i32>().clone(),
            event_count: column("event_count", &DataType::Int64)?.as_primitive::<Int64Type>().clone(),
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.customer.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The ends of the windows with these starts, as a column.
pub(crate) fn window_ends(granularity: Granularity, starts: &TimestampMicrosecondArray) -> TimestampMicrosecondArray {
    // Neighbours mostly share their window, so the end of a month is computed once and not for each row.
    let mut last = (TimeUs::MIN, TimeUs::MIN);
    let ends: Vec<TimeUs> = (starts.values().iter())
        .map(|&start| {
            if last.0 != start {
                last = (start, granularity.window_end(start, Zone::Utc));
            }
            last.1
        })
        .collect();
    TimestampMicrosecondArray::from(ends).with_timezone("UTC")
}

impl SegmentWriter {
    /// An empty segment.
    ///
    /// # Errors
    /// [`TableError::Bug`] when the encoder refuses the schema.
    pub fn new(segment: Segment) -> Result<Self, TableError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_data_page_row_count_limit(PAGE_ROWS)
            .build();
        let writer = ArrowWriter::try_new(Vec::new(), file_schema(), Some(properties)).map_err(encoding)?;
        Ok(SegmentWriter { segment, writer })
    }

    /// Appends rows.
    ///
    /// # Errors
    /// [`TableError::Bug`] when the encoder fails.
    pub fn write(&mut self, columns: Columns) -> Result<(), TableError> {
        if columns.is_empty() {
            return Ok(());
        }
        let ends = window_ends(self.segment.granularity, &columns.window_start);
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(columns.customer),
            Arc::new(columns.window_start.with_timezone("UTC")),
            Arc::new(ends),
            Arc::new(columns.dimension),
            Arc::new(columns.value),
            Arc::new(columns.event_count),
        ];
        let batch = RecordBatch::try_new(file_schema(), arrays).map_err(|error| encoding(error.into()))?;
        self.writer.write(&batch).map_err(encoding)
    }

    /// Ends the segment; `None` where it has no rows. `name` distinguishes the file from all others.
    ///
    /// # Errors
    /// [`TableError::Bug`] when the encoder fails.
    pub fn finish(mut self, name: &str) -> Result<Option<(File, Bytes)>, TableError> {
        self.writer.flush().map_err(encoding)?;
        let stats = Stats::of(self.writer.flushed_row_groups());
        if stats.rows() == 0 {
            return Ok(None);
        }
        let bytes = self.writer.into_inner().map_err(encoding)?;
        let granularity = self.segment.granularity;
        let period = self.segment.period.label(self.segment.period_start);
        let bucket = self.segment.bucket;
        let file = File {
            path: format!("granularity={granularity}/period={period}/bucket={bucket}/{name}.parquet"),
            size: bytes.len() as u64,
            rows: stats.rows(),
            partition: BTreeMap::from([
                ("granularity".to_owned(), granularity.name().to_owned()),
                ("period".to_owned(), period),
                ("bucket".to_owned(), bucket.to_string()),
            ]),
            stats: stats.into_json(),
        };
        Ok(Some((file, Bytes::from(bytes))))
    }
}

/// Reads a segment's file, in batches of at most [`BATCH_ROWS`].
///
/// # Errors
/// [`TableError::Corrupt`] when it is no Parquet file.
pub fn read_segment(file: &File, bytes: Bytes) -> Result<Batches, TableError> {
    Batches::open(bytes, None, None, BATCH_ROWS)
        .map_err(|error| TableError::Corrupt { table: "counts".to_owned(), what: format!("{}: {error}", file.path) })
}

fn encoding(error: parquet::errors::ParquetError) -> TableError {
    TableError::Bug(format!("a segment of counts can not be encoded: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_has_a_bound_where_the_budget_is_smaller_than_it_was() {
        let of = |properties| State { properties, ..State::default() };
        assert_eq!(feed_bytes_max(&of(BTreeMap::new()), 100), u64::MAX);
        assert_eq!(feed_bytes_max(&of(pending_properties(100)), 100), u64::MAX);
        assert_eq!(feed_bytes_max(&of(pending_properties(101)), 100), 100);
    }
}
