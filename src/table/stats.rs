//! Delta's statistics of a file, as JSON text: number of rows, and per column least value, greatest value, number of nulls.
//!
//! In: the statistics that the Parquet encoder keeps of each row group, so that no value is compared twice. Out: the `stats` of the
//! file's `add`, for every column that can be filtered by: texts, numbers and times, but not bytes and lists. Some readers treat a
//! column without bounds as one without rows, so a column has both bounds, or only nulls. Long texts are cut to 64 bytes by the
//! encoder: the least to a prefix, the greatest to a prefix whose last character is replaced by the next one; if there is no next
//! one, it stays whole. Pure.

use std::collections::BTreeMap;

use chrono::DateTime;
use parquet::basic::LogicalType;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use crate::model::TimeUs;

/// The first and the last millisecond of the years 1 to 9999, in ms since 1970: what readers can parse.
const MS_MIN: i64 = -62_135_596_800_000;
const MS_MAX: i64 = 253_402_300_799_999;

/// The property that names the columns that all files have statistics of. Readers then ignore the others; otherwise they would
/// treat columns without bounds as empty.
pub(super) const STATS_COLUMNS: &str = "delta.dataSkippingStatsColumns";

/// The statistics of one file.
pub(super) struct Stats {
    rows: u64,
    /// `None` where a row group says nothing of the column.
    columns: BTreeMap<String, Option<Column>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Column {
    /// `None` where all are null.
    bounds: Option<Bounds>,
    nulls: u64,
}

#[derive(Clone, Debug, PartialEq)]
enum Bounds {
    Int(i64, i64),
    /// In µs.
    Time(TimeUs, TimeUs),
    Text(String, String),
}

impl Stats {
    /// The statistics of a file with these row groups.
    pub(super) fn of(row_groups: &[RowGroupMetaData]) -> Stats {
        let mut stats = Stats { rows: 0, columns: BTreeMap::new() };
        for group in row_groups {
            stats.rows += group.num_rows() as u64;
            for chunk in group.columns() {
                let [name] = chunk.column_path().parts() else { continue };
                let found = Column::of(chunk);
                match stats.columns.get_mut(name) {
                    Some(column) => *column = column.take().zip(found).map(|(column, found)| column.and(found)),
                    None => drop(stats.columns.insert(name.clone(), found)),
                }
            }
        }
        stats
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// The least and the greatest time of a column, in µs.
    pub(super) fn times(&self, column: &str) -> Option<(TimeUs, TimeUs)> {
        match self.columns.get(column)?.as_ref()?.bounds {
            Some(Bounds::Time(min, max)) => Some((min, max)),
            _ => None,
        }
    }

    pub(super) fn into_json(self) -> String {
        let (mut min, mut max, mut nulls) = (Map::new(), Map::new(), Map::new());
        for (name, column) in self.columns {
            let Some(Column { bounds, nulls: count }) = column else { continue };
            nulls.insert(name.clone(), json!(count));
            if let Some((least, greatest)) = bounds.map(Bounds::into_json) {
                min.insert(name.clone(), least);
                max.insert(name, greatest);
            }
        }
        json!({"numRecords": self.rows, "minValues": min, "maxValues": max, "nullCount": nulls}).to_string()
    }
}

impl Column {
    fn of(chunk: &ColumnChunkMetaData) -> Option<Column> {
        let statistics = chunk.statistics()?;
        let nulls = statistics.null_count_opt()?;
        if nulls == chunk.num_values() as u64 {
            return Some(Column { bounds: None, nulls });
        }
        let bounds = match (statistics, chunk.column_descr().logical_type_ref()) {
            (Statistics::Int32(values), _) => Bounds::Int((*values.min_opt()?).into(), (*values.max_opt()?).into()),
            (Statistics::Int64(values), Some(LogicalType::Timestamp(_))) => {
                Bounds::Time(*values.min_opt()?, *values.max_opt()?)
            }
            (Statistics::Int64(values), _) => Bounds::Int(*values.min_opt()?, *values.max_opt()?),
            (Statistics::ByteArray(values), Some(LogicalType::String)) => {
                let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).ok();
                Bounds::Text(text(values.min_bytes_opt()?)?, text(values.max_bytes_opt()?)?)
            }
            _ => return None,
        };
        Some(Column { bounds: Some(bounds), nulls })
    }

    fn and(self, other: Column) -> Column {
        let bounds = match (self.bounds, other.bounds) {
            (Some(ours), Some(theirs)) => ours.and(theirs),
            (ours, theirs) => ours.or(theirs),
        };
        Column { bounds, nulls: self.nulls + other.nulls }
    }
}

impl Bounds {
    /// Bounds of both; a column has one type in all row groups.
    fn and(self, other: Bounds) -> Option<Bounds> {
        Some(match (self, other) {
            (Bounds::Int(a, b), Bounds::Int(c, d)) => Bounds::Int(a.min(c), b.max(d)),
            (Bounds::Time(a, b), Bounds::Time(c, d)) => Bounds::Time(a.min(c), b.max(d)),
            (Bounds::Text(a, b), Bounds::Text(c, d)) => Bounds::Text(a.min(c), b.max(d)),
            _ => return None,
        })
    }

    /// Some readers keep milliseconds only: the least time is rounded down, the greatest up.
    fn into_json(self) -> (Value, Value) {
        match self {
            Bounds::Int(min, max) => (json!(min), json!(max)),
            Bounds::Text(min, max) => (json!(min), json!(max)),
            Bounds::Time(min, max) => {
                let greatest = max.div_euclid(1000) + i64::from(max.rem_euclid(1000) > 0);
                (json!(written(min.div_euclid(1000))), json!(written(greatest)))
            }
        }
    }
}

/// Archives of earlier builds may hold Kafka timestamps beyond the years that can be written. They are clamped; a query can not ask
/// for such years either.
fn written(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms.clamp(MS_MIN, MS_MAX))
        .map(|time| time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
        .unwrap_or_default()
}

/// The columns of `names` that a file's statistics bound, or say to be null in all rows.
pub(super) fn bounded<'a>(json: &str, names: &[&'a str]) -> Vec<&'a str> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Found {
        num_records: u64,
        #[serde(default)]
        min_values: BTreeMap<String, IgnoredAny>,
        #[serde(default)]
        max_values: BTreeMap<String, IgnoredAny>,
        #[serde(default)]
        null_count: BTreeMap<String, Value>,
    }
    let Ok(found) = serde_json::from_str::<Found>(json) else { return Vec::new() };
    let is = |name: &&&str| {
        let nulls = found.null_count.get(**name).and_then(Value::as_u64);
        let bounds = found.min_values.contains_key(**name) && found.max_values.contains_key(**name);
        nulls.is_some_and(|nulls| bounds || nulls == found.num_records)
    };
    names.iter().filter(is).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryArray, Int32Array, RecordBatch, StringArray, TimestampMicrosecondArray};
    use parquet::arrow::arrow_writer::ArrowWriter;
    use proptest::prelude::*;

    use super::*;

    /// The statistics of a file with one row group for each batch.
    fn stats(batches: &[RecordBatch]) -> Value {
        let mut writer = ArrowWriter::try_new(Vec::new(), batches[0].schema(), None).expect("a writer");
        for batch in batches {
            writer.write(batch).expect("encoded");
            writer.flush().expect("a row group");
        }
        serde_json::from_str(&Stats::of(writer.flushed_row_groups()).into_json()).expect("JSON")
    }

    fn texts(values: &[Option<&str>]) -> RecordBatch {
        let column: ArrayRef = Arc::new(StringArray::from(values.to_vec()));
        RecordBatch::try_from_iter_with_nullable([("text", column, true)]).expect("a batch")
    }

    #[test]
    fn every_column_of_a_type_that_can_be_filtered_by() {
        let batch = |text: &str, number, time, bytes: Option<&[u8]>| {
            let columns: Vec<(&str, ArrayRef, bool)> = vec![
                ("text", Arc::new(StringArray::from(vec![Some(text), None])), true),
                ("number", Arc::new(Int32Array::from(vec![number, number + 1])), true),
                ("time", Arc::new(TimestampMicrosecondArray::from(vec![Some(time), None]).with_timezone("UTC")), true),
                ("never", Arc::new(StringArray::from(vec![None::<&str>, None])), true),
                ("bytes", Arc::new(BinaryArray::from(vec![bytes, None])), true),
            ];
            RecordBatch::try_from_iter_with_nullable(columns).expect("a batch")
        };
        let found = stats(&[batch("b", -3, 1, Some(b"x")), batch("", 7, 1_000_001, None)]);
        let expected = json!({
            "numRecords": 4,
            "minValues": {"text": "", "number": -3, "time": "1970-01-01T00:00:00.000Z"},
            "maxValues": {"text": "b", "number": 8, "time": "1970-01-01T00:00:01.001Z"},
            "nullCount": {"text": 2, "number": 0, "time": 2, "never": 4},
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn times_that_can_not_be_written_are_bounded_by_the_last_that_can() {
        let times = TimestampMicrosecondArray::from(vec![i64::MIN, i64::MAX]).with_timezone("UTC");
        let found = stats(&[RecordBatch::try_from_iter([("t", Arc::new(times) as ArrayRef)]).expect("a batch")]);
        assert_eq!(found["minValues"]["t"], "0001-01-01T00:00:00.000Z");
        assert_eq!(found["maxValues"]["t"], "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn long_texts_are_cut_to_bounds() {
        let long = |last: &str| format!("{}{last}{}", "x".repeat(60), "tail".repeat(9));
        for (text, least, greatest) in [
            (long("a"), format!("{}atai", "x".repeat(60)), format!("{}ataj", "x".repeat(60))),
            // The last character that fits has no next one, so the character before it is replaced by its next one.
            (long("\u{10FFFF}"), format!("{}\u{10FFFF}", "x".repeat(60)), format!("{}y", "x".repeat(59))),
            ("\u{10FFFF}".repeat(40), "\u{10FFFF}".repeat(16), "\u{10FFFF}".repeat(40)),
        ] {
            let found = stats(&[texts(&[Some(&text)])]);
            assert_eq!((&found["minValues"]["text"], &found["maxValues"]["text"]), (&json!(least), &json!(greatest)));
        }
    }

    proptest! {
        /// For any characters: neighbours of the surrogates, the last one of all, NUL.
        #[test]
        fn bounds_hold_all_values_and_are_short(
            values in proptest::collection::vec(
                proptest::option::of(proptest::collection::vec(
                    proptest::sample::select(vec!['\0', 'a', '\u{7F}', 'é', '\u{D7FF}', '\u{E000}', '\u{FFFF}', '\u{10000}', '\u{10FFFF}']),
                    0..90,
                )),
                1..9,
            ),
        ) {
            let values: Vec<Option<String>> =
                values.into_iter().map(|value| value.map(|value| value.into_iter().collect())).collect();
            let given: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
            let (first, second) = given.split_at(given.len() / 2);
            let batches: Vec<_> = [first, second].into_iter().filter(|it| !it.is_empty()).map(texts).collect();
            let found = stats(&batches);
            let nulls = given.iter().filter(|value| value.is_none()).count();
            prop_assert_eq!(&found["nullCount"]["text"], &json!(nulls));
            prop_assert_eq!(found["minValues"].get("text").is_none(), nulls == given.len());
            for value in given.into_iter().flatten() {
                let bound = |of: &str| found[of]["text"].as_str().expect("a bound").to_owned();
                prop_assert!(bound("minValues").as_str() <= value && value <= bound("maxValues").as_str());
                prop_assert!(bound("minValues").len() <= 64);
            }
        }
    }

    #[test]
    fn which_columns_are_bounded() {
        let json =
            r#"{"numRecords":2,"minValues":{"a":1,"b":1},"maxValues":{"a":1},"nullCount":{"a":0,"b":0,"c":2,"d":1}}"#;
        assert_eq!(bounded(json, &["a", "b", "c", "d", "e"]), ["a", "c"]);
        assert!(bounded("", &["a"]).is_empty());
    }
}
