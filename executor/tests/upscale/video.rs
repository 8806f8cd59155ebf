//! A video with sound and an irregular frame rate: taken apart and put together again.

use crate::farm::TestFarm;
use crate::films;
use crate::job::{axis, brief, farm, input, task};
use pictor_tasks::body::{Body, Encode, Extract, Probe};
use pictor_tasks::message::{Bound, Input, Output, Products};
use pictor_tasks::space::Values;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

pub(crate) fn run(folder: &Path, program: &str, arguments: &str) -> String {
    let output =
        Command::new(program).args(arguments.split(' ')).current_dir(folder).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Four seconds in which all frames differ, at intervals of 20 to 120 ms. Sound, a subtitle, a title; B-frames, and a
/// key frame about every second.
fn clip(folder: &Path, name: &str) -> PathBuf {
    std::fs::write(folder.join("words.srt"), "1\n00:00:01,000 --> 00:00:02,000\nWords\n").unwrap();
    let times = "select='not(eq(mod(n\\,7)\\,3)+eq(mod(n\\,11)\\,5)+eq(mod(n\\,11)\\,6))'";
    let picture = format!("-f lavfi -i testsrc2=size=96x64:rate=50:duration=4,{times}");
    let sound = "-f lavfi -i sine=frequency=440:duration=4";
    let subtitle = if name.ends_with("mkv") { "srt" } else { "mov_text" };
    let coded = "-fps_mode vfr -c:v libx264 -g 30 -bf 3 -qp 0 -pix_fmt yuv444p -c:a aac";
    let maps = "-map 0:v -map 1:a -map 2:s -metadata title=Test";
    run(
        folder,
        "ffmpeg",
        &format!(
            "-v error -y {picture} {sound} -i words.srt {maps} {coded} -c:s {subtitle} {name}"
        ),
    );
    folder.join(name)
}

/// The time stamps of all frames in seconds, in order.
fn times(path: &Path) -> Vec<f64> {
    let what = "-v error -select_streams v:0 -show_entries frame=best_effort_timestamp_time";
    let name = path.file_name().unwrap().to_str().unwrap();
    let text = run(path.parent().unwrap(), "ffprobe", &format!("{what} -of csv=p=0 {name}"));
    let lines = text.lines().map(|line| line.trim_end_matches(','));
    // A frame with side data has an additional line without a time.
    lines.filter(|line| !line.is_empty()).map(|line| line.parse().unwrap()).collect()
}

async fn probe(farm: &mut TestFarm, source: &Path) -> (Values, Input) {
    let name = source.display().to_string();
    let probe = Probe {
        source: name,
        frame: Some("frame".into()),
        frames: None,
        tiles: None,
        rehearse: None,
    };
    let mut brief = brief("probe", Body::Probe(probe), Some(source), Vec::new());
    brief.binds = vec!["frame".into()];
    let products = task(farm, brief, 0, Vec::new()).await.unwrap();
    let Bound::Values(frames) = products.bindings[0].values.clone() else { panic!("values") };
    (frames, input("probe", String::new(), 0, &products.outputs[0]))
}

async fn extract(
    farm: &mut TestFarm,
    source: &Path,
    (frames, info): (&Values, &Input),
    segment: u32,
) -> Products {
    let body = Extract { source: source.display().to_string(), dim: "segment".into() };
    let blocks = Values::Blocks { of: Arc::new(frames.clone()), size: 100 };
    let brief = brief("extract", Body::Extract(body), Some(source), vec![axis("segment", blocks)]);
    task(farm, brief, segment, vec![info.clone()]).await.unwrap()
}

/// A video of these pictures, with the source's sound, subtitles and metadata.
async fn encode(farm: &mut TestFarm, source: &Path, file: &str, inputs: Vec<Input>) -> PathBuf {
    let body = Encode {
        file: file.into(),
        fps: None,
        codec: None,
        quality: None,
        source: Some(source.display().to_string()),
        keep_audio: None,
        allow_gaps: false,
    };
    let brief = brief("encode", Body::Encode(body), Some(source), Vec::new());
    let products = task(farm, brief, 0, inputs).await.unwrap();
    farm.artifact(&products.outputs[0])
}

/// A phone records what its sensor sees, and which side is up.
#[tokio::test]
async fn a_turned_video_becomes_an_upright_one() {
    let mut farm = farm();
    let folder = farm.folder.path().to_owned();
    let source = "-f lavfi -i testsrc2=size=96x64:rate=10:duration=0.5 -c:v libx264 -qp 0";
    run(&folder, "ffmpeg", &format!("-v error {source} -pix_fmt yuv444p flat.mp4"));
    for (degrees, size) in [(90, (64, 96)), (180, (96, 64)), (270, (64, 96))] {
        let name = format!("turned-{degrees}.mp4");
        let turned =
            format!("-v error -i flat.mp4 -c copy -metadata:s:v:0 rotate={degrees} {name}");
        run(&folder, "ffmpeg", &turned);
        run(&folder, "ffmpeg", &format!("-v error -y -i {name} -frames:v 1 upright.png"));
        let source = folder.join(&name);
        let (frames, info) = probe(&mut farm, &source).await;
        let products = extract(&mut farm, &source, (&frames, &info), 0).await;
        assert_eq!(products.outputs.len(), 5);
        let first = image::open(farm.artifact(&products.outputs[0])).unwrap().to_rgb8();
        let upright = image::open(folder.join("upright.png")).unwrap().to_rgb8();
        assert_eq!((first.dimensions(), upright.dimensions()), (size, size), "{degrees}");
        let differ = first.as_raw().iter().zip(upright.as_raw()).map(|(a, b)| a.abs_diff(*b));
        let sum: u64 = differ.map(u64::from).sum();
        assert!(sum < 3 * u64::from(size.0 * size.1), "{degrees}: it is turned the wrong way");
        let picture = |(number, output): (u32, &Output)| {
            let output = Output { name: "image".into(), ..output.clone() };
            input("stitch", format!("frame={}", number + 1), number, &output)
        };
        let mut inputs: Vec<Input> = (0..).zip(&products.outputs).map(picture).collect();
        inputs.push(info);
        let made = encode(&mut farm, &source, "made.mp4", inputs).await;
        let shown = "-v error -select_streams v -show_entries stream=width,height,avg_frame_rate:stream_side_data";
        let name = made.file_name().unwrap().to_str().unwrap();
        let streams =
            run(made.parent().unwrap(), "ffprobe", &format!("{shown} -of csv=p=0 {name}"));
        // Nothing tells a player to rotate it once more, and the last frame is shown as long as the others.
        let told = format!("{},{},10/1", size.0, size.1);
        assert_eq!(streams.trim().trim_end_matches(','), told);
    }
}

#[tokio::test]
async fn a_video_of_an_irregular_rate_survives_frame_by_frame() {
    let mut farm = farm();
    let folder = farm.folder.path().to_owned();
    for (name, result) in [("a.mp4", "b.mp4"), ("a.mkv", "b.mkv"), ("a.mkv", "c.mp4")] {
        let source = clip(&folder, name);
        let before = times(&source);
        let (frames, info) = probe(&mut farm, &source).await;
        assert_eq!(frames.len() as usize, before.len(), "{name}");
        // Every frame as decoded by ffmpeg, in order.
        let all = folder.join(format!("all-{name}"));
        std::fs::create_dir_all(&all).unwrap();
        run(&all, "ffmpeg", &format!("-v error -y -i ../{name} -fps_mode passthrough %d.png"));
        let mut pictures = Vec::new();
        for segment in 0..frames.len().div_ceil(100) {
            let products = extract(&mut farm, &source, (&frames, &info), segment).await;
            for output in &products.outputs {
                let number: u32 = output.name.strip_prefix("frame-").unwrap().parse().unwrap();
                let image = |path: PathBuf| image::open(path).unwrap().to_rgb8();
                let (one, other) =
                    (image(farm.artifact(output)), image(all.join(format!("{number}.png"))));
                let differ = one.as_raw().iter().zip(other.as_raw()).map(|(a, b)| a.abs_diff(*b));
                let sum: u64 = differ.map(u64::from).sum();
                // Rounding differs; a different frame would be far off.
                assert!(sum < 3 * u64::from(one.width() * one.height()), "{name}: frame {number}");
                let mut output = output.clone();
                output.name = "image".into();
                pictures.push(input("stitch", format!("frame={number}"), number - 1, &output));
            }
        }
        assert_eq!(pictures.len(), before.len(), "{name}");
        pictures.push(info);
        let made = encode(&mut farm, &source, result, pictures).await;
        let after = times(&made);
        assert_eq!(before.len(), after.len(), "{result}");
        let off = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off <= 0.001, "{result}: {off} s");
        same_streams(&source, &made);
    }
}

/// One of two pictures is transparent, and has 16 bits.
#[tokio::test]
async fn a_video_of_transparent_pictures_keeps_that_or_says_so() {
    let mut farm = farm();
    let folder = farm.folder.path().join("shot");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, how) in [
        ("1.png", "red:size=96x64,format=rgb24"),
        ("2.png", "red@0.5:size=96x64,format=rgba,format=rgba64be"),
    ] {
        run(&folder, "ffmpeg", &format!("-v error -f lavfi -i color={how} -frames:v 1 {name}"));
    }
    let source = folder.join("*.png");
    for (file, kept) in [("a.mov", true), ("a.mp4", false), ("a.mkv", false)] {
        let body = Encode { source: None, fps: Some(25.0), ..films::encode(&source, file) };
        let (_, info, mut notes) = films::look(&mut farm, &source, &body, 1).await.unwrap();
        let image = |index: u32, name: &str| {
            farm.input(index, &format!("frame={}", index + 1), "image", &folder.join(name))
        };
        let inputs = vec![image(0, "1.png"), image(1, "2.png"), info];
        let brief = brief("encode", Body::Encode(body), Some(&source), Vec::new());
        let products = task(&mut farm, brief, 0, inputs).await.unwrap();
        for notes in [std::mem::take(&mut notes), products.notes] {
            for lost in ["has no transparency", "has more than 8 bits"] {
                assert_eq!(
                    notes.iter().any(|note| note.contains(lost)),
                    !kept,
                    "{file}: {notes:?}"
                );
            }
        }
        let made = farm.artifact(&products.outputs[0]);
        let last = format!(
            "-v error -y -i file:{} -vf select=eq(n\\,1) -frames:v 1 last.png",
            made.display()
        );
        run(&folder.join(".."), "ffmpeg", &last);
        let [r, g, b, a] =
            image::open(folder.join("../last.png")).unwrap().to_rgba8().get_pixel(48, 32).0;
        let (red, alpha) = if kept { (255, 128) } else { (128, 255) };
        let off = [(r, red), (g, 0), (b, 0), (a, alpha)].map(|(a, b): (u8, u8)| a.abs_diff(b));
        assert!(off.iter().all(|off| *off < 8), "{file}: {r} {g} {b} {a}");
    }
}

/// Sound is identical to the byte, subtitles and the title are there, and both last equally long.
fn same_streams(source: &Path, made: &Path) {
    let probe = |path: &Path, what: &str| {
        let (folder, name) = (path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
        run(folder, "ffprobe", &format!("-v error -of csv=p=0 {what} {name}"))
    };
    let sound = |path: &Path| {
        let (folder, name) = (path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
        run(folder, "ffmpeg", &format!("-v error -i {name} -map 0:a -c copy -f streamhash -"))
    };
    assert_eq!(sound(source), sound(made));
    assert_eq!(probe(made, "-show_entries format_tags=title").trim(), "Test");
    let subtitles = probe(made, "-select_streams s -show_entries packet=pts_time");
    assert!(subtitles.starts_with("1.0") || subtitles.contains("\n1.0"), "{subtitles:?}");
    let length = |path: &Path| -> f64 {
        probe(path, "-show_entries format=duration").trim().parse().unwrap()
    };
    assert!((length(source) - length(made)).abs() < 0.05, "{} {}", length(source), length(made));
}
