//! Messages of workers: heartbeats, claims, results, and silence. Each message may be late, duplicated or from the
//! wrong worker; whatever does not match the current attempt is stale.

use super::assign::MAX_FAILURES_ON_WORKER;
use super::{Class, Effects, Engine, Entry, Worker};
use crate::run::TaskState;
use crate::run::state::Live;
use crate::run::transitions::TaskFact;
use pictor_tasks::history::{Claim, Ended, Fact, TaskRef};
use pictor_tasks::message::{
    Cancel, Execution, Failure, FailureKind, Outcome, Report, RunId, StepKey, TaskEnd, TaskId, Try,
    What, WorkerId,
};
use pictor_tasks::output::check_names;
use std::collections::BTreeSet;

/// The longest texts that a worker's report may have, in bytes, and the most notes; the rest is cut off.
const FAILURE_BYTES_MAX: usize = 16 << 10;
const NOTE_BYTES_MAX: usize = 2 << 10;
const PROGRESS_BYTES_MAX: usize = 200;
const NOTES_MAX: usize = 100;

/// The time at which a message is handled, and the effects that follow from it.
struct Turn<'a> {
    now_ms: i64,
    fx: &'a mut Effects,
}

impl Engine {
    /// Handles the orderly departure of a worker, which holds no tasks any more.
    pub fn leave(&mut self, id: WorkerId, now_ms: i64, fx: &mut Effects) {
        self.forget(id);
        self.suspect_all();
        let runs: BTreeSet<RunId> = self.bundles_of(id).map(|bundle| bundle.run.clone()).collect();
        let turn = &mut Turn { now_ms, fx };
        for run in runs {
            self.give_back(&run, |live| live.worker == id, &Outcome::Cancelled, turn);
        }
    }

    /// Handles a heartbeat of a worker that holds these attempts. It is told to stop those that are not its own. Those
    /// that nobody else has (after a takeover) count as its own from now on: the caller is certain that an owner assigned
    /// them to it.
    pub fn heartbeat(
        &mut self,
        id: WorkerId,
        holding: &[(StepKey, Vec<Try>)],
        now_ms: i64,
        fx: &mut Effects,
    ) {
        self.held((id, true), holding, now_ms, fx);
    }

    /// The same for attempts of which it is not certain that they were ever assigned to the worker.
    pub fn unproven(
        &mut self,
        id: WorkerId,
        holding: &[(StepKey, Vec<Try>)],
        now_ms: i64,
        fx: &mut Effects,
    ) {
        self.held((id, false), holding, now_ms, fx);
    }

    fn held(
        &mut self,
        (id, proven): (WorkerId, bool),
        holding: &[(StepKey, Vec<Try>)],
        now_ms: i64,
        fx: &mut Effects,
    ) {
        self.seen(id, now_ms);
        for (key, tasks) in holding {
            let mut foreign = tasks.clone();
            foreign.retain(|task| !self.holds((id, proven), key, *task, now_ms));
            if !foreign.is_empty() {
                fx.cancel.push((id, Cancel { key: key.clone(), tasks: foreign }));
            }
        }
    }

    fn seen(&mut self, id: WorkerId, now_ms: i64) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.seen_ms = worker.seen_ms.max(now_ms);
            if !worker.listed {
                self.list(id, now_ms);
            }
        }
    }

    /// Whether the worker may continue a task; if so, the lease or deadline is extended.
    fn holds(
        &mut self,
        (id, proven): (WorkerId, bool),
        key: &StepKey,
        task: Try,
        now_ms: i64,
    ) -> bool {
        let at = key.task(task.index);
        let Some(entry) = self.runs.get(&key.run) else { return false };
        if !entry.run.is_current(&reference(key, task)) {
            return false;
        }
        let able =
            |worker| Class::of(&entry.run.plan.steps[at.step as usize]).lacks(worker).is_none();
        let free = proven
            && !entry.run.live.contains_key(&at)
            && entry.run.task_state(at) == Some(TaskState::Ready)
            && self.workers.get(&id).is_some_and(able)
            && self.index.limits.allow(entry.index.steps[at.step as usize].limits);
        let entry = self.runs.get_mut(&key.run).expect("looked up above");
        if free {
            let live = Live { worker: id, bundle: 0, claim: None, until_ms: now_ms };
            entry.run.assign(at, live);
            entry.run.happens(at, TaskFact::Sent);
        }
        let Some(live) = entry.run.live.get_mut(&at).filter(|live| live.worker == id) else {
            return false;
        };
        let claimed = live.claim.is_some();
        let extra = if claimed { self.config.lease_ms } else { self.config.deadline_ms };
        live.until_ms = live.until_ms.max(now_ms + extra);
        if free {
            self.adopt(&key.run, at);
            self.reindex(&key.run);
        }
        true
    }

    /// Handles a worker's report.
    pub fn report(&mut self, report: Report, now_ms: i64, fx: &mut Effects) {
        let Report { worker, key, execution, what } = report;
        self.seen(worker, now_ms);
        if !self.runs.contains_key(&key.run) {
            fx.stale += 1;
            return;
        }
        let turn = &mut Turn { now_ms, fx };
        match what {
            What::Claimed(tasks) => {
                for task in tasks {
                    self.claim(&key, task, (worker, execution), turn);
                }
            }
            What::Ended(ends) => {
                for end in ends {
                    self.ended(&key, end, (worker, execution), turn);
                }
            }
            What::Progress { task, fraction, message } => {
                let at = key.task(task.index);
                if let Some(entry) = self.runs.get_mut(&key.run)
                    && entry.run.is_current(&reference(&key, task))
                    && entry.run.live.get(&at).is_some_and(|live| live.worker == worker)
                {
                    entry.progress.insert(at, (fraction, bounded(message, PROGRESS_BYTES_MAX)));
                }
            }
            What::Released(tasks) => {
                let released: BTreeSet<Try> = tasks.into_iter().collect();
                let Some(entry) = self.runs.get(&key.run) else { return };
                let held: BTreeSet<TaskId> = released
                    .iter()
                    .filter(|task| entry.run.is_current(&reference(&key, **task)))
                    .map(|task| key.task(task.index))
                    .filter(|at| {
                        entry.run.live.get(at).is_some_and(|live| {
                            live.worker == worker && live.claim.is_none_or(|e| e == execution)
                        })
                    })
                    .collect();
                for at in held {
                    self.give_back_one(&key.run, at, &Outcome::Cancelled, turn);
                }
            }
        }
        self.settle(&key.run, turn.fx);
    }

    fn claim(
        &mut self,
        key: &StepKey,
        task: Try,
        (worker, execution): (WorkerId, Execution),
        turn: &mut Turn<'_>,
    ) {
        let (at, reference) = (key.task(task.index), reference(key, task));
        let Entry { run, index, .. } = &*self.runs[&key.run];
        let state = run.task_state(at);
        // As nobody holds it any more, it does not hold its limits, and another task may do so.
        let allowed = run.live.contains_key(&at)
            || index
                .steps
                .get(at.step as usize)
                .is_some_and(|of| self.index.limits.allow(of.limits));
        let lease = turn.now_ms + self.config.lease_ms;
        let entry = self.runs.get_mut(&key.run).expect("looked up by the caller");
        if !entry.run.is_current(&reference) {
            turn.fx.stale += 1;
        } else if allowed && matches!(state, Some(TaskState::Ready | TaskState::Queued)) {
            let claim = Claim { task: reference, execution, worker };
            entry.record(Fact::Claim(claim), turn.now_ms, turn.fx);
            let live = entry.run.live.get_mut(&at).expect("a claim is an assignment");
            live.until_ms = lease;
            if live.bundle == 0 {
                self.adopt(&key.run, at);
            }
            self.reindex(&key.run);
            return;
        } else if let Some(live) = entry.run.live.get_mut(&at)
            && live.claim == Some(execution)
            && live.worker == worker
        {
            live.until_ms = lease;
            return;
        } else {
            turn.fx.stale += 1;
        }
        turn.fx.cancel.push((worker, Cancel { key: key.clone(), tasks: vec![task] }));
    }

    fn ended(
        &mut self,
        key: &StepKey,
        end: TaskEnd,
        (worker, execution): (WorkerId, Execution),
        turn: &mut Turn<'_>,
    ) {
        let (at, reference) = (key.task(end.task.index), reference(key, end.task));
        let run = &self.runs[&key.run].run;
        let accepted = run.is_current(&reference)
            && match run.task_state(at) {
                // Before a claim, the first valid result counts. A cancellation is not a result: it only counts if it
                // comes from the worker to which the task was assigned.
                Some(TaskState::Ready | TaskState::Queued) => {
                    end.outcome != Outcome::Cancelled
                        || run.live.get(&at).is_some_and(|live| live.worker == worker)
                }
                // After a claim, only the reports of its worker count.
                Some(TaskState::Running) => run
                    .live
                    .get(&at)
                    .is_some_and(|l| l.worker == worker && l.claim == Some(execution)),
                _ => false,
            };
        if !accepted || end.outcome == Outcome::Lost {
            turn.fx.stale += 1;
            return;
        }
        let (started_ms, took_ms) = (end.started_ms, end.took_ms);
        let outcome = self.judge(key, end, worker, turn.now_ms);
        let entry = self.runs.get_mut(&key.run).expect("looked up above");
        if matches!(outcome, Outcome::Failed(_)) {
            let failures = entry.failures.entry(worker).or_default();
            *failures += 1;
            if *failures >= MAX_FAILURES_ON_WORKER {
                entry.avoided.insert(worker);
            }
        }
        entry.progress.remove(&at);
        let ended = Ended { task: reference, execution, worker, started_ms, took_ms, outcome };
        entry.record(Fact::Ended(ended), turn.now_ms, turn.fx);
    }

    /// Turns a worker's message into what is recorded: decisions that depend on the current state of the farm are made
    /// here, once, and never again when history is folded.
    fn judge(&self, key: &StepKey, end: TaskEnd, worker: WorkerId, now_ms: i64) -> Outcome {
        let run = &self.runs[&key.run].run;
        let (at, outcome) = (&key.task(end.task.index), end.outcome);
        match outcome {
            Outcome::Succeeded(mut products) => {
                let names = products.outputs.iter().map(|output| &*output.name);
                if let Err(message) = check_names(names) {
                    return Outcome::Failed(Failure { kind: FailureKind::BadOutput, message });
                }
                match run.vet_bindings(at.step, &products.bindings, &self.config.run_limits) {
                    Ok(kept) => {
                        products.bindings = kept;
                        products.notes.truncate(NOTES_MAX);
                        let notes = std::mem::take(&mut products.notes).into_iter();
                        products.notes = notes.map(|n| bounded(n, NOTE_BYTES_MAX)).collect();
                        Outcome::Succeeded(products)
                    }
                    Err(message) => {
                        Outcome::Failed(Failure { kind: FailureKind::Invalid, message })
                    }
                }
            }
            Outcome::Failed(mut failure) => {
                failure.message = bounded(failure.message, FAILURE_BYTES_MAX);
                let step = &run.plan.steps[at.step as usize];
                let tried = |id: &WorkerId| {
                    *id == worker || run.failure_record(*at).is_some_and(|t| t.avoid.contains(id))
                };
                let (class, lease_ms) = (Class::of(step), self.config.lease_ms);
                let others = || {
                    let present =
                        self.workers.iter().filter(|(_, w)| w.is_present(now_ms, lease_ms));
                    present.filter(|(id, w)| !tried(id) && class.lacks(w).is_none())
                };
                if failure.kind == FailureKind::Unsupported && others().next().is_none() {
                    failure.kind = FailureKind::Invalid;
                } else if failure.kind == FailureKind::OutOfMemory {
                    // For a worker that is not known any more it is unknown which GPU would be larger.
                    let had = self.workers.get(&worker).map(Worker::vram_bytes);
                    let larger = |had| others().any(|(_, other)| other.vram_bytes() > had);
                    if !had.is_some_and(larger) {
                        failure.kind = FailureKind::Failed;
                    }
                    if had.is_some_and(|had| !larger(had)) {
                        failure.message.push_str(" (no worker has a GPU with more memory)");
                    }
                }
                Outcome::Failed(failure)
            }
            other => other,
        }
    }

    /// Ends expired leases and deadlines, and removes outputs that no task will read. To be called only while reports
    /// are being received and history can be written, so that an outage of the server never makes a worker count as
    /// lost.
    pub fn tick(&mut self, now_ms: i64, fx: &mut Effects) {
        let late = |live: &Live| live.until_ms < now_ms;
        let has_late = |entry: &Entry| entry.run.live.values().any(late);
        let due = self.runs.values().filter(|entry| has_late(entry) || entry.run.has_due());
        let runs: BTreeSet<RunId> = due.map(|entry| entry.run.id.clone()).collect();
        let turn = &mut Turn { now_ms, fx };
        for run in runs {
            self.give_back(&run, late, &Outcome::Lost, turn);
            let entry = self.runs.get_mut(&run).expect("runs do not go meanwhile");
            entry.remove_unread(now_ms, turn.fx);
        }
    }

    fn give_back(
        &mut self,
        run: &RunId,
        which: impl Fn(&Live) -> bool,
        outcome: &Outcome,
        turn: &mut Turn<'_>,
    ) {
        let entry = &self.runs[run];
        let live = entry.run.live.iter();
        let held: BTreeSet<TaskId> = live.filter(|(_, l)| which(l)).map(|(at, _)| *at).collect();
        for at in &held {
            self.give_back_one(run, *at, outcome, turn);
        }
        if !held.is_empty() {
            self.settle(run, turn.fx);
        }
    }

    /// Takes one task from its worker: a claimed one ends with `outcome`, any other becomes ready again with the same
    /// attempt.
    fn give_back_one(&mut self, run: &RunId, at: TaskId, outcome: &Outcome, turn: &mut Turn<'_>) {
        let entry = self.runs.get_mut(run).expect("the caller has it");
        let Some(live) = entry.run.live.get(&at).copied() else { return };
        entry.progress.remove(&at);
        let Some(execution) = live.claim else {
            return match outcome {
                Outcome::Lost => entry.run.unassign_lost(at),
                _ => entry.run.unassign(at),
            };
        };
        let step = &entry.run.steps[at.step as usize];
        let task = Try { index: at.index, attempt: step.attempts[at.index as usize] };
        let task = TaskRef { step: at.step, generation: step.generation, task };
        let who = (task, live.worker, execution);
        entry.record_end(who, outcome.clone(), turn.now_ms, turn.fx);
    }
}

/// The text, or as much of its beginning as fits.
fn bounded(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
    text
}

fn reference(key: &StepKey, task: Try) -> TaskRef {
    TaskRef { step: key.step, generation: key.generation, task }
}
