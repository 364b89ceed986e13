//! Compares what was counted anew with what the table counts, and writes what would change.
//!
//! ```text
//! runs, table_rows ─► buckets ─► dataset (replays/<id>/cells), findings ─► summary (replays/<id>/summary.json) ─► publish
//! ```
//!
//! In: sorted runs, the live files of the submission's version of `counts`. Out: every cell that would change, from what to what, and
//! a summary; with it a replay is complete. The tables are not touched. Memory is a few batches for each bucket at work.

pub mod buckets;
pub mod dataset;
pub mod findings;
mod longer;
mod part_differences;
pub mod row_files;
mod spool;
pub mod summary;
mod table_rows;
