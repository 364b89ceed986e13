//! Writes the file of a segment: row groups that are encoded, and row groups that are copied as bytes.
//!
//! In: rows in file order, and row groups of other files. Out: the bytes of the file, as it grows, and at the end its entry for the
//! log. A copied row group keeps its pages, statistics and page index; only offsets change. A column that its file does not have
//! becomes a chunk of nulls. State: the rows of a row group or two, and the footer.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, ArrowWriter, compute_leaves};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescriptor;

use super::columns::Columns;
use super::groups::{Shape, Stretch};
use super::keys::{self, LastKey};
use super::read::Group;

use crate::model::Segment;
use crate::table::counts::{file_schema, window_ends};
use crate::table::stats::Stats;
use crate::table::{File, TableError};

/// Rows in a page: to read one customer's series should cost a few pages.
const PAGE_ROWS: usize = 8192;

/// What takes the bytes of a file.
pub trait Out: Write + Send {
    /// How many bytes it took.
    fn size(&self) -> u64;
}

impl Out for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }
}

/// Writes one segment; `W` takes the bytes of its file.
pub struct SegmentWriter<W: Out = Vec<u8>> {
    segment: Segment,
    shape: Shape,
    schema: SchemaRef,
    file: SerializedFileWriter<W>,
    factory: ArrowRowGroupWriterFactory,
    stretch: Stretch,
    last_keys: Vec<LastKey>,
}

impl SegmentWriter {
    /// An empty segment, in memory.
    ///
    /// # Errors
    /// [`TableError::Bug`] when the encoder refuses the schema.
    pub fn new(segment: Segment) -> Result<Self, TableError> {
        SegmentWriter::to(segment, Shape::of(&segment), Vec::new())
    }

    /// Ends the segment; `None` where it has no rows. `name` distinguishes the file from all others.
    ///
    /// # Errors
    /// [`TableError::Bug`] when the encoder fails.
    pub fn finish(self, name: &str) -> Result<Option<(File, Bytes)>, TableError> {
        Ok(self.end(name)?.map(|(file, bytes)| (file, Bytes::from(bytes))))
    }
}

impl<W: Out> SegmentWriter<W> {
    /// An empty segment that is written to `out`.
    pub(crate) fn to(segment: Segment, shape: Shape, out: W) -> Result<Self, TableError> {
        SegmentWriter::with_schema(segment, shape, out, file_schema())
    }

    /// The same with these columns: columns beyond those of [`Columns`] can be null, and are.
    pub(super) fn with_schema(segment: Segment, shape: Shape, out: W, schema: SchemaRef) -> Result<Self, TableError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_data_page_row_count_limit(PAGE_ROWS.min(shape.rows_max))
            .build();
        let writer = ArrowWriter::try_new(out, Arc::clone(&schema), Some(properties)).map_err(encoding)?;
        let (file, factory) = writer.into_serialized_writer().map_err(encoding)?;
        let stretch = Stretch::new(shape);
        Ok(SegmentWriter { segment, shape, schema, file, factory, stretch, last_keys: Vec::new() })
    }

    /// The segment.
    pub fn segment(&self) -> Segment {
        self.segment
    }

    /// Appends rows.
    ///
    /// # Errors
    /// [`TableError::Bug`] when the encoder fails, [`TableError::Storage`] when the file is written to a store that fails.
    pub fn write(&mut self, columns: Columns) -> Result<(), TableError> {
        if !columns.is_empty() {
            self.stretch.push(columns);
        }
        while let Some(group) = self.stretch.full() {
            self.encode(&group)?;
        }
        Ok(())
    }

    /// Whether a row group of another file may follow as it is: not after rows that would be a small group, or a file would
    /// crumble; and not if it has other columns.
    pub(crate) fn takes(&self, group: &Group) -> bool {
        !self.stretch.is_small() && is_copyable(group.schema(), self.file.schema_descr())
    }

    /// Whether a row group is so small that it should take rows that follow it.
    pub(crate) fn is_small(&self, group: &Group) -> bool {
        self.shape.is_small(group.rows() as usize, group.text_bytes() as usize)
    }

    /// Appends a row group of another file as it is. Returns the bytes that were copied.
    ///
    /// # Errors
    /// As [`SegmentWriter::write`]; [`TableError::Corrupt`] when the group can not be read.
    pub(crate) fn copy(&mut self, group: &Group) -> Result<u64, TableError> {
        self.end_stretch()?;
        let Some(last_key) = group.last_key() else {
            return Err(TableError::Bug("a row group without its last cell can not be copied".to_owned()));
        };
        let mut chunks = group.chunks()?.into_iter().peekable();
        let mut copied = 0;
        let missing = self.missing(group)?;
        let mut missing = missing.into_iter();
        let columns = self.file.schema_descr().columns().to_vec();
        let mut writer = self.file.next_row_group().map_err(encoding)?;
        for column in columns {
            match chunks.next_if(|chunk| chunk.metadata.column_descr().path() == column.path()) {
                Some(chunk) => {
                    copied += chunk.bytes_written;
                    writer.append_column(group.content(), chunk).map_err(encoding)?;
                }
                None => {
                    let nulls =
                        missing.next().ok_or_else(|| TableError::Bug("a column was copied twice".to_owned()))?;
                    nulls.append_to_row_group(&mut writer).map_err(encoding)?;
                }
            }
        }
        writer.close().map_err(encoding)?;
        self.last_keys.push(last_key.clone());
        Ok(copied)
    }

    /// Chunks of nulls for the columns that a row group does not have.
    fn missing(&self, group: &Group) -> Result<Vec<ArrowColumnChunk>, TableError> {
        if group.schema().num_columns() == self.schema.fields().len() {
            return Ok(Vec::new());
        }
        let known: Vec<&str> = group.schema().columns().iter().map(|column| column.name()).collect();
        let writers = self.factory.create_column_writers(self.last_keys.len()).map_err(encoding)?;
        let mut chunks = Vec::new();
        for (field, mut writer) in self.schema.fields().iter().zip(writers) {
            if known.contains(&field.name().as_str()) {
                continue;
            }
            let nulls = new_null_array(field.data_type(), group.rows() as usize);
            for leaf in compute_leaves(field, &nulls).map_err(encoding)? {
                writer.write(&leaf).map_err(encoding)?;
            }
            chunks.push(writer.close().map_err(encoding)?);
        }
        Ok(chunks)
    }

    fn end_stretch(&mut self) -> Result<(), TableError> {
        while let Some(group) = self.stretch.rest() {
            self.encode(&group)?;
        }
        Ok(())
    }

    /// Encodes one row group.
    fn encode(&mut self, batches: &[Columns]) -> Result<(), TableError> {
        let mut writers = self.factory.create_column_writers(self.last_keys.len()).map_err(encoding)?;
        for columns in batches {
            let arrays = self.arrays(columns);
            for ((field, array), writer) in self.schema.fields().iter().zip(&arrays).zip(&mut writers) {
                for leaf in compute_leaves(field, array).map_err(encoding)? {
                    writer.write(&leaf).map_err(encoding)?;
                }
            }
        }
        let mut group = self.file.next_row_group().map_err(encoding)?;
        for writer in writers {
            writer.close().and_then(|chunk| chunk.append_to_row_group(&mut group)).map_err(encoding)?;
        }
        group.close().map_err(encoding)?;
        self.last_keys.extend(LastKey::of(batches));
        Ok(())
    }

    fn arrays(&self, columns: &Columns) -> Vec<ArrayRef> {
        let ends = window_ends(self.segment.granularity, &columns.window_start);
        let of = |name: &str| -> Option<ArrayRef> {
            Some(match name {
                "customer_id" => Arc::new(columns.customer.clone()),
                "window_start" => Arc::new(columns.window_start.clone().with_timezone("UTC")),
                "window_end" => Arc::new(ends.clone()),
                "dimension" => Arc::new(columns.dimension.clone()),
                "dimension_value" => Arc::new(columns.value.clone()),
                "event_count" => Arc::new(columns.event_count.clone()),
                _ => return None,
            })
        };
        let fields = self.schema.fields().iter();
        fields
            .map(|field| of(field.name()).unwrap_or_else(|| new_null_array(field.data_type(), columns.len())))
            .collect()
    }

    /// Ends the segment. Returns its entry for the log and what took its bytes; `None` where it has no rows.
    pub(crate) fn end(mut self, name: &str) -> Result<Option<(File, W)>, TableError> {
        self.end_stretch()?;
        let stats = Stats::of(self.file.flushed_row_groups());
        if stats.rows() == 0 {
            return Ok(None);
        }
        self.file.append_key_value_metadata(keys::entry(&self.last_keys)?);
        let out = self.file.into_inner().map_err(encoding)?;
        Ok(Some((file_of(self.segment, name, out.size(), stats), out)))
    }
}

/// The path of a segment's file.
pub(crate) fn path_of(segment: &Segment, name: &str) -> String {
    let (granularity, bucket) = (segment.granularity, segment.bucket);
    let period = segment.period.label(segment.period_start);
    format!("granularity={granularity}/period={period}/bucket={bucket}/{name}.parquet")
}

fn file_of(segment: Segment, name: &str, size: u64, stats: Stats) -> File {
    File {
        path: path_of(&segment, name),
        size,
        rows: stats.rows(),
        partition: BTreeMap::from([
            ("granularity".to_owned(), segment.granularity.name().to_owned()),
            ("period".to_owned(), segment.period.label(segment.period_start)),
            ("bucket".to_owned(), segment.bucket.to_string()),
        ]),
        stats: stats.into_json(),
    }
}

/// Whether all columns of `theirs` are among `ours`, in the same order, and what it lacks can be null.
fn is_copyable(theirs: &SchemaDescriptor, ours: &SchemaDescriptor) -> bool {
    let mut theirs = theirs.columns().iter().peekable();
    let all = ours
        .columns()
        .iter()
        .all(|column| theirs.next_if(|other| *other == column).is_some() || column.self_type().is_optional());
    all && theirs.next().is_none()
}

fn encoding(error: ParquetError) -> TableError {
    TableError::Bug(format!("a segment of counts can not be encoded: {error}"))
}
