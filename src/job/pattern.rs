//! Strftime patterns of event times: compiled once, and checked when the job file is read.
//!
//! In: a pattern of a job file, from `format` or from a time in `line`; later, texts. Out: what the pattern finds in a text, of which
//! `decode::time` makes a time. A pattern must have a whole date and a time of day, with hour and minute; seconds may be missing. Or it
//! has `%s`, seconds since 1970, which is enough. Failure: a pattern is refused with what is wrong and where; a text that does not fit
//! is `None`. Pure.
//!
//! Specifiers are read as chrono reads them (<https://docs.rs/chrono/latest/chrono/format/strftime/>); names of months and days are
//! English. But for one thing: `%f` is as in Python, the digits of a fraction of a second; at least one, and those beyond nine are cut
//! off (chrono takes them for a number of nanoseconds). White space matches white space of any length, or none. Names of time zones
//! (`%Z`) are passed over: they are no offsets, so a job with such a pattern needs `assume_offset`, unless the text has an offset too.

use std::fmt::{self, Write};

use chrono::format::{Item, Numeric, Parsed, StrftimeItems, parse_and_remainder};
use chrono::{DateTime, FixedOffset};
use serde::{Deserialize, Serialize};

/// A time that every pattern must be able to read once it has written it. Only that it can be read, with a date and a time of day, is
/// checked, not that it is the same time; and one sample is no proof for all others.
const SAMPLE: &str = "2026-01-13T14:05:06.789+02:00";

/// A pattern, compiled. In a logic's text it is the pattern as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Pattern {
    text: String,
    /// The items before, between and after each `%f`.
    parts: Vec<Vec<Item<'static>>>,
    has_offset: bool,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// What is wrong with it and where, and what was expected.
    pub fn new(text: &str) -> Result<Pattern, (String, String)> {
        let items = StrftimeItems::new(text).parse_to_owned().map_err(|_| bad_specifier(text))?;
        let is_fraction = |item: &Item<'_>| matches!(item, Item::Numeric(Numeric::Nanosecond, _));
        let parts = items.split(is_fraction).map(<[_]>::to_vec).collect();
        let mut pattern = Pattern { text: text.to_owned(), parts, has_offset: false };

        let parsed = sample(text).and_then(|written| pattern.parse(&written));
        let lacks = |what: &str, expected: &str| Err((format!("{text:?}, {what}"), expected.to_owned()));
        let Some(parsed) = parsed else {
            return lacks(
                "which cannot parse its own output",
                "separators between its parts, as in \"%d.%m.%Y %H:%M:%S\"",
            );
        };
        if parsed.timestamp().is_none() {
            if parsed.to_naive_date().is_err() {
                return lacks(
                    "which does not give a complete date",
                    "year, month and day, as in \"%d.%m.%Y %H:%M:%S\"",
                );
            }
            if parsed.to_naive_time().is_err() {
                return lacks("which does not give a time of day", "hour and minute, as in %H:%M, or %I:%M %p");
            }
        }
        pattern.has_offset = parsed.offset().is_some() || parsed.timestamp().is_some();
        Ok(pattern)
    }

    /// Whether a text that the pattern reads has an offset, or needs none (`%s`).
    pub fn has_offset(&self) -> bool {
        self.has_offset
    }

    /// What the pattern finds in `text`, as chrono's [`Parsed`]: `decode::time` makes a time of it. `None` when it does not fit from its
    /// first to its last character.
    pub fn parse(&self, text: &str) -> Option<Parsed> {
        let mut parsed = Parsed::new();
        let mut rest = text;
        for (index, items) in self.parts.iter().enumerate() {
            if index > 0 {
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                let nanos = (rest.bytes().take(digits).chain(std::iter::repeat(b'0')).take(9))
                    .fold(0, |nanos, digit| nanos * 10 + i64::from(digit - b'0'));
                (digits > 0).then(|| parsed.set_nanosecond(nanos).ok())??;
                rest = &rest[digits..];
            }
            rest = parse_and_remainder(&mut parsed, rest, items.iter()).ok()?;
        }
        rest.is_empty().then_some(parsed)
    }
}

/// The sample time in this pattern; where `%d` may have one digit or two, it writes two. `None` where it can not be written. Also what
/// a line's format is compiled with, to know which separators a time of this pattern has in it.
pub(super) fn sample(pattern: &str) -> Option<String> {
    let sample = DateTime::<FixedOffset>::parse_from_rfc3339(SAMPLE).expect("the sample is a time");
    let mut written = String::new();
    // `%#z` can only be parsed.
    let pattern = pattern.replace("%#z", "%z");
    write!(written, "{}", sample.format(&pattern)).ok().map(|()| written)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.text
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Pattern::new(&text).map_err(|(found, expected)| format!("found {found}; expected {expected}"))
    }
}

/// The first specifier that is not valid, and its place.
fn bad_specifier(text: &str) -> (String, String) {
    let mut at = 0;
    while let Some(next) = text[at..].find('%') {
        at += next;
        let rest = &text[at..];
        if StrftimeItems::new(rest).next().is_none_or(|item| item == Item::Error) {
            let end = rest.char_indices().nth(1).map_or(rest.len(), |(index, letter)| index + letter.len_utf8());
            let character = text[..at].chars().count() + 1;
            let found = format!("{text:?}, whose `{}` at character {character} is not a specifier", &rest[..end]);
            return (found, "strftime specifiers, as in \"%d.%m.%Y %H:%M:%S\"; %% for a plain %".to_owned());
        }
        at += if rest.starts_with("%%") { 2 } else { 1 };
    }
    (format!("{text:?}"), "a strftime pattern, as in \"%d.%m.%Y %H:%M:%S\"".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_yield_a_time_is_refused_with_its_place() {
        for (pattern, found) in [
            ("%d.%m.%Y %Q", "whose `%Q` at character 10 is not a specifier"),
            ("é %%%!", "whose `%!` at character 5 is not a specifier"),
            ("%Y-%m-%d %", "whose `%` at character 10 is not a specifier"),
            ("%Y-%m-%d", "a time of day"),
            ("%Y-%m-%d %H", "a time of day"),
            ("%Y-%m-%d %I:%M", "a time of day"),
            ("%H:%M:%S", "a complete date"),
            ("%m-%d %H:%M", "a complete date"),
            ("%f", "a complete date"),
            ("%Y-%m-%d %H:%M:%S %f%f", "cannot parse its own output"),
            ("", "a complete date"),
            ("now", "a complete date"),
        ] {
            let (said, expected) = Pattern::new(pattern).expect_err(pattern);
            assert!(said.contains(found) && !expected.is_empty(), "{pattern}: {said}");
        }
    }

    #[test]
    fn a_pattern_knows_whether_it_reads_an_offset() {
        for (pattern, has_offset) in [
            ("%d.%m.%Y %H:%M:%S", false),
            ("%Y-%m-%d %H:%M:%S,%f", false),
            ("%d/%b/%Y:%H:%M:%S %z", true),
            ("%a, %d %b %Y %I:%M:%S %p %:z", true),
            ("%Y-%m-%d %H:%M %Z", false),
            ("%G-W%V-%uT%R%#z", true),
            ("%s", true),
            ("%+", true),
            ("%c", false),
        ] {
            let pattern = Pattern::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error:?}"));
            assert_eq!(pattern.has_offset(), has_offset, "{pattern}");
            let text = serde_json::to_string(&pattern).expect("JSON");
            assert_eq!(serde_json::from_str::<Pattern>(&text).expect("read back"), pattern);
        }
        assert!(serde_json::from_str::<Pattern>("\"%Q\"").is_err());
    }
}
