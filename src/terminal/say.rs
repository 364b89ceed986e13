//! What is said on stderr beside the log: the live line, the closing sentence. With a JSON log it goes there, so that every line is JSON.

use std::io::{Write, stderr};
use std::sync::atomic::{AtomicBool, Ordering};

static TO_LOG: AtomicBool = AtomicBool::new(false);

/// From here on all goes to the log.
pub fn to_log() {
    TO_LOG.store(true, Ordering::Relaxed);
}

/// Whether all goes to the log.
pub fn goes_to_log() -> bool {
    TO_LOG.load(Ordering::Relaxed)
}

/// A sentence.
pub fn line(text: &str) {
    if goes_to_log() {
        tracing::info!("{}", text.trim_start_matches("floodmark: "));
    } else {
        to_stderr(&format!("{text}\n"));
    }
}

/// What has gone wrong.
pub fn error(text: &str) {
    if goes_to_log() { tracing::error!("{text}") } else { to_stderr(&format!("floodmark: {text}\n")) }
}

/// In one piece. Who reads it may be gone, which is no reason to end, nor to panic as `eprint` does.
pub(crate) fn to_stderr(text: &str) {
    stderr().write_all(text.as_bytes()).ok();
}
