//! Why small files of `raw` were not merged, each reason with its exit code.

use parquet::errors::ParquetError;

use crate::process::{Exit, HasExit};
use crate::table::TableError;

/// Why files were not merged.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// A table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The store did not answer the commit.
    #[error(
        "{path} could not be committed within {minutes} minutes (last error: {said}); check the store, then run this \
         again"
    )]
    Unanswered {
        /// The new file.
        path: String,
        /// How long it was tried.
        minutes: u64,
        /// The last complaint of the store's client.
        said: String,
    },
    /// No room for temporary files.
    #[error("a temporary file can not be used: {0}; set TMPDIR to a folder with room")]
    Scratch(#[source] std::io::Error),
    /// A bug of ours.
    #[error("{0}; this is a bug: please report it")]
    Bug(String),
    /// The process is ending.
    #[error("stopped")]
    Stopped,
}

impl HasExit for CompactError {
    fn exit(&self) -> Exit {
        match self {
            CompactError::Table(error) => error.exit(),
            CompactError::Unanswered { .. } => Exit::TryAgain,
            CompactError::Scratch(_) | CompactError::Bug(_) | CompactError::Stopped => Exit::Failed,
        }
    }
}

impl CompactError {
    pub(super) fn bug(error: impl ToString) -> CompactError {
        CompactError::Bug(error.to_string())
    }

    pub(super) fn scratch(error: ParquetError) -> CompactError {
        CompactError::Scratch(std::io::Error::other(error))
    }
}
