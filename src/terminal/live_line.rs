//! The progress of long work: one live line on a terminal, elsewhere a plain line every 10 s.
//!
//! In: the number of records that are done, as often as the work reports it. Out: on stderr, or in the log if that is JSON,
//! `replay 41% · 1.2 M records · 85 k rec/s · ETA 4 m 5 s`. State: when the last line was shown, and the number then. Nothing is
//! written to stdout, so a script reads only the result there.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use super::numbers::{duration, short};
use super::say;

/// The progress line of one task.
pub struct LiveLine {
    task: &'static str,
    total: Option<u64>,
    started: Instant,
    shown: Instant,
    shown_done: u64,
    every: Duration,
    terminal: bool,
}

impl LiveLine {
    /// `total` is the number of records, where it is known.
    pub fn new(task: &'static str, total: Option<u64>) -> Self {
        let (now, terminal) = (Instant::now(), stderr().is_terminal() && !say::goes_to_log());
        let every = if terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
        LiveLine { task, total, started: now, shown: now, shown_done: 0, every, terminal }
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Shows a line if one is due; `detail` is called only then.
    pub fn tick(&mut self, done: u64, detail: impl FnOnce() -> String) {
        let since = self.shown.elapsed();
        if since < self.every {
            return;
        }
        let rate = (done - self.shown_done) as f64 / since.as_secs_f64();
        self.shown = Instant::now();
        self.shown_done = done;
        let mut line = self.task.to_owned();
        if let Some(total) = self.total.filter(|&total| total > 0) {
            line += &format!(" {}%", done * 100 / total);
        }
        line += &format!(" · {} records · {} rec/s", short(done as f64), short(rate));
        let detail = detail();
        if !detail.is_empty() {
            line += &format!(" · {detail}");
        }
        if let Some(total) = self.total.filter(|_| rate > 0.0) {
            line += &format!(" · ETA {}", duration(total.saturating_sub(done) as f64 / rate));
        }
        if say::goes_to_log() {
            return say::line(&line);
        }
        // Without wrapping, a line that is longer than the terminal is cut; otherwise each one would stay on the screen. It is
        // written in one piece, so that a kill does not leave wrapping off.
        line = if self.terminal { format!("\r\x1b[?7l{line}\x1b[K\x1b[?7h") } else { line + "\n" };
        say::to_stderr(&line);
    }

    /// Removes the live line: the closing sentence comes next.
    pub fn clear(&self) {
        if self.terminal {
            say::to_stderr("\r\x1b[K");
        }
    }
}
