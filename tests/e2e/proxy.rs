//! A proxy in front of the S3 server, which counts writes and does harm at a given step; and detours between the processes of a job, which
//! do harm when a test asks for it.
//!
//! Requests to the server are signed for the address that the client knows, which is the `Host` header. It is passed on unchanged, and the
//! server verifies against it. Each request and answer is read completely before it is passed on, so that "before" and "after" are exact.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::job::PATIENCE;
use super::servers::{eventually, servers};

/// What the proxy does to writes (`PUT`, `POST`, `DELETE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Harm {
    /// Nothing.
    None,
    /// Kills the job instead of passing the request on.
    KillBefore(usize),
    /// Passes the request on, and kills the job when the server has done it.
    KillAfter(usize),
    /// Passes the first commit of a table on, and kills the job when the server has answered.
    KillAfterCommit,
    /// Drops the first answer to each commit of a table, with its connection, after the server has done it.
    LoseCommitReplies,
    /// One request in this many goes wrong, including reads: it is refused, or done and then answered with an error, or cut off before,
    /// after, or in the middle of the answer.
    Flaky(u64),
}

#[derive(Default)]
struct Seen {
    writes: Vec<String>,
    victim: Option<u32>,
    killed: bool,
    lost: BTreeSet<String>,
    requests: u64,
    wrong: u64,
}

/// The proxy; it serves until this process ends.
pub(super) struct Proxy {
    address: String,
    seen: Arc<Mutex<Seen>>,
}

/// Sends a signal to a process.
pub(super) fn signal(process: u32, signal: &str) {
    let status = Command::new("kill").args([format!("-{signal}"), process.to_string()]).status().expect("kill runs");
    assert!(status.success(), "kill -{signal} {process}: {status}");
}

/// Serves each connection on a separate thread, until this process ends. Returns the address.
fn listen(serve: impl Fn(&TcpStream) -> Result<()> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            // A connection that ends badly is what the job must cope with.
            thread::spawn(move || serve(&client).ok());
        }
    });
    address
}

impl Proxy {
    pub(super) fn start(harm: Harm) -> Proxy {
        Proxy::start_on("", harm)
    }

    /// Counts only writes whose path contains this text.
    pub(super) fn start_on(text: &'static str, harm: Harm) -> Proxy {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let of_all = Arc::clone(&seen);
        Proxy { address: listen(move |client| serve(client, (text, harm), &of_all)), seen }
    }

    /// The endpoint for the job.
    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the process to kill; no counted write is passed on before this is known.
    pub(super) fn victim(&self, process: u32) {
        self.seen.lock().expect("no panic while locked").victim = Some(process);
    }

    pub(super) fn killed(&self) -> bool {
        self.seen.lock().expect("no panic while locked").killed
    }

    /// Method and path of every counted write so far.
    pub(super) fn writes(&self) -> Vec<String> {
        self.seen.lock().expect("no panic while locked").writes.clone()
    }

    /// How many requests were made to fail.
    pub(super) fn wrong(&self) -> u64 {
        self.seen.lock().expect("no panic while locked").wrong
    }

    /// How many replies were dropped.
    pub(super) fn lost(&self) -> usize {
        self.seen.lock().expect("no panic while locked").lost.len()
    }
}

/// A request or an answer.
struct Message {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Message {
    /// Reads a message. `bodiless` is for an answer that has no body, whatever its headers say.
    fn read(from: &mut impl BufRead, bodiless: bool) -> Result<Option<Message>> {
        let mut head = Vec::new();
        loop {
            let start = head.len();
            if from.read_until(b'\n', &mut head)? == 0 {
                return if head.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
            if head[start..].trim_ascii().is_empty() {
                break;
            }
        }
        let mut message = Message { head, body: Vec::new() };
        if bodiless {
            return Ok(Some(message));
        }
        if message.header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            // The body is kept as it came, with its framing.
            loop {
                let start = message.body.len();
                from.read_until(b'\n', &mut message.body)?;
                let line = String::from_utf8_lossy(&message.body[start..]).into_owned();
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(size, 16).map_err(|error| Error::other(format!("{line:?}: {error}")))?;
                from.take(size + 2).read_to_end(&mut message.body)?;
                if size == 0 {
                    break;
                }
            }
        } else {
            let length = message.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
            from.take(length).read_to_end(&mut message.body)?;
        }
        Ok(Some(message))
    }

    fn first_line(&self) -> String {
        String::from_utf8_lossy(self.head.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned()
    }

    fn header(&self, name: &str) -> Option<String> {
        let head = String::from_utf8_lossy(&self.head).into_owned();
        let mut headers = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_lowercase())
    }

    fn write(&self, mut to: &TcpStream) -> Result<()> {
        to.write_all(&[self.head.as_slice(), &self.body].concat())
    }
}

fn serve(client: &TcpStream, (text, harm): (&str, Harm), seen: &Mutex<Seen>) -> Result<()> {
    let server = TcpStream::connect(servers().s3_address())?;
    let (mut requests, mut answers) = (BufReader::new(client), BufReader::new(&server));
    while let Some(request) = Message::read(&mut requests, false)? {
        assert!(request.header("expect").is_none(), "the proxy knows no Expect");
        let line = request.first_line();
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let write = matches!(method, "PUT" | "POST" | "DELETE") && path.contains(text);
        let kills = matches!(harm, Harm::KillBefore(_) | Harm::KillAfter(_) | Harm::KillAfterCommit);
        if write && kills {
            eventually("somebody to kill", PATIENCE, || seen.lock().expect("no panic while locked").victim);
        }
        let step = {
            let mut seen = seen.lock().expect("no panic while locked");
            if seen.killed && kills {
                return Ok(()); // a request of the killed job
            }
            if write {
                seen.writes.push(format!("{method} {path}"));
                if harm == Harm::KillBefore(seen.writes.len()) {
                    return kill(&mut seen);
                }
            }
            seen.writes.len()
        };
        let wrong = go_wrong(harm, seen);
        match wrong {
            Some(0) => {
                answer_with(client, "503 Service Unavailable")?;
                continue;
            }
            Some(1) => return Ok(()),
            _ => {}
        }
        request.write(&server)?;
        let answer = loop {
            let answer = Message::read(&mut answers, method == "HEAD")?.ok_or(ErrorKind::UnexpectedEof)?;
            if !answer.first_line().contains(" 100") {
                break answer;
            }
        };
        match wrong {
            Some(2) => {
                answer_with(client, "500 Internal Server Error")?;
                continue;
            }
            Some(3) => return Ok(()),
            Some(_) => {
                let bytes = [answer.head.as_slice(), &answer.body].concat();
                return (&mut &*client).write_all(&bytes[..bytes.len() - (answer.body.len() / 2).max(1)]);
            }
            None => {}
        }
        let mut seen = seen.lock().expect("no panic while locked");
        let commit = method == "PUT" && path.contains("/_delta_log/") && path.ends_with(".json");
        if write && (harm == Harm::KillAfter(step) || (commit && harm == Harm::KillAfterCommit)) {
            return kill(&mut seen);
        }
        if harm == Harm::LoseCommitReplies && commit && seen.lost.insert(path.to_owned()) {
            return Ok(());
        }
        drop(seen);
        answer.write(client)?;
    }
    Ok(())
}

/// In which of five ways this request fails, if it does.
fn go_wrong(harm: Harm, seen: &Mutex<Seen>) -> Option<u64> {
    let Harm::Flaky(every) = harm else { return None };
    let mut seen = seen.lock().expect("no panic while locked");
    seen.requests += 1;
    if !seen.requests.is_multiple_of(every) {
        return None;
    }
    seen.wrong += 1;
    Some(seen.wrong % 5)
}

fn answer_with(mut client: &TcpStream, status: &str) -> Result<()> {
    client.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes())
}

fn kill(seen: &mut Seen) -> Result<()> {
    seen.killed = true;
    signal(seen.victim.expect("it wrote, so it was started"), "KILL");
    Ok(())
}

/// What a detour does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Each chunk is passed on this many ms later.
    Late(u64),
    /// Connections are closed, and new ones too.
    Closed,
    /// Connections are reset, and new ones closed.
    Reset,
    /// Connections stay open, and new ones are accepted, but nothing is passed on.
    Silent,
}

/// A detour from one process of a job to another.
pub(super) struct Detour {
    pub(super) address: String,
    way: Arc<Mutex<Way>>,
}

impl Detour {
    /// A detour to a process that listens at `address`.
    pub(super) fn to(address: String, way: Way) -> Detour {
        let way = Arc::new(Mutex::new(way));
        let of_all = Arc::clone(&way);
        Detour { address: listen(move |near| lead(near, &address, &of_all)), way }
    }

    pub(super) fn becomes(&self, way: Way) {
        *self.way.lock().expect("no panic while locked") = way;
    }
}

fn lead(near: &TcpStream, address: &str, way: &Mutex<Way>) -> Result<()> {
    let is = |expected| *way.lock().expect("no panic while locked") == expected;
    if is(Way::Silent) {
        return io::copy(&mut &*near, &mut io::sink()).map(drop);
    }
    let far = TcpStream::connect(address)?;
    for stream in [near, &far] {
        stream.set_nodelay(true)?;
        // This often, it is checked whether the way has changed.
        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    }
    thread::scope(|scope| {
        scope.spawn(|| pass_on(near, &far, way));
        pass_on(&far, near, way).ok();
    });
    if is(Way::Reset) {
        for stream in [near, &far] {
            SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
        }
    }
    Ok(())
}

/// Passes bytes on until one side ends, or the way changes.
fn pass_on(mut from: &TcpStream, mut to: &TcpStream, way: &Mutex<Way>) -> Result<()> {
    let mut chunk = vec![0; 1 << 16];
    loop {
        let read = from.read(&mut chunk);
        let now = *way.lock().expect("no panic while locked");
        match (now, read) {
            (Way::Closed | Way::Reset, _) => return Ok(()),
            (_, Err(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            (Way::Late(_), Ok(0) | Err(_)) => return to.shutdown(Shutdown::Write),
            (Way::Silent, Ok(0) | Err(_)) => return Ok(()),
            (Way::Late(ms), Ok(size)) => {
                thread::sleep(Duration::from_millis(ms));
                to.write_all(&chunk[..size])?;
            }
            (Way::Silent, Ok(_)) => {}
        }
    }
}
