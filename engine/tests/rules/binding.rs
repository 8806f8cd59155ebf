//! Late-bound dimensions: a step reports the values that others run over.

use super::bench::{Bench, machine, success};
use pictor_engine::{Config, RunLimits, RunState, TaskState};
use pictor_tasks::message::{Bound, FailureKind};
use pictor_tasks::space::Values;

const JOB: &str = "
dims: { part: { from: split } }
retry: { attempts: 2, backoff: 0s }
steps:
  - { name: split, command: { run: [split, '{bind.part}'] } }
  - { name: work, over: [part], command: { run: [work] } }
  - { name: join, needs: [work], command: { run: [join] } }
";

fn allow_empty() -> String {
    JOB.replace("{ from: split }", "{ from: split, allow_empty: true }")
}

#[test]
fn steps_over_a_late_bound_dimension_come_alive_when_it_is_bound() {
    let mut bench = Bench::new(JOB);
    assert_eq!(bench.run().find_task("work[part=4]"), None);
    assert_eq!(bench.reason("join"), "waits for work, whose tasks are not known yet");
    bench.bind("split", "part", &[4, 9]);
    assert_eq!(bench.held(), ["work[part=4]", "work[part=9]"]);
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Succeeded);
    bench.check_recovery();
}

#[test]
fn an_empty_binding_fails_the_binder_unless_allowed() {
    let mut bench = Bench::new(JOB);
    bench.bind("split", "part", &[]);
    assert_eq!(bench.state("split"), TaskState::Failed, "it would be empty again");
    assert!(bench.reason("split").contains("allow_empty"), "{}", bench.reason("split"));
    assert_eq!(bench.state("join"), TaskState::Skipped);
    assert_eq!(bench.run_state(), RunState::Failed);
    let mut bench = Bench::new(&allow_empty());
    bench.bind("split", "part", &[]);
    assert_eq!(bench.held(), ["join"], "all of no tasks are done");
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Succeeded);
}

#[test]
fn a_binding_that_makes_no_sense_fails_the_binder() {
    let wrong = [
        Bound::Counts([1].into()),
        Bound::Values(Values::Blocks { of: Values::count(3).into(), size: 0 }),
        Bound::Values(Values::Names(["a".to_owned(), "a".to_owned()].into())),
        Bound::Values(Values::Names(["a/b".to_owned()].into())),
        Bound::Values(Values::Names([String::new()].into())),
    ];
    for values in wrong {
        let mut bench = Bench::new(JOB);
        bench.bind_to("split", "part", values);
        assert_eq!(bench.state("split"), TaskState::Failed);
    }
    let mut bench = Bench::new(JOB);
    bench.bind("split", "other", &[1]);
    assert_eq!(bench.reason("split"), "it reported no values for dimension `part`");
}

#[test]
fn too_many_values_fail_the_binder_with_the_limit() {
    let job = "
dims: { a: { from: one }, b: { from: one }, c: { from: one }, d: { count: 0, allow_empty: true } }
steps:
  - { name: one, command: { run: [one, '{bind.a}', '{bind.b}', '{bind.c}'] } }
  - { name: work, over: [a, b, c, d], command: { run: [work] } }
";
    let mut bench = Bench::new(job);
    let given = bench.given("one");
    let many = || Bound::Values(Values::count(16_777_216));
    let bindings = ["a", "b", "c"]
        .map(|dim| pictor_tasks::message::Binding { dim: dim.into(), values: many() });
    let products =
        pictor_tasks::message::Products { bindings: bindings.into(), ..Default::default() };
    bench.end(&given, pictor_tasks::message::Outcome::Succeeded(products));
    assert!(bench.reason("one").ends_with("the limit is 16777216"), "{}", bench.reason("one"));
}

#[test]
fn a_run_that_would_become_too_large_fails_the_binder() {
    let config = Config {
        run_limits: RunLimits { tasks: 12, ..RunLimits::default() },
        workers_are_final: true,
        ..Config::default()
    };
    for (values, state) in [(10, TaskState::Succeeded), (11, TaskState::Failed)] {
        let mut bench = Bench::without_workers(JOB, config.clone());
        bench.join(1, machine(4));
        bench.turn();
        bench.bind_to("split", "part", Bound::Values(Values::count(values)));
        assert_eq!(bench.state("split"), state, "with {values} values");
    }
}

#[test]
fn binding_again_to_equal_values_keeps_the_generation() {
    let mut bench = Bench::new(JOB);
    bench.bind("split", "part", &[1, 2]);
    bench.succeed("work[part=1]");
    bench.reset(&["split"]);
    assert_eq!(bench.state("work[part=1]"), TaskState::Pending);
    bench.bind("split", "part", &[1, 2]);
    let given = bench.given("work[part=1]");
    assert_eq!(given.assignment.key.generation, 1);
    assert_eq!(given.task.attempt, 2, "the attempts go on");
    bench.check_recovery();
}

#[test]
fn different_values_start_a_new_generation_and_older_reports_are_stale() {
    let mut bench = Bench::new(JOB);
    bench.bind("split", "part", &[1, 2]);
    let old = bench.given("work[part=2]");
    bench.reset(&["split"]);
    bench.bind("split", "part", &[1, 2, 3]);
    let new = bench.given("work[part=2]");
    assert_eq!((old.assignment.key.generation, new.assignment.key.generation), (1, 2));
    assert_eq!(new.task.attempt, 1);
    assert_eq!(bench.end(&old, success()), 1, "stale");
    assert_eq!(bench.state("work[part=2]"), TaskState::Queued);
    bench.check_recovery();
}

#[test]
fn what_went_ahead_on_an_empty_binding_is_done_again_when_values_appear() {
    let mut bench = Bench::new(&allow_empty());
    bench.bind("split", "part", &[]);
    bench.succeed("join");
    assert_eq!(bench.run_state(), RunState::Succeeded);
    bench.reset(&["split"]);
    bench.bind("split", "part", &[5]);
    assert_eq!(bench.state("join"), TaskState::Pending);
    assert_eq!(bench.attempt("join"), 2);
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Succeeded);
    bench.check_recovery();
}

#[test]
fn a_step_whose_binder_fails_is_given_up_and_comes_back_with_it() {
    let mut bench = Bench::new(
        "
dims: { part: { from: split } }
retry: { attempts: 1 }
steps:
  - { name: split, command: { run: [split, '{bind.part}'] } }
  - { name: work, over: [part], command: { run: [work] } }
  - { name: tell, needs: [{ step: work, on: finished }], command: { run: [tell] } }
",
    );
    bench.fail("split", FailureKind::Failed);
    bench.succeed("tell");
    assert_eq!(bench.run_state(), RunState::Succeeded, "the soft need takes it");
    bench.reset(&["split"]);
    assert_eq!(bench.state("tell"), TaskState::Pending, "it went ahead without the tasks");
    bench.bind("split", "part", &[1]);
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Succeeded);
    bench.check_recovery();
}

#[test]
fn new_values_reach_tasks_that_are_skipped_and_those_that_took_the_skip() {
    let mut bench = Bench::new(
        "
dims: { part: { from: split } }
retry: { attempts: 1 }
steps:
  - { name: split, command: { run: [split, '{bind.part}'] } }
  - { name: other, command: { run: [other] } }
  - { name: work, over: [part], needs: [other], command: { run: [work] } }
  - { name: join, needs: [work], command: { run: [join] } }
  - { name: tell, needs: [{ step: work, on: finished }], command: { run: [tell] } }
",
    );
    bench.fail("other", FailureKind::Failed);
    bench.bind("split", "part", &[1, 2]);
    bench.succeed("tell");
    bench.reset(&["split"]);
    bench.bind("split", "part", &[1, 2, 3]);
    assert_eq!(bench.all(TaskState::Skipped).len(), 4, "work three times and join");
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Failed);
    bench.check_recovery();
}

#[test]
fn counts_of_a_bounded_dimension_may_be_late_bound() {
    let mut bench = Bench::new(
        "
dims:
  image: { values: [a, b] }
  tile: { count: 2, bounded_by: image, from: measure }
steps:
  - { name: measure, command: { run: [measure, '{bind.tile}'] } }
  - { name: scale, over: [image, tile], command: { run: [scale] } }
  - { name: join, over: [image], needs: [scale], command: { run: [join] } }
",
    );
    bench.bind_to("measure", "tile", Bound::Counts([0, 2].into()));
    assert_eq!(bench.held(), ["join[image=a]", "scale[image=b,tile=0]", "scale[image=b,tile=1]"]);
    bench.succeed("join[image=a]");
    bench.reset(&["measure"]);
    bench.bind_to("measure", "tile", Bound::Counts([1, 1].into()));
    assert_eq!(bench.state("join[image=a]"), TaskState::Pending, "it has a tile to wait for now");
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Succeeded);
    bench.check_recovery();
    let mut bench = Bench::new(
        "
dims:
  image: { values: [a, b] }
  tile: { count: 2, bounded_by: image, from: measure }
steps:
  - { name: measure, command: { run: [measure, '{bind.tile}'] } }
  - { name: scale, over: [image, tile], command: { run: [scale] } }
",
    );
    bench.bind_to("measure", "tile", Bound::Counts([3].into()));
    assert_eq!(
        bench.reason("measure"),
        "it reported 3 positions of dimension `tile`, whose upper limit is 2"
    );
}
