//! Deletes the files of a replay: all of them, or only those that a complete replay no longer needs.
//!
//! In: a replay's id. Out: fewer files under `replays/<id>`. A replay in force can not be discarded. An entry is never deleted, since other
//! replays are compared with it by its order. State: none. Failure: the same call again deletes what is left. Restart: the submission is
//! deleted last, so a replay that is only half discarded is still listed.

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::ledger::{Entry, Orders};
use crate::replay::compare::summary::Summary;
use crate::replay::error::PublishError;
use crate::replay::request::submission::{FOLDER, Submission};
use crate::table::{Log, Root, State, TableError};

/// Deletes a replay's files, except its entry, and returns how many. It also deletes what a run of the replay wrote after it was discarded.
///
/// # Errors
/// [`PublishError::Unknown`]; [`PublishError::InForce`]; [`PublishError::Table`], after which it can be run again.
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
    // Without its summary it can not be published. Without its submission it is not listed, so that goes last.
    paths.sort_by_key(|path| (path.as_ref() == plan, path.as_ref() != summary));
    for path in &paths {
        match root.store().delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(TableError::storage(format!("deleting {path}"), error).into()),
        }
    }
    Ok(paths.len() as u64)
}

/// Deletes what only a killed replay needs, and rows that other runs of it wrote. What is missed here is deleted by the next run.
pub async fn tidy(root: &Root, id: &str, summary: &Summary) {
    for folder in ["chunks", "rows"] {
        let folder = Path::from(Submission::path(id, folder));
        let paths: Vec<_> = root.store().list(Some(&folder)).map_ok(|object| object.location).collect().await;
        let is_over = |path: &Path| !summary.rows.iter().any(|needed| needed == path.as_ref());
        let over: Vec<_> = paths.into_iter().filter(|path| path.as_ref().is_ok_and(is_over)).collect();
        let deleted = root.store().delete_stream(futures::stream::iter(over).boxed());
        // Two runs may delete the same files at the same time.
        let failed = deleted.filter_map(|deleted| std::future::ready(deleted.err())).collect::<Vec<_>>().await;
        if let Some(error) = failed.first() {
            tracing::debug!(%folder, %error, "files that a complete replay does not need were not deleted");
        }
    }
}
