//! Counts chunks of the archive: the dataflow of live with another source and another end.
//!
//! ```text
//! source ─► decode ─► combine ══bucket══► roll_up ─► arrange ─► gather ─► runs, manifests
//!             └─► arrivals ─────────────────────────────────────►┘
//! ```
//!
//! In: an [`Assignment`], the same in every process. Out: sorted runs and manifests on the store; a process that runs alone keeps the last
//! chunk in memory. Each worker reads its part of the files and gathers its part of the buckets. State: see [`super::gather`]. Failure: the
//! first error or panic ends all workers of the process; what is on the store stays. Restart: a new assignment has the chunks that are not
//! done.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use timely::worker::Worker;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::arrivals::arrivals;
use super::chunks::{Chunk, shared_out};
use super::gather::{Gather, gather};
use super::manifest::Rest;
use super::source::{Gathered, ToRead, source};
use crate::cluster::{Network, execute_in};
use crate::dataflow::route::{Router, Scope};
use crate::dataflow::{combine, decode, drop_dataflows, pending, roll_up, run_until};
use crate::decode::Decoder;
use crate::job::Job;
use crate::process::lock;
use crate::process::panics::caught_in;
use crate::replay::error::ReplayError;
use crate::replay::request::submission::Submission;
use crate::table::{File, Log, Root};

/// What all processes count, as process 0 has planned it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Assignment {
    /// The replay.
    pub submission: Submission,
    /// Distinguishes the files of this run from those of other runs of the same replay.
    pub attempt: String,
    /// The chunks to count.
    pub todo: Vec<(Chunk, Vec<File>)>,
}

/// What the workers of a process need in order to count.
pub struct Counting {
    /// The job.
    pub job: Arc<Job>,
    /// Where the job's tables are.
    pub root: Root,
    /// What to count.
    pub assignment: Assignment,
    /// The archive.
    pub raw: Log,
    /// Buckets of customers.
    pub buckets: u32,
    /// What is recounted.
    pub scope: Arc<Scope>,
    /// The number of processes.
    pub processes: usize,
    /// Bytes of runs that a worker may hold.
    pub budget_bytes: usize,
    /// Counts the rows that were read.
    pub read: Arc<AtomicU64>,
    /// Whether the last chunk stays in memory: true if no other process needs it.
    pub keeps_last: bool,
}

impl Counting {
    /// Counts on a network of workers; returns what was not put on the store.
    ///
    /// # Errors
    /// The first error of any worker.
    pub async fn run(self, network: Network) -> Result<Vec<Rest>, ReplayError> {
        let rest = Arc::new(Mutex::new(Vec::new()));
        let (failed, mut failures) = unbounded_channel();
        let workers = ReplayWorkers {
            counting: self,
            rest: Arc::clone(&rest),
            failed,
            abort: Arc::new(AtomicBool::new(false)),
            runtime: tokio::runtime::Handle::current(),
        };
        // The threads of the network are not joined: they end when all processes do.
        execute_in(network, move |worker| workers.run(worker)).map_err(ReplayError::Thread)?;
        let mut failure = None;
        // Receives until all workers have ended, since each holds a sender.
        while let Some(error) = failures.recv().await {
            failure.get_or_insert(error);
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let rest = std::mem::take(&mut *lock(&rest));
        Ok(rest)
    }
}

/// What all worker threads of a process share.
struct ReplayWorkers {
    counting: Counting,
    rest: Arc<Mutex<Vec<Rest>>>,
    failed: UnboundedSender<ReplayError>,
    abort: Arc<AtomicBool>,
    runtime: tokio::runtime::Handle,
}

impl ReplayWorkers {
    /// Runs a worker to its end. After a panic, the other workers of the process are released, since they would wait for ever.
    fn run(&self, worker: &mut Worker) {
        let who = format!("worker {}", worker.index());
        if let Err(what) = caught_in(&who, || self.steps(worker)) {
            // The run may have ended, so that nobody receives this.
            self.failed.send(ReplayError::Bug(what)).ok();
            self.abort.store(true, Ordering::Relaxed);
            drop_dataflows(worker);
        }
    }

    fn steps(&self, worker: &mut Worker) {
        let (index, peers) = (worker.index(), worker.peers());
        let Counting { job, root, assignment, raw, scope, processes, .. } = &self.counting;
        let Assignment { submission, attempt, todo } = assignment;
        let topics: Arc<[String]> = job.source.topics.clone().into();
        // Buckets go to the processes in turn, and within a process to its workers in turn.
        let workers = peers / processes;
        let is_ours = |number| number % processes * workers + number / processes % workers == index;
        let to_read = ToRead {
            log: raw.clone(),
            files: shared_out(todo, is_ours),
            topics: Arc::clone(&topics),
            up_to: submission.up_to(),
            prunes: submission.asked.is_by_event_time().then(|| Arc::clone(scope)),
        };
        let router = Router::of_published(&job.logic, submission.lanes, Arc::clone(scope));
        let gathering = Gather {
            root: root.clone(),
            id: submission.id.clone(),
            attempt: attempt.clone(),
            worker: index,
            workers: peers,
            budget_bytes: self.counting.budget_bytes,
            todo: todo.iter().map(|(chunk, _)| *chunk).collect::<VecDeque<_>>(),
            keeps_last: self.counting.keeps_last,
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
            let read = Arc::clone(&self.counting.read);
            let records = source(dataflow, to_read, &self.runtime, gathered.clone(), fail(), read);
            let (events, decoded) = decode::decode(records, Decoder::new(&job.logic));
            let outcomes = arrivals(decoded, Arc::clone(scope), topics);
            let updates = combine::combine(events, job.logic.dimensions.clone(), router, self.counting.buckets);
            let cells = roll_up::roll_up(updates);
            let batches = pending::arrange(cells);
            gather(batches, outcomes, gathering, gathered, fail());
        });
        run_until(worker, &self.abort);
    }
}
