//! Results of the `replay` commands on stdout: text for people, or JSON.
//!
//! In: an estimate, a summary, a diff, or a list of replays. Out: tables of text, shortened where they would be long, and a closing
//! sentence with the result. State: none.

use std::collections::BTreeMap;

use serde::Serialize;

use super::list::{Listed, ReplayStanding};
use crate::model::{Granularity, rfc3339};
use crate::process::Exit;
use crate::replay::compare::summary::{CellChanges, ChangeGroup, Largest, OutcomeChange, Summary};
use crate::replay::error::ReplayError;
use crate::replay::request::coverage::Partly;
use crate::replay::request::estimate::Estimate;
use crate::replay::request::submission::{Asked, Submission};
use crate::terminal::{Output, bytes, columns, duration, grouped, head, signed};

/// Lines after which a table is cut.
const LINES_MAX: usize = 40;

/// Writes a result to stdout.
///
/// # Errors
/// [`ReplayError::Output`].
pub(super) fn print(
    output: Output,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<Exit, ReplayError> {
    output.print(|| value, text)?;
    Ok(Exit::Done)
}

/// The largest changes across all granularities.
pub(super) fn top(mut largest: Vec<Largest>, most: usize) -> Vec<Largest> {
    largest.sort_by_key(|largest| std::cmp::Reverse((largest.new_count - largest.old_count).abs()));
    largest.truncate(most);
    largest
}

/// `1,200 cells change: 12 added, 1,180 changed, 8 removed`.
pub(super) fn changes(changes: CellChanges) -> String {
    match changes.total() {
        0 => "no cell changes".to_owned(),
        total => format!(
            "{} cells change: {} added, {} changed, {} removed",
            grouped(total),
            grouped(changes.added),
            grouped(changes.changed),
            grouped(changes.removed)
        ),
    }
}

/// What a replay covers.
pub(super) fn range(submission: &Submission) -> String {
    let (what, range) = match &submission.asked {
        Asked::EventTimes(range) => ("", range),
        Asked::IngestTimes(range) => ("ingested ", range),
    };
    let customers = submission.customers.as_ref().map_or_else(String::new, |all| format!(", {} customers", all.len()));
    format!("{what}{} to {}{customers}", rfc3339(range.start), rfc3339(range.end))
}

/// A replay's summary, with the `most` largest changes.
pub(super) fn summary(submission: &Submission, summary: &Summary, most: usize) -> String {
    let largest = top(summary.largest.clone(), most);
    let mut text = tables(&summary.groups, &largest, &summary.outcomes, &summary.partly);
    let of = if submission.customers.is_some() { " (of all customers)" } else { "" };
    text += &format!(
        "\n{} rows of raw in range{of}, {} count; logic {}",
        grouped(summary.rows_in_range),
        grouped(summary.rows_counted),
        submission.logic
    );
    text
}

pub(super) fn tables(
    groups: &[ChangeGroup],
    largest: &[Largest],
    outcomes: &[OutcomeChange],
    partly: &[Partly],
) -> String {
    let mut text = String::new();
    if !groups.is_empty() {
        let mut sums: BTreeMap<(Granularity, &str), (CellChanges, i64, i64)> = BTreeMap::new();
        for group in groups {
            let (changes, old, new) = sums.entry((group.granularity, &group.dimension)).or_default();
            changes.merge(group.changes);
            *old += group.old_count;
            *new += group.new_count;
        }
        let mut rows =
            vec![head(&["granularity", "dimension", "added", "changed", "removed", "count now", "would be"])];
        rows.extend(sums.into_iter().map(|((granularity, dimension), (changes, old, new))| {
            let of = [changes.added, changes.changed, changes.removed].map(grouped);
            [vec![granularity.name().to_owned(), dimension.to_owned()], of.to_vec(), vec![signed(old), signed(new)]]
                .concat()
        }));
        text += &columns(&rows, |column| column >= 2);
        let days: Vec<_> = groups.iter().filter(|group| group.granularity == Granularity::Day).collect();
        if !days.is_empty() {
            let mut rows = vec![head(&["day", "dimension", "added", "changed", "removed", "count now", "would be"])];
            let mut days: Vec<_> = days.into_iter().map(|group| ((&group.day, &group.dimension), group)).collect();
            days.sort_by_key(|(key, _)| *key);
            rows.extend(days.iter().take(LINES_MAX).map(|(_, group)| {
                let of = [group.changes.added, group.changes.changed, group.changes.removed].map(grouped);
                let counts = vec![signed(group.old_count), signed(group.new_count)];
                [vec![group.day.clone(), group.dimension.clone()], of.to_vec(), counts].concat()
            }));
            text += "\n";
            text += &columns(&rows, |column| column >= 2);
            if days.len() > LINES_MAX {
                text += &format!("… and {} more; use --from and --to, or --output json\n", days.len() - LINES_MAX);
            }
        }
    }
    if !largest.is_empty() {
        let mut rows =
            vec![head(&["largest changes", "window", "customer", "dimension", "value", "count now", "would be"])];
        rows.extend(largest.iter().map(|change| {
            vec![
                change.granularity.name().to_owned(),
                change.window_start.clone(),
                change.customer_id.clone(),
                change.dimension.clone(),
                change.dimension_value.clone(),
                signed(change.old_count),
                signed(change.new_count),
            ]
        }));
        text += "\n";
        text += &columns(&rows, |column| column >= 5);
    }
    if !outcomes.is_empty() {
        let mut rows = vec![head(&["on arrival", "now", "rows of raw"])];
        rows.extend(
            outcomes.iter().map(|outcome| vec![outcome.on_arrival.clone(), outcome.now.clone(), grouped(outcome.rows)]),
        );
        text += "\n";
        text += &columns(&rows, |column| column >= 2);
    }
    if !partly.is_empty() {
        let mut rows = vec![head(&["only partly in range", "from", "to", "left as they are"])];
        rows.extend(partly.iter().map(|window| {
            let left_alone = if window.left_alone.is_empty() { "-".to_owned() } else { window.left_alone.join(", ") };
            vec![
                window.granularity.name().to_owned(),
                window.window_start.clone(),
                window.window_end.clone(),
                left_alone,
            ]
        }));
        text += "\n";
        text += &columns(&rows, |column| column >= 4);
    }
    text
}

/// What a replay would read and touch.
pub(super) fn estimate(estimate: &Estimate) -> String {
    let mut text = tables(&[], &[], &[], &estimate.partly);
    let ranges: Vec<_> = estimate.ranges.iter().map(|[from, to]| format!("{from} to {to}")).collect();
    let epochs =
        estimate.epochs.map_or_else(|| "no epochs".to_owned(), |[first, last]| format!("epochs {first} to {last}"));
    text += &format!(
        "\n{}: reads {} files of raw ({}, at most {} rows, {epochs}), compares with {} files of counts ({}); about {}",
        ranges.join(", "),
        grouped(estimate.raw_files),
        bytes(estimate.raw_bytes),
        grouped(estimate.raw_rows),
        grouped(estimate.counts_files),
        bytes(estimate.counts_bytes),
        duration(estimate.estimate_seconds as f64)
    );
    text += if estimate.can_be_published {
        "\nit can be published: live counts with this logic"
    } else {
        "\nonly a preview: live counts with another logic; restart the job with this job file before you publish"
    };
    text
}

/// All replays.
pub(super) fn list(replays: &[Listed]) -> String {
    if replays.is_empty() {
        return "there are no replays; create one with `floodmark replay run JOB --from TIME --to TIME`".to_owned();
    }
    let mut rows = vec![head(&["id", "state", "submitted", "range", "logic", "cells"])];
    rows.extend(replays.iter().map(|replay| {
        let state = match replay.standing {
            ReplayStanding::Running => "running or incomplete".to_owned(),
            ReplayStanding::Complete if replay.submission.before.is_none() => "complete, a preview".to_owned(),
            ReplayStanding::Complete => "complete".to_owned(),
            ReplayStanding::Published(order) => format!("published (order {order})"),
            ReplayStanding::Undone(order) => format!("undone (order {order})"),
        };
        let cells = replay.cells.map_or_else(|| "?".to_owned(), |cells| grouped(cells.total()));
        let submitted = rfc3339(replay.submission.submitted_ms * 1000);
        vec![
            replay.submission.id.clone(),
            state,
            submitted,
            range(&replay.submission),
            replay.submission.logic.to_string(),
            cells,
        ]
    }));
    columns(&rows, |column| column >= 5)
}
