//! What is known about a checker: who judges is judged too, by results whose verdict is known (canaries) and by what
//! the majority decided. A fold over what happened.

use crate::draw::Canary;
use crate::verdict::Vote;
use serde::{Deserialize, Serialize};

/// So many wrong verdicts end a checker's work.
pub const WRONG_MAX: u32 = 3;
/// The largest weight with which a checker is chosen.
const WEIGHT_MAX: u64 = 100;

/// Something that showed whether a checker is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// It judged a canary.
    Canary {
        /// What the canary was.
        known: Canary,
        /// What the checker said.
        said: Vote,
    },
    /// It judged something that several others judged too.
    Majority {
        /// What was decided.
        decided: Vote,
        /// What the checker said.
        said: Vote,
    },
    /// It never revealed the verdict that it had sealed.
    Withheld,
}

/// The record of one checker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// How often in a row it was right.
    pub streak: u32,
    /// How often it was wrong.
    pub wrong: u32,
}

impl Record {
    /// Adds what was shown. Not knowing is neither right nor wrong, but a streak does not grow by it.
    pub fn fold(&mut self, shown: Shown) {
        let agrees = |should, said| {
            let is_known = should != Vote::Unsure && said != Vote::Unsure;
            is_known.then_some(should == said)
        };
        let right = match shown {
            Shown::Canary { known: Canary::KnownGood, said } => agrees(Vote::Accept, said),
            Shown::Canary { known: Canary::KnownBad, said } => agrees(Vote::Reject, said),
            Shown::Majority { decided, said } => agrees(decided, said),
            Shown::Withheld => Some(false),
        };
        match right {
            Some(true) => self.streak = self.streak.saturating_add(1),
            Some(false) => {
                self.streak = 0;
                self.wrong = self.wrong.saturating_add(1);
            }
            None => {}
        }
    }

    /// How often it is chosen in relation to others: 1 for a new one, more with each time that it was right, up to 100;
    /// 0 once it was wrong [`WRONG_MAX`] times.
    pub fn weight(&self) -> u64 {
        if self.wrong >= WRONG_MAX { 0 } else { (1 + u64::from(self.streak)).min(WEIGHT_MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checker_that_always_says_the_same_loses_its_work() {
        for said in [Vote::Accept, Vote::Reject] {
            let mut record = Record::default();
            let kinds = [Canary::KnownGood, Canary::KnownBad].into_iter().cycle();
            let asked = kinds.take_while(|known| {
                record.fold(Shown::Canary { known: *known, said });
                record.weight() > 0
            });
            assert!(asked.count() < 6);
        }
    }

    #[test]
    fn a_checker_that_is_right_is_chosen_more_often() {
        let mut record = Record::default();
        assert_eq!(record.weight(), 1);
        for _ in 0..3 {
            record.fold(Shown::Canary { known: Canary::KnownBad, said: Vote::Reject });
            record.fold(Shown::Majority { decided: Vote::Accept, said: Vote::Accept });
            record.fold(Shown::Majority { decided: Vote::Accept, said: Vote::Unsure });
            record.fold(Shown::Canary { known: Canary::KnownBad, said: Vote::Unsure });
            record.fold(Shown::Majority { decided: Vote::Unsure, said: Vote::Accept });
        }
        assert_eq!((record.weight(), record.wrong), (7, 0));
        record.fold(Shown::Majority { decided: Vote::Accept, said: Vote::Reject });
        assert_eq!((record.weight(), record.wrong), (1, 1));
        record.fold(Shown::Withheld);
        record.fold(Shown::Withheld);
        assert_eq!(record.weight(), 0);
    }
}
