//! Rows of a segment in columns, in file order.
//!
//! In: decoded batches, or rows one by one. Out: [`Columns`], which can be cut without a copy. Ordering: as given. State: one batch.
//! Failure: a batch with other columns is reported with the column's name.

use arrow::array::{
    Array, AsArray, Int64Array, Int64Builder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};

use crate::model::{Cell, Tally};
use crate::table::time_type;

/// Rows of a batch, in reading and in writing, and bytes of texts at which it is cut: a customer's id may be as large as a record.
pub const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: usize = 8 << 20;

/// Rows of a segment in columns, in file order.
#[derive(Clone, Debug)]
pub struct Columns {
    /// customer_id
    pub customer: StringArray,
    /// dimension
    pub dimension: StringArray,
    /// window_start
    pub window_start: TimestampMicrosecondArray,
    /// dimension_value
    pub value: StringArray,
    /// event_count
    pub event_count: Int64Array,
}

impl Columns {
    /// The columns of a batch as a [`super::SegmentWriter`] wrote it.
    ///
    /// # Errors
    /// A text that says which column is not as expected.
    pub fn of(batch: &RecordBatch) -> Result<Columns, String> {
        let column = |name: &str, wanted: &DataType| match batch.column_by_name(name) {
            Some(column) if column.data_type() == wanted => Ok(column),
            Some(column) => Err(format!("column {name} has type {}, expected {wanted}", column.data_type())),
            None => Err(format!("column {name} is missing")),
        };
        Ok(Columns {
            customer: column("customer_id", &DataType::Utf8)?.as_string::<i32>().clone(),
            dimension: column("dimension", &DataType::Utf8)?.as_string::<i32>().clone(),
            window_start: column("window_start", &time_type())?.as_primitive::<TimestampMicrosecondType>().clone(),
            value: column("dimension_value", &DataType::Utf8)?.as_string::<i32>().clone(),
            event_count: column("event_count", &DataType::Int64)?.as_primitive::<Int64Type>().clone(),
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.customer.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes a row's cell into `key`, as bytes that sort in the order of the file.
    pub fn key(&self, row: usize, key: &mut Vec<u8>) {
        key.clear();
        Cell::encode(
            self.customer.value(row).as_bytes(),
            self.dimension.value(row).as_bytes(),
            self.window_start.value(row),
            self.value.value(row).as_bytes(),
            key,
        );
    }

    /// Some of the rows, without a copy.
    pub(super) fn slice(&self, from: usize, rows: usize) -> Columns {
        Columns {
            customer: self.customer.slice(from, rows),
            dimension: self.dimension.slice(from, rows),
            window_start: self.window_start.slice(from, rows),
            value: self.value.slice(from, rows),
            event_count: self.event_count.slice(from, rows),
        }
    }

    /// Bytes of the texts that may be large.
    pub(super) fn text_bytes(&self) -> usize {
        let of = |texts: &StringArray| {
            let offsets = texts.value_offsets();
            (offsets[offsets.len() - 1] - offsets[0]) as usize
        };
        of(&self.customer) + of(&self.value)
    }
}

/// Collects rows into [`Columns`].
#[derive(Default)]
pub struct Rows {
    customer: StringBuilder,
    dimension: StringBuilder,
    window_start: TimestampMicrosecondBuilder,
    value: StringBuilder,
    event_count: Int64Builder,
}

impl Rows {
    /// Appends a row.
    pub fn push(&mut self, customer: &str, dimension: &str, window_start: i64, value: &str, tally: Tally) {
        self.customer.append_value(customer);
        self.dimension.append_value(dimension);
        self.window_start.append_value(window_start);
        self.value.append_value(value);
        self.event_count.append_value(tally.event_count);
    }

    /// Whether there are as many rows as a batch should have.
    pub fn is_full(&self) -> bool {
        use arrow::array::ArrayBuilder;
        let bytes = self.customer.values_slice().len() + self.value.values_slice().len();
        self.event_count.len() >= BATCH_ROWS || bytes >= BATCH_BYTES
    }

    /// The rows so far; none are left here.
    pub fn finish(&mut self) -> Columns {
        Columns {
            customer: self.customer.finish(),
            dimension: self.dimension.finish(),
            window_start: self.window_start.finish(),
            value: self.value.finish(),
            event_count: self.event_count.finish(),
        }
    }
}
