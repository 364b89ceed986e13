//! What a process learns of others: stops, failures, losses, silence.

use std::net::TcpListener;

use super::*;

#[test]
fn a_panic_is_of_a_connection_of_what_follows_or_our_own() {
    let cases = [
        ("timely:send-2", Panic::Connection(2), Panic::After),
        ("timely:recv-0", Panic::Connection(0), Panic::After),
        ("timely:work-1", Panic::Ours, Panic::Worker),
        ("storage", Panic::Ours, Panic::After),
    ];
    for (thread, before, after) in cases {
        assert_eq!((Panic::of(Some(thread), false), Panic::of(Some(thread), true)), (before, after), "{thread}");
    }
    assert_eq!((Panic::of(None, false), Panic::of(None, true)), (Panic::Ours, Panic::After));
}

fn pair() -> [TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let ours = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    [ours, listener.accept().expect("accepted").0]
}

fn watch(index: usize, streams: Vec<Option<TcpStream>>, on_stop: impl Fn() + Send + Sync + 'static) -> Watch {
    let names = (0..streams.len()).map(|index| format!("process {index} at h:{index}")).collect();
    Watch::start(index, names, streams, Ended::default(), Box::new(on_stop)).expect("threads")
}

/// Processes 0, 1 and 2; `on_stop` is called when 0 is asked to stop.
fn three(on_stop: impl Fn() + Send + Sync + 'static) -> [Watch; 3] {
    let ([a, b], [c, d]) = (pair(), pair());
    let zero = watch(0, vec![None, Some(a), Some(c)], on_stop);
    let one = watch(1, vec![Some(b), None, None], || {});
    let two = watch(2, vec![Some(d), None, None], || {});
    [zero, one, two]
}

fn what(watch: &Watch) -> (Exit, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let end = runtime.block_on(watch.shared.ended.wait());
    (end.exit, end.what)
}

#[test]
fn the_start_is_told_to_all() {
    let (stop, stopped) = channel();
    let [zero, one, two] = three(move || stop.send(()).expect("it waits"));
    zero.begin(vec![7, 8, 9]);
    for other in [&one, &two] {
        assert_eq!(other.hear(), Heard::Begin(vec![7, 8, 9]));
        other.tell(vec![6]);
    }
    let mut told = [zero.hear(), zero.hear()].map(|heard| format!("{heard:?}"));
    told.sort();
    assert_eq!(told, ["Told(1, [6])", "Told(2, [6])"]);
    zero.hand_out(vec![5; 3_000_000]);
    assert_eq!([one.hear(), two.hear()], [Heard::Handed(vec![5; 3_000_000]), Heard::Handed(vec![5; 3_000_000])]);
    two.ask_to_stop();
    stopped.recv_timeout(Duration::from_secs(10)).expect("process 0 is asked");
    assert_eq!(two.heard_now(), None);
}

#[test]
fn the_end_of_one_is_everybodys() {
    let [zero, one, two] = three(|| {});
    thread::spawn(move || one.end(End { exit: Exit::Configuration, what: "process 1: no".to_owned() }));
    assert_eq!([what(&zero), what(&two)], [(); 2].map(|()| (Exit::Configuration, "process 1: no".to_owned())));
    assert_eq!(two.hear(), Heard::End);
    // Later ones change nothing.
    zero.end(End { exit: Exit::Done, what: String::new() });
    assert_eq!(what(&two).0, Exit::Configuration);
}

#[test]
fn a_panic_of_a_thread_ends_all() {
    let [zero, one, two] = three(|| panic!("by the test"));
    two.ask_to_stop();
    let says = "process 0 at h:0: reading from another process panicked: by the test; this is a bug: please report it";
    for watch in [&zero, &one, &two] {
        assert_eq!(what(watch), (Exit::Failed, says.to_owned()));
    }
}

#[test]
fn who_is_lost_is_named_to_all() {
    let [a, b] = pair();
    let [c, d] = pair();
    let zero = watch(0, vec![None, Some(a), Some(c)], || {});
    let one = watch(1, vec![Some(b), None, None], || {});
    drop(d);
    for watch in [&zero, &one] {
        let (exit, what) = what(watch);
        assert_eq!(exit, Exit::TryAgain);
        assert!(what.starts_with("process 2 at h:2 is lost: "), "{what}");
    }
}

#[test]
fn who_is_silent_is_lost() {
    let [a, frozen] = pair();
    let zero = watch(0, vec![None, Some(a)], || {});
    let started = Instant::now();
    let expected = "process 1 at h:1 is lost: no sign of life for 8 s; all processes end, start them again";
    assert_eq!(what(&zero), (Exit::TryAgain, expected.to_owned()));
    assert!(started.elapsed() < SILENCE_MAX * 2, "{:?}", started.elapsed());
    drop(frozen);
}
