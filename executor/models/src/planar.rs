//! Pictures in the form that networks take: one plane of floats for each channel.

use super::{Tile, Tiling};
use pictor_tasks::units::{Rect, Resolution};

/// A picture of floats: channel after channel, each row by row from the top left. Networks expect and produce
/// display-referred values from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Planar {
    channels: u32,
    size: Resolution,
    samples: Vec<f32>,
}

impl Planar {
    /// A picture of these samples; `None` unless there are as many as the size says.
    pub fn new(channels: u32, size: Resolution, samples: Vec<f32>) -> Option<Self> {
        let expected = length(channels, size)?;
        (samples.len() == expected).then_some(Self { channels, size, samples })
    }

    /// A picture of zeros; `None` if this machine cannot address that many samples.
    pub fn zeros(channels: u32, size: Resolution) -> Option<Self> {
        Some(Self { channels, size, samples: vec![0.0; length(channels, size)?] })
    }

    /// The number of channels, such as 3 for colours.
    pub fn channels(&self) -> u32 {
        self.channels
    }

    /// The width and height in pixels.
    pub fn size(&self) -> Resolution {
        self.size
    }

    /// All samples, plane after plane.
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }

    /// Copies a part of the picture.
    ///
    /// # Panics
    /// If the part is empty or reaches beyond the picture.
    #[must_use]
    pub fn cut(&self, part: Rect) -> Self {
        let size = Resolution { width: part.x1 - part.x0, height: part.y1 - part.y0 };
        let rows = (0..self.channels).flat_map(|c| (part.y0..part.y1).map(move |y| (c, y)));
        let samples =
            rows.flat_map(|(c, y)| &self.samples[self.row(c, y, part.x0, size.width)]).copied();
        Self { channels: self.channels, size, samples: samples.collect() }
    }

    /// Copies a tile's core out of the network's result for its window, `scale` times as large.
    ///
    /// # Panics
    /// If the scaled tile is not a part of this picture, or `result` does not have the size of its window.
    pub fn paste(&mut self, tile: Tile, result: &Self, scale: u32) {
        let Tile { window, core } = tile;
        let width = (core.x1 - core.x0) * scale;
        let (left, top) = ((core.x0 - window.x0) * scale, (core.y0 - window.y0) * scale);
        for channel in 0..self.channels {
            for row in 0..(core.y1 - core.y0) * scale {
                let from = result.row(channel, top + row, left, width);
                let to = self.row(channel, core.y0 * scale + row, core.x0 * scale, width);
                self.samples[to].copy_from_slice(&result.samples[from]);
            }
        }
    }

    /// The indices of the samples of a part of a row.
    fn row(&self, channel: u32, y: u32, x: u32, width: u32) -> std::ops::Range<usize> {
        let Resolution { width: whole, height } = self.size;
        assert!(channel < self.channels && y < height && x + width <= whole, "inside the picture");
        let start = (channel as usize * height as usize + y as usize) * whole as usize + x as usize;
        start..start + width as usize
    }
}

fn length(channels: u32, size: Resolution) -> Option<usize> {
    (channels as usize).checked_mul(size.width as usize)?.checked_mul(size.height as usize)
}

/// Runs each tile of a picture, and the position of its first pixel, through `network` and puts the results together.
///
/// # Errors
/// Those of `network`.
///
/// # Panics
/// If a result is not `scale` times its window, or the whole does not fit into memory.
pub fn upscale_tiled<E>(
    picture: &Planar,
    tiling: Tiling,
    scale: u32,
    mut network: impl FnMut(&Planar, [u32; 2]) -> Result<Planar, E>,
) -> Result<Planar, E> {
    let size = picture.size();
    let size = Resolution { width: size.width * scale, height: size.height * scale };
    let mut whole = Planar::zeros(picture.channels(), size).expect("the result fits into memory");
    for tile in tiling.tiles() {
        let Rect { x0, y0, .. } = tile.window;
        whole.paste(tile, &network(&picture.cut(tile.window), [x0, y0])?, scale);
    }
    Ok(whole)
}
