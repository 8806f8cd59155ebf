//! Runs: what is submitted, how far it is, and how it is changed.

use crate::{RunState, Task, TaskState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many tasks are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskCounts {
    /// They wait for other tasks.
    pub pending: u64,
    /// They may be assigned to a worker.
    pub ready: u64,
    /// A worker's queue holds them.
    pub queued: u64,
    /// A worker has claimed them.
    pub running: u64,
    /// Their success is committed.
    pub succeeded: u64,
    /// They failed and are not tried again.
    pub failed: u64,
    /// Something that they need did not succeed.
    pub skipped: u64,
    /// They were given up.
    pub cancelled: u64,
}

impl TaskCounts {
    /// As many in each state as this says.
    pub fn of(count: impl Fn(TaskState) -> u64) -> Self {
        Self {
            pending: count(TaskState::Pending),
            ready: count(TaskState::Ready),
            queued: count(TaskState::Queued),
            running: count(TaskState::Running),
            succeeded: count(TaskState::Succeeded),
            failed: count(TaskState::Failed),
            skipped: count(TaskState::Skipped),
            cancelled: count(TaskState::Cancelled),
        }
    }

    /// How many are in a state.
    pub fn get(&self, state: TaskState) -> u64 {
        match state {
            TaskState::Pending => self.pending,
            TaskState::Ready => self.ready,
            TaskState::Queued => self.queued,
            TaskState::Running => self.running,
            TaskState::Succeeded => self.succeeded,
            TaskState::Failed => self.failed,
            TaskState::Skipped => self.skipped,
            TaskState::Cancelled => self.cancelled,
        }
    }
}

/// A run in a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunSummary {
    /// Its id.
    pub id: String,
    /// The job's name.
    pub name: String,
    /// Its state.
    pub state: RunState,
    /// The account that submitted it.
    pub owner: String,
    /// Its priority: now if `tasks` are known, else when it was submitted.
    pub priority: i32,
    /// When it was submitted, milliseconds since 1970.
    pub created_ms: i64,
    /// When it ended, milliseconds since 1970.
    pub finished_ms: Option<i64>,
    /// Its tasks by state. A list has them while a run is not over, and for a moment after.
    pub tasks: Option<TaskCounts>,
}

/// One step of a run, in numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Step {
    /// Its name.
    pub name: String,
    /// The kind of work.
    pub kind: String,
    /// The dimensions that it runs over.
    pub over: Vec<String>,
    /// How many tasks it has; null while a dimension of it is not known yet.
    pub size: Option<u32>,
    /// Its tasks by state.
    pub tasks: TaskCounts,
    /// The mean duration of its successes so far, in milliseconds.
    pub mean_ms: Option<f64>,
    /// How much of its running tasks is done, in tasks: 1.5 is one and a half; null if none of them says.
    #[serde(default)]
    pub progress: Option<f32>,
    /// Tasks that succeeded and left nothing, although the step's results are delivered: pictures that were left
    /// out, for instance.
    #[serde(default)]
    pub left_out: u32,
}

/// One run in detail.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunDetail {
    /// What lists of runs say about it.
    #[serde(flatten)]
    pub run: RunSummary,
    /// The job file's name.
    pub source_name: String,
    /// Its steps, in the order of the job.
    pub steps: Vec<Step>,
    /// The estimated time to the end, in milliseconds; null while too little is known.
    pub eta_ms: Option<u64>,
    /// The first failed tasks.
    pub failures: Vec<Task>,
    /// The first tasks that could be assigned and are not, with the reason.
    pub waiting: Vec<Task>,
    /// What is odd and no failure: limits that nobody defines, and what workers said of tasks that have
    /// succeeded, each sentence once; the first hundred.
    #[serde(default)]
    pub notes: Vec<Note>,
    /// How often something else was said.
    #[serde(default)]
    pub notes_left_out: u32,
}

/// What workers said of tasks that have succeeded: a scene's scripts were blocked, files are missing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Note {
    /// The sentence.
    pub text: String,
    /// How many tasks said it; 0 if it is about a step.
    pub tasks: u32,
    /// The first of them, or the step.
    pub example: String,
}

/// A run after a change.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Changed {
    /// The run.
    pub run: RunSummary,
}

/// Changes of a run's settings.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RunPatch {
    /// The new priority: higher goes first.
    pub priority: i32,
}

/// Which tasks to do again.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RetryRequest {
    /// Tasks (`render[frame=7]`) and steps (`render`); none: all that failed or were cancelled.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(max_items = 10_000))]
    pub tasks: Vec<String>,
    /// Settings of the job that are changed before, each with a value that is read as YAML: `upscale.on_error`,
    /// `retry.attempts`, `retry.backoff`, `timeout`, `stalled`, `on_failure`, `max_failures`, `priority`. They go
    /// for all steps. With settings and no task that failed, only the settings are changed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(example = json!({ "upscale.on_error": "copy" })))]
    pub set: BTreeMap<String, String>,
    /// Only say how many tasks that would be.
    #[serde(default)]
    pub dry_run: bool,
}

/// Which tasks to do again, whatever their state.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ResetRequest {
    /// Tasks (`render[frame=7]`) and steps (`render`).
    #[cfg_attr(feature = "openapi", schema(min_items = 1, max_items = 10_000))]
    pub tasks: Vec<String>,
    /// Only say how many tasks that would be.
    #[serde(default)]
    pub dry_run: bool,
}

/// What is or would be done again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResetAnswer {
    /// How many tasks: those that were named, everything that was built on them, and `remade`.
    pub count: u64,
    /// How many of them had succeeded and left what was removed since, because nobody read it any more.
    pub remade: u64,
    /// The run, unless this was only asked for.
    pub run: Option<RunSummary>,
}
