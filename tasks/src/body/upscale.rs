//! Kinds that upscale pictures and videos with a network: `probe` inspects the source, `extract` saves the frames of a
//! video, `upscale` does one tile, `stitch` assembles the picture.

use super::Encode;
use crate::job::formats::{DimensionName, MediaPath};
use crate::range::Ranges;
use crate::units::{Grid, Resolution};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The default limit for the side of a tile, in pixels.
pub const TILE_PIXELS: u32 = 1024;
/// The smallest limit for the side of a tile that a job may set, in pixels.
pub const TILE_PIXELS_MIN: u32 = 64;
/// The largest limit for the side of a tile that a job may set, in pixels.
pub const TILE_PIXELS_MAX: u32 = 8192;
/// The largest overlap of a tile that a job may set, in pixels.
pub const OVERLAP_MAX: u32 = 512;

/// Inspects pictures or a video: how many frames there are, their sizes, time stamps, orientation and colour profile,
/// and which of them cannot be read. Reports the values of the dimensions that `frame` and `tiles` name, as far as they
/// come from this step. The result is its output `info`, a JSON file, which the steps that need this one read.
///
/// A picture that cannot be read does not make this step fail: it counts as one tile, and the task that reads it fails.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// A picture, a video, or a sequence: a pattern (`frames/*.png`, `frames/%04d.png`) or a folder.
    #[schemars(with = "MediaPath")]
    pub source: String,
    /// The dimension of the frame numbers. Frames of a video are numbered from 1. The number of a picture is the last
    /// one in its file name, if all names have one and no two are the same; otherwise its position in the order of the
    /// names, from 1. Without it, the source is one picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DimensionName>")]
    pub frame: Option<String>,
    /// Only these frames; all others are ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<Ranges>,
    /// How pictures are cut into tiles. The dimension gets the number of tiles: those of each frame if `frame` is given
    /// (then it must be bounded by it), otherwise those of the one picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<Tiling>,
    /// The video to encode in the end. It is tried with one black picture, so that problems are reported before all the
    /// work is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearse: Option<Rehearsal>,
}

/// The further processing of pictures, as far as a trial needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rehearsal {
    /// The settings of the step that encodes the video.
    pub encode: Encode,
    /// The network, whose factor is used unless `scale` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The factor by which the pictures are enlarged, 1 to 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub scale: Option<u32>,
}

/// Tiles of pictures of any size, and the dimension that numbers those of one picture, row by row from the top left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tiling {
    /// The longest side of a tile before upscaling, in pixels, without the overlap. A tile is the work of one task; a
    /// worker whose memory is too small for it does it in parts.
    #[serde(default = "tile_pixels")]
    #[schemars(range(min = 64, max = 8192))]
    pub pixels: u32,
    /// The dimension that numbers the tiles.
    #[serde(default = "super::tile_dimension")]
    #[schemars(with = "DimensionName")]
    pub dim: String,
}

fn tile_pixels() -> u32 {
    TILE_PIXELS
}

impl Tiling {
    /// The grid for a picture of this size: as few tiles as the limit allows, all of nearly the same size (see
    /// [`Grid::rect`]).
    pub fn grid(&self, size: Resolution) -> Grid {
        let along = |pixels: u32| pixels.div_ceil(self.pixels.max(1));
        Grid { columns: along(size.width), rows: along(size.height) }
    }
}

/// Extracts frames of a video as pictures, without loss: one output for each frame, named `frame-` and the frame's
/// number. A frame that cannot be decoded has no output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Extract {
    /// The video, relative to the job file.
    #[schemars(with = "MediaPath")]
    pub source: String,
    /// The dimension of the step that selects the frames: the frames themselves, or blocks of them.
    #[serde(default = "segment_dimension")]
    #[schemars(with = "DimensionName")]
    pub dim: String,
}

fn segment_dimension() -> String {
    "segment".into()
}

/// Upscales one tile of one picture with a network, which is applied as often as the factor requires. The picture comes
/// from `source`, or it is the frame's output (`frame-7`, or the only one) of the needed step. The output `image` is
/// the tile without its overlap; transparency is scaled with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upscale {
    /// The picture or sequence; omitted if a needed step makes the pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MediaPath>")]
    pub source: Option<String>,
    /// The dimension of the frame numbers, as in the `probe` step. Without it, the source is one picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DimensionName>")]
    pub frame: Option<String>,
    /// The network, by its name in `pictor models list`.
    #[schemars(length(min = 1))]
    pub model: String,
    /// The factor by which pictures are enlarged, 1 to 16. Default: the network's own. For a larger one, the network is
    /// applied repeatedly until the factor is reached, and `stitch` makes the size exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub scale: Option<u32>,
    /// How pictures are cut into tiles. Default: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<Tiling>,
    /// Pixels that the network sees beyond each edge of a tile, 0 to 512. Default: as many as affect the result, at
    /// most 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 512))]
    pub overlap: Option<u32>,
    /// What to do with a picture that cannot be read.
    #[serde(default, skip_serializing_if = "OnError::is_fail")]
    pub on_error: OnError,
}

/// Assembles the tiles of one picture into the final picture: exact size, transparency, colour profile, metadata, the
/// source's bits per channel. The tiles come from the needed step over the dimension of the tiles; the original picture
/// from `source`, or from the other needed step. The output is `image`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stitch {
    /// The original picture or sequence; omitted if a needed step makes the pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MediaPath>")]
    pub source: Option<String>,
    /// The dimension of the frame numbers, as in the `probe` step. Without it, the source is one picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DimensionName>")]
    pub frame: Option<String>,
    /// The factor by which the source is enlarged, 1 to 16. Default: that of the tiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub scale: Option<u32>,
    /// How pictures were cut into tiles.
    pub tiles: Tiling,
    /// The picture's format.
    #[serde(default)]
    pub format: ImageFormat,
    /// Quality of JPEG and WebP, 1 to 100; default 92.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub quality: Option<u8>,
    /// What to do with a picture that could not be upscaled.
    #[serde(default, skip_serializing_if = "OnError::is_fail")]
    pub on_error: OnError,
}

/// What to do with a picture that cannot be read. Other pictures are never affected. With `copy` and `skip` the
/// `upscale` task of such a picture succeeds with a note and without an output, and the `stitch` task, which then lacks
/// a tile, does what this setting says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Its tasks fail, and in the end the run.
    #[default]
    Fail,
    /// It is replaced by the source, resized without the network. A source that cannot be decoded at all is left out.
    Copy,
    /// It is left out.
    Skip,
}

impl OnError {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_fail(&self) -> bool {
        *self == Self::Fail
    }
}

/// Formats of pictures that are read and written without Blender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// PNG, lossless, 8 or 16 bits.
    #[default]
    Png,
    /// JPEG, 8 bits, without transparency.
    Jpeg,
    /// WebP, 8 bits.
    Webp,
    /// TIFF, lossless, 8 or 16 bits.
    Tiff,
    /// `OpenEXR`, linear, floating point.
    Exr,
}

impl ImageFormat {
    /// The file extension, without a dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Webp => "webp",
            Self::Tiff => "tif",
            Self::Exr => "exr",
        }
    }

    /// The format of files with this extension, which must be in lower case.
    pub fn of_extension(extension: &str) -> Option<Self> {
        Some(match extension {
            "png" => Self::Png,
            "jpg" | "jpeg" => Self::Jpeg,
            "webp" => Self::Webp,
            "tif" | "tiff" => Self::Tiff,
            "exr" => Self::Exr,
            _ => return None,
        })
    }

    /// Whether the format has a quality setting.
    pub fn is_lossy(self) -> bool {
        matches!(self, Self::Jpeg | Self::Webp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_few_and_never_larger_than_the_limit() {
        let tiling = |pixels| Tiling { pixels, dim: "tile".into() };
        for (pixels, width, height, columns, rows) in [
            (1024, 1, 1, 1, 1),
            (1024, 1024, 1025, 1, 2),
            (1024, 1280, 720, 2, 1),
            (64, 30_000, 30_000, 469, 469),
        ] {
            let size = Resolution { width, height };
            let grid = tiling(pixels).grid(size);
            assert_eq!(grid, Grid { columns, rows });
            let rects = (0..grid.tiles()).filter_map(|tile| grid.rect(tile, size));
            let covered: u64 = rects
                .map(|r| {
                    assert!(r.x1 - r.x0 <= pixels && r.y1 - r.y0 <= pixels);
                    u64::from(r.x1 - r.x0) * u64::from(r.y1 - r.y0)
                })
                .sum();
            assert_eq!(covered, u64::from(width) * u64::from(height));
        }
    }
}
