//! A broker that requires TLS and a password and grants rights by topic: what a job needs, and what it reports if something is missing.

use std::sync::OnceLock;

use super::job::{PATIENCE, Scene, Store};
use super::kafka;
use super::servers::{eventually, servers};

/// Prefixes of the topics that the job's user may read, and of those that it may only describe.
const READABLE: &str = "secure-";
const DESCRIBED: &str = "described-";

type Env = Vec<(String, String)>;

/// A name; the variables that are wrong; the exit code; what the last line says.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], i32, &'a [&'a str]);

/// The variables for reaching the broker by TLS, with changes.
fn secure(changes: &[(&str, &str)]) -> Env {
    static GRANTED: OnceLock<()> = OnceLock::new();
    GRANTED.get_or_init(|| {
        servers().script("kafka", &["grant", "Read", READABLE]);
        servers().script("kafka", &["grant", "Describe", DESCRIBED]);
    });
    let mut env = servers().secure.clone();
    env.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    env
}

fn run(scene: &Scene, env: &Env, arguments: &[&str]) -> super::job::Job {
    let mut command = scene.command("run", arguments);
    command.envs(env.iter().map(|(name, value)| (name, value)));
    scene.spawn(command)
}

/// TLS with PLAIN, then the same job with SCRAM. The only right that it needs is READ on its topic.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn reads_by_tls_with_plain_and_with_scram() {
    let scene = Scene::new("secure-counts", Store::Local, 3);
    for (seed, mechanism) in [(1, "PLAIN"), (2, "SCRAM-SHA-512")] {
        scene.send(seed, 300);
        let env = secure(&[("KAFKA_SASL_MECHANISM", mechanism)]);
        let log = run(&scene, &env, &["--drain", "--workers", "2"]).expect_exit(0);
        assert!(
            log.contains("make sure that its cleanup.policy is delete") && log.contains("DESCRIBE_CONFIGS"),
            "{log}"
        );
        assert_eq!(scene.check_all().rows, seed * 300);
        let status = scene.status(&env);
        assert_eq!(status["notes"], serde_json::json!([]), "{status}");
        assert!(
            status["partitions"].as_array().is_some_and(|all| all.iter().all(|it| it["lag_records"] == 0)),
            "{status}"
        );
    }
    // The rest is read from the tables; the cause is a note.
    let status = scene.status(&secure(&[("KAFKA_SASL_PASSWORD", "wrong")]));
    let note = status["notes"][0].as_str().unwrap_or_default();
    assert!(note.contains("the brokers refuse the client") && note.contains("sasl.password"), "{status}");
}

/// None of these corrects itself: 78, with the cause and what to correct. What may be temporary is 75, with the client's error.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn what_is_wrong_with_the_brokers_is_named() {
    let scene = Scene::new("secure-wrong", Store::Local, 1);
    kafka::create_topic("hidden", 1, &[]);
    kafka::create_topic("described-only", 1, &[]);
    let (plain, tls) = (servers().brokers.clone(), secure(&[])[0].1.clone());
    let other_ca = servers().dir.join("kafka/tls/other-ca.pem").display().to_string();
    let nobody = "127.0.0.1:1";
    let cases: [Case<'_>; 11] = [
        (
            "password, SCRAM",
            &[("KAFKA_SASL_PASSWORD", "wrong")],
            78,
            &[
                "the brokers refuse the client",
                "SASL authentication error",
                "correct \"sasl.username\", \"sasl.password\"",
            ],
        ),
        (
            "password, PLAIN",
            &[("KAFKA_SASL_PASSWORD", "wrong"), ("KAFKA_SASL_MECHANISM", "PLAIN")],
            78,
            &[
                "the brokers refuse the client",
                "SASL authentication error",
                "correct \"sasl.username\", \"sasl.password\"",
            ],
        ),
        ("user", &[("KAFKA_SASL_USERNAME", "nobody")], 78, &["the brokers refuse the client", "\"sasl.username\""]),
        ("mechanism", &[("KAFKA_SASL_MECHANISM", "SCRAM-SHA-256")], 78, &["mechanism", "\"sasl.mechanism\""]),
        ("CA", &[("KAFKA_SSL_CA_LOCATION", &other_ca)], 78, &["certificate verify failed", "\"ssl.ca.location\""]),
        ("topic", &[("FLOODMARK_TOPIC", "secure-nowhere")], 78, &["no topic \"secure-nowhere\"", "create it"]),
        ("rights", &[("FLOODMARK_TOPIC", "hidden")], 78, &["deny access to topic \"hidden\"", "DESCRIBE and READ"]),
        (
            "rights to read",
            &[("FLOODMARK_TOPIC", "described-only")],
            78,
            &["deny access to topic \"described-only\"", "DESCRIBE and READ"],
        ),
        (
            "TLS to the plain port",
            &[("KAFKA_BOOTSTRAP", &plain)],
            75,
            // The client adds "connecting to a PLAINTEXT broker listener?" to most of its complaints, but not to each.
            &["the brokers do not answer", "SSL connection closed by peer", "security.protocol"],
        ),
        (
            "plain to the port of TLS",
            &[("KAFKA_BOOTSTRAP", &tls), ("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT")],
            75,
            &["the brokers do not answer", "security.protocol"],
        ),
        (
            "nobody there",
            &[("KAFKA_BOOTSTRAP", nobody)],
            75,
            &["the brokers do not answer", "Connection refused", "bootstrap.servers"],
        ),
    ];
    // Concurrently, since some of them wait until a time limit.
    let jobs = cases.map(|(what, changes, code, says)| (what, code, says, run(&scene, &secure(changes), &["--drain"])));
    for (what, code, says, mut job) in jobs {
        let log = job.expect_exit(code);
        let word = log.lines().rfind(|line| line.starts_with("floodmark: ")).unwrap_or_default();
        for said in says {
            assert!(word.contains(said), "{what}: {said:?} is not in {word:?}\n{log}");
        }
        assert!(!log.contains("wrong\""), "{what}: the password is in the log");
    }
}

/// In the middle of a run, the same may be temporary: 75, and the next start shows whether it persists.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn a_right_that_is_taken_back_ends_the_job() {
    let scene = Scene::new("taken-back", Store::Local, 1);
    servers().script("kafka", &["grant", "Read", "taken-"]);
    scene.send(1, 100);
    let env = secure(&[]);
    let mut job = run(&scene, &env, &["--workers", "1"]);
    eventually("all records are archived", PATIENCE, || {
        job.assert_alive();
        (scene.newest_txn("raw", "kafka/taken-back/0") == 100).then_some(())
    });
    servers().script("kafka", &["revoke", "Read", "taken-"]);
    let log = job.expect_exit(75);
    assert!(log.contains("taken-back/0") && log.contains("Topic authorization failed"), "{log}");
    let log = run(&scene, &env, &["--drain"]).expect_exit(78);
    assert!(log.contains("deny access to topic \"taken-back\""), "{log}");
    servers().script("kafka", &["grant", "Read", "taken-"]);
    scene.send(2, 10);
    run(&scene, &env, &["--drain"]).expect_exit(0);
    assert_eq!(scene.check_all().rows, 110);
}
