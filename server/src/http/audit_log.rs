//! Writes the audit log: entries that come while others are being written are written together.

use pictor_storage::{AuditEntry, Registry};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot::{self, error::TryRecvError};

/// Why entries were not written.
type Written = Result<(), Arc<str>>;

/// Entries after which the oldest ones are removed.
const FORGET: u64 = 1000;

/// Entries on their way to the database.
#[derive(Debug)]
pub(super) struct AuditLog {
    /// Milliseconds for which entries are kept; below, most entries.
    age_ms: i64,
    most: u64,
    /// Entries that were written since the oldest ones were removed. At the start nobody knows how many there are.
    since: Mutex<u64>,
    waiting: Mutex<Vec<(AuditEntry, oneshot::Sender<Written>)>>,
    writing: tokio::sync::Mutex<()>,
}

impl AuditLog {
    /// A log that keeps its entries for so many milliseconds, and so many of them.
    pub(super) fn new(age_ms: u64, most: u64) -> Self {
        let age_ms = i64::try_from(age_ms).unwrap_or(i64::MAX);
        let (since, waiting) = (Mutex::new(u64::MAX), Mutex::default());
        Self { age_ms, most, since, waiting, writing: tokio::sync::Mutex::default() }
    }

    /// Removes the oldest entries, once in a while.
    async fn forget(&self, registry: &dyn Registry, written: usize, now_ms: i64) {
        {
            let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
            *since = since.saturating_add(written as u64);
            if *since < FORGET.min(self.most) {
                return;
            }
            *since = 0;
        }
        if let Err(error) = registry.forget_audit(now_ms - self.age_ms, self.most).await {
            tracing::warn!(%error, "old entries of the audit log are not removed");
        }
    }

    /// Returns once the entry is written.
    pub(super) async fn write(&self, registry: &dyn Registry, entry: AuditEntry) -> Written {
        let (reply, mut answer) = oneshot::channel();
        let lock = || self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        lock().push((entry, reply));
        let _turn = self.writing.lock().await;
        match answer.try_recv() {
            Ok(written) => return written,
            Err(TryRecvError::Closed) => return Err("the database does not answer".into()),
            Err(TryRecvError::Empty) => {}
        }
        let (entries, replies): (Vec<_>, Vec<_>) = std::mem::take(&mut *lock()).into_iter().unzip();
        let written = registry.audit(&entries).await.map_err(|error| error.to_string().into());
        if let (Ok(()), Some(last)) = (&written, entries.last()) {
            self.forget(registry, entries.len(), last.time_ms).await;
        }
        for reply in replies {
            // Whoever waited for it may have given up.
            let _ = reply.send(written.clone());
        }
        written
    }
}
