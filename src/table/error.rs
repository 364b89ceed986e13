//! The errors of tables, by what the caller does next: try again, stop for good, or tell the user what to correct.

use super::refusal;
use crate::process::{Exit, HasExit};

/// What went wrong with a table, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The user must change something: a URL, an option, a table that is not ours.
    #[error("{0}")]
    Invalid(String),
    /// Somebody else committed this version first: reload, then decide.
    #[error("table {table}: version {version} was committed by another writer")]
    Lost {
        /// Name of the table.
        table: String,
        /// The version that we wanted.
        version: u64,
    },
    /// A newer writer has taken the table: stop for good.
    #[error(
        "this process has been superseded: table {table} belongs to writer generation {theirs}, ours is {ours}; \
         another copy of the job was started later. This process has committed nothing since then; do not restart this \
         one"
    )]
    Fenced {
        /// Name of the table.
        table: String,
        /// Our generation.
        ours: i64,
        /// The generation found.
        theirs: i64,
    },
    /// The store does not answer, or no longer accepts our credentials: a later try may succeed.
    #[error("{doing}: {}; check that the store is reachable and that its credentials are valid", refusal::said(.error))]
    Storage {
        /// What was being done.
        doing: String,
        /// The store's own error.
        error: object_store::Error,
    },
    /// The store refuses our credentials or the request: the user must change something.
    #[error("{doing}: {}", refusal::said(.error))]
    Denied {
        /// What was being done.
        doing: String,
        /// The store's own error.
        error: object_store::Error,
    },
    /// The table's files contradict each other or the log, or are missing.
    #[error(
        "table {table} is damaged: {what}. Restore what is missing or damaged from a backup, or from older object \
         versions if the store keeps them; then run `floodmark verify`"
    )]
    Corrupt {
        /// Name of the table.
        table: String,
        /// What was found, where.
        what: String,
    },
    /// No room for a temporary file.
    #[error("a temporary file can not be used: {0}; set TMPDIR to a folder with room")]
    Scratch(String),
    /// A bug of ours; the tables are unchanged.
    #[error("{0}; this is a bug: please report it")]
    Bug(String),
}

impl TableError {
    /// A store's error: [`TableError::Denied`] if the user must correct something, else [`TableError::Storage`].
    pub(crate) fn storage(doing: impl Into<String>, error: object_store::Error) -> Self {
        let doing = doing.into();
        match refusal::is_for_the_user(&error) {
            true => TableError::Denied { doing, error },
            false => TableError::Storage { doing, error },
        }
    }

    /// A store's error in reading a file that the log of `table` names. If the file is missing, the table is damaged.
    pub(crate) fn reading(table: &str, path: impl std::fmt::Display, error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => TableError::Corrupt {
                table: table.to_owned(),
                what: format!("the log names {path}, but this file does not exist"),
            },
            error => TableError::storage(format!("table {table}: reading {path}"), error),
        }
    }
}

impl HasExit for TableError {
    fn exit(&self) -> Exit {
        match self {
            TableError::Invalid(_) | TableError::Denied { .. } => Exit::Configuration,
            TableError::Fenced { .. } => Exit::Fenced,
            TableError::Storage { .. } => Exit::TryAgain,
            TableError::Lost { .. } | TableError::Corrupt { .. } | TableError::Scratch(_) | TableError::Bug(_) => {
                Exit::Failed
            }
        }
    }
}
