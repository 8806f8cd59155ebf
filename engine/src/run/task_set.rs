//! A set of tasks of a step, for example those that may be assigned now: small numbers, of which the smallest is found
//! in a few word operations. A million tasks take 128 KiB.

/// A set of numbers below a fixed size. Level 0 has one bit per number; each level above has one bit for every word of
/// the level below, which is set if that word is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskSet {
    levels: Vec<Vec<u64>>,
    len: u32,
}

impl TaskSet {
    /// An empty set of numbers below `size`.
    pub(crate) fn new(size: u32) -> Self {
        let mut levels = Vec::new();
        let mut words = (size as usize).div_ceil(64).max(1);
        loop {
            levels.push(vec![0; words]);
            if words == 1 {
                return Self { levels, len: 0 };
            }
            words = words.div_ceil(64);
        }
    }

    /// The number of elements.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Whether a number is in the set.
    pub(crate) fn contains(&self, number: u32) -> bool {
        self.levels[0][number as usize / 64] & (1 << (number % 64)) != 0
    }

    /// Adds a number; adding it twice changes nothing.
    pub(crate) fn insert(&mut self, number: u32) {
        let mut at = number as usize;
        if self.levels[0][at / 64] & (1 << (at % 64)) != 0 {
            return;
        }
        self.len += 1;
        for level in &mut self.levels {
            let word = &mut level[at / 64];
            let was_empty = *word == 0;
            *word |= 1 << (at % 64);
            if !was_empty {
                return;
            }
            at /= 64;
        }
    }

    /// Removes a number; removing one that is not there changes nothing.
    pub(crate) fn remove(&mut self, number: u32) {
        let mut at = number as usize;
        if self.levels[0][at / 64] & (1 << (at % 64)) == 0 {
            return;
        }
        self.len -= 1;
        for level in &mut self.levels {
            let word = &mut level[at / 64];
            *word &= !(1 << (at % 64));
            if *word != 0 {
                return;
            }
            at /= 64;
        }
    }

    /// Removes and returns the smallest number.
    pub(crate) fn pop(&mut self) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let mut at = 0;
        for level in self.levels.iter().rev() {
            at = at * 64 + level[at].trailing_zeros() as usize;
        }
        let number = u32::try_from(at).expect("numbers are below a u32 size");
        self.remove(number);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_sorted_set(ops in prop::collection::vec((0u32..9000, 0u8..3), 0..300)) {
            let mut set = TaskSet::new(9000);
            let mut model = BTreeSet::new();
            for (number, op) in ops {
                match op {
                    0 => { set.insert(number); model.insert(number); }
                    1 => { set.remove(number); model.remove(&number); }
                    _ => prop_assert_eq!(set.pop(), model.pop_first()),
                }
                prop_assert_eq!(set.len() as usize, model.len());
            }
        }
    }
}
