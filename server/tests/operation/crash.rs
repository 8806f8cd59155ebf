//! Servers that end in the middle of what they do: work is dropped at every point at which it waits.

use crate::farm::{Base, crash_after, ms, schedule, set, with};

const START: &str = "2026-06-01T00:00:00Z";
const MINUTE: i64 = 60_000;
/// No step waits more often.
const POINTS: usize = 400;

pub(crate) async fn a_crash_at_any_point_starts_each_run_once(base: &Base) {
    let start = ms(START);
    set(start);
    let new = with(&schedule("ten", "*/10 * * * *", "UTC"), &[("overlap", "skip")]);
    base.schedules().add(&new, "ada").await.unwrap();
    let mut points = 0;
    for round in 1.. {
        let due = start + round * 10 * MINUTE;
        set(due);
        let (mut runner, _owner) = base.runner().await;
        let done = crash_after(points, runner.step(due)).await;
        // The next server reads what is stored, and steps.
        let (mut runner, owner) = base.runner().await;
        runner.step(due + 1).await.unwrap();
        runner.step(due + 2).await.unwrap();
        let runs = base.runs().await;
        assert_eq!(runs.len(), usize::try_from(round).unwrap(), "after {points} polls");
        let run = &runs.last().unwrap().id;
        assert!(owner.has_run(run).await.unwrap(), "the owner knows of it after {points} polls");
        let fires = base.registry.fires("ten", 1000).await.unwrap();
        assert_eq!(fires.len(), runs.len());
        assert_eq!((fires[0].due_ms, fires[0].outcome.as_str()), (due, "started"));
        base.end_all(&owner).await;
        if done.is_some() {
            assert!(points > 0, "it never waited");
            return;
        }
        points += 1;
        assert!(points < POINTS, "a step does not end");
    }
}

pub(crate) async fn a_crash_while_a_run_is_replaced_leaves_one_run_going(base: &Base) {
    let start = ms(START);
    set(start);
    let new = with(&schedule("ten", "*/10 * * * *", "UTC"), &[("overlap", "replace")]);
    base.schedules().add(&new, "ada").await.unwrap();
    let mut points = 0;
    for round in 1.. {
        let due = start + round * 10 * MINUTE;
        set(due);
        let (mut runner, _owner) = base.runner().await;
        let done = crash_after(points, runner.step(due)).await;
        let (mut runner, owner) = base.runner().await;
        runner.step(due + 1).await.unwrap();
        runner.step(due + 2).await.unwrap();
        let runs = base.runs().await;
        assert_eq!(runs.len(), usize::try_from(round).unwrap(), "after {points} polls");
        let going = base.going().await;
        assert_eq!(going, [runs.last().unwrap().id.clone()], "after {points} polls");
        assert!(owner.has_run(&going[0]).await.unwrap());
        if done.is_some() && points > 4 {
            return;
        }
        points += 1;
        assert!(points < POINTS, "a step does not end");
    }
}
