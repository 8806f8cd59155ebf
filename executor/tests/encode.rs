//! `encode` steps with the real ffmpeg.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod farm;

use farm::{Farm, brief};
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
fn pictures(farm: &Farm) -> Vec<Input> {
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
    let mut farm = Farm::start();
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

#[tokio::test]
async fn broken_and_missing_pictures_are_named() {
    let mut farm = Farm::start();
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

    // Whole from the outside, broken inside.
    let mut broken = bytes.clone();
    let middle = broken.len() / 2;
    broken[middle..middle + 40].fill(0);
    std::fs::write(&path, &broken).unwrap();
    farm.inputs = with(&farm.input(3, "frame=3", "image", &path));
    let failure = farm.failure(encode("a.mp4", None)).await;
    assert!(failure.message.starts_with("`ffmpeg` exited with code"), "{failure:?}");
}
