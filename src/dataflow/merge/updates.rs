//! The updates that go into one segment, in file order.
//!
//! In: parts of sorted runs. Out: cell and tally, where tallies of equal cells are summed and sums of zero are left out. Ordering: by
//! the cell's bytes, as in the file. State: a position in each part; for weeks, months and years a run with their sums. Pure.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use differential_dataflow::difference::{IsZero, Semigroup};

use crate::dataflow::plan::Part;
use crate::dataflow::run::Run;
use crate::dataflow::tally_map::TallyMap;
use crate::model::{Cell, CellParts, Granularity, Tally, Zone};

/// Turns updates of day windows into updates of the longer windows that contain them, sorted. Updates of such longer windows stay
/// as they are.
pub(super) fn widen(granularity: Granularity, parts: &[Part]) -> Part {
    let mut sums = TallyMap::default();
    let mut key = Vec::new();
    for part in parts {
        for &index in &part.indices {
            let cell = CellParts::of(part.run.cell(index as usize)).expect("roll_up wrote the bytes of a cell");
            key.clear();
            key.extend_from_slice(&Run::HEAD);
            key.extend_from_slice(cell.head);
            Cell::encode_tail(granularity.window_start(cell.window_start, Zone::Utc), cell.value, &mut key);
            sums.add(&key, part.run.tally(index as usize));
        }
    }
    let mut cells: Vec<_> = sums.iter().collect();
    cells.sort_unstable_by_key(|(key, _)| *key);
    let mut run = Run::default();
    cells.into_iter().for_each(|(key, tally)| run.push(key, tally));
    let indices = (0..run.len() as u32).collect();
    Part { run: Arc::new(run), indices }
}

/// Several sorted parts, read as one: tallies of equal cells are summed, and sums of zero are left out.
pub(super) struct Updates<'a> {
    parts: &'a [Part],
    /// The least cell first: cell, number of the part, index in the part.
    heap: BinaryHeap<Reverse<(&'a [u8], usize, usize)>>,
}

impl<'a> Updates<'a> {
    pub(super) fn new(parts: &'a [Part]) -> Self {
        let heap = (parts.iter().enumerate())
            .filter_map(|(number, part)| Some(Reverse((part.run.cell(*part.indices.first()? as usize), number, 0))))
            .collect();
        Updates { parts, heap }
    }

    pub(super) fn next(&mut self) -> Option<(&'a [u8], Tally)> {
        loop {
            let (cell, mut tally) = self.pop()?;
            while self.heap.peek().is_some_and(|Reverse((other, _, _))| *other == cell) {
                if let Some((_, other)) = self.pop() {
                    tally.plus_equals(&other);
                }
            }
            if !tally.is_zero() {
                return Some((cell, tally));
            }
        }
    }

    fn pop(&mut self) -> Option<(&'a [u8], Tally)> {
        let Reverse((cell, number, at)) = self.heap.pop()?;
        let part = &self.parts[number];
        if let Some(&index) = part.indices.get(at + 1) {
            self.heap.push(Reverse((part.run.cell(index as usize), number, at + 1)));
        }
        Some((cell, part.run.tally(part.indices[at] as usize)))
    }
}
