//! The rows of a run's history. A run's state is a pure fold over its plan and these rows in order of `seq`; nothing
//! else is stored.

use crate::body::OnError;
use crate::job::spec::OnFailure;
use crate::message::{Execution, Outcome, TaskId, Try, WorkerId};
use crate::range::Ranges;
use crate::units::Millis;
use serde::{Deserialize, Serialize};

/// One row of a run's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The position in the run's history, from 1, without gaps.
    pub seq: u64,
    /// When the owner decided it, in milliseconds since 1970. Never earlier than the row before.
    pub time_ms: i64,
    /// The fact that the row records.
    pub fact: Fact,
}

/// A fact that changed the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// A worker holds a lease on an attempt.
    Claim(Claim),
    /// An attempt has ended.
    Ended(Ended),
    /// Anything else that changed the run.
    Event(Control),
}

/// The attempt of a task that a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRef {
    /// The step's index in the plan.
    pub step: u16,
    /// The generation of the step's late-bound dimensions.
    pub generation: u32,
    /// The index of the task, and the number of its attempt.
    pub task: Try,
}

impl TaskRef {
    /// The task, regardless of the attempt.
    pub fn id(&self) -> TaskId {
        TaskId { step: self.step, index: self.task.index }
    }
}

/// A worker's lease on an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The task and its attempt.
    pub task: TaskRef,
    /// The execution of the attempt.
    pub execution: Execution,
    /// The worker that runs or ran it.
    pub worker: WorkerId,
}

/// The end of an attempt. An `Outcome::Succeeded` here is the accepted one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The task and its attempt.
    pub task: TaskRef,
    /// The execution of the attempt.
    pub execution: Execution,
    /// The worker that runs or ran it.
    pub worker: WorkerId,
    /// When it started, in milliseconds since 1970 by the worker's clock.
    pub started_ms: i64,
    /// Its duration in milliseconds.
    pub took_ms: u32,
    /// The outcome, with the outputs of a success or the reason of a failure.
    pub outcome: Outcome,
}

/// A change to the run that does not come from an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// No new task is assigned until the run is resumed.
    Paused,
    /// Tasks are assigned again.
    Resumed,
    /// Everything that is not finished is cancelled.
    Cancelled,
    /// The run's priority is set to this value.
    Priority(i32),
    /// These tasks, and all that depend on their results, are run again.
    Reset(Vec<ResetTasks>),
    /// Settings are changed, and then tasks are run again.
    Changed(Changes),
    /// The outputs of these tasks are no longer kept, as no task will read them. Recorded by the engine before the data
    /// is deleted.
    Removed(Vec<RemovedOutputs>),
}

/// Tasks of one step whose outputs are removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedOutputs {
    /// The step's index in the plan.
    pub step: u16,
    /// The tasks' indices in the step's current generation.
    pub tasks: Ranges,
}

/// Settings of an existing run that are changed. `None` leaves a setting unchanged. Changes apply to all steps,
/// including those that had a setting of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// What to do with a picture that cannot be upscaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    /// The total number of attempts for each task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// The pause before the second attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Millis>,
    /// The time limit for a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// How long a task may run without any sign of progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<Millis>,
    /// What happens to the rest of the run after a final failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// The number of final failures that ends the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,
    /// The run's priority, from -100 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// The tasks to run again, with all that depend on their results.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reset: Vec<ResetTasks>,
}

/// Tasks of one step to reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetTasks {
    /// The step's index in the plan.
    pub step: u16,
    /// The tasks' indices; empty means all of them.
    pub tasks: Vec<u32>,
}

/// A control message, in the form in which it enters the engine and is stored. Its id is unique in the run's history,
/// so that receiving it twice changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// An id chosen by the sender.
    pub id: u64,
    /// The requested change.
    pub event: Event,
}
