//! A process: its exit codes, its panics, its locks and its clock.
//!
//! Nothing here knows what the process works on. The clock is a value, so that a test can control it. A lock can be taken even if
//! the thread that held it panicked. Each panic is logged in one line, and either ends the job or is caught and the work is tried
//! again. Each error says how its command ends.

mod clock;
mod exit;
mod lock;
pub mod panics;

pub use clock::{Clock, ManualClock};
pub use exit::{Exit, HasExit};
pub(crate) use lock::lock;
