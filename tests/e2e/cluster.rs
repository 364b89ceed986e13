//! Several processes of one job on real Kafka and S3: killed, frozen, cut off from each other, in other numbers, and beside a rival.
//! Promises 1, 2 and 4 hold throughout. `FLOODMARK_CLUSTER_KILLS` sets the number of random kills (20), `FLOODMARK_CLUSTER_ROUNDS` the
//! number of rounds of the other tests (1); `FLOODMARK_SEED` repeats the choices of a run.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::job::{Job, PATIENCE, Scene, Store};
use super::kills::{Choices, rounds};
use super::proxy::{Detour, Harm, Proxy, Way};
use super::servers::eventually;
use super::traffic::Traffic;

const ROUNDS: &str = "FLOODMARK_CLUSTER_ROUNDS";

/// All others must notice the loss of a process within this time.
const LOST_WITHIN: Duration = Duration::from_secs(10);

/// A process that is frozen for this long is not lost.
const SHORT_FREEZE: Duration = Duration::from_secs(2);

/// A process that does not find the others reports it soon.
pub(super) const ARGUMENTS: [&str; 4] = ["--workers", "1", "--wait-seconds", "5"];

/// Starts this many processes of a scene's job.
pub(super) fn start(scene: &Scene, processes: usize, arguments: &[&str]) -> Vec<Job> {
    start_with(scene, processes, arguments, |_, _, _| ())
}

/// The same, with changes to the hosts and the command of each process, by index.
fn start_with(
    scene: &Scene,
    processes: usize,
    arguments: &[&str],
    mut change: impl FnMut(usize, &mut [String], &mut Command),
) -> Vec<Job> {
    let listeners: Vec<_> = (0..processes).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let hosts: Vec<_> = listeners.iter().map(|it| it.local_addr().expect("bound").to_string()).collect();
    drop(listeners);
    let process = |index: usize| {
        let hostfile = scene.job_file.with_file_name(format!("hosts-{}", hosts[index]));
        let mut hosts = hosts.clone();
        let mut command = scene.command("run", arguments);
        command.args(["--processes", &processes.to_string(), "--process-index", &index.to_string()]);
        command.arg("--hostfile").arg(&hostfile).env("FLOODMARK_CLUSTER_SECRET", "a secret of these tests");
        change(index, &mut hosts, &mut command);
        fs::write(&hostfile, hosts.join("\n")).expect("a hostfile");
        scene.spawn(command)
    };
    (0..processes).map(process).collect()
}

/// Expects the end of a process that has lost another one. If the processes were still being gathered, it reports a missing process
/// instead of a loss.
pub(super) fn expect_loss(job: &mut Job) -> String {
    let said = job.expect_exit(75);
    assert!(said.contains(" is lost: ") || said.contains("gave up waiting for process "), "{said}");
    said
}

/// SIGTERM to one of the processes stops all in order.
pub(super) fn stop(mut jobs: Vec<Job>, choices: &mut Choices) {
    jobs[choices.below(jobs.len() as u64) as usize].signal("TERM");
    jobs.iter_mut().for_each(|job| drop(job.expect_exit(0)));
}

/// Lets a random time of up to `ms` pass; this does not wait for anything.
fn pass(choices: &mut Choices, ms: u64) {
    thread::sleep(Duration::from_millis(choices.below(ms)));
}

/// Ends the traffic; then two processes read to the ends, and everything must be exact.
fn finish(scene: &Scene, traffic: Traffic, what: &str) {
    let sent = traffic.stop();
    for mut job in start(scene, 2, &["--workers", "2", "--drain"]) {
        job.expect_exit(0);
    }
    let checked = scene.check_all();
    assert_eq!(checked.rows, sent, "{}: rows of raw", scene.topic);
    eprintln!("{}: {what}; {sent} records, {} counted, each once; exact", scene.topic, checked.events);
}

/// With 2 and 4 processes, on local tables and on S3: whichever process is killed, all others name it and end with 75 within seconds, and
/// any number of processes continues.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn cluster_killed_at_random() {
    let (kills, mut choices) = rounds("cluster_killed_at_random", "FLOODMARK_CLUSTER_KILLS", 20);
    kill_often(&Scene::new("cluster-kills-local", Store::Local, 6), kills / 2, &mut choices);
    kill_often(&Scene::new("cluster-kills-s3", Store::S3, 6), kills - kills / 2, &mut choices);
}

fn kill_often(scene: &Scene, kills: u64, choices: &mut Choices) {
    scene.paces([0, 2, 3, 4, 6]);
    let traffic = scene.traffic(choices.below(1 << 32), 1000.0);
    let mut slowest = Duration::ZERO;
    for kill in 1..=kills {
        let processes = [2, 4][choices.below(2) as usize];
        let ms = if choices.below(4) == 0 { choices.below(1500) } else { 1500 + choices.below(4000) };
        let mut jobs = start(scene, processes, &ARGUMENTS);
        // A random moment; this does not wait for anything.
        thread::sleep(Duration::from_millis(ms));
        jobs.iter_mut().for_each(Job::assert_alive);
        let mut killed = jobs.remove(choices.below(processes as u64) as usize);
        killed.kill();
        let since = Instant::now();
        for job in &mut jobs {
            if expect_loss(job).contains(" is lost: ") {
                slowest = slowest.max(since.elapsed());
            }
        }
        assert!(slowest < LOST_WITHIN, "{slowest:?}");
        if kill % 5 == 0 && scene.commits("counts") > 0 {
            scene.check_counts();
        }
    }
    finish(scene, traffic, &format!("{kills} kills, the others gone within {} ms", slowest.as_millis()));
}

/// Process 0 is killed in the middle of a write, before and after the store has done it: of each kind of write, the first ones after a
/// start, which make tables, then fence them, and then belong to an epoch.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn cluster_killed_around_durable_steps() {
    const KINDS: [&str; 5] =
        ["/raw/_delta_log/", "/counts/_delta_log/", "/logic/", "/raw/ingest_date", "/counts/granularity"];
    let (rounds, mut choices) = rounds("cluster_killed_around_durable_steps", ROUNDS, 1);
    for round in 0..rounds {
        let scene = Scene::new(&format!("cluster-steps-{round}"), Store::S3, 4);
        let traffic = scene.traffic(choices.below(1 << 32), 500.0);
        let mut kills = 0;
        for (visit, step) in [1, 1, 2, 3].into_iter().enumerate() {
            // The logic is recorded only once in the life of the tables.
            for kind in KINDS.into_iter().filter(|kind| visit == 0 || *kind != "/logic/") {
                for harm in [Harm::KillBefore(step), Harm::KillAfter(step)] {
                    kill_in_a_write(&scene, &Proxy::start_on(kind, harm));
                    kills += 1;
                }
            }
            scene.check_counts();
        }
        finish(&scene, traffic, &format!("process 0 killed in {kills} writes"));
    }
}

fn kill_in_a_write(scene: &Scene, proxy: &Proxy) {
    let mut jobs = start_with(scene, 2, &ARGUMENTS, |index, _, command| {
        if index == 0 {
            command.env("S3_ENDPOINT", proxy.endpoint());
        }
    });
    proxy.victim(jobs[0].id());
    let status = jobs[0].wait(PATIENCE);
    assert!(proxy.killed() && status.code().is_none(), "{:?}: {status}\n{}", proxy.writes(), jobs[0].tail());
    let said = expect_loss(&mut jobs[1]);
    assert!(said.contains("floodmark: process 0 at "), "{said}");
    eprintln!("killed in {}", proxy.writes().last().expect("it was killed in one"));
}

/// A process that is frozen for a moment is waited for. When it is frozen for longer than the silence limit, the others name it and end
/// with 75, a start of all processes continues, and the frozen one ends when it wakes up and has published nothing since.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn cluster_frozen_at_random() {
    let (rounds, mut choices) = rounds("cluster_frozen_at_random", ROUNDS, 1);
    let scene = Scene::new("cluster-freezes", Store::S3, 6);
    let traffic = scene.traffic(choices.below(1 << 32), 1000.0);
    let mut jobs = start(&scene, 3, &ARGUMENTS);
    for round in 0..2 * rounds {
        // Process 0 and another process, alternating.
        let index = if round % 2 == 0 { 0 } else { 1 + choices.below(2) as usize };
        scene.await_commits(&mut jobs[0], 2);
        pass(&mut choices, 1000);
        jobs[index].signal("STOP");
        thread::sleep(SHORT_FREEZE);
        jobs[index].signal("CONT");
        scene.await_commits(&mut jobs[0], 2);
        pass(&mut choices, 1000);
        jobs.iter_mut().for_each(Job::assert_alive);

        jobs[index].signal("STOP");
        let mut frozen = jobs.remove(index);
        for job in &mut jobs {
            let said = job.expect_exit(75);
            assert!(said.contains(&format!("floodmark: process {index} at ")) && said.contains(" is lost: "), "{said}");
        }
        jobs = start(&scene, 3, &ARGUMENTS);
        scene.await_commits(&mut jobs[0], 2);
        frozen.signal("CONT");
        let status = frozen.wait(PATIENCE);
        assert!(matches!(status.code(), Some(75 | 76)), "{status}\n{}", frozen.tail());
        assert!(!frozen.log().contains("panicked"), "{}", frozen.tail());
    }
    scene.await_commits(&mut jobs[0], 2);
    stop(jobs, &mut choices);
    finish(&scene, traffic, &format!("{} freezes of each kind", 2 * rounds));
}

/// Slow connections between processes do no harm. When connections break, or are silent, every process ends with 75.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn cluster_cut_off() {
    let (rounds, mut choices) = rounds("cluster_cut_off", ROUNDS, 1);
    let scene = Scene::new("cluster-cut", Store::S3, 6);
    let traffic = scene.traffic(choices.below(1 << 32), 1000.0);
    for way in (0..rounds).flat_map(|_| [Way::Closed, Way::Reset, Way::Silent]) {
        let late = Way::Late(1 + choices.below(20));
        let mut detours = Vec::new();
        // Each process connects to those with a lower index: 1 connects to 0, then 2 connects to 0 and 1.
        let mut jobs = start_with(&scene, 3, &ARGUMENTS, |index, hosts, _| {
            for host in &mut hosts[..index] {
                let detour = Detour::to(host.clone(), late);
                *host = detour.address.clone();
                detours.push(detour);
            }
        });
        if choices.below(4) == 0 {
            pass(&mut choices, 1500);
        } else {
            scene.await_commits(&mut jobs[0], 3);
            pass(&mut choices, 1000);
        }
        jobs.iter_mut().for_each(Job::assert_alive);
        // One of the connections, or all. For silence it must be one with process 0: signs of life only go between process 0 and each other
        // process.
        let one = choices.below(if way == Way::Silent { 2 } else { 3 }) as usize;
        let cut = if choices.below(2) == 0 { &detours[..] } else { &detours[one..=one] };
        cut.iter().for_each(|detour| detour.becomes(way));
        let since = Instant::now();
        jobs.iter_mut().for_each(|job| drop(expect_loss(job)));
        eprintln!("{late:?}, {} of 3 {way:?}: all gone after {} ms", cut.len(), since.elapsed().as_millis());
    }
    finish(&scene, traffic, &format!("{} cuts", 3 * rounds));
}

/// The number of processes changes, and their number of workers, while traffic continues.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn cluster_rescaled() {
    let (rounds, mut choices) = rounds("cluster_rescaled", ROUNDS, 1);
    let scene = Scene::new("cluster-rescale", Store::S3, 6);
    let traffic = scene.traffic(choices.below(1 << 32), 1000.0);
    for processes in (0..rounds).flat_map(|_| [1, 4, 2]) {
        let workers = (1 + choices.below(3)).to_string();
        let mut jobs = start(&scene, processes, &["--workers", &workers]);
        scene.await_commits(&mut jobs[0], 4);
        stop(jobs, &mut choices);
        // Not all that was sent is in the archive yet; what is there is published in all lanes.
        scene.check_counts().assert_level(&scene);
    }
    finish(&scene, traffic, "1, 4 and 2 processes");
}

/// Promise 6: of two clusters, the one started later continues; of two started at once, one of them. All processes of the other end with
/// 76.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn cluster_rivals() {
    let (rounds, mut choices) = rounds("cluster_rivals", ROUNDS, 1);
    let scene = Scene::new("cluster-rivals", Store::S3, 4);
    let traffic = scene.traffic(choices.below(1 << 32), 1000.0);
    let two = || start(&scene, 2, &ARGUMENTS);
    let all_fenced = |jobs: &mut [Job]| {
        for job in jobs {
            let said = job.expect_exit(76);
            assert!(said.contains("do not restart this one"), "{said}");
        }
    };
    for _ in 0..rounds {
        let mut first = two();
        scene.await_commits(&mut first[0], 3);
        let mut second = two();
        all_fenced(&mut first);
        scene.await_commits(&mut second[0], 3);
        stop(second, &mut choices);

        let mut both = [two(), two()];
        let fenced = eventually("one of both is fenced", PATIENCE, || {
            both.iter_mut().position(|jobs| jobs[0].ended().is_some())
        });
        all_fenced(&mut both[fenced]);
        let [one, other] = both;
        let mut left = if fenced == 0 { other } else { one };
        scene.await_commits(&mut left[0], 3);
        stop(left, &mut choices);
    }
    finish(&scene, traffic, &format!("{rounds} rivals of each kind"));
}
