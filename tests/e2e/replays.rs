//! Replays beside a live job under traffic: run, published, undone, and killed meanwhile.
//!
//! Live has counted countries from a field that does not exist, and is started again with the right one. After a replay of everything
//! before that, the tables are as if the field had always been right, which `scripts/recount` checks without our code. `FLOODMARK_SEED`
//! repeats the choices of a run.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::job::{Job, Scene, Store};
use super::kills::{Choices, number};
use super::proxy::{Harm, Proxy};
use super::traffic::{Traffic, now_ms};

const RIGHT: &str = "pointer = \"/userInfo/country\"";
const WRONG: &str = "pointer = \"/userInfo/land\"";

/// A live job that has just been corrected, and traffic that continues.
fn live(scene: &Scene, seed: u64, rate: f64, commits: usize) -> (Traffic, Job) {
    // Lanes at different epochs.
    scene.paces([0, 2, 2, 3, 4]);
    scene.edit(RIGHT, WRONG);
    let traffic = scene.traffic(seed, rate);
    let mut job = scene.run(&["--workers", "2"]);
    scene.await_commits(&mut job, commits);
    job.stop();
    scene.edit(WRONG, RIGHT);
    let mut job = scene.run(&["--workers", "2"]);
    scene.await_commits(&mut job, 3);
    (traffic, job)
}

/// `floodmark replay run` over everything.
fn replay(scene: &Scene, id: &str, workers: u64) -> Command {
    let mut command = scene.floodmark();
    command.args(["replay", "run"]).arg(&scene.job_file).args(["--id", id, "--workers", &workers.to_string()]);
    command.args(["--from", "2000-01-01", "--to", "2100-01-01", "--chunk-mib", "1", "--memory-mib", "1"]);
    command.args(["--output", "json"]);
    command
}

/// `floodmark replay COMMAND ID`.
fn replay_command(scene: &Scene, command: &str, id: &str) -> Command {
    let mut process = scene.floodmark();
    process.args(["replay", command, id, "--job"]).arg(&scene.job_file).args(["--output", "json"]);
    process
}

/// Runs it to its end; returns what it printed on stdout.
fn ends(mut command: Command, code: i32) -> serde_json::Value {
    let output = command.output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}\n{said}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{command:?}: {error}\n{said}"))
}

/// Seconds since the end of the newest published minute.
fn age(scene: &Scene) -> String {
    format!("{:.1} s", (now_ms() - scene.newest_txn("counts", "complete_until/minute")) as f64 / 1000.0)
}

#[test]
#[ignore = "e2e: real Kafka and S3"]
fn replayed_published_and_undone_beside_a_live_job() {
    let began = Instant::now();
    let scene = Scene::new("replay", Store::S3, 4);
    let (traffic, mut job) = live(&scene, 21, 2500.0, 7);
    let before = age(&scene);

    let run = scene.spawn({
        let mut command = replay(&scene, "fix", 2);
        command.arg("--detailed-exitcode");
        command
    });
    let (mut run, mut during) = (run, Vec::new());
    let clock = Instant::now();
    while run.ended().is_none() {
        during.push(age(&scene));
        thread::sleep(Duration::from_millis(500));
    }
    run.expect_exit(3);
    let took = clock.elapsed().as_secs_f64();
    job.assert_alive();
    scene.verify();

    let clock = Instant::now();
    let published = ends(replay_command(&scene, "publish", "fix"), 0);
    let publish_took = clock.elapsed().as_secs_f64();
    let after = age(&scene);
    job.assert_alive();
    eprintln!(
        "replay in {took:.1} s, published in {publish_took:.1} s ({} cells, {} files); age of the newest published minute: {before} before, {} \
         while it counted, {after} after",
        published["cells"],
        published["files"],
        during.join(", ")
    );
    assert_eq!(published["already"], false);
    assert!(published["cells"].as_u64() > Some(100), "{published}");
    scene.verify();
    // As if the field had always been right.
    scene.check_counts();

    // The same id again is the same replay; it is published now.
    ends(replay(&scene, "fix", 1), 0);
    assert_eq!(ends(replay_command(&scene, "publish", "fix"), 0)["already"], true);

    let undone = ends(replay_command(&scene, "undo", "fix"), 0);
    assert_eq!(undone["cells"], published["cells"]);
    job.assert_alive();
    scene.verify();
    scene.await_commits(&mut job, 3);
    assert_eq!(ends(replay_command(&scene, "publish", "fix"), 0)["already"], false);
    scene.await_commits(&mut job, 2);

    let sent = traffic.stop();
    job.stop();
    scene.drain(1);
    assert_eq!(scene.check_all().rows, sent);
    eprintln!("{sent} records; exact after each, in {:.0} s", began.elapsed().as_secs_f64());
}

/// Runs a command repeatedly, killed each time at another write, until it completes.
fn killed(command: impl Fn(u64) -> Command, scene: &Scene, choices: &mut Choices, kills: usize) -> usize {
    let mut done = 0;
    for number in 0..kills {
        // Further each time; the last kill is after a commit, if there is one.
        let step = 1 + number * number + choices.below(1 + 3 * number as u64) as usize;
        let harm = match choices.below(2) {
            _ if number + 1 == kills => Harm::KillAfterCommit,
            0 => Harm::KillBefore(step),
            _ => Harm::KillAfter(step),
        };
        let proxy = Proxy::start(harm);
        let mut command = command(1 + choices.below(3));
        command.env("S3_ENDPOINT", proxy.endpoint());
        let mut job = scene.spawn(command);
        proxy.victim(job.id());
        job.wait(super::job::PATIENCE);
        if !proxy.killed() {
            job.expect_exit(0);
            break;
        }
        done += 1;
    }
    done
}

#[test]
#[ignore = "e2e: real Kafka and S3"]
fn replays_killed_on_the_way() {
    let began = Instant::now();
    let seed = number("FLOODMARK_SEED").unwrap_or(now_ms() as u64);
    eprintln!("replays_killed_on_the_way: FLOODMARK_SEED={seed}");
    let mut choices = Choices(seed);
    let scene = Scene::new("replay-killed", Store::S3, 4);
    let (traffic, mut job) = live(&scene, seed, 1500.0, 6);

    let runs = killed(|workers| replay(&scene, "fix", workers), &scene, &mut choices, 7);
    let found = ends(replay(&scene, "fix", 2), 0);
    // What it found is checked through what it publishes.
    let parts = found["summary"]["parts"].as_array().expect("files");
    assert!(parts.len() > 8, "{found}");
    scene.verify();

    let publishes = killed(|_| replay_command(&scene, "publish", "fix"), &scene, &mut choices, 6);
    let published = ends(replay_command(&scene, "publish", "fix"), 0);
    scene.check_counts();
    scene.verify();
    let undos = killed(|_| replay_command(&scene, "undo", "fix"), &scene, &mut choices, 5);
    ends(replay_command(&scene, "undo", "fix"), 0);
    scene.verify();
    job.assert_alive();
    scene.await_commits(&mut job, 2);
    ends(replay_command(&scene, "publish", "fix"), 0);

    let sent = traffic.stop();
    job.stop();
    scene.drain(3);
    assert_eq!(scene.check_all().rows, sent);
    eprintln!(
        "{runs} runs, {publishes} publishes and {undos} undos were killed; {sent} records, order {}, exact, in {:.0} s",
        published["order"],
        began.elapsed().as_secs_f64()
    );
    assert!(runs > 2 && publishes > 3 && undos > 2, "too few kills");
}
