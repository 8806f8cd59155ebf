//! Small versions of the example jobs: each task fails in turn, once and always; every report arrives twice; the owner
//! crashes after every commit.

use super::outcome::GIB;
use super::rng::Rng;
use super::world::{Script, World, machine};
use pictor_engine::{Config, Plan, RunState, TaskState, compile};
use pictor_tasks::job::{Source, parse};
use pictor_tasks::message::TaskId;
use pictor_tasks::worker::Inventory;

/// A job, and the steps whose failure another step absorbs.
struct Example {
    name: &'static str,
    job: &'static str,
    absorbed: &'static [&'static str],
}

const EXAMPLES: [Example; 7] = [
    Example {
        name: "render",
        job: "
pictor: v1
name: turntable
render:
  scene: a.blend
  frames: 1-3
  tiles: 2x2
  output: { preview: png, video: a.mp4 }
",
        absorbed: &[],
    },
    Example {
        name: "render with late-bound frames",
        job: "
pictor: v1
name: late
retry: { attempts: 2, backoff: 1s }
render: { scene: a.blend, tiles: 2x1, output: { video: a.mp4 } }
",
        absorbed: &[],
    },
    Example {
        name: "simulation",
        job: "
pictor: v1
name: smoke
dims: { frame: 1-4, take: { values: [a, b] } }
steps:
  - { name: draw, over: [frame, take], needs: [simulate], command: { run: [draw] } }
  - name: simulate
    over: [take, frame]
    needs: [{ step: simulate, offset: { frame: -1 } }]
    command: { run: [step] }
",
        absorbed: &[],
    },
    Example {
        name: "sweep",
        job: "
pictor: v1
name: sweep
dims: { frame: 1-4, half: { of: frame, size: 2 }, colour: { values: [red, blue] } }
on_failure: stop
steps:
  - { name: render, over: [frame, colour], command: { run: [render] } }
  - { name: join, over: [half, colour], needs: [render], command: { run: [join] } }
  - { name: sheet, over: [half], needs: [join], command: { run: [sheet] } }
",
        absorbed: &[],
    },
    Example {
        name: "pipeline",
        job: "
pictor: v1
name: pipeline
dims: { part: { from: split, allow_empty: true } }
steps:
  - { name: fetch, command: { run: [fetch] } }
  - { name: split, needs: [fetch], command: { run: [split, '{bind.part}'] } }
  - { name: check, over: [part], command: { run: [check] } }
  - name: tell
    needs: [{ step: check, on: finished }, { step: fetch, on: finished }]
    command: { run: [tell] }
",
        absorbed: &["fetch", "split", "check"],
    },
    Example {
        name: "upscale of a video",
        job: "
pictor: v1
name: clip
retry: { attempts: 2, backoff: 1s }
upscale: { input: clip.mp4, model: net }
",
        absorbed: &[],
    },
    Example {
        name: "results that go when they were read",
        job: "
pictor: v1
name: lean
dims: { frame: 1-4, half: { of: frame, size: 2 }, part: { from: split, allow_empty: true } }
steps:
  - { name: split, command: { run: [split, '{bind.part}'] }, keep: { until: show } }
  - { name: cut, over: [half], needs: [split], command: { run: [cut] }, keep: { until: draw } }
  - name: simulate
    over: [frame]
    needs: [cut, { step: simulate, offset: { frame: -1 } }]
    command: { run: [step] }
    keep: { until: draw }
  - { name: draw, over: [frame, part], needs: [cut, simulate], command: { run: [draw] }, keep: { until: show } }
  - { name: sheet, over: [frame], needs: [draw], command: { run: [sheet] } }
  - { name: show, needs: [sheet, split], command: { run: [show] } }
",
        absorbed: &[],
    },
];

fn plan(example: &Example) -> Plan {
    let source = Source { name: example.name.into(), text: example.job.into() };
    compile(&parse(&source, &[]).unwrap().spec).unwrap()
}

fn machines() -> Vec<Inventory> {
    let mut rng = Rng::new(7);
    let software = ["blender", "ffmpeg"].map(|name| (name.to_owned(), "5.0".to_owned()));
    let mut machine = machine(&mut rng, true);
    machine.software = software.into();
    machine.memory_bytes = 16 * GIB;
    vec![machine.clone(), machine]
}

/// Runs a job to its end. Returns its state and all its tasks.
fn play(example: &Example, script: Script) -> (RunState, Vec<TaskId>) {
    let mut world = World::new(1, Config::default(), vec![plan(example)], machines());
    world.script = script;
    world.check_every = 2;
    world.run();
    let run = world.engine.run(&world.runs[0].id).unwrap();
    let steps = 0..u16::try_from(run.plan().steps.len()).unwrap();
    let tasks: Vec<TaskId> = steps
        .flat_map(|step| {
            TaskState::ALL.into_iter().flat_map(move |state| run.tasks_in(step, state))
        })
        .collect();
    for at in &tasks {
        let task = world.engine.task(run, *at, world.now).unwrap();
        assert_eq!(task.worker, None, "{} still has a worker", task.name);
    }
    (run.state(), tasks)
}

/// Lets each task fail in turn, once and always, while every report arrives twice or the owner crashes after every
/// commit.
fn each_task_fails(example: &Example) {
    let (state, tasks) = play(example, Script::default());
    assert_eq!(state, RunState::Succeeded, "{}", example.name);
    let steps = plan(example).steps;
    for TaskId { step, index } in tasks {
        for faults in 0..4 {
            let (always, all_twice) = (faults & 1 > 0, faults & 2 > 0);
            let script = Script {
                crash_after_commits: !all_twice,
                all_twice,
                fails: Some((step, index, always)),
            };
            let (state, _) = play(example, script);
            let name = &steps[step as usize].name;
            let bad = always && !example.absorbed.contains(&name.as_str());
            let expected = if bad { RunState::Failed } else { RunState::Succeeded };
            assert_eq!(state, expected, "{}: {name}[{index}], faults {faults}", example.name);
        }
    }
}

#[test]
fn each_task_of_a_render_may_fail() {
    each_task_fails(&EXAMPLES[0]);
}

#[test]
fn each_task_of_a_render_with_late_bound_frames_may_fail() {
    each_task_fails(&EXAMPLES[1]);
}

#[test]
fn each_task_of_a_simulation_may_fail() {
    each_task_fails(&EXAMPLES[2]);
}

#[test]
fn each_task_of_a_sweep_may_fail() {
    each_task_fails(&EXAMPLES[3]);
}

#[test]
fn each_task_of_a_pipeline_may_fail() {
    each_task_fails(&EXAMPLES[4]);
}

#[test]
fn each_task_of_an_upscale_may_fail() {
    each_task_fails(&EXAMPLES[5]);
}

#[test]
fn each_task_of_a_job_that_removes_results_may_fail() {
    each_task_fails(&EXAMPLES[6]);
}

#[test]
fn every_example_can_be_reset_step_by_step_after_its_end() {
    for example in &EXAMPLES {
        let steps = plan(example).steps.len();
        for step in 0..u16::try_from(steps).unwrap() {
            let mut world = World::new(2, Config::default(), vec![plan(example)], machines());
            world.run();
            world.reset(0, step);
            world.run();
            let run = world.engine.run(&world.runs[0].id).unwrap();
            assert_eq!(run.state(), RunState::Succeeded, "{}: step {step}", example.name);
            assert_eq!(
                run.attempt(TaskId { step, index: 0 }).unwrap_or(2),
                2,
                "{}: step {step}",
                example.name
            );
        }
    }
}
