//! Locks that outlive a panic of who held them.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks. What is behind the locks here is whole at any moment, so a panic elsewhere is no reason for another.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
