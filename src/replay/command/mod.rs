//! `floodmark replay …`: the commands.
//!
//! In: a command line. Out: the result on stdout, as text or JSON; progress on stderr; the exit code. Each command is one call into the
//! modules below: `plan` calls `request`; `run` calls `request`, `count` and `compare`; `publish` and `undo` call `publish`; `diff` and
//! `list` read; `discard` deletes. State: none; what a killed command left is described in each module.

pub mod arguments;
pub mod diff;
pub mod list;
mod publish;
mod run;
mod text;

use clap::Subcommand;
use serde_json::json;

use crate::job::Job;
use crate::model::TimeUs;
use crate::process::Clock;
use crate::process::Exit;
use crate::replay::count::chunks::CHUNK_BYTES;
use crate::replay::discard::discard;
use crate::replay::error::ReplayError;
use crate::replay::publish::admission::Direction;
use crate::replay::request::estimate::Estimate;
use crate::replay::request::prepare::prepare;
use crate::table::Root;
use crate::terminal::{Location, grouped};
use arguments::{DiffArgs, IdArgs, ListArgs, PlanArgs, ReplayRunArgs};
use diff::{DiffFilter, diff};
use list::list;
use text::print;

/// Recount a range of the past from the archive; show the difference, publish it, or undo it
#[derive(Subcommand, Clone, Debug)]
#[command(after_help = "A replay changes nothing in the tables before `publish`. The job keeps running meanwhile.\n\
    Typical use: correct the job file, restart the job with it, then:\n  \
    floodmark replay run jobs/web-analytics.toml --from 2026-01-10 --to 2026-01-13 --id fix-42\n  \
    floodmark replay diff fix-42 --job jobs/web-analytics.toml\n  \
    floodmark replay publish fix-42 --job jobs/web-analytics.toml")]
pub enum ReplayCommand {
    /// Show what a replay would read and change; writes nothing
    Plan(PlanArgs),
    /// Recount a range with the job's logic, and write what would change; continues a killed run with the same id
    Run(ReplayRunArgs),
    /// Show what a replay would change, or has changed
    Diff(DiffArgs),
    /// Apply a replay's changes, in one atomic commit
    Publish(IdArgs),
    /// Revert a published replay's changes, in one atomic commit
    Undo(IdArgs),
    /// List all replays and their states
    List(ListArgs),
    /// Delete the files of a replay that is not published
    Discard(IdArgs),
}

/// Runs a command to its end, and returns its exit code.
///
/// # Errors
/// [`ReplayError`].
pub fn run(command: &ReplayCommand) -> Result<Exit, ReplayError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("storage")
        .enable_all()
        .build()
        .map_err(|error| ReplayError::Thread(error.to_string()))?;
    let result = runtime.block_on(async {
        match command {
            ReplayCommand::Plan(args) => estimate(args).await,
            ReplayCommand::Run(args) => run::run(args).await,
            ReplayCommand::Diff(args) => show_diff(args).await,
            ReplayCommand::Publish(args) => {
                let place = Location::open(&args.at.job).await?;
                let published = publish::publish(&place.root, &args.id, Direction::Publish).await?;
                print(args.at.output, &published, || publish::sentence(&published, Direction::Publish))
            }
            ReplayCommand::Undo(args) => {
                let place = Location::open(&args.at.job).await?;
                let published = publish::publish(&place.root, &args.id, Direction::Undo).await?;
                print(args.at.output, &published, || publish::sentence(&published, Direction::Undo))
            }
            ReplayCommand::List(args) => {
                let place = Location::open(&args.at.job).await?;
                let replays = list(&place.root).await?;
                print(args.at.output, &replays, || text::list(&replays))
            }
            ReplayCommand::Discard(args) => {
                let place = Location::open(&args.at.job).await?;
                let files = discard(&place.root, &args.id).await?;
                let id = &args.id;
                print(args.at.output, &json!({"id": id, "files": files}), || {
                    format!("replay {id} is discarded: {} files deleted", grouped(files))
                })
            }
        }
    });
    // Workers of a replay that has failed may still use the runtime; they end with the process.
    std::mem::forget(runtime);
    result
}

async fn estimate(args: &PlanArgs) -> Result<Exit, ReplayError> {
    let job = Job::load(&args.range.job)?;
    let root = Root::open(&job.tables.url, &job.tables.options)?;
    let request = args.range.request("plan".to_owned(), CHUNK_BYTES)?;
    let prepared = prepare(&job, &root, request, Clock::System.now_ms()).await?;
    let estimate = Estimate::of(&prepared, args.range.workers())?;
    print(args.range.output, &estimate, || text::estimate(&estimate))
}

async fn show_diff(args: &DiffArgs) -> Result<Exit, ReplayError> {
    let place = Location::open(&args.at.job).await?;
    let filter = DiffFilter {
        granularity: args.granularity,
        dimension: args.dimension.clone(),
        customer: args.customer.clone(),
        windows: args.from.unwrap_or(TimeUs::MIN)..args.to.unwrap_or(TimeUs::MAX),
        top: args.top,
    };
    let found = diff(&place.root, &args.id, &filter).await?;
    print(args.at.output, &found, || found.text())
}
