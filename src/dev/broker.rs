//! `floodmark dev broker`: runs librdkafka's mock cluster in this process.
//!
//! In: topics with their numbers of partitions. Out: the address of the broker, on stdout or in a file. State: the newest records of each
//! partition, in memory. Restart: a new broker is empty.

use std::fs;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use rdkafka::mocking::MockCluster;

use crate::terminal::{StopSignals, say};

/// The long help.
pub(super) const HELP: &str = "\
Run an embedded Kafka broker: in memory, for trying things out

It is librdkafka's mock cluster on a free port of 127.0.0.1; it prints one line to stdout, its
address. Any Kafka client can produce to it and consume from it. Nothing is written to disk: all
records are lost when it ends (SIGINT or SIGTERM, exit code 0).

THE LIMIT: each partition keeps its newest 5 MiB (compressed, as sent) and at most 100,000 batches.
Beyond that, the oldest batches are dropped immediately, read or not: the log's start offset
advances, and a consumer that is slower than the producer finds its offset out of range (a floodmark
job then stops and names the missing range). A partition holds some 29,000 events of
`floodmark dev gen` (180 bytes each in lz4), or 49,000 with -X compression.type=zstd (107 bytes).
So give a topic enough partitions for everything not yet read, or slow the producer with --rate.

Topics cannot be created through Kafka's own request: name them here. A topic that is not named is
created, with 4 partitions, when a client requests it by name. Transactions are accepted but have no
effect. Records cannot be looked up by time, so a job that starts at a time is refused. There is one
broker, without TLS and authentication.";

/// Options of `floodmark dev broker`.
#[derive(Args, Clone, Debug)]
pub struct BrokerArgs {
    /// A topic and its number of partitions; may be repeated
    #[arg(long = "topic", value_name = "NAME:PARTITIONS", value_parser = topic)]
    pub topics: Vec<(String, i32)>,

    /// Write the address to this file (atomically) instead of stdout; the file is removed at the end
    #[arg(long, value_name = "FILE")]
    pub address_file: Option<PathBuf>,
}

fn topic(text: &str) -> Result<(String, i32), String> {
    let expected = || format!("expected NAME:PARTITIONS, such as events:4; found {text:?}");
    let (name, partitions) = text.rsplit_once(':').ok_or_else(expected)?;
    let partitions = partitions.parse().ok().filter(|count| (1..=10_000).contains(count)).ok_or_else(expected)?;
    let legal = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if name.is_empty() || name.len() > 249 || !legal(name) {
        return Err(format!("expected a topic name of 1 to 249 letters, digits, '.', '_' and '-'; found {name:?}"));
    }
    Ok((name.to_owned(), partitions))
}

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// A topic that is named twice; an address file that can not be written.
pub(super) fn run(args: BrokerArgs) -> anyhow::Result<()> {
    let mut signals = StopSignals::catch()?;
    let cluster = MockCluster::new(1).context("can not start the embedded broker")?;
    for (index, (name, partitions)) in args.topics.iter().enumerate() {
        ensure!(args.topics[..index].iter().all(|(other, _)| other != name), "--topic {name} is given twice");
        cluster.create_topic(name, *partitions, 1).with_context(|| format!("can not create topic {name}"))?;
    }
    let address = cluster.bootstrap_servers();
    match &args.address_file {
        Some(file) => write_at_once(file, &address)?,
        None => {
            let mut out = stdout().lock();
            writeln!(out, "{address}").and_then(|()| out.flush()).context("can not write the address to stdout")?;
        }
    }
    signals.wait();
    if let Some(file) = &args.address_file {
        fs::remove_file(file).with_context(|| format!("can not remove {}", file.display()))?;
    }
    say::line(&format!("The embedded broker at {address} has ended; its records are gone."));
    Ok(())
}

/// Writes the file so that a reader finds either the whole address or no file.
fn write_at_once(file: &Path, address: &str) -> anyhow::Result<()> {
    let mut name =
        file.file_name().with_context(|| format!("{} is not the path of a file", file.display()))?.to_owned();
    name.push(".tmp");
    let temporary = file.with_file_name(name);
    fs::write(&temporary, format!("{address}\n"))
        .and_then(|()| fs::rename(&temporary, file))
        .with_context(|| format!("can not write the address to {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_a_name_and_a_number() {
        assert_eq!(topic("events:4"), Ok(("events".to_owned(), 4)));
        for wrong in ["events", "events:", "events:0", "events:x", ":4", "a b:4"] {
            assert!(topic(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_address_file_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("address");
        write_at_once(&file, "127.0.0.1:9").expect("written");
        assert_eq!(fs::read_to_string(&file).expect("there"), "127.0.0.1:9\n");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }
}
