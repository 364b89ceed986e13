//! What can not be recounted, because the code or the text of a logic is gone.
//!
//! In: rows that are counted by a logic that is gone, with the event time on record. Out: whether a cell may hold some of them. Without the
//! logic, the customers of these rows are not known, so all cells of a window are in doubt. State: the windows of such rows, bounded by the
//! number of windows in the history. For a replay whose logic is gone, its coverage is used instead. Pure.

use std::collections::{BTreeSet, HashSet};

use super::difference::Gone;
use super::key::Cell;
use super::rules::Rules;
use super::window::WINDOWS;
use crate::ledger::Known;

/// The windows and replays that are in doubt.
pub(super) struct Doubt<'a> {
    rules: &'a Rules,
    /// Granularity and start of each window.
    windows: HashSet<(usize, i64)>,
    /// The reigns to which the rows in these windows belong.
    reigns: BTreeSet<usize>,
    /// Replays in force whose logic is gone.
    replays: Vec<usize>,
}

impl<'a> Doubt<'a> {
    pub(super) fn new(rules: &'a Rules) -> Self {
        let is_gone = |index: &usize| matches!(rules.logics[rules.replays[*index].logic].known, Known::Gone(_));
        let may_decide = |index: &usize| {
            let in_window = |window| {
                let mut spans = rules.replays[*index].widened(window);
                spans.any(|span| rules.may_decide(*index, window, &span))
            };
            (0..WINDOWS.len()).any(in_window)
        };
        let replays = (0..rules.replays.len()).filter(is_gone).filter(may_decide).collect();
        Doubt { rules, windows: HashSet::new(), reigns: BTreeSet::new(), replays }
    }

    /// Notes a row that was counted by the logic of its epoch, if that logic is gone.
    pub(super) fn row(&mut self, epoch: i64, time_us: i64) {
        for (index, window) in WINDOWS.iter().enumerate() {
            let start_us = window.start(time_us);
            if !self.rules.is_replayed(epoch, time_us, index, &(start_us..window.end(start_us))) {
                self.windows.insert((index, start_us));
                self.reigns.insert(self.rules.reign(epoch));
            }
        }
    }

    /// Whether nothing is in doubt.
    pub(super) fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.replays.is_empty()
    }

    /// Whether a cell may hold rows that can not be recounted.
    pub(super) fn holds(&self, cell: &Cell) -> bool {
        if self.windows.contains(&(cell.window, cell.start_us)) {
            return true;
        }
        let Some(window) = WINDOWS.get(cell.window) else { return false };
        let span = cell.start_us..window.end(cell.start_us);
        let holds = |index: &usize| {
            self.rules.replays[*index].is_of(&cell.customer) && self.rules.may_decide(*index, cell.window, &span)
        };
        self.replays.iter().any(holds)
    }

    /// Which logics are gone, and why.
    pub(super) fn because(&self, raw_epoch: i64) -> Vec<Gone> {
        let gone = |logic: usize, epochs, replay| {
            let rule = &self.rules.logics[logic];
            let Known::Gone(why) = &rule.known else { return None };
            Some(Gone { logic: rule.fingerprint, epochs, replay, why: why.clone() })
        };
        let reigns = self.reigns.iter().filter_map(|index| {
            let reign = &self.rules.reigns[*index];
            let last = self.rules.reigns.get(index + 1).map_or(raw_epoch, |next| next.from - 1);
            gone(reign.logic, Some((reign.from, last)), None)
        });
        let replays = self.replays.iter().filter_map(|index| {
            let replay = &self.rules.replays[*index];
            gone(replay.logic, None, Some(replay.id.clone()))
        });
        reigns.chain(replays).collect()
    }
}
