//! The subcommands, and how their results become the exit code of the process.
//!
//! In: the command line. Out: what the subcommand prints, and the exit code. Logging is set up here. State: none.

mod failure;
mod run;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use floodmark::check::CheckArgs;
use floodmark::dev::{DevCommand, stage_cpu};
use floodmark::process::{Exit, panics};
use floodmark::replay::command::ReplayCommand;
use floodmark::status::StatusArgs;
use floodmark::table_command::TableCommand;
use floodmark::terminal::say;
use floodmark::verify::{Verdict, VerifyArgs};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use failure::Failure;

/// Kafka to exact, always-current counts in Parquet
///
/// Reads raw events from Kafka, keeps per-customer windowed counts exact and current as a Delta Lake table, and archives every
/// raw byte beside it.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 3 differences found, 75 try again (Kafka or storage cannot be reached,
/// expired credentials, a lost process), 76 another copy has taken over (do not restart), 78 configuration (job file,
/// credentials, permissions, bucket).
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log level on stderr: error, warn, info, debug, or a filter such as `floodmark=debug`
    #[arg(long, global = true, env = "FLOODMARK_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// Log format; json: one object per line, including the live line and the closing sentence
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
    /// Check a job file, and try it on a sample: what is found in records, what is counted, what is rejected and why
    Check(CheckArgs),
    /// Show how a job is doing, from its tables: how fresh they are, how far behind Kafka, what is pending, what was
    /// rejected
    Status(StatusArgs),
    /// Recount the archive independently, and compare every row of counts
    Verify(VerifyArgs),
    #[command(subcommand)]
    Replay(ReplayCommand),
    /// Maintain the tables: show what was committed, merge small files, delete dead ones, export
    #[command(subcommand)]
    Table(TableCommand),
    /// Tools for trying things out: generate traffic, send files to topics, run an embedded broker
    #[command(subcommand)]
    Dev(DevCommand),
}

/// Parses the command line, runs the command, and reports a failure.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    // This command measures what the job's stages take.
    let measures = matches!(cli.command, Command::Dev(DevCommand::LongLife(_)));
    if let Err(error) = log(&cli.log, cli.log_format, measures) {
        eprintln!("floodmark: {error:#}");
        return ExitCode::from(Exit::Usage.code());
    }
    let command = || match cli.command {
        Command::Run(args) => run::run(&args).map(|()| Exit::Done),
        Command::Check(args) => floodmark::check::run(&args).map_err(Failure::from),
        Command::Status(args) => floodmark::status::run(&args).map(|()| Exit::Done).map_err(Failure::from),
        Command::Verify(args) => floodmark::verify::run(args).map(Verdict::exit).map_err(Failure::from),
        Command::Replay(command) => floodmark::replay::command::run(&command).map_err(Failure::from),
        Command::Table(command) => floodmark::table_command::run(command).map(|()| Exit::Done).map_err(Failure::from),
        Command::Dev(command) => floodmark::dev::run(command).map(|()| Exit::Done).map_err(|error| Failure::of(&error)),
    };
    let result = panics::caught_in("the command", command).unwrap_or_else(|panic| {
        Err(Failure { exit: Exit::Failed, said: format!("{panic}; this is a bug: please report it") })
    });
    let exit = result.unwrap_or_else(|failure| {
        say::error(&failure.said);
        failure.exit
    });
    ExitCode::from(exit.code())
}

fn log(filter: &str, format: LogFormat, measures: bool) -> anyhow::Result<()> {
    // Libraries log their own details at info. librdkafka is off, since it reports to us what it writes to its log.
    let filter = match filter {
        level @ ("error" | "warn" | "info" | "debug" | "trace") => format!("warn,librdkafka=off,floodmark={level}"),
        filter => filter.to_owned(),
    };
    let filter = EnvFilter::try_new(&filter).map_err(|error| {
        anyhow::anyhow!("--log {filter:?}: {error}; expected a level, or a filter such as floodmark=debug")
    })?;
    if measures {
        let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
        let log = log.log_internal_errors(false).with_ansi(std::io::stderr().is_terminal()).with_filter(filter);
        tracing_subscriber::registry().with(stage_cpu()).with(log).init();
        panics::install();
        return Ok(());
    }
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Otherwise it would try to report on stderr that stderr is gone, and panic.
    let log = log.log_internal_errors(false);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => {
            log.json().flatten_event(true).with_span_list(false).init();
            say::to_log();
        }
    }
    panics::install();
    Ok(())
}
