//! `pending`: updates that are not yet published.
//!
//! In: batches of `(key, epoch, tally)`, sorted and consolidated by differential. Out: on a publish order, once the frontier has
//! passed its epoch, the ordered lanes' updates up to that epoch go to `merge`, off this thread. State: one sorted run per
//! lane and epoch, freed when the order is committed; the committer ticks no further while they are too large. The trace of
//! the arrangement is dropped: a trace never forgets. Restart: fed again from the archive.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use differential_dataflow::trace::cursor::{Cursor, Navigable};
use differential_dataflow::trace::implementations::KeySpine;
use differential_dataflow::trace::implementations::chunker::ContainerChunker;
use differential_dataflow::trace::implementations::{KeyBatcher, KeyBuilder};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;

use super::control::{Answers, Inbox};
use super::merge::{Merge, Run};
use super::protocol::{Answer, Order, Received};
use super::roll_up::Triple;
use super::{EpochWatch, Progress};
use crate::job::Logic;
use crate::model::{Cell, CellParts, Epoch, Granularity, Lane, Segment, Tally};
use crate::table::{File, Log, TableError, counts};

/// What the operator needs beside its input.
pub struct Pending {
    /// The worker's number.
    pub worker: usize,
    /// The table `counts`.
    pub log: Log,
    /// Live files of the worker's buckets.
    pub live: LiveFiles,
    /// Our generation, in names of files.
    pub generation: i64,
    /// Finest granularity of `total`: what balances.
    pub total: Granularity,
    /// Runs merges.
    pub runtime: tokio::runtime::Handle,
    /// Answers go here.
    pub answers: Answers,
    /// The live line's numbers.
    pub progress: Arc<Progress>,
}

/// The live file of each segment, of one worker's buckets.
#[derive(Clone, Debug, Default)]
pub struct LiveFiles {
    files: HashMap<Segment, File>,
    worker: usize,
    workers: usize,
}

impl LiveFiles {
    /// Those of `files` whose bucket is the worker's.
    ///
    /// # Errors
    /// [`TableError::Corrupt`] when a file is no segment, or two live files hold the same one.
    pub fn new<'a>(
        files: impl IntoIterator<Item = &'a File>,
        worker: usize,
        workers: usize,
    ) -> Result<LiveFiles, TableError> {
        let mut live = LiveFiles { files: HashMap::new(), worker, workers };
        live.replace(&[], files)?;
        Ok(live)
    }

    fn replace<'a>(&mut self, remove: &[File], add: impl IntoIterator<Item = &'a File>) -> Result<(), TableError> {
        for file in remove {
            self.files.remove(&counts::segment_of(file)?);
        }
        for file in add {
            let segment = counts::segment_of(file)?;
            if usize::from(segment.bucket) % self.workers != self.worker {
                continue;
            }
            if let Some(other) = self.files.insert(segment, file.clone()) {
                return Err(TableError::Corrupt {
                    table: "counts".to_owned(),
                    what: format!("{} and {} are live for the same segment", other.path, file.path),
                });
            }
        }
        Ok(())
    }
}

/// Sorts and consolidates an epoch's updates by key. The arrangement's trace is not kept.
pub fn arrange<'scope>(updates: StreamVec<'scope, Epoch, Triple>) -> StreamVec<'scope, Epoch, Batch> {
    differential_dataflow::operators::arrange::arrangement::arrange_core::<
        _,
        _,
        ContainerChunker<Vec<Triple>>,
        KeyBatcher<Vec<u8>, Epoch, Tally>,
        KeyBuilder<Vec<u8>, Epoch, Tally>,
        KeySpine<Vec<u8>, Epoch, Tally>,
    >(updates, Pipeline, "arrange")
    .stream
}

/// A batch of the arrangement.
pub type Batch = std::rc::Rc<
    differential_dataflow::trace::implementations::ord_neu::OrdKeyBatch<
        differential_dataflow::trace::implementations::Vector<Triple>,
    >,
>;

struct WaitingOrder {
    order: u64,
    attempt: u32,
    epoch: Epoch,
    lanes: Vec<Lane>,
}

impl Pending {
    /// Finest granularity of `total` in a job.
    pub fn total_of(logic: &Logic) -> Granularity {
        (logic.dimensions.iter())
            .find(|dimension| dimension.name == Logic::TOTAL)
            .map_or(Granularity::Day, |total| total.granularities[0])
    }

    /// Builds the operator.
    pub fn pending(mut self, batches: StreamVec<'_, Epoch, Batch>, inbox: Inbox) {
        let mut runs: BTreeMap<(Lane, Epoch), Vec<Arc<Run>>> = BTreeMap::new();
        let mut totals: BTreeMap<Epoch, i64> = BTreeMap::new();
        let mut waiting: Option<WaitingOrder> = None;
        let mut watch = EpochWatch::default();
        let scope = batches.scope();
        batches.unary_frontier::<timely::container::CapacityContainerBuilder<Vec<()>>, _, _, _>(
            Pipeline,
            "pending",
            move |_capability, info| {
                inbox.wake(scope.activator_for(info.address));
                move |(input, frontier), _output| {
                    input.for_each(|_capability, batches| {
                        for batch in batches.drain(..) {
                            self.receive(&batch, &mut runs, &mut totals);
                        }
                    });
                    while let Some(order) = inbox.next() {
                        match order {
                            Order::Publish { order, attempt, epoch, lanes } => {
                                waiting = Some(WaitingOrder { order, attempt, epoch, lanes });
                            }
                            Order::Published { epoch, lanes } => {
                                runs.retain(|(lane, run), _| *run > epoch || !lanes.contains(lane));
                                self.tell_bytes(&runs);
                            }
                            Order::Replaced { remove, add } => {
                                if let Err(error) = self.live.replace(&remove, &add) {
                                    self.fail(&error);
                                }
                            }
                            Order::Tick { .. } | Order::Stop => watch.see(&order),
                        }
                    }
                    for epoch in watch.passed(frontier) {
                        let total = totals.remove(&epoch).unwrap_or_default();
                        self.tell_bytes(&runs);
                        self.answers.send(Answer::Received(Received { epoch, total }));
                    }
                    if waiting.as_ref().is_some_and(|order| !frontier.less_equal(&order.epoch))
                        && let Some(order) = waiting.take()
                    {
                        self.publish(&order, &runs);
                    }
                }
            },
        );
    }

    fn receive(
        &self,
        batch: &Batch,
        runs: &mut BTreeMap<(Lane, Epoch), Vec<Arc<Run>>>,
        totals: &mut BTreeMap<Epoch, i64>,
    ) {
        let mut new: BTreeMap<(Lane, Epoch), Run> = BTreeMap::new();
        let mut cursor = batch.cursor();
        while let Some(key) = cursor.get_key(batch) {
            let (lane, segment, cell) = Cell::decode_head(key).expect("roll_up wrote the key");
            let balances = segment.granularity == self.total
                && CellParts::of(cell).is_some_and(|parts| parts.dimension == Logic::TOTAL.as_bytes());
            cursor.map_times(batch, |epoch, tally| {
                if balances {
                    *totals.entry(*epoch).or_default() += tally.event_count;
                }
                new.entry((lane, *epoch)).or_default().push(Run::key_of(key), *tally);
            });
            cursor.step_key(batch);
        }
        for (key, run) in new {
            runs.entry(key).or_default().push(Arc::new(run));
        }
    }

    fn publish(&self, order: &WaitingOrder, runs: &BTreeMap<(Lane, Epoch), Vec<Arc<Run>>>) {
        let lanes = order.lanes.iter().map(|lane| lane.name()).collect::<Vec<_>>().join("-");
        let chosen = (runs.iter())
            .filter(|((lane, epoch), _)| *epoch <= order.epoch && order.lanes.contains(lane))
            .flat_map(|(_, runs)| runs.iter().cloned())
            .collect();
        let merge = Merge {
            order: order.order,
            attempt: order.attempt,
            name: format!("e{:012}-g{:06}-{lanes}-a{}", order.epoch, self.generation, order.attempt),
            log: self.log.clone(),
        };
        let work = merge.plan(chosen, |segment| self.live.files.get(&segment).cloned());
        let answers = self.answers.clone();
        self.runtime.spawn(async move {
            answers.send(match merge.stage(work).await {
                Ok(staged) => Answer::Staged(staged),
                Err(error) => Answer::failed(&error),
            });
        });
    }

    fn tell_bytes(&self, runs: &BTreeMap<(Lane, Epoch), Vec<Arc<Run>>>) {
        let bytes = runs.values().flatten().map(|run| run.bytes() as u64).sum();
        self.progress.pending_bytes.store(bytes, Ordering::Relaxed);
        self.answers.send(Answer::Pending { worker: self.worker, bytes });
    }

    fn fail(&self, error: &TableError) {
        self.answers.send(Answer::failed(error));
    }
}
