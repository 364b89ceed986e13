//! The columns of a checkpoint of a table's log: Parquet, a row for each action.
//!
//! In: the bytes of a checkpoint, from any program. Out: batches of the columns that are needed, and their parts. State: one batch.
//! Failure: a column that is missing or of another type is an error text, which the caller reports as a damaged log.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

/// The actions of a checkpoint, one a row, with the columns that are needed.
pub(super) fn checkpoint_batches(
    bytes: Bytes,
    with_tombstones: bool,
) -> Result<impl Iterator<Item = Result<RecordBatch, arrow::error::ArrowError>>, parquet::errors::ParquetError> {
    // Ignores the Arrow types that the writer had in memory: text is read as plain text.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options)?;
    let mut columns = vec![
        "add.path",
        "add.partitionValues",
        "add.size",
        "add.stats",
        "add.deletionVector",
        "txn.appId",
        "txn.version",
        "protocol",
        "metaData",
    ];
    if with_tombstones {
        columns.extend(["remove.path", "remove.deletionTimestamp"]);
    }
    let projection = ProjectionMask::columns(builder.parquet_schema(), columns);
    builder.with_projection(projection).with_batch_size(8192).build()
}

/// Rows that hold an action of this name, with the number of its column.
pub(super) fn rows_with(batch: &RecordBatch, name: &str) -> Result<Vec<(usize, usize)>, String> {
    let Some(column) = action(batch, name)? else { return Ok(Vec::new()) };
    let index = batch.schema().index_of(name).map_err(|error| error.to_string())?;
    Ok((0..column.len()).filter(|row| column.is_valid(*row)).map(|row| (row, index)).collect())
}

pub(super) fn action<'a>(batch: &'a RecordBatch, name: &str) -> Result<Option<&'a StructArray>, String> {
    match batch.column_by_name(name) {
        Some(column) => column.as_struct_opt().map(Some).ok_or_else(|| format!("column {name} is not a struct")),
        None => Ok(None),
    }
}

pub(super) fn action_of<'a>(action: &'a StructArray, name: &str) -> Result<Option<&'a StructArray>, String> {
    match action.column_by_name(name) {
        Some(column) => column.as_struct_opt().map(Some).ok_or_else(|| format!("{name} is not a struct")),
        None => Ok(None),
    }
}

pub(super) fn text<'a>(action: &'a StructArray, name: &str) -> Result<&'a StringArray, String> {
    (action.column_by_name(name).and_then(|column| column.as_string_opt::<i32>()))
        .ok_or_else(|| format!("expected a text column {name}"))
}

pub(super) fn int<'a>(action: &'a StructArray, name: &str) -> Result<&'a Int64Array, String> {
    (action.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>()))
        .ok_or_else(|| format!("expected an integer column {name}"))
}

pub(super) fn partition_of(entries: &StructArray) -> Result<BTreeMap<String, String>, String> {
    let column = |index: usize| {
        let column = entries.columns().get(index).and_then(|column| column.as_string_opt::<i32>());
        column.ok_or("partition values are not text")
    };
    let (names, values) = (column(0)?, column(1)?);
    let value = |row: usize| if values.is_valid(row) { values.value(row).to_owned() } else { String::new() };
    Ok((0..entries.len()).map(|row| (names.value(row).to_owned(), value(row))).collect())
}

/// An id that distinguishes the deletion vectors of a file.
pub(super) fn vector_id(storage: &str, place: &str, offset: Option<i32>) -> String {
    format!("{storage}{place}@{}", offset.unwrap_or(0))
}

pub(super) fn vector_of(vectors: &StructArray, row: usize) -> Result<Option<String>, String> {
    if vectors.is_null(row) {
        return Ok(None);
    }
    let (storage, place) = (text(vectors, "storageType")?, text(vectors, "pathOrInlineDv")?);
    let offsets = vectors.column_by_name("offset").and_then(|column| column.as_primitive_opt::<Int32Type>());
    let offset = offsets.filter(|offsets| offsets.is_valid(row)).map(|offsets| offsets.value(row));
    Ok(Some(vector_id(storage.value(row), place.value(row), offset)))
}
