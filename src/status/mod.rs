//! `floodmark status JOB|URL`: how a job is doing, from its tables alone; no running job is asked.
//!
//! In: the newest versions of `counts` and `raw`; some footers of `raw`; where the brokers answer, the ends of partitions. Out:
//! [`Status`], as a screen of text or one JSON object. Nothing is written. State: the lists of live files, and one row group's
//! columns of a few files. Failure: if brokers are away, a note says so; if tables are missing, that is an error.

mod balance;
mod brokers;
mod column;
mod facts;
mod pending;
#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use md5::{Digest, Md5};

use crate::job::Job;
use crate::ledger::Fingerprint;
use crate::model::{Lane, rfc3339_ms};
use crate::process::{Clock, Exit, HasExit};
use crate::table::{CommitSummary, Log, Root, State, TableError, counts, raw};
use crate::terminal::{LiveLine, Location, LocationError, Output, OutputError};

pub use balance::Balance;
pub use facts::{
    LaneFacts, LastCommit, Logic, LogicFacts, Partition, ReplayFacts, ReplayState, Segments, Status, Table,
};

use facts::Times;

/// Options of `floodmark status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// The job file, or where the tables are: a folder, or a URL with keys from the environment (AWS_ACCESS_KEY_ID …)
    #[arg(value_name = "JOB|URL")]
    pub place: String,

    /// How the result is written to stdout
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,

    /// Compute the balance over all of raw, not only over the newest day
    #[arg(long)]
    pub all: bool,
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// What the command line names.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// There are no tables.
    #[error(
        "{url} holds no table {table}: give the job file, or the folder that holds the tables raw and counts; a job \
         that has never run has no tables yet (floodmark run JOB)"
    )]
    NoTable {
        /// Where it should be.
        url: String,
        /// Its name.
        table: &'static str,
    },
    /// The tables.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The system could not start a thread.
    #[error("the system could not start a thread: {0}; raise the process limit")]
    Thread(#[source] std::io::Error),
    /// The result can not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A bug of ours.
    #[error("{0}; this is a bug: please report it")]
    Bug(String),
}

impl HasExit for StatusError {
    fn exit(&self) -> Exit {
        match self {
            StatusError::Location(error) => error.exit(),
            StatusError::NoTable { .. } => Exit::Configuration,
            StatusError::Table(error) => error.exit(),
            StatusError::Thread(_) | StatusError::Output(_) | StatusError::Bug(_) => Exit::Failed,
        }
    }
}

/// What to read, and how.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Compute the balance over all of `raw`.
    pub all: bool,
    /// Whether to show progress on stderr.
    pub progress: bool,
    /// The time.
    pub now_ms: i64,
}

/// Runs the command to its end: the result goes to stdout.
///
/// # Errors
/// [`StatusError`] when there is no status.
pub fn run(args: &StatusArgs) -> Result<(), StatusError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("storage")
        .enable_all()
        .build()
        .map_err(StatusError::Thread)?;
    let options = Options { all: args.all, progress: true, now_ms: Clock::System.now_ms() };
    let status = runtime.block_on(async {
        let Location { job, root, .. } = Location::open(&args.place).await?;
        status(job.as_ref(), &root, options).await
    });
    // If there is no status, the brokers that were asked are not waited for.
    runtime.shutdown_background();
    let status = status?;
    Ok(args.output.print(|| &status, || status.text())?)
}

/// Looks at the newest versions of both tables.
///
/// # Errors
/// [`StatusError`] when they are not there or can not be read.
pub async fn status(job: Option<&Job>, root: &Root, options: Options) -> Result<Status, StatusError> {
    // The brokers are asked first and in parallel, so that it costs no extra time if they are away.
    let asked = job.map(|job| {
        let source = job.source.clone();
        tokio::task::spawn_blocking(move || brokers::ends(&source))
    });
    // `counts` first: `raw` is never behind it.
    let (counts_log, counts_state) = newest(root, "counts").await?;
    let (raw_log, raw_state) = newest(root, "raw").await?;
    let counts_commit = last_commit(&counts_log, &counts_state).await?;
    let raw_commit = last_commit(&raw_log, &raw_state).await?;
    let raw_epoch = raw_state.txn(raw::EPOCH);
    let buckets = counts::buckets(&counts_state)?;

    let files = balance::files(&raw_state, options.all);
    let total = files.iter().map(|file| file.rows).sum();
    let mut progress = options.progress.then(|| LiveLine::new("status", Some(total)));
    let mut done = 0;
    let mut tick = |rows, doing: &str| {
        done += rows;
        if let Some(progress) = &mut progress {
            progress.tick(done, || doing.to_owned());
        }
    };
    let lanes = Lane::ALL.map(|lane| counts_state.txn(&counts::lane_txn(lane)));
    let pending = pending::pending(&raw_log, &raw_state, lanes, |_| tick(0, "reading pending rows")).await?;
    let balance = balance::balance(&raw_log, &raw_state, files, |rows| tick(rows, "reading outcomes")).await?;
    if let Some(progress) = progress {
        progress.clear();
    }

    let mut notes = Vec::new();
    let ends = match asked {
        Some(asked) => asked.await.unwrap_or_else(|panic| Err(panic.to_string())),
        None => Ok(BTreeMap::new()),
    };
    let ends = ends.unwrap_or_else(|why| {
        notes.push(format!("the ends of the partitions are not known: {why}"));
        BTreeMap::new()
    });
    let at_rest = match job.filter(|_| !ends.is_empty()) {
        Some(job) => {
            let (source, mut archived) = (job.source.clone(), facts::archived(&raw_state));
            archived.retain(|key, next| ends.get(key).is_some_and(|end| *next < *end));
            tokio::task::spawn_blocking(move || brokers::at_rest(&source, archived)).await.unwrap_or_default()
        }
        None => BTreeSet::new(),
    };
    let times = Times { now_ms: options.now_ms, committed_ms: counts_commit.time_ms.unwrap_or(options.now_ms) };
    let mut status = Status {
        tables_url: root.url().to_string(),
        now: rfc3339_ms(options.now_ms).unwrap_or_default(),
        job: job.map(|job| job.name.clone()),
        logic: job.map(logic).transpose()?,
        raw: Table::of(&raw_state, &raw_commit),
        raw_epoch,
        counts: Table::of(&counts_state, &counts_commit),
        buckets,
        segments: facts::segments(&counts_state),
        lanes: facts::lanes(raw_epoch, &counts_state, &counts_commit, pending, times),
        partitions: facts::partitions(&raw_state, &ends, &at_rest),
        logics: facts::logics(&counts_state, job.map(|job| Fingerprint::of(&job.logic))),
        replays: facts::replays(&counts_state),
        balance,
        notes: Vec::new(),
    };
    notes.extend(doubts(&status, job));
    status.notes = notes;
    Ok(status)
}

async fn newest(root: &Root, table: &'static str) -> Result<(Log, State), StatusError> {
    let log = Log::new(root, table);
    let Some(state) = log.load().await? else {
        return Err(StatusError::NoTable { url: root.url().to_string(), table });
    };
    Ok((log, state))
}

/// What the newest commit says of itself.
async fn last_commit(log: &Log, state: &State) -> Result<CommitSummary, StatusError> {
    match log.summary(state.version).await {
        // Another program may have removed it, if it is covered by a checkpoint. It is only reported, so it may be missing.
        Ok(None) | Err(TableError::Corrupt { .. }) => Ok(CommitSummary::default()),
        Ok(Some(commit)) => Ok(commit),
        Err(error) => Err(error.into()),
    }
}

/// The job's logic, by fingerprint and md5.
fn logic(job: &Job) -> Result<Logic, StatusError> {
    let text = serde_json::to_vec(&job.logic).map_err(|error| StatusError::Bug(error.to_string()))?;
    Ok(Logic { fingerprint: Fingerprint::of(&job.logic), md5: format!("{:x}", Md5::digest(text)) })
}

/// Notes on facts that do not fit together.
fn doubts(status: &Status, job: Option<&Job>) -> Vec<String> {
    let mut notes = Vec::new();
    for lane in status.lanes.iter().filter(|lane| lane.epoch > status.raw_epoch) {
        notes.push(format!(
            "lane {} is at epoch {}, but raw ends at epoch {}: these two tables do not belong together",
            lane.lane, lane.epoch, status.raw_epoch
        ));
    }
    if !status.balance.is_balanced {
        notes.push("the rows of raw do not add up to the number in its log; run floodmark verify JOB".to_owned());
    }
    let (ours, theirs) = (status.raw.writer_generation, status.counts.writer_generation);
    if ours != theirs {
        notes.push(format!(
            "raw belongs to writer generation {ours}, counts to {theirs}: a job is starting, or its start ended \
             between the two"
        ));
    }
    if let Some(job) = job.filter(|job| job.tables.buckets != status.buckets) {
        notes.push(format!(
            "tables.buckets = {}, but the table was created with {}",
            job.tables.buckets, status.buckets
        ));
    }
    if let (Some(job), Some(newest)) = (job, status.logics.last().filter(|newest| newest.is_job == Some(false))) {
        let LogicFacts { from_epoch, fingerprint, .. } = newest;
        notes.push(format!(
            "the job file counts with logic {}, but the live job has counted with {fingerprint} since epoch \
             {from_epoch}: once the job is started with this file, it counts with the file's logic; earlier rows keep \
             theirs until a replay covers them",
            Fingerprint::of(&job.logic)
        ));
    }
    for partition in &status.partitions {
        if let Partition { topic, partition, archived_offset: Some(archived), end_offset: Some(end), .. } = partition
            && archived > end
        {
            notes.push(format!(
                "{topic}/{partition} ends at {end}, but is archived up to {archived}: was the topic re-created?"
            ));
        }
    }
    notes
}
