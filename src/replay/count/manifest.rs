//! What a worker has counted of a chunk, and which chunks are done.
//!
//! In: the manifests under `replays/<id>/chunks`, named by chunk, run of the replay, and worker. Out: the manifests of the chunks that are
//! done, and the chunks that are still to be counted. A chunk is done when all workers of one run have written their manifests of it; what
//! a run left unfinished is counted again. State: none.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::arrivals::OutcomeTallies;
use super::chunks::Chunk;
use super::runs::StoredRun;
use crate::dataflow::run::Run;
use crate::replay::request::submission::Submission;
use crate::table::store::{load_json, try_read};
use crate::table::{File, Root, TableError};

/// What a worker has counted of a chunk, on the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Sorted runs.
    pub runs: Vec<StoredRun>,
    /// Paths of the Parquet files with the rows whose outcome has changed.
    pub rows: Vec<String>,
    /// Rows by outcome.
    pub tallies: OutcomeTallies,
    /// How often the budget was exceeded.
    pub spilled: u64,
}

impl Manifest {
    /// Adds what another has counted.
    pub fn merge(&mut self, other: Manifest) {
        self.runs.extend(other.runs);
        self.rows.extend(other.rows);
        self.tallies.merge(&other.tallies);
        self.spilled += other.spilled;
    }
}

/// What a worker has counted of the last chunk, if that stays in memory.
#[derive(Default)]
pub struct Rest {
    /// Runs in memory.
    pub memory: Vec<Arc<Run>>,
    /// Everything else: runs that went to the store, and the outcomes.
    pub manifest: Manifest,
    /// Rows whose outcome has changed, in memory.
    pub rows: Vec<RecordBatch>,
}

/// The path at which a worker records that it is done with a chunk.
pub fn manifest_path(id: &str, chunk: Chunk, attempt: &str, worker: usize, workers: usize) -> String {
    Submission::path(id, &format!("chunks/{chunk:06}/{attempt}-{worker}-of-{workers}.json"))
}

/// Reads the manifests of the chunks that are done, and lists the chunks that are still to be counted. A chunk is done when all workers of
/// one run have written their manifests of it.
///
/// # Errors
/// [`TableError`] when the store fails, or a manifest can not be read.
pub async fn done_and_todo(
    root: &Root,
    submission: &Submission,
    all: Vec<(Chunk, Vec<File>)>,
) -> Result<(Vec<Manifest>, Vec<(Chunk, Vec<File>)>), TableError> {
    let folder = Path::from(Submission::path(&submission.id, "chunks"));
    let listed: Vec<_> = try_read(|| root.store().list(Some(&folder)).try_collect())
        .await
        .map_err(|error| TableError::storage(format!("listing {folder}"), error))?;
    // Chunk, run, and how many manifests there must be → their paths.
    let mut said: BTreeMap<(Chunk, String, usize), Vec<Path>> = BTreeMap::new();
    for object in listed {
        let location = object.location;
        let parsed = || {
            let mut parts = location.as_ref().rsplit('/');
            let (attempt, rest) = parts.next()?.strip_suffix(".json")?.split_once('-')?;
            let (_, workers) = rest.split_once("-of-")?;
            Some((parts.next()?.parse().ok()?, attempt.to_owned(), workers.parse().ok()?))
        };
        if let Some(key) = parsed() {
            said.entry(key).or_default().push(location);
        }
    }
    let (mut manifests, mut todo) = (Vec::new(), Vec::new());
    for (chunk, files) in all {
        let whole = said.iter().find(|((of, _, workers), paths)| *of == chunk && paths.len() == *workers);
        let mut found = Vec::new();
        for path in whole.iter().flat_map(|(_, paths)| *paths) {
            found.extend(load_json::<Manifest>(root, path.as_ref()).await?);
        }
        // A manifest may have been deleted since it was listed.
        match whole {
            Some((_, paths)) if paths.len() == found.len() => manifests.append(&mut found),
            _ => todo.push((chunk, files)),
        }
    }
    Ok((manifests, todo))
}
