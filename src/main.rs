//! The command line.

use std::process::ExitCode;

use clap::Parser;
use floodmark::dev::DevCommand;

/// Kafka to exact, always-current counts in Parquet
#[derive(Parser)]
#[command(version)]
enum Command {
    /// Generate traffic, send files, run an embedded broker
    #[command(subcommand)]
    Dev(DevCommand),
}

fn main() -> ExitCode {
    let Command::Dev(command) = Command::parse();
    match floodmark::dev::run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floodmark: {error:#}");
            ExitCode::FAILURE
        }
    }
}
