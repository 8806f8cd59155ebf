//! Comparable forms and recounts of a run, for the simulation and the tests of the stores.

use super::Run;
use super::state::TaskState;
use pictor_tasks::message::TaskId;
use std::collections::{BTreeMap, BTreeSet};

impl Run {
    /// Everything that is determined by history, in a comparable form: a recovered run equals the one that was
    /// interrupted. Queued tasks count as ready, because queues are not part of history.
    pub fn durable(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let steps: Vec<_> = self
            .steps
            .iter()
            .map(|step| {
                let states: Vec<_> = step
                    .tasks
                    .iter()
                    .map(|s| s.map(|s| if s == TaskState::Queued { TaskState::Ready } else { s }))
                    .collect();
                let mut accepted: Vec<_> = step.accepted.clone().into_iter().collect();
                accepted.sort_by_key(|(index, _)| *index);
                let attempts = step.space.as_ref().map(|_| (step.attempts.clone(), step.took));
                let counters = (step.closed.clone(), step.broken.clone(), attempts);
                let kept = (accepted, step.retention.clone(), step.trail.clone());
                (states, counters, step.generation, step.given_up, kept)
            })
            .collect();
        let mut records: Vec<_> = self.failure_records.clone().into_iter().collect();
        records.sort_by_key(|(at, _)| *at);
        let claims: BTreeMap<TaskId, _> = self
            .live
            .iter()
            .filter_map(|(at, live)| live.claim.map(|execution| (*at, (live.worker, execution))))
            .collect();
        let controls: BTreeSet<u64> = self.controls.iter().copied().collect();
        let flags = (self.paused, self.cancelled, self.stopped, self.priority, controls);
        let place = (self.seq, self.time_ms, self.state());
        let said = (self.dims.clone(), self.sentences.clone());
        (steps, records, claims, said, flags, place)
    }

    /// Recomputes every counter from the tasks' states; the error says which one differs.
    pub fn check(&self) -> Result<(), String> {
        let mut again = self.clone();
        for number in 0..again.joins.len() {
            again.recount_join(number);
            let (ours, theirs) = (&self.joins[number], &again.joins[number]);
            if (&ours.waiting, &ours.broken) != (&theirs.waiting, &theirs.broken) {
                return Err(format!("join {number} has wrong counters"));
            }
        }
        again.recount_readings(&(0u16..).take(self.steps.len()).collect::<Vec<_>>());
        for (ours, theirs) in self.readings.all.iter().zip(&again.readings.all) {
            if ours.open != theirs.open {
                return Err(format!("{ours:?} has wrong counters"));
            }
        }
        for (number, step) in (0u16..).zip(&self.steps) {
            let name = &self.plan.steps[number as usize].name;
            let mut counts = [0; 8];
            for (index, task) in (0u32..).zip(&step.tasks) {
                let Some(task) = *task else { continue };
                counts[task as usize] += 1;
                self.check_task(TaskId { step: number, index }, task)
                    .map_err(|why| format!("{name}[{index}] is {}: {why}", task.name()))?;
            }
            if step.retention != again.steps[number as usize].retention {
                return Err(format!("{name}: kept {:?}", step.retention));
            }
            let live = self.live.keys().filter(|at| at.step == number).count();
            if live != step.live as usize {
                return Err(format!("{name}: {live} assigned, counted {}", step.live));
            }
            if counts != step.counts {
                return Err(format!("{name}: counted {counts:?}, kept {:?}", step.counts));
            }
        }
        Ok(())
    }

    fn check_task(&self, at: TaskId, task: TaskState) -> Result<(), String> {
        let step = &self.steps[at.step as usize];
        if !self.into[at.step as usize].is_empty() {
            let needs = self.needs_of(at);
            let kept = (step.closed[at.index as usize], step.broken[at.index as usize]);
            if needs != kept {
                return Err(format!("needs {needs:?}, kept {kept:?}"));
            }
        }
        let live = self.live.get(&at);
        let removed = step.is_removed(at.index);
        if removed && (task != TaskState::Succeeded || step.accepted.contains_key(&at.index)) {
            return Err("its outputs were removed".into());
        }
        if task.is_derived() && task != self.derived(at) {
            return Err("its needs say otherwise".into());
        }
        if matches!(task, TaskState::Queued | TaskState::Running | TaskState::Succeeded)
            && self.derived(at) != TaskState::Ready
        {
            return Err("its needs are not met".into());
        }
        if live.is_some_and(|l| l.claim.is_some()) != (task == TaskState::Running) {
            return Err(format!("its assignment is {live:?}"));
        }
        if live.is_some()
            && !matches!(task, TaskState::Ready | TaskState::Queued | TaskState::Running)
        {
            return Err(format!("it has the assignment {live:?}"));
        }
        let (plain, ready_singly) =
            (step.ready.contains(step.rank(at.index)), self.ready_singly.contains(at));
        if plain && ready_singly {
            return Err("offered twice".into());
        }
        if plain && self.failure_records.contains_key(&at) {
            return Err("offered as if it had never failed".into());
        }
        let offered = plain || ready_singly;
        if offered != (task == TaskState::Ready && live.is_none()) {
            return Err(format!("offered: {offered}, assignment: {live:?}"));
        }
        Ok(())
    }
}
