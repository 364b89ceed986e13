//! Which logic counts a row: the ledger's rule, written a second time. With the job it shares what reads the ledger, nothing else.
//!
//! A row contributes to a cell under a logic if that logic decides: the newest replay in force that takes rows of the row's epoch,
//! covers the time and customer that the logic finds in it, and, for what it counts only in whole windows, covers the whole
//! window; where there is none, the logic on record for the epoch; where none is on record (tables of a build that kept no
//! ledger), the job's. State: the ledger, and the entries of replays in force.

use std::collections::HashSet;
use std::ops::Range;

use super::error::VerifyError;
use super::window::{WINDOWS, window_of};
use crate::job::Job;
use crate::ledger::{self, Entry, Fingerprint, Known, Ledger};
use crate::table::{Root, State, TableError};

/// Whole centuries around all times that are counted: what lies beyond need not be told apart, and its windows have no borders.
const TIMES: Range<i64> = -(1 << 56)..1 << 56;

/// A logic that may count rows.
pub(super) struct Rule {
    pub(super) fingerprint: Fingerprint,
    pub(super) known: Known,
}

/// Epochs of one logic.
pub(super) struct Reign {
    /// The first epoch; of the oldest one all that come before it too.
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
    /// Event times, ascending, apart from each other.
    stretches: Vec<Range<i64>>,
    customers: Option<HashSet<String>>,
    /// Granularity and dimension of what it counts only in windows that it covers wholly.
    whole_only: Vec<(usize, String)>,
}

/// The rule.
pub(super) struct Rules {
    /// Each logic once.
    pub(super) logics: Vec<Rule>,
    /// Ascending; there is at least one.
    pub(super) reigns: Vec<Reign>,
    /// Newest first.
    pub(super) replays: Vec<Replay>,
    /// What somebody should know of it.
    pub(super) notes: Vec<String>,
}

impl Rules {
    /// Reads what is on record: the logics of `newest`, which is not older than `raw`, the replays of the version that is
    /// verified.
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
                "the job file counts with logic {ours}, on record is {theirs} from epoch {from} on: verified by what is on record"
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

    /// The one logic that counts every row, where there is one.
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

    /// The replays that take a row with this customer and time: their indices, newest first.
    pub(super) fn applying(&self, epoch: i64, customer: &str, time_us: i64, out: &mut Vec<usize>) {
        out.clear();
        let applies = |replay: &Replay| {
            epoch < replay.before
                && replay.covers(&(time_us..time_us + 1))
                && replay.customers.as_ref().is_none_or(|customers| customers.contains(customer))
        };
        out.extend((0..self.replays.len()).filter(|index| applies(&self.replays[*index])));
    }

    /// The logic that decides a cell of a row; `on_record` is that of the row's epoch.
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

    /// Whether replays decide all cells of a window, whoever the customer, for a row with this epoch and time.
    pub(super) fn is_replayed(&self, epoch: i64, time_us: i64, window: usize, span: &Range<i64>) -> bool {
        self.replays.iter().any(|replay| {
            epoch < replay.before
                && replay.customers.is_none()
                && replay.covers(&(time_us..time_us + 1))
                && replay.decides_all(window, span)
        })
    }

    /// Whether a replay may decide cells of a stretch of whole windows: nothing newer decides all of them for it.
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
        let unknown = || VerifyError::Bug(format!("the entry of replay {} has a granularity unknown here", entry.id));
        Ok(Replay {
            logic,
            before: entry.before as i64,
            stretches,
            customers: entry.customers.map(|customers| customers.into_iter().collect()),
            whole_only: whole_only.ok_or_else(unknown)?,
            id: entry.id,
        })
    }

    /// Whether all of a stretch of time is covered.
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

    /// Whether nothing that it counts of a granularity asks for more of the window than what is covered.
    fn decides_all(&self, window: usize, span: &Range<i64>) -> bool {
        self.whole_only.iter().all(|(of, _)| *of != window) || self.covers(span)
    }

    /// Whether it counts cells of this customer.
    pub(super) fn is_of(&self, customer: &str) -> bool {
        self.customers.as_ref().is_none_or(|customers| customers.contains(customer))
    }

    /// What it covers, widened to whole windows, stretch by stretch.
    pub(super) fn widened(&self, window: usize) -> impl Iterator<Item = Range<i64>> + '_ {
        let window = &WINDOWS[window];
        (self.stretches.iter()).map(|stretch| window.start(stretch.start)..window.end(window.start(stretch.end - 1)))
    }
}
