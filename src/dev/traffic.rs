//! Seeded traffic of web analytics events, as bytes.
//!
//! In: options and a seed. Out: [`Generated`] records in the order of their Kafka timestamps, with fields as in
//! `schemas/event.schema.json`. Time: the event time of a record is its Kafka timestamp minus a delay, which is some hundred milliseconds
//! for most records, and minutes to hours for late ones. The n-th record depends only on the options and, without a range of times, on the
//! timestamps that are passed in. State: one table by customer; nothing grows.

use thiserror::Error;

use super::event::{Event, EventWriter, FAULTS, RECORD_BYTES_MAX};
use super::random::{Random, Weighted, mix};
use super::schedule::{Schedule, TrafficRange};
use super::text::hex;
use crate::model::Reason;

/// One in this many broken records is too large, if that is wanted at all.
const TOO_LARGE_EVERY: u64 = 50;
const TOO_LARGE_FIRST: u64 = 7;

/// The number of visitors of a customer. A session is half an hour of a visitor.
const VISITORS: u64 = 4000;
const SESSION_MS: i64 = 1_800_000;

/// The delay in milliseconds from which on a record is called late.
const LATE_MS_MIN: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 86_400_000;
const YEAR_2000_MS: i64 = 946_684_800_000;
const YEAR_2100_MS: i64 = 4_102_444_800_000;

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficOptions {
    /// The same seed and options give the same bytes.
    pub seed: u64,
    /// The number of customers, of which `shop-00000` is the busiest; 1 to 10,000,000.
    pub customers: u32,
    /// The exponent of Zipf's law over customers; 0 is uniform.
    pub zipf: f64,
    /// The share of all records that belong to `shop-00000`; without it, the share by Zipf's law.
    pub customer_skew: Option<f64>,
    /// Number of Kafka partitions; a session stays in one.
    pub partitions: i32,
    /// The share of all sessions that go to partition 0; without it, all partitions are equally likely.
    pub partition_skew: Option<f64>,
    /// The range of times; without one, timestamps are passed to [`Traffic::fill_at`].
    pub range: Option<TrafficRange>,
    /// The share of records that are delayed by a minute to four hours, 0 to 1.
    pub late_share: f64,
    /// Whether records are delayed as those of web traffic are: 90 % by seconds, 8 % by up to an hour, 1.8 % by up to a day, 0.2 % by up to
    /// 30 days. `late_share` has no effect then.
    pub web_delays: bool,
    /// The share of broken records, 0 to 1: exact to one record, evenly spread. Kinds of faults take turns.
    pub broken_share: f64,
    /// Whether some of the broken records are larger than 1 MiB.
    pub too_large: bool,
    /// Events are padded up to this many bytes.
    pub event_bytes: usize,
}

impl Default for TrafficOptions {
    /// 100,000 records of 100 customers over the first day of 2026 in 4 partitions, none late or broken.
    fn default() -> Self {
        let from_ms = 1_767_225_600_000;
        TrafficOptions {
            seed: 1,
            customers: 100,
            zipf: 1.0,
            customer_skew: None,
            partitions: 4,
            partition_skew: None,
            range: Some(TrafficRange { from_ms, to_ms: from_ms + DAY_MS, events: 100_000 }),
            late_share: 0.0,
            web_delays: false,
            broken_share: 0.0,
            too_large: false,
            event_bytes: 500,
        }
    }
}

/// An option of [`TrafficOptions`] with an invalid value.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{option}: expected {expected}, found {found}")]
pub struct InvalidTraffic {
    /// Its name.
    pub option: &'static str,
    /// What was expected.
    pub expected: &'static str,
    /// What was found.
    pub found: String,
}

/// One generated Kafka record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generated {
    /// Kafka partition.
    pub partition: i32,
    /// Kafka timestamp, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Kafka key: the session, or none.
    pub key: Option<Vec<u8>>,
    /// Kafka value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// When the event happened, even if the value does not contain it because it is broken.
    pub event_time_ms: i64,
    /// Whether it was delayed by a minute or more.
    pub late: bool,
    /// Why a job will reject it; `None` if it is well-formed.
    pub broken: Option<Reason>,
}

/// The generator.
#[derive(Clone, Debug)]
pub struct Traffic {
    options: TrafficOptions,
    random: Random,
    customers: Weighted,
    partitions: Option<Weighted>,
    writer: EventWriter,
    schedule: Option<Schedule>,
    made: u64,
    broken_made: u64,
    /// The number of the next record that is broken; infinite if there is none.
    broken_next: f64,
}

impl Traffic {
    /// Starts a generator at its first record.
    ///
    /// # Errors
    /// An option that is out of its range.
    pub fn new(options: TrafficOptions) -> Result<Self, InvalidTraffic> {
        options.check()?;
        let mut random = Random::new(options.seed);
        let mut traffic = Traffic {
            customers: Weighted::zipf(options.customers, options.zipf, options.customer_skew),
            partitions: options.partition_skew.map(|skew| Weighted::zipf(options.partitions as u32, 0.0, Some(skew))),
            writer: EventWriter::new(options.event_bytes, &mut random),
            schedule: options.range.map(Schedule::new),
            options,
            random,
            made: 0,
            broken_made: 0,
            broken_next: 0.0,
        };
        traffic.break_next();
        Ok(traffic)
    }

    /// Overwrites `out` with the next record of the range, and reuses its memory. Returns false at the end, or without a range.
    pub fn fill(&mut self, out: &mut Generated) -> bool {
        let jitter = self.random.next();
        let Some(timestamp_ms) = self.schedule.as_mut().and_then(|schedule| schedule.next(jitter)) else {
            return false;
        };
        let from_ms = self.options.range.map_or(i64::MIN, |range| range.from_ms);
        self.make(timestamp_ms, from_ms, out);
        true
    }

    /// Overwrites `out` with a record whose Kafka timestamp is `timestamp_ms`, whatever the range.
    pub fn fill_at(&mut self, timestamp_ms: i64, out: &mut Generated) {
        self.make(timestamp_ms, i64::MIN, out);
    }

    fn make(&mut self, timestamp_ms: i64, event_time_ms_min: i64, out: &mut Generated) {
        let delay_ms = self.delay_ms();
        let event_time_ms = (timestamp_ms - delay_ms).max(event_time_ms_min);
        let customer = self.customers.draw(self.random.next()) as u64;
        let event = visit(customer, self.options.seed, event_time_ms, timestamp_ms, &mut self.random);
        let fault = self.fault();

        out.timestamp_ms = timestamp_ms;
        out.event_time_ms = event_time_ms;
        out.late = timestamp_ms - event_time_ms >= LATE_MS_MIN;
        let session = mix(event.session);
        out.partition = match &self.partitions {
            None => (session % self.options.partitions as u64) as i32,
            Some(partitions) => partitions.draw(session) as i32,
        };
        out.broken = fault.map(|(reason, _)| reason);
        if self.random.below(64) == 0 {
            out.key = None;
        } else {
            let key = out.key.get_or_insert_default();
            key.clear();
            key.extend_from_slice(&hex(event.session));
        }
        let value = out.value.get_or_insert_default();
        value.clear();
        match fault {
            None => self.writer.write(&event, &mut self.random, value),
            Some((Reason::Empty, 0)) => out.value = None,
            Some((Reason::Empty, _)) => {}
            Some((reason, variant)) => self.writer.write_broken(&event, reason, variant, &mut self.random, value),
        }
        self.made += 1;
    }

    /// Some 20 to 220 ms, sometimes seconds. For late records, a minute to four hours, where every doubling is equally likely.
    fn delay_ms(&mut self) -> i64 {
        let bits = self.random.next();
        if self.options.web_delays
            && let Some(delay_ms) = self.web_delay_ms()
        {
            return delay_ms;
        }
        if !self.options.web_delays && self.random.chance(self.options.late_share) {
            let octave = LATE_MS_MIN << (bits & 7);
            octave + self.random.below(octave as u64) as i64
        } else if bits & 15 == 0 {
            220 + self.random.below(3000) as i64
        } else {
            20 + self.random.below(200) as i64
        }
    }

    /// The delay of one in ten records of web traffic: from seconds to an hour, a day or 30 days, where every doubling is equally likely.
    fn web_delay_ms(&mut self) -> Option<i64> {
        let (from, to) = match self.random.below(1000) {
            0..2 => (DAY_MS, 30 * DAY_MS),
            2..20 => (HOUR_MS, DAY_MS),
            20..100 => (10_000, HOUR_MS),
            _ => return None,
        };
        Some((from as f64 * (to as f64 / from as f64).powf(self.random.fraction())) as i64)
    }

    /// The fault and its variant, if this record is to be broken.
    fn fault(&mut self) -> Option<(Reason, u64)> {
        if (self.made as f64) < self.broken_next {
            return None;
        }
        let number = self.broken_made;
        self.broken_made += 1;
        self.break_next();
        let mut turn = number;
        if self.options.too_large {
            if number % TOO_LARGE_EVERY == TOO_LARGE_FIRST {
                return Some((Reason::TooLarge, 0));
            }
            // The other faults take turns as if this record did not exist.
            turn -= (number + TOO_LARGE_EVERY - TOO_LARGE_FIRST - 1) / TOO_LARGE_EVERY;
        }
        let kinds = FAULTS.len() as u64;
        let (reason, variants) = FAULTS[(turn % kinds) as usize];
        Some((reason, turn / kinds % variants))
    }

    /// Chooses the next broken record: one at a random place among each 1 / `broken_share` records.
    fn break_next(&mut self) {
        self.broken_next = if self.options.broken_share > 0.0 {
            ((self.broken_made as f64 + self.random.fraction()) / self.options.broken_share).floor()
        } else {
            f64::INFINITY
        };
    }
}

/// A customer's name.
pub(super) fn customer_id(customer: u64) -> String {
    format!("shop-{customer:05}")
}

/// The content of a record of a customer: the session of a random visitor at that time.
pub(super) fn visit(customer: u64, seed: u64, event_time_ms: i64, timestamp_ms: i64, random: &mut Random) -> Event {
    let visitor = mix(customer << 20 ^ random.below(VISITORS) ^ seed << 52);
    let session = mix(visitor ^ event_time_ms.div_euclid(SESSION_MS) as u64);
    Event { customer, visitor, session, event_time_ms, timestamp_ms }
}

impl Iterator for Traffic {
    type Item = Generated;

    fn next(&mut self) -> Option<Generated> {
        let mut out = Generated::default();
        self.fill(&mut out).then_some(out)
    }
}

impl TrafficOptions {
    fn check(&self) -> Result<(), InvalidTraffic> {
        let require = |right: bool, option, expected, found: &dyn ToString| {
            if right { Ok(()) } else { Err(InvalidTraffic { option, expected, found: found.to_string() }) }
        };
        let share = |share: f64| (0.0..=1.0).contains(&share);
        require((1..=10_000_000).contains(&self.customers), "customers", "1 to 10,000,000", &self.customers)?;
        require((0.0..=10.0).contains(&self.zipf), "zipf", "an exponent of 0 to 10", &self.zipf)?;
        for (option, skew) in [("customer skew", self.customer_skew), ("partition skew", self.partition_skew)] {
            if let Some(skew) = skew {
                require(skew > 0.0 && skew < 1.0, option, "more than 0, less than 1", &skew)?;
            }
        }
        require((1..=100_000).contains(&self.partitions), "partitions", "1 to 100,000", &self.partitions)?;
        require(share(self.late_share), "late share", "0 to 1", &self.late_share)?;
        require(share(self.broken_share), "broken share", "0 to 1", &self.broken_share)?;
        require(self.event_bytes <= RECORD_BYTES_MAX, "event bytes", "at most 1 MiB", &self.event_bytes)?;
        if let Some(TrafficRange { from_ms, to_ms, .. }) = self.range {
            let years = YEAR_2000_MS..=YEAR_2100_MS;
            let right = years.contains(&from_ms) && years.contains(&to_ms) && from_ms < to_ms;
            let found = format!("{from_ms} ms to {to_ms} ms");
            require(right, "range", "a start before its end, both in the years 2000 to 2099", &found)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
