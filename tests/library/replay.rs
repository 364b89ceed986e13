//! Replays against an oracle: random logics, traffic, ranges and times; every cell of every granularity is compared.
//!
//! A live job runs on a store in memory with logic A, is stopped, continues with logic B, and is stopped or lost while its lanes are at
//! different epochs. Then a range is replayed with B. The result of the replay must equal that of a plain recount, which knows what was
//! sent and reads only the epoch of each record from `raw`: inside the range as B counts it, outside as it was, and longer windows as the
//! mixture.
//!
//! Promises of src/README.md shown here: 1 (every version is a recount) and 5 (a replay is a diff).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::Datelike;
use floodmark::dataflow::Progress;
use floodmark::dataflow::commit::Request;
use floodmark::job::{COUNTING, Job};
use floodmark::ledger::{Fingerprint, Ledger, LogicText};
use floodmark::live::{Live, LiveError, run};
use floodmark::process::{Clock, Exit, HasExit, ManualClock};
use floodmark::replay::compare::dataset;
use floodmark::replay::compare::summary::Summary;
use floodmark::replay::publish::admission::Direction;
use floodmark::replay::publish::publisher::{Published, Publisher};
use floodmark::replay::request::prepare::{ReplayRequest, prepare};
use floodmark::replay::request::submission::{Asked, Submission};
use floodmark::replay::run::{self, Replayer};
use floodmark::source::script::{Script, ScriptRecord};
use floodmark::table::counts::lane_txn;
use floodmark::table::{Commit, Log, Root, State, counts, raw};
use floodmark::verify;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use serde_json::json;
use tokio::sync::watch;

use crate::support::live::{DAY, HOUR, MINUTE, SECOND};
use crate::support::tables::{self, Cell};

/// 2026-01-30T22:00:00Z, a Friday: a day, a week and a month will end soon.
const BASE: i64 = 1_769_810_400 * SECOND;
const GRANULARITIES: [&str; 6] = ["minute", "hour", "day", "week", "month", "year"];
const LANES: [&str; 5] = ["minute", "hour", "day", "late", "coarse"];

// ---- logics ----

/// What is counted, as the test knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Logic {
    /// The field with the event time: `time` or `at`.
    time: &'static str,
    /// Whether the field `name` is the customer if `customer` is missing.
    customer_falls_back: bool,
    leaves_out_pings: bool,
    graces: [i64; 3],
    /// For each dimension, its field and its granularities.
    dimensions: BTreeMap<&'static str, (&'static str, BTreeSet<&'static str>)>,
}

impl Logic {
    fn job(&self, settings: &str) -> Job {
        let mut text = String::from(
            "name = \"replay\"\n[source]\ntopics = [\"script\"]\n[source.kafka]\n\"bootstrap.servers\" = \"none\"\n[tables]\n\
             url = \"memory://\"\nbuckets = 2\n[event]\nformat = \"json\"\n",
        );
        text += &format!("event_time = {{ pointer = \"/{}\" }}\n", self.time);
        text += if self.customer_falls_back {
            "customer = { first_of = [\"/customer\", \"/name\"] }\n"
        } else {
            "customer = { pointer = \"/customer\" }\n"
        };
        text += "[event.fields.action]\npointer = \"/action\"\n[event.fields.country]\npointer = \"/country\"\n";
        if self.leaves_out_pings {
            text += "[[where]]\nfield = \"action\"\nnot = { equals = \"ping\" }\n";
        }
        for (name, (field, granularities)) in &self.dimensions {
            text += &format!("[dimensions.{name}]\n");
            if *name != "total" {
                text += &format!("field = \"{field}\"\n");
            }
            let names: Vec<_> = granularities.iter().map(|name| format!("\"{name}\"")).collect();
            text += &format!("granularities = [{}]\n", names.join(", "));
        }
        for (name, grace) in ["minute", "hour", "day"].iter().zip(self.graces) {
            text += &format!("[granularities.{name}]\ngrace_seconds = {grace}\n");
        }
        text += "[lanes]\nhour.publish_seconds = 60\nday.publish_seconds = 60\nlate.publish_seconds = 120\ncoarse.publish_seconds = 120\n";
        Job::parse(&format!("{text}[settings]\n{settings}\n"), "replay.toml", &|_| None)
            .unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// Customer and values, if it counts.
    fn decode(&self, sent: &Sent) -> Option<(String, BTreeMap<&'static str, String>)> {
        let Sent { customer, name, action, country, .. } = sent;
        let found = match (customer, name) {
            (Some(customer), _) => customer,
            (None, Some(name)) if self.customer_falls_back => name,
            _ => return None,
        };
        if self.leaves_out_pings && *action == "ping" {
            return None;
        }
        let values = self.dimensions.iter().map(|(dimension, (field, _))| {
            let value = match (*dimension, *field) {
                ("total", _) => String::new(),
                (_, "action") => (*action).to_owned(),
                _ => (*country).to_owned(),
            };
            (*dimension, value)
        });
        Some(((*found).to_owned(), values.collect()))
    }

    fn counts(&self, dimension: &str, granularity: &str) -> bool {
        self.dimensions.get(dimension).is_some_and(|(_, granularities)| granularities.contains(granularity))
    }
}

fn granularities() -> impl Strategy<Value = BTreeSet<&'static str>> {
    (prop::sample::select(vec!["minute", "hour", "day"]), prop::sample::subsequence(GRANULARITIES.to_vec(), 0..6))
        .prop_map(|(base, mut more)| {
            more.push(base);
            more.into_iter().collect()
        })
}

fn logic() -> impl Strategy<Value = Logic> {
    let dimension = |weight: f64| {
        prop::option::weighted(weight, (prop::sample::select(vec!["action", "country"]), granularities()))
    };
    let graces = prop::sample::select(vec![[20, 60, 300], [0, 0, 0], [90, 600, 600]]);
    (any::<bool>(), any::<bool>(), graces, granularities(), dimension(0.8), dimension(0.5)).prop_map(
        |(customer_falls_back, leaves_out_pings, graces, total, what, where_)| {
            let mut dimensions = BTreeMap::from([("total", ("", total))]);
            dimensions.extend(what.map(|what| ("what", what)));
            dimensions.extend(where_.map(|place| ("place", place)));
            Logic { time: "time", customer_falls_back, leaves_out_pings, graces, dimensions }
        },
    )
}

/// The second is mostly a small change of the first, as in practice.
fn logics() -> impl Strategy<Value = (Logic, Logic)> {
    (logic(), logic(), 0..4u8).prop_map(|(a, b, change)| {
        let mut near = a.clone();
        match change {
            0 => near.leaves_out_pings = !near.leaves_out_pings,
            1 => {
                near.dimensions.insert("what", ("country", BTreeSet::from(["minute", "day", "month"])));
            }
            2 => near.customer_falls_back = !near.customer_falls_back,
            _ => return (a, b),
        }
        (a, near)
    })
}

// ---- traffic ----

#[derive(Clone, Debug)]
struct Sent {
    customer: Option<&'static str>,
    name: Option<&'static str>,
    action: &'static str,
    country: &'static str,
    /// The event time, in minutes relative to sending; the second one is the value of the other field.
    minutes: i64,
    other_minutes: i64,
}

fn sent() -> impl Strategy<Value = Sent> {
    let minutes = prop_oneof![4 => -3i64..=0, 2 => -240i64..=0, 1 => -3 * 1440i64..=0, 1 => 0i64..=60];
    (
        prop::option::weighted(0.8, prop::sample::select(vec!["a", "b", "c\u{0}"])),
        prop::option::weighted(0.6, prop::sample::select(vec!["a", "d"])),
        prop::sample::select(vec!["view", "ping", "buy"]),
        prop::sample::select(vec!["DE", "", "US"]),
        minutes,
        prop_oneof![Just(0i64), Just(-70), Just(-1500)],
    )
        .prop_map(|(customer, name, action, country, minutes, other)| Sent {
            other_minutes: minutes + other,
            customer,
            name,
            action,
            country,
            minutes,
        })
}

/// A span of live: for each step of the clock, what is sent before it, and its length in seconds.
type Span = Vec<(Vec<Sent>, i64)>;

fn span() -> impl Strategy<Value = Span> {
    prop::collection::vec(
        (prop::collection::vec(sent(), 0..8), prop::sample::select(vec![10, 30, 120, 1800, 7200])),
        1..6,
    )
}

// ---- a world ----

struct World {
    inner: Arc<InMemory>,
    script: Script,
    clock: ManualClock,
    now: i64,
    /// What was sent, and its event time, by partition and offset.
    sent: BTreeMap<(i32, i64), (Sent, i64)>,
    next: [i64; 2],
}

struct Running {
    progress: Arc<Progress>,
    request: watch::Sender<Request>,
    thread: std::thread::JoinHandle<Result<(), LiveError>>,
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

impl World {
    fn new() -> World {
        World {
            inner: Arc::new(InMemory::new()),
            script: Script::new(2),
            clock: ManualClock::at(BASE),
            now: BASE,
            sent: BTreeMap::new(),
            next: [0; 2],
        }
    }

    fn root(&self) -> Root {
        Root::on(Arc::clone(&self.inner) as Arc<dyn ObjectStore>)
    }

    fn start(&self, logic: &Logic, workers: usize) -> Running {
        let progress = Arc::new(Progress::default());
        let (request, requested) = watch::channel(Request::Run);
        let live = Live {
            job: logic.job(""),
            root: self.root(),
            workers,
            clock: Clock::Manual(self.clock.clone()),
            source: Arc::new(self.script.clone()),
            progress: Arc::clone(&progress),
        };
        Running { progress, request, thread: std::thread::spawn(move || run(live, requested)) }
    }

    fn send(&mut self, sent: &Sent) {
        let time = self.now + sent.minutes * MINUTE + 7 * SECOND;
        let other = self.now + sent.other_minutes * MINUTE + 7 * SECOND;
        let mut event =
            json!({"time": time / 1000, "at": other / 1000, "action": sent.action, "country": sent.country});
        if let Some(customer) = sent.customer {
            event["customer"] = json!(customer);
        }
        if let Some(name) = sent.name {
            event["name"] = json!(name);
        }
        let partition = self.sent.len() % 2;
        let record = ScriptRecord { timestamp_ms: Some(self.now / 1000), value: Some(event.to_string().into_bytes()) };
        self.script.push(partition, record);
        self.sent.insert((partition as i32, self.next[partition]), (sent.clone(), time));
        self.next[partition] += 1;
    }

    /// Runs a job through a span; with `level`, it is stopped in order.
    fn live(&mut self, logic: &Logic, workers: usize, span: &Span, level: bool) {
        let before = self.archived_rows();
        let running = self.start(logic, workers);
        for (sent, seconds) in span {
            sent.iter().for_each(|sent| self.send(sent));
            running.reaches(|progress| before + progress.read.load(Ordering::Relaxed) >= self.sent.len() as u64);
            self.now += seconds * SECOND;
            self.clock.set(self.now);
            running.reaches(|_| self.archived_rows() >= self.sent.len() as u64);
        }
        if level {
            running.request.send_replace(Request::Stop);
            running.thread.join().expect("no panic").expect("an orderly end");
        } else {
            // Without its sender, it can no longer be asked to end: it ends immediately.
            drop(running.request);
            running.thread.join().expect("no panic").expect_err("an end in the middle");
        }
    }

    fn archived_rows(&self) -> u64 {
        self.table("raw").map_or(0, |raw| raw.files.values().map(|file| file.rows).sum())
    }

    fn table(&self, name: &str) -> Option<State> {
        futures::executor::block_on(Log::new(&self.root(), name).load()).expect("readable")
    }

    fn archived(&self) -> BTreeMap<(i32, i64), (u64, i64)> {
        tables::archived(&self.inner, &self.table("raw").expect("raw"))
    }

    fn counted(&self, counts: &State) -> BTreeMap<Cell, i64> {
        tables::cells(&self.inner, counts)
    }

    /// What `counts` should have: each row counts by the logic that `decide` names for its epoch, customer, time, granularity and
    /// dimension.
    fn recount<'a>(
        &self,
        counts: &State,
        logics: &[&'a Logic],
        decide: impl Fn(&Row<'_>) -> &'a Logic,
    ) -> BTreeMap<Cell, i64> {
        let lanes: BTreeMap<_, _> = LANES
            .iter()
            .zip(floodmark::model::Lane::ALL)
            .map(|(name, lane)| (*name, counts.txn(&lane_txn(lane)) as u64))
            .collect();
        let archived = self.archived();
        let mut cells = BTreeMap::new();
        for (at, (sent, time)) in &self.sent {
            let Some(&(epoch, ingested_at)) = archived.get(at) else { continue };
            for (number, logic) in logics.iter().enumerate() {
                if logics[..number].contains(logic) {
                    continue;
                }
                let Some((customer, values)) = logic.decode(sent) else { continue };
                let time =
                    if logic.time == "time" { *time } else { time + (sent.other_minutes - sent.minutes) * MINUTE };
                for (index, granularity) in GRANULARITIES.iter().enumerate() {
                    let (start, end) = window(granularity, time);
                    let is_late = index < 3 && ingested_at >= end + logic.graces[index] * SECOND;
                    let lane = if is_late { "late" } else { LANES[if index < 3 { index } else { 4 }] };
                    if epoch > lanes[lane] {
                        continue;
                    }
                    for (dimension, value) in &values {
                        let row = Row { epoch, time, granularity, dimension, window: start..end };
                        if logic.counts(dimension, granularity) && decide(&row) == *logic {
                            let cell = (*granularity, customer.clone(), (*dimension).to_owned(), start, value.clone());
                            *cells.entry(cell).or_default() += 1;
                        }
                    }
                }
            }
        }
        cells
    }

    fn publish(&self, id: &str, direction: Direction) -> Published {
        let clock = Clock::Manual(self.clock.clone());
        let publisher = Publisher { root: self.root(), id: id.to_owned(), direction, clock, budget_bytes: 1 << 20 };
        block_on(publisher.run(|_| {})).expect("published")
    }

    /// Checks that `verify`, which follows the ledger, finds no difference.
    fn is_verified(&self, logic: &Logic) {
        let options = verify::Options::default();
        let report = block_on(verify::verify(&logic.job(""), &self.root(), options)).expect("a verdict");
        assert_eq!(report.verdict, verify::Verdict::Exact, "{}\n{}", report.table(), report.sentence());
    }

    /// The table's cells after the changes of a replay.
    fn applied(&self, state: &State, submission: &Submission, summary: &Summary) -> BTreeMap<Cell, i64> {
        let mut cells = self.counted(state);
        let mut changes = 0;
        for part in &summary.parts {
            let read = block_on(dataset::read(&self.root(), part, i64::MIN..i64::MAX)).expect("readable");
            let mut last = None;
            for change in read {
                let change = change.expect("a change");
                let order = (
                    change.cell.customer.clone(),
                    change.cell.dimension.clone(),
                    change.cell.window_start,
                    change.cell.value.clone(),
                );
                assert!(last.is_none_or(|last| last < order), "the dataset is sorted");
                last = Some(order);
                changes += 1;
                assert_ne!(change.old, change.new);
                let cell = (
                    part.granularity.name(),
                    change.cell.customer,
                    change.cell.dimension,
                    change.cell.window_start,
                    change.cell.value,
                );
                assert_eq!(cells.get(&cell).copied().unwrap_or(0), change.old, "old count of {cell:?}");
                if change.new == 0 {
                    cells.remove(&cell)
                } else {
                    cells.insert(cell, change.new)
                };
            }
        }
        assert_eq!(changes, summary.cells.total(), "{}", submission.id);
        assert_eq!(changes, summary.groups.iter().map(|group| group.changes.total()).sum::<u64>());
        cells
    }
}

impl Running {
    fn reaches(&self, mut done: impl FnMut(&Progress) -> bool) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !done(&self.progress) {
            assert!(!self.thread.is_finished(), "the job has ended");
            assert!(std::time::Instant::now() < deadline, "hangs at {:?}", self.progress.epochs());
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// What decides which logic counts a row.
struct Row<'a> {
    epoch: u64,
    time: i64,
    granularity: &'a str,
    dimension: &'a str,
    window: Range<i64>,
}

/// Start and end of a window, computed a second time.
fn window(granularity: &str, time: i64) -> (i64, i64) {
    let fixed = |length: i64, from: i64| {
        let start = (time - from).div_euclid(length) * length + from;
        (start, start + length)
    };
    let date = chrono::DateTime::from_timestamp_micros(time).expect("a time").date_naive();
    let first = |year, month| {
        let day = chrono::NaiveDate::from_ymd_opt(year, month, 1).expect("a day");
        day.and_hms_opt(0, 0, 0).expect("midnight").and_utc().timestamp_micros()
    };
    match granularity {
        "minute" => fixed(MINUTE, 0),
        "hour" => fixed(HOUR, 0),
        "day" => fixed(DAY, 0),
        // 1970-01-05 was a Monday.
        "week" => fixed(7 * DAY, 4 * DAY),
        "month" if date.month() == 12 => (first(date.year(), 12), first(date.year() + 1, 1)),
        "month" => (first(date.year(), date.month()), first(date.year(), date.month() + 1)),
        _ => (first(date.year(), 1), first(date.year() + 1, 1)),
    }
}

/// What a logic did not count at all is only counted in whole windows. So is what the test's oracle can not distinguish: it asks the
/// submission, and only checks that this names nothing that both logics count in the same way.
fn whole_only(submission: &Submission, row: &Row<'_>) -> bool {
    submission
        .whole_only
        .iter()
        .any(|(granularity, dimension)| granularity.name() == row.granularity && dimension == row.dimension)
}

fn request(id: &str, range: Range<i64>, customers: Option<Vec<String>>, chunk_bytes: u64) -> ReplayRequest {
    ReplayRequest { id: id.to_owned(), asked: Asked::EventTimes(range), customers, chunk_bytes }
}

fn replayed(world: &World, logic: &Logic, submission: &Submission, workers: usize, memory_bytes: usize) -> Summary {
    let replay = Replayer {
        job: logic.job(""),
        root: world.root(),
        workers,
        memory_bytes,
        progress: Arc::default(),
        member: None,
    };
    block_on(run::run(&replay, submission)).expect("a replay")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn promise_5_a_replay_says_what_a_recount_says(
        (a, b) in logics(),
        before in span(),
        after in span(),
        more in span(),
        level: bool,
        (from, length) in (-30i64..6, 1i64..80),
        all: bool,
        some_customers: bool,
        (workers_live, workers_replay) in (prop::sample::select(vec![1usize, 2]), prop::sample::select(vec![1usize, 2, 4])),
        (memory_bytes, chunk_bytes) in (prop::sample::select(vec![64usize, 4096, 64 << 20]), prop::sample::select(vec![1u64, 20_000, 1 << 30])),
    ) {
        let mut world = World::new();
        world.live(&a, workers_live, &before, true);
        world.live(&b, workers_live, &after, level);
        let counts = world.table("counts").expect("counts");
        let switch = Ledger::of(&counts).newest().map_or(1, |(from, _)| from);

        // Whole days around the time, or hours if the shape permits; or everything.
        let job = b.job("");
        let range = if all { BASE - 400 * DAY..BASE + 400 * DAY } else { BASE + from * HOUR..BASE + (from + length) * HOUR };
        let customers = (some_customers && a.customer_falls_back == b.customer_falls_back)
            .then(|| vec!["b".to_owned(), "a".to_owned(), "nobody".to_owned()]);
        let mut asked = range.clone();
        let prepared = match block_on(prepare(&job, &world.root(), request("r", asked.clone(), customers.clone(), chunk_bytes), 0)) {
            Ok(prepared) => prepared,
            Err(error) => {
                prop_assert!(error.to_string().contains("nearest range of whole windows"), "{error}");
                asked = window("day", range.start).0..window("day", range.end + DAY - 1).0;
                block_on(prepare(&job, &world.root(), request("r", asked.clone(), customers.clone(), chunk_bytes), 0)).expect("whole days")
            }
        };
        let range = asked;
        let submission = block_on(prepared.submission.submit(&world.root())).expect("submitted");
        prop_assert_eq!(submission.before, Some(switch));
        for (granularity, dimension) in &submission.whole_only {
            let same = a.dimensions.get(dimension.as_str()) == b.dimensions.get(dimension.as_str());
            prop_assert!(!same || a == b, "{granularity} of {dimension} is counted alike by both");
        }
        let summary = replayed(&world, &b, &submission, workers_replay, memory_bytes);

        let holds = |customer: &str| customers.as_ref().is_none_or(|customers| customers.iter().any(|known| known == customer));
        let in_range = |row: &Row<'_>| {
            let whole = range.start <= row.window.start && row.window.end <= range.end;
            row.epoch < switch && range.contains(&row.time) && (whole || !whole_only(&submission, row))
        };
        let live = |row: &Row<'_>| if row.epoch < switch { &a } else { &b };
        let now = world.recount(&counts, &[&a, &b], live);
        prop_assert_eq!(&world.counted(&counts), &now, "live");
        let mut expected = world.recount(&counts, &[&a, &b], |row| if in_range(row) { &b } else { live(row) });
        // Other customers stay unchanged.
        expected.retain(|cell, _| holds(&cell.1));
        expected.extend(now.into_iter().filter(|(cell, _)| !holds(&cell.1)));
        let found = world.applied(&counts, &submission, &summary);
        for (cell, count) in &expected {
            prop_assert_eq!(found.get(cell), Some(count), "{:?}", cell);
        }
        for (cell, count) in &found {
            prop_assert_eq!(expected.get(cell), Some(count), "{:?}", cell);
        }
        if all && customers.is_none() {
            let fresh = world.recount(&counts, &[&b], |_| &b);
            prop_assert_eq!(&found, &fresh, "B from the start");
        }

        // Published, while live continues; then undone, as if it had never been there.
        let published = world.publish("r", Direction::Publish);
        prop_assert_eq!(published.cells, summary.cells.total());
        prop_assert_eq!(world.counted(&world.table("counts").expect("counts")), found);
        world.is_verified(&b);
        prop_assert!(world.publish("r", Direction::Publish).already);
        world.live(&b, workers_replay, &more, true);
        let in_force = |row: &Row<'_>| if in_range(row) { &b } else { live(row) };
        let counts = world.table("counts").expect("counts");
        if customers.is_none() {
            prop_assert_eq!(world.counted(&counts), world.recount(&counts, &[&a, &b], in_force), "live after a replay");
        }
        world.is_verified(&b);
        world.publish("r", Direction::Undo);
        let counts = world.table("counts").expect("counts");
        prop_assert_eq!(world.counted(&counts), world.recount(&counts, &[&a, &b], live), "never replayed");
        world.is_verified(&b);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn promise_5_a_range_of_ingest_times_moves_rows_between_windows(
        (a, b) in logics(),
        (first, second, after) in (span(), span(), span()),
        (from_second, whole) in (any::<bool>(), any::<bool>()),
        workers in prop::sample::select(vec![1usize, 2]),
        memory_bytes in prop::sample::select(vec![64usize, 64 << 20]),
    ) {
        let b = Logic { time: "at", ..b };
        let mut world = World::new();
        world.live(&a, workers, &first, true);
        let middle = world.now;
        world.live(&a, workers, &second, true);
        world.live(&b, workers, &after, true);
        let counts = world.table("counts").expect("counts");
        let switch = Ledger::of(&counts).newest().map_or(1, |(from, _)| from);
        let job = b.job("");
        let by_event_time = block_on(prepare(&job, &world.root(), request("e", BASE - DAY..BASE, None, 1), 0));
        prop_assert!(by_event_time.is_err_and(|error| error.to_string().contains("--ingest-from")));

        let ingested = if whole {
            BASE - DAY..world.now + DAY
        } else if from_second {
            middle..world.now + DAY
        } else {
            BASE - DAY..middle
        };
        let asked = ReplayRequest { asked: Asked::IngestTimes(ingested.clone()), ..request("i", 0..1, None, 20_000) };
        let prepared = match block_on(prepare(&job, &world.root(), asked, 0)) {
            Ok(prepared) => prepared,
            Err(error) => {
                prop_assert!(!whole && error.to_string().contains("would be lost or counted twice"), "{error}");
                return Ok(());
            }
        };
        let submission = block_on(prepared.submission.submit(&world.root())).expect("submitted");
        let summary = replayed(&world, &b, &submission, workers, memory_bytes);
        let found = world.applied(&counts, &submission, &summary);

        let covered = |from: i64, to: i64| submission.coverage.iter().any(|stretch| stretch.start <= from && to <= stretch.end);
        let in_range = |row: &Row<'_>| {
            let whole = covered(row.window.start, row.window.end);
            row.epoch < switch && covered(row.time, row.time + 1) && (whole || !whole_only(&submission, row))
        };
        let live = |row: &Row<'_>| if row.epoch < switch { &a } else { &b };
        let expected = world.recount(&counts, &[&a, &b], |row| if in_range(row) { &b } else { live(row) });
        prop_assert_eq!(&found, &expected);
        // Nothing is lost or doubled: a row that was ingested outside the range stays where it is, or the range would have been refused.
        for (at, (sent, time)) in &world.sent {
            let Some((epoch, ingested_at)) = world.archived().get(at).copied() else { continue };
            if epoch < switch && !ingested.contains(&ingested_at) {
                let other = time + (sent.other_minutes - sent.minutes) * MINUTE;
                prop_assert!(a.decode(sent).is_none() || !covered(*time, time + 1), "lost");
                prop_assert!(b.decode(sent).is_none() || !covered(other, other + 1), "doubled");
            }
        }
        if whole && submission.whole_only.is_empty() {
            prop_assert_eq!(&found, &world.recount(&counts, &[&b], |_| &b), "B from the start");
        }
        world.publish("i", Direction::Publish);
        world.is_verified(&b);
        world.publish("i", Direction::Undo);
        prop_assert_eq!(world.counted(&world.table("counts").expect("counts")), world.recount(&counts, &[&a, &b], live));
        world.is_verified(&b);
    }
}

/// Older code read lists of proxies and users' names in lines differently, so it may have counted a row for another customer.
#[test]
fn what_older_code_took_out_of_lines_is_not_replayed_for_some_customers() {
    let lines = "format = \"access_log\"\nevent_time = { field = \"time\" }\ncustomer = { field = \"virtual_host\" }";
    let one_site = "format = \"access_log\"\nevent_time = { field = \"time\" }\ncustomer = { constant = \"site\" }";
    let json = "format = \"json\"\nevent_time = { pointer = \"/time\" }\ncustomer = { pointer = \"/customer\" }";
    for (event, counting, customer, is_refused) in [
        (lines, COUNTING - 1, Some("a"), true),
        (lines, COUNTING - 1, None, false),
        (lines, COUNTING, Some("a"), false),
        (one_site, COUNTING - 1, Some("a"), false),
        (json, COUNTING - 1, Some("a"), false),
    ] {
        let text = format!(
            "name = \"lines\"\n[source]\ntopics = [\"script\"]\n[source.kafka]\n\"bootstrap.servers\" = \"none\"\n\
             [tables]\nurl = \"memory://\"\nbuckets = 2\n[event]\n{event}\n[dimensions.total]\ngranularities = [\"minute\"]\n"
        );
        let job = Job::parse(&text, "lines.toml", &|_| None).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let root = Root::on(Arc::new(InMemory::new()));
        let prepared = block_on(async {
            let before = Fingerprint::from_txn(7);
            let kept = serde_json::to_vec(&LogicText { counting, logic: job.logic.clone() }).expect("JSON");
            root.store().put(&Path::from(format!("logic/{before}.json")), kept.into()).await.expect("written");
            for (table, definition) in [("raw", raw::definition()), ("counts", counts::definition(2))] {
                let log = Log::new(&root, table);
                let mut state = log.load_or_create(&definition, 0).await.expect("a table");
                let logics = [("logic/1", before), ("logic/5", Fingerprint::of(&job.logic))];
                let txns = logics.map(|(id, logic)| (id.to_owned(), logic.to_txn())).into();
                let commit = Commit { txns, ..Commit::default() };
                log.commit(&mut state, &commit, "STREAMING UPDATE", 0).await.expect("committed");
            }
            let customers = customer.map(|customer| vec![customer.to_owned()]);
            prepare(&job, &root, request("r", BASE..BASE + HOUR, customers, 1), 0).await
        });
        let said = prepared.err().map(|error| (error.exit(), error.to_string()));
        assert_eq!(said.is_some(), is_refused, "{event}, {counting}: {said:?}");
        if let Some((exit, text)) = said {
            assert!(exit == Exit::Failed && text.contains("omit --customers"), "{text}");
        }
    }
}

/// Invalid requests: each gets a clear error, and nothing is written.
#[test]
fn what_can_not_be_answered_exactly_is_refused() {
    let all: BTreeSet<_> = GRANULARITIES.into();
    let dimensions = BTreeMap::from([("total", ("", all)), ("what", ("action", BTreeSet::from(["hour", "day"])))]);
    let a =
        Logic { time: "time", customer_falls_back: false, leaves_out_pings: false, graces: [20, 60, 300], dimensions };
    let b = Logic { leaves_out_pings: true, ..a.clone() };
    let sent = Sent { customer: Some("a"), name: None, action: "view", country: "DE", minutes: 0, other_minutes: 0 };
    let mut world = World::new();
    world.live(&a, 1, &vec![(vec![sent.clone(); 3], 10)], true);
    let asked =
        |logic: &Logic, request: ReplayRequest| match block_on(prepare(&logic.job(""), &world.root(), request, 0)) {
            Ok(_) => panic!("not refused"),
            Err(error) => (error.exit().code(), error.to_string()),
        };
    let (code, text) = asked(&b, request("r", BASE..BASE, None, 1));
    assert!(code == 2 && text.contains("is not after its start"), "{text}");
    let (code, text) = asked(&b, request("r", Range { start: BASE + HOUR, end: BASE }, None, 1));
    assert!(code == 2 && text.contains("is not after its start"), "{text}");
    let (code, text) = asked(&b, request("r", BASE + 20 * MINUTE..BASE + 90 * MINUTE, None, 1));
    assert!(code == 2 && text.contains("--from 2026-01-30T22:00:00Z --to 2026-01-31T00:00:00Z"), "{text}");
    assert!(text.contains("what can only be recounted in whole hours"), "{text}");
    let named = Logic { customer_falls_back: true, ..a.clone() };
    let (code, text) = asked(&named, request("r", BASE..BASE + HOUR, Some(vec!["a".to_owned()]), 1));
    assert!(code == 1 && text.contains("omit --customers"), "{text}");
    // A preview can be run, but not published.
    let prepared =
        block_on(prepare(&b.job(""), &world.root(), request("r", BASE..BASE + HOUR, None, 1), 0)).expect("a preview");
    assert_eq!(prepared.submission.before, None);

    // The rows that were ingested on the first day are removed.
    let old = world.table("raw").expect("raw");
    world.now += 2 * DAY;
    world.clock.set(world.now);
    world.live(&b, 1, &vec![(vec![sent], 10)], true);
    let log = Log::new(&world.root(), "raw");
    let mut state = world.table("raw").expect("raw");
    let remove = old.files.values().cloned().collect();
    let commit = floodmark::table::Commit { remove, ..Default::default() };
    block_on(log.commit(&mut state, &commit, "DELETE", 0)).expect("removed");
    let asked = |range: Range<i64>| block_on(prepare(&b.job(""), &world.root(), request("r", range, None, 1), 0));
    let error = asked(BASE..BASE + HOUR).err().expect("refused").to_string();
    assert!(error.contains("raw lacks 3 of the 4 rows"), "{error}");
    assert!(error.contains("ingested on 2026-02-01;") && error.contains("begins at 2026-02-02T00:00:00Z"), "{error}");
    let (start, end) = window("day", world.now + DAY);
    asked(start..end).expect("the archive holds it");
    assert_eq!(futures::executor::block_on(floodmark::replay::command::list::list(&world.root())).expect("a list"), []);
}
