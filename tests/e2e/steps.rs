//! `kill -9` before and after each durable step. The durable steps of a run are its writes to the store; a proxy counts them.

use std::time::Instant;

use super::job::{Job, PATIENCE, Scene, Store};
use super::kafka;
use super::proxy::{Harm, Proxy};
use super::servers::eventually;
use super::traffic::Traffic;

/// The number of records in each of the two epochs.
const RECORDS: u64 = 40;

/// A scene with one customer, so that few files are written, and with an epoch for whatever was read at once.
fn scene(name: &str) -> Scene {
    let scene = Scene::new(name, Store::S3, 1);
    scene.edit("epoch_bytes = 262144", "epoch_bytes = 1000");
    scene
}

fn start(scene: &Scene, proxy: &Proxy) -> Job {
    let mut command = scene.command("run", &["--workers", "2"]);
    command.env("S3_ENDPOINT", proxy.endpoint());
    let job = scene.spawn(command);
    proxy.victim(job.id());
    job
}

fn send(scene: &Scene, seed: u64) {
    Traffic::start_for(scene, seed, 1, 0.0, RECORDS).finish();
}

/// A start on empty tables, two rounds of records, and an orderly stop. Returns early if the job is killed.
fn live(scene: &Scene, job: &mut Job) -> bool {
    for round in 0..2 {
        if round > 0 {
            send(scene, 2);
        }
        let end = kafka::watermarks(&scene.topic, 0).1;
        let done = eventually("the round's commits, or the kill", PATIENCE, || {
            if job.ended().is_some() {
                return Some(false);
            }
            // All records are archived, and every epoch is published.
            let archived = scene.newest_txn("raw", &format!("kafka/{}/0", scene.topic));
            let epoch = scene.newest_txn("raw", "epoch");
            (archived >= end && scene.newest_txn("counts", "lane/minute") == epoch).then_some(true)
        });
        if !done {
            return false;
        }
    }
    job.signal("TERM");
    let status = job.wait(PATIENCE);
    status.code() == Some(0)
}

#[test]
#[ignore = "e2e: real Kafka and S3"]
fn kill_after_every_durable_step() {
    kill_at_every_durable_step("after", Harm::KillAfter);
}

#[test]
#[ignore = "e2e: real Kafka and S3"]
fn kill_before_every_durable_step() {
    kill_at_every_durable_step("before", Harm::KillBefore);
}

fn kill_at_every_durable_step(when: &str, harm_at: fn(usize) -> Harm) {
    let began = Instant::now();
    let steps = {
        let scene = scene(&format!("steps-{when}-count"));
        send(&scene, 1);
        let proxy = Proxy::start(Harm::None);
        let mut job = start(&scene, &proxy);
        assert!(live(&scene, &mut job), "the run without kills\n{}", job.tail());
        scene.check_all();
        proxy.writes()
    };
    eprintln!("{} durable steps:\n  {}", steps.len(), steps.join("\n  "));
    assert!(steps.len() >= 14, "tables, fences, the logic, two epochs and a stop are more");
    let mut reached = 0;
    for step in 1..=steps.len() {
        let harm = harm_at(step);
        let scene = scene(&format!("steps-{when}-{step}"));
        send(&scene, 1);
        let proxy = Proxy::start(harm);
        let mut job = start(&scene, &proxy);
        let whole = live(&scene, &mut job);
        if whole {
            // Where epochs end depends on when records arrive, so a run may have a step or two less.
            assert!(!proxy.killed(), "{harm:?}: killed, but it ended in order");
        } else {
            assert!(proxy.killed(), "{harm:?}: it ended, and was not killed\n{}", job.tail());
            reached += 1;
        }
        let sent = scene.sent.lock().expect("no panic while locked").records.len() as u64;
        if sent < 2 * RECORDS {
            send(&scene, 2);
        }
        scene.drain(1 + step % 3);
        let checked = scene.check_all();
        assert_eq!(checked.rows, 2 * RECORDS, "{harm:?}: rows of raw");
    }
    eprintln!(
        "{reached} kills {when} {} steps in {:.0} s, exact after each",
        steps.len(),
        began.elapsed().as_secs_f64()
    );
    assert!(reached + 3 >= steps.len(), "only {reached} of {} kills happened", steps.len());
}

/// The server does what each commit asks, but its reply never arrives: the outcome is unknown, and the job must find out.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn reply_lost() {
    let scene = scene("reply-lost");
    send(&scene, 1);
    let proxy = Proxy::start(Harm::LoseCommitReplies);
    let mut job = start(&scene, &proxy);
    assert!(live(&scene, &mut job), "{}", job.tail());
    let checked = scene.check_all();
    assert_eq!(checked.rows, 2 * RECORDS);
    let commits = scene.commits("raw") + scene.commits("counts");
    assert_eq!(proxy.lost(), commits, "each commit's first reply was lost");
    eprintln!("{commits} commits whose first reply was lost, exact");
}

/// A store that often fails, in reads and in writes, before and after it has done what was asked.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn flaky_store() {
    let scene = Scene::new("flaky", Store::S3, 3);
    let traffic = scene.traffic(9, 500.0);
    let proxy = Proxy::start(Harm::Flaky(7));
    for workers in 1..=3 {
        let mut command = scene.command("run", &["--workers", &workers.to_string()]);
        command.env("S3_ENDPOINT", proxy.endpoint());
        let mut job = scene.spawn(command);
        scene.await_commits(&mut job, 5);
        match workers {
            1 => job.stop(),
            _ => job.kill(),
        }
    }
    traffic.stop();
    scene.drain(2);
    scene.check_all();
    eprintln!("{} requests went wrong, exact", proxy.wrong());
}
