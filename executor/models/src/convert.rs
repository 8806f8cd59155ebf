//! Writes an ncnn graph as an ONNX model that computes the same.

use super::ncnn::{Activation, Graph, Layer, Operation};
use super::onnx::{self, Attribute, Model, Node, Tensor, ValueInfo};
use std::collections::HashMap;

/// Converts a graph. The same graph always gives the same model, bit for bit.
pub(super) fn to_onnx(name: &str, graph: &Graph) -> Model {
    let mut writer = Writer::default();
    for layer in &graph.layers {
        writer.layer(layer);
    }
    // The last node may have produced the output under another name: a graph's output is named by its producer.
    let output = writer.resolve(&graph.output);
    Model::new(onnx::Graph {
        node: writer.nodes,
        name: name.into(),
        initializer: writer.initializers,
        input: vec![ValueInfo::picture(&graph.input, length(graph.channels), ["height", "width"])],
        output: vec![ValueInfo::picture(
            &output,
            length(graph.output_channels),
            ["output_height", "output_width"],
        )],
        ..onnx::Graph::default()
    })
}

fn length(length: usize) -> i64 {
    i64::try_from(length).expect("the reader limits sizes")
}

#[derive(Default)]
struct Writer {
    nodes: Vec<Node>,
    initializers: Vec<Tensor>,
    /// For each output of a split, the blob that it is a copy of.
    copies: HashMap<String, String>,
}

impl Writer {
    fn resolve(&self, blob: &str) -> String {
        self.copies.get(blob).map_or(blob, String::as_str).to_owned()
    }

    fn layer(&mut self, layer: &Layer) {
        let inputs: Vec<String> = layer.inputs.iter().map(|blob| self.resolve(blob)).collect();
        let [input, ..] = inputs.as_slice() else { unreachable!("every operation reads a blob") };
        let output = &layer.outputs[0];
        match &layer.operation {
            Operation::Split => {
                let copies = layer.outputs.iter().map(|copy| (copy.clone(), input.clone()));
                self.copies.extend(copies);
            }
            Operation::Convolution { activation, .. } => {
                let Activation::LeakyRelu(slope) = *activation else {
                    return self.convolution(layer, input, output);
                };
                let sum = format!("{output}_sum");
                self.convolution(layer, input, &sum);
                self.leaky_relu(&sum, output, slope);
            }
            Operation::LeakyRelu(slope) => self.leaky_relu(input, output, *slope),
            Operation::PRelu(slopes) => {
                let slopes = self.per_channel(output, "slopes", slopes);
                self.node("PRelu", &[input, &slopes], output, vec![]);
            }
            Operation::PixelShuffle(factor) => self.pixel_shuffle(input, output, *factor),
            Operation::Nearest(factor) => self.nearest(input, output, *factor),
            Operation::Bicubic { up, down } => self.bicubic(layer, input, [*up, *down]),
            Operation::Sum(factors) => self.sum(&inputs, factors, output),
            Operation::Product => self.chain("Mul", &inputs, output),
            Operation::Concat => {
                let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                self.node("Concat", &inputs, output, vec![Attribute::integer("axis", 1)]);
            }
            Operation::Scale { factors, offsets } => {
                let factors = self.per_channel(output, "factors", factors);
                let Some(offsets) = offsets else {
                    return self.node("Mul", &[input, &factors], output, vec![]);
                };
                let scaled = format!("{output}_scaled");
                self.node("Mul", &[input, &factors], &scaled, vec![]);
                let offsets = self.per_channel(output, "offsets", offsets);
                self.node("Add", &[&scaled, &offsets], output, vec![]);
            }
        }
    }

    fn node(&mut self, op: &str, inputs: &[&str], output: &str, attribute: Vec<Attribute>) {
        self.nodes.push(Node {
            input: inputs.iter().map(|&name| name.into()).collect(),
            output: vec![output.into()],
            // An output has one producer, so its name also identifies the node.
            name: output.into(),
            op_type: op.into(),
            attribute,
            domain: String::new(),
        });
    }

    fn floats(&mut self, output: &str, what: &str, dims: &[usize], values: &[f32]) -> String {
        let name = format!("{output}_{what}");
        let dims = dims.iter().map(|dim| length(*dim)).collect();
        self.initializers.push(Tensor::floats(&name, dims, values));
        name
    }

    fn per_channel(&mut self, output: &str, what: &str, values: &[f32]) -> String {
        self.floats(output, what, &[values.len(), 1, 1], values)
    }

    fn convolution(&mut self, layer: &Layer, input: &str, output: &str) {
        let Operation::Convolution { outputs, kernel, weights, bias, .. } = &layer.operation else {
            unreachable!("called for convolutions");
        };
        let dims = [*outputs, layer.channels(), *kernel, *kernel];
        let weights = self.floats(output, "weights", &dims, weights);
        let bias = bias.as_ref().map(|bias| self.floats(output, "bias", &[*outputs], bias));
        let inputs: Vec<&str> =
            [Some(input), Some(&*weights), bias.as_deref()].into_iter().flatten().collect();
        let attributes = vec![
            Attribute::integers("kernel_shape", &[length(*kernel); 2]),
            Attribute::integers("pads", &[length(kernel / 2); 4]),
        ];
        self.node("Conv", &inputs, output, attributes);
    }

    fn leaky_relu(&mut self, input: &str, output: &str, slope: f32) {
        if slope == 0.0 {
            return self.node("Relu", &[input], output, vec![]);
        }
        self.node("LeakyRelu", &[input], output, vec![Attribute::float("alpha", slope)]);
    }

    /// In ncnn, the channels of a pixel's square are next to each other, after the channels of the result: CRD.
    fn pixel_shuffle(&mut self, input: &str, output: &str, factor: u16) {
        let attributes =
            vec![Attribute::integer("blocksize", factor.into()), Attribute::text("mode", "CRD")];
        self.node("DepthToSpace", &[input], output, attributes);
    }

    fn nearest(&mut self, input: &str, output: &str, factor: u16) {
        let factor = f32::from(factor);
        let scales = self.floats(output, "scales", &[4], &[1.0, 1.0, factor, factor]);
        let attributes = vec![
            Attribute::text("mode", "nearest"),
            Attribute::text("coordinate_transformation_mode", "asymmetric"),
            Attribute::text("nearest_mode", "floor"),
        ];
        // The region of interest is left out.
        self.node("Resize", &[input, "", &scales], output, attributes);
    }

    /// Uses a convolution rather than `Resize`, which computes its weights from absolute positions in floats: a tile
    /// would differ in its last bits from the same part of the whole picture. A result of `up` pixels repeats its
    /// weights every `down` pixels of the input, so each of the up² positions in that square is one filter, and a pixel
    /// shuffle puts them in place.
    fn bicubic(&mut self, layer: &Layer, input: &str, [up, down]: [u16; 2]) {
        let output = &layer.outputs[0];
        let cubic = Cubic::new(up, down);
        let size = cubic.rows[0].len();
        let padded = format!("{output}_padded");
        let pads = format!("{output}_pads");
        let [before, after] = cubic.pads;
        let values = [0, 0, before, before, 0, 0, after, after];
        self.initializers.push(Tensor::integers(&pads, &values));
        self.node("Pad", &[input, &pads], &padded, vec![Attribute::text("mode", "edge")]);

        let outer = cubic.rows.iter().flat_map(|y| cubic.rows.iter().map(move |x| (y, x)));
        let filters: Vec<f32> = outer
            .flat_map(|(y, x)| y.iter().flat_map(move |a| x.iter().map(move |b| a * b)))
            .collect();
        let channels = layer.channels();
        let dims = [channels * usize::from(up).pow(2), 1, size, size];
        let weights = self.floats(output, "weights", &dims, &filters.repeat(channels));
        let phases = if up == 1 { output.clone() } else { format!("{output}_phases") };
        let attributes = vec![
            Attribute::integer("group", length(channels)),
            Attribute::integers("kernel_shape", &[length(size); 2]),
            Attribute::integers("strides", &[down.into(); 2]),
        ];
        self.node("Conv", &[&padded, &weights], &phases, attributes);
        if up != 1 {
            self.pixel_shuffle(&phases, output, up);
        }
    }

    #[expect(clippy::float_cmp, reason = "a factor of exactly 1 changes nothing")]
    fn sum(&mut self, inputs: &[String], factors: &[f32], output: &str) {
        let mut terms = Vec::new();
        for (index, (input, factor)) in inputs.iter().zip(factors).enumerate() {
            if *factor == 1.0 {
                terms.push(input.clone());
                continue;
            }
            let term = format!("{output}_term{index}");
            let factor = self.floats(output, &format!("factor{index}"), &[], &[*factor]);
            self.node("Mul", &[input, &factor], &term, vec![]);
            terms.push(term);
        }
        self.chain("Add", &terms, output);
    }

    /// Combines two or more values, two at a time.
    fn chain(&mut self, op: &str, values: &[String], output: &str) {
        let (first, rest) = values.split_first().expect("the reader counts the inputs");
        let mut left = first.clone();
        for (index, right) in rest.iter().enumerate() {
            let is_last = index + 1 == rest.len();
            let name = if is_last { output.into() } else { format!("{output}_{index}") };
            self.node(op, &[&left, right], &name, vec![]);
            left = name;
        }
    }
}

/// The weights of a bicubic resize by `up / down` along one axis.
struct Cubic {
    /// For each of the `up` positions: the weights of the input's pixels, in rows of equal length.
    rows: Vec<Vec<f32>>,
    /// How many pixels are read before and after the current one of the input.
    pads: [i64; 2],
}

impl Cubic {
    fn new(up: u16, down: u16) -> Self {
        // Position p is at (p + 1/2) down / up - 1/2 = numerator / (2 up) in the input.
        let whole = 2 * i64::from(up);
        let numerator = |place: u16| (2 * i64::from(place) + 1) * i64::from(down) - i64::from(up);
        let first = |place: u16| numerator(place).div_euclid(whole) - 1;
        let (start, end) = (first(0), first(up - 1) + 4);
        let row = |place: u16| {
            let part = u16::try_from(numerator(place).rem_euclid(whole)).expect("less than 2 up");
            let weights = cubic_weights(f32::from(part) / f32::from(2 * up));
            let before = usize::try_from(first(place) - start).expect("places go up");
            let size = usize::try_from(end - start).expect("places go up");
            let mut row = vec![0.0; size];
            row[before..before + 4].copy_from_slice(&weights);
            row
        };
        Self { rows: (0..up).map(row).collect(), pads: [-start, end - i64::from(down)] }
    }
}

/// The weights of the pixels at -1, 0, 1 and 2 for the position `x`, from 0 to 1.
fn cubic_weights(x: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let [first, second, third] = [far(x + 1.0), near(x), near(1.0 - x)];
    [first, second, third, 1.0 - first - second - third]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_weighs_four_pixels_evenly_from_both_sides() {
        let half = Cubic::new(1, 2);
        assert_eq!(half.rows, [[-0.093_75, 0.593_75, 0.593_75, -0.093_75]]);
        assert_eq!(half.pads, [1, 1]);
    }

    #[test]
    fn every_place_has_weights_that_sum_to_one_and_mirror_its_opposite() {
        for (up, down) in [(1, 2), (3, 4), (2, 1), (16, 1), (5, 7)] {
            let cubic = Cubic::new(up, down);
            for (row, opposite) in cubic.rows.iter().zip(cubic.rows.iter().rev()) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{up}/{down}: {row:?}");
                let mirrored = row.iter().zip(opposite.iter().rev());
                assert!(mirrored.into_iter().all(|(a, b)| (a - b).abs() < 1e-6), "{up}/{down}");
            }
            assert!(cubic.pads[0] >= 1 && cubic.pads[1] >= 1, "{up}/{down}");
        }
    }
}
