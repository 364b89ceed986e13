//! A job over several processes: who they are, how they find each other, what ends them.
//!
//! ```text
//! options ─► gather (hello for each connection) ─► all are here ─► each: able to start ─► 0: fences, reads ─► all: start
//!                │ one socket a pair                                                                       │
//!                └─────────────────────────► timely's network ◄────────────────────────────────────────────┘
//! watch: one control connection from process 0 to each other, from here to the end
//! ```
//!
//! State: none beyond the connections; one process that is lost ends all, and a start of all goes on from the tables. Only
//! membership is proved; what is exchanged afterwards is neither encrypted nor signed.

mod gather;
mod hello;
mod options;
mod watch;

use std::any::Any;
use std::hash::{BuildHasher, Hash};
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use timely::communication::Hooks;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};

use crate::job::Job;
use hello::Card;
pub use options::{ClusterArgs, Membership, Secret};
pub use watch::End;
use watch::{Ended, Heard, Watch};

/// What keeps a process from its place among others, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Options do not fit together.
    #[error("{0}")]
    Usage(String),
    /// The user must change something: hostfile, secret, processes that are not of one job.
    #[error("{0}")]
    Invalid(String),
    /// It may pass: start again.
    #[error("{0}")]
    Retry(String),
    /// Asked to stop before all were there; nothing was begun.
    #[error("stopped while waiting for the other processes; nothing was begun")]
    Stopped,
    /// All processes end.
    #[error("{}", .0.what)]
    Ended(End),
}

impl ClusterError {
    /// The process' exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            ClusterError::Usage(_) => 2,
            ClusterError::Invalid(_) => 78,
            ClusterError::Retry(_) => 75,
            ClusterError::Stopped => 0,
            ClusterError::Ended(end) => end.code,
        }
    }
}

/// What timely runs a process' workers on.
pub type Network = (Vec<AllocatorBuilder>, Box<dyn Any + Send>);

/// A process among others, all of which are here.
pub struct Member {
    membership: Membership,
    workers: usize,
    sockets: Vec<Option<TcpStream>>,
    ended: Ended,
    watch: Watch,
}

impl Member {
    /// Waits for all processes of a job. `stops`: asked to stop while waiting; `on_stop`: another process was asked to.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn join(
        membership: Membership,
        job: &Job,
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
        };
        tracing::info!(
            process = membership.index,
            processes,
            listens = membership.hosts[membership.index],
            "gathering"
        );
        let ended = Ended::default();
        let names = (0..processes).map(|peer| name(&membership, peer)).collect();
        let start = |streams| Watch::start(membership.index, names, streams, ended.clone(), on_stop);
        let (sockets, watch) = gather::gather(&membership, card, ended.clone(), stops, start)?;
        Ok(Member { membership, workers, sockets, ended, watch })
    }

    /// Its index; process 0 leads.
    pub fn index(&self) -> usize {
        self.membership.index
    }

    /// How many they are.
    pub fn processes(&self) -> usize {
        self.membership.hosts.len()
    }

    /// This process is able to start; process 0 returns when all are.
    ///
    /// # Errors
    /// [`ClusterError::Ended`].
    pub fn ready(&self) -> Result<(), ClusterError> {
        if self.index() > 0 {
            self.watch.ready();
            return Ok(());
        }
        let mut waiting: Vec<usize> = (1..self.processes()).collect();
        while !waiting.is_empty() {
            match self.watch.hear() {
                Heard::Ready(peer) => waiting.retain(|waiting| *waiting != peer),
                Heard::End => return Err(self.end_heard()),
                Heard::Begin(_) | Heard::Start(_) => {}
            }
        }
        Ok(())
    }

    /// Process 0 tells all others what it has read.
    pub fn hand_out(&self, bytes: Vec<u8>) {
        self.watch.hand_out(bytes);
    }

    /// Waits for what process 0 has read.
    ///
    /// # Errors
    /// [`ClusterError::Ended`].
    pub fn receive(&self) -> Result<Vec<u8>, ClusterError> {
        loop {
            match self.watch.hear() {
                Heard::Start(bytes) => return Ok(bytes),
                Heard::End => return Err(self.end_heard()),
                Heard::Begin(_) | Heard::Ready(_) => {}
            }
        }
    }

    fn end_heard(&self) -> ClusterError {
        let nameless = || End { code: 75, what: "the control connections are gone".to_owned() };
        ClusterError::Ended(self.ended.get().unwrap_or_else(nameless))
    }

    /// Gives the sockets to timely. From here on the panics of its threads are the loss of a process: the flag says that there was one.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn network(&mut self) -> Result<(Network, Arc<AtomicBool>), ClusterError> {
        let down = self.watch.take_network_panics();
        let hooks = Hooks::default();
        let locals = ProcessBuilder::new_typed_vector(self.workers, hooks.refill.clone(), hooks.spill.clone());
        let sockets = std::mem::take(&mut self.sockets);
        let (builders, guard) = initialize_networking_from_sockets(locals, sockets, self.index(), self.workers, hooks)
            .map_err(|error| ClusterError::Retry(format!("the network between the processes: {error}")))?;
        Ok(((builders.into_iter().map(AllocatorBuilder::Tcp).collect(), Box::new(guard)), down))
    }

    /// Returns when all processes end.
    pub async fn ended(&self) -> End {
        self.ended.wait().await
    }

    /// Asks process 0 to end the job in order.
    pub fn ask_to_stop(&self) {
        self.watch.ask_to_stop();
    }

    /// This process ends, and all others with it. The first end is everybody's.
    pub fn end(&self, code: u8, what: &str) {
        let what = if code == 0 { String::new() } else { format!("{}: {what}", name(&self.membership, self.index())) };
        self.watch.end(End { code, what });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name(membership: &Membership, index: usize) -> String {
    format!("process {index} at {}", membership.hosts[index])
}

/// What must agree between processes of a job, part by part. Properties and options may differ by host, and hold secrets.
fn fingerprints(job: &Job) -> Vec<(String, u64)> {
    fn of(value: &impl Hash) -> u64 {
        foldhash::quality::FixedState::default().hash_one(value)
    }
    let parts = [
        ("name", of(&job.name)),
        ("[source]", of(&format!("{:?} {:?}", job.source.topics, job.source.start))),
        ("[tables]", of(&(&job.tables.url, job.tables.buckets))),
        ("the logic", of(&crate::ledger::Fingerprint::of(&job.logic).to_txn())),
        ("[settings] and [lanes]", of(&format!("{:?}", job.settings))),
    ];
    parts.map(|(part, fingerprint)| (part.to_owned(), fingerprint)).to_vec()
}
