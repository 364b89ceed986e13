//! Rows of `raw` into a Parquet file.
//!
//! In: records with their outcomes. Out: batches of columns ([`RawRows`]), and from these one file of one [`Kind`], with its entry
//! for the log. State: the rows of a batch, and what is compressed of a file unless that goes to a disk. Failure: what the encoder
//! refuses is a bug; nothing is stored here.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, ListBuilder, RecordBatch, StringBuilder, StructBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field};
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::schema::{Kind, file_schema, header_fields};
use crate::model::{Granularity, Outcome, Period, RecordRef, Records, TimeUs, Zone, plausible_ms};
use crate::table::error::TableError;
use crate::table::state::File;
use crate::table::stats::Stats;

/// Rows in a row group: bounds what a reader holds.
const ROW_GROUP_ROWS: usize = 65_536;
const ROW_GROUP_BYTES: usize = 64 << 20;

/// Bytes that a row, and a header, take beside their texts.
const ROW_BYTES: usize = 64;
const HEADER_BYTES: usize = 8;

/// Rows of `raw`, being gathered into a batch.
pub struct RawRows {
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

impl RawRows {
    /// No rows yet; `topics` are the job's.
    pub fn new(topics: Arc<[String]>) -> Self {
        let time = || TimestampMicrosecondBuilder::new().with_timezone("UTC");
        let header = StructBuilder::from_fields(header_fields(), 0);
        let element = Field::new("element", DataType::Struct(header_fields()), false);
        RawRows {
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
            // Header names are text in Kafka; bytes that are not UTF-8 are replaced; the value is kept as it is.
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

/// Encodes one file of `raw`, into memory or to a given sink. It is compressed as it grows, so an epoch takes only its compressed
/// size.
pub struct FileWriter<W: Write + Send = Vec<u8>> {
    writer: ArrowWriter<W>,
}

/// An encoded file, before it is stored.
pub struct Encoded {
    /// Its entry for the log.
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

    /// Ends the file; `None` where it has no rows. `name` distinguishes it from all others: generation, epoch, process, attempt.
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

    /// Appends a batch of [`RawRows`].
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
        let date = Period::Day.label(Granularity::Day.window_start(ingested_at, Zone::Utc));
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
