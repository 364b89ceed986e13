//! `plan`: decides which files of `counts` a publish order writes, and from what.
//!
//! In: runs of updates, the live files, the `ingested_at` of the order's epoch. Out: one [`Work`] for each file to write: its
//! segment, the live files that it replaces, the updates that go into it. The home of a window is the live file that holds it; if
//! there is none, it is the longest period that is old enough and overlaps no live file, so that a backlog goes straight into
//! large files. A long file of the former layout that holds an open window is split. If the order asks for it, small live files of
//! a period that has grown old are merged into one (sealing). Pure: no state.

#[cfg(test)]
mod tests;

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
const DAY: TimeUs = 24 * HOUR;

/// How long after the end of its last window a period is old: by then most records that are late for it have come. What comes later
/// than a month is rare, and costs more, because it is merged into a long file. (Nothing is sealed into weeks or years.)
pub(crate) fn age(period: Period) -> TimeUs {
    match period {
        Period::Minute => 0,
        Period::Hour => 10 * MINUTE,
        Period::Day => 3 * HOUR,
        Period::Week | Period::Month | Period::Year => 35 * DAY,
    }
}

/// The longest period that a new segment can have, unless its ladder begins with a longer one; longer ones are made only by
/// sealing. A backlog of a month is published in several orders, and a month of minutes is too much to write again each time.
const BORN_MAX: Period = Period::Day;

/// At most this many files are made by sealing, per worker and order; the rest follows with the next order.
const SEALS_MAX: usize = 64;

/// At most about this many rows are sealed, per worker and order: a row was measured to cost 0.15 to 0.2 µs on one core, so a
/// second at most, beside what the order publishes. The seal that reaches the bound is still made, else one that is larger than the
/// bound would never be. Four such orders an hour seal 400 million rows a day.
const SEAL_ROWS_MAX: u64 = 4 << 20;

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
    /// Whether the one live file is a long file of the former layout that holds an open window. Then its rows and the updates go
    /// into one new file for each period of the ladder's first length.
    pub split: bool,
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

/// The key of a segment in a plan: granularity, bucket, start of its first window.
type SegmentKey = (Granularity, u16, TimeUs);

struct Planned<'a> {
    wanted: &'a Wanted,
    works: BTreeMap<SegmentKey, Work>,
}

fn key_of(segment: &Segment) -> SegmentKey {
    (segment.granularity, segment.bucket, segment.windows().start)
}

impl Planned<'_> {
    fn is_old(&self, segment: &Segment) -> bool {
        self.wanted.now >= segment.windows().end + age(segment.period)
    }

    /// Whether a live file is split: it has the length in which the former layout created files, and holds an open window. (A month
    /// of days may also come from sealing, but then it is old.) One that is closed stays as it is.
    fn splits(&self, segment: &Segment) -> bool {
        segment.granularity.former() == Some(segment.period) && self.wanted.now < segment.windows().end
    }

    /// Finds old periods with several live files, the longest periods first.
    fn seal(&mut self) {
        let mut seals: Vec<(u64, Segment, Vec<File>)> = Vec::new();
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
                    if inside.len() > 1 && self.is_old(&segment) {
                        files.retain(|(sealed, _)| period.start(sealed.period_start) != period_start);
                        let rows: u64 = inside.iter().map(|(_, file)| file.rows).sum();
                        seals.push((rows, segment, inside.into_iter().map(|(_, file)| file.clone()).collect()));
                    }
                }
            }
        }
        // The smallest first: they remove the most files for their rows.
        seals.sort_by_key(|(rows, segment, _)| (*rows, *segment));
        let mut sealed = 0;
        for (rows, segment, live) in seals.into_iter().take(SEALS_MAX) {
            if sealed >= SEAL_ROWS_MAX {
                break;
            }
            sealed += rows;
            self.works.insert(key_of(&segment), Work { segment, live, updates: Vec::new(), split: false });
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
            let holder = self.wanted.layout.holder(granularity, bucket, segment.windows().start);
            let live = holder.filter(|(live, _)| *live == segment).map(|(_, file)| file);
            let split = live.is_some() && self.splits(&segment);
            let work = (self.works.entry(key_of(&segment))).or_insert_with(|| Work {
                segment,
                live: live.into_iter().cloned().collect(),
                updates: Vec::new(),
                split,
            });
            work.updates.push(Part { run: Arc::clone(run), indices });
        }
    }

    /// The segment that takes a window's updates; `None` if the order leaves the window out.
    fn home(&self, granularity: Granularity, bucket: u16, window_start: TimeUs) -> Option<Segment> {
        let holds = |segment: &Segment| {
            (segment.granularity, segment.bucket) == (granularity, bucket) && segment.windows().contains(&window_start)
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
        let at = |period: Period| Segment::holding(granularity, bucket, period, window_start);
        let free = |segment: &Segment| self.wanted.layout.overlapping(segment).next().is_none();
        let long = ladder[1..]
            .iter()
            .rev()
            .map(|&period| at(period))
            .find(|segment| segment.period <= born_max && self.is_old(segment) && free(segment));
        Some(long.unwrap_or_else(|| at(ladder[0])))
    }
}
