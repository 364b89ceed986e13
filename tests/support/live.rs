//! A live job in a test: a scripted topic, a clock that the test controls, a store that fails on cue; and a separate recount.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use floodmark::dataflow::Progress;
use floodmark::dataflow::commit::Request;
use floodmark::job::Job;
use floodmark::live::{Live, LiveError, run};
use floodmark::model::{Lane, Records};
use floodmark::process::{Clock, ManualClock};
use floodmark::source::script::{Script, ScriptRecord};
use floodmark::source::{Position, RecordSource, SourceError, SourceFactory, Stamp, Txns, Waker};
use floodmark::table::counts::lane_txn;
use floodmark::table::{Log, Root, State, raw};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::sync::watch;

use super::faulty::Faulty;
use super::tables::{self, Cell};

pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const MINUTE: i64 = 60 * SECOND;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;
/// 2026-01-13T12:00:00Z
pub(crate) const BASE: i64 = 1_768_305_600 * SECOND;
/// The time limit: whatever takes longer hangs, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const JOB: &str = r#"
name = "protocol"
[source]
topics = ["script"]
[source.kafka]
"bootstrap.servers" = "none"
[tables]
url = "memory://"
buckets = 2
[event]
format = "json"
customer = { pointer = "/customer" }
event_time = { pointer = "/time" }
[event.fields.action]
pointer = "/action"
[dimensions.total]
granularities = ["minute", "hour", "day"]
[dimensions.action]
granularities = ["minute", "hour", "day"]
[lanes]
hour.publish_seconds = 0
day.publish_seconds = 0
late.publish_seconds = 0
coarse.publish_seconds = 0
"#;

/// Another logic: one more dimension, by hour.
const KINDS: &str = r#"
[dimensions.kind]
field = "action"
granularities = ["hour"]
"#;

/// A customer of bucket 0, and one of bucket 1.
pub(crate) const CUSTOMERS: [&str; 2] = ["a", "b"];

/// What outlives a process: the tables, the topic and the clock. It knows what must be counted.
pub(crate) struct World {
    pub(crate) inner: Arc<InMemory>,
    pub(crate) script: Script,
    pub(crate) clock: ManualClock,
    pub(crate) now: i64,
    settings: String,
    /// Whether the job also counts [`KINDS`].
    counts_kinds: bool,
    pushed: Vec<usize>,
    /// What must be counted; a rival that changes it records that here.
    pub(crate) expected: BTreeMap<Cell, i64>,
}

/// A running copy of the job.
pub(crate) struct Running {
    pub(crate) store: Faulty,
    pub(crate) progress: Arc<Progress>,
    request: watch::Sender<Request>,
    thread: JoinHandle<Result<(), LiveError>>,
}

impl World {
    /// An empty topic of two partitions, and no tables. `settings` are lines for that section of the job file.
    pub(crate) fn new(settings: &str) -> World {
        World {
            inner: Arc::new(InMemory::new()),
            script: Script::new(2),
            clock: ManualClock::at(BASE),
            now: BASE,
            settings: format!("[settings]\n{settings}\n"),
            counts_kinds: false,
            pushed: vec![0; 2],
            expected: BTreeMap::new(),
        }
    }

    /// Sets other lines for the section `[settings]`, for the next start.
    pub(crate) fn set(&mut self, settings: &str) {
        self.settings = format!("[settings]\n{settings}\n");
    }

    /// Sets whether what is sent from now on is also to be counted by kind; the next start does so.
    pub(crate) fn count_kinds(&mut self, counts_kinds: bool) {
        self.counts_kinds = counts_kinds;
    }

    /// The job for the next start.
    pub(crate) fn job(&self) -> Job {
        Job::parse(&self.text(), "protocol.toml", &|_| None).expect("the test's job is right")
    }

    fn text(&self) -> String {
        format!("{JOB}{}{}", if self.counts_kinds { KINDS } else { "" }, self.settings)
    }

    /// A store with faults, over the tables.
    pub(crate) fn store(&self) -> Faulty {
        Faulty::new(Arc::clone(&self.inner) as Arc<dyn ObjectStore>)
    }

    /// Starts a copy of the job.
    pub(crate) fn start(&self, workers: usize, store: Faulty) -> Running {
        self.start_from(workers, store, Arc::new(self.script.clone()))
    }

    /// Starts a copy of the job with another source.
    pub(crate) fn start_from(&self, workers: usize, store: Faulty, source: Arc<dyn SourceFactory>) -> Running {
        self.start_job(workers, store, source, &self.text())
    }

    /// Starts a copy of the job whose file has another number of buckets.
    pub(crate) fn start_with_buckets(&self, buckets: u32) -> Running {
        let text = JOB.replace("buckets = 2", &format!("buckets = {buckets}"));
        self.start_job(1, self.store(), Arc::new(self.script.clone()), &text)
    }

    fn start_job(&self, workers: usize, store: Faulty, source: Arc<dyn SourceFactory>, text: &str) -> Running {
        let progress = Arc::new(Progress::default());
        let (request, requested) = watch::channel(Request::Run);
        let live = Live {
            job: Job::parse(text, "protocol.toml", &|_| None).expect("the test's job is right"),
            root: Root::on(Arc::new(store.clone())),
            workers,
            clock: Clock::Manual(self.clock.clone()),
            source,
            progress: Arc::clone(&progress),
        };
        let thread = std::thread::spawn(move || run(live, requested));
        Running { store, progress, request, thread }
    }

    pub(crate) fn advance(&mut self, us: i64) {
        self.now += us;
        self.clock.set(self.now);
    }

    pub(crate) fn pushed(&self) -> u64 {
        self.pushed.iter().sum::<usize>() as u64
    }

    /// Sends one event of `customer`, some minutes old, which must be counted.
    pub(crate) fn push(&mut self, customer: &str, minutes_old: i64) {
        self.push_padded(customer, minutes_old, 0);
    }

    /// The same, with more bytes.
    pub(crate) fn push_padded(&mut self, customer: &str, minutes_old: i64, padding: usize) {
        let time = BASE - minutes_old * MINUTE + 7 * SECOND;
        let number = self.pushed();
        let action = if number.is_multiple_of(3) { "buy" } else { "view" };
        let padding = "x".repeat(padding);
        let value =
            format!(r#"{{"customer":"{customer}","time":{},"action":"{action}","padding":"{padding}"}}"#, time / 1000);
        for (granularity, length) in [("minute", MINUTE), ("hour", 60 * MINUTE), ("day", 24 * 60 * MINUTE)] {
            let start = time - time.rem_euclid(length);
            let by_kind = (self.counts_kinds && granularity == "hour").then_some(("kind", action));
            for (dimension, value) in [("total", ""), ("action", action)].into_iter().chain(by_kind) {
                let cell = (granularity, customer.to_owned(), dimension.to_owned(), start, value.to_owned());
                *self.expected.entry(cell).or_default() += 1;
            }
        }
        self.send(value.into_bytes());
    }

    /// Sends a record that is not an event.
    pub(crate) fn push_garbage(&mut self) {
        self.send(b"{".to_vec());
    }

    fn send(&mut self, value: Vec<u8>) {
        let partition = self.pushed() as usize % self.pushed.len();
        self.pushed[partition] += 1;
        let record = ScriptRecord { timestamp_ms: Some(self.now / 1000), value: Some(value) };
        self.script.push(partition, record);
    }

    /// The log of a table, on the store without faults.
    pub(crate) fn log(&self, table: &str) -> Log {
        Log::new(&Root::on(Arc::clone(&self.inner) as Arc<dyn ObjectStore>), table)
    }

    /// The newest version of a table.
    pub(crate) fn table(&self, table: &str) -> State {
        block_on(self.log(table).load()).expect("readable").expect("a table")
    }

    /// Rows of `raw`: (partition, offset) → (epoch, ingested_at).
    pub(crate) fn archived(&self) -> BTreeMap<(i32, i64), (u64, i64)> {
        tables::archived(&self.inner, &self.table("raw"))
    }

    /// The cells of `counts`.
    pub(crate) fn counted(&self) -> BTreeMap<Cell, i64> {
        tables::cells(&self.inner, &self.table("counts"))
    }

    /// Checks that everything that was sent is in both tables, once, and that all lanes are at the epoch of `raw`.
    pub(crate) fn is_exact(&self) {
        let archived = self.archived();
        let sent: Vec<(i32, i64)> = (self.pushed.iter().enumerate())
            .flat_map(|(partition, count)| (0..*count as i64).map(move |offset| (partition as i32, offset)))
            .collect();
        assert_eq!(archived.keys().copied().collect::<Vec<_>>(), sent, "each offset once");
        let mut last = (0, i64::MIN);
        let mut epochs: Vec<(u64, i64)> = archived.into_values().collect();
        epochs.sort_unstable();
        for (epoch, ingested_at) in epochs {
            assert!(epoch != last.0 || ingested_at == last.1, "epoch {epoch} has two values of ingested_at");
            assert!(ingested_at >= last.1, "ingested_at went back at epoch {epoch}");
            last = (epoch, ingested_at);
        }
        assert_eq!(self.counted(), self.expected);
        let (raw, counts) = (self.table("raw"), self.table("counts"));
        for lane in Lane::ALL {
            assert_eq!(counts.txn(&lane_txn(lane)), raw.txn(raw::EPOCH), "lane {}", lane.name());
        }
    }
}

impl Running {
    /// Waits for something; returns false if the process froze or ended.
    pub(crate) fn reaches(&self, what: &str, mut done: impl FnMut(&Progress) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if done(&self.progress) {
                return true;
            }
            if self.store.frozen() || self.thread.is_finished() {
                return false;
            }
            assert!(
                Instant::now() < deadline,
                "hangs before {what}: epochs {:?}, steps {:#?}",
                self.progress.epochs(),
                self.store.steps()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until this many records are read.
    pub(crate) fn reads(&self, records: u64) -> bool {
        self.reaches("reading", |progress| progress.read.load(Ordering::Relaxed) >= records)
    }

    /// Waits until this epoch is in both tables.
    pub(crate) fn publishes(&self, epoch: u64) -> bool {
        self.reaches("publishing", |progress| progress.epochs().0 >= epoch && progress.epochs().1 >= epoch)
    }

    pub(crate) fn request(&self, request: Request) {
        self.request.send_replace(request);
    }

    /// Waits for the end; returns how it ended.
    pub(crate) fn end(self) -> Result<(), LiveError> {
        let deadline = Instant::now() + PATIENCE;
        while !self.thread.is_finished() {
            assert!(
                Instant::now() < deadline,
                "hangs at its end: epochs {:?}, steps {:#?}",
                self.progress.epochs(),
                self.store.steps()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        self.thread.join().expect("no panic")
    }

    /// Asks it to end in order, and checks that it does.
    pub(crate) fn ends_in_order(self, request: Request) {
        self.request(request);
        self.end().expect("an orderly end");
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until the process freezes; returns false if it ended instead.
    pub(crate) fn freezes(&self) -> bool {
        let _ = self.reaches("standing still", |_| false);
        self.store.frozen()
    }
}

/// A topic that exists but can not be opened.
pub(crate) struct Unreadable(pub(crate) Script);

impl SourceFactory for Unreadable {
    fn check(&self) -> Result<(), SourceError> {
        self.0.check()
    }

    fn resume(&self, txns: &Txns) -> Result<(), SourceError> {
        self.0.resume(txns)
    }

    fn open(&self, worker: usize, workers: usize, waker: Waker) -> Result<Box<dyn RecordSource>, SourceError> {
        match worker {
            0 => self.0.open(worker, workers, waker),
            _ => Err(SourceError::Retry("the brokers are away".to_owned())),
        }
    }
}

/// A topic whose first record makes the last worker panic.
pub(crate) struct Panics(pub(crate) Script);

impl SourceFactory for Panics {
    fn check(&self) -> Result<(), SourceError> {
        self.0.check()
    }

    fn resume(&self, txns: &Txns) -> Result<(), SourceError> {
        self.0.resume(txns)
    }

    fn open(&self, worker: usize, workers: usize, waker: Waker) -> Result<Box<dyn RecordSource>, SourceError> {
        let share = self.0.open(worker, workers, waker)?;
        Ok(if worker + 1 == workers { Box::new(PanickingShare(share)) } else { share })
    }
}

struct PanickingShare(Box<dyn RecordSource>);

impl RecordSource for PanickingShare {
    fn read(&mut self, stamp: Stamp, records: &mut Records) -> Result<bool, SourceError> {
        let more = self.0.read(stamp, records)?;
        assert!(records.is_empty(), "by the test");
        Ok(more)
    }

    fn take_positions(&mut self) -> Vec<Position> {
        self.0.take_positions()
    }

    fn take_at_end(&mut self) -> bool {
        self.0.take_at_end()
    }

    fn drained(&self) -> bool {
        self.0.drained()
    }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}
