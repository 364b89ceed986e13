//! `roll_up`: turns updates at the finest granularity into updates of every granularity, keyed by lane and segment.
//!
//! In: updates, exchanged by bucket. Out: differential's triples `(key, epoch, tally)`, where the key is lane, granularity,
//! bucket and cell. The coarse lane gets days, for all its granularities. Time: updates of the finest granularity pass through as
//! they come. Hours are summed from them in a hash map, and days from hours; these leave when the frontier has passed the epoch,
//! or sooner when the maps have grown large. So each event is handled once, and a day costs as much as its hours. State: two maps
//! per open epoch, of hours and of days, bounded by [`MAP_BYTES_MAX`]. Restart: the events are fed again.

use std::collections::BTreeMap;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::operator::Operator;

use super::combine::Update;
use super::tally_map::TallyMap;
use crate::model::{Cell, CellParts, Epoch, Granularity, Key, Lane, Tally, Target, Zone};

/// The maps are sent before their keys would exceed this many bytes, even if their epoch has not ended.
const MAP_BYTES_MAX: usize = 32 << 20;

/// A triple as differential's batcher takes it: key of an update, no value, epoch, tally.
pub type Triple = ((Key, ()), Epoch, Tally);

/// Builds the operator.
pub fn roll_up<'scope>(updates: StreamVec<'scope, Epoch, Update>) -> StreamVec<'scope, Epoch, Triple> {
    let by_bucket = Exchange::new(|update: &Update| u64::from(Update::parts(&update.key).0));
    updates.unary_frontier(by_bucket, "roll_up", move |_capability, _info| {
        let mut open: BTreeMap<Epoch, (Capability<Epoch>, Longer)> = BTreeMap::new();
        let mut key = Vec::new();
        move |(input, frontier), output| {
            let _span = tracing::trace_span!("roll_up").entered();
            input.for_each(|capability, updates| {
                let epoch = *capability.time();
                let (held, longer) = open.entry(epoch).or_insert_with(|| (capability.retain(0), Longer::default()));
                let mut session = output.session(held);
                let mut give = |key: &[u8], tally| session.give(((Key::from_slice(key), ()), epoch, tally));
                for update in updates.drain(..) {
                    if let Some(finest) = Update::parts(&update.key).1.next(Granularity::Minute) {
                        // Checked before each key: a customer may be as large as a record.
                        if longer.bytes() + update.key.len() > MAP_BYTES_MAX && !longer.is_empty() {
                            std::mem::take(longer).drain(&mut key, &mut give);
                        }
                        longer.add(finest, &update.key, update.tally, &mut key, &mut give);
                    }
                }
            });
            while let Some(entry) = open.first_entry() {
                if frontier.less_equal(entry.key()) {
                    break;
                }
                let (epoch, (capability, longer)) = entry.remove_entry();
                let mut session = output.session(&capability);
                longer.drain(&mut key, &mut |key, tally| session.give(((Key::from_slice(key), ()), epoch, tally)));
            }
        }
    })
}

/// Sums of longer windows, while they are being built; keys as in [`Update`].
#[derive(Default)]
struct Longer {
    hours: TallyMap,
    days: TallyMap,
}

impl Longer {
    /// Emits an update of a granularity for its lanes, and adds it to the next longer window that is wanted.
    fn add(
        &mut self,
        granularity: Granularity,
        key: &[u8],
        tally: Tally,
        scratch: &mut Vec<u8>,
        give: &mut impl FnMut(&[u8], Tally),
    ) {
        let (bucket, route, bytes) = Update::parts(key);
        let coarse = (granularity == Granularity::Day && route.coarse()).then_some(Target::Lane(Lane::Coarse));
        for target in route.target(granularity).into_iter().chain(coarse) {
            scratch.clear();
            Cell::encode_head(target, granularity, bucket, scratch);
            scratch.extend_from_slice(bytes);
            give(scratch, tally);
        }
        let (next, map) = match granularity {
            Granularity::Minute => match route.next(Granularity::Hour) {
                Some(Granularity::Hour) => (Granularity::Hour, &mut self.hours),
                Some(_) => (Granularity::Day, &mut self.days),
                None => return,
            },
            Granularity::Hour if route.next(Granularity::Day).is_some() => (Granularity::Day, &mut self.days),
            _ => return,
        };
        let cell = CellParts::of(bytes).expect("combine wrote the bytes of a cell");
        scratch.clear();
        scratch.extend_from_slice(&key[..key.len() - bytes.len()]);
        scratch.extend_from_slice(cell.head);
        Cell::encode_tail(next.window_start(cell.window_start, Zone::Utc), cell.value, scratch);
        map.add(scratch, tally);
    }

    /// Emits all sums, hours first: a day is complete only when all its hours were added.
    fn drain(mut self, scratch: &mut Vec<u8>, give: &mut impl FnMut(&[u8], Tally)) {
        for (key, tally) in std::mem::take(&mut self.hours).iter() {
            self.add(Granularity::Hour, key, tally, scratch, give);
        }
        for (key, tally) in std::mem::take(&mut self.days).iter() {
            self.add(Granularity::Day, key, tally, scratch, give);
        }
    }

    fn is_empty(&self) -> bool {
        self.hours.is_empty() && self.days.is_empty()
    }

    fn bytes(&self) -> usize {
        self.hours.bytes() + self.days.bytes()
    }
}
