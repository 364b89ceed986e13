//! What the statistics of a live file of `raw` say of its rows: epochs, event times, times of arrival. Pure: no file is read.
//! Failure: if statistics are missing or can not be read, the table is damaged.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::schema::Kind;
use crate::model::{Epoch, TimeUs};
use crate::table::error::TableError;
use crate::table::state::{File, State};

/// The least and greatest epoch in a file of `raw`.
///
/// # Errors
/// [`TableError::Corrupt`] when its statistics do not say.
pub fn epochs_of(file: &File) -> Result<(Epoch, Epoch), TableError> {
    #[derive(Deserialize)]
    struct Range {
        epoch: Epoch,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct EpochStats {
        min_values: Range,
        max_values: Range,
    }
    let stats: EpochStats = statistics(file)?;
    Ok((stats.min_values.epoch, stats.max_values.epoch))
}

/// What a file of `raw` says of event times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTimes {
    /// The least and the greatest, at most a millisecond wider.
    pub range: Option<(TimeUs, TimeUs)>,
    /// Rows without one.
    pub nulls: u64,
}

/// What a file of `raw` says of the event times of its rows.
///
/// # Errors
/// [`TableError::Corrupt`] when its statistics can not be read.
pub fn event_times_of(file: &File) -> Result<EventTimes, TableError> {
    #[derive(Deserialize)]
    struct Time {
        event_time: Option<DateTime<Utc>>,
    }
    #[derive(Deserialize)]
    struct Nulls {
        event_time: Option<u64>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct TimeStats {
        min_values: Time,
        max_values: Time,
        null_count: Nulls,
    }
    let stats: TimeStats = statistics(file)?;
    let range = stats.min_values.event_time.zip(stats.max_values.event_time);
    Ok(EventTimes {
        range: range.map(|(least, greatest)| (least.timestamp_micros(), greatest.timestamp_micros() + cut_off(file))),
        nulls: stats.null_count.event_time.unwrap_or(file.rows),
    })
}

/// The least and greatest `ingested_at` in a file of `raw`, at most a millisecond wider.
///
/// # Errors
/// [`TableError::Corrupt`] when its statistics do not say.
pub fn ingested_of(file: &File) -> Result<(TimeUs, TimeUs), TableError> {
    #[derive(Deserialize)]
    struct Range {
        ingested_at: DateTime<Utc>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct IngestedStats {
        min_values: Range,
        max_values: Range,
    }
    let stats: IngestedStats = statistics(file)?;
    let us = |range: Range| range.ingested_at.timestamp_micros();
    Ok((us(stats.min_values), us(stats.max_values) + cut_off(file)))
}

/// By how much a greatest time may be too small, in µs: other programs truncate it to milliseconds, we round it up.
fn cut_off(file: &File) -> TimeUs {
    if Kind::of_file(file).is_some() { 0 } else { 999 }
}

/// The newest `ingested_at` of any live row; 0 where there is none.
///
/// # Errors
/// [`TableError::Corrupt`] when a file's statistics do not say.
pub fn newest_ingested_at(state: &State) -> Result<TimeUs, TableError> {
    let mut newest = 0;
    for file in state.files.values() {
        newest = newest.max(ingested_of(file)?.1);
    }
    Ok(newest)
}

fn statistics<'a, T: Deserialize<'a>>(file: &'a File) -> Result<T, TableError> {
    serde_json::from_str(&file.stats).map_err(|error| TableError::Corrupt {
        table: "raw".to_owned(),
        what: format!("statistics of {}: {error}", file.path),
    })
}
