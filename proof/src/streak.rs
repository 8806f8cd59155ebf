//! How much of a worker's work is checked: all of it until it has earned trust, then less the longer it stays honest,
//! and never less than what a cheat could gain is worth. A fold over what happened, with the time in the events.

use crate::draw::Rate;
use crate::manifest::DeviceClass;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// So many outputs in a row must be good before any goes unchecked.
pub const FULLY_CHECKED: u32 = 10;
/// The smallest share that is checked.
pub const RATE_MIN: Rate = Rate(50_000);
/// After so long without work, a streak counts half; after twice as long, a quarter.
pub const IDLE_MS: u64 = 30 * 86_400_000;
/// So many confirmed rejections ban a worker.
pub const REJECTIONS_MAX: u32 = 3;

/// What a streak is counted for: trust in one kind of work says little about another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Work {
    /// The device and the engine's build.
    pub class: DeviceClass,
    /// The kind of step, such as `blender`.
    pub kind: String,
}

impl Work {
    /// Whether two differ in nothing but the engine's version or build, or the driver.
    fn is_update_of(&self, other: &Self) -> bool {
        let (a, b) = (&self.class, &other.class);
        (&self.kind, &a.engine.name, &a.backend, &a.architecture)
            == (&other.kind, &b.engine.name, &b.backend, &b.architecture)
    }
}

/// Something that happened to a worker's work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// An output was accepted. Only a checked one makes the streak longer.
    Accepted {
        /// The kind of work.
        work: Work,
        /// Whether it was checked.
        checked: bool,
    },
    /// A check failed: every streak of the worker ends.
    Rejected,
    /// A rejection became final: nobody disputed it in time, or the dispute was lost.
    Confirmed,
    /// The worker reported a failure of its own (memory, driver) before its commitment. Changes nothing, so that nobody
    /// gains by hiding one.
    Failed,
}

/// What is known about one worker, to be folded from its events in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    streaks: BTreeMap<Work, Streak>,
    confirmed: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Streak {
    good: u32,
    /// The time of the latest output.
    at_ms: u64,
}

impl Streak {
    fn after_idling(self, now_ms: u64) -> u32 {
        let halvings = now_ms.saturating_sub(self.at_ms) / IDLE_MS;
        u32::try_from(halvings).ok().and_then(|by| self.good.checked_shr(by)).unwrap_or(0)
    }
}

impl Trust {
    /// Adds an event.
    pub fn fold(&mut self, event: &Event) {
        match &event.what {
            What::Accepted { work, checked } => {
                let good = self.streak(work, event.at_ms).saturating_add(u32::from(*checked));
                let known = self.streaks.get(work);
                // Clocks may be set back.
                let at_ms = known.map_or(event.at_ms, |streak| streak.at_ms.max(event.at_ms));
                self.streaks.insert(work.clone(), Streak { good, at_ms });
            }
            What::Rejected => self.streaks.values_mut().for_each(|streak| streak.good = 0),
            What::Confirmed => self.confirmed = self.confirmed.saturating_add(1),
            What::Failed => {}
        }
    }

    /// How many checked outputs in a row were good. A new build or driver starts with half of what its predecessor, the
    /// one used last, has reached.
    pub fn streak(&self, work: &Work, now_ms: u64) -> u32 {
        if let Some(streak) = self.streaks.get(work) {
            return streak.after_idling(now_ms);
        }
        let related = self.streaks.iter().filter(|(other, _)| work.is_update_of(other));
        let latest = related.max_by_key(|(_, streak)| streak.at_ms);
        latest.map_or(0, |(_, streak)| streak.after_idling(now_ms) / 2)
    }

    /// The share of such outputs that is checked: all of the first [`FULLY_CHECKED`] in a row, then the largest of
    /// [`RATE_MIN`], one by the streak, and the task's value by the reward that is held back (both in 10^-6 of a unit
    /// of money; who risks nothing is always checked).
    pub fn rate(&self, work: &Work, now_ms: u64, value: u64, holdback: u64) -> Rate {
        let streak = self.streak(work, now_ms);
        if self.is_banned() || streak < FULLY_CHECKED {
            return Rate::ALWAYS;
        }
        RATE_MIN.max(Rate::of(1, u64::from(streak))).max(Rate::of(value, holdback))
    }

    /// The number of rejections that were confirmed.
    pub fn rejections(&self) -> u32 {
        self.confirmed
    }

    /// Whether the worker gets no more work.
    pub fn is_banned(&self) -> bool {
        self.confirmed >= REJECTIONS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Engine;
    use proptest::prelude::*;

    fn work(build: &str, driver: u32, kind: &str) -> Work {
        let engine = Engine {
            name: "blender".to_owned(),
            version: "4.5.15".to_owned(),
            build: build.to_owned(),
        };
        let class = DeviceClass {
            engine,
            backend: "OPTIX".to_owned(),
            architecture: "sm_90".to_owned(),
            driver,
        };
        Work { class, kind: kind.to_owned() }
    }

    fn accepted(at_ms: u64, work: &Work, checked: bool) -> Event {
        Event { at_ms, what: What::Accepted { work: work.clone(), checked } }
    }

    fn event(what: What) -> Event {
        Event { at_ms: 0, what }
    }

    fn trusted(work: &Work, times: u32) -> Trust {
        let mut trust = Trust::default();
        (0..times).for_each(|_| trust.fold(&accepted(0, work, true)));
        trust
    }

    #[test]
    fn the_rate_falls_with_the_streak() {
        let work = work("a", 1, "blender");
        let rate = |times| trusted(&work, times).rate(&work, 0, 0, 0).0;
        assert_eq!(
            [0, 1, 9, 10, 16, 20, 21, 5_000].map(rate),
            [1_000_000, 1_000_000, 1_000_000, 100_000, 62_500, 50_000, 50_000, 50_000]
        );
        let trust = trusted(&work, 100);
        let rate = |value, holdback| trust.rate(&work, 0, value, holdback).0;
        assert_eq!([rate(1, 100), rate(30, 100), rate(100, 100)], [50_000, 300_000, 1_000_000]);
        assert_eq!(
            [rate(1, 0), rate(0, 0)],
            [1_000_000, 50_000],
            "without money there is no value"
        );
    }

    #[test]
    fn only_checked_passes_count_and_each_kind_for_itself() {
        let (render, merge) = (work("a", 1, "blender"), work("a", 1, "merge"));
        let mut trust = trusted(&render, 4);
        trust.fold(&accepted(0, &render, false));
        assert_eq!((trust.streak(&render, 0), trust.streak(&merge, 0)), (4, 0));
        trust.fold(&event(What::Failed));
        assert_eq!(trust.streak(&render, 0), 4);
        trust.fold(&accepted(0, &merge, true));
        trust.fold(&event(What::Rejected));
        assert_eq!((trust.streak(&render, 0), trust.streak(&merge, 0)), (0, 0));
    }

    #[test]
    fn idleness_and_updates_halve() {
        let old = work("a", 1, "blender");
        let mut trust = trusted(&old, 40);
        let after = |trust: &Trust, work, days: u64| trust.streak(work, days * 86_400_000);
        assert_eq!(
            [29, 30, 59, 60, 400_000].map(|days| after(&trust, &old, days)),
            [40, 20, 20, 10, 0]
        );
        let (build, driver) = (work("b", 1, "blender"), work("a", 2, "blender"));
        assert_eq!([after(&trust, &build, 0), after(&trust, &driver, 31)], [20, 10]);
        trust.fold(&accepted(1, &build, true));
        assert_eq!(after(&trust, &build, 0), 21);
        assert_eq!(after(&trust, &old, 0), 40, "the old build keeps its own");
        assert_eq!(after(&trust, &driver, 0), 10, "of the one used last");
        // Unchecked work counts as work, and a clock that is set back does no harm.
        trust.fold(&accepted(29 * 86_400_000, &old, false));
        trust.fold(&accepted(5, &old, false));
        assert_eq!(after(&trust, &old, 58), 40);
    }

    #[test]
    fn three_confirmed_rejections_ban() {
        let work = work("a", 1, "blender");
        let mut trust = trusted(&work, 100);
        for rejections in 1..=3 {
            assert!(!trust.is_banned());
            trust.fold(&event(What::Confirmed));
            assert_eq!(trust.rejections(), rejections);
        }
        assert!(trust.is_banned());
        assert_eq!(trust.rate(&work, 0, 0, 0), Rate::ALWAYS);
    }

    proptest! {
        #[test]
        fn streaks_are_earned(
            steps in proptest::collection::vec((0..4_u8, 0..3_usize, 0..100_u64), 0..200),
            value: u64, holdback: u64,
        ) {
            let works = [work("a", 1, "blender"), work("b", 1, "blender"), work("a", 1, "merge")];
            let mut trust = Trust::default();
            let (mut now, mut passes) = (0, 0);
            for (kind, which, days) in steps {
                now += days * 86_400_000;
                let at_ms = now;
                let before = trust.clone();
                match kind {
                    0 | 1 => {
                        passes += u32::from(kind);
                        trust.fold(&accepted(now, &works[which], kind == 1));
                    }
                    2 => trust.fold(&Event { at_ms, what: What::Failed }),
                    _ => {
                        passes = 0;
                        trust.fold(&Event { at_ms, what: What::Rejected });
                    }
                }
                prop_assert!(kind != 2 || trust == before);
                for work in &works {
                    let streak = trust.streak(work, now);
                    prop_assert!(streak <= passes, "never more than passed since the last failure");
                    let rate = trust.rate(work, now, value, holdback);
                    prop_assert!((RATE_MIN..=Rate::ALWAYS).contains(&rate));
                    prop_assert!(streak >= FULLY_CHECKED || rate == Rate::ALWAYS);
                    prop_assert!(trust.streak(work, now + IDLE_MS) == streak / 2);
                    prop_assert!(trust.rate(work, now, value.saturating_add(1), holdback) >= rate);
                }
            }
        }
    }
}
