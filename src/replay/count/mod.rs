//! Counts the rows of a range anew, with the replay's logic.
//!
//! ```text
//! files of raw ─► chunks ─► workers: source ─► … ─► gather ─► runs, manifests (replays/<id>/chunks) ─► compare
//! ```
//!
//! In: a submission, the files of its version of `raw`. Out: what every cell in range counts now, as sorted runs, and how many rows
//! have which outcome. Memory is bounded: runs over budget go to the store. A chunk that is done is not counted again.

pub mod arrivals;
pub mod chunks;
pub mod gather;
pub mod manifest;
pub mod runs;
pub mod sorted;
pub mod source;
pub mod workers;
