//! What is done to a picture apart from the network: resizing to the exact size, and light brighter than a display's
//! white.

use pictor_pictures::{Filter, Layout, PictureError, Reader, Resampler, to_linear};
use pictor_tasks::units::Resolution;
use std::collections::VecDeque;

type Result<T> = std::result::Result<T, PictureError>;
type Rows<'a> = dyn FnMut(&mut Vec<f32>) -> Result<()> + 'a;

/// Multiplies the colours of a row by its opacity.
pub(super) fn associate(row: &mut [f32], layout: Layout) {
    if layout.alpha {
        for pixel in row.chunks_exact_mut(layout.channels()) {
            let (colours, opacity) = pixel.split_at_mut(layout.colours);
            for colour in colours.iter_mut() {
                *colour *= opacity[0];
            }
        }
    }
}

/// Divides the colours of a row by its opacity.
pub(super) fn separate(row: &mut [f32], layout: Layout) {
    if layout.alpha {
        for pixel in row.chunks_exact_mut(layout.channels()) {
            let (colours, opacity) = pixel.split_at_mut(layout.colours);
            opacity[0] = opacity[0].clamp(0.0, 1.0);
            if opacity[0] > 0.0 {
                for colour in colours.iter_mut() {
                    *colour /= opacity[0];
                }
            }
        }
    }
}

/// The network's result, resized to the requested size. Colours get the sharpest filter, and opacity one without
/// ringing.
pub(super) struct Exact {
    layout: Layout,
    colours: Resampler,
    opacity: Option<Resampler>,
    /// Opacity of the rows that the filter of the colours has read and that of the opacity has not.
    waiting: VecDeque<Vec<f32>>,
    row: Vec<f32>,
}

impl Exact {
    /// Resizes from one size to another; the picture has the channels of `layout`.
    pub(super) fn new(from: Resolution, to: Resolution, layout: Layout) -> Self {
        let opacity = layout.alpha.then(|| Resampler::new(from, to, 1, Filter::CatmullRom));
        let colours = Resampler::new(from, to, layout.colours, Filter::Lanczos3);
        Self { layout, colours, opacity, waiting: VecDeque::new(), row: Vec::new() }
    }

    /// The next row of the result; `source` fills in the next row of the source.
    pub(super) fn row(&mut self, source: &mut Rows<'_>, out: &mut Vec<f32>) -> Result<()> {
        let Self { layout, colours, opacity, waiting, row } = self;
        let Some(opacity) = opacity else { return colours.row(source, out) };
        let (count, mut pixels) = (layout.colours, Vec::new());
        // The filter of the colours has the larger radius, so it reads ahead.
        let both = &mut |out: &mut Vec<f32>| {
            source(&mut pixels)?;
            let pixels = pixels.chunks_exact(count + 1);
            waiting.push_back(pixels.clone().map(|pixel| pixel[count]).collect());
            out.clear();
            out.extend(pixels.flat_map(|pixel| &pixel[..count]));
            Ok(())
        };
        let mut made = Vec::new();
        colours.row(both, &mut made)?;
        let rows = &mut |out: &mut Vec<f32>| {
            *out = waiting.pop_front().expect("the colours are ahead");
            Ok(())
        };
        opacity.row(rows, row)?;
        out.clear();
        for (colours, opacity) in made.chunks_exact(count).zip(&*row) {
            out.extend(colours);
            out.push(*opacity);
        }
        Ok(())
    }
}

/// Light that a display cannot show, resized from the original: what is brighter than white, or than the opacity.
pub(super) struct Beside {
    source: Layout,
    target: Layout,
    /// `None` if there is no such light, or the result cannot store it.
    resampler: Option<Resampler>,
    row: Vec<f32>,
}

impl Beside {
    /// For an original with the layout `source` and a picture of this size.
    pub(super) fn new(source: Layout, target: Layout, size: Resolution) -> Self {
        let beyond = source.depth.is_linear() && target.depth.is_linear();
        let resampler =
            beyond.then(|| Resampler::new(source.size, size, source.colours, Filter::CatmullRom));
        Self { source, target, resampler, row: Vec::new() }
    }

    /// Computes the next row.
    pub(super) fn row(&mut self, reader: &mut Reader) -> Result<()> {
        let Some(resampler) = &mut self.resampler else { return Ok(()) };
        let source = self.source;
        let mut pixels = Vec::new();
        let rows = &mut |out: &mut Vec<f32>| {
            reader.row(&mut pixels)?;
            out.clear();
            for pixel in pixels.chunks_exact(source.channels()) {
                let (colours, opacity) = pixel.split_at(source.colours);
                let white = opacity.first().map_or(1.0, |opacity| opacity.clamp(0.0, 1.0));
                out.extend(colours.iter().map(|light| (light - white).max(0.0)));
            }
            Ok(())
        };
        resampler.row(rows, &mut self.row)
    }

    /// Adds that light to a row of the network's result.
    pub(super) fn join(&self, made: &[f32], out: &mut Vec<f32>) {
        let count = self.source.colours;
        out.clear();
        for (place, pixel) in made.chunks_exact(self.source.channels()).enumerate() {
            let (colours, opacity) = pixel.split_at(count);
            let opacity = opacity.first().map(|opacity| opacity.clamp(0.0, 1.0));
            let beyond = self.row.get(place * count..(place + 1) * count);
            for (colour, sample) in colours.iter().enumerate() {
                out.push(if self.target.depth.is_linear() {
                    let light = to_linear(*sample) * opacity.unwrap_or(1.0);
                    light + beyond.map_or(0.0, |beyond| beyond[colour].max(0.0))
                } else {
                    *sample
                });
            }
            out.extend(opacity);
        }
    }
}
