//! Measurements of merging, which no test run makes: see each for how to run it. Their results stand at [`Shape`]'s constants.

use std::collections::BTreeMap;
use std::time::Instant;

use object_store::ObjectStoreExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use parquet::file::metadata::ParquetMetaDataReader;
use tokio::runtime::Runtime;

use super::*;
use crate::dataflow::run::Run;
use crate::model::{Cell, Period, Segment, Tally};
use crate::table::File;
use crate::table::segment::{SegmentWriter, Shape, Sink, path_of};

const DAY: i64 = 86_400_000_000;

/// Numbers that look random, and are the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: f64) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 * end
    }

    /// Ranks of 0 … `count` − 1 with a frequency of about 1 / rank.
    fn rank(&mut self, count: u64) -> u64 {
        let rank = ((count as f64).ln() * self.below(1.0)).exp() as u64;
        rank.min(count) - 1
    }
}

/// An event of one bucket: 250 customers, the larger ones with more pages.
fn event(random: &mut Random) -> (u64, u64) {
    let customer = random.rank(250);
    (customer, random.rank(20_000 / (customer + 1) + 50))
}

fn cell(customer: u64, day: i64, page: u64) -> Vec<u8> {
    let mut cell = Vec::new();
    let name = format!("customer-{:04}", customer.wrapping_mul(2_654_435_761) % 10_000);
    let page = format!("/articles/{:016x}", (page + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    Cell::encode(name.as_bytes(), b"page", day * DAY, page.as_bytes(), &mut cell);
    cell
}

fn part(cells: &BTreeMap<Vec<u8>, i64>) -> Vec<Part> {
    let mut run = Run::default();
    for (cell, count) in cells {
        run.push(&[&Run::HEAD[..], cell].concat(), Tally { event_count: *count });
    }
    let indices = (0..run.len() as u32).collect();
    vec![Part { run: Arc::new(run), indices }]
}

const SHAPES: [fn(&Segment) -> Shape; 5] =
    [|_| rows(4_096), |_| rows(16_384), |_| rows(65_536), |_| rows(131_072), |_| rows(262_144)];

fn rows(rows_max: usize) -> Shape {
    Shape { rows_max, bytes_max: 64 << 20 }
}

/// `cargo test --release --lib row_groups_of -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn row_groups_of_4096_to_262144() {
    let runtime = Runtime::new().expect("a runtime");
    let mut random = Random(1);
    eprintln!("file, late events, rows a group, rows, size, footer, rows decoded, bytes copied, ms");
    for (name, days, events, late) in
        [("day", 1, 1_080_000, &[1, 10, 200][..]), ("month", 30, 30 * 1_080_000, &[20, 100, 1000][..])]
    {
        let period = if days == 1 { Period::Day } else { Period::Month };
        let segment = Segment { granularity: Granularity::Day, bucket: 0, period, period_start: 0 };
        let mut cells = BTreeMap::new();
        for number in 0..events {
            let (customer, page) = event(&mut random);
            *cells.entry(cell(customer, number % days, page)).or_insert(0) += 1;
        }
        let whole = part(&cells);
        drop(cells);
        let updates: Vec<_> = (late.iter())
            .map(|late| {
                let mut cells = BTreeMap::new();
                for _ in 0..*late {
                    let (customer, page) = event(&mut random);
                    let day = random.below(days as f64) as i64;
                    *cells.entry(cell(customer, day, page)).or_insert(0) += 1;
                }
                cells
            })
            .collect();
        for shape in SHAPES {
            let sizes = Sizes { shape, ..Sizes::default() };
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let work = |live, updates| Arc::new(Work { segment, live, updates, split: false });
            let first = work(
                Vec::new(),
                whole.iter().map(|it| Part { run: it.run.clone(), indices: it.indices.clone() }).collect(),
            );
            let (mut made, _) = runtime.block_on(merge_and_store(&store, &first, "a", sizes)).expect("merged");
            let file = made.files.remove(0);
            let bytes = runtime
                .block_on(async { store.get(&Path::from(file.path.as_str())).await?.bytes().await })
                .expect("stored");
            let footer = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().expect("4 bytes"));
            let metadata = ParquetMetaDataReader::new().parse_and_finish(&bytes).expect("a footer");
            let end = metadata.row_groups().last().expect("a group").columns();
            let end = end.iter().map(|chunk| chunk.byte_range()).map(|(start, length)| start + length).max();
            let indexes = bytes.len() as u64 - end.unwrap_or(0) - u64::from(footer);
            for (late, cells) in late.iter().zip(&updates) {
                let started = Instant::now();
                let mut best = (u64::MAX, Made::default());
                for _ in 0..3 {
                    let work = work(vec![file.clone()], part(cells));
                    let (made, us) = runtime.block_on(merge_and_store(&store, &work, "b", sizes)).expect("merged");
                    if us < best.0 {
                        best = (us, made);
                    }
                }
                let _ = started;
                let (us, made) = best;
                eprintln!(
                    "{name:5} {late:5} {:7} {:9} {:9} {footer:7}+{indexes:7} {:9} {:5.1} % {:9} {:7.1}",
                    shape(&segment).rows_max,
                    file.rows,
                    file.size,
                    made.decoded,
                    100.0 * made.decoded as f64 / file.rows as f64,
                    made.copied_bytes,
                    us as f64 / 1000.0
                );
            }
        }
    }
}

fn large() -> (Segment, String) {
    let segment = Segment { granularity: Granularity::Day, bucket: 0, period: Period::Month, period_start: 0 };
    (segment, std::env::var("LARGE_FOLDER").expect("LARGE_FOLDER is a folder with room for 5 GB"))
}

fn peak_kb() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    status.lines().filter(|line| line.starts_with("VmHWM") || line.starts_with("VmRSS")).collect::<Vec<_>>().join(" ")
}

/// `LARGE_FOLDER=… cargo test --release --lib a_file_of_2_gb -- --ignored --nocapture`; then the next one, in a process of its own.
#[test]
#[ignore = "a measurement"]
fn a_file_of_2_gb_is_made() {
    let (segment, folder) = large();
    let rows: u64 = std::env::var("LARGE_ROWS").map_or(120_000_000, |rows| rows.parse().expect("a number"));
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(&folder).expect("a folder"));
    let runtime = Runtime::new().expect("a runtime");
    let (sender, parts) = segment::parts();
    let started = Instant::now();
    let file = std::thread::spawn(move || {
        let sink = Sink::new(path_of(&segment, "large"), segment::PART_BYTES, sender);
        let mut writer = SegmentWriter::to(segment, Shape::of(&segment), sink).expect("a writer");
        let mut batch = segment::Rows::default();
        for row in 0..rows {
            let (customer, day, page) = (row / 60_000, row / 2_000 % 30, row % 2_000);
            let page = format!("/{page:06}/{:016x}", (row + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            batch.push(&format!("customer-{customer:06}"), "page", day as i64 * DAY, &page, Tally { event_count: 1 });
            if batch.is_full() {
                writer.write(batch.finish()).expect("encoded");
            }
        }
        writer.write(batch.finish()).expect("encoded");
        let (file, sink) = writer.end("large").expect("encoded").expect("rows");
        sink.end().expect("stored");
        file
    });
    runtime.block_on(segment::upload(store.as_ref(), parts)).expect("stored");
    let file: File = file.join().expect("written");
    std::fs::write(format!("{folder}/file.json"), serde_json::to_vec(&file).expect("JSON")).expect("written");
    eprintln!("{} rows, {} bytes, {:.1?}, {}", file.rows, file.size, started.elapsed(), peak_kb());
}

/// See [`a_file_of_2_gb_is_made`].
#[test]
#[ignore = "a measurement"]
fn a_hundred_late_cells_in_2_gb() {
    let (segment, folder) = large();
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(&folder).expect("a folder"));
    let runtime = Runtime::new().expect("a runtime");
    let text = std::fs::read(format!("{folder}/file.json")).expect("made before");
    let file: File = serde_json::from_slice(&text).expect("JSON");
    let mut random = Random(7);
    let cells = (0..100)
        .map(|_| {
            let (customer, day) = (random.next() % (file.rows / 60_000), random.next() % 30);
            let mut cell = Vec::new();
            let customer = format!("customer-{customer:06}");
            let page = format!("/{:06}/late", random.next() % 2_000);
            Cell::encode(customer.as_bytes(), b"page", day as i64 * DAY, page.as_bytes(), &mut cell);
            (cell, 1)
        })
        .collect();
    let before = peak_kb();
    let work = Arc::new(Work { segment, live: vec![file.clone()], updates: part(&cells), split: false });
    let started = Instant::now();
    let (made, us) = runtime.block_on(merge_and_store(&store, &work, "merged", Sizes::default())).expect("merged");
    eprintln!(
        "{} rows, {} bytes; decoded {} rows, copied {} bytes; {:.1?}, {us} µs without storage; before {before}, then {}",
        made.files[0].rows,
        made.files[0].size,
        made.decoded,
        made.copied_bytes,
        started.elapsed(),
        peak_kb()
    );
}
