//! The table `counts`: one row per cell, in segments. `schemas/counts.json` describes its columns.
//!
//! In: a version's properties, transactions and files. Out: the table's definition, the lanes' epochs, the number of buckets, the
//! segment of each file. Ordering: none. Pure: no state. [`super::segment`] writes and reads the files; updates are merged into
//! them by [`crate::dataflow`]'s `merge`. Failure: partition values or properties that are not ours are a damaged table.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::array::TimestampMicrosecondArray;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::error::TableError;
use super::state::{Definition, File, State, time_type};
use crate::model::{Epoch, Granularity, Lane, Period, Segment, TimeUs, Zone};

/// The table property that pins the number of buckets.
pub const BUCKETS: &str = "floodmark.buckets";

/// The table property that says how many bytes of unpublished updates the job may hold, in all of its processes.
const PENDING_BYTES_MAX: &str = "floodmark.pending_bytes_max";

/// How many bytes of unpublished updates the job that wrote the table may hold; `None` if an older build wrote it.
pub fn pending_bytes_max(state: &State) -> Option<u64> {
    state.properties.get(PENDING_BYTES_MAX)?.parse().ok()
}

/// The table property for this budget of unpublished updates, of all processes together.
pub fn pending_properties(budget_bytes: u64) -> BTreeMap<String, String> {
    BTreeMap::from([(PENDING_BYTES_MAX.to_owned(), budget_bytes.to_string())])
}

/// How many bytes of updates may be fed from the archive at a start before some must be published. What a job held within its
/// budget fits into a budget of the same size, however many rows it came from. So there is a bound only if the budget is smaller
/// now.
pub fn feed_bytes_max(state: &State, budget_bytes: u64) -> u64 {
    match pending_bytes_max(state) {
        Some(held) if held > budget_bytes => budget_bytes,
        _ => u64::MAX,
    }
}

/// The application transaction that holds a lane's epoch.
pub fn lane_txn(lane: Lane) -> String {
    format!("lane/{}", lane.name())
}

/// The epoch of each lane of [`Lane::ALL`].
pub fn lane_epochs(counts: &State) -> [Epoch; Lane::ALL.len()] {
    Lane::ALL.map(|lane| counts.txn(&lane_txn(lane)) as Epoch)
}

/// The application transaction that says up to which time (ms) a lane is complete.
pub fn complete_until_txn(lane: Lane) -> String {
    format!("complete_until/{}", lane.name())
}

/// The parameter in the history of `counts` that says how long a lane waits between two publishes.
pub fn interval_parameter(lane: Lane) -> String {
    format!("interval/{}", lane.name())
}

static FILE_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| schema_of_cells(&["event_count"]));

/// The columns that say which cell a row is of, followed by integers of these names.
pub fn schema_of_cells(integers: &[&str]) -> SchemaRef {
    let mut fields = vec![
        Field::new("customer_id", DataType::Utf8, false),
        Field::new("window_start", time_type(), false),
        Field::new("window_end", time_type(), false),
        Field::new("dimension", DataType::Utf8, false),
        Field::new("dimension_value", DataType::Utf8, false),
    ];
    fields.extend(integers.iter().map(|name| Field::new(*name, DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

/// The columns of a file: all but the partition columns.
pub fn file_schema() -> SchemaRef {
    Arc::clone(&FILE_SCHEMA)
}

/// The table as it is created, with this many buckets.
pub fn definition(buckets: u32) -> Definition {
    let mut fields: Vec<_> = FILE_SCHEMA.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("granularity", DataType::Utf8, false)));
    fields.push(Arc::new(Field::new("period", DataType::Utf8, false)));
    fields.push(Arc::new(Field::new("bucket", DataType::Int32, false)));
    Definition {
        schema: Arc::new(Schema::new(fields)),
        partitioned_by: &["granularity", "period", "bucket"],
        properties: BTreeMap::from([
            (BUCKETS.to_owned(), buckets.to_string()),
            ("delta.checkpointInterval".to_owned(), "100".to_owned()),
        ]),
    }
}

/// The number of buckets that the table was made with.
///
/// # Errors
/// [`TableError::Corrupt`] when its property is not a power of two.
pub fn buckets(state: &State) -> Result<u32, TableError> {
    let found = state.properties.get(BUCKETS).map(String::as_str).unwrap_or_default();
    match found.parse::<u32>() {
        Ok(buckets) if buckets.is_power_of_two() && buckets <= 1 << 16 => Ok(buckets),
        _ => Err(TableError::Corrupt {
            table: "counts".to_owned(),
            what: format!("property {BUCKETS} = {found:?}, expected a power of two"),
        }),
    }
}

/// The segment that a live file holds.
///
/// # Errors
/// [`TableError::Corrupt`] when its partition values are not a segment's.
pub fn segment_of(file: &File) -> Result<Segment, TableError> {
    let value = |name: &str| file.partition.get(name).map(String::as_str).unwrap_or_default();
    let segment = || {
        let granularity: Granularity = value("granularity").parse().ok()?;
        let bucket = value("bucket").parse().ok()?;
        let (period, period_start) = Period::parse(value("period"), granularity)?;
        let known = granularity.ladder().contains(&period) || granularity.former() == Some(period);
        known.then_some(Segment { granularity, bucket, period, period_start })
    };
    segment().ok_or_else(|| TableError::Corrupt {
        table: "counts".to_owned(),
        what: format!(
            "{}: its partition values {:?} do not name a granularity, a period and a bucket",
            file.path, file.partition
        ),
    })
}

/// The ends of the windows with these starts, as a column.
pub(crate) fn window_ends(granularity: Granularity, starts: &TimestampMicrosecondArray) -> TimestampMicrosecondArray {
    // Neighbours mostly share their window, so the end of a month is computed once and not for each row.
    let mut last = (TimeUs::MIN, TimeUs::MIN);
    let ends: Vec<TimeUs> = (starts.values().iter())
        .map(|&start| {
            if last.0 != start {
                last = (start, granularity.window_end(start, Zone::Utc));
            }
            last.1
        })
        .collect();
    TimestampMicrosecondArray::from(ends).with_timezone("UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_has_a_bound_where_the_budget_is_smaller_than_it_was() {
        let of = |properties| State { properties, ..State::default() };
        assert_eq!(feed_bytes_max(&of(BTreeMap::new()), 100), u64::MAX);
        assert_eq!(feed_bytes_max(&of(pending_properties(100)), 100), u64::MAX);
        assert_eq!(feed_bytes_max(&of(pending_properties(101)), 100), 100);
    }
}
