//! The definition of the table `raw`: its columns, its two kinds of files, and the application transactions that say up to where it
//! has records. Plain data.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::model::{Outcome, RecordRef, TimeUs, plausible_ms};
use crate::table::state::{Definition, File, time_type};

/// The application transaction that names the newest epoch.
pub const EPOCH: &str = "epoch";

/// The application transaction that says how many rows were ever archived: if live files hold fewer, somebody removed some.
pub const ROWS: &str = "rows";

/// Event times further than this from Kafka's timestamp are kept in files apart, so that pruning works for the rest.
pub const STRAY_US: i64 = 3_600_000_000;

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

    /// The kind of a file, with which its name ends; `None` if another program named it.
    pub fn of_file(file: &File) -> Option<Kind> {
        let name = file.path.strip_suffix(".parquet")?;
        Kind::ALL.into_iter().find(|kind| name.ends_with(&format!("-{}", kind.name())))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Main => "main",
            Kind::Apart => "apart",
        }
    }
}

pub(super) fn header_fields() -> Fields {
    Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)])
}

pub(super) static FILE_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
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

/// The table as it is created.
pub fn definition() -> Definition {
    let mut fields: Vec<_> = FILE_SCHEMA.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("ingest_date", DataType::Date32, false)));
    Definition {
        schema: Arc::new(Schema::new(fields)),
        partitioned_by: &["ingest_date"],
        properties: BTreeMap::from([("delta.checkpointInterval".to_owned(), "100".to_owned())]),
    }
}
