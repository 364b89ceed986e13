//! The dataflow, as on a whiteboard: [`build`] wires the stages, and each stage has a file of its own.
//!
//! ```text
//!              raw (what lanes have not absorbed)
//!                 │ feed
//! Kafka ─► source ┴─► decode ──┬─► combine ══bucket══► roll_up ─► arrange ─► pending ─► plan ─► merge ──┐
//!                              └─► archive ─► archiver (a thread) ── Archived ──┐                       │ Staged
//!                                                                               ▼                       ▼
//!    control: Tick, Publish, Published ◄══════════════════════ commit (one task, in worker 0's process)
//! ```
//!
//! In: records. Out: commits to `raw` and `counts`. `══` crosses workers; everything else stays on one worker. Time: the
//! timestamp is the epoch. State: each stage describes its own. Failure: a stage that fails answers `Failed`, and the committer
//! ends the job. Restart: the tables are the state; what `counts` lacks is fed from the archive again.

pub mod archive;
pub mod backlog;
mod balance;
mod chunker;
pub mod combine;
pub mod commit;
pub mod control;
pub mod decode;
mod epoch_watch;
pub mod error;
pub mod interval;
pub mod merge;
pub mod pace;
pub mod pending;
pub mod plan;
mod progress;
pub mod protocol;
pub mod roll_up;
pub mod route;
pub mod run;
pub mod source;
pub mod tally_map;
mod turn;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use timely::worker::Worker;
use tokio::sync::mpsc::UnboundedSender;

use crate::decode::Decoder;
use crate::job::Job;
use crate::model::{Epoch, Lane};
use crate::source::{SourceError, Waker};
use crate::table::layout::Layout;
use crate::table::{File, Log, TableError};
use archive::ToArchiver;
use control::{CommitterEnds, Inbox};
use pending::{Pending, finest_total};
pub use progress::{LaneStand, Merged, Progress, Standing};
use protocol::Answer;
use route::Router;
use source::Inputs;

/// What a worker's dataflow is built from: the job, and the tables as they are at the start.
#[derive(Clone)]
pub struct Setup {
    /// The job.
    pub job: Arc<Job>,
    /// The table `counts`.
    pub counts: Log,
    /// Its live files at the start.
    pub live: Arc<Vec<File>>,
    /// Its number of buckets.
    pub buckets: u32,
    /// The epoch of each lane of [`Lane::ALL`] at the start.
    pub absorbed: [Epoch; Lane::ALL.len()],
    /// The generation of this run.
    pub generation: i64,
    /// Workers in each process.
    pub workers_per_process: usize,
    /// Runs storage requests, off the worker threads.
    pub runtime: tokio::runtime::Handle,
    /// Lets the large merges of a process run one at a time.
    pub turn: Arc<tokio::sync::Semaphore>,
    /// The numbers that the process reports about itself.
    pub progress: Arc<Progress>,
    /// Panics are reported here.
    pub failures: UnboundedSender<Answer>,
}

/// Builds both dataflows on a worker.
///
/// # Errors
/// [`TableError::Corrupt`] when the live files of `counts` overlap.
pub fn build(
    worker: &mut Worker,
    setup: &Setup,
    open: impl FnOnce(Waker) -> Result<Inputs, SourceError>,
    archiver: Sender<ToArchiver>,
    ends: Option<CommitterEnds>,
) -> Result<(), TableError> {
    let logic = &setup.job.logic;
    let (to_source, to_raw, to_pending) = (Inbox::default(), Inbox::default(), Inbox::default());
    let inboxes = vec![to_source.clone(), to_raw.clone(), to_pending.clone()];
    let answers = control::build(worker, inboxes, ends);
    let (index, peers) = (worker.index(), worker.peers());
    let pending = Pending {
        worker: index,
        workers: peers,
        log: setup.counts.clone(),
        layout: Arc::new(Layout::new(setup.live.iter(), |bucket| usize::from(bucket) % peers == index)?),
        dimensions: logic.dimensions.clone().into(),
        generation: setup.generation,
        runtime: setup.runtime.clone(),
        turn: Arc::clone(&setup.turn),
        answers: answers.clone(),
        failures: setup.failures.clone(),
        progress: Arc::clone(&setup.progress),
        told: [0; Lane::ALL.len()],
    };
    let epoch_bytes = (setup.job.settings.epoch_bytes / setup.workers_per_process as u64).max(1);
    let topics: Arc<[String]> = setup.job.source.topics.clone().into();
    let router = Router::new(logic, setup.absorbed);
    let total = finest_total(logic);
    let dimensions = &logic.dimensions;
    let progress = &setup.progress;

    worker.dataflow_named::<Epoch, _, _>("counting", |scope| {
        let to_committer = answers.clone();
        let answer = move |message| to_committer.send(message);
        let records = source::source(scope, to_source, open, answer, epoch_bytes, Arc::clone(progress));
        let (events, decoded) = decode::decode(records, Decoder::new(logic));
        let absorbed = archive::Absorbed { router: router.clone(), total };
        archive::archive(decoded, to_raw, topics, absorbed, archiver, answers, Arc::clone(progress));
        let updates = combine::combine(events, dimensions.clone(), router, setup.buckets);
        let cells = roll_up::roll_up(updates);
        let batches = pending::arrange(cells);
        pending.pending(batches, to_pending, total);
    });
    Ok(())
}

/// How long a worker without work sleeps before it checks whether it must end.
const PARK: Duration = Duration::from_millis(100);

/// Runs a worker until its dataflows have ended, or `abort` is set.
pub fn run_until(worker: &mut Worker, abort: &AtomicBool) {
    while worker.has_dataflows() && !abort.load(Ordering::Relaxed) {
        worker.step_or_park(Some(PARK));
    }
    drop_dataflows(worker);
}

/// Drops a worker's dataflows. Timely runs a worker as long as it has dataflows, and after a failure they never end.
pub fn drop_dataflows(worker: &mut Worker) {
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}
