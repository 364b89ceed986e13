//! A few columns of a Parquet file, read by range: first the footer, which often says enough, then only what is asked for.
//!
//! In: a live file. Out: what a row group's statistics say of a column, or rows of some columns. State: the footer, and one
//! row group's pages of those columns, compressed; so a file of any size is read in bounded memory.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::statistics::Statistics;

use crate::table::{File, Log, TableError};

/// How much is fetched for the footer at first: the footer of a file of `raw` with few row groups fits.
const FOOTER_BYTES: usize = 16 << 10;

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;

/// A file whose footer was read.
pub(super) struct Footer {
    table: String,
    path: String,
    remote: Remote,
    metadata: ArrowReaderMetadata,
}

/// What statistics say of a column of integers or times in a row group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    /// Least and greatest; `None` where all are null.
    pub(super) range: Option<(i64, i64)>,
}

impl Footer {
    /// Reads the footer of a live file.
    ///
    /// # Errors
    /// [`TableError::Storage`], [`TableError::Corrupt`].
    pub(super) async fn read(log: &Log, file: &File) -> Result<Footer, TableError> {
        let mut remote =
            Remote { store: Arc::clone(log.store()), path: Path::from(file.path.as_str()), size: file.size };
        let metadata = ArrowReaderMetadata::load_async(&mut remote, ArrowReaderOptions::new())
            .await
            .map_err(|error| failed(log.name(), &file.path, error))?;
        Ok(Footer { table: log.name().to_owned(), path: file.path.clone(), remote, metadata })
    }

    /// Number of rows of each row group.
    pub(super) fn group_rows(&self) -> Vec<u64> {
        self.metadata.metadata().row_groups().iter().map(|group| group.num_rows() as u64).collect()
    }

    /// What a row group's statistics say of a column of integers or times; `None` where they do not say.
    pub(super) fn numbers(&self, group: usize, column: &str) -> Option<Numbers> {
        let rows = self.metadata.metadata().row_group(group).num_rows() as u64;
        match self.statistics(group, column)? {
            Statistics::Int64(found) => match (found.min_opt(), found.max_opt()) {
                (Some(least), Some(greatest)) => Some(Numbers { range: Some((*least, *greatest)) }),
                _ if found.null_count_opt() == Some(rows) => Some(Numbers { range: None }),
                _ => None,
            },
            _ => None,
        }
    }

    /// The text that a column has in every row of a row group; `None` where that is not known.
    pub(super) fn only_text(&self, group: usize, column: &str) -> Option<String> {
        let Statistics::ByteArray(found) = self.statistics(group, column)? else { return None };
        let (least, greatest) = (found.min_opt()?, found.max_opt()?);
        let is_whole = found.min_is_exact() && found.max_is_exact() && found.null_count_opt() == Some(0);
        (is_whole && least == greatest).then(|| least.as_utf8().ok().map(str::to_owned)).flatten()
    }

    fn statistics(&self, group: usize, column: &str) -> Option<&Statistics> {
        let columns = self.metadata.metadata().row_group(group).columns();
        columns.iter().find(|chunk| chunk.column_path().string() == column)?.statistics()
    }

    /// Reads columns of these row groups, a batch at a time.
    ///
    /// # Errors
    /// As [`Footer::read`], and the errors of `each`.
    pub(super) async fn rows(
        self,
        groups: Vec<usize>,
        columns: &[&str],
        mut each: impl FnMut(&RecordBatch) -> Result<(), String>,
    ) -> Result<(), TableError> {
        let Footer { table, path, remote, metadata } = self;
        let failed = |error| failed(&table, &path, error);
        let mask = ProjectionMask::columns(metadata.parquet_schema(), columns.iter().copied());
        let mut batches = ParquetRecordBatchStreamBuilder::new_with_metadata(remote, metadata)
            .with_projection(mask)
            .with_row_groups(groups)
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(failed)?;
        while let Some(batch) = batches.try_next().await.map_err(failed)? {
            each(&batch).map_err(|what| failed(ParquetError::General(what)))?;
        }
        Ok(())
    }
}

fn failed(table: &str, path: &str, error: ParquetError) -> TableError {
    let damage = |what: String| TableError::Corrupt { table: table.to_owned(), what: format!("{path}: {what}") };
    match error {
        ParquetError::External(error) => match error.downcast::<object_store::Error>() {
            Ok(error) => TableError::reading(table, path, *error),
            Err(error) => damage(error.to_string()),
        },
        error => damage(error.to_string()),
    }
}

/// Ranges of a file in a store.
struct Remote {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

impl AsyncFileReader for Remote {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { self.store.get_range(&self.path, range).await.map_err(|error| ParquetError::External(error.into())) }
            .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move {
            self.store.get_ranges(&self.path, &ranges).await.map_err(|error| ParquetError::External(error.into()))
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_BYTES));
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}
