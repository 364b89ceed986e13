//! The variables of nginx and the directives of Apache: their names in job files, and which of the known fields they give.
//!
//! ```text
//! known field   nginx                                          Apache
//! virtual_host  host, http_host, server_name                   %v server_name, %V host, %{Host}i http_host
//! client        remote_addr, the_real_ip                       %h remote_host, %a remote_addr
//! ident                                                        %l remote_logname
//! user          remote_user                                    %u
//! time          time_local, time_iso8601, msec                 %t time_local, %{sec}t time_sec, %{msec}t time_msec,
//!                                                              %{usec}t time_usec, %{strftime}t time_format
//! request       request (and all four below)                   %r
//! method        request_method                                 %m
//! path, query   request_uri; uri, document_uri; args,          %U uri; %q query_string
//!               query_string
//! protocol      server_protocol                                %H
//! status        status                                         %>s status, %s status_before
//! bytes         body_bytes_sent, bytes_sent                    %b %B body_bytes_sent, %O bytes_sent
//! referrer      http_referer                                   %{Referer}i
//! user_agent    http_user_agent                                %{User-Agent}i
//! ```
//!
//! If several variables give one field, the first in this table is used (for a request line, also for method, path, query and protocol); of
//! variables listed side by side here, the first in the line. Each variable also has its own name. All other variables of nginx have only
//! their own names. So do Apache's, which are named as nginx would name them: `%{X-Forwarded-For}i` `http_x_forwarded_for`, `%{Name}o`
//! `sent_http_name`, `%{Name}C` `cookie_name`, `%{Name}e` `env_name`, `%{Name}n` `note_name`, `%{NAME}x` `name`, `%{Name}^ti`
//! `http_trailer_name`, `%{Name}^to` `sent_trailer_name`, `%A` `server_addr`, `%D` `duration_us`, `%T` `duration_s`, `%{ms}T`
//! `duration_ms`, `%I` `request_length`, `%S` `bytes_transferred`, `%p` `port`, `%{local}p` `local_port`, `%{remote}p` `remote_port`, `%P`
//! `pid`, `%{tid}P` `tid`, `%{c}a` `realip_remote_addr`, `%{c}h` `realip_remote_host`, `%f` `request_filename`, `%k` `keepalive_requests`,
//! `%L` `log_id`, `%R` `handler`, `%X` `connection_status`, `%^FB` `first_byte_us`. Pure.

use super::variable::{LineTime, Meaning, Named};

/// `$name`. Names in nginx have no upper case.
pub(super) fn nginx(name: &str) -> Named {
    let name = name.to_ascii_lowercase();
    let meaning = match name.as_str() {
        // The ingress controller of Kubernetes names the client `the_real_ip`.
        "remote_addr" | "the_real_ip" => Meaning::Client,
        "remote_user" => Meaning::User,
        "time_local" => Meaning::Time(LineTime::AccessLog),
        "time_iso8601" => Meaning::Time(LineTime::Iso8601),
        "msec" => Meaning::Time(LineTime::UnixSeconds),
        "request" => Meaning::Request,
        "request_method" => Meaning::Method,
        "request_uri" => Meaning::Target,
        "uri" | "document_uri" => Meaning::Path,
        "args" | "query_string" => Meaning::Query,
        "server_protocol" => Meaning::Protocol,
        "status" => Meaning::Status,
        "body_bytes_sent" => Meaning::BodyBytes,
        "bytes_sent" => Meaning::BytesSent,
        "http_referer" => Meaning::Referrer,
        "http_user_agent" => Meaning::UserAgent,
        "host" | "http_host" | "server_name" => Meaning::VirtualHost,
        _ => Meaning::Other,
    };
    let begins = match name.as_str() {
        "request_uri" | "uri" | "document_uri" => Some('/'),
        "is_args" => Some('?'),
        _ => None,
    };
    Named { name, meaning, begins }
}

/// `%{argument}letter`, with `<` (the request before an internal redirect) or `>`.
///
/// # Errors
/// What was expected.
pub(super) fn apache(letter: &str, argument: Option<&str>, original: Option<bool>) -> Result<Named, String> {
    let simple = |name: &str, meaning| Ok(Named::new(name, meaning));
    let named = |prefix: &str| match argument {
        Some(name) if !name.is_empty() => Ok(format!("{prefix}{}", plain(name))),
        _ => Err(format!("`%{{NAME}}{letter}`: {letter} needs a name")),
    };
    match (letter, argument) {
        ("a", Some("c")) => simple("realip_remote_addr", Meaning::Other),
        ("a", _) => simple("remote_addr", Meaning::Client),
        ("h", Some("c")) => simple("realip_remote_host", Meaning::Other),
        ("h", _) => simple("remote_host", Meaning::Client),
        ("A", _) => simple("server_addr", Meaning::Other),
        ("l", _) => simple("remote_logname", Meaning::Ident),
        ("u", _) => simple("remote_user", Meaning::User),
        ("t", _) => time(argument),
        ("r", _) => simple("request", Meaning::Request),
        ("m", _) => simple("request_method", Meaning::Method),
        ("U", _) => Ok(Named { begins: Some('/'), ..Named::new("uri", Meaning::Path) }),
        ("q", _) => Ok(Named { begins: Some('?'), ..Named::new("query_string", Meaning::Query) }),
        ("H", _) => simple("server_protocol", Meaning::Protocol),
        ("s", _) if original == Some(false) => simple("status", Meaning::Status),
        ("s", _) => simple("status_before", Meaning::StatusBefore),
        ("b" | "B", _) => simple("body_bytes_sent", Meaning::BodyBytes),
        ("O", _) => simple("bytes_sent", Meaning::BytesSent),
        ("I", _) => simple("request_length", Meaning::Other),
        ("S", _) => simple("bytes_transferred", Meaning::Other),
        ("v", _) => simple("server_name", Meaning::VirtualHost),
        ("V", _) => simple("host", Meaning::VirtualHost),
        ("D", _) | ("T", Some("us")) => simple("duration_us", Meaning::Other),
        ("T", Some("ms")) => simple("duration_ms", Meaning::Other),
        ("T", None | Some("s")) => simple("duration_s", Meaning::Other),
        ("T", Some(_)) => Err("`%T`, `%{s}T`, `%{ms}T` or `%{us}T`".to_owned()),
        ("p", None | Some("canonical")) => simple("port", Meaning::Other),
        ("p", Some("local")) => simple("local_port", Meaning::Other),
        ("p", Some("remote")) => simple("remote_port", Meaning::Other),
        ("p", Some(_)) => Err("`%p`, `%{canonical}p`, `%{local}p` or `%{remote}p`".to_owned()),
        ("P", None | Some("pid")) => simple("pid", Meaning::Other),
        ("P", Some("tid" | "hextid")) => simple("tid", Meaning::Other),
        ("P", Some(_)) => Err("`%P`, `%{pid}P`, `%{tid}P` or `%{hextid}P`".to_owned()),
        ("f", _) => simple("request_filename", Meaning::Other),
        ("k", _) => simple("keepalive_requests", Meaning::Other),
        ("L", _) => simple("log_id", Meaning::Other),
        ("R", _) => simple("handler", Meaning::Other),
        ("X", _) => simple("connection_status", Meaning::Other),
        ("^FB", _) => simple("first_byte_us", Meaning::Other),
        ("i", Some(_)) => Ok(header(named("http_")?)),
        ("i", None) => Err(named("").err().unwrap_or_default()),
        ("o", _) => named("sent_http_").map(|name| Named::new(name, Meaning::Other)),
        ("C", _) => named("cookie_").map(|name| Named::new(name, Meaning::Other)),
        ("e", _) => named("env_").map(|name| Named::new(name, Meaning::Other)),
        ("n", _) => named("note_").map(|name| Named::new(name, Meaning::Other)),
        ("x" | "c", _) => named("").map(|name| Named::new(name, Meaning::Other)),
        ("^ti", _) => named("http_trailer_").map(|name| Named::new(name, Meaning::Other)),
        ("^to", _) => named("sent_trailer_").map(|name| Named::new(name, Meaning::Other)),
        _ => Err("a directive of Apache's mod_log_config, as %h, %>s or %{Referer}i; `%%` for a plain `%`".to_owned()),
    }
}

fn header(name: String) -> Named {
    let meaning = match name.as_str() {
        "http_referer" => Meaning::Referrer,
        "http_user_agent" => Meaning::UserAgent,
        "http_host" => Meaning::VirtualHost,
        _ => Meaning::Other,
    };
    Named::new(name, meaning)
}

/// A name as nginx would write it: `X-Forwarded-For` becomes `x_forwarded_for`.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect()
}

/// `%t` and `%{format}t`.
fn time(argument: Option<&str>) -> Result<Named, String> {
    let Some(argument) = argument.filter(|argument| !argument.is_empty()) else {
        return Ok(Named::new("time_local", Meaning::Time(LineTime::AccessLog)));
    };
    let format = argument.strip_prefix("begin:").or(argument.strip_prefix("end:")).unwrap_or(argument);
    let (name, time) = match format {
        "" => ("time_local", LineTime::AccessLog),
        "sec" => ("time_sec", LineTime::Pattern("%s".to_owned())),
        "msec" => ("time_msec", LineTime::UnixMs),
        "usec" => ("time_usec", LineTime::UnixUs),
        "msec_frac" => ("time_msec_frac", LineTime::Pattern("%3f".to_owned())),
        "usec_frac" => ("time_usec_frac", LineTime::Pattern("%6f".to_owned())),
        pattern => ("time_format", LineTime::Pattern(pattern.to_owned())),
    };
    Ok(Named::new(name, Meaning::Time(time)))
}

/// Whether a variable's values never contain a blank: then, as the last variable of a line, it ends at the first blank.
pub(crate) fn is_word(name: &str) -> bool {
    const WORDS: [&str; 40] = [
        "remote_addr",
        "remote_host",
        "remote_port",
        "realip_remote_addr",
        "time_iso8601",
        "msec",
        "time_msec",
        "time_usec",
        "request_method",
        "request_uri",
        "args",
        "query_string",
        "server_protocol",
        "status",
        "status_before",
        "body_bytes_sent",
        "bytes_sent",
        "request_length",
        "request_time",
        "request_id",
        "req_id",
        "scheme",
        "host",
        "http_host",
        "server_addr",
        "server_port",
        "connection",
        "connection_requests",
        "keepalive_requests",
        "pid",
        "tid",
        "pipe",
        "port",
        "local_port",
        "duration_us",
        "duration_ms",
        "duration_s",
        "ssl_protocol",
        "ssl_cipher",
        "connection_status",
    ];
    WORDS.contains(&name)
}

/// Whether a variable's values may be lists: `a, b` and, for nginx's upstreams, `a, b : c`.
pub(crate) fn is_list(name: &str) -> bool {
    name.starts_with("upstream_") || name.ends_with("forwarded_for")
}
