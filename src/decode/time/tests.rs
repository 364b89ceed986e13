//! Times in every form that is read, and in some that are not.

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
        // An offset that is written takes precedence.
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
