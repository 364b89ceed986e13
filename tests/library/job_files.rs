//! Compares `jobs/README.md` with the code that reads job files: every key, its default, its range and its choices, in both directions.
//!
//! What the code accepts is read from its own messages: the error for an unknown key lists all known ones, that for a wrong number has the
//! range, and that for a wrong word has the right ones.

use std::collections::BTreeSet;

use floodmark::job::{Job, JobError};
use floodmark::model::Lane;

const PAPER: &str = include_str!("../../jobs/README.md");

/// The shortest job, with one key on each line; more lines can follow.
const JOB: &str = r#"name = "short"
source.topics = ["events"]
source.kafka."bootstrap.servers" = "127.0.0.1:9092"
tables.url = "tables/short"
event.format = "json"
event.customer.pointer = "/customer"
event.event_time.pointer = "/time"
event.fields.action.pointer = "/action"
"#;

/// A section of the README: its heading, and the prefix of its keys in the code, where NAME is one of `names`.
struct Section {
    heading: &'static str,
    path: &'static str,
    names: &'static [&'static str],
}

const LANES: &[&str] = &["minute", "hour", "day", "late", "coarse"];
const SECTIONS: [Section; 11] = [
    Section { heading: "Top level", path: "", names: &[] },
    Section { heading: "`[source]`", path: "source.", names: &[] },
    Section { heading: "`[tables]`", path: "tables.", names: &[] },
    Section { heading: "`[event]`", path: "event.", names: &[] },
    Section { heading: "`event.customer`", path: "event.customer.", names: &[] },
    Section { heading: "`event.event_time`", path: "event.event_time.", names: &[] },
    Section { heading: "`[event.fields.NAME]`", path: "event.fields.NAME.", names: &["action"] },
    Section { heading: "`[dimensions.NAME]`", path: "dimensions.NAME.", names: &["action"] },
    Section { heading: "`[granularities.NAME]`", path: "granularities.NAME.", names: &["minute", "hour", "day"] },
    Section { heading: "`[lanes.NAME]`", path: "lanes.NAME.", names: LANES },
    Section { heading: "`[settings]`", path: "settings.", names: &[] },
];

/// A row of a table of keys.
#[derive(Debug)]
struct Row {
    key: &'static str,
    values: &'static str,
    default: &'static str,
    text: &'static str,
}

/// The part of the README under a heading of the third level.
fn part(heading: &str) -> &'static str {
    let (_, rest) = PAPER.split_once(&format!("\n### {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    rest.split("\n## ").next().and_then(|rest| rest.split("\n### ").next()).unwrap_or(rest)
}

fn rows(heading: &str) -> Vec<Row> {
    let lines = part(heading).lines().skip_while(|line| *line != "| key | value | default | meaning |").skip(2);
    let rows: Vec<Row> = (lines.take_while(|line| line.starts_with('|')))
        .map(|line| {
            let [_, key, values, default, text, _] = line.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
                panic!("not four columns: {line}")
            };
            Row { key: key.trim_matches('`'), values, default, text }
        })
        .collect();
    assert!(!rows.is_empty(), "no keys under {heading}");
    rows
}

fn parse(text: &str) -> Result<Job, JobError> {
    Job::parse(text, "job.toml", &|_| None)
}

/// What the error expects in place of the last lines of a job.
fn expected(job: &str) -> String {
    match parse(job) {
        Err(JobError::Invalid(fault)) => fault.expected,
        other => panic!("{other:?}\n{job}"),
    }
}

/// The words in `one of a, b; did you mean …`.
fn one_of(expected: &str) -> BTreeSet<&str> {
    let list = expected.strip_prefix("one of ").unwrap_or_else(|| panic!("{expected:?}"));
    list.split([';', '(']).next().unwrap_or_default().trim().split(", ").collect()
}

impl Section {
    /// The paths of the keys of this section.
    fn paths(&self) -> Vec<String> {
        match self.names {
            [] => vec![self.path.to_owned()],
            names => names.iter().map(|name| self.path.replace("NAME", name)).collect(),
        }
    }
}

/// The job without the line of this key.
fn without(key: &str) -> String {
    JOB.lines().filter(|line| !line.starts_with(key)).map(|line| format!("{line}\n")).collect()
}

#[test]
fn every_key_is_documented_and_no_other() {
    parse(JOB).unwrap_or_else(|error| panic!("{error}"));
    for section in &SECTIONS {
        let documented: BTreeSet<&str> = rows(section.heading).iter().map(|row| row.key).collect();
        for path in section.paths() {
            let known = expected(&format!("{JOB}{path}zzz = 1"));
            assert_eq!(documented, one_of(&known), "{}", section.heading);
        }
    }
    let documented: BTreeSet<&str> = rows("`[[where]]`").iter().map(|row| row.key).collect();
    assert_eq!(documented, one_of(&expected(&format!("{JOB}where = [{{ field = \"action\", zzz = 1 }}]"))));
    assert_eq!(LANES, Lane::ALL.map(Lane::name));
    assert_eq!(one_of(&expected(&format!("{JOB}lanes.zzz.publish_seconds = 1"))), LANES.iter().copied().collect());
    for section in ["`[source.kafka]`", "`[tables.options]`"] {
        assert!(part(section).contains("Every entry is"), "{section}");
    }
}

/// Writing out a default changes nothing, and writing another value does.
#[test]
fn defaults_are_those_of_the_code() {
    let job = parse(JOB).expect("right");
    let mut checked = 0;
    for section in &SECTIONS {
        for row in rows(section.heading).iter().filter(|row| row.default.starts_with('`')) {
            for path in section.paths() {
                let name = path.split('.').nth(1).unwrap_or_default();
                let default = match row.default.contains(" for ") {
                    true => (row.default.split(", "))
                        .find_map(|one| one.strip_suffix(&format!(" for {name}")))
                        .unwrap_or_else(|| panic!("no default of {path}{}", row.key)),
                    false => row.default.split(',').next().unwrap_or_default(),
                }
                .trim_matches('`');
                let with = |value: &str| {
                    parse(&format!("{JOB}{path}{} = {value}", row.key)).unwrap_or_else(|error| panic!("{error}"))
                };
                assert_eq!(with(default), job, "{path}{} = {default}", row.key);
                let other = match default {
                    "\"earliest\"" => "\"latest\"".to_owned(),
                    "false" => "true".to_owned(),
                    share if share.contains('.') => (2.0 * share.parse::<f64>().expect("a number")).to_string(),
                    number => (2 * number.parse::<u64>().expect("an integer")).max(1).to_string(),
                };
                assert_ne!(with(&other), job, "{path}{} = {other}", row.key);
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 21);
    // A longer epoch also makes an idle epoch longer, as its row says.
    let settings = parse(&format!("{JOB}settings.epoch_seconds = 90")).expect("right").settings;
    assert_eq!(settings.idle_epoch_seconds, 90);
}

#[test]
fn keys_are_required_as_documented() {
    for section in &SECTIONS {
        for row in rows(section.heading).iter().filter(|row| row.default == "required") {
            let path = format!("{}{}", section.path, row.key);
            let job = match section.path {
                "dimensions.NAME." => format!("{JOB}dimensions.action.field = \"action\""),
                _ => without(&path),
            };
            assert_ne!(job, JOB, "{path}");
            assert!(matches!(parse(&job), Err(JobError::Invalid(_))), "{path} may be left out");
        }
    }
    // One of these must be present.
    for path in ["event.customer.", "event.event_time.", "event.fields.action."] {
        assert!(parse(&format!("{}{path}transform = [\"lower_case\"]", without(path))).is_err(), "{path}");
    }
}

/// The range of every integer, and the words of every choice, as the errors of the code give them.
#[test]
fn ranges_and_choices_are_those_of_the_code() {
    let (mut ranges, mut choices) = (0, 0);
    for section in &SECTIONS {
        for row in rows(section.heading) {
            for path in section.paths() {
                let key = format!("{path}{}", row.key);
                let job = without(&key);
                let found = |value: &str| match parse(&format!("{job}{key} = {value}")) {
                    Err(JobError::Invalid(fault)) if fault.key.starts_with(&key) => fault.expected,
                    _ => String::new(),
                };
                let expected = found("-1");
                if let Some(range) =
                    expected.strip_prefix("an integer from ").or(expected.strip_prefix("a number from "))
                {
                    let said = row.values.replace("`epoch_seconds`", "10");
                    assert!(said.ends_with(range), "{key}: {said}, {range}");
                    ranges += 1;
                }
                for expected in [found("\"zzz\""), found("[\"zzz\"]")] {
                    if expected.starts_with("one of ") && expected.contains(',') {
                        let missing: Vec<_> = one_of(&expected)
                            .into_iter()
                            .filter(|word| !row.values.contains(&format!("\"{word}\"")))
                            .collect();
                        // A pattern may also be given instead of the words.
                        assert!(missing.iter().all(|word| word.starts_with("or ")), "{key}: {missing:?}");
                        choices += 1;
                    }
                }
            }
        }
    }
    assert_eq!((ranges, choices), (19, 5));
}

/// The properties of Kafka's client that are refused are the ones that the README names.
#[test]
fn properties_that_are_refused_are_named() {
    let (_, list) = part("`[source.kafka]`").split_once("Four properties are refused").expect("the sentence");
    let named: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    assert_eq!(named.len(), 4, "{named:?}");
    for property in named {
        assert!(parse(&format!("{JOB}source.kafka.\"{property}\" = \"x\"")).is_err(), "{property}");
    }
}

#[test]
fn examples_are_right() {
    let lines = JOB.replace("\"json\"", "\"access_log\"").replace("pointer = \"/customer\"", "constant = \"c\"");
    let lines =
        lines.replace("pointer = \"/time\"", "field = \"time\"").replace("pointer = \"/action\"", "field = \"method\"");
    parse(&lines).unwrap_or_else(|error| panic!("{error}"));
    let keys = ["customer = ", "event_time = ", "not = ", "epoch_seconds = "];
    let snippets: Vec<&str> = (PAPER.lines().filter(|line| !line.starts_with("```")))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .filter(|text| keys.iter().any(|key| text.starts_with(key)))
        .collect();
    assert!(keys.iter().all(|key| snippets.iter().any(|snippet| snippet.starts_with(key))), "{snippets:?}");
    for snippet in snippets {
        let jobs = [JOB, &lines].map(|job| {
            let key = snippet.split(' ').next().unwrap_or_default();
            let rest: Vec<&str> = job.lines().filter(|line| !line.starts_with(&format!("event.{key}."))).collect();
            let snippet = match key {
                "not" => format!("where = [{{ field = \"action\", {snippet} }}]"),
                "epoch_seconds" => format!("settings.{snippet}"),
                _ => format!("event.{snippet}"),
            };
            format!("{}\n{snippet}", rest.join("\n"))
        });
        let results = jobs.map(|job| parse(&job));
        assert!(results.iter().any(Result::is_ok), "{snippet}: {results:?}");
    }
    let blocks: Vec<&str> =
        PAPER.split("\n```toml\n").skip(1).map(|rest| rest.split("\n```").next().unwrap_or(rest)).collect();
    assert_eq!(blocks.len(), 1);
    for block in blocks {
        let head: Vec<&str> = JOB.lines().filter(|line| !line.starts_with("event.")).collect();
        parse(&format!("{}\n{block}", head.join("\n"))).unwrap_or_else(|error| panic!("{error}\n{block}"));
    }
    assert!(rows("`[settings]`").iter().all(|row| row.text.contains("Raising it ")), "what raising costs");
}
