//! The rules of rejection, `where`, and values, case by case.

mod cases;

use super::*;
use crate::job::{Condition, Job};
use proptest::prelude::*;

const HEAD: &str = r#"
name = "test"
[source]
topics = ["events"]
[source.kafka]
bootstrap.servers = "127.0.0.1:9092"
[tables]
url = "memory:///tables"
"#;

const JSON: &str = r#"
[event]
format = "json"
customer = { pointer = "/customer" }
event_time = { first_of = ["/at", "/sent"] }
record_bytes_max = 4096
[event.fields.action]
pointer = "/action"
transform = ["lower_case"]
[event.fields.page]
first_of = ["/url", "/referrer"]
transform = ["url_path"]
[event.fields.details]
pointer = "/details"
[event.fields.unused]
pointer = "/unused"
[[where]]
field = "action"
not = { in = ["ping", "debug"] }
[[where]]
field = "details"
not = { exists = true }
[dimensions.total]
granularities = ["minute"]
[dimensions.action]
granularities = ["minute", "hour", "day"]
[dimensions.page]
granularities = ["day"]
"#;

const LINES: &str = r#"
[event]
format = "access_log"
customer = { field = "virtual_host", transform = ["lower_case"] }
event_time = { field = "time" }
[event.fields.status]
field = "status"
[dimensions.status]
granularities = ["minute"]
"#;

const NOW: &str = r#""2026-01-13T04:05:06Z""#;
const NOW_US: TimeUs = 1_768_277_106_000_000;

pub(super) fn decoder(event: &str) -> Decoder {
    let job = Job::parse(&format!("{HEAD}{event}"), "test.toml", &|_| None).expect("a good job");
    Decoder::new(&job.logic)
}

pub(super) fn record(value: Option<&[u8]>, timestamp_ms: Option<i64>) -> RecordRef<'_> {
    RecordRef { timestamp_ms, value, ..RecordRef::default() }
}

fn decoded(event: &str, value: &str) -> (Outcome, Event) {
    let mut out = Event::default();
    let outcome = decoder(event).decode(record(Some(value.as_bytes()), Some(NOW_US / 1000)), &mut out);
    (outcome, out)
}

pub(super) fn rejected(outcome: &Outcome) -> Option<(Reason, Option<&str>, &str)> {
    match outcome {
        Outcome::Rejected(rejection) => Some((rejection.reason, rejection.field.as_deref(), &rejection.found)),
        _ => None,
    }
}

#[test]
fn each_reason_in_its_order() {
    let composite = r#"{"x": [1]}"#;
    for (value, reason, field, found) in [
        ("", Reason::Empty, None, ""),
        ("nonsense", Reason::BadJson, None, "nonsense"),
        ("{}{}", Reason::BadJson, None, "{}{}"),
        ("[]", Reason::BadJson, None, "[]"),
        ("{}", Reason::MissingField, Some("customer"), ""),
        (r#"{"at":1,"customer":null}"#, Reason::MissingField, Some("customer"), "null"),
        (r#"{"at":1,"customer":""}"#, Reason::MissingField, Some("customer"), "\"\""),
        (r#"{"customer":"c"}"#, Reason::MissingField, Some("event_time"), ""),
        (r#"{"customer":"c","at":null,"sent":""}"#, Reason::MissingField, Some("event_time"), "null"),
        // A missing field is reported before one of a wrong type.
        (r#"{"customer":1}"#, Reason::MissingField, Some("event_time"), ""),
        (r#"{"customer":1,"at":true}"#, Reason::WrongType, Some("customer"), "1"),
        (r#"{"customer":true,"at":1}"#, Reason::WrongType, Some("customer"), "true"),
        (r#"{"customer":["c"],"at":1}"#, Reason::WrongType, Some("customer"), "[\"c\"]"),
        (r#"{"customer":"c","at":true}"#, Reason::WrongType, Some("event_time"), "true"),
        (r#"{"customer":"c","at":{"x": [1]}}"#, Reason::WrongType, Some("event_time"), composite),
        (r#"{"customer":"c","at":"x","action":{"x": [1]}}"#, Reason::WrongType, Some("action"), composite),
        (r#"{"customer":"c","at":"x","url":[],"referrer":"r"}"#, Reason::WrongType, Some("page"), "[]"),
        (r#"{"customer":"c","at":"x"}"#, Reason::BadTime, Some("event_time"), "x"),
        (r#"{"customer":"c","at":1.5}"#, Reason::BadTime, Some("event_time"), "1.5"),
        (r#"{"customer":"c","at":1e11}"#, Reason::TimeOutOfRange, Some("event_time"), "1e11"),
        (r#"{"customer":"c","at":1768277106}"#, Reason::TimeOutOfRange, Some("event_time"), "1768277106"),
        (r#"{"customer":"c","at":"1768277106"}"#, Reason::TimeOutOfRange, Some("event_time"), "1768277106"),
        (r#"{"customer":"c","at":0}"#, Reason::TimeOutOfRange, Some("event_time"), "0"),
        (
            r#"{"customer":"c","at":99999999999999999999}"#,
            Reason::TimeOutOfRange,
            Some("event_time"),
            "99999999999999999999",
        ),
        (r#"{"customer":"c","at":1768363506001}"#, Reason::TimeOutOfRange, Some("event_time"), "1768363506001"),
    ] {
        assert_eq!(rejected(&decoded(JSON, value).0), Some((reason, field, found)), "{value}");
    }
}

#[test]
fn bytes_that_are_no_text_or_too_many() {
    let mut decoder = decoder(JSON);
    let mut event = Event::default();
    let mut reason = |value: Option<&[u8]>| match decoder.decode(record(value, None), &mut event) {
        Outcome::Rejected(rejection) => Some((rejection.reason, rejection.found)),
        _ => None,
    };
    assert_eq!(reason(None), Some((Reason::Empty, String::new())));
    assert_eq!(reason(Some(&[0xff, b'{'])), Some((Reason::BadJson, "\u{fffd}{".to_owned())));
    assert_eq!(reason(Some(&[0xff; 4097])), Some((Reason::TooLarge, "4097 bytes".to_owned())));
    assert_eq!(reason(Some(&[b' '; 4096])).map(|(reason, _)| reason), Some(Reason::BadJson));
    let cut = reason(Some("é".repeat(200).as_bytes())).expect("rejected").1;
    assert_eq!(cut.len(), Rejection::FOUND_BYTES_MAX);
}

#[test]
fn the_event_time_is_there_whenever_it_can_be_read() {
    for (value, expected) in [
        (format!(r#"{{"at":{NOW}}}"#), Some(NOW_US)),
        (format!(r#"{{"customer":1,"at":{NOW}}}"#), Some(NOW_US)),
        (format!(r#"{{"customer":"c","at":{NOW},"action":[]}}"#), Some(NOW_US)),
        (format!(r#"{{"customer":"c","at":{NOW},"action":"ping"}}"#), Some(NOW_US)),
        (format!(r#"{{"customer":"c","sent":{NOW}}}"#), Some(NOW_US)),
        (format!(r#"{{"customer":"c","at":"","sent":{NOW}}}"#), Some(NOW_US)),
        (r#"{"customer":"c","at":1000}"#.to_owned(), Some(1_000_000)),
        (r#"{"customer":"c","at":"9999-12-31T23:59:59Z"}"#.to_owned(), Some(253_402_300_799_000_000)),
        (r#"{"customer":"c","at":9223372036854775}"#.to_owned(), None),
        (r#"{"customer":"c","at":"x"}"#.to_owned(), None),
        (format!(r#"{{"at":{NOW}"#), None),
    ] {
        assert_eq!(decoded(JSON, &value).1.event_time, expected, "{value}");
    }
}

#[test]
fn kafka_timestamp_bounds_the_future_only_where_there_is_one() {
    let mut decoder = decoder(JSON);
    let mut event = Event::default();
    let value = format!(r#"{{"customer":"c","at":{NOW}}}"#);
    for (timestamp_ms, expected) in [
        (None, "counted"),
        (Some(NOW_US / 1000 - 86_400_000), "counted"),
        (Some(NOW_US / 1000 - 86_400_001), "rejected"),
    ] {
        let outcome = decoder.decode(record(Some(value.as_bytes()), timestamp_ms), &mut event);
        assert_eq!(outcome.name(), expected, "{timestamp_ms:?}");
    }
}

#[test]
fn values_are_in_the_order_of_the_dimensions() {
    // The dimensions: action, page, total.
    for (more, values) in [
        ("", ["", "", ""]),
        (r#","action":null,"url":null"#, ["", "", ""]),
        (r#","action":"Click","url":"https://h/a?b""#, ["click", "/a", ""]),
        (r#","action":1.50,"url":"","referrer":"https://h""#, ["1.50", "/", ""]),
        (r#","action":true,"url":"no url","referrer":"https://h/r""#, ["true", "", ""]),
        (r#","action":"\u00c9","unused":{}"#, ["é", "", ""]),
        (r#","action":"a","action":"b""#, ["b", "", ""]),
    ] {
        let (outcome, event) = decoded(JSON, &format!(r#"{{"customer":"C 1","at":{NOW}{more}}}"#));
        assert_eq!(outcome, Outcome::Counted, "{more}");
        assert_eq!(event.values, values, "{more}");
        assert_eq!(event.customer, "C 1");
    }
    let (_, event) = decoded(JSON, &format!(r#"{{"customer":"c","at":{NOW},"action":"{}"}}"#, "X".repeat(600)));
    assert_eq!(event.values[0].len(), 512);
    assert!(event.values[0].starts_with("xxx"));
}

#[test]
fn what_is_filtered_is_well_formed() {
    for (value, expected) in [
        (format!(r#"{{"customer":"c","at":{NOW},"action":"PING"}}"#), "filtered"),
        (format!(r#"{{"customer":"c","at":{NOW},"action":"pong"}}"#), "counted"),
        (format!(r#"{{"customer":"c","at":{NOW},"details":{{}}}}"#), "filtered"),
        (format!(r#"{{"customer":"c","at":{NOW},"details":""}}"#), "counted"),
        (r#"{"customer":"c","at":"x","action":"ping"}"#.to_owned(), "rejected"),
        (format!(r#"{{"at":{NOW},"action":"ping"}}"#), "rejected"),
    ] {
        assert_eq!(decoded(JSON, &value).0.name(), expected, "{value}");
    }
}

#[test]
fn lines() {
    let line = |front: &str, time: &str| format!(r#"{front} 1.2.3.4 - - [{time}] "GET / HTTP/1.1" 404 -"#);
    let (outcome, event) = decoded(LINES, &line("Shop.Example:443", "13/Jan/2026:05:05:06 +0100"));
    assert_eq!(outcome, Outcome::Counted);
    assert_eq!((event.customer.as_str(), event.event_time), ("shop.example", Some(NOW_US)));
    assert_eq!(event.values, ["404", ""]);
    let (outcome, event) = decoded(LINES, &line("Shop.Example", "yesterday"));
    assert_eq!(rejected(&outcome), Some((Reason::BadTime, Some("event_time"), "yesterday")));
    assert_eq!(event.event_time, None);
    let (outcome, event) = decoded(LINES, line("", "13/Jan/2026:04:05:06 +0000").trim_start());
    assert_eq!(rejected(&outcome), Some((Reason::MissingField, Some("customer"), "")));
    assert_eq!(event.event_time, Some(NOW_US));
    let (outcome, _) = decoded(LINES, r#"{"customer":"c"}"#);
    assert_eq!(rejected(&outcome), Some((Reason::BadLine, None, r#"{"customer":"c"}"#)));
}

/// A request to a proxy may be for `http://host` without a path: the path is `/`, which is not a part of the line.
#[test]
fn a_line_with_an_absolute_url_without_a_path() {
    let job = LINES.replace("[event.fields.status]\nfield = \"status\"", "[event.fields.status]\nfield = \"path\"");
    for url in ["http://h", "http://h:80", "https://h?q=1", "ftp://h"] {
        let line = format!(r#"h 1.2.3.4 - - [13/Jan/2026:05:05:06 +0100] "GET {url} HTTP/1.1" 200 1"#);
        let (outcome, event) = decoded(&job, &line);
        assert_eq!((outcome, event.values[0].as_str()), (Outcome::Counted, "/"), "{line}");
    }
}

#[test]
fn a_record_that_makes_the_decoder_fail_is_rejected_and_the_next_is_decoded() {
    let mut decoder = decoder(JSON);
    let value = format!(r#"{{"customer":"c","at":{NOW},"action":"a"}}"#);
    let mut event = Event::default();
    // Simulates an unknown bug: a buffer is missing.
    let fields = std::mem::take(&mut decoder.fields);
    let filters = std::mem::replace(&mut decoder.plan.filters, vec![(9, Condition::Exists(true))]);
    let outcome = decoder.decode(record(Some(value.as_bytes()), None), &mut event);
    let (reason, field, found) = rejected(&outcome).expect("rejected");
    assert_eq!((reason, field, found), (Reason::DecoderPanic, None, value.as_str()));
    assert_eq!(event, Event { values: vec![String::new(); 3], ..Event::default() });
    decoder.fields = fields;
    decoder.plan.filters = filters;
    assert_eq!(decoder.decode(record(Some(value.as_bytes()), None), &mut event), Outcome::Counted);
    assert_eq!(event.values, ["a", "", ""]);
}

proptest! {
    /// No record affects the next one.
    #[test]
    fn a_used_decoder_decodes_as_a_new_one(
        values in prop::collection::vec(
            "(\\{(\"(customer|at|action|url|x)\":(\"(c|http://h/\\\\\\\\u00e9|2026-01-13T04:05:06Z|ping)?\"|1768277106000|null|\\[1\\]),?){0,6}\\})|[{\":a ]{0,8}",
            1..20,
        )
    ) {
        let mut used = decoder(JSON);
        let mut event = Event::default();
        for value in values {
            let value = value.replace(",}", "}");
            let outcome = used.decode(record(Some(value.as_bytes()), None), &mut event);
            let (fresh_outcome, fresh) = {
                let mut fresh = Event::default();
                (decoder(JSON).decode(record(Some(value.as_bytes()), None), &mut fresh), fresh)
            };
            prop_assert_eq!(&outcome, &fresh_outcome);
            prop_assert_eq!(event.event_time, fresh.event_time);
            if outcome == Outcome::Counted {
                prop_assert_eq!(&event, &fresh);
            }
        }
    }

    #[test]
    fn any_bytes_have_an_outcome(bytes: Vec<u8>) {
        let mut event = Event::default();
        for job in [JSON, LINES] {
            let outcome = decoder(job).decode(record(Some(&bytes), None), &mut event);
            prop_assert!(rejected(&outcome).is_some_and(|(reason, _, _)| reason != Reason::DecoderPanic));
        }
    }
}
