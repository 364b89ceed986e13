//! Where a first start begins, and what is refused before any table is made.

use std::process::Command;

use floodmark::dev::Generated;
use rdkafka::producer::Producer;

use super::job::{PATIENCE, Scene, Store};
use super::kafka;
use super::traffic::{Maker, producer, send};

/// Only what arrives after the first start is read, in every partition; a second start does not change that.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn start_latest() {
    let scene = Scene::new("start-latest", Store::Local, 3);
    scene.edit("# start = \"earliest\"", "start = \"latest\"");
    scene.edit("epoch_seconds = 1\n", "epoch_seconds = 1\nidle_epoch_seconds = 1\n");
    scene.send(1, 500);
    scene.sent.lock().expect("no panic while locked").records.clear();
    let mut job = scene.run(&["--workers", "2"]);
    scene.await_commits(&mut job, 3);
    scene.send(2, 300);
    job.kill();
    scene.send(3, 200);
    scene.drain(1);
    let checked = scene.check_all();
    assert_eq!(checked.rows, 500);
}

/// Reading begins at the first record whose Kafka timestamp is at or after the time.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn start_at_a_time() {
    let scene = Scene::new("start-time", Store::Local, 2);
    scene.edit("# start = \"earliest\"", "start = \"2026-01-13T00:00:10Z\"");
    let first_ms = 1_768_262_400_000;
    let producer = producer(&scene.sent, &Default::default(), &[]);
    let (mut maker, mut record) = (Maker::new(true, 1, 10, 2), Generated::default());
    for second in 0..20 {
        maker.make(&mut record);
        record.timestamp_ms = first_ms + second * 1000;
        record.partition = (second % 2) as i32;
        send(&producer, &scene.topic, &record);
    }
    // In partition 1, offsets 5 to 9 remain, and in partition 0 as many.
    Producer::flush(&producer, PATIENCE).expect("all records are acknowledged");
    scene.sent.lock().expect("no panic while locked").records.retain(|(_, offset), _| *offset >= 5);
    scene.drain(2);
    let checked = scene.check_all();
    assert_eq!(checked.rows, 10);
}

/// Partitions that are added while the job runs are read from their beginning.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn new_partitions() {
    let scene = Scene::new("new-partitions", Store::Local, 1);
    scene.edit("# start = \"earliest\"", "start = \"latest\"");
    scene.edit("epoch_seconds = 1\n", "epoch_seconds = 1\nidle_epoch_seconds = 1\n");
    let mut job = scene.run(&["--workers", "3"]);
    scene.await_commits(&mut job, 2);
    scene.send(1, 200);
    kafka::add_partitions(&scene.topic, 4);
    scene.send(2, 400);
    let log = format!("kafka/{}/3", scene.topic);
    super::servers::eventually("partition 3 is archived", PATIENCE, || {
        job.assert_alive();
        (scene.newest_txn("raw", &log) > 0).then_some(())
    });
    job.kill();
    // Added while no job runs: these are also read from their beginning, although the job file says "latest".
    kafka::add_partitions(&scene.topic, 6);
    scene.send(3, 600);
    scene.drain(2);
    let checked = scene.check_all();
    assert_eq!(checked.rows, 1200);
}

#[test]
#[ignore = "e2e: real Kafka and S3"]
fn refused() {
    // A topic that does not exist is named in the error, and is not created.
    let scene = Scene::new("no-such-topic", Store::Local, 0);
    let log = scene.run(&[]).expect_exit(78);
    assert!(log.contains("no topic \"no-such-topic\"") && log.contains("create it"), "{log}");
    assert_eq!(kafka::partitions("no-such-topic"), 0);
    assert_eq!(scene.commits("raw"), 0);

    // A compacted topic loses records that were counted.
    let scene = Scene::new("compacted", Store::Local, 0);
    kafka::create_topic("compacted", 1, &[("cleanup.policy", "compact,delete")]);
    let log = scene.run(&[]).expect_exit(78);
    assert!(log.contains("topic compacted has cleanup.policy="), "{log}");
    assert_eq!(scene.commits("raw"), 0);

    // A job file that is not valid: the error has its line and the nearest key.
    let scene = Scene::new("garbage", Store::Local, 0);
    scene.edit("epoch_seconds = 1\n", "epoch_secnds = 1\n");
    let log = scene.run(&[]).expect_exit(78);
    assert!(log.contains("epoch_secnds") && log.contains("epoch_seconds"), "{log}");
    std::fs::write(&scene.job_file, b"\x00\xff garbage").expect("the job file is written");
    scene.run(&[]).expect_exit(78);
    std::fs::remove_file(&scene.job_file).expect("the job file is removed");
    scene.run(&[]).expect_exit(78);

    // Properties that the client does not know.
    let scene = Scene::new("wrong-property", Store::Local, 0);
    scene.edit("[source.kafka]\n", "[source.kafka]\n\"no.such.property\" = 1\n");
    let log = scene.run(&[]).expect_exit(78);
    assert!(log.contains("no.such.property"), "{log}");

    for arguments in [
        &["run"][..],
        &["run", "job.toml", "--no-such-option"],
        &["run", "job.toml", "--workers", "0"],
        &["no-such-command"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_floodmark")).args(arguments).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
}

/// Every codec that producers use, and timestamps set by the broker instead of the producer.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn codecs_and_log_append_time() {
    let scene = Scene::new("codecs", Store::Local, 0);
    kafka::create_topic("codecs", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let (mut maker, mut record) = (Maker::new(true, 8, 10, 1), Generated::default());
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let producer = producer(&scene.sent, &Default::default(), &[("compression.type", codec)]);
        for _ in 0..50 {
            maker.make(&mut record);
            record.timestamp_ms = 0;
            send(&producer, &scene.topic, &record);
        }
        Producer::flush(&producer, PATIENCE).expect("all records are acknowledged");
    }
    scene.drain(2);
    assert_eq!(scene.check_all().rows, 250);
    scene.drain(1);
}
