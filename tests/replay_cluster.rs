//! A replay over several processes of the real binary: it finds what a single process finds, with any number of processes, and after the
//! loss of any process at any step; ends that all processes share; requests that are refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use arrow::util::display::array_value_to_string;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

mod support;

use support::processes::{Place, Process, eventually};

const RECORDS: u64 = 60_000;
const RANGE: [&str; 4] = ["--from", "2000-01-01", "--to", "2040-01-01"];
const COMPLETE: &str = "floodmark: the replay is complete; process 0 prints the result";

/// Tables of a job that looked for a field in the wrong place, until it was started with the corrected file: files by path.
static TABLES: LazyLock<BTreeMap<PathBuf, Vec<u8>>> = LazyLock::new(|| {
    let mut place = with_jobs(1);
    for job in ["wrong.toml", "wrong.toml", "job.toml"] {
        place.send(RECORDS / 3);
        let drained =
            place.floodmark("run", job).args(["--drain", "--workers", "2"]).output().expect("the binary runs");
        assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    }
    contents(&place.tables())
});

fn with_jobs(processes: usize) -> Place {
    let place = Place::new(processes);
    // Small files, so that there are several chunks, and each has some files for all workers.
    let small = |text: String| text.replace("[settings]\n", "[settings]\nepoch_bytes = 1048576\n");
    place.writes_job("job.toml", small);
    place.writes_job("wrong.toml", |text| small(text).replace("/userInfo/country", "/userinfo/country"));
    place
}

/// A place with its own copy of the tables.
fn place(processes: usize) -> Place {
    let place = with_jobs(processes);
    for (path, bytes) in &*TABLES {
        let path = place.tables().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    }
    place
}

/// All files of a folder and its subfolders.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("listed").path());
    // A file that a killed process had not finished has such a name, and no listing of a store shows it.
    let entries = entries.filter(|path| !path.to_string_lossy().contains('#'));
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The same, relative to the folder, with their contents.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let within = |path: &Path| path.strip_prefix(folder).expect("within").to_owned();
    files(folder).into_iter().map(|path| (within(&path), fs::read(&path).expect("readable"))).collect()
}

fn replay(place: &Place, id: &str, arguments: &[&str]) -> Command {
    let mut process = place.floodmark("replay run", "job.toml");
    process.args(["--workers", "2", "--memory-mib", "1", "--chunk-mib", "1", "--id", id]).args(arguments);
    if !arguments.contains(&"--from") {
        process.args(RANGE);
    }
    process
}

/// Starts this many processes, or a single one without membership.
fn start(place: &Place, processes: usize, id: &str, arguments: &[&str]) -> Vec<Process> {
    let process = |index| {
        let mut process = replay(place, id, arguments);
        if processes > 1 {
            place.one_of(processes, index, &mut process);
        }
        place.spawn(process)
    };
    (0..processes).map(process).collect()
}

/// Runs a replay to its end, which must be in order. Returns what process 0 printed.
fn completes(place: &Place, processes: usize, id: &str, arguments: &[&str]) -> String {
    let mut processes = start(place, processes, id, arguments);
    let others = processes.split_off(1);
    let (code, said) = processes[0].ended();
    assert_eq!(code, Some(if arguments.contains(&"--detailed-exitcode") { 3 } else { 0 }), "{said}");
    for mut other in others {
        assert_eq!(other.expect_exit(0), COMPLETE);
    }
    said
}

fn folder(place: &Place, id: &str) -> PathBuf {
    place.tables().join("replays").join(id)
}

/// What a replay found, independent of who counted it: its summary, its dataset, and the rows whose outcome has changed.
fn found(place: &Place, id: &str) -> (Value, BTreeMap<PathBuf, Vec<u8>>, Vec<Vec<String>>) {
    let folder = folder(place, id);
    let text = fs::read_to_string(folder.join("summary.json")).expect("a complete replay");
    let mut summary: Value = serde_json::from_str(&text.replace(&format!("replays/{id}/"), "")).expect("JSON");
    let fields = summary.as_object_mut().expect("an object");
    let spilled = fields.remove("spilled").expect("a number");
    assert!(spilled.as_u64().is_some_and(|times| times > 0), "the budget is used up: {spilled}");
    let mut rows = Vec::new();
    for path in fields.remove("rows").expect("paths").as_array().expect("paths") {
        let file = fs::File::open(folder.join(path.as_str().expect("a path"))).expect("rows");
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("a reader") {
            let batch = batch.expect("rows");
            let text = |row| batch.columns().iter().map(move |of| array_value_to_string(of, row).expect("printable"));
            rows.extend((0..batch.num_rows()).map(|row| text(row).collect::<Vec<_>>()));
        }
    }
    rows.sort();
    let cells = contents(&folder.join("cells"));
    assert!(!cells.is_empty(), "cells differ");
    assert_eq!(files(&folder.join("chunks")), Vec::<PathBuf>::new(), "nothing is left over");
    (summary, cells, rows)
}

/// Promise 2: any number of processes finds the same, and a complete replay is reported again.
#[test]
fn the_same_at_any_number_of_processes() {
    let place = place(4);
    let said = completes(&place, 1, "alone", &[]);
    assert!(!said.contains("chunks=1 "), "several chunks: {said}");
    let alone = found(&place, "alone");
    for processes in [2, 4] {
        let id = format!("by-{processes}");
        completes(&place, processes, &id, &[]);
        assert!(found(&place, &id) == alone, "{processes} processes: {:?}", found(&place, &id).0);
    }
    let sentence = |said: String| said.lines().find(|line| line.contains(" cells change")).map(str::to_owned);
    let before = fs::read(folder(&place, "by-2").join("summary.json")).expect("complete");
    for processes in [4, 1] {
        let said = completes(&place, processes, "by-2", &[]);
        assert!(!said.contains("replay begins"), "{said}");
        assert!(sentence(said).is_some());
    }
    assert_eq!(fs::read(folder(&place, "by-2").join("summary.json")).expect("complete"), before);
}

/// Kills one of three processes. All others must end together: with 75 and its name, or in order if the replay was complete. Returns
/// whether it was lost.
fn loses(place: &Place, id: &str, victim: usize, moment: impl FnOnce(&Process)) -> bool {
    let mut processes = start(place, 3, id, &[]);
    moment(&processes[victim]);
    processes[victim].signal("KILL");
    let since = Instant::now();
    drop(processes.remove(victim));
    let ended: Vec<_> = processes.iter_mut().map(Process::ended).collect();
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    let lost = ended[0].0 == Some(75);
    for (code, said) in ended {
        assert_eq!(code, Some(if lost { 75 } else { 0 }), "{said}");
        let name = format!("floodmark: process {victim} at {} is lost: ", place.hosts[victim]);
        assert!(!lost || said.contains(&name), "{said}");
    }
    lost
}

/// Promise 5: whichever process is killed, at whatever step, all end with 75, and any number of processes continues.
#[test]
fn the_loss_of_any_process_ends_all_and_a_submission_goes_on() {
    let place = place(3);
    completes(&place, 1, "alone", &[]);
    let alone = found(&place, "alone");
    for (number, step) in ["replay begins", "sorted run stored", "compares"].into_iter().enumerate() {
        for victim in 0..3 {
            let id = format!("step-{number}-{victim}");
            let lost = loses(&place, &id, victim, |process| process.awaits(step));
            let said = completes(&place, 1 + (victim + 1) % 3, &id, &[]);
            assert!(found(&place, &id) == alone, "{id}: {:?}", found(&place, &id).0);
            assert!(!lost || step != "compares" || said.contains("chunks=0 "), "it goes on: {said}");
        }
    }
}

/// The same at random moments, repeatedly.
#[test]
fn killed_at_any_moment() {
    let place = place(3);
    let started = Instant::now();
    completes(&place, 3, "whole", &[]);
    let whole = started.elapsed();
    let expected = found(&place, "whole");
    for round in 0..4 {
        let id = format!("round-{round}");
        for victim in 0..3 {
            let moment = whole.mul_f64(rand::random::<f64>());
            let dies = |process: &Process| {
                // Before all processes are there, the others would wait for it to come again.
                let is_begun = |said: String| said.contains("replay begins") || said.contains("DEBUG end ");
                eventually("that it begins, or is complete", || is_begun(process.said()).then_some(()));
                thread::sleep(moment);
            };
            eprintln!("{id}: process {victim} killed after {moment:?}");
            if !loses(&place, &id, victim, dies) {
                break;
            }
        }
        completes(&place, 1 + round % 3, &id, &[]);
        assert!(found(&place, &id) == expected, "{id}: {:?}", found(&place, &id).0);
    }
}

/// A process that is frozen is also lost, and notices that itself when it wakes up.
#[test]
fn a_frozen_process_ends_all() {
    let place = place(3);
    let mut processes = start(&place, 3, "frozen", &[]);
    processes[1].awaits("replay begins");
    place.loses_frozen(&mut processes, 1);
    completes(&place, 2, "frozen", &[]);
}

/// The failure of one process ends all: here, a file that only one of them reads.
#[test]
fn a_failure_of_one_is_everybodys() {
    let place = place(2);
    let aside = place.folder.path().join("aside");
    for (number, file) in place.raw().files.keys().take(3).enumerate() {
        let file = place.tables().join("raw").join(file);
        fs::rename(&file, &aside).expect("moved");
        let id = format!("gone-{number}");
        let mut processes = start(&place, 2, &id, &[]);
        let words: Vec<_> = processes.iter_mut().map(|process| process.expect_exit(78)).collect();
        assert!(words.iter().all(|word| word.contains("that the replay reads is no longer kept")), "{words:?}");
        // Those that did not fail name the one that did.
        assert_eq!(words.iter().filter(|word| word.contains(" at 127.0.0.1:")).count(), 1, "{words:?}");
        fs::rename(&aside, &file).expect("moved");
        completes(&place, 2, &id, &[]);
    }
}

#[test]
fn another_replay_and_a_live_job_are_refused_on_both_sides() {
    let place = place(2);
    let mut live = place.floodmark("run", "job.toml");
    live.args(["--workers", "2"]);
    let other = |arguments: &[&str]| replay(&place, "refused", arguments);
    let mut job = place.floodmark("replay run", "wrong.toml");
    job.args(other(&[]).get_args().skip(3));
    for (mut command, says) in [
        (live, ["the replay: found none, the live job, expected fingerprint ", "expected none, the live job"]),
        (other(&["--from", "2000-01-01", "--to", "2039-01-01"]), ["the replay: found fingerprint "; 2]),
        (other(&["--customers", "a"]), ["the replay: found fingerprint "; 2]),
        (other(&["--publish"]), ["the replay: found fingerprint "; 2]),
        (job, ["the logic of the job file: found fingerprint "; 2]),
    ] {
        let mut zero = other(&["--wait-seconds", "10"]);
        place.one_of(2, 0, &mut zero);
        place.one_of(2, 1, &mut command);
        for (mut process, says) in [zero, command].map(|command| place.spawn(command)).into_iter().zip(says) {
            let said = process.expect_exit(78);
            assert!(said.contains(says), "{said}");
        }
    }
    assert!(!folder(&place, "refused").exists(), "nothing was submitted");
}

/// What process 0 is refused is reported by all processes, and all end with the same exit code.
#[test]
fn a_refusal_of_process_0_is_everybodys() {
    let place = place(2);
    completes(&place, 2, "first", &["--customers", "shop-00001"]);
    for mut process in start(&place, 2, "first", &[]) {
        let said = process.expect_exit(1);
        assert!(said.contains("the id first belongs to another replay"), "{said}");
    }
}

#[test]
fn published_at_once() {
    let place = place(2);
    for text in ["replay fix is published: ", "replay fix is already published"] {
        let said = completes(&place, 2, "fix", &["--publish", "--detailed-exitcode"]);
        assert!(said.contains(text), "{said}");
    }
    let verified = place.floodmark("verify", "job.toml").output().expect("the binary runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

#[test]
fn options_that_do_not_fit_are_said() {
    let place = with_jobs(2);
    for (arguments, code, says) in [
        (vec!["--processes", "2"], 2, "--processes 2 needs --process-index, from 0 to 1"),
        (vec!["--process-index", "1"], 2, "give their number with --processes"),
        (vec!["--processes", "2", "--process-index", "1", "--hostfile", "/no/such"], 78, "--hostfile /no/such"),
    ] {
        let said = place.spawn(replay(&place, "usage", &arguments)).expect_exit(code);
        assert!(said.contains(says), "{said}");
    }
}
