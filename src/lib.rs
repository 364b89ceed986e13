//! Floodmark: Kafka to exact, always-current counts in Parquet.
//!
//! ```text
//!            ┌── what counts lacks after a start; the range of a replay ──┐
//!            ▼                                                            │
//! Kafka ─► source ─► decode ─► dataflow ─► commit ─► table: raw, the archive, and counts ─► Parquet ─► DuckDB, Polars, Spark
//!                                                      │
//!                                                      └─► status, verify, replay, table_command
//! ```
//!
//! The modules are listed in the order in which a record meets them: what everything is made of, the way from the topic to the tables,
//! the job that runs it, and the commands that look at the tables. No module uses one that follows it in this list.

// What everything is made of.
pub mod model; // Time, cells, records and outcomes as plain types; no I/O.
pub mod process; // One process: how it ends, its panics, its clock.
pub mod job; // The job file: what is counted, from where and to where.
pub mod table; // The two Delta tables: their logs, their files, the store under them.

// The way of a record.
pub mod source; // Records come: from the topic, or fed from the archive.
pub mod decode; // A record becomes an event, or is filtered or rejected.
pub mod ledger; // Which logic counts which epochs, and which replays are in force.
pub mod dataflow; // Events become updates of cells; these are merged into files and committed.

// The job that runs it.
pub mod cluster; // Several processes as one.
pub mod upkeep; // Small files are merged, dead ones deleted.
pub mod live; // From the start, by the tables, to the orderly end.
pub mod monitor; // Health and metrics over HTTP.

// The commands.
pub mod terminal; // What commands share: where the tables are, the live line, the form of a result.
pub mod dev; // Generated traffic and an embedded broker, to try things out.
pub mod check; // Is the job file right, and what would it count?
pub mod status; // How fresh, how far behind, what was rejected.
pub mod verify; // Counts the archive again, and compares.
pub mod replay; // Counts a range of the past again; the difference is shown, published, undone.
pub mod table_command; // History, compaction, vacuum, export.
