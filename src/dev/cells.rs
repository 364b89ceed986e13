//! Cells in hash maps, rolled up and written in the order of the files: shared by [`limit`](super::limit) and [`preload`](super::preload).
//!
//! In: counted events. Out: the sorted cells of every granularity, and files of `counts`. State: all cells, in memory and not bounded, but
//! each only a few numbers. Failure: only the encoder can fail.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::job::Dimension;
use crate::model::{Granularity, Segment, TimeUs, Zone};
use crate::table::segment::{BATCH_ROWS, Columns, SegmentWriter};
use crate::table::{File, TableError};

const MINUTE_US: TimeUs = 60_000_000;

/// Texts, numbered in the order in which they were first seen.
#[derive(Default)]
struct Names {
    numbers: HashMap<Box<str>, u32, FixedState>,
}

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(name.into(), number);
        number
    }
}

/// The names of all threads in order, and for each thread the index of each of its numbers among them.
fn ranked(threads: Vec<Names>) -> (Vec<Box<str>>, Vec<Vec<u32>>) {
    let mut all: Vec<Box<str>> = threads.iter().flat_map(|names| names.numbers.keys().cloned()).collect();
    all.sort_unstable();
    all.dedup();
    let places: HashMap<&str, u32, FixedState> =
        all.iter().enumerate().map(|(place, name)| (&**name, place as u32)).collect();
    let rank = |names: &Names| {
        let mut ranks = vec![0; names.numbers.len()];
        for (name, number) in &names.numbers {
            ranks[*number as usize] = places[&**name];
        }
        ranks
    };
    let ranks = threads.iter().map(rank).collect();
    drop(places);
    (all, ranks)
}

/// A cell of one dimension at its finest granularity.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    customer: u32,
    /// Start of the window, in minutes since 1970.
    window: u32,
    value: u32,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.customer) << 32 | u64::from(self.window));
        state.write_u32(self.value);
    }
}

/// Counted cells, each dimension at its finest granularity.
pub(super) struct Cells {
    finest: Vec<Granularity>,
    customers: Names,
    values: Vec<Names>,
    counts: Vec<HashMap<Key, u32, FixedState>>,
}

impl Cells {
    pub(super) fn new(dimensions: &[Dimension]) -> Cells {
        Cells {
            finest: dimensions.iter().map(|dimension| dimension.granularities[0]).collect(),
            customers: Names::default(),
            values: dimensions.iter().map(|_| Names::default()).collect(),
            counts: dimensions.iter().map(|_| HashMap::default()).collect(),
        }
    }

    /// Counts one event.
    pub(super) fn count(&mut self, customer: &str, time: TimeUs, values: &[String]) {
        let customer = self.customers.number(customer);
        for (index, value) in values.iter().enumerate() {
            let value = self.values[index].number(value);
            self.add(customer, time, index, value);
        }
    }

    /// The number of a customer, for [`Cells::count_numbered`].
    pub(super) fn customer(&mut self, customer: &str) -> u32 {
        self.customers.number(customer)
    }

    /// The number of a value of each dimension, for [`Cells::count_numbered`].
    pub(super) fn numbers(&mut self, values: &[String]) -> Vec<u32> {
        self.values.iter_mut().zip(values).map(|(names, value)| names.number(value)).collect()
    }

    /// Counts one event whose customer and values have numbers already.
    pub(super) fn count_numbered(&mut self, customer: u32, time: TimeUs, values: &[u32]) {
        for (index, value) in values.iter().enumerate() {
            self.add(customer, time, index, *value);
        }
    }

    fn add(&mut self, customer: u32, time: TimeUs, dimension: usize, value: u32) {
        let window = (self.finest[dimension].window_start(time, Zone::Utc) / MINUTE_US) as u32;
        *self.counts[dimension].entry(Key { customer, window, value }).or_default() += 1;
    }
}

/// A cell and its count. The cell is one number that sorts as rows do: by customer, dimension, window and value.
#[derive(Clone, Copy)]
pub(super) struct Packed(u128, i64);

impl Packed {
    /// Start of the window.
    pub(super) fn window_start(self) -> TimeUs {
        i64::from((self.0 >> 32) as u32) * MINUTE_US
    }

    fn dimension(self) -> usize {
        usize::from((self.0 >> 64) as u16)
    }
}

const WINDOW_MASK: u128 = 0xffff_ffff << 32;

/// The texts that the numbers of packed cells stand for.
pub(super) struct Texts {
    dimensions: Vec<Dimension>,
    customers: Vec<Box<str>>,
    /// The values of each dimension.
    values: Vec<Vec<Box<str>>>,
}

impl Texts {
    /// Whether the dimension of a cell is counted at a granularity.
    pub(super) fn counts(&self, granularity: Granularity, cell: Packed) -> bool {
        self.dimensions[cell.dimension()].granularities.contains(&granularity)
    }
}

/// The cells of all counters with common numbers, by the granularity at which they were counted.
pub(super) struct Merged {
    /// The texts that the numbers stand for.
    pub(super) texts: Texts,
    finest: [Vec<Packed>; Granularity::ALL.len()],
}

impl Merged {
    /// Merges the cells of several counters.
    pub(super) fn new(dimensions: &[Dimension], counters: Vec<Cells>) -> Merged {
        let mut customers = Vec::new();
        let mut values: Vec<Vec<Names>> = dimensions.iter().map(|_| Vec::new()).collect();
        let mut counts = Vec::new();
        for counter in counters {
            customers.push(counter.customers);
            values.iter_mut().zip(counter.values).for_each(|(all, names)| all.push(names));
            counts.push(counter.counts);
        }
        let (customers, customer_ranks) = ranked(customers);
        let (values, value_ranks): (Vec<_>, Vec<_>) = values.into_iter().map(ranked).unzip();
        let mut finest = Granularity::ALL.map(|_| Vec::new());
        for (counter, counts) in counts.into_iter().enumerate() {
            for (of, (dimension, counts)) in dimensions.iter().zip(counts).enumerate() {
                finest[dimension.granularities[0] as usize].extend(counts.into_iter().map(|(key, count)| {
                    let customer = u128::from(customer_ranks[counter][key.customer as usize]);
                    let value = u128::from(value_ranks[of][counter][key.value as usize]);
                    Packed(customer << 80 | (of as u128) << 64 | u128::from(key.window) << 32 | value, count.into())
                }));
            }
        }
        Merged { texts: Texts { dimensions: dimensions.to_vec(), customers, values }, finest }
    }

    /// Rolls up. `each` gets the sorted cells of every granularity, finest first, including those of dimensions that are not counted at it.
    pub(super) fn roll_up(&self, mut each: impl FnMut(Granularity, Arc<Vec<Packed>>)) {
        let mut done: Vec<Arc<Vec<Packed>>> = Vec::new();
        for granularity in Granularity::ALL {
            let mut cells = self.finest[granularity as usize].clone();
            if let Some(finer) = finer(granularity) {
                widen(granularity, &done[finer as usize], &mut cells);
            }
            sum(&mut cells);
            done.push(Arc::new(cells));
            each(granularity, Arc::clone(&done[granularity as usize]));
        }
    }
}

/// The granularity from which another one is summed. Weeks cross the borders of months, so both are summed from days.
fn finer(granularity: Granularity) -> Option<Granularity> {
    match granularity {
        Granularity::Minute => None,
        Granularity::Hour => Some(Granularity::Minute),
        Granularity::Day => Some(Granularity::Hour),
        Granularity::Week | Granularity::Month => Some(Granularity::Day),
        Granularity::Year => Some(Granularity::Month),
    }
}

fn widen(granularity: Granularity, cells: &[Packed], out: &mut Vec<Packed>) {
    // Neighbours usually share their window.
    let mut last = (u128::MAX, 0);
    out.extend(cells.iter().map(|&cell| {
        if last.0 != cell.0 & WINDOW_MASK {
            let start = granularity.window_start(cell.window_start(), Zone::Utc);
            last = (cell.0 & WINDOW_MASK, ((start / MINUTE_US) as u128) << 32);
        }
        Packed(cell.0 & !WINDOW_MASK | last.1, cell.1)
    }));
}

/// Sorts, and adds up equal cells.
fn sum(cells: &mut Vec<Packed>) {
    cells.sort_unstable_by_key(|cell| cell.0);
    cells.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        kept.1 += if same { next.1 } else { 0 };
        same
    });
}

/// Writes cells to one file, in order.
pub(super) struct CellWriter {
    writer: SegmentWriter,
    customer: StringBuilder,
    dimension: StringBuilder,
    window_start: TimestampMicrosecondBuilder,
    value: StringBuilder,
    event_count: Int64Builder,
    rows: usize,
}

impl CellWriter {
    /// Begins a file without rows.
    pub(super) fn new(segment: Segment) -> Result<CellWriter, TableError> {
        Ok(CellWriter {
            writer: SegmentWriter::new(segment)?,
            customer: StringBuilder::new(),
            dimension: StringBuilder::new(),
            window_start: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            value: StringBuilder::new(),
            event_count: Int64Builder::new(),
            rows: 0,
        })
    }

    /// Appends a cell.
    pub(super) fn push(&mut self, cell: Packed, texts: &Texts) -> Result<(), TableError> {
        let of = cell.dimension();
        self.customer.append_value(&texts.customers[(cell.0 >> 80) as usize]);
        self.dimension.append_value(&texts.dimensions[of].name);
        self.window_start.append_value(cell.window_start());
        self.value.append_value(&texts.values[of][cell.0 as u32 as usize]);
        self.event_count.append_value(cell.1);
        self.rows += 1;
        if self.rows == BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), TableError> {
        self.rows = 0;
        self.writer.write(Columns {
            customer: self.customer.finish(),
            dimension: self.dimension.finish(),
            window_start: self.window_start.finish(),
            value: self.value.finish(),
            event_count: self.event_count.finish(),
        })
    }

    /// Ends the file; `None` if it has no rows.
    pub(super) fn finish(mut self, name: &str) -> Result<Option<(File, Bytes)>, TableError> {
        self.flush()?;
        self.writer.finish(name)
    }
}
