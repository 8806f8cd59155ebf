//! Named concurrency limits: how many tasks hold each of them.

use crate::plan::Step;
use std::collections::{BTreeMap, HashMap};

/// The limits of the farm, and the sets of them that steps hold.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    all: Vec<Limit>,
    numbers: HashMap<String, usize>,
    /// Each set of limits that some step holds, as positions in `all`.
    sets: Vec<Vec<usize>>,
    set_ids: HashMap<Vec<usize>, u32>,
}

#[derive(Debug)]
struct Limit {
    most: u32,
    held: u32,
}

impl Limits {
    pub(crate) fn new(limits: &BTreeMap<String, u32>) -> Self {
        Self {
            all: limits.values().map(|most| Limit { most: *most, held: 0 }).collect(),
            numbers: limits.keys().cloned().zip(0..).collect(),
            ..Self::default()
        }
    }

    /// The number of the set of limits that a step holds. Names that are not limited do not count.
    pub(crate) fn set(&mut self, step: &Step) -> u32 {
        let set = step.limits.iter().filter_map(|name| self.numbers.get(name));
        let mut set: Vec<usize> = set.copied().collect();
        set.sort_unstable();
        set.dedup();
        *self.set_ids.entry(set).or_insert_with_key(|set| {
            self.sets.push(set.clone());
            u32::try_from(self.sets.len() - 1).expect("there are fewer limits")
        })
    }

    /// Counts a change in the number of tasks that hold a set of limits.
    pub(crate) fn count(&mut self, set: u32, before: u32, after: u32) {
        for limit in &self.sets[set as usize] {
            let held = &mut self.all[*limit].held;
            *held = *held + after - before;
        }
    }

    /// Whether each limit of a set has capacity left.
    pub(crate) fn allow(&self, set: u32) -> bool {
        let mut limits = self.sets[set as usize].iter().map(|limit| &self.all[*limit]);
        limits.all(|limit| limit.held < limit.most)
    }

    /// The first limit of a step that has no capacity left.
    pub(crate) fn first_full<'a>(&self, step: &'a Step) -> Option<&'a str> {
        let is_full = |name: &&String| {
            let limit = self.numbers.get(*name).map(|limit| &self.all[*limit]);
            limit.is_some_and(|limit| limit.held >= limit.most)
        };
        step.limits.iter().find(is_full).map(String::as_str)
    }
}
