//! The differences of windows that are only partly in range: the difference of the part that is.
//!
//! In: changes of base windows, one granularity after the other, the finest first. Out: for each longer granularity, and each of its
//! windows that the range cuts, the sum of the changes inside it, in order. Where the replay's logic no longer counts the granularity, all
//! that the part had counted is subtracted. State: the sums of one customer and dimension; finished sums go to disk when they become many.
//! Failure: full scratch space is an error.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::spool::Spool;
use crate::model::{Cell, CellParts, Granularity, TimeUs, Zone};
use crate::replay::count::sorted::SortedCells;
use crate::replay::request::coverage::{Lies, lies};
use crate::replay::request::shape::RangeShape;
use crate::table::TableError;

/// Differences of the parts of longer windows.
pub(super) struct PartDifferences<'a> {
    shape: &'a RangeShape,
    coverage: &'a [Range<TimeUs>],
    /// Whether some longer windows lose the count of their whole part, whether or not it changed.
    pub(super) takes_out: bool,
    /// Finished sums by granularity: one sequence for each granularity of the base windows.
    spools: BTreeMap<Granularity, Vec<Spool>>,
    /// Sums of the current granularity of base windows.
    growing: BTreeMap<Granularity, Spool>,
    /// Sums of the current customer and dimension, by granularity and cell.
    sums: BTreeMap<(Granularity, Vec<u8>), i64>,
    head: Vec<u8>,
    /// By granularity and start of a base window: the start of the longer window around it, if that is partly in range.
    partly: HashMap<(Granularity, TimeUs), Option<TimeUs>, foldhash::fast::FixedState>,
}

impl<'a> PartDifferences<'a> {
    /// Starts without any change.
    pub(super) fn new(shape: &'a RangeShape, coverage: &'a [Range<TimeUs>]) -> PartDifferences<'a> {
        let parts = || shape.dimensions.values().flat_map(|shape| &shape.parts);
        let takes_out = parts().any(|part| !part.is_counted);
        PartDifferences {
            shape,
            coverage,
            takes_out,
            spools: BTreeMap::new(),
            growing: BTreeMap::new(),
            sums: BTreeMap::new(),
            head: Vec::new(),
            partly: HashMap::default(),
        }
    }

    /// Adds a change of a cell. If its window is a base window, its difference is added to the longer windows that are partly in range.
    ///
    /// # Errors
    /// [`TableError`] when scratch space fails.
    pub(super) fn add(
        &mut self,
        granularity: Granularity,
        cell: CellParts<'_>,
        was: i64,
        is: i64,
    ) -> Result<(), TableError> {
        let dimension = std::str::from_utf8(cell.dimension).unwrap_or_default();
        let Some(shape) = self.shape.dimensions.get(dimension).filter(|shape| shape.base == granularity) else {
            return Ok(());
        };
        if self.head != cell.head {
            self.end_head()?;
            cell.head.clone_into(&mut self.head);
        }
        for part in &shape.parts {
            let partly = self.partly.entry((part.granularity, cell.window_start)).or_insert_with(|| {
                let start = part.granularity.window_start(cell.window_start, Zone::Utc);
                (lies(self.coverage, part.granularity, start) == Lies::Partly).then_some(start)
            });
            if let Some(start) = *partly {
                let mut longer = cell.head.to_vec();
                Cell::encode_tail(start, cell.value, &mut longer);
                *self.sums.entry((part.granularity, longer)).or_default() +=
                    if part.is_counted { is - was } else { -was };
            }
        }
        Ok(())
    }

    fn end_head(&mut self) -> Result<(), TableError> {
        for ((granularity, cell), difference) in std::mem::take(&mut self.sums) {
            if difference != 0 {
                self.growing.entry(granularity).or_default().push(&cell, difference)?;
            }
        }
        Ok(())
    }

    /// Ends the current granularity.
    ///
    /// # Errors
    /// [`TableError`] when scratch space fails.
    pub(super) fn flush(&mut self) -> Result<(), TableError> {
        self.end_head()?;
        self.head.clear();
        for (granularity, spool) in std::mem::take(&mut self.growing) {
            self.spools.entry(granularity).or_default().push(spool);
        }
        Ok(())
    }

    /// The sums for a granularity.
    ///
    /// # Errors
    /// [`TableError`] when scratch space fails.
    pub(super) fn take(&mut self, granularity: Granularity) -> Result<Vec<Box<dyn SortedCells>>, TableError> {
        let spools = self.spools.remove(&granularity).unwrap_or_default();
        spools.into_iter().map(|spool| Ok(Box::new(spool.read()?) as Box<dyn SortedCells>)).collect()
    }
}
