//! Decides where reading of each partition resumes: at the next offset in `raw`, if the topic is the one that was archived and
//! nothing was deleted.
//!
//! In: the application transactions of `raw`; the brokers' answers to a few requests for all partitions together. Out: a start
//! for each partition, or why there is none. Time: blocks. State: none. Failure: [`SourceError`]; nothing was read then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rdkafka::Offset;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResourceResult, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;

use super::client::{ASK, KafkaConsumer, consumer, end_offsets, is_embedded, named, offsets, partitions};
use super::first::{From, first_records};
use super::record::check_of;
use crate::job::Start;
use crate::source::{PartitionStart, SourceError, Txns};
use crate::table::raw;

/// What the decision needs besides `raw`.
pub(super) struct Resume<'a> {
    pub(super) client: &'a ClientConfig,
    pub(super) topics: &'a [String],
    pub(super) start: &'a Start,
    pub(super) accept_gap: bool,
}

/// First offset and end, by partition.
type Logs = BTreeMap<(String, i32), (i64, i64)>;

impl Resume<'_> {
    /// Where reading of each partition resumes.
    ///
    /// # Errors
    /// [`SourceError::Invalid`] if records are missing or are not those that were archived, unless that is accepted, or if the
    /// brokers refuse the client. [`SourceError::Retry`] if they do not answer.
    pub(super) fn decide(&self, txns: &Txns) -> Result<Vec<PartitionStart>, SourceError> {
        let consumer = consumer(self.client)?;
        let counts = partitions(&consumer, self.topics)?;
        let archived =
            |topic: u16, partition| txns.get(&raw::offset_txn(&self.topics[usize::from(topic)], partition)).copied();
        let first_starts: BTreeSet<u16> = (counts.iter())
            .filter(|(topic, count)| !(0..**count).any(|partition| archived(**topic, partition).is_some()))
            .map(|(topic, _)| *topic)
            .collect();
        let logs = self.logs(&consumer, &counts)?;
        let by_time = match self.start {
            Start::Time { ms } if !first_starts.is_empty() => {
                if is_embedded(&consumer) {
                    return Err(SourceError::Invalid(
                        "source.start is a time, but the embedded broker (floodmark dev broker) cannot find records \
                         by their time; set it to \"earliest\" or \"latest\", or use a real broker"
                            .to_owned(),
                    ));
                }
                let asked = first_starts.iter().flat_map(|topic| named(self.topics, *topic, counts[topic])).collect();
                offsets(&consumer, asked, Offset::Offset(*ms))?
            }
            _ => BTreeMap::new(),
        };
        let mut starts = Vec::new();
        let mut doubts = Vec::new();
        for (&topic, &count) in &counts {
            for key in named(self.topics, topic, count) {
                let ((low, high), partition) = (logs[&key], key.1);
                let archived = archived(topic, partition);
                let offset = match archived {
                    Some(next) if (low..=high).contains(&next) => next,
                    Some(next) => {
                        doubts.push(doubt(&key.0, partition, next, low, high));
                        low
                    }
                    None if !first_starts.contains(&topic) => low,
                    None => match self.start {
                        Start::Earliest => low,
                        Start::Latest => high,
                        // Without an answer no record is that recent.
                        Start::Time { .. } => by_time.get(&key).copied().unwrap_or(high),
                    },
                };
                let pin = archived != Some(offset);
                starts.push(PartitionStart { topic, partition, offset, end: high, pin });
            }
        }
        doubts.extend(self.read_again(txns, &logs, &mut starts)?);
        if !doubts.is_empty() {
            let doubts = doubts.join("; ");
            if !self.accept_gap {
                return Err(SourceError::Invalid(format!(
                    "{doubts}. Nothing was read. To accept this, start once with --accept-gap: the job continues with \
                     the oldest record in the topic"
                )));
            }
            tracing::warn!(doubts, "accepted by --accept-gap");
        }
        Ok(starts)
    }

    /// First offsets and ends of all partitions, in two requests.
    fn logs(&self, consumer: &Arc<KafkaConsumer>, counts: &BTreeMap<u16, i32>) -> Result<Logs, SourceError> {
        let all: Vec<(String, i32)> =
            counts.iter().flat_map(|(topic, count)| named(self.topics, *topic, *count)).collect();
        let lows = offsets(consumer, all.clone(), Offset::Beginning)?;
        let highs = end_offsets(consumer, all.clone())?;
        let log = |key: (String, i32)| match (lows.get(&key), highs.get(&key)) {
            (Some(low), Some(high)) => Ok((key, (*low, *high))),
            _ => Err(SourceError::Retry(format!(
                "the brokers did not report where partition {}/{} begins and ends; check that it has a leader, then \
                 start again",
                key.0, key.1
            ))),
        };
        all.into_iter().map(log).collect()
    }

    /// Reads the last archived record of each partition again, and compares it with its check in `raw`. If it is another record,
    /// the partition's start is set to its oldest record. For a topic without such a record, one partition is read at its end: a
    /// user who may ask for offsets is not always allowed to read.
    fn read_again(&self, txns: &Txns, logs: &Logs, starts: &mut [PartitionStart]) -> Result<Vec<String>, SourceError> {
        // The index among the starts, and the check of the record that should be there.
        let mut wanted: Vec<(usize, Option<i64>)> = Vec::new();
        let mut from = Vec::new();
        let mut read: BTreeSet<u16> = BTreeSet::new();
        for (index, start) in starts.iter().enumerate().filter(|(_, start)| !start.pin) {
            let (topic, partition) = (self.topics[usize::from(start.topic)].clone(), start.partition);
            let Some(check) = txns.get(&raw::check_txn(&topic, partition)) else { continue };
            let said = txns.get(&raw::last_txn(&topic, partition)).copied();
            let offset = said.filter(|last| *last < start.offset).unwrap_or(start.offset - 1);
            if offset < logs[&(topic.clone(), partition)].0 {
                tracing::info!(
                    topic,
                    partition,
                    "the last archived record is no longer in the topic, so it was not checked"
                );
                continue;
            }
            read.insert(start.topic);
            wanted.push((index, Some(*check)));
            from.push(From { topic, partition, offset });
        }
        for (index, start) in starts.iter().enumerate() {
            if read.insert(start.topic) {
                let topic = self.topics[usize::from(start.topic)].clone();
                wanted.push((index, None));
                from.push(From { topic, partition: start.partition, offset: start.end });
            }
        }
        let found = first_records(self.client, &from, ASK)?;
        let mut doubts = Vec::new();
        for ((index, check), (from, found)) in wanted.into_iter().zip(from.into_iter().zip(found)) {
            // A record at another offset means that retention has deleted the one that was asked for.
            let Some(found) = found.filter(|found| found.offset == from.offset) else { continue };
            if check.is_some_and(|check| check != check_of(&found)) {
                let From { topic, partition, offset } = from;
                let low = logs[&(topic.clone(), partition)].0;
                doubts.push(format!(
                    "{topic}/{partition}: the record at offset {offset} is not the one that was archived last; the topic was \
                     re-created, and all its records from offset {low} on are in doubt"
                ));
                (starts[index].offset, starts[index].pin) = (low, true);
            }
        }
        Ok(doubts)
    }

    /// Refuses topics with `cleanup.policy=compact`, which loses records that were counted.
    ///
    /// # Errors
    /// [`SourceError::Invalid`] for such a topic. If its settings are not known, a warning is logged instead.
    pub(super) fn refuse_compacted(&self, consumer: &Arc<KafkaConsumer>) -> Result<(), SourceError> {
        // It has no such settings, and the request would time out.
        if is_embedded(consumer) {
            return Ok(());
        }
        let admin: AdminClient<DefaultClientContext> =
            self.client.create().map_err(|error| SourceError::Invalid(format!("source.kafka: {error}")))?;
        let topics: Vec<_> = self.topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(ASK));
        match futures::executor::block_on(admin.describe_configs(&topics, &options)) {
            Ok(described) => self.topics.iter().zip(described).try_for_each(|(topic, config)| policy_of(topic, config)),
            Err(error) => {
                tracing::warn!(%error, "cannot request the topics' settings; make sure that cleanup.policy is delete");
                Ok(())
            }
        }
    }
}

fn policy_of(topic: &str, described: ConfigResourceResult) -> Result<(), SourceError> {
    let unknown = |why: &str| {
        tracing::warn!(topic, why, "this topic's settings are unknown; make sure that its cleanup.policy is delete");
        Ok(())
    };
    match described.map(|config| config.get("cleanup.policy").and_then(|policy| policy.value.clone())) {
        Ok(Some(policy)) if policy.contains("compact") => Err(SourceError::Invalid(format!(
            "topic {topic} has cleanup.policy={policy}, expected delete: a compacted topic drops records that the archive must have; \
             change the topic's setting or choose another topic"
        ))),
        Ok(Some(_)) => Ok(()),
        // This is how the client reports that it was denied.
        Ok(None) | Err(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            unknown("the brokers do not report them: the job's user lacks the permission DESCRIBE_CONFIGS on the topic")
        }
        Err(code) => unknown(&code.to_string()),
    }
}

fn doubt(topic: &str, partition: i32, next: i64, low: i64, high: i64) -> String {
    if next < low {
        format!(
            "{topic}/{partition}: offsets {next} to {} were deleted from the topic before they were archived (nothing \
             is lost if they held only transaction markers or records of aborted transactions)",
            low - 1
        )
    } else {
        format!(
            "{topic}/{partition}: the archive ends before offset {next}, but the topic ends before {high}; the topic \
             was re-created, and its offsets {low} to {} are in doubt",
            high - 1
        )
    }
}
