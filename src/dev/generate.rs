//! `floodmark dev gen`: sends generated traffic to a topic, or writes it to a file or stdout.
//!
//! In: options and a seed. Out: records, in the order of their timestamps. State: see [`Traffic`]. Failure: a
//! record that is not delivered ends the command. Restart: the same seed and options make the same records again.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use chrono::{DateTime, NaiveDate};
use clap::Args;

use super::format::write_record_line;
use super::schedule::TrafficRange;
use super::send::{KafkaArgs, Sender};
use super::traffic::{Generated, Traffic, TrafficOptions};
use crate::model::rfc3339;
use crate::terminal::{self, LiveLine, StopSignals, duration, grouped, say, short};

/// The number of partitions if nothing else determines it.
const PARTITIONS: i32 = 4;
/// The number of records without `--events` and `--live`.
const EVENTS: u64 = 100_000;
const HOUR_MS: f64 = 3_600_000.0;

/// The long help.
pub(super) const HELP: &str = "\
Generate web-analytics events, including late and broken ones, from a seed, to a topic or a file

Events are JSON as in schemas/event.schema.json. The customers' shares follow Zipf's law (shop-00000
is the busiest), traffic has a daily rhythm in UTC, and some fields are sometimes absent. The Kafka
timestamp of each record is its event time plus a delay, of 20 to 220 ms for most. Records are in the
order of their Kafka timestamps. The same options with the same --from give the same bytes.

It returns when Kafka has acknowledged every record; exit code 1 if one was not delivered.";

/// Options of `floodmark dev gen`.
#[derive(Args, Clone, Debug)]
pub struct GenArgs {
    #[command(flatten)]
    /// How to reach Kafka.
    pub kafka: KafkaArgs,

    /// Write to this file instead of a topic; - is stdout
    ///
    /// One record per line: {"partition":0,"timestamp_ms":1767225600000,"key":"…","value":"…"}; null where Kafka has none,
    /// key_base64 and value_base64 where the bytes are not UTF-8. `floodmark dev produce --gen-format` sends such a file.
    #[arg(long, value_name = "FILE", conflicts_with = "topic", required_unless_present = "topic")]
    pub output: Option<PathBuf>,

    /// Number of partitions; a topic that does not exist is created with it [default: the topic's own number; 4 for a file]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub partitions: Option<i32>,

    /// Number of records, including broken ones [default: 100000; with --live, until interrupted]
    #[arg(long, value_name = "N")]
    pub events: Option<u64>,

    /// The same seed gives the same records
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,

    /// Number of customers
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub customers: u32,

    /// Exponent of Zipf's law: how much busier the first customers are; with 0 all are equally busy
    #[arg(long, value_name = "EXPONENT", default_value_t = 1.0)]
    pub zipf: f64,

    /// Share of all events that belong to the first customer, such as 0.6; the others still follow --zipf
    #[arg(long, value_name = "SHARE")]
    pub customer_skew: Option<f64>,

    /// Share of all events that go to partition 0, such as 0.8 [default: the same share to each partition]
    #[arg(long, value_name = "SHARE")]
    pub partition_skew: Option<f64>,

    /// Start of the range of times: 2026-01-13T04:00:00Z, 2026-01-13, or milliseconds since 1970 [default: now − hours]
    #[arg(long, value_name = "TIME", value_parser = time_ms, conflicts_with = "live")]
    pub from: Option<i64>,

    /// Length of the range of times, in hours; it contains all event times and Kafka timestamps
    #[arg(long, value_name = "H", default_value_t = 24.0, conflicts_with = "live")]
    pub hours: f64,

    /// Generate events as of now, at --rate, instead of events in a range of times
    #[arg(long)]
    pub live: bool,

    /// Records per second; 0 means as fast as possible
    #[arg(long, value_name = "N", default_value_t = 0.0, value_parser = rate)]
    pub rate: f64,

    /// Share of late records, 0 to 1; they are delayed by a minute to four hours
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub late_share: f64,

    /// Share of broken records, 0 to 1
    ///
    /// The share is exact, and they are evenly spread. The reasons take turns, each in several variants: empty, bad_json,
    /// missing_field, wrong_type, bad_time, time_out_of_range.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub broken_share: f64,

    /// Make one in fifty of the broken records, from the eighth on, larger than 1 MiB (too_large)
    #[arg(long)]
    pub too_large: bool,

    /// Pad events to at least this many bytes, in actionParameters; without padding they have 507 on average
    #[arg(long, value_name = "BYTES", default_value_t = 500)]
    pub event_bytes: usize,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("expected a share of 0 to 1, such as 0.01; found {text:?}"))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0);
    rate.ok_or_else(|| format!("expected records per second, 0 or more; found {text:?}"))
}

fn time_ms(text: &str) -> Result<i64, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_millis());
    }
    if let Some(time) = text.parse::<NaiveDate>().ok().and_then(|date| date.and_hms_opt(0, 0, 0)) {
        return Ok(time.and_utc().timestamp_millis());
    }
    let expected = "2026-01-13T04:00:00Z, 2026-01-13 or milliseconds since 1970";
    text.parse().map_err(|_| format!("expected {expected}; found {text:?}"))
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn utc(time_ms: i64) -> String {
    rfc3339(time_ms.saturating_mul(1000))
}

/// Where the records go.
enum Sink {
    Topic(Box<Sender>),
    Lines { out: BufWriter<Box<dyn Write>>, name: String, line: Vec<u8> },
}

impl Sink {
    fn open(args: &GenArgs) -> anyhow::Result<Self> {
        let Some(file) = &args.output else {
            return Ok(Sink::Topic(Box::new(Sender::open(&args.kafka, args.partitions)?)));
        };
        let (out, name): (Box<dyn Write>, String) = if file == Path::new("-") {
            (Box::new(stdout()), "stdout".to_owned())
        } else {
            let opened = File::create(file).with_context(|| format!("can not write to {}", file.display()))?;
            (Box::new(opened), file.display().to_string())
        };
        Ok(Sink::Lines { out: BufWriter::with_capacity(1 << 20, out), name, line: Vec::new() })
    }

    fn put(&mut self, record: &Generated) -> anyhow::Result<()> {
        match self {
            Sink::Topic(sender) => {
                let (key, value) = (record.key.as_deref(), record.value.as_deref());
                sender.send(record.partition, Some(record.timestamp_ms), key, value)
            }
            Sink::Lines { out, name, line } => {
                line.clear();
                write_record_line(record, line);
                out.write_all(line).with_context(|| format!("can not write to {name}"))
            }
        }
    }

    /// Waits about this long, and uses the time for flushing or delivery reports.
    fn idle(&mut self, time: Duration) -> anyhow::Result<()> {
        match self {
            Sink::Topic(sender) => sender.idle(time),
            Sink::Lines { out, name, .. } => {
                // At a low rate, a reader should see each record soon.
                out.flush().with_context(|| format!("can not write to {name}"))?;
                thread::sleep(time);
            }
        }
        Ok(())
    }

    fn in_flight(&self) -> String {
        match self {
            Sink::Topic(sender) => sender.in_flight(),
            Sink::Lines { .. } => String::new(),
        }
    }

    fn finish(&mut self, progress: &mut LiveLine, sent: u64) -> anyhow::Result<()> {
        match self {
            Sink::Topic(sender) => sender.finish(|sender| progress.tick(sent, || sender.in_flight())),
            Sink::Lines { out, name, .. } => out.flush().with_context(|| format!("can not write to {name}")),
        }
    }
}

/// Runs until all records are sent and acknowledged, or a signal comes.
///
/// # Errors
/// A wrong option; a topic that can not be used; a record that was not delivered; an interrupt before the end.
pub(super) fn run(args: GenArgs) -> anyhow::Result<()> {
    let range = args.range()?;
    let total = args.events.or((!args.live).then_some(EVENTS));
    // Wrong options are found before anything is connected, created or overwritten.
    let mut options = TrafficOptions {
        seed: args.seed,
        customers: args.customers,
        zipf: args.zipf,
        customer_skew: args.customer_skew,
        partitions: args.partitions.unwrap_or(PARTITIONS),
        partition_skew: args.partition_skew,
        range,
        late_share: args.late_share,
        web_delays: false,
        broken_share: args.broken_share,
        too_large: args.too_large,
        event_bytes: args.event_bytes,
    };
    let mut traffic = Traffic::new(options.clone())?;
    let stop = StopSignals::catch()?.flag()?;
    let mut sink = Sink::open(&args)?;
    if let Sink::Topic(sender) = &sink
        && sender.partitions() != options.partitions
    {
        options.partitions = sender.partitions();
        traffic = Traffic::new(options.clone())?;
    }

    let mut progress = LiveLine::new("gen", total);
    let started = Instant::now();
    let mut record = Generated::default();
    let mut sums = Sums::default();
    let written = loop {
        if total.is_some_and(|total| sums.records == total) || stop.load(Ordering::Relaxed) {
            break Ok(());
        }
        if args.rate > 0.0 {
            let due = Duration::from_secs_f64(sums.records as f64 / args.rate);
            let early = due.saturating_sub(started.elapsed());
            if early > Duration::from_millis(1) {
                if let Err(error) = sink.idle(early.min(Duration::from_millis(50))) {
                    break Err(error);
                }
                progress.tick(sums.records, || sums.detail(&record, &sink));
                continue;
            }
        }
        match args.live {
            true => traffic.fill_at(now_ms(), &mut record),
            false if traffic.fill(&mut record) => {}
            false => break Ok(()),
        }
        if let Err(error) = sink.put(&record) {
            break Err(error);
        }
        sums.add(&record);
        if sums.records.is_multiple_of(1024) {
            progress.tick(sums.records, || sums.detail(&record, &sink));
        }
    };
    let written = written.and_then(|()| sink.finish(&mut progress, sums.records));
    progress.clear();
    match written {
        // The reader of our output has seen enough (`… | head`).
        Err(error) if broken_pipe(&error) => return Ok(()),
        written => written?,
    }
    let sentence = sums.sentence(&sink, &args, progress.elapsed());
    if let Some(total) = total.filter(|&total| sums.records < total) {
        bail!("interrupted after {} of {} records. {sentence}", grouped(sums.records), grouped(total));
    }
    say::line(&sentence);
    Ok(())
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

impl GenArgs {
    fn range(&self) -> anyhow::Result<Option<TrafficRange>> {
        if self.live {
            return Ok(None);
        }
        if !(self.hours > 0.0 && self.hours <= 876_600.0) {
            bail!("--hours: expected more than 0, at most 876600 (100 years), found {}", self.hours);
        }
        let length_ms = ((self.hours * HOUR_MS) as i64).max(1);
        let from_ms = self.from.unwrap_or_else(|| now_ms() - length_ms);
        Ok(Some(TrafficRange { from_ms, to_ms: from_ms + length_ms, events: self.events.unwrap_or(EVENTS) }))
    }
}

/// What was sent so far.
#[derive(Default)]
struct Sums {
    records: u64,
    bytes: u64,
    late: u64,
    broken: u64,
    first_ms: Option<i64>,
    last_ms: i64,
}

impl Sums {
    fn add(&mut self, record: &Generated) {
        self.records += 1;
        self.bytes += record.value.as_ref().map_or(0, Vec::len) as u64;
        self.late += u64::from(record.late);
        self.broken += u64::from(record.broken.is_some());
        self.first_ms.get_or_insert(record.timestamp_ms);
        self.last_ms = record.timestamp_ms;
    }

    fn detail(&self, record: &Generated, sink: &Sink) -> String {
        let mut detail = format!("at {} · late {} · broken {}", utc(record.timestamp_ms), self.late, self.broken);
        let in_flight = sink.in_flight();
        if !in_flight.is_empty() {
            detail += &format!(" · {in_flight}");
        }
        detail
    }

    fn sentence(&self, sink: &Sink, args: &GenArgs, took: Duration) -> String {
        let target = match sink {
            Sink::Topic(sender) => {
                let topic = args.kafka.topic.as_deref().unwrap_or_default();
                format!("Sent to topic {topic} ({} partitions)", sender.partitions())
            }
            Sink::Lines { name, .. } => format!("Wrote to {name}"),
        };
        let span = self.first_ms.map_or_else(String::new, |first| format!(", {} to {}", utc(first), utc(self.last_ms)));
        let seconds = took.as_secs_f64();
        format!(
            "{target} {} records ({}; {} late, {} broken{span}) in {}: {} records/s.",
            grouped(self.records),
            terminal::bytes(self.bytes),
            grouped(self.late),
            grouped(self.broken),
            duration(seconds),
            short(self.records as f64 / seconds.max(1e-3)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: GenArgs,
    }

    fn parse(line: &str) -> Result<GenArgs, String> {
        Line::try_parse_from(format!("gen {line}").split(' ')).map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn times_are_read() {
        assert_eq!(time_ms("2026-01-13T05:00:00+01:00"), Ok(1_768_276_800_000));
        assert_eq!(time_ms("2026-01-13"), Ok(1_768_262_400_000));
        assert_eq!(time_ms("1768262400000"), Ok(1_768_262_400_000));
        assert!(time_ms("yesterday").is_err());
    }

    #[test]
    fn wrong_options_say_what_was_expected() {
        for (line, expected) in [
            ("--output x --late-share 1.5", "expected a share of 0 to 1, such as 0.01; found \"1.5\""),
            ("--output x --from noon", "milliseconds since 1970; found \"noon\""),
            ("--output x --rate -1", "-1"),
            ("--brokers b:1 --topic t -X nonsense", "expected KEY=VALUE"),
            ("--events 5", "--output"),
            ("--topic t", "--brokers"),
            ("--output x --live --from 2026-01-01", "--live"),
        ] {
            let message = parse(line).expect_err(line);
            assert!(message.contains(expected), "{line}: {message}");
        }
        let args = parse("--output x --hours 0").expect("clap takes it");
        assert!(run(args).expect_err("refused").to_string().starts_with("--hours: expected more than 0"));
    }

    #[test]
    fn a_file_is_the_same_each_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str| {
            let file = folder.path().join(name);
            let mut args =
                parse("--output x --from 2026-01-13 --events 1000 --broken-share 0.1 --late-share 0.1").expect("right");
            args.output = Some(file.clone());
            run(args).expect("written");
            std::fs::read(file).expect("there")
        };
        let first = write("1");
        assert_eq!(first.iter().filter(|&&byte| byte == b'\n').count(), 1000);
        assert_eq!(first, write("2"));
    }
}
