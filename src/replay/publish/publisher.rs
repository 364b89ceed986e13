//! Publishes a replay: merges its changes into the live files of `counts`, in one atomic commit; or takes them back.
//!
//! In: `replays/<id>`. Out: one commit with `replay/<id>` or `undo/<id>` → order, without a writer's generation. Live runs on: what has
//! lost its base to one of live's commits is merged again, the rest is kept; after three such rounds live is asked for a turn. State:
//! the names of what is staged, and one slice of updates ([`super::slices`]). Failure: a kill at any step leaves orphans and
//! perhaps the entry, which nobody reads without the transaction. Restart: the same call again; what is done is not done again.

use std::sync::Arc;
use std::time::Duration;

use super::admission::{Admitted, CompleteReplay, Direction};
use super::slices::{PublishProgress, Staging};
use crate::dataflow::protocol::Piece;
use crate::ledger::{replay_txn, turn_txn, undo_txn};
use crate::model::Segment;
use crate::process::Clock;
use crate::replay::error::PublishError;
use crate::table::layout::Layout;
use crate::table::{Commit, Log, Root, State, TableError, retention};

/// Rounds in which something had to be merged again, before live is asked for a turn.
const ROUNDS: u32 = 3;

/// How long a commit may take: what is staged must be committed long before a cleaner takes it for an orphan.
const COMMIT_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// How long the end waits for a checkpoint.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(5);

/// How long tables keep what is dead, where they do not say.
const KEEP_HOURS: u64 = 24;

const HOUR_MS: i64 = 3_600_000;

/// A replay to be published or undone.
pub struct Publisher {
    /// Where the tables are.
    pub root: Root,
    /// The replay.
    pub id: String,
    /// Which of the two.
    pub direction: Direction,
    /// The time.
    pub clock: Clock,
    /// Bytes that updates may take in memory; at least those of one file are held whatever it says.
    pub budget_bytes: u64,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Published {
    /// The replay.
    pub id: String,
    /// The version of `counts` that has it: the commit's own, or the newest one where it was done already.
    pub version: u64,
    /// Its order among all publishes and undos.
    pub order: i64,
    /// Cells that changed.
    pub cells: u64,
    /// Files of the commit; 0 where it was done already.
    pub files: u64,
    /// Whether it was done already: then nothing was committed.
    pub already: bool,
}

impl Publisher {
    /// Publishes or undoes the replay; `tell` is called after every slice. Runs on tokio.
    ///
    /// # Errors
    /// [`PublishError`]; nothing of it can be seen then, but for [`PublishError::OutcomeUnknown`].
    pub async fn run(&self, mut tell: impl FnMut(&PublishProgress)) -> Result<Published, PublishError> {
        let log = Log::new(&self.root, "counts");
        let Some(state) = log.load().await? else {
            return Err(TableError::Invalid(format!(
                "{}: found no table counts there; a job makes its tables when it is run first: floodmark run JOB",
                self.root.url()
            ))
            .into());
        };
        let replay = CompleteReplay::load(&self.root, &self.id).await?;
        let work = match replay.admit(&self.root, &state, self.direction).await? {
            Admitted::Already(order) => {
                if self.direction == Direction::Publish {
                    replay.mend(&self.root).await?;
                }
                return Ok(self.already(&replay, &state, order));
            }
            Admitted::Order(order) => UnderWay {
                publisher: self,
                layout: Arc::new(Layout::new(state.files.values(), |_| true)?),
                replay,
                log,
                state,
                order,
                pieces: Vec::new(),
                began_ms: self.clock.now_ms(),
            },
        };
        if self.direction == Direction::Publish {
            work.replay.record(&self.root).await?;
        }
        let published = work.run(&mut tell).await?;
        self.root.finish(CHECKPOINT_PATIENCE).await;
        Ok(published)
    }

    fn already(&self, replay: &CompleteReplay, state: &State, order: i64) -> Published {
        Published {
            id: self.id.clone(),
            version: state.version,
            order,
            cells: replay.summary.cells.total(),
            files: 0,
            already: true,
        }
    }

    fn txn(&self) -> String {
        match self.direction {
            Direction::Publish => replay_txn(&self.id),
            Direction::Undo => undo_txn(&self.id),
        }
    }

    fn operation(&self) -> &'static str {
        match self.direction {
            Direction::Publish => "REPLAY",
            Direction::Undo => "UNDO REPLAY",
        }
    }
}

/// A replay that may be published or undone on the version that is known.
struct UnderWay<'a> {
    publisher: &'a Publisher,
    replay: CompleteReplay,
    log: Log,
    state: State,
    layout: Arc<Layout>,
    order: i64,
    /// What is staged, and still has its base.
    pieces: Vec<Piece>,
    began_ms: i64,
}

/// What another commit left of ours.
enum Left {
    /// These are to be merged again.
    Lost(Vec<Segment>),
    /// Nothing is left to do: another process has published it, at this order.
    Already(i64),
}

impl UnderWay<'_> {
    async fn run(mut self, tell: &mut impl FnMut(&PublishProgress)) -> Result<Published, PublishError> {
        let id = self.publisher.id.as_str();
        let cells = self.replay.summary.cells.total();
        // Two processes may do this at the same time, so the order and the attempt do not make a name unique.
        let nonce = rand::random::<u64>();
        let mut progress = PublishProgress { cells_total: cells, ..PublishProgress::default() };
        // What is to be merged; first everything.
        let mut only: Option<Vec<Segment>> = None;
        loop {
            progress.attempt += 1;
            let staging = Staging {
                root: &self.publisher.root,
                log: &self.log,
                parts: &self.replay.summary.parts,
                direction: self.publisher.direction,
                budget_bytes: self.publisher.budget_bytes,
                now: self.publisher.clock.now(),
            };
            let name = format!("{}-o{:06}-a{}-{nonce:016x}", self.txn_in_names(), self.order, progress.attempt);
            let staged = staging.stage(&self.layout, only.as_deref(), &name, &mut progress, tell).await?;
            let (files, attempt) = (staged.len(), progress.attempt);
            tracing::info!(replay = id, order = self.order, attempt, files, "files staged");
            self.pieces.extend(staged);
            let lost = loop {
                if self.commit().await? {
                    let (version, order) = (self.state.version, self.order);
                    let files = self.pieces.iter().filter(|piece| piece.add.is_some()).count() as u64;
                    let operation = self.publisher.operation();
                    tracing::info!(replay = id, operation, version, order, cells, files, "counts committed");
                    return Ok(Published { id: id.to_owned(), version, order, cells, files, already: false });
                }
                match self.follow().await? {
                    Left::Already(order) => return Ok(self.publisher.already(&self.replay, &self.state, order)),
                    Left::Lost(lost) if lost.is_empty() => {}
                    Left::Lost(lost) => break lost,
                }
            };
            tracing::info!(
                replay = id,
                files = lost.len(),
                "other commits replaced what these were merged into, merging again"
            );
            let mut lost = lost;
            if progress.attempt >= ROUNDS {
                self.ask().await?;
                match self.follow().await? {
                    Left::Already(order) => return Ok(self.publisher.already(&self.replay, &self.state, order)),
                    Left::Lost(more) => lost.extend(more),
                }
            }
            only = Some(lost);
        }
    }

    fn txn_in_names(&self) -> String {
        self.publisher.txn().replace('/', "-")
    }

    /// Commits what is staged, exactly on the version that is known; false when another commit was faster.
    async fn commit(&mut self) -> Result<bool, PublishError> {
        let now_ms = self.publisher.clock.now_ms();
        let id = || self.publisher.id.clone();
        let keep_hours = retention::keep_hours(&self.state).unwrap_or(KEEP_HOURS);
        if (now_ms - self.began_ms) * 2 > keep_hours as i64 * HOUR_MS {
            let hours = ((now_ms - self.began_ms) / HOUR_MS) as u64;
            return Err(PublishError::TooSlow { id: id(), hours, keep_hours });
        }
        let commit = Commit {
            add: self.pieces.iter().filter_map(|piece| piece.add.clone()).collect(),
            remove: self.pieces.iter().flat_map(|piece| piece.remove.clone()).collect(),
            txns: vec![(self.publisher.txn(), self.order)],
        };
        // Files that overlap would stop live: better nothing than that.
        Layout::clone(&self.layout).replace(&commit.remove, &commit.add, |_| true)?;
        let committing = self.log.commit(&mut self.state, &commit, self.publisher.operation(), now_ms);
        match tokio::time::timeout(COMMIT_PATIENCE, committing).await {
            Ok(Ok(())) => Ok(true),
            Ok(Err(TableError::Lost { .. })) => Ok(false),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                let said = self.log.last_complaint().unwrap_or_else(|| "nothing".to_owned());
                Err(PublishError::OutcomeUnknown { id: id(), said })
            }
        }
    }

    /// Reads what others have committed, asks again whether this may be done, and sorts out what they left of ours.
    async fn follow(&mut self) -> Result<Left, PublishError> {
        self.log.refresh(&mut self.state).await?;
        match self.replay.admit(&self.publisher.root, &self.state, self.publisher.direction).await? {
            Admitted::Already(order) => return Ok(Left::Already(order)),
            Admitted::Order(order) => self.order = order,
        }
        self.layout = Arc::new(Layout::new(self.state.files.values(), |_| true)?);
        let pieces = std::mem::take(&mut self.pieces);
        let (stand, lost): (Vec<_>, Vec<_>) = pieces.into_iter().partition(|piece| piece.stands(&self.layout));
        self.pieces = stand;
        Ok(Left::Lost(lost.into_iter().map(|piece| piece.segment).collect()))
    }

    /// Asks live for the next commit: one that needs no merging gets through.
    async fn ask(&mut self) -> Result<(), PublishError> {
        let txn = turn_txn(&self.publisher.id);
        loop {
            let commit = Commit { txns: vec![(txn.clone(), self.state.txn(&txn) + 1)], ..Commit::default() };
            let now_ms = self.publisher.clock.now_ms();
            match self.log.commit(&mut self.state, &commit, "TURN", now_ms).await {
                Ok(()) => break,
                Err(TableError::Lost { .. }) => {
                    self.log.refresh(&mut self.state).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        tracing::info!(replay = self.publisher.id, version = self.state.version, "asked for the next commit");
        Ok(())
    }
}
