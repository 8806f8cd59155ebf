//! Ordinary pictures, row by row: reading with what is known of them, exact resizing, writing. One of
//! 30,000 x 30,000 pixels fits where its format can be read and written in rows (PNG; TIFF is written
//! so); others are held in memory, up to [`WHOLE_BYTES_MAX`].
//!
//! Samples are floats: 0 to 1, coded for a display, or linear light in EXR and floating-point TIFF.
//! Linear light is multiplied by its opacity, as EXR has it; what is coded for a display is not, as PNG has it.
//! Eight and sixteen bits survive the way there and back.

mod exif;
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

pub(crate) use read::{Reader, size};
pub(crate) use resample::{Filter, Resampler};
pub(crate) use tags::Tags;
pub(crate) use webp::add_tags;
pub(crate) use write::{Target, write};

use crate::artifacts::storage_failure;
use crate::task::failure;
use pictor_tasks::message::{Failure, FailureKind};
use pictor_tasks::units::Resolution;
use std::io;

/// The most bytes of a picture that has to be held in memory as a whole.
pub(crate) const WHOLE_BYTES_MAX: u64 = 2 << 30;

/// Why a picture cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PictureError {
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

impl PictureError {
    /// The failure, with the picture's name. `kind` is for one that is unusable.
    pub(crate) fn of(self, name: &str, kind: FailureKind) -> Failure {
        match self {
            Self::Io(error) => {
                storage_failure(&format!("{name} cannot be read or written"), &error)
            }
            Self::Unusable(problem) => failure(kind, format!("{name} {problem}.")),
            Self::Rows(failure) => failure,
        }
    }
}

/// Bits of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
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
    pub(crate) fn is_linear(self) -> bool {
        matches!(self, Self::Half | Self::Float)
    }
}

/// What the rows of a picture consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Width and height, upright.
    pub(crate) size: Resolution,
    /// 1: grey, 3: red, green and blue.
    pub(crate) colours: usize,
    /// Whether each pixel ends with its opacity.
    pub(crate) alpha: bool,
    /// Bits of a sample.
    pub(crate) depth: Depth,
}

impl Layout {
    /// Samples of one pixel.
    pub(crate) fn channels(&self) -> usize {
        self.colours + usize::from(self.alpha)
    }

    /// Samples of one row.
    pub(crate) fn row_samples(&self) -> usize {
        self.size.width as usize * self.channels()
    }
}

/// The display coding of sRGB, from linear light. Values beyond 0 to 1 are cut off.
pub(crate) fn to_display(linear: f32) -> f32 {
    let linear = linear.clamp(0.0, 1.0);
    if linear <= 0.003_130_8 { linear * 12.92 } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 }
}

/// Linear light, from the display coding of sRGB.
pub(crate) fn to_linear(display: f32) -> f32 {
    let display = display.clamp(0.0, 1.0);
    if display <= 0.040_45 { display / 12.92 } else { ((display + 0.055) / 1.055).powf(2.4) }
}
