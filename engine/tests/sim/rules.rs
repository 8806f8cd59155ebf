//! Conditions on every message that the engine sends, whatever has happened before.

use super::world::World;
use pictor_engine::TaskState;
use pictor_tasks::body::Body;
use pictor_tasks::message::{Assignment, StepKey, TaskId, Try, WorkerId};
use std::collections::BTreeMap;

pub(crate) struct Rules<'a> {
    world: &'a mut World,
}

impl<'a> Rules<'a> {
    pub(crate) fn new(world: &'a mut World) -> Self {
        Self { world }
    }

    /// Checks that new assignments go to workers that can do them and have free capacity.
    pub(crate) fn assignments(&mut self, new: &[(WorkerId, Assignment)]) {
        self.forget_what_is_over(new);
        let mut open: BTreeMap<WorkerId, u32> = BTreeMap::new();
        for (worker, _, _) in &self.world.sent {
            *open.entry(*worker).or_default() += 1;
        }
        for (id, assignment) in new {
            let world = &*self.world;
            let worker = world.workers.iter().find(|worker| worker.id == *id).unwrap();
            let run = world.runs.iter().find(|run| run.id == assignment.key.run).unwrap();
            let step = &run.plan.steps[assignment.key.step as usize];
            assert_eq!(step.requires.missing(&worker.inventory), None);
            let permitted = worker.inventory.allows_commands;
            assert!(permitted || !matches!(step.body, Body::Command(_)));
            let open = open.entry(*id).or_default();
            *open += 1;
            assert!(*open <= worker.inventory.slots + 1, "worker {} holds {open}", id.0);
            assert!(!assignment.tasks.is_empty());
            for task in &assignment.tasks {
                assert!(
                    self.is_held(*id, &assignment.key, *task),
                    "it sends what it does not hold"
                );
                let at = (assignment.key.step as usize, task.index as usize);
                assert!(run.model.has_inputs(at), "it sends what lacks an input: {assignment:?}");
                let live = world.engine.run(&run.id).unwrap();
                for input in live.inputs(assignment.key.task(task.index)) {
                    assert!(world.stored.contains(&input.output.key), "{input:?} is gone");
                }
            }
        }
    }

    /// Drops assignments that the engine no longer counts as held by their workers.
    fn forget_what_is_over(&mut self, new: &[(WorkerId, Assignment)]) {
        let again = |key: &StepKey, task: &Try| {
            new.iter().any(|(_, a)| a.key == *key && a.tasks.contains(task))
        };
        let mut sent = std::mem::take(&mut self.world.sent);
        for (worker, key, tasks) in &mut sent {
            tasks.retain(|task| self.is_held(*worker, key, *task) && !again(key, task));
        }
        sent.retain(|(_, _, tasks)| !tasks.is_empty());
        self.world.sent = sent;
    }

    fn is_held(&self, worker: WorkerId, key: &StepKey, task: Try) -> bool {
        let engine = &self.world.engine;
        let run = engine.run(&key.run).unwrap();
        let view = engine.task(run, key.task(task.index), self.world.now);
        view.is_some_and(|view| {
            let open =
                matches!(view.state, TaskState::Ready | TaskState::Queued | TaskState::Running);
            open && view.worker == Some(worker) && view.attempt == task.attempt
        })
    }

    /// Checks that no limit is held by more tasks than it allows.
    pub(crate) fn limits(&self) {
        let world = &*self.world;
        for (limit, most) in &world.config.limits {
            let mut held = 0;
            for run in &world.runs {
                let live = world.engine.run(&run.id).unwrap();
                for (number, step) in (0u16..).zip(&run.plan.steps) {
                    let size = live.space(number).map_or(0, |space| space.len());
                    if step.limits.contains(limit) {
                        let view = |at| world.engine.task(live, at, world.now);
                        let tasks =
                            (0..size).map(|index| TaskId { step: number, index }).filter_map(view);
                        held += tasks.filter(|task| task.worker.is_some()).count();
                    }
                }
            }
            assert!(held <= *most as usize, "{held} tasks hold the limit {limit} of {most}");
        }
    }
}
