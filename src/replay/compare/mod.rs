//! Compares the recount with the table, and writes what would change.
//!
//! ```text
//! runs, table_rows ─► buckets ─► dataset (replays/<id>/cells), findings ─► summary (replays/<id>/summary.json) ─► publish
//! ```
//!
//! In: sorted runs, and the live files of `counts` at the submission's version. Out: every cell that would change, with its old and new
//! count, and a summary. Once the summary is written, the replay is complete. The tables are not changed. State: a few batches for each
//! bucket that is being compared. Restart: the comparison is repeated.

pub mod buckets;
pub mod dataset;
pub mod findings;
mod longer;
mod part_differences;
pub mod row_files;
mod spool;
pub mod summary;
mod table_rows;
