//! The logic of a job: where each part of an event is found, what is left out, and what is counted.
//!
//! In: what the sections of a job file say. Out: [`Logic`], a plain value that is also stored beside the tables. Two jobs with equal logics
//! count the same for the same records. Pure.

use serde::{Deserialize, Serialize};

use super::pattern::Pattern;
use crate::model::Granularity;

/// Raised by hand whenever the code changes what is counted for the same job file: a rule of the decoder, a border of a window, a
/// transform.
///
/// - 2: more records can be counted. New are: event times in all unambiguous forms of ISO 8601, and milliseconds as a string; a byte order
///   mark at the beginning; JSON with faults inside values that nothing reads; bytes that are not UTF-8, and lone surrogates, which become
///   U+FFFD; more forms of access log lines. An event time that could be read before is read as before, since replays select rows by it.
///   So is a customer, unless it is taken from a line: a list of proxies at the beginning is now the client, not the virtual host; and a
///   host name before an absent client is now the virtual host, not the client.
/// - 1: the first.
pub const COUNTING: u32 = 2;

/// What is counted, and where it is found in a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logic {
    /// The format of a record's value.
    pub format: Format,
    /// The format of lines, as in the server's configuration; `None` for common or combined.
    #[serde(default)]
    pub line: Option<String>,
    /// Where in a JSON object the value to be decoded is, as a string: the unescaped parts of a pointer; at least one.
    #[serde(default)]
    pub unwrap: Option<Vec<String>>,
    /// Where the customer is.
    pub customer: FieldSpec,
    /// Whether a JSON integer can also be a customer; its digits are its name.
    #[serde(default)]
    pub customer_integers: bool,
    /// Where the event time is: never a constant, never transformed.
    pub event_time: Vec<Place>,
    /// How the event time is written.
    #[serde(default)]
    pub time_format: TimeFormat,
    /// The offset of event times that are written without one, in seconds east of UTC.
    #[serde(default)]
    pub assume_offset_seconds: Option<i32>,
    /// Fields by name, sorted; dimensions and filters refer to them by index.
    pub fields: Vec<Field>,
    /// Conditions that must all hold, or the record is filtered. No two are equal.
    pub filters: Vec<Filter>,
    /// Sorted by name; `total` is always among them.
    pub dimensions: Vec<Dimension>,
    /// Grace of minute, hour and day, in µs: a record is late for a window from `window_end + grace` on.
    pub graces_us: [i64; 3],
    /// The largest value in bytes; a larger one is rejected as `too_large`.
    pub record_bytes_max: usize,
}

impl Logic {
    /// The name of the dimension that counts every event, with the value ''.
    pub const TOTAL: &'static str = "total";

    /// How long after its end a window still accepts records as on time, in µs. For week, month and year, no record is late: 0.
    pub fn grace_us(&self, granularity: Granularity) -> i64 {
        self.graces_us.get(granularity as usize).copied().unwrap_or(0)
    }

    /// Everything that decides which event time a record has. Two logics that agree on this read the same event time wherever both can read
    /// one.
    pub fn time_rule(&self) -> (Shape<'_>, &[Place], &TimeFormat, Option<i32>) {
        (self.shape(), &self.event_time, &self.time_format, self.assume_offset_seconds)
    }

    /// Everything that decides which customer a record has; otherwise as [`Logic::time_rule`].
    pub fn customer_rule(&self) -> (Shape<'_>, &FieldSpec) {
        (self.shape(), &self.customer)
    }

    fn shape(&self) -> Shape<'_> {
        (self.format, self.line.as_deref(), self.unwrap.as_deref())
    }
}

/// What decides where a place is in a record: format, line and unwrap.
type Shape<'a> = (Format, Option<&'a str>, Option<&'a [String]>);

/// The format of a record's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object.
    Json,
    /// A line of an access log: common or combined, with or without the virtual host at the beginning, or in the format of [`Logic::line`].
    AccessLog,
}

/// How event times are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeFormat {
    /// In JSON: ISO 8601, or integer milliseconds since 1970. In an access log: as the server writes it.
    #[default]
    Default,
    /// A number of these units since 1970.
    Unix(UnixUnit),
    /// As a pattern describes it.
    Pattern(Pattern),
}

/// Units of times that are written as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnixUnit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

impl UnixUnit {
    /// All units.
    pub const ALL: [UnixUnit; 4] = [UnixUnit::Seconds, UnixUnit::Ms, UnixUnit::Us, UnixUnit::Ns];

    /// The name in job files.
    pub fn name(self) -> &'static str {
        match self {
            UnixUnit::Seconds => "unix_seconds",
            UnixUnit::Ms => "unix_ms",
            UnixUnit::Us => "unix_us",
            UnixUnit::Ns => "unix_ns",
        }
    }

    /// The unit as a word.
    pub fn word(self) -> &'static str {
        match self {
            UnixUnit::Seconds => "seconds",
            UnixUnit::Ms => "milliseconds",
            UnixUnit::Us => "microseconds",
            UnixUnit::Ns => "nanoseconds",
        }
    }
}

/// A field that dimensions and filters can refer to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its name in the job file.
    pub name: String,
    /// Where it is found; never a constant.
    pub spec: FieldSpec,
}

/// How a text is found in a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldSpec {
    /// The same text for every record (only for customers); not empty.
    Constant(String),
    /// The first of `places` whose value is present, not null and not empty; then `transforms` are applied in order.
    Found {
        /// Where to look, in order; at least one, and no two are equal.
        places: Vec<Place>,
        /// The transforms of the text, in order.
        transforms: Vec<Transform>,
    },
}

/// A place in a record, depending on the job's format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The unescaped parts of a JSON pointer (RFC 6901); at least one.
    Pointer(Vec<String>),
    /// A field of an access-log line.
    Line(LineField),
    /// A variable of [`Logic::line`], by its name.
    Variable(String),
}

/// The known fields of an access log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineField {
    /// The virtual host at the beginning of the line, without its port.
    VirtualHost,
    /// The client's address or name.
    Client,
    /// The client's identity, as in RFC 1413.
    Ident,
    /// The authenticated user.
    User,
    /// The time between the brackets.
    Time,
    /// The request line.
    Request,
    /// The request's method.
    Method,
    /// The path of the request's target, without query and fragment.
    Path,
    /// The query of the request's target, without its `?`.
    Query,
    /// The request's protocol.
    Protocol,
    /// The response's status.
    Status,
    /// The response's size.
    Bytes,
    /// The referrer.
    Referrer,
    /// The user agent.
    UserAgent,
}

impl LineField {
    /// All fields, ordered by [`LineField`] as a number.
    pub const ALL: [LineField; 14] = [
        LineField::VirtualHost,
        LineField::Client,
        LineField::Ident,
        LineField::User,
        LineField::Time,
        LineField::Request,
        LineField::Method,
        LineField::Path,
        LineField::Query,
        LineField::Protocol,
        LineField::Status,
        LineField::Bytes,
        LineField::Referrer,
        LineField::UserAgent,
    ];

    /// The name in job files.
    pub fn name(self) -> &'static str {
        match self {
            LineField::VirtualHost => "virtual_host",
            LineField::Client => "client",
            LineField::Ident => "ident",
            LineField::User => "user",
            LineField::Time => "time",
            LineField::Request => "request",
            LineField::Method => "method",
            LineField::Path => "path",
            LineField::Query => "query",
            LineField::Protocol => "protocol",
            LineField::Status => "status",
            LineField::Bytes => "bytes",
            LineField::Referrer => "referrer",
            LineField::UserAgent => "user_agent",
        }
    }
}

/// A transform of a text that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// The host of a URL in lower case, without user and port; '' if the text is not a URL with a host.
    UrlHost,
    /// The path of a URL, without query and fragment; '/' if the URL has none; '' if the text is not a URL.
    UrlPath,
    /// The text in lower case, by Unicode.
    LowerCase,
}

/// A condition on a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Index in [`Logic::fields`].
    pub field: usize,
    /// What must hold for its text, after the transforms and before it is shortened.
    pub condition: Condition,
}

/// A condition on a text. The text of a field that is absent, null or empty is ''.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It equals this text, byte by byte.
    Equals(String),
    /// It equals one of these texts.
    In(Vec<String>),
    /// It begins with this text.
    Prefix(String),
    /// It is present and not empty; with `false`, it is not.
    Exists(bool),
    /// The inner condition does not hold.
    Not(Box<Condition>),
}

/// A dimension by which events are counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dimension {
    /// The name in `counts`.
    pub name: String,
    /// Index in [`Logic::fields`]; `None` for `total`.
    pub field: Option<usize>,
    /// The granularities of its windows, finest first, each once; at least one is a day or finer.
    pub granularities: Vec<Granularity>,
}
