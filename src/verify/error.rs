//! Why no verdict was reached.
//!
//! In: errors of the job file, the tables, scratch space, threads or stdout. Out: a message, and the exit code of the command. State: none.

use crate::job::JobError;
use crate::process::{Exit, HasExit};
use crate::table::TableError;
use crate::terminal::OutputError;

/// Why tables could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The job file is wrong.
    #[error(transparent)]
    Job(#[from] JobError),
    /// A table can not be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// There is no room for temporary files.
    #[error("a temporary file can not be used: {0}; set TMPDIR to a folder with room, or raise --memory-mib")]
    Spill(#[source] std::io::Error),
    /// The system could not start a thread.
    #[error("the system could not start a thread: {0}; raise the process limit")]
    Thread(#[source] std::io::Error),
    /// The result can not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A bug.
    #[error("{0}; this is a bug: please report it")]
    Bug(String),
}

impl HasExit for VerifyError {
    fn exit(&self) -> Exit {
        match self {
            VerifyError::Job(error) => error.exit(),
            VerifyError::Table(error) => error.exit(),
            VerifyError::Spill(_) | VerifyError::Thread(_) | VerifyError::Output(_) | VerifyError::Bug(_) => {
                Exit::Failed
            }
        }
    }
}
