//! Which task is assigned next, and how many at a time.

use super::bench::{Bench, machine, plan};
use pictor_engine::{Config, Effects, Engine, Run, RunState, TaskState};
use pictor_tasks::history::Event;
use pictor_tasks::message::{FailureKind, RunId, WorkerId};
use std::sync::Arc;

const HOUR: i64 = 3_600_000;

/// The order in which a single slot gets the tasks of a job.
fn order(job: &str) -> Vec<String> {
    let mut bench = Bench::without_workers(job, Config::default());
    bench.join(1, machine(1));
    bench.turn();
    let mut order = Vec::new();
    while let Some(given) = bench.given.first().cloned() {
        let name = bench.name(&given);
        bench.succeed(&name);
        order.push(name);
    }
    assert_eq!(bench.run_state(), RunState::Succeeded);
    order
}

/// A farm with one slot and several runs: names with priority, owner and time of submission.
fn farm(runs: &[(&str, i32, &str, i64)]) -> Engine {
    let mut engine = Engine::new(Config::default());
    for (name, priority, owner, submitted_ms) in runs {
        let job =
            "dims: { frame: 1-9 }\nsteps: [{ name: a, over: [frame], noop: { duration: 1h } }]";
        let plan = plan(&format!("priority: {priority}\n{job}"));
        let run = Run::new(RunId((*name).into()), Arc::new(plan));
        engine.add_run(run, (*owner).into(), *submitted_ms, 0);
    }
    engine
}

/// The runs whose tasks are assigned to that many slots.
fn chosen(engine: &mut Engine, slots: u32, now: i64) -> Vec<String> {
    engine.join(WorkerId(1), machine(slots), now);
    let mut fx = Effects::default();
    engine.assign(now, &mut fx);
    fx.assign.iter().map(|(_, assignment)| assignment.key.run.to_string()).collect()
}

#[test]
fn the_nearest_to_the_end_goes_first_so_that_frames_finish_early() {
    let job = "
dims: { frame: 1-2 }
steps:
  - { name: render, over: [frame], noop: { duration: 1h } }
  - { name: grade, over: [frame], needs: [render], noop: { duration: 1h } }
";
    let order = order(job);
    assert_eq!(order, ["render[frame=1]", "grade[frame=1]", "render[frame=2]", "grade[frame=2]"]);
}

#[test]
fn preview_order_takes_first_last_and_middle_before_the_rest() {
    let job = "
dims: { frame: 1-9, tile: { count: 2 } }
order: preview
steps: [{ name: r, over: [frame, tile], noop: { duration: 1h } }]
";
    let order = order(job);
    let first: Vec<&str> = order[..6].iter().map(String::as_str).collect();
    let expected =
        [1, 5, 9].map(|frame| [0, 1].map(|tile| format!("r[frame={frame},tile={tile}]")));
    assert_eq!(first, expected.as_flattened());
    assert_eq!(order.len(), 18);
}

#[test]
fn a_higher_priority_goes_first() {
    let mut engine = farm(&[("low", 0, "a", 0), ("high", 5, "a", 10)]);
    assert_eq!(chosen(&mut engine, 2, 10), ["high", "high"]);
}

#[test]
fn waiting_raises_a_priority_by_one_an_hour_up_to_a_day() {
    let mut engine = farm(&[("old", 0, "a", 0), ("new", 3, "a", 4 * HOUR)]);
    assert_eq!(chosen(&mut engine, 1, 4 * HOUR), ["old"]);
    let mut engine = farm(&[("old", 0, "a", 0), ("new", 25, "a", 99 * HOUR)]);
    assert_eq!(chosen(&mut engine, 1, 99 * HOUR), ["new"]);
}

#[test]
fn owners_share_equally_and_then_age_decides() {
    let mut engine = farm(&[("a1", 0, "a", 0), ("a2", 0, "a", 1), ("b1", 0, "b", 2)]);
    assert_eq!(chosen(&mut engine, 4, 10), ["a1", "b1", "a1", "b1"]);
}

#[test]
fn a_new_priority_a_pause_and_a_cancel_take_effect_at_once() {
    let mut bench = Bench::without_workers(
        "dims: { frame: 1-4 }\nsteps: [{ name: a, over: [frame], noop: { duration: 1h } }]",
        Config::default(),
    );
    bench.took_ms = 5_000;
    bench.join(1, machine(1));
    bench.turn();
    bench.control(Event::Paused);
    assert_eq!(bench.run_state(), RunState::Paused);
    assert_eq!(bench.reason("a[frame=2]"), "the run is paused");
    bench.succeed("a[frame=1]");
    assert_eq!(bench.held(), [] as [&str; 0]);
    bench.control(Event::Priority(9));
    assert_eq!(bench.engine.view(bench.run()).priority, 9);
    bench.control(Event::Resumed);
    assert_eq!(bench.held(), ["a[frame=2]"]);
    bench.control(Event::Cancelled);
    assert_eq!(bench.run_state(), RunState::Cancelled);
    assert_eq!(bench.cancelled.len(), 1);
    assert_eq!(bench.all(TaskState::Cancelled).len(), 3);
    bench.check_recovery();
}

#[test]
fn a_paused_run_that_ends_is_over() {
    let mut bench = Bench::new("steps: [{ name: a, noop: {} }]");
    bench.control(Event::Paused);
    bench.succeed("a");
    assert_eq!(bench.run_state(), RunState::Succeeded);
}

#[test]
fn limits_are_held_by_all_runs_together() {
    let limits = [("houdini".to_owned(), 2)].into();
    let job = "
dims: { frame: 1-4 }
steps:
  - { name: sim, over: [frame], limits: [houdini], noop: {} }
  - { name: free, over: [frame], limits: [unknown], noop: { duration: 1h } }
";
    let mut bench = Bench::without_workers(job, Config { limits, ..Config::default() });
    bench.join(1, machine(9));
    bench.turn();
    let sims = |bench: &Bench| bench.held().iter().filter(|n| n.starts_with("sim")).count();
    assert_eq!(sims(&bench), 2);
    assert_eq!(bench.held().len(), 6, "a limit without a number does not limit");
    assert_eq!(bench.reason("sim[frame=4]"), "limit `houdini` is used up");
    bench.succeed("sim[frame=1]");
    assert_eq!(sims(&bench), 2);
}

#[test]
fn a_late_claim_of_a_task_that_lost_its_place_does_not_exceed_a_limit() {
    let limits = [("one".to_owned(), 1)].into();
    let job = "dims: { frame: 1-2 }\nsteps: [{ name: a, over: [frame], limits: [one], noop: {} }]";
    let mut bench = Bench::without_workers(job, Config { limits, ..Config::default() });
    bench.join(1, machine(1));
    bench.turn();
    let late = bench.given("a[frame=1]");
    bench.now += 31_000;
    bench.engine.tick(bench.now, &mut Effects::default());
    // Frame 1 is assigned again; once it is done, frame 2 takes its place.
    bench.end(&late, super::bench::failure(FailureKind::Failed));
    bench.turn();
    let second = bench.given("a[frame=2]");
    bench.now += 10_000;
    let first = super::bench::Given {
        task: pictor_tasks::message::Try { attempt: 2, ..late.task },
        ..late.clone()
    };
    assert_eq!(bench.claim(WorkerId(1), &first), 1, "told to stop");
    assert_eq!(bench.claim(WorkerId(1), &second), 0);
}

#[test]
fn tasks_that_do_nothing_go_out_in_the_largest_bundles_at_once() {
    let job = "dims: { frame: 1-3000 }\nsteps: [{ name: a, over: [frame], noop: {} }]";
    let mut bench = Bench::without_workers(job, Config::default());
    bench.took_ms = 0;
    bench.join(1, machine(1));
    for _ in 0..3 {
        bench.turn();
        assert_eq!(bench.end_bundle(), 512);
    }
}

#[test]
fn a_bundle_leaves_work_for_every_slot() {
    let job = "dims: { frame: 1-100 }\nsteps: [{ name: a, over: [frame], noop: {} }]";
    let mut bench = Bench::without_workers(job, Config::default());
    bench.join(1, machine(3));
    bench.join(2, machine(1));
    bench.turn();
    assert_eq!(bench.end_bundle(), 25);
}

#[test]
fn bundles_grow_to_two_seconds_of_work_by_the_measured_mean() {
    let job =
        "dims: { frame: 1-4000 }\nsteps: [{ name: a, over: [frame], noop: { duration: 1ms } }]";
    let mut bench = Bench::without_workers(job, Config::default());
    bench.join(1, machine(1));
    let sizes = (0..24).map(|_| {
        bench.turn();
        bench.end_bundle()
    });
    assert_eq!(sizes.max(), Some(200), "200 tasks of 10 ms");
}

#[test]
fn troubled_tasks_and_those_of_a_lost_bundle_go_out_singly() {
    let mut bench = Bench::without_workers(
        "retry: { backoff: 0s }\ndims: { frame: 1-8 }\nsteps: [{ name: a, over: [frame], noop: {} }]",
        Config::default(),
    );
    bench.join(1, machine(1));
    bench.turn();
    assert_eq!(bench.given[0].assignment.tasks.len(), 8);
    bench.fail("a[frame=3]", FailureKind::Failed);
    let again = bench.given("a[frame=3]");
    assert_eq!(again.assignment.tasks.len(), 1);
    bench.given.clear();
    bench.wait(30_001);
    let sizes: Vec<usize> = bench.given.iter().map(|g| g.assignment.tasks.len()).collect();
    assert_eq!(sizes, [1, 1], "one for the slot and one to be ready");
}
