//! What is wrong in a job file, and where.
//!
//! In: a fault that was found while reading. Out: one line with file, line, column, key, what was found and what was expected. State: none.

use std::fmt;

use crate::process::{Exit, HasExit};

/// A job file that can not be used. Nothing was started; the user has to change the file or the environment.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The file can not be read.
    #[error("{file}: can not be read: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something in the file is wrong.
    #[error("{0}")]
    Invalid(Box<Fault>),
}

impl HasExit for JobError {
    fn exit(&self) -> Exit {
        match self {
            JobError::Read { .. } | JobError::Invalid(_) => Exit::Configuration,
        }
    }
}

/// A fault in a job file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, as the user named it.
    pub file: String,
    /// Line and column, from 1; `None` if the fault has no place, as with a missing section.
    pub place: Option<(usize, usize)>,
    /// The key with its sections, as in `tables.buckets`; empty if the file is not TOML.
    pub key: String,
    /// What was found.
    pub found: String,
    /// What was expected, and perhaps the nearest known name.
    pub expected: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": found {}; expected {}", self.found, self.expected)
    }
}

/// A hint at the name in `known` that is nearest to `name`; empty if none is near.
pub(super) fn did_you_mean<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, candidate)| format!("; did you mean `{candidate}`?"))
}
