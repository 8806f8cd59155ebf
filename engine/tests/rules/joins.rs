//! Which tasks wait for which.

use super::bench::{Bench, plan};
use pictor_engine::{RunState, TaskState};
use pictor_tasks::message::FailureKind;

const NOOP: &str = "noop: {}";

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

fn joined(job: &str) -> Bench {
    Bench::new(&job.replace("NOOP", NOOP))
}

#[test]
fn merge_waits_for_all_tiles_of_its_frame_only() {
    let mut bench = joined(
        "
dims: { frame: 1-2, tile: { grid: 2x1 } }
steps:
  - { name: render, over: [frame, tile], NOOP }
  - { name: merge, over: [frame], needs: [render], NOOP }
",
    );
    bench.succeed("render[frame=2,tile=0]");
    assert_eq!(bench.state("merge[frame=2]"), TaskState::Pending);
    assert_eq!(bench.reason("merge[frame=2]"), "waits for render[frame=2,tile=1]");
    bench.succeed("render[frame=2,tile=1]");
    assert_eq!(bench.state("merge[frame=2]"), TaskState::Queued);
    assert_eq!(bench.state("merge[frame=1]"), TaskState::Pending);
}

#[test]
fn a_step_without_dimensions_waits_for_everything_and_is_waited_for_by_everything() {
    let mut bench = joined(
        "
dims: { frame: 1-3 }
steps:
  - { name: prepare, NOOP }
  - { name: render, over: [frame], needs: [prepare], NOOP }
  - { name: encode, needs: [render], NOOP }
",
    );
    assert_eq!(bench.held(), ["prepare"]);
    bench.succeed("prepare");
    assert_eq!(bench.held().len(), 3);
    bench.succeed("render[frame=1]");
    bench.succeed("render[frame=3]");
    assert_eq!(bench.state("encode"), TaskState::Pending);
    bench.succeed("render[frame=2]");
    assert_eq!(bench.held(), ["encode"]);
}

#[test]
fn a_need_beyond_either_end_is_satisfied() {
    let bench = joined(
        "
dims: { frame: 1-3 }
steps:
  - { name: one, over: [frame], NOOP }
  - { name: before, over: [frame], needs: [{ step: one, offset: { frame: -1 } }], NOOP }
  - { name: after, over: [frame], needs: [{ step: one, offset: { frame: 2 } }], NOOP }
  - { name: far, over: [frame], needs: [{ step: one, offset: { frame: -2147483648 } }], NOOP }
",
    );
    let ready = bench.all(TaskState::Queued);
    let names: Vec<&str> =
        ready.iter().map(String::as_str).filter(|n| !n.starts_with("one")).collect();
    let expected = ["before[frame=1]", "after[frame=2]", "after[frame=3]"];
    let far = ["far[frame=1]", "far[frame=2]", "far[frame=3]"];
    assert_eq!(names, [&expected[..], &far[..]].concat());
}

#[test]
fn offsets_count_positions_not_values() {
    let mut bench = joined(
        "
dims: { frame: '30,10,20' }
steps:
  - name: simulate
    over: [frame]
    needs: [{ step: simulate, offset: { frame: -1 } }]
    NOOP
",
    );
    for name in ["simulate[frame=30]", "simulate[frame=10]", "simulate[frame=20]"] {
        assert_eq!(bench.held(), [name]);
        bench.succeed(name);
    }
    assert_eq!(bench.run_state(), RunState::Succeeded);
}

#[test]
fn several_needs_on_the_same_step_are_met_together() {
    let mut bench = joined(
        "
dims: { frame: 1-3 }
steps:
  - { name: flow, over: [frame], NOOP }
  - name: blur
    over: [frame]
    needs:
      - flow
      - { step: flow, offset: { frame: -1 } }
      - { step: flow, offset: { frame: 1 } }
    NOOP
",
    );
    bench.succeed("flow[frame=1]");
    assert_eq!(bench.state("blur[frame=1]"), TaskState::Pending);
    bench.succeed("flow[frame=2]");
    assert_eq!(bench.state("blur[frame=1]"), TaskState::Queued);
    assert_eq!(bench.state("blur[frame=2]"), TaskState::Pending);
    bench.succeed("flow[frame=3]");
    assert_eq!(bench.state("blur[frame=2]"), TaskState::Queued);
    assert_eq!(bench.state("blur[frame=3]"), TaskState::Queued);
}

#[test]
fn a_cycle_of_steps_whose_offsets_have_one_sign_is_done_in_order() {
    let mut bench = joined(
        "
dims: { frame: 1-2, part: { values: [a, b] } }
steps:
  - { name: solve, over: [frame, part], needs: [{ step: gather, offset: { frame: -1 } }], NOOP }
  - { name: gather, over: [frame], needs: [solve], NOOP }
",
    );
    assert_eq!(bench.held(), ["solve[frame=1,part=a]", "solve[frame=1,part=b]"]);
    bench.succeed("solve[frame=1,part=a]");
    bench.succeed("solve[frame=1,part=b]");
    assert_eq!(bench.held(), ["gather[frame=1]"]);
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Succeeded);
}

#[test]
fn a_derived_dimension_joins_by_integer_division() {
    let mut bench = joined(
        "
dims: { frame: 1-5, segment: { of: frame, size: 2 }, act: { of: segment, size: 2 } }
steps:
  - { name: render, over: [frame], NOOP }
  - { name: cut, over: [segment], needs: [render], NOOP }
  - { name: grade, over: [frame], needs: [cut], NOOP }
  - { name: act, over: [act], needs: [grade], NOOP }
",
    );
    bench.succeed("render[frame=5]");
    assert_eq!(bench.state("cut[segment=2]"), TaskState::Queued, "the last block is shorter");
    bench.succeed("render[frame=3]");
    assert_eq!(bench.state("cut[segment=1]"), TaskState::Pending);
    bench.succeed("render[frame=4]");
    bench.succeed("cut[segment=1]");
    assert_eq!(bench.state("grade[frame=3]"), TaskState::Queued);
    assert_eq!(bench.state("grade[frame=4]"), TaskState::Queued);
    assert_eq!(bench.state("grade[frame=5]"), TaskState::Pending);
    bench.succeed("cut[segment=2]");
    bench.succeed("grade[frame=5]");
    assert_eq!(bench.state("act[act=1]"), TaskState::Queued);
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Succeeded);
}

#[test]
fn points_outside_a_bound_do_not_exist_and_count_in_no_fan_in() {
    let mut bench = joined(
        "
dims:
  image: { values: [small, large, empty] }
  tile: { count: 3, bounded_by: image, counts: [1, 3, 0] }
steps:
  - { name: scale, over: [image, tile], NOOP }
  - { name: join, over: [image], needs: [scale], NOOP }
",
    );
    let scale = sorted(bench.held().into_iter().filter(|n| n.starts_with("scale")).collect());
    let large = (0..3).map(|tile| format!("scale[image=large,tile={tile}]"));
    let small = "scale[image=small,tile=0]".to_owned();
    assert_eq!(scale, large.chain([small]).collect::<Vec<_>>());
    assert_eq!(bench.run().find_task("scale[image=small,tile=1]"), None);
    assert_eq!(bench.state("join[image=empty]"), TaskState::Queued);
    bench.succeed("scale[image=small,tile=0]");
    assert_eq!(bench.state("join[image=small]"), TaskState::Queued);
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Succeeded);
}

#[test]
fn a_soft_need_waits_for_the_end_and_takes_any() {
    let mut bench = joined(
        "
dims: { frame: 1-2 }
retry: { attempts: 1 }
steps:
  - { name: render, over: [frame], NOOP }
  - { name: tell, needs: [{ step: render, on: finished }], NOOP }
",
    );
    bench.fail("render[frame=1]", FailureKind::Failed);
    assert_eq!(bench.state("tell"), TaskState::Pending);
    bench.succeed("render[frame=2]");
    bench.succeed("tell");
    assert_eq!(bench.run_state(), RunState::Succeeded, "the soft need takes the failure");
}

#[test]
fn a_million_tasks_are_a_small_plan_and_a_barrier_over_them_is_one_counter() {
    let plan = plan(
        "
dims: { frame: 1-1000, tile: { count: 1000 } }
steps:
  - { name: render, over: [frame, tile], noop: {} }
  - { name: all, needs: [render], noop: {} }
",
    );
    assert!(serde_json::to_string(&plan).unwrap().len() < 1_000);
}
