//! Floodmark: Kafka to exact, always-current counts in Parquet.

pub mod dev;
pub mod model;

pub mod job;

pub mod decode;

pub mod table;
