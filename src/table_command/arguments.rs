//! What the table commands have in common: the argument that names the tables, and the form of the result.

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::error::TableCommandError;
use crate::terminal::{Location, Output};

/// Which tables, and how the result is written.
#[derive(Args, Clone, Debug)]
pub(super) struct Common {
    /// A job file, the folder of a job's tables, or one table: a path, or a URL such as s3://bucket/path. Without a job file,
    /// the store's options come from the environment: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID … (also GOOGLE_…, AZURE_…)
    #[arg(value_name = "JOB|PATH|URL")]
    pub(super) place: String,

    /// How the result is written to stdout
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
}

/// A choice of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Tables {
    /// The archive.
    Raw,
    /// The counts.
    Counts,
    /// Both.
    All,
}

impl Common {
    pub(super) fn print(
        &self,
        json: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> Result<(), TableCommandError> {
        Ok(self.output.print(json, text)?)
    }
}

/// The names of the tables that were asked for.
pub(super) fn names_of(wanted: Tables, location: &Location) -> Result<Vec<String>, TableCommandError> {
    let names: &[&str] = match wanted {
        Tables::Raw => &["raw"],
        Tables::Counts => &["counts"],
        Tables::All => &["raw", "counts"],
    };
    match &location.table {
        Some(table) if wanted == Tables::All || names == [table] => Ok(vec![table.clone()]),
        Some(table) => Err(TableCommandError::Usage(format!(
            "--table {} does not fit the path, which is that of table {table}: leave out --table, or give the folder \
             of both tables",
            names.join(", ")
        ))),
        None => Ok(names.iter().map(|name| (*name).to_owned()).collect()),
    }
}
