//! `arrivals`: finds the rows whose outcome differs from their outcome on arrival.
//!
//! In: decoded records, each with its outcome on arrival. Out: the number of rows for each pair of outcomes, and a batch of the rows whose
//! outcome has changed. Only rows in range are reported: a row that counts now belongs to the event time that it has now, any other row to
//! the event time on record. State: none.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{Int32Builder, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_writer::ArrowWriter;
use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;

use crate::dataflow::decode::Decoded;
use crate::dataflow::route::Scope;
use crate::model::{Arrival, Epoch, Outcome, RecordRef, TimeUs};
use crate::table::{TableError, time_type};

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("epoch", DataType::Int64, false),
        Field::new("kafka_topic", DataType::Utf8, true),
        Field::new("kafka_partition", DataType::Int32, false),
        Field::new("kafka_offset", DataType::Int64, false),
        Field::new("event_time", time_type(), true),
        Field::new("on_arrival", DataType::Utf8, false),
        Field::new("now", DataType::Utf8, false),
        Field::new("field", DataType::Utf8, true),
        Field::new("expected", DataType::Utf8, true),
        Field::new("found", DataType::Utf8, true),
    ]))
});

/// The columns of the files with rows whose outcome has changed.
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// Numbers of rows by outcome on arrival and by outcome now, in their written form: `counted`, `filtered`, or `rejected` with its reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeTallies(pub BTreeMap<String, BTreeMap<String, u64>>);

impl OutcomeTallies {
    /// The number of all rows.
    pub fn rows(&self) -> u64 {
        self.0.values().flat_map(BTreeMap::values).sum()
    }

    /// The number of rows that count now.
    pub fn rows_counted(&self) -> u64 {
        self.0.values().filter_map(|by_now| by_now.get("counted")).sum()
    }

    /// Rows whose outcome has changed, for whatever reason: the outcome on arrival, the outcome now, the number of rows.
    pub fn changed(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        let all = self.0.iter().flat_map(|(on_arrival, by_now)| {
            by_now.iter().map(move |(now, rows)| (on_arrival.as_str(), now.as_str(), *rows))
        });
        all.filter(|(on_arrival, now, _)| on_arrival.split(':').next() != now.split(':').next())
    }

    /// Adds the numbers of another.
    pub fn merge(&mut self, other: &OutcomeTallies) {
        for (on_arrival, by_now) in &other.0 {
            for (now, rows) in by_now {
                *self.0.entry(on_arrival.clone()).or_default().entry(now.clone()).or_default() += rows;
            }
        }
    }
}

/// The outcomes of one chunk of records.
#[derive(Clone, Debug, Default)]
pub struct OutcomeBatch {
    /// The outcomes of all rows in range.
    pub tallies: OutcomeTallies,
    /// The rows whose outcome has changed; `None` if there are none.
    pub rows: Option<RecordBatch>,
}

fn on_arrival(arrival: Arrival) -> String {
    match arrival {
        Arrival::Counted => "counted".to_owned(),
        Arrival::Filtered => "filtered".to_owned(),
        Arrival::Rejected(Some(reason)) => format!("rejected: {}", reason.name()),
        Arrival::Rejected(None) => "rejected".to_owned(),
    }
}

fn now(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Rejected(rejection) => format!("rejected: {}", rejection.reason.name()),
        outcome => outcome.name().to_owned(),
    }
}

fn is_other(arrival: Arrival, outcome: &Outcome) -> bool {
    !matches!(
        (arrival, outcome),
        (Arrival::Counted, Outcome::Counted)
            | (Arrival::Filtered, Outcome::Filtered)
            | (Arrival::Rejected(_), Outcome::Rejected(_))
    )
}

/// Builds the operator. `topics` are the names of the records' topics.
pub fn arrivals<'scope>(
    decoded: StreamVec<'scope, Epoch, Decoded>,
    scope: Arc<Scope>,
    topics: Arc<[String]>,
) -> StreamVec<'scope, Epoch, OutcomeBatch> {
    decoded.unary(Pipeline, "arrivals", move |_capability, _info| {
        move |input, output| {
            let _span = tracing::trace_span!("arrivals").entered();
            input.for_each(|capability, chunks| {
                for decoded in chunks.drain(..) {
                    output.session(&capability).give(batch_of(&decoded, &scope, &topics));
                }
            });
        }
    })
}

fn batch_of(decoded: &Decoded, scope: &Scope, topics: &[String]) -> OutcomeBatch {
    let mut counted_still = 0;
    let mut batch = OutcomeBatch::default();
    let mut rows = RowColumns::default();
    let outcomes = decoded.outcomes.iter().zip(decoded.records.arrivals());
    for (record, ((outcome, time_now), (arrival, time_then))) in decoded.records.iter().zip(outcomes) {
        let time = if matches!(outcome, Outcome::Counted) { time_now } else { time_then };
        // A row that is not counted and has no event time belongs to no range. One that was counted on arrival had an event time.
        if !time.is_some_and(|time| scope.covers(time)) {
            continue;
        }
        if matches!((arrival, outcome), (Arrival::Counted, Outcome::Counted)) {
            counted_still += 1;
            continue;
        }
        *batch.tallies.0.entry(on_arrival(*arrival)).or_default().entry(now(outcome)).or_default() += 1;
        if is_other(*arrival, outcome) {
            rows.push(record, *time, *arrival, outcome, topics);
        }
    }
    if counted_still > 0 {
        let counted = Outcome::Counted.name().to_owned();
        *batch.tallies.0.entry(counted.clone()).or_default().entry(counted).or_default() += counted_still;
    }
    batch.rows = rows.finish();
    batch
}

/// Encodes rows whose outcome has changed as one file.
pub fn encode_rows(rows: &[RecordBatch]) -> Result<Bytes, TableError> {
    let encoding =
        |error: parquet::errors::ParquetError| TableError::Bug(format!("cannot encode the rows of a replay: {error}"));
    let mut writer = ArrowWriter::try_new(Vec::new(), schema(), None).map_err(encoding)?;
    for batch in rows {
        writer.write(batch).map_err(encoding)?;
    }
    writer.into_inner().map(Bytes::from).map_err(encoding)
}

#[derive(Default)]
struct RowColumns {
    count: usize,
    epoch: Int64Builder,
    topic: StringBuilder,
    partition: Int32Builder,
    offset: Int64Builder,
    event_time: TimestampMicrosecondBuilder,
    texts: [StringBuilder; 5],
}

impl RowColumns {
    fn push(
        &mut self,
        record: RecordRef<'_>,
        time: Option<TimeUs>,
        arrival: Arrival,
        outcome: &Outcome,
        topics: &[String],
    ) {
        self.count += 1;
        self.epoch.append_value(record.epoch as i64);
        self.topic.append_option(topics.get(usize::from(record.topic)));
        self.partition.append_value(record.partition);
        self.offset.append_value(record.offset);
        self.event_time.append_option(time);
        let rejection = match outcome {
            Outcome::Rejected(rejection) => Some(rejection),
            _ => None,
        };
        let texts = [
            Some(on_arrival(arrival)),
            Some(now(outcome)),
            rejection.and_then(|rejection| rejection.field.clone()),
            rejection.map(|rejection| rejection.expected.clone()),
            rejection.map(|rejection| rejection.found.clone()),
        ];
        self.texts.iter_mut().zip(texts).for_each(|(builder, text)| builder.append_option(text));
    }

    fn finish(&mut self) -> Option<RecordBatch> {
        if self.count == 0 {
            return None;
        }
        let mut columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(self.epoch.finish()),
            Arc::new(self.topic.finish()),
            Arc::new(self.partition.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.event_time.finish().with_timezone("UTC")),
        ];
        columns.extend(self.texts.iter_mut().map(|builder| Arc::new(builder.finish()) as arrow::array::ArrayRef));
        Some(RecordBatch::try_new(schema(), columns).expect("every builder got one value a row, of its column's type"))
    }
}
