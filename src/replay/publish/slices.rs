//! Cuts a replay's changes into slices that fit into memory, and stages one after the other.
//!
//! In: the files of the dataset with their rows by day, and the live files of `counts`. Out: merged segments, stored but not committed. A
//! slice is a stretch of days of one granularity and bucket. It never ends inside the file that its last windows go to, else two slices
//! would make two files of one segment. State: the updates of one slice (`budget_bytes`, but at least those of one file), one file of the
//! dataset, and what [`Merge`] holds. Failure: what was stored becomes an orphan, which `upkeep` deletes by its age.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::admission::Direction;
use crate::dataflow::merge::Merge;
use crate::dataflow::plan::Wanted;
use crate::dataflow::protocol::Piece;
use crate::dataflow::run::Run;
use crate::model::{Cell, Granularity, Period, Segment, Tally, TimeUs};
use crate::replay::compare::dataset::{self, CellFile};
use crate::table::layout::Layout;
use crate::table::{Log, Root, TableError};

/// Approximate memory of an update: its key, its tally, its place in the plan, and spare capacity.
const ROW_BYTES: u64 = 120;

/// Segments that are merged concurrently: few, since live is working at the same time.
const AT_ONCE: usize = 2;

/// The progress of a publish or undo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishProgress {
    /// Changes that were merged; those that are merged again are counted again.
    pub cells: u64,
    /// Changes in all.
    pub cells_total: u64,
    /// Files that were staged, in this attempt and those before.
    pub files: u64,
    /// The number of the attempt, from 1. An attempt merges again what lost its base to another commit.
    pub attempt: u32,
}

/// The changes of one granularity and bucket.
struct BucketChanges<'a> {
    granularity: Granularity,
    bucket: u16,
    parts: Vec<&'a CellFile>,
    days: BTreeMap<TimeUs, u64>,
}

/// Stages the changes of a replay.
pub(super) struct Staging<'a> {
    pub(super) root: &'a Root,
    pub(super) log: &'a Log,
    pub(super) parts: &'a [CellFile],
    pub(super) direction: Direction,
    pub(super) budget_bytes: u64,
    /// The time by which it is decided which periods are old.
    pub(super) now: TimeUs,
}

impl Staging<'_> {
    /// Merges the changes into the live files, and stores the new ones under `name`. If `only` is given, only these segments are merged.
    ///
    /// # Errors
    /// As [`Merge::stage`]; [`TableError::Corrupt`] when the dataset is not as its writer writes it.
    pub(super) async fn stage(
        &self,
        layout: &Arc<Layout>,
        only: Option<&[Segment]>,
        name: &str,
        progress: &mut PublishProgress,
        tell: &mut impl FnMut(&PublishProgress),
    ) -> Result<Vec<Piece>, TableError> {
        let merge =
            Merge { name: name.to_owned(), log: self.log.clone(), at_once: AT_ONCE, turn: Arc::new(Semaphore::new(1)) };
        let mut pieces = Vec::new();
        for group in groups(self.parts) {
            let only = only.map(|only| {
                let ours = only.iter().filter(|it| (it.granularity, it.bucket) == (group.granularity, group.bucket));
                ours.copied().collect::<Vec<_>>()
            });
            for windows in group.slices(layout, only.as_deref(), self.budget_bytes / ROW_BYTES) {
                let run = self.read(&group, &windows, only.as_deref()).await?;
                progress.cells += run.len() as u64;
                let wanted = Wanted {
                    fine: vec![Arc::new(run)],
                    coarse: Vec::new(),
                    dimensions: Arc::new([]),
                    layout: Arc::clone(layout),
                    now: self.now,
                    seal: false,
                    only: only.clone(),
                };
                let staged = merge.stage(wanted.plan()).await?;
                progress.files += staged.iter().map(|piece| piece.add.len() as u64).sum::<u64>();
                tell(progress);
                let (granularity, bucket) = (group.granularity.name(), group.bucket);
                let from = Period::Day.label(windows.start);
                tracing::debug!(granularity, bucket, from, files = staged.len(), "slice staged");
                pieces.extend(staged);
            }
        }
        Ok(pieces)
    }

    /// Reads the updates of a slice.
    async fn read(
        &self,
        group: &BucketChanges<'_>,
        windows: &Range<TimeUs>,
        only: Option<&[Segment]>,
    ) -> Result<Run, TableError> {
        let mut run = Run::default();
        let (mut key, mut last) = (Vec::new(), Vec::new());
        for part in group.parts.iter().filter(|part| part.days.range(windows.clone()).next().is_some()) {
            for change in dataset::read(self.root, part, windows.clone()).await? {
                let dataset::Change { cell, old, new } = change?;
                if only.is_some_and(|only| !only.iter().any(|segment| holds(segment, cell.window_start))) {
                    continue;
                }
                key.clear();
                key.extend_from_slice(&Run::group(group.granularity as u8, group.bucket));
                let (customer, dimension, value) = (&cell.customer, &cell.dimension, &cell.value);
                Cell::encode(customer.as_bytes(), dimension.as_bytes(), cell.window_start, value.as_bytes(), &mut key);
                if key <= last {
                    return Err(TableError::Corrupt {
                        table: "replays".to_owned(),
                        what: format!("{}: {cell:?} does not come after the cell before it", part.path),
                    });
                }
                let event_count = match self.direction {
                    Direction::Publish => new - old,
                    Direction::Undo => old - new,
                };
                run.push(&key, Tally { event_count });
                std::mem::swap(&mut key, &mut last);
            }
        }
        Ok(run)
    }
}

fn holds(segment: &Segment, window_start: TimeUs) -> bool {
    segment.windows().contains(&window_start)
}

/// Groups the parts by granularity and bucket, each group in order.
fn groups(parts: &[CellFile]) -> Vec<BucketChanges<'_>> {
    let mut groups: BTreeMap<(Granularity, u16), Vec<&CellFile>> = BTreeMap::new();
    for part in parts {
        groups.entry((part.granularity, part.bucket)).or_default().push(part);
    }
    let mut found = Vec::new();
    for ((granularity, bucket), parts) in groups {
        let mut days: BTreeMap<TimeUs, u64> = BTreeMap::new();
        for (day, rows) in parts.iter().flat_map(|part| &part.days) {
            *days.entry(*day).or_default() += rows;
        }
        found.push(BucketChanges { granularity, bucket, parts, days });
    }
    found
}

impl BucketChanges<'_> {
    /// Slices of at most `rows_max` rows, unless the least possible slice has more.
    fn slices(&self, layout: &Layout, only: Option<&[Segment]>, rows_max: u64) -> Vec<Range<TimeUs>> {
        let wanted = |day: TimeUs| {
            let meets = |segment: &Segment| {
                let windows = segment.windows();
                windows.start < Period::Day.end(day) && day < windows.end
            };
            only.is_none_or(|only| only.iter().any(meets))
        };
        let mut least: Vec<(Range<TimeUs>, u64)> = Vec::new();
        for (&day, &rows) in self.days.iter().filter(|(day, _)| wanted(**day)) {
            match least.last_mut() {
                Some((windows, sum)) if windows.contains(&day) => *sum += rows,
                _ => least.push((day..self.border(layout, Period::Day.end(day)), rows)),
            }
        }
        let mut slices: Vec<(Range<TimeUs>, u64)> = Vec::new();
        for (windows, rows) in least {
            match slices.last_mut() {
                Some((slice, sum)) if *sum + rows <= rows_max => {
                    slice.end = windows.end;
                    *sum += rows;
                }
                _ => slices.push((windows, rows)),
            }
        }
        slices.into_iter().map(|(windows, _)| windows).collect()
    }

    /// The first border of a day, from `end` on, that is inside no file: neither a live one nor one that may be made.
    fn border(&self, layout: &Layout, mut end: TimeUs) -> TimeUs {
        // A new file has the first period of the ladder; one of minutes or hours is no longer than a day.
        let shortest = self.granularity.ladder()[0];
        loop {
            let last = end - 1;
            let live = layout.holder(self.granularity, self.bucket, last).map_or(end, |(live, _)| live.windows().end);
            let made = shortest.end(shortest.start(last));
            match live.max(made) {
                further if further > end => end = further,
                _ => return end,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::table::File;

    fn at(text: &str) -> TimeUs {
        format!("{text}T00:00:00Z").parse::<DateTime<Utc>>().expect("a time").timestamp_micros()
    }

    fn live(granularity: Granularity, periods: &[&str]) -> Layout {
        let file = |period: &&str| File {
            path: format!("{granularity}/{period}"),
            size: 1,
            rows: 1,
            partition: BTreeMap::from([
                ("granularity".to_owned(), granularity.name().to_owned()),
                ("period".to_owned(), (*period).to_owned()),
                ("bucket".to_owned(), "3".to_owned()),
            ]),
            stats: String::new(),
        };
        Layout::new(&periods.iter().map(file).collect::<Vec<_>>(), |_| true).expect("no overlap")
    }

    fn group(granularity: Granularity, days: &[(&str, u64)]) -> BucketChanges<'static> {
        let days = days.iter().map(|(day, rows)| (at(day), *rows)).collect();
        BucketChanges { granularity, bucket: 3, parts: Vec::new(), days }
    }

    fn days(slices: &[Range<TimeUs>]) -> Vec<(String, String)> {
        slices.iter().map(|it| (Period::Day.label(it.start), Period::Day.label(it.end))).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(start, end)| ((*start).to_owned(), (*end).to_owned())).collect()
    }

    #[test]
    fn a_slice_has_as_many_days_as_fit_and_at_least_one() {
        let layout = live(Granularity::Minute, &["2026-01-02T05", "2026-01-04"]);
        let group = group(
            Granularity::Minute,
            &[("2026-01-01", 4), ("2026-01-02", 6), ("2026-01-04", 30), ("2026-01-05", 1), ("2026-02-05", 1)],
        );
        assert_eq!(
            days(&group.slices(&layout, None, 10)),
            pairs(&[("2026-01-01", "2026-01-03"), ("2026-01-04", "2026-01-05"), ("2026-01-05", "2026-02-06")])
        );
        assert_eq!(group.slices(&layout, None, 0).len(), 5);
        assert_eq!(group.slices(&layout, None, u64::MAX).len(), 1);
    }

    #[test]
    fn a_slice_does_not_end_inside_a_file() {
        let days_of = |name: &str| ["08", "10", "20"].map(|day| format!("{name}-{day}"));
        let (january, february) = (days_of("2026-01"), days_of("2026-02"));
        let rows: Vec<_> = january.iter().chain(&february).map(|day| (day.as_str(), 5)).collect();
        let all_apart = [
            ("2026-01-08", "2026-01-09"),
            ("2026-01-10", "2026-01-11"),
            ("2026-01-20", "2026-01-21"),
            ("2026-02-08", "2026-02-09"),
            ("2026-02-10", "2026-02-11"),
            ("2026-02-20", "2026-02-21"),
        ];
        let hours = group(Granularity::Hour, &rows);
        assert_eq!(days(&hours.slices(&live(Granularity::Hour, &["2026-01-08"]), None, 1)), pairs(&all_apart));
        // January is sealed into one file.
        let sealed = live(Granularity::Hour, &["2026-01"]);
        let january = [("2026-01-08", "2026-02-01")];
        assert_eq!(days(&hours.slices(&sealed, None, 1)), pairs(&[&january, &all_apart[3..]].concat()));
        // Days, weeks, months and years begin in files of their own.
        assert_eq!(days(&group(Granularity::Day, &rows).slices(&Layout::default(), None, 1)), pairs(&all_apart));
        let begun = |granularity| days(&group(granularity, &rows).slices(&Layout::default(), None, 1));
        let weeks = [
            ("2026-01-08", "2026-01-12"),
            ("2026-01-20", "2026-01-26"),
            ("2026-02-08", "2026-02-09"),
            ("2026-02-10", "2026-02-16"),
            ("2026-02-20", "2026-02-23"),
        ];
        assert_eq!(begun(Granularity::Week), pairs(&weeks));
        assert_eq!(begun(Granularity::Month), pairs(&[("2026-01-08", "2026-02-01"), ("2026-02-08", "2026-03-01")]));
        assert_eq!(begun(Granularity::Year), pairs(&[("2026-01-08", "2027-01-01")]));
        // A long file of the former layout, to be split or not, is one slice; a year of weeks ends with its last week.
        let former =
            |granularity, period| days(&group(granularity, &rows).slices(&live(granularity, &[period]), None, 1));
        assert_eq!(former(Granularity::Day, "2026-01"), pairs(&[&january, &all_apart[3..]].concat()));
        assert_eq!(former(Granularity::Week, "2026"), pairs(&[("2026-01-08", "2027-01-04")]));
    }

    #[test]
    fn what_has_lost_its_base_is_sliced_by_what_is_live_now() {
        let rows = [("2026-01-08", 1), ("2026-01-10", 1), ("2026-01-20", 1), ("2026-02-20", 1)];
        let lost = |period: Period, day: &str| Segment {
            granularity: Granularity::Minute,
            bucket: 3,
            period,
            period_start: at(day),
        };
        let only =
            [lost(Period::Day, "2026-01-10"), lost(Period::Minute, "2026-01-20"), lost(Period::Hour, "2026-02-20")];
        let minutes = group(Granularity::Minute, &rows);
        let apart = [("2026-01-10", "2026-01-11"), ("2026-01-20", "2026-01-21"), ("2026-02-20", "2026-02-21")];
        assert_eq!(days(&minutes.slices(&Layout::default(), Some(&only), 1)), pairs(&apart));
        let sealed = live(Granularity::Minute, &["2026-01"]);
        let months = [("2026-01-10", "2026-02-01"), ("2026-02-20", "2026-02-21")];
        assert_eq!(days(&minutes.slices(&sealed, Some(&only), 1)), pairs(&months));
        assert!(minutes.slices(&sealed, Some(&[]), 1).is_empty());
    }
}
