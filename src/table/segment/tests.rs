//! Row groups: where they end, and what a copy does with a column that a file does not have.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::*;
use crate::model::{Granularity, Period, Segment, Tally};
use crate::table::File;
use crate::table::counts::file_schema;
use crate::table::fetch::Batches;

const SHAPE: Shape = Shape { rows_max: 4, bytes_max: 400 };

fn segment() -> Segment {
    Segment { granularity: Granularity::Day, bucket: 0, period: Period::Month, period_start: 0 }
}

fn columns(customers: &[String]) -> Columns {
    let mut rows = Rows::default();
    customers.iter().for_each(|customer| rows.push(customer, "total", 0, "", Tally::ONE));
    rows.finish()
}

async fn stored(store: &Arc<dyn ObjectStore>, customers: &[String]) -> File {
    let mut writer = SegmentWriter::to(segment(), SHAPE, Vec::new()).expect("a writer");
    writer.write(columns(customers)).expect("encoded");
    let (file, bytes) = writer.finish("a").expect("encoded").expect("rows");
    store.put(&Path::from(file.path.as_str()), bytes.into()).await.expect("stored");
    file
}

async fn groups(store: &Arc<dyn ObjectStore>, file: &File) -> Vec<Group> {
    let reader = SegmentReader::open(Arc::clone(store), file, Requests::default()).await.expect("a segment");
    let (sender, mut receiver) = tokio::sync::mpsc::channel(100);
    reader.feed(sender).await.expect("read");
    let mut groups = Vec::new();
    while let Some(Some(group)) = receiver.recv().await {
        groups.push(group);
    }
    groups
}

/// A group is full by its rows, or by the bytes of their texts; the last two of a stretch share what is left.
#[tokio::test]
async fn where_groups_end() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    for (lengths, expected) in [
        (vec![8; 3], vec![3]),
        (vec![8; 4], vec![4]),
        (vec![8; 5], vec![3, 2]),
        (vec![8; 8], vec![4, 4]),
        (vec![8; 11], vec![4, 4, 3]),
        (vec![200; 5], vec![2, 1, 2]),
        (vec![1000; 3], vec![1, 1, 1]),
    ] {
        let customer = |(number, length): (usize, &usize)| format!("{number:0length$}");
        let customers: Vec<String> = lengths.iter().enumerate().map(customer).collect();
        let file = stored(&store, &customers).await;
        let found: Vec<u64> = groups(&store, &file).await.iter().map(Group::rows).collect();
        assert_eq!(found, expected, "{lengths:?}");
    }
}

/// As when a later build counts one thing more: row groups of before have nulls there, and their other columns are not decoded.
#[tokio::test]
async fn a_column_that_the_file_lacks_becomes_a_chunk_of_nulls() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let customers: Vec<String> = (0..6).map(|number| format!("customer-{number}")).collect();
    let file = stored(&store, &customers).await;
    let with = |nullable| {
        let mut fields: Vec<_> = file_schema().fields().iter().cloned().collect();
        fields.insert(3, Arc::new(Field::new("new", DataType::Int64, nullable)));
        SegmentWriter::with_schema(segment(), SHAPE, Vec::new(), Arc::new(Schema::new(fields))).expect("a writer")
    };
    let groups = groups(&store, &file).await;
    assert!(!with(false).takes(&groups[0]));
    let mut writer = with(true);
    for group in &groups {
        assert!(writer.takes(group));
        assert!(writer.copy(group).expect("copied") > 0);
    }
    writer.write(columns(&["customer-7".to_owned()])).expect("encoded");
    let (file, bytes) = writer.finish("b").expect("encoded").expect("rows");
    let stats: serde_json::Value = serde_json::from_str(&file.stats).expect("JSON");
    assert_eq!((&stats["nullCount"]["new"], &stats["minValues"]["new"]), (&7.into(), &serde_json::Value::Null));
    let mut found = Vec::new();
    for batch in Batches::open(bytes, None, None, 100).expect("a file") {
        let batch = batch.expect("a batch");
        assert_eq!(batch.column_by_name("new").expect("a column").null_count(), batch.num_rows());
        let columns = Columns::of(&batch).expect("columns");
        found.extend(columns.customer.iter().flatten().map(str::to_owned));
    }
    assert_eq!(found, [customers, vec!["customer-7".to_owned()]].concat());
}
