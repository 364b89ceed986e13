//! May a replay be published, or taken back, on a version of `counts`? Asked before anything is staged, and again after every
//! lost race.
//!
//! In: what the replay left behind, and what `counts` has on record. Out: the order number of its commit; or that it is done
//! already; or a refusal that says what to do. State: none.

use super::dataset::Summary;
use super::submission::Submission;
use crate::ledger::{Entry, Fingerprint, Ledger, Orders};
use crate::model::Epoch;
use crate::process::{Exit, HasExit};
use crate::table::store::load_json;
use crate::table::{Root, State, TableError};

/// What is done with a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Its changes are made.
    Publish,
    /// Its changes are taken back.
    Undo,
}

/// Why a replay was not published or undone; nothing of it can be seen then.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A table, or the replay's files.
    #[error(transparent)]
    Table(#[from] TableError),
    /// No such replay.
    #[error("there is no replay {0:?}: `floodmark replay list` shows those that there are")]
    Unknown(String),
    /// It has not come to its end.
    #[error(
        "replay {0} is not complete: submit it again under the same id, it goes on where it ended; then publish it"
    )]
    Incomplete(String),
    /// It was never published.
    #[error("replay {0} was never published, so there is nothing to undo")]
    NotPublished(String),
    /// Its logic was not the newest on record.
    #[error(
        "replay {id} is a preview: live did not count with its logic ({logic}) when it was submitted. Run the job with that \
         logic first (`floodmark run`), then submit the replay again with a new id"
    )]
    Preview {
        /// The replay.
        id: String,
        /// Its logic.
        logic: Fingerprint,
    },
    /// Live counts with another logic now.
    #[error(
        "replay {id} counts with logic {ours} (live: from epoch {before} on), but the newest on record is {found}: submit it again \
         with a new id and the job file that runs now"
    )]
    LogicChanged {
        /// The replay.
        id: String,
        /// Its logic.
        ours: Fingerprint,
        /// From which epoch on live counted with it.
        before: Epoch,
        /// What is on record.
        found: String,
    },
    /// The id was that of another replay before.
    #[error(
        "replay {0} is not the one that was published under this id before (its plan.json and its entry.json differ): submit it \
         again with a new id"
    )]
    Reused(String),
    /// What it was compared with is no more.
    #[error(
        "replay {id} was compared before replay {other} was published or undone, and both cover the same windows: submit it again \
         with a new id"
    )]
    Overtaken {
        /// The replay.
        id: String,
        /// The one that was faster.
        other: String,
    },
    /// Another one stands on top of it.
    #[error(
        "replay {other} was published after {id} and covers the same windows: the newest goes first, so run `floodmark replay undo \
         {other}` before"
    )]
    UndoFirst {
        /// The replay.
        id: String,
        /// The one that is newer.
        other: String,
    },
    /// The tables count with it.
    #[error("replay {0} is published, and its files are needed to undo it: run `floodmark replay undo {0}` before")]
    InForce(String),
    /// What was staged may be taken for an orphan soon.
    #[error(
        "replay {id} took {hours} h so far, and files that are not committed are deleted after {keep_hours} h: raise \
         settings.dead_files_keep_hours, or submit a shorter range"
    )]
    TooSlow {
        /// The replay.
        id: String,
        /// Hours since it began.
        hours: u64,
        /// How long the table keeps orphans.
        keep_hours: u64,
    },
    /// The store did not answer to the commit.
    #[error(
        "the store did not answer to the commit of replay {id} (the last that was heard: {said}); whether it was done shows when \
         the same command is run again"
    )]
    OutcomeUnknown {
        /// The replay.
        id: String,
        /// The last complaint of the store's client.
        said: String,
    },
}

impl HasExit for PublishError {
    fn exit(&self) -> Exit {
        match self {
            PublishError::Table(error) => error.exit(),
            PublishError::OutcomeUnknown { .. } => Exit::TryAgain,
            PublishError::Unknown(_)
            | PublishError::Incomplete(_)
            | PublishError::NotPublished(_)
            | PublishError::Preview { .. }
            | PublishError::LogicChanged { .. }
            | PublishError::Reused(_)
            | PublishError::Overtaken { .. }
            | PublishError::UndoFirst { .. }
            | PublishError::InForce(_)
            | PublishError::TooSlow { .. } => Exit::Failed,
        }
    }
}

/// Whether it may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// It may: the order of its commit.
    Order(i64),
    /// It is done: the order of that commit.
    Already(i64),
}

/// A replay that is complete.
pub(super) struct Replay {
    pub(super) submission: Submission,
    pub(super) summary: Summary,
}

impl Replay {
    /// Reads what it left behind.
    ///
    /// # Errors
    /// [`PublishError::Unknown`], [`PublishError::Incomplete`], [`PublishError::Table`].
    pub(super) async fn load(root: &Root, id: &str) -> Result<Replay, PublishError> {
        let submission = Submission::load(root, id).await?.ok_or_else(|| PublishError::Unknown(id.to_owned()))?;
        let summary = Summary::load(root, id).await?.ok_or_else(|| PublishError::Incomplete(id.to_owned()))?;
        Ok(Replay { submission, summary })
    }

    /// Whether it may be done on this version of `counts`.
    ///
    /// # Errors
    /// A refusal; [`PublishError::Table`].
    pub(super) async fn admit(
        &self,
        root: &Root,
        counts: &State,
        direction: Direction,
    ) -> Result<Admitted, PublishError> {
        let orders = Orders::of(counts);
        let (published, undone) = orders.by_id.get(&self.submission.id).copied().unwrap_or_default();
        match direction {
            Direction::Publish if published > undone => return Ok(Admitted::Already(published)),
            Direction::Undo if published == 0 => return Err(PublishError::NotPublished(self.submission.id.clone())),
            Direction::Undo if undone > published => return Ok(Admitted::Already(undone)),
            Direction::Publish => self.may_publish(root, counts, &orders, published > 0).await?,
            Direction::Undo => self.may_undo(root, &orders, published).await?,
        }
        Ok(Admitted::Order(orders.newest() + 1))
    }

    async fn may_publish(&self, root: &Root, counts: &State, orders: &Orders, again: bool) -> Result<(), PublishError> {
        let Submission { logic, order, .. } = self.submission;
        let id = || self.submission.id.clone();
        let Some(entry) = self.submission.entry() else { return Err(PublishError::Preview { id: id(), logic }) };
        let newest = Ledger::of(counts).newest();
        if newest != Some((entry.before, logic)) {
            let found =
                newest.map_or_else(|| "none".to_owned(), |(from, theirs)| format!("{theirs}, from epoch {from} on"));
            return Err(PublishError::LogicChanged { id: id(), ours: logic, before: entry.before, found });
        }
        if again && Entry::load(root, &entry.id).await? != entry {
            return Err(PublishError::Reused(id()));
        }
        // Also what was undone since: its cells are other ones than those compared with.
        let since = |(published, undone): (i64, i64)| published.max(undone) > order;
        match first_overlapping(root, orders, &entry, since).await? {
            Some(other) => Err(PublishError::Overtaken { id: id(), other }),
            None => Ok(()),
        }
    }

    async fn may_undo(&self, root: &Root, orders: &Orders, published: i64) -> Result<(), PublishError> {
        let entry = Entry::load(root, &self.submission.id).await?;
        if self.submission.entry().as_ref() != Some(&entry) {
            return Err(PublishError::Reused(entry.id));
        }
        let on_top = |(theirs, undone): (i64, i64)| theirs > undone && theirs > published;
        match first_overlapping(root, orders, &entry, on_top).await? {
            Some(other) => Err(PublishError::UndoFirst { id: entry.id, other }),
            None => Ok(()),
        }
    }

    /// Writes the entry: it is there before the transaction that refers to it.
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) async fn record(&self, root: &Root) -> Result<(), TableError> {
        let Some(entry) = self.submission.entry() else { return Ok(()) };
        match load_json::<Entry>(root, &Entry::path(&entry.id)).await? {
            Some(there) if there == entry => Ok(()),
            _ => entry.store(root).await,
        }
    }

    /// Writes the entry of a replay in force again, where it was lost: nothing that it covers can be recounted without it.
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) async fn mend(&self, root: &Root) -> Result<(), TableError> {
        match load_json::<Entry>(root, &Entry::path(&self.submission.id)).await? {
            Some(_) => Ok(()),
            None => self.record(root).await,
        }
    }
}

/// The newest of the other replays of these orders that covers the same windows.
async fn first_overlapping(
    root: &Root,
    orders: &Orders,
    entry: &Entry,
    of: impl Fn((i64, i64)) -> bool,
) -> Result<Option<String>, TableError> {
    let others = orders.by_id.iter().filter(|(id, orders)| **id != entry.id && of(**orders));
    let mut others: Vec<_> = others.map(|(id, (published, undone))| (*published.max(undone), id)).collect();
    others.sort_unstable();
    for (_, id) in others.into_iter().rev() {
        if Entry::load(root, id).await?.overlaps(entry) {
            return Ok(Some(id.clone()));
        }
    }
    Ok(None)
}
