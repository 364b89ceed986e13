//! Numbers, sizes, durations and times as people read them. Pure.

/// `1.2 M`, `850 k`, `12`.
pub fn short(number: f64) -> String {
    match number {
        number if number >= 999_500_000.0 => format!("{:.1} G", number / 1e9),
        number if number >= 999_500.0 => format!("{:.1} M", number / 1e6),
        number if number >= 9_999.5 => format!("{:.0} k", number / 1e3),
        number => format!("{number:.0}"),
    }
}

/// `1.2 MB`, `850 kB`, `12 B`.
pub fn bytes(number: u64) -> String {
    let text = short(number as f64);
    let space = if text.contains(' ') { "" } else { " " };
    text + space + "B"
}

/// `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1,234,567`, `-1,234,567`.
pub fn signed(number: i64) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", grouped(number.unsigned_abs()))
}

/// `2.1 s`, `4 m 5 s`, `1 h 2 m`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} m {} s", whole / 60, whole % 60),
        _ => format!("{} h {} m", whole / 3600, whole / 60 % 60),
    }
}

/// `2026-01-13 04:05:06Z` of a time in milliseconds.
pub fn utc(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms)
        .map_or_else(|| "?".to_owned(), |time| time.format("%Y-%m-%d %H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([7.0, 12_345.0, 1_234_567.0, 2e9].map(short), ["7", "12 k", "1.2 M", "2.0 G"]);
        assert_eq!([12, 850_000, 1_234_567].map(bytes), ["12 B", "850 kB", "1.2 MB"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([i64::MIN, -1000, 0, 1000].map(signed), ["-9,223,372,036,854,775,808", "-1,000", "0", "1,000"]);
        assert_eq!([0.25, 59.9, 245.0, 3725.0].map(duration), ["0.2 s", "59 s", "4 m 5 s", "1 h 2 m"]);
    }
}
