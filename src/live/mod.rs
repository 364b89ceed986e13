//! A live job: check, fence, read, feed, run, end; in one process or in several.
//!
//! In: the job, its tables and source, a request to end. Out: commits, and how the job ended. Process 0 leads: it reads the
//! tables ([`start`]) and, once all processes are there, sends the others what their workers ([`workers`]) start from; its
//! committer commits for all. State: the tables are the only state, so a restart is the same as a start. Failure: the first
//! failure of a worker, a thread or another process ends the job; what was not committed is visible to nobody.

mod error;
mod start;
mod workers;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{oneshot, watch};

use crate::cluster::{ClusterError, Member, alone, execute_in};
use crate::dataflow::Progress;
use crate::dataflow::commit::{Committer, Request};
use crate::dataflow::error::CommitError;
use crate::dataflow::protocol::Answer;
use crate::process::panics::caught_in;
use crate::process::{Exit, HasExit};
use crate::table::{Root, TableError};
use crate::upkeep::Upkeep;
pub use error::LiveError;
pub use start::Live;
use start::{Lead, Start, check, lead};
use workers::{Ends, Workers, committer_ends};

/// How long the end waits for checkpoints that are being written. The code that writes them panics if it is ended in the middle.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(5);

/// How long the orderly end of several processes waits for all workers to end. Everything is published by then.
const WORKERS_PATIENCE: Duration = Duration::from_secs(5);

/// Runs a job until it is asked to end, in this process alone.
///
/// # Errors
/// [`LiveError`]; what was not committed is visible to nobody, and the next start resumes from the tables.
pub fn run(live: Live, request: watch::Receiver<Request>) -> Result<(), LiveError> {
    let (root, progress) = (live.root.clone(), Arc::clone(&live.progress));
    let run = |runtime: &Runtime| {
        runtime.block_on(check(&live))?;
        let (lead, start) = runtime.block_on(lead(&live, 1))?;
        run_alone(runtime, live, lead, start, request)
    };
    on_runtime(&root, &progress, run, |_| ())
}

/// Runs this process of a job with several processes until all are asked to end, or one of them is lost.
///
/// # Errors
/// [`LiveError`], as for [`run`]; [`LiveError::Cluster`] if another process has ended with an error.
pub fn run_as(member: Member, live: Live, request: watch::Receiver<Request>) -> Result<(), LiveError> {
    let (root, progress) = (live.root.clone(), Arc::clone(&live.progress));
    let run = |runtime: &Runtime| match member.index() {
        0 => run_leading(runtime, &member, live, request),
        _ => run_following(runtime, &member, live, request),
    };
    on_runtime(&root, &progress, run, |result| match result {
        Ok(()) => member.end(Exit::Done, ""),
        Err(error) => member.end(error.exit(), &error.to_string()),
    })
}

/// Runs the job on a new runtime. `ended` is called as soon as the job has ended, before checkpoints are waited for.
fn on_runtime(
    root: &Root,
    progress: &Progress,
    run: impl FnOnce(&Runtime) -> Result<(), LiveError>,
    ended: impl FnOnce(&Result<(), LiveError>),
) -> Result<(), LiveError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("storage")
        .enable_all()
        .build()
        .map_err(|error| LiveError::Thread(error.to_string()))?;
    // The committer runs on this thread.
    let result =
        caught_in("the committer", || run(&runtime)).unwrap_or_else(|panic| Err(TableError::Bug(panic).into()));
    if let Err(error) = &result {
        progress.fails(&error.to_string());
    }
    ended(&result);
    runtime.block_on(root.finish(CHECKPOINT_PATIENCE));
    // The uploads of a failed job are of no use.
    runtime.shutdown_background();
    result
}

fn run_alone(
    runtime: &Runtime,
    live: Live,
    lead: Lead,
    start: Start,
    request: watch::Receiver<Request>,
) -> Result<(), LiveError> {
    let _upkeep = upkeep(&live).start(runtime.handle(), request.clone());
    let (ends, waiting) = committer_ends();
    let (failures, failed) = unbounded_channel();
    let workers = Workers::new(runtime, &live, start, 0, Ends { committer: Some(ends), failures })?;
    let abort = Arc::clone(&workers.abort);
    let generation = workers.setup.generation;
    let joined = alone(live.workers)
        .and_then(|network| execute_in(network, move |worker| workers.run(worker)))
        .map_err(LiveError::Thread)?;
    let progress = Arc::clone(&live.progress);
    let result = match waiting.committer(lead, live, generation, 1, request) {
        Ok(committer) => runtime.block_on(unless_failed(committer, failed)),
        Err(error) => Err(error),
    };
    if let Err(error) = &result {
        // Reported at once, before the workers have ended.
        progress.fails(&error.to_string());
        abort.store(true, Ordering::Relaxed);
    }
    // A dropped sender also means that the workers have ended.
    runtime.block_on(joined).ok();
    Ok(result?)
}

/// Runs process 0, which reads the tables and commits for all processes.
fn run_leading(
    runtime: &Runtime,
    member: &Member,
    live: Live,
    request: watch::Receiver<Request>,
) -> Result<(), LiveError> {
    runtime.block_on(member.unless_ended(check(&live)))?;
    member.ready()?;
    let (lead, start) = runtime.block_on(member.unless_ended(lead(&live, member.processes())))?;
    member.hand_out(&start)?;
    let network = member.network()?;
    let _upkeep = upkeep(&live).start(runtime.handle(), request.clone());
    let (ends, waiting) = committer_ends();
    let (failures, failed) = unbounded_channel();
    let workers = Workers::new(runtime, &live, start, 0, Ends { committer: Some(ends), failures })?;
    let generation = workers.setup.generation;
    let joined = execute_in(network, move |worker| workers.run(worker)).map_err(LiveError::Thread)?;
    let committer = waiting.committer(lead, live, generation, member.processes(), request)?;
    let committed = async { unless_failed(committer, failed).await.map_err(LiveError::from) };
    runtime.block_on(member.unless_ended(committed))?;
    // Everything is published; all processes now end together.
    member.end(Exit::Done, "");
    runtime.block_on(until_joined(joined));
    Ok(())
}

/// Runs any other process, which has only workers.
fn run_following(
    runtime: &Runtime,
    member: &Member,
    live: Live,
    mut request: watch::Receiver<Request>,
) -> Result<(), LiveError> {
    runtime.block_on(member.unless_ended(check(&live)))?;
    member.ready()?;
    let start: Start = member.receive()?;
    let generation = start.generation;
    live.source.start_at(start.partitions.clone());
    let network = member.network()?;
    let (failures, mut failed) = unbounded_channel();
    let workers = Workers::new(runtime, &live, start, member.index(), Ends { committer: None, failures })?;
    let joined = execute_in(network, move |worker| workers.run(worker)).map_err(LiveError::Thread)?;
    tracing::info!(generation, process = member.index(), workers = live.workers, "workers started");
    let end = runtime.block_on(async {
        let mut asked = false;
        loop {
            tokio::select! {
                end = member.ended() => break Ok(end),
                error = first(&mut failed) => break Err(error),
                stop = request.wait_for(|request| *request == Request::Stop), if !asked => {
                    asked = true;
                    if stop.is_ok() {
                        member.ask_to_stop();
                    }
                }
            }
        }
    })?;
    match end.exit {
        Exit::Done => {
            runtime.block_on(until_joined(joined));
            Ok(())
        }
        _ => Err(ClusterError::Ended(end).into()),
    }
}

/// Runs the committer until it is done, or until a worker, thread or task of this process fails, even while a commit waits for a
/// store that is away.
async fn unless_failed(committer: Committer, mut failed: UnboundedReceiver<Answer>) -> Result<(), CommitError> {
    tokio::select! {
        biased;
        error = first(&mut failed) => Err(error),
        done = committer.run() => done,
    }
}

/// Waits for the first failure; for ever if there is none.
async fn first(failed: &mut UnboundedReceiver<Answer>) -> CommitError {
    while let Some(answer) = failed.recv().await {
        if let Answer::Failed { exit, what } = answer {
            return CommitError::Worker { exit, what };
        }
    }
    std::future::pending().await
}

/// Waits for the workers to end. Everything is published by then, so workers that do not end in time are left running.
async fn until_joined(joined: impl Future<Output = Result<(), oneshot::error::RecvError>>) {
    if tokio::time::timeout(WORKERS_PATIENCE, joined).await.is_err() {
        tracing::debug!("workers did not end in time; left running");
    }
}

fn upkeep(live: &Live) -> Upkeep {
    Upkeep { root: live.root.clone(), settings: live.job.settings.clone(), clock: live.clock.clone() }
}
