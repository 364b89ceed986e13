//! Publishing and undoing a replay beside a live job: exactly once whatever happens meanwhile, in the right order or not at all.
//!
//! The replay itself is artificial: the test writes the files that a replay would leave. The tables are those of a live job, which is
//! running or has stopped; each case ends with a recount. Promise 5 of src/README.md.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use floodmark::dataflow::commit::Request;
use floodmark::ledger::{self, Entry, Fingerprint, Ledger, LogicText, Orders};
use floodmark::model::{Granularity, Lane, bucket_of};
use floodmark::process::{Clock, Exit, HasExit};
use floodmark::replay::PublishError;
use floodmark::replay::ReplayError;
use floodmark::replay::command::list::{ReplayStanding, list};
use floodmark::replay::compare::dataset::{CellFile, Change, DatasetWriter};
use floodmark::replay::compare::summary::{CellChanges, Summary};
use floodmark::replay::discard::discard;
use floodmark::replay::publish::admission::Direction;
use floodmark::replay::publish::publisher::{Published, Publisher};
use floodmark::replay::publish::slices::PublishProgress;
use floodmark::replay::request::prepare::{ReplayRequest, prepare};
use floodmark::replay::request::submission::{Asked, Submission};
use floodmark::table::layout::Layout;
use floodmark::table::store::write_file;
use floodmark::table::{File, Log, Root, State, TableError};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::support::faulty::{Fault, Faulty};
use crate::support::former::{former, relaid};
use crate::support::live::{BASE, CUSTOMERS, DAY, HOUR, MINUTE, Running, SECOND, World, block_on};
use crate::support::rival::{commits, replaced};
use crate::support::tables::{self, Cell};

/// The start of the day on which everything happens.
const TODAY: i64 = BASE - BASE % DAY;
const LARGE: u64 = 1 << 30;
const LOG: &str = "counts/_delta_log/";

/// The runtime of the publishers.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
});

fn counts_log(store: &Arc<InMemory>) -> Log {
    Log::new(&Root::on(Arc::clone(store) as Arc<dyn ObjectStore>), "counts")
}

// ---- a replay, as if it had been computed ----

/// A cell, and its count after the replay.
type Wish = (Cell, i64);

fn cell(granularity: &'static str, customer: &str, dimension: &str, start: i64, value: &str) -> Cell {
    (granularity, customer.to_owned(), dimension.to_owned(), start, value.to_owned())
}

/// A minute, its hour and its day count this many more for one customer.
fn more(world: &World, customer: &str, time: i64, by: i64) -> Vec<Wish> {
    let counted = world.counted();
    [("minute", MINUTE), ("hour", HOUR), ("day", DAY)]
        .into_iter()
        .map(|(granularity, length)| {
            let cell = cell(granularity, customer, "total", time - time.rem_euclid(length), "");
            let now = counted.get(&cell).copied().unwrap_or_default();
            (cell, now + by)
        })
        .collect()
}

/// What most cases publish: a higher count in the open minute, no count any more in another minute, new cells far in the past.
fn wishes(world: &World) -> Vec<Wish> {
    let mut wishes = more(world, CUSTOMERS[0], BASE, 5);
    wishes.extend(more(world, CUSTOMERS[1], BASE - 3 * HOUR, 7).into_iter().take(2));
    for day in [40, 41, 70, 300] {
        for customer in CUSTOMERS {
            for hour in [1, 5] {
                wishes.extend(more(world, customer, TODAY - day * DAY + hour * HOUR, 1).into_iter().take(2));
            }
            wishes.extend(more(world, customer, TODAY - day * DAY, 2).into_iter().skip(2));
        }
    }
    wishes.push((cell("minute", CUSTOMERS[1], "total", BASE - 90 * MINUTE, ""), 0));
    wishes
}

/// A replay `r` that is complete; returns by how much it changes each cell.
fn complete(world: &World) -> BTreeMap<Cell, i64> {
    let wishes = wishes(world);
    let differences = differences(world, &wishes);
    replay(world, &submission(world, "r", 0..BASE + DAY), &wishes);
    differences
}

/// The differences that fulfil the wishes, relative to the present counts; live may add to these meanwhile.
fn differences(world: &World, wishes: &[Wish]) -> BTreeMap<Cell, i64> {
    let counted = world.counted();
    wishes.iter().map(|(cell, new)| (cell.clone(), new - counted.get(cell).copied().unwrap_or_default())).collect()
}

fn expect(world: &mut World, differences: &BTreeMap<Cell, i64>, sign: i64) {
    for (cell, difference) in differences {
        *world.expected.entry(cell.clone()).or_default() += sign * difference;
    }
    world.expected.retain(|_, count| *count != 0);
}

fn submission(world: &World, id: &str, coverage: std::ops::Range<i64>) -> Submission {
    let counts = world.table("counts");
    let (before, logic) = Ledger::of(&counts).newest().expect("live has recorded it");
    Submission {
        id: id.to_owned(),
        job: "protocol".to_owned(),
        submitted_ms: BASE / 1000,
        asked: Asked::EventTimes(coverage.clone()),
        coverage: vec![coverage],
        customers: None,
        logic,
        before: Some(before),
        whole_only: Vec::new(),
        raw_version: world.table("raw").version,
        counts_version: counts.version,
        lanes: Lane::ALL.map(|_| 1),
        order: Orders::of(&counts).newest(),
        chunk_bytes: 1,
    }
}

/// Writes the files that a replay would leave.
fn replay(world: &World, submission: &Submission, wishes: &[Wish]) {
    let root = Root::on(Arc::clone(&world.inner) as Arc<dyn ObjectStore>);
    let counted = world.counted();
    block_on(async {
        submission.clone().submit(&root).await.expect("submitted");
        let summary = dataset(&counted, &root, &submission.id, wishes).await;
        summary.store(&root, &submission.id).await.expect("stored");
    });
}

async fn dataset(counted: &BTreeMap<Cell, i64>, root: &Root, id: &str, wishes: &[Wish]) -> Summary {
    let mut groups: BTreeMap<(Granularity, u16), Vec<Change>> = BTreeMap::new();
    let mut cells = CellChanges::default();
    for (cell, new) in wishes {
        let (granularity, customer, dimension, window_start, value) = cell.clone();
        let granularity: Granularity = granularity.parse().expect("a granularity");
        let bucket = bucket_of(customer.as_bytes(), 2);
        let old = counted.get(cell).copied().unwrap_or_default();
        cells.add(old, *new);
        let cell = floodmark::model::Cell { customer, dimension, window_start, value };
        groups.entry((granularity, bucket)).or_default().push(Change { cell, old, new: *new });
    }
    let mut parts: Vec<CellFile> = Vec::new();
    for ((granularity, bucket), mut changes) in groups {
        changes.sort_by(|a, b| a.cell.cmp(&b.cell));
        let mut writer = DatasetWriter::new(root, id, granularity, bucket);
        for (number, change) in changes.iter().enumerate() {
            writer.push(change).expect("encoded");
            // Several parts, although they are small.
            if number % 3 == 2 {
                writer.store().await.expect("stored");
            }
        }
        parts.extend(writer.finish().await.expect("stored"));
    }
    Summary { cells, parts, ..Summary::default() }
}

// ---- publishing it ----

fn publisher(world: &World, store: &Faulty, id: &str, direction: Direction, budget_bytes: u64) -> Publisher {
    Publisher {
        root: Root::on(Arc::new(store.clone())),
        id: id.to_owned(),
        direction,
        clock: Clock::Manual(world.clock.clone()),
        budget_bytes,
    }
}

fn run(world: &World, id: &str, direction: Direction) -> Result<Published, PublishError> {
    RUNTIME.block_on(publisher(world, &world.store(), id, direction, LARGE).run(|_| {}))
}

fn publish(world: &World, id: &str) -> Published {
    run(world, id, Direction::Publish).expect("published")
}

fn undo(world: &World, id: &str) -> Published {
    run(world, id, Direction::Undo).expect("undone")
}

fn refused(world: &World, id: &str, direction: Direction) -> PublishError {
    let before = (world.table("counts").version, steps(world, "replays/"));
    let error = run(world, id, direction).expect_err("refused");
    assert_eq!((world.table("counts").version, steps(world, "replays/")), before, "nothing was written");
    assert_eq!(error.exit(), Exit::Failed, "{error}");
    error
}

fn steps(world: &World, prefix: &str) -> usize {
    use futures::TryStreamExt;
    let listed: Result<Vec<_>, _> = block_on(world.inner.list(Some(&Path::from(prefix))).try_collect());
    listed.expect("listed").len()
}

/// A publisher that runs in the background.
struct Publishing {
    thread: JoinHandle<Result<Published, PublishError>>,
    progress: Arc<Mutex<PublishProgress>>,
}

fn begin(world: &World, store: &Faulty, id: &str, direction: Direction) -> Publishing {
    let publisher = publisher(world, store, id, direction, 1);
    let progress = Arc::new(Mutex::new(PublishProgress::default()));
    let told = Arc::clone(&progress);
    let thread = std::thread::spawn(move || {
        RUNTIME.block_on(publisher.run(|progress| *told.lock().expect("no panic") = *progress))
    });
    Publishing { thread, progress }
}

impl Publishing {
    fn end(self) -> (Result<Published, PublishError>, PublishProgress) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.thread.is_finished() {
            assert!(Instant::now() < deadline, "hangs");
            std::thread::sleep(Duration::from_millis(1));
        }
        let result = self.thread.join().expect("no panic");
        (result, *self.progress.lock().expect("no panic"))
    }
}

// ---- the tables ----

fn batch(world: &mut World) {
    for minutes_old in [0, 0, 1, 90] {
        CUSTOMERS.iter().for_each(|customer| world.push(customer, minutes_old));
    }
}

/// One more batch, published in both tables.
fn one_epoch(world: &mut World, job: &Running) {
    let epoch = job.progress.epochs().0 + 1;
    batch(world);
    assert!(job.reads(world.pushed()), "reads");
    world.advance(11 * SECOND);
    assert!(job.publishes(epoch), "publishes epoch {epoch}");
}

/// The tables of a job that has stopped.
fn stopped(settings: &str) -> World {
    let mut world = World::new(settings);
    let job = world.start(1, world.store());
    one_epoch(&mut world, &job);
    job.ends_in_order(Request::Stop);
    world.expected = world.counted();
    world
}

/// All versions of `counts`. Checks that each can be read, and that files overlap in none.
fn versions(world: &World) -> Vec<State> {
    let states = tables::versions(&world.inner, world.table("counts").version);
    for state in &states {
        let version = state.version;
        Layout::new(state.files.values(), |_| true).unwrap_or_else(|error| panic!("version {version}: {error}"));
    }
    states
}

fn attempts(world: &World, id: &str) -> Vec<String> {
    let ours = |path: &&String| path.contains(&format!("replay-{id}-")) || path.contains(&format!("undo-{id}-"));
    let counts = world.table("counts");
    let mut attempts: Vec<String> =
        (counts.files.keys().filter(ours)).filter_map(|path| path.rsplit('-').nth(1).map(str::to_owned)).collect();
    attempts.sort();
    attempts.dedup();
    attempts
}

// ---- there and back ----

#[test]
fn published_undone_and_published_again_beside_a_running_job() {
    let mut world = World::new("");
    let job = world.start(2, world.store());
    one_epoch(&mut world, &job);
    let differences = complete(&world);
    one_epoch(&mut world, &job);

    let published = publish(&world, "r");
    assert_eq!((published.order, published.cells, published.already), (1, differences.len() as u64, false));
    assert!(published.files > 10, "{published:?}");
    let again = publish(&world, "r");
    assert_eq!((again.order, again.files, again.already), (1, 0, true));
    assert_eq!(world.table("counts").version, published.version, "nothing was committed");
    expect(&mut world, &differences, 1);
    assert_eq!(world.counted(), world.expected);
    one_epoch(&mut world, &job);
    assert_eq!(world.counted(), world.expected);

    assert_eq!((undo(&world, "r").order, undo(&world, "r").already), (2, true));
    expect(&mut world, &differences, -1);
    assert_eq!(world.counted(), world.expected);
    one_epoch(&mut world, &job);
    assert_eq!(publish(&world, "r").order, 3);
    expect(&mut world, &differences, 1);
    one_epoch(&mut world, &job);
    job.ends_in_order(Request::Stop);
    world.is_exact();
    let states = versions(&world);
    let generation = |state: &State| state.txn(floodmark::table::log::WRITER_GENERATION);
    assert!(states.iter().skip(1).all(|state| generation(state) == 1));
}

/// A job of the build before may run on these tables, and could not read what this one writes.
#[test]
fn tables_of_the_former_layout_are_refused_until_a_job_was_started() {
    let mut world = stopped("");
    let differences = complete(&world);
    RUNTIME.block_on(former(&world.log("counts"), world.now));
    let said = refused(&world, "r", Direction::Publish).to_string();
    assert!(said.contains("floodmark.format = 1") && said.contains("floodmark run"), "{said}");
    world.start(1, world.store()).ends_in_order(Request::Stop);
    publish(&world, "r");
    expect(&mut world, &differences, 1);
    world.is_exact();
}

/// A month of days of the former layout that is open: the publish splits it, and the job beside it goes on in the parts.
#[test]
fn a_publish_splits_an_open_file_of_the_former_layout() {
    let mut world = World::new("");
    let job = world.start(2, world.store());
    one_epoch(&mut world, &job);
    let differences = complete(&world);
    RUNTIME.block_on(relaid(&world.log("counts"), world.now, Granularity::former));
    // The changes of today are in bucket 0.
    let days = |world: &World| {
        let ours = |file: &File| file.partition["granularity"] == "day" && file.partition["bucket"] == "0";
        let files = world.table("counts").files.into_values().filter(ours);
        files.map(|file| file.partition["period"].clone()).collect::<BTreeSet<_>>()
    };
    assert!(days(&world).contains("2026-01"));
    publish(&world, "r");
    expect(&mut world, &differences, 1);
    assert!(!days(&world).contains("2026-01") && days(&world).contains("2026-01-13"), "{:?}", days(&world));
    one_epoch(&mut world, &job);
    undo(&world, "r");
    expect(&mut world, &differences, -1);
    one_epoch(&mut world, &job);
    job.ends_in_order(Request::Stop);
    world.is_exact();
    versions(&world);
}

/// Live keeps committing, and whoever loses the race merges again.
#[test]
fn beside_a_job_that_keeps_committing() {
    let mut world = World::new("");
    let job = world.start(2, world.store());
    one_epoch(&mut world, &job);
    let differences = complete(&world);
    for round in 0..6 {
        let direction = if round % 2 == 0 { Direction::Publish } else { Direction::Undo };
        let publishing = begin(&world, &world.store(), "r", direction);
        while !publishing.thread.is_finished() {
            one_epoch(&mut world, &job);
        }
        publishing.end().0.expect("done");
        expect(&mut world, &differences, if round % 2 == 0 { 1 } else { -1 });
        one_epoch(&mut world, &job);
        assert_eq!(world.counted(), world.expected, "round {round}");
    }
    job.ends_in_order(Request::Stop);
    world.is_exact();
    versions(&world);
}

#[test]
fn the_budget_changes_nothing_but_the_slices() {
    let world = stopped("");
    let wishes = wishes(&world);
    replay(&world, &submission(&world, "r", 0..BASE + DAY), &wishes);
    let mut found = Vec::new();
    for budget_bytes in [0, 121, 1000, LARGE] {
        let store = Faulty::new(Arc::new(world.inner.fork()));
        let (mut slices, mut last) = (0, PublishProgress::default());
        let publisher = publisher(&world, &store, "r", Direction::Publish, budget_bytes);
        let published = RUNTIME.block_on(publisher.run(|progress| {
            slices += 1;
            last = *progress;
        }));
        let published = published.expect("published");
        assert_eq!((last.cells, last.cells_total, last.attempt), (published.cells, published.cells, 1));
        // File names may differ, but not their places and rows.
        let log = Log::new(&publisher.root, "counts");
        let state = block_on(log.load()).expect("readable").expect("a table");
        let places = state.files.values().map(|file| (file.partition.clone(), file.rows, file.stats.clone()));
        let mut places: Vec<_> = places.collect();
        places.sort();
        found.push((slices, places));
    }
    assert!(found.iter().all(|(_, places)| *places == found[0].1));
    // One slice for each granularity and bucket, or at least one for each day (for days: for each month).
    assert_eq!(found.last().map(|(slices, _)| *slices), Some(6));
    assert!(found[0].0 > 20 && found[1].0 >= found[2].0 && found[2].0 > 6, "{:?}", found.iter().map(|it| it.0));
}

/// Weeks, months and years of a dimension for which they are no longer counted can still be removed.
#[test]
fn months_of_a_dimension_that_is_no_longer_counted_are_removed() {
    let mut world =
        stopped("[dimensions.gone]\nfield = \"action\"\ngranularities = [\"day\", \"week\", \"month\", \"year\"]");
    let coarse = |cell: &Cell| matches!(cell.0, "week" | "month" | "year");
    let wishes: Vec<Wish> = world.counted().into_keys().filter(coarse).map(|cell| (cell, 0)).collect();
    assert_eq!(wishes.len(), 12, "two customers, two actions");
    let differences = differences(&world, &wishes);
    replay(&world, &submission(&world, "r", 0..BASE + DAY), &wishes);
    let before = world.expected.clone();
    assert_eq!(publish(&world, "r").files, 0, "no row is left in these files");
    expect(&mut world, &differences, 1);
    assert_eq!(world.counted(), world.expected);
    assert!(!world.counted().keys().any(coarse));
    undo(&world, "r");
    assert_eq!(world.counted(), before);
}

#[test]
fn a_replay_that_changes_nothing_is_on_record_all_the_same() {
    let world = stopped("");
    replay(&world, &submission(&world, "r", 0..BASE), &[]);
    assert_eq!((publish(&world, "r").files, publish(&world, "r").already), (0, true));
    assert!(Orders::of(&world.table("counts")).in_force("r"));
    assert_eq!(world.counted(), world.expected);
}

#[test]
fn a_cell_below_zero_is_refused() {
    let mut world = stopped("");
    let wish = (cell("minute", CUSTOMERS[0], "total", BASE, ""), 0);
    replay(&world, &submission(&world, "r", 0..BASE + DAY), std::slice::from_ref(&wish));
    let other = (cell("minute", CUSTOMERS[0], "total", BASE, ""), 1);
    let mut second = submission(&world, "other", 0..BASE + DAY);
    // A false coverage, so that it is not refused as overtaken.
    second.coverage[0] = BASE + 2 * DAY..BASE + 3 * DAY;
    replay(&world, &second, &[other]);
    publish(&world, "other");
    world.expected = world.counted();
    let error = refused(&world, "r2", Direction::Publish);
    assert!(matches!(error, PublishError::Unknown(_)));
    let before = world.table("counts").version;
    let error = run(&world, "r", Direction::Publish).expect_err("below zero");
    let said = error.to_string();
    assert!(said.contains("would fall to -") && said.contains("floodmark verify"), "{said}");
    assert_eq!((world.table("counts").version, world.counted()), (before, world.expected.clone()));
}

// ---- kills ----

/// A process that is frozen at a step counts as dead. The same command is run again; then the first process wakes up.
fn killed(fault: fn() -> Fault) {
    let mut world = stopped("");
    let differences = complete(&world);
    for direction in [Direction::Publish, Direction::Undo] {
        let start = Arc::clone(&world.inner);
        let undisturbed = Faulty::new(Arc::new(start.fork()));
        RUNTIME.block_on(publisher(&world, &undisturbed, "r", direction, 1).run(|_| {})).expect("done");
        let steps = undisturbed.steps();
        assert!(steps.len() > 4, "{steps:?}");
        let place = |part: &str| steps.iter().position(|step| step.contains(part));
        match direction {
            Direction::Publish => assert!(place("replays/r/entry.json") < place(LOG), "{steps:?}"),
            Direction::Undo => assert_eq!(place("replays/"), None, "the entry is there"),
        }
        assert_eq!(place(LOG), Some(steps.len() - 1), "the commit is the last step");
        expect(&mut world, &differences, if direction == Direction::Publish { 1 } else { -1 });
        for step in 1..=steps.len() {
            world.inner = Arc::new(start.fork());
            let store = world.store();
            store.at(step, fault());
            let zombie = begin(&world, &store, "r", direction);
            let deadline = Instant::now() + Duration::from_secs(60);
            while !store.frozen() {
                assert!(Instant::now() < deadline && !zombie.thread.is_finished(), "step {step} did not come");
                std::thread::sleep(Duration::from_millis(1));
            }
            let second = run(&world, "r", direction).unwrap_or_else(|error| panic!("step {step}: {error}"));
            assert_eq!(world.counted(), world.expected, "step {step}");
            store.thaw();
            let (first, _) = zombie.end();
            let first = first.unwrap_or_else(|error| panic!("step {step}: {error}"));
            assert_eq!(world.counted(), world.expected, "step {step}, after the zombie");
            assert_eq!(first.order, second.order);
            assert_eq!(world.table("counts").version, counts_log_version(&start) + 1, "step {step}: one commit");
            if step < steps.len() {
                assert!(!second.already && first.already, "step {step}");
            }
        }
    }
}

fn counts_log_version(store: &Arc<InMemory>) -> u64 {
    block_on(counts_log(store).load()).expect("readable").expect("a table").version
}

#[test]
fn killed_before_every_step() {
    killed(|| Fault::FreezeBefore);
}

#[test]
fn killed_after_every_step() {
    killed(|| Fault::FreezeAfter);
}

#[test]
fn a_lost_reply_or_an_outage_at_every_step() {
    let mut world = stopped("");
    let differences = complete(&world);
    let start = Arc::clone(&world.inner);
    expect(&mut world, &differences, 1);
    let mut step = 0;
    let mut came = true;
    while came {
        step += 1;
        for fault in [Fault::ReplyLost, Fault::Outage { calls: 2, reads: false }] {
            world.inner = Arc::new(start.fork());
            let store = world.store();
            store.at(step, fault);
            let publisher = publisher(&world, &store, "r", Direction::Publish, LARGE);
            let published = RUNTIME.block_on(publisher.run(|_| {})).expect("done");
            assert!(!published.already, "step {step}");
            assert_eq!(world.counted(), world.expected, "step {step}");
            came = store.done();
        }
    }
    assert!(step > 10);
}

// ---- races ----

/// Lets the test's own thread do something in the middle of a step of the publisher.
struct Stage {
    calls: mpsc::UnboundedSender<tokio::sync::oneshot::Sender<()>>,
    called: mpsc::UnboundedReceiver<tokio::sync::oneshot::Sender<()>>,
}

impl Stage {
    fn new() -> Stage {
        let (calls, called) = mpsc::unbounded_channel();
        Stage { calls, called }
    }

    fn fault(&self) -> Fault {
        let calls = self.calls.clone();
        Fault::rival(async move {
            let (done, is_done) = tokio::sync::oneshot::channel();
            calls.send(done).expect("the test waits");
            is_done.await.expect("the test answers");
        })
    }

    /// Runs `play` at every call until the publisher has ended, with the number of the call.
    fn play(
        mut self,
        publishing: Publishing,
        mut play: impl FnMut(usize),
    ) -> (Result<Published, PublishError>, PublishProgress) {
        let mut number = 0;
        let deadline = Instant::now() + Duration::from_secs(60);
        while !publishing.thread.is_finished() {
            assert!(Instant::now() < deadline, "hangs");
            if let Ok(done) = self.called.try_recv() {
                number += 1;
                play(number);
                done.send(()).expect("the publisher waits");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        publishing.end()
    }
}

#[test]
fn live_commits_in_between_at_every_step() {
    let mut step = 0;
    let mut came = true;
    while came {
        step += 1;
        let mut world = World::new("");
        let job = world.start(1, world.store());
        one_epoch(&mut world, &job);
        let differences = complete(&world);
        came = false;
        for (direction, sign) in [(Direction::Publish, 1), (Direction::Undo, -1)] {
            let stage = Stage::new();
            let store = world.store();
            store.at(step, stage.fault());
            let publishing = begin(&world, &store, "r", direction);
            let (result, progress) = stage.play(publishing, |_| one_epoch(&mut world, &job));
            result.unwrap_or_else(|error| panic!("step {step}: {error}"));
            came |= store.done();
            // Live changes the same minute, hour and day.
            assert_eq!(progress.attempt, if store.done() { 2 } else { 1 }, "step {step}, {direction:?}");
            expect(&mut world, &differences, sign);
            assert_eq!(world.counted(), world.expected, "step {step}, {direction:?}");
        }
        one_epoch(&mut world, &job);
        job.ends_in_order(Request::Stop);
        world.is_exact();
        versions(&world);
    }
    assert!(step > 10);
}

/// Only what has lost its base is merged again.
#[test]
fn a_rival_that_replaces_half_of_the_bases() {
    let mut world = stopped("");
    let differences = complete(&world);
    let store = world.store();
    store.on(LOG, Fault::rival(replaced(world.log("counts"), "0")));
    let (result, progress) = begin(&world, &store, "r", Direction::Publish).end();
    result.expect("published");
    assert_eq!(progress.attempt, 2);
    assert_eq!(attempts(&world, "r"), ["a1", "a2"]);
    let again = |bucket: &str| {
        let counts = world.table("counts");
        counts.files.keys().filter(|path| path.contains(&format!("bucket={bucket}/")) && path.contains("-a2-")).count()
    };
    // Bucket 0: the minute, the hour and the day. The new files of the past keep their base.
    assert_eq!((again("0"), again("1")), (3, 0));
    expect(&mut world, &differences, 1);
    assert_eq!(world.counted(), world.expected);
}

/// Live seals the files that we have merged into, so that the home of a cell is inside another file.
#[test]
fn live_seals_between_staging_and_commit() {
    for (before, meanwhile, sealed) in [(0, 3 * HOUR, "2026-01-13T12"), (8 * HOUR, 11 * HOUR, "2026-01-13")] {
        let mut world = World::new("");
        let job = world.start(2, world.store());
        one_epoch(&mut world, &job);
        world.advance(before + 2 * MINUTE);
        assert!(job.publishes(2));
        // Minutes of an hour that are not in one file yet.
        CUSTOMERS.iter().for_each(|customer| world.push(customer, -1));
        one_epoch(&mut world, &job);
        let differences = complete(&world);
        let is_sealed = |world: &World| {
            let place = format!("granularity=minute/period={sealed}/");
            world.table("counts").files.keys().any(|path| path.contains(&place))
        };
        let stage = Stage::new();
        let store = world.store();
        store.on(LOG, stage.fault());
        let publishing = begin(&world, &store, "r", Direction::Publish);
        let (result, progress) = stage.play(publishing, |_| {
            assert!(!is_sealed(&world));
            let epoch = job.progress.epochs().0;
            world.advance(meanwhile);
            assert!(job.publishes(epoch + 1));
            // The first epoch that is opened now seals what is old.
            one_epoch(&mut world, &job);
            assert!(is_sealed(&world), "{sealed}: {:?}", world.table("counts").files.keys());
        });
        result.expect("published");
        assert_eq!(progress.attempt, 2);
        expect(&mut world, &differences, 1);
        assert_eq!(world.counted(), world.expected);
        let epoch = job.progress.epochs().0;
        world.advance(61 * SECOND);
        assert!(job.publishes(epoch + 1));
        job.ends_in_order(Request::Stop);
        world.is_exact();
        versions(&world);
    }
}

// ---- turns ----

#[test]
fn who_keeps_losing_gets_a_turn() {
    let mut world = World::new("");
    let job = world.start(2, world.store());
    one_epoch(&mut world, &job);
    let differences = complete(&world);
    let stage = Stage::new();
    let store = world.store();
    // Three commits that are too late, the request itself, and the commit for which it is.
    for _ in 0..5 {
        store.on(LOG, stage.fault());
    }
    let publishing = begin(&world, &store, "r", Direction::Publish);
    let mut asked_at = 0;
    let (result, progress) = stage.play(publishing, |call| match call {
        1..=3 => one_epoch(&mut world, &job),
        4 => assert_eq!(world.table("counts").txn(&ledger::turn_txn("r")), 0),
        _ => {
            asked_at = world.table("counts").version;
            assert_eq!(world.table("counts").txn(&ledger::turn_txn("r")), 1);
            // Live has something to commit, sees the request, and lets the publisher go first.
            batch(&mut world);
            assert!(job.reads(world.pushed()));
            world.advance(11 * SECOND);
            std::thread::sleep(Duration::from_millis(1000));
            assert_eq!(world.table("counts").version, asked_at, "live waits");
        }
    });
    let published = result.expect("published");
    assert_eq!((progress.attempt, published.version), (4, asked_at + 1));
    expect(&mut world, &differences, 1);
    let epoch = job.progress.epochs().0;
    assert!(job.publishes(epoch), "and goes on");
    one_epoch(&mut world, &job);
    job.ends_in_order(Request::Stop);
    world.is_exact();
    assert!(store.done());
}

/// A publisher that asks and then dies does not delay live for long, and only once.
#[test]
fn a_turn_that_is_not_taken_is_over_after_a_while() {
    let mut world = World::new("");
    let job = world.start(1, world.store());
    one_epoch(&mut world, &job);
    block_on(commits(world.log("counts"), |commit| commit.txns.push((ledger::turn_txn("gone"), 1))));
    let asked = Instant::now();
    one_epoch(&mut world, &job);
    assert!(asked.elapsed() > Duration::from_secs(9), "{:?}", asked.elapsed());
    block_on(commits(world.log("counts"), |commit| commit.txns.push(("maintenance".to_owned(), 1))));
    let other = Instant::now();
    one_epoch(&mut world, &job);
    assert!(other.elapsed() < Duration::from_secs(9), "it waited again");
    job.ends_in_order(Request::Stop);
    // A start does not wait for it either.
    let second = world.start(1, world.store());
    second.ends_in_order(Request::Drain);
    assert!(other.elapsed() < Duration::from_secs(9), "it waited again");
    world.is_exact();
}

// ---- refusals ----

#[test]
fn what_is_not_ready_is_refused() {
    let world = stopped("");
    let wishes = wishes(&world);
    let said = refused(&world, "nothing", Direction::Publish).to_string();
    assert!(said.contains("\"nothing\"") && said.contains("floodmark replay list"), "{said}");

    let running = submission(&world, "running", 0..BASE);
    block_on(running.submit(&Root::on(Arc::clone(&world.inner) as Arc<dyn ObjectStore>))).expect("submitted");
    assert!(matches!(refused(&world, "running", Direction::Publish), PublishError::Incomplete(_)));

    replay(&world, &Submission { before: None, ..submission(&world, "preview", 0..BASE) }, &wishes);
    let error = refused(&world, "preview", Direction::Publish);
    assert!(matches!(error, PublishError::Preview { .. }), "{error}");

    replay(&world, &submission(&world, "r", 0..BASE + DAY), &wishes);
    assert!(matches!(refused(&world, "r", Direction::Undo), PublishError::NotPublished(_)));

    let other = Submission { logic: Fingerprint::from_txn(7), ..submission(&world, "other", 0..BASE) };
    replay(&world, &other, &wishes);
    let error = refused(&world, "other", Direction::Publish);
    assert!(matches!(error, PublishError::LogicChanged { .. }), "{error}");
    publish(&world, "r");
    // Live counts with another logic since then: what was published can be undone, but not published again.
    let newer = (ledger::logic_txn(9), 7);
    block_on(commits(world.log("counts"), |commit| commit.txns.push(newer)));
    undo(&world, "r");
    let error = refused(&world, "r", Direction::Publish);
    assert!(matches!(&error, PublishError::LogicChanged { before: 1, .. }), "{error}");
    assert!(error.to_string().contains("0000000000000007, from epoch 9 on"), "{error}");
    assert_eq!(world.counted(), world.expected);
}

#[test]
fn no_tables_are_a_matter_of_configuration() {
    let world = World::new("");
    let error = run(&world, "r", Direction::Publish).expect_err("refused");
    assert!(
        matches!(&error, PublishError::Table(TableError::Invalid(_))) && error.exit() == Exit::Configuration,
        "{error}"
    );
}

#[test]
fn of_overlapping_replays_the_newest_goes_first() {
    let mut world = stopped("");
    let before = world.expected.clone();
    let first = more(&world, CUSTOMERS[0], BASE, 5);
    replay(&world, &submission(&world, "first", TODAY..TODAY + DAY), &first);
    replay(&world, &submission(&world, "rival", TODAY..BASE), &first);
    let elsewhere = more(&world, CUSTOMERS[0], BASE - 30 * DAY, 5);
    replay(&world, &submission(&world, "elsewhere", TODAY - 40 * DAY..TODAY), &elsewhere);
    let customers = Some(vec!["somebody".to_owned()]);
    replay(&world, &Submission { customers, ..submission(&world, "customers", TODAY..BASE) }, &[]);
    assert_eq!(publish(&world, "first").order, 1);
    let error = refused(&world, "rival", Direction::Publish);
    assert!(matches!(&error, PublishError::Overtaken { other, .. } if other == "first"), "{error}");
    assert_eq!(publish(&world, "elsewhere").order, 2);

    let second = more(&world, CUSTOMERS[0], BASE, -2);
    replay(&world, &submission(&world, "second", TODAY..BASE + HOUR), &second);
    assert_eq!(publish(&world, "second").order, 3);
    let error = refused(&world, "first", Direction::Undo);
    assert!(matches!(&error, PublishError::UndoFirst { other, .. } if other == "second"), "{error}");
    assert!(error.to_string().contains("floodmark replay undo second"), "{error}");
    // An undo after the submission overtakes a replay as well: it changes the cells that were compared.
    assert_eq!(undo(&world, "second").order, 4);
    assert_eq!(undo(&world, "first").order, 5);
    let error = refused(&world, "second", Direction::Publish);
    assert!(matches!(&error, PublishError::Overtaken { other, .. } if other == "first"), "{error}");
    let error = refused(&world, "customers", Direction::Publish);
    assert!(matches!(&error, PublishError::Overtaken { .. }), "{error}");
    assert_eq!(undo(&world, "elsewhere").order, 6);
    assert_eq!(world.counted(), before);
    // A replay that was compared with the present counts may be published.
    replay(&world, &submission(&world, "third", TODAY..BASE + HOUR), &more(&world, CUSTOMERS[0], BASE, 1));
    assert_eq!(publish(&world, "third").order, 7);
    world.expected = world.counted();
    assert_ne!(world.expected, before);
}

/// Its code is gone, but it read the event time as ours does. If it had found it elsewhere, it would not be known which windows it touched.
#[test]
fn a_published_replay_of_other_code_bars_no_range_of_ingest_times() {
    let world = stopped("");
    replay(&world, &submission(&world, "r", TODAY..TODAY + DAY), &more(&world, CUSTOMERS[0], BASE, 5));
    publish(&world, "r");
    let root = Root::on(Arc::clone(&world.inner) as Arc<dyn ObjectStore>);
    let logic = Fingerprint::from_txn(7);
    let entry = block_on(ledger::entries(&root, &world.table("counts"))).expect("readable").remove(0);
    block_on(Entry { logic, ..entry }.store(&root)).expect("stored");
    let prepared = |elsewhere: &[&str]| {
        let mut text = serde_json::to_value(LogicText::of(&world.job().logic)).expect("JSON");
        text["counting"] = 1.into();
        elsewhere.iter().for_each(|pointer| text["logic"]["event_time"] = serde_json::json!([{"pointer": [pointer]}]));
        let path = format!("logic/{logic}.json");
        block_on(write_file(root.store().as_ref(), &path, text.to_string().into())).expect("written");
        let asked = Asked::IngestTimes(TODAY..TODAY + DAY);
        let request = ReplayRequest { id: "i".to_owned(), asked, customers: None, chunk_bytes: 1 };
        RUNTIME.block_on(prepare(&world.job(), &root, request, BASE / 1000))
    };
    let same = prepared(&[]).map(|prepared| prepared.submission.coverage).expect("prepared");
    assert!(!same.is_empty());
    let error = prepared(&["elsewhere"]).map(|prepared| prepared.submission).expect_err("refused");
    assert!(matches!(error, ReplayError::LogicGone { fingerprint, .. } if fingerprint == logic), "{error}");
}

/// The refusals also apply at the last moment.
#[test]
fn a_replay_that_is_overtaken_while_it_is_staged_is_refused() {
    let mut world = stopped("");
    let wish = more(&world, CUSTOMERS[0], BASE, 5);
    let differences = differences(&world, &wish);
    for id in ["fast", "slow"] {
        replay(&world, &submission(&world, id, TODAY..TODAY + DAY), &wish);
    }
    let stage = Stage::new();
    let store = world.store();
    store.on(LOG, stage.fault());
    let publishing = begin(&world, &store, "slow", Direction::Publish);
    let (result, _) = stage.play(publishing, |_| drop(publish(&world, "fast")));
    assert!(matches!(&result, Err(PublishError::Overtaken { other, .. }) if other == "fast"), "{result:?}");
    expect(&mut world, &differences, 1);
    assert_eq!(world.counted(), world.expected);
}

#[test]
fn staging_that_takes_longer_than_orphans_live_is_refused() {
    let mut world = stopped("");
    replay(&world, &submission(&world, "r", TODAY..TODAY + DAY), &more(&world, CUSTOMERS[0], BASE, 5));
    let publisher = publisher(&world, &world.store(), "r", Direction::Publish, LARGE);
    let began = world.now;
    let result = RUNTIME.block_on(publisher.run(|_| world.advance(began + 13 * HOUR - world.now)));
    assert!(matches!(&result, Err(PublishError::TooSlow { hours: 13, keep_hours: 24, .. })), "{result:?}");
    assert_eq!(world.counted(), world.expected);
}

// ---- list, discard ----

#[test]
fn replays_are_listed_and_discarded() {
    let mut world = stopped("");
    let root = Root::on(Arc::clone(&world.inner) as Arc<dyn ObjectStore>);
    let standing = |world: &World| {
        let root = Root::on(Arc::clone(&world.inner) as Arc<dyn ObjectStore>);
        let listed = block_on(list(&root)).expect("listed");
        listed
            .into_iter()
            .map(|it| (it.submission.id, it.standing, it.cells.map(|cells| cells.total())))
            .collect::<Vec<_>>()
    };
    assert_eq!(standing(&world), []);
    block_on(submission(&world, "a", 0..BASE).submit(&root)).expect("submitted");
    for (id, from) in [("b", 2), ("c", 1), ("d", 3)] {
        let wish = more(&world, CUSTOMERS[0], TODAY - from * DAY, 1);
        let coverage = TODAY - from * DAY..TODAY - (from - 1) * DAY;
        let submitted_ms = BASE / 1000 - from;
        replay(&world, &Submission { submitted_ms, ..submission(&world, id, coverage) }, &wish);
    }
    publish(&world, "b");
    world.expected = world.counted();
    publish(&world, "c");
    undo(&world, "c");
    let b = ("b".to_owned(), ReplayStanding::Published(1), Some(3));
    let c = ("c".to_owned(), ReplayStanding::Undone(3), Some(3));
    let d = ("d".to_owned(), ReplayStanding::Complete, Some(3));
    assert_eq!(standing(&world), [d, b.clone(), c, ("a".to_owned(), ReplayStanding::Running, None)]);

    let discards = |id: &str| block_on(discard(&root, id));
    assert!(matches!(discards("nothing"), Err(PublishError::Unknown(_))));
    assert!(matches!(discards("b"), Err(PublishError::InForce(_))));
    assert!(["a", "c", "d"].into_iter().all(|id| discards(id).expect("discarded") > 0));
    assert_eq!(standing(&world), [b]);
    assert_eq!(steps(&world, "replays/a") + steps(&world, "replays/d"), 0);
    assert_eq!(steps(&world, "replays/c"), 1, "what others are compared with stays");
    assert!(block_on(Entry::load(&root, "c")).is_ok());
    // The same id again is not the same replay.
    let second = submission(&world, "c", TODAY - 9 * DAY..TODAY - 8 * DAY);
    replay(&world, &second, &more(&world, CUSTOMERS[0], TODAY - 9 * DAY, 1));
    assert!(matches!(refused(&world, "c", Direction::Publish), PublishError::Reused(_)));
    undo(&world, "b");
    assert!(discards("b").is_ok());
}
