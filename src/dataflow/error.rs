//! What ends a running job without its having been asked to.

use crate::model::Epoch;
use crate::process::{Exit, HasExit};
use crate::table::TableError;

/// What ends a job without its having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A worker, or what serves it.
    #[error("{what}")]
    Worker {
        /// How the job ends.
        exit: Exit,
        /// What happened, and what to do.
        what: String,
    },
    /// Records were lost or doubled between two places that count them.
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
    /// Somebody has to look.
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
