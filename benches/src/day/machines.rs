//! The machines: what each of them holds and does.

use super::scenario::Scenario;
use crate::render_farm;
use pictor_tasks::message::{Assignment, StepKey, Try};
use pictor_tasks::worker::Inventory;

/// One machine.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) has: Inventory,
    pub(super) is_present: bool,
    held: Vec<Held>,
}

/// A bundle on a machine.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) assignment: Assignment,
    /// Since when it has a slot.
    pub(super) since_ms: Option<i64>,
}

impl Machine {
    pub(super) fn new(number: u32) -> Self {
        let has = Inventory { slots: Scenario::slots(number), ..render_farm::inventory(number) };
        Self { has, is_present: false, held: Vec::new() }
    }

    /// Gives it a bundle.
    pub(super) fn give(&mut self, assignment: Assignment) {
        self.held.push(Held { assignment, since_ms: None });
    }

    /// The next bundle that gets a slot now, if one is free.
    pub(super) fn start(&mut self, now_ms: i64) -> Option<&Assignment> {
        let busy = self.held.iter().filter(|held| held.since_ms.is_some()).count();
        if busy >= self.has.slots as usize {
            return None;
        }
        let next = self.held.iter_mut().find(|held| held.since_ms.is_none())?;
        next.since_ms = Some(now_ms);
        Some(&next.assignment)
    }

    /// Ends a bundle, unless the machine was gone since it began.
    pub(super) fn end(&mut self, id: u64) -> Option<Held> {
        let place = self.held.iter().position(|held| held.assignment.id == id)?;
        Some(self.held.remove(place))
    }

    /// Drops everything.
    pub(super) fn go(&mut self) -> Vec<Held> {
        self.is_present = false;
        std::mem::take(&mut self.held)
    }

    /// What a heartbeat lists.
    pub(super) fn holding(&self) -> Vec<(StepKey, Vec<Try>)> {
        let held = self.held.iter().map(|held| &held.assignment);
        held.map(|held| (held.key.clone(), held.tasks.clone())).collect()
    }
}
