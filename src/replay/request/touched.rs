//! Finds the windows that the rows ingested in a range touch, for a job whose new mapping takes the event time from another place.
//!
//! In: rows of `raw`, decoded with the replay's logic and with the logics of published replays that take the event time from another place
//! in the record. Out: the base windows of every event time at which such a row counts, or counted before; all rows of those windows are
//! recounted. A row that was ingested outside the range may be in such a window only if it was already counted at its new event time;
//! otherwise the range is refused. State: the set of windows. Failure: a file that can not be read is an error; nothing was written.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use super::versions::fetch_kept;
use crate::decode::{Decoder, Event};
use crate::job::Logic;
use crate::model::{Arrival, Epoch, Granularity, Outcome, RecordRef, TimeUs, Zone, covers, rfc3339};
use crate::process::panics::of_task;
use crate::replay::error::ReplayError;
use crate::table::{File, Log, TableError, raw};

/// Files that are read at the same time.
const AT_ONCE: usize = 4;

/// How rows are examined.
#[derive(Clone)]
pub(super) struct Look {
    /// The archive.
    pub log: Log,
    /// Its live files.
    pub files: Arc<[File]>,
    /// The newest epoch to read: rows of later ones are in no lane.
    pub up_to: Epoch,
    /// The range of ingest times.
    pub ingested: Range<TimeUs>,
    /// The replay's logic.
    pub ours: Arc<Logic>,
    /// The logics of published replays that take the event time from another place in the record, or read it by another rule.
    pub others: Arc<[Logic]>,
    /// The granularity of the windows.
    pub base: Granularity,
}

/// What was written beside a record on arrival.
#[derive(Clone, Copy)]
struct OnArrival {
    arrival: Arrival,
    event_time: Option<TimeUs>,
}

/// The event times at which a row counts, now and before.
struct RowTimes {
    decoders: Vec<Decoder>,
    event: Event,
}

impl RowTimes {
    fn of(&mut self, record: RecordRef<'_>, before: OnArrival, mut take: impl FnMut(TimeUs)) {
        if before.arrival == Arrival::Counted {
            before.event_time.into_iter().for_each(&mut take);
        }
        for decoder in &mut self.decoders {
            if matches!(decoder.decode(record, &mut self.event), Outcome::Counted) {
                self.event.event_time.into_iter().for_each(&mut take);
            }
        }
    }
}

impl Look {
    fn times(&self) -> RowTimes {
        let decoders = std::iter::once(&*self.ours).chain(self.others.iter()).map(Decoder::new).collect();
        RowTimes { decoders, event: Event::default() }
    }

    /// Calls `row` for each row of the files that `wants` selects, several files at a time; returns one result per file.
    async fn rows<T: Default + Send + 'static>(
        &self,
        wants: impl Fn(TimeUs, TimeUs) -> bool,
        row: impl Fn(&Look, &mut RowTimes, &mut T, RecordRef<'_>, OnArrival) + Clone + Send + 'static,
    ) -> Result<Vec<T>, ReplayError> {
        let mut files = Vec::new();
        for file in self.files.iter() {
            let (least, greatest) = raw::ingested_of(file)?;
            if wants(least, greatest) && raw::epochs_of(file)?.0 <= self.up_to {
                files.push(file.clone());
            }
        }
        let found = futures::stream::iter(files).map(|file| {
            let (look, row) = (self.clone(), row.clone());
            async move {
                let fetched = fetch_kept(&look.log, &file.path).await?;
                let looked = tokio::task::spawn_blocking(move || {
                    let (mut found, mut times) = (T::default(), look.times());
                    let up_to = look.up_to;
                    for records in raw::read_arrived(&file, &fetched, Arc::new([]), move |epoch, _| epoch <= up_to)? {
                        let records = records?;
                        for (record, &(arrival, event_time)) in records.iter().zip(records.arrivals()) {
                            row(&look, &mut times, &mut found, record, OnArrival { arrival, event_time });
                        }
                    }
                    Ok::<T, TableError>(found)
                });
                let looked = looked.await.map_err(|panic| ReplayError::Bug(of_task("scanning the archive", panic)))?;
                Ok::<T, ReplayError>(looked?)
            }
        });
        found.buffer_unordered(AT_ONCE).try_collect().await
    }

    /// The windows that the rows touch, as stretches that do not touch each other.
    ///
    /// # Errors
    /// [`ReplayError`] when a file can not be read.
    pub(super) async fn windows(&self) -> Result<Vec<Range<TimeUs>>, ReplayError> {
        let meets = |least, greatest| least < self.ingested.end && self.ingested.start <= greatest;
        let row = |look: &Look,
                   times: &mut RowTimes,
                   found: &mut BTreeSet<TimeUs>,
                   record: RecordRef<'_>,
                   before: OnArrival| {
            if look.ingested.contains(&record.ingested_at) {
                times.of(record, before, |time| _ = found.insert(look.base.window_start(time, Zone::Utc)));
            }
        };
        let windows: BTreeSet<TimeUs> = self.rows(meets, row).await?.into_iter().flatten().collect();
        let mut stretches: Vec<Range<TimeUs>> = Vec::new();
        for start in windows {
            let end = self.base.window_end(start, Zone::Utc);
            match stretches.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => stretches.push(start..end),
            }
        }
        Ok(stretches)
    }

    /// Refuses windows that hold rows from outside the range, unless these rows were counted at the event time that the replay's logic
    /// finds. `as_ours` selects the epochs in which they were.
    ///
    /// # Errors
    /// [`ReplayError::Refused`] with a range that holds these rows; as [`Look::windows`].
    pub(super) async fn check(
        &self,
        windows: &[Range<TimeUs>],
        as_ours: impl Fn(Epoch) -> bool + Clone + Send + 'static,
    ) -> Result<(), ReplayError> {
        let leaves = |least, greatest| least < self.ingested.start || self.ingested.end <= greatest;
        let windows: Arc<[Range<TimeUs>]> = windows.into();
        let row = move |look: &Look,
                        times: &mut RowTimes,
                        found: &mut Option<Outside>,
                        record: RecordRef<'_>,
                        before: OnArrival| {
            if look.ingested.contains(&record.ingested_at) || as_ours(record.epoch) {
                return;
            }
            let mut is_in = false;
            times.of(record, before, |time| {
                is_in |= covers(&windows, time);
            });
            if is_in {
                let at = record.ingested_at;
                let outside = found.get_or_insert(Outside { rows: 0, first: at, last: at });
                outside.rows += 1;
                outside.first = outside.first.min(at);
                outside.last = outside.last.max(at);
            }
        };
        let found = self.rows(leaves, row).await?.into_iter().flatten();
        let Some(all) = found.reduce(|a, b| Outside {
            rows: a.rows + b.rows,
            first: a.first.min(b.first),
            last: a.last.max(b.last),
        }) else {
            return Ok(());
        };
        let second = |time: TimeUs| time - time.rem_euclid(1_000_000);
        Err(ReplayError::Refused(format!(
            "{} rows that were ingested outside {} to {} are in windows that the range touches, and were counted at another event \
             time: they would be lost or counted twice. Use --ingest-from {} --ingest-to {}, which includes them; it may touch further \
             windows",
            all.rows,
            rfc3339(self.ingested.start),
            rfc3339(self.ingested.end),
            rfc3339(second(all.first.min(self.ingested.start))),
            rfc3339(second(all.last.max(self.ingested.end - 1)) + 1_000_000)
        )))
    }
}

/// Rows from outside the range.
#[derive(Clone, Copy)]
struct Outside {
    rows: u64,
    first: TimeUs,
    last: TimeUs,
}
