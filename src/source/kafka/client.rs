//! The client: how it is set up, what it says, and the questions that every part asks.
//!
//! In: a job's properties. Out: consumers; topics and how many partitions they have. Blocks for [`ASK`] at most.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::job::Job;
use crate::source::SourceError;
use crate::sync::lock;

/// How long a question to the brokers may take.
pub(super) const ASK: Duration = Duration::from_secs(15);

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
pub(super) struct Context {
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

pub(super) type KafkaConsumer = BaseConsumer<Context>;

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

/// A client with these properties.
pub(super) fn consumer(client: &ClientConfig) -> Result<KafkaConsumer, SourceError> {
    client.create_with_context(Context::default()).map_err(|error| {
        SourceError::Invalid(format!(
            "source.kafka: the client refuses the properties: {error}; correct them in the job file"
        ))
    })
}

/// Index among the topics → how many partitions it has.
pub(super) fn partitions(consumer: &KafkaConsumer, topics: &[String]) -> Result<BTreeMap<u16, i32>, SourceError> {
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

pub(super) fn away(error: &KafkaError) -> SourceError {
    SourceError::Retry(format!(
        "the brokers do not answer: {error}; check source.kafka \"bootstrap.servers\", and that they are up"
    ))
}
