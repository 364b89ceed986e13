//! Which replays there are, and throwing one away.
//!
//! In: the folders under `replays/`, and what `counts` has on record. Out: a line for each; or deleted files. What the tables refer to
//! stays: a replay in force can not be discarded, and an entry is never deleted, since others are compared with it by its order.

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::Serialize;

use super::admission::PublishError;
use super::dataset::{Changes, Summary};
use super::submission::{FOLDER, Submission};
use crate::ledger::{Entry, Orders};
use crate::table::{Log, Root, State, TableError};

/// How far a replay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
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
    pub standing: Standing,
    /// What was submitted: the range, the customers, the logic.
    pub submission: Submission,
    /// The cells that change; not known before it is complete.
    pub cells: Option<Changes>,
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
            ((published, undone), _) if published > undone => Standing::Published(published),
            ((_, undone), _) if undone > 0 => Standing::Undone(undone),
            (_, Some(_)) => Standing::Complete,
            (_, None) => Standing::Running,
        };
        replays.push(Listed { standing, submission, cells: summary.map(|summary| summary.cells) });
    }
    replays.sort_by(|a, b| {
        (a.submission.submitted_ms, &a.submission.id).cmp(&(b.submission.submitted_ms, &b.submission.id))
    });
    Ok(replays)
}

/// Deletes a replay's files, but for its entry; how many. Also what a run of it wrote that went on after it was discarded.
///
/// # Errors
/// [`PublishError::Unknown`]; [`PublishError::InForce`]; [`PublishError::Table`]: then run it again.
pub async fn discard(root: &Root, id: &str) -> Result<u64, PublishError> {
    let counts: State = Log::new(root, "counts").load().await?.unwrap_or_default();
    if Orders::of(&counts).in_force(id) {
        return Err(PublishError::InForce(id.to_owned()));
    }
    let folder = Path::from(format!("{FOLDER}/{id}"));
    let listing = |error| TableError::storage(format!("listing {folder}"), error);
    let listed: Vec<_> = root.store().list(Some(&folder)).try_collect().await.map_err(listing)?;
    let (plan, summary) = (Submission::path(id, "plan.json"), Submission::path(id, "summary.json"));
    let mut paths: Vec<Path> = listed.into_iter().map(|meta| meta.location).collect();
    paths.retain(|path| path.as_ref() != Entry::path(id));
    if paths.is_empty() {
        return Err(PublishError::Unknown(id.to_owned()));
    }
    // Without its summary it can not be published; without its submission it is not there, so that goes last.
    paths.sort_by_key(|path| (path.as_ref() == plan, path.as_ref() != summary));
    for path in &paths {
        match root.store().delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(TableError::storage(format!("deleting {path}"), error).into()),
        }
    }
    Ok(paths.len() as u64)
}
