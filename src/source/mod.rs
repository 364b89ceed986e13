//! Where records come from: the topic ([`kafka`]), the archive ([`feed`]), or a script in a test ([`script`]).
//!
//! A [`SourceFactory`] belongs to a process: it checks the topics and decides where each partition goes on, both before workers
//! start. It makes a [`RecordSource`] for each worker, which never blocks: it returns some records, stamped with the open epoch,
//! and at the end of an epoch how far each partition was read. Order: Kafka's, within a partition. Failure: [`SourceError`], by
//! what the caller does next.

pub mod feed;
pub mod kafka;

pub mod script;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{Epoch, Records, TimeUs};
use crate::process::{Exit, HasExit};

/// Application transactions of `raw`: how far it has come, by name.
pub type Txns = BTreeMap<String, i64>;

/// Wakes a worker's source operator from any thread.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// What is written beside every record on arrival.
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
    /// Where the partition ended when that was decided: what a drain reads up to.
    pub end: i64,
    /// Not in `raw` yet: the first commit pins it.
    pub pin: bool,
}

/// Where reading of a partition has come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// All below it is read, or is no record; where the partition starts, if nothing was read.
    pub next_offset: i64,
    /// `None` if nothing was read.
    pub last: Option<LastRead>,
}

/// The last record read of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRead {
    /// Its offset.
    pub offset: i64,
    /// 63 bits of its md5.
    pub check: i64,
}

/// What went wrong at a source, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The user must change something: names, offsets in doubt, a compacted topic.
    #[error("{0}")]
    Invalid(String),
    /// It may pass: the brokers are away, the topic is not there yet.
    #[error("{0}")]
    Retry(String),
    /// A fault of ours.
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
    /// Appends some records, bounded, with this stamp. Whether there may be more at once.
    ///
    /// # Errors
    /// See [`SourceError`]; the worker holds its capability and the job stops.
    fn read(&mut self, stamp: Stamp, records: &mut Records) -> Result<bool, SourceError>;

    /// The epoch ends: partitions that moved or were found since the last call.
    fn take_positions(&mut self) -> Vec<Position>;

    /// The epoch ends: whether every partition was read to its end since the last call.
    fn take_at_end(&mut self) -> bool;

    /// Whether every partition was read up to where it ended at the start.
    fn drained(&self) -> bool;
}

/// Makes the sources of a job's workers.
pub trait SourceFactory: Send + Sync {
    /// Once, before the workers start and before anything is fenced: checks the topics. Blocks.
    ///
    /// # Errors
    /// See [`SourceError`].
    fn check(&self) -> Result<(), SourceError>;

    /// Once, when `raw` is ours: decides where each partition goes on, by the application transactions of `raw`. Blocks.
    ///
    /// # Errors
    /// See [`SourceError`].
    fn resume(&self, txns: &Txns) -> Result<(), SourceError>;

    /// Where each partition goes on, as [`SourceFactory::resume`] has decided it: for the other processes of the job.
    fn starts(&self) -> Vec<PartitionStart> {
        Vec::new()
    }

    /// In another process than the one that has decided it.
    fn start_at(&self, starts: Vec<PartitionStart>) {
        drop(starts);
    }

    /// Of each partition that is read in this process, the records that were not read yet; where it ends is as old as the open epoch.
    fn lags(&self) -> Vec<((String, i32), u64)> {
        Vec::new()
    }

    /// A worker's share.
    ///
    /// # Errors
    /// See [`SourceError`].
    fn open(&self, worker: usize, workers: usize, waker: Waker) -> Result<Box<dyn RecordSource>, SourceError>;
}
