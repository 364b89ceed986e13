//! Traffic of known records: whatever Kafka has acknowledged is noted, with its offset.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use floodmark::dev::{Generated, Traffic as Generator, TrafficOptions};
use md5::{Digest, Md5};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use super::job::Scene;
use super::kafka;
use super::servers::{root, servers};

/// Records in Kafka: from (partition, offset) to a line of the file that `tests/e2e_check.py` reads.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) records: BTreeMap<(i32, i64), String>,
}

impl Sent {
    /// One line for each record: partition, offset, timestamp, and the md5 of key and value (`-` for null).
    pub(super) fn lines(&self) -> String {
        self.records.iter().map(|((partition, offset), rest)| format!("{partition},{offset},{rest}\n")).collect()
    }
}

/// Notes what is acknowledged.
pub(super) struct Deliveries {
    sent: Arc<Mutex<Sent>>,
    acknowledged: Arc<AtomicU64>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    /// The timestamp in ms with which the record was sent. For a batch that the broker had already, its answer has another one. 0 means
    /// that the broker sets it, and that its answer has it.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, timestamp_ms: usize) {
        let message = match result {
            Ok(message) => message,
            Err((error, _)) => panic!("a record was not delivered: {error}"),
        };
        let hash = |bytes: Option<&[u8]>| match bytes {
            Some(bytes) => Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
            None => "-".to_owned(),
        };
        let timestamp_ms = match timestamp_ms {
            0 => message.timestamp().to_millis().expect("the broker's own time"),
            sent => sent as i64,
        };
        let line = format!("{timestamp_ms},{},{}", hash(message.key()), hash(message.payload()));
        let mut sent = self.sent.lock().expect("no panic while locked");
        // If a record is sent again and the broker had it already, the answer has no offset; it follows the record before it.
        let last = sent.records.range((message.partition(), 0)..(message.partition() + 1, 0)).next_back();
        let offset = match message.offset() {
            offset if offset >= 0 => offset,
            _ => last.map_or(0, |((_, offset), _)| offset + 1),
        };
        let before = sent.records.insert((message.partition(), offset), line);
        assert!(before.is_none(), "two records at {}/{offset}", message.partition());
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// A producer whose acknowledged records go to `sent`.
pub(super) fn producer(
    sent: &Arc<Mutex<Sent>>,
    acknowledged: &Arc<AtomicU64>,
    properties: &[(&str, &str)],
) -> BaseProducer<Deliveries> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &servers().brokers).set("enable.idempotence", "true").set("linger.ms", "20");
    config.set("message.max.bytes", "4000000").set("message.timeout.ms", "120000").set("compression.type", "lz4");
    config.set("transaction.timeout.ms", "120000").set("log_level", "0");
    for (name, value) in properties {
        config.set(*name, *value);
    }
    let context = Deliveries { sent: Arc::clone(sent), acknowledged: Arc::clone(acknowledged) };
    config.create_with_context(context).expect("a producer")
}

/// Sends one record; waits while the producer's queue is full.
pub(super) fn send(producer: &BaseProducer<Deliveries>, topic: &str, record: &Generated) {
    let timestamp_ms = record.timestamp_ms;
    let mut base = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, timestamp_ms as usize);
    base = base.partition(record.partition).timestamp(timestamp_ms);
    (base.key, base.payload) = (record.key.as_deref(), record.value.as_deref());
    while let Err((error, unsent)) = producer.send(base) {
        assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
        base = unsent;
        producer.poll(Duration::from_millis(20));
    }
}

pub(super) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Makes records: web analytics events including late and broken ones, or lines of an access log.
pub(super) enum Maker {
    Web(Box<Generator>),
    Lines { lines: Vec<Vec<u8>>, made: usize, partitions: usize },
}

impl Maker {
    pub(super) fn new(web: bool, seed: u64, customers: u32, partitions: i32) -> Maker {
        if web {
            let options = TrafficOptions {
                seed,
                customers,
                partitions,
                range: None,
                late_share: 0.05,
                broken_share: 0.03,
                too_large: true,
                ..TrafficOptions::default()
            };
            return Maker::Web(Box::new(Generator::new(options).expect("legal options")));
        }
        let text = fs::read(root().join("tests/data/access_lines.txt")).expect("lines of an access log");
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        Maker::Lines { lines, made: seed as usize, partitions: partitions as usize }
    }

    pub(super) fn make(&mut self, record: &mut Generated) {
        match self {
            Maker::Web(generator) => generator.fill_at(now_ms(), record),
            Maker::Lines { lines, made, partitions } => {
                record.partition = (*made % *partitions) as i32;
                record.timestamp_ms = now_ms();
                record.value = Some(lines[*made % lines.len()].clone());
                *made += 1;
            }
        }
    }
}

/// A thread that sends records.
pub(super) struct Traffic {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    /// Starts to send `rate` records per second (0: as fast as possible), until it is stopped or `records` are sent.
    pub(super) fn start(scene: &Scene, seed: u64, rate: f64, records: u64) -> Traffic {
        Traffic::start_for(scene, seed, 200, rate, records)
    }

    /// The same, with a given number of customers.
    pub(super) fn start_for(scene: &Scene, seed: u64, customers: u32, rate: f64, records: u64) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let producer = producer(&scene.sent, &acknowledged, &[]);
        let partitions = kafka::partitions(&scene.topic) as i32;
        assert!(partitions > 0, "no topic {}", scene.topic);
        let mut maker = Maker::new(scene.web, seed, customers, partitions);
        let (topic, stopped) = (scene.topic.clone(), Arc::clone(&stop));
        let body = move || {
            let started = Instant::now();
            let mut record = Generated::default();
            let mut made = 0;
            while made < records && !stopped.load(Ordering::Relaxed) {
                if rate > 0.0 && made as f64 > started.elapsed().as_secs_f64() * rate {
                    producer.poll(Duration::from_millis(10));
                    continue;
                }
                maker.make(&mut record);
                send(&producer, &topic, &record);
                made += 1;
                if made.is_multiple_of(256) {
                    producer.poll(Duration::ZERO);
                }
            }
            producer.flush(Duration::from_secs(120)).expect("all records are acknowledged");
        };
        let thread = thread::Builder::new().name("traffic".to_owned()).spawn(body).expect("a thread");
        Traffic { stop, acknowledged, thread: Some(thread) }
    }

    /// How many records Kafka has acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Ends it, and waits until Kafka has acknowledged everything.
    pub(super) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits until all records are sent and acknowledged.
    pub(super) fn finish(mut self) -> u64 {
        let thread = self.thread.take().expect("joined once");
        thread.join().expect("traffic was sent");
        self.acknowledged()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
