//! The first pass: decodes every row of `raw` again, and sums the cells.
//!
//! In: the live files of `raw`, in any order. Out: [`Sums`] of the cells that each lane should have published, of stretches of offsets, and
//! of epochs; and what can not be recounted. A row is decoded by the logic on record for its epoch, which must give the outcome on record,
//! and by the logics of the replays that take rows of its epoch. Each logic counts only the cells that it decides. State: the sums, within
//! their budget, and one stretch for each partition of the current file. Failure: a file that can not be read ends the pass.

use std::collections::BTreeMap;

use arrow::array::{
    Array, AsArray, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};

use super::counted::Counted;
use super::difference::{Check, Differences, Subject};
use super::error::VerifyError;
use super::gone::Doubt;
use super::key;
use super::layout::Layout;
use super::rules::Rules;
use super::spool::Spooled;
use super::sums::Sums;
use super::window::{LANES, WINDOWS, bucket};
use crate::decode::{Decoder, Event};
use crate::job::Logic;
use crate::model::{Outcome, Reason, RecordRef, TimestampType, rfc3339_us};
use crate::table::raw;

const COLUMNS: &[&str] = &[
    "epoch",
    "ingested_at",
    "kafka_topic",
    "kafka_partition",
    "kafka_offset",
    "kafka_timestamp",
    "kafka_timestamp_type",
    "value",
    "event_time",
    "outcome",
    "reason",
];

/// Numbers of records by outcome.
#[derive(Default)]
pub(super) struct Tallies {
    pub(super) records: u64,
    pub(super) counted: u64,
    pub(super) filtered: u64,
    pub(super) rejected: BTreeMap<&'static str, u64>,
    pub(super) epochs: Option<(i64, i64)>,
}

impl Tallies {
    fn add(&mut self, outcome: &str, reason: Option<&'static str>) {
        self.records += 1;
        match (outcome, reason) {
            (_, Some(reason)) => *self.rejected.entry(reason).or_default() += 1,
            ("counted", None) => self.counted += 1,
            _ => self.filtered += 1,
        }
    }
}

/// A logic that counts, with its decoder.
struct Counter {
    decoder: Decoder,
    event: Event,
    counted: Counted,
}

impl Counter {
    fn new(logic: &Logic) -> Counter {
        Counter { decoder: Decoder::new(logic), event: Event::default(), counted: Counted::new(logic) }
    }
}

/// The outcome of a record.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Became<'a> {
    outcome: &'a str,
    reason: Option<&'a str>,
    event_us: Option<i64>,
}

/// The first offset, and one past the last.
type Stretch = (i64, i64);

/// The first pass.
pub(super) struct Recount<'a> {
    rules: &'a Rules,
    /// One for each logic; `None` if the logic is gone.
    counters: Vec<Option<Counter>>,
    doubt: Doubt<'a>,
    layout: &'a Layout,
    /// The epoch of each lane: how far it has absorbed `raw`.
    lanes: &'a [i64; LANES.len()],
    buckets: u32,
    sums: Sums,
    tallies: Tallies,
    key: Vec<u8>,
    /// The replays that take the current row.
    applying: Vec<usize>,
    /// The stretches of the current file, by topic and partition.
    stretches: Vec<(String, BTreeMap<i32, Stretch>)>,
    /// Epoch, `ingested_at`, and how many consecutive rows have both.
    epoch: Option<(i64, i64, i64)>,
}

impl<'a> Recount<'a> {
    pub(super) fn new(
        rules: &'a Rules,
        layout: &'a Layout,
        lanes: &'a [i64; LANES.len()],
        buckets: u32,
        sums: Sums,
    ) -> Self {
        Recount {
            rules,
            counters: rules.logics.iter().map(|rule| rule.known.logic().map(Counter::new)).collect(),
            doubt: Doubt::new(rules),
            layout,
            lanes,
            buckets,
            sums,
            tallies: Tallies::default(),
            key: Vec::new(),
            applying: Vec::new(),
            stretches: Vec::new(),
            epoch: None,
        }
    }

    /// Reads a file; `tick` is called with the number of rows after each batch.
    ///
    /// # Errors
    /// When the file can not be read, or sums can not be spilled.
    pub(super) fn file(
        &mut self,
        spooled: Spooled,
        differences: &mut Differences,
        mut tick: impl FnMut(u64),
    ) -> Result<(), VerifyError> {
        let (path, said) = (spooled.file().path.clone(), spooled.file().rows);
        let mut found = 0;
        for batch in spooled.batches(raw::file_schema(), COLUMNS)? {
            let batch = batch?;
            found += batch.num_rows() as u64;
            self.batch(&Columns::of(&batch), differences)?;
            tick(batch.num_rows() as u64);
        }
        if found != said {
            differences.add(Check::FileRows, Subject::File { file: path }, said.to_string(), found.to_string());
        }
        self.end_file()
    }

    /// The sums, the numbers of records, and what can not be recounted.
    pub(super) fn finish(self) -> (Sums, Tallies, Doubt<'a>) {
        (self.sums, self.tallies, self.doubt)
    }

    fn batch(&mut self, columns: &Columns, differences: &mut Differences) -> Result<(), VerifyError> {
        for row in 0..columns.epoch.len() {
            let (epoch, ingested_us) = (columns.epoch.value(row), columns.ingested_at.value(row));
            self.epoch(epoch, ingested_us)?;
            self.offset(columns.topic.value(row), columns.partition.value(row), columns.offset.value(row))?;
            let record = columns.record(row);
            let on_record = columns.on_record(row);
            let logic = self.rules.reigns[self.rules.reign(epoch)].logic;
            match &mut self.counters[logic] {
                Some(counter) => {
                    let outcome = counter.decoder.decode(record, &mut counter.event);
                    let reason = match &outcome {
                        Outcome::Rejected(rejection) => Some(rejection.reason.name()),
                        Outcome::Counted | Outcome::Filtered => None,
                    };
                    self.tallies.add(outcome.name(), reason);
                    let now = Became { outcome: outcome.name(), reason, event_us: counter.event.event_time };
                    if now != on_record {
                        let place = Subject::Record {
                            topic: columns.topic.value(row).to_owned(),
                            partition: record.partition,
                            offset: record.offset,
                        };
                        differences.add(Check::Outcome, place, described(on_record), described(now));
                    }
                    if outcome == Outcome::Counted {
                        self.count(logic, logic, epoch, ingested_us)?;
                    }
                }
                None => self.trust(epoch, on_record),
            }
            self.replay(logic, record, epoch, ingested_us)?;
        }
        Ok(())
    }

    /// Takes what is on record for a row whose logic is gone.
    fn trust(&mut self, epoch: i64, on_record: Became<'_>) {
        let Became { outcome, reason, event_us } = on_record;
        let reason = reason.and_then(|name| Reason::ALL.into_iter().find(|reason| reason.name() == name));
        self.tallies.add(outcome, reason.map(Reason::name));
        if outcome == Outcome::Counted.name()
            && let Some(time_us) = event_us
            && self.lanes.iter().any(|lane| epoch <= *lane)
        {
            self.doubt.row(epoch, time_us);
        }
    }

    /// Counts a row by the logics of the replays that may take it, except the logic of its epoch.
    fn replay(
        &mut self,
        on_record: usize,
        record: RecordRef<'_>,
        epoch: i64,
        ingested_us: i64,
    ) -> Result<(), VerifyError> {
        for logic in 0..self.counters.len() {
            if logic == on_record || !self.rules.replays(logic, epoch) {
                continue;
            }
            let Some(counter) = &mut self.counters[logic] else { continue };
            if counter.decoder.decode(record, &mut counter.event) == Outcome::Counted {
                self.count(logic, on_record, epoch, ingested_us)?;
            }
        }
        Ok(())
    }

    /// Counts the event that a logic has found, once for each window and dimension that this logic decides and whose lane has absorbed the
    /// epoch.
    fn count(&mut self, logic: usize, on_record: usize, epoch: i64, ingested_us: i64) -> Result<(), VerifyError> {
        let Recount { rules, counters, layout, lanes, buckets, sums, key, applying, .. } = self;
        let Some(Counter { event, counted, .. }) = &counters[logic] else { return Ok(()) };
        // A counted event always has a time.
        let Some(time_us) = event.event_time else { return Ok(()) };
        rules.applying(epoch, &event.customer, time_us, applying);
        if applying.is_empty() && logic != on_record {
            return Ok(());
        }
        let bucket = bucket(event.customer.as_bytes(), *buckets);
        for (index, window) in WINDOWS.iter().enumerate() {
            let start_us = window.start(time_us);
            if epoch > lanes[window.lane(start_us, ingested_us, &counted.graces_us)] {
                continue;
            }
            // Nearly always no replay takes the row.
            let replayed = (!applying.is_empty()).then(|| start_us..window.end(start_us));
            let is_ours = |dimension: &str| {
                replayed.as_ref().is_none_or(|span| rules.decider(applying, on_record, index, span, dimension) == logic)
            };
            let slot = layout.home(index, bucket, start_us);
            key::cell_head(slot, index, event.customer.as_bytes(), key);
            let head = key.len();
            for (dimension, value) in counted.dimensions.iter().zip(&event.values) {
                if dimension.windows[index] && is_ours(&dimension.name) {
                    key.truncate(head);
                    key::cell_tail(dimension.name.as_bytes(), start_us, value.as_bytes(), key);
                    sums.add(key, 1).map_err(VerifyError::Spill)?;
                }
            }
        }
        Ok(())
    }

    fn epoch(&mut self, epoch: i64, ingested_us: i64) -> Result<(), VerifyError> {
        let (first, last) = self.tallies.epochs.get_or_insert((epoch, epoch));
        (*first, *last) = (epoch.min(*first), epoch.max(*last));
        match &mut self.epoch {
            Some((same, at, rows)) if (*same, *at) == (epoch, ingested_us) => *rows += 1,
            other => {
                if let Some((epoch, at, rows)) = other.replace((epoch, ingested_us, 1)) {
                    self.sums.add(&key::epoch(epoch, at), rows).map_err(VerifyError::Spill)?;
                }
            }
        }
        Ok(())
    }

    fn offset(&mut self, topic: &str, partition: i32, offset: i64) -> Result<(), VerifyError> {
        let index = match self.stretches.iter().position(|(known, _)| known == topic) {
            Some(index) => index,
            None => {
                self.stretches.push((topic.to_owned(), BTreeMap::new()));
                self.stretches.len() - 1
            }
        };
        let stretch = self.stretches[index].1.entry(partition).or_insert((offset, offset));
        if stretch.1 != offset {
            let (first, end) = std::mem::replace(stretch, (offset, offset));
            self.sums.add(&key::offsets(topic, partition, first, end), 1).map_err(VerifyError::Spill)?;
        }
        stretch.1 += 1;
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), VerifyError> {
        for (topic, partitions) in std::mem::take(&mut self.stretches) {
            for (partition, (first, end)) in partitions {
                self.sums.add(&key::offsets(&topic, partition, first, end), 1).map_err(VerifyError::Spill)?;
            }
        }
        if let Some((epoch, at, rows)) = self.epoch.take() {
            self.sums.add(&key::epoch(epoch, at), rows).map_err(VerifyError::Spill)?;
        }
        Ok(())
    }
}

fn described(became: Became<'_>) -> String {
    let Became { outcome, reason, event_us } = became;
    let mut text = outcome.to_owned();
    if let Some(reason) = reason {
        text += &format!(" {reason}");
    }
    match event_us {
        Some(time) => text + " at " + &rfc3339_us(time),
        None => text,
    }
}

/// Kafka's timestamp, if it is in the years 1 to 9999. Older builds have also stored others.
fn timestamp_ms(us: i64) -> Option<i64> {
    let ms = us.div_euclid(1000);
    (-62_135_596_800_000..=253_402_300_799_999).contains(&ms).then_some(ms)
}

/// The columns of rows of `raw`.
struct Columns {
    epoch: Int64Array,
    ingested_at: TimestampMicrosecondArray,
    topic: StringArray,
    partition: Int32Array,
    offset: Int64Array,
    timestamp: TimestampMicrosecondArray,
    timestamp_type: StringArray,
    value: BinaryArray,
    event_time: TimestampMicrosecondArray,
    outcome: StringArray,
    reason: StringArray,
}

impl Columns {
    /// The columns of a batch whose types were checked.
    fn of(batch: &RecordBatch) -> Columns {
        let column = |name: &str| batch.column_by_name(name).expect("a column that was asked for");
        let time = |name: &str| column(name).as_primitive::<TimestampMicrosecondType>().clone();
        let text = |name: &str| column(name).as_string::<i32>().clone();
        Columns {
            epoch: column("epoch").as_primitive::<Int64Type>().clone(),
            ingested_at: time("ingested_at"),
            topic: text("kafka_topic"),
            partition: column("kafka_partition").as_primitive::<Int32Type>().clone(),
            offset: column("kafka_offset").as_primitive::<Int64Type>().clone(),
            timestamp: time("kafka_timestamp"),
            timestamp_type: text("kafka_timestamp_type"),
            value: column("value").as_binary::<i32>().clone(),
            event_time: time("event_time"),
            outcome: text("outcome"),
            reason: text("reason"),
        }
    }

    /// The record, as the decoder reads it.
    fn record(&self, row: usize) -> RecordRef<'_> {
        RecordRef {
            epoch: self.epoch.value(row) as u64,
            ingested_at: self.ingested_at.value(row),
            topic: 0,
            partition: self.partition.value(row),
            offset: self.offset.value(row),
            timestamp_ms: self.timestamp.is_valid(row).then(|| self.timestamp.value(row)).and_then(timestamp_ms),
            timestamp_type: TimestampType::from_name(self.timestamp_type.value(row)),
            key: None,
            value: self.value.is_valid(row).then(|| self.value.value(row)),
        }
    }

    /// The outcome of a record on arrival.
    fn on_record(&self, row: usize) -> Became<'_> {
        let reason = self.reason.is_valid(row).then(|| self.reason.value(row));
        let event_us = self.event_time.is_valid(row).then(|| self.event_time.value(row));
        Became { outcome: self.outcome.value(row), reason, event_us }
    }
}
