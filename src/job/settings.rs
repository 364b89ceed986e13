//! `[settings]`: pace and bounds. None of them changes what is counted.

use super::error::JobError;
use super::read::Section;

const MIB: u64 = 1 << 20;

/// Nothing is published later than an hour after it was read.
const INTERVAL_SECONDS_MAX: u64 = 3600;

/// Pace and bounds of a running job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long an epoch is open; default 10 s. Longer: fewer and larger files and commits; shorter: fresher tables.
    pub epoch_seconds: u64,
    /// Bytes that a process reads before an epoch closes sooner; default 256 MiB. More: larger files, more memory.
    pub epoch_bytes: u64,
    /// How long an epoch without records is open; default 60 s, at least `epoch_seconds`.
    pub idle_epoch_seconds: u64,
    /// Epochs that may be read but not yet committed before the source pauses; default 2. More: more memory, smoother reading.
    pub epochs_in_flight_max: u64,
    /// How long an orderly stop may take to commit and publish; default 20 s.
    pub shutdown_grace_seconds: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            epoch_seconds: 10,
            epoch_bytes: 256 * MIB,
            idle_epoch_seconds: 60,
            epochs_in_flight_max: 2,
            shutdown_grace_seconds: 20,
        }
    }
}

pub(super) fn read(root: &Section<'_>) -> Result<Settings, JobError> {
    let section = root.section(
        "settings",
        &["epoch_seconds", "epoch_bytes", "idle_epoch_seconds", "epochs_in_flight_max", "shutdown_grace_seconds"],
    )?;
    let default = Settings::default();
    let epoch_seconds = section.integer("epoch_seconds", default.epoch_seconds, 1..=INTERVAL_SECONDS_MAX)?;
    // A longer epoch alone must not ask for a second key.
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
    })
}
