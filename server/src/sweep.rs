//! Deletes the artifacts that history says are removed. This happens beside the owner loop, which never waits for
//! storage.
//!
//! **Invariant:** nothing is deleted before the commit that says so. What a crash leaves in between are artifacts that
//! nobody is given any more. Whoever loads an unfinished run deletes again everything that its history has removed; for
//! ended runs every prune does so.

use pictor_artifacts::{Artifacts, run_folder};
use pictor_engine::Run;
use pictor_tasks::message::RunId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::warn;

/// Most deletions that may be pending. Further ones are left to a prune.
const WAITING_MAX: usize = 1024;
/// Pause before storage that does not respond is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How long an owner that ends waits for pending deletions.
const END: Duration = Duration::from_secs(3);

/// The artifacts of a run that one commit removed.
type Deletion = (RunId, Vec<String>);

/// Deletes artifacts in the background, in order.
pub(crate) struct Sweeper {
    deletions: mpsc::Sender<Deletion>,
    work: JoinHandle<()>,
}

impl Sweeper {
    /// Starts to delete from this storage.
    pub(crate) fn start(artifacts: Arc<Artifacts>) -> Self {
        let (deletions, mut waiting) = mpsc::channel::<Deletion>(WAITING_MAX);
        let work = tokio::spawn(async move {
            while let Some((run, keys)) = waiting.recv().await {
                sweep(&artifacts, &run, &keys).await;
            }
        });
        Self { deletions, work }
    }

    /// Schedules artifacts for deletion.
    pub(crate) fn schedule(&self, run: RunId, keys: Vec<String>) {
        if self.deletions.try_send((run, keys)).is_err() {
            warn!(
                "artifacts that nobody reads are not deleted fast enough: a prune will find them"
            );
        }
    }

    /// Waits for pending deletions, but not for ever.
    pub(crate) async fn end(self) {
        let Self { deletions, mut work } = self;
        drop(deletions);
        if tokio::time::timeout(END, &mut work).await.is_err() {
            work.abort();
        }
    }
}

/// Deletes again what the history of a loaded run has removed, since the process responsible for it may have died.
pub async fn sweep_again(run: &Run, artifacts: &Artifacts) {
    let deleted = artifacts.remove_below(&run_folder(run.id()), run.pending_deletions()).await;
    if let Err(failure) = deleted {
        warn!(error = %failure, run = %run.id(), "artifacts that nobody reads cannot be deleted");
    }
}

/// Deletes artifacts of a run; repeats this until storage responds.
async fn sweep(artifacts: &Artifacts, run: &RunId, keys: &[String]) {
    let mut told = false;
    // A worker chose the keys: none may reach artifacts of other runs.
    while let Err(failure) = artifacts.remove_below(&run_folder(run), keys).await {
        if !std::mem::replace(&mut told, true) {
            warn!(error = %failure, run = %run, "artifacts that nobody reads cannot be deleted");
        }
        if !failure.is_retryable() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}
