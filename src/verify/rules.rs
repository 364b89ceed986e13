//! Which logic counts a row: the rule of the ledger, written a second time. Only the code that reads the ledger is shared with the job.
//!
//! In: the ledger and the replays of a version of `counts`. Out: for a row and a cell, the logic that decides. A row contributes to a cell
//! under a logic if that logic decides. The newest replay decides that is in force, takes rows of the row's epoch, covers the time and
//! customer that its logic finds in the row, and, for what it counts only in whole windows, covers the whole window. If there is none, the
//! logic on record for the epoch decides. If none is on record (tables of a build without a ledger), the job's logic decides. State: the
//! ledger, and the entries of the replays in force. Failure: an entry that can not be read is an error; a logic that this build can not
//! count with is gone, and its cells are left out.

use std::collections::HashSet;
use std::ops::Range;

use super::error::VerifyError;
use super::window::{WINDOWS, window_of};
use crate::job::Job;
use crate::ledger::{self, Entry, Fingerprint, Known, Ledger};
use crate::table::{Root, State, TableError};

/// Whole centuries around all times that are counted. Times beyond need not be distinguished, and windows there have no defined borders.
const TIMES: Range<i64> = -(1 << 56)..1 << 56;

/// A logic that may count rows.
pub(super) struct Rule {
    pub(super) fingerprint: Fingerprint,
    pub(super) known: Known,
}

/// The epochs of one logic.
pub(super) struct Reign {
    /// The first epoch; the oldest reign also includes all epochs before.
    pub(super) from: i64,
    /// Index in [`Rules::logics`].
    pub(super) logic: usize,
}

/// A replay in force.
pub(super) struct Replay {
    pub(super) id: String,
    /// Index in [`Rules::logics`].
    pub(super) logic: usize,
    /// It counts rows of epochs before this one.
    before: i64,
    /// The event times that it covers: ascending stretches that do not touch.
    stretches: Vec<Range<i64>>,
    customers: Option<HashSet<String>>,
    /// What it counts only in windows that it covers wholly: granularity and dimension.
    whole_only: Vec<(usize, String)>,
}

/// The rule for a version of `counts`.
pub(super) struct Rules {
    /// The logics, each once.
    pub(super) logics: Vec<Rule>,
    /// The reigns, ascending; at least one.
    pub(super) reigns: Vec<Reign>,
    /// The replays in force, newest first.
    pub(super) replays: Vec<Replay>,
    /// What a user should know about them.
    pub(super) notes: Vec<String>,
}

impl Rules {
    /// Reads the ledger: the logics from `newest`, which is not older than `raw`, and the replays from the version that is verified.
    ///
    /// # Errors
    /// When a text or an entry can not be read.
    pub(super) async fn load(root: &Root, counts: &State, newest: &State, job: &Job) -> Result<Rules, VerifyError> {
        let mut rules = Rules { logics: Vec::new(), reigns: Vec::new(), replays: Vec::new(), notes: Vec::new() };
        let ledger = Ledger::of(newest);
        let ours = Fingerprint::of(&job.logic);
        if ledger.logics.first_key_value().is_none_or(|(from, _)| *from > 1) {
            let logic = rules.logic(root, ours, job).await?;
            rules.reigns.push(Reign { from: 1, logic });
        }
        for (from, fingerprint) in &ledger.logics {
            let logic = rules.logic(root, *fingerprint, job).await?;
            rules.reigns.push(Reign { from: *from as i64, logic });
        }
        for entry in ledger::entries(root, counts).await?.into_iter().rev() {
            let logic = rules.logic(root, entry.logic, job).await?;
            rules.replays.push(Replay::of(entry, logic)?);
        }
        if let Some((from, theirs)) = ledger.newest().filter(|(_, theirs)| *theirs != ours) {
            rules.notes.push(format!(
                "the job file counts with logic {ours}, but {theirs} is on record from epoch {from} on: verified with \
                 the logic on record"
            ));
        }
        Ok(rules)
    }

    async fn logic(&mut self, root: &Root, fingerprint: Fingerprint, job: &Job) -> Result<usize, TableError> {
        if let Some(index) = self.logics.iter().position(|rule| rule.fingerprint == fingerprint) {
            return Ok(index);
        }
        let known = if fingerprint == Fingerprint::of(&job.logic) {
            Known::Logic(Box::new(job.logic.clone()))
        } else {
            ledger::known(root, fingerprint).await?
        };
        self.logics.push(Rule { fingerprint, known });
        Ok(self.logics.len() - 1)
    }

    /// The index of an epoch's reign.
    pub(super) fn reign(&self, epoch: i64) -> usize {
        self.reigns.partition_point(|reign| reign.from <= epoch).saturating_sub(1)
    }

    /// The logic that counts every row, if there is only one.
    pub(super) fn alone(&self) -> Option<&Rule> {
        match (&*self.logics, &*self.replays) {
            ([logic], []) => Some(logic),
            _ => None,
        }
    }

    /// Whether a replay with this logic takes rows of an epoch.
    pub(super) fn replays(&self, logic: usize, epoch: i64) -> bool {
        self.replays.iter().any(|replay| replay.logic == logic && epoch < replay.before)
    }

    /// Collects the replays that take a row with this customer and time: their indices, newest first.
    pub(super) fn applying(&self, epoch: i64, customer: &str, time_us: i64, out: &mut Vec<usize>) {
        out.clear();
        let applies = |replay: &Replay| {
            epoch < replay.before
                && replay.covers(&(time_us..time_us + 1))
                && replay.customers.as_ref().is_none_or(|customers| customers.contains(customer))
        };
        out.extend((0..self.replays.len()).filter(|index| applies(&self.replays[*index])));
    }

    /// The logic that decides a cell of a row; `on_record` is the logic of the row's epoch.
    pub(super) fn decider(
        &self,
        applying: &[usize],
        on_record: usize,
        window: usize,
        span: &Range<i64>,
        dimension: &str,
    ) -> usize {
        let decides = |replay: &&Replay| {
            let is_whole_only = |(of, name): &(usize, String)| *of == window && name == dimension;
            !replay.whole_only.iter().any(is_whole_only) || replay.covers(span)
        };
        applying.iter().map(|index| &self.replays[*index]).find(decides).map_or(on_record, |replay| replay.logic)
    }

    /// Whether replays decide all cells of a window, for every customer, for a row with this epoch and time.
    pub(super) fn is_replayed(&self, epoch: i64, time_us: i64, window: usize, span: &Range<i64>) -> bool {
        self.replays.iter().any(|replay| {
            epoch < replay.before
                && replay.customers.is_none()
                && replay.covers(&(time_us..time_us + 1))
                && replay.decides_all(window, span)
        })
    }

    /// Whether a replay may decide cells of a stretch of whole windows: true unless a newer replay decides all of them.
    pub(super) fn may_decide(&self, index: usize, window: usize, span: &Range<i64>) -> bool {
        let (newer, replay) = (&self.replays[..index], &self.replays[index]);
        let parts: Vec<Range<i64>> = replay.meeting(span).collect();
        let is_over = |newer: &Replay| {
            let customers = match (&newer.customers, &replay.customers) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(theirs), Some(ours)) => ours.is_subset(theirs),
            };
            customers
                && newer.before >= replay.before
                && newer.decides_all(window, span)
                && parts.iter().all(|part| newer.covers(part))
        };
        !parts.is_empty() && !newer.iter().any(is_over)
    }
}

impl Replay {
    fn of(entry: Entry, logic: usize) -> Result<Replay, VerifyError> {
        let mut given = entry.coverage;
        given.sort_by_key(|stretch| (stretch.start, stretch.end));
        let mut stretches: Vec<Range<i64>> = Vec::new();
        for stretch in given {
            let stretch = stretch.start.max(TIMES.start)..stretch.end.min(TIMES.end);
            match stretches.last_mut() {
                _ if stretch.is_empty() => {}
                Some(last) if stretch.start <= last.end => last.end = last.end.max(stretch.end),
                _ => stretches.push(stretch),
            }
        }
        let whole_only = (entry.whole_only.into_iter())
            .map(|(granularity, dimension)| Some((window_of(granularity.name())?, dimension)))
            .collect::<Option<_>>();
        let unknown = || {
            VerifyError::Bug(format!(
                "the entry of replay {} has a granularity that this build does not know",
                entry.id
            ))
        };
        Ok(Replay {
            logic,
            before: entry.before as i64,
            stretches,
            customers: entry.customers.map(|customers| customers.into_iter().collect()),
            whole_only: whole_only.ok_or_else(unknown)?,
            id: entry.id,
        })
    }

    /// Whether a stretch of time is wholly covered.
    fn covers(&self, span: &Range<i64>) -> bool {
        self.meeting(span).next().is_some_and(|part| part == *span)
    }

    /// The parts of a stretch of time that are covered.
    fn meeting<'a>(&'a self, span: &'a Range<i64>) -> impl Iterator<Item = Range<i64>> + 'a {
        let first = self.stretches.partition_point(|stretch| stretch.end <= span.start);
        (self.stretches[first..].iter())
            .take_while(|stretch| stretch.start < span.end)
            .map(|stretch| stretch.start.max(span.start)..stretch.end.min(span.end))
    }

    /// Whether it decides every cell of a window: true unless it counts some dimension only in whole windows, and does not cover this one.
    fn decides_all(&self, window: usize, span: &Range<i64>) -> bool {
        self.whole_only.iter().all(|(of, _)| *of != window) || self.covers(span)
    }

    /// Whether it counts cells of this customer.
    pub(super) fn is_of(&self, customer: &str) -> bool {
        self.customers.as_ref().is_none_or(|customers| customers.contains(customer))
    }

    /// The stretches that it covers, each widened to whole windows.
    pub(super) fn widened(&self, window: usize) -> impl Iterator<Item = Range<i64>> + '_ {
        let window = &WINDOWS[window];
        (self.stretches.iter()).map(|stretch| window.start(stretch.start)..window.end(window.start(stretch.end - 1)))
    }
}
