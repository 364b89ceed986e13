//! The second pass: compares the rows of `counts` with the sums of the recount, both in the order of the files.
//!
//! In: the sorted sums, and the live files, slot by slot. Out: differences. State: a batch of rows for each file of a slot (which is one
//! file, unless files overlap), and for one customer the sums of its windows in the time span of the slot. Failure: a file that can not be
//! read ends the pass.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use futures::{Stream, StreamExt};

use super::counted::{Counted, CountedDimension};
use super::difference::{Check, Differences, Subject};
use super::error::VerifyError;
use super::gone::Doubt;
use super::key::{self, HOMELESS, Key};
use super::layout::Slot;
use super::spool::Spooled;
use super::sums::Sorted;
use super::window::{WINDOWS, bucket};
use crate::job::Logic;
use crate::model::rfc3339_us;
use crate::table::{State, counts, raw};

const COLUMNS: &[&str] = &["customer_id", "window_start", "window_end", "dimension", "dimension_value", "event_count"];

/// Rows between two updates of the progress.
const TICK_ROWS: u64 = 4096;

/// What is needed to check rows.
#[derive(Clone, Copy)]
pub(super) struct Basis<'a> {
    pub(super) buckets: u32,
    /// What is counted, if a single logic counts all rows: then the sums of all dimensions must be equal.
    pub(super) alone: Option<&'a Counted>,
    pub(super) doubt: &'a Doubt<'a>,
}

/// The second pass.
pub(super) struct Compare<'a> {
    basis: Basis<'a>,
    sums: Sorted,
    differences: &'a mut Differences,
    rows: u64,
    not_checkable: u64,
}

impl<'a> Compare<'a> {
    pub(super) fn new(basis: Basis<'a>, sums: Sorted, differences: &'a mut Differences) -> Self {
        Compare { basis, sums, differences, rows: 0, not_checkable: 0 }
    }

    /// Rows of `counts` so far: those that were compared, and those that could not be.
    pub(super) fn rows(&self) -> (u64, u64) {
        (self.rows - self.not_checkable, self.not_checkable)
    }

    /// Compares a slot. Slots come in order, and `files` yields their files in order.
    ///
    /// # Errors
    /// When a file can not be read, or sums can not be read back.
    pub(super) async fn slot(
        &mut self,
        index: usize,
        slot: &Slot,
        files: &mut (impl Stream<Item = Result<Spooled, VerifyError>> + Unpin),
        mut tick: impl FnMut(u64),
    ) -> Result<(), VerifyError> {
        let mut inputs = Vec::with_capacity(slot.files.len());
        for (_, period) in &slot.files {
            let missing = || Err(VerifyError::Bug("a file of counts was not fetched".to_owned()));
            let spooled = files.next().await.unwrap_or_else(missing)?;
            inputs.push(FileRows::new(index as u32, slot, period.clone(), spooled, self.basis.alone)?);
        }
        let mut last_key = Vec::new();
        let mut windows = self.basis.alone.map(CustomerWindows::new);
        // Nearly always there is one file.
        while let Some(next) = (0..inputs.len())
            .filter(|input| inputs[*input].row.is_some())
            .min_by(|a, b| inputs[*a].key().cmp(inputs[*b].key()))
        {
            let Some(row) = inputs[next].take(self.basis, self.differences)? else { continue };
            self.rows += 1;
            if self.rows.is_multiple_of(TICK_ROWS) {
                tick(TICK_ROWS);
            }
            if let Some(windows) = &mut windows {
                windows.add(&row, slot.window, self.differences);
            }
            if row.is_misplaced {
                continue;
            }
            if row.key == last_key {
                self.differ(Check::RowTwice, &row.key, row.count.to_string(), "one row");
            } else if row.key > last_key {
                self.row(&row)?;
                last_key = row.key;
            }
        }
        if let Some(windows) = &mut windows {
            windows.end(slot.window, self.differences);
        }
        while self.sums.peek().is_some_and(|key| key::slot(key) == index as u32) {
            self.missing()?;
        }
        for input in inputs {
            let Some((found, said)) = input.rows_differ() else { continue };
            let place = Subject::File { file: input.path };
            self.differences.add(Check::FileRows, place, said.to_string(), found.to_string());
        }
        Ok(())
    }

    /// Compares a row that is in its right place: above all rows before it.
    fn row(&mut self, row: &Row) -> Result<(), VerifyError> {
        while self.sums.peek().is_some_and(|key| key < row.key.as_slice()) {
            self.missing()?;
        }
        let recounted = match self.sums.peek() {
            Some(key) if key == row.key.as_slice() => self.sums.next().map_err(VerifyError::Spill)?.map(|(_, sum)| sum),
            _ => None,
        };
        let is_in_doubt = self.is_in_doubt(&row.key);
        self.not_checkable += u64::from(is_in_doubt);
        match recounted {
            _ if is_in_doubt => {}
            Some(sum) if sum != row.count => {
                self.differ(Check::Count, &row.key, row.count.to_string(), sum.to_string())
            }
            None if row.count > 0 => self.differ(Check::ExtraRow, &row.key, row.count.to_string(), "no row"),
            _ => {}
        }
        if row.count <= 0 {
            let expected = match recounted {
                _ if is_in_doubt => "above zero, or no row".to_owned(),
                Some(sum) => sum.to_string(),
                None => "no row".to_owned(),
            };
            self.differ(Check::ZeroRow, &row.key, row.count.to_string(), expected);
        }
        Ok(())
    }

    fn missing(&mut self) -> Result<(), VerifyError> {
        if let Some((key, sum)) = self.sums.next().map_err(VerifyError::Spill)?
            && !self.is_in_doubt(&key)
        {
            self.differ(Check::MissingRow, &key, "no row", sum.to_string());
        }
        Ok(())
    }

    /// Whether a cell may hold rows that can not be recounted.
    fn is_in_doubt(&self, key: &[u8]) -> bool {
        if self.basis.doubt.is_empty() {
            return false;
        }
        let Some(Key::Cell { cell, .. }) = key::read(key) else { return false };
        self.basis.doubt.holds(&cell)
    }

    fn differ(&mut self, check: Check, key: &[u8], found: impl Into<String>, expected: impl Into<String>) {
        if let Some(Key::Cell { cell, .. }) = key::read(key) {
            self.differences.add(check, Subject::cell(cell), found, expected);
        }
    }

    /// Compares what follows the last slot: cells that no file holds, and then the offsets and epochs that the first pass noted.
    ///
    /// # Errors
    /// When sums can not be read back.
    pub(super) fn rest(mut self, raw_state: &State) -> Result<(), VerifyError> {
        while self.sums.peek().is_some_and(|key| key::slot(key) <= HOMELESS) {
            self.missing()?;
        }
        let mut partition = Partition::default();
        let mut last_ingested = None;
        while let Some((key, times)) = self.sums.next().map_err(VerifyError::Spill)? {
            match key::read(&key) {
                Some(Key::Offsets { topic, partition: number, first, end }) => {
                    if (&partition.topic, partition.number) != (&topic, number) {
                        partition.end(raw_state, self.differences);
                        partition = Partition { topic, number, next: i64::MIN };
                    }
                    partition.stretch(first, end, times, self.differences);
                }
                Some(Key::Epoch { epoch, ingested_us }) => {
                    self.epoch(epoch, ingested_us, last_ingested, raw_state);
                    last_ingested = Some((epoch, ingested_us));
                }
                _ => return Err(VerifyError::Bug(format!("a key among the sums can not be read: {key:?}"))),
            }
        }
        partition.end(raw_state, self.differences);
        Ok(())
    }

    fn epoch(&mut self, epoch: i64, ingested_us: i64, last: Option<(i64, i64)>, raw_state: &State) {
        let place = || Subject::Epoch { epoch };
        let newest = raw_state.txn(raw::EPOCH);
        if epoch > newest {
            let expected = format!("at most {newest}, raw's newest");
            self.differences.add(Check::EpochBeyond, place(), format!("rows of epoch {epoch}"), expected);
        }
        match last {
            Some((same, at)) if same == epoch => {
                self.differences.add(
                    Check::IngestedAt,
                    place(),
                    rfc3339_us(ingested_us),
                    format!("only {}", rfc3339_us(at)),
                );
            }
            Some((before, at)) if ingested_us < at => {
                let expected = format!("at least {}, as epoch {before}", rfc3339_us(at));
                self.differences.add(Check::IngestedAt, place(), rfc3339_us(ingested_us), expected);
            }
            _ => {}
        }
    }
}

/// Checks the offsets of one partition, stretch by stretch.
#[derive(Default)]
struct Partition {
    topic: String,
    number: i32,
    /// One past the greatest offset so far.
    next: i64,
}

impl Partition {
    fn stretch(&mut self, first: i64, end: i64, times: i64, differences: &mut Differences) {
        if times > 1 || first < self.next {
            // If the same stretch was met several times, all of it is doubled.
            let doubled = if times > 1 { end } else { end.min(self.next) } - first;
            let place = Subject::Record { topic: self.topic.clone(), partition: self.number, offset: first };
            let found = format!("{doubled} offset(s) from here on stored more than once");
            differences.add(Check::OffsetTwice, place, found, "each once");
        }
        self.next = self.next.max(end);
    }

    fn end(&self, raw_state: &State, differences: &mut Differences) {
        let said = raw_state.txn(&raw::offset_txn(&self.topic, self.number));
        // The last record may be followed by transaction markers, which have offsets but are no records.
        let last = raw_state.txns.get(&raw::last_txn(&self.topic, self.number)).copied().unwrap_or(said - 1);
        if !self.topic.is_empty() && (last + 1 != self.next || said < self.next) {
            let place = Subject::Partition { topic: self.topic.clone(), partition: self.number };
            differences.add(Check::NextOffset, place, said.to_string(), self.next.to_string());
        }
    }
}

/// A row of `counts`.
struct Row {
    key: Vec<u8>,
    /// Where the customer ends in the key.
    customer_end: usize,
    /// Index in [`Counted::dimensions`] of the logic, if a single logic counts all rows.
    dimension: Option<usize>,
    start_us: i64,
    count: i64,
    /// Readers would not find it: it is in a file of another bucket or period, or not above the row before it.
    is_misplaced: bool,
}

/// The rows of a file, one by one, each checked by itself and against the row before it.
struct FileRows {
    path: String,
    said: u64,
    found: u64,
    slot: u32,
    window: usize,
    bucket: u32,
    period: Range<i64>,
    batches: Box<dyn Iterator<Item = Result<RecordBatch, VerifyError>>>,
    columns: Option<Arc<Columns>>,
    at: usize,
    row: Option<Row>,
    last_key: Vec<u8>,
    /// Whether the customer of the last row belongs to the bucket.
    is_in_bucket: bool,
    /// `window_end` of the current row.
    end_us: i64,
}

impl FileRows {
    fn new(
        index: u32,
        slot: &Slot,
        period: Range<i64>,
        spooled: Spooled,
        alone: Option<&Counted>,
    ) -> Result<Self, VerifyError> {
        let mut rows = FileRows {
            path: spooled.file().path.clone(),
            said: spooled.file().rows,
            found: 0,
            slot: index,
            window: slot.window,
            bucket: slot.bucket,
            period,
            batches: Box::new(spooled.batches(counts::file_schema(), COLUMNS)?),
            columns: None,
            at: 0,
            row: None,
            last_key: Vec::new(),
            is_in_bucket: false,
            end_us: 0,
        };
        rows.row = rows.read(alone)?;
        Ok(rows)
    }

    fn key(&self) -> &[u8] {
        self.row.as_ref().map_or(&[], |row| &row.key)
    }

    fn rows_differ(&self) -> Option<(u64, u64)> {
        (self.found != self.said).then_some((self.found, self.said))
    }

    /// Returns the current row, checked, and reads the next one.
    fn take(&mut self, basis: Basis<'_>, differences: &mut Differences) -> Result<Option<Row>, VerifyError> {
        let Some(mut row) = self.row.take() else { return Ok(None) };
        let mut differ = |check, found: String, expected: String| {
            if let Some(Key::Cell { cell, .. }) = key::read(&row.key) {
                differences.add(check, Subject::cell(cell), found, expected);
            }
        };
        let window = &WINDOWS[self.window];
        let end_us = window.end(row.start_us);
        if self.end_us != end_us {
            differ(Check::WindowEnd, rfc3339_us(self.end_us), rfc3339_us(end_us));
        }
        let customer = &row.key[..row.customer_end];
        if !self.last_key.starts_with(customer) {
            self.is_in_bucket = match key::read(&row.key) {
                Some(Key::Cell { cell, .. }) => bucket(cell.customer.as_bytes(), basis.buckets) == self.bucket,
                _ => false,
            };
        }
        if !self.is_in_bucket {
            row.is_misplaced = true;
            differ(Check::Segment, self.path.clone(), "a file of its customer's bucket".to_owned());
        } else if !self.period.contains(&row.start_us) {
            // A week may end in the next year.
            row.is_misplaced = true;
            differ(Check::Segment, self.path.clone(), "a file whose period holds its window".to_owned());
        }
        if row.key < self.last_key {
            row.is_misplaced = true;
            differ(
                Check::RowOrder,
                format!("less than the row before it in {}", self.path),
                "rows in ascending order".to_owned(),
            );
        }
        self.last_key.clone_from(&row.key);
        self.row = self.read(basis.alone)?;
        Ok(Some(row))
    }

    fn read(&mut self, alone: Option<&Counted>) -> Result<Option<Row>, VerifyError> {
        let columns = loop {
            match &self.columns {
                Some(columns) if self.at < columns.customer.len() => break Arc::clone(columns),
                _ => match self.batches.next() {
                    Some(batch) => self.columns = Some(Arc::new(Columns::of(&batch?))),
                    None => return Ok(None),
                },
            }
            self.at = 0;
        };
        let at = self.at;
        self.at += 1;
        self.found += 1;
        self.end_us = columns.end.value(at);
        let start_us = columns.start.value(at);
        let dimension = columns.dimension.value(at);
        let mut key = Vec::with_capacity(64);
        key::cell_head(self.slot, self.window, columns.customer.value(at).as_bytes(), &mut key);
        let customer_end = key.len();
        key::cell_tail(dimension.as_bytes(), start_us, columns.value.value(at).as_bytes(), &mut key);
        Ok(Some(Row {
            key,
            customer_end,
            dimension: alone.and_then(|all| all.dimensions.iter().position(|known| known.name == dimension)),
            start_us,
            count: columns.count.value(at),
            is_misplaced: false,
        }))
    }
}

struct Columns {
    customer: StringArray,
    start: TimestampMicrosecondArray,
    end: TimestampMicrosecondArray,
    dimension: StringArray,
    value: StringArray,
    count: Int64Array,
}

impl Columns {
    /// The columns of a batch whose types were checked.
    fn of(batch: &RecordBatch) -> Columns {
        let column = |name: &str| batch.column_by_name(name).expect("a column that was asked for");
        let time = |name: &str| column(name).as_primitive::<TimestampMicrosecondType>().clone();
        let text = |name: &str| column(name).as_string::<i32>().clone();
        Columns {
            customer: text("customer_id"),
            start: time("window_start"),
            end: time("window_end"),
            dimension: text("dimension"),
            value: text("dimension_value"),
            count: column("event_count").as_primitive::<Int64Type>().clone(),
        }
    }
}

/// The sums of one customer's rows, by window and dimension: every dimension must have the same sum as `total`.
struct CustomerWindows<'a> {
    counted: &'a Counted,
    /// The head of the customer's keys.
    customer: Vec<u8>,
    sums: BTreeMap<i64, Vec<i64>>,
}

impl<'a> CustomerWindows<'a> {
    fn new(counted: &'a Counted) -> Self {
        CustomerWindows { counted, customer: Vec::new(), sums: BTreeMap::new() }
    }

    fn add(&mut self, row: &Row, window: usize, differences: &mut Differences) {
        let customer = &row.key[..row.customer_end];
        if self.customer != customer {
            self.end(window, differences);
            self.customer = customer.to_vec();
        }
        if let Some(dimension) = row.dimension {
            let sums = self.sums.entry(row.start_us).or_insert_with(|| vec![0; self.counted.dimensions.len()]);
            sums[dimension] = sums[dimension].saturating_add(row.count);
        }
    }

    fn end(&mut self, window: usize, differences: &mut Differences) {
        let counted = self.counted;
        let here = |dimension: &CountedDimension| dimension.windows[window];
        let total = counted.dimensions.iter().position(|dimension| dimension.name == Logic::TOTAL && here(dimension));
        let sums = std::mem::take(&mut self.sums);
        let Some(total) = total else { return };
        for (start_us, sums) in sums {
            for (dimension, sum) in counted.dimensions.iter().zip(&sums).filter(|(dimension, _)| here(dimension)) {
                if *sum != sums[total] {
                    let mut key = self.customer.clone();
                    key::cell_tail(dimension.name.as_bytes(), start_us, b"", &mut key);
                    if let Some(Key::Cell { cell, .. }) = key::read(&key) {
                        let expected = format!("{} in total", sums[total]);
                        differences.add(Check::DimensionSum, Subject::cell(cell), format!("{sum} in sum"), expected);
                    }
                }
            }
        }
    }
}
