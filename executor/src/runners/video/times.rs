//! The time stamps of a video's frames, and what is missing from a truncated file.

use super::{Format, Stream, fraction, reading, seconds};
use crate::ground::failure::failure;
use crate::programs::Confinement;
use crate::programs::process::{program_failure, run as run_program};
use crate::task::TaskContext;
use pictor_tasks::message::{Failure, FailureKind};
use pictor_tasks::range::Ranges;
use std::io::Read as _;
use std::path::Path;
use tokio::process::Command;

/// The most frames of a video: three days at 60 per second.
const FRAMES_MAX: usize = 16_000_000;
/// The most key frames that are listed.
const KEYS_MAX: usize = 50_000;
/// The most seconds by which a time stamp may be earlier than that of the packet before.
const BACK_MAX: f64 = 0.5;
/// The tolerance in seconds between the end of a file and the end that it states.
const END_OFF: f64 = 0.05;
/// Containers whose duration is the time of the end, whenever they begin.
const LASTING_TO: [&str; 3] = ["matroska,webm", "flv", "asf"];
/// Containers of which a packet is marked as damaged only if the file ends within it.
const CUT_PACKETS: [&str; 1] = ["mov,mp4,m4a,3gp,3g2,mj2"];
/// The object of a WMV or ASF file that states its size; it lies within this many bytes from the start.
const ASF_FILE: &[u8] = b"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11\x8e\xe4\x00\xc0\x0c\x20\x53\x65";
const ASF_HEAD: u64 = 1 << 16;

/// The frames of a video.
pub(super) struct Timing {
    /// The time stamp of each, in order.
    pub(super) times: Vec<i64>,
    /// The end of the last.
    pub(super) end: i64,
    /// The numbers of those at which decoding can start; `None` if there are none.
    pub(super) keys: Option<Ranges>,
}

/// What a file states about its length.
pub(super) struct Said {
    time_base: (i64, i64),
    /// The number of frames.
    frames: Option<usize>,
    /// The end in seconds, and whether it is the end of the picture rather than of the whole file.
    end: Option<(f64, bool)>,
    /// The number of bytes of the file.
    bytes: Option<u64>,
    /// Whether frames are shown in another order than they are decoded in.
    reordered: bool,
    /// Whether packets that are marked as damaged are left out.
    discards: bool,
}

/// A frame as read: its time stamp, if it has one, and its duration; 0 if that is not known.
#[derive(Clone, Copy)]
struct Frame {
    time: Option<i64>,
    duration: i64,
    key: bool,
}

/// What was read from the packets or frames.
#[derive(Default)]
struct Read {
    /// In the order in which they were read.
    frames: Vec<Frame>,
    /// The number of packets that are decoded only as references for others.
    hidden: usize,
    /// The latest decoding time stamp, and the latest end by it.
    decoded: Option<i64>,
    decoded_end: Option<i64>,
    /// Whether any frame is shown at another time than it is decoded at.
    delayed: bool,
    /// The number of frames before the time went back, if it did.
    back: Option<usize>,
}

impl Said {
    pub(super) fn of(stream: &Stream, format: &Format, time_base: (i64, i64), path: &Path) -> Self {
        let is = |names: &[&str]| names.contains(&format.name.as_str());
        let end = |start: &Option<String>, duration: &Option<String>| {
            let start = seconds(start.as_deref()).filter(|_| !is(&LASTING_TO)).unwrap_or(0.0);
            seconds(duration.as_deref()).map(|duration| start + duration)
        };
        let of_stream = end(&stream.start_time, &stream.duration).map(|end| (end, true));
        let of_file = || end(&format.start_time, &format.duration).map(|end| (end, false));
        let frames: Option<u32> = stream.nb_frames.as_deref().and_then(|text| text.parse().ok());
        // Where the index is missing, the duration is estimated from the size of the file.
        let rate = stream.avg_frame_rate.as_deref().and_then(fraction);
        let counted = frames.zip(rate).and_then(|(frames, (top, bottom))| {
            let start = seconds(stream.start_time.as_deref())?;
            Some((start + f64::from(frames) * ratio(bottom, top), true))
        });
        let of_stream = of_stream.map(|(end, of)| (counted.map_or(end, |(by, _)| end.max(by)), of));
        let frames = frames.and_then(|frames| frames.try_into().ok());
        Self {
            time_base,
            frames,
            end: of_stream.or(counted).or_else(of_file),
            bytes: (format.name == "asf").then(|| stated_bytes(path)).flatten(),
            reordered: stream.has_b_frames > 0,
            discards: is(&CUT_PACKETS),
        }
    }

    /// The time stamps of all frames and the end of the last: from the packets, which is quick, or, where these have no
    /// time stamps or the file is truncated, by decoding everything.
    pub(super) async fn times(
        &self,
        ctx: &TaskContext,
        path: &Path,
        name: &str,
    ) -> Result<Timing, Failure> {
        let invalid = |message: String| failure(FailureKind::Invalid, message);
        let mut read = self.list(ctx, path, "packet=pts,dts,duration,flags").await?;
        if let Some(frames) = read.back {
            return Err(invalid(format!(
                "The time stamps of {name} go back after {frames} frames, as where recordings were joined. \
                 Give it new ones, as in `ffmpeg -i INPUT -c copy NEW.mkv`, and take that."
            )));
        }
        let packets = read.frames.len() + read.hidden;
        let bytes = path.metadata().map_or(u64::MAX, |found| found.len());
        let cut = self.bytes.filter(|said| bytes < *said);
        let short = cut.is_some() || self.is_short(ctx, path, packets, &read).await?;
        let doubtful = self.reordered && !read.delayed;
        if short || doubtful || read.frames.iter().any(|frame| frame.time.is_none()) {
            let what = "frame=key_frame,best_effort_timestamp,pkt_duration,duration";
            read = self.list(ctx, path, what).await?;
        }
        if doubtful && !read.frames.iter().filter_map(|frame| frame.time).is_sorted() {
            return Err(invalid(format!(
                "The time stamps of {name} are in the order in which frames are decoded, not in that in which \
                 they are shown. Code it anew, as in \
                 `ffmpeg -i INPUT -vf setpts=N/FR/TB -c:v ffv1 -c:a copy NEW.mkv`, and take that."
            )));
        }
        let before = read.frames.len();
        let (mut frames, end) = read.times().ok_or_else(|| {
            invalid(format!("{name} has no frames, or they have no time stamps."))
        })?;
        frames.dedup_by_key(|(time, _)| *time);
        let keys: Vec<i64> =
            (1..).zip(&frames).filter(|(_, (_, key))| *key).map(|(number, _)| number).collect();
        let times: Vec<i64> = frames.into_iter().map(|(time, _)| time).collect();
        let count = times.len();
        if count < before {
            let lost = before - count;
            ctx.note(format!(
                "{lost} frames of {name} have no time stamp, or that of another frame, and are left out"
            ));
        }
        if short {
            ctx.note(self.missing(name, count, end, cut.map(|said| (said, bytes))));
        }
        // Some of them suffice where there are too many for a list.
        let some = || keys.iter().copied().step_by(keys.len() / KEYS_MAX + 1).collect::<Vec<_>>();
        let keys = Ranges::from_values(&keys).or_else(|_| Ranges::from_values(&some())).ok();
        Ok(Timing { times, end, keys: keys.filter(|keys| !keys.is_empty()) })
    }

    /// Says what a truncated file should have, and what it has. `cut`: the bytes that it states and has.
    fn missing(&self, name: &str, count: usize, end: i64, cut: Option<(u64, u64)>) -> String {
        let there = self.in_seconds(end);
        match (cut, self.frames, self.end) {
            (Some((said, bytes)), ..) => format!(
                "{name} is cut short: it should have {said} bytes, and has {bytes}, with {count} frames \
                 ({there:.2} s)"
            ),
            (None, Some(frames), _) => format!(
                "{name} is cut short: it should have {frames} frames, and has {count} ({there:.2} s)"
            ),
            (None, None, end) => format!(
                "{name} is cut short: it should last until {:.2} s, and ends at {there:.2} s, after \
                 {count} frames",
                end.map_or(0.0, |(end, _)| end)
            ),
        }
    }

    fn in_seconds(&self, time: i64) -> f64 {
        ratio(time, 1) * ratio(self.time_base.0, self.time_base.1)
    }

    /// Whether the file ends earlier than it states.
    async fn is_short(
        &self,
        ctx: &TaskContext,
        path: &Path,
        packets: usize,
        read: &Read,
    ) -> Result<bool, Failure> {
        let Some((said, of_picture)) = self.end else { return Ok(false) };
        if self.frames.is_some_and(|frames| packets >= frames) {
            return Ok(false);
        }
        let (frames, end) = read.times().unwrap_or_default();
        let Some(end) = read.decoded_end.max((!frames.is_empty()).then_some(end)) else {
            return Ok(false);
        };
        let gaps = i64::try_from(frames.len()).unwrap_or(i64::MAX) - 1;
        let span = frames.last().zip(frames.first()).map_or(0, |(last, first)| last.0 - first.0);
        let usual = span.checked_div(gaps).unwrap_or(0);
        let off = END_OFF + self.in_seconds(usual) / 2.0;
        let end = self.in_seconds(end);
        let is_short = |end: f64| said - end > off;
        if !is_short(end) || of_picture {
            return Ok(is_short(end));
        }
        // Sound may last longer than the picture.
        Ok(is_short(self.end_of_sound(ctx, path).await?.unwrap_or(end)))
    }

    /// The end of the last packet of sound, in seconds.
    async fn end_of_sound(&self, ctx: &TaskContext, path: &Path) -> Result<Option<f64>, Failure> {
        let mut command = Command::new(&ctx.config.programs.ffprobe);
        command.args(["-v", "error", "-select_streams", "a", "-of", "compact=p=0"]);
        command.args(["-show_entries", "packet=pts_time"]).args(reading(path));
        let mut end = None;
        let mut on_line = |line: &str| {
            let time = field(line, "pts_time").and_then(|time| time.parse::<f64>().ok());
            end = time.map(|time| end.map_or(time, |end: f64| end.max(time))).or(end);
            ctx.progress.activity.touch();
            false
        };
        let needs = Confinement::default().reads(path);
        run_program(ctx.supervision(), &command, &needs, &mut on_line).await?;
        Ok(end)
    }

    /// Reads ffprobe's list of all packets or frames.
    async fn list(&self, ctx: &TaskContext, path: &Path, what: &str) -> Result<Read, Failure> {
        let mut command = Command::new(&ctx.config.programs.ffprobe);
        command.args(["-v", "error", "-select_streams", "V:0", "-show_entries", what]);
        if self.discards {
            command.args(["-fflags", "+discardcorrupt"]);
        }
        command.args(["-of", "compact=p=0"]).args(reading(path));
        let mut read = Read::default();
        let mut on_line = |line: &str| {
            read.take(line, |time| self.in_seconds(time));
            if read.frames.len() % 10_000 == 1 {
                ctx.progress.report(0.0, &format!("{} frames", read.frames.len()));
            }
            false
        };
        let needs = Confinement::default().reads(path);
        let status = run_program(ctx.supervision(), &command, &needs, &mut on_line).await?;
        if !status.success() && read.frames.is_empty() {
            return Err(program_failure(&ctx.log, "ffprobe", status));
        }
        Ok(read)
    }
}

impl Read {
    /// Parses one line of ffprobe's output.
    fn take(&mut self, line: &str, in_seconds: impl Fn(i64) -> f64) {
        let number = |name| field(line, name).and_then(|text| text.parse::<i64>().ok());
        let has = |name| field(line, name).is_some();
        if !has("pts") && !has("best_effort_timestamp") {
            return;
        }
        if let Some(decoded) = number("dts") {
            let back = self.decoded.is_some_and(|before| in_seconds(before - decoded) > BACK_MAX);
            if back && self.back.is_none() {
                self.back = Some(self.frames.len());
            }
            self.decoded = Some(decoded);
            self.decoded_end =
                self.decoded_end.max(Some(decoded + number("duration").unwrap_or(0)));
        }
        self.delayed |= number("pts").is_some() && number("pts") != number("dts");
        // Marked `D` (discard): decoded as a reference for later frames, but never shown.
        if field(line, "flags").is_some_and(|flags| flags.contains('D')) {
            self.hidden += 1;
        } else if self.frames.len() < FRAMES_MAX {
            let time = number("pts").or_else(|| number("best_effort_timestamp"));
            let duration = number("duration").or_else(|| number("pkt_duration")).unwrap_or(0);
            let key = field(line, "flags").is_some_and(|flags| flags.contains('K'));
            let key = key || field(line, "key_frame") == Some("1");
            self.frames.push(Frame { time, duration, key });
        }
    }

    /// The times of the frames in order, with whether decoding can start there, and the end of the last. A frame without a time stamp follows the one before
    /// it, as the last ones of a decoder that holds frames back do. Returns `None` if there are no frames.
    fn times(&self) -> Option<(Vec<(i64, bool)>, i64)> {
        let mut step = 1;
        let mut timed: Vec<(i64, i64, bool)> = Vec::with_capacity(self.frames.len());
        for &Frame { time, duration, key } in &self.frames {
            let last = timed.last().map(|(time, ..)| *time);
            let next = last.map(|last| last + step);
            let Some(time) = time.or(next) else { continue };
            step = match (duration, last) {
                (1.., _) => duration,
                (_, Some(last)) if time > last => time - last,
                _ => step,
            };
            timed.push((time, duration, key));
        }
        timed.sort_unstable();
        let &(last, duration, _) = timed.last()?;
        let before = timed.iter().rev().map(|(time, ..)| *time).find(|time| *time < last);
        let usual = before.map_or(1, |before| last - before);
        let end = last + if duration > 0 { duration } else { usual };
        Some((timed.into_iter().map(|(time, _, key)| (time, key)).collect(), end))
    }
}

/// The size in bytes that an ASF file states, unless it is a recorded broadcast, which states none.
fn stated_bytes(path: &Path) -> Option<u64> {
    let mut head = Vec::new();
    std::fs::File::open(path).ok()?.take(ASF_HEAD).read_to_end(&mut head).ok()?;
    let start = head.windows(ASF_FILE.len()).position(|bytes| bytes == ASF_FILE)?;
    let object = head.get(start..start + 92)?;
    let size = u64::from_le_bytes(object[40..48].try_into().ok()?);
    let is_broadcast = object[88] & 1 != 0;
    Some(size).filter(|_| !is_broadcast)
}

#[expect(clippy::cast_precision_loss, reason = "less than a microsecond in a century")]
fn ratio(top: i64, bottom: i64) -> f64 {
    top as f64 / bottom as f64
}

/// The value of `name=value` in a line of such pairs.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split('|').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Read {
        let mut read = Read::default();
        for line in lines {
            read.take(line, |time| ratio(time, 25));
        }
        read
    }

    #[test]
    fn frames_that_the_decoder_gives_up_last_have_no_time_stamps() {
        let lines = [
            "best_effort_timestamp=1|pkt_duration=2",
            "best_effort_timestamp=3|pkt_duration=2|side_data|",
            "best_effort_timestamp=N/A|pkt_duration=2",
            "best_effort_timestamp=N/A|duration=2",
            "",
        ];
        let times = [1, 3, 5, 7].map(|time| (time, false)).to_vec();
        assert_eq!(read(&lines).times(), Some((times, 9)));
        assert_eq!(read(&["best_effort_timestamp=N/A", ""]).times(), None);
    }

    #[test]
    fn packets_come_in_any_order_and_some_are_never_shown() {
        let lines = [
            "pts=-1|dts=-2|duration=1|flags=KD",
            "pts=0|dts=-1|duration=1|flags=K_",
            "pts=3|dts=0|duration=0|flags=__",
            "pts=1|dts=1|duration=1|flags=__",
        ];
        let found = read(&lines);
        assert_eq!((found.hidden, found.back), (1, None));
        assert_eq!(found.times(), Some((vec![(0, true), (1, false), (3, false)], 5)));
        assert_eq!(read(&["pts=100|dts=99", "pts=101|dts=100", "pts=0|dts=0"]).back, Some(2));
    }
}
