//! Reads ncnn models: a text graph (`.param`) and its weights (`.bin`). Only layers that keep or multiply a picture's
//! size are supported, since no others can be run in tiles.

mod parts;

use super::{FACTOR, ModelError, fraction, read_limited};
use parts::{Params, Weights};
use std::collections::HashMap;
use std::path::Path;
use std::str::SplitWhitespace;

/// The first line of every `.param` file.
const MAGIC: &str = "7767517";
/// The largest `.param` file in bytes.
const PARAM_BYTES: u64 = 4 << 20;
/// The largest `.bin` file in bytes.
const BIN_BYTES: u64 = 1 << 30;
/// The most layers of a graph.
const LAYERS: usize = 10_000;
/// The most inputs, and the most outputs, of a layer.
const BLOBS: usize = 64;
/// The most channels of a blob.
const CHANNELS: usize = 4_096;
/// The widest convolution.
const KERNEL: usize = 15;

/// A graph with its weights. Its layers are in an order in which they can be computed.
#[derive(Debug)]
pub(super) struct Graph {
    /// The blob that takes the picture.
    pub(super) input: String,
    /// The channels of the input.
    pub(super) channels: usize,
    /// The blob that nothing reads.
    pub(super) output: String,
    /// The channels of the output.
    pub(super) output_channels: usize,
    /// All layers but the input.
    pub(super) layers: Vec<Layer>,
}

#[derive(Debug)]
pub(super) struct Layer {
    /// The blobs that it reads.
    pub(super) inputs: Vec<String>,
    /// The blobs that it produces: one, or several equal ones of a [`Operation::Split`].
    pub(super) outputs: Vec<String>,
    pub(super) operation: Operation,
    /// The channels of each blob that it reads.
    channels: Vec<usize>,
}

impl Layer {
    /// The channels of the first blob that it reads.
    pub(super) fn channels(&self) -> usize {
        self.channels[0]
    }
}

#[derive(Debug)]
pub(super) enum Operation {
    /// A convolution that keeps the size; weights are ordered output, input, row, column.
    Convolution {
        outputs: usize,
        kernel: usize,
        weights: Vec<f32>,
        bias: Option<Vec<f32>>,
        activation: Activation,
    },
    /// Negative values are multiplied by a slope: one for all channels, or one for each.
    PRelu(Vec<f32>),
    /// Negative values are multiplied by one slope.
    LeakyRelu(f32),
    /// Turns factor² channels into one that is `factor` times as large.
    PixelShuffle(u16),
    /// Repeats each pixel that many times along both axes.
    Nearest(u16),
    /// Resizes by `up / down` with the cubic kernel a = -0.75 and repeated borders.
    Bicubic { up: u16, down: u16 },
    /// The sum of the blobs, each multiplied by its factor.
    Sum(Vec<f32>),
    /// The product of the blobs, value by value.
    Product,
    /// The blobs' channels one after the other.
    Concat,
    /// The same blob, under several names.
    Split,
    /// Each channel multiplied by its factor, plus its offset.
    Scale { factors: Vec<f32>, offsets: Option<Vec<f32>> },
}

/// The activation function of a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Activation {
    None,
    /// Negative values are multiplied by a slope; 0 for `ReLU`.
    LeakyRelu(f32),
}

/// Reads a model from its two files.
pub(super) fn read(param: &Path, bin: &Path) -> Result<Graph, ModelError> {
    let (text, weights) = (read_limited(param, PARAM_BYTES)?, read_limited(bin, BIN_BYTES)?);
    parse(param, &text, Weights { rest: &weights, bin })
}

fn parse(param: &Path, text: &[u8], weights: Weights<'_>) -> Result<Graph, ModelError> {
    let bad = |problem: String| ModelError::File(param.to_owned(), problem);
    let text = str::from_utf8(text).map_err(|_| bad("is no ncnn graph: it is not text".into()))?;
    let mut lines = text.lines();
    if lines.next().map(str::trim) != Some(MAGIC) {
        return Err(bad(format!(
            "is no ncnn graph: the first line is not {MAGIC} (binary graphs are not read)"
        )));
    }
    let layers = layer_count(lines.next().unwrap_or("")).map_err(bad)?;
    let mut importer = Importer { weights, input: None, layers: Vec::new(), blobs: HashMap::new() };
    let mut read = 0;
    for (index, line) in lines.enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        read += 1;
        importer.layer(line).map_err(|problem| layer_error(param, index + 3, line, problem))?;
    }
    if read != layers {
        return Err(bad(format!(
            "is cut short or changed: it promises {layers} layers and has {read}; fetch it again"
        )));
    }
    if !importer.weights.rest.is_empty() {
        let Weights { rest, bin } = importer.weights;
        let problem = format!(
            "has {} bytes more than {} uses: do the two belong together?",
            rest.len(),
            param.display()
        );
        return Err(ModelError::File(bin.to_owned(), problem));
    }
    importer.finish().map_err(bad)
}

fn layer_error(path: &Path, line: usize, text: &str, problem: String) -> ModelError {
    // Words of an untrusted file are shortened before they are quoted.
    let mut words = text.split_whitespace().map(|word| word.chars().take(64).collect());
    let kind = words.next().unwrap_or_default();
    let name = words.next().unwrap_or_default();
    ModelError::Layer { path: path.to_owned(), line, name, kind, problem }
}

fn layer_count(line: &str) -> Result<usize, String> {
    let mut words = line.split_whitespace();
    let layers = words.next().and_then(|word| word.parse().ok());
    match (layers, words.next().and_then(|word| word.parse::<usize>().ok()), words.next()) {
        (Some(layers), Some(_), None) if layers <= LAYERS => Ok(layers),
        (Some(_), Some(_), None) => Err(format!("has too many layers: at most {LAYERS} are read")),
        _ => Err("is no ncnn graph: its second line is not the numbers of layers and blobs".into()),
    }
}

/// The state while a graph is read.
struct Importer<'a> {
    weights: Weights<'a>,
    input: Option<(String, usize)>,
    layers: Vec<Layer>,
    /// The channels of each blob that was produced, and whether a layer reads it.
    blobs: HashMap<String, (usize, bool)>,
}

impl Importer<'_> {
    fn layer(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let (Some(kind), Some(_name)) = (words.next(), words.next()) else {
            return Err("expected a type, a name and the numbers of inputs and outputs".into());
        };
        let inputs = count(words.next(), "inputs")?;
        let outputs = count(words.next(), "outputs")?;
        let inputs = names(&mut words, inputs)?;
        let outputs = names(&mut words, outputs)?;
        let mut params = Params::parse(words)?;
        if kind == "Input" {
            let channels = params.number(2, 3)?;
            // A fixed width and height.
            params.only(0, 0, 0)?;
            params.only(1, 0, 0)?;
            params.done()?;
            let [blob] = outputs.as_slice() else { return Err("expected one output".into()) };
            if self.input.replace((blob.clone(), channels)).is_some() {
                return Err("is a second input: expected one".into());
            }
            return self.made(&outputs, channels);
        }
        let channels = self.used(&inputs)?;
        let [first, ..] = *channels else { return Err("reads nothing".into()) };
        let operation = operation(kind, &mut params, &channels, &mut self.weights)?;
        params.done()?;
        self.made(&outputs, operation.outputs(first, &channels)?)?;
        let single = outputs.len() == 1 || matches!(operation, Operation::Split);
        if !single {
            return Err(format!("makes {} blobs: expected one", outputs.len()));
        }

        self.layers.push(Layer { inputs, outputs, operation, channels });
        Ok(())
    }

    /// Looks up the blobs that a layer reads.
    fn used(&mut self, inputs: &[String]) -> Result<Vec<usize>, String> {
        let look = |name: &String| match self.blobs.get_mut(name) {
            Some((channels, is_read)) => {
                *is_read = true;
                Ok(*channels)
            }
            None => Err(format!("reads blob `{name}`, which no earlier layer makes")),
        };
        inputs.iter().map(look).collect()
    }

    fn made(&mut self, outputs: &[String], channels: usize) -> Result<(), String> {
        if !(1..=CHANNELS).contains(&channels) {
            return Err(format!("makes {channels} channels: expected 1 to {CHANNELS}"));
        }
        for name in outputs {
            if self.blobs.insert(name.clone(), (channels, false)).is_some() {
                return Err(format!("makes blob `{name}`, which an earlier layer makes"));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Graph, String> {
        let (input, channels) = self.input.ok_or("has no input layer")?;
        let mut ends = self.blobs.iter().filter(|(_, (_, is_read))| !is_read);
        match (ends.next(), ends.next()) {
            (Some((output, (output_channels, _))), None) => Ok(Graph {
                output: output.clone(),
                output_channels: *output_channels,
                input,
                channels,
                layers: self.layers,
            }),
            (None, _) => Err("has no output: something reads each of its blobs".into()),
            (Some((one, _)), Some((other, _))) => {
                Err(format!("has several outputs, `{one}` and `{other}` among them: expected one"))
            }
        }
    }
}

fn operation(
    kind: &str,
    params: &mut Params<'_>,
    channels: &[usize],
    weights: &mut Weights<'_>,
) -> Result<Operation, String> {
    let inputs = channels.len();
    let expected = match kind {
        "BinaryOp" => 2..=2,
        "Concat" | "Eltwise" => 2..=BLOBS,
        _ => 1..=1,
    };
    if !expected.contains(&inputs) {
        return Err(format!("reads {inputs} blobs: expected {}", expected.start()));
    }
    match kind {
        "Convolution" => convolution(params, channels[0], weights),
        "PReLU" => {
            let slopes = params.number(0, 0)?;
            if slopes != 1 && slopes != channels[0] {
                return Err(format!("has {slopes} slopes for {} channels", channels[0]));
            }
            weights.floats(slopes).map(Operation::PRelu)
        }
        "ReLU" => params.real(0, 0.0).map(Operation::LeakyRelu),
        "PixelShuffle" => {
            params.only(1, 0, 0)?;
            params.factor(0, FACTOR).map(Operation::PixelShuffle)
        }
        "Interp" => interp(params),
        "BinaryOp" => match (params.number(0, 0)?, params.only(1, 0, 0)?) {
            (0, ()) => Ok(Operation::Sum(vec![1.0; 2])),
            (2, ()) => Ok(Operation::Product),
            (other, ()) => {
                Err(format!("operation {other} is not supported: expected 0 (add) or 2 (multiply)"))
            }
        },
        "Eltwise" => eltwise(params, inputs),
        "Concat" => params.only(0, 0, 0).map(|()| Operation::Concat),
        "Split" => Ok(Operation::Split),
        "Scale" => {
            params.only(0, 0, channels[0])?;
            let offsets = params.flag(1)?;
            let factors = weights.floats(channels[0])?;
            let offsets = offsets.then(|| weights.floats(channels[0])).transpose()?;
            Ok(Operation::Scale { factors, offsets })
        }
        _ => Err(
            "this type of layer is not supported: export the model to ONNX with the tools that \
                  trained it, and add that file"
                .into(),
        ),
    }
}

fn convolution(
    params: &mut Params<'_>,
    inputs: usize,
    weights: &mut Weights<'_>,
) -> Result<Operation, String> {
    let outputs = params.number(0, 0)?;
    let kernel = params.number(1, 0)?;
    if outputs == 0 || outputs > CHANNELS || kernel > KERNEL || kernel.is_multiple_of(2) {
        return Err(format!(
            "{outputs} channels by a kernel of {kernel} are not supported: expected 1 to {CHANNELS} \
             channels and an odd kernel up to {KERNEL}"
        ));
    }
    params.only(11, kernel, kernel)?;
    // Dilation and stride.
    for id in [2, 12, 3, 13] {
        params.only(id, 1, 1)?;
    }
    // The padding that keeps the size: ncnn uses the left one for the other sides, too.
    params.only(4, 0, kernel / 2)?;
    for id in [14, 15, 16] {
        params.only(id, kernel / 2, kernel / 2)?;
    }
    // The padding's value, 8-bit weights, weights from another layer.
    for id in [18, 8, 19] {
        params.only(id, 0, 0)?;
    }
    let size = outputs * inputs * kernel * kernel;
    params.only(6, 0, size)?;
    let has_bias = params.flag(5)?;
    let slope = params.reals(10)?;
    let activation = match (params.number(9, 0)?, slope.as_slice()) {
        (0, []) => Activation::None,
        (1, []) => Activation::LeakyRelu(0.0),
        (2, [slope]) => Activation::LeakyRelu(*slope),
        (other, values) => {
            return Err(format!(
                "activation {other} with {} values is not supported: expected none, ReLU or leaky ReLU",
                values.len()
            ));
        }
    };
    let filter = weights.tagged(size)?;
    let bias = has_bias.then(|| weights.floats(outputs)).transpose()?;
    Ok(Operation::Convolution { outputs, kernel, weights: filter, bias, activation })
}

fn interp(params: &mut Params<'_>) -> Result<Operation, String> {
    let kind = params.number(0, 0)?;
    let scale = params.real(1, 1.0)?;
    let width_scale = params.real(2, 1.0)?;
    // A fixed size, a size from another layer, aligned corners.
    for id in [3, 4, 5, 6] {
        params.only(id, 0, 0)?;
    }
    match (kind, fraction(scale).filter(|_| scale.to_bits() == width_scale.to_bits())) {
        (1, Some((up, 1))) => Ok(Operation::Nearest(up)),
        (3, Some((up, down))) => Ok(Operation::Bicubic { up, down }),
        _ => Err(format!(
            "resizing of kind {kind} by {width_scale} x {scale} is not supported: expected kind 1 \
             (nearest) by a whole number or kind 3 (bicubic) by a fraction, up to {FACTOR}, equal for both axes"
        )),
    }
}

fn eltwise(params: &mut Params<'_>, inputs: usize) -> Result<Operation, String> {
    let mut factors = params.reals(1)?;
    match params.number(0, 0)? {
        0 if factors.is_empty() => Ok(Operation::Product),
        1 => {
            if factors.is_empty() {
                factors = vec![1.0; inputs];
            }
            if factors.len() != inputs {
                return Err(format!("has {} factors for {inputs} blobs", factors.len()));
            }
            Ok(Operation::Sum(factors))
        }
        other => {
            Err(format!("operation {other} is not supported: expected 0 (multiply) or 1 (add)"))
        }
    }
}

impl Operation {
    /// The number of channels that the operation produces.
    fn outputs(&self, first: usize, channels: &[usize]) -> Result<usize, String> {
        match self {
            Self::Convolution { outputs, .. } => Ok(*outputs),
            Self::PixelShuffle(factor) => {
                let square = usize::from(*factor).pow(2);
                if first.is_multiple_of(square) {
                    return Ok(first / square);
                }
                Err(format!(
                    "cannot shuffle {first} channels by {factor}: expected {square} times n"
                ))
            }
            Self::Concat => Ok(channels.iter().sum()),
            Self::Sum(_) | Self::Product if channels.iter().any(|c| *c != first) => Err(format!(
                "cannot combine blobs of {channels:?} channels: expected equal numbers"
            )),
            _ => Ok(first),
        }
    }
}

fn count(word: Option<&str>, of: &str) -> Result<usize, String> {
    word.and_then(|word| word.parse().ok())
        .filter(|count| *count <= BLOBS)
        .ok_or_else(|| format!("expected the number of {of}, at most {BLOBS}"))
}

fn names(words: &mut SplitWhitespace<'_>, count: usize) -> Result<Vec<String>, String> {
    let names: Vec<_> = words.take(count).map(str::to_owned).collect();
    if names.len() == count {
        return Ok(names);
    }
    Err(format!("the line ends after {} of {count} blobs", names.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAPH: &str = "7767517\n4 5\n\
        Input data 0 1 data\n\
        Convolution a 1 1 data x 0=1 1=1 6=3 5=1 9=2 -23310=1,0.25\n\
        Scale b 1 1 x y 0=1 1=1\n\
        ReLU c 1 1 y z 0=0.5\n";

    fn weights() -> Vec<u8> {
        let halves = [1.0, -2.0, 0.5].map(|v| half::f16::from_f32(v).to_le_bytes());
        let floats = [0.125_f32, 2.0, -1.0].map(f32::to_le_bytes);
        let tag = [0x47, 0x6B, 0x30, 0x01];
        [&tag[..], halves.as_flattened(), &[0; 2], floats.as_flattened()].concat()
    }

    fn parsed(graph: &[u8], weights: &[u8]) -> Result<Graph, ModelError> {
        parse(Path::new("m.param"), graph, Weights { rest: weights, bin: Path::new("m.bin") })
    }

    #[test]
    fn half_floats_are_padded_and_biases_follow() {
        let graph = parsed(GRAPH.as_bytes(), &weights()).unwrap();
        assert_eq!((&*graph.input, graph.channels), ("data", 3));
        assert_eq!((&*graph.output, graph.output_channels), ("z", 1));
        let [a, b, c] = graph.layers.as_slice() else { panic!("three layers") };
        let Operation::Convolution { weights, bias, activation, .. } = &a.operation else {
            panic!("a convolution")
        };
        assert_eq!(weights, &[1.0, -2.0, 0.5]);
        assert_eq!(bias.as_deref(), Some(&[0.125][..]));
        assert_eq!(*activation, Activation::LeakyRelu(0.25));
        assert!(matches!(&b.operation, Operation::Scale { factors, offsets: Some(offsets) }
            if factors == &[2.0] && offsets == &[-1.0]));
        assert!(matches!(c.operation, Operation::LeakyRelu(0.5)));
    }

    /// Whatever the files hold, the result is a graph or an error, never a panic.
    #[test]
    fn damaged_files_are_never_more_than_an_error() {
        let (graph, weights) = (GRAPH.as_bytes(), weights());
        for length in 0..graph.len() {
            let _ = parsed(&graph[..length], &weights);
        }
        for length in 0..weights.len() {
            assert!(parsed(graph, &weights[..length]).is_err(), "{length} bytes of weights");
        }
        let mut random = 1_u32;
        for _ in 0..50_000 {
            let (mut graph, mut weights) = (graph.to_vec(), weights.clone());
            for _ in 0..3 {
                // Xorshift.
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                let [at, other, value, _] = random.to_le_bytes();
                let end = graph.len();
                graph[usize::from(at) % end] = if value < 128 { value } else { b'9' };
                weights[usize::from(other) % 24] = value;
            }
            let _ = parsed(&graph, &weights);
        }
    }
}
