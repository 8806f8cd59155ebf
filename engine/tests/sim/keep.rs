//! Retention by brute force: which tasks still read the outputs of a task, and what must never happen.

use super::model::{At, Model, Said};
use pictor_engine::plan::Need;
use pictor_tasks::history::RemovedOutputs;
use std::collections::BTreeSet;

impl Model {
    /// Whether all tasks that need this one, and those of the step that `keep` names, have succeeded.
    fn is_unread(&self, at: At) -> bool {
        let step = u16::try_from(at.0).unwrap();
        let Some(until) = self.plan.steps[at.0].keep_until else { return false };
        let readers = self.plan.steps.iter().enumerate();
        let mut readers = readers.filter(|(number, reader)| {
            *number == until as usize || reader.needs.iter().any(|need| need.step == step)
        });
        let plain = Need { step, offsets: Vec::new(), soft: true };
        readers.all(|(number, reader)| {
            let direct: Vec<&Need> = reader.needs.iter().filter(|n| n.step == step).collect();
            let needs = if direct.is_empty() { vec![&plain] } else { direct };
            self.tasks[number].as_ref().is_some_and(|tasks| {
                tasks.iter().enumerate().filter(|(_, task)| task.exists).all(|(index, task)| {
                    let reads = needs
                        .iter()
                        .any(|need| self.meet((number, index), at.0, self.task(at), need));
                    !reads || task.said == Said::Succeeded
                })
            })
        })
    }

    /// Folds a removal, if the rules allow it.
    pub(super) fn remove(&mut self, removed: &[RemovedOutputs]) -> Result<(), String> {
        for RemovedOutputs { step, tasks } in removed {
            for index in tasks.iter() {
                let at = (*step as usize, usize::try_from(index).unwrap());
                let task = self.task(at);
                if task.said != Said::Succeeded || !task.outputs || task.removed {
                    return Err(format!("{at:?} has nothing to remove: {task:?}"));
                }
                if !self.is_unread(at) {
                    return Err(format!("what {at:?} left is still read"));
                }
                let task = self.task_mut(at);
                (task.outputs, task.removed) = (false, true);
            }
        }
        Ok(())
    }

    /// The tasks whose outputs are inputs of a task and have been removed.
    pub(super) fn missing(&self, at: At) -> impl Iterator<Item = At> + '_ {
        let on = self.waits[&at].iter().filter_map(|wait| wait.on.as_ref().ok()).flatten();
        on.copied().filter(|input| self.task(*input).removed)
    }

    /// Whether all inputs of a task exist.
    pub(crate) fn has_inputs(&self, at: At) -> bool {
        self.missing(at).next().is_none()
    }

    /// Tasks whose outputs should have been removed by now.
    pub(crate) fn overdue(&self) -> BTreeSet<At> {
        let left = |at: &At| self.task(*at).outputs && self.is_unread(*at);
        self.all().into_iter().filter(left).collect()
    }
}
