//! Reads tables in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use floodmark::table::counts::segment_of;
use floodmark::table::log::commit_path;
use floodmark::table::segment::{Columns, read_segment};
use floodmark::table::{Log, Root, State, raw};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::live::block_on;

/// Granularity, customer, dimension, window start, value.
pub(crate) type Cell = (&'static str, String, String, i64, String);

/// The cells of a version of `counts`. Fails if one is there twice.
pub(crate) fn cells(store: &InMemory, counts: &State) -> BTreeMap<Cell, i64> {
    let mut cells = BTreeMap::new();
    for file in counts.files.values() {
        let granularity = segment_of(file).expect("a segment").granularity.name();
        for batch in read_segment(file, bytes(store, &format!("counts/{}", file.path))).expect("a segment") {
            let rows = Columns::of(&batch.expect("rows")).expect("columns");
            for row in 0..rows.len() {
                let cell = (
                    granularity,
                    rows.customer.value(row).to_owned(),
                    rows.dimension.value(row).to_owned(),
                    rows.window_start.value(row),
                    rows.value.value(row).to_owned(),
                );
                let before = cells.insert(cell.clone(), rows.event_count.value(row));
                assert_eq!(before, None, "counts holds {cell:?} twice");
            }
        }
    }
    cells
}

/// Rows of a version of `raw`: (partition, offset) → (epoch, ingested_at). Fails if one is there twice.
pub(crate) fn archived(store: &InMemory, raw: &State) -> BTreeMap<(i32, i64), (u64, i64)> {
    let mut rows = BTreeMap::new();
    for file in raw.files.values() {
        let mut count = 0;
        let bytes = bytes(store, &format!("raw/{}", file.path));
        for records in raw::read_records(file, bytes, 0, u64::MAX).expect("a file of raw") {
            for record in records.expect("its rows").iter() {
                let key = (record.partition, record.offset);
                let before = rows.insert(key, (record.epoch, record.ingested_at));
                assert_eq!(before, None, "raw holds {key:?} twice");
                count += 1;
            }
        }
        assert_eq!(count, file.rows, "rows of {}", file.path);
    }
    rows
}

/// Versions 0 to `newest` of `counts`, read only from its log: each from the beginning, and from the version before it.
pub(crate) fn versions(store: &InMemory, newest: u64) -> Vec<State> {
    let copy = Arc::new(InMemory::new());
    let log = Log::new(&Root::on(Arc::clone(&copy) as Arc<dyn ObjectStore>), "counts");
    let mut states: Vec<State> = Vec::new();
    for version in 0..=newest {
        let path = format!("counts/{}", commit_path(version));
        let entry = bytes(store, &path);
        block_on(async {
            copy.put(&Path::from(path), entry.into()).await.expect("written");
            let state = log.load().await.expect("readable").expect("a table");
            assert_eq!(state.version, version);
            if let Some(before) = states.last() {
                let mut refreshed = before.clone();
                assert!(log.refresh(&mut refreshed).await.expect("readable"), "version {version}");
                same(&refreshed, &state);
            }
            states.push(state);
        });
    }
    states
}

/// A file of a table.
fn bytes(store: &InMemory, path: &str) -> bytes::Bytes {
    let path = Path::from(path);
    block_on(async { store.get(&path).await.expect("the file is there").bytes().await.expect("its bytes") })
}

/// Checks that two readings of a table are equal.
pub(crate) fn same(found: &State, expected: &State) {
    assert_eq!(found.version, expected.version);
    assert_eq!(found.files, expected.files);
    assert_eq!(found.txns, expected.txns);
    assert_eq!(found.properties, expected.properties);
    let schema = |state: &State| {
        let metadata: serde_json::Value = serde_json::from_str(&state.metadata).expect("metaData is JSON");
        metadata["schemaString"].clone()
    };
    assert_eq!(schema(found), schema(expected));
}
