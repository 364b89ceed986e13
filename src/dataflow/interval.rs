//! `interval`: decides how long each lane waits between two publishes.
//!
//! In: the settings; for each lane what its publishes cost, how long the last one took, and how fast its pending updates grow.
//! Out: an [`Interval`] for each [`Lane`], and what sets it. By default a lane is published every `publish_seconds`. Where rewriting
//! would then take more than `rewrite_share_max` of the workers' time, the lanes that cost most wait longer, each until it costs no
//! more than the others that wait. First an hour bounds that: interval and last publish together are no longer. Then half of
//! `pending_bytes_max` does: what the lanes would hold by then fits into it. The minute lane never waits longer than it is set to.
//! State: a few numbers per lane. Restart: begins with the settings. Pure.

use std::time::Duration;

use crate::job::{INTERVAL_SECONDS_MAX, Settings};
use crate::model::{Lane, TimeUs};

const LANES: usize = Lane::ALL.len();
const SECOND: f64 = 1e6;
const LONGEST_US: f64 = INTERVAL_SECONDS_MAX as f64 * SECOND;

/// How much of the budget intervals may plan for. The rest is for bursts, and for what comes while a publish is under way.
const BUDGET_SHARE: f64 = 0.5;

/// The time between two publishes of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The time, in µs.
    pub us: TimeUs,
    /// What sets it.
    pub set_by: SetBy,
}

/// What sets the interval of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetBy {
    /// `publish_seconds` of the job file.
    Setting,
    /// `rewrite_share_max`: publishing more often would rewrite too much.
    Cost,
    /// The longest interval: an hour, with the time that a publish takes.
    Hour,
    /// Half of `pending_bytes_max`: waiting longer would fill it.
    Budget,
}

impl SetBy {
    /// The name in logs, metrics and `status`.
    pub fn name(self) -> &'static str {
        match self {
            SetBy::Setting => "setting",
            SetBy::Cost => "cost",
            SetBy::Hour => "hour",
            SetBy::Budget => "budget",
        }
    }
}

/// What was measured of a publish of a lane.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// Time that threads spent on writing rows again that no update touched, in µs.
    pub rewrite_us: u64,
    /// From the order to the commit.
    pub took: Duration,
}

/// What is known of a lane; zeros as long as nothing was measured.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    rewrite_us: f64,
    took_us: f64,
    pending_bytes_per_us: f64,
}

/// The intervals of all lanes, and what they are computed from.
#[derive(Debug)]
pub struct Intervals {
    set_us: [TimeUs; LANES],
    /// Threads that may be busy with rewriting: the share of the workers that is set.
    threads: f64,
    planned_bytes: f64,
    known: [Known; LANES],
    now: [Interval; LANES],
}

impl Intervals {
    /// As they are set. `workers`: of all processes; `budget_bytes`: what all processes may hold.
    pub fn new(settings: &Settings, workers: usize, budget_bytes: u64) -> Intervals {
        let set_us = settings.publish_seconds.map(|seconds| seconds as TimeUs * SECOND as TimeUs);
        Intervals {
            set_us,
            threads: settings.rewrite_share_max * workers as f64,
            planned_bytes: budget_bytes as f64 * BUDGET_SHARE,
            known: [Known::default(); LANES],
            now: set_us.map(|us| Interval { us, set_by: SetBy::Setting }),
        }
    }

    /// The interval of a lane.
    pub fn of(&self, lane: Lane) -> Interval {
        self.now[lane as usize]
    }

    /// Notes that a lane is ordered with this many bytes pending, which came within `elapsed_us`.
    pub fn ordered(&mut self, lane: Lane, pending_bytes: u64, elapsed_us: TimeUs) {
        let known = &mut self.known[lane as usize];
        if elapsed_us > 0 {
            known.pending_bytes_per_us = smoothed(known.pending_bytes_per_us, pending_bytes as f64 / elapsed_us as f64);
        }
    }

    /// Notes what a publish of a lane was measured to cost, and computes all intervals anew.
    pub fn published(&mut self, lane: Lane, measured: Measured) {
        let known = &mut self.known[lane as usize];
        known.rewrite_us = smoothed(known.rewrite_us, measured.rewrite_us as f64);
        known.took_us = measured.took.as_micros() as f64;
        self.compute();
    }

    fn compute(&mut self) {
        let set = self.set_us.map(|us| us as f64);
        let slow = Lane::ALL.map(|lane| lane != Lane::Minute);
        // A lane that is set to every epoch costs what it costs once a second: epochs are not shorter.
        let busy_as_set: [f64; LANES] = std::array::from_fn(|lane| self.known[lane].rewrite_us / set[lane].max(SECOND));
        let each = level(
            &std::array::from_fn::<_, LANES, _>(|lane| if slow[lane] { busy_as_set[lane] } else { 0.0 }),
            self.threads,
        );
        let mut now = self.set_us.map(|us| (us as f64, SetBy::Setting));
        for lane in (0..LANES).filter(|lane| slow[*lane]) {
            let known = &self.known[lane];
            if busy_as_set[lane] > each {
                now[lane] = (known.rewrite_us / each, SetBy::Cost);
            }
            let longest = (LONGEST_US - known.took_us).max(0.0);
            if now[lane].0 > longest {
                now[lane] = (longest, SetBy::Hour);
            }
        }
        self.fit_budget(&set, &mut now);
        self.now = now.map(|(us, set_by)| Interval { us: us as TimeUs, set_by });
    }

    /// Shortens what was lengthened, all by the same share, until what is pending fits. A setting is not shortened for this: a full
    /// budget publishes the largest lane out of turn.
    fn fit_budget(&self, set: &[f64; LANES], now: &mut [(f64, SetBy); LANES]) {
        let bytes = |lane: usize, us: f64| self.known[lane].pending_bytes_per_us * us;
        let as_set: f64 = (0..LANES).map(|lane| bytes(lane, set[lane].min(now[lane].0))).sum();
        let more: f64 = (0..LANES).map(|lane| bytes(lane, (now[lane].0 - set[lane]).max(0.0))).sum();
        if more <= 0.0 || as_set + more <= self.planned_bytes {
            return;
        }
        let share = ((self.planned_bytes - as_set) / more).max(0.0);
        for lane in 0..LANES {
            let longer = now[lane].0 - set[lane];
            if longer > 0.0 && bytes(lane, longer) > 0.0 {
                now[lane] = (set[lane] + share * longer, SetBy::Budget);
            }
        }
    }
}

/// The mean of the last value and all before it, where each counts half as much as the next; the first value counts alone.
fn smoothed(before: f64, last: f64) -> f64 {
    if before == 0.0 { last } else { (before + last) / 2.0 }
}

/// The greatest height at which `parts`, each cut at it, sum up to no more than `sum_max`.
fn level(parts: &[f64], sum_max: f64) -> f64 {
    let mut ascending = parts.to_vec();
    ascending.sort_by(f64::total_cmp);
    let mut left = sum_max;
    for (index, part) in ascending.iter().enumerate() {
        let each = left / (ascending.len() - index) as f64;
        if *part > each {
            return each;
        }
        left -= part;
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two workers that may rewrite for 0.3 of their time, and a budget of 1,000 bytes.
    fn intervals() -> Intervals {
        Intervals::new(&Settings { rewrite_share_max: 0.3, ..Settings::default() }, 2, 1000)
    }

    fn seconds(intervals: &Intervals) -> [(i64, SetBy); LANES] {
        Lane::ALL.map(|lane| (intervals.of(lane).us / 1_000_000, intervals.of(lane).set_by))
    }

    fn publish(intervals: &mut Intervals, lane: Lane, rewrite_seconds: u64, took_seconds: u64) {
        let took = Duration::from_secs(took_seconds);
        intervals.published(lane, Measured { rewrite_us: rewrite_seconds * 1_000_000, took });
    }

    const AS_SET: [(i64, SetBy); LANES] = [
        (0, SetBy::Setting),
        (300, SetBy::Setting),
        (300, SetBy::Setting),
        (900, SetBy::Setting),
        (900, SetBy::Setting),
    ];

    #[test]
    fn what_costs_little_is_published_as_set() {
        let mut intervals = intervals();
        assert_eq!(seconds(&intervals), AS_SET);
        // 0.3 and 0.2 of a thread, and 0.6 may be busy.
        publish(&mut intervals, Lane::Day, 90, 50);
        publish(&mut intervals, Lane::Coarse, 180, 200);
        publish(&mut intervals, Lane::Minute, 1000, 1);
        assert_eq!(seconds(&intervals), AS_SET);
    }

    #[test]
    fn only_the_lanes_that_cost_most_wait_longer_and_together_cost_the_share() {
        let mut intervals = intervals();
        publish(&mut intervals, Lane::Hour, 30, 1);
        publish(&mut intervals, Lane::Day, 150, 1);
        publish(&mut intervals, Lane::Coarse, 900, 1);
        // As set they would keep 0.1, 0.5 and 1.0 threads busy. The hour lane keeps its 0.1; 0.25 is left for each of the others.
        let [minute, hour, day, late, coarse] = seconds(&intervals);
        assert_eq!((minute, hour, late), (AS_SET[0], AS_SET[1], AS_SET[3]));
        assert_eq!((day, coarse), ((600, SetBy::Cost), (3599, SetBy::Hour)));
        publish(&mut intervals, Lane::Coarse, 300, 1);
        assert_eq!(seconds(&intervals)[4], (2400, SetBy::Cost), "half of each counts");
    }

    #[test]
    fn a_lane_that_is_set_to_every_epoch_waits_if_that_costs_too_much() {
        let settings = Settings { rewrite_share_max: 0.5, publish_seconds: [0; LANES], ..Settings::default() };
        let mut intervals = Intervals::new(&settings, 1, 1000);
        publish(&mut intervals, Lane::Hour, 2, 1);
        publish(&mut intervals, Lane::Minute, 2, 1);
        assert_eq!((seconds(&intervals)[0], seconds(&intervals)[1]), ((0, SetBy::Setting), (4, SetBy::Cost)));
    }

    #[test]
    fn interval_and_publish_add_up_to_an_hour_at_most() {
        let settings = Settings { publish_seconds: [0, 300, 300, 900, 3600], ..Settings::default() };
        let mut intervals = Intervals::new(&settings, 2, u64::MAX);
        publish(&mut intervals, Lane::Coarse, 0, 600);
        assert_eq!(seconds(&intervals)[4], (3000, SetBy::Hour));
        publish(&mut intervals, Lane::Coarse, 0, 7200);
        assert_eq!(seconds(&intervals)[4], (0, SetBy::Hour));
    }

    #[test]
    fn no_interval_plans_for_more_than_half_of_the_budget() {
        let mut intervals = intervals();
        // A byte in three seconds: 300 in its interval as set, 1,200 in the hour that its cost asks for.
        intervals.ordered(Lane::Coarse, 300, 900_000_000);
        publish(&mut intervals, Lane::Coarse, 100_000, 0);
        assert_eq!(seconds(&intervals)[4], (1500, SetBy::Budget), "500 bytes");
        // What the lanes hold as they are set is not cut.
        intervals.ordered(Lane::Day, 600, 300_000_000);
        publish(&mut intervals, Lane::Day, 1, 0);
        assert_eq!(seconds(&intervals)[4], (900, SetBy::Budget));
        assert_eq!(seconds(&intervals)[2], AS_SET[2]);
    }

    #[test]
    fn parts_are_cut_at_one_level() {
        assert_eq!(level(&[1.0, 2.0, 3.0], 6.0), f64::INFINITY);
        assert_eq!(level(&[1.0, 2.0, 9.0], 6.0), 3.0);
        assert_eq!(level(&[4.0, 1.0, 9.0], 6.0), 2.5);
        assert_eq!(level(&[5.0, 5.0], 0.0), 0.0);
    }
}
