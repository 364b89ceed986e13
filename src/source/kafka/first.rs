//! Finds the first record of a partition from an offset on, for many partitions at once.
//!
//! In: partitions with offsets. Out: for each, the record that comes first, or that there is none up to the end. Markers of
//! transactions and records of aborted transactions do not count. Time: blocks. State: a client of its own, which fetches little
//! more than is needed. Failure: [`SourceError`].

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::client::{denied, failed, listen, no_queue, silent_consumer, unanswered};
use super::record::LastRecord;
use crate::source::SourceError;

/// How long to wait before the queues are polled again.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A partition, from an offset on.
pub(super) struct From {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

/// The first records, in the order of `from`.
///
/// # Errors
/// [`SourceError::Invalid`] if a topic may not be read; [`SourceError::Retry`] if a partition has not answered in time.
pub(super) fn first_records(
    client: &ClientConfig,
    from: &[From],
    patience: Duration,
) -> Result<Vec<Option<LastRecord>>, SourceError> {
    let mut client = client.clone();
    client.set("enable.partition.eof", "true").set("auto.offset.reset", "error");
    client.set("queued.min.messages", "1").set("fetch.message.max.bytes", "16384");
    let consumer = silent_consumer(&client, patience)?;
    let mut list = TopicPartitionList::with_capacity(from.len());
    let mut waiting = Vec::new();
    for (index, From { topic, partition, offset }) in from.iter().enumerate() {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).map_err(|error| failed(&error))?;
        let queue = consumer.split_partition_queue(topic, *partition);
        waiting.push((index, queue.ok_or_else(|| no_queue(topic, *partition))?));
    }
    consumer.assign(&list).map_err(|error| failed(&error))?;
    let deadline = Instant::now() + patience;
    let mut found: Vec<Option<LastRecord>> = from.iter().map(|_| None).collect();
    loop {
        let mut still = Vec::new();
        for (index, queue) in waiting {
            match queue.poll(Duration::ZERO) {
                Some(Ok(message)) => found[index] = Some(LastRecord::of(&message)),
                // The partition ends without a record.
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => match error.rdkafka_error_code() {
                    // The partition begins later now, and its first record is another one.
                    Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {}
                    code => match code.and_then(|code| denied(&from[index].topic, code)) {
                        Some(denied) => return Err(denied),
                        None => still.push((index, queue)),
                    },
                },
                None => still.push((index, queue)),
            }
        }
        listen(&consumer);
        if still.is_empty() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            let From { topic, partition, offset } = &from[still[0].0];
            let what = format!("{topic}/{partition} from offset {offset} on");
            return Err(unanswered(
                &consumer,
                &what,
                &KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut),
            ));
        }
        waiting = still;
        thread::sleep(LOOK_AGAIN);
    }
}
