//! SIGINT and SIGTERM: the first one stops in order, the second one at once.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM, caught from here on.
pub struct StopSignals {
    runtime: runtime::Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Catches both from here on.
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
    pub fn flag(mut self) -> Arc<AtomicBool> {
        let raised = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&raised);
        thread::spawn(move || {
            self.wait();
            flag.store(true, Ordering::Relaxed);
            self.wait();
            process::exit(130);
        });
        raised
    }
}
