//! What happens on a panic: it is logged in one line, and no thread or task ends silently.
//!
//! [`install`] logs each panic in one line, with a backtrace only if `RUST_BACKTRACE` asks for one. [`guarded`] is the last
//! safety net around the processing of a record: a panic is logged once for each place in the code, not for each record.
//! [`caught`] and [`caught_in`] turn the panic of a task or thread into a text for the code that waits for it, which usually ends
//! the job with it. State: the places that were logged, bounded by the places in the code.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use futures::FutureExt;
use tokio::task::JoinError;

use super::lock;

thread_local! {
    /// How many nested calls of [`guarded`] the thread is in.
    static GUARDED: Cell<usize> = const { Cell::new(0) };
}

/// Places whose panics inside [`guarded`] were logged.
static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Installs a panic hook that logs each panic in one line.
pub fn install() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        report(std::thread::current().name(), &place, said(info.payload()), &Backtrace::capture());
    }));
}

fn report(thread: Option<&str>, place: &str, message: &str, backtrace: &Backtrace) {
    let guarded = GUARDED.get() > 0;
    if guarded && !lock(&SAID).insert(place.to_owned()) {
        return;
    }
    let thread = thread.unwrap_or("<unnamed>");
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let once = if guarded { "; caught: the record is kept, and panics at this place are not logged again" } else { "" };
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    tracing::error!("thread {thread} panicked at {place}: {message}{once}; this is a bug: please report it{backtrace}");
}

/// The message of a panic.
pub fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

/// Runs a step of processing a record; a panic in it is returned as its message. State that `work` may have left half changed
/// must be rebuilt before it is used again.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    struct Leaves;
    impl Drop for Leaves {
        fn drop(&mut self) {
            GUARDED.set(GUARDED.get() - 1);
        }
    }
    GUARDED.set(GUARDED.get() + 1);
    let _leaves = Leaves;
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| said(panic.as_ref()).to_owned())
}

/// Runs a thread's work; a panic in it becomes a text that names `who`. The state of `work` must not be used after a panic.
///
/// # Errors
/// That text, after a panic.
pub fn caught_in<T>(who: &str, work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| of(who, panic.as_ref()))
}

/// As [`caught_in`], for a task.
///
/// # Errors
/// That text, after a panic.
pub async fn caught<T>(who: &str, work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| of(who, panic.as_ref()))
}

/// Why a task has no result: it panicked, or was cancelled because the process ends.
pub fn of_task(who: &str, error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => of(who, panic.as_ref()),
        Err(_) => format!("{who} was cancelled before it was done"),
    }
}

/// A panic as a text that names the thread or task that panicked.
pub fn of(who: &str, panic: &(dyn Any + Send)) -> String {
    format!("{who} panicked: {}", said(panic))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[test]
    fn a_panic_is_caught_with_its_message() {
        assert_eq!(guarded(|| 1), Ok(1));
        assert_eq!(guarded(|| -> i32 { panic!("plain") }), Err("plain".to_owned()));
        assert_eq!(guarded(|| -> i32 { panic!("number {}", 1) }), Err("number 1".to_owned()));
        assert_eq!(guarded(|| -> i32 { std::panic::panic_any(1) }), Err("a panic without a message".to_owned()));
        assert_eq!(
            caught_in("the thread", || -> i32 { panic!("at {}", 2) }),
            Err("the thread panicked: at 2".to_owned())
        );
        let task = caught("the task", async { panic!("at 3") });
        assert_eq!(futures::executor::block_on(task), Err::<(), _>("the task panicked: at 3".to_owned()));
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            lock(&self.0).write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Log {
        type Writer = Log;

        fn make_writer(&'a self) -> Log {
            self.clone()
        }
    }

    /// A hundred records on which the decoder panics in two places make two lines; each panic of a thread makes a line of its
    /// own.
    #[test]
    fn panics_under_guard_are_said_once_for_each_place() {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).without_time().finish();
        tracing::subscriber::with_default(subscriber, || {
            let none = Backtrace::disabled();
            for record in 0..100 {
                let place = format!("decode.rs:{}:5", record % 2);
                assert_eq!(
                    guarded(|| report(Some("worker 0"), &place, &format!("left: {record}\n right: 2"), &none)),
                    Ok(())
                );
            }
            (0..2).for_each(|_| report(None, "raw.rs:1:5", "no room", &none));
        });
        let text = String::from_utf8(lock(&log.0).clone()).expect("UTF-8");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[0].contains("thread worker 0 panicked at decode.rs:0:5: left: 0 right: 2; caught"), "{text}");
        assert!(lines[1].contains("at decode.rs:1:5: left: 1"), "{text}");
        assert!(lines[2].contains("thread <unnamed> panicked at raw.rs:1:5: no room; this is a bug"), "{text}");
        assert_eq!(lines[2], lines[3]);
    }
}
