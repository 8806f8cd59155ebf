//! What every other part of the executor stands on: failures, progress, logs, the clock.

pub(crate) mod clock;
pub(crate) mod failure;
pub(crate) mod log;
pub(crate) mod progress;

use failure::failure;
use pictor_tasks::message::{Failure, FailureKind};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The path as text, for arguments and templates.
pub(crate) fn text_of(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        failure(FailureKind::Storage, format!("The path {} is not UTF-8.", path.display()))
    })
}

/// Locks what only ever holds plain data: a panic elsewhere cannot have left it half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
