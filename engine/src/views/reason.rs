//! Why a task is not running: data inside, a sentence wherever it leaves the engine.

use super::Lacks;
use crate::farm::Engine;
use crate::run::{Run, TaskState};
use pictor_tasks::message::TaskId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How many needed tasks are looked at to name one of them.
const REASON_LOOKS: u32 = 1_000;

/// Why a task is not running, or what is said of it while it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Reason {
    /// There is nothing to say.
    #[default]
    Nothing,
    /// What a worker said: of a running task how far it is, of a failed one why.
    Said(String),
    /// A step that it needs has no tasks yet, for their dimensions have no values.
    StepUnknown {
        /// That step.
        step: String,
    },
    /// It waits for tasks of a step that it needs.
    Waits {
        /// That step.
        step: String,
        /// The first of them, if it was found in time.
        first: Option<String>,
        /// How many are not over.
        open: u32,
    },
    /// A task that it needs did not succeed.
    NeedFailed {
        /// That task.
        task: String,
        /// What became of it.
        state: TaskState,
    },
    /// Tasks of a step that it needs did not succeed, and none was found in time.
    NeedsFailed {
        /// That step.
        step: String,
        /// How many.
        broken: u32,
    },
    /// A step that it needs never got values for its dimensions.
    NeverAlive,
    /// The run was stopped by the failure of another task.
    Stopped,
    /// The run was cancelled.
    Cancelled,
    /// It is in a worker's queue.
    Queued,
    /// The run is paused.
    Paused,
    /// It is on its way to a worker.
    BeingSent,
    /// It pauses before the next try.
    TriesAgain {
        /// Whole seconds until then.
        in_s: i64,
        /// Why the last try failed.
        failure: String,
    },
    /// A limit that its step holds has no room.
    LimitFull {
        /// The limit.
        limit: String,
    },
    /// There is no worker at all.
    NoWorker,
    /// No worker has what it needs.
    Lacking {
        /// What is lacking.
        what: String,
    },
    /// Every worker that can do it is away or takes no work.
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
            // A step that is not alive stands as one task that nobody can name.
            if producer.space.is_some() {
                let step = self.plan.steps[join.producer as usize].name.clone();
                return Reason::NeedsFailed { step, broken };
            }
        }
        Reason::NeverAlive
    }
}

impl Engine {
    /// Why a task in this state, as people see it, is not running.
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
        if let Some(trouble) = run.trouble(at)
            && trouble.not_before_ms > now_ms
        {
            let in_s = (trouble.not_before_ms - now_ms + 999) / 1000;
            return Reason::TriesAgain { in_s, failure: trouble.message.clone() };
        }
        if let Some(limit) = self.full_limit(plan) {
            return Reason::LimitFull { limit: limit.to_owned() };
        }
        let why = || {
            let lacks: Option<Vec<String>> = self.workers.values().map(|w| w.lacks(plan)).collect();
            match lacks {
                Some(lacks) if lacks.is_empty() => Reason::NoWorker,
                Some(mut lacks) => Reason::Lacking { what: lacks.swap_remove(0) },
                None if self.workers.values().any(|worker| {
                    worker.lacks(plan).is_none() && self.is_present(worker, now_ms)
                }) =>
                {
                    Reason::NoFreeSlot
                }
                None => Reason::WorkersAway,
            }
        };
        lacks.entry(at.step).or_insert_with(why).clone()
    }
}
