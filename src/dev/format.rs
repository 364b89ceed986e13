//! Kafka records as lines of JSON: the format that `dev gen --output` writes and `dev produce --gen-format` sends.
//!
//! In: a record. Out: a line, and back: `{"partition":0,"timestamp_ms":1767225600000,"key":"…","value":"…"}`. Key and value are strings;
//! they are null where Kafka has none, and are called `key_base64` and `value_base64` where the bytes are not UTF-8. Pure.

use std::borrow::Cow;

use serde::Deserialize;

use super::traffic::Generated;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends the record as a line, newline included.
pub fn write_record_line(record: &Generated, out: &mut Vec<u8>) {
    out.extend_from_slice(
        format!("{{\"partition\":{},\"timestamp_ms\":{}", record.partition, record.timestamp_ms).as_bytes(),
    );
    for (name, bytes) in [("key", &record.key), ("value", &record.value)] {
        match bytes.as_deref().map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => out.extend_from_slice(format!(",\"{name}\":null").as_bytes()),
            Some((_, Ok(text))) => {
                out.extend_from_slice(format!(",\"{name}\":").as_bytes());
                serde_json::to_writer(&mut *out, text).expect("a string can always be written to memory");
            }
            Some((bytes, Err(_))) => {
                out.extend_from_slice(format!(",\"{name}_base64\":\"").as_bytes());
                push_base64(bytes, out);
                out.push(b'"');
            }
        }
    }
    out.extend_from_slice(b"}\n");
}

/// A record as it was read from such a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordLine<'a> {
    /// Kafka partition.
    pub partition: i32,
    /// Kafka timestamp, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Kafka key.
    pub key: Option<Cow<'a, [u8]>>,
    /// Kafka value.
    pub value: Option<Cow<'a, [u8]>>,
}

/// Reads a line, with or without its newline.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read_record_line(line: &[u8]) -> Result<RecordLine<'_>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line<'a> {
        partition: i32,
        timestamp_ms: i64,
        #[serde(borrow, default)]
        key: Option<Cow<'a, str>>,
        #[serde(default)]
        key_base64: Option<String>,
        #[serde(borrow, default)]
        value: Option<Cow<'a, str>>,
        #[serde(default)]
        value_base64: Option<String>,
    }
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        format!(
            "expected {{\"partition\":…,\"timestamp_ms\":…,\"key\":…,\"value\":…}} as written by `floodmark dev gen --output`: \
             {error}"
        )
    })?;
    let bytes = |text: Option<Cow<'_, str>>, base64: Option<String>, name: &str| match (text, base64) {
        (Some(_), Some(_)) => Err(format!("found both {name} and {name}_base64, expected one of them")),
        (Some(text), None) => Ok(Some(text.into_owned().into_bytes())),
        (None, Some(base64)) => {
            let bytes = from_base64(base64.as_bytes()).ok_or_else(|| format!("{name}_base64 is not base64"))?;
            Ok(Some(bytes))
        }
        (None, None) => Ok(None),
    };
    if line.partition < 0 {
        return Err(format!("partition: expected 0 or more, found {}", line.partition));
    }
    Ok(RecordLine {
        partition: line.partition,
        timestamp_ms: line.timestamp_ms,
        key: bytes(line.key, line.key_base64, "key")?.map(Cow::Owned),
        value: bytes(line.value, line.value_base64, "value")?.map(Cow::Owned),
    })
}

/// Base64 by RFC 4648, with padding.
fn push_base64(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |sum, &byte| sum << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * index)) as usize & 63];
            out.push(if index <= chunk.len() { digit } else { b'=' });
        }
    }
}

fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in digits.chunks(4) {
        let mut group = 0u32;
        for &digit in chunk {
            group = group << 6 | ALPHABET.iter().position(|&letter| letter == digit)? as u32;
        }
        group <<= 6 * (4 - chunk.len());
        bytes.extend_from_slice(&group.to_be_bytes()[1..chunk.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            partition in 0..1000i32,
            timestamp_ms: i64,
            key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
            value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
            text in "\\PC{0,20}",
        ) {
            for value in [value, Some(text.into_bytes())] {
                let record = Generated { partition, timestamp_ms, key: key.clone(), value, ..Generated::default() };
                let mut line = Vec::new();
                write_record_line(&record, &mut line);
                let read = read_record_line(&line).expect("a line of ours");
                prop_assert_eq!(read.partition, partition);
                prop_assert_eq!(read.timestamp_ms, timestamp_ms);
                prop_assert_eq!(read.key.as_deref(), record.key.as_deref());
                prop_assert_eq!(read.value.as_deref(), record.value.as_deref());
            }
        }
    }

    #[test]
    fn base64_is_the_usual_one() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            let mut out = Vec::new();
            push_base64(bytes.as_bytes(), &mut out);
            assert_eq!(out, text.as_bytes());
            assert_eq!(from_base64(text.as_bytes()).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(from_base64(b"Zg="), None);
        assert_eq!(from_base64(b"Z!=="), None);
    }

    #[test]
    fn lines_that_are_wrong_say_what_is() {
        let message = |line: &str| read_record_line(line.as_bytes()).expect_err("wrong");
        assert!(message("GET /").starts_with("expected {\"partition\""));
        assert!(message(r#"{"partition":0}"#).contains("missing field `timestamp_ms`"));
        assert_eq!(message(r#"{"partition":-1,"timestamp_ms":1}"#), "partition: expected 0 or more, found -1");
        assert_eq!(
            message(r#"{"partition":0,"timestamp_ms":1,"value":"a","value_base64":"Zg=="}"#),
            "found both value and value_base64, expected one of them"
        );
    }
}
