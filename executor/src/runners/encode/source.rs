//! The video that pictures were taken from: its time stamps, sound, subtitles and metadata.
//!
//! ffmpeg's `concat` reads the pictures from a list with their durations. Time stamps are whole microseconds there,
//! multiples of 1/90,000 s in the encoder, and of 1 ms in Matroska.

use super::streams::Streams;
use super::{Plan, Probed, coded, filters, has_extension, words};
use crate::ground::failure::{failure, storage_failure};
use crate::programs::process::{program_failure, run as run_program};
use crate::runners::source::{Info, info};
use crate::runners::video::{Coding, Video, reading, reading_pictures};
use crate::task::TaskContext;
use pictor_tasks::body::{Codec, Encode};
use pictor_tasks::message::{Failure, FailureKind, Input};
use pictor_tasks::space::frame_dim;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// The file name of the list of pictures.
const LIST: &str = "pictures.ffconcat";

/// The video that the pictures were taken from.
pub(super) struct Source {
    path: PathBuf,
    video: Video,
    /// The streams that are kept besides the pictures.
    streams: Streams,
    /// The time stamps of the pictures, of which there is at least one.
    times: Vec<i64>,
    /// The part of the source that is used, in seconds from its start; `None` for all of it.
    cut: Option<(f64, f64)>,
    /// The time of the first picture, in seconds from the start of the result.
    offset: f64,
    /// The approximate frame rate per second.
    rate: f64,
    /// The time of the last picture and its duration, in units of 1/90,000 s.
    last_time: i64,
    last: i64,
    /// Whether the result has a constant rate.
    constant: bool,
}

/// What `probe` found out about the source.
pub(super) async fn video(ctx: &TaskContext, name: &str) -> Result<Video, Failure> {
    let Some(Info::Video(video)) = info(ctx).await? else {
        let message = format!("{} needs a `probe` step of {name}.", ctx.brief.step);
        return Err(failure(FailureKind::Invalid, message));
    };
    Ok(*video)
}

/// Sorts the pictures into the order in which the source shows them, and returns their time stamps.
pub(super) fn in_time(
    video: &Video,
    name: &str,
    pictures: &mut [&Input],
) -> Result<Vec<i64>, Failure> {
    let invalid = |message: String| failure(FailureKind::Invalid, message);
    let dim = counting(pictures).map(ToOwned::to_owned);
    let number = |picture: &Input| picture.coordinates.number(dim.as_deref()?);
    pictures.sort_by_key(|picture| number(picture));
    if let Some(pair) = pictures.windows(2).find(|pair| number(pair[0]) == number(pair[1]))
        && let Some(frame) = number(pair[0])
    {
        let (one, two) = (pair[0], pair[1]);
        return Err(invalid(format!("There are two pictures of frame {frame}: {one} and {two}.")));
    }
    let time = |picture: &&Input| {
        let time = number(picture).and_then(|number| video.time(number));
        time.ok_or_else(|| invalid(format!("{picture} is not a frame of {name}.")))
    };
    pictures.iter().map(time).collect()
}

/// The dimension of the frame number: `frame`, or else the only one in which the pictures differ.
fn counting<'a>(pictures: &[&'a Input]) -> Option<&'a str> {
    let first = &pictures.first()?.coordinates.0;
    let names = first.keys().map(String::as_str);
    let differs = |name: &&str| {
        let value = first.get(*name);
        pictures.iter().any(|picture| picture.coordinates.0.get(*name) != value)
    };
    frame_dim(names.clone()).or_else(|| {
        let differing: Vec<&str> = names.clone().filter(differs).collect();
        let candidates = if differing.is_empty() { names.collect() } else { differing };
        <[&str; 1]>::try_from(candidates).ok().map(|[name]| name)
    })
}

impl Source {
    /// The source at a path, called `name`, for pictures with these time stamps, at least one. Reports what cannot be
    /// kept of it.
    pub(super) async fn new(
        ctx: &TaskContext,
        (body, plan): (&Encode, &Plan),
        (path, name): (&Path, &str),
        video: Video,
        times: Vec<i64>,
    ) -> Result<Self, Failure> {
        let mut streams = Streams::default();
        let mut notes = video.colours.notes(name);
        if body.keep_audio.unwrap_or(true) {
            let (kept, said) = Streams::choose(ctx, path, name, &video, &plan.file).await?;
            streams = kept;
            notes.extend(said);
        }
        if video.timecode && !has_extension(&plan.file, "mkv") {
            notes.push(format!(
                "the time code of {name} is not kept in {}; .mkv keeps it",
                plan.file
            ));
        }
        for note in notes {
            ctx.note(note);
        }
        plan.say(ctx, name, video.alpha, video.deep);
        Ok(Self::timed(body, path, (video, streams), times))
    }

    fn timed(body: &Encode, path: &Path, of: (Video, Streams), times: Vec<i64>) -> Self {
        let (video, streams) = of;
        let numbers = &video.numbers;
        let last_number = numbers.iter().last().unwrap_or(1);
        let whole = numbers.iter().next() == Some(1) && numbers.len() as usize == video.times.len();
        // Pictures missing at the end are covered by the last one that exists.
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
            path: path.to_owned(),
            streams,
            cut,
            offset,
            rate: f64::from(count) / length,
            last_time: ticks_of(offset) + ticks(last - first),
            last: ticks(end - last).max(1),
            constant: body.fps.is_some(),
            times,
            video,
        }
    }

    /// Writes the list of pictures into a folder, each with its own duration, so that rounding errors never add up.
    pub(super) fn write_list(&self, folder: &Path, extension: &str) -> Result<(), Failure> {
        let (top, bottom) =
            (i128::from(self.video.time_base.0), i128::from(self.video.time_base.1));
        let micros =
            |time: i64| (i128::from(time) * top * 1_000_000 + bottom / 2).div_euclid(bottom);
        let times = &self.times;
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
        std::fs::write(folder.join(LIST), list)
            .map_err(|error| storage_failure(&format!("{LIST} cannot be written"), &error))
    }

    /// Decodes all pictures of the list: at a constant rate, the number of frames would not reveal that one is missing.
    pub(super) async fn check_pictures(&self, ctx: &TaskContext) -> Result<(), Failure> {
        if !self.constant {
            return Ok(());
        }
        let mut command = Command::new(&ctx.config.programs.ffmpeg);
        command.args(words("-hide_banner -nostdin -v warning -xerror -err_detect explode"));
        command.args(reading_pictures());
        command.args(words(&format!("-f concat -safe 0 -i {LIST} -f null -")));
        let status =
            run_program(ctx.supervision(), &command, &ctx.confinement(), &mut |_| false).await?;
        if status.success() { Ok(()) } else { Err(program_failure(&ctx.log, "ffmpeg", status)) }
    }

    /// ffmpeg's arguments, without the name of the result. An error in the source's sound, which many recordings have,
    /// does not make it fail; a picture that cannot be decoded makes the frame count wrong.
    pub(super) fn arguments(&self, plan: &Plan, size: &Probed) -> Vec<OsString> {
        let mut all = words("-y -hide_banner -nostdin -v warning -err_detect explode");
        all.extend(reading_pictures());
        all.extend(words(&format!("-itsoffset {:.6} -f concat -safe 0 -i {LIST}", self.offset)));
        if let Some((start, end)) = self.cut {
            all.extend(words(&format!("-ss {start:.6} -to {end:.6}")));
        }
        let mut all: Vec<OsString> = all.into_iter().map(OsString::from).collect();
        all.extend(reading(&self.path));
        all.extend(self.results(plan, size).into_iter().map(OsString::from));
        all
    }

    fn results(&self, plan: &Plan, size: &Probed) -> Vec<String> {
        let mut all = words("-map 0:v:0 -map_metadata 1");
        // Chapter times count from the start of the source.
        all.extend(words(if self.cut.is_some() { "-map_chapters -1" } else { "-map_chapters 1" }));
        let colours = self.colours(size);
        let shape = self.video.pixel_shape.as_ref();
        let shape = shape.map(|shape| format!("setsar={}", shape.replace(':', "/")));
        let last = shape.unwrap_or_default();
        all.extend(["-vf".to_owned(), filters(plan, size, &colours, &last)]);
        all.extend(coded(plan, &colours));
        if !has_extension(&plan.file, "mkv") {
            // It would count in the time base of the list, which is too fast for a time code, and write a broken file.
            all.extend(words("-write_tmcd 0"));
        }
        if self.constant {
            all.extend(words(&format!("-fps_mode cfr -r {}", plan.rate)));
        } else {
            all.extend(words("-fps_mode passthrough -enc_time_base 1:90000"));
            if plan.codec == Codec::H264 {
                // The encoder would take the list's time base for the rate, and declare a level that few players
                // support.
                all.extend(words(&format!(
                    "-x264-params fps={:.3}",
                    self.rate.clamp(0.001, 1000.0)
                )));
            }
            all.push("-bsf:v".to_owned());
            if has_extension(&plan.file, "mkv") {
                all.push(self.last_duration());
            } else {
                all.push(self.durations());
                all.extend(words("-video_track_timescale 90000"));
            }
        }
        if self.cut.is_some() {
            // Sound from before the cut would start too early.
            all.extend(words("-copypriorss 0"));
        }
        all.extend(self.streams.arguments(1));
        all.extend(words("-progress pipe:1"));
        all
    }

    /// The duration of Matroska's last packet in milliseconds, so that the film ends with it.
    fn last_duration(&self) -> String {
        let (last_time, last) = (self.last_time / 90, (self.last + 45) / 90);
        format!("setts=pts=PTS:dts=DTS:duration=if(gte(PTS\\,{last_time})\\,{last}\\,DURATION)")
    }

    /// The durations of MP4's packets, as an ffmpeg bitstream filter. The encoder gives each packet almost none, and
    /// MP4 depends on two of them: that of the packet shown last gives the end of the picture, and that of the packet
    /// decoded last gives the length of the track. Where both are the same packet, the first counts.
    fn durations(&self) -> String {
        let Self { last_time, last, .. } = self;
        let end = last_time + last;
        let track = end - ticks_of(self.offset);
        let decoded_last = format!("max(1\\,min({track}-DTS+STARTDTS\\,{end}-PTS))");
        let shown_last = format!("if(gte(PTS\\,{last_time}-45)\\,{last}\\,DURATION)");
        format!(
            "setts=pts=PTS:dts=DTS:duration=if(eq(N\\,{})\\,{decoded_last}\\,{shown_last})",
            self.times.len().saturating_sub(1)
        )
    }

    /// The colours of the result, which are the source's.
    fn colours(&self, size: &Probed) -> Coding {
        self.video.colours.coding(self.video.side(), size.width.min(size.height))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "seconds of a video, at most a few days")]
fn ticks_of(seconds: f64) -> i64 {
    (seconds * 90_000.0) as i64
}
