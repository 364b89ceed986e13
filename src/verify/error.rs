//! Why there is no verdict.

use crate::job::JobError;
use crate::process::{Exit, HasExit};
use crate::table::TableError;

/// Why tables could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The job file.
    #[error(transparent)]
    Job(#[from] JobError),
    /// There is nothing to verify yet.
    #[error(
        "{url} holds no table {table}: run the job first (floodmark run JOB), or set tables.url to where its tables are"
    )]
    NoTable {
        /// Where it should be.
        url: String,
        /// Its name.
        table: &'static str,
    },
    /// The tables.
    #[error(transparent)]
    Table(#[from] TableError),
    /// No room for temporary files.
    #[error("a temporary file can not be used: {0}; set TMPDIR to a folder with room, or raise --memory-mib")]
    Spill(#[source] std::io::Error),
    /// The system gave no thread.
    #[error("the system gave no thread: {0}; raise the limit of processes")]
    Thread(#[source] std::io::Error),
    /// The result can not be written.
    #[error("the result can not be written to stdout: {0}")]
    Output(#[source] std::io::Error),
    /// A fault of ours.
    #[error("{0}; this is a bug: please report it")]
    Bug(String),
}

impl HasExit for VerifyError {
    fn exit(&self) -> Exit {
        match self {
            VerifyError::Job(error) => error.exit(),
            VerifyError::NoTable { .. } => Exit::Configuration,
            VerifyError::Table(error) => error.exit(),
            VerifyError::Spill(_) | VerifyError::Thread(_) | VerifyError::Output(_) | VerifyError::Bug(_) => {
                Exit::Failed
            }
        }
    }
}
