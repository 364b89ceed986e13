//! Checks that `schemas/*.json` describe the tables: columns with their Arrow types, partition columns, and application transactions; and
//! also the files that replays leave.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Field, TimeUnit};
use deltalake_core::kernel::StructType;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use floodmark::ledger::{logic_txn, replay_txn, turn_txn, undo_txn};
use floodmark::model::{Cell, Granularity, Lane};
use floodmark::replay::compare::dataset;
use floodmark::replay::count::arrivals;
use floodmark::table::log::WRITER_GENERATION;
use floodmark::table::{Definition, Log, Root, counts, raw};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde_json::Value;

/// The form in which the schema files write a type.
fn written(data_type: &DataType) -> String {
    match data_type {
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) => format!("Timestamp(Microsecond, \"{zone}\")"),
        DataType::List(element) => format!("List<{}>", written(element.data_type())),
        DataType::Struct(fields) => {
            let field = |field: &std::sync::Arc<Field>| {
                let nullable = if field.is_nullable() { " nullable" } else { "" };
                format!("{}: {}{nullable}", field.name(), written(field.data_type()))
            };
            format!("Struct<{}>", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn columns(schema: &Value, part: &str) -> Vec<(String, String, bool)> {
    let columns = schema[part].as_array().expect("a list of columns");
    let text =
        |column: &Value, key: &str| column[key].as_str().unwrap_or_else(|| panic!("{key} of {column}")).to_owned();
    (columns.iter())
        .map(|column| {
            assert!(!text(column, "description").is_empty(), "{column} says nothing");
            (text(column, "name"), text(column, "arrow_type"), column["nullable"].as_bool().expect("nullable"))
        })
        .collect()
}

fn written_field(field: &Field) -> (String, String, bool) {
    (field.name().clone(), written(field.data_type()), field.is_nullable())
}

fn written_columns(schema: &arrow::datatypes::Schema) -> Vec<(String, String, bool)> {
    schema.fields().iter().map(|field| written_field(field)).collect()
}

fn is_described(schema: &str, definition: &Definition, file: &arrow::datatypes::Schema) -> Value {
    let schema: Value = serde_json::from_str(schema).expect("JSON");
    let (plain, partition) = (columns(&schema, "columns"), columns(&schema, "partition_columns"));
    assert_eq!(plain, written_columns(file), "columns of the files");
    let table = written_columns(&definition.schema);
    assert_eq!([plain, partition.clone()].concat(), table, "columns of the table");
    let partitioned_by: Vec<_> = partition.iter().map(|(name, _, _)| name.as_str()).collect();
    assert_eq!(partitioned_by, definition.partitioned_by);
    schema
}

fn transactions(schema: &Value) -> BTreeSet<String> {
    let transactions = schema["transactions"].as_array().expect("a list of transactions");
    transactions.iter().map(|txn| txn["app_id"].as_str().expect("an id").to_owned()).collect()
}

fn set<const N: usize>(ids: [String; N]) -> BTreeSet<String> {
    BTreeSet::from(ids)
}

/// Checks that the schema in the table's first log entry is that of the definition, and that delta-rs reads it as such.
async fn delta_schema_is(name: &str, definition: &Definition, described: &Value) {
    let root = Root::open("memory://", &Default::default()).expect("a root");
    let log = Log::new(&root, name);
    let state = log.load_or_create(definition, 0).await.expect("a table");
    let bytes = log.store().get(&Path::from("_delta_log/00000000000000000000.json")).await.expect("there");
    let text = String::from_utf8(bytes.bytes().await.expect("bytes").to_vec()).expect("UTF-8");
    let metadata = (text.lines())
        .filter_map(|line| serde_json::from_str::<Value>(line).expect("JSON").get("metaData").cloned())
        .next()
        .expect("metaData");
    let schema: StructType =
        serde_json::from_str(metadata["schemaString"].as_str().expect("a string")).expect("a Delta schema");
    let wanted: StructType = definition.schema.as_ref().try_into_kernel().expect("a Delta schema");
    assert_eq!(schema, wanted);
    assert_eq!(serde_json::from_str::<Value>(&state.metadata).expect("JSON"), metadata);
    assert_eq!(metadata["partitionColumns"], serde_json::json!(definition.partitioned_by));
    let mut properties = log.said_of(&state);
    properties.extend(definition.properties.clone());
    assert_eq!(state.properties, properties);
    let described: BTreeSet<&str> = described["properties"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|property| property["name"].as_str())
        .collect();
    assert!(properties.keys().all(|name| described.contains(name.as_str())), "{properties:?}");
}

#[tokio::test]
async fn raw_is_as_described() {
    let schema = is_described(include_str!("../../schemas/raw.json"), &raw::definition(), &raw::file_schema());
    let ids = set([
        WRITER_GENERATION.to_owned(),
        raw::EPOCH.to_owned(),
        raw::ROWS.to_owned(),
        raw::offset_txn("<topic>", 7).replace('7', "<partition>"),
        raw::check_txn("<topic>", 7).replace('7', "<partition>"),
        raw::last_txn("<topic>", 7).replace('7', "<partition>"),
    ]);
    assert_eq!(transactions(&schema), ids);
    delta_schema_is("raw", &raw::definition(), &schema).await;
}

#[tokio::test]
async fn counts_is_as_described() {
    let definition = counts::definition(8);
    let schema = is_described(include_str!("../../schemas/counts.json"), &definition, &counts::file_schema());
    let lane = |txn: fn(Lane) -> String| txn(Lane::Minute).replace("minute", "<lane>");
    assert_eq!(
        transactions(&schema),
        set([
            WRITER_GENERATION.to_owned(),
            lane(counts::lane_txn),
            lane(counts::complete_until_txn),
            logic_txn(7).replace('7', "<S>"),
            replay_txn("<id>"),
            undo_txn("<id>"),
            turn_txn("<id>"),
        ])
    );
    let text = schema["transactions"].to_string();
    for lane in Lane::ALL {
        assert!(text.contains(lane.name()), "lane {} is not described", lane.name());
    }
    delta_schema_is("counts", &definition, &schema).await;
}

#[tokio::test]
async fn what_replays_leave_behind_is_as_described() {
    let cells: Value = serde_json::from_str(include_str!("../../schemas/replay_cells.json")).expect("JSON");
    assert_eq!(columns(&cells, "columns"), written_columns(&dataset::schema()));
    // Its folders have the same names and types as those of `counts`.
    let counts: Value = serde_json::from_str(include_str!("../../schemas/counts.json")).expect("JSON");
    let of_counts: Vec<_> =
        columns(&counts, "partition_columns").into_iter().filter(|(name, _, _)| name != "period").collect();
    assert_eq!(columns(&cells, "partition_columns"), of_counts);
    let root = Root::open("memory://", &Default::default()).expect("a root");
    let text = cells["description"].as_str().expect("a text");
    assert_eq!(cells["dataset"], "replays/<id>/cells");
    assert!(text.contains("granularity=<granularity>/bucket=<bucket>/part-<n>.parquet"), "{text}");
    let mut writer = dataset::DatasetWriter::new(&root, "an-id", Granularity::Hour, 3);
    let cell = Cell { customer: "c".into(), dimension: "total".into(), value: String::new(), window_start: 0 };
    writer.push(&dataset::Change { cell, old: 1, new: 2 }).expect("encoded");
    let parts = writer.finish().await.expect("written");
    assert!(parts[0].path.starts_with("replays/an-id/cells/granularity=hour/bucket=3/part-"), "{parts:?}");

    let rows: Value = serde_json::from_str(include_str!("../../schemas/replay_rows.json")).expect("JSON");
    assert_eq!(columns(&rows, "columns"), written_columns(&arrivals::schema()));
    assert!(columns(&rows, "partition_columns").is_empty());
}
