//! `backlog`: decides how the archive is fed after a start, so that the resulting updates stay within the pending budget.
//!
//! In: the epochs to feed, with their numbers of rows; the bytes that workers hold pending; which orders were carried out. Out:
//! the next order ([`Next`]): feed some epochs, or publish what was fed. If everything fits, it is all fed at once, while Kafka
//! is read. If not, Kafka is not read yet: the oldest epochs are fed and published, portion by portion, until the rest fits.
//! Time: one order at a time; the next one is given when an epoch has ended after it.
//!
//! Whether epochs fit is an estimate. A row is assumed to make at most twice the bytes that earlier rows made in the same lane,
//! or, before that was measured, all the updates that it can make. A publish costs much the same for few updates as for many, so
//! a portion is published only when more than half of the budget is used; below that, one more epoch is fed even if it may not
//! fit. So workers hold at most the budget, or half of it plus one epoch. (The caller sets no bound if the budget is at least
//! that of the previous job, which held all of this in memory: `counts::feed_bytes_max`.)
//!
//! State: the epochs that are left, and the measurements. Restart: begins again from the tables. No I/O.

use std::collections::VecDeque;

use crate::job::Dimension;
use crate::model::{Epoch, Granularity, Lane};

const LANES: usize = Lane::ALL.len();

/// Assumed size of an update of a row that shares its cells with no other row; 50 to 80 bytes were measured with the example
/// jobs.
const UPDATE_BYTES: u64 = 128;

/// A lane is measured by at least this many rows.
const SAMPLE_ROWS: u64 = 1000;

/// The rows of the archive that are still to be fed.
pub struct Backlog {
    /// Epochs to feed, ascending, with their numbers of rows.
    epochs: VecDeque<(Epoch, u64)>,
    /// The epoch of each lane at the start.
    absorbed: [Epoch; LANES],
    /// For each lane, the most bytes of updates that a row can make.
    row_bytes: [u64; LANES],
    budget_bytes: u64,
    /// All rows up to this epoch were fed.
    fed_up_to: Epoch,
    newest: Epoch,
    /// For each lane, the rows that it was fed since it was last published.
    rows: [u64; LANES],
    /// For each lane, bytes of updates and the number of rows that made them.
    measured: [Option<(u64, u64)>; LANES],
    step: Step,
}

/// The state of the feeding.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// No order is under way. What workers hold is known when the epoch `open` has ended.
    Between { open: Epoch },
    /// A portion is being fed; `workers` workers have all of it, the last of them since the epoch `open`.
    Feeds { workers: usize, open: Epoch },
    /// What was fed is being published.
    Publishes,
    /// The rest is being fed, or was fed.
    Rest,
}

/// The next order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Feed the rows of epochs `after + 1 ..= up_to`.
    Feed {
        /// All epochs up to it were fed.
        after: Epoch,
        /// The last epoch of the portion.
        up_to: Epoch,
        /// Whether this is all that is left; Kafka is then read at the same time.
        is_rest: bool,
    },
    /// Publish what was fed before feeding more.
    Publish {
        /// The epoch of the archive up to which all rows were fed.
        up_to: Epoch,
    },
}

impl Backlog {
    /// The backlog at a start. `epochs`: ascending, with their numbers of rows; `absorbed`: the epoch of each lane in `counts`;
    /// `newest`: the newest epoch of `raw`.
    pub fn new(
        epochs: impl IntoIterator<Item = (Epoch, u64)>,
        absorbed: [Epoch; LANES],
        newest: Epoch,
        dimensions: &[Dimension],
        budget_bytes: u64,
    ) -> Backlog {
        let granularities = || dimensions.iter().flat_map(|dimension| &dimension.granularities);
        let can_be_in = |lane: Lane, granularity: &Granularity| match granularity.lane() {
            own if own == lane => true,
            own => lane == Lane::Late && own != Lane::Coarse,
        };
        Backlog {
            epochs: epochs.into_iter().collect(),
            absorbed,
            row_bytes: Lane::ALL.map(|lane| {
                UPDATE_BYTES * granularities().filter(|granularity| can_be_in(lane, granularity)).count() as u64
            }),
            budget_bytes,
            fed_up_to: absorbed.into_iter().min().unwrap_or(0),
            newest,
            rows: [0; LANES],
            measured: [None; LANES],
            step: Step::Between { open: 0 },
        }
    }

    /// Whether all that is left was ordered; Kafka is then read at the same time.
    pub fn is_rest(&self) -> bool {
        self.step == Step::Rest
    }

    /// Notes that one of `workers` workers was fed all of the portion, in epochs up to `open`. Once all workers were, returns the
    /// epoch that must end before the next order.
    pub fn fed(&mut self, workers: usize, open: Epoch) -> Option<Epoch> {
        let Step::Feeds { workers: fed, open: last } = self.step else { return None };
        let (fed, open) = (fed + 1, open.max(last));
        let is_fed = fed == workers;
        self.step = if is_fed { Step::Between { open } } else { Step::Feeds { workers: fed, open } };
        is_fed.then_some(open)
    }

    /// Notes that a publish was committed while the epoch `open` was open. Returns whether it was the publish of what was fed.
    pub fn published(&mut self, open: Epoch) -> bool {
        let is_ours = self.step == Step::Publishes;
        if is_ours {
            // Workers report what they hold now only at the end of the epoch in which they learned of the commit.
            self.step = Step::Between { open };
        }
        is_ours
    }

    /// Rows that are still to be fed.
    pub fn rows(&self) -> u64 {
        self.epochs.iter().map(|(_, rows)| rows).sum()
    }

    /// The next order while the epoch `open` is open; `None` while an order is under way. `pending`: the bytes that workers hold
    /// in each lane, of all epochs before it.
    pub fn next(&mut self, open: Epoch, pending: [u64; LANES]) -> Option<Next> {
        if !matches!(self.step, Step::Between { open: last } if last < open) {
            return None;
        }
        for (lane, bytes) in pending.into_iter().enumerate() {
            if self.rows[lane] >= SAMPLE_ROWS {
                self.measured[lane] = Some((bytes, self.rows[lane]));
            }
        }
        let held: u64 = pending.iter().sum();
        let room = self.budget_bytes.saturating_sub(held);
        let mut wanted = 0;
        let fit = (self.epochs.iter())
            .take_while(|(epoch, rows)| {
                wanted += self.bytes_of(*epoch, *rows);
                wanted <= u128::from(room)
            })
            .count();
        if fit == 0 && held > self.budget_bytes / 2 && !self.epochs.is_empty() {
            self.rows = [0; LANES];
            self.step = Step::Publishes;
            return Some(Next::Publish { up_to: self.fed_up_to });
        }
        // An epoch that alone exceeds the budget is still fed whole: a lane is at an epoch, never in the middle of one.
        let portion = fit.max(1).min(self.epochs.len());
        let is_rest = portion == self.epochs.len();
        let after = self.fed_up_to;
        for (epoch, rows) in self.epochs.drain(..portion) {
            self.fed_up_to = epoch;
            (0..LANES).filter(|lane| epoch > self.absorbed[*lane]).for_each(|lane| self.rows[lane] += rows);
        }
        if is_rest {
            self.fed_up_to = self.newest;
        }
        self.step = if is_rest { Step::Rest } else { Step::Feeds { workers: 0, open: 0 } };
        Some(Next::Feed { after, up_to: self.fed_up_to, is_rest })
    }

    /// The most bytes of updates that rows of an epoch are assumed to make.
    fn bytes_of(&self, epoch: Epoch, rows: u64) -> u128 {
        let rows = u128::from(rows);
        let of_lane = |lane: usize| {
            let most = rows * u128::from(self.row_bytes[lane]);
            match self.measured[lane] {
                Some((bytes, of_rows)) => most.min(rows * 2 * u128::from(bytes) / u128::from(of_rows)),
                None => most,
            }
        };
        (0..LANES).filter(|lane| epoch > self.absorbed[*lane]).map(of_lane).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten epochs of `rows` rows each; the minute lane has absorbed all but the last one. A row makes at most five updates.
    fn backlog(rows: u64, budget_bytes: u64) -> Backlog {
        let granularities = vec![Granularity::Minute, Granularity::Hour, Granularity::Week];
        let dimensions = [Dimension { name: "total".to_owned(), field: None, granularities }];
        Backlog::new((11..=20).map(|epoch| (epoch, rows)), [19, 10, 10, 10, 10], 25, &dimensions, budget_bytes)
    }

    fn feed(after: Epoch, up_to: Epoch) -> Next {
        Next::Feed { after, up_to, is_rest: false }
    }

    fn rest(after: Epoch) -> Next {
        Next::Feed { after, up_to: 25, is_rest: true }
    }

    /// The next order, once the previous one was carried out.
    fn next(backlog: &mut Backlog, pending: [u64; LANES]) -> Next {
        backlog.fed(1, 0);
        backlog.published(0);
        backlog.next(Epoch::MAX, pending).expect("nothing is under way")
    }

    #[test]
    fn what_fits_is_fed_at_once() {
        // Each row may make one hour, one week and two late updates; in the last epoch a minute update too.
        let all = 100 * (9 * 4 + 5) * UPDATE_BYTES;
        assert_eq!(next(&mut backlog(100, all), [0; LANES]), rest(10));
        assert_eq!(next(&mut backlog(100, all - 1), [0; LANES]), feed(10, 19));
        let mut nothing = Backlog::new([], [25; LANES], 25, &[], 0);
        assert_eq!((nothing.rows(), next(&mut nothing, [0; LANES])), (0, rest(25)));
    }

    #[test]
    fn what_does_not_fit_is_fed_and_published_in_turns() {
        let mut backlog = backlog(100, 250 * 4 * UPDATE_BYTES);
        let row = 4 * UPDATE_BYTES;
        assert_eq!((backlog.rows(), next(&mut backlog, [0; LANES])), (1000, feed(10, 12)));
        // These rows made half of what they could, so there is room for one more epoch.
        assert_eq!(next(&mut backlog, [0, 50 * row, 0, 0, 50 * row]), feed(12, 13));
        assert_eq!(next(&mut backlog, [0, 80 * row, 0, 0, 80 * row]), Next::Publish { up_to: 13 });
        assert_eq!(next(&mut backlog, [0; LANES]), feed(13, 15));
    }

    #[test]
    fn half_a_budget_is_not_published() {
        let row = 4 * UPDATE_BYTES;
        let mut backlog = backlog(100, 150 * row);
        assert_eq!(next(&mut backlog, [0; LANES]), feed(10, 11));
        assert_eq!(next(&mut backlog, [0, 75 * row, 0, 0, 0]), feed(11, 12));
        assert_eq!(next(&mut backlog, [0, 75 * row, 0, 0, 1]), Next::Publish { up_to: 12 });
    }

    #[test]
    fn what_rows_make_is_measured_lane_by_lane() {
        let mut backlog = backlog(1000, 1000 * 4 * UPDATE_BYTES);
        assert_eq!(next(&mut backlog, [0; LANES]), feed(10, 11));
        // These rows made 80 bytes each, so 160 are assumed for the next ones. The more rows share cells, the more of them fit.
        assert_eq!(next(&mut backlog, [0, 40_000, 0, 0, 40_000]), feed(11, 13));
        assert_eq!(next(&mut backlog, [0, 50_000, 0, 0, 50_000]), feed(13, 19));
        // Nothing was measured yet for the minute lane.
        assert_eq!(next(&mut backlog, [0, 60_000, 0, 0, 60_000]), rest(19));
    }

    #[test]
    fn an_epoch_alone_may_exceed_the_budget() {
        let mut backlog = backlog(1000, 0);
        for epoch in 11..=20 {
            let expected = if epoch == 20 { rest(19) } else { feed(epoch - 1, epoch) };
            assert_eq!(next(&mut backlog, [0; LANES]), expected);
            if epoch < 20 {
                assert_eq!(next(&mut backlog, [0, 7, 0, 0, 0]), Next::Publish { up_to: epoch });
            }
        }
    }

    #[test]
    fn one_order_is_carried_out_before_the_next() {
        let pending = [0, 7, 0, 0, 0];
        let mut backlog = backlog(1000, 0);
        assert_eq!(backlog.next(26, [0; LANES]), Some(feed(10, 11)));
        assert_eq!((backlog.fed(2, 27), backlog.next(28, pending)), (None, None), "the other worker");
        assert!(!backlog.published(28), "a publish of something else");
        assert_eq!((backlog.fed(2, 26), backlog.next(27, pending)), (Some(27), None), "before the epoch's end");
        assert_eq!(backlog.next(28, pending), Some(Next::Publish { up_to: 11 }));
        assert_eq!(backlog.next(29, pending), None, "before the commit");
        assert!(backlog.published(29) && backlog.next(29, [0; LANES]).is_none() && !backlog.is_rest());
        while !backlog.is_rest() {
            next(&mut backlog, [0; LANES]);
        }
        assert_eq!((backlog.fed(2, 30), backlog.published(30), backlog.next(31, pending)), (None, false, None));
    }
}
