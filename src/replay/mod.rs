//! `floodmark replay …`: recomputes a range of the past from the archive, shows what would change, publishes it, takes it back.
//!
//! ```text
//!            raw, at one version                                    counts, at one version
//!                  │                                                         │
//! plan ─► source ─► decode ─► combine ══bucket══► roll_up ─► arrange ─► gather ─► compare ─► replays/<id>/cells, summary
//!                     │                                                    │
//!                     └─► arrivals ─► replays/<id>/rows         runs over budget ─► replays/<id>/chunks
//!
//! publish, undo:  replays/<id>/cells ─► plan ─► merge ─► commit counts (one atomic commit, beside live)
//! ```
//!
//! From `decode` to `arrange` these are the stages of live. Nothing of the tables is changed before `publish`.

mod admission;
pub mod dataset;
pub mod list;
pub mod publish;
mod slices;
pub mod submission;
