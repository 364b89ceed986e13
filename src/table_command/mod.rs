//! `floodmark table …`: commands that inspect and maintain tables, with a job running or without one.
//!
//! Each command takes a job file, a folder of tables, one table, or the URL of either ([`crate::terminal::Location`]). Results go
//! to stdout, progress to stderr. No command changes a row of a table.

mod arguments;
mod compact;
mod error;
mod export;
mod history;
mod vacuum;

use clap::Subcommand;

pub use error::TableCommandError;

/// The commands.
#[derive(Subcommand, Clone, Debug)]
pub enum TableCommand {
    /// Show the commits of the tables, newest first
    History(history::HistoryArgs),
    /// Delete files that no version of the last hours needs
    Vacuum(vacuum::VacuumArgs),
    /// Merge small files of raw; no row changes
    Compact(compact::CompactArgs),
    /// Write a snapshot of a table as plain Parquet, for readers without support for Delta Lake
    Export(export::ExportArgs),
}

/// Runs a command to its end.
///
/// # Errors
/// [`TableCommandError`].
pub fn run(command: TableCommand) -> Result<(), TableCommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("storage")
        .enable_all()
        .build()
        .map_err(TableCommandError::Thread)?;
    runtime.block_on(async {
        match command {
            TableCommand::History(args) => history::run(&args).await,
            TableCommand::Vacuum(args) => vacuum::run(&args).await,
            TableCommand::Compact(args) => compact::run(&args).await,
            TableCommand::Export(args) => export::run(&args).await,
        }
    })
}
