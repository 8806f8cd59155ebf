//! What is done to a picture apart from the network: resizing to the exact size, and light brighter than a display's
//! white.

use super::alpha_fill::SOLID;
use pictor_pictures::{Filter, Layout, PictureError, Reader, Resampler, to_linear};
use pictor_tasks::units::Resolution;
use std::collections::VecDeque;

/// The distance in pixels over which light is continued beneath what is transparent: as far as the network's opacity and
/// the filter together reach.
const NEAR: u32 = 2;

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

/// Limits the opacity of a row, which a filter may take beyond 1 and below 0. The colours, which are multiplied by it and
/// went through the same filter, follow.
pub(super) fn bound(row: &mut [f32], layout: Layout) {
    if layout.alpha {
        for pixel in row.chunks_exact_mut(layout.channels()) {
            let opacity = pixel[layout.colours];
            if opacity > 1.0 {
                for sample in pixel.iter_mut() {
                    *sample /= opacity;
                }
            }
            pixel[layout.colours] = opacity.clamp(0.0, 1.0);
        }
    }
}

/// Divides the colours of a row by its opacity.
pub(super) fn separate(row: &mut [f32], layout: Layout) {
    if layout.alpha {
        for pixel in row.chunks_exact_mut(layout.channels()) {
            let (colours, opacity) = pixel.split_at_mut(layout.colours);
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
///
/// Like the network's colours it is not multiplied by the original's opacity, but by the network's: with one opacity for
/// the colours and another for the light beyond them, edges would have a fringe. Light where there is hardly any opacity,
/// such as a glow, belongs to no surface and is added as it is.
pub(super) struct Highlights {
    source: Layout,
    target: Layout,
    /// `None` if there is no such light, or the result cannot store it.
    resampler: Option<Resampler>,
    /// The original's rows around the next one, if they have an opacity.
    around: VecDeque<Bright>,
    /// The index of the next row of the original.
    next: u32,
    row: Vec<f32>,
}

/// A row of light beyond white.
struct Bright {
    /// For each pixel, this light, multiplied by the opacity, and the opacity.
    pixels: Vec<f32>,
    /// Whether there is any such light.
    any: bool,
}

impl Highlights {
    /// For an original with the layout `source` and a picture of this size.
    pub(super) fn new(source: Layout, target: Layout, size: Resolution) -> Self {
        let beyond = source.depth.is_linear() && target.depth.is_linear();
        let channels = Self::channels(source);
        let resampler =
            beyond.then(|| Resampler::new(source.size, size, channels, Filter::CatmullRom));
        Self { source, target, resampler, around: VecDeque::new(), next: 0, row: Vec::new() }
    }

    /// The samples of a pixel: light of what is visible, and of what is not.
    fn channels(source: Layout) -> usize {
        source.colours * (1 + usize::from(source.alpha))
    }

    /// Computes the next row.
    pub(super) fn row(&mut self, reader: &mut Reader) -> Result<()> {
        let Self { source, resampler, around, next, row, .. } = self;
        let Some(resampler) = resampler else { return Ok(()) };
        let mut pixels = Vec::new();
        let rows = &mut |out: &mut Vec<f32>| {
            if !source.alpha {
                reader.row(&mut pixels)?;
                out.clear();
                out.extend(pixels.iter().map(|light| (light - 1.0).max(0.0)));
                return Ok(());
            }
            let end = (*next + NEAR + 1).min(source.size.height);
            while reader.next() < end {
                reader.row(&mut pixels)?;
                around.push_back(Bright::of(&pixels, source.colours));
            }
            let mut first = end - u32::try_from(around.len()).unwrap_or(end);
            while first + NEAR < *next {
                around.pop_front();
                first += 1;
            }
            divided(around, (*next - first) as usize, source.colours, out);
            *next += 1;
            Ok(())
        };
        resampler.row(rows, row)
    }

    /// Adds that light to a row of the network's result.
    pub(super) fn join(&self, made: &[f32], out: &mut Vec<f32>) {
        let (count, channels) = (self.source.colours, Self::channels(self.source));
        out.clear();
        for (place, pixel) in made.chunks_exact(self.source.channels()).enumerate() {
            let (colours, opacity) = pixel.split_at(count);
            let opacity = opacity.first().map(|opacity| opacity.clamp(0.0, 1.0));
            let beyond = self.row.get(place * channels..(place + 1) * channels).unwrap_or_default();
            let light = |at: usize| beyond.get(at).map_or(0.0, |light| light.max(0.0));
            for (colour, sample) in colours.iter().enumerate() {
                out.push(if self.target.depth.is_linear() {
                    let visible = (to_linear(*sample) + light(colour)) * opacity.unwrap_or(1.0);
                    visible + light(count + colour)
                } else {
                    *sample
                });
            }
            out.extend(opacity);
        }
    }
}

impl Bright {
    fn of(pixels: &[f32], count: usize) -> Self {
        let mut bright = Self { pixels: Vec::with_capacity(pixels.len()), any: false };
        for pixel in pixels.chunks_exact(count + 1) {
            let opacity = pixel[count].clamp(0.0, 1.0);
            let beyond = pixel[..count].iter().map(|light| (light - opacity).max(0.0));
            bright.any |= beyond.clone().any(|light| light > 0.0);
            bright.pixels.extend(beyond.chain([opacity]));
        }
        bright
    }
}

/// Divides the light of a row by its opacity, and separates the light that belongs to no surface: for each pixel first
/// the one, then the other. Hidden pixels get the light of the visible ones around, as they get their colours.
fn divided(around: &VecDeque<Bright>, at: usize, count: usize, out: &mut Vec<f32>) {
    out.clear();
    let row = &around[at].pixels;
    let width = row.len() / (count + 1);
    if !around.iter().any(|row| row.any) {
        out.resize(width * 2 * count, 0.0);
        return;
    }
    for (x, pixel) in row.chunks_exact(count + 1).enumerate() {
        let (light, opacity) = (&pixel[..count], pixel[count]);
        if opacity >= SOLID {
            out.extend(light.iter().map(|light| light / opacity));
            out.resize(out.len() + count, 0.0);
            continue;
        }
        let (left, right) = (x.saturating_sub(NEAR as usize), (x + NEAR as usize + 1).min(width));
        let mut sums = [0.0_f32; 4];
        for row in around {
            let near = row.pixels[left * (count + 1)..right * (count + 1)].chunks_exact(count + 1);
            for pixel in near.filter(|pixel| pixel[count] >= SOLID) {
                sums.iter_mut().zip(pixel).for_each(|(sum, sample)| *sum += sample);
            }
        }
        let whole = sums[count];
        let own = |at: usize| {
            let mean = if whole > 0.0 { sums[at] / whole } else { 0.0 };
            if opacity > 0.0 { mean.min(light[at] / opacity) } else { mean }
        };
        out.extend((0..count).map(own));
        out.extend((0..count).map(|at| (light[at] - own(at) * opacity).max(0.0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pictor_pictures::{Depth, Tags, Target, write};
    use pictor_tasks::body::ImageFormat;

    /// A light of eight times white behind an edge of opacity, and a glow with none.
    #[test]
    fn light_beyond_white_has_the_opacity_of_the_colours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.exr");
        let size = Resolution { width: 24, height: 8 };
        let layout = Layout { size, colours: 3, alpha: true, depth: Depth::Float };
        let target = Target { layout, format: ImageFormat::Exr, quality: 100, passing: true };
        let edge = [1.0, 1.0, 0.75, 0.25, 0.0];
        write(&path, target, &Tags::default(), &mut |row| {
            row.clear();
            for x in 0..24 {
                let opacity: f32 = edge[usize::min(x, 4)];
                let glow = if x > 16 { 3.0 } else { 0.0 };
                row.extend([8.0 * opacity + glow, 0.5 * opacity, 0.0, opacity]);
            }
            Ok(())
        })
        .unwrap();
        let larger = Resolution { width: 48, height: 16 };
        let mut reader = Reader::open(&path, false).unwrap();
        let mut highlights = Highlights::new(layout, Layout { size: larger, ..layout }, larger);
        let mut joined = Vec::new();
        for _ in 0..larger.height {
            highlights.row(&mut reader).unwrap();
            // What a network makes of the edge is sharper than the original, and darker.
            let made = |x: u16| [1.0, 0.735, 0.0, if x < 6 { 1.0 } else { 0.1 }];
            let made: Vec<f32> = (0..48)
                .flat_map(|x| if x < 9 { made(x) } else { [1.0, 0.735, 0.0, 0.0] })
                .collect();
            highlights.join(&made, &mut joined);
            for (x, pixel) in joined.chunks_exact(4).enumerate() {
                if x < 9 {
                    let colour = pixel[0] / pixel[3];
                    assert!((colour - 8.0).abs() < 0.8, "{x}: {colour}");
                    assert!(pixel[1] / pixel[3] < 0.51, "{x}: {pixel:?}");
                } else if x > 38 {
                    assert!((pixel[0] - 3.0).abs() < 0.01, "{x}: {pixel:?}");
                }
            }
        }
    }

    #[test]
    fn opacity_beyond_one_takes_its_colours_along() {
        let size = Resolution { width: 3, height: 1 };
        let layout = Layout { size, colours: 1, alpha: true, depth: Depth::Eight };
        let mut row = vec![0.55, 1.1, 0.2, 0.4, 0.1, -0.1];
        bound(&mut row, layout);
        separate(&mut row, layout);
        for (found, wanted) in row.iter().zip([0.5, 1.0, 0.5, 0.4, 0.1, 0.0]) {
            assert!((found - wanted).abs() < 1e-6, "{row:?}");
        }
    }
}
