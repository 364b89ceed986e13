//! A live job: check, fence, read, feed, run, end; in this process alone, or in one of several.
//!
//! Nothing is fenced before all that can be checked was checked, and all processes are there. Each table's state is read after its
//! own fence, so what is read is what this writer goes on from; process 0 reads it and hands it to all ([`Start`]). The tables are
//! the only state: a restart is a start.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use timely::scheduling::SyncActivator;
use timely::worker::Worker;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

use crate::cluster::{ClusterError, Member, alone, execute_in};
use crate::dataflow::archive::{Archiver, ToArchiver};
use crate::dataflow::backlog::Backlog;
use crate::dataflow::commit::{Committer, Request, Table, lane_graces_us};
use crate::dataflow::control::CommitterEnds;
use crate::dataflow::error::CommitError;
use crate::dataflow::protocol::{Answer, Order};
use crate::dataflow::source::Inputs;
use crate::dataflow::{Plan, Progress, Standing, build, drop_dataflows, run_until};
use crate::job::Job;
use crate::ledger::{self, Fingerprint, Ledger};
use crate::model::{Epoch, Lane, TimeUs};
use crate::process::panics::{caught_in, of_task};
use crate::process::{Clock, Exit, HasExit, lock};
use crate::source::archive::{Archive, FeedPlan, FeedRows};
use crate::source::{PartitionStart, SourceError, SourceFactory, Txns};
use crate::table::layout::Layout;
use crate::table::log::WRITER_GENERATION;
use crate::table::{Commit, File, Log, Root, State, TableError, counts, raw, retention};
use crate::upkeep::Upkeep;

/// How long the end waits for checkpoints under way. Ended in the middle, what writes them panics.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(5);

/// How long the orderly end of several processes waits for all workers to have ended. All is published by then.
const WORKERS_PATIENCE: Duration = Duration::from_secs(5);

/// What a live job needs.
pub struct Live {
    /// The job.
    pub job: Job,
    /// Where its tables are.
    pub root: Root,
    /// Worker threads.
    pub workers: usize,
    /// The time.
    pub clock: Clock,
    /// Where records come from.
    pub source: Arc<dyn SourceFactory>,
    /// What the process says of itself.
    pub progress: Arc<Progress>,
}

/// What ended a job without its having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// A table, at the start.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The source, at the start.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The committer, or a worker through it.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The other processes of the job.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The system gave no thread.
    #[error("the system gave no thread: {0}; raise the limit of processes, or use fewer workers")]
    Thread(String),
}

impl HasExit for LiveError {
    fn exit(&self) -> Exit {
        match self {
            LiveError::Table(error) => error.exit(),
            LiveError::Source(error) => error.exit(),
            LiveError::Commit(error) => error.exit(),
            LiveError::Cluster(error) => error.exit(),
            LiveError::Thread(_) => Exit::Failed,
        }
    }
}

/// Both tables.
struct Tables {
    raw: Table,
    counts: Table,
    buckets: u32,
}

/// What the workers of a process start from: read by the process that leads, the same for all.
#[derive(Debug, Serialize, Deserialize)]
struct Start {
    generation: i64,
    buckets: u32,
    absorbed: [Epoch; Lane::ALL.len()],
    /// Live files of `counts`.
    live: Vec<File>,
    feed: FeedRows,
    /// Where each partition goes on.
    partitions: Vec<PartitionStart>,
}

/// What only the process that leads has: it commits.
struct Lead {
    raw: Table,
    counts: Table,
    layout: Layout,
    /// Epochs of the archive that are to be fed, with their rows.
    to_feed: BTreeMap<Epoch, u64>,
    /// Bytes of updates that may come of them before some must be published.
    feed_bytes_max: u64,
    last_ingested_at: TimeUs,
}

/// Runs a job until it is asked to end, in this process alone.
///
/// # Errors
/// [`LiveError`]; nothing that was not committed can be seen by anybody, and the next start goes on from the tables.
pub fn run(live: Live, request: watch::Receiver<Request>) -> Result<(), LiveError> {
    let (root, progress) = (live.root.clone(), Arc::clone(&live.progress));
    let run = |runtime: &Runtime| {
        runtime.block_on(check(&live))?;
        let (lead, start) = runtime.block_on(lead(&live, 1))?;
        run_alone(runtime, live, lead, start, request)
    };
    on_runtime(&root, &progress, run, |_| ())
}

/// Runs this process of a job over several until all are asked to end, or one of them is lost.
///
/// # Errors
/// [`LiveError`], as [`run`]; [`LiveError::Cluster`] for what another process ended with.
pub fn run_as(member: Member, live: Live, request: watch::Receiver<Request>) -> Result<(), LiveError> {
    let (root, progress) = (live.root.clone(), Arc::clone(&live.progress));
    let run = |runtime: &Runtime| match member.index() {
        0 => run_leading(runtime, &member, live, request),
        _ => run_following(runtime, &member, live, request),
    };
    on_runtime(&root, &progress, run, |result| match result {
        Ok(()) => member.end(Exit::Done, ""),
        Err(error) => member.end(error.exit(), &error.to_string()),
    })
}

/// `ended` hears of the end at once, before checkpoints are waited for.
fn on_runtime(
    root: &Root,
    progress: &Progress,
    run: impl FnOnce(&Runtime) -> Result<(), LiveError>,
    ended: impl FnOnce(&Result<(), LiveError>),
) -> Result<(), LiveError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("storage")
        .enable_all()
        .build()
        .map_err(|error| LiveError::Thread(error.to_string()))?;
    // The committer runs on this thread.
    let result =
        caught_in("the committer", || run(&runtime)).unwrap_or_else(|panic| Err(TableError::Bug(panic).into()));
    if let Err(error) = &result {
        progress.fails(&error.to_string());
    }
    ended(&result);
    runtime.block_on(root.finish(CHECKPOINT_PATIENCE));
    // Uploads of a job that has failed are of no use to anybody.
    runtime.shutdown_background();
    result
}

/// Checks the source.
async fn check(live: &Live) -> Result<(), LiveError> {
    ask(live, |source| source.check()).await
}

/// Decides where the source goes on, by how far `raw` has come; returns that.
async fn resume(live: &Live, raw: &State) -> Result<Txns, LiveError> {
    let progress = progress_of(raw);
    let txns = progress.clone();
    ask(live, move |source| source.resume(&txns)).await?;
    Ok(progress)
}

/// Asks the source, which blocks, on a thread of its own: the start must hear meanwhile that another process is lost.
async fn ask(
    live: &Live,
    question: impl FnOnce(&dyn SourceFactory) -> Result<(), SourceError> + Send + 'static,
) -> Result<(), LiveError> {
    let source = Arc::clone(&live.source);
    let asked = tokio::task::spawn_blocking(move || question(source.as_ref())).await;
    Ok(asked.map_err(|error| SourceError::Bug(of_task("asking the source", error)))??)
}

/// Checks, fences, reads. The source was checked.
async fn lead(live: &Live, processes: usize) -> Result<(Lead, Start), LiveError> {
    let budget_bytes = live.job.settings.budget_bytes(processes);
    let mut tables = open(live, budget_bytes).await?;
    // Before the fence, so that a start that must be refused does not end the job that runs.
    let resumed_from = resume(live, &tables.raw.state).await?;
    changes_from(&tables, &live.job)?;
    let generation = take(&mut tables, live.clock.now_ms()).await?;
    let feed_bytes_max = counts::feed_bytes_max(&tables.counts.state, budget_bytes);
    keep(&mut tables, live, budget_bytes).await?;
    record_logic(&mut tables, live, generation).await?;
    let Tables { raw, counts, buckets } = tables;
    if progress_of(&raw.state) != resumed_from {
        resume(live, &raw.state).await?;
    }
    let absorbed = counts::lane_epochs(&counts.state);
    let feed = feed_plan(&raw, absorbed)?;
    let graces_us = least_graces_us(live, &counts.state).await?;
    let last_ingested_at = last_ingested_at(&raw.state, &counts.state, graces_us)?;
    tracing::info!(
        generation,
        epoch = raw.state.txn(raw::EPOCH),
        archive_files_to_feed = feed.files(),
        workers = live.workers,
        tables = %live.root.url(),
        "job started"
    );
    let start = Start {
        generation,
        buckets,
        absorbed,
        live: counts.state.files.values().cloned().collect(),
        feed: feed.rows().clone(),
        partitions: live.source.starts(),
    };
    let layout = Layout::new(counts.state.files.values(), |_| true)?;
    Ok((Lead { raw, counts, layout, to_feed: feed.epochs(), feed_bytes_max, last_ingested_at }, start))
}

fn run_alone(
    runtime: &Runtime,
    live: Live,
    lead: Lead,
    start: Start,
    request: watch::Receiver<Request>,
) -> Result<(), LiveError> {
    let _upkeep = upkeep(&live).start(runtime.handle(), request.clone());
    let (ends, waiting) = committer_ends();
    let (failures, failed) = unbounded_channel();
    let workers = Workers::new(runtime, &live, start, 0, Ends { committer: Some(ends), failures })?;
    let abort = Arc::clone(&workers.abort);
    let generation = workers.plan.generation;
    let joined = alone(live.workers)
        .and_then(|network| execute_in(network, move |worker| workers.run(worker)))
        .map_err(LiveError::Thread)?;
    let progress = Arc::clone(&live.progress);
    let result = match waiting.committer(lead, live, generation, 1, request) {
        Ok(committer) => runtime.block_on(unless_failed(committer, failed)),
        Err(error) => Err(error),
    };
    if let Err(error) = &result {
        // Before the workers have ended, whatever they are at.
        progress.fails(&error.to_string());
        abort.store(true, Ordering::Relaxed);
    }
    // No answer means the same.
    runtime.block_on(joined).ok();
    Ok(result?)
}

/// Process 0: reads for all, commits for all.
fn run_leading(
    runtime: &Runtime,
    member: &Member,
    live: Live,
    request: watch::Receiver<Request>,
) -> Result<(), LiveError> {
    runtime.block_on(member.unless_ended(check(&live)))?;
    member.ready()?;
    let (lead, start) = runtime.block_on(member.unless_ended(lead(&live, member.processes())))?;
    member.hand_out(&start)?;
    let network = member.network()?;
    let _upkeep = upkeep(&live).start(runtime.handle(), request.clone());
    let (ends, waiting) = committer_ends();
    let (failures, failed) = unbounded_channel();
    let workers = Workers::new(runtime, &live, start, 0, Ends { committer: Some(ends), failures })?;
    let generation = workers.plan.generation;
    let joined = execute_in(network, move |worker| workers.run(worker)).map_err(LiveError::Thread)?;
    let committer = waiting.committer(lead, live, generation, member.processes(), request)?;
    let committed = async { unless_failed(committer, failed).await.map_err(LiveError::from) };
    runtime.block_on(member.unless_ended(committed))?;
    // All is published: what is left is to end together.
    member.end(Exit::Done, "");
    runtime.block_on(until_joined(joined));
    Ok(())
}

/// Any other process: workers.
fn run_following(
    runtime: &Runtime,
    member: &Member,
    live: Live,
    mut request: watch::Receiver<Request>,
) -> Result<(), LiveError> {
    runtime.block_on(member.unless_ended(check(&live)))?;
    member.ready()?;
    let start: Start = member.receive()?;
    let generation = start.generation;
    live.source.start_at(start.partitions.clone());
    let network = member.network()?;
    let (failures, mut failed) = unbounded_channel();
    let workers = Workers::new(runtime, &live, start, member.index(), Ends { committer: None, failures })?;
    let joined = execute_in(network, move |worker| workers.run(worker)).map_err(LiveError::Thread)?;
    tracing::info!(generation, process = member.index(), workers = live.workers, "workers started");
    let end = runtime.block_on(async {
        let mut asked = false;
        loop {
            tokio::select! {
                end = member.ended() => break Ok(end),
                error = first(&mut failed) => break Err(error),
                stop = request.wait_for(|request| *request == Request::Stop), if !asked => {
                    asked = true;
                    if stop.is_ok() {
                        member.ask_to_stop();
                    }
                }
            }
        }
    })?;
    match end.exit {
        Exit::Done => {
            runtime.block_on(until_joined(joined));
            Ok(())
        }
        _ => Err(ClusterError::Ended(end).into()),
    }
}

/// Commits until all is done; or until a worker, thread or task of this process fails, also while a commit waits for a store that
/// is away.
async fn unless_failed(committer: Committer, mut failed: UnboundedReceiver<Answer>) -> Result<(), CommitError> {
    tokio::select! {
        biased;
        error = first(&mut failed) => Err(error),
        done = committer.run() => done,
    }
}

/// The first failure; for ever where there is none.
async fn first(failed: &mut UnboundedReceiver<Answer>) -> CommitError {
    while let Some(answer) = failed.recv().await {
        if let Answer::Failed { exit, what } = answer {
            return CommitError::Worker { exit, what };
        }
    }
    std::future::pending().await
}

/// All was published when this is waited for: what does not end in time is left.
async fn until_joined(joined: impl Future<Output = Result<(), oneshot::error::RecvError>>) {
    if tokio::time::timeout(WORKERS_PATIENCE, joined).await.is_err() {
        tracing::debug!("workers did not end in time, left");
    }
}

fn upkeep(live: &Live) -> Upkeep {
    Upkeep { root: live.root.clone(), settings: live.job.settings.clone(), clock: live.clock.clone() }
}

/// Ends of the channels between the committer and worker 0 that the committer will take.
struct Waiting {
    orders: Sender<Order>,
    answers: UnboundedReceiver<Answer>,
    wake: mpsc::Receiver<SyncActivator>,
}

fn committer_ends() -> (CommitterEnds, Waiting) {
    let (orders, orders_receiver) = mpsc::channel();
    let (answers_sender, answers) = unbounded_channel();
    let (wake_sender, wake) = mpsc::channel();
    let ends = CommitterEnds { orders: orders_receiver, answers: answers_sender, wake: wake_sender };
    (ends, Waiting { orders, answers, wake })
}

impl Waiting {
    /// The committer, when worker 0 runs.
    fn committer(
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

/// Reads both tables, making them where there are none. `budget_bytes`: of all processes.
async fn open(live: &Live, budget_bytes: u64) -> Result<Tables, TableError> {
    let now_ms = live.clock.now_ms();
    let raw_log = Log::new(&live.root, "raw");
    let counts_log = Log::new(&live.root, "counts");
    let retention = retention::properties(live.job.settings.dead_files_keep_hours);
    let raw_definition = raw::definition().with_properties(retention.clone());
    let raw_state = raw_log.load_or_create(&raw_definition, now_ms).await?;
    let counts_definition = counts::definition(live.job.tables.buckets)
        .with_properties(retention)
        .with_properties(counts::pending_properties(budget_bytes));
    let counts_state = counts_log.load_or_create(&counts_definition, now_ms).await?;
    let buckets = counts::buckets(&counts_state)?;
    if buckets != live.job.tables.buckets {
        return Err(TableError::Invalid(format!(
            "tables.buckets = {}, but the table was made with {buckets}; put {buckets} into the job file",
            live.job.tables.buckets
        )));
    }
    Ok(Tables {
        raw: Table { log: raw_log, state: raw_state },
        counts: Table { log: counts_log, state: counts_state },
        buckets,
    })
}

/// Takes both tables for a new generation: `raw` hands it out, then `counts`. A table that holds an equal or higher one ends
/// us. Each state is up to date with its own fence.
async fn take(tables: &mut Tables, now_ms: i64) -> Result<i64, TableError> {
    let Tables { raw, counts, .. } = tables;
    let generation = raw.log.fence(&mut raw.state, 0, now_ms).await?;
    counts.log.fence(&mut counts.state, generation, now_ms).await
}

/// Lets both tables say how long the job keeps what is superseded and how they are laid out, and `counts` how much may be
/// unpublished, where that has changed since the last start.
async fn keep(tables: &mut Tables, live: &Live, budget_bytes: u64) -> Result<(), TableError> {
    let Tables { raw, counts, .. } = tables;
    // What is unpublished may have been held by a job of a larger budget, until nothing is.
    let is_level = counts::lane_epochs(&counts.state).iter().all(|lane| *lane == raw.state.txn(raw::EPOCH) as Epoch);
    let held = counts::pending_bytes_max(&counts.state).filter(|_| !is_level).unwrap_or(0);
    let pending = counts::pending_properties(budget_bytes.max(held));
    for (table, own) in [(raw, BTreeMap::new()), (counts, pending)] {
        let mut properties = retention::properties(live.job.settings.dead_files_keep_hours);
        properties.extend(table.log.said_of(&table.state));
        properties.extend(own);
        table.log.set_properties(&mut table.state, &properties, live.clock.now_ms()).await?;
    }
    Ok(())
}

/// From which epoch on the job's logic counts, where that is not on record yet.
///
/// # Errors
/// [`TableError::Invalid`] when another logic is on record and lanes have not absorbed all that is archived: the rest is that
/// logic's to count.
fn changes_from(tables: &Tables, job: &Job) -> Result<Option<Epoch>, TableError> {
    let ours = Fingerprint::of(&job.logic);
    let (since, theirs) = match Ledger::of(&tables.counts.state).newest() {
        Some((_, theirs)) if theirs == ours => return Ok(None),
        Some(newest) => newest,
        // New tables; or they are of a build that kept no ledger, and then they are taken to be of this logic.
        None => return Ok(Some(1)),
    };
    let newest = tables.raw.state.txn(raw::EPOCH) as Epoch;
    let lanes = counts::lane_epochs(&tables.counts.state);
    if lanes.iter().all(|lane| *lane == newest) {
        return Ok(Some(newest + 1));
    }
    let apart: Vec<String> =
        Lane::ALL.iter().zip(lanes).map(|(lane, epoch)| format!("{} {epoch}", lane.name())).collect();
    Err(TableError::Invalid(format!(
        "the job counts with another logic ({ours}) than the tables do since epoch {since} ({theirs}), and raw stands at epoch \
         {newest}, but the lanes at {}: the rest must still be counted with theirs. Stop the running job in order (SIGTERM) and \
         start this one again; where none runs, first run the former job file with its build and --drain",
        apart.join(", ")
    )))
}

/// Puts the job's logic on record, where it is another one: its text beside the tables, then from which epoch on it counts.
async fn record_logic(tables: &mut Tables, live: &Live, generation: i64) -> Result<(), TableError> {
    // Who was fenced may have committed since it was looked at.
    while let Some(from) = changes_from(tables, &live.job)? {
        ledger::keep(&live.root, &live.job.logic).await?;
        let ours = Fingerprint::of(&live.job.logic);
        let txns = vec![(WRITER_GENERATION.to_owned(), generation), (ledger::logic_txn(from), ours.to_txn())];
        let commit = Commit { txns, ..Commit::default() };
        let counts = &mut tables.counts;
        match counts.log.commit(&mut counts.state, &commit, "SET LOGIC", live.clock.now_ms()).await {
            Ok(()) => tracing::info!(logic = %ours, from_epoch = from, "logic on record"),
            Err(TableError::Lost { .. }) => {
                counts.log.refresh(&mut counts.state).await?;
                counts.log.check_generation(&counts.state, generation)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The application transactions of `raw` that the source goes on from.
fn progress_of(raw: &State) -> Txns {
    raw.txns.iter().filter(|(id, _)| *id != WRITER_GENERATION).map(|(id, value)| (id.clone(), *value)).collect()
}

fn feed_plan(raw_table: &Table, absorbed: [Epoch; Lane::ALL.len()]) -> Result<FeedPlan, TableError> {
    let newest = raw_table.state.txn(raw::EPOCH) as Epoch;
    let ahead = absorbed.into_iter().max().unwrap_or(0);
    if ahead > newest {
        return Err(TableError::Corrupt {
            table: "counts".to_owned(),
            what: format!(
                "a lane stands at epoch {ahead}, but raw ends at {newest}: these two tables do not belong together"
            ),
        });
    }
    let after = absorbed.into_iter().min().unwrap_or(0);
    FeedPlan::new(raw_table.log.clone(), &raw_table.state, after, newest)
}

/// The least graces of all logics on record: a lane's `complete_until` may be of an earlier one, and with a longer grace than it was
/// made with it would be taken for a time that has not come yet, until which no epoch ends.
async fn least_graces_us(live: &Live, counts_state: &State) -> Result<[TimeUs; Lane::ALL.len()], TableError> {
    let mut least = lane_graces_us(&live.job.logic);
    let ours = Fingerprint::of(&live.job.logic);
    for fingerprint in Ledger::of(counts_state).logics.into_values().filter(|theirs| *theirs != ours) {
        let known = ledger::known(&live.root, fingerprint).await?;
        let theirs = known.logic().map_or([0; Lane::ALL.len()], lane_graces_us);
        least.iter_mut().zip(theirs).for_each(|(least, theirs)| *least = theirs.min(*least));
    }
    Ok(least)
}

/// The newest `ingested_at` that the tables know of: it never goes back, whatever the clock does.
fn last_ingested_at(
    raw_state: &State,
    counts_state: &State,
    graces_us: [TimeUs; Lane::ALL.len()],
) -> Result<TimeUs, TableError> {
    let mut last = raw::newest_ingested_at(raw_state)?;
    for (lane, grace) in Lane::ALL.into_iter().zip(graces_us) {
        let until = counts_state.txn(&counts::complete_until_txn(lane));
        if until > 0 {
            last = last.max(until * 1000 + grace);
        }
    }
    Ok(last)
}

/// The workers' ends of the channels to the committer.
struct Ends {
    /// Where the committer is: worker 0's.
    committer: Option<CommitterEnds>,
    /// Is told of what fails beside the dataflow.
    failures: UnboundedSender<Answer>,
}

/// What each worker thread takes its part from.
struct Workers {
    plan: Plan,
    source: Arc<dyn SourceFactory>,
    feed: FeedPlan,
    archiver: Mutex<Sender<ToArchiver>>,
    ends: Mutex<Option<CommitterEnds>>,
    failures: UnboundedSender<Answer>,
    abort: Arc<AtomicBool>,
}

impl Workers {
    /// Those of a process.
    fn new(runtime: &Runtime, live: &Live, start: Start, process: usize, ends: Ends) -> Result<Workers, LiveError> {
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
            plan: Plan {
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

    /// A worker's life. A panic is told to the committer, which ends the job: a sibling would wait for ever.
    fn run(&self, worker: &mut Worker) {
        let who = format!("worker {}", worker.index());
        let failed = match caught_in(&who, || self.steps(worker)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => Answer::failed(&error),
            Err(panic) => Answer::failed(&TableError::Bug(panic)),
        };
        // A job that has ended has said why.
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
                    runtime: self.plan.runtime.clone(),
                    waker,
                },
            })
        };
        build(worker, &self.plan, open, archiver, ends)?;
        run_until(worker, &self.abort);
        Ok(())
    }
}
