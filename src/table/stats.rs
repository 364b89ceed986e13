//! Delta's statistics of a file, as JSON text: number of rows, and per column least value, greatest value, number of nulls.

use chrono::DateTime;
use serde_json::{Map, Value, json};

use crate::model::TimeUs;

/// Collects the statistics of one file.
pub(super) struct Stats {
    rows: u64,
    min: Map<String, Value>,
    max: Map<String, Value>,
    nulls: Map<String, Value>,
}

impl Stats {
    pub(super) fn new(rows: u64) -> Self {
        Stats { rows, min: Map::new(), max: Map::new(), nulls: Map::new() }
    }

    /// A column of integers. `range` is `None` where all are null.
    pub(super) fn int(mut self, column: &str, range: Option<(i64, i64)>, nulls: u64) -> Self {
        if let Some((min, max)) = range {
            self.min.insert(column.to_owned(), json!(min));
            self.max.insert(column.to_owned(), json!(max));
        }
        self.nulls.insert(column.to_owned(), json!(nulls));
        self
    }

    /// A column of times. Some readers keep milliseconds only: the least is rounded down, the greatest up.
    pub(super) fn time(mut self, column: &str, range: Option<(TimeUs, TimeUs)>, nulls: u64) -> Self {
        if let Some((min, max)) = range {
            self.min.insert(column.to_owned(), json!(millis(min.div_euclid(1000))));
            self.max
                .insert(column.to_owned(), json!(millis(max.div_euclid(1000) + i64::from(max.rem_euclid(1000) > 0))));
        }
        self.nulls.insert(column.to_owned(), json!(nulls));
        self
    }

    /// A column of strings; long ones are left out rather than cut.
    pub(super) fn text(mut self, column: &str, min: &str, max: &str) -> Self {
        const TEXT_BYTES_MAX: usize = 128;
        if min.len() <= TEXT_BYTES_MAX && max.len() <= TEXT_BYTES_MAX {
            self.min.insert(column.to_owned(), json!(min));
            self.max.insert(column.to_owned(), json!(max));
        }
        self.nulls.insert(column.to_owned(), json!(0));
        self
    }

    pub(super) fn into_json(self) -> String {
        json!({"numRecords": self.rows, "minValues": self.min, "maxValues": self.max, "nullCount": self.nulls})
            .to_string()
    }
}

fn millis(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms)
        .map(|time| time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
        .unwrap_or_default()
}

/// Widens `range` by `value`.
pub(super) fn widen<T: Copy + Ord>(range: &mut Option<(T, T)>, value: T) {
    *range = Some(range.map_or((value, value), |(min, max)| (min.min(value), max.max(value))));
}
