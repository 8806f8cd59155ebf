//! The compiler: how a `render` is expanded, what is reported about invalid jobs, and what large jobs cost.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "compile/upscale.rs"]
mod upscale;

use pictor_engine::{Plan, Run, RunLimits, TaskState, compile};
use pictor_tasks::job::{Diagnostic, Source, parse};
use pictor_tasks::message::RunId;
use std::fmt::Write;
use std::sync::Arc;

fn compiled(job: &str) -> Result<Plan, Vec<Diagnostic>> {
    let text = format!("pictor: v1\nname: test\n{job}");
    let source = Source { name: "job.yaml".into(), text };
    compile(&parse(&source, &[]).unwrap().spec)
}

/// A readable form of a plan: dimensions, then steps with their needs.
fn outline(plan: &Plan) -> String {
    let mut text = String::new();
    for dim in &plan.dims {
        let values = serde_json::to_string(&dim.values).unwrap();
        let bound = dim.bound.as_ref().map(|b| serde_json::to_string(b).unwrap());
        writeln!(text, "{}: {values}{}", dim.name, bound.unwrap_or_default()).unwrap();
    }
    for step in &plan.steps {
        let over: Vec<&str> = step.over.iter().map(|dim| plan.dims[*dim].name.as_str()).collect();
        let needs: Vec<String> = step
            .needs
            .iter()
            .map(|need| {
                let soft = if need.soft { "?" } else { "" };
                let offsets: Vec<String> = need
                    .offsets
                    .iter()
                    .map(|(dim, by)| format!("{}{by:+}", plan.dims[*dim].name))
                    .collect();
                let offsets = if offsets.is_empty() {
                    String::new()
                } else {
                    format!(" {}", offsets.join(" "))
                };
                format!("{}{soft}{offsets}", plan.steps[need.step as usize].name)
            })
            .collect();
        let deliver = step.deliver.iter().map(|(name, path)| format!(" {name}->{path}"));
        let until = step.keep_until.map(|until| &plan.steps[until as usize].name);
        writeln!(
            text,
            "{} = {} over [{}] needs [{}] to sink {} requires {}{}{}",
            step.name,
            step.body.kind(),
            over.join(", "),
            needs.join(", "),
            step.to_sink,
            serde_json::to_string(&step.requires).unwrap(),
            deliver.collect::<String>(),
            until.map_or_else(String::new, |until| format!(" until {until}")),
        )
        .unwrap();
    }
    text
}

fn problems(job: &str) -> String {
    let found = compiled(job).expect_err("it has mistakes");
    let lines = found.iter().map(|problem| {
        let hint = problem.hint.as_ref().map_or(String::new(), |hint| format!(" ({hint})"));
        format!("{}: {}{hint}\n", problem.path, problem.message)
    });
    lines.collect()
}

#[test]
fn a_render_of_tiles_with_previews_and_a_video() {
    let plan = compiled(
        "
render:
  scene: a.blend
  frames: 1-3
  tiles: 2x2
  resolution: 640x360
  samples: 16
  output: { preview: png, video: a.mp4 }
requires: { gpu: { vram: 8GiB }, software: { blender: '>=3.4' } }
",
    );
    insta::assert_snapshot!(outline(&plan.unwrap()));
}

#[test]
fn a_render_whose_frames_the_scene_knows_without_previews() {
    let plan = compiled("render: { scene: a.blend, output: { preview: false } }");
    insta::assert_snapshot!(outline(&plan.unwrap()));
}

#[test]
fn a_render_with_a_video_but_without_previews_or_compositor() {
    let plan = compiled(
        "
render:
  scene: a.blend
  frames: 1-3
  tiles: auto
  resolution: 1280x720
  compositor: false
  denoise: false
  output: { format: exr_multilayer, preview: false, video: a.mov }
",
    );
    insta::assert_snapshot!(outline(&plan.unwrap()));
}

#[test]
fn a_render_joins_the_job_s_own_steps_by_frame_but_never_by_tile() {
    let plan = compiled(
        "
dims: { tile: { count: 3 }, half: { of: frame, size: 2 } }
render: { scene: a.blend, frames: 1-4, tiles: 2x1 }
steps:
  - { name: mask, over: [frame, tile], needs: [render], command: { run: [mask] } }
  - { name: sheet, over: [half], needs: [develop, { step: mask, on: finished }], noop: {} }
",
    );
    insta::assert_snapshot!(outline(&plan.unwrap()));
}

#[test]
fn the_whole_plan_of_a_small_job() {
    let plan = compiled(
        "
dims:
  frame: { from: ask }
  take: { values: [a, b] }
  tile: { count: 4, bounded_by: take, counts: [4, 2] }
limits: []
steps:
  - { name: ask, command: { run: [ask, '{bind.frame}'] } }
  - name: simulate
    over: [take, frame]
    needs: [{ step: simulate, offset: { frame: -1 } }]
    retry: { attempts: 5, backoff: 1m }
    timeout: 2h
    stalled: 10m
    order: preview
    limits: [houdini]
    command: { run: [simulate, '{frame:04}'], outputs: { cache: cache.vdb } }
    deliver: { cache: 'cache/{take}/{frame:04}.vdb' }
  - { name: scale, over: [take, tile], noop: { duration: 5s } }
"
        .replace("limits: []\n", "")
        .as_str(),
    );
    insta::assert_snapshot!(serde_json::to_string_pretty(&plan.unwrap()).unwrap());
}

#[test]
fn names_that_do_not_exist() {
    insta::assert_snapshot!(problems(
        "
dims: { frame: 1-3, part: { from: splitt }, block: { of: frames, size: 2 } }
steps:
  - { name: split, over: [fram], needs: [rendr], noop: {} }
  - { name: render, over: [frame], needs: [{ step: split, offset: { frame: -1 } }], noop: {} }
"
    ));
}

#[test]
fn dimensions_that_cannot_be() {
    insta::assert_snapshot!(problems(
        "
dims:
  none: { count: 0 }
  a: { of: b, size: 2 }
  b: { of: a, size: 2 }
  tile: { count: 4, bounded_by: tile, counts: [1, 2, 3, 4] }
steps: [{ name: one, noop: {} }]
"
    ));
}

#[test]
fn bounds_that_cannot_be() {
    insta::assert_snapshot!(problems(
        "
dims:
  image: 1-3
  self: { count: 4, bounded_by: self, counts: [1, 2, 3, 4] }
  short: { count: 4, bounded_by: image, counts: [1, 2] }
  cut: { of: short, size: 2 }
steps:
  - { name: alone, over: [short], noop: {} }
  - { name: one, noop: {} }
"
    ));
    insta::assert_snapshot!(problems(
        "
dims:
  image: 1-3
  large: { count: 4, bounded_by: image, counts: [1, 2, 5] }
  neither: { count: 4, bounded_by: image }
steps: [{ name: one, noop: {} }]
"
    ));
}

#[test]
fn a_step_needing_itself_without_offset_is_a_compile_error() {
    insta::assert_snapshot!(problems(
        "
dims: { frame: 1-3 }
steps: [{ name: simulate, over: [frame], needs: [simulate], noop: {} }]
"
    ));
}

#[test]
fn offsets_round_a_cycle_must_have_one_sign() {
    let cycle = |first: i32, second: i32| {
        compiled(&format!(
            "
dims: {{ frame: 1-9, tile: {{ count: 2 }} }}
steps:
  - {{ name: a, over: [frame, tile], needs: [{{ step: b, offset: {{ frame: {first} }} }}], noop: {{}} }}
  - {{ name: b, over: [frame], needs: [{{ step: a, offset: {{ frame: {second} }} }}], noop: {{}} }}
"
        ))
        .is_ok()
    };
    assert!(cycle(-1, 0) && cycle(0, -1) && cycle(-3, 2) && cycle(1, 0) && cycle(3, -2));
    assert!(!cycle(0, 0) && !cycle(-1, 1) && !cycle(2, -2));
    insta::assert_snapshot!(problems(
        "
dims: { frame: 1-9 }
steps:
  - name: a
    over: [frame]
    needs: [{ step: b, offset: { frame: -1 } }, { step: a, offset: { frame: 1 } }]
    noop: {}
  - { name: b, over: [frame], needs: [a], noop: {} }
"
    ));
}

#[test]
fn a_dimension_cannot_come_from_a_step_that_runs_over_it() {
    insta::assert_snapshot!(problems(
        "
dims: { part: { from: split } }
steps: [{ name: split, over: [part], command: { run: [split, '{bind.part}'] } }]
"
    ));
}

#[test]
fn spaces_that_cannot_be() {
    insta::assert_snapshot!(problems(
        "
dims:
  frame: 1-4096
  tile: { count: 4097 }
  empty: { count: 0, allow_empty: true }
  two: { of: frame, size: 2 }
  three: { of: frame, size: 3 }
steps:
  - { name: large, over: [frame, tile], noop: {} }
  - { name: hollow, over: [frame, tile, empty], noop: {} }
  - { name: twice, over: [frame, two], noop: {} }
  - { name: a, over: [two], noop: {} }
  - { name: b, over: [three], needs: [a], noop: {} }
"
    ));
}

#[test]
fn bodies_that_do_not_fit_their_step() {
    insta::assert_snapshot!(problems(
        "
dims: { frame: 1-3, tile: { grid: 2x2 }, part: { from: idle } }
steps:
  - { name: idle, noop: {} }
  - { name: mute, command: { run: [mute] } }
  - { name: merge, over: [frame], needs: [idle], merge: { tiles: { grid: 2x2 } } }
  - { name: tiles, over: [frame], blender: { scene: { scene: a.blend }, tiles: { grid: 2x2 } } }
  - { name: encode, needs: [tiles, mute], encode: { file: a.mp4 } }
"
    ));
}

#[test]
fn placeholders_and_deliveries_that_mean_nothing() {
    insta::assert_snapshot!(problems(
        "
dims: { frame: 1-3, part: { from: split } }
steps:
  - { name: split, command: { run: [split] } }
  - name: work
    over: [frame]
    needs: [split]
    command:
      run: ['{fram}', '{input.splt}', '{output.log}', '{bind.part}', '{tile.first}']
      outputs: { text: a.txt }
    deliver: { image: '{frame}.png', text: '{input.split}' }
"
    ));
}

#[test]
fn folders_of_outputs_are_delivered_whole_and_frames_must_not_share_what_has_no_number() {
    let job = |deliver: &str| {
        format!(
            "
dims: {{ frame: 1-3, look: {{ values: [a, b] }} }}
steps:
  - {{ name: inspect, inspect: {{ scene: a.blend }}, deliver: {{ scene: scene.json }} }}
  - name: draw
    over: [frame, look]
    needs: [inspect]
    blender: {{ scene: {{ scene: a.blend }} }}
    deliver: {deliver}
"
        )
    };
    let fits = "{ image: '{look}/{frame}.exr', files: 'nodes/{look}', passes: 'p/{look}/{frame}' }";
    assert_eq!(compiled(&job(fits)).unwrap().steps[1].deliver.len(), 3);
    let clash = problems(&job("{ files: nodes, passes: '{look}', depth: '{look}/{frame}' }"));
    insta::assert_snapshot!(clash);
}

#[test]
fn a_macro_and_the_job_s_own_parts_may_clash() {
    insta::assert_snapshot!(problems(
        "
dims: { frame: 1-3 }
render: { scene: a.blend, frames: 1-3, tiles: auto }
steps: [{ name: finish, noop: {} }]
"
    ));
}

#[test]
fn a_million_tasks_are_a_few_bytes_of_plan() {
    let plan = compiled(
        "
dims: { frame: 1-10000, tile: { grid: 10x10 } }
steps:
  - { name: render, over: [frame, tile], noop: {} }
  - { name: merge, over: [frame], needs: [render], noop: {} }
  - { name: encode, needs: [merge], noop: {} }
",
    )
    .unwrap();
    let json = serde_json::to_string(&plan).unwrap();
    assert!(json.len() < 10_000, "{} bytes", json.len());
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    let run = Run::new(RunId("run".into()), Arc::new(plan));
    assert_eq!(run.tasks_in(0, TaskState::Ready).count(), 1_000_000);
    assert_eq!(run.tasks_in(1, TaskState::Pending).count(), 10_000);
}

#[test]
fn requirements_add_up_and_only_rendering_takes_the_job_s_gpu() {
    let plan = compiled(
        "
requires: { gpu: { vram: 8GiB }, cpus: 4, memory: 8GiB, labels: [fast] }
steps:
  - { name: render, blender: { scene: { scene: a.blend } }, requires: { cpus: 2, memory: 16GiB } }
  - { name: encode, needs: [render], encode: { file: a.mp4 }, requires: { labels: [big] } }
  - { name: upscale, command: { run: [up] }, requires: { gpu: { model: H100 } } }
",
    );
    insta::assert_snapshot!(outline(&plan.unwrap()));
}

#[test]
fn a_plan_for_more_than_a_machine_can_hold_is_refused_before_anything_of_it_exists() {
    let steps = |count: usize, over: &str| {
        let step = |i| format!("  - {{ name: s{i}, over: [{over}], noop: {{}} }}\n");
        (0..count).map(step).collect::<String>()
    };
    let limits = RunLimits::default();
    let refused = |job: &str| limits.check(&compiled(job).unwrap()).unwrap_err();
    let many = format!("dims: {{ a: 1-16000000 }}\nsteps:\n{}", steps(100, "a"));
    assert_eq!(refused(&many), "the run would have 1600000000 tasks; the limit is 16777216");
    let blocks = "dims: { a: 1-16000000, c: 1-100, b: { of: a, size: 1 } }\nsteps:\n";
    assert_eq!(
        refused(&format!("{blocks}{}", steps(1, "b, c"))),
        "step `s0` would have 1600000000 tasks; the limit is 16777216"
    );
    // Each need has counters of its own.
    let all = (0..16).map(|i| format!("{{ step: s{i}, on: finished }}"));
    let all = all.collect::<Vec<_>>().join(", ");
    let last = format!("  - {{ name: z, over: [a], needs: [{all}], noop: {{}} }}\n");
    let job = format!("dims: {{ a: 1-900000 }}\nsteps:\n{}{last}", steps(16, "a"));
    let plan = compiled(&job).unwrap();
    limits.check(&plan).unwrap();
    let little = RunLimits { memory_bytes: 200 << 20, ..limits };
    assert_eq!(
        little.check(&plan).unwrap_err(),
        "the run would take 274 MiB of memory; the limit is 200 MiB"
    );
    let most = format!("dims: {{ a: 1-16000000 }}\nsteps:\n{}", steps(1, "a"));
    limits.check(&compiled(&most).unwrap()).unwrap();
}
