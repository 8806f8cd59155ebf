//! Writes the audit log: entries that come while others are being written are written together.

use pictor_storage::{AuditEntry, Registry};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot::{self, error::TryRecvError};

/// Why entries were not written.
type Written = Result<(), Arc<str>>;

/// Entries on their way to the database.
#[derive(Debug, Default)]
pub(super) struct AuditLog {
    waiting: Mutex<Vec<(AuditEntry, oneshot::Sender<Written>)>>,
    writing: tokio::sync::Mutex<()>,
}

impl AuditLog {
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
        for reply in replies {
            // Whoever waited for it may have given up.
            let _ = reply.send(written.clone());
        }
        written
    }
}
