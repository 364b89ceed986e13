//! The table `raw`, the archive: every record as it came, with its outcome. `schemas/raw.json` describes its columns.
//!
//! In: chunks of records with their outcomes. Out: Parquet files of one epoch and one [`Kind`]; and, for a restart or a replay, those
//! rows again as records. Nothing here decides anything: the archive keeps what it is given.

mod read;
mod schema;
mod statistics;
mod write;

pub use read::{read_arrived, read_records};
pub use schema::{EPOCH, Kind, ROWS, STRAY_US, check_txn, definition, file_schema, last_txn, offset_txn};
pub use statistics::{EventTimes, epochs_of, event_times_of, ingested_of, newest_ingested_at};
pub use write::{Encoded, FileWriter, RawRows};
