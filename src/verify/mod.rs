//! `floodmark verify JOB`: counts the archive again, and compares every row of `counts` with it.
//!
//! ```text
//! counts' log ─┬► layout: live files in slots ─┐
//!   ledger ────┴► rules: which logic counts ─┐ │
//! raw's log ─► files ─► recount (decode again) ─► sums by cell, sorted ─► compare, slot by slot ─► report
//!                                                        counts' files ───┘
//! ```
//!
//! It proves that a version of `counts` is a recount of `raw` (promise 1), and that `raw` holds each record once, with the outcome that the
//! decoder gives it (promise 4). Each row is decoded by the logic that the ledger names. Cells that depend on a logic whose code or text is
//! gone are not compared; they are reported.
//!
//! Shared with the job are only the decoder, the job file, and the code that reads the log and the ledger. Windows, lateness, sums, order,
//! buckets, periods and the rule of the ledger are written a second time, so that a fault in one of the two shows as a difference.
//!
//! In: the newest version of `counts` at the start, and the version of `raw` that is newest right after; the job may be running meanwhile.
//! Out: a report; nothing is written to the tables. State: the budget of the sums ([`Options::memory_bytes`]; beyond it sums go to
//! temporary files and are merged), a few files fetched ahead (`spool`), the decoded pages of one row group, the windows of one customer in
//! one file, the lists of live files, and, if a logic is gone, the windows that hold rows of it. Failure: no verdict. Restart: from the
//! beginning.

mod compare;
mod counted;
mod difference;
mod error;
mod gone;
mod key;
mod layout;
mod recount;
mod rules;
mod spool;
mod sums;
#[cfg(test)]
pub(crate) mod tests;
mod window;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use futures::StreamExt;

use crate::job::Job;
use crate::table::{Log, Root, State, counts, raw};
use crate::terminal::{LiveLine, Output, duration};

use compare::{Basis, Compare};
use counted::Counted;
use difference::Differences;
pub use difference::{Check, Difference, Gone, NotCheckable, Report, Subject, Verdict};
pub use error::VerifyError;
use layout::Layout;
use recount::Recount;
use rules::Rules;
use sums::Sums;
use window::LANES;

/// Options of `floodmark verify`.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// The job file
    #[arg(value_name = "JOB")]
    pub job: PathBuf,

    /// How the result is written to stdout
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,

    /// Differences to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,

    /// MiB of memory for the recounted cells; what does not fit goes to temporary files (in TMPDIR)
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub memory_mib: u32,
}

/// How to verify.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Memory that the sums may take before they are spilled.
    pub memory_bytes: usize,
    /// How many differences are kept.
    pub limit: usize,
    /// Whether to show the progress on stderr.
    pub progress: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { memory_bytes: 512 << 20, limit: 20, progress: false }
    }
}

/// Runs the command to its end, and writes the result to stdout.
///
/// # Errors
/// [`VerifyError`] when no verdict was reached.
pub fn run(args: VerifyArgs) -> Result<Verdict, VerifyError> {
    let started = std::time::Instant::now();
    let job = Job::load(&args.job)?;
    let root = Root::open(&job.tables.url, &job.tables.options)?;
    let options = Options { memory_bytes: (args.memory_mib as usize) << 20, limit: args.limit, progress: true };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("storage")
        .enable_all()
        .build()
        .map_err(VerifyError::Thread)?;
    let report = runtime.block_on(verify(&job, &root, options))?;
    let text = || {
        let table = report.table();
        let space = if table.is_empty() { "" } else { "\n" };
        let notes: String = report.notes.iter().map(|note| format!("note: {note}\n")).collect();
        format!("{table}{space}{notes}{} (in {})", report.sentence(), duration(started.elapsed().as_secs_f64()))
    };
    args.output.print(|| &report, text)?;
    Ok(report.verdict)
}

/// Verifies the newest version of `counts`.
///
/// # Errors
/// [`VerifyError`] when no verdict was reached.
pub async fn verify(job: &Job, root: &Root, options: Options) -> Result<Report, VerifyError> {
    // `counts` is read first, since `raw` is never behind it.
    let (counts_log, counts_state) = Log::newest(root, "counts").await?;
    let (raw_log, raw_state) = Log::newest(root, "raw").await?;
    // A job with another logic may have archived rows in between. This version of `counts` does not hold them yet, but their outcomes are
    // checked.
    let mut counts_now = counts_state.clone();
    counts_log.refresh(&mut counts_now).await?;
    let rules = Rules::load(root, &counts_state, &counts_now, job).await?;
    let buckets = counts::buckets(&counts_state)?;
    let lanes = LANES.map(|lane| counts_state.txn(&format!("lane/{lane}")));
    let named: BTreeMap<&'static str, i64> = LANES.into_iter().zip(lanes).collect();

    let mut differences = Differences::new(options.limit);
    let raw_epoch = raw_state.txn(raw::EPOCH);
    for (&lane, &epoch) in named.iter().filter(|(_, epoch)| **epoch > raw_epoch) {
        let expected = format!("at most {raw_epoch}, raw's newest");
        differences.add(Check::EpochBeyond, Subject::Lane { lane }, epoch.to_string(), expected);
    }
    let layout = Layout::new(&counts_state, &mut differences)?;

    let rows = |state: &State| state.files.values().map(|file| file.rows).sum::<u64>();
    let mut progress = options.progress.then(|| LiveLine::new("verify", Some(rows(&raw_state) + rows(&counts_state))));
    let mut done = 0;

    let sums = Sums::new(options.memory_bytes);
    let mut recount = Recount::new(&rules, &layout, &lanes, buckets, sums);
    let mut files = spool::fetched(&raw_log, raw_state.files.values().cloned().collect());
    while let Some(spooled) = files.next().await {
        recount.file(spooled?, &mut differences, |rows| {
            done += rows;
            if let Some(progress) = &mut progress {
                progress.tick(done, || "reading raw".to_owned());
            }
        })?;
    }
    let (sums, tallies, doubt) = recount.finish();
    let spilled = sums.spilled();
    let alone = rules.alone().and_then(|rule| rule.known.logic()).map(Counted::new);

    let sorted = sums.finish().map_err(VerifyError::Spill)?;
    let basis = Basis { buckets, alone: alone.as_ref(), doubt: &doubt };
    let mut compare = Compare::new(basis, sorted, &mut differences);
    let files = layout.slots.iter().flat_map(|slot| slot.files.iter().map(|(file, _)| file.clone()));
    let mut files = spool::fetched(&counts_log, files.collect());
    for (index, slot) in layout.slots.iter().enumerate() {
        compare
            .slot(index, slot, &mut files, |rows| {
                done += rows;
                if let Some(progress) = &mut progress {
                    progress.tick(done, || "comparing counts".to_owned());
                }
            })
            .await?;
    }
    let (cells, not_checkable) = compare.rows();
    compare.rest(&raw_state)?;
    if let Some(progress) = progress {
        progress.clear();
    }

    let verdict = if differences.count() == 0 { Verdict::Exact } else { Verdict::Differences };
    let (differences, first) = differences.finish();
    Ok(Report {
        verdict,
        counts_version: counts_state.version,
        raw_version: raw_state.version,
        raw_epoch,
        lanes: named,
        cells,
        records: tallies.records,
        epochs: tallies.epochs,
        counted: tallies.counted,
        filtered: tallies.filtered,
        rejected: tallies.rejected,
        differences,
        first,
        spilled,
        not_checkable: NotCheckable { cells: not_checkable, because: doubt.because(raw_epoch) },
        notes: rules.notes.clone(),
    })
}
