//! The counting part of a job: where each thing is found, what is left out, what is counted.
//!
//! Two jobs whose `Logic` is equal count the same for the same records.

use serde::{Deserialize, Serialize};

use super::pattern::Pattern;
use crate::model::Granularity;

/// Raised by hand whenever code changes what is counted for the same job file: a decoder's rule, a window's border, a transform.
///
/// - 2: more records can be counted. Event times in all unambiguous forms of ISO 8601, and milliseconds as a string; a byte order mark in
///   front; JSON with faults inside values that nobody asks for; bytes that are not UTF-8 and lone surrogates become U+FFFD; more
///   forms of access-log lines. An event time that could be read before is read as before: replays choose rows by it. So is a
///   customer, but for one out of a line: a list of proxies in front is the client now, and no virtual host; and a host's name before an
///   absent client is the virtual host, and no client.
/// - 1: the first.
pub const COUNTING: u32 = 2;

/// What is counted, and how it is found in a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logic {
    /// What a record's value is.
    pub format: Format,
    /// The format of lines as the server's configuration writes it; `None`: common or combined.
    #[serde(default)]
    pub line: Option<String>,
    /// Where in a JSON object the value to be read stands as a string: a pointer's unescaped parts; at least one.
    #[serde(default)]
    pub unwrap: Option<Vec<String>>,
    /// The customer.
    pub customer: FieldSpec,
    /// Whether a JSON integer is a customer as well; it counts by its digits.
    #[serde(default)]
    pub customer_integers: bool,
    /// The event time: never a constant, never transformed.
    pub event_time: Vec<Place>,
    /// How the event time is written.
    #[serde(default)]
    pub time_format: TimeFormat,
    /// The offset of event times that are written without one, in seconds east of UTC.
    #[serde(default)]
    pub assume_offset_seconds: Option<i32>,
    /// Fields by name, sorted; dimensions and filters refer to them by index.
    pub fields: Vec<Field>,
    /// All must hold, or the record is filtered; no two are equal.
    pub filters: Vec<Filter>,
    /// Sorted by name; `total` is always among them.
    pub dimensions: Vec<Dimension>,
    /// Grace in µs of minute, hour and day: a record is late for a window from `window_end + grace` on.
    pub graces_us: [i64; 3],
    /// A larger value is rejected as `too_large`, in bytes.
    pub record_bytes_max: usize,
}

impl Logic {
    /// Name of the dimension that counts every event, with the value ''.
    pub const TOTAL: &'static str = "total";

    /// How long after its end a window still takes records as on time, in µs. Week, month and year know no lateness: 0.
    pub fn grace_us(&self, granularity: Granularity) -> i64 {
        self.graces_us.get(granularity as usize).copied().unwrap_or(0)
    }

    /// All that decides which event time a record has. Two logics that agree on this read the same one wherever both can.
    pub fn time_rule(&self) -> (Shape<'_>, &[Place], &TimeFormat, Option<i32>) {
        (self.shape(), &self.event_time, &self.time_format, self.assume_offset_seconds)
    }

    /// All that decides which customer a record has, as [`Logic::time_rule`].
    pub fn customer_rule(&self) -> (Shape<'_>, &FieldSpec) {
        (self.shape(), &self.customer)
    }

    fn shape(&self) -> Shape<'_> {
        (self.format, self.line.as_deref(), self.unwrap.as_deref())
    }
}

/// What decides where a place is in a record: format, line and unwrap.
type Shape<'a> = (Format, Option<&'a str>, Option<&'a [String]>);

/// What a record's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object.
    Json,
    /// One line of an access log: common or combined, with or without the virtual host in front, or of the format in [`Logic::line`].
    AccessLog,
}

/// How event times are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeFormat {
    /// In JSON: ISO 8601, or integer milliseconds since 1970. In an access log: as the server writes it.
    #[default]
    Default,
    /// A number of these since 1970.
    Unix(UnixUnit),
    /// As a pattern says.
    Pattern(Pattern),
}

/// Units of numbers that are times.
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
    /// All.
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

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            UnixUnit::Seconds => "seconds",
            UnixUnit::Ms => "milliseconds",
            UnixUnit::Us => "microseconds",
            UnixUnit::Ns => "nanoseconds",
        }
    }
}

/// A field that dimensions and filters can use.
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
    /// The same for every record (customers only); not empty.
    Constant(String),
    /// In the first of `places` that is there, not null and not empty; then through `transforms` in order.
    Found {
        /// Where to look, in order; at least one, each once.
        places: Vec<Place>,
        /// What is done with the text.
        transforms: Vec<Transform>,
    },
}

/// A place in a record, of the job's format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A JSON pointer (RFC 6901) as its unescaped parts; at least one.
    Pointer(Vec<String>),
    /// A field of an access-log line.
    Line(LineField),
    /// A variable of [`Logic::line`], by its name.
    Variable(String),
}

/// Fields of an access-log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineField {
    /// The virtual host in front of the line, without its port.
    VirtualHost,
    /// The client's address or name.
    Client,
    /// The client's identity by RFC 1413.
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
    /// All, in the order of [`LineField`] as a number.
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

/// What is done with a text that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// The host of a URL in lower case, without user and port; '' when the text is no URL with a host.
    UrlHost,
    /// The path of a URL, without query and fragment; '/' when the URL has none; '' when the text is no URL.
    UrlPath,
    /// Unicode lower case.
    LowerCase,
}

/// A condition on a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Index in [`Logic::fields`].
    pub field: usize,
    /// What must hold for its text, after transforms and before it is shortened.
    pub condition: Condition,
}

/// What must hold for a text. A field that is absent, null or empty has the text ''.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It is this text, byte by byte.
    Equals(String),
    /// It is one of these.
    In(Vec<String>),
    /// It begins with this.
    Prefix(String),
    /// It is there and not empty, or (`false`) it is not.
    Exists(bool),
    /// The condition does not hold.
    Not(Box<Condition>),
}

/// A way in which events are counted apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dimension {
    /// The name in `counts`.
    pub name: String,
    /// Index in [`Logic::fields`]; `None` for `total`.
    pub field: Option<usize>,
    /// Lengths of its windows, finest first, each once; day or finer among them.
    pub granularities: Vec<Granularity>,
}
