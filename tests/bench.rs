//! The tools with which scripts/bench measures are right: the loop without guarantees counts as a recount does; preloaded tables are
//! consistent, and a job continues from them; a job in fast motion leaves exact tables.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use clap::Parser;
use floodmark::dataflow::Progress;
use floodmark::dataflow::commit::Request;
use floodmark::dev::{DevCommand, Traffic, TrafficOptions, TrafficRange};
use floodmark::job::Job;
use floodmark::live::{Live, run};
use floodmark::model::Lane;
use floodmark::process::Clock;
use floodmark::source::script::{Script, ScriptRecord, TOPIC};
use floodmark::table::counts::{lane_txn, segment_of};
use floodmark::table::layout::Layout;
use floodmark::table::segment::Columns;
use floodmark::table::{Log, Root, State, raw};
use floodmark::verify::{Verdict, VerifyArgs};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rdkafka::mocking::MockCluster;
use serde_json::Value;
use tokio::sync::watch;

const GRANULARITIES: [&str; 6] = ["minute", "hour", "day", "week", "month", "year"];

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: DevCommand,
}

/// Runs `floodmark dev …`; arguments are split at spaces.
fn dev(line: &str) -> anyhow::Result<()> {
    floodmark::dev::run(Line::try_parse_from(format!("dev {line}").split(' '))?.command)
}

/// Writes jobs/bench.toml to a folder, with its placeholders filled in.
fn job(folder: &Path, brokers: &str, topic: &str) -> String {
    let text = std::fs::read_to_string(format!("{}/jobs/bench.toml", env!("CARGO_MANIFEST_DIR"))).expect("a job");
    let text = text.replace("${KAFKA_BOOTSTRAP:-127.0.0.1:9092}", brokers);
    let text = text.replace("${FLOODMARK_TOPIC:-bench}", topic);
    let text = text.replace("${FLOODMARK_TABLES:-tables/bench}", folder.join("tables").to_str().expect("a plain name"));
    let path = folder.join("job.toml");
    std::fs::write(&path, text).expect("written");
    path.to_str().expect("a plain name").to_owned()
}

/// Granularity, customer, dimension, window start (µs), dimension value.
type Cell = (&'static str, String, String, i64, String);

/// Reads the rows of a file of `counts`, which must be in order.
fn rows(granularity: &'static str, bytes: Bytes, cells: &mut BTreeMap<Cell, i64>) {
    let mut last = None;
    for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).expect("Parquet").build().expect("a reader") {
        let columns = Columns::of(&batch.expect("rows")).expect("the columns of counts");
        for row in 0..columns.len() {
            let (customer, dimension) =
                (columns.customer.value(row).to_owned(), columns.dimension.value(row).to_owned());
            let (start, value) = (columns.window_start.value(row), columns.value.value(row).to_owned());
            let order = Some((customer.clone(), dimension.clone(), start, value.clone()));
            assert!(last < order, "{last:?} before {order:?}");
            last = order;
            let cell = (granularity, customer, dimension, start, value);
            assert_eq!(cells.insert(cell.clone(), columns.event_count.value(row)), None, "{cell:?} twice");
        }
    }
}

/// The start of a window, by the calendar.
fn window(granularity: &str, time: NaiveDateTime) -> i64 {
    let date = time.date();
    let midnight = |date: NaiveDate| date.and_time(NaiveTime::MIN);
    let start = match granularity {
        "minute" => date.and_hms_opt(time.hour(), time.minute(), 0).expect("a minute"),
        "hour" => date.and_hms_opt(time.hour(), 0, 0).expect("an hour"),
        "day" => midnight(date),
        "week" => midnight(date - Days::new(date.weekday().num_days_from_monday().into())),
        "month" => midnight(date.with_day(1).expect("the first")),
        _ => midnight(date.with_ordinal(1).expect("the first")),
    };
    start.and_utc().timestamp_micros()
}

#[test]
fn the_loop_without_guarantees_counts_as_a_recount_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let cluster = MockCluster::new(1).expect("an embedded broker");
    cluster.create_topic("bench", 3, 1).expect("a topic");
    let brokers = cluster.bootstrap_servers();
    let job = job(folder.path(), &brokers, "bench");
    let options = TrafficOptions {
        customers: 30,
        partitions: 3,
        range: Some(TrafficRange { from_ms: 1_767_000_000_000, to_ms: 1_768_000_000_000, events: 4000 }),
        late_share: 0.1,
        broken_share: 0.1,
        ..TrafficOptions::default()
    };
    let hours = 1_000_000_000.0 / 3_600_000.0;
    dev(&format!(
        "gen --brokers {brokers} --topic bench --from 1767000000000 --hours {hours} --events 4000 --customers 30 \
         --late-share 0.1 --broken-share 0.1"
    ))
    .expect("sent");

    let mut expected: BTreeMap<Cell, i64> = BTreeMap::new();
    for record in Traffic::new(options).expect("valid options").filter(|record| record.broken.is_none()) {
        let event: Value = serde_json::from_slice(&record.value.expect("a value")).expect("JSON");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let time = DateTime::from_timestamp_millis(record.event_time_ms).expect("a time").naive_utc();
        let url = text(&event["url"]);
        let path = url.trim_start_matches("https://").find('/').map_or("/", |slash| &url["https://".len() + slash..]);
        let path = path.split(['?', '#']).next().unwrap_or_default().to_owned();
        let dimensions = [
            ("action", text(&event["action"]), 0),
            ("country", text(&event["userInfo"]["country"]), 0),
            ("page", path, 1),
            ("total", String::new(), 0),
        ];
        for (dimension, value, finest) in dimensions {
            for granularity in &GRANULARITIES[finest..] {
                let customer = text(&event["analyticsCustomerId"]);
                let cell = (*granularity, customer, dimension.to_owned(), window(granularity, time), value.clone());
                *expected.entry(cell).or_default() += 1;
            }
        }
    }
    for threads in [1, 2] {
        let to = folder.path().join(format!("limit-{threads}"));
        dev(&format!("limit {job} --threads {threads} --to {}", to.display())).expect("counted");
        let mut cells = BTreeMap::new();
        for granularity in GRANULARITIES {
            let bytes = std::fs::read(to.join(format!("counts-{granularity}.parquet"))).expect("a file");
            rows(granularity, bytes.into(), &mut cells);
        }
        assert!(cells == expected, "{threads} threads");
        let archived: i64 = (0..threads)
            .map(|thread| {
                let file = std::fs::File::open(to.join(format!("raw-{thread}.parquet"))).expect("a file");
                let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
                reader.metadata().file_metadata().num_rows()
            })
            .sum();
        assert_eq!(archived, 4000);
    }
}

fn load(root: &Root, table: &str) -> State {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(Log::new(root, table).load()).expect("readable").expect("a table")
}

/// Sums of events by granularity and dimension.
fn sums(folder: &Path, state: &State) -> BTreeMap<(&'static str, String), i64> {
    let mut cells = BTreeMap::new();
    for file in state.files.values() {
        let segment = segment_of(file).expect("a segment");
        let bytes = std::fs::read(folder.join("tables/counts").join(&file.path)).expect("a file");
        let mut own = BTreeMap::new();
        rows(segment.granularity.name(), bytes.into(), &mut own);
        assert!(own.keys().all(|cell| segment.windows().contains(&cell.3)), "{}", file.path);
        cells.extend(own);
    }
    let mut sums = BTreeMap::new();
    for ((granularity, _, dimension, ..), count) in cells {
        *sums.entry((granularity, dimension)).or_default() += count;
    }
    sums
}

#[test]
fn preloaded_tables_agree_with_themselves_and_a_job_goes_on_from_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = job(folder.path(), "none", TOPIC);
    dev(&format!("preload {path} --days 40 --customers 50 --events-per-day 300")).expect("made");
    let job = Job::load(Path::new(&path)).expect("a job");
    let root = Root::open(&job.tables.url, &job.tables.options).expect("a root");
    let counts = load(&root, "counts");
    Layout::new(counts.files.values(), |_| true).expect("no files overlap");
    let before = sums(folder.path(), &counts);
    assert_eq!(before.len(), 4 * 6 - 1, "{before:?}");
    let events = before.values().next().copied().expect("sums");
    assert!((11_900..12_100).contains(&events), "{events}");
    assert!(before.values().all(|sum| *sum == events), "{before:?}");
    assert!(dev(&format!("preload {path}")).expect_err("there are tables").to_string().contains("already"));

    let script = Script::new(1);
    let mut traffic = Traffic::new(TrafficOptions { range: None, ..TrafficOptions::default() }).expect("valid options");
    let mut record = floodmark::dev::Generated::default();
    traffic.fill_at(Clock::System.now_ms(), &mut record);
    script.push(0, ScriptRecord { timestamp_ms: Some(record.timestamp_ms), value: record.value });
    let (_request, requested) = watch::channel(Request::Drain);
    let live = Live {
        job,
        root: root.clone(),
        workers: 2,
        clock: Clock::System,
        source: Arc::new(script),
        progress: Arc::new(Progress::default()),
    };
    run(live, requested).expect("drained");
    let (raw, counts) = (load(&root, "raw"), load(&root, "counts"));
    assert!(raw.txn(raw::EPOCH) > 1);
    for lane in Lane::ALL {
        assert_eq!(counts.txn(&lane_txn(lane)), raw.txn(raw::EPOCH), "lane {}", lane.name());
    }
    let after = sums(folder.path(), &counts);
    assert!(after.values().all(|sum| *sum == events + 1), "{after:?}");
}

/// More events of a customer than are written and decoded: the rest repeats them at other times.
#[test]
fn a_busy_customer_has_as_many_events_as_were_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = job(folder.path(), "none", TOPIC);
    dev(&format!("preload {path} --days 2 --customers 1 --events-per-day 50000 --until 1893456000000")).expect("made");
    let job = Job::load(Path::new(&path)).expect("a job");
    let root = Root::open(&job.tables.url, &job.tables.options).expect("a root");
    let sums = sums(folder.path(), &load(&root, "counts"));
    assert!(sums.len() == 4 * 6 - 1 && sums.values().all(|sum| *sum == 100_000), "{sums:?}");
}

#[test]
fn a_life_in_fast_motion_leaves_exact_tables() {
    #[derive(Parser)]
    struct Verify {
        #[command(flatten)]
        args: VerifyArgs,
    }
    let folder = tempfile::tempdir().expect("a folder");
    let job = job(folder.path(), "none", TOPIC);
    dev(&format!("long-life {job} --publishes 40 --events 50 --customers 20 --late-share 0.1")).expect("lived");
    let args = Verify::try_parse_from(["verify", &job]).unwrap_or_else(|error| panic!("{error}")).args;
    let verdict = floodmark::verify::run(args).expect("verified");
    assert_eq!(verdict, Verdict::Exact);
    let error = dev(&format!("long-life {job}")).expect_err("there are tables");
    assert!(error.to_string().contains("--from"), "{error}");
}
