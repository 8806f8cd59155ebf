//! The properties of a video, as found by ffprobe: the time stamp of every frame, its colours, its shape.

mod colours;
mod times;

pub(crate) use colours::{Coding, Colours};

use crate::ground::failure::{failure, storage_failure};
use crate::programs::Confinement;
use crate::programs::process::{output, run as run_program, spawn_failure};
use crate::task::TaskContext;
use pictor_tasks::media::{PLAYLIST, video_extensions, video_readers};
use pictor_tasks::message::{Failure, FailureKind};
use pictor_tasks::range::Ranges;
use pictor_tasks::units::Resolution;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use times::Said;
use tokio::process::Command;
use tokio::time::Duration;

/// The time limit for reading the header.
const PROBE: Duration = Duration::from_mins(1);
/// The number of bytes that are checked to find out whether a file is text.
const HEAD: u64 = 4096;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Video {
    /// The width and height once it is upright.
    pub(crate) size: Resolution,
    /// Whether samples have more than 8 bits.
    pub(crate) deep: bool,
    /// Whether pixels may be transparent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) alpha: bool,
    /// Whether there are no colours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) grey: bool,
    /// The decoder that ffmpeg has to use; `None` leaves the choice to ffmpeg.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) decoder: Option<String>,
    /// The time stamps of all frames, in order, in units of `time_base` seconds. Frame 1 is the first.
    pub(crate) times: Vec<i64>,
    /// The numbers of the frames at which decoding can start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keys: Option<Ranges>,
    /// The end of the last frame, in the same units.
    pub(crate) end: i64,
    /// The time base in seconds, as numerator and denominator.
    pub(crate) time_base: (i64, i64),
    /// The start of the file in seconds, with sound included.
    pub(crate) start: f64,
    /// The numbers of the selected frames.
    pub(crate) numbers: Ranges,
    /// The colour properties that the file states.
    pub(crate) colours: Colours,
    /// The aspect ratio of a pixel, as in `4:3`; `None` if it is a square.
    pub(crate) pixel_shape: Option<String>,
    /// The codecs of its sound, in order.
    pub(crate) sound: Vec<String>,
    /// The codecs of its subtitles, in order.
    pub(crate) subtitles: Vec<String>,
    /// The codecs of its attachments, such as fonts, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) attachments: Vec<String>,
    /// Whether it has a time code, which gives the recorder's clock at its start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) timecode: bool,
    /// Descriptions of other streams, which are never kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) others: Vec<String>,
}

impl Video {
    /// The numbers of all frames.
    pub(crate) fn all_numbers(&self) -> Ranges {
        let count = u32::try_from(self.times.len()).expect("limited when it was probed");
        format!("1-{count}").parse().expect("a range of at least one frame")
    }

    /// The time stamp of a frame, if it exists.
    pub(crate) fn time(&self, number: i64) -> Option<i64> {
        self.times.get(usize::try_from(number.checked_sub(1)?).ok()?).copied()
    }

    /// Where to start decoding for a frame, as a time in seconds, and the time of the last key frame up to it: there the
    /// start can be verified. A whole group of frames lies before that, because frames around a key frame may depend on
    /// those before it. Returns `None` if decoding has to start at the beginning.
    pub(crate) fn seek(&self, number: i64) -> Option<(f64, i64)> {
        let keys = self.keys.as_ref()?;
        let mut before = keys.iter().take_while(|key| *key <= number).collect::<Vec<_>>();
        let (last, earlier) = (self.time(before.pop()?)?, self.time(before.pop()?)?);
        Some((f64::midpoint(self.seconds(earlier), self.seconds(last)), last))
    }

    /// Converts a time from `time_base` to seconds.
    #[expect(clippy::cast_precision_loss, reason = "less than a microsecond in a century")]
    pub(crate) fn seconds(&self, time: i64) -> f64 {
        time as f64 * self.time_base.0 as f64 / self.time_base.1 as f64
    }

    /// The length of its shorter side, in pixels.
    pub(crate) fn side(&self) -> u32 {
        self.size.height.min(self.size.width)
    }

    /// The ffmpeg filter that converts the video's samples to red, green and blue.
    pub(crate) fn to_rgb(&self) -> String {
        format!(
            "scale=in_color_matrix={}:out_range=pc:\
             flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp",
            self.colours.matrix(self.side()).0
        )
    }

    /// The pixel format for its frames as pictures.
    pub(crate) fn picture_format(&self) -> &'static str {
        match (self.deep, self.alpha) {
            (false, false) => "rgb24",
            (false, true) => "rgba",
            (true, false) => "rgb48be",
            (true, true) => "rgba64be",
        }
    }

    /// ffmpeg's arguments to read it.
    pub(crate) fn reading(&self, path: &Path) -> Vec<OsString> {
        let mut all = Vec::new();
        if let Some(decoder) = &self.decoder {
            all.extend(["-c:v".into(), decoder.into()]);
        }
        all.extend(reading(path));
        all
    }
}

/// Arguments for ffmpeg and ffprobe to read the video at a path: only with demuxers for videos, and from no other file,
/// whatever it contains and whatever its name is.
pub(crate) fn reading(path: &Path) -> [OsString; 6] {
    ["-protocol_whitelist", "file", "-format_whitelist", &video_readers(), "-i"]
        .map(OsString::from)
        .into_iter()
        .chain([as_file(path)])
        .collect::<Vec<_>>()
        .try_into()
        .expect("five words and a path")
}

/// Arguments for ffmpeg and ffprobe to read pictures, a list of them, or a video that was made of them: as above. (The
/// demuxer of SVG is none of these.)
pub(crate) fn reading_pictures() -> [String; 4] {
    let readers = format!("image2,concat,{PICTURES},{}", video_readers());
    ["-protocol_whitelist", "file", "-format_whitelist", &readers].map(str::to_owned)
}

/// ffmpeg's demuxers for pictures.
const PICTURES: &str = "bmp_pipe,dds_pipe,dpx_pipe,exr_pipe,gif_pipe,hdr_pipe,j2k_pipe,jpeg_pipe,jpegls_pipe,\
     jpegxl_pipe,pam_pipe,pbm_pipe,pcx_pipe,pfm_pipe,pgm_pipe,pgmyuv_pipe,phm_pipe,png_pipe,ppm_pipe,psd_pipe,\
     qoi_pipe,sgi_pipe,sunrast_pipe,tiff_pipe,webp_pipe,xwd_pipe";

/// A path in a form that ffmpeg always takes for a file: a name may begin with `-` or look like a URL.
pub(crate) fn as_file(path: &Path) -> OsString {
    let mut name = OsString::from("file:");
    name.push(path);
    name
}

/// The output of ffprobe.
#[derive(Deserialize)]
struct ProbeOutput {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Format,
    #[serde(default)]
    pixel_formats: Vec<PixelFormat>,
}

#[derive(Deserialize, Default)]
struct Format {
    #[serde(default, rename = "format_name")]
    name: String,
    start_time: Option<String>,
    duration: Option<String>,
    #[serde(default)]
    tags: Tags,
}

#[derive(Deserialize)]
struct Stream {
    codec_type: Option<String>,
    codec_name: Option<String>,
    codec_tag_string: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    pix_fmt: Option<String>,
    time_base: Option<String>,
    start_time: Option<String>,
    duration: Option<String>,
    nb_frames: Option<String>,
    #[serde(default)]
    has_b_frames: u32,
    avg_frame_rate: Option<String>,
    sample_aspect_ratio: Option<String>,
    color_space: Option<String>,
    color_primaries: Option<String>,
    color_transfer: Option<String>,
    #[serde(default)]
    disposition: Disposition,
    #[serde(default)]
    tags: Tags,
    #[serde(default)]
    side_data_list: Vec<SideData>,
}

#[derive(Deserialize, Default)]
struct Disposition {
    #[serde(default)]
    attached_pic: u8,
}

#[derive(Deserialize, Default)]
struct Tags {
    #[serde(alias = "ALPHA_MODE")]
    alpha_mode: Option<String>,
    #[serde(alias = "TIMECODE")]
    timecode: Option<String>,
}

#[derive(Deserialize)]
struct SideData {
    rotation: Option<f64>,
}

#[derive(Deserialize)]
struct PixelFormat {
    name: String,
    flags: Flags,
    #[serde(default)]
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct Flags {
    alpha: u8,
}

#[derive(Deserialize)]
struct Component {
    bit_depth: u32,
}

impl Stream {
    fn is(&self, kind: &str) -> bool {
        self.codec_type.as_deref() == Some(kind)
    }

    fn colours(&self) -> Colours {
        let known = |text: &Option<String>| text.clone().filter(|text| text != "unknown");
        Colours {
            matrix: known(&self.color_space),
            primaries: known(&self.color_primaries),
            transfer: known(&self.color_transfer),
        }
    }

    /// Its codec, or else the tag in the file.
    fn codec(&self) -> String {
        let tag = self.codec_tag_string.clone().filter(|tag| !tag.starts_with('['));
        self.codec_name.clone().or(tag).unwrap_or_else(|| "unknown".into())
    }

    /// A description of the stream if it is one that is never kept.
    fn other(&self) -> Option<String> {
        let kind = match self.codec_type.as_deref() {
            Some("video") if self.disposition.attached_pic != 0 => "a cover picture",
            Some("video") => "another picture",
            Some("audio" | "subtitle" | "attachment") => return None,
            _ => "data",
        };
        Some(format!("{kind} ({})", self.codec()))
    }
}

/// Inspects a video. `name` is what users call it.
pub(crate) async fn look(ctx: &TaskContext, path: &Path, name: &str) -> Result<Video, Failure> {
    let bad = |why: &str| failure(FailureKind::Invalid, format!("{name} {why}."));
    if is_text(path).map_err(|error| storage_failure(name, &error))? {
        return Err(bad(&format!("is a text and no video. If {PLAYLIST}")));
    }
    let mut command = Command::new(&ctx.config.programs.ffprobe);
    command.args(["-v", "error", "-show_streams", "-show_format", "-show_pixel_formats"]);
    command.args(["-of", "json"]).args(reading(path));
    let needs = Confinement::default().reads(path);
    let text = output(&command, &needs, PROBE).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => spawn_failure(&command, &error),
        _ => bad(&format!(
            "cannot be read as a video: it is damaged, or none of the kinds that are read ({})",
            video_extensions()
        )),
    })?;
    let output: ProbeOutput =
        serde_json::from_str(&text).map_err(|error| bad(&format!("is not understood: {error}")))?;
    let ProbeOutput { streams, format, pixel_formats } = output;
    let is_picture = |s: &&Stream| s.is("video") && s.disposition.attached_pic == 0;
    let place = streams.iter().position(|stream| is_picture(&stream));
    let place = place.ok_or_else(|| bad("has no pictures"))?;
    let stream = &streams[place];
    let codecs = |kind: &str| {
        streams.iter().filter(|stream| stream.is(kind)).map(Stream::codec).collect::<Vec<_>>()
    };
    let others = streams[..place].iter().chain(&streams[place + 1..]).filter_map(Stream::other);
    let (size, turned) = upright(stream).ok_or_else(|| bad("does not say how large it is"))?;
    let time_base = stream.time_base.as_deref().and_then(fraction);
    let time_base = time_base.ok_or_else(|| bad("has no time stamps"))?;
    let pixels = pixel_formats.iter().find(|f| Some(&f.name) == stream.pix_fmt.as_ref());
    let depth = pixels.into_iter().flat_map(|f| &f.components).map(|c| c.bit_depth).max();
    let decoder = transparent_decoder(ctx, path, name, stream).await?;
    let timing = Said::of(stream, &format, time_base, path).times(ctx, path, name).await?;
    Ok(Video {
        size,
        deep: depth.is_some_and(|bits| bits > 8),
        alpha: decoder.is_some() || pixels.is_some_and(|format| format.flags.alpha != 0),
        grey: stream.pix_fmt.as_deref().is_some_and(|format| format.starts_with("gray")),
        decoder,
        times: timing.times,
        keys: timing.keys,
        end: timing.end,
        time_base,
        start: seconds(format.start_time.as_deref()).unwrap_or(0.0),
        numbers: Ranges::count(0),
        colours: stream.colours(),
        pixel_shape: pixel_shape(stream, turned),
        sound: codecs("audio"),
        subtitles: codecs("subtitle"),
        attachments: codecs("attachment"),
        timecode: format.tags.timecode.is_some(),
        others: others.collect(),
    })
}

/// Whether the file begins with text, like a list of other files; no video does.
fn is_text(path: &Path) -> std::io::Result<bool> {
    let mut head = Vec::new();
    std::fs::File::open(path)?.take(HEAD).read_to_end(&mut head)?;
    let is_control = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    Ok(!head.is_empty() && !head.iter().any(is_control))
}

/// The decoder for a transparent VP8 or VP9: ffmpeg's own decoders drop the transparency.
async fn transparent_decoder(
    ctx: &TaskContext,
    path: &Path,
    name: &str,
    stream: &Stream,
) -> Result<Option<String>, Failure> {
    let decoder = match stream.codec_name.as_deref() {
        Some("vp8") => "libvpx",
        Some("vp9") => "libvpx-vp9",
        _ => return Ok(None),
    };
    if stream.tags.alpha_mode.as_deref().is_none_or(|mode| mode == "0") {
        return Ok(None);
    }
    let mut command = Command::new(&ctx.config.programs.ffmpeg);
    command.args(["-hide_banner", "-nostdin", "-v", "error", "-c:v", decoder]).args(reading(path));
    command.args(["-map", "0:V:0", "-frames:v", "1", "-f", "null", "-"]);
    let needs = Confinement::default().reads(path);
    if run_program(ctx.supervision(), &command, &needs, &mut |_| true).await?.success() {
        return Ok(Some(decoder.to_owned()));
    }
    ctx.note(format!("the transparency of {name} is left out: ffmpeg here lacks {decoder}"));
    Ok(None)
}

/// The size at which it is shown, and whether it is rotated by 90 degrees for that.
fn upright(stream: &Stream) -> Option<(Resolution, bool)> {
    let (width, height) = (stream.width?, stream.height?);
    let rotation = stream.side_data_list.iter().find_map(|data| data.rotation).unwrap_or(0.0);
    let turned = (rotation.abs() % 180.0 - 90.0).abs() < 1.0;
    let size = if turned {
        Resolution { width: height, height: width }
    } else {
        Resolution { width, height }
    };
    (size.width > 0 && size.height > 0).then_some((size, turned))
}

/// The aspect ratio of a pixel once it is upright; `None` if it is a square.
fn pixel_shape(stream: &Stream, turned: bool) -> Option<String> {
    let shape = stream.sample_aspect_ratio.as_deref()?;
    let (width, height) = shape.split_once(':')?;
    let known = !matches!(shape, "1:1" | "0:1" | "1:0");
    known.then(|| if turned { format!("{height}:{width}") } else { shape.to_owned() })
}

fn fraction(text: &str) -> Option<(i64, i64)> {
    let (top, bottom) = text.split_once('/')?;
    let (top, bottom) = (top.parse().ok()?, bottom.parse().ok()?);
    (top > 0 && bottom > 0).then_some((top, bottom))
}

fn seconds(text: Option<&str>) -> Option<f64> {
    text?.parse().ok()
}

/// Parses ffmpeg's `-progress` output and reports the number of frames done. Keeps all of its lines out of the log.
pub(crate) fn frames_done(ctx: &TaskContext, count: usize) -> impl FnMut(&str) -> bool {
    move |line| {
        let done = line.strip_prefix("frame=").and_then(|done| done.trim().parse::<usize>().ok());
        if let Some(done) = done {
            let thousandths = u16::try_from(done * 1000 / count).unwrap_or(1000);
            ctx.progress.report(f32::from(thousandths) / 1000.0, &format!("frame {done}/{count}"));
        }
        false
    }
}
