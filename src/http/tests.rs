use std::future::pending;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use tempfile::NamedTempFile;
use tokio::sync::{Semaphore, oneshot};

use super::server::{Accept, of_one_connection, serve_on};
use super::*;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);
/// How long a client waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// More bytes than the system takes for a client that does not read.
const LARGE: usize = 64 << 20;
const SHORT: Duration = Duration::from_millis(100);

const LIMITS: Limits = Limits { connections: 100, head_bytes: 8192, head: LONG, answer: LONG };

fn bound() -> Listener {
    "0".parse::<Listen>().expect("a port").bind().expect("bound")
}

/// A server on a thread of its own, and its log.
struct Server {
    at: SocketAddr,
    shutdown: oneshot::Sender<Duration>,
    thread: JoinHandle<Result<(), String>>,
    log: NamedTempFile,
}

impl Server {
    fn start<F: Future<Output = Answer> + Send + 'static>(
        limits: Limits,
        handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Server {
        Server::start_on(bound(), limits, handler)
    }

    fn start_on<F: Future<Output = Answer> + Send + 'static>(
        listener: Listener,
        limits: Limits,
        handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Server {
        let at = listener.address();
        Server::on_a_thread(at, move |asked| serve(listener, limits, handler, asked))
    }

    fn on_a_thread<F: Future<Output = Result<(), String>>>(
        at: SocketAddr,
        serving: impl FnOnce(Asked) -> F + Send + 'static,
    ) -> Server {
        let (shutdown, asked) = oneshot::channel();
        let log = NamedTempFile::new().expect("a temporary file");
        let lines = Arc::new(log.reopen().expect("opened"));
        let thread = thread::spawn(move || {
            let lines = tracing_subscriber::fmt().with_writer(lines).with_ansi(false);
            let _here = tracing::subscriber::set_default(lines.with_max_level(tracing::Level::WARN).finish());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { serving(Box::pin(async { asked.await.expect("the test asks") })).await })
        });
        Server { at, shutdown, thread, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).expect("UTF-8")
    }

    fn client(&self) -> Client {
        Client::of(self.at)
    }

    fn ends(self, within: Duration) {
        self.shutdown.send(within).expect("it serves");
        assert_eq!(self.thread.join().expect("no panic"), Ok(()));
    }
}

type Asked = Pin<Box<dyn Future<Output = Duration> + Send>>;

/// A connection of a client.
struct Client(BufReader<TcpStream>);

impl Client {
    fn of(at: SocketAddr) -> Client {
        let stream = TcpStream::connect(at).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_write_timeout(Some(PATIENCE)).expect("set");
        Client(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) -> io::Result<()> {
        self.0.get_mut().write_all(text.as_bytes())
    }

    fn ask(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).expect("sent");
    }

    /// The status and the body of the next response; `None` if the connection is closed before it.
    fn response(&mut self) -> Option<(u16, String)> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match self.0.read_line(&mut head) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("neither a response nor an end: {error}"),
            }
        }
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let mut body = vec![0; length.parse().expect("a number")];
        self.0.read_exact(&mut body).ok()?;
        Some((head.split(' ').nth(1)?.parse().ok()?, String::from_utf8(body).expect("UTF-8")))
    }

    fn answer(&mut self, path: &str) -> Option<(u16, String)> {
        self.ask(path);
        self.response()
    }
}

fn said(text: &str) -> Option<(u16, String)> {
    Some((200, format!("{text}\n")))
}

async fn path_of(request: Request<Incoming>) -> Answer {
    text(StatusCode::OK, request.uri().path())
}

/// A handler that says when a request comes in, and answers it when there is a permit.
fn gate() -> (mpsc::Receiver<()>, Arc<Semaphore>, impl Fn(Request<Incoming>) -> Gated + Send + Sync + 'static) {
    let (enter, entered) = mpsc::channel();
    let permits = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&permits);
    let handler = move |request| -> Gated {
        enter.send(()).expect("the test waits");
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            gate.acquire().await.expect("it stays open").forget();
            path_of(request).await
        })
    };
    (entered, permits, handler)
}

type Gated = Pin<Box<dyn Future<Output = Answer> + Send>>;

#[test]
fn keep_alive_serves_two_requests_on_a_connection() {
    let server = Server::start(LIMITS, path_of);
    let mut client = server.client();
    assert_eq!(client.answer("/1"), said("/1"));
    assert_eq!(client.answer("/2"), said("/2"));
    client.send("GET /3 HTTP/1.1\r\nConnection: close\r\n\r\n").expect("sent");
    assert_eq!((client.response(), client.response()), (said("/3"), None));
    server.ends(LONG);
}

/// All clients have connected and asked before the server accepts the first one.
#[test]
fn connections_beyond_the_bound_wait() {
    let listener = bound();
    let clients: Vec<Client> = (0..12).map(|_| Client::of(listener.address())).collect();
    let clients = clients.into_iter().map(|mut client| {
        client.send("GET / HTTP/1.1\r\nConnection: close\r\n\r\n").expect("the system takes it");
        client
    });
    let clients: Vec<Client> = clients.collect();
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let peak = Arc::clone(&most);
    let handler = move |request| {
        let (inside, most) = (Arc::clone(&inside), Arc::clone(&most));
        async move {
            most.fetch_max(inside.fetch_add(1, Relaxed) + 1, Relaxed);
            // Whatever else can come in comes in now.
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            inside.fetch_sub(1, Relaxed);
            path_of(request).await
        }
    };
    let server = Server::start_on(listener, Limits { connections: 3, ..LIMITS }, handler);
    for mut client in clients {
        assert_eq!(client.response(), said("/"));
    }
    assert_eq!(peak.load(Relaxed), 3);
    server.ends(LONG);
}

#[test]
fn a_head_by_single_bytes_is_cut_off_and_an_idle_connection_too() {
    let server = Server::start(Limits { head: SHORT, ..LIMITS }, path_of);
    let mut idle = server.client();
    assert_eq!(idle.answer("/"), said("/"));
    let mut slow = server.client();
    // 40 seconds of them, and fewer than a head may have.
    let cut = (0..4000).any(|_| {
        thread::sleep(SHORT / 10);
        slow.send("x").is_err()
    });
    assert!(cut, "nobody minds how slow it is");
    assert_eq!(idle.response(), None);
    assert_eq!(server.client().answer("/"), said("/"));
    server.ends(LONG);
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let server = Server::start(LIMITS, path_of);
    let mut client = server.client();
    client.send(&format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(LIMITS.head_bytes))).expect("sent");
    assert!(client.response().is_none_or(|(code, _)| code == 431));
    server.ends(LONG);
}

/// A client that does not read a large answer has the time for answers, not that for heads.
#[test]
fn a_large_answer_has_its_own_time() {
    let limits = Limits { head: Duration::from_secs(1), ..LIMITS };
    let server = Server::start(limits, |_| async { answer(StatusCode::OK, PLAIN, vec![b'x'; LARGE]) });
    let mut large = server.client();
    large.ask("/");
    assert_eq!(large.0.fill_buf().expect("its begin")[0], b'H');
    assert_eq!(server.client().response(), None, "the time for a head has passed");
    let (code, body) = large.response().expect("a whole answer");
    assert_eq!((code, body.len()), (200, LARGE));
    server.ends(LONG);
}

/// The next connection gets its place.
#[test]
fn an_answer_that_takes_too_long_is_cut_off() {
    let limits = Limits { connections: 1, answer: SHORT, head: SHORT, ..LIMITS };
    let server = Server::start(limits, |request: Request<Incoming>| async move {
        match request.uri().path() {
            "/never" => pending().await,
            "/large" => answer(StatusCode::OK, PLAIN, vec![b'x'; LARGE]),
            _ => path_of(request).await,
        }
    });
    assert_eq!(server.client().answer("/never"), None);
    let mut unread = server.client();
    unread.ask("/large");
    assert_eq!(server.client().answer("/"), said("/"));
    assert_eq!(unread.response(), None);
    server.ends(LONG);
}

#[test]
fn a_panic_in_a_handler_is_answered_logged_and_survived() {
    let server = Server::start(LIMITS, move |request: Request<Incoming>| {
        assert!(request.uri().path() != "/called", "by the test");
        async move {
            tokio::task::yield_now().await;
            assert!(request.uri().path() != "/polled", "by the test");
            path_of(request).await
        }
    });
    let mut goes_on = server.client();
    assert_eq!(goes_on.answer("/1"), said("/1"));
    for path in ["/called", "/polled"] {
        let mut client = server.client();
        let (code, text) = client.answer(path).expect("an answer");
        assert_eq!((code, text.as_str()), (500, "an answer over HTTP panicked: by the test\n"));
        assert_eq!(client.response(), None, "it is closed");
        let log = server.log();
        let line = log.lines().find(|line| line.contains(path)).expect("a line of the log");
        assert!(line.contains("ERROR") && line.contains("by the test"), "{log}");
    }
    assert_eq!(goes_on.answer("/2"), said("/2"));
    server.ends(LONG);
}

#[test]
fn a_shutdown_lets_requests_in_flight_end() {
    let (entered, permits, handler) = gate();
    let server = Server::start(LIMITS, handler);
    permits.add_permits(1);
    let (mut idle, mut new, mut busy) = (server.client(), server.client(), server.client());
    assert_eq!(idle.answer("/idle"), said("/idle"));
    busy.ask("/busy");
    (0..2).for_each(|_| entered.recv_timeout(PATIENCE).expect("two requests"));
    server.shutdown.send(LONG).expect("it serves");
    assert_eq!((idle.response(), new.response()), (None, None));
    assert!(TcpStream::connect(server.at).is_err(), "it listens no more");
    permits.add_permits(1);
    assert_eq!((busy.response(), busy.response()), (said("/busy"), None));
    assert_eq!(server.thread.join().expect("no panic"), Ok(()));
}

#[test]
fn a_shutdown_ends_at_its_deadline() {
    let (entered, _permits, handler) = gate();
    let server = Server::start(LIMITS, handler);
    let mut busy = server.client();
    busy.ask("/");
    entered.recv_timeout(PATIENCE).expect("a request");
    server.ends(SHORT);
    assert_eq!(busy.response(), None);
}

/// Accepting fails a few times, then gives one connection, and panics at the second.
struct Faulty {
    errors: Vec<io::Error>,
    listener: tokio::net::TcpListener,
    accepted: usize,
}

impl Accept for Faulty {
    async fn next(&mut self) -> io::Result<(tokio::net::TcpStream, SocketAddr)> {
        if let Some(error) = self.errors.pop() {
            return Err(error);
        }
        let connection = self.listener.accept().await;
        self.accepted += 1;
        assert!(self.accepted < 2, "by the test");
        connection
    }
}

#[test]
fn accepting_survives_errors_and_its_panic_ends_the_server_with_an_error() {
    let listener = bound();
    let at = listener.address();
    let too_many_files = || io::Error::from_raw_os_error(24);
    let errors = vec![too_many_files(), io::ErrorKind::ConnectionAborted.into(), too_many_files(), too_many_files()];
    let server = Server::on_a_thread(at, move |asked| async move {
        let listener = listener.watched().expect("watched");
        serve_on(Faulty { errors, listener, accepted: 0 }, LIMITS, path_of, asked).await
    });
    let mut first = server.client();
    assert_eq!(first.answer("/"), said("/"));
    let log = server.log();
    assert_eq!(log.matches("no HTTP connection can be accepted").count(), 1, "{log}");
    let mut second = server.client();
    assert_eq!((first.response(), second.response()), (None, None));
    assert_eq!(server.thread.join().expect("it is caught"), Err("the HTTP server panicked: by the test".to_owned()));
}

/// After these the next connection is accepted at once, after others there is a pause.
#[test]
fn which_errors_are_of_one_connection() {
    assert!(of_one_connection(&io::ErrorKind::ConnectionAborted.into()));
    // EMFILE, ENFILE, ENOBUFS, ENOMEM.
    assert!([24, 23, 105, 12].iter().all(|code| !of_one_connection(&io::Error::from_raw_os_error(*code))));
}
