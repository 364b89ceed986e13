//! A topic in memory that forgets what was read, so that a day of records needs no memory for a day.
//!
//! In: records. Out: the same records, as if they came from Kafka. Ordering: that of the records, within a partition. State: the records
//! that were not read yet. Failure: none. Restart: a topic that was not read from yet continues at the offsets that `raw` records.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use super::traffic::Generated;
use crate::model::{RecordRef, Records, TimestampType};
use crate::process::lock;
use crate::source::{Position, RecordSource, SourceError, SourceFactory, Stamp, Txns, Waker};
use crate::table::raw;

/// Bytes read in one turn, as from Kafka.
const TURN_BYTES: usize = 1 << 20;

/// A topic in memory; clones share it.
#[derive(Clone)]
pub(super) struct Stream {
    name: Arc<str>,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    partitions: Vec<Partition>,
    wakers: Vec<Waker>,
}

#[derive(Default)]
struct Partition {
    next: i64,
    records: VecDeque<Generated>,
}

impl Stream {
    /// An empty topic.
    pub(super) fn new(name: &str, partitions: usize) -> Stream {
        let partitions = (0..partitions).map(|_| Partition::default()).collect();
        Stream { name: name.into(), inner: Arc::new(Mutex::new(Inner { partitions, wakers: Vec::new() })) }
    }

    /// Appends records.
    pub(super) fn push(&self, records: impl IntoIterator<Item = Generated>) {
        let mut inner = lock(&self.inner);
        for record in records {
            inner.partitions[record.partition as usize].records.push_back(record);
        }
        inner.wakers.iter().for_each(|wake| wake());
    }
}

impl SourceFactory for Stream {
    fn check(&self) -> Result<(), SourceError> {
        Ok(())
    }

    fn resume(&self, txns: &Txns) -> Result<(), SourceError> {
        for (number, partition) in lock(&self.inner).partitions.iter_mut().enumerate() {
            partition.next = txns.get(&raw::offset_txn(&self.name, number as i32)).copied().unwrap_or(0);
        }
        Ok(())
    }

    fn open(&self, worker: usize, workers: usize, waker: Waker) -> Result<Box<dyn RecordSource>, SourceError> {
        let mut inner = lock(&self.inner);
        inner.wakers.push(waker);
        let ours = (0..inner.partitions.len()).filter(|partition| partition % workers == worker).collect();
        Ok(Box::new(Share { stream: self.clone(), ours, moved: BTreeMap::new() }))
    }
}

/// One worker's share.
struct Share {
    stream: Stream,
    ours: Vec<usize>,
    moved: BTreeMap<usize, i64>,
}

impl RecordSource for Share {
    fn read(&mut self, stamp: Stamp, records: &mut Records) -> Result<bool, SourceError> {
        let mut inner = lock(&self.stream.inner);
        for &number in &self.ours {
            let partition = &mut inner.partitions[number];
            while let Some(record) = partition.records.pop_front() {
                let of = RecordRef {
                    epoch: stamp.epoch,
                    ingested_at: stamp.ingested_at,
                    topic: 0,
                    partition: number as i32,
                    offset: partition.next,
                    timestamp_ms: Some(record.timestamp_ms),
                    timestamp_type: TimestampType::CreateTime,
                    key: record.key.as_deref(),
                    value: record.value.as_deref(),
                };
                records.push(of, std::iter::empty::<(&[u8], Option<&[u8]>)>());
                partition.next += 1;
                self.moved.insert(number, partition.next);
                if records.bytes() >= TURN_BYTES {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn take_positions(&mut self) -> Vec<Position> {
        let topic = || self.stream.name.to_string();
        (std::mem::take(&mut self.moved).into_iter())
            .map(|(partition, next_offset)| Position {
                topic: topic(),
                partition: partition as i32,
                next_offset,
                last: None,
            })
            .collect()
    }

    fn take_at_end(&mut self) -> bool {
        self.drained()
    }

    fn drained(&self) -> bool {
        let inner = lock(&self.stream.inner);
        self.ours.iter().all(|number| inner.partitions[*number].records.is_empty())
    }
}
