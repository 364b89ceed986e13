//! `pending`: updates that are not yet published.
//!
//! In: batches of `(key, epoch, tally)`, sorted and consolidated by differential. Out: on a publish order, once the frontier has
//! passed its epoch, the ordered lanes' updates up to that epoch go to `plan` and `merge`, off this thread. State: sorted runs
//! per lane, merged as they grow, freed when the order is committed; bounded by the pending budget, as the committer publishes
//! the largest lane out of turn. The trace of the arrangement is dropped: a trace never forgets. Restart: fed again from the archive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use differential_dataflow::trace::cursor::{Cursor, Navigable};
use differential_dataflow::trace::implementations::KeySpine;
use differential_dataflow::trace::implementations::{KeyBatcher, KeyBuilder};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;

use super::chunker::Chunker;
use super::control::{Answers, Inbox};
use super::epoch_watch::EpochWatch;
use super::merge::Merge;
use super::plan::Wanted;
use super::progress::Progress;
use super::protocol::{Answer, Order, Publish, Received, Staged};
use super::roll_up::Triple;
use super::run::Run;
use crate::job::{Dimension, Logic};
use crate::model::{Cell, CellParts, Epoch, Granularity, Key, Lane, Tally, Target};
use crate::process::panics::{caught, of_task};
use crate::table::layout::Layout;
use crate::table::{Log, TableError};

/// Segments that a worker merges at once while it also reads.
const AT_ONCE_BESIDE: usize = 1;

/// Segments that a worker merges at once when nothing else is to be done.
const AT_ONCE_ALONE: usize = 2;

/// What the operator needs beside its input.
pub struct Pending {
    /// The worker's number.
    pub worker: usize,
    /// Workers of all processes: a bucket is its number modulo theirs.
    pub workers: usize,
    /// The table `counts`.
    pub log: Log,
    /// Live files of the worker's buckets.
    pub layout: Arc<Layout>,
    /// What is counted by which granularities.
    pub dimensions: Arc<[Dimension]>,
    /// Our generation, in names of files.
    pub generation: i64,
    /// Runs merges.
    pub runtime: tokio::runtime::Handle,
    /// The large merges of a process take turns.
    pub turn: Arc<Semaphore>,
    /// Answers go here.
    pub answers: Answers,
    /// Is told of a panic.
    pub failures: UnboundedSender<Answer>,
    /// The live line's numbers.
    pub progress: Arc<Progress>,
    /// Bytes per lane as they were told last.
    pub told: [u64; Lane::ALL.len()],
}

/// Sorts and consolidates an epoch's updates by key. The arrangement's trace is not kept.
pub fn arrange<'scope>(updates: StreamVec<'scope, Epoch, Triple>) -> StreamVec<'scope, Epoch, Batch> {
    differential_dataflow::operators::arrange::arrangement::arrange_core::<
        _,
        _,
        Chunker,
        KeyBatcher<Key, Epoch, Tally>,
        KeyBuilder<Key, Epoch, Tally>,
        KeySpine<Key, Epoch, Tally>,
    >(updates, Pipeline, "arrange")
    .stream
}

/// A batch of the arrangement.
pub type Batch = std::rc::Rc<
    differential_dataflow::trace::implementations::ord_neu::OrdKeyBatch<
        differential_dataflow::trace::implementations::Vector<Triple>,
    >,
>;

/// The name and finest granularity of `total` in a job: what balances.
pub fn finest_total(logic: &Logic) -> Granularity {
    (logic.dimensions.iter())
        .find(|dimension| dimension.name == Logic::TOTAL)
        .map_or(Granularity::Day, |total| total.granularities[0])
}

/// The runs of one lane, oldest first, each with its first and last epoch.
#[derive(Default)]
struct LaneRuns {
    runs: Vec<(Epoch, Epoch, Arc<Run>)>,
    /// Newest epoch of an order: runs up to it are being merged, and stay as they are.
    ordered: Epoch,
}

impl LaneRuns {
    /// Adds a run, and merges runs of like length: each update is merged a logarithmic number of times. An order is always at
    /// the newest epoch that was closed before it, so no later order ends inside a merged run.
    fn push(&mut self, epoch: Epoch, mut run: Run) {
        run.shrink();
        self.runs.push((epoch, epoch, Arc::new(run)));
        while let [.., (first, _, a), (next, last, b)] = self.runs.as_slice()
            && *first > self.ordered
            && *next > self.ordered
            && a.merges_with(b)
        {
            let merged = (*first, *last, Arc::new(Run::merged(a, b)));
            self.runs.truncate(self.runs.len() - 2);
            self.runs.push(merged);
        }
    }

    fn bytes(&self) -> u64 {
        self.runs.iter().map(|(_, _, run)| run.bytes() as u64).sum()
    }

    /// The runs of an order.
    fn up_to(&self, epoch: Epoch) -> impl Iterator<Item = &Arc<Run>> {
        let whole = |(first, last, _): &(Epoch, Epoch, _)| *last <= epoch || *first > epoch;
        assert!(self.runs.iter().all(whole), "runs on both sides of an order's epoch {epoch} were merged");
        self.runs.iter().filter(move |(_, last, _)| *last <= epoch).map(|(_, _, run)| run)
    }

    /// Whether there is nothing up to an epoch; runs of a lane that was not ordered may go on beyond it.
    fn is_idle(&self, epoch: Epoch) -> bool {
        self.runs.iter().all(|(first, _, _)| *first > epoch)
    }
}

type Runs = [LaneRuns; Lane::ALL.len()];

impl Pending {
    /// Builds the operator. `total`: what balances.
    pub fn pending(mut self, batches: StreamVec<'_, Epoch, Batch>, inbox: Inbox, total: Granularity) {
        let mut runs = Runs::default();
        let mut totals: BTreeMap<Epoch, i64> = BTreeMap::new();
        let mut waiting: Vec<Publish> = Vec::new();
        let mut watch = EpochWatch::default();
        let scope = batches.scope();
        batches.unary_frontier::<timely::container::CapacityContainerBuilder<Vec<()>>, _, _, _>(
            Pipeline,
            "pending",
            move |_capability, info| {
                inbox.wake(scope.activator_for(info.address));
                move |(input, frontier), _output| {
                    let _span = tracing::trace_span!("pending").entered();
                    // Before the input: an order at an epoch stands before the tick that closes the next one, so that it is known
                    // before runs of both could be merged.
                    while let Some(order) = inbox.next() {
                        match order {
                            Order::Publish(order) => {
                                order.lanes.iter().for_each(|lane| runs[*lane as usize].ordered = order.epoch);
                                waiting.push(order);
                            }
                            Order::Published { epoch, lanes } => {
                                if lanes.contains(&Lane::Minute) {
                                    self.progress.minute_published(Instant::now());
                                }
                                for lane in lanes {
                                    runs[lane as usize].runs.retain(|(_, last, _)| *last > epoch);
                                }
                                self.tell_bytes(&runs);
                            }
                            Order::Replaced { remove, add } => {
                                let ours = |bucket| usize::from(bucket) % self.workers == self.worker;
                                if let Err(error) = Arc::make_mut(&mut self.layout).replace(&remove, &add, ours) {
                                    self.answers.send(Answer::failed(&error));
                                }
                            }
                            Order::Tick { .. } | Order::Stop => watch.see(&order),
                            Order::Feed { .. } => {}
                        }
                    }
                    input.for_each(|_capability, batches| {
                        for batch in batches.drain(..) {
                            receive(&batch, &mut runs, &mut totals, total);
                        }
                    });
                    for epoch in watch.passed(frontier) {
                        let total = totals.remove(&epoch).unwrap_or_default();
                        self.tell_bytes(&runs);
                        self.answers.send(Answer::Received(Received { epoch, total }));
                    }
                    for order in waiting.extract_if(.., |order| !frontier.less_equal(&order.epoch)) {
                        self.publish(order, &runs);
                    }
                }
            },
        );
    }

    fn publish(&self, order: Publish, runs: &Runs) {
        let chosen = |coarse: bool| {
            let lanes = order.lanes.iter().filter(move |lane| (**lane == Lane::Coarse) == coarse);
            lanes.flat_map(|lane| runs[*lane as usize].up_to(order.epoch)).cloned().collect::<Vec<_>>()
        };
        let idle = Lane::ALL.into_iter().filter(|lane| runs[*lane as usize].is_idle(order.epoch)).collect();
        let wanted = Wanted {
            fine: chosen(false),
            coarse: chosen(true),
            dimensions: Arc::clone(&self.dimensions),
            layout: Arc::clone(&self.layout),
            now: order.ingested_at,
            seal: order.seal,
            only: order.only.clone(),
        };
        let lanes = order.lanes.iter().map(|lane| lane.name()).collect::<Vec<_>>().join("-");
        let merge = Merge {
            name: format!("e{:012}-g{:06}-{lanes}-a{}", order.epoch, self.generation, order.attempt),
            log: self.log.clone(),
            at_once: if order.alone { AT_ONCE_ALONE } else { AT_ONCE_BESIDE },
            turn: Arc::clone(&self.turn),
        };
        let (answers, failures) = (self.answers.clone(), self.failures.clone());
        let stage = async move {
            let work = tokio::task::spawn_blocking(move || wanted.plan()).await;
            let work = work.map_err(|error| TableError::Bug(of_task("planning a publish", error)))?;
            merge.stage(work).await
        };
        self.runtime.spawn(async move {
            match caught("merging a publish", stage).await {
                Ok(Ok(pieces)) => {
                    answers.send(Answer::Staged(Staged { order: order.order, attempt: order.attempt, pieces, idle }));
                }
                Ok(Err(error)) => answers.send(Answer::failed(&error)),
                Err(panic) => drop(failures.send(Answer::failed(&TableError::Bug(panic)))),
            }
        });
    }

    fn tell_bytes(&mut self, runs: &Runs) {
        let bytes = std::array::from_fn(|lane| runs[lane].bytes());
        for (lane, of_all_workers) in self.progress.pending_bytes.iter().enumerate() {
            // Less than before wraps around, and so does the sum.
            of_all_workers.fetch_add(bytes[lane].wrapping_sub(self.told[lane]), Ordering::Relaxed);
        }
        self.told = bytes;
        self.answers.send(Answer::Pending { worker: self.worker, bytes });
    }
}

fn receive(batch: &Batch, runs: &mut Runs, totals: &mut BTreeMap<Epoch, i64>, total: Granularity) {
    let mut new: BTreeMap<(Epoch, usize), Run> = BTreeMap::new();
    let mut cursor = batch.cursor();
    while let Some(key) = cursor.get_key(batch) {
        let (target, granularity, _, cell) = Cell::decode_head(key).expect("roll_up wrote the key");
        let Target::Lane(lane) = target else { unreachable!("only replays join lanes") };
        let balances = granularity == total
            && lane != Lane::Coarse
            && CellParts::of(cell).is_some_and(|parts| parts.dimension == Logic::TOTAL.as_bytes());
        cursor.map_times(batch, |epoch, tally| {
            if balances {
                *totals.entry(*epoch).or_default() += tally.event_count;
            }
            new.entry((*epoch, lane as usize)).or_default().push(Run::key_of(key), *tally);
        });
        cursor.step_key(batch);
    }
    for ((epoch, lane), run) in new {
        runs[lane].push(epoch, run);
    }
}
