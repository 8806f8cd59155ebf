//! `encode` steps: pictures to a video with ffmpeg, checked with ffprobe. When the pictures were made from another
//! video, the result can have that one's time stamps, sound, subtitles and metadata (see [`source`]).

mod rehearsal;
mod source;
mod streams;

pub(crate) use rehearsal::rehearse;

use crate::ground::failure::{failure, storage_failure};
use crate::programs::process::{output, program_failure, run as run_program, spawn_failure};
use crate::runners::scene_file;
use crate::runners::source::{Info, files_of, info, sampled};
use crate::runners::video::{Coding, as_file, frames_done, reading_pictures};
use crate::task::TaskContext;
use pictor_tasks::body::{Codec, Encode};
use pictor_tasks::message::{Failure, FailureKind, Input, Products};
use pictor_tasks::units::Resolution;
use source::Source;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tokio::process::Command;
use tokio::time::Duration;

/// The time limit for a program that inspects one file.
const PROBE: Duration = Duration::from_mins(1);
/// The frame rate when nothing states one, and the highest.
const FPS: u32 = 24;
const FPS_MAX: f64 = 1000.0;
/// The number of the `ProRes` profile with transparency.
const PRORES_4444: u8 = 4;

/// The validated settings of the video.
struct Plan {
    file: String,
    codec: Codec,
    quality: u8,
    rate: String,
    /// Whether to keep the transparency of its source.
    transparent: bool,
}

impl Plan {
    /// Reports what cannot be kept of the pixels of `name`, which may be transparent or have more than 8 bits.
    fn say(&self, ctx: &TaskContext, name: &str, alpha: bool, deep: bool) {
        let file = &self.file;
        if alpha && !self.transparent {
            ctx.note(format!(
                "{file} has no transparency: that of {name} is over black; a .mov with ProRes 4444 keeps it"
            ));
        }
        if deep && self.codec == Codec::H264 {
            ctx.note(format!(
                "{name} has more than 8 bits for each sample, and {file} has 8; a .mov with ProRes has 10"
            ));
        }
    }
}

/// What ffprobe says about a picture or a video.
#[derive(Debug, PartialEq, Eq, serde::Deserialize)]
struct Probed {
    codec_name: String,
    width: u32,
    height: u32,
    #[serde(default)]
    nb_read_packets: String,
}

/// Makes the video.
pub(crate) async fn run(ctx: &TaskContext, body: &Encode) -> Result<Products, Failure> {
    let invalid = |message: String| failure(FailureKind::Invalid, message);
    let rate = rate(ctx, body).await?;
    let video = match &body.source {
        Some(name) => Some((name, source::video(ctx, name).await?)),
        None => None,
    };
    let mut pictures = pictures(&ctx.inputs, body.allow_gaps)?;
    let (alpha, deep) = match &video {
        Some((_, video)) => (video.alpha, video.deep),
        None => match info(ctx).await? {
            Some(Info::Pictures(found)) => sampled(&found),
            _ => (false, false),
        },
    };
    // The colours of an EXR are premultiplied in linear light, and a JPEG has no transparency.
    let none = |kind| has_extension(&pictures[0].output.key, kind);
    let kept = alpha && !["exr", "jpg", "jpeg"].into_iter().any(none);
    let plan = plan(body, &ctx.resolve(&body.file).await?, rate, kept).map_err(invalid)?;
    let times = match &video {
        Some((name, video)) => source::in_time(video, name, &mut pictures)?,
        None => Vec::new(),
    };
    let (pattern, first) = link(ctx, &pictures).await?;
    // Relative, as a `%` in the path of the data folder would become part of the pattern.
    let pattern = pattern.strip_prefix(&ctx.scratch).unwrap_or(&pattern);
    let size = probe(ctx, &first).await?;
    let made = ctx.scratch.join(&plan.file);
    let mut command = Command::new(&ctx.config.programs.ffmpeg);
    // The source's files are kept from removal until this is dropped.
    let mut files = None;
    let mut needs = ctx.confinement();
    match video {
        None => {
            plan.say(ctx, "one of the pictures", alpha, deep);
            command.args(reading_pictures()).args(arguments(&plan, pattern, &size))
        }
        Some((name, video)) => {
            let files = files.insert(files_of(ctx, name).await?);
            needs = needs.reads(&files.paths[0]);
            let of = (files.paths[0].as_path(), name.as_str());
            let source = Source::new(ctx, (body, &plan), of, video, times).await?;
            let extension = first.extension().and_then(|found| found.to_str()).unwrap_or("png");
            source.write_list(&ctx.scratch, extension)?;
            source.check_pictures(ctx).await?;
            command.args(source.arguments(&plan, &size))
        }
    };
    command.arg(as_file(&made));
    let count = pictures.len();
    let mut on_line = frames_done(ctx, count);
    let status = run_program(ctx.supervision(), &command, &needs, &mut on_line).await?;
    if !status.success() {
        return Err(program_failure(&ctx.log, "ffmpeg", status));
    }
    // At a constant rate, frames of a source are dropped or duplicated.
    let count = Some(count).filter(|_| body.source.is_none() || body.fps.is_none());
    check(ctx, &plan, &size, count, &made).await?;
    Ok(Products { outputs: vec![ctx.put("video", &made).await?], ..Products::default() })
}

/// Checks whether the video is what was asked for.
async fn check(
    ctx: &TaskContext,
    plan: &Plan,
    size: &Probed,
    count: Option<usize>,
    video: &Path,
) -> Result<(), Failure> {
    let found = probe(ctx, video).await?;
    let codec_name = match plan.codec {
        Codec::H264 => "h264",
        Codec::Prores => "prores",
    };
    let wanted = Probed {
        codec_name: codec_name.to_owned(),
        width: size.width.next_multiple_of(2),
        height: size.height.next_multiple_of(2),
        nb_read_packets: count.map_or(found.nb_read_packets.clone(), |count| count.to_string()),
    };
    if found == wanted {
        return Ok(());
    }
    let message =
        format!("The video is {found}; expected {wanted}. Are all pictures whole and of one size?");
    Err(failure(FailureKind::BadOutput, message))
}

impl Probed {
    /// What a PNG file of this size is.
    fn png(size: Resolution) -> Self {
        let Resolution { width, height } = size;
        Self { codec_name: "png".into(), width, height, nb_read_packets: "1".into() }
    }
}

impl fmt::Display for Probed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { codec_name, width, height, nb_read_packets } = self;
        write!(f, "{nb_read_packets} frames of {codec_name}, {width}x{height}")
    }
}

/// The frame rate: the job's, the inspected scene's, or the default.
async fn rate(ctx: &TaskContext, body: &Encode) -> Result<String, Failure> {
    let invalid = |message: String| failure(FailureKind::Invalid, message);
    if let Some(fps) = body.fps {
        return checked(fps, written(fps)).map_err(invalid);
    }
    if body.source.is_none() {
        if let Some(scene) = scene_file::rate(ctx).await? {
            return checked(scene.value(), scene.to_string()).map_err(invalid);
        }
        ctx.note(format!(
            "{} has {FPS} frames a second: the job does not say how many (`fps`), and no `inspect` step \
             that it needs does.",
            body.file
        ));
    }
    Ok(FPS.to_string())
}

fn checked(fps: f64, exact: String) -> Result<String, String> {
    if fps > 0.0 && fps <= FPS_MAX {
        return Ok(exact);
    }
    Err(format!("{fps} frames a second: expected more than 0, at most {FPS_MAX}."))
}

/// The settings for pictures that were taken from a video with or without transparency (`alpha`).
fn plan(body: &Encode, file: &str, rate: String, alpha: bool) -> Result<Plan, String> {
    let name = Path::new(file).file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| format!("`{file}` is not the name of a video."))?;
    let codec = body.codec_of(file)?;
    let quality = body.quality.unwrap_or(match codec {
        Codec::H264 => 18,
        Codec::Prores if alpha => PRORES_4444,
        Codec::Prores => 3,
    });
    let transparent = alpha && codec == Codec::Prores && quality == PRORES_4444;
    Ok(Plan { file: name.to_owned(), codec, quality, rate, transparent })
}

/// 23.976 and similar rates mean 24000/1001 and so on.
fn written(fps: f64) -> String {
    let film = (fps * 1.001).round();
    if fps.fract() > 0.0 && (fps - film / 1.001).abs() < 0.005 {
        return format!("{}/1001", film * 1000.0);
    }
    fps.to_string()
}

/// The `image` inputs in index order. Gaps are an error unless they are allowed.
fn pictures(inputs: &[Input], allow_gaps: bool) -> Result<Vec<&Input>, Failure> {
    let invalid = |message: String| Err(failure(FailureKind::Invalid, message));
    let mut pictures: Vec<&Input> = inputs.iter().filter(|i| i.output.name == "image").collect();
    pictures.sort_by_key(|input| input.index);
    let Some(first) = pictures.first() else {
        return invalid(
            "There are no pictures: the step that this one needs left no `image`.".into(),
        );
    };
    if let Some(other) = pictures.iter().find(|input| input.step != first.step) {
        let (one, two) = (&first.step, &other.step);
        return invalid(format!(
            "Pictures of one step make a video; these are of {one} and {two}."
        ));
    }
    let extension = |input: &Input| Path::new(&input.output.key).extension().map(ToOwned::to_owned);
    if let Some(other) = pictures.iter().find(|input| extension(input) != extension(first)) {
        let message = format!("{other} has another format than {first}.");
        return invalid(message);
    }
    match gap(&pictures).filter(|_| !allow_gaps) {
        None => Ok(pictures),
        Some((before, after)) => invalid(format!(
            "There is no picture between {before} and {after}. Retry what failed there, or encode only \
             whole sequences.",
        )),
    }
}

/// The neighbours of a missing picture. Steps between indices may be regular (other dimensions lie in between) or
/// irregular (bounded dimensions): only a jump along the dimension in which the nearest neighbours differ is a gap.
fn gap<'a>(pictures: &[&'a Input]) -> Option<(&'a Input, &'a Input)> {
    let pairs = || pictures.windows(2).map(|pair| (pair[0], pair[1]));
    let distance = |(a, b): &(&Input, &Input)| b.index - a.index;
    let nearest = pairs().min_by_key(distance)?;
    let fastest = differing(nearest.0, nearest.1);
    pairs().find(|pair| distance(pair) > distance(&nearest) && differing(pair.0, pair.1) == fastest)
}

/// The dimensions in which two pictures differ.
fn differing<'a>(a: &'a Input, b: &Input) -> Vec<&'a str> {
    let values = a.coordinates.0.iter();
    let other = |name: &str| b.coordinates.0.get(name);
    values.filter(|(name, value)| other(name) != Some(value)).map(|(name, _)| &**name).collect()
}

/// Creates numbered links to the pictures, and returns ffmpeg's pattern for their paths and the first of them.
async fn link(ctx: &TaskContext, pictures: &[&Input]) -> Result<(PathBuf, PathBuf), Failure> {
    let folder = ctx.scratch.join("pictures");
    let unusable = |error: std::io::Error| {
        storage_failure(&format!("The folder {} cannot be made", folder.display()), &error)
    };
    std::fs::create_dir(&folder).map_err(unusable)?;
    let extension = Path::new(&pictures[0].output.key).extension().and_then(|e| e.to_str());
    let extension = extension.unwrap_or("png");
    let paths = ctx.input_paths(pictures).await?;
    for (number, (input, path)) in pictures.iter().zip(paths).enumerate() {
        if let Some(problem) = truncated(&path, extension) {
            let message = format!("The picture of {input} {problem}. Reset that task.");
            return Err(failure(FailureKind::BadOutput, message));
        }
        let link = folder.join(format!("{number:08}.{extension}"));
        std::os::unix::fs::symlink(path, link).map_err(unusable)?;
    }
    let first = folder.join(format!("{:08}.{extension}", 0));
    Ok((folder.join(format!("%08d.{extension}")), first))
}

/// What is wrong with a picture that does not start or end as its format demands. ffmpeg would only say that one of
/// them is bad.
fn truncated(path: &Path, extension: &str) -> Option<&'static str> {
    let (head, tail): (&[u8], &[u8]) = match extension {
        "png" => (b"\x89PNG\r\n\x1a\n", b"IEND\xae\x42\x60\x82"),
        "jpg" | "jpeg" => (b"\xff\xd8", b"\xff\xd9"),
        "exr" => (b"\x76\x2f\x31\x01", b""),
        _ => return None,
    };
    let read = |from: SeekFrom, length: usize| {
        let mut bytes = vec![0; length];
        let mut file = File::open(path)?;
        file.seek(from)?;
        file.read_exact(&mut bytes).map(|()| bytes)
    };
    let end = -i64::try_from(tail.len()).unwrap_or(0);
    if read(SeekFrom::Start(0), head.len()).is_ok_and(|bytes| bytes != head) {
        return Some("is not what its name says");
    }
    let whole = read(SeekFrom::End(end), tail.len()).is_ok_and(|bytes| bytes == tail);
    (!whole).then_some("is truncated")
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn arguments(plan: &Plan, pattern: &Path, size: &Probed) -> Vec<String> {
    let mut all = words("-y -hide_banner -nostdin -v warning -xerror -err_detect explode");
    if size.codec_name == "exr" {
        all.extend(words("-apply_trc iec61966_2_1"));
    }
    all.extend(words(&format!("-f image2 -framerate {} -start_number 0 -i", plan.rate)));
    all.push(pattern.display().to_string());
    all.extend(["-vf".to_owned(), filters(plan, size, &Coding::default(), "")]);
    all.extend(coded(plan, &Coding::default()));
    all.extend(words("-an -progress pipe:1"));
    all
}

/// ffmpeg's arguments for the codec of the video and its container.
fn coded(plan: &Plan, colours: &Coding) -> Vec<String> {
    let mut all = match plan.codec {
        Codec::H264 => words(&format!("-c:v libx264 -crf {}", plan.quality)),
        Codec::Prores => words(&format!("-c:v prores_ks -vendor apl0 -profile:v {}", plan.quality)),
    };
    if !has_extension(&plan.file, "mkv") {
        all.extend(words("-movflags +faststart+write_colr"));
    }
    all.extend(words(&colours.options()));
    all
}

fn has_extension(file: &str, extension: &str) -> bool {
    Path::new(file).extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Transparent pixels are put over black unless they are kept, an edge is doubled where a size is odd, and samples get
/// studio range. `last` ends the chain.
fn filters(plan: &Plan, size: &Probed, colours: &Coding, last: &str) -> String {
    let mut all = Vec::new();
    if plan.transparent {
        all.push("format=gbrap|gbrap16le".to_owned());
    } else if size.codec_name != "exr" {
        all.push("format=gbrap|gbrap16le,premultiply=inplace=1,format=gbrp|gbrp16le".to_owned());
    }
    let (right, bottom) = (size.width % 2, size.height % 2);
    if right + bottom > 0 {
        all.push("pad=ceil(iw/2)*2:ceil(ih/2)*2".to_owned());
        all.push(format!("fillborders=right={right}:bottom={bottom}:mode=smear"));
    }
    all.push(format!("scale=in_range=pc:out_range=tv:out_color_matrix={}", colours.made_with.0));
    let format = match plan.codec {
        Codec::H264 => "yuv420p",
        Codec::Prores if plan.transparent => "yuva444p10le",
        Codec::Prores if plan.quality == PRORES_4444 => "yuv444p10le",
        Codec::Prores => "yuv422p10le",
    };
    all.push(format!("format={format}"));
    // For encoders that take the colours from the frames.
    all.push(colours.filter());
    all.extend(Some(last.to_owned()).filter(|last| !last.is_empty()));
    all.join(",")
}

async fn probe(ctx: &TaskContext, path: &Path) -> Result<Probed, Failure> {
    #[derive(serde::Deserialize)]
    struct ProbeOutput {
        streams: Vec<Probed>,
    }
    let entries = "stream=codec_name,width,height,nb_read_packets";
    let mut command = Command::new(&ctx.config.programs.ffprobe);
    command.args(["-v", "error", "-count_packets", "-select_streams", "v:0", "-of", "json"]);
    // Runs in the file's folder: a `%` in the path would be read as the pattern of a sequence.
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = as_file(Path::new(path.file_name().unwrap_or_default()));
    command.args(["-show_entries", entries]).args(reading_pictures());
    command.arg("-i").arg(name).current_dir(folder);
    let bad = |why: String| {
        let file = path.file_name().unwrap_or_default().display();
        failure(FailureKind::BadOutput, format!("ffprobe cannot read {file}: {why}."))
    };
    let text =
        output(&command, &ctx.confinement(), PROBE).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => spawn_failure(&command, &error),
            _ => bad(error.to_string()),
        })?;
    let probed: ProbeOutput =
        serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    // SVG is no picture but a text, which may name other files.
    let is_one = |found: &Probed| found.width > 0 && found.codec_name != "svg";
    probed
        .streams
        .into_iter()
        .next()
        .filter(is_one)
        .ok_or_else(|| bad("there is no picture in it".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pictor_tasks::message::Output;
    use pictor_tasks::space::Coordinates;

    fn input(index: u32, label: &str) -> Input {
        let key = format!("runs/1/{index}.png");
        let output = Output { name: "image".into(), key, digest: String::new(), size_bytes: 1 };
        let coordinates = Coordinates::of_label(label);
        Input { step: "develop".into(), label: label.into(), index, coordinates, output }
    }

    #[test]
    fn a_missing_picture_is_a_gap_and_a_bounded_dimension_is_not() {
        let frames = [(0, "frame=1"), (1, "frame=3"), (3, "frame=7")].map(|(i, l)| input(i, l));
        let message = pictures(&frames, false).unwrap_err().message;
        assert!(message.contains("between develop[frame=3] and develop[frame=7]"), "{message}");
        // Shots of one, one and two frames, within a bound of three.
        let shots = ["shot=0,frame=0", "shot=1,frame=0", "shot=2,frame=0", "shot=2,frame=1"];
        let shots: Vec<Input> =
            [0, 3, 6, 7].into_iter().zip(shots).map(|(i, l)| input(i, l)).collect();
        assert_eq!(pictures(&shots, false).unwrap().len(), 4);
        // One of two cameras.
        let views = [1, 3, 5].map(|i| input(i, &format!("frame={i},camera=b")));
        assert_eq!(pictures(&views, false).unwrap().len(), 3);
        assert!(pictures(&[], false).is_err());
        assert_eq!(pictures(&frames, true).unwrap().len(), 3);
    }

    #[test]
    fn what_cannot_be_encoded_is_refused_with_a_hint() {
        let body = |codec, quality| Encode {
            file: String::new(),
            fps: None,
            codec,
            quality,
            source: None,
            keep_audio: None,
            allow_gaps: false,
        };
        let refused = |body, file| plan(&body, file, "25".into(), false).err().unwrap();
        let prores = Some(Codec::Prores);
        assert!(refused(body(prores, None), "a.mp4").contains("`.mov`"));
        assert!(refused(body(None, None), "a.avi").contains(".mp4, .mov or .mkv"));
        assert!(refused(body(None, Some(52)), "a.mp4").contains("0 to 51"));
        assert!(refused(body(prores, Some(5)), "a.mov").contains("0 to 4"));
        for fps in [0.0, -24.0, f64::NAN, 1000.1] {
            assert!(checked(fps, "24".into()).unwrap_err().contains("at most 1000"));
        }
        let made =
            |quality, alpha| plan(&body(None, quality), "out/a.mov", "25".into(), alpha).unwrap();
        assert_eq!((made(None, false).codec, made(None, false).quality), (Codec::Prores, 3));
        assert!(made(None, true).transparent && made(Some(4), true).transparent);
        assert!(!made(Some(3), true).transparent && !made(Some(4), false).transparent);
    }

    #[test]
    fn film_rates_are_exact() {
        for (fps, text) in
            [(24.0, "24"), (23.976, "24000/1001"), (29.97, "30000/1001"), (12.5, "12.5")]
        {
            assert_eq!(written(fps), text);
        }
    }
}
