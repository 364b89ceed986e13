//! Refuses a range that can not be recounted exactly.
//!
//! In: the requested range, the state of `raw`, and what the range does to each dimension. Out: nothing, or a refusal that names the
//! nearest range that can be recounted. A range must have a beginning and a later end, `raw` must still hold all of its rows, and it must
//! not cut a window of any dimension's base. Pure.

use std::ops::Range;

use super::shape::{DimensionShape, RangeShape};
use super::submission::Asked;
use crate::model::{TimeUs, Zone, rfc3339};
use crate::replay::error::ReplayError;
use crate::replay::times;
use crate::table::{State, raw};

const DAY_US: TimeUs = 86_400_000_000;

/// Checks that the archive holds all rows of the range.
pub(super) fn check_whole(raw: &State, asked: &Asked) -> Result<(), ReplayError> {
    let held: u64 = raw.files.values().map(|file| file.rows).sum();
    let archived = raw.txn(raw::ROWS) as u64;
    if archived <= held {
        return Ok(());
    }
    let mut dates: Vec<_> =
        raw.files.values().filter_map(|file| Some(file.partition.get("ingest_date")?.as_str())).collect();
    dates.sort_unstable();
    let since = dates.first().and_then(|first| times::parse(first).ok());
    let held_from = match asked {
        // An event time is at most a day later than the time at which its record was ingested.
        Asked::EventTimes(range) => since.map(|since| (since + DAY_US, range.start)),
        Asked::IngestTimes(range) => since.map(|since| (since, range.start)),
    };
    match held_from {
        Some((from, start)) if start >= from => Ok(()),
        _ => Err(ReplayError::Refused(format!(
            "raw lacks {} of the {archived} rows that were archived: it holds rows ingested on {}; use a range that begins at {} or \
             later, or restore the rows from a copy",
            archived - held,
            match dates.as_slice() {
                [first, .., last] => format!("{first} to {last}"),
                [only] => (*only).to_owned(),
                [] => "no day".to_owned(),
            },
            held_from.map_or_else(|| "no time".to_owned(), |(from, _)| rfc3339(from))
        ))),
    }
}

/// Checks that the range has a beginning and a later end.
pub(super) fn check_order(range: &Range<TimeUs>) -> Result<(), ReplayError> {
    if range.start < range.end {
        return Ok(());
    }
    Err(ReplayError::Usage(format!(
        "the range ends at {}, which is not after its start {}: the start is inclusive, the end exclusive",
        rfc3339(range.end),
        rfc3339(range.start)
    )))
}

/// Checks that the range consists of whole windows of every dimension's base.
pub(super) fn check_range(range: &Range<TimeUs>, shape: &RangeShape) -> Result<(), ReplayError> {
    let base = shape.base();
    let start = base.window_start(range.start, Zone::Utc);
    let floor = base.window_start(range.end, Zone::Utc);
    let end = if floor == range.end { floor } else { base.window_end(floor, Zone::Utc) };
    if (start, end) == (range.start, range.end) {
        return Ok(());
    }
    let of = |(name, dimension): (&String, &DimensionShape)| (dimension.base == base).then(|| name.clone());
    let names: Vec<String> = shape.dimensions.iter().filter_map(of).collect();
    Err(ReplayError::Usage(format!(
        "the range {} to {} cuts a window: {} can only be recounted in whole {base}s; the nearest range of whole windows is \
         --from {} --to {}",
        rfc3339(range.start),
        rfc3339(range.end),
        names.join(", "),
        rfc3339(start),
        rfc3339(end)
    )))
}
