//! A thread or task that panics is never silently gone: the job ends within a bound, as failed, with what was said; or, where nothing
//! is lost with it, it is tried again. On the code of before, most of these hang.

use floodmark::dataflow::commit::Request;
use floodmark::exit::{Exit, HasExit};
use floodmark::upkeep::EVERY_US;

use crate::support::faulty::Fault;
use crate::support::live::{Running, SECOND, World};

/// Waits for the end of a job that has failed: which way, and what it says.
fn failure(running: Running) -> (Exit, String) {
    let progress = std::sync::Arc::clone(&running.progress);
    let error = running.end().expect_err("it has failed");
    // What `/healthz` and `/readyz` answer while the process still ends.
    let why = progress.alive().expect_err("it is only ending");
    assert!(why.ends_with(&error.to_string()), "{why}: {error}");
    (error.exit(), error.to_string())
}

/// A world with an epoch in both tables.
fn world() -> World {
    let mut world = World::new("");
    let running = world.start(2, world.store());
    world.push("a", 1);
    world.push("b", 2);
    assert!(running.reads(2));
    world.advance(2 * SECOND);
    assert!(running.publishes(1));
    running.ends_in_order(Request::Stop);
    world
}

#[test]
fn the_storing_of_an_epoch_panics() {
    let mut world = world();
    let store = world.store();
    store.on("raw/ingest_date", Fault::Panic);
    let running = world.start(2, store);
    world.push("a", 3);
    assert!(running.reads(1));
    world.advance(2 * SECOND);
    let (exit, said) = failure(running);
    assert_eq!(exit, Exit::Failed, "{said}");
    assert!(said.contains("storing an epoch's files of raw panicked: by the test at raw/ingest_date"), "{said}");
    world.start(1, world.store()).ends_in_order(Request::Drain);
    world.is_exact();
}

#[test]
fn a_merge_panics() {
    let mut world = world();
    let store = world.store();
    store.on("counts/granularity", Fault::Panic);
    let running = world.start(2, store);
    world.push("a", 3);
    assert!(running.reads(1));
    world.advance(2 * SECOND);
    let (exit, said) = failure(running);
    assert_eq!(exit, Exit::Failed, "{said}");
    assert!(said.contains("merging a publish panicked: by the test at counts/granularity"), "{said}");
    world.start(2, world.store()).ends_in_order(Request::Drain);
    world.is_exact();
}

#[test]
fn a_merge_panics_as_it_reads() {
    let mut world = world();
    let store = world.store();
    store.panics_reading("counts/granularity");
    let running = world.start(1, store);
    world.push("a", 1);
    assert!(running.reads(1));
    world.advance(2 * SECOND);
    let (exit, said) = failure(running);
    assert_eq!(exit, Exit::Failed, "{said}");
    assert!(said.contains("merging a publish panicked: by the test"), "{said}");
    world.start(2, world.store()).ends_in_order(Request::Drain);
    world.is_exact();
}

/// What lanes have not absorbed can not be read.
#[test]
fn the_feed_panics() {
    let mut world = world();
    let store = world.store();
    let running = world.start(1, store.clone());
    world.push("b", 3);
    assert!(running.reads(1));
    // The commit of counts, which comes after that of raw.
    store.on("counts/_delta_log", Fault::FreezeBefore);
    world.advance(2 * SECOND);
    assert!(running.freezes(), "before it is published");
    store.kill();
    running.end().expect_err("it was killed");
    let store = world.store();
    store.panics_reading("raw/ingest_date");
    let running = world.start(2, store);
    let (exit, said) = failure(running);
    assert!(matches!(exit, Exit::Failed | Exit::TryAgain), "{said}");
    assert!(said.contains("panicked: by the test at raw/ingest_date"), "{said}");
    world.start(2, world.store()).ends_in_order(Request::Drain);
    world.is_exact();
}

/// Nothing is lost with a round of upkeep: the job goes on, and so does upkeep.
#[test]
fn upkeep_panics() {
    let mut world = world();
    let store = world.store();
    let running = world.start(1, store.clone());
    world.push("a", 1);
    assert!(running.reads(1));
    world.advance(2 * SECOND);
    assert!(running.publishes(2));
    store.panics_reading("listing");
    world.advance(EVERY_US + SECOND);
    assert!(running.reaches("a round that panics", |_| store.done()), "it goes on");
    // The next round meets the next fault.
    store.panics_reading("listing");
    assert!(running.reaches("the next round", |_| {
        world.advance(EVERY_US / 10);
        store.done()
    }));
    assert_eq!(running.progress.alive(), Ok(()));
    running.ends_in_order(Request::Stop);
    world.is_exact();
}
