//! The live job on a store that fails on cue: crashes, lost replies, outages, rivals and zombies. Each is a named case, and each ends with
//! a recount of the final tables. (`oracle.rs` recounts every version of randomly generated runs.)
//!
//! Promises of src/README.md shown here: 2 (the tables are the state), 4 (nothing is lost) and 6 (one writer wins).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::{Int64Array, StringArray, TimestampMicrosecondArray};
use floodmark::dataflow::commit::Request;
use floodmark::dataflow::error::CommitError;
use floodmark::job::COUNTING;
use floodmark::ledger::{self, Fingerprint, Known, Ledger, LogicText};
use floodmark::live::LiveError;
use floodmark::model::{Granularity, Lane, Period, Segment};
use floodmark::process::{Exit, HasExit};
use floodmark::source::script::Script;
use floodmark::table::counts;
use floodmark::table::log::WRITER_GENERATION;
use floodmark::table::segment::{Columns, SegmentWriter};
use floodmark::table::store::write_file;
use floodmark::table::{Commit, File, Log, Root, TableError, raw};
use floodmark::verify::{Options, Verdict, verify};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::support::faulty::Fault;
use crate::support::live::{BASE, CUSTOMERS, MINUTE, PATIENCE, Running, SECOND, World, block_on};
use crate::support::rival::{commits, replaced};

/// How long nothing may happen, for us to conclude that it never will.
const LULL: Duration = Duration::from_millis(150);

/// Two batches that overlap in every segment, one epoch each. Returns false if the process froze or ended meanwhile; the batches are sent
/// in any case.
fn two_epochs(world: &mut World, job: &Running) -> bool {
    let mut goes_on = true;
    for epoch in 1..=2 {
        batch(world);
        goes_on = goes_on && job.reads(world.pushed());
        if goes_on {
            world.advance(11 * SECOND);
            goes_on = job.publishes(epoch);
        }
    }
    goes_on
}

fn batch(world: &mut World) {
    for minutes_old in [0, 0, 1, 90] {
        CUSTOMERS.iter().for_each(|customer| world.push(customer, minutes_old));
    }
    world.push_garbage();
}

/// One more batch and epoch, published.
fn one_epoch(world: &mut World, job: &Running) {
    let epoch = job.progress.epochs().0 + 1;
    let before = (world.pushed(), job.progress.read.load(Ordering::Relaxed));
    batch(world);
    // What another copy has read before does not count for this one.
    assert!(job.reads(before.1 + world.pushed() - before.0), "reads");
    world.advance(11 * SECOND);
    assert!(job.publishes(epoch), "publishes epoch {epoch}");
}

/// The paths of all steps of two epochs and a stop, without faults. The stop closes a third epoch, which is empty.
fn undisturbed(workers: usize) -> Vec<String> {
    let mut world = World::new("");
    let job = world.start(workers, world.store());
    assert!(two_epochs(&mut world, &job));
    let store = job.store.clone();
    job.ends_in_order(Request::Stop);
    world.is_exact();
    store.steps()
}

fn code(result: &Result<(), LiveError>) -> u8 {
    result.as_ref().map_or_else(|error| error.exit().code(), |()| 0)
}

/// The log entry of a version. Version 0 makes a table and version 1 fences it; in `counts`, version 2 records the logic. So epoch 1 is
/// version 2 of `raw` and version 3 of `counts`.
fn entry(table: &str, version: u64) -> String {
    format!("{table}/_delta_log/{version:020}.json")
}

fn generation(generation: i64) -> impl FnOnce(&mut Commit) {
    move |commit| commit.txns.push((WRITER_GENERATION.to_owned(), generation))
}

// ---- every step, one after the other ----

/// A frozen process is dead for everyone else until it wakes up: another copy takes over and is exact. Then the first one wakes up as a
/// zombie in the middle of its step, and changes nothing.
fn another_takes_over(workers: usize, fault: fn() -> Fault, after: bool) {
    let steps = undisturbed(workers);
    for step in 1..=steps.len() {
        let mut world = World::new("");
        let store = world.store();
        store.at(step, fault());
        let zombie = world.start(workers, store.clone());
        if two_epochs(&mut world, &zombie) {
            zombie.request(Request::Stop);
            assert!(zombie.freezes(), "step {step} did not come");
        }
        assert!(store.frozen(), "step {step}: the job ended");

        let second = world.start(3 - workers, world.store());
        second.ends_in_order(Request::Drain);
        world.is_exact();
        let generation = world.table("raw").txn(WRITER_GENERATION);

        zombie.request(Request::Stop);
        store.thaw();
        let result = zombie.end();
        world.is_exact();
        let taken = world.table("raw").txn(WRITER_GENERATION);
        if taken == generation {
            // Its last commit had succeeded, so there was nothing left that could have been refused.
            let last = after && step == steps.len();
            assert_eq!(code(&result), if last { 0 } else { 76 }, "step {step}, {}: {result:?}", steps[step - 1]);
        } else {
            // It was frozen before it was fenced in, so it is the newest writer, and continues in order.
            assert!(step <= 3, "step {step}, {}: generation {taken}", steps[step - 1]);
            result.unwrap_or_else(|error| panic!("step {step}: {error}"));
        }
    }
}

#[test]
fn crash_before_every_step_then_a_fresh_start_then_the_zombie_wakes() {
    another_takes_over(1, || Fault::FreezeBefore, false);
}

#[test]
fn crash_after_every_step_then_a_fresh_start_then_the_zombie_wakes() {
    another_takes_over(2, || Fault::FreezeAfter, true);
}

/// The same run continues despite the fault, and is exact.
fn goes_on(workers: usize, fault: fn() -> Fault) {
    for step in 1..=undisturbed(workers).len() {
        let mut world = World::new("");
        let store = world.store();
        store.at(step, fault());
        let job = world.start(workers, store.clone());
        assert!(two_epochs(&mut world, &job), "step {step}: {:?}", job.end());
        job.request(Request::Stop);
        job.end().unwrap_or_else(|error| panic!("step {step}: {error}"));
        assert!(store.done(), "step {step} did not come");
        world.is_exact();
        let raw = world.table("raw");
        assert_eq!((raw.txn(WRITER_GENERATION), raw.txn(raw::EPOCH)), (1, 3), "step {step}");
    }
}

#[test]
fn a_lost_reply_at_every_step() {
    goes_on(2, || Fault::ReplyLost);
}

#[test]
fn an_outage_of_writing_at_every_step() {
    goes_on(1, || Fault::Outage { calls: 3, reads: false });
}

/// From the first epoch on. Before that, during the start, an error is right, since nothing runs yet.
#[test]
fn an_outage_of_everything_at_every_step() {
    let steps = undisturbed(2);
    for step in 1..=steps.len() {
        let mut world = World::new("");
        let store = world.store();
        store.at(step, Fault::Outage { calls: 4, reads: true });
        let job = world.start(2, store.clone());
        let result = if two_epochs(&mut world, &job) {
            job.request(Request::Stop);
            job.end()
        } else {
            job.end()
        };
        // The steps for tables, fences, the text of the logic, and its commit.
        if step <= 6 && result.is_err() {
            assert_eq!(code(&result), 75, "step {step}: {result:?}");
            continue;
        }
        result.unwrap_or_else(|error| panic!("step {step}, {}: {error}", steps[step - 1]));
        world.is_exact();
    }
}

/// `raw` continues while a file of `counts` is being written; what no lane has absorbed is fed again at the next start.
#[test]
fn counts_many_epochs_behind_raw_is_fed_from_the_archive() {
    let mut world = World::new("");
    let store = world.store();
    store.on("counts/granularity=", Fault::Delay(Duration::from_secs(3600)));
    let job = world.start(2, store.clone());
    for epoch in 1..=5 {
        batch(&mut world);
        assert!(job.reads(world.pushed()));
        world.advance(11 * SECOND);
        assert!(job.reaches("archiving", |progress| progress.epochs().0 >= epoch));
    }
    store.kill();
    world.advance(61 * SECOND);
    job.end().expect_err("denied");
    assert_eq!(world.table("counts").txn(&counts::lane_txn(Lane::Minute)), 0);
    // The feed itself is cut short once, at its first file of `counts`.
    let store = world.store();
    store.on("counts/granularity=", Fault::FreezeBefore);
    let second = world.start(1, store.clone());
    second.request(Request::Drain);
    assert!(second.freezes());
    store.kill();
    second.end().expect_err("denied");

    batch(&mut world);
    let third = world.start(2, world.store());
    third.ends_in_order(Request::Drain);
    world.is_exact();
}

/// Makes epochs of one record each that are only in `raw`; then the process is dead.
fn only_archived(world: &mut World, epochs: u64, bytes: usize) {
    let store = world.store();
    store.on("counts/granularity=", Fault::Delay(Duration::from_secs(3600)));
    let job = world.start(1, store.clone());
    for epoch in 1..=epochs {
        world.push_padded(CUSTOMERS[epoch as usize % 2], epoch as i64, bytes);
        assert!(job.reads(world.pushed()));
        world.advance(11 * SECOND);
        assert!(job.reaches("archiving", |progress| progress.epochs().0 >= epoch));
    }
    store.kill();
    world.advance(61 * SECOND);
    job.end().expect_err("denied");
    assert_eq!(world.table("counts").txn(&counts::lane_txn(Lane::Minute)), 0);
}

/// Fed bytes count like bytes that were read: an epoch is closed by the sum of both.
#[test]
fn feeding_from_the_archive_closes_epochs_by_bytes() {
    const EPOCHS: u64 = 30;
    // Each file fills an epoch alone, or two of them do. The clock does not move, so nothing else closes an epoch.
    for (bytes, files) in [(11_000, 1), (6000, 2)] {
        let mut world = World::new("");
        only_archived(&mut world, EPOCHS, bytes);
        world.set("epoch_bytes = 10000");
        let job = world.start(1, world.store());
        assert!(job.publishes(EPOCHS + EPOCHS / files), "an epoch for {files} files");
        assert_eq!(job.progress.fed.load(Ordering::Relaxed), EPOCHS);
        batch(&mut world);
        assert!(job.reads(9), "Kafka is read on");
        job.ends_in_order(Request::Stop);
        world.is_exact();
    }
}

// ---- rivals ----

/// The attempts of an epoch from which the live files of `counts` come.
fn attempts(world: &World, epoch: u64) -> Vec<String> {
    attempts_in(world, epoch, "")
}

/// The same for a bucket: only what has lost its base is merged again.
fn attempts_in(world: &World, epoch: u64, bucket: &str) -> Vec<String> {
    let mut attempts: Vec<String> = (world.table("counts").files.keys())
        .filter(|path| path.contains(&format!("bucket={bucket}")))
        .filter(|path| path.contains(&format!("e{epoch:012}")))
        .filter_map(|path| path.strip_suffix(".parquet")?.rsplit('-').next().map(str::to_owned))
        .collect();
    attempts.sort();
    attempts.dedup();
    attempts
}

#[test]
fn a_rival_that_replaces_our_base_makes_us_merge_again() {
    let mut world = World::new("");
    let store = world.store();
    store.on(&entry("counts", 4), Fault::rival(replaced(world.log("counts"), "0")));
    let job = world.start(2, store.clone());
    assert!(two_epochs(&mut world, &job), "{:?}", job.end());
    assert_eq!(
        (attempts_in(&world, 2, "0"), attempts_in(&world, 2, "1")),
        (vec!["a2".to_owned()], vec!["a1".to_owned()])
    );
    one_epoch(&mut world, &job);
    assert_eq!(attempts(&world, 3), ["a1"], "and then goes on as before");
    job.ends_in_order(Request::Stop);
    assert!(store.done());
    world.is_exact();
}

#[test]
fn a_rival_that_replaces_our_base_again_and_again() {
    let mut world = World::new("");
    let store = world.store();
    for version in 4..7 {
        store.on(&entry("counts", version), Fault::rival(replaced(world.log("counts"), "1")));
    }
    let job = world.start(1, store.clone());
    assert!(two_epochs(&mut world, &job), "{:?}", job.end());
    assert_eq!(
        (attempts_in(&world, 2, "0"), attempts_in(&world, 2, "1")),
        (vec!["a1".to_owned()], vec!["a4".to_owned()])
    );
    job.ends_in_order(Request::Stop);
    world.is_exact();
}

/// The same if the reply to our own commit was lost just before: the commit had succeeded, so the rival's commit follows it.
#[test]
fn a_rival_after_our_commit_whose_reply_was_lost() {
    let mut world = World::new("");
    let store = world.store();
    store.on(&entry("counts", 4), Fault::ReplyLost);
    store.on(&entry("counts", 4), Fault::rival(replaced(world.log("counts"), "0")));
    let job = world.start(2, store.clone());
    assert!(two_epochs(&mut world, &job), "{:?}", job.end());
    assert!(store.done());
    assert_eq!(attempts(&world, 2), ["a1", "compacted"]);
    // Our next commit loses against it, and is merged again with what it left.
    one_epoch(&mut world, &job);
    assert_eq!(
        (attempts_in(&world, 3, "0"), attempts_in(&world, 3, "1")),
        (vec!["a2".to_owned()], vec!["a1".to_owned()])
    );
    job.ends_in_order(Request::Stop);
    world.is_exact();
}

#[test]
fn a_rival_beside_us_in_counts_leaves_our_commit_as_it_is() {
    let mut world = World::new("");
    let store = world.store();
    let log = world.log("counts");
    // Both buckets have files; then only customers of bucket 1 send.
    store.on(&entry("counts", 4), Fault::rival(replaced(log.clone(), "0")));
    let nothing = |commit: &mut Commit| commit.txns.push(("replay/x".to_owned(), 1));
    store.on(&entry("counts", 5), Fault::rival(commits(log, nothing)));
    let job = world.start(2, store.clone());
    one_epoch(&mut world, &job);
    world.push(CUSTOMERS[1], 0);
    assert!(job.reads(world.pushed()));
    world.advance(11 * SECOND);
    assert!(job.publishes(2), "publishes");
    assert!(store.done());
    assert_eq!(attempts(&world, 2), ["a1"], "merged once");
    let counts = world.table("counts");
    assert!(counts.files.keys().any(|path| path.contains("bucket=0") && path.contains("compacted")));
    // The next epoch is merged into what it left.
    one_epoch(&mut world, &job);
    job.ends_in_order(Request::Stop);
    world.is_exact();
    assert_eq!(world.table("counts").txn("replay/x"), 1);
}

/// A segment of one row: minutes three hours ago, of the customer in bucket 0.
fn old_minutes(count: i64) -> (File, bytes::Bytes) {
    let start = BASE - 180 * MINUTE;
    let segment = Segment { granularity: Granularity::Minute, bucket: 0, period: Period::Hour, period_start: start };
    one_row(segment, CUSTOMERS[0], start, count)
}

fn one_row(segment: Segment, customer: &str, window_start: i64, count: i64) -> (File, bytes::Bytes) {
    let mut writer = SegmentWriter::new(segment).expect("a writer");
    let columns = Columns {
        customer: StringArray::from(vec![customer]),
        dimension: StringArray::from(vec!["total"]),
        window_start: TimestampMicrosecondArray::from(vec![window_start]),
        value: StringArray::from(vec![""]),
        event_count: Int64Array::from(vec![count]),
    };
    writer.write(columns).expect("encoded");
    writer.finish("rival").expect("encoded").expect("a row")
}

/// As a replay does that finds events in a segment that did not exist. Ours was new as well, and must not exist beside it.
#[test]
fn a_rival_that_adds_the_segment_that_we_add() {
    let mut world = World::new("");
    let store = world.store();
    let (file, bytes) = old_minutes(5);
    let log = world.log("counts");
    let adds = async move {
        write_file(log.store().as_ref(), &file.path, bytes).await.expect("written");
        commits(log, |commit| commit.add.push(file)).await;
    };
    store.on(&entry("counts", 4), Fault::rival(adds));
    let job = world.start(2, store.clone());
    one_epoch(&mut world, &job);
    world.push(CUSTOMERS[0], 180);
    let cell = ("minute", CUSTOMERS[0].to_owned(), "total".to_owned(), BASE - 180 * MINUTE, String::new());
    *world.expected.entry(cell).or_default() += 5;
    assert!(job.reads(world.pushed()));
    world.advance(11 * SECOND);
    assert!(job.publishes(2), "publishes");
    assert!(store.done());
    assert_eq!(attempts(&world, 2), ["a1", "a2"]);
    job.ends_in_order(Request::Stop);
    world.is_exact();
}

/// As an undo does that leaves no row in a segment. Ours is merged into nothing.
#[test]
fn a_rival_that_takes_our_base_away() {
    let mut world = World::new("");
    let store = world.store();
    let log = world.log("counts");
    let takes = async move {
        let state = log.load().await.expect("readable").expect("a table");
        let days = |file: &&File| file.partition["granularity"] == "day" && file.partition["bucket"] == "1";
        let file = state.files.values().find(days).expect("days").clone();
        commits(log, |commit| commit.remove.push(file)).await;
    };
    store.on(&entry("counts", 4), Fault::rival(takes));
    let job = world.start(1, store.clone());
    one_epoch(&mut world, &job);
    world.expected.retain(|(granularity, customer, ..), _| (*granularity, customer.as_str()) != ("day", CUSTOMERS[1]));
    one_epoch(&mut world, &job);
    assert!(store.done());
    assert_eq!(attempts(&world, 2), ["a1", "a2"]);
    job.ends_in_order(Request::Stop);
    world.is_exact();
}

#[test]
fn a_rival_beside_us_in_raw_changes_nothing() {
    let mut world = World::new("");
    let store = world.store();
    let log = world.log("raw");
    store.on(&entry("raw", 3), Fault::rival(commits(log, |commit| commit.txns.push(("maintenance".to_owned(), 7)))));
    let job = world.start(2, store.clone());
    assert!(two_epochs(&mut world, &job), "{:?}", job.end());
    job.ends_in_order(Request::Stop);
    assert!(store.done());
    world.is_exact();
    let raw = world.table("raw");
    assert_eq!((raw.txn("maintenance"), raw.txn(raw::EPOCH)), (7, 3));
}

// ---- one writer wins ----

#[test]
fn a_newer_generation_in_raw_ends_us() {
    let mut world = World::new("");
    let store = world.store();
    store.on(&entry("raw", 3), Fault::rival(commits(world.log("raw"), generation(2))));
    let job = world.start(2, store);
    assert!(!two_epochs(&mut world, &job), "it goes on");
    let result = job.end();
    assert_eq!(code(&result), 76, "{result:?}");
    let (raw, counts) = (world.table("raw"), world.table("counts"));
    assert_eq!((raw.version, raw.txn(WRITER_GENERATION), raw.txn(raw::EPOCH)), (3, 2, 1), "nothing of ours after it");
    assert_eq!(counts.txn(&counts::lane_txn(Lane::Minute)), 1);
    world.start(1, world.store()).ends_in_order(Request::Drain);
    world.is_exact();
}

#[test]
fn a_newer_generation_in_counts_alone_ends_us() {
    let mut world = World::new("");
    let store = world.store();
    store.on(&entry("counts", 4), Fault::rival(commits(world.log("counts"), generation(2))));
    let job = world.start(2, store);
    assert!(!two_epochs(&mut world, &job), "it goes on");
    let result = job.end();
    assert_eq!(code(&result), 76, "{result:?}");
    let counts = world.table("counts");
    assert_eq!((counts.version, counts.txn(&counts::lane_txn(Lane::Minute))), (4, 1), "nothing of ours after it");
    // A number that `raw` did not hand out: the next start gets the same one from `raw`, and leaves the table to the owner of that number.
    let next = world.start(1, world.store()).end();
    assert_eq!(code(&next), 76, "{next:?}");
    assert_eq!(world.table("counts").version, 4);
    world.start(1, world.store()).ends_in_order(Request::Drain);
    world.is_exact();
}

/// A newer start fences both tables between our two fences: we end, and it does not.
#[test]
fn of_two_starts_at_once_one_goes_on() {
    let mut world = World::new("");
    let store = world.store();
    let (raw, counts) = (world.log("raw"), world.log("counts"));
    store.on(
        &entry("counts", 1),
        Fault::rival(async move {
            commits(raw, generation(2)).await;
            commits(counts, generation(2)).await;
        }),
    );
    batch(&mut world);
    let result = world.start(1, store).end();
    assert_eq!(code(&result), 76, "{result:?}");
    let generation = |table: &str| world.table(table).txn(WRITER_GENERATION);
    assert_eq!((generation("raw"), generation("counts")), (2, 2), "the newer one keeps its place");
}

#[test]
fn many_starts_at_once_leave_one_writer() {
    let mut world = World::new("");
    batch(&mut world);
    let jobs: Vec<Running> = (0..4).map(|_| world.start(1, world.store())).collect();
    // Those that were fenced notice it at their next commit.
    let mut left = jobs;
    let mut ended = 0;
    let deadline = Instant::now() + PATIENCE;
    while left.len() > 1 {
        assert!(Instant::now() < deadline, "{} go on", left.len());
        world.advance(61 * SECOND);
        std::thread::sleep(Duration::from_millis(5));
        let (over, running): (Vec<_>, Vec<_>) = left.into_iter().partition(Running::has_ended);
        for job in over {
            let result = job.end();
            assert_eq!(code(&result), 76, "{result:?}");
            ended += 1;
        }
        left = running;
    }
    assert_eq!((ended, left.len()), (3, 1));
    for job in left {
        one_epoch_or_more(&mut world, &job);
        job.ends_in_order(Request::Stop);
    }
    world.is_exact();
}

fn one_epoch_or_more(world: &mut World, job: &Running) {
    let epoch = job.progress.epochs().1;
    world.advance(61 * SECOND);
    assert!(job.publishes(epoch + 1));
}

#[test]
fn a_second_copy_ends_the_first_within_one_commit() {
    let mut world = World::new("");
    let first = world.start(2, world.store());
    one_epoch(&mut world, &first);
    let second = world.start(1, world.store());
    assert!(second.reaches("reading the tables", |progress| progress.epochs() == (1, 1)));
    // The first one must learn it from its own commit, since the second one has nothing to commit.
    world.advance(61 * SECOND);
    let result = first.end();
    assert_eq!(code(&result), 76, "{result:?}");
    let said = result.expect_err("it is fenced").to_string();
    assert!(said.contains("another copy of the job was started later"), "{said}");
    one_epoch_or_more(&mut world, &second);
    one_epoch(&mut world, &second);
    second.ends_in_order(Request::Stop);
    world.is_exact();
    assert_eq!(world.table("counts").txn(WRITER_GENERATION), 2);
}

// ---- another logic ----

/// The logics, by the epoch from which on they count.
fn logics(world: &World) -> Vec<(u64, Fingerprint)> {
    Ledger::of(&world.table("counts")).logics.into_iter().collect()
}

fn root(world: &World) -> Root {
    Root::on(Arc::clone(&world.inner) as Arc<dyn ObjectStore>)
}

/// Checks that `verify`, which follows the ledger, finds no difference.
fn verifies(world: &World) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let report = runtime.block_on(verify(&world.job(), &root(world), Options::default())).expect("a verdict");
    assert_eq!((report.verdict, report.not_checkable.cells), (Verdict::Exact, 0), "{}", report.table());
}

/// The fingerprint of the logic with which the next start counts, and whether its text is stored.
fn next_logic(world: &World) -> (Fingerprint, bool) {
    let (logic, root) = (world.job().logic, root(world));
    let fingerprint = Fingerprint::of(&logic);
    let known = block_on(ledger::known(&root, fingerprint)).expect("readable");
    (fingerprint, known == Known::Logic(Box::new(logic)))
}

fn epoch(world: &World) -> u64 {
    world.table("raw").txn(raw::EPOCH) as u64
}

/// Runs an epoch with the first logic, with all lanes level; the next start will also count kinds. Returns the first logic's fingerprint.
fn level(world: &mut World) -> Fingerprint {
    let job = world.start(2, world.store());
    one_epoch(world, &job);
    job.ends_in_order(Request::Stop);
    let (first, is_kept) = next_logic(world);
    assert!(is_kept);
    assert_eq!(logics(world), [(1, first)]);
    world.count_kinds(true);
    first
}

/// Starts on existing tables, and publishes an epoch.
fn start_and_count(world: &mut World, workers: usize) -> Running {
    let (job, newest) = (world.start(workers, world.store()), epoch(world));
    assert!(job.reaches("reading the tables", |progress| progress.epochs().0 >= newest), "it starts");
    one_epoch(world, &job);
    job
}

#[test]
fn another_logic_counts_from_the_next_epoch_on() {
    let mut world = World::new("");
    let first = level(&mut world);
    let since = epoch(&world) + 1;
    start_and_count(&mut world, 1).ends_in_order(Request::Stop);
    world.is_exact();
    let (second, is_kept) = next_logic(&world);
    assert!(is_kept && second != first);
    assert_eq!(logics(&world), [(1, first), (since, second)]);

    // The same logic again: there is nothing to record.
    let job = start_and_count(&mut world, 2);
    let store = job.store.clone();
    job.ends_in_order(Request::Stop);
    assert!(store.steps().iter().all(|step| !step.starts_with("logic/")), "{:#?}", store.steps());
    assert_eq!(logics(&world), [(1, first), (since, second)]);

    // Only the grace is different, which only decides when a record is published; a longer one does not delay an epoch.
    world.set("\n[granularities.minute]\ngrace_seconds = 40");
    let since_third = epoch(&world) + 1;
    start_and_count(&mut world, 2).ends_in_order(Request::Stop);
    world.is_exact();
    assert_eq!(logics(&world), [(1, first), (since, second), (since_third, next_logic(&world).0)]);
    verifies(&world);
}

/// Changes the tables into those of a build of code number 1, with this logic from epoch 1 on.
fn of_code_number_1(world: &World) -> Fingerprint {
    let (root, first) = (root(world), Fingerprint::from_txn(7));
    let mut text = serde_json::to_value(LogicText::of(&world.job().logic)).expect("JSON");
    text["counting"] = 1.into();
    let logic = text["logic"].as_object_mut().expect("an object");
    for since in ["customer_integers", "time_format", "assume_offset_seconds"] {
        assert!(logic.remove(since).is_some(), "{since}");
    }
    let path = format!("logic/{first}.json");
    block_on(write_file(root.store().as_ref(), &path, text.to_string().into())).expect("written");
    let commit = Commit { txns: vec![(ledger::logic_txn(1), first.to_txn())], ..Commit::default() };
    let mut counts = world.table("counts");
    block_on(Log::new(&root, "counts").commit(&mut counts, &commit, "SET LOGIC", BASE / 1000)).expect("committed");
    first
}

/// The same job file, but code that counts differently.
#[test]
fn tables_of_code_number_1_go_on_as_with_a_new_logic() {
    let mut world = World::new("");
    let job = world.start(2, world.store());
    one_epoch(&mut world, &job);
    job.ends_in_order(Request::Stop);
    let first = of_code_number_1(&world);
    let since = epoch(&world) + 1;
    start_and_count(&mut world, 2).ends_in_order(Request::Stop);
    world.is_exact();
    let (second, is_kept) = next_logic(&world);
    assert!(is_kept && COUNTING == 2);
    assert_eq!(logics(&world), [(1, first), (since, second)]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let report = runtime.block_on(verify(&world.job(), &root(&world), Options::default())).expect("a verdict");
    assert_eq!(report.verdict, Verdict::Exact, "{}", report.table());
    let said = format!("logic {first} of epochs 1..={}: it was counted by code number 1, this build has 2", since - 1);
    assert!(report.not_checkable.cells > 0 && report.sentence().ends_with(&said), "{}", report.sentence());
}

#[test]
fn complete_until_does_not_go_back_with_a_longer_grace() {
    let mut world = World::new("");
    let job = world.start(2, world.store());
    one_epoch(&mut world, &job);
    job.ends_in_order(Request::Stop);
    let until = |world: &World| world.table("counts").txn(&counts::complete_until_txn(Lane::Minute));
    let before = until(&world);
    assert!(before > 0);
    world.set("\n[granularities.minute]\ngrace_seconds = 60");
    start_and_count(&mut world, 1).ends_in_order(Request::Stop);
    assert_eq!(until(&world), before);
    // Until the longer grace is over too.
    let job = world.start(2, world.store());
    world.advance(60 * SECOND);
    job.ends_in_order(Request::Drain);
    assert!(until(&world) > before);
    world.is_exact();
}

#[test]
fn another_logic_is_refused_while_lanes_are_apart() {
    let mut world = World::new("");
    let first = level(&mut world);
    world.count_kinds(false);
    // `raw` has an epoch that `counts` does not have yet.
    let store = world.store();
    store.on("counts/granularity=", Fault::FreezeBefore);
    let job = world.start(2, store.clone());
    let newest = epoch(&world);
    assert!(job.reaches("reading the tables", |progress| progress.epochs().0 >= newest));
    batch(&mut world);
    assert!(job.reads(9));
    world.advance(11 * SECOND);
    assert!(job.freezes());
    // It is a matter of luck whether the epoch was archived before the process froze, so it continues once.
    if epoch(&world) == newest {
        store.on("counts/_delta_log", Fault::FreezeBefore);
        store.thaw();
        assert!(job.freezes());
    }
    assert_eq!(epoch(&world), newest + 1);

    let versions = |world: &World| ["raw", "counts"].map(|table| world.table(table).version);
    let (before, steps) = (versions(&world), world.store());
    world.count_kinds(true);
    // With a separate topic, since a scripted one only wakes its last reader.
    let refused = world.start_from(1, steps.clone(), Arc::new(Script::new(2))).end();
    assert_eq!(code(&refused), 78, "{refused:?}");
    let said = refused.expect_err("refused").to_string();
    let (second, is_kept) = next_logic(&world);
    assert!(
        said.contains(&format!("the job's logic ({second}) differs from the logic on record since epoch 1 ({first})")),
        "{said}"
    );
    assert!(
        said.contains(&format!("raw is at epoch {}, the lanes are at minute {newest}, hour", newest + 1)),
        "{said}"
    );
    assert!(said.contains("stop it in order (SIGTERM)") && said.contains("--drain"), "{said}");
    assert_eq!((versions(&world), steps.steps(), is_kept), (before, vec![], false), "nothing was written");

    // The running job has not noticed. Then it is killed, and the recommended way out is used.
    world.count_kinds(false);
    store.thaw();
    assert!(job.publishes(newest + 1), "it runs on");
    one_epoch(&mut world, &job);
    store.on("counts/_delta_log", Fault::FreezeBefore);
    batch(&mut world);
    world.advance(11 * SECOND);
    assert!(job.freezes());
    store.kill();
    job.end().expect_err("denied");
    world.count_kinds(true);
    assert_eq!(code(&world.start(1, world.store()).end()), 78, "what was not published is still the first logic's");
    world.count_kinds(false);
    world.start(1, world.store()).ends_in_order(Request::Drain);
    world.count_kinds(true);
    let since = epoch(&world) + 1;
    start_and_count(&mut world, 2).ends_in_order(Request::Stop);
    world.is_exact();
    assert_eq!(logics(&world), [(1, first), (since, second)]);
}

/// It freezes after the text was written, before its commit, or after its commit; then it is killed, or wakes up as a zombie.
#[test]
fn a_start_with_another_logic_that_ends_on_the_way_is_made_good_by_the_next() {
    for (part, fault, is_recorded) in [
        ("logic/", (|| Fault::FreezeAfter) as fn() -> Fault, false),
        ("SET LOGIC", || Fault::FreezeBefore, false),
        ("SET LOGIC", || Fault::FreezeAfter, true),
    ] {
        for wakes in [false, true] {
            let mut world = World::new("");
            let first = level(&mut world);
            let (since, commit) = (epoch(&world) + 1, entry("counts", world.table("counts").version + 2));
            let store = world.store();
            store.on(if part == "logic/" { part } else { &commit }, fault());
            let job = world.start(2, store.clone());
            assert!(job.freezes());
            let (second, is_kept) = next_logic(&world);
            assert!(is_kept);
            assert_eq!(logics(&world).len(), if is_recorded { 2 } else { 1 }, "{part}");
            if !wakes {
                store.kill();
                job.end().expect_err("denied");
                start_and_count(&mut world, 1).ends_in_order(Request::Stop);
            } else {
                let next = start_and_count(&mut world, 1);
                store.thaw();
                // It only learns it from one of its own commits, wherever it was frozen.
                while !job.has_ended() {
                    world.advance(61 * SECOND);
                    std::thread::sleep(Duration::from_millis(5));
                }
                let result = job.end();
                assert_eq!(code(&result), 76, "{part}: {result:?}");
                next.ends_in_order(Request::Stop);
            }
            world.is_exact();
            assert_eq!(logics(&world), [(1, first), (since, second)], "{part}");
        }
    }
}

#[test]
fn of_two_logics_without_an_epoch_in_between_the_last_one_stands() {
    let mut world = World::new("");
    let first = level(&mut world);
    let since = epoch(&world) + 1;
    let store = world.store();
    store.on(&entry("counts", world.table("counts").version + 2), Fault::FreezeAfter);
    let job = world.start(1, store.clone());
    assert!(job.freezes());
    store.kill();
    job.end().expect_err("denied");
    assert_eq!(logics(&world), [(1, first), (since, next_logic(&world).0)]);

    world.set("\n[granularities.hour]\ngrace_seconds = 90");
    start_and_count(&mut world, 2).ends_in_order(Request::Stop);
    world.is_exact();
    assert_eq!(logics(&world), [(1, first), (since, next_logic(&world).0)]);

    // Back to the first logic, which then counts from its new epoch on.
    world.count_kinds(false);
    world.set("");
    let again = epoch(&world) + 1;
    start_and_count(&mut world, 2).ends_in_order(Request::Stop);
    assert_eq!(logics(&world)[2..], [(again, first)]);
    world.is_exact();
    verifies(&world);
}

/// Another commit to `counts` between the fence and the logic, as a replay makes it, is no reason to give up.
#[test]
fn a_rival_beside_the_logic_changes_nothing() {
    let mut world = World::new("");
    let first = level(&mut world);
    let since = epoch(&world) + 1;
    let store = world.store();
    let nothing = |commit: &mut Commit| commit.txns.push(("replay/x".to_owned(), 1));
    let version = world.table("counts").version + 2;
    store.on(&entry("counts", version), Fault::rival(commits(world.log("counts"), nothing)));
    world.start(1, store.clone()).ends_in_order(Request::Drain);
    assert!(store.done());
    assert_eq!(logics(&world), [(1, first), (since, next_logic(&world).0)]);
    world.is_exact();
}

// ---- tables that are not as they should be ----

/// Live never subtracts, so a count below zero means that somebody has changed the table.
#[test]
fn a_cell_below_zero_is_refused() {
    let mut world = World::new("");
    let job = world.start(1, world.store());
    one_epoch(&mut world, &job);
    job.ends_in_order(Request::Stop);

    let log = world.log("counts");
    let state = world.table("counts");
    let old = state.files.values().find(|file| file.path.contains("granularity=day")).expect("days").clone();
    let customer = if old.partition["bucket"] == "0" { CUSTOMERS[0] } else { CUSTOMERS[1] };
    let segment = counts::segment_of(&old).expect("a segment");
    let (file, bytes) = one_row(segment, customer, BASE - BASE.rem_euclid(24 * 60 * MINUTE), -1000);
    block_on(write_file(log.store().as_ref(), &file.path, bytes)).expect("written");
    block_on(commits(log, |commit| {
        commit.add.push(file);
        commit.remove.push(old);
    }));
    let before = world.table("counts");

    let job = world.start(2, world.store());
    batch(&mut world);
    assert!(job.reads(9));
    world.advance(11 * SECOND);
    let result = job.end();
    assert_eq!(code(&result), 1, "{result:?}");
    let said = result.expect_err("refused").to_string();
    assert!(said.contains("would fall to -99") && said.contains("floodmark verify"), "{said}");
    let after = world.table("counts");
    assert_eq!(after.files, before.files, "nothing was published");
    assert_eq!(after.version, before.version + 1, "but for the fence");
}

#[test]
fn counts_ahead_of_raw_is_refused() {
    let mut world = World::new("");
    let job = world.start(1, world.store());
    one_epoch(&mut world, &job);
    job.ends_in_order(Request::Stop);
    let ahead = |commit: &mut Commit| commit.txns.push((counts::lane_txn(Lane::Hour), 9));
    block_on(commits(world.log("counts"), ahead));
    let versions = |world: &World| (world.table("raw").version, world.table("counts").version);
    let before = versions(&world);
    let result = world.start(1, world.store()).end();
    assert_eq!(code(&result), 1, "{result:?}");
    assert!(matches!(&result, Err(LiveError::Table(TableError::Corrupt { .. }))), "{result:?}");
    let said = result.expect_err("refused").to_string();
    assert!(said.contains("epoch 9") && said.contains("raw ends at 2") && said.contains("do not belong"), "{said}");
    assert_eq!(versions(&world), before, "refused before the fence");
}

/// All of `raw` is gone: nothing is taken over from what `counts` records, and its writer is not a rival.
#[test]
fn a_new_archive_beside_old_counts_is_refused() {
    let mut world = World::new("");
    let job = world.start(1, world.store());
    one_epoch(&mut world, &job);
    job.ends_in_order(Request::Stop);
    block_on(async {
        let paths: Vec<_> = world.inner.list(Some(&"raw".into())).try_collect().await.expect("listed");
        for path in paths {
            world.inner.delete(&path.location).await.expect("deleted");
        }
    });
    let result = world.start(1, world.store()).end();
    assert_eq!(code(&result), 1, "{result:?}");
    assert!(result.expect_err("refused").to_string().contains("raw ends at 0: raw has lost commits"));
}

/// A file of the archive that must be fed is gone: another start would not bring it back.
#[test]
fn a_missing_file_of_the_archive_ends_the_feeding_as_damage() {
    let mut world = World::new("");
    only_archived(&mut world, 2, 10);
    let path = world.table("raw").files.into_keys().next().expect("a file");
    block_on(world.inner.delete(&format!("raw/{path}").into())).expect("deleted");
    let result = world.start(1, world.store()).end();
    assert_eq!(code(&result), 1, "{result:?}");
    let said = result.expect_err("it can not be fed").to_string();
    assert!(said.contains("table raw is damaged") && said.contains(&path), "{said}");
}

/// A file of `raw` was rewritten by another program without statistics of our columns: an error that says so, and not a job that hangs.
#[test]
fn a_file_of_raw_without_statistics_is_an_error_at_the_start() {
    let mut world = World::new("");
    let job = world.start(1, world.store());
    one_epoch(&mut world, &job);
    job.ends_in_order(Request::Stop);
    let old = world.table("raw").files.values().next().expect("a file").clone();
    let copy = File {
        path: old.path.replace(".parquet", "-compacted.parquet"),
        stats: format!(r#"{{"numRecords":{}}}"#, old.rows),
        ..old.clone()
    };
    block_on(commits(world.log("raw"), |commit| {
        commit.remove.push(old);
        commit.add.push(copy);
    }));
    let result = world.start(2, world.store()).end();
    assert!(matches!(&result, Err(LiveError::Table(TableError::Invalid(_)))), "{result:?}");
    let said = result.expect_err("refused").to_string();
    assert!(said.contains("compacted.parquet") && said.contains("epoch and ingested_at"), "{said}");
}

#[test]
fn two_live_files_of_one_segment_are_an_error_at_the_start() {
    let mut world = World::new("");
    let job = world.start(1, world.store());
    one_epoch(&mut world, &job);
    job.ends_in_order(Request::Stop);
    let old = world.table("counts").files.values().next().expect("a file").clone();
    let copy = File { path: old.path.replace(".parquet", "-twin.parquet"), ..old };
    block_on(commits(world.log("counts"), |commit| commit.add.push(copy)));
    let result = world.start(2, world.store()).end();
    assert_eq!(code(&result), 1, "{result:?}");
    assert!(result.expect_err("refused").to_string().contains("are both live, but their periods overlap"));
}

#[test]
fn a_store_that_denies_at_any_step_is_an_error_and_no_hang() {
    for step in 1..=undisturbed(1).len() {
        let mut world = World::new("");
        let store = world.store();
        store.at(step, Fault::Denied);
        let job = world.start(1, store);
        if two_epochs(&mut world, &job) {
            job.request(Request::Stop);
        }
        let result = job.end();
        // What was refused from the beginning must be corrected by somebody; what was accepted before may be accepted again.
        assert_eq!(code(&result), if step == 1 { 78 } else { 75 }, "step {step}: {result:?}");
        let said = result.expect_err("denied").to_string();
        let says = if step == 1 { "does not let these keys write there" } else { "no longer accepts our requests" };
        assert!(said.contains(says), "step {step}: {said}");
        world.start(2, world.store()).ends_in_order(Request::Drain);
        world.is_exact();
    }
}

/// Session credentials expire while the job runs: waiting does not bring new ones, but a new start does.
#[test]
fn credentials_that_expire_end_the_job_for_a_new_start() {
    for step in 1..=undisturbed(1).len() {
        let mut world = World::new("");
        let store = world.store();
        store.at(step, Fault::Expired);
        let job = world.start(1, store);
        if two_epochs(&mut world, &job) {
            job.request(Request::Stop);
        }
        let result = job.end();
        assert_eq!(code(&result), 75, "step {step}: {result:?}");
        let said = result.expect_err("expired").to_string();
        assert!(said.contains("the credentials have expired") && said.contains("ExpiredToken"), "step {step}: {said}");
        world.start(2, world.store()).ends_in_order(Request::Drain);
        world.is_exact();
    }
}

#[test]
fn a_store_that_is_denied_altogether_is_an_error_at_the_start() {
    let world = World::new("");
    let store = world.store();
    store.kill();
    let result = world.start(2, store).end();
    assert_eq!(code(&result), 78, "{result:?}");
    assert!(result.expect_err("denied").to_string().contains("does not let these keys read there"));
}

#[test]
fn other_buckets_than_the_table_s_are_refused() {
    let mut world = World::new("");
    let job = world.start(1, world.store());
    one_epoch(&mut world, &job);
    job.ends_in_order(Request::Stop);
    let before = world.table("raw").version;
    let result = world.start_with_buckets(16).end();
    assert_eq!(code(&result), 78, "{result:?}");
    assert!(result.expect_err("refused").to_string().contains("set tables.buckets = 2 in the job file"));
    assert_eq!(world.table("raw").version, before, "nothing was fenced");
}

// ---- epochs, requests, the clock, back-pressure ----

#[test]
fn an_empty_epoch_moves_every_lane() {
    let mut world = World::new("");
    let job = world.start(2, world.store());
    one_epoch(&mut world, &job);
    let files = |table: &str| world.table(table).files;
    let before = (files("raw"), files("counts"));
    for epoch in 2..=4 {
        world.advance(60 * SECOND);
        assert!(job.publishes(epoch), "epoch {epoch}");
    }
    job.ends_in_order(Request::Stop);
    world.is_exact();
    let (raw, counts) = (world.table("raw"), world.table("counts"));
    assert_eq!((&raw.files, &counts.files), (&before.0, &before.1));
    assert_eq!(raw.txn(raw::EPOCH), 5);
    // The last tick opened the last epoch, and in it all partitions were at their end.
    let opened_ms = world.now / 1000;
    assert_eq!(counts.txn(&counts::complete_until_txn(Lane::Late)), opened_ms);
    assert_eq!(counts.txn(&counts::complete_until_txn(Lane::Minute)), opened_ms - 20_000);
}

#[test]
fn a_stop_commits_and_publishes_what_was_read() {
    let mut world = World::new("");
    let job = world.start(2, world.store());
    batch(&mut world);
    assert!(job.reads(world.pushed()));
    job.ends_in_order(Request::Stop); // the clock has not moved
    world.is_exact();
    assert_eq!(world.table("raw").txn(raw::EPOCH), 1);
}

#[test]
fn a_stop_at_once_is_an_orderly_end() {
    let mut world = World::new("");
    let job = world.start(2, world.store());
    job.ends_in_order(Request::Stop);
    batch(&mut world);
    world.start(1, world.store()).ends_in_order(Request::Drain);
    world.is_exact();
}

#[test]
fn a_drain_reads_all_there_was_and_ends() {
    let mut world = World::new("");
    for _ in 0..20 {
        batch(&mut world);
    }
    world.start(2, world.store()).ends_in_order(Request::Drain);
    world.is_exact();
    world.start(1, world.store()).ends_in_order(Request::Drain); // with nothing to do
    world.is_exact();
}

#[test]
fn an_idle_epoch_and_a_busy_one_close_when_due() {
    let mut world = World::new("epoch_seconds = 10\nidle_epoch_seconds = 60");
    let job = world.start(2, world.store());
    one_epoch(&mut world, &job); // so that it is known when the next epoch was opened
    let never = |job: &Running, epoch: u64| {
        std::thread::sleep(LULL);
        assert_eq!(job.progress.epochs().0, epoch - 1, "epoch {epoch} closed too soon");
    };
    world.advance(60 * SECOND - 1000);
    never(&job, 2);
    world.advance(1000);
    assert!(job.publishes(2), "an idle epoch");
    batch(&mut world);
    assert!(job.reads(world.pushed()));
    world.advance(10 * SECOND - 1000);
    never(&job, 3);
    world.advance(1000);
    assert!(job.publishes(3), "a busy epoch");
    world.advance(60 * SECOND - 1000);
    never(&job, 4);
    world.advance(1000);
    assert!(job.publishes(4), "idle again");
    job.ends_in_order(Request::Stop);
    world.is_exact();
}

#[test]
fn the_first_epoch_after_a_start_is_short() {
    let mut world = World::new("epoch_seconds = 10");
    for epoch in 1..=2 {
        let job = world.start(2, world.store());
        let before = world.pushed();
        batch(&mut world);
        assert!(job.reads(world.pushed() - before));
        world.advance(SECOND);
        assert!(job.publishes(2 * epoch - 1), "start {epoch}");
        job.ends_in_order(Request::Stop);
    }
    world.is_exact();
}

#[test]
fn an_epoch_closes_sooner_when_it_is_full() {
    let mut world = World::new("epoch_bytes = 10000");
    let job = world.start(1, world.store());
    for epoch in 1..=3 {
        world.push_padded(CUSTOMERS[0], 0, 11_000);
        assert!(job.publishes(epoch), "the clock stands, and epoch {epoch} closes");
    }
    job.ends_in_order(Request::Stop);
    world.is_exact();
}

#[test]
fn time_never_goes_back() {
    let mut world = World::new("");
    let job = world.start(2, world.store());
    one_epoch(&mut world, &job);
    // The clock goes back an hour during the run: the epoch stays open until the old time is reached again.
    world.advance(-3600 * SECOND);
    batch(&mut world);
    assert!(job.reads(world.pushed()));
    job.ends_in_order(Request::Stop);
    world.is_exact();
    let complete_until = world.table("counts").txn(&counts::complete_until_txn(Lane::Minute));

    // The same at a start.
    batch(&mut world);
    let second = world.start(1, world.store());
    second.ends_in_order(Request::Drain);
    world.is_exact();
    let newest = world.archived().into_values().max().expect("rows");
    assert!(newest.1 / 1000 >= complete_until + 20_000, "complete_until said that nothing on time would come");
    let later = world.table("counts").txn(&counts::complete_until_txn(Lane::Minute));
    assert!(later >= complete_until, "complete_until went back");
}

#[test]
fn the_source_rests_while_the_store_hangs() {
    const EPOCH_BYTES: u64 = 10_000;
    const EPOCHS_IN_FLIGHT: u64 = 2;
    let mut world = World::new(&format!("epoch_bytes = {EPOCH_BYTES}\nepochs_in_flight_max = {EPOCHS_IN_FLIGHT}"));
    let store = world.store();
    store.on(&entry("raw", 2), Fault::FreezeBefore);
    let job = world.start(1, store.clone());
    let mut bytes = 0;
    let rests = (0..100).any(|_| {
        world.push_padded(CUSTOMERS[0], 0, 3000);
        let pushed = Instant::now();
        loop {
            bytes = job.progress.bytes.load(Ordering::Relaxed);
            if job.progress.read.load(Ordering::Relaxed) >= world.pushed() {
                return false;
            }
            // From here on it may pause, which it shows by reading nothing for a while; before that it is only slow.
            let patience = if bytes > EPOCHS_IN_FLIGHT * EPOCH_BYTES { 2 * LULL } else { PATIENCE };
            if pushed.elapsed() > patience {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    assert!(rests, "it read {bytes} bytes while nothing could be committed");
    // The epochs under way and the open one; each may exceed its limit by one record.
    assert!(bytes <= (EPOCHS_IN_FLIGHT + 1) * (EPOCH_BYTES + 4000), "{bytes}");
    assert!(bytes > EPOCHS_IN_FLIGHT * EPOCH_BYTES, "{bytes}");
    store.thaw();
    assert!(job.reads(world.pushed()), "and reads on");
    job.ends_in_order(Request::Drain);
    world.is_exact();
}

/// The worker that panics is released, as are the others.
#[test]
fn a_panic_of_a_worker_is_an_error() {
    for workers in [1, 2] {
        let mut world = World::new("");
        let job =
            world.start_from(workers, world.store(), Arc::new(crate::support::live::Panics(world.script.clone())));
        batch(&mut world);
        let result = job.end();
        let Err(LiveError::Commit(CommitError::Worker { exit: Exit::Failed, what: said })) = &result else {
            panic!("{result:?}")
        };
        assert!(said.contains("panicked: by the test"), "{said}");
        assert_eq!(code(&result), 1);
        world.start(1, world.store()).ends_in_order(Request::Drain);
        world.is_exact();
    }
}

/// A worker that can not open its source reports it; nothing waits for it.
#[test]
fn a_topic_that_can_not_be_opened_is_an_error() {
    let world = World::new("");
    let result = world.start_from(2, world.store(), Arc::new(crate::support::live::Unreadable(Script::new(2)))).end();
    let Err(LiveError::Commit(CommitError::Worker { exit: Exit::TryAgain, what: said })) = &result else {
        panic!("{result:?}")
    };
    assert!(said.contains("the brokers are away"), "{said}");
    assert_eq!(code(&result), 75);
}
