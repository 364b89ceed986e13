//! The words of the product as plain types: time, cells, records, outcomes. No I/O; everything else stands on these.

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
