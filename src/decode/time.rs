//! Event times, all to µs since 1970 UTC: ISO 8601, numbers of a unit, patterns, and the time of an access log.
//!
//! Of ISO 8601, what can be read in one way only: a calendar date and a time of day, both with separators (`2026-01-13T04:05:06`) or both
//! without (`20260113T040506`); `T`, `t` or one blank between them; seconds may be left out; a fraction of a second after `.` or `,`. The offset
//! is `Z`, `z`, `+hh`, `+hhmm` or `+hh:mm` (`-00:00` is UTC); without one, the job must say which is assumed. Refused: a date alone, a date
//! by week or day of the year, an hour without its minutes, `24:00`. A pattern can read most of these.
//!
//! A number is read from its decimal digits, with fraction and exponent, in a string as well. Digits beyond µs are cut off. A leap second
//! (`:60`) is accepted where one can be, in the last minute of a UTC day, and is counted as the last µs of its minute, so that it stays in
//! its minute, hour and day.

use chrono::NaiveDate;

use crate::job::{Format, Logic, Pattern, TimeFormat, UnixUnit};
use crate::model::TimeUs;

const SECOND: i64 = 1_000_000;
const DAY_SECONDS: i64 = 86_400;

/// 2000-01-01T00:00:00Z: earlier event times are out of range.
pub(super) const TIME_US_MIN: TimeUs = 946_684_800 * SECOND;
/// 2100-01-01T00:00:00Z: event times from here on are out of range.
pub(super) const TIME_US_END: TimeUs = 4_102_444_800 * SECOND;
/// An event time further after Kafka's timestamp is out of range.
pub(super) const AHEAD_US_MAX: i64 = DAY_SECONDS * SECOND;

/// The first and the last time that RFC 3339 can write in UTC: what readers of `raw` can show.
const WRITABLE_US: std::ops::RangeInclusive<TimeUs> = -62_135_596_800 * SECOND..=253_402_300_799 * SECOND + 999_999;

/// Whether an event time may be counted, given Kafka's timestamp.
pub(super) fn in_range(time: TimeUs, kafka_timestamp_ms: Option<i64>) -> bool {
    let ahead = kafka_timestamp_ms.is_some_and(|ms| time > ms.saturating_mul(1000).saturating_add(AHEAD_US_MAX));
    (TIME_US_MIN..TIME_US_END).contains(&time) && !ahead
}

/// A time, if `raw` can hold it so that every reader can show it.
pub(super) fn writable(time: TimeUs) -> Option<TimeUs> {
    WRITABLE_US.contains(&time).then_some(time)
}

/// How a job's event times are read.
#[derive(Debug)]
pub(super) struct TimeRule {
    form: Form,
    /// Where no offset is written, in seconds east of UTC.
    assume_offset: Option<i64>,
}

#[derive(Debug)]
enum Form {
    /// ISO 8601 or integer milliseconds.
    Json,
    AccessLog,
    Unix(UnixUnit),
    Pattern(Pattern),
}

impl TimeRule {
    pub(super) fn new(logic: &Logic) -> TimeRule {
        let form = match (&logic.time_format, logic.format) {
            (TimeFormat::Default, Format::Json) => Form::Json,
            (TimeFormat::Default, Format::AccessLog) => Form::AccessLog,
            (TimeFormat::Unix(unit), _) => Form::Unix(*unit),
            (TimeFormat::Pattern(pattern), _) => Form::Pattern(pattern.clone()),
        };
        TimeRule { form, assume_offset: logic.assume_offset_seconds.map(i64::from) }
    }

    /// Reads the text of a string or number.
    pub(super) fn read(&self, text: &str) -> Option<TimeUs> {
        match &self.form {
            // No number is ISO 8601: that has a `T` or a blank in it.
            Form::Json => iso8601(text, self.assume_offset).or_else(|| milliseconds(text)),
            Form::AccessLog => access_log(text),
            Form::Unix(unit) => unix(text, *unit),
            Form::Pattern(pattern) => strftime(text, pattern, self.assume_offset),
        }
    }

    /// What would have been right in place of `text`.
    pub(super) fn expected(&self, text: &str) -> String {
        let expected = match &self.form {
            Form::Json if self.assume_offset.is_some() => {
                "a time of ISO 8601, or integer milliseconds since 1970".to_owned()
            }
            Form::Json => "a time of ISO 8601 with its offset, or integer milliseconds since 1970".to_owned(),
            Form::AccessLog => "a time as in 17/May/2015:10:05:03 +0000".to_owned(),
            Form::Unix(unit) => format!("{} since 1970", unit.word()),
            Form::Pattern(pattern) => format!("a time as in {pattern}"),
        };
        self.with_guess(expected, text)
    }

    /// What would have been right in place of `text`, whose time is out of range.
    pub(super) fn expected_in_range(&self, text: &str) -> String {
        self.with_guess("from 2000 to 2099, and at most 24 h after Kafka's timestamp".to_owned(), text)
    }

    /// Adds what the text looks like, where it is a time of another form.
    fn with_guess(&self, expected: String, text: &str) -> String {
        let plausible = |time: Option<TimeUs>| time.is_some_and(|time| in_range(time, None));
        if plausible(self.read(text)) {
            return expected;
        }
        let says = |looks: &str, key: &str| format!("{expected}; it looks like {looks}: event_time = {{ …, {key} }}");
        if let Form::Json | Form::Unix(_) = self.form
            && let Some(unit) = UnixUnit::ALL.into_iter().find(|unit| plausible(unix(text, *unit)))
        {
            return says(unit.word(), &format!("format = \"{}\"", unit.name()));
        }
        match self.form {
            Form::Json if plausible(iso8601(text, Some(0))) => {
                says("a time without its offset", "assume_offset = \"+00:00\"")
            }
            Form::Unix(_) if plausible(iso8601(text, Some(0))) => {
                format!("{expected}; it looks like ISO 8601: leave out `format`")
            }
            _ => expected,
        }
    }
}

/// `2026-01-13T04:05:06.789+01:00` and its like; `assume_offset` holds where none is written.
pub(super) fn iso8601(text: &str, assume_offset: Option<i64>) -> Option<TimeUs> {
    let bytes = text.as_bytes();
    let extended = bytes.get(4) == Some(&b'-');
    let (date, rest) = if extended {
        let ([y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2], rest) = bytes.split_first_chunk()? else { return None };
        (date(digits(&[*y1, *y2, *y3, *y4])?, digits(&[*m1, *m2])?, digits(&[*d1, *d2])?)?, rest)
    } else {
        let (day, rest) = bytes.split_first_chunk::<8>()?;
        (date(digits(&day[..4])?, digits(&day[4..6])?, digits(&day[6..])?)?, rest)
    };
    let (hour, rest) = match rest {
        [b'T' | b't' | b' ', h1, h2, rest @ ..] => (digits(&[*h1, *h2])?, rest),
        _ => return None,
    };
    let (minute, rest) = match rest {
        [b':', m1, m2, rest @ ..] if extended => (digits(&[*m1, *m2])?, rest),
        [m1, m2, rest @ ..] if !extended => (digits(&[*m1, *m2])?, rest),
        _ => return None,
    };
    let (second, micros, rest) = match rest {
        [b':', s1, s2, rest @ ..] if extended => with_fraction(digits(&[*s1, *s2])?, rest)?,
        [s1 @ b'0'..=b'9', s2, rest @ ..] if !extended => with_fraction(digits(&[*s1, *s2])?, rest)?,
        _ => (0, 0, rest),
    };
    let offset = match rest {
        [] => assume_offset?,
        [b'Z' | b'z'] => 0,
        [sign, h1, h2] => offset(*sign, &[*h1, *h2], b"00")?,
        [sign, h1, h2, m1, m2] | [sign, h1, h2, b':', m1, m2] => offset(*sign, &[*h1, *h2], &[*m1, *m2])?,
        _ => return None,
    };
    instant(date, [hour, minute, second], micros, offset)
}

/// `17/May/2015:10:05:03 +0000`, or with a fraction: `17/May/2015:10:05:03.123 +0000`
pub(super) fn access_log(text: &str) -> Option<TimeUs> {
    let (head, rest) = text.as_bytes().split_first_chunk::<20>()?;
    if [head[2], head[6], head[11], head[14], head[17]] != *b"//:::" {
        return None;
    }
    let months: [&[u8]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let month = months.iter().position(|name| *name == &head[3..6])? as i64 + 1;
    let date = date(digits(&head[7..11])?, month, digits(&head[..2])?)?;
    let (second, micros, rest) = with_fraction(digits(&head[18..])?, rest)?;
    let [b' ', sign, h1, h2, m1, m2] = rest else { return None };
    let clock = [digits(&head[12..14])?, digits(&head[15..17])?, second];
    instant(date, clock, micros, offset(*sign, &[*h1, *h2], &[*m1, *m2])?)
}

/// A number of `unit` since 1970, as an integer, with a fraction or an exponent. A time beyond i64 is clamped: it is far out of range.
pub(super) fn unix(text: &str, unit: UnixUnit) -> Option<TimeUs> {
    let places = match unit {
        UnixUnit::Seconds => 6,
        UnixUnit::Ms => 3,
        UnixUnit::Us => 0,
        UnixUnit::Ns => -3,
    };
    decimal(text, places).map(|(micros, _)| micros)
}

/// As [`unix`], but the milliseconds must be whole.
pub(super) fn milliseconds(text: &str) -> Option<TimeUs> {
    let (ms, is_whole) = decimal(text, 0)?;
    is_whole.then(|| ms.saturating_mul(1000))
}

/// The number that `text` writes, times 10^`places`, cut to an integer, and whether nothing was cut off. From the digits themselves: a
/// float would round. Clamped at the ends of i64.
fn decimal(text: &str, places: i64) -> Option<(i64, bool)> {
    let magnitude = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match magnitude.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, decimal_exponent(exponent)?),
        None => (magnitude, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let mut digits = whole.bytes().chain(fraction.bytes()).map(|digit| i64::from(digit - b'0'));
    // How many digits stand before the point once it has moved.
    let kept = whole.len() as i64 + exponent + places;
    let mut number: i64 = 0;
    let signed = |number: i64| if magnitude.len() == text.len() { number } else { -number };
    for _ in 0..kept.max(0) {
        let digit = match digits.next() {
            Some(digit) => digit,
            None if number == 0 => break,
            None => 0,
        };
        match number.checked_mul(10).and_then(|tens| tens.checked_add(digit)) {
            Some(next) => number = next,
            None => return Some((signed(i64::MAX), true)),
        }
    }
    Some((signed(number), digits.all(|digit| digit == 0)))
}

/// Clamped where it is of no more use.
fn decimal_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let size = digits.bytes().fold(0_i64, |size, digit| (size * 10 + i64::from(digit - b'0')).min(1 << 40));
    Some(if text.starts_with('-') { -size } else { size })
}

/// As the pattern says; `assume_offset` holds where the text has none.
pub(super) fn strftime(text: &str, pattern: &Pattern, assume_offset: Option<i64>) -> Option<TimeUs> {
    let parsed = pattern.parse(text)?;
    let offset = match (parsed.offset().map(i64::from).or(assume_offset), parsed.timestamp()) {
        (Some(offset), _) => offset,
        (None, Some(_)) => 0,
        (None, None) => return None,
    };
    let local = parsed.to_naive_datetime_with_offset(i32::try_from(offset).ok()?).ok()?.and_utc();
    let seconds = local.timestamp() - offset;
    // A leap second is the second before with more than a second's fraction.
    let nanos = i64::from(local.timestamp_subsec_nanos());
    at(seconds, nanos / 1000, nanos >= 1_000_000_000)
}

/// A second and the fraction that follows it, in µs; and what follows both.
fn with_fraction(second: i64, rest: &[u8]) -> Option<(i64, i64, &[u8])> {
    let [b'.' | b',', fraction @ ..] = rest else { return Some((second, 0, rest)) };
    let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if length == 0 {
        return None;
    }
    let micros = digits(&fraction[..length.min(6)])? * 10_i64.pow(6 - length.min(6) as u32);
    Some((second, micros, &fraction[length..]))
}

/// Days since 1970 of a calendar date.
fn date(year: i64, month: i64, day: i64) -> Option<i64> {
    let days = NaiveDate::from_ymd_opt(year as i32, month as u32, day as u32)?.to_epoch_days();
    Some(i64::from(days))
}

/// Seconds east of UTC.
fn offset(sign: u8, hours: &[u8], minutes: &[u8]) -> Option<i64> {
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let seconds = hours * 3600 + minutes * 60;
    match sign {
        b'+' => Some(seconds),
        b'-' => Some(-seconds),
        _ => None,
    }
}

fn instant(days: i64, [hour, minute, second]: [i64; 3], micros: i64, offset: i64) -> Option<TimeUs> {
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    at(days * DAY_SECONDS + hour * 3600 + minute * 60 + second.min(59) - offset, micros, second == 60)
}

/// `is_leap`: the leap second that follows this one is meant.
fn at(seconds: i64, micros: i64, is_leap: bool) -> Option<TimeUs> {
    if is_leap && seconds.rem_euclid(DAY_SECONDS) != DAY_SECONDS - 1 {
        return None;
    }
    seconds.checked_mul(SECOND)?.checked_add(if is_leap { SECOND - 1 } else { micros })
}

/// At most 6 ASCII digits as a number.
fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0_i64, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, SecondsFormat};
    use proptest::prelude::*;

    const BASE: TimeUs = 1_768_277_106 * SECOND; // 2026-01-13T04:05:06Z

    #[test]
    fn iso_8601_in_all_its_forms() {
        for (text, expected) in [
            ("2026-01-13T04:05:06Z", Some(BASE)),
            ("2026-01-13t04:05:06z", Some(BASE)),
            ("2026-01-13 04:05:06Z", Some(BASE)),
            ("2026-01-13T04:05:06+00:00", Some(BASE)),
            ("2026-01-13T04:05:06-00:00", Some(BASE)),
            ("2026-01-13T04:05:06+0000", Some(BASE)),
            ("2026-01-13T04:05:06+00", Some(BASE)),
            ("2026-01-13T09:35:06+05:30", Some(BASE)),
            ("2026-01-13T09:35:06+0530", Some(BASE)),
            ("2026-01-12T20:05:06-08:00", Some(BASE)),
            ("2026-01-12 20:05:06-08", Some(BASE)),
            ("2026-01-14T04:04:06+23:59", Some(BASE)),
            ("2026-01-13T04:05:06.7Z", Some(BASE + 700_000)),
            ("2026-01-13T04:05:06,7+0000", Some(BASE + 700_000)),
            ("2026-01-13T04:05:06.789Z", Some(BASE + 789_000)),
            ("2026-01-13T04:05:06.123456Z", Some(BASE + 123_456)),
            ("2026-01-13T04:05:06.123456999+00:00", Some(BASE + 123_456)),
            ("2026-01-13T04:05Z", Some(BASE - 6 * SECOND)),
            ("2026-01-13 05:05+01", Some(BASE - 6 * SECOND)),
            ("20260113T040506Z", Some(BASE)),
            ("20260113T040506.5+0000", Some(BASE + 500_000)),
            ("20260112 2005-08:00", Some(BASE - 6 * SECOND)),
            ("2016-12-31T23:59:60Z", Some(1_483_228_800 * SECOND - 1)),
            ("2017-01-01T00:59:60.5+01:00", Some(1_483_228_800 * SECOND - 1)),
            ("1969-12-31T23:59:59.5Z", Some(-500_000)),
            ("2026-01-13T04:05:60Z", None),
            ("2026-01-13T04:05:06", None),
            ("2026-01-13T04:05", None),
            ("2026-01-13T04", None),
            ("2026-01-13T04Z", None),
            ("2026-01-13", None),
            ("2026-01-13Z", None),
            ("20260113", None),
            ("2026-01-13T04:05:06.Z", None),
            ("2026-01-13T04:05.5Z", None),
            ("2026-01-13T04:05:06+24:00", None),
            ("2026-01-13T04:05:06+00:60", None),
            ("2026-01-13T04:05:06+1:00", None),
            ("2026-01-13T04:05:06+", None),
            ("2026-01-13T04:05:06+1", None),
            ("2026-01-13T04:05:06+000", None),
            ("2026-01-13T04:05:06 Z", None),
            ("2026-01-13  04:05:06Z", None),
            ("2026-01-13T04:05:06Zx", None),
            ("2026-01-13T04:05:0Z", None),
            ("2026-01-13T0405Z", None),
            ("20260113T04:05Z", None),
            ("2026-W03-2T04:05Z", None),
            ("2026-013T04:05Z", None),
            ("2026-02-30T04:05:06Z", None),
            ("2026-13-01T04:05:06Z", None),
            ("2026-00-01T04:05:06Z", None),
            ("2026-01-13T24:00:00Z", None),
            ("2026-01-13T04:60:06Z", None),
            ("2026-01-13_04:05:06Z", None),
            ("2026-1-13T04:05:06Z", None),
            ("+026-01-13T04:05:06Z", None),
            ("13 January 2026", None),
            ("2026-01-13T04:05:0é", None),
            ("1768277106000", None),
            ("", None),
        ] {
            assert_eq!(iso8601(text, None), expected, "{text}");
            // An offset that is written holds.
            if expected.is_some() {
                assert_eq!(iso8601(text, Some(3600)), expected, "{text}");
            }
        }
        for (text, offset, expected) in [
            ("2026-01-13T04:05:06", 0, Some(BASE)),
            ("2026-01-13 05:05:06.5", 3600, Some(BASE + 500_000)),
            ("2026-01-12 20:05", -8 * 3600, Some(BASE - 6 * SECOND)),
            ("20260113T040506", 0, Some(BASE)),
            ("2026-01-13", 0, None),
            ("2026-01-13T04", 0, None),
        ] {
            assert_eq!(iso8601(text, Some(offset)), expected, "{text} {offset}");
        }
    }

    #[test]
    fn access_log_times() {
        for (text, expected) in [
            ("17/May/2015:10:05:03 +0000", Some(1_431_857_103 * SECOND)),
            ("17/May/2015:12:05:03 +0200", Some(1_431_857_103 * SECOND)),
            ("17/May/2015:03:05:03 -0700", Some(1_431_857_103 * SECOND)),
            ("17/May/2015:03:05:03.123 -0700", Some(1_431_857_103 * SECOND + 123_000)),
            ("17/May/2015:03:05:03,1234567 -0700", Some(1_431_857_103 * SECOND + 123_456)),
            ("31/Dec/2016:23:59:60 +0000", Some(1_483_228_800 * SECOND - 1)),
            ("17/may/2015:10:05:03 +0000", None),
            ("31/Jun/2015:10:05:03 +0000", None),
            ("17/May/2015:10:05:03. +0000", None),
            ("17/May/2015:10:05:03", None),
            ("17/May/2015:10:05:03 0000", None),
            ("17/May/2015:10:05:03 +00:0", None),
            ("2015-05-17T10:05:03+00:00", None),
            ("-", None),
        ] {
            assert_eq!(access_log(text), expected, "{text}");
        }
    }

    #[test]
    fn milliseconds_are_whole() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1768277106000", Some(BASE)),
            ("1768277106000.0", Some(BASE)),
            ("1.768277106E12", Some(BASE)),
            ("1768277106e3", Some(BASE)),
            ("-1", Some(-1000)),
            ("9223372036854775807", Some(i64::MAX)),
            ("99999999999999999999", Some(i64::MAX)),
            ("-99999999999999999999", Some(i64::MIN)),
            ("1.5", None),
            ("1768277106000.001", None),
            ("-", None),
            ("", None),
        ] {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }

    #[test]
    fn numbers_of_every_unit() {
        use UnixUnit::{Ms, Ns, Seconds, Us};
        for (text, unit, expected) in [
            ("1768277106", Seconds, Some(BASE)),
            ("1768277106.789", Seconds, Some(BASE + 789_000)),
            ("1768277106.7890009", Seconds, Some(BASE + 789_000)),
            ("1.768277106e9", Seconds, Some(BASE)),
            ("1.768277106789E+9", Seconds, Some(BASE + 789_000)),
            ("17682771060e-1", Seconds, Some(BASE)),
            ("0001768277106", Seconds, Some(BASE)),
            ("1768277106000", Ms, Some(BASE)),
            ("1768277106000.5", Ms, Some(BASE + 500)),
            ("1768277106000000", Us, Some(BASE)),
            ("1768277106000000.9", Us, Some(BASE)),
            ("1768277106000000999", Ns, Some(BASE)),
            ("-1.5", Seconds, Some(-1_500_000)),
            ("-999", Ns, Some(0)),
            ("0", Ns, Some(0)),
            ("0e999999999999999999999", Seconds, Some(0)),
            ("1e999999999999999999999", Ns, Some(i64::MAX)),
            ("-1e99", Ns, Some(-i64::MAX)),
            ("1e-999999999999999999999", Seconds, Some(0)),
            ("99999999999999999999999999", Seconds, Some(i64::MAX)),
            ("1768277106.", Seconds, None),
            (".5", Seconds, None),
            ("1e", Seconds, None),
            ("1e+", Seconds, None),
            ("1e5.0", Seconds, None),
            ("+1", Seconds, None),
            ("--1", Seconds, None),
            ("1 ", Seconds, None),
            ("0x10", Seconds, None),
            ("NaN", Seconds, None),
            ("", Seconds, None),
        ] {
            assert_eq!(unix(text, unit), expected, "{text} {unit:?}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, offset, text, expected) in [
            ("%d.%m.%Y %H:%M:%S", Some(3600), "13.01.2026 05:05:06", Some(BASE)),
            ("%d.%m.%Y %H:%M:%S", Some(0), "13.1.2026  4:05:06", Some(BASE)),
            ("%Y-%m-%d %H:%M:%S,%f", Some(0), "2026-01-13 04:05:06,789", Some(BASE + 789_000)),
            ("%Y-%m-%d %H:%M:%S.%f %z", None, "2026-01-13 04:05:06.1234567 +0000", Some(BASE + 123_456)),
            ("%Y-%m-%d %H:%M:%S%.f %z", None, "2026-01-13 05:05:06 +0100", Some(BASE)),
            ("%a, %d %b %Y %I:%M:%S %p %z", None, "Tue, 13 Jan 2026 04:05:06 AM +0000", Some(BASE)),
            ("%A, %d %B %Y %H:%M:%S %Z", Some(0), "Tuesday, 13 January 2026 04:05:06 UTC", Some(BASE)),
            ("%Y%m%d%H%M%S", Some(0), "20260113040506", Some(BASE)),
            ("%G-W%V-%uT%H:%M:%S", Some(0), "2026-W03-2T04:05:06", Some(BASE)),
            ("%s", None, "1768277106", Some(BASE)),
            ("%s.%f", None, "1768277106.5", Some(BASE + 500_000)),
            ("%d.%m.%Y %H:%M:%S", Some(0), "31.12.2016 23:59:60", Some(1_483_228_800 * SECOND - 1)),
            ("%d.%m.%Y %H:%M:%S", Some(0), "13.01.2026 04:05:60", None),
            ("%d.%m.%Y %H:%M:%S", None, "13.01.2026 04:05:06", None),
            ("%d.%m.%Y %H:%M:%S", Some(0), "13.01.2026 04:05:06 ", None),
            ("%d.%m.%Y %H:%M:%S", Some(0), "13/01/2026 04:05:06", None),
            ("%d.%m.%Y %H:%M:%S", Some(0), "31.02.2026 04:05:06", None),
            ("%a %d.%m.%Y %H:%M", Some(0), "Mon 13.01.2026 04:05", None),
            ("%Y-%m-%d %H:%M:%S,%f", Some(0), "2026-01-13 04:05:06,", None),
            ("%s", None, "99999999999999999999", None),
            ("%s", None, "9223372036854775807", None),
            ("%d.%m.%Y %H:%M", Some(0), "", None),
        ] {
            let compiled = Pattern::new(pattern).expect(pattern);
            assert_eq!(strftime(text, &compiled, offset), expected, "{pattern} {text}");
        }
    }

    fn rule(form: Form, assume_offset: Option<i64>) -> TimeRule {
        TimeRule { form, assume_offset }
    }

    #[test]
    fn a_time_of_another_form_is_guessed() {
        for (form, assume_offset, text, guess) in [
            (Form::Json, None, "1768277106", Some("seconds: event_time = { …, format = \"unix_seconds\" }")),
            (Form::Json, None, "1768277106.789", Some("seconds: event_time = { …, format = \"unix_seconds\" }")),
            (Form::Json, None, "1768277106000.5", Some("milliseconds: event_time = { …, format = \"unix_ms\" }")),
            (Form::Json, None, "1768277106000000", Some("microseconds: event_time = { …, format = \"unix_us\" }")),
            (Form::Json, None, "1768277106000000000", Some("nanoseconds: event_time = { …, format = \"unix_ns\" }")),
            (Form::Json, None, "1768277106000", None),
            (Form::Json, None, "5", None),
            (
                Form::Json,
                None,
                "2026-01-13 04:05:06",
                Some("a time without its offset: event_time = { …, assume_offset = \"+00:00\" }"),
            ),
            (Form::Json, Some(0), "2026-01-13 04:05:66", None),
            (Form::Json, None, "yesterday", None),
            (
                Form::Unix(UnixUnit::Seconds),
                None,
                "1768277106000",
                Some("milliseconds: event_time = { …, format = \"unix_ms\" }"),
            ),
            (Form::Unix(UnixUnit::Seconds), None, "2026-01-13T04:05:06Z", Some("ISO 8601: leave out `format`")),
            (Form::AccessLog, None, "1768277106", None),
        ] {
            let rule = rule(form, assume_offset);
            for expected in [rule.expected(text), rule.expected_in_range(text)] {
                let said = expected.split_once("; it looks like ").map(|(_, said)| said);
                assert_eq!(said, guess, "{text}: {expected}");
            }
        }
    }

    #[test]
    fn ranges_hold_at_their_borders() {
        for (time, kafka_ms, expected) in [
            (TIME_US_MIN, None, true),
            (TIME_US_MIN - 1, None, false),
            (TIME_US_END - 1, None, true),
            (TIME_US_END, None, false),
            (TIME_US_MIN + AHEAD_US_MAX, Some(TIME_US_MIN / 1000), true),
            (TIME_US_MIN + AHEAD_US_MAX + 1, Some(TIME_US_MIN / 1000), false),
            (TIME_US_MIN, Some(i64::MAX), true),
            (TIME_US_MIN, Some(i64::MIN), false),
        ] {
            assert_eq!(in_range(time, kafka_ms), expected, "{time} {kafka_ms:?}");
        }
        assert_eq!(iso8601("0001-01-01T00:00:00Z", None), Some(*WRITABLE_US.start()));
        assert_eq!(iso8601("9999-12-31T23:59:59.999999Z", None), Some(*WRITABLE_US.end()));
        assert_eq!(writable(i64::MAX), None);
    }

    proptest! {
        #[test]
        fn what_chrono_writes_is_read_back(us in *WRITABLE_US.start()..=*WRITABLE_US.end(), east_minutes in -1439..=1439_i32) {
            let zone = chrono::FixedOffset::east_opt(east_minutes * 60).expect("less than a day");
            let time = DateTime::from_timestamp_micros(us).expect("in range").with_timezone(&zone);
            let text = time.to_rfc3339_opts(SecondsFormat::Micros, true);
            prop_assume!(text.len() == "2026-01-13T04:05:06.000000+00:00".len() || text.ends_with('Z'));
            prop_assert_eq!(iso8601(&text, None), Some(us));
            let minute = us.div_euclid(60 * SECOND) * 60 * SECOND;
            for (pattern, assumed, expected) in [
                ("%Y-%m-%d %H:%M:%S,%6f%z", None, us),
                ("%Y-%m-%dT%H:%M%:z", None, minute),
                ("%Y%m%dT%H%M%S%.6f%z", None, us),
                ("%Y%m%d %H%M", Some(i64::from(east_minutes) * 60), minute),
            ] {
                prop_assert_eq!(iso8601(&time.format(pattern).to_string(), assumed), Some(expected), "{}", pattern);
            }
            let pattern = Pattern::new("%d %b %Y %I:%M:%S.%f %p %z").expect("a pattern");
            let text = time.format("%d %b %Y %I:%M:%S.%6f %p %z").to_string();
            prop_assert_eq!(strftime(&text, &pattern, None), Some(us));
        }

        #[test]
        fn any_text_is_read_as_chrono_reads_it_or_refused(text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:[0-5][0-9])") {
            let other = DateTime::parse_from_rfc3339(&text).ok().map(|time| time.timestamp_micros());
            prop_assert_eq!(iso8601(&text, None), other);
        }

        #[test]
        fn any_text_is_a_time_or_none(text in "[-+.,:TtzZeE0-9 /é]{0,32}") {
            let pattern = Pattern::new("%d.%m.%Y %H:%M:%S.%f %#z").expect("a pattern");
            for form in [Form::Json, Form::AccessLog, Form::Pattern(pattern), Form::Unix(UnixUnit::Ns)] {
                let rule = rule(form, None);
                rule.read(&text);
                rule.expected_in_range(&text);
            }
        }

        #[test]
        fn numbers_agree_with_exact_arithmetic(
            number in -1_000_000_000_000_000_000_000_000_000_i128..1_000_000_000_000_000_000_000_000_000,
            size in 0..28_u32,
            fraction_digits in 0..12_usize,
            exponent in -12..12_i32,
        ) {
            // number × 10^(exponent - fraction_digits), written with that many digits after the point.
            let number = number / 10_i128.pow(size);
            let digits = format!("{:0>width$}", number.unsigned_abs(), width = fraction_digits + 1);
            let (whole, fraction) = digits.split_at(digits.len() - fraction_digits);
            let sign = if number < 0 { "-" } else { "" };
            let point = if fraction.is_empty() { "" } else { "." };
            let text = format!("{sign}{whole}{point}{fraction}e{exponent}");
            for (unit, places) in UnixUnit::ALL.into_iter().zip([6, 3, 0, -3]) {
                let power = exponent - fraction_digits as i32 + places;
                let exact = if power < 0 {
                    number / 10_i128.pow(power.unsigned_abs())
                } else {
                    number.saturating_mul(10_i128.pow(power.unsigned_abs()))
                };
                let clamped = exact.clamp(-i128::from(i64::MAX), i128::from(i64::MAX));
                prop_assert_eq!(unix(&text, unit).map(i128::from), Some(clamped), "{} {:?}", text, unit);
            }
        }
    }
}
