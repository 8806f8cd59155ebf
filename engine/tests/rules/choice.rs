//! Which worker gets a task.

use super::bench::{Bench, machine, success, with_gpu};
use pictor_engine::{Config, Effects, Engine, Run, RunState, TaskState};
use pictor_tasks::message::{FailureKind, FileRef, RunId, WorkerId};
use pictor_tasks::worker::{Blender, Inventory};
use std::collections::BTreeSet;
use std::sync::Arc;

const MANY: &str = "
dims: { frame: 1-20 }
retry: { attempts: 9, backoff: 0s }
steps: [{ name: a, over: [frame], noop: { duration: 1h } }]
";

fn workers_of(bench: &Bench) -> Vec<u32> {
    bench.given.iter().map(|given| given.worker.0).collect()
}

#[test]
fn a_worker_gets_as_many_long_tasks_as_it_has_slots() {
    let mut bench = Bench::without_workers(MANY, Config::default());
    bench.join(1, machine(2));
    bench.join(2, machine(1));
    bench.turn();
    assert_eq!(workers_of(&bench), [1, 2, 1]);
}

#[test]
fn short_tasks_are_queued_one_message_ahead() {
    let mut bench = Bench::without_workers(MANY, Config::default());
    bench.join(1, machine(1));
    bench.turn();
    assert_eq!(bench.held().len(), 1);
    bench.succeed("a[frame=1]");
    let messages: BTreeSet<u64> = bench.given.iter().map(|given| given.assignment.id).collect();
    assert_eq!(messages.len(), 2);
}

#[test]
fn what_is_queued_ahead_never_keeps_a_step_nearer_to_the_end_waiting() {
    let mut bench = Bench::without_workers(
        "
dims: { frame: 1-20, tile: 1-4 }
steps:
  - { name: render, over: [frame, tile], noop: { duration: 1s } }
  - { name: merge, over: [frame], needs: [render], noop: { duration: 1s } }
",
        Config::default(),
    );
    bench.join(1, machine(1));
    bench.took_ms = 1_500;
    bench.turn();
    // The worker does its tasks in order; tiles are short, and the duration of a merge is unknown.
    for done in 0..8 {
        let name = bench.name(&bench.given[0]);
        if name.starts_with("merge") {
            assert!(done <= 6, "after four tiles and at most one bundle more");
            return;
        }
        bench.succeed(&name);
    }
    panic!("frame 1 has all its tiles, and other tiles go before its merge");
}

#[test]
fn a_worker_that_failed_a_task_does_not_get_it_again_while_another_can_do_it() {
    let mut bench = Bench::without_workers(MANY, Config::default());
    bench.join(1, machine(1));
    bench.join(2, machine(1));
    bench.turn();
    bench.fail("a[frame=1]", FailureKind::Failed);
    assert_eq!(bench.state("a[frame=1]"), TaskState::Ready, "it waits for the other one");
    bench.succeed("a[frame=2]");
    assert_eq!(bench.given("a[frame=1]").worker, WorkerId(2));
    bench.fail("a[frame=1]", FailureKind::Failed);
    let given = bench.given("a[frame=1]");
    assert_eq!(given.task.attempt, 3, "both failed it, so both may try again");
}

#[test]
fn a_worker_with_three_failures_in_a_run_is_avoided_while_there_is_another() {
    let mut bench = Bench::without_workers(MANY, Config::default());
    bench.join(1, machine(1));
    bench.join(2, machine(1));
    bench.turn();
    for _ in 0..3 {
        let given = bench.given.iter().find(|given| given.worker == WorkerId(1)).unwrap();
        let name = bench.name(given);
        bench.fail(&name, FailureKind::Failed);
    }
    assert_eq!(workers_of(&bench), [2], "the first worker gets nothing, though it is idle");
    bench.engine.leave(WorkerId(2), bench.now, &mut Effects::default());
    bench.turn();
    assert!(workers_of(&bench).contains(&1), "better than nobody");
}

#[test]
fn requirements_are_met() {
    let job = "
steps:
  - { name: big, requires: { gpu: { vram: 16GiB } }, noop: {} }
  - { name: command, command: { run: [ls] } }
";
    let mut bench = Bench::without_workers(job, Config::default());
    let mut forbids = with_gpu(1, 8);
    forbids.allows_commands = false;
    bench.join(1, forbids);
    bench.turn();
    assert_eq!(bench.held(), [] as [&str; 0]);
    assert_eq!(bench.reason("big"), "no worker has 16 GiB of GPU memory");
    assert_eq!(bench.reason("command"), "no worker has permission to run commands");
    bench.join(2, with_gpu(2, 24));
    bench.turn();
    assert_eq!(workers_of(&bench), [2, 2]);
}

#[test]
fn workers_are_final_fails_impossible_tasks_with_the_reason_and_lets_the_rest_go_on() {
    let job = "
dims: { frame: 1-3 }
steps:
  - { name: big, over: [frame], requires: { gpu: { vram: 16GiB } }, noop: {} }
  - { name: small, noop: {} }
  - { name: tell, needs: [{ step: big, on: finished }], noop: {} }
  - { name: after, needs: [big], noop: {} }
";
    let config = Config { workers_are_final: true, ..Config::default() };
    let mut bench = Bench::without_workers(job, config);
    bench.turn();
    assert_eq!(bench.all(TaskState::Failed), [] as [&str; 0], "no worker has joined yet");
    bench.join(1, with_gpu(4, 8));
    bench.turn();
    assert_eq!(bench.all(TaskState::Failed).len(), 3);
    assert_eq!(bench.reason("big[frame=1]"), "this machine does not have 16 GiB of GPU memory");
    let mut held = bench.held();
    held.sort();
    assert_eq!(held, ["small", "tell"], "at once");
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Failed);
    bench.check_recovery();
}

#[test]
fn nothing_is_sent_that_a_failure_of_the_same_turn_gives_up() {
    let job = "
on_failure: stop
steps:
  - { name: small, noop: {} }
  - { name: big, requires: { gpu: {} }, noop: {} }
";
    let config = Config { workers_are_final: true, ..Config::default() };
    let mut bench = Bench::without_workers(job, config);
    bench.join(1, machine(4));
    bench.turn();
    assert_eq!(bench.held(), [] as [&str; 0]);
    assert_eq!(bench.run_state(), RunState::Failed);
}

#[test]
fn a_silent_worker_gets_nothing_new_until_it_is_heard_again() {
    let mut bench = Bench::without_workers(MANY, Config::default());
    bench.join(1, machine(1));
    bench.now += 60_001;
    bench.turn();
    assert_eq!(bench.held(), [] as [&str; 0]);
    bench.engine.heartbeat(WorkerId(1), &[], bench.now, &mut Effects::default());
    bench.turn();
    assert_eq!(bench.held().len(), 1);
}

#[test]
fn a_worker_that_joins_again_does_not_get_more_than_it_has_slots() {
    let mut bench = Bench::without_workers(MANY, Config::default());
    bench.join(1, machine(2));
    bench.turn();
    bench.join(1, machine(2));
    bench.turn();
    assert_eq!(bench.held().len(), 2);
}

#[test]
fn a_run_that_is_removed_frees_its_workers() {
    let mut bench = Bench::without_workers(MANY, Config::default());
    bench.join(1, machine(1));
    bench.turn();
    let run = bench.engine.remove_run(&bench.run).unwrap();
    let again = Run::new(RunId("again".into()), run.plan().clone());
    bench.run = again.id().clone();
    bench.engine.add_run(again, "me".into(), 0, bench.now);
    bench.given.clear();
    bench.turn();
    assert_eq!(bench.held().len(), 1);
}

#[test]
fn a_worker_that_has_the_scene_loaded_is_preferred() {
    let job = |scene: &str| {
        format!(
            "
dims: {{ frame: 1-4 }}
steps: [{{ name: r, over: [frame], blender: {{ scene: {{ scene: {scene} }} }} }}]
"
        )
    };
    let mut engine = Engine::new(Config::default());
    for (id, scene) in [("first", "a.blend"), ("second", "b.blend")] {
        let mut plan = super::bench::plan(&job(scene));
        let file = FileRef { path: format!("/{scene}"), digest: scene.into(), size_bytes: 1 };
        plan.files.insert(scene.into(), file);
        engine.add_run(Run::new(RunId(id.into()), Arc::new(plan)), id.into(), 0, 0);
    }
    let mut fx = Effects::default();
    for id in [1, 2] {
        engine.join(WorkerId(id), with_gpu(2, 8), 0);
    }
    engine.assign(0, &mut fx);
    assert_each_has_its_own(&fx);
}

/// Checks that each of two workers has both of its tasks from the same run.
fn assert_each_has_its_own(fx: &Effects) {
    let mut seen: Vec<(u32, String)> =
        fx.assign.iter().map(|(id, a)| (id.0, a.key.run.to_string())).collect();
    seen.sort();
    let by = |id, run: &str| (id, run.to_owned());
    assert_eq!(seen, [by(1, "first"), by(1, "first"), by(2, "second"), by(2, "second")]);
}

/// A machine with these networks.
fn with_models(slots: u32, models: &[&str]) -> Inventory {
    let models = models.iter().map(|name| (*name).to_owned()).collect();
    Inventory { models, ..machine(slots) }
}

const TILES: &str = "
dims: { tile: 1-6 }
steps: [{ name: up, over: [tile], upscale: { source: a.png, model: net } }]
";

#[test]
fn only_a_worker_that_holds_the_network_gets_its_tiles() {
    let mut bench = Bench::without_workers(TILES, Config::default());
    bench.join(1, with_models(4, &[]));
    bench.join(2, with_models(4, &["other"]));
    bench.turn();
    let why = "no worker has model `net`: `pictor models pull` fetches the public ones";
    assert_eq!(bench.reason("up[tile=1]"), why);
    bench.join(3, with_models(1, &["net", "other"]));
    bench.turn();
    assert_eq!(workers_of(&bench), [3], "a worker without it stays idle");
    // Started again, with the networks that were fetched for it.
    bench.join(1, with_models(1, &["net"]));
    bench.turn();
    assert_eq!(workers_of(&bench), [3, 1]);
}

#[test]
fn a_tile_that_this_machine_has_no_network_for_fails_with_the_reason() {
    let config = Config { workers_are_final: true, ..Config::default() };
    let mut bench = Bench::without_workers(TILES, config);
    bench.join(1, with_models(4, &["other"]));
    bench.turn();
    let why = "this machine does not have model `net`: `pictor models pull` fetches the public ones (there are other)";
    assert_eq!(bench.reason("up[tile=1]"), why);
    assert_eq!(bench.all(TaskState::Failed).len(), 6);
}

#[test]
fn a_worker_that_has_the_network_loaded_is_preferred() {
    let mut engine = Engine::new(Config::default());
    for (id, model) in [("first", "net"), ("second", "other")] {
        let plan = super::bench::plan(&TILES.replace("net", model));
        engine.add_run(Run::new(RunId(id.into()), Arc::new(plan)), id.into(), 0, 0);
    }
    let mut fx = Effects::default();
    for id in [1, 2] {
        engine.join(WorkerId(id), with_models(2, &["net", "other"]), 0);
    }
    engine.assign(0, &mut fx);
    assert_each_has_its_own(&fx);
}

#[test]
fn a_worker_out_of_service_gets_nothing_new_and_keeps_what_it_has() {
    let job = "dims: { frame: 1-4 }\nsteps: [{ name: a, over: [frame], noop: { duration: 1h } }]";
    let mut bench = Bench::without_workers(job, Config::default());
    bench.took_ms = 60_000;
    bench.join(1, machine(1));
    bench.join(2, machine(1));
    bench.turn();
    assert_eq!(bench.given.len(), 2);
    bench.engine.set_accepts(WorkerId(1), false);
    for name in ["a[frame=1]", "a[frame=2]"] {
        let given = bench.given(name);
        assert_eq!(bench.end(&given, success()), 0);
    }
    bench.turn();
    assert_eq!(bench.given.iter().map(|g| g.worker).collect::<Vec<_>>(), [WorkerId(2)]);
    bench.join(1, machine(1));
    bench.turn();
    assert_eq!(bench.given.len(), 1, "joining again does not put it back into service");
    bench.engine.set_accepts(WorkerId(1), true);
    bench.turn();
    assert_eq!(bench.given.len(), 2);
}

/// A worker with a GPU and a Blender of this version, which may be able to render on it.
fn with_blender(version: &str, uses_gpu: bool) -> Inventory {
    let ways: BTreeSet<String> = uses_gpu.then(|| "CUDA".to_owned()).into_iter().collect();
    let devices = ["CPU".to_owned()].into_iter().chain(ways.clone()).collect();
    let gpus = [("u".to_owned(), ways)].into();
    let version = version.to_owned();
    Inventory {
        blenders: vec![Blender { version, devices, gpus, ..Blender::default() }],
        ..with_gpu(4, 8)
    }
}

#[test]
fn a_render_goes_to_a_worker_whose_blender_can_use_its_gpu_unless_the_job_says_otherwise() {
    let steps = |device: &str| {
        let scene = format!("scene: {{ scene: a.blend{device} }}");
        format!(
            "steps:\n  - {{ name: look, inspect: {{ scene: a.blend }} }}\n  - {{ name: a, blender: {{ {scene} }} }}\n"
        )
    };
    let mut bench = Bench::without_workers(&steps(""), Config::default());
    bench.join(1, with_blender("3.4.1", false));
    bench.turn();
    assert_eq!(bench.held(), ["look"], "any Blender looks at a scene");
    assert_eq!(bench.reason("a"), "no worker has a Blender that can use its GPU");
    bench.join(2, with_blender("5.0.1", true));
    bench.turn();
    assert_eq!(workers_of(&bench), [1, 2]);
    for (device, goes) in
        [(", device: any", true), (", device: cpu", true), (", device: gpu", false)]
    {
        let mut bench = Bench::without_workers(&steps(device), Config::default());
        bench.join(1, with_blender("3.4.1", false));
        bench.turn();
        assert_eq!(bench.held().contains(&"a".to_owned()), goes, "{device}");
    }
    let config = Config { workers_are_final: true, ..Config::default() };
    let mut bench = Bench::without_workers(&steps(""), config);
    bench.join(1, with_blender("3.4.1", false));
    bench.turn();
    let why = bench.reason("a");
    assert!(why.contains("`pictor setup-blender`") && why.contains("`device: any`"), "{why}");
}
