//! How the oracle reads history: each row must be allowed, and changes only what it says.

use super::model::{At, Model, Said, States};
use pictor_engine::plan::DimValues;
use pictor_engine::{MAX_LOSSES, TaskState};
use pictor_tasks::history::{Ended, Event, Fact, ResetTasks, Row, TaskRef};
use pictor_tasks::job::spec::OnFailure;
use pictor_tasks::message::{Bound, FailureKind, Outcome, Products};
use pictor_tasks::space::Values;
use std::collections::{BTreeMap, BTreeSet};

impl Model {
    /// Folds a row, if the rules allow it.
    pub(crate) fn apply(&mut self, row: &Row) -> Result<(), String> {
        match &row.fact {
            Fact::Claim(claim) => {
                let at = self.find(claim.task, &row.fact)?;
                let state = self.states().tasks[&at];
                if state != TaskState::Ready {
                    return Err(format!("claimed while {}: {claim:?}", state.name()));
                }
                if !self.has_inputs(at) {
                    return Err(format!("claimed without its inputs: {claim:?}"));
                }
                self.task_mut(at).said = Said::Claimed(claim.worker, claim.execution);
            }
            Fact::Ended(ended) => {
                let at = self.find(ended.task, &row.fact)?;
                let state = self.states().tasks[&at];
                let allowed = match (self.task(at).said, state) {
                    (Said::Claimed(worker, execution), _) => {
                        (worker, execution) == (ended.worker, ended.execution)
                    }
                    (_, state) => state == TaskState::Ready && ended.outcome != Outcome::Lost,
                };
                if !allowed || !self.has_inputs(at) {
                    return Err(format!("ended while {}: {ended:?}", state.name()));
                }
                self.end(at, ended);
            }
            Fact::Event(control) => {
                if !self.controls.insert(control.id) {
                    return Err(format!("the control {} twice", control.id));
                }
                match &control.event {
                    Event::Paused => self.paused = true,
                    Event::Resumed => self.paused = false,
                    Event::Priority(_) => {}
                    Event::Cancelled if self.state().is_terminal() => {}
                    Event::Cancelled => {
                        self.cancelled = true;
                        self.cancel();
                    }
                    Event::Reset(tasks) => self.reset(tasks),
                    // These change no task.
                    Event::Changed(changes) => self.reset(&changes.reset),
                    Event::Removed(outputs) => self.remove(outputs)?,
                }
            }
        }
        Ok(())
    }

    fn find(&self, task: TaskRef, fact: &Fact) -> Result<At, String> {
        let at = (task.step as usize, task.task.index as usize);
        let found = self.tasks[at.0].as_ref().and_then(|tasks| tasks.get(at.1));
        match found {
            Some(found)
                if found.exists
                    && found.attempt == task.task.attempt
                    && self.generation(at.0) == task.generation =>
            {
                Ok(at)
            }
            _ => Err(format!("there is no such attempt: {fact:?}")),
        }
    }

    fn generation(&self, step: usize) -> u32 {
        let over = self.plan.steps[step].over.iter();
        over.map(|dim| self.late[self.root(*dim).0].generation).sum()
    }

    fn end(&mut self, at: At, ended: &Ended) {
        let retry = self.plan.steps[at.0].retry;
        let task = self.task_mut(at);
        task.said = Said::Nothing;
        let last = match &ended.outcome {
            Outcome::Succeeded(products) => {
                (task.failures, task.losses) = (0, 0);
                task.outputs = !products.outputs.is_empty();
                let attempt = task.attempt;
                // The tasks that need this one still wait while the values change.
                self.bind(products);
                // They may need outputs that were removed, and the tasks to make them again may precede this one.
                if self.task(at).attempt == attempt {
                    self.task_mut(at).said = Said::Succeeded;
                }
                return;
            }
            Outcome::Failed(failure) => {
                task.failures += u32::from(failure.kind != FailureKind::OutOfMemory);
                failure.kind == FailureKind::Invalid || task.failures >= retry.attempts
            }
            Outcome::Lost => {
                task.losses += 1;
                task.losses >= MAX_LOSSES
            }
            Outcome::Cancelled => false,
        };
        if !last {
            task.attempt += 1;
            return;
        }
        task.said = Said::Failed;
        let failed = self.all().into_iter().filter(|at| self.task(*at).said == Said::Failed);
        let limit = self.plan.max_failures.map_or(usize::MAX, |limit| limit as usize);
        if self.plan.on_failure == OnFailure::Stop || failed.count() >= limit {
            self.stopped = true;
            self.cancel();
        }
    }

    fn bind(&mut self, products: &Products) {
        let mut changed = BTreeSet::new();
        for binding in &products.bindings {
            let dim = self.plan.dims.iter().position(|d| d.name == binding.dim).unwrap();
            let late = &mut self.late[dim];
            let before = (late.values.clone(), late.counts.clone());
            match &binding.values {
                Bound::Values(values) => late.values = Some(values.clone()),
                Bound::Counts(counts) => {
                    late.counts = Some(counts.to_vec());
                    if matches!(self.plan.dims[dim].values, DimValues::Late { .. }) {
                        let most = counts.iter().max().copied().unwrap_or(0);
                        late.values = Some(Values::count(most));
                    }
                }
            }
            if before != (late.values.clone(), late.counts.clone()) {
                late.generation += 1;
                changed.insert(dim);
            }
        }
        let over = |step: &usize| {
            let over = &self.plan.steps[*step].over;
            over.iter().any(|d| changed.contains(d) || changed.contains(&self.root(*d).0))
        };
        let touched: Vec<usize> = (0..self.tasks.len()).filter(over).collect();
        if touched.is_empty() {
            return;
        }
        let mut before = self.states();
        before.tasks.retain(|at, _| !touched.contains(&at.0));
        self.give_tasks(&touched);
        // Tasks that went ahead with the old tasks, and should have waited for the new ones, are done again.
        let early = before.tasks.iter().filter(|(at, state)| {
            use TaskState::{Cancelled, Pending, Skipped};
            let mut after = States { tasks: BTreeMap::new(), given_up: BTreeMap::new() };
            !matches!(state, Pending | Skipped | Cancelled)
                && self.derive(**at, &mut after) != TaskState::Ready
        });
        let mut early: BTreeSet<At> = early.map(|(at, _)| *at).collect();
        let fresh = self.all().into_iter().filter(|at| touched.contains(&at.0));
        early.extend(fresh.flat_map(|at| self.missing(at).collect::<Vec<_>>()));
        self.redo(early, &before);
    }

    fn reset(&mut self, chosen: &[ResetTasks]) {
        let before = self.states();
        let mut tasks = BTreeSet::new();
        for at in self.all() {
            let named = |r: &ResetTasks| {
                r.step as usize == at.0
                    && (r.tasks.is_empty() || r.tasks.iter().any(|i| *i as usize == at.1))
            };
            if chosen.iter().any(named) {
                tasks.insert(at);
            }
        }
        self.redo(tasks, &before);
        if self.all().iter().all(|at| self.task(*at).said != Said::Cancelled) {
            (self.cancelled, self.stopped) = (false, false);
        }
    }

    /// Opens the tasks and all that have used them, directly or indirectly, and those that made inputs of theirs which
    /// have been removed.
    fn redo(&mut self, mut tasks: BTreeSet<At>, before: &States) {
        let mut unborn: BTreeSet<usize> = BTreeSet::new();
        loop {
            let known = (tasks.len(), unborn.len());
            let missing: Vec<At> = tasks.iter().flat_map(|at| self.missing(*at)).collect();
            tasks.extend(missing);
            for (at, state) in &before.tasks {
                let used = self.waits[at].iter().any(|wait| match &wait.on {
                    Ok(on) => on.iter().any(|p| tasks.contains(p)),
                    Err(step) => unborn.contains(step),
                });
                if used && *state != TaskState::Pending {
                    tasks.insert(*at);
                }
            }
            for (step, given_up) in &before.given_up {
                let needs = &self.plan.steps[*step].needs;
                let used = needs.iter().any(|need| {
                    let producer = need.step as usize;
                    unborn.contains(&producer) || tasks.iter().any(|at| at.0 == producer)
                });
                if used && *given_up {
                    unborn.insert(*step);
                }
            }
            if known == (tasks.len(), unborn.len()) {
                break;
            }
        }
        for at in tasks {
            let waited = matches!(before.tasks[&at], TaskState::Pending | TaskState::Skipped);
            let task = self.task_mut(at);
            task.attempt += u32::from(!waited);
            (task.said, task.failures, task.losses) = (Said::Nothing, 0, 0);
            (task.outputs, task.removed) = (false, false);
        }
    }

    /// Cancels everything that has not ended.
    fn cancel(&mut self) {
        for (at, state) in self.states().tasks {
            if !state.is_terminal() {
                self.task_mut(at).said = Said::Cancelled;
            }
        }
    }
}
