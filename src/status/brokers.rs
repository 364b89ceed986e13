//! Where the job's partitions end in Kafka: asked once, for a few seconds at most.
//!
//! In: the job's topics and properties. Out: the next offset of each partition, or in a sentence why it is not known. Brokers
//! that are away are no error here: the tables say the rest.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use crate::job::Source;

/// How long each of the two questions may take.
const ASK: Duration = Duration::from_secs(4);

/// Says nothing of its own: the answer says it.
struct Silent;

impl ClientContext for Silent {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Silent {}

/// Topic and partition → the offset that the next record will get. Blocks.
///
/// # Errors
/// A sentence that says why it is not known, and what to do.
pub(super) fn ends(source: &Source) -> Result<BTreeMap<(String, i32), i64>, String> {
    let mut client = ClientConfig::new();
    client.set("client.id", "floodmark-status").set("enable.auto.commit", "false");
    for (key, value) in &source.kafka {
        client.set(key, value);
    }
    let consumer: BaseConsumer<Silent> = client
        .create_with_context(Silent)
        .map_err(|error| format!("Kafka's client refuses the properties of source.kafka: {error}; correct them"))?;
    let away = |error: KafkaError| {
        format!("the brokers do not answer: {error}; check source.kafka \"bootstrap.servers\", and that they are up")
    };
    // All topics are asked for: asking for one by name could make it.
    let metadata = consumer.fetch_metadata(None, ASK).map_err(away)?;
    let mut list = TopicPartitionList::new();
    for topic in metadata.topics().iter().filter(|topic| source.topics.iter().any(|name| name == topic.name())) {
        for partition in topic.partitions() {
            // A list that can not be made asks for less.
            list.add_partition_offset(topic.name(), partition.id(), Offset::End).unwrap_or_default();
        }
    }
    if let Some(missing) = source.topics.iter().find(|name| list.elements_for_topic(name).is_empty()) {
        return Err(format!("the brokers have no topic {missing:?}; create it, or correct source.topics"));
    }
    let found = consumer.offsets_for_times(list, ASK).map_err(away)?;
    let ends = found.elements().into_iter().filter_map(|element| match element.offset() {
        Offset::Offset(end) => Some(((element.topic().to_owned(), element.partition()), end)),
        _ => None,
    });
    Ok(ends.collect())
}
