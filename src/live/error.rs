//! The errors that end a live job, and the exit code of each.

use crate::cluster::ClusterError;
use crate::dataflow::error::CommitError;
use crate::process::{Exit, HasExit};
use crate::source::SourceError;
use crate::table::TableError;

/// An error that ends a live job.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// A table failed at the start.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The source failed at the start.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The committer failed, or a worker that reported it to the committer.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Another process of the job failed or was lost.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The system could not start a thread.
    #[error("the system could not start a thread: {0}; raise the process limit, or use fewer workers")]
    Thread(String),
}

impl HasExit for LiveError {
    fn exit(&self) -> Exit {
        match self {
            LiveError::Table(error) => error.exit(),
            LiveError::Source(error) => error.exit(),
            LiveError::Commit(error) => error.exit(),
            LiveError::Cluster(error) => error.exit(),
            LiveError::Thread(_) => Exit::Failed,
        }
    }
}
