//! The record of which logic counts which rows, kept in `counts` and in files beside the tables.
//!
//! In: the application transactions of a version of `counts`, and the files that they name. Out: the logic of each epoch, and the replays
//! that are in force. A row of `raw` counts with the logic that live had at its epoch, until a published replay covers its window. Rows
//! that neither a logic nor a replay covers keep what they had.
//!
//! Each change of logic is a transaction `logic/<S>` → fingerprint: from epoch S on, all lanes count with that logic. Each publish is
//! `replay/<id>` → order and each undo is `undo/<id>` → order, where the orders grow with every publish and undo. `turn/<id>` → n is a
//! replay's request that live let it make the next commit. The texts are in `logic/<fingerprint>.json` and `replays/<id>/entry.json`, and
//! each is written before the transaction that refers to it.
//!
//! State: what was read, which is a few entries. Failure: a logic whose text is missing is [`Known::Gone`]; a missing entry is
//! [`TableError::Corrupt`].

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use bytes::Bytes;
use md5::{Digest, Md5};
use object_store::Error as StoreError;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::job::{COUNTING, Logic};
use crate::model::{Epoch, Granularity, TimeUs};
use crate::table::store::{load_json, look_at_file, write_file};
use crate::table::{Root, State, TableError};

const LOGIC: &str = "logic/";
const REPLAY: &str = "replay/";
const UNDO: &str = "undo/";
const TURN: &str = "turn/";

/// The application transaction that records which logic counts from an epoch on.
pub fn logic_txn(from: Epoch) -> String {
    format!("{LOGIC}{from}")
}

/// The application transaction of a replay's publish; its value is the order.
pub fn replay_txn(id: &str) -> String {
    format!("{REPLAY}{id}")
}

/// The application transaction of a replay's undo; its value is the order.
pub fn undo_txn(id: &str) -> String {
    format!("{UNDO}{id}")
}

/// The application transaction by which a replay asks live for the next commit; its value grows with every request.
pub fn turn_txn(id: &str) -> String {
    format!("{TURN}{id}")
}

/// The replay that asks for the next commit: one that has asked since `before` and has not committed since.
pub fn asks<'a>(before: &BTreeMap<String, i64>, counts: &'a State) -> Option<&'a str> {
    let moved = |txn: &str| counts.txns.get(txn) != before.get(txn);
    (counts.txns.keys())
        .filter_map(|txn| txn.strip_prefix(TURN))
        .find(|id| moved(&turn_txn(id)) && !moved(&replay_txn(id)) && !moved(&undo_txn(id)))
}

/// Identifies a logic: 63 bits of the md5 of its text. Two jobs with the same fingerprint count the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Fingerprint(i64);

impl Fingerprint {
    /// The fingerprint of a logic, as this build counts it.
    pub fn of(logic: &Logic) -> Fingerprint {
        let digest = Md5::digest(LogicText::of(logic).json());
        let first = u64::from_be_bytes(digest.first_chunk::<8>().copied().unwrap_or_default());
        Fingerprint((first >> 1) as i64)
    }

    /// Reads the value of an application transaction.
    pub fn from_txn(value: i64) -> Fingerprint {
        Fingerprint(value)
    }

    /// The value for an application transaction.
    pub fn to_txn(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match i64::from_str_radix(text, 16) {
            Ok(bits) if text.len() == 16 && bits >= 0 => Ok(Fingerprint(bits)),
            _ => Err(format!("{text:?} is not the fingerprint of a logic: expected 16 hexadecimal digits")),
        }
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> String {
        fingerprint.to_string()
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A logic as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogicText {
    /// The [`COUNTING`] of the build that counts with it.
    pub counting: u32,
    /// The logic.
    pub logic: Logic,
}

impl LogicText {
    /// A logic as this build counts it.
    pub fn of(logic: &Logic) -> LogicText {
        LogicText { counting: COUNTING, logic: logic.clone() }
    }

    fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a logic is made of texts, numbers and lists")
    }
}

/// A logic on record, as far as this build can count with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// This build counts with it exactly as the build that recorded it did.
    Logic(Box<Logic>),
    /// This build can not count with it, because its code or its text is gone; the text says why.
    Gone(String),
}

impl Known {
    /// What this build can do with the text of a logic, as [`text`] reads it.
    pub fn of(fingerprint: Fingerprint, text: Result<LogicText, String>) -> Known {
        match text {
            Ok(LogicText { counting: COUNTING, logic }) => match Fingerprint::of(&logic) {
                found if found == fingerprint => Known::Logic(Box::new(logic)),
                found => Known::Gone(format!("the file of its name holds logic {found}")),
            },
            Ok(text) => {
                Known::Gone(format!("it was counted by code number {}, this build has {COUNTING}", text.counting))
            }
            Err(why) => Known::Gone(why),
        }
    }

    /// The logic, unless it is gone.
    pub fn logic(&self) -> Option<&Logic> {
        match self {
            Known::Logic(logic) => Some(logic),
            Known::Gone(_) => None,
        }
    }
}

/// Stores the text of a logic beside the tables.
///
/// # Errors
/// [`TableError::Storage`].
pub async fn keep(root: &Root, logic: &Logic) -> Result<(), TableError> {
    let text = LogicText::of(logic);
    let bytes = serde_json::to_vec_pretty(&text).expect("a logic is made of texts, numbers and lists");
    write_file(root.store().as_ref(), &text_path(Fingerprint::of(logic)), Bytes::from(bytes)).await
}

/// Reads the text of a logic, whichever code counts with it; the inner error says why it can not be read.
///
/// # Errors
/// [`TableError::Storage`].
pub async fn text(root: &Root, fingerprint: Fingerprint) -> Result<Result<LogicText, String>, TableError> {
    let path = text_path(fingerprint);
    let bytes = match look_at_file(root.store().as_ref(), &Path::from(path.as_str())).await {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound { .. }) => return Ok(Err(format!("{path} is missing"))),
        Err(error) => return Err(TableError::storage(format!("reading {path}"), error)),
    };
    Ok(serde_json::from_slice(&bytes).map_err(|error| format!("{path} can not be read by this build: {error}")))
}

/// Reads a logic, as far as this build can count with it.
///
/// # Errors
/// [`TableError::Storage`].
pub async fn known(root: &Root, fingerprint: Fingerprint) -> Result<Known, TableError> {
    Ok(Known::of(fingerprint, text(root, fingerprint).await?))
}

fn text_path(fingerprint: Fingerprint) -> String {
    format!("{LOGIC}{fingerprint}.json")
}

/// Which logic live counted with at each epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The logics by the first epoch of each, ascending.
    pub logics: BTreeMap<Epoch, Fingerprint>,
}

impl Ledger {
    /// The ledger of a version of `counts`. Tables of builds that had no ledger give an empty one.
    pub fn of(counts: &State) -> Ledger {
        let logics = (counts.txns.iter())
            .filter_map(|(id, value)| Some((id.strip_prefix(LOGIC)?.parse().ok()?, Fingerprint::from_txn(*value))));
        Ledger { logics: logics.collect() }
    }

    /// The newest logic, and its first epoch.
    pub fn newest(&self) -> Option<(Epoch, Fingerprint)> {
        self.logics.last_key_value().map(|(from, fingerprint)| (*from, *fingerprint))
    }

    /// The logic of an epoch.
    pub fn at(&self, epoch: Epoch) -> Option<Fingerprint> {
        self.logics.range(..=epoch).next_back().map(|(_, fingerprint)| *fingerprint)
    }
}

/// A replay that is published and not undone: which rows it recounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// The event times that it covers, in µs: ascending stretches that do not touch.
    pub coverage: Vec<Range<TimeUs>>,
    /// The only customers that it covers, sorted; `None` covers all.
    pub customers: Option<Vec<String>>,
    /// The logic that it counts with.
    pub logic: Fingerprint,
    /// It covers rows of epochs before this one. Later rows were counted by live with the same logic.
    pub before: Epoch,
    /// What it counts only in windows that are wholly in its coverage: granularities of dimensions that were not counted before, or whose
    /// old counts do not show what a part of a window had.
    pub whole_only: Vec<(Granularity, String)>,
}

impl Entry {
    /// Whether some row is covered by both.
    pub fn overlaps(&self, other: &Entry) -> bool {
        let customers = match (&self.customers, &other.customers) {
            (Some(ours), Some(theirs)) => ours.iter().any(|customer| theirs.binary_search(customer).is_ok()),
            _ => true,
        };
        let meets = |ours: &Range<TimeUs>| {
            let after = other.coverage.partition_point(|theirs| theirs.end <= ours.start);
            other.coverage.get(after).is_some_and(|theirs| theirs.start < ours.end)
        };
        customers && self.coverage.iter().any(meets)
    }

    /// Its path beside the tables.
    pub fn path(id: &str) -> String {
        format!("replays/{id}/entry.json")
    }

    /// Reads the entry of a replay.
    ///
    /// # Errors
    /// [`TableError::Storage`]; [`TableError::Corrupt`] when it is not there or can not be read.
    pub async fn load(root: &Root, id: &str) -> Result<Entry, TableError> {
        let path = Entry::path(id);
        load_json(root, &path).await?.ok_or_else(|| TableError::Corrupt {
            table: "counts".to_owned(),
            what: format!(
                "replay {id} was published, but {path} is missing, so it is not known which rows the replay counts: \
                 run `floodmark replay publish {id}` again, which re-creates the file from plan.json in the same \
                 folder if the replay is in force"
            ),
        })
    }

    /// Writes the entry of a replay.
    ///
    /// # Errors
    /// [`TableError::Storage`].
    pub async fn store(&self, root: &Root) -> Result<(), TableError> {
        let bytes = serde_json::to_vec_pretty(self).expect("an entry is made of texts, numbers and lists");
        write_file(root.store().as_ref(), &Entry::path(&self.id), Bytes::from(bytes)).await
    }
}

/// When replays were published and undone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// By id: the order of the newest publish, and of the newest undo; 0 if there was none.
    pub by_id: BTreeMap<String, (i64, i64)>,
}

impl Orders {
    /// The orders in a version of `counts`.
    pub fn of(counts: &State) -> Orders {
        let mut orders = Orders::default();
        for (id, value) in &counts.txns {
            if let Some(id) = id.strip_prefix(REPLAY) {
                orders.by_id.entry(id.to_owned()).or_default().0 = *value;
            } else if let Some(id) = id.strip_prefix(UNDO) {
                orders.by_id.entry(id.to_owned()).or_default().1 = *value;
            }
        }
        orders
    }

    /// The newest order.
    pub fn newest(&self) -> i64 {
        self.by_id.values().map(|(published, undone)| *published.max(undone)).max().unwrap_or(0)
    }

    /// Whether a replay is published and not undone.
    pub fn in_force(&self, id: &str) -> bool {
        self.by_id.get(id).is_some_and(|(published, undone)| published > undone)
    }

    /// The ids of the replays in force, oldest first.
    pub fn ids_in_force(&self) -> Vec<&str> {
        let in_force = self.by_id.iter().filter(|(_, (published, undone))| published > undone);
        let mut ids: Vec<_> = in_force.map(|(id, (published, _))| (*published, id.as_str())).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }
}

/// The entries of the replays in force, oldest first.
///
/// # Errors
/// As [`Entry::load`].
pub async fn entries(root: &Root, counts: &State) -> Result<Vec<Entry>, TableError> {
    let mut entries = Vec::new();
    for id in Orders::of(counts).ids_in_force() {
        entries.push(Entry::load(root, id).await?);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Job;
    use crate::model::covers;

    fn logic(extra: &str) -> Logic {
        let text = format!(
            "name = \"j\"\n[source]\ntopics = [\"t\"]\n[source.kafka]\n\"bootstrap.servers\" = \"b\"\n[tables]\nurl = \"memory://\"\n\
             [event]\nformat = \"json\"\ncustomer = {{ pointer = \"/c\" }}\nevent_time = {{ pointer = \"/t\" }}\n\
             [event.fields.action]\npointer = \"/a\"\ntransform = [\"lower_case\"]\n[[where]]\nfield = \"action\"\nnot = {{ in = [\"x\"] }}\n{extra}"
        );
        Job::parse(&text, "job.toml", &|_| None).expect("a job").logic
    }

    fn state(txns: &[(&str, i64)]) -> State {
        State { txns: txns.iter().map(|(id, value)| ((*id).to_owned(), *value)).collect(), ..State::default() }
    }

    #[test]
    fn a_fingerprint_is_the_logics_and_reads_back() {
        let (a, b) = (logic(""), logic("[granularities.minute]\ngrace_seconds = 21\n"));
        assert_eq!(Fingerprint::of(&a), Fingerprint::of(&logic("")));
        assert_ne!(Fingerprint::of(&a), Fingerprint::of(&b));
        let fingerprint = Fingerprint::of(&a);
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        assert_eq!(Fingerprint::from_txn(fingerprint.to_txn()), fingerprint);
        assert!("12".parse::<Fingerprint>().is_err() && "ffffffffffffffff".parse::<Fingerprint>().is_err());
    }

    #[tokio::test]
    async fn a_text_is_kept_and_code_that_is_gone_is_said_so() {
        let root = Root::on(std::sync::Arc::new(object_store::memory::InMemory::new()));
        let a = logic("");
        let fingerprint = Fingerprint::of(&a);
        assert!(matches!(known(&root, fingerprint).await, Ok(Known::Gone(why)) if why.contains("is missing")));
        keep(&root, &a).await.expect("written");
        assert_eq!(known(&root, fingerprint).await.expect("read"), Known::Logic(Box::new(a.clone())));
        for (text, why) in [
            (serde_json::to_string(&LogicText { counting: 0, logic: a }).expect("json"), "code number 0"),
            ("{}".to_owned(), "can not be read by this build"),
        ] {
            write_file(root.store().as_ref(), &text_path(fingerprint), Bytes::from(text)).await.expect("written");
            assert!(matches!(known(&root, fingerprint).await, Ok(Known::Gone(said)) if said.contains(why)), "{why}");
        }
    }

    /// The text that a build of code number 1 wrote.
    const OF_NUMBER_1: &str = r#"{
      "counting": 1,
      "logic": {
        "format": "json",
        "customer": {"found": {"places": [{"pointer": ["c"]}], "transforms": []}},
        "event_time": [{"pointer": ["t"]}],
        "fields": [],
        "filters": [],
        "dimensions": [{"name": "total", "field": null, "granularities": ["minute"]}],
        "graces_us": [20000000, 60000000, 300000000],
        "record_bytes_max": 1048576
      }
    }"#;

    #[tokio::test]
    async fn texts_of_code_number_1_are_read_and_gone() {
        let root = Root::on(std::sync::Arc::new(object_store::memory::InMemory::new()));
        let fingerprint = Fingerprint::from_txn(7);
        write_file(root.store().as_ref(), &text_path(fingerprint), Bytes::from(OF_NUMBER_1)).await.expect("written");
        let text = text(&root, fingerprint).await.expect("read").unwrap_or_else(|why| panic!("{why}"));
        assert_eq!((text.counting, text.logic.time_rule()), (1, logic("").time_rule()), "it finds times where we do");
        let why = "it was counted by code number 1, this build has 2".to_owned();
        assert_eq!(known(&root, fingerprint).await.expect("read"), Known::Gone(why));
    }

    #[test]
    fn the_ledger_says_which_logic_an_epoch_has() {
        let ledger = Ledger::of(&state(&[("logic/1", 7), ("logic/12", 8), ("logic/5", 9), ("lane/day", 3)]));
        let at = |epoch| ledger.at(epoch).map(Fingerprint::to_txn);
        assert_eq!([at(0), at(1), at(4), at(5), at(11), at(12)], [None, Some(7), Some(7), Some(9), Some(9), Some(8)]);
        assert_eq!(ledger.newest().map(|(from, logic)| (from, logic.to_txn())), Some((12, 8)));
    }

    #[test]
    fn what_was_undone_is_not_in_force() {
        let orders = Orders::of(&state(&[("replay/a", 4), ("replay/b", 2), ("undo/b", 3), ("replay/c", 1)]));
        assert_eq!((orders.ids_in_force(), orders.newest()), (vec!["c", "a"], 4));
        assert!(orders.in_force("a") && !orders.in_force("b") && !orders.in_force("d"));
    }

    #[test]
    fn who_asks_has_asked_since_and_had_no_commit_since() {
        let before = state(&[("turn/a", 1), ("replay/a", 1)]).txns;
        for (now, who) in [
            (vec![("turn/a", 1), ("replay/a", 1)], None),
            (vec![("turn/a", 2), ("replay/a", 1)], Some("a")),
            (vec![("turn/a", 2), ("replay/a", 2)], None),
            (vec![("turn/a", 2), ("replay/a", 1), ("undo/a", 2)], None),
            (vec![("turn/a", 1), ("replay/a", 1), ("turn/b", 1), ("lane/day", 4)], Some("b")),
        ] {
            assert_eq!(asks(&before, &state(&now)), who, "{now:?}");
        }
    }

    #[test]
    fn entries_overlap_in_time_and_customers() {
        let entry = |coverage: &[(i64, i64)], customers: Option<&[&str]>| Entry {
            id: "r".to_owned(),
            coverage: coverage.iter().map(|(start, end)| *start..*end).collect(),
            customers: customers.map(|all| all.iter().map(|customer| (*customer).to_owned()).collect()),
            logic: Fingerprint::from_txn(1),
            before: 9,
            whole_only: Vec::new(),
        };
        let a = entry(&[(0, 10), (20, 30)], None);
        let covers = |time| covers(&a.coverage, time);
        assert!(covers(0) && !covers(10) && covers(29) && !covers(-1));
        assert!(!a.overlaps(&entry(&[(10, 20)], None)) && a.overlaps(&entry(&[(10, 21)], None)));
        assert!(a.overlaps(&entry(&[(12, 13), (29, 40)], None)));
        let some = entry(&[(0, 10)], Some(&["a", "c"]));
        assert!(a.overlaps(&some) && some.overlaps(&entry(&[(9, 11)], Some(&["b", "c"]))));
        assert!(!some.overlaps(&entry(&[(9, 11)], Some(&["b"]))));
    }
}
