//! Several processes of one job on real Kafka and S3: `kill -9` of any of them at random moments. `FLOODMARK_CLUSTER_KILLS` says how
//! often (20), `FLOODMARK_SEED` repeats a run's choices.

use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use super::job::{Job, Scene, Store};
use super::kills::{Choices, number};
use super::traffic::now_ms;

/// Within this all others must know that one is lost.
const LOST_WITHIN: Duration = Duration::from_secs(10);

/// Starts so many processes of a scene's job.
fn start(scene: &Scene, processes: usize, arguments: &[&str]) -> Vec<Job> {
    let listeners: Vec<_> = (0..processes).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let hosts: Vec<_> = listeners.iter().map(|it| it.local_addr().expect("bound").to_string()).collect();
    drop(listeners);
    let hostfile = scene.job_file.with_file_name("hosts");
    fs::write(&hostfile, hosts.join("\n")).expect("a hostfile");
    let process = |index: usize| {
        let mut command = scene.command("run", arguments);
        command.args(["--processes", &processes.to_string(), "--process-index", &index.to_string()]);
        command.arg("--hostfile").arg(&hostfile).env("FLOODMARK_CLUSTER_SECRET", "a secret of these tests");
        scene.spawn(command)
    };
    (0..processes).map(process).collect()
}

/// Promises 1, 2 and 4, for 2 and 4 processes, on local tables and on S3: whichever is killed, all others end with 75 in seconds and
/// name it; any number of processes goes on.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn cluster_killed_at_random() {
    let kills = number("FLOODMARK_CLUSTER_KILLS").unwrap_or(20);
    let seed = number("FLOODMARK_SEED").unwrap_or(now_ms() as u64);
    eprintln!("cluster_killed_at_random: FLOODMARK_CLUSTER_KILLS={kills} FLOODMARK_SEED={seed}");
    let mut choices = Choices(seed);
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
        let mut jobs = start(scene, processes, &["--workers", "1", "--wait-seconds", "5"]);
        // The moment is what is random here: nothing is waited for.
        thread::sleep(Duration::from_millis(ms));
        jobs.iter_mut().for_each(Job::assert_alive);
        let mut killed = jobs.remove(choices.below(processes as u64) as usize);
        killed.kill();
        let since = Instant::now();
        for job in &mut jobs {
            // While all are waited for it is no loss, but one is missing in the end.
            let said = job.expect_exit(75);
            assert!(said.contains(" is lost: ") || said.contains("gave up waiting for process "), "{said}");
            if said.contains(" is lost: ") {
                slowest = slowest.max(since.elapsed());
            }
        }
        assert!(slowest < LOST_WITHIN, "{slowest:?}");
        if kill % 5 == 0 && scene.commits("counts") > 0 {
            scene.check_counts();
        }
    }
    let sent = traffic.stop();
    for mut job in start(scene, 2, &["--workers", "2", "--drain"]) {
        job.expect_exit(0);
    }
    let checked = scene.check_all();
    assert_eq!(checked.rows, sent, "{}: rows of raw", scene.topic);
    eprintln!(
        "{}: {kills} kills, the others gone within {} ms; {sent} records, {} counted, each once; exact",
        scene.topic,
        slowest.as_millis(),
        checked.events
    );
}
