//! The rows of a run's history. A run's state is a pure fold over its plan and these rows in order of
//! `seq`; nothing else is kept.

use crate::body::OnError;
use crate::job::spec::OnFailure;
use crate::message::{Execution, Outcome, TaskId, Try, WorkerId};
use crate::range::Ranges;
use crate::units::Millis;
use serde::{Deserialize, Serialize};

/// One line of a run's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The place in the run's history, from 1, without gaps.
    pub seq: u64,
    /// When the owner decided it, milliseconds since 1970. Never less than the row before.
    pub time_ms: i64,
    /// What happened.
    pub fact: Fact,
}

/// What a row records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// A worker holds a lease on an attempt.
    Claim(Claim),
    /// An attempt ended.
    Ended(Ended),
    /// Anything else that changed the run.
    Event(Control),
}

/// Which attempt of which task a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRef {
    /// The step's place in the plan.
    pub step: u16,
    /// The generation of the step's late-bound dimensions.
    pub generation: u32,
    /// The task and attempt.
    pub task: Try,
}

impl TaskRef {
    /// The task, whichever attempt.
    pub fn id(&self) -> TaskId {
        TaskId { step: self.step, index: self.task.index }
    }
}

/// A worker's right to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The attempt.
    pub task: TaskRef,
    /// Which carrying-out.
    pub execution: Execution,
    /// By whom.
    pub worker: WorkerId,
}

/// The end of an attempt. An `Outcome::Succeeded` here is the accepted one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The attempt.
    pub task: TaskRef,
    /// Which carrying-out.
    pub execution: Execution,
    /// By whom.
    pub worker: WorkerId,
    /// When it started, by the worker's clock.
    pub started_ms: i64,
    /// How long it took.
    pub took_ms: u32,
    /// How it ended.
    pub outcome: Outcome,
}

/// A change of the run that is not an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// No new task is assigned.
    Paused,
    /// Tasks are assigned again.
    Resumed,
    /// Everything that is not finished is given up.
    Cancelled,
    /// The run's priority is now this.
    Priority(i32),
    /// These tasks, and everything that was built on them, are done again.
    Reset(Vec<ResetTasks>),
    /// Settings are changed, and then tasks are done again.
    Changed(Changes),
    /// What these tasks left is not kept any longer: nobody reads it. Decided by the engine, before
    /// the bytes go.
    Removed(Vec<RemovedOutputs>),
}

/// Tasks of one step whose outputs are removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedOutputs {
    /// The step's place in the plan.
    pub step: u16,
    /// The tasks' indices under the step's present generation.
    pub tasks: Ranges,
}

/// Settings of a run that are changed while it exists. What is not given stays as it is. They go for all
/// steps, also for those that had a setting of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// What happens with a picture that cannot be upscaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    /// Tries in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Pause before the second try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Millis>,
    /// How long a task may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// How long a task may go without progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<Millis>,
    /// What a final failure means for the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// How many final failures end the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,
    /// The run's priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// The tasks that are done again, with everything that was built on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reset: Vec<ResetTasks>,
}

/// Tasks of one step that are reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetTasks {
    /// The step's place in the plan.
    pub step: u16,
    /// The tasks' indices; empty means all of them.
    pub tasks: Vec<u32>,
}

/// A control message, as it enters the engine and as it is kept. The id is unique in the run's history,
/// so that the same message twice changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// Chosen by the sender.
    pub id: u64,
    /// What to do.
    pub event: Event,
}
