//! Checks a request, and makes the submission from it.
//!
//! In: the job, a [`ReplayRequest`], the newest versions of both tables, and the logics on record. Out: a [`Prepared`] replay; nothing is
//! written. Time: a range of ingest times becomes all windows that its rows touch, at their old or new event times. What can not be
//! recounted exactly is refused here, and the message says what to do instead. State: none.

use std::sync::Arc;

use super::checks::{check_order, check_range, check_whole};
use super::logics::LogicsOnRecord;
use super::shape::RangeShape;
use super::submission::{Asked, Submission};
use super::touched::Look;
use super::versions::Versions;
use crate::job::Job;
use crate::ledger::{Fingerprint, Ledger, Orders};
use crate::model::TimeUs;
use crate::replay::error::ReplayError;
use crate::table::{Root, counts};

/// What a user asks for.
#[derive(Clone, Debug)]
pub struct ReplayRequest {
    /// The id; made up if it is empty.
    pub id: String,
    /// The range.
    pub asked: Asked,
    /// Only these customers; `None` for all.
    pub customers: Option<Vec<String>>,
    /// Bytes of files in a chunk.
    pub chunk_bytes: u64,
}

/// A replay that passed the checks.
pub struct Prepared {
    /// The versions that it reads.
    pub versions: Versions,
    /// The submission.
    pub submission: Submission,
    /// What it does to each dimension.
    pub shape: RangeShape,
}

/// Checks a request, and makes its submission.
///
/// # Errors
/// [`ReplayError`] when it can not be answered exactly.
pub async fn prepare(job: &Job, root: &Root, request: ReplayRequest, now_ms: i64) -> Result<Prepared, ReplayError> {
    let versions = Versions::newest(root).await?;
    let counts = &versions.counts.1;
    let buckets = counts::buckets(counts)?;
    if buckets != job.tables.buckets {
        return Err(ReplayError::Refused(format!(
            "tables.buckets = {}, but the table was created with {buckets}; put {buckets} into the job file",
            job.tables.buckets
        )));
    }
    check_order(request.asked.range())?;
    check_whole(&versions.raw.1, &request.asked)?;
    let mut customers = request.customers;
    if let Some(customers) = &mut customers {
        customers.sort_unstable();
        customers.dedup();
    }
    let logic = Fingerprint::of(&job.logic);
    let before = Ledger::of(counts).newest().filter(|(_, newest)| *newest == logic).map(|(from, _)| from);
    let mut submission = Submission {
        id: request.id,
        job: job.name.clone(),
        submitted_ms: now_ms,
        coverage: vec![request.asked.range().clone()],
        asked: request.asked,
        customers,
        logic,
        before,
        whole_only: Vec::new(),
        raw_version: versions.raw.1.version,
        counts_version: counts.version,
        lanes: counts::lane_epochs(counts),
        order: Orders::of(counts).newest(),
        chunk_bytes: request.chunk_bytes,
    };
    let on_record = LogicsOnRecord::read(root, counts).await?;
    let shape = match &submission.asked {
        Asked::EventTimes(range) => {
            let present = on_record.present(&submission)?;
            if !present.time_is_same(&job.logic) {
                return Err(ReplayError::Refused(
                    "the job file takes the event time from another place in the record than the logic on record does, or reads it by \
                     another rule: a row that moves across the edge of a range of event times would be lost or counted twice; select \
                     the rows by their ingest time instead: --ingest-from, --ingest-to"
                        .to_owned(),
                ));
            }
            let shape = present.shape(&job.logic);
            check_range(range, &shape)?;
            shape
        }
        Asked::IngestTimes(range) => {
            // It is not yet known which windows the range touches, so all logics that count anywhere are considered.
            submission.coverage = std::iter::once(TimeUs::MIN..TimeUs::MAX).collect();
            let present = on_record.present(&submission)?;
            let shape = present.shape(&job.logic);
            let look = Look {
                log: versions.raw.0.clone(),
                files: versions.raw.1.files.values().cloned().collect(),
                up_to: submission.up_to(),
                ingested: range.clone(),
                ours: Arc::new(job.logic.clone()),
                others: on_record.replays_of_other_times(&job.logic)?.into(),
                base: shape.base(),
            };
            let windows = look.windows().await?;
            if !present.time_is_same(&job.logic) {
                look.check(&windows, on_record.epochs_timed_as(&job.logic)).await?;
            }
            submission.coverage = windows;
            shape
        }
    };
    if submission.customers.is_some() && !on_record.present(&submission)?.customer_is_same(&job.logic) {
        return Err(ReplayError::Refused(
            "the job file takes the customer from another place in the record than the logic on record does, or reads it by another \
             rule: a row may move from one customer to another; omit --customers"
                .to_owned(),
        ));
    }
    submission.whole_only = shape.whole_only();
    Ok(Prepared { versions, submission, shape })
}
