//! Fetches the files of a table, a few ahead of their reader.
//!
//! In: the log's entries of files. Out: their rows, file by file, in order. State: small files in memory, larger ones in a temporary file
//! without a name; so memory is at most [`AHEAD`] × [`LOOK_BYTES_MAX`](crate::table::fetch::LOOK_BYTES_MAX), whatever the size of a file. Failure: a file that can not be
//! fetched or read ends the stream.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::{Stream, StreamExt};

use super::error::VerifyError;
use crate::table::fetch::{FetchError, Fetched, look_at};
use crate::table::{File, Log, TableError};

/// How many files are fetched before they are needed.
const AHEAD: usize = 8;

/// Rows of a batch.
const BATCH_ROWS: usize = 4096;

/// A file that was fetched.
pub(super) struct Spooled {
    table: String,
    file: File,
    content: Fetched,
}

/// Fetches files in order.
pub(super) fn fetched(log: &Log, files: Vec<File>) -> impl Stream<Item = Result<Spooled, VerifyError>> + Unpin {
    let log = log.clone();
    futures::stream::iter(files)
        .map(move |file| {
            let log = log.clone();
            tokio::spawn(async move { fetch(&log, file).await })
        })
        .buffered(AHEAD)
        .map(|fetched| fetched.unwrap_or_else(|panic| Err(VerifyError::Bug(panic.to_string()))))
}

async fn fetch(log: &Log, file: File) -> Result<Spooled, VerifyError> {
    let table = log.name().to_owned();
    let content = look_at(log.store().as_ref(), &file).await.map_err(|error| match error {
        FetchError::Store(error) => VerifyError::from(TableError::reading(&table, &file.path, error)),
        FetchError::Scratch(error) => VerifyError::Spill(error),
    })?;
    Ok(Spooled { table, file, content })
}

impl Spooled {
    /// The entry of the file in the log.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The rows of the file, with these columns only; each column must have its type in `schema`.
    ///
    /// # Errors
    /// [`TableError::Corrupt`], also from the iterator, when the file can not be read.
    pub(super) fn batches(
        self,
        schema: SchemaRef,
        columns: &'static [&'static str],
    ) -> Result<impl Iterator<Item = Result<RecordBatch, VerifyError>>, VerifyError> {
        let Spooled { table, file, content } = self;
        let corrupt = move |what: String| {
            VerifyError::Table(TableError::Corrupt { table: table.clone(), what: format!("{}: {what}", file.path) })
        };
        let reader = content.batches(Some(columns), None, BATCH_ROWS);
        let reader = reader.map_err(|error| corrupt(error.to_string()))?;
        for name in columns {
            let found = reader.schema().field_with_name(name).map(|field| field.data_type().clone());
            let wanted = schema.field_with_name(name).map(|field| field.data_type().clone());
            match (found, wanted) {
                (Ok(found), Ok(wanted)) if found == wanted => {}
                (found, wanted) => return Err(corrupt(format!("column {name}: found {found:?}, expected {wanted:?}"))),
            }
        }
        Ok(reader.map(move |batch| batch.map_err(|error| corrupt(error.to_string()))))
    }
}
