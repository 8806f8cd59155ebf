//! Results that are removed once they have been read, and made again when they are needed again.

use super::bench::{Bench, machine};
use pictor_engine::{Config, Engine, Run, RunState, TaskState};
use pictor_tasks::history::{Event, Fact, RemovedOutputs, ResetTasks};
use pictor_tasks::message::{FailureKind, TaskId, WorkerId};

const JOB: &str = "
dims: { frame: 1-4, part: { of: frame, size: 2 } }
retry: { attempts: 1 }
steps:
  - { name: load, command: { run: [load] } }
  - { name: cut, over: [part], needs: [load], command: { run: [cut] }, keep: { until: draw } }
  - { name: draw, over: [frame], needs: [cut], command: { run: [draw] }, keep: { until: film } }
  - { name: show, over: [frame], needs: [draw], command: { run: [show] } }
  - { name: film, needs: [show], command: { run: [film] } }
";

fn removals(bench: &Bench) -> Vec<String> {
    let facts = bench.rows.iter().filter_map(|row| match &row.fact {
        Fact::Event(control) => Some(&control.event),
        _ => None,
    });
    let removed = facts.filter_map(|event| match event {
        Event::Removed(removed) => Some(removed),
        _ => None,
    });
    let shown = removed.map(|all| {
        let one = all.iter().map(|some| format!("{}:{}", some.step, some.tasks));
        one.collect::<Vec<_>>().join(" ")
    });
    shown.collect()
}

/// A state in which the first part is cut and both of its frames are drawn.
fn half_done() -> Bench {
    let mut bench = Bench::new(JOB);
    bench.leave("load");
    bench.leave("cut[part=0]");
    bench.leave("draw[frame=1]");
    bench.tick();
    assert_eq!(bench.removed, [] as [&str; 0], "frame 2 still reads it");
    bench.leave("draw[frame=2]");
    bench
}

#[test]
fn what_a_task_left_goes_when_its_last_reader_has_succeeded() {
    let mut bench = half_done();
    assert_eq!(
        bench.run().outputs(TaskId { step: 1, index: 0 }).unwrap().1.len(),
        1,
        "not before a tick"
    );
    bench.tick();
    assert_eq!(bench.removed, ["cut[part=0]#1"]);
    assert_eq!(removals(&bench), ["1:0"], "in history as well");
    assert_eq!(
        (
            bench.run().outputs(TaskId { step: 1, index: 0 }),
            bench.run().is_removed(TaskId { step: 1, index: 0 })
        ),
        (None, true)
    );
    assert_eq!(bench.state("cut[part=0]"), TaskState::Succeeded);
    bench.tick();
    assert_eq!(bench.removed.len(), 1, "once");
    bench.check_recovery();
}

#[test]
fn nobody_can_ask_for_a_removal() {
    let mut bench = half_done();
    let tasks = "0-1".parse().unwrap();
    assert!(!bench.control(Event::Removed(vec![RemovedOutputs { step: 1, tasks }])));
    assert!(!bench.run().is_removed(TaskId { step: 1, index: 0 }));
}

#[test]
fn one_event_tells_of_many_tasks_in_ranges() {
    let mut bench = half_done();
    bench.leave("cut[part=1]");
    for frame in [3, 4] {
        bench.leave(&format!("draw[frame={frame}]"));
    }
    bench.tick();
    assert_eq!(removals(&bench), ["1:0-1"]);
}

#[test]
fn a_later_step_may_be_named_and_every_reader_counts_as_well() {
    let mut bench = half_done();
    bench.succeed("show[frame=1]");
    bench.tick();
    assert_eq!(bench.removed, ["cut[part=0]#1"], "`film` is not done");
    bench.leave("cut[part=1]");
    for frame in [3, 4] {
        bench.leave(&format!("draw[frame={frame}]"));
    }
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Succeeded);
    assert_eq!(bench.removed.len(), 6, "the end of the run does not wait for a tick");
    let load = bench.run().find_task("load").unwrap();
    assert!(!bench.run().is_removed(load), "nothing was said about it");
    bench.check_recovery();
}

#[test]
fn what_a_failed_reader_needs_stays_for_a_retry() {
    let mut bench = Bench::new(JOB);
    bench.leave("load");
    bench.leave("cut[part=0]");
    bench.leave("draw[frame=1]");
    bench.fail("draw[frame=2]", FailureKind::Invalid);
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Failed);
    assert_eq!(bench.removed, [] as [&str; 0]);
    bench.reset(&["draw[frame=2]"]);
    assert_eq!(bench.held(), ["draw[frame=2]"]);
    bench.leave("draw[frame=2]");
    bench.tick();
    assert_eq!(bench.removed, ["cut[part=0]#1"]);
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Succeeded);
}

#[test]
fn a_reset_that_needs_a_removed_input_makes_it_again_with_all_that_was_built_on_it() {
    let mut bench = half_done();
    bench.tick();
    let draw = bench.run().find_task("draw[frame=1]").unwrap();
    let chosen = [ResetTasks { step: draw.step, tasks: vec![draw.index] }];
    let closure = bench.run().reset_closure(&chosen);
    let names: Vec<String> = closure.iter().map(|at| bench.run().task_name(*at)).collect();
    let expected =
        ["cut[part=0]", "draw[frame=1]", "draw[frame=2]", "show[frame=1]", "show[frame=2]"];
    assert_eq!(names, expected, "`load` still has what it left");
    bench.given.clear();
    bench.reset(&["draw[frame=1]"]);
    assert!(bench.held().contains(&"cut[part=0]".to_owned()), "{:?}", bench.held());
    assert_eq!((bench.attempt("cut[part=0]"), bench.attempt("load")), (2, 1));
    assert_eq!(bench.state("draw[frame=1]"), TaskState::Pending);
    bench.leave("cut[part=0]");
    bench.leave("draw[frame=1]");
    bench.leave("draw[frame=2]");
    bench.tick();
    assert_eq!(bench.removed, ["cut[part=0]#1", "cut[part=0]#2"], "the new one goes as well");
    bench.check_recovery();
}

#[test]
fn a_reset_of_a_later_step_needs_nothing_that_was_removed_before_it() {
    let mut bench = half_done();
    bench.tick();
    bench.succeed("show[frame=1]");
    let show = bench.run().find_task("show[frame=1]").unwrap();
    let chosen = [ResetTasks { step: show.step, tasks: vec![show.index] }];
    assert_eq!(bench.run().reset_closure(&chosen), [show]);
}

#[test]
fn after_a_recovery_what_history_removed_is_deleted_once_more() {
    let mut bench = half_done();
    bench.tick();
    bench.given.clear();
    bench.reset(&["draw[frame=1]"]);
    bench.leave("cut[part=0]");
    let mut run = Run::new(bench.run.clone(), bench.run().plan().clone());
    for row in &bench.rows {
        run.apply(row).unwrap();
    }
    bench.engine = Engine::new(Config::default());
    bench.engine.add_run(run, "me".into(), 0, bench.now);
    bench.engine.join(WorkerId(1), machine(64), bench.now);
    bench.removed.clear();
    let rows = bench.rows.len();
    bench.tick();
    assert_eq!(bench.removed, ["cut[part=0]#1"], "and not what was made since");
    assert_eq!(bench.rows.len(), rows, "history has it already");
    bench.tick();
    assert_eq!(bench.removed.len(), 1);
}

#[test]
fn a_step_may_remove_what_it_read_of_itself() {
    let mut bench = Bench::new(
        "
dims: { frame: 1-3 }
steps:
  - name: simulate
    over: [frame]
    needs: [{ step: simulate, offset: { frame: -1 } }]
    command: { run: [simulate] }
    keep: { until: draw }
  - { name: draw, over: [frame], needs: [simulate], command: { run: [draw] } }
",
    );
    bench.leave("simulate[frame=1]");
    bench.succeed("draw[frame=1]");
    bench.tick();
    assert_eq!(bench.removed, [] as [&str; 0], "frame 2 goes on from it");
    bench.leave("simulate[frame=2]");
    bench.tick();
    assert_eq!(bench.removed, ["simulate[frame=1]#1"]);
    bench.succeed("draw[frame=2]");
    bench.leave("simulate[frame=3]");
    bench.succeed("draw[frame=3]");
    assert_eq!(bench.removed.len(), 3, "nothing goes on from the last frame");
    bench.reset(&["draw[frame=2]"]);
    assert_eq!(bench.held(), ["simulate[frame=1]"], "the chain begins anew");
    bench.check_recovery();
}

#[test]
fn new_values_may_need_what_was_removed_when_nobody_read_it() {
    let mut bench = Bench::new(
        "
dims: { part: { from: split, allow_empty: true } }
steps:
  - { name: load, command: { run: [load] }, keep: { until: work } }
  - { name: plan, needs: [load], command: { run: [plan] } }
  - { name: split, needs: [plan], command: { run: [split, '{bind.part}'] } }
  - { name: work, over: [part], needs: [load], command: { run: [work] } }
  - { name: join, needs: [work], command: { run: [join] } }
",
    );
    bench.leave("load");
    bench.succeed("plan");
    bench.bind("split", "part", &[]);
    bench.finish();
    assert_eq!(bench.removed, ["load#1"], "there is no part");
    bench.reset(&["split"]);
    assert_eq!(bench.held(), ["split"], "it does not read it");
    bench.bind("split", "part", &[1, 2]);
    assert_eq!(bench.held(), ["load"], "both parts do, and `split` comes after it");
    assert_eq!(bench.attempt("split"), 3);
    bench.check_recovery();
    bench.leave("load");
    bench.succeed("plan");
    bench.bind("split", "part", &[1, 2]);
    assert_eq!(bench.held(), ["work[part=1]", "work[part=2]"]);
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Succeeded);
    assert_eq!(bench.removed, ["load#1", "load#2"]);
    bench.check_recovery();
}

#[test]
fn a_bounded_dimension_has_as_many_positions_as_the_largest_count() {
    let mut bench = Bench::new(
        "
dims:
  image: { values: [a, b] }
  tile: { bounded_by: image, from: measure }
  fixed: { bounded_by: image, counts: [1, 3] }
steps:
  - { name: measure, command: { run: [measure, '{bind.tile}'] } }
  - { name: scale, over: [image, tile], command: { run: [scale] } }
  - { name: check, over: [image, fixed], needs: [measure], command: { run: [check] } }
",
    );
    let counts = |counts: &[u32]| pictor_tasks::message::Bound::Counts(counts.into());
    bench.bind_to("measure", "tile", counts(&[1, 2]));
    let scale = ["scale[image=a,tile=0]", "scale[image=b,tile=0]", "scale[image=b,tile=1]"];
    assert_eq!(bench.held()[..3], scale);
    assert_eq!(bench.held().len(), 7);
    bench.given.clear();
    bench.reset(&["measure"]);
    bench.bind_to("measure", "tile", counts(&[3, 0]));
    assert_eq!(bench.held().iter().filter(|name| name.starts_with("scale")).count(), 3);
    bench.check_recovery();
}
