//! Tables that several logics have counted: a change of logic, replays in force and undone, and logics that are gone. Each test states
//! itself which logic counts what, and the tables are made from that.

use super::*;
use crate::ledger::{Entry, Fingerprint, keep, logic_txn, replay_txn, undo_txn};

/// The logic of [`JOB`].
const OLD: usize = 0;
/// Filters buys but not pings; counts the country by minute and day too; has a longer grace for minutes.
const NEW: usize = 1;

/// The epoch from which on live counts with the new logic.
const SWITCH: i64 = 3;

fn new_job() -> Job {
    let text = JOB
        .replace("equals = \"ping\"", "equals = \"buy\"")
        .replace("[\"hour\", \"month\"]", "[\"minute\", \"hour\", \"day\", \"month\"]");
    let text = format!("{text}[granularities.minute]\ngrace_seconds = 40\n");
    Job::parse(&text, "job.toml", &|_| None).expect("a job")
}

/// What may be counted: a row, by a logic, in a cell.
struct Candidate<'a> {
    logic: usize,
    epoch: i64,
    time_us: i64,
    granularity: Granularity,
    cell: &'a CellKey,
}

impl Candidate<'_> {
    /// Whether the row's time is between two times of day of 2026-01-13.
    fn is_at(&self, from: &str, to: &str) -> bool {
        (day(from)..day(to)).contains(&self.time_us)
    }
}

fn live(row: &Candidate) -> bool {
    (row.logic == NEW) == (row.epoch >= SWITCH)
}

fn day(time: &str) -> i64 {
    at(&format!("2026-01-13T{time}Z"))
}

/// Tables with a ledger, and the files beside them.
struct Scene {
    tables: Tables,
    jobs: [Job; 2],
    entries: Vec<Entry>,
    /// The logics whose texts exist.
    kept: Vec<usize>,
}

impl Scene {
    /// Rows with the outcomes of the logic of their epoch, and the cells that `counts` selects.
    fn of(lanes: Lanes, counts: impl Fn(&Candidate) -> bool) -> Scene {
        let jobs = [job(), new_job()];
        let mut tables = Tables::of(records(), lanes);
        let mut added = Vec::new();
        for row in tables.raw.iter_mut().flatten() {
            let on_record = usize::from(row.epoch >= SWITCH);
            // The logic of the row's epoch comes last, so that its outcome is kept.
            for logic in [1 - on_record, on_record] {
                decode(row, &jobs[logic].logic);
                for (granularity, cell) in cells_of(&jobs[logic].logic, row, lanes) {
                    let (epoch, time_us) = (row.epoch, row.event_us.expect("it is counted"));
                    if counts(&Candidate { logic, epoch, time_us, granularity, cell: &cell }) {
                        added.push((granularity, cell));
                    }
                }
            }
        }
        tables.counts = files_of(added);
        for (from, logic) in [(1, OLD), (SWITCH, NEW)] {
            tables.counts_txns.insert(logic_txn(from as u64), fingerprint(&jobs[logic]).to_txn());
        }
        tables.job = jobs[NEW].clone();
        Scene { tables, jobs, entries: Vec::new(), kept: vec![OLD, NEW] }
    }

    /// Publishes a replay of the rows before an epoch, in these stretches.
    fn replay(&mut self, id: &str, logic: usize, before: i64, stretches: &[(&str, &str)]) -> &mut Entry {
        let order = self.entries.len() as i64 + 1;
        self.tables.counts_txns.insert(replay_txn(id), order);
        self.entries.push(Entry {
            id: id.to_owned(),
            coverage: stretches.iter().map(|(from, to)| day(from)..day(to)).collect(),
            customers: None,
            logic: fingerprint(&self.jobs[logic]),
            before: before as u64,
            whole_only: Vec::new(),
        });
        self.entries.last_mut().expect("it was pushed")
    }

    async fn verify(&self) -> Report {
        let root = self.tables.write().await;
        for logic in &self.kept {
            keep(&root, &self.jobs[*logic].logic).await.expect("kept");
        }
        for entry in &self.entries {
            entry.store(&root).await.expect("stored");
        }
        verify(&self.tables.job, &root, Options::default()).await.expect("a verdict")
    }

    async fn is_exact(&self) -> Report {
        let report = self.verify().await;
        assert_eq!(report.verdict, Verdict::Exact, "{}", report.table());
        report
    }

    async fn differs(&self) -> Report {
        let report = self.verify().await;
        assert_eq!(report.verdict, Verdict::Differences);
        report
    }

    /// Adds one to a cell that exists.
    fn spoil(&mut self, granularity: Granularity, customer: &str, start: &str) {
        let files = self.tables.counts.iter_mut().filter(|file| file.segment.granularity == granularity);
        let mut rows = files.flat_map(|file| &mut file.rows);
        let row = rows.find(|row| (&*row.customer, &*row.dimension, row.start_us) == (customer, "total", at(start)));
        row.expect("a row of that cell").count += 1;
    }
}

fn fingerprint(job: &Job) -> Fingerprint {
    Fingerprint::of(&job.logic)
}

fn decode(row: &mut Archived, logic: &Logic) {
    let mut event = Event::default();
    let archived = record(row.epoch, row.ingested_us, row.partition, row.offset, &row.value);
    row.outcome = Decoder::new(logic).decode(archived, &mut event);
    row.event_us = event.event_time;
    row.counted = matches!(row.outcome, Outcome::Counted).then_some((event.customer, event.values));
}

#[tokio::test]
async fn each_epoch_counts_with_the_logic_on_record() {
    for lanes in [LEVEL, [4, 3, 3, 2, 2], [3, 4, 2, 4, 2]] {
        let scene = Scene::of(lanes, live);
        let report = scene.is_exact().await;
        assert_eq!((report.notes.len(), report.not_checkable.clone()), (0, NotCheckable::default()));
    }
    // A single logic, either of them, did not count these tables.
    for logic in [OLD, NEW] {
        let mut scene = Scene::of(LEVEL, live);
        scene.tables.counts_txns.retain(|id, _| !id.starts_with("logic/"));
        scene.tables.job = scene.jobs[logic].clone();
        let report = scene.differs().await;
        assert!(report.differences.contains_key(&Check::Outcome), "{}", report.table());
    }
}

#[tokio::test]
async fn what_is_wrong_beside_a_switch_is_found() {
    for (window, start) in [(Granularity::Day, "2026-01-13T00:00:00Z"), (Granularity::Minute, "2026-01-13T04:05:00Z")] {
        let mut scene = Scene::of(LEVEL, live);
        scene.spoil(window, "acme", start);
        assert_eq!(kinds(&scene.differs().await), [(Check::Count, 1)]);
    }
    // The outcome that the other logic gives a ping.
    let mut scene = Scene::of(LEVEL, live);
    scene.tables.raw[1][0].outcome = Outcome::Counted;
    let report = scene.differs().await;
    assert_eq!(only(&report).expected, "filtered at 2026-01-13T04:05:20Z");
}

#[tokio::test]
async fn a_job_file_with_another_logic_is_told() {
    let mut scene = Scene::of(LEVEL, live);
    scene.tables.job = scene.jobs[OLD].clone();
    let report = scene.is_exact().await;
    let [old, new] = [OLD, NEW].map(|logic| fingerprint(&scene.jobs[logic]));
    assert_eq!(
        report.notes,
        [format!(
            "the job file counts with logic {old}, but {new} is on record from epoch 3 on: verified with the logic on record"
        )]
    );
    // Its text is not needed, since the job file has the same logic.
    scene.kept = vec![NEW];
    assert_eq!(scene.is_exact().await.not_checkable, NotCheckable::default());

    scene.kept = vec![OLD, NEW];
    scene.tables.job.logic.dimensions.clear();
    let report = scene.is_exact().await;
    assert_eq!(report.notes.len(), 1, "{:?}", report.notes);
    assert_eq!(serde_json::to_value(&report).expect("JSON")["not_checkable"]["cells"], 0);
}

#[tokio::test]
async fn a_replay_counts_the_rows_that_it_covers() {
    let counted = |row: &Candidate| {
        let replayed = row.epoch < SWITCH && row.is_at("04:00:00", "05:00:00");
        if replayed { row.logic == NEW } else { live(row) }
    };
    let mut scene = Scene::of(LEVEL, counted);
    scene.replay("r1", NEW, SWITCH, &[("04:00:00", "05:00:00")]);
    scene.is_exact().await;

    scene.spoil(Granularity::Hour, "acme", "2026-01-13T04:00:00Z");
    assert_eq!(kinds(&scene.differs().await), [(Check::Count, 1)]);

    // A replay that was undone does not count.
    let mut scene = Scene::of(LEVEL, live);
    scene.replay("r1", NEW, SWITCH, &[("04:00:00", "05:00:00")]);
    scene.differs().await;
    scene.tables.counts_txns.insert(undo_txn("r1"), 2);
    scene.is_exact().await;
}

#[tokio::test]
async fn what_a_replay_counts_in_whole_windows_only_is_left_out_of_others() {
    // The day is only partly in the range. Its countries were not counted before, so they are not in the counts.
    let whole_only =
        |row: &Candidate| row.cell.1 == "country" && matches!(row.granularity, Granularity::Minute | Granularity::Day);
    let counted = |row: &Candidate| {
        let replayed = row.epoch < SWITCH
            && row.is_at("04:00:00", "05:00:00")
            && !(whole_only(row) && row.granularity == Granularity::Day);
        if replayed { row.logic == NEW } else { live(row) }
    };
    let mut scene = Scene::of(LEVEL, counted);
    let entry = scene.replay("r1", NEW, SWITCH, &[("04:00:00", "05:00:00")]);
    entry.whole_only = [Granularity::Minute, Granularity::Day].map(|window| (window, "country".to_owned())).to_vec();
    scene.is_exact().await;
    scene.entries[0].whole_only.clear();
    assert!(scene.differs().await.differences.contains_key(&Check::MissingRow));
}

#[tokio::test]
async fn a_replay_of_some_customers_counts_theirs() {
    let counted = |row: &Candidate| {
        let replayed = row.epoch < SWITCH && row.is_at("00:00:00", "12:00:00") && row.cell.0 == "acme";
        if replayed { row.logic == NEW } else { live(row) }
    };
    let mut scene = Scene::of(LEVEL, counted);
    scene.replay("r1", NEW, SWITCH, &[("00:00:00", "12:00:00")]).customers = Some(vec!["acme".to_owned()]);
    scene.is_exact().await;
    scene.entries[0].customers = Some(vec!["bolt".to_owned()]);
    scene.differs().await;
}

#[tokio::test]
async fn of_replays_the_newest_counts() {
    // Two stretches with the new logic; then the old one again in a part of the first stretch, also for rows after the change.
    let counted = |row: &Candidate| {
        if row.is_at("04:05:00", "04:06:00") {
            row.logic == OLD
        } else if row.epoch < SWITCH && (row.is_at("03:00:00", "04:00:00") || row.is_at("04:05:00", "05:00:00")) {
            row.logic == NEW
        } else {
            live(row)
        }
    };
    let mut scene = Scene::of(LEVEL, counted);
    scene.replay("b", NEW, SWITCH, &[("03:00:00", "04:00:00"), ("04:05:00", "05:00:00")]);
    scene.replay("a", OLD, 5, &[("04:05:00", "04:06:00")]);
    scene.is_exact().await;
    // In the other order, other counts would be right.
    scene.tables.counts_txns.insert(replay_txn("b"), 3);
    scene.differs().await;
}

/// The number of rows of `counts` in windows that `is_theirs` selects.
fn rows_in(scene: &Scene, is_theirs: impl Fn(Granularity, &Published) -> bool) -> u64 {
    let files = scene.tables.counts.iter();
    files.map(|file| file.rows.iter().filter(|row| is_theirs(file.segment.granularity, row)).count() as u64).sum()
}

#[tokio::test]
async fn windows_of_a_logic_that_is_gone_are_not_checkable() {
    let mut scene = Scene::of(LEVEL, live);
    scene.kept = vec![NEW];
    let old: BTreeSet<(Granularity, i64)> = (scene.tables.raw.iter().flatten())
        .filter(|row| row.epoch < SWITCH && row.counted.is_some())
        .flat_map(|row| {
            let time_us = row.event_us.expect("it is counted");
            Granularity::ALL.map(|window| (window, window.window_start(time_us, Zone::Utc)))
        })
        .collect();
    let cells = rows_in(&scene, |window, row| old.contains(&(window, row.start_us)));
    let report = scene.is_exact().await;
    let path = format!("logic/{}.json is missing", fingerprint(&scene.jobs[OLD]));
    let gone = Gone { logic: fingerprint(&scene.jobs[OLD]), epochs: Some((1, 2)), replay: None, why: path.clone() };
    assert_eq!(report.not_checkable, NotCheckable { cells, because: vec![gone] });
    assert_eq!(report.cells, rows_in(&scene, |_, _| true) - cells);
    assert!(cells > 0 && report.cells > 0, "some of both");
    assert_eq!((report.records, report.counted, report.filtered), (18, 12, 2), "what is on record is told");
    let sentence = report.sentence();
    assert!(sentence.starts_with("exact as far as it can be checked: "), "{sentence}");
    let tail =
        format!("; {cells} cells are not checkable: logic {} of epochs 1..=2: {path}", fingerprint(&scene.jobs[OLD]));
    assert!(sentence.ends_with(&tail), "{sentence}");

    // A wrong count is found elsewhere, but not there.
    scene.spoil(Granularity::Day, "acme", "2026-01-13T00:00:00Z");
    scene.is_exact().await;
    scene.spoil(Granularity::Day, "dune", "2026-01-14T00:00:00Z");
    let report = scene.differs().await;
    assert_eq!(kinds(&report), [(Check::Count, 1)]);
    assert!(report.sentence().ends_with(&tail), "{}", report.sentence());
}

#[tokio::test]
async fn a_replay_makes_checkable_what_a_gone_logic_counted() {
    let counted = |row: &Candidate| row.logic == NEW;
    let mut scene = Scene::of(LEVEL, counted);
    scene.kept = vec![NEW];
    scene.replay("r1", NEW, SWITCH, &[("00:00:00", "12:00:00")]);
    assert_eq!(scene.is_exact().await.not_checkable, NotCheckable::default());
    // A replay of some customers leaves the others in doubt.
    scene.entries[0].customers = Some(vec!["acme".to_owned()]);
    assert!(scene.verify().await.not_checkable.cells > 0);
}

#[tokio::test]
async fn windows_of_a_replay_whose_logic_is_gone_are_not_checkable() {
    // What it counted is not known here: cells in its coverage, of its customer, may have any count.
    let mut scene = Scene::of(LEVEL, live);
    let entry = scene.replay("r1", NEW, SWITCH, &[("04:05:00", "04:06:00")]);
    entry.customers = Some(vec!["acme".to_owned()]);
    entry.logic = Fingerprint::from_txn(7);
    let spans = |window: Granularity, row: &Published| {
        row.customer == "acme" && window.window_start(day("04:05:00"), Zone::Utc) == row.start_us
    };
    for (window, start) in [(Granularity::Year, "2026-01-01T00:00:00Z"), (Granularity::Minute, "2026-01-13T04:05:00Z")]
    {
        scene.spoil(window, "acme", start);
    }
    let report = scene.is_exact().await;
    assert_eq!(report.not_checkable.cells, rows_in(&scene, spans));
    let [gone] = &*report.not_checkable.because else { panic!("{:?}", report.not_checkable) };
    assert_eq!((gone.replay.as_deref(), gone.epochs), (Some("r1"), None));
    assert!(gone.to_string().starts_with("logic 0000000000000007 of replay r1: logic/"), "{gone}");

    // A newer replay that covers all of it, with a logic that is not gone, decides.
    scene.replay("r2", OLD, 5, &[("04:00:00", "05:00:00")]);
    let report = scene.differs().await;
    assert_eq!(report.not_checkable, NotCheckable::default());
}

#[tokio::test]
async fn a_text_under_a_wrong_name_is_gone() {
    let scene = Scene::of(LEVEL, live);
    let root = scene.tables.write().await;
    let text = serde_json::to_vec(&crate::ledger::LogicText::of(&scene.jobs[NEW].logic)).expect("JSON");
    let path = format!("logic/{}.json", fingerprint(&scene.jobs[OLD]));
    write_file(root.store().as_ref(), &path, text.into()).await.expect("written");
    let report = verify(&scene.tables.job, &root, Options::default()).await.expect("a verdict");
    let [gone] = &*report.not_checkable.because else { panic!("{:?}", report.not_checkable) };
    assert!(gone.why.starts_with("the file of its name holds logic "), "{gone}");
}
