//! `gather`: holds what a worker has counted until it is compared.
//!
//! In: batches of `(key, timestamp, tally)`, sorted and consolidated by differential, and the batches of `arrivals`. Out: for each chunk,
//! sorted runs without lanes: the counts of all lanes for a cell are added up.
//!
//! Time: when all workers have counted a chunk, each stores its runs of the chunk and then a manifest, so that a killed replay continues
//! after it. A process that runs alone keeps the last chunk in memory.
//!
//! State: runs in memory, up to the worker's budget; beyond it they go to the store as one file. A task encodes and stores one file at a
//! time. While the store does not answer, only the task waits: the worker keeps stepping, and notices when it is to end. Flow control: the
//! source learns how far everything is gathered only while no file is being stored, so at most a few of its steps arrive meanwhile.
//!
//! Failure: it is reported to the run, which ends. Restart: chunks that lack one of their manifests are counted again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use bytes::Bytes;
use differential_dataflow::difference::Semigroup;
use differential_dataflow::trace::cursor::{Cursor, Navigable};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;
use timely::scheduling::SyncActivator;

use super::arrivals::{OutcomeBatch, encode_rows};
use super::chunks::{Chunk, chunk_of};
use super::manifest::{Manifest, Rest, manifest_path};
use super::runs::{Kept, RunSet, StoredRun, push_merging, write};
use super::source::Gathered;
use crate::dataflow::pending::Batch;
use crate::dataflow::run::Run;
use crate::model::{Cell, Epoch, Tally};
use crate::process::lock;
use crate::process::panics::{caught, of_task};
use crate::replay::request::submission::Submission;
use crate::table::store::write_file;
use crate::table::{Root, TableError};

/// Bytes of rows whose outcome has changed that may wait in memory.
const ROWS_BYTES_MAX: usize = 16 << 20;

/// What the operator needs besides its inputs.
pub struct Gather {
    /// Where the tables are.
    pub root: Root,
    /// The replay.
    pub id: String,
    /// Distinguishes the files of this run from those of other runs of the same replay.
    pub attempt: String,
    /// The index of the worker.
    pub worker: usize,
    /// The number of workers.
    pub workers: usize,
    /// Bytes of runs that may be in memory.
    pub budget_bytes: usize,
    /// The chunks to count, ascending.
    pub todo: VecDeque<Chunk>,
    /// Whether the last chunk stays in memory: true if no other process needs it.
    pub keeps_last: bool,
    /// Runs the tasks that use the store.
    pub runtime: tokio::runtime::Handle,
    /// Receives the last chunk.
    pub rest: Arc<Mutex<Vec<Rest>>>,
}

#[derive(Default)]
struct Held {
    runs: Vec<Arc<Run>>,
    manifest: Manifest,
    rows: Vec<RecordBatch>,
    rows_bytes: usize,
    files: usize,
}

impl Held {
    fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.bytes()).sum()
    }
}

/// Builds the operator. `fail` is called with the error.
pub fn gather<'scope>(
    batches: StreamVec<'scope, Epoch, Batch>,
    outcomes: StreamVec<'scope, Epoch, OutcomeBatch>,
    mut gather: Gather,
    gathered: Gathered,
    fail: impl Fn(TableError) + 'static,
) {
    let scope = batches.scope();
    let mut chunks: BTreeMap<Chunk, Held> = BTreeMap::new();
    batches.binary_frontier::<_, timely::container::CapacityContainerBuilder<Vec<()>>, _, _, _, _>(
        outcomes,
        Pipeline,
        Pipeline,
        "gather",
        move |capability, info| {
            // Held to the end: a file may still be on its way to the store when both inputs have ended.
            let mut held = Some(capability);
            let mut storing = Storing::new(scope.worker().sync_activator_for(info.address.to_vec()));
            move |(batches, batches_frontier), (outcomes, outcomes_frontier), _output| {
                let _span = tracing::trace_span!("gather").entered();
                batches.for_each(|_capability, batches| {
                    batches.drain(..).for_each(|batch| receive(&batch, &mut chunks));
                });
                outcomes.for_each(|capability, outcomes| {
                    let held = chunks.entry(chunk_of(*capability.time())).or_default();
                    for batch in outcomes.drain(..) {
                        held.manifest.tallies.merge(&batch.tallies);
                        if let Some(rows) = batch.rows {
                            held.rows_bytes += rows.get_array_memory_size();
                            held.rows.push(rows);
                        }
                    }
                });
                let frontiers =
                    [batches_frontier.frontier().first().copied(), outcomes_frontier.frontier().first().copied()];
                let open = frontiers.into_iter().flatten().min();
                if held.is_none() || storing.failed {
                    return;
                }
                match gather.settle(&mut chunks, open, &mut storing) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        // The capability stays held: a chunk that is not whole must not look like the end of the input.
                        storing.failed = true;
                        fail(error);
                        return;
                    }
                }
                gathered.set(open.unwrap_or(Epoch::MAX));
                if open.is_none() {
                    held = None;
                    let last = gather.todo.back().copied().unwrap_or_default();
                    let held = chunks.remove(&last).unwrap_or_default();
                    assert!(chunks.is_empty(), "what was counted belongs to chunks that were to be counted");
                    let rest = Rest { memory: held.runs, manifest: held.manifest, rows: held.rows };
                    lock(&gather.rest).push(rest);
                }
            }
        },
    );
}

fn receive(batch: &Batch, chunks: &mut BTreeMap<Chunk, Held>) {
    let mut new: BTreeMap<(Chunk, u8), Run> = BTreeMap::new();
    let mut cursor = batch.cursor();
    let mut key = Vec::new();
    let mut sums: Vec<(Chunk, Tally)> = Vec::new();
    while let Some(update) = cursor.get_key(batch) {
        let (target, granularity, bucket, cell) = Cell::decode_head(update).expect("roll_up wrote the key");
        key.clear();
        key.extend_from_slice(&Run::group(Kept::of(granularity, target) as u8, bucket));
        key.extend_from_slice(cell);
        cursor.map_times(batch, |epoch, tally| match sums.last_mut() {
            Some((chunk, sum)) if *chunk == chunk_of(*epoch) => sum.plus_equals(tally),
            _ => sums.push((chunk_of(*epoch), *tally)),
        });
        for (chunk, tally) in sums.drain(..) {
            new.entry((chunk, target.number())).or_default().push(&key, tally);
        }
        cursor.step_key(batch);
    }
    for ((chunk, _), run) in new {
        push_merging(&mut chunks.entry(chunk).or_default().runs, run);
    }
}

/// A file that is to be stored.
enum ToStore {
    Runs(Vec<Arc<Run>>),
    Rows(Vec<RecordBatch>),
    Manifest(Manifest),
}

/// A file that was stored.
enum Stored {
    Runs(StoredRun),
    Rows(String),
    Manifest,
}

/// The file that is being stored, if any, and the channel on which its task answers.
struct Storing {
    under_way: Option<Chunk>,
    answer: Sender<Result<Stored, TableError>>,
    answers: Receiver<Result<Stored, TableError>>,
    wake: Arc<SyncActivator>,
    failed: bool,
}

impl Storing {
    fn new(wake: SyncActivator) -> Storing {
        let (answer, answers) = channel();
        Storing { under_way: None, answer, answers, wake: Arc::new(wake), failed: false }
    }

    fn start(&mut self, gather: &Gather, chunk: Chunk, path: String, what: ToStore) {
        self.under_way = Some(chunk);
        let (root, answer, wake) = (gather.root.clone(), self.answer.clone(), Arc::clone(&self.wake));
        gather.runtime.spawn(async move {
            let stored = caught("storing a replay's counts", store(&root, path, what)).await;
            // A worker that has ended needs no answer.
            answer.send(stored.unwrap_or_else(|panic| Err(TableError::Bug(panic)))).ok();
            wake.activate().ok();
        });
    }
}

async fn store(root: &Root, path: String, what: ToStore) -> Result<Stored, TableError> {
    let name = path.clone();
    let encoded = tokio::task::spawn_blocking(move || encode(path, what)).await;
    let (stored, bytes) = encoded.map_err(|error| TableError::Bug(of_task(&format!("encoding {name}"), error)))??;
    write_file(root.store().as_ref(), &name, bytes).await?;
    match &stored {
        Stored::Runs(_) => tracing::debug!(path = name, "sorted run stored"),
        _ => tracing::debug!(path = name, "stored"),
    }
    Ok(stored)
}

fn encode(path: String, what: ToStore) -> Result<(Stored, Bytes), TableError> {
    match what {
        ToStore::Runs(held) => {
            let mut runs = RunSet::default();
            held.into_iter().for_each(|run| runs.push(run));
            let mut bytes = Vec::new();
            let groups = write(&runs, &mut bytes)?;
            Ok((Stored::Runs(StoredRun { path, groups }), Bytes::from(bytes)))
        }
        ToStore::Rows(rows) => Ok((Stored::Rows(path), encode_rows(&rows)?)),
        ToStore::Manifest(manifest) => {
            let bytes = serde_json::to_vec(&manifest).expect("a manifest is made of texts, numbers and lists");
            Ok((Stored::Manifest, Bytes::from(bytes)))
        }
    }
}

impl Gather {
    /// Keeps to the budget, and stores whole chunks, one file after the other. Returns whether nothing is left to store.
    fn settle(
        &mut self,
        chunks: &mut BTreeMap<Chunk, Held>,
        open: Option<Epoch>,
        storing: &mut Storing,
    ) -> Result<bool, TableError> {
        if let Some(chunk) = storing.under_way {
            let Ok(stored) = storing.answers.try_recv() else { return Ok(false) };
            storing.under_way = None;
            match stored? {
                Stored::Runs(file) => chunks.entry(chunk).or_default().manifest.runs.push(file),
                Stored::Rows(path) => chunks.entry(chunk).or_default().manifest.rows.push(path),
                Stored::Manifest => {}
            }
        }
        let Some((chunk, path, what)) = self.next(chunks, open) else { return Ok(true) };
        storing.start(self, chunk, path, what);
        Ok(false)
    }

    /// The next file that is to be stored.
    fn next(&mut self, chunks: &mut BTreeMap<Chunk, Held>, open: Option<Epoch>) -> Option<(Chunk, String, ToStore)> {
        if chunks.values().map(Held::bytes).sum::<usize>() > self.budget_bytes
            && let Some((chunk, held)) = chunks.iter_mut().max_by_key(|(_, held)| held.bytes())
        {
            held.manifest.spilled += 1;
            return Some(self.runs(*chunk, held));
        }
        if let Some((chunk, held)) = chunks.iter_mut().find(|(_, held)| held.rows_bytes > ROWS_BYTES_MAX) {
            return Some(self.rows(*chunk, held));
        }
        let chunk = *self.todo.front().filter(|_| self.todo.len() > usize::from(self.keeps_last))?;
        if open.is_some_and(|open| chunk >= chunk_of(open)) {
            return None;
        }
        // Every worker writes a manifest of every chunk, even if it has nothing of it.
        let held = chunks.entry(chunk).or_default();
        if !held.runs.is_empty() {
            return Some(self.runs(chunk, held));
        }
        if !held.rows.is_empty() {
            return Some(self.rows(chunk, held));
        }
        self.todo.pop_front();
        let manifest = chunks.remove(&chunk).unwrap_or_default().manifest;
        Some((
            chunk,
            manifest_path(&self.id, chunk, &self.attempt, self.worker, self.workers),
            ToStore::Manifest(manifest),
        ))
    }

    fn runs(&self, chunk: Chunk, held: &mut Held) -> (Chunk, String, ToStore) {
        (chunk, self.name(chunk, held, "run"), ToStore::Runs(std::mem::take(&mut held.runs)))
    }

    fn rows(&self, chunk: Chunk, held: &mut Held) -> (Chunk, String, ToStore) {
        held.rows_bytes = 0;
        (chunk, self.name(chunk, held, "rows"), ToStore::Rows(std::mem::take(&mut held.rows)))
    }

    fn name(&self, chunk: Chunk, held: &mut Held, what: &str) -> String {
        held.files += 1;
        let name = format!("chunks/{chunk:06}/{}-{}-{:05}.{what}.parquet", self.attempt, self.worker, held.files);
        Submission::path(&self.id, &name)
    }
}
