//! Windows, periods and buckets, a second time: integers only, and nothing of what the job itself computes them with.

use std::ops::Range;

use md5::{Digest, Md5};

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;

/// A granularity that can be recounted.
pub(super) struct Window {
    /// Its name, and that of the lane of its on-time records.
    pub(super) name: &'static str,
    /// Its length in µs.
    pub(super) width_us: i64,
    /// Lengths of the periods' names that its files may have.
    pub(super) period_lengths: &'static [usize],
}

/// All of them; an index in here is a granularity from now on.
pub(super) const WINDOWS: [Window; 3] = [
    Window { name: "minute", width_us: 60 * SECOND_US, period_lengths: &[7, 10, 13, 15] },
    Window { name: "hour", width_us: 3600 * SECOND_US, period_lengths: &[7, 10] },
    Window { name: "day", width_us: DAY_US, period_lengths: &[7] },
];

/// The index of a granularity in [`WINDOWS`].
pub(super) fn window_of(name: &str) -> Option<usize> {
    WINDOWS.iter().position(|window| window.name == name)
}

impl Window {
    /// The start of the window that holds `time_us`.
    pub(super) fn start(&self, time_us: i64) -> i64 {
        time_us.div_euclid(self.width_us) * self.width_us
    }

    /// Whether a record that was ingested then is late for the window that starts at `start_us`.
    pub(super) fn is_late(&self, start_us: i64, ingested_us: i64, grace_us: i64) -> bool {
        ingested_us >= start_us + self.width_us + grace_us
    }
}

/// What a period's name says, in µs: `2026`, `2026-01`, `2026-01-13`, `2026-01-13T04` or `2026-01-13T0405`.
pub(super) fn period(label: &str) -> Option<Range<i64>> {
    let shape: String = label.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    if !["0000", "0000-00", "0000-00-00", "0000-00-00T00", "0000-00-00T0000"].contains(&shape.as_str()) {
        return None;
    }
    let digits: Vec<i64> = label.bytes().filter(u8::is_ascii_digit).map(|digit| i64::from(digit - b'0')).collect();
    let number = |from: usize, len: usize| digits[from..from + len].iter().fold(0, |sum, digit| sum * 10 + digit);
    let part = |from: usize, default: i64| if digits.len() > from { number(from, 2) } else { default };
    let (year, month, day, hour, minute) = (number(0, 4), part(4, 1), part(6, 1), part(8, 0), part(10, 0));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 {
        return None;
    }
    let start = days(year, month, day) * DAY_US + (hour * 60 + minute) * 60 * SECOND_US;
    let end = match digits.len() {
        4 => days(year + 1, 1, 1) * DAY_US,
        6 if month == 12 => days(year + 1, 1, 1) * DAY_US,
        6 => days(year, month + 1, 1) * DAY_US,
        8 => start + DAY_US,
        10 => start + 3600 * SECOND_US,
        _ => start + 60 * SECOND_US,
    };
    Some(start..end)
}

/// Days since 1970-01-01 in the Gregorian calendar: 365 for each year, a day for each leap year, and the months before.
fn days(year: i64, month: i64, day: i64) -> i64 {
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leaps = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let leap_day = i64::from(is_leap && month > 2);
    365 * (year - 1970) + leaps(year - 1) - leaps(1969) + BEFORE[month as usize - 1] + leap_day + day - 1
}

/// The bucket of a customer: its md5's first 8 digits, as a share of all there are.
pub(super) fn bucket(customer: &[u8], buckets: u32) -> u32 {
    let digest = Md5::digest(customer);
    let first = digest[..4].iter().fold(0u64, |sum, &byte| sum * 256 + u64::from(byte));
    (first / ((1 << 32) / u64::from(buckets))) as u32
}

/// A time as people read it.
pub(super) fn shown(time_us: i64) -> String {
    let format = if time_us.rem_euclid(SECOND_US) == 0 { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%.6fZ" };
    match chrono::DateTime::from_timestamp_micros(time_us) {
        Some(time) => time.format(format).to_string(),
        None => format!("{time_us} µs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> i64 {
        text.parse::<chrono::DateTime<chrono::Utc>>().expect("a time").timestamp_micros()
    }

    #[test]
    fn periods_are_what_their_names_say() {
        for (label, start, end) in [
            ("2026", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("2024-02", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"),
            ("2100-02", "2100-02-01T00:00:00Z", "2100-03-01T00:00:00Z"),
            ("2025-12", "2025-12-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("2000-02-29", "2000-02-29T00:00:00Z", "2000-03-01T00:00:00Z"),
            ("2026-01-13T23", "2026-01-13T23:00:00Z", "2026-01-14T00:00:00Z"),
            ("2026-01-13T0459", "2026-01-13T04:59:00Z", "2026-01-13T05:00:00Z"),
        ] {
            assert_eq!(period(label), Some(at(start)..at(end)), "{label}");
        }
        for label in ["", "26", "2026-13", "2026-1", "2026-01-13T24", "2026-01-13 04", "２０２６"] {
            assert_eq!(period(label), None, "{label}");
        }
    }

    proptest! {
        #[test]
        fn days_are_the_calendars(day in -200_000i64..200_000) {
            use chrono::Datelike;
            let date = chrono::DateTime::from_timestamp(day * 86_400, 0).expect("a time").date_naive();
            prop_assert_eq!(days(i64::from(date.year()), i64::from(date.month()), i64::from(date.day())), day);
        }
    }

    #[test]
    fn windows_hold_their_times() {
        let [minute, hour, day] = &WINDOWS;
        let time = at("2026-01-13T04:05:06.5Z");
        assert_eq!(minute.start(time), at("2026-01-13T04:05:00Z"));
        assert_eq!(hour.start(time), at("2026-01-13T04:00:00Z"));
        assert_eq!(day.start(time), at("2026-01-13T00:00:00Z"));
        assert_eq!(day.start(-1), -day.width_us);
        let start = minute.start(time);
        assert!(!minute.is_late(start, at("2026-01-13T04:06:19.999999Z"), 20 * SECOND_US));
        assert!(minute.is_late(start, at("2026-01-13T04:06:20Z"), 20 * SECOND_US));
    }

    #[test]
    fn buckets_are_the_top_bits_of_md5() {
        // md5('') = d41d8cd9…: 1101 0100 …
        assert_eq!([1, 2, 8, 16].map(|buckets| bucket(b"", buckets)), [0, 1, 6, 13]);
    }
}
