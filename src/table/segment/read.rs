//! Reads the file of a segment: its footer, then its row groups one after the other.
//!
//! In: a live file. Out: [`Group`]s in file order, whose bytes can be copied or decoded. A small file is read with one request. Of a
//! larger one, the footer with the page indexes is read first, then neighbouring row groups with one request, one request ahead.
//! State: the rest of the footer, and twice the bytes of a request. Failure: it waits while the store is away; what is no such
//! file, or is missing, is a damaged table.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    FileMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader, RowGroupMetaData,
};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::SchemaDescriptor;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;

use super::columns::BATCH_ROWS;
use super::keys::{self, LastKey};
use crate::model::Cell;
use crate::process::panics::of_task;
use crate::table::fetch::Batches;
use crate::table::store::{file_size, read_file, read_range};
use crate::table::{File, TableError};

/// How much is read with one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Requests {
    /// A file that is not larger is read whole.
    pub(crate) whole_bytes: u64,
    /// How much of a larger file's end is read first: the footer of most.
    pub(crate) tail_bytes: u64,
    /// Neighbouring row groups are read together, up to about this many bytes.
    pub(crate) window_bytes: u64,
}

impl Default for Requests {
    fn default() -> Self {
        Requests { whole_bytes: 4 << 20, tail_bytes: 256 << 10, window_bytes: 8 << 20 }
    }
}

/// Reads a segment's file, in batches of at most [`BATCH_ROWS`].
///
/// # Errors
/// [`TableError::Corrupt`] when it is no Parquet file.
pub fn read_segment(file: &File, bytes: Bytes) -> Result<Batches, TableError> {
    Batches::open(bytes, None, None, BATCH_ROWS).map_err(|error| corrupt(&file.path, error))
}

fn corrupt(path: &str, what: impl std::fmt::Display) -> TableError {
    TableError::Corrupt { table: "counts".to_owned(), what: format!("{path}: {what}") }
}

/// Part of a file, addressed by offsets in the file.
#[derive(Clone)]
pub(crate) struct Span {
    start: u64,
    bytes: Bytes,
}

impl Span {
    fn range(&self) -> Range<u64> {
        self.start..self.start + self.bytes.len() as u64
    }

    fn holds(&self, range: &Range<u64>) -> bool {
        self.start <= range.start && range.end <= self.range().end
    }

    /// The bytes from an offset on.
    fn from(&self, start: u64) -> Result<Bytes, ParquetError> {
        match start.checked_sub(self.start) {
            Some(at) if at <= self.bytes.len() as u64 => Ok(self.bytes.slice(at as usize..)),
            _ => Err(ParquetError::EOF(format!("offset {start} is outside of {:?}", self.range()))),
        }
    }
}

impl Length for Span {
    fn len(&self) -> u64 {
        self.range().end
    }
}

impl ChunkReader for Span {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.from(start)?;
        match bytes.len() >= length {
            true => Ok(bytes.slice(..length)),
            false => Err(ParquetError::EOF(format!("{length} bytes at {start} are outside of {:?}", self.range()))),
        }
    }
}

/// A row group.
pub(crate) struct Group {
    path: Arc<str>,
    /// The file's schema, without row groups.
    file: FileMetaData,
    meta: RowGroupMetaData,
    content: Span,
    /// The end of the file, from the first page index on.
    tail: Bytes,
    size: u64,
    last_key: Option<LastKey>,
    is_last: bool,
}

impl Group {
    /// The file's path below the table.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Whether no row group of its file follows.
    pub(crate) fn is_last(&self) -> bool {
        self.is_last
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> u64 {
        self.meta.num_rows().max(0) as u64
    }

    /// Bytes of the texts that may be large, decoded.
    pub(super) fn text_bytes(&self) -> u64 {
        let of = |name: &str| {
            let chunk = self.meta.columns().iter().find(|chunk| chunk.column_descr().name() == name);
            chunk.and_then(|chunk| chunk.unencoded_byte_array_data_bytes()).unwrap_or(0).max(0) as u64
        };
        of("customer_id") + of("dimension_value")
    }

    pub(super) fn schema(&self) -> &SchemaDescriptor {
        self.file.schema_descr()
    }

    pub(super) fn content(&self) -> &Span {
        &self.content
    }

    pub(super) fn last_key(&self) -> Option<&LastKey> {
        self.last_key.as_ref()
    }

    /// The last cell, as bytes that sort; `None` if the file does not say.
    pub(crate) fn last_cell(&self) -> Option<Vec<u8>> {
        self.last_key.as_ref().map(LastKey::cell)
    }

    /// Its rows, decoded.
    ///
    /// # Errors
    /// [`TableError::Corrupt`].
    pub(crate) fn batches(&self) -> Result<Batches, TableError> {
        let metadata = Arc::new(ParquetMetaData::new(self.file.clone(), vec![self.meta.clone()]));
        Batches::of(self.content.clone(), metadata, None, None, BATCH_ROWS).map_err(|error| corrupt(&self.path, error))
    }

    /// Its column chunks with their page indexes, as a writer appends them.
    pub(super) fn chunks(&self) -> Result<Vec<ColumnCloseResult>, TableError> {
        let of_one = ParquetMetaData::new(self.file.clone(), vec![self.meta.clone()]);
        let mut reader =
            ParquetMetaDataReader::new_with_metadata(of_one).with_page_index_policy(PageIndexPolicy::Optional);
        let read = reader.read_page_indexes_sized(&self.tail, self.size).and_then(|()| reader.finish());
        let indexed = read.map_err(|error| corrupt(&self.path, error))?;
        let (columns, offsets) = (indexed.column_index(), indexed.offset_index());
        let chunk = |(number, metadata): (usize, &parquet::file::metadata::ColumnChunkMetaData)| ColumnCloseResult {
            bytes_written: metadata.compressed_size().max(0) as u64,
            rows_written: self.rows(),
            metadata: metadata.clone(),
            bloom_filter: None,
            column_index: columns
                .map(|groups| groups[0][number].clone())
                .filter(|index| !matches!(index, ColumnIndexMetaData::NONE)),
            offset_index: offsets.map(|groups| groups[0][number].clone()),
        };
        Ok(self.meta.columns().iter().enumerate().map(chunk).collect())
    }

    /// That what was decoded ends with the cell that the footer names.
    ///
    /// # Errors
    /// [`TableError::Corrupt`].
    pub(crate) fn check_last(&self, found: &[u8]) -> Result<(), TableError> {
        match self.last_cell() {
            Some(named) if named != found => Err(corrupt(
                &self.path,
                format!("a row group ends with {:?}, its footer says {:?}", Cell::decode(found), Cell::decode(&named)),
            )),
            _ => Ok(()),
        }
    }
}

/// A request that is under way.
type Reading = JoinHandle<Result<Bytes, object_store::Error>>;

/// Reads the row groups of a file.
pub(crate) struct SegmentReader {
    store: Arc<dyn ObjectStore>,
    location: Path,
    path: Arc<str>,
    size: u64,
    file: FileMetaData,
    groups: VecDeque<(RowGroupMetaData, Option<LastKey>)>,
    tail: Span,
    /// The bytes that were read last.
    window: Span,
    ahead: Option<(Range<u64>, Reading)>,
    window_bytes: u64,
}

impl SegmentReader {
    /// Opens a live file.
    ///
    /// # Errors
    /// [`TableError::Corrupt`], [`TableError::Storage`], [`TableError::Denied`].
    pub(crate) async fn open(
        store: Arc<dyn ObjectStore>,
        file: &File,
        requests: Requests,
    ) -> Result<SegmentReader, TableError> {
        let location = Path::from(file.path.as_str());
        let reading = |error| TableError::reading("counts", &location, error);
        let bad = |error: ParquetError| corrupt(&file.path, error);
        let (mut size, mut tail) = (file.size, Bytes::new());
        if size <= requests.whole_bytes {
            tail = read_file(store.as_ref(), &location).await.map_err(reading)?;
            size = tail.len() as u64;
        } else {
            // Ranges beyond the end would look like an outage.
            let found = file_size(store.as_ref(), &location).await.map_err(reading)?;
            if found != size {
                return Err(corrupt(&file.path, format!("it has {found} bytes, {size} by the log")));
            }
        }
        let mut wanted = requests.tail_bytes;
        // A mask would do to decode pages, but a copy keeps all that the footer says.
        let options = ParquetMetaDataOptions::new().with_encoding_stats_as_mask(false);
        let metadata = loop {
            if (tail.len() as u64) < wanted.min(size) {
                tail = read_range(store.as_ref(), &location, size - wanted.min(size)..size).await.map_err(reading)?;
            }
            let mut reader = ParquetMetaDataReader::new()
                .with_page_index_policy(PageIndexPolicy::Skip)
                .with_metadata_options(Some(options.clone()));
            match reader.try_parse_sized(&tail, size) {
                Ok(()) => break reader.finish().map_err(bad)?,
                Err(ParquetError::NeedMoreData(needed)) => wanted = needed as u64,
                Err(error) => return Err(bad(error)),
            }
        };
        let indexes = (metadata.row_groups().iter().flat_map(RowGroupMetaData::columns))
            .flat_map(|chunk| [chunk.column_index_offset(), chunk.offset_index_offset()])
            .flatten()
            .min();
        if let Some(first) = indexes.map(|first| first.max(0) as u64)
            && first < size - tail.len() as u64
        {
            tail = read_range(store.as_ref(), &location, first..size).await.map_err(reading)?;
        }
        let of = metadata.file_metadata();
        let last_keys = keys::read(&metadata);
        let schema = of.schema_descr_ptr();
        let orders = of.column_orders().cloned();
        let plain = FileMetaData::new(of.version(), of.num_rows(), None, None, schema, orders);
        let groups = metadata.into_builder().take_row_groups();
        let mut last_keys = last_keys.map(Vec::into_iter);
        let groups = groups.into_iter().map(|group| (group, last_keys.as_mut().and_then(Iterator::next))).collect();
        Ok(SegmentReader {
            location,
            path: file.path.as_str().into(),
            size,
            file: plain,
            groups,
            tail: Span { start: size - tail.len() as u64, bytes: tail },
            window: Span { start: 0, bytes: Bytes::new() },
            ahead: None,
            window_bytes: requests.window_bytes,
            store,
        })
    }

    /// Sends all row groups, then `None`; less if nobody takes them any more.
    ///
    /// # Errors
    /// As [`SegmentReader::open`]; the sender is dropped then, without `None`.
    pub(crate) async fn feed(mut self, to: Sender<Option<Group>>) -> Result<(), TableError> {
        loop {
            let group = self.next().await?;
            let is_end = group.is_none();
            if to.send(group).await.is_err() || is_end {
                return Ok(());
            }
        }
    }

    /// The next row group that has rows; `None` after the last one.
    async fn next(&mut self) -> Result<Option<Group>, TableError> {
        loop {
            let Some((meta, _)) = self.groups.front() else { return Ok(None) };
            let range = range_of(meta);
            let content = self.span(&range).await?;
            let Some((meta, last_key)) = self.groups.pop_front() else { return Ok(None) };
            if meta.num_rows() > 0 {
                return Ok(Some(Group {
                    path: Arc::clone(&self.path),
                    file: self.file.clone(),
                    meta,
                    content,
                    tail: self.tail.bytes.clone(),
                    size: self.size,
                    last_key,
                    is_last: self.groups.is_empty(),
                }));
            }
        }
    }

    async fn span(&mut self, range: &Range<u64>) -> Result<Span, TableError> {
        if self.tail.holds(range) {
            return Ok(self.tail.clone());
        }
        if !self.window.holds(range) {
            let ahead = self.ahead.take_if(|(ahead, _)| ahead.start <= range.start && range.end <= ahead.end);
            let (start, read) = match ahead {
                Some((ahead, task)) => {
                    let read = task.await;
                    (ahead.start, read.map_err(|error| TableError::Bug(of_task("reading a file of counts", error)))?)
                }
                None => {
                    let window = self.window_from(0).unwrap_or_else(|| range.clone());
                    (window.start, read_range(self.store.as_ref(), &self.location, window).await)
                }
            };
            let bytes = read.map_err(|error| TableError::reading("counts", &self.location, error))?;
            self.window = Span { start, bytes };
            self.read_ahead();
        }
        Ok(self.window.clone())
    }

    /// Begins to read what follows the window.
    fn read_ahead(&mut self) {
        let after = self.groups.iter().position(|(group, _)| !self.window.holds(&range_of(group)));
        let Some(range) = after.and_then(|after| self.window_from(after)) else { return };
        if self.tail.holds(&range) {
            return;
        }
        let (store, location, wanted) = (Arc::clone(&self.store), self.location.clone(), range.clone());
        let task = tokio::spawn(async move { read_range(store.as_ref(), &location, wanted).await });
        self.ahead = Some((range, task));
    }

    /// The bytes of neighbouring row groups, from one on: about as many as one request should read.
    fn window_from(&self, first: usize) -> Option<Range<u64>> {
        let mut groups = self.groups.iter().skip(first).map(|(group, _)| range_of(group));
        let mut window = groups.next()?;
        for group in groups {
            if group.start < window.end || group.end - window.start > self.window_bytes {
                break;
            }
            window.end = group.end;
        }
        Some(window)
    }
}

impl Drop for SegmentReader {
    fn drop(&mut self) {
        if let Some((_, task)) = self.ahead.take() {
            task.abort();
        }
    }
}

/// Where the column chunks of a row group are.
fn range_of(group: &RowGroupMetaData) -> Range<u64> {
    let ranges = || group.columns().iter().map(|chunk| chunk.byte_range());
    let start = ranges().map(|(start, _)| start).min().unwrap_or(0);
    start..ranges().map(|(start, length)| start + length).max().unwrap_or(0)
}
