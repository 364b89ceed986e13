//! What a table's log shows of other programs: who committed what, which protocol they require, which files they changed.
//!
//! In: the actions of a log, as they are read. Out: [`Seen`], which [`super::foreign`] judges. State: changes of files by others since
//! the checkpoint that was read; a change that was taken back is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Formatter};

use serde::Deserialize;

/// The property that holds the number of our tables' layout. A table without it has layout 1: builds before the property made no
/// other.
///
/// 1: days are in files of months, and weeks and months in files of years. 2: every window begins in a file of its own
/// ([`Granularity::ladder`](crate::model::Granularity::ladder)); older files stay as they are until they are merged into. A start
/// raises the number before its first commit of rows; files of layout 1 need no other change.
pub const FORMAT: &str = "floodmark.format";
/// The newest layout that this build knows; see [`FORMAT`].
pub const FORMAT_NEWEST: u32 = 2;

/// The versions of Delta's protocol that we read and write, and the versions from which on features are named one by one.
pub(super) const READER: u32 = 1;
pub(super) const WRITER: u32 = 2;
pub(super) const READER_OF_FEATURES: u32 = 3;
pub(super) const WRITER_OF_FEATURES: u32 = 7;

/// Features that writer version 2 has too. They matter only if a property or a column asks for them.
pub(super) const FEATURES: [&str; 2] = ["appendOnly", "invariants"];

/// Who committed something.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    /// The version; that of the checkpoint, where it is only known from there.
    pub(super) version: u64,
    /// Whether it is only known from a checkpoint: it is of this version or an earlier one.
    pub(super) checkpoint: bool,
    /// What the program called it.
    pub(super) operation: Option<String>,
    /// The program.
    pub(super) engine: Option<String>,
}

impl Origin {
    pub(super) fn is_ours(&self) -> bool {
        self.engine.as_deref().is_some_and(|engine| engine.starts_with("floodmark/"))
    }

    /// The last version before it.
    pub(super) fn before(&self) -> u64 {
        self.version.saturating_sub(1)
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        if self.checkpoint {
            return write!(f, "version {} or an earlier one, according to its checkpoint", self.version);
        }
        let operation = self.operation.as_deref().unwrap_or("operation unknown");
        let engine = self.engine.as_deref().unwrap_or("a program that does not name itself");
        write!(f, "version {} ({operation} by {engine})", self.version)
    }
}

/// The protocol that a table's log requires of its readers and writers.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Protocol {
    min_reader_version: u32,
    min_writer_version: u32,
    reader_features: Option<BTreeSet<String>>,
    writer_features: Option<BTreeSet<String>>,
}

impl Protocol {
    pub(super) fn is_known(&self) -> bool {
        let known = |features: &Option<BTreeSet<String>>| {
            features.iter().flatten().all(|feature| FEATURES.contains(&feature.as_str()))
        };
        let reader = self.min_reader_version <= READER
            || (self.min_reader_version == READER_OF_FEATURES && self.reader_features.iter().all(BTreeSet::is_empty));
        let writer = self.min_writer_version <= WRITER
            || (self.min_writer_version == WRITER_OF_FEATURES && known(&self.writer_features));
        reader && writer
    }

    pub(super) fn said(&self) -> String {
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

/// What was seen of other programs in a table's log.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub(super) protocol: Option<(Protocol, Origin)>,
    pub(super) metadata: Option<Origin>,
    /// Live files that can not be read correctly, by path and deletion vector, and why.
    pub(super) unreadable: BTreeMap<(String, Option<String>), (String, Origin)>,
    /// Files that others have added or removed.
    pub(super) changed: BTreeMap<String, Changed>,
}

#[derive(Clone, Debug)]
pub(super) struct Changed {
    pub(super) added: bool,
    pub(super) taken_in: bool,
    pub(super) by: Origin,
}

/// A commit's changes of files, by which a commit of another program is judged.
#[derive(Default)]
pub(super) struct Changes {
    /// Files that became live and were not live before, with their rows.
    pub(super) added: Vec<(String, u64)>,
    /// Files that are no longer live, with their rows.
    pub(super) removed: Vec<(String, u64)>,
    /// Whether it adds rows, as its own `dataChange` says.
    pub(super) adds_rows: bool,
}

impl Seen {
    pub(super) fn protocol(&mut self, protocol: Protocol, by: Origin) {
        self.protocol = Some((protocol, by));
    }

    pub(super) fn metadata(&mut self, by: Origin) {
        self.metadata = Some(by);
    }

    /// Notes a live file that can not be read correctly.
    pub(super) fn unreadable(&mut self, path: String, vector: Option<String>, why: String, by: Origin) {
        self.unreadable.insert((path, vector), (why, by));
    }

    /// Notes that a file was removed. Returns whether it was one that can not be read.
    pub(super) fn removed(&mut self, path: &str, vector: Option<String>) -> bool {
        self.unreadable.remove(&(path.to_owned(), vector)).is_some()
    }

    /// Notes what a commit did to the files of a table of ours.
    pub(super) fn commit(&mut self, table: &str, changes: Changes, by: &Origin) {
        if by.is_ours() || !matches!(table, "raw" | "counts") {
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

    /// Notes a live file that is only known from a checkpoint.
    pub(super) fn in_checkpoint(&mut self, table: &str, path: &str, by: &Origin) {
        let name = path.rsplit('/').next().unwrap_or_default();
        if table == "counts" && !is_named_by_us(name) {
            self.changed.insert(path.to_owned(), Changed { added: true, taken_in: false, by: by.clone() });
        }
    }
}

/// The rule for `raw`: no rows may be added to it, and the rows that stay must not change.
fn may_be_taken_in(changes: &Changes, by: &Origin) -> bool {
    let rows = |files: &[(String, u64)]| files.iter().map(|(_, rows)| rows).sum::<u64>();
    let (added, removed) = (rows(&changes.added), rows(&changes.removed));
    let rewritten = !changes.adds_rows && added == removed;
    let deleted = changes.added.is_empty() || (by.operation.as_deref() == Some("DELETE") && added <= removed);
    rewritten || deleted
}

/// Whether a live job, a replay, an undo or `dev preload` gives such names.
fn is_named_by_us(name: &str) -> bool {
    let epoch = |rest: &str| rest.len() > 12 && rest.as_bytes()[..12].iter().all(u8::is_ascii_digit);
    name.starts_with("replay-") || name.starts_with("undo-") || name.strip_prefix('e').is_some_and(epoch)
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
