//! Valid job files, and the errors of invalid ones.

use super::*;
use crate::model::Granularity;

const GOOD: &str = r#"name = "test"
[source]
topics = ["events"]
[source.kafka]
"bootstrap.servers" = "127.0.0.1:9092"
[tables]
url = "tables/test"
[event]
format = "json"
customer = { pointer = "/customer" }
event_time = { pointer = "/time" }
[event.fields.action]
pointer = "/action"
[[where]]
field = "action"
exists = true
[dimensions.action]
granularities = ["hour", "minute"]
"#;

fn env(name: &str) -> Option<String> {
    match name {
        "TOPIC" => Some("from-env".to_owned()),
        "PASSWORD" => Some("hunter2".to_owned()),
        "SECONDS" => Some("7".to_owned()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Job, JobError> {
    Job::parse(text, "test.toml", &env)
}

fn good(text: &str) -> Job {
    parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// `GOOD` with `from` replaced by `to`.
fn changed(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replacen(from, to, 1)
}

fn error(text: &str) -> String {
    parse(text).map(|job| format!("{job:?}")).expect_err("this job is wrong").to_string()
}

#[test]
fn a_short_file_gets_its_defaults() {
    let job = good(GOOD);
    assert_eq!(job.name, "test");
    assert_eq!(job.source.topics, ["events"]);
    assert_eq!(job.source.start, Start::Earliest);
    assert_eq!(job.source.kafka.get("bootstrap.servers").map(String::as_str), Some("127.0.0.1:9092"));
    assert_eq!((job.tables.url.as_str(), job.tables.buckets, job.tables.options.len()), ("tables/test", 8, 0));
    assert_eq!(job.settings, Settings::default());
    let logic = &job.logic;
    assert_eq!((logic.format, logic.record_bytes_max), (Format::Json, 1 << 20));
    assert_eq!(logic.event_time, [Place::Pointer(vec!["time".to_owned()])]);
    assert_eq!(logic.graces_us, [20_000_000, 60_000_000, 300_000_000]);
    assert_eq!(logic.grace_us(Granularity::Hour), 60_000_000);
    assert_eq!(logic.grace_us(Granularity::Week), 0);
    assert_eq!(logic.filters, [Filter { field: 0, condition: Condition::Exists(true) }]);
    let dimensions: Vec<_> =
        logic.dimensions.iter().map(|d| (d.name.as_str(), d.field, d.granularities.len())).collect();
    assert_eq!(dimensions, [("action", Some(0), 2), ("total", None, 6)]);
    assert_eq!(logic.dimensions[0].granularities, [Granularity::Minute, Granularity::Hour]);
}

#[test]
fn everything_that_can_be_said() {
    let text = r#"
name = "full-1"
source.topics = ["a", "${TOPIC}"]
source.start = 2026-01-13T00:00:00+01:00
dimensions.page = { granularities = ["day"] }
dimensions.verb = { field = "action", granularities = ["minute", "day"] }
dimensions.total.granularities = ["hour"]
granularities.minute.grace_seconds = 0
granularities.day.grace_seconds = 86400
settings = { epoch_seconds = "${SECONDS}", epoch_bytes = 1_000_000, idle_epoch_seconds = 7, epochs_in_flight_max = 3, pending_bytes_max = 2_000_000, rewrite_share_max = 0.25, shutdown_grace_seconds = 5, archive_file_bytes = 3_000_000, dead_files_keep_hours = 2 }
lanes.hour.publish_seconds = 60
lanes.coarse.publish_seconds = 0
[source.kafka]
bootstrap.servers = "a:1,b:2"
"fetch.queue.backoff.ms" = 5
socket.keepalive.enable = true
"sasl.password" = "${PASSWORD}"
"sasl.username" = "${NONE:-}"
[tables]
url = "s3://bucket/some/path/"
buckets = 16
[tables.options]
secret_access_key = "${PASSWORD}"
allow_http = true
endpoint = "${NONE:-}"
[event]
format = "json"
customer = { constant = "${TOPIC}" }
event_time = { first_of = ["/time", "/a~1b/~0c"] }
record_bytes_max = 1000
[event.fields.page]
first_of = ["/url", "/referrer"]
transform = ["url_path", "lower_case"]
[event.fields.action]
pointer = "/action"
[[where]]
field = "action"
in = ["a", "b"]
[[where]]
field = "action"
not = { equals = "$${c}" }
[[where]]
field = "page"
prefix = "/x"
"#;
    let job = good(text);
    assert_eq!(job.source.topics, ["a", "from-env"]);
    assert_eq!(job.source.start, Start::Time { ms: 1_768_258_800_000 });
    let kafka: Vec<_> = job.source.kafka.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let expected = [
        "bootstrap.servers=a:1,b:2",
        "fetch.queue.backoff.ms=5",
        "sasl.password=hunter2",
        "socket.keepalive.enable=true",
    ];
    assert_eq!(kafka, expected);
    assert_eq!((job.tables.url.as_str(), job.tables.buckets), ("s3://bucket/some/path", 16));
    assert_eq!(job.tables.options.keys().collect::<Vec<_>>(), ["allow_http", "secret_access_key"]);
    assert_eq!(job.logic.customer, FieldSpec::Constant("from-env".to_owned()));
    let second = Place::Pointer(vec!["a/b".to_owned(), "~c".to_owned()]);
    assert_eq!(job.logic.event_time[1], second);
    let names: Vec<_> = job.logic.dimensions.iter().map(|d| (d.name.as_str(), d.field)).collect();
    assert_eq!(names, [("page", Some(1)), ("total", None), ("verb", Some(0))]);
    assert_eq!(job.logic.dimensions[1].granularities, [Granularity::Hour]);
    assert_eq!(job.logic.graces_us, [0, 60_000_000, 86_400_000_000]);
    assert_eq!(job.logic.filters[1].condition, Condition::Not(Box::new(Condition::Equals("${c}".to_owned()))));
    assert_eq!(job.settings.epoch_seconds, 7);
    assert_eq!(job.settings.epoch_bytes, 1_000_000);
    assert_eq!(job.settings.rewrite_share_max, 0.25);

    let printed = format!("{job:?}");
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(printed.contains("a:1,b:2") && printed.contains("***"), "{printed}");
}

#[test]
fn places_of_tables() {
    for (url, expected) in [
        ("tables/x/", "tables/x"),
        ("/var/x", "/var/x"),
        ("/", "/"),
        ("file:///var/x", "file:///var/x"),
        ("memory:///", "memory:///"),
        ("memory://x", "memory://x"),
        ("s3://b", "s3://b"),
        ("gs://b/x", "gs://b/x"),
        ("az://b/x", "az://b/x"),
        ("abfss://container@account.dfs.core.windows.net/x", "abfss://container@account.dfs.core.windows.net/x"),
    ] {
        assert_eq!(good(&changed("tables/test", url)).tables.url, expected);
    }
    for url in ["s3:///x", "s3://", "http://h/x", "s4://b", "s3://k:s3cr3t@b/x", "s3://b/x?y", "file://x", ""] {
        let error = error(&changed("tables/test", url));
        assert!(error.starts_with("test.toml:7:1: tables.url: found "), "{error}");
        assert!(!error.contains("s3cr3t"), "{error}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (from, to, expected) in [
        // Unknown keys, in each section.
        (
            "[tables]",
            "[tabels]",
            "test.toml:6:2: tabels: found an unknown key; expected one of name, source, tables, event, where, dimensions, granularities, lanes, settings; did you mean `tables`?",
        ),
        (
            "topics =",
            "topic =",
            "test.toml:3:1: source.topic: found an unknown key; expected one of topics, start, kafka; did you mean `topics`?",
        ),
        ("url =", "uri =", "test.toml:7:1: tables.uri: found an unknown key"),
        (
            "customer = {",
            "zzz = {",
            "test.toml:10:1: event.zzz: found an unknown key; expected one of format, line, unwrap, customer, event_time, record_bytes_max, fields",
        ),
        (
            "exists = true",
            "exist = true",
            "test.toml:16:1: where[0].exist: found an unknown key; expected one of field, equals, in, prefix, exists, not; did you mean `exists`?",
        ),
        (
            "{ pointer = \"/customer\" }",
            "{ pionter = \"/customer\" }",
            "test.toml:10:14: event.customer.pionter: found an unknown key; expected one of constant, pointer, field, first_of, transform, integers; did you mean `pointer`?",
        ),
        // Missing keys.
        ("name = \"test\"", "", "test.toml: name: found nothing; expected the job's name"),
        ("url = \"tables/test\"", "", "test.toml:6:2: tables.url: found nothing; expected a URL or a local path"),
        (
            "customer = { pointer = \"/customer\" }",
            "",
            "test.toml:8:2: event.customer: found nothing; expected the place of the customer, as in { pointer = \"/…\" }",
        ),
        ("event_time = { pointer = \"/time\" }", "", "test.toml:8:2: event.event_time: found nothing"),
        ("format = \"json\"", "", "test.toml:8:2: event.format: found nothing"),
        (
            "granularities = [\"hour\", \"minute\"]",
            "",
            "dimensions.action.granularities: found nothing; expected a list of granularities",
        ),
        ("\"bootstrap.servers\" = \"127.0.0.1:9092\"", "", "source.kafka: found no brokers"),
        ("field = \"action\"", "", "where[0].field: found nothing"),
        // Types and values.
        ("name = \"test\"", "name = 5", "test.toml:1:1: name: found the integer 5; expected a string"),
        ("name = \"test\"", "name = \"a b\"", "test.toml:1:1: name: found \"a b\""),
        (
            "[\"events\"]",
            "[]",
            "test.toml:3:1: source.topics: found an empty list; expected a non-empty list of topics",
        ),
        ("[\"events\"]", "\"events\"", "source.topics: found the string \"events\"; expected a list of topics"),
        (
            "[\"events\"]",
            "[\"events\", \"events\"]",
            "test.toml:3:21: source.topics[1]: found the string \"events\" twice; expected each one once",
        ),
        ("[\"events\"]", "[\"ev*\"]", "test.toml:3:11: source.topics[0]: found \"ev*\""),
        ("[\"events\"]", "[\"\"]", "source.topics[0]: found an empty string"),
        (
            "[\"events\"]",
            "[\"events\"]\nstart = \"erliest\"",
            "test.toml:4:1: source.start: found \"erliest\"; expected \"earliest\", \"latest\", or a time",
        ),
        ("[\"events\"]", "[\"events\"]\nstart = \"2026-01-13\"", "source.start: found \"2026-01-13\""),
        (
            "\"bootstrap.servers\"",
            "enable.auto.commit = true\n\"bootstrap.servers\"",
            "source.kafka.enable.auto.commit: found a property that the source sets itself",
        ),
        (
            "\"bootstrap.servers\" =",
            "\"sasl.password\" = [\"hunter3\"]\n\"bootstrap.servers\" =",
            "source.kafka.sasl.password: found a list; expected a string",
        ),
        (
            "\"bootstrap.servers\" =",
            "\"sasl.password\" = 2026-01-13\n\"bootstrap.servers\" =",
            "source.kafka.sasl.password: found a value of another type (not shown)",
        ),
        (
            "\"tables/test\"",
            "\"tables/test\"\nbuckets = 6",
            "test.toml:8:1: tables.buckets: found 6; expected a power of two, such as 4 or 8",
        ),
        (
            "\"tables/test\"",
            "\"tables/test\"\nbuckets = 0",
            "tables.buckets: found the integer 0; expected an integer from 1 to 65536",
        ),
        ("\"tables/test\"", "\"tables/test\"\nbuckets = 131072", "tables.buckets: found the integer 131072"),
        ("\"tables/test\"", "\"tables/test\"\nbuckets = -8", "tables.buckets: found the integer -8"),
        (
            "\"json\"",
            "\"jsonl\"",
            "test.toml:9:1: event.format: found \"jsonl\"; expected one of json, access_log; did you mean `json`?",
        ),
        ("\"json\"", "\"json\"\nrecord_bytes_max = 0", "event.record_bytes_max: found the integer 0"),
        (
            "{ pointer = \"/customer\" }",
            "\"/customer\"",
            "event.customer: found the string \"/customer\"; expected a table",
        ),
        (
            "{ pointer = \"/customer\" }",
            "{ pointer = \"customer\" }",
            "event.customer.pointer: found \"customer\"; expected a JSON pointer",
        ),
        (
            "{ pointer = \"/customer\" }",
            "{ pointer = \"/a~2\" }",
            "event.customer.pointer: found \"/a~2\"; expected a JSON pointer",
        ),
        (
            "{ pointer = \"/customer\" }",
            "{ constant = \"c\", pointer = \"/customer\" }",
            "event.customer: found constant and pointer; expected exactly one of constant, pointer, field, first_of",
        ),
        (
            "{ pointer = \"/customer\" }",
            "{ transform = [\"lower_case\"] }",
            "event.customer: found none of them; expected exactly one of",
        ),
        ("{ pointer = \"/customer\" }", "{ constant = \"\" }", "event.customer.constant: found an empty string"),
        (
            "{ pointer = \"/customer\" }",
            "{ constant = \"c\", transform = [\"lower_case\"] }",
            "event.customer.transform: found a transform of a constant",
        ),
        (
            "{ pointer = \"/customer\" }",
            "{ field = \"virtual_host\" }",
            "event.customer.field: found `field`; expected `pointer`, for this format",
        ),
        (
            "{ pointer = \"/customer\" }",
            "{ first_of = [\"/a\", \"/a\"] }",
            "event.customer.first_of[1]: found the string \"/a\" twice",
        ),
        (
            "{ pointer = \"/customer\" }",
            "{ pointer = \"/a\", transform = [\"lowercase\"] }",
            "event.customer.transform[0]: found \"lowercase\"; expected one of url_host, url_path, lower_case; did you mean `lower_case`?",
        ),
        (
            "{ pointer = \"/time\" }",
            "{ pointer = \"/time\", transform = [\"lower_case\"] }",
            "event.event_time.transform: found an unknown key",
        ),
        ("{ pointer = \"/time\" }", "{ constant = \"2026\" }", "event.event_time.constant: found an unknown key"),
        (
            "{ pointer = \"/customer\" }",
            "{ constant = \"c\", integers = true }",
            "event.customer.integers: found `integers`; expected no such key: it applies only to customers found in JSON",
        ),
        (
            "{ pointer = \"/customer\" }",
            "{ pointer = \"/c\", integers = 1 }",
            "event.customer.integers: found the integer 1",
        ),
        (
            "{ pointer = \"/time\" }",
            "{ pointer = \"/time\", format = \"unix_second\" }",
            "event.event_time.format: found \"unix_second\"; expected one of unix_seconds, unix_ms, unix_us, unix_ns, or a pattern as in \"%d.%m.%Y %H:%M:%S\"; did you mean `unix_seconds`?",
        ),
        (
            "{ pointer = \"/time\" }",
            "{ pointer = \"/time\", format = \"%d.%m.%Q\" }",
            "test.toml:11:35: event.event_time.format: found \"%d.%m.%Q\", whose `%Q` at character 7 is not a specifier; expected strftime specifiers",
        ),
        (
            "{ pointer = \"/time\" }",
            "{ pointer = \"/time\", format = \"%d.%m.%Y %H\" }",
            "event.event_time.format: found \"%d.%m.%Y %H\", which does not give a time of day; expected hour and minute",
        ),
        (
            "{ pointer = \"/time\" }",
            "{ pointer = \"/time\", format = \"%d.%m.%Y %H:%M\" }",
            "event.event_time.format: found \"%d.%m.%Y %H:%M\", which reads no offset; expected `assume_offset` beside it",
        ),
        (
            "{ pointer = \"/time\" }",
            "{ pointer = \"/time\", format = \"%d.%m.%Y %H:%M %z\", assume_offset = \"Z\" }",
            "event.event_time.assume_offset: found an assumed offset; expected none: the pattern reads the offset",
        ),
        (
            "{ pointer = \"/time\" }",
            "{ pointer = \"/time\", format = \"unix_ms\", assume_offset = \"Z\" }",
            "event.event_time.assume_offset: found an assumed offset; expected none: Unix time has no offset",
        ),
        (
            "{ pointer = \"/time\" }",
            "{ pointer = \"/time\", assume_offset = \"Europe/Berlin\" }",
            "event.event_time.assume_offset: found \"Europe/Berlin\"; expected an offset from UTC, as in \"+01:00\"",
        ),
        (
            "{ pointer = \"/time\" }",
            "{ pointer = \"/time\", assume_offset = \"+24:00\" }",
            "assume_offset: found \"+24:00\"",
        ),
        ("{ pointer = \"/time\" }", "{ pointer = \"/time\", assume_offset = 1 }", "assume_offset: found the integer 1"),
        ("pointer = \"/action\"", "constant = \"a\"", "event.fields.action.constant: found an unknown key"),
        (
            "[event.fields.action]",
            "[event.fields.customer]",
            "event.fields.customer: found the name \"customer\"; expected another name",
        ),
        (
            "[event.fields.action]",
            "[event.fields.Action]",
            "event.fields.Action: found the name \"Action\"; expected at most 64 characters from a-z, 0-9",
        ),
        // Conditions.
        (
            "field = \"action\"",
            "field = \"actoin\"",
            "test.toml:15:1: where[0].field: found \"actoin\"; expected the name of a field in [event.fields]; did you mean `action`?",
        ),
        ("exists = true", "exists = \"yes\"", "where[0].exists: found the string \"yes\"; expected true or false"),
        ("exists = true", "equals = 200", "where[0].equals: found the integer 200; expected a string"),
        (
            "exists = true",
            "equals = \"\"",
            "where[0].equals: found an empty string; expected a non-empty string; to match absent fields, use exists = false",
        ),
        ("exists = true", "in = []", "where[0].in: found an empty list"),
        ("exists = true", "in = [\"a\", \"a\"]", "where[0].in[1]: found the string \"a\" twice"),
        (
            "exists = true",
            "exists = true\nequals = \"a\"",
            "where[0]: found equals and exists; expected exactly one of equals, in, prefix, exists, not",
        ),
        ("exists = true", "", "where[0]: found none of them; expected exactly one of"),
        (
            "exists = true",
            "not = { not = { exists = true } }",
            "where[0].not.not: found an unknown key; expected one of equals, in, prefix, exists",
        ),
        ("exists = true", "not = \"a\"", "where[0].not: found the string \"a\"; expected a table"),
        (
            "exists = true",
            "exists = true\n[[where]]\nexists = true\nfield = \"action\"",
            "where[1]: found the same condition twice",
        ),
        // Dimensions, granularities, settings.
        (
            "[dimensions.action]",
            "[dimensions.acton]",
            "dimensions.acton: found no `field`, and no field with the dimension's own name; expected field = \"…\"; did you mean `action`?",
        ),
        ("[dimensions.action]", "[dimensions.\"a b\"]\nfield = \"action\"", "dimensions.a b: found the name \"a b\""),
        (
            "[dimensions.action]",
            "[dimensions.total]\nfield = \"action\"",
            "dimensions.total.field: found the string \"action\"; expected no field",
        ),
        (
            "[dimensions.action]",
            "[dimensions.x]\nfield = \"y\"",
            "dimensions.x.field: found \"y\"; expected the name of a field",
        ),
        ("[\"hour\", \"minute\"]", "[]", "dimensions.action.granularities: found an empty list"),
        (
            "[\"hour\", \"minute\"]",
            "[\"hour\", \"hour\"]",
            "dimensions.action.granularities[1]: found the string \"hour\" twice",
        ),
        (
            "[\"hour\", \"minute\"]",
            "[\"month\", \"week\"]",
            "dimensions.action.granularities: found only granularities longer than a day; expected at least one of minute, hour, day",
        ),
        (
            "[\"hour\", \"minute\"]",
            "[\"hours\"]",
            "found \"hours\"; expected one of minute, hour, day, week, month, year; did you mean `hour`?",
        ),
        (
            "[dimensions.action]",
            "[granularities.houre]\n[dimensions.action]",
            "granularities.houre: found a granularity without grace; expected one of minute, hour, day (week, month and year have no late records); did you mean `hour`?",
        ),
        (
            "[dimensions.action]",
            "[granularities.month]\n[dimensions.action]",
            "granularities.month: found a granularity without grace; expected one of minute, hour, day (week, month and year have no late records)",
        ),
        (
            "[dimensions.action]",
            "[lanes.month]\n[dimensions.action]",
            "lanes.month: found an unknown lane; expected one of minute, hour, day, late, coarse",
        ),
        (
            "[dimensions.action]",
            "[lanes.coarse]\npublish_seconds = 3601\n[dimensions.action]",
            "lanes.coarse.publish_seconds: found the integer 3601",
        ),
        (
            "[dimensions.action]",
            "[granularities.hour]\ngrace = 5\n[dimensions.action]",
            "granularities.hour.grace: found an unknown key; expected one of grace_seconds; did you mean `grace_seconds`?",
        ),
        (
            "[dimensions.action]",
            "[granularities.hour]\ngrace_seconds = 86401\n[dimensions.action]",
            "granularities.hour.grace_seconds: found the integer 86401",
        ),
        (
            "[dimensions.action]",
            "[settings]\nepoch_seconds = 0\n[dimensions.action]",
            "settings.epoch_seconds: found the integer 0; expected an integer from 1 to 3600",
        ),
        (
            "[dimensions.action]",
            "[settings]\nrewrite_share_max = 0\n[dimensions.action]",
            "settings.rewrite_share_max: found the integer 0; expected a number from 0.01 to 1",
        ),
        (
            "[dimensions.action]",
            "[settings]\nrewrite_share_max = \"half\"\n[dimensions.action]",
            "settings.rewrite_share_max: found the string \"half\"; expected a number from 0.01 to 1",
        ),
        (
            "[dimensions.action]",
            "[settings]\nepoch_seconds = 1.5\n[dimensions.action]",
            "settings.epoch_seconds: found the float 1.5",
        ),
        (
            "[dimensions.action]",
            "[settings]\nepoch_seconds = 30\nidle_epoch_seconds = 20\n[dimensions.action]",
            "settings.idle_epoch_seconds: found the integer 20; expected an integer from 30 to 3600",
        ),
        (
            "[dimensions.action]",
            "[settings]\nepochs_in_flight_max = 0\n[dimensions.action]",
            "settings.epochs_in_flight_max: found the integer 0",
        ),
        // The environment, and TOML itself.
        (
            "\"events\"",
            "\"${NONE}\"",
            "test.toml:3:11: source.topics[0]: found `${NONE}`, which is not set in the environment; expected NONE to be set, or a default: `${NONE:-…}`",
        ),
        ("\"events\"", "\"${NONE\"", "source.topics[0]: found `${` without its `}`"),
        ("name = \"test\"", "name = \"test\"\nname = \"test\"", "test.toml:2:1: found invalid TOML: duplicate key"),
        ("[tables]", "[tables", "found invalid TOML"),
        ("\"127.0.0.1:9092\"", "\"hunter3", "found invalid TOML"),
    ] {
        let error = error(&changed(from, to));
        assert!(error.contains(expected), "{to:?}\n  says      {error}\n  should be {expected}");
        assert!(!error.contains("hunter3"), "{error}");
    }
}

#[test]
fn access_logs_have_fields_in_place_of_pointers() {
    let text = GOOD
        .replace("\"json\"", "\"access_log\"")
        .replace("{ pointer = \"/customer\" }", "{ field = \"virtual_host\" }")
        .replace("{ pointer = \"/time\" }", "{ field = \"time\" }")
        .replace("pointer = \"/action\"", "field = \"method\"");
    let job = good(&text);
    assert_eq!(job.logic.event_time, [Place::Line(LineField::Time)]);
    let customer = FieldSpec::Found { places: vec![Place::Line(LineField::VirtualHost)], transforms: vec![] };
    assert_eq!(job.logic.customer, customer);
    for (from, to, expected) in [
        (
            "\"virtual_host\"",
            "\"virtualhost\"",
            "event.customer.field: found \"virtualhost\"; expected one of virtual_host, client,",
        ),
        ("{ field = \"time\" }", "{ field = \"status\" }", "event.event_time: found a field other than `time`"),
        (
            "field = \"method\"",
            "pointer = \"/method\"",
            "event.fields.action.pointer: found `pointer`; expected `field`, for this format",
        ),
    ] {
        let error = error(&text.replacen(from, to, 1));
        assert!(error.contains(expected), "{error}");
    }
    for (index, field) in LineField::ALL.iter().enumerate() {
        assert_eq!(*field as usize, index);
    }
}

#[test]
fn event_times_are_read_as_the_job_says() {
    for (says, format, assume_offset_seconds) in [
        ("pointer = \"/t\"", TimeFormat::Default, None),
        ("first_of = [\"/t\", \"/u\"], assume_offset = \"+01:00\"", TimeFormat::Default, Some(3600)),
        ("pointer = \"/t\", assume_offset = \"-0530\"", TimeFormat::Default, Some(-19_800)),
        ("pointer = \"/t\", assume_offset = \"Z\"", TimeFormat::Default, Some(0)),
        ("pointer = \"/t\", format = \"unix_seconds\"", TimeFormat::Unix(UnixUnit::Seconds), None),
        ("first_of = [\"/t\", \"/u\"], format = \"unix_ns\"", TimeFormat::Unix(UnixUnit::Ns), None),
        (
            "pointer = \"/t\", format = \"%d.%m.%Y %H:%M:%S\", assume_offset = \"+01:00\"",
            TimeFormat::Pattern(Pattern::new("%d.%m.%Y %H:%M:%S").expect("a pattern")),
            Some(3600),
        ),
    ] {
        let logic = good(&changed("{ pointer = \"/time\" }", &format!("{{ {says} }}"))).logic;
        assert_eq!((&logic.time_format, logic.assume_offset_seconds), (&format, assume_offset_seconds), "{says}");
        // As it is stored beside the tables, and as it is sent between processes.
        let text = serde_json::to_string(&logic).expect("JSON");
        assert_eq!(serde_json::from_str::<Logic>(&text).expect("read back"), logic);
        let bytes = bincode::serialize(&logic).expect("bytes");
        assert_eq!(bincode::deserialize::<Logic>(&bytes).expect("read back"), logic);
    }
    let logic = good(&changed("{ pointer = \"/customer\" }", "{ pointer = \"/c\", integers = true }")).logic;
    assert!(logic.customer_integers && !good(GOOD).logic.customer_integers);
}

#[test]
fn columns_count_characters() {
    let error = error("name = \"é\" x");
    assert!(error.starts_with("test.toml:1:12: found invalid TOML"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Job::load(std::path::Path::new("no/such/job.toml")).expect_err("there is none");
    assert!(error.to_string().starts_with("no/such/job.toml: can not be read: "), "{error}");
}

#[test]
fn our_own_job_files_are_right_and_their_comments_true() {
    for name in ["web-analytics", "access-log"] {
        let path = format!("{}/jobs/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("the job file is there");
        let job = Job::parse(&text, name, &|_| None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(job.name, name);
        assert_eq!(job.source.topics, [name]);
        assert_eq!(job.tables.url, format!("tables/{name}"));
        assert_eq!(job.source.kafka.len(), 1);
        // Each commented default, when put in, changes nothing.
        let keys = ["start", "buckets", "record_bytes_max", "grace_seconds", "epoch", "idle_epoch", "shutdown"];
        let lines = text.lines().map(|line| match line.strip_prefix("# ") {
            Some(key) if keys.iter().any(|start| key.starts_with(start)) && key.contains(" = ") => key,
            _ => line,
        });
        let spelled_out = lines.collect::<Vec<_>>().join("\n");
        assert_ne!(spelled_out, text.trim_end());
        assert_eq!(Job::parse(&spelled_out, name, &|_| None).unwrap_or_else(|error| panic!("{error}")), job);
    }
}

/// A job that reads lines; `event` adds keys to `[event]`.
fn of_lines(event: &str) -> String {
    changed(
        "format = \"json\"\ncustomer = { pointer = \"/customer\" }\nevent_time = { pointer = \"/time\" }\n[event.fields.action]\npointer = \"/action\"",
        &format!("format = \"access_log\"\ncustomer = {{ constant = \"c\" }}\n{event}"),
    )
}

#[test]
fn the_format_of_lines_is_described() {
    let action = "\n[event.fields.action]\nfield = \"request_time\"";
    let line = "line = '$remote_addr [$time_local] \"$request\" $request_time'";
    let job =
        good(&of_lines(&format!("{line}\nunwrap = \"/log~1line/0\"\nevent_time = {{ field = \"time\" }}{action}")));
    assert_eq!(job.logic.line.as_deref(), Some("$remote_addr [$time_local] \"$request\" $request_time"));
    assert_eq!(job.logic.unwrap, Some(vec!["log/line".to_owned(), "0".to_owned()]));
    assert_eq!(job.logic.event_time, [Place::Line(LineField::Time)]);
    let places = vec![Place::Variable("request_time".to_owned())];
    assert_eq!(job.logic.fields[0].spec, FieldSpec::Found { places, transforms: vec![] });
    // A stored logic without these keys is one of common or combined lines.
    let text = serde_json::to_value(&job.logic).expect("JSON");
    let mut older = text.clone();
    let keys = older.as_object_mut().expect("an object");
    assert!(keys.remove("line").is_some() && keys.remove("unwrap").is_some());
    let older: Logic = serde_json::from_value(older).expect("an older logic");
    assert_eq!((older.line.as_ref(), older.unwrap.as_ref()), (None, None));
    assert_ne!(older.time_rule(), job.logic.time_rule());
    assert_ne!(older.customer_rule(), job.logic.customer_rule());
    assert_eq!(serde_json::from_value::<Logic>(text).expect("a logic"), job.logic);

    let braces = of_lines(&format!("line = '$${{remote_addr}} $msec'\nevent_time = {{ field = \"msec\" }}{action}"));
    let braces = braces.replace("request_time", "client");
    assert_eq!(good(&braces).logic.line.as_deref(), Some("${remote_addr} $msec"));
}

#[test]
fn the_time_of_a_line_is_read_as_the_server_writes_it() {
    for (line, time, expected) in [
        ("$host [$time_local]", "field = \"time\"", "Default"),
        ("$host $time_iso8601", "field = \"time\"", "Default"),
        ("$host $msec", "field = \"time\"", "Unix(Seconds)"),
        ("$host $time_local $msec", "field = \"msec\"", "Unix(Seconds)"),
        ("%v %{msec}t", "field = \"time\"", "Unix(Ms)"),
        ("%v %{usec}t", "field = \"time\"", "Unix(Us)"),
        ("%v %{%F %T %z}t", "field = \"time\"", "%F %T %z"),
        ("%v %{%F %T}t", "field = \"time\", assume_offset = \"+01:00\"", "%F %T"),
        ("$host $http_sent", "field = \"http_sent\", format = \"unix_ms\"", "Unix(Ms)"),
        ("%v %{%F}t", "field = \"time\", format = \"%Y-%m-%dT%H:%M:%SZ\", assume_offset = \"Z\"", "%Y"),
    ] {
        let action = "\n[event.fields.action]\nfield = \"virtual_host\"";
        let job = good(&of_lines(&format!("line = '{line}'\nevent_time = {{ {time} }}{action}")));
        let found = format!("{:?}", job.logic.time_format);
        assert!(found.contains(expected), "{line}: {found}");
    }
}

#[test]
fn what_is_wrong_with_lines_is_said() {
    let line = "line = '$remote_addr [$time_local] \"$request\" $status'";
    let time = "event_time = { field = \"time\" }";
    for (event, expected) in [
        (
            format!("{line}\n{time}\n[event.fields.action]\nfield = \"statis\""),
            "event.fields.action.field: found \"statis\"; expected a field of `line`: one of client, time, request, method, path, query, protocol, status; did you mean `status`?",
        ),
        (format!("{line}\n{time}\n[event.fields.action]\npointer = \"/a\""), "found `pointer`; expected `field`"),
        (
            format!("line = '$remote_addr $'\n{time}"),
            "test.toml:11:1: event.line: found `$` without a name at column 14 of the string; expected the name",
        ),
        (
            format!("line = '${{remote_addr}} $msec'\n{time}"),
            "event.line: found `${remote_addr}`, which is not set in the environment; expected remote_addr to be set, or a default: `${remote_addr:-…}`; write a variable of nginx as `$name` or `$${name}` here",
        ),
        (format!("line = 'combined'\n{time}"), "event.line: found \"combined\", which contains no variable"),
        (format!("line = ''\n{time}"), "event.line: found an empty string"),
        (
            format!("line = '$remote_addr [$time_local] $msec'\n{time}"),
            "event.event_time: found `time`, but `line` has 2 times: time_local, msec; expected one of them by name",
        ),
        (
            format!("line = '$remote_addr $status'\n{time}"),
            "event.event_time.field: found \"time\"; expected a field of `line`: one of client, status",
        ),
        (
            "line = '$remote_addr $status'\nevent_time = { field = \"status\" }".to_owned(),
            "event.event_time: found a field that is not a time; expected `format` beside it, or a time variable in `line`",
        ),
        (
            "line = '$remote_addr $msec'\nevent_time = { field = \"client\" }".to_owned(),
            "found a field that is not a time; expected msec, or `format` beside it",
        ),
        (
            "line = '$msec $time_local'\nevent_time = { first_of = [\"msec\", \"time_local\"] }".to_owned(),
            "event.event_time: found several fields; expected one field of the line",
        ),
        (
            format!("line = '%h %{{%F %T}}t'\n{time}"),
            "event.event_time: found \"%F %T\", which reads no offset; expected `assume_offset` beside it",
        ),
        (
            format!("line = '%h %{{%F}}t'\n{time}"),
            "event.event_time: found the time in `line`: \"%F\", which does not give",
        ),
        (
            "line = '$remote_addr $msec'\nevent_time = { field = \"time\", assume_offset = \"Z\" }".to_owned(),
            "event.event_time.assume_offset: found an assumed offset; expected none",
        ),
        (format!("unwrap = \"message\"\n{time}"), "event.unwrap: found \"message\"; expected a JSON pointer"),
    ] {
        let error = error(&of_lines(&event));
        assert!(error.contains(expected), "{event}\n{error}");
    }
    let error = error(&changed("format = \"json\"", "format = \"json\"\nline = '$msec'"));
    assert!(error.contains("event.line: found `line`; expected no such key: it applies only to format"), "{error}");
}

#[test]
fn the_examples_of_lines_in_the_job_file_are_right() {
    let text = include_str!("../../jobs/access-log.toml");
    let examples = text.split("# Another format:").nth(1).and_then(|rest| rest.split("# Lines that").next());
    let examples: Vec<&str> =
        examples.expect("examples").lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    let examples = examples.join("\n");
    let mut checked = 0;
    for example in examples.split("line = ").skip(1) {
        let field = "event_time = { field = \"time\" }\n[event.fields.action]\nfield = \"status\"";
        good(&of_lines(&format!("line = {example}\n{field}")));
        checked += 1;
    }
    assert_eq!(checked, 3);
}

/// An option with a wrong name would silently have no effect.
#[test]
fn options_that_the_store_does_not_know_are_refused() {
    let tables = |url: &str, option: &str| {
        changed(r#"url = "tables/test""#, &format!("url = \"{url}\"\noptions = {{ {option} = \"x\" }}"))
    };
    for (url, option, meant) in [
        ("s3://bucket/path", "acces_key_id", "access_key_id"),
        ("gs://bucket/path", "service_acount", "service_account"),
        ("az://container/path", "acount_name", "account_name"),
    ] {
        let said = error(&tables(url, option));
        let expected = format!(
            "tables.options.{option}: found an option that this store does not know; expected an option name of object_store"
        );
        assert!(said.contains(&expected) && said.ends_with(&format!("did you mean `{meant}`?")), "{said}");
    }
    good(&tables("s3://bucket/path", "AWS_SECRET_ACCESS_KEY"));
    good(&tables("tables/test", "acces_key_id"));
}
