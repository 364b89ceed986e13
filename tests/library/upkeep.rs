//! Tables that stay healthy: what is deleted and what is not, a log that is cleaned up while it is read, files of `raw` that are merged
//! with every row unchanged, beside rivals, crashes and a running job; and the commands that do this by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as DiskPath;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use arrow::array::{RecordBatch, RecordBatchReader};
use floodmark::dataflow::commit::Request;
use floodmark::model::{Lane, Outcome, RecordRef, Records, TimestampType};
use floodmark::process::Clock;
use floodmark::table::counts::{self, lane_txn};
use floodmark::table::log::WRITER_GENERATION;
use floodmark::table::raw::{self, FileWriter, Kind, RawRows, epochs_of};
use floodmark::table::{Commit, File, Log, Root, State, TableError, retention};
use floodmark::upkeep::clean::{Cleaned, Rule, clean};
use floodmark::upkeep::compact::{Compacted, compact, merge_group, planned};
use floodmark::upkeep::{EVERY_US, Upkeep};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::support::faulty::{Fault, Faulty};
use crate::support::live::{BASE, CUSTOMERS, SECOND, World, block_on};
use crate::support::tables::same;

const HOUR_MS: i64 = 3_600_000;
const DAY_US: i64 = 86_400_000_000;
const MIB: u64 = 1 << 20;

fn now_ms() -> i64 {
    Clock::System.now_ms()
}

/// Keeps what died less than this many hours ago; if negative, it also deletes what will die in the next hours.
fn rule(hours: i64) -> Rule {
    Rule { before_ms: now_ms() - hours * HOUR_MS, no_job_runs: false, dry_run: false }
}

async fn names(store: &Arc<dyn ObjectStore>) -> BTreeSet<String> {
    let listed: Vec<_> = store.list(None).try_collect().await.expect("listed");
    listed.iter().map(|meta| meta.location.to_string()).collect()
}

async fn put(log: &Log, path: &str) {
    log.store().put(&Path::from(path), "bytes".into()).await.expect("written");
}

// ---- tables by hand ----

/// Both tables in a store, with the epochs that were written to `raw`.
struct Tables {
    root: Root,
    raw: Log,
    counts: Log,
}

impl Tables {
    async fn on(store: Arc<dyn ObjectStore>) -> Tables {
        let root = Root::on(store);
        Tables::in_root(root).await
    }

    async fn in_root(root: Root) -> Tables {
        let (raw, counts) = (Log::new(&root, "raw"), Log::new(&root, "counts"));
        raw.load_or_create(&raw::definition(), now_ms()).await.expect("raw");
        counts.load_or_create(&counts::definition(2), now_ms()).await.expect("counts");
        Tables { root, raw, counts }
    }

    async fn memory() -> Tables {
        Tables::on(Arc::new(InMemory::new())).await
    }

    async fn state(&self) -> State {
        self.raw.load().await.expect("readable").expect("raw")
    }

    /// One epoch of some rows, with a file of each kind, and `ingested_at` on a day of January 2026.
    async fn epoch(&self, epoch: u64, day: i64) {
        let ingested_at = BASE + (day - 13) * DAY_US + epoch as i64;
        let mut add = Vec::new();
        for (kind, rows) in Kind::ALL.into_iter().zip([40, 3]) {
            let mut gathered = RawRows::new(Arc::from(["events".to_owned()]));
            for row in 0..rows {
                let number = epoch * 100 + row;
                let unless = |every: u64| !number.is_multiple_of(every);
                let value = format!("{{\"number\":{number}}}").repeat(1 + number as usize % 7);
                let mut records = Records::default();
                let record = RecordRef {
                    epoch,
                    ingested_at,
                    topic: 0,
                    partition: (number % 3) as i32,
                    offset: number as i64,
                    timestamp_ms: unless(5).then_some(ingested_at / 1000),
                    timestamp_type: TimestampType::LogAppendTime,
                    key: unless(4).then_some(&b"key"[..number as usize % 3]),
                    value: unless(11).then_some(value.as_bytes()),
                };
                let headers: [(&[u8], Option<&[u8]>); 3] = [(b"a", Some(b"\0\xff")), (b"a", None), (b"", Some(b""))];
                records.push(record, headers.into_iter().take(number as usize % 4));
                let event_time =
                    (kind == Kind::Main || row > 0).then_some(ingested_at - (number as i64 * 7919) % 50_000_001);
                gathered.push(&records, 0, &Outcome::Counted, event_time);
            }
            let mut writer = FileWriter::new().expect("a writer");
            writer.write(&gathered.finish()).expect("encoded");
            let name = format!("e{epoch:012}-g000001-p0");
            let encoded = writer.finish(kind, &name).expect("encoded").expect("rows");
            self.raw.store().put(&Path::from(encoded.file.path.as_str()), encoded.bytes.into()).await.expect("stored");
            add.push(encoded.file);
        }
        let mut state = self.state().await;
        let txns = vec![(WRITER_GENERATION.to_owned(), 1), (raw::EPOCH.to_owned(), epoch as i64)];
        self.raw
            .commit(&mut state, &Commit { add, txns, ..Commit::default() }, "TEST", now_ms())
            .await
            .expect("committed");
    }

    /// Sets every lane to this epoch.
    async fn absorb(&self, epoch: u64) {
        let mut state = self.counts.load().await.expect("readable").expect("counts");
        let txns = Lane::ALL.map(|lane| (lane_txn(lane), epoch as i64)).to_vec();
        self.counts
            .commit(&mut state, &Commit { txns, ..Commit::default() }, "TEST", now_ms())
            .await
            .expect("committed");
    }

    async fn compact(&self) -> Compacted {
        compact(&self.root, MIB, &Clock::System, |_| {}).await.expect("compacted")
    }
}

/// Twelve absorbed epochs of one day, and one of the next day, so that the first day is over.
async fn a_day(tables: &Tables) {
    for epoch in 1..=12 {
        tables.epoch(epoch, 13).await;
    }
    tables.epoch(13, 14).await;
    tables.absorb(13).await;
}

async fn batches(log: &Log, file: &File) -> Vec<RecordBatch> {
    let found = log.store().get(&Path::from(file.path.as_str())).await.expect("the file is there");
    let bytes = found.bytes().await.expect("its bytes");
    assert_eq!(bytes.len() as u64, file.size, "size of {}", file.path);
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("Parquet").build().expect("Parquet");
    assert_eq!(reader.schema().fields(), raw::file_schema().fields());
    reader.collect::<Result<_, _>>().expect("rows")
}

/// All rows of `raw` as text, with all columns including nulls, sorted.
async fn rows(log: &Log, state: &State) -> Vec<String> {
    let mut lines = Vec::new();
    for file in state.files.values() {
        let batches = batches(log, file).await;
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>() as u64, file.rows, "rows of {}", file.path);
        let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
        writer.write_batches(&batches.iter().collect::<Vec<_>>()).expect("JSON");
        writer.finish().expect("JSON");
        let text = String::from_utf8(writer.into_inner()).expect("UTF-8");
        let apart = Kind::of_file(file).expect("a name of ours");
        lines.extend(text.lines().map(|line| format!("{apart:?} {} {line}", file.partition["ingest_date"])));
    }
    lines.sort();
    lines
}

// ---- compaction ----

#[tokio::test]
async fn merged_files_hold_the_same_rows_sorted_by_event_time() {
    let tables = Tables::memory().await;
    a_day(&tables).await;
    let before = tables.state().await;
    let expected = rows(&tables.raw, &before).await;
    let done = tables.compact().await;
    assert_eq!((done.files, done.into, done.rows, done.given_up), (24, 2, 12 * 43, 0));

    let after = tables.state().await;
    assert_eq!(after.version, before.version + 2, "a commit for each group");
    assert_eq!(after.txns, before.txns, "no transaction of the writer's");
    assert_eq!(after.files.len(), 4);
    assert!(rows(&tables.raw, &after).await == expected, "other rows");
    for file in after.files.values().filter(|file| file.partition["ingest_date"] == "2026-01-13") {
        assert_eq!(epochs_of(file).expect("statistics"), (1, 12));
        assert!(file.path.starts_with("ingest_date=2026-01-13/e000000000001-000000000012-compact-"), "{}", file.path);
        let batches = batches(&tables.raw, file).await;
        let times: Vec<Option<i64>> = batches.iter().flat_map(event_times).collect();
        assert!(times.is_sorted(), "{}", file.path);
        // Its statistics equal those of a writer that has all rows at once.
        let mut writer = FileWriter::new().expect("a writer");
        batches.iter().for_each(|batch| writer.write(batch).expect("encoded"));
        let encoded = writer.finish(Kind::Main, "again").expect("encoded").expect("rows");
        assert_eq!(file.stats, encoded.file.stats);
    }
    // Programs that follow the changes of a table do not see rows that only moved.
    let entry = tables.raw.store().get(&Path::from(format!("_delta_log/{:020}.json", after.version))).await;
    let entry = String::from_utf8(entry.expect("there").bytes().await.expect("bytes").to_vec()).expect("UTF-8");
    assert!(entry.contains("\"dataChange\":false") && !entry.contains("\"dataChange\":true"), "{entry}");
    // That was all: nothing is merged again.
    assert_eq!(tables.compact().await, Compacted::default());
}

fn event_times(batch: &RecordBatch) -> Vec<Option<i64>> {
    use arrow::array::AsArray;
    let times = batch.column_by_name("event_time").expect("a column");
    times.as_primitive::<arrow::datatypes::TimestampMicrosecondType>().iter().collect()
}

#[tokio::test]
async fn what_a_lane_has_not_absorbed_is_left_alone() {
    let tables = Tables::memory().await;
    a_day(&tables).await;
    tables.absorb(7).await;
    let (.., groups) = planned(&tables.root, MIB).await.expect("planned").expect("tables");
    assert!(groups.is_empty(), "the day is not over for all lanes: {groups:?}");
    let nowhere = Root::on(Arc::new(InMemory::new()));
    assert_eq!(compact(&nowhere, MIB, &Clock::System, |_| {}).await.expect("nothing to do"), Compacted::default());
}

/// A writer that commits concurrently changes nothing: we commit after it.
#[tokio::test]
async fn a_rival_that_only_adds_does_not_stop_a_compaction() {
    let store = Faulty::new(Arc::new(InMemory::new()));
    let tables = Tables::on(Arc::new(store.clone())).await;
    a_day(&tables).await;
    let state = tables.state().await;
    let expected = rows(&tables.raw, &state).await;
    let (rival, mut theirs) = (tables.raw.clone(), state.clone());
    let entry = format!("raw/_delta_log/{:020}.json", state.version + 1);
    let change = Commit { txns: vec![(raw::EPOCH.to_owned(), 14)], ..Commit::default() };
    store.on(&entry, Fault::rival(async move { rival.commit(&mut theirs, &change, "RIVAL", 0).await.expect("first") }));
    let done = tables.compact().await;
    assert!(store.done());
    assert_eq!((done.files, done.given_up), (24, 0));
    let after = tables.state().await;
    assert_eq!((after.version, after.txn(raw::EPOCH)), (state.version + 3, 14));
    assert!(rows(&tables.raw, &after).await == expected, "other rows");
}

/// A rival that has removed one of the files wins: the group is left alone, and its merged file is deleted.
#[tokio::test]
async fn a_rival_that_takes_an_input_ends_a_group() {
    let store = Faulty::new(Arc::new(InMemory::new()));
    let tables = Tables::on(Arc::new(store.clone())).await;
    a_day(&tables).await;
    let (log, mut state, groups) = planned(&tables.root, MIB).await.expect("planned").expect("tables");
    let (rival, mut theirs, taken) = (log.clone(), state.clone(), groups[0].files[3].clone());
    let entry = format!("raw/_delta_log/{:020}.json", state.version + 1);
    let change = Commit { remove: vec![taken], ..Commit::default() };
    store.on(&entry, Fault::rival(async move { rival.commit(&mut theirs, &change, "RIVAL", 0).await.expect("first") }));
    assert_eq!(merge_group(&log, &mut state, &groups[0], &Clock::System).await.expect("no error"), None);
    same(&state, &tables.state().await);
    let there = names(tables.raw.store()).await;
    assert!(there.iter().all(|name| !name.contains("compact")), "{there:?}");
    assert!(
        merge_group(&log, &mut state, &groups[1], &Clock::System).await.expect("no error").is_some(),
        "the other one"
    );
}

#[tokio::test]
async fn a_crash_between_upload_and_commit_leaves_an_orphan_that_is_deleted_later() {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let tables = Tables::on(Arc::clone(&inner)).await;
    a_day(&tables).await;
    let before = tables.state().await;
    let store = Faulty::new(Arc::clone(&inner));
    let root = Root::on(Arc::new(store.clone()));
    store.on("_delta_log", Fault::FreezeBefore);
    let killed = tokio::spawn(async move { compact(&root, MIB, &Clock::System, |_| {}).await });
    while !store.frozen() {
        tokio::task::yield_now().await;
    }
    killed.abort();
    assert!(killed.await.expect_err("killed").is_cancelled());
    store.kill();
    same(&tables.state().await, &before);
    let orphans = |names: BTreeSet<String>| names.into_iter().filter(|name| name.contains("compact")).count();
    assert_eq!(orphans(names(tables.raw.store()).await), 1);
    assert_eq!(clean(&tables.raw, rule(1)).await.expect("cleaned"), Cleaned::default(), "it is young");
    assert_eq!(clean(&tables.raw, rule(-1)).await.expect("cleaned").files, 1);
    assert_eq!(orphans(names(tables.raw.store()).await), 0);
    assert_eq!(tables.compact().await.files, 24, "and it is done at the next round");
}

#[tokio::test]
async fn a_store_that_says_no_changes_nothing() {
    let store = Faulty::new(Arc::new(InMemory::new()));
    let tables = Tables::on(Arc::new(store.clone())).await;
    a_day(&tables).await;
    let before = tables.state().await;
    store.on("compact", Fault::Denied);
    let failed = compact(&tables.root, MIB, &Clock::System, |_| {}).await.expect_err("denied");
    assert!(failed.to_string().contains("compact"), "{failed}");
    same(&tables.state().await, &before);
    // Also a file that can not be read: it is named.
    let lost = before.files.keys().find(|path| path.contains("-main")).expect("a file").clone();
    tables.raw.store().delete(&Path::from(lost.as_str())).await.expect("deleted");
    let failed = compact(&tables.root, MIB, &Clock::System, |_| {}).await.expect_err("lost");
    assert!(failed.to_string().contains(&lost), "{failed}");
    same(&tables.state().await, &before);
}

// ---- cleaning ----

#[tokio::test]
async fn superseded_files_go_by_the_time_of_their_removal_and_orphans_by_their_age() {
    let tables = Tables::memory().await;
    a_day(&tables).await;
    let mut state = tables.state().await;
    let removed: Vec<File> = state.files.values().take(2).cloned().collect();
    for (file, hours_ago) in removed.iter().zip([30, 20]) {
        let commit = Commit { remove: vec![file.clone()], ..Commit::default() };
        tables.raw.commit(&mut state, &commit, "TEST", now_ms() - hours_ago * HOUR_MS).await.expect("committed");
    }
    let orphan = "ingest_date=2026-01-12/e000000000001-g000001-p0-main.parquet";
    // The current writer may commit this file, however long that takes; an earlier writer can not.
    let staged = "ingest_date=2026-01-14/e000000000099-g000001-p0-main.parquet";
    let fenced = "ingest_date=2026-01-14/e000000000099-g000000-p0-main.parquet";
    let foreign = ["notes.txt", "ingest_date=2026-01-12/notes.txt", "backup/ingest_date=2026-01-12/a.parquet"];
    for path in [orphan, staged, fenced].into_iter().chain(foreign) {
        put(&tables.raw, path).await;
    }
    let before = names(tables.raw.store()).await;

    // Orphans are younger than a day.
    let dry = Rule { dry_run: true, ..rule(24) };
    let cleaned = clean(&tables.raw, dry).await.expect("looked at");
    assert_eq!((cleaned.files, cleaned.bytes, cleaned.failed), (1, removed[0].size, 0));
    assert!(cleaned.oldest_ms.is_some_and(|ms| (now_ms() - ms - 30 * HOUR_MS).abs() < HOUR_MS), "{cleaned:?}");
    assert_eq!(names(tables.raw.store()).await, before, "a dry run deletes nothing");
    assert_eq!(clean(&tables.raw, rule(24)).await.expect("cleaned"), cleaned);
    let gone = |after: BTreeSet<String>| before.difference(&after).cloned().collect::<Vec<_>>();
    assert_eq!(gone(names(tables.raw.store()).await), [removed[0].path.clone()]);
    assert_eq!(clean(&tables.raw, rule(24)).await.expect("cleaned"), Cleaned::default(), "once");

    // A limit later than all of them.
    assert_eq!(clean(&tables.raw, rule(-1)).await.expect("cleaned").files, 3);
    let mut expected = vec![removed[0].path.clone(), removed[1].path.clone(), orphan.to_owned(), fenced.to_owned()];
    expected.sort();
    assert_eq!(gone(names(tables.raw.store()).await), expected);
    // If no job runs, no file is about to be committed.
    let all = Rule { no_job_runs: true, ..rule(-1) };
    assert_eq!(clean(&tables.raw, all).await.expect("cleaned").files, 1);
    assert!(!names(tables.raw.store()).await.contains(staged));
    rows(&tables.raw, &tables.state().await).await;
    let nowhere = Log::new(&Root::on(Arc::new(InMemory::new())), "raw");
    assert_eq!(clean(&nowhere, rule(1)).await.expect("no table"), Cleaned::default());
}

/// What the store does not delete now is deleted in the next round.
#[tokio::test]
async fn a_deletion_that_fails_is_told_and_left_to_the_next_round() {
    let store = Faulty::new(Arc::new(InMemory::new()));
    let tables = Tables::on(Arc::new(store.clone())).await;
    for name in ["a", "b", "c"] {
        put(&tables.raw, &format!("ingest_date=2026-01-12/{name}.parquet")).await;
    }
    store.on("b.parquet", Fault::Refused);
    let cleaned = clean(&tables.raw, rule(-1)).await.expect("cleaned");
    assert_eq!((cleaned.files, cleaned.failed), (2, 1));
    assert!(cleaned.failure.is_some_and(|failure| failure.contains("refused")));
    assert_eq!(clean(&tables.raw, rule(-1)).await.expect("cleaned").files, 1);
}

/// A writer, a cleaner and readers concurrently, on a disk: each reader finds a whole table and all its files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_beside_a_writer_and_a_cleaner() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = Root::open(folder.path().to_str().expect("UTF-8"), &BTreeMap::new()).expect("a root");
    let tables = Tables::in_root(root).await;
    let log = tables.raw.clone();
    let writer = tokio::spawn(async move {
        let mut state = log.load().await.expect("readable").expect("raw");
        for number in 1..=450 {
            let path = format!("ingest_date=2026-01-13/e{number:012}-g000001-p0-main.parquet");
            put(&log, &path).await;
            let stats = r#"{"numRecords":1}"#.to_owned();
            let partition = BTreeMap::from([("ingest_date".to_owned(), "2026-01-13".to_owned())]);
            let file = File { path, size: 5, rows: 1, partition, stats };
            let remove = state.files.values().take(usize::from(number > 5)).cloned().collect();
            let change = Commit { add: vec![file], remove, txns: vec![("n".to_owned(), number)], ..Commit::default() };
            log.commit(&mut state, &change, "TEST", now_ms()).await.expect("committed");
            while state.version.is_multiple_of(100)
                && log.last_checkpoint().await.expect("readable") != Some(state.version)
            {
                tokio::task::yield_now().await;
            }
        }
    });
    let log = tables.raw.clone();
    let cleaner = tokio::spawn(async move {
        let mut cleaned = (0, 0);
        while !writer.is_finished() {
            // All dead files are deleted at once, and entries of the log as soon as there is a checkpoint.
            let done = clean(&log, rule(-1)).await.expect("cleaned");
            cleaned = (cleaned.0 + done.files, cleaned.1 + done.log_entries);
        }
        writer.await.expect("no panic");
        cleaned
    });
    let mut read = 0;
    while !cleaner.is_finished() {
        let state = tables.state().await;
        assert!(state.files.len() <= 7, "{} files", state.files.len());
        assert_eq!(state.txn("n") as u64, state.version);
        read += 1;
    }
    assert!(read > 0);
    let (files, entries) = cleaner.await.expect("no panic");
    let last = clean(&tables.raw, rule(-1)).await.expect("cleaned");
    // Everything below version 400: the entries, and three checkpoints.
    assert_eq!((files + last.files, entries + last.log_entries), (445, 403));
    let state = tables.state().await;
    let there = names(tables.raw.store()).await;
    let data: BTreeSet<String> = there.into_iter().filter(|name| name.starts_with("ingest_date")).collect();
    assert_eq!(data, state.files.keys().cloned().collect());
}

// ---- the log ----

/// 230 commits on a disk, and its checkpoints.
async fn long_log(folder: &DiskPath) -> (Log, State) {
    let root = Root::open(folder.to_str().expect("UTF-8"), &BTreeMap::new()).expect("a root");
    let log = Log::new(&root, "counts");
    let definition = counts::definition(2).with_properties(retention::properties(24));
    let mut state = log.load_or_create(&definition, now_ms()).await.expect("a table");
    while state.version < 230 {
        let change = Commit { txns: vec![("n".to_owned(), state.version as i64)], ..Commit::default() };
        log.commit(&mut state, &change, "TEST", now_ms()).await.expect("committed");
        if state.version.is_multiple_of(100) {
            // They are written concurrently with the commits.
            while log.last_checkpoint().await.expect("readable") != Some(state.version) {
                tokio::task::yield_now().await;
            }
        }
    }
    (log, state)
}

fn made(folder: &DiskPath, version: u64, hours_ago: u64) {
    let path = folder.join(format!("counts/_delta_log/{version:020}.checkpoint.parquet"));
    let file = std::fs::File::options().append(true).open(path).expect("a checkpoint");
    file.set_modified(SystemTime::now() - Duration::from_secs(hours_ago * 3600)).expect("set");
}

async fn entries(log: &Log) -> (Vec<u64>, Vec<u64>) {
    let listing = log.list(None).await.expect("listed");
    (listing.commits, listing.checkpoints)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_keeps_what_versions_younger_than_the_limit_need() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (log, state) = long_log(folder.path()).await;
    assert_eq!(clean(&log, rule(24)).await.expect("cleaned").log_entries, 0, "all is young");
    made(folder.path(), 100, 25);
    assert_eq!(clean(&log, rule(24)).await.expect("cleaned").log_entries, 100, "0 to 99");
    assert_eq!(entries(&log).await, ((100..=230).collect(), vec![100, 200]));
    same(&log.load().await.expect("readable").expect("a table"), &state);
    let url = Root::open(folder.path().to_str().expect("UTF-8"), &BTreeMap::new()).expect("a root").table("counts").1;
    // delta-rs can travel to every version that is younger than the limit, and continue from there.
    for version in [100, 101, 199, 200, 230] {
        let table = deltalake_core::open_table_with_version(url.clone(), version).await.expect("delta-rs opens it");
        assert_eq!(table.version(), Some(version));
    }
    made(folder.path(), 100, 50);
    made(folder.path(), 200, 25);
    assert_eq!(clean(&log, rule(24)).await.expect("cleaned").log_entries, 101, "100 to 199, and a checkpoint");
    assert_eq!(entries(&log).await, ((200..=230).collect(), vec![200]));
    same(&log.load().await.expect("readable").expect("a table"), &state);
    let table = deltalake_core::open_table(url).await.expect("delta-rs opens it");
    assert_eq!(table.version(), Some(230));
    let mut state = state;
    log.commit(&mut state, &Commit::default(), "TEST", now_ms()).await.expect("goes on");
    same(&log.load().await.expect("readable").expect("a table"), &state);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_newest_checkpoint_is_not_named_or_gone_is_read_all_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (log, state) = long_log(folder.path()).await;
    for version in 0..100 {
        log.store().delete(&Path::from(format!("_delta_log/{version:020}.json"))).await.expect("deleted");
    }
    log.store().delete(&Path::from(format!("_delta_log/{:020}.checkpoint.parquet", 200))).await.expect("deleted");
    same(&log.load().await.expect("readable").expect("a table"), &state);
    log.store().delete(&Path::from("_delta_log/_last_checkpoint")).await.expect("deleted");
    same(&log.load().await.expect("readable").expect("a table"), &state);
    log.store().delete(&Path::from(format!("_delta_log/{:020}.json", 150))).await.expect("deleted");
    let damaged = log.load().await;
    assert!(
        matches!(&damaged, Err(TableError::Corrupt { what, .. }) if what.contains("lacks version 150")),
        "{damaged:?}"
    );
}

/// Tombstones stay in checkpoints until they are older than the table's retention, and are never in a state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_drop_old_tombstones() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = Root::open(folder.path().to_str().expect("UTF-8"), &BTreeMap::new()).expect("a root");
    let tables = Tables::in_root(root).await;
    let log = &tables.raw;
    let mut state = tables.state().await;
    log.set_properties(&mut state, &retention::properties(24), now_ms()).await.expect("set");
    tables.epoch(1, 13).await;
    log.refresh(&mut state).await.expect("readable");
    let files: Vec<File> = state.files.values().cloned().collect();
    for (file, hours_ago) in files.iter().zip([25, 23]) {
        let change = Commit { remove: vec![file.clone()], ..Commit::default() };
        log.commit(&mut state, &change, "TEST", now_ms() - hours_ago * HOUR_MS).await.expect("committed");
    }
    let (_, tombstones) = log.load_with_tombstones().await.expect("readable").expect("a table");
    assert_eq!(tombstones.len(), 2, "from the entries");
    while state.version < 100 {
        log.commit(&mut state, &Commit::default(), "TEST", now_ms()).await.expect("committed");
    }
    while log.last_checkpoint().await.expect("readable") != Some(100) {
        tokio::task::yield_now().await;
    }
    let (loaded, tombstones) = log.load_with_tombstones().await.expect("readable").expect("a table");
    same(&loaded, &state);
    assert_eq!(tombstones.into_keys().collect::<Vec<_>>(), [files[1].path.clone()], "from the checkpoint");
    // Its tombstone is gone, so the file is an orphan and judged by its age.
    assert_eq!(clean(log, rule(24)).await.expect("cleaned").files, 0);
    assert_eq!(clean(log, rule(-1)).await.expect("cleaned").files, 2);
}

#[tokio::test]
async fn a_property_is_set_and_all_else_stays() {
    let store = Faulty::new(Arc::new(InMemory::new()));
    let tables = Tables::on(Arc::new(store.clone())).await;
    let log = &tables.counts;
    let mut state = log.load().await.expect("readable").expect("a table");
    let before: Value = serde_json::from_str(&state.metadata).expect("JSON");
    let mut wanted = before.clone();
    for (name, value) in retention::properties(48) {
        wanted["configuration"][name] = Value::from(value);
    }
    let (rival, mut theirs) = (log.clone(), state.clone());
    store.on(
        "counts/_delta_log/00000000000000000001.json",
        Fault::rival(async move { rival.commit(&mut theirs, &Commit::default(), "RIVAL", 0).await.expect("first") }),
    );
    log.set_properties(&mut state, &retention::properties(48), now_ms()).await.expect("set");
    assert_eq!(state.version, 2, "on top of the rival");
    assert_eq!(serde_json::from_str::<Value>(&state.metadata).expect("JSON"), wanted);
    assert_eq!(retention::keep_hours(&state), Some(48));
    assert_eq!(counts::buckets(&state).expect("kept"), 2);
    same(&log.load().await.expect("readable").expect("a table"), &state);
    log.set_properties(&mut state, &retention::properties(48), now_ms()).await.expect("set");
    assert_eq!(state.version, 2, "nothing to do");
}

// ---- beside a running job ----

/// Epochs of some records each, read and published; `next` is the number of the first one.
fn epochs(world: &mut World, job: &crate::support::live::Running, next: u64, count: u64) {
    for epoch in next..next + count {
        let read = job.progress.read.load(Ordering::Relaxed);
        CUSTOMERS.iter().for_each(|customer| world.push(customer, 1));
        world.push_garbage();
        assert!(job.reads(read + 3), "reads");
        world.advance(11 * SECOND);
        assert!(job.reaches("archiving", |progress| progress.epochs().0 >= epoch), "archives epoch {epoch}");
    }
}

fn lanes_at(world: &World, epoch: i64) -> bool {
    let counts = world.table("counts");
    Lane::ALL.iter().all(|lane| counts.txn(&lane_txn(*lane)) >= epoch)
}

fn sent(world: &World) -> Vec<(i32, i64)> {
    let sent = world.pushed() as usize;
    let mut all: Vec<_> = (0..sent).map(|number| ((number % 2) as i32, (number / 2) as i64)).collect();
    all.sort_unstable();
    all
}

/// A round of upkeep in the job itself, when its clock calls for it; and a stop right after.
#[test]
fn a_running_job_merges_small_files_of_its_archive() {
    let mut world = World::new("archive_file_bytes = 1048576");
    let job = world.start(2, world.store());
    epochs(&mut world, &job, 1, 10);
    // The slower lanes are published by then. A round may come before that, but not the one after it.
    world.advance(EVERY_US + 900 * SECOND);
    assert!(job.reaches("publishing", |_| lanes_at(&world, 10)), "publishes");
    let merged = job.reaches("merging", |_| {
        // The time of the next round counts from the end of the current one.
        world.advance(EVERY_US / 10);
        world.table("raw").files.keys().filter(|path| path.contains("compact")).count() == 2
    });
    assert!(merged, "merges");
    let next = world.table("raw").txn(raw::EPOCH) as u64 + 1;
    epochs(&mut world, &job, next, 2);
    job.ends_in_order(Request::Stop);
    assert_eq!(world.archived().into_keys().collect::<Vec<_>>(), sent(&world));
    let raw = world.table("raw");
    assert_eq!(retention::keep_hours(&raw), Some(24));
    assert!(raw.files.keys().any(|path| path.contains("compact")));
}

/// A round by hand while the job runs: neither disturbs the other. Then another start, with another retention.
#[test]
fn a_round_beside_a_running_job() {
    let mut world = World::new("");
    let job = world.start(1, world.store());
    epochs(&mut world, &job, 1, 9);
    job.ends_in_order(Request::Stop);
    let job = world.start(1, world.store());
    let first = world.table("raw").txn(raw::EPOCH) as u64 + 1;
    let upkeep = || Upkeep {
        root: Root::on(Arc::clone(&world.inner) as Arc<dyn ObjectStore>),
        settings: floodmark::job::Settings { archive_file_bytes: MIB, ..Default::default() },
        clock: Clock::System,
    };
    let upkeep = upkeep();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let round = runtime.spawn(async move { upkeep.round().await });
    epochs(&mut world, &job, first, 5);
    block_on(round).expect("no panic");
    epochs(&mut world, &job, first + 5, 2);
    job.ends_in_order(Request::Stop);
    assert_eq!(world.archived().into_keys().collect::<Vec<_>>(), sent(&world));
    assert!(world.table("raw").files.keys().any(|path| path.contains("compact")));

    world.set("dead_files_keep_hours = 3");
    world.start(1, world.store()).ends_in_order(Request::Drain);
    for table in ["raw", "counts"] {
        assert_eq!(retention::keep_hours(&world.table(table)), Some(3), "{table}");
    }
    assert_eq!(world.archived().into_keys().collect::<Vec<_>>(), sent(&world));
}

// ---- by hand ----

fn floodmark(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_floodmark"));
    command.args(arguments).env_remove("FLOODMARK_LOG").output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The result of a command, as JSON.
fn result(arguments: &[&str]) -> Value {
    let output = floodmark(&[arguments, &["--output", "json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON on stdout")
}

fn refused(arguments: &[&str], code: i32, says: &[&str]) {
    let output = floodmark(arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(says.iter().all(|part| said.contains(part)), "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
}

fn on_disk() -> (tempfile::TempDir, String, Tables) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("tables").to_str().expect("UTF-8").to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tables = runtime.block_on(async {
        let tables = Tables::in_root(Root::make(&path, &BTreeMap::new()).expect("a root")).await;
        a_day(&tables).await;
        tables
    });
    (folder, path, tables)
}

#[test]
fn commands_on_bad_input_say_what_was_found_and_expected() {
    let (folder, tables, _) = on_disk();
    let empty = folder.path().to_str().expect("UTF-8");
    let nowhere = folder.path().join("nowhere");
    let nowhere = nowhere.to_str().expect("UTF-8");
    refused(&["table", "history", nowhere], 78, &["found nothing there", "expected a job file"]);
    assert!(!DiskPath::new(nowhere).exists(), "looking makes nothing");
    refused(&["table", "history", empty], 78, &["a folder without tables"]);
    refused(&["table", "history", "memory://"], 78, &["no table raw"]);
    refused(&["table", "history", "ftp://host/path"], 78, &["ftp"]);
    let raw = format!("{tables}/raw");
    refused(&["table", "history", &raw, "--table", "counts"], 2, &["leave out --table"]);
    refused(&["table", "vacuum", &tables, "--retention-hours", "0"], 2, &["about to commit", "--force"]);
    refused(&["table", "export", &tables, "--to", &tables], 2, &["found tables in this folder"]);
    refused(&["table", "compact", &format!("{tables}/counts")], 2, &["table counts"]);
    let job = folder.path().join("job.toml");
    std::fs::write(&job, "name = 1").expect("written");
    refused(&["table", "compact", job.to_str().expect("UTF-8")], 78, &["job.toml"]);
    for command in ["history", "vacuum", "compact", "export"] {
        let help = floodmark(&["table", command, "--help"]);
        assert!(help.status.success() && text(&help.stdout).contains("JOB|PATH|URL"), "{command}");
    }
}

#[test]
fn history_vacuum_and_compact_by_hand() {
    let (_folder, path, tables) = on_disk();
    let history = result(&["table", "history", &path, "--limit", "2"]);
    let newest = &history["tables"]["raw"][0];
    assert_eq!((&newest["version"], &newest["generation"]), (&Value::from(13), &Value::from(1)));
    assert_eq!((&newest["files_added"], &newest["rows_added"]), (&Value::from(2), &Value::from(43)));
    assert_eq!(newest["txns"]["epoch"], 13);
    assert_eq!(history["tables"]["raw"].as_array().map(Vec::len), Some(2));
    assert_eq!(history["tables"]["counts"][0]["txns"]["lane/coarse"], 13);

    let before = block_on(async { rows(&tables.raw, &tables.state().await).await });
    assert_eq!(result(&["table", "compact", &path, "--dry-run"])["files"], 24);
    let said = floodmark(&["table", "compact", &format!("{path}/raw")]);
    assert!(text(&said.stdout).starts_with("raw: merged 24 files of "), "{}", text(&said.stdout));
    assert!(block_on(async { rows(&tables.raw, &tables.state().await).await }) == before, "other rows");
    let merged = &result(&["table", "history", &path, "--table", "raw"])["tables"]["raw"][0];
    assert_eq!((&merged["operation"], &merged["generation"]), (&Value::from("OPTIMIZE"), &Value::Null));
    assert_eq!((&merged["files_removed"], &merged["rows_removed"]), (&Value::from(12), &merged["rows_added"]));
    let shown = text(&floodmark(&["table", "history", &path]).stdout);
    assert!(shown.contains("OPTIMIZE") && shown.contains("lane/coarse 13, lane/day 13"), "{shown}");

    let cleaned = |arguments: &[&str]| {
        let all = [&["table", "vacuum", &path, "--table", "raw"], arguments].concat();
        let result = result(&all)["tables"]["raw"].clone();
        (result["retention_hours"].as_u64(), result["cleaned"]["files"].as_u64())
    };
    assert_eq!(cleaned(&[]), (Some(24), Some(0)));
    assert_eq!(cleaned(&["--retention-hours", "1"]), (Some(1), Some(0)));
    assert_eq!(cleaned(&["--retention-hours", "0", "--force", "--dry-run"]), (Some(0), Some(24)));
    assert_eq!(cleaned(&["--retention-hours", "0", "--force"]), (Some(0), Some(24)));
    assert_eq!(cleaned(&["--retention-hours", "0", "--force"]), (Some(0), Some(0)));
    assert!(block_on(async { rows(&tables.raw, &tables.state().await).await }) == before, "other rows");
}

/// What a plain glob through a folder finds: the names of the Parquet files below it.
fn globbed(folder: &DiskPath) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.extension().is_some_and(|extension| extension == "parquet") {
                true => drop(found.insert(path.file_name().expect("a name").to_string_lossy().into_owned())),
                false => folders.push(path),
            }
        }
    }
    found
}

#[test]
fn an_export_is_replaced_as_a_whole() {
    let (folder, path, tables) = on_disk();
    let to = folder.path().join("export");
    let export = || result(&["table", "export", &path, "--to", to.to_str().expect("UTF-8"), "--table", "raw"]);
    let live = || -> BTreeSet<String> {
        let names = block_on(tables.state()).files.into_keys();
        names.map(|path| path.rsplit('/').next().unwrap_or_default().to_owned()).collect()
    };
    let latest = to.join("latest");
    let first = export();
    assert_eq!((&first["files"], &first["versions"]["raw"]), (&Value::from(26), &Value::from(13)));
    assert_eq!(globbed(&latest.join("raw")), live());
    let first = std::fs::canonicalize(&latest).expect("a link");

    // An export that was killed: its files exist, and the link was not moved.
    let killed = to.join("20260101T000000Z-00000000/raw/ingest_date=2026-01-13");
    std::fs::create_dir_all(&killed).expect("made");
    std::fs::write(killed.join("half.parquet"), "half").expect("written");
    std::fs::write(to.join("mine.txt"), "mine").expect("written");
    assert_eq!(globbed(&latest.join("raw")), live(), "readers do not see it");

    result(&["table", "compact", &path]);
    export();
    assert_eq!(globbed(&latest.join("raw")), live());
    assert!(first.exists() && !killed.exists(), "the one before stays, the killed one goes");
    let second = std::fs::canonicalize(&latest).expect("a link");
    export();
    assert!(!first.exists() && second.exists() && to.join("mine.txt").exists());
    std::fs::remove_file(&latest).expect("removed");
    std::fs::create_dir(&latest).expect("made");
    refused(&["table", "export", &path, "--to", to.to_str().expect("UTF-8")], 2, &["not a link"]);
}
