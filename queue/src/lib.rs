//! How work travels between the owner (the one server that folds and commits) and its workers: the
//! traits, and behind them bounded channels in one process, or RabbitMQ. Delivery is *at least once*:
//! every message may come twice, and the committed history decides.

mod in_process;
mod rabbit;
mod ticket;
mod wire;

pub use in_process::{OwnerPort, Sender, WorkerPort, in_process};
pub use rabbit::{Address, Broker, BrokerError, Depth, RabbitOwner, RabbitReports, RabbitWorker};
pub use ticket::{BadTicket, Sealer, Ticket};

use async_trait::async_trait;
use pictor_tasks::message::{Assignment, Cancel, Input, Report, StepKey, Try, WorkerId};
use pictor_tasks::worker::Inventory;
use std::fmt;
use tokio::sync::oneshot;

/// A message from the owner to one worker.
#[derive(Clone, Debug, PartialEq)]
pub enum ToWorker {
    /// Do these tasks.
    Assign(Assignment),
    /// Stop these tasks.
    Cancel(Cancel),
}

/// A message to the owner.
#[derive(Debug)]
pub enum ToOwner {
    /// A worker is there, with these things.
    Joined(WorkerId, Inventory),
    /// A worker is alive and holds these tries (running or waiting in it).
    Heartbeat(WorkerId, Vec<(StepKey, Vec<Try>)>),
    /// Something happened to a worker's tasks.
    Report(Report),
    /// A worker wants to start a task and asks what it reads. No answer (a dropped sender): the task is
    /// no longer the worker's.
    Inputs {
        /// The step.
        key: StepKey,
        /// The task.
        task: Try,
        /// Where the answer goes.
        reply: oneshot::Sender<Vec<Input>>,
    },
    /// A worker goes away in good order; it holds nothing any more.
    Left(WorkerId),
    /// A server's own mark, as given to [`OwnerQueue::barrier`]: whatever was queued before it has been
    /// received. One that nobody here waits for is another server's, and means nothing.
    Barrier(u64),
}

/// What the owner's end of the queue receives.
#[derive(Debug)]
pub enum Incoming {
    /// A message.
    Message(ToOwner),
    /// The answer to a publication that was [`Publication::Pending`].
    Published {
        /// The assignment's id.
        id: u64,
        /// Whether it is safely in the worker's queue. If not it may be there all the same.
        confirmed: bool,
    },
    /// A message that cannot be accepted: it cannot be decoded, or it lacks a valid ticket.
    Rejected {
        /// Why, for people.
        reason: String,
        /// The message as it came.
        raw: Vec<u8>,
    },
}

/// What is known of a publication at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publication {
    /// The message is in the worker's queue.
    Confirmed,
    /// It is not.
    Failed(SendError),
    /// For an assignment [`Incoming::Published`] follows; of a cancel nothing more is heard.
    Pending,
}

/// Why a message could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Nobody listens at the other end any more.
    #[error("send a message: the other side is gone")]
    Gone,
    /// The other end does not keep up; try again later.
    #[error("send a message: the other side's queue is full")]
    Full,
    /// The broker cannot be reached; try again later.
    #[error("send a message: the broker is away")]
    Away,
}

impl SendError {
    /// Whether the same message may be accepted later.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Full | Self::Away)
    }
}

/// The owner's end of the queue.
///
/// A server calls [`elected`](Self::elected), raises the epoch in its store, calls
/// [`begin`](Self::begin), loads history, and folds up to a [`barrier`](Self::barrier). Then it
/// receives, commits, and acknowledges, in this order.
#[async_trait]
pub trait OwnerQueue: Send {
    /// Waits until what workers report comes to this server and to no other. Whatever was received
    /// before and not acknowledged will be received again. Cancel safe.
    async fn elected(&mut self);

    /// From now on this server is the owner in this epoch: its assignments carry tickets made with the
    /// key, and reports are checked with it. Before this nothing is received.
    fn begin(&mut self, epoch: u64, ticket_key: [u8; 32]);

    /// Waits for at least one message, then takes what is there, up to `limit`, and says how many these
    /// are. None: everybody is gone for good. Cancel safe.
    async fn receive(&mut self, batch: &mut Vec<Incoming>, limit: usize) -> usize;

    /// Takes what is there without waiting, until the batch has `limit` messages.
    fn try_receive(&mut self, batch: &mut Vec<Incoming>, limit: usize);

    /// Everything that was received so far is committed: it need not be delivered again.
    fn acknowledge(&mut self);

    /// Sends to one worker, without waiting.
    fn publish(&mut self, worker: WorkerId, message: ToWorker) -> Publication;

    /// Puts a mark behind everything that is queued for the owner now, also if the broker is away for a
    /// while. It comes back as [`ToOwner::Barrier`], perhaps more than once. Draw it at random.
    fn barrier(&mut self, mark: u64);

    /// Whether everything that workers had sent when the broker was last reached has been received. If
    /// not, silence says nothing about a worker, and no lease may expire.
    fn is_drained(&self) -> bool;
}

/// A worker's receiving end of the queue.
#[async_trait]
pub trait WorkerQueue: Send {
    /// The next message. Nothing: the owner is gone for good. Cancel safe.
    async fn receive(&mut self) -> Option<Delivery>;
}

/// A worker's sending half, which its tasks share.
#[async_trait]
pub trait Outbox: Send + Sync + fmt::Debug {
    /// Sends to the owner. `Ok`: the message will reach it. Waits as long as that takes, also through
    /// outages.
    async fn send(&self, message: ToOwner) -> Result<(), SendError>;

    /// Asks the owner whether a task is (still) this worker's, and what it reads. Nothing: it is not.
    async fn inputs(&self, key: StepKey, task: Try) -> Option<Vec<Input>>;
}

/// A message for a worker.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: ToWorker,
    /// To be settled when the message need not come again.
    pub receipt: Receipt,
    /// It may have waited for this worker while it was away: whether its tasks are still this worker's is to be
    /// asked before they are started.
    pub is_kept: bool,
}

/// Stands for a delivery until it is settled. One that is dropped instead lets the message come again
/// when the worker connects next.
#[must_use = "a delivery that is not settled comes again"]
#[derive(Default)]
pub struct Receipt(Option<Box<dyn FnOnce() + Send>>);

impl Receipt {
    /// A receipt that does this when it is settled.
    pub fn new(settle: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(settle)))
    }

    /// The message need not come again: its tasks are claimed, or everything about them was reported.
    pub fn settle(self) {
        if let Some(settle) = self.0 {
            settle();
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receipt")
    }
}
