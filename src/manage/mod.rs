//! `floodmark table …`: looks at tables and looks after them, with a job running or without one.
//!
//! Each command takes a job file, a folder of tables, one table, or the URL of either ([`Location`]). Results go to stdout, how far
//! it is to stderr. Nothing here changes a row of a table.

mod compact;
mod export;
mod history;
mod vacuum;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use crate::exit::{Exit, HasExit};
use crate::table::TableError;
use crate::terminal::{Location, LocationError, Output};
use crate::upkeep::error::CompactError;

/// The commands.
#[derive(Subcommand, Clone, Debug)]
pub enum TableCommand {
    /// What was committed to the tables, newest first
    History(history::HistoryArgs),
    /// Delete files that no version of the last hours needs
    Vacuum(vacuum::VacuumArgs),
    /// Merge small files of raw; no row changes
    Compact(compact::CompactArgs),
    /// Write a snapshot of a table as plain Parquet, for readers that know no Delta Lake
    Export(export::ExportArgs),
}

/// Which tables, and how the result is written.
#[derive(Args, Clone, Debug)]
struct Common {
    /// A job file, the folder of a job's tables, or one table; a path or a URL as s3://bucket/path. Without a job file the
    /// store's options come from the environment: AWS_ENDPOINT, AWS_REGION, AWS_ACCESS_KEY_ID … (also GOOGLE_…, AZURE_…)
    #[arg(value_name = "JOB|PATH|URL")]
    place: String,

    /// How the result is written to stdout
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// A choice of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tables {
    /// The archive.
    Raw,
    /// The counts.
    Counts,
    /// Both.
    All,
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    /// The command line.
    #[error("{0}")]
    Usage(String),
    /// What it names.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// A table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Merging files.
    #[error(transparent)]
    Compact(#[from] CompactError),
    /// Not all could be done.
    #[error("{what}")]
    Incomplete {
        /// How the command ends.
        exit: Exit,
        /// What was not, and why.
        what: String,
    },
    /// A folder of this machine.
    #[error("{doing}: {error}; check the path and its permissions")]
    Disk {
        /// What was being done.
        doing: String,
        /// Why it failed.
        error: std::io::Error,
    },
    /// The result can not be written.
    #[error("the result can not be written to stdout: {0}")]
    Output(#[source] std::io::Error),
}

impl HasExit for ManageError {
    fn exit(&self) -> Exit {
        match self {
            ManageError::Usage(_) => Exit::Usage,
            ManageError::Location(error) => error.exit(),
            ManageError::Table(error) => error.exit(),
            ManageError::Compact(error) => error.exit(),
            ManageError::Incomplete { exit, .. } => *exit,
            ManageError::Disk { .. } | ManageError::Output(_) => Exit::Failed,
        }
    }
}

impl Common {
    fn print(&self, json: impl FnOnce() -> Value, text: impl FnOnce() -> String) -> Result<(), ManageError> {
        self.output.print(json, text).map_err(ManageError::Output)
    }
}

/// Names of the tables, of those that were asked for.
fn names_of(wanted: Tables, location: &Location) -> Result<Vec<String>, ManageError> {
    let names: &[&str] = match wanted {
        Tables::Raw => &["raw"],
        Tables::Counts => &["counts"],
        Tables::All => &["raw", "counts"],
    };
    match &location.table {
        Some(table) if wanted == Tables::All || names == [table] => Ok(vec![table.clone()]),
        Some(table) => Err(ManageError::Usage(format!(
            "--table {} and a path to table {table}: leave one of them out",
            names.join(", ")
        ))),
        None => Ok(names.iter().map(|name| (*name).to_owned()).collect()),
    }
}

impl ManageError {
    fn retry(what: String) -> ManageError {
        ManageError::Incomplete { exit: Exit::TryAgain, what }
    }

    fn disk(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> ManageError {
        let doing = doing.into();
        move |error| ManageError::Disk { doing, error }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// [`ManageError`].
pub fn run(command: TableCommand) -> Result<(), ManageError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("storage")
        .enable_all()
        .build()
        .map_err(ManageError::disk("no thread for storage"))?;
    runtime.block_on(async {
        match command {
            TableCommand::History(args) => history::run(&args).await,
            TableCommand::Vacuum(args) => vacuum::run(&args).await,
            TableCommand::Compact(args) => compact::run(&args).await,
            TableCommand::Export(args) => export::run(&args).await,
        }
    })
}
