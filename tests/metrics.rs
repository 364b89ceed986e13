//! What a running job says over HTTP, and its log as JSON: the real binary on the embedded broker and a local folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use floodmark::dev::DevCommand;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

/// For what must come, but may take its time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const PARTITIONS: i32 = 5;
const RECORDS: u64 = 5_000;
const REJECTED: u64 = 100;

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: DevCommand,
}

struct Place {
    folder: tempfile::TempDir,
    _broker: MockCluster<'static, DefaultProducerContext>,
    brokers: String,
}

impl Place {
    fn new() -> Place {
        let broker = MockCluster::new(1).expect("an embedded broker");
        broker.create_topic("events", PARTITIONS, 1).expect("a topic");
        let folder = tempfile::tempdir().expect("a folder");
        let text = fs::read_to_string(format!("{}/jobs/web-analytics.toml", env!("CARGO_MANIFEST_DIR")));
        let text = text.expect("a job").replace("[settings]\n", "[settings]\nepoch_seconds = 1\n");
        fs::write(folder.path().join("job.toml"), text).expect("written");
        Place { folder, brokers: broker.bootstrap_servers(), _broker: broker }
    }

    fn send(&self) {
        let line = format!(
            "dev gen --brokers {} --topic events --events {RECORDS} --customers 300 --hours 1 --late-share 0.1 --broken-share {}",
            self.brokers,
            REJECTED as f64 / RECORDS as f64
        );
        floodmark::dev::run(Line::try_parse_from(line.split(' ')).expect("right options").command).expect("sent");
    }

    /// A job that answers at a port of its own, with a JSON log.
    fn start(&self, arguments: &[&str]) -> Process {
        let log = self.folder.path().join(format!("{:?}.log", Instant::now()).replace(' ', ""));
        let output = File::create(&log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_floodmark"));
        command.arg("run").arg(self.folder.path().join("job.toml")).args(["--workers", "2"]).args(arguments);
        command.env("KAFKA_BOOTSTRAP", &self.brokers).env("FLOODMARK_TOPIC", "events").env("FLOODMARK_LOG", "debug");
        command.env("FLOODMARK_TABLES", self.folder.path().join("tables")).env("FLOODMARK_HTTP", "0");
        command.env("FLOODMARK_LOG_FORMAT", "json").env("FLOODMARK_CLUSTER_SECRET", "a secret of these tests");
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a log")).stderr(output);
        Process { child: command.spawn().expect("the binary runs"), log }
    }
}

fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {} s: {what}", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(20));
    }
}

/// A running process, killed when dropped.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Its log: whole lines, each of which must be an object.
    fn log(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(&self.log).expect("its log");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let object = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let lines: Vec<serde_json::Value> = whole.lines().map(object).collect();
        for line in &lines {
            assert!(["timestamp", "level", "message"].iter().all(|key| line[key].is_string()), "{line}");
        }
        lines
    }

    fn address(&self) -> String {
        eventually("where it answers", || {
            let log = self.log();
            let line =
                log.iter().find(|line| line["message"].as_str().is_some_and(|it| it.starts_with("answers HTTP")))?;
            line["at"].as_str().map(str::to_owned)
        })
    }

    fn get(&self, path: &str) -> (u16, String) {
        let address = self.address();
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        eventually("an answer", || ask(&address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")))
    }

    /// Value of each sample, by name and labels.
    fn scrape(&self) -> BTreeMap<String, f64> {
        let (code, text) = self.get("/metrics");
        assert_eq!(code, 200, "{text}");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').expect("a name and a value");
                (name.to_owned(), value.parse().expect("a number"))
            })
            .collect()
    }

    fn is_ready(&self) {
        eventually("ready", || (self.get("/readyz") == (200, "ready\n".to_owned())).then_some(()));
    }

    fn stop(&mut self) {
        let status = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(status.expect("kill runs").success());
        self.expect_exit(0);
    }

    fn expect_exit(&mut self, code: i32) {
        let status = eventually("its end", || self.child.try_wait().expect("our child"));
        assert_eq!(status.code(), Some(code), "{status}");
    }

    fn last_word(&self) -> String {
        self.log().last().expect("it said something")["message"].as_str().expect("a text").to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("-- {}\n{}", self.log.display(), fs::read_to_string(&self.log).unwrap_or_default());
        }
        // It has ended, or nobody needs it any more.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Asks; none where it is let go.
fn ask(address: &str, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    // It may be gone before all is written.
    stream.write_all(request.as_bytes()).ok();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// The sum over all labels.
fn sum(samples: &BTreeMap<String, f64>, name: &str) -> u64 {
    let of_name = |(key, _): &(&String, &f64)| key.split('{').next() == Some(name);
    samples.iter().filter(of_name).map(|(_, value)| *value as u64).sum()
}

fn outcomes(samples: &BTreeMap<String, f64>) -> u64 {
    ["counted", "filtered", "rejected"].map(|it| sum(samples, &format!("floodmark_records_{it}_total"))).iter().sum()
}

#[test]
fn a_scrape_says_what_was_sent_and_read() {
    let place = Place::new();
    let mut job = place.start(&[]);
    assert_eq!(job.get("/healthz"), (200, "alive\n".to_owned()));
    let (code, why) = job.get("/readyz");
    assert!(code == 503 && why.lines().count() == 1, "before the first publish: {code} {why}");
    place.send();
    eventually("all records have an outcome, and are published", || {
        let samples = job.scrape();
        let published = samples.get("floodmark_lane_epoch{lane=\"minute\",process=\"0\"}").map_or(0, |it| *it as u64);
        (outcomes(&samples) == RECORDS && published > 0 && published == sum(&samples, "floodmark_raw_epoch"))
            .then_some(())
    });
    job.is_ready();
    let samples = job.scrape();
    assert_eq!(sum(&samples, "floodmark_records_read_total"), RECORDS);
    assert_eq!(sum(&samples, "floodmark_records_rejected_total"), REJECTED);
    assert!(sum(&samples, "floodmark_read_bytes_total") > RECORDS * 100);
    for partition in 0..PARTITIONS {
        let lag = format!("floodmark_lag_records{{partition=\"{partition}\",topic=\"events\",process=\"0\"}}");
        eventually("no lag", || (job.scrape().get(&lag) == Some(&0.0)).then_some(()));
    }
    for lane in ["minute", "hour", "day", "late", "coarse"] {
        let labels = format!("{{lane=\"{lane}\",process=\"0\"}}");
        assert!(samples.contains_key(&format!("floodmark_lane_epoch{labels}")), "{lane}");
        assert!(samples.contains_key(&format!("floodmark_pending_bytes{labels}")), "{lane}");
    }
    for table in ["raw", "counts"] {
        let count = format!("floodmark_commit_duration_seconds_count{{table=\"{table}\",process=\"0\"}}");
        assert!(samples.get(&count).is_some_and(|count| *count > 0.0), "{count}");
    }
    let minutes = "{granularity=\"minute\",process=\"0\"}";
    for name in ["floodmark_rows_written_total", "floodmark_updates_published_total"] {
        assert!(samples[&format!("{name}{minutes}")] > 0.0, "{name}");
    }
    assert!(samples["process_resident_memory_bytes{process=\"0\"}"] > 1e6);
    job.stop();
    let said = job.last_word();
    assert!(said.starts_with("archived 5,000 records in ") && said.contains("4,900 counted"), "{said}");
}

#[test]
fn what_connects_does_not_disturb() {
    let place = Place::new();
    let mut job = place.start(&[]);
    let address = job.address();
    // More than there are places; let go after a while.
    let silent: Vec<_> = (0..40).map(|_| TcpStream::connect(&address).expect("it listens")).collect();
    for garbage in ["\u{0}\u{1}\u{2}\r\n\r\n", &"x".repeat(100_000), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        assert!(ask(&address, garbage).is_none_or(|(code, _)| (400..=505).contains(&code)));
    }
    assert_eq!(job.get("/healthz").0, 200);
    drop(silent);
    let head = "x: y\r\n".repeat(10_000);
    let long = eventually("an answer", || {
        ask(&address, &format!("GET /metrics HTTP/1.1\r\n{head}\r\n")).or(Some((431, String::new())))
    });
    assert_eq!(long.0, 431);
    let post = eventually("an answer", || ask(&address, "POST /metrics HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n"));
    assert_eq!(post, (405, "only GET and HEAD\n".to_owned()));
    assert_eq!(job.get("/").0, 404);
    place.send();
    eventually("all is read", || (outcomes(&job.scrape()) == RECORDS).then_some(()));
    job.stop();
}

#[test]
fn each_process_of_a_job_answers_for_itself() {
    let place = Place::new();
    let listeners: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let hosts: Vec<_> = listeners.iter().map(|it| it.local_addr().expect("bound").to_string()).collect();
    drop(listeners);
    let hostfile = place.folder.path().join("hosts");
    fs::write(&hostfile, hosts.join("\n")).expect("written");
    let start = |index| {
        let hostfile = hostfile.to_str().expect("a plain name");
        place.start(&["--processes", "2", "--process-index", index, "--hostfile", hostfile])
    };
    let mut zero = start("0");
    eventually("it gathers", || {
        (zero.get("/readyz") == (503, "waiting for the other processes of the job\n".to_owned())).then_some(())
    });
    assert_eq!(zero.get("/healthz").0, 200);
    let mut one = start("1");
    place.send();
    let [of_zero, of_one] = eventually("all is read", || {
        let samples = [zero.scrape(), one.scrape()];
        (samples.iter().map(outcomes).sum::<u64>() == RECORDS).then_some(samples)
    });
    zero.is_ready();
    one.is_ready();
    assert!(
        of_zero.keys().all(|key| key.contains("process=\"0\""))
            && of_one.keys().all(|key| key.contains("process=\"1\""))
    );
    for samples in [&of_zero, &of_one] {
        assert_eq!(outcomes(samples), sum(samples, "floodmark_records_read_total"));
        assert!(outcomes(samples) > 0, "each reads partitions of its own");
    }
    let of_zero = zero.scrape();
    assert!(sum(&of_zero, "floodmark_raw_epoch") > 0 && !of_one.keys().any(|key| key.contains("epoch")));
    one.stop();
    zero.expect_exit(0);
}

#[test]
fn an_address_that_can_not_be_had_is_refused() {
    let place = Place::new();
    let holds = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = holds.local_addr().expect("bound").to_string();
    for (at, code, says) in
        [(taken.as_str(), 75, "give each process of a host"), ("192.0.2.1:0", 78, "no address of this machine")]
    {
        let mut job = place.start(&["--http", at]);
        job.expect_exit(code);
        let said = job.last_word();
        assert!(said.starts_with(&format!("--http {at}: ")) && said.contains(says), "{said}");
    }
    assert!(!place.folder.path().join("tables/raw").exists(), "nothing was fenced or made");
}

#[test]
#[ignore = "e2e"]
fn promtool_finds_no_fault() {
    let place = Place::new();
    let mut job = place.start(&[]);
    place.send();
    eventually("all is read", || (outcomes(&job.scrape()) == RECORDS).then_some(()));
    job.is_ready();
    let (_, text) = job.get("/metrics");
    let promtool = || {
        let mut command = Command::new(format!("{}/scripts/debian", env!("CARGO_MANIFEST_DIR")));
        command.arg("promtool");
        command
    };
    // The first time it says that it fetches it.
    assert!(promtool().arg("--version").status().is_ok_and(|status| status.success()), "scripts/debian runs");
    let mut promtool = promtool();
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("scripts/debian runs");
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
    let output = promtool.wait_with_output().expect("our child");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{}: {said}\n{text}", output.status);
    job.stop();
}
