//! Exact resizing, row by row: no more rows are held than the filter covers.

use super::PictureError;
use pictor_tasks::units::Resolution;
use std::collections::VecDeque;
use std::f32::consts::PI;

/// How samples are interpolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The sharpest; it may overshoot at edges.
    Lanczos3,
    /// A cubic through the samples: hardly any ringing at a hard edge, such as that of an opacity mask.
    CatmullRom,
}

impl Filter {
    /// The radius of the filter, in samples of the coarser picture.
    fn reach(self) -> f32 {
        match self {
            Self::Lanczos3 => 3.0,
            Self::CatmullRom => 2.0,
        }
    }

    fn weight(self, x: f32) -> f32 {
        let x = x.abs();
        match self {
            _ if x >= self.reach() => 0.0,
            Self::Lanczos3 => sinc(x) * sinc(x / 3.0),
            Self::CatmullRom if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::CatmullRom => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        }
    }
}

fn sinc(x: f32) -> f32 {
    if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) }
}

/// The samples that one result is computed from: their weights, from the sample `first` on.
#[derive(Debug)]
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

/// Resizes a picture, row by row.
#[derive(Debug)]
pub struct Resampler {
    columns: Vec<Taps>,
    rows: std::vec::IntoIter<Taps>,
    channels: usize,
    /// Rows of the source, already resized to the new width. The first of them is row `first`.
    held: VecDeque<Vec<f32>>,
    first: usize,
    source: Vec<f32>,
}

impl Resampler {
    /// Resizes from one size to another, with `channels` samples per pixel.
    pub fn new(from: Resolution, to: Resolution, channels: usize, filter: Filter) -> Self {
        Self {
            columns: taps(from.width, to.width, filter),
            rows: taps(from.height, to.height, filter).into_iter(),
            channels,
            held: VecDeque::new(),
            first: 0,
            source: Vec::new(),
        }
    }

    /// The next row of the result; `source` fills in the next row of the source.
    ///
    /// # Panics
    /// If called again after the last row.
    pub fn row(
        &mut self,
        source: &mut dyn FnMut(&mut Vec<f32>) -> Result<(), PictureError>,
        out: &mut Vec<f32>,
    ) -> Result<(), PictureError> {
        let taps = self.rows.next().expect("no more rows are asked for than there are");
        while self.first + self.held.len() < taps.first + taps.weights.len() {
            source(&mut self.source)?;
            let row = self.narrow_or_widen();
            self.held.push_back(row);
        }
        let passed = (taps.first - self.first).min(self.held.len());
        self.held.drain(..passed);
        self.first += passed;
        out.clear();
        out.resize(self.columns.len() * self.channels, 0.0);
        for (row, weight) in self.held.iter().zip(&taps.weights) {
            for (out, sample) in out.iter_mut().zip(row) {
                *out += sample * weight;
            }
        }
        Ok(())
    }

    fn narrow_or_widen(&self) -> Vec<f32> {
        let mut row = Vec::with_capacity(self.columns.len() * self.channels);
        for taps in &self.columns {
            let part = &self.source[taps.first * self.channels..];
            for channel in 0..self.channels {
                let samples = part[channel..].iter().step_by(self.channels);
                row.push(samples.zip(&taps.weights).map(|(sample, weight)| sample * weight).sum());
            }
        }
        row
    }
}

/// The taps along one axis. Beyond the edge, the outermost samples of the picture are repeated.
#[expect(clippy::cast_precision_loss, reason = "pictures have fewer pixels than 2^24 on a side")]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "places inside a picture, rounded on purpose and limited to it"
)]
fn taps(from: u32, to: u32, filter: Filter) -> Vec<Taps> {
    let ratio = from as f32 / to as f32;
    // When downscaling, average over all the samples that a new one covers.
    let stretch = ratio.max(1.0);
    let last = i64::from(from) - 1;
    let place = |index: u32| {
        let centre = (index as f32 + 0.5) * ratio - 0.5;
        let reach = filter.reach() * stretch;
        let (low, high) = ((centre - reach).ceil() as i64, (centre + reach).floor() as i64);
        let first = low.clamp(0, last);
        let length = (high.clamp(0, last) - first + 1) as usize;
        let mut weights = vec![0.0; length];
        for at in low..=high {
            let inside = (at.clamp(0, last) - first) as usize;
            weights[inside] += filter.weight((at as f32 - centre) / stretch);
        }
        let sum: f32 = weights.iter().sum();
        for weight in &mut weights {
            *weight /= sum;
        }
        Taps { first: first as usize, weights }
    };
    (0..to).map(place).collect()
}
