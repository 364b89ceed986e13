//! Records: Kafka messages as they came, many to a chunk.
//!
//! In: messages from Kafka or rows of the archive, in the order in which they were read. Out: the same, borrowed as [`RecordRef`];
//! for rows of the archive also what became of them on arrival. State: one chunk; its bytes are in one [`Arena`]. Pure.

use serde::{Deserialize, Serialize};

use super::arena::{Arena, Span};
use super::outcome::Reason;
use super::time::{Epoch, TimeUs};

/// What Kafka's timestamp of a record means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TimestampType {
    /// The record carries none.
    #[default]
    NotAvailable,
    /// Set by the producer.
    CreateTime,
    /// Set by the broker.
    LogAppendTime,
}

impl TimestampType {
    /// Kafka's name, as it is stored in `raw`.
    pub fn name(self) -> &'static str {
        match self {
            TimestampType::NotAvailable => "NotAvailable",
            TimestampType::CreateTime => "CreateTime",
            TimestampType::LogAppendTime => "LogAppendTime",
        }
    }

    /// The type with this name; [`TimestampType::NotAvailable`] for an unknown one.
    pub fn from_name(name: &str) -> Self {
        match name {
            "CreateTime" => TimestampType::CreateTime,
            "LogAppendTime" => TimestampType::LogAppendTime,
            _ => TimestampType::NotAvailable,
        }
    }
}

/// One Kafka message as it came, and when it was ingested. Borrowed from a [`Records`] chunk, a Kafka buffer or an archive row. The
/// default is for a value that is in no topic: it has no timestamp, and all else is zero or absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordRef<'a> {
    /// Epoch whose commit archived (or will archive) the record.
    pub epoch: Epoch,
    /// `ingested_at` of that epoch.
    pub ingested_at: TimeUs,
    /// Index of the topic in the job's list.
    pub topic: u16,
    /// Kafka partition.
    pub partition: i32,
    /// Kafka offset.
    pub offset: i64,
    /// Kafka timestamp in milliseconds; `None` where the record has none (−1), or none that is a plausible time
    /// ([`plausible_ms`](super::plausible_ms)).
    pub timestamp_ms: Option<i64>,
    /// What that timestamp means.
    pub timestamp_type: TimestampType,
    /// Kafka key.
    pub key: Option<&'a [u8]>,
    /// Kafka value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
}

/// What became of a row of the archive when it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arrival {
    /// It counted.
    Counted,
    /// The job's `where` left it out.
    Filtered,
    /// It was rejected; `None` for a reason that this build does not know.
    Rejected(Option<Reason>),
}

#[derive(Clone, Copy, Debug)]
struct Item {
    epoch: Epoch,
    ingested_at: TimeUs,
    topic: u16,
    partition: i32,
    offset: i64,
    timestamp_ms: Option<i64>,
    timestamp_type: TimestampType,
    key: Option<Span>,
    value: Option<Span>,
    headers_end: u32,
}

/// A chunk of records, in the order in which they were read.
#[derive(Clone, Debug, Default)]
pub struct Records {
    arena: Arena,
    items: Vec<Item>,
    headers: Vec<(Span, Option<Span>)>,
    arrivals: Vec<(Arrival, Option<TimeUs>)>,
}

impl Records {
    /// An empty chunk with room for this many bytes of keys, values and headers.
    pub fn with_room(bytes: usize) -> Records {
        Records { arena: Arena::with_room(bytes), ..Records::default() }
    }

    /// Notes what became of the record that was pushed last when it arrived, and its event time then. To be called for all records
    /// of a chunk, or for none.
    pub fn arrived(&mut self, arrival: Arrival, event_time: Option<TimeUs>) {
        self.arrivals.push((arrival, event_time));
    }

    /// What [`Records::arrived`] noted of each record. Empty if they were just read from Kafka, or if this is not needed.
    pub fn arrivals(&self) -> &[(Arrival, Option<TimeUs>)] {
        &self.arrivals
    }

    /// Appends a record with its headers (name, value).
    pub fn push<'h>(&mut self, record: RecordRef<'_>, headers: impl IntoIterator<Item = (&'h [u8], Option<&'h [u8]>)>) {
        let key = record.key.map(|bytes| self.arena.push(bytes));
        let value = record.value.map(|bytes| self.arena.push(bytes));
        for (name, value) in headers {
            let header = (self.arena.push(name), value.map(|bytes| self.arena.push(bytes)));
            self.headers.push(header);
        }
        self.items.push(Item {
            epoch: record.epoch,
            ingested_at: record.ingested_at,
            topic: record.topic,
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            timestamp_type: record.timestamp_type,
            key,
            value,
            headers_end: self.headers.len() as u32,
        });
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of keys, values and headers.
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// The record at `index`.
    pub fn get(&self, index: usize) -> RecordRef<'_> {
        let item = &self.items[index];
        RecordRef {
            epoch: item.epoch,
            ingested_at: item.ingested_at,
            topic: item.topic,
            partition: item.partition,
            offset: item.offset,
            timestamp_ms: item.timestamp_ms,
            timestamp_type: item.timestamp_type,
            key: item.key.map(|span| self.arena.get(span)),
            value: item.value.map(|span| self.arena.get(span)),
        }
    }

    /// The headers of the record at `index`, in order: name, value.
    pub fn headers(&self, index: usize) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let start = if index == 0 { 0 } else { self.items[index - 1].headers_end as usize };
        let end = self.items[index].headers_end as usize;
        self.headers[start..end]
            .iter()
            .map(|(name, value)| (self.arena.get(*name), value.map(|span| self.arena.get(span))))
    }

    /// All records in order.
    pub fn iter(&self) -> impl Iterator<Item = RecordRef<'_>> {
        (0..self.items.len()).map(|index| self.get(index))
    }
}
