//! Why a process can not take part in a job over several processes.

use super::watch::End;
use crate::process::{Exit, HasExit};

/// Why a process can not take part, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Options do not fit together.
    #[error("{0}")]
    Usage(String),
    /// The user must change something: hostfile, secret, processes that are not of one job.
    #[error("{0}")]
    Invalid(String),
    /// It may pass: start again.
    #[error("{0}")]
    Retry(String),
    /// It was asked to stop before all processes were there; nothing was begun.
    #[error("stopped while waiting for the other processes; nothing was started")]
    Stopped,
    /// All processes end.
    #[error("{}", .0.what)]
    Ended(End),
    /// A bug of ours.
    #[error("{0}; this is a bug: please report it")]
    Bug(String),
}

impl HasExit for ClusterError {
    fn exit(&self) -> Exit {
        match self {
            ClusterError::Usage(_) => Exit::Usage,
            ClusterError::Invalid(_) => Exit::Configuration,
            ClusterError::Retry(_) => Exit::TryAgain,
            ClusterError::Stopped => Exit::Done,
            ClusterError::Ended(end) => end.exit,
            ClusterError::Bug(_) => Exit::Failed,
        }
    }
}
