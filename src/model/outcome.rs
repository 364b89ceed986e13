//! What became of a record on arrival: counted, filtered, or rejected with a reason from a closed list.
//!
//! The decoder gives each record an [`Outcome`], and `raw` stores it beside the record. Plain data; the names are part of the
//! table, so they do not change.

use serde::{Deserialize, Serialize};

/// Why a record was rejected. The list is closed: dashboards and alerts are built on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is no value, or an empty one.
    Empty,
    /// The value is not UTF-8. Only builds with code number 1 gave this reason; later ones replace such bytes.
    NotUtf8,
    /// The value is not one JSON object.
    BadJson,
    /// The line is not an access-log line.
    BadLine,
    /// A field that the job needs is absent, null or empty.
    MissingField,
    /// A field is of another type than the job needs.
    WrongType,
    /// The event time can not be read.
    BadTime,
    /// The event time is more than 24 h after Kafka's timestamp, before 2000, or from 2100 on.
    TimeOutOfRange,
    /// The value is larger than `record_bytes_max`; it is archived nevertheless.
    TooLarge,
    /// The decoder panicked on this record. That is a bug of ours; the record is kept, and the job goes on.
    DecoderPanic,
}

impl Reason {
    /// All reasons, in the order in which they are checked.
    pub const ALL: [Reason; 10] = [
        Reason::Empty,
        Reason::TooLarge,
        Reason::NotUtf8,
        Reason::BadJson,
        Reason::BadLine,
        Reason::MissingField,
        Reason::WrongType,
        Reason::BadTime,
        Reason::TimeOutOfRange,
        Reason::DecoderPanic,
    ];

    /// The name in `raw`.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Empty => "empty",
            Reason::NotUtf8 => "not_utf8",
            Reason::BadJson => "bad_json",
            Reason::BadLine => "bad_line",
            Reason::MissingField => "missing_field",
            Reason::WrongType => "wrong_type",
            Reason::BadTime => "bad_time",
            Reason::TimeOutOfRange => "time_out_of_range",
            Reason::TooLarge => "too_large",
            Reason::DecoderPanic => "decoder_panic",
        }
    }
}

/// Why and where a record was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The reason.
    pub reason: Reason,
    /// The field of the mapping (`event_time`, `customer`, a dimension); `None` if it is about the whole value.
    pub field: Option<String>,
    /// What was expected.
    pub expected: String,
    /// What was found, at most [`Rejection::FOUND_BYTES_MAX`] bytes of it.
    pub found: String,
}

impl Rejection {
    /// `found` is cut at this many bytes (at a character boundary).
    pub const FOUND_BYTES_MAX: usize = 256;

    /// Makes a rejection. `found` is cut, and bytes in it that are not UTF-8 are replaced.
    pub fn new(reason: Reason, field: Option<&str>, expected: impl Into<String>, found: &[u8]) -> Self {
        let text = String::from_utf8_lossy(&found[..found.len().min(Self::FOUND_BYTES_MAX)]);
        let mut end = text.len().min(Self::FOUND_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Rejection { reason, field: field.map(str::to_owned), expected: expected.into(), found: text[..end].to_owned() }
    }
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In `counts`.
    Counted,
    /// Well-formed, but excluded by the job's `where`.
    Filtered,
    /// It can not be counted.
    Rejected(Box<Rejection>),
}

impl Outcome {
    /// The name in `raw`.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Counted => "counted",
            Outcome::Filtered => "filtered",
            Outcome::Rejected(_) => "rejected",
        }
    }
}
