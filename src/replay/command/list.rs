//! `replay list`: shows which replays there are, and the state of each.
//!
//! In: the folders under `replays/`, and the ledger in `counts`. Out: a line for each replay, the oldest first. A folder without a
//! submission belongs to a discarded replay, of which only the entry is left; it is not listed. Nothing is written.

use object_store::ObjectStore;
use object_store::path::Path;
use serde::Serialize;

use crate::ledger::Orders;
use crate::replay::compare::summary::{CellChanges, Summary};
use crate::replay::request::submission::{FOLDER, Submission};
use crate::table::{Log, Root, TableError};

/// The state of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayStanding {
    /// It is running, or was stopped before its end; submitting it again continues it.
    Running,
    /// It is complete, and has not changed anything yet.
    Complete,
    /// It is published, with this order.
    Published(i64),
    /// It was published and then undone, with this order.
    Undone(i64),
}

/// A replay in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its state.
    pub standing: ReplayStanding,
    /// What was submitted: the range, the customers, the logic.
    pub submission: Submission,
    /// How many cells change; `None` until it is complete.
    pub cells: Option<CellChanges>,
}

/// All replays, the oldest first.
///
/// # Errors
/// [`TableError`].
pub async fn list(root: &Root) -> Result<Vec<Listed>, TableError> {
    let counts = Log::new(root, "counts").load().await?.unwrap_or_default();
    let orders = Orders::of(&counts);
    let folders = (root.store().list_with_delimiter(Some(&Path::from(FOLDER))).await)
        .map_err(|error| TableError::storage(format!("listing {FOLDER}"), error))?;
    let mut replays = Vec::new();
    for folder in folders.common_prefixes {
        let Some(id) = folder.filename() else { continue };
        // A folder without a submission is that of a discarded replay, of which only the entry is left.
        let Some(submission) = Submission::load(root, id).await? else { continue };
        let summary = Summary::load(root, id).await?;
        let standing = match (orders.by_id.get(id).copied().unwrap_or_default(), &summary) {
            ((published, undone), _) if published > undone => ReplayStanding::Published(published),
            ((_, undone), _) if undone > 0 => ReplayStanding::Undone(undone),
            (_, Some(_)) => ReplayStanding::Complete,
            (_, None) => ReplayStanding::Running,
        };
        replays.push(Listed { standing, submission, cells: summary.map(|summary| summary.cells) });
    }
    replays.sort_by(|a, b| {
        (a.submission.submitted_ms, &a.submission.id).cmp(&(b.submission.submitted_ms, &b.submission.id))
    });
    Ok(replays)
}
