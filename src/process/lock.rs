//! Locks a mutex even if a thread panicked while it held it. State: none. Failure: none.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, even if it is poisoned. The data behind the locks of this crate is consistent at every moment, so a panic of
/// another thread is no reason to panic here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
