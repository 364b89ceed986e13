//! `floodmark dev preload`: makes tables as if a job had run for weeks, without running it.
//!
//! In: a job file, a number of customers, days, and events per day. Out: the table `counts` with the history that generated traffic of that
//! size would have left, in files sealed as live seals them, and with granularities that agree; the table `raw` at epoch 1 without rows,
//! and all lanes at epoch 1, so that a job continues from there. (`verify` reports every row as extra, since the archive has no records of
//! it.) State: the cells of a few customers, and one encoder for each file of a bucket. Failure: the command refuses tables that already
//! exist.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use super::cells::{CellWriter, Cells, Merged};
use super::event::{Event as Drawn, EventWriter};
use super::random::{Random, Weighted, mix};
use super::schedule::Schedule;
use super::traffic;
use crate::dataflow::plan::age;
use crate::decode::{Decoder, Event};
use crate::job::Job;
use crate::model::{Granularity, Lane, Outcome, Period, RecordRef, Segment, TimeUs, TimestampType, Zone, bucket_of};
use crate::process::Clock;
use crate::table::store::write_file;
use crate::table::{Commit, File, Log, Root, counts, raw, retention};
use crate::terminal::{LiveLine, Output, bytes, duration, grouped};

/// The long help.
pub(super) const HELP: &str = "\
Create tables with weeks of history, as a job would have left them, on which scripts/bench measures a job

Events are generated as by `floodmark dev gen`, but customer by customer, decoded with the job's mapping,
counted and written straight to files of the table counts, sealed as a running job would have sealed them.
A customer with more than 65,536 events repeats some of them at other times. The archive stays empty, so
`verify` would report every count as too high. The tables must not exist yet.";

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// Events that are counted before their cells are written.
const CHUNK_EVENTS: u64 = 400_000;

/// At most this many different events of a customer are written and decoded; the rest repeats them at other times. It is as many as an
/// [`EventWriter`] has products and paths to choose from.
const DIFFERENT_MAX: u64 = 65_536;

/// The epoch of the table `raw` and of all lanes.
const EPOCH: i64 = 1;

/// Options of `floodmark dev preload`.
#[derive(Args, Clone, Debug)]
pub struct PreloadArgs {
    /// The job file
    #[arg(value_name = "JOB")]
    pub job: PathBuf,

    /// Days of history
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3660))]
    pub days: u32,

    /// Number of customers
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub customers: u32,

    /// Exponent of Zipf's law: how much busier the first customers are
    #[arg(long, value_name = "EXPONENT", default_value_t = 1.0)]
    pub zipf: f64,

    /// Events per day, of all customers
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub events_per_day: u64,

    /// The end of the history, a whole minute, in milliseconds since 1970 [default: the start of this hour]
    #[arg(long, value_name = "MS")]
    pub until: Option<i64>,

    /// The same seed gives the same history
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,

    /// How the result is written to stdout
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Makes the tables.
///
/// # Errors
/// A job file that is wrong; tables that exist already; a store that refuses.
pub(super) fn run(args: &PreloadArgs) -> anyhow::Result<()> {
    let job = Job::load(&args.job)?;
    let now_ms = Clock::System.now_ms();
    let until = args.until.map_or_else(|| Granularity::Hour.window_start(now_ms * 1000, Zone::Utc), |ms| ms * 1000);
    let root = Root::make(&job.tables.url, &job.tables.options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (raw_log, counts_log) = (Log::new(&root, "raw"), Log::new(&root, "counts"));
    let properties = retention::properties(job.settings.dead_files_keep_hours);
    let (raw_definition, counts_definition) = (raw::definition(), counts::definition(job.tables.buckets));
    let (mut raw_state, mut counts_state) = runtime.block_on(async {
        for log in [&raw_log, &counts_log] {
            if log.load().await?.is_some() {
                bail!("{} already has a table {}: choose another tables.url", root.url(), log.name());
            }
        }
        let raw = raw_log.load_or_create(&raw_definition.with_properties(properties.clone()), now_ms).await?;
        let counts = counts_log.load_or_create(&counts_definition.with_properties(properties), now_ms).await?;
        Ok((raw, counts))
    })?;

    let history = History::new(args, &job, until);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU32::new(0);
    let progress = Mutex::new((LiveLine::new("preload", Some(args.events_per_day * u64::from(args.days))), 0));
    let tell = |events: u64| {
        let (line, done) = &mut *progress.lock().expect("no panic while locked");
        *done += events;
        line.tick(*done, String::new);
    };
    let made: Vec<anyhow::Result<Vec<File>>> = std::thread::scope(|scope| {
        let thread = || {
            let mut files = Vec::new();
            loop {
                let bucket = next.fetch_add(1, Ordering::Relaxed);
                if bucket >= job.tables.buckets {
                    return Ok(files);
                }
                for (file, bytes) in history.bucket(bucket as u16, tell)? {
                    runtime.block_on(write_file(counts_log.store().as_ref(), &file.path, bytes))?;
                    files.push(file);
                }
            }
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(thread)).collect();
        running.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let add: Vec<File> = made.into_iter().collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect();
    let (line, events) = progress.into_inner().expect("no panic while locked");
    line.clear();

    let (files, rows) = (add.len() as u64, add.iter().map(|file| file.rows).sum::<u64>());
    let size = add.iter().map(|file| file.size).sum::<u64>();
    let mut txns = Vec::new();
    for lane in Lane::ALL {
        txns.push((counts::lane_txn(lane), EPOCH));
        txns.push((counts::complete_until_txn(lane), until / 1000));
    }
    runtime.block_on(async {
        let epoch = Commit { txns: vec![(raw::EPOCH.to_owned(), EPOCH)], ..Commit::default() };
        raw_log.commit(&mut raw_state, &epoch, "PRELOAD", now_ms).await?;
        let commit = Commit { add, txns, ..Commit::default() };
        counts_log.commit(&mut counts_state, &commit, "PRELOAD", now_ms).await
    })?;
    let seconds = line.elapsed().as_secs_f64();
    let mut out = std::io::stdout();
    match args.output {
        Output::Json => {
            let until_ms = until / 1000;
            let result = json!({
                "events": events, "rows": rows, "files": files, "bytes": size, "seconds": seconds, "until_ms": until_ms,
            });
            writeln!(out, "{result}")
        }
        Output::Text => writeln!(
            out,
            "{} days of {} customers, {} events: {} rows in {} files, {}, in {}",
            args.days,
            grouped(args.customers.into()),
            grouped(events),
            grouped(rows),
            grouped(files),
            bytes(size),
            duration(seconds),
        ),
    }
    .context("can not write to stdout")
}

/// The history that is to be made.
struct History<'a> {
    args: &'a PreloadArgs,
    job: &'a Job,
    from: TimeUs,
    until: TimeUs,
    writer: EventWriter,
    /// Minutes of a day, weighted by how busy they are.
    minutes: Weighted,
    /// The sum of the weights of Zipf's law.
    weights: f64,
}

type Files = BTreeMap<(Granularity, Period, TimeUs), CellWriter>;

impl<'a> History<'a> {
    fn new(args: &'a PreloadArgs, job: &'a Job, until: TimeUs) -> History<'a> {
        let from = until - TimeUs::from(args.days) * DAY_MS * 1000;
        let writer = EventWriter::new(0, &mut Random::new(args.seed));
        let weights = (1..=args.customers).map(|rank| f64::from(rank).powf(-args.zipf)).sum();
        let busy: Vec<f64> =
            (0..DAY_MS / MINUTE_MS).map(|minute| Schedule::rhythm(minute * MINUTE_MS) as f64).collect();
        History { args, job, from, until, writer, minutes: Weighted::new(&busy), weights }
    }

    /// Makes all files of a bucket.
    fn bucket(&self, bucket: u16, tell: impl Fn(u64)) -> anyhow::Result<Vec<(File, bytes::Bytes)>> {
        let mut customers: Vec<(String, u32)> = (0..self.args.customers)
            .map(|number| (traffic::customer_id(number.into()), number))
            .filter(|(id, _)| bucket_of(id.as_bytes(), self.job.tables.buckets) == bucket)
            .collect();
        customers.sort_unstable();
        let dimensions = &self.job.logic.dimensions;
        let mut files = Files::new();
        let mut cells = Cells::new(dimensions);
        let mut events = 0;
        let last = customers.len().saturating_sub(1);
        for (index, (_, number)) in customers.iter().enumerate() {
            events += self.count(*number, &mut cells)?;
            if events >= CHUNK_EVENTS || index == last {
                let counted = std::mem::replace(&mut cells, Cells::new(dimensions));
                self.write(bucket, Merged::new(dimensions, vec![counted]), &mut files)?;
                tell(std::mem::take(&mut events));
            }
        }
        let mut done = Vec::new();
        for writer in files.into_values() {
            done.extend(writer.finish("e000000000001-g000000-preload-a0")?);
        }
        Ok(done)
    }

    /// Draws and counts the events of a customer; returns how many.
    ///
    /// A pool of them is written and decoded. If there are more, each is one of the pool at a time of its own.
    fn count(&self, number: u32, cells: &mut Cells) -> anyhow::Result<u64> {
        let weight = f64::from(number + 1).powf(-self.args.zipf) / self.weights;
        let mut random = Random::new(self.args.seed ^ mix(u64::from(number)));
        let events = self.args.events_per_day as f64 * f64::from(self.args.days) * weight;
        let events = events as u64 + u64::from(random.fraction() < events.fract());
        let mut decoder = Decoder::new(&self.job.logic);
        let (mut value, mut event) = (Vec::new(), Event::default());
        let customer = cells.customer(&traffic::customer_id(number.into()));
        let mut pool = Vec::new();
        for _ in 0..events.min(DIFFERENT_MAX) {
            let time_ms = self.draw_time_ms(&mut random);
            let drawn: Drawn = traffic::visit(u64::from(number), self.args.seed, time_ms, time_ms, &mut random);
            value.clear();
            self.writer.write(&drawn, &mut random, &mut value);
            let record = RecordRef {
                timestamp_ms: Some(time_ms),
                timestamp_type: TimestampType::CreateTime,
                value: Some(&value),
                ..RecordRef::default()
            };
            match (decoder.decode(record, &mut event), event.event_time) {
                (Outcome::Counted, Some(time)) => {
                    let values = cells.numbers(&event.values);
                    cells.count_numbered(customer, time, &values);
                    pool.push(Some(values));
                }
                (Outcome::Rejected(rejection), _) => bail!("the job rejects generated events: {rejection:?}"),
                _ => pool.push(None),
            }
        }
        for _ in DIFFERENT_MAX..events {
            if let Some(values) = &pool[random.below(DIFFERENT_MAX) as usize] {
                let time_ms = self.draw_time_ms(&mut random);
                cells.count_numbered(customer, time_ms * 1000, values);
            }
        }
        Ok(events)
    }

    /// A random day, and a minute of it, where busy minutes are more likely.
    fn draw_time_ms(&self, random: &mut Random) -> i64 {
        let minute_ms = self.minutes.draw(random.next()) as i64 * MINUTE_MS;
        let from_ms = self.from / 1000;
        let day_ms = random.below(self.args.days.into()) as i64 * DAY_MS;
        from_ms + (minute_ms - from_ms).rem_euclid(DAY_MS) + day_ms + random.below(MINUTE_MS as u64) as i64
    }

    fn write(&self, bucket: u16, merged: Merged, files: &mut Files) -> anyhow::Result<()> {
        let mut result = Ok(());
        merged.roll_up(|granularity, cells| {
            let mut write = || {
                for &cell in cells.iter().filter(|cell| merged.texts.counts(granularity, **cell)) {
                    let segment = self.segment(granularity, bucket, cell.window_start());
                    let file = match files.entry((granularity, segment.period, segment.period_start)) {
                        std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                        std::collections::btree_map::Entry::Vacant(entry) => entry.insert(CellWriter::new(segment)?),
                    };
                    file.push(cell, &merged.texts)?;
                }
                anyhow::Ok(())
            };
            if result.is_ok() {
                result = write();
            }
        });
        result
    }

    /// The file in which a window would be by now: sealed as far as its age permits.
    fn segment(&self, granularity: Granularity, bucket: u16, window_start: TimeUs) -> Segment {
        let ladder = granularity.ladder();
        let at = |period: Period| Segment::holding(granularity, bucket, period, window_start);
        let old = |segment: &Segment| self.until >= segment.windows().end + age(segment.period);
        ladder.iter().rev().map(|&period| at(period)).find(old).unwrap_or_else(|| at(ladder[0]))
    }
}
