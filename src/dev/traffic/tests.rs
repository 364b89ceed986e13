//! The traffic is the same for the same seed, and is as broken, late and skewed as requested.

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
    // Reusing memory does not change the records.
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
    // 1 / H(100) = 0.1928 for the first customer, and a tenth of that for the tenth.
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
    // At the beginning, a delay can not reach before the start of the range, so a few records are less late than drawn.
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
        message(|options| options.range = Some(TrafficRange { from_ms: 5, to_ms: 4, events: 1 })).starts_with("range")
    );
}
