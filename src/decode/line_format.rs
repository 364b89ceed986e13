//! Reads lines of a server's own format, as `[event] line` describes it, in one pass from left to right, in linear time.
//!
//! In: a line. Out: the text of each requested variable, or a [`BadLine`]. A variable takes everything up to the text that
//! follows it in the format; an escaped quote does not end it. The last variable takes the rest of the line, or one word if its
//! values never hold a blank. Whatever follows the last text of the format is ignored. Values are unescaped as the server escaped
//! them; bytes that are then not UTF-8 become U+FFFD. `-` is an absent field. State: none.

use super::escapes::undone;
use super::found::{Found, Kind};
use super::front::{is_host, without_port};
use super::line::{BadLine, Request, check_bytes, check_status, ends_in_escape, line_of, path_and_query};
use crate::job::LineField;
use crate::job::line::LineFormat;
use crate::job::line_names::{is_list, is_word};
use crate::job::variable::{Escapes, LineTime, Meaning, Variable};

/// A format, compiled for the requested fields.
#[derive(Debug)]
pub(super) struct Lines {
    escapes: Escapes,
    front: String,
    steps: Vec<Step>,
    slots: usize,
}

/// A variable, and what follows it.
#[derive(Debug)]
struct Step {
    end: End,
    then: String,
    meaning: Meaning,
    /// The known fields that are requested of it.
    fields: Vec<LineField>,
    /// The slots for which it is requested by its own name.
    own: Vec<usize>,
    written: String,
}

/// Where a value ends.
#[derive(Debug)]
enum End {
    /// At the text that follows.
    Text {
        /// How often the text occurs within the value itself, as in a time that holds a blank.
        skip: usize,
        /// Values may be lists, `a, b`.
        is_list: bool,
        /// The time that follows the text, if one does: the value, such as a user's name, may hold the text too.
        before: Option<LineTime>,
    },
    /// Where the next variable, which follows directly, begins with this character; at the latest at the next text of the format.
    Begin(char, String),
    /// After one `?`, if there is one.
    Mark,
    /// At the first blank.
    Word,
    /// At the end of the line.
    Rest,
}

impl Lines {
    /// Compiles `format`; `names` are the variables that are requested by their own names, whose slots follow those of
    /// [`LineField::ALL`].
    pub(super) fn new(format: &LineFormat, fields: &[LineField], names: &[&str]) -> Lines {
        let all = &format.variables;
        let steps = all.iter().enumerate().map(|(index, variable)| Step {
            end: end(variable, &all[index + 1..]),
            then: variable.then.clone(),
            meaning: variable.meaning.clone(),
            fields: fields.iter().copied().filter(|field| format.variable_of(*field) == Some(index)).collect(),
            own: (0..names.len())
                .filter(|number| format.variable_named(names[*number]) == Some(index))
                .map(|number| LineField::ALL.len() + number)
                .collect(),
            written: variable.written.clone(),
        });
        Lines {
            escapes: format.escapes,
            front: format.front.clone(),
            steps: steps.collect(),
            slots: LineField::ALL.len() + names.len(),
        }
    }

    /// Number of slots.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// Whether the lines of the format begin as a JSON object does.
    pub(super) fn are_json(&self) -> bool {
        self.front.starts_with('{')
    }

    /// Reads one line, with or without its line ending.
    pub(super) fn read(&self, input: &str, found: &mut Found) -> Result<(), BadLine> {
        let line = line_of(input);
        let mut rest = line
            .strip_prefix(self.front.as_str())
            .ok_or_else(|| BadLine::at(line, line, format!("`{}`, with which the format begins,", self.front)))?;
        for step in &self.steps {
            let end = step.end.find(rest, &step.then, self.escapes).ok_or_else(|| {
                let text = if let End::Begin(_, bound) = &step.end { bound } else { &step.then };
                BadLine::at(rest, line, format!("`{text}` behind the value of `{}`, which begins", step.written))
            })?;
            let (value, after) = rest.split_at(end);
            step.check(value, line)?;
            self.take(step, value, input, found);
            rest = after
                .strip_prefix(step.then.as_str())
                .ok_or_else(|| BadLine::at(after, line, format!("`{}` behind `{}`", step.then, step.written)))?;
        }
        Ok(())
    }

    fn take(&self, step: &Step, value: &str, input: &str, found: &mut Found) {
        for slot in &step.own {
            self.set(*slot, value, input, found);
        }
        if step.fields.is_empty() {
            return;
        }
        let request = match step.meaning {
            Meaning::Request => Request::read(value),
            Meaning::Target => {
                let (path, query) = path_and_query(value);
                Request { path, query, ..Request::default() }
            }
            Meaning::Query => Request { query: value.strip_prefix('?').unwrap_or(value), ..Request::default() },
            Meaning::Path => Request { path: value, ..Request::default() },
            Meaning::Method => Request { method: value, ..Request::default() },
            Meaning::Protocol => Request { protocol: value, ..Request::default() },
            _ => Request::default(),
        };
        for field in &step.fields {
            let text = match field {
                LineField::Method => request.method,
                LineField::Path => request.path,
                LineField::Query => request.query,
                LineField::Protocol => request.protocol,
                LineField::VirtualHost => Some(without_port(value)).filter(|host| is_host(host)).unwrap_or_default(),
                _ => value,
            };
            self.set(*field as usize, text, input, found);
        }
    }

    fn set(&self, slot: usize, text: &str, input: &str, found: &mut Found) {
        if matches!(text, "" | "-") {
            return;
        }
        if self.escapes == Escapes::None || !text.contains('\\') {
            found.set(slot, Kind::Text, text, input);
            return;
        }
        let unescaped = found.set_unescaped(slot, |scratch| {
            scratch.push_str(&undone(self.escapes, text));
            Ok::<(), std::convert::Infallible>(())
        });
        let Ok(()) = unescaped;
    }
}

impl Step {
    /// A value with a known shape must have it; if it has not, the line is of another format.
    fn check(&self, value: &str, line: &str) -> Result<(), BadLine> {
        match self.meaning {
            _ if value.is_empty() => Ok(()),
            Meaning::Status | Meaning::StatusBefore => check_status(value, line),
            Meaning::BodyBytes | Meaning::BytesSent => check_bytes(value, line),
            _ => Ok(()),
        }
    }
}

/// How the end of a variable's value is found; `after`: the variables that follow.
fn end(variable: &Variable, after: &[Variable]) -> End {
    let bound = || after.iter().map(|next| &next.then).find(|then| !then.is_empty()).cloned().unwrap_or_default();
    match after.first() {
        _ if variable.is_mark() => End::Mark,
        Some(next) if variable.then.is_empty() => End::Begin(next.begins.unwrap_or('\0'), bound()),
        None if variable.then.is_empty() && is_word(&variable.name) => End::Word,
        None if variable.then.is_empty() => End::Rest,
        next => End::Text {
            skip: match &variable.meaning {
                Meaning::Time(time) => time.sample().matches(variable.then.as_str()).count(),
                _ => 0,
            },
            is_list: is_list(&variable.name) && variable.then.starts_with(' '),
            before: match next.map(|next| &next.meaning) {
                Some(Meaning::Time(time)) => Some(time.clone()),
                _ => None,
            },
        },
    }
}

impl End {
    /// The length of the value that `text` begins with.
    fn find(&self, text: &str, then: &str, escapes: Escapes) -> Option<usize> {
        match self {
            End::Text { skip, is_list, before } => {
                let mut inside = *skip;
                find(text, then, escapes, |at| {
                    if inside > 0 && is_padding(text, at) {
                        return false;
                    }
                    if *is_list && goes_on(text, at) {
                        return false;
                    }
                    if before.as_ref().is_some_and(|time| !begins(time, &text[at + then.len()..])) {
                        return false;
                    }
                    let is_end = inside == 0;
                    inside = inside.saturating_sub(1);
                    is_end
                })
            }
            End::Begin(first, bound) => {
                let end = if bound.is_empty() { text.len() } else { find(text, bound, escapes, |_| true)? };
                Some(text[..end].find(*first).unwrap_or(end))
            }
            End::Mark => Some(usize::from(text.starts_with('?'))),
            End::Word => Some(text.find([' ', '\t']).unwrap_or(text.len())),
            End::Rest => Some(text.len()),
        }
    }
}

/// The first occurrence of `wanted`, which is not empty, that is not escaped and that `is_end` accepts.
fn find(text: &str, wanted: &str, escapes: Escapes, mut is_end: impl FnMut(usize) -> bool) -> Option<usize> {
    let first = wanted.chars().next()?;
    let can_be_escaped = escapes != Escapes::None && first != '\\';
    let mut from = 0;
    loop {
        let at = from + text[from..].find(first)?;
        from = at + first.len_utf8();
        if text[at..].starts_with(wanted) && !(can_be_escaped && ends_in_escape(&text[..at])) && is_end(at) {
            return Some(at);
        }
    }
}

/// Whether the blank at `at` only pads a number of a time, as in `Jan  5`: it begins the value, or another blank follows.
fn is_padding(text: &str, at: usize) -> bool {
    text[at..].starts_with("  ") || (at == 0 && text.starts_with(' '))
}

/// Whether a list continues after the blank at `at`.
fn goes_on(text: &str, at: usize) -> bool {
    text[..at].ends_with(',') || text[..at].ends_with(" :") || text[at..].starts_with(" : ")
}

/// Whether a text can begin with such a time.
fn begins(time: &LineTime, text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_digit = bytes.first().is_some_and(u8::is_ascii_digit);
    match time {
        LineTime::AccessLog => is_digit && bytes.get(2) == Some(&b'/'),
        LineTime::Iso8601 => is_digit && bytes.get(4) == Some(&b'-'),
        LineTime::UnixSeconds | LineTime::UnixMs | LineTime::UnixUs => is_digit,
        LineTime::Pattern(_) => true,
    }
}

#[cfg(test)]
mod tests;
