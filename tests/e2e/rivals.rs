//! A second copy of a job, and other numbers of workers.

use std::thread;
use std::time::Duration;

use super::job::{PATIENCE, Scene, Store};
use super::servers::eventually;

/// Promise 6: the copy that was started later continues; the other one reports that and stops.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn second_copy() {
    for store in [Store::Local, Store::S3] {
        let scene = Scene::new(&format!("second-copy-{store:?}").to_lowercase(), store, 4);
        let traffic = scene.traffic(1, 500.0);
        let mut first = scene.run(&["--workers", "2"]);
        scene.await_commits(&mut first, 5);
        let mut second = scene.run(&["--workers", "1"]);
        let status = first.wait(Duration::from_secs(60));
        assert_eq!(status.code(), Some(76), "{status}\n{}", first.tail());
        let log = first.log();
        assert!(log.contains("belongs to writer generation 2, ours is 1"), "{log}");
        assert!(log.contains("do not restart this one") && !log.contains("panicked"), "{log}");
        scene.await_commits(&mut second, 3);
        traffic.stop();
        second.stop();
        scene.drain(2);
        scene.check_all();
    }
}

/// Many copies at once: the one that was fenced last continues, and all others end with 76.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn many_copies() {
    let scene = Scene::new("many-copies", Store::S3, 4);
    let traffic = scene.traffic(1, 500.0);
    let mut jobs: Vec<_> = (0..4).map(|_| scene.run(&["--workers", "1"])).collect();
    let mut survivors = Vec::new();
    eventually("one copy is left", PATIENCE, || {
        survivors = (0..jobs.len()).filter(|index| jobs[*index].ended().is_none()).collect();
        (survivors.len() <= 1).then_some(())
    });
    assert_eq!(survivors.len(), 1, "all copies ended\n{}", jobs[0].tail());
    let mut survivor = jobs.remove(survivors[0]);
    for job in &mut jobs {
        job.expect_exit(76);
    }
    scene.await_commits(&mut survivor, 3);
    traffic.stop();
    survivor.stop();
    scene.drain(1);
    scene.check_all();
}

/// Promise 2: nothing depends on the number of workers.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn rescale() {
    let scene = Scene::new("rescale", Store::Local, 6);
    let traffic = scene.traffic(3, 1500.0);
    for workers in ["1", "4", "2"] {
        let mut job = scene.run(&["--workers", workers]);
        scene.await_commits(&mut job, 4);
        job.stop();
        // Not all that was sent is in the archive yet; what is there is published in all lanes.
        let checked = scene.check_counts();
        checked.assert_level(&scene);
    }
    traffic.stop();
    scene.drain(3);
    scene.check_all();
}

/// A second signal ends the job immediately; the next start continues.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn two_signals() {
    let scene = Scene::new("two-signals", Store::Local, 2);
    let traffic = scene.traffic(4, 500.0);
    let mut job = scene.run(&["--workers", "2"]);
    scene.await_commits(&mut job, 3);
    job.signal("INT");
    job.signal("INT");
    let code = job.wait(Duration::from_secs(20)).code();
    assert!(matches!(code, Some(0 | 130)), "{code:?}\n{}", job.tail());
    traffic.stop();
    scene.drain(2);
    scene.check_all();
}

/// A copy that was frozen while another took over wakes up. It must not commit, wherever it was frozen.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn zombie_wakes() {
    let scene = Scene::new("zombie", Store::S3, 4);
    scene.edit("epoch_bytes = 262144", "epoch_bytes = 50000");
    let traffic = scene.traffic(5, 1000.0);
    let mut job = scene.run(&["--workers", "2"]);
    for round in 0..4 {
        scene.await_commits(&mut job, 3 + round);
        job.signal("STOP");
        let mut next = scene.run(&["--workers", "1"]);
        scene.await_commits(&mut next, 3);
        job.signal("CONT");
        job.expect_exit(76);
        job = next;
    }
    traffic.stop();
    job.stop();
    scene.drain(2);
    scene.check_all();
}

/// SIGTERM at any moment, including the start, the feeding from the archive, and a commit: all lanes are published.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn stop_at_any_moment() {
    let scene = Scene::new("stop-any", Store::Local, 4);
    let traffic = scene.traffic(6, 1000.0);
    for round in 0..12 {
        // Something to feed from the archive.
        let mut killed = scene.run(&["--workers", "2"]);
        scene.await_commits(&mut killed, 2);
        killed.kill();
        let job = scene.run(&["--workers", "2"]);
        // The moment is what is tested here; this does not wait for anything.
        thread::sleep(Duration::from_millis(60 + 60 * round));
        job.stop();
        scene.check_counts().assert_level(&scene);
    }
    traffic.stop();
    scene.drain(2);
    scene.check_all();
}

/// A stop right after the commit that calls for a checkpoint waits for the checkpoint, and does not interrupt it.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn stop_while_a_checkpoint_is_written() {
    let scene = Scene::new("checkpoint", Store::S3, 1);
    scene.edit("epoch_bytes = 262144", "epoch_bytes = 1000");
    let traffic = scene.traffic(7, 200.0);
    let mut job = scene.run(&["--workers", "1"]);
    eventually("nearly a hundred versions", PATIENCE, || (scene.commits("raw") >= 90).then_some(()));
    traffic.stop();
    job.kill();
    // A drain commits a fence and an epoch. The epoch is to be version 100, and the last thing that the drain does to this table.
    while scene.commits("raw") <= 100 {
        let version = scene.commits("raw") - 1;
        if version.is_multiple_of(2) {
            scene.drain(1);
        } else {
            let mut fenced = scene.run(&["--workers", "1"]);
            eventually("the fence", PATIENCE, || (scene.commits("raw") - 1 > version).then_some(()));
            fenced.kill();
        }
    }
    let checkpoints = scene.log_files("raw").into_iter().filter(|name| name.contains("100.checkpoint")).count();
    assert_eq!(checkpoints, 1, "{:?}", scene.log_files("raw"));
    scene.drain(2);
    scene.check_all();
}
