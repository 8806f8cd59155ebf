//! How work travels between the owner (the one server that folds and commits) and its workers. Here:
//! in-process, over bounded channels, without serialisation. Delivery is *at least once* by contract:
//! nobody may rely on a message arriving exactly once, although in-process it does.

mod in_process;

pub use in_process::{OwnerPort, Sender, WorkerPort, in_process};

use pictor_tasks::message::{Assignment, Cancel, Input, Report, StepKey, Try, WorkerId};
use pictor_tasks::worker::Inventory;
use tokio::sync::oneshot;

/// A message from the owner to one worker.
#[derive(Clone, Debug, PartialEq)]
pub enum ToWorker {
    /// Do these tasks.
    Assign(Assignment),
    /// Stop these tasks.
    Cancel(Cancel),
}

/// A message from a worker to the owner.
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
}
