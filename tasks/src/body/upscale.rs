//! Kinds that put pictures and videos through a network: `probe` looks at the source, `extract` takes a
//! video apart, `upscale` does one tile, `stitch` makes the picture.

use super::Encode;
use crate::job::formats::{DimensionName, MediaPath};
use crate::range::Ranges;
use crate::units::{Grid, Resolution};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Pixels along each side of a tile, at most, unless a job says otherwise.
pub const TILE_PIXELS: u32 = 1024;
/// The fewest pixels along each side that a job may ask for.
pub const TILE_PIXELS_MIN: u32 = 64;
/// The most pixels along each side that a job may ask for.
pub const TILE_PIXELS_MAX: u32 = 8192;
/// The most pixels that a tile may see beyond its edges.
pub const OVERLAP_MAX: u32 = 512;

/// Looks at pictures or at a video: how many frames there are, their sizes, time stamps, orientation
/// and colour profile, and which of them cannot be read. Reports the values of the dimensions that
/// `frame` and `tiles` name, as far as they come from this step. Leaves what it found as its output
/// `info`, a JSON file, which the steps that need it read.
///
/// A picture that cannot be read is no failure of this step: it has one tile, and the task that reads
/// it fails.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// A picture, a video, or a sequence: a pattern (`frames/*.png`, `frames/%04d.png`) or a folder.
    #[schemars(with = "MediaPath")]
    pub source: String,
    /// The dimension that counts the frames. A video's count from 1. A picture's is the last number in
    /// its file's name, if all names have one and no two the same; else its place in the order of the
    /// names, from 1. None: the source is one picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DimensionName>")]
    pub frame: Option<String>,
    /// Only these frames; all others are left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<Ranges>,
    /// How pictures are cut. The dimension gets the number of tiles: of each frame, if there is `frame`
    /// (then it is to be bounded by it), else of the one picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<Tiling>,
    /// The video that is made in the end. It is tried with one black picture, so that what cannot work is
    /// said before all the work is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearse: Option<Rehearsal>,
}

/// What becomes of pictures, as far as a trial of it has to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rehearsal {
    /// The step that makes the video.
    pub encode: Encode,
    /// The network, whose factor counts unless there is `scale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How many times wider and higher the pictures become, 1 to 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub scale: Option<u32>,
}

/// Tiles of pictures of any size, and the dimension that counts those of one picture, row by row from
/// the top left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tiling {
    /// Pixels along each side of a tile before upscaling, at most, without the overlap. A tile is the
    /// work of one task; a worker whose memory is too small for it does it in parts.
    #[serde(default = "tile_pixels")]
    #[schemars(range(min = 64, max = 8192))]
    pub pixels: u32,
    /// The dimension that counts the tiles.
    #[serde(default = "super::tile_dimension")]
    #[schemars(with = "DimensionName")]
    pub dim: String,
}

fn tile_pixels() -> u32 {
    TILE_PIXELS
}

impl Tiling {
    /// The grid of a picture: as few tiles as the limit allows, all nearly of one size (see
    /// [`Grid::rect`]).
    pub fn grid(&self, size: Resolution) -> Grid {
        let along = |pixels: u32| pixels.div_ceil(self.pixels.max(1));
        Grid { columns: along(size.width), rows: along(size.height) }
    }
}

/// Frames of a video as pictures, without loss: one output for each frame, named `frame-` and the
/// frame's number. A frame that cannot be decoded has no output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Extract {
    /// The video.
    #[schemars(with = "MediaPath")]
    pub source: String,
    /// The dimension of the step that says which frames: the frames themselves, or blocks of them.
    #[serde(default = "segment_dimension")]
    #[schemars(with = "DimensionName")]
    pub dim: String,
}

fn segment_dimension() -> String {
    "segment".into()
}

/// One tile of one picture through a network, as often as the factor needs. The picture comes from
/// `source`, or it is the frame's output (`frame-7`, or the only one) of the step that is needed.
/// Its output `image` is the tile without its overlap; transparency is scaled with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upscale {
    /// The picture or sequence; left out if a needed step makes the pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MediaPath>")]
    pub source: Option<String>,
    /// The dimension that counts the frames, as in the `probe` step. None: the source is one picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DimensionName>")]
    pub frame: Option<String>,
    /// The network, as `pictor models list` names it.
    #[schemars(length(min = 1))]
    pub model: String,
    /// How many times wider and higher, 1 to 16; the network's own factor otherwise. Where the network
    /// has another one, it is used again and again until the factor is reached, and `stitch` makes the
    /// size exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub scale: Option<u32>,
    /// How pictures are cut; not at all otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<Tiling>,
    /// Pixels that a tile sees beyond each of its edges, 0 to 512; otherwise as far as the network
    /// looks, at most 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 512))]
    pub overlap: Option<u32>,
    /// What happens with a picture that cannot be read.
    #[serde(default, skip_serializing_if = "OnError::is_fail")]
    pub on_error: OnError,
}

/// The tiles of one picture to the final picture: exact size, transparency, colour profile, metadata,
/// the source's bits for each channel. The tiles come from the needed step that runs over the tiles'
/// dimension; the picture as it was from `source`, or from the other step that is needed.
/// Its output is `image`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stitch {
    /// The picture or sequence as it was; left out if a needed step makes the pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MediaPath>")]
    pub source: Option<String>,
    /// The dimension that counts the frames, as in the `probe` step. None: the source is one picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DimensionName>")]
    pub frame: Option<String>,
    /// How many times wider and higher than the source, 1 to 16; as the tiles are otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub scale: Option<u32>,
    /// How pictures were cut.
    pub tiles: Tiling,
    /// The picture's format.
    #[serde(default)]
    pub format: ImageFormat,
    /// Quality of JPEG and WebP, 1 to 100; 92 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub quality: Option<u8>,
    /// What happens with a picture that could not be upscaled.
    #[serde(default, skip_serializing_if = "OnError::is_fail")]
    pub on_error: OnError,
}

/// What happens with a picture that cannot be read. It never touches other pictures. The worker acts
/// on it: with `copy` and `skip` the `upscale` task of such a picture succeeds with a note and without
/// an output, and the `stitch` task, which then lacks a tile, does what is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Its tasks fail, and in the end the run.
    #[default]
    Fail,
    /// The source, resized without the network, takes its place. One of which nothing at all can be
    /// decoded is left out.
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
    /// The file extension.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Webp => "webp",
            Self::Tiff => "tif",
            Self::Exr => "exr",
        }
    }

    /// The format of files with this extension, in small letters.
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

    /// Whether a quality can be chosen.
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
