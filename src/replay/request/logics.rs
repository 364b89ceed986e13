//! The logics that count now: those of live, and of the replays in force.
//!
//! In: what `counts` has on record, and the text of each of its logics, read once. Out: for a range, the logics that its rows may
//! count with, and whether they read event times and customers by the same rules as the replay's logic. State: all texts; there
//! are few. Failure: a text that is not there, or is not as this build writes it, is an error only where it is needed; a failure of
//! the store is one at once.

use std::collections::{BTreeMap, BTreeSet};

use super::shape::{Present, RangeShape};
use super::submission::Submission;
use crate::job::{COUNTING, FieldSpec, Format, Logic};
use crate::ledger::{self, Entry, Fingerprint, Known, Ledger, LogicText};
use crate::model::{Epoch, Granularity};
use crate::replay::error::ReplayError;
use crate::table::{Root, State, TableError};

/// All logics on record.
pub struct LogicsOnRecord {
    ledger: Ledger,
    /// Of the replays in force.
    entries: Vec<Entry>,
    /// The text of each logic, or why it can not be read.
    texts: BTreeMap<Fingerprint, Result<LogicText, String>>,
}

impl LogicsOnRecord {
    /// Reads the logics of a version of `counts`.
    ///
    /// # Errors
    /// [`TableError`].
    pub async fn read(root: &Root, counts: &State) -> Result<LogicsOnRecord, TableError> {
        let (ledger, entries) = (Ledger::of(counts), ledger::entries(root, counts).await?);
        let of_replays = entries.iter().map(|entry| entry.logic);
        let all: BTreeSet<Fingerprint> = ledger.logics.values().copied().chain(of_replays).collect();
        let mut texts = BTreeMap::new();
        for logic in all {
            texts.insert(logic, ledger::text(root, logic).await?);
        }
        Ok(LogicsOnRecord { ledger, entries, texts })
    }

    /// What counts now in the range of a replay: live's logics of all epochs before the replay's logic became live's (of a preview, of
    /// all epochs), and those of the replays in force that it overlaps.
    ///
    /// # Errors
    /// [`ReplayError::LogicGone`] when the text of one of them can not be read.
    pub fn present(&self, submission: &Submission) -> Result<PresentLogics, ReplayError> {
        let mut found = PresentLogics { logics: Vec::new(), customers_of_older_lines: false };
        let before = submission.before.unwrap_or(Epoch::MAX);
        let of_live: BTreeSet<Fingerprint> = self.ledger.logics.range(..before).map(|(_, logic)| *logic).collect();
        for logic in of_live {
            found.add(self.text(logic)?, Vec::new());
        }
        let ours = Entry {
            id: submission.id.clone(),
            coverage: submission.coverage.clone(),
            customers: submission.customers.clone(),
            logic: submission.logic,
            before,
            whole_only: Vec::new(),
        };
        for entry in self.entries.iter().filter(|entry| entry.overlaps(&ours)) {
            found.add(self.text(entry.logic)?, entry.whole_only.clone());
        }
        Ok(found)
    }

    fn text(&self, fingerprint: Fingerprint) -> Result<&LogicText, ReplayError> {
        let text = self.texts.get(&fingerprint).expect("the text of every logic on record was read");
        text.as_ref().map_err(|why| ReplayError::LogicGone { fingerprint, why: why.clone() })
    }

    /// The logics of replays in force that do not read the event time by the same rule as `ours`, to decode rows with. Of all replays
    /// in force, not only of those that meet a range; one whose text can not be read is among them.
    ///
    /// # Errors
    /// [`ReplayError::LogicGone`] when one of them can not be read, or this build can not count with it.
    pub fn replays_of_other_times(&self, ours: &Logic) -> Result<Vec<Logic>, ReplayError> {
        let logics: BTreeSet<Fingerprint> = self.entries.iter().map(|entry| entry.logic).collect();
        let others = logics.into_iter().filter(|logic| !self.finds_time_as(*logic, ours));
        let known = others.map(|fingerprint| match Known::of(fingerprint, self.texts[&fingerprint].clone()) {
            Known::Logic(logic) => Ok(*logic),
            Known::Gone(why) => Err(ReplayError::LogicGone { fingerprint, why }),
        });
        known.collect()
    }

    /// The epochs whose rows live counted at the event time that `ours` reads. An epoch whose logic can not be read is not one of them.
    pub fn epochs_timed_as(&self, ours: &Logic) -> impl Fn(Epoch) -> bool + Clone + use<> {
        let logics = self.ledger.logics.values().copied();
        let same: BTreeSet<Fingerprint> = logics.filter(|logic| self.finds_time_as(*logic, ours)).collect();
        let ledger = self.ledger.clone();
        move |epoch| ledger.at(epoch).is_some_and(|logic| same.contains(&logic))
    }

    /// Whether a logic reads the event time by the same rule as `ours`, see [`Logic::time_rule`]; not if its text can not be read. By
    /// the same rule, code of any number reads the same time, see [`COUNTING`].
    fn finds_time_as(&self, logic: Fingerprint, ours: &Logic) -> bool {
        self.texts[&logic].as_ref().is_ok_and(|text| text.logic.time_rule() == ours.time_rule())
    }
}

/// The logics by which rows of some range count at present.
pub struct PresentLogics {
    logics: Vec<Present>,
    /// Whether code of another number ([`COUNTING`]) took customers out of lines: it read lists of proxies and users' names in
    /// another way.
    customers_of_older_lines: bool,
}

impl PresentLogics {
    fn add(&mut self, text: &LogicText, whole_only: Vec<(Granularity, String)>) {
        self.customers_of_older_lines |= text.counting != COUNTING
            && text.logic.format == Format::AccessLog
            && !matches!(text.logic.customer, FieldSpec::Constant(_));
        self.logics.push(Present { logic: text.logic.clone(), whole_only });
    }

    /// What a replay with `ours` does to each dimension.
    pub fn shape(&self, ours: &Logic) -> RangeShape {
        RangeShape::new(ours, &self.logics)
    }

    /// Whether all read the event time by the same rule as `ours`: format, line, unwrap, places, pattern or unit, assumed offset.
    pub fn time_is_same(&self, ours: &Logic) -> bool {
        self.logics.iter().all(|present| present.logic.time_rule() == ours.time_rule())
    }

    /// Whether all read the customer by the same rule as `ours`: format, line, unwrap, places, transforms.
    pub fn customer_is_same(&self, ours: &Logic) -> bool {
        !self.customers_of_older_lines
            && self.logics.iter().all(|present| present.logic.customer_rule() == ours.customer_rule())
    }
}
