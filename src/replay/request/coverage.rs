//! Decides whether a window is inside the range of a replay, partly in it, or outside.
//!
//! In: the range, as ascending stretches of event time that do not touch; a granularity and the start of a window. Out: where that
//! window is; and, for the user, the windows that hold an edge of the range, with the dimensions that are left unchanged in them. State:
//! [`Windows`] remembers its last answer. Pure.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::shape::{DimensionShape, RangeShape};
use crate::model::{Granularity, TimeUs, Zone, rfc3339};

/// Where a window is, relative to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lies {
    /// The whole window is in the range.
    Inside,
    /// A part of the window is in the range.
    Partly,
    /// No part of the window is in the range.
    Outside,
}

/// Where a window is, relative to ascending stretches that do not touch. It has this granularity and starts at `start`.
pub fn lies(coverage: &[Range<TimeUs>], granularity: Granularity, start: TimeUs) -> Lies {
    let end = granularity.window_end(start, Zone::Utc);
    let first = coverage.partition_point(|stretch| stretch.end <= start);
    match coverage.get(first) {
        Some(stretch) if stretch.start <= start && end <= stretch.end => Lies::Inside,
        Some(stretch) if stretch.start < end => Lies::Partly,
        _ => Lies::Outside,
    }
}

/// Where windows of a granularity are, relative to the range. Consecutive calls are usually about the same window.
pub struct Windows<'a> {
    coverage: &'a [Range<TimeUs>],
    granularity: Granularity,
    known: HashMap<TimeUs, Lies, foldhash::fast::FixedState>,
}

impl<'a> Windows<'a> {
    /// Starts without a last answer.
    pub fn new(coverage: &'a [Range<TimeUs>], granularity: Granularity) -> Windows<'a> {
        Windows { coverage, granularity, known: HashMap::default() }
    }

    /// Where the window that starts at `start` is.
    pub fn lies(&mut self, start: TimeUs) -> Lies {
        *self.known.entry(start).or_insert_with(|| lies(self.coverage, self.granularity, start))
    }
}

/// A window that is only partly in the range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Partly {
    /// The granularity.
    pub granularity: Granularity,
    /// The window's start, RFC 3339.
    pub window_start: String,
    /// The window's end, RFC 3339.
    pub window_end: String,
    /// Dimensions that are left unchanged in it because it is only partly in the range. The other dimensions get the difference of the
    /// part.
    pub left_alone: Vec<String>,
}

/// The windows that are only partly in the range, with the dimensions that are left unchanged in them.
pub fn partly(coverage: &[Range<TimeUs>], shape: &RangeShape) -> Vec<Partly> {
    let mut found = BTreeSet::new();
    for granularity in Granularity::ALL {
        let concerns = |dimension: &&DimensionShape| {
            dimension.parts.iter().any(|part| part.granularity == granularity)
                || dimension.whole_only.contains(&granularity)
        };
        if !shape.dimensions.values().any(|dimension| concerns(&dimension)) {
            continue;
        }
        for range in coverage {
            // Only windows that hold an edge can be partly in the range.
            for edge in [range.start, range.end - 1] {
                let start = granularity.window_start(edge, Zone::Utc);
                if lies(coverage, granularity, start) == Lies::Partly {
                    let left_alone = (shape.dimensions.iter())
                        .filter(|(_, dimension)| dimension.whole_only.contains(&granularity))
                        .map(|(name, _)| name.clone());
                    found.insert(Partly {
                        granularity,
                        window_start: rfc3339(start),
                        window_end: rfc3339(granularity.window_end(start, Zone::Utc)),
                        left_alone: left_alone.collect(),
                    });
                }
            }
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Granularity::{Day, Month, Week, Year};

    #[test]
    fn windows_lie_inside_partly_or_outside() {
        let at = |text: &str| text.parse::<chrono::DateTime<chrono::Utc>>().expect("a time").timestamp_micros();
        let coverage = [
            at("2026-01-12T00:00:00Z")..at("2026-01-14T00:00:00Z"),
            at("2026-02-01T00:00:00Z")..at("2026-03-01T00:00:00Z"),
        ];
        let lies = |granularity: Granularity, time: &str| {
            lies(&coverage, granularity, granularity.window_start(at(time), Zone::Utc))
        };
        assert_eq!(lies(Day, "2026-01-13T05:00:00Z"), Lies::Inside);
        assert_eq!(lies(Day, "2026-01-14T00:00:00Z"), Lies::Outside);
        assert_eq!(lies(Week, "2026-01-13T05:00:00Z"), Lies::Partly);
        assert_eq!(
            (lies(Month, "2026-01-01T00:00:00Z"), lies(Month, "2026-02-07T00:00:00Z")),
            (Lies::Partly, Lies::Inside)
        );
        assert_eq!(
            (lies(Year, "2026-07-01T00:00:00Z"), lies(Year, "2027-07-01T00:00:00Z")),
            (Lies::Partly, Lies::Outside)
        );
    }
}
