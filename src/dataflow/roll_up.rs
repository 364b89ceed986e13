//! `roll_up`: updates at the finest granularity to updates of every granularity, keyed by lane and segment.
//!
//! In: updates, exchanged by bucket. Out: differential's triples `(key, epoch, tally)`; key: lane, granularity, bucket, cell. The
//! finest go on as they come; hours and days are summed in a hash map first and leave when the epoch's frontier has passed. So an
//! event is looked at once, and a day costs what its cells cost. The coarse lane gets days, for all its granularities. State: one
//! map per open epoch, of hour and day cells.

use std::collections::BTreeMap;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::operator::Operator;

use super::combine::Update;
use super::tally_map::TallyMap;
use crate::job::Dimension;
use crate::model::{Cell, CellParts, Epoch, Granularity, Lane, Tally, Zone};

/// A map of more bytes of keys is sent before its epoch ends.
const MAP_BYTES_MAX: usize = 64 << 20;

/// A triple as differential's batcher takes it: key of an update, no value, epoch, tally.
pub type Triple = ((Vec<u8>, ()), Epoch, Tally);

/// Builds the operator.
pub fn roll_up<'scope>(
    updates: StreamVec<'scope, Epoch, Update>,
    dimensions: Vec<Dimension>,
) -> StreamVec<'scope, Epoch, Triple> {
    let by_bucket = Exchange::new(|update: &Update| u64::from(update.bucket()));
    updates.unary_frontier(by_bucket, "roll_up", move |_capability, _info| {
        let mut open: BTreeMap<Epoch, (Capability<Epoch>, TallyMap)> = BTreeMap::new();
        let mut key = Vec::new();
        move |(input, frontier), output| {
            let _span = tracing::trace_span!("roll_up").entered();
            input.for_each(|capability, updates| {
                let epoch = *capability.time();
                let (held, coarser) = open.entry(epoch).or_insert_with(|| (capability.retain(0), TallyMap::default()));
                {
                    let mut session = output.session(held);
                    for update in updates.drain(..) {
                        let (route, cell) = update.route_and_cell();
                        let cell = CellParts::of(cell).expect("combine wrote the bytes of a cell");
                        let dimension = dimensions
                            .iter()
                            .find(|dimension| dimension.name.as_bytes() == cell.dimension)
                            .expect("combine knows the same dimensions");
                        let mut write = |lane, granularity: Granularity, coarser: Option<&mut TallyMap>| {
                            key.clear();
                            Cell::encode_head(lane, granularity, update.bucket(), &mut key);
                            key.extend_from_slice(cell.head);
                            let start = granularity.window_start(cell.window_start, Zone::Utc);
                            Cell::encode_tail(start, cell.value, &mut key);
                            match coarser {
                                Some(coarser) => coarser.add(&key, update.tally),
                                None => session.give(((key.clone(), ()), epoch, update.tally)),
                            }
                        };
                        let (fine, coarse) = split(&dimension.granularities);
                        for (index, &granularity) in fine.iter().enumerate() {
                            let Some(lane) = route.lane(granularity) else { continue };
                            write(lane, granularity, if index == 0 { None } else { Some(coarser) });
                        }
                        // Weeks, months and years are made from days when they are published: here they are one update.
                        if coarse.first().is_some_and(|granularity| route.lane(*granularity).is_some()) {
                            write(Lane::Coarse, Granularity::Day, Some(coarser));
                        }
                    }
                }
                if coarser.bytes() > MAP_BYTES_MAX {
                    let map = std::mem::take(coarser);
                    let triples = map.iter().map(|(key, tally)| ((key.to_vec(), ()), epoch, tally));
                    output.session(held).give_iterator(triples);
                }
            });
            while let Some(entry) = open.first_entry() {
                if frontier.less_equal(entry.key()) {
                    break;
                }
                let (epoch, (capability, map)) = entry.remove_entry();
                let triples = map.iter().map(|(key, tally)| ((key.to_vec(), ()), epoch, tally));
                output.session(&capability).give_iterator(triples);
            }
        }
    })
}

/// Granularities up to a day, and longer ones.
fn split(granularities: &[Granularity]) -> (&[Granularity], &[Granularity]) {
    granularities.split_at(granularities.partition_point(|granularity| *granularity <= Granularity::Day))
}
