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

pub mod request;
pub mod count;
pub mod compare;
pub mod run;
pub mod publish;
pub mod discard;
pub mod command;
mod error;
pub mod times;

pub use error::{PublishError, ReplayError};
