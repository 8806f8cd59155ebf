//! The `upscale:` macro: probe, extract (of a video), upscale the tiles, stitch, encode.
//!
//! Only `probe` finds out how many frames there are and how large each is, so the frames and the tiles of each frame
//! are late-bound. A single picture has no frames.

use super::expand::{FRAME, step};
use pictor_tasks::body::{
    Body, Encode, Extract, ImageFormat, OnError, Probe, Rehearsal, Stitch, TILE_PIXELS, Tiling,
    Upscale,
};
use pictor_tasks::job::Diagnostic;
use pictor_tasks::job::spec::{DimSpec, JobSpec, Keep, Pixels, StepSpec, UpscaleJob, VideoSpec};
use pictor_tasks::media::{Media, stem};
use pictor_tasks::output::check_name;
use std::collections::BTreeMap;

/// The private dimension of the tiles of a picture.
const TILE: &str = "upscale.tile";
/// The private dimension of the parts of a video that are extracted by one task.
const SEGMENT: &str = "extract.segment";
/// The number of frames in one such part: few enough for upscaling to begin early, and not to fill the disk.
const SEGMENT_FRAMES: u32 = 100;
/// The container formats for videos.
const CONTAINERS: [&str; 3] = ["mp4", "mov", "mkv"];

/// The steps of an upscale. Its dimensions are added to the job.
pub(crate) fn expand(
    upscale: &UpscaleJob,
    job: &mut JobSpec,
    problems: &mut Vec<Diagnostic>,
) -> Vec<StepSpec> {
    // The parser accepts nothing else.
    let Some(media) = Media::of(&upscale.input) else { return Vec::new() };
    check(upscale, media, problems);
    let from_probe = || DimSpec { from: Some("probe".into()), ..DimSpec::default() };
    let mut tile = from_probe();
    if !matches!(media, Media::Picture(_)) {
        tile.bounded_by = Some(FRAME.into());
        if job.dims.insert(FRAME.into(), from_probe()).is_some() {
            let message = "the frames are given twice: here and in `dims.frame`, or by `render`";
            let hint = "give the dimension in `dims` another name, or make two jobs of it";
            problems.push(Diagnostic::new("upscale.input", message).with_hint(Some(hint.into())));
        }
    }
    job.dims.insert(TILE.into(), tile);
    if media == Media::Video {
        let (of, size) = (Some(FRAME.into()), Some(SEGMENT_FRAMES));
        job.dims.insert(SEGMENT.into(), DimSpec { of, size, ..DimSpec::default() });
    }
    steps(upscale, media)
}

fn check(upscale: &UpscaleJob, media: Media, problems: &mut Vec<Diagnostic>) {
    let single = matches!(media, Media::Picture(_));
    let mut problem = |field: &str, message: String, hint: &str| {
        let path = format!("upscale.{field}");
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        problems.push(Diagnostic::new(path, message).with_hint(hint));
    };
    if single && upscale.frames.is_some() {
        problem("frames", format!("`{}` is one picture", upscale.input), "remove `frames`");
    }
    if single && upscale.output.frames {
        problem("output.frames", format!("`{}` is one picture", upscale.input), "remove it");
    }
    if upscale.video.is_some() && video(upscale, media).is_none() {
        let hint =
            if single { "remove `video`" } else { "name the video in `output: { file: … }`" };
        problem("video", "no video is made of these pictures".into(), hint);
    }
    let format = format(upscale, media);
    if let Some(file) = upscale.output.file.as_ref().filter(|_| single) {
        let named = file.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
        if named.as_deref().and_then(ImageFormat::of_extension) != Some(format) {
            let extension = format.extension();
            let hint = format!("name it .{extension}, or choose another `format`");
            problem("output.file", format!("`{file}` is not the name of a .{extension}"), &hint);
        }
    }
    // What the last step could not store is refused before all the others.
    if upscale.output.file.is_none()
        && media == Media::Video
        && let Some(file) = video(upscale, media)
        && check_name(&file).is_err()
    {
        let message = match file.chars().find(|char| char.is_control()) {
            Some(char) => format!("the name of the video would hold {char:?}"),
            None => format!("the name of the video would be {} bytes long", file.len()),
        };
        problem("input", message, "name the video in `output: { file: … }`");
    }
    if upscale.quality.is_some() && !format.is_lossy() {
        let message = format!("there is no quality to choose for .{}", format.extension());
        problem("quality", message, "only JPEG and WebP have one; `video.crf` is that of a video");
    }
    if let (Pixels::Exactly(overlap), tile) = (upscale.overlap, tile_pixels(upscale))
        && overlap > tile
    {
        problem("overlap", format!("it is larger than a tile, {tile} pixels"), "");
    }
}

fn has_extension(file: &str, extension: &str) -> bool {
    file.rsplit_once('.').is_some_and(|(_, found)| found.eq_ignore_ascii_case(extension))
}

fn tile_pixels(upscale: &UpscaleJob) -> u32 {
    match upscale.tile {
        Pixels::Auto => TILE_PIXELS,
        Pixels::Exactly(pixels) => pixels,
    }
}

/// The format of the pictures, which is lossless if they are only encoded to a video.
fn format(upscale: &UpscaleJob, media: Media) -> ImageFormat {
    upscale.format.unwrap_or(match media {
        Media::Picture(format) => format,
        Media::Sequence(format) => format.unwrap_or_default(),
        Media::Video => ImageFormat::Png,
    })
}

/// The file name of the video, if one is made.
fn video(upscale: &UpscaleJob, media: Media) -> Option<String> {
    let named = upscale.output.file.clone();
    match media {
        Media::Picture(_) => None,
        Media::Sequence(_) => named,
        Media::Video => named.or_else(|| {
            let container = CONTAINERS.iter().find(|c| has_extension(&upscale.input, c));
            Some(format!("{}.{}", stem(&upscale.input), container.unwrap_or(&CONTAINERS[0])))
        }),
    }
}

fn steps(upscale: &UpscaleJob, media: Media) -> Vec<StepSpec> {
    let source = &upscale.input;
    let frame = (!matches!(media, Media::Picture(_))).then(|| FRAME.to_owned());
    let frames: &[&str] = if frame.is_some() { &[FRAME] } else { &[] };
    let tiles = Tiling { pixels: tile_pixels(upscale), dim: TILE.into() };
    let mut steps = Vec::new();
    let probe = Probe {
        source: source.clone(),
        frame: frame.clone(),
        frames: upscale.frames.clone(),
        tiles: Some(tiles.clone()),
        rehearse: video(upscale, media).map(|file| Rehearsal {
            encode: encode(upscale, media, &file),
            model: Some(upscale.model.clone()),
            scale: upscale.scale,
        }),
    };
    steps.push(StepSpec { work: Body::Probe(probe).into(), ..step("probe", &[], &[]) });
    if media == Media::Video {
        let extract = Extract { source: source.clone(), dim: SEGMENT.into() };
        let keep = Some(until("stitch"));
        let plain = step("extract", &[SEGMENT], &["probe"]);
        steps.push(StepSpec { work: Body::Extract(extract).into(), keep, ..plain });
    }
    let (originals, source) = match media {
        Media::Video => (["extract"].as_slice(), None),
        Media::Picture(_) | Media::Sequence(_) => ([].as_slice(), Some(source.clone())),
    };
    let network = Upscale {
        source: source.clone(),
        frame: frame.clone(),
        model: upscale.model.clone(),
        scale: upscale.scale,
        tiles: Some(tiles.clone()),
        overlap: match upscale.overlap {
            Pixels::Auto => None,
            Pixels::Exactly(pixels) => Some(pixels),
        },
        on_error: upscale.on_error,
    };
    let plain = step("upscale", &[frames, &[TILE]].concat(), &[&["probe"], originals].concat());
    steps.push(StepSpec {
        work: Body::Upscale(network).into(),
        keep: Some(until("stitch")),
        ..plain
    });
    let stitch = Stitch {
        source,
        frame,
        scale: upscale.scale,
        tiles,
        format: format(upscale, media),
        quality: upscale.quality,
        on_error: upscale.on_error,
    };
    let plain = step("stitch", frames, &[&["probe", "upscale"], originals].concat());
    steps.push(StepSpec { work: Body::Stitch(stitch).into(), ..delivered(upscale, media, plain) });
    steps.extend(video(upscale, media).map(|file| encoded(encode(upscale, media, &file))));
    steps
}

/// Sets where the final pictures go: into the output folder, or only into the video.
fn delivered(upscale: &UpscaleJob, media: Media, stitch: StepSpec) -> StepSpec {
    let extension = format(upscale, media).extension();
    let path = match media {
        Media::Picture(_) => {
            let own = || format!("{}.{extension}", stem(&upscale.input));
            literal(&upscale.output.file.clone().unwrap_or_else(own))
        }
        Media::Video if !upscale.output.frames => {
            return StepSpec { keep: Some(until("encode")), ..stitch };
        }
        Media::Sequence(_) | Media::Video => format!("frames/{{frame:04}}.{extension}"),
    };
    StepSpec { deliver: BTreeMap::from([("image".to_owned(), path)]), ..stitch }
}

/// The settings for encoding the video.
fn encode(upscale: &UpscaleJob, media: Media, file: &str) -> Encode {
    let VideoSpec { codec, crf, keep_audio, fps } = upscale.video.clone().unwrap_or_default();
    Encode {
        file: literal(file),
        fps,
        codec,
        quality: crf,
        source: (media == Media::Video).then(|| upscale.input.clone()),
        keep_audio,
        allow_gaps: upscale.on_error != OnError::Fail,
    }
}

fn encoded(encode: Encode) -> StepSpec {
    let deliver = BTreeMap::from([("video".to_owned(), encode.file.clone())]);
    StepSpec {
        work: Body::Encode(encode).into(),
        deliver,
        ..step("encode", &[], &["probe", "stitch"])
    }
}

fn until(step: &str) -> Keep {
    Keep { until: step.into() }
}

/// Escapes a file name for use as a template.
fn literal(name: &str) -> String {
    name.replace('{', "{{").replace('}', "}}")
}
