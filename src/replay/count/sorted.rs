//! Cells in order, each with a count; and several such sequences merged into one.
//!
//! In: ascending sequences in which each cell occurs once: a part of a run in memory or in a file, rows of a table, a spool. Out: one
//! sequence in which the counts of equal cells are added; a sum may be zero. State: the current cell of each input, in a heap. Failure: an
//! input that can not be read ends the whole sequence.

use crate::table::TableError;

/// A sequence of cells in ascending order, each with a count.
pub trait SortedCells {
    /// The current cell; `None` at the end.
    fn cell(&self) -> Option<&[u8]>;

    /// Its count.
    fn count(&self) -> i64;

    /// Goes to the next one.
    ///
    /// # Errors
    /// [`TableError`] when it can not be read.
    fn advance(&mut self) -> Result<(), TableError>;
}

/// Several sequences as one, in which the counts of equal cells are added; a sum may be zero.
pub struct MergedCells<'a> {
    inputs: Vec<Box<dyn SortedCells + 'a>>,
    /// The inputs that are not at their end, as a heap with the least cell first.
    heap: Vec<usize>,
    cell: Vec<u8>,
    count: Option<i64>,
}

impl<'a> MergedCells<'a> {
    /// Merges inputs. Each of them has a cell at most once.
    ///
    /// # Errors
    /// As [`SortedCells::advance`].
    pub fn of(mut inputs: Vec<Box<dyn SortedCells + 'a>>) -> Result<Box<dyn SortedCells + 'a>, TableError> {
        if inputs.len() == 1 {
            return Ok(inputs.remove(0));
        }
        let heap = (0..inputs.len()).filter(|input| inputs[*input].cell().is_some()).collect();
        let mut merged = MergedCells { inputs, heap, cell: Vec::new(), count: None };
        for at in (0..merged.heap.len() / 2).rev() {
            merged.sift(at);
        }
        merged.advance()?;
        Ok(Box::new(merged))
    }

    fn sift(&mut self, mut at: usize) {
        let less = |heap: &[usize], a: usize, b: usize| self.inputs[heap[a]].cell() < self.inputs[heap[b]].cell();
        loop {
            let mut least = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.heap.len() && less(&self.heap, child, least) {
                    least = child;
                }
            }
            if least == at {
                return;
            }
            self.heap.swap(at, least);
            at = least;
        }
    }
}

impl SortedCells for MergedCells<'_> {
    fn cell(&self) -> Option<&[u8]> {
        self.count.map(|_| self.cell.as_slice())
    }

    fn count(&self) -> i64 {
        self.count.unwrap_or(0)
    }

    fn advance(&mut self) -> Result<(), TableError> {
        self.count = None;
        while let Some(&input) = self.heap.first() {
            let least = &mut self.inputs[input];
            match self.count {
                None => {
                    self.cell.clear();
                    self.cell.extend_from_slice(least.cell().unwrap_or_default());
                    self.count = Some(least.count());
                }
                Some(_) if least.cell() != Some(&self.cell) => break,
                Some(sum) => self.count = Some(sum + least.count()),
            }
            least.advance()?;
            if least.cell().is_none() {
                self.heap.swap_remove(0);
            }
            self.sift(0);
        }
        Ok(())
    }
}
