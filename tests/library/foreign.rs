//! What other programs do to our tables. Each rule of `src/table/foreign.rs` is a named case: at a start, in the middle of a run, after it
//! was undone, and known only from a checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use floodmark::dataflow::commit::Request;
use floodmark::live::LiveError;
use floodmark::process::HasExit;
use floodmark::table::{Commit, FORMAT, File, Log, Root, State, TableError, counts, raw};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::arrow_writer::ArrowWriter;
use serde_json::{Value, json};

use crate::support::live::{BASE, CUSTOMERS, SECOND, World, block_on};
use crate::support::tables::same;

const ENGINE: &str = "Apache-Spark/4.0.1 Delta-Lake/4.0.1";

/// A table with two files, as a job leaves it.
struct Scene {
    log: Log,
    state: State,
}

impl Scene {
    fn new(table: &str) -> Scene {
        let store = Arc::new(InMemory::new()) as Arc<dyn ObjectStore>;
        Scene::on(table, Log::new(&Root::on(store), table))
    }

    fn on(table: &str, log: Log) -> Scene {
        block_on(async {
            let definition = if table == "raw" { raw::definition() } else { counts::definition(2) };
            let mut state = log.load_or_create(&definition, BASE / 1000).await.expect("a table");
            let add = [0, 1].map(|bucket| file(table, bucket, &format!("e00000000000{}-g000001-p0-main", bucket + 1)));
            let commit = Commit { add: add.into(), txns: vec![("lane/day".to_owned(), 2)], ..Commit::default() };
            log.commit(&mut state, &commit, "STREAMING UPDATE", BASE / 1000).await.expect("committed");
            let state = log.load().await.expect("readable").expect("a table");
            Scene { log, state }
        })
    }

    /// The path of our file in a bucket.
    fn ours(&self, bucket: usize) -> &str {
        self.state.files.keys().nth(bucket).expect("two files")
    }

    /// Commits these actions as another program.
    async fn commit(&self, version: u64, operation: &str, actions: &[Value]) {
        let info = json!({"commitInfo": {"timestamp": 0, "operation": operation, "engineInfo": ENGINE}});
        let lines: Vec<String> = [&info].into_iter().chain(actions).map(Value::to_string).collect();
        let path = Path::from(format!("_delta_log/{version:020}.json"));
        self.log.store().put(&path, lines.join("\n").into()).await.expect("written");
    }

    /// The `metaData` of the table with a change.
    fn metadata(&self, change: impl FnOnce(&mut Value, &mut Value)) -> Value {
        let mut metadata: Value = serde_json::from_str(&self.state.metadata).expect("JSON");
        let mut schema: Value = serde_json::from_str(metadata["schemaString"].as_str().expect("text")).expect("JSON");
        change(&mut metadata, &mut schema["fields"]);
        metadata["schemaString"] = schema.to_string().into();
        json!({ "metaData": metadata })
    }

    fn properties(&self, properties: &[(&str, &str)]) -> Value {
        self.metadata(|metadata, _| {
            for (name, value) in properties {
                metadata["configuration"][*name] = (*value).into();
            }
        })
    }

    async fn loaded(&self) -> Result<State, TableError> {
        self.log.load().await.map(|state| state.expect("a table"))
    }
}

fn file(table: &str, bucket: u64, name: &str) -> File {
    let partition = match table {
        "raw" => vec![("ingest_date", "2026-01-13".to_owned())],
        _ => vec![("granularity", "day".to_owned()), ("period", "2026-01".to_owned()), ("bucket", bucket.to_string())],
    };
    let folder: Vec<String> = partition.iter().map(|(name, value)| format!("{name}={value}")).collect();
    File {
        path: format!("{}/{name}.parquet", folder.join("/")),
        size: 100,
        rows: 3,
        partition: partition.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        stats: STATS.to_owned(),
    }
}

const STATS: &str = r#"{"numRecords":3,"minValues":{"epoch":1,"ingested_at":"2026-01-13T12:00:00.000Z"},"maxValues":{"epoch":2,"ingested_at":"2026-01-13T12:00:01.000Z"},"nullCount":{"epoch":0,"ingested_at":0}}"#;

fn add(table: &str, name: &str, data_change: bool) -> Value {
    let file = file(table, 1, name);
    add_of(&file, data_change)
}

fn add_of(file: &File, data_change: bool) -> Value {
    json!({"add": {"path": file.path, "partitionValues": file.partition, "size": 100, "modificationTime": 0,
        "dataChange": data_change, "stats": file.stats}})
}

fn remove(path: &str, data_change: bool) -> Value {
    json!({"remove": {"path": path, "deletionTimestamp": BASE / 1000, "dataChange": data_change}})
}

fn with(mut action: Value, key: &str, value: Value) -> Value {
    let action_name = action.as_object().and_then(|object| object.keys().next().cloned()).expect("an action");
    action[action_name][key] = value;
    action
}

fn vector() -> Value {
    json!({"storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^", "offset": 4, "sizeInBytes": 40, "cardinality": 1})
}

type Actions = Box<dyn Fn(&Scene) -> Vec<Value>>;

fn actions(make: impl Fn(&Scene) -> Vec<Value> + 'static) -> Actions {
    Box::new(make)
}

fn protocol(text: Value) -> Actions {
    actions(move |_| vec![json!({ "protocol": text })])
}

/// What no table of ours may have in its own metadata: the table, what another program commits, and what the error must say.
fn refused_of_itself() -> Vec<(&'static str, Actions, Vec<&'static str>)> {
    let features = |reader: Value, writer: Value| {
        protocol(
            json!({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": reader, "writerFeatures": writer}),
        )
    };
    let column = |change: fn(&mut Value)| actions(move |scene| vec![scene.metadata(|_, fields| change(fields))]);
    let property =
        |name: &'static str, value: &'static str| actions(move |scene| vec![scene.properties(&[(name, value)])]);
    vec![
        (
            "raw",
            protocol(json!({"minReaderVersion": 2, "minWriterVersion": 5})),
            vec!["reader version 2 and writer version 5"],
        ),
        (
            "counts",
            protocol(json!({"minReaderVersion": 1, "minWriterVersion": 4})),
            vec!["writer version 4", "expected reader version 1"],
        ),
        (
            "counts",
            features(json!(["deletionVectors"]), json!(["deletionVectors", "invariants"])),
            vec!["reader version 3 with deletionVectors", "DROP FEATURE"],
        ),
        ("raw", features(json!(["columnMapping"]), json!(["columnMapping"])), vec!["columnMapping"]),
        ("raw", features(json!(["v2Checkpoint"]), json!(["v2Checkpoint"])), vec!["v2Checkpoint"]),
        ("counts", features(json!([]), json!(["icebergCompatV1"])), vec!["icebergCompatV1"]),
        ("counts", property("delta.columnMapping.mode", "name"), vec!["delta.columnMapping.mode = name"]),
        ("counts", property("delta.appendOnly", "true"), vec!["delta.appendOnly = true", "Set it to false"]),
        ("raw", property(FORMAT, "3"), vec!["floodmark.format = 3", "newer build", "expected 2 at most"]),
        ("counts", property(FORMAT, "99"), vec!["floodmark.format = 99", "Use that build"]),
        ("counts", property(FORMAT, "one"), vec!["floodmark.format = \"one\"", "a whole number"]),
        (
            "counts",
            column(|fields| {
                fields
                    .as_array_mut()
                    .expect("columns")
                    .push(json!({"name": "team", "type": "string", "nullable": true, "metadata": {}}))
            }),
            vec!["column team, which is not one of Floodmark's", "restore version 1"],
        ),
        (
            "raw",
            column(|fields| drop(fields.as_array_mut().expect("columns").remove(0))),
            vec!["no column epoch", "\"long\""],
        ),
        (
            "counts",
            column(|fields| fields[5]["type"] = "double".into()),
            vec!["column event_count of type \"double\"", "type \"long\""],
        ),
        ("counts", column(|fields| fields[0]["nullable"] = true.into()), vec!["column customer_id that may be null"]),
        (
            "raw",
            column(|fields| fields[9]["type"]["elementType"]["fields"][1]["type"] = "string".into()),
            vec!["column headers of type"],
        ),
        (
            "counts",
            column(|fields| fields[5]["metadata"]["delta.invariants"] = "x".into()),
            vec!["event_count with delta.invariants"],
        ),
        (
            "counts",
            actions(|scene| {
                vec![scene.metadata(|metadata, _| metadata["partitionColumns"] = json!(["granularity", "bucket"]))]
            }),
            vec!["partition columns granularity, bucket", "expected granularity, period, bucket"],
        ),
        (
            "raw",
            actions(|scene| vec![scene.metadata(|metadata, _| metadata["format"]["provider"] = "orc".into())]),
            vec!["files of format orc"],
        ),
    ]
}

/// The same for files. These changes are undone by restoring the version before.
fn refused_of_files() -> Vec<(&'static str, &'static str, Actions, Vec<&'static str>)> {
    let dv = |table: &'static str, adds_first: bool| {
        actions(move |scene| {
            let ours = scene.state.files.values().next().expect("a file");
            let mut both = vec![remove(&ours.path, true), with(add_of(ours, true), "deletionVector", vector())];
            if adds_first {
                both.reverse();
            }
            assert_eq!(scene.log.name(), table);
            both
        })
    };
    let one =
        |table: &'static str, change: fn(Value) -> Value| actions(move |_| vec![change(add(table, "part-0001", true))]);
    vec![
        ("raw", "DELETE", dv("raw", false), vec!["deletion vector", "version 2 (DELETE by Apache-Spark"]),
        ("counts", "DELETE", dv("counts", true), vec!["deletion vector", "restore version 1"]),
        (
            "raw",
            "CLONE",
            one("raw", |add| with(add, "path", "file:///elsewhere/a.parquet".into())),
            vec!["absolute", "shallow clone"],
        ),
        ("raw", "WRITE", one("raw", |add| with(add, "stats", Value::Null)), vec!["it has no statistics"]),
        (
            "raw",
            "OPTIMIZE",
            one("raw", |add| with(add, "stats", r#"{"numRecords":3}"#.into())),
            vec!["lack the bounds of epoch and ingested_at"],
        ),
        ("counts", "WRITE", one("counts", |add| with(add, "stats", "{".into())), vec!["its statistics {"]),
        (
            "counts",
            "WRITE",
            one("counts", |add| add),
            vec![
                "part-0001.parquet added",
                "only Floodmark to change the files of counts",
                "version 2 (WRITE by Apache-Spark",
            ],
        ),
        ("raw", "WRITE", one("raw", |add| add), vec!["part-0001.parquet added", "unchanged, or only to delete rows"]),
        (
            "counts",
            "DELETE",
            actions(|scene| vec![remove(scene.ours(0), true)]),
            vec!["e000000000001-g000001-p0-main.parquet removed", "DeltaTable(URL).restore(1)"],
        ),
        (
            "counts",
            "OPTIMIZE",
            actions(|scene| vec![remove(scene.ours(1), false), add("counts", "part-0001", false)]),
            vec!["only Floodmark to change the files of counts", "OPTIMIZE"],
        ),
        // The same number of rows, but other ones.
        (
            "raw",
            "UPDATE",
            actions(|scene| vec![remove(scene.ours(0), true), add("raw", "part-0001", true)]),
            vec!["UPDATE"],
        ),
        // It claims not to change data, but has another number of rows.
        ("raw", "OPTIMIZE", actions(|_| vec![add("raw", "part-0001", false)]), vec!["OPTIMIZE"]),
    ]
}

fn says(refused: Result<impl std::fmt::Debug, TableError>, table: &str, parts: &[&str], at: &str) {
    let Err(TableError::Invalid(said)) = refused else { panic!("{at}: {parts:?}: {refused:?}") };
    for part in parts.iter().copied().chain([format!("table {table} at memory:").as_str(), "version 2", "expected"]) {
        assert!(said.contains(part), "{at}: {part:?} is missing: {said}");
    }
}

#[tokio::test]
async fn what_a_table_may_not_say_of_itself() {
    for (table, actions, parts) in refused_of_itself() {
        let scene = Scene::new(table);
        let mut running = scene.state.clone();
        scene.commit(2, "ALTER TABLE", &actions(&scene)).await;
        says(scene.log.refresh(&mut running).await, table, &parts, "in the middle of a run");
        says(scene.loaded().await, table, &parts, "at a start");
        says(scene.log.load_at(2).await, table, &parts, "as an older version");
        // The version before can be read, and the version after gives the same error again.
        same(&scene.log.load_at(1).await.expect("readable").expect("a table"), &scene.state);
        let before = json!({"metaData": serde_json::from_str::<Value>(&scene.state.metadata).expect("JSON")});
        scene
            .commit(3, "RESTORE", &[before, json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}})])
            .await;
        assert_eq!(scene.loaded().await.expect("taken back").files, scene.state.files);
    }
}

#[tokio::test]
async fn what_may_not_be_done_to_files_and_how_it_is_taken_back() {
    for (table, operation, actions, parts) in refused_of_files() {
        let scene = Scene::new(table);
        let mut running = scene.state.clone();
        let actions = actions(&scene);
        scene.commit(2, operation, &actions).await;
        says(scene.log.refresh(&mut running).await, table, &parts, "in the middle of a run");
        says(scene.loaded().await, table, &parts, "at a start");
        // A later commit of the other program does not hide it.
        scene.commit(3, "VACUUM END", &[]).await;
        says(scene.loaded().await, table, &parts, "after another commit");
        // Restored: what was added is removed, and what was removed is added again.
        let mut back: Vec<Value> = Vec::new();
        for action in &actions {
            if let Some(added) = action.get("add") {
                let vector = added.get("deletionVector").cloned().unwrap_or_default();
                back.push(with(remove(added["path"].as_str().expect("a path"), true), "deletionVector", vector));
            }
        }
        back.extend(scene.state.files.values().map(|file| add_of(file, true)));
        scene.commit(4, "RESTORE", &back).await;
        let restored = scene.loaded().await.expect("taken back");
        assert_eq!(
            (restored.files, restored.txns),
            (scene.state.files.clone(), scene.state.txns.clone()),
            "{operation}"
        );
    }
}

#[tokio::test]
async fn what_is_harmless_is_taken_in() {
    let table_of = ["raw", "counts"];
    for table in table_of {
        let scene = Scene::new(table);
        let said = scene.metadata(|metadata, fields| {
            metadata["description"] = "ours".into();
            metadata["configuration"]["delta.autoOptimize.optimizeWrite"] = "true".into();
            fields[0]["metadata"]["comment"] = "whose".into();
            fields.as_array_mut().expect("columns").reverse();
        });
        let known =
            json!({"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["appendOnly", "invariants"]});
        scene.commit(2, "SET TBLPROPERTIES", &[said, json!({ "protocol": known })]).await;
        scene.commit(3, "VACUUM START", &[]).await;
        let txn = json!({"txn": {"appId": "somebody", "version": 7}});
        let mut better = scene.state.files.values().next().expect("a file").clone();
        better.stats = better.stats.replace("\"nullCount\":{", "\"nullCount\":{\"headers\":0,");
        scene.commit(4, "COMPUTE STATS", &[txn, add_of(&better, false)]).await;
        let loaded = scene.loaded().await.expect("taken in");
        assert_eq!(loaded.files.keys().collect::<Vec<_>>(), scene.state.files.keys().collect::<Vec<_>>());
        assert_eq!((loaded.txn("somebody"), loaded.txn("lane/day")), (7, 2));
        assert_eq!(loaded.properties["delta.autoOptimize.optimizeWrite"], "true");
        // We continue, and keep what was recorded.
        let mut state = loaded;
        scene
            .log
            .set_properties(&mut state, &BTreeMap::from([("a".to_owned(), "b".to_owned())]), 0)
            .await
            .expect("set");
        assert!(state.metadata.contains("\"whose\"") || state.metadata.contains("\\\"whose\\\""), "{}", state.metadata);
    }
}

#[tokio::test]
async fn files_of_raw_may_be_rewritten_and_deleted() {
    let cases: [(&str, Actions, u64); 3] = [
        (
            "OPTIMIZE",
            actions(|scene| {
                let merged = with(add("raw", "part-0001", false), "stats", STATS.replace(":3,", ":6,").into());
                vec![remove(scene.ours(0), false), merged, remove(scene.ours(1), false)]
            }),
            6,
        ),
        ("DELETE", actions(|scene| vec![remove(scene.ours(0), true)]), 3),
        (
            "DELETE",
            actions(|scene| {
                let fewer = with(add("raw", "part-0001", true), "stats", STATS.replace(":3,", ":1,").into());
                vec![remove(scene.ours(0), true), fewer]
            }),
            4,
        ),
    ];
    for (operation, actions, rows) in cases {
        let scene = Scene::new("raw");
        scene.commit(2, operation, &actions(&scene)).await;
        let state = scene.loaded().await.expect("taken in");
        assert_eq!(state.files.values().map(|file| file.rows).sum::<u64>(), rows, "{operation}");
    }
}

/// What another program has done is known only from its checkpoint, since its commits were cleaned up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_only_known_from_a_checkpoint() {
    let team = json!({"name": "team", "type": "string", "nullable": true, "metadata": {}});
    let cases: [(&str, Actions, Option<&str>); 5] = [
        (
            "counts",
            actions(move |scene| {
                vec![scene.metadata(|_, fields| fields.as_array_mut().expect("columns").push(team.clone()))]
            }),
            Some("column team"),
        ),
        ("counts", actions(|_| vec![add("counts", "part-0001", false)]), Some("part-0001.parquet added")),
        ("counts", protocol(json!({"minReaderVersion": 1, "minWriterVersion": 4})), Some("writer version 4")),
        ("raw", actions(|scene| vec![scene.properties(&[(FORMAT, "3")])]), Some("floodmark.format = 3")),
        ("raw", actions(|scene| vec![remove(scene.ours(0), false), add("raw", "part-0001", false)]), None),
    ];
    for (table, actions, refused) in cases {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = Root::open(folder.path().to_str().expect("UTF-8"), &BTreeMap::new()).expect("a root");
        let scene = Scene::on(table, Log::new(&root, table));
        scene.commit(2, "SOMETHING", &actions(&scene)).await;
        let delta = deltalake_core::open_table(root.table(table).1).await.expect("delta-rs opens it");
        deltalake_core::checkpoints::create_checkpoint(&delta, None).await.expect("delta-rs writes a checkpoint");
        for version in 0..=2 {
            scene.log.store().delete(&Path::from(format!("_delta_log/{version:020}.json"))).await.expect("deleted");
        }
        match (scene.loaded().await, refused) {
            (Ok(state), None) => assert!(state.files.keys().any(|path| path.contains("part-0001"))),
            (Err(TableError::Invalid(said)), Some(part)) => {
                assert!(said.contains(part) && said.contains("version 2 or an earlier one"), "{said}");
            }
            (loaded, _) => panic!("{table}: {refused:?}: {loaded:?}"),
        }
    }
}

/// What a checkpoint says about protocol or columns is never ignored because it is written in another way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_of_another_shape_is_damaged() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = Root::open(folder.path().to_str().expect("UTF-8"), &BTreeMap::new()).expect("a root");
    let scene = Scene::on("raw", Log::new(&root, "raw"));
    let delta = deltalake_core::open_table(root.table("raw").1).await.expect("delta-rs opens it");
    deltalake_core::checkpoints::create_checkpoint(&delta, None).await.expect("delta-rs writes a checkpoint");
    scene.loaded().await.expect("as delta-rs writes it");
    let path = Path::from(format!("_delta_log/{:020}.checkpoint.parquet", scene.state.version));
    let bytes = scene.log.store().get(&path).await.expect("there").bytes().await.expect("bytes");
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|builder| builder.build()).expect("Parquet");
    let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>().expect("batches");
    for (name, said) in [
        ("protocol", "column protocol is not a struct"),
        ("metaData", "column metaData is not a struct"),
        ("add", "no column add"),
    ] {
        let mut writer: Option<ArrowWriter<Vec<u8>>> = None;
        for batch in &batches {
            let schema = batch.schema();
            let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
                let other = || Arc::new(Int64Array::new_null(batch.num_rows())) as ArrayRef;
                (field.name().clone(), if field.name() == name { other() } else { Arc::clone(column) }, true)
            });
            let batch = RecordBatch::try_from_iter_with_nullable(columns).expect("columns");
            let writer =
                writer.get_or_insert_with(|| ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a writer"));
            writer.write(&batch).expect("encoded");
        }
        let bytes = writer.expect("rows").into_inner().expect("encoded");
        scene.log.store().put(&path, bytes.into()).await.expect("written");
        match scene.loaded().await {
            Err(TableError::Corrupt { what, .. }) => {
                assert!(what.contains(said), "{what}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_checkpoint_in_several_parts_is_refused() {
    let scene = Scene::new("counts");
    let last = json!({"version": 1, "size": 4, "parts": 2}).to_string();
    scene.log.store().put(&Path::from("_delta_log/_last_checkpoint"), last.into()).await.expect("written");
    let refused = scene.loaded().await;
    assert!(matches!(&refused, Err(TableError::Invalid(said)) if said.contains("several parts")), "{refused:?}");
}

/// Another program's table beside ours can be read, but not where it would be misread.
#[tokio::test]
async fn tables_of_others_follow_the_protocol_only() {
    let log = Log::new(&Root::on(Arc::new(InMemory::new())), "other");
    let scene = Scene::on("counts", log);
    scene.commit(2, "WRITE", &[add("counts", "part-0001", true)]).await;
    assert_eq!(scene.loaded().await.expect("readable").files.len(), 3);
    scene.commit(3, "WRITE", &[json!({"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}})]).await;
    assert!(matches!(scene.loaded().await, Err(TableError::Invalid(_))));
}

/// A job runs while another program commits. It ends with 78 as soon as it meets the commit, and the next start reports the same.
#[test]
fn a_running_job_ends_with_78_and_so_does_the_next_start() {
    let mut world = World::new("epoch_seconds = 1");
    let running = world.start(1, world.store());
    world.push(CUSTOMERS[0], 1);
    assert!(running.reads(1));
    world.advance(2 * SECOND);
    assert!(running.publishes(1));
    let scene = Scene { log: world.log("counts"), state: world.table("counts") };
    block_on(scene.commit(scene.state.version + 1, "DELETE", &[remove(scene.ours(0), true)]));
    world.push(CUSTOMERS[1], 1);
    assert!(running.reads(2));
    world.advance(20 * SECOND);
    let refused = |ended: Result<(), LiveError>| {
        let error = ended.expect_err("it is refused");
        assert_eq!(error.exit().code(), 78, "{error}");
        assert!(error.to_string().contains("(DELETE by Apache-Spark"), "{error}");
    };
    refused(running.end());
    refused(world.start(1, world.store()).end());
    // When that is undone, it continues and is exact.
    let back = scene.state.files.values().map(|file| add_of(file, true)).collect::<Vec<_>>();
    block_on(scene.commit(scene.state.version + 2, "RESTORE", &back));
    world.start(1, world.store()).ends_in_order(Request::Drain);
    world.is_exact();
}

/// Another program rewrites files of the archive, while a job runs and while none does: nothing is lost or doubled.
#[test]
fn an_archive_that_another_program_rewrites_is_read_on() {
    let mut world = World::new("epoch_seconds = 1");
    for round in 0..3 {
        let running = world.start(1, world.store());
        for customer in CUSTOMERS {
            world.push(customer, 1 + 60 * round);
        }
        assert!(running.reads(2));
        world.advance(SECOND);
        running.ends_in_order(Request::Drain);
        let scene = Scene { log: world.log("raw"), state: world.table("raw") };
        block_on(async {
            let mut rewrite = Vec::new();
            for (number, file) in scene.state.files.values().enumerate() {
                let bytes = scene.log.store().get(&Path::from(file.path.as_str())).await.expect("there").bytes().await;
                let name = format!("ingest_date={}/part-{round}-{number}.parquet", file.partition["ingest_date"]);
                let copy = File { path: name, ..file.clone() };
                scene
                    .log
                    .store()
                    .put(&Path::from(copy.path.as_str()), bytes.expect("bytes").into())
                    .await
                    .expect("written");
                rewrite.extend([add_of(&copy, false), remove(&file.path, false)]);
            }
            scene.commit(scene.state.version + 1, "OPTIMIZE", &rewrite).await;
        });
        world.is_exact();
    }
}
