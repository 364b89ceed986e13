//! The status as text for people, on one screen of 100 columns and some 40 lines. Pure.

use std::fmt::Write;

use super::facts::{LaneFacts, LogicFacts, Partition, ReplayState, Status, Table};
use crate::terminal::{bytes, duration, grouped};

/// How many partitions are shown one by one; if there are more, those with the greatest lag.
const PARTITIONS: usize = 8;

/// How many logics and replays are shown: the newest ones.
const LEDGER: usize = 3;

/// The widest text in a line of its own.
const CHARS: usize = 100;

impl Status {
    /// The status for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        self.write(&mut out).ok();
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let who = self.job.as_ref().map_or_else(String::new, |job| format!("{job} in "));
        let logic = self.logic.as_ref().map_or_else(String::new, |logic| format!("   logic {}", logic.fingerprint));
        writeln!(out, "{who}{}{logic}", self.tables_url)?;
        writeln!(out, "raw     version {}, epoch {}, {}", self.raw.version, self.raw_epoch, written(&self.raw))?;
        writeln!(out, "counts  version {}, {} buckets, {}", self.counts.version, self.buckets, written(&self.counts))?;

        writeln!(
            out,
            "\n{:<7} {:>8} {:>7}  {:<20} {:>13}  {:<20} {:>9} {:>9}",
            "Lane", "epoch", "pending", "complete until", "pending rows", "oldest pending", "freshness", "age now"
        )?;
        for lane in &self.lanes {
            write_lane(out, lane)?;
        }
        let intervals: Vec<String> = self.lanes.iter().filter_map(interval).collect();
        if !intervals.is_empty() {
            writeln!(out, "published every: {}", intervals.join(", "))?;
        }

        self.write_ledger(out)?;
        write_partitions(out, &self.partitions)?;

        let row = |table: &str, windows: &str, files: &str, sizes: [&str; 3]| {
            let [count, rows, size] = sizes;
            format!("{table:<7} {windows:<8} {files:<10} {count:>9} {rows:>16} {size:>10}\n")
        };
        out.push('\n');
        out.push_str(&row("Table", "windows", "files per", ["files", "rows", "size"]));
        for segments in &self.segments {
            let sizes = [grouped(segments.files), grouped(segments.rows), bytes(segments.size_bytes)];
            let sizes = sizes.each_ref().map(String::as_str);
            out.push_str(&row("counts", &segments.granularity, &segments.period, sizes));
        }
        let sizes = [grouped(self.raw.files), grouped(self.raw.rows), bytes(self.raw.size_bytes)];
        out.push_str(&row("raw", "", "", sizes.each_ref().map(String::as_str)));

        self.write_balance(out)?;
        if !self.notes.is_empty() {
            out.push('\n');
        }
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        Ok(())
    }

    /// Which logic counts which epochs, a line for each; only the newest if there are many.
    fn write_ledger(&self, out: &mut String) -> std::fmt::Result {
        if !self.logics.is_empty() || !self.replays.is_empty() {
            out.push('\n');
        }
        for (index, logic) in newest(&self.logics) {
            let LogicFacts { from_epoch, fingerprint, is_job } = logic;
            let epochs = match self.logics.get(index + 1) {
                Some(next) => format!("epochs {from_epoch}..={}", next.from_epoch.saturating_sub(1)),
                None => format!("from epoch {from_epoch} on"),
            };
            let whose = if *is_job == Some(true) { "  (this job's)" } else { "" };
            writeln!(out, "logic   {fingerprint}  counts {epochs}{whose}")?;
        }
        write_left_off(out, "logic", self.logics.len())?;
        for (_, replay) in newest(&self.replays) {
            let state = match replay.state {
                ReplayState::Published => "published",
                ReplayState::Undone => "undone",
            };
            writeln!(out, "replay  {}  {state}, order {}", replay.id, replay.order)?;
        }
        write_left_off(out, "replay", self.replays.len())
    }

    fn write_balance(&self, out: &mut String) -> std::fmt::Result {
        let balance = &self.balance;
        let Some((first, last)) = &balance.ingest_dates else { return writeln!(out, "\nNo records yet") };
        let days = if first == last { format!("of {first}") } else { format!("from {first} to {last}") };
        let range = if balance.is_all_of_raw { "all" } else { "the newest day; --all covers all" };
        let equals = if balance.is_balanced { "=" } else { "≠" };
        writeln!(out, "\nRecords archived {days} ({range})")?;
        writeln!(
            out,
            "{} read {equals} {} counted + {} filtered + {} rejected",
            grouped(balance.read_records),
            grouped(balance.counted_records),
            grouped(balance.filtered_records),
            grouped(balance.rejected_records)
        )?;
        let reasons: Vec<String> = (balance.rejected_records_by_reason.iter())
            .map(|(reason, records)| format!("{reason} {}", grouped(*records)))
            .collect();
        for line in wrapped(&reasons, CHARS - 10) {
            writeln!(out, "rejected: {line}")?;
        }
        Ok(())
    }
}

/// Those that are shown, with their index.
fn newest<T>(all: &[T]) -> impl Iterator<Item = (usize, &T)> {
    all.iter().enumerate().skip(all.len().saturating_sub(LEDGER))
}

fn write_left_off(out: &mut String, what: &str, all: usize) -> std::fmt::Result {
    if all > LEDGER { writeln!(out, "{what:<7} … {} in all", grouped(all as u64)) } else { Ok(()) }
}

fn written(table: &Table) -> String {
    let commit = &table.last_commit;
    let time = commit.time.as_deref().map_or("at an unknown time".to_owned(), seconds_only);
    let engine = commit.engine.as_deref().unwrap_or("an unknown program");
    format!("writer generation {}, last commit {time} by {engine}", table.writer_generation)
}

/// `2026-01-13 04:05:06Z` of a time in RFC 3339.
fn seconds_only(time: &str) -> String {
    let head: String = time.chars().take(19).map(|c| if c == 'T' { ' ' } else { c }).collect();
    head + "Z"
}

fn write_lane(out: &mut String, lane: &LaneFacts) -> std::fmt::Result {
    let until = lane.complete_until.as_deref().map_or("not yet".to_owned(), seconds_only);
    write!(out, "{:<7} {:>8} {:>7}  {until:<20} ", lane.lane, lane.epoch, lane.pending_epochs)?;
    match (lane.pending_raw_rows, &lane.oldest_pending_kafka_timestamp) {
        (0, _) => writeln!(out, "{:>13}  nothing pending", 0),
        (rows, None) => writeln!(out, "{:>13}  without timestamp", grouped(rows)),
        (rows, Some(oldest)) => {
            let seconds = |seconds: Option<f64>| seconds.map_or_else(String::new, duration);
            let (fresh, age) = (seconds(lane.freshness_seconds), seconds(lane.oldest_pending_age_seconds));
            writeln!(out, "{:>13}  {:<20} {fresh:>9} {age:>9}", grouped(rows), seconds_only(oldest))
        }
    }
}

/// How long a lane waits between two publishes, and what sets that if it is not the setting.
fn interval(lane: &LaneFacts) -> Option<String> {
    let often = match lane.interval_seconds? {
        0 => "epoch".to_owned(),
        seconds => duration(seconds as f64),
    };
    let set_by = lane.interval_set_by.as_deref().filter(|set_by| *set_by != "setting");
    let set_by = set_by.map_or_else(String::new, |set_by| format!(" (set by {set_by})"));
    Some(format!("{} {often}{set_by}", lane.lane))
}

fn write_partitions(out: &mut String, partitions: &[Partition]) -> std::fmt::Result {
    let number = |number: Option<i64>| number.map_or_else(|| "?".to_owned(), |number| grouped(number.max(0) as u64));
    let line =
        |name: &str, [archived, end, lag]: [String; 3]| format!("{name:<40} {archived:>18} {end:>18} {lag:>14}\n");
    out.push('\n');
    out.push_str(&line("Partition", ["archived up to", "end in Kafka", "lag"].map(str::to_owned)));
    let mut shown: Vec<&Partition> = partitions.iter().collect();
    if shown.len() > PARTITIONS {
        shown.sort_by_key(|partition| std::cmp::Reverse(partition.lag_records));
    }
    for partition in shown.iter().take(PARTITIONS) {
        let name = format!("{}/{}", partition.topic, partition.partition);
        let numbers = [partition.archived_offset, partition.end_offset, partition.lag_records];
        out.push_str(&line(&name, numbers.map(number)));
    }
    if partitions.len() > PARTITIONS {
        let lags: Option<i64> = partitions.iter().map(|partition| partition.lag_records).sum();
        let name = format!("… {} in all", grouped(partitions.len() as u64));
        out.push_str(&line(&name, [String::new(), String::new(), number(lags)]));
    }
    Ok(())
}

/// Joins items into lines of at most this many characters.
fn wrapped(items: &[String], chars_max: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for item in items {
        match lines.last_mut() {
            Some(line) if line.chars().count() + item.chars().count() + 2 <= chars_max => {
                line.push_str(", ");
                line.push_str(item);
            }
            _ => lines.push(item.clone()),
        }
    }
    lines
}
