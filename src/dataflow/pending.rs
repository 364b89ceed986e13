//! `pending`: holds the updates that are not yet published.
//!
//! In: batches of `(key, epoch, tally)`, sorted and consolidated by differential. Out: on a publish order, the ordered lanes'
//! updates up to its epoch; they go to `plan` and `merge`, off this thread. Time: an order is carried out once the frontier has
//! passed its epoch. State: sorted runs per lane, merged as they grow and freed when the order is committed. The pending budget
//! bounds them, because the committer publishes the largest lane out of turn. The arrangement's trace is dropped, because a trace
//! never forgets an update. Failure: it is reported, and ends the job. Restart: the updates are fed again from the archive.

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

/// Segments that a worker merges at once when there is nothing else to do.
const AT_ONCE_ALONE: usize = 2;

/// What the operator needs besides its input.
pub struct Pending {
    /// The worker's number.
    pub worker: usize,
    /// Number of workers in all processes: a bucket belongs to the worker `bucket % workers`.
    pub workers: usize,
    /// The table `counts`.
    pub log: Log,
    /// Live files of the worker's buckets.
    pub layout: Arc<Layout>,
    /// The dimensions with their granularities.
    pub dimensions: Arc<[Dimension]>,
    /// The generation of this run, for file names.
    pub generation: i64,
    /// Runs merges.
    pub runtime: tokio::runtime::Handle,
    /// Lets the large merges of a process run one at a time.
    pub turn: Arc<Semaphore>,
    /// Answers go here.
    pub answers: Answers,
    /// Panics are reported here.
    pub failures: UnboundedSender<Answer>,
    /// The numbers that the process reports about itself.
    pub progress: Arc<Progress>,
    /// Bytes per lane, as last reported.
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

/// The finest granularity of `total` in a job: the one whose counts must balance.
pub fn finest_total(logic: &Logic) -> Granularity {
    (logic.dimensions.iter())
        .find(|dimension| dimension.name == Logic::TOTAL)
        .map_or(Granularity::Day, |total| total.granularities[0])
}

/// The runs of one lane, oldest first, each with its first and last epoch.
#[derive(Default)]
struct LaneRuns {
    runs: Vec<(Epoch, Epoch, Arc<Run>)>,
    /// Newest epoch that was ordered: runs up to it are being published, and must not change.
    ordered: Epoch,
}

impl LaneRuns {
    /// Adds a run, and merges neighbours of similar length, so that each update is merged a logarithmic number of times. An order
    /// is always for the newest epoch that was closed before it, so no later order ends inside a merged run.
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

    /// The runs that an order up to `epoch` publishes.
    fn up_to(&self, epoch: Epoch) -> impl Iterator<Item = &Arc<Run>> {
        let whole = |(first, last, _): &(Epoch, Epoch, _)| *last <= epoch || *first > epoch;
        assert!(self.runs.iter().all(whole), "runs on both sides of an order's epoch {epoch} were merged");
        self.runs.iter().filter(move |(_, last, _)| *last <= epoch).map(|(_, _, run)| run)
    }

    /// Whether the lane holds nothing up to an epoch. Runs of a lane that was not ordered may extend beyond it.
    fn is_idle(&self, epoch: Epoch) -> bool {
        self.runs.iter().all(|(first, _, _)| *first > epoch)
    }
}

type Runs = [LaneRuns; Lane::ALL.len()];

impl Pending {
    /// Builds the operator. `total`: the granularity of `total` whose counts must balance.
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
                    // Orders are read before the input: an order for an epoch precedes the tick that closes the next epoch, so it
                    // is known before runs of both epochs could be merged.
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
            let work = tokio::task::spawn_blocking(move || {
                let _span = tracing::debug_span!("plan").entered();
                wanted.plan()
            })
            .await;
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
            // A decrease wraps around, and so does the sum.
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
