//! The handshake of one connection: the side that connects (C) and the side that accepts (A) prove to each other that they know the
//! secret, then compare their cards.
//!
//! ```text
//! C → A   magic, version, nonce of C                    A → C   magic, version, nonce of A
//! C → A   card of C, HMAC(secret, "C", nonces, card)
//! A → C   0: the proof does not fit; or 1, then verdict and card of A, HMAC(secret, "A", nonces, verdict and card)
//! ```
//!
//! The nonces of both sides keep a proof from being used again, and the role keeps it from being sent back. State: none; a
//! handshake is bounded by [`TIME_MAX`] and [`CARD_MAX`]. Failure: the connection is closed. One that does not begin with the magic
//! is stray, and learns nothing.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::options::Secret;

const MAGIC: [u8; 8] = *b"FLOODMRK";

/// The version of the handshake, of cards, and of the frames that follow on control connections.
const VERSION: u16 = 2;

/// How long a whole handshake may take.
const TIME_MAX: Duration = Duration::from_secs(5);

/// The most bytes of a card.
const CARD_MAX: usize = 4096;

const HELLO: usize = MAGIC.len() + 2 + 32;
const PROOF: usize = 32;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// Start, signs of life and end, with process 0.
    Control,
    /// Timely's data.
    Data,
}

/// What a process is. All but index and run must agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Card {
    /// Its index.
    pub(super) index: usize,
    /// Distinguishes its starts.
    pub(super) run: u64,
    /// Version and sources.
    pub(super) build: String,
    /// Number of processes.
    pub(super) processes: usize,
    /// Workers in each.
    pub(super) workers: usize,
    /// Parts of the job file, with fingerprints.
    pub(super) job: Vec<(String, u64)>,
    /// The replay's fingerprint; `None` for the live job.
    pub(super) replay: Option<u64>,
}

impl Card {
    /// What differs; both sides report it.
    pub(super) fn differences(&self, theirs: &Card) -> Option<String> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, found: String, expected: String| {
            if found != expected {
                differences.push(format!("{what}: found {found}, expected {expected}"));
            }
        };
        compare("build", theirs.build.clone(), self.build.clone());
        compare("--processes", theirs.processes.to_string(), self.processes.to_string());
        compare("--workers", theirs.workers.to_string(), self.workers.to_string());
        let fingerprint = |of: u64| format!("fingerprint {of:016x}");
        for ((part, ours), theirs) in self.job.iter().zip(theirs.job.iter().map(|(_, theirs)| *theirs)) {
            compare(&format!("{part} of the job file"), fingerprint(theirs), fingerprint(*ours));
        }
        let replay = |card: &Card| card.replay.map_or_else(|| "none, the live job".to_owned(), fingerprint);
        compare("the replay", replay(theirs), replay(self));
        (!differences.is_empty()).then(|| differences.join("; "))
    }
}

/// What the accepting side says to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Verdict {
    /// This connection is accepted.
    Welcome,
    /// Another process with this index is here.
    Taken,
    /// See [`Card::differences`].
    Differs,
}

/// Why there is no connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HelloError {
    /// It is not a process of ours.
    Stray(String),
    /// One of ours, but not of this job: its proof or version does not fit.
    Refused(String),
    /// It went away, or was too slow.
    Broken(String),
}

impl From<io::Error> for HelloError {
    fn from(error: io::Error) -> Self {
        HelloError::Broken(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it did not answer in time".to_owned(),
            io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
            _ => error.to_string(),
        })
    }
}

/// A stream with one deadline for all that is done on it.
struct Timed<'s> {
    stream: &'s TcpStream,
    deadline: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn card(&mut self) -> Result<Vec<u8>, HelloError> {
        let length = usize::from(u16::from_be_bytes(self.array()?));
        if length > CARD_MAX {
            return Err(HelloError::Stray(format!("its card has {length} bytes, expected at most {CARD_MAX}")));
        }
        let mut card = vec![0; length];
        self.read_exact(&mut card)?;
        Ok(card)
    }

    /// Reads a hello; returns all of it.
    fn hello(&mut self) -> Result<[u8; HELLO], HelloError> {
        let magic = self.array::<{ MAGIC.len() }>()?;
        if magic != MAGIC {
            return Err(HelloError::Stray(format!(
                "it began with \"{}\", which is not our protocol",
                magic.escape_ascii()
            )));
        }
        let version = self.array::<2>()?;
        let found = u16::from_be_bytes(version);
        if found != VERSION {
            return Err(HelloError::Refused(format!("handshake version: found {found}, expected {VERSION}")));
        }
        let mut hello = hello([0; 32]);
        hello[MAGIC.len() + 2..].copy_from_slice(&self.array::<32>()?);
        Ok(hello)
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        (&mut &*self.stream).read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        (&mut &*self.stream).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hello(nonce: [u8; 32]) -> [u8; HELLO] {
    let mut hello = [0; HELLO];
    hello[..8].copy_from_slice(&MAGIC);
    hello[8..10].copy_from_slice(&VERSION.to_be_bytes());
    hello[10..].copy_from_slice(&nonce);
    hello
}

/// A proof of knowing the secret; it holds for one role, one connection and one message.
fn proof(secret: &Secret, role: u8, hellos: [&[u8; HELLO]; 2], message: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.bytes()).expect("HMAC takes a key of any length");
    mac.update(&[role]);
    hellos.into_iter().for_each(|hello| mac.update(hello));
    mac.update(message);
    mac
}

fn message(value: &impl Serialize) -> Vec<u8> {
    let card = bincode::serialize(value).expect("numbers and texts serialize");
    let length = u16::try_from(card.len()).expect("a card is short: it holds no text of the user");
    [&length.to_be_bytes()[..], &card].concat()
}

fn read_card<'c, T: Deserialize<'c>>(card: &'c [u8]) -> Result<T, HelloError> {
    // Its proof is right, so it is of another build.
    bincode::deserialize(card).map_err(|error| HelloError::Refused(format!("its card is of another build: {error}")))
}

fn done(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)
}

/// Does the handshake as the side that connects. Returns the other side's verdict and card.
///
/// # Errors
/// [`HelloError`].
pub(super) fn connect(
    stream: &TcpStream,
    secret: &Secret,
    nonce: [u8; 32],
    purpose: Purpose,
    card: &Card,
) -> Result<(Verdict, Card), HelloError> {
    let mut timed = Timed { stream, deadline: Instant::now() + TIME_MAX };
    let ours = hello(nonce);
    timed.write_all(&ours)?;
    let theirs = timed.hello()?;
    let sent = message(&(purpose, card));
    let proof_of = |role, message: &[u8]| proof(secret, role, [&ours, &theirs], message);
    timed.write_all(&[&sent, &proof_of(b'C', &sent[2..]).finalize().into_bytes()[..]].concat())?;
    if timed.array::<1>()? != [1] {
        return Err(HelloError::Refused("it does not accept our proof of membership: the secrets differ".to_owned()));
    }
    let answer = timed.card()?;
    if proof_of(b'A', &answer).verify_slice(&timed.array::<PROOF>()?).is_err() {
        return Err(HelloError::Refused(
            "its proof of membership does not match our secret: the secrets differ".to_owned(),
        ));
    }
    done(stream)?;
    read_card(&answer)
}

/// Does the handshake as the side that accepts. `decide` is called only after the other side has proved its membership.
///
/// # Errors
/// [`HelloError`].
pub(super) fn accept(
    stream: &TcpStream,
    secret: &Secret,
    nonce: [u8; 32],
    card: &Card,
    decide: impl FnOnce(Purpose, &Card) -> Verdict,
) -> Result<(Verdict, Purpose, Card), HelloError> {
    let mut timed = Timed { stream, deadline: Instant::now() + TIME_MAX };
    let ours = hello(nonce);
    let theirs = match timed.hello() {
        Err(error @ HelloError::Refused(_)) => {
            // This tells it our version. If it no longer listens, it needs no answer.
            timed.write_all(&ours).ok();
            return Err(error);
        }
        theirs => theirs?,
    };
    timed.write_all(&ours)?;
    let proof_of = |role, message: &[u8]| proof(secret, role, [&theirs, &ours], message);
    let received = timed.card()?;
    if proof_of(b'C', &received).verify_slice(&timed.array::<PROOF>()?).is_err() {
        timed.write_all(&[0]).ok();
        return Err(HelloError::Refused(
            "its proof of membership does not match our secret: the secrets differ".to_owned(),
        ));
    }
    let (purpose, theirs_card): (Purpose, Card) = read_card(&received)?;
    let verdict = decide(purpose, &theirs_card);
    let sent = message(&(verdict, card));
    timed.write_all(&[&[1], &sent[..], &proof_of(b'A', &sent[2..]).finalize().into_bytes()[..]].concat())?;
    done(stream)?;
    Ok((verdict, purpose, theirs_card))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text).expect("long enough")
    }

    fn card(index: usize) -> Card {
        Card {
            index,
            run: 7 + index as u64,
            build: "0.1.0-1".to_owned(),
            processes: 2,
            workers: 3,
            job: vec![("[settings]".to_owned(), 5)],
            replay: None,
        }
    }

    /// Runs `client` against the accepting side, and returns what that side answers.
    fn accepts(client: impl FnOnce(TcpStream) + Send + 'static) -> Result<(Verdict, Purpose, Card), HelloError> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let client = thread::spawn(move || client(TcpStream::connect(address).expect("connected")));
        let (stream, _) = listener.accept().expect("accepted");
        let result = accept(&stream, &secret("the right secret"), [2; 32], &card(0), |_, theirs| {
            if card(0).differences(theirs).is_some() { Verdict::Differs } else { Verdict::Welcome }
        });
        drop(stream);
        client.join().expect("no panic");
        result
    }

    #[test]
    fn members_prove_it_to_each_other() {
        let accepted = accepts(|stream| {
            let (verdict, theirs) =
                connect(&stream, &secret("the right secret"), [1; 32], Purpose::Data, &card(1)).expect("a member");
            assert_eq!((verdict, theirs), (Verdict::Welcome, card(0)));
        });
        assert_eq!(accepted, Ok((Verdict::Welcome, Purpose::Data, card(1))));
    }

    #[test]
    fn another_secret_is_refused_on_both_sides() {
        let accepted = accepts(|stream| {
            let error = connect(&stream, &secret("some other secret"), [1; 32], Purpose::Data, &card(1));
            assert!(matches!(error, Err(HelloError::Refused(what)) if what.contains("the secrets differ")));
        });
        assert!(matches!(accepted, Err(HelloError::Refused(what)) if what.contains("the secrets differ")));
    }

    #[test]
    fn another_size_is_told_to_both() {
        let other = Card { processes: 4, ..card(1) };
        let accepted = accepts(move |stream| {
            let (verdict, theirs) =
                connect(&stream, &secret("the right secret"), [1; 32], Purpose::Control, &other).expect("a member");
            assert_eq!(verdict, Verdict::Differs);
            assert_eq!(other.differences(&theirs).as_deref(), Some("--processes: found 2, expected 4"));
        });
        assert_eq!(accepted.map(|(verdict, ..)| verdict), Ok(Verdict::Differs));
    }

    #[test]
    fn each_difference_is_named() {
        let theirs =
            Card { build: "0.1.0-2".to_owned(), workers: 1, job: vec![("[settings]".to_owned(), 6)], ..card(1) };
        assert_eq!(
            card(0).differences(&theirs).as_deref(),
            Some(
                "build: found 0.1.0-2, expected 0.1.0-1; --workers: found 1, expected 3; [settings] of the job file: found \
                 fingerprint 0000000000000006, expected fingerprint 0000000000000005"
            )
        );
        assert_eq!(card(0).differences(&card(1)), None);
        let replay = |replay| Card { replay, ..card(1) };
        for (ours, theirs, says) in [
            (None, Some(7), "the replay: found fingerprint 0000000000000007, expected none, the live job"),
            (Some(7), None, "the replay: found none, the live job, expected fingerprint 0000000000000007"),
            (Some(7), Some(8), "the replay: found fingerprint 0000000000000008, expected fingerprint 0000000000000007"),
        ] {
            assert_eq!(replay(ours).differences(&replay(theirs)).as_deref(), Some(says));
        }
        assert_eq!(replay(Some(7)).differences(&replay(Some(7))), None);
    }

    #[test]
    fn what_is_not_ours_is_stray() {
        for garbage in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &[0xff; 5000], &[0; 64]] {
            let accepted = accepts(move |mut stream| {
                // The other side may be gone before all is written.
                stream.write_all(garbage).ok();
            });
            assert!(matches!(accepted, Err(HelloError::Stray(_))), "{accepted:?}");
        }
        let half = accepts(|mut stream| stream.write_all(&hello([1; 32])[..20]).expect("written"));
        assert_eq!(half, Err(HelloError::Broken("it closed the connection".to_owned())));
        let newer = accepts(|mut stream| {
            let mut hello = hello([1; 32]);
            hello[9] = 9;
            stream.write_all(&hello).expect("written");
        });
        assert!(matches!(newer, Err(HelloError::Refused(what)) if what.contains("found 9, expected 2")));
        let large = accepts(|mut stream| {
            stream.write_all(&[&hello([1; 32])[..], &[0xff, 0xff]].concat()).expect("written");
            stream.read_to_end(&mut Vec::new()).ok();
        });
        assert!(matches!(large, Err(HelloError::Stray(_))), "{large:?}");
    }

    /// A process that only repeats what it hears, or heard before, proves nothing.
    #[test]
    fn a_proof_can_not_be_sent_back_or_again() {
        let heard = accepts(|mut stream| {
            stream.write_all(&hello([1; 32])).expect("written");
            let mut theirs = [0; HELLO];
            stream.read_exact(&mut theirs).expect("a hello");
            // A proof of the accepting role over the very same message.
            let sent = message(&(Purpose::Data, card(1)));
            let proof = proof(&secret("the right secret"), b'A', [&hello([1; 32]), &theirs], &sent[2..]);
            stream.write_all(&[&sent, &proof.finalize().into_bytes()[..]].concat()).expect("written");
        });
        assert!(matches!(heard, Err(HelloError::Refused(_))), "{heard:?}");
        let again = accepts(|mut stream| {
            // A right proof, for another nonce of the accepting side.
            let sent = message(&(Purpose::Data, card(1)));
            let proof = proof(&secret("the right secret"), b'C', [&hello([1; 32]), &hello([3; 32])], &sent[2..]);
            stream.write_all(&hello([1; 32])).expect("written");
            stream.write_all(&[&sent, &proof.finalize().into_bytes()[..]].concat()).expect("written");
        });
        assert!(matches!(again, Err(HelloError::Refused(_))), "{again:?}");
    }

    #[test]
    fn who_says_nothing_is_not_waited_for_long() {
        let started = Instant::now();
        let silent = accepts(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
        assert_eq!(silent, Err(HelloError::Broken("it did not answer in time".to_owned())));
        assert!(started.elapsed() < TIME_MAX * 2, "{:?}", started.elapsed());
    }
}
