//! The protocol of a table's log, with each promise as a named case: who wins, what is known after a lost reply, who is fenced, and what a
//! start reads; and that delta-rs can read what we write, and we can read what it writes.
//!
//! Promise 6 of src/README.md (one writer wins) depends on these cases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use deltalake_core::writer::{DeltaWriter, RecordBatchWriter};
use floodmark::model::{Granularity, Period, Segment};
use floodmark::table::counts;
use floodmark::table::log::WRITER_GENERATION;
use floodmark::table::segment::{Columns, SegmentWriter};
use floodmark::table::store::write_file;
use floodmark::table::{Commit, Definition, File, Log, Root, State, TableError, raw};
use futures::TryStreamExt;
use futures::future::join_all;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::support::faulty::{Fault, Faulty};
use crate::support::tables::same;

const NOW_MS: i64 = 1_768_262_400_000;
const BUCKETS: u32 = 4;

fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

fn log_on(store: &Arc<dyn ObjectStore>) -> Log {
    Log::new(&Root::on(Arc::clone(store)), "counts")
}

fn definition() -> Definition {
    counts::definition(BUCKETS)
}

async fn created(log: &Log) -> State {
    log.load_or_create(&definition(), NOW_MS).await.expect("a table")
}

/// A store with faults, the log on it, and its new table.
async fn faulty() -> (Faulty, Log, State) {
    let store = Faulty::new(memory());
    let log = log_on(&(Arc::new(store.clone()) as Arc<dyn ObjectStore>));
    let state = created(&log).await;
    (store, log, state)
}

fn file(name: &str) -> File {
    File {
        path: format!("granularity=day/period=2026-01/bucket=1/e000000000001-g000001-{name}.parquet"),
        size: 100,
        rows: 3,
        partition: BTreeMap::from(
            [("granularity", "day"), ("period", "2026-01"), ("bucket", "1")]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        ),
        stats: r#"{"numRecords":3,"minValues":{"customer_id":"a"},"maxValues":{"customer_id":"b"},"nullCount":{"customer_id":0}}"#
            .to_owned(),
    }
}

fn adding(name: &str) -> Commit {
    Commit { add: vec![file(name)], txns: vec![(format!("made/{name}"), 1)], ..Commit::default() }
}

async fn commit(log: &Log, state: &mut State, change: &Commit) -> Result<(), TableError> {
    log.commit(state, change, "TEST", NOW_MS).await
}

/// Commits, with as many tries as needed.
async fn insist(log: &Log, state: &mut State, change: &Commit) {
    while let Err(error) = commit(log, state, change).await {
        assert!(matches!(error, TableError::Lost { .. }), "{error}");
        log.refresh(state).await.expect("what the winner wrote");
    }
}

fn entry(version: u64) -> String {
    format!("counts/_delta_log/{version:020}.json")
}

async fn entries(store: &Arc<dyn ObjectStore>) -> Vec<String> {
    let listed: Vec<_> = store.list(None).try_collect().await.expect("listed");
    let mut names: Vec<String> = listed.iter().map(|meta| meta.location.to_string()).collect();
    names.sort();
    names
}

/// Checks that `state` is what a new reader finds.
async fn is_what_is_there(log: &Log, state: &State) {
    same(&log.load().await.expect("readable").expect("a table"), state);
}

#[tokio::test]
async fn a_table_is_made_once_by_many_at_once() {
    let store = memory();
    let states = join_all((0..8).map(|_| {
        let log = log_on(&store);
        tokio::spawn(async move { created(&log).await })
    }))
    .await;
    for state in states {
        same(&state.expect("no panic"), &created(&log_on(&store)).await);
    }
    assert_eq!(entries(&store).await, [entry(0)]);
}

#[tokio::test]
async fn a_commit_is_a_compare_and_swap() {
    let store = memory();
    let (ours, theirs) = (log_on(&store), log_on(&store));
    let (mut state, mut other) = (created(&ours).await, created(&theirs).await);
    commit(&theirs, &mut other, &adding("theirs")).await.expect("first");
    let before = state.clone();
    let lost = commit(&ours, &mut state, &adding("ours")).await;
    assert!(matches!(&lost, Err(TableError::Lost { table, version: 1 }) if table == "counts"), "{lost:?}");
    same(&state, &before);
    assert!(ours.refresh(&mut state).await.expect("readable"), "there was a version to read");
    same(&state, &other);
    assert!(!ours.refresh(&mut state).await.expect("readable"), "there is nothing more");
    commit(&ours, &mut state, &adding("ours")).await.expect("on top of theirs");
    assert_eq!(state.files.len(), 2);
    is_what_is_there(&ours, &state).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_among_many_writers() {
    const WRITERS: usize = 6;
    const COMMITS: usize = 12;
    let store = memory();
    let log = log_on(&store);
    created(&log).await;
    let writers = (0..WRITERS).map(|writer| {
        let log = log_on(&store);
        tokio::spawn(async move {
            let mut state = created(&log).await;
            for number in 0..COMMITS {
                insist(&log, &mut state, &adding(&format!("{writer}-{number}"))).await;
            }
        })
    });
    join_all(writers).await.into_iter().for_each(|writer| writer.expect("no panic"));
    let state = created(&log).await;
    assert_eq!(state.version as usize, WRITERS * COMMITS);
    assert_eq!(state.files.len(), WRITERS * COMMITS);
    assert_eq!(state.txns.len(), WRITERS * COMMITS);
}

/// The store answers the retry with `AlreadyExists`, because our first try succeeded.
#[tokio::test]
async fn a_lost_reply_is_recognised_as_ours() {
    let (store, log, mut state) = faulty().await;
    store.on(&entry(1), Fault::ReplyLost);
    commit(&log, &mut state, &adding("ours")).await.expect("it had landed");
    assert_eq!(store.steps(), [entry(0), entry(1), entry(1)]);
    assert_eq!(state.version, 1);
    is_what_is_there(&log, &state).await;
    commit(&log, &mut state, &adding("next")).await.expect("goes on");
}

/// The reply is lost, and then nothing can be read either; the commit is still recognised as ours.
#[tokio::test]
async fn a_lost_reply_before_an_outage_is_recognised_as_ours() {
    let (store, log, mut state) = faulty().await;
    store.at(2, Fault::ReplyLost).at(3, Fault::Outage { calls: 2, reads: true });
    commit(&log, &mut state, &adding("ours")).await.expect("it had landed");
    assert!(store.done());
    is_what_is_there(&log, &state).await;
}

#[tokio::test]
async fn a_lost_reply_when_the_table_is_made_or_fenced() {
    let store = Faulty::new(memory());
    let log = log_on(&(Arc::new(store.clone()) as Arc<dyn ObjectStore>));
    store.at(1, Fault::ReplyLost).at(3, Fault::ReplyLost);
    let mut state = created(&log).await;
    assert_eq!(log.fence(&mut state, 0, NOW_MS).await.expect("fenced"), 1);
    assert_eq!(store.steps(), [entry(0), entry(0), entry(1), entry(1)]);
    is_what_is_there(&log, &state).await;
}

#[tokio::test]
async fn a_definite_failure_is_tried_again() {
    let (store, log, mut state) = faulty().await;
    store.at(2, Fault::Refused).at(3, Fault::Refused);
    commit(&log, &mut state, &adding("ours")).await.expect("the third try");
    assert_eq!(store.steps().len(), 4);
    is_what_is_there(&log, &state).await;
}

#[tokio::test]
async fn a_rival_between_failure_and_retry_wins() {
    let (store, log, mut state) = faulty().await;
    let (rival, mut theirs) = (log.clone(), state.clone());
    store.at(2, Fault::Refused).at(
        3,
        Fault::rival(async move { rival.commit(&mut theirs, &adding("theirs"), "TEST", NOW_MS).await.expect("first") }),
    );
    let before = state.clone();
    let lost = commit(&log, &mut state, &adding("ours")).await;
    assert!(matches!(lost, Err(TableError::Lost { version: 1, .. })), "{lost:?}");
    same(&state, &before);
    log.refresh(&mut state).await.expect("readable");
    assert!(state.files.contains_key(&file("theirs").path));
    assert!(!state.files.contains_key(&file("ours").path), "a lost commit is nowhere");
    commit(&log, &mut state, &adding("ours")).await.expect("on top of theirs");
}

/// A rival that makes the same change writes other bytes, so its commit is not taken for ours.
#[tokio::test]
async fn a_rival_with_the_same_change_is_not_taken_for_us() {
    let (store, log, mut state) = faulty().await;
    let (rival, mut theirs) = (log.clone(), state.clone());
    store.at(
        2,
        Fault::rival(async move { rival.commit(&mut theirs, &adding("same"), "TEST", NOW_MS).await.expect("first") }),
    );
    let lost = commit(&log, &mut state, &adding("same")).await;
    assert!(matches!(lost, Err(TableError::Lost { .. })), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generations_are_handed_out_once() {
    let store = memory();
    created(&log_on(&store)).await;
    let fences = (0..16).map(|_| {
        let log = log_on(&store);
        tokio::spawn(async move {
            let mut state = created(&log).await;
            let generation = log.fence(&mut state, 0, NOW_MS).await.expect("fenced");
            assert_eq!(state.txn(WRITER_GENERATION), generation, "the state is read after the fence");
            generation
        })
    });
    let generations: BTreeSet<i64> =
        join_all(fences).await.into_iter().map(|generation| generation.expect("no panic")).collect();
    assert_eq!(generations, (1..=16).collect());
}

/// The number that `raw` gave out is used for `counts`. A writer that comes late with a lower number ends, and does not disturb the newer
/// one.
#[tokio::test]
async fn a_fence_with_a_number_that_is_passed_ends_us_and_nobody_else() {
    let (store, log, mut state) = faulty().await;
    let (rival, mut theirs) = (log.clone(), state.clone());
    store.at(2, Fault::rival(async move { assert_eq!(rival.fence(&mut theirs, 6, NOW_MS).await.expect("fenced"), 6) }));
    let fenced = log.fence(&mut state, 5, NOW_MS).await;
    assert!(
        matches!(&fenced, Err(TableError::Fenced { table, ours: 5, theirs: 6 }) if table == "counts"),
        "{fenced:?}"
    );
    let state = created(&log).await;
    assert_eq!((state.version, state.txn(WRITER_GENERATION)), (1, 6), "nothing of ours was committed");
    for passed in [4, 6] {
        let fenced = log.fence(&mut state.clone(), passed, NOW_MS).await;
        assert!(matches!(fenced, Err(TableError::Fenced { theirs: 6, .. })), "{passed}: {fenced:?}");
    }
}

#[tokio::test]
async fn a_fenced_zombie_can_not_commit() {
    let store = memory();
    let log = log_on(&store);
    let mut zombie = created(&log).await;
    let ours = log.fence(&mut zombie, 0, NOW_MS).await.expect("fenced");
    log.check_generation(&zombie, ours).expect("ours");
    let mut newer = created(&log).await;
    let theirs = log.fence(&mut newer, 0, NOW_MS).await.expect("fenced");

    let lost = commit(&log, &mut zombie, &adding("zombie")).await;
    assert!(matches!(lost, Err(TableError::Lost { .. })), "{lost:?}");
    log.refresh(&mut zombie).await.expect("readable");
    let fenced = log.check_generation(&zombie, ours).expect_err("a newer writer is there");
    assert!(matches!(fenced, TableError::Fenced { ours: 1, theirs: 2, .. }), "{fenced}");
    let said = fenced.to_string();
    assert!(said.contains("generation 2, ours is 1"), "{said}");
    assert_eq!((ours, theirs), (1, 2));
    commit(&log, &mut newer, &adding("newer")).await.expect("the newer one goes on");
    is_what_is_there(&log, &newer).await;
}

/// delta-rs and the protocol would permit it, so it is checked before anything is written.
#[tokio::test]
async fn a_removal_of_a_file_that_is_not_live_is_refused() {
    let (store, log, mut state) = faulty().await;
    let before = state.clone();
    let change = Commit { add: vec![file("new")], remove: vec![file("never")], ..Commit::default() };
    let refused = commit(&log, &mut state, &change).await;
    assert!(
        matches!(&refused, Err(TableError::Bug(what)) if what.contains("never.parquet") && what.contains("not live")),
        "{refused:?}"
    );
    same(&state, &before);
    assert_eq!(store.steps().len(), 1, "nothing was written");
}

#[tokio::test]
async fn an_empty_commit_is_a_version() {
    let (_, log, mut state) = faulty().await;
    commit(&log, &mut state, &Commit::default()).await.expect("committed");
    assert_eq!(state.version, 1);
    is_what_is_there(&log, &state).await;
}

#[tokio::test]
async fn a_commit_waits_while_the_store_is_away() {
    let (store, log, mut state) = faulty().await;
    store.at(2, Fault::Outage { calls: 4, reads: true });
    commit(&log, &mut state, &adding("ours")).await.expect("when the store is back");
    assert_eq!(store.steps().len(), 6);
    is_what_is_there(&log, &state).await;
}

#[tokio::test]
async fn a_refresh_waits_while_the_store_is_away() {
    let (store, log, mut state) = faulty().await;
    let mut theirs = state.clone();
    commit(&log, &mut theirs, &adding("theirs")).await.expect("committed");
    store.outage(3, true);
    assert!(log.refresh(&mut state).await.expect("when the store is back"));
    assert!(store.done());
    same(&state, &theirs);
    store.kill();
    assert!(matches!(log.refresh(&mut state).await, Err(TableError::Storage { .. })), "denied");
}

/// A start reads a table whose store may be away: it tries a few times, and then reports that.
#[tokio::test]
async fn a_start_tries_a_read_a_few_times() {
    let (store, log, mut state) = faulty().await;
    insist(&log, &mut state, &adding("a")).await;
    for (calls, passes) in [(1, true), (5, true), (100, false)] {
        store.outage(calls, true);
        let loaded = log.load().await;
        store.outage(0, false);
        match loaded {
            Ok(loaded) => {
                assert!(passes, "after {calls} failures");
                same(&loaded.expect("a table"), &state);
            }
            Err(error) => {
                assert!(!passes && matches!(error, TableError::Storage { .. }), "after {calls} failures: {error}");
            }
        }
    }
}

#[tokio::test]
async fn a_denied_commit_is_an_error_at_once() {
    let (store, log, mut state) = faulty().await;
    let before = state.clone();
    store.at(2, Fault::Denied);
    let denied = commit(&log, &mut state, &adding("ours")).await;
    assert!(matches!(&denied, Err(TableError::Storage { .. })), "{denied:?}");
    assert!(denied.expect_err("denied").to_string().contains("committing version 1"));
    same(&state, &before);
    is_what_is_there(&log, &before).await;
}

#[tokio::test]
async fn a_file_is_written_when_the_store_is_back() {
    let store = Faulty::new(memory());
    store
        .at(1, Fault::Outage { calls: 3, reads: true })
        .at(4, Fault::ReplyLost)
        .at(5, Fault::Delay(Duration::from_millis(5)));
    write_file(&store, "a/b.parquet", "bytes".into()).await.expect("written");
    assert_eq!(store.steps().len(), 5);
    store.at(6, Fault::Denied);
    let denied = write_file(&store, "a/c.parquet", "bytes".into()).await;
    assert!(matches!(denied, Err(TableError::Denied { .. })), "{denied:?}");
}

#[tokio::test]
async fn a_table_with_other_columns_is_refused() {
    let store = memory();
    let log = Log::new(&Root::on(store), "raw");
    // Another process makes a table in place of ours: whoever made it, it is not opened.
    for definition in [definition(), raw::definition()] {
        let refused = log.load_or_create(&definition, NOW_MS).await;
        let Err(TableError::Invalid(said)) = refused else { panic!("{refused:?}") };
        for part in ["no column epoch", "another tables.url"] {
            assert!(said.contains(part), "{part} is missing: {said}");
        }
    }
}

#[tokio::test]
async fn a_missing_version_is_found() {
    let store = memory();
    let log = log_on(&store);
    let mut state = created(&log).await;
    for number in 0..3 {
        commit(&log, &mut state, &adding(&number.to_string())).await.expect("committed");
    }
    store.delete(&Path::from(entry(2))).await.expect("deleted");
    let found = log.load().await;
    assert!(matches!(&found, Err(TableError::Corrupt { what, .. }) if what.contains("lacks version 2")), "{found:?}");
    store.delete(&Path::from(entry(0))).await.expect("deleted");
    assert!(matches!(log.load().await, Err(TableError::Corrupt { .. })), "the first one");
}

#[tokio::test]
async fn a_damaged_entry_is_named() {
    let store = memory();
    let log = log_on(&store);
    created(&log).await;
    store.put(&Path::from(entry(1)), "{\"add\":".into()).await.expect("written");
    let found = log.load().await;
    assert!(matches!(&found, Err(TableError::Corrupt { what, .. }) if what.contains("version 1")), "{found:?}");
}

/// 230 commits with files that are added and removed, transactions and a fence. Returns the state after them.
async fn long_life(log: &Log) -> State {
    let mut state = created(log).await;
    log.fence(&mut state, 0, NOW_MS).await.expect("fenced");
    for number in state.version + 1..=230 {
        let mut change = adding(&format!("{number:03}"));
        change.txns =
            vec![("lane/minute".to_owned(), number as i64), (format!("kafka/t/{}", number % 3), number as i64 * 10)];
        if number % 3 != 0 && state.files.len() > 4 {
            change.remove = state.files.values().take(1).cloned().collect();
        }
        commit(log, &mut state, &change).await.expect("committed");
    }
    state
}

/// Checkpoints are written concurrently with commits; this waits for the one that must appear.
async fn checkpointed(store: &Arc<dyn ObjectStore>, version: u64) {
    let path = Path::from("counts/_delta_log/_last_checkpoint");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok(found) = store.get(&path).await {
            let bytes = found.bytes().await.expect("bytes");
            let last: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
            if last["version"] == version {
                return;
            }
        }
        assert!(Instant::now() < deadline, "no checkpoint of version {version}: {:?}", entries(store).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn checkpoint_is_as_good_as_the_log(store: Arc<dyn ObjectStore>, log: Log) {
    let state = long_life(&log).await;
    checkpointed(&store, 200).await;
    is_what_is_there(&log, &state).await;
    // Other programs clean up what is older than a checkpoint.
    for version in 0..200 {
        store.delete(&Path::from(entry(version))).await.expect("deleted");
    }
    let mut loaded = log.load().await.expect("readable").expect("a table");
    same(&loaded, &state);
    assert_eq!(loaded.txn(WRITER_GENERATION), 1);
    assert_eq!(loaded.txn("lane/minute"), 230);
    assert_eq!(counts::buckets(&loaded).expect("pinned"), BUCKETS);
    commit(&log, &mut loaded, &adding("after")).await.expect("goes on");
    is_what_is_there(&log, &loaded).await;
    // The JSON of the newest checkpoint's own version is also gone: it is not needed.
    store.delete(&Path::from(entry(200))).await.expect("deleted");
    is_what_is_there(&log, &loaded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_in_memory_is_as_good_as_the_log() {
    let store = memory();
    let log = log_on(&store);
    checkpoint_is_as_good_as_the_log(store, log).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_on_disk_is_as_good_as_the_log() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = Root::open(folder.path().to_str().expect("UTF-8"), &BTreeMap::new()).expect("a root");
    let store = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).expect("a store");
    checkpoint_is_as_good_as_the_log(Arc::new(store), Log::new(&root, "counts")).await;
}

// ---- delta-rs beside us, on a local folder ----

/// A segment with one row.
fn segment(customer: &str, bucket: u16, name: &str) -> (File, bytes::Bytes) {
    let segment = Segment {
        granularity: Granularity::Minute,
        bucket,
        period: Period::Hour,
        period_start: Period::Hour.start(NOW_MS * 1000),
    };
    let mut writer = SegmentWriter::new(segment).expect("a writer");
    let columns = Columns {
        customer: StringArray::from(vec![customer]),
        dimension: StringArray::from(vec!["total"]),
        window_start: TimestampMicrosecondArray::from(vec![NOW_MS * 1000]),
        value: StringArray::from(vec![""]),
        event_count: Int64Array::from(vec![7]),
    };
    writer.write(columns).expect("encoded");
    writer.finish(name).expect("encoded").expect("a row")
}

fn delta_files(table: &deltalake_core::DeltaTable) -> BTreeSet<String> {
    let root = table.table_url().path().to_owned();
    let uris = table.get_file_uris().expect("loaded");
    uris.map(|uri| {
        let start = uri.find(&*root).map_or(0, |at| at + root.len());
        uri[start..].trim_start_matches('/').to_owned()
    })
    .collect()
}

fn ours(state: &State) -> BTreeSet<String> {
    state.files.keys().cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delta_rs_reads_what_we_write_and_we_read_what_it_writes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = Root::open(folder.path().to_str().expect("UTF-8"), &BTreeMap::new()).expect("a root");
    // Not `counts`, since no other program may add rows there.
    let log = Log::new(&root, "other");
    let url = root.table("other").1;
    let mut state = created(&log).await;
    let mut live = Vec::new();
    for (number, customer) in ["a", "ü", "c"].into_iter().enumerate() {
        let (file, bytes) = segment(customer, number as u16, "first");
        write_file(log.store().as_ref(), &file.path, bytes).await.expect("written");
        live.push(file.clone());
        let txns = vec![("lane/minute".to_owned(), number as i64 + 1)];
        commit(&log, &mut state, &Commit { add: vec![file], txns, ..Commit::default() }).await.expect("committed");
    }
    let (file, bytes) = segment("a", 0, "second");
    write_file(log.store().as_ref(), &file.path, bytes).await.expect("written");
    let replace = Commit { add: vec![file], remove: vec![live[0].clone()], ..Commit::default() };
    commit(&log, &mut state, &replace).await.expect("committed");

    let mut table = deltalake_core::open_table(url).await.expect("delta-rs opens it");
    assert_eq!(table.version(), Some(state.version));
    assert_eq!(delta_files(&table), ours(&state));
    let snapshot = table.snapshot().expect("loaded");
    assert_eq!(snapshot.metadata().partition_columns(), &["granularity", "period", "bucket"]);
    assert_eq!(snapshot.metadata().configuration()[counts::BUCKETS], BUCKETS.to_string());
    let lane = snapshot.transaction_version(table.log_store().as_ref(), "lane/minute").await.expect("readable");
    assert_eq!(lane, Some(3));

    // Now it appends, and writes a checkpoint.
    let mut writer = RecordBatchWriter::for_table(&table).expect("a writer");
    let times = || TimestampMicrosecondArray::from(vec![NOW_MS * 1000; 2]).with_timezone("UTC");
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["d", "e"])),
        Arc::new(times()),
        Arc::new(times()),
        Arc::new(StringArray::from(vec!["total"; 2])),
        Arc::new(StringArray::from(vec![""; 2])),
        Arc::new(Int64Array::from(vec![1, 2])),
        Arc::new(StringArray::from(vec!["minute"; 2])),
        Arc::new(StringArray::from(vec!["2026-01-13T05"; 2])),
        Arc::new(Int32Array::from(vec![3; 2])),
    ];
    let batch = RecordBatch::try_new(writer.arrow_schema(), columns).expect("a batch");
    writer.write(batch).await.expect("written");
    writer.flush_and_commit(&mut table).await.expect("delta-rs commits");
    let expected = ours(&state).len() + 1;
    assert!(log.refresh(&mut state).await.expect("we read its commit"));
    assert_eq!(state.files.len(), expected);
    let new = state.files.values().find(|file| file.partition["bucket"] == "3").expect("its file");
    assert_eq!((new.rows, new.partition["period"].as_str()), (2, "2026-01-13T05"));
    let there = log.store().head(&Path::from(new.path.as_str())).await.expect("its path as we read it");
    assert_eq!(there.size, new.size);

    deltalake_core::checkpoints::create_checkpoint(&table, None).await.expect("delta-rs writes a checkpoint");
    for version in 0..state.version {
        log.store().delete(&Path::from(format!("_delta_log/{version:020}.json"))).await.expect("deleted");
    }
    let loaded = log.load().await.expect("readable").expect("a table");
    same(&loaded, &state);

    // We continue after its commit, and it continues after ours.
    let remove = loaded.files.values().find(|file| file.partition["bucket"] == "3").cloned();
    let mut state = loaded;
    commit(&log, &mut state, &Commit { remove: remove.into_iter().collect(), ..adding("last") })
        .await
        .expect("committed");
    table.update_state().await.expect("delta-rs reads our commit");
    assert_eq!(delta_files(&table), ours(&state));
}
