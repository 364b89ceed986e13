//! Rows of `raw` back into records: to be fed at a start, or counted again by a replay.
//!
//! In: a file's bytes, and which rows are wanted. Out: chunks of records, with what became of them on arrival where that is asked
//! for. State: one batch of rows. Failure: a file that is not as `schemas/raw.json` says is a damaged table.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;

use super::schema::FILE_SCHEMA;
use crate::model::{Arrival, Epoch, Reason, RecordRef, Records, TimeUs, TimestampType, plausible_ms};
use crate::table::error::TableError;
use crate::table::fetch::Fetched;
use crate::table::state::File;

/// The most rows that are read at once.
const READ_BATCH_ROWS: usize = 4096;

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

/// The rows of a file of `raw` that `keep` accepts by their recorded epoch and event time, as records with what became of them on
/// arrival. `topics` are the names that records refer to; any other topic is [`u16::MAX`].
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

/// `topics` is given if what became of the rows is wanted too.
fn records_of(
    batch: &RecordBatch,
    topics: Option<&[String]>,
    keep: impl Fn(Epoch, Option<TimeUs>) -> bool,
) -> Result<Records, String> {
    let column = |name: &str| match (batch.column_by_name(name), FILE_SCHEMA.field_with_name(name)) {
        (Some(column), Ok(field)) if column.data_type() == field.data_type() => Ok(column),
        (Some(column), _) => {
            Err(format!("column {name} has type {}, expected the type in schemas/raw.json", column.data_type()))
        }
        (None, _) => Err(format!("column {name} is missing")),
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
