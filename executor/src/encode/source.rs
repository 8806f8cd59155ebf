//! The video that pictures were taken from: its time stamps, sound, subtitles and metadata.
//!
//! ffmpeg's `concat` reads the pictures from a list that says how long each one stands. Time stamps are
//! whole microseconds there and multiples of 1/90,000 s in the encoder, of 1 ms in Matroska.

use super::{Colours, Plan, Probed, coded, filters, has_extension, words};
use crate::artifacts::storage_failure;
use crate::task::{TaskContext, failure, text_of};
use crate::upscale::{Files, Info, files_of, info};
use crate::video::Video;
use pictor_tasks::body::{Codec, Encode};
use pictor_tasks::message::{Failure, FailureKind, Input};
use std::fmt::Write as _;

/// The list of pictures.
const LIST: &str = "pictures.ffconcat";
/// Sound that MP4 can hold. Other sound is coded anew.
const MP4_SOUND: [&str; 7] = ["aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"];
/// Subtitles that are texts, and so can be coded anew for any container.
const TEXTS: [&str; 7] = ["subrip", "srt", "ass", "ssa", "mov_text", "webvtt", "text"];

/// The source of the pictures.
pub(super) struct Source {
    path: String,
    /// The file stays as long as this lives.
    _files: Files,
    video: Video,
    keep_sound: bool,
    /// The part of the source that is wanted, in seconds from its start; all of it otherwise.
    cut: Option<(f64, f64)>,
    /// When the first picture comes, in seconds from the start of the result.
    offset: f64,
    /// How many pictures there are.
    count: u32,
    /// Pictures a second, roughly.
    rate: f64,
    /// When the last picture comes and how long it stands, in units of 1/90,000 s.
    last_time: i64,
    last: i64,
    /// Whether the result has one rate.
    constant: bool,
}

impl Source {
    /// Finds the source, and writes the list of pictures.
    pub(super) async fn find(
        ctx: &TaskContext,
        body: &Encode,
        name: &str,
        pictures: &[&Input],
    ) -> Result<Self, Failure> {
        let invalid = |message: String| failure(FailureKind::Invalid, message);
        let Some(Info::Video(video)) = info(ctx).await? else {
            let message = format!("{} needs a `probe` step of {name}.", ctx.brief.step);
            return Err(invalid(message));
        };
        let files = files_of(ctx, name).await?;
        let path = text_of(&files.paths[0])?;
        let mut times = Vec::with_capacity(pictures.len());
        for picture in pictures {
            let number = picture.label.rsplit('=').next().and_then(|text| text.parse().ok());
            let time = number.and_then(|number| video.time(number));
            times.push(time.ok_or_else(|| {
                invalid(format!("{}[{}] is no frame of {name}.", picture.step, picture.label))
            })?);
        }
        let source = Self::new(body, (path, files), *video, &times);
        let list = source.list(&times, &pictures[0].output.key);
        std::fs::write(ctx.scratch.join(LIST), list)
            .map_err(|error| storage_failure(&format!("{LIST} cannot be written"), &error))?;
        for note in source.sound_notes(&body.file) {
            ctx.note(note);
        }
        Ok(source)
    }

    fn new(body: &Encode, (path, files): (String, Files), video: Video, times: &[i64]) -> Self {
        let numbers = &video.numbers;
        let last_number = numbers.iter().last().unwrap_or(1);
        let whole = numbers.iter().next() == Some(1) && numbers.len() as usize == video.times.len();
        // The pictures that are missing at the end are covered by the last one that there is.
        let end = video.time(last_number + 1).unwrap_or(video.end);
        let first_wanted = numbers.iter().next().and_then(|number| video.time(number));
        let first = times.first().copied().unwrap_or(0);
        let from_start = |time: i64| video.seconds(time) - video.start;
        let cut = (!whole).then(|| (from_start(first_wanted.unwrap_or(first)), from_start(end)));
        let origin = cut.map_or(0.0, |(start, _)| start);
        let ticks = |time: i64| {
            let (top, bottom) = (i128::from(video.time_base.0), i128::from(video.time_base.1));
            i64::try_from(i128::from(time) * top * 90_000 / bottom).unwrap_or(i64::MAX)
        };
        let length = video.seconds(end - first).max(1e-3);
        let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
        let offset = (from_start(first) - origin).max(0.0);
        let last = times.last().copied().unwrap_or(first);
        Self {
            _files: files,
            path,
            keep_sound: body.keep_audio.unwrap_or(true),
            cut,
            offset,
            count,
            rate: f64::from(count) / length,
            last_time: ticks_of(offset) + ticks(last - first),
            last: ticks(end - last).max(1),
            constant: body.fps.is_some(),
            video,
        }
    }

    /// The list of pictures: each with its duration, so that rounding never adds up.
    fn list(&self, times: &[i64], key: &str) -> String {
        let (top, bottom) =
            (i128::from(self.video.time_base.0), i128::from(self.video.time_base.1));
        let micros =
            |time: i64| (i128::from(time) * top * 1_000_000 + bottom / 2).div_euclid(bottom);
        let extension = key.rsplit_once('.').map_or("png", |(_, extension)| extension);
        let end = times.last().map_or(0, |last| micros(*last)) + i128::from(self.last) * 100 / 9;
        let ends = times.iter().skip(1).map(|time| micros(*time)).chain([end]);
        let mut list = "ffconcat version 1.0\n".to_owned();
        for (number, (time, end)) in times.iter().zip(ends).enumerate() {
            let micros = (end - micros(*time)).max(1);
            let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
            let _ = writeln!(
                list,
                "file pictures/{number:08}.{extension}\noption framerate 1000000\n\
                 duration {seconds}.{rest:06}"
            );
        }
        list
    }

    /// ffmpeg's arguments, without the name of the result.
    pub(super) fn arguments(&self, plan: &Plan, size: &Probed) -> Vec<String> {
        let mut all = words("-y -hide_banner -nostdin -v warning -xerror -err_detect explode");
        all.extend(words(&format!("-itsoffset {:.6} -f concat -safe 0 -i {LIST}", self.offset)));
        if let Some((start, end)) = self.cut {
            all.extend(words(&format!("-ss {start:.6} -to {end:.6}")));
        }
        all.extend(["-i".to_owned(), self.path.clone()]);
        all.extend(words("-map 0:v:0 -map_metadata 1"));
        // Chapters are counted from the start of the source.
        all.extend(words(if self.cut.is_some() { "-map_chapters -1" } else { "-map_chapters 1" }));
        let colours = self.colours();
        let shape = self.video.pixel_shape.as_ref();
        let shape = shape.map(|shape| format!("setsar={}", shape.replace(':', "/")));
        let last = shape.unwrap_or_default();
        all.extend(["-vf".to_owned(), filters(plan, size, &colours, &last)]);
        all.extend(coded(plan, &colours));
        if self.constant {
            all.extend(words(&format!("-fps_mode cfr -r {}", plan.rate)));
        } else {
            all.extend(words("-fps_mode passthrough -enc_time_base 1:90000"));
            if plan.codec == Codec::H264 {
                // The encoder would take the list's clock for the rate, and claim a level that few play.
                all.extend(words(&format!(
                    "-x264-params fps={:.3}",
                    self.rate.clamp(0.001, 1000.0)
                )));
            }
            if !has_extension(&plan.file, "mkv") {
                all.extend(words("-video_track_timescale 90000"));
                all.extend(["-bsf:v".to_owned(), self.durations()]);
            }
        }
        all.extend(self.streams(&plan.file));
        all.extend(words("-progress pipe:1"));
        all
    }

    /// How long packets of MP4 last, as a filter of them. The encoder thinks that each is over at once, and MP4
    /// asks two of them: the one that is shown last tells when the picture ends, and the one that is
    /// decoded last, how long the track is. Where these are the same packet, the first counts.
    fn durations(&self) -> String {
        let Self { last_time, last, count, .. } = self;
        let end = last_time + last;
        let track = end - ticks_of(self.offset);
        let decoded_last = format!("max(1\\,min({track}-DTS+STARTDTS\\,{end}-PTS))");
        let shown_last = format!("if(gte(PTS\\,{last_time}-45)\\,{last}\\,DURATION)");
        format!(
            "setts=pts=PTS:dts=DTS:duration=if(eq(N\\,{})\\,{decoded_last}\\,{shown_last})",
            count.saturating_sub(1)
        )
    }

    /// The source's colours stay what they were.
    fn colours(&self) -> Colours {
        let matrix = self.video.matrix().to_owned();
        let usual = if matrix == "bt709" { "bt709" } else { "smpte170m" };
        let or_usual = |known: &Option<String>| known.clone().unwrap_or_else(|| usual.to_owned());
        let known = &self.video.colours;
        let (primaries, transfer) = (or_usual(&known.primaries), or_usual(&known.transfer));
        Colours { matrix, primaries, transfer }
    }

    /// What becomes of each stream of sound and of subtitles.
    fn streams(&self, file: &str) -> Vec<String> {
        if !self.keep_sound {
            return words("-an -sn");
        }
        let mut all = Vec::new();
        if self.cut.is_some() {
            // Sound from before the cut would come too early.
            all.extend(words("-copypriorss 0"));
        }
        for (number, codec) in self.video.sound.iter().enumerate() {
            all.extend(words(&format!("-map 1:a:{number}")));
            let action = if holds_sound(file, codec) { "copy" } else { "aac" };
            all.extend(words(&format!("-c:a:{number} {action}")));
        }
        let kept = self.video.subtitles.iter().enumerate();
        let kept = kept.filter_map(|(from, codec)| Some((from, subtitle(file, codec)?)));
        for (to, (from, action)) in kept.enumerate() {
            all.extend(words(&format!("-map 1:s:{from} -c:s:{to} {action}")));
        }
        if has_extension(file, "mkv") {
            // Fonts of subtitles.
            all.extend(words("-map 1:t? -c:t copy"));
        }
        all
    }

    fn sound_notes(&self, file: &str) -> Vec<String> {
        if !self.keep_sound {
            return Vec::new();
        }
        let mut notes = Vec::new();
        let other = self.video.sound.iter().filter(|codec| !holds_sound(file, codec));
        notes.extend(other.map(|c| {
            format!("sound of the codec {c} does not go into {file}: it was coded anew as AAC")
        }));
        let lost = self.video.subtitles.iter().filter(|codec| subtitle(file, codec).is_none());
        notes.extend(lost.map(|c| format!("subtitles of the codec {c} do not go into {file} and were left out; .mkv holds them")));
        notes
    }
}

#[expect(clippy::cast_possible_truncation, reason = "seconds of a video, at most a few days")]
fn ticks_of(seconds: f64) -> i64 {
    (seconds * 90_000.0) as i64
}

fn holds_sound(file: &str, codec: &str) -> bool {
    if has_extension(file, "mkv") {
        return true;
    }
    let pcm = has_extension(file, "mov") && codec.starts_with("pcm_");
    pcm || MP4_SOUND.contains(&codec)
}

/// What makes subtitles of a codec fit the container; nothing if they cannot.
fn subtitle(file: &str, codec: &str) -> Option<&'static str> {
    let is_text = TEXTS.contains(&codec);
    if has_extension(file, "mkv") {
        return Some(if codec == "mov_text" { "srt" } else { "copy" });
    }
    match codec {
        "mov_text" => Some("copy"),
        _ => is_text.then_some("mov_text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_cannot_hold_is_coded_anew_or_left_out() {
        assert!(holds_sound("a.mkv", "vorbis") && !holds_sound("a.mp4", "vorbis"));
        assert!(holds_sound("a.mov", "pcm_s16le") && !holds_sound("a.mp4", "pcm_s16le"));
        assert_eq!(subtitle("a.mp4", "subrip"), Some("mov_text"));
        assert_eq!(subtitle("a.mkv", "mov_text"), Some("srt"));
        assert_eq!(subtitle("a.mkv", "ass"), Some("copy"));
        assert_eq!(subtitle("a.mp4", "hdmv_pgs_subtitle"), None);
    }
}
