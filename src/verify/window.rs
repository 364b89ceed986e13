//! Windows, periods and buckets, computed a second time.
//!
//! In: times in µs since 1970, and customers. Out: the windows that hold a time, the lanes of a record, the span of a period, and a bucket.
//! Nothing is shared with the job, not even the calendar crate, so that a fault in one of the two shows as a difference. Integers only;
//! pure.

use std::ops::Range;

use md5::{Digest, Md5};

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;

/// The lanes of `counts`. In this module's callers, a lane is an index into this list.
pub(super) const LANES: [&str; 5] = ["minute", "hour", "day", "late", "coarse"];

/// The lane of late records.
const LATE: usize = 3;

/// A granularity.
pub(super) struct Window {
    /// Its name.
    pub(super) name: &'static str,
    length: Length,
    /// The lane of its records, except late ones.
    lane: usize,
    /// The lengths of the names of the periods that its files may have. Those of days, weeks and months may be long ones, which
    /// older tables have.
    pub(super) period_lengths: &'static [usize],
}

/// The length of a window.
enum Length {
    Us(i64),
    /// A week from Monday.
    Week,
    Month,
    Year,
}

/// All granularities. In this module's callers, a granularity is an index into this list.
pub(super) const WINDOWS: [Window; 6] = [
    Window { name: "minute", length: Length::Us(60 * SECOND_US), lane: 0, period_lengths: &[7, 10, 13, 15] },
    Window { name: "hour", length: Length::Us(3600 * SECOND_US), lane: 1, period_lengths: &[7, 10, 13] },
    Window { name: "day", length: Length::Us(DAY_US), lane: 2, period_lengths: &[7, 10] },
    Window { name: "week", length: Length::Week, lane: 4, period_lengths: &[4, 10] },
    Window { name: "month", length: Length::Month, lane: 4, period_lengths: &[4, 7] },
    Window { name: "year", length: Length::Year, lane: 4, period_lengths: &[4] },
];

/// The index of a granularity in [`WINDOWS`].
pub(super) fn window_of(name: &str) -> Option<usize> {
    WINDOWS.iter().position(|window| window.name == name)
}

impl Window {
    /// The start of the window that holds `time_us`.
    pub(super) fn start(&self, time_us: i64) -> i64 {
        let day = time_us.div_euclid(DAY_US);
        match self.length {
            Length::Us(width_us) => time_us.div_euclid(width_us) * width_us,
            // Day 4, 1970-01-05, was a Monday.
            Length::Week => ((day - 4).div_euclid(7) * 7 + 4) * DAY_US,
            Length::Month => {
                let (year, month) = month_of(day);
                days(year, month, 1) * DAY_US
            }
            Length::Year => days(year_of(day), 1, 1) * DAY_US,
        }
    }

    /// The end (exclusive) of the window that starts at `start_us`, which may be any number found in a file.
    pub(super) fn end(&self, start_us: i64) -> i64 {
        let day = start_us.div_euclid(DAY_US);
        match self.length {
            Length::Us(width_us) => start_us.saturating_add(width_us),
            Length::Week => start_us.saturating_add(7 * DAY_US),
            Length::Month => {
                let (year, month) = month_of(day);
                let end = if month == 12 { days(year + 1, 1, 1) } else { days(year, month + 1, 1) };
                end.saturating_mul(DAY_US)
            }
            Length::Year => days(year_of(day) + 1, 1, 1).saturating_mul(DAY_US),
        }
    }

    /// The starts of its windows that a span holds, and the end of the last one of these. Windows belong to the span in which they
    /// start, so a year of weeks ends with the week that starts in December, and the week of a Monday is a span of its own.
    pub(super) fn within(&self, span: Range<i64>) -> Range<i64> {
        let first = |time_us: i64| match self.start(time_us) {
            start if start < time_us => self.end(start),
            start => start,
        };
        first(span.start)..first(span.end)
    }

    /// The lane of a record ingested at `ingested_us`, in the window that starts at `start_us`. `graces_us` are those of minute, hour and
    /// day.
    pub(super) fn lane(&self, start_us: i64, ingested_us: i64, graces_us: &[i64; 3]) -> usize {
        match graces_us.get(self.lane) {
            Some(grace_us) if ingested_us >= self.end(start_us) + grace_us => LATE,
            _ => self.lane,
        }
    }
}

/// The time span of a period's name, in µs: `2026`, `2026-01`, `2026-01-13`, `2026-01-13T04` or `2026-01-13T0405`.
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

/// Days since 1970-01-01 in the Gregorian calendar: 365 for each year, one for each leap year, and the months before.
fn days(year: i64, month: i64, day: i64) -> i64 {
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leaps = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let leap_day = i64::from(is_leap && month > 2);
    365 * (year - 1970) + leaps(year - 1) - leaps(1969) + BEFORE[month as usize - 1] + leap_day + day - 1
}

/// The year of a day since 1970-01-01. 400 years have 146,097 days, so a guess is off by one at most.
fn year_of(day: i64) -> i64 {
    let guess = 1970 + (day * 400).div_euclid(146_097);
    if days(guess, 1, 1) > day {
        guess - 1
    } else if days(guess + 1, 1, 1) <= day {
        guess + 1
    } else {
        guess
    }
}

/// The year and month of a day since 1970-01-01.
fn month_of(day: i64) -> (i64, i64) {
    let year = year_of(day);
    let month = (2..=12).take_while(|month| days(year, *month, 1) <= day).last().unwrap_or(1);
    (year, month)
}

/// The bucket of a customer: the first 8 digits of its md5, scaled to the number of buckets.
pub(super) fn bucket(customer: &[u8], buckets: u32) -> u32 {
    let digest = Md5::digest(customer);
    let first = digest[..4].iter().fold(0u64, |sum, &byte| sum * 256 + u64::from(byte));
    (first / ((1 << 32) / u64::from(buckets))) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rfc3339_us;
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
            let (year, month) = (i64::from(date.year()), i64::from(date.month()));
            prop_assert_eq!(days(year, month, i64::from(date.day())), day);
            prop_assert_eq!((year_of(day), month_of(day)), (year, (year, month)));
            let monday = date.week(chrono::Weekday::Mon).first_day();
            let [_, _, _, week, ..] = &WINDOWS;
            let start = week.start(day * DAY_US + 7);
            prop_assert_eq!(start, monday.and_hms_opt(0, 0, 0).expect("midnight").and_utc().timestamp_micros());
        }

        #[test]
        fn any_number_in_a_file_has_an_end(start: i64) {
            for window in &WINDOWS {
                prop_assert!(window.end(start) >= start, "{}", window.name);
            }
        }
    }

    #[test]
    fn windows_hold_their_times() {
        // Time, then the starts of week, month and year, and their ends.
        for (time, starts, ends) in [
            // A Tuesday in a year whose first week began in the year before.
            (
                "2026-01-13T04:05:06.5Z",
                ["2026-01-12", "2026-01-01", "2026-01-01"],
                ["2026-01-19", "2026-02-01", "2027-01-01"],
            ),
            (
                "2026-01-01T00:00:00Z",
                ["2025-12-29", "2026-01-01", "2026-01-01"],
                ["2026-01-05", "2026-02-01", "2027-01-01"],
            ),
            (
                "2025-12-31T23:59:59Z",
                ["2025-12-29", "2025-12-01", "2025-01-01"],
                ["2026-01-05", "2026-01-01", "2026-01-01"],
            ),
            // A Sunday that is New Year's Day, in week 53; a Monday that is New Year's Day.
            (
                "2023-01-01T12:00:00Z",
                ["2022-12-26", "2023-01-01", "2023-01-01"],
                ["2023-01-02", "2023-02-01", "2024-01-01"],
            ),
            (
                "2024-01-01T00:00:00Z",
                ["2024-01-01", "2024-01-01", "2024-01-01"],
                ["2024-01-08", "2024-02-01", "2025-01-01"],
            ),
            // A leap day, with the days before and after; a century without one; before 1970.
            (
                "2024-02-29T23:59:59.999999Z",
                ["2024-02-26", "2024-02-01", "2024-01-01"],
                ["2024-03-04", "2024-03-01", "2025-01-01"],
            ),
            (
                "2024-03-01T00:00:00Z",
                ["2024-02-26", "2024-03-01", "2024-01-01"],
                ["2024-03-04", "2024-04-01", "2025-01-01"],
            ),
            (
                "2100-02-28T23:59:59Z",
                ["2100-02-22", "2100-02-01", "2100-01-01"],
                ["2100-03-01", "2100-03-01", "2101-01-01"],
            ),
            (
                "1969-12-31T23:59:59Z",
                ["1969-12-29", "1969-12-01", "1969-01-01"],
                ["1970-01-05", "1970-01-01", "1970-01-01"],
            ),
        ] {
            for (window, (start, end)) in WINDOWS[3..].iter().zip(starts.into_iter().zip(ends)) {
                let found = window.start(at(time));
                assert_eq!(rfc3339_us(found), format!("{start}T00:00:00Z"), "{} of {time}", window.name);
                assert_eq!(rfc3339_us(window.end(found)), format!("{end}T00:00:00Z"), "{} of {time}", window.name);
            }
        }
        let [minute, hour, day, ..] = &WINDOWS;
        let time = at("2026-01-13T04:05:06.5Z");
        assert_eq!(minute.start(time), at("2026-01-13T04:05:00Z"));
        assert_eq!(hour.start(time), at("2026-01-13T04:00:00Z"));
        assert_eq!(day.start(time), at("2026-01-13T00:00:00Z"));
        assert_eq!((day.start(-1), day.end(-DAY_US)), (-DAY_US, 0));
    }

    #[test]
    fn a_span_holds_the_windows_that_start_in_it() {
        let [minute, .., week, month, _] = &WINDOWS;
        for (window, label, start, end) in [
            (minute, "2026-01-13T04", "2026-01-13T04:00:00Z", "2026-01-13T05:00:00Z"),
            (week, "2025", "2025-01-06T00:00:00Z", "2026-01-05T00:00:00Z"),
            (week, "2024", "2024-01-01T00:00:00Z", "2025-01-06T00:00:00Z"),
            (week, "2025-12-29", "2025-12-29T00:00:00Z", "2026-01-05T00:00:00Z"),
            // A Tuesday: no week starts on it.
            (week, "2025-12-30", "2026-01-05T00:00:00Z", "2026-01-05T00:00:00Z"),
            (month, "2026", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ] {
            let span = period(label).expect("a period");
            assert_eq!(window.within(span), at(start)..at(end), "{} of {label}", window.name);
        }
    }

    #[test]
    fn late_records_have_a_lane_of_their_own_but_for_long_windows() {
        let time = at("2026-01-13T04:05:06.5Z");
        let lanes = |ingested: &str| {
            let graces_us = [20, 60, 300].map(|seconds| seconds * SECOND_US);
            WINDOWS.each_ref().map(|window| LANES[window.lane(window.start(time), at(ingested), &graces_us)])
        };
        assert_eq!(lanes("2026-01-13T04:06:19.999999Z"), ["minute", "hour", "day", "coarse", "coarse", "coarse"]);
        assert_eq!(lanes("2026-01-13T04:06:20Z"), ["late", "hour", "day", "coarse", "coarse", "coarse"]);
        assert_eq!(lanes("2026-01-13T05:01:00Z"), ["late", "late", "day", "coarse", "coarse", "coarse"]);
        assert_eq!(lanes("2031-01-13T05:01:00Z"), ["late", "late", "late", "coarse", "coarse", "coarse"]);
    }

    #[test]
    fn buckets_are_the_top_bits_of_md5() {
        // md5('') = d41d8cd9…: 1101 0100 …
        assert_eq!([1, 2, 8, 16].map(|buckets| bucket(b"", buckets)), [0, 1, 6, 13]);
    }
}
