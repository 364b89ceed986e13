//! Times on the command line: dates or times, in UTC unless they have an offset.
//!
//! In: a text. Out: a time in µs, or a text that says what was expected. State: none. Pure.

use chrono::{DateTime, NaiveDate, NaiveDateTime};

use crate::model::TimeUs;

/// Reads `2026-01-13`, `2026-01-13T04`, `2026-01-13T04:05`, `2026-01-13T04:05:06`, with or without `Z`; or RFC 3339 with an offset.
///
/// # Errors
/// A text that says what was expected.
pub fn parse(text: &str) -> Result<TimeUs, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_micros());
    }
    let plain = text.strip_suffix(['Z', 'z']).unwrap_or(text).replace(' ', "T");
    if let Ok(date) = NaiveDate::parse_from_str(&plain, "%Y-%m-%d") {
        return Ok(date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros());
    }
    // A time can only be parsed with its minutes.
    let with_minutes = if plain.contains('T') && !plain.contains(':') { format!("{plain}:00") } else { plain };
    ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(&with_minutes, format).ok())
        .map(|time| time.and_utc().timestamp_micros())
        .ok_or_else(|| {
            "expected a date or a time in UTC, such as 2026-01-13, 2026-01-13T04 or 2026-01-13T04:05Z".to_owned()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_are_utc() {
        let at = |text: &str| text.parse::<DateTime<chrono::Utc>>().expect("a time").timestamp_micros();
        for (text, time) in [
            ("2026-01-13", "2026-01-13T00:00:00Z"),
            ("2026-01-13T04", "2026-01-13T04:00:00Z"),
            ("2026-01-13T04Z", "2026-01-13T04:00:00Z"),
            ("2026-01-13 04:05", "2026-01-13T04:05:00Z"),
            ("2026-01-13T04:05:06Z", "2026-01-13T04:05:06Z"),
            ("2026-01-13T04:05:06.5", "2026-01-13T04:05:06.5Z"),
            ("2026-01-13T04:05:06+02:00", "2026-01-13T02:05:06Z"),
        ] {
            assert_eq!(parse(text), Ok(at(time)), "{text}");
        }
        for text in ["", "13.1.2026", "2026-02-30", "2026-01-13T25", "noon"] {
            assert!(parse(text).is_err_and(|error| error.contains("2026-01-13T04:05Z")), "{text}");
        }
    }
}
