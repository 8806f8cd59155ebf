//! Several Blenders on one machine: which of them gets a scene, and what is reported if none is suitable.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stderr, reason = "what is left out is told")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use support::{TestDir, render_job};

/// A Blender that `make blenders` installed. Returns `None` if there is none for this machine's Python.
fn newer(version: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_pictor")).ancestors().nth(2).unwrap();
    let program = target.join("blenders").join(version).join("blender");
    if !program.exists() {
        eprintln!("left out: there is no {}; `make blenders` installs it", program.display());
        return None;
    }
    Some(program)
}

/// Saves Blender's start-up scene with this Blender.
fn save(blender: &Path, to: &Path, compress: bool) {
    save_changed(blender, to, compress, "pass");
}

/// Saves Blender's start-up scene after a change to it.
fn save_changed(blender: &Path, to: &Path, compress: bool, change: &str) {
    let compress = if compress { "True" } else { "False" };
    let script = format!(
        "import bpy; {change}; bpy.ops.wm.save_as_mainfile(filepath={:?}, compress={compress})",
        to.display()
    );
    let mut command = Command::new(blender);
    command.args(["-b", "--factory-startup", "--python-exit-code", "1", "--python-expr", &script]);
    let said = command.output().unwrap();
    assert!(said.status.success() && to.exists(), "{}", String::from_utf8_lossy(&said.stdout));
}

/// Writes a job that only inspects a scene.
fn look(dir: &TestDir, scene: &str) {
    let text = format!(
        "pictor: v1\nname: look\nsteps:\n  - {{ name: look, inspect: {{ scene: {scene} }} }}\n"
    );
    dir.write("job.yaml", &text);
}

#[test]
fn a_scene_goes_to_the_oldest_blender_that_can_read_it() {
    let Some(new) = newer("5.0.1") else { return };
    let dir = TestDir::new();
    save(Path::new("blender"), &dir.path("old.blend"), true);
    save(&new, &dir.path("new.blend"), true);
    save(&new, &dir.path("plain.blend"), false);
    let new = new.to_str().unwrap();
    let both = ["--blender", new, "--blender", "blender"];
    for (scene, loaded) in [
        ("old.blend", "Blender 3."),
        ("new.blend", "Blender 5.0.1 "),
        ("plain.blend", "Blender 5.0.1 "),
    ] {
        look(&dir, scene);
        let said = dir.run(&both);
        said.expect(0, &["1 tasks succeeded"]);
        let log = dir.ok(&["logs", &said.run_id(), "look"]).out;
        assert!(log.contains(&format!("pictor: {loaded}")), "{scene}: {log}");
        // The other one alone cannot, and is not even started.
        if scene != "old.blend" {
            let said = dir.run(&["--blender", "blender"]);
            said.expect(
                1,
                &["does not have blender >=5.0, which", "needs; it has 3.", "pictor setup-blender"],
            );
        }
    }
    // The job can restrict the choice, too.
    look(&dir, "old.blend");
    let job = std::fs::read_to_string(dir.path("job.yaml")).unwrap();
    dir.write("job.yaml", &format!("{job}requires: {{ software: {{ blender: \">=5\" }} }}\n"));
    let said = dir.run(&both);
    said.expect(0, &["1 tasks succeeded"]);
    assert!(dir.ok(&["logs", &said.run_id(), "look"]).out.contains("pictor: Blender 5.0.1 "));
    // The doctor lists both, oldest first.
    let machine = &dir.json(&[&["doctor"], &both[..]].concat())["machine"];
    let blenders = machine["blenders"].as_array().unwrap();
    assert!(blenders.len() == 2 && blenders[0]["version"].as_str().unwrap().starts_with("3."));
    assert_eq!(blenders[1]["path"], new);
    assert_eq!(machine["software"]["blender"], blenders[0]["version"]);
}

#[test]
fn a_blender_that_lacks_the_denoiser_is_passed_over() {
    let Some(new) = newer("5.0.1") else { return };
    let (dir, new) = (TestDir::new(), new.to_str().unwrap());
    let change = "s = bpy.context.scene; s.render.engine = 'CYCLES'; s.cycles.samples = 1; \
                  s.cycles.use_denoising = True";
    let scene = dir.path("old.blend");
    save_changed(Path::new("blender"), &scene, false, change);
    let scene = scene.to_str().unwrap();
    dir.write("job.yaml", &render_job(scene, "  resolution: 64x36\n  tiles: 2x1\n"));
    let alone = dir.run(&["--blender", "blender"]);
    if alone.code == Some(0) {
        eprintln!("left out: the Blender in PATH has a denoiser");
        return;
    }
    alone.expect(1, &["has no OpenImageDenoise", "pictor setup-blender"]);
    // One Blender renders all parts of a frame, and a note says why it is not the oldest.
    let said = dir.run(&["--blender", "blender", "--blender", new]);
    said.expect(0, &["succeeded", "old.blend is not rendered by", "has no OpenImageDenoise."]);
    for task in ["render[frame=1,tile=1]", "finish[frame=1]", "develop[frame=1]"] {
        let log = dir.ok(&["logs", &said.run_id(), task]).out;
        assert!(
            !log.contains("pictor: Blender 3.") || log.contains("pictor: Blender 5.0.1 "),
            "{task}: {log}"
        );
    }
    // The job's setting of the denoiser takes precedence.
    dir.write("job.yaml", &render_job(scene, "  resolution: 64x36\n  denoise: false\n"));
    let said = dir.run(&["--overwrite", "--blender", "blender", "--blender", new]);
    said.expect(0, &["succeeded"]);
    assert!(!said.out.contains("is not rendered by"), "{said}");
}

#[test]
fn a_plan_says_which_blender_its_scenes_need() {
    let dir = TestDir::new();
    dir.write("new.blend", "BLENDER17-01v0503 and what only such a Blender can read");
    look(&dir, "new.blend");
    let plan = dir.json(&["plan", "job.yaml"]);
    assert_eq!(plan["steps"][0]["requires"]["software"]["blender"], ">=5.3");
    let said = dir.run(&[]);
    said.expect(
        1,
        &[
            "look: ",
            "does not have blender >=5.3, which new.blend needs; it has ",
            "--blender PATH",
        ],
    );
    // What cannot be determined is left to Blender.
    dir.write("new.blend", "no scene");
    let plan = dir.json(&["plan", "job.yaml"]);
    assert_eq!(plan["steps"][0]["requires"]["software"]["blender"], "*");
}

#[test]
fn a_blender_that_is_named_and_not_there_is_told_before_anything_is_done() {
    let dir = TestDir::new();
    dir.write("job.yaml", &render_job("plain.blend", ""));
    dir.run(&["--blender", "/nowhere/blender"]).expect(1, &["there is no Blender at /nowhere"]);
    dir.write("config/pictor/config.toml", "[blender]\npaths = [\"/nowhere/blender\"]\n");
    dir.pictor(&["doctor"]).expect(0, &["python3"]);
    dir.run(&[]).expect(1, &["does not have blender", "install blender"]);
    dir.pictor(&["setup-blender", "2.79"]).expect(2, &["4.2.23, 4.5.15, 5.0.1"]);
}

#[test]
fn a_job_that_wants_a_gpu_is_not_rendered_without_one() {
    let dir = TestDir::new();
    let machine = dir.json(&["doctor"])["machine"].clone();
    assert!(machine["blenders"][0]["devices"].as_array().unwrap().contains(&"CPU".into()));
    if machine["gpus"].as_array().is_some_and(|gpus| !gpus.is_empty()) {
        eprintln!("left out: this machine has a GPU");
        return;
    }
    dir.write("job.yaml", &render_job("plain.blend", "  device: gpu\n"));
    dir.run(&[]).expect(1, &["does not have a GPU"]);
    dir.write("job.yaml", &render_job("plain.blend", "  device: any\n"));
    dir.run(&[]).expect(0, &["succeeded"]);
}

#[test]
fn the_data_folder_may_have_any_name() {
    let dir = TestDir::new();
    let data = dir.path("{frame} %04d #1");
    dir.write("job.yaml", &render_job("plain.blend", ""));
    dir.run(&["--data", data.to_str().unwrap()]).expect(0, &["succeeded"]);
    assert!(dir.path("out/frames/0001.exr").exists());
}
