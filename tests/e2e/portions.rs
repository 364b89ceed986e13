//! A start with a smaller budget than before: what lanes lack is fed and published in portions, while Kafka waits. Meanwhile the job is
//! killed and stopped in order, with one process and with two. `FLOODMARK_PORTION_KILLS` sets how often each is killed (2);
//! `FLOODMARK_SEED` repeats the choices of a run.

use std::thread;
use std::time::{Duration, Instant};

use floodmark::table::raw;

use super::cluster::{ARGUMENTS, expect_loss, start, stop};
use super::job::{Job, PATIENCE, Scene, Store};
use super::kills::{Choices, rounds};
use super::servers::eventually;
use super::traffic::Traffic;

/// Records that only the minute lane has absorbed when the feeding begins.
const RECORDS: u64 = 20_000;

/// Records that arrive meanwhile.
const MEANWHILE: u64 = 1_000;

/// Waits until this start has published a portion and is publishing the next one.
fn await_portions(scene: &Scene, job: &mut Job) {
    eventually(&format!("portions of {}", scene.topic), PATIENCE, || {
        waits_for_archive(job);
        (job.log().matches("publishing what was fed from the archive").count() >= 2).then_some(())
    });
}

/// Checks that it runs, and still feeds the archive in portions, so that Kafka is not read yet.
fn waits_for_archive(job: &mut Job) {
    job.assert_alive();
    assert!(!job.log().contains("fits into the budget"), "too little was left to be fed\n{}", job.tail());
}

#[test]
#[ignore = "e2e: real Kafka and S3"]
fn archive_fed_in_portions() {
    let (kills, mut choices) = rounds("archive_fed_in_portions", "FLOODMARK_PORTION_KILLS", 2);
    for processes in [1, 2] {
        let scene = Scene::new(&format!("portions-{processes}"), Store::S3, 4);
        feed_in_portions(&scene, processes, kills, &mut choices);
    }
}

fn feed_in_portions(scene: &Scene, processes: usize, kills: u64, choices: &mut Choices) {
    let started = Instant::now();
    // Small epochs, so that there are many portions; and a stop has time to feed all that is left of them.
    scene.edit("epoch_bytes = 262144\n", "epoch_bytes = 65536\nshutdown_grace_seconds = 60\n");
    scene.paces([0, 3600, 3600, 3600, 3600]);
    // Many customers, so that records hardly share cells.
    Traffic::start_for(scene, choices.below(1 << 32), 20_000, 0.0, RECORDS).finish();
    let mut job = scene.run(&["--workers", "2"]);
    eventually("all is archived", PATIENCE, || {
        job.assert_alive();
        (scene.newest_txn("raw", raw::ROWS) == RECORDS as i64).then_some(())
    });
    job.kill();
    assert_eq!(scene.check_counts().lanes["coarse"], 0);

    scene.edit("[settings]\n", "[settings]\npending_bytes_max = 1048576\n");
    scene.send(choices.below(1 << 32), MEANWHILE);
    let mut fed_up_to = 0;
    for _ in 0..kills {
        let mut jobs = start(scene, processes, &ARGUMENTS);
        await_portions(scene, &mut jobs[0]);
        // A random moment; this does not wait for anything.
        thread::sleep(Duration::from_millis(choices.below(150)));
        waits_for_archive(&mut jobs[0]);
        let mut killed = jobs.remove(choices.below(processes as u64) as usize);
        killed.kill();
        jobs.iter_mut().for_each(|job| drop(expect_loss(job)));
        let checked = scene.check_counts();
        let coarse = checked.lanes["coarse"];
        assert!((fed_up_to + 1..checked.epoch).contains(&coarse), "after {fed_up_to}: {checked:?}");
        assert_eq!(checked.rows, RECORDS, "Kafka waits");
        fed_up_to = coarse;
    }

    let mut jobs = start(scene, processes, &ARGUMENTS);
    await_portions(scene, &mut jobs[0]);
    stop(jobs, choices);
    let checked = scene.check_counts();
    checked.assert_level(scene);

    for mut job in start(scene, processes, &["--workers", "1", "--drain"]) {
        job.expect_exit(0);
    }
    let checked = scene.check_all();
    assert_eq!(checked.rows, RECORDS + MEANWHILE, "{}: rows of raw", scene.topic);
    eprintln!(
        "{}: {kills} kills and a stop amid portions in {:.0} s; exact",
        scene.topic,
        started.elapsed().as_secs_f64()
    );
}
