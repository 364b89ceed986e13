//! What one process knows of the partitions of a job's topics: which there are, where they end, how far they were read.
//!
//! A thread of the process asks the brokers for new partitions at an interval, and for the ends of all partitions when an epoch
//! begins. In: the brokers' answers; from the workers, how far they have read. Out: new partitions, for the workers, which are
//! woken; the ends, from which a worker sees that it has read everything that came before the epoch; lags, for the metrics.
//! State: one entry for each partition. Failure: a request that fails or panics is logged and made again; reading continues
//! meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;

use super::client::{KafkaConsumer, consumer, end_offsets, partitions};
use crate::model::Epoch;
use crate::process::lock;
use crate::process::panics::caught_in;
use crate::source::{PartitionStart, SourceError, Waker};

/// The partitions that are known; their number only grows.
#[derive(Default)]
pub(super) struct Known {
    pub(super) starts: Mutex<Vec<PartitionStart>>,
    pub(super) count: AtomicUsize,
    pub(super) wakers: Mutex<Vec<Waker>>,
    /// Where partitions ended in the newest epoch for which the ends were requested.
    pub(super) ends: Mutex<Ends>,
    /// How far the partitions of this process were read.
    pub(super) read_up_to: Mutex<Vec<Arc<ReadUpTo>>>,
    /// Requests the ends for an epoch; the first worker creates it.
    pub(super) ask: Mutex<Option<mpsc::Sender<Epoch>>>,
}

/// How far a partition was read, from which its lag is computed.
pub(super) struct ReadUpTo {
    pub(super) topic: u16,
    pub(super) partition: i32,
    pub(super) end_at_start: i64,
    pub(super) next_offset: AtomicI64,
    pub(super) at_end: AtomicBool,
}

impl ReadUpTo {
    /// Number of records that were not read yet. `end`: the end in the open epoch, if the brokers have reported it.
    pub(super) fn lag(&self, end: Option<i64>) -> u64 {
        if self.at_end.load(Ordering::Relaxed) {
            return 0;
        }
        let end = end.unwrap_or(0).max(self.end_at_start);
        (end - self.next_offset.load(Ordering::Relaxed)).max(0) as u64
    }
}

/// Ends of partitions, requested after an epoch had begun: a worker that has read this far has read everything that came before
/// the epoch. If a partition pauses, the client reports its end by an event; for one that never pauses, these ends are needed.
#[derive(Default)]
pub(super) struct Ends {
    pub(super) epoch: Epoch,
    pub(super) offsets: BTreeMap<(u16, i32), i64>,
}

impl Known {
    /// Starts the thread that asks the brokers, once per process: for new partitions at an interval, for ends at each epoch.
    pub(super) fn ask_brokers(self: &Arc<Known>, client: &ClientConfig, topics: &[String], interval: Duration) {
        let mut ask = lock(&self.ask);
        if ask.is_some() {
            return;
        }
        let (sender, epochs) = mpsc::channel();
        let known = Arc::downgrade(self);
        let (client, topics) = (client.clone(), topics.to_vec());
        let body = move || ask_on(&known, &epochs, || consumer(&client), &topics, interval);
        match std::thread::Builder::new().name("ask-brokers".to_owned()).spawn(body) {
            Ok(_) => *ask = Some(sender),
            Err(error) => {
                tracing::warn!(%error, "no thread to look for new partitions; the next start finds them")
            }
        }
    }

    fn ask_ends(&self, consumer: &Arc<KafkaConsumer>, epoch: Epoch, topics: &[String]) {
        if lock(&self.ends).epoch >= epoch {
            return;
        }
        let known = |start: &PartitionStart| (topics[usize::from(start.topic)].clone(), start.partition);
        let partitions = lock(&self.starts).iter().map(known).collect();
        match end_offsets(consumer, partitions) {
            Ok(found) => {
                let ends = found.into_iter().filter_map(|((name, partition), end)| {
                    let topic = topics.iter().position(|topic| *topic == name)?;
                    Some(((topic as u16, partition), end))
                });
                *lock(&self.ends) = Ends { epoch, offsets: ends.collect() };
            }
            Err(error) => tracing::debug!(%error, epoch, "ends of partitions are unknown for this epoch"),
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

/// Asks for new partitions at an interval, and for the ends at each epoch that comes, as long as the job exists. `connect` makes
/// the client; if it fails, or a request panics, the next request makes a new one. Nothing is lost with a single answer.
fn ask_on(
    known: &Weak<Known>,
    epochs: &mpsc::Receiver<Epoch>,
    connect: impl Fn() -> Result<Arc<KafkaConsumer>, SourceError>,
    topics: &[String],
    interval: Duration,
) {
    let mut client: Option<Arc<KafkaConsumer>> = None;
    let mut discovered = Instant::now();
    loop {
        let epoch = epochs.recv_timeout(interval.saturating_sub(discovered.elapsed())).ok();
        let Some(known) = known.upgrade() else { return };
        let discovers = discovered.elapsed() >= interval;
        if discovers {
            discovered = Instant::now();
        }
        let asked = caught_in("looking for new partitions and for ends", || {
            let consumer = match client.take() {
                Some(consumer) => consumer,
                None => connect()?,
            };
            if let Some(epoch) = epoch {
                known.ask_ends(&consumer, epoch, topics);
            }
            if discovers {
                match partitions(&consumer, topics) {
                    Ok(found) => known.add_new(&found, topics),
                    Err(error) => tracing::warn!(%error, "could not look for new partitions"),
                }
            }
            Ok::<_, SourceError>(consumer)
        });
        match asked {
            Ok(Ok(consumer)) => client = Some(consumer),
            Ok(Err(error)) => {
                tracing::warn!(%error, "could not create a client to look for new partitions and ends; retries soon")
            }
            Err(panic) => tracing::error!("{panic}; the job continues, and this is retried soon"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_what_was_not_read_up_to_the_newest_end_that_is_known() {
        let place = |next_offset: i64, at_end: bool| ReadUpTo {
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

    /// A client that can not be made now, because a certificate is being replaced for example, can be made later. A panic does
    /// not end the thread either.
    #[test]
    fn who_gets_no_client_or_panics_tries_again() {
        let broker = rdkafka::mocking::MockCluster::new(1).expect("an embedded broker");
        broker.create_topic("events", 3, 1).expect("a topic");
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", broker.bootstrap_servers());
        let known: Arc<Known> = Arc::default();
        let (sender, epochs) = mpsc::channel();
        let (weak, tries) = (Arc::downgrade(&known), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&tries);
        let connect = move || match counted.fetch_add(1, Ordering::Relaxed) {
            0 => Err(SourceError::Invalid("no such file".to_owned())),
            1 => panic!("by the test"),
            _ => consumer(&client),
        };
        let asking = std::thread::spawn(move || {
            ask_on(&weak, &epochs, connect, &["events".to_owned()], Duration::from_millis(1));
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        while lock(&known.starts).len() < 3 {
            assert!(Instant::now() < deadline && !asking.is_finished(), "no partitions after {tries:?} tries");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(tries.load(Ordering::Relaxed), 3);
        drop((known, sender));
        asking.join().expect("it ends with the job");
    }
}
