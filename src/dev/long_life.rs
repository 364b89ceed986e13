//! `floodmark dev long-life`: a day of a live job in fast motion.
//!
//! In: a job file and a number of publishes. Out: the tables that the job leaves after this number of publishes of its minute lane, ten
//! seconds apart on a clock that is advanced by hand; nothing sleeps. The job itself runs, with its sealing, its upkeep and its orderly
//! stop; only its topic is scripted. State: all records of the run. Failure: the command ends if nothing happens for two minutes.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use futures::TryStreamExt;
use serde_json::json;
use tokio::sync::watch;

use super::traffic::{Generated, Traffic, TrafficOptions};
use crate::dataflow::Progress;
use crate::dataflow::commit::Request;
use crate::job::Job;
use crate::live::{Live, LiveError, run as run_live};
use crate::model::{Granularity, Zone};
use crate::process::{Clock, ManualClock};
use crate::source::script::{Script, ScriptRecord};
use crate::table::{Log, Root};
use crate::terminal::{LiveLine, Output, duration, grouped};
use crate::upkeep::Upkeep;

/// The long help.
pub(super) const HELP: &str = "\
Run a job through a simulated day, as fast as it can, to show the tables after thousands of publishes

The job runs as usual, but its records come from a generator, and its clock advances by
epoch_seconds whenever the minute lane has published. The clock starts at tomorrow's midnight, because
upkeep compares it with the times of files that are written today. At the end the clock advances by
dead_files_keep_hours, and one more round of upkeep shows what remains. The tables must not exist yet.";

/// If something takes longer than this, it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

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
/// Those of a job; and when nothing happens for two minutes.
pub(super) fn run(args: &LongLifeArgs) -> anyhow::Result<()> {
    let job = Job::load(&args.job)?;
    let root = Root::make(&job.tables.url, &job.tables.options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let log = Log::new(&root, "counts");
    if runtime.block_on(log.load())?.is_some() {
        bail!("{} already has tables: choose another tables.url", root.url());
    }
    let mut traffic = Traffic::new(TrafficOptions {
        customers: args.customers,
        partitions: PARTITIONS,
        range: None,
        late_share: args.late_share,
        ..TrafficOptions::default()
    })?;
    let settings = job.settings.clone();
    let epoch_ms = settings.epoch_seconds as i64 * 1000;
    let today = Granularity::Day.window_start(Clock::System.now(), Zone::Utc);
    let mut now_ms = Granularity::Day.window_end(today, Zone::Utc) / 1000;
    let clock = ManualClock::at(now_ms * 1000);
    let script = Script::new(PARTITIONS as usize);
    let progress = Arc::new(Progress::default());
    let (request, requested) = watch::channel(Request::Run);
    let live = Live {
        job,
        root: root.clone(),
        workers: args.workers,
        clock: Clock::Manual(clock.clone()),
        source: Arc::new(script.clone()),
        progress: Arc::clone(&progress),
    };
    let job = Running { thread: std::thread::spawn(move || run_live(live, requested)) };

    let mut line = LiveLine::new("long-life", Some(args.publishes * args.events));
    let mut record = Generated::default();
    let mut sent = 0;
    for publish in 1..=args.publishes {
        for event in 0..args.events {
            traffic.fill_at(now_ms + event as i64 * epoch_ms / args.events as i64, &mut record);
            let timestamp_ms = Some(record.timestamp_ms);
            script.push(record.partition as usize, ScriptRecord { timestamp_ms, value: record.value.clone() });
        }
        sent += args.events;
        job.reaches(|| progress.read.load(Ordering::Relaxed) >= sent)?;
        now_ms += epoch_ms;
        clock.set(now_ms * 1000);
        job.reaches(|| progress.published_minute.load(Ordering::Relaxed) >= publish)?;
        line.tick(sent, || format!("publish {publish}"));
    }
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

/// A running job.
struct Running {
    thread: JoinHandle<Result<(), LiveError>>,
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
}
