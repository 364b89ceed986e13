//! `[event] line`: the string of a server's configuration that describes its log, parsed into variables and the texts between them.
//!
//! In: nginx's `log_format` or Apache's `LogFormat`, as the bare string or the whole statement. Out: a [`LineFormat`], or where in the
//! string something else was expected. Two variables without a text between them are refused if a line could not show where the first one
//! ends: the second must begin with a known character, as `$request_uri` after `$host`, or `%q` after `%U`. Pure.

use super::line_source;
use super::logic::{LineField, Place};
use super::variable::{Escapes, LineTime, Meaning, Variable, Wrong};

/// What a server's configuration says about the lines of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LineFormat {
    /// How the server escapes values.
    pub(crate) escapes: Escapes,
    /// The text before the first variable.
    pub(crate) front: String,
    /// The variables; at least one.
    pub(crate) variables: Vec<Variable>,
}

impl LineFormat {
    /// Parses the string.
    pub(crate) fn parse(text: &str) -> Result<LineFormat, Wrong> {
        let (escapes, pieces) = line_source::read(text)?;
        let mut format = LineFormat { escapes, front: pieces.front, variables: join_times(pieces.variables) };
        format.finish()?;
        Ok(format)
    }

    /// Checks that adjacent variables can be told apart, and drops blanks at the end of the line.
    fn finish(&mut self) -> Result<(), Wrong> {
        let Some(last) = self.variables.last_mut() else {
            let expected = "at least one variable, such as $remote_addr (nginx) or %h (Apache)";
            return Err(("a log format without a variable".to_owned(), expected.to_owned()));
        };
        last.then.truncate(last.then.trim_end().len());
        for pair in self.variables.windows(2) {
            let [one, two] = pair else { continue };
            if one.then.is_empty() && two.begins.is_none() && !one.is_mark() {
                let found = format!("`{}{}` {}, with nothing between the two", one.written, two.written, one.place);
                return Err((found, "text between the two variables, which shows where the first one ends".to_owned()));
            }
        }
        Ok(())
    }

    /// The variable that gives a known field; of several, the first of those with the best rank.
    pub(crate) fn variable_of(&self, field: LineField) -> Option<usize> {
        let ranked = self
            .variables
            .iter()
            .enumerate()
            .filter_map(|(index, variable)| variable.meaning.rank(field).map(|rank| (rank, index)));
        ranked.min().map(|(_, index)| index)
    }

    /// The first variable with a name.
    pub(crate) fn variable_named(&self, name: &str) -> Option<usize> {
        self.variables.iter().position(|variable| variable.name == name)
    }

    /// Where a field of the job file is found: as a known field, else by the name of a variable.
    pub(super) fn place(&self, name: &str) -> Option<Place> {
        let known = LineField::ALL.into_iter().find(|field| field.name() == name);
        if let Some(field) = known.filter(|field| self.variable_of(*field).is_some()) {
            return Some(Place::Line(field));
        }
        self.variable_named(name).map(|_| Place::Variable(name.to_owned()))
    }

    /// The names of all fields: known fields first, then the variables that give none of them.
    pub(super) fn names(&self) -> Vec<&str> {
        let known = LineField::ALL.into_iter().filter(|field| self.variable_of(*field).is_some());
        let mut names: Vec<&str> = known.map(LineField::name).collect();
        for variable in &self.variables {
            let is_given = match &variable.meaning {
                Meaning::Other => false,
                _ => LineField::ALL
                    .iter()
                    .any(|field| self.variable_of(*field).is_some_and(|index| self.variables[index] == *variable)),
            };
            if !is_given && !names.contains(&variable.name.as_str()) {
                names.push(&variable.name);
            }
        }
        names
    }

    /// The names of the variables that are times.
    pub(super) fn times(&self) -> Vec<&str> {
        let times = self.variables.iter().filter(|variable| matches!(variable.meaning, Meaning::Time(_)));
        times.map(|variable| variable.name.as_str()).collect()
    }

    /// How the time at a place is written; `None` if the place is not a time.
    pub(crate) fn time(&self, place: &Place) -> Option<&LineTime> {
        let index = match place {
            Place::Line(field) => self.variable_of(*field),
            Place::Variable(name) => self.variable_named(name),
            Place::Pointer(_) => None,
        };
        match &self.variables[index?].meaning {
            Meaning::Time(time) => Some(time),
            _ => None,
        }
    }
}

/// Joins the parts of a time. Apache writes a time with fractions in parts, as in `%{%d/%b/%Y:%T}t.%{msec_frac}t %{%z}t`: parts without a
/// quote or bracket between them are one time.
fn join_times(variables: Vec<Variable>) -> Vec<Variable> {
    let mut joined: Vec<Variable> = Vec::new();
    for variable in variables {
        if let (Some(before), Meaning::Time(LineTime::Pattern(more))) = (joined.last_mut(), &variable.meaning)
            && let Meaning::Time(LineTime::Pattern(pattern)) = &mut before.meaning
            && !before.then.contains(['"', '\'', '[', ']', '|'])
        {
            pattern.push_str(&before.then.replace('%', "%%"));
            pattern.push_str(more);
            before.then = variable.then;
            before.written.push_str(&variable.written);
            continue;
        }
        joined.push(variable);
    }
    for variable in &mut joined {
        if let Meaning::Time(time) = &mut variable.meaning
            && let LineTime::Pattern(pattern) = time
        {
            *time = match pattern.as_str() {
                "%s" | "%s.%3f" | "%s.%6f" => LineTime::UnixSeconds,
                "%s%3f" => LineTime::UnixMs,
                "%s%6f" => LineTime::UnixUs,
                _ => continue,
            };
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> LineFormat {
        LineFormat::parse(text).unwrap_or_else(|(found, expected)| panic!("{text}: found {found}; expected {expected}"))
    }

    /// Names and texts, alternating.
    fn shown(format: &LineFormat) -> String {
        let variables = format.variables.iter().map(|variable| format!("<{}>{}", variable.name, variable.then));
        format!("{}{}", format.front, variables.collect::<String>())
    }

    #[test]
    fn strings_and_statements() {
        let two = "<remote_addr> \"<request>\" <status>";
        for (text, expected) in [
            ("$remote_addr \"$request\" $status", two),
            ("  ${remote_addr} \"${request}\" $status \n", two),
            (r#"$remote_addr \"$request\" $status"#, two),
            ("'$remote_addr \"$request\" $status'", two),
            (r#""$remote_addr \"$request\" $status""#, two),
            ("log_format main '$remote_addr \"$request\" $status';", two),
            ("log_format  main\n  '$remote_addr ' # who\n  '\"$request\" $status' ;\n# end", two),
            (r#"log_format main "$remote_addr " '"$request"' ' $status'"#, two),
            ("log_format main $remote_addr;", "<remote_addr>"),
            ("log_format main escape=json '{\"a\":\"$remote_addr\"}';", "{\"a\":\"<remote_addr>\"}"),
            ("escape=none $remote_addr\\t$Status", "<remote_addr>\t<status>"),
            ("escape=json \"$remote_addr\" \"$status\"", "\"<remote_addr>\" \"<status>\""),
            ("\"$remote_addr\" \"$status\"", "\"<remote_addr>\" \"<status>\""),
            ("$status 100% $", ""),
            ("%h \\\"%r\\\" %>s", "<remote_host> \"<request>\" <status>"),
            ("%h \"%r\" %>s", "<remote_host> \"<request>\" <status>"),
            (r#"LogFormat "%h \"%r\" %>s" common"#, "<remote_host> \"<request>\" <status>"),
            (r#"CustomLog logs/x "%h \"%r\" %>s" env=!y"#, "<remote_host> \"<request>\" <status>"),
            (
                "%h%%$x %t\\t%400,501{User-agent}i %!200,304{X-Foo}o\\n",
                "<remote_host>%$x [<time_local>]\t<http_user_agent> <sent_http_x_foo>",
            ),
            (
                "%h %{a b}C %{X}e %{y}n %{SSL_PROTOCOL}x %{Foo}^ti %^FB",
                "<remote_host> <cookie_a_b> <env_x> <note_y> <ssl_protocol> <http_trailer_foo> <first_byte_us>",
            ),
            (
                "%D %{ms}T %T %p %{remote}p %P %{tid}P %{c}a",
                "<duration_us> <duration_ms> <duration_s> <port> <remote_port> <pid> <tid> <realip_remote_addr>",
            ),
            ("[%{%d/%b/%Y:%T}t.%{msec_frac}t %{%z}t] %h", "[<time_format>] <remote_host>"),
            ("%m %U%q", "<request_method> <uri><query_string>"),
        ] {
            if expected.is_empty() {
                assert!(LineFormat::parse(text).is_err(), "{text}");
            } else {
                assert_eq!(shown(&parsed(text)), expected, "{text}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, found, expected) in [
            ("combined", "\"combined\", which contains no variable", "the string of nginx's log_format"),
            ("$status $", "`$` without a name at column 9 of the string", "the name of a variable"),
            ("$status ${host", "`${host` without its `}` at column 9", "the name of a variable"),
            ("%h %y", "`%y` at column 4 of the string", "a directive of Apache's mod_log_config"),
            ("%h \\\"%é", "`%é` at column 6", "a directive"),
            ("%h %", "`%` without a letter at column 4", "a directive"),
            ("%h %{Referer", "`%{Referer` without its `}` at column 4", "`%{NAME}` and a letter"),
            ("%h %i", "`%i` at column 4", "`%{NAME}i`: i needs a name"),
            ("%h %{x}T", "`%{x}T` at column 4", "`%T`, `%{s}T`"),
            ("%h%l", "`%h%l` at column 1 of the string, with nothing between", "text between the two variables"),
            ("$host $status$request", "`$status$request` at column 7", "text between"),
            ("%q%>s", "`%q%>s` at column 1", "text between"),
            ("log_format main", "`log_format` and nothing after it at column 16", "the format in quotes"),
            ("log_format main '$status' $host", "`$host` at column 27", "another string in quotes"),
            (
                "log_format main\n '$status",
                "an unterminated string that begins with `'` at line 2, column 2",
                "a closing `'`",
            ),
            (
                "log_format a '$status'; log_format b '$host';",
                "`log_format` after the statement at column 25",
                "a single log_format",
            ),
            ("escape=xml $status", "`escape=xml` at column 1", "`escape=default`"),
            ("LogFormat combined", "`combined` at column 11", "the format itself in quotes"),
            ("CustomLog logs/access_log combined", "`combined` at column 27", "the format itself in quotes"),
            ("$status\n$host", "a line break at line 1, column 8", "a single line"),
            ("log_format a 'x';", "a log format without a variable", "at least one variable"),
        ] {
            let (what, instead) = LineFormat::parse(text).expect_err(text);
            assert!(what.starts_with(found), "{text}: {what}");
            assert!(instead.starts_with(expected), "{text}: {instead}");
        }
    }

    #[test]
    fn fields_have_the_known_names_and_those_of_the_server() {
        let format = parsed("%v %{Host}i %h [%{sec}t] \"%r\" %m %s %>s %b %O %D");
        assert_eq!(
            format.names(),
            [
                "virtual_host",
                "client",
                "time",
                "request",
                "method",
                "path",
                "query",
                "protocol",
                "status",
                "bytes",
                "http_host",
                "request_method",
                "status_before",
                "bytes_sent",
                "duration_us",
            ]
        );
        let variable = |name: &str| Some(Place::Variable(name.to_owned()));
        for (name, expected) in [
            ("client", Some(Place::Line(LineField::Client))),
            ("status", Some(Place::Line(LineField::Status))),
            ("remote_host", variable("remote_host")),
            ("status_before", variable("status_before")),
            ("duration_us", variable("duration_us")),
            ("user", None),
            ("Client", None),
        ] {
            assert_eq!(format.place(name), expected, "{name}");
        }
        let given = |field| format.variable_of(field).map(|index| format.variables[index].name.as_str());
        assert_eq!(given(LineField::VirtualHost), Some("server_name"));
        assert_eq!(given(LineField::Status), Some("status"));
        assert_eq!(given(LineField::Method), Some("request"));
        assert_eq!(given(LineField::Bytes), Some("body_bytes_sent"));
        assert_eq!(given(LineField::User), None);
    }

    #[test]
    fn times_of_all_forms() {
        let pattern = |text: &str| LineTime::Pattern(text.to_owned());
        for (text, expected) in [
            ("%t %h", LineTime::AccessLog),
            ("%{end:sec}t %h", LineTime::UnixSeconds),
            ("%{sec}t.%{usec_frac}t %h", LineTime::UnixSeconds),
            ("%{sec}t%{msec_frac}t %h", LineTime::UnixMs),
            ("%{msec}t %h", LineTime::UnixMs),
            ("%{begin:usec}t %h", LineTime::UnixUs),
            ("%{%F %T}t %h", pattern("%F %T")),
            ("%{%F}t %{%T}t,%{msec_frac}t %{%z}t %h", pattern("%F %T,%3f %z")),
            ("$time_iso8601", LineTime::Iso8601),
            ("$msec", LineTime::UnixSeconds),
        ] {
            let format = parsed(text);
            assert_eq!(format.time(&Place::Line(LineField::Time)), Some(&expected), "{text}");
            assert_eq!(format.times().len(), 1, "{text}");
        }
        assert_eq!(parsed("%{%F}t \"%{%T}t\" %h").times().len(), 2);
    }
}
