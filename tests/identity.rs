//! The results of the whole command are what plain Blender makes of the same scene.

mod support;

use support::pictures::{assert_close, assert_same};
use support::{TestDir, render_job, scenes};

#[test]
fn frames_merged_from_tiles_are_bit_for_bit_those_of_plain_blender() {
    for grid in ["1x1", "2x2", "3x5"] {
        let dir = TestDir::new();
        dir.write("job.yaml", &render_job("plain.blend", &format!("  tiles: {grid}\n")));
        dir.run(&["--set", "render.frames=1-2"]).expect(0, &["4 files in"]);
        for frame in [1, 2] {
            let plain = scenes().join(format!("plain-{frame}.exr"));
            assert_same(&dir.path(&format!("out/frames/{frame:04}.exr")), &plain);
        }
        assert_close(&dir.path("out/previews/0001.png"), &scenes().join("plain-1.png"));
    }
}

#[test]
fn every_pass_of_every_view_layer_is_bit_for_bit_that_of_plain_blender() {
    let dir = TestDir::new();
    let more = "  tiles: 3x2\n  output: { format: exr_multilayer, preview: false }\n";
    dir.write("job.yaml", &render_job("layers.blend", more));
    dir.run(&[]).expect(0, &["1 files in"]);
    assert_same(&dir.path("out/frames/0001.exr"), &scenes().join("layers-1.layers.exr"));
}

#[test]
fn composited_frames_and_their_previews_are_those_of_plain_blender() {
    let dir = TestDir::new();
    dir.write("job.yaml", &render_job("composited.blend", "  tiles: 3x2\n"));
    dir.run(&[]).expect(0, &["2 files in"]);
    assert_same(&dir.path("out/frames/0001.exr"), &scenes().join("composited-1.exr"));
    assert_close(&dir.path("out/previews/0001.png"), &scenes().join("composited-1.png"));
}

#[test]
fn adaptive_sampling_does_not_show_where_tiles_meet() {
    let dir = TestDir::new();
    dir.write("job.yaml", &render_job("adaptive.blend", "  tiles: 2x2\n"));
    dir.run(&[]).expect(0, &["2 files in"]);
    assert_same(&dir.path("out/frames/0001.exr"), &scenes().join("adaptive-1.exr"));
    assert_close(&dir.path("out/previews/0001.png"), &scenes().join("adaptive-1.png"));
}
