//! Records of transactions: aborted ones do not count, and a drain ends although the end offset is never delivered.

use floodmark::dev::Generated;
use rdkafka::producer::Producer;

use super::job::{PATIENCE, Scene, Store};
use super::kafka;
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

    // Killed and started again behind the marker of an aborted transaction, whose offsets hold no record that can be checked.
    transaction(20);
    producer.commit_transaction(PATIENCE).expect("committed");
    let committed = sent().records.clone();
    transaction(10);
    abort(&committed);
    scene.drain(1);
    assert_eq!(scene.check_all().rows, 70);
    scene.drain(1);
    assert_eq!(scene.check_all().rows, 70);

    // One that is still open: a drain ends before it, a later one has its records.
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
