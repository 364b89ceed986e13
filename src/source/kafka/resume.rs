//! Where each partition goes on: at the next offset of `raw`, if the topic is the one that was archived and nothing was deleted.
//!
//! In: the application transactions of `raw`; what the brokers say. Out: a start for each partition, or why there is none.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{ASK, KafkaConsumer, away, partitions};
use super::record::{LastRecord, check_of};
use crate::job::Start;
use crate::source::{PartitionStart, SourceError};
use crate::table::{State, raw};

/// What is asked before a job reads.
pub(super) struct Resume<'a> {
    pub(super) client: &'a ClientConfig,
    pub(super) topics: &'a [String],
    pub(super) start: &'a Start,
    pub(super) accept_gap: bool,
}

impl Resume<'_> {
    pub(super) fn decide(&self, consumer: &KafkaConsumer, state: &State) -> Result<Vec<PartitionStart>, SourceError> {
        let mut starts = Vec::new();
        let mut doubts = Vec::new();
        for (topic, count) in partitions(consumer, self.topics)? {
            let name = &self.topics[usize::from(topic)];
            let first_start = !(0..count).any(|partition| state.txns.contains_key(&raw::offset_txn(name, partition)));
            let by_time = match self.start {
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
                    None => match self.start {
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
    pub(super) fn refuse_compacted(&self) -> Result<(), SourceError> {
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
