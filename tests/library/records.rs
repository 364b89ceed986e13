//! Whatever a record contains, it is archived unchanged, gets an outcome, and stops nothing.
//!
//! Whole Kafka records are generated: timestamps over all of i64, keys, headers, and values of both formats with damaged fields and bytes.
//! They go through the live job on a store in memory (source, decode, raw, combine, roll up, merge, commit), which is killed meanwhile, so
//! that the archive feeds the lanes; then through the merging of small files, `verify`, and a replay of all times. Every byte is in `raw`,
//! no record has the reason `decoder_panic`, `verify` is exact, and the replay finds nothing.
//!
//! `FLOODMARK_PROPERTY_RECORDS=N` feeds about N records instead of some hundreds. Failing seeds are kept in `records.proptest-regressions`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, BinaryArray, StringArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use floodmark::dataflow::Progress;
use floodmark::dataflow::commit::Request;
use floodmark::job::Job;
use floodmark::live::{Live, run};
use floodmark::model::{Outcome, RecordRef, TimestampType};
use floodmark::process::{Clock, ManualClock};
use floodmark::replay::request::prepare::{ReplayRequest, prepare};
use floodmark::replay::request::submission::Asked;
use floodmark::replay::run::{self, Replayer};
use floodmark::source::script::{Envelope, Script, ScriptRecord};
use floodmark::table::fetch::Batches;
use floodmark::table::raw::{FileWriter, Kind, RawRows, read_records};
use floodmark::table::{Log, Root};
use floodmark::upkeep::compact::compact;
use floodmark::verify::{Options, Verdict, verify};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use tokio::sync::watch;

use crate::support::faulty::Faulty;
use crate::support::live::{BASE, DAY, SECOND};

/// If something takes longer than this, it hangs, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

const PARTITIONS: usize = 3;

const HEAD: &str = r#"
name = "records"
[source]
topics = ["script"]
[source.kafka]
"bootstrap.servers" = "none"
[tables]
url = "memory://"
buckets = 4
[settings]
epoch_bytes = 200_000
"#;

const JSON: &str = r#"
[event]
format = "json"
customer = { first_of = ["/customer", "/user/id"], transform = ["lower_case"] }
event_time = { first_of = ["/time", "/sent"] }
record_bytes_max = 20_000
[event.fields.action]
pointer = "/action"
transform = ["lower_case"]
[event.fields.page]
first_of = ["/url", "/referrer"]
transform = ["url_path"]
[event.fields.host]
pointer = "/url"
transform = ["url_host"]
[event.fields.item]
pointer = "/items/1/name"
[event.fields.items]
pointer = "/items"
[event.fields.amount]
pointer = "/amount"
[[where]]
field = "action"
not = { in = ["ping"] }
[[where]]
field = "items"
exists = true
[dimensions.total]
granularities = ["minute", "hour", "day", "week", "month", "year"]
[dimensions.action]
granularities = ["minute", "hour", "day"]
[dimensions.page]
granularities = ["hour", "week"]
[dimensions.host]
granularities = ["day", "year"]
[dimensions.item]
granularities = ["hour", "month"]
[dimensions.amount]
granularities = ["day"]
"#;

const LINES: &str = r#"
[event]
format = "access_log"
customer = { first_of = ["virtual_host", "user", "client"], transform = ["lower_case"] }
event_time = { field = "time" }
record_bytes_max = 20_000
[event.fields.path]
field = "path"
[event.fields.query]
field = "query"
[event.fields.method]
field = "method"
[event.fields.referrer]
field = "referrer"
transform = ["url_host"]
[event.fields.request]
field = "request"
[event.fields.user_agent]
field = "user_agent"
transform = ["lower_case"]
[event.fields.protocol]
field = "protocol"
[[where]]
field = "method"
not = { equals = "OPTIONS" }
[dimensions.total]
granularities = ["minute", "hour", "day", "week", "month", "year"]
[dimensions.path]
granularities = ["minute", "hour", "day"]
[dimensions.query]
granularities = ["day"]
[dimensions.referrer]
granularities = ["hour", "week"]
[dimensions.request]
granularities = ["day", "month"]
[dimensions.user_agent]
granularities = ["day", "year"]
[dimensions.protocol]
granularities = ["hour"]
"#;

// ---- what is sent ----

/// Values with placeholders for fields: `<T>` a time, `<U>` a URL, `<S>` a text, `<N>` a number.
const JSON_VALUES: [&str; 6] = [
    r#"{"customer":"<S>","time":"<T>","action":"view","url":"<U>","referrer":"<U>","items":[{"name":"a"},{"name":"<S>"}],"amount":<N>}"#,
    r#"{"time":<N>,"customer":"c","action":"<S>","items":[],"url":"<U>","amount":"<S>"}"#,
    r#" { "user" : {"id":"<S>"}, "sent" : <N> , "items":{"1":{"name":"<S>"}}, "action":null,"url":"<U>" } "#,
    r#"{"customer":"a","customer":"<S>","time":"<T>","time":"<T>","items":[1,{"name":"<S>","name":{"x":[<N>]}}],"action":true}"#,
    r#"{"customer":"c","time":"<T>","action":"ping","x":{"deep":[[[{"a":"<S>"}]]],"n":<N>},"items":[0]}"#,
    r#"{"customer":"\u0063<S>\t","time":"<T>","action":"\ud83d\ude00","items":[[],{"name":"\u00e9"}],"url":"http:\/\/h\/<S>"}"#,
];
const LINE_VALUES: [&str; 6] = [
    r#"203.0.113.1 - - [<T>] "GET <U> HTTP/1.1" 200 <N> "<U>" "<S>""#,
    r#"<S>:443 203.0.113.1 - <S> [<T>] "POST /a?<S> HTTP/2.0" 404 - "-" "-" <N> "<S>""#,
    r#"h 203.0.113.1 - - [<T>] "HEAD <U>?x=<S>#<S> HTTP/1.0" 301 0"#,
    "203.0.113.1 id <S> [<T>] \"<S>\" 400 <N> \"<U>\" \"a\\\"b\\\\<S>\"\r\n",
    r#"203.0.113.1 - - [<T>] "OPTIONS * HTTP/1.1" 200 <N> "<S>" "<S>" rt=<N> "<S>""#,
    r#"203.0.113.1, 198.51.100.2 - - [<T>] "CONNECT h:443 HTTP/1.1" - <N>"#,
];

/// The first ones are valid.
const TIMES: [&str; 20] = [
    "2026-01-13T11:59:06.789Z",
    "2026-01-12T23:00:00+05:30",
    "13/Jan/2026:11:59:06 +0000",
    "12/Jan/2026:23:00:00 -0800",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59.999999999-23:59",
    "0000-01-01T00:00:00Z",
    "2000-01-01T00:00:00Z",
    "2099-12-31T23:59:59.999999Z",
    "2100-01-01T00:00:00Z",
    "2016-12-31T23:59:60Z",
    "2026-01-13T24:00:00Z",
    "2026-02-30T00:00:00Z",
    "01/Jan/0001:00:00:00 +2359",
    "31/Dec/9999:23:59:60 -2359",
    "00/Jan/0000:00:00:00 +0000",
    "1768305600000",
    "99999999999999999999999999",
    "-",
    "2026-01-13T11:59:06.\u{661}Z",
];
const URLS: [&str; 22] = [
    "/",
    "/a/b?c=d#e",
    "http://shop.example/x",
    "http://h",
    "HTTPS://H:80?q",
    "ftp://user:pass@[::1]:21/x",
    "http://",
    "http:///x",
    "h://@:/",
    "://",
    "a://b://c",
    "//",
    "?",
    "#",
    "*",
    "",
    "http://h#/x?y",
    "/go?to=http://h",
    "http://ü.example/ü",
    "http://a b/c",
    "http://h/%00%zz\\x",
    "mailto:a@h",
];
const TEXTS: [&str; 14] = [
    "shop-1",
    "a",
    "",
    "-",
    "\u{e9}\u{1f600}",
    "\u{0}\u{1}",
    "\\u0000",
    "\\ud800",
    "\\",
    "\"",
    " ",
    "\u{feff}\u{2028}",
    "\u{130}\u{1e9e}ΑΣ",
    "10.0.0.1:99999",
];
const NUMBERS: [&str; 16] = [
    "1768305600000",
    "7",
    "-1",
    "0",
    "-0",
    "1e400",
    "-1E-400",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "99999999999999999999999999999999",
    "1768305600",
    "1768305600000000",
    "1768305600000000000",
    "0.1",
    "NaN",
];
/// Bytes that are put into a value.
const TOKENS: [&[u8]; 22] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b"\\x16",
    b"://",
    b" [",
    b"] \"",
    b"-",
    b" ",
    b"\n",
    b"null",
];

#[derive(Clone, Copy, Debug)]
enum Spoil {
    Flip(u16, u8),
    Cut(u16),
    CutFront(u16),
    Insert(u16, usize),
    Splice(u16, usize, u16),
    Repeat(u16, u8, u16),
    Nest(u16, u8),
}

impl Spoil {
    fn on(self, value: &mut Vec<u8>, templates: &[&str]) {
        let at = |place: u16| usize::from(place) % (value.len() + 1);
        match self {
            Spoil::Flip(place, bit) => {
                let at = at(place);
                if let Some(byte) = value.get_mut(at) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            Spoil::Cut(place) => value.truncate(at(place)),
            Spoil::CutFront(place) => drop(value.drain(..at(place))),
            Spoil::Insert(place, token) => {
                let at = at(place);
                drop(value.splice(at..at, TOKENS[token].iter().copied()));
            }
            Spoil::Splice(place, other, from) => {
                let other = templates[other].as_bytes();
                let at = at(place);
                value.truncate(at);
                value.extend_from_slice(&other[usize::from(from) % other.len()..]);
            }
            Spoil::Repeat(place, length, times) => {
                let start = at(place);
                let part = value[start..value.len().min(start + usize::from(length))].repeat(usize::from(times));
                drop(value.splice(start..start, part));
            }
            Spoil::Nest(place, open) => {
                let at = at(place);
                let token = [&b"["[..], b"{\"a\":"][usize::from(open % 2)];
                drop(value.splice(at..at, token.repeat(5000)));
            }
        }
    }
}

/// How a record is made.
#[derive(Clone, Debug)]
struct Recipe {
    partition: usize,
    timestamp_ms: Option<i64>,
    template: usize,
    fields: [usize; 4],
    spoils: Vec<Spoil>,
    /// `None`, null and an empty value are possible too.
    value: Option<bool>,
    envelope: Envelope,
}

impl Recipe {
    fn record(&self, templates: &[&str]) -> (ScriptRecord, Envelope) {
        let [time, url, text, number] = self.fields;
        let filled = (templates[self.template].replace("<T>", TIMES[time]).replace("<U>", URLS[url]))
            .replace("<S>", TEXTS[text])
            .replace("<N>", NUMBERS[number]);
        let mut value = filled.into_bytes();
        self.spoils.iter().for_each(|spoil| spoil.on(&mut value, templates));
        let value = match self.value {
            Some(true) => Some(value),
            Some(false) => Some(Vec::new()),
            None => None,
        };
        (ScriptRecord { timestamp_ms: self.timestamp_ms, value }, self.envelope.clone())
    }
}

/// Mostly now, in milliseconds; otherwise in other units, at the limits of valid times, or anything.
fn timestamps() -> impl Strategy<Value = Option<i64>> {
    let now = BASE / 1000;
    let borders = [
        i64::MIN,
        i64::MIN + 1,
        i64::MAX,
        i64::MIN / 1000 - 1,
        i64::MAX / 1000,
        i64::MAX / 1000 + 1,
        i64::MAX / 1_000_000,
        -1,
        0,
        1,
        now * 1000,
        now * 1_000_000,
        now / 1000,
        -62_135_596_800_000,
        -62_135_596_800_001,
        253_402_300_799_999,
        253_402_300_800_000,
    ];
    prop_oneof![
        6 => (-100_000_000..=100_000_i64).prop_map(move |ms| Some(now + ms)),
        3 => prop::sample::select(borders.to_vec()).prop_map(Some),
        2 => any::<i64>().prop_map(Some),
        1 => Just(None),
    ]
}

/// Mostly one of the first `good` of `all`.
fn mostly(good: usize, all: usize) -> impl Strategy<Value = usize> {
    prop_oneof![2 => 0..good, 1 => 0..all]
}

fn spoil() -> impl Strategy<Value = Spoil> {
    let place = any::<u16>;
    prop_oneof![
        4 => (place(), any::<u8>()).prop_map(|(at, bit)| Spoil::Flip(at, bit)),
        2 => place().prop_map(Spoil::Cut),
        1 => place().prop_map(Spoil::CutFront),
        6 => (place(), 0..TOKENS.len()).prop_map(|(at, token)| Spoil::Insert(at, token)),
        2 => (place(), 0..JSON_VALUES.len(), place()).prop_map(|(at, other, from)| Spoil::Splice(at, other, from)),
        1 => (place(), any::<u8>(), 0..300_u16).prop_map(|(at, length, times)| Spoil::Repeat(at, length, times)),
        1 => (place(), any::<u8>()).prop_map(|(at, open)| Spoil::Nest(at, open)),
    ]
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let bytes = || {
        prop_oneof![
            Just(Vec::new()),
            Just(b"name".to_vec()),
            Just(b"\xff\xfe\0".to_vec()),
            Just("\u{e9}".repeat(500).into_bytes()),
            prop::collection::vec(any::<u8>(), 0..9),
        ]
    };
    let headers = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec((bytes(), prop::option::of(bytes())), 0..4),
    ];
    (
        (0..PARTITIONS, timestamps(), 0..JSON_VALUES.len()),
        [mostly(4, TIMES.len()), mostly(3, URLS.len()), mostly(2, TEXTS.len()), mostly(2, NUMBERS.len())],
        prop_oneof![2 => Just(Vec::new()), 3 => prop::collection::vec(spoil(), 1..4)],
        prop_oneof![30 => Just(Some(true)), 1 => Just(Some(false)), 1 => Just(None)],
        (prop_oneof![2 => Just(None), 1 => bytes().prop_map(Some)], headers),
    )
        .prop_map(|((partition, timestamp_ms, template), fields, spoils, value, (key, headers))| Recipe {
            partition,
            timestamp_ms,
            template,
            fields,
            spoils,
            value,
            envelope: Envelope { key, headers },
        })
}

// ---- the job, and what it leaves ----

struct World {
    inner: Arc<InMemory>,
    script: Script,
    clock: ManualClock,
    now: i64,
    job: Job,
    sent: BTreeMap<(i32, i64), (ScriptRecord, Envelope)>,
}

impl World {
    fn new(logic: &str) -> World {
        let inner = Arc::new(InMemory::new());
        let job = Job::parse(&format!("{HEAD}{logic}"), "records.toml", &|_| None).expect("the test's job is right");
        let script = Script::new(PARTITIONS);
        World { inner, script, clock: ManualClock::at(BASE), now: BASE, job, sent: BTreeMap::new() }
    }

    fn push(&mut self, partition: usize, (record, envelope): (ScriptRecord, Envelope)) {
        let offset = self.sent.range((partition as i32, 0)..=(partition as i32, i64::MAX)).count() as i64;
        self.sent.insert((partition as i32, offset), (record.clone(), envelope.clone()));
        self.script.push_whole(partition, record, envelope);
    }

    fn root(&self) -> Root {
        Root::on(Arc::clone(&self.inner) as Arc<dyn ObjectStore>)
    }

    /// Runs the job until all that was sent is in `raw`, and kills it before the slow lanes have absorbed it; or stops it in order.
    fn run(&mut self, workers: usize, killed: bool) {
        let progress = Arc::new(Progress::default());
        let (request, requested) = watch::channel(if killed { Request::Run } else { Request::Drain });
        let store = Faulty::new(Arc::clone(&self.inner) as Arc<dyn ObjectStore>);
        let live = Live {
            job: self.job.clone(),
            root: Root::on(Arc::new(store.clone())),
            workers,
            clock: Clock::Manual(self.clock.clone()),
            source: Arc::new(self.script.clone()),
            progress: Arc::clone(&progress),
        };
        let thread = std::thread::spawn(move || run(live, requested));
        let raw = Log::new(&self.root(), "raw");
        let archived = |runtime: &tokio::runtime::Runtime| {
            let state = runtime.block_on(raw.load()).expect("readable");
            state.map_or(0, |state| state.files.values().map(|file| file.rows).sum())
        };
        let runtime = runtime();
        let deadline = Instant::now() + PATIENCE;
        while !thread.is_finished() {
            assert!(Instant::now() < deadline, "hangs at {:?}", progress.epochs());
            self.now += SECOND / 10;
            self.clock.set(self.now);
            if killed && progress.epoch.load(Ordering::Relaxed) > 0 && archived(&runtime) == self.sent.len() as u64 {
                store.kill();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let end = thread.join().expect("no panic");
        assert!(end.is_err() == killed, "{end:?}");
        drop(request);
    }

    /// Checks everything: every byte is in `raw`, once; `verify` is exact; a replay of all times finds nothing.
    fn is_right(&self, workers: usize) {
        self.is_archived();
        let runtime = runtime();
        let report = runtime.block_on(verify(&self.job, &self.root(), Options::default())).expect("a verdict");
        assert_eq!(report.verdict, Verdict::Exact, "{}: {:?}", report.sentence(), report.first);
        assert_eq!(report.records, self.sent.len() as u64);
        assert!(report.not_checkable.because.is_empty(), "{}", report.sentence());
        // 1999-12-27 to 2100-02-01; the first is a Monday.
        let range = 946_252_800 * SECOND..4_105_123_200 * SECOND;
        let request =
            ReplayRequest { id: "r".to_owned(), asked: Asked::EventTimes(range), customers: None, chunk_bytes: 1 };
        let summary = runtime.block_on(async {
            let prepared = prepare(&self.job, &self.root(), request, 0).await.expect("it may be replayed");
            let submission = prepared.submission.submit(&self.root()).await.expect("submitted");
            let (job, root) = (self.job.clone(), self.root());
            let replay = Replayer { job, root, workers, memory_bytes: 1 << 20, progress: Arc::default(), member: None };
            run::run(&replay, &submission).await.expect("a replay")
        });
        assert_eq!(summary.cells.total(), 0, "{:#?}", summary.largest);
        let others: Vec<_> = summary.outcomes.iter().filter(|outcomes| outcomes.on_arrival != outcomes.now).collect();
        assert!(others.is_empty(), "{others:?}");
    }

    fn is_archived(&self) {
        let mut found = 0;
        for (path, batch) in self.rows_of_raw() {
            let column = |name: &str| batch.column_by_name(name).expect("a column").clone();
            let binary = |name: &str| column(name).as_binary::<i32>().clone();
            let text = |name: &str| column(name).as_string::<i32>().clone();
            let (keys, values) = (binary("key"), binary("value"));
            let (reasons, types, expected) = (text("reason"), text("kafka_timestamp_type"), text("expected"));
            let partitions = column("kafka_partition").as_primitive::<Int32Type>().clone();
            let offsets = column("kafka_offset").as_primitive::<Int64Type>().clone();
            let timestamps = column("kafka_timestamp").as_primitive::<TimestampMicrosecondType>().clone();
            let headers = column("headers").as_list::<i32>().clone();
            for row in 0..batch.num_rows() {
                let place = (partitions.value(row), offsets.value(row));
                let (record, envelope) = &self.sent[&place];
                let bytes = |array: &BinaryArray| array.is_valid(row).then(|| array.value(row).to_vec());
                assert_eq!(
                    (bytes(&keys), bytes(&values)),
                    (envelope.key.clone(), record.value.clone()),
                    "{path} {place:?}"
                );
                assert_eq!(headers_of(headers.value(row).as_struct()), texts(&envelope.headers), "{path} {place:?}");
                let timestamp = timestamps.is_valid(row).then(|| timestamps.value(row));
                assert_eq!(timestamp, record.timestamp_ms.and_then(as_time), "{place:?}: {:?}", record.timestamp_ms);
                let none = record.timestamp_ms.is_none_or(|ms| ms == -1);
                assert_eq!(types.value(row), if none { "NotAvailable" } else { "CreateTime" });
                let reason = |array: &StringArray| array.is_valid(row).then(|| array.value(row).to_owned());
                let panicked = reason(&reasons).is_some_and(|reason| reason == "decoder_panic");
                assert!(!panicked, "{:?} of {record:?}", reason(&expected));
                found += 1;
            }
        }
        assert_eq!(found, self.sent.len(), "each row is one of those that were sent");
    }

    fn rows_of_raw(&self) -> Vec<(String, arrow::array::RecordBatch)> {
        let runtime = runtime();
        let state = runtime.block_on(Log::new(&self.root(), "raw").load()).expect("readable").expect("a table");
        let mut rows = Vec::new();
        for path in state.files.into_keys() {
            let at = Path::from(format!("raw/{path}"));
            let bytes =
                runtime.block_on(async { self.inner.get(&at).await.expect("there").bytes().await.expect("bytes") });
            let batches = Batches::open(bytes, None, None, 1000).expect("Parquet");
            rows.extend(batches.map(|batch| (path.clone(), batch.expect("rows"))));
        }
        rows
    }

    /// Merges small files of the archive.
    fn compact(&self) {
        let clock = Clock::Manual(self.clock.clone());
        runtime().block_on(compact(&self.root(), 64 << 20, &clock, |_| {})).expect("merged");
    }
}

/// The timestamp that `raw` must have, computed a second time.
fn as_time(ms: i64) -> Option<i64> {
    use chrono::Datelike;
    let time = chrono::DateTime::from_timestamp_millis(ms).filter(|_| ms != -1)?;
    (1..=9999).contains(&time.year()).then(|| time.timestamp_micros())
}

fn texts(headers: &[(Vec<u8>, Option<Vec<u8>>)]) -> Vec<(String, Option<Vec<u8>>)> {
    headers.iter().map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.clone())).collect()
}

fn headers_of(headers: &arrow::array::StructArray) -> Vec<(String, Option<Vec<u8>>)> {
    let (names, values) = (headers.column(0).as_string::<i32>(), headers.column(1).as_binary::<i32>());
    let value = |row| values.is_valid(row).then(|| values.value(row).to_vec());
    (0..headers.len()).map(|row| (names.value(row).to_owned(), value(row))).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Sends batches, and kills the job after each. Then everything must be right, also after small files of the archive were merged.
fn play(logic: &str, templates: &[&str], workers: usize, batches: &[Vec<Recipe>]) {
    let mut world = World::new(logic);
    for batch in batches {
        batch.iter().for_each(|recipe| world.push(recipe.partition, recipe.record(templates)));
        world.run(workers, true);
    }
    world.run(3 - workers, false);
    // With few records there are too few files to merge.
    world.compact();
    world.is_right(workers);
}

/// The number of cases in a run, and of records in a batch.
fn size() -> (u32, usize) {
    match std::env::var("FLOODMARK_PROPERTY_RECORDS").ok().and_then(|records| records.parse::<usize>().ok()) {
        // Both formats, and about two and a half batches in each case.
        Some(records) => ((records / 2 / 1250).max(1) as u32, 500),
        None => (4, 40),
    }
}

fn batches() -> impl Strategy<Value = Vec<Vec<Recipe>>> {
    let (_, records) = size();
    prop::collection::vec(prop::collection::vec(recipe(), records / 2..=records * 3 / 2), 2..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: size().0, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_record_stops_the_job_json(workers in 1..=2_usize, batches in batches()) {
        play(JSON, &JSON_VALUES, workers, &batches);
    }

    #[test]
    fn no_record_stops_the_job_access_log(workers in 1..=2_usize, batches in batches()) {
        play(LINES, &LINE_VALUES, workers, &batches);
    }
}

/// Timestamps in every unit, on records that count and on rejected ones: the job continues, and invalid ones are left out.
#[test]
fn timestamps_that_are_no_times() {
    let mut world = World::new(JSON);
    let now = BASE / 1000;
    let good = |customer: &str| format!(r#"{{"customer":"{customer}","time":{},"items":[]}}"#, now - 60_000);
    for unit in [1, 1000, 1_000_000] {
        for value in [good("a"), "{".to_owned()] {
            let record = ScriptRecord { timestamp_ms: Some(now * unit), value: Some(value.into_bytes()) };
            world.push(unit as usize % PARTITIONS, (record, Envelope::default()));
        }
    }
    for timestamp_ms in [i64::MIN, i64::MAX, -1, 0, -62_135_596_800_001, 253_402_300_800_000] {
        let record = ScriptRecord { timestamp_ms: Some(timestamp_ms), value: Some(good("b").into_bytes()) };
        world.push(0, (record, Envelope::default()));
    }
    world.run(2, true);
    world.run(1, false);
    world.is_right(2);
    let rows: Vec<_> = world.rows_of_raw();
    let counted = |batch: &arrow::array::RecordBatch| {
        let outcomes = batch.column_by_name("outcome").expect("a column").as_string::<i32>().clone();
        outcomes.iter().flatten().filter(|outcome| *outcome == "counted").count()
    };
    // All except broken records, and the event decades after 1970, whose Kafka timestamp is a valid time.
    assert_eq!(rows.iter().map(|(_, batch)| counted(batch)).sum::<usize>(), 3 + 5);
}

/// More than 2 GiB of values in rows that are read together: a file of the archive can be read back, whatever its rows are.
#[test]
fn rows_of_a_mebibyte_are_read_back() {
    let value = vec![b'x'; 1 << 20];
    let topics: Arc<[String]> = Arc::from(["script".to_owned()]);
    let (mut rows, mut writer) = (RawRows::new(topics), FileWriter::new().expect("a writer"));
    let count = (1 << 11) + 1;
    for offset in 0..count {
        let record = RecordRef {
            epoch: 1,
            ingested_at: BASE,
            offset,
            timestamp_ms: Some(BASE / 1000 + i64::from(u16::MAX) * DAY),
            timestamp_type: TimestampType::CreateTime,
            value: Some(&value),
            ..RecordRef::default()
        };
        rows.push_record(record, std::iter::empty(), &Outcome::Counted, Some(BASE));
        writer.write(&rows.finish()).expect("written");
    }
    let encoded = writer.finish(Kind::Main, "e").expect("encoded").expect("rows");
    let mut next = 0;
    for records in read_records(&encoded.file, encoded.bytes.into(), 0, 1).expect("readable") {
        let records = records.expect("its rows");
        assert!(records.bytes() <= 64 << 20, "{} bytes at once", records.bytes());
        for record in records.iter() {
            assert_eq!((record.offset, record.value.map(<[u8]>::len)), (next, Some(1 << 20)));
            assert_eq!(record.timestamp_ms, None);
            next += 1;
        }
    }
    assert_eq!(next, count);
}
