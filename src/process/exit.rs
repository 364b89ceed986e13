//! Exit codes, in one place: they say what whoever started a command does next.
//!
//! | code | meaning | start it again? |
//! |---|---|---|
//! | 0 | done, or stopped in order | no |
//! | 1 | failed: a refusal, a damaged table, a bug; the last line says which | yes, and look |
//! | 2 | wrong command line | no |
//! | 3 | `verify` and `replay run --detailed-exitcode`: differences found; `check --detailed-exitcode`: records rejected | no |
//! | 75 | it may pass: Kafka or the storage does not answer, credentials have expired or were withdrawn, another process of the job was lost | yes |
//! | 76 | another copy has taken over | no |
//! | 78 | configuration: job file, keys, bucket, or a topic, a table or another process that does not fit | no: correct it |
//!
//! Every error of a command says its own by [`HasExit`], and an error that holds another one says that one's: so the same cause
//! has the same code in all commands. What a store's refusals mean is decided in `table::refusal`.

use serde::{Deserialize, Serialize};

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// Done, or stopped in order.
    Done,
    /// Somebody has to look.
    Failed,
    /// The command line.
    Usage,
    /// What was compared differs.
    Differences,
    /// It may pass: start again.
    TryAgain,
    /// Another copy has taken over: do not start this one again.
    Fenced,
    /// Somebody has to correct the job file or what it names: starting again does not help.
    Configuration,
}

impl Exit {
    /// The process' exit code.
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
