//! One Kafka broker and one S3 server for all tests of this binary, started by scripts/kafka and scripts/s3.
//!
//! The first test that needs them starts them. They are ended by a keeper: a process that waits for the end of this one, however it ends,
//! and then ends the servers and jobs that are left.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// Jobs have this in their environment, so that the keeper finds them.
pub(super) const MARK: &str = "FLOODMARK_E2E";

/// $1 is the folder of the run, $2 the folder of the scripts, $3 the mark.
const KEEPER: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for process in /proc/[0-9]*; do
  grep -qzxF "$3" "$process/environ" 2>/dev/null && kill -KILL "${process#/proc/}" 2>/dev/null
done
for server in kafka s3; do
  "$2/$server" kill --dir "$1/$server" && rm -rf "$1/$server"
done
rmdir "$1" 2>/dev/null # holds the folders of tests that failed
true
"#;

/// Both servers.
pub(super) struct Servers {
    /// The folder of this run.
    pub(super) dir: PathBuf,
    /// The broker's address.
    pub(super) brokers: String,
    /// What a job needs in order to reach the broker by TLS, as the only user that exists.
    pub(super) secure: Vec<(String, String)>,
    /// The content of the server's `env` file.
    pub(super) s3: Vec<(String, String)>,
    /// When it ends, the keeper starts to clean up.
    _keeper: (Child, ChildStdin),
}

/// Both servers; started if they are not running.
pub(super) fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(Servers::start)
}

/// The checkout.
pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The mark of this run, as `NAME=value`.
pub(super) fn mark() -> String {
    format!("{MARK}={}", process::id())
}

impl Servers {
    fn start() -> Servers {
        let base = std::env::var_os("FLOODMARK_TEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
        let dir = base.join(format!("e2e-{}", process::id()));
        fs::create_dir_all(&dir).expect("a folder for the run");
        let mut keeper = Command::new("bash")
            .args(["-c", KEEPER, "keeper"])
            .args([dir.as_os_str(), root().join("scripts").as_os_str(), mark().as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("bash runs");
        let stdin = keeper.stdin.take().expect("its stdin is a pipe");
        let (brokers, secure, s3) = (String::new(), Vec::new(), Vec::new());
        let mut servers = Servers { dir, brokers, secure, s3, _keeper: (keeper, stdin) };
        servers.script("kafka", &["start", "--secure"]);
        servers.script("s3", &["start"]);
        servers.brokers = value(&servers.env("kafka/env"), "KAFKA_BOOTSTRAP");
        servers.secure = servers.env("kafka/secure.env");
        servers.s3 = servers.env("s3/env");
        servers
    }

    /// `scripts/kafka COMMAND…` or `scripts/s3 COMMAND…` on this run's folder.
    pub(super) fn script(&self, server: &str, command: &[&str]) {
        let output = Command::new(root().join("scripts").join(server))
            .args(command)
            .arg("--dir")
            .arg(self.dir.join(server))
            .stdin(Stdio::null())
            .output()
            .expect("the script runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "scripts/{server} {command:?}: {}: {stderr}", output.status);
    }

    /// The S3 server's own address, without `http://`.
    pub(super) fn s3_address(&self) -> String {
        value(&self.s3, "S3_ENDPOINT").trim_start_matches("http://").to_owned()
    }

    /// The folder in which the S3 server keeps the bucket.
    pub(super) fn bucket(&self) -> PathBuf {
        self.dir.join("s3/data/floodmark")
    }

    fn env(&self, file: &str) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.dir.join(file)).expect("a running server has an env file");
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

/// A server that is killed, and started again when this is dropped, since other tests need it.
pub(super) struct Outage(&'static str);

impl Outage {
    pub(super) fn of(server: &'static str) -> Outage {
        servers().script(server, &["kill"]);
        Outage(server)
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        servers().script(self.0, &["start"]);
    }
}

fn value(env: &[(String, String)], name: &str) -> String {
    let found = env.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.clone()).unwrap_or_else(|| panic!("no {name} in the server's env file"))
}

/// Asks until there is an answer; fails if there is none in time.
pub(super) fn eventually<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {} s: {what}", within.as_secs());
        thread::sleep(Duration::from_millis(20));
    }
}
