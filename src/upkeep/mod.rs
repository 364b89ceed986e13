//! Keeps tables small while a job runs: merges small files of `raw` ([`compact`]), deletes what is dead ([`clean`]).
//!
//! In: both tables, read like any other reader. Out: commits that change no row, and deletions. Time: every [`EVERY_US`], on the
//! job's clock. State: none; each round begins with what the tables hold. Failure: a warning, and the next round tries again; the
//! job is not held up. Upkeep ends at once when the job is asked to stop; what it had begun leaves at most an orphan.

pub mod clean;
pub mod compact;
pub mod error;
pub mod plan;
mod rests;
mod sort;

use tokio::sync::watch;
use tracing::Instrument;

use crate::dataflow::commit::Request;
use crate::job::Settings;
use crate::model::TimeUs;
use crate::process::Clock;
use crate::process::panics::caught;
use crate::table::{Log, Root};

use clean::{Rule, clean};
use compact::compact;

/// The time between two rounds.
pub const EVERY_US: TimeUs = 600_000_000;

const HOUR_MS: i64 = 3_600_000;

/// What upkeep works with.
pub struct Upkeep {
    /// Where the tables are.
    pub root: Root,
    /// How large files become, and how long dead ones are kept.
    pub settings: Settings,
    /// The job's clock.
    pub clock: Clock,
}

/// Upkeep in the background; it ends when this is dropped.
pub struct Running(tokio::task::JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Upkeep {
    /// Starts upkeep in the background, until the job is asked to stop.
    pub fn start(self, runtime: &tokio::runtime::Handle, mut request: watch::Receiver<Request>) -> Running {
        Running(runtime.spawn(async move {
            tokio::select! {
                () = self.run() => {}
                _ = request.wait_for(|request| *request == Request::Stop) => {}
            }
        }))
    }

    async fn run(self) {
        let mut next = self.clock.now() + EVERY_US;
        loop {
            self.clock.reaches(next).await;
            next = self.clock.now() + EVERY_US;
            if let Err(panic) = caught("upkeep", self.round().instrument(tracing::debug_span!("upkeep"))).await {
                tracing::error!("{panic}; the job continues, and upkeep is tried again in ten minutes");
            }
        }
    }

    /// One round.
    pub async fn round(&self) {
        match compact(&self.root, self.settings.archive_file_bytes, &self.clock, |_| {}).await {
            Ok(done) if done.files > 0 => tracing::info!(
                files = done.files,
                into = done.into,
                rows = done.rows,
                bytes = done.bytes_after,
                "small files of raw merged"
            ),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "small files of raw were not merged; trying again in ten minutes"),
        }
        let keep_ms = self.settings.dead_files_keep_hours as i64 * HOUR_MS;
        let rule = Rule { before_ms: self.clock.now_ms() - keep_ms, no_job_runs: false, dry_run: false };
        for table in ["raw", "counts"] {
            match clean(&Log::new(&self.root, table), rule).await {
                Ok(cleaned) => {
                    if let Some(failure) = &cleaned.failure {
                        let failed = cleaned.failed;
                        tracing::warn!(
                            table,
                            failed,
                            failure,
                            "some dead files were not deleted; trying again in ten minutes"
                        );
                    }
                    if cleaned.files + cleaned.log_entries > 0 {
                        let (files, bytes, entries) = (cleaned.files, cleaned.bytes, cleaned.log_entries);
                        tracing::info!(table, files, bytes, entries, "dead files deleted");
                    }
                }
                Err(error) => tracing::warn!(table, %error, "dead files were not deleted; trying again in ten minutes"),
            }
        }
    }
}
