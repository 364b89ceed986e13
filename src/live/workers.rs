//! The workers of a process, and the committer beside worker 0.
//!
//! In: what the job starts from. Out: the dataflow on every worker thread, the archiver's thread, the channels between worker 0
//! and the committer. State: none beyond these. Failure: a worker that fails or panics reports it to the code that waits for the
//! job, which ends the job; otherwise the other workers would wait for ever.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, mpsc};

use timely::scheduling::SyncActivator;
use timely::worker::Worker;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::error::LiveError;
use super::start::{Lead, Live, Start};
use crate::dataflow::archive::{Archiver, ToArchiver};
use crate::dataflow::backlog::Backlog;
use crate::dataflow::commit::{Committer, Request, lane_graces_us};
use crate::dataflow::control::CommitterEnds;
use crate::dataflow::error::CommitError;
use crate::dataflow::protocol::{Answer, Order};
use crate::dataflow::source::Inputs;
use crate::dataflow::{Setup, Standing, build, drop_dataflows, run_until};
use crate::model::Epoch;
use crate::process::lock;
use crate::process::panics::caught_in;
use crate::source::SourceFactory;
use crate::source::feed::{Archive, FeedPlan};
use crate::table::{Log, TableError, counts, raw};

/// The committer's ends of its channels to worker 0, until the committer is made.
pub(super) struct Waiting {
    orders: Sender<Order>,
    answers: UnboundedReceiver<Answer>,
    wake: mpsc::Receiver<SyncActivator>,
}

pub(super) fn committer_ends() -> (CommitterEnds, Waiting) {
    let (orders, orders_receiver) = mpsc::channel();
    let (answers_sender, answers) = unbounded_channel();
    let (wake_sender, wake) = mpsc::channel();
    let ends = CommitterEnds { orders: orders_receiver, answers: answers_sender, wake: wake_sender };
    (ends, Waiting { orders, answers, wake })
}

impl Waiting {
    /// Makes the committer, once worker 0 runs.
    pub(super) fn committer(
        self,
        lead: Lead,
        live: Live,
        generation: i64,
        processes: usize,
        request: watch::Receiver<Request>,
    ) -> Result<Committer, CommitError> {
        let wake = self.wake.recv();
        let backlog = Backlog::new(
            lead.to_feed,
            counts::lane_epochs(&lead.counts.state),
            lead.raw.state.txn(raw::EPOCH) as Epoch,
            &live.job.logic.dimensions,
            lead.feed_bytes_max,
        );
        Ok(Committer {
            layout: lead.layout,
            raw: lead.raw,
            counts: lead.counts,
            generation,
            workers: live.workers * processes,
            processes,
            graces_us: lane_graces_us(&live.job.logic),
            backlog,
            settings: live.job.settings,
            clock: live.clock,
            last_ingested_at: lead.last_ingested_at,
            orders: self.orders,
            wake: wake.map_err(|_| CommitError::failed("worker 0 did not start; see the log above"))?,
            answers: self.answers,
            request,
            progress: live.progress,
        })
    }
}

/// The workers' ends of the channels to the committer.
pub(super) struct Ends {
    /// Worker 0's ends, in the process of the committer.
    pub(super) committer: Option<CommitterEnds>,
    /// Failures outside the dataflow are reported here.
    pub(super) failures: UnboundedSender<Answer>,
}

/// What the worker threads of a process are started with.
pub(super) struct Workers {
    pub(super) setup: Setup,
    source: Arc<dyn SourceFactory>,
    feed: FeedPlan,
    archiver: Mutex<Sender<ToArchiver>>,
    ends: Mutex<Option<CommitterEnds>>,
    failures: UnboundedSender<Answer>,
    pub(super) abort: Arc<AtomicBool>,
}

impl Workers {
    /// Prepares the workers of a process.
    pub(super) fn new(
        runtime: &Runtime,
        live: &Live,
        start: Start,
        process: usize,
        ends: Ends,
    ) -> Result<Workers, LiveError> {
        let Ends { committer, failures } = ends;
        let generation = start.generation;
        live.progress.stands(Standing::Running);
        let raw = Log::new(&live.root, "raw");
        let archiver = Archiver {
            log: raw.clone(),
            name: format!("g{generation:06}-p{process}"),
            workers: live.workers,
            runtime: runtime.handle().clone(),
            failures: failures.clone(),
        };
        Ok(Workers {
            setup: Setup {
                counts: Log::new(&live.root, "counts"),
                live: Arc::new(start.live),
                buckets: start.buckets,
                absorbed: start.absorbed,
                generation,
                workers_per_process: live.workers,
                runtime: runtime.handle().clone(),
                turn: Arc::new(tokio::sync::Semaphore::new(1)),
                progress: Arc::clone(&live.progress),
                failures: failures.clone(),
                job: Arc::new(live.job.clone()),
            },
            source: Arc::clone(&live.source),
            feed: FeedPlan::of(raw, start.feed),
            archiver: Mutex::new(archiver.start().map_err(|error| LiveError::Thread(error.to_string()))?),
            ends: Mutex::new(committer),
            failures,
            abort: Arc::default(),
        })
    }

    /// Runs a worker until it ends. A failure or panic is reported, and ends the job; otherwise the other workers would wait for
    /// ever.
    pub(super) fn run(&self, worker: &mut Worker) {
        let who = format!("worker {}", worker.index());
        let failed = match caught_in(&who, || self.steps(worker)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => Answer::failed(&error),
            Err(panic) => Answer::failed(&TableError::Bug(panic)),
        };
        // A job that has ended has reported why.
        self.failures.send(failed).ok();
        drop_dataflows(worker);
    }

    fn steps(&self, worker: &mut Worker) -> Result<(), TableError> {
        let (index, peers) = (worker.index(), worker.peers());
        let ends = match index {
            0 => lock(&self.ends).take(),
            _ => None,
        };
        let archiver = lock(&self.archiver).clone();
        let open = |waker: crate::source::Waker| {
            Ok(Inputs {
                topic: self.source.open(index, peers, Arc::clone(&waker))?,
                archive: Archive {
                    plan: self.feed.clone(),
                    worker: (index, peers),
                    runtime: self.setup.runtime.clone(),
                    waker,
                },
            })
        };
        build(worker, &self.setup, open, archiver, ends)?;
        run_until(worker, &self.abort);
        Ok(())
    }
}
