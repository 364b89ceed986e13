//! A source for tests: a topic in memory, to which a test appends records.
//!
//! In: records from a test. Out: the same records, as if they came from Kafka. Ordering: that of the test, within a partition.
//! State: all records are kept, so that a second start resumes where `raw` ends, as with Kafka. Failure: none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Position, RecordSource, SourceError, SourceFactory, Stamp, Txns, Waker};
use crate::model::{RecordRef, Records, TimestampType, plausible_ms};
use crate::process::lock;
use crate::table::raw;

/// The only topic of a script.
pub const TOPIC: &str = "script";

/// Bytes read in one turn, as from Kafka.
const TURN_BYTES: usize = 1 << 20;

/// A record as a test writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptRecord {
    /// Kafka timestamp in milliseconds, any number; `None` or −1 for none.
    pub timestamp_ms: Option<i64>,
    /// Value.
    pub value: Option<Vec<u8>>,
}

/// The parts of a record besides its value and timestamp.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Headers: name, value.
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

#[derive(Default)]
struct Topic {
    partitions: Vec<Vec<(ScriptRecord, Envelope)>>,
    starts: BTreeMap<i32, i64>,
    wakers: Vec<Waker>,
}

/// A topic in memory; clones share it.
#[derive(Clone, Default)]
pub struct Script {
    topic: Arc<Mutex<Topic>>,
}

impl Script {
    /// A topic with empty partitions.
    pub fn new(partitions: usize) -> Script {
        let script = Script::default();
        script.lock().partitions = vec![Vec::new(); partitions];
        script
    }

    /// Appends a record without key and headers to a partition.
    pub fn push(&self, partition: usize, record: ScriptRecord) {
        self.push_whole(partition, record, Envelope::default());
    }

    /// Appends a record to a partition.
    pub fn push_whole(&self, partition: usize, record: ScriptRecord, envelope: Envelope) {
        let mut topic = self.lock();
        topic.partitions[partition].push((record, envelope));
        topic.wakers.iter().for_each(|wake| wake());
    }

    fn lock(&self) -> MutexGuard<'_, Topic> {
        lock(&self.topic)
    }
}

impl SourceFactory for Script {
    fn check(&self) -> Result<(), SourceError> {
        Ok(())
    }

    fn resume(&self, txns: &Txns) -> Result<(), SourceError> {
        let mut topic = self.lock();
        topic.wakers.clear();
        topic.starts = (0..topic.partitions.len() as i32)
            .map(|partition| (partition, txns.get(&raw::offset_txn(TOPIC, partition)).copied().unwrap_or(0)))
            .collect();
        Ok(())
    }

    fn open(&self, worker: usize, workers: usize, waker: Waker) -> Result<Box<dyn RecordSource>, SourceError> {
        let mut topic = self.lock();
        topic.wakers.push(waker);
        let next = (topic.starts.iter())
            .filter(|(partition, _)| **partition as usize % workers == worker)
            .map(|(partition, start)| (*partition, *start))
            .collect();
        Ok(Box::new(ScriptShare { script: self.clone(), next, moved: BTreeMap::new() }))
    }
}

/// One worker's share of a script.
struct ScriptShare {
    script: Script,
    next: BTreeMap<i32, i64>,
    moved: BTreeMap<i32, i64>,
}

impl RecordSource for ScriptShare {
    fn read(&mut self, stamp: Stamp, records: &mut Records) -> Result<bool, SourceError> {
        let topic = self.script.lock();
        for (partition, next) in &mut self.next {
            for (record, envelope) in topic.partitions[*partition as usize].iter().skip(*next as usize) {
                if records.bytes() >= TURN_BYTES {
                    return Ok(true);
                }
                let timestamp_ms = record.timestamp_ms.filter(|ms| *ms != -1);
                let record = RecordRef {
                    epoch: stamp.epoch,
                    ingested_at: stamp.ingested_at,
                    topic: 0,
                    partition: *partition,
                    offset: *next,
                    timestamp_ms: timestamp_ms.and_then(plausible_ms),
                    timestamp_type: match timestamp_ms {
                        Some(_) => TimestampType::CreateTime,
                        None => TimestampType::NotAvailable,
                    },
                    key: envelope.key.as_deref(),
                    value: record.value.as_deref(),
                };
                records.push(record, envelope.headers.iter().map(|(name, value)| (name.as_slice(), value.as_deref())));
                *next += 1;
                self.moved.insert(*partition, *next);
            }
        }
        Ok(false)
    }

    fn take_positions(&mut self) -> Vec<Position> {
        std::mem::take(&mut self.moved)
            .into_iter()
            .map(|(partition, next_offset)| Position { topic: TOPIC.to_owned(), partition, next_offset, last: None })
            .collect()
    }

    fn take_at_end(&mut self) -> bool {
        self.drained()
    }

    fn drained(&self) -> bool {
        let topic = self.script.lock();
        self.next.iter().all(|(partition, next)| topic.partitions[*partition as usize].len() as i64 <= *next)
    }
}
