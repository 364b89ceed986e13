//! A scene: a topic, tables, a job file made from one of `jobs/`; and its jobs, as processes of the real binary.

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

/// For what must come, but may take its time on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// Where tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    Local,
    S3,
}

/// One topic and what becomes of it.
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
    /// A topic of that many partitions for `jobs/web-analytics.toml`. Names of scenes are used once.
    pub(super) fn new(name: &str, store: Store, partitions: i32) -> Scene {
        Scene::of("web-analytics", name, store, partitions)
    }

    /// The same for another job of `jobs/`.
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

    /// `floodmark COMMAND JOB ARGUMENTS…` with this scene's environment.
    pub(super) fn command(&self, command: &str, arguments: &[&str]) -> Command {
        let mut process = self.floodmark();
        process.arg(command).arg(&self.job_file).args(arguments);
        process
    }

    /// `floodmark` with this scene's environment.
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

    /// A command made by [`Scene::command`].
    pub(super) fn spawn(&self, mut command: Command) -> Job {
        let log = self.dir.join(format!("job-{:03}.log", self.runs.fetch_add(1, Ordering::Relaxed) + 1));
        let output = File::create(&log).expect("a log");
        let error = output.try_clone().expect("a log");
        let child = command.stdin(Stdio::null()).stdout(output).stderr(error).spawn().expect("the binary runs");
        Job { child, log }
    }

    /// Runs with `--drain` and expects success.
    pub(super) fn drain(&self, workers: usize) {
        let mut job = self.run(&["--drain", "--workers", &workers.to_string()]);
        job.expect_exit(0);
    }

    /// What `floodmark status` says, with this environment beside the scene's.
    pub(super) fn status(&self, env: &[(String, String)]) -> serde_json::Value {
        let mut command = self.command("status", &["--output", "json"]);
        let output = command.envs(env.iter().map(|(name, value)| (name, value))).output().expect("the binary runs");
        assert!(output.status.success(), "status: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    }

    /// Starts traffic into the topic: so many records a second until it is stopped.
    pub(super) fn traffic(&self, seed: u64, rate: f64) -> Traffic {
        Traffic::start(self, seed, rate, u64::MAX)
    }

    /// Sends so many records at once, and waits for Kafka to have them.
    pub(super) fn send(&self, seed: u64, records: u64) {
        Traffic::start(self, seed, 0.0, records).finish();
    }

    /// Names of all files of a table's log.
    pub(super) fn log_files(&self, table: &str) -> Vec<String> {
        let entries = fs::read_dir(self.tables_dir.join(table).join("_delta_log")).expect("the table has a log");
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Log entries of a table (`raw`, `counts`): the newest version and its file are the last.
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

    /// How many versions a table has.
    pub(super) fn commits(&self, table: &str) -> usize {
        self.log_entries(table).len()
    }

    /// The newest value of an application transaction; absent is 0.
    pub(super) fn newest_txn(&self, table: &str, id: &str) -> i64 {
        self.log_entries(table).iter().rev().find_map(|entry| txn(entry, id)).unwrap_or(0)
    }

    /// Who was fenced has published nothing since: from version to version, writers only get newer.
    fn assert_fenced(&self) {
        for table in ["raw", "counts"] {
            let entries = self.log_entries(table);
            let generations: Vec<i64> = entries.iter().filter_map(|entry| txn(entry, WRITER_GENERATION)).collect();
            assert!(generations.is_sorted(), "{}: writers of {table}: {generations:?}", self.topic);
        }
    }

    /// Waits until that many more commits of `counts` are there; the job must be alive. The one that says which logic counts is
    /// not among them: it comes once in a table's life, nearly always.
    pub(super) fn await_commits(&self, job: &mut Job, more: usize) {
        let sets_logic = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains("\"SET LOGIC\""));
        let commits = || self.log_entries("counts").iter().filter(|path| !sets_logic(path)).count();
        let wanted = commits() + more;
        eventually(&format!("{wanted} commits of counts of {}", self.topic), PATIENCE, || {
            job.assert_alive();
            (commits() >= wanted).then_some(())
        });
    }

    /// At rest or not, `counts` must be a recount of `raw` up to its lanes.
    pub(super) fn check_counts(&self) -> Checked {
        let checked = check::check(self, false);
        checked.assert_exact(self);
        checked
    }

    /// The same where so many offsets are in `raw` twice, since the topic was made anew and that was accepted.
    pub(super) fn check_twice(&self, offsets: u64) -> Checked {
        let checked = check::check(self, false);
        checked.assert_twice(self, offsets);
        checked
    }

    /// After a drain or an orderly stop: exact, lanes level, and `raw` holds each record sent once, with its bytes.
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

    /// `floodmark verify`, which also knows of replays, finds no difference.
    pub(super) fn verify(&self) {
        let output = self.command("verify", &[]).output().expect("the binary runs");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "verify: {}: {}", output.status, String::from_utf8_lossy(&said));
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The server's folder goes when it ends; its tables are needed to find out.
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

/// Value of an application transaction in an entry of a log.
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

    /// What it has said so far.
    pub(super) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("its log")).into_owned()
    }

    /// Its exit, if it has ended.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    pub(super) fn assert_alive(&mut self) {
        if let Some(status) = self.ended() {
            panic!("the job ended by itself: {status}\n{}", self.tail());
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub(super) fn kill(&mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    pub(super) fn signal(&self, signal: &str) {
        super::proxy::signal(self.id(), signal);
    }

    /// Waits for its end, whatever the code.
    pub(super) fn wait(&mut self, within: Duration) -> ExitStatus {
        let what = format!("the end of the job with log {}", self.log.display());
        eventually(&what, within, || self.ended())
    }

    /// Waits for its end with this code; returns what it said.
    pub(super) fn expect_exit(&mut self, code: i32) -> String {
        let status = self.wait(PATIENCE);
        assert_eq!(status.code(), Some(code), "{status}, expected exit code {code}\n{}", self.tail());
        let log = self.log();
        assert!(!log.contains("panicked"), "it panicked\n{}", self.tail());
        log
    }

    /// SIGTERM, and expects an orderly stop.
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
        // It has ended, or nobody needs it any more.
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}
