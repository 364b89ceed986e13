//! `[settings]` and `[lanes]`: pace and limits. They do not change what is counted.
//!
//! In: the sections of a job file. Out: [`Settings`], or the first fault. Pure.

use super::error::{JobError, did_you_mean};
use super::read::Section;
use crate::model::Lane;

const MIB: u64 = 1 << 20;

/// The longest interval: nothing is published later than an hour after it was read.
pub const INTERVAL_SECONDS_MAX: u64 = 3600;

/// Pace and limits of a running job.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How long an epoch is open; default 10 s. Longer: fewer and larger files and commits; shorter: fresher tables.
    pub epoch_seconds: u64,
    /// Bytes that a process reads, from Kafka and from the archive, before an epoch closes early; default 256 MiB. More: larger files, more
    /// memory.
    pub epoch_bytes: u64,
    /// How long an epoch without records is open; default 60 s, at least `epoch_seconds`.
    pub idle_epoch_seconds: u64,
    /// Epochs that may be read but not committed before the source pauses; default 2. More: more memory, smoother reading.
    pub epochs_in_flight_max: u64,
    /// Bytes of unpublished updates that a process holds before the largest lane is published early; default 384 MiB. When there is a
    /// quarter more than that, the source pauses. After a start, the updates that lanes lack are fed in portions that fit, before Kafka is
    /// read. More: fewer rewrites while behind or with many late records, more memory.
    pub pending_bytes_max: u64,
    /// The share of the workers' time that publishing may spend on rows that no update touched; default 0.3. Where a lane would take
    /// more at its `publish_seconds`, it waits longer, up to an hour. More: fresher hours, days and longer windows, more CPU.
    pub rewrite_share_max: f64,
    /// How long an orderly stop may take to commit and publish; default 20 s.
    pub shutdown_grace_seconds: u64,
    /// The size up to which small files of the archive are merged; default 256 MiB. More: fewer files, more scratch space.
    pub archive_file_bytes: u64,
    /// How long replaced files are kept for readers of older versions; default 24 h. More: more storage, slower opening.
    pub dead_files_keep_hours: u64,
    /// The least time between two publishes of each lane of [`Lane::ALL`]; default 0 (every epoch), 300, 300, 900, 900 s, at most an hour.
    /// Longer: fewer rewrites of the same files, but older tables, more memory, and more to feed after a restart.
    pub publish_seconds: [u64; Lane::ALL.len()],
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            epoch_seconds: 10,
            epoch_bytes: 256 * MIB,
            idle_epoch_seconds: 60,
            epochs_in_flight_max: 2,
            pending_bytes_max: 384 * MIB,
            rewrite_share_max: 0.3,
            shutdown_grace_seconds: 20,
            archive_file_bytes: 256 * MIB,
            dead_files_keep_hours: 24,
            publish_seconds: [0, 300, 300, 900, 900],
        }
    }
}

impl Settings {
    /// Bytes of unpublished updates that this number of processes may hold together.
    pub fn budget_bytes(&self, processes: usize) -> u64 {
        self.pending_bytes_max * processes as u64
    }
}

pub(super) fn read(root: &Section<'_>) -> Result<Settings, JobError> {
    let section = root.section(
        "settings",
        &[
            "epoch_seconds",
            "epoch_bytes",
            "idle_epoch_seconds",
            "epochs_in_flight_max",
            "pending_bytes_max",
            "rewrite_share_max",
            "shutdown_grace_seconds",
            "archive_file_bytes",
            "dead_files_keep_hours",
        ],
    )?;
    let default = Settings::default();
    let epoch_seconds = section.integer("epoch_seconds", default.epoch_seconds, 1..=INTERVAL_SECONDS_MAX)?;
    // Setting only a longer epoch must not require setting a second key.
    let idle_default = default.idle_epoch_seconds.max(epoch_seconds);
    Ok(Settings {
        epoch_seconds,
        epoch_bytes: section.integer("epoch_bytes", default.epoch_bytes, 1..=2048 * MIB)?,
        idle_epoch_seconds: section.integer(
            "idle_epoch_seconds",
            idle_default,
            epoch_seconds..=INTERVAL_SECONDS_MAX,
        )?,
        epochs_in_flight_max: section.integer("epochs_in_flight_max", default.epochs_in_flight_max, 1..=64)?,
        shutdown_grace_seconds: section.integer(
            "shutdown_grace_seconds",
            default.shutdown_grace_seconds,
            1..=INTERVAL_SECONDS_MAX,
        )?,
        pending_bytes_max: section.integer("pending_bytes_max", default.pending_bytes_max, MIB..=1024 * 1024 * MIB)?,
        rewrite_share_max: section.number("rewrite_share_max", default.rewrite_share_max, 0.01..=1.0)?,
        archive_file_bytes: section.integer("archive_file_bytes", default.archive_file_bytes, MIB..=2048 * MIB)?,
        dead_files_keep_hours: section.integer("dead_files_keep_hours", default.dead_files_keep_hours, 1..=8784)?,
        publish_seconds: publish_seconds(root, default.publish_seconds)?,
    })
}

/// `[lanes.NAME]`: the publish interval of each lane.
fn publish_seconds(
    root: &Section<'_>,
    mut seconds: [u64; Lane::ALL.len()],
) -> Result<[u64; Lane::ALL.len()], JobError> {
    if let Some(value) = root.get("lanes") {
        for (name, value) in value.entries()? {
            let lane = Lane::from_name(name).ok_or_else(|| {
                let hint = did_you_mean(name, Lane::ALL.map(Lane::name));
                value.fault("an unknown lane", format!("one of {}{hint}", Lane::ALL.map(Lane::name).join(", ")))
            })?;
            let section = value.section(&["publish_seconds"])?;
            let seconds = &mut seconds[lane as usize];
            *seconds = section.integer("publish_seconds", *seconds, 0..=INTERVAL_SECONDS_MAX)?;
        }
    }
    Ok(seconds)
}
