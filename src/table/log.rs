//! A table's Delta log as a sequence of compare-and-swaps.
//!
//! A commit is one conditional create of `_delta_log/<version>.json`: whoever creates version n + 1 had read version n. That is the
//! only guard that we rely on, and the only way in which we commit. The state (live files, application transactions) is kept up to
//! date from our own commits; it is read from the log only at a start and after a lost race.
//!
//! A lost reply does no harm: the commit's bytes carry a nonce, so the same bytes are sent again until the version exists, and
//! comparing what is there with what was sent shows who won. Format: the Delta protocol, reader 1, writer 2. Reading is in
//! [`super::load`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use deltalake_core::kernel::{Action, Add, Remove, Transaction};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, PutMode, PutOptions};
use serde_json::{Value, json};
use tracing::Instrument;
use url::Url;

use super::error::TableError;
use super::foreign::definition_of;
use super::refusal::Answers;
use super::state::{Definition, File, State};
use super::store::{Background, Backoff, look_at_file, may_pass};
use crate::process::panics::caught;

/// Commits between two checkpoints.
const CHECKPOINT_INTERVAL: u64 = 100;

/// The operation of a commit that only rearranges rows: readers that follow the changes of a table can skip it.
pub const OPTIMIZE: &str = "OPTIMIZE";

/// The application transaction that names the writer.
pub const WRITER_GENERATION: &str = "writer/generation";

/// What a commit changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Files that become live.
    pub add: Vec<File>,
    /// Live files that are superseded.
    pub remove: Vec<File>,
    /// Application transactions.
    pub txns: Vec<(String, i64)>,
    /// What the history says of it besides; no state depends on it.
    pub parameters: BTreeMap<String, String>,
}

/// A table's log.
#[derive(Clone, Debug)]
pub struct Log {
    pub(super) name: String,
    pub(super) url: Url,
    pub(super) store: Arc<dyn ObjectStore>,
    answers: Arc<Answers>,
    background: Background,
}

impl Log {
    /// The log of table `name` below `root`.
    pub fn new(root: &super::store::Root, name: &str) -> Log {
        let (store, url) = root.table(name);
        Log { name: name.to_owned(), url, store, answers: root.answers(), background: root.background() }
    }

    /// The log of table `name` below `root`, and its newest version, for a command that needs the table to be there.
    ///
    /// # Errors
    /// [`TableError::Invalid`] if the table does not exist yet, and as [`Log::load`].
    pub async fn newest(root: &super::store::Root, name: &str) -> Result<(Log, State), TableError> {
        let log = Log::new(root, name);
        match log.load().await? {
            Some(state) => Ok((log, state)),
            None => Err(TableError::Invalid(format!(
                "{} holds no table {name}: run the job first (floodmark run JOB), or set tables.url to where its tables are",
                root.url()
            ))),
        }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As [`Root::last_complaint`](super::Root::last_complaint).
    pub fn last_complaint(&self) -> Option<String> {
        self.answers.last_complaint()
    }

    /// The table's folder, if it is on this machine.
    pub fn folder(&self) -> Option<std::path::PathBuf> {
        (self.url.scheme() == "file").then(|| self.url.to_file_path().ok()).flatten()
    }

    /// The store of the table's files.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Reads the table, making it first where there is none.
    ///
    /// # Errors
    /// As [`Log::load`].
    pub async fn load_or_create(&self, definition: &Definition, now_ms: i64) -> Result<State, TableError> {
        if let Some(state) = self.load().await? {
            return Ok(state);
        }
        let schema = definition.delta_schema().map_err(|error| self.bug(error))?;
        let mut configuration = definition.said_of(std::iter::empty());
        configuration.extend(definition.properties.clone());
        let lines = [
            json!({"commitInfo": {"timestamp": now_ms, "operation": "CREATE TABLE", "engineInfo": engine(), "nonce": nonce()}}),
            json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
            json!({"metaData": {
                "id": table_id(),
                "name": self.name,
                "format": {"provider": "parquet", "options": {}},
                "schemaString": schema,
                "partitionColumns": definition.partitioned_by,
                "configuration": configuration,
                "createdTime": now_ms,
            }}),
        ];
        let bytes = join(lines.iter().map(Value::to_string));
        match self.create(0, bytes).await {
            Ok(()) | Err(TableError::Lost { .. }) => {}
            Err(error) => return Err(error),
        }
        self.load().await?.ok_or_else(|| self.corrupt("it disappeared right after it was created".to_owned()))
    }

    /// The properties in which a table of ours records its layout, and which of its columns have statistics in all files.
    pub fn said_of(&self, state: &State) -> BTreeMap<String, String> {
        definition_of(&self.name).map(|definition| definition.said_of(state.files.values())).unwrap_or_default()
    }

    /// Commits exactly on top of `state`, and brings `state` up to date. Waits while the store is away.
    ///
    /// # Errors
    /// [`TableError::Lost`] when version `state.version + 1` is somebody else's (`state` is unchanged: [`Log::refresh`] it);
    /// [`TableError::Storage`] when the store refuses for good; [`TableError::Bug`] when a file to be removed is not live: nothing
    /// is committed.
    pub async fn commit(
        &self,
        state: &mut State,
        commit: &Commit,
        operation: &str,
        now_ms: i64,
    ) -> Result<(), TableError> {
        if let Some(file) = commit.remove.iter().find(|file| !state.files.contains_key(&file.path)) {
            return Err(self
                .bug(format!("a commit would remove {}, which is not live in version {}", file.path, state.version)));
        }
        let version = state.version + 1;
        let info = info(state.version, operation, now_ms, commit);
        let actions = (commit.txns.iter())
            .map(|(id, value)| {
                Action::Txn(Transaction { app_id: id.clone(), version: *value, last_updated: Some(now_ms) })
            })
            .chain(commit.remove.iter().map(|file| Action::Remove(remove_action(file, now_ms, operation))))
            .chain(commit.add.iter().map(|file| Action::Add(add_action(file, now_ms, operation))))
            .map(|action| serde_json::to_string(&action))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| self.bug(error.to_string()))?;
        let bytes = join(std::iter::once(info.to_string()).chain(actions));
        self.create(version, bytes).await?;

        state.version = version;
        for file in &commit.remove {
            state.files.remove(&file.path);
        }
        for file in &commit.add {
            state.files.insert(file.path.clone(), file.clone());
        }
        state.txns.extend(commit.txns.iter().cloned());
        if version.is_multiple_of(CHECKPOINT_INTERVAL) {
            self.checkpoint(version);
        }
        Ok(())
    }

    /// Sets the table properties that differ from `wanted`; the rest of the table's metadata stays as it is.
    ///
    /// # Errors
    /// As [`Log::commit`], except that after a lost race it is tried again on top of the winner.
    pub async fn set_properties(
        &self,
        state: &mut State,
        wanted: &BTreeMap<String, String>,
        now_ms: i64,
    ) -> Result<(), TableError> {
        while wanted.iter().any(|(name, value)| state.properties.get(name) != Some(value)) {
            let mut metadata: Value = serde_json::from_str(&state.metadata)
                .map_err(|error| self.corrupt(format!("its metaData in version {}: {error}", state.version)))?;
            for (name, value) in wanted {
                metadata["configuration"][name] = json!(value);
            }
            let version = state.version + 1;
            let lines =
                [info(state.version, "SET TBLPROPERTIES", now_ms, &Commit::default()), json!({"metaData": metadata})];
            let bytes = join(lines.iter().map(Value::to_string));
            match self.create(version, bytes.clone()).await {
                Ok(()) => {
                    self.apply(state, None, version, &bytes)?;
                    if version.is_multiple_of(CHECKPOINT_INTERVAL) {
                        self.checkpoint(version);
                    }
                }
                Err(TableError::Lost { .. }) => {
                    self.refresh(state).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes the table for a new writer and returns that writer's generation; afterwards, `state` is at the commit that took it. If
    /// `wanted` is 0, it is the next generation; else it is exactly `wanted`, which another table has handed out.
    ///
    /// # Errors
    /// As [`Log::commit`], except that after a lost race it is tried again on top of the winner. [`TableError::Fenced`] when the
    /// table holds `wanted` or a higher one: nothing is committed, so that the newer writer keeps its place.
    pub async fn fence(&self, state: &mut State, wanted: i64, now_ms: i64) -> Result<i64, TableError> {
        loop {
            let theirs = state.txn(WRITER_GENERATION);
            if wanted > 0 && theirs >= wanted {
                return Err(TableError::Fenced { table: self.name.clone(), ours: wanted, theirs });
            }
            let generation = (theirs + 1).max(wanted);
            let commit = Commit { txns: vec![(WRITER_GENERATION.to_owned(), generation)], ..Commit::default() };
            match self.commit(state, &commit, "FENCE", now_ms).await {
                Ok(()) => return Ok(generation),
                Err(TableError::Lost { .. }) => {
                    self.refresh(state).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Checks that no newer writer has taken the table.
    ///
    /// # Errors
    /// [`TableError::Fenced`].
    pub fn check_generation(&self, state: &State, ours: i64) -> Result<(), TableError> {
        match state.txn(WRITER_GENERATION) {
            theirs if theirs == ours => Ok(()),
            theirs => Err(TableError::Fenced { table: self.name.clone(), ours, theirs }),
        }
    }

    /// Creates the log entry `version`. Sends the same bytes until the version exists, then checks whose it is.
    async fn create(&self, version: u64, bytes: Bytes) -> Result<(), TableError> {
        let path = commit_path(version);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let mut backoff = Backoff::new();
        loop {
            match self.store.put_opts(&path, bytes.clone().into(), options.clone()).await {
                Ok(_) => return Ok(()),
                // This is also the answer if our own earlier try succeeded and its reply was lost.
                Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => match self.read(&path).await
                {
                    Ok(there) if there == bytes => return Ok(()),
                    Ok(_) => return Err(TableError::Lost { table: self.name.clone(), version }),
                    Err(error) => {
                        tracing::warn!(table = self.name, version, %error, "outcome of a commit unknown, checking again; check the store");
                    }
                },
                Err(error) if may_pass(&error) => {
                    tracing::warn!(table = self.name, version, %error, "outcome of a commit unknown, trying again; check the store");
                }
                Err(error) => return Err(self.storage(&format!("committing version {version}"), error)),
            }
            backoff.pause().await;
        }
    }

    /// Writes a checkpoint in the background: it only makes opening faster, so its failure is no error.
    fn checkpoint(&self, version: u64) {
        let log = self.clone();
        let Some(at_work) = self.background.begin() else { return };
        let write = async move {
            let _at_work = at_work;
            let result = async {
                // delta-rs looks for a table at its URL's path below the second store: ours is at the root of both. From the scheme
                // it only infers that listings may be unsorted, as they are on a local disk.
                let root = Url::parse("file:///").expect("a constant URL");
                let store = deltalake_core::logstore::default_logstore(
                    Arc::clone(&log.store),
                    Arc::clone(&log.store),
                    &root,
                    &Default::default(),
                );
                let mut table = deltalake_core::DeltaTable::new(store);
                table.load_version(version).await?;
                deltalake_core::checkpoints::create_checkpoint(&table, None).await
            };
            let result = caught("writing a checkpoint", result).await;
            match result.map_err(TableError::Bug).and_then(|done| done.map_err(|error| log.corrupt(error.to_string())))
            {
                Ok(()) => tracing::debug!(table = log.name, version, "checkpoint written"),
                Err(error) => {
                    tracing::warn!(table = log.name, version, %error, "checkpoint not written; opening the table stays slower")
                }
            }
        };
        tokio::spawn(write.instrument(tracing::debug_span!("checkpoint")));
    }

    async fn read(&self, path: &Path) -> Result<Bytes, TableError> {
        look_at_file(self.store.as_ref(), path).await.map_err(|error| self.storage(&format!("reading {path}"), error))
    }

    pub(super) fn storage(&self, doing: &str, error: StoreError) -> TableError {
        TableError::storage(format!("table {} at {}: {doing}", self.name, self.url), error)
    }

    fn bug(&self, what: String) -> TableError {
        TableError::Bug(format!("table {}: {what}", self.name))
    }

    pub(super) fn corrupt(&self, what: String) -> TableError {
        TableError::Corrupt { table: self.name.clone(), what }
    }
}

fn add_action(file: &File, now_ms: i64, operation: &str) -> Add {
    Add {
        path: file.path.clone(),
        partition_values: file.partition.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect(),
        size: file.size as i64,
        modification_time: now_ms,
        data_change: operation != OPTIMIZE,
        stats: Some(file.stats.clone()),
        ..Add::default()
    }
}

fn remove_action(file: &File, now_ms: i64, operation: &str) -> Remove {
    let partition: HashMap<_, _> =
        file.partition.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
    Remove {
        path: file.path.clone(),
        data_change: operation != OPTIMIZE,
        deletion_timestamp: Some(now_ms),
        extended_file_metadata: Some(true),
        partition_values: Some(partition),
        size: Some(file.size as i64),
        ..Remove::default()
    }
}

/// The log entry of a version.
pub fn commit_path(version: u64) -> Path {
    Path::from(format!("_delta_log/{version:020}.json"))
}

fn join(lines: impl Iterator<Item = String>) -> Bytes {
    Bytes::from(lines.collect::<Vec<_>>().join("\n"))
}

/// What a commit says of itself, for those who read the history.
fn info(read_version: u64, operation: &str, now_ms: i64, commit: &Commit) -> Value {
    json!({"commitInfo": {
        "timestamp": now_ms,
        "operation": operation,
        "operationParameters": commit.parameters,
        "operationMetrics": metrics(commit),
        "readVersion": read_version,
        "engineInfo": engine(),
        "nonce": nonce(),
    }})
}

/// Numbers as text: that is how other programs write and read them.
fn metrics(commit: &Commit) -> Value {
    let rows = |files: &[File]| files.iter().map(|file| file.rows).sum::<u64>().to_string();
    json!({
        "numAddedFiles": commit.add.len().to_string(),
        "numAddedRows": rows(&commit.add),
        "numRemovedFiles": commit.remove.len().to_string(),
        "numRemovedRows": rows(&commit.remove),
    })
}

fn engine() -> String {
    format!("floodmark/{}", env!("CARGO_PKG_VERSION"))
}

/// Makes the bytes of every commit unique, even those of two processes at the same moment.
fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// A random UUID, version 4.
fn table_id() -> String {
    let bits = (rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62)) | (4 << 76) | (2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
