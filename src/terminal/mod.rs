//! What a command shares with the person or script that started it: the tables it is pointed at, its signals, its output.
//!
//! In: a command's `JOB|PATH|URL` and SIGINT or SIGTERM. Out: the result on stdout, as text or JSON; all else on stderr, or in the
//! log where that is JSON. It is the one place that writes to stderr beside the log. State: whether stderr is the log's alone.

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
pub use numbers::{bytes, duration, grouped, short, utc};
pub use output::Output;
pub use stop::StopSignals;
