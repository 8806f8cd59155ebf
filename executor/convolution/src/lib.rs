//! 3×3 convolutions by Winograd's method: four neighbouring results take 16 multiplications for each channel instead of
//! 36. A separate crate, so that it is optimised in debug builds as well.
//!
//! Source: A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2015,
//! arXiv:1509.09308), section 4.1, `F(2×2, 3×3)`.
//!
//! Rows and columns are processed in pairs, starting with the first. A result depends on the 3×3 samples around it and
//! on no others, in floating point as well: of the 16 products of a pair of pairs, those that contain a sample from
//! outside are not part of the result's sum. It also depends on its position within the pair. So a tile has the same
//! results as the whole picture, bit for bit, if its first row and column are even ones of the picture. (Larger blocks
//! would be faster still but would lose this property.)

#![expect(clippy::inline_always, reason = "code for vectors has to end up inside of `with_simd`")]

use pulp::{Arch, Simd, WithSimd, bytemuck};

/// The results whose sums are kept in registers: this many channels, times as many vectors of pairs. Together with the
/// factors they need 14 of the 16 registers.
const CHANNELS: usize = 4;
const VECTORS: usize = 2;
/// The number of products of a pair of pairs, for each channel.
const PRODUCTS: usize = 16;
/// Space for the products and one more. Without it, values that are read together would be apart by a power of two, and
/// would evict each other from the first-level cache.
const ROOM: usize = PRODUCTS + 1;

/// Whether this machine has vectors that are wide enough. If not, the library's own convolution is likely faster.
pub fn is_fast() -> bool {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    Arch::new().dispatch(Lanes) >= 8
}

/// A convolution with a border of zeros and stride 1, and the activation that follows it.
#[derive(Debug)]
pub struct Convolution {
    inputs: usize,
    outputs: usize,
    /// The transformed kernels, ordered by product, group of [`CHANNELS`] outputs, input, and output of the group.
    weights: Vec<f32>,
    bias: Vec<f32>,
    /// For each channel, the factor for negative results.
    slope: Vec<f32>,
}

impl Convolution {
    /// Takes kernels of 3×3 by output and input channel, and for each output a bias and a slope. Returns `None` if the
    /// lengths do not match.
    pub fn new(
        [outputs, inputs]: [usize; 2],
        kernels: &[f32],
        bias: &[f32],
        slope: &[f32],
    ) -> Option<Self> {
        let (each, rest) = kernels.as_chunks::<9>();
        let fits = each.len() == outputs * inputs && rest.is_empty() && inputs > 0;
        if !fits || bias.len() != outputs || slope.len() != outputs {
            return None;
        }
        let groups = outputs.div_ceil(CHANNELS);
        let mut weights = vec![0.0; PRODUCTS * groups * inputs * CHANNELS];
        for (index, kernel) in each.iter().enumerate() {
            let (output, input) = (index / inputs, index % inputs);
            let (group, member) = (output / CHANNELS, output % CHANNELS);
            for (product, weight) in transformed(kernel).into_iter().enumerate() {
                weights[((product * groups + group) * inputs + input) * CHANNELS + member] = weight;
            }
        }
        Some(Self { inputs, outputs, weights, bias: bias.into(), slope: slope.into() })
    }

    /// The numbers of input and of output channels.
    pub fn channels(&self) -> [usize; 2] {
        [self.inputs, self.outputs]
    }

    fn groups(&self) -> usize {
        self.outputs.div_ceil(CHANNELS)
    }

    /// The work, divided into parts that can be done in any order and at the same time. `picture` has a plane of
    /// `width` × `height` for each input channel, and `results` has one for each output.
    pub fn parts<'a>(
        &'a self,
        [width, height]: [usize; 2],
        picture: &'a [f32],
        results: &'a mut [f32],
    ) -> Vec<Part<'a>> {
        let part = |row| Part { of: self, width, height, picture, row, results: Vec::new() };
        let mut parts: Vec<_> = (0..height.div_ceil(2)).map(part).collect();
        for plane in results.chunks_exact_mut(width * height) {
            for (part, rows) in parts.iter_mut().zip(plane.chunks_mut(2 * width)) {
                part.results.push(rows);
            }
        }
        parts
    }
}

/// `G g Gᵀ` of a kernel `g`.
fn transformed(kernel: &[f32; 9]) -> [f32; PRODUCTS] {
    let side = |[a, b, c]: [f32; 3]| [a, (a + b + c) * 0.5, (a - b + c) * 0.5, c];
    let columns = [0, 1, 2].map(|x| side([kernel[x], kernel[3 + x], kernel[6 + x]]));
    let rows = [0, 1, 2, 3].map(|y| side(columns.map(|column| column[y])));
    std::array::from_fn(|product| rows[product / 4][product % 4])
}

/// One pair of rows of the result, for all channels.
#[derive(Debug)]
pub struct Part<'a> {
    of: &'a Convolution,
    width: usize,
    height: usize,
    picture: &'a [f32],
    /// The index of the pair.
    row: usize,
    /// The rows of each channel: two, or a single one at the end.
    results: Vec<&'a mut [f32]>,
}

/// Buffers for intermediate results, which can be reused from one part to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The odd and the even columns of four rows.
    lines: Vec<f32>,
    /// The transformed samples, ordered by input, product and vector.
    samples: Vec<f32>,
    /// Their products with the kernels, ordered by group of outputs, product, output of the group, and vector.
    products: Vec<f32>,
}

impl Part<'_> {
    /// Computes the part and writes its rows of the results.
    pub fn compute(self, scratch: &mut Scratch) {
        Arch::new().dispatch(Work { part: self, scratch });
    }
}

struct Work<'a> {
    part: Part<'a>,
    scratch: &'a mut Scratch,
}

// All code that handles vectors must end up inside of `with_simd`, where the compiler may use them: so no closures with
// vectors are passed to the standard library, whose functions may not be inlined.
impl WithSimd for Work<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let pairs = self.part.width.div_ceil(2);
        for first in (0..pairs).step_by(VECTORS * S::F32_LANES) {
            if pairs - first > S::F32_LANES {
                self.panel::<S, VECTORS>(simd, first);
            } else {
                self.panel::<S, 1>(simd, first);
            }
        }
    }
}

/// `count` vectors in a buffer, which grows as needed.
#[inline(always)]
fn vectors<S: Simd>(buffer: &mut Vec<f32>, count: usize) -> &mut [S::f32s] {
    let length = (count + 1) * S::F32_LANES;
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    let (_, vectors, _) = bytemuck::pod_align_to_mut(buffer.as_mut_slice());
    &mut vectors[..count]
}

/// Storage for the transformed samples of that many inputs.
#[inline(always)]
fn samples<S: Simd, const V: usize>(
    buffer: &mut Vec<f32>,
    inputs: usize,
) -> &mut [[[S::f32s; V]; ROOM]] {
    let (samples, _) = vectors::<S>(buffer, inputs * ROOM * V).as_chunks_mut::<V>();
    samples.as_chunks_mut().0
}

/// Storage for the products of that many groups of outputs.
#[inline(always)]
fn products<S: Simd, const V: usize>(
    buffer: &mut Vec<f32>,
    groups: usize,
) -> &mut [[[[S::f32s; V]; CHANNELS]; ROOM]] {
    let (products, _) = vectors::<S>(buffer, groups * ROOM * CHANNELS * V).as_chunks_mut::<V>();
    products.as_chunks_mut().0.as_chunks_mut().0
}

/// The transform of a row or a column of four samples.
#[inline(always)]
fn before<S: Simd>(simd: S, d: [S::f32s; 4]) -> [S::f32s; 4] {
    [
        simd.sub_f32s(d[0], d[2]),
        simd.add_f32s(d[1], d[2]),
        simd.sub_f32s(d[2], d[1]),
        simd.sub_f32s(d[1], d[3]),
    ]
}

/// The inverse transform of a row or a column of four products.
#[inline(always)]
fn after<S: Simd>(simd: S, m: [S::f32s; 4]) -> [S::f32s; 2] {
    [simd.add_f32s(simd.add_f32s(m[0], m[1]), m[2]), simd.sub_f32s(simd.sub_f32s(m[1], m[2]), m[3])]
}

#[inline(always)]
fn rectified<S: Simd>(simd: S, sum: S::f32s, bias: S::f32s, slope: S::f32s) -> S::f32s {
    let sum = simd.add_f32s(sum, bias);
    let is_negative = simd.less_than_f32s(sum, simd.splat_f32s(0.0));
    simd.select_f32s(is_negative, simd.mul_f32s(sum, slope), sum)
}

impl Work<'_> {
    /// Computes `V` vectors of pairs of columns, starting at the pair `first`.
    #[inline(always)]
    fn panel<S: Simd, const V: usize>(&mut self, simd: S, first: usize) {
        let of = self.part.of;
        for input in 0..of.inputs {
            self.split::<S, V>(first, input);
            self.transform::<S, V>(simd, input);
        }
        self.multiply::<S, V>(simd);
        for output in 0..of.outputs {
            self.finish::<S, V>(simd, first, output);
        }
    }

    /// Separates the odd and even columns of four rows of an input. The odd columns begin one before the first pair,
    /// and there is one more of both than there are pairs.
    #[inline(always)]
    fn split<S: Simd, const V: usize>(&mut self, first: usize, input: usize) {
        let Part { width, height, picture, row, .. } = self.part;
        let plane = &picture[input * width * height..][..width * height];
        let pairs = V * S::F32_LANES;
        self.scratch.lines.resize(8 * (pairs + 1), 0.0);
        for (y, lines) in (2 * row..).zip(self.scratch.lines.chunks_exact_mut(2 * (pairs + 1))) {
            // Row 0 is the border.
            if y == 0 || y > height {
                lines.fill(0.0);
                continue;
            }
            let (odd, even) = lines.split_at_mut(pairs + 1);
            let (before, line) = plane[(y - 1) * width..][..width].split_at(2 * first);
            odd[0] = before.last().copied().unwrap_or(0.0);
            if line.len() > 2 * pairs {
                let columns = line.as_chunks().0.iter().zip(even.iter_mut().zip(&mut odd[1..]));
                for ([a, b], (even, odd)) in columns {
                    (*even, *odd) = (*a, *b);
                }
                even[pairs] = line[2 * pairs];
            } else {
                let at = |x| line.get(x).copied().unwrap_or(0.0);
                for pair in 0..pairs {
                    (even[pair], odd[pair + 1]) = (at(2 * pair), at(2 * pair + 1));
                }
                even[pairs] = at(2 * pairs);
            }
        }
    }

    /// `Bᵀ d B` of every 4×4 samples `d` of an input.
    #[inline(always)]
    fn transform<S: Simd, const V: usize>(&mut self, simd: S, input: usize) {
        let inputs = self.part.of.inputs;
        let sample = &mut samples::<S, V>(&mut self.scratch.samples, inputs)[input];
        let pitch = V * S::F32_LANES + 1;
        for vector in 0..V {
            let mut rows = [[simd.splat_f32s(0.0); 4]; 4];
            for (row, lines) in rows.iter_mut().zip(self.scratch.lines.chunks_exact(2 * pitch)) {
                let (odd, even) = lines.split_at(pitch);
                let load = |line: &[f32], from: usize| {
                    S::as_simd_f32s(&line[vector * S::F32_LANES + from..][..S::F32_LANES]).0[0]
                };
                *row = before(simd, [load(odd, 0), load(even, 0), load(odd, 1), load(even, 1)]);
            }
            for x in 0..4 {
                let column = before(simd, [rows[0][x], rows[1][x], rows[2][x], rows[3][x]]);
                for y in 0..4 {
                    sample[4 * y + x][vector] = column[y];
                }
            }
        }
    }

    /// Multiplies samples and weights, and adds up the inputs, always in the same order.
    #[inline(always)]
    fn multiply<S: Simd, const V: usize>(&mut self, simd: S) {
        let Convolution { inputs, ref weights, .. } = *self.part.of;
        let samples = samples::<S, V>(&mut self.scratch.samples, inputs);
        let groups = self.part.of.groups();
        let products = products::<S, V>(&mut self.scratch.products, groups);
        for (product, weights) in weights.chunks_exact(groups * inputs * CHANNELS).enumerate() {
            let groups = weights.chunks_exact(inputs * CHANNELS);
            for (weights, products) in groups.zip(products.iter_mut()) {
                let (weights, _) = weights.as_chunks::<CHANNELS>();
                let mut sums = [[simd.splat_f32s(0.0); V]; CHANNELS];
                for (weights, sample) in weights.iter().zip(samples.iter()) {
                    let sample = sample[product];
                    for channel in 0..CHANNELS {
                        let weight = simd.splat_f32s(weights[channel]);
                        for vector in 0..V {
                            let sum = &mut sums[channel][vector];
                            *sum = simd.mul_add_f32s(weight, sample[vector], *sum);
                        }
                    }
                }
                products[product] = sums;
            }
        }
    }

    /// `Aᵀ m A` of every 4×4 products `m` of an output, with its bias and its slope applied.
    #[expect(clippy::needless_range_loop, reason = "a vector has its place in several arrays")]
    #[inline(always)]
    fn finish<S: Simd, const V: usize>(&mut self, simd: S, first: usize, output: usize) {
        let (of, width) = (self.part.of, self.part.width);
        let groups = products::<S, V>(&mut self.scratch.products, of.groups());
        let (products, member) = (&groups[output / CHANNELS], output % CHANNELS);
        let (bias, slope) = (simd.splat_f32s(of.bias[output]), simd.splat_f32s(of.slope[output]));
        for vector in 0..V {
            let mut columns = [[simd.splat_f32s(0.0); 2]; 4];
            for x in 0..4 {
                let m = |y: usize| products[4 * y + x][member][vector];
                columns[x] = after(simd, [m(0), m(1), m(2), m(3)]);
            }
            let from = 2 * (first + vector * S::F32_LANES);
            for (y, row) in self.part.results[output].chunks_exact_mut(width).enumerate() {
                let pair =
                    after(simd, [columns[0][y], columns[1][y], columns[2][y], columns[3][y]]);
                let even = [rectified(simd, pair[0], bias, slope)];
                let odd = [rectified(simd, pair[1], bias, slope)];
                let (even, odd): (&[f32], &[f32]) =
                    (bytemuck::cast_slice(&even), bytemuck::cast_slice(&odd));
                let row = &mut row[from.min(width)..];
                let (whole, rest) = row.as_chunks_mut();
                for (pair, (even, odd)) in whole.iter_mut().zip(even.iter().zip(odd)) {
                    *pair = [*even, *odd];
                }
                if let ([last], Some(even)) = (rest, even.get(whole.len())) {
                    *last = *even;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream of values from -1 to 1.
    fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut random = seed;
        let next = |_| {
            // Xorshift.
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            f32::from(i16::from_be_bytes([random.to_be_bytes()[0], random.to_be_bytes()[1]]))
                / 32_768.0
        };
        (0..count).map(next).collect()
    }

    struct Case {
        inputs: usize,
        outputs: usize,
        kernels: Vec<f32>,
        bias: Vec<f32>,
        slope: Vec<f32>,
    }

    impl Case {
        fn new(inputs: usize, outputs: usize) -> Self {
            let kernels = values(inputs * outputs * 9, 7);
            Self { inputs, outputs, kernels, bias: values(outputs, 8), slope: values(outputs, 9) }
        }

        fn compute(&self, size: [usize; 2], picture: &[f32]) -> Vec<f32> {
            let shape = [self.outputs, self.inputs];
            let of = Convolution::new(shape, &self.kernels, &self.bias, &self.slope).unwrap();
            let mut results = vec![f32::NAN; self.outputs * size[0] * size[1]];
            let mut scratch = Scratch::default();
            // The order of the parts does not matter.
            for part in of.parts(size, picture, &mut results).into_iter().rev() {
                part.compute(&mut scratch);
            }
            results
        }

        /// One result computed by the definition, in double precision.
        fn defined(&self, [width, height]: [usize; 2], picture: &[f32], at: [usize; 3]) -> f64 {
            let [output, y, x] = at;
            let mut sum = f64::from(self.bias[output]);
            for input in 0..self.inputs {
                for (place, weight) in
                    self.kernels[(output * self.inputs + input) * 9..][..9].iter().enumerate()
                {
                    let (y, x) = (y + place / 3, x + place % 3);
                    if (1..=height).contains(&y) && (1..=width).contains(&x) {
                        let sample = picture[(input * height + y - 1) * width + x - 1];
                        sum += f64::from(*weight) * f64::from(sample);
                    }
                }
            }
            if sum < 0.0 { sum * f64::from(self.slope[output]) } else { sum }
        }
    }

    #[test]
    fn results_are_what_the_definition_says() {
        for (inputs, outputs) in [(1, 1), (3, 5), (9, 12), (64, 3)] {
            let case = Case::new(inputs, outputs);
            for size in
                [[1, 1], [2, 1], [1, 5], [7, 6], [16, 3], [17, 4], [33, 2], [50, 9], [66, 5]]
            {
                let picture = values(inputs * size[0] * size[1], 10);
                let results = case.compute(size, &picture);
                for (index, result) in results.iter().enumerate() {
                    let (rest, x) = (index / size[0], index % size[0]);
                    let expected =
                        case.defined(size, &picture, [rest / size[1], rest % size[1], x]);
                    let off = (f64::from(*result) - expected).abs();
                    assert!(
                        off < 2e-5,
                        "{inputs} to {outputs}, {size:?}, {index}: {result} {expected}"
                    );
                }
            }
        }
    }

    /// The picture without its first two columns and rows: whatever is not at the new border is unchanged.
    #[test]
    fn a_tile_from_an_even_place_has_the_whole_pictures_bits() {
        let ([width, height], case) = ([61, 23], Case::new(5, 6));
        let picture = values(5 * width * height, 11);
        let whole = case.compute([width, height], &picture);
        for [left, top] in [[2, 0], [0, 2], [16, 4], [34, 10], [58, 20]] {
            let size = [width - left, height - top];
            let rows = picture.chunks_exact(width).enumerate();
            let cut = rows.filter(|(y, _)| y % height >= top).flat_map(|(_, row)| &row[left..]);
            let tile = case.compute(size, &cut.copied().collect::<Vec<_>>());
            for (index, sample) in tile.iter().enumerate() {
                let (rest, x) = (index / size[0], index % size[0]);
                let (output, y) = (rest / size[1], rest % size[1]);
                if (x == 0 && left > 0) || (y == 0 && top > 0) {
                    continue;
                }
                let same = whole[(output * height + y + top) * width + x + left];
                assert_eq!(sample.to_bits(), same.to_bits(), "from {left}, {top} at {x}, {y}");
            }
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        assert!(Convolution::new([2, 1], &[0.0; 18], &[0.0; 2], &[0.0; 2]).is_some());
        assert!(Convolution::new([2, 1], &[0.0; 17], &[0.0; 2], &[0.0; 2]).is_none());
        assert!(Convolution::new([2, 1], &[0.0; 18], &[0.0; 1], &[0.0; 2]).is_none());
        assert!(Convolution::new([2, 1], &[0.0; 18], &[0.0; 2], &[0.0; 3]).is_none());
        assert!(Convolution::new([2, 0], &[], &[0.0; 2], &[0.0; 2]).is_none());
    }
}
