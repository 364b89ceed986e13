//! What ends a live job without its having been asked to.

use crate::cluster::ClusterError;
use crate::dataflow::error::CommitError;
use crate::process::{Exit, HasExit};
use crate::source::SourceError;
use crate::table::TableError;

/// What ended a job without its having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// A table, at the start.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The source, at the start.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The committer, or a worker through it.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The other processes of the job.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The system gave no thread.
    #[error("the system gave no thread: {0}; raise the limit of processes, or use fewer workers")]
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
