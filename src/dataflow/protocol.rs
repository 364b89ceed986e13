//! The messages of the control dataflow: orders from the committer to every worker, and the workers' answers.
//!
//! In a usual round, `Tick` closes an epoch; `Read`, `Archived` and `Received` report what was read, archived and counted in it;
//! `Publish` asks for some lanes up to an epoch, and each worker answers with exactly one `Staged`; `Replaced` says which files
//! are live now, and `Published` that the publish is committed. Besides these, `Feed` and `Fed` feed the archive after a start,
//! `Busy`, `Full` and `Pending` set the pace, and `Stop` and `Failed` end the job. Plain data, without state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Epoch, Lane, Segment, TimeUs};
use crate::process::{Exit, HasExit};
use crate::source::Position;
use crate::table::File;
use crate::table::layout::Layout;

/// From the committer, in worker 0's process, to every worker. Every worker receives the orders in the same sequence.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Epoch `closed` ends, and `closed + 1` begins with this `ingested_at`.
    Tick {
        /// The epoch that ends.
        closed: Epoch,
        /// The `ingested_at` of the epoch that begins; whole milliseconds.
        ingested_at: TimeUs,
        /// Whether the topic is read in the epoch that begins; not while the archive alone fills the budget.
        read: bool,
    },
    /// Feed the worker's share of the archive's rows of epochs `after + 1 ..= up_to`. The previous such order was carried out.
    Feed {
        /// All epochs up to it were fed.
        after: Epoch,
        /// The last epoch to feed.
        up_to: Epoch,
    },
    /// Merge what these lanes have pending up to `epoch`, and answer with exactly one [`Staged`].
    Publish(Publish),
    /// A publish is committed: drop its updates.
    Published {
        /// Up to which epoch.
        epoch: Epoch,
        /// Which lanes.
        lanes: Vec<Lane>,
    },
    /// A commit, of this job or of another writer, replaced these files of `counts`.
    Replaced {
        /// No longer live.
        remove: Vec<File>,
        /// Live now.
        add: Vec<File>,
    },
    /// The end: drop all capabilities.
    Stop,
}

/// An order to publish.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Publish {
    /// Number of the order.
    pub order: u64,
    /// Counts from 1; pieces that have lost their base are ordered again.
    pub attempt: u32,
    /// Up to which epoch.
    pub epoch: Epoch,
    /// `ingested_at` of that epoch.
    pub ingested_at: TimeUs,
    /// Which lanes.
    pub lanes: Vec<Lane>,
    /// Whether to seal periods that have grown old.
    pub seal: bool,
    /// Whether workers have nothing else to do meanwhile.
    pub alone: bool,
    /// Only what lies in these segments; `None` for everything.
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

    /// Number of rejected records.
    pub fn rejected(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Number of all records.
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
    /// Partitions that were read further, or were found, in it.
    pub positions: Vec<Position>,
    /// Whether every partition of the worker was read to its end in it.
    pub at_end: bool,
}

/// A process has written its raw files of an epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Archived {
    /// The epoch.
    pub epoch: Epoch,
    /// Its files, which are stored.
    pub files: Vec<File>,
    /// Outcomes of the rows in them.
    pub live: Outcomes,
    /// Outcomes of rows that were fed from the archive.
    pub fed: Outcomes,
    /// How many of the fed rows that count no lane wants any more, at the finest granularity of `total`.
    pub fed_absorbed: u64,
}

/// A worker's `pending` has received all of an epoch.
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
    /// The merged segments.
    pub pieces: Vec<Piece>,
    /// Lanes that have nothing pending up to the order's epoch.
    pub idle: Vec<Lane>,
}

/// One merged segment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Piece {
    /// The segment.
    pub segment: Segment,
    /// The new files, which are stored: one; none if no row is left; several if a long file was split.
    pub add: Vec<File>,
    /// Live files that it replaces.
    pub remove: Vec<File>,
    /// What the merge cost.
    pub effort: Effort,
}

impl Piece {
    /// Whether it merges several live files into one.
    pub fn seals(&self) -> bool {
        self.remove.len() > 1
    }

    /// Whether the files that it replaces are live, and the files that it adds overlap no other live file.
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
    /// Rows written, also in row groups that were copied.
    pub rows: u64,
    /// Rows decoded.
    pub decoded: u64,
    /// Bytes of row groups that were copied as they are.
    pub copied_bytes: u64,
    /// Microseconds on one thread, without storage.
    pub us: u64,
}

impl Effort {
    /// How much of the time was spent on rows that no update touched, in µs: what publishing less often saves.
    fn rewrite_us(&self) -> u64 {
        self.us * self.decoded.saturating_sub(self.updates) / self.decoded.max(1)
    }
}

/// The time that a publish of these lanes spent on rows that no update touched, by lane, in µs. An update that is late is not told
/// from one on time, so where both were published the lane of the granularity gets all. Sealing is not counted: it happens once
/// to a file, however often lanes are published.
pub fn rewrite_us_by_lane(lanes: &[Lane], pieces: &[Piece]) -> [u64; Lane::ALL.len()] {
    let mut by_lane = [0; Lane::ALL.len()];
    for piece in pieces.iter().filter(|piece| !piece.seals()) {
        let own = piece.segment.granularity.lane();
        let lane = if lanes.contains(&own) { own } else { Lane::Late };
        by_lane[lane as usize] += piece.effort.rewrite_us();
    }
    by_lane
}

/// From a worker to the committer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The first record of this epoch was read.
    Busy(Epoch),
    /// The worker has read or fed its share of this epoch.
    Full(Epoch),
    /// The worker has fed its share of the ordered portion down to an epoch, that is, all rows of later epochs.
    Fed {
        /// The worker.
        worker: usize,
        /// The epoch; 0 means that all of the portion was fed.
        down_to: Epoch,
        /// The epoch that was open then.
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
    /// Bytes that a worker holds pending; sent whenever they may have changed.
    Pending {
        /// The worker.
        worker: usize,
        /// Its bytes, per lane of [`Lane::ALL`].
        bytes: [u64; Lane::ALL.len()],
    },
    /// The worker can not continue.
    Failed {
        /// How the job ends.
        exit: Exit,
        /// What happened, and what to do.
        what: String,
    },
}

impl Answer {
    /// The worker can not continue.
    pub fn failed(error: &impl HasExit) -> Answer {
        Answer::Failed { exit: error.exit(), what: error.to_string() }
    }
}
