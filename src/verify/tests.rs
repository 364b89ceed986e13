//! Handmade tables on a memory store, right and broken ones: each kind of check has a fault that it must find.
//!
//! The counts are made with the job's own arithmetic of time, so the right tables also test the second arithmetic against the first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::TimestampMicrosecondType;
use bytes::Bytes;
use object_store::memory::InMemory;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::decode::{Decoder, Event};
use crate::job::Logic;
use crate::model::{
    Granularity, Lane, Outcome, Period, Reason, RecordRef, Records, Rejection, Segment, TimeUs, TimestampType, Zone,
    bucket_of,
};
use crate::process::{Exit, HasExit};
use crate::table::raw::{FileWriter, Kind, RawRows};
use crate::table::segment::{self, SegmentWriter};
use crate::table::store::write_file;
use crate::table::{Commit, File};

mod ledger;

const JOB: &str = r#"
name = "test"
[source]
topics = ["events"]
[source.kafka]
bootstrap.servers = "127.0.0.1:9092"
[tables]
url = "memory:///tables"
buckets = 4
[event]
format = "json"
customer = { pointer = "/customer" }
event_time = { pointer = "/at" }
[event.fields.action]
pointer = "/action"
[event.fields.country]
pointer = "/country"
[[where]]
field = "action"
not = { equals = "ping" }
[dimensions.total]
granularities = ["minute", "hour", "day", "week", "month", "year"]
[dimensions.action]
granularities = ["minute", "hour", "day", "week", "year"]
[dimensions.country]
granularities = ["hour", "month"]
"#;

const BUCKETS: u32 = 4;
const TOPIC: &str = "events";

/// The commit time of the tables: 2026-01-14T00:06:00Z.
pub(crate) const COMMITTED_MS: i64 = 1_768_349_160_000;

fn job() -> Job {
    Job::parse(JOB, "job.toml", &|_| None).expect("a job")
}

fn at(text: &str) -> TimeUs {
    text.parse::<chrono::DateTime<chrono::Utc>>().expect("a time").timestamp_micros()
}

/// A row of `raw` that will be written.
#[derive(Clone)]
struct Archived {
    epoch: i64,
    ingested_us: i64,
    partition: i32,
    offset: i64,
    value: Vec<u8>,
    outcome: Outcome,
    event_us: Option<i64>,
    /// If it is counted: the customer, and one value for each dimension.
    counted: Option<(String, Vec<String>)>,
}

/// A row of `counts` that will be written, in the order of files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Published {
    customer: String,
    dimension: String,
    start_us: i64,
    value: String,
    count: i64,
}

/// Customer, dimension, window start, value.
type CellKey = (String, String, i64, String);

/// A file of `counts` that will be written.
#[derive(Clone)]
struct Segmented {
    segment: Segment,
    label: String,
    rows: Vec<Published>,
    /// Added to every `window_end`.
    end_shift_us: i64,
    /// Added to the number of rows in the log.
    said_shift: i64,
}

/// Both tables, before they are written.
struct Tables {
    job: Job,
    /// Rows, by file.
    raw: Vec<Vec<Archived>>,
    counts: Vec<Segmented>,
    raw_txns: BTreeMap<String, i64>,
    counts_txns: BTreeMap<String, i64>,
}

/// The epochs of minute, hour, day, late and coarse.
pub(crate) type Lanes = [i64; Lane::ALL.len()];

impl Tables {
    /// Right tables of these records, each (epoch, ingested_at, partition, offset, value), with one file for each epoch.
    fn of(records: Vec<(i64, i64, i32, i64, Vec<u8>)>, lanes: Lanes) -> Tables {
        let job = job();
        let mut decoder = Decoder::new(&job.logic);
        let mut event = Event::default();
        let mut raw: BTreeMap<i64, Vec<Archived>> = BTreeMap::new();
        let mut raw_txns = BTreeMap::new();
        for (epoch, ingested_us, partition, offset, value) in records {
            let outcome = decoder.decode(record(epoch, ingested_us, partition, offset, &value), &mut event);
            let counted = matches!(outcome, Outcome::Counted).then(|| (event.customer.clone(), event.values.clone()));
            raw_txns.insert(raw::EPOCH.to_owned(), epoch);
            raw_txns.insert(raw::offset_txn(TOPIC, partition), offset + 1);
            raw.entry(epoch).or_default().push(Archived {
                epoch,
                ingested_us,
                partition,
                offset,
                value,
                outcome,
                event_us: event.event_time,
                counted,
            });
        }
        let raw: Vec<_> = raw.into_values().collect();
        let counts_txns =
            Lane::ALL.into_iter().zip(lanes).map(|(lane, epoch)| (counts::lane_txn(lane), epoch)).collect();
        let mut tables = Tables { job, raw, counts: Vec::new(), raw_txns, counts_txns };
        tables.publish(lanes);
        tables
    }

    /// Makes `counts` from `raw` again.
    fn publish(&mut self, lanes: Lanes) {
        let rows = self.raw.iter().flatten();
        self.counts = files_of(rows.flat_map(|row| cells_of(&self.job.logic, row, lanes)));
    }

    /// The file of `counts` that holds this cell, and the row's place in it.
    fn find(&self, granularity: Granularity, customer: &str, dimension: &str, value: &str) -> (usize, usize) {
        let wanted = |row: &Published| (&*row.customer, &*row.dimension, &*row.value) == (customer, dimension, value);
        (self.counts.iter().enumerate())
            .filter(|(_, file)| file.segment.granularity == granularity)
            .find_map(|(index, file)| Some((index, file.rows.iter().position(wanted)?)))
            .expect("a row of that cell")
    }

    fn row(&mut self, granularity: Granularity, customer: &str, dimension: &str, value: &str) -> &mut Published {
        let (file, row) = self.find(granularity, customer, dimension, value);
        &mut self.counts[file].rows[row]
    }

    /// Writes the tables into a new store.
    async fn write(&self) -> Root {
        let root = Root::on(Arc::new(InMemory::new()));
        self.write_to(&root).await;
        root
    }

    async fn write_to(&self, root: &Root) {
        let log = Log::new(root, "raw");
        let mut state = log.load_or_create(&raw::definition(), 0).await.expect("a table");
        let mut commit = Commit { txns: self.raw_txns.clone().into_iter().collect(), ..Commit::default() };
        for (index, rows) in self.raw.iter().enumerate() {
            for (file, bytes) in raw_files(index, rows) {
                write_file(log.store().as_ref(), &file.path, bytes).await.expect("written");
                commit.add.push(file);
            }
        }
        log.commit(&mut state, &commit, "WRITE", COMMITTED_MS).await.expect("committed");

        let log = Log::new(root, "counts");
        let mut state = log.load_or_create(&counts::definition(BUCKETS), 0).await.expect("a table");
        let mut commit = Commit { txns: self.counts_txns.clone().into_iter().collect(), ..Commit::default() };
        for (index, file) in self.counts.iter().enumerate() {
            if let Some((file, bytes)) = counts_file(index, file) {
                write_file(log.store().as_ref(), &file.path, bytes).await.expect("written");
                commit.add.push(file);
            }
        }
        log.commit(&mut state, &commit, "WRITE", COMMITTED_MS).await.expect("committed");
    }

    async fn verify(&self) -> Report {
        self.verify_with(Options::default()).await
    }

    async fn verify_with(&self, options: Options) -> Report {
        verify(&self.job, &self.write().await, options).await.expect("a verdict")
    }
}

/// The cells to which a row adds one, in the lanes that have absorbed it.
fn cells_of(logic: &Logic, row: &Archived, lanes: Lanes) -> Vec<(Granularity, CellKey)> {
    let mut cells = Vec::new();
    let (Some((customer, values)), Some(event_us)) = (&row.counted, row.event_us) else { return cells };
    for (dimension, value) in logic.dimensions.iter().zip(values) {
        for granularity in &dimension.granularities {
            let start = granularity.window_start(event_us, Zone::Utc);
            let late_from = granularity.window_end(start, Zone::Utc) + logic.grace_us(*granularity);
            let late = granularity.lane() != Lane::Coarse && row.ingested_us >= late_from;
            let lane = if late { Lane::Late } else { granularity.lane() };
            if lanes[lane as usize] >= row.epoch {
                cells.push((*granularity, (customer.clone(), dimension.name.clone(), start, value.clone())));
            }
        }
    }
    cells
}

/// The files of these cells, to which each occurrence adds one.
fn files_of(added: impl IntoIterator<Item = (Granularity, CellKey)>) -> Vec<Segmented> {
    let mut segments: BTreeMap<Segment, BTreeMap<CellKey, i64>> = BTreeMap::new();
    for (granularity, cell) in added {
        let period = granularity.ladder()[granularity.ladder().len().min(2) - 1];
        let bucket = bucket_of(cell.0.as_bytes(), BUCKETS);
        let segment = Segment { granularity, bucket, period, period_start: period.start(cell.2) };
        *segments.entry(segment).or_default().entry(cell).or_default() += 1;
    }
    (segments.into_iter())
        .map(|(segment, cells)| Segmented {
            segment,
            label: segment.period.label(segment.period_start),
            rows: (cells.into_iter())
                .map(|((customer, dimension, start_us, value), count)| Published {
                    customer,
                    dimension,
                    start_us,
                    value,
                    count,
                })
                .collect(),
            end_shift_us: 0,
            said_shift: 0,
        })
        .collect()
}

fn record(epoch: i64, ingested_us: i64, partition: i32, offset: i64, value: &[u8]) -> RecordRef<'_> {
    RecordRef {
        epoch: epoch as u64,
        ingested_at: ingested_us,
        topic: 0,
        partition,
        offset,
        timestamp_ms: Some(ingested_us / 1000),
        timestamp_type: TimestampType::CreateTime,
        key: None,
        value: Some(value),
    }
}

/// One file for each kind of row, as the job writes them.
fn raw_files(index: usize, rows: &[Archived]) -> Vec<(File, Bytes)> {
    let mut records = Records::default();
    for row in rows {
        records.push(record(row.epoch, row.ingested_us, row.partition, row.offset, &row.value), []);
    }
    let encode = |kind| {
        let mut gathered = RawRows::new(Arc::from([TOPIC.to_owned()]));
        for (index, row) in rows.iter().enumerate() {
            if Kind::of(&records.get(index), &row.outcome, row.event_us) == kind {
                gathered.push(&records, index, &row.outcome, row.event_us);
            }
        }
        let mut writer = FileWriter::new().expect("a schema");
        writer.write(&gathered.finish()).expect("written");
        let encoded = writer.finish(kind, &format!("f{index}")).expect("encoded")?;
        Some((encoded.file, encoded.bytes.into()))
    };
    Kind::ALL.into_iter().filter_map(encode).collect()
}

fn counts_file(index: usize, file: &Segmented) -> Option<(File, Bytes)> {
    let text = |of: fn(&Published) -> &str| StringArray::from_iter_values(file.rows.iter().map(of));
    let mut writer = SegmentWriter::new(file.segment).expect("a schema");
    writer
        .write(segment::Columns {
            customer: text(|row| &row.customer),
            dimension: text(|row| &row.dimension),
            window_start: TimestampMicrosecondArray::from_iter_values(file.rows.iter().map(|row| row.start_us)),
            value: text(|row| &row.value),
            event_count: Int64Array::from_iter_values(file.rows.iter().map(|row| row.count)),
        })
        .expect("written");
    let (mut entry, mut bytes) = writer.finish(&format!("f{index}")).expect("encoded")?;
    entry.partition.insert("period".to_owned(), file.label.clone());
    entry.rows = entry.rows.checked_add_signed(file.said_shift).expect("a number of rows");
    entry.stats =
        entry.stats.replace(&format!("\"numRecords\":{}", file.rows.len()), &format!("\"numRecords\":{}", entry.rows));
    if file.end_shift_us != 0 {
        bytes = shifted_ends(bytes, file.end_shift_us);
        entry.size = bytes.len() as u64;
    }
    Some((entry, bytes))
}

fn shifted_ends(bytes: Bytes, shift_us: i64) -> Bytes {
    let mut batches = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|b| b.build()).expect("a file");
    let batch = batches.next().expect("a batch").expect("rows");
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    let ends = columns[2].as_primitive::<TimestampMicrosecondType>();
    let ends = TimestampMicrosecondArray::from_iter_values(ends.values().iter().map(|end| end + shift_us));
    columns[2] = Arc::new(ends.with_timezone("UTC"));
    let batch = RecordBatch::try_new(batch.schema(), columns).expect("the same types");
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a schema");
    writer.write(&batch).expect("written");
    writer.into_inner().expect("encoded").into()
}

fn event(customer: &str, action: &str, country: &str, time: &str) -> Vec<u8> {
    serde_json::json!({"customer": customer, "action": action, "country": country, "at": time}).to_string().into_bytes()
}

/// Four epochs on two partitions: on time and late for minute and hour, rejected, filtered, and texts that are hard to sort.
fn records() -> Vec<(i64, i64, i32, i64, Vec<u8>)> {
    let ingested =
        ["2026-01-13T04:05:10Z", "2026-01-13T04:05:50Z", "2026-01-13T04:07:30Z", "2026-01-14T00:05:00Z"].map(at);
    let long = "é".repeat(300);
    let values: [(i64, i32, Vec<u8>); 18] = [
        (1, 0, event("acme", "view", "de", "2026-01-13T04:05:01Z")),
        (1, 0, event("acme", "view", "fr", "2026-01-13T04:05:02Z")),
        (1, 1, event("acme", "buy", "de", "2026-01-13T04:05:03.250Z")),
        (1, 0, b"{\"customer\": ".to_vec()),
        (2, 0, event("acme", "ping", "de", "2026-01-13T04:05:20Z")),
        (2, 1, event("bolt", "view", "", "2026-01-13T04:05:21Z")),
        (2, 1, event("", "view", "de", "2026-01-13T04:05:22Z")),
        (2, 0, event("b\u{0}lt", "vi\u{0}ew", "de", "2026-01-13T04:05:23Z")),
        (2, 0, event("b\u{0}", &long, "de", "2026-01-13T03:59:59.999Z")),
        // Late for its minute, on time for its hour.
        (3, 0, event("acme", "view", "de", "2026-01-13T04:05:40Z")),
        (3, 1, event("acme", "view", "us", "2026-01-13T04:07:29Z")),
        (3, 1, Vec::new()),
        (3, 1, event("acme", "view", "us", "yesterday")),
        // Late for its minute and hour. For the day before it would be on time, but its grace ends with this epoch, so it is late for that
        // too.
        (4, 0, event("acme", "view", "de", "2026-01-13T04:10:00Z")),
        (4, 0, event("bolt", "buy", "de", "2026-01-14T00:04:59Z")),
        (4, 1, event("bolt", "view", "de", "2026-01-01T00:00:00Z")),
        (4, 1, event("dune", "view", "de", "2026-01-14T00:04:30Z")),
        (4, 0, event("dune", "view", "de", "2025-12-31T23:59:59Z")),
    ];
    let mut next = [100, 0];
    (values.into_iter())
        .map(|(epoch, partition, value)| {
            let offset = next[partition as usize];
            next[partition as usize] += 1;
            (epoch, ingested[epoch as usize - 1], partition, offset, value)
        })
        .collect()
}

const LEVEL: Lanes = [4, 4, 4, 4, 4];

fn right() -> Tables {
    Tables::of(records(), LEVEL)
}

/// Writes right tables, for the tests of other readers.
pub(crate) async fn right_tables() -> (Job, Root) {
    let tables = right();
    let root = tables.write().await;
    (tables.job, root)
}

/// Many records, spread by a fixed rule, with lanes at different epochs.
fn many() -> Tables {
    let start = at("2026-01-12T22:00:00Z");
    let records = (0..3_000u64)
        .map(|index| {
            let mixed = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
            let epoch = (index / 100 + 1) as i64;
            let ingested_us = start + epoch * 600_000_000;
            let delay_us = if mixed.is_multiple_of(5) { 7_200_000_000 } else { 60_000_000 };
            let event_ms = (ingested_us - (mixed % delay_us) as i64) / 1000;
            let value = serde_json::json!({
                "customer": format!("c{}", mixed % 37),
                "action": format!("a{}", mixed % 5),
                "country": format!("x{}", mixed % 11),
                "at": event_ms,
            });
            (epoch, ingested_us, (index % 3) as i32, (index / 3) as i64, value.to_string().into_bytes())
        })
        .collect();
    Tables::of(records, [30, 28, 20, 25, 25])
}

/// Writes right tables with these lanes; with `merged`, all of `raw` is in the files of its first epoch.
pub(crate) async fn tables_with_lanes(lanes: Lanes, merged: bool, root: &Root) -> Job {
    let mut tables = Tables::of(records(), lanes);
    if merged {
        tables.raw = vec![tables.raw.concat()];
    }
    tables.write_to(root).await;
    tables.job
}

/// Writes right tables twice: with files as windows first get them, and with files of hours in different periods.
pub(crate) async fn tables_of_many_periods() -> [(Job, Root); 2] {
    let born = many();
    let mut mixed = many();
    let midnight = at("2026-01-13T00:00:00Z");
    sealed(&mut mixed, Granularity::Hour, |start| if start < midnight { Period::Day } else { Period::Hour });
    [(born.job.clone(), born.write().await), (mixed.job.clone(), mixed.write().await)]
}

/// The checks that found differences, and how many; without the details.
fn kinds(report: &Report) -> Vec<(Check, u64)> {
    report.differences.iter().map(|(check, count)| (*check, *count)).collect()
}

fn only(report: &Report) -> &Difference {
    assert_eq!(report.first.len(), 1, "{}", report.table());
    &report.first[0]
}

#[tokio::test]
async fn right_tables_are_exact() {
    let report = right().verify().await;
    assert_eq!(report.verdict, Verdict::Exact, "{}", report.table());
    assert_eq!(report.verdict.exit(), Exit::Done);
    assert_eq!((report.records, report.counted, report.filtered), (18, 13, 1));
    assert_eq!(report.rejected, BTreeMap::from([("bad_json", 1), ("bad_time", 1), ("empty", 1), ("missing_field", 1)]));
    assert_eq!(
        report.sentence(),
        format!(
            "exact: {} cells of counts version 1 equal a recount of 18 records in raw (epochs 1..=4); 4 rejected, 1 filtered",
            report.cells
        )
    );
    assert_eq!(report.table(), "");
}

#[tokio::test]
async fn lanes_apart_are_exact_and_named() {
    // Each lane in the middle or at the end, in every combination; and all steps of two of them.
    let mut combinations: Vec<Lanes> =
        (0..32).map(|number| [1, 2, 4, 8, 16].map(|power| 2 + number / power % 2 * 2)).collect();
    combinations.extend((0..25).map(|number| [4, 3, 1, number / 5, number % 5]));
    for lanes in combinations {
        let report = Tables::of(records(), lanes).verify().await;
        assert_eq!(report.verdict, Verdict::Exact, "{lanes:?}\n{}", report.table());
        let named = Lane::ALL.map(|lane| report.lanes[lane.name()]);
        assert_eq!((named, report.lanes.len()), (lanes, Lane::ALL.len()));
    }
    let report = Tables::of(records(), [4, 3, 4, 4, 2]).verify().await;
    let behind = "; not yet published: coarse is at epoch 2, hour is at epoch 3";
    assert!(report.sentence().ends_with(behind), "{}", report.sentence());
}

#[tokio::test]
async fn a_lane_that_says_more_than_was_published_is_found() {
    // Only the epoch in the log is wrong: it is 3, and the log says 4.
    for (lane, windows) in
        [("hour", &["hour"][..]), ("late", &["minute", "day"]), ("coarse", &["week", "month", "year"])]
    {
        let lanes = Lane::ALL.map(|other| if other.name() == lane { 3 } else { 4 });
        let mut tables = Tables::of(records(), lanes);
        tables.counts_txns.insert(format!("lane/{lane}"), 4);
        let report = tables.verify().await;
        assert_eq!(report.verdict, Verdict::Differences);
        let granularity = |difference: &Difference| difference.place.to_string().split(' ').next().map(str::to_owned);
        let found: BTreeSet<_> = report.first.iter().filter_map(granularity).collect();
        assert!(found.iter().all(|name| windows.contains(&name.as_str()) || lane == "late"), "{lane}: {found:?}");
        assert!(windows.iter().all(|name| found.contains(*name)), "{lane}: {found:?}");
    }
}

#[tokio::test]
async fn a_lane_that_says_less_than_was_published_is_found() {
    for lane in Lane::ALL {
        let mut tables = right();
        tables.counts_txns.insert(counts::lane_txn(lane), 1);
        assert_eq!(tables.verify().await.verdict, Verdict::Differences, "{}", lane.name());
    }
}

/// Events on both sides of new years and leap days, some of them years late.
fn around_new_year() -> Vec<(i64, i64, i32, i64, Vec<u8>)> {
    let times = [
        "2022-12-31T23:59:59Z",
        "2023-01-01T00:00:00Z",
        "2023-01-02T00:00:00Z",
        "2024-02-28T23:59:59Z",
        "2024-02-29T12:00:00Z",
        "2024-03-01T00:00:00Z",
        "2024-12-29T23:59:59Z",
        "2024-12-30T00:00:00Z",
        "2025-12-28T23:59:59Z",
        "2025-12-29T00:00:00Z",
        "2025-12-31T23:59:59.999Z",
        "2026-01-01T00:00:00Z",
        "2026-01-04T23:59:59Z",
        "2026-01-05T00:00:00Z",
    ];
    let ingested = [at("2026-01-01T00:00:10Z"), at("2026-01-05T00:00:10Z")];
    let records = [0, 1].map(|round| {
        times.into_iter().enumerate().map(move |(index, time)| {
            let customer = ["acme", "bolt", "c0", "dune", "élan"][index % 5];
            let value = event(customer, ["view", "buy"][round], "de", time);
            (round as i64 + 1, ingested[round], 0, (round * times.len() + index) as i64, value)
        })
    });
    records.into_iter().flatten().collect()
}

#[tokio::test]
async fn windows_around_new_year_and_leap_days_are_exact() {
    for lanes in [[2, 2, 2, 2, 2], [2, 1, 1, 1, 2], [1, 1, 1, 1, 1], [2, 2, 2, 2, 1], [1, 1, 1, 2, 0]] {
        let report = Tables::of(around_new_year(), lanes).verify().await;
        assert_eq!(report.verdict, Verdict::Exact, "{lanes:?}\n{}", report.table());
    }
    // The week from 2025-12-29 belongs to the older year, also for events in January.
    let tables = Tables::of(around_new_year(), [2; 5]);
    let weeks = |file: &&Segmented| file.segment.granularity == Granularity::Week;
    let across = at("2025-12-29T00:00:00Z");
    let mut holding =
        tables.counts.iter().filter(weeks).filter(|file| file.rows.iter().any(|row| row.start_us == across));
    assert!(holding.all(|file| file.label == "2025-12-29"));
    // In tables of the former layout: to the year in which it starts.
    let mut tables = tables;
    sealed(&mut tables, Granularity::Week, |_| Period::Year);
    let weeks = tables.counts.iter().filter(|file| file.segment.granularity == Granularity::Week);
    let labels: BTreeSet<&str> = weeks.map(|file| file.label.as_str()).collect();
    assert!(labels.contains("2025") && labels.contains("2026"), "{labels:?}");
    // Before a year of weeks, the last week of the year before has a file of its own.
    let across_alone = |start: TimeUs| if start <= across { Period::Week } else { Period::Year };
    let mut beside = Tables::of(around_new_year(), [2; 5]);
    sealed(&mut beside, Granularity::Week, across_alone);
    for tables in [tables, beside] {
        let report = tables.verify().await;
        assert_eq!(report.verdict, Verdict::Exact, "{}", report.table());
    }
}

#[tokio::test]
async fn a_week_in_the_year_of_its_end_is_found() {
    let mut tables = Tables::of(around_new_year(), [2; 5]);
    sealed(&mut tables, Granularity::Week, |_| Period::Year);
    let across = at("2025-12-29T00:00:00Z");
    let week = |file: &Segmented| {
        file.segment.granularity == Granularity::Week && file.rows.iter().any(|row| row.start_us == across)
    };
    let from = tables.counts.iter().position(week).expect("a week across new year");
    let moved: Vec<Published> = tables.counts[from].rows.extract_if(.., |row| row.start_us == across).collect();
    let rows = moved.len() as u64;
    let bucket = tables.counts[from].segment.bucket;
    let is_next = |file: &&mut Segmented| {
        (file.segment.granularity, file.segment.bucket) == (Granularity::Week, bucket) && file.label == "2026"
    };
    match tables.counts.iter_mut().find(is_next) {
        Some(next) => {
            next.rows.extend(moved);
            next.rows.sort();
        }
        None => {
            let next = Segmented { label: "2026".to_owned(), rows: moved, ..tables.counts[from].clone() };
            tables.counts.push(next);
        }
    }
    let report = tables.verify().await;
    assert_eq!(kinds(&report), [(Check::MissingRow, rows), (Check::Segment, rows)], "{}", report.table());
}

/// Moves the cells of a granularity into files of the periods that `period` chooses by a file's first moment.
fn sealed(tables: &mut Tables, granularity: Granularity, period: impl Fn(TimeUs) -> Period) {
    let mut sealed: BTreeMap<(u16, i64), Segmented> = BTreeMap::new();
    for file in std::mem::take(&mut tables.counts) {
        if file.segment.granularity != granularity {
            tables.counts.push(file);
            continue;
        }
        for row in file.rows {
            let period = period(row.start_us);
            let period_start = period.start(row.start_us);
            let segment = Segment { period, period_start, ..file.segment };
            let empty =
                Segmented { segment, label: period.label(period_start), rows: vec![], end_shift_us: 0, said_shift: 0 };
            sealed.entry((segment.bucket, period_start)).or_insert(empty).rows.push(row);
        }
    }
    tables.counts.extend(sealed.into_values().map(|mut file| {
        file.rows.sort();
        file
    }));
}

#[tokio::test]
async fn files_of_any_period_of_the_ladder_are_exact() {
    for granularity in Granularity::ALL {
        for period in granularity.ladder().iter().copied().chain(granularity.former()) {
            let mut tables = many();
            sealed(&mut tables, granularity, |_| period);
            let report = tables.verify().await;
            assert_eq!(report.verdict, Verdict::Exact, "{granularity} {period:?}\n{}", report.table());
        }
    }
}

#[tokio::test]
async fn files_of_different_periods_side_by_side_are_exact() {
    let mut tables = many();
    // Older files get longer periods, as live seals them.
    let days = ["2026-01-13T00:00:00Z", "2026-01-13T01:00:00Z"].map(at);
    sealed(&mut tables, Granularity::Minute, |start| match start {
        start if start < days[0] => Period::Day,
        start if start < days[1] => Period::Hour,
        _ => Period::Minute,
    });
    sealed(&mut tables, Granularity::Hour, |start| if start < days[0] { Period::Day } else { Period::Hour });
    let labels: BTreeSet<usize> = tables.counts.iter().map(|file| file.label.len()).collect();
    assert_eq!(labels, BTreeSet::from([4, 7, 10, 13, 15]));
    let report = tables.verify().await;
    assert_eq!(report.verdict, Verdict::Exact, "{}", report.table());

    // A file of minutes that was sealed into the file of its day but is still live: its rows are there twice.
    let is_short = |file: &Segmented| file.segment.granularity == Granularity::Minute && file.label == "2026-01-12";
    let short = tables.counts.iter().position(is_short).expect("a file of a day");
    let twice = tables.counts[short].rows[0].clone();
    let period_start = Period::Minute.start(twice.start_us);
    let segment = Segment { period: Period::Minute, period_start, ..tables.counts[short].segment };
    let label = Period::Minute.label(period_start);
    tables.counts.push(Segmented { segment, label, rows: vec![twice], end_shift_us: 0, said_shift: 0 });
    let report = tables.verify().await;
    assert_eq!(report.differences[&Check::FilesOverlap], 1, "{}", report.table());
    assert_eq!(report.differences[&Check::RowTwice], 1, "{}", report.table());
}

#[tokio::test]
async fn periods_that_are_not_on_the_ladder_are_found() {
    let wrong = [
        (Granularity::Minute, Period::Year),
        (Granularity::Hour, Period::Year),
        (Granularity::Day, Period::Hour),
        (Granularity::Day, Period::Year),
        (Granularity::Week, Period::Month),
        (Granularity::Month, Period::Day),
        (Granularity::Year, Period::Month),
    ];
    for (granularity, period) in wrong {
        let mut tables = right();
        sealed(&mut tables, granularity, |_| period);
        let files = tables.counts.iter().filter(|file| file.segment.granularity == granularity).count() as u64;
        assert_eq!(kinds(&tables.verify().await), [(Check::Segment, files)], "{granularity}");
    }
}

#[tokio::test]
async fn a_week_that_is_not_called_by_its_monday_is_found() {
    let mut tables = right();
    let file = tables.counts.iter_mut().find(|file| file.segment.granularity == Granularity::Week).expect("a week");
    assert_eq!(file.label, "2026-01-12");
    file.label = "2026-01-13".to_owned();
    let rows = file.rows.len() as u64;
    let report = tables.verify().await;
    // The file, and its windows, which start outside it.
    assert_eq!(report.differences[&Check::Segment], 1 + rows, "{}", report.table());
    assert_ne!(report.verdict, Verdict::Exact);
}

#[tokio::test]
async fn wrong_counts_of_long_windows_are_found() {
    for granularity in [Granularity::Week, Granularity::Month, Granularity::Year] {
        let mut tables = right();
        tables.row(granularity, "acme", "total", "").count += 1;
        let report = tables.verify().await;
        assert_eq!(report.differences[&Check::Count], 1, "{}", report.table());

        let mut tables = right();
        let (file, row) = tables.find(granularity, "bolt", "total", "");
        tables.counts[file].rows.remove(row);
        let report = tables.verify().await;
        assert_eq!(report.differences[&Check::MissingRow], 1, "{}", report.table());

        let mut tables = right();
        let (file, _) = tables.find(granularity, "dune", "total", "");
        tables.counts[file].end_shift_us = 86_400_000_000;
        let rows = tables.counts[file].rows.len() as u64;
        assert_eq!(kinds(&tables.verify().await), [(Check::WindowEnd, rows)]);
    }
}

#[tokio::test]
async fn any_budget_gives_the_same_report() {
    let mut tables = many();
    for is_right in [true, false] {
        if !is_right {
            tables.row(Granularity::Hour, "c3", "action", "a1").count += 1;
            tables.row(Granularity::Minute, "c20", "total", "").count -= 1;
        }
        let whole = tables.verify().await;
        assert_eq!(whole.spilled, 0);
        assert_eq!(whole.verdict == Verdict::Exact, is_right, "{}", whole.table());
        for memory_bytes in [1, 4_000, 300_000] {
            let mut report = tables.verify_with(Options { memory_bytes, ..Options::default() }).await;
            assert!(report.spilled > 1);
            report.spilled = 0;
            assert_eq!(report, whole, "{memory_bytes}");
        }
    }
}

#[tokio::test]
async fn a_count_off_by_one_is_found() {
    let mut tables = right();
    tables.row(Granularity::Day, "acme", "total", "").count += 1;
    let report = tables.verify().await;
    assert_eq!(report.verdict.exit(), Exit::Differences);
    // The day's actions no longer sum to its total either.
    assert_eq!(kinds(&report), [(Check::Count, 1), (Check::DimensionSum, 1)]);
    let found = &report.first[0];
    assert_eq!((found.found.as_str(), found.expected.as_str()), ("7", "6"));
    assert_eq!(found.place.to_string(), "day 2026-01-13T00:00:00Z \"acme\" total");
    assert!(report.sentence().starts_with("2 differences between counts version 1 and a recount of 18 records in raw"));
}

#[tokio::test]
async fn a_count_moved_to_another_value_is_found() {
    let mut tables = right();
    tables.row(Granularity::Hour, "acme", "country", "de").count -= 1;
    tables.row(Granularity::Hour, "acme", "country", "fr").count += 1;
    assert_eq!(kinds(&tables.verify().await), [(Check::Count, 2)]);
}

#[tokio::test]
async fn a_dimension_that_does_not_sum_to_total_is_found() {
    let mut tables = right();
    tables.row(Granularity::Hour, "acme", "country", "us").count = 5;
    let report = tables.verify().await;
    assert_eq!(kinds(&report), [(Check::Count, 1), (Check::DimensionSum, 1)]);
    let sum = &report.first[1];
    assert_eq!(sum.place.to_string(), "hour 2026-01-13T04:00:00Z \"acme\" country");
    assert_eq!((sum.found.as_str(), sum.expected.as_str()), ("10 in sum", "6 in total"));
}

#[tokio::test]
async fn a_missing_row_is_found() {
    // A row in the middle of a file, and the last row of a file.
    for (customer, dimension, value) in [("acme", "action", "buy"), ("acme", "total", "")] {
        let mut tables = right();
        let (file, row) = tables.find(Granularity::Minute, customer, dimension, value);
        tables.counts[file].rows.remove(row);
        let report = tables.verify().await;
        let missing = report.first.iter().find(|found| found.check == Check::MissingRow).expect("found");
        assert_eq!(report.differences[&Check::MissingRow], 1);
        assert_eq!(missing.found, "no row");
    }
}

#[tokio::test]
async fn a_missing_file_is_found() {
    let mut tables = right();
    let (file, _) = tables.find(Granularity::Minute, "bolt", "total", "");
    let rows = tables.counts.remove(file).rows.len() as u64;
    assert_eq!(kinds(&tables.verify().await), [(Check::MissingRow, rows)]);
}

#[tokio::test]
async fn a_row_without_records_is_found() {
    let mut tables = right();
    let (file, row) = tables.find(Granularity::Hour, "acme", "country", "us");
    let mut extra = tables.counts[file].rows[row].clone();
    extra.value = "zz".to_owned();
    tables.counts[file].rows.insert(row + 1, extra);
    let report = tables.verify().await;
    assert_eq!(kinds(&report), [(Check::ExtraRow, 1), (Check::DimensionSum, 1)]);
    assert_eq!((report.first[0].found.as_str(), report.first[0].expected.as_str()), ("1", "no row"));
}

#[tokio::test]
async fn a_zero_row_is_found() {
    let mut tables = right();
    let (file, row) = tables.find(Granularity::Hour, "acme", "country", "us");
    let mut zero = tables.counts[file].rows[row].clone();
    zero.value = "zz".to_owned();
    zero.count = 0;
    tables.counts[file].rows.insert(row + 1, zero);
    let report = tables.verify().await;
    assert_eq!(only(&report).check, Check::ZeroRow);
}

#[tokio::test]
async fn a_second_row_of_a_cell_is_found() {
    let mut tables = right();
    let (file, row) = tables.find(Granularity::Day, "bolt", "action", "view");
    let again = tables.counts[file].rows[row].clone();
    tables.counts[file].rows.insert(row, again);
    let report = tables.verify().await;
    assert_eq!(kinds(&report), [(Check::RowTwice, 1), (Check::DimensionSum, 1)]);
}

#[tokio::test]
async fn rows_out_of_order_are_found() {
    let mut tables = right();
    let (file, row) = tables.find(Granularity::Day, "acme", "action", "buy");
    tables.counts[file].rows.swap(row, row + 1);
    let report = tables.verify().await;
    assert_eq!(report.differences[&Check::RowOrder], 1);
}

#[tokio::test]
async fn a_file_in_a_wrong_bucket_is_found() {
    let mut tables = right();
    let (file, _) = tables.find(Granularity::Day, "acme", "total", "");
    let rows = tables.counts[file].rows.len() as u64;
    let taken: Vec<_> = tables.counts.iter().map(|file| (file.segment.granularity, file.segment.bucket)).collect();
    let free = (0..BUCKETS as u16).find(|bucket| !taken.contains(&(Granularity::Day, *bucket))).expect("a free bucket");
    tables.counts[file].segment.bucket = free;
    let report = tables.verify().await;
    assert_eq!(kinds(&report), [(Check::MissingRow, rows), (Check::Segment, rows)]);
}

#[tokio::test]
async fn a_row_in_a_wrong_period_is_found() {
    let mut tables = right();
    let (file, _) = tables.find(Granularity::Day, "dune", "total", "");
    let rows = tables.counts[file].rows.len() as u64;
    tables.counts[file].label = "2031-07".to_owned();
    let report = tables.verify().await;
    assert_eq!(kinds(&report), [(Check::MissingRow, rows), (Check::Segment, rows)]);
    assert_eq!(report.first.last().expect("found").expected, "a file whose period holds its window");
}

#[tokio::test]
async fn a_period_that_the_granularity_does_not_know_is_found() {
    let mut tables = right();
    let (file, _) = tables.find(Granularity::Day, "bolt", "total", "");
    tables.counts[file].label = "2026".to_owned();
    let report = tables.verify().await;
    assert_eq!(only(&report).check, Check::Segment);
}

#[tokio::test]
async fn a_wrong_window_end_is_found() {
    let mut tables = right();
    let (file, _) = tables.find(Granularity::Hour, "bolt", "total", "");
    tables.counts[file].end_shift_us = -1;
    let rows = tables.counts[file].rows.len() as u64;
    let report = tables.verify().await;
    assert_eq!(kinds(&report), [(Check::WindowEnd, rows)]);
    assert!(report.first[0].found.ends_with(":59:59.999999Z"), "{}", report.first[0].found);
}

#[tokio::test]
async fn overlapping_files_are_found() {
    let mut tables = right();
    let (file, _) = tables.find(Granularity::Day, "acme", "total", "");
    let half = tables.counts[file].rows.len() / 2;
    let rows = tables.counts[file].rows.split_off(half);
    let second = Segmented { rows, ..tables.counts[file].clone() };
    tables.counts.push(second);
    // Their rows are right; only the existence of two files is wrong.
    assert_eq!(only(&tables.verify().await).check, Check::FilesOverlap);

    let again = tables.counts[file].rows[0].clone();
    tables.counts.last_mut().expect("a file").rows.insert(0, again);
    let report = tables.verify().await;
    assert_eq!(report.differences[&Check::RowTwice], 1, "{}", report.table());
}

#[tokio::test]
async fn a_log_that_miscounts_a_files_rows_is_found() {
    let mut tables = right();
    tables.counts[0].said_shift = 1;
    assert_eq!(only(&tables.verify().await).check, Check::FileRows);
}

#[tokio::test]
async fn an_offset_twice_in_raw_is_found() {
    // In another file. The counts count it twice as well, so that nothing else differs.
    let mut tables = right();
    let mut again = tables.raw[0][1].clone();
    (again.epoch, again.ingested_us) = (2, tables.raw[1][0].ingested_us);
    tables.raw[1].push(again);
    tables.publish(LEVEL);
    let report = tables.verify().await;
    let found = only(&report);
    assert_eq!(found.check, Check::OffsetTwice);
    assert_eq!(found.place.to_string(), "events/0 offset 101");
    assert_eq!(found.found, "1 offset(s) from here on stored more than once");
}

#[tokio::test]
async fn a_file_twice_in_raw_is_found() {
    let mut tables = right();
    tables.raw.push(tables.raw[0].clone());
    tables.publish(LEVEL);
    let report = tables.verify().await;
    // Two stretches of partition 0, including a rejected record in a file apart, and one of partition 1.
    assert_eq!(kinds(&report), [(Check::OffsetTwice, 3)]);
    assert_eq!(report.first[0].found, "2 offset(s) from here on stored more than once");
}

#[tokio::test]
async fn gaps_between_offsets_are_fine() {
    let mut tables = right();
    for row in tables.raw.iter_mut().flatten().filter(|row| row.partition == 0) {
        row.offset *= 3;
    }
    let last = tables.raw.iter().flatten().filter(|row| row.partition == 0).map(|row| row.offset).max();
    tables.raw_txns.insert("kafka/events/0".to_owned(), last.expect("rows") + 1);
    assert_eq!(tables.verify().await.verdict, Verdict::Exact);
}

#[tokio::test]
async fn a_wrong_next_offset_is_found() {
    let mut tables = right();
    tables.raw_txns.insert("kafka/events/1".to_owned(), 1);
    let report = tables.verify().await;
    let found = only(&report);
    assert_eq!((found.check, found.found.as_str(), found.expected.as_str()), (Check::NextOffset, "1", "8"));
}

/// A partition's last record may be followed by transaction markers; then the log says where the record is.
#[tokio::test]
async fn markers_behind_the_last_record_are_no_difference() {
    let mut tables = right();
    tables.raw_txns.insert("kafka/events/1".to_owned(), 11);
    assert_eq!(kinds(&tables.verify().await), [(Check::NextOffset, 1)]);
    tables.raw_txns.insert("kafka/events/1/last".to_owned(), 7);
    assert_eq!(tables.verify().await.verdict, Verdict::Exact);
    for wrong in [6, 8] {
        tables.raw_txns.insert("kafka/events/1/last".to_owned(), wrong);
        assert_eq!(kinds(&tables.verify().await), [(Check::NextOffset, 1)]);
    }
}

#[tokio::test]
async fn a_changed_outcome_is_found() {
    let mut tables = right();
    tables.raw[0][0].outcome = Outcome::Filtered;
    let report = tables.verify().await;
    let found = only(&report);
    assert_eq!(found.check, Check::Outcome);
    assert_eq!(found.found, "filtered at 2026-01-13T04:05:01Z");
    assert_eq!(found.expected, "counted at 2026-01-13T04:05:01Z");
}

#[tokio::test]
async fn a_changed_reason_and_event_time_are_found() {
    let mut tables = right();
    tables.raw[0][3].outcome = Outcome::Rejected(Box::new(Rejection::new(Reason::NotUtf8, None, "UTF-8", b"{")));
    tables.raw[0][0].event_us = None;
    let report = tables.verify().await;
    assert_eq!(kinds(&report), [(Check::Outcome, 2)]);
    assert_eq!(
        (report.first[1].found.as_str(), report.first[1].expected.as_str()),
        ("rejected not_utf8", "rejected bad_json")
    );
}

#[tokio::test]
async fn two_times_of_one_epoch_are_found() {
    let mut tables = right();
    tables.raw[2][0].ingested_us += 1;
    let report = tables.verify().await;
    assert_eq!(only(&report).check, Check::IngestedAt);
}

#[tokio::test]
async fn a_time_that_goes_back_is_found() {
    let mut tables = right();
    for row in &mut tables.raw[1] {
        row.ingested_us = at("2026-01-13T04:05:09Z");
    }
    tables.publish(LEVEL);
    let report = tables.verify().await;
    assert_eq!(only(&report).expected, "at least 2026-01-13T04:05:10Z, as epoch 1");
}

#[tokio::test]
async fn epochs_beyond_raws_newest_are_found() {
    let mut tables = right();
    tables.raw_txns.insert(raw::EPOCH.to_owned(), 3);
    let report = tables.verify().await;
    // Five lanes, and the rows of epoch 4.
    assert_eq!(kinds(&report), [(Check::EpochBeyond, 6)]);
}

#[tokio::test]
async fn the_first_differences_are_of_every_kind() {
    let mut tables = many();
    for row in tables.counts.iter_mut().flat_map(|file| &mut file.rows) {
        row.count += 1;
    }
    tables.raw_txns.insert("kafka/events/1".to_owned(), 1);
    let report = tables.verify_with(Options { limit: 4, ..Options::default() }).await;
    let shown: Vec<_> = report.first.iter().map(|difference| difference.check).collect();
    assert_eq!(shown, [Check::Count, Check::Count, Check::DimensionSum, Check::NextOffset]);
    assert!(report.table().ends_with("more; --limit shows more of them\n"));
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["verdict"], "differences");
    assert_eq!(json["first"][0]["check"], "count");
    assert_eq!(json["first"][0]["granularity"], "minute");
}

#[tokio::test]
async fn without_tables_it_says_to_run_the_job() {
    let root = Root::on(Arc::new(InMemory::new()));
    let error = verify(&job(), &root, Options::default()).await.expect_err("nothing there");
    assert_eq!(error.exit(), Exit::Configuration);
    assert!(error.to_string().contains("run the job first"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_gone_is_damage() {
    let tables = right();
    let root = tables.write().await;
    let log = Log::new(&root, "raw");
    let state = log.load().await.expect("a log").expect("a table");
    let path = state.files.keys().next().expect("a file");
    object_store::ObjectStoreExt::delete(log.store().as_ref(), &path.as_str().into()).await.expect("deleted");
    let error = verify(&tables.job, &root, Options::default()).await.expect_err("a file is gone");
    assert_eq!(error.exit(), Exit::Failed);
    assert!(error.to_string().contains(path), "{error}");
}
