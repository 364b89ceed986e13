//! `floodmark dev`: generated traffic, files sent to topics, an embedded broker, and the tools with which `scripts/bench` measures.
//!
//! For trying things out, demos and tests; the job itself uses nothing of it. In: a command line. Out: records in a topic or file, tables,
//! or a report. [`Traffic`] is the generator as an iterator. State and failure: see each command.

use clap::Subcommand;

mod broker;
mod cells;
mod event;
mod format;
mod generate;
mod limit;
mod long_life;
mod preload;
mod produce;
mod random;
mod report;
mod requests;
mod schedule;
mod send;
mod stages;
mod stream;
mod text;
mod traffic;
mod vocabulary;

pub use broker::BrokerArgs;
pub use format::{RecordLine, read_record_line, write_record_line};
pub use generate::GenArgs;
pub use limit::LimitArgs;
pub use long_life::LongLifeArgs;
pub use preload::PreloadArgs;
pub use produce::{ProduceArgs, TimestampSource};
pub use report::ReportArgs;
pub use schedule::TrafficRange;
pub use send::KafkaArgs;
pub use stages::stage_cpu;
pub use traffic::{Generated, InvalidTraffic, Traffic, TrafficOptions};

/// What `floodmark dev` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum DevCommand {
    /// Generate web-analytics events, including late and broken ones, from a seed, to a topic or a file
    #[command(long_about = generate::HELP)]
    Gen(GenArgs),
    /// Send the lines of a file to a topic
    #[command(long_about = produce::HELP)]
    Produce(ProduceArgs),
    /// Run an embedded Kafka broker: in memory, for trying things out
    #[command(long_about = broker::HELP)]
    Broker(BrokerArgs),
    /// Do a job's work as a bare loop without its guarantees; scripts/bench compares a job with it
    #[command(long_about = limit::HELP)]
    Limit(LimitArgs),
    /// Create tables with weeks of history, as a job would have left them
    #[command(long_about = preload::HELP)]
    Preload(PreloadArgs),
    /// Run a job through a simulated day, as fast as it can
    #[command(long_about = long_life::HELP)]
    LongLife(LongLifeArgs),
    /// Print a short report from the tables: top customers, one customer's hours, rejected records
    Report(ReportArgs),
}

/// Runs one of the commands to its end.
///
/// # Errors
/// Those of the command.
pub fn run(command: DevCommand) -> anyhow::Result<()> {
    match command {
        DevCommand::Gen(args) => generate::run(args),
        DevCommand::Produce(args) => produce::run(args),
        DevCommand::Broker(args) => broker::run(args),
        DevCommand::Limit(args) => limit::run(&args),
        DevCommand::Preload(args) => preload::run(&args),
        DevCommand::LongLife(args) => long_life::run(&args),
        DevCommand::Report(args) => report::run(args),
    }
}
