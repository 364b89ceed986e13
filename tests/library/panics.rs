//! A thread or task that panics is always noticed: the job ends as failed within a time limit, with the message of the panic; or, if
//! nothing is lost by it, the work is tried again. With the code before this rule, most of these tests hang.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use floodmark::dataflow::commit::Request;
use floodmark::job::Settings;
use floodmark::monitor;
use floodmark::process::{Exit, HasExit};
use floodmark::source::script::Script;
use floodmark::source::{RecordSource, SourceError, SourceFactory, Txns, Waker};
use floodmark::table::{Commit, Log, Root, counts};
use floodmark::upkeep::EVERY_US;
use object_store::memory::InMemory;

use crate::support::faulty::{Fault, Faulty};
use crate::support::live::{Running, SECOND, World};

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

/// A job that reads one more record and meets `fault` while it publishes ends as failed, with `what`; the next start loses nothing.
fn fails(workers: usize, fault: impl FnOnce(&Faulty), what: &str) {
    let mut world = world();
    let running = world.start(workers, world.store());
    world.push("a", 1);
    assert!(running.reads(1));
    fault(&running.store);
    world.advance(2 * SECOND);
    fails_in(&world, running, what);
}

fn fails_in(world: &World, running: Running, what: &str) {
    let progress = Arc::clone(&running.progress);
    let error = running.end().expect_err("it has failed");
    let said = error.to_string();
    assert_eq!(error.exit(), Exit::Failed, "{said}");
    assert!(said.contains(what) && said.contains("this is a bug: please report it"), "{said}");
    // What `/healthz` and `/readyz` answer while the process is still ending.
    let why = progress.alive().expect_err("it is only ending");
    assert!(why.ends_with(&said), "{why}: {said}");
    world.start(2, world.store()).ends_in_order(Request::Drain);
    world.is_exact();
}

fn on(path: &'static str) -> impl FnOnce(&Faulty) {
    move |store| {
        store.on(path, Fault::Panic);
    }
}

#[test]
fn the_storing_of_an_epoch_panics() {
    fails(2, on("raw/ingest_date"), "storing an epoch's files of raw panicked: by the test at raw/ingest_date");
}

#[test]
fn a_merge_panics() {
    fails(2, on("counts/granularity"), "merging a publish panicked: by the test at counts/granularity");
}

#[test]
fn a_merge_panics_as_it_reads() {
    fails(1, |store| store.panics_reading("counts/granularity"), "merging a publish panicked: by the test");
}

/// The committer's thread panics.
#[test]
fn a_commit_panics() {
    fails(1, on("counts/_delta_log"), "the committer panicked: by the test at counts/_delta_log");
}

/// Reading what lanes have not absorbed panics.
#[test]
fn the_feed_panics() {
    let mut world = world();
    let store = world.store();
    let running = world.start(1, store.clone());
    world.push("b", 3);
    assert!(running.reads(1));
    // The commit of `counts` comes after that of `raw`.
    store.on("counts/_delta_log", Fault::FreezeBefore);
    world.advance(2 * SECOND);
    assert!(running.freezes(), "before it is published");
    store.kill();
    running.end().expect_err("it was killed");
    let store = world.store();
    store.panics_reading("raw/ingest_date");
    let running = world.start(2, store);
    fails_in(&world, running, "panicked: by the test at raw/ingest_date");
}

/// A topic that can be read, but panics when it is queried.
struct PanicsAsked(Script);

impl SourceFactory for PanicsAsked {
    fn check(&self) -> Result<(), SourceError> {
        panic!("by the test")
    }

    fn resume(&self, txns: &Txns) -> Result<(), SourceError> {
        self.0.resume(txns)
    }

    fn lags(&self) -> Vec<((String, i32), u64)> {
        panic!("by the test")
    }

    fn open(&self, worker: usize, workers: usize, waker: Waker) -> Result<Box<dyn RecordSource>, SourceError> {
        self.0.open(worker, workers, waker)
    }
}

#[test]
fn a_question_to_the_source_panics() {
    let world = world();
    let running = world.start_from(1, world.store(), Arc::new(PanicsAsked(world.script.clone())));
    fails_in(&world, running, "asking the source panicked: by the test");
}

/// The client that asked gets an error, and the next one gets an answer.
#[test]
fn an_answer_over_http_panics() {
    let source = Arc::new(PanicsAsked(Script::new(1)));
    let port = "0".parse().expect("a port");
    let at = monitor::serve(port, Arc::default(), source, 0, &Settings::default()).expect("it listens");
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(at).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    for _ in 0..2 {
        let answer = ask("/metrics");
        assert!(
            answer.starts_with("HTTP/1.1 500 ") && answer.ends_with("an answer over HTTP panicked: by the test\n"),
            "{answer}"
        );
    }
    let answer = ask("/healthz");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("alive\n"), "{answer}");
}

/// Nothing is lost with a round of upkeep: the job continues, and so does upkeep.
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

/// Without a checkpoint, the table only opens more slowly: commits continue, and so do later checkpoints.
#[tokio::test]
async fn a_checkpoint_panics() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let log = tracing_subscriber::fmt()
        .with_writer(Arc::new(file.reopen().expect("opened")))
        .with_ansi(false)
        .with_max_level(tracing::Level::WARN)
        .finish();
    let _here = tracing::subscriber::set_default(log);
    let store = Faulty::new(Arc::new(InMemory::new()));
    let root = Root::on(Arc::new(store.clone()));
    let log = Log::new(&root, "counts");
    let mut state = log.load_or_create(&counts::definition(2), 0).await.expect("a table");
    store.on("checkpoint.parquet", Fault::Panic);
    for version in 1..=200 {
        let commit = Commit { txns: vec![("lane/minute".to_owned(), version)], ..Commit::default() };
        log.commit(&mut state, &commit, "WRITE", 0).await.expect("committed");
        if version % 100 == 0 {
            root.finish(Duration::from_secs(60)).await;
            assert!(store.done(), "no checkpoint was tried");
            let newest = log.last_checkpoint().await.expect("readable");
            assert_eq!(newest, (version == 200).then_some(200), "at version {version}");
        }
    }
    let said = std::fs::read_to_string(file.path()).expect("UTF-8");
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("checkpoint not written")).collect();
    assert!(matches!(lines[..], [line] if line.contains("writing a checkpoint panicked: ")), "{said}");
}
