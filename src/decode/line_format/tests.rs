//! Lines of real servers, and any others.

use super::*;
use proptest::prelude::*;

/// The texts of `names` in a line of a format; a name is looked for among the known names first.
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
    // Whatever follows does not reject the line.
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
            // A text without quotes must not contain what follows it.
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
