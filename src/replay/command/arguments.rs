//! The arguments of the `replay` commands.
//!
//! In: the command line. Out: what each command is to do; a range becomes a [`ReplayRequest`], and a file of customers is read. Whatever
//! can be refused without reading the tables is refused here. State: none.

use std::path::PathBuf;

use clap::Args;

use crate::cluster::ClusterArgs;
use crate::model::{Granularity, TimeUs};
use crate::replay::count::chunks::CHUNK_BYTES;
use crate::replay::error::ReplayError;
use crate::replay::request::prepare::ReplayRequest;
use crate::replay::request::submission::Asked;
use crate::replay::times;
use crate::terminal::Output;

/// The range of a replay.
#[derive(Args, Clone, Debug)]
pub struct RangeArgs {
    /// The job file; the range is recounted with its logic
    #[arg(value_name = "JOB")]
    pub(super) job: PathBuf,
    /// First event time, inclusive: a date or a time, UTC
    #[arg(long, value_name = "TIME", value_parser = times::parse, requires = "to", required_unless_present = "ingest_from")]
    pub(super) from: Option<TimeUs>,
    /// Last event time, exclusive; may lie in the future
    #[arg(long, value_name = "TIME", value_parser = times::parse, requires = "from")]
    pub(super) to: Option<TimeUs>,
    /// In place of --from: recount every window that rows ingested at or after this time fall into, by their old or their new event
    /// time; for a job file that takes the event time from another place in the record than before
    #[arg(long, value_name = "TIME", value_parser = times::parse, requires = "ingest_to", conflicts_with_all = ["from", "to"])]
    pub(super) ingest_from: Option<TimeUs>,
    /// End of the range of ingest times, exclusive
    #[arg(long, value_name = "TIME", value_parser = times::parse, requires = "ingest_from", conflicts_with_all = ["from", "to"])]
    pub(super) ingest_to: Option<TimeUs>,
    /// Only this customer; repeat the option for more, or give @FILE with one customer per line. The reported numbers of rows still
    /// include all customers, because a rejected row has none
    #[arg(long, value_name = "ID|@FILE")]
    pub(super) customers: Vec<String>,
    /// Worker threads of each process; default: one per core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) workers: Option<u16>,
    /// How the result is written to stdout
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
}

/// Options of `replay plan`.
#[derive(Args, Clone, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    pub(super) range: RangeArgs,
}

/// Options of `replay run`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed or refused, 2 usage, 3 with --detailed-exitcode where cells differ, published or \
    not, 75 try again, 78 configuration. The same id means the same replay: if it is submitted again, it continues, or prints its \
    result.\n\
    With several processes, process 0 prints the result, and the others exit with 0. If one process is lost, all exit with 75: start \
    them again, in any number."
)]
pub struct ReplayRunArgs {
    #[command(flatten)]
    pub(super) range: RangeArgs,
    /// The replay's id: letters, digits, `-`, `_`, `.`; default: generated from the current time
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    pub(super) id: Option<String>,
    /// Publish the result at once
    #[arg(long)]
    pub(super) publish: bool,
    /// Exit with 3 if any cell differs, even if `--publish` has published it; 0 then means that no cell differs
    #[arg(long)]
    pub(super) detailed_exitcode: bool,
    /// How many of the largest changes to show, at most ten of each granularity; `replay diff` shows more
    #[arg(long, value_name = "N", default_value_t = TOP)]
    pub(super) top: usize,
    /// Memory for the counts in each process; what exceeds it is written to the store as sorted runs
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) memory_mib: u32,
    /// Size of a chunk of the files of `raw`: the counts are saved after each chunk, so that a killed replay continues from there
    #[arg(long, value_name = "N", default_value_t = (CHUNK_BYTES >> 20) as u32, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) chunk_mib: u32,
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
}

/// Where a replay is.
#[derive(Args, Clone, Debug)]
pub struct At {
    /// A job file, or the location of its tables: a folder, or a URL with keys from the environment (AWS_ACCESS_KEY_ID …)
    #[arg(long, value_name = "JOB|URL", env = "FLOODMARK_JOB")]
    pub(super) job: String,
    /// How the result is written to stdout
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
}

/// Options of commands about one replay.
#[derive(Args, Clone, Debug)]
pub struct IdArgs {
    /// The replay's id
    #[arg(value_parser = parse_id)]
    pub(super) id: String,
    #[command(flatten)]
    pub(super) at: At,
}

/// Options of `replay list`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    pub(super) at: At,
}

/// Options of `replay diff`.
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    /// The replay's id
    #[arg(value_parser = parse_id)]
    pub(super) id: String,
    #[command(flatten)]
    pub(super) at: At,
    /// Only cells of this granularity
    #[arg(long, value_name = "NAME")]
    pub(super) granularity: Option<Granularity>,
    /// Only cells of this dimension
    #[arg(long, value_name = "NAME")]
    pub(super) dimension: Option<String>,
    /// Only cells of this customer
    #[arg(long, value_name = "ID")]
    pub(super) customer: Option<String>,
    /// Only windows that begin at or after this time
    #[arg(long, value_name = "TIME", value_parser = times::parse)]
    pub(super) from: Option<TimeUs>,
    /// Only windows that begin before this time
    #[arg(long, value_name = "TIME", value_parser = times::parse)]
    pub(super) to: Option<TimeUs>,
    /// How many of the largest changes to show
    #[arg(long, value_name = "N", default_value_t = TOP)]
    pub(super) top: usize,
}

/// How many of the largest changes are shown.
const TOP: usize = 10;

/// Accepts only what can be a part of paths and of transaction names.
fn parse_id(text: &str) -> Result<String, String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(known) || text.starts_with('.') {
        return Err("expected 1 to 64 letters, digits, `-`, `_` and `.`, not beginning with `.`".to_owned());
    }
    Ok(text.to_owned())
}

impl RangeArgs {
    /// The request that these arguments make.
    pub(super) fn request(&self, id: String, chunk_bytes: u64) -> Result<ReplayRequest, ReplayError> {
        let mut customers = Vec::new();
        for given in &self.customers {
            match given.strip_prefix('@') {
                Some(path) => {
                    let text = std::fs::read_to_string(path)
                        .map_err(|error| ReplayError::Usage(format!("--customers @{path}: {error}; check the path")))?;
                    customers.extend(text.lines().filter(|line| !line.is_empty()).map(str::to_owned));
                }
                None => customers.push(given.clone()),
            }
        }
        customers.sort_unstable();
        customers.dedup();
        if customers.is_empty() && !self.customers.is_empty() {
            return Err(ReplayError::Usage("--customers names no customer: expected one per line".to_owned()));
        }
        let asked = match (self.from.zip(self.to), self.ingest_from.zip(self.ingest_to)) {
            (Some((from, to)), _) => Asked::EventTimes(from..to),
            (None, Some((from, to))) => Asked::IngestTimes(from..to),
            (None, None) => {
                return Err(ReplayError::Usage(
                    "no range: expected --from and --to, or --ingest-from and --ingest-to".to_owned(),
                ));
            }
        };
        Ok(ReplayRequest { id, asked, customers: (!customers.is_empty()).then_some(customers), chunk_bytes })
    }

    /// How many worker threads to use.
    pub(super) fn workers(&self) -> usize {
        match self.workers {
            Some(workers) => usize::from(workers),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}
