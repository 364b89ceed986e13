//! Decides whether a replay may be published or undone on a version of `counts`.
//!
//! In: the files of the replay, and the ledger in `counts`. Out: the order of its commit, or that it is done already, or a refusal that
//! says what to do. The decision is made before anything is staged, and again after every lost race. State: none.

use crate::ledger::{Entry, Ledger, Orders};
use crate::replay::compare::summary::Summary;
use crate::replay::error::PublishError;
use crate::replay::request::submission::Submission;
use crate::table::store::load_json;
use crate::table::{Root, State, TableError};

/// What is done with a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Makes its changes.
    Publish,
    /// Takes its changes back.
    Undo,
}

/// The answer, unless it is a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// It may be done; the order of its commit.
    Order(i64),
    /// It is done already; the order of that commit.
    Already(i64),
}

/// A replay that is complete.
pub(super) struct CompleteReplay {
    pub(super) submission: Submission,
    pub(super) summary: Summary,
}

impl CompleteReplay {
    /// Reads the files of a replay.
    ///
    /// # Errors
    /// [`PublishError::Unknown`], [`PublishError::Incomplete`], [`PublishError::Table`].
    pub(super) async fn load(root: &Root, id: &str) -> Result<CompleteReplay, PublishError> {
        let submission = Submission::load(root, id).await?.ok_or_else(|| PublishError::Unknown(id.to_owned()))?;
        let summary = Summary::load(root, id).await?.ok_or_else(|| PublishError::Incomplete(id.to_owned()))?;
        Ok(CompleteReplay { submission, summary })
    }

    /// Decides whether the replay may be published or undone on this version of `counts`.
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
        // This includes replays that were undone since: their undo changed cells that this replay was compared with.
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

    /// Writes the entry, which must exist before the transaction that refers to it.
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

    /// Writes the entry of a replay in force again if it was lost: without it, nothing that the replay covers can be recounted.
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

/// The newest of the other replays that covers the same windows, among those whose orders are selected.
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
