//! `floodmark dev produce`: sends the lines of a file to a topic, unchanged.
//!
//! In: a file or stdin. Out: one record for each line, in order within a partition. State: one line, and the queue of the producer.
//! Failure: a record that is not delivered ends the command.

use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::Ordering;

use anyhow::{Context, bail, ensure};
use clap::Args;

use super::format::read_record_line;
use super::send::{KafkaArgs, Sender};
use super::text::access_log_ms;
use crate::terminal::{self, LiveLine, StopSignals, duration, grouped, say, short};

/// How many consecutive lines go to the same partition.
const BLOCK: u64 = 100;

/// The long help.
pub(super) const HELP: &str = "\
Send the lines of a file to a topic

Each line becomes one record: its bytes as they are, without the newline and without a key. An empty
line is a record with an empty value.

It returns when Kafka has acknowledged every record; exit code 1 if one was not delivered.";

/// Options of `floodmark dev produce`.
#[derive(Args, Clone, Debug)]
pub struct ProduceArgs {
    /// The file to send; - is stdin
    #[arg(value_name = "FILE", requires = "topic")]
    pub file: PathBuf,

    #[command(flatten)]
    /// How to reach Kafka.
    pub kafka: KafkaArgs,

    /// Create the topic with this many partitions if it does not exist
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub partitions: Option<i32>,

    /// Send all lines to this partition [default: a hundred lines to each partition in turn]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,

    /// Kafka timestamps: now, or access-log
    ///
    /// access-log takes each line's own time, [17/May/2015:10:05:03 +0000], so that an old log does not look as if it had all
    /// happened now; a line without a time gets that of the line before it, or the current time if there is none.
    #[arg(long, value_name = "SOURCE", default_value = "now", conflicts_with = "timestamp_ms")]
    pub timestamp: TimestampSource,

    /// The same Kafka timestamp for all lines, in milliseconds since 1970
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(i64).range(1..))]
    pub timestamp_ms: Option<i64>,

    /// The file is one written by `floodmark dev gen --output`: use the partition, timestamp, key and value of each line
    #[arg(long, conflicts_with_all = ["partition", "timestamp", "timestamp_ms"])]
    pub gen_format: bool,

    /// Send no keys, even if the lines of --gen-format have some
    #[arg(long)]
    pub key_none: bool,
}

/// Where Kafka timestamps come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampSource {
    /// The time of sending.
    Now,
    /// The line's own time, in brackets.
    AccessLog,
}

impl FromStr for TimestampSource {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "now" => Ok(TimestampSource::Now),
            "access-log" => Ok(TimestampSource::AccessLog),
            _ => Err(format!("expected now or access-log, found {name:?}")),
        }
    }
}

/// Runs until all lines are sent and acknowledged.
///
/// # Errors
/// A file that can not be read; a topic that can not be used; a wrong line with `--gen-format`; a record that was not delivered; an
/// interrupt before the end.
pub(super) fn run(args: ProduceArgs) -> anyhow::Result<()> {
    let name = if args.file == Path::new("-") { "stdin".to_owned() } else { args.file.display().to_string() };
    let mut input: Box<dyn BufRead> = if args.file == Path::new("-") {
        Box::new(stdin().lock())
    } else {
        let file = File::open(&args.file).with_context(|| format!("can not read {name}"))?;
        Box::new(BufReader::with_capacity(1 << 20, file))
    };
    let stop = StopSignals::catch()?.flag()?;
    let mut sender = Sender::open(&args.kafka, args.partitions)?;
    let partitions = sender.partitions();
    if let Some(partition) = args.partition {
        ensure!(
            partition < partitions,
            "--partition: expected 0 to {}, the topic's partitions; found {partition}",
            partitions - 1
        );
    }

    let mut shown = LiveLine::new("produce", None);
    let mut line = Vec::new();
    let (mut lines, mut bytes) = (0u64, 0u64);
    let mut timestamp_ms = args.timestamp_ms;
    let sent = loop {
        line.clear();
        match input.read_until(b'\n', &mut line).with_context(|| format!("can not read {name}")) {
            _ if stop.load(Ordering::Relaxed) => break Err(anyhow::anyhow!("interrupted")),
            Err(error) => break Err(error),
            Ok(0) => break Ok(()),
            Ok(_) => {}
        }
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let sent = if args.gen_format {
            send_generated(&mut sender, line, args.key_none)
        } else {
            if args.timestamp == TimestampSource::AccessLog {
                timestamp_ms = access_log_ms(line).filter(|&time| time > 0).or(timestamp_ms);
            }
            let partition = args.partition.unwrap_or((lines / BLOCK % partitions as u64) as i32);
            sender.send(partition, timestamp_ms, None, Some(line))
        };
        if let Err(error) = sent {
            break Err(error.context(format!("line {} of {name}", grouped(lines + 1))));
        }
        lines += 1;
        bytes += line.len() as u64;
        if lines.is_multiple_of(1024) {
            shown.tick(lines, || sender.in_flight());
        }
    };
    let flushed = sender.finish(|sender| shown.tick(lines, || sender.in_flight()));
    shown.clear();
    flushed?;
    if let Err(error) = sent {
        bail!("{error:#}; the {} lines before this one are in the topic", grouped(lines));
    }
    let seconds = shown.elapsed().as_secs_f64();
    say::line(&format!(
        "Sent the {} lines of {name} ({}) to topic {} ({partitions} partitions) in {}: {} records/s.",
        grouped(lines),
        terminal::bytes(bytes),
        args.kafka.topic.as_deref().unwrap_or_default(),
        duration(seconds),
        short(lines as f64 / seconds.max(1e-3)),
    ));
    Ok(())
}

fn send_generated(sender: &mut Sender, line: &[u8], key_none: bool) -> anyhow::Result<()> {
    let record = read_record_line(line).map_err(anyhow::Error::msg)?;
    let partitions = sender.partitions();
    ensure!(
        record.partition < partitions,
        "partition: expected 0 to {}, the topic's partitions; found {}",
        partitions - 1,
        record.partition
    );
    ensure!(record.timestamp_ms > 0, "timestamp_ms: expected more than 0, found {}", record.timestamp_ms);
    let key = record.key.as_deref().filter(|_| !key_none);
    sender.send(record.partition, Some(record.timestamp_ms), key, record.value.as_deref())
}
