//! Kafka as a source: partitions assigned by hand, resumed where `raw` ends, and checked to be the same topic as before.
//!
//! In: the job's topics. Out: records, a bounded number per partition and turn. Order: Kafka's, per partition. State: for each
//! partition the next offset, whether its end was seen, and a copy of its last record for the check. The client's queues are
//! bounded; when they are full it stops fetching, and the broker keeps the rest. Restart: from the offsets in `raw`.

mod client;
mod ends;
mod record;
mod resume;
mod share;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::config::ClientConfig;

use super::{PartitionStart, RecordSource, SourceError, SourceFactory, Waker};
use crate::job::{Job, Start};
use crate::sync::lock;
use crate::table::State;

pub(crate) use client::client_config;
pub(crate) use record::{headers_of, record_of};

use client::{consumer, partitions};
use ends::{Known, Place};
use resume::Resume;
use share::Share;

/// How often new partitions are looked for, unless the job sets `topic.metadata.refresh.interval.ms`.
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

    fn resume(&self) -> Resume<'_> {
        Resume { client: &self.client, topics: &self.topics, start: &self.start, accept_gap: self.accept_gap }
    }
}

impl SourceFactory for Kafka {
    fn check(&self) -> Result<(), SourceError> {
        partitions(&consumer(&self.client)?, &self.topics)?;
        self.resume().refuse_compacted()
    }

    fn resume(&self, raw: &State) -> Result<(), SourceError> {
        self.start_at(self.resume().decide(&consumer(&self.client)?, raw)?);
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
        let mut share = Share::new(&self.client, &self.topics, &self.known, (worker, workers), waker);
        share.take_new()?;
        self.known.ask_brokers(&self.client, &self.topics, self.discovery_interval);
        Ok(Box::new(share))
    }
}
