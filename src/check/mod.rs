//! `floodmark check JOB`: checks a job file, and shows what it would count in a sample, before anything runs.
//!
//! In: a job file; with `--sample`, the lines of a file or the first records of the job's topics. Out: [`Check`], as text or as one JSON
//! object. The decoder is the same as the job's, so the job counts what is counted here. State: one line (of bounded length), or what the
//! Kafka client returns at once; and the records that are shown. Failure and restart: nothing is written: no table is opened, and no offset
//! is committed.

mod error;
mod facts;
mod sample;
mod text;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use crate::job::Job;
use crate::process::Exit;
use crate::terminal::Output;
use crate::terminal::output::to_stdout;

pub use error::CheckError;
pub use facts::{
    CellFacts, Check, ConditionFacts, DimensionFacts, FieldFacts, FoundFacts, Position, RecordFacts, RejectionFacts,
    SampleFacts,
};

/// Options of `floodmark check`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Exit codes: 0 even if records are rejected, because they are data; 78 if the job file is wrong. \
    Records from a file have no Kafka timestamp (except with --gen-format), so none is rejected because its event \
    time is too far ahead of that."
)]
pub struct CheckArgs {
    /// The job file
    #[arg(value_name = "JOB")]
    pub job: PathBuf,

    /// Decode a sample: a file with one record per line (- for stdin), or the first N records of the job's topics,
    /// taken evenly from the partitions. For a file whose name is a number, write ./7
    #[arg(long, value_name = "FILE|N")]
    pub sample: Option<Sample>,

    /// The file's lines are what `floodmark dev gen --output` writes: partition, timestamp, key and value
    #[arg(long, requires = "sample")]
    pub gen_format: bool,

    /// How many records of the sample to show with everything that was found in them
    #[arg(long, value_name = "N", default_value_t = 3, requires = "sample")]
    pub show: usize,

    /// Exit with 3 if a record of the sample is rejected
    #[arg(long, requires = "sample")]
    pub detailed_exitcode: bool,

    /// How the result is written to stdout
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Where a sample is taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sample {
    /// The lines of a file; `-` is stdin.
    File(PathBuf),
    /// The first records of the job's topics.
    Topics(u64),
}

impl FromStr for Sample {
    type Err = String;

    fn from_str(text: &str) -> Result<Sample, String> {
        if text.is_empty() {
            return Err("expected a file, - or a number of records".to_owned());
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Sample::File(text.into()));
        }
        match text.parse() {
            Ok(records) if records > 0 => Ok(Sample::Topics(records)),
            _ => Err("expected at least 1 record, and at most 2^64 - 1".to_owned()),
        }
    }
}

/// Runs the command to its end, and writes the result to stdout.
///
/// # Errors
/// [`CheckError`] when there is no result.
pub fn run(args: &CheckArgs) -> Result<Exit, CheckError> {
    let job = Job::load(&args.job)?;
    if args.gen_format && matches!(args.sample, Some(Sample::Topics(_))) {
        return Err(CheckError::Usage(
            "--gen-format: expected a file as --sample; it does not apply to records of a topic".to_owned(),
        ));
    }
    let mut check = Check::of(&job, args.job.display().to_string());
    match &args.sample {
        None => {}
        Some(Sample::File(file)) => check.sample = Some(sample::of_file(&job, file, args.gen_format, args.show)?),
        Some(Sample::Topics(records)) => check.sample = Some(sample::of_topics(&job, *records, args.show)?),
    }
    let text = match args.output {
        Output::Json => check.json(),
        Output::Text => check.text(is_coloured()),
    };
    to_stdout(&text)?;
    let rejected = check.sample.is_some_and(|sample| sample.rejected_records > 0);
    Ok(if args.detailed_exitcode && rejected { Exit::Differences } else { Exit::Done })
}

/// Whether to use colours: only on a terminal, and unless the user has turned them off (no-color.org).
fn is_coloured() -> bool {
    let is_unset = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
    std::io::stdout().is_terminal()
        && is_unset("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
