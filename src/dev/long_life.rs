//! `floodmark dev long-life`: a day of a live job in fast motion.
//!
//! In: a job file and a number of publishes. Out: the tables that the job leaves after this number of publishes of its minute lane, an
//! epoch apart on a clock that is advanced by hand; nothing sleeps. The job itself runs, with its sealing, its upkeep and its orderly
//! stop; only its topic is made here. Time: the clock stands still while the job publishes. State: the records of an epoch. Failure: the
//! command ends if nothing happens for ten minutes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use futures::TryStreamExt;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::requests::{Made, Requests};
use super::stages::{Used, process_cpu_ns, thread_cpu_ns, used};
use super::stream::Stream;
use super::traffic::{Generated, Traffic, TrafficOptions};
use crate::dataflow::Progress;
use crate::dataflow::commit::Request;
use crate::job::Job;
use crate::live::{Live, LiveError, run as run_live};
use crate::model::{Granularity, Zone};
use crate::process::{Clock, ManualClock};
use crate::table::{Log, Root};
use crate::terminal::{LiveLine, Output, duration, grouped};
use crate::upkeep::Upkeep;

/// The long help.
pub(super) const HELP: &str = "\
Run a job through a simulated day, as fast as it can, to show the tables after thousands of publishes,
and what they cost

The job runs as usual, but its records come from a generator, and its clock advances by
epoch_seconds whenever everything that is due has been published. The clock starts at tomorrow's
midnight, or at --from, because upkeep compares it with the times of files that are written today. At
the end the clock advances by dead_files_keep_hours, and one more round of upkeep shows what remains.
The tables must not exist yet, except with --from: then it may continue those of `floodmark dev
preload`. With --output json it reports CPU time by stage and requests to the store, both without the
start, the end and the generator.";

/// If something takes longer than this, it hangs.
const PATIENCE: Duration = Duration::from_secs(600);

const PARTITIONS: i32 = 4;

/// Options of `floodmark dev long-life`.
#[derive(Args, Clone, Debug)]
pub struct LongLifeArgs {
    /// The job file
    #[arg(value_name = "JOB")]
    pub job: PathBuf,

    /// Number of publishes of the minute lane; 8640 make a day
    #[arg(long, value_name = "N", default_value_t = 8640)]
    pub publishes: u64,

    /// Events between two publishes
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub events: u64,

    /// Number of customers
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub customers: u32,

    /// Share of late records, 0 to 1; they are delayed by a minute to four hours
    #[arg(long, value_name = "SHARE", default_value_t = 0.03)]
    pub late_share: f64,

    /// Delays of web traffic: 90 % seconds, 8 % up to an hour, 1.8 % up to a day, 0.2 % up to 30 days
    #[arg(long, conflicts_with = "late_share")]
    pub web_delays: bool,

    /// When the day begins, in milliseconds since 1970, in the future [default: the start of tomorrow]
    #[arg(long, value_name = "MS")]
    pub from: Option<i64>,

    /// Worker threads
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub workers: usize,

    /// How the result is written to stdout
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Runs the day.
///
/// # Errors
/// Those of a job; and when nothing happens for ten minutes.
pub(super) fn run(args: &LongLifeArgs) -> anyhow::Result<()> {
    let job = Job::load(&args.job)?;
    let requests = Requests::default();
    let root = Root::make(&job.tables.url, &job.tables.options)?;
    let counted = root.clone().around(|store| requests.of(store));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let log = Log::new(&root, "counts");
    if runtime.block_on(log.load())?.is_some() && args.from.is_none() {
        bail!("{} already has tables: choose another tables.url, or continue them with --from", root.url());
    }
    let mut traffic = Traffic::new(TrafficOptions {
        customers: args.customers,
        partitions: PARTITIONS,
        range: None,
        late_share: args.late_share,
        web_delays: args.web_delays,
        ..TrafficOptions::default()
    })?;
    let settings = job.settings.clone();
    let epoch_ms = settings.epoch_seconds as i64 * 1000;
    let today = Granularity::Day.window_start(Clock::System.now(), Zone::Utc);
    let mut now_ms = args.from.unwrap_or(Granularity::Day.window_end(today, Zone::Utc) / 1000);
    let clock = ManualClock::at(now_ms * 1000);
    let topic = Stream::new(&job.source.topics[0], PARTITIONS as usize);
    let progress = Arc::new(Progress::default());
    let (request, requested) = watch::channel(Request::Run);
    let live = Live {
        job,
        root: counted,
        workers: args.workers,
        clock: Clock::Manual(clock.clone()),
        source: Arc::new(topic.clone()),
        progress: Arc::clone(&progress),
    };
    let committer = std::thread::Builder::new().name("committer".to_owned());
    let job = Running { thread: committer.spawn(move || run_live(live, requested))?, progress: Arc::clone(&progress) };
    // Before the first epoch, this is the epoch at which the tables are.
    job.reaches(|| progress.lanes().is_some())?;
    let first = progress.epoch.load(Ordering::Relaxed);

    let mut line = LiveLine::new("long-life", Some(args.publishes * args.events));
    let mut sent = 0;
    let mut begun = None;
    for publish in 1..=args.publishes {
        let records = (0..args.events).map(|event| {
            let mut record = Generated::default();
            traffic.fill_at(now_ms + event as i64 * epoch_ms / args.events as i64, &mut record);
            record
        });
        topic.push(records.collect::<Vec<_>>());
        sent += args.events;
        job.reaches(|| progress.read.load(Ordering::Relaxed) >= sent)?;
        now_ms += epoch_ms;
        clock.set(now_ms * 1000);
        job.reaches(|| progress.published_minute.load(Ordering::Relaxed) >= first + publish)?;
        // Else a merge that takes a second would take an hour of this clock, and slow lanes were published too rarely.
        job.reaches(|| progress.publishing.load(Ordering::Relaxed) == 0)?;
        // The first publish also pays for the start.
        if begun.is_none() {
            begun = Some(Cost::so_far(&requests, runtime.block_on(bytes_live(&log))?));
        }
        line.tick(sent, || format!("publish {publish}"));
    }
    job.rests()?;
    let live_bytes = runtime.block_on(bytes_live(&log))?;
    let cost =
        begun.map(|begun| Cost::so_far(&requests, live_bytes).report_since(&begun, (args.publishes - 1) * args.events));
    request.send_replace(Request::Stop);
    job.reaches(|| job.thread.is_finished()).ok();
    line.clear();
    job.thread.join().expect("it tells its panics")?;

    let seconds = line.elapsed().as_secs_f64();
    let opening = Instant::now();
    let state = runtime.block_on(log.load())?.context("the table counts no longer exists")?;
    let open_seconds = opening.elapsed().as_secs_f64();
    let stored = runtime.block_on(bytes_of(&root))?;
    clock.set((now_ms + settings.dead_files_keep_hours as i64 * 3_600_000) * 1000);
    let upkeep = Upkeep { root: root.clone(), settings, clock: Clock::Manual(clock) };
    runtime.block_on(upkeep.round());
    let stored_clean = runtime.block_on(bytes_of(&root))?;
    let mut out = std::io::stdout();
    match args.output {
        Output::Json => {
            let result = json!({
                "publishes": args.publishes, "records": sent, "seconds": seconds, "version": state.version,
                "files": state.files.len(), "open_seconds": open_seconds, "bytes_on_disk": stored, "bytes_when_clean": stored_clean,
                "first_epoch": first + 2, "last_epoch": first + args.publishes, "cost": cost,
            });
            writeln!(out, "{result}")
        }
        Output::Text => writeln!(
            out,
            "{} publishes of {} records in {}; counts has {} versions and {} live files, and opens in {open_seconds:.3} s",
            grouped(args.publishes),
            grouped(sent),
            duration(seconds),
            grouped(state.version),
            grouped(state.files.len() as u64),
        ),
    }
    .context("can not write to stdout")
}

/// The size of all files in the folder of the table `counts`.
async fn bytes_of(root: &Root) -> anyhow::Result<u64> {
    let (store, _) = root.table("counts");
    Ok(store.list(None).try_fold(0, async |sum, meta| Ok(sum + meta.size)).await?)
}

async fn bytes_live(log: &Log) -> anyhow::Result<u64> {
    let state = log.load().await?.context("the table is gone")?;
    Ok(state.files.values().map(|file| file.size).sum())
}

/// What the process has used: CPU, by stage, and requests.
struct Cost {
    process_ns: u64,
    /// The thread of the generator.
    generator_ns: u64,
    stages: BTreeMap<String, Used>,
    requests: BTreeMap<String, Made>,
    /// Of `counts`.
    live_bytes: u64,
}

impl Cost {
    fn so_far(requests: &Requests, live_bytes: u64) -> Cost {
        Cost {
            process_ns: process_cpu_ns(),
            generator_ns: thread_cpu_ns(),
            stages: used(),
            requests: requests.made(),
            live_bytes,
        }
    }

    fn report_since(&self, before: &Cost, records: u64) -> Value {
        let seconds = |ns: u64| ns as f64 / 1e9;
        let stages: serde_json::Map<String, Value> = (self.stages.iter())
            .map(|(name, used)| {
                let then = before.stages.get(name).copied().unwrap_or_default();
                let cpu = seconds(used.cpu_ns - then.cpu_ns);
                (name.clone(), json!({ "cpu_seconds": cpu, "entries": used.entries - then.entries }))
            })
            .collect();
        let requests: serde_json::Map<String, Value> = (self.requests.iter())
            .map(|(name, made)| {
                let then = before.requests.get(name).copied().unwrap_or_default();
                let (requests, bytes) = (made.requests - then.requests, made.bytes - then.bytes);
                (name.clone(), json!({ "requests": requests, "bytes": bytes }))
            })
            .collect();
        let generator = self.generator_ns - before.generator_ns;
        json!({
            "records": records, "cpu_seconds": seconds(self.process_ns - before.process_ns - generator),
            "generator_cpu_seconds": seconds(generator), "stages": stages, "requests": requests,
            "live_bytes_before": before.live_bytes, "live_bytes_after": self.live_bytes,
        })
    }
}

/// A running job.
struct Running {
    thread: JoinHandle<Result<(), LiveError>>,
    progress: Arc<Progress>,
}

impl Running {
    fn reaches(&self, done: impl Fn() -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            if self.thread.is_finished() {
                bail!("the job ended too early; see the log above");
            }
            if Instant::now() > deadline {
                bail!("the job has made no progress for {} s; see the log above", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// Waits until what runs in the background, such as upkeep, has ended too: until the process takes hardly any CPU.
    fn rests(&self) -> anyhow::Result<()> {
        let window = Duration::from_millis(300);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = process_cpu_ns();
            std::thread::sleep(window);
            let busy = process_cpu_ns() - before > window.as_nanos() as u64 / 50;
            if (!busy && self.progress.publishing.load(Ordering::Relaxed) == 0) || Instant::now() > deadline {
                return Ok(());
            }
        }
    }
}
