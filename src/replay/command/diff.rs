//! `replay diff`: shows what a replay would change, or has changed.
//!
//! In: a replay's summary and dataset, and a filter. Out: the sums by granularity, dimension and day, and the largest changes. Only those
//! files of the dataset are read that may hold what the filter selects. State: the sums, and as many changes as are shown. Nothing is
//! written. Failure: a replay that is not complete has no diff.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Serialize;

use super::text::{changes, range, tables, top};
use crate::model::{Granularity, TimeUs, bucket_of};
use crate::replay::compare::dataset::{Change, read};
use crate::replay::compare::findings::push_largest;
use crate::replay::compare::summary::{CellChanges, ChangeGroup, Groups, Largest, OutcomeChange, Summary};
use crate::replay::error::{PublishError, ReplayError};
use crate::replay::request::coverage::Partly;
use crate::replay::request::submission::Submission;
use crate::table::{Log, Root, counts};

/// Which changes are shown.
#[derive(Clone, Debug)]
pub struct DiffFilter {
    /// Only this granularity.
    pub granularity: Option<Granularity>,
    /// Only this dimension.
    pub dimension: Option<String>,
    /// Only this customer.
    pub customer: Option<String>,
    /// Only windows that begin in this stretch.
    pub windows: Range<TimeUs>,
    /// How many of the largest changes to show.
    pub top: usize,
}

/// What a replay changes, as far as the filter selects it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// What was submitted.
    pub submission: Submission,
    /// How many cells change.
    pub cells: CellChanges,
    /// Changes by granularity, dimension and day.
    pub groups: Vec<ChangeGroup>,
    /// The largest changes.
    pub largest: Vec<Largest>,
    /// Rows of `raw` whose outcome has changed; of the whole replay.
    pub outcomes: Vec<OutcomeChange>,
    /// Windows that are only partly in the range; of the whole replay.
    pub partly: Vec<Partly>,
}

/// Reads a replay's dataset through a filter.
///
/// # Errors
/// [`ReplayError`] when there is no such replay, or it is not complete.
pub async fn diff(root: &Root, id: &str, filter: &DiffFilter) -> Result<Diff, ReplayError> {
    let unknown = || PublishError::Unknown(id.to_owned());
    let submission = Submission::load(root, id).await?.ok_or_else(unknown)?;
    let summary = Summary::load(root, id).await?.ok_or_else(|| PublishError::Incomplete(id.to_owned()))?;
    let bucket = match &filter.customer {
        Some(customer) => {
            let counts = Log::new(root, "counts").load().await?.unwrap_or_default();
            Some(bucket_of(customer.as_bytes(), counts::buckets(&counts)?))
        }
        None => None,
    };
    let mut groups = Groups::default();
    let mut largest: BTreeMap<Granularity, Vec<Change>> = BTreeMap::new();
    for part in &summary.parts {
        let wanted = filter.granularity.is_none_or(|granularity| granularity == part.granularity);
        if !wanted || bucket.is_some_and(|bucket| bucket != part.bucket) {
            continue;
        }
        for change in read(root, part, filter.windows.clone()).await? {
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

impl Diff {
    /// The result as text.
    pub fn text(&self) -> String {
        let mut text = tables(&self.groups, &self.largest, &self.outcomes, &self.partly);
        text += &format!("\nreplay {} ({}): {}", self.submission.id, range(&self.submission), changes(self.cells));
        text
    }
}
