//! Every example job runs, in a small form, and produces what it promises. A new one without a test here fails.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use support::pictures::{exr, png, video};
use support::{Running, Said, TestDir, build_scenes, models, workflows};

/// Runs a small form of an example in the output folder of a test.
fn run(dir: &TestDir, name: &str, set: &[&str]) -> Said {
    build_scenes();
    let path = workflows()[name].display().to_string();
    let mut arguments = vec!["run", &path, "--out", "out"];
    arguments.extend(set.iter().flat_map(|pair| ["--set", pair]));
    dir.ok(&arguments)
}

/// The path of a `blender` step's scene in the job file, for `--set`.
fn scene_of(dir: &TestDir, name: &str, step: &str) -> String {
    build_scenes();
    let plan = dir.json(&["plan", &workflows()[name].display().to_string()]);
    let mut steps = plan["steps"].as_array().unwrap().iter();
    format!("steps[{}].blender.scene", steps.position(|found| found["name"] == step).unwrap())
}

/// The file names in the output folder.
fn names(dir: &TestDir) -> Vec<String> {
    dir.results().into_keys().collect()
}

#[test]
fn every_workflow_has_a_test() {
    let names: Vec<String> = workflows().into_keys().collect();
    let tested =
        ["pipeline", "simulation", "still", "sweep", "turntable", "upscale-image", "upscale-video"];
    assert_eq!(names, tested);
}

#[test]
fn turntable_makes_frames_previews_and_a_video() {
    let dir = TestDir::new();
    let set = ["render.frames=1-24x12", "render.resolution=96x54", "render.samples=1"];
    run(&dir, "turntable", &set).expect(0, &["succeeded", "5 files in"]);
    let frames = ["frames/0001.exr", "frames/0013.exr"];
    let rest = ["previews/0001.png", "previews/0013.png", "turntable.mp4"];
    assert_eq!(names(&dir), [&frames[..], &rest[..]].concat());
    for name in frames {
        let (size, channels) = exr(&dir.path("out").join(name));
        assert_eq!(size, (96, 54));
        assert!(channels.len() >= 3, "{:?}", channels.keys());
    }
    let first = png(&dir.path("out/previews/0001.png"));
    assert_eq!(first.0, (96, 54));
    assert_ne!(first, png(&dir.path("out/previews/0013.png")), "it turns");
    assert_eq!(video(&dir.path("out/turntable.mp4")), (96, 54, 2));
}

#[test]
fn still_makes_one_composited_picture_from_sixteen_tiles() {
    let dir = TestDir::new();
    let set = ["render.resolution=96x96", "render.samples=1"];
    let said = run(&dir, "still", &set);
    assert_eq!(names(&dir), ["frames/0001.exr", "previews/0001.png"]);
    assert_eq!(exr(&dir.path("out/frames/0001.exr")).0, (96, 96));
    assert_eq!(png(&dir.path("out/previews/0001.png")).0, (96, 96));
    dir.ok(&["tasks", &said.run_id(), "--step", "render"]).expect(0, &["render.tile=15]"]);
}

#[test]
fn simulation_renders_each_frame_from_the_state_of_the_one_before() {
    let dir = TestDir::new();
    let render = scene_of(&dir, "simulation", "render");
    let (size, samples) = (format!("{render}.resolution=96x54"), format!("{render}.samples=1"));
    run(&dir, "simulation", &["dims.frame=1-3", &size, &samples]);
    let mut expected = Vec::new();
    for (folder, extension) in [("frames", "exr"), ("previews", "png")] {
        expected.extend((1..=3).map(|frame| format!("{folder}/{frame:04}.{extension}")));
    }
    expected.push("simulation.mp4".into());
    expected.extend((1..=3).map(|frame| format!("states/{frame:04}.json")));
    assert_eq!(names(&dir), expected);
    for frame in 1..=3 {
        assert_eq!(exr(&dir.path(&format!("out/frames/{frame:04}.exr"))).0, (96, 54));
        let text = std::fs::read_to_string(dir.path(&format!("out/states/{frame:04}.json")));
        let state: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
        assert_eq!(state["frame"], frame);
    }
    let picture = |frame: u32| png(&dir.path(&format!("out/previews/{frame:04}.png")));
    assert_ne!(picture(1), picture(3), "the balls move");
    assert_eq!(video(&dir.path("out/simulation.mp4")), (96, 54, 3));
}

#[test]
fn sweep_makes_a_picture_for_every_pair_of_values_and_a_sheet_of_all() {
    let dir = TestDir::new();
    let scene = scene_of(&dir, "sweep", "render");
    let (size, samples) = (format!("{scene}.resolution=64x64"), format!("{scene}.samples=2"));
    run(&dir, "sweep", &["dims.roughness=[\"0.05\",\"1.0\"]", &size, &samples]);
    let mut expected = Vec::new();
    for metal in [0, 1] {
        expected
            .extend(["0.05", "1.0"].map(|r| format!("previews/metal-{metal}-roughness-{r}.png")));
    }
    expected.push("sheet.png".into());
    assert_eq!(names(&dir), expected);
    let pictures: Vec<_> =
        expected[..4].iter().map(|name| png(&dir.path("out").join(name))).collect();
    for (i, one) in pictures.iter().enumerate() {
        assert_eq!(one.0, (64, 64));
        assert!(pictures[..i].iter().all(|other| other.1 != one.1), "each has its own material");
    }
    assert_eq!(png(&dir.path("out/sheet.png")).0, (5 * 64, 2 * 64));
}

#[test]
fn pipeline_goes_on_without_the_item_that_fails() {
    let dir = TestDir::new();
    let said = run(&dir, "pipeline", &[]);
    assert_eq!(
        names(&dir),
        ["batches/01-04.txt", "batches/05-08.txt", "batches/09-10.txt", "report.txt"]
    );
    let report = std::fs::read_to_string(dir.path("out/report.txt")).unwrap();
    assert!(report.starts_with("9 items in 3 batches\ntotal "), "{report}");
    said.expect(0, &["1 failed", "measure[item=7]: ", "division by zero"]);
}

/// The turntable's previews and video, in a small form: the inputs of the upscaling examples.
fn turntable(dir: &TestDir) {
    let set = ["render.frames=1-6", "render.resolution=96x54", "render.samples=1"];
    run(dir, "turntable", &set).expect(0, &["succeeded"]);
    std::fs::rename(dir.path("out"), dir.path("turntable")).unwrap();
}

/// Runs an upscaling example on a file of the turntable, with the real weights.
fn upscale(dir: &TestDir, name: &str, input: &str, set: &[&str]) -> Said {
    let path = workflows()[name].display().to_string();
    let input = format!("upscale.input={}", dir.path("turntable").join(input).display());
    let mut arguments = vec!["run", &path, "--out", "out", "--overwrite", "--set", &input];
    arguments.extend(set.iter().flat_map(|pair| ["--set", pair]));
    let mut command = dir.command(&arguments);
    let said = Running::start(command.env("PICTOR_MODELS", models())).finish();
    said.expect(0, &["succeeded"]);
    said
}

#[test]
fn upscale_image_makes_a_larger_picture_whose_tiles_do_not_show() {
    let dir = TestDir::new();
    turntable(&dir);
    let picture = "previews/0001.png";
    let said = upscale(&dir, "upscale-image", picture, &["upscale.tile=64"]);
    dir.ok(&["tasks", &said.run_id(), "--step", "upscale"]).expect(0, &["upscale.tile=1]"]);
    let tiled = png(&dir.path("out/0001.png"));
    assert_eq!(tiled.0, (4 * 96, 4 * 54));
    upscale(&dir, "upscale-image", picture, &[]);
    let whole = png(&dir.path("out/0001.png"));
    assert_eq!(tiled, whole);
}

#[test]
fn upscale_video_keeps_every_frame() {
    let dir = TestDir::new();
    turntable(&dir);
    upscale(&dir, "upscale-video", "turntable.mp4", &[]);
    assert_eq!(names(&dir), ["turntable-x2.mp4"]);
    assert_eq!(video(&dir.path("out/turntable-x2.mp4")), (192, 108, 6));
}
