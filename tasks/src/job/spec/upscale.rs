//! The types of the `upscale` macro.

use crate::body::{Codec, ImageFormat, OnError};
use crate::job::formats::{FileName, MediaPath, OverlapPixels, TilePixels};
use crate::range::Ranges;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Upscales pictures or a video with a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpscaleJob {
    /// A picture (PNG, JPEG, WebP, TIFF, EXR, GIF, BMP, TGA), a sequence of them as a pattern (`frames/*.png`,
    /// `frames/%04d.png`) or a folder, or a video; relative to the job file.
    #[schemars(with = "MediaPath")]
    pub input: String,
    /// The network, by its name in `pictor models list`: `realesr-animevideov3-x2` is fast and made for drawings and
    /// videos, `realesrgan-x4plus` is slow and made for photographs.
    #[schemars(length(min = 1))]
    pub model: String,
    /// The factor by which pictures are enlarged, 1 to 16. Default: the network's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub scale: Option<u32>,
    /// The longest side of a tile, 64 to 8192 pixels; `auto` is 1024. A tile is one task; a worker whose memory is too
    /// small for it does it in parts.
    #[serde(default)]
    #[schemars(with = "TilePixels")]
    pub tile: Pixels,
    /// Pixels that the network sees beyond the edges of a tile, 0 to 512; `auto` is as many as affect the result, at
    /// most 32.
    #[serde(default)]
    #[schemars(with = "OverlapPixels")]
    pub overlap: Pixels,
    /// Format of the pictures. Default: that of the input, and PNG for a folder or a video.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ImageFormat>,
    /// Quality of JPEG and WebP, 1 to 100; default 92.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub quality: Option<u8>,
    /// How the video is encoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<VideoSpec>,
    /// Only these frames. Those of a video are numbered from 1; the number of a picture is the one in its file name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<Ranges>,
    /// What to do with a picture that cannot be read.
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
    /// The codec. Default: by the file's extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<Codec>,
    /// H.264: constant rate factor, 0 (lossless) to 51; default 18. `ProRes`: profile 0 to 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 51))]
    pub crf: Option<u8>,
    /// Whether sound and subtitles of the input are copied; default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_audio: Option<bool>,
    /// Frames per second in place of the input's time stamps; default 24 for a sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 1000.0))]
    pub fps: Option<f64>,
}

/// What an upscale delivers into the output folder. For a sequence these are the pictures, in `frames/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpscaleOutput {
    /// Name of the picture, or of the video (`.mp4`, `.mov`, `.mkv`). Default: the input's own name. For a sequence, it
    /// adds a video of the pictures.
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
    /// This number of pixels.
    Exactly(u32),
}
