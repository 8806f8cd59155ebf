//! Ready tasks that are assigned one by one: those that have failed before, or whose bundle was lost.

use pictor_tasks::message::TaskId;
use std::collections::{BTreeMap, BTreeSet};

/// The time of a task that may be assigned at once.
pub(crate) const AT_ONCE: i64 = i64::MIN;

/// A set of tasks, each with the earliest time at which it may be assigned, in milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Singles {
    times: BTreeMap<TaskId, i64>,
    by_time: BTreeSet<(u16, i64, u32)>,
}

impl Singles {
    /// Adds a task, or changes its time.
    pub(crate) fn insert(&mut self, at: TaskId, not_before_ms: i64) {
        self.remove(at);
        self.times.insert(at, not_before_ms);
        self.by_time.insert((at.step, not_before_ms, at.index));
    }

    /// Removes a task and returns whether it was there.
    pub(crate) fn remove(&mut self, at: TaskId) -> bool {
        let Some(time) = self.times.remove(&at) else { return false };
        self.by_time.remove(&(at.step, time, at.index))
    }

    /// Removes the tasks of a step.
    pub(crate) fn remove_step(&mut self, step: u16) {
        self.times.retain(|at, _| at.step != step);
        self.by_time.retain(|(of, ..)| *of != step);
    }

    pub(crate) fn contains(&self, at: TaskId) -> bool {
        self.times.contains_key(&at)
    }

    /// Whether a task of the step may be assigned now.
    pub(crate) fn any_due(&self, step: u16, now_ms: i64) -> bool {
        self.by_time.range((step, AT_ONCE, 0)..=(step, now_ms, u32::MAX)).next().is_some()
    }

    /// The tasks of a step that may be assigned now, by index.
    pub(crate) fn due(&self, step: u16, now_ms: i64) -> impl Iterator<Item = TaskId> {
        let all = TaskId { step, index: 0 }..=TaskId { step, index: u32::MAX };
        let of_step = self.times.range(all);
        of_step.filter(move |(_, time)| **time <= now_ms).map(|(at, _)| *at)
    }

    /// The earliest time after now at which a task may be assigned.
    pub(crate) fn next_after(&self, now_ms: i64) -> Option<i64> {
        let later = now_ms.checked_add(1)?;
        let next = |step| {
            let mut later = self.by_time.range((step, later, 0)..=(step, i64::MAX, u32::MAX));
            later.next().map(|(_, time, _)| *time)
        };
        self.steps().filter_map(next).min()
    }

    /// The steps that have such tasks.
    pub(crate) fn steps(&self) -> impl Iterator<Item = u16> {
        let from = |step| self.by_time.range((step, AT_ONCE, 0)..).next().map(|(step, ..)| *step);
        std::iter::successors(from(0), move |step| from(step.checked_add(1)?))
    }
}
