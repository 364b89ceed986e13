//! Tests of gathering: what a panic of a connecting or an answering thread leads to.

use super::super::options::Secret;
use super::*;

/// A card that no process has: it is too long for a handshake, which panics.
fn card_too_long(index: usize) -> Card {
    let build = "x".repeat(100_000);
    Card { index, run: 1, build, processes: 2, workers: 1, job: Vec::new(), replay: None }
}

/// Process `index` of two, with an address of its own and that of the other one.
fn membership(index: usize, other: SocketAddr) -> Membership {
    let mut hosts = vec!["127.0.0.1:0".to_owned(); 2];
    hosts[1 - index] = other.to_string();
    let secret = Secret::new("the right secret").expect("long enough");
    Membership { index, hosts, secret, wait: Duration::from_secs(60) }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Otherwise it would wait in vain until its time is up.
#[test]
fn a_panic_of_who_calls_ends_it() {
    let (listener, address) = listener();
    let membership = membership(1, address);
    let secret = membership.secret.clone();
    let zero = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accepted");
        let card = Card { build: String::new(), ..card_too_long(0) };
        hello::accept(&stream, &secret, [2; 32], &card, |_, _| Verdict::Welcome)
    });
    let gathered = gather(&membership, card_too_long(1), Ended::default(), &|| false, |_| unreachable!("nobody comes"));
    let Err(ClusterError::Ended(end)) = gathered else { panic!("it has not ended") };
    assert_eq!(end.exit, Exit::Failed);
    let says = format!("process 1 at 127.0.0.1:0: calling process 0 at {address} panicked: a card is short");
    assert!(end.what.starts_with(&says), "{}", end.what);
    let heard = zero.join().expect("no panic");
    assert_eq!(heard, Err(HelloError::Broken("it closed the connection".to_owned())));
}

/// Its seat stays free for another connection.
#[test]
fn a_panic_of_who_answers_lets_the_connection_go() {
    let gathering = Arc::new(Gathering::new(&membership(0, listener().1), card_too_long(0), Ended::default()));
    let mut door = Door::default();
    gathering.listen(&mut door);
    let address = door.listener.as_ref().and_then(|it| it.local_addr().ok()).expect("it listens");
    let secret = gathering.membership.secret.clone();
    let one = thread::spawn(move || {
        let stream = TcpStream::connect(address).expect("connected");
        let card = Card { build: String::new(), ..card_too_long(1) };
        hello::connect(&stream, &secret, [1; 32], Purpose::Data, &card)
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    while !one.is_finished() || gathering.handshakes.load(Ordering::Acquire) > 0 {
        assert!(Instant::now() < deadline, "{} under way", gathering.handshakes.load(Ordering::Acquire));
        gathering.listen(&mut door);
        thread::sleep(LOOK_AGAIN);
    }
    let answered = one.join().expect("no panic");
    assert_eq!(answered, Err(HelloError::Broken("it closed the connection".to_owned())));
    assert_eq!(gathering.ended.get(), None);
}
