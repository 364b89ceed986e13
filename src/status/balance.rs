//! What became of the records: rows of `raw` by outcome and reason, compared with the number of rows in the log.
//!
//! In: the files of the newest day, or all. Out: [`Balance`]. If all rows of a row group have one outcome, the footer shows it;
//! else the columns outcome and reason are read, and no others. State: the counts, and a few files at a time.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use futures::StreamExt;
use serde::Serialize;

use super::column::Footer;
use crate::table::{File, Log, State, TableError};

/// Files that are read at once.
const AT_ONCE: usize = 8;

/// Records by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// The first day of `ingested_at` that was looked at, and the last.
    pub ingest_dates: Option<(String, String)>,
    /// Whether these are all days that `raw` holds.
    pub is_all_of_raw: bool,
    /// Files that were looked at.
    pub files: u64,
    /// Rows that the log says these files have.
    pub read_records: u64,
    /// Rows that are counted.
    pub counted_records: u64,
    /// Rows that the job's `where` leaves out.
    pub filtered_records: u64,
    /// Rows that are rejected.
    pub rejected_records: u64,
    /// The same by reason.
    pub rejected_records_by_reason: BTreeMap<String, u64>,
    /// Whether read = counted + filtered + rejected.
    pub is_balanced: bool,
}

/// Rows of a file by outcome and reason.
type Outcomes = BTreeMap<(String, Option<String>), u64>;

/// The files whose balance is computed: those of the newest day, or all.
pub(super) fn files(state: &State, all: bool) -> Vec<File> {
    let newest = state.files.values().map(date).max().unwrap_or_default();
    state.files.values().filter(|file| all || date(file) == newest).cloned().collect()
}

fn date(file: &File) -> &str {
    file.partition.get("ingest_date").map(String::as_str).unwrap_or_default()
}

/// Computes the balance of these files. `tick` is called after each, with its number of rows.
///
/// # Errors
/// When a file can not be read.
pub(super) async fn balance(
    log: &Log,
    state: &State,
    files: Vec<File>,
    mut tick: impl FnMut(u64),
) -> Result<Balance, TableError> {
    let mut balance = Balance {
        ingest_dates: (files.iter().map(date).min().zip(files.iter().map(date).max()))
            .map(|(first, last)| (first.to_owned(), last.to_owned())),
        is_all_of_raw: files.len() == state.files.len(),
        files: files.len() as u64,
        ..Balance::default()
    };
    let mut read = futures::stream::iter(files)
        .map(|file| async move { outcomes(log, &file).await.map(|outcomes| (file.rows, outcomes)) })
        .buffer_unordered(AT_ONCE);
    while let Some(found) = read.next().await {
        let (rows, outcomes) = found?;
        balance.read_records += rows;
        for ((outcome, reason), rows) in outcomes {
            match outcome.as_str() {
                "counted" => balance.counted_records += rows,
                "filtered" => balance.filtered_records += rows,
                "rejected" => {
                    balance.rejected_records += rows;
                    *balance.rejected_records_by_reason.entry(reason.unwrap_or_default()).or_default() += rows;
                }
                // It is not an outcome of ours, so it is missing from the balance.
                _ => {}
            }
        }
        tick(rows);
    }
    let sum = balance.counted_records + balance.filtered_records + balance.rejected_records;
    balance.is_balanced = sum == balance.read_records;
    Ok(balance)
}

async fn outcomes(log: &Log, file: &File) -> Result<Outcomes, TableError> {
    let footer = Footer::read(log, file).await?;
    let mut found = Outcomes::new();
    let mut unsaid = Vec::new();
    for (group, rows) in footer.group_rows().into_iter().enumerate() {
        let outcome = footer.only_text(group, "outcome");
        let reason = footer.only_text(group, "reason");
        match outcome {
            Some(outcome) if outcome != "rejected" || reason.is_some() => {
                *found.entry((outcome, reason)).or_default() += rows;
            }
            _ => unsaid.push(group),
        }
    }
    if !unsaid.is_empty() {
        footer.rows(unsaid, &["outcome", "reason"], |batch| add_rows(batch, &mut found)).await?;
    }
    Ok(found)
}

fn add_rows(batch: &RecordBatch, found: &mut Outcomes) -> Result<(), String> {
    let column = |name: &str| {
        let text = batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
        text.ok_or_else(|| format!("there is no text column {name}"))
    };
    let (outcomes, reasons) = (column("outcome")?, column("reason")?);
    // There are few kinds; they are found by comparison, so that a row costs no allocation.
    let mut kinds: Vec<(&str, Option<&str>, u64)> = Vec::new();
    for row in 0..batch.num_rows() {
        let (outcome, reason) = (outcomes.value(row), reasons.is_valid(row).then(|| reasons.value(row)));
        match kinds.iter_mut().find(|kind| (kind.0, kind.1) == (outcome, reason)) {
            Some(kind) => kind.2 += 1,
            None => kinds.push((outcome, reason, 1)),
        }
    }
    for (outcome, reason, rows) in kinds {
        *found.entry((outcome.to_owned(), reason.map(str::to_owned))).or_default() += rows;
    }
    Ok(())
}
