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
    /// A worker's queue holds it.
    Queued,
    /// A worker has claimed it and holds a lease.
    Running,
    /// Its success is committed.
    Succeeded,
    /// It failed and is not tried again.
    Failed,
    /// Something that it needs did not succeed. Derived, never stored; undone by a retry.
    Skipped,
    /// It was given up.
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

    /// Whether the state follows from the needs alone.
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
    /// Every task is over and no failure was left unabsorbed.
    Succeeded,
    /// Every task is over and some failure was not absorbed by a soft need.
    Failed,
    /// It was given up.
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

/// Whether a worker is in service: what its operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// It works.
    #[default]
    Enabled,
    /// It hands back what it has and takes nothing.
    Disabled,
    /// It finishes what it is doing and takes nothing more.
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
