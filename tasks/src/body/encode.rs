//! `encode`: encodes pictures as a video.

use crate::job::formats::{FileName, MediaPath};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Encodes pictures as a video with ffmpeg. Its inputs are the `image` outputs of the only needed step that makes
/// pictures, in the order of that step's tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Encode {
    /// The video's file name. The extension determines the container (`.mp4`, `.mov`, `.mkv`).
    #[schemars(with = "FileName")]
    pub file: String,
    /// Frames per second, more than 0 and at most 1000. Default: the time stamps of `source`, or the rate of the scene
    /// that a needed `inspect` step has inspected, or 24.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 1000.0))]
    pub fps: Option<f64>,
    /// The codec. Default: by the file's extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<Codec>,
    /// H.264: constant rate factor, 0 (lossless) to 51; default 18. `ProRes`: profile 0 to 4; default 3, or 4, which
    /// keeps transparency, for a transparent `source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 51))]
    pub quality: Option<u8>,
    /// The video that the pictures were taken from, for its time stamps, sound, subtitles and
    /// metadata. Needs a `probe` step of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MediaPath>")]
    pub source: Option<String>,
    /// Whether sound and subtitles of `source` are copied; default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_audio: Option<bool>,
    /// Use the pictures that exist. Otherwise a task of the needed step without a picture is an error. With the time
    /// stamps of `source`, the picture before a gap is shown for longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_gaps: bool,
}

/// Video codecs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// H.264, 4:2:0, plays everywhere.
    H264,
    /// Apple `ProRes` 422 HQ, for editing.
    Prores,
}

impl Encode {
    /// The codec of a video with this name, which may still contain placeholders, or why there can be no such video.
    pub fn codec_of(&self, file: &str) -> Result<Codec, String> {
        let extension = file.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
        let codec = match (extension.as_deref(), self.codec) {
            (Some("mp4"), Some(Codec::Prores)) => {
                return Err(format!(
                    "ProRes cannot be kept in `{file}`: name it `.mov`, or use `h264`."
                ));
            }
            (Some("mp4" | "mov" | "mkv"), Some(codec)) => codec,
            (Some("mp4" | "mkv"), None) => Codec::H264,
            (Some("mov"), None) => Codec::Prores,
            _ => return Err(format!("`{file}`: expected a name that ends in .mp4, .mov or .mkv.")),
        };
        let most = match codec {
            Codec::H264 => 51,
            Codec::Prores => 4,
        };
        match self.quality {
            Some(quality) if quality > most => {
                Err(format!("The quality {quality} is out of range: expected 0 to {most}."))
            }
            _ => Ok(codec),
        }
    }
}
