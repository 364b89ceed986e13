//! One live line on a terminal, a plain line every 10 s elsewhere: how far long work has come.
//!
//! In: the number of records that are done, as often as the work likes. Out: `replay 41% · 1.2 M records · 85 k rec/s · ETA 4m 5 s`
//! on stderr, with a JSON log in the log. State: when the last line was shown, and what was done then. Nothing is written to stdout,
//! so that a script reads the result alone.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use super::numbers::{duration, short};
use super::say;

/// How the work goes, on stderr.
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

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Shows a line if one is due; `detail` is asked for only then.
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
        // Wrapping off: a line longer than the terminal is wide is cut, or each would stay on the screen. In one piece, so that
        // a kill does not leave it off.
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
