//! The messages between the engine and its workers. Messages are hints: each may be lost, late or duplicated, and the
//! committed history decides.

use crate::body::Body;
use crate::space::{Coordinates, Space, Values};
use crate::units::Millis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::{fmt, sync::Arc};

/// The id of a run in every message, table and path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub Arc<str>);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a registered worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub u32);

/// One actual execution of an attempt: a number drawn at random by the worker that starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Execution(pub u64);

/// The tasks that a message is about: a step of a run, in one generation of its late-bound dimensions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = StepRef))]
pub struct StepKey {
    /// The id of the run.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub run: RunId,
    /// The step's index in the plan.
    #[cfg_attr(feature = "openapi", schema(maximum = 65_535))]
    pub step: u16,
    /// Increased whenever a dimension of the step is bound to different values.
    pub generation: u32,
}

/// One task of a run, without regard to attempts.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct TaskId {
    /// The step's index in the plan.
    pub step: u16,
    /// The task's index in the step's space.
    pub index: u32,
}

impl StepKey {
    /// The task with an index in this step.
    pub fn task(&self, index: u32) -> TaskId {
        TaskId { step: self.step, index }
    }
}

/// One numbered attempt at one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = TryRef))]
pub struct Try {
    /// The task's index in the step's space.
    pub index: u32,
    /// The number of the attempt, from 1. Only a failure, a loss or a reset increases it.
    pub attempt: u32,
}

/// A file that the job names, in its state when the run was submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// The absolute path of the file.
    pub path: String,
    /// The BLAKE3 digest of its content, in hex.
    pub digest: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// The information about a step that a worker needs to do its tasks. The same for all tasks of the step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Brief {
    /// The name of the step in the job file.
    pub step: String,
    /// The dimensions, to convert a task's index to values.
    pub space: Space,
    /// The description of the step.
    pub body: Body,
    /// The time limit for one task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// How long a task may run without any sign of progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<Millis>,
    /// The files that the body names, by the names that it uses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, FileRef>,
    /// The absolute path of the folder of the job file; empty if there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub folder: String,
    /// Whether the worker must ask for inputs before it starts a task.
    pub has_inputs: bool,
    /// The late-bound dimensions whose values the step has to report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub binds: Vec<String>,
    /// The versions of Blender that may be used, in the form of [`crate::worker::version_fits`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blender: Option<String>,
}

/// Assigns tasks to one worker. Several tasks in one message are a *bundle*, which only exists in transport.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The run and the step.
    pub key: StepKey,
    /// The id of this message, by which its publication is confirmed.
    pub id: u64,
    /// The description of the step.
    pub brief: Arc<Brief>,
    /// The attempts, to be done in this order.
    pub tasks: Vec<Try>,
}

/// One artifact that a task produced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Output {
    /// The output's name within its task: `image` for pictures, `files/depth.exr` for a file of a folder output.
    pub name: String,
    /// Its key in artifact storage: `GET /v1/artifacts/{key}`.
    pub key: String,
    /// The BLAKE3 digest of its content, in hex.
    pub digest: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// An artifact that a task reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Input {
    /// The step that made it.
    pub step: String,
    /// The task of that step that made it, such as `frame=7,tile=3`. For display only.
    pub label: String,
    /// The index of that task in its step.
    pub index: u32,
    /// The values of that task's dimensions, numbers or texts, by the dimension's name. Servers of an earlier version
    /// do not send them.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, serde_json::Value>))]
    pub coordinates: Coordinates,
    /// The artifact to read.
    pub output: Output,
}

impl fmt::Display for Input {
    /// The task that made it, such as `render[frame=7]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.label.as_str() {
            "" => write!(f, "{}", self.step),
            label => write!(f, "{}[{label}]", self.step),
        }
    }
}

/// Values for a late-bound dimension (or for its bound).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The name of the dimension.
    pub dim: String,
    /// Its values, or, for a dimension that is bounded by another, the number of positions for each position of that
    /// other one.
    pub values: Bound,
}

/// The values to which a late-bound dimension was bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The dimension's values.
    Values(Values),
    /// The number of positions for each position of the bounding dimension.
    Counts(Arc<[u32]>),
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The job asks for something impossible: another attempt would fail in the same way.
    Invalid,
    /// The program failed; another attempt may succeed.
    Failed,
    /// This worker lacks a program, model or permission; another worker may have it.
    Unsupported,
    /// It exceeded its time limit, or made no progress for too long.
    TimedOut,
    /// The GPU's memory was too small.
    OutOfMemory,
    /// The result is missing, truncated or has the wrong size.
    BadOutput,
    /// Storage could not be read or written (a full disk, for example).
    Storage,
}

impl FailureKind {
    /// Whether another attempt may succeed.
    pub fn is_retryable(self) -> bool {
        !matches!(self, Self::Invalid)
    }
}

/// Why and how an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The kind, which determines what happens next.
    pub kind: FailureKind,
    /// One or a few sentences: what went wrong, where, and what to do.
    pub message: String,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The task is done, with these results.
    Succeeded(Products),
    /// It failed, for this reason.
    Failed(Failure),
    /// The worker stopped it on request.
    Cancelled,
    /// The worker was lost, so nothing more was heard of it. Set by the engine, never reported.
    Lost,
}

/// The results of a successful attempt, boxed so that tasks without outputs stay small.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Products {
    /// The artifacts that it stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Output>,
    /// The reported values of late-bound dimensions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bindings: Vec<Binding>,
    /// Notes for the user that are not failures ("scripts were blocked").
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One task's end within a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEnd {
    /// The task and its attempt.
    pub task: Try,
    /// When it started, in milliseconds since 1970 by the worker's clock.
    pub started_ms: i64,
    /// Its duration in milliseconds.
    pub took_ms: u32,
    /// The outcome of the attempt.
    pub outcome: Outcome,
}

/// A message from a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The worker that sends the report.
    pub worker: WorkerId,
    /// The run and the step.
    pub key: StepKey,
    /// The execution that the report is about.
    pub execution: Execution,
    /// The event that is reported.
    pub what: What,
}

/// The event that a report is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The worker holds these attempts and asks for a lease.
    Claimed(Vec<Try>),
    /// The progress of one task, with a message for the user. Not part of history.
    Progress {
        /// The task and its attempt.
        task: Try,
        /// The progress from 0 to 1.
        fraction: f32,
        /// The message, such as `sample 12/64`.
        message: String,
    },
    /// These attempts have ended.
    Ended(Vec<TaskEnd>),
    /// These attempts were never started and are handed back.
    Released(Vec<Try>),
}

/// Tells a worker to stop tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// The run and the step.
    pub key: StepKey,
    /// The attempts, which may be running or waiting.
    pub tasks: Vec<Try>,
}
