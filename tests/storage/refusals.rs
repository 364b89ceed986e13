//! What commands report when the store refuses: one exit code and one cause, whichever command it is.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use floodmark::process::Exit;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::S3;

/// The time limit for what must happen, but may take long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A topic without records, a job file, and the environment that configures the store.
struct Scene {
    folder: tempfile::TempDir,
    _broker: MockCluster<'static, DefaultProducerContext>,
    env: BTreeMap<String, String>,
}

impl Scene {
    fn new(s3: &BTreeMap<String, String>) -> Scene {
        let folder = tempfile::tempdir().expect("a folder");
        let broker = MockCluster::new(1).expect("an embedded broker");
        broker.create_topic("web-analytics", 1, 1).expect("a topic");
        let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/jobs/web-analytics.toml"));
        let text =
            text.expect("a job").replace("[settings]\n", "[settings]\nepoch_seconds = 1\nidle_epoch_seconds = 1\n");
        fs::write(folder.path().join("job.toml"), text).expect("written");
        let mut env = s3.clone();
        env.insert("KAFKA_BOOTSTRAP".to_owned(), broker.bootstrap_servers());
        env.insert("FLOODMARK_TABLES".to_owned(), "s3://floodmark/refusals".to_owned());
        Scene { folder, _broker: broker, env }
    }

    /// The command, with other values in its environment.
    fn command(&self, line: &str, others: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_floodmark"));
        let job = self.folder.path().join("job.toml");
        let url = others.iter().find(|(name, _)| *name == "FLOODMARK_TABLES").map(|(_, url)| *url);
        for word in line.split(' ') {
            match word {
                "JOB" => command.arg(&job),
                "URL" => command.arg(url.unwrap_or(&self.env["FLOODMARK_TABLES"])),
                word => command.arg(word),
            };
        }
        command.env_clear().envs(&self.env).envs(others.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end; returns its exit code and its last line.
    fn ends(&self, line: &str, others: &[(&str, &str)]) -> (i32, String) {
        ended(self.command(line, others).spawn().expect("the binary runs"), line)
    }

    /// Runs each command, one after the other.
    fn all_end(&self, others: &[(&str, &str)], exit: Exit, says: &[&str]) {
        for line in COMMANDS {
            let (code, said) = self.ends(line, others);
            assert_eq!(code, i32::from(exit.code()), "{line}: {said}");
            for part in says {
                assert!(said.contains(part), "{line}: {part:?} is not in {said}");
            }
        }
    }
}

const COMMANDS: [&str; 9] = [
    "run JOB --drain --workers 1",
    "status JOB",
    "verify JOB",
    "table history JOB",
    "table compact JOB",
    "replay plan JOB --from 2026-01-13 --to 2026-01-14",
    "replay list --job JOB",
    "status URL",
    "table history URL",
];

fn ended(mut child: Child, line: &str) -> (i32, String) {
    // Read concurrently, since a full pipe would block the command.
    let stderr = child.stderr.take().expect("piped");
    let reading =
        thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).last().unwrap_or_default());
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().expect("a process") {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill().expect("killed");
                panic!("{line} has not ended within {PATIENCE:?}: {}", reading.join().expect("no panic"));
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    (status.code().unwrap_or(-1), reading.join().expect("no panic"))
}

/// The owner of the server.
impl S3 {
    /// Adds a user of the server, without any rights yet.
    fn user(&self, name: &str) {
        let servers =
            fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.work/tools")).expect("scripts/s3 installs it");
        let binary =
            servers.filter_map(|found| Some(found.ok()?.path().join("bin/versitygw"))).find(|path| path.is_file());
        let status = Command::new(binary.expect("scripts/s3 has installed it"))
            .args(["admin", "--access", &self.env["AWS_ACCESS_KEY_ID"], "--secret", &self.env["AWS_SECRET_ACCESS_KEY"]])
            .args(["--endpoint-url", &self.env["S3_ENDPOINT"]])
            .args(["create-user", "--access", name, "--secret", "a-secret", "--role", "user"])
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("it runs").success(), "no user {name}");
    }

    /// Sets what a user may do from now on.
    fn allow(&self, name: &str, actions: &str) {
        let policy = format!(
            r#"{{"Version": "2012-10-17", "Statement": [{{"Effect": "Allow", "Principal": {{"AWS": ["{name}"]}}, "Action": [{actions}],
               "Resource": ["arn:aws:s3:::floodmark", "arn:aws:s3:::floodmark/*"]}}]}}"#
        );
        let keys = format!("{}:{}", self.env["AWS_ACCESS_KEY_ID"], self.env["AWS_SECRET_ACCESS_KEY"]);
        let status = Command::new("curl")
            .args(["--silent", "--fail", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &keys, "--request", "PUT"])
            .args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "--data", &policy])
            .arg(format!("{}/floodmark?policy=", self.env["S3_ENDPOINT"]))
            .status();
        assert!(status.expect("curl is there").success(), "the policy is refused");
    }
}

const READS: &str = r#""s3:GetObject", "s3:ListBucket""#;
const ALL: &str = r#""s3:*""#;

#[test]
#[ignore = "e2e: starts a real S3 server"]
fn what_the_server_refuses_has_one_code_in_all_commands() {
    let server = S3::start("refusals");
    let scene = Scene::new(&server.env);
    server.user("nobody");
    for (others, says) in [
        (&[("AWS_SECRET_ACCESS_KEY", "wrong")][..], "refuses the keys (403 Forbidden: SignatureDoesNotMatch"),
        (&[("AWS_ACCESS_KEY_ID", "unknown")], "refuses the keys (403 Forbidden: InvalidAccessKeyId"),
        (&[("FLOODMARK_TABLES", "s3://nowhere/x")], "there is no such bucket (404 Not Found: NoSuchBucket"),
        (&[("AWS_ACCESS_KEY_ID", "nobody"), ("AWS_SECRET_ACCESS_KEY", "a-secret")], "(403 Forbidden: AccessDenied"),
    ] {
        scene.all_end(others, Exit::Configuration, &[says]);
    }
    let (code, said) = scene.ends("status JOB", &[("S3_ENDPOINT", "http://127.0.0.1:1")]);
    assert_eq!(code, i32::from(Exit::TryAgain.code()), "{said}");
    assert!(said.to_lowercase().contains("connection refused"), "the client's own word: {said}");
    let (code, said) = scene.ends("status JOB", &[("S3_ENDPOINT", "127.0.0.1:1")]);
    assert_eq!(code, i32::from(Exit::Configuration.code()), "{said}");
    assert!(said.contains("expected https://host:port"), "{said}");
}

#[test]
#[ignore = "e2e: starts a real S3 server"]
fn rights_that_lack_are_told_and_rights_that_are_withdrawn_may_come_back() {
    let server = S3::start("rights");
    let scene = Scene::new(&server.env);
    let (code, said) = scene.ends("run JOB --drain --workers 1", &[]);
    assert_eq!(code, 0, "{said}");

    // With keys that may read but not write, the job would be restarted for ever.
    server.user("reader");
    server.allow("reader", READS);
    let keys = [("AWS_ACCESS_KEY_ID", "reader"), ("AWS_SECRET_ACCESS_KEY", "a-secret")];
    for line in ["status JOB", "verify JOB", "table history URL"] {
        assert_eq!(scene.ends(line, &keys).0, 0, "{line}");
    }
    let refused = |when: &str| {
        let (code, said) = scene.ends("run JOB --workers 1", &keys);
        assert_eq!(code, i32::from(Exit::Configuration.code()), "{when}: {said}");
        assert!(said.contains("does not let these keys write there (403 Forbidden: AccessDenied"), "{when}: {said}");
    };
    refused("never allowed");
    // What they may not delete stays, and one of the reasons is reported.
    let orphan = server.folder.join("data/floodmark/refusals/raw/ingest_date=2026-01-13/orphan.parquet");
    fs::create_dir_all(orphan.parent().expect("a folder")).expect("made");
    fs::write(&orphan, "of a job that crashed").expect("written");
    let vacuum = "table vacuum URL --retention-hours 0 --force";
    let (code, said) = scene.ends(vacuum, &keys);
    assert_eq!(code, i32::from(Exit::Configuration.code()), "{said}");
    assert!(said.contains("table raw: 1 objects could not be deleted") && said.contains("AccessDenied"), "{said}");
    assert!(orphan.exists(), "it may not be deleted");
    let (code, said) = scene.ends(vacuum, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(!orphan.exists(), "it may be deleted");

    server.allow("reader", ALL);
    let mut job = scene.command("run JOB --workers 1", &keys).spawn().expect("the binary runs");
    let deadline = Instant::now() + PATIENCE;
    let log = server.folder.join("data/floodmark/refusals/raw/_delta_log");
    let before = commits(&log);
    while commits(&log) < before + 4 {
        assert!(Instant::now() < deadline && job.try_wait().expect("a process").is_none(), "it does not commit");
        thread::sleep(Duration::from_millis(50));
    }
    server.allow("reader", READS);
    let (code, said) = ended(job, "run");
    assert_eq!(code, i32::from(Exit::TryAgain.code()), "{said}");
    assert!(said.contains("no longer accepts our requests") && said.contains("AccessDenied"), "{said}");
    refused("withdrawn");
}

fn commits(log: &Path) -> usize {
    fs::read_dir(log).map_or(0, Iterator::count)
}

/// Answers every request with this status and code, for as long as the test runs.
fn endpoint(status: &'static str, code: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || -> std::io::Result<()> {
                let mut request = BufReader::new(stream.try_clone()?);
                let (mut line, mut length) = (String::new(), 0);
                while request.read_line(&mut line)? > 2 {
                    let header = line.to_ascii_lowercase();
                    if let Some(value) = header.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap_or(0);
                    }
                    line.clear();
                }
                std::io::copy(&mut request.take(length), &mut std::io::sink())?;
                let body = format!("<Error><Code>{code}</Code><Message>As the test says.</Message></Error>");
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
            });
        }
    });
    format!("http://{address}")
}

/// A start gets new credentials, so it may help, even if none of the old ones was ever accepted.
#[test]
fn expired_credentials_may_pass_in_all_commands() {
    for (status, code) in [("400 Bad Request", "ExpiredToken"), ("403 Forbidden", "RequestTimeTooSkewed")] {
        let at = endpoint(status, code);
        let env = [
            ("S3_ENDPOINT", at.as_str()),
            ("AWS_ENDPOINT_URL", &at),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("AWS_SESSION_TOKEN", "c"),
        ];
        let scene = Scene::new(&env.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        let says = format!("the credentials have expired ({status}: {code}: As the test says.)");
        scene.all_end(&[], Exit::TryAgain, &[&says, "start again with new ones"]);
    }
}
