//! Checks a request: which range is to be recounted, whether that can be done exactly, and what it would read.
//!
//! ```text
//! command line ─► prepare ─► Submission (replays/<id>/plan.json) ─► count, compare, publish
//!                    ▲ versions of both tables, logics on record ─► shape, checks, touched windows
//! ```
//!
//! In: a request. Out: a submission that every later step reads, or a refusal; and an estimate. State: none. Only `plan.json` is written.

mod checks;
pub mod coverage;
pub mod estimate;
pub mod logics;
pub mod prepare;
pub mod shape;
pub mod submission;
mod touched;
pub mod versions;
