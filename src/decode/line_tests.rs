//! Lines of servers from their bytes to events: formats that the job describes, lines in JSON, bytes that are not UTF-8.

use super::tests::{decoder, record, rejected};
use super::*;
use proptest::prelude::*;

/// Keys of a job for lines, and its fields, each a dimension as well.
fn job(event: &str, fields: &[&str]) -> String {
    let mut job = format!("[event]\nformat = \"access_log\"\n{event}\n");
    for (index, field) in fields.iter().enumerate() {
        job.push_str(&format!("[event.fields.f{index}]\nfield = \"{field}\"\n"));
        job.push_str(&format!("[dimensions.f{index}]\ngranularities = [\"day\"]\n"));
    }
    job
}

const CONSTANT: &str = "customer = { constant = \"c\" }\nevent_time = { field = \"time\" }";

/// The outcome of a record, and the time and values of its event; the last value, of `total`, is left out.
fn decoded(job: &str, value: &[u8]) -> (Outcome, Option<TimeUs>, Vec<String>) {
    let mut event = Event::default();
    let outcome = decoder(job).decode(record(Some(value), None), &mut event);
    event.values.pop();
    (outcome, event.event_time, event.values)
}

/// 10/Feb/2025:16:42:07 -0500
const TIME_US: TimeUs = 1_739_223_727_000_000;

#[test]
fn every_described_line_counts() {
    for (line, fields, value, values) in [
        (
            r#"$remote_addr [$time_local] "$request" $status $request_time"#,
            vec!["client", "path", "request_time"],
            r#"192.0.2.1 [10/Feb/2025:16:42:07 -0500] "GET /a HTTP/1.1" 200 0.003"#,
            vec!["192.0.2.1", "/a", "0.003"],
        ),
        (
            r#"%h %{sec}t \"%r\" %>s %{X-Forwarded-For}i"#,
            vec!["client", "status", "http_x_forwarded_for"],
            r#"192.0.2.1 1739223727 "GET /a HTTP/1.1" 200 203.0.113.1, 198.51.100.2"#,
            vec!["192.0.2.1", "200", "203.0.113.1, 198.51.100.2"],
        ),
        (
            "%v %{%d.%m.%Y %T %z}t %m %U%q",
            vec!["method", "query"],
            "h 10.02.2025 16:42:07 -0500 GET /a?b",
            vec!["GET", "b"],
        ),
        (
            r#"log_format j escape=json '{"t":"$time_iso8601","u":"$request_uri"}';"#,
            vec!["path", "request_uri"],
            r#"{"t":"2025-02-10T16:42:07-05:00","u":"/a\"?b"}"#,
            vec!["/a\"", "/a\"?b"],
        ),
        (
            "$host $http_x $msec",
            vec!["virtual_host", "http_x"],
            "shop.example:8080 - 1739223727.000",
            vec!["shop.example", ""],
        ),
    ] {
        let job = job(&format!("line = '''{line}'''\n{CONSTANT}"), &fields);
        let (outcome, time, found) = decoded(&job, value.as_bytes());
        assert_eq!(outcome, Outcome::Counted, "{line}");
        assert_eq!(time, Some(TIME_US), "{line}");
        assert_eq!(found, values, "{line}");
    }
}

#[test]
fn a_customer_is_a_host_or_missing() {
    let event =
        "line = '$host [$time_local]'\ncustomer = { field = \"virtual_host\" }\nevent_time = { field = \"time\" }";
    for (host, expected) in
        [("shop.example", true), ("192.0.2.1", true), ("-", false), ("_", false), ("a, b", false), ("<x>", false)]
    {
        let (outcome, ..) = decoded(&job(event, &[]), format!("{host} [10/Feb/2025:16:42:07 -0500]").as_bytes());
        let missing = rejected(&outcome).map(|(reason, field, _)| (reason, field.unwrap_or_default().to_owned()));
        assert_eq!(missing.is_none(), expected, "{host}: {outcome:?}");
        assert!(expected || missing == Some((Reason::MissingField, "customer".to_owned())), "{host}: {outcome:?}");
    }
    let event = "customer = { field = \"virtual_host\" }\nevent_time = { field = \"time\" }";
    let line = r#"203.0.113.1, 198.51.100.2 - - [10/Feb/2025:16:42:07 -0500] "GET / HTTP/1.1" 200 1"#;
    let (outcome, ..) = decoded(&job(event, &[]), line.as_bytes());
    assert_eq!(rejected(&outcome), Some((Reason::MissingField, Some("customer"), "")));
}

#[test]
fn a_line_that_does_not_fit_says_where() {
    let combined = job(CONSTANT, &["status"]);
    let described = job(&format!("line = '$remote_addr [$time_local] $status'\n{CONSTANT}"), &["status"]);
    for (job, line, expected) in [
        (
            &combined,
            r#"h - - [10/Feb/2025:16:42:07 -0500] "GET / HTTP/1.1" 20 1"#,
            "a line of an access log, common or combined: a status of three digits, or `-`, at byte 52",
        ),
        (
            &combined,
            r#"h - - [10/Feb/2025:16:42:07 -0500] "GET / HTT"#,
            "a line of an access log, common or combined: a `\"` that ends the text that begins at byte 36",
        ),
        (
            &described,
            "h - [10/Feb/2025:16:42:07 -0500]",
            "a line of the job's format: `] ` behind the value of `$time_local`, which begins at byte 5",
        ),
        (
            &described,
            "h [10/Feb/2025:16:42:07 -0500] OK",
            "a line of the job's format: a status of three digits, or `-`, at byte 31",
        ),
    ] {
        match decoded(job, line.as_bytes()).0 {
            Outcome::Rejected(rejection) => {
                assert_eq!((rejection.reason, rejection.expected.as_str()), (Reason::BadLine, expected), "{line}");
                assert_eq!(rejection.found, line);
            }
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn a_line_in_json_that_nobody_unwraps_hints_at_it() {
    let combined = job(CONSTANT, &["status"]);
    let described = job(&format!("line = '$remote_addr [$time_local] $status'\n{CONSTANT}"), &["status"]);
    let json = job(&format!("line = '{{\"t\":\"$time_iso8601\"}}'\n{CONSTANT}"), &[]);
    let expected = |job: &str, line: &str| match decoded(job, line.as_bytes()).0 {
        Outcome::Rejected(rejection) => rejection.expected,
        other => panic!("{line}: {other:?}"),
    };
    let hint = "no JSON (`unwrap` in the job file takes a line out of it) at byte 0";
    for line in [WRAPPED, r#"{"message":"x"}"#, r#"{"tags": ["x", "y"], "message": "x"}"#] {
        assert_eq!(expected(&combined, line), format!("a line of an access log, common or combined: {hint}"), "{line}");
        assert_eq!(expected(&described, line), format!("a line of the job's format: {hint}"), "{line}");
        assert!(expected(&json, line).contains("with which the format begins"), "{line}");
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_line() {
    let combined = job(CONSTANT, &["client", "status"]);
    let described = job(&format!("line = '$remote_addr [$time_local] $status'\n{CONSTANT}"), &["client", "status"]);
    for (job, good, bad, at) in [
        (
            &combined,
            "h - - [10/Feb/2025:16:42:07 -0500] \"GET / HTTP/1.1\" 200 1",
            "h - - [10/Feb/2025:16:42:07 -0500] \"GET / HTTP/1.1\" 20 1",
            55,
        ),
        (&described, "h [10/Feb/2025:16:42:07 -0500] 200", "h [10/Feb/2025:16:42:07 -0500] OK", 34),
    ] {
        let counted = (Outcome::Counted, Some(TIME_US), vec!["h".to_owned(), "200".to_owned()]);
        assert_eq!(decoded(job, format!("\u{feff}{good}\r\n").as_bytes()), counted, "{good}");
        match decoded(job, format!("\u{feff}{bad}").as_bytes()).0 {
            Outcome::Rejected(rejection) => {
                assert!(rejection.expected.ends_with(&format!("at byte {at}")), "{rejection:?}")
            }
            other => panic!("{bad}: {other:?}"),
        }
    }
}

const WRAPPED: &str = r#"{"@timestamp":"2025-02-10T21:42:08.001Z","message":"192.0.2.1 - - [10/Feb/2025:16:42:07 -0500] \"GET /a HTTP/1.1\" 200 368 \"-\" \"x\\\"y\""}"#;

#[test]
fn a_line_inside_json_is_unwrapped() {
    let plain = job(CONSTANT, &["path"]);
    let unwrapped = job(&format!("unwrap = \"/message\"\n{CONSTANT}"), &["path", "user_agent", "client"]);
    let reason = |job: &str, value: &str| match decoded(job, value.as_bytes()).0 {
        Outcome::Rejected(rejection) => Some((rejection.reason, rejection.field, rejection.found)),
        _ => None,
    };
    assert_eq!(reason(&plain, WRAPPED).map(|(reason, ..)| reason), Some(Reason::BadLine));
    let values = vec!["/a".to_owned(), "x\"y".to_owned(), "192.0.2.1".to_owned()];
    assert_eq!(decoded(&unwrapped, WRAPPED.as_bytes()), (Outcome::Counted, Some(TIME_US), values));

    let field = || Some("unwrap".to_owned());
    for (value, expected) in [
        (r#"{"msg":"x"}"#, (Reason::MissingField, field(), String::new())),
        (r#"{"message":null}"#, (Reason::MissingField, field(), "null".to_owned())),
        (r#"{"message":""}"#, (Reason::MissingField, field(), "\"\"".to_owned())),
        (r#"{"message":{"x": 1}}"#, (Reason::WrongType, field(), r#"{"x": 1}"#.to_owned())),
        (r#"{"message":"no\tline"}"#, (Reason::BadLine, None, "no\tline".to_owned())),
    ] {
        assert_eq!(reason(&unwrapped, value), Some(expected), "{value}");
    }
    assert_eq!(reason(&unwrapped, "no JSON").map(|(reason, ..)| reason), Some(Reason::BadJson));

    // The same with a format of the job's own, deeper, and where nothing is escaped.
    let own = job(&format!("unwrap = \"/log/0\"\nline = '$remote_addr [$time_local]'\n{CONSTANT}"), &["client"]);
    let value = r#"{"log":["192.0.2.9 [10/Feb/2025:16:42:07 -0500]"]}"#;
    assert_eq!(decoded(&own, value.as_bytes()), (Outcome::Counted, Some(TIME_US), vec!["192.0.2.9".to_owned()]));
}

#[test]
fn json_inside_json_is_unwrapped() {
    let job = r#"
[event]
format = "json"
unwrap = "/payload"
customer = { pointer = "/customer" }
event_time = { pointer = "/at" }
"#;
    let value = r#"{"customer":"no","payload":"{\"customer\":\"c\u00e9\",\"at\":1739223727000}"}"#;
    let mut event = Event::default();
    assert_eq!(decoder(job).decode(record(Some(value.as_bytes()), None), &mut event), Outcome::Counted);
    assert_eq!((event.customer.as_str(), event.event_time), ("cé", Some(TIME_US)));
}

#[test]
fn bytes_that_are_not_utf8_are_replaced_in_their_field() {
    let lines = include_bytes!("../../tests/data/access_lines_not_utf8.log");
    let lines: Vec<&[u8]> = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let job = job(CONSTANT, &["path", "user_agent"]);
    let found: Vec<_> = lines.into_iter().map(|line| decoded(&job, line)).collect();
    let text = |text: &str| text.to_owned();
    assert_eq!(
        found,
        [
            (Outcome::Counted, Some(TIME_US), vec![text("/\u{fffd}\u{fffd}\u{fffd}\u{fffd}"), text("x")]),
            (Outcome::Counted, Some(TIME_US), vec![text("/a"), text("F\u{fffd}tbol/1.0")]),
        ]
    );
}

proptest! {
    /// Whatever bytes a line has, in JSON or alone, the decoder does not panic.
    #[test]
    fn any_line_has_an_outcome(
        bytes in prop::collection::vec(prop::sample::select(b"h - [10/Feb/2025:16:42:07 -0500] \"GET /a?b#://\\x\" 20,1{}:e\xff\xc3".to_vec()), 0..90),
        cut in 0..120_usize,
    ) {
        let good = br#"192.0.2.1 - bob [10/Feb/2025:16:42:07 -0500] "GET http://h/a?b HTTP/1.1" 200 368 "-" "\x22\xff""#;
        let mut mixed = good[..cut.min(good.len())].to_vec();
        mixed.extend_from_slice(&bytes);
        let text = String::from_utf8_lossy(&mixed);
        let wrapped = serde_json::json!({ "message": text }).to_string().into_bytes();
        for event in [
            "",
            "line = '%h %l %u %t \"%r\" %>s %b'",
            "line = '$remote_addr - $remote_user [$time_local] \"$request\" $upstream_status $uri$is_args$args'",
        ] {
            let plain = job(&format!("{event}\n{CONSTANT}"), &["path", "query", "client"]);
            let unwrapped = job(&format!("unwrap = \"/message\"\n{event}\n{CONSTANT}"), &["path", "query", "client"]);
            if let Outcome::Rejected(rejection) = decoded(&plain, &mixed).0 {
                prop_assert!(rejection.reason != Reason::DecoderPanic, "{}", rejection.expected);
            }
            if !text.is_empty() {
                prop_assert_eq!(decoded(&plain, text.as_bytes()), decoded(&unwrapped, &wrapped));
            }
        }
    }
}
