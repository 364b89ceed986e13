//! Merges with tiny row groups, compared with a map.

use std::collections::BTreeMap;

use futures::executor::block_on as now;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader};
use proptest::prelude::*;
use tokio::runtime::Runtime;

use self::faulty::{Fault, Faulty};
use super::*;
use crate::dataflow::run::Run;
use crate::model::{Cell, Period, Segment, Tally};
use crate::table::File;
use crate::table::segment::{Columns, Requests, Shape, read_segment};

#[allow(dead_code)]
#[path = "../../../tests/support/faulty.rs"]
mod faulty;

const ROWS_MAX: usize = 8;

const DAY: i64 = 86_400_000_000;

/// Files are read in ranges, most of them in several.
const SIZES: Sizes = Sizes {
    shape: |_| Shape { rows_max: ROWS_MAX, bytes_max: 1 << 20 },
    part_bytes: 1 << 20,
    requests: Requests { whole_bytes: 1_000, tail_bytes: 100, window_bytes: 2_000 },
};

type Cells = BTreeMap<Vec<u8>, i64>;

fn segment() -> Segment {
    Segment { granularity: Granularity::Day, bucket: 3, period: Period::Month, period_start: 0 }
}

fn cell(number: u32) -> Vec<u8> {
    let mut cell = Vec::new();
    let (customer, day, page) = (number / 20, i64::from(number / 4 % 5), number % 4);
    Cell::encode(
        format!("customer-{customer:04}").as_bytes(),
        b"page",
        day * DAY,
        format!("/{page}").as_bytes(),
        &mut cell,
    );
    cell
}

struct World {
    runtime: Runtime,
    store: Arc<dyn ObjectStore>,
    merges: u32,
}

impl World {
    fn new() -> World {
        let runtime = Runtime::new().expect("a runtime");
        World { runtime, store: Arc::new(InMemory::new()), merges: 0 }
    }

    fn merge(&mut self, live: Vec<File>, updates: &Cells) -> Result<Made, TableError> {
        self.merge_into(live, updates, SIZES)
    }

    fn merge_into(&mut self, live: Vec<File>, updates: &Cells, sizes: Sizes) -> Result<Made, TableError> {
        self.merges += 1;
        let mut run = Run::default();
        for (cell, count) in updates {
            let mut key = Run::HEAD.to_vec();
            key.extend_from_slice(cell);
            run.push(&key, Tally { event_count: *count });
        }
        let indices = (0..run.len() as u32).collect();
        let updates = vec![Part { run: Arc::new(run), indices }];
        let work = Arc::new(Work { segment: segment(), live, updates, split: false });
        let name = format!("m{}", self.merges);
        let merging = merge_patiently(&self.store, &work, &name, sizes);
        self.runtime.block_on(merging).map(|(merged, _)| merged)
    }

    /// A file with these cells.
    fn file(&mut self, cells: &Cells) -> File {
        self.merge(Vec::new(), cells).expect("merged").files.remove(0)
    }

    fn bytes(&self, file: &File) -> bytes::Bytes {
        now(async { self.store.get(&Path::from(file.path.as_str())).await?.bytes().await }).expect("stored")
    }

    fn cells(&self, file: &File) -> Cells {
        let mut cells = Cells::new();
        for batch in read_segment(file, self.bytes(file)).expect("a segment") {
            let columns = Columns::of(&batch.expect("a batch")).expect("columns");
            for row in 0..columns.len() {
                let mut key = Vec::new();
                columns.key(row, &mut key);
                assert!(cells.last_key_value().is_none_or(|(last, _)| *last < key), "not in order");
                cells.insert(key, columns.event_count.value(row));
            }
        }
        cells
    }

    fn metadata(&self, file: &File) -> ParquetMetaData {
        let options = ParquetMetaDataOptions::new().with_encoding_stats_as_mask(false);
        let reader = ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Required)
            .with_metadata_options(Some(options));
        reader.parse_and_finish(&self.bytes(file)).expect("a footer")
    }

    /// The rows of each row group.
    fn groups(&self, file: &File) -> Vec<usize> {
        self.metadata(file).row_groups().iter().map(|group| group.num_rows() as usize).collect()
    }
}

fn add(cells: &mut Cells, updates: &Cells) {
    for (cell, count) in updates {
        *cells.entry(cell.clone()).or_default() += count;
    }
    cells.retain(|_, count| *count != 0);
}

fn check(world: &World, merged: &Made, expected: &Cells) {
    let [file] = merged.files.as_slice() else {
        assert!(expected.is_empty() && merged.files.is_empty());
        return;
    };
    assert_eq!(world.cells(file), *expected);
    assert_eq!((file.rows, file.size), (expected.len() as u64, world.bytes(file).len() as u64));
    let mut groups = world.groups(file);
    assert!(groups.iter().all(|rows| *rows <= ROWS_MAX), "{groups:?}");
    groups.pop();
    assert!(groups.iter().all(|rows| 2 * rows >= ROWS_MAX), "{groups:?}");
}

/// Each cell of a file gets one more, loses all, or gets a new neighbour before it; and so does the end of the file.
#[test]
fn an_update_at_every_position() {
    let mut world = World::new();
    let before: Cells = (0..40).map(|number| (cell(2 * number + 1), 5)).collect();
    let file = world.file(&before);
    assert_eq!(world.groups(&file), [8; 5]);
    for number in 0..=80 {
        for count in [1, -5] {
            let updates = Cells::from([(cell(number), count)]);
            if count < 0 && number % 2 == 0 {
                let error = world.merge(vec![file.clone()], &updates).err().expect("refused");
                assert!(error.to_string().contains("would fall to -5"), "{error}");
                continue;
            }
            let mut expected = before.clone();
            add(&mut expected, &updates);
            let merged = world.merge(vec![file.clone()], &updates).expect("merged");
            check(&world, &merged, &expected);
            let decoded = if number == 80 { 0 } else { 8 };
            assert_eq!(merged.decoded, decoded, "at {number}");
            assert!(merged.copied_bytes > file.size / 10, "at {number}: {}", merged.copied_bytes);
        }
    }
}

#[test]
fn nothing_is_left_of_a_group_and_of_the_file() {
    let mut world = World::new();
    let before: Cells = (0..40).map(|number| (cell(number), 5)).collect();
    let file = world.file(&before);
    let gone = |numbers: std::ops::Range<u32>| numbers.map(|number| (cell(number), -5)).collect::<Cells>();
    let merged = world.merge(vec![file.clone()], &gone(16..24)).expect("merged");
    assert_eq!((world.groups(&merged.files[0]), merged.decoded), (vec![8; 4], 8));
    // What is left of a group joins the next one.
    let merged = world.merge(vec![file.clone()], &gone(17..24)).expect("merged");
    assert_eq!((world.groups(&merged.files[0]), merged.decoded), (vec![8, 8, 5, 4, 8], 16));
    let merged = world.merge(vec![file], &gone(0..40)).expect("merged");
    assert!(merged.files.is_empty());
}

/// What a reader finds of a row group is the same after it was copied, but for offsets.
#[test]
fn a_copied_group_keeps_its_statistics_and_page_index() {
    let mut world = World::new();
    let before: Cells = (0..40).map(|number| (cell(number), i64::from(number) + 1)).collect();
    let file = world.file(&before);
    let updates = Cells::from([(cell(100), 1)]);
    let merged = world.merge(vec![file.clone()], &updates).expect("merged");
    let (old, new) = (world.metadata(&file), world.metadata(&merged.files[0]));
    assert_eq!((merged.decoded, new.num_row_groups()), (0, old.num_row_groups() + 1));
    for group in 0..old.num_row_groups() {
        for (old, new) in old.row_group(group).columns().iter().zip(new.row_group(group).columns()) {
            assert_eq!(old.statistics(), new.statistics());
            assert_eq!(old.page_encoding_stats(), new.page_encoding_stats());
            assert_eq!(old.unencoded_byte_array_data_bytes(), new.unencoded_byte_array_data_bytes());
        }
        let column_index = |of: &ParquetMetaData| of.column_index().expect("column index")[group].clone();
        assert_eq!(column_index(&old), column_index(&new));
        let offsets = |of: &ParquetMetaData| of.offset_index().expect("offset index")[group].clone();
        for (column, (old, new)) in offsets(&old).into_iter().zip(offsets(&new)).enumerate() {
            assert_eq!(old.page_locations.len(), new.page_locations.len());
            let first = new.page_locations[0].offset as u64;
            let (start, length) = world.metadata(&merged.files[0]).row_group(group).column(column).byte_range();
            assert!((start..start + length).contains(&first));
        }
    }
    let stats: serde_json::Value = serde_json::from_str(&merged.files[0].stats).expect("JSON");
    assert_eq!((&stats["numRecords"], &stats["maxValues"]["event_count"]), (&41.into(), &40.into()));
    assert_eq!(stats["minValues"]["customer_id"], "customer-0000");
    assert_eq!(stats["maxValues"]["customer_id"], "customer-0005");
}

/// As sealing does: live files whose rows are interleaved.
#[test]
fn several_files_become_one() {
    let mut world = World::new();
    let all: Cells = (0..100).map(|number| (cell(number), 1)).collect();
    let part = |which: usize| all.iter().skip(which).step_by(3).map(|(cell, count)| (cell.clone(), *count)).collect();
    let files = (0..3).map(|which| world.file(&part(which))).collect();
    let updates: Cells = [(cell(0), 3), (cell(50), -1), (cell(200), 1)].into();
    let mut expected = all.clone();
    add(&mut expected, &updates);
    let merged = world.merge(files, &updates).expect("merged");
    check(&world, &merged, &expected);
    assert_eq!((merged.decoded, merged.copied_bytes), (100, 0));
}

/// A file of many parts is stored as one object.
#[test]
fn a_file_of_several_parts() {
    let mut world = World::new();
    let cells: Cells = (0..20_000).map(|number| (cell(number), i64::from(number))).skip(1).collect();
    let sizes = Sizes { part_bytes: 10_000, ..SIZES };
    let merged = world.merge_into(Vec::new(), &cells, sizes).expect("merged");
    assert!(merged.files[0].size > 20 * 10_000);
    check(&world, &merged, &cells);
    let error = world.merge_into(merged.files.clone(), &Cells::from([(cell(19_999), -20_000)]), sizes);
    assert!(error.is_err_and(|error| error.to_string().contains("would fall to -1")));
    let listed: Vec<_> = now(futures::TryStreamExt::try_collect(self::listed(&world))).expect("listed");
    assert_eq!(listed.len(), 1, "{listed:?}");
}

/// Each request of an upload fails once, before or after it had its effect.
#[test]
fn an_upload_that_breaks_off_is_begun_again() {
    let cells: Cells = (0..4_000).map(|number| (cell(number), 1)).collect();
    let sizes = Sizes { part_bytes: 50_000, ..SIZES };
    let undisturbed = Faulty::new(Arc::new(InMemory::new()));
    let mut world = World { store: Arc::new(undisturbed.clone()), ..World::new() };
    let file = world.merge_into(Vec::new(), &cells, sizes).expect("merged").files.remove(0);
    let (bytes, steps) = (world.bytes(&file), undisturbed.steps().len());
    assert!(steps > 4, "{steps}");
    for step in 1..=steps {
        for fault in [Fault::Refused, Fault::ReplyLost] {
            let store = Faulty::new(Arc::new(InMemory::new()));
            store.at(step, fault);
            let mut world = World { store: Arc::new(store.clone()), ..World::new() };
            let again = world.merge_into(Vec::new(), &cells, sizes).expect("merged").files.remove(0);
            assert_eq!((&again, world.bytes(&again) == bytes), (&file, true), "step {step}");
            assert!(store.steps().len() > steps, "step {step}");
        }
        let store = Faulty::new(Arc::new(InMemory::new()));
        store.at(step, Fault::Denied);
        let mut world = World { store: Arc::new(store), ..World::new() };
        let error = world.merge_into(Vec::new(), &cells, sizes).err().expect("denied");
        assert!(matches!(error, TableError::Denied { .. }), "step {step}: {error}");
        let listed: Vec<_> = now(futures::TryStreamExt::try_collect(self::listed(&world))).expect("listed");
        assert!(listed.is_empty(), "step {step}: {listed:?}");
    }
}

fn listed(world: &World) -> impl futures::Stream<Item = object_store::Result<object_store::ObjectMeta>> + use<> {
    world.store.list(None)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Many rounds of random updates: the file equals the map, and does not crumble.
    #[test]
    fn random_rounds(rounds in proptest::collection::vec(
        (0..600u32, 1..300u32, proptest::collection::vec((0..1000u32, -3..4i64), 0..40)), 1..25,
    )) {
        let mut world = World::new();
        let (mut cells, mut live, mut copied) = (Cells::new(), Vec::new(), 0);
        for (from, width, updates) in rounds {
            let mut sums = Cells::new();
            for (number, count) in updates {
                let cell = cell(from + number % width);
                let held = cells.get(&cell).copied().unwrap_or(0);
                // Nothing falls below zero; now and then a cell goes.
                let count = if count < 0 { -held.min(3) } else { count };
                sums.insert(cell, count);
            }
            add(&mut cells, &sums);
            let merged = world.merge(live.clone(), &sums).expect("merged");
            check(&world, &merged, &cells);
            copied += merged.copied_bytes;
            live = merged.files;
        }
        let _ = copied;
    }
}
