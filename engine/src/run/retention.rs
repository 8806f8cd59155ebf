//! Outputs that are not kept as long as the run (`keep: {until: STEP}`): they are removed when all tasks that read them
//! have succeeded, and a reset that needs them makes them again.
//!
//! This is the inverse of a need: for each reading step there is one counter for each point of the shared space, and
//! for each task the number of reading steps that are not done. **Invariant:** a task whose outputs were removed has
//! succeeded, and so have all tasks that need it.

use super::Run;
use super::state::{StepState, TaskState};
use super::task_set::TaskSet;
use crate::plan::join::Join;
use crate::plan::{Need, Plan};
use pictor_tasks::history::RemovedOutputs;
use pictor_tasks::message::TaskId;
use pictor_tasks::range::Ranges;
use std::collections::BTreeSet;

/// The most tasks in one event.
const REMOVED_MAX: usize = 10_000;

/// A step that reads the outputs of another.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// In this join, the consumer is the step that makes the outputs, and the producer the one that reads them.
    pub(crate) join: Join,
    /// For each point, the number of readers that have not succeeded.
    pub(crate) open: Vec<u32>,
    need: Need,
}

/// All such relations of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readings {
    pub(crate) all: Vec<Reading>,
    /// Indices into `all`, by the step that makes the outputs and by the one that reads them.
    pub(crate) of: Vec<Vec<usize>>,
    by: Vec<Vec<usize>>,
}

/// The state of a step's outputs that are not kept as long as the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// For each task, the number of reading steps that are not done.
    pub(crate) unread: Vec<u16>,
    /// Tasks with outputs that no task will read.
    pub(crate) due: TaskSet,
    /// Tasks whose outputs have been removed.
    pub(crate) removed: TaskSet,
}

impl Retention {
    /// For a step whose tasks have not begun.
    pub(crate) fn new(size: u32) -> Self {
        let (due, removed) = (TaskSet::new(size), TaskSet::new(size));
        Self { unread: vec![0; size as usize], due, removed }
    }
}

impl Readings {
    /// The relations in a plan, with no space bound yet.
    pub(crate) fn new(plan: &Plan) -> Self {
        let none = vec![Vec::new(); plan.steps.len()];
        let mut readings = Self { all: Vec::new(), of: none.clone(), by: none };
        for (maker, step) in (0u16..).zip(&plan.steps) {
            let Some(until) = step.keep_until else { continue };
            let mut needs = Vec::new();
            for (reader, step) in (0u16..).zip(&plan.steps) {
                for need in step.needs.iter().filter(|need| need.step == maker) {
                    // If readers need the task 2 positions before them, a task is read by the reader 2 positions after
                    // it.
                    let offsets =
                        need.offsets.iter().map(|(dim, by)| (*dim, by.saturating_neg())).collect();
                    needs.push(Need { step: reader, offsets, soft: true });
                }
            }
            if needs.iter().all(|need| need.step != until) {
                needs.push(Need { step: until, offsets: Vec::new(), soft: true });
            }
            for need in needs {
                readings.of[maker as usize].push(readings.all.len());
                readings.by[need.step as usize].push(readings.all.len());
                let join = Join::new(plan, (maker, &need), None, None);
                readings.all.push(Reading { join, open: Vec::new(), need });
            }
        }
        readings
    }
}

impl StepState {
    /// Whether the outputs of a task have been removed.
    pub(crate) fn is_removed(&self, index: u32) -> bool {
        self.retention.as_ref().is_some_and(|retention| retention.removed.contains(index))
    }

    /// Updates whether a task has outputs that no task will read.
    fn review(&mut self, index: u32) {
        let left =
            self.state(index) == Some(TaskState::Succeeded) && self.accepted.contains_key(&index);
        let Some(retention) = &mut self.retention else { return };
        if left && retention.unread[index as usize] == 0 {
            retention.due.insert(index);
        } else {
            retention.due.remove(index);
        }
    }

    /// Counts one reading step of a task as done, or as open again.
    fn count_reading(&mut self, index: u32, through: bool) {
        if self.state(index).is_none() {
            return;
        }
        let Some(retention) = &mut self.retention else { return };
        let unread = &mut retention.unread[index as usize];
        *unread = if through { *unread - 1 } else { *unread + 1 };
        self.review(index);
    }
}

impl Run {
    /// Whether the outputs of a task have been removed because no task will read them.
    pub fn is_removed(&self, at: TaskId) -> bool {
        self.steps.get(at.step as usize).is_some_and(|state| state.is_removed(at.index))
    }

    /// Keys of artifacts that are removed in history but whose deletion has not been requested since the history was
    /// folded: they may still exist.
    pub fn pending_deletions(&self) -> &[String] {
        &self.pending_deletions
    }

    /// Updates the counters of what a task reads after a change of its state, and whether its own outputs will still be
    /// read.
    pub(crate) fn shift_readings(&mut self, at: TaskId, old: TaskState, new: TaskState) {
        let through = new == TaskState::Succeeded;
        if through == (old == TaskState::Succeeded) {
            return;
        }
        for &number in &self.readings.by[at.step as usize] {
            let Reading { join, open, .. } = &mut self.readings.all[number];
            let count = &mut open[join.point_of_producer(at.index) as usize];
            let before = *count;
            *count = if through { before - 1 } else { before + 1 };
            if before == 0 || *count == 0 {
                let maker = &mut self.steps[join.consumer as usize];
                join.consumers(join.point_of_producer(at.index), &mut |index| {
                    maker.count_reading(index, through);
                });
            }
        }
        self.steps[at.step as usize].review(at.index);
    }

    /// Recomputes the counters that involve any of these steps.
    pub(crate) fn recount_readings(&mut self, steps: &[u16]) {
        let mut makers = BTreeSet::new();
        for Reading { join, open, need } in &mut self.readings.all {
            let (maker, reader) = (join.consumer, join.producer);
            if !steps.contains(&maker) && !steps.contains(&reader) {
                continue;
            }
            let space = |step: u16| self.steps[step as usize].space.as_deref();
            *join = Join::new(&self.plan, (maker, need), space(maker), space(reader));
            *open = vec![0; join.points() as usize];
            let state = &self.steps[reader as usize];
            if state.space.is_none() {
                // Its dimensions may still be bound.
                open[0] = 1;
            }
            for (index, task) in (0u32..).zip(&state.tasks) {
                if task.is_some_and(|task| task != TaskState::Succeeded) {
                    open[join.point_of_producer(index) as usize] += 1;
                }
            }
            makers.insert(maker);
        }
        for maker in makers {
            for index in self.indices(maker) {
                let at = TaskId { step: maker, index };
                if self.task_state(at).is_none() {
                    continue;
                }
                let unread = self.unread(at);
                let state = &mut self.steps[maker as usize];
                if let Some(retention) = &mut state.retention {
                    retention.unread[index as usize] = unread;
                }
                state.review(index);
            }
        }
    }

    /// The number of reading steps of a task that are not done, from their counters.
    pub(crate) fn unread(&self, at: TaskId) -> u16 {
        let open = self.readings.of[at.step as usize].iter().filter(|number| {
            let Reading { join, open, .. } = &self.readings.all[**number];
            join.point_of_consumer(at.index).is_some_and(|point| open[point as usize] > 0)
        });
        u16::try_from(open.count()).expect("a plan has fewer needs")
    }

    /// Folds a removal of outputs.
    pub(crate) fn remove_outputs(&mut self, removed: &[RemovedOutputs]) {
        for RemovedOutputs { step, tasks } in removed {
            let Some(state) = self.steps.get_mut(*step as usize) else { continue };
            let Some(retention) = &mut state.retention else { continue };
            for index in tasks.iter().filter_map(|index| u32::try_from(index).ok()) {
                let Some(accepted) = state.accepted.remove(&index) else { continue };
                retention.due.remove(index);
                retention.removed.insert(index);
                self.pending_deletions
                    .extend(accepted.outputs.into_iter().map(|output| output.key));
            }
        }
    }

    /// Finds the tasks that made inputs of a task which have been removed. Points of joins in `seen` have been examined
    /// before.
    pub(crate) fn removed_inputs(
        &self,
        at: TaskId,
        seen: &mut BTreeSet<(usize, u32)>,
        found: &mut Vec<TaskId>,
    ) {
        if self.steps[at.step as usize].space.is_none() {
            return;
        }
        for &number in &self.into[at.step as usize] {
            let join = &self.joins[number].join;
            let producer = &self.steps[join.producer as usize];
            let some = producer.retention.as_ref().is_some_and(|r| r.removed.len() > 0);
            let Some(point) = join.point_of_consumer(at.index).filter(|_| some) else { continue };
            if seen.insert((number, point)) {
                join.producers(point, &mut |index| {
                    if producer.is_removed(index) {
                        found.push(TaskId { step: join.producer, index });
                    }
                });
            }
        }
    }

    /// Whether outputs are to be removed, or artifacts to be deleted.
    pub(crate) fn has_due(&self) -> bool {
        let due = |retention: &Retention| retention.due.len() > 0;
        !self.pending_deletions.is_empty()
            || self.steps.iter().any(|s| s.retention.as_ref().is_some_and(due))
    }

    /// Takes the next outputs to remove from those that are due.
    pub(crate) fn take_due(&mut self) -> Vec<RemovedOutputs> {
        let (mut room, mut taken) = (REMOVED_MAX, Vec::new());
        for (step, state) in (0u16..).zip(&mut self.steps) {
            let Some(retention) = &mut state.retention else { continue };
            let due = std::iter::from_fn(|| retention.due.pop()).take(room);
            let tasks: Vec<i64> = due.map(i64::from).collect();
            room -= tasks.len();
            if !tasks.is_empty() {
                let tasks = Ranges::from_values(&tasks).expect("few indices, each once");
                taken.push(RemovedOutputs { step, tasks });
            }
        }
        taken
    }
}
