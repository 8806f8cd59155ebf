//! Ordinary pictures, row by row: reading them with their metadata, exact resizing, writing. One of 30,000 x 30,000
//! pixels fits into memory where its format can be read and written in rows (PNG; TIFF is written in rows); others are
//! held as a whole, up to [`WHOLE_BYTES_MAX`].
//!
//! Samples are floats: 0 to 1, coded for a display, or linear light in EXR and floating-point TIFF. Linear light is
//! premultiplied by its opacity, as in EXR; samples coded for a display are not, as in PNG. All samples that are read
//! are finite. Eight and sixteen bits survive a round trip.

mod exif;
pub mod exr_image;
mod guard;
mod jpeg;
mod kind;
mod openexr;
mod png_tags;
mod read;
mod resample;
mod tags;
#[cfg(test)]
mod tests;
mod tiff;
mod webp;
mod write;

pub use kind::is_container;
pub use read::{Reader, sampled, size};
pub use resample::{Filter, Resampler};
pub use tags::Tags;
pub use webp::add_tags;
pub use write::{Target, write};

use pictor_tasks::units::Resolution;
use std::error::Error;
use std::io;

/// The most bytes that a picture may take when it has to be held in memory as a whole.
pub const WHOLE_BYTES_MAX: u64 = 2 << 30;

/// Why a picture cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The disk or the file system failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The picture is damaged, or of a kind that is not supported here. The text completes a sentence: `is …`.
    #[error("{0}")]
    Unusable(String),
    /// The source of the rows failed, with an error of its own.
    #[error("{0}")]
    Rows(Box<dyn Error + Send + Sync>),
}

/// The bits of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Eight bits or fewer.
    Eight,
    /// Sixteen bits.
    Sixteen,
    /// Linear floating point of 16 bits.
    Half,
    /// Linear floating point of 32 bits.
    Float,
}

impl Depth {
    /// Whether samples are linear light, and may exceed 1.
    pub fn is_linear(self) -> bool {
        matches!(self, Self::Half | Self::Float)
    }
}

/// What the rows of a picture consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The width and height of the picture once it is upright.
    pub size: Resolution,
    /// 1 for grey, 3 for red, green and blue.
    pub colours: usize,
    /// Whether the last sample of each pixel is its opacity.
    pub alpha: bool,
    /// The bits of a sample.
    pub depth: Depth,
}

impl Layout {
    /// The number of samples in one pixel.
    pub fn channels(&self) -> usize {
        self.colours + usize::from(self.alpha)
    }

    /// The number of samples in one row.
    pub fn row_samples(&self) -> usize {
        self.size.width as usize * self.channels()
    }
}

/// Codes linear light for a display, by sRGB. Values outside 0 to 1 are clamped.
pub fn to_display(linear: f32) -> f32 {
    let linear = linear.clamp(0.0, 1.0);
    if linear <= 0.003_130_8 { linear * 12.92 } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 }
}

/// Decodes linear light from a value coded for a display, by sRGB.
pub fn to_linear(display: f32) -> f32 {
    let display = display.clamp(0.0, 1.0);
    if display <= 0.040_45 { display / 12.92 } else { ((display + 0.055) / 1.055).powf(2.4) }
}
