//! The last cell of each row group, in the footer of a segment's file: statistics of columns cannot place a tuple.
//!
//! In: rows as they are written; a footer that was read. Out: the entry of the footer's metadata; the cells again, as bytes that sort.
//! An entry that does not fit the file's row groups is treated as none. Pure.

use parquet::file::metadata::{KeyValue, ParquetMetaData};
use serde::{Deserialize, Serialize};

use super::columns::Columns;
use crate::model::Cell;
use crate::table::TableError;

/// The name of the entry: a JSON array with `[rows, customer_id, dimension, window_start in µs, dimension_value]` for each row group.
const LAST_KEYS: &str = "floodmark.last_keys";

/// The number of rows of a row group, and its last cell: customer, dimension, window_start, value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastKey(u64, String, String, i64, String);

impl LastKey {
    /// That of a row group with these rows; `None` without rows.
    pub(super) fn of(batches: &[Columns]) -> Option<LastKey> {
        let rows = batches.iter().map(Columns::len).sum::<usize>() as u64;
        let columns = batches.last()?;
        let last = columns.len().checked_sub(1)?;
        let text = |column: &arrow::array::StringArray| column.value(last).to_owned();
        let (customer, dimension, value) = (&columns.customer, &columns.dimension, &columns.value);
        Some(LastKey(rows, text(customer), text(dimension), columns.window_start.value(last), text(value)))
    }

    /// The cell, as bytes that sort.
    pub(super) fn cell(&self) -> Vec<u8> {
        let LastKey(_, customer, dimension, window_start, value) = self;
        let mut key = Vec::new();
        Cell::encode(customer.as_bytes(), dimension.as_bytes(), *window_start, value.as_bytes(), &mut key);
        key
    }
}

/// The entry for a file with these row groups.
///
/// # Errors
/// [`TableError::Bug`].
pub(super) fn entry(last_keys: &[LastKey]) -> Result<KeyValue, TableError> {
    let text = serde_json::to_string(last_keys)
        .map_err(|error| TableError::Bug(format!("the last cells of a segment can not be written: {error}")))?;
    Ok(KeyValue::new(LAST_KEYS.to_owned(), text))
}

/// What a file's entry says. `None` if there is none, or if it is not of these row groups: former builds wrote none, and a program
/// that rewrites a file may keep the entry of the old one.
pub(super) fn read(metadata: &ParquetMetaData) -> Option<Vec<LastKey>> {
    let entries = metadata.file_metadata().key_value_metadata()?;
    let text = entries.iter().find(|entry| entry.key == LAST_KEYS)?.value.as_deref()?;
    let last_keys: Vec<LastKey> = serde_json::from_str(text).ok()?;
    let rows = metadata.row_groups().iter().map(|group| group.num_rows() as u64);
    rows.eq(last_keys.iter().map(|key| key.0)).then_some(last_keys)
}
