//! One live line on a terminal, a plain line every 10 s elsewhere; and numbers as people read them.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use crate::say;

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
        eprint!("{line}");
    }

    /// Removes the live line: the closing sentence comes next.
    pub fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

/// `1.2 M`, `850 k`, `12`.
pub fn short(number: f64) -> String {
    match number {
        number if number >= 999_500_000.0 => format!("{:.1} G", number / 1e9),
        number if number >= 999_500.0 => format!("{:.1} M", number / 1e6),
        number if number >= 9_999.5 => format!("{:.0} k", number / 1e3),
        number => format!("{number:.0}"),
    }
}

/// `1.2 MB`, `850 kB`, `12 B`.
pub fn bytes(number: u64) -> String {
    let text = short(number as f64);
    let space = if text.contains(' ') { "" } else { " " };
    text + space + "B"
}

/// `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `2.1 s`, `4 m 5 s`, `1 h 2 m`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} m {} s", whole / 60, whole % 60),
        _ => format!("{} h {} m", whole / 3600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([7.0, 12_345.0, 1_234_567.0, 2e9].map(short), ["7", "12 k", "1.2 M", "2.0 G"]);
        assert_eq!([12, 850_000, 1_234_567].map(bytes), ["12 B", "850 kB", "1.2 MB"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.25, 59.9, 245.0, 3725.0].map(duration), ["0.2 s", "59 s", "4 m 5 s", "1 h 2 m"]);
    }
}
