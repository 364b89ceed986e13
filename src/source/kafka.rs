//! Kafka as a source: partitions assigned by hand, resumed where `raw` ends, and checked to be the same topic as before.
//!
//! In: the job's topics. Out: records, a bounded number per partition and turn. Order: Kafka's, per partition. State: for each
//! partition the next offset, whether its end was seen, and a copy of its last record for the check. The client's queues are
//! bounded; when they are full it stops fetching, and the broker keeps the rest. Restart: from the offsets in `raw`.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message, Timestamp};
use rdkafka::{Offset, TopicPartitionList};

use super::{PartitionStart, RecordSource, SourceError, SourceFactory, Stamp, Waker};
use crate::dataflow::protocol::Position;
use crate::job::{Job, Start};
use crate::model::{Epoch, RecordRef, Records, TimestampType};
use crate::sync::lock;
use crate::table::{State, raw};

/// How long a question to the brokers may take.
const ASK: Duration = Duration::from_secs(15);

/// Taken from one partition in a turn, so that none starves the others.
const PARTITION_TURN: usize = 512;

/// Bytes of one turn.
const TURN_BYTES: usize = 1 << 20;

/// How often new partitions are looked for, unless the job sets `topic.metadata.refresh.interval.ms`.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(30);

/// How often the client's same complaint is repeated.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// What a job is told of Kafka unless it says otherwise. Bounded queues: the broker is the buffer.
const DEFAULTS: [(&str, &str); 9] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "true"),
    // With the default of a second, a full queue costs up to a second of reading.
    ("fetch.queue.backoff.ms", "5"),
    // While a partition's queue is full the client asks for the others alone. Where these are at their ends the broker takes so
    // long to answer, and nothing of the full one comes before: with the default of 500 one partition of most records halved the rate.
    ("fetch.wait.max.ms", "50"),
    ("queued.min.messages", "20000"),
    ("queued.max.messages.kbytes", "32768"),
    ("socket.keepalive.enable", "true"),
];

/// Says what the client says, but not the same hundreds of times. The end of a partition comes as an error, and is none.
#[derive(Default)]
struct Context {
    said: Mutex<Option<(Instant, String)>>,
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        let mut said = lock(&self.said);
        let again = said.as_ref().is_some_and(|(at, last)| at.elapsed() < SAY_AGAIN && last == reason);
        if !again {
            tracing::warn!(%error, reason, "Kafka client; it goes on trying");
            *said = Some((Instant::now(), reason.to_owned()));
        }
    }
}

impl ConsumerContext for Context {}

type KafkaConsumer = BaseConsumer<Context>;

/// The job's topics.
pub struct Kafka {
    client: ClientConfig,
    topics: Vec<String>,
    start: Start,
    accept_gap: bool,
    discovery_interval: Duration,
    known: Arc<Known>,
}

/// The partitions, as far as they are known; grows.
#[derive(Default)]
struct Known {
    starts: Mutex<Vec<PartitionStart>>,
    count: AtomicUsize,
    wakers: Mutex<Vec<Waker>>,
    /// Where partitions ended in the newest epoch that was asked for.
    ends: Mutex<Ends>,
    /// How far the partitions of this process were read.
    places: Mutex<Vec<Arc<Place>>>,
    /// Asks for the ends of an epoch; made by the first worker.
    ask: Mutex<Option<mpsc::Sender<Epoch>>>,
}

/// How far a partition was read, for who wants to know its lag.
struct Place {
    topic: u16,
    partition: i32,
    end_at_start: i64,
    next_offset: AtomicI64,
    at_end: AtomicBool,
}

impl Place {
    /// Records that were not read yet. `end`: of the open epoch, if the brokers have said it.
    fn lag(&self, end: Option<i64>) -> u64 {
        if self.at_end.load(Ordering::Relaxed) {
            return 0;
        }
        let end = end.unwrap_or(0).max(self.end_at_start);
        (end - self.next_offset.load(Ordering::Relaxed)).max(0) as u64
    }
}

/// Ends of partitions, asked for after an epoch had begun: whoever has read that far has read all that came before it. A
/// partition that rests says so by an event; one that never rests is known by this.
#[derive(Default)]
struct Ends {
    epoch: Epoch,
    offsets: BTreeMap<(u16, i32), i64>,
}

/// How a job's client is set up.
pub(crate) fn client_config(job: &Job) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("client.id", "floodmark").set("group.id", format!("floodmark-{}", job.name));
    for (key, value) in DEFAULTS {
        client.set(key, value);
    }
    // A job file that sets one of those that exactness stands on was refused.
    for (key, value) in &job.source.kafka {
        client.set(key, value);
    }
    client
}

impl Kafka {
    /// The topics of a job. `accept_gap`: go on where offsets of `raw` and topic do not fit, from what is there.
    pub fn new(job: &Job, accept_gap: bool) -> Kafka {
        let discovery_interval = (job.source.kafka.get("topic.metadata.refresh.interval.ms"))
            .and_then(|ms| ms.parse().ok())
            .map_or(DISCOVERY_INTERVAL, Duration::from_millis);
        Kafka {
            client: client_config(job),
            topics: job.source.topics.clone(),
            start: job.source.start,
            accept_gap,
            discovery_interval,
            known: Arc::default(),
        }
    }

    fn consumer(&self) -> Result<KafkaConsumer, SourceError> {
        self.client.create_with_context(Context::default()).map_err(|error| {
            SourceError::Invalid(format!(
                "source.kafka: the client refuses the properties: {error}; correct them in the job file"
            ))
        })
    }

    fn partitions(&self, consumer: &KafkaConsumer) -> Result<BTreeMap<u16, i32>, SourceError> {
        partitions(consumer, &self.topics)
    }

    fn decide(&self, consumer: &KafkaConsumer, state: &State) -> Result<Vec<PartitionStart>, SourceError> {
        let mut starts = Vec::new();
        let mut doubts = Vec::new();
        for (topic, count) in self.partitions(consumer)? {
            let name = &self.topics[usize::from(topic)];
            let first_start = !(0..count).any(|partition| state.txns.contains_key(&raw::offset_txn(name, partition)));
            let by_time = match &self.start {
                Start::Time { ms } if first_start => self.offsets_at(consumer, name, count, *ms)?,
                _ => BTreeMap::new(),
            };
            for partition in 0..count {
                let (low, high) = consumer.fetch_watermarks(name, partition, ASK).map_err(|error| away(&error))?;
                let archived = state.txns.get(&raw::offset_txn(name, partition)).copied();
                let offset = match archived {
                    Some(next) if (low..=high).contains(&next) => next,
                    Some(next) => {
                        doubts.push(doubt(name, partition, next, low, high));
                        low
                    }
                    None if !first_start => low,
                    None => match &self.start {
                        Start::Earliest => low,
                        Start::Latest => high,
                        Start::Time { .. } => by_time.get(&partition).copied().unwrap_or(high),
                    },
                };
                let pin = archived != Some(offset);
                starts.push(PartitionStart { topic, partition, offset, end: high, pin });
            }
        }
        doubts.extend(self.check_last(consumer, state, &mut starts)?);
        if !doubts.is_empty() {
            let doubts = doubts.join("; ");
            if !self.accept_gap {
                return Err(SourceError::Invalid(format!(
                    "{doubts}. Nothing was read. If this is known and accepted, start once with --accept-gap: the job goes on \
                     with the oldest record that is there"
                )));
            }
            tracing::warn!(doubts, "accepted by --accept-gap");
        }
        Ok(starts)
    }

    fn offsets_at(
        &self,
        consumer: &KafkaConsumer,
        topic: &str,
        count: i32,
        ms: i64,
    ) -> Result<BTreeMap<i32, i64>, SourceError> {
        let mut times = TopicPartitionList::new();
        for partition in 0..count {
            times
                .add_partition_offset(topic, partition, Offset::Offset(ms))
                .map_err(|error| SourceError::Invalid(format!("source.start: {error}")))?;
        }
        let found = consumer.offsets_for_times(times, ASK).map_err(|error| away(&error))?;
        let offsets = found.elements().into_iter().filter_map(|element| match element.offset() {
            Offset::Offset(offset) => Some((element.partition(), offset)),
            _ => None,
        });
        Ok(offsets.collect())
    }

    /// Reads each partition's last archived record again and compares it with what `raw` remembers of it. Where it is another
    /// one, `starts` are set to the partition's oldest record.
    fn check_last(
        &self,
        consumer: &KafkaConsumer,
        state: &State,
        starts: &mut [PartitionStart],
    ) -> Result<Vec<String>, SourceError> {
        let mut waiting: BTreeMap<(String, i32), (&mut PartitionStart, i64, i64)> = BTreeMap::new();
        let mut list = TopicPartitionList::new();
        for start in starts.iter_mut().filter(|start| !start.pin && start.offset > 0) {
            let name = &self.topics[usize::from(start.topic)];
            let Some(check) = state.txns.get(&raw::check_txn(name, start.partition)) else { continue };
            let (low, _) = consumer.fetch_watermarks(name, start.partition, ASK).map_err(|error| away(&error))?;
            if low >= start.offset {
                tracing::info!(
                    topic = name,
                    partition = start.partition,
                    "last archived record is no longer in the topic, not checked"
                );
                continue;
            }
            list.add_partition_offset(name, start.partition, Offset::Offset(start.offset - 1))
                .map_err(|error| SourceError::Invalid(error.to_string()))?;
            waiting.insert((name.clone(), start.partition), (start, low, *check));
        }
        let mut doubts = Vec::new();
        if waiting.is_empty() {
            return Ok(doubts);
        }
        consumer.assign(&list).map_err(|error| away(&error))?;
        let deadline = Instant::now() + ASK;
        while !waiting.is_empty() {
            if Instant::now() > deadline {
                let (topic, partition) = waiting.keys().next().cloned().unwrap_or_default();
                return Err(SourceError::Retry(format!(
                    "the last archived record of {topic}/{partition} did not come within {} s; check the brokers, then start again",
                    ASK.as_secs()
                )));
            }
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let key = (message.topic().to_owned(), message.partition());
                    let Some((start, low, check)) = waiting.remove(&key) else { continue };
                    // Another offset than asked for: that record is gone, by retention or an aborted transaction.
                    if message.offset() == start.offset - 1 && check_of(&LastRecord::of(&message)) != check {
                        doubts.push(format!(
                            "{}/{}: the record at offset {} is not the one that was archived last; the topic was made anew, and all \
                             its records from offset {low} on are in doubt",
                            key.0,
                            key.1,
                            message.offset()
                        ));
                        (start.offset, start.pin) = (low, true);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) | None => {}
                Some(Err(error)) => tracing::warn!(%error, "reading the last archived records"),
            }
        }
        consumer.unassign().map_err(|error| away(&error))?;
        Ok(doubts)
    }

    /// `cleanup.policy=compact` loses records that were counted.
    fn refuse_compacted(&self) -> Result<(), SourceError> {
        let admin: AdminClient<DefaultClientContext> =
            self.client.create().map_err(|error| SourceError::Invalid(format!("source.kafka: {error}")))?;
        // librdkafka's mock cluster (`floodmark dev broker`) has no settings, and would be asked until time is up.
        if admin.inner().fetch_cluster_id(ASK).is_some_and(|cluster| cluster.starts_with("mockCluster")) {
            return Ok(());
        }
        let topics: Vec<_> = self.topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(ASK));
        let described = match futures::executor::block_on(admin.describe_configs(&topics, &options)) {
            Ok(described) => described,
            Err(error) => {
                tracing::warn!(%error, "the topics' settings can not be asked; make sure that cleanup.policy is delete");
                return Ok(());
            }
        };
        for (topic, config) in self.topics.iter().zip(described) {
            let policy = config.ok().and_then(|config| config.get("cleanup.policy")?.value.clone());
            if let Some(policy) = policy.filter(|policy| policy.contains("compact")) {
                return Err(SourceError::Invalid(format!(
                    "topic {topic} has cleanup.policy={policy}, expected delete: a compacted topic drops records that the archive \
                     must have; change the topic's setting or choose another topic"
                )));
            }
        }
        Ok(())
    }

    /// Starts the thread that asks the brokers, once in a process: for new partitions at an interval, for ends at each epoch.
    fn ask_brokers(&self) {
        let mut ask = lock(&self.known.ask);
        if ask.is_some() {
            return;
        }
        let (sender, epochs) = mpsc::channel();
        let known = Arc::downgrade(&self.known);
        let (client, topics, interval) = (self.client.clone(), self.topics.clone(), self.discovery_interval);
        let body = move || {
            let Ok(consumer) = client.create_with_context::<_, KafkaConsumer>(Context::default()) else { return };
            let mut discovered = Instant::now();
            loop {
                let epoch = epochs.recv_timeout(interval.saturating_sub(discovered.elapsed()));
                let Some(known) = known.upgrade() else { return };
                if let Ok(epoch) = epoch {
                    known.ask_ends(&consumer, epoch, &topics);
                }
                if discovered.elapsed() >= interval {
                    discovered = Instant::now();
                    match partitions(&consumer, &topics) {
                        Ok(found) => known.add_new(&found, &topics),
                        Err(error) => tracing::warn!(%error, "looking for new partitions"),
                    }
                }
            }
        };
        match std::thread::Builder::new().name("ask-brokers".to_owned()).spawn(body) {
            Ok(_) => *ask = Some(sender),
            Err(error) => {
                tracing::warn!(%error, "no thread to look for new partitions; they are found at the next start")
            }
        }
    }
}

impl Known {
    fn ask_ends(&self, consumer: &KafkaConsumer, epoch: Epoch, topics: &[String]) {
        if lock(&self.ends).epoch >= epoch {
            return;
        }
        let mut list = TopicPartitionList::new();
        for start in lock(&self.starts).iter() {
            // A list that can not be made asks for less.
            list.add_partition_offset(&topics[usize::from(start.topic)], start.partition, Offset::End)
                .unwrap_or_default();
        }
        match consumer.offsets_for_times(list, ASK) {
            Ok(found) => {
                let offsets = found.elements().into_iter().filter_map(|element| {
                    let topic = topics.iter().position(|topic| topic == element.topic())?;
                    let Offset::Offset(end) = element.offset() else { return None };
                    Some(((topic as u16, element.partition()), end))
                });
                *lock(&self.ends) = Ends { epoch, offsets: offsets.collect() };
            }
            Err(error) => tracing::debug!(%error, epoch, "ends of partitions not known for this epoch"),
        }
    }

    fn add_new(&self, found: &BTreeMap<u16, i32>, topics: &[String]) {
        let mut starts = lock(&self.starts);
        let before = starts.len();
        let have: BTreeSet<(u16, i32)> = starts.iter().map(|start| (start.topic, start.partition)).collect();
        for (&topic, &count) in found {
            for partition in (0..count).filter(|partition| !have.contains(&(topic, *partition))) {
                tracing::info!(topic = topics[usize::from(topic)], partition, "new partition, read from its beginning");
                starts.push(PartitionStart { topic, partition, offset: 0, end: 0, pin: true });
            }
        }
        if starts.len() > before {
            self.count.store(starts.len(), Ordering::Release);
            lock(&self.wakers).iter().for_each(|wake| wake());
        }
    }
}

impl SourceFactory for Kafka {
    fn check(&self) -> Result<(), SourceError> {
        let consumer = self.consumer()?;
        self.partitions(&consumer)?;
        self.refuse_compacted()
    }

    fn resume(&self, raw: &State) -> Result<(), SourceError> {
        let consumer = self.consumer()?;
        self.start_at(self.decide(&consumer, raw)?);
        Ok(())
    }

    fn starts(&self) -> Vec<PartitionStart> {
        lock(&self.known.starts).clone()
    }

    fn start_at(&self, starts: Vec<PartitionStart>) {
        self.known.count.store(starts.len(), Ordering::Release);
        *lock(&self.known.starts) = starts;
    }

    fn lags(&self) -> Vec<((String, i32), u64)> {
        let ends = lock(&self.known.ends);
        let places = lock(&self.known.places);
        let lag = |place: &Arc<Place>| {
            let end = ends.offsets.get(&(place.topic, place.partition)).copied();
            ((self.topics[usize::from(place.topic)].clone(), place.partition), place.lag(end))
        };
        places.iter().map(lag).collect()
    }

    fn open(&self, worker: usize, workers: usize, waker: Waker) -> Result<Box<dyn RecordSource>, SourceError> {
        lock(&self.known.wakers).push(Arc::clone(&waker));
        let mut share = Share {
            client: self.client.clone(),
            topics: self.topics.clone(),
            known: Arc::clone(&self.known),
            seen: 0,
            worker,
            workers,
            waker,
            clients: Vec::new(),
            partitions: Vec::new(),
            turn: 0,
            epoch: 0,
            trouble: false,
        };
        share.take_new()?;
        self.ask_brokers();
        Ok(Box::new(share))
    }
}

fn partitions(consumer: &KafkaConsumer, topics: &[String]) -> Result<BTreeMap<u16, i32>, SourceError> {
    // All topics are asked for: asking for one by name could make it.
    let metadata = consumer.fetch_metadata(None, ASK).map_err(|error| away(&error))?;
    let mut found = BTreeMap::new();
    for (index, name) in topics.iter().enumerate() {
        match metadata.topics().iter().find(|topic| topic.name() == name) {
            Some(topic) if !topic.partitions().is_empty() => {
                found.insert(index as u16, topic.partitions().len() as i32);
            }
            _ => {
                return Err(SourceError::Invalid(format!(
                    "source.topics: the brokers have no topic {name:?}; create it, or correct the job file"
                )));
            }
        }
    }
    Ok(found)
}

fn away(error: &KafkaError) -> SourceError {
    SourceError::Retry(format!(
        "the brokers do not answer: {error}; check source.kafka \"bootstrap.servers\", and that they are up"
    ))
}

fn doubt(topic: &str, partition: i32, next: i64, low: i64, high: i64) -> String {
    if next < low {
        format!(
            "{topic}/{partition}: offsets {next} to {} were deleted from the topic before they were archived",
            low - 1
        )
    } else {
        format!(
            "{topic}/{partition}: the archive ends before offset {next}, but the topic ends before {high}; it was made anew, and its \
             offsets {low} to {} are in doubt",
            high - 1
        )
    }
}

/// One worker's partitions.
struct Share {
    client: ClientConfig,
    topics: Vec<String>,
    known: Arc<Known>,
    /// How many of the known partitions were looked at.
    seen: usize,
    worker: usize,
    workers: usize,
    waker: Waker,
    /// A client each time that partitions were found: once at the start, then seldom.
    clients: Vec<Arc<KafkaConsumer>>,
    partitions: Vec<Partition>,
    /// The partition to begin with, so that all get their turn.
    turn: usize,
    /// The open epoch, whose ends were asked for.
    epoch: Epoch,
    /// The brokers were away in this epoch: an end that was seen may be old.
    trouble: bool,
}

struct Partition {
    topic: u16,
    number: i32,
    queue: PartitionQueue<Context>,
    next_offset: i64,
    end_at_start: i64,
    moved: bool,
    /// At its end now; was so in this epoch; was so ever.
    at_end: bool,
    end_seen: bool,
    ended: bool,
    last: LastRecord,
    place: Arc<Place>,
}

/// A copy of a partition's last record.
#[derive(Default)]
struct LastRecord {
    read: bool,
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

impl LastRecord {
    fn of(message: &BorrowedMessage<'_>) -> LastRecord {
        LastRecord {
            read: true,
            timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
        }
    }
}

/// 63 bits of the md5 of a record: timestamp (8 bytes, big-endian, −1 for none), then key and value, each as length (8 bytes,
/// −1 for null) and bytes.
fn check_of(record: &LastRecord) -> i64 {
    let mut md5 = Md5::new();
    md5.update(record.timestamp_ms.to_be_bytes());
    for part in [&record.key, &record.value] {
        let length = part.as_ref().map_or(-1, |bytes| bytes.len() as i64);
        md5.update(length.to_be_bytes());
        md5.update(part.as_deref().unwrap_or_default());
    }
    let digest = md5.finalize();
    let first = digest.first_chunk::<8>().expect("an md5 has 16 bytes");
    (u64::from_be_bytes(*first) >> 1) as i64
}

impl Share {
    /// Assigns what is known and new and ours.
    fn take_new(&mut self) -> Result<(), SourceError> {
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
        let mut consumer: KafkaConsumer =
            self.client.create_with_context(Context::default()).map_err(|error| away(&error))?;
        let waker = Arc::clone(&self.waker);
        consumer.set_nonempty_callback(move || waker());
        let consumer = Arc::new(consumer);
        let mut list = TopicPartitionList::new();
        for start in &new {
            list.add_partition_offset(
                &self.topics[usize::from(start.topic)],
                start.partition,
                Offset::Offset(start.offset),
            )
            .map_err(|error| away(&error))?;
        }
        // Before the assignment: what is fetched before its queue is split off comes by the client's main queue.
        for start in new {
            let name = &self.topics[usize::from(start.topic)];
            let mut queue = consumer.split_partition_queue(name, start.partition).ok_or_else(|| {
                SourceError::Retry(format!("the client gives no queue for {name}/{}; start again", start.partition))
            })?;
            let waker = Arc::clone(&self.waker);
            queue.set_nonempty_callback(move || waker());
            let place = Arc::new(Place {
                topic: start.topic,
                partition: start.partition,
                end_at_start: start.end,
                next_offset: start.offset.into(),
                at_end: false.into(),
            });
            lock(&self.known.places).push(Arc::clone(&place));
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
                last: LastRecord::default(),
                place,
            });
        }
        consumer.assign(&list).map_err(|error| away(&error))?;
        self.clients.push(consumer);
        (self.waker)();
        Ok(())
    }

    /// The topic's hash is mixed in, so that small topics do not all fall to the first worker.
    fn is_ours(&self, topic: u16, partition: i32) -> bool {
        let hash = foldhash::quality::FixedState::default().hash_one(&self.topics[usize::from(topic)]);
        hash.wrapping_add(partition as u64) % self.workers as u64 == self.worker as u64
    }

    /// Errors of the client as a whole: brokers that go away come back.
    fn hear_clients(&mut self) -> Result<(), SourceError> {
        for client in &self.clients {
            while let Some(event) = client.poll(Duration::ZERO) {
                let error = match event {
                    Err(error) => error,
                    // Every partition has a queue of its own. Left here, the record would be lost.
                    Ok(message) => {
                        return Err(SourceError::Retry(format!(
                            "the record {}/{} at offset {} came outside its partition's queue; start again",
                            message.topic(),
                            message.partition(),
                            message.offset()
                        )));
                    }
                };
                if let Some((code, reason)) = client.client().fatal_error() {
                    return Err(SourceError::Retry(format!("the Kafka client gave up: {code}: {reason}; start again")));
                }
                self.trouble |= error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF);
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
                // Without the thread no ends are known.
                ask.send(stamp.epoch).unwrap_or_default();
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
        let topics = &self.topics;
        (self.partitions.iter_mut())
            .filter_map(|partition| {
                std::mem::take(&mut partition.moved).then(|| Position {
                    topic: topics[usize::from(partition.topic)].clone(),
                    partition: partition.number,
                    next_offset: partition.next_offset,
                    check: partition.last.read.then(|| check_of(&partition.last)),
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
        // The end is known by its event; a partition that never rests is past it when a later record was read.
        self.partitions.iter().all(|partition| partition.ended || partition.next_offset > partition.end_at_start)
    }
}

impl Partition {
    fn read(&mut self, stamp: Stamp, records: &mut Records, topics: &[String]) -> Result<bool, SourceError> {
        let mut last = None;
        let mut more = true;
        for _ in 0..PARTITION_TURN {
            // `None` can also mean that an event was swallowed: only a second one means that the queue is empty.
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
            self.last = LastRecord::of(&message);
        }
        self.place.next_offset.store(self.next_offset, Ordering::Relaxed);
        self.place.at_end.store(self.at_end, Ordering::Relaxed);
        Ok(more)
    }

    fn failure(&self, error: &KafkaError, topics: &[String]) -> SourceError {
        let place = format!("{}/{} at offset {}", topics[usize::from(self.topic)], self.number, self.next_offset);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                SourceError::Retry(format!(
                    "{place}: this offset is no longer in the topic (retention, or a topic made anew); start again: the start says which \
                 range is in doubt"
                ))
            }
            _ => SourceError::Retry(format!("{place}: {error}; check the topic and the brokers, then start again")),
        }
    }
}

fn push(records: &mut Records, stamp: Stamp, topic: u16, message: &BorrowedMessage<'_>) {
    records.push(record_of(message, stamp, topic), headers_of(message));
}

/// A message as a record.
pub(crate) fn record_of<'m>(message: &'m BorrowedMessage<'_>, stamp: Stamp, topic: u16) -> RecordRef<'m> {
    let (timestamp_ms, timestamp_type) = match message.timestamp() {
        Timestamp::NotAvailable => (None, TimestampType::NotAvailable),
        // The client reports −1 as not available; whatever is below is kept as it is.
        Timestamp::CreateTime(ms) => (Some(ms), TimestampType::CreateTime),
        Timestamp::LogAppendTime(ms) => (Some(ms), TimestampType::LogAppendTime),
    };
    RecordRef {
        epoch: stamp.epoch,
        ingested_at: stamp.ingested_at,
        topic,
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms,
        timestamp_type,
        key: message.key(),
        value: message.payload(),
    }
}

/// The headers of a message: name, value.
pub(crate) fn headers_of<'m>(
    message: &'m BorrowedMessage<'_>,
) -> impl Iterator<Item = (&'m [u8], Option<&'m [u8]>)> + use<'m> {
    let headers = message.headers();
    let count = headers.map_or(0, Headers::count);
    (0..count).map(move |index| {
        // The client panics on a header name that is not UTF-8; the record must go through all the same.
        let header = catch_unwind(AssertUnwindSafe(|| headers.and_then(|headers| headers.try_get(index))));
        match header {
            Ok(Some(header)) => (header.key.as_bytes(), header.value),
            Ok(None) | Err(_) => ("\u{fffd}".as_bytes(), None),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_what_was_not_read_up_to_the_newest_end_that_is_known() {
        let place = |next_offset: i64, at_end: bool| Place {
            topic: 0,
            partition: 0,
            end_at_start: 100,
            next_offset: next_offset.into(),
            at_end: at_end.into(),
        };
        assert_eq!(place(40, false).lag(None), 60);
        assert_eq!(place(40, false).lag(Some(150)), 110);
        assert_eq!(place(160, false).lag(Some(150)), 0, "read on since the brokers were asked");
        assert_eq!(place(120, true).lag(Some(150)), 0, "records of aborted transactions are no lag");
    }
}
