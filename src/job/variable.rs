//! The variables of a server's log format: what each gives, how it writes times and escapes, and the pieces that a format is made of.
//!
//! In: variables and texts, in the order of the format. Out: [`Pieces`], with each variable's meaning and the text that follows it. Pure.

use std::borrow::Cow;

use super::logic::LineField;
use super::pattern;

/// How a server writes characters that can not be part of a value as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Escapes {
    /// nginx's default: `\xHH`.
    Nginx,
    /// nginx with `escape=json`.
    Json,
    /// nginx with `escape=none`.
    None,
    /// Apache: `\"`, `\\`, `\n` …, `\xhh`.
    Apache,
}

/// A variable of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    /// Its name in job files: that of nginx, or for an Apache directive the name that nginx would give it.
    pub(crate) name: String,
    /// Which of the known fields it gives.
    pub(crate) meaning: Meaning,
    /// The character with which it begins unless it is empty, if that is known.
    pub(crate) begins: Option<char>,
    /// The text that follows; '' after the last variable, and if another variable follows immediately.
    pub(crate) then: String,
    /// The variable as it is written, for errors.
    pub(crate) written: String,
    /// Where it is written, for errors.
    pub(super) place: String,
}

impl Variable {
    /// Whether it is nginx's `$is_args`: one `?`, or nothing.
    pub(crate) fn is_mark(&self) -> bool {
        self.name == "is_args"
    }
}

/// What the value of a variable means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The time, in the given form.
    Time(LineTime),
    /// The host that was requested.
    VirtualHost,
    /// The client.
    Client,
    /// The client's identity.
    Ident,
    /// The user.
    User,
    /// The request line.
    Request,
    /// The request's method.
    Method,
    /// The request's target: path and query.
    Target,
    /// The path alone.
    Path,
    /// The query, with or without its `?`.
    Query,
    /// The protocol.
    Protocol,
    /// The status that was sent.
    Status,
    /// The status before an internal redirect.
    StatusBefore,
    /// The size of the body.
    BodyBytes,
    /// All bytes sent.
    BytesSent,
    /// The referrer.
    Referrer,
    /// The user agent.
    UserAgent,
    /// No known field.
    Other,
}

impl Meaning {
    /// How well the value gives a known field: the lowest rank is best; `None` if it does not give it.
    pub(super) fn rank(&self, field: LineField) -> Option<u8> {
        let fields: &[(LineField, u8)] = match self {
            Meaning::Time(_) => &[(LineField::Time, 0)],
            Meaning::VirtualHost => &[(LineField::VirtualHost, 0)],
            Meaning::Client => &[(LineField::Client, 0)],
            Meaning::Ident => &[(LineField::Ident, 0)],
            Meaning::User => &[(LineField::User, 0)],
            Meaning::Request => &[
                (LineField::Request, 0),
                (LineField::Method, 0),
                (LineField::Path, 0),
                (LineField::Query, 0),
                (LineField::Protocol, 0),
            ],
            Meaning::Target => &[(LineField::Path, 1), (LineField::Query, 1)],
            Meaning::Path => &[(LineField::Path, 2)],
            Meaning::Query => &[(LineField::Query, 2)],
            Meaning::Method => &[(LineField::Method, 1)],
            Meaning::Protocol => &[(LineField::Protocol, 1)],
            Meaning::Status => &[(LineField::Status, 0)],
            Meaning::StatusBefore => &[(LineField::Status, 1)],
            Meaning::BodyBytes => &[(LineField::Bytes, 0)],
            Meaning::BytesSent => &[(LineField::Bytes, 1)],
            Meaning::Referrer => &[(LineField::Referrer, 0)],
            Meaning::UserAgent => &[(LineField::UserAgent, 0)],
            Meaning::Other => &[],
        };
        fields.iter().find(|(other, _)| *other == field).map(|(_, rank)| *rank)
    }
}

/// How the time is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LineTime {
    /// `17/May/2015:10:05:03 +0000`
    AccessLog,
    /// ISO 8601.
    Iso8601,
    /// Seconds since 1970, possibly with a fraction.
    UnixSeconds,
    /// Milliseconds since 1970.
    UnixMs,
    /// Microseconds since 1970.
    UnixUs,
    /// As a strftime pattern describes it.
    Pattern(String),
}

impl LineTime {
    /// A time in this form, with blanks in the usual places.
    pub(crate) fn sample(&self) -> Cow<'static, str> {
        match self {
            LineTime::AccessLog => "17/May/2015:10:05:03 +0000".into(),
            LineTime::Iso8601 => "2015-05-17T10:05:03+00:00".into(),
            LineTime::UnixSeconds | LineTime::UnixMs | LineTime::UnixUs => "1431857103".into(),
            LineTime::Pattern(text) => pattern::sample(text).unwrap_or_else(|| text.clone()).into(),
        }
    }
}

/// What is wrong in the string: what was found, with its place, and what was expected.
pub(super) type Wrong = (String, String);

/// The pieces into which the string was split.
#[derive(Default)]
pub(super) struct Pieces {
    pub(super) front: String,
    pub(super) variables: Vec<Variable>,
}

impl Pieces {
    /// Adds a character of text.
    pub(super) fn text(&mut self, c: char) {
        self.variables.last_mut().map_or(&mut self.front, |variable| &mut variable.then).push(c);
    }

    /// Adds a variable.
    pub(super) fn variable(&mut self, named: Named, written: String, place: String) {
        let Named { name, meaning, begins } = named;
        self.variables.push(Variable { name, meaning, begins, then: String::new(), written, place });
    }
}

/// What a name stands for: the variable's name in job files, its meaning, and its first character.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) meaning: Meaning,
    pub(super) begins: Option<char>,
}

impl Named {
    pub(super) fn new(name: impl Into<String>, meaning: Meaning) -> Named {
        Named { name: name.into(), meaning, begins: None }
    }
}
