//! Publishes what a replay found, or takes it back, beside live.
//!
//! ```text
//! replays/<id>/cells ─► admission ─► slices ─► merge (as live does) ─► commit counts
//!                           ▲                                            │ lost a race
//!                           └────────────────────────────────────────────┘
//! ```
//!
//! In: a complete replay, the newest version of `counts`. Out: one atomic commit, or none, and a refusal that says what to do. Memory
//! is bounded by the budget of a slice. After a kill, the same call again does it once.

pub mod admission;
pub mod publisher;
pub mod slices;
