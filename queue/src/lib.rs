//! How work travels between the owner (the one server that folds and commits) and its workers: the traits, and their
//! implementations with bounded channels in one process, or with RabbitMQ. Delivery is *at least once*: every message
//! may arrive twice, and the committed history decides.

mod in_process;
mod rabbit;
mod ticket;
mod wire;

pub use in_process::{OwnerPort, Sender, WorkerPort, in_process};
pub use rabbit::{Address, Broker, BrokerError, Depth, RabbitOwner, RabbitReports, RabbitWorker};
pub use ticket::{BadTicket, Sealer, Ticket};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use pictor_tasks::message::{Assignment, Cancel, Input, Report, StepKey, Try, WorkerId};
use pictor_tasks::worker::Inventory;
use std::fmt;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A message from the owner to one worker.
#[derive(Clone, Debug, PartialEq)]
pub enum ToWorker {
    /// Execute these tasks.
    Assign(Assignment),
    /// Stop executing these tasks.
    Cancel(Cancel),
}

/// A message to the owner.
#[derive(Debug)]
pub enum ToOwner {
    /// A worker has joined, with this inventory.
    Joined(WorkerId, Inventory),
    /// A worker is alive and holds these attempts (running or waiting in it).
    /// That these were assigned to it is certain: it has shown their tickets, or is part of this process.
    Heartbeat(WorkerId, Vec<(StepKey, Vec<Try>)>),
    /// A worker says that it holds these attempts, and has shown no tickets for them. What it has according to the owner
    /// it keeps, and nothing more.
    Unproven(WorkerId, Vec<(StepKey, Vec<Try>)>),
    /// Something happened to a worker's tasks.
    Report(Report),
    /// A worker wants to start a task and asks for its inputs. A dropped sender is the answer that the task is no
    /// longer the worker's.
    Inputs {
        /// Run, step and generation that the task belongs to.
        key: StepKey,
        /// The task, with its attempt.
        task: Try,
        /// Receives the inputs of the task.
        reply: oneshot::Sender<Vec<Input>>,
    },
    /// A worker signs off; it holds no tasks any more.
    Left(WorkerId),
    /// A server's own mark, as given to [`OwnerQueue::barrier`]: whatever was queued before it has been received. A
    /// mark that nobody here waits for comes from another server and means nothing.
    Barrier(u64),
}

/// What the owner's end of the queue receives.
#[derive(Debug)]
pub enum Incoming {
    /// A message from a worker.
    Message(ToOwner),
    /// The result of a publication that was [`Publication::Pending`].
    Published {
        /// Id of the assignment.
        id: u64,
        /// Whether the worker's queue has it for certain. If not, it may have it nevertheless.
        confirmed: bool,
    },
    /// A message that cannot be accepted: it cannot be decoded, or lacks a valid ticket.
    Rejected {
        /// Why, for people to read.
        reason: String,
        /// The message as it arrived.
        raw: Vec<u8>,
    },
}

/// Looks at a report that carries valid tickets before the owner receives it, and may change it. Reports keep their order,
/// so one that takes long holds up those behind it.
#[derive(Clone)]
pub struct Check(Arc<dyn Fn(Report) -> BoxFuture<'static, Report> + Send + Sync>);

impl Check {
    /// A check by this function.
    pub fn new<F>(check: impl Fn(Report) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Report> + Send + 'static,
    {
        Self(Arc::new(move |report| Box::pin(check(report))))
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Check")
    }
}

/// The immediate result of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publication {
    /// The message is in the worker's queue.
    Confirmed,
    /// The message was not sent.
    Failed(SendError),
    /// For an assignment [`Incoming::Published`] follows; for a cancel, nothing.
    Pending,
}

/// Why a message could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The other end no longer exists.
    #[error("send a message: the other side is gone")]
    Gone,
    /// The other end does not keep up; retry later.
    #[error("send a message: the other side's queue is full")]
    Full,
    /// The broker cannot be reached; retry later.
    #[error("send a message: the broker is away")]
    Away,
}

/// The owner's end of the queue.
///
/// A server calls [`elected`](Self::elected), raises the epoch in its store, calls [`begin`](Self::begin), loads
/// history, and folds up to a [`barrier`](Self::barrier). From then on it receives, commits and acknowledges, in this
/// order.
#[async_trait]
pub trait OwnerQueue: Send {
    /// Waits until reports of workers come to this server and to no other. Whatever was received before and not
    /// acknowledged will be received again. Cancel safe.
    async fn elected(&mut self);

    /// Makes this server the owner in this epoch: its assignments carry tickets made with the key, and reports are
    /// checked with it. Nothing is received before.
    fn begin(&mut self, epoch: u64, ticket_key: [u8; 32]);

    /// Waits for at least one message, then takes those that have arrived, up to `limit`, and returns their number.
    /// Returns 0 when every worker is gone for good. Cancel safe.
    async fn receive(&mut self, batch: &mut Vec<Incoming>, limit: usize) -> usize;

    /// Takes the messages that have arrived, without waiting, until the batch has `limit` of them.
    fn try_receive(&mut self, batch: &mut Vec<Incoming>, limit: usize);

    /// Marks everything received so far as committed: it need not be delivered again.
    fn acknowledge(&mut self);

    /// Sends a message to one worker, without waiting.
    fn publish(&mut self, worker: WorkerId, message: ToWorker) -> Publication;

    /// Puts a mark behind everything that is queued for the owner now, even if the broker is away for a while. It comes
    /// back as [`ToOwner::Barrier`], perhaps more than once. `mark` should be random.
    fn barrier(&mut self, mark: u64);

    /// Whether everything that workers had sent when the broker was last reached has been received. If not, a worker's
    /// silence means nothing, and no lease may expire.
    fn is_drained(&self) -> bool;
}

/// A worker's receiving end of the queue.
#[async_trait]
pub trait WorkerQueue: Send {
    /// The next message. Returns `None` when the owner is gone for good. Cancel safe.
    async fn receive(&mut self) -> Option<Delivery>;
}

/// A worker's sending half, shared by its tasks.
#[async_trait]
pub trait Outbox: Send + Sync + fmt::Debug {
    /// Sends a message to the owner. After `Ok` the message will reach it. Waits as long as that takes, even through
    /// outages.
    async fn send(&self, message: ToOwner) -> Result<(), SendError>;

    /// Asks the owner whether a task is (still) this worker's, and for its inputs. Returns `None` if it is not.
    async fn inputs(&self, key: StepKey, task: Try) -> Option<Vec<Input>>;
}

/// A message for a worker, with its receipt.
#[derive(Debug)]
pub struct Delivery {
    /// The assignment or cancel that was delivered.
    pub message: ToWorker,
    /// To be settled when the message need not be delivered again.
    pub receipt: Receipt,
    /// Whether it may have waited while this worker was away: before its tasks are started, the owner has to be asked
    /// whether they are still this worker's.
    pub is_kept: bool,
}

/// Stands for a delivery until it is settled. If it is dropped instead, the message is delivered again the next time
/// the worker connects.
#[must_use = "a delivery that is not settled comes again"]
#[derive(Default)]
pub struct Receipt(Option<Box<dyn FnOnce() + Send>>);

impl Receipt {
    /// A receipt that calls `settle` when it is settled.
    pub fn new(settle: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(settle)))
    }

    /// Declares that the message need not be delivered again: its tasks are claimed, or all their results were
    /// reported.
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
