//! A source for tests: records that a test hands over, as if they lay in a topic. Keeps what it was given, so that a second
//! start reads on where `raw` ends, as Kafka would.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{RecordSource, SourceError, SourceFactory, Stamp, Waker};
use crate::dataflow::protocol::Position;
use crate::model::{RecordRef, Records, TimestampType};
use crate::sync::lock;
use crate::table::{State, raw};

/// The only topic of a script.
pub const TOPIC: &str = "script";

/// A record as a test writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptRecord {
    /// Kafka timestamp in milliseconds, or none.
    pub timestamp_ms: Option<i64>,
    /// Value.
    pub value: Option<Vec<u8>>,
}

#[derive(Default)]
struct Topic {
    partitions: Vec<Vec<ScriptRecord>>,
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

    /// Appends a record to a partition.
    pub fn push(&self, partition: usize, record: ScriptRecord) {
        let mut topic = self.lock();
        topic.partitions[partition].push(record);
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

    fn resume(&self, state: &State) -> Result<(), SourceError> {
        let mut topic = self.lock();
        topic.wakers.clear();
        topic.starts = (0..topic.partitions.len() as i32)
            .map(|partition| (partition, state.txn(&raw::offset_txn(TOPIC, partition))))
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
        Ok(Box::new(Share { script: self.clone(), next, moved: BTreeMap::new() }))
    }
}

struct Share {
    script: Script,
    next: BTreeMap<i32, i64>,
    moved: BTreeMap<i32, i64>,
}

impl RecordSource for Share {
    fn read(&mut self, stamp: Stamp, records: &mut Records) -> Result<bool, SourceError> {
        let topic = self.script.lock();
        for (partition, next) in &mut self.next {
            for record in topic.partitions[*partition as usize].iter().skip(*next as usize) {
                let record = RecordRef {
                    epoch: stamp.epoch,
                    ingested_at: stamp.ingested_at,
                    topic: 0,
                    partition: *partition,
                    offset: *next,
                    timestamp_ms: record.timestamp_ms,
                    timestamp_type: match record.timestamp_ms {
                        Some(_) => TimestampType::CreateTime,
                        None => TimestampType::NotAvailable,
                    },
                    key: None,
                    value: record.value.as_deref(),
                };
                records.push(record, std::iter::empty());
                *next += 1;
                self.moved.insert(*partition, *next);
            }
        }
        Ok(false)
    }

    fn take_positions(&mut self) -> Vec<Position> {
        std::mem::take(&mut self.moved)
            .into_iter()
            .map(|(partition, next_offset)| Position { topic: TOPIC.to_owned(), partition, next_offset, check: None })
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
