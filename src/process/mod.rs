//! One process: how it ends, what becomes of its panics, what its clock shows.
//!
//! Nothing here knows what the process works on. The clock is a value, so that a test holds it; a lock outlives the panic of the thread
//! that held it; each panic is one line of log and ends the job, or is reported and tried again; each error says how its command ends.

mod clock;
mod exit;
mod lock;
pub mod panics;

pub use clock::{Clock, ManualClock};
pub use exit::{Exit, HasExit};
pub(crate) use lock::lock;
