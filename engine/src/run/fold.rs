//! The fold: how each row of history changes a run. Live operation, recovery, the simulation and the tests of the
//! stores all use [`Run::apply`], which depends on nothing but the run and the row.

use super::binding::most;
use super::singles::AT_ONCE;
use super::state::{Accepted, DimState, FailureRecord, Live, TaskState};
use super::transitions::TaskFact;
use super::{Dropped, Run};
use crate::plan::{DimValues, Plan};
use pictor_tasks::history::{Claim, Control, Ended, Event, Fact, ResetTasks, Row};
use pictor_tasks::job::spec::{OnFailure, Retry};
use pictor_tasks::message::{
    Binding, Bound, Failure, FailureKind, Outcome, Products, TaskId, WorkerId,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The number of losses after which a task has failed.
pub const MAX_LOSSES: u32 = 5;
/// The longest pause between two attempts.
const MAX_BACKOFF_MS: u64 = 3_600_000;

/// The error for a row that cannot be folded: the stored history does not belong to the plan, or is damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fold row {seq}: {why}")]
pub struct FoldError {
    /// The number of the row.
    pub seq: u64,
    /// What is wrong with it.
    pub why: String,
}

/// Binds a dimension to what a step reported. Returns its number if that differs from before.
pub(crate) fn bind_dim(plan: &Plan, dims: &mut [DimState], binding: &Binding) -> Option<usize> {
    let dim = plan.dims.iter().position(|d| d.name == binding.dim)?;
    let state = &mut dims[dim];
    match &binding.values {
        Bound::Values(values) if state.values.as_deref() == Some(values) => return None,
        Bound::Counts(counts) if state.counts.as_deref() == Some(&**counts) => return None,
        Bound::Values(values) => state.values = Some(Arc::new(values.clone())),
        Bound::Counts(counts) => {
            state.counts = Some(counts.clone());
            if matches!(plan.dims[dim].values, DimValues::Late { .. }) {
                state.values = Some(Arc::new(most(counts)));
            }
        }
    }
    state.generation += 1;
    Some(dim)
}

/// The pause after that many failures, in milliseconds.
fn pause_ms(retry: Retry, failures: u32) -> u64 {
    let doublings = failures.saturating_sub(1).min(20);
    retry.backoff.0.saturating_mul(1 << doublings).min(MAX_BACKOFF_MS)
}

impl Run {
    /// Folds the next row of history. Returns the assignments that it invalidates.
    pub fn apply(&mut self, row: &Row) -> Result<Dropped, FoldError> {
        let error = |why: &str| Err(FoldError { seq: row.seq, why: why.to_owned() });
        if row.seq != self.seq + 1 {
            return error(&format!("the row before it has number {}", self.seq));
        }
        if row.time_ms < self.time_ms {
            return error("its time lies before the row before it");
        }
        match &row.fact {
            Fact::Claim(claim) if !self.is_current(&claim.task) => {
                return error("it claims an attempt that is not current");
            }
            Fact::Ended(ended) if !self.is_current(&ended.task) => {
                return error("it ends an attempt that is not current");
            }
            Fact::Claim(_) | Fact::Ended(_) | Fact::Event(_) => {}
        }
        (self.seq, self.time_ms) = (row.seq, row.time_ms);
        match &row.fact {
            Fact::Claim(claim) => self.apply_claim(claim),
            Fact::Ended(ended) => self.apply_ended(ended),
            Fact::Event(control) => self.apply_control(control),
        }
        Ok(std::mem::take(&mut self.dropped))
    }

    fn apply_claim(&mut self, claim: &Claim) {
        let at = claim.task.id();
        let bundle = match self.live.get(&at) {
            Some(live) if live.worker == claim.worker => live.bundle,
            _ => {
                self.drop_live(at);
                0
            }
        };
        let claimed = Some(claim.execution);
        let live = Live { worker: claim.worker, bundle, claim: claimed, until_ms: i64::MAX };
        self.insert_live(at, live);
        self.leave_trail(at, claim.worker, false);
        self.happens(at, TaskFact::Claimed);
    }

    fn apply_ended(&mut self, ended: &Ended) {
        let at = ended.task.id();
        let live = self.live.get(&at);
        let claimed = live.is_some_and(|live| live.claim == Some(ended.execution));
        if live.is_some_and(|live| live.worker == ended.worker) {
            self.remove_live(at);
        } else {
            self.drop_live(at);
        }
        self.leave_trail(at, ended.worker, claimed);
        match &ended.outcome {
            Outcome::Succeeded(products) => self.succeed(at, ended, products),
            Outcome::Failed(failure) => self.fail(at, ended, failure),
            Outcome::Lost => {
                let losses = {
                    let record = self.failure_records.entry(at).or_default();
                    record.losses += 1;
                    record.avoid.insert(ended.worker);
                    record.message = "its worker was lost".into();
                    record.losses
                };
                if losses >= MAX_LOSSES { self.fail_for_good(at) } else { self.try_again(at) }
            }
            Outcome::Cancelled => self.try_again(at),
        }
    }

    /// Notes who had the task last, and that the row that is folded now is about it.
    fn leave_trail(&mut self, at: TaskId, worker: WorkerId, replaces: bool) {
        let step = &mut self.steps[at.step as usize];
        step.workers[at.index as usize] = worker.0;
        step.trail.add((at.index, step.workers.len()), self.seq, replaces);
    }

    fn succeed(&mut self, at: TaskId, ended: &Ended, products: &Products) {
        self.failure_records.remove(&at);
        self.touch(at.step);
        let step = &mut self.steps[at.step as usize];
        step.took = (step.took.0 + 1, step.took.1 + u64::from(ended.took_ms));
        if !products.outputs.is_empty() {
            let accepted =
                Accepted { execution: ended.execution, outputs: products.outputs.clone() };
            step.accepted.insert(at.index, accepted);
        }
        self.sentences.say(at, &products.notes);
        let attempt = ended.task.task.attempt;
        self.bind(products);
        // New tasks may need outputs that were removed, and the tasks to make them again may precede this one.
        if self.steps[at.step as usize].attempts[at.index as usize] == attempt {
            self.happens(at, TaskFact::Done);
        }
        self.revise_given_up();
    }

    /// Binds late-bound dimensions to values. The same values have no effect; others start a new generation of every
    /// step over the dimension.
    fn bind(&mut self, products: &Products) {
        let bindings = products.bindings.iter();
        let changed: BTreeSet<usize> =
            bindings.filter_map(|b| bind_dim(&self.plan, &mut self.dims, b)).collect();
        if changed.is_empty() {
            return;
        }
        let touched: Vec<u16> = (0u16..)
            .zip(&self.plan.steps)
            .filter(|(_, step)| {
                step.over
                    .iter()
                    .any(|d| changed.contains(d) || changed.contains(&self.plan.root(*d).0))
            })
            .map(|(number, _)| number)
            .collect();
        self.rebuild(&touched);
    }

    fn fail(&mut self, at: TaskId, ended: &Ended, failure: &Failure) {
        let retry = self.plan.steps[at.step as usize].retry;
        let time_ms = self.time_ms;
        let record = self.failure_records.entry(at).or_default();
        record.message.clone_from(&failure.message);
        record.avoid.insert(ended.worker);
        if failure.kind == FailureKind::OutOfMemory {
            record.too_small.insert(ended.worker);
        } else {
            record.failures += 1;
        }
        if !failure.kind.is_retryable() || record.failures >= retry.attempts {
            return self.fail_for_good(at);
        }
        record.not_before_ms = time_ms.saturating_add_unsigned(pause_ms(retry, record.failures));
        self.try_again(at);
    }

    /// Shortens waits so that no next attempt is further away than its pause. Times in history never decrease, but a
    /// clock may be set back, and then they are in the future.
    pub(crate) fn wait_no_longer(&mut self, now_ms: i64) {
        let mut shortened = BTreeSet::new();
        for (at, record) in &mut self.failure_records {
            let pause = pause_ms(self.plan.steps[at.step as usize].retry, record.failures);
            let latest = now_ms.saturating_add_unsigned(pause);
            if record.not_before_ms <= latest {
                continue;
            }
            record.not_before_ms = latest;
            if self.ready_singly.contains(*at) {
                self.ready_singly.insert(*at, latest);
                shortened.insert(at.step);
            }
        }
        for step in shortened {
            self.touch(step);
        }
    }

    fn try_again(&mut self, at: TaskId) {
        self.steps[at.step as usize].attempts[at.index as usize] += 1;
        self.happens(at, TaskFact::TriedAgain);
    }

    fn fail_for_good(&mut self, at: TaskId) {
        self.happens(at, TaskFact::GaveOut);
        self.revise_given_up();
        let failed: u32 = self.steps.iter().map(|s| s.counts[TaskState::Failed as usize]).sum();
        let limit = self.plan.max_failures.unwrap_or(u32::MAX);
        if self.plan.on_failure == OnFailure::Stop || failed >= limit {
            self.stopped = true;
            self.cancel_the_rest();
        }
    }

    /// Gives up steps that wait for values, as long as the step that would report them has ended without success.
    fn revise_given_up(&mut self) {
        // Giving up one step can end another one that reports values, hence the loop; each round settles at least one.
        for _ in 0..=self.plan.steps.len() {
            let mut changed = false;
            for step in 0..u16::try_from(self.plan.steps.len()).expect("limited") {
                if self.steps[step as usize].space.is_some() {
                    continue;
                }
                let over = &self.plan.steps[step as usize].over;
                let lost = over.iter().flat_map(|dim| self.plan.binders(*dim)).any(|binder| {
                    let state = &self.steps[binder as usize];
                    state.space.is_none() && state.given_up
                        || state
                            .state(0)
                            .is_some_and(|s| s.is_terminal() && s != TaskState::Succeeded)
                });
                if self.steps[step as usize].given_up != lost {
                    self.give_up(step, lost);
                    changed = true;
                }
            }
            if !changed {
                return;
            }
        }
    }

    fn apply_control(&mut self, control: &Control) {
        self.controls.insert(control.id);
        match &control.event {
            Event::Paused => self.paused = true,
            Event::Resumed => self.paused = false,
            Event::Priority(priority) => self.priority = *priority,
            Event::Cancelled if self.state().is_terminal() => {}
            Event::Cancelled => {
                self.cancelled = true;
                self.cancel_the_rest();
            }
            Event::Reset(tasks) => self.reset(tasks),
            Event::Changed(changes) => self.change(changes),
            Event::Removed(outputs) => self.remove_outputs(outputs),
        }
    }

    fn cancel_the_rest(&mut self) {
        let steps = 0..u16::try_from(self.steps.len()).expect("limited");
        let all =
            steps.flat_map(|step| self.indices(step).map(move |index| TaskId { step, index }));
        // Collect all of them first, as cancelling one causes others to be skipped.
        let open = all.filter(|at| self.task_state(*at).is_some_and(|s| !s.is_terminal()));
        for at in open.collect::<Vec<TaskId>>() {
            self.drop_live(at);
            self.happens(at, TaskFact::RunEnded);
        }
        self.revise_given_up();
    }

    /// Resets tasks, and all that depend on their results.
    pub(crate) fn reset(&mut self, chosen: &[ResetTasks]) {
        let closure = self.reset_closure(chosen).into_iter();
        let state = |at: TaskId| self.task_state(at).expect("the closure holds existing tasks");
        self.redo(closure.map(|at| (at, state(at))).collect());
        self.revise_given_up();
        let cancelled = TaskState::Cancelled as usize;
        if self.steps.iter().all(|step| step.counts[cancelled] == 0) {
            (self.cancelled, self.stopped) = (false, false);
        }
    }

    /// Opens tasks again. Each is given with the state that it had before any of them was opened.
    pub(crate) fn redo(&mut self, tasks: Vec<(TaskId, TaskState)>) {
        for (at, was) in tasks {
            self.drop_live(at);
            self.sentences.unsay(at);
            self.failure_records.remove(&at);
            let step = &mut self.steps[at.step as usize];
            step.accepted.remove(&at.index);
            if let Some(retention) = &mut step.retention {
                retention.removed.remove(at.index);
            }
            if !matches!(was, TaskState::Pending | TaskState::Skipped) {
                self.steps[at.step as usize].attempts[at.index as usize] += 1;
            }
            // Remove it from this set first: without its record it belongs to another one.
            self.ready_singly.remove(at);
            self.happens(at, TaskFact::Reset);
        }
    }

    /// The chosen tasks, every later task that has used their results or may have done so, and the tasks that made
    /// inputs of any of these that have been removed, again with those that follow. A task that is waiting has used
    /// nothing, and neither have those after it.
    pub fn reset_closure(&self, chosen: &[ResetTasks]) -> Vec<TaskId> {
        let waits = |at: TaskId| self.task_state(at) == Some(TaskState::Pending);
        self.closure(self.chosen(chosen), |at| !waits(at)).into_iter().collect()
    }

    fn chosen(&self, chosen: &[ResetTasks]) -> Vec<TaskId> {
        let mut found: Vec<TaskId> = Vec::new();
        for ResetTasks { step, tasks } in chosen {
            if *step as usize >= self.steps.len() {
                continue;
            }
            if tasks.is_empty() {
                found.extend(self.indices(*step).map(|index| TaskId { step: *step, index }));
            } else {
                found.extend(tasks.iter().map(|index| TaskId { step: *step, index: *index }));
            }
        }
        found.retain(|at| self.task_state(*at).is_some());
        found
    }

    /// The tasks and all that follow them, as far as they `went` ahead, with the tasks that made inputs which have been
    /// removed.
    pub(crate) fn closure(
        &self,
        mut work: Vec<TaskId>,
        went: impl Fn(TaskId) -> bool,
    ) -> BTreeSet<TaskId> {
        let (mut closure, mut seen) = (BTreeSet::new(), BTreeSet::new());
        while let Some(at) = work.pop() {
            if !closure.insert(at) {
                continue;
            }
            self.removed_inputs(at, &mut seen, &mut work);
            for &number in &self.out[at.step as usize] {
                let join = &self.joins[number].join;
                let consumer = &self.steps[join.consumer as usize];
                if consumer.space.is_none() {
                    // A step without tasks counts as one task: if given up, it may have let others go ahead.
                    if consumer.given_up
                        && !closure.contains(&TaskId { step: join.consumer, index: 0 })
                    {
                        work.push(TaskId { step: join.consumer, index: 0 });
                    }
                    continue;
                }
                join.consumers(join.point_of_producer(at.index), &mut |index| {
                    let next = TaskId { step: join.consumer, index };
                    if consumer.state(index).is_some() && went(next) && !closure.contains(&next) {
                        work.push(next);
                    }
                });
            }
        }
        closure.retain(|at| self.task_state(*at).is_some());
        closure
    }

    /// Marks a task as assigned, so that it is not assigned again. Not part of history.
    pub(crate) fn assign(&mut self, at: TaskId, live: Live) {
        let step = &mut self.steps[at.step as usize];
        let rank = step.rank(at.index);
        step.ready.remove(rank);
        self.ready_singly.remove(at);
        self.insert_live(at, live);
    }

    /// Takes an assignment back: the task becomes ready again, with the same attempt.
    pub(crate) fn unassign(&mut self, at: TaskId) {
        if self.remove_live(at).is_some() {
            self.happens(at, TaskFact::TakenBack);
        }
    }

    /// The same for a task whose bundle was lost: it is assigned alone from then on, so that a task that crashes
    /// workers does not affect others.
    pub(crate) fn unassign_lost(&mut self, at: TaskId) {
        self.unassign(at);
        if self.task_state(at) == Some(TaskState::Ready) {
            self.ready_singly.insert(at, AT_ONCE);
            self.offer(at);
        }
    }

    pub(crate) fn failure_record(&self, at: TaskId) -> Option<&FailureRecord> {
        self.failure_records.get(&at)
    }
}
