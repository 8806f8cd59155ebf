//! The queue of the embedded default: one bounded channel to the owner, one to each worker. Its contents die with the
//! process, so nothing needs to be acknowledged, and no tickets are needed to check messages.

use crate::{
    Delivery, Incoming, Outbox, OwnerQueue, Publication, Receipt, SendError, ToOwner, ToWorker,
    WorkerQueue,
};
use async_trait::async_trait;
use pictor_tasks::message::{Input, StepKey, Try, WorkerId};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker, ready};
use tokio::sync::{mpsc, oneshot};

/// Reports that may wait for the owner, from all workers together. A worker that finds it full waits.
const REPORTS: usize = 1024;
/// Messages that may wait for one worker. Workers drain theirs at once, so cancels always get through.
const TO_WORKER: usize = 256;

/// The owner's end of the queue.
#[derive(Debug)]
pub struct OwnerPort {
    reports: mpsc::Receiver<ToOwner>,
    workers: BTreeMap<WorkerId, mpsc::Sender<ToWorker>>,
    /// Marks, each with the number of messages still before it (counted from the previous mark).
    marks: VecDeque<(usize, u64)>,
}

/// One worker's end of the queue.
#[derive(Debug)]
pub struct WorkerPort {
    /// Id of the worker that uses this end.
    pub id: WorkerId,
    inbox: mpsc::Receiver<ToWorker>,
    reports: mpsc::Sender<ToOwner>,
}

/// A worker's sending half, shared by its tasks.
#[derive(Clone, Debug)]
pub struct Sender {
    reports: mpsc::Sender<ToOwner>,
}

/// Connects an owner and its workers by channels.
pub fn in_process(workers: &[WorkerId]) -> (OwnerPort, Vec<WorkerPort>) {
    let (reports, owner_inbox) = mpsc::channel(REPORTS);
    let mut senders = BTreeMap::new();
    let mut ports = Vec::new();
    for &id in workers {
        let (sender, inbox) = mpsc::channel(TO_WORKER);
        senders.insert(id, sender);
        ports.push(WorkerPort { id, inbox, reports: reports.clone() });
    }
    (OwnerPort { reports: owner_inbox, workers: senders, marks: VecDeque::new() }, ports)
}

impl OwnerPort {
    /// The next message or mark. Returns `None` when every worker is gone.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<ToOwner>> {
        if let Some((0, mark)) = self.marks.front().copied() {
            self.marks.pop_front();
            return Poll::Ready(Some(ToOwner::Barrier(mark)));
        }
        let message = ready!(self.reports.poll_recv(cx));
        if let Some((before, _)) = self.marks.front_mut() {
            *before = before.saturating_sub(1);
        }
        Poll::Ready(message)
    }
}

#[async_trait]
impl OwnerQueue for OwnerPort {
    async fn elected(&mut self) {}

    fn begin(&mut self, _epoch: u64, _ticket_key: [u8; 32]) {}

    async fn receive(&mut self, batch: &mut Vec<Incoming>, limit: usize) -> usize {
        let Some(first) = poll_fn(|cx| self.poll_next(cx)).await else { return 0 };
        let before = batch.len();
        batch.push(Incoming::Message(first));
        self.try_receive(batch, before + limit);
        batch.len() - before
    }

    fn try_receive(&mut self, batch: &mut Vec<Incoming>, limit: usize) {
        let mut cx = Context::from_waker(Waker::noop());
        while batch.len() < limit {
            let Poll::Ready(Some(message)) = self.poll_next(&mut cx) else { return };
            batch.push(Incoming::Message(message));
        }
    }

    fn acknowledge(&mut self) {}

    fn publish(&mut self, worker: WorkerId, message: ToWorker) -> Publication {
        let Some(sender) = self.workers.get(&worker) else {
            return Publication::Failed(SendError::Gone);
        };
        match sender.try_send(message) {
            Ok(()) => Publication::Confirmed,
            Err(mpsc::error::TrySendError::Full(_)) => Publication::Failed(SendError::Full),
            Err(mpsc::error::TrySendError::Closed(_)) => Publication::Failed(SendError::Gone),
        }
    }

    fn barrier(&mut self, mark: u64) {
        let counted: usize = self.marks.iter().map(|(before, _)| before).sum();
        self.marks.push_back((self.reports.len().saturating_sub(counted), mark));
    }

    fn is_drained(&self) -> bool {
        true
    }
}

impl WorkerPort {
    /// A sending half that tasks can keep.
    pub fn sender(&self) -> Sender {
        Sender { reports: self.reports.clone() }
    }
}

#[async_trait]
impl WorkerQueue for WorkerPort {
    async fn receive(&mut self) -> Option<Delivery> {
        let message = self.inbox.recv().await?;
        Some(Delivery { message, receipt: Receipt::default(), is_kept: false })
    }
}

#[async_trait]
impl Outbox for Sender {
    async fn send(&self, message: ToOwner) -> Result<(), SendError> {
        self.reports.send(message).await.map_err(|_| SendError::Gone)
    }

    async fn inputs(&self, key: StepKey, task: Try) -> Option<Vec<Input>> {
        let (reply, answer) = oneshot::channel();
        self.send(ToOwner::Inputs { key, task, reply }).await.ok()?;
        answer.await.ok()
    }
}
