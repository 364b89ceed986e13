//! Files of the store, fetched whole to be read in any order.
//!
//! In: a path. Out: [`Fetched`]: small files in memory, larger ones in a temporary file without a name; and their rows in
//! [`Batches`] of bounded size. So memory does not grow with a file. State: one file. Failure: it waits while the store is away; if
//! there is no room for the temporary file, the error names `TMPDIR`. A kill leaves nothing behind.

use std::fs::File as DiskFile;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchReader};
use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error as StoreError, GetResult, ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};

use super::error::TableError;
use super::state::{File, time_type};
use super::store::{Backoff, look_at_file, may_pass};

/// A larger file goes to disk.
const MEMORY_BYTES_MAX: u64 = 1 << 20;

/// The same for [`look_at`].
pub const LOOK_BYTES_MAX: u64 = 8 << 20;

/// About this many bytes of rows are read at once.
const BATCH_BYTES: u64 = 8 << 20;

/// Bytes of one column's texts that fit into one batch.
const TEXT_BYTES_MAX: u64 = i32::MAX as u64;

/// A file that was fetched.
pub struct Fetched(Content);

enum Content {
    Memory(Bytes),
    Disk(Disk),
}

/// A file on this machine that several readers read at once, each at its own position.
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
    /// The same as a [`TableError`]; `doing` is what was being done.
    pub fn of_table(self, doing: String) -> TableError {
        match self {
            FetchError::Store(error) => TableError::storage(doing, error),
            FetchError::Scratch(error) => TableError::Scratch(error.to_string()),
        }
    }
}

/// Fetches a file that exists. Waits while the store is away.
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

/// Fetches a live file for those who only look, and report an outage. Several such files are in memory at a time, so larger ones
/// than with [`fetch`] may be.
///
/// # Errors
/// [`FetchError`]; [`StoreError::NotFound`] when it is gone.
pub async fn look_at(store: &dyn ObjectStore, file: &File) -> Result<Fetched, FetchError> {
    let path = Path::from(file.path.as_str());
    if file.size <= LOOK_BYTES_MAX {
        return Ok(Fetched::of_memory(look_at_file(store, &path).await?));
    }
    to_disk(store.get(&path).await?).await
}

/// Writes a store's answer to a temporary file.
async fn to_disk(found: GetResult) -> Result<Fetched, FetchError> {
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

    /// Its rows in [`Batches`]: all columns or the named ones, of all row groups or the chosen ones.
    ///
    /// # Errors
    /// It is no Parquet file.
    pub fn batches(
        &self,
        columns: Option<&[&str]>,
        row_groups: Option<Vec<usize>>,
        batch_rows: usize,
    ) -> Result<Batches, ParquetError> {
        match &self.0 {
            Content::Memory(bytes) => Batches::open(bytes.clone(), columns, row_groups, batch_rows),
            Content::Disk(disk) => Batches::open(disk.clone(), columns, row_groups, batch_rows),
        }
    }
}

/// The rows of a Parquet file in batches, each from one row group. A batch has at most the requested number of rows, and fewer if
/// rows are large, so that its size in bytes is bounded. (The offsets in a batch are 32 bits wide, so it can not hold 2 GiB of
/// texts.)
pub struct Batches {
    schema: SchemaRef,
    open: Box<dyn Fn(usize, usize) -> Result<ParquetRecordBatchReader, ParquetError> + Send>,
    /// Row groups that are still to be read, each with its number of rows a batch.
    row_groups: std::vec::IntoIter<(usize, usize)>,
    reader: Option<ParquetRecordBatchReader>,
}

impl Batches {
    /// The batches of a file's content, as in [`Fetched::batches`].
    ///
    /// # Errors
    /// It is no Parquet file.
    pub fn open(
        content: impl ChunkReader + Clone + 'static,
        columns: Option<&[&str]>,
        row_groups: Option<Vec<usize>>,
        batch_rows: usize,
    ) -> Result<Batches, ParquetError> {
        let metadata = ArrowReaderMetadata::load(&content, ArrowReaderOptions::new())?;
        Batches::of(content, Arc::clone(metadata.metadata()), columns, row_groups, batch_rows)
    }

    /// The same of a file whose metadata is known.
    ///
    /// # Errors
    /// Its schema is not one that can be read.
    pub(super) fn of(
        content: impl ChunkReader + Clone + 'static,
        metadata: Arc<ParquetMetaData>,
        columns: Option<&[&str]>,
        row_groups: Option<Vec<usize>>,
        batch_rows: usize,
    ) -> Result<Batches, ParquetError> {
        let mut metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new())?;
        if let Some(schema) = plain(metadata.schema()) {
            let options = ArrowReaderOptions::new().with_schema(schema);
            metadata = ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options)?;
        }
        let file = Arc::clone(metadata.metadata());
        let projection = columns.map_or_else(ProjectionMask::all, |columns| {
            ProjectionMask::columns(file.file_metadata().schema_descr(), columns.iter().copied())
        });
        let chosen = row_groups.unwrap_or_else(|| (0..file.num_row_groups()).collect());
        let sized = |group: usize| (group, rows_at_once(file.row_group(group), &projection, batch_rows));
        let row_groups: Vec<_> = chosen.into_iter().map(sized).collect();
        let of = |projection: &ProjectionMask| {
            ParquetRecordBatchReaderBuilder::new_with_metadata(content.clone(), metadata.clone())
                .with_projection(projection.clone())
        };
        let schema = of(&projection).with_row_groups(Vec::new()).build()?.schema();
        let open = {
            let (content, metadata) = (content.clone(), metadata.clone());
            move |row_group, rows| {
                ParquetRecordBatchReaderBuilder::new_with_metadata(content.clone(), metadata.clone())
                    .with_projection(projection.clone())
                    .with_row_groups(vec![row_group])
                    .with_batch_size(rows)
                    .build()
            }
        };
        Ok(Batches { schema, open: Box::new(open), row_groups: row_groups.into_iter(), reader: None })
    }

    /// The columns that are read.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(batch) = self.reader.as_mut().and_then(Iterator::next) {
                return Some(batch);
            }
            let (row_group, rows) = self.row_groups.next()?;
            match (self.open)(row_group, rows) {
                Ok(reader) => self.reader = Some(reader),
                Err(error) => return Some(Err(error.into())),
            }
        }
    }
}

/// The schema with our types in place of those that other programs had in memory; `None` if there is nothing to replace. Times in
/// Spark's old format (INT96) are by default read in nanoseconds, which can not hold distant years.
fn plain(schema: &SchemaRef) -> Option<SchemaRef> {
    let of = |found: &DataType| match found {
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Timestamp(TimeUnit::Nanosecond, None) => time_type(),
        other => other.clone(),
    };
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_data_type(of(field.data_type())));
    let plain = Schema::new(fields.collect::<Vec<_>>());
    (plain.fields() != schema.fields()).then(|| Arc::new(plain))
}

/// How many rows of a row group are read at once: as many as make [`BATCH_BYTES`] at their mean size. If the texts of a column in
/// the whole row group would not fit into one batch, it is one row, because any rows may be the large ones.
fn rows_at_once(group: &RowGroupMetaData, projection: &ProjectionMask, rows_max: usize) -> usize {
    let columns = group.columns().iter().enumerate().filter(|(leaf, _)| projection.leaf_included(*leaf));
    // Repeated texts may be stored once; their unpacked size is recorded separately.
    let bytes = |column: &ColumnChunkMetaData| {
        column.unencoded_byte_array_data_bytes().unwrap_or(0).max(column.uncompressed_size()).max(0) as u64
    };
    let (mut sum, mut largest) = (0, 0);
    for (_, column) in columns {
        let bytes = bytes(column);
        (sum, largest) = (sum + bytes, bytes.max(largest));
    }
    if largest > TEXT_BYTES_MAX {
        return 1;
    }
    let mean = (sum / group.num_rows().max(1) as u64).max(1);
    (BATCH_BYTES / mean).clamp(1, rows_max as u64) as usize
}
