//! `floodmark check` as its users run it: with a job file alone, with a file of records, and with the first records of a topic.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use rdkafka::mocking::MockCluster;
use serde_json::{Value, json};

const JOBS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/jobs");

/// Runs the binary in a folder, which relative names refer to. Unless given, the brokers do not exist.
fn run(folder: &tempfile::TempDir, brokers: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_floodmark"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("KAFKA_BOOTSTRAP", brokers)
        .env("FLOODMARK_TOPIC", "web")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    // A command that does not read its input has ended.
    child.stdin.take().expect("a pipe").write_all(input).unwrap_or_default();
    child.wait_with_output().expect("it ends")
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for job in ["web-analytics.toml", "access-log.toml"] {
        fs::copy(format!("{JOBS}/{job}"), folder.path().join(job)).expect("copied");
    }
    folder
}

fn check(folder: &tempfile::TempDir, arguments: &[&str]) -> Output {
    run(folder, "127.0.0.1:1", &[&["check"], arguments].concat(), b"")
}

fn text(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&text(output)).expect("one JSON object")
}

/// The exit code, and the message.
fn refused(output: &Output) -> (Option<i32>, String) {
    assert_eq!(output.stdout, b"", "{output:?}");
    (output.status.code(), String::from_utf8(output.stderr.clone()).expect("UTF-8"))
}

const EVENTS: &str = r#"{"analyticsCustomerId":"acme","dateTimeUtc":1768277106000,"action":"view","url":"https://shop.example/a?b","userInfo":{"country":null,"browser":"Firefox"}}
{"analyticsCustomerId":"","dateTimeUtc":"2026-01-13T04:05:06Z"}
not JSON
{"analyticsCustomerId":"acme","dateTimeUtc":"2026-01-13T04:05:06Z","action":"\u001b]0;owned\u0007\u202e"}
{"analyticsCustomerId":"acme","dateTimeUtc":"soon"}
"#;

#[test]
fn a_sample_of_json_is_shown_as_it_was_found() {
    let folder = folder();
    fs::write(folder.path().join("events.json"), EVENTS).expect("written");
    let output = check(&folder, &["web-analytics.toml", "--sample", "events.json", "--show", "2"]);
    let expected = "\
web-analytics.toml: job web-analytics, the file is valid

line 1: counted
  customer    acme
  event_time  2026-01-13T04:05:06Z  written 1768277106000
  action      view
  browser     Firefox
  country     null
  device      missing
  os          missing
  page        /a  written https://shop.example/a?b
  referrer    missing
  minute      2026-01-13T04:05:00Z  action=view, country='', total
  hour        2026-01-13T04:00:00Z  action=view, browser=Firefox, country='', device='', os='', page=/a, referrer='', total
  day         2026-01-13T00:00:00Z  action=view, browser=Firefox, country='', device='', os='', page=/a, referrer='', total
  week        2026-01-12T00:00:00Z  action=view, browser=Firefox, country='', device='', os='', total
  month       2026-01-01T00:00:00Z  action=view, browser=Firefox, country='', device='', os='', page=/a, referrer='', total
  year        2026-01-01T00:00:00Z  action=view, browser=Firefox, country='', device='', os='', total

line 2: rejected
  customer    empty
  event_time  2026-01-13T04:05:06Z  written 2026-01-13T04:05:06Z
";
    let found = text(&output);
    assert!(found.starts_with(expected), "{found}");
    for part in [
        "\ndevice                0            4              0  found in no record: check its place\n",
        "\naction                2            2              0\n",
        "\n1 rejected: bad_json\n  line 3: expected one JSON object",
        "\n1 rejected: missing_field (customer)\n  line 2: expected a string that is not empty\n          found    \"\"\n",
        "\n1 rejected: bad_time (event_time)\n  line 5: expected ",
        "\nevents.json: 5 records: 2 counted, 0 filtered, 3 rejected; nothing was written\n",
    ] {
        assert!(found.contains(part), "{part}\n{found}");
    }
    let left = fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 3, "two jobs and the sample: nothing was written");
}

#[test]
fn a_sample_of_log_lines_is_shown_as_it_was_found() {
    let folder = folder();
    let lines = "192.0.2.1 - - [17/May/2015:10:05:03 +0200] \"GET /a?b HTTP/1.1\" 200 5 \"-\" \"x\"\nno line\n";
    let output = run(&folder, "127.0.0.1:1", &["check", "access-log.toml", "--sample", "-"], lines.as_bytes());
    let found = text(&output);
    for part in [
        "\nline 1: counted\n",
        "\n  event_time  2015-05-17T08:05:03Z  written 17/May/2015:10:05:03 +0200\n",
        "\n  method      GET\n",
        "\n  path        /a\n",
        "\n  status      200\n",
        "  day         2015-05-17T00:00:00Z  ",
        "\n1 rejected: bad_line\n  line 2: expected a line of an access log",
        "\nstdin: 2 records: 1 counted, 0 filtered, 1 rejected; nothing was written\n",
    ] {
        assert!(found.contains(part), "{part}\n{found}");
    }
}

/// What is shown first of a sample for lines.toml whose first line is counted.
const COUNTED_LINE: &str = "\
lines.toml: job access-log, the file is valid

line 1: counted
  customer    my-site
  event_time  2015-05-17T08:05:03Z  written 17/May/2015:10:05:03 +0200
  method      GET
  path        /a
  status      200
  minute      2015-05-17T08:05:00Z  method=GET, status=200, total
  hour        2015-05-17T08:00:00Z  method=GET, path=/a, status=200, total
";

/// Writes jobs/access-log.toml with more keys in its section `[event]`.
fn access_log_with(folder: &tempfile::TempDir, keys: &str) {
    let text = fs::read_to_string(folder.path().join("access-log.toml")).expect("a job");
    let with = text.replace("format = \"access_log\"\n", &format!("format = \"access_log\"\n{keys}\n"));
    assert_ne!(with, text, "the job has its format in a line of its own");
    fs::write(folder.path().join("lines.toml"), with).expect("written");
}

#[test]
fn a_sample_in_the_job_s_own_line_format_is_shown_as_it_was_found() {
    let folder = folder();
    access_log_with(&folder, r#"line = '$remote_addr [$time_local] "$request" $status $request_time'"#);
    let lines = r#"192.0.2.1 [17/May/2015:10:05:03 +0200] "GET /a?b HTTP/1.1" 200 0.003
{"message":"192.0.2.1 [17/May/2015:10:05:03 +0200] \"GET /a?b HTTP/1.1\" 200 0.003"}
192.0.2.1 [17/May/2015:10:05:03 +0200] "GET /a?b HTTP/1.1" OK 0.003
192.0.2.1 [17/Foo/2015:10:05:03 +0200] "-" - -
"#;
    fs::write(folder.path().join("access.log"), lines).expect("written");
    let found = text(&check(&folder, &["lines.toml", "--sample", "access.log", "--show", "1"]));
    assert!(found.starts_with(COUNTED_LINE), "{found}");
    for part in [
        "\nevent_time            2            0              0\n",
        "\nstatus                1            1              0\n",
        "\n2 rejected: bad_line\n  line 2: expected a line of the job's format: no JSON (`unwrap` in the job file takes a line out of it)",
        "\n1 rejected: bad_time (event_time)\n  line 4: expected a time as in 17/May/2015:10:05:03 +0000, or",
        "\n          found    17/Foo/2015:10:05:03 +0200\n",
        "\naccess.log: 4 records: 1 counted, 0 filtered, 3 rejected; nothing was written\n",
    ] {
        assert!(found.contains(part), "{part}\n{found}");
    }
}

#[test]
fn a_sample_of_lines_inside_json_is_shown_as_it_was_found() {
    let folder = folder();
    access_log_with(&folder, "unwrap = \"/message\"");
    let lines = r#"{"host":"h","message":"192.0.2.1 - - [17/May/2015:10:05:03 +0200] \"GET /a?b HTTP/1.1\" 200 5 \"-\" \"x\""}
{"host":"h","message":"no line"}
{"host":"h"}
{"message":7}
192.0.2.1 - - [17/May/2015:10:05:03 +0200] "GET /a?b HTTP/1.1" 200 5
"#;
    fs::write(folder.path().join("shipped.json"), lines).expect("written");
    let found = text(&check(&folder, &["lines.toml", "--sample", "shipped.json", "--show", "1"]));
    assert!(found.starts_with(COUNTED_LINE), "{found}");
    for part in [
        "\nstatus                1            0              0\n",
        "\n1 rejected: bad_json\n  line 5: expected one JSON object: '{' at byte 0\n",
        "\n1 rejected: bad_line\n  line 2: expected a line of an access log, common or combined: a time in brackets at byte 7\n",
        "\n1 rejected: missing_field (unwrap)\n  line 3: expected a string: the line or the JSON that is wrapped\n",
        "\n1 rejected: wrong_type (unwrap)\n  line 4: expected a string: the line or the JSON that is wrapped\n          found    7\n",
        "\nshipped.json: 5 records: 1 counted, 0 filtered, 4 rejected; nothing was written\n",
    ] {
        assert!(found.contains(part), "{part}\n{found}");
    }
}

#[test]
fn the_object_has_everything_and_its_names_stay() {
    let folder = folder();
    fs::write(folder.path().join("events.json"), EVENTS).expect("written");
    let output = check(&folder, &["web-analytics.toml", "--sample", "events.json", "--show", "1", "--output", "json"]);
    let found = json(&output);
    let names = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(names(&found), "dimensions job job_file sample start tables_url topics unused_fields");
    let sample = &found["sample"];
    let expected = "counted_records fields filtered_records filters from records rejected_records rejections shown";
    assert_eq!(names(sample), expected);
    let counts = ["records", "counted_records", "filtered_records", "rejected_records"].map(|name| &sample[name]);
    assert_eq!(counts, [&json!(5), &json!(2), &json!(0), &json!(3)]);
    assert_eq!(found["dimensions"][0]["dimension"], "action");
    assert_eq!(found["dimensions"][0]["granularities"], json!(["minute", "hour", "day", "week", "month", "year"]));
    let page = json!({"field": "page", "present_records": 1, "missing_records": 3, "empty_records": 0});
    assert!(sample["fields"].as_array().expect("a list").contains(&page), "{sample}");
    let rejection = json!({
        "reason": "missing_field", "field": "customer", "records": 1, "example": {"line": 2},
        "expected": "a string that is not empty", "found": "\"\"",
    });
    assert!(sample["rejections"].as_array().expect("a list").contains(&rejection), "{sample}");
    let shown = &sample["shown"][0];
    assert_eq!(names(shown), "cells event_time found outcome position");
    assert_eq!((&shown["outcome"], &shown["position"]), (&json!("counted"), &json!({"line": 1})));
    let page = json!({"field": "page", "kind": "text", "written": "https://shop.example/a?b", "text": "/a"});
    assert!(shown["found"].as_array().expect("a list").contains(&page), "{shown}");
    let cell = json!({
        "granularity": "hour", "window_start": "2026-01-13T04:00:00Z", "dimension": "page", "dimension_value": "/a",
    });
    assert!(shown["cells"].as_array().expect("a list").contains(&cell), "{shown}");
}

#[test]
fn a_record_can_not_speak_to_the_terminal() {
    let folder = folder();
    let line = "{\"analyticsCustomerId\":\"\\u001b]0;owned\\u0007\u{9b}31m\",\"dateTimeUtc\":\"\\u001b[2J\"}\n";
    for output in ["text", "json"] {
        let arguments = ["check", "web-analytics.toml", "--sample", "-", "--output", output];
        let found = text(&run(&folder, "127.0.0.1:1", &arguments, line.as_bytes()));
        assert!(found.contains("]0;owned"), "{found}");
        assert!(found.chars().all(|c| c == '\n' || !c.is_control()), "{found:?}");
    }
}

/// As in the job, timestamps of Kafka that are not valid times are ignored.
#[test]
fn a_timestamp_that_is_no_time_bounds_no_event_time() {
    let folder = folder();
    let value = r#"{"analyticsCustomerId":"acme","dateTimeUtc":"2026-01-13T04:05:06Z"}"#;
    let line = |timestamp_ms: i64| json!({"partition": 0, "timestamp_ms": timestamp_ms, "key": null, "value": value});
    let lines = format!("{}\n{}\n{}\n", line(i64::MIN), line(i64::MAX), line(0));
    let arguments = ["check", "web-analytics.toml", "--sample", "-", "--gen-format", "--output", "json"];
    let found = json(&run(&folder, "127.0.0.1:1", &arguments, lines.as_bytes()));
    assert_eq!((&found["sample"]["counted_records"], &found["sample"]["rejected_records"]), (&json!(2), &json!(1)));
}

#[test]
fn without_a_sample_the_file_alone_is_checked() {
    let folder = folder();
    let found = text(&check(&folder, &["web-analytics.toml"]));
    for part in [
        "reads   web (first start: earliest)\nwrites  tables/web-analytics\n",
        "\npage       page      hour, day, month\n",
        "\ntotal      -         minute, hour, day, week, month, year\n",
    ] {
        assert!(found.contains(part), "{part}\n{found}");
    }
    assert_eq!(json(&check(&folder, &["web-analytics.toml", "--output", "json"]))["sample"], Value::Null);
}

#[test]
fn what_can_not_be_checked_says_why() {
    let folder = folder();
    fs::write(folder.path().join("wrong.toml"), "name = \"x\"\nsorce = 1\n").expect("written");
    fs::write(folder.path().join("empty"), "").expect("written");
    let no_line = fs::File::create(folder.path().join("no-line")).expect("made");
    no_line.set_len(1 << 40).expect("a file with a hole, without one line break");
    for (arguments, code, part) in [
        (&["wrong.toml"][..], 78, "wrong.toml:2:1: sorce: found an unknown key"),
        (&["absent.toml"], 78, "absent.toml: can not be read"),
        (&["web-analytics.toml", "--sample", "absent"], 1, "cannot read absent"),
        (&["web-analytics.toml", "--sample", "."], 1, "cannot read ."),
        (
            &["web-analytics.toml", "--sample", "no-line"],
            1,
            "line 1 of no-line is longer than 67,108,864 bytes; expected",
        ),
        (&["web-analytics.toml", "--sample", "empty"], 1, "empty is empty; expected one record per line"),
        (&["web-analytics.toml", "--sample", "0"], 2, "at least 1 record"),
        (&["web-analytics.toml", "--sample", "5", "--gen-format"], 2, "--gen-format: expected a file"),
        (
            &["web-analytics.toml", "--sample", "web-analytics.toml", "--gen-format"],
            1,
            "line 1 of web-analytics.toml: expected {",
        ),
        (&["web-analytics.toml", "--show", "5"], 2, "--sample"),
    ] {
        let (found, said) = refused(&check(&folder, arguments));
        assert_eq!(found, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
}

#[test]
fn the_first_records_of_a_topic_are_tried_without_a_trace() {
    let folder = folder();
    let cluster = MockCluster::new(1).expect("an embedded broker");
    for topic in ["web", "none"] {
        cluster.create_topic(topic, 3, 1).expect("a topic");
    }
    let brokers = cluster.bootstrap_servers();
    let run = |arguments: &[&str]| run(&folder, &brokers, arguments, b"");
    let job = "web-analytics.toml";
    let send = [
        "dev",
        "gen",
        "--brokers",
        &brokers,
        "--topic",
        "web",
        "--events",
        "600",
        "--broken-share",
        "0.5",
        "--seed",
        "7",
    ];
    assert_eq!(run(&send).status.code(), Some(0));

    let found = json(&run(&["check", job, "--sample", "99", "--show", "99", "--output", "json"]));
    let sample = &found["sample"];
    assert_eq!((&sample["from"], &sample["records"]), (&json!("web"), &json!(99)));
    let shown = sample["shown"].as_array().expect("a list");
    for partition in 0..3 {
        let of = |record: &&Value| record["position"]["partition"] == partition;
        let offsets: Vec<_> = shown.iter().filter(of).map(|record| record["position"]["offset"].as_u64()).collect();
        assert_eq!(offsets, (0..33).map(Some).collect::<Vec<_>>(), "the same of every partition");
    }
    let rejected = sample["rejected_records"].as_u64().expect("a number");
    assert!((25..75).contains(&rejected), "{sample}");
    let example = &sample["rejections"][0]["example"];
    assert!(example["topic"] == "web" && example["offset"].is_u64(), "{sample}");
    let all = json(&run(&["check", job, "--sample", "100000", "--output", "json"]));
    assert_eq!((&all["sample"]["records"], &all["sample"]["shown"].as_array().map(Vec::len)), (&json!(600), &Some(3)));

    let output = run(&["check", job, "--sample", "99", "--detailed-exitcode"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(!folder.path().join("tables").exists(), "nothing was written");

    // Topics that are empty, topics that do not exist, and brokers that do not answer.
    let text = fs::read_to_string(folder.path().join(job)).expect("a job");
    for (topic, code, part) in [("none", 1, "topic none holds no records"), ("absent", 78, "no topic \"absent\"")] {
        fs::write(folder.path().join("other.toml"), text.replace("${FLOODMARK_TOPIC:-web-analytics}", topic))
            .expect("written");
        let (found, said) = refused(&run(&["check", "other.toml", "--sample", "5"]));
        assert_eq!(found, Some(code), "{topic}: {said}");
        assert!(said.contains(part), "{topic}: {said}");
    }
    drop(cluster);
    let (found, said) = refused(&run(&["check", job, "--sample", "5"]));
    assert_eq!(found, Some(75), "{said}");
}
