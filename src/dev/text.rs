//! Appends numbers, ids and times to bytes, and reads times from them.
//!
//! In: values. Out: bytes. It is written for speed, since the generator does little else. Pure.

use chrono::NaiveDate;

const HEX: &[u8; 16] = b"0123456789abcdef";
const DAY_MS: i64 = 86_400_000;

/// Decimal digits.
pub(super) fn push_number(out: &mut Vec<u8>, number: u64) {
    push_padded(out, number, 1);
}

/// Decimal digits, with leading zeros up to `width` (at most 20).
pub(super) fn push_padded(out: &mut Vec<u8>, mut number: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    while number > 0 {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[start.min(digits.len() - width)..]);
}

/// 16 hexadecimal digits.
pub(super) fn hex(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (index, digit) in digits.iter_mut().enumerate() {
        *digit = HEX[(number >> (60 - 4 * index)) as usize & 15];
    }
    digits
}

/// A UUID of version 4, made of 128 random bits.
pub(super) fn push_uuid(out: &mut Vec<u8>, high: u64, low: u64) {
    let high = hex(high & !0xf000 | 0x4000);
    let low = hex(low & !(0b11 << 62) | 0b10 << 62);
    out.extend_from_slice(&high[..8]);
    out.push(b'-');
    out.extend_from_slice(&high[8..12]);
    out.push(b'-');
    out.extend_from_slice(&high[12..]);
    out.push(b'-');
    out.extend_from_slice(&low[..4]);
    out.push(b'-');
    out.extend_from_slice(&low[4..]);
}

/// RFC 3339 with milliseconds: `2026-01-13T04:05:06.789Z`; or, with an offset, the local time followed by the offset. Years 0 to 9999.
pub(super) fn push_rfc3339_ms(out: &mut Vec<u8>, time_ms: i64, offset_minutes: Option<i16>) {
    let local_ms = time_ms + i64::from(offset_minutes.unwrap_or(0)) * 60_000;
    let (year, month, day) = civil_from_days(local_ms.div_euclid(DAY_MS));
    let of_day = local_ms.rem_euclid(DAY_MS) as u32;
    let mut text = *b"0000-00-00T00:00:00.000";
    let mut put = |at: usize, width: usize, mut number: u32| {
        for index in (at..at + width).rev() {
            text[index] = b'0' + (number % 10) as u8;
            number /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, of_day / 3_600_000);
    put(14, 2, of_day / 60_000 % 60);
    put(17, 2, of_day / 1000 % 60);
    put(20, 3, of_day % 1000);
    out.extend_from_slice(&text);
    match offset_minutes {
        None => out.push(b'Z'),
        Some(offset) => {
            out.push(if offset < 0 { b'-' } else { b'+' });
            push_padded(out, u64::from(offset.unsigned_abs() / 60), 2);
            out.push(b':');
            push_padded(out, u64::from(offset.unsigned_abs() % 60), 2);
        }
    }
}

/// Year, month and day from days since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil_from_days(days: i64) -> (u32, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as u32, month as u32, day as u32)
}

/// The time of an access log line in milliseconds since 1970: the first `[17/May/2015:10:05:03 +0000]` in it.
pub(super) fn access_log_ms(line: &[u8]) -> Option<i64> {
    line.iter().enumerate().filter(|&(_, &byte)| byte == b'[').find_map(|(at, _)| {
        let text = line.get(at + 1..at + 28)?;
        (text[26] == b']').then(|| access_log_time(&text[..26])).flatten()
    })
}

fn access_log_time(text: &[u8]) -> Option<i64> {
    const MONTHS: [&[u8]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let shape = text[2] == b'/' && text[6] == b'/' && text[11] == b':' && text[14] == b':' && text[17] == b':';
    let sign = match (shape, text[20], text[21]) {
        (true, b' ', b'+') => 1,
        (true, b' ', b'-') => -1,
        _ => return None,
    };
    let number = |from: usize, to: usize| {
        text[from..to]
            .iter()
            .try_fold(0u32, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u32::from(byte - b'0')))
    };
    let month = MONTHS.iter().position(|name| *name == &text[3..6])? as u32 + 1;
    let date = NaiveDate::from_ymd_opt(number(7, 11)? as i32, month, number(0, 2)?)?;
    let time = date.and_hms_opt(number(12, 14)?, number(15, 17)?, number(18, 20)?)?;
    let offset_minutes = sign * i64::from(number(22, 24)? * 60 + number(24, 26)?);
    Some(time.and_utc().timestamp_millis() - offset_minutes * 60_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, SecondsFormat};

    fn written(time_ms: i64, offset_minutes: Option<i16>) -> String {
        let mut out = Vec::new();
        push_rfc3339_ms(&mut out, time_ms, offset_minutes);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn times_are_written_as_chrono_writes_them() {
        let step = 86_400_000 * 3 + 12_345_678;
        for time_ms in (-1_000_000_000_000..5_000_000_000_000).step_by(step * 7) {
            let expected =
                DateTime::from_timestamp_millis(time_ms).expect("a time").to_rfc3339_opts(SecondsFormat::Millis, true);
            assert_eq!(written(time_ms, None), expected);
            for offset in [0i16, 60, -330, 345, 840] {
                let local = DateTime::parse_from_rfc3339(&written(time_ms, Some(offset))).expect("RFC 3339");
                assert_eq!(local.timestamp_millis(), time_ms);
                assert_eq!(local.offset().local_minus_utc(), i32::from(offset) * 60);
            }
        }
        assert_eq!(written(951_782_400_001, None), "2000-02-29T00:00:00.001Z");
    }

    #[test]
    fn numbers_and_ids() {
        let mut out = Vec::new();
        push_number(&mut out, 0);
        out.push(b' ');
        push_padded(&mut out, 42, 5);
        out.push(b' ');
        push_number(&mut out, u64::MAX);
        out.push(b' ');
        push_uuid(&mut out, u64::MAX, 0);
        assert_eq!(
            String::from_utf8(out).expect("ASCII"),
            "0 00042 18446744073709551615 ffffffff-ffff-4fff-8000-000000000000"
        );
    }

    #[test]
    fn access_log_times() {
        let line = b"h [x] [::1] - - [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.1\" 200 1";
        assert_eq!(access_log_ms(line), Some(1_431_857_103_000));
        assert_eq!(access_log_ms(b"[17/May/2015:12:05:03 +0200]"), Some(1_431_857_103_000));
        assert_eq!(access_log_ms(b"[17/May/2015:04:35:03 -0530]"), Some(1_431_857_103_000));
        for broken in
            ["", "[", "[17/May/2015:10:05:03 +0000", "[31/Feb/2015:10:05:03 +0000]", "[17/Mai/2015:10:05:03 +0000]"]
        {
            assert_eq!(access_log_ms(broken.as_bytes()), None, "{broken}");
        }
    }
}
