//! Tests of the status: of handmade tables (those of `verify`) whose lanes are at different epochs, in memory and in a folder; and
//! of places without tables.

use std::collections::BTreeSet;
use std::sync::Arc;

use object_store::memory::InMemory;
use serde_json::{Value, json};

use super::*;
use crate::ledger::{logic_txn, replay_txn, undo_txn};
use crate::table::Commit;
use crate::verify::tests::{COMMITTED_MS, Lanes, tables_of_many_periods, tables_with_lanes};

/// A minute and a half after the newest commit.
const OPTIONS: Options = Options { all: true, progress: false, now_ms: COMMITTED_MS + 90_000 };

fn memory() -> Root {
    Root::on(Arc::new(InMemory::new()))
}

async fn of_lanes(lanes: Lanes, merged: bool) -> Status {
    let root = memory();
    tables_with_lanes(lanes, merged, &root).await;
    status(None, &root, OPTIONS).await.expect("a status")
}

#[tokio::test]
async fn lanes_say_what_they_have_not_taken_in() {
    // Rows of the epochs: 4, 5, 4, 5; their Kafka timestamps are their `ingested_at`.
    let found = of_lanes([4, 3, 2, 0, 1], false).await;
    let lanes: Vec<_> = (found.lanes.iter())
        .map(|lane| (lane.lane, lane.epoch, lane.pending_epochs, lane.pending_raw_rows, lane.freshness_seconds))
        .collect();
    assert_eq!(
        lanes,
        [
            ("minute", 4, 0, 0, None),
            ("hour", 3, 1, 5, Some(60.0)),
            ("day", 2, 2, 9, Some(71_910.0)),
            ("late", 0, 4, 18, Some(72_050.0)),
            ("coarse", 1, 3, 14, Some(72_010.0)),
        ]
    );
    assert_eq!(found.lanes[0].oldest_pending_age_seconds, None);
    assert_eq!(found.lanes[1].oldest_pending_age_seconds, Some(150.0));
    assert_eq!(found.lanes[2].oldest_pending_kafka_timestamp.as_deref(), Some("2026-01-13T04:07:30Z"));
    assert_eq!(found.notes, Vec::<String>::new());
    let text = found.text();
    assert!(text.contains("minute         4       0  not yet                          0  nothing pending\n"), "{text}");
    assert!(text.contains("5  2026-01-14 00:05:00Z   1 m 0 s  2 m 30 s\n"), "{text}");
}

#[tokio::test]
async fn a_file_of_several_epochs_says_the_same() {
    for lanes in [[4, 3, 2, 0, 1], [0; 5], [4; 5], [1, 1, 4, 1, 1]] {
        let (born, merged) = (of_lanes(lanes, false).await, of_lanes(lanes, true).await);
        assert!(merged.raw.files < born.raw.files);
        assert_eq!(born.lanes, merged.lanes);
        let balance = Balance { files: born.balance.files, ..merged.balance };
        // All are in the folder of the first day.
        let ingest_dates = born.balance.ingest_dates.clone();
        assert_eq!(born.balance, Balance { ingest_dates, ..balance });
    }
}

#[tokio::test]
async fn the_balance_is_of_the_newest_day_or_of_all() {
    let root = memory();
    tables_with_lanes([4; 5], false, &root).await;
    let all = status(None, &root, OPTIONS).await.expect("a status").balance;
    assert_eq!((all.read_records, all.counted_records, all.filtered_records, all.rejected_records), (18, 13, 1, 4));
    let reasons = ["bad_json", "bad_time", "empty", "missing_field"].map(|reason| (reason.to_owned(), 1));
    assert_eq!(all.rejected_records_by_reason, BTreeMap::from(reasons));
    assert_eq!(all.ingest_dates, Some(("2026-01-13".to_owned(), "2026-01-14".to_owned())));
    assert!(all.is_balanced && all.is_all_of_raw);

    let found = status(None, &root, Options { all: false, ..OPTIONS }).await.expect("a status");
    let newest = &found.balance;
    assert_eq!((newest.read_records, newest.counted_records, newest.rejected_records), (5, 5, 0));
    assert_eq!(newest.ingest_dates, Some(("2026-01-14".to_owned(), "2026-01-14".to_owned())));
    assert!(newest.is_balanced && !newest.is_all_of_raw);
    let text = found.text();
    assert!(
        text.contains("Records archived of 2026-01-14 (the newest day; --all covers all)\n5 read = 5 counted"),
        "{text}"
    );
}

#[tokio::test]
async fn files_are_told_by_granularity_and_period() {
    let [_, (_, root)] = tables_of_many_periods().await;
    let found = status(None, &root, OPTIONS).await.expect("a status");
    let kinds: Vec<_> =
        found.segments.iter().map(|found| (found.granularity.as_str(), found.period.as_str())).collect();
    let long = [("day", "month"), ("week", "week"), ("month", "month"), ("year", "year")];
    let expected = [("minute", "hour"), ("hour", "hour"), ("hour", "day")].into_iter().chain(long);
    assert_eq!(kinds, expected.collect::<Vec<_>>());
    assert_eq!(found.segments.iter().map(|segments| segments.files).sum::<u64>(), found.counts.files);
    assert_eq!(found.segments.iter().map(|segments| segments.rows).sum::<u64>(), found.counts.rows);
    assert_eq!(found.segments.iter().map(|segments| segments.size_bytes).sum::<u64>(), found.counts.size_bytes);
}

#[tokio::test]
async fn tables_without_records_have_a_status() {
    let root = memory();
    Log::new(&root, "raw").load_or_create(&raw::definition(), 0).await.expect("a table");
    Log::new(&root, "counts").load_or_create(&counts::definition(8), 0).await.expect("a table");
    let found = status(None, &root, OPTIONS).await.expect("a status");
    assert_eq!((found.raw_epoch, found.partitions.len(), found.balance.ingest_dates.is_none()), (0, 0, true));
    assert_eq!(found.raw.last_commit.operation.as_deref(), Some("CREATE TABLE"));
    assert!(found.text().contains("No records yet"), "{}", found.text());
}

/// The names of an object and of all below it, as `a.b[].c`.
fn names(path: &str, value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            out.insert(path.clone());
            names(&path, value, out);
        }),
        Value::Array(items) => items.iter().for_each(|item| names(&format!("{path}[]"), item, out)),
        _ => {}
    }
}

#[tokio::test]
async fn the_names_in_its_json_are_these() {
    let root = memory();
    let mut job = tables_with_lanes([4, 3, 2, 0, 1], false, &root).await;
    on_record(&root, &[(logic_txn(1), Fingerprint::of(&job.logic)), (replay_txn("r1"), Fingerprint::from_txn(1))])
        .await;
    // Nobody listens there: a note, after some seconds.
    job.source.kafka.insert("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned());
    let found = status(Some(&job), &root, OPTIONS).await.expect("a status");
    assert_eq!(found.notes.len(), 1, "{:?}", found.notes);
    assert!(found.notes[0].contains("the brokers do not answer"), "{:?}", found.notes);
    let json = serde_json::to_value(&found).expect("JSON");
    let mut there = BTreeSet::new();
    names("", &json, &mut there);
    let table = ["version", "writer_generation", "last_commit", "files", "rows", "size_bytes"];
    let commit = ["time", "engine", "operation"];
    let mut expected: BTreeSet<String> = BTreeSet::new();
    for name in ["raw", "counts"] {
        expected.extend(table.map(|field| format!("{name}.{field}")));
        expected.extend(commit.map(|field| format!("{name}.last_commit.{field}")));
    }
    let lane = [
        "lane",
        "epoch",
        "pending_epochs",
        "pending_raw_rows",
        "oldest_pending_kafka_timestamp",
        "freshness_seconds",
        "oldest_pending_age_seconds",
        "complete_until",
        "interval_seconds",
        "interval_set_by",
    ];
    expected.extend(lane.map(|field| format!("lanes[].{field}")));
    let partition = ["topic", "partition", "archived_offset", "end_offset", "lag_records"];
    expected.extend(partition.map(|field| format!("partitions[].{field}")));
    expected
        .extend(["granularity", "period", "files", "rows", "size_bytes"].map(|field| format!("segments[].{field}")));
    expected.extend(["from_epoch", "fingerprint", "is_job"].map(|field| format!("logics[].{field}")));
    expected.extend(["id", "order", "state"].map(|field| format!("replays[].{field}")));
    let balance = [
        "ingest_dates",
        "is_all_of_raw",
        "files",
        "read_records",
        "counted_records",
        "filtered_records",
        "rejected_records",
        "rejected_records_by_reason",
        "is_balanced",
    ];
    expected.extend(balance.map(|field| format!("balance.{field}")));
    let reasons = ["bad_json", "bad_time", "empty", "missing_field"];
    expected.extend(reasons.map(|reason| format!("balance.rejected_records_by_reason.{reason}")));
    let top = ["tables_url", "now", "job", "logic", "raw", "raw_epoch", "counts", "buckets", "segments", "lanes"];
    let more = ["partitions", "logics", "replays", "balance", "notes", "logic.fingerprint", "logic.md5"];
    expected.extend(top.into_iter().chain(more).map(str::to_owned));
    assert_eq!(there, expected);
    assert_eq!(json["lanes"][1]["freshness_seconds"], 60.0);
    assert_eq!(json["counts"]["last_commit"]["time"], "2026-01-14T00:06:00Z");
    let fingerprint = Fingerprint::of(&job.logic).to_string();
    assert_eq!(json["logics"], json!([{"from_epoch": 1, "fingerprint": fingerprint, "is_job": true}]));
    assert_eq!(json["replays"], json!([{"id": "r1", "order": 1, "state": "published"}]));
    assert_eq!(json["partitions"][0]["archived_offset"], 110);
}

/// Commits to `counts` what a job or a replay puts on record.
async fn on_record(root: &Root, txns: &[(String, Fingerprint)]) {
    let log = Log::new(root, "counts");
    let mut state = log.load().await.expect("readable").expect("a table");
    let txns = txns.iter().map(|(id, value)| (id.clone(), value.to_txn())).collect();
    let commit = Commit { txns, ..Commit::default() };
    log.commit(&mut state, &commit, "SET LOGIC", COMMITTED_MS).await.expect("committed");
}

#[tokio::test]
async fn intervals_and_what_sets_them_are_shown() {
    let root = memory();
    tables_with_lanes([4; 5], false, &root).await;
    let before = status(None, &root, OPTIONS).await.expect("a status");
    assert!(
        before.lanes.iter().all(|lane| lane.interval_seconds.is_none()) && !before.text().contains("published every")
    );
    let log = Log::new(&root, "counts");
    let mut state = log.load().await.expect("readable").expect("a table");
    let said = [("minute", "0 setting"), ("hour", "300 setting"), ("day", "754 cost"), ("late", "damaged")];
    let parameters = said.map(|(lane, text)| (format!("interval/{lane}"), text.to_owned())).into();
    let commit = Commit { parameters, ..Commit::default() };
    log.commit(&mut state, &commit, "STREAMING UPDATE", COMMITTED_MS).await.expect("committed");
    let found = status(None, &root, OPTIONS).await.expect("a status");
    let day = &found.lanes[2];
    assert_eq!((day.interval_seconds, day.interval_set_by.as_deref()), (Some(754), Some("cost")));
    let line = "published every: minute epoch, hour 5 m 0 s, day 12 m 34 s (set by cost)\n";
    assert!(found.text().contains(line), "{}", found.text());
}

#[tokio::test]
async fn boundaries_between_logics_are_shown() {
    let root = memory();
    let mut job = tables_with_lanes([4; 5], false, &root).await;
    job.source.kafka.insert("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned());
    let ours = Fingerprint::of(&job.logic);
    let number = Fingerprint::from_txn;
    on_record(&root, &[(logic_txn(1), number(7)), (logic_txn(120), ours)]).await;
    let orders = [(replay_txn("a"), number(2)), (replay_txn("b"), number(1)), (undo_txn("b"), number(3))];
    on_record(&root, &orders).await;
    let found = status(Some(&job), &root, OPTIONS).await.expect("a status");
    assert_eq!(
        found.logics,
        [
            LogicFacts { from_epoch: 1, fingerprint: number(7), is_job: Some(false) },
            LogicFacts { from_epoch: 120, fingerprint: ours, is_job: Some(true) },
        ]
    );
    let replay = |id: &str, order, state| ReplayFacts { id: id.to_owned(), order, state };
    assert_eq!(found.replays, [replay("a", 2, ReplayState::Published), replay("b", 3, ReplayState::Undone)]);
    let text = found.text();
    let expected = format!(
        "\nlogic   0000000000000007  counts epochs 1..=119\nlogic   {ours}  counts from epoch 120 on  (this job's)\n\
         replay  a  published, order 2\nreplay  b  undone, order 3\n\n"
    );
    assert!(text.contains(&expected), "{text}");
    assert_eq!(found.notes.len(), 1, "only the brokers: {:?}", found.notes);

    // Another job file; and none.
    job.logic.dimensions.pop();
    let notes = status(Some(&job), &root, OPTIONS).await.expect("a status").notes;
    let note = format!(
        "the job file counts with logic {}, but the live job has counted with {ours} since epoch 120",
        Fingerprint::of(&job.logic)
    );
    assert!(notes.iter().any(|found| found.starts_with(&note)), "{notes:?}");
    let found = status(None, &root, OPTIONS).await.expect("a status");
    assert_eq!((found.logics[1].is_job, found.notes.len()), (None, 0));
}

#[tokio::test]
async fn a_logic_has_one_id() {
    let root = memory();
    let mut job = tables_with_lanes([4; 5], false, &root).await;
    let mut other = job.clone();
    (other.name, other.settings.epoch_seconds) = ("another".to_owned(), 60);
    assert_eq!(logic(&job).expect("a logic"), logic(&other).expect("a logic"));
    other.logic.dimensions.pop();
    assert_ne!(logic(&job).expect("a logic"), logic(&other).expect("a logic"));

    // The text shows the one that is on record.
    job.source.kafka.insert("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned());
    let ours = Fingerprint::of(&job.logic);
    on_record(&root, &[(logic_txn(1), ours)]).await;
    let found = status(Some(&job), &root, OPTIONS).await.expect("a status");
    let md5 = found.logic.as_ref().map(|logic| logic.md5.clone()).expect("a job's");
    let text = found.text();
    assert!(text.lines().next().is_some_and(|line| line.ends_with(&format!("   logic {ours}"))), "{text}");
    assert!(text.contains(&format!("\nlogic   {ours}  counts from epoch 1 on  (this job's)\n")), "{text}");
    assert!(!text.contains(&md5[..12]), "{text}");
}

#[tokio::test]
async fn a_folder_is_looked_at_by_path_and_url_and_not_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("a path in UTF-8").to_owned();
    let root = Root::open(&path, &BTreeMap::new()).expect("a root");
    tables_with_lanes([4, 4, 4, 4, 2], false, &root).await;
    for place in [path.clone(), format!("file://{path}"), format!("{path}/")] {
        let location = Location::open(&place).await.expect("tables");
        assert!(location.job.is_none());
        let found = status(None, &location.root, OPTIONS).await.expect("a status");
        assert_eq!(found.lanes[4].pending_raw_rows, 9, "{place}");
    }
    let missing = format!("{path}/tabels");
    for place in [missing.clone(), format!("file://{missing}")] {
        let Err(error) = Location::open(&place).await else { panic!("no folder") };
        assert_eq!(error.exit(), Exit::Configuration);
        assert!(error.to_string().contains("found nothing there"), "{error}");
        assert!(!std::path::Path::new(&missing).exists(), "a folder was made");
    }
}

#[tokio::test]
async fn places_without_tables_are_told() {
    let error = status(None, &memory(), OPTIONS).await.expect_err("nothing there");
    assert_eq!(error.exit(), Exit::Configuration);
    assert!(error.to_string().contains("a job that has never run has no tables yet"), "{error}");

    let root = memory();
    Log::new(&root, "counts").load_or_create(&counts::definition(8), 0).await.expect("a table");
    let error = status(None, &root, OPTIONS).await.expect_err("no raw");
    assert!(error.to_string().contains("holds no table raw"), "{error}");

    let Err(error) = Location::open("s3://me:secret@bucket/path").await else { panic!("a password") };
    assert_eq!(error.exit(), Exit::Configuration);
    assert!(!error.to_string().contains("secret@"), "{error}");
    let Err(error) = Location::open("jobs/nothing.toml").await else { panic!("no job") };
    assert!(matches!(error, LocationError::Job(_)), "{error}");
}

#[tokio::test]
async fn what_does_not_fit_together_is_noted() {
    let mut found = of_lanes([4; 5], false).await;
    assert_eq!(doubts(&found, None), Vec::<String>::new());
    found.raw_epoch = 3;
    found.balance.is_balanced = false;
    found.counts.writer_generation = 1;
    (found.partitions[0].archived_offset, found.partitions[0].end_offset) = (Some(7), Some(5));
    let notes = doubts(&found, None);
    assert_eq!(notes.len(), 5 + 3, "{notes:#?}");
    assert!(notes.iter().any(|note| note.contains("events/0 ends at 5, but is archived up to 7")), "{notes:#?}");
}

#[tokio::test]
async fn it_fits_on_a_screen() {
    let mut found = of_lanes([4, 3, 2, 0, 1], false).await;
    let year = "2026-01-13T04:05:06.789Z".to_owned();
    found.job = Some("web-analytics".to_owned());
    found.logic = Some(Logic { fingerprint: Fingerprint::from_txn(i64::MAX), md5: String::new() });
    found.segments = (0..10)
        .map(|_| Segments {
            granularity: "minute".to_owned(),
            period: "minute".to_owned(),
            files: 19_999,
            rows: 123_456_789_012,
            size_bytes: 987_654_321_000,
        })
        .collect();
    found.partitions = (0..200)
        .map(|partition| Partition {
            topic: "web-analytics-of-the-whole-world".to_owned(),
            partition,
            archived_offset: Some(123_456_789_012),
            end_offset: Some(123_456_799_012),
            lag_records: Some(10_000 + i64::from(partition)),
        })
        .collect();
    for lane in &mut found.lanes {
        (lane.epoch, lane.pending_epochs, lane.pending_raw_rows) = (12_345_678, 123_456, 9_876_543_210);
        (lane.complete_until, lane.oldest_pending_kafka_timestamp) = (Some(year.clone()), Some(year.clone()));
        (lane.freshness_seconds, lane.oldest_pending_age_seconds) = (Some(3_725.0), Some(360_000.0));
    }
    let fingerprint = Fingerprint::from_txn(i64::MAX);
    found.logics =
        (0..9).map(|index| LogicFacts { from_epoch: 12_345_678 + index, fingerprint, is_job: Some(true) }).collect();
    let id = "2026-01-13-after-the-countries-were-mended".to_owned();
    found.replays = vec![ReplayFacts { id, order: 12_345, state: ReplayState::Published }; 9];
    for reason in crate::model::Reason::ALL {
        found.balance.rejected_records_by_reason.insert(reason.name().to_owned(), 1_234_567);
    }
    let text = found.text();
    assert!(text.lines().count() <= 54, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
    assert!(text.contains("web-analytics-of-the-whole-world/199"), "{text}");
    assert!(text.contains("… 200 in all"), "{text}");
}
