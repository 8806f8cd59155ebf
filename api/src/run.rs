//! Runs: how they are shown, and requests that change them.

use crate::{RunState, Task, TaskState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Number of tasks in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskCounts {
    /// Waiting for other tasks.
    pub pending: u64,
    /// Ready to be assigned to a worker.
    pub ready: u64,
    /// Assigned: a worker's queue holds them.
    pub queued: u64,
    /// Claimed by a worker, which executes them.
    pub running: u64,
    /// Succeeded, which is committed.
    pub succeeded: u64,
    /// Failed, without another attempt to come.
    pub failed: u64,
    /// Skipped, because something that they depend on did not succeed.
    pub skipped: u64,
    /// Cancelled before they succeeded.
    pub cancelled: u64,
}

impl TaskCounts {
    /// Counts given by a function of the state.
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

    /// The number of tasks in a state.
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

/// A run, as a list shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunSummary {
    /// Id of the run, such as `turntable-3f9k2`.
    pub id: String,
    /// Name of the job, as the job file has it.
    pub name: String,
    /// Current state of the run.
    pub state: RunState,
    /// Account that submitted it.
    pub owner: String,
    /// Current priority if `tasks` is set, else the priority at submission.
    pub priority: i32,
    /// When it was submitted, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it ended, in milliseconds since 1970; null until then.
    pub finished_ms: Option<i64>,
    /// Its tasks by state. In a list only while the run has not ended, and for a moment after.
    pub tasks: Option<TaskCounts>,
    /// Whether it has not ended although no process works on it, which is possible in a data folder only: `pictor
    /// resume` continues it.
    #[serde(default)]
    pub interrupted: bool,
    /// Folder on this machine that its results are delivered to; null for a run on a server.
    #[serde(default)]
    pub out_dir: Option<String>,
    /// Why nothing of it is executed although it has not ended: it cannot be loaded, because it is damaged, too large, or
    /// from another version of pictor. It can only be cancelled. Usually null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<String>,
}

/// A step of a run, in numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Step {
    /// Name of the step, unique in the job.
    pub name: String,
    /// Kind of the step, such as `blender`.
    pub kind: String,
    /// Names of the dimensions that it runs over.
    pub over: Vec<String>,
    /// Number of its tasks; null while one of its dimensions is not known yet.
    pub size: Option<u32>,
    /// Number of its tasks in each state.
    pub tasks: TaskCounts,
    /// Mean duration of its successful tasks so far, in milliseconds; null before the first.
    pub mean_ms: Option<f64>,
    /// Completed part of its running tasks, counted in tasks: 1.5 is one and a half; null if none of them reports it.
    #[serde(default)]
    pub progress: Option<f32>,
    /// Tasks that succeeded without outputs although the step's results are delivered: for instance pictures that were
    /// left out.
    #[serde(default)]
    pub left_out: u32,
}

/// A run with its steps, failures and remarks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunDetail {
    /// The run, as a list shows it.
    #[serde(flatten)]
    pub run: RunSummary,
    /// Name of the job file.
    pub source_name: String,
    /// Its steps, in the order of the job.
    pub steps: Vec<Step>,
    /// Estimated time to the end, in milliseconds; null while there is too little to estimate it from.
    pub eta_ms: Option<u64>,
    /// The first failed tasks, with the reason.
    pub failures: Vec<Task>,
    /// The first tasks that could be assigned but are not, with the reason.
    pub waiting: Vec<Task>,
    /// Remarks that are no failures: limits that nobody defines, and what workers reported about tasks that succeeded,
    /// each sentence once; the first hundred.
    #[serde(default)]
    pub notes: Vec<Note>,
    /// Number of remarks that are left out.
    #[serde(default)]
    pub notes_left_out: u32,
}

/// What workers reported about tasks that succeeded: a scene's scripts were blocked, files are missing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Note {
    /// The sentence, for people to read.
    pub text: String,
    /// Number of tasks that it was reported for; 0 if it is about a step.
    pub tasks: u32,
    /// Name of the first of these tasks, or of the step.
    pub example: String,
}

/// A run after a change.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Changed {
    /// The run, as it is after the change.
    pub run: RunSummary,
}

/// A change of a run's settings.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RunPatch {
    /// The new priority, from -100 to 100: runs of a higher one come first.
    #[cfg_attr(feature = "openapi", schema(minimum = -100, maximum = 100))]
    pub priority: i32,
}

/// Which tasks to execute again.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RetryRequest {
    /// Tasks (`render[frame=7]`) and steps (`render`); if empty, all tasks that failed or were cancelled.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(max_items = 10_000))]
    pub tasks: Vec<String>,
    /// Settings of the job to change first, each with a value that is parsed as YAML: `upscale.on_error`,
    /// `retry.attempts`, `retry.backoff`, `timeout`, `stalled`, `on_failure`, `max_failures`, `priority`. They apply to
    /// all steps. If settings are given and no task has failed, only the settings are changed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(example = json!({ "upscale.on_error": "copy" })))]
    pub set: BTreeMap<String, String>,
    /// Whether to only report how many tasks that would be.
    #[serde(default)]
    pub dry_run: bool,
}

/// Which tasks to execute again, whatever their state.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ResetRequest {
    /// Tasks (`render[frame=7]`) and steps (`render`).
    #[cfg_attr(feature = "openapi", schema(min_items = 1, max_items = 10_000))]
    pub tasks: Vec<String>,
    /// Whether to only report how many tasks that would be.
    #[serde(default)]
    pub dry_run: bool,
}

/// The tasks that are, or would be, executed again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResetAnswer {
    /// Number of tasks: those that were named, every task that depends on them, and `remade`.
    pub count: u64,
    /// Number of them that had succeeded, but whose outputs have been removed because no task needed them any more.
    pub remade: u64,
    /// The run after the change; null in a dry run.
    pub run: Option<RunSummary>,
}
