//! `floodmark table compact`: merges small files of `raw` by hand, as a running job does by itself.
//!
//! In: both tables. Out: commits that change no row, and a summary; with `--dry-run` only the summary. It is safe beside a running
//! job: a group of files that somebody else has changed is left alone. Failure: groups that were merged before it stay merged.

use clap::Args;
use serde_json::json;

use super::arguments::{Common, Tables, names_of};
use super::error::TableCommandError;
use crate::process::Clock;
use crate::terminal::{LiveLine, Location, bytes, grouped};
use crate::upkeep::compact::{compact, planned};

/// Options of `floodmark table compact`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Rows do not change; in the new files they are sorted by event time. Only rows that all lanes of \
        counts have absorbed are rewritten. Files are merged within one ingest_date, and only where it is worth a \
        rewrite. This is safe while a job runs; the job itself does the same every ten minutes. Temporary files go to \
        TMPDIR: about five times --file-mib."
)]
pub struct CompactArgs {
    #[command(flatten)]
    common: Common,

    /// Size of a full file; default: settings.archive_file_bytes of the job, else 256
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2048))]
    file_mib: Option<u32>,

    /// Only report what would be merged
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(args: &CompactArgs) -> Result<(), TableCommandError> {
    let location = Location::open(&args.common.place).await?;
    // `counts` says which records all lanes have absorbed.
    names_of(Tables::Raw, &location)?;
    location.load("counts").await?;
    location.load("raw").await?;
    let default = location.job.map(|job| job.settings).unwrap_or_default().archive_file_bytes;
    let file_bytes = args.file_mib.map_or(default, |mib| u64::from(mib) << 20);
    let groups = planned(&location.root, file_bytes).await?.map(|(_, _, groups)| groups).unwrap_or_default();
    if args.dry_run {
        let files: u64 = groups.iter().map(|group| group.files.len() as u64).sum();
        let size: u64 = groups.iter().map(|group| group.bytes()).sum();
        let into = groups.len() as u64;
        return args.common.print(
            || json!({"dry_run": true, "files": files, "into": into, "bytes": size}),
            || format!("raw: would merge {} files of {} into {}", grouped(files), bytes(size), grouped(into)),
        );
    }
    let mut line = LiveLine::new("compact", Some(groups.iter().map(|group| group.rows()).sum()));
    let done = compact(&location.root, file_bytes, &Clock::System, |done| {
        line.tick(done.rows, || format!("{} files merged into {}", grouped(done.files), grouped(done.into)));
    })
    .await?;
    line.clear();
    args.common.print(
        || json!({"dry_run": false, "compacted": done}),
        || {
            let left = match done.given_up {
                0 => String::new(),
                groups => {
                    format!("; {groups} groups of files were changed by another process meanwhile and left alone")
                }
            };
            format!(
                "raw: merged {} files of {} into {} of {}, {} rows{left}",
                grouped(done.files),
                bytes(done.bytes_before),
                grouped(done.into),
                bytes(done.bytes_after),
                grouped(done.rows),
            )
        },
    )
}
