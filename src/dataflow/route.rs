//! Decides which lane publishes a record for each of its windows: its route.
//!
//! In: a record's epoch, `ingested_at` and event time; for each lane, the epochs whose rows it still wants; for a replay, what is
//! in its range. Out: for each dimension a [`Route`], four bits per granularity, which travels in the key of the record's
//! updates. Time: a record is late for a minute, hour or day if `ingested_at ≥ window_end + grace`, and is then published in the
//! late lane. After a start, a row of the archive goes only to lanes that have not absorbed its epoch. In a replay, a row counts
//! if its lane had absorbed its epoch in the version that is compared; apart from that, it makes no difference whether it is
//! late. Pure: no state.

use std::collections::HashSet;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use crate::job::Logic;
use crate::model::{Epoch, Granularity, Lane, Target, TimeUs, Zone, covers};

/// Number of granularities that a route can name.
const GRANULARITIES: usize = Granularity::ALL.len();

/// The four bits of a granularity for which nothing wants the record.
const NONE: u32 = 0xf;

/// What wants the record, for each granularity of a dimension; four bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route(u32);

impl Route {
    /// The route of a record that nothing wants.
    const NOWHERE: Route = Route(u32::MAX);

    fn with(self, granularity: Granularity, target: Target) -> Route {
        let shift = 4 * granularity as u32;
        Route((self.0 & !(NONE << shift)) | (u32::from(target.number()) << shift))
    }

    /// What wants the record for its window of a granularity, if anything does.
    pub fn target(self, granularity: Granularity) -> Option<Target> {
        Target::of_number(((self.0 >> (4 * granularity as u32)) & NONE) as u8)
    }

    /// Whether something wants the record for its week, month or year; these are sent as days.
    pub fn coarse(self) -> bool {
        [Granularity::Week, Granularity::Month, Granularity::Year].iter().any(|longer| self.target(*longer).is_some())
    }

    /// The finest of minute, hour and day that is wanted, from `from` on.
    pub fn next(self, from: Granularity) -> Option<Granularity> {
        let wanted =
            |granularity| self.target(granularity).is_some() || (granularity == Granularity::Day && self.coarse());
        Granularity::ALL[from as usize..].iter().copied().find(|&granularity| wanted(granularity))
    }

    /// The route in a replay: late and on-time records are joined, and a day that is wanted both for itself and for weeks, months
    /// or years makes one update, for [`Target::DaysOfBoth`].
    fn joined(self) -> Route {
        let wanted = |granularity: &Granularity| self.target(*granularity).is_some();
        let both = wanted(&Granularity::Day) && self.coarse();
        Granularity::ALL.into_iter().filter(wanted).fold(Route::NOWHERE, |joined, granularity| {
            match granularity.lane() {
                Lane::Day if both => joined.with(granularity, Target::DaysOfBoth),
                Lane::Coarse if both => joined,
                lane => joined.with(granularity, Target::Lane(lane)),
            }
        })
    }

    /// The route as bytes in a key.
    pub fn to_bytes(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }

    /// The route from its bytes in a key.
    pub fn from_bytes(bytes: [u8; 4]) -> Route {
        Route(u32::from_be_bytes(bytes))
    }
}

/// Decides which lanes want a record.
#[derive(Clone, Debug)]
pub struct Router {
    graces_us: [TimeUs; GRANULARITIES],
    /// For each lane of [`Lane::ALL`], the epochs whose rows it wants.
    wanted: [RangeInclusive<Epoch>; Lane::ALL.len()],
    scope: Option<Arc<Scope>>,
}

/// Which rows are counted, if not all of them are.
#[derive(Debug)]
pub struct Scope {
    /// Ranges of event time, ascending, that do not touch.
    pub coverage: Vec<Range<TimeUs>>,
    /// Customers; `None` for all.
    pub customers: Option<HashSet<Box<[u8]>>>,
}

impl Scope {
    /// Whether an event time is counted.
    pub fn covers(&self, time: TimeUs) -> bool {
        covers(&self.coverage, time)
    }

    /// Whether a customer is counted.
    pub fn holds(&self, customer: &[u8]) -> bool {
        self.customers.as_ref().is_none_or(|customers| customers.contains(customer))
    }
}

/// The lanes of one record, and whether they were decided for a replay, which does not publish by lane.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    lanes: [Option<Lane>; GRANULARITIES],
    of_replay: bool,
}

impl Router {
    /// The router of a live job. `absorbed`: the epoch of each lane of [`Lane::ALL`] at the start; the lane has the rows up to it
    /// already.
    pub fn new(logic: &Logic, absorbed: [Epoch; Lane::ALL.len()]) -> Router {
        Router {
            graces_us: Granularity::ALL.map(|granularity| logic.grace_us(granularity)),
            wanted: absorbed.map(|absorbed| absorbed + 1..=Epoch::MAX),
            scope: None,
        }
    }

    /// The router of a recount: it takes what lanes at `published` have, that is, the rows up to these epochs that are in
    /// `scope`.
    pub fn of_published(logic: &Logic, published: [Epoch; Lane::ALL.len()], scope: Arc<Scope>) -> Router {
        let wanted = published.map(|published| 1..=published);
        Router { wanted, scope: Some(scope), ..Router::new(logic, published) }
    }

    /// Whether a customer is counted.
    pub fn holds(&self, customer: &[u8]) -> bool {
        self.scope.as_ref().is_none_or(|scope| scope.holds(customer))
    }

    /// The lanes of a record: for each window the lane of records on time or the late lane, if that lane wants rows of this
    /// epoch.
    pub fn lanes(&self, epoch: Epoch, ingested_at: TimeUs, event_time: TimeUs) -> Lanes {
        let of_replay = self.scope.is_some();
        if self.scope.as_ref().is_some_and(|scope| !scope.covers(event_time)) {
            return Lanes { lanes: [None; GRANULARITIES], of_replay };
        }
        let lanes = Granularity::ALL.map(|granularity| {
            let own = granularity.lane();
            let late = || {
                let end = granularity.window_end(granularity.window_start(event_time, Zone::Utc), Zone::Utc);
                ingested_at >= end + self.graces_us[granularity as usize]
            };
            let lane = if own != Lane::Coarse && late() { Lane::Late } else { own };
            self.wanted[lane as usize].contains(&epoch).then_some(lane)
        });
        Lanes { lanes, of_replay }
    }
}

impl Lanes {
    /// Whether any lane wants the record for its window of this granularity.
    pub fn want(&self, granularity: Granularity) -> bool {
        self.lanes[granularity as usize].is_some()
    }

    /// The route over a dimension's granularities; `None` if no lane wants the record.
    pub fn route(&self, granularities: &[Granularity]) -> Option<Route> {
        let mut route = Route::NOWHERE;
        for &granularity in granularities {
            if let Some(lane) = self.lanes[granularity as usize] {
                route = route.with(granularity, Target::Lane(lane));
            }
        }
        (route != Route::NOWHERE).then(|| if self.of_replay { route.joined() } else { route })
    }
}
