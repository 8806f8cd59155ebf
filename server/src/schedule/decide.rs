//! Decides about due times: which missed ones are made up for, and what happens when an earlier run has not ended. Pure
//! functions.

use pictor_tasks::state::{CatchUp, Overlap};

/// A due time that is handled later than this counts as missed. Long enough for another server to take over.
pub(super) const LATE_MS: i64 = 5 * 60_000;
/// Most missed times that are made up for; older ones are skipped.
pub(super) const CATCH_UP_MAX: usize = 100;

/// The rules of a schedule for due times that overlap or were missed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) overlap: Overlap,
    pub(super) catch_up: CatchUp,
}

/// The decision about one due time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Start the run of this due time.
    Start(i64),
    /// Record that its run is queued.
    Queue(i64),
    /// Start its run and cancel the unfinished ones.
    Replace(i64),
    /// Record that it starts no run.
    Skip(i64),
}

/// The runs of a schedule that come before another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Earlier<'a> {
    /// Whether a run has not ended.
    pub(super) going: bool,
    /// The due times whose runs are queued, in order.
    pub(super) waiting: &'a [i64],
}

/// The decisions, in the order in which they are to be carried out. `ready` are the due times that are not handled yet,
/// in order (only the last [`CATCH_UP_MAX`] of them); `start_ms` is when the run of the last of them was to start.
pub(super) fn decide(
    rules: Rules,
    ready: &[i64],
    start_ms: i64,
    now_ms: i64,
    Earlier { mut going, waiting }: Earlier<'_>,
) -> Vec<Act> {
    let mut acts = Vec::new();
    let mut waits = waiting.len();
    if let (false, Some(oldest)) = (going, waiting.first()) {
        acts.push(Act::Start(*oldest));
        (going, waits) = (true, waits - 1);
    }
    let Some(&newest) = ready.last() else { return acts };
    let missed = now_ms - start_ms > LATE_MS;
    let chosen = match rules.catch_up {
        CatchUp::None if missed => &[],
        CatchUp::All if rules.overlap != Overlap::Replace => ready,
        _ => &ready[ready.len() - 1..],
    };
    for &due in chosen {
        let makes_up = rules.catch_up == CatchUp::All && (missed || due != newest);
        acts.push(match rules.overlap {
            _ if !going && waits == 0 => {
                going = true;
                Act::Start(due)
            }
            Overlap::Replace => Act::Replace(due),
            _ if makes_up && waits < CATCH_UP_MAX => {
                waits += 1;
                Act::Queue(due)
            }
            Overlap::Queue if waits == 0 => {
                waits += 1;
                Act::Queue(due)
            }
            Overlap::Queue | Overlap::Skip => Act::Skip(due),
        });
    }
    if chosen.is_empty() {
        acts.push(Act::Skip(newest));
    }
    acts
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERLAPS: [Overlap; 3] = [Overlap::Skip, Overlap::Queue, Overlap::Replace];

    fn act(
        overlap: Overlap,
        catch_up: CatchUp,
        (ready, now_ms): (&[i64], i64),
        (going, waiting): (bool, &[i64]),
    ) -> Vec<Act> {
        let start = ready.last().copied().unwrap_or_default();
        decide(Rules { overlap, catch_up }, ready, start, now_ms, Earlier { going, waiting })
    }

    #[test]
    fn a_time_that_is_due_starts_a_run_whatever_the_rules_are() {
        for overlap in OVERLAPS {
            for catch_up in [CatchUp::None, CatchUp::One, CatchUp::All] {
                let acts = act(overlap, catch_up, (&[1000], 1000), (false, &[]));
                assert_eq!(acts, [Act::Start(1000)], "{overlap:?} {catch_up:?}");
            }
        }
    }

    #[test]
    fn an_earlier_run_that_is_going_is_respected_waited_for_or_replaced() {
        let due = |overlap, waiting: &[i64]| {
            act(overlap, CatchUp::None, (&[1000], 1000), (true, waiting))
        };
        assert_eq!(due(Overlap::Skip, &[]), [Act::Skip(1000)]);
        assert_eq!(due(Overlap::Queue, &[]), [Act::Queue(1000)]);
        assert_eq!(due(Overlap::Queue, &[500]), [Act::Skip(1000)], "at most one waits");
        assert_eq!(due(Overlap::Replace, &[]), [Act::Replace(1000)]);
    }

    #[test]
    fn what_waits_starts_when_nothing_is_going_the_oldest_first() {
        let idle = act(Overlap::Queue, CatchUp::None, (&[], 0), (false, &[100, 200]));
        assert_eq!(idle, [Act::Start(100)]);
        assert_eq!(act(Overlap::Queue, CatchUp::None, (&[], 0), (true, &[100])), []);
        let both = act(Overlap::Queue, CatchUp::None, (&[300], 300), (false, &[100]));
        assert_eq!(both, [Act::Start(100), Act::Queue(300)]);
    }

    #[test]
    fn missed_times_are_dropped_made_up_for_once_or_all() {
        let day = 86_400_000;
        let ready = [day, 2 * day, 3 * day];
        let late = 3 * day + LATE_MS + 1;
        let missed = |overlap, catch_up| act(overlap, catch_up, (&ready, late), (false, &[]));
        for overlap in OVERLAPS {
            assert_eq!(missed(overlap, CatchUp::None), [Act::Skip(3 * day)]);
            assert_eq!(missed(overlap, CatchUp::One), [Act::Start(3 * day)]);
        }
        let one_by_one = [Act::Start(day), Act::Queue(2 * day), Act::Queue(3 * day)];
        assert_eq!(missed(Overlap::Skip, CatchUp::All), one_by_one);
        assert_eq!(missed(Overlap::Queue, CatchUp::All), one_by_one);
        assert_eq!(missed(Overlap::Replace, CatchUp::All), [Act::Start(3 * day)]);
    }

    #[test]
    fn a_time_that_is_a_little_late_was_not_missed() {
        let (ready, now_ms) = ([1000, 61_000], 61_000 + LATE_MS);
        let acts = act(Overlap::Skip, CatchUp::None, (&ready, now_ms), (false, &[]));
        assert_eq!(acts, [Act::Start(61_000)], "the last of them, and only that");
    }

    #[test]
    fn a_time_that_comes_while_missed_ones_are_made_up_for_follows_the_rule_for_overlaps() {
        let due = |overlap| act(overlap, CatchUp::All, (&[9000], 9000), (true, &[1000, 2000]));
        assert_eq!(due(Overlap::Skip), [Act::Skip(9000)]);
        assert_eq!(due(Overlap::Queue), [Act::Skip(9000)]);
        assert_eq!(due(Overlap::Replace), [Act::Replace(9000)]);
    }

    #[test]
    fn the_number_of_runs_that_wait_is_bounded() {
        let waiting: Vec<i64> = (0..100).collect();
        let ready: Vec<i64> = (1000..1100).collect();
        let now_ms = 1100 + LATE_MS;
        let acts = act(Overlap::Skip, CatchUp::All, (&ready, now_ms), (true, &waiting));
        assert!(acts.iter().all(|act| matches!(act, Act::Skip(_))), "{acts:?}");
        assert_eq!(acts.len(), 100);
    }
}
