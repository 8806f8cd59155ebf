//! What an ideal scheduler could do in an hour: an upper bound that no schedule exceeds, whatever its rules.
//!
//! Steps that the same machines can do, and that hold the licence or do not, are one *group*. In an hour from `t0` to
//! `t1`, the work on a set S of groups is at most, for any time `s` in between,
//!
//! > the work on S that was left at `t0` or was submitted until `s`, plus all slot time from `s` to `t1` of machines
//! > that can do any group of S,
//!
//! and at most all slot time of such machines in the hour. For the licensed groups the same holds with the slot time
//! that the licence allows. The work on any group is at most what was left or was submitted, less what could not be
//! done before `t1` even with a slot at once. The bound is the least of these over all S and all minutes `s`: the
//! minimum cut of demand and capacity over time.

use super::machines::Machine;
use super::scenario::HOUR_MS;
use crate::render_farm;
use pictor_tasks::worker::{Inventory, Requires};
use std::collections::BTreeMap;

/// A set of groups, one bit each.
type Groups = u32;

/// The work of the groups and the slots of the machines, and both over the present hour. Work and slot time are in
/// slot milliseconds.
#[derive(Debug, Default)]
pub(super) struct Ideal {
    /// What each class requires, and its group.
    classes: Vec<(Requires, usize)>,
    groups: Vec<Group>,
    licensed: Groups,
    licences: i64,
    /// The present slots of machines, by what they can do.
    slots: BTreeMap<Groups, Meter>,
    minutes: Vec<Minute>,
    hour_end_ms: i64,
}

#[derive(Debug, Default)]
struct Group {
    submitted: i64,
    /// Of what was submitted in this hour, what cannot be done in it.
    late: i64,
    busy: Meter,
}

/// A number of slots, and their time so far.
#[derive(Clone, Debug, Default)]
struct Meter {
    slots: i64,
    total: i64,
    since_ms: i64,
}

impl Meter {
    fn add(&mut self, slots: i64, now_ms: i64) {
        self.total = self.at(now_ms);
        self.since_ms = now_ms;
        self.slots += slots;
    }

    fn at(&self, now_ms: i64) -> i64 {
        self.total + self.slots * (now_ms - self.since_ms)
    }
}

/// The totals at one time.
#[derive(Debug)]
struct Minute {
    at_ms: i64,
    submitted: Vec<i64>,
    done: Vec<i64>,
    offered: Vec<(Groups, i64)>,
}

/// The slot time of an hour, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Of busy slots.
    pub done: i64,
    /// The most that an ideal scheduler reaches.
    pub ideal: i64,
    /// Of machines that were present.
    pub offered: i64,
}

impl Ideal {
    /// With these machines, of which `licences` may do licensed tasks at a time.
    pub(super) fn new(machines: &[Machine], licences: u32) -> Self {
        let mut ideal = Self { licences: licences.into(), ..Self::default() };
        let mut found: BTreeMap<(Vec<bool>, bool), usize> = BTreeMap::new();
        for class in 0..render_farm::CLASSES {
            let requires = render_farm::plan(class, 1).steps.remove(0).requires;
            let can = |machine: &Machine| requires.missing(&machine.has).is_none();
            let able = machines.iter().map(can).collect();
            let licensed = render_farm::is_licensed(class);
            let next = found.len();
            let group = *found.entry((able, licensed)).or_insert(next);
            ideal.classes.push((requires, group));
            ideal.licensed |= Groups::from(licensed) << group;
        }
        ideal.groups.resize_with(found.len(), Group::default);
        ideal
    }

    /// What a machine can do.
    fn able(&self, has: &Inventory) -> Groups {
        let able = self.classes.iter().filter(|(requires, _)| requires.missing(has).is_none());
        able.fold(0, |all, (_, group)| all | 1 << group)
    }

    /// Counts the slots of a machine that comes or goes.
    pub(super) fn offer(&mut self, has: &Inventory, comes: bool, now_ms: i64) {
        let (able, slots) = (self.able(has), i64::from(has.slots));
        let slots = if comes { slots } else { -slots };
        self.slots.entry(able).or_default().add(slots, now_ms);
    }

    /// Counts a task that has to be done.
    pub(super) fn demand(&mut self, class: u32, task_ms: i64, now_ms: i64) {
        let group = &mut self.groups[self.classes[class as usize].1];
        group.submitted += task_ms;
        group.late += (now_ms + task_ms - self.hour_end_ms).max(0);
    }

    /// Counts slots that are busy with a class.
    pub(super) fn busy(&mut self, class: u32, slots: i64, now_ms: i64) {
        self.groups[self.classes[class as usize].1].busy.add(slots, now_ms);
    }

    /// Begins an hour.
    pub(super) fn begin_hour(&mut self, now_ms: i64) {
        self.hour_end_ms = now_ms + HOUR_MS;
        self.minutes.clear();
        self.groups.iter_mut().for_each(|group| group.late = 0);
        self.minute(now_ms);
    }

    /// To be called each minute.
    pub(super) fn minute(&mut self, now_ms: i64) {
        self.minutes.push(Minute {
            at_ms: now_ms,
            submitted: self.groups.iter().map(|group| group.submitted).collect(),
            done: self.groups.iter().map(|group| group.busy.at(now_ms)).collect(),
            offered: self.slots.iter().map(|(able, slots)| (*able, slots.at(now_ms))).collect(),
        });
    }

    /// The result of the hour that has begun last.
    pub(super) fn end_hour(&self) -> Work {
        let (first, last) = (&self.minutes[0], self.minutes.last().expect("the first"));
        let total = |minute: &Minute| minute.done.iter().sum::<i64>();
        Work {
            done: total(last) - total(first),
            ideal: (0..1 << self.groups.len()).map(|set| self.cut(set)).min().expect("the empty"),
            offered: last.offered_to(Groups::MAX) - first.offered_to(Groups::MAX),
        }
    }

    /// The bound with this set as S.
    fn cut(&self, set: Groups) -> i64 {
        let (first, last) = (&self.minutes[0], self.minutes.last().expect("the first"));
        let demand = |of: Groups, until: &Minute| {
            let groups = (0..self.groups.len()).filter(|group| of >> group & 1 == 1);
            groups.map(|group| until.submitted[group] - first.done[group]).sum::<i64>()
        };
        let feasible = |of: Groups| {
            let late = self.groups.iter().enumerate().filter(|(group, _)| of >> group & 1 == 1);
            demand(of, last) - late.map(|(_, group)| group.late).sum::<i64>()
        };
        let limited = self.licensed & !set;
        let slots_from = |s: &Minute| last.offered_to(set) - s.offered_to(set);
        let licences_from = |s: &Minute| self.licences * (last.at_ms - s.at_ms);
        let (mut of_set, mut of_limited) = (slots_from(first), licences_from(first));
        for s in &self.minutes {
            of_set = of_set.min(demand(set, s) + slots_from(s));
            of_limited = of_limited.min(demand(limited, s) + licences_from(s));
        }
        of_set + of_limited.min(feasible(limited)) + feasible(!(set | self.licensed))
    }
}

impl Minute {
    /// The slot time of machines that can do any of these groups.
    fn offered_to(&self, groups: Groups) -> i64 {
        let able = self.offered.iter().filter(|(able, _)| able & groups != 0);
        able.map(|(_, total)| total).sum()
    }
}
