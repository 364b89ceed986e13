//! `combine`: sums a worker's events to one update per cell and epoch, at the finest granularity that a lane wants of each
//! dimension.
//!
//! In: events. Out: updates, to be exchanged by bucket. So the exchange carries cells, not events, and one very large customer
//! does no harm. Time: an epoch's updates leave when the frontier has passed it, or sooner when the map has grown large. State:
//! one hash map per open epoch, bounded by [`MAP_BYTES_MAX`]. Restart: the events are fed again.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::operator::Operator;

use super::route::{Route, Router};
use super::tally_map::TallyMap;
use crate::job::Dimension;
use crate::model::{Cell, Epoch, Events, Granularity, Key, Tally, Zone, bucket_of};

/// A map is sent before its keys would exceed this many bytes, even if its epoch has not ended.
const MAP_BYTES_MAX: usize = 8 << 20;

/// Number of customers whose bucket is cached.
const BUCKETS_REMEMBERED: usize = 65_536;

/// What one worker sends another about a cell, at the finest granularity that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Update {
    /// Bucket (2 bytes, big-endian), route (4 bytes), then the bytes of the [`Cell`], which sort.
    pub key: Key,
    /// Its tally.
    pub tally: Tally,
}

impl Update {
    /// The bucket, the route and the cell's bytes in a key.
    pub fn parts(key: &[u8]) -> (u16, Route, &[u8]) {
        let (bucket, rest) = key.split_first_chunk::<2>().expect("combine wrote a bucket");
        let (route, cell) = rest.split_first_chunk::<4>().expect("combine wrote a route");
        (u16::from_be_bytes(*bucket), Route::from_bytes(*route), cell)
    }

    fn key(
        bucket: u16,
        route: Route,
        customer: &[u8],
        dimension: &[u8],
        window_start: i64,
        value: &[u8],
        out: &mut Vec<u8>,
    ) {
        out.clear();
        out.extend_from_slice(&bucket.to_be_bytes());
        out.extend_from_slice(&route.to_bytes());
        Cell::encode(customer, dimension, window_start, value, out);
    }
}

/// Builds the operator.
pub fn combine<'scope>(
    events: StreamVec<'scope, Epoch, Events>,
    dimensions: Vec<Dimension>,
    router: Router,
    buckets: u32,
) -> StreamVec<'scope, Epoch, Update> {
    events.unary_frontier(Pipeline, "combine", move |_capability, _info| {
        let mut open: BTreeMap<Epoch, (Capability<Epoch>, TallyMap)> = BTreeMap::new();
        let mut bucket_of_customer: HashMap<Box<[u8]>, u16, foldhash::fast::FixedState> = HashMap::default();
        let mut key = Vec::new();
        move |(input, frontier), output| {
            let _span = tracing::trace_span!("combine").entered();
            input.for_each(|capability, chunks| {
                let epoch = *capability.time();
                let (held, map) = open.entry(epoch).or_insert_with(|| (capability.retain(0), TallyMap::default()));
                for events in chunks.drain(..) {
                    for event in events.iter().filter(|event| router.holds(event.customer)) {
                        let bucket = match bucket_of_customer.get(event.customer) {
                            Some(bucket) => *bucket,
                            None => {
                                if bucket_of_customer.len() >= BUCKETS_REMEMBERED {
                                    bucket_of_customer.clear();
                                }
                                let bucket = bucket_of(event.customer, buckets);
                                bucket_of_customer.insert(event.customer.into(), bucket);
                                bucket
                            }
                        };
                        let lanes = router.lanes(event.epoch, event.ingested_at, event.event_time);
                        for (dimension, value) in dimensions.iter().zip(events.values(event)) {
                            let Some(route) = lanes.route(&dimension.granularities) else { continue };
                            let Some(finest) = route.next(Granularity::Minute) else { continue };
                            let start = finest.window_start(event.event_time, Zone::Utc);
                            Update::key(
                                bucket,
                                route,
                                event.customer,
                                dimension.name.as_bytes(),
                                start,
                                value,
                                &mut key,
                            );
                            // Checked before each key, not after the chunk: a customer may be as large as a record.
                            if map.bytes() + key.len() > MAP_BYTES_MAX && !map.is_empty() {
                                send(map, output.session(held));
                                map.clear();
                            }
                            map.add(&key, Tally::ONE);
                        }
                    }
                }
            });
            while let Some(entry) = open.first_entry() {
                if frontier.less_equal(entry.key()) {
                    break;
                }
                let (capability, map) = entry.remove();
                send(&map, output.session(&capability));
            }
        }
    })
}

type Session<'a, 'b> = timely::dataflow::operators::generic::Session<
    'a,
    'b,
    Epoch,
    timely::container::CapacityContainerBuilder<Vec<Update>>,
    Capability<Epoch>,
>;

fn send(map: &TallyMap, mut session: Session<'_, '_>) {
    for (key, tally) in map.iter() {
        session.give(Update { key: Key::from_slice(key), tally });
    }
}
