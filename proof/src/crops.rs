//! Which crops of a picture are checked: four spread over the whole picture, then more where pixels vary most, all
//! drawn after the worker has committed itself.

use crate::draw::{Draw, Purpose, Secret};
use crate::hex::Commitment;
use crate::pixels::{BLOCK, Shape};
use pictor_tasks::units::Rect;

/// How many crops are compared.
pub const CROPS: usize = 8;
/// How many of them are spread evenly: one for each quarter of the picture.
pub const SPREAD: usize = 4;
/// The weight of a block that varies most; one that does not vary at all has 1.
const WEIGHT_MAX: f32 = 1_048_576.0;

/// The crops of one picture, in the order in which they are checked: [`CROPS`] of them, and if some turn out to have no
/// noise, the next ones, until every block of the picture has been drawn once.
///
/// A crop has 64x64 pixels, or all of a smaller picture's width or height. Each belongs to one block of the picture
/// ([`Shape::block`]) and contains it, moved inwards at the right and lower border. The first four are drawn in the
/// four quarters of the picture, each block with a probability in proportion to its area, so a worker that tampers with
/// a share `a` of the picture escapes all four with a probability of at most `(1 - a)^4`; the others by variance, with
/// at least a small probability for every block. A picture of at most eight blocks is checked as a whole.
pub struct Crops {
    draw: Draw,
    shape: Shape,
    /// The weight of each block by variance; 0 once it is drawn.
    weights: Vec<u64>,
    drawn: usize,
}

impl Crops {
    /// Starts the draw for a commitment. `variance` has one value for each block, in any unit; missing ones, negative
    /// ones and NaN count as zero.
    pub fn new(secret: &Secret, about: &Commitment, shape: Shape, variance: &[f32]) -> Self {
        let finite =
            |index: usize| variance.get(index).copied().unwrap_or(0.0).clamp(0.0, f32::MAX);
        let blocks = if shape.check().is_ok() { shape.blocks() as usize } else { 0 };
        let most = (0..blocks).map(finite).fold(f32::MIN_POSITIVE, f32::max);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 2^20"
        )]
        let weight = |index| (finite(index) / most * WEIGHT_MAX) as u64;
        let weights = (0..blocks).map(|index| weight(index).max(1)).collect();
        Self { draw: secret.draw(Purpose::Crops, about, 0), shape, weights, drawn: 0 }
    }

    /// The area of a block in one quarter of the picture, unless it has been drawn.
    fn area(&self, index: usize, quarter: usize) -> u64 {
        let block = u32::try_from(index).ok().and_then(|index| self.shape.block(index));
        let Some(block) = block.filter(|_| self.weights[index] > 0) else { return 0 };
        let shared = |from: u32, to: u32, side: u32, second: bool| {
            let (low, high) = if second { (side / 2, side) } else { (0, side / 2) };
            u64::from(to.min(high).saturating_sub(from.max(low)))
        };
        shared(block.x0, block.x1, self.shape.width, quarter % 2 == 1)
            * shared(block.y0, block.y1, self.shape.height, quarter / 2 == 1)
    }

    fn block(&mut self) -> Option<usize> {
        while self.drawn < SPREAD {
            let quarter = self.drawn;
            self.drawn += 1;
            let areas: Vec<u64> =
                (0..self.weights.len()).map(|at| self.area(at, quarter)).collect();
            // The quarters of a small picture may have nothing left.
            if let Some(index) = self.draw.weighted(areas.iter().copied()) {
                return Some(index);
            }
        }
        self.draw.weighted(self.weights.iter().copied())
    }
}

impl Iterator for Crops {
    type Item = Rect;

    fn next(&mut self) -> Option<Rect> {
        let index = self.block()?;
        self.weights[index] = 0;
        let block = self.shape.block(u32::try_from(index).ok()?)?;
        let inwards = |from: u32, side: u32| {
            let from = from.min(side.saturating_sub(BLOCK));
            (from, (from + BLOCK).min(side))
        };
        let (x0, x1) = inwards(block.x0, self.shape.width);
        let (y0, y1) = inwards(block.y0, self.shape.height);
        Some(Rect { x0, y0, x1, y1 })
    }
}

/// The blocks that a crop touches: what a checker fetches of the worker's picture, each with its path.
pub fn blocks(shape: Shape, crop: Rect) -> Vec<u32> {
    let touched = |from: u32, to: u32| from / BLOCK..to.div_ceil(BLOCK);
    let rows = touched(crop.y0, crop.y1);
    rows.flat_map(|row| touched(crop.x0, crop.x1).map(move |at| row * shape.columns() + at))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn commitment(number: u32) -> Commitment {
        Commitment(blake3::hash(&number.to_le_bytes()).into())
    }

    fn crops(number: u32, width: u32, height: u32, variance: &[f32]) -> Crops {
        let shape = Shape { width, height, channels: 4 };
        Crops::new(&Secret::new([7; 32]), &commitment(number), shape, variance)
    }

    #[test]
    fn small_pictures_are_checked_as_a_whole() {
        let of = |width, height| crops(1, width, height, &[]).collect::<Vec<_>>();
        assert_eq!(of(5, 3), [Rect { x0: 0, y0: 0, x1: 5, y1: 3 }]);
        assert_eq!(of(64, 64).len(), 1);
        assert_eq!(of(65, 1).len(), 2);
        assert_eq!(of(256, 128).len(), 8);
        assert_eq!(of(0, 9), []);
        assert_eq!(of(u32::MAX, u32::MAX), []);
    }

    #[test]
    fn blocks_that_vary_are_drawn_more_often() {
        let mut variance = vec![0.0; 400];
        variance[377] = 3.0;
        let hit = |n: u32| {
            let busy = Rect { x0: 17 * 64, y0: 18 * 64, x1: 18 * 64, y1: 19 * 64 };
            crops(n, 1280, 1280, &variance).take(CROPS).any(|crop| crop == busy)
        };
        assert_eq!((0..200).filter(|n| hit(*n)).count(), 200);
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0, -0.0] {
            assert_eq!(crops(1, 1280, 1280, &vec![odd; 400]).count(), 400);
        }
    }

    /// A worker that tampers with a share of the picture escapes with about (1 - a)^8.
    #[test]
    fn tampering_is_missed_as_rarely_as_computed() {
        let (side, rounds) = (32_u32, 4_000_u32);
        for share in [0.1_f64, 0.25, 0.5] {
            let mut missed = 0;
            for round in 0..rounds {
                // Which blocks are bad is unrelated to their places.
                let mut draw = Secret::new([9; 32]).draw(Purpose::Check, &commitment(round), 1);
                let bad: Vec<bool> = (0..side * side)
                    .map(|_| draw.hits(crate::draw::Rate(to_millionths(share))))
                    .collect();
                let found = crops(round, 64 * side, 64 * side, &[])
                    .take(CROPS)
                    .any(|crop| bad[(crop.y0 / 64 * side + crop.x0 / 64) as usize]);
                missed += u32::from(!found);
            }
            let expected = (1.0 - share).powi(8);
            let deviation = (expected * (1.0 - expected) / f64::from(rounds)).sqrt();
            let measured = f64::from(missed) / f64::from(rounds);
            assert!(
                (measured - expected).abs() < 4.0 * deviation,
                "{share}: {measured} {expected}"
            );
        }
    }

    /// A connected area is missed no more often than that.
    #[test]
    fn half_a_picture_is_hardly_ever_missed() {
        let missed = (0..4_000)
            .filter(|n| !crops(*n, 1920, 1080, &[]).take(CROPS).any(|crop| crop.x1 > 960));
        assert_eq!(missed.count(), 0, "two of the quarters lie in it");
        let corner = (0..4_000).filter(|n| {
            !crops(*n, 1920, 1080, &[]).take(CROPS).any(|crop| crop.x1 > 1440 && crop.y1 > 810)
        });
        let share = f64::from(u32::try_from(corner.count()).unwrap()) / 4_000.0;
        assert!(share < (1.0_f64 - 1.0 / 16.0).powi(8), "{share}");
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below a million")]
    fn to_millionths(share: f64) -> u32 {
        (share * 1e6) as u32
    }

    proptest! {
        #[test]
        fn crops_lie_inside_and_differ(
            number: u32, width in 1..1_500_u32, height in 1..1_500_u32,
            variance in proptest::collection::vec(any::<f32>(), 0..100),
        ) {
            let shape = Shape { width, height, channels: 4 };
            let all: Vec<Rect> = crops(number, width, height, &variance).collect();
            prop_assert_eq!(all.len(), shape.blocks() as usize);
            let corners: BTreeSet<_> = all.iter().map(|crop| (crop.x0, crop.y0)).collect();
            prop_assert_eq!(corners.len(), all.len());
            let mut seen = BTreeSet::new();
            for crop in all {
                prop_assert_eq!(crop.x1 - crop.x0, width.min(BLOCK));
                prop_assert_eq!(crop.y1 - crop.y0, height.min(BLOCK));
                prop_assert!(crop.x1 <= width && crop.y1 <= height);
                let touched = blocks(shape, crop);
                prop_assert!((1..=4).contains(&touched.len()));
                seen.extend(touched);
            }
            prop_assert_eq!(seen.len(), shape.blocks() as usize, "together they cover the picture");
        }
    }
}
