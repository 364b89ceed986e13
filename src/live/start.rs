//! Prepares the start of a live job: checks, fences and reads the tables.
//!
//! In: the job and both tables, which are created if they do not exist. Out: [`Start`] for the workers of all processes, [`Lead`]
//! for the committer. Ordering: nothing is fenced before everything that can be checked was checked. Each table's state is read
//! after its own fence, so it is the state that this writer continues from. State: none. Failure: a start that fails has changed
//! no rows; at most it has taken a generation, and recorded the job's settings and logic.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::LiveError;
use crate::dataflow::Progress;
use crate::dataflow::commit::{Table, lane_graces_us};
use crate::job::Job;
use crate::ledger::{self, Fingerprint, Ledger};
use crate::model::{Epoch, Lane, TimeUs};
use crate::process::Clock;
use crate::process::panics::of_task;
use crate::source::feed::{FeedPlan, FeedRows};
use crate::source::{PartitionStart, SourceError, SourceFactory, Txns};
use crate::table::layout::Layout;
use crate::table::log::WRITER_GENERATION;
use crate::table::{Commit, File, Log, Root, State, TableError, counts, raw, retention};

/// What a live job needs.
pub struct Live {
    /// The job.
    pub job: Job,
    /// Where its tables are.
    pub root: Root,
    /// Number of worker threads in this process.
    pub workers: usize,
    /// The clock.
    pub clock: Clock,
    /// Where records come from.
    pub source: Arc<dyn SourceFactory>,
    /// The numbers that the process reports about itself.
    pub progress: Arc<Progress>,
}

/// Both tables.
struct Tables {
    raw: Table,
    counts: Table,
    buckets: u32,
}

/// What the workers of a process start from: the leading process reads it, and it is the same for all.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) generation: i64,
    pub(super) buckets: u32,
    pub(super) absorbed: [Epoch; Lane::ALL.len()],
    /// Live files of `counts`.
    pub(super) live: Vec<File>,
    pub(super) feed: FeedRows,
    /// Where reading of each partition resumes.
    pub(super) partitions: Vec<PartitionStart>,
}

/// What only the leading process has, because it commits.
pub(super) struct Lead {
    pub(super) raw: Table,
    pub(super) counts: Table,
    pub(super) layout: Layout,
    /// Epochs of the archive that are to be fed, with their numbers of rows.
    pub(super) to_feed: BTreeMap<Epoch, u64>,
    /// Bytes of updates that these rows may make before some must be published.
    pub(super) feed_bytes_max: u64,
    pub(super) last_ingested_at: TimeUs,
}

/// Checks the source.
pub(super) async fn check(live: &Live) -> Result<(), LiveError> {
    ask(live, |source| source.check()).await
}

/// Checks, fences and reads the tables. The source must have been checked.
pub(super) async fn lead(live: &Live, processes: usize) -> Result<(Lead, Start), LiveError> {
    let budget_bytes = live.job.settings.budget_bytes(processes);
    let mut tables = open(live, budget_bytes).await?;
    // Before the fence, so that a start that must be refused does not end a running job.
    belong_together(&mut tables).await?;
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

/// Lets the source decide where it resumes, by the progress that `raw` records. Returns that progress.
async fn resume(live: &Live, raw: &State) -> Result<Txns, LiveError> {
    let progress = progress_of(raw);
    let txns = progress.clone();
    ask(live, move |source| source.resume(&txns)).await?;
    Ok(progress)
}

/// Calls the source, which blocks, on a thread of its own, so that the start learns meanwhile if another process is lost.
async fn ask(
    live: &Live,
    question: impl FnOnce(&dyn SourceFactory) -> Result<(), SourceError> + Send + 'static,
) -> Result<(), LiveError> {
    let source = Arc::clone(&live.source);
    let asked = tokio::task::spawn_blocking(move || question(source.as_ref())).await;
    Ok(asked.map_err(|error| SourceError::Bug(of_task("asking the source", error)))??)
}

/// Reads both tables, and creates them if they do not exist. `budget_bytes`: that of all processes.
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
            "tables.buckets = {}, but the table was created with {buckets}; set tables.buckets = {buckets} in the job \
             file",
            live.job.tables.buckets
        )));
    }
    Ok(Tables {
        raw: Table { log: raw_log, state: raw_state },
        counts: Table { log: counts_log, state: counts_state },
        buckets,
    })
}

/// Takes both tables for a new generation: first `raw`, which assigns it, then `counts`, which fails if it has an equal or higher
/// one. Each state is then up to date with its own fence.
async fn take(tables: &mut Tables, now_ms: i64) -> Result<i64, TableError> {
    let Tables { raw, counts, .. } = tables;
    let generation = raw.log.fence(&mut raw.state, 0, now_ms).await?;
    counts.log.fence(&mut counts.state, generation, now_ms).await
}

/// Records, if it has changed since the last start, in both tables how long the job keeps dead files and how the tables are laid
/// out, and in `counts` how many bytes may be unpublished.
async fn keep(tables: &mut Tables, live: &Live, budget_bytes: u64) -> Result<(), TableError> {
    let Tables { raw, counts, .. } = tables;
    // As long as something is unpublished, a job with a larger budget may have held it.
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

/// The epoch from which on the job's logic counts, if that is not on record yet.
///
/// # Errors
/// [`TableError::Invalid`] if another logic is on record and lanes have not absorbed all that is archived: the rest must be
/// counted with that logic.
fn changes_from(tables: &Tables, job: &Job) -> Result<Option<Epoch>, TableError> {
    let ours = Fingerprint::of(&job.logic);
    let (since, theirs) = match Ledger::of(&tables.counts.state).newest() {
        Some((_, theirs)) if theirs == ours => return Ok(None),
        Some(newest) => newest,
        // The tables are new; or a build that kept no ledger made them, and they are assumed to be counted with this logic.
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
        "the job's logic ({ours}) differs from the logic on record since epoch {since} ({theirs}), and the lanes are \
         behind: raw is at epoch {newest}, the lanes are at {}. The remaining epochs must be counted with the logic \
         on record. If a job is running, stop it in order (SIGTERM) and start this one again; otherwise first run the \
         previous job file with --drain, with the build that it ran with",
        apart.join(", ")
    )))
}

/// Puts the job's logic on record, if it is another one: its text beside the tables, then the epoch from which on it counts.
async fn record_logic(tables: &mut Tables, live: &Live, generation: i64) -> Result<(), TableError> {
    // The writer that was fenced may have committed since the ledger was read.
    while let Some(from) = changes_from(tables, &live.job)? {
        ledger::keep(&live.root, &live.job.logic).await?;
        let ours = Fingerprint::of(&live.job.logic);
        let txns = vec![(WRITER_GENERATION.to_owned(), generation), (ledger::logic_txn(from), ours.to_txn())];
        let commit = Commit { txns, ..Commit::default() };
        let counts = &mut tables.counts;
        match counts.log.commit(&mut counts.state, &commit, "SET LOGIC", live.clock.now_ms()).await {
            Ok(()) => tracing::info!(logic = %ours, from_epoch = from, "logic recorded"),
            Err(TableError::Lost { .. }) => {
                counts.log.refresh(&mut counts.state).await?;
                counts.log.check_generation(&counts.state, generation)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The application transactions of `raw` from which the source resumes.
fn progress_of(raw: &State) -> Txns {
    raw.txns.iter().filter(|(id, _)| *id != WRITER_GENERATION).map(|(id, value)| (id.clone(), *value)).collect()
}

/// Refuses a table `counts` with epochs that `raw` does not have.
///
/// # Errors
/// [`TableError::Corrupt`].
async fn belong_together(tables: &mut Tables) -> Result<(), TableError> {
    let Tables { raw, counts, .. } = tables;
    let ahead = counts::lane_epochs(&counts.state).into_iter().max().unwrap_or(0);
    if ahead > raw.state.txn(raw::EPOCH) as Epoch {
        // `raw` was read first: a running job may have committed to both tables since then.
        raw.log.refresh(&mut raw.state).await?;
    }
    let newest = raw.state.txn(raw::EPOCH) as Epoch;
    if ahead > newest {
        return Err(TableError::Corrupt {
            table: "counts".to_owned(),
            what: format!(
                "a lane is at epoch {ahead}, but raw ends at {newest}: raw has lost commits, or these two tables do not belong together"
            ),
        });
    }
    Ok(())
}

fn feed_plan(raw_table: &Table, absorbed: [Epoch; Lane::ALL.len()]) -> Result<FeedPlan, TableError> {
    let newest = raw_table.state.txn(raw::EPOCH) as Epoch;
    let after = absorbed.into_iter().min().unwrap_or(0);
    FeedPlan::new(raw_table.log.clone(), &raw_table.state, after, newest)
}

/// The shortest graces of all logics on record. An earlier logic may have set a lane's `complete_until`. With a longer grace than
/// that logic's, the `ingested_at` computed from it could lie in the future, and no epoch would end until then.
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

/// The newest `ingested_at` that the tables know of. It never goes back, whatever the clock does.
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
