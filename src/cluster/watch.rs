//! The control connections, one between process 0 and each other process: the start, signs of life, a request to stop, the end.
//!
//! ```text
//!   0 → all  Begin: all are here           all → 0  Told: how far it is, what it found
//!   0 → all  Handed: what comes next       all → 0  Stop: asked to end in order
//!   both     Beat, every second            both     End: with an exit code; of process 0 it is everybody's
//! ```
//!
//! In: frames, each a length and bincode. Out: what is heard, and the one end of this process. The first end that is known is the
//! end: process 0 sends it to all others at once, another process sends it to process 0. State: a reading and a beating thread per
//! connection. Failure: a connection that closes without an end, or is silent for [`SILENCE_MAX`], means that its process is lost.

#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::panics::caught_in;
use crate::process::{Exit, lock};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

const BEAT: Duration = Duration::from_secs(1);

/// A process that has been silent for so long is frozen, or its host is gone. Beats come from a thread of their own and need no
/// lock that work holds, so only a frozen machine is that slow. The price of a mistake is a restart.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(8);

/// How long this process waits to end after one of timely's own connections broke: process 0 knows better which process was lost.
const WORD_FROM_ZERO: Duration = Duration::from_secs(2);

/// How long a process that ends waits until the others know of it.
const FAREWELL: Duration = Duration::from_secs(2);

/// The most bytes of a frame: the state of the largest tables is some hundred megabytes.
const FRAME_MAX: u32 = 1 << 30;

/// Why, and how, all processes end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// [`Exit::Done`]: all was published.
    pub exit: Exit,
    /// One line that names the process.
    pub what: String,
}

impl End {
    /// A thread of the process with this name has panicked.
    pub(super) fn panicked(name: &str, panic: &str) -> End {
        End { exit: Exit::Failed, what: format!("{name}: {panic}; this is a bug: please report it") }
    }
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Frame {
    Beat,
    /// By index: the start of each process.
    Begin(Vec<u64>),
    /// To process 0.
    Told(Vec<u8>),
    /// By process 0.
    Handed(Vec<u8>),
    Stop,
    End(End),
}

/// What is heard from another process.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// All are here: the start of each, by index.
    Begin(Vec<u64>),
    /// What this one tells process 0.
    Told(usize, Vec<u8>),
    /// What process 0 hands out.
    Handed(Vec<u8>),
    /// An end is known.
    End,
}

/// The end of this process. There is only one, the first.
#[derive(Clone)]
pub(super) struct Ended(Arc<watch::Sender<Option<End>>>);

impl Default for Ended {
    fn default() -> Self {
        Ended(Arc::new(watch::Sender::new(None)))
    }
}

impl Ended {
    pub(super) fn get(&self) -> Option<End> {
        self.0.borrow().clone()
    }

    /// Sets the end; returns whether it was the first.
    pub(super) fn set(&self, end: End) -> bool {
        self.0.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(end);
            }
            first
        })
    }

    pub(super) async fn wait(&self) -> End {
        let mut receiver = self.0.subscribe();
        // The sender is ours, so it is not closed.
        let ended = receiver.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        ended.unwrap_or(End { exit: Exit::Failed, what: String::new() })
    }
}

/// The control connections of this process.
pub(super) struct Watch {
    shared: Arc<Shared>,
    heard: Mutex<Receiver<Heard>>,
}

struct Shared {
    index: usize,
    /// `process I at host:port`, by index.
    names: Vec<String>,
    ended: Ended,
    /// By index; process 0 has one to each other, another to process 0 only.
    writers: Vec<Option<Mutex<TcpStream>>>,
    /// How many processes may not know of the end: they have sent none, and are still there.
    unaware: AtomicUsize,
    heard: Mutex<Sender<Heard>>,
    on_stop: Box<dyn Fn() + Send + Sync>,
}

impl Watch {
    /// Watches these connections from now on. `on_stop` is called when process 0 is asked to end in order.
    ///
    /// # Errors
    /// The system gives no threads.
    pub(super) fn start(
        index: usize,
        names: Vec<String>,
        streams: Vec<Option<TcpStream>>,
        ended: Ended,
        on_stop: Box<dyn Fn() + Send + Sync>,
    ) -> io::Result<Watch> {
        let (sender, heard) = channel();
        let mut readers = Vec::new();
        let mut writers = Vec::new();
        for (peer, stream) in streams.into_iter().enumerate() {
            let Some(stream) = stream else {
                writers.push(None);
                continue;
            };
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(SILENCE_MAX))?;
            stream.set_write_timeout(Some(SILENCE_MAX))?;
            readers.push((peer, stream.try_clone()?));
            writers.push(Some(Mutex::new(stream)));
        }
        let shared = Arc::new(Shared {
            index,
            names,
            ended,
            writers,
            unaware: AtomicUsize::new(readers.len()),
            heard: Mutex::new(sender),
            on_stop,
        });
        for (peer, stream) in readers {
            shared.spawn(format!("control-{peer}"), "reading from another process", move |it| it.read(peer, stream))?;
            shared.spawn(format!("beat-{peer}"), "sending signs of life", move |it| it.beat(peer))?;
        }
        Ok(Watch { shared, heard: Mutex::new(heard) })
    }

    /// Waits for what is heard next.
    pub(super) fn hear(&self) -> Heard {
        lock(&self.heard).recv().unwrap_or(Heard::End)
    }

    /// What was heard, without waiting.
    pub(super) fn heard_now(&self) -> Option<Heard> {
        lock(&self.heard).try_recv().ok()
    }

    pub(super) fn begin(&self, runs: Vec<u64>) {
        self.shared.send_all(&Frame::Begin(runs));
    }

    pub(super) fn tell(&self, bytes: Vec<u8>) {
        self.shared.send_all(&Frame::Told(bytes));
    }

    pub(super) fn hand_out(&self, bytes: Vec<u8>) {
        self.shared.send_all(&Frame::Handed(bytes));
    }

    pub(super) fn ask_to_stop(&self) {
        self.shared.send_all(&Frame::Stop);
    }

    /// Ends this process: tells the others, and waits until they know.
    pub(super) fn end(&self, end: End) {
        self.shared.end(end);
        let deadline = Instant::now() + FAREWELL;
        while self.shared.unaware.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Timely's threads panic when a peer is gone. From now on that ends this process, unless process 0 soon sends another end.
    /// Panics that follow from it are only logged at debug.
    pub(super) fn take_network_panics(&self) {
        let (broken, shared, others) = (AtomicBool::new(false), Arc::clone(&self.shared), panic::take_hook());
        panic::set_hook(Box::new(move |info| {
            let what = info.payload_as_str().unwrap_or_default();
            match Panic::of(thread::current().name(), broken.load(Ordering::Acquire)) {
                Panic::Connection(peer) => {
                    broken.store(true, Ordering::Release);
                    tracing::debug!(peer, what, "data connection broke");
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || {
                        thread::sleep(WORD_FROM_ZERO);
                        shared.lost(peer, "its data connection broke");
                    });
                }
                Panic::Worker => {
                    tracing::debug!(what, "a worker, after a data connection broke");
                    loop {
                        thread::park();
                    }
                }
                Panic::After => tracing::debug!(what, "after a data connection broke"),
                Panic::Ours => others(info),
            }
        }));
    }
}

/// What a panic means.
#[derive(Debug, PartialEq, Eq)]
enum Panic {
    /// A thread of timely's has lost its connection with that process.
    Connection(usize),
    /// A worker that exchanges with a process that is lost. It is kept inside the panic until this process ends: what it holds
    /// would send once more while it is dropped, and a second panic there would abort the process.
    Worker,
    /// Any other that follows from a connection that broke.
    After,
    /// It has nothing to do with the network.
    Ours,
}

impl Panic {
    /// What a panic of the thread with this name means, before or after a connection broke.
    fn of(thread: Option<&str>, broken: bool) -> Panic {
        let of_timely = thread.and_then(|name| name.strip_prefix("timely:")?.split_once('-'));
        match of_timely {
            Some(("work", _)) if broken => Panic::Worker,
            _ if broken => Panic::After,
            Some(("send" | "recv", peer)) => peer.parse().map_or(Panic::Ours, Panic::Connection),
            _ => Panic::Ours,
        }
    }
}

impl Shared {
    fn send(&self, peer: usize, bytes: &[u8]) -> io::Result<()> {
        match &self.writers[peer] {
            Some(writer) => lock(writer).write_all(bytes),
            None => Ok(()),
        }
    }

    /// Sends to all connected processes in parallel, because one of them may be frozen. A process that can not be reached is lost,
    /// and its reading thread reports that.
    fn send_all(&self, frame: &Frame) {
        let bytes = &encode(frame);
        thread::scope(|scope| {
            for peer in (0..self.writers.len()).filter(|peer| self.writers[*peer].is_some()) {
                scope.spawn(move || {
                    if let Err(error) = self.send(peer, bytes) {
                        tracing::debug!(peer, %error, "control connection");
                    }
                });
            }
        });
    }

    /// Runs `work` on a thread of its own; a panic in it ends this process, and all others with it.
    fn spawn(
        self: &Arc<Self>,
        thread: String,
        who: &'static str,
        work: impl FnOnce(&Shared) + Send + 'static,
    ) -> io::Result<()> {
        let shared = Arc::clone(self);
        let body = move || {
            if let Err(panic) = caught_in(who, || work(&shared)) {
                shared.end(End::panicked(&shared.names[shared.index], &panic));
            }
        };
        thread::Builder::new().name(thread).spawn(body).map(drop)
    }

    fn beat(&self, peer: usize) {
        let beat = encode(&Frame::Beat);
        while self.send(peer, &beat).is_ok() && self.ended.get().is_none() {
            thread::sleep(BEAT);
        }
    }

    fn read(&self, peer: usize, mut stream: TcpStream) {
        let mut aware = false;
        let mut know = || {
            if !std::mem::replace(&mut aware, true) {
                self.unaware.fetch_sub(1, Ordering::Release);
            }
        };
        loop {
            match read(&mut stream) {
                Ok(Frame::Beat) => {}
                Ok(Frame::Begin(runs)) => self.heard(Heard::Begin(runs)),
                Ok(Frame::Told(bytes)) => self.heard(Heard::Told(peer, bytes)),
                Ok(Frame::Handed(bytes)) => self.heard(Heard::Handed(bytes)),
                Ok(Frame::Stop) => (self.on_stop)(),
                Ok(Frame::End(end)) => {
                    self.end(end);
                    know();
                }
                Err(error) => {
                    match error.kind() {
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                            self.lost(peer, &format!("no sign of life for {} s", SILENCE_MAX.as_secs()));
                        }
                        io::ErrorKind::UnexpectedEof => self.lost(peer, "it closed its connection"),
                        _ => self.lost(peer, &error.to_string()),
                    }
                    return know();
                }
            }
        }
    }

    fn heard(&self, heard: Heard) {
        // If nobody listens any more, this process has ended.
        lock(&self.heard).send(heard).ok();
    }

    fn lost(&self, peer: usize, why: &str) {
        let name = &self.names[peer];
        self.end(End {
            exit: Exit::TryAgain,
            what: format!("{name} is lost: {why}; all processes end, start them again"),
        });
    }

    fn end(&self, end: End) {
        if self.ended.set(end.clone()) {
            self.heard(Heard::End);
            tracing::debug!(process = self.index, exit = ?end.exit, what = end.what, "end");
            self.send_all(&Frame::End(end));
        }
    }
}

fn encode(frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bincode::serialize_into(&mut bytes, frame).expect("numbers, texts and bytes serialize into memory");
    let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn read(stream: &mut TcpStream) -> io::Result<Frame> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > FRAME_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes)?;
    bincode::deserialize(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
