//! Gathers the processes of a job: each listens, and connects to all with a lower index, until each is connected to all others.
//!
//! In: the membership and the card of this process. Out: the control connections, watched; and for each other process the one
//! socket that timely takes. Process 0 says when all are here, and which start of each process takes part. State: one seat for each
//! connection that is needed; at most [`HANDSHAKES_MAX`] handshakes at once, each bounded in time and bytes, so a stray connection
//! costs a thread for seconds at most. Failure: a process that goes away before all are here is forgotten and waited for again;
//! when the time is up, the error names those that are missing.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use super::error::ClusterError;
use super::hello::{self, Card, HelloError, Purpose, Verdict};
use super::options::Membership;
use super::watch::{End, Ended, Heard, SILENCE_MAX, Watch};
use crate::process::panics::caught_in;
use crate::process::{Exit, lock};

/// Why a process can not listen at its own address. It may pass, if a name service is behind.
const NO_ADDRESS: &str = "that is not an address of this machine: correct the hostfile or --process-index";

/// The most handshakes at once. Further connections are closed; a member tries again.
const HANDSHAKES_MAX: usize = 64;

const RETRY: Duration = Duration::from_millis(100);
const LISTEN_AGAIN: Duration = Duration::from_secs(1);
const CONNECT_MAX: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a seat may be taken by a connection that may be dead: a host that is gone is noticed within this time.
const TAKEN_MAX: Duration = Duration::from_secs(15);

/// After what time the missing processes are first logged, and how often after that.
const SAY_FIRST: Duration = Duration::from_secs(2);
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// How long it may take to be complete here, once process 0 has said that all are here.
const BEGUN_MAX: Duration = Duration::from_secs(15);

struct Joined {
    stream: TcpStream,
    run: u64,
}

/// Where this process listens, and when that was tried last.
#[derive(Default)]
struct Door {
    listener: Option<TcpListener>,
    tried: Option<Instant>,
}

/// A connection that is needed.
enum Seat {
    Empty,
    Here(Joined),
    /// It is in use.
    HandedOn,
}

impl Seat {
    /// Whether a process may take it: it is empty, or taken by the same start of that process, or its connection is dead.
    fn is_free(&self, theirs: &Card) -> bool {
        match self {
            Seat::Empty => true,
            Seat::Here(joined) => joined.run == theirs.run || !is_alive(&joined.stream),
            Seat::HandedOn => false,
        }
    }
}

type Key = (usize, bool);

fn key(peer: usize, purpose: Purpose) -> Key {
    (peer, purpose == Purpose::Control)
}

struct Gathering {
    membership: Membership,
    card: Card,
    ended: Ended,
    /// The connections that are needed, by index of the peer; `true` is for control.
    seats: Mutex<BTreeMap<Key, Seat>>,
    /// By index: why there is no connection yet.
    trouble: Mutex<BTreeMap<usize, String>>,
    /// What another start does not solve: a process that speaks our protocol and is not of this job, or an address that is not
    /// ours.
    refused: Mutex<Option<String>>,
    handshakes: AtomicUsize,
    stray_said: AtomicBool,
    done: AtomicBool,
}

/// Ends the threads that connect, when it is dropped.
struct Done(Arc<Gathering>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Release);
    }
}

/// Returns when all are here: the sockets for timely, by index, and the control connections.
///
/// # Errors
/// [`ClusterError`]; [`ClusterError::Stopped`] when `stops` says so before all are here.
pub(super) fn gather(
    membership: &Membership,
    card: Card,
    ended: Ended,
    stops: &dyn Fn() -> bool,
    watch: impl FnOnce(Vec<Option<TcpStream>>) -> io::Result<Watch>,
) -> Result<(Vec<Option<TcpStream>>, Watch), ClusterError> {
    let gathering = Arc::new(Gathering::new(membership, card, ended));
    let _done = Done(Arc::clone(&gathering));
    for peer in 0..membership.index {
        let purposes = if peer == 0 { vec![Purpose::Control, Purpose::Data] } else { vec![Purpose::Data] };
        for purpose in purposes {
            let gathering = Arc::clone(&gathering);
            let call = move || {
                let name = |index| gathering.membership.name_of(index);
                if let Err(panic) = caught_in(&format!("calling {}", name(peer)), || gathering.call(peer, purpose)) {
                    gathering.ended.set(End::panicked(&name(gathering.membership.index), &panic));
                }
            };
            thread::Builder::new().name(format!("call-{peer}")).spawn(call).map_err(no_thread)?;
        }
    }
    gathering.wait(stops, watch)
}

fn no_thread(error: io::Error) -> ClusterError {
    ClusterError::Retry(format!(
        "the system could not start a thread: {error}; raise the process limit, then start again"
    ))
}

impl Gathering {
    fn new(membership: &Membership, card: Card, ended: Ended) -> Gathering {
        let (index, processes) = (membership.index, membership.hosts.len());
        let others = (0..processes).filter(|peer| *peer != index);
        let keys = others.flat_map(|peer| {
            let control = index == 0 || peer == 0;
            [Some((peer, false)), control.then_some((peer, true))].into_iter().flatten()
        });
        Gathering {
            membership: membership.clone(),
            card,
            ended,
            seats: Mutex::new(keys.map(|key| (key, Seat::Empty)).collect()),
            trouble: Mutex::default(),
            refused: Mutex::default(),
            handshakes: AtomicUsize::new(0),
            stray_said: AtomicBool::new(false),
            done: AtomicBool::new(false),
        }
    }

    fn wait(
        self: &Arc<Self>,
        stops: &dyn Fn() -> bool,
        watch: impl FnOnce(Vec<Option<TcpStream>>) -> io::Result<Watch>,
    ) -> Result<(Vec<Option<TcpStream>>, Watch), ClusterError> {
        let (started, mut say_at) = (Instant::now(), SAY_FIRST);
        let (index, limit) = (self.membership.index, self.membership.wait);
        let mut door = Door::default();
        let mut make_watch = Some(watch);
        let mut watch: Option<(Watch, Instant)> = None;
        let mut begun: Option<Vec<u64>> = None;
        loop {
            self.listen(&mut door);
            if let Some(end) = self.ended.get() {
                return Err(ClusterError::Ended(end));
            }
            if stops() && watch.is_none() {
                return Err(ClusterError::Stopped);
            }
            let missing = self.missing();
            let ready = if index == 0 { missing.is_empty() } else { self.is_spoken_to() };
            if ready && let Some(make) = make_watch.take() {
                let runs = self.runs();
                let made = make(self.take(true)).map_err(no_thread)?;
                if index == 0 {
                    made.begin(runs);
                    return Ok((self.take(false), made));
                }
                watch = Some((made, Instant::now()));
            }
            let heard = watch.as_ref().and_then(|(watch, _)| watch.heard_now());
            if let Some(Heard::Begin(runs)) = heard {
                begun = Some(runs);
            }
            // A process that was started again meanwhile connects again.
            let is_whole = |runs: &Vec<u64>| missing.is_empty() && *runs == self.runs();
            if begun.as_ref().is_some_and(is_whole)
                && let Some((watch, _)) = watch.take()
            {
                return Ok((self.take(false), watch));
            }
            let late = watch.as_ref().is_some_and(|(_, since)| since.elapsed() > BEGUN_MAX);
            let waited = started.elapsed();
            if late || waited >= limit {
                return Err(self.give_up(&missing, waited));
            }
            if waited >= say_at {
                say_at = waited + SAY_AGAIN;
                tracing::info!("{}, {} s so far", self.waiting(&missing), waited.as_secs());
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Accepts the connections that have come; each is answered on a thread of its own. The last process needs none.
    fn listen(self: &Arc<Self>, door: &mut Door) {
        let index = self.membership.index;
        if door.listener.is_none() && door.tried.is_none_or(|tried| tried.elapsed() >= LISTEN_AGAIN) {
            door.tried = Some(Instant::now());
            let bound = TcpListener::bind(&self.membership.hosts[index]);
            match bound.and_then(|listener| listener.set_nonblocking(true).map(|()| listener)) {
                Ok(listener) => {
                    lock(&self.trouble).remove(&index);
                    lock(&self.refused).take_if(|what| what == NO_ADDRESS);
                    door.listener = Some(listener);
                }
                Err(error) => {
                    if error.kind() == io::ErrorKind::AddrNotAvailable {
                        *lock(&self.refused) = Some(NO_ADDRESS.to_owned());
                    }
                    lock(&self.trouble).insert(index, format!("cannot listen there: {error}"));
                }
            }
        }
        let Some(accepting) = &door.listener else { return };
        while let Ok((stream, from)) = accepting.accept() {
            if self.handshakes.load(Ordering::Acquire) >= HANDSHAKES_MAX {
                tracing::debug!(%from, "too many connections at once; connection closed");
                continue;
            }
            self.handshakes.fetch_add(1, Ordering::AcqRel);
            let gathering = Arc::clone(self);
            let hear = move || {
                // No connection may end the job; a member tries again.
                if let Err(panic) = caught_in("answering a connection", || gathering.answer(stream, from)) {
                    tracing::error!(%from, "{panic}; the connection is closed");
                }
                gathering.handshakes.fetch_sub(1, Ordering::AcqRel);
            };
            if let Err(error) = thread::Builder::new().name("answer".to_owned()).spawn(hear) {
                self.handshakes.fetch_sub(1, Ordering::AcqRel);
                tracing::warn!(%error, "could not start a thread to answer a connection");
            }
        }
    }

    fn answer(&self, stream: TcpStream, from: SocketAddr) {
        let decide = |purpose, theirs: &Card| self.decide(purpose, theirs);
        let heard = hello::accept(&stream, &self.membership.secret, rand::random(), &self.card, decide);
        match heard {
            Ok((Verdict::Welcome, purpose, theirs)) => self.join(stream, purpose, &theirs),
            Ok((Verdict::Taken, _, theirs)) => {
                let process = theirs.index;
                tracing::info!(%from, process, "another process with this index is connected; this one waits");
            }
            Ok((Verdict::Differs, _, theirs)) => self.differs(&theirs, &from.to_string()),
            Err(HelloError::Refused(why)) => {
                let mut refused = lock(&self.refused);
                if refused.is_none() {
                    tracing::warn!(%from, "connection refused: {why}");
                }
                *refused = Some(format!("a process at {from} was refused: {why}"));
            }
            Err(HelloError::Stray(why) | HelloError::Broken(why)) => {
                if self.stray_said.swap(true, Ordering::Relaxed) {
                    tracing::debug!(%from, why, "stray connection");
                } else {
                    tracing::info!(%from, why, "stray connection closed; further ones are logged only at debug");
                }
            }
        }
    }

    fn decide(&self, purpose: Purpose, theirs: &Card) -> Verdict {
        if self.card.differences(theirs).is_some() {
            return Verdict::Differs;
        }
        match lock(&self.seats).get(&key(theirs.index, purpose)) {
            Some(seat) if seat.is_free(theirs) => Verdict::Welcome,
            // Or a wrong hostfile has led it here, which it sees from our card.
            _ => Verdict::Taken,
        }
    }

    fn join(&self, stream: TcpStream, purpose: Purpose, theirs: &Card) {
        if let Err(error) = tune(&stream) {
            tracing::warn!(%error, process = theirs.index, "could not set up a connection");
            return;
        }
        let mut seats = lock(&self.seats);
        let Some(seat) = seats.get_mut(&key(theirs.index, purpose)) else { return };
        if seat.is_free(theirs) {
            tracing::debug!(process = theirs.index, ?purpose, "connected");
            *seat = Seat::Here(Joined { stream, run: theirs.run });
        }
    }

    fn differs(&self, theirs: &Card, place: &str) {
        if let Some(what) = self.card.differences(theirs) {
            let what = format!("process {} at {place} belongs to another job or build: {what}", theirs.index);
            self.ended.set(End { exit: Exit::Configuration, what });
        }
    }

    /// Connects to a process with a lower index, and again when that goes away.
    fn call(&self, peer: usize, purpose: Purpose) {
        let mut taken: Option<Instant> = None;
        while !self.done.load(Ordering::Acquire) && self.ended.get().is_none() {
            if matches!(lock(&self.seats).get(&key(peer, purpose)), Some(Seat::Empty)) {
                let said = self.call_once(peer, purpose);
                match said {
                    Ok(Verdict::Taken) => {
                        let since = *taken.get_or_insert_with(Instant::now);
                        lock(&self.trouble)
                            .insert(peer, "another process with our index is connected there".to_owned());
                        if since.elapsed() > TAKEN_MAX {
                            let (ours, theirs) = (self.membership.index, self.membership.name_of(peer));
                            let what = format!(
                                "{theirs} is already connected to another process {ours}: two processes were started \
                                 with --process-index {ours}"
                            );
                            self.ended.set(End { exit: Exit::Configuration, what });
                        }
                    }
                    Ok(_) => taken = None,
                    Err(HelloError::Refused(why)) => {
                        let what = format!("cannot connect to {}: {why}", self.membership.name_of(peer));
                        self.ended.set(End { exit: Exit::Configuration, what });
                    }
                    Err(HelloError::Stray(why) | HelloError::Broken(why)) => {
                        lock(&self.trouble).insert(peer, why);
                    }
                }
            }
            thread::sleep(RETRY);
        }
    }

    fn call_once(&self, peer: usize, purpose: Purpose) -> Result<Verdict, HelloError> {
        let stream = connect(&self.membership.hosts[peer])?;
        let (verdict, theirs) = hello::connect(&stream, &self.membership.secret, rand::random(), purpose, &self.card)?;
        if theirs.index != peer {
            return Err(HelloError::Refused(format!(
                "found process {} there, expected process {peer}; compare the hostfiles",
                theirs.index
            )));
        }
        match verdict {
            Verdict::Welcome => {
                lock(&self.trouble).remove(&peer);
                self.join(stream, purpose, &theirs);
            }
            Verdict::Taken => {}
            Verdict::Differs => self.differs(&theirs, &self.membership.hosts[peer]),
        }
        Ok(verdict)
    }

    /// The processes to which a connection is missing. Forgets those that went away.
    fn missing(&self) -> Vec<usize> {
        let mut missing = Vec::new();
        for ((peer, _), seat) in lock(&self.seats).iter_mut() {
            if let Seat::Here(joined) = seat
                && !is_alive(&joined.stream)
            {
                *seat = Seat::Empty;
            }
            if matches!(seat, Seat::Empty) {
                missing.push(*peer);
            }
        }
        missing.dedup();
        missing
    }

    /// Whether process 0 has sent something.
    fn is_spoken_to(&self) -> bool {
        match lock(&self.seats).get(&(0, true)) {
            Some(Seat::Here(joined)) => looks(&joined.stream).is_ok_and(|bytes| bytes > 0),
            _ => false,
        }
    }

    /// The start of each process, by index; 0 for one that is not here.
    fn runs(&self) -> Vec<u64> {
        let seats = lock(&self.seats);
        let run = |peer| match seats.get(&(peer, false)) {
            Some(Seat::Here(joined)) => joined.run,
            _ if peer == self.card.index => self.card.run,
            _ => 0,
        };
        (0..self.card.processes).map(run).collect()
    }

    fn take(&self, control: bool) -> Vec<Option<TcpStream>> {
        let mut seats = lock(&self.seats);
        let mut take = |peer| match std::mem::replace(seats.get_mut(&(peer, control))?, Seat::HandedOn) {
            Seat::Here(joined) => Some(joined.stream),
            _ => None,
        };
        (0..self.card.processes).map(&mut take).collect()
    }

    fn waiting(&self, missing: &[usize]) -> String {
        const NAMED: usize = 3;
        let trouble = lock(&self.trouble);
        let why = |peer: &usize| trouble.get(peer).map_or_else(String::new, |why| format!(" ({why})"));
        let own = trouble.contains_key(&self.card.index).then_some(self.card.index);
        let mut whom: Vec<String> =
            own.iter().chain(missing).take(NAMED).map(|peer| self.membership.name_of(*peer) + &why(peer)).collect();
        if missing.len() > NAMED {
            whom.push(format!("{} more", missing.len() - NAMED));
        }
        if whom.is_empty() {
            // All are connected to us, but not yet to process 0.
            whom.push("process 0 to be connected to all processes".to_owned());
        }
        format!("waiting for {}", whom.join(", "))
    }

    fn give_up(&self, missing: &[usize], waited: Duration) -> ClusterError {
        let waiting = format!("{} after {} s", self.waiting(missing), waited.as_secs());
        match &*lock(&self.refused) {
            Some(refused) if !missing.is_empty() => ClusterError::Invalid(format!("gave up {waiting}; {refused}")),
            _ => ClusterError::Retry(format!("gave up {waiting}")),
        }
    }
}

fn connect(host: &str) -> Result<TcpStream, HelloError> {
    let mut last = "its host name has no address".to_owned();
    for address in host.to_socket_addrs().map_err(|error| HelloError::Broken(error.to_string()))? {
        match TcpStream::connect_timeout(&address, CONNECT_MAX) {
            // The system may connect a socket to itself.
            Ok(stream) if stream.local_addr().ok() == Some(address) => last = "nothing listens there".to_owned(),
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.to_string(),
        }
    }
    Err(HelloError::Broken(last))
}

/// Small messages are sent at once, and a host that is gone is noticed in seconds, even if nothing is sent. The control connections
/// notice it a little earlier, because they know the name of the process.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let probes =
        TcpKeepalive::new().with_time(Duration::from_secs(3)).with_interval(Duration::from_secs(1)).with_retries(8);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(SILENCE_MAX + Duration::from_secs(4)))
}

/// How many bytes have arrived, at most one; 0 if the other side has closed the connection.
fn looks(stream: &TcpStream) -> io::Result<usize> {
    stream.set_nonblocking(true)?;
    let found = stream.peek(&mut [0]);
    stream.set_nonblocking(false)?;
    found
}

fn is_alive(stream: &TcpStream) -> bool {
    match looks(stream) {
        Ok(bytes) => bytes > 0,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

#[cfg(test)]
mod tests;
