//! `floodmark dev`: generated traffic, files into topics, an embedded broker. For trying things out, demos and tests; the job
//! itself uses nothing of it. [`Traffic`] is the generator as an iterator.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context;
use clap::Subcommand;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

mod broker;
mod format;
mod generate;
mod produce;
mod progress;
mod random;
mod send;
mod text;
mod traffic;
mod vocabulary;

pub use broker::BrokerArgs;
pub use format::{RecordLine, read_record_line, write_record_line};
pub use generate::GenArgs;
pub use produce::{ProduceArgs, TimestampSource};
pub use send::KafkaArgs;
pub use traffic::{Generated, InvalidTraffic, Traffic, TrafficOptions, TrafficRange};

/// What `floodmark dev` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum DevCommand {
    /// Generate web-analytics events: seeded, with late and broken ones, to a topic or a file
    Gen(GenArgs),
    /// Send the lines of a file to a topic
    Produce(ProduceArgs),
    /// Run an embedded Kafka broker: in memory, for trying things out
    Broker(BrokerArgs),
}

/// Runs one of them to its end.
///
/// # Errors
/// As each says.
pub fn run(command: DevCommand) -> anyhow::Result<()> {
    match command {
        DevCommand::Gen(args) => generate::run(args),
        DevCommand::Produce(args) => produce::run(args),
        DevCommand::Broker(args) => broker::run(args),
    }
}

/// SIGINT and SIGTERM, caught from here on.
struct StopSignals {
    runtime: runtime::Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn catch() -> anyhow::Result<Self> {
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().context("can not wait for signals")?;
        let entered = runtime.enter();
        let interrupt = signal(SignalKind::interrupt()).context("can not catch SIGINT")?;
        let terminate = signal(SignalKind::terminate()).context("can not catch SIGTERM")?;
        drop(entered);
        Ok(StopSignals { runtime, interrupt, terminate })
    }

    /// Waits for either.
    fn wait(&mut self) {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
        });
    }

    /// A flag that the first signal raises; the second one ends the process at once.
    fn flag(mut self) -> Arc<AtomicBool> {
        let raised = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&raised);
        thread::spawn(move || {
            self.wait();
            flag.store(true, Ordering::Relaxed);
            self.wait();
            process::exit(130);
        });
        raised
    }
}
