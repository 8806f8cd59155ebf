//! The foundation of the rest of the executor: failures, progress, logs, the clock.

pub(crate) mod clock;
pub(crate) mod failure;
pub(crate) mod log;
pub(crate) mod progress;

use failure::failure;
use pictor_tasks::message::{Failure, FailureKind};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A path as text, for arguments and templates; a failure if it is not UTF-8.
pub(crate) fn text_of(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        failure(FailureKind::Storage, format!("The path {} is not UTF-8.", path.display()))
    })
}

/// Locks a mutex that only ever holds plain data: a panic elsewhere cannot have left it inconsistent.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
