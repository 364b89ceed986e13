//! Undoes the escapes that servers write for characters that can not be in a line of a log as they are. Pure: no state, no
//! failure.

use crate::job::variable::Escapes;

/// The text that the server wrote as `text`; an escape that it would not write is kept as it is.
pub(super) fn undone(escapes: Escapes, text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match (escapes, byte, after) {
            (Escapes::Nginx | Escapes::Apache, b'\\', [b'x', high, low, more @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                out.push((hex(*high) << 4) | hex(*low));
                rest = more;
            }
            (Escapes::Json, b'\\', _) => match json_escape(after) {
                Some((c, more)) => {
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    rest = more;
                }
                None => out.push(*byte),
            },
            (Escapes::Apache, b'\\', [next, more @ ..]) => match plain(escapes, *next) {
                Some(plain) => {
                    out.push(plain);
                    rest = more;
                }
                None => out.push(*byte),
            },
            _ => out.push(*byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Reads what follows a backslash in JSON: the character that it stands for, and what comes after it; `None` if JSON knows no
/// such escape.
pub(super) fn json_escape(text: &[u8]) -> Option<(char, &[u8])> {
    match text {
        [b'u', after @ ..] => unicode(after),
        [letter, after @ ..] => Some((char::from(plain(Escapes::Json, *letter)?), after)),
        [] => None,
    }
}

/// What a letter after a backslash stands for.
fn plain(escapes: Escapes, letter: u8) -> Option<u8> {
    match (escapes, letter) {
        (_, b'"' | b'\\') => Some(letter),
        (_, b'b') => Some(8),
        (_, b't') => Some(b'\t'),
        (_, b'n') => Some(b'\n'),
        (_, b'r') => Some(b'\r'),
        (Escapes::Apache, b'v') => Some(11),
        (Escapes::Json, b'f') => Some(12),
        (Escapes::Json, b'/') => Some(b'/'),
        _ => None,
    }
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// The character of `XXXX`, or of `XXXX\uXXXX` if it takes two units; a surrogate without its other half is U+FFFD.
fn unicode(text: &[u8]) -> Option<(char, &[u8])> {
    let unit = |text: &[u8]| {
        let digits = text.get(..4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        Some(digits.iter().fold(0_u32, |number, digit| (number << 4) | u32::from(hex(*digit))))
    };
    let first = unit(text)?;
    let second = text.get(4..6).filter(|mark| *mark == b"\\u").and_then(|_| unit(&text[6..]));
    if let (0xD800..=0xDBFF, Some(second @ 0xDC00..=0xDFFF)) = (first, second) {
        let c = char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))?;
        return Some((c, &text[10..]));
    }
    Some((char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), &text[4..]))
}
