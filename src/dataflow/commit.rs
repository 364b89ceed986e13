//! `commit`: the ticker and the committer, one task beside worker 0.
//!
//! In: answers of all workers, the clock, a request to end. Out: orders; commits of `raw` and `counts`. It closes epochs, commits
//! each to `raw` when every worker has read it and every process archived it, and commits a publish order to `counts` when
//! every worker has staged its part and `raw` has its epoch. It counts messages and waits for no frontier.
//!
//! Time: at most `epochs_in_flight_max` epochs are closed and not in `raw`; one publish order is under way. State: reports of
//! epochs that are not yet published. Failure: a commit waits while the store is away, and the epoch with it; a lost race
//! is looked at ([`Committer::lost_counts`]); a newer writer ends us ([`TableError::Fenced`]). Restart: the tables are the state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use timely::scheduling::SyncActivator;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tracing::Instrument;

use super::Progress;
use super::protocol::{Answer, Archived, FailureKind, Order, Outcomes, Position, Read, Received, Staged};
use crate::clock::Clock;
use crate::job::{Logic, Settings};
use crate::model::{Epoch, Granularity, Lane, TimeUs};
use crate::table::log::WRITER_GENERATION;
use crate::table::{Commit, File, Log, State, TableError, counts, raw};

/// While workers hold more pending bytes than this, no epoch is closed: the source comes to rest.
const PENDING_BYTES_MAX: u64 = 1 << 30;

/// When to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Not at all.
    Run,
    /// When every partition was read up to where it ended at the start.
    Drain,
    /// Now: commit what was read, publish all lanes.
    Stop,
}

/// What ends a job without its having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A worker, for a reason that may pass.
    #[error("{0}")]
    Retry(String),
    /// A worker, for good.
    #[error("{0}")]
    Failed(String),
    /// Records were lost or doubled between two places that count them.
    #[error(
        "epoch {epoch} does not balance: {what}; counts was not touched, raw has every record. This is a bug: please report it"
    )]
    Imbalance {
        /// The epoch.
        epoch: Epoch,
        /// Which two counts differ.
        what: String,
    },
}

/// A table and its newest state.
pub struct Table {
    /// Its log.
    pub log: Log,
    /// The version that we commit on.
    pub state: State,
}

/// What the committer works with.
pub struct Committer {
    /// Archive.
    pub raw: Table,
    /// Counts.
    pub counts: Table,
    /// Our generation, in both tables.
    pub generation: i64,
    /// Workers of all processes.
    pub workers: usize,
    /// Processes.
    pub processes: usize,
    /// Pace and bounds.
    pub settings: Settings,
    /// Grace of each lane, in µs.
    pub graces_us: [TimeUs; Lane::ALL.len()],
    /// The time.
    pub clock: Clock,
    /// `ingested_at` of the newest epoch that the tables know of.
    pub last_ingested_at: TimeUs,
    /// Orders go here, and then worker 0 is woken.
    pub orders: mpsc::Sender<Order>,
    /// Wakes worker 0.
    pub wake: SyncActivator,
    /// Answers come from here.
    pub answers: UnboundedReceiver<Answer>,
    /// When to end.
    pub request: watch::Receiver<Request>,
    /// The live line's numbers.
    pub progress: Arc<Progress>,
}

/// Grace of each lane of a logic: its granularity's; late and coarse have none.
pub fn lane_graces_us(logic: &Logic) -> [TimeUs; Lane::ALL.len()] {
    Lane::ALL.map(|lane| match lane {
        Lane::Minute => logic.grace_us(Granularity::Minute),
        Lane::Hour => logic.grace_us(Granularity::Hour),
        Lane::Day => logic.grace_us(Granularity::Day),
        Lane::Late | Lane::Coarse => 0,
    })
}

/// The epoch that is open.
struct Open {
    epoch: Epoch,
    ingested_at: TimeUs,
    busy: bool,
    full: bool,
}

/// What was said of an epoch that is closed.
#[derive(Default)]
struct Closed {
    ingested_at: TimeUs,
    reads: Vec<Read>,
    archived: Vec<Archived>,
    received: Vec<Received>,
}

/// The publish order under way.
struct Publishing {
    order: u64,
    attempt: u32,
    epoch: Epoch,
    staged: Vec<Staged>,
}

struct Run {
    open: Open,
    closed: BTreeMap<Epoch, Closed>,
    publishing: Option<Publishing>,
    /// The first epoch of this run: what came before was closed by another, and comes from the archive.
    first: Epoch,
    /// Newest epoch in every lane.
    published: Epoch,
    orders: u64,
    fed: usize,
    drained: usize,
    pending_bytes: BTreeMap<usize, u64>,
    /// The job ends when this epoch is published.
    last: Option<Epoch>,
    /// Newest epoch, with its `ingested_at`, in which all partitions were read to their ends.
    at_end: Option<(Epoch, TimeUs)>,
}

impl Committer {
    /// Runs until the request to end is carried out.
    ///
    /// # Errors
    /// [`CommitError`]; then nothing more is ordered, and the workers are to be let go.
    pub async fn run(self) -> Result<(), CommitError> {
        self.run_unnamed().instrument(tracing::debug_span!("commit")).await
    }

    async fn run_unnamed(mut self) -> Result<(), CommitError> {
        let newest = self.raw.state.txn(raw::EPOCH) as Epoch;
        let published = lane_epochs(&self.counts.state).into_iter().min().unwrap_or(0);
        let ingested_at = self.clock.now().max(self.last_ingested_at);
        let mut run = Run {
            open: Open { epoch: newest + 1, ingested_at, busy: false, full: false },
            closed: BTreeMap::new(),
            publishing: None,
            first: newest + 1,
            published,
            orders: 0,
            fed: 0,
            drained: 0,
            pending_bytes: BTreeMap::new(),
            last: None,
            at_end: None,
        };
        self.progress.epoch.store(newest, Ordering::Relaxed);
        self.progress.published.store(published, Ordering::Relaxed);
        self.order(Order::Tick { closed: newest, ingested_at });
        loop {
            while self.advance(&mut run).await? {}
            if run.last.is_some_and(|last| run.published >= last) {
                self.order(Order::Stop);
                return Ok(());
            }
            let due = self.due(&run.open);
            let may_tick = self.may_tick(&run);
            let may_change = *self.request.borrow() != Request::Stop;
            tokio::select! {
                answer = self.answers.recv() => match answer {
                    Some(answer) => self.hear(&mut run, answer)?,
                    None => return Err(CommitError::Failed("all workers are gone; see the log above".to_owned())),
                },
                () = self.clock.reaches(due), if may_tick => {}
                changed = self.request.changed(), if may_change => {
                    // Who could still ask is gone: stop in order.
                    if changed.is_err() {
                        return Err(CommitError::Failed("the process is ending".to_owned()));
                    }
                }
            }
        }
    }

    fn order(&self, order: Order) {
        // Workers that are gone say so by their answers' end.
        if self.orders.send(order).is_ok() && self.wake.activate().is_err() {
            tracing::debug!("order after the end of worker 0");
        }
    }

    fn hear(&self, run: &mut Run, answer: Answer) -> Result<(), CommitError> {
        match answer {
            Answer::Busy(epoch) => run.open.busy |= epoch == run.open.epoch,
            Answer::Full(epoch) => run.open.full |= epoch == run.open.epoch,
            Answer::Fed => run.fed += 1,
            Answer::Drained => run.drained += 1,
            Answer::Read(read) => {
                run.open.busy |= read.live > 0 && read.epoch == run.open.epoch;
                run.closed.entry(read.epoch).or_default().reads.push(read);
            }
            Answer::Archived(archived) => run.closed.entry(archived.epoch).or_default().archived.push(archived),
            Answer::Received(received) => run.closed.entry(received.epoch).or_default().received.push(received),
            Answer::Pending { worker, bytes } => drop(run.pending_bytes.insert(worker, bytes)),
            Answer::Staged(staged) => {
                if let Some(publishing) = &mut run.publishing
                    && (publishing.order, publishing.attempt) == (staged.order, staged.attempt)
                {
                    publishing.staged.push(staged);
                }
            }
            Answer::Failed { kind: FailureKind::Retry, what } => return Err(CommitError::Retry(what)),
            Answer::Failed { kind: FailureKind::Fatal, what } => return Err(CommitError::Failed(what)),
        }
        Ok(())
    }

    /// Does the next thing that can be done; whether there was one.
    async fn advance(&mut self, run: &mut Run) -> Result<bool, CommitError> {
        if self.may_tick(run) && self.wants_tick(run) {
            self.tick(run);
            return Ok(true);
        }
        let next = self.raw.state.txn(raw::EPOCH) as Epoch + 1;
        let complete = |closed: &Closed| closed.reads.len() == self.workers && closed.archived.len() == self.processes;
        if run.closed.get(&next).is_some_and(complete) && next < run.open.epoch {
            self.commit_raw(run, next).await?;
            return Ok(true);
        }
        let newest_closed = run.open.epoch - 1;
        match &run.publishing {
            None if newest_closed >= run.first && newest_closed > run.published => {
                run.orders += 1;
                self.publish(run, run.orders, 1, newest_closed);
                Ok(true)
            }
            Some(publishing) if publishing.staged.len() == self.workers && publishing.epoch < next => {
                let received = |(_, closed): (&Epoch, &Closed)| closed.received.len() == self.workers;
                if !run.closed.range(..=publishing.epoch).all(received) {
                    return Ok(false);
                }
                self.commit_counts(run).await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// When the open epoch is to be closed, as far as the clock decides it.
    fn due(&self, open: &Open) -> TimeUs {
        let seconds = if open.busy { self.settings.epoch_seconds } else { self.settings.idle_epoch_seconds };
        open.ingested_at + seconds as TimeUs * 1_000_000
    }

    fn may_tick(&self, run: &Run) -> bool {
        let in_flight = run.open.epoch - 1 - self.raw.state.txn(raw::EPOCH) as Epoch;
        run.last.is_none()
            && run.fed == self.workers
            && in_flight < self.settings.epochs_in_flight_max
            && run.pending_bytes.values().sum::<u64>() <= PENDING_BYTES_MAX
    }

    fn wants_tick(&self, run: &Run) -> bool {
        run.open.full || self.ends(run) || self.clock.now() >= self.due(&run.open)
    }

    /// Whether the open epoch is the last one.
    fn ends(&self, run: &Run) -> bool {
        match *self.request.borrow() {
            Request::Run => false,
            Request::Drain => run.drained == self.workers,
            Request::Stop => true,
        }
    }

    fn tick(&self, run: &mut Run) {
        let closed = run.open.epoch;
        if self.ends(run) {
            run.last = Some(closed);
        }
        run.closed.entry(closed).or_default().ingested_at = run.open.ingested_at;
        let ingested_at = self.clock.now().max(run.open.ingested_at);
        run.open = Open { epoch: closed + 1, ingested_at, busy: false, full: false };
        tracing::debug!(epoch = closed, "epoch closed");
        self.order(Order::Tick { closed, ingested_at });
    }

    fn publish(&self, run: &mut Run, order: u64, attempt: u32, epoch: Epoch) {
        run.publishing = Some(Publishing { order, attempt, epoch, staged: Vec::new() });
        self.order(Order::Publish { order, attempt, epoch, lanes: Lane::ALL.to_vec() });
    }

    async fn commit_raw(&mut self, run: &mut Run, epoch: Epoch) -> Result<(), CommitError> {
        let Some(closed) = run.closed.get(&epoch) else { return Ok(()) };
        let positions = closed.reads.iter().flat_map(|read| &read.positions);
        let mut txns = vec![(WRITER_GENERATION.to_owned(), self.generation), (raw::EPOCH.to_owned(), epoch as i64)];
        for Position { topic, partition, next_offset, check } in positions {
            txns.push((raw::offset_txn(topic, *partition), *next_offset));
            if let Some(check) = check {
                txns.push((raw::check_txn(topic, *partition), *check));
            }
        }
        let add: Vec<File> = closed.archived.iter().flat_map(|archived| archived.files.clone()).collect();
        let rows: u64 = add.iter().map(|file| file.rows).sum();
        let commit = Commit { add, remove: Vec::new(), txns };
        loop {
            let now_ms = self.clock.now_ms();
            match self.raw.log.commit(&mut self.raw.state, &commit, "STREAMING UPDATE", now_ms).await {
                Ok(()) => break,
                // Only adding rows: whatever else was committed, ours stands beside it, if the table is still ours.
                Err(TableError::Lost { .. }) => {
                    self.raw.log.refresh(&mut self.raw.state).await?;
                    self.raw.log.check_generation(&self.raw.state, self.generation)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if closed.reads.iter().all(|read| read.at_end) {
            run.at_end = Some((epoch, closed.ingested_at));
        }
        self.progress.epoch.store(epoch, Ordering::Relaxed);
        tracing::debug!(epoch, rows, version = self.raw.state.version, "raw committed");
        Ok(())
    }

    async fn commit_counts(&mut self, run: &mut Run) -> Result<(), CommitError> {
        let Some(publishing) = &run.publishing else { return Ok(()) };
        let epoch = publishing.epoch;
        for (epoch, closed) in run.closed.range(..=epoch) {
            balance(*epoch, closed)?;
        }
        let mut txns = vec![(WRITER_GENERATION.to_owned(), self.generation)];
        for (lane, grace) in Lane::ALL.into_iter().zip(self.graces_us) {
            txns.push((counts::lane_txn(lane), epoch as i64));
            if let Some((at, ingested_at)) = run.at_end
                && at <= epoch
            {
                txns.push((counts::complete_until_txn(lane), (ingested_at - grace).div_euclid(1000)));
            }
        }
        let commit = Commit {
            add: publishing.staged.iter().flat_map(|staged| staged.add.clone()).collect(),
            remove: publishing.staged.iter().flat_map(|staged| staged.remove.clone()).collect(),
            txns,
        };
        loop {
            let now_ms = self.clock.now_ms();
            match self.counts.log.commit(&mut self.counts.state, &commit, "STREAMING UPDATE", now_ms).await {
                Ok(()) => break,
                Err(TableError::Lost { .. }) => {
                    if !self.lost_counts(run, &commit).await? {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        run.publishing = None;
        run.published = epoch;
        run.closed.retain(|closed, _| *closed > epoch);
        let minute = counts::complete_until_txn(Lane::Minute);
        self.progress.published.store(epoch, Ordering::Relaxed);
        self.progress.complete_until_ms.store(self.counts.state.txn(&minute), Ordering::Relaxed);
        let files = commit.add.len();
        tracing::debug!(epoch, files, version = self.counts.state.version, "counts committed");
        self.order(Order::Replaced { remove: commit.remove, add: commit.add });
        self.order(Order::Published { epoch, lanes: Lane::ALL.to_vec() });
        Ok(())
    }

    /// Somebody else committed to `counts` first. Whether our commit still stands as it is: what it removes is live and what it
    /// adds overlaps nothing. If not, everybody is told what was replaced, and the order is given again.
    async fn lost_counts(&mut self, run: &mut Run, commit: &Commit) -> Result<bool, CommitError> {
        let before = self.counts.state.files.clone();
        self.counts.log.refresh(&mut self.counts.state).await?;
        self.counts.log.check_generation(&self.counts.state, self.generation)?;
        let now = &self.counts.state.files;
        let remove: Vec<File> = before.values().filter(|file| !now.contains_key(&file.path)).cloned().collect();
        let add: Vec<File> = now.values().filter(|file| !before.contains_key(&file.path)).cloned().collect();
        let mut touched = Vec::new();
        for file in remove.iter().chain(&add) {
            touched.push(counts::segment_of(file)?);
        }
        let mut stands = true;
        for file in commit.remove.iter().chain(&commit.add) {
            stands &= !touched.contains(&counts::segment_of(file)?);
        }
        self.order(Order::Replaced { remove, add });
        if !stands && let Some(publishing) = &run.publishing {
            let (order, attempt, epoch) = (publishing.order, publishing.attempt, publishing.epoch);
            tracing::info!(epoch, attempt, "another commit replaced what this one was merged into, merging again");
            self.publish(run, order, attempt + 1, epoch);
        }
        Ok(stands)
    }
}

/// The epoch of each lane of [`Lane::ALL`].
pub fn lane_epochs(counts: &State) -> [Epoch; Lane::ALL.len()] {
    Lane::ALL.map(|lane| counts.txn(&counts::lane_txn(lane)) as Epoch)
}

/// Rows read = rows archived = received + rejected + filtered, counted at source, archiver and pending.
fn balance(epoch: Epoch, closed: &Closed) -> Result<(), CommitError> {
    let unequal = |what: String| CommitError::Imbalance { epoch, what };
    let (mut live, mut fed) = (Outcomes::default(), Outcomes::default());
    let mut rows = 0;
    for archived in &closed.archived {
        live.add(&archived.live);
        fed.add(&archived.fed);
        rows += archived.files.iter().map(|file| file.rows).sum::<u64>();
    }
    let read: u64 = closed.reads.iter().map(|read| read.live).sum();
    if read != rows || rows != live.total() {
        return Err(unequal(format!("{read} records read, {rows} rows archived, {} outcomes", live.total())));
    }
    let fed_read: u64 = closed.reads.iter().map(|read| read.fed).sum();
    if fed_read != fed.total() {
        return Err(unequal(format!("{fed_read} records fed from the archive, {} outcomes", fed.total())));
    }
    let received: i64 = closed.received.iter().map(|received| received.total).sum();
    let counted = live.counted + fed.counted;
    if received != counted as i64 {
        return Err(unequal(format!("{counted} records counted, `total` received {received}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn outcomes(counted: u64, filtered: u64, empty: u64) -> Outcomes {
        Outcomes { counted, filtered, rejected: BTreeMap::from([("empty".to_owned(), empty)]) }
    }

    fn file(rows: u64) -> File {
        File { path: String::new(), size: 0, rows, partition: BTreeMap::new(), stats: String::new() }
    }

    /// An epoch of two workers that read 7 and 3 records: 6 counted, 3 filtered, 1 rejected; 2 more counted from the archive.
    fn balanced() -> Closed {
        let read = |live, fed| Read { epoch: 5, live, fed, positions: Vec::new(), at_end: false };
        Closed {
            ingested_at: 0,
            reads: vec![read(7, 1), read(3, 2)],
            archived: vec![Archived {
                epoch: 5,
                files: vec![file(9), file(1)],
                live: outcomes(6, 3, 1),
                fed: outcomes(2, 1, 0),
            }],
            received: vec![Received { epoch: 5, total: 5 }, Received { epoch: 5, total: 3 }],
        }
    }

    fn imbalance(change: impl FnOnce(&mut Closed)) -> String {
        let mut closed = balanced();
        change(&mut closed);
        balance(5, &closed).expect_err("it does not balance").to_string()
    }

    #[test]
    fn promise_4_what_is_lost_or_doubled_between_two_counts_stops_counts() {
        assert!(balance(5, &balanced()).is_ok());
        let lost_before_the_archive = imbalance(|closed| closed.archived[0].files[0].rows -= 1);
        assert!(lost_before_the_archive.contains("10 records read, 9 rows archived"), "{lost_before_the_archive}");
        let lost_outcome = imbalance(|closed| closed.archived[0].live.filtered -= 1);
        assert!(lost_outcome.contains("10 rows archived, 9 outcomes"), "{lost_outcome}");
        let lost_feed = imbalance(|closed| closed.reads[0].fed += 1);
        assert!(lost_feed.contains("4 records fed from the archive, 3 outcomes"), "{lost_feed}");
        let doubled = imbalance(|closed| closed.received[1].total += 1);
        assert!(doubled.contains("8 records counted, `total` received 9"), "{doubled}");
    }
}
