//! Access-log lines: common or combined format, with or without the virtual host in front.
//!
//! ```text
//! [virtual_host[:port] ]client ident user [time] "request" status bytes[ "referrer" "user_agent"[ more fields …]]
//! ```
//!
//! Fields of a server's own after the user agent are checked for their quotes and ignored. `-` is an absent field. `\"` and `\\` are unescaped;
//! `\xhh` stays as the server wrote it. A request that is none (`-`, noise of a scanner) leaves method, path, query and protocol
//! empty; only a line that does not have this shape (cut short, a quote left open) is refused.

use super::found::{Found, Kind};
use crate::job::LineField;

/// Reads one line, with or without its end. `None`: it is not an access-log line. Slots are numbered as [`LineField::ALL`].
pub(super) fn read(input: &str, found: &mut Found) -> Option<()> {
    let line = input.strip_suffix('\n').unwrap_or(input);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let (front, rest) = line.split_once(" [")?;
    let (time, rest) = rest.split_once("] \"")?;
    let (request, rest) = quoted(rest)?;
    let (status, rest) = word(rest.strip_prefix(' ')?);
    let (bytes, rest) = word(rest?);
    let (referrer, user_agent) = match rest {
        None => ("", ""),
        Some(rest) => {
            let (referrer, rest) = quoted(rest.strip_prefix('"')?)?;
            let (user_agent, rest) = quoted(rest.strip_prefix(" \"")?)?;
            more(rest)?;
            (referrer, user_agent)
        }
    };
    let is_status = status == "-" || (status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit()));
    let is_bytes = bytes == "-" || (!bytes.is_empty() && bytes.bytes().all(|byte| byte.is_ascii_digit()));
    if !is_status || !is_bytes {
        return None;
    }
    let front = Front::read(front)?;
    let target = Request::read(request);
    for (field, text) in [
        (LineField::VirtualHost, without_port(front.virtual_host)),
        (LineField::Client, front.client),
        (LineField::Ident, front.ident),
        (LineField::User, front.user),
        (LineField::Time, time),
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
    Some(())
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

/// Splits behind the quote that ends a text; the opening one is already gone.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    Some((&text[..end], &text[end + 1..]))
}

/// Splits at the first space; `None` where the text ends with the word.
fn word(text: &str) -> (&str, Option<&str>) {
    match text.split_once(' ') {
        Some((word, rest)) => (word, Some(rest)),
        None => (text, None),
    }
}

/// Fields of the server's own: each a space, then a quoted text or a word without quotes.
fn more(mut rest: &str) -> Option<()> {
    while !rest.is_empty() {
        let field = rest.strip_prefix(' ')?;
        rest = match field.strip_prefix('"') {
            Some(inside) => quoted(inside)?.1,
            None => {
                let end = field.find(' ').unwrap_or(field.len());
                if field[..end].contains('"') {
                    return None;
                }
                &field[end..]
            }
        };
    }
    Some(())
}

/// What stands before the time.
#[derive(Debug, PartialEq, Eq)]
struct Front<'a> {
    virtual_host: &'a str,
    client: &'a str,
    ident: &'a str,
    user: &'a str,
}

impl<'a> Front<'a> {
    /// Three words, or four with the virtual host first. A user's name may hold spaces: then the ident, which is `-`
    /// nearly everywhere, says where it begins.
    fn read(text: &'a str) -> Option<Front<'a>> {
        let (first, rest) = text.split_once(' ')?;
        let (second, rest) = rest.split_once(' ')?;
        if second == "-" || !rest.contains(' ') {
            return Some(Front { virtual_host: "", client: first, ident: second, user: rest }).filter(Front::is_whole);
        }
        let (third, rest) = rest.split_once(' ')?;
        let front = Front { virtual_host: first, client: second, ident: third, user: rest };
        Some(front).filter(|front| front.is_whole() && (third == "-" || !rest.contains(' ')))
    }

    fn is_whole(&self) -> bool {
        ![self.client, self.ident, self.user].contains(&"")
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && (name.ends_with(']') || !name.contains(':')) =>
        {
            name
        }
        _ => host,
    }
}

/// The parts of a request line; all '' when it is none.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    protocol: &'a str,
}

impl<'a> Request<'a> {
    /// `METHOD target PROTOCOL`, or without the protocol (HTTP/0.9). A target may hold spaces.
    fn read(text: &'a str) -> Request<'a> {
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
        let target = target.split_once('#').map_or(target, |(before, _)| before);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = match path.split_once("://") {
            // The absolute form, as proxies are asked.
            Some((scheme, rest)) if !scheme.contains('/') => rest.find('/').map_or("/", |at| &rest[at..]),
            // The authority of a CONNECT is no path.
            _ if path.starts_with('/') || path == "*" => path,
            _ => "",
        };
        Request { method, path, query, protocol }
    }
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

    #[test]
    fn fronts() {
        for (text, expected) in [
            ("1.2.3.4 - -", Some(["", "1.2.3.4", "-", "-"])),
            ("1.2.3.4 id bob", Some(["", "1.2.3.4", "id", "bob"])),
            ("example.com:80 1.2.3.4 - -", Some(["example.com:80", "1.2.3.4", "-", "-"])),
            ("example.com 1.2.3.4 id bob", Some(["example.com", "1.2.3.4", "id", "bob"])),
            ("1.2.3.4 - John Smith", Some(["", "1.2.3.4", "-", "John Smith"])),
            ("example.com 1.2.3.4 - John Smith", Some(["example.com", "1.2.3.4", "-", "John Smith"])),
            ("example.com 1.2.3.4 id John Smith", None),
            ("1.2.3.4 -", None),
            ("1.2.3.4", None),
            ("1.2.3.4  -", None),
            ("", None),
        ] {
            let front = Front::read(text).map(|front| [front.virtual_host, front.client, front.ident, front.user]);
            assert_eq!(front, expected, "{text}");
        }
    }

    #[test]
    fn ports_go() {
        for (host, expected) in [
            ("h", "h"),
            ("h:80", "h"),
            ("h:x", "h:x"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("", ""),
        ] {
            assert_eq!(without_port(host), expected);
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in "(([a-z:.1-]{0,5} ){0,5}\\[[a-z0-9]{0,5}\\] )?[\"\\\\ a/?é0-9\\[\\]-]{0,40}") {
            let mut found = Found::new(LineField::ALL.len());
            if read(&line, &mut found).is_some() {
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
            prop_assert_eq!(read(&line, &mut found), Some(()));
            let read = found.text(found.slot(LineField::UserAgent as usize), &line);
            prop_assert_eq!(read, if agent == "-" { "" } else { agent.as_str() });
        }
    }
}
