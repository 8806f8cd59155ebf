//! The messages between the engine and its workers. Messages are hints: each may be lost, late or
//! doubled, and the committed history decides.

use crate::body::Body;
use crate::space::{Coordinates, Space, Values};
use crate::units::Millis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::{fmt, sync::Arc};

/// A run's name in every message, table and path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub Arc<str>);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A registered worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub u32);

/// One actual carrying-out of an attempt, drawn at random by the worker that starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Execution(pub u64);

/// Which tasks a message is about: a step of a run under one generation of its late-bound dimensions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = StepRef))]
pub struct StepKey {
    /// The run.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub run: RunId,
    /// The step's place in the plan.
    #[cfg_attr(feature = "openapi", schema(maximum = 65_535))]
    pub step: u16,
    /// Rises whenever a dimension of the step is bound to different values.
    pub generation: u32,
}

/// One task of a run.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct TaskId {
    /// The step's place in the plan.
    pub step: u16,
    /// The task's index in the step's space.
    pub index: u32,
}

impl StepKey {
    /// The task at an index of the step.
    pub fn task(&self, index: u32) -> TaskId {
        TaskId { step: self.step, index }
    }
}

/// One numbered try at one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = TryRef))]
pub struct Try {
    /// The task's index in the step's space.
    pub index: u32,
    /// The attempt, from 1. It rises by failure, loss or reset only.
    pub attempt: u32,
}

/// A file that the job names, as it was when the run was submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Where it lies: an absolute path.
    pub path: String,
    /// BLAKE3 of its content, in hex.
    pub digest: String,
    /// Its size.
    pub size_bytes: u64,
}

/// What a worker must know about a step to do its tasks. The same for all tasks of the step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Brief {
    /// The step's name.
    pub step: String,
    /// The dimensions, so that an index can be turned into values.
    pub space: Space,
    /// What to do.
    pub body: Body,
    /// How long one task may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// How long a task may go without progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<Millis>,
    /// The files that the body names, by the name that it uses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, FileRef>,
    /// The folder of the job file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub folder: String,
    /// Whether the worker must ask for inputs before it starts a task.
    pub has_inputs: bool,
    /// The late-bound dimensions whose values the step has to report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub binds: Vec<String>,
    /// Which versions of Blender may do it, as in [`crate::worker::version_fits`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blender: Option<String>,
}

/// Gives tasks to one worker. Several tasks in one message are a *bundle*: transport only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The step.
    pub key: StepKey,
    /// Names this message, so that its publication can be confirmed.
    pub id: u64,
    /// What to do.
    pub brief: Arc<Brief>,
    /// The tasks, done in this order.
    pub tasks: Vec<Try>,
}

/// One artifact that a task left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Output {
    /// The output's name within its task; `image` for pictures, `files/depth.exr` for one of a folder.
    pub name: String,
    /// Its key in artifact storage: `GET /v1/artifacts/{key}`.
    pub key: String,
    /// BLAKE3 of the bytes, in hex.
    pub digest: String,
    /// Its size.
    pub size_bytes: u64,
}

/// An artifact that a task reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Input {
    /// The step that made it.
    pub step: String,
    /// The task of that step that made it, as in `frame=7,tile=3`. For people only.
    pub label: String,
    /// That task's index.
    pub index: u32,
    /// The values of that task's dimensions, numbers or texts, by the dimension's name. Servers of an earlier
    /// version do not send them.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, serde_json::Value>))]
    pub coordinates: Coordinates,
    /// The artifact.
    pub output: Output,
}

impl fmt::Display for Input {
    /// The task that made it, as in `render[frame=7]`.
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
    /// The dimension.
    pub dim: String,
    /// Its values, or, for a dimension that is bounded by another, how many positions exist for each
    /// position of that other.
    pub values: Bound,
}

/// What a late-bound dimension was bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The dimension's values.
    Values(Values),
    /// How many positions exist for each position of the bounding dimension.
    Counts(Arc<[u32]>),
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The job asks for something that cannot be: a retry would fail the same way.
    Invalid,
    /// The program failed; another try may help.
    Failed,
    /// A program, model or permission that this worker lacks; another worker may have it.
    Unsupported,
    /// It ran longer than its timeout, or made no progress for too long.
    TimedOut,
    /// The GPU's memory was too small.
    OutOfMemory,
    /// The result is missing, truncated or has the wrong size.
    BadOutput,
    /// Storage could not be read or written (a full disk, for example).
    Storage,
}

impl FailureKind {
    /// Whether trying again can help at all.
    pub fn is_retryable(self) -> bool {
        !matches!(self, Self::Invalid)
    }
}

/// Why and how an attempt failed, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The kind, which decides what happens next.
    pub kind: FailureKind,
    /// One or a few sentences: what happened, where, what to do.
    pub message: String,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The task's work is done.
    Succeeded(Products),
    /// It failed.
    Failed(Failure),
    /// The worker gave it up because it was told to.
    Cancelled,
    /// Nobody heard of it again. Made by the engine, never reported.
    Lost,
}

/// What a successful attempt left. Boxed away so that tasks without outputs stay small.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Products {
    /// The artifacts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Output>,
    /// Values for late-bound dimensions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bindings: Vec<Binding>,
    /// Sentences for the user that are not failures ("scripts were blocked").
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One task's end within a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEnd {
    /// Which try.
    pub task: Try,
    /// When it started, milliseconds since 1970 by the worker's clock.
    pub started_ms: i64,
    /// How long it took.
    pub took_ms: u32,
    /// How it ended.
    pub outcome: Outcome,
}

/// A message from a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Who says it.
    pub worker: WorkerId,
    /// About which step.
    pub key: StepKey,
    /// Which carrying-out.
    pub execution: Execution,
    /// What happened.
    pub what: What,
}

/// What a report says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The worker takes these and asks for a lease.
    Claimed(Vec<Try>),
    /// How far one task is, 0 to 1, with a word for people. Not part of history.
    Progress {
        /// Which try.
        task: Try,
        /// From 0 to 1.
        fraction: f32,
        /// For example `sample 12/64`.
        message: String,
    },
    /// These ended.
    Ended(Vec<TaskEnd>),
    /// These were never started and are handed back.
    Released(Vec<Try>),
}

/// Tells a worker to stop tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// Of which step.
    pub key: StepKey,
    /// Which tries, running or waiting.
    pub tasks: Vec<Try>,
}
