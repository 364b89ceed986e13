//! The independent checks by `tests/e2e_check.py`. One Python process runs all of them, since its start takes longer than a check.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use serde::Deserialize;
use serde_json::{Value, json};

use super::job::Scene;
use super::servers::{root, servers};

struct Checker {
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// It ends when its stdin is closed, which is when this process ends.
    _child: Child,
}

/// The result of a check.
#[derive(Debug, Deserialize)]
pub(super) struct Checked {
    /// The first differences.
    differences: Vec<Value>,
    /// Each check of scripts/recount.sql that found differences, and how many.
    failed: BTreeMap<String, u64>,
    raw: Vec<Value>,
    /// Rows of `raw`.
    pub(super) rows: u64,
    /// Rows that are counted.
    pub(super) events: u64,
    /// The newest epoch of `raw`.
    pub(super) epoch: i64,
    /// The epoch of each lane.
    pub(super) lanes: BTreeMap<String, i64>,
}

impl Checker {
    fn start() -> Checker {
        let mut child = Command::new(root().join("scripts/python"))
            .arg(root().join("tests/e2e_check.py"))
            .envs(servers().s3.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("scripts/python runs");
        let requests = child.stdin.take().expect("its stdin is a pipe");
        let answers = BufReader::new(child.stdout.take().expect("its stdout is a pipe"));
        Checker { requests, answers, _child: child }
    }

    fn ask(&mut self, request: &Value) -> Checked {
        writeln!(self.requests, "{request}").expect("the checker listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the checker answers");
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{request}: {answer:?}"))
    }
}

/// Recounts the scene's tables; with `complete`, also compares `raw` with what was sent.
pub(super) fn check(scene: &Scene, complete: bool) -> Checked {
    static CHECKER: OnceLock<Mutex<Checker>> = OnceLock::new();
    let file = scene.job_file.with_file_name("sent.csv");
    let sent = complete.then(|| {
        let lines = scene.sent.lock().expect("no panic while locked").lines();
        fs::write(&file, lines).expect("a file of what was sent");
        file.display().to_string()
    });
    let request = json!({"tables": scene.tables, "topic": scene.topic, "web": scene.web, "sent": sent});
    let checker = CHECKER.get_or_init(|| Mutex::new(Checker::start()));
    checker.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).ask(&request)
}

impl Checked {
    pub(super) fn assert_exact(&self, scene: &Scene) {
        assert!(self.differences.is_empty(), "{}: counts is no recount of raw: {:#?}", scene.topic, self.differences);
        assert!(self.raw.is_empty(), "{}: raw is not what was sent: {:#?}", scene.topic, self.raw);
    }

    pub(super) fn assert_twice(&self, scene: &Scene, offsets: u64) {
        let expected = BTreeMap::from([("raw holds a record once".to_owned(), offsets)]);
        assert_eq!(self.failed, expected, "{}: {:#?}", scene.topic, self.differences);
    }

    pub(super) fn assert_level(&self, scene: &Scene) {
        let level = self.lanes.values().all(|lane| *lane == self.epoch);
        assert!(level, "{}: raw at epoch {}, lanes at {:?}", scene.topic, self.epoch, self.lanes);
    }
}
