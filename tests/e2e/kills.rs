//! `kill -9` at random moments under traffic. `FLOODMARK_KILLS` sets how often (30); `FLOODMARK_SEED` repeats the choices of a run.

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use super::job::{Scene, Store};
use super::traffic::now_ms;

/// Records per second.
const RATE: f64 = 1000.0;

/// SplitMix64: makes the choices of a test from its seed.
pub(super) struct Choices(pub(super) u64);

impl Choices {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

pub(super) fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: expected a number, found {text:?}")))
}

/// The number of rounds of a test, and its choices; both come from the environment and are printed.
pub(super) fn rounds(test: &str, variable: &str, default: u64) -> (u64, Choices) {
    let rounds = number(variable).unwrap_or(default);
    let seed = number("FLOODMARK_SEED").unwrap_or(now_ms() as u64);
    eprintln!("{test}: {variable}={rounds} FLOODMARK_SEED={seed}");
    (rounds, Choices(seed))
}

/// Promises 1, 2 and 4: half of the kills are on local tables, the rest on S3; a tenth of all are on the access log job.
#[test]
#[ignore = "e2e: real Kafka and S3"]
fn kill_at_random() {
    let (kills, mut choices) = rounds("kill_at_random", "FLOODMARK_KILLS", 30);
    let lines = (kills / 10).max(1);
    kill_often(&Scene::new("kills-local", Store::Local, 4), kills / 2, &mut choices);
    kill_often(&Scene::new("kills-s3", Store::S3, 4), kills - kills / 2 - lines, &mut choices);
    kill_often(&Scene::of("access-log", "kills-access-log", Store::S3, 3), lines, &mut choices);
}

fn kill_often(scene: &Scene, kills: u64, choices: &mut Choices) {
    // Lanes at different epochs, and level for the last third: the same tables go through both.
    scene.paces([0, 2, 3, 4, 6]);
    let started = Instant::now();
    let traffic = scene.traffic(choices.below(1 << 32), RATE);
    let mut before_first_commit = 0;
    for kill in 1..=kills {
        let workers = 1 + choices.below(3);
        // A quarter of the kills during the start, the others anywhere in the first seconds.
        let ms = if choices.below(4) == 0 { choices.below(600) } else { 600 + choices.below(2600) };
        if kill == kills - kills / 3 {
            scene.paces([0; 5]);
        }
        let commits = scene.commits("counts");
        let mut job = scene.run(&["--workers", &workers.to_string()]);
        // A random moment; this does not wait for anything.
        thread::sleep(Duration::from_millis(ms));
        job.assert_alive();
        job.kill();
        before_first_commit += u64::from(scene.commits("counts") <= commits + 1);
        if kill % 5 == 0 && scene.commits("counts") > 0 {
            scene.check_counts();
        }
    }
    let sent = traffic.stop();
    let commits = scene.commits("counts");
    scene.drain(1 + choices.below(3) as usize);
    let checked = scene.check_all();
    assert_eq!(checked.rows, sent, "{}: rows of raw", scene.topic);
    eprintln!(
        "{}: {kills} kills ({before_first_commit} before the first commit of their run) in {:.0} s, {commits} commits of counts; {sent} records, {} \
         counted, each once; exact",
        scene.topic,
        started.elapsed().as_secs_f64(),
        checked.events,
    );
}
