//! From the measures of crops to a decision, with its reason.

use crate::compare::{Likeness, Measure, Whose};
use crate::crops::CROPS;
use crate::thresholds::{Limits, UpscaleLimits};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The most crops of one picture that are measured because others had no noise.
pub const CROPS_MAX: usize = 2 * CROPS;

/// What follows from a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It is the same render.
    Pass,
    /// It is not.
    Fail,
    /// This checker cannot tell: one of the worker's class must render it.
    Rerender,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nothing was found.
    Alike,
    /// Nothing was compared.
    Nothing,
    /// A value is NaN or infinite.
    NotFinite(Whose),
    /// The number of values is wrong.
    WrongSize(Whose),
    /// This value of Q is too large.
    Noise(f64),
    /// This value of Q without clipping is too large.
    Unclipped(f64),
    /// A crop without noise differs by this much.
    Flat(f64),
    /// The |z| of Welch's test is too large.
    Bias(f64),
    /// The median of Q is too large.
    Median(f64),
    /// So many crops with noise are good, which is too few.
    TooFewGood(usize),
    /// Results of a network that should be equal differ by this much, or by more than is allowed.
    Difference(f64),
    /// The ratio of signal to noise, in decibels, is too small.
    Decibels(f64),
}

/// A decision about one picture, with everything that it is based on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// The decision.
    pub decision: Decision,
    /// Its reason.
    pub reason: Reason,
    /// The crop with that reason, as its position in `measures`.
    pub crop: Option<usize>,
    /// The median of Q over the crops with noise.
    pub median: Option<f64>,
    /// The measures of all crops.
    pub measures: Vec<Measure>,
    /// Whether the limits come from measurements of these classes.
    pub calibrated: bool,
}

/// How many more crops to draw and measure, because some of the drawn ones had no noise; 0 if there are enough.
pub fn missing(measures: &[Measure]) -> usize {
    let noisy = measures.iter().filter(|m| matches!(m, Measure::Noise { .. })).count();
    CROPS.saturating_sub(noisy).min(CROPS_MAX.saturating_sub(measures.len()))
}

/// Decides about a picture. Fails if any crop proves another render; passes if enough crops are good, their median is
/// small and none shows a bias; otherwise somebody of the worker's class has to render it. What is wrong with the
/// checker's own pixels never counts against the worker. A picture without any noise is decided by its flat crops.
pub fn judge(measures: Vec<Measure>, limits: &Limits) -> Judgement {
    let mut q: Vec<f64> = measures
        .iter()
        .filter_map(|measure| match measure {
            Measure::Noise { q, .. } => Some(*q),
            _ => None,
        })
        .collect();
    q.sort_by(f64::total_cmp);
    let median = (!q.is_empty()).then(|| f64::midpoint(q[(q.len() - 1) / 2], q[q.len() / 2]));
    let each = || measures.iter().enumerate();
    let failed = each().find_map(|(at, measure)| Some((at, failure(measure, limits)?)));
    let unsure = each().find_map(|(at, measure)| Some((at, doubt(measure, limits)?)));
    let good = q.iter().take_while(|q| **q <= limits.good).count();
    let needed = (q.len() * usize::from(limits.good_of_eight)).div_ceil(CROPS);
    let (decision, crop, reason) = match (failed, unsure, median) {
        (Some((at, reason)), ..) => (Decision::Fail, Some(at), reason),
        (None, Some((at, reason)), _) => (Decision::Rerender, Some(at), reason),
        (None, None, _) if measures.is_empty() => (Decision::Rerender, None, Reason::Nothing),
        _ if good < needed => (Decision::Rerender, None, Reason::TooFewGood(good)),
        (.., Some(q)) if q > limits.median => (Decision::Rerender, None, Reason::Median(q)),
        _ => (Decision::Pass, None, Reason::Alike),
    };
    let calibrated = limits.calibrated;
    Judgement { decision, reason, crop, median, measures, calibrated }
}

/// What proves that a crop is another render.
fn failure(measure: &Measure, limits: &Limits) -> Option<Reason> {
    match *measure {
        Measure::Noise { q, .. } if q > limits.bad => Some(Reason::Noise(q)),
        Measure::Noise { q_unclipped: q, .. } if q > limits.bad_unclipped => {
            Some(Reason::Unclipped(q))
        }
        Measure::Flat { difference, unclipped } if difference.max(unclipped) > limits.flat => {
            Some(Reason::Flat(difference.max(unclipped)))
        }
        Measure::NotFinite { whose: Whose::Worker } => Some(Reason::NotFinite(Whose::Worker)),
        Measure::WrongSize { whose: Whose::Worker } => Some(Reason::WrongSize(Whose::Worker)),
        _ => None,
    }
}

/// Why a crop cannot be taken for the same render.
fn doubt(measure: &Measure, limits: &Limits) -> Option<Reason> {
    match *measure {
        Measure::Noise { z, .. } if z.abs() >= limits.bias => Some(Reason::Bias(z.abs())),
        Measure::NotFinite { whose } => Some(Reason::NotFinite(whose)),
        Measure::WrongSize { whose } => Some(Reason::WrongSize(whose)),
        _ => None,
    }
}

/// Decides about the result of a neural network: within a class (`across` is `None`) it must be equal.
pub fn judge_upscale(likeness: Likeness, across: Option<&UpscaleLimits>) -> (Decision, Reason) {
    match (likeness, across) {
        (Likeness::Equal, _) => (Decision::Pass, Reason::Alike),
        (Likeness::NotFinite { whose: Whose::Checker }, _) => {
            (Decision::Rerender, Reason::NotFinite(Whose::Checker))
        }
        (Likeness::NotFinite { whose }, _) => (Decision::Fail, Reason::NotFinite(whose)),
        (Likeness::WrongSize, _) => (Decision::Fail, Reason::WrongSize(Whose::Worker)),
        (Likeness::Different { difference, .. }, None) => {
            (Decision::Fail, Reason::Difference(difference))
        }
        (Likeness::Different { difference, decibels }, Some(limits)) => {
            if difference > limits.difference {
                (Decision::Fail, Reason::Difference(difference))
            } else if decibels < limits.decibels {
                (Decision::Fail, Reason::Decibels(decibels))
            } else {
                (Decision::Pass, Reason::Alike)
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |whose: &Whose| match whose {
            Whose::Worker => "the worker",
            Whose::Checker => "the checker",
        };
        match self {
            Self::Alike => write!(f, "the pixels are alike"),
            Self::Nothing => write!(f, "no crop was compared"),
            Self::NotFinite(whose) => write!(f, "{} sent NaN or infinity", of(whose)),
            Self::WrongSize(whose) => write!(f, "{} sent a crop of the wrong size", of(whose)),
            Self::Noise(q) => {
                write!(f, "the noise is not that of the assigned render (Q = {q:.4})")
            }
            Self::Unclipped(q) => {
                write!(f, "very bright or negative pixels differ (Q without clipping = {q:.4})")
            }
            Self::Flat(by) => write!(f, "a crop without noise differs by {by:.4}"),
            Self::Bias(z) => write!(f, "the mean brightness is biased (|z| = {z:.1})"),
            Self::Median(q) => write!(f, "the median of Q is {q:.4}"),
            Self::TooFewGood(good) => write!(f, "only {good} crops are alike"),
            Self::Difference(by) => write!(f, "a value differs by {by:.4}"),
            Self::Decibels(ratio) => write!(f, "the results agree only to {ratio:.1} dB"),
        }
    }
}
