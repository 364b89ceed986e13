//! Merges small files of `raw` into large ones: the same rows, sorted by event time.
//!
//! In: a [`Group`] of live files. Out: one file in their place, in one commit that sets no application transaction. Files are
//! fetched one after the other, a thread sorts their rows ([`super::sort`]) into a temporary file, and that is uploaded in parts;
//! so memory does not grow with the file. Failure: a commit that loses its race is tried again while all inputs are live, else the
//! group is given up. A kill at any moment leaves the inputs as they were, and at most an orphan for the cleaner.

use std::io::{Read, Seek};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt};
use tokio::sync::mpsc::{Receiver, channel};

use super::error::CompactError;
use super::plan::{Group, plan};
use super::sort::{BATCH_ROWS_MAX, Sorter};
use crate::process::Clock;
use crate::table::counts::lane_epochs;
use crate::table::fetch::{FetchError, Fetched, look_at};
use crate::table::log::OPTIMIZE;
use crate::table::raw::{FileWriter, Kind, file_schema};
use crate::table::{Commit, File, Log, Root, State, TableError};

/// Files that are fetched before they are needed.
const AHEAD: usize = 2;

/// Part of an upload.
const PART_BYTES: usize = 8 << 20;

/// How long a commit may be tried. After that its file is an orphan. This must end long before a cleaner may take the file for one.
const COMMIT_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// What became of files that were to be merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Compacted {
    /// Files that are superseded.
    pub files: u64,
    /// Files in their place.
    pub into: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes before.
    pub bytes_before: u64,
    /// Bytes after.
    pub bytes_after: u64,
    /// Groups that were left alone because somebody else has changed their files.
    pub given_up: u64,
}

/// Merges what is worth merging, one group after the other, and calls `done` after each. Without tables there is nothing to do.
///
/// # Errors
/// [`CompactError`]; groups that were merged before it stay merged.
pub async fn compact(
    root: &Root,
    file_bytes: u64,
    clock: &Clock,
    mut done: impl FnMut(&Compacted),
) -> Result<Compacted, CompactError> {
    let mut sum = Compacted::default();
    let Some((log, mut state, groups)) = planned(root, file_bytes).await? else { return Ok(sum) };
    for group in groups {
        match merge_group(&log, &mut state, &group, clock).await? {
            Some(file) => {
                sum.files += group.files.len() as u64;
                sum.into += 1;
                sum.rows += file.rows;
                sum.bytes_before += group.bytes();
                sum.bytes_after += file.size;
            }
            None => sum.given_up += 1,
        }
        done(&sum);
    }
    Ok(sum)
}

/// What is worth merging now. `counts` is read first, so that what its lanes have absorbed is in `raw`.
///
/// # Errors
/// [`TableError`].
pub async fn planned(root: &Root, file_bytes: u64) -> Result<Option<(Log, State, Vec<Group>)>, TableError> {
    let Some(counts) = Log::new(root, "counts").load().await? else { return Ok(None) };
    let log = Log::new(root, "raw");
    let Some(state) = log.load().await? else { return Ok(None) };
    let absorbed = lane_epochs(&counts).into_iter().min().unwrap_or(0);
    let groups = plan(&state, absorbed, file_bytes)?;
    Ok(Some((log, state, groups)))
}

/// Merges one group; `None` where its files are no longer all live.
///
/// # Errors
/// [`CompactError`]; nothing is changed then, or the outcome of the commit is unknown.
pub async fn merge_group(
    log: &Log,
    state: &mut State,
    group: &Group,
    clock: &Clock,
) -> Result<Option<File>, CompactError> {
    // The name has no generation and no epoch of its own: it says `compact`, and which epochs are in the file.
    let name = format!("e{:012}-{:012}-compact-{:016x}", group.first, group.last, rand::random::<u64>());
    let (mut file, scratch) = merged(log, group, name).await?;
    if file.rows != group.rows() {
        let (files, rows) = (group.files.len(), group.rows());
        let what = format!("{files} files with {rows} rows were merged into a file with {} rows", file.rows);
        return Err(CompactError::Bug(what));
    }
    file.size = upload(log, &file.path, scratch).await?;
    let commit = Commit { add: vec![file.clone()], remove: group.files.clone(), ..Commit::default() };
    let committed = async {
        while group.files.iter().all(|file| state.files.contains_key(&file.path)) {
            match log.commit(state, &commit, OPTIMIZE, clock.now_ms()).await {
                Ok(()) => return Ok(true),
                Err(TableError::Lost { .. }) => log.refresh(state).await.map(drop)?,
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    };
    match tokio::time::timeout(COMMIT_PATIENCE, committed).await {
        Ok(Ok(true)) => Ok(Some(file)),
        Ok(Ok(false)) => {
            // It is certain that the file was not committed. If it can not be deleted here, the cleaner does it.
            log.store().delete(&Path::from(file.path.as_str())).await.ok();
            Ok(None)
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(CompactError::Unanswered {
            path: file.path,
            minutes: COMMIT_PATIENCE.as_secs() / 60,
            said: log.last_complaint().unwrap_or_else(|| "nothing".to_owned()),
        }),
    }
}

/// Raises the flag when nobody waits for the rows any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The rows of a group in one encoded file on this machine.
async fn merged(log: &Log, group: &Group, name: String) -> Result<(File, std::fs::File), CompactError> {
    let stop = Arc::new(AtomicBool::new(false));
    let _stop = StopOnDrop(Arc::clone(&stop));
    let (sender, receiver) = channel(1);
    let kind = group.kind;
    let sorting = tokio::task::spawn_blocking(move || {
        let _span = tracing::debug_span!("upkeep").entered();
        sort_files(receiver, kind, &name, &stop)
    });
    let mut fetched = futures::stream::iter(group.files.clone()).map(|file| fetch(log, file)).buffered(AHEAD);
    while let Some(fetched) = fetched.try_next().await? {
        if sender.send(Some(fetched)).await.is_err() {
            break;
        }
    }
    // If this does not arrive, the thread's answer shows it.
    sender.send(None).await.ok();
    sorting.await.map_err(CompactError::bug)?
}

/// Fetches a file of `raw`; returns its path with it.
async fn fetch(log: &Log, file: File) -> Result<(String, Fetched), CompactError> {
    let fetched = look_at(log.store().as_ref(), &file).await.map_err(|error| match error {
        FetchError::Store(error) => TableError::reading("raw", &file.path, error).into(),
        FetchError::Scratch(error) => CompactError::Scratch(error),
    })?;
    Ok((file.path, fetched))
}

fn sort_files(
    mut files: Receiver<Option<(String, Fetched)>>,
    kind: Kind,
    name: &str,
    stop: &AtomicBool,
) -> Result<(File, std::fs::File), CompactError> {
    let mut sorter = Sorter::new();
    loop {
        match files.blocking_recv() {
            Some(Some((path, fetched))) => read_rows(&path, &fetched, &mut sorter, stop)?,
            Some(None) => break,
            None => return Err(CompactError::Stopped),
        }
    }
    let mut writer = FileWriter::to(tempfile::tempfile().map_err(CompactError::Scratch)?)?;
    sorter.finish(&mut |rows: &RecordBatch| {
        if stop.load(Ordering::Relaxed) {
            return Err(CompactError::Stopped);
        }
        Ok(writer.write(rows)?)
    })?;
    writer.end(kind, name)?.ok_or_else(|| CompactError::Bug("a merge of files without rows was planned".to_owned()))
}

fn read_rows(path: &str, fetched: &Fetched, sorter: &mut Sorter, stop: &AtomicBool) -> Result<(), CompactError> {
    let corrupt = |what: String| TableError::Corrupt { table: "raw".to_owned(), what: format!("{path}: {what}") };
    let batches = fetched.batches(None, None, BATCH_ROWS_MAX).map_err(|error| corrupt(error.to_string()))?;
    if batches.schema().fields() != file_schema().fields() {
        return Err(corrupt(format!("its columns differ from those in schemas/raw.json: {}", batches.schema())).into());
    }
    for batch in batches {
        if stop.load(Ordering::Relaxed) {
            return Err(CompactError::Stopped);
        }
        let batch = batch.map_err(|error| corrupt(error.to_string()))?;
        sorter.push(RecordBatch::try_new(file_schema(), batch.columns().to_vec()).map_err(CompactError::bug)?)?;
    }
    Ok(())
}

/// Uploads a file in parts, and returns its size.
async fn upload(log: &Log, path: &str, mut scratch: std::fs::File) -> Result<u64, CompactError> {
    let location = Path::from(path);
    let failed = |error| CompactError::from(TableError::storage(format!("writing {path} of table raw"), error));
    scratch.rewind().map_err(CompactError::Scratch)?;
    let mut part = next_part(&mut scratch)?;
    let mut size = part.len() as u64;
    if part.len() < PART_BYTES {
        log.store().put(&location, part.into()).await.map_err(failed)?;
        return Ok(size);
    }
    let mut upload = log.store().put_multipart(&location).await.map_err(failed)?;
    let sent = async {
        while !part.is_empty() {
            upload.put_part(part.clone().into()).await.map_err(failed)?;
            part = next_part(&mut scratch)?;
            size += part.len() as u64;
        }
        upload.complete().await.map_err(failed)
    };
    if let Err(error) = sent.await {
        // The parts are of no use. If the store does not receive this either, its own rules for such parts apply.
        upload.abort().await.ok();
        return Err(error);
    }
    Ok(size)
}

fn next_part(file: &mut std::fs::File) -> Result<Bytes, CompactError> {
    let mut part = Vec::with_capacity(PART_BYTES);
    file.take(PART_BYTES as u64).read_to_end(&mut part).map_err(CompactError::Scratch)?;
    Ok(part.into())
}
