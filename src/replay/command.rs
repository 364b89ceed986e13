//! `floodmark replay …`: the commands. Results go to stdout, how far it is to stderr.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::dataset::Summary;
use super::list::{discard, list};
use super::plan::{CHUNK_BYTES, Request, prepare};
use super::publish::{Direction, Published, Publisher};
use super::recount::{self, Progress, Replay};
use super::show::{self, Filter, diff};
use super::submission::{Asked, Submission};
use super::{ReplayError, times};
use crate::cluster::{ClusterArgs, ClusterError, Member, fingerprint};
use crate::job::Job;
use crate::ledger::{Fingerprint, Orders};
use crate::model::{Granularity, TimeUs};
use crate::process::{Clock, Exit, HasExit};
use crate::table::{Log, Root};
use crate::terminal::{LiveLine, Location, Output, duration, grouped, say};

/// Recompute a range of the past from the archive, see the difference, publish it, take it back
#[derive(Subcommand, Clone, Debug)]
#[command(after_help = "A replay changes nothing before `publish`. Live runs on all the while.\n\
    Typical: mend the job file, restart live with it, then:\n  \
    floodmark replay run jobs/web-analytics.toml --from 2026-01-10 --to 2026-01-13 --id fix-42\n  \
    floodmark replay diff fix-42 --job jobs/web-analytics.toml\n  \
    floodmark replay publish fix-42 --job jobs/web-analytics.toml")]
pub enum ReplayCommand {
    /// Say what a replay would read and touch; writes nothing
    Plan(PlanArgs),
    /// Recount a range with the job's logic, and write what would change; goes on where a killed run of the same id ended
    Run(RunArgs),
    /// Show what a replay would change, or has changed
    Diff(DiffArgs),
    /// Make a replay's changes, in one atomic commit
    Publish(IdArgs),
    /// Take a published replay's changes back, in one atomic commit
    Undo(IdArgs),
    /// Which replays there are, and how far they are
    List(ListArgs),
    /// Delete a replay's files; not while it is published
    Discard(IdArgs),
}

/// The range of a replay.
#[derive(Args, Clone, Debug)]
pub struct RangeArgs {
    /// The job file: what it counts is what the range is recounted with
    #[arg(value_name = "JOB")]
    job: PathBuf,
    /// First event time, inclusive: a date or a time, UTC
    #[arg(long, value_name = "TIME", value_parser = times::parse, requires = "to", required_unless_present = "ingest_from")]
    from: Option<TimeUs>,
    /// Last event time, exclusive; may lie in the future
    #[arg(long, value_name = "TIME", value_parser = times::parse, requires = "from")]
    to: Option<TimeUs>,
    /// Instead: all windows that rows ingested from then on touch, under their old or new event times; for a job that finds the
    /// event time elsewhere than before
    #[arg(long, value_name = "TIME", value_parser = times::parse, requires = "ingest_to", conflicts_with_all = ["from", "to"])]
    ingest_from: Option<TimeUs>,
    /// End of that, exclusive
    #[arg(long, value_name = "TIME", value_parser = times::parse, requires = "ingest_from", conflicts_with_all = ["from", "to"])]
    ingest_to: Option<TimeUs>,
    /// Only this customer; more than once for more, or @FILE with one a line. Numbers of rows are of all customers even then: a
    /// rejected row has none
    #[arg(long, value_name = "ID|@FILE")]
    customers: Vec<String>,
    /// Worker threads, of each process; default: one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// How the result is written to stdout
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Options of `replay plan`.
#[derive(Args, Clone, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    range: RangeArgs,
}

/// Options of `replay run`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed or refused, 2 usage, 3 with --detailed-exitcode where cells differ, published or \
    not, 75 try again, 78 configuration. The same id again is the same replay: a retried submission goes on, or says what was found.\n\
    Of several processes, process 0 prints what was found, and all others end with 0 then; the loss of one ends all with 75: start \
    them again, as many as you like."
)]
pub struct RunArgs {
    #[command(flatten)]
    range: RangeArgs,
    /// The replay's id: letters, digits, `-`, `_`, `.`; default: made from the time
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    id: Option<String>,
    /// Publish at once what was found
    #[arg(long)]
    publish: bool,
    /// Exit with 3 where cells differ, also when `--publish` has published them: 0 is for nothing to do
    #[arg(long)]
    detailed_exitcode: bool,
    /// So many of the largest changes, at most ten of each granularity: `replay diff` shows more
    #[arg(long, value_name = "N", default_value_t = TOP)]
    top: usize,
    /// Memory of each process for what was counted; beyond it sorted runs go to the store
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    memory_mib: u32,
    /// Size of the files of `raw` after which what was counted is kept, so that a killed replay goes on from there
    #[arg(long, value_name = "N", default_value_t = (CHUNK_BYTES >> 20) as u32, value_parser = clap::value_parser!(u32).range(1..))]
    chunk_mib: u32,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Where a replay is.
#[derive(Args, Clone, Debug)]
pub struct At {
    /// A job file, or where its tables are: a folder or a URL with keys from the environment (AWS_ACCESS_KEY_ID …)
    #[arg(long, value_name = "JOB|URL", env = "FLOODMARK_JOB")]
    job: String,
    /// How the result is written to stdout
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Options of commands about one replay.
#[derive(Args, Clone, Debug)]
pub struct IdArgs {
    /// The replay's id
    #[arg(value_parser = parse_id)]
    id: String,
    #[command(flatten)]
    at: At,
}

/// Options of `replay list`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    at: At,
}

/// Options of `replay diff`.
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    /// The replay's id
    #[arg(value_parser = parse_id)]
    id: String,
    #[command(flatten)]
    at: At,
    /// Only cells of this granularity
    #[arg(long, value_name = "NAME")]
    granularity: Option<Granularity>,
    /// Only cells of this dimension
    #[arg(long, value_name = "NAME")]
    dimension: Option<String>,
    /// Only cells of this customer
    #[arg(long, value_name = "ID")]
    customer: Option<String>,
    /// Only windows that begin then or later
    #[arg(long, value_name = "TIME", value_parser = times::parse)]
    from: Option<TimeUs>,
    /// Only windows that begin before
    #[arg(long, value_name = "TIME", value_parser = times::parse)]
    to: Option<TimeUs>,
    /// So many of the largest changes
    #[arg(long, value_name = "N", default_value_t = TOP)]
    top: usize,
}

/// Lines of the largest changes.
const TOP: usize = 10;

/// An id is part of paths and of transaction names.
fn parse_id(text: &str) -> Result<String, String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(known) || text.starts_with('.') {
        return Err("expected 1 to 64 letters, digits, `-`, `_` and `.`, not beginning with `.`".to_owned());
    }
    Ok(text.to_owned())
}

/// Runs a command to its end; returns how.
///
/// # Errors
/// [`ReplayError`].
pub fn run(command: &ReplayCommand) -> Result<Exit, ReplayError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("storage")
        .enable_all()
        .build()
        .map_err(|error| ReplayError::Thread(error.to_string()))?;
    let result = runtime.block_on(async {
        match command {
            ReplayCommand::Plan(args) => plan(args).await,
            ReplayCommand::Run(args) => replay(args).await,
            ReplayCommand::Diff(args) => show_diff(args).await,
            ReplayCommand::Publish(args) => {
                let place = Location::open(&args.at.job).await?;
                let published = publish(&place.root, &args.id, Direction::Publish).await?;
                print(args.at.output, &published, || sentence(&published, Direction::Publish))
            }
            ReplayCommand::Undo(args) => {
                let place = Location::open(&args.at.job).await?;
                let published = publish(&place.root, &args.id, Direction::Undo).await?;
                print(args.at.output, &published, || sentence(&published, Direction::Undo))
            }
            ReplayCommand::List(args) => {
                let place = Location::open(&args.at.job).await?;
                let replays = list(&place.root).await?;
                print(args.at.output, &replays, || show::list(&replays))
            }
            ReplayCommand::Discard(args) => {
                let place = Location::open(&args.at.job).await?;
                let files = discard(&place.root, &args.id).await?;
                let id = &args.id;
                print(args.at.output, &json!({"id": id, "files": files}), || {
                    format!("replay {id} is discarded: {} files deleted", grouped(files))
                })
            }
        }
    });
    // Workers of a replay that has failed may still use it: they end with the process.
    std::mem::forget(runtime);
    result
}

fn print(output: Output, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<Exit, ReplayError> {
    let text = match output {
        Output::Json => serde_json::to_string(value).map_err(|error| ReplayError::Bug(error.to_string()))?,
        Output::Text => text(),
    };
    writeln!(std::io::stdout(), "{}", text.trim_end()).map_err(ReplayError::Output)?;
    Ok(Exit::Done)
}

impl RangeArgs {
    fn request(&self, id: String, chunk_bytes: u64) -> Result<Request, ReplayError> {
        let mut customers = Vec::new();
        for given in &self.customers {
            match given.strip_prefix('@') {
                Some(path) => {
                    let text = std::fs::read_to_string(path)
                        .map_err(|error| ReplayError::Usage(format!("--customers @{path}: {error}; check the path")))?;
                    customers.extend(text.lines().filter(|line| !line.is_empty()).map(str::to_owned));
                }
                None => customers.push(given.clone()),
            }
        }
        customers.sort_unstable();
        customers.dedup();
        if customers.is_empty() && !self.customers.is_empty() {
            return Err(ReplayError::Usage("--customers names no customer: expected one a line".to_owned()));
        }
        let asked = match (self.from.zip(self.to), self.ingest_from.zip(self.ingest_to)) {
            (Some((from, to)), _) => Asked::EventTimes(from..to),
            (None, Some((from, to))) => Asked::IngestTimes(from..to),
            (None, None) => {
                return Err(ReplayError::Usage(
                    "no range: expected --from and --to, or --ingest-from and --ingest-to".to_owned(),
                ));
            }
        };
        Ok(Request { id, asked, customers: (!customers.is_empty()).then_some(customers), chunk_bytes })
    }

    fn workers(&self) -> usize {
        match self.workers {
            Some(workers) => usize::from(workers),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

async fn plan(args: &PlanArgs) -> Result<Exit, ReplayError> {
    let job = Job::load(&args.range.job)?;
    let root = Root::open(&job.tables.url, &job.tables.options)?;
    let request = args.range.request("plan".to_owned(), CHUNK_BYTES)?;
    let prepared = prepare(&job, &root, request, Clock::System.now_ms()).await?;
    let plan = prepared.plan(args.range.workers())?;
    print(args.range.output, &plan, || show::plan(&plan))
}

async fn replay(args: &RunArgs) -> Result<Exit, ReplayError> {
    let job = Job::load(&args.range.job)?;
    // Who leads makes up an id that is missing.
    let request = args.range.request(args.id.clone().unwrap_or_default(), u64::from(args.chunk_mib) << 20)?;
    let membership = args.cluster.membership(&|name| std::env::var(name).ok())?;
    let root = Root::open(&job.tables.url, &job.tables.options)?;
    let workers = args.range.workers();
    let member = match membership {
        Some(membership) => {
            let asked = fingerprint(&format!("{request:?} {}", args.publish));
            // A signal ends a replay at once.
            let member = Member::join(membership, &job, Some(asked), workers, &|| false, Box::new(|| ()))?;
            // What is complete already ends before all know that all are there, unless process 0 waits for that.
            member.ready()?;
            Some(member)
        }
        None => None,
    };
    let memory_bytes = (args.memory_mib as usize) << 20;
    let replay = Replay { job, root, workers, memory_bytes, progress: Arc::default(), member };
    let Some(member) = &replay.member else { return lead(args, request, &replay).await };
    let result = match member.index() {
        0 => lead(args, request, &replay).await,
        _ => follow(&replay, member).await,
    };
    match &result {
        Ok(_) => member.end(Exit::Done, ""),
        Err(error) => member.end(error.exit(), &error.to_string()),
    }
    // The first end is everybody's.
    match (result, member.ended().await) {
        (Ok(_), end) if end.exit != Exit::Done => Err(ClusterError::Ended(end).into()),
        (result, _) => result,
    }
}

/// A process that is not the first.
async fn follow(replay: &Replay, member: &Member) -> Result<Exit, ReplayError> {
    shown(&replay.progress, recount::follow(replay, member)).await?;
    say::line("floodmark: the replay is complete; process 0 says what was found");
    Ok(Exit::Done)
}

/// All of it in a process without others; of several, what is done once, in process 0.
async fn lead(args: &RunArgs, request: Request, replay: &Replay) -> Result<Exit, ReplayError> {
    let started = Instant::now();
    let submission = replay.unless_ended(submit(args, request, &replay.job, &replay.root)).await?;
    let summary = shown(&replay.progress, recount::run(replay, &submission)).await?;
    let published = match args.publish {
        true => Some(replay.unless_ended(publish(&replay.root, &submission.id, Direction::Publish)).await?),
        false => None,
    };
    #[derive(Serialize)]
    struct Result<'a> {
        submission: &'a Submission,
        summary: &'a Summary,
        published: &'a Option<Published>,
    }
    let value = Result { submission: &submission, summary: &summary, published: &published };
    print(args.range.output, &value, || {
        let took = duration(started.elapsed().as_secs_f64());
        let mut text = show::summary(&submission, &summary, args.top);
        text += &format!("\nreplay {}: {} in {took}", submission.id, show::changes(summary.cells));
        if let Some(published) = &published {
            text += "\n";
            text += &sentence(published, Direction::Publish);
        }
        text
    })?;
    Ok(if args.detailed_exitcode && summary.cells.total() > 0 { Exit::Differences } else { Exit::Done })
}

/// The replay of an id: the one that is there, if it is the same; else a new one.
async fn submit(args: &RunArgs, mut request: Request, job: &Job, root: &Root) -> Result<Submission, ReplayError> {
    let now_ms = Clock::System.now_ms();
    if request.id.is_empty() {
        let time = chrono::DateTime::from_timestamp_millis(now_ms).unwrap_or_default();
        request.id = format!("{}-{:04x}", time.format("%Y%m%dT%H%M%SZ"), rand::random::<u16>());
    }
    let found = match Submission::load(root, &request.id).await? {
        Some(found) => found,
        None => {
            let counts = Log::new(root, "counts").load().await?.unwrap_or_default();
            if Orders::of(&counts).by_id.contains_key(&request.id) {
                return Err(ReplayError::Refused(format!(
                    "the id {} was that of a replay that was discarded: choose another one",
                    request.id
                )));
            }
            let submission = prepare(job, root, request.clone(), now_ms).await?.submission;
            // Before it is written: the same id can be published once live counts with this logic.
            may_be_published(args, &submission)?;
            submission.submit(root).await?
        }
    };
    let logic = Fingerprint::of(&job.logic);
    if (&found.asked, &found.customers, found.logic) != (&request.asked, &request.customers, logic) {
        return Err(ReplayError::Refused(format!(
            "the id {} is that of another replay ({}, logic {}): choose another id, or give the same range, customers and job file",
            found.id,
            show::range(&found),
            found.logic
        )));
    }
    may_be_published(args, &found)?;
    Ok(found)
}

fn may_be_published(args: &RunArgs, submission: &Submission) -> Result<(), ReplayError> {
    if !args.publish || submission.before.is_some() {
        return Ok(());
    }
    Err(ReplayError::Refused(format!(
        "replay {} could not be published: live counted with another logic than this job file's ({}) when it was submitted. Restart \
         live with this job file first, and choose another id if this one is listed; or leave --publish out for a preview",
        submission.id, submission.logic
    )))
}

/// Shows how far it is while it works.
async fn shown<T>(progress: &Arc<Progress>, work: impl Future<Output = T>) -> T {
    let showing = tokio::spawn(show_progress(Arc::clone(progress)));
    let done = work.await;
    showing.abort();
    done
}

async fn show_progress(progress: Arc<Progress>) {
    let mut line: Option<LiveLine> = None;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let total = progress.rows.load(Ordering::Relaxed);
        if total == 0 {
            continue;
        }
        let read = progress.read.load(Ordering::Relaxed);
        let compared = progress.compared.load(Ordering::Relaxed);
        line.get_or_insert_with(|| LiveLine::new("replay", Some(total))).tick(read, || match compared {
            0 => "counting".to_owned(),
            compared => format!("{} cells compared", grouped(compared)),
        });
    }
}

async fn publish(root: &Root, id: &str, direction: Direction) -> Result<Published, ReplayError> {
    let publisher = Publisher {
        root: root.clone(),
        id: id.to_owned(),
        direction,
        clock: Clock::System,
        budget_bytes: PUBLISH_BYTES,
    };
    let mut line: Option<LiveLine> = None;
    let published = publisher
        .run(|progress| {
            let line = line.get_or_insert_with(|| LiveLine::new("publish", Some(progress.cells_total)));
            line.tick(progress.cells, || format!("{} files", grouped(progress.files)));
        })
        .await?;
    if let Some(line) = line {
        line.clear();
    }
    Ok(published)
}

/// Bytes of updates in memory.
const PUBLISH_BYTES: u64 = 256 << 20;

fn sentence(published: &Published, direction: Direction) -> String {
    let Published { id, version, order, cells, files, already } = published;
    let done = match direction {
        Direction::Publish => "published",
        Direction::Undo => "undone",
    };
    if *already {
        return format!("replay {id} is {done} already (order {order}); nothing was changed");
    }
    let (cells, files) = (grouped(*cells), grouped(*files));
    format!("replay {id} is {done}: {cells} cells, {files} files, counts version {version}, order {order}")
}

async fn show_diff(args: &DiffArgs) -> Result<Exit, ReplayError> {
    let place = Location::open(&args.at.job).await?;
    let filter = Filter {
        granularity: args.granularity,
        dimension: args.dimension.clone(),
        customer: args.customer.clone(),
        windows: args.from.unwrap_or(TimeUs::MIN)..args.to.unwrap_or(TimeUs::MAX),
        top: args.top,
    };
    let found = diff(&place.root, &args.id, &filter).await?;
    print(args.at.output, &found, || found.text())
}
