//! `[source]`: which topics to read, where to start, and the properties of librdkafka.
//!
//! In: the section of a job file. Out: [`Source`], or the first fault. Pure.

use std::collections::BTreeMap;
use std::fmt;

use super::error::JobError;
use super::read::{Section, Value};
use super::redact::Redacted;

/// Properties that the source sets itself, because exactness depends on them.
const OWN_PROPERTIES: [&str; 4] =
    ["enable.auto.commit", "enable.auto.offset.store", "auto.offset.reset", "enable.partition.eof"];

/// Where records come from.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// Topics, in the order of the file; at least one, each once.
    pub topics: Vec<String>,
    /// Where a first start begins.
    pub start: Start,
    /// Properties of librdkafka, passed through, including TLS and SASL. `bootstrap.servers` is always present.
    pub kafka: BTreeMap<String, String>,
}

/// Where a first start begins in every partition. Later starts resume where `raw` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record that Kafka has.
    Earliest,
    /// After the newest record.
    Latest,
    /// At the first record whose Kafka timestamp is at or after this time.
    Time {
        /// Milliseconds since 1970 UTC.
        ms: i64,
    },
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("topics", &self.topics)
            .field("start", &self.start)
            .field("kafka", &Redacted(&self.kafka))
            .finish()
    }
}

pub(super) fn read(root: &Section<'_>) -> Result<Source, JobError> {
    let section = root.need("source", "a section [source]")?.section(&["topics", "start", "kafka"])?;
    let topics = section.need("topics", "a list of topics")?.distinct("topics", topic)?;
    let start = section.get("start").map_or(Ok(Start::Earliest), |value| start(&value))?;
    let mut kafka = BTreeMap::new();
    if let Some(value) = section.get("kafka") {
        properties("", &value, &mut kafka)?;
    }
    if !kafka.contains_key("bootstrap.servers") && !kafka.contains_key("metadata.broker.list") {
        let missing = section.need("kafka", "a section [source.kafka] with \"bootstrap.servers\"")?;
        return Err(missing.fault("no brokers", "\"bootstrap.servers\" = \"host:port,…\""));
    }
    Ok(Source { topics, start, kafka })
}

fn topic(value: &Value<'_>) -> Result<String, JobError> {
    let name = value.text()?;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.len() > 249 || name == "." || name == ".." || !name.bytes().all(legal) {
        return Err(value
            .fault(format!("{name:?}"), "a topic's name: at most 249 letters, digits, `.`, `_` and `-` (no pattern)"));
    }
    Ok(name)
}

fn start(value: &Value<'_>) -> Result<Start, JobError> {
    let text = value.text_or_time()?;
    match text.as_str() {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        time => match chrono::DateTime::parse_from_rfc3339(time) {
            Ok(time) => Ok(Start::Time { ms: time.timestamp_millis() }),
            Err(_) => Err(value.fault(
                format!("{text:?}"),
                "\"earliest\", \"latest\", or a time with its offset, as in \"2026-01-13T00:00:00Z\"",
            )),
        },
    }
}

/// In TOML, `a.b = 1` is a nested table. The keys are joined again, so that properties need no quotes.
fn properties(prefix: &str, value: &Value<'_>, out: &mut BTreeMap<String, String>) -> Result<(), JobError> {
    for (name, value) in value.entries()? {
        let name = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        if OWN_PROPERTIES.contains(&name.as_str()) {
            return Err(value.fault("a property that the source sets itself", "it to be left out"));
        }
        if value.is_table() {
            properties(&name, &value, out)?;
            continue;
        }
        let text = value.option()?;
        if !text.is_empty() && out.insert(name, text).is_some() {
            return Err(value.fault("the same property twice, quoted and unquoted", "each property once"));
        }
    }
    Ok(())
}
