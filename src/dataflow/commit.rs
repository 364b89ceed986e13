//! `commit`: the ticker and the committer, one task beside worker 0.
//!
//! In: answers of all workers, the clock, a request to end. Out: orders; commits to `raw` and `counts`. It closes epochs. It
//! commits an epoch to `raw` when every worker has read it and every process has archived it, and a publish order to `counts`
//! when every worker has staged its part and the order's epoch is in `raw` and balances. It counts messages, and waits for no
//! frontier.
//!
//! Time: at most `epochs_in_flight_max` epochs are closed but not yet in `raw`. Lanes are published at their own pace ([`Pace`]),
//! at most one order a track at once. If the archive holds more for them than the budget allows, it is first fed and published in
//! portions ([`Backlog`]). State: reports of epochs that are not yet balanced, and the live files of `counts`. Failure: while the
//! store is away a commit waits, and its epoch with it; a piece that loses its base to another commit is merged again; a newer
//! writer ends this one ([`TableError::Fenced`]). Restart: the tables are the state.
//!
//! This file has more than 500 lines because every step reads and changes the same state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Instant;

use timely::scheduling::SyncActivator;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tracing::Instrument;

use super::backlog::{Backlog, Next};
use super::balance::{Closed, balance};
use super::error::CommitError;
use super::interval::{Interval, Measured};
use super::pace::{Pace, Size, TRACKS};
use super::progress::{Merged, Progress};
use super::protocol::{Answer, Effort, Order, Piece, Publish, rewrite_us_by_lane};
use super::turn::yield_turn;
use crate::job::{Logic, Settings};
use crate::model::{Epoch, Granularity, Lane, TimeUs};
use crate::process::Clock;
use crate::source::Position;
use crate::table::layout::Layout;
use crate::table::log::WRITER_GENERATION;
use crate::table::{Commit, File, Log, State, TableError, counts, raw};

/// The first epoch with records after a start is no longer than this, so that records that came while no job ran are soon
/// published.
const FIRST_EPOCH_SECONDS: u64 = 1;

/// When to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Do not end.
    Run,
    /// When every partition was read up to where it ended at the start.
    Drain,
    /// Now: commit what was read, publish all lanes.
    Stop,
}

/// A table and its newest state.
pub struct Table {
    /// Its log.
    pub log: Log,
    /// The version that the next commit builds on.
    pub state: State,
}

/// What the committer works with.
pub struct Committer {
    /// The table `raw`.
    pub raw: Table,
    /// The table `counts`.
    pub counts: Table,
    /// The live files of `counts`, by segment.
    pub layout: Layout,
    /// The generation of this run, the same in both tables.
    pub generation: i64,
    /// Number of workers in all processes.
    pub workers: usize,
    /// Number of processes.
    pub processes: usize,
    /// What is still to be fed from the archive.
    pub backlog: Backlog,
    /// The job's settings: pace and bounds.
    pub settings: Settings,
    /// Grace of each lane, in µs.
    pub graces_us: [TimeUs; Lane::ALL.len()],
    /// The clock.
    pub clock: Clock,
    /// `ingested_at` of the newest epoch that the tables know of.
    pub last_ingested_at: TimeUs,
    /// Orders go here; worker 0 is woken after each.
    pub orders: mpsc::Sender<Order>,
    /// Wakes worker 0.
    pub wake: SyncActivator,
    /// The answers of all workers come from here.
    pub answers: UnboundedReceiver<Answer>,
    /// When to end.
    pub request: watch::Receiver<Request>,
    /// The numbers that the process reports about itself.
    pub progress: Arc<Progress>,
}

/// The grace of each lane by a logic, in µs: that of its granularity. `late` and `coarse` have none.
pub fn lane_graces_us(logic: &Logic) -> [TimeUs; Lane::ALL.len()] {
    Lane::ALL.map(|lane| match lane {
        Lane::Minute => logic.grace_us(Granularity::Minute),
        Lane::Hour => logic.grace_us(Granularity::Hour),
        Lane::Day => logic.grace_us(Granularity::Day),
        Lane::Late | Lane::Coarse => 0,
    })
}

/// The open epoch.
struct Open {
    epoch: Epoch,
    ingested_at: TimeUs,
    busy: bool,
    full: bool,
}

/// A publish order under way.
struct Publishing {
    order: Publish,
    /// The epoch that its lanes will be at: the order's own, or the last epoch that was fed from the archive, if Kafka is not
    /// read yet.
    up_to: Epoch,
    /// Number of answers to the newest attempt.
    staged: usize,
    /// The merged pieces of this attempt and of earlier ones.
    pieces: Vec<Piece>,
    /// Lanes that had nothing pending on any worker that has answered so far.
    idle: Vec<Lane>,
    /// When it was ordered.
    since: Instant,
}

/// How far the job is: what the committer knows besides the tables.
struct Course {
    open: Open,
    closed: BTreeMap<Epoch, Closed>,
    /// `ingested_at` of the newest closed epoch.
    closed_at: TimeUs,
    /// Epochs up to this one balance.
    balanced: Epoch,
    tracks: [Option<Publishing>; TRACKS],
    pace: Pace,
    /// The first epoch of this run. Earlier ones were closed by another run, and are fed from the archive.
    first: Epoch,
    orders: u64,
    drained: usize,
    /// Something waits for the end of the open epoch, such as a lane that can then catch up.
    hurry: bool,
    /// The job ends when this epoch is published.
    last: Option<Epoch>,
    /// Epochs in which all partitions were read to their ends, with their `ingested_at`; kept as long as a lane may need them.
    ends: BTreeMap<Epoch, TimeUs>,
}

impl Committer {
    /// Runs until the request to end is carried out.
    ///
    /// # Errors
    /// [`CommitError`]; nothing more is ordered then, and the caller must end the workers.
    pub async fn run(self) -> Result<(), CommitError> {
        self.run_unnamed().instrument(tracing::debug_span!("commit")).await
    }

    async fn run_unnamed(mut self) -> Result<(), CommitError> {
        let newest = self.raw.state.txn(raw::EPOCH) as Epoch;
        let ingested_at = self.clock.now().max(self.last_ingested_at);
        let published = counts::lane_epochs(&self.counts.state);
        let size = Size { workers: self.workers, processes: self.processes };
        let mut run = Course {
            open: Open { epoch: newest + 1, ingested_at, busy: false, full: false },
            closed: BTreeMap::new(),
            closed_at: ingested_at,
            balanced: newest,
            tracks: Default::default(),
            pace: Pace::new(&self.settings, size, published, newest, self.clock.now()),
            first: newest + 1,
            orders: 0,
            drained: 0,
            hurry: false,
            last: None,
            ends: BTreeMap::new(),
        };
        self.progress.epoch.store(newest, Ordering::Relaxed);
        self.tell(&run);
        self.feed(&mut run);
        self.order(Order::Tick { closed: newest, ingested_at, read: self.backlog.is_rest() });
        loop {
            // Read before the steps that act on it, so that a request that comes in between is seen as a change below.
            let may_change = *self.request.borrow() != Request::Stop;
            while self.advance(&mut run).await? {}
            self.progress.publishing.store(run.tracks.iter().flatten().count() as u64, Ordering::Relaxed);
            if run.last.is_some_and(|last| run.pace.least() >= last) {
                self.order(Order::Stop);
                return Ok(());
            }
            let due = self.due(&run);
            let may_tick = self.may_tick(&run);
            tokio::select! {
                answer = self.answers.recv() => match answer {
                    Some(answer) => self.hear(&mut run, answer)?,
                    None => return Err(CommitError::failed("all workers have ended; see the log above")),
                },
                () = self.clock.reaches(due), if may_tick => {}
                changed = self.request.changed(), if may_change => {
                    // Nobody can ask for an orderly stop any more: the process is ending, and does not wait for what is not
                    // committed.
                    if changed.is_err() {
                        return Err(CommitError::failed("the process is ending"));
                    }
                }
            }
        }
    }

    fn order(&self, order: Order) {
        // If the workers are gone, the end of their answers reports it.
        if self.orders.send(order).is_ok() && self.wake.activate().is_err() {
            tracing::debug!("order dropped, worker 0 has ended");
        }
    }

    fn tell(&self, run: &Course) {
        self.progress.published.store(run.pace.least(), Ordering::Relaxed);
        self.progress.published_minute.store(run.pace.epoch(Lane::Minute), Ordering::Relaxed);
        let until = |lane| self.counts.state.txn(&counts::complete_until_txn(lane));
        self.progress.stand(|lane| (run.pace.epoch(lane), until(lane), run.pace.interval(lane)));
    }

    fn hear(&mut self, run: &mut Course, answer: Answer) -> Result<(), CommitError> {
        match answer {
            Answer::Busy(epoch) => run.open.busy |= epoch == run.open.epoch,
            Answer::Full(epoch) => run.open.full |= epoch == run.open.epoch,
            Answer::Fed { worker, down_to, open } if self.backlog.is_rest() => {
                run.hurry |= run.pace.fed(worker, down_to, open, run.open.epoch - 1);
            }
            // What was fed is pending once the epoch in which it was fed has ended.
            Answer::Fed { down_to: 0, open, .. } => {
                run.hurry |= self.backlog.fed(self.workers, open) == Some(run.open.epoch);
            }
            Answer::Fed { .. } => {}
            Answer::Drained => run.drained += 1,
            Answer::Read(read) => {
                run.open.busy |= read.live > 0 && read.epoch == run.open.epoch;
                run.closed.entry(read.epoch).or_default().reads.push(read);
            }
            Answer::Archived(archived) => run.closed.entry(archived.epoch).or_default().archived.push(archived),
            Answer::Received(received) => run.closed.entry(received.epoch).or_default().received.push(received),
            Answer::Pending { worker, bytes } => run.pace.pending(worker, bytes),
            Answer::Staged(staged) => {
                let under_way = |publishing: &&mut Publishing| {
                    (publishing.order.order, publishing.order.attempt) == (staged.order, staged.attempt)
                };
                if let Some(publishing) = run.tracks.iter_mut().flatten().find(under_way) {
                    publishing.staged += 1;
                    publishing.pieces.extend(staged.pieces);
                    publishing.idle.retain(|lane| staged.idle.contains(lane));
                }
            }
            Answer::Failed { exit, what } => return Err(CommitError::Worker { exit, what }),
        }
        Ok(())
    }

    /// Takes the next step that can be taken. Returns whether there was one.
    async fn advance(&mut self, run: &mut Course) -> Result<bool, CommitError> {
        if self.may_tick(run) && self.wants_tick(run) {
            self.tick(run);
            return Ok(true);
        }
        let next = self.raw.state.txn(raw::EPOCH) as Epoch + 1;
        let complete = |closed: &Closed| closed.reads.len() == self.workers && closed.archived.len() == self.processes;
        if run.closed.get(&next).is_some_and(complete) && next < run.open.epoch {
            self.commit_raw(run, next).instrument(tracing::debug_span!("commit", table = "raw")).await?;
            return Ok(true);
        }
        while run.balanced + 1 < next
            && let Some(closed) = run.closed.get(&(run.balanced + 1))
            && closed.received.len() == self.workers
        {
            balance(run.balanced + 1, closed)?;
            run.balanced += 1;
            run.closed.remove(&run.balanced);
        }
        for track in 0..TRACKS {
            let staged = |publishing: &&Publishing| publishing.staged == self.workers;
            if run.tracks[track].as_ref().filter(staged).is_some_and(|it| it.order.epoch <= run.balanced) {
                self.commit_counts(run, track).instrument(tracing::debug_span!("commit", table = "counts")).await?;
                return Ok(true);
            }
        }
        Ok(self.feed(run) || self.publish(run))
    }

    /// Orders the next portion of the archive, or the publish of what was fed. Returns whether something was ordered.
    fn feed(&mut self, run: &mut Course) -> bool {
        // All workers have reported what they hold once all closed epochs are balanced.
        if run.balanced + 1 < run.open.epoch || run.tracks.iter().any(Option::is_some) {
            return false;
        }
        let Some(next) = self.backlog.next(run.open.epoch, run.pace.pending_by_lane()) else { return false };
        match next {
            Next::Publish { up_to } => {
                let lanes = run.pace.behind(up_to);
                tracing::info!(
                    epoch = up_to,
                    rows_left = self.backlog.rows(),
                    "publishing what was fed from the archive"
                );
                run.pace.ordered_fed(&lanes);
                self.give(run, 1, lanes, Some(up_to), true);
            }
            Next::Feed { after, up_to, is_rest } => {
                // At the start the first epoch is not open yet.
                let is_later = run.open.epoch > run.first;
                if is_rest && is_later {
                    tracing::info!(after, "the rest of the archive fits into the budget, reading Kafka");
                } else if !is_rest {
                    let rows_left = self.backlog.rows();
                    tracing::info!(after, up_to, rows_left, "the archive may exceed the budget, Kafka waits");
                }
                // Kafka is read from the next epoch on.
                run.hurry |= is_rest && is_later;
                self.order(Order::Feed { after, up_to });
            }
        }
        true
    }

    /// When the clock would close the open epoch.
    fn due(&self, run: &Course) -> TimeUs {
        let seconds = match run.open.busy {
            true if run.open.epoch == run.first => self.settings.epoch_seconds.min(FIRST_EPOCH_SECONDS),
            true => self.settings.epoch_seconds,
            false => self.settings.idle_epoch_seconds,
        };
        run.open.ingested_at + seconds as TimeUs * 1_000_000
    }

    fn may_tick(&self, run: &Course) -> bool {
        let in_flight = run.open.epoch - 1 - self.raw.state.txn(raw::EPOCH) as Epoch;
        run.last.is_none() && in_flight < self.settings.epochs_in_flight_max && !run.pace.pauses()
    }

    fn wants_tick(&self, run: &Course) -> bool {
        run.open.full
            || run.hurry
            || self.ends(run)
            || run.pace.wants_epoch(run.open.epoch - 1)
            || self.clock.now() >= self.due(run)
    }

    /// Whether the open epoch is the last one.
    fn ends(&self, run: &Course) -> bool {
        run.pace.is_fed()
            && match *self.request.borrow() {
                Request::Run => false,
                Request::Drain => run.drained == self.workers,
                Request::Stop => true,
            }
    }

    fn tick(&self, run: &mut Course) {
        let closed = run.open.epoch;
        if self.ends(run) {
            run.last = Some(closed);
        }
        run.closed.entry(closed).or_default().ingested_at = run.open.ingested_at;
        run.closed_at = run.open.ingested_at;
        run.hurry = false;
        let ingested_at = self.clock.now().max(run.open.ingested_at);
        run.open = Open { epoch: closed + 1, ingested_at, busy: false, full: false };
        tracing::debug!(epoch = closed, pending_bytes = run.pace.pending_bytes(), "epoch closed");
        // While the archive fills the budget, Kafka is not read.
        let read = self.backlog.is_rest() && (run.pace.is_fed() || !run.pace.is_over());
        self.order(Order::Tick { closed, ingested_at, read });
    }

    /// Orders the lanes that are due. Returns whether any were.
    fn publish(&self, run: &mut Course) -> bool {
        let closed = run.open.epoch - 1;
        if closed < run.first {
            return false;
        }
        if run.last == Some(closed) {
            let free = run.tracks.iter().all(Option::is_none);
            let lanes = run.pace.rest(closed);
            return free && self.order_lanes(run, 1, lanes, true);
        }
        for track in 0..TRACKS {
            // While one track merges again what has lost its base, the others wait.
            let again = run.tracks.iter().flatten().any(|other| other.order.attempt > 1);
            if run.tracks[track].is_none() && !again {
                let lanes = run.pace.due(track, closed, self.clock.now());
                if self.order_lanes(run, track, lanes, false) {
                    return true;
                }
            }
        }
        false
    }

    fn order_lanes(&self, run: &mut Course, track: usize, lanes: Vec<Lane>, alone: bool) -> bool {
        if lanes.is_empty() {
            return false;
        }
        run.pace.ordered(&lanes, self.clock.now());
        self.give(run, track, lanes, None, alone);
        true
    }

    /// Orders lanes up to the newest closed epoch. `fed_up_to`: the epoch that they will be at, if that is one of the archive's.
    fn give(&self, run: &mut Course, track: usize, lanes: Vec<Lane>, fed_up_to: Option<Epoch>, alone: bool) {
        run.orders += 1;
        let order = Publish {
            order: run.orders,
            attempt: 1,
            epoch: run.open.epoch - 1,
            ingested_at: run.closed_at,
            // A stop has too little time to seal: a drain or the next start does it. While a backlog fills the budget, what was
            // sealed would be written again with the next order.
            seal: lanes.contains(&Lane::Late)
                && *self.request.borrow() != Request::Stop
                && fed_up_to.is_none()
                && (alone || !run.pace.is_over()),
            lanes,
            alone,
            only: None,
        };
        self.order(Order::Publish(order.clone()));
        let up_to = fed_up_to.unwrap_or(order.epoch);
        run.tracks[track] = Some(Publishing {
            order,
            up_to,
            staged: 0,
            pieces: Vec::new(),
            idle: Lane::ALL.to_vec(),
            since: Instant::now(),
        });
    }

    async fn commit_raw(&mut self, run: &mut Course, epoch: Epoch) -> Result<(), CommitError> {
        let Some(closed) = run.closed.get(&epoch) else { return Ok(()) };
        let started = Instant::now();
        let positions = closed.reads.iter().flat_map(|read| &read.positions);
        let mut txns = vec![(WRITER_GENERATION.to_owned(), self.generation), (raw::EPOCH.to_owned(), epoch as i64)];
        for position in positions {
            let Position { topic, partition, next_offset, last } = position;
            txns.push((raw::offset_txn(topic, *partition), *next_offset));
            if let Some(last) = last {
                txns.push((raw::check_txn(topic, *partition), last.check));
            }
            txns.extend(last_record(&self.raw.state, position));
        }
        let add: Vec<File> = closed.archived.iter().flat_map(|archived| archived.files.clone()).collect();
        let rows: u64 = add.iter().map(|file| file.rows).sum();
        // A table of a build that did not count archived rows begins with those that are live.
        let live = || self.raw.state.files.values().map(|file| file.rows).sum::<u64>() as i64;
        let archived = self.raw.state.txns.get(raw::ROWS).copied().unwrap_or_else(live);
        txns.push((raw::ROWS.to_owned(), archived + rows as i64));
        let commit = Commit { add, txns, ..Commit::default() };
        loop {
            let now_ms = self.clock.now_ms();
            match self.raw.log.commit(&mut self.raw.state, &commit, "STREAMING UPDATE", now_ms).await {
                Ok(()) => break,
                // This commit only adds rows, so it does not conflict with any other, as long as no newer writer has taken the
                // table.
                Err(TableError::Lost { .. }) => {
                    self.raw.log.refresh(&mut self.raw.state).await?;
                    self.raw.log.check_generation(&self.raw.state, self.generation)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.progress.committed("raw", started.elapsed());
        if closed.reads.iter().all(|read| read.at_end) {
            run.pace.reached_end(closed.ingested_at);
            run.ends.insert(epoch, closed.ingested_at);
        }
        self.progress.epoch.store(epoch, Ordering::Relaxed);
        tracing::debug!(epoch, rows, version = self.raw.state.version, "raw committed");
        Ok(())
    }

    /// Commits what a track's order has staged, exactly on the files that it was merged from. Pieces that have lost their base,
    /// or overlap another live file, are ordered again; the others are kept.
    async fn commit_counts(&mut self, run: &mut Course, track: usize) -> Result<(), CommitError> {
        let Some(mut publishing) = run.tracks[track].take() else { return Ok(()) };
        let started = Instant::now();
        let (epoch, up_to) = (publishing.order.epoch, publishing.up_to);
        let idle = run.pace.idle(&publishing.idle, epoch);
        let mut txns = vec![(WRITER_GENERATION.to_owned(), self.generation)];
        let at_end = run.ends.range(..=epoch).next_back().map(|(_, ingested_at)| *ingested_at);
        for lane in publishing.order.lanes.iter().chain(&idle) {
            txns.push((counts::lane_txn(*lane), up_to as i64));
            if let Some(ingested_at) = at_end {
                let until = (ingested_at - self.graces_us[*lane as usize]).div_euclid(1000);
                let txn = counts::complete_until_txn(*lane);
                // The recorded time may come from a logic with a shorter grace. Readers rely on it, so it never goes back.
                let said = self.counts.state.txns.get(&txn).copied().unwrap_or(until);
                txns.push((txn, until.max(said)));
            }
        }
        let commit = loop {
            let (stands, lost): (Vec<_>, Vec<_>) =
                publishing.pieces.into_iter().partition(|piece| piece.stands(&self.layout));
            publishing.pieces = stands;
            if !lost.is_empty() {
                publishing.staged = 0;
                publishing.order.attempt += 1;
                publishing.order.only = Some(lost.into_iter().map(|piece| piece.segment).collect());
                let attempt = publishing.order.attempt;
                tracing::debug!(epoch, attempt, "lost to another commit, merging again");
                self.order(Order::Publish(publishing.order.clone()));
                run.tracks[track] = Some(publishing);
                return Ok(());
            }
            let commit = Commit {
                add: publishing.pieces.iter().flat_map(|piece| piece.add.clone()).collect(),
                remove: publishing.pieces.iter().flat_map(|piece| piece.remove.clone()).collect(),
                txns: txns.clone(),
                parameters: run.pace.shown(),
            };
            let now_ms = self.clock.now_ms();
            match self.counts.log.commit(&mut self.counts.state, &commit, "STREAMING UPDATE", now_ms).await {
                Ok(()) => break commit,
                Err(TableError::Lost { .. }) => self.follow().await?,
                Err(error) => return Err(error.into()),
            }
        };
        self.progress.committed("counts", started.elapsed());
        self.layout.replace(&commit.remove, &commit.add, |_| true)?;
        run.pace.published(&publishing.order.lanes, up_to);
        run.pace.published(&idle, up_to);
        if let Some((&needed, _)) = run.ends.range(..=run.pace.least()).next_back() {
            run.ends = run.ends.split_off(&needed);
        }
        run.hurry |= self.backlog.published(run.open.epoch);
        if up_to == epoch && run.last.is_none() {
            measure(&mut run.pace, &publishing);
        }
        self.tell(run);
        let now_ms = self.clock.now_ms();
        [&publishing.order.lanes, &idle].into_iter().for_each(|lanes| self.progress.published_at(lanes, now_ms));
        let lanes = publishing.order.lanes.iter().map(|lane| lane.name()).collect::<Vec<_>>().join("-");
        for (granularity, seals) in Granularity::ALL.into_iter().flat_map(|it| [(it, false), (it, true)]) {
            let is_it = |piece: &&Piece| piece.segment.granularity == granularity && piece.seals() == seals;
            let pieces = || publishing.pieces.iter().filter(is_it);
            let effort = |of: fn(&Effort) -> u64| pieces().map(|piece| of(&piece.effort)).sum::<u64>();
            let (updates, rows, us) = (effort(|it| it.updates), effort(|it| it.rows), effort(|it| it.us));
            let replaced = pieces().flat_map(|piece| &piece.remove).map(|file| file.rows).sum();
            let (decoded, copied_bytes) = (effort(|it| it.decoded), effort(|it| it.copied_bytes));
            self.progress.merge(granularity, Merged { updates, written: rows, replaced, decoded, copied_bytes });
            if rows > 0 {
                let (granularity, files) = (granularity.name(), pieces().map(|piece| piece.add.len()).sum::<usize>());
                tracing::debug!(
                    epoch,
                    lanes,
                    granularity,
                    files,
                    updates,
                    rows,
                    merge_us = us,
                    seals,
                    decoded,
                    copied_bytes,
                    "merged"
                );
            }
        }
        let (files, version) = (commit.add.len(), self.counts.state.version);
        tracing::debug!(epoch, up_to, lanes, files, version, "counts committed");
        self.order(Order::Replaced { remove: commit.remove, add: commit.add });
        self.order(Order::Published { epoch, lanes: publishing.order.lanes });
        Ok(())
    }

    /// After another writer has committed to `counts` first: reads its commit, and reports to all workers which files were
    /// replaced. A replay that asks for the next commit gets it.
    async fn follow(&mut self) -> Result<(), CommitError> {
        let Table { log, state } = &mut self.counts;
        let (before, txns) = (state.files.clone(), state.txns.clone());
        log.refresh(state).await?;
        log.check_generation(state, self.generation)?;
        yield_turn(log, state, &txns).await?;
        log.check_generation(state, self.generation)?;
        let now = &state.files;
        let remove: Vec<File> = before.values().filter(|file| !now.contains_key(&file.path)).cloned().collect();
        let add: Vec<File> = now.values().filter(|file| !before.contains_key(&file.path)).cloned().collect();
        self.layout.replace(&remove, &add, |_| true)?;
        self.order(Order::Replaced { remove, add });
        Ok(())
    }
}

/// Lets the intervals of a publish's lanes follow what it cost.
fn measure(pace: &mut Pace, publishing: &Publishing) {
    let rewrite_us = rewrite_us_by_lane(&publishing.order.lanes, &publishing.pieces);
    for &lane in &publishing.order.lanes {
        let before = pace.interval(lane);
        pace.measured(lane, Measured { rewrite_us: rewrite_us[lane as usize], took: publishing.since.elapsed() });
        let Interval { us, set_by } = pace.interval(lane);
        if set_by != before.set_by {
            let (lane, seconds, set_by) = (lane.name(), us / 1_000_000, set_by.name());
            tracing::info!(
                lane,
                interval_seconds = seconds,
                set_by,
                "the interval of a lane is set by something else now"
            );
        }
    }
}

/// The application transaction with the offset of a partition's last record. It is written if markers of transactions lie between
/// that record and the next offset, and from then on always.
fn last_record(raw: &State, position: &Position) -> Option<(String, i64)> {
    let Position { topic, partition, next_offset, last } = position;
    let txn = raw::last_txn(topic, *partition);
    let said = raw.txns.get(&txn).copied();
    let before = || {
        raw.txns.get(&raw::check_txn(topic, *partition))?;
        said.or_else(|| raw.txns.get(&raw::offset_txn(topic, *partition)).map(|next| next - 1))
    };
    let offset = last.map(|last| last.offset).or_else(before)?;
    (said.is_some() || offset + 1 != *next_offset).then_some((txn, offset))
}
