//! `encode` steps with the real ffmpeg.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod farm;

use farm::{TestFarm, brief};
use pictor_tasks::body::{Body, Codec, Encode};
use pictor_tasks::message::{FailureKind, Input};
use std::process::Command;

const FRAMES: u32 = 5;

fn encode(file: &str, codec: Option<Codec>) -> pictor_tasks::message::Brief {
    let body = Encode {
        file: file.into(),
        fps: Some(23.976),
        codec,
        quality: None,
        source: None,
        keep_audio: None,
        allow_gaps: false,
    };
    let mut brief = brief(Body::Encode(body), 1);
    brief.has_inputs = true;
    brief
}

/// Pictures of 65 x 47 pixels, half of them transparent.
fn pictures(farm: &TestFarm) -> Vec<Input> {
    let source = format!("testsrc=size=65x47:rate=5:duration={},format=rgba", FRAMES / 5);
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", &source, "-start_number", "0", "%d.png"])
        .current_dir(farm.folder.path())
        .status()
        .unwrap();
    assert!(made.success());
    let mut inputs = Vec::new();
    for index in 0..FRAMES {
        let path = farm.folder.path().join(format!("{index}.png"));
        inputs.push(farm.input(index, &format!("frame={index}"), "image", &path));
    }
    inputs.reverse();
    inputs
}

fn probe(path: &std::path::Path) -> String {
    let entries = "stream=codec_name,width,height,pix_fmt,color_space,r_frame_rate,nb_read_frames";
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-of", "csv=p=0", "-show_entries", entries])
        .arg(path)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn pictures_become_a_video_with_even_sizes() {
    let mut farm = TestFarm::start();
    farm.inputs = Some(pictures(&farm));
    for (file, codec, expected) in [
        ("out/a.mp4", None, "h264,66,48,yuv420p,bt709,24000/1001,5"),
        ("a.mkv", None, "h264,66,48,yuv420p,bt709,24000/1001,5"),
        ("a.mov", None, "prores,66,48,yuv422p10le,bt709,24000/1001,5"),
        ("a.mov", Some(Codec::H264), "h264,66,48,yuv420p,bt709,24000/1001,5"),
    ] {
        let products = farm.products(encode(file, codec)).await;
        assert_eq!(products.outputs[0].name, "video");
        assert_eq!(probe(&farm.artifact(&products.outputs[0])), expected, "{file}");
    }
}

/// The inspection that `inspect` would have stored for a scene.
fn inspection(farm: &TestFarm, fps: u32, base: f32) -> Input {
    let path = farm.folder.path().join("scene.json");
    let text = format!("{{\"fps\": {fps}, \"fps_base\": {}, \"width\": 65}}", f64::from(base));
    std::fs::write(&path, text).unwrap();
    farm.input(fps, "", "scene", &path)
}

#[tokio::test]
async fn a_video_without_a_rate_has_exactly_that_of_the_inspected_scene() {
    let mut farm = TestFarm::start();
    let pictures = pictures(&farm);
    let mut brief = encode("a.mp4", None);
    let Body::Encode(body) = &mut brief.body else { unreachable!() };
    body.fps = None;
    for (fps, base, expected) in [(30, 1.001, "30000/1001"), (24, 1.0, "24/1"), (25, 2.0, "25/2")] {
        farm.inputs = Some([&pictures[..], &[inspection(&farm, fps, base)]].concat());
        let products = farm.products(brief.clone()).await;
        let said = probe(&farm.artifact(&products.outputs[0]));
        assert_eq!(said, format!("h264,66,48,yuv420p,bt709,{expected},5"));
        assert_eq!(products.notes, [] as [&str; 0]);
    }
    let two = [inspection(&farm, 24, 1.0), inspection(&farm, 25, 1.0)];
    farm.inputs = Some([&pictures[..], &two].concat());
    let failure = farm.failure(brief.clone()).await;
    assert!(failure.message.contains("different frame rates, 24 and 25"), "{failure:?}");
    farm.inputs = Some([&pictures[..], &[inspection(&farm, 24, 0.001)]].concat());
    let failure = farm.failure(brief.clone()).await;
    assert!(failure.message.contains("at most 1000"), "{failure:?}");
    // Without an inspection, a note says which rate was used.
    farm.inputs = Some(pictures);
    let products = farm.products(brief).await;
    assert!(probe(&farm.artifact(&products.outputs[0])).contains(",24/1,"));
    assert!(products.notes[0].contains("24 frames a second"), "{:?}", products.notes);
}

#[tokio::test]
async fn broken_and_missing_pictures_are_named() {
    let mut farm = TestFarm::start();
    let whole = pictures(&farm);
    farm.inputs = Some(whole.iter().filter(|input| input.index != 2).cloned().collect());
    let failure = farm.failure(encode("a.mp4", None)).await;
    assert_eq!(failure.kind, FailureKind::Invalid);
    assert!(failure.message.contains("between before[frame=1] and before[frame=3]"), "{failure:?}");

    let path = farm.folder.path().join("3.png");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let truncated = farm.input(3, "frame=3", "image", &path);
    let with = |input: &Input| {
        let others = whole.iter().filter(|other| other.index != input.index);
        Some(others.chain([input]).cloned().collect::<Vec<_>>())
    };
    farm.inputs = with(&truncated);
    let failure = farm.failure(encode("a.mp4", None)).await;
    assert_eq!(failure.kind, FailureKind::BadOutput);
    assert!(failure.message.contains("before[frame=3] is truncated"), "{failure:?}");

    // Complete from the outside, damaged inside.
    let mut broken = bytes.clone();
    let middle = broken.len() / 2;
    broken[middle..middle + 40].fill(0);
    std::fs::write(&path, &broken).unwrap();
    farm.inputs = with(&farm.input(3, "frame=3", "image", &path));
    let failure = farm.failure(encode("a.mp4", None)).await;
    assert!(failure.message.starts_with("`ffmpeg` exited with code"), "{failure:?}");
}
