//! A job bakes the simulations of its scene, and its frames are those of the scene that Blender baked.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use support::pictures::assert_same;
use support::{Running, Said, TestDir, root};

/// The folders with Blenders, and the kinds of simulation that each can bake.
fn blenders() -> Vec<(PathBuf, &'static [&'static str])> {
    let newer = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("blenders/5.0.1");
    let first: (PathBuf, &'static [&'static str]) = (PathBuf::new(), &["cloth", "rigid", "paint"]);
    let newer: (PathBuf, &'static [&'static str]) = (newer, &["cloth", "rigid", "zone"]);
    [first, newer]
        .into_iter()
        .filter(|(folder, _)| folder.as_os_str().is_empty() || folder.is_dir())
        .collect()
}

/// Puts this folder before all others in the command's PATH.
fn first_in_path(command: &mut Command, folder: &Path) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    let folders = folders.filter(|folder| !folder.as_os_str().is_empty());
    command.env("PATH", std::env::join_paths(folders).unwrap());
}

fn pictor(dir: &TestDir, folder: &Path, arguments: &[&str]) -> Said {
    let mut command = dir.command(arguments);
    first_in_path(&mut command, folder);
    Running::start(&mut command).finish()
}

#[test]
fn a_simulation_is_baked_before_frames_are_rendered_in_any_order() {
    for (folder, kinds) in blenders() {
        let dir = TestDir::new();
        let mut blender = Command::new("blender");
        let script = root().join("tests/support/simulations.py");
        blender.args(["-b", "--factory-startup", "--python-exit-code", "1", "-P"]).arg(script);
        blender.arg("--").arg(dir.path("")).args(kinds);
        first_in_path(&mut blender, &folder);
        let made = Running::start(&mut blender).finish();
        assert_eq!(made.code, Some(0), "{made}");
        for kind in kinds {
            let job = format!(
                "pictor: v1\nname: {kind}\norder: preview\nrender:\n  scene: {kind}/scene.blend\n  \
                 frames: 1-5\n  tiles: 2x1\n  output: {{ preview: false }}\n"
            );
            dir.write("job.yaml", &job);
            let run = |more: &[&str]| {
                let run = ["run", "job.yaml", "--out", kind];
                pictor(&dir, &folder, &[&run[..], more].concat())
            };
            run(&[]).expect(1, &["Simulations that are not baked", "0 tasks succeeded"]);
            let said = run(&["--set", "render.simulate=bake"]);
            let parts: &[&str] = &["22 tasks succeeded", "5 files in"];
            said.expect(0, parts);
            for frame in 1..=5 {
                let ours = dir.path(&format!("{kind}/frames/{frame:04}.exr"));
                assert_same(&ours, &dir.path(&format!("{kind}/plain/{frame:04}.exr")));
            }
        }
    }
}

/// The steps of `docs/simulations.md`.
#[test]
fn a_bake_by_hand_is_done_again_with_all_that_depends_on_it() {
    let dir = TestDir::new();
    let text = std::fs::read_to_string(root().join("docs/simulations.md")).unwrap();
    let block = text.split("```yaml\n").find(|block| block.contains("steps:")).unwrap();
    let steps = block.split("```").next().unwrap().replace("flag.blend", "cloth/scene.blend");
    let script = root().join("tests/support/simulations.py");
    let mut blender = Command::new("blender");
    blender.args(["-b", "--factory-startup", "-P"]).arg(script).arg("--");
    let made = Running::start(blender.arg(dir.path("")).arg("cloth")).finish();
    assert_eq!(made.code, Some(0), "{made}");
    let head = "pictor: v1\nname: hand\ndims: { frame: 2-4 }\n";
    dir.write("job.yaml", &format!("{head}{steps}    deliver: {{ image: '{{frame}}.exr' }}\n"));
    let said = dir.run(&[]);
    said.expect(0, &["4 tasks succeeded", "3 files in"]);
    dir.ok(&["retry", &said.run_id(), "bake", "--yes"]).expect(0, &["4 tasks succeeded"]);
    assert_eq!(dir.attempts().len(), 8);
    for frame in 2..=4 {
        let plain = dir.path(&format!("cloth/plain/{frame:04}.exr"));
        assert_same(&dir.path(&format!("out/{frame}.exr")), &plain);
    }
    // Without the dependency nothing would have been baked.
    let lacks = std::fs::read_to_string(dir.path("job.yaml")).unwrap().replace("[bake]", "[]");
    dir.write("job.yaml", &lacks);
    dir.run(&[]).expect(2, &["`simulate: bake` renders what a `bake` step made of the scene"]);
}
