//! The table `raw`: every record as it came, with its outcome. `schemas/raw.json` describes its columns.
//!
//! In: chunks of records with their outcomes. Out: Parquet files of one epoch and one [`Kind`]; and, for a restart, those
//! rows again as records. Nothing here decides anything: the archive keeps what it is given.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, Int32Builder, Int64Builder, ListBuilder, RecordBatch, StringBuilder,
    StructBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Fields, Int32Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};

use super::fetch::Fetched;
use super::log::{Definition, File, State};
use super::stats::Stats;
use super::{TableError, time_type};
use crate::model::{
    Arrival, Epoch, Granularity, Outcome, Period, Reason, RecordRef, Records, TimeUs, TimestampType, plausible_ms,
};

/// The application transaction that names the newest epoch.
pub const EPOCH: &str = "epoch";

/// The application transaction that says how many rows were ever archived: where live files hold fewer, somebody removed some.
pub const ROWS: &str = "rows";

/// Event times further than this from Kafka's timestamp are kept in files apart, so that pruning works for the rest.
pub const STRAY_US: i64 = 3_600_000_000;

/// Rows in a row group: bounds what a reader holds.
const ROW_GROUP_ROWS: usize = 65_536;
const ROW_GROUP_BYTES: usize = 64 << 20;

/// Rows read back at a time, at most.
const READ_BATCH_ROWS: usize = 4096;

/// Bytes of a row, and of a header, beside their texts.
const ROW_BYTES: usize = 64;
const HEADER_BYTES: usize = 8;

/// The application transaction that holds a partition's next offset: all below it is archived, or is no record (a marker of a
/// transaction, a record of an aborted one).
pub fn offset_txn(topic: &str, partition: i32) -> String {
    format!("kafka/{topic}/{partition}")
}

/// The application transaction that holds the check of a partition's last record.
pub fn check_txn(topic: &str, partition: i32) -> String {
    format!("kafka/{topic}/{partition}/check")
}

/// The application transaction that holds the offset of a partition's last record, where that is not the next offset − 1.
pub fn last_txn(topic: &str, partition: i32) -> String {
    format!("kafka/{topic}/{partition}/last")
}

/// Which file of an epoch a row goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Event time close to Kafka's timestamp.
    Main,
    /// Rejected, no event time, or a stray one.
    Apart,
}

impl Kind {
    /// Both.
    pub const ALL: [Kind; 2] = [Kind::Main, Kind::Apart];

    /// The kind of a row.
    pub fn of(record: &RecordRef<'_>, outcome: &Outcome, event_time: Option<TimeUs>) -> Kind {
        let near = match (event_time, record.timestamp_ms.and_then(plausible_ms)) {
            (Some(event), Some(ms)) => event.abs_diff(ms * 1000) <= STRAY_US as u64,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if near && !matches!(outcome, Outcome::Rejected(_)) { Kind::Main } else { Kind::Apart }
    }

    /// The kind of a file: its name ends in it. `None` where another program has named it.
    pub fn of_file(file: &File) -> Option<Kind> {
        let name = file.path.strip_suffix(".parquet")?;
        Kind::ALL.into_iter().find(|kind| name.ends_with(&format!("-{}", kind.name())))
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Main => "main",
            Kind::Apart => "apart",
        }
    }
}

fn header_fields() -> Fields {
    Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)])
}

static FILE_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let header = Field::new("element", DataType::Struct(header_fields()), false);
    Arc::new(Schema::new(vec![
        Field::new("epoch", DataType::Int64, false),
        Field::new("ingested_at", time_type(), false),
        Field::new("kafka_topic", DataType::Utf8, false),
        Field::new("kafka_partition", DataType::Int32, false),
        Field::new("kafka_offset", DataType::Int64, false),
        Field::new("kafka_timestamp", time_type(), true),
        Field::new("kafka_timestamp_type", DataType::Utf8, false),
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, true),
        Field::new("headers", DataType::List(Arc::new(header)), false),
        Field::new("event_time", time_type(), true),
        Field::new("outcome", DataType::Utf8, false),
        Field::new("reason", DataType::Utf8, true),
        Field::new("field", DataType::Utf8, true),
        Field::new("expected", DataType::Utf8, true),
        Field::new("found", DataType::Utf8, true),
    ]))
});

/// The columns of a file: all but the partition column.
pub fn file_schema() -> SchemaRef {
    Arc::clone(&FILE_SCHEMA)
}

/// The table as it is made.
pub fn definition() -> Definition {
    let mut fields: Vec<_> = FILE_SCHEMA.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("ingest_date", DataType::Date32, false)));
    Definition {
        schema: Arc::new(Schema::new(fields)),
        partitioned_by: &["ingest_date"],
        properties: BTreeMap::from([("delta.checkpointInterval".to_owned(), "100".to_owned())]),
    }
}

/// Rows of `raw`, being gathered into a batch.
pub struct Rows {
    topics: Arc<[String]>,
    epoch: Int64Builder,
    ingested_at: TimestampMicrosecondBuilder,
    topic: StringBuilder,
    partition: Int32Builder,
    offset: Int64Builder,
    timestamp: TimestampMicrosecondBuilder,
    timestamp_type: StringBuilder,
    key: BinaryBuilder,
    value: BinaryBuilder,
    headers: ListBuilder<StructBuilder>,
    event_time: TimestampMicrosecondBuilder,
    outcome: StringBuilder,
    rejection: [StringBuilder; 4],
    bytes: usize,
}

impl Rows {
    /// No rows yet; `topics` are the job's.
    pub fn new(topics: Arc<[String]>) -> Self {
        let time = || TimestampMicrosecondBuilder::new().with_timezone("UTC");
        let header = StructBuilder::from_fields(header_fields(), 0);
        let element = Field::new("element", DataType::Struct(header_fields()), false);
        Rows {
            topics,
            epoch: Int64Builder::new(),
            ingested_at: time(),
            topic: StringBuilder::new(),
            partition: Int32Builder::new(),
            offset: Int64Builder::new(),
            timestamp: time(),
            timestamp_type: StringBuilder::new(),
            key: BinaryBuilder::new(),
            value: BinaryBuilder::new(),
            headers: ListBuilder::new(header).with_field(element),
            event_time: time(),
            outcome: StringBuilder::new(),
            rejection: std::array::from_fn(|_| StringBuilder::new()),
            bytes: 0,
        }
    }

    /// Bytes of keys, values and headers gathered.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that row `index` of `records` adds.
    pub fn bytes_of(records: &Records, index: usize) -> usize {
        let record = records.get(index);
        let of = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let headers: usize = records.headers(index).map(|(name, value)| name.len() + of(value) + HEADER_BYTES).sum();
        ROW_BYTES + of(record.key) + of(record.value) + headers
    }

    /// Appends row `index` of `records`.
    pub fn push(&mut self, records: &Records, index: usize, outcome: &Outcome, event_time: Option<TimeUs>) {
        self.push_record(records.get(index), records.headers(index), outcome, event_time);
    }

    /// Appends a record with its headers (name, value).
    pub fn push_record<'h>(
        &mut self,
        record: RecordRef<'_>,
        headers: impl Iterator<Item = (&'h [u8], Option<&'h [u8]>)>,
        outcome: &Outcome,
        event_time: Option<TimeUs>,
    ) {
        self.epoch.append_value(record.epoch as i64);
        self.ingested_at.append_value(record.ingested_at);
        self.topic.append_value(&self.topics[usize::from(record.topic)]);
        self.partition.append_value(record.partition);
        self.offset.append_value(record.offset);
        self.timestamp.append_option(record.timestamp_ms.and_then(plausible_ms).map(|ms| ms * 1000));
        self.timestamp_type.append_value(record.timestamp_type.name());
        self.key.append_option(record.key);
        self.value.append_option(record.value);
        self.bytes += ROW_BYTES + record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        for (name, value) in headers {
            let header = self.headers.values();
            // Header names are text in Kafka; what is not UTF-8 in one is replaced, its value is kept as it is.
            let name = String::from_utf8_lossy(name);
            self.bytes += name.len() + value.map_or(0, <[u8]>::len) + HEADER_BYTES;
            if let Some(names) = header.field_builder::<StringBuilder>(0) {
                names.append_value(name);
            }
            if let Some(values) = header.field_builder::<BinaryBuilder>(1) {
                values.append_option(value);
            }
            header.append(true);
        }
        self.headers.append(true);
        self.event_time.append_option(event_time);
        self.outcome.append_value(outcome.name());
        let columns = match outcome {
            Outcome::Rejected(rejection) => [
                Some(rejection.reason.name()),
                rejection.field.as_deref(),
                Some(rejection.expected.as_str()),
                Some(rejection.found.as_str()),
            ],
            _ => [None; 4],
        };
        for (builder, value) in self.rejection.iter_mut().zip(columns) {
            builder.append_option(value);
        }
    }

    /// The rows as one batch; leaves none.
    pub fn finish(&mut self) -> RecordBatch {
        self.bytes = 0;
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.epoch.finish()),
            Arc::new(self.ingested_at.finish()),
            Arc::new(self.topic.finish()),
            Arc::new(self.partition.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.timestamp.finish()),
            Arc::new(self.timestamp_type.finish()),
            Arc::new(self.key.finish()),
            Arc::new(self.value.finish()),
            Arc::new(self.headers.finish()),
            Arc::new(self.event_time.finish()),
            Arc::new(self.outcome.finish()),
        ];
        columns.extend(self.rejection.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        RecordBatch::try_new(file_schema(), columns).expect("every builder got one value a row, of its column's type")
    }
}

/// Encodes one file of `raw`, into memory or to where it is told: compressed as it grows, so that an epoch costs its compressed
/// size.
pub struct FileWriter<W: Write + Send = Vec<u8>> {
    writer: ArrowWriter<W>,
}

/// An encoded file, before it is stored.
pub struct Encoded {
    /// What the log will say of it.
    pub file: File,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl FileWriter {
    /// An empty file in memory.
    ///
    /// # Errors
    /// [`TableError::Bug`] when the encoder refuses the schema.
    pub fn new() -> Result<Self, TableError> {
        FileWriter::to(Vec::new())
    }

    /// Ends the file; `None` where it has no rows. `name` tells it from all others: generation, epoch, process, attempt.
    ///
    /// # Errors
    /// [`TableError::Bug`] when the encoder fails.
    pub fn finish(self, kind: Kind, name: &str) -> Result<Option<Encoded>, TableError> {
        let Some((mut file, bytes)) = self.end(kind, name)? else { return Ok(None) };
        file.size = bytes.len() as u64;
        Ok(Some(Encoded { file, bytes }))
    }
}

impl<W: Write + Send> FileWriter<W> {
    /// An empty file that is written to `sink`.
    ///
    /// # Errors
    /// [`TableError::Bug`] when the encoder refuses the schema.
    pub fn to(sink: W) -> Result<Self, TableError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            .set_column_dictionary_enabled(ColumnPath::from("value"), false)
            .set_column_statistics_enabled(ColumnPath::from("value"), EnabledStatistics::None)
            .set_column_statistics_enabled(ColumnPath::from("key"), EnabledStatistics::None)
            .build();
        let writer = ArrowWriter::try_new(sink, file_schema(), Some(properties)).map_err(encoding)?;
        Ok(FileWriter { writer })
    }

    /// Appends a batch of [`Rows`].
    ///
    /// # Errors
    /// [`TableError::Bug`] when the encoder fails.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), TableError> {
        self.writer.write(batch).map_err(encoding)
    }

    /// Ends the file, whose size the caller knows; `None` where it has no rows.
    ///
    /// # Errors
    /// [`TableError::Bug`] when the encoder fails.
    pub fn end(mut self, kind: Kind, name: &str) -> Result<Option<(File, W)>, TableError> {
        self.writer.flush().map_err(encoding)?;
        let stats = Stats::of(self.writer.flushed_row_groups());
        let Some((ingested_at, _)) = stats.times("ingested_at") else { return Ok(None) };
        let sink = self.writer.into_inner().map_err(encoding)?;
        let date = Period::Day.label(Granularity::Day.window_start(ingested_at, crate::model::Zone::Utc));
        let file = File {
            path: format!("ingest_date={date}/{name}-{}.parquet", kind.name()),
            size: 0,
            rows: stats.rows(),
            partition: BTreeMap::from([("ingest_date".to_owned(), date)]),
            stats: stats.into_json(),
        };
        Ok(Some((file, sink)))
    }
}

fn encoding(error: parquet::errors::ParquetError) -> TableError {
    TableError::Bug(format!("a file of raw can not be encoded: {error}"))
}

/// The least and greatest epoch in a file of `raw`.
///
/// # Errors
/// [`TableError::Corrupt`] when its statistics do not say.
pub fn epochs_of(file: &File) -> Result<(Epoch, Epoch), TableError> {
    #[derive(Deserialize)]
    struct Range {
        epoch: Epoch,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct EpochStats {
        min_values: Range,
        max_values: Range,
    }
    let stats: EpochStats = statistics(file)?;
    Ok((stats.min_values.epoch, stats.max_values.epoch))
}

/// What a file of `raw` says of event times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTimes {
    /// The least and the greatest, at most a millisecond wider.
    pub range: Option<(TimeUs, TimeUs)>,
    /// Rows without one.
    pub nulls: u64,
}

/// What a file of `raw` says of the event times of its rows.
///
/// # Errors
/// [`TableError::Corrupt`] when its statistics can not be read.
pub fn event_times_of(file: &File) -> Result<EventTimes, TableError> {
    #[derive(Deserialize)]
    struct Time {
        event_time: Option<DateTime<Utc>>,
    }
    #[derive(Deserialize)]
    struct Nulls {
        event_time: Option<u64>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct TimeStats {
        min_values: Time,
        max_values: Time,
        null_count: Nulls,
    }
    let stats: TimeStats = statistics(file)?;
    let range = stats.min_values.event_time.zip(stats.max_values.event_time);
    Ok(EventTimes {
        range: range.map(|(least, greatest)| (least.timestamp_micros(), greatest.timestamp_micros() + cut_off(file))),
        nulls: stats.null_count.event_time.unwrap_or(file.rows),
    })
}

/// The least and greatest `ingested_at` in a file of `raw`, at most a millisecond wider.
///
/// # Errors
/// [`TableError::Corrupt`] when its statistics do not say.
pub fn ingested_of(file: &File) -> Result<(TimeUs, TimeUs), TableError> {
    #[derive(Deserialize)]
    struct Range {
        ingested_at: DateTime<Utc>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct IngestedStats {
        min_values: Range,
        max_values: Range,
    }
    let stats: IngestedStats = statistics(file)?;
    let us = |range: Range| range.ingested_at.timestamp_micros();
    Ok((us(stats.min_values), us(stats.max_values) + cut_off(file)))
}

/// What may be missing from a greatest time: other programs cut it to milliseconds, we round it up.
fn cut_off(file: &File) -> TimeUs {
    if Kind::of_file(file).is_some() { 0 } else { 999 }
}

/// The newest `ingested_at` of any live row; 0 where there is none.
///
/// # Errors
/// [`TableError::Corrupt`] when a file's statistics do not say.
pub fn newest_ingested_at(state: &State) -> Result<TimeUs, TableError> {
    let mut newest = 0;
    for file in state.files.values() {
        newest = newest.max(ingested_of(file)?.1);
    }
    Ok(newest)
}

fn statistics<'a, T: Deserialize<'a>>(file: &'a File) -> Result<T, TableError> {
    serde_json::from_str(&file.stats).map_err(|error| TableError::Corrupt {
        table: "raw".to_owned(),
        what: format!("statistics of {}: {error}", file.path),
    })
}

/// The rows of a file of `raw` with an epoch in `after + 1 ..= up_to`, as records, a chunk at a time. Keys, headers and topics
/// are left out: nothing is counted by them.
///
/// # Errors
/// [`TableError::Corrupt`], also from the iterator, when the file can not be read.
pub fn read_records(
    file: &File,
    bytes: Bytes,
    after: Epoch,
    up_to: Epoch,
) -> Result<impl Iterator<Item = Result<Records, TableError>>, TableError> {
    read(file, &Fetched::of_memory(bytes), &RECORD, move |batch| {
        records_of(batch, None, |epoch, _| epoch > after && epoch <= up_to)
    })
}

/// The rows of a file of `raw` that `keep` says yes to by their epoch and event time on record, as records with what became of
/// them on arrival. `topics`: names that records refer to; others are [`u16::MAX`].
///
/// # Errors
/// As [`read_records`].
pub fn read_arrived(
    file: &File,
    fetched: &Fetched,
    topics: Arc<[String]>,
    keep: impl Fn(Epoch, Option<TimeUs>) -> bool,
) -> Result<impl Iterator<Item = Result<Records, TableError>>, TableError> {
    let columns: Vec<_> = RECORD.into_iter().chain(ARRIVAL).collect();
    read(file, fetched, &columns, move |batch| records_of(batch, Some(&topics), &keep))
}

/// Columns that make a record, and those that say what became of it.
const RECORD: [&str; 7] =
    ["epoch", "ingested_at", "kafka_partition", "kafka_offset", "kafka_timestamp", "kafka_timestamp_type", "value"];
const ARRIVAL: [&str; 4] = ["kafka_topic", "event_time", "outcome", "reason"];

fn read<F: Fn(&RecordBatch) -> Result<Records, String>>(
    file: &File,
    fetched: &Fetched,
    columns: &[&str],
    records: F,
) -> Result<impl Iterator<Item = Result<Records, TableError>> + use<F>, TableError> {
    let path = file.path.clone();
    let corrupt = move |what: String| TableError::Corrupt { table: "raw".to_owned(), what: format!("{path}: {what}") };
    let batches = fetched.batches(Some(columns), None, READ_BATCH_ROWS).map_err(|error| corrupt(error.to_string()))?;
    Ok(batches.map(move |batch| {
        let batch = batch.map_err(|error| corrupt(error.to_string()))?;
        records(&batch).map_err(&corrupt)
    }))
}

/// `topics`: where what became of the rows is wanted too.
fn records_of(
    batch: &RecordBatch,
    topics: Option<&[String]>,
    keep: impl Fn(Epoch, Option<TimeUs>) -> bool,
) -> Result<Records, String> {
    let column = |name: &str| match (batch.column_by_name(name), FILE_SCHEMA.field_with_name(name)) {
        (Some(column), Ok(field)) if column.data_type() == field.data_type() => Ok(column),
        (Some(column), _) => Err(format!("column {name} is {}, not as in schemas/raw.json", column.data_type())),
        (None, _) => Err(format!("expected a column {name}, found none")),
    };
    let epochs = column("epoch")?.as_primitive::<Int64Type>();
    let ingested = column("ingested_at")?.as_primitive::<TimestampMicrosecondType>();
    let partitions = column("kafka_partition")?.as_primitive::<Int32Type>();
    let offsets = column("kafka_offset")?.as_primitive::<Int64Type>();
    let timestamps = column("kafka_timestamp")?.as_primitive::<TimestampMicrosecondType>();
    let types = column("kafka_timestamp_type")?.as_string::<i32>();
    let values = column("value")?.as_binary::<i32>();
    let arrivals = match topics {
        Some(topics) => {
            let names = column("kafka_topic")?.as_string::<i32>();
            let times = column("event_time")?.as_primitive::<TimestampMicrosecondType>();
            let outcomes = column("outcome")?.as_string::<i32>();
            let reasons = column("reason")?.as_string::<i32>();
            Some((topics, names, times, outcomes, reasons))
        }
        None => None,
    };
    let bytes = values.value_offsets().last().zip(values.value_offsets().first()).map_or(0, |(end, start)| end - start);
    let mut records = Records::with_room(bytes as usize);
    for row in 0..batch.num_rows() {
        let epoch = epochs.value(row) as Epoch;
        let event_time = arrivals.as_ref().and_then(|(_, _, times, ..)| times.is_valid(row).then(|| times.value(row)));
        if !keep(epoch, event_time) {
            continue;
        }
        let topic = arrivals.as_ref().map_or(0, |(topics, names, ..)| {
            topics.iter().position(|topic| topic == names.value(row)).map_or(u16::MAX, |index| index as u16)
        });
        let record = RecordRef {
            epoch,
            ingested_at: ingested.value(row),
            topic,
            partition: partitions.value(row),
            offset: offsets.value(row),
            timestamp_ms: timestamps
                .is_valid(row)
                .then(|| timestamps.value(row).div_euclid(1000))
                .and_then(plausible_ms),
            timestamp_type: TimestampType::from_name(types.value(row)),
            key: None,
            value: values.is_valid(row).then(|| values.value(row)),
        };
        records.push(record, std::iter::empty());
        if let Some((_, _, _, outcomes, reasons)) = &arrivals {
            let reason = || Reason::ALL.into_iter().find(|reason| reason.name() == reasons.value(row));
            let arrival = match outcomes.value(row) {
                "counted" => Arrival::Counted,
                "filtered" => Arrival::Filtered,
                _ => Arrival::Rejected(reasons.is_valid(row).then(reason).flatten()),
            };
            records.arrived(arrival, event_time);
        }
    }
    Ok(records)
}
