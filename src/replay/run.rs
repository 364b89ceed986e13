//! Runs a replay from its submission to its summary: counts, then compares.
//!
//! ```text
//! process 0:  Assignment ═══► all: count ──► all is on the store ──► names of runs ═══► all: compare own buckets ──► Findings ─► Summary
//!                       handed out                           handed out                                    sent to 0
//! ```
//!
//! In: a [`Submission`]. Out: its dataset and [`Summary`], to be published by `publish/publisher.rs`. Both tables are read at the
//! versions of the submission, so a replay that was killed goes on with the chunks that are not done, with any number of workers and
//! processes, and finds the same. Two runs of the same replay at once find the same too: the summary is written once, and the second
//! takes it from the first.
//!
//! State: what is on the store, in the folder `replays/<id>`. What a run counts is in files with its *attempt* in their names, a random
//! name that tells runs apart. A process without others keeps the last chunk in memory; for the rest see [`super::count`] and
//! [`super::compare`]. When the replay is complete, [`tidy`] deletes what is no longer needed. Failure: the tables were not touched;
//! run it again. If the replay was discarded meanwhile, what was written is deleted and the run is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cluster::{ClusterError, End, Member, alone};
use crate::dataflow::route::Scope;
use crate::job::Job;
use crate::process::Exit;
use crate::replay::compare::buckets::{Comparison, OwnBuckets, compare};
use crate::replay::compare::findings::{Compared, Findings};
use crate::replay::compare::row_files::RowFiles;
use crate::replay::compare::summary::{OutcomeChange, Summary};
use crate::replay::count::arrivals::encode_rows;
use crate::replay::count::chunks::{chunks, shared_out};
use crate::replay::count::manifest::{Manifest, Rest, done_and_todo};
use crate::replay::count::runs::{RunSet, StoredRun};
use crate::replay::count::workers::{Assignment, Counting};
use crate::replay::discard::{discard, tidy};
use crate::replay::error::{PublishError, ReplayError};
use crate::replay::request::coverage::partly;
use crate::replay::request::logics::LogicsOnRecord;
use crate::replay::request::shape::RangeShape;
use crate::replay::request::submission::Submission;
use crate::replay::request::versions::{Versions, raw_files};
use crate::table::fetch::fetch;
use crate::table::layout::Layout;
use crate::table::{Root, counts};

/// What is needed to run a replay.
pub struct Replayer {
    /// The job.
    pub job: Job,
    /// Where the job's tables are.
    pub root: Root,
    /// The number of worker threads.
    pub workers: usize,
    /// Bytes of counted cells that may be in memory.
    pub memory_bytes: usize,
    /// The numbers of the live line.
    pub progress: Arc<ReplayProgress>,
    /// This process as a member of several; `None` if it runs alone.
    pub member: Option<Member>,
}

impl Replayer {
    fn own_buckets(&self) -> OwnBuckets {
        let (process, processes) = self.member.as_ref().map_or((0, 1), |it| (it.index(), it.processes()));
        OwnBuckets { process, processes }
    }

    /// Does the work, or ends when the processes of the replay end.
    ///
    /// # Errors
    /// Those of the work; [`ReplayError::Cluster`].
    pub async fn unless_ended<T>(&self, work: impl Future<Output = Result<T, ReplayError>>) -> Result<T, ReplayError> {
        match &self.member {
            Some(member) => member.unless_ended(work).await,
            None => work.await,
        }
    }
}

/// The progress of one process of a replay.
#[derive(Debug, Default)]
pub struct ReplayProgress {
    /// Rows that it has to read, at most.
    pub rows: AtomicU64,
    /// Rows read.
    pub read: Arc<AtomicU64>,
    /// Cells compared.
    pub compared: Arc<AtomicU64>,
}

/// Runs a replay to its end, or what is left of it; in this process alone, or as process 0 of several. A summary that is there already
/// ends it at once.
///
/// # Errors
/// [`ReplayError`]; what is on the store stays, and the next run goes on from there. Any error but a cluster's is overruled by a summary
/// which another run has written meanwhile. [`ReplayError::Refused`] if the replay was discarded.
pub async fn run(replayer: &Replayer, submission: &Submission) -> Result<Summary, ReplayError> {
    let root = &replayer.root;
    let id = &submission.id;
    let summary = match Summary::load(root, id).await? {
        Some(summary) => Ok(summary),
        None => match replayer.unless_ended(recount(replayer, submission)).await {
            Ok(summary) => summary.store(root, id).await.map_err(Into::into),
            Err(error @ ReplayError::Cluster(_)) => Err(error),
            // Another run of the replay may have completed first, and deleted files that this run still needed.
            Err(error) => Summary::load(root, id).await.ok().flatten().ok_or(error),
        },
    };
    if matches!(Submission::load(root, id).await, Ok(None)) {
        return Err(discarded(root, id).await);
    }
    let summary = summary?;
    tidy(root, id, &summary).await;
    Ok(summary)
}

/// The error for a replay that was discarded while it ran; what was written since then is deleted.
async fn discarded(root: &Root, id: &str) -> ReplayError {
    let left = match discard(root, id).await {
        Ok(_) | Err(PublishError::Unknown(_)) => "all of its files are deleted".to_owned(),
        Err(error) => {
            format!("not all of its files are deleted ({error}), so run `floodmark replay discard {id}` again")
        }
    };
    ReplayError::Refused(format!(
        "replay {id} was discarded while it ran: {left}; submit it again if it is still wanted"
    ))
}

/// Runs the part of a process that is not the first, until all end. `Ok` when process 0 ended with 0.
///
/// # Errors
/// [`ReplayError`], as [`run`]; [`ReplayError::Cluster`] when another process has failed.
pub async fn follow(replayer: &Replayer, member: &Member) -> Result<(), ReplayError> {
    let work = async {
        let assignment: Assignment = member.receive()?;
        let (id, chunks) = (&assignment.submission.id, assignment.todo.len());
        tracing::info!(id, process = member.index(), chunks, "replay begins");
        let recount = Recount::of(replayer, &assignment.submission).await?;
        recount.count(&assignment).await?;
        member.tell(&())?;
        let runs: Vec<StoredRun> = member.receive()?;
        let runs = recount.fetched(&runs).await?;
        member.tell(&recount.compare(runs).await?)?;
        Err(ReplayError::Cluster(ClusterError::Ended(member.ended().await)))
    };
    match member.unless_ended(work).await {
        Err(ReplayError::Cluster(ClusterError::Ended(End { exit: Exit::Done, .. }))) => Ok(()),
        ended => ended,
    }
}

/// Counts and compares; writes the dataset, but not the summary.
async fn recount(replayer: &Replayer, submission: &Submission) -> Result<Summary, ReplayError> {
    let Replayer { root, member, .. } = replayer;
    let recount = Recount::of(replayer, submission).await?;
    let all = chunks(raw_files(&recount.versions.raw.1, submission)?, submission.chunk_bytes);
    let (done, todo) = done_and_todo(root, submission, all.clone()).await?;
    tracing::info!(id = submission.id, chunks = todo.len(), done = done.len(), "replay begins");

    let attempt = format!("{:016x}", rand::random::<u64>());
    let assignment = Assignment { submission: submission.clone(), attempt, todo };
    if let Some(member) = member {
        member.hand_out(&assignment)?;
    }
    let mut rest = recount.count(&assignment).await?;
    if let Some(member) = member {
        // By now all that the other processes have counted is on the store.
        member.told::<()>()?;
    }
    let (manifests, missing) = done_and_todo(root, submission, all).await?;
    // The last chunk is in `rest`, and all others are on the store, unless they were deleted.
    let last = assignment.todo.last().map(|(chunk, _)| *chunk).filter(|_| member.is_none());
    if missing.iter().any(|(chunk, _)| Some(*chunk) != last) {
        return Err(ReplayError::Refused(format!(
            "files of replay {} were deleted while it ran: it was discarded, or another run of it has completed; check its state \
             (floodmark replay list), or submit it again",
            submission.id
        )));
    }
    let mut counted = Manifest::default();
    manifests.into_iter().for_each(|manifest| counted.merge(manifest));
    rest.iter_mut().for_each(|rest| counted.merge(std::mem::take(&mut rest.manifest)));
    if let Some(member) = member {
        member.hand_out(&counted.runs)?;
    }
    let mut runs = recount.fetched(&counted.runs).await?;
    let mut rows = RowFiles { root, id: &submission.id, attempt: &assignment.attempt, paths: Vec::new() };
    for path in &counted.rows {
        rows.copy(path).await?;
    }
    for rest in rest {
        rest.memory.into_iter().for_each(|run| runs.push(run));
        if !rest.rows.is_empty() {
            rows.write(encode_rows(&rest.rows)?).await?;
        }
    }
    let mut found = recount.compare(runs).await?;
    if let Some(member) = member {
        member.told()?.into_iter().for_each(|theirs| found.merge(theirs));
    }
    Ok(recount.summary(&counted, found.finish(), rows.paths))
}

/// What a process needs to count and to compare, read once. What is read of the tables is the same in every process.
struct Recount<'a> {
    replayer: &'a Replayer,
    submission: &'a Submission,
    versions: Versions,
    shape: RangeShape,
    scope: Arc<Scope>,
}

impl<'a> Recount<'a> {
    async fn of(replayer: &'a Replayer, submission: &'a Submission) -> Result<Recount<'a>, ReplayError> {
        let versions = Versions::of(&replayer.root, submission).await?;
        let on_record = LogicsOnRecord::read(&replayer.root, &versions.counts.1).await?;
        let shape = on_record.present(submission)?.shape(&replayer.job.logic);
        Ok(Recount { replayer, submission, versions, shape, scope: Arc::new(submission.scope()) })
    }

    /// Counts the chunks; returns what was not put on the store.
    async fn count(&self, assignment: &Assignment) -> Result<Vec<Rest>, ReplayError> {
        let Replayer { job, root, workers, memory_bytes, progress, member } = self.replayer;
        if assignment.todo.is_empty() {
            return Ok(Vec::new());
        }
        let OwnBuckets { process, processes } = self.replayer.own_buckets();
        let ours = shared_out(&assignment.todo, |number| number % processes == process);
        progress.rows.store(ours.iter().flat_map(|(_, files)| files).map(|file| file.rows).sum(), Ordering::Relaxed);
        let network = match member {
            Some(member) => member.network()?,
            None => alone(*workers).map_err(ReplayError::Thread)?,
        };
        let counting = Counting {
            job: Arc::new(job.clone()),
            root: root.clone(),
            assignment: assignment.clone(),
            raw: self.versions.raw.0.clone(),
            buckets: counts::buckets(&self.versions.counts.1)?,
            scope: Arc::clone(&self.scope),
            processes,
            budget_bytes: memory_bytes / workers,
            read: Arc::clone(&progress.read),
            keeps_last: member.is_none(),
        };
        counting.run(network).await
    }

    /// Fetches the runs on the store that hold something of this process' buckets.
    async fn fetched(&self, stored: &[StoredRun]) -> Result<RunSet, ReplayError> {
        let own = self.replayer.own_buckets();
        let mut runs = RunSet::default();
        for run in stored.iter().filter(|run| run.groups.iter().any(|(_, bucket)| own.has(*bucket))) {
            let fetched = fetch(self.replayer.root.store().as_ref(), &run.path).await;
            let fetched = fetched.map_err(|error| error.of_table(format!("reading {}", run.path)))?;
            runs.push_file(run.groups.clone(), fetched)?;
        }
        Ok(runs)
    }

    /// Compares this process' buckets.
    async fn compare(&self, runs: RunSet) -> Result<Findings, ReplayError> {
        tracing::debug!(id = self.submission.id, "compares");
        let Replayer { job, root, workers, progress, .. } = self.replayer;
        let (counts, state) = &self.versions.counts;
        let comparison = Comparison {
            root: root.clone(),
            id: self.submission.id.clone(),
            counts: counts.clone(),
            buckets: counts::buckets(state)?,
            own: self.replayer.own_buckets(),
            live: Layout::new(state.files.values(), |_| true)?,
            logic: job.logic.clone(),
            shape: self.shape.clone(),
            scope: Arc::clone(&self.scope),
            runs,
            progress: Arc::clone(&progress.compared),
        };
        Ok(compare(Arc::new(comparison), *workers).await?)
    }

    fn summary(&self, counted: &Manifest, compared: Compared, rows: Vec<String>) -> Summary {
        let outcome = |(on_arrival, now, rows): (&str, &str, u64)| OutcomeChange {
            on_arrival: on_arrival.to_owned(),
            now: now.to_owned(),
            rows,
        };
        Summary {
            cells: compared.changes,
            groups: compared.groups,
            largest: compared.largest,
            rows_in_range: counted.tallies.rows(),
            rows_counted: counted.tallies.rows_counted(),
            outcomes: counted.tallies.changed().map(outcome).collect(),
            partly: partly(&self.submission.coverage, &self.shape),
            spilled: counted.spilled,
            parts: compared.parts,
            rows,
        }
    }
}
