//! Recounts the rows of a range with the replay's logic.
//!
//! ```text
//! files of raw ─► chunks ─► workers: source ─► … ─► gather ─► runs, manifests (replays/<id>/chunks) ─► compare
//! ```
//!
//! In: a submission, and the files of `raw` at its version. Out: what every cell in range counts now, as sorted runs, and how many rows
//! have which outcome. State: runs within a budget; beyond it they go to the store. Restart: a chunk that is done is not counted again.

pub mod arrivals;
pub mod chunks;
pub mod gather;
pub mod manifest;
pub mod runs;
pub mod sorted;
pub mod source;
pub mod workers;
