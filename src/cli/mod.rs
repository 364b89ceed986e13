//! The subcommands, and which exit code an error becomes.

mod run;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use floodmark::dev::DevCommand;
use floodmark::job::JobError;
use floodmark::live::LiveError;
use floodmark::manage::{ManageError, TableCommand};
use floodmark::monitor::ListenError;
use floodmark::replay::ReplayError;
use floodmark::replay::command::ReplayCommand;
use floodmark::say;
use floodmark::status::{StatusArgs, StatusError};
use floodmark::verify::{Verdict, VerifyArgs, VerifyError};
use tracing_subscriber::EnvFilter;

/// Kafka to exact, always-current counts in Parquet
///
/// Reads raw events from Kafka, keeps per-customer windowed counts exact and current as a Delta Lake table, and archives every
/// raw byte beside it.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 3 differences found, 75 try again, 76 another copy has taken over (do not restart),
/// 78 configuration.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What is logged to stderr: error, warn, info, debug, or a filter such as `floodmark=debug`
    #[arg(long, global = true, env = "FLOODMARK_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// How it is logged; json: one object a line, the live line and the last word too
    #[arg(long, global = true, env = "FLOODMARK_LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Run a job: from Kafka to the tables, until it is stopped
    Run(run::RunArgs),
    /// Say how a job is doing, from its tables: how fresh, how far behind Kafka, what is pending, what was rejected
    Status(StatusArgs),
    /// Count the archive again, independently, and compare every row of counts
    Verify(VerifyArgs),
    #[command(subcommand)]
    Replay(ReplayCommand),
    /// Look after the tables: what was committed, merge small files, delete dead ones, export
    #[command(subcommand)]
    Table(TableCommand),
    /// For trying things out: generated traffic, files into topics, an embedded broker
    #[command(subcommand)]
    Dev(DevCommand),
}

/// Parses, runs, and says what happened.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = log(&cli.log, cli.log_format) {
        eprintln!("floodmark: {error:#}");
        return ExitCode::from(2);
    }
    let result = match cli.command {
        Command::Run(args) => run::run(&args).map(|()| 0),
        Command::Status(args) => floodmark::status::run(&args).map(|()| 0).map_err(Into::into),
        Command::Verify(args) => floodmark::verify::run(args).map(Verdict::exit_code).map_err(Into::into),
        Command::Replay(command) => floodmark::replay::command::run(&command).map_err(Into::into),
        Command::Table(command) => floodmark::manage::run(command).map(|()| 0).map_err(Into::into),
        Command::Dev(command) => floodmark::dev::run(command).map(|()| 0),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say::error(&said(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}

/// An error with its causes; those that its own text has already are not said again.
fn said(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(error) = error.downcast_ref::<LiveError>() {
        error.exit_code()
    } else if let Some(error) = error.downcast_ref::<VerifyError>() {
        error.exit_code()
    } else if let Some(error) = error.downcast_ref::<ManageError>() {
        error.exit_code()
    } else if let Some(error) = error.downcast_ref::<ReplayError>() {
        error.exit_code()
    } else if let Some(error) = error.downcast_ref::<StatusError>() {
        error.exit_code()
    } else if let Some(error) = error.downcast_ref::<ListenError>() {
        error.exit_code()
    } else if error.downcast_ref::<JobError>().is_some() {
        78
    } else {
        1
    }
}

fn log(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    // The libraries below speak of their own affairs at info; librdkafka tells us what it tells its log.
    let filter = match filter {
        level @ ("error" | "warn" | "info" | "debug" | "trace") => format!("warn,librdkafka=off,floodmark={level}"),
        filter => filter.to_owned(),
    };
    let filter = EnvFilter::try_new(&filter).map_err(|error| {
        anyhow::anyhow!("--log {filter:?}: {error}; expected a level, or a filter such as floodmark=debug")
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => {
            log.json().flatten_event(true).with_span_list(false).init();
            say::to_log();
            std::panic::set_hook(Box::new(|info| tracing::error!("{info}")));
        }
    }
    Ok(())
}
