//! The files of `counts`: one Parquet file per segment and version, sorted by (customer_id, dimension, window_start, dimension_value).
//!
//! ```text
//! store ─► read: footer, then groups by range ─► (decoded rows, merged with updates) ─► write: new groups ─► upload: parts ─► store
//!                                           └──────── (untouched groups, as bytes) ────────┘
//! ```
//!
//! A segment is the cells of one granularity, period and bucket of customers. In: live files, rows in file order; who merges has the
//! updates. Out: new files, with their entries for the log. Ordering: row groups in file order; the last cell of each is in the
//! footer, because the least and greatest value of each column do not say where a group ends in the order of all four. State: a few row groups, and a few
//! megabytes of the file that is being written, whatever a file's size. Failure: what cannot be encoded is a bug; what cannot be
//! read is a damaged table; reads wait while the store is away, and uploads are started again by their caller.

mod columns;
mod groups;
mod keys;
mod read;
#[cfg(test)]
mod tests;
mod upload;
mod write;

pub use columns::{BATCH_ROWS, Columns, Rows};
pub(crate) use groups::Shape;
pub use read::read_segment;
pub(crate) use read::{Group, Requests, SegmentReader};
pub(crate) use upload::{PART_BYTES, Part, Sink, parts, upload};
pub(crate) use write::path_of;
pub use write::{Out, SegmentWriter};
