//! A scene: a topic, tables, and a job file made from one in `jobs/`; and its jobs, as processes of the real binary.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use floodmark::model::Lane;
use floodmark::table::log::WRITER_GENERATION;

use super::check::{self, Checked};
use super::kafka;
use super::servers::{MARK, Servers, eventually, root, servers};
use super::traffic::{Sent, Traffic};

/// The time limit for what must happen, but may take long on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// Where tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    Local,
    S3,
}

/// A topic, and the tables that a job makes from it.
pub(super) struct Scene {
    pub(super) servers: &'static Servers,
    pub(super) topic: String,
    pub(super) tables: String,
    /// `jobs/web-analytics.toml` or `jobs/access-log.toml`, with short epochs.
    pub(super) job_file: PathBuf,
    pub(super) web: bool,
    /// Every record that Kafka has acknowledged.
    pub(super) sent: Arc<Mutex<Sent>>,
    dir: PathBuf,
    tables_dir: PathBuf,
    runs: AtomicUsize,
}

impl Scene {
    /// A scene with a topic of this many partitions, for `jobs/web-analytics.toml`. The name of a scene is used only once.
    pub(super) fn new(name: &str, store: Store, partitions: i32) -> Scene {
        Scene::of("web-analytics", name, store, partitions)
    }

    /// The same for another job in `jobs/`.
    pub(super) fn of(job: &str, name: &str, store: Store, partitions: i32) -> Scene {
        let servers = servers();
        let dir = servers.dir.join(name);
        fs::create_dir(&dir).expect("a folder for the scene");
        let (tables, tables_dir) = match store {
            Store::Local => (dir.join("tables").display().to_string(), dir.join("tables")),
            Store::S3 => (format!("s3://floodmark/{name}"), servers.bucket().join(name)),
        };
        let scene = Scene {
            servers,
            topic: name.to_owned(),
            tables,
            job_file: dir.join("job.toml"),
            web: job == "web-analytics",
            sent: Arc::default(),
            dir,
            tables_dir,
            runs: AtomicUsize::new(0),
        };
        fs::copy(root().join(format!("jobs/{job}.toml")), &scene.job_file).expect("the job file is copied");
        scene.edit("[settings]\n", "[settings]\nepoch_seconds = 1\nepoch_bytes = 262144\n");
        scene.paces([0; 5]);
        scene.edit("[source.kafka]\n", "[source.kafka]\n\"topic.metadata.refresh.interval.ms\" = 500\n");
        if partitions > 0 {
            kafka::create_topic(&scene.topic, partitions, &[("max.message.bytes", "4000000")]);
        }
        scene
    }

    /// Sets the seconds between publishes of minute, hour, day, late and coarse.
    pub(super) fn paces(&self, seconds: [u64; 5]) {
        let text = fs::read_to_string(&self.job_file).expect("the job file is there");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for (lane, seconds) in Lane::ALL.into_iter().zip(seconds) {
            let section = format!("[lanes.{}]", lane.name());
            let at = lines.iter().position(|line| *line == section).expect("the job file has every lane");
            lines[at + 1] = format!("publish_seconds = {seconds}");
        }
        fs::write(&self.job_file, lines.join("\n") + "\n").expect("the job file is written");
    }

    /// Replaces a text in the job file.
    pub(super) fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(&self.job_file).expect("the job file is there");
        assert!(text.contains(from), "{from:?} is not in the job file");
        fs::write(&self.job_file, text.replacen(from, to, 1)).expect("the job file is written");
    }

    /// `floodmark COMMAND JOB ARGUMENTS…`, with the environment of this scene.
    pub(super) fn command(&self, command: &str, arguments: &[&str]) -> Command {
        let mut process = self.floodmark();
        process.arg(command).arg(&self.job_file).args(arguments);
        process
    }

    /// `floodmark`, with the environment of this scene.
    pub(super) fn floodmark(&self) -> Command {
        let mut process = Command::new(env!("CARGO_BIN_EXE_floodmark"));
        process.env(MARK, std::process::id().to_string());
        process.env("KAFKA_BOOTSTRAP", &self.servers.brokers);
        process.env("FLOODMARK_TOPIC", &self.topic).env("FLOODMARK_TABLES", &self.tables);
        process.env("FLOODMARK_LOG", "debug").env_remove("S3_ENDPOINT");
        if self.tables.starts_with("s3://") {
            process.envs(self.servers.s3.iter().map(|(name, value)| (name, value)));
        }
        process
    }

    /// `floodmark run` with these arguments.
    pub(super) fn run(&self, arguments: &[&str]) -> Job {
        self.spawn(self.command("run", arguments))
    }

    /// Starts a command made by [`Scene::command`].
    pub(super) fn spawn(&self, mut command: Command) -> Job {
        let log = self.dir.join(format!("job-{:03}.log", self.runs.fetch_add(1, Ordering::Relaxed) + 1));
        let output = File::create(&log).expect("a log");
        let error = output.try_clone().expect("a log");
        let child = command.stdin(Stdio::null()).stdout(output).stderr(error).spawn().expect("the binary runs");
        Job { child, log }
    }

    /// Runs with `--drain`, and expects success.
    pub(super) fn drain(&self, workers: usize) {
        let mut job = self.run(&["--drain", "--workers", &workers.to_string()]);
        job.expect_exit(0);
    }

    /// The result of `floodmark status`, with this environment in addition to the scene's.
    pub(super) fn status(&self, env: &[(String, String)]) -> serde_json::Value {
        let mut command = self.command("status", &["--output", "json"]);
        let output = command.envs(env.iter().map(|(name, value)| (name, value))).output().expect("the binary runs");
        assert!(output.status.success(), "status: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    }

    /// Starts traffic into the topic, at this many records per second, until it is stopped.
    pub(super) fn traffic(&self, seed: u64, rate: f64) -> Traffic {
        Traffic::start(self, seed, rate, u64::MAX)
    }

    /// Sends this many records at once, and waits until Kafka has acknowledged them.
    pub(super) fn send(&self, seed: u64, records: u64) {
        Traffic::start(self, seed, 0.0, records).finish();
    }

    /// The names of all files in a table's log.
    pub(super) fn log_files(&self, table: &str) -> Vec<String> {
        let entries = fs::read_dir(self.tables_dir.join(table).join("_delta_log")).expect("the table has a log");
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// The log entries of a table (`raw` or `counts`); the newest version is the last.
    fn log_entries(&self, table: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.tables_dir.join(table).join("_delta_log")) else { return Vec::new() };
        let is_entry = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.strip_suffix(".json").is_some_and(|version| version.len() == 20)
        };
        let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_entry).collect();
        entries.sort();
        entries
    }

    /// The number of versions of a table.
    pub(super) fn commits(&self, table: &str) -> usize {
        self.log_entries(table).len()
    }

    /// The newest value of an application transaction; 0 if there is none.
    pub(super) fn newest_txn(&self, table: &str, id: &str) -> i64 {
        self.log_entries(table).iter().rev().find_map(|entry| txn(entry, id)).unwrap_or(0)
    }

    /// A fenced writer has published nothing since: from version to version, the writers only get newer.
    fn assert_fenced(&self) {
        for table in ["raw", "counts"] {
            let entries = self.log_entries(table);
            let generations: Vec<i64> = entries.iter().filter_map(|entry| txn(entry, WRITER_GENERATION)).collect();
            assert!(generations.is_sorted(), "{}: writers of {table}: {generations:?}", self.topic);
        }
    }

    /// Waits until there are this many more commits of `counts`; the job must be alive. The commit that records the logic is not included,
    /// since it nearly always comes only once in a table's life.
    pub(super) fn await_commits(&self, job: &mut Job, more: usize) {
        let sets_logic = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains("\"SET LOGIC\""));
        let commits = || self.log_entries("counts").iter().filter(|path| !sets_logic(path)).count();
        let wanted = commits() + more;
        eventually(&format!("{wanted} commits of counts of {}", self.topic), PATIENCE, || {
            job.assert_alive();
            (commits() >= wanted).then_some(())
        });
    }

    /// Checks that `counts` is a recount of `raw` up to its lanes, whether or not the job is at rest.
    pub(super) fn check_counts(&self) -> Checked {
        let checked = check::check(self, false);
        checked.assert_exact(self);
        checked
    }

    /// The same if this many offsets are in `raw` twice, because the topic was recreated and that was accepted.
    pub(super) fn check_twice(&self, offsets: u64) -> Checked {
        let checked = check::check(self, false);
        checked.assert_twice(self, offsets);
        checked
    }

    /// After a drain or an orderly stop: checks that `counts` is exact, that lanes are level, and that `raw` holds each sent record once,
    /// with its bytes.
    pub(super) fn check_all(&self) -> Checked {
        let checked = check::check(self, true);
        checked.assert_exact(self);
        checked.assert_level(self);
        self.assert_fenced();
        if has_verify() {
            self.verify();
        }
        checked
    }

    /// Checks that `floodmark verify`, which also takes replays into account, finds no difference.
    pub(super) fn verify(&self) {
        let output = self.command("verify", &[]).output().expect("the binary runs");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "verify: {}: {}", output.status, String::from_utf8_lossy(&said));
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The folder of the server is deleted when it ends; the tables are needed to investigate.
            if !self.tables_dir.starts_with(&self.dir) {
                let copied = Command::new("cp").arg("-r").args([&self.tables_dir, &self.dir.join("tables")]).status();
                if !copied.is_ok_and(|status| status.success()) {
                    eprintln!("{} could not be copied", self.tables_dir.display());
                }
            }
            eprintln!("logs and tables are kept: {}", self.dir.display());
        } else {
            for dir in [&self.dir, &self.tables_dir] {
                if let Err(error) = fs::remove_dir_all(dir)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    eprintln!("{}: {error}", dir.display());
                }
            }
        }
    }
}

/// The value of an application transaction in a log entry.
fn txn(entry: &Path, id: &str) -> Option<i64> {
    let wanted = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let txn = value.get("txn").filter(|txn| txn["appId"] == id)?;
        txn["version"].as_i64()
    };
    fs::read_to_string(entry).ok()?.lines().find_map(wanted)
}

fn has_verify() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let output = Command::new(env!("CARGO_BIN_EXE_floodmark")).arg("--help").output().expect("the binary runs");
        String::from_utf8_lossy(&output.stdout).lines().any(|line| line.trim_start().starts_with("verify "))
    })
}

/// A running `floodmark`, killed when dropped.
pub(super) struct Job {
    child: Child,
    log: PathBuf,
}

impl Job {
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub(super) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("its log")).into_owned()
    }

    /// Its exit status, if it has ended.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    pub(super) fn assert_alive(&mut self) {
        if let Some(status) = self.ended() {
            panic!("the job ended by itself: {status}\n{}", self.tail());
        }
    }

    /// `kill -9`; waits until the process is gone.
    pub(super) fn kill(&mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    pub(super) fn signal(&self, signal: &str) {
        super::proxy::signal(self.id(), signal);
    }

    /// Waits for its end, whatever the exit code.
    pub(super) fn wait(&mut self, within: Duration) -> ExitStatus {
        let what = format!("the end of the job with log {}", self.log.display());
        eventually(&what, within, || self.ended())
    }

    /// Waits for its end with this exit code; returns what it printed.
    pub(super) fn expect_exit(&mut self, code: i32) -> String {
        let status = self.wait(PATIENCE);
        assert_eq!(status.code(), Some(code), "{status}, expected exit code {code}\n{}", self.tail());
        let log = self.log();
        assert!(!log.contains("panicked"), "it panicked\n{}", self.tail());
        log
    }

    /// Sends SIGTERM, and expects an orderly stop.
    pub(super) fn stop(mut self) {
        self.signal("TERM");
        self.expect_exit(0);
    }

    pub(super) fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // It has ended, or is no longer needed.
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}
