//! Ordinary pictures, row by row: reading with what is known of them, exact resizing, writing. One of
//! 30,000 x 30,000 pixels fits where its format can be read and written in rows (PNG; TIFF is written
//! so); others are held in memory, up to [`WHOLE_BYTES_MAX`].
//!
//! Samples are floats: 0 to 1, coded for a display, or linear light in EXR and floating-point TIFF.
//! Linear light is multiplied by its opacity, as EXR has it; what is coded for a display is not, as PNG has it.
//! Eight and sixteen bits survive the way there and back.

mod exif;
pub mod exr_image;
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
pub use read::{Reader, size};
pub use resample::{Filter, Resampler};
pub use tags::Tags;
pub use webp::add_tags;
pub use write::{Target, write};

use pictor_tasks::message::Failure;
use pictor_tasks::units::Resolution;
use std::io;

/// The most bytes of a picture that has to be held in memory as a whole.
pub const WHOLE_BYTES_MAX: u64 = 2 << 30;

/// Why a picture cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The disk or the file system failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is damaged, or of a kind that is not read or written here. A sentence's end: `is …`.
    #[error("{0}")]
    Unusable(String),
    /// Whoever makes the rows gave up.
    #[error("{}", .0.message)]
    Rows(Failure),
}

/// Bits of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Eight or fewer.
    Eight,
    /// Sixteen.
    Sixteen,
    /// Floating point of 16 bits, linear.
    Half,
    /// Floating point of 32 bits, linear.
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
    /// Width and height, upright.
    pub size: Resolution,
    /// 1: grey, 3: red, green and blue.
    pub colours: usize,
    /// Whether each pixel ends with its opacity.
    pub alpha: bool,
    /// Bits of a sample.
    pub depth: Depth,
}

impl Layout {
    /// Samples of one pixel.
    pub fn channels(&self) -> usize {
        self.colours + usize::from(self.alpha)
    }

    /// Samples of one row.
    pub fn row_samples(&self) -> usize {
        self.size.width as usize * self.channels()
    }
}

/// The display coding of sRGB, from linear light. Values beyond 0 to 1 are cut off.
pub fn to_display(linear: f32) -> f32 {
    let linear = linear.clamp(0.0, 1.0);
    if linear <= 0.003_130_8 { linear * 12.92 } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 }
}

/// Linear light, from the display coding of sRGB.
pub fn to_linear(display: f32) -> f32 {
    let display = display.clamp(0.0, 1.0);
    if display <= 0.040_45 { display / 12.92 } else { ((display + 0.055) / 1.055).powf(2.4) }
}
