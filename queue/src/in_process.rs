//! The queue of the embedded default: one bounded channel to the owner, one to each worker.

use crate::{SendError, ToOwner, ToWorker};
use pictor_tasks::message::{Input, StepKey, Try, WorkerId};
use std::collections::BTreeMap;
use tokio::sync::{mpsc, oneshot};

/// Reports that may wait for the owner, over all workers. A worker that finds it full waits.
const REPORTS: usize = 1024;
/// Messages that may wait for one worker. Workers empty theirs at once, so that cancels get through.
const TO_WORKER: usize = 256;

/// The owner's end.
#[derive(Debug)]
pub struct OwnerPort {
    reports: mpsc::Receiver<ToOwner>,
    workers: BTreeMap<WorkerId, mpsc::Sender<ToWorker>>,
}

/// One worker's end.
#[derive(Debug)]
pub struct WorkerPort {
    /// The worker's id.
    pub id: WorkerId,
    inbox: mpsc::Receiver<ToWorker>,
    reports: mpsc::Sender<ToOwner>,
}

/// A worker's sending half, which its tasks share.
#[derive(Clone, Debug)]
pub struct Sender {
    reports: mpsc::Sender<ToOwner>,
}

/// An owner and its workers, joined by channels.
pub fn in_process(workers: &[WorkerId]) -> (OwnerPort, Vec<WorkerPort>) {
    let (reports, owner_inbox) = mpsc::channel(REPORTS);
    let mut senders = BTreeMap::new();
    let mut ports = Vec::new();
    for &id in workers {
        let (sender, inbox) = mpsc::channel(TO_WORKER);
        senders.insert(id, sender);
        ports.push(WorkerPort { id, inbox, reports: reports.clone() });
    }
    (OwnerPort { reports: owner_inbox, workers: senders }, ports)
}

impl OwnerPort {
    /// Waits for at least one message, then takes what is there, up to `limit`. Nothing: every worker
    /// is gone. Cancel safe.
    pub async fn receive(&mut self, batch: &mut Vec<ToOwner>, limit: usize) -> usize {
        self.reports.recv_many(batch, limit).await
    }

    /// Takes what is there without waiting.
    pub fn try_receive(&mut self, batch: &mut Vec<ToOwner>, limit: usize) {
        while batch.len() < limit {
            match self.reports.try_recv() {
                Ok(message) => batch.push(message),
                Err(_) => break,
            }
        }
    }

    /// Sends to one worker. `Ok` is the publisher confirm: the message is in the worker's queue.
    pub fn publish(&self, worker: WorkerId, message: ToWorker) -> Result<(), SendError> {
        let sender = self.workers.get(&worker).ok_or(SendError::Gone)?;
        sender.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Full,
            mpsc::error::TrySendError::Closed(_) => SendError::Gone,
        })
    }
}

impl WorkerPort {
    /// The next message. Nothing: the owner is gone. Cancel safe.
    pub async fn receive(&mut self) -> Option<ToWorker> {
        self.inbox.recv().await
    }

    /// A sending half that tasks can keep.
    pub fn sender(&self) -> Sender {
        Sender { reports: self.reports.clone() }
    }
}

impl Sender {
    /// Sends to the owner, waiting while its queue is full.
    pub async fn send(&self, message: ToOwner) -> Result<(), SendError> {
        self.reports.send(message).await.map_err(|_| SendError::Gone)
    }

    /// Asks the owner what a task reads. Nothing: the task is no longer this worker's.
    pub async fn inputs(&self, key: StepKey, task: Try) -> Option<Vec<Input>> {
        let (reply, answer) = oneshot::channel();
        self.send(ToOwner::Inputs { key, task, reply }).await.ok()?;
        answer.await.ok()
    }
}
