//! How an `upscale` is expanded, the same written by hand, and what is reported about invalid ones.

use super::{compiled, outline, problems};

/// The plan's outline, and the body of each step.
fn whole(job: &str) -> String {
    let plan = compiled(job).unwrap_or_else(|found| panic!("{found:?}"));
    let bodies = plan.steps.iter().map(|s| serde_json::to_string(&s.body).unwrap() + "\n");
    outline(&plan) + &bodies.collect::<String>()
}

#[test]
fn an_upscale_of_a_video() {
    insta::assert_snapshot!(whole(
        "
upscale:
  input: in/city.webm
  model: realesr-animevideov3-x2
  scale: 4
  tile: 512
  overlap: 16
  video: { codec: h264, crf: 20, keep_audio: false }
  frames: 1-200
  on_error: copy
requires: { gpu: { vram: 8GiB } }
"
    ));
}

#[test]
fn an_upscale_of_a_video_whose_frames_are_delivered_as_well() {
    insta::assert_snapshot!(whole(
        "
upscale: { input: city.mov, model: net, format: jpeg, quality: 80, output: { frames: true, file: up.mp4 } }
"
    ));
}

#[test]
fn an_upscale_of_a_picture() {
    insta::assert_snapshot!(whole("upscale: { input: in/photo.jpeg, model: realesrgan-x4plus }"));
}

#[test]
fn an_upscale_of_a_sequence_with_a_video() {
    insta::assert_snapshot!(whole(
        "
upscale:
  input: 'shots/a_%04d.exr'
  model: net
  on_error: skip
  video: { fps: 12 }
  output: { file: '{a}.mov' }
"
    ));
}

#[test]
fn an_upscale_of_a_folder_and_a_step_that_joins_its_frames() {
    insta::assert_snapshot!(whole(
        "
upscale: { input: shots, model: net, tile: auto, overlap: auto }
steps:
  - { name: count, over: [frame], needs: [stitch], command: { run: [count] } }
"
    ));
}

#[test]
fn what_the_macro_does_can_be_written_by_hand() {
    let tiles = "{ pixels: 512, dim: piece }";
    let plan = compiled(&format!(
        "
dims:
  shot: {{ from: look }}
  part: {{ of: shot, size: 50 }}
  piece: {{ bounded_by: shot, from: look }}
steps:
  - {{ name: look, probe: {{ source: a.mp4, frame: shot, tiles: {tiles} }} }}
  - {{ name: cut, over: [part], needs: [look], extract: {{ source: a.mp4, dim: part }}, keep: {{ until: join }} }}
  - name: enlarge
    over: [shot, piece]
    needs: [cut]
    upscale: {{ model: net, frame: shot, tiles: {tiles} }}
    keep: {{ until: join }}
  - name: join
    over: [shot]
    needs: [enlarge, cut]
    stitch: {{ frame: shot, tiles: {tiles} }}
    keep: {{ until: film }}
  - {{ name: film, needs: [look, join], encode: {{ file: b.mp4, source: a.mp4 }}, deliver: {{ video: b.mp4 }} }}
"
    ));
    insta::assert_snapshot!(outline(&plan.unwrap()));
}

#[test]
fn upscales_that_cannot_be() {
    for job in [
        "
upscale:
  input: photo.png
  model: net
  frames: 1-3
  tile: 64
  overlap: 65
  quality: 80
  video: { crf: 20 }
  output: { file: photo.jpg, frames: true }
",
        "upscale: { input: 'frames/*.png', model: net, video: { fps: 12 } }",
        "upscale: { input: a.mp4, model: net, output: { file: a.png } }",
        "
dims: { frame: 1-3 }
upscale: { input: a.mp4, model: net }
render: { scene: a.blend, output: { video: b.mp4 } }
steps: [{ name: probe, noop: {} }]
",
    ] {
        insta::assert_snapshot!(problems(job));
    }
}

/// The name of the source becomes that of the video, which is stored last.
#[test]
fn a_name_that_cannot_be_stored_is_refused_at_once() {
    let of =
        |input: &str, rest: &str| format!("upscale: {{ input: \"{input}\", model: net{rest} }}");
    let long = format!("{}.mp4", "é".repeat(99));
    for (input, said) in
        [(r"a\nb.mp4", r"hold '\n'"), (r"a\tb.mkv", r"hold '\t'"), (&long, "202 bytes long")]
    {
        let found = problems(&of(input, ""));
        assert!(found.contains(said) && found.contains("output: { file"), "{found}");
        assert!(compiled(&of(input, ", output: { file: b.mp4 }")).is_ok(), "{input}");
    }
    for input in ["a:b.mov", "-a.mp4", "a{b}.mkv"] {
        assert!(compiled(&of(input, "")).is_ok(), "{input}");
    }
}

#[test]
fn steps_of_an_upscale_that_do_not_fit() {
    insta::assert_snapshot!(problems(
        "
dims:
  frame: { from: look }
  tile: { from: look }
  other: { from: look }
  part: { of: frame, size: 2 }
steps:
  - { name: look, probe: { source: a.mp4, frame: frame, tiles: {} } }
  - { name: cut, over: [frame], extract: { source: a.mp4 } }
  - { name: enlarge, over: [frame], needs: [look], upscale: { model: net, frame: part, tiles: {} } }
  - { name: both, over: [frame, tile], needs: [cut], upscale: { model: net, source: a.png, tiles: {} } }
  - { name: join, over: [frame], needs: [cut], stitch: { source: a.png, tiles: {} } }
  - { name: film, needs: [look], encode: { file: a.mp4, source: a.mp4 } }
"
    ));
}

#[test]
fn results_that_cannot_be_removed() {
    insta::assert_snapshot!(problems(
        "
steps:
  - { name: idle, noop: {}, keep: { until: last } }
  - { name: first, command: { run: [a], outputs: { a: a } }, deliver: { a: a }, keep: { until: last } }
  - { name: last, needs: [first, idle], command: { run: [b] }, keep: { until: first } }
  - { name: lost, needs: [last], command: { run: [b] }, keep: { until: lasst } }
"
    ));
    insta::assert_snapshot!(problems(
        "
steps:
  - { name: idle, noop: {}, keep: { until: last } }
  - { name: first, command: { run: [a], outputs: { a: a } }, deliver: { a: a }, keep: { until: last } }
  - { name: last, needs: [first, idle], command: { run: [b] }, keep: { until: first } }
"
    ));
}
