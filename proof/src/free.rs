//! What is checked of every output because it costs nothing: no render is needed.

use crate::manifest::Task;
use crate::pixels::{Picture, Shape};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a check without rendering found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// A value is NaN or infinite.
    NotFinite {
        /// The column of the first such pixel.
        x: u32,
        /// Its row.
        y: u32,
    },
    /// The picture has another size than the task was to make.
    WrongSize {
        /// The size that the task was to make.
        expected: Shape,
        /// The size that it has.
        found: Shape,
    },
    /// All pixels are the same.
    Constant,
    /// Another task had the very same pixels before.
    Duplicate {
        /// That task.
        of: Box<Task>,
    },
    /// It took less than half the median time.
    Fast {
        /// How long it took, in milliseconds.
        took_ms: u64,
        /// The median of comparable tasks.
        median_ms: u64,
    },
    /// It took more than twice the median time.
    Slow {
        /// How long it took, in milliseconds.
        took_ms: u64,
        /// The median of comparable tasks.
        median_ms: u64,
    },
}

/// What follows from a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Somebody may look at it.
    Flag,
    /// It may be honest (a frame that has faded to black, a picture that stands still), so it is decided by rendering:
    /// the task is checked, whatever the rate.
    MustCheck,
    /// It cannot be honest: the output is rejected.
    Rejects,
}

impl Finding {
    /// What follows from it.
    pub fn weight(&self) -> Weight {
        match self {
            Self::NotFinite { .. } | Self::WrongSize { .. } => Weight::Rejects,
            Self::Constant | Self::Duplicate { .. } => Weight::MustCheck,
            Self::Fast { .. } | Self::Slow { .. } => Weight::Flag,
        }
    }
}

/// Checks the pixels of an output against the size that the task was to make.
pub fn pixels(picture: Picture<'_>, expected: Shape) -> Vec<Finding> {
    let (found, values) = (picture.shape(), picture.values());
    let mut findings = Vec::new();
    if found != expected {
        findings.push(Finding::WrongSize { expected, found });
    }
    let channels = found.channels as usize;
    let rows = (0..).zip(values.chunks_exact(found.width as usize * channels));
    let first = rows.filter_map(|(y, row)| {
        let mut pixels = (0..).zip(row.chunks_exact(channels));
        let (x, _) = pixels.find(|(_, pixel)| !pixel.iter().all(|value| value.is_finite()))?;
        Some(Finding::NotFinite { x, y })
    });
    findings.extend(first.take(1));
    // Two pixels at least: a picture of one is always the same everywhere.
    let is_constant =
        values.len() > channels && values[channels..] == values[..values.len() - channels];
    findings.extend(is_constant.then_some(Finding::Constant));
    findings
}

/// Checks an output against the task that had the same root of pixels first. Another execution of the same task has
/// them honestly.
pub fn duplicate(task: &Task, first: &Task) -> Option<Finding> {
    let is_same = task.step == first.step && task.attempt.index == first.attempt.index;
    (!is_same).then(|| Finding::Duplicate { of: Box::new(first.clone()) })
}

/// Checks the active time of a task against the median of comparable ones. A median of 0 says nothing.
pub fn time(took_ms: u64, median_ms: u64) -> Option<Finding> {
    if median_ms == 0 {
        None
    } else if took_ms < median_ms.div_ceil(2) {
        Some(Finding::Fast { took_ms, median_ms })
    } else if took_ms > median_ms.saturating_mul(2) {
        Some(Finding::Slow { took_ms, median_ms })
    } else {
        None
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFinite { x, y } => write!(f, "pixel {x},{y} is NaN or infinite"),
            Self::WrongSize { expected, found } => write!(f, "{found} instead of {expected}"),
            Self::Constant => write!(f, "all pixels are the same"),
            Self::Duplicate { of } => {
                let Task { step, attempt, .. } = &**of;
                write!(f, "task {} of step {} in run {}", attempt.index, step.step, step.run)?;
                write!(f, " had the same pixels before")
            }
            Self::Fast { took_ms, median_ms } | Self::Slow { took_ms, median_ms } => {
                write!(f, "it took {took_ms} ms, where {median_ms} ms are usual")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pictor_tasks::message::{Execution, RunId, StepKey, Try};
    use proptest::prelude::*;

    const SHAPE: Shape = Shape { width: 3, height: 2, channels: 2 };

    fn found(values: &[f32], expected: Shape) -> Vec<Finding> {
        pixels(Picture::new(SHAPE, values).unwrap(), expected)
    }

    #[test]
    fn pixels_are_checked() {
        let honest: Vec<f32> = (0..12_u8).map(f32::from).collect();
        assert_eq!(found(&honest, SHAPE), []);
        let expected = Shape { channels: 4, ..SHAPE };
        assert_eq!(found(&honest, expected), [Finding::WrongSize { expected, found: SHAPE }]);
        let black = [0.0, -0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(found(&black, SHAPE), [Finding::Constant]);
        let plain = [0.5, 1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 1.0];
        assert_eq!(found(&plain, SHAPE), [Finding::Constant]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = honest.clone();
            values[9] = bad;
            values[11] = bad;
            assert_eq!(found(&values, SHAPE), [Finding::NotFinite { x: 1, y: 1 }]);
        }
        let one = Shape { width: 1, height: 1, channels: 2 };
        assert_eq!(pixels(Picture::new(one, &[0.0, 0.0]).unwrap(), one), []);
    }

    #[test]
    fn the_same_pixels_are_expected_of_the_same_task_only() {
        let task = |index, attempt| Task {
            step: StepKey { run: RunId("r".into()), step: 1, generation: 0 },
            attempt: Try { index, attempt },
            execution: Execution(u64::from(attempt)),
        };
        assert_eq!(duplicate(&task(3, 2), &task(3, 1)), None);
        let finding = duplicate(&task(3, 2), &task(4, 1)).unwrap();
        assert_eq!(finding.to_string(), "task 4 of step 1 in run r had the same pixels before");
        assert_eq!(finding.weight(), Weight::MustCheck);
    }

    #[test]
    fn times_are_plausible_from_half_to_twice_the_median() {
        for fine in [50, 100, 200] {
            assert_eq!(time(fine, 100), None);
        }
        assert_eq!(time(49, 100), Some(Finding::Fast { took_ms: 49, median_ms: 100 }));
        assert_eq!(time(201, 100), Some(Finding::Slow { took_ms: 201, median_ms: 100 }));
        assert_eq!(time(1, 3), Some(Finding::Fast { took_ms: 1, median_ms: 3 }));
        assert_eq!(time(u64::MAX, 0), None);
        assert_eq!(time(0, 1).map(|finding| finding.weight()), Some(Weight::Flag));
    }

    proptest! {
        #[test]
        fn any_pixels_are_checked(values in proptest::collection::vec(any::<f32>(), 12)) {
            let rejected = found(&values, SHAPE).iter().any(|f| f.weight() == Weight::Rejects);
            prop_assert_eq!(rejected, values.iter().any(|value| !value.is_finite()));
        }
    }
}
