//! The two Delta Lake tables: their log ([`log`]), the archive ([`raw`]) and the counts ([`counts`]).

pub mod counts;
pub mod fetch;
pub mod layout;
mod load;
pub mod log;
pub mod raw;
pub mod retention;
mod stats;
pub mod store;

use arrow::datatypes::{DataType, TimeUnit};

pub use load::{Listing, Tombstones};
pub use log::{Commit, File, Log, State};
pub use store::Root;

/// The Arrow type of every time in a table.
pub(crate) fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// What went wrong with a table, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The user must change something: a URL, an option, a table that is not ours.
    #[error("{0}")]
    Invalid(String),
    /// Somebody else committed this version first: reload, then decide.
    #[error("table {table}: version {version} was committed by somebody else")]
    Lost {
        /// Name of the table.
        table: String,
        /// The version that we wanted.
        version: u64,
    },
    /// A newer writer has taken the table: stop for good.
    #[error(
        "this process has lost its place: table {table} belongs to writer generation {theirs}, ours is {ours}; \
         another copy of the job was started later. Nothing of ours was committed after it; do not restart this one"
    )]
    Fenced {
        /// Name of the table.
        table: String,
        /// Our generation.
        ours: i64,
        /// The generation found.
        theirs: i64,
    },
    /// The store refused or failed.
    #[error("{doing}: {error}; check that the store is reachable and that its credentials allow reading and writing")]
    Storage {
        /// What was being done.
        doing: String,
        /// The store's own error, all of it in the text.
        error: object_store::Error,
    },
    /// The table's files contradict each other or the log.
    #[error("table {table} is damaged: {what}")]
    Corrupt {
        /// Name of the table.
        table: String,
        /// What was found, where.
        what: String,
    },
}

impl TableError {
    pub(crate) fn storage(doing: impl Into<String>, error: object_store::Error) -> Self {
        TableError::Storage { doing: doing.into(), error }
    }
}
