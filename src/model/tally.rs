//! The measures of a cell: the type of the dataflow's diffs. Plain data that adds and subtracts.

use differential_dataflow::difference::{Abelian, IsZero, Monoid, Semigroup};
use serde::{Deserialize, Serialize};

/// What is counted for a cell: a struct of counters that add and subtract, so that a replay can take back what the live job added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tally {
    /// Number of events.
    pub event_count: i64,
}

impl Tally {
    /// The tally of a single event.
    pub const ONE: Tally = Tally { event_count: 1 };
}

impl IsZero for Tally {
    fn is_zero(&self) -> bool {
        self.event_count == 0
    }
}

impl Semigroup for Tally {
    fn plus_equals(&mut self, rhs: &Self) {
        self.event_count += rhs.event_count;
    }
}

impl Monoid for Tally {
    fn zero() -> Self {
        Tally::default()
    }
}

impl Abelian for Tally {
    fn negate(&mut self) {
        self.event_count = -self.event_count;
    }
}
