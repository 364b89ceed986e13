//! Floodmark turns Kafka topics into exact, always-current counts in Parquet tables.
//!
//! ```text
//!            ┌── what counts lacks after a start; the range of a replay ──┐
//!            ▼                                                            │
//! Kafka ─► source ─► decode ─► dataflow ─► commit ─► table: raw, the archive, and counts ─► Parquet ─► DuckDB, Polars, Spark
//!                                                      │
//!                                                      └─► status, verify, replay, table_command
//! ```
//!
//! The modules are listed in the order in which a record passes through them: the basic types, the stages from the topic to the
//! tables, the job that runs these stages, and the commands that read the tables. No module uses one that comes later in this
//! list.

// Basic types and services.
pub mod model; // Time, cells, records and outcomes as plain types; no I/O.
pub mod process; // A process: its exit codes, its panics, its clock.
pub mod http; // An HTTP server: what all servers of this program share.
pub mod job; // The job file: what is counted, where records come from, where the tables are.
pub mod table; // The two Delta tables: their logs, their files, their object store.

// The path of a record.
pub mod source; // Reads records from the topic, or feeds them from the archive.
pub mod decode; // Turns a record into an event, or filters or rejects it.
pub mod ledger; // Records which logic counts which epochs, and which replays are in force.
pub mod dataflow; // Turns events into updates of cells, merges these into files and commits them.

// The job that runs these stages.
pub mod cluster; // Runs several processes as one job.
pub mod upkeep; // Merges small files and deletes dead ones.
pub mod live; // Runs a job from its start to its orderly end.
pub mod monitor; // Health and metrics over HTTP.

// The commands.
pub mod terminal; // What commands share: finding the tables, the live line, output formats.
pub mod dev; // Generated traffic and an embedded broker, for trying things out.
pub mod check; // Checks a job file and shows what it would count.
pub mod status; // Shows how fresh the counts are, how far behind the job is, what was rejected.
pub mod verify; // Recounts the archive and compares it with the counts.
pub mod replay; // Recounts a range of the past; shows, publishes or undoes the difference.
pub mod table_command; // History, compaction, vacuum, export.
