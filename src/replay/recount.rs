//! Runs a replay: the dataflow of live with the archive as its source, then the comparison.
//!
//! In: a [`Submission`]. Out: its dataset and [`Summary`]. Both tables are read at the versions of the submission, so a replay that
//! was killed goes on with the chunks that are not on the store yet, with any number of workers, and finds the same. Two runs of the
//! same replay at once find the same too: the summary is written once, and who comes second takes the first one's. State: see
//! [`super::gather`] and [`super::compare`]. Failure: nothing of the tables was touched; run it again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use timely::worker::Worker;

use super::ReplayError;
use super::admission::PublishError;
use super::arrivals::{Tallies, arrivals};
use super::compare::{Compare, compare};
use super::dataset::{Outcomes, Summary};
use super::gather::{Gather, Manifest, Rest, encode_rows, gather};
use super::list::discard;
use super::plan::{Counting, Tables, chunks, partly, raw_files, scope};
use super::runs::RunSet;
use super::source::{Chunk, Gathered, Share, source};
use super::submission::{Asked, Submission};
use crate::dataflow::route::{Router, Scope};
use crate::dataflow::{combine, decode, pending, roll_up, run_until};
use crate::decode::Decoder;
use crate::job::Job;
use crate::table::fetch::{Fetched, fetch};
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
}

/// How far a replay is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Rows that are to be read, at most.
    pub rows: AtomicU64,
    /// Rows read.
    pub read: Arc<AtomicU64>,
    /// Cells compared.
    pub compared: Arc<AtomicU64>,
}

/// Runs a replay to its end, or what is left of it.
///
/// # Errors
/// [`ReplayError`]; what is on the store stays, and the next run goes on from there.
pub async fn run(replay: &Replay, submission: &Submission) -> Result<Summary, ReplayError> {
    let Replay { root, .. } = replay;
    let id = &submission.id;
    let summary = match Summary::load(root, id).await? {
        Some(summary) => Ok(summary),
        None => match recount(replay, submission).await {
            Ok(summary) => summary.store(root, id).await.map_err(Into::into),
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

/// Counts and compares; the dataset is written, but for its summary.
async fn recount(replay: &Replay, submission: &Submission) -> Result<Summary, ReplayError> {
    let Replay { job, root, workers, progress, .. } = replay;
    let tables = Tables::of(root, submission).await?;
    let shape = Counting::of(root, &tables.counts.1, submission).await?.shape(&job.logic);
    let all = chunks(raw_files(&tables.raw.1, submission)?, submission.chunk_bytes);
    let (manifests, todo) = left(root, submission, all.clone()).await?;
    let rows = |files: &[File]| files.iter().map(|file| file.rows).sum::<u64>();
    progress.rows.store(todo.iter().map(|(_, files)| rows(files)).sum(), Ordering::Relaxed);
    tracing::info!(id = submission.id, chunks = todo.len(), done = manifests.len(), "replay begins");

    let scope = Arc::new(scope(submission));
    let attempt = format!("{:016x}", rand::random::<u64>());
    let last = todo.last().map(|(chunk, _)| *chunk);
    let rest = count(replay, submission, &tables, todo, &attempt, Arc::clone(&scope)).await?;
    let (manifests, missing) = left(root, submission, all).await?;
    // The last chunk is in `rest`, all others are on the store; unless somebody deleted them.
    if missing.iter().any(|(chunk, _)| Some(*chunk) != last) {
        return Err(ReplayError::Refused(format!(
            "files of replay {} were deleted while it ran: it was discarded, or another run of it has ended; look at it \
             (floodmark replay list), or submit it again",
            submission.id
        )));
    }
    let mut runs = RunSet::default();
    let mut tallies = Tallies::default();
    let mut spilled = 0;
    let mut rows = RowFiles { root, id: &submission.id, attempt: &attempt, paths: Vec::new() };
    for manifest in manifests.iter().chain(rest.iter().map(|rest| &rest.manifest)) {
        tallies.merge(&manifest.tallies);
        spilled += manifest.spilled;
        for run in &manifest.runs {
            runs.push_file(run.groups.clone(), fetched(root, &run.path).await?)?;
        }
        for path in &manifest.rows {
            rows.copy(path).await?;
        }
    }
    for rest in rest {
        rest.memory.into_iter().for_each(|run| runs.push(run));
        if !rest.rows.is_empty() {
            rows.write(encode_rows(&rest.rows)?).await?;
        }
    }

    let (counts, counts_state) = tables.counts;
    let compared = compare(
        Arc::new(Compare {
            root: root.clone(),
            id: submission.id.clone(),
            counts,
            buckets: counts::buckets(&counts_state)?,
            live: Layout::new(counts_state.files.values(), |_| true)?,
            logic: job.logic.clone(),
            shape: shape.clone(),
            scope,
            runs,
            progress: Arc::clone(&progress.compared),
        }),
        *workers,
    )
    .await?;
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
        partly: partly(&submission.coverage, &shape),
        spilled,
        parts: compared.parts,
        rows: rows.paths,
    })
}

async fn fetched(root: &Root, path: &str) -> Result<Fetched, TableError> {
    fetch(root.store().as_ref(), path).await.map_err(|error| error.of_table(format!("reading {path}")))
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

/// Counts chunks; what was not put on the store is returned.
async fn count(
    replay: &Replay,
    submission: &Submission,
    tables: &Tables,
    todo: Vec<(Chunk, Vec<File>)>,
    attempt: &str,
    scope: Arc<Scope>,
) -> Result<Vec<Rest>, ReplayError> {
    if todo.is_empty() {
        return Ok(Vec::new());
    }
    let rest = Arc::new(Mutex::new(Vec::new()));
    let failure = Arc::new(Mutex::new(None));
    let counting = Workers {
        job: Arc::new(replay.job.clone()),
        root: replay.root.clone(),
        submission: submission.clone(),
        raw: tables.raw.0.clone(),
        buckets: counts::buckets(&tables.counts.1)?,
        attempt: attempt.to_owned(),
        todo,
        scope,
        budget_bytes: replay.memory_bytes / replay.workers.max(1),
        read: Arc::clone(&replay.progress.read),
        rest: Arc::clone(&rest),
        failure: Arc::clone(&failure),
        abort: Arc::new(AtomicBool::new(false)),
        runtime: tokio::runtime::Handle::current(),
    };
    let workers = replay.workers;
    let ended = tokio::task::spawn_blocking(move || {
        let guards = timely::execute(timely::Config::process(workers), move |worker| counting.run(worker))
            .map_err(ReplayError::Thread)?;
        let panicked: Vec<String> = guards.join().into_iter().filter_map(Result::err).collect();
        if panicked.is_empty() {
            Ok(())
        } else {
            Err(ReplayError::Bug(format!("a worker panicked: {}", panicked.join("; "))))
        }
    });
    let ended = ended.await.unwrap_or_else(|panic| Err(ReplayError::Bug(panic.to_string())));
    if let Some(error) = failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(ReplayError::Table(error));
    }
    ended?;
    let rest = std::mem::take(&mut *rest.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(rest)
}

/// The other workers would wait for one that panics.
struct AbortAtPanic(Arc<AtomicBool>);

impl Drop for AbortAtPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
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
    scope: Arc<Scope>,
    budget_bytes: usize,
    read: Arc<AtomicU64>,
    rest: Arc<Mutex<Vec<Rest>>>,
    failure: Arc<Mutex<Option<TableError>>>,
    abort: Arc<AtomicBool>,
    runtime: tokio::runtime::Handle,
}

impl Workers {
    fn run(&self, worker: &mut Worker) {
        let _guard = AbortAtPanic(Arc::clone(&self.abort));
        let (index, peers) = (worker.index(), worker.peers());
        let logic = &self.job.logic;
        let topics: Arc<[String]> = self.job.source.topics.clone().into();
        let mine = |files: &[File]| {
            files
                .iter()
                .enumerate()
                .filter(|(number, _)| number % peers == index)
                .map(|(_, file)| file.clone())
                .collect()
        };
        let by_event_time = matches!(self.submission.asked, Asked::EventTimes(_));
        let share = Share {
            log: self.raw.clone(),
            files: self.todo.iter().map(|(chunk, files)| (*chunk, mine(files))).collect(),
            topics: Arc::clone(&topics),
            up_to: self.submission.lanes.into_iter().max().unwrap_or(0),
            prunes: by_event_time.then(|| Arc::clone(&self.scope)),
        };
        let router = Router::of_published(logic, self.submission.lanes, Arc::clone(&self.scope));
        let gathering = Gather {
            root: self.root.clone(),
            id: self.submission.id.clone(),
            attempt: self.attempt.clone(),
            worker: (index, peers),
            budget_bytes: self.budget_bytes,
            todo: self.todo.iter().map(|(chunk, _)| *chunk).collect::<VecDeque<_>>(),
            runtime: self.runtime.clone(),
            rest: Arc::clone(&self.rest),
        };
        let fail = || {
            let (failure, abort) = (Arc::clone(&self.failure), Arc::clone(&self.abort));
            move |error| {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
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
