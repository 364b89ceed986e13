//! `floodmark replay …`: recomputes a range of the past from the archive, shows what would change, publishes it, takes it back.
//!
//! ```text
//!            raw, at one version                                    counts, at one version
//!                  │                                                         │
//! plan ─► source ─► decode ─► combine ══bucket══► roll_up ─► arrange ─► gather ─► compare ─► replays/<id>/cells, summary
//!                     │                                                    │
//!                     └─► arrivals ─► replays/<id>/rows         runs over budget ─► replays/<id>/chunks
//!
//! publish, undo:  replays/<id>/cells ─► plan ─► merge ─► commit counts (one atomic commit, beside live)
//! ```
//!
//! From `decode` to `arrange` these are the stages of live. Nothing of the tables is changed before `publish`. Of several processes
//! each has its part of the workers and compares its part of the buckets; process 0 does all else.

mod admission;
pub mod arrivals;
pub mod command;
pub mod compare;
pub mod dataset;
pub mod gather;
pub mod list;
pub mod plan;
pub mod publish;
pub mod recount;
pub mod runs;
pub mod shape;
pub mod show;
mod slices;
pub mod source;
pub mod submission;
pub mod times;
mod touched;

use object_store::Error as StoreError;

use crate::cluster::ClusterError;
use crate::job::JobError;
use crate::ledger::Fingerprint;
use crate::process::{Exit, HasExit};
use crate::table::fetch::{FetchError, Fetched, fetch};
use crate::table::{Log, TableError};
use crate::terminal::LocationError;

/// Why a replay was not made, published or undone.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The job file.
    #[error(transparent)]
    Job(#[from] JobError),
    /// A table, or what lies beside it.
    #[error(transparent)]
    Table(#[from] TableError),
    /// There are no tables.
    #[error(
        "{url} holds no table {table}: run the job first (floodmark run JOB), or set tables.url to where its tables are"
    )]
    NoTable {
        /// Where it should be.
        url: String,
        /// Its name.
        table: &'static str,
    },
    /// Publishing or undoing it.
    #[error(transparent)]
    Publish(#[from] publish::PublishError),
    /// Where the tables are.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// The other processes of the replay.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The command line.
    #[error("{0}")]
    Usage(String),
    /// It can not be answered exactly, or not now; what, and what to do.
    #[error("{0}")]
    Refused(String),
    /// The versions that it reads are no longer kept.
    #[error(
        "replay {id} compares with version {version} of table {table}, whose log is no longer kept: discard it (floodmark replay \
         discard) and submit it again under another id"
    )]
    Gone {
        /// The replay.
        id: String,
        /// The table.
        table: &'static str,
        /// The version.
        version: u64,
    },
    /// A logic on record can not be read.
    #[error(
        "what logic {fingerprint} counts can not be read: {why}; without it nobody can say which windows a range changes. Put the \
         file back, from a copy of the tables"
    )]
    LogicGone {
        /// The logic.
        fingerprint: Fingerprint,
        /// Why.
        why: String,
    },
    /// The system gave no thread.
    #[error("the system gave no thread: {0}; raise the limit of processes, or use fewer workers")]
    Thread(String),
    /// The result can not be written.
    #[error("the result can not be written to stdout: {0}")]
    Output(#[source] std::io::Error),
    /// A fault of ours.
    #[error("{0}; this is a bug: please report it")]
    Bug(String),
}

/// Fetches a file of a version that a replay reads.
async fn fetch_kept(log: &Log, path: &str) -> Result<Fetched, TableError> {
    let table = log.name();
    fetch(log.store().as_ref(), path).await.map_err(|error| match error {
        FetchError::Store(StoreError::NotFound { .. }) => TableError::Invalid(format!(
            "{path} of the version of table {table} that the replay reads is no longer kept: discard the replay and submit it \
             again, or let the tables keep dead files for longer (settings.dead_files_keep_hours)"
        )),
        error => error.of_table(format!("reading {path} of table {table}")),
    })
}

impl HasExit for ReplayError {
    fn exit(&self) -> Exit {
        match self {
            ReplayError::Usage(_) => Exit::Usage,
            ReplayError::NoTable { .. } => Exit::Configuration,
            ReplayError::Job(error) => error.exit(),
            ReplayError::Table(error) => error.exit(),
            ReplayError::Publish(error) => error.exit(),
            ReplayError::Location(error) => error.exit(),
            ReplayError::Cluster(error) => error.exit(),
            ReplayError::Refused(_)
            | ReplayError::Gone { .. }
            | ReplayError::LogicGone { .. }
            | ReplayError::Thread(_)
            | ReplayError::Output(_)
            | ReplayError::Bug(_) => Exit::Failed,
        }
    }
}
