//! Which rows of history are about which task, so that a query about one task reads these instead of the whole history.

use std::collections::BTreeMap;

/// The numbers of the rows about the attempts at each task of a step: one for each attempt that has ended, and one for
/// each claim whose end is not in history. Rows of earlier generations remain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trail {
    /// The last row for each index; 0 if there is none. A history has fewer than 2^32 rows.
    last: Vec<u32>,
    /// The rows before it, for the few tasks that have any.
    earlier: BTreeMap<u32, Vec<u32>>,
}

impl Trail {
    /// Adds a row about a task of a step with `size` tasks. With `replaces` it is the end of an attempt whose claim was
    /// the last row, and says everything that the claim did.
    pub(crate) fn add(&mut self, (index, size): (u32, usize), seq: u64, replaces: bool) {
        if self.last.len() < size {
            self.last.reserve_exact(size - self.last.len());
            self.last.resize(size, 0);
        }
        let row = u32::try_from(seq).unwrap_or(u32::MAX);
        let before = std::mem::replace(&mut self.last[index as usize], row);
        if before > 0 && !replaces {
            self.earlier.entry(index).or_default().push(before);
        }
    }

    /// The rows about a task, in order.
    pub(crate) fn rows(&self, index: u32) -> impl Iterator<Item = u64> + '_ {
        let last = self.last.get(index as usize).filter(|row| **row > 0);
        self.earlier.get(&index).into_iter().flatten().chain(last).map(|row| u64::from(*row))
    }
}
