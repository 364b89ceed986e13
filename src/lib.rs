//! Floodmark: Kafka to exact, always-current counts in Parquet.

pub mod check;
pub mod clock;
pub mod cluster;
pub mod dataflow;
pub mod decode;
pub mod dev;
pub mod exit;
pub mod job;
pub mod ledger;
pub mod live;
pub mod model;
pub mod monitor;
pub mod panics;
pub mod replay;
pub mod source;
pub mod status;
mod sync;
pub mod table;
pub mod table_command;
pub mod terminal;
pub mod upkeep;
pub mod verify;
