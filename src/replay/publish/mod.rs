//! Publishes what a replay found, or takes it back, while live runs.
//!
//! ```text
//! replays/<id>/cells ─► admission ─► slices ─► merge (as live does) ─► commit counts
//!                           ▲                                            │ lost a race
//!                           └────────────────────────────────────────────┘
//! ```
//!
//! In: a complete replay, and the newest version of `counts`. Out: one atomic commit; or none, and a refusal that says what to do. State:
//! the updates of one slice, within a budget. Restart: after a kill, the same command again commits exactly once.

pub mod admission;
pub mod publisher;
pub mod slices;
