//! Tasks with a real Blender.

use super::scenes::{Bench, Work, assert_same_pixels, scene, scenes};
use super::{Sessions, keep_bytecode};
use crate::ground::progress::StopReason;
use pictor_pictures::exr_image::ExrImage;
use pictor_tasks::body::{Body, Develop, PictureFormat, Render, Scene, Tiles};
use pictor_tasks::message::{Bound, FailureKind, FileRef, Input};
use pictor_tasks::space::{Coordinates, Values};
use pictor_tasks::units::Grid;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[tokio::test]
async fn merged_tiles_are_bit_for_bit_the_frame_that_plain_blender_renders() {
    let (bench, mut sessions) = (Bench::new(), Sessions::default());
    let all = Scene { all_passes: true, ..scene("passes.blend") };
    let unbordered = Scene { border: Some(false), ..scene("bordered.blend") };
    for (scene, columns, rows, plain) in [
        (scene("plain.blend"), 2, 2, "plain.OPEN_EXR"),
        (scene("plain.blend"), 3, 5, "plain.OPEN_EXR"),
        (scene("adaptive.blend"), 2, 2, "adaptive.OPEN_EXR"),
        (all, 2, 2, "passes.OPEN_EXR_MULTILAYER"),
        (unbordered, 2, 2, "plain.OPEN_EXR"),
    ] {
        let (before, grid) = (sessions.ids(), Grid { columns, rows });
        let merged = bench.merged(&mut sessions, &scene, grid).await;
        let what = format!("{} in {grid}", scene.scene);
        assert_same_pixels(&bench.path(&merged), plain, &what);
        assert!(sessions.ids().len() <= 2, "{what}");
        // The second grid of a scene is rendered by the same session as the first.
        assert!(columns == 2 || sessions.ids() == before, "{what}");
    }
}

#[tokio::test]
async fn a_finished_and_developed_frame_is_the_picture_that_plain_blender_makes() {
    let (bench, mut sessions) = (Bench::new(), Sessions::default());
    let scene = scene("composited.blend");
    let merged = bench.merged(&mut sessions, &scene, Grid { columns: 2, rows: 1 }).await;
    assert_same_pixels(&bench.path(&merged), "composited.OPEN_EXR_MULTILAYER", "raw");
    let coordinates = Coordinates::of_label("frame=5");
    let merged_frame = Input {
        step: "merge".into(),
        label: "frame=5".into(),
        index: 0,
        coordinates,
        output: merged.clone(),
    };
    let one = |output| vec![Input { output, ..merged_frame.clone() }];
    let finish = Body::Finish(scene.clone());
    let work = bench.work(finish.clone(), &[("frame", "5")], 0, one(merged));
    let finished = work.on(&mut sessions).await.unwrap().outputs.remove(0);
    assert_same_pixels(&bench.path(&finished), "composited.OPEN_EXR", "finished");
    let off = Body::Finish(Scene { compositor: Some(false), ..scene.clone() });
    let work = bench.work(off, &[("frame", "5")], 0, one(finished.clone()));
    let same = work.on(&mut sessions).await.unwrap().outputs.remove(0);
    assert_eq!(same, finished, "nothing to do");
    for format in [PictureFormat::Png, PictureFormat::Jpeg, PictureFormat::Tiff] {
        let develop = Body::Develop(Develop { scene: scene.clone(), format });
        let work = bench.work(develop, &[("frame", "5")], 0, one(finished.clone()));
        let picture = work.on(&mut sessions).await.unwrap().outputs.remove(0);
        assert!(picture.key.ends_with(format.extension()), "{}", picture.key);
        if format == PictureFormat::Png {
            let plain = pixels(&scenes().join("composited.PNG"));
            assert_eq!(pixels(&bench.path(&picture)), plain);
        }
    }
    assert_eq!(sessions.ids().len(), 1);
}

/// The colours of a PNG, without alpha.
fn pixels(path: &Path) -> Vec<[u8; 3]> {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    let samples = info.color_type.samples();
    bytes.chunks(samples).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
}

/// Scenes and settings that cannot be rendered, with a part of the reason.
fn refusals() -> Vec<(Scene, FailureKind, &'static str)> {
    use FailureKind::Invalid;
    let plain = || scene("plain.blend");
    let camera = Some("Nobody".into());
    let (layer, engine) = (Some("fog".into()), Some("luxor".into()));
    let set = [("objects[\"Cube\"].nose".to_owned(), json!(1))].into();
    let frame = Some("{scratch}".into());
    let freestyle = [("scenes[\"Scene\"].render.use_freestyle".to_owned(), json!(true))].into();
    vec![
        (scene("none.blend"), Invalid, "There is no scene file at"),
        (scene("text.blend"), Invalid, "is not a .blend file"),
        (scene("blind.blend"), Invalid, "no active camera"),
        (scene("texture.blend"), Invalid, "image 'wood' ("),
        (scene("freestyle.blend"), Invalid, "Freestyle script 'style.py' of view layer"),
        (Scene { set: freestyle, ..scene("freestyle_off.blend") }, Invalid, "Freestyle script"),
        (scene("linked.blend"), Invalid, "library.blend"),
        (Scene { camera, ..plain() }, Invalid, "it has Camera"),
        (Scene { view_layer: layer, ..plain() }, Invalid, "no view layer 'fog'"),
        (Scene { engine, ..plain() }, Invalid, "no render engine 'luxor'"),
        (Scene { set, ..plain() }, Invalid, "nose"),
        (Scene { frame, ..plain() }, Invalid, "is not a frame"),
    ]
}

#[tokio::test]
async fn what_blenders_python_compiles_is_kept_for_the_next_blender() {
    let cache = tempfile::tempdir().unwrap();
    let mut blender = tokio::process::Command::new("blender");
    let say = "import sys; print('@', sys.flags.ignore_environment, sys.pycache_prefix)";
    blender.args(["-b", "--factory-startup", "--python-expr", say]);
    blender.env("PYTHONDONTWRITEBYTECODE", "1");
    keep_bytecode(&mut blender, Some(cache.path()));
    let said = blender.output().await.unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let said = said.lines().find_map(|line| line.strip_prefix("@ ")).unwrap();
    let kept = below(&cache.path().join("python"), "startup/bl_ui/__init__.");
    let (ignores, folder) = said.split_once(' ').unwrap();
    if ignores == "1" {
        assert_eq!((folder, kept.len()), ("None", 0));
        return;
    }
    assert!(Path::new(folder).starts_with(cache.path().join("python")), "{folder}");
    assert_eq!(kept.len(), 1, "{kept:?}");
    // pictor's own files are removed with the worker's data.
    let mut bench = Bench::new();
    Arc::get_mut(&mut bench.config).unwrap().cache = Some(cache.path().to_owned());
    let work = bench.work(Body::Inspect(scene("plain.blend")), &[], 0, Vec::new());
    work.on(&mut Sessions::default()).await.unwrap();
    assert_eq!(below(cache.path(), "driver-"), [] as [PathBuf; 0]);
    assert_eq!(below(&bench.folder().join("blender"), "scene.cpython").len(), 1);
}

/// The files below a folder whose relative path contains `part`.
fn below(folder: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.append(&mut below(&path, part)),
            false if path.to_str().unwrap().contains(part) => found.push(path),
            false => {}
        }
    }
    found
}

#[tokio::test]
async fn what_cannot_be_rendered_says_why() {
    let (bench, mut sessions) = (Bench::new(), Sessions::default());
    for (scene, kind, reason) in refusals() {
        let what = format!("{} {reason}", scene.scene);
        let work = bench.work(Body::Blender(Render { scene, tiles: None }), &[], 0, Vec::new());
        let failure = work.on(&mut sessions).await.unwrap_err();
        assert!(failure.message.contains(reason), "{what}: {failure:?}");
        assert_eq!(failure.kind, kind, "{what}");
    }
}

#[tokio::test]
async fn sessions_share_a_part_of_the_memory() {
    let (mut bench, mut sessions) = (Bench::new(), Sessions::default());
    let inspect = |name| Body::Inspect(scene(name));
    for name in ["plain.blend", "adaptive.blend", "plain.blend"] {
        bench.work(inspect(name), &[], 0, Vec::new()).on(&mut sessions).await.unwrap();
    }
    let [adaptive, plain] = sessions.ids()[..] else { unreachable!("two fit") };
    let mut config = (*bench.config).clone();
    config.inventory.memory_bytes = 64 << 20;
    bench.config = Arc::new(config);
    bench.work(inspect("plain.blend"), &[], 0, Vec::new()).on(&mut sessions).await.unwrap();
    assert_eq!(sessions.ids(), [plain]);
    until_ended(adaptive).await;
}

#[tokio::test]
async fn missing_files_can_be_allowed_and_a_tile_must_be_in_the_frame() {
    let (bench, mut sessions) = (Bench::new(), Sessions::default());
    let missing = Scene { allow_missing: true, ..scene("texture.blend") };
    let body = Body::Blender(Render { scene: missing, tiles: None });
    let products = bench.work(body, &[], 0, Vec::new()).on(&mut sessions).await.unwrap();
    assert!(products.notes[0].contains("image `wood`"), "{:?}", products.notes);
    let tiles = Some(Tiles { grid: Grid { columns: 200, rows: 1 }, dim: "tile".into() });
    let body = Body::Blender(Render { scene: scene("plain.blend"), tiles });
    let failure =
        bench.work(body, &[("tile", "7")], 0, Vec::new()).on(&mut sessions).await.unwrap_err();
    assert!(failure.message.contains("160x90 pixels cut into 200x1"), "{failure:?}");
}

#[tokio::test]
async fn scripts_that_are_allowed_run_in_the_sandbox() {
    let (bench, mut sessions) = (Bench::new(), Sessions::default());
    let allowed = Scene { allow_scripts: true, ..scene("freestyle.blend") };
    let work =
        bench.work(Body::Blender(Render { scene: allowed, tiles: None }), &[], 0, Vec::new());
    work.on(&mut sessions).await.unwrap();
    let log = std::fs::read_to_string(work.ctx.scratch.join("log")).unwrap();
    assert!(log.contains("the style runs"), "{log}");
    assert!(!scenes().join("ran").exists(), "it may only read where the scene is");
}

#[tokio::test]
async fn inspection_finds_the_frames_and_scripts_of_a_scene_do_not_run() {
    let (bench, mut sessions) = (Bench::new(), Sessions::default());
    let work = bench.work(Body::Inspect(scene("script.blend")), &[], 0, Vec::new());
    let products = work.on(&mut sessions).await.unwrap();
    let [output] = &products.outputs[..] else { panic!("{:?}", products.outputs) };
    assert_eq!(output.name, "scene");
    let found = std::fs::read(bench.path(output)).unwrap();
    let found: serde_json::Value = serde_json::from_slice(&found).unwrap();
    let told = |name: &str| found[name].as_i64().unwrap();
    assert_eq!((told("frame_start"), told("frame_step"), told("fps")), (2, 3, 24), "{found}");
    assert_eq!(found["fps_base"].as_f64(), Some(1.0));
    assert_eq!(products.bindings[0].dim, "frame");
    let frames = Values::Ints("2,5,8".parse().unwrap());
    assert_eq!(products.bindings[0].values, Bound::Values(frames));
    assert!(products.notes[0].contains("run.py"), "{:?}", products.notes);
    assert!(!scenes().join("ran").exists());
    let later = [("scenes[\"Scene\"].frame_start".to_owned(), json!(8))].into();
    let later = Body::Inspect(Scene { set: later, ..scene("script.blend") });
    let products = bench.work(later, &[], 0, Vec::new()).on(&mut sessions).await.unwrap();
    assert_eq!(products.bindings[0].values, Bound::Values(Values::Ints("8".parse().unwrap())));
}

#[tokio::test]
async fn the_frame_the_size_and_properties_follow_the_job() {
    let (bench, mut sessions) = (Bench::new(), Sessions::default());
    let render = async |sessions: &mut Sessions, scene: Scene, dims: &[(&str, &str)], index| {
        let body = Body::Blender(Render { scene, tiles: None });
        let products = bench.work(body, dims, index, Vec::new()).on(sessions).await.unwrap();
        ExrImage::read(&bench.path(&products.outputs[0])).unwrap()
    };
    let plain = || Scene { resolution: Some("32x18".parse().unwrap()), ..scene("plain.blend") };
    let by_dimension = render(&mut sessions, plain(), &[("shot.frame", "4-6")], 1).await;
    let by_default = render(&mut sessions, plain(), &[], 0).await;
    let by_template = Scene { frame: Some("{n}".into()), ..plain() };
    let by_template = render(&mut sessions, by_template, &[("n", "5")], 0).await;
    let other = render(&mut sessions, plain(), &[("frame", "4-6")], 2).await;
    assert_eq!(by_dimension.size(), "32x18".parse().unwrap());
    assert_eq!(by_dimension.pixel_digest(), by_default.pixel_digest(), "saved at frame 5");
    assert_eq!(by_dimension.pixel_digest(), by_template.pixel_digest());
    assert_ne!(by_dimension.pixel_digest(), other.pixel_digest());
    let set = [
        ("objects[\"Cube\"].location".to_owned(), json!(["{x}", 0, 9])),
        ("scenes[\"Scene\"].cycles.samples".to_owned(), json!("{x}")),
    ];
    let moved = Scene { set: set.into(), ..plain() };
    let moved = render(&mut sessions, moved, &[("x", "2")], 0).await;
    assert_ne!(moved.pixel_digest(), by_default.pixel_digest());
    let again = render(&mut sessions, plain(), &[], 0).await;
    assert_eq!(
        again.pixel_digest(),
        by_default.pixel_digest(),
        "a task changes nothing for the next"
    );
    assert_eq!(sessions.ids().len(), 1);
}

/// A render that would take hours.
fn endless() -> Body {
    let scene = Scene { samples: Some(1_000_000), ..scene("plain.blend") };
    Body::Blender(Render { scene, tiles: None })
}

async fn until_samples(work: &Work) {
    let mut progress = work.progress.clone();
    let rendering = |now: &Option<(f32, String)>| {
        now.as_ref().is_some_and(|(_, message)| message.starts_with("sample "))
    };
    progress.wait_for(rendering).await.unwrap();
}

async fn until_ended(process: u32) {
    while is_alive(process) {
        tokio::task::yield_now().await;
    }
}

fn is_alive(process: u32) -> bool {
    let id = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    test_kill_process(id).is_ok() && !stat.contains(") Z ")
}

#[tokio::test]
async fn a_blender_that_is_killed_costs_one_attempt() {
    let (bench, mut sessions) = (Bench::new(), Sessions::default());
    let quick = || Body::Blender(Render { scene: scene("plain.blend"), tiles: None });
    bench.work(quick(), &[], 0, Vec::new()).on(&mut sessions).await.unwrap();
    let first = sessions.ids()[0];
    let work = bench.work(endless(), &[], 0, Vec::new());
    let kill = async {
        until_samples(&work).await;
        let id = Pid::from_raw(i32::try_from(first).unwrap()).unwrap();
        kill_process(id, Signal::KILL).unwrap();
    };
    let (result, ()) = tokio::join!(work.on(&mut sessions), kill);
    let failure = result.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Failed);
    assert!(failure.message.contains("killed by signal 9"), "{failure:?}");
    assert!(failure.message.contains("while working on render"), "{failure:?}");
    bench.work(quick(), &[], 0, Vec::new()).on(&mut sessions).await.unwrap();
    let second = sessions.ids()[0];
    assert_ne!(first, second);
}

#[tokio::test]
async fn a_stopped_or_dropped_render_ends_its_blender() {
    let (bench, mut sessions) = (Bench::new(), Sessions::default());
    let quick = || Body::Blender(Render { scene: scene("plain.blend"), tiles: None });
    bench.work(quick(), &[], 0, Vec::new()).on(&mut sessions).await.unwrap();
    let second = sessions.ids()[0];
    let work = bench.work(endless(), &[], 0, Vec::new());
    let stop = async {
        until_samples(&work).await;
        work.stopper.stop(StopReason::Cancelled);
    };
    let (result, ()) = tokio::join!(work.on(&mut sessions), stop);
    result.unwrap_err();
    assert!(!is_alive(second));

    bench.work(quick(), &[], 0, Vec::new()).on(&mut sessions).await.unwrap();
    let third = sessions.ids()[0];
    let work = bench.work(endless(), &[], 0, Vec::new());
    tokio::select! {
        _ = work.on(&mut sessions) => unreachable!("it takes hours"),
        () = until_samples(&work) => {}
    }
    // Dropped halfway: the next task must not get the reply that was meant for this one.
    bench.work(quick(), &[], 0, Vec::new()).on(&mut sessions).await.unwrap();
    assert_ne!(sessions.ids(), [third]);
    let last = sessions.ids()[0];
    drop(sessions);
    until_ended(last).await;
}

#[tokio::test]
async fn a_scene_that_changed_since_it_was_submitted_is_refused() {
    let (bench, mut sessions) = (Bench::new(), Sessions::default());
    let body = Body::Blender(Render { scene: scene("plain.blend"), tiles: None });
    let mut work = bench.work(body, &[], 0, Vec::new());
    let mut brief = (*work.ctx.brief).clone();
    brief.files.get_mut("plain.blend").unwrap().digest = "0".repeat(64);
    work.ctx.brief = Arc::new(brief);
    let failure = work.on(&mut sessions).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Invalid);
    assert!(failure.message.ends_with("changed since the run was submitted; submit it again."));
}

#[tokio::test]
async fn a_worker_without_blender_says_how_to_get_it() {
    let (mut bench, mut sessions) = (Bench::new(), Sessions::default());
    let mut config = (*bench.config).clone();
    config.inventory.blenders.clear();
    bench.config = Arc::new(config);
    let work = bench.work(Body::Inspect(scene("plain.blend")), &[], 0, Vec::new());
    let failure = work.on(&mut sessions).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unsupported);
    assert!(failure.message.contains("not on this worker"), "{failure:?}");
}

#[tokio::test]
async fn a_scene_of_a_newer_blender_is_not_handed_to_an_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.blend");
    // Compressed, as artists' scenes are: an older Blender crashes on data that it does not know.
    let bytes = ruzstd::encoding::compress_to_vec(
        &b"BLENDER17-01v0500and so on"[..],
        ruzstd::encoding::CompressionLevel::Fastest,
    );
    std::fs::write(&path, &bytes).unwrap();
    let (bench, mut sessions) = (Bench::new(), Sessions::default());
    let file = FileRef {
        path: path.to_str().unwrap().into(),
        digest: blake3::hash(&bytes).to_hex().to_string(),
        size_bytes: 0,
    };
    let work = bench.work_with(Body::Inspect(scene("new.blend")), &[], file);
    let failure = work.on(&mut sessions).await.unwrap_err();
    assert_eq!((failure.kind, sessions.ids().len()), (FailureKind::Unsupported, 0));
    for part in
        ["new.blend was saved by Blender 5.0", "this worker has 3.4", "pictor setup-blender"]
    {
        assert!(failure.message.contains(part), "{failure:?}");
    }
}
