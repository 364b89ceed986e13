//! Kafka as a source. Partitions are assigned without a consumer group, and resumed where `raw` ends, once the topic is known to
//! be the same as before.
//!
//! In: the job's topics. Out: records, a bounded number per partition and turn. Ordering: that of Kafka, within a partition.
//! State: for each partition the next offset, whether its end was seen, and a copy of its last record for the check. The client's
//! queues are bounded: when they are full it stops fetching, and the rest stays in the broker. Failure: the client reconnects to
//! brokers that go away; any other error ends the job. Restart: from the offsets in `raw`.

mod client;
mod ends;
mod first;
mod record;
mod resume;
mod share;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;

use super::{PartitionStart, RecordSource, SourceError, SourceFactory, Txns, Waker};
use crate::job::{Job, Start};
use crate::process::lock;

pub(crate) use client::{Offsets, client_config};
pub(crate) use record::{headers_of, record_of};

use client::{consumer, end_offsets, named, partitions, silent_consumer};
use ends::{Known, ReadUpTo};
use first::{From, first_records};
use resume::Resume;
use share::Share;

/// How often to look for new partitions, unless the job sets `topic.metadata.refresh.interval.ms`.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(30);

/// The job's topics.
pub struct Kafka {
    client: ClientConfig,
    topics: Vec<String>,
    start: Start,
    accept_gap: bool,
    discovery_interval: Duration,
    known: Arc<Known>,
}

impl Kafka {
    /// The topics of a job. `accept_gap`: if the offsets in `raw` do not match the topic, continue with the records that are
    /// there.
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

    fn resume(&self) -> Resume<'_> {
        Resume { client: &self.client, topics: &self.topics, start: &self.start, accept_gap: self.accept_gap }
    }
}

/// The end of each partition: the offset that its next record will get. Blocks for as long as two requests may take.
///
/// # Errors
/// See [`SourceError`].
pub(crate) fn ends_of(client: &ClientConfig, topics: &[String], patience: Duration) -> Result<Offsets, SourceError> {
    let consumer = silent_consumer(client, patience)?;
    let counts = partitions(&consumer, topics)?;
    end_offsets(&consumer, counts.iter().flat_map(|(topic, count)| named(topics, *topic, *count)).collect())
}

/// Those of these partitions that hold no record from their offset on. Blocks.
///
/// # Errors
/// See [`SourceError`].
pub(crate) fn without_records(
    client: &ClientConfig,
    from: Offsets,
    patience: Duration,
) -> Result<BTreeSet<(String, i32)>, SourceError> {
    let from: Vec<From> =
        from.into_iter().map(|((topic, partition), offset)| From { topic, partition, offset }).collect();
    let found = first_records(client, &from, patience)?;
    let empty = from.into_iter().zip(found).filter(|(_, found)| found.is_none());
    Ok(empty.map(|(from, _)| (from.topic, from.partition)).collect())
}

impl SourceFactory for Kafka {
    fn check(&self) -> Result<(), SourceError> {
        let consumer = consumer(&self.client)?;
        partitions(&consumer, &self.topics)?;
        self.resume().refuse_compacted(&consumer)
    }

    fn resume(&self, txns: &Txns) -> Result<(), SourceError> {
        let began = Instant::now();
        let starts = self.resume().decide(txns)?;
        tracing::debug!(partitions = starts.len(), ms = began.elapsed().as_millis(), "where partitions resume");
        self.start_at(starts);
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
        let read_up_to = lock(&self.known.read_up_to);
        let lag = |place: &Arc<ReadUpTo>| {
            let end = ends.offsets.get(&(place.topic, place.partition)).copied();
            ((self.topics[usize::from(place.topic)].clone(), place.partition), place.lag(end))
        };
        read_up_to.iter().map(lag).collect()
    }

    fn open(&self, worker: usize, workers: usize, waker: Waker) -> Result<Box<dyn RecordSource>, SourceError> {
        lock(&self.known.wakers).push(Arc::clone(&waker));
        let mut share = Share::new(&self.client, &self.topics, &self.known, worker, workers, waker);
        share.take_new()?;
        self.known.ask_brokers(&self.client, &self.topics, self.discovery_interval);
        Ok(Box::new(share))
    }
}
