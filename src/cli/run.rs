//! `floodmark run`: runs a live job in this process, or this process' part of one.
//!
//! In: a job file and options. Out: the live line on stderr while the job runs, and a closing sentence. State: see [`floodmark::live`].
//! Failure and restart: the first signal stops the job in order; nothing is lost on any other end, since the next start continues from the
//! archive.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use floodmark::cluster::{ClusterArgs, Member};
use floodmark::dataflow::commit::Request;
use floodmark::dataflow::{Progress, Standing};
use floodmark::http::Listen;
use floodmark::job::Job;
use floodmark::live::{self, Live, LiveError};
use floodmark::model::{Lane, rfc3339};
use floodmark::monitor;
use floodmark::process::{Clock, Exit};
use floodmark::source::kafka::Kafka;
use floodmark::table::Root;
use floodmark::terminal::{LiveLine, StopSignals, duration, grouped, say};
use tokio::sync::watch;

use super::failure::Failure;

/// Options of `floodmark run`.
#[derive(Args)]
#[command(
    after_help = "On SIGTERM or SIGINT the job commits what was read, publishes all lanes and exits with 0, within \
    settings.shutdown_grace_seconds; a second signal ends it immediately. Killing the process at any moment loses \
    nothing and counts nothing twice: start it again. With several processes, a signal to one stops all of them in \
    order, and the loss of one ends all of them with 75: start them again."
)]
pub(crate) struct RunArgs {
    /// The job file
    job: PathBuf,
    /// Worker threads per process; default: one per core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Read every partition up to its current end, publish all lanes, and exit with 0
    #[arg(long)]
    drain: bool,
    /// Start even if the topic's offsets do not match the archive's, because records were deleted before they were
    /// archived, or the topic was re-created. When the job refuses to start, it names the range in doubt
    #[arg(long)]
    accept_gap: bool,
    /// Serve HTTP at this address: /metrics (Prometheus), /healthz (the process is alive), /readyz (the job publishes).
    /// A port alone means 127.0.0.1; with 0.0.0.0:PORT, everyone who can reach the port can read it. Each process on a
    /// host needs its own port. Default: off
    #[arg(long, value_name = "[ADDRESS:]PORT", env = "FLOODMARK_HTTP")]
    http: Option<Listen>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let job = Job::load(&args.job)?;
    let workers = match args.workers {
        Some(workers) => usize::from(workers),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let membership = args.cluster.membership(&|name| std::env::var(name).ok()).map_err(LiveError::Cluster)?;
    let root = Root::make(&job.tables.url, &job.tables.options).map_err(LiveError::Table)?;
    let source = Arc::new(Kafka::new(&job, args.accept_gap));
    let progress = Arc::new(Progress::default());
    let (request, requested) = watch::channel(if args.drain { Request::Drain } else { Request::Run });
    let request = Arc::new(request);
    stop_on_signals(Arc::clone(&request), root.clone(), Duration::from_secs(job.settings.shutdown_grace_seconds))
        .map_err(|error| LiveError::Thread(error.to_string()))?;
    if let Some(listen) = args.http {
        let process = membership.as_ref().map_or(0, |membership| membership.index);
        let at = monitor::serve(listen, Arc::clone(&progress), Arc::clone(&source) as _, process, &job.settings)?;
        tracing::info!(%at, "serving HTTP: /metrics, /healthz, /readyz");
    }
    let member = match membership {
        Some(membership) => {
            progress.stands(Standing::Gathering);
            let stops = || *requested.borrow() == Request::Stop;
            let stop = Arc::clone(&request);
            let on_stop = Box::new(move || {
                stop.send_replace(Request::Stop);
            });
            let member = Member::join(membership, &job, None, workers, &stops, on_stop).map_err(LiveError::Cluster)?;
            progress.stands(Standing::Starting);
            Some(member)
        }
        None => None,
    };
    // Only the process that commits knows the epochs.
    let commits = member.as_ref().is_none_or(|member| member.index() == 0);
    let ended = Arc::new(AtomicBool::new(false));
    let line = show(Arc::clone(&progress), commits, Arc::clone(&ended));

    let started = Instant::now();
    let live = Live { job, root, workers, clock: Clock::System, source, progress: Arc::clone(&progress) };
    let result = match member {
        Some(member) => live::run_as(member, live, requested),
        None => live::run(live, requested),
    };
    ended.store(true, Ordering::Relaxed);
    line.join().ok();
    result?;

    let outcomes = progress.outcomes();
    let stand = match progress.epochs() {
        (epoch, _) if commits => format!("raw and all lanes are at epoch {epoch}"),
        _ => "all processes have stopped in order".to_owned(),
    };
    say::line(&format!(
        "floodmark: archived {} records in {}: {} counted, {} filtered, {} rejected; {stand}",
        grouped(outcomes.total()),
        duration(started.elapsed().as_secs_f64()),
        grouped(outcomes.counted),
        grouped(outcomes.filtered),
        grouped(outcomes.rejected()),
    ));
    Ok(())
}

/// The first signal requests an orderly stop, with a deadline; the second ends the process immediately.
fn stop_on_signals(request: Arc<watch::Sender<Request>>, root: Root, grace: Duration) -> std::io::Result<()> {
    let stop = Arc::clone(&request);
    let first = move || {
        tracing::info!(grace_seconds = grace.as_secs(), "stopping: commit, publish all lanes, then exit");
        stop.send_replace(Request::Stop);
        std::thread::spawn(move || {
            std::thread::sleep(grace);
            let store = root.last_complaint().map(|said| format!(" (the store: {said})")).unwrap_or_default();
            say::error(&format!(
                "not everything could be published within shutdown_grace_seconds = {}{store}; nothing is lost, the \
                 next start continues from the archive",
                grace.as_secs()
            ));
            std::process::exit(Exit::TryAgain.code().into());
        });
    };
    let second = || {
        say::error("stopped immediately; nothing is lost, the next start continues from the archive");
        std::process::exit(130);
    };
    let deaf = move || {
        request.send_replace(Request::Stop);
    };
    StopSignals::catch()?.on(first, second, deaf)
}

/// Shows a live line until the job has ended.
fn show(progress: Arc<Progress>, commits: bool, ended: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut line = LiveLine::new("run", None);
        while !ended.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(100));
            line.tick(progress.read.load(Ordering::Relaxed), || {
                let (epoch, published) = progress.epochs();
                let outcomes = progress.outcomes();
                let until = progress.lanes().map_or(0, |lanes| lanes[Lane::Minute as usize].complete_until_ms);
                let until = if until > 0 { rfc3339(until * 1000) } else { "—".to_owned() };
                let fed = progress.fed.load(Ordering::Relaxed);
                let fed = if fed > 0 { format!(" · fed {}", grouped(fed)) } else { String::new() };
                let rejected = format!("rejected {}{fed}", grouped(outcomes.rejected()));
                match commits {
                    true => format!("epoch {epoch}, published {published} · complete until {until} · {rejected}"),
                    false => rejected,
                }
            });
        }
        line.clear();
    })
}
