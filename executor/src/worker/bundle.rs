//! The tasks of one assignment, shared by the agent (which cancels, claims and lists them) and the slot that does them.

use crate::ground::lock;
use crate::ground::progress::{StopReason, StopSignal, Stopper};
use pictor_net::random;
use pictor_queue::Receipt;
use pictor_tasks::body::{Body, Noop};
use pictor_tasks::message::{
    Assignment, Brief, Execution, Outcome, Products, StepKey, TaskEnd, Try,
};
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

/// An assignment that this worker holds.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) key: StepKey,
    pub(crate) brief: Arc<Brief>,
    pub(crate) execution: Execution,
    pub(crate) received: Instant,
    /// Whether it may have waited while this worker was away, so that the owner has to be asked before each task starts
    /// whether it is still this worker's.
    pub(crate) is_kept: bool,
    /// The digest of the scene that the tasks use.
    pub(crate) scene: Option<String>,
    work: Mutex<Work>,
}

/// **Invariant:** an attempt that this worker holds is in exactly one of the first four.
#[derive(Debug, Default)]
struct Work {
    waiting: VecDeque<Try>,
    running: Option<(Try, Stopper)>,
    /// Ended, and not yet reported.
    ended: Vec<TaskEnd>,
    /// Ended, with the report on its way, which may take long in an outage.
    reporting: Vec<Try>,
    claimed: bool,
    /// The assignment is delivered again if this is dropped. `None` once a lease or a report accounts for the tasks.
    receipt: Option<Receipt>,
}

impl Bundle {
    pub(crate) fn new(assignment: Assignment, receipt: Receipt, is_kept: bool) -> Self {
        let Assignment { key, brief, tasks, .. } = assignment;
        let scene = brief.body.scene().and_then(|scene| brief.files.get(&scene.scene));
        Self {
            scene: scene.map(|file| file.digest.clone()),
            execution: Execution(random()),
            received: Instant::now(),
            is_kept,
            work: Mutex::new(Work {
                waiting: tasks.into(),
                receipt: Some(receipt),
                ..Work::default()
            }),
            key,
            brief,
        }
    }

    /// Whether the tasks end as soon as they start.
    pub(crate) fn is_instant(&self) -> bool {
        matches!(self.brief.body, Body::Noop(Noop { duration: None }))
    }

    /// Starts the next task.
    pub(crate) fn start_next(&self) -> Option<(Try, Stopper, StopSignal)> {
        let mut work = lock(&self.work);
        let task = work.waiting.pop_front()?;
        let (stopper, signal) = Stopper::new();
        work.running = Some((task, stopper.clone()));
        Some((task, stopper, signal))
    }

    /// Records the end of the running task; with `None` the task is dropped.
    pub(crate) fn end(&self, end: Option<TaskEnd>) {
        let mut work = lock(&self.work);
        work.running = None;
        work.ended.extend(end);
    }

    /// Starts and ends all waiting tasks, for tasks that do nothing.
    pub(crate) fn end_all(&self, started_ms: i64) -> Vec<TaskEnd> {
        let mut work = lock(&self.work);
        work.reporting = std::mem::take(&mut work.waiting).into();
        let succeeded = |task: &Try| {
            let outcome = Outcome::Succeeded(Products::default());
            TaskEnd { task: *task, started_ms, took_ms: 0, outcome }
        };
        work.reporting.iter().map(succeeded).collect()
    }

    /// The tasks that have ended since the last call. They are held until they are [`reported`](Self::reported).
    pub(crate) fn take_ended(&self) -> Vec<TaskEnd> {
        let mut work = lock(&self.work);
        let ended = std::mem::take(&mut work.ended);
        work.reporting.extend(ended.iter().map(|end| end.task));
        ended
    }

    /// Records that everything that was taken has reached the owner.
    pub(crate) fn reported(&self) {
        lock(&self.work).reporting.clear();
    }

    /// The receipt of the assignment; `None` after the first call.
    pub(crate) fn take_receipt(&self) -> Option<Receipt> {
        lock(&self.work).receipt.take()
    }

    /// The same tasks were delivered again: the new receipt takes the place of the old one.
    pub(crate) fn renew(&self, receipt: Receipt) {
        match &mut lock(&self.work).receipt {
            Some(old) => *old = receipt,
            None => receipt.settle(),
        }
    }

    /// Stops these tasks, and returns those that were never started.
    pub(crate) fn cancel(&self, tasks: &HashSet<Try>) -> Vec<Try> {
        let mut work = lock(&self.work);
        if let Some((_, stopper)) = work.running.as_ref().filter(|(task, _)| tasks.contains(task)) {
            stopper.stop(StopReason::Cancelled);
        }
        let (dropped, kept): (Vec<Try>, _) =
            work.waiting.drain(..).partition(|task| tasks.contains(task));
        work.waiting = kept.into();
        dropped
    }

    /// Removes and returns all tasks that were not started. With `stop`, the running task is stopped too.
    pub(crate) fn release(&self, stop: bool) -> Vec<Try> {
        let mut work = lock(&self.work);
        if let Some((_, stopper)) = work.running.as_ref().filter(|_| stop) {
            stopper.stop(StopReason::Shutdown);
        }
        std::mem::take(&mut work.waiting).into()
    }

    /// Marks the bundle as claimed, and returns the attempts to claim.
    pub(crate) fn claim(&self) -> Vec<Try> {
        let mut work = lock(&self.work);
        work.claimed = true;
        work.open().collect()
    }

    pub(crate) fn is_claimed(&self) -> bool {
        lock(&self.work).claimed
    }

    /// Whether nothing is left to do, not even for a slot.
    pub(crate) fn is_empty(&self) -> bool {
        let work = lock(&self.work);
        work.waiting.is_empty() && work.running.is_none()
    }

    /// Appends every attempt that this worker holds to `held`.
    pub(crate) fn list(&self, held: &mut Vec<Try>) {
        let work = lock(&self.work);
        held.extend(work.open());
        held.extend(work.ended.iter().map(|end| end.task));
        held.extend(&work.reporting);
    }
}

impl Work {
    /// The attempts that are running or waiting.
    fn open(&self) -> impl Iterator<Item = Try> {
        let running = self.running.iter().map(|(task, _)| *task);
        running.chain(self.waiting.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_differ() {
        let drawn: HashSet<Execution> = (0..100_000).map(|_| Execution(random())).collect();
        assert_eq!(drawn.len(), 100_000);
    }
}
