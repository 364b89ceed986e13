//! Records of transactions: aborted ones do not count, and a drain ends although the end offset is never delivered.

use floodmark::dev::Generated;
use rdkafka::producer::Producer;

use super::job::{PATIENCE, Scene, Store};
use super::kafka;
use super::servers::eventually;
use super::traffic::{Maker, producer, send};

#[test]
#[ignore = "e2e: real Kafka and S3"]
fn transactions() {
    let scene = Scene::new("transactions", Store::Local, 2);
    let producer = producer(&scene.sent, &Default::default(), &[("transactional.id", "e2e")]);
    producer.init_transactions(PATIENCE).expect("a transactional producer");
    let (mut maker, mut record) = (Maker::new(true, 1, 20, 2), Generated::default());
    let mut transaction = |records: usize| {
        producer.begin_transaction().expect("a transaction");
        for _ in 0..records {
            maker.make(&mut record);
            send(&producer, &scene.topic, &record);
        }
        producer.flush(PATIENCE).expect("all records are acknowledged");
    };
    let sent = || scene.sent.lock().expect("no panic while locked");
    let abort = |before: &std::collections::BTreeMap<(i32, i64), String>| {
        producer.abort_transaction(PATIENCE).expect("aborted");
        sent().records.clone_from(before);
    };

    transaction(50);
    producer.commit_transaction(PATIENCE).expect("committed");
    let committed = sent().records.clone();
    transaction(30);
    abort(&committed);
    scene.drain(2);
    assert_eq!(scene.check_all().rows, 50);

    // Killed, and started again after the marker of an aborted transaction, whose offsets hold no record that could be checked.
    transaction(20);
    producer.commit_transaction(PATIENCE).expect("committed");
    let committed = sent().records.clone();
    transaction(10);
    abort(&committed);
    scene.drain(1);
    assert_eq!(scene.check_all().rows, 70);
    scene.drain(1);
    assert_eq!(scene.check_all().rows, 70);

    // A transaction that is still open: a drain ends before it, and a later one reads its records.
    transaction(40);
    let open = sent().records.clone();
    sent().records.clone_from(&committed);
    scene.drain(2);
    assert_eq!(scene.check_all().rows, 70);
    producer.commit_transaction(PATIENCE).expect("committed");
    sent().records = open;
    scene.drain(2);
    assert_eq!(scene.check_all().rows, 110);
    assert!(kafka::watermarks(&scene.topic, 0).1 > 0);
}

/// Waits for the end offset: markers are written shortly after the producer's answer.
fn ends_at(scene: &Scene, end: i64) {
    eventually("the transaction's marker", PATIENCE, || (kafka::watermarks(&scene.topic, 0).1 == end).then_some(()));
}

/// Transaction markers, and records of aborted transactions, are not records. At the end of a log they are not lag, and when retention
/// deletes them they are not a gap. The last archived record is known even if they follow it.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn markers_at_the_end_are_no_lag_and_no_gap() {
    let scene = Scene::new("markers", Store::Local, 1);
    let producer = producer(&scene.sent, &Default::default(), &[("transactional.id", "markers")]);
    producer.init_transactions(PATIENCE).expect("a transactional producer");
    let (mut maker, mut record) = (Maker::new(true, 1, 20, 1), Generated::default());
    let mut transaction = |records: usize, commits: bool, end: i64| {
        let before = scene.sent.lock().expect("no panic while locked").records.clone();
        producer.begin_transaction().expect("a transaction");
        for _ in 0..records {
            maker.make(&mut record);
            send(&producer, &scene.topic, &record);
        }
        producer.flush(PATIENCE).expect("all records are acknowledged");
        if commits {
            producer.commit_transaction(PATIENCE).expect("committed");
        } else {
            producer.abort_transaction(PATIENCE).expect("aborted");
            scene.sent.lock().expect("no panic while locked").records = before;
        }
        ends_at(&scene, end);
    };
    let next = || scene.newest_txn("raw", "kafka/markers/0");
    let last = || scene.newest_txn("raw", "kafka/markers/0/last");
    let lag = || scene.status(&[])["partitions"][0]["lag_records"].as_i64();
    let drains = |rows: u64| {
        scene.drain(1);
        assert_eq!(scene.check_all().rows, rows);
        assert_eq!(lag(), Some(0));
    };

    // Two records and a marker; retention deletes all of them.
    transaction(2, true, 3);
    drains(2);
    assert_eq!((next(), last()), (3, 1));
    kafka::delete_records(&scene.topic, 0, 3);
    drains(2);

    // Aborted at the end: checked while no job runs, then read past by a job, then deleted by retention.
    transaction(3, false, 7);
    assert_eq!(lag(), Some(0));
    drains(2);
    assert_eq!((next(), last()), (7, 1));
    kafka::delete_records(&scene.topic, 0, 7);
    drains(2);

    // Aborted in the middle. A record that was not read yet is lag.
    transaction(3, false, 11);
    transaction(2, true, 14);
    assert!(lag().is_some_and(|lag| lag > 0));
    drains(4);
    assert_eq!((next(), last()), (14, 12));
    transaction(1, false, 16);
    drains(4);
    assert_eq!((next(), last()), (16, 12));

    // Retention deletes records that were not archived: that is a gap, although there are markers among them.
    transaction(2, true, 19);
    kafka::delete_records(&scene.topic, 0, 19);
    let log = scene.run(&["--drain"]).expect_exit(78);
    assert!(log.contains("markers/0: offsets 16 to 18 were deleted"), "{log}");
    scene.run(&["--drain", "--accept-gap"]).expect_exit(0);
    scene.sent.lock().expect("no panic while locked").records.retain(|(_, offset), _| *offset < 16);
    drains(4);
    assert_eq!((next(), last()), (19, 12));
}

/// A recreated topic is recognised, although markers follow the record that was archived last.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn made_anew_behind_markers() {
    let scene = Scene::new("markers-anew", Store::Local, 1);
    let producer = producer(&scene.sent, &Default::default(), &[("transactional.id", "anew")]);
    producer.init_transactions(PATIENCE).expect("a transactional producer");
    let (mut maker, mut record) = (Maker::new(true, 1, 20, 1), Generated::default());
    for commits in [true, false] {
        producer.begin_transaction().expect("a transaction");
        for _ in 0..5 {
            maker.make(&mut record);
            send(&producer, &scene.topic, &record);
        }
        producer.flush(PATIENCE).expect("all records are acknowledged");
        match commits {
            true => producer.commit_transaction(PATIENCE).expect("committed"),
            false => producer.abort_transaction(PATIENCE).expect("aborted"),
        }
    }
    ends_at(&scene, 12);
    scene.drain(1);
    scene.drain(1);
    drop(producer);
    kafka::delete_topic(&scene.topic);
    kafka::create_topic(&scene.topic, 1, &[("max.message.bytes", "4000000")]);
    scene.sent.lock().expect("no panic while locked").records.clear();
    scene.send(2, 40);
    let log = scene.run(&["--drain"]).expect_exit(78);
    assert!(log.contains("markers-anew/0: the record at offset 4 is not the one that was archived last"), "{log}");
}
