//! Deletes what a table no longer needs: superseded files, orphans of attempts that crashed, old entries of its log.
//!
//! In: a table's newest version with its tombstones, and a listing of its folder. Out: deleted objects. A superseded file is
//! deleted when its removal is older than the limit, so every version younger than the limit keeps its files. A file that the log
//! does not know is deleted when it was written before the limit, unless the running writer may still commit it. The log is deleted
//! up to its newest checkpoint that is older than the limit, so the versions that are kept can still be opened. Failure: what was
//! not deleted is found again.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectMeta};
use serde::Serialize;

use super::rests::{self, Rest};
use crate::model::Epoch;
use crate::process::panics::of_task;
use crate::process::{Clock, Exit, HasExit};
use crate::table::log::WRITER_GENERATION;
use crate::table::{Log, State, TableError, Tombstones, counts, raw};

/// A file that is stored half is under way for no longer than this, in ms.
const UNDER_WAY_MS: i64 = 3_600_000;

/// What may be deleted.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// What was dead at this time may be deleted, in ms since 1970.
    pub before_ms: i64,
    /// Whether files that the running writer may still commit are orphans too: only right when no job runs.
    pub no_job_runs: bool,
    /// Delete nothing; only report what would be deleted.
    pub dry_run: bool,
}

/// What was deleted, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cleaned {
    /// Data files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Since when the oldest of them has been dead, in ms since 1970.
    pub oldest_ms: Option<i64>,
    /// Entries and checkpoints of the log.
    pub log_entries: u64,
    /// Objects that could not be deleted.
    pub failed: u64,
    /// Why the first of them could not.
    pub failure: Option<String>,
    /// The exit code of a command for that reason.
    #[serde(skip)]
    pub exit: Option<Exit>,
}

/// Cleans one table; without a table there is nothing to do.
///
/// # Errors
/// [`TableError`] when the table or its folder can not be read; what can not be deleted is reported in [`Cleaned::failed`].
pub async fn clean(log: &Log, rule: Rule) -> Result<Cleaned, TableError> {
    let Some((mut state, tombstones)) = log.load_with_tombstones().await? else { return Ok(Cleaned::default()) };
    let mut dead = dead_files(log, &state, &tombstones, rule).await?;
    drop(tombstones);
    // Some of them may have become live meanwhile.
    log.refresh(&mut state).await?;
    dead.retain(|dead| !state.files.contains_key(dead.path.as_ref()));
    let entries = old_entries(log, rule).await?;
    let rests = rests_of(log, rule).await?;
    let mut cleaned = Cleaned {
        files: (dead.len() + rests.len()) as u64,
        bytes: dead.iter().map(|dead| dead.bytes).chain(rests.iter().map(|rest| rest.bytes)).sum(),
        oldest_ms: dead.iter().map(|dead| dead.since_ms).chain(rests.iter().map(|rest| rest.since_ms)).min(),
        log_entries: entries.len() as u64,
        ..Cleaned::default()
    };
    if rule.dry_run {
        return Ok(cleaned);
    }
    let mut left = HashSet::new();
    delete(log, dead.iter().map(|dead| dead.path.clone()).collect(), &mut left, &mut cleaned).await;
    for dead in dead.iter().filter(|dead| left.contains(&dead.path)) {
        cleaned.files -= 1;
        cleaned.bytes -= dead.bytes;
    }
    cleaned.failed = left.len() as u64;
    left.clear();
    delete(log, entries, &mut left, &mut cleaned).await;
    cleaned.log_entries -= left.len() as u64;
    cleaned.failed += left.len() as u64;
    delete_rests(rests, &mut cleaned);
    Ok(cleaned)
}

/// What a killed process left half stored, if the table is in a folder of this machine. Whatever the rule says, what was written to
/// lately may still be under way.
async fn rests_of(log: &Log, rule: Rule) -> Result<Vec<Rest>, TableError> {
    let Some(folder) = log.folder() else { return Ok(Vec::new()) };
    let before_ms = rule.before_ms.min(Clock::System.now_ms() - UNDER_WAY_MS);
    let found = tokio::task::spawn_blocking(move || rests::find(&folder, before_ms)).await;
    found.map_err(|error| TableError::Bug(of_task("looking for half-stored files", error)))
}

fn delete_rests(rests: Vec<Rest>, cleaned: &mut Cleaned) {
    for rest in rests {
        match std::fs::remove_file(&rest.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                cleaned.files -= 1;
                cleaned.bytes -= rest.bytes;
                cleaned.failed += 1;
                if cleaned.failure.is_none() {
                    cleaned.failure = Some(format!("deleting {}: {error}", rest.path.display()));
                }
            }
            _ => {}
        }
    }
}

struct Dead {
    path: Path,
    bytes: u64,
    since_ms: i64,
}

async fn dead_files(log: &Log, state: &State, tombstones: &Tombstones, rule: Rule) -> Result<Vec<Dead>, TableError> {
    let listing = |error| TableError::storage(format!("listing the files of table {}", log.name()), error);
    let mut dead = Vec::new();
    let mut listed = log.store().list(None);
    while let Some(ObjectMeta { location, last_modified, size, .. }) = listed.try_next().await.map_err(listing)? {
        let path = location.as_ref();
        if !is_ours(path) || state.files.contains_key(path) {
            continue;
        }
        let since_ms = match tombstones.get(path) {
            Some(removed_ms) => *removed_ms,
            None if !rule.no_job_runs && may_be_committed(path, state) => continue,
            None => last_modified.timestamp_millis(),
        };
        if since_ms <= rule.before_ms {
            dead.push(Dead { path: location, bytes: size, since_ms });
        }
    }
    Ok(dead)
}

/// Whether a path is that of a data file: files that others put into the folder stay.
fn is_ours(path: &str) -> bool {
    let in_a_partition = path.starts_with("granularity=") || path.starts_with("ingest_date=");
    in_a_partition && path.ends_with(".parquet")
}

/// Whether the table's current writer may still commit this file. The writer waits as long as the store is away, so the age of the
/// file says nothing. Epochs that the table holds are settled, and a writer of an older generation can no longer commit.
fn may_be_committed(path: &str, state: &State) -> bool {
    let Some((epoch, generation)) = named(path) else { return false };
    let settled = match path.starts_with("ingest_date=") {
        true => state.txn(raw::EPOCH) as Epoch,
        false => counts::lane_epochs(state).into_iter().min().unwrap_or(0),
    };
    generation >= state.txn(WRITER_GENERATION) && epoch > settled
}

/// The epoch and the generation in a name that a live job gives: `e<epoch>-g<generation>-…`.
fn named(path: &str) -> Option<(Epoch, i64)> {
    let mut parts = path.rsplit('/').next()?.split('-');
    let epoch = parts.next()?.strip_prefix('e')?.parse().ok()?;
    let generation = parts.next()?.strip_prefix('g')?.parse().ok()?;
    Some((epoch, generation))
}

/// Entries of the log below its newest checkpoint that is older than the limit, oldest first.
async fn old_entries(log: &Log, rule: Rule) -> Result<Vec<Path>, TableError> {
    // Readers begin at the checkpoint that is named as the newest.
    let Some(newest) = log.last_checkpoint().await? else { return Ok(Vec::new()) };
    let listed: Vec<ObjectMeta> = (log.store().list(Some(&Path::from("_delta_log"))).try_collect().await)
        .map_err(|error| TableError::storage(format!("listing the log of table {}", log.name()), error))?;
    let version_of = |meta: &ObjectMeta, suffix: &str| -> Option<u64> {
        meta.location.filename()?.strip_suffix(suffix)?.parse().ok()
    };
    let keep_from = (listed.iter())
        .filter(|meta| meta.last_modified.timestamp_millis() <= rule.before_ms)
        .filter_map(|meta| version_of(meta, ".checkpoint.parquet"))
        .filter(|version| *version <= newest)
        .max()
        .unwrap_or(0);
    let mut old: Vec<(u64, Path)> = (listed.into_iter())
        .filter_map(|meta| {
            let version = version_of(&meta, ".json").or_else(|| version_of(&meta, ".checkpoint.parquet"))?;
            (version < keep_from).then_some((version, meta.location))
        })
        .collect();
    old.sort();
    Ok(old.into_iter().map(|(_, path)| path).collect())
}

/// Deletes objects. Those that stay are in `left`, and the first reason is noted in `cleaned`.
async fn delete(log: &Log, paths: Vec<Path>, left: &mut HashSet<Path>, cleaned: &mut Cleaned) {
    left.extend(paths.iter().cloned());
    let paths = futures::stream::iter(paths.into_iter().map(Ok)).boxed();
    let mut answers = log.store().delete_stream(paths);
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(path) => drop(left.remove(&path)),
            // Somebody else has deleted it already.
            Err(StoreError::NotFound { path, .. }) => {
                left.retain(|left| !path.ends_with(left.as_ref()));
            }
            Err(error) if cleaned.failure.is_none() => {
                let error = TableError::storage("deleting", error);
                (cleaned.exit, cleaned.failure) = (Some(error.exit()), Some(error.to_string()));
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Lane;
    use crate::table::counts::lane_txn;

    #[test]
    fn only_names_of_data_files_are_ours() {
        for (path, ours) in [
            ("granularity=minute/period=2026-01/bucket=1/a.parquet", true),
            ("ingest_date=2026-01-13/e000000000001-g000001-p0-main.parquet", true),
            ("ingest_date=2026-01-13/notes.txt", false),
            ("_delta_log/00000000000000000010.checkpoint.parquet", false),
            ("backup/ingest_date=2026-01-13/a.parquet", false),
            ("a.parquet", false),
        ] {
            assert_eq!(is_ours(path), ours, "{path}");
        }
    }

    #[test]
    fn a_file_of_an_open_epoch_of_the_present_writer_may_be_committed() {
        let mut raw = State::default();
        raw.txns.extend([(WRITER_GENERATION.to_owned(), 3), (raw::EPOCH.to_owned(), 7)]);
        for (name, may) in [
            ("e000000000008-g000003-p0-main", true),
            ("e000000000007-g000003-p0-main", false),
            ("e000000000008-g000002-p0-main", false),
            ("e000000000001-000000000009-compact-00ff-main", false),
            ("replay-e000000000009-g000003-o000001-a1-00ff", false),
            ("part-0001", false),
        ] {
            assert_eq!(may_be_committed(&format!("ingest_date=2026-01-13/{name}.parquet"), &raw), may, "{name}");
        }
        let mut counts = State::default();
        counts.txns.insert(WRITER_GENERATION.to_owned(), 3);
        counts.txns.extend(Lane::ALL.map(|lane| (lane_txn(lane), if lane == Lane::Coarse { 5 } else { 9 })));
        for (name, may) in [("e000000000006-g000003-coarse-a1", true), ("e000000000005-g000003-minute-a1", false)] {
            let path = format!("granularity=week/period=2026/bucket=0/{name}.parquet");
            assert_eq!(may_be_committed(&path, &counts), may, "{name}");
        }
    }
}
