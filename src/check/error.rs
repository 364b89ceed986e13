//! Why a job could not be checked.
//!
//! In: errors of the job file, the topics, the sample or stdout. Out: a message, and the exit code of the command. State: none.

use crate::job::JobError;
use crate::process::{Exit, HasExit};
use crate::source::SourceError;
use crate::terminal::OutputError;

/// Why a job could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The job file is wrong.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The job's topics can not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Options that do not fit together.
    #[error("{0}")]
    Usage(String),
    /// The sample can not be read, or is empty.
    #[error("{0}")]
    Sample(String),
    /// The result can not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl HasExit for CheckError {
    fn exit(&self) -> Exit {
        match self {
            CheckError::Job(error) => error.exit(),
            CheckError::Source(error) => error.exit(),
            CheckError::Usage(_) => Exit::Usage,
            CheckError::Sample(_) | CheckError::Output(_) => Exit::Failed,
        }
    }
}
