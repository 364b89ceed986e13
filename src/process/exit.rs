//! Exit codes, in one place: each tells the caller of a command what to do next.
//!
//! | code | meaning | start it again? |
//! |---|---|---|
//! | 0 | done, or stopped in order | no |
//! | 1 | failed: a refusal, a damaged table or a bug; the last line says which | yes, and investigate |
//! | 2 | wrong command line | no |
//! | 3 | `verify` and `replay run --detailed-exitcode`: differences found; `check --detailed-exitcode`: records rejected | no |
//! | 75 | may pass: Kafka or storage does not answer, credentials expired or were withdrawn, a process of the job was lost | yes
//! |
//! | 76 | another copy has taken over | no |
//! | 78 | configuration: the job file, keys or bucket, or a topic, table or other process that does not match | no: correct it |
//!
//! Every error of a command implements [`HasExit`]. An error that wraps another one returns that one's exit, so the same cause
//! has the same code in all commands. `table::refusal` decides what a store's refusals mean. Pure: no state.

use serde::{Deserialize, Serialize};

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// Done, or stopped in order.
    Done,
    /// Failed: somebody has to investigate.
    Failed,
    /// The command line is wrong.
    Usage,
    /// Differences were found, or rejected records.
    Differences,
    /// The failure may pass: start again.
    TryAgain,
    /// Another copy has taken over: do not start this one again.
    Fenced,
    /// Somebody has to correct the job file or what it names; starting again does not help.
    Configuration,
}

impl Exit {
    /// The process's exit code.
    pub const fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Differences => 3,
            Exit::TryAgain => 75,
            Exit::Fenced => 76,
            Exit::Configuration => 78,
        }
    }
}

/// An error that a command can end with.
pub trait HasExit: std::error::Error {
    /// How the command ends.
    fn exit(&self) -> Exit;
}
