//! Events as users of other systems reported them, through the web-analytics job: each value that is counted, each rejection with
//! its message.

use super::*;

/// Kafka's timestamp: a second after the time of most of the events.
const SENT_MS: i64 = NOW_US / 1000 + 1000;

/// The job file, with `changes` made to it.
fn web_analytics(changes: &[(&str, &str)]) -> Decoder {
    let path = format!("{}/jobs/web-analytics.toml", env!("CARGO_MANIFEST_DIR"));
    let mut text = std::fs::read_to_string(path).expect("the job file is there");
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    Decoder::new(&Job::parse(&text, "web-analytics.toml", &|_| None).unwrap_or_else(|error| panic!("{error}")).logic)
}

fn event(more: &str) -> String {
    format!(r#"{{"analyticsCustomerId":"c","dateTimeUtc":"2026-01-13T04:05:06Z"{more}}}"#)
}

/// Customer, event time, action and page of what is counted.
fn counted(decoder: &mut Decoder, value: &[u8]) -> (String, TimeUs, String, String) {
    let mut event = Event::default();
    let outcome = decoder.decode(record(Some(value), Some(SENT_MS)), &mut event);
    assert_eq!(outcome, Outcome::Counted, "{}", String::from_utf8_lossy(value));
    // The dimensions: action, browser, country, device, os, page, referrer, total.
    let [action, page] = [0, 5].map(|index| event.values[index].clone());
    (event.customer, event.event_time.expect("a counted event has a time"), action, page)
}

fn rejection_of(decoder: &mut Decoder, value: &[u8]) -> Rejection {
    match decoder.decode(record(Some(value), Some(SENT_MS)), &mut Event::default()) {
        Outcome::Rejected(rejection) => *rejection,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(value)),
    }
}

#[test]
fn lone_surrogates_and_bytes_that_are_not_utf8() {
    let mut decoder = web_analytics(&[]);
    for (more, action, page) in [
        (r#","action":"view","title":"sale \ud83d""#, "view", ""),
        (r#","action":"view""#, "view", ""),
        (r#","action":"buy \ud83d""#, "buy \u{fffd}", ""),
        (r#","action":"view","url":"https://example.com/\ud83d""#, "view", "/\u{fffd}"),
    ] {
        let expected = ("c".to_owned(), NOW_US, action.to_owned(), page.to_owned());
        assert_eq!(counted(&mut decoder, event(more).as_bytes()), expected, "{more}");
    }
    // Latin-1 in a field that is counted, in one that is not, and in the customer's name.
    for (from, bytes, action, customer) in [
        ("\"f!tbol\"", &b"\"f\xfatbol\""[..], "f\u{fffd}tbol", "c"),
        ("\"v\",\"title\":\"!\"", b"\"v\",\"title\":\"\xff\xfe\xe2\x82\"", "v", "c"),
        ("\"v\",\"analyticsCustomerId\":\"!\"", b"\"v\",\"analyticsCustomerId\":\"\xe9\"", "v", "\u{fffd}"),
    ] {
        let (before, after) = (event(",\"action\":@").replace('}', ""), "}");
        let value = [before.trim_end_matches('@').as_bytes(), bytes, after.as_bytes()].concat();
        let (found, _, said, _) = counted(&mut decoder, &value);
        assert_eq!((found.as_str(), said.as_str()), (customer, action), "{from}");
    }
}

#[test]
fn duplicate_keys_leap_seconds_and_numbers() {
    let mut decoder = web_analytics(&[]);
    for (more, action) in [
        (r#","action":"a","action":"b""#, "b"),
        (r#","action":1e3"#, "1e3"),
        (r#","action":-0"#, "-0"),
        (r#","action":1.50"#, "1.50"),
        (r#","action":1.0E10"#, "1.0E10"),
        (r#","action":12345678901234567890123"#, "12345678901234567890123"),
    ] {
        assert_eq!(counted(&mut decoder, event(more).as_bytes()).2, action, "{more}");
    }
    // The last µs of its minute, which is the last of its year.
    let leap = br#"{"analyticsCustomerId":"c","dateTimeUtc":"2016-12-31T23:59:60Z","action":"view"}"#;
    assert_eq!(counted(&mut decoder, leap).1, 1_483_228_800_000_000 - 1);
}

#[test]
fn event_times_of_others() {
    let place = "{ pointer = \"/dateTimeUtc\" }";
    let with = |key: &str| web_analytics(&[(place, &format!("{{ pointer = \"/dateTimeUtc\", {key} }}"))]);
    for (time, key, micros, hint) in [
        (r#""2026-01-13T04:05:06.789+0000""#, "", 789_000, ""),
        (
            r#""2026-01-13 04:05:06.123""#,
            "assume_offset = \"+00:00\"",
            123_000,
            "it looks like a time without its offset: event_time = { …, assume_offset = \"+00:00\" }",
        ),
        (r#""2026-01-13T04:05Z""#, "", -6_000_000, ""),
        (
            "1768277106",
            "format = \"unix_seconds\"",
            0,
            "it looks like seconds: event_time = { …, format = \"unix_seconds\" }",
        ),
        (
            "1768277106.789",
            "format = \"unix_seconds\"",
            789_000,
            "it looks like seconds: event_time = { …, format = \"unix_seconds\" }",
        ),
        (r#""1768277106000""#, "", 0, ""),
        ("1768277106000.0", "", 0, ""),
        (
            "1768277106000000",
            "format = \"unix_us\"",
            0,
            "it looks like microseconds: event_time = { …, format = \"unix_us\" }",
        ),
        (r#""13/01/2026 05:05:06 AM +0100""#, "format = \"%d/%m/%Y %I:%M:%S %p %z\"", 0, ""),
    ] {
        let value = format!(r#"{{"analyticsCustomerId":"c","dateTimeUtc":{time}}}"#);
        if !key.is_empty() {
            let rejection = rejection_of(&mut web_analytics(&[]), value.as_bytes());
            assert!(rejection.expected.ends_with(hint), "{time}: {rejection:?}");
            assert_eq!(
                (rejection.field.as_deref(), rejection.found.as_str()),
                (Some("event_time"), time.trim_matches('"'))
            );
        }
        let mut decoder = if key.is_empty() { web_analytics(&[]) } else { with(key) };
        assert_eq!(counted(&mut decoder, value.as_bytes()).1, NOW_US + micros, "{time}");
    }
}

#[test]
fn envelopes_of_others() {
    let mut decoder = web_analytics(&[]);
    let plain = event("");
    for value in [
        event(r#","x":NaN"#),
        event(r#","ua":"F\xFAtbol""#),
        event(r#","x":[1,{"y":-Infinity}],"z":01"#),
        format!("\u{feff}{plain}"),
    ] {
        assert_eq!(counted(&mut decoder, value.as_bytes()).1, NOW_US, "{value}");
    }
    for (value, expected) in [
        (
            format!("[{plain},{plain}]"),
            "one JSON object: '{' at byte 0; this is an array: each event must be a record of its own",
        ),
        (
            format!("\0\0\0\0\u{c}{plain}"),
            "one JSON object: '{' at byte 0; it begins with a zero byte, as what a schema registry's serializer writes: send plain \
             JSON, without the schema's number",
        ),
        (plain.trim_end_matches('}').to_owned(), "one JSON object: ',' or '}' at byte 63, where the value ends"),
        (event(r#","action":NaN"#), "one JSON object: a value at byte 73"),
        (event(r#","action":"F\xFAtbol""#), "one JSON object: an escape that JSON knows at byte 75"),
    ] {
        let rejection = rejection_of(&mut decoder, value.as_bytes());
        assert_eq!((rejection.reason, rejection.expected.as_str()), (Reason::BadJson, expected));
        assert_eq!(rejection.found, value);
    }
}

#[test]
fn customers_that_are_integers() {
    let number =
        |customer: &str| format!(r#"{{"analyticsCustomerId":{customer},"dateTimeUtc":"2026-01-13T04:05:06Z"}}"#);
    let rejection = rejection_of(&mut web_analytics(&[]), number("14").as_bytes());
    assert_eq!((rejection.reason, rejection.found.as_str()), (Reason::WrongType, "14"));
    assert_eq!(rejection.expected, "a string; for integers, customer = { …, integers = true }");
    let mut decoder = web_analytics(&[(
        "customer = { pointer = \"/analyticsCustomerId\" }",
        "customer = { pointer = \"/analyticsCustomerId\", integers = true }",
    )]);
    for (customer, counts_as) in [
        ("14", "14"),
        ("-14", "-14"),
        ("0", "0"),
        ("99999999999999999999", "99999999999999999999"),
        (r#""014""#, "014"),
    ] {
        assert_eq!(counted(&mut decoder, number(customer).as_bytes()).0, counts_as);
    }
    for customer in ["14.0", "1e3", "-0", "1.4E1"] {
        let rejection = rejection_of(&mut decoder, number(customer).as_bytes());
        assert_eq!((rejection.reason, rejection.found.as_str()), (Reason::WrongType, customer));
        assert_eq!(rejection.expected, "a string, or an integer without fraction and exponent");
    }
    assert_eq!(rejection_of(&mut decoder, number("true").as_bytes()).expected, "a string");
}
