//! `plan`: decides which files of `counts` a publish order writes, and from what.
//!
//! In: runs of updates, the live files, the `ingested_at` of the order's epoch. Out: one [`Work`] for each file to write: its
//! segment, the live files that it replaces, the updates that go into it. The home of a window is the live file that holds it; if
//! there is none, it is the longest period that is old enough and overlaps no live file, so that a backlog goes straight into
//! large files. If the order asks for it, small live files of a period that has grown old are merged into one (sealing). Pure: no
//! state.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::run::Run;
use crate::job::Dimension;
use crate::model::{CellParts, Granularity, Period, Segment, TimeUs, Zone};
use crate::table::File;
use crate::table::layout::Layout;

const MINUTE: TimeUs = 60_000_000;
const HOUR: TimeUs = 60 * MINUTE;

/// How long after its end a period is old: by then most records that are late for it have come.
pub(crate) fn age(period: Period) -> TimeUs {
    match period {
        Period::Minute => 0,
        Period::Hour => 10 * MINUTE,
        Period::Day => 3 * HOUR,
        Period::Month | Period::Year => 48 * HOUR,
    }
}

/// The longest period that a new segment can have, unless its ladder begins with a longer one; longer ones are made only by
/// sealing. A backlog of a month is published in several orders, and a month of minutes is too much to write again each time.
const BORN_MAX: Period = Period::Day;

/// At most this many bytes of files are sealed into one, because a merge holds its files in memory.
const SEAL_BYTES_MAX: u64 = 256 << 20;

/// At most this many files are made by sealing, per worker and order; the rest follows with the next order.
const SEALS_MAX: usize = 64;

/// What a publish order asks of one worker.
pub struct Wanted {
    /// Updates of windows that are published as they are: of minutes, hours and days; in a replay, of any granularity.
    pub fine: Vec<Arc<Run>>,
    /// Updates of day windows, to be published as weeks, months and years.
    pub coarse: Vec<Arc<Run>>,
    /// The dimensions with their granularities; updates in `coarse` for anything else are left out.
    pub dimensions: Arc<[Dimension]>,
    /// Live files of the worker's buckets.
    pub layout: Arc<Layout>,
    /// `ingested_at` of the order's epoch.
    pub now: TimeUs,
    /// Whether to seal.
    pub seal: bool,
    /// Only what lies in these segments, whose pieces have lost their base; `None` for everything.
    pub only: Option<Vec<Segment>>,
}

/// A file to write.
pub struct Work {
    /// Its segment.
    pub segment: Segment,
    /// Live files that it replaces; their periods lie within the segment's.
    pub live: Vec<File>,
    /// Updates to merge into it.
    pub updates: Vec<Part>,
}

/// Some updates of a run, in the run's order.
pub struct Part {
    /// The run.
    pub run: Arc<Run>,
    /// Which of its updates.
    pub indices: Vec<u32>,
}

impl Wanted {
    /// The files to write, in the order of granularity, bucket and time.
    pub fn plan(&self) -> Vec<Work> {
        let mut plan = Planned { wanted: self, works: BTreeMap::new() };
        if self.seal && self.only.is_none() {
            plan.seal();
        }
        for run in &self.fine {
            for (granularity, bucket, range) in run.groups() {
                plan.assign(run, granularity, bucket, range, None);
            }
        }
        for run in &self.coarse {
            for (_, bucket, range) in run.groups() {
                for granularity in [Granularity::Week, Granularity::Month, Granularity::Year] {
                    plan.assign(run, granularity, bucket, range.clone(), Some(&self.dimensions));
                }
            }
        }
        plan.works.into_values().collect()
    }
}

/// The key of a segment in a plan: granularity, bucket, start of its period.
type SegmentKey = (Granularity, u16, TimeUs);

struct Planned<'a> {
    wanted: &'a Wanted,
    works: BTreeMap<SegmentKey, Work>,
}

fn key_of(segment: &Segment) -> SegmentKey {
    (segment.granularity, segment.bucket, segment.period_start)
}

impl Planned<'_> {
    fn is_old(&self, segment: &Segment) -> bool {
        self.wanted.now >= segment.period_end() + age(segment.period)
    }

    /// Finds old periods with several live files, the longest periods first.
    fn seal(&mut self) {
        let mut seals = Vec::new();
        for files in self.wanted.layout.groups() {
            let mut files: Vec<_> = files.collect();
            let Some((first, _)) = files.first() else { continue };
            for &period in first.granularity.ladder()[1..].iter().rev() {
                let mut inside: BTreeMap<TimeUs, Vec<&(Segment, File)>> = BTreeMap::new();
                for file in files.iter().filter(|(segment, _)| segment.period < period) {
                    inside.entry(period.start(file.0.period_start)).or_default().push(file);
                }
                for (period_start, inside) in inside {
                    let segment = Segment { period, period_start, ..inside[0].0 };
                    let bytes: u64 = inside.iter().map(|(_, file)| file.size).sum();
                    if inside.len() > 1 && bytes <= SEAL_BYTES_MAX && self.is_old(&segment) {
                        files.retain(|(sealed, _)| period.start(sealed.period_start) != period_start);
                        seals.push((segment, inside.into_iter().map(|(_, file)| file.clone()).collect()));
                    }
                }
            }
        }
        seals.truncate(SEALS_MAX);
        for (segment, live) in seals {
            self.works.insert(key_of(&segment), Work { segment, live, updates: Vec::new() });
        }
    }

    /// Distributes a run's updates of one granularity and bucket among files. If `dimensions` are given, only updates of those
    /// that have this granularity.
    fn assign(
        &mut self,
        run: &Arc<Run>,
        granularity: Granularity,
        bucket: u16,
        range: Range<usize>,
        dimensions: Option<&[Dimension]>,
    ) {
        let mut targets: HashMap<TimeUs, Option<usize>> = HashMap::new();
        let mut parts: Vec<(Segment, Vec<u32>)> = Vec::new();
        let mut last: Option<(TimeUs, Option<usize>)> = None;
        let mut dimension: (Vec<u8>, bool) = (Vec::new(), false);
        for index in range {
            let cell = CellParts::of(run.cell(index)).expect("roll_up wrote the bytes of a cell");
            if let Some(dimensions) = dimensions {
                if dimension.0 != cell.dimension {
                    let counted = |known: &Dimension| known.granularities.contains(&granularity);
                    let known = dimensions.iter().find(|known| known.name.as_bytes() == cell.dimension);
                    dimension = (cell.dimension.to_vec(), known.is_some_and(counted));
                }
                if !dimension.1 {
                    continue;
                }
            }
            let target = match last {
                Some((window, target)) if window == cell.window_start => target,
                _ => {
                    let found = targets.entry(cell.window_start).or_insert_with(|| {
                        let window_start = granularity.window_start(cell.window_start, Zone::Utc);
                        let segment = self.home(granularity, bucket, window_start)?;
                        let known = parts.iter().position(|(part, _)| *part == segment);
                        Some(known.unwrap_or_else(|| {
                            parts.push((segment, Vec::new()));
                            parts.len() - 1
                        }))
                    });
                    last = Some((cell.window_start, *found));
                    *found
                }
            };
            if let Some(target) = target {
                parts[target].1.push(index as u32);
            }
        }
        for (segment, indices) in parts {
            let holder = self.wanted.layout.holder(granularity, bucket, segment.period_start);
            let live = || holder.filter(|(live, _)| *live == segment).map(|(_, file)| file.clone());
            let work = (self.works.entry(key_of(&segment))).or_insert_with(|| Work {
                segment,
                live: live().into_iter().collect(),
                updates: Vec::new(),
            });
            work.updates.push(Part { run: Arc::clone(run), indices });
        }
    }

    /// The segment that takes a window's updates; `None` if the order leaves the window out.
    fn home(&self, granularity: Granularity, bucket: u16, window_start: TimeUs) -> Option<Segment> {
        let holds = |segment: &Segment| {
            (segment.granularity, segment.bucket) == (granularity, bucket)
                && (segment.period_start..segment.period_end()).contains(&window_start)
        };
        // Beside a piece that has lost its base, other pieces may be staged already: the new one must not reach beyond it.
        let born_max = match &self.wanted.only {
            Some(only) => only.iter().find(|segment| holds(segment))?.period.min(BORN_MAX),
            None => BORN_MAX,
        };
        // A segment that is being sealed contains live files, so it is looked up before them.
        let before = self.works.range(..=(granularity, bucket, window_start)).next_back();
        if let Some((_, work)) = before
            && holds(&work.segment)
        {
            return Some(work.segment);
        }
        if let Some((segment, _)) = self.wanted.layout.holder(granularity, bucket, window_start) {
            return Some(*segment);
        }
        let ladder = granularity.ladder();
        let at = |period: Period| Segment { granularity, bucket, period, period_start: period.start(window_start) };
        let free = |segment: &Segment| self.wanted.layout.overlapping(segment).next().is_none();
        let long = ladder[1..]
            .iter()
            .rev()
            .map(|&period| at(period))
            .find(|segment| segment.period <= born_max && self.is_old(segment) && free(segment));
        Some(long.unwrap_or_else(|| at(ladder[0])))
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::model::{Cell, Tally};

    fn at(text: &str) -> TimeUs {
        text.parse::<DateTime<Utc>>().expect("a time").timestamp_micros()
    }

    fn dimensions() -> Arc<[Dimension]> {
        let dimension = |name: &str, granularities: &[Granularity]| Dimension {
            name: name.to_owned(),
            field: None,
            granularities: granularities.to_vec(),
        };
        Arc::new([dimension("page", &[Granularity::Day, Granularity::Month]), dimension("total", &Granularity::ALL)])
    }

    fn run(granularity: Granularity, cells: &[(&str, &str)]) -> Arc<Run> {
        let mut keys: Vec<Vec<u8>> = (cells.iter())
            .map(|(dimension, time)| {
                let mut key = Run::group(granularity as u8, 3).to_vec();
                Cell::encode(b"c", dimension.as_bytes(), granularity.window_start(at(time), Zone::Utc), b"", &mut key);
                key
            })
            .collect();
        keys.sort();
        let mut run = Run::default();
        keys.iter().for_each(|key| run.push(key, Tally::ONE));
        Arc::new(run)
    }

    fn file(granularity: Granularity, label: &str, size: u64) -> File {
        File {
            path: format!("{granularity}/{label}"),
            size,
            rows: 1,
            partition: BTreeMap::from([
                ("granularity".to_owned(), granularity.name().to_owned()),
                ("period".to_owned(), label.to_owned()),
                ("bucket".to_owned(), "3".to_owned()),
            ]),
            stats: String::new(),
        }
    }

    fn wanted(live: &[File], now: &str) -> Wanted {
        Wanted {
            fine: Vec::new(),
            coarse: Vec::new(),
            dimensions: dimensions(),
            layout: Arc::new(Layout::new(live, |_| true).expect("no overlap")),
            now: at(now),
            seal: false,
            only: None,
        }
    }

    /// Each file to write: granularity, period, what it replaces, number of updates.
    fn planned(wanted: &Wanted) -> Vec<(&'static str, String, Vec<String>, usize)> {
        (wanted.plan().into_iter())
            .map(|work| {
                let label = work.segment.period.label(work.segment.period_start);
                let live = work.live.into_iter().map(|file| file.path).collect();
                let updates = work.updates.iter().map(|part| part.indices.len()).sum();
                (work.segment.granularity.name(), label, live, updates)
            })
            .collect()
    }

    #[test]
    fn a_window_is_born_in_the_longest_period_that_is_old_and_free() {
        let live = [file(Granularity::Minute, "2026-01-12T07", 1)];
        let times = ["2026-01-11T01:02:03Z", "2026-01-11T23:59:59Z", "2026-01-12T07:30:00Z", "2026-01-12T09:10:00Z"];
        let recent = ["2026-01-13T04:30:00Z", "2026-01-13T05:00:00Z"];
        let cells: Vec<_> = times.iter().chain(&recent).map(|time| ("total", *time)).collect();
        let wanted = Wanted { fine: vec![run(Granularity::Minute, &cells)], ..wanted(&live, "2026-01-13T05:10:00Z") };
        let none = Vec::<String>::new;
        assert_eq!(
            planned(&wanted),
            [
                ("minute", "2026-01-11".to_owned(), none(), 2),
                ("minute", "2026-01-12T07".to_owned(), vec!["minute/2026-01-12T07".to_owned()], 1),
                ("minute", "2026-01-12T09".to_owned(), none(), 1),
                ("minute", "2026-01-13T04".to_owned(), none(), 1),
                ("minute", "2026-01-13T0500".to_owned(), none(), 1),
            ]
        );
    }

    #[test]
    fn day_updates_become_weeks_months_and_years() {
        let cells =
            [("total", "2024-12-30T00:00:00Z"), ("total", "2025-01-01T00:00:00Z"), ("page", "2025-01-02T00:00:00Z")];
        let wanted = Wanted { coarse: vec![run(Granularity::Day, &cells)], ..wanted(&[], "2025-01-03T00:00:00Z") };
        let none = Vec::<String>::new;
        assert_eq!(
            planned(&wanted),
            [
                // The week of 2025-01-01 began in 2024.
                ("week", "2024".to_owned(), none(), 2),
                ("month", "2024".to_owned(), none(), 1),
                ("month", "2025".to_owned(), none(), 2),
                ("year", "2024".to_owned(), none(), 1),
                ("year", "2025".to_owned(), none(), 1),
            ]
        );
    }

    /// A replay may remove counts of a dimension that the job no longer has: here `gone`.
    #[test]
    fn weeks_and_months_of_a_replay_are_taken_as_they_are() {
        let fine = [Granularity::Week, Granularity::Month].map(|granularity| {
            run(granularity, &[("total", "2025-01-01T00:00:00Z"), ("gone", "2025-01-01T00:00:00Z")])
        });
        let wanted = Wanted { fine: fine.into(), ..wanted(&[], "2025-03-03T00:00:00Z") };
        let none = Vec::<String>::new;
        assert_eq!(planned(&wanted), [("week", "2024".to_owned(), none(), 2), ("month", "2025".to_owned(), none(), 2)]);
    }

    #[test]
    fn old_periods_are_sealed_the_longest_first() {
        let minute = |label: &str| file(Granularity::Minute, label, 1);
        let mut live = vec![
            minute("2025-11-03"),
            minute("2025-11-04T05"),
            minute("2026-01-12T05"),
            minute("2026-01-12T06"),
            minute("2026-01-13T0300"),
            minute("2026-01-13T0359"),
            minute("2026-01-13T0400"),
            minute("2026-01-13T0401"),
        ];
        live.push(file(Granularity::Hour, "2026-01-12T05", SEAL_BYTES_MAX));
        live.push(file(Granularity::Hour, "2026-01-12T06", 1));
        let fine =
            vec![run(Granularity::Minute, &[("total", "2026-01-12T09:00:00Z"), ("total", "2026-01-13T04:00:00Z")])];
        let mut wanted = Wanted { fine, seal: true, ..wanted(&live, "2026-01-13T05:05:00Z") };
        let paths = |labels: &[&str]| labels.iter().map(|label| format!("minute/{label}")).collect::<Vec<_>>();
        assert_eq!(
            planned(&wanted),
            [
                ("minute", "2025-11".to_owned(), paths(&["2025-11-03", "2025-11-04T05"]), 0),
                ("minute", "2026-01-12".to_owned(), paths(&["2026-01-12T05", "2026-01-12T06"]), 1),
                ("minute", "2026-01-13T03".to_owned(), paths(&["2026-01-13T0300", "2026-01-13T0359"]), 0),
                ("minute", "2026-01-13T0400".to_owned(), paths(&["2026-01-13T0400"]), 1),
            ]
        );
        // A piece that has lost its base is planned again, and nothing else.
        let lost = Segment {
            granularity: Granularity::Minute,
            bucket: 3,
            period: Period::Day,
            period_start: at("2026-01-12T00:00:00Z"),
        };
        wanted.only = Some(vec![lost]);
        assert_eq!(planned(&wanted), [("minute", "2026-01-12T09".to_owned(), Vec::new(), 1)]);
        // Also if its base is gone and the whole day is free: the hour beside it may be staged.
        let lost = Segment { period: Period::Hour, period_start: at("2026-01-12T09:00:00Z"), ..lost };
        let wanted = Wanted { layout: Arc::default(), only: Some(vec![lost]), ..wanted };
        assert_eq!(planned(&wanted), [("minute", "2026-01-12T09".to_owned(), Vec::new(), 1)]);
    }
}
