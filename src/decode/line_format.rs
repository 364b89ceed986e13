//! Lines of a server's own format, as `[event] line` describes it: one pass from left to right, in linear time.
//!
//! A variable takes what is there up to the text that follows it in the format; an escaped quote does not end it. The last variable
//! takes the rest of the line, or one word where its values never hold a blank; what follows the last text of the format is not
//! looked at. Values are unescaped as the server escaped them; bytes that are not UTF-8 then are U+FFFD. `-` is an absent field.

use super::escapes::undone;
use super::found::{Found, Kind};
use super::front::{is_host, without_port};
use super::line::{BadLine, Request, check_bytes, check_status, ends_in_escape, line_of, path_and_query};
use crate::job::LineField;
use crate::job::line::LineFormat;
use crate::job::line_names::{is_list, is_word};
use crate::job::variable::{Escapes, LineTime, Meaning, Variable};

/// A format, compiled for the fields that are wanted.
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
    /// The known fields that are wanted of it.
    fields: Vec<LineField>,
    /// The slots of its own name.
    own: Vec<usize>,
    written: String,
}

/// Where a value ends.
#[derive(Debug)]
enum End {
    /// At the text that follows.
    Text {
        /// Occurrences of the text within the value itself: a time that holds a blank.
        skip: usize,
        /// Values may be lists, `a, b`.
        is_list: bool,
        /// The time that follows behind the text: a user's name may hold the text too.
        before: Option<LineTime>,
    },
    /// Where the next variable, which follows at once, begins with this character; at the latest at the text.
    Begin(char, String),
    /// One `?`, or nothing.
    Mark,
    /// At the first blank.
    Word,
    /// With the line.
    Rest,
}

impl Lines {
    /// Compiles `format`; `names` are the variables that are wanted by their own names, whose slots are behind those of
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

    /// Whether the format itself begins a JSON object.
    pub(super) fn are_json(&self) -> bool {
        self.front.starts_with('{')
    }

    /// Reads one line, with or without its end.
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
    /// What has a known shape must have it: else the line is of another format.
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

/// The first place of `wanted`, which is not empty, that is not escaped and that `is_end` agrees to.
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

/// Whether there is a blank at `at` that only pads a number of a time, as in `Jan  5`: it begins the value, or another one follows.
fn is_padding(text: &str, at: usize) -> bool {
    text[at..].starts_with("  ") || (at == 0 && text.starts_with(' '))
}

/// Whether a list goes on behind the blank at `at`.
fn goes_on(text: &str, at: usize) -> bool {
    text[..at].ends_with(',') || text[..at].ends_with(" :") || text[at..].starts_with(" : ")
}

/// Whether a text can be a time.
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The texts of `names`, by the known names first, in a line of a format.
    fn texts(format: &str, names: &[&str], line: &str) -> Result<Vec<String>, BadLine> {
        let format = LineFormat::parse(format).unwrap_or_else(|(found, expected)| panic!("{found}; {expected}"));
        let own: Vec<&str> = names.iter().copied().filter(|name| format.variable_named(name).is_some()).collect();
        let mut found = Found::new(LineField::ALL.len() + own.len());
        Lines::new(&format, &LineField::ALL, &own).read(line, &mut found)?;
        let slot = |name: &&str| {
            let known = LineField::ALL.into_iter().find(|field| field.name() == *name);
            match known.filter(|field| format.variable_of(*field).is_some()) {
                Some(field) => field as usize,
                None => LineField::ALL.len() + own.iter().position(|own| own == name).expect("a variable"),
            }
        };
        Ok(names.iter().map(|name| found.text(found.slot(slot(name)), line).to_owned()).collect())
    }

    #[track_caller]
    fn check(format: &str, line: &str, expected: &[(&str, &str)]) {
        let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
        let expected: Vec<&str> = expected.iter().map(|(_, text)| *text).collect();
        assert_eq!(texts(format, &names, line).expect(line), expected, "{format}\n{line}");
    }

    const COMBINED: &str = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent""#;
    const APACHE: &str = r#"%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-Agent}i\""#;

    #[test]
    fn combined_lines_of_both_servers() {
        let line = r#"192.0.2.1 - bob [10/Feb/2025:16:42:07 -0500] "GET /a?b HTTP/1.1" 200 368 "http://r/" "x y""#;
        let fields = [
            ("client", "192.0.2.1"),
            ("user", "bob"),
            ("time", "10/Feb/2025:16:42:07 -0500"),
            ("request", "GET /a?b HTTP/1.1"),
            ("method", "GET"),
            ("path", "/a"),
            ("query", "b"),
            ("protocol", "HTTP/1.1"),
            ("status", "200"),
            ("bytes", "368"),
            ("referrer", "http://r/"),
            ("user_agent", "x y"),
        ];
        check(COMBINED, line, &fields);
        check(APACHE, line, &fields);
        check(&format!("log_format main '{COMBINED}';"), line, &fields);
        check(&format!("LogFormat \"{APACHE}\" combined"), line, &fields);
        // What follows does not reject.
        check(COMBINED, &format!("{line} 0.003 [x] \"\r\n"), &fields);
        check(APACHE, &format!("{line}rt=1"), &fields);
    }

    #[test]
    fn formats_of_the_world() {
        let ingress = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \"$http_referer\" \"$http_user_agent\" $request_length $request_time [$proxy_upstream_name] [$proxy_alternative_upstream_name] $upstream_addr $upstream_response_length $upstream_response_time $upstream_status $req_id";
        let line = r#"192.0.2.1 - - [10/Feb/2025:16:42:07 -0500] "GET /a HTTP/2.0" 200 765 "-" "x" 86 0.010 [up-80] [] 10.0.0.2:80, 10.0.0.3:80 : 10.0.0.4:80 0, 2740 : 1 0.008, - : 0.1 502, 200 : 200 de00"#;
        check(
            ingress,
            line,
            &[
                ("request_time", "0.010"),
                ("proxy_upstream_name", "up-80"),
                ("proxy_alternative_upstream_name", ""),
                ("upstream_addr", "10.0.0.2:80, 10.0.0.3:80 : 10.0.0.4:80"),
                ("upstream_response_length", "0, 2740 : 1"),
                ("upstream_response_time", "0.008, - : 0.1"),
                ("upstream_status", "502, 200 : 200"),
                ("req_id", "de00"),
            ],
        );
        let main = r#"log_format  main  '$remote_addr - $remote_user [$time_local] "$request" '
                      '$status $body_bytes_sent "$http_referer" ' # the page before
                      '"$http_user_agent" "$http_x_forwarded_for"';"#;
        let line = r#"192.0.2.1 - John [admin] [10/Feb/2025:16:42:07 -0500] "GET /\x22\xC3\xA9 HTTP/1.1" 200 368 "-" "a\x5Cb\xFF" "203.0.113.1, 198.51.100.2""#;
        check(
            main,
            line,
            &[
                ("user", "John [admin]"),
                ("path", "/\"é"),
                ("referrer", ""),
                ("user_agent", "a\\b\u{fffd}"),
                ("http_x_forwarded_for", "203.0.113.1, 198.51.100.2"),
            ],
        );
        let json = r#"log_format j escape=json '{"time":"$time_iso8601","host":"$host","q":"$request_uri","agent":"$http_user_agent","ms":$request_time}';"#;
        let line = r#"{"time":"2025-02-10T16:42:07-05:00","host":"Shop.example","q":"/a?b=\"c\"","agent":"\u0001\"\\","ms":0.003}"#;
        check(
            json,
            line,
            &[
                ("time", "2025-02-10T16:42:07-05:00"),
                ("virtual_host", "Shop.example"),
                ("path", "/a"),
                ("query", "b=\"c\""),
                ("user_agent", "\u{1}\"\\"),
                ("request_time", "0.003"),
            ],
        );
        check(
            r#"%v:%p %{X-Forwarded-For}i %h %l %u %t "%r" %>s %O "%{Referer}i" "%{User-Agent}i" %D %{SESSION}C"#,
            r#"shop.example:443 203.0.113.1, 198.51.100.2 10.0.0.1 - - [10/Feb/2025:16:42:07 -0500] "GET /\"\xc3\xa9\t HTTP/1.1" 200 368 "-" "-" 1234 abc def"#,
            &[
                ("virtual_host", "shop.example"),
                ("port", "443"),
                ("http_x_forwarded_for", "203.0.113.1, 198.51.100.2"),
                ("client", "10.0.0.1"),
                ("path", "/\"é\t"),
                ("bytes", "368"),
                ("duration_us", "1234"),
                ("cookie_session", "abc def"),
            ],
        );
        check(
            r#"%h [%{%d/%b/%Y %T}t.%{msec_frac}t %{%z}t] %m %U%q %H %s %>s %B %O"#,
            "h [10/Feb/2025 16:42:07.123 -0500] GET /a?b=c HTTP/1.1 302 200 368 700",
            &[
                ("time", "10/Feb/2025 16:42:07.123 -0500"),
                ("method", "GET"),
                ("path", "/a"),
                ("query", "b=c"),
                ("protocol", "HTTP/1.1"),
                ("status", "200"),
                ("status_before", "302"),
                ("bytes", "368"),
                ("bytes_sent", "700"),
            ],
        );
        check(
            "$msec $scheme://$host$request_uri $uri$is_args$args $status",
            "1739223727.123 https://shop.example/a?b /i?b 404 more",
            &[
                ("time", "1739223727.123"),
                ("virtual_host", "shop.example"),
                ("path", "/a"),
                ("uri", "/i"),
                ("args", "b"),
                ("status", "404"),
            ],
        );
        check("$uri$is_args$args $msec", "/i 1", &[("path", "/i"), ("query", ""), ("time", "1")]);
        check(
            "$time_local|$host|",
            "10/Feb/2025:16:42:07 -0500|a b|",
            &[("time", "10/Feb/2025:16:42:07 -0500"), ("virtual_host", "")],
        );
        check(
            "$time_local $remote_addr",
            "10/Feb/2025:16:42:07 -0500 h",
            &[("time", "10/Feb/2025:16:42:07 -0500"), ("client", "h")],
        );
        check(
            "%{%b %e %T %Y}t %h %>s",
            "Jan  5 16:42:07 2025 h 200",
            &[("time", "Jan  5 16:42:07 2025"), ("client", "h"), ("status", "200")],
        );
        check("%{%e %b %Y %T}t %h", " 5 Jan 2025 16:42:07 h", &[("time", " 5 Jan 2025 16:42:07"), ("client", "h")]);
        check("%{%e %b %Y %T}t %h", "15 Jan 2025 16:42:07 h", &[("time", "15 Jan 2025 16:42:07"), ("client", "h")]);
        check("%{%c}t %h", "Sun Jan  5 16:42:07 2025 h", &[("time", "Sun Jan  5 16:42:07 2025"), ("client", "h")]);
        check(
            "$http_host [$msec]",
            "shop.example:8080 [1]",
            &[("virtual_host", "shop.example"), ("http_host", "shop.example:8080")],
        );
    }

    #[test]
    fn where_a_line_goes_wrong() {
        for (line, at, expected) in [
            ("", 0, "` - ` behind the value of `$remote_addr`"),
            ("h - u", 4, "` [` behind the value of `$remote_user`"),
            ("h - u [-] ", 4, "` [` behind"),
            ("h - u [10/Feb/2025] GET", 7, "`] \"` behind the value of `$time_local`"),
            ("h - u [10/Feb/2025] \"GET / HTT", 21, "`\" ` behind the value of `$request`"),
            ("h - u [10/Feb/2025] \"G\" OK 1 \"-\" \"x\"", 24, "a status of three digits"),
            ("h - u [10/Feb/2025] \"G\" 200 1k \"-\" \"x\"", 28, "a size in bytes"),
            ("h - u [10/Feb/2025] \"G\" 200 1 \"-\" \"x\\\"", 35, "`\"` behind the value of `$http_user_agent`"),
        ] {
            let bad = texts(COMBINED, &[], line).expect_err(line);
            assert_eq!(bad.at, at, "{line}: {bad:?}");
            assert!(bad.expected.starts_with(expected), "{line}: {bad:?}");
        }
        let bad = texts("<$msec>", &[], "[1]").expect_err("another beginning");
        assert_eq!((bad.at, bad.expected.starts_with("`<`")), (0, true), "{bad:?}");
    }

    /// A value as the server writes it.
    fn escaped(escapes: Escapes, text: &str) -> String {
        let mut out = String::new();
        for c in text.chars() {
            match (escapes, c) {
                (Escapes::Nginx, ' '..='~') if !matches!(c, '"' | '\\') => out.push(c),
                (Escapes::Apache, ' '..='~') if !matches!(c, '"' | '\\') => out.push(c),
                (Escapes::Nginx, _) => c.to_string().bytes().for_each(|byte| out.push_str(&format!("\\x{byte:02X}"))),
                (Escapes::Apache, '"' | '\\') => out.extend(['\\', c]),
                (Escapes::Apache, '\n') => out.push_str("\\n"),
                (Escapes::Apache, '\t') => out.push_str("\\t"),
                (Escapes::Apache, _) => c.to_string().bytes().for_each(|byte| out.push_str(&format!("\\x{byte:02x}"))),
                (Escapes::Json, '"' | '\\') => out.extend(['\\', c]),
                (Escapes::Json, '\n') => out.push_str("\\n"),
                (Escapes::Json, '\0'..='\x1f') => out.push_str(&format!("\\u{:04X}", u32::from(c))),
                (Escapes::Json | Escapes::None, _) => out.push(c),
            }
        }
        if out.is_empty() { "-".to_owned() } else { out }
    }

    proptest! {
        #[test]
        fn what_a_server_writes_is_read_back(
            server in prop::sample::select(vec![Escapes::Nginx, Escapes::Json, Escapes::Apache]),
            fields in prop::collection::vec((any::<bool>(), "[ a-c\"\\\\é😀\n\t\\[\\],:-]{0,9}", "[a-z0-9./\\\\é]{1,6}", prop::sample::select(vec![" ", "|", "\t", " - ", "] [", "\": \""])), 1..8),
            more in "[ a-z\"\\\\]{0,9}",
        ) {
            let (mut format, mut line) = (String::new(), String::new());
            let (mut names, mut texts_in) = (Vec::new(), Vec::new());
            for (index, (is_quoted, text, word, between)) in fields.iter().enumerate() {
                let name = format!("http_v{index}");
                let variable = if server == Escapes::Apache { format!("%{{V{index}}}i") } else { format!("${name}") };
                let quote = if *is_quoted { "\"" } else { "" };
                // Without quotes a text must not hold what follows it.
                let text = if *is_quoted { text } else { word };
                format.push_str(&format!("{quote}{variable}{quote}{between}"));
                line.push_str(&format!("{quote}{}{quote}{between}", escaped(server, text)));
                names.push(name);
                texts_in.push(if text == "-" { String::new() } else { text.clone() });
            }
            format.push('>');
            line.push('>');
            let format = format.replace('\\', "\\\\");
            let format = if server == Escapes::Json { format!("escape=json {format}") } else { format };
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            prop_assert_eq!(texts(&format, &names, &format!("{line}{more}")), Ok(texts_in));
        }

        #[test]
        fn any_line_is_read_or_refused(
            format in prop::sample::select(vec![
                COMBINED,
                APACHE,
                "escape=json {\"a\":\"$http_a\",\"t\":$msec,\"u\":\"$host$request_uri\",\"s\":$upstream_status }",
                "escape=none $uri$is_args$args $upstream_addr $time_local $remote_user",
                "%{X-Forwarded-For}i %h %U%q %{%F %T}t.%{usec_frac}t",
            ]),
            line in "([ \"\\\\\\[\\]a-cé0-9/?,:{}ux-]{0,60})|h - u \\[10/Feb/2025\\] \"[a-c\"\\\\ ?/é]{0,9}\" 200 [0-9]{1,2}[\" \\\\xFé]{0,9}",
        ) {
            if let Err(bad) = texts(format, &[], &line) {
                prop_assert!(bad.at <= line.len());
            }
        }
    }
}
