//! Text on stderr apart from the log: the live line, the closing sentence, errors.
//!
//! In: a line. Out: the same on stderr; or an entry of the log if that is JSON, so that every line on stderr is JSON. State: one
//! flag that says which, set once. Failure: a reader of stderr that is gone is ignored.

use std::io::{Write, stderr};
use std::sync::atomic::{AtomicBool, Ordering};

static TO_LOG: AtomicBool = AtomicBool::new(false);

/// Sends everything to the log from now on.
pub fn to_log() {
    TO_LOG.store(true, Ordering::Relaxed);
}

/// Whether everything goes to the log.
pub fn goes_to_log() -> bool {
    TO_LOG.load(Ordering::Relaxed)
}

/// Writes a sentence.
pub fn line(text: &str) {
    if goes_to_log() {
        tracing::info!("{}", text.trim_start_matches("floodmark: "));
    } else {
        to_stderr(&format!("{text}\n"));
    }
}

/// Writes what has gone wrong.
pub fn error(text: &str) {
    if goes_to_log() { tracing::error!("{text}") } else { to_stderr(&format!("floodmark: {text}\n")) }
}

/// Writes the text in one piece. Its reader may be gone, which is no reason to end, nor to panic as `eprint` does.
pub(crate) fn to_stderr(text: &str) {
    stderr().write_all(text.as_bytes()).ok();
}
