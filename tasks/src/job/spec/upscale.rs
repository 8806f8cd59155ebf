//! The `upscale` macro: what a user may write.

use crate::body::{Codec, ImageFormat, OnError};
use crate::job::formats::{FileName, MediaPath, OverlapPixels, TilePixels};
use crate::range::Ranges;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Makes pictures or a video larger with a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpscaleJob {
    /// A picture (PNG, JPEG, WebP, TIFF, EXR, GIF, BMP, TGA), a sequence of them as a pattern (`frames/*.png`,
    /// `frames/%04d.png`) or a folder, or a video; relative to the job file.
    #[schemars(with = "MediaPath")]
    pub input: String,
    /// The network, as `pictor models list` names it: `realesr-animevideov3-x2` is fast and made for
    /// drawings and videos, `realesrgan-x4plus` is slow and made for photographs.
    #[schemars(length(min = 1))]
    pub model: String,
    /// How many times wider and higher, 1 to 16; the network's own factor otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub scale: Option<u32>,
    /// Pixels along each side of a tile, at most, 64 to 8192; `auto` is 1024. A tile is one task; a
    /// worker whose memory is too small for it does it in parts.
    #[serde(default)]
    #[schemars(with = "TilePixels")]
    pub tile: Pixels,
    /// Pixels that a tile sees beyond its edges, 0 to 512; `auto` is as far as the network looks, at
    /// most 32.
    #[serde(default)]
    #[schemars(with = "OverlapPixels")]
    pub overlap: Pixels,
    /// Format of the pictures; as the input otherwise, PNG for a folder and for a video.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ImageFormat>,
    /// Quality of JPEG and WebP, 1 to 100; 92 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub quality: Option<u8>,
    /// How the video is encoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<VideoSpec>,
    /// Only these frames. A video's count from 1; a picture's is the number in its file's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<Ranges>,
    /// What happens with a picture that cannot be read.
    #[serde(default)]
    pub on_error: OnError,
    /// What to deliver.
    #[serde(default)]
    pub output: UpscaleOutput,
}

/// How the video of an upscale is encoded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VideoSpec {
    /// The codec; by the file's extension otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<Codec>,
    /// Constant rate factor of H.264, 0 (lossless) to 51; 18 unless given. `ProRes`: profile 0 to 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 51))]
    pub crf: Option<u8>,
    /// Whether sound and subtitles of the input are copied; `true` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_audio: Option<bool>,
    /// Frames a second instead of the input's time stamps; 24 for a sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 1000.0))]
    pub fps: Option<f64>,
}

/// What an upscale delivers into the output folder. Of a sequence the pictures, in `frames/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpscaleOutput {
    /// Name of the picture, or of the video (`.mp4`, `.mov`, `.mkv`); the input's own name otherwise.
    /// For a sequence: makes a video of its pictures as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<FileName>")]
    pub file: Option<String>,
    /// Whether the pictures of a video are delivered as well, in `frames/`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub frames: bool,
}

/// A number of pixels, or `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pixels {
    /// Chosen by pictor.
    #[default]
    Auto,
    /// So many.
    Exactly(u32),
}
