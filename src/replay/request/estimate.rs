//! Estimates what a replay would read and touch, and about how long it would take.
//!
//! In: a [`Prepared`] replay. Out: an [`Estimate`], made from the statistics of the tables' files alone: no row is read, and nothing is
//! written. Its number of rows is an upper bound, since all rows of a file are counted if some of them may be in range. State: none.

use std::ops::Range;

use serde::Serialize;

use super::coverage::{Partly, partly};
use super::prepare::Prepared;
use super::versions::raw_files;
use crate::model::{Epoch, TimeUs, rfc3339};
use crate::table::{TableError, counts, raw};

/// Rows that one worker recounts per second.
const ROWS_PER_SECOND: u64 = 100_000;

/// What a replay reads and touches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// The range, as stretches of event time.
    pub ranges: Vec<[String; 2]>,
    /// Files of `raw` to read.
    pub raw_files: u64,
    /// Their size in bytes.
    pub raw_bytes: u64,
    /// Their rows: an upper bound of the rows that are decoded.
    pub raw_rows: u64,
    /// First and last epoch of those files.
    pub epochs: Option<[Epoch; 2]>,
    /// Live files of `counts` in range.
    pub counts_files: u64,
    /// Their size in bytes.
    pub counts_bytes: u64,
    /// Windows that lie only partly in the range.
    pub partly: Vec<Partly>,
    /// Whether the replay can be published: true if live counts with its logic.
    pub can_be_published: bool,
    /// How many seconds it may take.
    pub estimate_seconds: u64,
}

impl Estimate {
    /// Estimates a replay with this many workers.
    ///
    /// # Errors
    /// [`TableError`] when statistics can not be read.
    pub fn of(prepared: &Prepared, workers: usize) -> Result<Estimate, TableError> {
        let submission = &prepared.submission;
        let files = raw_files(&prepared.versions.raw.1, submission)?;
        let mut epochs: Option<[Epoch; 2]> = None;
        for file in &files {
            let (least, greatest) = raw::epochs_of(file)?;
            let [first, last] = epochs.get_or_insert([least, greatest]);
            (*first, *last) = (least.min(*first), greatest.max(*last));
        }
        let rows: u64 = files.iter().map(|file| file.rows).sum();
        let (mut counts_files, mut counts_bytes) = (0, 0);
        for file in prepared.versions.counts.1.files.values() {
            let segment = counts::segment_of(file)?;
            let windows = segment.windows();
            let meets = |range: &Range<TimeUs>| range.start < windows.end && windows.start < range.end;
            if submission.coverage.iter().any(meets) {
                counts_files += 1;
                counts_bytes += file.size;
            }
        }
        Ok(Estimate {
            ranges: submission.coverage.iter().map(|range| [rfc3339(range.start), rfc3339(range.end)]).collect(),
            raw_files: files.len() as u64,
            raw_bytes: files.iter().map(|file| file.size).sum(),
            raw_rows: rows,
            epochs,
            counts_files,
            counts_bytes,
            partly: partly(&submission.coverage, &prepared.shape),
            can_be_published: submission.before.is_some(),
            estimate_seconds: rows.div_ceil(ROWS_PER_SECOND * workers.max(1) as u64),
        })
    }
}
