//! `floodmark table vacuum`: deletes dead files and old entries of the log by hand, as a running job does by itself.
//!
//! In: the tables, and how long dead files are kept. Out: deleted objects and a summary; with `--dry-run` only the summary.
//! Failure: what could not be deleted is reported, and found again by the next run.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::json;

use super::arguments::{Common, Tables, names_of};
use super::error::TableCommandError;
use crate::process::Clock;
use crate::table::retention;
use crate::terminal::{Location, bytes, grouped, utc};
use crate::upkeep::clean::{Cleaned, Rule, clean};

/// Options of `floodmark table vacuum`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Deletes files that were superseded before the limit, files that no version refers to and that were \
        written before the limit, and entries of the log that only older versions need. A reader of a version older \
        than the limit may find its files gone. Other files in the folder are not touched. A running job does the same \
        every ten minutes.\n\n\
        A limit below one hour may delete files that a running job, a compaction or an export is about to use: stop \
        them all, then pass --retention-hours 0 --force."
)]
pub struct VacuumArgs {
    #[command(flatten)]
    common: Common,

    /// Which tables
    #[arg(long, value_enum, default_value_t = Tables::All)]
    table: Tables,

    /// How many hours to keep superseded files; default: settings.dead_files_keep_hours of the job, else the
    /// retention recorded in the table
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    retention_hours: Option<u32>,

    /// Only report what would be deleted
    #[arg(long)]
    dry_run: bool,

    /// Allow --retention-hours 0; only if no job, compaction, export or reader is using these tables
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(args: &VacuumArgs) -> Result<(), TableCommandError> {
    if args.retention_hours == Some(0) && !args.force {
        return Err(TableCommandError::Usage(
            "--retention-hours 0 deletes files that a running job has written and is about to commit, and files that \
             readers are using; expected 1 or more, or --force after stopping everything that uses the tables"
                .to_owned(),
        ));
    }
    let location = Location::open(&args.common.place).await?;
    let mut tables = BTreeMap::new();
    for table in names_of(args.table, &location)? {
        let (log, state) = location.load(&table).await?;
        let job = location.job.as_ref().map(|job| job.settings.dead_files_keep_hours);
        let hours = args.retention_hours.map(u64::from).or(job).or_else(|| retention::keep_hours(&state)).unwrap_or(24);
        let rule = Rule {
            before_ms: Clock::System.now_ms() - hours as i64 * 3_600_000,
            no_job_runs: hours == 0,
            dry_run: args.dry_run,
        };
        tables.insert(table, (hours, clean(&log, rule).await?));
    }
    let json = |(hours, cleaned): &(u64, Cleaned)| json!({"retention_hours": hours, "cleaned": cleaned});
    args.common.print(
        || {
            let tables: BTreeMap<_, _> = tables.iter().map(|(table, done)| (table, json(done))).collect();
            json!({ "dry_run": args.dry_run, "tables": tables })
        },
        || tables.iter().map(|(table, (hours, cleaned))| line(table, cleaned, args.dry_run, *hours)).collect(),
    )?;
    for (table, (_, cleaned)) in &tables {
        if let (Some(exit), Some(failure)) = (cleaned.exit, &cleaned.failure) {
            let failed = grouped(cleaned.failed);
            let what = format!("table {table}: {failed} objects could not be deleted: {failure}; then run this again");
            return Err(TableCommandError::Incomplete { exit, what });
        }
    }
    Ok(())
}

fn line(table: &str, cleaned: &Cleaned, dry_run: bool, hours: u64) -> String {
    let did = if dry_run { "would delete" } else { "deleted" };
    let oldest = cleaned.oldest_ms.map(|ms| format!(", the oldest dead since {}", utc(ms))).unwrap_or_default();
    format!(
        "{table}: {did} {} files of {}, dead for {hours} h or more{oldest}; and {} entries of the log\n",
        grouped(cleaned.files),
        bytes(cleaned.bytes),
        grouped(cleaned.log_entries)
    )
}
