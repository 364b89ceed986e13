//! One worker's share: its partitions, read a bounded number of records at a time.
//!
//! In: partitions as they become known. Out: records, and at the end of an epoch how far the partitions were read. Ordering: that
//! of Kafka within a partition; partitions take turns. State: for each partition its queue, the next offset, whether its end was
//! seen, and a copy of its last record for the check. Failure: [`SourceError`]; brokers that go away come back by themselves.
//! Restart: reading resumes where `raw` ends.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{Context, KafkaConsumer, failed, is_nothing, no_queue, waking_consumer};
use super::ends::{Known, ReadUpTo};
use super::record::{LastRecord, check_of, push};
use crate::model::{Epoch, Records};
use crate::process::lock;
use crate::source::{LastRead, PartitionStart, Position, RecordSource, SourceError, Stamp, Waker};

/// Records taken from one partition in a turn, so that none starves the others.
const PARTITION_TURN: usize = 512;

/// Bytes read in one turn.
const TURN_BYTES: usize = 1 << 20;

/// One worker's partitions.
pub(super) struct Share {
    client: ClientConfig,
    topics: Vec<String>,
    known: Arc<Known>,
    /// How many of the known partitions were looked at.
    seen: usize,
    worker: usize,
    workers: usize,
    waker: Waker,
    /// One client for each time that partitions were found: at the start, then rarely.
    clients: Vec<Arc<KafkaConsumer>>,
    partitions: Vec<Partition>,
    /// The partition that the next turn begins with, so that all get their turn.
    turn: usize,
    /// The open epoch, whose ends were requested.
    epoch: Epoch,
    /// Whether the brokers were away in this epoch: an end that was seen may be old.
    trouble: bool,
}

struct Partition {
    topic: u16,
    number: i32,
    queue: PartitionQueue<Context>,
    next_offset: i64,
    end_at_start: i64,
    moved: bool,
    /// Whether it is at its end now; then, whether it was in this epoch; then, whether it ever was.
    at_end: bool,
    end_seen: bool,
    ended: bool,
    last: Option<LastRecord>,
    read_up_to: Arc<ReadUpTo>,
}

impl Share {
    /// A share with no partitions yet, for one of so many workers.
    pub(super) fn new(
        client: &ClientConfig,
        topics: &[String],
        known: &Arc<Known>,
        worker: usize,
        workers: usize,
        waker: Waker,
    ) -> Share {
        Share {
            client: client.clone(),
            topics: topics.to_vec(),
            known: Arc::clone(known),
            seen: 0,
            worker,
            workers,
            waker,
            clients: Vec::new(),
            partitions: Vec::new(),
            turn: 0,
            epoch: 0,
            trouble: false,
        }
    }

    /// Assigns the partitions that are newly known and belong to this worker.
    pub(super) fn take_new(&mut self) -> Result<(), SourceError> {
        if self.known.count.load(Ordering::Acquire) == self.seen {
            return Ok(());
        }
        let starts = lock(&self.known.starts).clone();
        let new: Vec<PartitionStart> =
            starts[self.seen..].iter().filter(|start| self.is_ours(start.topic, start.partition)).cloned().collect();
        self.seen = starts.len();
        if new.is_empty() {
            return Ok(());
        }
        let waker = Arc::clone(&self.waker);
        let consumer = waking_consumer(&self.client, move || waker())?;
        let mut list = TopicPartitionList::new();
        for start in &new {
            list.add_partition_offset(
                &self.topics[usize::from(start.topic)],
                start.partition,
                Offset::Offset(start.offset),
            )
            .map_err(|error| failed(&error))?;
        }
        // Before the assignment: what is fetched before a queue is split off comes in the client's main queue.
        for start in new {
            let name = &self.topics[usize::from(start.topic)];
            let mut queue = (consumer.split_partition_queue(name, start.partition))
                .ok_or_else(|| no_queue(name, start.partition))?;
            let waker = Arc::clone(&self.waker);
            queue.set_nonempty_callback(move || waker());
            let read_up_to = Arc::new(ReadUpTo {
                topic: start.topic,
                partition: start.partition,
                end_at_start: start.end,
                next_offset: start.offset.into(),
                at_end: false.into(),
            });
            lock(&self.known.read_up_to).push(Arc::clone(&read_up_to));
            self.partitions.push(Partition {
                topic: start.topic,
                number: start.partition,
                queue,
                next_offset: start.offset,
                end_at_start: start.end,
                moved: start.pin,
                at_end: false,
                end_seen: false,
                ended: false,
                last: None,
                read_up_to,
            });
        }
        consumer.assign(&list).map_err(|error| failed(&error))?;
        self.clients.push(consumer);
        (self.waker)();
        Ok(())
    }

    /// Whether a partition belongs to this worker. The topic's hash is mixed in, so that small topics do not all go to the first
    /// worker.
    fn is_ours(&self, topic: u16, partition: i32) -> bool {
        let hash = foldhash::quality::FixedState::default().hash_one(&self.topics[usize::from(topic)]);
        hash.wrapping_add(partition as u64) % self.workers as u64 == self.worker as u64
    }

    /// Moves past markers of transactions and records of aborted ones. The client skips these without an event, but its position
    /// is after everything that its queues have delivered up to now. So a log that ends with them counts as read to its end, and
    /// nothing seems to be missing when retention deletes them.
    fn pass_markers(&mut self) {
        if !self.partitions.iter().any(|partition| partition.moved || partition.end_seen) {
            return;
        }
        for client in &self.clients {
            // Without an answer, the next offset stays where it is, after the last record, until the next epoch.
            let Ok(positions) = client.position() else { continue };
            let positions = positions.to_topic_map();
            for partition in &mut self.partitions {
                let key = (self.topics[usize::from(partition.topic)].clone(), partition.number);
                if let Some(Offset::Offset(position)) = positions.get(&key) {
                    partition.pass(*position);
                }
            }
        }
    }

    /// Reads the errors of each client as a whole. Brokers that go away come back, so most errors are only noted.
    fn hear_clients(&mut self) -> Result<(), SourceError> {
        for client in &self.clients {
            while let Some(event) = client.poll(Duration::ZERO) {
                let error = match event {
                    Err(error) => error,
                    // Every partition has a queue of its own, so no record should come here. To ignore it would lose it.
                    Ok(message) => {
                        return Err(SourceError::Retry(format!(
                            "the record {}/{} at offset {} arrived outside its partition's queue; start again",
                            message.topic(),
                            message.partition(),
                            message.offset()
                        )));
                    }
                };
                if let Some((code, reason)) = client.client().fatal_error() {
                    return Err(SourceError::Retry(format!("the Kafka client gave up: {code}: {reason}; start again")));
                }
                self.trouble |= !error.rdkafka_error_code().is_some_and(is_nothing);
            }
        }
        Ok(())
    }
}

impl RecordSource for Share {
    fn read(&mut self, stamp: Stamp, records: &mut Records) -> Result<bool, SourceError> {
        if self.epoch != stamp.epoch {
            self.epoch = stamp.epoch;
            if let Some(ask) = &*lock(&self.known.ask) {
                // That thread ends before the job only by a panic. Without it neither ends nor new partitions would be known.
                ask.send(stamp.epoch).map_err(|_| {
                    SourceError::Retry(
                        "the thread that asks the brokers has ended; see the log above, then start again".to_owned(),
                    )
                })?;
            }
        }
        self.take_new()?;
        self.hear_clients()?;
        let count = self.partitions.len();
        let mut more = false;
        for step in 0..count {
            let partition = &mut self.partitions[(self.turn + step) % count];
            more |= partition.read(stamp, records, &self.topics)?;
            if records.bytes() >= TURN_BYTES {
                self.turn = (self.turn + step + 1) % count;
                return Ok(true);
            }
        }
        Ok(more)
    }

    fn take_positions(&mut self) -> Vec<Position> {
        self.pass_markers();
        let topics = &self.topics;
        (self.partitions.iter_mut())
            .filter_map(|partition| {
                std::mem::take(&mut partition.moved).then(|| Position {
                    topic: topics[usize::from(partition.topic)].clone(),
                    partition: partition.number,
                    next_offset: partition.next_offset,
                    last: partition.last.as_ref().map(|last| LastRead { offset: last.offset, check: check_of(last) }),
                })
            })
            .collect()
    }

    fn take_at_end(&mut self) -> bool {
        let trouble = std::mem::take(&mut self.trouble);
        let ends = lock(&self.known.ends);
        let mut all = true;
        for partition in &mut self.partitions {
            let rested = !trouble && (partition.at_end || partition.end_seen);
            let end = ends.offsets.get(&(partition.topic, partition.number)).filter(|_| ends.epoch == self.epoch);
            all &= rested || end.is_some_and(|end| partition.next_offset >= *end);
            partition.end_seen = false;
        }
        all
    }

    fn drained(&self) -> bool {
        // The client reports an end by an event; a partition that never pauses is past it once a later record was read.
        self.partitions.iter().all(|partition| partition.ended || partition.next_offset > partition.end_at_start)
    }
}

impl Partition {
    fn read(&mut self, stamp: Stamp, records: &mut Records, topics: &[String]) -> Result<bool, SourceError> {
        let mut last = None;
        let mut more = true;
        for _ in 0..PARTITION_TURN {
            // `None` can also mean that an event was swallowed: only a second `None` means that the queue is empty.
            let polled = self.queue.poll(Duration::ZERO).or_else(|| self.queue.poll(Duration::ZERO));
            match polled {
                Some(Ok(message)) => {
                    push(records, stamp, self.topic, &message);
                    self.next_offset = message.offset() + 1;
                    self.at_end = false;
                    self.moved = true;
                    last = Some(message);
                    if records.bytes() >= TURN_BYTES {
                        break;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    self.at_end = true;
                    self.end_seen = true;
                    self.ended = true;
                }
                Some(Err(error)) => return Err(self.failure(&error, topics)),
                None => {
                    more = false;
                    break;
                }
            }
        }
        if let Some(message) = last {
            self.last = Some(LastRecord::of(&message));
        }
        self.read_up_to.next_offset.store(self.next_offset, Ordering::Relaxed);
        self.read_up_to.at_end.store(self.at_end, Ordering::Relaxed);
        Ok(more)
    }

    /// Notes that everything below this offset was read, or is no record.
    fn pass(&mut self, position: i64) {
        if position > self.next_offset {
            (self.next_offset, self.moved) = (position, true);
            self.read_up_to.next_offset.store(position, Ordering::Relaxed);
        }
    }

    fn failure(&self, error: &KafkaError, topics: &[String]) -> SourceError {
        let place = format!("{}/{} at offset {}", topics[usize::from(self.topic)], self.number, self.next_offset);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                SourceError::Retry(format!(
                    "{place}: this offset is no longer in the topic (retention, or the topic was re-created); start \
                     again: the next start names the range in doubt"
                ))
            }
            _ => SourceError::Retry(format!("{place}: {error}; check the topic and the brokers, then start again")),
        }
    }
}
