//! `floodmark replay …`: recounts a range of the past from the archive, shows what would change, publishes it, or takes it back.
//!
//! ```text
//!                raw, at one version                     counts, at one version          counts, beside live
//!                        │                                         │                            ▲
//! request ─► Submission ─┴► count ─► runs, by bucket ─► compare ◄──┘                            │
//!    │                        │                            └─► dataset, Summary ─► publish ─────┘ one atomic commit
//!    └─► Estimate             └─► rows whose outcome has changed
//! ```
//!
//! In: a job file and a range. Out: under `replays/<id>`, every cell that would change; and, when the replay is published, one commit to
//! `counts`. Up to the arranged updates, the dataflow is the same as live's. With several processes, each has its part of the workers and
//! compares its part of the buckets; process 0 does everything else. State: the memory budget of each process; the rest is on the store.
//! Failure and restart: no table is changed before `publish`, and a replay that was killed at any step continues when it is run again.

mod error;
pub mod times;

// The modules in the order of a replay.
pub mod request; // Checks the request: can it be answered exactly?
pub mod count; // Recounts the range, into sorted runs.
pub mod compare; // Compares the recount with the table, and writes the dataset and the summary.
pub mod discard; // Deletes the files of a replay.
pub mod run; // Runs a replay from submission to summary, in one process or several.
pub mod publish; // Commits the changes, or their opposites, atomically.

pub mod command; // The command line.

pub use error::{PublishError, ReplayError};
