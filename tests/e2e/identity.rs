//! A topic that has changed: recreated, or with records deleted before they were archived.

use std::time::Duration;

use super::job::{PATIENCE, Scene, Store};
use super::kafka;
use super::servers::eventually;

/// Retention was faster than the job: the exact range is named, and `--accept-gap` continues after it.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn deleted_before_archived() {
    let scene = Scene::new("deleted", Store::Local, 1);
    scene.send(1, 100);
    scene.drain(1);
    scene.send(2, 100);
    kafka::delete_records(&scene.topic, 0, 150);
    let versions = scene.commits("raw");
    let log = scene.run(&["--drain"]).expect_exit(78);
    assert!(
        log.contains("deleted/0: offsets 100 to 149 were deleted from the topic before they were archived"),
        "{log}"
    );
    assert!(log.contains("--accept-gap"), "{log}");
    assert!(scene.commits("raw") <= versions + 1, "nothing but the fence");

    scene.run(&["--drain", "--accept-gap"]).expect_exit(0);
    scene.sent.lock().expect("no panic while locked").records.retain(|(_, offset), _| !(100..150).contains(offset));
    assert_eq!(scene.check_all().rows, 150);
    // The gap was accepted once; the next start needs no option.
    scene.send(3, 10);
    scene.drain(1);
    assert_eq!(scene.check_all().rows, 160);

    // If archived records are deleted, there is no gap, although the last of them can no longer be checked.
    kafka::delete_records(&scene.topic, 0, 210);
    scene.drain(1);
    scene.send(4, 10);
    scene.drain(1);
    assert_eq!(scene.check_all().rows, 170);
}

/// Everything is deleted, and nothing new arrives: a gap that was accepted once stays accepted.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn all_deleted_before_archived() {
    let scene = Scene::new("all-deleted", Store::Local, 1);
    scene.send(1, 100);
    scene.drain(1);
    scene.send(2, 100);
    kafka::delete_records(&scene.topic, 0, 200);
    let log = scene.run(&["--drain"]).expect_exit(78);
    assert!(log.contains("offsets 100 to 199 were deleted"), "{log}");
    scene.run(&["--drain", "--accept-gap"]).expect_exit(0);
    scene.drain(1);
    scene.send(3, 10);
    scene.drain(1);
    scene.sent.lock().expect("no panic while locked").records.retain(|(_, offset), _| !(100..200).contains(offset));
    assert_eq!(scene.check_all().rows, 110);
}

/// Recreated with fewer records than were archived: the archive ends after the end of the topic.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn made_anew_shorter() {
    let scene = Scene::new("anew-shorter", Store::Local, 1);
    scene.send(1, 100);
    scene.drain(1);
    kafka::delete_topic(&scene.topic);
    kafka::create_topic(&scene.topic, 1, &[("max.message.bytes", "4000000")]);
    scene.sent.lock().expect("no panic while locked").records.clear();
    scene.send(2, 40);
    let log = scene.run(&["--drain"]).expect_exit(78);
    assert!(log.contains("anew-shorter/0: the archive ends before offset 100, but the topic ends before 40"), "{log}");
    assert!(log.contains("offsets 0 to 39 are in doubt") && log.contains("--accept-gap"), "{log}");
    let rows = scene.check_counts().rows;
    assert_eq!(rows, 100);

    scene.run(&["--drain", "--accept-gap"]).expect_exit(0);
    scene.send(3, 10);
    scene.drain(2);
    // Offsets 0 to 49 are in `raw` twice now: they belong to two topics with the same name.
    assert_eq!(scene.newest_txn("raw", "kafka/anew-shorter/0"), 50);
    let checked = scene.check_twice(50);
    assert_eq!(checked.rows, 150);
}

/// Recreated with more records: the record at the last archived offset is a different one now.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn made_anew_longer() {
    let scene = Scene::new("anew-longer", Store::Local, 1);
    scene.send(1, 100);
    scene.drain(1);
    kafka::delete_topic(&scene.topic);
    kafka::create_topic(&scene.topic, 1, &[("max.message.bytes", "4000000")]);
    scene.sent.lock().expect("no panic while locked").records.clear();
    scene.send(2, 140);
    let log = scene.run(&["--drain"]).expect_exit(78);
    assert!(log.contains("anew-longer/0: the record at offset 99 is not the one that was archived last"), "{log}");
    assert!(log.contains("--accept-gap"), "{log}");

    // "The job continues with the oldest record in the topic."
    scene.run(&["--drain", "--accept-gap"]).expect_exit(0);
    assert_eq!(scene.newest_txn("raw", "kafka/anew-longer/0"), 140);
    let checked = scene.check_twice(100);
    assert_eq!(checked.rows, 240);
}

/// Retention overtakes a job that runs but is slow: it ends, and the next start names the range.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn deleted_while_running() {
    let scene = Scene::new("deleted-running", Store::Local, 1);
    scene.send(1, 100);
    let mut job = scene.run(&["--workers", "1"]);
    eventually("the first records are archived", PATIENCE, || {
        (scene.newest_txn("raw", "kafka/deleted-running/0") == 100).then_some(())
    });
    job.signal("STOP");
    // More than the client has requested already.
    scene.send(2, 60_000);
    kafka::delete_records(&scene.topic, 0, 60_000);
    job.signal("CONT");
    let log = job.expect_exit(75);
    assert!(log.contains("this offset is no longer in the topic") && log.contains("start again"), "{log}");
    let next = scene.newest_txn("raw", "kafka/deleted-running/0");
    let log = scene.run(&["--drain"]).expect_exit(78);
    assert!(log.contains(&format!("offsets {next} to 59999 were deleted")), "next {next}: {log}");
    scene.run(&["--drain", "--accept-gap"]).expect_exit(0);
    scene.sent.lock().expect("no panic while locked").records.retain(|(_, at), _| *at < next || *at >= 60_000);
    scene.check_all();
}

/// The topic is deleted and recreated while a job runs.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn made_anew_while_running() {
    let scene = Scene::new("anew-running", Store::Local, 1);
    scene.send(1, 100);
    let mut job = scene.run(&["--workers", "1"]);
    eventually("the first records are archived", PATIENCE, || {
        (scene.newest_txn("raw", "kafka/anew-running/0") == 100).then_some(())
    });
    kafka::delete_topic(&scene.topic);
    kafka::create_topic(&scene.topic, 1, &[("max.message.bytes", "4000000")]);
    scene.sent.lock().expect("no panic while locked").records.clear();
    scene.send(2, 40);
    let status = job.wait(Duration::from_secs(60));
    assert_eq!(status.code(), Some(75), "{status}\n{}", job.tail());
    let log = scene.run(&["--drain"]).expect_exit(78);
    assert!(log.contains("the archive ends before offset 100, but the topic ends before 40"), "{log}");
}
