//! A worker of the simulated farm: a queue, slots, claims, heartbeats, and many ways to disappear.

use super::rng::Rng;
use pictor_tasks::message::{
    Assignment, Cancel, Execution, Outcome, Report, StepKey, TaskEnd, Try, What, WorkerId,
};
use pictor_tasks::worker::Inventory;
use std::collections::{BTreeMap, VecDeque};

/// A message to the owner.
#[derive(Clone, Debug)]
pub(crate) enum ToOwner {
    Join(WorkerId, Inventory),
    Leave(WorkerId),
    Beat(WorkerId, Vec<(StepKey, Vec<Try>)>),
    Report(Report),
    Control(usize, pictor_tasks::history::Control),
}

/// Whether a worker receives messages and acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Up,
    /// It does nothing until this time, and then continues as if nothing had happened.
    Frozen(i64),
    Gone,
}

/// The tasks that it received in one message.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) key: StepKey,
    pub(crate) execution: Execution,
    pub(crate) waiting: VecDeque<Try>,
    pub(crate) running: Option<(Try, i64)>,
    pub(crate) ends: Vec<TaskEnd>,
    pub(crate) in_slot: bool,
    pub(crate) claimed: bool,
}

impl Held {
    fn tries(&self) -> Vec<Try> {
        self.running.iter().map(|(task, _)| *task).chain(self.waiting.iter().copied()).collect()
    }
}

/// Something that the worker does later, by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    Beat,
    Claim(Execution),
    Done(Execution, Try),
}

#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) inventory: Inventory,
    pub(crate) condition: Condition,
    /// Increased when it restarts; timers of earlier lives have no effect.
    pub(crate) life: u32,
    pub(crate) held: Vec<Held>,
}

/// The current time, and the actions that a worker requests.
#[derive(Debug)]
pub(crate) struct Wishes<'a> {
    pub(crate) now: i64,
    pub(crate) rng: &'a mut Rng,
    pub(crate) send: Vec<ToOwner>,
    /// Timers to start, with their delays in milliseconds.
    pub(crate) timers: Vec<(i64, Timer)>,
}

impl<'a> Wishes<'a> {
    pub(crate) fn new(now: i64, rng: &'a mut Rng) -> Self {
        Self { now, rng, send: Vec::new(), timers: Vec::new() }
    }
}

impl Worker {
    pub(crate) fn new(id: u32, inventory: Inventory) -> Self {
        let (id, condition) = (WorkerId(id), Condition::Gone);
        Self { id, inventory, condition, life: 0, held: Vec::new() }
    }

    pub(crate) fn assign(&mut self, assignment: Assignment, wishes: &mut Wishes<'_>) {
        let known: Vec<Try> = self.held_of(&assignment.key);
        let waiting: VecDeque<Try> =
            assignment.tasks.into_iter().filter(|task| !known.contains(task)).collect();
        if waiting.is_empty() {
            return;
        }
        let execution = Execution(wishes.rng.next());
        wishes.timers.push((5_000, Timer::Claim(execution)));
        self.held.push(Held {
            key: assignment.key,
            execution,
            waiting,
            running: None,
            ends: Vec::new(),
            in_slot: false,
            claimed: false,
        });
        self.dispatch(wishes);
    }

    fn held_of(&self, key: &StepKey) -> Vec<Try> {
        self.held.iter().filter(|held| held.key == *key).flat_map(Held::tries).collect()
    }

    fn dispatch(&mut self, wishes: &mut Wishes<'_>) {
        self.held.retain(|held| held.in_slot || !held.waiting.is_empty());
        let mut busy = self.held.iter().filter(|held| held.in_slot).count();
        for held in &mut self.held {
            if busy < self.inventory.slots as usize && !held.in_slot {
                held.in_slot = true;
                busy += 1;
                start_next(held, wishes);
            }
        }
    }

    /// Reports the end of a task, alone or together with the others of its bundle.
    pub(crate) fn done(
        &mut self,
        (execution, task): (Execution, Try),
        outcome: Outcome,
        wishes: &mut Wishes<'_>,
    ) {
        let Some(held) = self.held.iter_mut().find(|held| held.execution == execution) else {
            return;
        };
        let Some((_, started_ms)) = held.running.filter(|(running, _)| *running == task) else {
            return;
        };
        held.running = None;
        let took_ms = u32::try_from(wishes.now - started_ms).unwrap_or(0);
        held.ends.push(TaskEnd { task, started_ms, took_ms, outcome });
        start_next(held, wishes);
        if held.running.is_none() || wishes.rng.percent(50) {
            let ends = std::mem::take(&mut held.ends);
            let (key, what) = (held.key.clone(), What::Ended(ends));
            wishes.send.push(self.report(key, execution, what));
        }
        self.held.retain(|held| !held.in_slot || held.running.is_some());
        self.dispatch(wishes);
    }

    fn report(&self, key: StepKey, execution: Execution, what: What) -> ToOwner {
        ToOwner::Report(Report { worker: self.id, key, execution, what })
    }

    pub(crate) fn claim(&mut self, execution: Execution, wishes: &mut Wishes<'_>) {
        let Some(held) = self.held.iter_mut().find(|held| held.execution == execution) else {
            return;
        };
        if !std::mem::replace(&mut held.claimed, true) {
            let (key, what) = (held.key.clone(), What::Claimed(held.tries()));
            wishes.send.push(self.report(key, execution, what));
        }
    }

    pub(crate) fn beat(&self, wishes: &mut Wishes<'_>) {
        let mut holding: BTreeMap<StepKey, Vec<Try>> = BTreeMap::new();
        for held in &self.held {
            holding.entry(held.key.clone()).or_default().extend(held.tries());
            if let Some((task, _)) = held.running {
                let what = What::Progress { task, fraction: 0.5, message: "half".into() };
                wishes.send.push(self.report(held.key.clone(), held.execution, what));
            }
        }
        wishes.send.push(ToOwner::Beat(self.id, holding.into_iter().collect()));
    }

    pub(crate) fn cancel(&mut self, cancel: &Cancel, wishes: &mut Wishes<'_>) {
        let executions: Vec<Execution> =
            self.held.iter().filter(|h| h.key == cancel.key).map(|h| h.execution).collect();
        for execution in executions {
            let held = self.held.iter_mut().find(|held| held.execution == execution);
            let Some(held) = held else { continue };
            let (gone, kept): (Vec<Try>, Vec<Try>) =
                held.waiting.iter().partition(|task| cancel.tasks.contains(task));
            held.waiting = kept.into();
            let running = held.running.map(|(task, _)| task);
            if !gone.is_empty() {
                let (key, what) = (cancel.key.clone(), What::Released(gone));
                wishes.send.push(self.report(key, execution, what));
            }
            if let Some(task) = running.filter(|task| cancel.tasks.contains(task)) {
                self.done((execution, task), Outcome::Cancelled, wishes);
            }
        }
        self.dispatch(wishes);
    }

    /// Leaves in an orderly way: everything is handed back.
    pub(crate) fn leave(&mut self, wishes: &mut Wishes<'_>) {
        let all: Vec<(StepKey, Vec<Try>)> =
            self.held.iter().map(|held| (held.key.clone(), held.tries())).collect();
        for (key, tasks) in all {
            self.cancel(&Cancel { key, tasks }, wishes);
        }
        self.condition = Condition::Gone;
        wishes.send.push(ToOwner::Leave(self.id));
    }
}

fn start_next(held: &mut Held, wishes: &mut Wishes<'_>) {
    if let Some(task) = held.waiting.pop_front() {
        let takes = match wishes.rng.below(10) {
            0..=3 => wishes.rng.between(0, 50),
            4..=7 => wishes.rng.between(50, 3_000),
            _ => wishes.rng.between(3_000, 40_000),
        };
        held.running = Some((task, wishes.now));
        wishes.timers.push((takes, Timer::Done(held.execution, task)));
    }
}
