//! `floodmark dev limit`: the work of a job as a bare loop, without any of its guarantees. A job is measured against it.
//!
//! In: the partitions of a job's topics, from their beginning to their present end. Out: `raw-N.parquet` of each thread, with every record
//! in the columns of `raw`; and `counts-G.parquet` of each granularity, sorted. The decoder and the encoders are the job's own, as there
//! are no faster ones here. The rest is as lean as possible: names become numbers once, a cell is identified by three of them, the threads
//! meet once at the end, and nothing is written twice. State: all cells; no epochs, no commits. Restart: from the beginning.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;

use super::cells::{CellWriter, Cells, Merged, Packed, Texts};
use crate::decode::{Decoder, Event};
use crate::job::{Dimension, Job};
use crate::model::{Granularity, Outcome, Period, Segment};
use crate::process::Clock;
use crate::source::Stamp;
use crate::source::kafka::{client_config, headers_of, record_of};
use crate::table::raw::{FileWriter, Kind, RawRows};
use crate::terminal::{Output, duration, grouped, short};

/// The long help.
pub(super) const HELP: &str = "\
Do a job's work as a bare loop without its guarantees, to show the best that this machine can do

It consumes the job's topics from their beginning to their current end, parses the same fields,
writes every record with the columns of raw as Parquet, counts in hash maps, rolls up once at the end
and writes each granularity once, sorted. There are no epochs, commits or restarts, and all cells are
in memory. scripts/bench compares a job with it.";

/// How long the brokers may take to answer.
const ANSWER: Duration = Duration::from_secs(15);

/// Rows are passed to the encoder when they have more bytes than this.
const BATCH_BYTES: usize = 4 << 20;

/// Options of `floodmark dev limit`.
#[derive(Args, Clone, Debug)]
pub struct LimitArgs {
    /// The job file
    #[arg(value_name = "JOB")]
    pub job: PathBuf,

    /// Number of threads; the partitions are divided among them
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,

    /// The folder to write to
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,

    /// How the result is written to stdout
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// A partition and its end.
#[derive(Clone, Debug)]
struct Part {
    topic: u16,
    partition: i32,
    end: i64,
}

/// Runs to the end of the topics.
///
/// # Errors
/// A job file that is wrong; brokers that do not answer; a folder that can not be written.
pub(super) fn run(args: &LimitArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let job = Job::load(&args.job)?;
    std::fs::create_dir_all(&args.to).with_context(|| format!("cannot create the folder {}", args.to.display()))?;
    let parts = partitions(&job)?;
    let threads = usize::from(args.threads);
    let stamp = Stamp { epoch: 1, ingested_at: Clock::System.now() };
    let done: Vec<anyhow::Result<Thread>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|index| {
                let parts: Vec<Part> = parts.iter().skip(index).step_by(threads).cloned().collect();
                let file = args.to.join(format!("raw-{index}.parquet"));
                let job = &job;
                scope.spawn(move || Thread::consume(job, &parts, stamp, &file))
            })
            .collect();
        running.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let done = done.into_iter().collect::<anyhow::Result<Vec<Thread>>>()?;
    let (records, counted) = done.iter().fold((0, 0), |sum, it| (sum.0 + it.records, sum.1 + it.counted));
    let raw_bytes: u64 = done.iter().map(|thread| thread.raw_bytes).sum();
    let consumed = started.elapsed();
    let (rows, bytes) = write_counts(&job.logic.dimensions, done.into_iter().map(|it| it.cells).collect(), &args.to)?;
    let took = started.elapsed();
    match args.output {
        Output::Json => {
            let result = json!({
                "records": records, "counted": counted, "seconds": took.as_secs_f64(), "consume_seconds": consumed.as_secs_f64(),
                "raw_rows": records, "raw_bytes": raw_bytes, "counts_rows": rows, "counts_bytes": bytes,
            });
            writeln!(std::io::stdout(), "{result}")
        }
        Output::Text => writeln!(
            std::io::stdout(),
            "{} records ({} counted) in {}, {} records/s; {} rows of counts",
            grouped(records),
            grouped(counted),
            duration(took.as_secs_f64()),
            short(records as f64 / took.as_secs_f64()),
            grouped(rows),
        ),
    }
    .context("can not write to stdout")
}

fn consumer(job: &Job) -> anyhow::Result<BaseConsumer> {
    client_config(job).set("enable.partition.eof", "false").create().context("can not set up the Kafka client")
}

fn partitions(job: &Job) -> anyhow::Result<Vec<Part>> {
    let consumer = consumer(job)?;
    let metadata = consumer.fetch_metadata(None, ANSWER).context("the brokers do not answer")?;
    let mut parts = Vec::new();
    for (topic, name) in job.source.topics.iter().enumerate() {
        let Some(found) = metadata.topics().iter().find(|found| found.name() == name) else {
            bail!("the brokers have no topic {name:?}; check source.topics in the job file");
        };
        for partition in found.partitions() {
            let (low, end) = consumer.fetch_watermarks(name, partition.id(), ANSWER)?;
            ensure!(low == 0, "{name}/{}: expected a partition that begins at offset 0, found {low}", partition.id());
            parts.push(Part { topic: topic as u16, partition: partition.id(), end });
        }
    }
    Ok(parts)
}

/// What a thread has done.
struct Thread {
    records: u64,
    counted: u64,
    raw_bytes: u64,
    cells: Cells,
}

impl Thread {
    fn consume(job: &Job, parts: &[Part], stamp: Stamp, file: &Path) -> anyhow::Result<Thread> {
        let topics = &job.source.topics;
        let consumer = consumer(job)?;
        let mut assignment = TopicPartitionList::new();
        for part in parts {
            assignment.add_partition_offset(&topics[usize::from(part.topic)], part.partition, Offset::Beginning)?;
        }
        consumer.assign(&assignment)?;
        let sink = File::create(file).with_context(|| format!("can not write to {}", file.display()))?;
        let mut writer = FileWriter::to(BufWriter::with_capacity(1 << 20, sink))?;
        let mut rows = RawRows::new(topics.clone().into());
        let mut decoder = Decoder::new(&job.logic);
        let mut event = Event::default();
        let mut cells = Cells::new(&job.logic.dimensions);
        let (mut records, mut counted) = (0, 0);
        let mut open = parts.iter().filter(|part| part.end > 0).count();
        while open > 0 {
            let message = match consumer.poll(ANSWER) {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(error).context("cannot consume the topics"),
                None => bail!(
                    "received no record for {} s, but {open} partitions are not read to their end",
                    ANSWER.as_secs()
                ),
            };
            let topic = if topics.len() == 1 { Some(0) } else { topics.iter().position(|it| it == message.topic()) };
            let ours = |part: &&Part| Some(usize::from(part.topic)) == topic && part.partition == message.partition();
            let Some(part) = parts.iter().find(ours) else { continue };
            if message.offset() >= part.end {
                continue;
            }
            open -= usize::from(message.offset() + 1 == part.end);
            let record = record_of(&message, stamp, part.topic);
            let outcome = decoder.decode(record, &mut event);
            if let (Outcome::Counted, Some(time)) = (&outcome, event.event_time) {
                cells.count(&event.customer, time, &event.values);
                counted += 1;
            }
            rows.push_record(record, headers_of(&message), &outcome, event.event_time);
            records += 1;
            if rows.bytes() > BATCH_BYTES {
                writer.write(&rows.finish())?;
            }
        }
        writer.write(&rows.finish())?;
        let written = writer.end(Kind::Main, "")?;
        let mut raw_bytes = 0;
        if let Some((_, sink)) = written {
            let file = sink.into_inner().map_err(|error| error.into_error()).context("can not write raw")?;
            raw_bytes = file.metadata()?.len();
        }
        Ok(Thread { records, counted, raw_bytes, cells })
    }
}

/// Rolls up and writes all granularities; returns rows and bytes.
fn write_counts(dimensions: &[Dimension], counters: Vec<Cells>, to: &Path) -> anyhow::Result<(u64, u64)> {
    let merged = Merged::new(dimensions, counters);
    // Each granularity is written while the next ones are rolled up.
    std::thread::scope(|scope| {
        let mut writers = Vec::new();
        let texts = &merged.texts;
        merged.roll_up(|granularity, cells| {
            writers.push(scope.spawn(move || write_granularity(granularity, &cells, texts, to)));
        });
        writers.into_iter().try_fold((0, 0), |total, writer| {
            let (rows, bytes) = writer.join().expect("it does not panic")?;
            Ok((total.0 + rows, total.1 + bytes))
        })
    })
}

fn write_granularity(
    granularity: Granularity,
    cells: &[Packed],
    texts: &Texts,
    to: &Path,
) -> anyhow::Result<(u64, u64)> {
    let mut writer = CellWriter::new(Segment { granularity, bucket: 0, period: Period::Year, period_start: 0 })?;
    for &cell in cells.iter().filter(|cell| texts.counts(granularity, **cell)) {
        writer.push(cell, texts)?;
    }
    let Some((file, bytes)) = writer.finish("limit")? else { return Ok((0, 0)) };
    let path = to.join(format!("counts-{granularity}.parquet"));
    std::fs::write(&path, &bytes).with_context(|| format!("can not write to {}", path.display()))?;
    Ok((file.rows, file.size))
}
