//! `pace`: decides which lanes are published now.
//!
//! In: the clock, what workers hold pending, how far the archive is fed, what is published. Out: the lanes of the next order of
//! each track. Time: how long a lane waits between two publishes is in [`super::interval`]. Lanes that wait no longer than the
//! minute lane are published together with it; hours and days have a track of their own, late records and longer windows another,
//! so that a long merge delays nothing finer. A lane is ready when the rest of the archive ([`super::backlog`]) was fed down to the
//! epoch that the lane was at when the job started; before that, it is published only if the budget requires it. State: a few
//! numbers per lane and worker. Restart: begins with the lanes' epochs in `counts`. No I/O.

use std::collections::BTreeMap;

use super::interval::{Interval, Intervals, Measured};
use crate::job::Settings;
use crate::model::{Epoch, Lane, TimeUs};
use crate::table::counts;

const LANES: usize = Lane::ALL.len();

/// A job that was not at the end of the topic for this long was behind: records that came late meanwhile are published at once.
const BEHIND_US: TimeUs = 60_000_000;

/// Three orders may be under way: one with the minute lane, one with hours and days, one with late records and longer windows.
pub const TRACKS: usize = 3;

/// What the pace is decided from.
pub struct Pace {
    intervals: Intervals,
    budget_bytes: u64,
    workers: usize,
    lanes: [LanePace; LANES],
    pending: BTreeMap<usize, [u64; LANES]>,
    /// For each worker: down to which epoch it was fed the rest of the archive, and which epoch was open then.
    fed: BTreeMap<usize, (Epoch, Epoch)>,
    /// `ingested_at` of the newest epoch in which every partition was read to its end.
    at_end: Option<TimeUs>,
    late_due: bool,
}

#[derive(Clone, Copy)]
struct LanePace {
    published: Epoch,
    /// When it was last ordered; `None` if it has to catch up.
    ordered_at: Option<TimeUs>,
    /// Once this epoch has ended, the lane has all that it needs of the archive.
    ready_from: Option<Epoch>,
    in_flight: bool,
}

/// The size of a job.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Number of workers in all processes.
    pub workers: usize,
    /// Number of processes.
    pub processes: usize,
}

impl Pace {
    /// The pace at a start. `published`: the epoch of each lane in `counts`; `newest`: the newest epoch of `raw`. A lane that is
    /// behind `raw` is due at once, so that even a job that never runs for long publishes.
    pub fn new(settings: &Settings, size: Size, published: [Epoch; LANES], newest: Epoch, now: TimeUs) -> Pace {
        let budget_bytes = settings.budget_bytes(size.processes);
        Pace {
            intervals: Intervals::new(settings, size.workers, budget_bytes),
            budget_bytes,
            workers: size.workers,
            lanes: published.map(|published| LanePace {
                published,
                ordered_at: (published == newest).then_some(now),
                ready_from: None,
                in_flight: false,
            }),
            pending: BTreeMap::new(),
            fed: BTreeMap::new(),
            at_end: None,
            late_due: false,
        }
    }

    /// Notes that a worker was fed all rows of epochs after `down_to`, in epochs up to `open`. Returns whether a lane has now
    /// become ready that lacks something up to `closed`, the newest closed epoch; the open epoch should then end soon.
    pub fn fed(&mut self, worker: usize, down_to: Epoch, open: Epoch, closed: Epoch) -> bool {
        self.fed.insert(worker, (down_to, open));
        if self.fed.len() < self.workers {
            return false;
        }
        let down_to = self.fed.values().map(|(down_to, _)| *down_to).max().unwrap_or(0);
        let open = self.fed.values().map(|(_, open)| *open).max().unwrap_or(open);
        let mut catches_up = false;
        let has_all = |lane: &LanePace| down_to <= lane.published;
        for lane in self.lanes.iter_mut().filter(|lane| lane.ready_from.is_none() && has_all(lane)) {
            lane.ready_from = Some(open);
            catches_up |= lane.published < closed && open > closed;
        }
        catches_up
    }

    /// Whether all of the archive was fed.
    pub fn is_fed(&self) -> bool {
        self.fed.len() == self.workers && self.fed.values().all(|(down_to, _)| *down_to == 0)
    }

    /// Notes the bytes that a worker holds, per lane.
    pub fn pending(&mut self, worker: usize, bytes: [u64; LANES]) {
        self.pending.insert(worker, bytes);
    }

    /// The bytes that all workers hold, per lane.
    pub fn pending_by_lane(&self) -> [u64; LANES] {
        let mut sum = [0; LANES];
        for bytes in self.pending.values() {
            (0..LANES).for_each(|lane| sum[lane] += bytes[lane]);
        }
        sum
    }

    /// The bytes that all workers hold.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_by_lane().iter().sum()
    }

    /// Whether the budget is used up; the largest lane is then published out of turn.
    pub fn is_over(&self) -> bool {
        self.pending_bytes() >= self.budget_bytes
    }

    /// Whether the source pauses: the budget is exceeded by a quarter, and a publish is under way that will free some of it.
    pub fn pauses(&self) -> bool {
        self.pending_bytes() >= self.budget_bytes + self.budget_bytes / 4
            && self.lanes.iter().any(|lane| lane.in_flight)
    }

    /// Whether the budget is used up by updates that can be published only once the open epoch has ended.
    pub fn wants_epoch(&self, closed: Epoch) -> bool {
        let largest = &self.lanes[self.largest() as usize];
        self.is_over() && largest.published >= closed && self.lanes.iter().all(|lane| !lane.in_flight)
    }

    fn largest(&self) -> Lane {
        let bytes = self.pending_by_lane();
        Lane::ALL.into_iter().max_by_key(|lane| bytes[*lane as usize]).unwrap_or(Lane::Late)
    }

    /// Notes that an epoch was read to the end of every partition.
    pub fn reached_end(&mut self, ingested_at: TimeUs) {
        self.late_due |= self.at_end.is_none_or(|last| ingested_at - last >= BEHIND_US);
        self.at_end = Some(ingested_at);
    }

    /// How long a lane waits between two publishes.
    pub fn interval(&self, lane: Lane) -> Interval {
        self.intervals.of(lane)
    }

    /// The intervals as the history of `counts` shows them: for each lane its seconds and what sets them, such as `300 setting`.
    pub fn shown(&self) -> BTreeMap<String, String> {
        let of = |lane| {
            let Interval { us, set_by } = self.interval(lane);
            (counts::interval_parameter(lane), format!("{} {}", us / 1_000_000, set_by.name()))
        };
        Lane::ALL.into_iter().map(of).collect()
    }

    /// Notes what a publish of a lane was measured to cost.
    pub fn measured(&mut self, lane: Lane, measured: Measured) {
        self.intervals.published(lane, measured);
    }

    /// The track of a lane.
    pub fn track(&self, lane: Lane) -> usize {
        match lane {
            _ if self.interval(lane).us <= self.interval(Lane::Minute).us => 0,
            Lane::Minute | Lane::Hour | Lane::Day => 1,
            Lane::Late | Lane::Coarse => 2,
        }
    }

    fn can_take(&self, lane: Lane, closed: Epoch) -> bool {
        let lane = &self.lanes[lane as usize];
        !lane.in_flight && lane.published < closed && lane.ready_from.is_some_and(|from| from <= closed)
    }

    /// The lanes of a track that are to be published up to `closed`.
    pub fn due(&self, track: usize, closed: Epoch, now: TimeUs) -> Vec<Lane> {
        let over = self.is_over().then(|| self.largest());
        (Lane::ALL.into_iter())
            .filter(|lane| {
                let pace = &self.lanes[*lane as usize];
                let in_turn = pace.ordered_at.is_none_or(|at| now - at >= self.interval(*lane).us);
                let out_of_turn = over == Some(*lane) || (*lane == Lane::Late && self.late_due);
                self.track(*lane) == track && self.can_take(*lane, closed) && (in_turn || out_of_turn)
            })
            .collect()
    }

    /// All lanes that can be published up to `closed`.
    pub fn rest(&self, closed: Epoch) -> Vec<Lane> {
        Lane::ALL.into_iter().filter(|lane| self.can_take(*lane, closed)).collect()
    }

    /// Those of the `idle` lanes that can move to an epoch without an order.
    pub fn idle(&self, idle: &[Lane], epoch: Epoch) -> Vec<Lane> {
        idle.iter().copied().filter(|lane| self.can_take(*lane, epoch)).collect()
    }

    /// The lanes that were fed more than they have published.
    pub fn behind(&self, fed_up_to: Epoch) -> Vec<Lane> {
        Lane::ALL.into_iter().filter(|lane| self.lanes[*lane as usize].published < fed_up_to).collect()
    }

    /// Notes an order that publishes what was fed. It does not change when these lanes are next due.
    pub fn ordered_fed(&mut self, lanes: &[Lane]) {
        lanes.iter().for_each(|lane| self.lanes[*lane as usize].in_flight = true);
    }

    /// Notes an order that publishes these lanes.
    pub fn ordered(&mut self, lanes: &[Lane], now: TimeUs) {
        let pending = self.pending_by_lane();
        for lane in lanes {
            let pace = &mut self.lanes[*lane as usize];
            if let Some(at) = pace.ordered_at {
                self.intervals.ordered(*lane, pending[*lane as usize], now - at);
            }
            (pace.in_flight, pace.ordered_at) = (true, Some(now));
            self.late_due &= *lane != Lane::Late;
        }
    }

    /// Notes that these lanes are at an epoch now.
    pub fn published(&mut self, lanes: &[Lane], epoch: Epoch) {
        for lane in lanes {
            let pace = &mut self.lanes[*lane as usize];
            (pace.in_flight, pace.published) = (false, epoch);
        }
    }

    /// The epoch of the lane that is furthest behind.
    pub fn least(&self) -> Epoch {
        self.lanes.iter().map(|lane| lane.published).min().unwrap_or(0)
    }

    /// The epoch of a lane.
    pub fn epoch(&self, lane: Lane) -> Epoch {
        self.lanes[lane as usize].published
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: TimeUs = 1_000_000;

    fn pace(published: [Epoch; LANES]) -> Pace {
        Pace::new(
            &Settings { pending_bytes_max: 1000, ..Settings::default() },
            Size { workers: 2, processes: 1 },
            published,
            10,
            0,
        )
    }

    #[test]
    fn a_lane_is_ready_when_the_archive_was_fed_down_to_it() {
        let mut pace = pace([9, 7, 7, 3, 3]);
        assert!(!pace.fed(0, 10, 11, 10), "the other worker");
        assert!(!pace.fed(1, 10, 11, 10));
        assert!(pace.due(0, 11, 0).is_empty());
        assert!(!pace.fed(0, 8, 11, 10));
        assert!(pace.fed(1, 9, 11, 10), "the minute lane has to catch up");
        assert_eq!((pace.due(0, 11, 0), pace.due(1, 11, 0)), (vec![Lane::Minute], vec![]));
        assert!(pace.due(0, 10, 0).is_empty(), "before the epoch in which it was fed");
        assert!(!pace.fed(0, 0, 12, 10));
        assert!(pace.fed(1, 7, 12, 10));
        assert_eq!(pace.due(1, 12, 0), [Lane::Hour, Lane::Day]);
        assert!(!pace.is_fed());
        assert!(pace.fed(1, 0, 13, 10) && pace.is_fed());
        assert_eq!(pace.rest(13), Lane::ALL);
        // Lanes that are level with `raw` have nothing to catch up with.
        let mut level = self::pace([10; LANES]);
        assert!(!level.fed(0, 0, 11, 10) && !level.fed(1, 0, 11, 10) && level.is_fed());
    }

    #[test]
    fn lanes_are_due_at_their_own_pace() {
        let mut pace = pace([0; LANES]);
        pace.fed(0, 0, 1, 0);
        pace.fed(1, 0, 1, 0);
        let mut orders = Vec::new();
        for epoch in 1..=181u64 {
            let now = epoch as TimeUs * 10 * SECOND;
            for track in 0..TRACKS {
                let lanes = pace.due(track, epoch, now);
                pace.ordered(&lanes, now);
                pace.published(&lanes, epoch);
                if track == 0 {
                    assert_eq!(lanes, [Lane::Minute]);
                } else if !lanes.is_empty() {
                    orders.push((epoch, lanes));
                }
            }
        }
        let expected: Vec<_> = (0..=6)
            .map(|round| 30 * round + 1)
            .flat_map(|epoch| {
                let slower = (epoch % 90 == 1).then(|| (epoch, vec![Lane::Late, Lane::Coarse]));
                std::iter::once((epoch, vec![Lane::Hour, Lane::Day])).chain(slower)
            })
            .collect();
        assert_eq!(orders, expected);
    }

    #[test]
    fn the_largest_lane_is_due_when_the_budget_is_used_up() {
        let mut pace = pace([4; LANES]);
        pace.fed(0, 0, 5, 4);
        pace.fed(1, 0, 5, 4);
        pace.ordered(&Lane::ALL, 0);
        pace.published(&Lane::ALL, 5);
        pace.pending(0, [0, 100, 0, 300, 0]);
        pace.pending(1, [0, 100, 0, 400, 99]);
        assert!(!pace.is_over() && pace.due(1, 6, SECOND).is_empty());
        pace.pending(1, [0, 100, 0, 400, 100]);
        assert!(pace.is_over() && !pace.pauses());
        assert_eq!(pace.due(2, 6, SECOND), [Lane::Late]);
        assert!(pace.wants_epoch(5) && !pace.wants_epoch(6));
        pace.pending(1, [0, 100, 0, 900, 100]);
        assert!(!pace.pauses(), "nothing is under way that would end the pause");
        pace.ordered(&[Lane::Late], SECOND);
        assert!(pace.pauses() && !pace.wants_epoch(5));
        assert!(pace.idle(&[Lane::Late, Lane::Coarse], 6) == [Lane::Coarse]);
    }

    #[test]
    fn late_records_are_due_when_the_job_was_behind() {
        let mut pace = pace([4; LANES]);
        pace.fed(0, 0, 5, 4);
        pace.fed(1, 0, 5, 4);
        pace.reached_end(0);
        pace.ordered(&Lane::ALL, 0);
        pace.published(&Lane::ALL, 5);
        pace.reached_end(59 * SECOND);
        assert!(pace.due(2, 6, 59 * SECOND).is_empty());
        pace.reached_end(120 * SECOND);
        assert_eq!(pace.due(2, 6, 120 * SECOND), [Lane::Late]);
    }

    #[test]
    fn a_lane_whose_publishes_cost_much_is_due_later_and_leaves_the_minutes_alone() {
        let mut pace = pace([4; LANES]);
        pace.fed(0, 0, 5, 4);
        pace.fed(1, 0, 5, 4);
        pace.ordered(&Lane::ALL, 0);
        pace.published(&Lane::ALL, 5);
        // Two workers may rewrite for 0.3 of their time: 360 s of work take 600 s.
        pace.measured(Lane::Day, Measured { rewrite_us: 360_000_000, took: Duration::from_secs(200) });
        let due = |pace: &Pace, at: TimeUs| [0, 1, 2].map(|track| pace.due(track, 6, at * SECOND));
        assert_eq!(due(&pace, 300), [vec![Lane::Minute], vec![Lane::Hour], vec![]]);
        assert_eq!(due(&pace, 599), [vec![Lane::Minute], vec![Lane::Hour], vec![]]);
        assert_eq!(due(&pace, 600)[1], [Lane::Hour, Lane::Day]);
    }
}
