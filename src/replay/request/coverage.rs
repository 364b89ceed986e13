//! How windows lie to the range of a replay: inside, partly in it, or outside.
//!
//! In: the range, as stretches of event time that do not touch, ascending; a granularity and a window's start. Out: how that window
//! lies; and, for the user, the windows that hold an edge of the range, with the dimensions that stay as they are in them. State:
//! [`Windows`] remembers what it was asked. Pure.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::shape::{DimensionShape, RangeShape};
use crate::model::{Granularity, TimeUs, Zone, rfc3339};

/// How a window lies to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lies {
    /// All of it is in the range.
    Inside,
    /// Some of it is.
    Partly,
    /// Nothing of it is.
    Outside,
}

/// How the window of a granularity that starts at `start` lies to stretches that do not touch, ascending.
pub fn lies(coverage: &[Range<TimeUs>], granularity: Granularity, start: TimeUs) -> Lies {
    let end = granularity.window_end(start, Zone::Utc);
    let first = coverage.partition_point(|stretch| stretch.end <= start);
    match coverage.get(first) {
        Some(stretch) if stretch.start <= start && end <= stretch.end => Lies::Inside,
        Some(stretch) if stretch.start < end => Lies::Partly,
        _ => Lies::Outside,
    }
}

/// How windows of a granularity lie to the range; neighbours mostly are the same windows again.
pub struct Windows<'a> {
    coverage: &'a [Range<TimeUs>],
    granularity: Granularity,
    known: HashMap<TimeUs, Lies, foldhash::fast::FixedState>,
}

impl<'a> Windows<'a> {
    /// Nothing is known yet.
    pub fn new(coverage: &'a [Range<TimeUs>], granularity: Granularity) -> Windows<'a> {
        Windows { coverage, granularity, known: HashMap::default() }
    }

    /// How the window that starts at `start` lies.
    pub fn lies(&mut self, start: TimeUs) -> Lies {
        *self.known.entry(start).or_insert_with(|| lies(self.coverage, self.granularity, start))
    }
}

/// A window that lies only partly in the range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Partly {
    /// The granularity.
    pub granularity: Granularity,
    /// The window's start, RFC 3339.
    pub window_start: String,
    /// The window's end, RFC 3339.
    pub window_end: String,
    /// Dimensions that stay as they are in it, because it lies only partly in the range; the others get the part's difference.
    pub left_alone: Vec<String>,
}

/// The windows that lie only partly in the range, and which dimensions stay as they are in them.
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
            // Only the windows that hold an edge.
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
