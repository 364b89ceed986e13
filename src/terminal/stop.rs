//! SIGINT and SIGTERM: the first one stops in order, the second one at once.
//!
//! In: signals, from when they are caught. Out: a call or a flag, by a thread of its own. State: that thread. Failure: if it
//! panics, the process is asked to stop in order, because no signal would be heard any more.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::process::panics::caught_in;

/// SIGINT and SIGTERM, caught from now on.
pub struct StopSignals {
    runtime: runtime::Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Catches both from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn catch() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        drop(entered);
        Ok(StopSignals { runtime, interrupt, terminate })
    }

    /// Calls `first` at the first signal and `second` at the next one, on a thread of its own. If that thread panics, signals are
    /// no longer heard, and `deaf` is called.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn on(
        mut self,
        first: impl FnOnce() + Send + 'static,
        second: impl FnOnce() + Send + 'static,
        deaf: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let body = move || {
            let waited = caught_in("waiting for signals", || {
                self.wait();
                first();
                self.wait();
                second();
            });
            if let Err(panic) = waited {
                tracing::error!("{panic}; signals can no longer be received, so the process stops in order");
                deaf();
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(body).map(drop)
    }

    /// Waits for either.
    pub fn wait(&mut self) {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
        });
    }

    /// A flag that the first signal raises; the second one ends the process at once.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn flag(self) -> io::Result<Arc<AtomicBool>> {
        let raised = Arc::new(AtomicBool::new(false));
        let raise = || {
            let flag = Arc::clone(&raised);
            move || flag.store(true, Ordering::Relaxed)
        };
        self.on(raise(), || process::exit(130), raise())?;
        Ok(raised)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    /// Otherwise whoever asks for the end by a signal would wait forever.
    #[test]
    fn a_panic_at_a_signal_is_taken_for_one() {
        let (sender, told) = channel();
        let signals = StopSignals::catch().expect("caught");
        let deaf = move || sender.send(()).expect("it waits");
        signals.on(|| panic!("by the test"), || unreachable!("it has ended"), deaf).expect("a thread");
        let killed = Command::new("kill").args(["-TERM", &process::id().to_string()]).status().expect("kill runs");
        assert!(killed.success());
        told.recv_timeout(Duration::from_secs(60)).expect("it is told");
    }
}
