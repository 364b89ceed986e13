//! Sums days into weeks, months or years.
//!
//! In: recounted days, in the order of cells. Out: the longer windows that contain them, in order, each the sum of its days. This works one
//! customer and dimension at a time: their days are consecutive, and so are their longer windows. State: the sums of one customer and
//! dimension. Failure: an input that can not be read ends the sequence.

use crate::dataflow::tally_map::TallyMap;
use crate::model::{Cell, CellParts, Granularity, Tally, Zone};
use crate::replay::count::sorted::SortedCells;
use crate::table::TableError;

/// Weeks, months or years as sums of days, for one customer and dimension at a time.
pub(super) struct LongerWindows<'a> {
    granularity: Granularity,
    dimensions: Vec<&'a [u8]>,
    days: Box<dyn SortedCells + 'a>,
    head: Vec<u8>,
    sums: TallyMap,
    /// Indices into `sums`, ordered by key.
    order: Vec<usize>,
    at: usize,
}

impl<'a> LongerWindows<'a> {
    /// Sums only these dimensions.
    ///
    /// # Errors
    /// As [`SortedCells::advance`].
    pub(super) fn of(
        granularity: Granularity,
        dimensions: Vec<&'a [u8]>,
        days: Box<dyn SortedCells + 'a>,
    ) -> Result<LongerWindows<'a>, TableError> {
        let (head, sums, order) = (Vec::new(), TallyMap::default(), Vec::new());
        let mut longer = LongerWindows { granularity, dimensions, days, head, sums, order, at: 0 };
        longer.advance()?;
        Ok(longer)
    }
}

impl SortedCells for LongerWindows<'_> {
    fn cell(&self) -> Option<&[u8]> {
        self.order.get(self.at).map(|at| self.sums.entry(*at).0)
    }

    fn count(&self) -> i64 {
        self.order.get(self.at).map_or(0, |at| self.sums.entry(*at).1.event_count)
    }

    fn advance(&mut self) -> Result<(), TableError> {
        self.at += 1;
        let mut longer = Vec::new();
        while self.at >= self.order.len() && self.days.cell().is_some() {
            self.head.clear();
            self.sums.clear();
            while let Some(day) = self.days.cell() {
                let parts = CellParts::of(day).expect("a cell's bytes");
                if self.head.is_empty() {
                    self.head.extend_from_slice(parts.head);
                } else if self.head != parts.head {
                    break;
                }
                if self.dimensions.contains(&parts.dimension) {
                    longer.clear();
                    longer.extend_from_slice(parts.head);
                    let start = self.granularity.window_start(parts.window_start, Zone::Utc);
                    Cell::encode_tail(start, parts.value, &mut longer);
                    self.sums.add(&longer, Tally { event_count: self.days.count() });
                }
                self.days.advance()?;
            }
            self.order.clear();
            self.order.extend(0..self.sums.len());
            let sums = &self.sums;
            self.order.sort_unstable_by_key(|at| sums.entry(*at).0);
            self.at = 0;
        }
        Ok(())
    }
}
