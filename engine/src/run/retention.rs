//! Outputs that are not kept as long as the run (`keep: {until: STEP}`): when everything that reads them has
//! succeeded they are removed, and a reset that needs them again makes them again.
//!
//! It is a need the other way round: for each reader there is one counter for each point of the shared
//! space, and for each task the number of readers that are not through. **Invariant:** a task whose
//! outputs were removed has succeeded, and so has everything that needs it.

use super::Run;
use super::state::{StepState, TaskState};
use super::task_set::TaskSet;
use crate::plan::join::Join;
use crate::plan::{Need, Plan};
use pictor_tasks::history::RemovedOutputs;
use pictor_tasks::message::TaskId;
use pictor_tasks::range::Ranges;
use std::collections::BTreeSet;

/// Tasks that one event names at most.
const REMOVED_MAX: usize = 10_000;

/// One step that reads the outputs of another.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// The consumer is the step that makes the outputs, the producer the one that reads them.
    pub(crate) join: Join,
    /// Per point: readers that have not succeeded.
    pub(crate) open: Vec<u32>,
    need: Need,
}

/// All readings of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readings {
    pub(crate) all: Vec<Reading>,
    /// By the step that makes the outputs and by the one that reads them.
    pub(crate) of: Vec<Vec<usize>>,
    by: Vec<Vec<usize>>,
}

/// What is known about the outputs of a step that are not kept as long as the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Per task: readings that are not through.
    pub(crate) unread: Vec<u16>,
    /// Tasks with outputs that nobody reads any more.
    pub(crate) due: TaskSet,
    /// Tasks whose outputs were removed.
    pub(crate) removed: TaskSet,
}

impl Retention {
    /// Of a step whose tasks have not begun.
    pub(crate) fn new(size: u32) -> Self {
        let (due, removed) = (TaskSet::new(size), TaskSet::new(size));
        Self { unread: vec![0; size as usize], due, removed }
    }
}

impl Readings {
    /// The readings of a plan, over spaces that are not alive.
    pub(crate) fn new(plan: &Plan) -> Self {
        let none = vec![Vec::new(); plan.steps.len()];
        let mut readings = Self { all: Vec::new(), of: none.clone(), by: none };
        for (maker, step) in (0u16..).zip(&plan.steps) {
            let Some(until) = step.keep_until else { continue };
            let mut needs = Vec::new();
            for (reader, step) in (0u16..).zip(&plan.steps) {
                for need in step.needs.iter().filter(|need| need.step == maker) {
                    // Who needs what is 2 positions before it is needed by what is 2 positions after it.
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
    /// Whether the outputs of a task were removed.
    pub(crate) fn is_removed(&self, index: u32) -> bool {
        self.retention.as_ref().is_some_and(|retention| retention.removed.contains(index))
    }

    /// Notes whether a task has outputs that nobody reads any more.
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

    /// One of the readings of a task is through, or is open again.
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
    /// Whether the outputs of a task were removed because nobody reads them any more.
    pub fn is_removed(&self, at: TaskId) -> bool {
        self.steps.get(at.step as usize).is_some_and(|state| state.is_removed(at.index))
    }

    /// Keys of artifacts that history says are removed, as far as nobody was told to delete them since
    /// this was folded: they may still be there.
    pub fn doomed(&self) -> &[String] {
        &self.doomed
    }

    /// A task went from one state to another: moves the counters of what it reads, and notes whether
    /// somebody still reads what it left.
    pub(crate) fn shift_readings(&mut self, at: TaskId, (old, new): (TaskState, TaskState)) {
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

    /// Counts the readings that touch any of these steps again.
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
                // It may come to life.
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

    /// How many of a task's readings are not through, from their counters.
    pub(crate) fn unread(&self, at: TaskId) -> u16 {
        let open = self.readings.of[at.step as usize].iter().filter(|number| {
            let Reading { join, open, .. } = &self.readings.all[**number];
            join.point_of_consumer(at.index).is_some_and(|point| open[point as usize] > 0)
        });
        u16::try_from(open.count()).expect("a plan has fewer needs")
    }

    /// Folds a removal: the artifacts are not there any more.
    pub(crate) fn remove_outputs(&mut self, removed: &[RemovedOutputs]) {
        for RemovedOutputs { step, tasks } in removed {
            let Some(state) = self.steps.get_mut(*step as usize) else { continue };
            let Some(retention) = &mut state.retention else { continue };
            for index in tasks.iter().filter_map(|index| u32::try_from(index).ok()) {
                let Some(accepted) = state.accepted.remove(&index) else { continue };
                retention.due.remove(index);
                retention.removed.insert(index);
                self.doomed.extend(accepted.outputs.into_iter().map(|output| output.key));
            }
        }
    }

    /// Tasks that left something which a task reads and which was removed. Each point of a join that is
    /// in `seen` was looked at before.
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

    /// The next outputs to remove, out of those that are due.
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
