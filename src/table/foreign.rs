//! What other programs have done to a table: taken in, or refused, by rule. Never misread, never guessed.
//!
//! In: the actions of a table's log ([`super::load`] reads them), with who committed them. Out: nothing, or a [`TableError::Invalid`] with the
//! version, what was found, what was expected, what to do. Time: looked at whenever versions were read, at a start and in the middle
//! of a run; it is the newest version that counts, so that a change that was taken back is forgotten. A commit is ours when its
//! `engineInfo` says floodmark. State: changes of files by others, since the checkpoint that was read.
//!
//! | found | in `raw` | in `counts` |
//! |---|---|---|
//! | a protocol above reader 1 and writer 2, but for features that change nothing for us | refused | refused |
//! | deletion vectors, column mapping, absolute paths (a shallow clone), files without statistics | refused | refused |
//! | a column added, removed, retyped, made nullable or not, with a rule of its own; other partition columns; no Parquet | refused | refused |
//! | `floodmark.format` above ours | refused | refused |
//! | other properties, comments, the order of columns, transactions, a checkpoint in one piece, vacuum, new statistics of a file | taken in | taken in |
//! | files rewritten with the same number of rows and no change of data (OPTIMIZE) | taken in | refused |
//! | files or rows deleted (DELETE) | taken in: `verify` says what is gone | refused |
//! | rows added or changed | refused | refused |
//!
//! `counts` is merged into in the order of its rows, and holds what its transactions say: whatever another program writes there, a
//! sorted file with the same rows too, can not be told from one that is not so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Formatter};

use serde::Deserialize;
use serde_json::Value;

use super::log::{File, State};
use super::{TableError, raw};

/// The property that numbers the layout of our tables, and the newest layout that this build knows. A table without it is of the
/// first one: builds before the property made no other.
pub const FORMAT: &str = "floodmark.format";
/// See [`FORMAT`].
pub const FORMAT_NEWEST: u32 = 1;

/// Delta's versions that we read and write; from these versions on features are named one by one.
const READER: u32 = 1;
const WRITER: u32 = 2;
const READER_OF_FEATURES: u32 = 3;
const WRITER_OF_FEATURES: u32 = 7;

/// Features that writer 2 has too: they matter where a property or a column asks for them.
const FEATURES: [&str; 2] = ["appendOnly", "invariants"];

/// What a column may say of itself that who writes it must heed.
const COLUMN_RULES: [&str; 3] = ["delta.invariants", "delta.generationExpression", "delta.identity.start"];

/// Who committed something.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    /// The version; that of the checkpoint, where it is only known from there.
    pub(super) version: u64,
    /// Whether it is of this version or an earlier one.
    pub(super) checkpoint: bool,
    /// What the program called it.
    pub(super) operation: Option<String>,
    /// The program.
    pub(super) engine: Option<String>,
}

impl Origin {
    fn is_ours(&self) -> bool {
        self.engine.as_deref().is_some_and(|engine| engine.starts_with("floodmark/"))
    }

    /// The last version before it.
    fn before(&self) -> u64 {
        self.version.saturating_sub(1)
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        if self.checkpoint {
            return write!(f, "version {} or an earlier one, by its checkpoint", self.version);
        }
        let operation = self.operation.as_deref().unwrap_or("operation unknown");
        let engine = self.engine.as_deref().unwrap_or("a program that does not name itself");
        write!(f, "version {} ({operation} by {engine})", self.version)
    }
}

/// What a table's log asks of those who read and write it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Protocol {
    min_reader_version: u32,
    min_writer_version: u32,
    reader_features: Option<BTreeSet<String>>,
    writer_features: Option<BTreeSet<String>>,
}

impl Protocol {
    fn is_known(&self) -> bool {
        let known = |features: &Option<BTreeSet<String>>| {
            features.iter().flatten().all(|feature| FEATURES.contains(&feature.as_str()))
        };
        let reader = self.min_reader_version <= READER
            || (self.min_reader_version == READER_OF_FEATURES && self.reader_features.iter().all(BTreeSet::is_empty));
        let writer = self.min_writer_version <= WRITER
            || (self.min_writer_version == WRITER_OF_FEATURES && known(&self.writer_features));
        reader && writer
    }

    fn said(&self) -> String {
        let with = |features: &Option<BTreeSet<String>>| {
            let features: Vec<&str> = features.iter().flatten().map(String::as_str).collect();
            if features.is_empty() { String::new() } else { format!(" with {}", features.join(", ")) }
        };
        format!(
            "reader version {}{} and writer version {}{}",
            self.min_reader_version,
            with(&self.reader_features),
            self.min_writer_version,
            with(&self.writer_features)
        )
    }
}

/// What was seen of others in a table's log.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    protocol: Option<(Protocol, Origin)>,
    metadata: Option<Origin>,
    /// Live files that can not be read right, by path and deletion vector, and why.
    unreadable: BTreeMap<(String, Option<String>), (String, Origin)>,
    /// Files that others have added or removed.
    changed: BTreeMap<String, Changed>,
}

#[derive(Clone, Debug)]
struct Changed {
    added: bool,
    taken_in: bool,
    by: Origin,
}

/// A commit's changes of files, as far as another program's are judged by them.
#[derive(Default)]
pub(super) struct Changes {
    /// What became live, with its rows; but for what was live already.
    pub(super) added: Vec<(String, u64)>,
    /// What is no longer live, with its rows.
    pub(super) removed: Vec<(String, u64)>,
    /// Whether it adds rows, by its own word.
    pub(super) adds_rows: bool,
}

impl Seen {
    pub(super) fn protocol(&mut self, protocol: Protocol, by: Origin) {
        self.protocol = Some((protocol, by));
    }

    pub(super) fn metadata(&mut self, by: Origin) {
        self.metadata = Some(by);
    }

    /// A file is live that can not be read right.
    pub(super) fn unreadable(&mut self, path: String, vector: Option<String>, why: String, by: Origin) {
        self.unreadable.insert((path, vector), (why, by));
    }

    /// A file is removed; whether it was one that can not be read.
    pub(super) fn removed(&mut self, path: &str, vector: Option<String>) -> bool {
        self.unreadable.remove(&(path.to_owned(), vector)).is_some()
    }

    /// What a commit did to the files of a table of ours.
    pub(super) fn commit(&mut self, table: &str, changes: Changes, by: &Origin) {
        if by.is_ours() || super::definition_of(table).is_none() {
            return;
        }
        let taken_in = table == "raw" && may_be_taken_in(&changes, by);
        let added = changes.added.into_iter().map(|(path, _)| (path, true));
        let removed = changes.removed.into_iter().map(|(path, _)| (path, false));
        for (path, added) in removed.chain(added) {
            match self.changed.get(&path) {
                // Taken back.
                Some(before) if before.added != added => drop(self.changed.remove(&path)),
                _ => drop(self.changed.insert(path, Changed { added, taken_in, by: by.clone() })),
            }
        }
    }

    /// A live file that only a checkpoint tells of.
    pub(super) fn in_checkpoint(&mut self, table: &str, path: &str, by: &Origin) {
        let name = path.rsplit('/').next().unwrap_or_default();
        if table == "counts" && !is_named_by_us(name) {
            self.changed.insert(path.to_owned(), Changed { added: true, taken_in: false, by: by.clone() });
        }
    }
}

/// The rules for `raw`: nothing is added to it, and what stays is as it was.
fn may_be_taken_in(changes: &Changes, by: &Origin) -> bool {
    let rows = |files: &[(String, u64)]| files.iter().map(|(_, rows)| rows).sum::<u64>();
    let (added, removed) = (rows(&changes.added), rows(&changes.removed));
    let rewritten = !changes.adds_rows && added == removed;
    let deleted = changes.added.is_empty() || (by.operation.as_deref() == Some("DELETE") && added <= removed);
    rewritten || deleted
}

/// Names that a live job, replays and their undoing, and `dev preload` give.
fn is_named_by_us(name: &str) -> bool {
    let epoch = |rest: &str| rest.len() > 12 && rest.as_bytes()[..12].iter().all(u8::is_ascii_digit);
    name.starts_with("replay-") || name.starts_with("undo-") || name.strip_prefix('e').is_some_and(epoch)
}

/// Why a file of `raw` can not be used, where another program has written it: we go by these statistics.
pub(super) fn lacks(table: &str, file: &File) -> Option<String> {
    if table != "raw" || raw::Kind::of_file(file).is_some() {
        return None;
    }
    let bounded = raw::epochs_of(file).is_ok() && raw::ingested_of(file).is_ok();
    (!bounded).then(|| "its statistics do not bound epoch and ingested_at".to_owned())
}

/// Whether `state` can be read and written right.
///
/// # Errors
/// [`TableError::Invalid`] when it can not.
pub(super) fn check(table: &str, url: &url::Url, state: &State) -> Result<(), TableError> {
    let seen = &state.seen;
    let refuse = |by: &Origin, found: &str, expected: &str, to_do: &str| {
        Err(TableError::Invalid(format!("table {table} at {url}, {by}: found {found}; expected {expected}. {to_do}")))
    };
    if let Some((protocol, by)) = seen.protocol.as_ref().filter(|(protocol, _)| !protocol.is_known()) {
        return refuse(
            by,
            &format!("a Delta protocol of {}", protocol.said()),
            &format!(
                "reader version {READER} and writer version {WRITER}, or no features but {}",
                FEATURES.join(" and ")
            ),
            "Take the features off with the program that asked for them (in Spark ALTER TABLE … DROP FEATURE), or go on with a copy of \
             the tables from before",
        );
    }
    check_metadata(table, state, &refuse)?;
    if let Some(((path, _), (why, by))) = seen.unreadable.first_key_value() {
        return refuse(
            by,
            &format!("file {path}, which can not be read right: {why}"),
            "Parquet files below the table, with their number of rows, and without deletion vectors",
            &take_back(by),
        );
    }
    if let Some((path, change)) = seen.changed.iter().find(|(_, change)| !change.taken_in) {
        let found = format!("file {path} {}", if change.added { "added" } else { "removed" });
        let expected = match table {
            "raw" => "that other programs leave the archive's rows as they are, or delete some",
            _ => "that only Floodmark changes the files of counts",
        };
        return refuse(&change.by, &found, expected, &take_back(&change.by));
    }
    Ok(())
}

fn take_back(by: &Origin) -> String {
    if by.checkpoint {
        return "Restore the version before that change with the program that made it, and start again; or go on with a copy of the tables \
                from before"
            .to_owned();
    }
    format!(
        "Take it back: restore version {before} (in Python DeltaTable(URL).restore({before}), in Spark RESTORE TABLE … TO VERSION AS OF \
         {before}), and start again",
        before = by.before()
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    format: Option<Format>,
    schema_string: String,
    #[serde(default)]
    partition_columns: Vec<String>,
}

#[derive(Deserialize)]
struct Format {
    provider: String,
}

#[derive(Deserialize)]
struct Schema {
    fields: Vec<Field>,
}

#[derive(Deserialize)]
struct Field {
    name: String,
    r#type: Value,
    nullable: bool,
    #[serde(default)]
    metadata: BTreeMap<String, Value>,
}

fn check_metadata(
    table: &str,
    state: &State,
    refuse: &impl Fn(&Origin, &str, &str, &str) -> Result<(), TableError>,
) -> Result<(), TableError> {
    let Some(by) = &state.seen.metadata else { return Ok(()) };
    let property = |name: &str| state.properties.get(name).map(String::as_str);
    if let Some(format) = property(FORMAT)
        && format.parse::<u32>().is_ok_and(|format| format > FORMAT_NEWEST)
    {
        return refuse(
            by,
            &format!("{FORMAT} = {format}: a newer build of Floodmark has made or changed the table"),
            &format!("{FORMAT_NEWEST} at most"),
            "Use that build, or a newer one",
        );
    }
    if let Some(mode) = property("delta.columnMapping.mode").filter(|mode| *mode != "none") {
        return refuse(
            by,
            &format!("delta.columnMapping.mode = {mode}"),
            "columns that are called in the files as in the table",
            "Set the mode to none with the program that changed it, or go on with a copy of the tables from before",
        );
    }
    let Some(definition) = super::definition_of(table) else { return Ok(()) };
    if property(FORMAT).is_some_and(|format| !format.parse::<u32>().is_ok_and(|format| format > 0)) {
        let found = format!("{FORMAT} = {:?}", property(FORMAT).unwrap_or_default());
        return refuse(by, &found, "a whole number from 1 on", "Set it to what it was, or take it off");
    }
    if table == "counts" && property("delta.appendOnly") == Some("true") {
        let expected = "a table whose files may be replaced";
        return refuse(by, "delta.appendOnly = true", expected, "Set it to false: counts lives by replacing files");
    }
    let corrupt = |error: &dyn Display| TableError::Corrupt {
        table: table.to_owned(),
        what: format!("its metaData of {by}: {error}"),
    };
    let metadata: Metadata = serde_json::from_str(&state.metadata).map_err(|error| corrupt(&error))?;
    let found: Schema = serde_json::from_str(&metadata.schema_string).map_err(|error| corrupt(&error))?;
    let wanted = definition.delta_schema().map_err(|error| corrupt(&error))?;
    let wanted: Schema = serde_json::from_str(&wanted).map_err(|error| corrupt(&error))?;
    let provider = metadata.format.map_or_else(|| "parquet".to_owned(), |format| format.provider);
    let differs = columns_differ(&found.fields, &wanted.fields)
        .or_else(|| {
            let found = metadata.partition_columns.join(", ");
            let wanted = definition.partitioned_by.join(", ");
            (found != wanted).then(|| (format!("partition columns {found}"), wanted))
        })
        .or_else(|| (provider != "parquet").then(|| (format!("files of format {provider}"), "parquet".to_owned())));
    match differs {
        None => Ok(()),
        Some((found, wanted)) => {
            let to_do = format!("{}; or, if this is no table of a job, choose another tables.url", take_back(by));
            refuse(by, &found, &wanted, &to_do)
        }
    }
}

/// The first difference: what was found, what was expected. The order is of no account.
fn columns_differ(found: &[Field], wanted: &[Field]) -> Option<(String, String)> {
    for wanted in wanted {
        let name = &wanted.name;
        let Some(found) = found.iter().find(|found| found.name == *name) else {
            return Some((format!("no column {name}"), format!("one of type {}", wanted.r#type)));
        };
        if found.r#type != wanted.r#type {
            return Some((format!("column {name} of type {}", found.r#type), format!("type {}", wanted.r#type)));
        }
        if found.nullable != wanted.nullable {
            let may = |nullable| if nullable { "that may be null" } else { "that is never null" };
            return Some((format!("column {name} {}", may(found.nullable)), format!("one {}", may(wanted.nullable))));
        }
        if let Some(rule) = COLUMN_RULES.iter().find(|rule| found.metadata.contains_key(**rule)) {
            return Some((format!("column {name} with {rule}"), "columns without rules of their own".to_owned()));
        }
    }
    let theirs = found.iter().find(|found| wanted.iter().all(|wanted| wanted.name != found.name))?;
    let names: Vec<&str> = wanted.iter().map(|wanted| wanted.name.as_str()).collect();
    Some((format!("column {}, which is not ours", theirs.name), names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_nothing_for_us_is_a_known_protocol() {
        let protocol = |text: &str| serde_json::from_str::<Protocol>(text).expect("a protocol");
        for (known, reader, writer) in [
            (true, "\"minReaderVersion\":1", "\"minWriterVersion\":2"),
            (
                true,
                "\"minReaderVersion\":1",
                "\"minWriterVersion\":7,\"writerFeatures\":[\"appendOnly\",\"invariants\"]",
            ),
            (true, "\"minReaderVersion\":3,\"readerFeatures\":[]", "\"minWriterVersion\":7,\"writerFeatures\":[]"),
            (false, "\"minReaderVersion\":2", "\"minWriterVersion\":2"),
            (false, "\"minReaderVersion\":1", "\"minWriterVersion\":3"),
            (false, "\"minReaderVersion\":1", "\"minWriterVersion\":7,\"writerFeatures\":[\"changeDataFeed\"]"),
            (false, "\"minReaderVersion\":3,\"readerFeatures\":[\"deletionVectors\"]", "\"minWriterVersion\":7"),
            (false, "\"minReaderVersion\":4", "\"minWriterVersion\":2"),
            (false, "\"minReaderVersion\":1", "\"minWriterVersion\":8"),
        ] {
            assert_eq!(protocol(&format!("{{{reader},{writer}}}")).is_known(), known, "{reader} {writer}");
        }
    }

    #[test]
    fn names_that_we_give() {
        for (name, ours) in [
            ("e000000000012-g000001-minute-a1.parquet", true),
            ("replay-fix-42-o000001-a1-00ff.parquet", true),
            ("part-00000-1f0c-c000.snappy.parquet", false),
            ("e12.parquet", false),
            ("20260113_120000_00001_abcde.parquet", false),
        ] {
            assert_eq!(is_named_by_us(name), ours, "{name}");
        }
    }
}
