//! Reads access-log lines: common or combined format, with or without the virtual host at the beginning.
//!
//! ```text
//! [virtual_host[:port] ]client ident user [time] … "request" status bytes[ "referrer"[ "user_agent"]]…
//! ```
//!
//! In: a line. Out: its fields, or a [`BadLine`]. Whatever follows these fields, or is between the time and the request, is
//! ignored; there may be several blanks between fields. The time is taken from the last brackets before the request that look
//! like a time, so that no user can write another one before it. `-` is an absent field. `\"` and `\\` are unescaped; `\xhh`
//! stays as the server wrote it, because it is not known here which server that was. A request that is not one (`-`, the noise of
//! a scanner) leaves method, path, query and protocol empty. Only a line without this shape (cut short, a quote left open) is
//! refused. Pure: no state.

use super::found::{Found, Kind};
use super::front::{Front, is_blank, without_port};
use super::scan::without_mark;
use crate::job::LineField;

/// The longest time that is looked for between brackets, in bytes. Because of this bound, any line is read in linear time.
const TIME_BYTES_MAX: usize = 64;

/// Where a line does not have the expected shape.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    /// The byte, from 0.
    pub(super) at: usize,
    /// What should be there.
    pub(super) expected: String,
}

impl BadLine {
    /// A fault at the beginning of `part`, which is a part of `line`. Bytes are counted from after a byte order mark, if there is
    /// one.
    pub(super) fn at(part: &str, line: &str, expected: impl Into<String>) -> BadLine {
        BadLine { at: part.as_ptr() as usize - line.as_ptr() as usize, expected: expected.into() }
    }

    /// Replaces the fault if the line begins like a JSON object: a log shipper has probably wrapped it, and its first fault as a
    /// line says little.
    pub(super) fn unless_json(self, line: &str) -> BadLine {
        if line.starts_with('{') {
            return BadLine::at(line, line, "no JSON (`unwrap` in the job file takes a line out of it)");
        }
        self
    }
}

/// Reads one line, with or without its line ending. Slots are numbered as [`LineField::ALL`].
pub(super) fn read(input: &str, found: &mut Found) -> Result<(), BadLine> {
    let line = line_of(input);
    let head = Head::read(line)?;
    let (request, rest) = ended(head.rest, line)?;
    let (status, rest) = word(rest);
    let (bytes, rest) = word(rest);
    check_status(status, line)?;
    check_bytes(bytes, line)?;
    let (referrer, rest) = text(rest, line)?;
    let (user_agent, _) = text(rest, line)?;
    let expected = "client, ident and user before the time, as in `192.0.2.1 - -`,";
    let front = Front::read(head.front).ok_or_else(|| BadLine::at(line, line, expected))?;
    let target = Request::read(request);
    for (field, text) in [
        (LineField::VirtualHost, without_port(front.virtual_host)),
        (LineField::Client, front.client),
        (LineField::Ident, front.ident),
        (LineField::User, front.user),
        (LineField::Time, head.time),
        (LineField::Request, request),
        (LineField::Method, target.method),
        (LineField::Path, target.path),
        (LineField::Query, target.query),
        (LineField::Protocol, target.protocol),
        (LineField::Status, status),
        (LineField::Bytes, bytes),
        (LineField::Referrer, referrer),
        (LineField::UserAgent, user_agent),
    ] {
        if !matches!(text, "" | "-") {
            set(field, text, input, found);
        }
    }
    Ok(())
}

fn set(field: LineField, text: &str, input: &str, found: &mut Found) {
    if !text.as_bytes().contains(&b'\\') {
        found.set(field as usize, Kind::Text, text, input);
        return;
    }
    let unescaped = found.set_unescaped(field as usize, |scratch| {
        let mut rest = text;
        while let Some(at) = rest.find('\\') {
            scratch.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            match rest.as_bytes().first() {
                Some(b'"' | b'\\') => {
                    scratch.push_str(&rest[..1]);
                    rest = &rest[1..];
                }
                _ => scratch.push('\\'),
            }
        }
        scratch.push_str(rest);
        Ok::<(), std::convert::Infallible>(())
    });
    let Ok(()) = unescaped;
}

/// The line itself, without a byte order mark at the beginning and without its line ending.
pub(super) fn line_of(input: &str) -> &str {
    let line = without_mark(input);
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

/// A status is three digits, or absent.
pub(super) fn check_status(text: &str, line: &str) -> Result<(), BadLine> {
    if text == "-" || (text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit())) {
        return Ok(());
    }
    Err(BadLine::at(text, line, "a status of three digits, or `-`,"))
}

/// A size is digits, or absent.
pub(super) fn check_bytes(text: &str, line: &str) -> Result<(), BadLine> {
    if text == "-" || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())) {
        return Ok(());
    }
    Err(BadLine::at(text, line, "a size in bytes, or `-`,"))
}

/// Splits after the quote that ends a text; the opening quote is already removed.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    loop {
        let end = from + text[from..].find('"')?;
        if !ends_in_escape(&text[..end]) {
            return Some((&text[..end], &text[end + 1..]));
        }
        from = end + 1;
    }
}

/// Whether the last character is a backslash that escapes what follows, that is, one that is not escaped itself.
pub(super) fn ends_in_escape(text: &str) -> bool {
    text.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// As [`quoted`]; if the quote is left open, the line was cut short.
fn ended<'a>(text: &'a str, line: &'a str) -> Result<(&'a str, &'a str), BadLine> {
    quoted(text).ok_or_else(|| BadLine::at(text, line, "a `\"` that ends the text that begins"))
}

/// A quoted text that may be absent.
fn text<'a>(rest: &'a str, line: &'a str) -> Result<(&'a str, &'a str), BadLine> {
    match rest.trim_start_matches(is_blank).strip_prefix('"') {
        Some(inside) => ended(inside, line),
        None => Ok(("", "")),
    }
}

/// The next word, and what follows it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches(is_blank);
    text.split_at(text.find(is_blank).unwrap_or(text.len()))
}

/// A line, split at its time and at its request.
struct Head<'a> {
    /// What is before the time.
    front: &'a str,
    time: &'a str,
    /// What follows the quote that opens the request.
    rest: &'a str,
}

impl<'a> Head<'a> {
    fn read(line: &'a str) -> Result<Head<'a>, BadLine> {
        let (mut first, mut time, mut quote, mut from) = (None, None, line.len(), 0);
        while let Some(at) = line[from..quote].find('[') {
            let open = from + at;
            from = open + 1;
            if !line[..open].ends_with(is_blank) {
                continue;
            }
            first = first.or(Some(open));
            if let Some(length) = time_length(&line[from..quote]) {
                let end = from + length;
                if time.is_none() {
                    quote = opening_quote(line, end);
                }
                time = Some((open, end));
                from = end;
            }
        }
        let (open, end) = match (time, first) {
            (Some(place), _) => place,
            // Nothing looks like a time: what is in its place will be shown.
            (None, Some(open)) => {
                let end = line[open..].find(']').map(|at| open + at);
                let end =
                    end.ok_or_else(|| BadLine::at(&line[open + 1..], line, "a `]` that ends the time that begins"))?;
                quote = opening_quote(line, end);
                (open, end)
            }
            (None, None) => return Err(BadLine::at(&line[line.len()..], line, "a time in brackets")),
        };
        if quote == line.len() {
            return Err(BadLine::at(&line[end + 1..], line, "a `\"` and the request"));
        }
        Ok(Head { front: &line[..open], time: &line[open + 1..end], rest: &line[quote + 1..] })
    }
}

/// The quote after `from` that opens the request. An escaped quote does not: it belongs to a user's name. The end if there is
/// none.
fn opening_quote(line: &str, from: usize) -> usize {
    let mut quotes = line[from..].match_indices('"').map(|(at, _)| from + at);
    quotes.find(|at| !ends_in_escape(&line[..*at])).unwrap_or(line.len())
}

/// The length of a time up to its `]`, if it looks like one: `17/May/2015…`, `2015-05-17…`.
fn time_length(text: &str) -> Option<usize> {
    let bytes = &text.as_bytes()[..text.len().min(TIME_BYTES_MAX)];
    let shape = [bytes.get(2)?, bytes.get(6)?, bytes.get(4)?, bytes.get(7)?];
    if !bytes[0].is_ascii_digit() || !matches!(shape, [b'/', b'/', _, _] | [_, _, b'-', b'-']) {
        return None;
    }
    bytes.iter().position(|byte| *byte == b']')
}

/// The parts of a request line; all '' if it is not one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) protocol: &'a str,
}

impl<'a> Request<'a> {
    /// Reads `METHOD target PROTOCOL`, or the same without the protocol (HTTP/0.9). A target may hold spaces.
    pub(super) fn read(text: &'a str) -> Request<'a> {
        let Some((method, rest)) = text.split_once(' ') else { return Request::default() };
        let (target, protocol) = match rest.rsplit_once(' ') {
            Some((target, protocol)) if protocol.starts_with("HTTP/") => (target, protocol),
            _ if rest.starts_with('/') => (rest, ""),
            _ => return Request::default(),
        };
        let legal = |byte: u8| byte.is_ascii_alphabetic() || byte == b'-' || byte == b'_';
        if method.is_empty() || target.is_empty() || !method.bytes().all(legal) {
            return Request::default();
        }
        let (path, query) = path_and_query(target);
        Request { method, path, query, protocol }
    }
}

/// The path and the query of a request's target.
pub(super) fn path_and_query(target: &str) -> (&str, &str) {
    let target = target.split_once('#').map_or(target, |(before, _)| before);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = match path.split_once("://") {
        // The absolute form, as it is sent to proxies.
        Some((scheme, rest)) if !scheme.contains('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        // The authority of a CONNECT is not a path.
        _ if path.starts_with('/') || path == "*" => path,
        _ => "",
    };
    (path, query)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests() {
        for (text, method, path, query, protocol) in [
            ("GET / HTTP/1.1", "GET", "/", "", "HTTP/1.1"),
            ("GET /a?b=c HTTP/1.0", "GET", "/a", "b=c", "HTTP/1.0"),
            ("GET /a?b?c#d HTTP/1.0", "GET", "/a", "b?c", "HTTP/1.0"),
            ("GET /a#b?c HTTP/1.0", "GET", "/a", "", "HTTP/1.0"),
            ("GET /a b HTTP/1.1", "GET", "/a b", "", "HTTP/1.1"),
            ("GET /", "GET", "/", "", ""),
            ("GET http://h/a?b HTTP/1.1", "GET", "/a", "b", "HTTP/1.1"),
            ("GET http://h HTTP/1.1", "GET", "/", "", "HTTP/1.1"),
            ("GET /go?to=http://h/x HTTP/1.1", "GET", "/go", "to=http://h/x", "HTTP/1.1"),
            ("GET /a://b HTTP/1.1", "GET", "/a://b", "", "HTTP/1.1"),
            ("CONNECT h:443 HTTP/1.1", "CONNECT", "", "", "HTTP/1.1"),
            ("OPTIONS * HTTP/1.0", "OPTIONS", "*", "", "HTTP/1.0"),
            ("M-SEARCH * HTTP/1.1", "M-SEARCH", "*", "", "HTTP/1.1"),
            ("-", "", "", "", ""),
            ("", "", "", "", ""),
            ("GET", "", "", "", ""),
            ("GET  HTTP/1.1", "", "", "", ""),
            (r"\x16\x03\x01\x02 \x01 HTTP/1.1", "", "", "", ""),
            ("SSH-2.0-Go x", "", "", "", ""),
        ] {
            assert_eq!(Request::read(text), Request { method, path, query, protocol }, "{text}");
        }
    }

    /// A user's name may hold blanks, brackets and escaped quotes: what is written there is neither the time nor the request.
    #[test]
    fn no_user_writes_the_time_or_the_request() {
        let then = "[10/Feb/2020:00:00:00 +0000]";
        for user in
            [then, &format!("{then} x"), &format!(r#"{then} \"x"#), &format!(r#"{then} \"GET /x HTTP/1.1\" 500 9"#)]
        {
            let line = format!(r#"h - {user} [10/Feb/2025:16:42:07 -0500] "GET /a HTTP/1.1" 200 1"#);
            let mut found = Found::new(LineField::ALL.len());
            assert_eq!(read(&line, &mut found), Ok(()), "{line}");
            let text = |field| found.text(found.slot(field as usize), &line);
            let fields = [LineField::User, LineField::Time, LineField::Path, LineField::Status].map(text);
            assert_eq!(fields, [&user.replace('\\', ""), "10/Feb/2025:16:42:07 -0500", "/a", "200"], "{line}");
        }
    }

    #[test]
    fn where_a_line_goes_wrong() {
        for (line, at, expected) in [
            ("hello", 5, "a time in brackets"),
            ("h - - [t", 7, "a `]` that ends the time"),
            ("h - - [10/Feb/2025:16:42:07 -0500", 7, "a `]` that ends the time"),
            ("h - - [t] GET", 9, "a `\"` and the request"),
            ("h - - [t] \"GET", 11, "a `\"` that ends the text"),
            ("h - - [t] \"GET\" ", 16, "a status of three digits"),
            ("h - - [t] \"GET\"  20 1", 17, "a status of three digits"),
            ("h - - [t] \"GET\" 200", 19, "a size in bytes"),
            ("h - - [t] \"GET\" 200 1k", 20, "a size in bytes"),
            ("h - - [t] \"GET\" 200 1 \"a", 23, "a `\"` that ends the text"),
            ("h - - [t] \"GET\" 200 1 \"a\" \"b\\\"\n", 27, "a `\"` that ends the text"),
            ("h - [t] \"GET\" 200 1", 0, "client, ident and user"),
        ] {
            let bad = read(line, &mut Found::new(LineField::ALL.len())).expect_err(line);
            assert_eq!(bad.at, at, "{line}: {bad:?}");
            assert!(bad.expected.starts_with(expected), "{line}: {bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in "(([a-z:.1,\"-]{0,5}[ \t]){0,5}\\[([a-z0-9]{0,5}|10/Feb/2025é?)\\] )?[\"\\\\ a/?é0-9\\[\\]-]{0,40}") {
            let mut found = Found::new(LineField::ALL.len());
            if read(&line, &mut found).is_ok() {
                for field in LineField::ALL {
                    prop_assert!(found.text(found.slot(field as usize), &line).len() <= line.len());
                }
            }
        }

        #[test]
        fn a_user_agent_comes_back_as_it_went_in(agent in "[a\"\\\\é ]{0,12}") {
            let escaped = agent.replace('\\', "\\\\").replace('"', "\\\"");
            let line = format!("h - - [t] \"-\" 200 1 \"-\" \"{escaped}\"\r\n");
            let mut found = Found::new(LineField::ALL.len());
            prop_assert_eq!(read(&line, &mut found), Ok(()));
            let read = found.text(found.slot(LineField::UserAgent as usize), &line);
            prop_assert_eq!(read, if agent == "-" { "" } else { agent.as_str() });
        }
    }
}
