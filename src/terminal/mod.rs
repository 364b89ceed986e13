//! What a command shares with the person or script that started it: the tables it is pointed at, its signals, its output.
//!
//! In: a command's `JOB|PATH|URL` and SIGINT or SIGTERM. Out: the result on stdout, as text or JSON; all else on stderr, or in the
//! log if that is JSON. Apart from the log, only this module writes to stderr. State: one flag, whether stderr belongs to the log
//! alone.

pub mod columns;
pub mod live_line;
pub mod location;
pub mod numbers;
pub mod output;
pub mod say;
pub mod stop;

pub use columns::{columns, head};
pub use live_line::LiveLine;
pub use location::{Location, LocationError};
pub use numbers::{bytes, duration, grouped, short, signed, utc};
pub use output::{Output, OutputError};
pub use stop::StopSignals;
