//! Decides where row groups end, so that they neither overflow nor crumble.
//!
//! In: rows of a stretch of the file that is written again. Out: the rows of one row group at a time. A stretch becomes full groups,
//! and the rest one group or two halves; so each group but the last of a file is at least half full. State: fewer rows than two
//! groups hold, and one batch. Pure.

use std::collections::VecDeque;

use super::columns::Columns;
use crate::model::{Period, Segment};

/// How large row groups are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// At most this many rows.
    pub rows_max: usize,
    /// At most about this many bytes of texts, before they are encoded.
    pub bytes_max: usize,
}

impl Shape {
    /// Of files of a day or less. Measured on a day of one bucket (250 customers, 116,490 rows of pages), late events by customer and
    /// page as often as others: rows decoded for 1 / 10 late events, and the file's size:
    ///
    /// | rows a group | decoded for 1 | for 10 | file | footer and page index |
    /// |---|---|---|---|---|
    /// | 4,096 | 3.5 % | 34 % | 826 kB | 33 kB |
    /// | 16,384 | 14 % | 92 % | 609 kB | 12 kB |
    /// | 65,536 | 50 % | 100 % | 463 kB | 6 kB |
    /// | 131,072 and more | 100 % | 100 % | 404 kB | 5 kB |
    ///
    /// Each group has dictionaries of its own, so smaller ones cost every reader half a file.
    const SHORT: Shape = Shape { rows_max: 16_384, bytes_max: 16 << 20 };

    /// Of longer files, which are mostly closed and large: few late records in many rows.
    const LONG: Shape = Shape { rows_max: 131_072, bytes_max: 32 << 20 };

    /// The shape of a segment's file.
    pub(crate) fn of(segment: &Segment) -> Shape {
        if segment.period <= Period::Day { Shape::SHORT } else { Shape::LONG }
    }

    /// How full a group is with this content, in rows: a group with large texts is full with fewer rows.
    pub(super) fn fill(&self, rows: usize, bytes: usize) -> usize {
        let by_bytes = bytes as u128 * self.rows_max as u128 / self.bytes_max as u128;
        rows.max(by_bytes as usize)
    }

    /// Whether a group with this content is less than half full.
    pub(super) fn is_small(&self, rows: usize, bytes: usize) -> bool {
        2 * self.fill(rows, bytes) < self.rows_max
    }
}

/// Rows that are not yet in a group.
pub(super) struct Stretch {
    shape: Shape,
    batches: VecDeque<Columns>,
    rows: usize,
    bytes: usize,
}

impl Stretch {
    pub(super) fn new(shape: Shape) -> Stretch {
        Stretch { shape, batches: VecDeque::new(), rows: 0, bytes: 0 }
    }

    pub(super) fn push(&mut self, columns: Columns) {
        self.rows += columns.len();
        self.bytes += columns.text_bytes();
        self.batches.push_back(columns);
    }

    /// Whether there are rows, but fewer than half a group.
    pub(super) fn is_small(&self) -> bool {
        self.rows > 0 && self.shape.is_small(self.rows, self.bytes)
    }

    /// A full group, if so many rows follow it that they are a group as well.
    pub(super) fn full(&mut self) -> Option<Vec<Columns>> {
        (self.fill() >= 2 * self.shape.rows_max).then(|| self.take(self.shape.rows_max))
    }

    /// The next group of the rest, when the stretch has ended; `None` when nothing is left.
    pub(super) fn rest(&mut self) -> Option<Vec<Columns>> {
        let fill = self.fill();
        match fill {
            0 => None,
            _ if fill >= 2 * self.shape.rows_max => Some(self.take(self.shape.rows_max)),
            _ if fill > self.shape.rows_max => Some(self.take(fill.div_ceil(2))),
            _ => Some(self.take(usize::MAX)),
        }
    }

    fn fill(&self) -> usize {
        self.shape.fill(self.rows, self.bytes)
    }

    /// Removes rows that fill a group so far; at least one.
    fn take(&mut self, fill: usize) -> Vec<Columns> {
        let (mut rows, mut bytes, mut taken) = (0, 0, Vec::new());
        while let Some(batch) = self.batches.pop_front() {
            let (batch_rows, batch_bytes) = (batch.len(), batch.text_bytes());
            if self.shape.fill(rows + batch_rows, bytes + batch_bytes) <= fill {
                (rows, bytes) = (rows + batch_rows, bytes + batch_bytes);
                taken.push(batch);
                continue;
            }
            // Rows of one batch are taken to be of equal size.
            let left = fill - self.shape.fill(rows, bytes);
            let part = left * batch_rows / self.shape.fill(batch_rows, batch_bytes).max(1);
            let part = part.clamp(usize::from(rows == 0), batch_rows);
            if part > 0 {
                let part = batch.slice(0, part);
                (rows, bytes) = (rows + part.len(), bytes + part.text_bytes());
                taken.push(part);
            }
            if part < batch_rows {
                self.batches.push_front(batch.slice(part, batch_rows - part));
            }
            break;
        }
        self.rows -= rows;
        self.bytes -= bytes;
        taken
    }
}
