//! Reads one entry of a table's log: the actions of one commit.
//!
//! In: a version. Out: its bytes, or a [`CommitSummary`] for those who show the history; `None` for an entry that is gone, because
//! logs are cleaned while they are read. State: none. Failure: a store that does not answer is asked a few times.

use std::collections::BTreeMap;

use bytes::Bytes;
use object_store::Error as StoreError;

use super::actions::{lines_of, rows_of};
use super::error::TableError;
use super::log::{Log, commit_path};
use super::store::look_at_file;

/// What one commit changed, and what its writer says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitSummary {
    /// Milliseconds since 1970; `None` where its writer did not say.
    pub time_ms: Option<i64>,
    /// What was done.
    pub operation: Option<String>,
    /// The program that did it.
    pub engine: Option<String>,
    /// Files that became live.
    pub files_added: u64,
    /// Files that were superseded.
    pub files_removed: u64,
    /// Rows of the added files, as far as their statistics say.
    pub rows_added: u64,
    /// `None` where its writer did not say.
    pub rows_removed: Option<u64>,
    /// Application transactions.
    pub txns: BTreeMap<String, i64>,
    /// What its writer says besides, as far as it is text.
    pub parameters: BTreeMap<String, String>,
}

impl Log {
    /// The bytes of a version's entry.
    pub(super) async fn entry(&self, version: u64) -> Result<Option<Bytes>, StoreError> {
        match look_at_file(self.store().as_ref(), &commit_path(version)).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the commit of a version says.
    ///
    /// # Errors
    /// [`TableError::Storage`], [`TableError::Corrupt`].
    pub async fn summary(&self, version: u64) -> Result<Option<CommitSummary>, TableError> {
        let failed =
            |error| TableError::storage(format!("table {}: reading {}", self.name(), commit_path(version)), error);
        let Some(bytes) = self.entry(version).await.map_err(failed)? else { return Ok(None) };
        let summary = summary_of(&bytes);
        summary.map(Some).map_err(|error| self.corrupt(format!("_delta_log, version {version}: {error}")))
    }
}

fn summary_of(commit: &[u8]) -> serde_json::Result<CommitSummary> {
    let mut summary = CommitSummary::default();
    for line in lines_of(commit)? {
        if let Some(info) = line.commit_info {
            summary.time_ms = info.timestamp_ms();
            summary.rows_removed = info.rows_removed();
            summary.parameters = info.parameters();
            summary.operation = info.operation;
            summary.engine = info.engine_info;
        }
        if let Some(add) = line.add {
            summary.files_added += 1;
            summary.rows_added += add.stats.and_then(|stats| rows_of(&stats).ok()).unwrap_or(0);
        }
        summary.files_removed += u64::from(line.remove.is_some());
        if let Some(txn) = line.txn {
            summary.txns.insert(txn.app_id, txn.version);
        }
    }
    if summary.files_removed == 0 {
        summary.rows_removed = Some(0);
    }
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other programs write what they like into `commitInfo`: it is shown as far as it can be read, and never in the way.
    #[test]
    fn what_a_commit_says_is_read_leniently() {
        let txn = r#"{"txn":{"appId":"a","version":7}}"#;
        let add = r#"{"add":{"path":"p","size":1,"stats":"{\"numRecords\":5}"}}"#;
        let remove = r#"{"remove":{"path":"q"}}"#;
        let ours = r#"{"commitInfo":{"timestamp":12,"operation":"WRITE","engineInfo":"e","operationMetrics":{"numRemovedRows":"3"},"operationParameters":{"a":"b","c":null}}}"#;
        let read = |lines: &[&str]| summary_of(lines.join("\n").as_bytes()).expect("a commit");
        let found = read(&[ours, add, add, remove, txn, ""]);
        let expected = CommitSummary {
            time_ms: Some(12),
            operation: Some("WRITE".to_owned()),
            engine: Some("e".to_owned()),
            files_added: 2,
            files_removed: 1,
            rows_added: 10,
            rows_removed: Some(3),
            txns: BTreeMap::from([("a".to_owned(), 7)]),
            parameters: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        };
        assert_eq!(found, expected);

        let other = r#"{"commitInfo":{"timestamp":"today","operation":"WRITE","operationMetrics":null,"operationParameters":[1]}}"#;
        let found = read(&[other, remove, r#"{"add":{"path":"p","size":1}}"#]);
        let expected = CommitSummary {
            operation: Some("WRITE".to_owned()),
            files_added: 1,
            files_removed: 1,
            ..CommitSummary::default()
        };
        assert_eq!(found, expected);
        assert_eq!(read(&[add]).rows_removed, Some(0), "nothing was removed, whatever its writer says");
        assert!(summary_of(br#"{"add":"#).is_err());
    }
}
