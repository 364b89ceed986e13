//! The errors of `floodmark table …`, each with its exit code.

use crate::process::{Exit, HasExit};
use crate::table::TableError;
use crate::terminal::{LocationError, OutputError};
use crate::upkeep::error::CompactError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum TableCommandError {
    /// The command line.
    #[error("{0}")]
    Usage(String),
    /// What it names.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// A table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Merging files.
    #[error(transparent)]
    Compact(#[from] CompactError),
    /// Only a part could be done.
    #[error("{what}")]
    Incomplete {
        /// How the command ends.
        exit: Exit,
        /// What was not done, and why.
        what: String,
    },
    /// A folder of this machine.
    #[error("{doing}: {error}; check the path and its permissions")]
    Disk {
        /// What was being done.
        doing: String,
        /// Why it failed.
        error: std::io::Error,
    },
    /// The system could not start a thread.
    #[error("the system could not start a thread: {0}; raise the process limit")]
    Thread(#[source] std::io::Error),
    /// The result can not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl HasExit for TableCommandError {
    fn exit(&self) -> Exit {
        match self {
            TableCommandError::Usage(_) => Exit::Usage,
            TableCommandError::Location(error) => error.exit(),
            TableCommandError::Table(error) => error.exit(),
            TableCommandError::Compact(error) => error.exit(),
            TableCommandError::Incomplete { exit, .. } => *exit,
            TableCommandError::Disk { .. } | TableCommandError::Thread(_) | TableCommandError::Output(_) => {
                Exit::Failed
            }
        }
    }
}

impl TableCommandError {
    pub(super) fn retry(what: String) -> TableCommandError {
        TableCommandError::Incomplete { exit: Exit::TryAgain, what }
    }

    pub(super) fn disk(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> TableCommandError {
        let doing = doing.into();
        move |error| TableCommandError::Disk { doing, error }
    }
}
