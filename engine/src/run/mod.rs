//! The state of one run: a pure fold over its plan and its history, and the counters that make it cheap to tell which
//! tasks are ready.
//!
//! **Invariant:** for each need there is one counter for each point of the shared space, and for each task the number
//! of needs that are not open. [`Run::check`] recomputes all of them.

mod audit;
mod binding;
mod change;
mod fold;
mod lookup;
mod notes;
mod rebuild;
mod retention;
pub(crate) mod singles;
mod size;
pub(crate) mod state;
mod task_set;
mod trail;
pub mod transitions;

pub use fold::{FoldError, MAX_LOSSES};
pub use notes::{Note, Notes, undefined_limits};
pub use size::{RunLimits, sizes};
pub use state::{RunState, TaskState};

use crate::plan::Plan;
use crate::plan::join::Join;
use notes::Sentences;
use pictor_tasks::history::TaskRef;
use pictor_tasks::message::{Cancel, RunId, StepKey, TaskId, Try, WorkerId};
use retention::Readings;
use singles::{AT_ONCE, Singles};
use state::{DimState, FailureRecord, Live, StepState};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use transitions::{Next, TRANSITIONS, TaskFact};

/// For each point of a join: the number of producers that have not ended, and of those that rule out success.
#[derive(Clone, Debug)]
pub(crate) struct JoinState {
    pub(crate) join: Join,
    pub(crate) waiting: Vec<u32>,
    pub(crate) broken: Vec<u32>,
}

/// The state of a point for the tasks that wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    Closed,
    Broken,
}

impl JoinState {
    pub(crate) fn gate(&self, point: u32) -> Gate {
        let point = point as usize;
        if self.broken[point] > 0 {
            Gate::Broken
        } else if self.waiting[point] > 0 {
            Gate::Closed
        } else {
            Gate::Open
        }
    }

    /// The effect of a producer in this state on the join's consumers.
    pub(crate) fn gate_of(&self, state: TaskState) -> Gate {
        match state {
            TaskState::Succeeded => Gate::Open,
            state if !state.is_terminal() => Gate::Closed,
            _ if self.join.soft => Gate::Open,
            _ => Gate::Broken,
        }
    }

    pub(crate) fn count(&mut self, point: u32, gate: Gate) -> Option<&mut u32> {
        match gate {
            Gate::Open => None,
            Gate::Closed => Some(&mut self.waiting[point as usize]),
            Gate::Broken => Some(&mut self.broken[point as usize]),
        }
    }
}

/// Assignments that a change of state has invalidated, by worker.
pub(crate) type Dropped = Vec<(WorkerId, Cancel)>;

/// The state of one run.
#[derive(Clone, Debug)]
pub struct Run {
    pub(crate) id: RunId,
    pub(crate) plan: Arc<Plan>,
    pub(crate) dims: Vec<DimState>,
    pub(crate) steps: Vec<StepState>,
    pub(crate) joins: Vec<JoinState>,
    /// Indices into `joins`, by consumer and by producer.
    pub(crate) into: Vec<Vec<usize>>,
    pub(crate) out: Vec<Vec<usize>>,
    pub(crate) readings: Readings,
    pub(crate) failure_records: HashMap<TaskId, FailureRecord>,
    /// Ready tasks that have failed before or whose bundle was lost. They are assigned one by one, to workers that suit them.
    pub(crate) ready_singly: Singles,
    pub(crate) live: HashMap<TaskId, Live>,
    /// Steps whose ready or assigned tasks, or their mean duration, have changed since the farm last looked.
    pub(crate) touched: Vec<u16>,
    pub(crate) paused: bool,
    pub(crate) cancelled: bool,
    /// Cancelled because of its failures (`on_failure: stop`, `max_failures`). Like `cancelled`, it applies until a
    /// reset leaves no cancelled task.
    pub(crate) stopped: bool,
    pub(crate) priority: i32,
    pub(crate) controls: HashSet<u64>,
    pub(crate) seq: u64,
    pub(crate) time_ms: i64,
    pub(crate) dropped: Dropped,
    /// The bundles of assignments that have ended, one entry for each task.
    pub(crate) freed: Vec<u64>,
    /// Keys of artifacts that are removed in history but may still exist.
    pub(crate) pending_deletions: Vec<String>,
    pub(crate) sentences: Sentences,
    work: Vec<TaskId>,
}

impl Run {
    /// A run before its first row of history.
    pub fn new(id: RunId, plan: Arc<Plan>) -> Self {
        let count = plan.steps.len();
        let (mut into, mut out) = (vec![Vec::new(); count], vec![Vec::new(); count]);
        let mut joins = Vec::new();
        for (consumer, step) in (0u16..).zip(&plan.steps) {
            for need in &step.needs {
                into[consumer as usize].push(joins.len());
                out[need.step as usize].push(joins.len());
                let join = Join::new(&plan, (consumer, need), None, None);
                joins.push(JoinState { join, waiting: Vec::new(), broken: Vec::new() });
            }
        }
        let mut run = Self {
            id,
            dims: vec![DimState::default(); plan.dims.len()],
            steps: vec![StepState::default(); count],
            joins,
            into,
            out,
            readings: Readings::new(&plan),
            failure_records: HashMap::new(),
            ready_singly: Singles::default(),
            live: HashMap::new(),
            touched: Vec::new(),
            paused: false,
            cancelled: false,
            stopped: false,
            priority: plan.priority,
            controls: HashSet::new(),
            seq: 0,
            time_ms: 0,
            dropped: Vec::new(),
            freed: Vec::new(),
            pending_deletions: Vec::new(),
            sentences: Sentences::default(),
            work: Vec::new(),
            plan,
        };
        let all: Vec<u16> = (0u16..).take(count).collect();
        run.rebuild(&all);
        run
    }

    /// The id of the run.
    pub fn id(&self) -> &RunId {
        &self.id
    }

    /// The plan of the run, including changes to its settings.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The number of the last row of history that was folded.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The state of a task; `None` if it does not exist, or not yet.
    pub fn task_state(&self, at: TaskId) -> Option<TaskState> {
        self.steps.get(at.step as usize)?.state(at.index)
    }

    /// The numbers of a task's needs that are closed and that are broken, from the counters of the joins.
    pub(crate) fn needs_of(&self, at: TaskId) -> (u16, u16) {
        let (mut closed, mut broken) = (0, 0);
        for &number in &self.into[at.step as usize] {
            let state = &self.joins[number];
            match state.join.point_of_consumer(at.index).map(|point| state.gate(point)) {
                Some(Gate::Closed) => closed += 1,
                Some(Gate::Broken) => broken += 1,
                Some(Gate::Open) | None => {}
            }
        }
        (closed, broken)
    }

    pub(crate) fn derived(&self, TaskId { step, index }: TaskId) -> TaskState {
        let state = &self.steps[step as usize];
        let count = |of: &Vec<u16>| of.get(index as usize).copied().unwrap_or(0);
        if count(&state.broken) > 0 {
            TaskState::Skipped
        } else if count(&state.closed) > 0 {
            TaskState::Pending
        } else {
            TaskState::Ready
        }
    }

    /// Gives a task the state that follows from what happens to it, and carries the consequences through
    /// the graph.
    pub(crate) fn happens(&mut self, at: TaskId, fact: TaskFact) {
        self.happens_alone(at, fact);
        while let Some(at) = self.work.pop() {
            if self.task_state(at).is_some_and(TaskState::is_derived)
                && !self.live.contains_key(&at)
            {
                self.happens_alone(at, TaskFact::NeedsChanged);
            }
        }
    }

    fn happens_alone(&mut self, at: TaskId, fact: TaskFact) {
        let transition = &TRANSITIONS[fact as usize];
        let new = match transition.to {
            Next::State(state) => state,
            Next::ByNeeds => self.derived(at),
        };
        let TaskId { step, index } = at;
        let state = &mut self.steps[step as usize];
        let Some(cell) = state.tasks.get_mut(index as usize).and_then(Option::as_mut) else {
            return;
        };
        let old = std::mem::replace(cell, new);
        debug_assert!(transition.from.contains(&old), "{fact:?} of a task that is {}", old.name());
        if new == TaskState::Ready && !self.live.contains_key(&at) {
            self.offer(at);
        } else if old == TaskState::Ready {
            self.withdraw(at);
        }
        if old == new {
            return;
        }
        let state = &mut self.steps[step as usize];
        state.counts[old as usize] -= 1;
        state.counts[new as usize] += 1;
        for i in 0..self.out[step as usize].len() {
            let number = self.out[step as usize][i];
            self.shift(number, index, old, new);
        }
        self.shift_readings(at, old, new);
    }

    /// Updates a join's counters after a producer's change of state and, if that opens, closes or breaks a point, the
    /// counters of the tasks that wait for it.
    fn shift(&mut self, number: usize, producer: u32, old: TaskState, new: TaskState) {
        let state = &mut self.joins[number];
        let (before, after) = (state.gate_of(old), state.gate_of(new));
        if before == after {
            return;
        }
        let point = state.join.point_of_producer(producer);
        let was = state.gate(point);
        if let Some(count) = state.count(point, before) {
            *count -= 1;
        }
        if let Some(count) = state.count(point, after) {
            *count += 1;
        }
        let is = state.gate(point);
        if was == is {
            return;
        }
        let consumer = state.join.consumer;
        let step = &mut self.steps[consumer as usize];
        if step.space.is_none() {
            return;
        }
        let work = &mut self.work;
        self.joins[number].join.consumers(point, &mut |index| {
            let i = index as usize;
            if step.tasks[i].is_none() {
                return;
            }
            match was {
                Gate::Open => {}
                Gate::Closed => step.closed[i] -= 1,
                Gate::Broken => step.broken[i] -= 1,
            }
            match is {
                Gate::Open => {}
                Gate::Closed => step.closed[i] += 1,
                Gate::Broken => step.broken[i] += 1,
            }
            work.push(TaskId { step: consumer, index });
        });
    }

    /// Gives up a step whose dimensions are not bound, or reverts that.
    pub(crate) fn give_up(&mut self, step: u16, given_up: bool) {
        let state = &mut self.steps[step as usize];
        if state.space.is_some() || state.given_up == given_up {
            return;
        }
        state.given_up = given_up;
        let (old, new) = (imaginary(!given_up), imaginary(given_up));
        for i in 0..self.out[step as usize].len() {
            let number = self.out[step as usize][i];
            self.shift(number, 0, old, new);
        }
        while let Some(at) = self.work.pop() {
            if self.task_state(at).is_some_and(TaskState::is_derived) {
                self.happens(at, TaskFact::NeedsChanged);
            }
        }
    }

    /// Adds a ready task to the set from which tasks are assigned.
    pub(crate) fn offer(&mut self, at: TaskId) {
        self.touch(at.step);
        let state = &mut self.steps[at.step as usize];
        let rank = state.rank(at.index);
        let not_before_ms = self.failure_records.get(&at).map(|record| record.not_before_ms);
        if not_before_ms.is_some() || self.ready_singly.contains(at) {
            state.ready.remove(rank);
            self.ready_singly.insert(at, not_before_ms.unwrap_or(AT_ONCE));
        } else {
            state.ready.insert(rank);
        }
    }

    /// Notes that a step's ready or assigned tasks have changed.
    pub(crate) fn touch(&mut self, step: u16) {
        let state = &mut self.steps[step as usize];
        if !std::mem::replace(&mut state.touched, true) {
            self.touched.push(step);
        }
    }

    /// Notes that time has passed for the tasks that are assigned one by one.
    pub(crate) fn touch_singles(&mut self) {
        let steps: Vec<u16> = self.ready_singly.steps().collect();
        for step in steps {
            self.touch(step);
        }
    }

    /// The steps that have changed since the last call.
    pub(crate) fn take_touched(&mut self) -> Vec<u16> {
        let touched = std::mem::take(&mut self.touched);
        for step in &touched {
            self.steps[*step as usize].touched = false;
        }
        touched
    }

    fn withdraw(&mut self, at: TaskId) {
        self.touch(at.step);
        self.ready_singly.remove(at);
        let state = &mut self.steps[at.step as usize];
        let rank = state.rank(at.index);
        state.ready.remove(rank);
    }

    /// Drops a task's assignment, and has its worker told to stop.
    pub(crate) fn drop_live(&mut self, at: TaskId) {
        if let Some(live) = self.remove_live(at) {
            let key = self.key(at.step);
            let task = Try {
                index: at.index,
                attempt: self.steps[at.step as usize].attempts[at.index as usize],
            };
            match self.dropped.last_mut() {
                Some((worker, cancel)) if *worker == live.worker && cancel.key == key => {
                    cancel.tasks.push(task);
                }
                _ => self.dropped.push((live.worker, Cancel { key, tasks: vec![task] })),
            }
        }
    }

    /// Drops a task's assignment.
    pub(crate) fn remove_live(&mut self, at: TaskId) -> Option<Live> {
        let live = self.live.remove(&at)?;
        self.steps[at.step as usize].live -= 1;
        self.touch(at.step);
        self.freed.push(live.bundle);
        Some(live)
    }

    /// Adds or replaces a task's assignment.
    pub(crate) fn insert_live(&mut self, at: TaskId, live: Live) {
        if self.live.insert(at, live).is_none() {
            self.steps[at.step as usize].live += 1;
            self.touch(at.step);
        }
    }

    pub(crate) fn drop_all_live(&mut self, step: u16) {
        let held: BTreeSet<TaskId> =
            self.live.keys().filter(|at| at.step == step).copied().collect();
        for at in held {
            self.drop_live(at);
        }
    }

    /// The key of a step in its current generation, as used in messages.
    pub(crate) fn key(&self, step: u16) -> StepKey {
        let generation = self.steps[step as usize].generation;
        StepKey { run: self.id.clone(), step, generation }
    }

    /// Whether the reference is to a task's current attempt.
    pub(crate) fn is_current(&self, task: &TaskRef) -> bool {
        self.steps.get(task.step as usize).is_some_and(|step| {
            let index = task.task.index as usize;
            step.space.is_some()
                && step.generation == task.generation
                && step.tasks.get(index).copied().flatten().is_some()
                && step.attempts[index] == task.task.attempt
        })
    }

    /// The state of the run.
    pub fn state(&self) -> RunState {
        let over = self.steps.iter().all(|step| match step.space {
            Some(_) => step.unfinished() == 0,
            None => step.given_up,
        });
        if !over {
            if self.paused { RunState::Paused } else { RunState::Running }
        } else if self.cancelled {
            RunState::Cancelled
        } else if self.stopped || self.has_unabsorbed_failure() {
            RunState::Failed
        } else {
            RunState::Succeeded
        }
    }

    /// A failure is absorbed by a soft need, or if the failures of all tasks that need it are absorbed. So only the
    /// failed and skipped tasks that nothing waits for have to be examined.
    fn has_unabsorbed_failure(&self) -> bool {
        (0u16..).zip(&self.steps).any(|(number, step)| {
            if step.space.is_none() {
                return self.out[number as usize].is_empty();
            }
            let bad = [TaskState::Failed, TaskState::Skipped];
            bad.iter().any(|s| step.counts[*s as usize] > 0)
                && (0u32..).zip(&step.tasks).any(|(index, task)| {
                    task.is_some_and(|t| bad.contains(&t))
                        && !self.is_awaited(TaskId { step: number, index })
                })
        })
    }

    fn is_awaited(&self, at: TaskId) -> bool {
        self.out[at.step as usize].iter().any(|&number| {
            let join = &self.joins[number].join;
            let consumer = &self.steps[join.consumer as usize];
            let mut found = consumer.space.is_none();
            if !found {
                join.consumers(join.point_of_producer(at.index), &mut |i| {
                    found |= consumer.state(i).is_some();
                });
            }
            found
        })
    }
}

/// The state of the one imaginary task that a step with an unbound dimension counts as: pending, or given up.
pub(crate) fn imaginary(given_up: bool) -> TaskState {
    if given_up { TaskState::Skipped } else { TaskState::Pending }
}
