//! Servers that go away and come back, and a server that refuses requests.

use std::thread;
use std::time::Duration;

use super::job::{PATIENCE, Scene, Store};
use super::servers::{Outage, eventually};

/// How long they are away.
const AWAY: Duration = Duration::from_secs(4);

/// The job waits while the broker is away. A job that is started meanwhile reports it, and may be started again.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn broker_away() {
    let scene = Scene::new("broker-away", Store::Local, 4);
    let traffic = scene.traffic(1, 800.0);
    let mut job = scene.run(&["--workers", "2"]);
    scene.await_commits(&mut job, 4);

    let outage = Outage::of("kafka");
    let other = Scene::new("broker-away-at-start", Store::Local, 0);
    let mut started = other.run(&[]);
    let log = started.expect_exit(75);
    assert!(log.contains("the brokers do not answer") && log.contains("bootstrap.servers"), "{log}");
    assert_eq!(other.commits("raw"), 0, "nothing is made before the brokers have answered");
    job.assert_alive();
    drop(outage);

    let acknowledged = traffic.acknowledged();
    eventually("records are sent again", PATIENCE, || (traffic.acknowledged() > acknowledged + 2000).then_some(()));
    scene.await_commits(&mut job, 4);
    traffic.stop();
    job.stop();
    scene.drain(1);
    scene.check_all();
}

/// While the store is away, epochs wait, and so does reading.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn bucket_away() {
    let scene = Scene::new("bucket-away", Store::S3, 4);
    let traffic = scene.traffic(1, 800.0);
    let mut job = scene.run(&["--workers", "2"]);
    scene.await_commits(&mut job, 4);

    let outage = Outage::of("s3");
    // The length of the outage; this does not wait for anything.
    thread::sleep(AWAY);
    job.assert_alive();
    drop(outage);
    scene.await_commits(&mut job, 4);

    // The same for a job that is started meanwhile: it waits, or reports that it may be started again.
    job.kill();
    let outage = Outage::of("s3");
    let mut started = scene.run(&["--workers", "2"]);
    thread::sleep(AWAY);
    let ended = started.ended();
    drop(outage);
    match ended {
        None => scene.await_commits(&mut started, 4),
        Some(status) => {
            assert_eq!(status.code(), Some(75), "{status}\n{}", started.tail());
            assert!(started.log().contains("check that the store is reachable"), "{}", started.tail());
        }
    }
    started.kill();
    traffic.stop();
    scene.drain(3);
    scene.check_all();
}

/// Wrong keys are reported immediately, with what to check, and nothing is retried for ever.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn wrong_credentials() {
    let scene = Scene::new("wrong-credentials", Store::S3, 1);
    scene.send(1, 10);
    for (name, value, says) in [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "refuses the keys"),
        ("AWS_ACCESS_KEY_ID", "nobody", "refuses the keys"),
        ("FLOODMARK_TABLES", "s3://no-such-bucket/x", "no such bucket"),
    ] {
        let mut command = scene.command("run", &["--drain"]);
        command.env(name, value);
        let mut job = scene.spawn(command);
        let status = job.wait(PATIENCE);
        let log = job.log();
        eprintln!("{name}={value}: {status}: {}", log.lines().last().unwrap_or_default());
        assert_eq!(status.code(), Some(78), "{status}\n{}", job.tail());
        assert!(log.contains(says), "{log}");
        assert!(!log.contains("panicked"), "{log}");
    }
    scene.drain(1);
    scene.check_all();
}
