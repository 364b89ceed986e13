//! What tests do to a topic, with Kafka's admin requests.

use std::time::Duration;

use futures::executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::servers::{eventually, servers};

const ANSWER: Duration = Duration::from_secs(30);

fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &servers().brokers).create().expect("an admin client")
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER))
}

fn consumer() -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &servers().brokers).set("group.id", "e2e").create().expect("a consumer")
}

pub(super) fn partitions(topic: &str) -> usize {
    let metadata = consumer().fetch_metadata(None, ANSWER).expect("metadata");
    metadata.topics().iter().find(|found| found.name() == topic).map_or(0, |found| found.partitions().len())
}

fn await_partitions(topic: &str, count: usize) {
    eventually(&format!("{count} partitions of {topic}"), ANSWER, || (partitions(topic) == count).then_some(()));
}

pub(super) fn create_topic(topic: &str, count: i32, config: &[(&str, &str)]) {
    let new = config
        .iter()
        .fold(NewTopic::new(topic, count, TopicReplication::Fixed(1)), |new, (name, value)| new.set(name, value));
    let results = block_on(admin().create_topics([&new], &options())).expect("an answer");
    results.into_iter().for_each(|result| drop(result.expect("the topic is created")));
    await_partitions(topic, count as usize);
}

pub(super) fn delete_topic(topic: &str) {
    let results = block_on(admin().delete_topics(&[topic], &options())).expect("an answer");
    results.into_iter().for_each(|result| drop(result.expect("the topic is deleted")));
    await_partitions(topic, 0);
}

pub(super) fn add_partitions(topic: &str, count: usize) {
    let results =
        block_on(admin().create_partitions([&NewPartitions::new(topic, count)], &options())).expect("an answer");
    results.into_iter().for_each(|result| drop(result.expect("partitions are added")));
    await_partitions(topic, count);
}

/// Deletes a partition's records below `offset`, as retention does.
pub(super) fn delete_records(topic: &str, partition: i32, offset: i64) {
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("an offset");
    block_on(admin().delete_records(&before, &options())).expect("records are deleted");
    assert_eq!(watermarks(topic, partition).0, offset);
}

/// The first offset and the end offset of a partition.
pub(super) fn watermarks(topic: &str, partition: i32) -> (i64, i64) {
    consumer().fetch_watermarks(topic, partition, ANSWER).expect("watermarks")
}
