//! Why a replay ended without the result that was asked for.
//!
//! In: the errors of the modules of a replay. Out: a message that says what to do next, and the exit code of the command. Except for
//! [`PublishError::OutcomeUnknown`], the tables have not changed. State: none.

use crate::cluster::ClusterError;
use crate::job::JobError;
use crate::ledger::Fingerprint;
use crate::model::Epoch;
use crate::process::{Exit, HasExit};
use crate::table::TableError;
use crate::terminal::{LocationError, OutputError};

/// Why a replay did not run, or was not published or undone.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The job file is wrong.
    #[error(transparent)]
    Job(#[from] JobError),
    /// A table, or a file beside it, can not be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// It was not published or undone.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// It is not known where the tables are.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// Another process of the replay has failed.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The request can not be answered exactly, or not now; the text says why, and what to do.
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
        "logic {fingerprint} cannot be read: {why}; without it, the windows that a range changes are not known. Restore the file \
         from a copy of the tables"
    )]
    LogicGone {
        /// The logic.
        fingerprint: Fingerprint,
        /// Why.
        why: String,
    },
    /// The system could not start a thread.
    #[error("the system could not start a thread: {0}; raise the process limit, or use fewer workers")]
    Thread(String),
    /// The result can not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A bug.
    #[error("{0}; this is a bug: please report it")]
    Bug(String),
}

impl HasExit for ReplayError {
    fn exit(&self) -> Exit {
        match self {
            ReplayError::Usage(_) => Exit::Usage,
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

/// Why a replay was not published or undone. Nothing of it is visible then, except perhaps for [`PublishError::OutcomeUnknown`].
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A table, or a file of the replay, can not be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// There is no such replay.
    #[error("there is no replay {0:?}: `floodmark replay list` shows the existing ones")]
    Unknown(String),
    /// It is not complete.
    #[error(
        "replay {0} is not complete: run it again under the same id, and it continues where it stopped; then publish it"
    )]
    Incomplete(String),
    /// No job of this build, or a later one, was started on the tables.
    #[error(
        "replay {id} can not be published or undone yet: the table counts has the layout of an earlier build \
         (floodmark.format = {found}); start the job with this build (floodmark run), then try again"
    )]
    EarlierLayout {
        /// The replay.
        id: String,
        /// The number of the layout.
        found: u32,
    },
    /// It was never published.
    #[error("replay {0} was never published, so there is nothing to undo")]
    NotPublished(String),
    /// Live did not count with its logic when it was submitted.
    #[error(
        "replay {id} is a preview: live did not count with its logic ({logic}) when it was submitted. Run the job with that \
         logic first (`floodmark run`), then submit the replay again with a new id"
    )]
    Preview {
        /// The replay.
        id: String,
        /// Its logic.
        logic: Fingerprint,
    },
    /// Live counts with another logic now.
    #[error(
        "replay {id} counts with logic {ours} (live: from epoch {before} on), but the newest logic on record is {found}: submit it \
         again with a new id and the job file that is running now"
    )]
    LogicChanged {
        /// The replay.
        id: String,
        /// Its logic.
        ours: Fingerprint,
        /// From which epoch on live counted with it.
        before: Epoch,
        /// The newest logic on record.
        found: String,
    },
    /// Another replay was published under the same id before.
    #[error(
        "replay {0} is not the one that was published under this id before (its plan.json and its entry.json differ): submit it \
         again with a new id"
    )]
    Reused(String),
    /// The counts that it was compared with have changed since.
    #[error(
        "replay {id} was compared before replay {other} was published or undone, and both cover the same windows: submit it again \
         with a new id"
    )]
    Overtaken {
        /// The replay.
        id: String,
        /// The replay that was published or undone first.
        other: String,
    },
    /// A newer replay covers the same windows.
    #[error(
        "replay {other} was published after {id} and covers the same windows, and the newest must be undone first: run `floodmark \
         replay undo {other}`, then try again"
    )]
    UndoFirst {
        /// The replay.
        id: String,
        /// The newer replay.
        other: String,
    },
    /// It is published, so its files are still needed.
    #[error("replay {0} is published, and its files are needed to undo it: run `floodmark replay undo {0}` first")]
    InForce(String),
    /// The staged files may soon be taken for orphans.
    #[error(
        "replay {id} has taken {hours} h so far, and files that are not committed are deleted after {keep_hours} h: raise \
         settings.dead_files_keep_hours, or submit a shorter range"
    )]
    TooSlow {
        /// The replay.
        id: String,
        /// Hours since it began.
        hours: u64,
        /// How many hours the table keeps orphans.
        keep_hours: u64,
    },
    /// The store did not answer the commit.
    #[error(
        "the store did not answer the commit of replay {id} (last error: {said}), so it may or may not be done: run the same \
         command again, which finds out and completes it"
    )]
    OutcomeUnknown {
        /// The replay.
        id: String,
        /// The last error that the store's client reported.
        said: String,
    },
}

impl HasExit for PublishError {
    fn exit(&self) -> Exit {
        match self {
            PublishError::Table(error) => error.exit(),
            PublishError::OutcomeUnknown { .. } => Exit::TryAgain,
            PublishError::Unknown(_)
            | PublishError::Incomplete(_)
            | PublishError::EarlierLayout { .. }
            | PublishError::NotPublished(_)
            | PublishError::Preview { .. }
            | PublishError::LogicChanged { .. }
            | PublishError::Reused(_)
            | PublishError::Overtaken { .. }
            | PublishError::UndoFirst { .. }
            | PublishError::InForce(_)
            | PublishError::TooSlow { .. } => Exit::Failed,
        }
    }
}
