//! What a video is, by ffprobe: the time stamp of every frame, its colours, its shape.

use crate::process::{output, program_failure, run as run_program, spawn_failure};
use crate::task::{TaskContext, failure};
use pictor_tasks::message::{Failure, FailureKind};
use pictor_tasks::range::Ranges;
use pictor_tasks::units::Resolution;
use serde::{Deserialize, Serialize};
use std::path::Path;
use tokio::process::Command;
use tokio::time::Duration;

/// How long looking at the header may take.
const PROBE: Duration = Duration::from_mins(1);
/// Frames of a video at most: three days at 60 a second.
const FRAMES_MAX: usize = 16_000_000;

/// A video.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Video {
    /// Width and height, upright.
    pub(crate) size: Resolution,
    /// Whether samples have more than 8 bits.
    pub(crate) deep: bool,
    /// The time stamps of all frames, in order, in units of `time_base` seconds. Frame 1 is the first.
    pub(crate) times: Vec<i64>,
    /// When the last frame ends.
    pub(crate) end: i64,
    /// Numerator and denominator.
    pub(crate) time_base: (i64, i64),
    /// When the file starts, sound included, in seconds.
    pub(crate) start: f64,
    /// The frames that are wanted.
    pub(crate) numbers: Ranges,
    /// What the file says of its colours.
    pub(crate) colours: Colours,
    /// The shape of a pixel, as in `4:3`; nothing if it is a square.
    pub(crate) pixel_shape: Option<String>,
    /// The codecs of its sound, in order.
    pub(crate) sound: Vec<String>,
    /// The codecs of its subtitles, in order.
    pub(crate) subtitles: Vec<String>,
}

/// ffmpeg's names of the properties of colours; nothing where the file does not say.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Colours {
    /// From red, green and blue to luma and chroma.
    pub(crate) matrix: Option<String>,
    /// The primaries.
    pub(crate) primaries: Option<String>,
    /// The transfer function.
    pub(crate) transfer: Option<String>,
}

impl Video {
    /// The numbers of all frames.
    pub(crate) fn all_numbers(&self) -> Ranges {
        let count = u32::try_from(self.times.len()).expect("limited when it was probed");
        format!("1-{count}").parse().expect("a range of at least one frame")
    }

    /// The time stamp of a frame.
    pub(crate) fn time(&self, number: i64) -> Option<i64> {
        self.times.get(usize::try_from(number.checked_sub(1)?).ok()?).copied()
    }

    /// A time in seconds.
    #[expect(clippy::cast_precision_loss, reason = "less than a microsecond in a century")]
    pub(crate) fn seconds(&self, time: i64) -> f64 {
        time as f64 * self.time_base.0 as f64 / self.time_base.1 as f64
    }

    /// The matrix of the colours. Without a word of the file: that of its size.
    pub(crate) fn matrix(&self) -> &str {
        let usual =
            if self.size.height.min(self.size.width) >= 720 { "bt709" } else { "smpte170m" };
        self.colours.matrix.as_deref().filter(|name| SCALE_MATRICES.contains(name)).unwrap_or(usual)
    }

    /// ffmpeg's filter from the video's samples to red, green and blue.
    pub(crate) fn to_rgb(&self) -> String {
        format!(
            "scale=in_color_matrix={}:out_range=pc:\
             flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp",
            self.matrix()
        )
    }
}

/// The matrices that ffmpeg's `scale` knows by these names.
const SCALE_MATRICES: [&str; 7] =
    ["bt709", "fcc", "smpte170m", "bt470bg", "smpte240m", "bt2020nc", "bt2020"];

/// What ffprobe says of a file.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Format,
}

#[derive(Deserialize, Default)]
struct Format {
    start_time: Option<String>,
}

#[derive(Deserialize)]
struct Stream {
    codec_type: Option<String>,
    codec_name: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    pix_fmt: Option<String>,
    time_base: Option<String>,
    sample_aspect_ratio: Option<String>,
    color_space: Option<String>,
    color_primaries: Option<String>,
    color_transfer: Option<String>,
    #[serde(default)]
    disposition: Disposition,
    #[serde(default)]
    side_data_list: Vec<SideData>,
}

#[derive(Deserialize, Default)]
struct Disposition {
    #[serde(default)]
    attached_pic: u8,
}

#[derive(Deserialize)]
struct SideData {
    rotation: Option<f64>,
}

/// Looks at a video. `name` is what people call it.
pub(crate) async fn look(ctx: &TaskContext, path: &Path, name: &str) -> Result<Video, Failure> {
    let bad = |why: &str| failure(FailureKind::Invalid, format!("{name} {why}."));
    let mut command = Command::new(&ctx.config.programs.ffprobe);
    command.args(["-v", "error", "-show_streams", "-show_format", "-of", "json"]).arg(path);
    let text = output(&mut command, PROBE).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => spawn_failure(&command, &error),
        _ => bad("cannot be read as a video: it is damaged, or no video"),
    })?;
    let answer: Answer =
        serde_json::from_str(&text).map_err(|error| bad(&format!("is not understood: {error}")))?;
    let Answer { streams, format } = answer;
    let is = |stream: &&Stream, kind: &str| stream.codec_type.as_deref() == Some(kind);
    let picture = |stream: &&Stream| is(stream, "video") && stream.disposition.attached_pic == 0;
    let stream = streams.iter().find(picture).ok_or_else(|| bad("has no pictures"))?;
    let codecs = |kind: &str| {
        let of_kind = streams.iter().filter(|stream| is(stream, kind));
        of_kind.map(|s| s.codec_name.clone().unwrap_or_default()).collect::<Vec<_>>()
    };
    let (sound, subtitles) = (codecs("audio"), codecs("subtitle"));
    let size = upright(stream).ok_or_else(|| bad("does not say how large it is"))?;
    let time_base = stream.time_base.as_deref().and_then(fraction);
    let time_base = time_base.ok_or_else(|| bad("has no time stamps"))?;
    let (times, end) = times(ctx, path, name).await?;
    let known = |text: &Option<String>| text.clone().filter(|text| text != "unknown");
    let shape = known(&stream.sample_aspect_ratio);
    Ok(Video {
        size,
        deep: stream.pix_fmt.as_deref().is_some_and(is_deep),
        times,
        end,
        time_base,
        start: format.start_time.and_then(|text| text.parse().ok()).unwrap_or(0.0),
        numbers: Ranges::count(0),
        colours: Colours {
            matrix: known(&stream.color_space),
            primaries: known(&stream.color_primaries),
            transfer: known(&stream.color_transfer),
        },
        pixel_shape: shape.filter(|shape| !matches!(shape.as_str(), "1:1" | "0:1" | "N/A")),
        sound,
        subtitles,
    })
}

fn upright(stream: &Stream) -> Option<Resolution> {
    let (width, height) = (stream.width?, stream.height?);
    let rotation = stream.side_data_list.iter().find_map(|data| data.rotation).unwrap_or(0.0);
    let turned = (rotation.abs() % 180.0 - 90.0).abs() < 1.0;
    let size = if turned {
        Resolution { width: height, height: width }
    } else {
        Resolution { width, height }
    };
    (size.width > 0 && size.height > 0).then_some(size)
}

/// Whether samples of ffmpeg's pixel format have more than 8 bits: `yuv420p10le`, `p010le`, `gray16be`.
fn is_deep(format: &str) -> bool {
    let name = format.trim_end_matches("le").trim_end_matches("be");
    let ends_deep = ["9", "10", "12", "14", "16"].iter().any(|bits| {
        name.strip_suffix(bits).is_some_and(|rest| rest.ends_with(|c: char| !c.is_ascii_digit()))
    });
    name != format && (ends_deep || name.contains("48") || name.contains("64") || is_p0(name))
}

fn is_p0(name: &str) -> bool {
    matches!(name, "p010" | "p012" | "p016" | "p210" | "p216" | "p410" | "p416")
}

fn fraction(text: &str) -> Option<(i64, i64)> {
    let (top, bottom) = text.split_once('/')?;
    let (top, bottom) = (top.parse().ok()?, bottom.parse().ok()?);
    (top > 0 && bottom > 0).then_some((top, bottom))
}

/// The time stamps of all frames and the end of the last: by the packets, which is quick, or, where they
/// have no time stamps, by decoding everything.
async fn times(ctx: &TaskContext, path: &Path, name: &str) -> Result<(Vec<i64>, i64), Failure> {
    let packets = ["-show_entries", "packet=pts,duration,flags"];
    if let Some(found) = list(ctx, path, &packets).await? {
        return Ok(found);
    }
    let frames = ["-show_entries", "frame=best_effort_timestamp,pkt_duration"];
    list(ctx, path, &frames).await?.ok_or_else(|| {
        failure(FailureKind::Invalid, format!("{name} has no frames, or they have no time stamps."))
    })
}

async fn list(
    ctx: &TaskContext,
    path: &Path,
    what: &[&str],
) -> Result<Option<(Vec<i64>, i64)>, Failure> {
    let mut command = Command::new(&ctx.config.programs.ffprobe);
    command.args(["-v", "error", "-select_streams", "V:0"]).args(what);
    command.args(["-of", "csv=p=0"]).arg(path);
    let (mut times, mut unknown): (Vec<(i64, i64)>, bool) = (Vec::new(), false);
    let mut on_line = |line: &str| {
        let mut fields = line.split(',');
        let time = fields.next().and_then(|field| field.parse().ok());
        let duration = fields.next().and_then(|field| field.parse().ok()).unwrap_or(0);
        // Marked `D`: decoded for those that follow, and never shown.
        let shown = !fields.next().is_some_and(|flags| flags.contains('D'));
        match time {
            Some(time) if shown && times.len() < FRAMES_MAX => times.push((time, duration)),
            Some(_) => {}
            None => unknown |= !line.is_empty(),
        }
        if times.len() % 10_000 == 1 {
            ctx.progress.report(0.0, &format!("{} frames", times.len()));
        }
        false
    };
    let status = run_program(ctx, &mut command, &mut on_line).await?;
    if !status.success() && times.is_empty() {
        return Err(program_failure(ctx, "ffprobe", status));
    }
    times.sort_unstable();
    times.dedup_by_key(|(time, _)| *time);
    let Some((last, duration)) = times.last().copied().filter(|_| !unknown) else {
        return Ok(None);
    };
    let before = times.len().checked_sub(2).map(|at| times[at].0);
    let usual = before.map_or(1, |before| last - before);
    let end = last + if duration > 0 { duration } else { usual };
    Ok(Some((times.into_iter().map(|(time, _)| time).collect(), end)))
}

/// Reads ffmpeg's `-progress`: how many of so many frames are done. No line of it goes into the log.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_more_than_eight_bits_are_known() {
        for (format, deep) in [
            ("yuv420p", false),
            ("yuv410p", false),
            ("nv12", false),
            ("rgb24", false),
            ("yuv420p10le", true),
            ("yuv422p12be", true),
            ("gray16le", true),
            ("p010le", true),
            ("rgb48le", true),
            ("gbrp", false),
        ] {
            assert_eq!(is_deep(format), deep, "{format}");
        }
    }
}
