//! What a table holds in one version ([`State`]), and what it is created as ([`Definition`]).
//!
//! A state is live files, application transactions, properties, and what other programs have done. `load` reads it from the log,
//! and `log` keeps it up to date with each commit. A definition is columns, partition columns and properties. Plain data.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use deltalake_core::kernel::StructType;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use serde::{Deserialize, Serialize};

use super::seen::{FORMAT, FORMAT_NEWEST, Seen};
use super::stats::{STATS_COLUMNS, bounded};

/// A live file of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Path below the table.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Number of rows.
    pub rows: u64,
    /// Partition column → value.
    pub partition: BTreeMap<String, String>,
    /// Delta's statistics, as JSON text.
    pub stats: String,
}

/// What a table holds in one version.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The version; 0 is the empty table.
    pub version: u64,
    /// Live files by path.
    pub files: BTreeMap<String, File>,
    /// Application transactions.
    pub txns: BTreeMap<String, i64>,
    /// Table properties.
    pub properties: BTreeMap<String, String>,
    /// The log's `metaData`, as JSON text: to change a part of it, all of it is written again.
    pub metadata: String,
    /// What the log shows of other programs.
    pub seen: Seen,
}

impl State {
    /// The number of the table's layout; absent is 1.
    pub fn format(&self) -> u32 {
        self.properties.get(FORMAT).and_then(|format| format.parse().ok()).unwrap_or(1)
    }

    /// The value of an application transaction; absent is 0.
    pub fn txn(&self, id: &str) -> i64 {
        self.txns.get(id).copied().unwrap_or(0)
    }
}

/// What a table is created as.
pub struct Definition {
    /// Columns, partition columns included.
    pub schema: SchemaRef,
    /// Partition columns.
    pub partitioned_by: &'static [&'static str],
    /// Table properties.
    pub properties: BTreeMap<String, String>,
}

impl Definition {
    /// The same, with more table properties.
    #[must_use]
    pub fn with_properties(mut self, properties: BTreeMap<String, String>) -> Definition {
        self.properties.extend(properties);
        self
    }

    /// The columns as Delta writes them, as JSON text.
    pub(super) fn delta_schema(&self) -> Result<String, String> {
        let schema: Result<StructType, _> = self.schema.as_ref().try_into_kernel();
        let schema = schema.map_err(|error| format!("its schema can not be converted to a Delta schema: {error}"))?;
        serde_json::to_string(&schema).map_err(|error| error.to_string())
    }

    /// The columns that files have statistics of.
    fn stats_columns(&self) -> Vec<&str> {
        let of_files =
            self.schema.fields().iter().filter(|field| !self.partitioned_by.contains(&field.name().as_str()));
        of_files.filter(|field| has_statistics(field.data_type())).map(|field| field.name().as_str()).collect()
    }

    /// The properties of a table with these files: the number of its layout, and the columns by which readers may skip files. Files
    /// of earlier builds have statistics of fewer columns.
    pub(super) fn said_of<'a>(&self, files: impl Iterator<Item = &'a File>) -> BTreeMap<String, String> {
        let columns = files.fold(self.stats_columns(), |columns, file| bounded(&file.stats, &columns));
        let format = (FORMAT.to_owned(), FORMAT_NEWEST.to_string());
        BTreeMap::from([format, (STATS_COLUMNS.to_owned(), columns.join(","))])
    }
}

fn has_statistics(data_type: &DataType) -> bool {
    data_type.is_integer() || matches!(data_type, DataType::Utf8 | DataType::Timestamp(..))
}

/// The Arrow type of every time in a table.
pub(crate) fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}
