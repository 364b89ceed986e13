//! Files of the store, fetched to be read in any order: small ones into memory, larger ones into a temporary file without a name.

use std::fs::File as DiskFile;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error as StoreError, GetResult, ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::TableError;
use super::store::{Backoff, may_pass};

/// A larger file goes to disk.
const MEMORY_BYTES_MAX: u64 = 1 << 20;

/// A file that was fetched.
pub struct Fetched(Content);

enum Content {
    Memory(Bytes),
    Disk(Disk),
}

/// A file of this machine that several readers read at once: each at its own place.
#[derive(Clone)]
struct Disk(Arc<DiskFile>);

struct DiskFrom {
    disk: Disk,
    at: u64,
}

impl Read for DiskFrom {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.disk.0.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Length for Disk {
    fn len(&self) -> u64 {
        self.0.metadata().map_or(0, |metadata| metadata.len())
    }
}

impl ChunkReader for Disk {
    type T = BufReader<DiskFrom>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(DiskFrom { disk: self.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// Why a file was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No room for a temporary file.
    #[error("a temporary file can not be used: {0}; set TMPDIR to a folder with room")]
    Scratch(#[from] std::io::Error),
}

impl FetchError {
    /// As a table's error; `doing`: what was being done.
    pub fn of_table(self, doing: String) -> TableError {
        match self {
            FetchError::Store(error) => TableError::storage(doing, error),
            FetchError::Scratch(error) => TableError::Scratch(error.to_string()),
        }
    }
}

/// Fetches a file that is there. While the store is away it waits.
///
/// # Errors
/// [`FetchError`]; [`StoreError::NotFound`] when it is gone.
pub async fn fetch(store: &dyn ObjectStore, path: &str) -> Result<Fetched, FetchError> {
    let path = Path::from(path);
    let mut backoff = Backoff::new();
    loop {
        match fetch_once(store, &path).await {
            Err(FetchError::Store(error)) if may_pass(&error) => {
                tracing::warn!(%path, %error, "file not read, trying again; check the store");
                backoff.pause().await;
            }
            done => return done,
        }
    }
}

async fn fetch_once(store: &dyn ObjectStore, path: &Path) -> Result<Fetched, FetchError> {
    let found = store.get(path).await?;
    if found.meta.size <= MEMORY_BYTES_MAX {
        return Ok(Fetched::of_memory(found.bytes().await?));
    }
    to_disk(found).await
}

/// Puts what a store answers into a temporary file.
///
/// # Errors
/// [`FetchError`].
pub async fn to_disk(found: GetResult) -> Result<Fetched, FetchError> {
    let mut disk = tempfile::tempfile()?;
    let mut chunks = found.into_stream();
    while let Some(chunk) = chunks.try_next().await? {
        disk.write_all(&chunk)?;
    }
    Ok(Fetched::of_disk(disk))
}

impl Fetched {
    /// A Parquet file in memory.
    pub fn of_memory(bytes: Bytes) -> Fetched {
        Fetched(Content::Memory(bytes))
    }

    /// A Parquet file that is on this machine already.
    pub fn of_disk(disk: DiskFile) -> Fetched {
        Fetched(Content::Disk(Disk(Arc::new(disk))))
    }

    /// Its rows in batches; all columns, or those that are named; all row groups, or those that are chosen.
    ///
    /// # Errors
    /// It is no Parquet file.
    pub fn batches(
        &self,
        columns: Option<&[&str]>,
        row_groups: Option<Vec<usize>>,
        batch_rows: usize,
    ) -> Result<ParquetRecordBatchReader, ParquetError> {
        match &self.0 {
            Content::Memory(bytes) => batches(bytes.clone(), columns, row_groups, batch_rows),
            Content::Disk(disk) => batches(disk.clone(), columns, row_groups, batch_rows),
        }
    }
}

fn batches(
    content: impl ChunkReader + 'static,
    columns: Option<&[&str]>,
    row_groups: Option<Vec<usize>>,
    batch_rows: usize,
) -> Result<ParquetRecordBatchReader, ParquetError> {
    let mut builder = ParquetRecordBatchReaderBuilder::try_new(content)?.with_batch_size(batch_rows);
    if let Some(columns) = columns {
        let projection = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
        builder = builder.with_projection(projection);
    }
    if let Some(row_groups) = row_groups {
        builder = builder.with_row_groups(row_groups);
    }
    builder.build()
}
