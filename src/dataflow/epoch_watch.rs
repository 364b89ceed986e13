//! Which epochs have ended for an operator.
//!
//! In: the orders and the operator's frontier. Out: each epoch once, when it is over: a tick has closed the one before it, and the
//! frontier has passed it. State: the next epoch to end. After [`Order::Stop`] no epoch ends: what is open then was never closed.

use std::ops::Range;

use timely::progress::frontier::MutableAntichain;

use super::protocol::Order;
use crate::model::Epoch;

/// Which epochs have ended: those that a tick opened and the frontier has passed.
#[derive(Debug, Default)]
pub(super) struct EpochWatch {
    next: Option<Epoch>,
    stopped: bool,
}

impl EpochWatch {
    pub(super) fn see(&mut self, order: &Order) {
        match order {
            Order::Tick { closed, .. } => {
                self.next.get_or_insert(closed + 1);
            }
            Order::Stop => self.stopped = true,
            _ => {}
        }
    }

    pub(super) fn passed(&mut self, frontier: &MutableAntichain<Epoch>) -> Range<Epoch> {
        match (self.next, frontier.frontier().first()) {
            (Some(next), Some(&open)) if !self.stopped && open > next => {
                self.next = Some(open);
                next..open
            }
            _ => 0..0,
        }
    }
}
