//! The terms of the product as plain types: times, cells, records, events, outcomes. All other modules build on them.
//!
//! In and out: values. Chunks of records and events own their bytes in one allocation each; cells are encoded as bytes that sort.
//! Time: all arithmetic on windows is here, in UTC. Pure: no I/O, no clock, no state beyond a value's own.

mod arena;
mod cell;
mod event;
mod outcome;
mod record;
mod tally;
mod time;

pub use arena::{Arena, Span};
pub use cell::{CELL_VALUE_BYTES_MAX, Cell, CellParts, Key, Segment, bucket_of, shorten};
pub use event::{EventRef, Events};
pub use outcome::{Outcome, Reason, Rejection};
pub use record::{Arrival, RecordRef, Records, TimestampType};
pub use tally::Tally;
pub use time::{
    Epoch, Granularity, Lane, Period, Target, TimeUs, WRITABLE_US, Zone, covers, plausible_ms, rfc3339, rfc3339_ms,
    rfc3339_us,
};
