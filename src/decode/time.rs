//! Event times: RFC 3339, milliseconds, and the time of an access log; all to µs since 1970 UTC.
//!
//! Decided here: `t`, `z` and a space for `T` are accepted, as RFC 3339 allows. An offset is needed; `-00:00` is UTC. Digits beyond µs are cut off.
//! A leap second (`:60`) is accepted where one can be, in the last minute of a UTC day, and is counted as the last µs of its minute,
//! so that it stays in its minute, hour and day.

use chrono::NaiveDate;

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

/// Milliseconds as they stand in the JSON. `None`: not an integer. A number beyond i64 is clamped: it is far out of range.
pub(super) fn milliseconds(text: &str) -> Option<TimeUs> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let clamped = if digits.len() == text.len() { i64::MAX } else { i64::MIN };
    Some(text.parse::<i64>().unwrap_or(clamped).saturating_mul(1000))
}

/// `2026-01-13T04:05:06.789+01:00`
pub(super) fn rfc3339(text: &str) -> Option<TimeUs> {
    let (date_time, mut rest) = text.as_bytes().split_first_chunk::<19>()?;
    let separators = [date_time[4], date_time[7], date_time[13], date_time[16]];
    if separators != *b"--::" || !matches!(date_time[10], b'T' | b't' | b' ') {
        return None;
    }
    let date = date(digits(&date_time[..4])?, digits(&date_time[5..7])?, digits(&date_time[8..10])?)?;
    let clock = [digits(&date_time[11..13])?, digits(&date_time[14..16])?, digits(&date_time[17..])?];
    let mut micros = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if length == 0 {
            return None;
        }
        micros = digits(&fraction[..length.min(6)])? * 10_i64.pow(6 - length.min(6) as u32);
        rest = &fraction[length..];
    }
    let offset = match rest {
        [b'Z' | b'z'] => 0,
        [sign, h1, h2, b':', m1, m2] => offset(*sign, &[*h1, *h2], &[*m1, *m2])?,
        _ => return None,
    };
    instant(date, clock, micros, offset)
}

/// `17/May/2015:10:05:03 +0000`
pub(super) fn access_log(text: &str) -> Option<TimeUs> {
    let bytes: &[u8; 26] = text.as_bytes().try_into().ok()?;
    if [bytes[2], bytes[6], bytes[11], bytes[14], bytes[17], bytes[20]] != *b"//::: " {
        return None;
    }
    let months: [&[u8]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let month = months.iter().position(|name| *name == &bytes[3..6])? as i64 + 1;
    let date = date(digits(&bytes[7..11])?, month, digits(&bytes[..2])?)?;
    let clock = [digits(&bytes[12..14])?, digits(&bytes[15..17])?, digits(&bytes[18..20])?];
    instant(date, clock, 0, offset(bytes[21], &bytes[22..24], &bytes[24..])?)
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
    let leap = second == 60;
    let seconds = days * DAY_SECONDS + hour * 3600 + minute * 60 + second.min(59) - offset;
    if leap && seconds.rem_euclid(DAY_SECONDS) != DAY_SECONDS - 1 {
        return None;
    }
    Some(seconds * SECOND + if leap { 999_999 } else { micros })
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

    #[test]
    fn rfc3339_in_all_its_forms() {
        let base = 1_768_277_106 * SECOND; // 2026-01-13T04:05:06Z
        for (text, expected) in [
            ("2026-01-13T04:05:06Z", Some(base)),
            ("2026-01-13t04:05:06z", Some(base)),
            ("2026-01-13 04:05:06Z", Some(base)),
            ("2026-01-13T04:05:06+00:00", Some(base)),
            ("2026-01-13T04:05:06-00:00", Some(base)),
            ("2026-01-13T09:35:06+05:30", Some(base)),
            ("2026-01-12T20:05:06-08:00", Some(base)),
            ("2026-01-14T04:04:06+23:59", Some(base)),
            ("2026-01-13T04:05:06.7Z", Some(base + 700_000)),
            ("2026-01-13T04:05:06.789Z", Some(base + 789_000)),
            ("2026-01-13T04:05:06.123456Z", Some(base + 123_456)),
            ("2026-01-13T04:05:06.123456999+00:00", Some(base + 123_456)),
            ("2016-12-31T23:59:60Z", Some(1_483_228_800 * SECOND - 1)),
            ("2017-01-01T00:59:60.5+01:00", Some(1_483_228_800 * SECOND - 1)),
            ("1969-12-31T23:59:59.5Z", Some(-500_000)),
            ("2026-01-13T04:05:60Z", None),
            ("2026-01-13T04:05:06", None),
            ("2026-01-13T04:05:06.Z", None),
            ("2026-01-13T04:05:06,5Z", None),
            ("2026-01-13T04:05:06+0000", None),
            ("2026-01-13T04:05:06+24:00", None),
            ("2026-01-13T04:05:06+00:60", None),
            ("2026-01-13T04:05:06+1:00", None),
            ("2026-01-13T04:05:06 Z", None),
            ("2026-01-13T04:05:06Zx", None),
            ("2026-01-13T04:05Z", None),
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
            assert_eq!(rfc3339(text), expected, "{text}");
        }
    }

    #[test]
    fn access_log_times() {
        for (text, expected) in [
            ("17/May/2015:10:05:03 +0000", Some(1_431_857_103 * SECOND)),
            ("17/May/2015:12:05:03 +0200", Some(1_431_857_103 * SECOND)),
            ("17/May/2015:03:05:03 -0700", Some(1_431_857_103 * SECOND)),
            ("31/Dec/2016:23:59:60 +0000", Some(1_483_228_800 * SECOND - 1)),
            ("17/may/2015:10:05:03 +0000", None),
            ("31/Jun/2015:10:05:03 +0000", None),
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
    fn milliseconds_are_integers_only() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1768277106000", Some(1_768_277_106 * SECOND)),
            ("-1", Some(-1000)),
            ("9223372036854775807", Some(i64::MAX)),
            ("99999999999999999999", Some(i64::MAX)),
            ("-99999999999999999999", Some(i64::MIN)),
            ("1.0", None),
            ("1e3", None),
            ("-", None),
            ("", None),
        ] {
            assert_eq!(milliseconds(text), expected, "{text}");
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
        assert_eq!(rfc3339("0001-01-01T00:00:00Z"), Some(*WRITABLE_US.start()));
        assert_eq!(rfc3339("9999-12-31T23:59:59.999999Z"), Some(*WRITABLE_US.end()));
        assert_eq!(writable(i64::MAX), None);
    }

    proptest! {
        #[test]
        fn what_chrono_writes_is_read_back(us in *WRITABLE_US.start()..=*WRITABLE_US.end(), east_minutes in -1439..=1439_i32) {
            let zone = chrono::FixedOffset::east_opt(east_minutes * 60).expect("less than a day");
            let text = DateTime::from_timestamp_micros(us).expect("in range").with_timezone(&zone)
                .to_rfc3339_opts(SecondsFormat::Micros, true);
            prop_assume!(text.len() == "2026-01-13T04:05:06.000000+00:00".len() || text.ends_with('Z'));
            prop_assert_eq!(rfc3339(&text), Some(us));
        }

        #[test]
        fn any_text_is_read_as_chrono_reads_it_or_refused(text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:[0-5][0-9])") {
            let other = DateTime::parse_from_rfc3339(&text).ok().map(|time| time.timestamp_micros());
            prop_assert_eq!(rfc3339(&text), other);
        }
    }
}
