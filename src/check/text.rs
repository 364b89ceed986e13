//! The result of a check, as text for people.
//!
//! In: a [`Check`]. Out: text. No text of a record reaches the terminal unescaped, since it could contain escape sequences. Pure.

use std::fmt::Write;

use super::facts::{Check, FoundFacts, Position, RecordFacts, SampleFacts, is_unprintable};
use crate::terminal::grouped;

/// The longest text of a record that is shown, in characters.
const CHARS_MAX: usize = 80;

/// Colours, or none.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn outcome(self, outcome: &str) -> String {
        let code = match outcome {
            "counted" => "32",
            "filtered" => "33",
            _ => "31",
        };
        self.with(code, outcome)
    }

    /// As [`Paint::outcome`], for a number of records: zero gets no colour.
    fn number(self, number: u64, outcome: &str) -> String {
        let text = format!("{} {outcome}", grouped(number));
        if number == 0 { text } else { text.replace(outcome, &self.outcome(outcome)) }
    }
}

impl Check {
    /// The result as text.
    pub fn text(&self, colours: bool) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        self.write(&mut out, Paint(colours)).ok();
        out
    }

    fn write(&self, out: &mut String, paint: Paint) -> std::fmt::Result {
        writeln!(out, "{}: job {}, the file is valid", printable(&self.job_file), paint.bold(&self.job))?;
        match &self.sample {
            Some(sample) => sample.write(out, paint),
            None => self.write_counts(out, paint),
        }
    }

    fn write_counts(&self, out: &mut String, paint: Paint) -> std::fmt::Result {
        writeln!(out, "reads   {} (first start: {})", self.topics.join(", "), self.start)?;
        writeln!(out, "writes  {}", printable(&self.tables_url))?;
        let width = self.dimensions.iter().map(|dimension| dimension.dimension.len()).max().unwrap_or(0).max(9);
        let of = |field: &Option<String>| field.as_deref().unwrap_or("-").to_owned();
        let field_width = self.dimensions.iter().map(|dimension| of(&dimension.field).len()).max().unwrap_or(0).max(5);
        writeln!(out, "\n{}", paint.bold(&format!("{:width$}  {:field_width$}  windows", "dimension", "field")))?;
        for dimension in &self.dimensions {
            let windows = dimension.granularities.join(", ");
            writeln!(out, "{:width$}  {:field_width$}  {windows}", dimension.dimension, of(&dimension.field))?;
        }
        if !self.unused_fields.is_empty() {
            writeln!(out, "\nused by no dimension and no condition: {}", self.unused_fields.join(", "))?;
        }
        writeln!(out, "\nNothing was read or written; --sample decodes records of a file or of the topics.")
    }
}

impl SampleFacts {
    fn write(&self, out: &mut String, paint: Paint) -> std::fmt::Result {
        for record in &self.shown {
            record.write(out, paint)?;
        }
        self.write_fields(out, paint)?;
        for facts in &self.filters {
            let condition = format!("field = {:?}, {}", facts.field, printable(&facts.condition));
            writeln!(out, "\n{}: [[where]] {condition}", paint.number(facts.records, "filtered"))?;
            writeln!(out, "  {}", facts.example)?;
        }
        for facts in &self.rejections {
            let what = facts.field.as_ref().map_or_else(String::new, |field| format!(" ({field})"));
            writeln!(out, "\n{}: {}{what}", paint.number(facts.records, "rejected"), paint.bold(facts.reason))?;
            writeln!(out, "  {}: {} {}", facts.example, paint.dim("expected"), printable(&facts.expected))?;
            let indent = " ".repeat(facts.example.to_string().len() + 2);
            writeln!(out, "  {indent}{}    {}", paint.dim("found"), short(&facts.found))?;
        }
        writeln!(
            out,
            "\n{}: {} records: {}, {}, {}; nothing was written",
            printable(&self.from),
            grouped(self.records),
            paint.number(self.counted_records, "counted"),
            paint.number(self.filtered_records, "filtered"),
            paint.number(self.rejected_records, "rejected"),
        )
    }

    fn write_fields(&self, out: &mut String, paint: Paint) -> std::fmt::Result {
        if self.fields.is_empty() {
            return Ok(());
        }
        let width = self.fields.iter().map(|facts| facts.field.len()).max().unwrap_or(0).max(5);
        let head = format!("{:width$} {:>12} {:>12} {:>14}", "field", "found in", "missing in", "null or empty");
        writeln!(out, "\n{}", paint.bold(&head))?;
        for facts in &self.fields {
            let [found, missing, empty] =
                [facts.present_records, facts.missing_records, facts.empty_records].map(grouped);
            let never = if facts.present_records == 0 { "  found in no record: check its place" } else { "" };
            writeln!(out, "{:width$} {found:>12} {missing:>12} {empty:>14}{}", facts.field, paint.with("33", never))?;
        }
        Ok(())
    }
}

impl RecordFacts {
    fn write(&self, out: &mut String, paint: Paint) -> std::fmt::Result {
        writeln!(out, "\n{}: {}", paint.bold(&self.position.to_string()), paint.outcome(self.outcome))?;
        let width = self.found.iter().map(|found| found.field.len()).max().unwrap_or(0).max(7);
        for found in &self.found {
            let text = match (found.field.as_str(), &self.event_time) {
                ("event_time", Some(time)) => time.clone(),
                ("event_time", None) => paint.outcome("not read"),
                _ => value(found, paint),
            };
            let is_same = found.written == found.text && found.field != "event_time";
            let written = if is_same || found.written.is_empty() {
                String::new()
            } else {
                format!("  {} {}", paint.dim("written"), short(&found.written))
            };
            writeln!(out, "  {:width$}  {text}{written}", found.field)?;
        }
        // One line for each window, with the values of all dimensions that have it.
        let mut windows: Vec<(&str, &str, String)> = Vec::new();
        for cell in &self.cells {
            let pair = match (cell.dimension.as_str(), cell.dimension_value.as_str()) {
                ("total", "") => "total".to_owned(),
                (dimension, "") => format!("{dimension}=''"),
                (dimension, value) => format!("{dimension}={}", short(value)),
            };
            match windows.iter_mut().find(|(granularity, ..)| *granularity == cell.granularity) {
                Some((_, _, pairs)) => {
                    pairs.push_str(", ");
                    pairs.push_str(&pair);
                }
                None => windows.push((cell.granularity, &cell.window_start, pair)),
            }
        }
        for granularity in crate::model::Granularity::ALL.map(crate::model::Granularity::name) {
            if let Some((_, start, pairs)) = windows.iter().find(|(name, ..)| *name == granularity) {
                writeln!(out, "  {}  {start}  {pairs}", paint.dim(&format!("{granularity:width$}")))?;
            }
        }
        Ok(())
    }
}

/// What was found: its text, or a word for its kind.
fn value(found: &FoundFacts, paint: Paint) -> String {
    match found.kind {
        "missing" | "null" | "empty" | "object or array" => paint.with("33", found.kind),
        _ if found.text.is_empty() => paint.with("33", "empty"),
        _ => short(&found.text),
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Position::Line { line } => write!(f, "line {}", grouped(*line)),
            Position::Offset { topic, partition, offset } => write!(f, "{topic}/{partition} at offset {offset}"),
        }
    }
}

/// A text that a terminal can not interpret.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unprintable(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// As [`printable`], and at most one line long.
fn short(text: &str) -> String {
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", printable(&text[..end])),
        None => printable(text),
    }
}
