//! Tables of the layout before `floodmark.format` 2 (days in files of months): a job goes on in them, splits what is open once, and is
//! exact whatever happens around that. (`oracle.rs` plays the same with weeks and months, at random.)

use std::collections::BTreeSet;

use floodmark::dataflow::commit::Request;
use floodmark::model::{Granularity, Period};
use floodmark::table::{FORMAT, FORMAT_NEWEST, Root, raw};
use floodmark::verify::{Options, Verdict, verify};

use crate::support::faulty::Fault;
use crate::support::former::{former, relaid};
use crate::support::live::{BASE, CUSTOMERS, Running, SECOND, World, block_on};
use crate::support::rival::replaced;

const DAY_MINUTES: i64 = 24 * 60;

/// Stopped tables of the former layout: today is 2026-01-13, and each bucket has a month that is open and one that is closed.
fn former_tables() -> World {
    let mut world = World::new("");
    for minutes_old in [0, 1, DAY_MINUTES, 4 * DAY_MINUTES, 30 * DAY_MINUTES] {
        CUSTOMERS.iter().for_each(|customer| world.push(customer, minutes_old));
    }
    world.start(2, world.store()).ends_in_order(Request::Drain);
    block_on(former(&world.log("counts"), world.now));
    world.is_exact();
    for bucket in ["0", "1"] {
        assert_eq!(days(&world, bucket), ["2025-12", "2026-01"]);
    }
    assert_eq!(world.table("counts").properties[FORMAT], "1");
    world
}

/// The periods of a bucket's days.
fn days(world: &World, bucket: &str) -> Vec<String> {
    let counts = world.table("counts");
    let found: BTreeSet<_> = (counts.files.values())
        .filter(|file| file.partition["granularity"] == "day" && file.partition["bucket"] == bucket)
        .map(|file| file.partition["period"].clone())
        .collect();
    found.into_iter().collect()
}

/// Goes on with events of today, and stops; one epoch, then that of the stop. Returns false if the process froze or ended before.
fn goes_on(world: &mut World, job: &Running) -> bool {
    let epoch = world.table("raw").txn(raw::EPOCH) as u64 + 1;
    for minutes_old in [0, 2, DAY_MINUTES] {
        CUSTOMERS.iter().for_each(|customer| world.push(customer, minutes_old));
    }
    if !job.reads(6) {
        return false;
    }
    world.advance(11 * SECOND);
    job.publishes(epoch)
}

#[test]
fn an_open_month_of_days_is_split_once_by_the_first_order_that_touches_it() {
    let mut world = former_tables();
    let drains = |world: &World| world.start(2, world.store()).ends_in_order(Request::Drain);
    // A start alone raises the number of the layout, and changes no file.
    let before = world.table("counts").files;
    drains(&world);
    for table in ["raw", "counts"] {
        assert_eq!(world.table(table).properties[FORMAT], FORMAT_NEWEST.to_string(), "{table}");
    }
    assert_eq!(world.table("counts").files, before);

    // A closed month takes late updates as it is.
    world.push(CUSTOMERS[0], 30 * DAY_MINUTES);
    drains(&world);
    world.is_exact();
    assert_eq!(
        (days(&world, "0"), days(&world, "1")),
        (vec!["2025-12".to_owned(), "2026-01".to_owned()], days(&world, "0"))
    );

    // One update for any of its windows, here a late one, splits the open month of its bucket.
    let split = ["2025-12", "2026-01-09", "2026-01-12", "2026-01-13"];
    world.push(CUSTOMERS[0], 4 * DAY_MINUTES);
    drains(&world);
    world.is_exact();
    assert_eq!(days(&world, "0"), split);
    assert_eq!(days(&world, "1"), ["2025-12", "2026-01"]);

    // What lies apart is then written apart.
    let past = |world: &World| {
        let counts = world.table("counts");
        let day = |path: &&String| path.contains("granularity=day/period=2026-01-09/bucket=0");
        counts.files.keys().find(day).expect("the file of a day").clone()
    };
    let before = past(&world);
    let job = world.start(2, world.store());
    assert!(goes_on(&mut world, &job));
    job.ends_in_order(Request::Stop);
    world.is_exact();
    assert_eq!((days(&world, "0"), days(&world, "1")), (split.map(str::to_owned).to_vec(), days(&world, "0")));
    assert_eq!(past(&world), before);
    let root = Root::on(world.inner.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let report = runtime.block_on(verify(&world.job(), &root, Options::default())).expect("a verdict");
    assert_eq!(report.verdict, Verdict::Exact, "{}\n{}", report.table(), report.sentence());
}

/// At each durable step of a first run on former tables, a process is lost; the next one takes over, and both are exact.
fn lost_at_every_step(workers: usize, fault: fn() -> Fault) {
    let steps = {
        let mut world = former_tables();
        let store = world.store();
        let job = world.start(workers, store.clone());
        assert!(goes_on(&mut world, &job));
        job.ends_in_order(Request::Stop);
        world.is_exact();
        store.steps()
    };
    let of_days = |step: &&String| step.contains("granularity=day/period=2026-01-1");
    assert!(steps.iter().filter(of_days).count() >= 4, "the split is among the steps: {steps:#?}");
    for step in 1..=steps.len() {
        let mut world = former_tables();
        let store = world.store();
        store.at(step, fault());
        let lost = world.start(workers, store.clone());
        if goes_on(&mut world, &lost) {
            lost.request(Request::Stop);
            assert!(lost.freezes(), "step {step} did not come");
        }
        world.start(3 - workers, world.store()).ends_in_order(Request::Drain);
        world.is_exact();
        for bucket in ["0", "1"] {
            assert_eq!(days(&world, bucket), ["2025-12", "2026-01-09", "2026-01-12", "2026-01-13"], "step {step}");
        }
        store.kill();
        drop(lost.end());
        world.is_exact();
    }
}

#[test]
fn lost_before_every_step_of_a_first_run_on_former_tables() {
    lost_at_every_step(1, || Fault::FreezeBefore);
}

#[test]
fn lost_after_every_step_of_a_first_run_on_former_tables() {
    lost_at_every_step(2, || Fault::FreezeAfter);
}

/// The commit that would split a month is overtaken by one that replaces the month, and by one that has split it already.
#[test]
fn a_split_that_has_lost_its_base_is_made_again() {
    let shortest = |granularity| (granularity == Granularity::Day).then_some(Period::Day);
    for already in [false, true] {
        let mut world = former_tables();
        let store = world.store();
        let log = world.log("counts");
        let rival = async move {
            match already {
                true => relaid(&log, BASE, shortest).await,
                false => replaced(log, "0").await,
            }
        };
        // The start fences the table and raises the number of its layout.
        let version = world.table("counts").version + 3;
        store.on(&format!("counts/_delta_log/{version:020}.json"), Fault::rival(rival));
        let job = world.start(2, store.clone());
        assert!(goes_on(&mut world, &job));
        assert!(store.done(), "the rival came first");
        job.ends_in_order(Request::Stop);
        world.is_exact();
        let again = |path: &String| path.contains("granularity=day") && path.ends_with("-a2.parquet");
        assert!(world.table("counts").files.keys().any(again), "{:#?}", world.table("counts").files.keys());
        let december = if already { "2025-12-14" } else { "2025-12" };
        assert_eq!(days(&world, "0"), [december, "2026-01-09", "2026-01-12", "2026-01-13"]);
    }
}
