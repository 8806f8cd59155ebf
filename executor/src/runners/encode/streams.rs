//! How a source's sound, subtitles and fonts are carried into a video of another format.
//!
//! Which codecs a container should hold, and which of them play there, is known in advance; what this ffmpeg really can
//! write into it (FLAC in MP4, MP3 of 8 kHz) is found out by a trial with the first second, long before the film is
//! finished.

use super::{has_extension, words};
use crate::programs::process::{output, spawn_failure};
use crate::runners::video::{Video, as_file};
use crate::task::TaskContext;
use pictor_tasks::message::Failure;
use std::path::Path;
use tokio::process::Command;
use tokio::time::Duration;

/// Sound codecs that players support in MP4. Other sound is re-encoded.
const MP4_SOUND: [&str; 7] = ["aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"];
/// Text subtitles, which can be converted for any container.
const TEXTS: [&str; 7] = ["subrip", "srt", "ass", "ssa", "mov_text", "webvtt", "text"];
/// A trial that takes longer has begun to write, and counts as successful.
const TRIAL: Duration = Duration::from_mins(1);

/// Streams of the source, each with the action chosen for it.
#[derive(Debug, Default)]
pub(super) struct Streams {
    kept: Vec<Kept>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    /// ffmpeg's letter for its type: `a` for sound, `s` for subtitles, `t` for attachments.
    kind: char,
    /// Its index among those of its type.
    number: usize,
    action: &'static str,
}

impl Streams {
    /// Chooses an action that works for each stream; the sentences say what changes and what is left out. `name` is
    /// what users call the source, `file` the name of the video.
    pub(super) async fn choose(
        ctx: &TaskContext,
        path: &Path,
        name: &str,
        video: &Video,
        file: &str,
    ) -> Result<(Self, Vec<String>), Failure> {
        let (mut kept, mut notes) = (Vec::new(), Vec::new());
        let of_kind = |kind, codecs: &Vec<String>| {
            let codecs = codecs.clone().into_iter().enumerate();
            codecs.map(|(number, codec)| (kind, number, codec)).collect::<Vec<_>>()
        };
        let streams = [
            of_kind('a', &video.sound),
            of_kind('s', &video.subtitles),
            of_kind('t', &video.attachments),
        ]
        .concat();
        let first = |(kind, number, codec): &(char, usize, String)| {
            let action = *actions(file, *kind, codec).first()?;
            Some(Kept { kind: *kind, number: *number, action })
        };
        let best = Self { kept: streams.iter().filter_map(first).collect() };
        let all_work = best.work(ctx, path, file).await?;
        for (kind, number, codec) in &streams {
            let mut chosen = None;
            for action in actions(file, *kind, codec) {
                let stream = Kept { kind: *kind, number: *number, action };
                let alone = Self { kept: vec![stream.clone()] };
                if all_work || alone.work(ctx, path, file).await? {
                    chosen = Some(stream);
                    break;
                }
            }
            notes.extend(note(name, file, *kind, codec, chosen.as_ref()));
            kept.extend(chosen);
        }
        if !video.others.is_empty() {
            notes.push(format!("left out of {name}: {}", video.others.join(", ")));
        }
        Ok((Self { kept }, notes))
    }

    /// ffmpeg's arguments for the streams, taken from its input `input`.
    pub(super) fn arguments(&self, input: usize) -> Vec<String> {
        let mut all = Vec::new();
        for (place, Kept { kind, number, action }) in self.kept.iter().enumerate() {
            let before = self.kept[..place].iter().filter(|stream| stream.kind == *kind).count();
            all.extend(words(&format!("-map {input}:{kind}:{number} -c:{kind}:{before} {action}")));
        }
        all
    }

    /// Whether ffmpeg can write their first second into a file of this format.
    async fn work(&self, ctx: &TaskContext, path: &Path, file: &str) -> Result<bool, Failure> {
        if self.kept.is_empty() {
            return Ok(true);
        }
        let extension = file.rsplit_once('.').map_or("mkv", |(_, extension)| extension);
        let trial = ctx.scratch.join(format!("trial.{extension}"));
        let mut command = Command::new(&ctx.config.programs.ffmpeg);
        command
            .args(["-y", "-hide_banner", "-nostdin", "-v", "error"])
            .args(crate::runners::video::reading(path));
        command.args(self.arguments(0)).args(["-t", "1"]).arg(as_file(&trial));
        let needs = ctx.confinement().reads(path);
        let ended = output(&command, &needs, TRIAL).await;
        // If this fails, the next trial overwrites it, and it is removed with the folder.
        let _ = std::fs::remove_file(&trial);
        match ended {
            Ok(_) => Ok(true),
            Err(error) => match error.kind() {
                std::io::ErrorKind::NotFound => Err(spawn_failure(&command, &error)),
                kind => Ok(kind == std::io::ErrorKind::TimedOut),
            },
        }
    }
}

/// The actions that may make a stream fit into the container, best first.
fn actions(file: &str, kind: char, codec: &str) -> &'static [&'static str] {
    let (mkv, is_text) = (has_extension(file, "mkv"), TEXTS.contains(&codec));
    let pcm = has_extension(file, "mov") && codec.starts_with("pcm_");
    match kind {
        'a' if mkv || pcm || MP4_SOUND.contains(&codec) => &["copy", "aac"],
        'a' => &["aac"],
        // Matroska has no `mov_text`: the same text is stored under another name.
        's' if mkv && codec == "mov_text" => &["srt"],
        's' if mkv => &["copy", "srt"],
        's' if codec == "mov_text" => &["copy"],
        's' if is_text => &["mov_text"],
        't' if mkv => &["copy"],
        _ => &[],
    }
}

/// The note for the user about a stream.
fn note(name: &str, file: &str, kind: char, codec: &str, kept: Option<&Kept>) -> Option<String> {
    let what = match kind {
        'a' => "sound",
        's' => "subtitles",
        _ => "an attachment",
    };
    let holder = if has_extension(file, "mkv") { "" } else { "; .mkv holds more" };
    match kept.map(|kept| kept.action) {
        Some("aac") => Some(format!(
            "{what} of the codec {codec} of {name} does not go into {file}: it was coded anew as AAC"
        )),
        Some(_) => None,
        None => Some(format!(
            "{what} of the codec {codec} of {name} cannot be kept in {file}: left out{holder}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_cannot_hold_is_coded_anew_or_left_out() {
        for (file, kind, codec, best) in [
            ("a.mkv", 'a', "vorbis", Some("copy")),
            ("a.mp4", 'a', "vorbis", Some("aac")),
            ("a.mov", 'a', "pcm_s16le", Some("copy")),
            ("a.mp4", 'a', "pcm_s16le", Some("aac")),
            ("a.mp4", 's', "subrip", Some("mov_text")),
            ("a.mkv", 's', "mov_text", Some("srt")),
            ("a.mkv", 's', "ass", Some("copy")),
            ("a.mp4", 's', "hdmv_pgs_subtitle", None),
            ("a.mkv", 't', "ttf", Some("copy")),
            ("a.mp4", 't', "ttf", None),
        ] {
            assert_eq!(actions(file, kind, codec).first().copied(), best, "{codec} in {file}");
        }
    }
}
