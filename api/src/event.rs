//! Server-sent events of a farm or of one run.

use crate::AttemptState;
use serde::{Deserialize, Serialize};

/// The data of an event. Which of these it is follows from the event's name: `run`, `task`, `control`, `worker` or
/// `reset`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum EventData {
    /// `run`: the state of a run has changed.
    Run {
        /// Id of the run whose state has changed.
        run: String,
        /// The new state: `running`, `paused`, `succeeded`, `failed` or `cancelled`.
        state: String,
    },
    /// `task`: an attempt has begun or ended.
    Task {
        /// Id of the run that the task belongs to.
        run: String,
        /// Sequence number in the run's history.
        seq: u64,
        /// When it happened, in milliseconds since 1970.
        time_ms: i64,
        /// Name of the task, such as `render[frame=7,tile=3]`.
        task: String,
        /// Name of the step that the task belongs to.
        step: String,
        /// Index of the task in its step, from 0.
        index: u32,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// State of the attempt.
        state: AttemptState,
        /// Id of the worker that executes it.
        worker: u32,
        /// Why the attempt failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// `control`: somebody changed the run, or outputs that are no longer needed were removed.
    Control {
        /// Id of the run that was changed.
        run: String,
        /// Sequence number in the run's history.
        seq: u64,
        /// When it happened, in milliseconds since 1970.
        time_ms: i64,
        /// What changed: `paused`, `resumed`, `cancelled`, `priority`, `reset`, `changed` or `removed`.
        change: String,
        /// The new priority, after a change of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        priority: Option<i32>,
    },
    /// `worker`: the state of a worker has changed.
    Worker {
        /// Id of the worker whose state has changed.
        worker: u32,
        /// The new state: `registered`, `left`, `lost`, `enabled`, `disabled` or `draining`.
        state: String,
    },
    /// `reset`: earlier events are no longer available, so the client has to look everything up again.
    Reset {
        /// Why they are not available.
        reason: String,
    },
}

impl EventData {
    /// The name under which the event is sent.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Run { .. } => "run",
            Self::Task { .. } => "task",
            Self::Control { .. } => "control",
            Self::Worker { .. } => "worker",
            Self::Reset { .. } => "reset",
        }
    }
}
