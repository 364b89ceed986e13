//! `floodmark table history`: the commits of a table's log, as far back as it is kept.
//!
//! In: the newest entries of the log, `--limit` of them. Out: a line or a JSON object for each, newest first. An entry that is
//! deleted meanwhile is left out.

use std::collections::BTreeMap;

use clap::Args;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use serde_json::json;

use super::arguments::{Common, Tables, names_of};
use super::error::TableCommandError;
use crate::table::log::WRITER_GENERATION;
use crate::table::{CommitSummary, Log, TableError};
use crate::terminal::{Location, columns, grouped, head, utc};

/// Entries that are read at once.
const ENTRIES_AT_ONCE: usize = 16;

/// How many transactions the text shows.
const TXNS_SHOWN: usize = 4;

/// Options of `floodmark table history`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "The log is kept for as long as dead files are kept (settings.dead_files_keep_hours); older versions \
        are gone."
)]
pub struct HistoryArgs {
    #[command(flatten)]
    common: Common,

    /// Which tables
    #[arg(long, value_enum, default_value_t = Tables::All)]
    table: Tables,

    /// Versions of each table to show
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// One version.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Version {
    version: u64,
    /// Milliseconds since 1970; `None` where its writer did not say.
    time_ms: Option<i64>,
    operation: String,
    /// The generation of the writer that committed it; `None` for a commit by another, such as a compaction.
    generation: Option<i64>,
    files_added: u64,
    files_removed: u64,
    rows_added: u64,
    /// `None` where its writer did not say.
    rows_removed: Option<u64>,
    /// The other application transactions.
    txns: BTreeMap<String, i64>,
}

pub(super) async fn run(args: &HistoryArgs) -> Result<(), TableCommandError> {
    let location = Location::open(&args.common.place).await?;
    let mut tables = BTreeMap::new();
    for table in names_of(args.table, &location)? {
        let (log, _) = location.load(&table).await?;
        tables.insert(table, versions(&log, args.limit as usize).await?);
    }
    args.common.print(
        || json!({ "tables": tables }),
        || tables.iter().map(|(table, versions)| text(table, versions)).collect::<Vec<_>>().join("\n"),
    )
}

async fn versions(log: &Log, limit: usize) -> Result<Vec<Version>, TableError> {
    let listed = log.list(None).await?.commits;
    futures::stream::iter(listed.into_iter().rev().take(limit))
        .map(|number| async move {
            // It may have been deleted meanwhile.
            Ok(log.summary(number).await?.map(|commit| version_of(number, commit)))
        })
        .buffered(ENTRIES_AT_ONCE)
        .try_filter_map(|version| std::future::ready(Ok(version)))
        .try_collect()
        .await
}

fn version_of(number: u64, mut commit: CommitSummary) -> Version {
    Version {
        version: number,
        time_ms: commit.time_ms,
        operation: commit.operation.unwrap_or_default(),
        generation: commit.txns.remove(WRITER_GENERATION),
        files_added: commit.files_added,
        files_removed: commit.files_removed,
        rows_added: commit.rows_added,
        rows_removed: commit.rows_removed,
        txns: commit.txns,
    }
}

fn text(table: &str, versions: &[Version]) -> String {
    let mut rows = vec![head(&["version", "time", "operation", "writer", "files", "rows", "transactions"])];
    rows.extend(versions.iter().map(|version| {
        let removed = version.rows_removed.map_or_else(|| "?".to_owned(), grouped);
        vec![
            version.version.to_string(),
            version.time_ms.map_or_else(|| "—".to_owned(), utc),
            version.operation.clone(),
            version.generation.map_or_else(|| "—".to_owned(), |generation| generation.to_string()),
            format!("+{} −{}", version.files_added, version.files_removed),
            format!("+{} −{removed}", grouped(version.rows_added)),
            txns(&version.txns),
        ]
    }));
    format!("{table}\n{}", columns(&rows, |column| matches!(column, 0 | 3)))
}

fn txns(txns: &BTreeMap<String, i64>) -> String {
    let mut shown: Vec<String> = txns.iter().take(TXNS_SHOWN).map(|(id, value)| format!("{id} {value}")).collect();
    if txns.len() > TXNS_SHOWN {
        shown.push(format!("{} more", txns.len() - TXNS_SHOWN));
    }
    shown.join(", ")
}
