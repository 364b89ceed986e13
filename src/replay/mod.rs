//! `floodmark replay …`: recomputes a range of the past from the archive, shows what would change, publishes it, takes it back.
//!
//! ```text
//!                raw, at one version                     counts, at one version          counts, beside live
//!                        │                                         │                            ▲
//! request ─► Submission ─┴► count ─► runs, by bucket ─► compare ◄──┘                            │
//!    │                        │                            └─► dataset, Summary ─► publish ─────┘ one atomic commit
//!    └─► Estimate             └─► rows whose outcome is another one
//! ```
//!
//! In: a job file and a range. Out: under `replays/<id>`, what would change, cell by cell; and where it is published, one commit to
//! `counts`. Up to the arranged updates the dataflow is that of live. Of several processes each has its part of the workers and
//! compares its part of the buckets; process 0 does all else. Nothing of the tables is changed before `publish`, and a replay that
//! is killed at any step goes on when it is run again.

mod error;
pub mod times;

// The way of a replay.
pub mod request; // What is asked for, and can it be answered exactly?
pub mod count; // The range is counted anew, into sorted runs.
pub mod compare; // What was counted beside what the table counts: the dataset, the summary.
pub mod discard; // The files of a replay are deleted.
pub mod run; // From a submission to its summary, in one process or several.
pub mod publish; // One atomic commit of what was found, or of its opposite.

pub mod command; // The command line.

pub use error::{PublishError, ReplayError};
