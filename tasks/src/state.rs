//! The states of tasks, runs and workers.

use serde::{Deserialize, Serialize};

/// The state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum TaskState {
    /// It waits for other tasks.
    Pending,
    /// It may be assigned to a worker.
    Ready,
    /// It has been sent to a worker, which has not claimed it.
    Queued,
    /// A worker has claimed it and holds a lease.
    Running,
    /// It succeeded, and this has been committed.
    Succeeded,
    /// It failed and will not be attempted again.
    Failed,
    /// A task that it needs did not succeed. Derived, never stored; undone by a retry.
    Skipped,
    /// It was cancelled.
    Cancelled,
}

impl TaskState {
    /// All states, in order.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Ready,
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Skipped,
        Self::Cancelled,
    ];

    /// The state's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more happens by itself.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Skipped | Self::Cancelled)
    }

    /// Whether the state follows from the task's needs alone.
    pub fn is_derived(self) -> bool {
        matches!(self, Self::Pending | Self::Ready | Self::Skipped)
    }
}

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Tasks are or will be assigned.
    Running,
    /// No task is assigned until it is resumed.
    Paused,
    /// Every task has ended, and every failure was absorbed by a soft need.
    Succeeded,
    /// Every task has ended, and some failure was not absorbed by a soft need.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl RunState {
    /// All states, in order.
    pub const ALL: [Self; 5] =
        [Self::Running, Self::Paused, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The state's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the run is over.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Whether a worker is in service, as set by its operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// It accepts tasks.
    #[default]
    Enabled,
    /// It hands back its tasks and accepts none.
    Disabled,
    /// It finishes its running tasks and accepts no more.
    Draining,
}

impl Service {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Enabled, Self::Disabled, Self::Draining];

    /// The state's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Draining => "draining",
        }
    }

    /// The state of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}
