//! The errors that end a running job, and the exit code of each.

use crate::model::Epoch;
use crate::process::{Exit, HasExit};
use crate::table::TableError;

/// An error that ends a running job.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// An operation on a table failed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A worker failed, or a thread or task that serves it.
    #[error("{what}")]
    Worker {
        /// How the job ends.
        exit: Exit,
        /// What happened, and what to do.
        what: String,
    },
    /// Two places that count an epoch's records disagree: records were lost or doubled between them.
    #[error(
        "epoch {epoch} does not balance: {what}; counts was not touched, raw has every record. This is a bug: please report it"
    )]
    Imbalance {
        /// The epoch.
        epoch: Epoch,
        /// Which two counts differ.
        what: String,
    },
}

impl CommitError {
    /// A failure that somebody has to investigate.
    pub fn failed(what: impl Into<String>) -> CommitError {
        CommitError::Worker { exit: Exit::Failed, what: what.into() }
    }
}

impl HasExit for CommitError {
    fn exit(&self) -> Exit {
        match self {
            CommitError::Table(error) => error.exit(),
            CommitError::Worker { exit, .. } => *exit,
            CommitError::Imbalance { .. } => Exit::Failed,
        }
    }
}
