//! Reads a table's log: a checkpoint, then the commits after it.
//!
//! In: `_delta_log`. Out: the [`State`] of the newest version, and for the cleaner also its tombstones. Of a checkpoint only the
//! columns that make up a state are decoded, because most of its rows are tombstones. Commits are fetched a few at a time.
//!
//! What other programs have written is taken in or refused by the rules of [`super::foreign`].
//!
//! The log changes while it is read: commits are added, and `upkeep` deletes entries below an old checkpoint. An entry that is
//! missing from a listing is requested by name. If it is gone, the whole log is read again, a few times, before it is reported as
//! damaged.

use std::collections::HashMap;

use arrow::array::{Array, MapArray, RecordBatch};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::Error as StoreError;
use object_store::path::Path;
use serde::Deserialize;

use super::actions::{DeletionVector, Found, Line, MetadataLine, decoded, lines_of, live_file, origin_of};
use super::checkpoint::{action, action_of, checkpoint_batches, int, partition_of, rows_with, text, vector_of};
use super::error::TableError;
use super::foreign::{check, lacks};
use super::log::{Log, commit_path};
use super::seen::{Changes, Origin};
use super::state::State;
use super::store::{look_at_file, read_file, try_read};

/// Commits that are fetched at once.
const COMMITS_AT_ONCE: usize = 16;

/// How often the log is read before a missing entry is reported as damage.
const TRIES: usize = 3;

/// Removed files of a table, as far as its log still has them: path → when it was removed, in ms since 1970.
pub type Tombstones = HashMap<String, i64>;

/// The versions in a listing of a log.
pub struct Listing {
    /// Entries, sorted.
    pub commits: Vec<u64>,
    /// Checkpoints in one piece, sorted.
    pub checkpoints: Vec<u64>,
}

/// A missing entry, and the newest one after it.
struct Gap {
    version: u64,
    newest: u64,
}

impl Log {
    /// Reads the newest version; `None` where there is no table.
    ///
    /// # Errors
    /// [`TableError::Storage`], [`TableError::Corrupt`]; [`TableError::Invalid`] when it can not be read or written correctly.
    pub async fn load(&self) -> Result<Option<State>, TableError> {
        self.load_all(&mut None).await
    }

    /// Reads the newest version with the tombstones that the log holds.
    ///
    /// # Errors
    /// As [`Log::load`].
    pub async fn load_with_tombstones(&self) -> Result<Option<(State, Tombstones)>, TableError> {
        let mut tombstones = Some(Tombstones::new());
        let state = self.load_all(&mut tombstones).await?;
        Ok(state.zip(tombstones))
    }

    async fn load_all(&self, tombstones: &mut Option<Tombstones>) -> Result<Option<State>, TableError> {
        let mut gap = None;
        for _ in 0..TRIES {
            if let Some(tombstones) = tombstones {
                tombstones.clear();
            }
            match self.load_once(tombstones.as_mut()).await? {
                Ok(state) => {
                    if let Some(state) = &state {
                        check(&self.name, &self.url, state)?;
                    }
                    return Ok(state);
                }
                Err(found) => gap = Some(found),
            }
        }
        let Some(Gap { version, newest }) = gap else { return Ok(None) };
        Err(self.corrupt(format!("_delta_log lacks version {version}, but has version {newest}")))
    }

    async fn load_once(
        &self,
        mut tombstones: Option<&mut Tombstones>,
    ) -> Result<Result<Option<State>, Gap>, TableError> {
        let mut state = match self.last_checkpoint().await? {
            Some(version) => self.read_checkpoint(version, tombstones.as_deref_mut()).await?,
            None => None,
        };
        let mut listing = self.list(state.as_ref().map(|state| state.version)).await?;
        if state.is_none()
            && let Some(version) = listing.checkpoints.pop()
        {
            state = self.read_checkpoint(version, tombstones.as_deref_mut()).await?;
        }
        let Some(newest) = listing.commits.pop() else { return Ok(Ok(state)) };
        let first = state.as_ref().map_or(0, |state| state.version + 1);
        let mut entries = futures::stream::iter(first..=newest)
            .map(|version| async move { Ok::<_, TableError>((version, self.entry_to_load(version).await?)) })
            .buffered(COMMITS_AT_ONCE);
        while let Some((version, bytes)) = entries.try_next().await? {
            let Some(bytes) = bytes else { return Ok(Err(Gap { version, newest })) };
            let state = state.get_or_insert_default();
            self.apply(state, tombstones.as_deref_mut(), version, &bytes)?;
        }
        Ok(Ok(state))
    }

    /// Reads an older version, as long as its log is kept; `None` if it no longer is.
    ///
    /// # Errors
    /// As [`Log::load`].
    pub async fn load_at(&self, version: u64) -> Result<Option<State>, TableError> {
        let listing = self.list(None).await?;
        let mut state = None;
        if let Some(checkpoint) = listing.checkpoints.into_iter().rev().find(|checkpoint| *checkpoint <= version) {
            state = self.read_checkpoint(checkpoint, None).await?;
        }
        let first = state.as_ref().map_or(0, |state| state.version + 1);
        for version in first..=version {
            let Some(bytes) = self.entry_to_load(version).await? else { return Ok(None) };
            self.apply(state.get_or_insert_default(), None, version, &bytes)?;
        }
        if let Some(state) = &state {
            check(&self.name, &self.url, state)?;
        }
        Ok(state)
    }

    async fn entry_to_load(&self, version: u64) -> Result<Option<Bytes>, TableError> {
        let entry = self.entry(version).await;
        entry.map_err(|error| self.storage(&format!("reading {}", commit_path(version)), error))
    }

    /// Reads the versions after `state`'s into it, and returns whether there were any. Waits while the store is away.
    ///
    /// # Errors
    /// As [`Log::load`].
    pub async fn refresh(&self, state: &mut State) -> Result<bool, TableError> {
        let before = state.version;
        loop {
            let next = state.version + 1;
            match read_file(self.store.as_ref(), &commit_path(next)).await {
                Ok(bytes) => self.apply(state, None, next, &bytes)?,
                Err(StoreError::NotFound { .. }) if state.version == before => return Ok(false),
                Err(StoreError::NotFound { .. }) => {
                    check(&self.name, &self.url, state)?;
                    return Ok(true);
                }
                Err(error) => return Err(self.storage("reading the log", error)),
            }
        }
    }

    /// The versions that have an entry or a checkpoint; only those above `after`, if it is given.
    ///
    /// # Errors
    /// [`TableError::Storage`].
    pub async fn list(&self, after: Option<u64>) -> Result<Listing, TableError> {
        let folder = Path::from("_delta_log");
        let offset = after.map_or_else(|| folder.clone(), commit_path);
        let listed: Vec<_> = try_read(|| self.store.list_with_offset(Some(&folder), &offset).try_collect())
            .await
            .map_err(|error| self.storage("listing the log", error))?;
        let versions = |suffix: &str| {
            let mut versions: Vec<u64> = (listed.iter())
                .filter_map(|meta| meta.location.filename()?.strip_suffix(suffix)?.parse().ok())
                .filter(|version| after.is_none_or(|after| *version > after))
                .collect();
            versions.sort_unstable();
            versions
        };
        Ok(Listing { commits: versions(".json"), checkpoints: versions(".checkpoint.parquet") })
    }

    /// The version of the checkpoint that the log names as its newest.
    ///
    /// # Errors
    /// [`TableError::Storage`]; [`TableError::Corrupt`]; [`TableError::Invalid`] when it is in several parts.
    pub async fn last_checkpoint(&self) -> Result<Option<u64>, TableError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct LastCheckpoint {
            version: u64,
            parts: Option<u32>,
        }
        match look_at_file(self.store.as_ref(), &Path::from("_delta_log/_last_checkpoint")).await {
            Ok(bytes) => {
                let last: LastCheckpoint = serde_json::from_slice(&bytes)
                    .map_err(|error| self.corrupt(format!("_delta_log/_last_checkpoint: {error}")))?;
                if last.parts.is_some_and(|parts| parts > 1) {
                    return Err(TableError::Invalid(format!(
                        "{}: another program has written the checkpoint in several parts; expected a single file",
                        self.url
                    )));
                }
                Ok(Some(last.version))
            }
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.storage("reading _last_checkpoint", error)),
        }
    }

    /// Reads a checkpoint; `None` when it is not there.
    async fn read_checkpoint(
        &self,
        version: u64,
        mut tombstones: Option<&mut Tombstones>,
    ) -> Result<Option<State>, TableError> {
        let path = Path::from(format!("_delta_log/{version:020}.checkpoint.parquet"));
        let bytes = match look_at_file(self.store.as_ref(), &path).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.storage(&format!("reading {path}"), error)),
        };
        let corrupt = |error: String| self.corrupt(format!("{path}: {error}"));
        let batches = checkpoint_batches(bytes, tombstones.is_some()).map_err(|error| corrupt(error.to_string()))?;
        let mut state = State { version, ..State::default() };
        let origin = Origin { version, checkpoint: true, ..Origin::default() };
        for batch in batches {
            let batch = batch.map_err(|error| corrupt(error.to_string()))?;
            self.rows_of_checkpoint(&batch, &mut state, tombstones.as_deref_mut(), &origin).map_err(corrupt)?;
            // There is one of each, and as JSON it has the form of a line of a commit.
            let mut rows = rows_with(&batch, "protocol").map_err(corrupt)?;
            rows.extend(rows_with(&batch, "metaData").map_err(corrupt)?);
            for (row, column) in rows {
                let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
                let row = batch.slice(row, 1).project(&[column]);
                row.and_then(|row| writer.write(&row))
                    .and_then(|()| writer.finish())
                    .map_err(|error| corrupt(error.to_string()))?;
                let bytes = writer.into_inner();
                let line: Line<'_> = serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
                self.apply_line(&mut state, None, line, &origin, &mut Changes::default()).map_err(corrupt)?;
            }
        }
        Ok(Some(state))
    }

    /// Applies the lines of one commit.
    pub(super) fn apply(
        &self,
        state: &mut State,
        mut tombstones: Option<&mut Tombstones>,
        version: u64,
        bytes: &[u8],
    ) -> Result<(), TableError> {
        let corrupt = |what: String| self.corrupt(format!("_delta_log, version {version}: {what}"));
        let lines = lines_of(bytes).map_err(|error| corrupt(error.to_string()))?;
        let origin = origin_of(&lines, version);
        let mut changes = Changes::default();
        for line in lines {
            self.apply_line(state, tombstones.as_deref_mut(), line, &origin, &mut changes).map_err(corrupt)?;
        }
        state.seen.commit(&self.name, changes, &origin);
        state.version = version;
        Ok(())
    }

    fn apply_line(
        &self,
        state: &mut State,
        mut tombstones: Option<&mut Tombstones>,
        line: Line<'_>,
        origin: &Origin,
        changes: &mut Changes,
    ) -> Result<(), String> {
        if let Some(add) = line.add {
            changes.adds_rows |= add.data_change.unwrap_or(true);
            let partition = add.partition_values.into_iter().map(|(name, value)| (name, value.unwrap_or_default()));
            let vector = add.deletion_vector.map(DeletionVector::id);
            let found =
                Found { path: add.path, size: add.size, partition: partition.collect(), stats: add.stats, vector };
            if let Some(path) = self.add(state, found, origin) {
                if let Some(tombstones) = &mut tombstones {
                    tombstones.remove(&path);
                }
                let rows = state.files.get(&path).map_or(0, |file| file.rows);
                changes.added.push((path, rows));
            }
        }
        if let Some(remove) = line.remove {
            let path = decoded(&remove.path);
            let vector = remove.deletion_vector.map(DeletionVector::id);
            if !state.seen.removed(&path, vector.clone())
                && vector.is_none()
                && let Some(file) = state.files.remove(&path)
            {
                changes.removed.push((path.clone(), file.rows));
            }
            if let Some(tombstones) = &mut tombstones {
                tombstones.insert(path, remove.deletion_timestamp.unwrap_or(0));
            }
        }
        if let Some(txn) = line.txn {
            state.txns.insert(txn.app_id, txn.version);
        }
        if let Some(protocol) = line.protocol {
            state.seen.protocol(protocol, origin.clone());
        }
        if let Some(text) = line.meta_data {
            let metadata: MetadataLine = serde_json::from_str(text.get()).map_err(|error| error.to_string())?;
            state.properties = metadata.configuration;
            state.metadata = text.get().to_owned();
            state.seen.metadata(origin.clone());
        }
        Ok(())
    }

    /// Adds a file that became live. Returns its path if it can be read and was not live before.
    fn add(&self, state: &mut State, found: Found, origin: &Origin) -> Option<String> {
        let path = decoded(&found.path);
        let vector = found.vector.clone();
        let file = match live_file(found) {
            Ok(file) => match lacks(&self.name, &file) {
                None => file,
                Some(why) => {
                    state.seen.unreadable(path, vector, why, origin.clone());
                    return None;
                }
            },
            Err(why) => {
                state.seen.unreadable(path, vector, why, origin.clone());
                return None;
            }
        };
        // A file may be added again, with better statistics.
        state.seen.removed(&path, None);
        state.files.insert(path.clone(), file).is_none().then_some(path)
    }

    fn rows_of_checkpoint(
        &self,
        batch: &RecordBatch,
        state: &mut State,
        tombstones: Option<&mut Tombstones>,
        origin: &Origin,
    ) -> Result<(), String> {
        let add = action(batch, "add")?.ok_or("it has no column add, which lists the files")?;
        let (paths, sizes) = (text(add, "path")?, int(add, "size")?);
        // Some programs can be configured to leave out the text of statistics.
        let stats = add.column_by_name("stats").map(|_| text(add, "stats")).transpose()?;
        let vectors = action_of(add, "deletionVector")?;
        let partitions = (add.column_by_name("partitionValues"))
            .and_then(|column| column.as_any().downcast_ref::<MapArray>())
            .ok_or("add.partitionValues is not a map")?;
        for row in (0..add.len()).filter(|row| add.is_valid(*row)) {
            let found = Found {
                path: paths.value(row).to_owned(),
                size: sizes.value(row) as u64,
                partition: partition_of(&partitions.value(row))?,
                stats: stats.filter(|stats| stats.is_valid(row)).map(|stats| stats.value(row).to_owned()),
                vector: vectors.map(|vectors| vector_of(vectors, row)).transpose()?.flatten(),
            };
            if let Some(path) = self.add(state, found, origin) {
                state.seen.in_checkpoint(&self.name, &path, origin);
            }
        }
        if let Some(txn) = action(batch, "txn")? {
            let (ids, versions) = (text(txn, "appId")?, int(txn, "version")?);
            for row in (0..txn.len()).filter(|row| txn.is_valid(*row)) {
                state.txns.insert(ids.value(row).to_owned(), versions.value(row));
            }
        }
        if let (Some(tombstones), Some(remove)) = (tombstones, action(batch, "remove")?) {
            let (paths, times) = (text(remove, "path")?, int(remove, "deletionTimestamp")?);
            for row in (0..remove.len()).filter(|row| remove.is_valid(*row)) {
                let time = if times.is_valid(row) { times.value(row) } else { 0 };
                tombstones.insert(decoded(paths.value(row)), time);
            }
        }
        Ok(())
    }
}
