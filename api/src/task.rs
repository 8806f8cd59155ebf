//! Tasks and their attempts.

use crate::{Output, TaskState};
use serde::{Deserialize, Serialize};

/// One task.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Task {
    /// As in `render[frame=7,tile=3]`.
    pub name: String,
    /// Its step.
    pub step: String,
    /// Its index in the step.
    pub index: u32,
    /// Its state.
    pub state: TaskState,
    /// The present attempt, from 1.
    pub attempt: u32,
    /// Why it is not running, why it failed, or how far it is, for people.
    pub reason: String,
    /// The worker that has it, or had it when it ended.
    pub worker: Option<u32>,
    /// What that worker is called.
    #[serde(default)]
    pub worker_name: Option<String>,
    /// From 0 to 1, for a running task that says so.
    pub progress: Option<f32>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AttemptState {
    /// It has not ended.
    Running,
    /// The work was done.
    Succeeded,
    /// It failed.
    Failed,
    /// The worker gave it up because it was told to.
    Cancelled,
    /// Nobody heard of it again.
    Lost,
}

/// One try at a task.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Attempt {
    /// Its number, from 1.
    pub attempt: u32,
    /// Which carrying-out of it, in hex.
    pub execution: String,
    /// The worker.
    pub worker: u32,
    /// How it ended.
    pub state: AttemptState,
    /// When it started, milliseconds since 1970.
    pub started_ms: i64,
    /// How long it took, in milliseconds; null while it runs.
    pub took_ms: Option<u32>,
    /// Why it failed.
    pub message: Option<String>,
    /// What else the worker said.
    pub notes: Vec<String>,
}

/// One task with its attempts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskDetail {
    /// The task.
    pub task: Task,
    /// Its attempts so far, in order.
    pub attempts: Vec<Attempt>,
    /// Its accepted outputs.
    pub outputs: Vec<Output>,
}
