//! Looks up the names, outputs and inputs of a run's tasks.

use super::state::{DimState, space_of};
use super::{Run, TaskState};
use crate::plan::Plan;
use pictor_tasks::message::{Execution, Input, Output, TaskId, WorkerId};
use pictor_tasks::space::Space;
use std::sync::Arc;

impl Plan {
    /// The step and index of the task with this [`Run::task_name`]; `None` if there is no such task, or if the plan
    /// alone does not say which tasks its step has.
    pub fn find_task(&self, name: &str) -> Option<TaskId> {
        let unbound = vec![DimState::default(); self.dims.len()];
        let space = |step| space_of(self, &unbound, step).map(|(space, _)| space.into());
        find_task(self, name, space)
    }
}

fn find_task(
    plan: &Plan,
    name: &str,
    space: impl FnOnce(u16) -> Option<Arc<Space>>,
) -> Option<TaskId> {
    let (step, label) = match name.split_once('[') {
        Some((step, label)) => (step, label.strip_suffix(']')?),
        None => (name, ""),
    };
    let step = plan.step(step)?;
    let index = space(step)?.find(label)?;
    Some(TaskId { step, index })
}

impl Run {
    /// The name of a task: `render[frame=7,tile=3]`, or just `encode` for a step without dimensions.
    pub fn task_name(&self, TaskId { step, index }: TaskId) -> String {
        let name = &self.plan.steps[step as usize].name;
        match &self.steps[step as usize].space {
            Some(space) if !space.axes.is_empty() => format!("{name}[{}]", space.label(index)),
            _ => name.clone(),
        }
    }

    /// The step and index of the task with this [`Self::task_name`].
    pub fn find_task(&self, name: &str) -> Option<TaskId> {
        find_task(&self.plan, name, |step| self.space(step).cloned())
    }

    /// A step's space; `None` while one of its dimensions is not bound.
    pub fn space(&self, step: u16) -> Option<&Arc<Space>> {
        self.steps.get(step as usize)?.space.as_ref()
    }

    /// All tasks of a step that are in a state.
    pub fn tasks_in(&self, step: u16, state: TaskState) -> impl Iterator<Item = TaskId> + '_ {
        let tasks = self.steps.get(step as usize).map_or(&[] as &[_], |s| &s.tasks);
        let found = (0u32..).zip(tasks).filter(move |(_, task)| **task == Some(state));
        found.map(move |(index, _)| TaskId { step, index })
    }

    /// Whether workers have been given any of its tasks.
    pub fn is_held(&self) -> bool {
        !self.live.is_empty()
    }

    /// The number of a task's current attempt.
    pub fn attempt(&self, at: TaskId) -> Option<u32> {
        self.steps.get(at.step as usize)?.attempts.get(at.index as usize).copied()
    }

    /// The accepted execution and the outputs of a task that succeeded and has any.
    pub fn outputs(&self, at: TaskId) -> Option<(Execution, &[Output])> {
        let accepted = self.steps.get(at.step as usize)?.accepted.get(&at.index)?;
        Some((accepted.execution, &accepted.outputs))
    }

    /// The inputs of a task: the outputs of all tasks that it needs, in the order of its needs and of their indices.
    pub fn inputs(&self, at: TaskId) -> Vec<Input> {
        let mut inputs = Vec::new();
        for &number in &self.into[at.step as usize] {
            let join = &self.joins[number].join;
            let producer = &self.steps[join.producer as usize];
            let (Some(space), Some(point)) = (&producer.space, join.point_of_consumer(at.index))
            else {
                continue;
            };
            let name = &self.plan.steps[join.producer as usize].name;
            join.producers(point, &mut |index| {
                for output in producer.accepted.get(&index).iter().flat_map(|a| &a.outputs) {
                    inputs.push(Input {
                        step: name.clone(),
                        label: space.label(index),
                        index,
                        coordinates: space.coordinates(index),
                        output: output.clone(),
                    });
                }
            });
        }
        inputs
    }

    /// The worker that has a task now.
    pub fn holder(&self, at: TaskId) -> Option<WorkerId> {
        self.live.get(&at).map(|live| live.worker)
    }

    /// The numbers of the rows of history about the attempts at a task, in order: one for each that has ended, and one
    /// for each that was claimed and whose end is not in history.
    pub fn rows_of(&self, at: TaskId) -> Vec<u64> {
        let step = self.steps.get(at.step as usize);
        step.map_or_else(Vec::new, |step| step.trail.rows(at.index).collect())
    }

    /// The message of a task's last failure; empty if there was none.
    pub fn failure(&self, at: TaskId) -> &str {
        self.failure_record(at).map_or("", |record| &record.message)
    }
}
