//! The states of tasks, runs and workers, and the other choices that are stored as words: what a token
//! may do, what schedules do.

use serde::{Deserialize, Serialize};

/// Defines the words for a type, in which it is stored, shown and parsed.
macro_rules! words {
    ($type:ident: $($value:ident = $word:literal),+) => {
        impl $type {
            /// All values, in the order of their declaration.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$value),+];

            /// The word for this value.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $word,)+
                }
            }

            /// The value for a word; `None` if there is none.
            pub fn named(word: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|value| value.name() == word)
            }
        }
    };
}

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

words!(TaskState:
    Pending = "pending", Ready = "ready", Queued = "queued", Running = "running", Succeeded = "succeeded",
    Failed = "failed", Skipped = "skipped", Cancelled = "cancelled");

impl TaskState {
    /// Whether the state is final unless a user intervenes.
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

words!(RunState:
    Running = "running", Paused = "paused", Succeeded = "succeeded", Failed = "failed", Cancelled = "cancelled");

impl RunState {
    /// Whether the run has ended.
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

words!(Service: Enabled = "enabled", Disabled = "disabled", Draining = "draining");

/// What a token allows its holder to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TokenRole {
    /// May do everything, including managing tokens.
    Admin,
    /// May do everything except manage tokens.
    Operator,
    /// Submits runs; sees and changes those of its own account.
    Submitter,
    /// Reads everything except tokens and the audit log.
    Viewer,
    /// Registers machines as workers.
    Worker,
    /// One registered machine. Created by its registration, never by hand.
    Machine,
}

words!(TokenRole:
    Admin = "admin", Operator = "operator", Submitter = "submitter", Viewer = "viewer", Worker = "worker",
    Machine = "machine");

/// What happens when a schedule is due and an earlier run of it has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The due time is skipped.
    #[default]
    Skip,
    /// The new run starts when the earlier one has ended. At most one run waits; further due times are skipped.
    Queue,
    /// The earlier run is cancelled and the new one starts.
    Replace,
}

words!(Overlap: Skip = "skip", Queue = "queue", Replace = "replace");

/// What happens about due times that were missed while no server was running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// They are skipped: no run makes up for them.
    #[default]
    None,
    /// One run makes up for all of them, as the run of the last one.
    One,
    /// A run for each of the last 100, one after the other. With `overlap: replace`, where each would replace the one
    /// before, only for the last.
    All,
}

words!(CatchUp: None = "none", One = "one", All = "all");

/// What became of a due time of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DueOutcome {
    /// Its run started.
    Started,
    /// No run was started.
    Skipped,
    /// Its run waits for an earlier one.
    Queued,
    /// Its run started, and the earlier one was cancelled.
    Replaced,
    /// Its run could not be started.
    Failed,
}

words!(DueOutcome:
    Started = "started", Skipped = "skipped", Queued = "queued", Replaced = "replaced", Failed = "failed");
