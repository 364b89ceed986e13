//! The actions of a table's log: what a line of a commit, or a row of a checkpoint, says of a file, a transaction or the table.
//!
//! In: JSON, one action a line, from any program; only the parts that make up a state are read. (delta-rs' own types refuse the
//! fields of newer writers.) Out: a [`Line`] for each, and a [`Found`] for each file that becomes live. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::{RawValue, Value};

use super::checkpoint::vector_id;
use super::seen::{Origin, Protocol};
use super::state::File;

/// One line of a commit.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line<'a> {
    pub(super) add: Option<AddLine>,
    pub(super) remove: Option<RemoveLine>,
    pub(super) txn: Option<TxnLine>,
    pub(super) protocol: Option<Protocol>,
    #[serde(borrow)]
    pub(super) meta_data: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) commit_info: Option<InfoLine<'a>>,
}

/// The lines of a commit.
pub(super) fn lines_of(commit: &[u8]) -> serde_json::Result<Vec<Line<'_>>> {
    let lines = commit.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(serde_json::from_slice).collect()
}

/// Who committed these lines, as their `commitInfo` says.
pub(super) fn origin_of(lines: &[Line<'_>], version: u64) -> Origin {
    let info = lines.iter().find_map(|line| line.commit_info.as_ref());
    Origin {
        version,
        checkpoint: false,
        operation: info.and_then(|info| info.operation.clone()),
        engine: info.and_then(|info| info.engine_info.clone().or_else(|| info.client_version.clone())),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InfoLine<'a> {
    pub(super) operation: Option<String>,
    pub(super) engine_info: Option<String>,
    client_version: Option<String>,
    // What is only shown must not keep a log from being read: these have the types that we expect, or count as absent.
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    operation_metrics: Option<&'a RawValue>,
    #[serde(borrow)]
    operation_parameters: Option<&'a RawValue>,
}

impl InfoLine<'_> {
    /// When it was committed, in ms since 1970.
    pub(super) fn timestamp_ms(&self) -> Option<i64> {
        serde_json::from_str(self.timestamp?.get()).ok()
    }

    /// The parameters that are texts.
    pub(super) fn parameters(&self) -> BTreeMap<String, String> {
        let read = |raw: &RawValue| serde_json::from_str::<BTreeMap<String, Value>>(raw.get()).ok();
        let all = self.operation_parameters.and_then(read).unwrap_or_default();
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_str()?.to_owned()))).collect()
    }

    /// Rows of the removed files. Numbers among the metrics are written as text.
    pub(super) fn rows_removed(&self) -> Option<u64> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metrics {
            num_removed_rows: String,
        }
        let metrics: Metrics = serde_json::from_str(self.operation_metrics?.get()).ok()?;
        metrics.num_removed_rows.parse().ok()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AddLine {
    pub(super) path: String,
    #[serde(default)]
    pub(super) partition_values: BTreeMap<String, Option<String>>,
    pub(super) size: u64,
    pub(super) stats: Option<String>,
    pub(super) data_change: Option<bool>,
    pub(super) deletion_vector: Option<DeletionVector>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RemoveLine {
    pub(super) path: String,
    pub(super) deletion_timestamp: Option<i64>,
    pub(super) deletion_vector: Option<DeletionVector>,
}

/// Distinguishes two states of one file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeletionVector {
    storage_type: String,
    path_or_inline_dv: String,
    offset: Option<i32>,
}

impl DeletionVector {
    pub(super) fn id(self) -> String {
        vector_id(&self.storage_type, &self.path_or_inline_dv, self.offset)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TxnLine {
    pub(super) app_id: String,
    pub(super) version: i64,
}

#[derive(Deserialize)]
pub(super) struct MetadataLine {
    #[serde(default)]
    pub(super) configuration: BTreeMap<String, String>,
}

/// A file as a log describes it.
pub(super) struct Found {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) partition: BTreeMap<String, String>,
    pub(super) stats: Option<String>,
    pub(super) vector: Option<String>,
}

/// The live file, or why it can not be read.
pub(super) fn live_file(found: Found) -> Result<File, String> {
    if found.vector.is_some() {
        return Err("some of its rows are deleted by a deletion vector".to_owned());
    }
    let path = decoded(&found.path);
    if path.starts_with('/') || path.contains(":/") {
        return Err("its path is absolute, as in a shallow clone".to_owned());
    }
    let stats = found.stats.ok_or("it has no statistics")?;
    let rows = rows_of(&stats).map_err(|error| format!("its statistics {stats} can not be read: {error}"))?;
    Ok(File { path, size: found.size, rows, partition: found.partition, stats })
}

/// The number of a file's rows, as its statistics say.
pub(super) fn rows_of(stats: &str) -> serde_json::Result<u64> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RowCount {
        num_records: u64,
    }
    serde_json::from_str(stats).map(|rows: RowCount| rows.num_records)
}

/// Decodes a path of the log, which is a URI. Our paths need no escapes; those of other programs may have them.
pub(super) fn decoded(path: &str) -> String {
    if !path.contains('%') {
        return path.to_owned();
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let push = |value, digit: &u8| Some((value << 4) | char::from(*digit).to_digit(16)? as u8);
        let hex = tail.get(..2).and_then(|hex| hex.iter().try_fold(0, push));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_uris() {
        for (path, expected) in [
            ("a/b=c/d.parquet", "a/b=c/d.parquet"),
            ("a%20b%2Fc%c3%A9", "a b/cé"),
            ("100%", "100%"),
            ("100%2", "100%2"),
            ("%zz%+f%-1", "%zz%+f%-1"),
            ("%ff", "\u{fffd}"),
        ] {
            assert_eq!(decoded(path), expected, "{path}");
        }
    }
}
