//! The numbers that a process reports about itself while it runs: for the live line, the closing sentence, `/metrics` and
//! `/readyz`.
//!
//! In: values from the stages, from the committer and from the code that starts them. Out: the values, which anyone may read at
//! any time; no count depends on them. State: a fixed number of values. Restart: begins at zero.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus::{HistogramOpts, HistogramVec};

use super::interval::Interval;
use super::protocol::Outcomes;
use crate::model::{Epoch, Granularity, Lane};
use crate::process::lock;

const LANES: usize = Lane::ALL.len();

/// Upper bounds of the histogram's buckets for the duration of a commit, in seconds.
const COMMIT_SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The numbers of one process.
#[derive(Debug, Default)]
pub struct Progress {
    /// Records read from Kafka.
    pub read: AtomicU64,
    /// Bytes read from Kafka.
    pub bytes: AtomicU64,
    /// Records fed from the archive.
    pub fed: AtomicU64,
    /// Newest epoch in `raw`. This and everything else about epochs and lanes is known only in the process that commits.
    pub epoch: AtomicU64,
    /// Publish orders that are not committed yet.
    pub publishing: AtomicU64,
    /// Newest epoch in every lane of `counts`.
    pub published: AtomicU64,
    /// Newest epoch in the minute lane.
    pub published_minute: AtomicU64,
    /// Bytes that the process's workers hold pending, per lane.
    pub pending_bytes: [AtomicU64; LANES],
    outcomes: Mutex<Outcomes>,
    lanes: Mutex<Option<[LaneStand; LANES]>>,
    merged: Mutex<[Merged; Granularity::ALL.len()]>,
    commits: CommitSeconds,
    standing: Mutex<Standing>,
    minute_published: Mutex<Option<Instant>>,
    failed: Mutex<Option<String>>,
}

/// How far a lane is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStand {
    /// Its epoch in `counts`.
    pub epoch: Epoch,
    /// Its `complete_until`; 0 if it has none yet.
    pub complete_until_ms: i64,
    /// When this process last committed it; 0 if it never did.
    pub published_ms: i64,
    /// How long it waits between two publishes; `None` if this process has not decided on it yet.
    pub interval: Option<Interval>,
}

/// What the publishes of this run have merged, for one granularity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Updates that were merged.
    pub updates: u64,
    /// Rows of the files that were written.
    pub written: u64,
    /// Rows of the files that were replaced.
    pub replaced: u64,
    /// Rows that were decoded for it.
    pub decoded: u64,
    /// Bytes of row groups that were copied as they are.
    pub copied_bytes: u64,
}

/// The phase that a process is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It checks the source, and reads the tables.
    #[default]
    Starting,
    /// It waits for the other processes.
    Gathering,
    /// Its workers run.
    Running,
}

/// Time that commits took, by table.
#[derive(Debug)]
struct CommitSeconds(HistogramVec);

impl Default for CommitSeconds {
    fn default() -> Self {
        let options = HistogramOpts::new(
            "floodmark_commit_duration_seconds",
            "Duration of a commit to a table, including attempts that lost to another commit.",
        );
        let histogram = HistogramVec::new(options.buckets(COMMIT_SECONDS.to_vec()), &["table"]);
        CommitSeconds(histogram.expect("name, label and buckets are right"))
    }
}

impl Progress {
    /// Outcomes of records read from Kafka, in epochs that have ended.
    pub fn outcomes(&self) -> Outcomes {
        lock(&self.outcomes).clone()
    }

    pub(super) fn count(&self, outcomes: &Outcomes) {
        lock(&self.outcomes).add(outcomes);
    }

    /// Newest epoch in `raw` and in `counts`.
    pub fn epochs(&self) -> (Epoch, Epoch) {
        (self.epoch.load(Ordering::Relaxed), self.published.load(Ordering::Relaxed))
    }

    /// The lanes of [`Lane::ALL`]; `None` if this process does not commit.
    pub fn lanes(&self) -> Option<[LaneStand; LANES]> {
        *lock(&self.lanes)
    }

    pub(crate) fn stand(&self, of: impl Fn(Lane) -> (Epoch, i64, Interval)) {
        let mut lanes = lock(&self.lanes);
        let stands = lanes.get_or_insert_default();
        for lane in Lane::ALL {
            let stand = &mut stands[lane as usize];
            let (epoch, complete_until_ms, interval) = of(lane);
            *stand = LaneStand { epoch, complete_until_ms, interval: Some(interval), ..*stand };
        }
    }

    pub(crate) fn published_at(&self, lanes: &[Lane], now_ms: i64) {
        let mut stands = lock(&self.lanes);
        let stands = stands.get_or_insert_default();
        lanes.iter().for_each(|lane| stands[*lane as usize].published_ms = now_ms);
    }

    /// What publishes have merged, for each granularity of [`Granularity::ALL`].
    pub fn merged(&self) -> [Merged; Granularity::ALL.len()] {
        *lock(&self.merged)
    }

    pub(crate) fn merge(&self, granularity: Granularity, more: Merged) {
        let merged = &mut lock(&self.merged)[granularity as usize];
        merged.updates += more.updates;
        merged.written += more.written;
        merged.replaced += more.replaced;
        merged.decoded += more.decoded;
        merged.copied_bytes += more.copied_bytes;
    }

    /// Time that commits took, by table.
    pub fn commit_seconds(&self) -> &HistogramVec {
        &self.commits.0
    }

    pub(crate) fn committed(&self, table: &str, took: Duration) {
        self.commits.0.with_label_values(&[table]).observe(took.as_secs_f64());
    }

    /// Sets the phase of the process.
    pub fn stands(&self, standing: Standing) {
        *lock(&self.standing) = standing;
    }

    /// Notes that the job has failed and this process is ending. Only the first reason is kept.
    pub fn fails(&self, why: &str) {
        lock(&self.failed).get_or_insert_with(|| why.to_owned());
    }

    /// Whether the process runs, and is not merely ending after a failure.
    ///
    /// # Errors
    /// Why it ends.
    pub fn alive(&self) -> Result<(), String> {
        lock(&self.failed)
            .as_ref()
            .map_or(Ok(()), |why| Err(format!("the job has failed, and this process is ending: {why}")))
    }

    /// Notes that the minute lane was published; every process learns of it.
    pub fn minute_published(&self, now: Instant) {
        *lock(&self.minute_published) = Some(now);
    }

    /// Whether this process takes part and the job has published the minute lane no longer than `within` ago.
    ///
    /// # Errors
    /// Why not, in one line.
    pub fn ready(&self, now: Instant, within: Duration) -> Result<(), String> {
        self.alive()?;
        match (*lock(&self.standing), *lock(&self.minute_published)) {
            (Standing::Gathering, _) => Err("waiting for the other processes of the job".to_owned()),
            (Standing::Starting, _) => Err("starting: checking the source and reading the tables".to_owned()),
            (Standing::Running, None) => Err("nothing has been published since the start".to_owned()),
            (Standing::Running, Some(at)) if now.duration_since(at) > within => Err(format!(
                "the minute lane was last published {} s ago, expected at most {} s",
                now.duration_since(at).as_secs(),
                within.as_secs()
            )),
            (Standing::Running, Some(_)) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_who_takes_part_and_has_heard_of_a_publish_lately() {
        let (progress, now, within) = (Progress::default(), Instant::now(), Duration::from_secs(180));
        let why = |at: u64| progress.ready(now + Duration::from_secs(at), within).err().unwrap_or_default();
        assert!(why(0).starts_with("starting"));
        progress.stands(Standing::Gathering);
        assert_eq!(why(0), "waiting for the other processes of the job");
        progress.stands(Standing::Running);
        assert_eq!(why(0), "nothing has been published since the start");
        progress.minute_published(now);
        assert_eq!((why(0), why(180)), (String::new(), String::new()));
        assert_eq!(why(181), "the minute lane was last published 181 s ago, expected at most 180 s");
        progress.minute_published(now + Duration::from_secs(181));
        assert_eq!((why(181), progress.alive()), (String::new(), Ok(())));
        progress.fails("the archiver panicked");
        progress.fails("worker 0 panicked");
        assert_eq!(why(181), "the job has failed, and this process is ending: the archiver panicked");
        assert_eq!(progress.alive(), Err(why(181)));
    }
}
