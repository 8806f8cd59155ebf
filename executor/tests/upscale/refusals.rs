//! Pictures that cannot be upscaled are reported with a reason, and affect nothing else.

use crate::farm::TestFarm;
use crate::job::{Job, axis, brief, farm, input, task};
use crate::pictures::picture;
use image::ExtendedColorType;
use pictor_tasks::body::{Body, ImageFormat, OnError, Probe, Stitch, Tiling, Upscale};
use pictor_tasks::message::{Bound, Failure, FailureKind, Input, Outcome, Products, What};
use pictor_tasks::space::Values;
use std::path::Path;

#[tokio::test]
async fn an_unknown_model_is_another_workers_task() {
    let mut farm = farm();
    let source = picture(&farm, "a.png", (40, 30), ExtendedColorType::Rgb8);
    let job = Job { model: "realesr-animevideo-x2".into(), ..Job::default() };
    let failure = job.tile(&mut farm, &source, (0, 1)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unsupported);
    assert!(failure.message.contains("did you mean `realesr-animevideov3-x2`?"), "{failure:?}");

    let mut bare = TestFarm::start();
    let failure = Job::default().tile(&mut bare, &source, (0, 1)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unsupported);
    assert!(failure.message.contains("`pictor models pull`"), "{failure:?}");
}

/// A folder with the same models, except for files whose names end with `end`.
fn models_without(end: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(crate::weights::folder().path()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.ends_with(end) {
            std::os::unix::fs::symlink(&path, folder.path().join(name)).unwrap();
        }
    }
    folder
}

#[tokio::test]
async fn a_model_without_its_runtime_says_how_to_get_one() {
    let folder = models_without(".so");
    let mut farm = TestFarm::start_with(|config| config.models = folder.path().to_owned());
    let source = picture(&farm, "a.png", (40, 30), ExtendedColorType::Rgb8);
    let failure = Job::default().tile(&mut farm, &source, (0, 1)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unsupported);
    assert!(failure.message.contains("ORT_DYLIB_PATH"), "{failure:?}");
}

#[tokio::test]
async fn weights_that_are_cut_short_are_another_workers_task() {
    let whole = crate::weights::folder();
    let manifest = whole.find("realesr-animevideov3-x2").unwrap();
    let file = format!("{}.onnx", manifest.digest);
    let folder = models_without(&file);
    let bytes = std::fs::read(whole.path().join(&file)).unwrap();
    std::fs::write(folder.path().join(&file), &bytes[..bytes.len() / 2]).unwrap();
    let mut farm = TestFarm::start_with(|config| config.models = folder.path().to_owned());
    let source = picture(&farm, "a.png", (40, 30), ExtendedColorType::Rgb8);
    let failure = Job::default().tile(&mut farm, &source, (0, 1)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unsupported);
    for part in [file.as_str(), "is damaged", "remove it and fetch or add the model again"] {
        assert!(failure.message.contains(part), "{part}: {failure:?}");
    }
}

/// Frames 3, 5 and 9, of different sizes; 5 is truncated.
fn sequence(farm: &TestFarm) -> String {
    let folder = farm.folder.path().join("frames");
    std::fs::create_dir(&folder).unwrap();
    for (number, size) in [(3, (70, 40)), (5, (50, 90)), (9, (30, 30))] {
        let path = picture(farm, "frame.png", size, ExtendedColorType::Rgb8);
        std::fs::rename(path, folder.join(format!("shot_{number:04}.png"))).unwrap();
    }
    let bad = folder.join("shot_0005.png");
    let bytes = std::fs::read(&bad).unwrap();
    std::fs::write(&bad, &bytes[..bytes.len() / 2]).unwrap();
    folder.join("shot_*.png").display().to_string()
}

/// Upscales one frame of the sequence, tile by tile; returns the result of `stitch`.
async fn frame(
    farm: &mut TestFarm,
    (source, info, on_error): (&str, &Input, OnError),
    (position, tiles): (u32, u32),
) -> Result<Products, Failure> {
    let tiling = || Tiling { pixels: 40, dim: "tile".into() };
    let axes = |tiles: Option<u32>| {
        let frames = axis("frame", Values::Ints("3,5,9".parse().unwrap()));
        [frames].into_iter().chain(tiles.map(|n| axis("tile", Values::count(n)))).collect()
    };
    let upscale = Upscale {
        source: Some(source.into()),
        frame: Some("frame".into()),
        model: "realesr-animevideov3-x2".into(),
        scale: None,
        tiles: Some(tiling()),
        overlap: None,
        on_error,
    };
    let mut inputs = vec![info.clone()];
    for tile in 0..tiles {
        let body = Body::Upscale(upscale.clone());
        let brief = brief("upscale", body, Some(Path::new(source)), axes(Some(6)));
        let index = position * 6 + tile;
        let products = task(farm, brief, index, vec![info.clone()]).await?;
        let made = products.outputs.first();
        inputs.extend(made.map(|o| input("upscale", format!("frame=1,tile={tile}"), index, o)));
    }
    let stitch = Stitch {
        source: Some(source.into()),
        frame: Some("frame".into()),
        scale: None,
        tiles: tiling(),
        format: ImageFormat::Png,
        quality: None,
        on_error,
    };
    let brief = brief("stitch", Body::Stitch(stitch), Some(Path::new(source)), axes(None));
    task(farm, brief, position, inputs).await
}

#[tokio::test]
async fn a_broken_picture_fails_alone_and_as_asked() {
    let mut farm = farm();
    let source = sequence(&farm);
    let probe = Probe {
        source: source.clone(),
        frame: Some("frame".into()),
        frames: None,
        tiles: Some(Tiling { pixels: 40, dim: "tile".into() }),
        rehearse: None,
    };
    let mut brief = brief("probe", Body::Probe(probe), Some(Path::new(&source)), Vec::new());
    brief.binds = vec!["frame".into(), "tile".into()];
    let products = task(&mut farm, brief, 0, Vec::new()).await.unwrap();
    let Bound::Values(frames) = &products.bindings[0].values else { panic!("values") };
    assert_eq!(frames.len(), 3);
    assert_eq!(frames.position_of("9"), Some(2));
    // The header of the damaged one is intact.
    assert_eq!(products.bindings[1].values, Bound::Counts([2, 6, 1].into()));
    let info = input("probe", String::new(), 0, &products.outputs[0]);

    for on_error in [OnError::Fail, OnError::Copy, OnError::Skip] {
        for (position, tiles, size) in [(0, 2, (140, 80)), (2, 1, (60, 60))] {
            let what = (source.as_str(), &info, on_error);
            let products = frame(&mut farm, what, (position, tiles)).await.unwrap();
            let made = image::image_dimensions(farm.artifact(&products.outputs[0])).unwrap();
            assert_eq!(made, size, "{on_error:?}");
        }
        let ended = frame(&mut farm, (&source, &info, on_error), (1, 6)).await;
        match on_error {
            OnError::Fail => {
                let failure = ended.unwrap_err();
                assert_eq!(failure.kind, FailureKind::Invalid);
                let expected = "shot_0005.png is cut short: it ends before all of its pixels.";
                assert_eq!(failure.message, expected);
            }
            OnError::Copy => {
                let products = ended.unwrap();
                let made = image::open(farm.artifact(&products.outputs[0])).unwrap().to_rgb8();
                assert_eq!(made.dimensions(), (100, 180));
                assert!(products.notes[0].contains("of its 90 rows"), "{:?}", products.notes);
                assert!(made.rows().next().unwrap().any(|pixel| pixel.0 != [0; 3]));
            }
            OnError::Skip => {
                let products = ended.unwrap();
                assert_eq!(products.outputs, []);
                assert!(products.notes[0].starts_with("left out: "), "{:?}", products.notes);
            }
        }
    }
}

#[tokio::test]
async fn animated_and_printers_pictures_are_refused() {
    let mut farm = farm();
    let folder = farm.folder.path().to_owned();
    let ffmpeg = |arguments: &[&str]| {
        let source = ["-v", "error", "-f", "lavfi", "-i", "testsrc=size=32x24:duration=1:rate=3"];
        let made = std::process::Command::new("ffmpeg")
            .args(source)
            .args(arguments)
            .current_dir(&folder)
            .status();
        assert!(made.unwrap().success());
    };
    ffmpeg(&["-f", "apng", "a.png"]);
    ffmpeg(&["-c:v", "libwebp_anim", "a.webp"]);
    for name in ["a.png", "a.webp"] {
        let failure = Job::default().tile(&mut farm, &folder.join(name), (0, 1)).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Invalid);
        assert!(failure.message.contains("is animated"), "{failure:?}");
    }
}

/// A task that is told to stop ends at once, even while its network is running.
#[tokio::test]
async fn a_cancelled_tile_ends_quickly() {
    let mut farm = farm();
    let source = picture(&farm, "a.png", (1500, 1500), ExtendedColorType::Rgb8);
    let job = Job { pixels: 2048, model: "realesrgan-x4plus-anime".into(), ..Job::default() };
    let brief = job.tile_brief(&source, 1);
    farm.inputs = Some(Vec::new());
    farm.assign(brief, [0]);
    loop {
        match farm.report().await {
            What::Claimed(_) => break,
            What::Ended(ends) => panic!("it should take long: {ends:?}"),
            What::Progress { .. } | What::Released(_) => {}
        }
    }
    #[expect(clippy::disallowed_methods, reason = "it measures real time")]
    let started = std::time::Instant::now();
    farm.cancel([0]);
    assert_eq!(farm.ended().await.remove(0).outcome, Outcome::Cancelled);
    assert!(started.elapsed().as_secs_f32() < 2.0, "{:?}", started.elapsed());
}
