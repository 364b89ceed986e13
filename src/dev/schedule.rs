//! When generated records reach Kafka: in order, spread over a range of time by a daily rhythm.
//!
//! In: a range and a number of records. Out: a timestamp for each. State: a position in the range. Pure.

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// A range of time, and how many records are spread over it by a daily rhythm in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrafficRange {
    /// The first millisecond, since 1970.
    pub from_ms: i64,
    /// The end (exclusive).
    pub to_ms: i64,
    /// Number of records.
    pub events: u64,
}

/// How busy each hour (UTC) is.
const RHYTHM: [u64; 24] =
    [55, 45, 38, 34, 33, 38, 50, 68, 85, 97, 104, 108, 112, 113, 112, 113, 117, 124, 133, 140, 138, 122, 98, 74];

/// Spreads records over a range by the daily rhythm, in order.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    events: u64,
    made: u64,
    /// The weight of the whole range: rhythm times milliseconds.
    total: u128,
    /// The start of the current slot (a minute or less), the weight before it, and the end of the range.
    slot_ms: i64,
    before: u128,
    to_ms: i64,
}

impl Schedule {
    pub(super) fn new(range: TrafficRange) -> Self {
        let mut schedule =
            Schedule { events: range.events, made: 0, total: 0, slot_ms: range.from_ms, before: 0, to_ms: range.to_ms };
        while schedule.slot_ms < schedule.to_ms {
            schedule.step();
        }
        Schedule { total: schedule.before, slot_ms: range.from_ms, before: 0, ..schedule }
    }

    /// The rhythm at a time, interpolated linearly from hour to hour in steps of a minute; times 60.
    pub(super) fn rhythm(time_ms: i64) -> u128 {
        let minute = time_ms.rem_euclid(DAY_MS) / MINUTE_MS;
        let (hour, minute) = ((minute / 60) as usize, (minute % 60) as u64);
        u128::from(RHYTHM[hour] * (60 - minute) + RHYTHM[(hour + 1) % 24] * minute)
    }

    fn slot_end_ms(&self) -> i64 {
        ((self.slot_ms.div_euclid(MINUTE_MS) + 1) * MINUTE_MS).min(self.to_ms)
    }

    fn step(&mut self) {
        let end = self.slot_end_ms();
        self.before += (end - self.slot_ms) as u128 * Schedule::rhythm(self.slot_ms);
        self.slot_ms = end;
    }

    /// The time of the next record. The n-th of N records is between the points that have n/N and (n+1)/N of the weight before them.
    pub(super) fn next(&mut self, jitter: u64) -> Option<i64> {
        if self.made == self.events {
            return None;
        }
        // 2²⁰ steps within a record's share of the weight.
        let place = u128::from(self.made) << 20 | u128::from(jitter >> 44);
        let target = self.total * place / (u128::from(self.events) << 20);
        self.made += 1;
        loop {
            let rhythm = Schedule::rhythm(self.slot_ms);
            let time_ms = self.slot_ms + ((target - self.before) / rhythm) as i64;
            if time_ms < self.slot_end_ms() {
                return Some(time_ms);
            }
            self.step();
        }
    }
}
