//! The tickets that a worker holds, from the assignment that brought them to the last report that needs them.

use crate::Ticket;
use pictor_tasks::message::{StepKey, Try};
use std::collections::HashMap;

/// Tickets of one generation: with so many, the generation before is forgotten. Far more than a worker has tasks.
const LIMIT: usize = 100_000;

/// Tickets by task. Tasks that are abandoned without a report leave theirs behind, so those that have not been renewed
/// for the longest time are forgotten now and then.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    young: Generation,
    old: Generation,
}

#[derive(Debug, Default)]
struct Generation {
    by_step: HashMap<StepKey, HashMap<Try, Ticket>>,
    count: usize,
}

impl Tickets {
    pub(crate) fn keep(&mut self, key: &StepKey, tickets: impl Iterator<Item = (Try, Ticket)>) {
        if self.young.count >= LIMIT {
            self.old = std::mem::take(&mut self.young);
        }
        let step = self.young.by_step.entry(key.clone()).or_default();
        for (task, ticket) in tickets {
            self.young.count += usize::from(step.insert(task, ticket).is_none());
        }
    }

    pub(crate) fn get(&self, key: &StepKey, task: Try) -> Option<Ticket> {
        let mut generations = [&self.young, &self.old].into_iter();
        generations.find_map(|held| held.by_step.get(key)?.get(&task).copied())
    }

    pub(crate) fn forget(&mut self, key: &StepKey, tasks: &[Try]) {
        for held in [&mut self.young, &mut self.old] {
            let Some(step) = held.by_step.get_mut(key) else { continue };
            held.count -= tasks.iter().filter(|task| step.remove(task).is_some()).count();
            if step.is_empty() {
                held.by_step.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sealer;
    use pictor_tasks::message::{RunId, WorkerId};

    #[test]
    fn what_is_left_behind_is_forgotten_in_time_and_nothing_else() {
        let key = StepKey { run: RunId("run".into()), step: 0, generation: 0 };
        let ticket = Sealer::new(1, [0; 32]).seal(&key, Try { index: 0, attempt: 1 }, WorkerId(1));
        let bundle =
            |first: u32| (first..first + 500).map(move |index| (Try { index, attempt: 1 }, ticket));
        let mut tickets = Tickets::default();
        for round in 0..450 {
            tickets.keep(&key, bundle(round * 500));
            assert!(tickets.get(&key, Try { index: round * 500, attempt: 1 }).is_some());
        }
        assert!(tickets.get(&key, Try { index: 0, attempt: 1 }).is_none());
        assert!(tickets.young.count + tickets.old.count <= 2 * LIMIT + 1000);
        for round in 0..450 {
            let tasks: Vec<Try> = bundle(round * 500).map(|(task, _)| task).collect();
            tickets.forget(&key, &tasks);
        }
        assert_eq!(tickets.young.count + tickets.old.count, 0);
        assert!(tickets.young.by_step.is_empty() && tickets.old.by_step.is_empty());
    }
}
