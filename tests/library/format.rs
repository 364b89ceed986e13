//! Tables of earlier builds, kept in `tests/data/format-<N>`: they open, a job continues in them, and `verify` finds them exact.
//!
//! They were made by `tests/data/format.py`. A build with another table layout adds a folder, and keeps the existing ones. Of layout 1,
//! open days are in the file of a month, and open weeks and months in that of a year.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use floodmark::dataflow::Progress;
use floodmark::dataflow::commit::Request;
use floodmark::job::Job;
use floodmark::ledger::{Ledger, Orders};
use floodmark::live::{Live, run};
use floodmark::model::Records;
use floodmark::process::{Clock, ManualClock};
use floodmark::source::script::{Script, ScriptRecord, TOPIC};
use floodmark::source::{LastRead, Position, RecordSource, SourceError, SourceFactory, Stamp, Txns, Waker};
use floodmark::table::{FORMAT, FORMAT_NEWEST, Log, Root, State, counts, raw};
use floodmark::verify::{Options, Verdict, verify};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::watch;

use crate::support::live::{HOUR, block_on};
use crate::support::tables::cells;

const PARTITIONS: usize = 2;

fn folder(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/format-{format}"))
}

/// A copy of the tables of a build.
fn tables(format: u32) -> Arc<InMemory> {
    let store = InMemory::new();
    let root = folder(format).join("tables");
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).expect("below it").to_str().expect("UTF-8");
            let bytes = std::fs::read(&path).expect("a file");
            block_on(store.put(&object_store::path::Path::from(name), bytes.into())).expect("in memory");
        }
    }
    Arc::new(store)
}

fn load(store: &Arc<InMemory>, table: &str) -> State {
    let root = Root::on(Arc::clone(store) as Arc<dyn ObjectStore>);
    block_on(Log::new(&root, table).load()).expect("it opens").expect("a table")
}

/// The script as a topic that reports which record was read last, as Kafka did for these tables.
struct Topic(Script);

struct Share(Box<dyn RecordSource>);

impl SourceFactory for Topic {
    fn check(&self) -> Result<(), SourceError> {
        self.0.check()
    }

    fn resume(&self, raw: &Txns) -> Result<(), SourceError> {
        self.0.resume(raw)
    }

    fn open(&self, worker: usize, workers: usize, waker: Waker) -> Result<Box<dyn RecordSource>, SourceError> {
        Ok(Box::new(Share(self.0.open(worker, workers, waker)?)))
    }
}

impl RecordSource for Share {
    fn read(&mut self, stamp: Stamp, records: &mut Records) -> Result<bool, SourceError> {
        self.0.read(stamp, records)
    }

    fn take_positions(&mut self) -> Vec<Position> {
        let positions = self.0.take_positions().into_iter();
        let last = |next_offset| Some(LastRead { offset: next_offset - 1, check: 1 });
        positions.map(|position| Position { last: last(position.next_offset), ..position }).collect()
    }

    fn take_at_end(&mut self) -> bool {
        self.0.take_at_end()
    }

    fn drained(&self) -> bool {
        self.0.drained()
    }
}

#[test]
fn tables_of_every_format_open_go_on_and_verify() {
    for format in 1..=FORMAT_NEWEST {
        let store = tables(format);
        let (raw_before, counts_before) = (load(&store, "raw"), load(&store, "counts"));
        let cells_before = cells(&store, &counts_before);
        let epoch = raw_before.txn(raw::EPOCH) as u64;
        assert_eq!(counts::lane_epochs(&counts_before), [epoch; 5], "an orderly stop");
        assert_eq!(Orders::of(&counts_before).ids_in_force(), ["lower-case"]);

        let script = Script::new(PARTITIONS);
        let sent = |partition| raw_before.txn(&raw::offset_txn(TOPIC, partition as i32));
        let now = raw::newest_ingested_at(&raw_before).expect("statistics") + HOUR;
        let record = |value: String| ScriptRecord { timestamp_ms: Some(now / 1000), value: Some(value.into()) };
        for partition in 0..PARTITIONS {
            assert!(sent(partition) > 0, "partition {partition}");
            (0..sent(partition)).for_each(|_| script.push(partition, record("archived already".to_owned())));
        }
        for customer in ["a", "new"] {
            let event = format!(r#"{{"customer":"{customer}","time":{},"action":"View"}}"#, now / 1000);
            script.push(0, record(event));
        }
        script.push(1, record("{".to_owned()));

        let job = Job::load(&folder(format).join("job.toml")).expect("its job");
        let live = Live {
            job: job.clone(),
            root: Root::on(Arc::clone(&store) as Arc<dyn ObjectStore>),
            workers: 2,
            clock: Clock::Manual(ManualClock::at(now)),
            source: Arc::new(Topic(script.clone())),
            progress: Arc::new(Progress::default()),
        };
        let (_request, requested) = watch::channel(Request::Drain);
        run(live, requested).expect("it goes on");

        let (raw_after, counts_after) = (load(&store, "raw"), load(&store, "counts"));
        assert_eq!(raw_after.txn(raw::ROWS), raw_before.txn(raw::ROWS) + 3);
        assert_eq!(Orders::of(&counts_after), Orders::of(&counts_before));
        assert!(Ledger::of(&counts_after).logics.len() >= Ledger::of(&counts_before).logics.len());
        for state in [&raw_after, &counts_after] {
            assert_eq!(state.properties[FORMAT], FORMAT_NEWEST.to_string());
        }
        let columns = |state: &State| state.properties["delta.dataSkippingStatsColumns"].clone();
        match format {
            // In the old files only these columns have bounds, so readers may only skip files by them.
            1 => {
                assert_eq!(columns(&raw_after), "epoch,ingested_at,kafka_partition,kafka_offset,event_time");
                assert_eq!(columns(&counts_after), "customer_id,window_start,window_end,event_count");
            }
            _ => {
                assert_eq!(columns(&raw_after), columns(&raw_before));
                assert_eq!(columns(&counts_after), columns(&counts_before));
            }
        }
        // What is open lies apart now.
        let lengths = |state: &State, name: &str| {
            let files = state.files.values().filter(|file| file.partition["granularity"] == name);
            files.map(|file| file.partition["period"].len()).collect::<BTreeSet<_>>()
        };
        let long = [("day", 7), ("week", 4), ("month", 4)];
        let short = [("day", 10), ("week", 10), ("month", 7)];
        for (state, of) in [(&counts_before, if format == 1 { long } else { short }), (&counts_after, short)] {
            of.iter().for_each(|(name, length)| assert_eq!(lengths(state, name), BTreeSet::from([*length]), "{name}"));
        }

        // What was counted stays, and two events are added: six windows of `total`, and hour and day of `action`.
        let mut cells_after = cells(&store, &counts_after);
        for (cell, count) in cells_before {
            let after = cells_after.remove(&cell).unwrap_or(0) - count;
            assert!((0..=1).contains(&after), "{cell:?}: {after} more");
            if after > 0 {
                cells_after.insert(cell, after);
            }
        }
        assert_eq!(cells_after.len(), 2 * (6 + 2), "{cells_after:#?}");
        assert!(cells_after.values().all(|count| *count == 1));
        assert!(cells_after.keys().all(|cell| cell.2 == "total" || cell.4 == "view"), "by the second logic");

        let root = Root::on(Arc::clone(&store) as Arc<dyn ObjectStore>);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let report = runtime.block_on(verify(&job, &root, Options::default())).expect("a verdict");
        assert_eq!(report.verdict, Verdict::Exact, "{}\n{}", report.table(), report.sentence());
    }
}
