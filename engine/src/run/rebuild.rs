//! Creates new tasks for steps whose dimensions were bound, and recomputes all counters that involve them.

use super::retention::Retention;
use super::state::{StepState, TaskState, space_of};
use super::transitions::TaskFact;
use super::{JoinState, Run, imaginary};
use crate::plan::join::Join;
use pictor_tasks::message::TaskId;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// The states of tasks before some steps got new tasks.
struct Before {
    /// The steps whose tasks are new, or may have different states now.
    steps: BTreeSet<u16>,
    /// The states of the tasks that were not waiting, for steps without new tasks.
    went: BTreeMap<TaskId, TaskState>,
}

impl Before {
    /// A task's state before; new tasks count as pending.
    fn state(&self, run: &Run, at: TaskId) -> TaskState {
        let now = || run.task_state(at).filter(|_| !self.steps.contains(&at.step));
        self.went.get(&at).copied().or_else(now).unwrap_or(TaskState::Pending)
    }
}

impl Run {
    /// Creates new tasks for the steps over the current values of their dimensions, and recomputes all counters that
    /// involve them.
    pub(crate) fn rebuild(&mut self, rebuilt: &[u16]) {
        let before = self.states_before(rebuilt);
        for &step in rebuilt {
            self.drop_all_live(step);
            self.failure_records.retain(|at, _| at.step != step);
            self.ready_singly.remove_step(step);
            self.sentences.forget_step(step);
            self.touch(step);
            if let Some((space, generation)) = space_of(&self.plan, &self.dims, step) {
                let needs = !self.into[step as usize].is_empty();
                let plan = &self.plan.steps[step as usize];
                let retention = plan.keep_until.map(|_| Retention::new(space.len()));
                let fresh = StepState::new(Arc::new(space), generation, plan.order, needs);
                let step = &mut self.steps[step as usize];
                let (trail, touched) = (std::mem::take(&mut step.trail), step.touched);
                *step = StepState { retention, touched, trail, ..fresh };
            }
        }
        let mut consumers: BTreeSet<u16> = rebuilt.iter().copied().collect();
        for number in 0..self.joins.len() {
            let (consumer, producer) = {
                let join = &self.joins[number].join;
                (join.consumer, join.producer)
            };
            if rebuilt.contains(&consumer) || rebuilt.contains(&producer) {
                self.recount_join(number);
                consumers.insert(consumer);
            }
        }
        self.recount_readings(rebuilt);
        // All counters first: deriving a state changes the counters of the tasks that follow.
        for &step in &consumers {
            self.recount_tasks(step);
        }
        for &step in &consumers {
            self.derive_tasks(step);
        }
        // Tasks that went ahead although, with the new tasks, they should have waited are done again, and so are those
        // that made inputs of the new tasks which have been removed.
        let early = before.went.iter().filter(|(at, was)| {
            !matches!(was, TaskState::Skipped | TaskState::Cancelled)
                && self.derived(**at) != TaskState::Ready
        });
        let mut redo: Vec<TaskId> = early.map(|(at, _)| *at).collect();
        let mut seen = BTreeSet::new();
        for &step in rebuilt {
            let tasks = self.indices(step).map(|index| TaskId { step, index });
            for at in tasks.filter(|at| self.task_state(*at).is_some()) {
                self.removed_inputs(at, &mut seen, &mut redo);
            }
        }
        if redo.is_empty() {
            return;
        }
        let closure = self.closure(redo, |at| before.state(self, at) != TaskState::Pending);
        let states = closure.into_iter().map(|at| (at, before.state(self, at))).collect();
        self.redo(states);
    }

    /// The states of the steps that follow these, before the latter get new tasks.
    fn states_before(&self, rebuilt: &[u16]) -> Before {
        let (mut after, mut work): (BTreeSet<u16>, _) = (BTreeSet::new(), rebuilt.to_vec());
        while let Some(step) = work.pop() {
            let joins = self.out[step as usize].iter().map(|number| &self.joins[*number].join);
            work.extend(joins.map(|join| join.consumer).filter(|consumer| after.insert(*consumer)));
        }
        after.retain(|step| !rebuilt.contains(step));
        let tasks = after.iter().flat_map(|&step| {
            let tasks = (0u32..).zip(&self.steps[step as usize].tasks);
            tasks.filter_map(move |(index, task)| Some((TaskId { step, index }, (*task)?)))
        });
        let went = tasks.filter(|(_, state)| *state != TaskState::Pending).collect();
        after.extend(rebuilt);
        Before { steps: after, went }
    }

    pub(crate) fn recount_join(&mut self, number: usize) {
        let Join { consumer, producer, soft, .. } = self.joins[number].join;
        let place = self.into[consumer as usize].iter().position(|j| *j == number);
        let need = &self.plan.steps[consumer as usize].needs[place.expect("a join has a need")];
        let space = |step: u16| self.steps[step as usize].space.as_deref();
        let join = Join::new(&self.plan, (consumer, need), space(consumer), space(producer));
        debug_assert_eq!(join.soft, soft);
        let points = join.points() as usize;
        let mut state = JoinState { join, waiting: vec![0; points], broken: vec![0; points] };
        let step = &self.steps[producer as usize];
        if step.space.is_some() {
            for (index, task) in (0u32..).zip(&step.tasks) {
                let Some(task) = task else { continue };
                let point = state.join.point_of_producer(index);
                if let Some(count) = state.count(point, state.gate_of(*task)) {
                    *count += 1;
                }
            }
        } else if let Some(count) = state.count(0, state.gate_of(imaginary(step.given_up))) {
            *count += 1;
        }
        self.joins[number] = state;
    }

    /// Recomputes the closed and broken needs of every task of a step.
    fn recount_tasks(&mut self, step: u16) {
        if self.into[step as usize].is_empty() {
            return;
        }
        for index in self.indices(step) {
            let (closed, broken) = self.needs_of(TaskId { step, index });
            let state = &mut self.steps[step as usize];
            state.closed[index as usize] = closed;
            state.broken[index as usize] = broken;
        }
    }

    /// Gives the tasks of a step the states that follow from their needs.
    fn derive_tasks(&mut self, step: u16) {
        for index in self.indices(step) {
            let at = TaskId { step, index };
            if self.task_state(at).is_some_and(TaskState::is_derived)
                && !self.live.contains_key(&at)
            {
                self.happens(at, TaskFact::NeedsChanged);
            }
        }
    }

    /// The current indices of a step, holes included.
    pub(crate) fn indices(&self, step: u16) -> Range<u32> {
        0..u32::try_from(self.steps[step as usize].tasks.len()).expect("a space is limited")
    }
}
