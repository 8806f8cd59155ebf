//! The reasons why a task is not running: data within the engine, a sentence wherever it leaves the engine.

use super::Lacks;
use crate::farm::{Class, Engine};
use crate::run::{Run, TaskState};
use pictor_tasks::message::TaskId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The most needed tasks that are examined to name one of them.
const REASON_LOOKS: u32 = 1_000;

/// Why a task is not running, or its progress while it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Reason {
    /// There is no reason to give.
    #[default]
    Nothing,
    /// A message from a worker: the progress of a running task, or the reason of a failure.
    Said(String),
    /// A step that it needs has no tasks yet, because a dimension is not bound.
    StepUnknown {
        /// The name of that step.
        step: String,
    },
    /// It waits for tasks of a step that it needs.
    Waits {
        /// The name of that step.
        step: String,
        /// The name of the first of them, if it was found within the limit.
        first: Option<String>,
        /// The number of these tasks that have not ended.
        open: u32,
    },
    /// A task that it needs did not succeed.
    NeedFailed {
        /// The name of that task.
        task: String,
        /// The state in which it ended.
        state: TaskState,
    },
    /// Tasks of a step that it needs did not succeed, and none was found within the limit.
    NeedsFailed {
        /// The name of that step.
        step: String,
        /// The number of these tasks.
        broken: u32,
    },
    /// The dimensions of a step that it needs were never bound.
    NeverAlive,
    /// The run was stopped by the failure of another task.
    Stopped,
    /// The run was cancelled.
    Cancelled,
    /// It has been sent to a worker, which has not claimed it.
    Queued,
    /// The run is paused.
    Paused,
    /// It is on its way to a worker.
    BeingSent,
    /// It waits for the pause before the next attempt.
    TriesAgain {
        /// The remaining time, in whole seconds.
        in_s: i64,
        /// The message of the last failure.
        failure: String,
    },
    /// A limit that its step holds has no capacity left.
    LimitFull {
        /// The name of the limit.
        limit: String,
    },
    /// There is no worker at all.
    NoWorker,
    /// No worker meets its requirements.
    Lacking {
        /// The requirement that is not met.
        what: String,
    },
    /// Every worker that can do it is silent or accepts no tasks.
    WorkersAway,
    /// Every worker that can do it is busy.
    NoFreeSlot,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Said(words) => f.write_str(words),
            Self::StepUnknown { step } => {
                write!(f, "waits for {step}, whose tasks are not known yet")
            }
            Self::Waits { step, first: None, open } => {
                write!(f, "waits for {open} tasks of {step}")
            }
            Self::Waits { first: Some(first), open: ..=1, .. } => write!(f, "waits for {first}"),
            Self::Waits { first: Some(first), open, .. } => {
                write!(f, "waits for {first} and {} more", open - 1)
            }
            Self::NeedFailed { task, state } => {
                write!(f, "needs {task}, which was {}", state.name())
            }
            Self::NeedsFailed { step, broken } => {
                write!(f, "needs {step}, of which {broken} did not succeed")
            }
            Self::NeverAlive => f.write_str("a step that it needs never came to life"),
            Self::Stopped => f.write_str("given up after another task failed"),
            Self::Cancelled => f.write_str("the run was cancelled"),
            Self::Queued => f.write_str("in the worker's queue"),
            Self::Paused => f.write_str("the run is paused"),
            Self::BeingSent => f.write_str("is being sent to a worker"),
            Self::TriesAgain { in_s, failure } => {
                write!(f, "tries again in {in_s} s after: {failure}")
            }
            Self::LimitFull { limit } => write!(f, "limit `{limit}` is used up"),
            Self::NoWorker => f.write_str("there is no worker"),
            Self::Lacking { what } => write!(f, "no worker has {what}"),
            Self::WorkersAway => {
                f.write_str("every worker that can do it is away or takes no work now")
            }
            Self::NoFreeSlot => f.write_str("waits for a free slot"),
        }
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.to_string()
    }
}

impl From<String> for Reason {
    fn from(words: String) -> Self {
        if words.is_empty() { Self::Nothing } else { Self::Said(words) }
    }
}

impl Run {
    fn why_waiting(&self, at: TaskId) -> Reason {
        for &number in &self.into[at.step as usize] {
            let join = &self.joins[number].join;
            let producer = &self.steps[join.producer as usize];
            let step = self.plan.steps[join.producer as usize].name.clone();
            if producer.space.is_none() {
                return Reason::StepUnknown { step };
            }
            let Some(point) = join.point_of_consumer(at.index) else { continue };
            let open = self.joins[number].waiting[point as usize];
            if open == 0 {
                continue;
            }
            let is_open = |index| producer.state(index).is_some_and(|s| !s.is_terminal());
            let first = join.find_producer(point, REASON_LOOKS, &is_open);
            let first = first.map(|index| self.task_name(TaskId { step: join.producer, index }));
            return Reason::Waits { step, first, open };
        }
        Reason::Nothing
    }

    fn why_skipped(&self, at: TaskId) -> Reason {
        for &number in &self.into[at.step as usize] {
            let join = &self.joins[number].join;
            if join.soft {
                continue;
            }
            let producer = &self.steps[join.producer as usize];
            let Some(point) = join.point_of_consumer(at.index) else { continue };
            let broken = self.joins[number].broken[point as usize];
            if broken == 0 {
                continue;
            }
            let bad = |s: &TaskState| s.is_terminal() && *s != TaskState::Succeeded;
            let is_bad = |index| producer.state(index).as_ref().is_some_and(bad);
            let first = join.find_producer(point, REASON_LOOKS, &is_bad);
            if let Some((index, state)) = first.and_then(|i| Some((i, producer.state(i)?))) {
                let task = self.task_name(TaskId { step: join.producer, index });
                return Reason::NeedFailed { task, state };
            }
            // A step with an unbound dimension counts as one task, which has no name.
            if producer.space.is_some() {
                let step = self.plan.steps[join.producer as usize].name.clone();
                return Reason::NeedsFailed { step, broken };
            }
        }
        Reason::NeverAlive
    }
}

impl Engine {
    /// Why a task that is shown in this state is not running.
    pub(super) fn reason(
        &self,
        run: &Run,
        (at, state): (TaskId, TaskState),
        now_ms: i64,
        lacks: &mut Lacks,
    ) -> Reason {
        match state {
            TaskState::Succeeded => Reason::Nothing,
            TaskState::Ready => self.why_not_assigned(run, at, now_ms, lacks),
            TaskState::Failed => run.failure(at).to_owned().into(),
            TaskState::Skipped => run.why_skipped(at),
            TaskState::Cancelled if run.stopped => Reason::Stopped,
            TaskState::Cancelled => Reason::Cancelled,
            TaskState::Pending => run.why_waiting(at),
            TaskState::Queued => Reason::Queued,
            TaskState::Running => {
                let progress = self.runs.get(&run.id).and_then(|entry| entry.progress.get(&at));
                progress.map_or(Reason::Nothing, |(_, words)| words.clone().into())
            }
        }
    }

    fn why_not_assigned(&self, run: &Run, at: TaskId, now_ms: i64, lacks: &mut Lacks) -> Reason {
        let plan = &run.plan.steps[at.step as usize];
        if run.paused {
            return Reason::Paused;
        }
        if run.live.contains_key(&at) {
            return Reason::BeingSent;
        }
        if let Some(record) = run.failure_record(at)
            && record.not_before_ms > now_ms
        {
            let in_s = (record.not_before_ms - now_ms + 999) / 1000;
            return Reason::TriesAgain { in_s, failure: record.message.clone() };
        }
        if let Some(limit) = self.index.limits.first_full(plan) {
            return Reason::LimitFull { limit: limit.to_owned() };
        }
        let why = || {
            let class = Class::of(plan);
            let mut able = self.workers.values().filter(|worker| class.lacks(worker).is_none());
            if able.clone().any(|worker| worker.is_present(now_ms, self.config.lease_ms)) {
                Reason::NoFreeSlot
            } else if able.next().is_some() {
                Reason::WorkersAway
            } else {
                let first = self.workers.values().next().and_then(|worker| class.lacks(worker));
                first.map_or(Reason::NoWorker, |what| Reason::Lacking { what })
            }
        };
        lacks.entry(at.step).or_insert_with(why).clone()
    }
}
