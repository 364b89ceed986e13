//! Processes of the real binary, on the embedded broker and a local folder.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use floodmark::dev::DevCommand;
use floodmark::table::{Log, Root, State};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

/// The time limit for what must happen, but may take long on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const SECRET: &str = "a secret of these tests";
pub(crate) const PARTITIONS: i32 = 5;

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: DevCommand,
}

/// A topic, tables, a job file, and the addresses at which processes listen.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    _broker: MockCluster<'static, DefaultProducerContext>,
    brokers: String,
    pub(crate) hosts: Vec<String>,
    pub(crate) sent: u64,
}

/// A running process, killed when dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    log: PathBuf,
}

fn ports(count: usize) -> Vec<String> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("bound").to_string()).collect()
}

impl Place {
    pub(crate) fn new(processes: usize) -> Place {
        let broker = MockCluster::new(1).expect("an embedded broker");
        broker.create_topic("events", PARTITIONS, 1).expect("a topic");
        let brokers = broker.bootstrap_servers();
        let folder = tempfile::tempdir().expect("a folder");
        let hosts = ports(processes);
        fs::write(folder.path().join("hosts"), hosts.join("\n")).expect("written");
        let place = Place { folder, _broker: broker, brokers, hosts, sent: 0 };
        place.writes_job("job.toml", |text| text);
        place
    }

    /// Writes a job file: the example, with changes.
    pub(crate) fn writes_job(&self, name: &str, change: impl Fn(String) -> String) {
        let text = fs::read_to_string(format!("{}/jobs/web-analytics.toml", env!("CARGO_MANIFEST_DIR")));
        let text = text.expect("a job").replace("[settings]\n", "[settings]\nepoch_seconds = 1\n");
        fs::write(self.folder.path().join(name), change(text)).expect("written");
    }

    /// Sends this many records, including late and broken ones.
    pub(crate) fn send(&mut self, records: u64) {
        let line = format!(
            "dev gen --brokers {} --topic events --events {records} --seed {} --customers 300 --hours 1 --late-share 0.1 \
             --broken-share 0.02",
            self.brokers,
            self.sent + 1
        );
        floodmark::dev::run(Line::try_parse_from(line.split(' ')).expect("right options").command).expect("sent");
        self.sent += records;
    }

    /// A command of the binary, with a job file.
    pub(crate) fn floodmark(&self, command: &str, job: &str) -> Command {
        let mut process = Command::new(env!("CARGO_BIN_EXE_floodmark"));
        process.args(command.split(' ')).arg(self.folder.path().join(job)).stdin(Stdio::null());
        process.env("KAFKA_BOOTSTRAP", &self.brokers).env("FLOODMARK_TOPIC", "events");
        process.env("FLOODMARK_TABLES", self.tables()).env("FLOODMARK_LOG", "debug");
        process
    }

    /// Makes a command process `index` of this many.
    pub(crate) fn one_of(&self, processes: usize, index: usize, process: &mut Command) {
        process.args(["--processes", &processes.to_string(), "--process-index", &index.to_string()]);
        process.env("FLOODMARK_HOSTFILE", self.folder.path().join("hosts")).env("FLOODMARK_CLUSTER_SECRET", SECRET);
    }

    /// The present archive; empty if there is none.
    pub(crate) fn raw(&self) -> State {
        let root = Root::open(&self.tables().display().to_string(), &Default::default()).expect("tables");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(Log::new(&root, "raw").load()).ok().flatten().unwrap_or_default()
    }

    pub(crate) fn tables(&self) -> PathBuf {
        self.folder.path().join("tables")
    }

    pub(crate) fn spawn(&self, mut command: Command) -> Process {
        let log = self.folder.path().join(format!("{:?}.log", Instant::now()).replace(' ', ""));
        let output = File::create(&log).expect("a log");
        command.stdout(output.try_clone().expect("a log")).stderr(output);
        Process { child: command.spawn().expect("the binary runs"), log }
    }

    /// Freezes one of the processes: all others end with 75 and name it, and it also ends with 75 when it wakes up.
    pub(crate) fn loses_frozen(&self, processes: &mut [Process], frozen: usize) {
        processes[frozen].signal("STOP");
        let lost = format!("process {frozen} at {} is lost: no sign of life for 8 s", self.hosts[frozen]);
        for (_, other) in processes.iter_mut().enumerate().filter(|(index, _)| *index != frozen) {
            let said = other.expect_exit(75);
            assert!(said.contains(&lost), "{said}");
        }
        processes[frozen].signal("CONT");
        processes[frozen].expect_exit(75);
    }
}

pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {} s: {what}", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(20));
    }
}

impl Process {
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("its log")).into_owned()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([format!("-{signal}"), self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success(), "kill -{signal}");
    }

    pub(crate) fn awaits(&self, text: &str) {
        eventually(&format!("{text:?} in {}", self.log.display()), || self.said().contains(text).then_some(()));
    }

    /// Waits for its end; returns its exit code and what it printed.
    pub(crate) fn ended(&mut self) -> (Option<i32>, String) {
        let status = eventually("its end", || self.child.try_wait().expect("our child"));
        let said = self.said();
        assert!(!said.contains("panicked"), "{said}");
        (status.code(), said)
    }

    /// Waits for its end with this exit code; returns its last line, which must be the only one.
    pub(crate) fn expect_exit(&mut self, code: i32) -> String {
        let (found, said) = self.ended();
        assert_eq!(found, Some(code), "{said}");
        let words: Vec<&str> = said.lines().filter(|line| line.starts_with("floodmark: ")).collect();
        assert_eq!(words.len(), 1, "{said}");
        words[0].to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("-- {}\n{}", self.log.display(), self.said());
        }
        // It has ended, or is no longer needed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
