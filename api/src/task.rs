//! Tasks and their attempts.

use crate::{Output, TaskState};
use serde::{Deserialize, Serialize};

/// A task of a run, with its current attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Task {
    /// Name of the task, such as `render[frame=7,tile=3]`.
    pub name: String,
    /// Name of the step that it belongs to.
    pub step: String,
    /// Index of the task in its step, from 0.
    pub index: u32,
    /// Current state of the task.
    pub state: TaskState,
    /// Number of the current attempt, from 1.
    pub attempt: u32,
    /// Why it is not running, why it failed, or how far it is, for people to read.
    pub reason: String,
    /// Id of the worker that has it, or had it when it ended.
    pub worker: Option<u32>,
    /// Name of that worker.
    #[serde(default)]
    pub worker_name: Option<String>,
    /// Completed fraction, from 0 to 1, of a running task that reports it.
    pub progress: Option<f32>,
}

/// State of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AttemptState {
    /// It has not ended yet.
    Running,
    /// It succeeded: the work was done.
    Succeeded,
    /// It failed, as `message` says.
    Failed,
    /// The worker stopped it because it was told to.
    Cancelled,
    /// The worker was silent for longer than its lease.
    Lost,
}

impl AttemptState {
    /// Name of the state, as it is sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

/// An attempt at a task.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Attempt {
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Id of the execution, in hex: one attempt may be started several times.
    pub execution: String,
    /// Id of the worker that executed it.
    pub worker: u32,
    /// State of the attempt.
    pub state: AttemptState,
    /// When it started, in milliseconds since 1970.
    pub started_ms: i64,
    /// How long it took, in milliseconds; null while it is running.
    pub took_ms: Option<u32>,
    /// Why it failed; null unless it did.
    pub message: Option<String>,
    /// Remarks of the worker that are no failures.
    pub notes: Vec<String>,
}

/// A task with its attempts and outputs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskDetail {
    /// The task itself, as in a list.
    pub task: Task,
    /// Attempts so far, in order.
    pub attempts: Vec<Attempt>,
    /// Outputs of the attempt that was accepted.
    pub outputs: Vec<Output>,
}
