//! Generated traffic, sent through the embedded broker and read back: bytes, keys and timestamps are as generated.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use floodmark::dev::{DevCommand, Generated, Traffic, TrafficOptions, TrafficRange, write_record_line};
use floodmark::job::Job;
use floodmark::model::Records;
use floodmark::source::kafka::Kafka;
use floodmark::source::{PartitionStart, SourceError, SourceFactory, Stamp, Txns};
use floodmark::table::raw;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::Value;

const PARTITIONS: i32 = 3;
const FROM: &str = "2026-01-13T00:00:00Z";
const FROM_MS: i64 = 1_768_262_400_000;
const GEN: &str = "--seed 7 --customers 50 --late-share 0.1 --broken-share 0.1 --too-large";

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: DevCommand,
}

/// Runs `floodmark dev …`; arguments are split at spaces.
fn dev(line: &str) -> anyhow::Result<()> {
    floodmark::dev::run(Line::try_parse_from(format!("dev {line}").split(' '))?.command)
}

/// Timestamp, key, value.
type Record = (i64, Option<Vec<u8>>, Option<Vec<u8>>);

/// All records of a topic, by partition and in order. Fails unless there are exactly this many.
fn read(brokers: &str, topic: &str, records: usize) -> Vec<Vec<Record>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "test")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let mut assignment = TopicPartitionList::new();
    let mut ends = 0;
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(topic, partition, Offset::Offset(0)).expect("an offset");
        ends += consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)).expect("watermarks").1;
    }
    assert_eq!(ends, records as i64);
    consumer.assign(&assignment).expect("assigned");
    let mut log = vec![Vec::new(); PARTITIONS as usize];
    let deadline = Instant::now() + Duration::from_secs(60);
    while log.iter().map(Vec::len).sum::<usize>() < records {
        assert!(Instant::now() < deadline, "{:?} of {records} after a minute", log.iter().map(Vec::len));
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message.expect("a message");
        let partition = &mut log[message.partition() as usize];
        assert_eq!(message.offset(), partition.len() as i64);
        let timestamp_ms = message.timestamp().to_millis().expect("a timestamp");
        partition.push((timestamp_ms, message.key().map(<[u8]>::to_vec), message.payload().map(<[u8]>::to_vec)));
    }
    log
}

fn traffic(events: u64) -> impl Iterator<Item = Generated> {
    Traffic::new(TrafficOptions {
        seed: 7,
        customers: 50,
        partitions: PARTITIONS,
        range: Some(TrafficRange { from_ms: FROM_MS, to_ms: FROM_MS + 86_400_000, events }),
        late_share: 0.1,
        broken_share: 0.1,
        too_large: true,
        ..TrafficOptions::default()
    })
    .expect("valid options")
}

fn expected(events: u64) -> Vec<Vec<Record>> {
    let mut log = vec![Vec::new(); PARTITIONS as usize];
    for record in traffic(events) {
        log[record.partition as usize].push((record.timestamp_ms, record.key, record.value));
    }
    log
}

fn broker(topics: &[&str]) -> (MockCluster<'static, DefaultProducerContext>, String) {
    let cluster = MockCluster::new(1).expect("an embedded broker");
    for topic in topics {
        cluster.create_topic(topic, PARTITIONS, 1).expect("a topic");
    }
    let address = cluster.bootstrap_servers();
    (cluster, address)
}

#[test]
fn generated_records_arrive_byte_for_byte() {
    let (_broker, address) = broker(&["generated", "from_file"]);
    dev(&format!("gen --brokers {address} --topic generated --from {FROM} --events 5000 {GEN}")).expect("sent");
    assert!(read(&address, "generated", 5000) == expected(5000));

    // The same through a file.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("records.jsonl");
    let file = file.to_str().expect("a plain name");
    dev(&format!("gen --output {file} --partitions {PARTITIONS} --from {FROM} --events 5000 {GEN}")).expect("written");
    let mut lines = Vec::new();
    traffic(5000).for_each(|record| write_record_line(&record, &mut lines));
    assert!(fs::read(file).expect("a file") == lines);
    dev(&format!("produce {file} --gen-format --brokers {address} --topic from_file")).expect("sent");
    assert!(read(&address, "from_file", 5000) == expected(5000));
}

#[test]
fn lines_arrive_as_they_are() {
    let (_broker, address) = broker(&["lines", "log", "fixed"]);
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        fs::write(&file, bytes).expect("written");
        file.to_str().expect("a plain name").to_owned()
    };
    let mut text = Vec::new();
    (0..250).for_each(|number| text.extend_from_slice(format!("line {number}\r\n").as_bytes()));
    text.extend_from_slice(b"\n\xff\xfe no newline");
    let file = write("lines", &text);
    dev(&format!("produce {file} --brokers {address} --topic lines")).expect("sent");
    let log = read(&address, "lines", 252);
    assert_eq!([log[0].len(), log[1].len(), log[2].len()], [100, 100, 52]);
    assert_eq!(log[1][0].2.as_deref(), Some(&b"line 100\r"[..]));
    assert_eq!(log[2][50].2.as_deref(), Some(&b""[..]));
    assert_eq!(log[2][51].2.as_deref(), Some(&b"\xff\xfe no newline"[..]));
    assert!(log.iter().flatten().all(|(_, key, _)| key.is_none()));

    let file = write("log", b"a [17/May/2015:10:05:03 +0000] x\nno time\nb [17/May/2015:10:05:04 +0000] x\n");
    dev(&format!("produce {file} --brokers {address} --topic log --timestamp access-log --partition 1")).expect("sent");
    let times: Vec<i64> = read(&address, "log", 3)[1].iter().map(|record| record.0).collect();
    assert_eq!(times, [1_431_857_103_000, 1_431_857_103_000, 1_431_857_104_000]);

    dev(&format!("produce {file} --brokers {address} --topic fixed --timestamp-ms 1234567890123")).expect("sent");
    assert!(read(&address, "fixed", 3)[0].iter().all(|record| record.0 == 1_234_567_890_123));
}

#[test]
fn what_can_not_be_sent_says_why() {
    let (_broker, address) = broker(&["events"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("wrong.jsonl");
    fs::write(&file, "{\"partition\":9,\"timestamp_ms\":5,\"value\":\"x\"}\n").expect("written");
    let file = file.to_str().expect("a plain name");
    let there = format!("--brokers {address} --topic events");
    for (line, part) in [
        (format!("gen --brokers {address} --topic absent"), "there is no topic absent at"),
        (format!("gen --brokers {address} --topic absent --partitions 2"), "dev broker --topic absent:2"),
        (format!("gen {there} --partitions 8"), "topic events has 3 partitions, but --partitions is 8"),
        (format!("gen {there} --customers 0"), "customers: expected 1 to 10,000,000, found 0"),
        (format!("gen {there} -X no.such.property=1"), "No such configuration property: \"no.such.property\""),
        (format!("gen {there} --events 99 -X message.max.bytes=1100 --event-bytes 2000"), "(2000 bytes) to events"),
        (format!("produce {file} {there} --partition 3"), "--partition: expected 0 to 2"),
        (format!("produce {file} {there} --gen-format"), "partition: expected 0 to 2, the topic's partitions; found 9"),
        (format!("produce {file}x {there}"), "can not read"),
        (format!("produce {file}"), "--topic"),
    ] {
        let error = format!("{:#}", dev(&line).expect_err(&line));
        assert!(error.contains(part), "{line}: {error}");
    }
}

#[test]
fn records_that_are_not_delivered_are_counted() {
    let (broker, address) = broker(&["refused"]);
    let refusal = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 100];
    broker.request_errors(RDKafkaApiKey::Produce, &refusal);
    let gen_line = format!("gen --brokers {address} --topic refused --events 50 -X enable.idempotence=false");
    let error = dev(&gen_line).expect_err("refused").to_string();
    assert!(error.starts_with("50 of 50 records were not delivered to topic refused; the first: "), "{error}");
    assert!(error.contains("TopicAuthorizationFailed"), "{error}");
}

/// Promise 4: no record is lost between the moment at which the client begins to fetch and the moment at which we own its queues. There are
/// so many partitions that the first records arrive before the last queue exists.
#[test]
fn promise_4_a_start_reads_from_its_first_offset_on() {
    const MANY: i32 = 1000;
    const RECORDS: usize = 10_000;
    let (broker, address) = broker(&[]);
    broker.create_topic("many", MANY, 1).expect("a topic");
    dev(&format!("gen --brokers {address} --topic many --from {FROM} --events {RECORDS} {GEN}")).expect("sent");
    let job = job_of(&address, "many", "earliest");
    for start in 0..5 {
        let kafka = Kafka::new(&job, false);
        kafka.resume(&Txns::new()).expect("offsets");
        let mut share = kafka.open(0, 1, Arc::new(|| {})).expect("a share");
        let mut next = [0; MANY as usize];
        let deadline = Instant::now() + Duration::from_secs(60);
        while next.iter().sum::<i64>() < RECORDS as i64 {
            let read: i64 = next.iter().sum();
            assert!(Instant::now() < deadline, "start {start}: {read} of {RECORDS} after a minute");
            let mut records = Records::default();
            share.read(Stamp { epoch: 1, ingested_at: 0 }, &mut records).expect("readable");
            for record in records.iter() {
                let next = &mut next[record.partition as usize];
                assert_eq!(record.offset, *next, "start {start}, partition {}", record.partition);
                *next += 1;
            }
        }
    }
}

fn job_of(address: &str, topic: &str, start: &str) -> Job {
    let job = format!(
        "name = \"many\"\n[source]\ntopics = [\"{topic}\"]\nstart = \"{start}\"\n[source.kafka]\n\"bootstrap.servers\" = \"{address}\"\n\
         [tables]\nurl = \"memory:///\"\n[event]\nformat = \"json\"\ncustomer = {{ pointer = \"/c\" }}\nevent_time = {{ pointer = \"/t\" }}\n"
    );
    Job::parse(&job, "many.toml", &|_| None).expect("a job")
}

/// A start asks for offsets twice, whatever the number of partitions: this broker answers no third request.
#[test]
fn a_start_asks_for_all_partitions_at_once() {
    const MANY: i32 = 1000;
    let (broker, address) = broker(&[]);
    broker.create_topic("many", MANY, 1).expect("a topic");
    dev(&format!("gen --brokers {address} --topic many --from {FROM} --events 5000 {GEN}")).expect("sent");
    let mut answers = vec![RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR; 2];
    answers.extend([RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 2000]);
    for start in ["earliest", "latest"] {
        broker.clear_request_errors(RDKafkaApiKey::ListOffsets);
        broker.request_errors(RDKafkaApiKey::ListOffsets, &answers);
        let kafka = Kafka::new(&job_of(&address, "many", start), false);
        kafka.resume(&Txns::new()).expect("offsets");
        let starts = kafka.starts();
        assert_eq!(starts.len(), MANY as usize);
        assert_eq!(starts.iter().map(|start| start.end).sum::<i64>(), 5000);
        let begins = |it: &PartitionStart| if start == "latest" { it.end } else { 0 };
        assert!(starts.iter().all(|start| start.pin && start.offset == begins(start)), "{starts:?}");
    }
    let kafka = Kafka::new(&job_of(&address, "many", "earliest"), false);
    let error = kafka.resume(&Txns::new()).expect_err("a third question is denied");
    assert!(matches!(error, SourceError::Invalid(_)) && error.to_string().contains("deny"), "{error}");
}

/// Each partition's last archived record is read again, all of them at once; of 1,000, one has changed.
#[test]
fn a_record_that_is_another_is_found_among_many_partitions() {
    const MANY: i32 = 1000;
    let (broker, address) = broker(&[]);
    broker.create_topic("many", MANY, 1).expect("a topic");
    dev(&format!("gen --brokers {address} --topic many --from {FROM} --events 5000 {GEN}")).expect("sent");
    let job = job_of(&address, "many", "earliest");
    let kafka = Kafka::new(&job, false);
    kafka.resume(&Txns::new()).expect("offsets");
    let mut share = kafka.open(0, 1, Arc::new(|| {})).expect("a share");
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut records = Records::default();
    while records.len() < 5000 {
        assert!(Instant::now() < deadline, "{} records", records.len());
        share.read(Stamp { epoch: 1, ingested_at: 0 }, &mut records).expect("readable");
    }
    let mut txns = Txns::new();
    for position in share.take_positions() {
        txns.insert(raw::offset_txn("many", position.partition), position.next_offset);
        if let Some(last) = position.last {
            assert_eq!(last.offset + 1, position.next_offset);
            txns.insert(raw::check_txn("many", position.partition), last.check);
        }
    }
    drop(share);
    let again = Kafka::new(&job, false);
    again.resume(&txns).expect("all are what they were");
    assert!(again.starts().iter().all(|start| !start.pin && start.offset == start.end));
    *txns.get_mut(&raw::check_txn("many", 777)).expect("it has a record") += 1;
    let error = Kafka::new(&job, false).resume(&txns).expect_err("one is another").to_string();
    assert!(error.contains("many/777: the record at offset") && error.matches("many/").count() == 1, "{error}");
}

/// The mock cluster can not answer a request for offsets by time. Without a clear error, nothing would be read.
#[test]
fn a_start_at_a_time_is_refused_by_the_embedded_broker() {
    let (_broker, address) = broker(&["timed"]);
    let job = job_of(&address, "timed", "2026-01-13T00:00:00Z");
    let error = Kafka::new(&job, false).resume(&Txns::new()).expect_err("refused");
    assert!(matches!(error, SourceError::Invalid(_)), "{error}");
    assert!(error.to_string().contains("embedded broker") && error.to_string().contains("\"earliest\""), "{error}");
    // A job that has begun continues where it was.
    let txns = Txns::from([(raw::offset_txn("timed", 0), 0)]);
    Kafka::new(&job, false).resume(&txns).expect("it goes on");
}

/// `floodmark status` on a real job: records that are only in Kafka are its lag, and brokers that do not answer are a note.
#[test]
fn status_says_how_far_behind_kafka_a_job_is() {
    let (cluster, address) = broker(&["web"]);
    let folder = tempfile::tempdir().expect("a folder");
    let job = concat!(env!("CARGO_MANIFEST_DIR"), "/jobs/web-analytics.toml");
    let floodmark = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_floodmark"))
            .args(arguments)
            .env_clear()
            .env("KAFKA_BOOTSTRAP", &address)
            .env("FLOODMARK_TOPIC", "web")
            .env("FLOODMARK_TABLES", folder.path())
            .output()
            .expect("the binary runs");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        output.stdout
    };
    let status = |place: &str| -> Value {
        serde_json::from_slice(&floodmark(&["status", place, "--output", "json"])).expect("one JSON object")
    };
    let sum = |status: &Value, name: &str| -> Option<i64> {
        status["partitions"].as_array().expect("partitions").iter().map(|partition| partition[name].as_i64()).sum()
    };
    let send = |events: u64| dev(&format!("gen --brokers {address} --topic web --events {events} --broken-share 0.1"));

    send(1000).expect("sent");
    floodmark(&["run", job, "--drain"]);
    send(70).expect("sent");
    let found = status(job);
    assert_eq!(found["notes"], serde_json::json!([]));
    assert_eq!(found["partitions"].as_array().map(Vec::len), Some(PARTITIONS as usize));
    let sums = ["archived_offset", "end_offset", "lag_records"].map(|name| sum(&found, name));
    assert_eq!(sums, [Some(1000), Some(1070), Some(70)]);
    assert_eq!((&found["balance"]["read_records"], &found["balance"]["is_balanced"]), (&1000.into(), &true.into()));
    assert_eq!(found["balance"]["rejected_records"], 100);
    assert!(found["lanes"].as_array().expect("lanes").iter().all(|lane| lane["pending_raw_rows"] == 0), "{found}");

    // Without a job file, no broker is asked.
    let by_path = status(folder.path().to_str().expect("a plain name"));
    assert_eq!((sum(&by_path, "archived_offset"), sum(&by_path, "lag_records")), (Some(1000), None));
    assert_eq!((&by_path["logic"], &by_path["counts"]), (&Value::Null, &found["counts"]));

    drop(cluster);
    let started = Instant::now();
    let found = status(job);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!((sum(&found, "archived_offset"), sum(&found, "end_offset")), (Some(1000), None));
    assert!(found["notes"][0].as_str().is_some_and(|note| note.contains("the brokers do not answer")), "{found}");
}

/// The limit that `dev broker --help` states.
#[test]
fn the_embedded_broker_drops_the_oldest_past_5_mib_a_partition() {
    let (_broker, address) = broker(&["lz4", "zstd"]);
    for (compression, held_about) in [("lz4", 29_000), ("zstd", 49_000)] {
        let topic = format!("--brokers {address} --topic {compression} -X compression.type={compression}");
        dev(&format!("gen {topic} --from {FROM} --events 250000")).expect("sent");
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &address)
            .set("group.id", "test")
            .set("auto.offset.reset", "error")
            .create()
            .expect("a consumer");
        let (low, high) = consumer.fetch_watermarks(compression, 0, Duration::from_secs(10)).expect("watermarks");
        assert!(low > 0 && (high - low).abs_diff(held_about) < 6_000, "{compression}: {low} to {high}");
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(compression, 0, Offset::Offset(0)).expect("an offset");
        consumer.assign(&assignment).expect("assigned");
        let deadline = Instant::now() + Duration::from_secs(30);
        let error = loop {
            assert!(Instant::now() < deadline, "no error");
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => panic!("offset {} was read", message.offset()),
                Some(Err(error)) => break error,
                None => {}
            }
        };
        assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::AutoOffsetReset), "{error}");
    }
}
