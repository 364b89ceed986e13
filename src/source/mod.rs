//! Where records come from: the topic ([`kafka`]), the archive ([`feed`]), or a script in a test ([`script`]).
//!
//! A [`SourceFactory`] belongs to a process. Before the workers start, it checks the topics and decides where reading of each
//! partition resumes. It makes a [`RecordSource`] for each worker, which never blocks: it returns some records, stamped with the
//! open epoch, and at the end of an epoch how far each partition was read. Ordering: that of Kafka, within a partition. State:
//! how far each partition was read. Failure: [`SourceError`], by what the caller does next. Restart: reading resumes where `raw`
//! ends.

pub mod feed;
pub mod kafka;

pub mod script;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{Epoch, Records, TimeUs};
use crate::process::{Exit, HasExit};

/// Application transactions of `raw`, by name: they say how far it has come.
pub type Txns = BTreeMap<String, i64>;

/// Wakes a worker's source operator from any thread.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// What every record is stamped with when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The open epoch.
    pub epoch: Epoch,
    /// Its `ingested_at`.
    pub ingested_at: TimeUs,
}

/// Where reading of a partition begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStart {
    /// Index among the job's topics.
    pub topic: u16,
    /// Partition.
    pub partition: i32,
    /// The first offset to read.
    pub offset: i64,
    /// Where the partition ended when this was decided; a drain reads up to it.
    pub end: i64,
    /// Whether this offset is not in `raw` yet; the first commit records it.
    pub pin: bool,
}

/// How far a partition was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Everything below it was read, or is no record. If nothing was read: where reading starts.
    pub next_offset: i64,
    /// `None` if nothing was read.
    pub last: Option<LastRead>,
}

/// The last record read of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRead {
    /// Its offset.
    pub offset: i64,
    /// 63 bits of its MD5 hash.
    pub check: i64,
}

/// What went wrong at a source, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The user must change something: names, offsets in doubt, a compacted topic.
    #[error("{0}")]
    Invalid(String),
    /// The failure may pass: the brokers do not answer, for example.
    #[error("{0}")]
    Retry(String),
    /// A bug in Floodmark.
    #[error("{0}; this is a bug: please report it")]
    Bug(String),
}

impl HasExit for SourceError {
    fn exit(&self) -> Exit {
        match self {
            SourceError::Invalid(_) => Exit::Configuration,
            SourceError::Retry(_) => Exit::TryAgain,
            SourceError::Bug(_) => Exit::Failed,
        }
    }
}

/// One worker's share of the topics. Never blocks.
pub trait RecordSource {
    /// Appends a bounded number of records with this stamp. Returns whether more may be available at once.
    ///
    /// # Errors
    /// See [`SourceError`]; the worker holds its capability and the job ends.
    fn read(&mut self, stamp: Stamp, records: &mut Records) -> Result<bool, SourceError>;

    /// At the end of an epoch: the partitions that were read further, or were found, since the last call.
    fn take_positions(&mut self) -> Vec<Position>;

    /// At the end of an epoch: whether every partition was read to its end since the last call.
    fn take_at_end(&mut self) -> bool;

    /// Whether every partition was read up to where it ended at the start.
    fn drained(&self) -> bool;
}

/// Makes the sources of a job's workers.
pub trait SourceFactory: Send + Sync {
    /// Checks the topics. Called once, before the workers start and before anything is fenced. Blocks.
    ///
    /// # Errors
    /// See [`SourceError`].
    fn check(&self) -> Result<(), SourceError>;

    /// Decides where reading of each partition resumes, by the application transactions of `raw`. Called before `raw` is fenced,
    /// and again after that if they have changed. Blocks.
    ///
    /// # Errors
    /// See [`SourceError`].
    fn resume(&self, txns: &Txns) -> Result<(), SourceError>;

    /// Where reading of each partition resumes, as [`SourceFactory::resume`] has decided; for the other processes of the job.
    fn starts(&self) -> Vec<PartitionStart> {
        Vec::new()
    }

    /// Sets where reading of each partition resumes, as another process has decided.
    fn start_at(&self, starts: Vec<PartitionStart>) {
        drop(starts);
    }

    /// For each partition that this process reads, the number of records that were not read yet. The ends that this is computed
    /// from are as old as the open epoch.
    fn lags(&self) -> Vec<((String, i32), u64)> {
        Vec::new()
    }

    /// Makes the source of a worker.
    ///
    /// # Errors
    /// See [`SourceError`].
    fn open(&self, worker: usize, workers: usize, waker: Waker) -> Result<Box<dyn RecordSource>, SourceError>;
}
