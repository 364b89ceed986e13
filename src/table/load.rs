//! Reads a table's log: a checkpoint, then the commits after it.
//!
//! In: `_delta_log`. Out: the [`State`] of the newest version, and for who cleans up also its tombstones. Of a checkpoint only
//! the columns that a state is made of are decoded: most of its rows are tombstones. Commits are fetched some at a time.
//!
//! The log changes while it is read: commits come, and entries below an old checkpoint go (`upkeep`). An entry that a listing
//! lacks is asked for by name, and when it is gone all is read again before the log is called damaged.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, AsArray, Int64Array, MapArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::Error as StoreError;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::TableError;
use super::log::{File, Log, State, commit_path};
use super::store::{look_at_file, read_file, try_read};

/// Commits that are fetched at once.
const COMMITS_AT_ONCE: usize = 16;

/// How often the log is read anew when an entry was gone.
const TRIES: usize = 3;

/// Removed files of a table, as far as its log still tells: path → when it was removed, in ms since 1970.
pub type Tombstones = HashMap<String, i64>;

/// Versions that a listing of a log holds.
pub struct Listing {
    /// Entries, sorted.
    pub commits: Vec<u64>,
    /// Checkpoints in one piece, sorted.
    pub checkpoints: Vec<u64>,
}

/// An entry that should be there, and what comes after it.
struct Gap {
    version: u64,
    newest: u64,
}

impl Log {
    /// Reads the newest version; `None` where there is no table.
    ///
    /// # Errors
    /// [`TableError::Storage`], [`TableError::Corrupt`].
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
                Ok(state) => return Ok(state),
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
            .map(|version| async move {
                let path = commit_path(version);
                match look_at_file(self.store.as_ref(), &path).await {
                    Ok(bytes) => Ok((version, Some(bytes))),
                    Err(StoreError::NotFound { .. }) => Ok((version, None)),
                    Err(error) => Err(self.storage(&format!("reading {path}"), error)),
                }
            })
            .buffered(COMMITS_AT_ONCE);
        while let Some((version, bytes)) = entries.try_next().await? {
            let Some(bytes) = bytes else { return Ok(Err(Gap { version, newest })) };
            let state = state.get_or_insert_default();
            self.apply(state, tombstones.as_deref_mut(), version, &bytes)?;
        }
        Ok(Ok(state))
    }

    /// Reads an older version, as long as its log is kept; `None` where it is no longer.
    ///
    /// # Errors
    /// [`TableError::Storage`], [`TableError::Corrupt`].
    pub async fn load_at(&self, version: u64) -> Result<Option<State>, TableError> {
        let listing = self.list(None).await?;
        let mut state = None;
        if let Some(checkpoint) = listing.checkpoints.into_iter().rev().find(|checkpoint| *checkpoint <= version) {
            state = self.read_checkpoint(checkpoint, None).await?;
        }
        let first = state.as_ref().map_or(0, |state| state.version + 1);
        for version in first..=version {
            let path = commit_path(version);
            match look_at_file(self.store.as_ref(), &path).await {
                Ok(bytes) => self.apply(state.get_or_insert_default(), None, version, &bytes)?,
                Err(StoreError::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(self.storage(&format!("reading {path}"), error)),
            }
        }
        Ok(state)
    }

    /// Reads the versions after `state`'s into it; whether there were any. Waits as long as the store is away.
    ///
    /// # Errors
    /// As [`Log::load`].
    pub async fn refresh(&self, state: &mut State) -> Result<bool, TableError> {
        let before = state.version;
        loop {
            let next = state.version + 1;
            match read_file(self.store.as_ref(), &commit_path(next)).await {
                Ok(bytes) => self.apply(state, None, next, &bytes)?,
                Err(StoreError::NotFound { .. }) => return Ok(state.version > before),
                Err(error) => return Err(self.storage("reading the log", error)),
            }
        }
    }

    /// The versions whose entries and checkpoints are there; those above `after`, if it is given.
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
                        "{}: its checkpoint is in several parts, written by another program; expected a single one",
                        self.url
                    )));
                }
                Ok(Some(last.version))
            }
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.storage("reading _last_checkpoint", error)),
        }
    }

    /// `None` when it is not there.
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
        for batch in batches {
            let batch = batch.map_err(|error| corrupt(error.to_string()))?;
            rows_of_checkpoint(&batch, &mut state, tombstones.as_deref_mut()).map_err(corrupt)?;
            // Of these there is one: as JSON it is the line of a commit.
            let metadata = rows_with(&batch, "metaData").map_err(corrupt)?;
            for (row, column) in metadata {
                let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
                let row = batch.slice(row, 1).project(&[column]);
                row.and_then(|row| writer.write(&row))
                    .and_then(|()| writer.finish())
                    .map_err(|error| corrupt(error.to_string()))?;
                self.apply(&mut state, None, version, &writer.into_inner())?;
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
        for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let action: Line<'_> = serde_json::from_slice(line).map_err(|error| corrupt(error.to_string()))?;
            if let Some(add) = action.add {
                let partition = add.partition_values.into_iter().map(|(name, value)| (name, value.unwrap_or_default()));
                let file = live_file(&add.path, add.size, partition.collect(), add.stats).map_err(corrupt)?;
                if let Some(tombstones) = &mut tombstones {
                    tombstones.remove(&file.path);
                }
                state.files.insert(file.path.clone(), file);
            }
            if let Some(remove) = action.remove {
                let path = decoded(&remove.path);
                state.files.remove(&path);
                if let Some(tombstones) = &mut tombstones {
                    tombstones.insert(path, remove.deletion_timestamp.unwrap_or(0));
                }
            }
            if let Some(txn) = action.txn {
                state.txns.insert(txn.app_id, txn.version);
            }
            if let Some(text) = action.meta_data {
                let metadata: MetadataLine =
                    serde_json::from_str(text.get()).map_err(|error| corrupt(error.to_string()))?;
                let schema: SchemaText =
                    serde_json::from_str(&metadata.schema_string).map_err(|error| corrupt(error.to_string()))?;
                state.columns = schema.fields.into_iter().map(|field| field.name).collect();
                state.properties = metadata.configuration;
                state.metadata = text.get().to_owned();
            }
        }
        state.version = version;
        Ok(())
    }
}

/// One line of a commit, the parts that a state is made of. (delta-rs' own type refuses the fields of newer writers.)
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    add: Option<AddLine>,
    remove: Option<RemoveLine>,
    txn: Option<TxnLine>,
    #[serde(borrow)]
    meta_data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AddLine {
    path: String,
    #[serde(default)]
    partition_values: BTreeMap<String, Option<String>>,
    size: u64,
    stats: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RemoveLine {
    path: String,
    deletion_timestamp: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TxnLine {
    app_id: String,
    version: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetadataLine {
    schema_string: String,
    #[serde(default)]
    configuration: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct SchemaText {
    fields: Vec<FieldText>,
}

#[derive(Deserialize)]
struct FieldText {
    name: String,
}

fn live_file(
    path: &str,
    size: u64,
    partition: BTreeMap<String, String>,
    stats: Option<String>,
) -> Result<File, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Rows {
        num_records: u64,
    }
    let path = decoded(path);
    let stats = stats.ok_or_else(|| format!("file {path} has no statistics"))?;
    let rows: Rows = serde_json::from_str(&stats).map_err(|error| format!("statistics of {path}: {error}"))?;
    Ok(File { path, size, rows: rows.num_records, partition, stats })
}

/// The actions of a checkpoint, a row each, with the columns that are of use.
fn checkpoint_batches(
    bytes: Bytes,
    with_tombstones: bool,
) -> Result<impl Iterator<Item = Result<RecordBatch, arrow::error::ArrowError>>, parquet::errors::ParquetError> {
    // Whatever types its writer had in memory: text is read as text.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options)?;
    let mut columns =
        vec!["add.path", "add.partitionValues", "add.size", "add.stats", "txn.appId", "txn.version", "metaData"];
    if with_tombstones {
        columns.extend(["remove.path", "remove.deletionTimestamp"]);
    }
    let projection = ProjectionMask::columns(builder.parquet_schema(), columns);
    builder.with_projection(projection).with_batch_size(8192).build()
}

fn rows_of_checkpoint(
    batch: &RecordBatch,
    state: &mut State,
    tombstones: Option<&mut Tombstones>,
) -> Result<(), String> {
    if let Some(add) = action(batch, "add")? {
        let (paths, sizes, stats) = (text(add, "path")?, int(add, "size")?, text(add, "stats")?);
        let partitions = (add.column_by_name("partitionValues"))
            .and_then(|column| column.as_any().downcast_ref::<MapArray>())
            .ok_or("add.partitionValues is not a map")?;
        for row in (0..add.len()).filter(|row| add.is_valid(*row)) {
            let partition = partition_of(&partitions.value(row))?;
            let stats = stats.is_valid(row).then(|| stats.value(row).to_owned());
            let file = live_file(paths.value(row), sizes.value(row) as u64, partition, stats)?;
            state.files.insert(file.path.clone(), file);
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

/// Rows that hold an action of this name, with the number of its column.
fn rows_with(batch: &RecordBatch, name: &str) -> Result<Vec<(usize, usize)>, String> {
    let Some(column) = action(batch, name)? else { return Ok(Vec::new()) };
    let index = batch.schema().index_of(name).map_err(|error| error.to_string())?;
    Ok((0..column.len()).filter(|row| column.is_valid(*row)).map(|row| (row, index)).collect())
}

fn action<'a>(batch: &'a RecordBatch, name: &str) -> Result<Option<&'a StructArray>, String> {
    match batch.column_by_name(name) {
        Some(column) => column.as_struct_opt().map(Some).ok_or_else(|| format!("column {name} is not a struct")),
        None => Ok(None),
    }
}

fn text<'a>(action: &'a StructArray, name: &str) -> Result<&'a StringArray, String> {
    (action.column_by_name(name).and_then(|column| column.as_string_opt::<i32>()))
        .ok_or_else(|| format!("expected a column {name} of text"))
}

fn int<'a>(action: &'a StructArray, name: &str) -> Result<&'a Int64Array, String> {
    (action.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>()))
        .ok_or_else(|| format!("expected a column {name} of integers"))
}

fn partition_of(entries: &StructArray) -> Result<BTreeMap<String, String>, String> {
    let column = |index: usize| {
        let column = entries.columns().get(index).and_then(|column| column.as_string_opt::<i32>());
        column.ok_or("partition values are not text")
    };
    let (names, values) = (column(0)?, column(1)?);
    let value = |row: usize| if values.is_valid(row) { values.value(row).to_owned() } else { String::new() };
    Ok((0..entries.len()).map(|row| (names.value(row).to_owned(), value(row))).collect())
}

/// Paths stand in the log as URIs. Ours need no escapes; those of other programs may have them.
fn decoded(path: &str) -> String {
    if !path.contains('%') {
        return path.to_owned();
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (byte, hex) {
            (b'%', Some(value)) => {
                bytes.push(value);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
