//! A job over several processes of the real binary, on the embedded broker and a local folder: exact at any number of processes, and after
//! the loss of any process; ends that all processes share; connections that are refused, and strangers that do not disturb.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

mod support;

use support::processes::{PATIENCE, Place, Process, SECRET, eventually};

impl Place {
    /// The command of process `index`, one of as many as there are hosts, with further arguments.
    fn process(&self, index: usize, arguments: &[&str]) -> Command {
        let mut process = self.floodmark("run", "job.toml");
        self.one_of(self.hosts.len(), index, &mut process);
        if !arguments.contains(&"--workers") {
            process.args(["--workers", "2"]);
        }
        process.args(arguments);
        process
    }

    fn start(&self, arguments: &[&str]) -> Vec<Process> {
        (0..self.hosts.len()).map(|index| self.spawn(self.process(index, arguments))).collect()
    }

    /// Reads to the ends. Then all must be exact: `verify` recounts the archive, and each record is there once.
    fn drains_exact(&self) {
        for mut process in self.start(&["--drain"]) {
            process.expect_exit(0);
        }
        self.is_exact();
    }

    fn is_exact(&self) {
        let output = self.floodmark("verify", "job.toml").output().expect("the binary runs");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{}: {said}", output.status);
        assert_eq!(self.rows(), self.sent, "rows of raw");
    }

    fn rows(&self) -> u64 {
        self.raw().files.values().map(|file| file.rows).sum()
    }

    fn await_rows(&self, rows: u64, processes: &mut [Process]) {
        eventually(&format!("{rows} rows of raw"), || {
            for process in &mut *processes {
                let ended = process.child.try_wait().expect("our child");
                assert!(ended.is_none(), "it ended by itself: {ended:?}\n{}", process.said());
            }
            (self.rows() >= rows).then_some(())
        });
    }
}

/// Promise 2: the result is the same for any number of processes, one number after the other on the same tables.
#[test]
fn exact_at_any_number_of_processes() {
    for processes in [2, 4] {
        let mut place = Place::new(processes);
        place.send(20_000);
        place.drains_exact();
        place.send(5_000);
        // A single process again: nothing has to be converted.
        let alone =
            place.floodmark("run", "job.toml").args(["--drain", "--workers", "3"]).output().expect("the binary runs");
        assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
        place.is_exact();
    }
}

/// Promises 1 and 2: whichever process is killed, the others name it and end with 75; a start of all processes continues.
#[test]
fn the_loss_of_any_process_ends_all_and_a_start_goes_on() {
    let mut place = Place::new(3);
    for killed in [1, 0, 2] {
        let mut processes = place.start(&[]);
        place.send(4_000);
        place.await_rows(place.sent - 2_000, &mut processes);
        processes[killed].signal("KILL");
        let since = Instant::now();
        drop(processes.remove(killed));
        let name = format!("floodmark: process {killed} at {} is lost: ", place.hosts[killed]);
        for process in &mut processes {
            let said = process.expect_exit(75);
            assert!(said.starts_with(&name), "{said}");
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    }
    place.drains_exact();
}

/// A process that is frozen is also lost; when it wakes up, it notices that itself.
#[test]
fn a_frozen_process_is_lost() {
    let mut place = Place::new(3);
    let mut processes = place.start(&[]);
    place.send(2_000);
    place.await_rows(place.sent, &mut processes);
    place.loses_frozen(&mut processes, 1);
    place.drains_exact();
}

#[test]
fn a_signal_to_any_process_stops_all_in_order() {
    let mut place = Place::new(3);
    for asked in [2, 0] {
        let mut processes = place.start(&[]);
        place.send(3_000);
        place.await_rows(place.sent, &mut processes);
        processes[asked].signal("TERM");
        for process in &mut processes {
            process.expect_exit(0);
        }
        // All lanes were published, although this was not a drain.
        place.is_exact();
    }
}

#[test]
fn stray_connections_do_not_disturb() {
    let mut place = Place::new(2);
    place.send(1_000);
    let mut zero = place.spawn(place.process(0, &["--drain"]));
    let connect = || eventually("process 0 listens", || TcpStream::connect(&place.hosts[0]).ok());
    let silent: Vec<TcpStream> = (0..3).map(|_| connect()).collect();
    let mut half = connect();
    half.write_all(b"FLOODMRK\0\x01").expect("written");
    for text in [&b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xff; 100_000], b"\x16\x03\x01\x02\x00"] {
        let mut stray = connect();
        // The connection may be closed before everything is written.
        stray.write_all(text).ok();
        stray.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut answer = Vec::new();
        stray.read_to_end(&mut answer).ok();
        assert!(answer.is_empty(), "{answer:?}");
    }
    // A port scan, which connects and disconnects, with more connections at once than there are places.
    drop((0..200).map(|_| connect()).collect::<Vec<_>>());
    assert!(zero.child.try_wait().expect("our child").is_none(), "{}", zero.said());
    let mut one = place.spawn(place.process(1, &["--drain"]));
    one.expect_exit(0);
    zero.expect_exit(0);
    drop((silent, half));
    let said = zero.said();
    assert!(said.contains("stray connection closed"), "{said}");
    place.is_exact();
}

#[test]
fn another_secret_job_or_size_is_refused_on_both_sides() {
    let place = Place::new(2);
    let other = place.folder.path().join("other.toml");
    let text = fs::read_to_string(place.folder.path().join("job.toml")).expect("a job");
    fs::write(&other, text.replace("epoch_seconds = 1", "epoch_seconds = 2")).expect("written");
    let with = |change: &dyn Fn(&mut Command)| {
        let mut command = place.process(1, &["--wait-seconds", "30"]);
        change(&mut command);
        command
    };
    let mut of_other_job = Command::new(env!("CARGO_BIN_EXE_floodmark"));
    let right = with(&|_| ());
    of_other_job.args(["run", other.to_str().expect("a plain name")]).args(right.get_args().skip(2));
    for (name, value) in right.get_envs() {
        of_other_job.env(name, value.expect("set"));
    }
    let mut of_other_size = place.process(1, &["--workers", "3"]);
    of_other_size.env("FLOODMARK_LOG", "info");
    let of_other_secret = with(&|command| {
        command.env("FLOODMARK_CLUSTER_SECRET", "another secret, long");
    });
    for (command, says) in [
        (of_other_secret, ["the secrets differ", "the secrets differ"]),
        (
            of_other_job,
            [
                "[settings] and [lanes] of the job file: found fingerprint",
                "[settings] and [lanes] of the job file: found",
            ],
        ),
        (of_other_size, ["--workers: found 3, expected 2", "--workers: found 2, expected 3"]),
    ] {
        let mut zero = place.spawn(place.process(0, &["--wait-seconds", "6"]));
        let mut one = place.spawn(command);
        for (process, says) in [&mut zero, &mut one].into_iter().zip(says) {
            let said = process.expect_exit(78);
            assert!(said.contains(says), "{said}");
            assert!(!process.said().contains("secret, long") && !process.said().contains(SECRET));
        }
    }
    assert!(!place.folder.path().join("tables/raw").exists(), "nothing was fenced or made");
}

#[test]
fn a_missing_process_is_named_and_waited_for_with_a_limit() {
    let place = Place::new(3);
    let mut here: Vec<Process> = [0, 2].map(|index| place.spawn(place.process(index, &["--wait-seconds", "5"]))).into();
    for process in &mut here {
        process.awaits(&format!("waiting for process 1 at {}", place.hosts[1]));
        let said = process.expect_exit(75);
        // The other process may have given up before.
        let missing = format!("process 1 at {}", place.hosts[1]);
        assert!(said.contains("gave up waiting for process ") && said.contains(&missing), "{said}");
    }
    // Asked to stop while it waits, it stops.
    let mut zero = place.spawn(place.process(0, &[]));
    zero.awaits("waiting for process 1");
    zero.signal("TERM");
    zero.expect_exit(0);
    assert!(!place.folder.path().join("tables/raw").exists(), "only a complete cluster begins");
}

/// A process that leaves before all are there is forgotten, and may come again.
#[test]
fn who_goes_away_while_waiting_may_come_again() {
    let mut place = Place::new(3);
    place.send(1_000);
    let mut zero = place.spawn(place.process(0, &["--drain"]));
    let mut one = place.spawn(place.process(1, &["--drain"]));
    for process in [&zero, &one] {
        process.awaits("connected");
    }
    one.signal("KILL");
    one.child.wait().expect("our child");
    let mut one = place.spawn(place.process(1, &["--drain"]));
    one.awaits("connected");
    let mut two = place.spawn(place.process(2, &["--drain"]));
    for process in [&mut zero, &mut one, &mut two] {
        process.expect_exit(0);
    }
    place.is_exact();
}

/// The first process with an index keeps its place; the second one is refused, with the reason.
#[test]
fn an_index_is_taken_once() {
    let mut place = Place::new(3);
    place.send(1_000);
    let mut here: Vec<Process> = [0, 1].map(|index| place.spawn(place.process(index, &["--drain"]))).into();
    here.iter().for_each(|process| process.awaits("connected"));
    let mut again = place.spawn(place.process(1, &["--drain"]));
    let said = again.expect_exit(78);
    assert!(
        said.contains(&format!("process 0 at {} is already connected to another process 1", place.hosts[0])),
        "{said}"
    );
    here.push(place.spawn(place.process(2, &["--drain"])));
    for process in &mut here {
        process.expect_exit(0);
    }
    place.is_exact();
}

/// An index that is out of range, or a hostfile of another machine.
#[test]
fn a_process_that_can_not_listen_says_so() {
    let place = Place::new(2);
    let hostfile = place.folder.path().join("elsewhere");
    fs::write(&hostfile, format!("192.0.2.1:7000\n{}", place.hosts[1])).expect("written");
    let mut zero = place.process(0, &["--wait-seconds", "3"]);
    zero.env("FLOODMARK_HOSTFILE", &hostfile);
    let said = place.spawn(zero).expect_exit(78);
    assert!(
        said.contains("192.0.2.1:7000 (cannot listen there") && said.contains("not an address of this machine"),
        "{said}"
    );
}

/// What process 0 is refused is reported by all processes, and all end with the same exit code.
#[test]
fn a_refusal_of_process_0_is_everybodys() {
    let mut place = Place::new(3);
    place.send(1_000);
    place.drains_exact();
    let job = place.folder.path().join("job.toml");
    let text = fs::read_to_string(&job).expect("a job");
    fs::write(&job, text.replace("# buckets = 8", "buckets = 16")).expect("written");
    let mut processes = place.start(&[]);
    for (index, process) in processes.iter_mut().enumerate() {
        let said = process.expect_exit(78);
        assert!(said.contains("tables.buckets = 16, but the table was created with 8"), "{said}");
        assert_eq!(said.contains(&format!("process 0 at {}", place.hosts[0])), index > 0, "{said}");
    }
}

/// Promise 6: the job started later continues, here a single process; all processes of the other end with 76.
#[test]
fn a_rival_ends_all_with_76() {
    let mut place = Place::new(2);
    let mut processes = place.start(&[]);
    place.send(1_000);
    place.await_rows(place.sent, &mut processes);
    let mut alone = place.floodmark("run", "job.toml");
    alone.args(["--workers", "1"]);
    let alone = place.spawn(alone);
    alone.awaits("job started");
    place.send(1_000);
    for process in &mut processes {
        let said = process.expect_exit(76);
        assert!(said.contains("do not restart this one"), "{said}");
    }
    drop(alone);
    place.drains_exact();
}

/// A process that loses its connection to one other is treated as lost, even if both are well.
#[test]
fn a_broken_connection_between_two_ends_all() {
    let mut place = Place::new(3);
    place.send(1_000);
    // Process 2 reaches process 1 through a detour.
    let detour = TcpListener::bind("127.0.0.1:0").expect("a port");
    let hosts = [place.hosts[0].clone(), detour.local_addr().expect("bound").to_string(), place.hosts[2].clone()];
    let hostfile = place.folder.path().join("detour");
    fs::write(&hostfile, hosts.join("\n")).expect("written");
    let mut processes: Vec<Process> = [0, 1].map(|index| place.spawn(place.process(index, &[]))).into();
    let mut two = place.process(2, &[]);
    two.env("FLOODMARK_HOSTFILE", &hostfile);
    processes.push(place.spawn(two));
    let (near, _) = detour.accept().expect("process 2 connects");
    let far = eventually("process 1 listens", || TcpStream::connect(&place.hosts[1]).ok());
    let pump = |from: &TcpStream, to: &TcpStream| {
        let (mut from, mut to) = (from.try_clone().expect("cloned"), to.try_clone().expect("cloned"));
        thread::spawn(move || std::io::copy(&mut from, &mut to).ok());
    };
    pump(&near, &far);
    pump(&far, &near);
    place.await_rows(place.sent, &mut processes);
    for stream in [&near, &far] {
        stream.shutdown(Shutdown::Both).expect("connected");
    }
    for process in &mut processes {
        let said = process.expect_exit(75);
        assert!(said.contains("is lost: its data connection broke"), "{said}");
    }
    place.drains_exact();
}

#[test]
fn options_that_do_not_fit_are_said() {
    let place = Place::new(2);
    for (arguments, code, says) in [
        (vec!["--processes", "2"], 2, "--processes 2 needs --process-index, from 0 to 1"),
        (vec!["--processes", "2", "--process-index", "2"], 2, "found 2, expected 0 to 1"),
        (vec!["--processes", "2", "--process-index", "1"], 2, "needs --hostfile"),
        (vec!["--process-index", "1"], 2, "give their number with --processes"),
        (vec!["--processes", "2", "--process-index", "1", "--hostfile", "/no/such"], 78, "--hostfile /no/such"),
    ] {
        let output = place.floodmark("run", "job.toml").args(&arguments).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(says), "{said}");
    }
}
