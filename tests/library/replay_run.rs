//! The recount of a replay on a store that fails: killed at every durable step and run again, two runs of one replay at once, files that
//! are missing, a budget that is exceeded. Whatever happens meanwhile, the dataset is that of an undisturbed run, and the tables are
//! unchanged. Promise 5 of src/README.md. `replay.rs` also shows that the dataset is right.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use floodmark::dataflow::Progress;
use floodmark::dataflow::commit::Request;
use floodmark::job::Job;
use floodmark::ledger::{Fingerprint, Ledger, Orders};
use floodmark::live::{Live, run};
use floodmark::model::Lane;
use floodmark::process::{Clock, Exit, HasExit, ManualClock};
use floodmark::replay::PublishError;
use floodmark::replay::ReplayError;
use floodmark::replay::compare::dataset;
use floodmark::replay::compare::summary::{CellChanges, OutcomeChange, Summary};
use floodmark::replay::count::chunks::chunks;
use floodmark::replay::discard::discard;
use floodmark::replay::publish::admission::Direction;
use floodmark::replay::publish::publisher::{Published, Publisher};
use floodmark::replay::request::prepare::{ReplayRequest, prepare};
use floodmark::replay::request::submission::{Asked, Submission};
use floodmark::replay::request::versions::raw_files;
use floodmark::replay::run::{self, Replayer};
use floodmark::source::script::{Script, ScriptRecord};
use floodmark::table::counts::lane_txn;
use floodmark::table::log::commit_path;
use floodmark::table::store::write_file;
use floodmark::table::{Log, Root, State, TableError};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::json;
use tokio::sync::watch;

use crate::support::faulty::{Fault, Faulty};
use crate::support::live::{DAY, HOUR, MINUTE, SECOND, block_on};
use crate::support::tables::{Cell, archived, cells, versions};

/// 2026-01-30T22:00:00Z, a Friday.
const BASE: i64 = 1_769_810_400 * SECOND;
/// 2026-01-29 and 2026-01-30.
const RANGE: Range<i64> = BASE - 46 * HOUR..BASE + 2 * HOUR;
const LARGE: usize = 64 << 20;
/// If something takes longer than this, it hangs, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

// ---- logics and records ----

/// The fallback field of the customer, and which action is left out.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Logic {
    customer_or: &'static str,
    leaves_out: &'static str,
    counts_weeks: bool,
}

/// The logic of live, in most epochs.
const OLD: Logic = Logic { customer_or: "name", leaves_out: "ping", counts_weeks: false };
/// The logic of live in the last epochs, and of the replay.
const NEW: Logic = Logic { customer_or: "id", leaves_out: "bot", counts_weeks: true };
/// For previews of a job that only knew `OLD`: it finds customers where `OLD` does.
const MORE: Logic = Logic { customer_or: "name", leaves_out: "bot", counts_weeks: false };

impl Logic {
    fn job(self) -> Job {
        let weeks = if self.counts_weeks { ", \"week\"" } else { "" };
        let text = format!(
            r#"
name = "recount"
[source]
topics = ["script"]
[source.kafka]
"bootstrap.servers" = "none"
[tables]
url = "memory://"
buckets = 2
[event]
format = "json"
customer = {{ first_of = ["/customer", "/{}"] }}
event_time = {{ pointer = "/time" }}
[event.fields.action]
pointer = "/action"
[[where]]
field = "action"
not = {{ equals = "{}" }}
[dimensions.total]
granularities = ["minute", "hour", "day", "month"]
[dimensions.action]
granularities = ["hour", "day"{weeks}]
"#,
            self.customer_or, self.leaves_out
        );
        Job::parse(&text, "recount.toml", &|_| None).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// The outcome as in `raw`, and the customer for which the record counts.
    fn outcome(self, sent: &Sent) -> (&'static str, Option<&'static str>) {
        let Sent { customer, other, action, .. } = *sent;
        let fallback = other.filter(|(field, _)| *field == self.customer_or).map(|(_, value)| value);
        match customer.or(fallback) {
            None => ("rejected: missing_field", None),
            Some(_) if action == self.leaves_out => ("filtered", None),
            customer => ("counted", customer),
        }
    }
}

#[derive(Clone, Debug)]
struct Sent {
    customer: Option<&'static str>,
    /// Another field, with its value.
    other: Option<(&'static str, &'static str)>,
    action: &'static str,
    time: i64,
    /// Whether it was sent before live counted with `NEW`.
    is_old: bool,
}

/// Records of every kind, at a time.
fn kinds(time: i64, is_old: bool) -> Vec<Sent> {
    let mut all = Vec::new();
    for action in ["view", "ping", "bot"] {
        for (customer, other) in [
            (Some("a"), None),
            (Some("b"), Some(("name", "c"))),
            (None, Some(("name", "c"))),
            (None, Some(("id", "d"))),
            (None, None),
        ] {
            all.push(Sent { customer, other, action, time, is_old });
        }
    }
    all
}

/// What is sent, epoch by epoch: in the range, before it and after it, late and on time.
fn epochs() -> Vec<Vec<Sent>> {
    let times =
        [[0, -1, -80], [1, -30, -47], [2, -10 * 60, -46 * 60], [3, 3, -46 * 60 - 1], [4, 60, -26 * 60], [5, 119, 120]];
    let live = |index: usize, minutes: &[i64; 3]| {
        minutes.iter().flat_map(|minutes| kinds(BASE + minutes * MINUTE + 7 * SECOND, index < 5)).collect()
    };
    times.iter().enumerate().map(|(index, minutes)| live(index, minutes)).collect()
}

// ---- a world ----

struct Running {
    progress: Arc<Progress>,
    request: watch::Sender<Request>,
    thread: JoinHandle<()>,
}

fn start(inner: &Arc<InMemory>, script: &Script, clock: &ManualClock, logic: Logic) -> Running {
    let progress = Arc::new(Progress::default());
    let (request, requested) = watch::channel(Request::Run);
    let live = Live {
        job: logic.job(),
        root: root_of(inner),
        workers: 2,
        clock: Clock::Manual(clock.clone()),
        source: Arc::new(script.clone()),
        progress: Arc::clone(&progress),
    };
    let thread = std::thread::spawn(move || run(live, requested).expect("an orderly end"));
    Running { progress, request, thread }
}

impl Running {
    fn reaches(&self, mut done: impl FnMut(&Progress) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(&self.progress) {
            assert!(!self.thread.is_finished(), "the job has ended");
            assert!(Instant::now() < deadline, "hangs at {:?}", self.progress.epochs());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stops(self) {
        self.request.send_replace(Request::Stop);
        self.thread.join().expect("no panic");
    }
}

fn root_of(inner: &Arc<InMemory>) -> Root {
    Root::on(Arc::clone(inner) as Arc<dyn ObjectStore>)
}

/// A topic, tables, and the job between them.
struct World {
    inner: Arc<InMemory>,
    script: Script,
    clock: ManualClock,
    now: i64,
    sent: Vec<Sent>,
    job: Option<(Running, u64)>,
}

impl World {
    fn new() -> World {
        let inner = Arc::new(InMemory::new());
        World { inner, script: Script::new(2), clock: ManualClock::at(BASE), now: BASE, sent: Vec::new(), job: None }
    }

    /// Counts with this logic from now on.
    fn counts_with(&mut self, logic: Logic) {
        self.stop();
        self.job = Some((start(&self.inner, &self.script, &self.clock, logic), self.sent.len() as u64));
    }

    /// Sends records, advances the clock, and waits until they are archived.
    fn feed(&mut self, records: Vec<Sent>, seconds: i64) {
        let (job, read_before) = self.job.as_ref().expect("a job runs");
        for record in records {
            let mut event = json!({"time": record.time / 1000, "action": record.action});
            if let Some(customer) = record.customer {
                event["customer"] = json!(customer);
            }
            if let Some((field, value)) = record.other {
                event[field] = json!(value);
            }
            let value = Some(event.to_string().into_bytes());
            let record_of = ScriptRecord { timestamp_ms: Some(self.now / 1000), value };
            self.script.push(self.sent.len() % 2, record_of);
            self.sent.push(record);
        }
        let sent = self.sent.len() as u64;
        job.reaches(|progress| read_before + progress.read.load(Ordering::Relaxed) >= sent);
        self.now += seconds * SECOND;
        self.clock.set(self.now);
        job.reaches(|_| table(&self.inner, "raw").files.values().map(|file| file.rows).sum::<u64>() >= sent);
    }

    fn stop(&mut self) {
        if let Some((job, _)) = self.job.take() {
            job.stops();
        }
    }
}

/// Tables of a job that has counted with `OLD`, then with `NEW`, and has stopped.
static TABLES: LazyLock<Arc<InMemory>> = LazyLock::new(|| tables_of(|_| true));

/// The same with only some of the records.
fn tables_of(is_sent: impl Fn(&Sent) -> bool) -> Arc<InMemory> {
    let mut world = World::new();
    world.counts_with(OLD);
    let mut is_old = true;
    for mut records in epochs() {
        records.retain(&is_sent);
        if records.iter().any(|record| !record.is_old) && std::mem::take(&mut is_old) {
            world.counts_with(NEW);
        }
        if !records.is_empty() {
            world.feed(records, 11);
        }
    }
    world.stop();
    world.inner
}

/// A copy of the tables, for one test.
fn tables() -> Arc<InMemory> {
    Arc::new(TABLES.fork())
}

fn table(inner: &Arc<InMemory>, name: &str) -> State {
    block_on(Log::new(&root_of(inner), name).load()).expect("readable").unwrap_or_default()
}

/// All files below a folder.
fn files(inner: &Arc<InMemory>, folder: &str) -> BTreeMap<String, Bytes> {
    block_on(async {
        let listed: Vec<_> = inner.list(Some(&Path::from(folder))).try_collect().await.expect("listed");
        let mut found = BTreeMap::new();
        for object in listed {
            let bytes = inner.get(&object.location).await.expect("there").bytes().await.expect("bytes");
            found.insert(object.location.to_string(), bytes);
        }
        found
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn try_submit(
    inner: &Arc<InMemory>,
    logic: Logic,
    range: Range<i64>,
    customers: Option<Vec<String>>,
    chunk_bytes: u64,
) -> Result<Submission, ReplayError> {
    let request = ReplayRequest { id: "r".to_owned(), asked: Asked::EventTimes(range), customers, chunk_bytes };
    try_request(inner, logic, request)
}

fn try_request(inner: &Arc<InMemory>, logic: Logic, request: ReplayRequest) -> Result<Submission, ReplayError> {
    runtime().block_on(async {
        let root = root_of(inner);
        let prepared = prepare(&logic.job(), &root, request, 0).await?;
        Ok(prepared.submission.submit(&root).await?)
    })
}

fn submit(inner: &Arc<InMemory>, chunk_bytes: u64) -> Submission {
    try_submit(inner, NEW, RANGE, None, chunk_bytes).expect("submitted")
}

/// A recount that runs in the background.
struct Recounting {
    store: Faulty,
    thread: JoinHandle<Result<Summary, ReplayError>>,
}

/// The number of workers, and the bytes that they may have in memory.
type Means = (usize, usize);

fn begin(store: &Faulty, logic: Logic, submission: &Submission, (workers, memory_bytes): Means) -> Recounting {
    let root = Root::on(Arc::new(store.clone()));
    let replay = Replayer { job: logic.job(), root, workers, memory_bytes, progress: Arc::default(), member: None };
    let submission = submission.clone();
    let thread = std::thread::spawn(move || runtime().block_on(run::run(&replay, &submission)));
    Recounting { store: store.clone(), thread }
}

impl Recounting {
    fn waits(&self, mut done: impl FnMut(&Recounting) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) && !self.thread.is_finished() {
            assert!(Instant::now() < deadline, "hangs after {:#?}", self.store.steps());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(self) -> Result<Summary, ReplayError> {
        self.waits(|_| false);
        self.thread.join().expect("no panic")
    }
}

fn on(inner: &Arc<InMemory>) -> Faulty {
    Faulty::new(Arc::clone(inner) as Arc<dyn ObjectStore>)
}

fn recounted(inner: &Arc<InMemory>, submission: &Submission, means: Means) -> Summary {
    begin(&on(inner), NEW, submission, means).end().expect("a replay")
}

/// The recount of another replay, in a copy of the tables.
fn recounted_with(inner: &Arc<InMemory>, logic: Logic, customers: Option<&[&str]>) -> (Arc<InMemory>, Summary) {
    let customers = customers.map(|customers| customers.iter().map(|&customer| customer.to_owned()).collect());
    let copy = Arc::new(inner.fork());
    let submission = try_submit(&copy, logic, RANGE, customers, 1).expect("submitted");
    let summary = begin(&on(&copy), logic, &submission, (2, LARGE)).end().expect("a replay");
    (copy, summary)
}

// ---- what it leaves behind ----

/// A row whose outcome has changed: partition, offset, outcome on arrival, outcome now.
type OtherRow = (i32, i64, String, String);

/// Everything that a replay has found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Dataset {
    /// The summary, without what depends on workers and memory.
    summary: Summary,
    cells: BTreeMap<String, Bytes>,
    rows: Vec<OtherRow>,
}

impl Dataset {
    /// Checks for equality, and reports what differs instead of everything.
    fn is(&self, expected: &Dataset, when: &str) {
        assert_eq!(self.summary, expected.summary, "{when}");
        let paths = |it: &Dataset| it.cells.keys().cloned().collect::<Vec<_>>();
        assert_eq!(paths(self), paths(expected), "{when}");
        let differ = self.cells.iter().filter(|(path, bytes)| expected.cells[path.as_str()] != **bytes);
        assert_eq!(differ.map(|(path, _)| path).collect::<Vec<_>>(), Vec::<&String>::new(), "{when}");
        assert_eq!(self.rows.len(), expected.rows.len(), "{when}: rows with another outcome");
        assert!(self.rows == expected.rows, "{when}: rows with another outcome");
    }
}

/// Reads what is on the store after `summary` was returned, and checks that nothing else is there.
fn dataset_of(inner: &Arc<InMemory>, summary: &Summary) -> Dataset {
    let root = root_of(inner);
    let stored = block_on(Summary::load(&root, "r")).expect("readable").expect("there");
    assert_eq!(&stored, summary, "what was returned is what is on the store");
    let mut cells = BTreeMap::new();
    let (mut rows, mut row_files) = (Vec::new(), BTreeSet::new());
    for (path, bytes) in files(inner, "replays/r") {
        match path.strip_prefix("replays/r/").expect("listed") {
            "plan.json" | "summary.json" => {}
            name if name.starts_with("cells/") => drop(cells.insert(path, bytes)),
            name if name.starts_with("rows/") => {
                rows.extend(rows_of(bytes));
                row_files.insert(path);
            }
            name => panic!("{name} is left over"),
        }
    }
    assert_eq!(cells.keys().collect::<Vec<_>>(), summary.parts.iter().map(|part| &part.path).collect::<Vec<_>>());
    assert_eq!(row_files.iter().collect::<Vec<_>>(), summary.rows.iter().collect::<Vec<_>>(), "files of rows");
    rows.sort();
    Dataset { summary: Summary { spilled: 0, rows: Vec::new(), ..summary.clone() }, cells, rows }
}

fn rows_of(bytes: Bytes) -> Vec<OtherRow> {
    let batches = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("parquet").build().expect("parquet");
    let mut rows = Vec::new();
    for batch in batches {
        let batch = batch.expect("rows");
        let column = |name: &str| batch.column_by_name(name).expect("a column");
        let (partitions, offsets) = (column("kafka_partition"), column("kafka_offset"));
        let (then, now) = (column("on_arrival").as_string::<i32>(), column("now").as_string::<i32>());
        for row in 0..batch.num_rows() {
            rows.push((
                partitions.as_primitive::<Int32Type>().value(row),
                offsets.as_primitive::<Int64Type>().value(row),
                then.value(row).to_owned(),
                now.value(row).to_owned(),
            ));
        }
    }
    rows
}

/// The result of an undisturbed run.
fn reference(chunk_bytes: u64) -> Dataset {
    let inner = tables();
    let submission = submit(&inner, chunk_bytes);
    let summary = recounted(&inner, &submission, (1, LARGE));
    dataset_of(&inner, &summary)
}

/// The chunks that all workers of one run have stored.
fn whole_chunks(inner: &Arc<InMemory>) -> BTreeSet<u32> {
    let mut said: BTreeMap<(u32, String, String), usize> = BTreeMap::new();
    for path in files(inner, "replays/r/chunks").into_keys().filter(|path| path.ends_with(".json")) {
        let mut parts = path.trim_end_matches(".json").split('/').skip(3);
        let (chunk, name) = (parts.next().expect("a chunk"), parts.next().expect("a name"));
        let mut of = name.split('-');
        let (attempt, workers) = (of.next().expect("an attempt"), of.next_back().expect("a number"));
        *said.entry((chunk.parse().expect("a number"), attempt.to_owned(), workers.to_owned())).or_default() += 1;
    }
    let whole = said.into_iter().filter(|((_, _, workers), count)| workers.parse() == Ok(*count));
    whole.map(|((chunk, ..), _)| chunk).collect()
}

/// The files of `raw` in chunks that are not done.
fn files_left(inner: &Arc<InMemory>, submission: &Submission) -> Vec<String> {
    let whole = whole_chunks(inner);
    let all = chunks(raw_files(&table(inner, "raw"), submission).expect("statistics"), submission.chunk_bytes);
    let left = all.into_iter().filter(|(chunk, _)| !whole.contains(chunk));
    let mut paths: Vec<_> = left.flat_map(|(_, files)| files).map(|file| format!("raw/{}", file.path)).collect();
    paths.sort();
    paths
}

fn raw_reads(store: &Faulty) -> Vec<String> {
    let mut reads = store.reads();
    reads.retain(|path| path.starts_with("raw/") && path.ends_with(".parquet"));
    reads.sort();
    reads
}

/// The files of both tables.
fn both(inner: &Arc<InMemory>) -> [BTreeMap<String, Bytes>; 2] {
    [files(inner, "raw"), files(inner, "counts")]
}

// ---- what it finds ----

fn sent() -> impl Iterator<Item = ((i32, i64), Sent)> {
    let number = |(number, sent): (usize, Sent)| (((number % 2) as i32, (number / 2) as i64), sent);
    epochs().into_iter().flatten().enumerate().map(number)
}

#[test]
fn rows_with_another_outcome_are_those_of_a_recount_by_hand() {
    let inner = tables();
    let before = both(&inner);
    let submission = submit(&inner, 1);
    let summary = recounted(&inner, &submission, (2, LARGE));
    let found = dataset_of(&inner, &summary);
    assert_eq!(both(&inner), before, "the tables are as they were");

    let mut rows = Vec::new();
    let mut outcomes: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let (mut in_range, mut counted) = (0, 0);
    for ((partition, offset), sent) in sent().filter(|(_, sent)| RANGE.contains(&sent.time)) {
        let (then, _) = if sent.is_old { OLD.outcome(&sent) } else { NEW.outcome(&sent) };
        let (now, _) = NEW.outcome(&sent);
        in_range += 1;
        counted += u64::from(now == "counted");
        if then != now {
            rows.push((partition, offset, then.to_owned(), now.to_owned()));
            *outcomes.entry((then, now)).or_default() += 1;
        }
    }
    rows.sort();
    assert!(rows.len() > 50 && outcomes.len() > 4, "{outcomes:?}");
    assert_eq!(found.rows, rows);
    let of = |((then, now), rows): ((&str, &str), u64)| OutcomeChange {
        on_arrival: then.to_owned(),
        now: now.to_owned(),
        rows,
    };
    assert_eq!(summary.outcomes, outcomes.into_iter().map(of).collect::<Vec<_>>());
    assert_eq!((summary.rows_in_range, summary.rows_counted), (in_range, counted));
}

fn cells_now(inner: &Arc<InMemory>) -> BTreeMap<Cell, i64> {
    cells(inner, &table(inner, "counts"))
}

#[test]
fn windows_partly_in_range_are_named_and_cells_are_those_of_a_recount_by_hand() {
    let inner = tables();
    let submission = submit(&inner, 20_000);
    let summary = recounted(&inner, &submission, (2, 64));
    let partly: Vec<_> = (summary.partly.iter())
        .map(|it| (it.granularity.name(), it.window_start.as_str(), it.window_end.as_str(), it.left_alone.clone()))
        .collect();
    let (week, month) = (
        ("week", "2026-01-26T00:00:00Z", "2026-02-02T00:00:00Z", vec!["action".to_owned()]),
        ("month", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", Vec::new()),
    );
    assert_eq!(partly, [week, month], "whole days are in range; weeks of actions are new");

    let mut cells = cells_now(&inner);
    for part in &summary.parts {
        for change in block_on(dataset::read(&root_of(&inner), part, i64::MIN..i64::MAX)).expect("readable") {
            let dataset::Change { cell, old, new } = change.expect("a change");
            let cell = (part.granularity.name(), cell.customer, cell.dimension, cell.window_start, cell.value);
            assert_eq!(cells.insert(cell.clone(), new).unwrap_or(0), old, "{cell:?}");
        }
    }
    cells.retain(|_, count| *count != 0);
    let mut expected: BTreeMap<Cell, i64> = BTreeMap::new();
    for (_, sent) in sent() {
        let is_new = !sent.is_old || RANGE.contains(&sent.time);
        let (_, Some(customer)) = (if is_new { NEW } else { OLD }).outcome(&sent) else { continue };
        let floor = |length: i64| sent.time - sent.time.rem_euclid(length);
        // 2026-01-01. Everything that is sent is in January or February.
        let january = RANGE.start - 28 * DAY;
        let month = if sent.time < january + 31 * DAY { january } else { january + 31 * DAY };
        let all = [("minute", floor(MINUTE)), ("hour", floor(HOUR)), ("day", floor(DAY)), ("month", month)];
        let mut count = |granularity, dimension: &str, start, value: &str| {
            let cell = (granularity, customer.to_owned(), dimension.to_owned(), start, value.to_owned());
            *expected.entry(cell).or_default() += 1;
        };
        for (granularity, start) in all {
            count(granularity, "total", start, "");
            if granularity == "hour" || granularity == "day" {
                count(granularity, "action", start, sent.action);
            }
        }
        // Weeks are new and left unchanged: only live counts them.
        if !sent.is_old {
            count("week", "action", RANGE.start - 3 * DAY, sent.action);
        }
    }
    assert_eq!(cells, expected);
}

#[test]
fn memory_changes_nothing_but_what_is_spilled() {
    for chunk_bytes in [1, 20_000, 1 << 30] {
        let expected = reference(chunk_bytes);
        for workers in [1, 2, 3] {
            let inner = tables();
            let submission = submit(&inner, chunk_bytes);
            let summary = recounted(&inner, &submission, (workers, 64));
            assert!(summary.spilled > 0);
            dataset_of(&inner, &summary).is(&expected, &format!("{workers} workers, chunks of {chunk_bytes}"));
        }
    }
    let inner = tables();
    let submission = submit(&inner, 1);
    assert_eq!(recounted(&inner, &submission, (2, LARGE)).spilled, 0);
}

// ---- killed and run again ----

/// Kills a run at each of its durable steps, and runs it again.
fn killed(fault: fn() -> Fault, chunk_bytes: u64) {
    let expected = reference(chunk_bytes);
    let prepared = tables();
    let submission = submit(&prepared, chunk_bytes);
    let before = both(&prepared);
    let (mut step, mut struck, mut skipped) = (1, 0, 0);
    loop {
        let inner = Arc::new(prepared.fork());
        let store = on(&inner);
        store.at(step, fault());
        let workers = 1 + step % 3;
        let first = begin(&store, NEW, &submission, (workers, 4096));
        first.waits(|run| run.store.frozen());
        if !store.frozen() {
            // It had fewer steps; how many there are depends on which worker is first.
            let summary = first.end().expect("a replay");
            dataset_of(&inner, &summary).is(&expected, "not killed");
            break;
        }
        struck += 1;
        store.kill();
        // Its last answers were lost, so it does not know whether it was done already.
        drop(first.end());

        let complete = block_on(Summary::load(&root_of(&inner), "r")).expect("readable").is_some();
        let left = if complete { Vec::new() } else { files_left(&inner, &submission) };
        skipped += whole_chunks(&inner).len();
        let store = on(&inner);
        let workers = 1 + (step + 1) % 4;
        let summary = begin(&store, NEW, &submission, (workers, LARGE)).end().expect("a replay");
        assert_eq!(raw_reads(&store), left, "killed at step {step}: what is on the store is not read again");
        dataset_of(&inner, &summary).is(&expected, &format!("killed at step {step}, then {workers} workers"));
        assert_eq!(both(&inner), before, "the tables are as they were");
        step += 1;
    }
    assert!(struck > 20, "{struck} steps");
    assert!(skipped > 0, "no chunk was whole");
}

#[test]
fn killed_before_every_step() {
    killed(|| Fault::FreezeBefore, 1);
}

#[test]
fn killed_after_every_step() {
    killed(|| Fault::FreezeAfter, 20_000);
}

#[test]
fn a_chunk_without_all_its_manifests_is_counted_again() {
    let expected = reference(1);
    let inner = tables();
    let submission = submit(&inner, 1);
    let store = on(&inner);
    store.on("cells/", Fault::FreezeBefore);
    let first = begin(&store, NEW, &submission, (3, 4096));
    first.waits(|run| run.store.frozen());
    store.kill();
    first.end().expect_err("killed");
    let all = whole_chunks(&inner);
    assert!(all.len() > 3, "{all:?}");
    for (number, chunk) in all.iter().enumerate() {
        let inner = Arc::new(inner.fork());
        let is_manifest = |path: &String| path.ends_with(".json");
        let mut manifests = files(&inner, &format!("replays/r/chunks/{chunk:06}")).into_keys().filter(is_manifest);
        let gone = manifests.nth(number % 3).expect("three");
        block_on(inner.delete(&Path::from(gone))).expect("deleted");
        assert_eq!(whole_chunks(&inner).len() + 1, all.len());
        let (store, left) = (on(&inner), files_left(&inner, &submission));
        let summary = begin(&store, NEW, &submission, (3, LARGE)).end().expect("a replay");
        assert_eq!(raw_reads(&store), left);
        dataset_of(&inner, &summary).is(&expected, "again");
    }
}

// ---- two at once ----

/// A run that is frozen at a step, and its tables; `None` if it ended before.
fn standing_still(
    prepared: &Arc<InMemory>,
    submission: &Submission,
    step: usize,
) -> Option<(Arc<InMemory>, Recounting)> {
    let inner = Arc::new(prepared.fork());
    let store = on(&inner);
    store.at(step, if step.is_multiple_of(2) { Fault::FreezeBefore } else { Fault::FreezeAfter });
    let slow = begin(&store, NEW, submission, (1 + step % 3, 4096));
    slow.waits(|run| run.store.frozen());
    if !store.frozen() {
        slow.end().expect("a replay");
        return None;
    }
    Some((inner, slow))
}

#[test]
fn another_run_of_it_ends_while_this_one_stands_still_at_every_step() {
    let chunk_bytes = 20_000;
    let expected = reference(chunk_bytes);
    let prepared = tables();
    let submission = submit(&prepared, chunk_bytes);
    let mut step = 1;
    loop {
        let Some((inner, slow)) = standing_still(&prepared, &submission, step) else { break };
        let fast = recounted(&inner, &submission, (2, LARGE));
        slow.store.thaw();
        let slow = slow.end().unwrap_or_else(|error| panic!("step {step}: {error}"));
        assert_eq!(slow, fast, "step {step}: there is one summary");
        dataset_of(&inner, &slow).is(&expected, &format!("step {step}"));
        step += 1;
    }
    assert!(step > 20, "{step} steps");
}

#[test]
fn discarded_while_it_stands_still_at_every_step_it_leaves_nothing() {
    let prepared = tables();
    let submission = submit(&prepared, 20_000);
    let refused = (1..)
        .map_while(|step| {
            let (inner, slow) = standing_still(&prepared, &submission, step)?;
            let root = root_of(&inner);
            runtime().block_on(discard(&root, "r")).expect("discarded");
            slow.store.thaw();
            let error = slow.end().err();
            assert_eq!(files(&inner, "replays"), BTreeMap::new(), "step {step}: {error:?}");
            if let Some(error) = &error {
                assert!(
                    error.to_string().contains("was discarded while it ran: all of its files are deleted"),
                    "{error}"
                );
            }
            // When one run is killed then, the other deletes what it left.
            let leftover = Submission::path("r", "chunks/00000/x.json");
            runtime().block_on(write_file(root.store().as_ref(), &leftover, Bytes::new())).expect("written");
            assert_eq!(runtime().block_on(discard(&root, "r")).expect("discarded"), 1);
            Some(error.is_some())
        })
        .filter(|refused| *refused)
        .count();
    assert!(refused > 20, "{refused} steps");
}

#[test]
fn runs_of_it_at_the_same_time_say_the_same() {
    let expected = reference(1);
    for round in 0..10 {
        let inner = tables();
        let submission = submit(&inner, 1);
        let runs = [1, 2, 3].map(|workers| begin(&on(&inner), NEW, &submission, (workers, 4096)));
        let said = runs.map(|run| run.end().unwrap_or_else(|error| panic!("round {round}: {error}")));
        assert!(said.iter().all(|summary| *summary == said[0]), "round {round}");
        // A run that ended first may have cleaned up before the last one wrote; then the last one cleans up itself.
        dataset_of(&inner, &said[0]).is(&expected, &format!("round {round}"));
    }
}

// ---- a store that fails ----

#[test]
fn a_lost_reply_or_an_outage_at_every_step() {
    let chunk_bytes = 20_000;
    let expected = reference(chunk_bytes);
    let prepared = tables();
    let submission = submit(&prepared, chunk_bytes);
    let faults: [fn() -> Fault; 4] = [
        || Fault::Refused,
        || Fault::ReplyLost,
        || Fault::Outage { calls: 2, reads: true },
        || Fault::Outage { calls: 4, reads: false },
    ];
    let mut step = 1;
    loop {
        let inner = Arc::new(prepared.fork());
        let store = on(&inner);
        store.at(step, faults[step % 4]());
        let summary = begin(&store, NEW, &submission, (2, 4096)).end();
        let summary = summary.unwrap_or_else(|error| panic!("step {step}: {error}"));
        if !store.done() {
            break;
        }
        // What it could not delete at its end is deleted when the same command is run again.
        let again = recounted(&inner, &submission, (1, LARGE));
        assert_eq!(again, summary);
        dataset_of(&inner, &summary).is(&expected, &format!("step {step}"));
        step += 1;
    }
    assert!(step > 20, "{step} steps");
}

#[test]
fn reads_that_fail_for_a_while() {
    let expected = reference(20_000);
    for calls in [1, 3, 5] {
        let inner = tables();
        let submission = submit(&inner, 20_000);
        let store = on(&inner);
        store.outage(calls, true);
        let summary = begin(&store, NEW, &submission, (2, 4096)).end().expect("it passes");
        dataset_of(&inner, &summary).is(&expected, "again");
    }
}

/// Checks that there is nothing but the submission and chunks that were counted.
fn nothing_is_told(inner: &Arc<InMemory>, before: &[BTreeMap<String, Bytes>; 2]) {
    assert_eq!(&both(inner), before, "the tables are as they were");
    let told = files(inner, "replays/r").into_keys().filter(|path| !path.contains("/chunks/"));
    assert_eq!(told.collect::<Vec<_>>(), ["replays/r/plan.json"]);
}

#[test]
fn a_file_that_is_gone_is_named() {
    for name in ["raw", "counts"] {
        let inner = tables();
        let submission = submit(&inner, 1);
        let files = match name {
            "raw" => raw_files(&table(&inner, "raw"), &submission).expect("statistics"),
            _ => table(&inner, "counts").files.into_values().collect(),
        };
        let gone = &files[files.len() / 2].path;
        block_on(inner.delete(&Path::from(format!("{name}/{gone}")))).expect("deleted");
        let before = both(&inner);
        for _ in 0..2 {
            let error = begin(&on(&inner), NEW, &submission, (2, 4096)).end().expect_err("a file is gone");
            assert!(matches!(&error, ReplayError::Table(TableError::Invalid(_))), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(gone.as_str()) && text.contains("dead_files_keep_hours"), "{text}");
            assert_eq!(error.exit(), Exit::Configuration, "trying again does not help");
        }
        assert_eq!(both(&inner), before, "the tables are as they were");
        if name == "raw" {
            nothing_is_told(&inner, &before);
        }
    }
}

#[test]
fn a_store_that_says_no_ends_it() {
    let inner = tables();
    let submission = submit(&inner, 1);
    let before = both(&inner);
    let store = on(&inner);
    store.on("/chunks/", Fault::Denied);
    let error = begin(&store, NEW, &submission, (3, 4096)).end().expect_err("denied");
    assert!(matches!(&error, ReplayError::Table(TableError::Denied { .. })), "{error:?}");
    nothing_is_told(&inner, &before);
    let summary = recounted(&inner, &submission, (1, LARGE));
    dataset_of(&inner, &summary).is(&reference(1), "again");
}

/// The thread that reads the archive, and the task that stores files.
#[test]
fn a_panic_of_a_thread_or_task_ends_it() {
    let inner = tables();
    let submission = submit(&inner, 1);
    let before = both(&inner);
    let reading = on(&inner);
    reading.panics_reading("raw/ingest_date");
    let storing = on(&inner);
    storing.on("/chunks/", Fault::Panic);
    for (store, what) in [
        (reading, "reading the archive panicked: by the test at raw/ingest_date"),
        (storing, "storing a replay's counts panicked: by the test at replays/r/chunks/"),
    ] {
        let error = begin(&store, NEW, &submission, (3, 4096)).end().expect_err("a panic");
        assert!(matches!(&error, ReplayError::Table(TableError::Bug(said)) if said.starts_with(what)), "{error:?}");
        nothing_is_told(&inner, &before);
    }
    let summary = recounted(&inner, &submission, (1, LARGE));
    dataset_of(&inner, &summary).is(&reference(1), "again");
}

/// A file that the store never accepts does not block a worker: all workers notice that another one can not continue.
#[test]
fn a_store_that_hangs_does_not_hold_up_the_end() {
    for (workers, memory_bytes) in [(2, LARGE), (2, 4096), (3, LARGE)] {
        let inner = tables();
        let submission = submit(&inner, 1);
        let before = both(&inner);
        let store = on(&inner);
        store.on("/chunks/", Fault::Delay(Duration::from_secs(24 * 3600))).on("/chunks/", Fault::Denied);
        let error = begin(&store, NEW, &submission, (workers, memory_bytes)).end().expect_err("denied");
        // Which of the two it is depends on whether the store had accepted another file before it refused this one.
        assert!(
            matches!(&error, ReplayError::Table(TableError::Denied { .. } | TableError::Storage { .. })),
            "{error:?}"
        );
        nothing_is_told(&inner, &before);
        let summary = recounted(&inner, &submission, (1, LARGE));
        dataset_of(&inner, &summary).is(&reference(1), "again");
    }
}

#[test]
fn versions_that_are_no_longer_kept() {
    for name in ["raw", "counts"] {
        let inner = tables();
        let submission = submit(&inner, 1);
        // As when the log is cleaned up to a newer checkpoint.
        for version in 0..=table(&inner, name).version {
            block_on(inner.delete(&Path::from(format!("{name}/{}", commit_path(version))))).expect("deleted");
        }
        let before = both(&inner);
        let error = begin(&on(&inner), NEW, &submission, (2, 4096)).end().expect_err("gone");
        let of_version = if name == "raw" { submission.raw_version } else { submission.counts_version };
        let ReplayError::Gone { id, table, version } = &error else { panic!("{error:?}") };
        assert_eq!((id.as_str(), *table, *version), ("r", name, of_version));
        assert!(error.to_string().contains("discard"), "{error}");
        assert_eq!(error.exit(), Exit::Failed);
        nothing_is_told(&inner, &before);
    }
}

// ---- nothing to do ----

fn is_empty(inner: &Arc<InMemory>, logic: Logic, range: Range<i64>, customers: Option<Vec<String>>) -> Summary {
    let submission = try_submit(inner, logic, range, customers, 1).expect("submitted");
    let before = both(inner);
    let summary = begin(&on(inner), logic, &submission, (2, 64)).end().expect("a replay");
    assert_eq!(summary.cells, CellChanges::default());
    assert!(summary.groups.is_empty() && summary.largest.is_empty() && summary.parts.is_empty(), "{summary:?}");
    assert_eq!(both(inner), before);
    dataset_of(inner, &summary);
    summary
}

#[test]
fn ranges_and_customers_without_data_change_nothing() {
    let days = |from: i64, to: i64| RANGE.start + from * DAY..RANGE.start + to * DAY;
    // The distant past, a gap, and the future.
    for range in [days(-4000, -3000), days(-9, -5), days(4, 5), days(300, 3000)] {
        let summary = is_empty(&tables(), NEW, range, None);
        assert_eq!((summary.rows_in_range, summary.rows_counted), (0, 0));
        assert!(summary.outcomes.is_empty());
    }
    // The same logic again.
    is_empty(&tables(), NEW, days(2, 5), None);
}

#[test]
fn tables_without_rows_change_nothing() {
    let inner = Arc::new(InMemory::new());
    let job = start(&inner, &Script::new(2), &ManualClock::at(BASE), OLD);
    job.reaches(|_| block_on(Log::new(&root_of(&inner), "counts").load()).expect("readable").is_some());
    job.stops();
    let summary = is_empty(&inner, NEW, RANGE, None);
    assert_eq!(summary.rows_in_range, 0);
}

#[test]
fn some_customers_only() {
    // Here live's older epochs find customers elsewhere.
    let refused = try_submit(&tables(), NEW, RANGE, Some(vec!["b".to_owned()]), 1).expect_err("refused");
    assert!(refused.to_string().contains("--customers"), "{refused}");

    let inner = tables_of(|sent| sent.is_old);
    let changes = |customers: Option<&[&str]>| {
        let (store, summary) = recounted_with(&inner, MORE, customers);
        let read = |part| block_on(dataset::read(&root_of(&store), part, i64::MIN..i64::MAX)).expect("readable");
        let changes = summary.parts.iter().flat_map(read).map(|change| change.expect("a change"));
        changes.collect::<Vec<_>>()
    };
    let mut expected = changes(None);
    let all = expected.len();
    expected.retain(|change| change.cell.customer == "b");
    assert!(!expected.is_empty() && expected.len() < all, "{} of {all}", expected.len());
    assert_eq!(changes(Some(&["b", "nobody"])), expected);
    let nobody = Some(vec!["nobody".to_owned(), "nobody else".to_owned()]);
    is_empty(&Arc::new(inner.fork()), MORE, RANGE, nobody);
}

// ---- published beside live ----

/// Publishes or undoes a replay while live reads more records.
fn published(world: &mut World, id: &str, direction: Direction) -> Result<Published, PublishError> {
    let publisher = Publisher {
        root: root_of(&world.inner),
        id: id.to_owned(),
        direction,
        clock: Clock::Manual(world.clock.clone()),
        budget_bytes: 1,
    };
    let thread = std::thread::spawn(move || runtime().block_on(publisher.run(|_| {})));
    for seconds in [11, 61] {
        let time = world.now - 30 * MINUTE;
        world.feed([kinds(world.now, false), kinds(time, false)].concat(), seconds);
    }
    let deadline = Instant::now() + PATIENCE;
    while !thread.is_finished() {
        assert!(Instant::now() < deadline, "hangs");
        world.feed(kinds(world.now, false), 11);
    }
    thread.join().expect("no panic")
}

/// What a version should have, by its lanes and by the replays that are in force in it, which are given with their ranges.
fn recount_of(world: &World, state: &State, switch: u64, replays: &[(&str, Range<i64>)]) -> BTreeMap<Cell, i64> {
    let orders = Orders::of(state);
    let lanes: BTreeMap<_, _> =
        Lane::ALL.iter().map(|lane| (lane.name(), state.txn(&lane_txn(*lane)) as u64)).collect();
    let archived = archived(&world.inner, &table(&world.inner, "raw"));
    let mut cells = BTreeMap::new();
    for (number, sent) in world.sent.iter().enumerate() {
        let Some(&(epoch, ingested_at)) = archived.get(&((number % 2) as i32, (number / 2) as i64)) else { continue };
        let is_replayed = replays.iter().any(|(id, range)| orders.in_force(id) && range.contains(&sent.time));
        let logic = if epoch >= switch || is_replayed { NEW } else { OLD };
        let (_, Some(customer)) = logic.outcome(sent) else { continue };
        let mut count = |lane: &str, granularity, dimension: &str, start, value: &str| {
            if epoch <= lanes[lane] {
                let cell = (granularity, customer.to_owned(), dimension.to_owned(), start, value.to_owned());
                *cells.entry(cell).or_default() += 1;
            }
        };
        for (granularity, length, grace) in [("minute", MINUTE, 20), ("hour", HOUR, 60), ("day", DAY, 300)] {
            let start = sent.time - sent.time.rem_euclid(length);
            let is_late = ingested_at >= start + length + grace * SECOND;
            let lane = if is_late { "late" } else { granularity };
            count(lane, granularity, "total", start, "");
            if granularity != "minute" {
                count(lane, granularity, "action", start, sent.action);
            }
        }
        let january = RANGE.start - 28 * DAY;
        let month = if sent.time < january + 31 * DAY { january } else { january + 31 * DAY };
        count("coarse", "month", "total", month, "");
        // It is new, and no range here holds the whole week.
        if epoch >= switch {
            count("coarse", "week", "action", RANGE.start - 3 * DAY, sent.action);
        }
    }
    cells
}

#[test]
fn promise_1_two_overlapping_replays_in_turn_beside_live() {
    let mut world = World::new();
    world.counts_with(OLD);
    for (index, records) in epochs().into_iter().filter(|records| records[0].is_old).enumerate() {
        world.feed(records, if index % 2 == 0 { 11 } else { 301 });
    }
    world.counts_with(NEW);
    world.feed(kinds(world.now, false), 11);
    let (switch, newest) = Ledger::of(&table(&world.inner, "counts")).newest().expect("live has recorded it");
    assert_eq!(newest, Fingerprint::of(&NEW.job().logic));

    let one = RANGE;
    let two = RANGE.start + DAY..RANGE.end + DAY;
    let submitted = |world: &World, id: &str, range: &Range<i64>| {
        let asked = Asked::EventTimes(range.clone());
        let request = ReplayRequest { id: id.to_owned(), asked, customers: None, chunk_bytes: 1 };
        let submission = try_request(&world.inner, NEW, request).expect("submitted");
        begin(&on(&world.inner), NEW, &submission, (2, 4096))
    };
    // Both are prepared at the same time, while live continues.
    let runs = [submitted(&world, "one", &one), submitted(&world, "two", &two)];
    world.feed(kinds(world.now - HOUR, false), 61);
    runs.into_iter().for_each(|run| assert!(run.end().expect("a replay").cells.total() > 0));

    assert_eq!(published(&mut world, "two", Direction::Publish).expect("published").order, 1);
    let error = published(&mut world, "one", Direction::Publish).expect_err("it was compared before");
    assert!(matches!(&error, PublishError::Overtaken { other, .. } if other == "two"), "{error}");
    let again = submitted(&world, "one-again", &one);
    world.feed(kinds(world.now - HOUR, false), 61);
    again.end().expect("a replay");
    assert_eq!(published(&mut world, "one-again", Direction::Publish).expect("published").order, 2);

    let error = published(&mut world, "two", Direction::Undo).expect_err("the newest goes first");
    assert!(matches!(&error, PublishError::UndoFirst { other, .. } if other == "one-again"), "{error}");
    assert_eq!(published(&mut world, "one-again", Direction::Undo).expect("undone").order, 3);
    assert_eq!(published(&mut world, "two", Direction::Undo).expect("undone").order, 4);
    world.stop();

    let replays = [("one", one.clone()), ("two", two), ("one-again", one)];
    let states = versions(&world.inner, table(&world.inner, "counts").version);
    let mut seen = BTreeSet::new();
    for state in &states {
        let expected = recount_of(&world, state, switch, &replays);
        let found = cells(&world.inner, state);
        let differ = expected.iter().find(|(cell, count)| found.get(cell) != Some(count));
        assert_eq!(
            differ,
            None,
            "version {} does not hold it, but {:?}",
            state.version,
            differ.map(|(cell, _)| found.get(cell))
        );
        assert_eq!(found.len(), expected.len(), "version {}", state.version);
        let orders = Orders::of(state);
        seen.insert(replays.iter().map(|(id, _)| orders.in_force(id)).collect::<Vec<_>>());
    }
    assert!(states.len() > 20, "{} versions", states.len());
    assert_eq!(seen.len(), 3, "none, the second, both: {seen:?}");
}
