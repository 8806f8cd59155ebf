//! How different two renders of one crop are, in numbers. Renders of one scene with one seed have the same noise, and
//! noise cannot be guessed: PSNR and SSIM take a quarter of the samples with a denoiser for an honest picture, this
//! does not. The numbers are recorded with the verdict, because logarithms may differ in the last digit between
//! machines.

use serde::{Deserialize, Serialize};

/// Below this difference between two seeds, a crop has no noise to compare.
pub const NOISE_MIN: f64 = 0.002;
/// Above this value (linear, 1 is white), brightness no longer counts in Q.
const BRIGHT: f64 = 8.0;
/// The bound of z, so that it is always a number.
const Z_MAX: f64 = 1e6;

/// Three renders of the same crop, each with all channels, pixel by pixel.
#[derive(Clone, Copy, Debug)]
pub struct Renders<'a> {
    /// What the worker sent.
    pub worker: &'a [f32],
    /// The checker's with the assigned seed.
    pub same_seed: &'a [f32],
    /// The checker's with another seed.
    pub other_seed: &'a [f32],
    /// The number of channels.
    pub channels: usize,
}

/// Whose render something is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// The one that is checked.
    Worker,
    /// One of the checker's.
    Checker,
}

/// How different the worker's crop is from the checker's.
///
/// With `l(v) = ln(1 + clip(v, 0, 8))`, and x, rS, rT the worker's values, the checker's with the assigned seed and
/// with another: `Q = mean|l(x) - l(rS)| / mean|l(rS) - l(rT)|`. Honest work has 0; another seed, or fewer samples with
/// a denoiser, about 1; `n` of `N` samples with the right seed about `sqrt((N/n - 1)/2)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The crop has noise.
    Noise {
        /// Q, from 0.
        q: f64,
        /// Q with `l(v) = sign(v) ln(1 + |v|)`, which does not clip.
        q_unclipped: f64,
        /// By how many standard errors the mean brightness differs (Welch's test), from -1,000,000 to 1,000,000.
        /// Unbiased renders have |z| below 5 in all but one of a million crops.
        z: f64,
    },
    /// The two seeds differ by less than [`NOISE_MIN`] on average, so Q would mean nothing.
    Flat {
        /// The largest difference of display values (sRGB curve), 0 to 1.
        difference: f64,
        /// The mean difference without clipping, from 0, as in `q_unclipped`.
        unclipped: f64,
    },
    /// A value is NaN or infinite.
    NotFinite {
        /// In whose render.
        whose: Whose,
    },
    /// The render has not as many values as the others, or none at all.
    WrongSize {
        /// Whose render.
        whose: Whose,
    },
}

/// Measures one crop. Any values are accepted; those that are not numbers are reported.
pub fn measure(renders: &Renders<'_>) -> Measure {
    let Renders { worker, same_seed, other_seed, channels } = *renders;
    let size = same_seed.len();
    if size == 0 || other_seed.len() != size || channels == 0 || !size.is_multiple_of(channels) {
        return Measure::WrongSize { whose: Whose::Checker };
    }
    if worker.len() != size {
        return Measure::WrongSize { whose: Whose::Worker };
    }
    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    if !finite(worker) {
        return Measure::NotFinite { whose: Whose::Worker };
    }
    if !finite(same_seed) || !finite(other_seed) {
        return Measure::NotFinite { whose: Whose::Checker };
    }
    let noise = distance(same_seed, other_seed, clipped);
    let unclipped = distance(worker, same_seed, open);
    if noise < NOISE_MIN {
        let differences = pairs(worker, same_seed).map(|(a, b)| (display(a) - display(b)).abs());
        return Measure::Flat { difference: differences.fold(0.0, f64::max), unclipped };
    }
    Measure::Noise {
        q: distance(worker, same_seed, clipped) / noise,
        // Never less noise than with clipping.
        q_unclipped: unclipped / distance(same_seed, other_seed, open),
        z: bias(renders),
    }
}

/// Welch's test (Biometrika 34, 1947) for a difference between the means of two noises, as proposed for path tracers by
/// Jung, Hanika and Dachsbacher (JCGT 9(2), 2020): x - rT and rS - rT, each summed over a pixel's channels. What the
/// scene looks like cancels out; what remains is noise, and a systematic difference such as a missing light or fewer
/// bounces, which Q alone may miss. The two share rT, so |z| is at most too small.
fn bias(renders: &Renders<'_>) -> f64 {
    let Renders { worker, same_seed, other_seed, channels } = *renders;
    let pixel = |values: &[f32]| values.iter().map(|value| clipped((*value).into())).sum::<f64>();
    let pixels = |values| <[f32]>::chunks_exact(values, channels).map(pixel);
    let residues = |values| pixels(values).zip(pixels(other_seed)).map(|(a, b)| a - b);
    let (mean_x, error_x) = mean_and_error(residues(worker));
    let (mean_r, error_r) = mean_and_error(residues(same_seed));
    let (difference, error) = (mean_x - mean_r, (error_x + error_r).sqrt());
    if difference == 0.0 { 0.0 } else { (difference / error).clamp(-Z_MAX, Z_MAX) }
}

/// The mean of some numbers and the square of its standard error; infinite for a single number.
fn mean_and_error(numbers: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = float(numbers.clone().count());
    let mean = numbers.clone().sum::<f64>() / count;
    let squares: f64 = numbers.map(|number| (number - mean).powi(2)).sum();
    (mean, if count > 1.0 { squares / (count - 1.0) / count } else { f64::INFINITY })
}

/// How different the results of a neural network are, values from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Likeness {
    /// They have the same values.
    Equal,
    /// They do not.
    Different {
        /// The largest difference.
        difference: f64,
        /// The ratio of peak signal (1) to noise in decibels.
        decibels: f64,
    },
    /// A value is NaN or infinite.
    NotFinite {
        /// In whose result.
        whose: Whose,
    },
    /// They have different sizes, or none.
    WrongSize,
}

/// Compares the results of a neural network on one crop.
pub fn likeness(worker: &[f32], checker: &[f32]) -> Likeness {
    if worker.len() != checker.len() || worker.is_empty() {
        return Likeness::WrongSize;
    }
    for (values, whose) in [(worker, Whose::Worker), (checker, Whose::Checker)] {
        if !values.iter().all(|value| value.is_finite()) {
            return Likeness::NotFinite { whose };
        }
    }
    let differences = pairs(worker, checker).map(|(a, b)| (a - b).abs());
    let difference = differences.clone().fold(0.0, f64::max);
    if difference == 0.0 {
        return Likeness::Equal;
    }
    let squares: f64 = differences.map(|difference| difference.powi(2)).sum();
    Likeness::Different { difference, decibels: -10.0 * (squares / float(worker.len())).log10() }
}

fn pairs<'a>(a: &'a [f32], b: &'a [f32]) -> impl Iterator<Item = (f64, f64)> + Clone + 'a {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)))
}

fn distance(a: &[f32], b: &[f32], scale: fn(f64) -> f64) -> f64 {
    pairs(a, b).map(|(a, b)| (scale(a) - scale(b)).abs()).sum::<f64>() / float(a.len())
}

fn clipped(value: f64) -> f64 {
    value.clamp(0.0, BRIGHT).ln_1p()
}

fn open(value: f64) -> f64 {
    value.abs().ln_1p().copysign(value)
}

/// The sRGB curve (IEC 61966-2-1) of a linear value, clipped to 0 to 1.
fn display(value: f64) -> f64 {
    match value.clamp(0.0, 1.0) {
        dark if dark <= 0.003_130_8 => 12.92 * dark,
        bright => 1.055 * bright.powf(1.0 / 2.4) - 0.055,
    }
}

#[expect(clippy::cast_precision_loss, reason = "no crop has 2^53 values")]
fn float(count: usize) -> f64 {
    count as f64
}
