//! All arithmetic on time: epochs, windows and their granularities, periods of files, lanes.
//!
//! In: times in microseconds since 1970, UTC. Out: the start and end of the window or period that holds a time, names and labels,
//! texts in RFC 3339. Starts belong to a window, ends do not. Pure. (`verify` has arithmetic of its own.)

use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

/// Number of an epoch: one commit of records to `raw`; 1, 2, 3 …; 0 is "nothing yet". It is the timestamp of the dataflow.
pub type Epoch = u64;

/// Microseconds since 1970-01-01T00:00:00Z.
pub type TimeUs = i64;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// The first and the last time that RFC 3339 can write in UTC, in the years 1 to 9999: what readers of the tables can show.
pub const WRITABLE_US: RangeInclusive<TimeUs> = -62_135_596_800 * SECOND..=253_402_300_799 * SECOND + 999_999;

/// A Kafka timestamp, if it is a time that RFC 3339 can write. A producer that stamps in microseconds or nanoseconds by mistake
/// sends the year 58004, or a time beyond any year. Such a timestamp is treated as absent everywhere.
pub fn plausible_ms(ms: i64) -> Option<i64> {
    ms.checked_mul(1000).filter(|us| WRITABLE_US.contains(us)).map(|_| ms)
}

/// A time in RFC 3339, in whole seconds.
pub fn rfc3339(time: TimeUs) -> String {
    shown(time, "%Y-%m-%dT%H:%M:%SZ")
}

/// The same with its microseconds, where it has some.
pub fn rfc3339_us(time: TimeUs) -> String {
    if time % SECOND == 0 { rfc3339(time) } else { shown(time, "%Y-%m-%dT%H:%M:%S%.6fZ") }
}

/// A time in milliseconds in RFC 3339, with its milliseconds where it has some; `None` if it can not be written.
pub fn rfc3339_ms(ms: i64) -> Option<String> {
    let format = if ms % 1000 == 0 { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%.3fZ" };
    DateTime::from_timestamp_millis(ms).map(|time| time.format(format).to_string())
}

fn shown(time: TimeUs, format: &str) -> String {
    DateTime::from_timestamp_micros(time).map_or_else(|| format!("{time} µs"), |time| time.format(format).to_string())
}

/// The time zone in which windows are cut. So far only UTC; it is a value, so that others can be added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Zone {
    /// Coordinated Universal Time.
    #[default]
    Utc,
}

/// Whether one of these stretches holds a time. The stretches must ascend and must not touch.
pub fn covers(stretches: &[Range<TimeUs>], time: TimeUs) -> bool {
    let after = stretches.partition_point(|stretch| stretch.start <= time);
    after > 0 && time < stretches[after - 1].end
}

/// The length of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Granularity {
    /// 60 s.
    Minute,
    /// 60 minutes.
    Hour,
    /// A calendar day.
    Day,
    /// An ISO week, from Monday.
    Week,
    /// A calendar month.
    Month,
    /// A calendar year.
    Year,
}

impl Granularity {
    /// All, finest first.
    pub const ALL: [Granularity; 6] = [
        Granularity::Minute,
        Granularity::Hour,
        Granularity::Day,
        Granularity::Week,
        Granularity::Month,
        Granularity::Year,
    ];

    /// The name in job files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Granularity::Minute => "minute",
            Granularity::Hour => "hour",
            Granularity::Day => "day",
            Granularity::Week => "week",
            Granularity::Month => "month",
            Granularity::Year => "year",
        }
    }

    /// The start of the window that holds `time`.
    pub fn window_start(self, time: TimeUs, zone: Zone) -> TimeUs {
        let Zone::Utc = zone;
        match self {
            Granularity::Minute => time - time.rem_euclid(MINUTE),
            Granularity::Hour => time - time.rem_euclid(HOUR),
            Granularity::Day => time - time.rem_euclid(DAY),
            // 1970-01-01 was a Thursday: Monday lies three days before it.
            Granularity::Week => time - (time + 3 * DAY).rem_euclid(7 * DAY),
            Granularity::Month => {
                let date = date_of(time);
                start_of(date.year(), date.month())
            }
            Granularity::Year => start_of(date_of(time).year(), 1),
        }
    }

    /// The end (exclusive) of the window that starts at `start`.
    pub fn window_end(self, start: TimeUs, zone: Zone) -> TimeUs {
        let Zone::Utc = zone;
        match self {
            Granularity::Minute => start + MINUTE,
            Granularity::Hour => start + HOUR,
            Granularity::Day => start + DAY,
            Granularity::Week => start + 7 * DAY,
            Granularity::Month => {
                let date = date_of(start);
                match date.month() {
                    12 => start_of(date.year() + 1, 1),
                    month => start_of(date.year(), month + 1),
                }
            }
            Granularity::Year => start_of(date_of(start).year() + 1, 1),
        }
    }

    /// The lane of a window's on-time records; `coarse` also takes the late ones.
    pub fn lane(self) -> Lane {
        match self {
            Granularity::Minute => Lane::Minute,
            Granularity::Hour => Lane::Hour,
            Granularity::Day => Lane::Day,
            Granularity::Week | Granularity::Month | Granularity::Year => Lane::Coarse,
        }
    }

    /// The lengths of the periods whose files may hold a window, shortest first: the window's own, then those that a segment
    /// climbs as it grows old. So what is open lives apart from what is closed.
    pub fn ladder(self) -> &'static [Period] {
        match self {
            Granularity::Minute => &[Period::Minute, Period::Hour, Period::Day, Period::Month],
            Granularity::Hour => &[Period::Hour, Period::Day, Period::Month],
            Granularity::Day => &[Period::Day, Period::Month],
            Granularity::Week => &[Period::Week],
            Granularity::Month => &[Period::Month],
            Granularity::Year => &[Period::Year],
        }
    }

    /// The length of the period in which a file of layout 1 (`floodmark.format`) was created, if that was longer than a window:
    /// such a file may hold open windows. It is not created any more.
    pub fn former(self) -> Option<Period> {
        match self {
            Granularity::Day => Some(Period::Month),
            Granularity::Week | Granularity::Month => Some(Period::Year),
            Granularity::Minute | Granularity::Hour | Granularity::Year => None,
        }
    }

    /// The start of the first window that starts at `time` or later.
    pub fn first_start(self, time: TimeUs, zone: Zone) -> TimeUs {
        match self.window_start(time, zone) {
            start if start < time => self.window_end(start, zone),
            start => start,
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Granularity {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Granularity::ALL
            .into_iter()
            .find(|granularity| granularity.name() == name)
            .ok_or_else(|| format!("found {name:?}; expected one of minute, hour, day, week, month, year"))
    }
}

/// The span of time that one file of `counts` holds, written as a prefix of a time in UTC; a week as its Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Period {
    /// `2026-01-13T0405`
    Minute,
    /// `2026-01-13T04`
    Hour,
    /// `2026-01-13`
    Day,
    /// `2026-01-12`, a Monday. It is written as a day is: only files of week windows have it, and they have no days.
    Week,
    /// `2026-01`
    Month,
    /// `2026`
    Year,
}

impl Period {
    /// The start of the period that holds `window_start`.
    pub fn start(self, window_start: TimeUs) -> TimeUs {
        self.as_window().window_start(window_start, Zone::Utc)
    }

    /// The end (exclusive) of the period that starts at `start`.
    pub fn end(self, start: TimeUs) -> TimeUs {
        self.as_window().window_end(start, Zone::Utc)
    }

    /// The window of the same length: periods are UTC whatever the zone of the windows in them.
    fn as_window(self) -> Granularity {
        match self {
            Period::Minute => Granularity::Minute,
            Period::Hour => Granularity::Hour,
            Period::Day => Granularity::Day,
            Period::Week => Granularity::Week,
            Period::Month => Granularity::Month,
            Period::Year => Granularity::Year,
        }
    }

    /// The partition value of the period that starts at `start`.
    pub fn label(self, start: TimeUs) -> String {
        let pattern = match self {
            Period::Minute => "%Y-%m-%dT%H%M",
            Period::Hour => "%Y-%m-%dT%H",
            Period::Day | Period::Week => "%Y-%m-%d",
            Period::Month => "%Y-%m",
            Period::Year => "%Y",
        };
        utc(start).format(pattern).to_string()
    }

    /// The period and its start, from the partition value of a file with windows of this granularity; `None` when it is not one.
    pub fn parse(label: &str, granularity: Granularity) -> Option<(Period, TimeUs)> {
        let (period, padding) = match label.len() {
            4 => (Period::Year, "-01-01T0000"),
            7 => (Period::Month, "-01T0000"),
            10 if granularity == Granularity::Week => (Period::Week, "T0000"),
            10 => (Period::Day, "T0000"),
            13 => (Period::Hour, "00"),
            15 => (Period::Minute, ""),
            _ => return None,
        };
        let full = format!("{label}{padding}");
        let time = chrono::NaiveDateTime::parse_from_str(&full, "%Y-%m-%dT%H%M").ok()?;
        let start = time.and_utc().timestamp_micros();
        // A week's label is its Monday.
        (period.start(start) == start).then_some((period, start))
    }
}

/// What is published together, with an epoch of its own in each version of `counts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// On-time records of minute windows.
    Minute,
    /// On-time records of hour windows.
    Hour,
    /// On-time records of day windows.
    Day,
    /// Late records of minute, hour and day windows.
    Late,
    /// All records of week, month and year windows.
    Coarse,
}

impl Lane {
    /// All lanes; a lane's index here is its number in keys.
    pub const ALL: [Lane; 5] = [Lane::Minute, Lane::Hour, Lane::Day, Lane::Late, Lane::Coarse];

    /// The name in tables and settings.
    pub fn name(self) -> &'static str {
        match self {
            Lane::Minute => "minute",
            Lane::Hour => "hour",
            Lane::Day => "day",
            Lane::Late => "late",
            Lane::Coarse => "coarse",
        }
    }

    /// The lane with this name.
    pub fn from_name(name: &str) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| lane.name() == name)
    }
}

/// What an update of a cell is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// What a lane publishes.
    Lane(Lane),
    /// In a replay, where nothing is late: days that are counted themselves and of which weeks, months and years are made.
    DaysOfBoth,
}

impl Target {
    /// Its number in keys: that of its lane, or the next one after the lanes.
    pub const fn number(self) -> u8 {
        match self {
            Target::Lane(lane) => lane as u8,
            Target::DaysOfBoth => Lane::ALL.len() as u8,
        }
    }

    /// The target with this number.
    pub fn of_number(number: u8) -> Option<Target> {
        match Lane::ALL.get(usize::from(number)) {
            Some(lane) => Some(Target::Lane(*lane)),
            None => (number == Target::DaysOfBoth.number()).then_some(Target::DaysOfBoth),
        }
    }
}

fn utc(time: TimeUs) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time).expect("times are between the years 2000 and 2100, or a window around them")
}

fn date_of(time: TimeUs) -> NaiveDate {
    utc(time).date_naive()
}

fn start_of(year: i32, month: u32) -> TimeUs {
    NaiveDate::from_ymd_opt(year, month, 1)
        .and_then(|date| date.and_hms_opt(0, 0, 0))
        .expect("the first of a month exists")
        .and_utc()
        .timestamp_micros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> TimeUs {
        text.parse::<DateTime<Utc>>().expect("a time").timestamp_micros()
    }

    #[test]
    fn windows_start_and_end_at_calendar_borders() {
        let time = at("2024-12-31T23:59:59.999999Z");
        let cases = [
            (Granularity::Minute, "2024-12-31T23:59:00Z", "2025-01-01T00:00:00Z"),
            (Granularity::Hour, "2024-12-31T23:00:00Z", "2025-01-01T00:00:00Z"),
            (Granularity::Day, "2024-12-31T00:00:00Z", "2025-01-01T00:00:00Z"),
            (Granularity::Week, "2024-12-30T00:00:00Z", "2025-01-06T00:00:00Z"),
            (Granularity::Month, "2024-12-01T00:00:00Z", "2025-01-01T00:00:00Z"),
            (Granularity::Year, "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"),
        ];
        for (granularity, start, end) in cases {
            let window_start = granularity.window_start(time, Zone::Utc);
            assert_eq!(window_start, at(start), "{granularity}");
            assert_eq!(granularity.window_end(window_start, Zone::Utc), at(end), "{granularity}");
        }
    }

    #[test]
    fn a_kafka_timestamp_that_is_no_time_is_none() {
        let ms = |text: &str| at(text) / 1000;
        let now = ms("2026-01-13T04:05:06Z");
        let (first, last) = (ms("0001-01-01T00:00:00Z"), ms("9999-12-31T23:59:59.999Z"));
        for plausible in [0, -1, now, first, last] {
            assert_eq!(plausible_ms(plausible), Some(plausible));
        }
        for other in [now * 1000, now * 1_000_000, first - 1, last + 1, i64::MIN, i64::MAX, i64::MAX / 1000] {
            assert_eq!(plausible_ms(other), None, "{other}");
        }
    }

    #[test]
    fn a_time_is_written_as_precisely_as_it_is_asked_for() {
        let (whole, part) = (at("2026-01-13T04:05:06Z"), at("2026-01-13T04:05:06.007Z"));
        let [second, ms, us] = ["2026-01-13T04:05:06Z", "2026-01-13T04:05:06.007Z", "2026-01-13T04:05:06.007000Z"];
        assert_eq!([rfc3339(whole), rfc3339(part)], [second, second]);
        assert_eq!([rfc3339_us(whole), rfc3339_us(part)], [second, us]);
        assert_eq!([whole, part].map(|time| rfc3339_ms(time / 1000)), [Some(second.to_owned()), Some(ms.to_owned())]);
        assert_eq!((rfc3339(i64::MAX), rfc3339_ms(i64::MAX)), (format!("{} µs", i64::MAX), None));
    }

    #[test]
    fn periods_are_utc_prefixes_and_read_back() {
        let time = at("2026-01-13T04:05:06Z");
        for (period, label) in [
            (Period::Year, "2026"),
            (Period::Month, "2026-01"),
            (Period::Day, "2026-01-13"),
            (Period::Hour, "2026-01-13T04"),
            (Period::Minute, "2026-01-13T0405"),
        ] {
            let start = period.start(time);
            assert_eq!(period.label(start), label);
            for granularity in Granularity::ALL.into_iter().filter(|it| *it != Granularity::Week) {
                assert_eq!(Period::parse(label, granularity), Some((period, start)));
            }
        }
        let monday = Period::Week.start(time);
        assert_eq!(Period::Week.label(monday), "2026-01-12");
        assert_eq!(Period::parse("2026-01-12", Granularity::Week), Some((Period::Week, monday)));
        for (label, granularity) in
            [("2026-01-13", Granularity::Week), ("2026-13", Granularity::Day), ("x", Granularity::Day)]
        {
            assert_eq!(Period::parse(label, granularity), None, "{label}");
        }
    }

    #[test]
    fn the_ladder_of_a_granularity_begins_with_its_window_and_climbs() {
        let time = at("2026-01-13T04:05:06Z");
        for granularity in Granularity::ALL {
            let ladder = granularity.ladder();
            assert!(ladder.is_sorted_by(|shorter, longer| shorter < longer), "{granularity}");
            let start = granularity.window_start(time, Zone::Utc);
            assert_eq!(ladder[0].start(time), start, "{granularity}");
            assert_eq!(ladder[0].end(start), granularity.window_end(start, Zone::Utc), "{granularity}");
            assert!(granularity.former().is_none_or(|former| former > ladder[0]), "{granularity}");
        }
    }

    #[test]
    fn the_first_window_from_a_time_on_starts_then_or_later() {
        let first = |granularity: Granularity, time: &str| rfc3339(granularity.first_start(at(time), Zone::Utc));
        assert_eq!(first(Granularity::Week, "2026-01-01T00:00:00Z"), "2026-01-05T00:00:00Z");
        assert_eq!(first(Granularity::Week, "2024-01-01T00:00:00Z"), "2024-01-01T00:00:00Z");
        assert_eq!(first(Granularity::Month, "2026-01-01T00:00:00Z"), "2026-01-01T00:00:00Z");
        assert_eq!(first(Granularity::Minute, "2026-01-01T00:00:00.000001Z"), "2026-01-01T00:01:00Z");
    }
}
