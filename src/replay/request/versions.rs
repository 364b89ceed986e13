//! The versions of both tables that a replay reads, and which of their files.
//!
//! In: where the tables are, and the versions of a submission or the newest ones. Out: the logs and states of both tables; the files of
//! `raw` whose rows may be in range, first those with stray event times and then the others by epoch; and a fetched file. State: none.
//! Failure: a version or a file that is no longer kept is an error that says so.

use object_store::Error as StoreError;

use super::submission::Submission;
use crate::model::TimeUs;
use crate::replay::error::ReplayError;
use crate::table::fetch::{FetchError, Fetched, fetch};
use crate::table::raw::{self, Kind};
use crate::table::{File, Log, Root, State, TableError};

/// Both tables, at the versions of a replay.
pub struct Versions {
    /// The archive.
    pub raw: (Log, State),
    /// The counts.
    pub counts: (Log, State),
}

impl Versions {
    /// The newest versions.
    ///
    /// # Errors
    /// [`TableError`], also if a table does not exist yet.
    pub async fn newest(root: &Root) -> Result<Versions, TableError> {
        // `counts` is read first, since `raw` is never behind it.
        let counts = Log::newest(root, "counts").await?;
        Ok(Versions { raw: Log::newest(root, "raw").await?, counts })
    }

    /// The versions of a submission.
    ///
    /// # Errors
    /// [`ReplayError::Gone`] when they are no longer kept; [`TableError`].
    pub async fn of(root: &Root, submission: &Submission) -> Result<Versions, ReplayError> {
        let load = async |name: &'static str, version| {
            let log = Log::new(root, name);
            match log.load_at(version).await? {
                Some(state) => Ok((log, state)),
                None => Err(ReplayError::Gone { id: submission.id.clone(), table: name, version }),
            }
        };
        Ok(Versions {
            counts: load("counts", submission.counts_version).await?,
            raw: load("raw", submission.raw_version).await?,
        })
    }
}

/// The files of `raw` whose rows may be in range: first the files apart, then the others by epoch.
///
/// # Errors
/// [`TableError::Corrupt`] when statistics can not be read.
pub fn raw_files(raw: &State, submission: &Submission) -> Result<Vec<File>, TableError> {
    let up_to = submission.up_to();
    let by_event_time = submission.asked.is_by_event_time();
    let mut files = Vec::new();
    for file in raw.files.values() {
        let (least, _) = raw::epochs_of(file)?;
        let times = raw::event_times_of(file)?;
        let meets = |(first, last): (TimeUs, TimeUs)| {
            submission.coverage.iter().any(|range| range.start <= last && first < range.end)
        };
        // A row without an event time on record may have one with the replay's logic.
        let may_be_in_range = times.nulls > 0 || times.range.is_none_or(meets);
        if least <= up_to && (may_be_in_range || !by_event_time) {
            files.push((Kind::of_file(file) == Some(Kind::Main), least, file.clone()));
        }
    }
    files.sort_by(|a, b| (a.0, a.1, &a.2.path).cmp(&(b.0, b.1, &b.2.path)));
    Ok(files.into_iter().map(|(_, _, file)| file).collect())
}

/// Fetches a file that belongs to a version which the replay reads.
pub async fn fetch_kept(log: &Log, path: &str) -> Result<Fetched, TableError> {
    let table = log.name();
    fetch(log.store().as_ref(), path).await.map_err(|error| match error {
        FetchError::Store(StoreError::NotFound { .. }) => TableError::Invalid(format!(
            "{path} of the version of table {table} that the replay reads is no longer kept: discard the replay and submit it \
             again, or let the tables keep dead files for longer (settings.dead_files_keep_hours)"
        )),
        error => error.of_table(format!("reading {path} of table {table}")),
    })
}
