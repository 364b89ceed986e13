//! The access log job on lines that were not made for it: 10,000 real ones with known counts, and some that were written by hand.
//!
//! The real ones are `Common Data Formats/apache_logs` in the public repository elastic/examples (Apache License 2.0). Their
//! counts were taken with a regular expression over the whole line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use floodmark::decode::{Decoder, Event};
use floodmark::job::{Field, FieldSpec, Job, LineField, Place};
use floodmark::model::{Granularity, Outcome, Reason, RecordRef, Zone};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn job() -> Result<Job> {
    let text = std::fs::read_to_string(root().join("jobs/access-log.toml"))?;
    Ok(Job::parse(&text, "jobs/access-log.toml", &|_| None)?)
}

fn record(line: &[u8]) -> RecordRef<'_> {
    RecordRef { value: Some(line), ..RecordRef::default() }
}

fn count<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K) {
    *counts.entry(key).or_default() += 1;
}

#[test]
fn real_lines_count_as_known() -> Result<()> {
    let log = std::fs::read(root().join("tests/data/apache_access.log"))?;
    let logic = job()?.logic;
    let mut decoder = Decoder::new(&logic);
    let mut event = Event::default();
    let (mut days, mut hours, mut dimensions) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut rejected = Vec::new();
    for (index, line) in log.split_inclusive(|byte| *byte == b'\n').enumerate() {
        match decoder.decode(record(line), &mut event) {
            Outcome::Counted => {
                let time = event.event_time.context("a counted event has a time")?;
                count(&mut days, Granularity::Day.window_start(time, Zone::Utc));
                count(&mut hours, Granularity::Hour.window_start(time, Zone::Utc));
                for (dimension, value) in logic.dimensions.iter().zip(&event.values) {
                    count(&mut dimensions, (dimension.name.clone(), value.clone()));
                }
                ensure!(event.customer == "my-site");
            }
            Outcome::Filtered => ensure!(false, "the job has no filters"),
            Outcome::Rejected(rejection) => rejected.push((index + 1, rejection.reason)),
        }
    }
    let of = |name: &str| -> BTreeMap<&str, u64> {
        let chosen = dimensions.iter().filter(|((dimension, _), _)| dimension == name);
        chosen.map(|((_, value), count)| (value.as_str(), *count)).collect()
    };
    assert_eq!(rejected, [(8899, Reason::BadLine)]);
    assert_eq!(of("total"), BTreeMap::from([("", 9_999)]));
    assert_eq!(days.into_values().collect::<Vec<_>>(), [1_632, 2_893, 2_896, 2_578]);
    assert_eq!(hours.len(), 84);
    let busiest = hours.into_iter().max_by_key(|(_, count)| *count);
    let evening = "2015-05-19T19:00:00Z".parse::<chrono::DateTime<chrono::Utc>>()?.timestamp_micros();
    assert_eq!(busiest, Some((evening, 136)));
    let status =
        [("200", 9_125), ("206", 45), ("301", 164), ("304", 445), ("403", 2), ("404", 213), ("416", 2), ("500", 3)];
    assert_eq!(of("status"), BTreeMap::from(status));
    assert_eq!(of("method"), BTreeMap::from([("GET", 9_951), ("HEAD", 42), ("OPTIONS", 1), ("POST", 5)]));
    assert_eq!(of("path").values().sum::<u64>(), 9_999);
    Ok(())
}

#[test]
fn lines_written_by_hand() -> Result<()> {
    let fields = [
        LineField::Method,
        LineField::Path,
        LineField::Query,
        LineField::Status,
        LineField::Bytes,
        LineField::Client,
        LineField::VirtualHost,
        LineField::User,
        LineField::Referrer,
        LineField::UserAgent,
    ];
    let mut logic = job()?.logic;
    // One dimension for each field, in this order.
    logic.fields = fields
        .iter()
        .map(|field| Field {
            name: field.name().to_owned(),
            spec: FieldSpec::Found { places: vec![Place::Line(*field)], transforms: Vec::new() },
        })
        .collect();
    let total = logic.dimensions.iter().find(|dimension| dimension.field.is_none()).context("total")?.clone();
    logic.dimensions = (0..fields.len())
        .map(|index| {
            let mut dimension = total.clone();
            dimension.name = fields[index].name().to_owned();
            dimension.field = Some(index);
            dimension
        })
        .collect();
    let mut decoder = Decoder::new(&logic);
    let mut event = Event::default();
    let text = std::fs::read_to_string(root().join("tests/data/access_lines.txt"))?;
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut checked = 0;
    while let (Some(expected), Some(line)) = (lines.next(), lines.next()) {
        let outcome = decoder.decode(record(line.as_bytes()), &mut event);
        let found = match &outcome {
            Outcome::Rejected(rejection) => format!("!{}", rejection.reason.name()),
            _ => {
                let time = event.event_time.and_then(chrono::DateTime::from_timestamp_micros).context("a time")?;
                let time = time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
                format!("={}|{time}", event.values.join("|"))
            }
        };
        assert_eq!(found, expected, "{line}");
        checked += 1;
    }
    ensure!(checked >= 50, "only {checked} lines were checked");
    Ok(())
}
