//! Answers to queries about a run: counts, reasons, remaining time, a task's inputs.

mod page;
mod reason;

pub use page::{Effort, Found, TaskQuery};
pub use reason::Reason;

use crate::farm::{Engine, Worker};
use crate::plan::Plan;
use crate::run::{Notes, Run, RunState, TaskState, undefined_limits};
use pictor_tasks::message::{Input, RunId, StepKey, TaskId, Try, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Why no worker can do a step's tasks, by step: the reason is the same for all of them.
pub(crate) type Lacks = BTreeMap<u16, Reason>;

/// One step of a run, in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepView {
    /// The name of the step in the job file.
    pub name: String,
    /// The kind of work, such as `blender`.
    pub kind: String,
    /// The names of its dimensions, slowest first.
    pub over: Vec<String>,
    /// The number of tasks; `None` while a dimension is not bound.
    pub tasks: Option<u32>,
    /// The number of tasks in each state, in the order of [`TaskState::ALL`].
    pub counts: [u32; 8],
    /// The mean duration of successes so far, in milliseconds.
    pub mean_ms: Option<f64>,
    /// The progress of all its running tasks, in tasks: 1.5 means one and a half. `None` if none of them reports
    /// progress.
    #[serde(default)]
    pub progress: Option<f32>,
    /// The number of tasks that succeeded without outputs although the step's results are delivered.
    #[serde(default)]
    pub left_out: u32,
}

impl StepView {
    /// The number of tasks in a state.
    pub fn count(&self, state: TaskState) -> u32 {
        self.counts[state as usize]
    }
}

/// The counts, progress and remaining time of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunView {
    /// The current state.
    pub state: RunState,
    /// The priority, from -100 to 100.
    pub priority: i32,
    /// The steps, in the order of the plan.
    pub steps: Vec<StepView>,
    /// The estimated remaining time in milliseconds; `None` while too little is known.
    pub eta_ms: Option<u64>,
}

/// One task of a run, as shown to users.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    /// The name of the task, such as `render[frame=7,tile=3]`.
    pub name: String,
    /// The name of its step.
    pub step: String,
    /// Its index in the step.
    pub index: u32,
    /// The current state.
    pub state: TaskState,
    /// The number of the current attempt, from 1.
    pub attempt: u32,
    /// Why it is not running, or how far it is.
    pub reason: Reason,
    /// The worker that holds it, if any.
    pub worker: Option<WorkerId>,
    /// The worker that had it when it ended, if it has ended.
    #[serde(default)]
    pub ended_by: Option<WorkerId>,
    /// The name of either worker, where that is known.
    #[serde(default)]
    pub worker_name: Option<String>,
    /// The progress from 0 to 1, for a running task that reports it.
    pub progress: Option<f32>,
}

/// One worker, as shown to users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// The id of the worker in its farm.
    pub id: WorkerId,
    /// The number of tasks that it does at a time.
    pub slots: u32,
    /// The networks that it has, by name.
    pub models: BTreeSet<String>,
    /// The number of assignments that it holds.
    pub bundles: u32,
    /// The number of tasks in them that have not ended.
    pub tasks: u32,
    /// The time of its last sign of life, in milliseconds since 1970.
    pub seen_ms: i64,
    /// Whether it would be assigned tasks now.
    pub is_present: bool,
}

/// The numbers of runs and tasks in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The number of runs in each state, in the order of [`RunState::ALL`].
    pub runs: [u64; 5],
    /// The number of tasks in each state, in the order of [`TaskState::ALL`].
    pub tasks: [u64; 8],
}

impl Run {
    fn step_view(&self, step: u16) -> StepView {
        let (plan, state) = (&self.plan.steps[step as usize], &self.steps[step as usize]);
        StepView {
            name: plan.name.clone(),
            kind: plan.body.kind().into(),
            over: plan.over.iter().map(|d| self.plan.dims[*d].name.clone()).collect(),
            tasks: state.space.as_ref().map(|_| state.counts.iter().sum()),
            counts: state.counts,
            mean_ms: state.mean_ms(),
            progress: None,
            left_out: if plan.deliver.is_empty() || state.retention.is_some() {
                0
            } else {
                let kept = u32::try_from(state.accepted.len()).unwrap_or(u32::MAX);
                state.counts[TaskState::Succeeded as usize].saturating_sub(kept)
            },
        }
    }

    /// The remaining time with that many slots: the larger of the remaining work divided by the slots, and the longest
    /// remaining chain of steps. `None` if the duration of some step is unknown.
    fn eta_ms(&self, slots: u32) -> Option<u64> {
        let mut work = 0.0;
        let mut longest = vec![0.0f64; self.steps.len()];
        for &step in &by_distance(&self.plan) {
            let state = &self.steps[step as usize];
            let left = if state.space.is_some() { state.unfinished() } else { 1 };
            let mean = if left == 0 { 0.0 } else { state.mean_ms()? };
            work += mean * f64::from(left);
            let after = self.out[step as usize]
                .iter()
                .map(|number| longest[self.joins[*number].join.consumer as usize]);
            longest[step as usize] = after.fold(0.0, f64::max) + mean;
        }
        let chain = longest.into_iter().fold(0.0, f64::max);
        let eta = chain.max(work / f64::from(slots.max(1)));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a duration")]
        Some(eta as u64)
    }
}

/// The steps ordered from the end of the graph, so that those after a step are known before it.
fn by_distance(plan: &Plan) -> Vec<u16> {
    let mut steps: Vec<u16> = (0u16..).take(plan.steps.len()).collect();
    steps.sort_by_key(|s| plan.steps[*s as usize].to_sink);
    steps
}

impl Engine {
    /// Notes on a run that are not failures: those of workers on tasks that have succeeded, and limits that are not
    /// defined.
    pub fn notes(&self, run: &Run) -> Notes {
        let mut notes = run.notes();
        notes.notes.splice(0..0, undefined_limits(run.plan(), &self.config.limits));
        notes
    }

    /// The counts, progress and remaining time of a run.
    pub fn view(&self, run: &Run) -> RunView {
        let mut steps: Vec<_> =
            (0u16..).take(run.steps.len()).map(|step| run.step_view(step)).collect();
        for at in self.begun(run) {
            let counts = &mut steps[at.step as usize].counts;
            counts[TaskState::Queued as usize] -= 1;
            counts[TaskState::Running as usize] += 1;
        }
        let progress = self.runs.get(&run.id).into_iter().flat_map(|entry| &entry.progress);
        for (at, (fraction, _)) in progress {
            if matches!(run.task_state(*at), Some(TaskState::Queued | TaskState::Running)) {
                *steps[at.step as usize].progress.get_or_insert_default() += fraction;
            }
        }
        RunView {
            state: run.state(),
            priority: run.priority,
            steps,
            eta_ms: run.eta_ms(self.slots),
        }
    }

    /// The run of a task that may be worked on; `None` if the attempt is not the current one, or if a worker other than
    /// this one has it.
    pub fn open(&self, key: &StepKey, task: Try, worker: Option<WorkerId>) -> Option<&Run> {
        let run = &self.runs.get(&key.run)?.run;
        let at = key.task(task.index);
        let current = key.generation == run.steps.get(key.step as usize)?.generation
            && run.attempt(at) == Some(task.attempt)
            && run.task_state(at).is_some_and(|s| !s.is_terminal() && s != TaskState::Pending);
        let live = run.live.get(&at);
        let elsewhere = worker.zip(live).is_some_and(|(worker, live)| live.worker != worker);
        (current && !elsewhere).then_some(run)
    }

    /// The inputs of a task that may be worked on.
    pub fn inputs(&self, key: &StepKey, task: Try, worker: Option<WorkerId>) -> Option<Vec<Input>> {
        Some(self.open(key, task, worker)?.inputs(key.task(task.index)))
    }

    /// One task of a run; `None` if it does not exist.
    pub fn task(&self, run: &Run, at: TaskId, now_ms: i64) -> Option<TaskView> {
        self.look(run, at, now_ms, &mut Lacks::new())
    }

    pub(crate) fn look(
        &self,
        run: &Run,
        at: TaskId,
        now_ms: i64,
        lacks: &mut Lacks,
    ) -> Option<TaskView> {
        let TaskId { step, index } = at;
        let state = self.shown_state(run, at)?;
        let progress = self.runs.get(&run.id).and_then(|entry| entry.progress.get(&at));
        // The report that a task has begun has neither a fraction nor a message, and is not shown as progress.
        let progress =
            progress.filter(|(fraction, message)| *fraction > 0.0 || !message.is_empty());
        let last = WorkerId(run.steps[step as usize].workers[index as usize]);
        let last = Some(last).filter(|last| last.0 > 0 && state.is_terminal());
        Some(TaskView {
            name: run.task_name(at),
            step: run.plan.steps[step as usize].name.clone(),
            index,
            state,
            attempt: run.attempt(at)?,
            reason: self.reason(run, (at, state), now_ms, lacks),
            worker: run.live.get(&at).map(|live| live.worker),
            ended_by: last,
            worker_name: None,
            progress: progress.map(|(fraction, _)| *fraction),
        })
    }

    /// Tasks that a worker has begun but not claimed yet: most end before it would do so.
    pub(crate) fn begun(&self, run: &Run) -> impl Iterator<Item = TaskId> {
        let progress = self.runs.get(&run.id).into_iter().flat_map(|entry| entry.progress.keys());
        progress.copied().filter(|at| run.task_state(*at) == Some(TaskState::Queued))
    }

    /// A task's state as shown to users: a task that a worker has begun is running.
    fn shown_state(&self, run: &Run, at: TaskId) -> Option<TaskState> {
        let state = run.task_state(at)?;
        let begun = || self.runs.get(&run.id).is_some_and(|e| e.progress.contains_key(&at));
        Some(if state == TaskState::Queued && begun() { TaskState::Running } else { state })
    }

    /// The account that submitted a run.
    pub fn account(&self, run: &RunId) -> Option<&str> {
        self.runs.get(run).map(|entry| &*entry.account)
    }

    /// Every worker that has joined and has not left, by id.
    pub fn workers(&self, now_ms: i64) -> Vec<WorkerView> {
        let view = |(id, worker): (&WorkerId, _)| self.worker_view(*id, worker, now_ms);
        self.workers.iter().map(view).collect()
    }

    /// One worker; `None` if it has not joined, or has left.
    pub fn worker(&self, id: WorkerId, now_ms: i64) -> Option<WorkerView> {
        self.workers.get(&id).map(|worker| self.worker_view(id, worker, now_ms))
    }

    fn worker_view(&self, id: WorkerId, worker: &Worker, now_ms: i64) -> WorkerView {
        WorkerView {
            id,
            slots: worker.inventory.slots,
            models: worker.inventory.models.clone(),
            bundles: worker.load,
            tasks: self.bundles_of(id).map(|bundle| bundle.remaining).sum(),
            seen_ms: worker.seen_ms,
            is_present: worker.is_present(now_ms, self.config.lease_ms),
        }
    }

    /// The numbers of an account's unfinished runs and of their tasks, holes included.
    pub fn share_of(&self, account: &str) -> (u64, u64) {
        let own = self.runs.values().filter(|e| e.account == account && !e.state.is_terminal());
        own.fold((0, 0), |(runs, tasks), entry| {
            let more = entry.run.steps.iter().map(|step| step.tasks.len() as u64);
            (runs + 1, tasks + more.sum::<u64>())
        })
    }

    /// The numbers of runs and tasks in each state, over all runs in memory.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for entry in self.runs.values() {
            totals.runs[entry.state as usize] += 1;
            for (total, state) in totals.tasks.iter_mut().zip(TaskState::ALL) {
                let counts = entry.run.steps.iter().map(|s| u64::from(s.counts[state as usize]));
                *total += counts.sum::<u64>();
            }
        }
        totals
    }
}
