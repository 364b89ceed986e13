//! Runs a replay: the dataflow of live with the archive as its source, then the comparison.
//!
//! In: a [`Submission`]. Out: its dataset and [`Summary`]. Both tables are read at the versions of the submission, so a replay that
//! was killed goes on with the chunks that are not on the store yet, with any number of workers, and finds the same. Two runs of the
//! same replay at once find the same too: the summary is written once, and who comes second takes the first one's. Several processes
//! ([`run`] in process 0, [`follow`] in the others) count together, put all of it on the store, and each compares its buckets. State:
//! see [`super::gather`] and [`super::compare`]. Failure: nothing of the tables was touched; run it again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use timely::worker::Worker;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::admission::PublishError;
use super::arrivals::{Tallies, arrivals};
use super::compare::{Compare, Found, Share, compare};
use super::dataset::{Outcomes, Summary};
use super::gather::{Gather, Manifest, Rest, encode_rows, gather};
use super::list::discard;
use super::plan::{Counting, Tables, chunks, partly, raw_files, scope};
use super::runs::{RunFile, RunSet};
use super::shape::Shape;
use super::source::{Chunk, Gathered, source};
use super::submission::{Asked, Submission};
use super::{ReplayError, source as archive};
use crate::cluster::{ClusterError, End, Member, alone, execute_in};
use crate::dataflow::route::{Router, Scope};
use crate::dataflow::{combine, decode, drop_dataflows, pending, roll_up, run_until};
use crate::decode::Decoder;
use crate::job::Job;
use crate::process::panics::caught_in;
use crate::process::{Exit, lock};
use crate::table::fetch::fetch;
use crate::table::layout::Layout;
use crate::table::store::{load_json, look_at_file, try_read, write_file};
use crate::table::{File, Log, Root, TableError, counts};

/// What a replay needs.
pub struct Replay {
    /// The job.
    pub job: Job,
    /// Where its tables are.
    pub root: Root,
    /// Worker threads.
    pub workers: usize,
    /// Bytes of what was counted that may be in memory.
    pub memory_bytes: usize,
    /// The live line's numbers.
    pub progress: Arc<Progress>,
    /// This process among several.
    pub member: Option<Member>,
}

impl Replay {
    fn share(&self) -> Share {
        let (process, processes) = self.member.as_ref().map_or((0, 1), |it| (it.index(), it.processes()));
        Share { process, processes }
    }

    /// Works until that is done, or all processes end.
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

/// How far a process of a replay is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Rows that it is to read, at most.
    pub rows: AtomicU64,
    /// Rows read.
    pub read: Arc<AtomicU64>,
    /// Cells compared.
    pub compared: Arc<AtomicU64>,
}

/// What all processes count: read by process 0.
#[derive(Serialize, Deserialize)]
struct Start {
    submission: Submission,
    /// Tells this run's files from those of another run of the same replay.
    attempt: String,
    /// Chunks that are to be counted.
    todo: Vec<(Chunk, Vec<File>)>,
}

/// Runs a replay to its end, or what is left of it; in this process alone, or as process 0 of several.
///
/// # Errors
/// [`ReplayError`]; what is on the store stays, and the next run goes on from there.
pub async fn run(replay: &Replay, submission: &Submission) -> Result<Summary, ReplayError> {
    let Replay { root, .. } = replay;
    let id = &submission.id;
    let summary = match Summary::load(root, id).await? {
        Some(summary) => Ok(summary),
        None => match replay.unless_ended(recount(replay, submission)).await {
            Ok(summary) => summary.store(root, id).await.map_err(Into::into),
            Err(error @ ReplayError::Cluster(_)) => Err(error),
            // Another run of it may have been faster: what this one still needed is deleted then.
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

/// What was written since it was discarded is deleted too.
async fn discarded(root: &Root, id: &str) -> ReplayError {
    let left = match discard(root, id).await {
        Ok(_) | Err(PublishError::Unknown(_)) => "nothing of it is left".to_owned(),
        Err(error) => format!("run `floodmark replay discard {id}` again, which deletes what is left of it ({error})"),
    };
    ReplayError::Refused(format!(
        "replay {id} was discarded while it ran: {left}; submit it again if it is still wanted"
    ))
}

/// Runs the part of a process that is not the first, until all end.
///
/// # Errors
/// [`ReplayError`], as [`run`]; [`ReplayError::Cluster`] for what another process ended with.
pub async fn follow(replay: &Replay, member: &Member) -> Result<(), ReplayError> {
    let work = async {
        let start: Start = member.receive()?;
        tracing::info!(id = start.submission.id, process = member.index(), chunks = start.todo.len(), "replay begins");
        let part = Part::of(replay, &start.submission).await?;
        part.count(&start).await?;
        member.tell(&())?;
        let runs: Vec<RunFile> = member.receive()?;
        let runs = part.fetched(&runs).await?;
        member.tell(&part.compare(runs).await?)?;
        Err(ReplayError::Cluster(ClusterError::Ended(member.ended().await)))
    };
    match member.unless_ended(work).await {
        Err(ReplayError::Cluster(ClusterError::Ended(End { exit: Exit::Done, .. }))) => Ok(()),
        ended => ended,
    }
}

/// Counts and compares; the dataset is written, but for its summary.
async fn recount(replay: &Replay, submission: &Submission) -> Result<Summary, ReplayError> {
    let Replay { root, member, .. } = replay;
    let part = Part::of(replay, submission).await?;
    let all = chunks(raw_files(&part.tables.raw.1, submission)?, submission.chunk_bytes);
    let (manifests, todo) = left(root, submission, all.clone()).await?;
    tracing::info!(id = submission.id, chunks = todo.len(), done = manifests.len(), "replay begins");

    let attempt = format!("{:016x}", rand::random::<u64>());
    let start = Start { submission: submission.clone(), attempt, todo };
    if let Some(member) = member {
        member.hand_out(&start)?;
    }
    let rest = part.count(&start).await?;
    if let Some(member) = member {
        // All that they have counted is on the store.
        member.told::<()>()?;
    }
    let (manifests, missing) = left(root, submission, all).await?;
    // The last chunk is in `rest`, all others are on the store; unless somebody deleted them.
    let last = start.todo.last().map(|(chunk, _)| *chunk).filter(|_| member.is_none());
    if missing.iter().any(|(chunk, _)| Some(*chunk) != last) {
        return Err(ReplayError::Refused(format!(
            "files of replay {} were deleted while it ran: it was discarded, or another run of it has ended; look at it \
             (floodmark replay list), or submit it again",
            submission.id
        )));
    }
    let mut tallies = Tallies::default();
    let mut spilled = 0;
    let mut files = Vec::new();
    let mut rows = RowFiles { root, id: &submission.id, attempt: &start.attempt, paths: Vec::new() };
    let manifests: Vec<_> = manifests.iter().chain(rest.iter().map(|rest| &rest.manifest)).collect();
    for manifest in &manifests {
        tallies.merge(&manifest.tallies);
        spilled += manifest.spilled;
        files.extend(manifest.runs.iter().cloned());
    }
    if let Some(member) = member {
        member.hand_out(&files)?;
    }
    let mut runs = part.fetched(&files).await?;
    for path in manifests.iter().flat_map(|manifest| &manifest.rows) {
        rows.copy(path).await?;
    }
    for rest in rest {
        rest.memory.into_iter().for_each(|run| runs.push(run));
        if !rest.rows.is_empty() {
            rows.write(encode_rows(&rest.rows)?).await?;
        }
    }

    let mut found = part.compare(runs).await?;
    if let Some(member) = member {
        member.told()?.into_iter().for_each(|theirs| found.merge(theirs));
    }
    let compared = found.finish();
    let outcomes = tallies.0.iter().flat_map(|(on_arrival, by_now)| {
        by_now.iter().map(move |(now, rows)| (on_arrival.clone(), now.clone(), *rows))
    });
    let counted = tallies.0.values().filter_map(|by_now| by_now.get("counted")).sum();
    let is_other = |a: &str, b: &str| a.split(':').next() != b.split(':').next();
    Ok(Summary {
        cells: compared.changes,
        groups: compared.groups,
        largest: compared.largest,
        rows_in_range: tallies.0.values().flat_map(BTreeMap::values).sum(),
        rows_counted: counted,
        outcomes: outcomes
            .filter(|(on_arrival, now, _)| is_other(on_arrival, now))
            .map(|(on_arrival, now, rows)| Outcomes { on_arrival, now, rows })
            .collect(),
        partly: partly(&submission.coverage, &part.shape),
        spilled,
        parts: compared.parts,
        rows: rows.paths,
    })
}

/// Rows whose outcome is another one, as files of the dataset. How they are spread over files depends on the workers, so each run
/// has names of its own.
struct RowFiles<'a> {
    root: &'a Root,
    id: &'a str,
    attempt: &'a str,
    paths: Vec<String>,
}

impl RowFiles<'_> {
    async fn copy(&mut self, path: &str) -> Result<(), TableError> {
        let bytes = look_at_file(self.root.store().as_ref(), &Path::from(path))
            .await
            .map_err(|error| TableError::storage(format!("reading {path}"), error))?;
        self.write(bytes).await
    }

    async fn write(&mut self, bytes: bytes::Bytes) -> Result<(), TableError> {
        let name = format!("rows/{}-{:05}.parquet", self.attempt, self.paths.len());
        let path = Submission::path(self.id, &name);
        write_file(self.root.store().as_ref(), &path, bytes).await?;
        self.paths.push(path);
        Ok(())
    }
}

/// Chunks that are on the store, and those that are to be counted. A chunk is done when all workers of one run say so.
async fn left(
    root: &Root,
    submission: &Submission,
    all: Vec<(Chunk, Vec<File>)>,
) -> Result<(Vec<Manifest>, Vec<(Chunk, Vec<File>)>), ReplayError> {
    let folder = Path::from(Submission::path(&submission.id, "chunks"));
    let listed: Vec<_> = try_read(|| root.store().list(Some(&folder)).try_collect())
        .await
        .map_err(|error| TableError::storage(format!("listing {folder}"), error))?;
    // Chunk and run → paths of its manifests; how many there must be.
    let mut said: BTreeMap<(Chunk, String, usize), Vec<Path>> = BTreeMap::new();
    for object in listed {
        let location = object.location;
        let parsed = || {
            let mut parts = location.as_ref().rsplit('/');
            let (attempt, rest) = parts.next()?.strip_suffix(".json")?.split_once('-')?;
            let (_, workers) = rest.split_once("-of-")?;
            Some((parts.next()?.parse().ok()?, attempt.to_owned(), workers.parse().ok()?))
        };
        if let Some(key) = parsed() {
            said.entry(key).or_default().push(location);
        }
    }
    let (mut manifests, mut todo) = (Vec::new(), Vec::new());
    for (chunk, files) in all {
        let whole = said.iter().find(|((of, _, workers), paths)| *of == chunk && paths.len() == *workers);
        let mut found = Vec::new();
        for path in whole.iter().flat_map(|(_, paths)| *paths) {
            found.extend(load_json::<Manifest>(root, path.as_ref()).await?);
        }
        // One may have been deleted since it was listed.
        match whole {
            Some((_, paths)) if paths.len() == found.len() => manifests.append(&mut found),
            _ => todo.push((chunk, files)),
        }
    }
    Ok((manifests, todo))
}

/// Removes what only a killed replay needs, and rows that other runs of it wrote. What is left over is met by the next run.
async fn tidy(root: &Root, id: &str, summary: &Summary) {
    for folder in ["chunks", "rows"] {
        let folder = Path::from(Submission::path(id, folder));
        let paths: Vec<_> = root.store().list(Some(&folder)).map_ok(|object| object.location).collect().await;
        let is_over = |path: &Path| !summary.rows.iter().any(|needed| needed == path.as_ref());
        let over: Vec<_> = paths.into_iter().filter(|path| path.as_ref().is_ok_and(is_over)).collect();
        let deleted = root.store().delete_stream(futures::stream::iter(over).boxed());
        // Two runs may do it at once.
        let failed = deleted.filter_map(|deleted| std::future::ready(deleted.err())).collect::<Vec<_>>().await;
        if let Some(error) = failed.first() {
            tracing::debug!(%folder, %error, "files that a complete replay does not need were not deleted");
        }
    }
}

/// What a process has of a replay: the same of all, and its share of workers and buckets.
struct Part<'a> {
    replay: &'a Replay,
    submission: &'a Submission,
    tables: Tables,
    shape: Shape,
    scope: Arc<Scope>,
}

impl<'a> Part<'a> {
    async fn of(replay: &'a Replay, submission: &'a Submission) -> Result<Part<'a>, ReplayError> {
        let tables = Tables::of(&replay.root, submission).await?;
        let shape = Counting::of(&replay.root, &tables.counts.1, submission).await?.shape(&replay.job.logic);
        Ok(Part { replay, submission, tables, shape, scope: Arc::new(scope(submission)) })
    }

    /// Counts chunks; what was not put on the store is returned.
    async fn count(&self, start: &Start) -> Result<Vec<Rest>, ReplayError> {
        let Replay { job, root, workers, memory_bytes, progress, member } = self.replay;
        if start.todo.is_empty() {
            return Ok(Vec::new());
        }
        let share = self.replay.share();
        let ours = shared_out(&start.todo, |number| number % share.processes == share.process);
        progress.rows.store(ours.iter().flat_map(|(_, files)| files).map(|file| file.rows).sum(), Ordering::Relaxed);

        let network = match member {
            Some(member) => member.network()?,
            None => alone(*workers).map_err(ReplayError::Thread)?,
        };
        let rest = Arc::new(Mutex::new(Vec::new()));
        let (failed, mut failures) = unbounded_channel();
        let counting = Workers {
            job: Arc::new(job.clone()),
            root: root.clone(),
            submission: start.submission.clone(),
            raw: self.tables.raw.0.clone(),
            buckets: counts::buckets(&self.tables.counts.1)?,
            attempt: start.attempt.clone(),
            todo: start.todo.clone(),
            processes: share.processes,
            scope: Arc::clone(&self.scope),
            budget_bytes: memory_bytes / workers,
            read: Arc::clone(&progress.read),
            keeps_last: member.is_none(),
            rest: Arc::clone(&rest),
            failed,
            abort: Arc::new(AtomicBool::new(false)),
            runtime: tokio::runtime::Handle::current(),
        };
        // Nobody waits for the threads of the network: they end when all processes do.
        execute_in(network, move |worker| counting.run(worker)).map_err(ReplayError::Thread)?;
        let mut failure = None;
        // Until all workers have ended: each holds a sender.
        while let Some(error) = failures.recv().await {
            failure.get_or_insert(error);
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let rest = std::mem::take(&mut *lock(&rest));
        Ok(rest)
    }

    /// The runs on the store that have something of this process' buckets.
    async fn fetched(&self, files: &[RunFile]) -> Result<RunSet, ReplayError> {
        let share = self.replay.share();
        let mut runs = RunSet::default();
        for file in files.iter().filter(|file| file.groups.iter().any(|(_, bucket)| share.has(*bucket))) {
            let fetched = fetch(self.replay.root.store().as_ref(), &file.path).await;
            let fetched = fetched.map_err(|error| error.of_table(format!("reading {}", file.path)))?;
            runs.push_file(file.groups.clone(), fetched)?;
        }
        Ok(runs)
    }

    /// Compares this process' buckets.
    async fn compare(&self, runs: RunSet) -> Result<Found, ReplayError> {
        tracing::debug!(id = self.submission.id, "compares");
        let Replay { job, root, workers, progress, .. } = self.replay;
        let (counts, state) = &self.tables.counts;
        let found = compare(
            Arc::new(Compare {
                root: root.clone(),
                id: self.submission.id.clone(),
                counts: counts.clone(),
                buckets: counts::buckets(state)?,
                share: self.replay.share(),
                live: Layout::new(state.files.values(), |_| true)?,
                logic: job.logic.clone(),
                shape: self.shape.clone(),
                scope: Arc::clone(&self.scope),
                runs,
                progress: Arc::clone(&progress.compared),
            }),
            *workers,
        );
        Ok(found.await?)
    }
}

/// The files of chunks whose numbers are somebody's. Numbers go on from chunk to chunk: one may have fewer files than there are
/// workers.
fn shared_out(chunks: &[(Chunk, Vec<File>)], is_theirs: impl Fn(usize) -> bool) -> Vec<(Chunk, Vec<File>)> {
    let mut numbers = 0..;
    let mut theirs = |files: &[File]| {
        let numbered = files.iter().zip(&mut numbers);
        numbered.filter(|(_, number)| is_theirs(*number)).map(|(file, _)| file.clone()).collect()
    };
    chunks.iter().map(|(chunk, files)| (*chunk, theirs(files))).collect()
}

/// What each worker thread takes its part from.
struct Workers {
    job: Arc<Job>,
    root: Root,
    submission: Submission,
    raw: Log,
    buckets: u32,
    attempt: String,
    todo: Vec<(Chunk, Vec<File>)>,
    processes: usize,
    scope: Arc<Scope>,
    budget_bytes: usize,
    read: Arc<AtomicU64>,
    keeps_last: bool,
    rest: Arc<Mutex<Vec<Rest>>>,
    failed: UnboundedSender<ReplayError>,
    abort: Arc<AtomicBool>,
    runtime: tokio::runtime::Handle,
}

impl Workers {
    /// A worker's life. After a panic the others are let go: they would wait for ever.
    fn run(&self, worker: &mut Worker) {
        let who = format!("worker {}", worker.index());
        if let Err(what) = caught_in(&who, || self.steps(worker)) {
            // Who no longer waits has ended.
            self.failed.send(ReplayError::Bug(what)).ok();
            self.abort.store(true, Ordering::Relaxed);
            drop_dataflows(worker);
        }
    }

    fn steps(&self, worker: &mut Worker) {
        let (index, peers) = (worker.index(), worker.peers());
        let logic = &self.job.logic;
        let topics: Arc<[String]> = self.job.source.topics.clone().into();
        // Processes take turns, and in each its workers.
        let (processes, workers) = (self.processes, peers / self.processes);
        let is_ours = |number| number % processes * workers + number / processes % workers == index;
        let by_event_time = matches!(self.submission.asked, Asked::EventTimes(_));
        let share = archive::Share {
            log: self.raw.clone(),
            files: shared_out(&self.todo, is_ours),
            topics: Arc::clone(&topics),
            up_to: self.submission.lanes.into_iter().max().unwrap_or(0),
            prunes: by_event_time.then(|| Arc::clone(&self.scope)),
        };
        let router = Router::of_published(logic, self.submission.lanes, Arc::clone(&self.scope));
        let gathering = Gather {
            root: self.root.clone(),
            id: self.submission.id.clone(),
            attempt: self.attempt.clone(),
            worker: index,
            workers: peers,
            budget_bytes: self.budget_bytes,
            todo: self.todo.iter().map(|(chunk, _)| *chunk).collect::<VecDeque<_>>(),
            keeps_last: self.keeps_last,
            runtime: self.runtime.clone(),
            rest: Arc::clone(&self.rest),
        };
        let fail = || {
            let (failed, abort) = (self.failed.clone(), Arc::clone(&self.abort));
            move |error| {
                failed.send(ReplayError::Table(error)).ok();
                abort.store(true, Ordering::Relaxed);
            }
        };
        worker.dataflow_named::<u64, _, _>("replay", |dataflow| {
            let gathered = Gathered::default();
            let records = source(dataflow, share, &self.runtime, gathered.clone(), fail(), Arc::clone(&self.read));
            let (events, decoded) = decode::decode(records, Decoder::new(logic));
            let told = arrivals(decoded, Arc::clone(&self.scope), topics);
            let updates = combine::combine(events, logic.dimensions.clone(), router, self.buckets);
            let cells = roll_up::roll_up(updates);
            let batches = pending::arrange(cells);
            gather(batches, told, gathering, gathered, fail());
        });
        run_until(worker, &self.abort);
    }
}
