//! The facts that `status` reports, as they are in its JSON: stable names with units at the end, times in RFC 3339.
//!
//! In: the states of both tables, and what was read beside them. Out: [`Status`]. Pure. A new fact gets a new name, and no name is
//! changed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::balance::Balance;
use super::pending::Pending;
use crate::ledger::{Fingerprint, Ledger, Orders};
use crate::model::{Epoch, Lane, Period, TimeUs, rfc3339_ms};
use crate::table::{CommitSummary, File, State, counts, raw};

/// All facts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Where the tables are.
    pub tables_url: String,
    /// When the tables were read.
    pub now: String,
    /// The job's name; null where no job file was given.
    pub job: Option<String>,
    /// What the job counts; null where no job file was given.
    pub logic: Option<Logic>,
    /// The archive.
    pub raw: Table,
    /// The newest epoch of the archive.
    pub raw_epoch: i64,
    /// The counts.
    pub counts: Table,
    /// Buckets of customers.
    pub buckets: u32,
    /// Files of `counts` by granularity and length of period.
    pub segments: Vec<Segments>,
    /// In the order minute, hour, day, late, coarse.
    pub lanes: Vec<LaneFacts>,
    /// By topic and number.
    pub partitions: Vec<Partition>,
    /// Which logic the live job counted with from which epoch on, ascending; empty for tables of builds that did not record it.
    pub logics: Vec<LogicFacts>,
    /// The replays that were published, by order.
    pub replays: Vec<ReplayFacts>,
    /// Rows of the archive by what became of them.
    pub balance: Balance,
    /// What somebody should check, or should know about these numbers.
    pub notes: Vec<String>,
}

/// What a job counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Logic {
    /// Its fingerprint: two jobs with the same one count the same.
    pub fingerprint: Fingerprint,
    /// An md5 of the logic, kept for scripts that use it.
    pub md5: String,
}

/// A logic on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogicFacts {
    /// The first epoch that it counts.
    pub from_epoch: Epoch,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Whether the job file counts with it; null where no job file was given.
    pub is_job: Option<bool>,
}

/// A replay on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplayFacts {
    /// Its id.
    pub id: String,
    /// The order number of its newest publish or undo: the greater, the later.
    pub order: i64,
    /// What was last done with it.
    pub state: ReplayState,
}

/// What was last done with a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayState {
    /// It is in force.
    Published,
    /// It is no longer in force.
    Undone,
}

/// A table in its newest version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Table {
    /// The version.
    pub version: u64,
    /// The generation of the writer that may commit.
    pub writer_generation: i64,
    /// The newest commit.
    pub last_commit: LastCommit,
    /// Live files.
    pub files: u64,
    /// Their rows.
    pub rows: u64,
    /// Their size.
    pub size_bytes: u64,
}

/// What a commit says of itself; null where it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LastCommit {
    /// When it was made.
    pub time: Option<String>,
    /// The program that made it.
    pub engine: Option<String>,
    /// What it did.
    pub operation: Option<String>,
}

/// Live files of `counts` of one granularity and one length of period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Segments {
    /// Length of their windows.
    pub granularity: String,
    /// Length of their periods.
    pub period: String,
    /// How many there are.
    pub files: u64,
    /// Their rows.
    pub rows: u64,
    /// Their size.
    pub size_bytes: u64,
}

/// A lane.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LaneFacts {
    /// Its name.
    pub lane: &'static str,
    /// The epoch up to which it is published.
    pub epoch: i64,
    /// How many epochs of the archive it has not absorbed.
    pub pending_epochs: i64,
    /// The rows of those epochs, whichever lane they belong to: an upper bound.
    pub pending_raw_rows: u64,
    /// The least Kafka timestamp of those rows; null where nothing is pending.
    pub oldest_pending_kafka_timestamp: Option<String>,
    /// From that to the newest commit of `counts`; null where nothing is pending.
    pub freshness_seconds: Option<f64>,
    /// From that to now; null where nothing is pending.
    pub oldest_pending_age_seconds: Option<f64>,
    /// The time up to which its windows have every record that was in Kafka on time.
    pub complete_until: Option<String>,
    /// The time between two of its publishes; null where the newest commit is not of the job, or of a build that did not record it.
    pub interval_seconds: Option<u64>,
    /// What sets that time: setting, cost, hour or budget.
    pub interval_set_by: Option<String>,
}

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// The topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// The next offset that the archive needs; null where it holds nothing of the partition.
    pub archived_offset: Option<i64>,
    /// The next offset in Kafka; null where it was not asked or did not answer.
    pub end_offset: Option<i64>,
    /// Records between the two; markers of transactions at the end do not count.
    pub lag_records: Option<i64>,
}

/// When things happened, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) now_ms: i64,
    /// The newest commit of `counts`.
    pub(super) committed_ms: i64,
}

impl Table {
    pub(super) fn of(state: &State, last: &CommitSummary) -> Table {
        let [files, rows, size_bytes] = sum(state.files.values());
        Table {
            version: state.version,
            writer_generation: state.txn(crate::table::log::WRITER_GENERATION),
            last_commit: LastCommit {
                time: last.time_ms.and_then(rfc3339_ms),
                engine: last.engine.clone(),
                operation: last.operation.clone(),
            },
            files,
            rows,
            size_bytes,
        }
    }
}

fn sum<'a>(files: impl Iterator<Item = &'a File>) -> [u64; 3] {
    files.fold([0; 3], |[files, rows, bytes], file| [files + 1, rows + file.rows, bytes + file.size])
}

/// Live files by granularity, finest first, and length of period, shortest first.
pub(super) fn segments(state: &State) -> Vec<Segments> {
    let mut found: BTreeMap<_, (String, Vec<&File>)> = BTreeMap::new();
    for file in state.files.values() {
        let value = |name: &str| file.partition.get(name).cloned().unwrap_or_default();
        let granularity = value("granularity").parse::<crate::model::Granularity>().ok();
        let period = granularity.and_then(|known| Period::parse(&value("period"), known)).map(|(period, _)| period);
        let (_, files) = found.entry((granularity, period)).or_insert_with(|| (value("granularity"), Vec::new()));
        files.push(file);
    }
    (found.into_iter())
        .map(|((_, period), (granularity, files))| {
            let [files, rows, size_bytes] = sum(files.into_iter());
            let period = period.map_or("unknown", name).to_owned();
            Segments { granularity, period, files, rows, size_bytes }
        })
        .collect()
}

fn name(period: Period) -> &'static str {
    match period {
        Period::Minute => "minute",
        Period::Hour => "hour",
        Period::Day => "day",
        Period::Week => "week",
        Period::Month => "month",
        Period::Year => "year",
    }
}

pub(super) fn lanes(
    raw_epoch: i64,
    counts_state: &State,
    last: &CommitSummary,
    pending: [Pending; Lane::ALL.len()],
    times: Times,
) -> Vec<LaneFacts> {
    let of = |(lane, pending): (Lane, Pending)| {
        let epoch = counts_state.txn(&counts::lane_txn(lane));
        let until = counts_state.txn(&counts::complete_until_txn(lane));
        let seconds = |from: TimeUs, to_ms: i64| (to_ms - from / 1000).max(0) as f64 / 1000.0;
        let interval = last.parameters.get(&counts::interval_parameter(lane)).and_then(|it| it.split_once(' '));
        LaneFacts {
            lane: lane.name(),
            epoch,
            pending_epochs: (raw_epoch - epoch).max(0),
            pending_raw_rows: pending.rows,
            oldest_pending_kafka_timestamp: pending.oldest.and_then(|oldest| rfc3339_ms(oldest.div_euclid(1000))),
            freshness_seconds: pending.oldest.map(|oldest| seconds(oldest, times.committed_ms)),
            oldest_pending_age_seconds: pending.oldest.map(|oldest| seconds(oldest, times.now_ms)),
            complete_until: if until > 0 { rfc3339_ms(until) } else { None },
            interval_seconds: interval.and_then(|(seconds, _)| seconds.parse().ok()),
            interval_set_by: interval.map(|(_, set_by)| set_by.to_owned()),
        }
    };
    Lane::ALL.into_iter().zip(pending).map(of).collect()
}

/// The logics on record; `ours` is that of the job file.
pub(super) fn logics(counts_state: &State, ours: Option<Fingerprint>) -> Vec<LogicFacts> {
    let logics = Ledger::of(counts_state).logics;
    let of = |(from_epoch, fingerprint)| LogicFacts {
        from_epoch,
        fingerprint,
        is_job: ours.map(|ours| ours == fingerprint),
    };
    logics.into_iter().map(of).collect()
}

/// The replays on record.
pub(super) fn replays(counts_state: &State) -> Vec<ReplayFacts> {
    let orders = Orders::of(counts_state);
    let of = |(id, (published, undone)): (&String, &(i64, i64))| {
        let state = if orders.in_force(id) { ReplayState::Published } else { ReplayState::Undone };
        ReplayFacts { id: id.clone(), order: *published.max(undone), state }
    };
    let mut replays: Vec<ReplayFacts> = orders.by_id.iter().map(of).collect();
    replays.sort_by_key(|replay| replay.order);
    replays
}

/// The next offset of each partition in the archive.
pub(super) fn archived(raw_state: &State) -> BTreeMap<(String, i32), i64> {
    let archived = raw_state.txns.iter().filter_map(|(id, next)| {
        let (topic, partition) = id.strip_prefix("kafka/")?.split_once('/')?;
        let partition = partition.parse::<i32>().ok()?;
        (raw::offset_txn(topic, partition) == *id).then(|| ((topic.to_owned(), partition), *next))
    });
    archived.collect()
}

/// The partitions of the archive, and those that only Kafka has. `at_rest` are those that hold no record beyond the archive.
pub(super) fn partitions(
    raw_state: &State,
    ends: &BTreeMap<(String, i32), i64>,
    at_rest: &BTreeSet<(String, i32)>,
) -> Vec<Partition> {
    let archived = archived(raw_state);
    let all: BTreeSet<_> = archived.keys().chain(ends.keys()).collect();
    let partition = |key: &(String, i32)| {
        let (archived_offset, end_offset) = (archived.get(key).copied(), ends.get(key).copied());
        let lag = |(archived, end): (i64, i64)| if at_rest.contains(key) { 0 } else { (end - archived).max(0) };
        let lag_records = archived_offset.zip(end_offset).map(lag);
        Partition { topic: key.0.clone(), partition: key.1, archived_offset, end_offset, lag_records }
    };
    all.into_iter().map(partition).collect()
}
