//! `replay list`: which replays there are, and how far they are.
//!
//! In: the folders under `replays/`, and what `counts` has on record. Out: a line for each, the oldest first. A folder without a
//! submission is that of a discarded replay, of which only the entry is left. Nothing is written.

use object_store::ObjectStore;
use object_store::path::Path;
use serde::Serialize;

use crate::ledger::Orders;
use crate::replay::compare::summary::{CellChanges, Summary};
use crate::replay::request::submission::{FOLDER, Submission};
use crate::table::{Log, Root, TableError};

/// How far a replay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayStanding {
    /// It is being computed, or was ended before its end: submit it again to go on.
    Running,
    /// It is complete, and changed nothing yet.
    Complete,
    /// It is published, at this order.
    Published(i64),
    /// It was published and undone, at this order.
    Undone(i64),
}

/// A replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// How far it is.
    pub standing: ReplayStanding,
    /// What was submitted: the range, the customers, the logic.
    pub submission: Submission,
    /// The cells that change; not known before it is complete.
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
        // Without one it was discarded, and only its entry is left.
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
