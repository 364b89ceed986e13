//! `replay run`: submits a replay, runs it, and publishes it if that was asked for.
//!
//! In: a range and an id. Out: the summary on stdout; progress on stderr. The same id is the same replay: one that was stopped continues,
//! and one that is complete only prints its summary. With several processes, process 0 submits, prints and publishes; the others count and
//! compare with it. State: see [`crate::replay::run`]. Failure: when one process ends, all end with its exit code.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::arguments::ReplayRunArgs;
use super::publish;
use super::text::{self, print};
use crate::cluster::{ClusterError, Member, fingerprint};
use crate::job::Job;
use crate::ledger::{Fingerprint, Orders};
use crate::process::Clock;
use crate::process::{Exit, HasExit};
use crate::replay::compare::summary::Summary;
use crate::replay::error::ReplayError;
use crate::replay::publish::admission::Direction;
use crate::replay::publish::publisher::Published;
use crate::replay::request::prepare::{ReplayRequest, prepare};
use crate::replay::request::submission::Submission;
use crate::replay::run::{self, ReplayProgress, Replayer};
use crate::table::{Log, Root};
use crate::terminal::{LiveLine, duration, grouped, say};

pub(super) async fn run(args: &ReplayRunArgs) -> Result<Exit, ReplayError> {
    let job = Job::load(&args.range.job)?;
    // Where the id is missing, the leader makes one up.
    let request = args.range.request(args.id.clone().unwrap_or_default(), u64::from(args.chunk_mib) << 20)?;
    let membership = args.cluster.membership(&|name| std::env::var(name).ok())?;
    let root = Root::open(&job.tables.url, &job.tables.options)?;
    let workers = args.range.workers();
    let member = match membership {
        Some(membership) => {
            let asked = fingerprint(&format!("{request:?} {}", args.publish));
            // A signal ends a replay immediately.
            let member = Member::join(membership, &job, Some(asked), workers, &|| false, Box::new(|| ()))?;
            // A replay that is already complete could end before all members know that the others are there, so process 0 waits for them
            // first.
            member.ready()?;
            Some(member)
        }
        None => None,
    };
    let memory_bytes = (args.memory_mib as usize) << 20;
    let replayer = Replayer { job, root, workers, memory_bytes, progress: Arc::default(), member };
    let Some(member) = &replayer.member else { return lead(args, request, &replayer).await };
    let result = match member.index() {
        0 => lead(args, request, &replayer).await,
        _ => follow(&replayer, member).await,
    };
    match &result {
        Ok(_) => member.end(Exit::Done, ""),
        Err(error) => member.end(error.exit(), &error.to_string()),
    }
    // All processes end as the first one ended.
    match (result, member.ended().await) {
        (Ok(_), end) if end.exit != Exit::Done => Err(ClusterError::Ended(end).into()),
        (result, _) => result,
    }
}

/// Runs the part of a process other than process 0.
async fn follow(replayer: &Replayer, member: &Member) -> Result<Exit, ReplayError> {
    shown(&replayer.progress, run::follow(replayer, member)).await?;
    say::line("floodmark: the replay is complete; process 0 prints the result");
    Ok(Exit::Done)
}

/// Runs the whole replay in a single process, or the part of process 0 of several.
async fn lead(args: &ReplayRunArgs, request: ReplayRequest, replayer: &Replayer) -> Result<Exit, ReplayError> {
    let started = Instant::now();
    let submission = replayer.unless_ended(submit(args, request, &replayer.job, &replayer.root)).await?;
    let summary = shown(&replayer.progress, run::run(replayer, &submission)).await?;
    let published = match args.publish {
        true => {
            Some(replayer.unless_ended(publish::publish(&replayer.root, &submission.id, Direction::Publish)).await?)
        }
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
        let mut text = text::summary(&submission, &summary, args.top);
        text += &format!("\nreplay {}: {} in {took}", submission.id, text::changes(summary.cells));
        if let Some(published) = &published {
            text += "\n";
            text += &publish::sentence(published, Direction::Publish);
        }
        text
    })?;
    Ok(if args.detailed_exitcode && summary.cells.total() > 0 { Exit::Differences } else { Exit::Done })
}

/// The replay with an id: the existing one, if it is the same; else a new one.
async fn submit(
    args: &ReplayRunArgs,
    mut request: ReplayRequest,
    job: &Job,
    root: &Root,
) -> Result<Submission, ReplayError> {
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
                    "the id {} belonged to a replay that was discarded: choose another id",
                    request.id
                )));
            }
            let submission = prepare(job, root, request.clone(), now_ms).await?.submission;
            // Checked before it is written, so that the id is still free when live counts with this logic.
            may_be_published(args, &submission)?;
            submission.submit(root).await?
        }
    };
    let logic = Fingerprint::of(&job.logic);
    if (&found.asked, &found.customers, found.logic) != (&request.asked, &request.customers, logic) {
        return Err(ReplayError::Refused(format!(
            "the id {} belongs to another replay ({}, logic {}): choose another id, or give the same range, customers and job file",
            found.id,
            text::range(&found),
            found.logic
        )));
    }
    may_be_published(args, &found)?;
    Ok(found)
}

fn may_be_published(args: &ReplayRunArgs, submission: &Submission) -> Result<(), ReplayError> {
    if !args.publish || submission.before.is_some() {
        return Ok(());
    }
    Err(ReplayError::Refused(format!(
        "replay {} could not be published: when it was submitted, live counted with another logic than this job file's ({}). Restart \
         the job with this file first, and choose another id if `floodmark replay list` shows this one; or omit --publish for a preview",
        submission.id, submission.logic
    )))
}

/// Shows the progress while `work` runs.
async fn shown<T>(progress: &Arc<ReplayProgress>, work: impl Future<Output = T>) -> T {
    let showing = tokio::spawn(show_progress(Arc::clone(progress)));
    let done = work.await;
    showing.abort();
    done
}

async fn show_progress(progress: Arc<ReplayProgress>) {
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
