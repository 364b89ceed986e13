//! Publishes a replay: merges its changes into the live files of `counts`, in one atomic commit. Or undoes it in the same way.
//!
//! In: the files under `replays/<id>`. Out: one commit with `replay/<id>` or `undo/<id>` → order, and without a writer generation. Live
//! keeps running: pieces whose base was replaced by one of live's commits are merged again, and the other pieces are kept. After three such
//! rounds live is asked to let this commit go first. State: the names of the staged files, and one slice of updates ([`super::slices`]).
//! Failure: a kill at any step leaves orphans, and perhaps the entry, which nothing reads without the transaction. Restart: run the same
//! command again; what is done is not done again.

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
use crate::table::{Commit, FORMAT_NEWEST, Log, Root, State, TableError, retention};

/// Rounds in which something had to be merged again, before live is asked for the next commit.
const ROUNDS: u32 = 3;

/// How long a commit may take. It must end long before `upkeep` takes the staged files for orphans.
const COMMIT_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// How long to wait for a checkpoint at the end.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(5);

/// How long tables keep dead files, if they do not say.
const KEEP_HOURS: u64 = 24;

const HOUR_MS: i64 = 3_600_000;

/// A replay to be published or undone.
pub struct Publisher {
    /// Where the tables are.
    pub root: Root,
    /// The replay.
    pub id: String,
    /// Publish or undo.
    pub direction: Direction,
    /// The clock.
    pub clock: Clock,
    /// Bytes that updates may take in memory; at least the updates of one file are held, whatever the value.
    pub budget_bytes: u64,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Published {
    /// The replay.
    pub id: String,
    /// The version of `counts` that has it: that of the commit, or the newest one if it was done already.
    pub version: u64,
    /// Its order among all publishes and undos.
    pub order: i64,
    /// Cells that changed.
    pub cells: u64,
    /// Files of the commit; 0 if it was done already.
    pub files: u64,
    /// Whether it was done already; then nothing was committed.
    pub already: bool,
}

impl Publisher {
    /// Publishes or undoes the replay; `tell` is called after every slice. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`PublishError`]; nothing of the replay is visible then, except perhaps for [`PublishError::OutcomeUnknown`].
    pub async fn run(&self, mut tell: impl FnMut(&PublishProgress)) -> Result<Published, PublishError> {
        let log = Log::new(&self.root, "counts");
        let Some(state) = log.load().await? else {
            return Err(TableError::Invalid(format!(
                "{}: there is no table counts; a job creates its tables when it first runs: floodmark run JOB",
                self.root.url()
            ))
            .into());
        };
        // The job may still be of an earlier build, which could not read what this one would write.
        if state.format() < FORMAT_NEWEST {
            return Err(PublishError::EarlierLayout { id: self.id.clone(), found: state.format() });
        }
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

/// A publish or undo that was admitted on the version in `state`.
struct UnderWay<'a> {
    publisher: &'a Publisher,
    replay: CompleteReplay,
    log: Log,
    state: State,
    layout: Arc<Layout>,
    order: i64,
    /// The staged pieces whose base is still live.
    pieces: Vec<Piece>,
    began_ms: i64,
}

/// What is left to do after the commit of another process.
enum Left {
    /// These segments must be merged again.
    Lost(Vec<Segment>),
    /// Nothing: another process has done it, with this order.
    Already(i64),
}

impl UnderWay<'_> {
    async fn run(mut self, tell: &mut impl FnMut(&PublishProgress)) -> Result<Published, PublishError> {
        let id = self.publisher.id.as_str();
        let cells = self.replay.summary.cells.total();
        // Two processes may do this at the same time, so order and attempt alone do not make a name unique.
        let nonce = rand::random::<u64>();
        let mut progress = PublishProgress { cells_total: cells, ..PublishProgress::default() };
        // The segments to merge; at first all.
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
                    let files = self.pieces.iter().map(|piece| piece.add.len() as u64).sum();
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
                "other commits replaced files that these were merged with, merging again"
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

    /// Commits what is staged, on exactly the version that is known. Returns false if another commit was first.
    async fn commit(&mut self) -> Result<bool, PublishError> {
        let now_ms = self.publisher.clock.now_ms();
        let id = || self.publisher.id.clone();
        let keep_hours = retention::keep_hours(&self.state).unwrap_or(KEEP_HOURS);
        if (now_ms - self.began_ms) * 2 > keep_hours as i64 * HOUR_MS {
            let hours = ((now_ms - self.began_ms) / HOUR_MS) as u64;
            return Err(PublishError::TooSlow { id: id(), hours, keep_hours });
        }
        let commit = Commit {
            add: self.pieces.iter().flat_map(|piece| piece.add.clone()).collect(),
            remove: self.pieces.iter().flat_map(|piece| piece.remove.clone()).collect(),
            txns: vec![(self.publisher.txn(), self.order)],
            ..Commit::default()
        };
        // Files that overlap would stop live, so it is better not to commit.
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

    /// Reads the commits of others, checks again whether the replay is admitted, and sorts out the pieces that lost their base.
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

    /// Asks live for the next commit. This request is a commit without files, so it needs no merge and gets through.
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
