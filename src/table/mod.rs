//! The two Delta Lake tables: `raw`, the archive, and `counts`.
//!
//! ```text
//! store (memory, disk, S3 …; its refusals are judged) ─► load: a log's commits and checkpoints ─► seen, foreign: other programs' part
//!                                                          │
//!         raw, segment: files written and read ◄─► log: compare-and-swap commits ─► state: a version's live files and transactions
//! ```
//!
//! In: files and commits of the job, of upkeep and of replays. Out: versions, and the rows of their files. Ordering: each version
//! is committed on exactly the one before. State: the state of a version is a plain value that its user holds; beside it, a log
//! holds only its store. An error says whether to try again, to stop for good, or what to correct.

mod actions;
mod checkpoint;
pub mod counts;
mod entry;
mod error;
pub mod fetch;
mod foreign;
pub mod layout;
mod load;
pub mod log;
pub mod raw;
mod refusal;
pub mod retention;
mod seen;
pub mod segment;
mod state;
mod stats;
pub mod store;

pub use entry::CommitSummary;
pub use error::TableError;
pub use load::{Listing, Tombstones};
pub use log::{Commit, Log};
pub use seen::{FORMAT, FORMAT_NEWEST, Seen};
pub(crate) use state::time_type;
pub use state::{Definition, File, State};
pub use store::Root;
