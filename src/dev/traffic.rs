//! Seeded traffic of web-analytics events, as bytes.
//!
//! In: options and a seed. Out: [`Generated`] records in the order of their Kafka timestamps; fields as in
//! `schemas/event.schema.json`. A record's event time is its Kafka timestamp minus a delay: some hundred milliseconds for most,
//! minutes to hours for the late ones. The n-th record depends on nothing but the options (and, without a range of times, on
//! the clock that is handed in); no state grows but one table by customer.

use thiserror::Error;

use super::event::{Event, EventWriter, FAULTS, RECORD_BYTES_MAX};
use super::random::{Random, Weighted, mix};
use super::schedule::{Schedule, TrafficRange};
use super::text::hex;
use crate::model::Reason;

/// Of the broken records, one in so many is too large, if wanted at all.
const TOO_LARGE_EVERY: u64 = 50;
const TOO_LARGE_FIRST: u64 = 7;

/// Visitors by customer; a session is a visitor's half hour.
const VISITORS: u64 = 4000;
const SESSION_MS: i64 = 1_800_000;

/// A record delayed by at least this is called late, in milliseconds.
const LATE_MS_MIN: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;
const YEAR_2000_MS: i64 = 946_684_800_000;
const YEAR_2100_MS: i64 = 4_102_444_800_000;

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficOptions {
    /// The same seed and options give the same bytes.
    pub seed: u64,
    /// Number of customers, `shop-00000` the busiest; 1 to 10,000,000.
    pub customers: u32,
    /// Exponent of Zipf's law over customers; 0 is uniform.
    pub zipf: f64,
    /// Share of all records that are of `shop-00000`; else what Zipf's law gives it.
    pub customer_skew: Option<f64>,
    /// Number of Kafka partitions; a session stays in one.
    pub partitions: i32,
    /// Share of all sessions that go to partition 0; else all partitions are alike.
    pub partition_skew: Option<f64>,
    /// When; without a range the clock is handed to [`Traffic::fill_at`].
    pub range: Option<TrafficRange>,
    /// Share of records delayed by a minute up to four hours, 0 to 1.
    pub late_share: f64,
    /// Share of broken records, 0 to 1: that many to the record, evenly spread; kinds take turns.
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
            broken_share: 0.0,
            too_large: false,
            event_bytes: 500,
        }
    }
}

/// An option of [`TrafficOptions`] that can not be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{option}: expected {expected}, found {found}")]
pub struct InvalidTraffic {
    /// Its name.
    pub option: &'static str,
    /// What would be right.
    pub expected: &'static str,
    /// What was there.
    pub found: String,
}

/// One generated Kafka record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generated {
    /// Kafka partition.
    pub partition: i32,
    /// Kafka timestamp, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Kafka key: the session, or nothing.
    pub key: Option<Vec<u8>>,
    /// Kafka value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// When the event happened, also where the value does not say so because it is broken.
    pub event_time_ms: i64,
    /// Whether it was delayed by a minute or more.
    pub late: bool,
    /// Why a job will reject it; `None` where it is well-formed.
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
    /// The record that is broken next; infinite for none.
    broken_next: f64,
}

impl Traffic {
    /// A generator at its first record.
    ///
    /// # Errors
    /// An option out of its range.
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

    /// Overwrites `out` with the next record of the range, reusing its memory; false at the end, or without a range.
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

    /// Some 20 to 220 ms, now and then seconds; for late ones a minute to four hours, every doubling as likely as the next.
    fn delay_ms(&mut self) -> i64 {
        let bits = self.random.next();
        if self.random.chance(self.options.late_share) {
            let octave = LATE_MS_MIN << (bits & 7);
            octave + self.random.below(octave as u64) as i64
        } else if bits & 15 == 0 {
            220 + self.random.below(3000) as i64
        } else {
            20 + self.random.below(200) as i64
        }
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
            // The others take turns as if it were not there.
            turn -= (number + TOO_LARGE_EVERY - TOO_LARGE_FIRST - 1) / TOO_LARGE_EVERY;
        }
        let kinds = FAULTS.len() as u64;
        let (reason, variants) = FAULTS[(turn % kinds) as usize];
        Some((reason, turn / kinds % variants))
    }

    /// Of each 1 / `broken_share` records one is broken, at a random place among them.
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

/// What a record of a customer is about: some visitor's session at that time.
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
mod tests {
    use super::*;
    use chrono::{DateTime, Timelike};
    use serde_json::Value;
    use std::collections::{BTreeMap, BTreeSet};

    fn traffic(change: impl FnOnce(&mut TrafficOptions)) -> Traffic {
        let mut options = TrafficOptions::default();
        change(&mut options);
        Traffic::new(options).expect("valid options")
    }

    fn with_events(events: u64) -> impl Fn(&mut TrafficOptions) {
        move |options| options.range = options.range.map(|range| TrafficRange { events, ..range })
    }

    fn json(record: &Generated) -> Value {
        serde_json::from_slice(record.value.as_deref().expect("a value")).expect("JSON")
    }

    fn event_time_ms(event: &Value) -> i64 {
        match &event["dateTimeUtc"] {
            Value::String(text) => DateTime::parse_from_rfc3339(text).expect("RFC 3339").timestamp_millis(),
            number => number.as_i64().expect("an integer"),
        }
    }

    #[test]
    fn the_same_options_give_the_same_bytes() {
        let mixed = |options: &mut TrafficOptions| {
            with_events(20_000)(options);
            (options.late_share, options.broken_share) = (0.1, 0.1);
        };
        let first: Vec<Generated> = traffic(mixed).collect();
        assert_eq!(first.len(), 20_000);
        assert!(traffic(mixed).eq(first.iter().cloned()));
        // Reusing memory changes nothing.
        let (mut reused, mut record) = (traffic(mixed), Generated::default());
        for expected in &first {
            assert!(reused.fill(&mut record));
            assert_eq!(&record, expected);
        }
        assert!(!reused.fill(&mut record));
        let other: Vec<Generated> = traffic(|options| {
            mixed(options);
            options.seed = 2;
        })
        .collect();
        assert_ne!(first, other);
    }

    #[test]
    fn the_bytes_of_a_seed_never_change() {
        let mut digest = 0u64;
        for record in traffic(with_events(1000)) {
            for byte in record.value.expect("a value") {
                digest = mix(digest ^ u64::from(byte));
            }
            digest = mix(digest ^ record.timestamp_ms as u64 ^ record.partition as u64);
        }
        assert_eq!(
            digest, 2_824_854_848_673_712_169,
            "a changed generator makes old seeds mean other bytes: say so in the commit"
        );
    }

    #[test]
    fn well_formed_events_have_every_field_and_about_500_bytes() {
        let range = TrafficOptions::default().range.expect("a range");
        let mut fields = BTreeSet::new();
        let (mut bytes, mut integers, mut countries) = (0, 0, BTreeMap::<String, u32>::new());
        let mut before_ms = range.from_ms;
        for record in traffic(with_events(20_000)) {
            let event = json(&record);
            assert_eq!(event_time_ms(&event), record.event_time_ms);
            assert!((before_ms..range.to_ms).contains(&record.timestamp_ms));
            assert!((range.from_ms..=record.timestamp_ms).contains(&record.event_time_ms));
            assert!((0..4).contains(&record.partition));
            if let Some(key) = &record.key {
                assert_eq!(event["sessionId"].as_str().map(str::as_bytes), Some(&key[..]));
            }
            before_ms = record.timestamp_ms;
            let objects = [&event, &event["userInfo"]];
            fields.extend(objects.iter().flat_map(|object| object.as_object().expect("object").keys().cloned()));
            integers += u32::from(event["dateTimeUtc"].is_i64());
            let country = event["userInfo"]["country"].as_str().unwrap_or("").to_owned();
            *countries.entry(country).or_default() += 1;
            bytes += record.value.expect("a value").len();
        }
        let expected = "action actionParameters analyticsCustomerId browser country dateTimeLocal dateTimeUtc deviceType \
                        eventId locale os referrer schemaVersion sentAt sessionId timeZone url userAgent userInfo visitorId";
        assert_eq!(fields.into_iter().collect::<Vec<_>>().join(" "), expected);
        assert!((490..540).contains(&(bytes / 20_000)), "{} bytes", bytes / 20_000);
        assert!((400..900).contains(&integers), "{integers}");
        assert!(countries.len() > 35 && countries["US"] > 4000 && countries[""] > 500, "{countries:?}");
    }

    #[test]
    fn padding_reaches_the_size_asked_for() {
        for bytes in [700, 1000, 100_000] {
            for record in traffic(|options| {
                with_events(100)(options);
                options.event_bytes = bytes;
            }) {
                let found = record.value.expect("a value").len();
                assert!((bytes.saturating_sub(1)..=bytes).contains(&found) || bytes == 700 && found < 760, "{found}");
            }
        }
    }

    #[test]
    fn customers_follow_zipf() {
        let mut customers = BTreeMap::<String, u32>::new();
        for record in traffic(|_| {}) {
            *customers.entry(json(&record)["analyticsCustomerId"].as_str().expect("text").to_owned()).or_default() += 1;
        }
        assert_eq!(customers.len(), 100);
        // 1 / H(100) = 0.1928 for the first, a tenth of it for the tenth.
        assert!(customers["shop-00000"].abs_diff(19_280) < 600, "{customers:?}");
        assert!(customers["shop-00009"].abs_diff(1_928) < 250, "{customers:?}");
    }

    #[test]
    fn one_customer_or_one_partition_can_have_most() {
        let (mut first, mut partitions) = (0u32, [0u32; 4]);
        for record in traffic(|options| {
            (options.customer_skew, options.partition_skew) = (Some(0.6), Some(0.8));
        }) {
            first += u32::from(json(&record)["analyticsCustomerId"] == "shop-00000");
            partitions[record.partition as usize] += 1;
        }
        assert!(first.abs_diff(60_000) < 600, "{first}");
        assert!(partitions[0].abs_diff(80_000) < 800, "{partitions:?}");
        assert!(partitions[1..].iter().all(|records| records.abs_diff(6_667) < 400), "{partitions:?}");
    }

    #[test]
    fn days_have_a_rhythm() {
        let mut hours = [0u32; 24];
        for record in traffic(with_events(24_000)) {
            hours[DateTime::from_timestamp_millis(record.timestamp_ms).expect("a time").hour() as usize] += 1;
        }
        assert!(hours[19] > 3 * hours[3], "{hours:?}");
        assert_eq!(hours.iter().sum::<u32>(), 24_000);
    }

    #[test]
    fn shares_are_kept_and_every_fault_appears() {
        let mut late = 0;
        let mut faults = BTreeMap::<Reason, u32>::new();
        for record in traffic(|options| {
            (options.late_share, options.broken_share, options.too_large) = (0.05, 0.02, true);
        }) {
            late += u32::from(record.late);
            assert_eq!(record.late, record.timestamp_ms - record.event_time_ms >= 60_000);
            let Some(reason) = record.broken else {
                assert_eq!(event_time_ms(&json(&record)), record.event_time_ms);
                continue;
            };
            *faults.entry(reason).or_default() += 1;
            let value = record.value.as_deref().unwrap_or_default();
            let parsed = serde_json::from_slice::<serde_json::Map<String, Value>>(value);
            match reason {
                Reason::Empty => assert!(value.is_empty()),
                Reason::TooLarge => assert!(value.len() > 1 << 20 && parsed.is_ok()),
                Reason::BadJson => assert!(parsed.is_err()),
                _ => assert!(parsed.is_ok(), "{reason:?}"),
            }
        }
        // Early on a delay can not reach before the range's start, so a few are less late than drawn.
        assert!((4_300..5_200).contains(&late), "{late}");
        assert_eq!(faults.values().sum::<u32>(), 2_000);
        assert_eq!(faults[&Reason::TooLarge], 40);
        assert_eq!(faults.len(), FAULTS.len() + 1);
        assert!(faults.values().all(|&count| count >= 40), "{faults:?}");
    }

    #[test]
    fn all_broken_cycles_through_variants() {
        let values: Vec<Generated> = traffic(|options| {
            with_events(70)(options);
            options.broken_share = 1.0;
        })
        .collect();
        assert!(values.iter().all(|record| record.broken.is_some()));
        assert!(values.iter().any(|record| record.value.is_none()));
        assert!(values.iter().any(|record| record.value.as_deref() == Some(&[])));
    }

    #[test]
    fn the_clock_can_be_handed_in() {
        let mut live = traffic(|options| options.range = None);
        let mut record = Generated::default();
        assert!(!live.fill(&mut record));
        live.fill_at(1_800_000_000_000, &mut record);
        assert_eq!(record.timestamp_ms, 1_800_000_000_000);
        assert!((20..4000).contains(&(record.timestamp_ms - record.event_time_ms)));
    }

    #[test]
    fn options_out_of_range_are_named() {
        let message = |change: fn(&mut TrafficOptions)| {
            let mut options = TrafficOptions::default();
            change(&mut options);
            Traffic::new(options).expect_err("invalid").to_string()
        };
        assert_eq!(message(|options| options.late_share = 1.5), "late share: expected 0 to 1, found 1.5");
        assert_eq!(message(|options| options.customers = 0), "customers: expected 1 to 10,000,000, found 0");
        assert!(message(|options| options.zipf = f64::NAN).contains("found NaN"));
        assert!(message(|options| options.customer_skew = Some(1.0)).contains("less than 1, found 1"));
        assert!(
            message(|options| options.range = Some(TrafficRange { from_ms: 5, to_ms: 4, events: 1 }))
                .starts_with("range")
        );
    }
}
