//! The oracle: a plain `BTreeMap` recount of generated disorder, lateness and garbage, compared with every committed version.
//!
//! The whole live job runs in this process, on a store in memory, a scripted topic, and a clock that the test controls. It is crashed at
//! chosen durable steps, stopped, and started again with other numbers of workers. Which record belongs to which epoch is read from `raw`.
//! What must be counted is known to the test, which wrote the records, and is summed a second time here, with separate arithmetic. Failing
//! seeds are kept in `oracle.proptest-regressions`.
//!
//! Promises of src/README.md shown here: 1 (every version is a recount), 2 (the tables are the state), 3 (nothing is too late) and 4
//! (nothing is lost).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use async_trait::async_trait;
use bytes::Bytes;
use chrono::Datelike;
use floodmark::dataflow::Progress;
use floodmark::dataflow::commit::Request;
use floodmark::job::Job;
use floodmark::live::{Live, LiveError, run};
use floodmark::process::{Clock, Exit, HasExit, ManualClock};
use floodmark::source::script::{Script, ScriptRecord};
use floodmark::table::{Log, Root};
use floodmark::upkeep::compact::compact;
use futures::stream::BoxStream;
use md5::{Digest, Md5};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::former::former;
use crate::support::live::{MINUTE, SECOND, block_on};

const BASE: i64 = 1_768_262_400 * SECOND; // 2026-01-13T00:00:00Z
const BUCKETS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

const JOB: &str = r#"
name = "oracle"
[source]
topics = ["script"]
[source.kafka]
"bootstrap.servers" = "none"
[tables]
url = "memory://"
buckets = 4
[event]
format = "json"
customer = { pointer = "/customer" }
event_time = { pointer = "/time" }
[event.fields.action]
pointer = "/action"
[event.fields.country]
pointer = "/user/country"
[[where]]
field = "action"
not = { equals = "ping" }
[dimensions.action]
granularities = ["minute", "hour", "day", "week"]
[dimensions.country]
granularities = ["hour", "month", "year"]
"#;

/// What another logic counts instead. (It does not have a longer grace: with that, `complete_until` would rightly go back.)
const OTHER: [(&str, &str); 2] = [
    (r#"["minute", "hour", "day", "week"]"#, r#"["hour", "day"]"#),
    (r#"["hour", "month", "year"]"#, r#"["minute", "hour", "week", "month", "year"]"#),
];

/// What each of the two logics counts, written a second time.
const COUNTED: [[(&str, &[&str]); 3]; 2] = [
    [
        ("total", &["minute", "hour", "day", "week", "month", "year"]),
        ("action", &["minute", "hour", "day", "week"]),
        ("country", &["hour", "month", "year"]),
    ],
    [
        ("total", &["minute", "hour", "day", "week", "month", "year"]),
        ("action", &["hour", "day"]),
        ("country", &["minute", "hour", "week", "month", "year"]),
    ],
];

/// Seconds between publishes of minute, hour, day, late and coarse: all together, or on two tracks that share late records, as by default.
const PACES: [[u64; 5]; 4] = [[0; 5], [0, 30, 30, 90, 90], [0, 60, 0, 0, 300], [0, 300, 300, 900, 900]];

/// How a job runs.
#[derive(Clone, Copy, Debug)]
struct Pace {
    publish_seconds: [u64; 5],
    pending_bytes_max: u64,
    epoch_bytes: u64,
    rewrite_share_max: f64,
}

const DEFAULT: Pace =
    Pace { publish_seconds: PACES[3], pending_bytes_max: 512 << 20, epoch_bytes: 256 << 20, rewrite_share_max: 0.3 };

// ---- what the test sends, and what it knows of it ----

const CUSTOMERS: [&str; 5] = ["a", "shop-2", "", "ü\u{0}\"x", "b\u{1}"];
const ACTIONS: [&str; 5] = ["view", "ping", "", "buy", "LONG"];
const COUNTRIES: [Option<&str>; 3] = [Some("DE"), None, Some("US")];
const GARBAGE: [&[u8]; 6] =
    [b"", b"{", b"\xff\xfe", br#"{"customer":7,"time":1768262400000}"#, br#"{"customer":"a","time":"noon"}"#, b"[1]"];

#[derive(Clone, Debug)]
enum Sent {
    Event { customer: usize, action: usize, country: usize, minutes: i64, ms: i64, as_text: bool, stamped: bool },
    Garbage(usize),
    Null,
}

#[derive(Clone, Debug)]
enum Step {
    Push(Vec<(usize, Sent)>),
    Advance(i64),
    Crash {
        steps: i64,
        after: bool,
        workers: usize,
    },
    /// Stops in order, which levels the lanes, and starts with one of the two logics.
    Restart {
        workers: usize,
        logic: usize,
    },
    /// Dies, and starts with other limits: what has to be fed may exceed them.
    Bounds {
        steps: i64,
        workers: usize,
        pending_bytes_max: u64,
        epoch_bytes: u64,
    },
    Compact,
    /// Stops in order, lays the tables out as the build before the present layout did, and starts.
    Former {
        workers: usize,
    },
}

/// The expected outcome of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    Counted { customer: String, time: i64, values: BTreeMap<&'static str, String> },
    Filtered,
    Rejected,
}

impl Sent {
    /// The record as it is sent at `now`, and its expected outcome.
    fn record(&self, now: i64) -> (ScriptRecord, Expected) {
        let (customer, action, country, minutes, ms, as_text, stamped) = match *self {
            Sent::Event { customer, action, country, minutes, ms, as_text, stamped } => {
                (customer, action, country, minutes, ms, as_text, stamped)
            }
            Sent::Garbage(kind) => {
                let record = ScriptRecord { timestamp_ms: Some(now / 1000), value: Some(GARBAGE[kind].to_vec()) };
                return (record, Expected::Rejected);
            }
            Sent::Null => return (ScriptRecord { timestamp_ms: None, value: None }, Expected::Rejected),
        };
        let time = now + minutes * MINUTE + ms * 1000;
        let customer = CUSTOMERS[customer];
        let action = if ACTIONS[action] == "LONG" { "é".repeat(300) } else { ACTIONS[action].to_owned() };
        let mut event = json!({"customer": customer, "action": action, "user": {}, "other": [1, {"time": 3}]});
        event["time"] = if as_text {
            let text = chrono::DateTime::from_timestamp_micros(time).expect("a time near 2026").to_rfc3339();
            json!(text)
        } else {
            json!(time / 1000)
        };
        if let Some(country) = COUNTRIES[country] {
            event["user"]["country"] = json!(country);
        }
        let record =
            ScriptRecord { timestamp_ms: stamped.then_some(now / 1000), value: Some(event.to_string().into_bytes()) };
        let out_of_range = stamped && time - now > 24 * 60 * MINUTE;
        let expected = if customer.is_empty() || out_of_range {
            Expected::Rejected
        } else if action == "ping" {
            Expected::Filtered
        } else {
            let values = BTreeMap::from([
                ("total", String::new()),
                ("action", shortened(&action)),
                ("country", COUNTRIES[country].unwrap_or_default().to_owned()),
            ]);
            Expected::Counted { customer: customer.to_owned(), time, values }
        };
        (record, expected)
    }
}

fn shortened(value: &str) -> String {
    if value.len() <= 512 {
        return value.to_owned();
    }
    let prefix: String = value
        .chars()
        .take((1..).take_while(|n| value.chars().take(*n).map(char::len_utf8).sum::<usize>() <= 495).count())
        .collect();
    let digest: String = Md5::digest(value).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}~{digest}")
}

// ---- a store that dies at a chosen durable step ----

#[derive(Debug)]
struct Mortal {
    inner: Arc<InMemory>,
    /// How many writes are left; below zero it is dead.
    left: AtomicI64,
    after: std::sync::atomic::AtomicBool,
}

impl Display for Mortal {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("mortal")
    }
}

impl Mortal {
    fn new(inner: &Arc<InMemory>) -> Arc<Mortal> {
        Arc::new(Mortal { inner: Arc::clone(inner), left: AtomicI64::new(i64::MAX), after: false.into() })
    }

    fn dead(path: &Path) -> Error {
        Error::PermissionDenied { path: path.to_string(), source: "the process was killed".into() }
    }
}

#[async_trait]
impl ObjectStore for Mortal {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        if left > 1 {
            return self.inner.put_opts(path, payload, options).await;
        }
        if left == 1 && self.after.load(Ordering::SeqCst) {
            self.inner.put_opts(path, payload, options).await?;
        }
        Err(Mortal::dead(path))
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        if self.left.load(Ordering::SeqCst) <= 0 {
            Err(Mortal::dead(path))
        } else {
            self.inner.get_opts(path, options).await
        }
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

// ---- the job under test ----

struct World {
    inner: Arc<InMemory>,
    script: Script,
    clock: ManualClock,
    now: i64,
    expected: BTreeMap<(i32, i64), Expected>,
    sent: BTreeMap<(i32, i64), Option<Vec<u8>>>,
    next: Vec<i64>,
    pace: Pace,
    /// The logics by the epoch from which on they count.
    logics: BTreeMap<i64, usize>,
}

struct Running {
    store: Arc<Mortal>,
    progress: Arc<Progress>,
    request: watch::Sender<Request>,
    thread: JoinHandle<Result<(), LiveError>>,
}

impl World {
    fn new(partitions: usize, pace: Pace) -> World {
        World {
            pace,
            inner: Arc::new(InMemory::new()),
            script: Script::new(partitions),
            clock: ManualClock::at(BASE),
            now: BASE,
            expected: BTreeMap::new(),
            sent: BTreeMap::new(),
            next: vec![0; partitions],
            logics: BTreeMap::from([(1, 0)]),
        }
    }

    /// Changes the logic of the job's next start, while all lanes are level.
    fn change_logic(&mut self, logic: usize) {
        let raw = versions(&self.inner, "raw").pop().map_or(BTreeMap::new(), |version| version.txns);
        if self.logic(i64::MAX) != logic {
            self.logics.insert(raw.get("epoch").copied().unwrap_or(0) + 1, logic);
        }
    }

    fn logic(&self, epoch: i64) -> usize {
        *self.logics.range(..=epoch).next_back().expect("epochs begin with 1").1
    }

    fn start(&self, workers: usize) -> Running {
        let store = Mortal::new(&self.inner);
        let progress = Arc::new(Progress::default());
        let (request, requested) = watch::channel(Request::Run);
        let text = match self.logic(i64::MAX) {
            0 => JOB.to_owned(),
            _ => OTHER.iter().fold(JOB.to_owned(), |text, (from, to)| text.replace(from, to)),
        };
        let mut job = Job::parse(&text, "oracle.toml", &|_| None).expect("the test's job is right");
        job.settings.publish_seconds = self.pace.publish_seconds;
        job.settings.pending_bytes_max = self.pace.pending_bytes_max;
        job.settings.epoch_bytes = self.pace.epoch_bytes;
        job.settings.rewrite_share_max = self.pace.rewrite_share_max;
        // Every version is checked at the end, so no file may be deleted before.
        job.settings.dead_files_keep_hours = 8784;
        let live = Live {
            job,
            root: Root::on(Arc::clone(&store) as Arc<dyn ObjectStore>),
            workers,
            clock: Clock::Manual(self.clock.clone()),
            source: Arc::new(self.script.clone()),
            progress: Arc::clone(&progress),
        };
        let thread = std::thread::spawn(move || run(live, requested));
        Running { store, progress, request, thread }
    }

    fn push(&mut self, partition: usize, sent: &Sent) {
        let partition = partition % self.next.len();
        let (record, expected) = sent.record(self.now);
        let key = (partition as i32, self.next[partition]);
        self.next[partition] += 1;
        self.expected.insert(key, expected);
        self.sent.insert(key, record.value.clone());
        self.script.push(partition, record);
    }

    fn advance(&mut self, us: i64) {
        self.now += us;
        self.clock.set(self.now);
    }

    /// Merges small files of the archive beside the job, as `floodmark table compact` does; returns how many.
    fn compact(&self) -> u64 {
        let root = Root::on(Arc::clone(&self.inner) as Arc<dyn ObjectStore>);
        let clock = Clock::Manual(self.clock.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let done = runtime.block_on(compact(&root, 1 << 20, &clock, |_| {}));
        // A job that commits concurrently may win too often; then the merge is left to the next time.
        done.map_or(0, |done| done.files)
    }

    /// Lays the tables out as the build before the present layout did.
    fn former(&self) {
        let root = Root::on(Arc::clone(&self.inner) as Arc<dyn ObjectStore>);
        block_on(former(&Log::new(&root, "counts"), self.now));
    }

    fn archived(&self) -> i64 {
        let raw = versions(&self.inner, "raw").pop().map_or(BTreeMap::new(), |version| version.txns);
        (0..self.next.len()).map(|partition| raw.get(&format!("kafka/script/{partition}")).copied().unwrap_or(0)).sum()
    }
}

impl Running {
    fn wait(&self, what: &str, mut done: impl FnMut(&Running) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(
                Instant::now() < deadline,
                "nothing happened for {PATIENCE:?}: {what}; epochs {:?}",
                self.progress.epochs()
            );
            assert!(!self.thread.is_finished(), "the job ended while waiting: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(self, request: Request) {
        self.request.send_replace(request);
        let deadline = Instant::now() + PATIENCE;
        while !self.thread.is_finished() {
            assert!(Instant::now() < deadline, "{request:?} is not carried out; epochs {:?}", self.progress.epochs());
            std::thread::sleep(Duration::from_millis(1));
        }
        self.thread.join().expect("no panic").expect("an orderly end");
    }

    /// Lets the job make `steps` more durable steps and kills it at the next one, and moves the clock until that has happened.
    fn crash(self, world: &mut World, steps: i64, after: bool) {
        self.store.after.store(after, Ordering::SeqCst);
        self.store.left.store(steps, Ordering::SeqCst);
        let deadline = Instant::now() + PATIENCE;
        while !self.thread.is_finished() {
            assert!(Instant::now() < deadline, "the job lives on without a store");
            world.advance(SECOND);
            std::thread::sleep(Duration::from_millis(1));
        }
        self.thread.join().expect("no panic").expect_err("the store died under it");
    }
}

// ---- reading the tables without the job's code ----

#[derive(Clone, Debug, Default)]
struct Version {
    files: BTreeMap<String, BTreeMap<String, String>>,
    txns: BTreeMap<String, i64>,
}

fn get(store: &InMemory, path: &str) -> Option<Bytes> {
    block_on(async { store.get(&Path::from(path)).await.ok()?.bytes().await.ok() })
}

/// All versions of a table, made by replaying its log.
fn versions(store: &InMemory, table: &str) -> Vec<Version> {
    let mut versions = Vec::new();
    let mut version = Version::default();
    while let Some(bytes) = get(store, &format!("{table}/_delta_log/{:020}.json", versions.len())) {
        for line in bytes.split(|byte| *byte == b'\n') {
            let action: Value = serde_json::from_slice(line).expect("a line of the log is JSON");
            if let Some(add) = action.get("add") {
                let partition = serde_json::from_value(add["partitionValues"].clone()).expect("partition values");
                let path = add["path"].as_str().expect("a path").to_owned();
                assert!(version.files.insert(path, partition).is_none(), "added twice: {add}");
            }
            if let Some(remove) = action.get("remove") {
                let path = remove["path"].as_str().expect("a path");
                assert!(version.files.remove(path).is_some(), "removed but not live: {remove}");
            }
            if let Some(txn) = action.get("txn") {
                let id = txn["appId"].as_str().expect("an id").to_owned();
                let value = txn["version"].as_i64().expect("a version");
                let before = version.txns.insert(id.clone(), value);
                assert!(
                    id.ends_with("check") || before.is_none_or(|before| before <= value),
                    "{id} went back from {before:?} to {value}"
                );
            }
        }
        versions.push(version.clone());
    }
    versions
}

fn rows(store: &InMemory, path: &str) -> Vec<RecordBatch> {
    let bytes = get(store, path).unwrap_or_else(|| panic!("{path} is in the log and not in the store"));
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|builder| builder.build()).expect("a Parquet file");
    reader.collect::<Result<_, _>>().expect("rows")
}

type CellKey = (&'static str, String, String, i64, String);

/// The cells of a version. Also checks order, window_end, period and bucket.
fn cells(store: &InMemory, version: &Version) -> BTreeMap<CellKey, i64> {
    let mut cells = BTreeMap::new();
    let mut periods: BTreeMap<(&'static str, String), Vec<String>> = BTreeMap::new();
    for (path, partition) in &version.files {
        let (granularity, labels) = match partition["granularity"].as_str() {
            "minute" => ("minute", &["%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H", "%Y-%m-%dT%H%M"][..]),
            "hour" => ("hour", &["%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H"][..]),
            "day" => ("day", &["%Y-%m", "%Y-%m-%d"][..]),
            // Long ones are of the former layout; a week is called by its Monday.
            "week" => ("week", &["%Y", "%Y-%m-%d"][..]),
            "month" => ("month", &["%Y", "%Y-%m"][..]),
            "year" => ("year", &["%Y"][..]),
            other => panic!("granularity {other}"),
        };
        // The label of every window begins with its file's period, so live files overlap if one label begins with another.
        let place = (granularity, partition["bucket"].clone());
        for other in periods.entry(place).or_default().iter() {
            let period: &String = &partition["period"];
            assert!(!other.starts_with(period) && !period.starts_with(other), "{path} overlaps period {other}");
        }
        periods.entry((granularity, partition["bucket"].clone())).or_default().push(partition["period"].clone());
        let mut last = None;
        for batch in rows(store, &format!("counts/{path}")) {
            let text = |name: &str| batch.column_by_name(name).expect("a column").as_string::<i32>().clone();
            let time = |name: &str| {
                batch.column_by_name(name).expect("a column").as_primitive::<TimestampMicrosecondType>().clone()
            };
            let (customers, dimensions, values) = (text("customer_id"), text("dimension"), text("dimension_value"));
            let (starts, ends) = (time("window_start"), time("window_end"));
            let counts = batch.column_by_name("event_count").expect("a column").as_primitive::<Int64Type>().clone();
            for row in 0..batch.num_rows() {
                let (customer, start, count) = (customers.value(row), starts.value(row), counts.value(row));
                let order =
                    (customer.to_owned(), dimensions.value(row).to_owned(), start, values.value(row).to_owned());
                assert!(last.as_ref() < Some(&order), "{path}: not in order at {order:?}");
                assert_eq!((start, ends.value(row)), window(granularity, start), "{path}: window");
                assert!(count > 0, "{path}: {order:?} counts {count}");
                let digest = Md5::digest(customer.as_bytes());
                let bucket = digest[0] as u32 >> (8 - BUCKETS.ilog2());
                assert_eq!(partition["bucket"], bucket.to_string(), "{path}: bucket of {customer:?}");
                let start_time = chrono::DateTime::from_timestamp_micros(start).expect("a time");
                let period = |label: &&str| start_time.format(label).to_string() == partition["period"];
                assert!(labels.iter().any(period), "{path}: period of {start_time}");
                let key = (granularity, order.0.clone(), order.1.clone(), start, order.3.clone());
                assert!(cells.insert(key, count).is_none(), "{path}: {order:?} is there twice");
                last = Some(order);
            }
        }
    }
    cells
}

/// The rows of `raw` as (partition, offset) → (epoch, ingested_at). Also checks that each record is there once, with its bytes and the
/// right outcome.
fn archive(store: &InMemory, world: &World) -> BTreeMap<(i32, i64), (i64, i64)> {
    let mut archive = BTreeMap::new();
    let newest = versions(store, "raw").pop().expect("raw has a version");
    for path in newest.files.keys() {
        for batch in rows(store, &format!("raw/{path}")) {
            let column = |name: &str| batch.column_by_name(name).expect("a column").clone();
            let partitions = column("kafka_partition").as_primitive::<Int32Type>().clone();
            let (epochs, offsets) = (
                column("epoch").as_primitive::<Int64Type>().clone(),
                column("kafka_offset").as_primitive::<Int64Type>().clone(),
            );
            let ingested = column("ingested_at").as_primitive::<TimestampMicrosecondType>().clone();
            let (values, outcomes) =
                (column("value").as_binary::<i32>().clone(), column("outcome").as_string::<i32>().clone());
            for row in 0..batch.num_rows() {
                let key = (partitions.value(row), offsets.value(row));
                assert!(
                    archive.insert(key, (epochs.value(row), ingested.value(row))).is_none(),
                    "raw holds {key:?} twice"
                );
                let value = values.is_valid(row).then(|| values.value(row).to_vec());
                assert_eq!(Some(&value), world.sent.get(&key), "bytes of {key:?}");
                let outcome = match &world.expected[&key] {
                    Expected::Counted { .. } => "counted",
                    Expected::Filtered => "filtered",
                    Expected::Rejected => "rejected",
                };
                assert_eq!(outcomes.value(row), outcome, "outcome of {key:?}: {value:?}");
            }
        }
    }
    archive
}

/// The window that holds a time.
fn window(granularity: &str, time: i64) -> (i64, i64) {
    let fixed = |length: i64, origin: i64| {
        let start = time - (time - origin).rem_euclid(length);
        (start, start + length)
    };
    let day = 24 * 60 * MINUTE;
    let date = chrono::DateTime::from_timestamp_micros(time).expect("a time").date_naive();
    let first = |year: i32, month: u32| {
        let date = chrono::NaiveDate::from_ymd_opt(year, month, 1).expect("a month").and_hms_opt(0, 0, 0);
        date.expect("midnight").and_utc().timestamp_micros()
    };
    match granularity {
        "minute" => fixed(MINUTE, 0),
        "hour" => fixed(60 * MINUTE, 0),
        "day" => fixed(day, 0),
        // BASE is a Tuesday.
        "week" => fixed(7 * day, BASE - day),
        "month" => {
            let next = date.checked_add_months(chrono::Months::new(1)).expect("a month later");
            (first(date.year(), date.month()), first(next.year(), next.month()))
        }
        _ => (first(date.year(), 1), first(date.year() + 1, 1)),
    }
}

/// Promise 1: compares every version of `counts` with a recount.
fn check_every_version(world: &World) {
    let archive = archive(&world.inner, world);
    let mut tested = 0;
    for (number, version) in versions(&world.inner, "counts").iter().enumerate() {
        let lane = |name: &str| version.txns.get(&format!("lane/{name}")).copied().unwrap_or(0);
        let mut expected: BTreeMap<CellKey, i64> = BTreeMap::new();
        for (key, (epoch, ingested_at)) in &archive {
            let Expected::Counted { customer, time, values } = &world.expected[key] else { continue };
            for (granularity, grace) in [
                ("minute", Some(20 * SECOND)),
                ("hour", Some(MINUTE)),
                ("day", Some(5 * MINUTE)),
                ("week", None),
                ("month", None),
                ("year", None),
            ] {
                let (start, end) = window(granularity, *time);
                let own = match grace {
                    None => "coarse",
                    Some(grace) if *ingested_at >= end + grace => "late",
                    Some(_) => granularity,
                };
                if *epoch > lane(own) {
                    continue;
                }
                for (dimension, granularities) in COUNTED[world.logic(*epoch)] {
                    if !granularities.contains(&granularity) {
                        continue;
                    }
                    let value = &values[dimension];
                    let cell = (granularity, customer.clone(), dimension.to_owned(), start, value.clone());
                    *expected.entry(cell).or_default() += 1;
                }
            }
        }
        let found = cells(&world.inner, version);
        let wrong: Vec<_> = (found.keys().chain(expected.keys()))
            .filter(|cell| found.get(*cell) != expected.get(*cell))
            .map(|cell| (cell, found.get(cell), expected.get(cell)))
            .collect();
        assert!(wrong.is_empty(), "version {number} of counts, txns {:?}: found, expected {wrong:#?}", version.txns);
        tested += 1;
    }
    assert!(tested >= 2, "no version of counts to look at");
}

fn play(partitions: usize, workers: usize, pace: Pace, steps: &[Step]) {
    let mut world = World::new(partitions, pace);
    let mut job = world.start(workers);
    for step in steps {
        match step {
            Step::Push(records) => {
                for (partition, sent) in records {
                    world.push(*partition, sent);
                }
            }
            Step::Advance(us) => {
                // The job must first read what was pushed, so that epochs are cut between pushes; then time passes.
                let sent = world.sent.len() as i64 - world.archived();
                let read = |job: &Running| job.progress.read.load(Ordering::Relaxed) as i64;
                let before = read(&job);
                if sent > 0 && before == 0 {
                    job.wait("reading", |job| read(job) > 0);
                }
                world.advance(*us);
                if *us >= 60 * SECOND {
                    let published = |job: &Running| job.progress.published_minute.load(Ordering::Relaxed);
                    let before = published(&job);
                    // A job that is still starting opens its first epoch later than this, so time must continue for it.
                    job.wait("an epoch", |job| {
                        world.advance(SECOND / 10);
                        published(job) > before
                    });
                }
            }
            Step::Crash { steps, after, workers } => {
                job.crash(&mut world, *steps, *after);
                job = world.start(*workers);
            }
            Step::Restart { workers, logic } => {
                job.end(Request::Stop);
                world.change_logic(*logic);
                job = world.start(*workers);
            }
            Step::Bounds { steps, workers, pending_bytes_max, epoch_bytes } => {
                job.crash(&mut world, *steps, false);
                world.pace = Pace { pending_bytes_max: *pending_bytes_max, epoch_bytes: *epoch_bytes, ..world.pace };
                job = world.start(*workers);
            }
            Step::Compact => drop(world.compact()),
            Step::Former { workers } => {
                job.end(Request::Stop);
                world.former();
                job = world.start(*workers);
            }
        }
    }
    job.end(Request::Stop);
    world.start(workers).end(Request::Drain);
    assert_eq!(world.archived(), world.sent.len() as i64, "promise 4: every record is archived");
    check_every_version(&world);
    // All lanes are at the epoch of `raw`: the last version is a recount of everything.
    let raw = versions(&world.inner, "raw").pop().expect("raw").txns["epoch"];
    let counts = versions(&world.inner, "counts").pop().expect("counts").txns;
    for lane in ["minute", "hour", "day", "late", "coarse"] {
        assert_eq!(counts[&format!("lane/{lane}")], raw, "lane {lane} at the end");
    }
    let recorded = counts.iter().filter_map(|(id, value)| Some((id.strip_prefix("logic/")?.parse().ok()?, *value)));
    let recorded: BTreeMap<i64, i64> = recorded.collect();
    assert!(recorded.keys().eq(world.logics.keys()), "{recorded:?} on record, {:?} were started", world.logics);
    let kinds: BTreeSet<(usize, i64)> = world.logics.values().copied().zip(recorded.into_values()).collect();
    assert!(kinds.len() <= 2, "a logic has one fingerprint: {kinds:?}");
}

fn sent() -> impl Strategy<Value = Sent> {
    let event = (
        0..CUSTOMERS.len(),
        0..ACTIONS.len(),
        0..COUNTRIES.len(),
        minutes(),
        0..60_000_i64,
        any::<bool>(),
        prop::bool::weighted(0.9),
    )
        .prop_map(|(customer, action, country, minutes, ms, as_text, stamped)| Sent::Event {
            customer,
            action,
            country,
            minutes,
            ms,
            as_text,
            stamped,
        });
    prop_oneof![12 => event, 1 => (0..GARBAGE.len()).prop_map(Sent::Garbage), 1 => Just(Sent::Null)]
}

/// Mostly now, often some minutes or hours ago, seldom days ago or in the future.
fn minutes() -> impl Strategy<Value = i64> {
    prop_oneof![6 => -2..=0_i64, 3 => -200..=0_i64, 1 => -40_000..=0_i64, 1 => 0..=1500_i64]
}

fn step() -> impl Strategy<Value = Step> {
    let workers = prop_oneof![Just(1_usize), Just(2), Just(4)];
    prop_oneof![
        6 => prop::collection::vec((0..4_usize, sent()), 1..40).prop_map(Step::Push),
        4 => prop_oneof![Just(3 * SECOND), Just(11 * SECOND), Just(61 * SECOND), Just(3700 * SECOND), Just(27 * 60 * MINUTE), Just(35 * 24 * 60 * MINUTE)].prop_map(Step::Advance),
        2 => (1..14_i64, any::<bool>(), workers.clone()).prop_map(|(steps, after, workers)| Step::Crash { steps, after, workers }),
        1 => (workers.clone(), 0..2_usize).prop_map(|(workers, logic)| Step::Restart { workers, logic }),
        2 => (1..14_i64, workers.clone(), pending_bytes_max(), epoch_bytes()).prop_map(
            |(steps, workers, pending_bytes_max, epoch_bytes)| Step::Bounds { steps, workers, pending_bytes_max, epoch_bytes }
        ),
        1 => Just(Step::Compact),
        1 => workers.prop_map(|workers| Step::Former { workers }),
    ]
}

/// Enough; enough for a few records; enough for none.
fn pending_bytes_max() -> impl Strategy<Value = u64> {
    prop::sample::select(vec![512 << 20, 40_000, 4096, 1])
}

fn epoch_bytes() -> impl Strategy<Value = u64> {
    prop::sample::select(vec![256 << 20, 2000, 1])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn promise_1_every_version_is_a_recount(
        partitions in 1..4_usize,
        workers in prop_oneof![Just(1_usize), Just(2), Just(4)],
        publish_seconds in prop::sample::select(&PACES[..]),
        pending_bytes_max in prop_oneof![3 => Just(512_u64 << 20), 1 => pending_bytes_max()],
        epoch_bytes in prop_oneof![3 => Just(256_u64 << 20), 1 => epoch_bytes()],
        // Enough; so little that every lane but the minute lane waits for as long as it may.
        rewrite_share_max in prop_oneof![3 => Just(0.3), 1 => Just(1e-9)],
        steps in prop::collection::vec(step(), 3..18),
    ) {
        play(partitions, workers, Pace { publish_seconds, pending_bytes_max, epoch_bytes, rewrite_share_max }, &steps);
    }
}

/// The same records give the same final cells with 1, 2 and 4 workers and with other epochs.
#[test]
fn promise_2_nothing_depends_on_the_number_of_workers() {
    let mut finals = Vec::new();
    for (workers, cut) in [(1, 7), (2, 50), (4, 1000)] {
        let mut world = World::new(3, DEFAULT);
        let mut job = world.start(workers);
        for index in 0..600_usize {
            let sent = Sent::Event {
                customer: index % 2,
                action: index % 5,
                country: index % 3,
                minutes: -((index * 37 % 500) as i64),
                ms: (index * 97 % 60_000) as i64,
                as_text: index % 2 == 0,
                stamped: true,
            };
            world.push(index % 3, &sent);
            if index % cut == cut - 1 {
                // The clock stays within a minute, so that lateness, and with it the lane, is the same for all.
                job.end(Request::Stop);
                job = world.start(workers);
            }
        }
        job.end(Request::Stop);
        world.start(workers).end(Request::Drain);
        check_every_version(&world);
        finals.push(cells(&world.inner, &versions(&world.inner, "counts").pop().expect("a version")));
    }
    assert_eq!(finals[0], finals[1]);
    assert_eq!(finals[0], finals[2]);
}

/// A record for a window that ended a month ago is just one more update.
#[test]
fn promise_3_nothing_is_too_late() {
    let event =
        |minutes| Sent::Event { customer: 0, action: 0, country: 0, minutes, ms: 0, as_text: true, stamped: true };
    let mut world = World::new(1, DEFAULT);
    for minutes in [0, -60 * 24 * 31, -60 * 24 * 31, 0] {
        world.push(0, &event(minutes));
    }
    world.start(2).end(Request::Drain);
    check_every_version(&world);
    let cells = cells(&world.inner, &versions(&world.inner, "counts").pop().expect("a version"));
    let old = BASE - 31 * 24 * 60 * MINUTE;
    assert_eq!(cells[&("day", "a".to_owned(), "total".to_owned(), old, String::new())], 2);
    assert_eq!(cells[&("minute", "a".to_owned(), "total".to_owned(), old, String::new())], 2);
}

/// Late records reach segments of every granularity after they were sealed, while others are being sealed and files of the archive are
/// being merged, through crashes; and with lanes at different epochs, no version is ever wrong.
#[test]
fn promise_3_late_records_reach_sealed_segments() {
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    for (publish_seconds, workers) in [(PACES[0], 1), (PACES[1], 2), (PACES[2], 4)] {
        let mut world = World::new(2, Pace { publish_seconds, ..DEFAULT });
        let mut job = world.start(workers);
        // The length of a step, and how old the late records of the step are.
        let steps: [(i64, &[i64]); 9] = [
            (10 * MINUTE, &[0, 1]),
            (10 * MINUTE, &[0, 9, 12]),
            (2 * HOUR, &[0, 15, 25]),
            (2 * HOUR, &[0, 130, 240]),
            (DAY, &[0, 240, 300]),
            (2 * DAY, &[0, 1440, 1500, 1680]),
            (30 * DAY, &[0, 2880, 2900]),
            (30 * DAY, &[0, 43_200, 46_000]),
            (HOUR, &[0, 86_400, 89_000]),
        ];
        for (number, (length, late)) in steps.into_iter().enumerate() {
            for (index, minutes) in late.iter().enumerate() {
                for customer in [0, 1, 4] {
                    let (action, country, ms) = ([0, 3][index % 2], index % 3, index as i64);
                    let stamped = true;
                    let minutes = -minutes;
                    world.push(index, &Sent::Event { customer, action, country, minutes, ms, as_text: false, stamped });
                }
            }
            let all = world.sent.len() as u64;
            let read_before = world.archived() as u64;
            job.wait("reading", |job| job.progress.read.load(Ordering::Relaxed) >= all - read_before.min(all));
            // Several epochs in each step, so that slow lanes are published, and there are many files before they are sealed.
            for _ in 0..4 {
                world.advance(length / 4);
                let published = |job: &Running| job.progress.published_minute.load(Ordering::Relaxed);
                let before = published(&job);
                job.wait("an epoch", |job| {
                    world.advance(SECOND);
                    published(job) > before
                });
            }
            if number % 3 == 2 {
                job.crash(&mut world, 3 + number as i64, number % 2 == 0);
                job = world.start(1 + number % 4);
            }
            // Long files of the former layout, which hold open windows, are split on the way.
            if number == 3 {
                job.end(Request::Stop);
                world.former();
                job = world.start(workers);
            }
        }
        // Meanwhile the job merges files of its archive.
        job.wait("files of the archive are merged", |_| {
            world.advance(10 * SECOND);
            let is_merged = |path: &String| path.contains("-compact-");
            versions(&world.inner, "raw").iter().any(|version| version.files.keys().any(is_merged))
        });
        job.end(Request::Stop);
        world.start(2).end(Request::Drain);
        check_every_version(&world);
        // Windows were in files of every length: every step of the ladder, and of the former layout, was reached.
        let versions = versions(&world.inner, "counts");
        let labels: BTreeSet<_> = (versions.iter())
            .flat_map(|version| version.files.values())
            .map(|file| (file["granularity"].clone(), file["period"].len()))
            .collect();
        let of = |name: &str| labels.iter().filter(|(of, _)| of == name).map(|(_, length)| *length).collect::<Vec<_>>();
        assert_eq!((of("minute"), of("hour")), (vec![7, 10, 13, 15], vec![7, 10, 13]), "paces {publish_seconds:?}");
        assert_eq!((of("day"), of("week"), of("month"), of("year")), (vec![7, 10], vec![4, 10], vec![4, 7], vec![4]));
        // In the end, what was open once is split, and the days of January are sealed.
        let last = versions.last().expect("a version").files.values();
        let files: BTreeSet<_> = last.map(|file| (file["granularity"].as_str(), file["period"].as_str())).collect();
        let january = |file: &&(&str, &str)| file.0 == "day" && file.1.starts_with("2026-01");
        assert_eq!(files.iter().filter(january).collect::<Vec<_>>(), [&("day", "2026-01")]);
        assert!(files.iter().all(|(granularity, period)| *granularity == "year" || period.len() > 4), "{files:?}");
    }
}

/// Garbage, nulls, filtered and counted records: each is in `raw` once, with its bytes and its outcome, through a crash.
#[test]
fn promise_4_nothing_is_lost() {
    let mut world = World::new(2, DEFAULT);
    let job = world.start(2);
    for index in 0..200_usize {
        let sent = match index % 4 {
            0 => Sent::Garbage(index / 4 % GARBAGE.len()),
            1 => Sent::Null,
            _ => Sent::Event {
                customer: index % 5,
                action: index % 5,
                country: 0,
                minutes: 0,
                ms: 0,
                as_text: true,
                stamped: true,
            },
        };
        world.push(index % 2, &sent);
    }
    job.wait("reading", |job| job.progress.read.load(Ordering::Relaxed) == 200);
    job.crash(&mut world, 6, true);
    world.start(1).end(Request::Drain);
    // Bytes and outcomes are compared there with what was sent.
    assert_eq!(archive(&world.inner, &world).len(), 200);
    check_every_version(&world);
}

/// A second copy takes over the tables. The first can no longer commit, reports that, and stops.
#[test]
fn promise_6_one_writer_wins() {
    let mut world = World::new(1, DEFAULT);
    let first = world.start(2);
    first.wait("its fence", |_| versions(&world.inner, "counts").len() >= 2);
    let second = world.start(2);
    second.wait("its fence", |_| versions(&world.inner, "counts").len() >= 3);
    for minutes in 0..50 {
        let sent =
            Sent::Event { customer: 0, action: 0, country: 0, minutes: -minutes, ms: 0, as_text: true, stamped: true };
        world.push(0, &sent);
    }
    let deadline = Instant::now() + PATIENCE;
    while !first.thread.is_finished() {
        assert!(Instant::now() < deadline, "the first copy lives on");
        world.advance(SECOND);
        std::thread::sleep(Duration::from_millis(1));
    }
    let error = first.thread.join().expect("no panic").expect_err("it lost its place");
    assert_eq!(error.exit(), Exit::Fenced, "{error}");
    assert!(error.to_string().contains("generation 2, ours is 1"), "{error}");
    second.end(Request::Stop);
    world.start(1).end(Request::Drain);
    check_every_version(&world);
}

/// The lanes are far behind the archive and far apart, and the budget is enough for a few records. The archive is fed and published in
/// portions, oldest first, and after a kill at any step the next start completes it, whatever its budget. No version is ever wrong; pending
/// bytes stay within the budget plus what one epoch makes; and the feeding closes epochs by bytes while the clock does not move.
#[test]
fn promise_1_holds_while_the_archive_is_fed_in_portions() {
    const EPOCHS: usize = 24;
    const EPOCH_BYTES: u64 = 2000;
    // 12 records of 13 updates each.
    const OF_AN_EPOCH: u64 = 12 * 13 * 128;
    const BUDGET: u64 = 60_000;
    for workers in [1, 2, 4] {
        let mut world = World::new(2, DEFAULT);
        let job = world.start(workers);
        for epoch in 0..EPOCHS {
            for index in 0..12 {
                let (customer, action, country) = ([0, 1, 3, 4][index % 4], [0, 3][epoch % 2], index % 3);
                // No two in the same minute or hour.
                let minutes = -61 * (epoch * 12 + index) as i64;
                let ms = (index * 997) as i64;
                world
                    .push(index, &Sent::Event { customer, action, country, minutes, ms, as_text: true, stamped: true });
            }
            let all = world.sent.len() as u64;
            job.wait("reading", |job| job.progress.read.load(Ordering::Relaxed) >= all);
            world.advance(11 * SECOND);
            job.wait("archiving", |job| job.progress.epoch.load(Ordering::Relaxed) > epoch as u64);
        }
        job.crash(&mut world, 1, false);
        let lanes = |world: &World| {
            let counts = versions(&world.inner, "counts").pop().expect("counts").txns;
            ["minute", "hour", "day", "late", "coarse"]
                .map(|lane| counts.get(&format!("lane/{lane}")).copied().unwrap_or(0))
        };
        let behind = lanes(&world);
        assert!(behind[0] > behind[4] + EPOCHS as i64 / 2, "lanes are apart: {behind:?}");

        world.pace = Pace { pending_bytes_max: BUDGET, epoch_bytes: EPOCH_BYTES, ..world.pace };
        let mut stood = BTreeSet::new();
        let mut kills = 0;
        let mut most = 0;
        for steps in (2..).step_by(7) {
            let job = world.start(1 + (workers + kills) % 4);
            job.request.send_replace(Request::Drain);
            job.store.left.store(steps, Ordering::SeqCst);
            let deadline = Instant::now() + PATIENCE;
            while !job.thread.is_finished() {
                assert!(Instant::now() < deadline, "it hangs, lanes {:?}", lanes(&world));
                let pending = || job.progress.pending_bytes.each_ref().map(|bytes| bytes.load(Ordering::Relaxed));
                // The bytes of the lanes are changed, and read, one after the other.
                let found = pending();
                let sum = found.into_iter().fold(0, u64::wrapping_add);
                if found == pending() && sum <= u64::MAX / 2 {
                    most = most.max(sum);
                }
                std::thread::yield_now();
            }
            let ended = job.thread.join().expect("no panic");
            stood.insert(lanes(&world)[4]);
            if ended.is_ok() {
                break;
            }
            kills += 1;
        }
        assert!(kills >= 5, "{kills} kills");
        let between = stood.iter().any(|epoch| (1..EPOCHS as i64).contains(epoch));
        assert!(between, "the coarse lane came on in portions: {stood:?}");
        assert!(most <= BUDGET + OF_AN_EPOCH, "{most} bytes were pending");
        assert!(most > BUDGET / 4, "{most} bytes were pending: the budget is used");
        world.start(workers).end(Request::Drain);
        check_every_version(&world);
        let raw = versions(&world.inner, "raw").pop().expect("raw").txns["epoch"];
        assert!(lanes(&world).iter().all(|lane| *lane == raw), "{:?}, raw at {raw}", lanes(&world));
    }
}
