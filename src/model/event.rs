//! Events: decoded records that are to be counted, many to a chunk.
//!
//! In: the parts of each event, in the order of the records. Out: the events, borrowed. State: one chunk; its texts are in one
//! [`Arena`]. Pure.

use super::arena::{Arena, Span};
use super::time::{Epoch, TimeUs};

/// One decoded record that is to be counted. Borrowed from an [`Events`] chunk.
#[derive(Clone, Copy, Debug)]
pub struct EventRef<'a> {
    /// Epoch of the record in `raw`.
    pub epoch: Epoch,
    /// `ingested_at` of that epoch.
    pub ingested_at: TimeUs,
    /// When it happened.
    pub event_time: TimeUs,
    /// The customer that it belongs to.
    pub customer: &'a [u8],
    index: usize,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    epoch: Epoch,
    ingested_at: TimeUs,
    event_time: TimeUs,
    customer: Span,
}

/// A chunk of events, each with one value per dimension of the job.
#[derive(Clone, Debug, Default)]
pub struct Events {
    arena: Arena,
    items: Vec<Item>,
    values: Vec<Span>,
}

impl Events {
    /// Appends an event; every event of a chunk has the same number of values.
    pub fn push(&mut self, epoch: Epoch, ingested_at: TimeUs, event_time: TimeUs, customer: &str, values: &[String]) {
        let customer = self.arena.push(customer.as_bytes());
        self.items.push(Item { epoch, ingested_at, event_time, customer });
        for value in values {
            let span = self.arena.push(value.as_bytes());
            self.values.push(span);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// All events in order.
    pub fn iter(&self) -> impl Iterator<Item = EventRef<'_>> {
        self.items.iter().enumerate().map(|(index, item)| EventRef {
            epoch: item.epoch,
            ingested_at: item.ingested_at,
            event_time: item.event_time,
            customer: self.arena.get(item.customer),
            index,
        })
    }

    /// The values of an event, one per dimension of the job, in its order.
    pub fn values(&self, event: EventRef<'_>) -> impl Iterator<Item = &[u8]> {
        let count = self.values.len() / self.items.len().max(1);
        self.values[event.index * count..(event.index + 1) * count].iter().map(|span| self.arena.get(*span))
    }
}
