//! What a replay found, as people read it; and its dataset by filters.
//!
//! In: a replay's summary and dataset. Out: text, or what stands in the JSON. State: sums by granularity, dimension and day, and the
//! largest changes.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Serialize;

use super::ReplayError;
use super::compare::push_largest;
use super::dataset::{self, Changes, Group, Groups, Largest, Outcomes, Partly, Summary};
use super::list::{Listed, Standing};
use super::plan::Plan;
use super::publish::PublishError;
use super::submission::{Asked, Submission};
use crate::model::{Granularity, TimeUs, rfc3339};
use crate::table::{Root, counts};
use crate::terminal::{bytes, columns, duration, grouped, head};

/// Lines of a table before it is cut.
const LINES_MAX: usize = 40;

/// Which changes are shown.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Of this granularity.
    pub granularity: Option<Granularity>,
    /// Of this dimension.
    pub dimension: Option<String>,
    /// Of this customer.
    pub customer: Option<String>,
    /// Of windows that begin in this stretch.
    pub windows: Range<TimeUs>,
    /// So many of the largest changes.
    pub top: usize,
}

/// What a replay changes, as far as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// What was submitted.
    pub submission: Submission,
    /// How many cells.
    pub cells: Changes,
    /// By granularity, dimension and day.
    pub groups: Vec<Group>,
    /// The largest.
    pub largest: Vec<Largest>,
    /// Rows of `raw` whose outcome is another one; of the whole replay.
    pub outcomes: Vec<Outcomes>,
    /// Windows that lie only partly in the range; of the whole replay.
    pub partly: Vec<Partly>,
}

/// Reads a replay's dataset through a filter.
///
/// # Errors
/// [`ReplayError`] when there is no such replay, or it is not complete.
pub async fn diff(root: &Root, id: &str, filter: &Filter) -> Result<Diff, ReplayError> {
    let unknown = || PublishError::Unknown(id.to_owned());
    let submission = Submission::load(root, id).await?.ok_or_else(unknown)?;
    let summary = Summary::load(root, id).await?.ok_or_else(|| PublishError::Incomplete(id.to_owned()))?;
    let bucket = match &filter.customer {
        Some(customer) => {
            let counts = crate::table::Log::new(root, "counts").load().await?.unwrap_or_default();
            Some(crate::model::bucket_of(customer.as_bytes(), counts::buckets(&counts)?))
        }
        None => None,
    };
    let mut groups = Groups::default();
    let mut largest: BTreeMap<Granularity, Vec<dataset::Change>> = BTreeMap::new();
    for part in &summary.parts {
        let wanted = filter.granularity.is_none_or(|granularity| granularity == part.granularity);
        if !wanted || bucket.is_some_and(|bucket| bucket != part.bucket) {
            continue;
        }
        for change in dataset::read(root, part, filter.windows.clone()).await? {
            let change = change?;
            let cell = &change.cell;
            if filter.dimension.as_ref().is_some_and(|dimension| *dimension != cell.dimension)
                || filter.customer.as_ref().is_some_and(|customer| *customer != cell.customer)
            {
                continue;
            }
            groups.add(part.granularity, &cell.dimension, cell.window_start, change.old, change.new);
            push_largest(largest.entry(part.granularity).or_default(), &change, filter.top);
        }
    }
    let largest = (largest.into_iter())
        .flat_map(|(granularity, changes)| changes.into_iter().map(move |change| Largest::of(granularity, change)))
        .collect();
    Ok(Diff {
        submission,
        cells: groups.changes(),
        groups: groups.finish(),
        largest: top(largest, filter.top),
        outcomes: summary.outcomes,
        partly: summary.partly,
    })
}

/// The largest of all granularities.
fn top(mut largest: Vec<Largest>, most: usize) -> Vec<Largest> {
    largest.sort_by_key(|largest| std::cmp::Reverse((largest.new_count - largest.old_count).abs()));
    largest.truncate(most);
    largest
}

impl Diff {
    /// As people read it.
    pub fn text(&self) -> String {
        let mut text = tables(&self.groups, &self.largest, &self.outcomes, &self.partly);
        text += &format!("\nreplay {} ({}): {}", self.submission.id, range(&self.submission), changes(self.cells));
        text
    }
}

/// `1,200 cells change: 12 added, 1,180 changed, 8 removed`.
pub fn changes(changes: Changes) -> String {
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
pub fn range(submission: &Submission) -> String {
    let (what, range) = match &submission.asked {
        Asked::EventTimes(range) => ("", range),
        Asked::IngestTimes(range) => ("ingested ", range),
    };
    let customers = submission.customers.as_ref().map_or_else(String::new, |all| format!(", {} customers", all.len()));
    format!("{what}{} to {}{customers}", rfc3339(range.start), rfc3339(range.end))
}

/// A replay's summary, with so many of the largest changes.
pub fn summary(submission: &Submission, summary: &Summary, most: usize) -> String {
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

fn tables(groups: &[Group], largest: &[Largest], outcomes: &[Outcomes], partly: &[Partly]) -> String {
    let mut text = String::new();
    let number =
        |number: i64| if number < 0 { format!("-{}", grouped(number.unsigned_abs())) } else { grouped(number as u64) };
    if !groups.is_empty() {
        let mut sums: BTreeMap<(Granularity, &str), (Changes, i64, i64)> = BTreeMap::new();
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
            [vec![granularity.name().to_owned(), dimension.to_owned()], of.to_vec(), vec![number(old), number(new)]]
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
                let counts = vec![number(group.old_count), number(group.new_count)];
                [vec![group.day.clone(), group.dimension.clone()], of.to_vec(), counts].concat()
            }));
            text += "\n";
            text += &columns(&rows, |column| column >= 2);
            if days.len() > LINES_MAX {
                text +=
                    &format!("… and {} more; --from and --to, or --output json, show them\n", days.len() - LINES_MAX);
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
                number(change.old_count),
                number(change.new_count),
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

/// A plan.
pub fn plan(plan: &Plan) -> String {
    let mut text = tables(&[], &[], &[], &plan.partly);
    let ranges: Vec<_> = plan.ranges.iter().map(|[from, to]| format!("{from} to {to}")).collect();
    let epochs =
        plan.epochs.map_or_else(|| "no epochs".to_owned(), |[first, last]| format!("epochs {first} to {last}"));
    text += &format!(
        "\n{}: reads {} files of raw ({}, at most {} rows, {epochs}), compares with {} files of counts ({}); about {}",
        ranges.join(", "),
        grouped(plan.raw_files),
        bytes(plan.raw_bytes),
        grouped(plan.raw_rows),
        grouped(plan.counts_files),
        bytes(plan.counts_bytes),
        duration(plan.estimate_seconds as f64)
    );
    text += if plan.can_be_published {
        "\nit can be published: live counts with this logic"
    } else {
        "\nonly a preview: live counts with another logic; restart live with this job file before you publish"
    };
    text
}

/// All replays.
pub fn list(replays: &[Listed]) -> String {
    if replays.is_empty() {
        return "there are no replays; floodmark replay run JOB --from TIME --to TIME makes one".to_owned();
    }
    let mut rows = vec![head(&["id", "state", "submitted", "range", "logic", "cells"])];
    rows.extend(replays.iter().map(|replay| {
        let state = match replay.standing {
            Standing::Running => "running, or ended before its end".to_owned(),
            Standing::Complete if replay.submission.before.is_none() => "complete, a preview".to_owned(),
            Standing::Complete => "complete".to_owned(),
            Standing::Published(order) => format!("published (order {order})"),
            Standing::Undone(order) => format!("undone (order {order})"),
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
