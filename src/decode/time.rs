//! Reads event times as µs since 1970 UTC: ISO 8601, numbers of a unit, patterns, and the time of an access log.
//!
//! In: text. Out: a time, or none. Of ISO 8601, it accepts what can be read in one way only: a calendar date and a time of day,
//! both with separators (`2026-01-13T04:05:06`) or both without (`20260113T040506`), with `T`, `t` or one blank between them.
//! Seconds may be left out; a fraction of a second follows `.` or `,`. The offset is `Z`, `z`, `+hh`, `+hhmm` or `+hh:mm`
//! (`-00:00` is UTC); without one, the job must say which is assumed. It refuses a date alone, a date by week or day of the year,
//! an hour without its minutes, and `24:00`. A pattern can read most of these.
//!
//! A number is read from its decimal digits, with fraction and exponent, also if it is in a string. Digits beyond µs are cut off.
//! A leap second (`:60`) is accepted where one can be, in the last minute of a UTC day. It is counted as the last µs of its
//! minute, so that it stays in its minute, hour and day. Pure: no state.

use chrono::NaiveDate;

use crate::job::{Format, Logic, Pattern, TimeFormat, UnixUnit};
use crate::model::{TimeUs, WRITABLE_US};

const SECOND: i64 = 1_000_000;
const DAY_SECONDS: i64 = 86_400;

/// 2000-01-01T00:00:00Z: earlier event times are out of range.
pub(super) const TIME_US_MIN: TimeUs = 946_684_800 * SECOND;
/// 2100-01-01T00:00:00Z: event times from here on are out of range.
pub(super) const TIME_US_END: TimeUs = 4_102_444_800 * SECOND;
/// An event time that is later than Kafka's timestamp by more than this is out of range.
pub(super) const AHEAD_US_MAX: i64 = DAY_SECONDS * SECOND;

/// Whether an event time may be counted, given Kafka's timestamp.
pub(super) fn in_range(time: TimeUs, kafka_timestamp_ms: Option<i64>) -> bool {
    let ahead = kafka_timestamp_ms.is_some_and(|ms| time > ms.saturating_mul(1000).saturating_add(AHEAD_US_MAX));
    (TIME_US_MIN..TIME_US_END).contains(&time) && !ahead
}

/// The time, if it is one that every reader of `raw` can show.
pub(super) fn writable(time: TimeUs) -> Option<TimeUs> {
    WRITABLE_US.contains(&time).then_some(time)
}

/// How a job's event times are read.
#[derive(Debug)]
pub(super) struct TimeRule {
    form: Form,
    /// The offset that is assumed if none is written, in seconds east of UTC.
    assume_offset: Option<i64>,
}

#[derive(Debug)]
enum Form {
    /// ISO 8601 or integer milliseconds.
    Json,
    /// As access logs write it, or ISO 8601.
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
            // No number is ISO 8601, which has a `T` or a blank in it.
            Form::Json => iso8601(text, self.assume_offset).or_else(|| milliseconds(text)),
            Form::AccessLog => access_log(text).or_else(|| iso8601(text, self.assume_offset)),
            Form::Unix(unit) => unix(text, *unit),
            Form::Pattern(pattern) => strftime(text, pattern, self.assume_offset),
        }
    }

    /// What was expected in place of `text`.
    pub(super) fn expected(&self, text: &str) -> String {
        let expected = match &self.form {
            Form::Json if self.assume_offset.is_some() => {
                "a time of ISO 8601, or integer milliseconds since 1970".to_owned()
            }
            Form::Json => "a time of ISO 8601 with its offset, or integer milliseconds since 1970".to_owned(),
            Form::AccessLog => "a time as in 17/May/2015:10:05:03 +0000, or of ISO 8601 with its offset".to_owned(),
            Form::Unix(unit) => format!("{} since 1970", unit.word()),
            Form::Pattern(pattern) => format!("a time as in {pattern}"),
        };
        self.with_guess(expected, text)
    }

    /// What was expected in place of `text`, whose time is out of range.
    pub(super) fn expected_in_range(&self, text: &str) -> String {
        self.with_guess("from 2000 to 2099, and at most 24 h after Kafka's timestamp".to_owned(), text)
    }

    /// Adds what the text looks like, if it is a time of another form.
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

/// Reads `2026-01-13T04:05:06.789+01:00` and the like; `assume_offset` applies if no offset is written.
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

/// Reads `17/May/2015:10:05:03 +0000`, or with a fraction: `17/May/2015:10:05:03.123 +0000`.
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

/// Reads a number of `unit` since 1970: an integer, or with a fraction or an exponent. A time beyond i64 is clamped; it is far
/// out of range.
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

/// The number in `text` times 10^`places`, cut to an integer, and whether nothing was cut off. It is read from the digits
/// themselves, because a float would round. Clamped at the ends of i64.
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
    // How many digits are before the point once it has moved.
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

/// Reads an exponent, clamped where a larger one makes no difference.
fn decimal_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let size = digits.bytes().fold(0_i64, |size, digit| (size * 10 + i64::from(digit - b'0')).min(1 << 40));
    Some(if text.starts_with('-') { -size } else { size })
}

/// Reads a time by the pattern; `assume_offset` applies if the text has no offset.
pub(super) fn strftime(text: &str, pattern: &Pattern, assume_offset: Option<i64>) -> Option<TimeUs> {
    let parsed = pattern.parse(text)?;
    let offset = match (parsed.offset().map(i64::from).or(assume_offset), parsed.timestamp()) {
        (Some(offset), _) => offset,
        (None, Some(_)) => 0,
        (None, None) => return None,
    };
    let local = parsed.to_naive_datetime_with_offset(i32::try_from(offset).ok()?).ok()?.and_utc();
    let seconds = local.timestamp() - offset;
    // A leap second comes as the second before it, with a fraction of a second or more.
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

/// The time in µs. `is_leap`: it is the leap second that follows this second.
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
mod tests;
