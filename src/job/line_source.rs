//! Splits the string of a server's configuration that describes its log.
//!
//! In: nginx's `log_format` or Apache's `LogFormat`, as the bare string or the whole statement. Out: how the server escapes values, and the
//! pieces of the format: variables, and the texts between them. The server is recognised by the statement, or by the first variable.
//! Failure: what was found, at which column, and what was expected. Pure.

use super::line_names;
use super::variable::{Escapes, LineTime, Meaning, Pieces, Wrong};

/// Parses the string into the server's way of escaping and the pieces of the format.
pub(super) fn read(text: &str) -> Result<(Escapes, Pieces), Wrong> {
    let source = Source::new(text);
    let statement = source.statement()?;
    let server = match statement.server {
        Some(server) => server,
        None => which_server(&statement.body).ok_or_else(|| {
            let found = format!("{:?}, which contains no variable", source.shown());
            (found, "the string of nginx's log_format ($remote_addr …) or of Apache's LogFormat (%h …)".to_owned())
        })?,
    };
    let mut pieces = Pieces::default();
    let escapes = match server {
        Server::Nginx => {
            source.nginx(&statement.body, &mut pieces)?;
            statement.escapes.unwrap_or(Escapes::Nginx)
        }
        Server::Apache => {
            source.apache(&statement.body, &mut pieces)?;
            Escapes::Apache
        }
    };
    Ok((escapes, pieces))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Nginx,
    Apache,
}

/// The format without its statement: each character unescaped, with its index in the source.
struct Statement {
    server: Option<Server>,
    escapes: Option<Escapes>,
    body: Vec<(usize, char)>,
}

/// The string as the user wrote it.
struct Source(Vec<char>);

impl Source {
    fn new(text: &str) -> Source {
        Source(text.trim_end().chars().collect())
    }

    /// The place of a character, in words.
    fn place(&self, at: usize) -> String {
        let before = &self.0[..at.min(self.0.len())];
        let line = before.iter().filter(|c| **c == '\n').count() + 1;
        let column = before.iter().rev().take_while(|c| **c != '\n').count() + 1;
        if self.0.contains(&'\n') {
            return format!("at line {line}, column {column} of the string");
        }
        format!("at column {column} of the string")
    }

    fn shown(&self) -> String {
        let shown: String = self.0.iter().take(60).collect();
        if self.0.len() > 60 { format!("{shown}…") } else { shown }
    }

    fn wrong<T>(&self, what: &str, at: usize, expected: impl Into<String>) -> Result<T, Wrong> {
        Err((format!("{what} {}", self.place(at)), expected.into()))
    }

    /// Skips blanks, line breaks, and nginx's comments.
    fn skip(&self, mut at: usize, comments: bool) -> usize {
        while let Some(c) = self.0.get(at) {
            if comments && *c == '#' {
                at += self.0[at..].iter().take_while(|c| **c != '\n').count();
            } else if c.is_whitespace() {
                at += 1;
            } else {
                break;
            }
        }
        at
    }

    /// The word at a place.
    fn word(&self, at: usize) -> String {
        self.0[at..].iter().take_while(|c| !c.is_whitespace()).collect()
    }

    /// Takes the format out of the statement around it.
    fn statement(&self) -> Result<Statement, Wrong> {
        let mut at = self.skip(0, false);
        let (server, more_words) = match self.word(at).as_str() {
            "log_format" => (Some(Server::Nginx), 1),
            "LogFormat" => (Some(Server::Apache), 0),
            "CustomLog" => (Some(Server::Apache), 1),
            _ => (None, 0),
        };
        let (begin, is_statement) = (at, server.is_some());
        if let Some(server) = server {
            for _ in 0..=more_words {
                at = self.skip(at + self.word(at).chars().count(), server == Server::Nginx);
            }
            if at >= self.0.len() {
                let expected = "the format in quotes, as in the server's configuration";
                return self.wrong(&format!("`{}` and nothing after it", self.word(begin)), at, expected);
            }
        }
        let mut escapes = None;
        if let Some(name) = self.word(at).strip_prefix("escape=").filter(|_| server != Some(Server::Apache)) {
            escapes = Some(match name {
                "default" => Escapes::Nginx,
                "json" => Escapes::Json,
                "none" => Escapes::None,
                _ => {
                    return self.wrong(
                        &format!("`escape={name}`"),
                        at,
                        "`escape=default`, `escape=json` or `escape=none`",
                    );
                }
            });
            at = self.skip(at + self.word(at).chars().count(), true);
        }
        let server = server.or(escapes.map(|_| Server::Nginx));
        let mut body = Vec::new();
        match self.0.get(at) {
            Some('\'') => self.strings(at, server, &mut body)?,
            Some('"') if is_statement || self.is_one_string(at) => self.strings(at, server, &mut body)?,
            _ if server == Some(Server::Apache) => {
                return self.wrong(&format!("`{}`", self.word(at)), at, "the format itself in quotes, not its name");
            }
            _ => {
                self.unescape(at, self.0.len(), &mut body);
                if let Some((at, _)) = body.iter().find(|(at, _)| matches!(self.0[*at], '\n' | '\r')) {
                    let expected = "a single line; strings in quotes, `'…' '…'`, are joined";
                    return self.wrong("a line break", *at, expected);
                }
                if is_statement && body.last().is_some_and(|(_, c)| *c == ';') {
                    body.pop();
                }
            }
        }
        Ok(Statement { server, escapes, body })
    }

    /// Whether a single pair of quotes encloses the whole string.
    fn is_one_string(&self, at: usize) -> bool {
        self.string_end(at).is_some_and(|end| end + 1 == self.0.len())
    }

    /// The quote that closes the string whose opening quote is at `at`.
    fn string_end(&self, at: usize) -> Option<usize> {
        let quote = self.0[at];
        let mut end = at + 1;
        while *self.0.get(end)? != quote {
            end += if self.0[end] == '\\' { 2 } else { 1 };
        }
        Some(end)
    }

    /// Quoted strings. nginx concatenates them, up to the `;`; in Apache, what follows the first one is a name.
    fn strings(&self, mut at: usize, server: Option<Server>, body: &mut Vec<(usize, char)>) -> Result<(), Wrong> {
        while let Some(c) = self.0.get(at) {
            match c {
                '\'' | '"' => {
                    let Some(end) = self.string_end(at) else {
                        return self.wrong(
                            &format!("an unterminated string that begins with `{c}`"),
                            at,
                            format!("a closing `{c}`"),
                        );
                    };
                    self.unescape(at + 1, end, body);
                    if server == Some(Server::Apache) {
                        return Ok(());
                    }
                    at = end + 1;
                }
                ';' => {
                    let rest = self.skip(at + 1, true);
                    return match self.0.get(rest) {
                        None => Ok(()),
                        Some(_) => self.wrong(
                            &format!("`{}` after the statement", self.word(rest)),
                            rest,
                            "a single log_format",
                        ),
                    };
                }
                _ => {
                    let expected =
                        "another string in quotes, or the end; a quote inside a string is written `\\'` or `\\\"`";
                    return self.wrong(&format!("`{}`", self.word(at)), at, expected);
                }
            }
            at = self.skip(at, true);
        }
        Ok(())
    }

    /// Resolves the escapes of the configuration itself; other escapes stay as they are.
    fn unescape(&self, mut at: usize, end: usize, body: &mut Vec<(usize, char)>) {
        while at < end {
            let next = self.0.get(at + 1).filter(|_| self.0[at] == '\\' && at + 1 < end);
            let plain = match next {
                Some(c @ ('"' | '\'' | '\\')) => Some(*c),
                Some('t') => Some('\t'),
                Some('n') => Some('\n'),
                Some('r') => Some('\r'),
                _ => None,
            };
            body.push((at, plain.unwrap_or(self.0[at])));
            at += if plain.is_some() { 2 } else { 1 };
        }
    }

    /// `$name` and `${name}`.
    fn nginx(&self, body: &[(usize, char)], pieces: &mut Pieces) -> Result<(), Wrong> {
        let mut at = 0;
        while at < body.len() {
            let (begin, c) = body[at];
            let start = at;
            at += 1;
            if c != '$' {
                pieces.text(c);
                continue;
            }
            let braces = body.get(at).is_some_and(|(_, c)| *c == '{');
            at += usize::from(braces);
            let name: String =
                body[at..].iter().map(|(_, c)| *c).take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            at += name.len();
            let expected = "the name of a variable, such as `$status` or `${status}`";
            if braces && body.get(at).is_none_or(|(_, c)| *c != '}') {
                return self.wrong(&format!("`${{{name}` without its `}}`"), begin, expected);
            }
            if name.is_empty() {
                return self.wrong("`$` without a name", begin, expected);
            }
            at += usize::from(braces);
            let written: String = body[start..at].iter().map(|(_, c)| *c).collect();
            pieces.variable(line_names::nginx(&name), written, self.place(begin));
        }
        Ok(())
    }

    /// `%h`, `%>s`, `%{Name}i`, `%400,501{Name}i`.
    fn apache(&self, body: &[(usize, char)], pieces: &mut Pieces) -> Result<(), Wrong> {
        let mut at = 0;
        while at < body.len() {
            let (begin, c) = body[at];
            let start = at;
            at += 1;
            if c != '%' {
                pieces.text(c);
                continue;
            }
            let (mut argument, mut original) = (None, None);
            let letter = loop {
                let Some((_, c)) = body.get(at) else {
                    return self.wrong(
                        "`%` without a letter",
                        begin,
                        "a directive, such as `%h`; `%%` for a plain `%`",
                    );
                };
                at += 1;
                match c {
                    '!' | ',' | '0'..='9' => {}
                    '<' => original = Some(true),
                    '>' => original = Some(false),
                    '{' => {
                        let inside: String = body[at..].iter().map(|(_, c)| *c).take_while(|c| *c != '}').collect();
                        at += inside.chars().count() + 1;
                        if at > body.len() {
                            return self.wrong(
                                &format!("`%{{{inside}` without its `}}`"),
                                begin,
                                "`%{NAME}` and a letter, as `%{Referer}i`",
                            );
                        }
                        argument = Some(inside);
                    }
                    '^' => {
                        let letters: String = body[at..].iter().map(|(_, c)| *c).take(2).collect();
                        at = (at + 2).min(body.len());
                        break format!("^{letters}");
                    }
                    c => break c.to_string(),
                }
            };
            if letter == "%" {
                pieces.text('%');
                continue;
            }
            let written: String = body[start..at].iter().map(|(_, c)| *c).collect();
            let named = match line_names::apache(&letter, argument.as_deref(), original) {
                Ok(named) => named,
                Err(expected) => return self.wrong(&format!("`{written}`"), begin, expected),
            };
            // Apache's default form of the time includes the brackets.
            let in_brackets = letter == "t" && named.meaning == Meaning::Time(LineTime::AccessLog);
            if in_brackets {
                pieces.text('[');
            }
            pieces.variable(named, written, self.place(begin));
            if in_brackets {
                pieces.text(']');
            }
        }
        Ok(())
    }
}

/// Recognises the server by the first variable that belongs to one of them.
fn which_server(body: &[(usize, char)]) -> Option<Server> {
    body.windows(2).find_map(|pair| match (pair[0].1, pair[1].1) {
        ('$', next) if next.is_ascii_alphanumeric() || matches!(next, '_' | '{') => Some(Server::Nginx),
        ('%', next) if next.is_ascii_alphanumeric() || matches!(next, '{' | '<' | '>' | '!' | '^') => {
            Some(Server::Apache)
        }
        _ => None,
    })
}
