//! Tells an operator which epochs have ended for it.
//!
//! In: the orders and the operator's frontier. Out: each epoch once, in ascending order, when it is over: a tick has opened it
//! and the frontier has passed it. State: the next epoch to end. After [`Order::Stop`] no epoch ends any more, because the epoch
//! that is open then was never closed. Restart: begins with the first tick.

use std::ops::Range;

use timely::progress::frontier::MutableAntichain;

use super::protocol::Order;
use crate::model::Epoch;

/// The epochs that have ended: those that a tick opened and the frontier has passed.
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
