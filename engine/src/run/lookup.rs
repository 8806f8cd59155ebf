//! Looks up the names, outputs and inputs of a run's tasks.

use super::{Run, TaskState};
use pictor_tasks::message::{Execution, Input, Output, TaskId};
use pictor_tasks::space::Space;
use std::sync::Arc;

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
        let (step, label) = match name.split_once('[') {
            Some((step, label)) => (step, label.strip_suffix(']')?),
            None => (name, ""),
        };
        let step = self.plan.step(step)?;
        let index = self.space(step)?.find(label)?;
        Some(TaskId { step, index })
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

    /// The message of a task's last failure; empty if there was none.
    pub fn failure(&self, at: TaskId) -> &str {
        self.failure_record(at).map_or("", |record| &record.message)
    }
}
