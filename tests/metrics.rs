//! What a running job answers over HTTP, and its log as JSON: the real binary on the embedded broker and a local folder.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

mod support;

use support::processes::{PARTITIONS, PATIENCE, Place, Process, eventually};

const RECORDS: u64 = 5_000;
const REJECTED: u64 = 100;

impl Place {
    /// A job that answers at its own port, with a JSON log.
    fn job(&self) -> Command {
        let mut job = self.floodmark("run", "job.toml");
        job.args(["--workers", "2"]).env("FLOODMARK_HTTP", "0").env("FLOODMARK_LOG_FORMAT", "json");
        job
    }

    fn start(&self) -> Process {
        self.spawn(self.job())
    }
}

impl Process {
    /// Its log. It must consist of whole lines, each of which is an object.
    fn log(&self) -> Vec<serde_json::Value> {
        let text = self.said();
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
                log.iter().find(|line| line["message"].as_str().is_some_and(|it| it.starts_with("serving HTTP")))?;
            line["at"].as_str().map(str::to_owned)
        })
    }

    fn get(&self, path: &str) -> (u16, String) {
        let address = self.address();
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        eventually("an answer", || ask(&address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")))
    }

    /// The value of each sample, by name and labels.
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
        self.signal("TERM");
        assert_eq!(self.ended().0, Some(0));
    }

    fn last_word(&self) -> String {
        self.log().last().expect("it said something")["message"].as_str().expect("a text").to_owned()
    }
}

/// Sends a request; `None` if the connection is closed without an answer.
fn ask(address: &str, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    // The connection may be closed before everything is written.
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
    let mut place = Place::new(1);
    let mut job = place.start();
    assert_eq!(job.get("/healthz"), (200, "alive\n".to_owned()));
    let (code, why) = job.get("/readyz");
    assert!(code == 503 && why.lines().count() == 1, "before the first publish: {code} {why}");
    place.send(RECORDS);
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
    let mut place = Place::new(1);
    let mut job = place.start();
    let address = job.address();
    // More connections than there are places; they are closed after a while.
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
    let head = eventually("an answer", || ask(&address, "HEAD /healthz HTTP/1.1\r\n\r\n"));
    assert_eq!(head, (200, String::new()));
    assert_eq!(job.get("/").0, 404);
    place.send(RECORDS);
    eventually("all is read", || (outcomes(&job.scrape()) == RECORDS).then_some(()));
    job.stop();
}

#[test]
fn a_log_that_nobody_reads_any_more_ends_nothing() {
    for format in ["text", "json"] {
        let mut place = Place::new(1);
        place.send(RECORDS);
        let mut job = place.job();
        let mut job = job.args(["--drain", "--log-format", format]).stderr(Stdio::piped()).spawn().expect("it runs");
        drop(job.stderr.take());
        let status = eventually("its end", || job.try_wait().expect("our child"));
        assert_eq!(status.code(), Some(0), "{format}");
        let archived: u64 = place.raw().files.values().map(|file| file.rows).sum();
        assert_eq!(archived, RECORDS, "{format}");
    }
}

#[test]
fn each_process_of_a_job_answers_for_itself() {
    let mut place = Place::new(2);
    let start = |place: &Place, index| {
        let mut job = place.job();
        place.one_of(2, index, &mut job);
        place.spawn(job)
    };
    let mut zero = start(&place, 0);
    eventually("it gathers", || {
        (zero.get("/readyz") == (503, "waiting for the other processes of the job\n".to_owned())).then_some(())
    });
    assert_eq!(zero.get("/healthz").0, 200);
    let mut one = start(&place, 1);
    place.send(RECORDS);
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
    assert_eq!(zero.ended().0, Some(0));
}

#[test]
fn an_address_that_can_not_be_had_is_refused() {
    let place = Place::new(1);
    let holds = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = holds.local_addr().expect("bound").to_string();
    for (at, code, says) in
        [(taken.as_str(), 75, "give each process on a host"), ("192.0.2.1:0", 78, "give an address of this machine")]
    {
        let mut command = place.job();
        command.args(["--http", at]);
        let mut job = place.spawn(command);
        assert_eq!(job.ended().0, Some(code));
        let said = job.last_word();
        assert!(said.starts_with(&format!("--http {at}: ")) && said.contains(says), "{said}");
    }
    assert!(!place.folder.path().join("tables/raw").exists(), "nothing was fenced or made");
}

#[test]
#[ignore = "e2e"]
fn promtool_finds_no_fault() {
    let mut place = Place::new(1);
    let mut job = place.start();
    place.send(RECORDS);
    eventually("all is read", || (outcomes(&job.scrape()) == RECORDS).then_some(()));
    job.is_ready();
    let (_, text) = job.get("/metrics");
    let promtool = || {
        let mut command = Command::new(format!("{}/scripts/debian", env!("CARGO_MANIFEST_DIR")));
        command.arg("promtool");
        command
    };
    // The first time, it reports that it fetches promtool.
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
