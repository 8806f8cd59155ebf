//! The rows of a picture in the form that networks take: coded for a display, and with the visible colours extended
//! into transparent areas. Programs store black there, or anything: a network would take the edge between that and the
//! visible part for a part of the picture, and draw a halo along it.
//!
//! A hidden pixel gets the weighted mean of the visible ones up to [`REACH`] pixels away, where nearer ones weigh more.
//! The sums are of integers, so they are the same whichever row is read first, and a tile has the colours of the whole
//! picture.

use pictor_pictures::{Layout, PictureError, Reader, to_display};
use std::collections::VecDeque;
use std::path::Path;

/// The distance in pixels over which colours are extended: as far as pixels have more than a trace of influence in a
/// network.
const REACH: u32 = 64;
/// Pixels of a lower opacity count as partly hidden: where 8 bits once held colours multiplied by such an opacity,
/// little is left of the colour.
pub(super) const SOLID: f32 = 1.0 / 16.0;
/// The weight of the pixels within twice the distance, relative to those within the distance.
const FARTHER: f64 = 1.0 / 16.0;
/// The integer that a sample of 1 is scaled to.
const WHOLE: f32 = 65_535.0;

#[derive(Default)]
pub(super) struct Row {
    /// Interleaved samples, coded for a display and not multiplied by opacity.
    pub(super) colours: Vec<f32>,
    /// One sample per pixel; empty if the picture has no opacity.
    pub(super) opacity: Vec<f32>,
}

/// A row, and its contribution to the sums.
struct Held {
    row: Row,
    /// For each pixel, the colours multiplied by the opacity, and the opacity.
    weighted: Vec<[u32; 4]>,
}

/// Reads a picture's rows, starting at any row.
pub(super) struct AlphaFill {
    reader: Reader,
    held: VecDeque<Held>,
    /// The index of the first row that is held.
    first: u32,
}

impl AlphaFill {
    pub(super) fn open(path: &Path) -> Result<Self, PictureError> {
        Ok(Self { reader: Reader::open(path, false)?, held: VecDeque::new(), first: 0 })
    }

    pub(super) fn layout(&self) -> Layout {
        self.reader.layout()
    }

    /// Reads the row `y`, which must come after all rows that were read before.
    pub(super) fn row(&mut self, y: u32) -> Result<Row, PictureError> {
        let layout = self.layout();
        let reach = if layout.alpha { REACH } else { 0 };
        let (top, end) = (y.saturating_sub(reach), (y + reach + 1).min(layout.size.height));
        while self.first < top && self.held.pop_front().is_some() {
            self.first += 1;
        }
        let mut samples = Vec::new();
        while self.reader.next() < end {
            self.reader.row(&mut samples)?;
            if self.reader.next() > top {
                self.held.push_back(Held::of(&samples, layout));
            } else {
                self.first = self.reader.next();
            }
        }
        if !layout.alpha {
            self.first += 1;
            return Ok(self.held.pop_front().expect("it was just read").row);
        }
        let at = (y - self.first) as usize;
        let Row { colours, opacity } = &self.held[at].row;
        let mut row = Row { colours: colours.clone(), opacity: opacity.clone() };
        if opacity.iter().any(|opacity| *opacity < SOLID) {
            self.continue_colours(at, layout.colours, &mut row);
        }
        Ok(row)
    }

    /// Fills hidden pixels of a row with the colours around them; `at` is the row's index among those that are held.
    #[expect(clippy::cast_precision_loss, reason = "a mean of colours needs no 53 bits")]
    #[expect(clippy::cast_possible_truncation, reason = "a colour needs no 53 bits")]
    fn continue_colours(&self, at: usize, count: usize, row: &mut Row) {
        let width = row.opacity.len();
        let mut columns = vec![[0_u64; 4]; width];
        let mut before = vec![[0_u64; 4]; width + 1];
        let mut found = vec![[0.0_f64; 4]; width];
        add(&self.held[at], &mut columns);
        let (mut reach, mut added, mut weight) = (1_usize, 0, 1.0);
        while reach <= REACH as usize {
            for distance in added + 1..=reach {
                let above = at.checked_sub(distance).and_then(|at| self.held.get(at));
                for held in above.into_iter().chain(self.held.get(at + distance)) {
                    add(held, &mut columns);
                }
            }
            for x in 0..width {
                before[x + 1] = std::array::from_fn(|n| before[x][n] + columns[x][n]);
            }
            for (x, found) in found.iter_mut().enumerate().filter(|(x, _)| row.opacity[*x] < SOLID)
            {
                let (left, right) = (x.saturating_sub(reach), (x + reach + 1).min(width));
                for (n, found) in found.iter_mut().enumerate() {
                    *found += (before[right][n] - before[left][n]) as f64 * weight;
                }
            }
            (added, reach, weight) = (reach, reach * 2, weight * FARTHER);
        }
        for (x, [colours @ .., opacity]) in found.iter().enumerate() {
            if *opacity == 0.0 {
                continue;
            }
            let seen = row.opacity[x].max(0.0) / SOLID;
            for (own, sum) in row.colours[x * count..(x + 1) * count].iter_mut().zip(colours) {
                let around = (sum / opacity) as f32 / WHOLE;
                *own = around + (*own - around) * seen;
            }
        }
    }
}

fn add(held: &Held, columns: &mut [[u64; 4]]) {
    for (sum, pixel) in columns.iter_mut().zip(&held.weighted) {
        for (sum, sample) in sum.iter_mut().zip(pixel) {
            *sum += u64::from(*sample);
        }
    }
}

impl Held {
    fn of(samples: &[f32], layout: Layout) -> Self {
        let (count, linear) = (layout.colours, layout.depth.is_linear());
        let mut held = Self { row: Row::default(), weighted: Vec::new() };
        for pixel in samples.chunks_exact(layout.channels()) {
            let start = held.row.colours.len();
            let opacity = if layout.alpha { pixel[count].clamp(0.0, 1.0) } else { 1.0 };
            // Linear light is premultiplied by opacity.
            let light = |sample: &f32| if opacity > 0.0 { sample / opacity } else { *sample };
            if linear {
                held.row.colours.extend(pixel[..count].iter().map(|s| to_display(light(s))));
            } else {
                held.row.colours.extend(&pixel[..count]);
            }
            if layout.alpha {
                held.row.opacity.push(opacity);
                let opacity = whole(opacity);
                let mut weighted = [0, 0, 0, opacity];
                for (to, colour) in weighted.iter_mut().zip(&held.row.colours[start..]) {
                    *to = whole(*colour) * opacity;
                }
                held.weighted.push(weighted);
            }
        }
        held
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded and limited before"
)]
fn whole(sample: f32) -> u32 {
    (sample.clamp(0.0, 1.0) * WHOLE).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use pictor_pictures::{Depth, Tags, Target, write};
    use pictor_tasks::body::ImageFormat;
    use pictor_tasks::units::Resolution;

    /// A red disc with a green right half on fully transparent black.
    fn disc(path: &Path) -> Resolution {
        let size = Resolution { width: 150, height: 170 };
        let layout = Layout { size, colours: 3, alpha: true, depth: Depth::Eight };
        let target = Target { layout, format: ImageFormat::Png, quality: 100, passing: true };
        let mut y = 0_i32;
        write(path, target, &Tags::default(), &mut |row| {
            row.clear();
            for x in 0..150_i32 {
                let inside = (x - 75).pow(2) + (y - 85).pow(2) < 30 * 30;
                row.extend(match (inside, x < 75) {
                    (true, true) => [1.0, 0.0, 0.2, 1.0],
                    (true, false) => [0.0, 1.0, 0.2, 1.0],
                    _ => [0.0; 4],
                });
            }
            y += 1;
            Ok(())
        })
        .unwrap();
        size
    }

    #[test]
    fn visible_colours_go_on_beneath_what_is_transparent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let size = disc(&path);
        let mut source = AlphaFill::open(&path).unwrap();
        let all: Vec<Row> = (0..size.height).map(|y| source.row(y).unwrap()).collect();
        let at = |x: usize, y: usize| &all[y].colours[3 * x..3 * x + 3];
        assert_eq!(
            (at(60, 85), all[85].opacity[60]),
            ([1.0, 0.0, 0.2].as_slice(), 1.0),
            "as it was"
        );
        for (x, y, colour) in [(43, 85, 0), (40, 85, 0), (107, 85, 1), (110, 85, 1)] {
            let pixel = at(x, y);
            assert!(pixel[colour] > 0.9 && (pixel[2] - 0.2).abs() < 0.01, "{x} {y}: {pixel:?}");
            assert!(all[y].opacity[x].abs() < 1e-6);
        }
        assert!((at(75, 20)[2] - 0.2).abs() < 0.01, "far away too: {:?}", at(75, 20));
        // Whichever row is read first.
        for first in [1, 40, 90, 169] {
            let mut source = AlphaFill::open(&path).unwrap();
            for y in first..size.height {
                let row = source.row(y).unwrap();
                assert!(row.colours == all[y as usize].colours, "row {y}, read from {first} on");
            }
        }
    }
}
