//! The messages of the control dataflow: orders of the committer to every worker, and the workers' answers.
//!
//! In the order of a usual round: `Tick` closes an epoch; `Read`, `Archived` and `Received` say what was read, archived and
//! counted in it; `Publish` asks for some lanes up to an epoch, and each worker answers with exactly one `Staged`; `Published`
//! says that it is committed, `Replaced` which files are live now. Beside these: `Feed` and `Fed` after a start, `Busy`, `Full`
//! and `Pending` for the pace, `Stop` and `Failed` for the end. Plain data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Epoch, Lane, Segment, TimeUs};
use crate::process::{Exit, HasExit};
use crate::source::Position;
use crate::table::File;
use crate::table::layout::Layout;

/// From the committer (worker 0's process) to every worker, in this order on each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Epoch `closed` ends, `closed + 1` begins and is ingested at `ingested_at`.
    Tick {
        /// The epoch that ends.
        closed: Epoch,
        /// Of the epoch that begins; whole milliseconds.
        ingested_at: TimeUs,
        /// Whether the topic is read in it: not while the archive alone fills the budget.
        read: bool,
    },
    /// Read these epochs of the archive: the worker's share of the rows of `after + 1 ..= up_to`. The order before was carried out.
    Feed {
        /// All up to it were fed.
        after: Epoch,
        /// The last one.
        up_to: Epoch,
    },
    /// Merge what these lanes have pending up to `epoch`, and answer with exactly one [`Staged`].
    Publish(Publish),
    /// An order is committed: forget its updates.
    Published {
        /// Up to which epoch.
        epoch: Epoch,
        /// Which lanes.
        lanes: Vec<Lane>,
    },
    /// These files of `counts` were replaced by a commit, ours or somebody else's.
    Replaced {
        /// No longer live.
        remove: Vec<File>,
        /// Live now.
        add: Vec<File>,
    },
    /// The end: let go of everything.
    Stop,
}

/// An order to publish.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Publish {
    /// Number of the order.
    pub order: u64,
    /// Counts from 1; what has lost its base is ordered again.
    pub attempt: u32,
    /// Up to which epoch.
    pub epoch: Epoch,
    /// `ingested_at` of that epoch.
    pub ingested_at: TimeUs,
    /// Which lanes.
    pub lanes: Vec<Lane>,
    /// Whether to seal what has grown old.
    pub seal: bool,
    /// Whether nothing else is to be done meanwhile.
    pub alone: bool,
    /// Only what lies in these; all where there are none.
    pub only: Option<Vec<Segment>>,
}

/// Counts of records by outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// Counted.
    pub counted: u64,
    /// Left out by `where`.
    pub filtered: u64,
    /// Rejected, by reason.
    pub rejected: BTreeMap<String, u64>,
}

impl Outcomes {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Outcomes) {
        self.counted += other.counted;
        self.filtered += other.filtered;
        for (reason, count) in &other.rejected {
            *self.rejected.entry(reason.clone()).or_default() += count;
        }
    }

    /// All rejected.
    pub fn rejected(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// All records.
    pub fn total(&self) -> u64 {
        self.counted + self.filtered + self.rejected()
    }
}

/// A worker's source has left an epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Read {
    /// The epoch.
    pub epoch: Epoch,
    /// Records read from Kafka in it.
    pub live: u64,
    /// Records fed from the archive in it.
    pub fed: u64,
    /// Partitions that moved or were found in it.
    pub positions: Vec<Position>,
    /// Whether every partition of the worker was read to its end in it.
    pub at_end: bool,
}

/// A process has written its raw files of an epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Archived {
    /// The epoch.
    pub epoch: Epoch,
    /// Its files, stored.
    pub files: Vec<File>,
    /// Outcomes of the rows in them.
    pub live: Outcomes,
    /// Outcomes of rows that came from the archive.
    pub fed: Outcomes,
    /// Of those that count, how many no lane of `total`'s finest granularity wants any more.
    pub fed_absorbed: u64,
}

/// A worker's pending has all of an epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Received {
    /// The epoch.
    pub epoch: Epoch,
    /// Sum of the updates of `total` at its finest granularity.
    pub total: i64,
}

/// A worker's part of a publish.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Staged {
    /// The order.
    pub order: u64,
    /// Its attempt.
    pub attempt: u32,
    /// What was merged.
    pub pieces: Vec<Piece>,
    /// Lanes that have nothing pending up to the order's epoch.
    pub idle: Vec<Lane>,
}

/// One merged segment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Piece {
    /// Where it lives.
    pub segment: Segment,
    /// The new file, stored; none when no row is left.
    pub add: Option<File>,
    /// Live files that it replaces.
    pub remove: Vec<File>,
    /// What it cost.
    pub effort: Effort,
}

impl Piece {
    /// Whether what it replaces is live, and what it adds overlaps nothing else.
    pub fn stands(&self, layout: &Layout) -> bool {
        let live: Vec<&str> = layout.overlapping(&self.segment).map(|(_, file)| file.path.as_str()).collect();
        live.len() == self.remove.len() && self.remove.iter().all(|file| live.contains(&file.path.as_str()))
    }
}

/// What a merge cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effort {
    /// Updates merged.
    pub updates: u64,
    /// Rows written.
    pub rows: u64,
    /// Microseconds of one thread, storage aside.
    pub us: u64,
}

/// From a worker to the committer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The first record of this epoch was read.
    Busy(Epoch),
    /// As much was read or fed in this epoch as a worker may.
    Full(Epoch),
    /// The worker's part of what was ordered of the archive was fed down to an epoch: all rows of later ones.
    Fed {
        /// The worker.
        worker: usize,
        /// The epoch; 0 is all of the order.
        down_to: Epoch,
        /// The open epoch in which that was so.
        open: Epoch,
    },
    /// For a drain: every partition of the worker was read up to where it ended at the start.
    Drained,
    /// See [`Read`].
    Read(Read),
    /// See [`Archived`].
    Archived(Archived),
    /// See [`Received`].
    Received(Received),
    /// See [`Staged`].
    Staged(Staged),
    /// Bytes that a worker holds pending, whenever that changed.
    Pending {
        /// The worker.
        worker: usize,
        /// Its bytes, per lane of [`Lane::ALL`].
        bytes: [u64; Lane::ALL.len()],
    },
    /// The worker can not go on.
    Failed {
        /// How the job ends.
        exit: Exit,
        /// What happened, and what to do.
        what: String,
    },
}

impl Answer {
    /// The worker can not go on.
    pub fn failed(error: &impl HasExit) -> Answer {
        Answer::Failed { exit: error.exit(), what: error.to_string() }
    }
}
