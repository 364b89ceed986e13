//! Reads the rows of the table that may be in range.
//!
//! In: a live file of `counts`, at the version of the replay. Out: its rows that are in range and of the replay's customers, in order.
//! State: one batch of the file. Failure: a file that is no longer kept is an error that says so; a file that can not be read is corrupt.

use std::ops::Range;

use crate::dataflow::route::Scope;
use crate::model::{Cell, Granularity, Segment, TimeUs};
use crate::replay::count::sorted::SortedCells;
use crate::replay::request::coverage::{Lies, Windows};
use crate::table::TableError;
use crate::table::fetch::{Batches, Fetched};
use crate::table::segment::Columns;

/// Rows of a batch of a live file.
const BATCH_ROWS: usize = 2048;

/// Whether a file's windows may be in range.
pub(super) fn meets(coverage: &[Range<TimeUs>], segment: &Segment) -> bool {
    let windows = segment.windows();
    coverage.iter().any(|stretch| stretch.start < windows.end && windows.start < stretch.end)
}

/// The rows of a live file that may be in range.
pub(super) struct TableRows<'a> {
    path: &'a str,
    scope: &'a Scope,
    windows: Windows<'a>,
    batches: Batches,
    columns: Option<Columns>,
    row: usize,
    cell: Vec<u8>,
}

impl<'a> TableRows<'a> {
    /// Reads a file that was fetched.
    ///
    /// # Errors
    /// [`TableError::Corrupt`] when it can not be read.
    pub(super) fn open(
        path: &'a str,
        fetched: &Fetched,
        granularity: Granularity,
        scope: &'a Scope,
    ) -> Result<TableRows<'a>, TableError> {
        let batches = fetched.batches(None, None, BATCH_ROWS).map_err(|error| corrupt(format!("{path}: {error}")))?;
        let windows = Windows::new(&scope.coverage, granularity);
        let mut rows = TableRows { path, scope, windows, batches, columns: None, row: 0, cell: Vec::new() };
        rows.advance()?;
        Ok(rows)
    }
}

fn corrupt(what: String) -> TableError {
    TableError::Corrupt { table: "counts".to_owned(), what }
}

impl SortedCells for TableRows<'_> {
    fn cell(&self) -> Option<&[u8]> {
        self.columns.as_ref().map(|_| self.cell.as_slice())
    }

    fn count(&self) -> i64 {
        self.columns.as_ref().map_or(0, |columns| columns.event_count.value(self.row))
    }

    fn advance(&mut self) -> Result<(), TableError> {
        loop {
            self.row += 1;
            while self.columns.as_ref().is_none_or(|columns| self.row >= columns.len()) {
                let failed = |what: String| corrupt(format!("{}: {what}", self.path));
                let Some(batch) = self.batches.next().transpose().map_err(|error| failed(error.to_string()))? else {
                    self.columns = None;
                    return Ok(());
                };
                self.columns = Some(Columns::of(&batch).map_err(failed)?);
                self.row = 0;
            }
            let Some(columns) = &self.columns else { return Ok(()) };
            let (start, customer) = (columns.window_start.value(self.row), columns.customer.value(self.row).as_bytes());
            if self.windows.lies(start) != Lies::Outside && self.scope.holds(customer) {
                self.cell.clear();
                let (dimension, value) = (columns.dimension.value(self.row), columns.value.value(self.row));
                Cell::encode(customer, dimension.as_bytes(), start, value.as_bytes(), &mut self.cell);
                return Ok(());
            }
        }
    }
}
