//! A job, or a replay, over several processes: who they are, how they find each other, what ends them.
//!
//! ```text
//! options ─► gather (hello for each connection) ─► all are here ─► each: able to start ─► 0: fences, reads ─► all: start
//!                │ one socket a pair                                                                       │
//!                └─────────────────────────► timely's network ◄────────────────────────────────────────────┘
//! watch: one control connection from process 0 to each other, from here to the end
//! ```
//!
//! State: only the connections. Failure: if one process is lost, all end; when all are started again, they go on from the tables.
//! Only membership is proved; what is exchanged afterwards is neither encrypted nor signed.

mod error;
mod gather;
mod hello;
mod options;
mod watch;

use std::any::Any;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash};
use std::net::TcpStream;
use std::sync::Mutex;

use serde::Serialize;
use serde::de::DeserializeOwned;
use timely::communication::Hooks;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::worker::Worker;
use tokio::sync::oneshot;

use crate::job::Job;
use crate::process::{Exit, lock};
pub use error::ClusterError;
use hello::Card;
pub use options::{ClusterArgs, Membership, Secret};
pub use watch::End;
use watch::{Ended, Heard, Watch};

/// The communication on which timely runs a process' workers.
pub type Network = (Vec<AllocatorBuilder>, Box<dyn Any + Send>);

/// This process as a member of the job; all others are here.
pub struct Member {
    membership: Membership,
    workers: usize,
    sockets: Mutex<Vec<Option<TcpStream>>>,
    ended: Ended,
    watch: Watch,
}

impl Member {
    /// Waits for all processes of a job, or of the replay with this fingerprint. `stops` says whether this process was asked to
    /// stop while it waits; `on_stop` is called when another process was asked to.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn join(
        membership: Membership,
        job: &Job,
        replay: Option<u64>,
        workers: usize,
        stops: &dyn Fn() -> bool,
        on_stop: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Member, ClusterError> {
        let processes = membership.hosts.len();
        let card = Card {
            index: membership.index,
            run: rand::random(),
            build: env!("FLOODMARK_BUILD").to_owned(),
            processes,
            workers,
            job: fingerprints(job),
            replay,
        };
        tracing::info!(
            process = membership.index,
            processes,
            listens = membership.hosts[membership.index],
            "gathering"
        );
        let ended = Ended::default();
        let names = (0..processes).map(|peer| membership.name_of(peer)).collect();
        let start = |streams| Watch::start(membership.index, names, streams, ended.clone(), on_stop);
        let (sockets, watch) = gather::gather(&membership, card, ended.clone(), stops, start)?;
        Ok(Member { membership, workers, sockets: Mutex::new(sockets), ended, watch })
    }

    /// Its index; process 0 leads.
    pub fn index(&self) -> usize {
        self.membership.index
    }

    /// The number of processes.
    pub fn processes(&self) -> usize {
        self.membership.hosts.len()
    }

    /// Reports that this process is able to start; in process 0, waits until all others are.
    ///
    /// # Errors
    /// [`ClusterError::Ended`].
    pub fn ready(&self) -> Result<(), ClusterError> {
        if self.index() > 0 { self.tell(&()) } else { self.told::<()>().map(drop) }
    }

    /// Sends something to process 0, once between two things that process 0 hands out.
    ///
    /// # Errors
    /// [`ClusterError::Bug`].
    pub fn tell(&self, what: &impl Serialize) -> Result<(), ClusterError> {
        self.watch.tell(encode(what)?);
        Ok(())
    }

    /// Process 0 waits until all others have sent it something. Returns that, by index.
    ///
    /// # Errors
    /// [`ClusterError::Ended`].
    pub fn told<T: DeserializeOwned>(&self) -> Result<Vec<T>, ClusterError> {
        let mut told = BTreeMap::new();
        while told.len() + 1 < self.processes() {
            match self.watch.hear() {
                Heard::Told(peer, bytes) => drop(told.insert(peer, decode(&bytes)?)),
                Heard::End => return Err(self.end_heard()),
                Heard::Begin(_) | Heard::Handed(_) => {}
            }
        }
        Ok(told.into_values().collect())
    }

    /// Process 0 hands all others what they need next.
    ///
    /// # Errors
    /// [`ClusterError::Bug`].
    pub fn hand_out(&self, what: &impl Serialize) -> Result<(), ClusterError> {
        let bytes = encode(what)?;
        tracing::debug!(bytes = bytes.len(), "sent to the other processes");
        self.watch.hand_out(bytes);
        Ok(())
    }

    /// Waits for what process 0 hands out.
    ///
    /// # Errors
    /// [`ClusterError::Ended`].
    pub fn receive<T: DeserializeOwned>(&self) -> Result<T, ClusterError> {
        loop {
            match self.watch.hear() {
                Heard::Handed(bytes) => return decode(&bytes),
                Heard::End => return Err(self.end_heard()),
                Heard::Begin(_) | Heard::Told(..) => {}
            }
        }
    }

    fn end_heard(&self) -> ClusterError {
        let nameless = || End { exit: Exit::TryAgain, what: "the control connections have closed".to_owned() };
        ClusterError::Ended(self.ended.get().unwrap_or_else(nameless))
    }

    /// Gives the sockets to timely. From now on, a panic of one of its threads is the loss of a process.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn network(&self) -> Result<Network, ClusterError> {
        self.watch.take_network_panics();
        let hooks = Hooks::default();
        let locals = ProcessBuilder::new_typed_vector(self.workers, hooks.refill.clone(), hooks.spill.clone());
        let sockets = std::mem::take(&mut *lock(&self.sockets));
        let (builders, guard) = initialize_networking_from_sockets(locals, sockets, self.index(), self.workers, hooks)
            .map_err(|error| {
                ClusterError::Retry(format!("could not start the network between the processes: {error}; start again"))
            })?;
        Ok((builders.into_iter().map(AllocatorBuilder::Tcp).collect(), Box::new(guard)))
    }

    /// Returns when all processes end.
    pub async fn ended(&self) -> End {
        self.ended.wait().await
    }

    /// Runs `work` until it is done, or all processes end.
    ///
    /// # Errors
    /// Those of the work; [`ClusterError::Ended`].
    pub async fn unless_ended<T, E: From<ClusterError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::select! {
            biased;
            done = work => done,
            end = self.ended() => Err(ClusterError::Ended(end).into()),
        }
    }

    /// Asks process 0 to end the job in order.
    pub fn ask_to_stop(&self) {
        self.watch.ask_to_stop();
    }

    /// Ends this process, and all others with it. The first end applies to all.
    pub fn end(&self, exit: Exit, what: &str) {
        let what = match exit {
            Exit::Done => String::new(),
            _ => format!("{}: {what}", self.membership.name_of(self.index())),
        };
        self.watch.end(End { exit, what });
    }
}

/// The [`Network`] of a process without others.
///
/// # Errors
/// What the system says.
pub fn alone(workers: usize) -> Result<Network, String> {
    timely::Config::process(workers).communication.try_build()
}

/// Runs workers on a network. What it returns resolves when they, and the network's threads, have ended.
///
/// # Errors
/// The system gives no threads; what it says.
pub fn execute_in(
    (builders, others): Network,
    run: impl Fn(&mut Worker) + Send + Sync + 'static,
) -> Result<oneshot::Receiver<()>, String> {
    let guards = timely::execute::execute_from(builders, others, timely::WorkerConfig::default(), run)?;
    let (sender, joined) = oneshot::channel();
    std::thread::spawn(move || {
        for worker in guards.join() {
            if let Err(what) = worker {
                tracing::error!(what, "a worker panicked");
            }
        }
        // Nobody may be waiting any more.
        sender.send(()).ok();
    });
    Ok(joined)
}

fn encode(what: &impl Serialize) -> Result<Vec<u8>, ClusterError> {
    bincode::serialize(what)
        .map_err(|error| ClusterError::Bug(format!("a message to other processes cannot be encoded: {error}")))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ClusterError> {
    bincode::deserialize(bytes)
        .map_err(|error| ClusterError::Bug(format!("a message from another process cannot be decoded: {error}")))
}

/// A hash that distinguishes values, the same in all processes of a build.
pub fn fingerprint(value: &impl Hash) -> u64 {
    foldhash::quality::FixedState::default().hash_one(value)
}

/// What must agree between processes of a job, part by part. Properties and options may differ by host, and hold secrets.
fn fingerprints(job: &Job) -> Vec<(String, u64)> {
    let parts = [
        ("name", fingerprint(&job.name)),
        ("[source]", fingerprint(&format!("{:?} {:?}", job.source.topics, job.source.start))),
        ("[tables]", fingerprint(&(&job.tables.url, job.tables.buckets))),
        ("the logic", fingerprint(&crate::ledger::Fingerprint::of(&job.logic).to_txn())),
        ("[settings] and [lanes]", fingerprint(&format!("{:?}", job.settings))),
    ];
    parts.map(|(part, fingerprint)| (part.to_owned(), fingerprint)).to_vec()
}
