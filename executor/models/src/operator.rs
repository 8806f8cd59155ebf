//! Makes ONNX Runtime compute 3×3 convolutions on a CPU with [`pictor_convolution`]: its own need twice as many
//! multiplications.

use super::field::field;
use super::onnx::{Graph, Model, Node, Tensor};
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
};
use ort::value::{TensorElementType, TensorValueType};
use pictor_convolution::{Convolution, Part, Scratch};
use prost::Message;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The namespace and the name of the operator, and the version of the namespace.
const DOMAIN: &str = "pictor";
const NAME: &str = "Convolution";
const VERSION: i64 = 1;
/// The number of pieces into which a convolution's parts are divided among threads: enough that no thread waits long
/// for the last one.
const BATCHES: usize = 24;

/// Called with the progress of a run, from 0 to 1.
pub type Listener = Arc<dyn Fn(f32) + Send + Sync>;

/// How many of a network's convolutions a run has finished: a large network takes minutes on a CPU.
#[derive(Default)]
pub(super) struct Layers {
    done: AtomicU32,
    all: u32,
    listener: Mutex<Option<Listener>>,
}

impl Layers {
    /// For a network with `all` convolutions that the operator computes.
    pub(super) fn new(all: u32) -> Self {
        Self { all, ..Self::default() }
    }

    /// Starts a run, whose progress is reported to `listener`.
    pub(super) fn begin(&self, listener: Listener) {
        self.done.store(0, Ordering::Relaxed);
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
    }

    #[expect(clippy::cast_precision_loss, reason = "a network has some hundred layers")]
    fn step(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(listener) = listener {
            listener(done as f32 / self.all.max(done) as f32);
        }
    }
}

/// The network with every 3×3 convolution that qualifies replaced by the operator, together with a rectifier that
/// follows it, and the number of these. Returns `None` if there is none, or if the network computes anything at less
/// than the picture's resolution: its tiles then have to begin at offsets that this network determines.
pub(super) fn replaced(model: &[u8]) -> Option<(Vec<u8>, u32)> {
    let mut model = Model::decode(model).ok()?;
    let graph = model.graph.as_mut()?;
    field(graph).ok()?;
    let found = graph.node.iter().enumerate();
    let found: Vec<_> =
        found.filter_map(|(index, node)| Some((index, Found::new(graph, node)?))).collect();
    if found.is_empty() {
        return None;
    }
    let count = u32::try_from(found.len()).ok()?;
    let mut merged = HashSet::new();
    for (index, convolution) in found {
        merged.extend(convolution.rectifier);
        graph.node[index] = convolution.replacement(&mut graph.initializer);
    }
    let mut index = 0..;
    graph.node.retain(|_| index.next().is_some_and(|index| !merged.contains(&index)));
    model.import(DOMAIN, VERSION);
    Some((model.encode_to_vec(), count))
}

/// The namespace with the operator, for a session whose runs are counted in `layers`.
pub(super) fn domain(layers: Arc<Layers>) -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?.add(Convolve(layers))
}

/// A convolution that the operator can compute.
struct Found {
    input: String,
    weights: String,
    bias: Option<String>,
    slope: Vec<f32>,
    result: String,
    /// The index of the rectifier's node.
    rectifier: Option<usize>,
}

impl Found {
    fn new(graph: &Graph, node: &Node) -> Option<Self> {
        let [input, weights, bias @ ..] = node.input.as_slice() else { return None };
        let [result] = node.output.as_slice() else { return None };
        let kernels = graph.constant(weights)?;
        let [outputs, _, 3, 3] = *kernels.dims.as_slice() else { return None };
        let is = |name: &str, values: &[i64], default: bool| {
            node.attribute(name).map_or(default, |attribute| attribute.ints == values)
        };
        let is_plain = is("pads", &[1; 4], false)
            && is("strides", &[1; 2], true)
            && is("dilations", &[1; 2], true)
            && node.attribute("group").is_none_or(|group| group.i == 1)
            && node.text("auto_pad", "NOTSET") == "NOTSET";
        let bias = bias.first().filter(|bias| !bias.is_empty());
        let is_known =
            kernels.as_floats().is_some() && bias.is_none_or(|bias| graph.constant(bias).is_some());
        if !(node.op_type == "Conv" && node.domain.is_empty() && is_plain && is_known) {
            return None;
        }
        let outputs = usize::try_from(outputs).ok()?;
        let rectifier = sole_reader(graph, result)
            .and_then(|(index, node)| Some((index, node, slope(graph, node, outputs)?)));
        let (rectifier, result, slope) = match rectifier {
            Some((index, node, slope)) => (Some(index), node.output.first()?, slope),
            None => (None, result, vec![1.0; outputs]),
        };
        Some(Self {
            input: input.clone(),
            weights: weights.clone(),
            bias: bias.cloned(),
            slope,
            result: result.clone(),
            rectifier,
        })
    }

    /// The operator's node, which computes the same.
    fn replacement(self, constants: &mut Vec<Tensor>) -> Node {
        let mut add = |what: &str, values: &[f32]| {
            let name = format!("{DOMAIN}/{what}/{}", self.result);
            let length = i64::try_from(values.len()).expect("a network's channels");
            constants.push(Tensor::floats(&name, vec![length], values));
            name
        };
        let slope = add("slope", &self.slope);
        let bias = self.bias.unwrap_or_else(|| add("bias", &vec![0.0; self.slope.len()]));
        Node {
            input: vec![self.input, self.weights, bias, slope],
            name: format!("{DOMAIN}/{}", self.result),
            output: vec![self.result],
            op_type: NAME.into(),
            domain: DOMAIN.into(),
            attribute: Vec::new(),
        }
    }
}

/// The only node that reads a value; `None` if there are several or the value is the network's result.
fn sole_reader<'a>(graph: &'a Graph, value: &str) -> Option<(usize, &'a Node)> {
    let nodes = graph.node.iter().enumerate();
    let mut reads = nodes.flat_map(|(index, node)| {
        node.input.iter().filter(|name| *name == value).map(move |_| (index, node))
    });
    let first = reads.next()?;
    let is_result = graph.output.iter().any(|output| output.name == value);
    (reads.next().is_none() && !is_result).then_some(first)
}

/// The factors by which a rectifier multiplies negative values, one for each channel.
fn slope(graph: &Graph, node: &Node, channels: usize) -> Option<Vec<f32>> {
    let alike = |slope| Some(vec![slope; channels]);
    match (&*node.op_type, &*node.domain) {
        ("Relu", "") => alike(0.0),
        ("LeakyRelu", "") => alike(node.attribute("alpha").map_or(0.01, |alpha| alpha.f)),
        ("PRelu", "") => {
            let tensor = graph.constant(node.input.get(1)?)?;
            let slopes = tensor.as_floats()?;
            match (tensor.dims.as_slice(), slopes.as_slice()) {
                (_, [slope]) => alike(*slope),
                ([.., _, 1, 1], _) if slopes.len() == channels => Some(slopes),
                _ => None,
            }
        }
        _ => None,
    }
}

struct Convolve(Arc<Layers>);

impl Operator for Convolve {
    type Kernel<'attr> = Computing;

    fn name(&self) -> &str {
        NAME
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [(); 4].map(|()| OperatorInput::required(TensorElementType::Float32))
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel(&self, kernel: &KernelContext<'_>) -> ort::Result<Computing> {
        let constant = |index| kernel.constant_input::<TensorValueType<f32>>(index);
        let (weights, bias, slope) = (constant(1)?, constant(2)?, constant(3)?);
        let ((shape, weights), (_, bias)) = (weights.extract_tensor(), bias.extract_tensor());
        let lengths: Vec<usize> = shape.iter().map(|n| usize::try_from(*n).unwrap_or(0)).collect();
        let convolution = match *lengths.as_slice() {
            [outputs, inputs, 3, 3] => {
                Convolution::new([outputs, inputs], weights, bias, slope.extract_tensor().1)
            }
            _ => None,
        };
        let convolution = convolution
            .ok_or_else(|| ort::Error::new("the convolution's weights do not fit each other"))?;
        Ok(Computing { convolution, scratch: Mutex::default(), layers: self.0.clone() })
    }
}

/// The operator in one position of a network.
struct Computing {
    convolution: Convolution,
    /// Buffers of threads that are not computing at present.
    scratch: Mutex<Vec<Scratch>>,
    layers: Arc<Layers>,
}

impl Kernel for Computing {
    fn compute(&mut self, ctx: &ComputeContext) -> ort::Result<()> {
        let missing = || ort::Error::new("a value is missing");
        let input = ctx.input(0)?.ok_or_else(missing)?;
        let (shape, picture) = input.try_extract_tensor::<f32>()?;
        let [inputs, outputs] = self.convolution.channels();
        let lengths: Option<Vec<usize>> = shape.iter().map(|n| usize::try_from(*n).ok()).collect();
        let size = match lengths.as_deref() {
            Some([1, channels, height, width]) if *channels == inputs => [*width, *height],
            _ => {
                let problem = format!("expected a picture of {inputs} channels, not {shape:?}");
                return Err(ort::Error::new(problem));
            }
        };
        let shape = [1, outputs, size[1], size[0]];
        let mut result = ctx.output(0, shape)?.ok_or_else(missing)?;
        let (_, results) = result.try_extract_tensor_mut::<f32>()?;
        let parts = self.convolution.parts(size, picture, results);
        let parts: Vec<Mutex<Option<Part<'_>>>> =
            parts.into_iter().map(|part| Mutex::new(Some(part))).collect();
        ctx.par_for(parts.len(), BATCHES, |index| {
            let part = parts[index].lock().unwrap_or_else(PoisonError::into_inner).take();
            let kept = || self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
            let mut scratch = kept().pop().unwrap_or_default();
            if let Some(part) = part {
                part.compute(&mut scratch);
            }
            kept().push(scratch);
        })?;
        self.layers.step();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::onnx::{Attribute, ValueInfo};
    use super::*;

    fn node(op: &str, input: &[&str], output: &str, attribute: Vec<Attribute>) -> Node {
        let input = input.iter().map(|&name| name.into()).collect();
        Node {
            op_type: op.into(),
            input,
            output: vec![output.into()],
            attribute,
            ..Node::default()
        }
    }

    fn conv(input: &str, output: &str, pad: i64) -> Node {
        node("Conv", &[input, "w", "b"], output, vec![Attribute::integers("pads", &[pad; 4])])
    }

    fn half(input: &str, output: &str) -> Node {
        let mut half = conv(input, output, 1);
        half.attribute.push(Attribute::integers("strides", &[2; 2]));
        half
    }

    /// Replaces the graph of `nodes` from `in` to `out`, and returns each node as `operator(inputs) output` and the
    /// slopes of those with the operator of this crate.
    fn after(node: Vec<Node>) -> Option<(Vec<String>, Vec<Vec<f32>>)> {
        let value = |name| vec![ValueInfo::picture(name, 2, ["h", "w"])];
        let initializer = vec![
            Tensor::floats("w", vec![2, 2, 3, 3], &[0.5; 36]),
            Tensor::floats("b", vec![2], &[0.0; 2]),
            Tensor::floats("by channel", vec![2, 1, 1], &[0.25, 0.5]),
            Tensor::floats("by column", vec![2], &[0.25, 0.5]),
            Tensor::floats("twice", vec![4], &[1.0, 1.0, 2.0, 2.0]),
        ];
        let (input, output) = (value("in"), value("out"));
        let graph = Graph { node, initializer, input, output, ..Graph::default() };
        let model = Model::decode(&*replaced(&Model::new(graph).encode_to_vec())?.0).unwrap();
        let graph = model.graph.unwrap();
        let ours = graph.node.iter().filter(|node| node.domain == DOMAIN);
        let slopes = ours.map(|node| graph.constant(&node.input[3]).unwrap().as_floats().unwrap());
        let text = |n: &Node| {
            format!(
                "{}({}) {}",
                n.op_type,
                n.input.iter().take(2).cloned().collect::<Vec<_>>().join(" "),
                n.output[0]
            )
        };
        Some((graph.node.iter().map(text).collect(), slopes.collect()))
    }

    #[test]
    fn a_convolution_and_its_rectifier_become_one() {
        let leaky = vec![Attribute::float("alpha", 0.125)];
        for (op, inputs, attributes, slope) in [
            ("PRelu", &["x", "by channel"][..], vec![], [0.25, 0.5]),
            ("LeakyRelu", &["x"], leaky, [0.125; 2]),
            ("LeakyRelu", &["x"], vec![], [0.01; 2]),
            ("Relu", &["x"], vec![], [0.0; 2]),
        ] {
            let nodes = vec![conv("in", "x", 1), node(op, inputs, "out", attributes)];
            let expected = (vec!["Convolution(in w) out".to_owned()], vec![slope.to_vec()]);
            assert_eq!(after(nodes), Some(expected), "{op}");
        }
    }

    #[test]
    fn what_others_read_or_what_is_no_rectifier_stays() {
        let ours = |result: &str| format!("Convolution(in w) {result}");
        let relu = || node("Relu", &["x"], "y", vec![]);
        let add = |other| node("Add", &["y", other], "out", vec![]);
        let (nodes, slopes) = after(vec![conv("in", "x", 1), relu(), add("x")]).unwrap();
        assert_eq!(nodes, [ours("x"), "Relu(x) y".into(), "Add(y x) out".into()]);
        assert_eq!(slopes, [[1.0; 2]]);
        let columns = node("PRelu", &["x", "by column"], "out", vec![]);
        let (nodes, _) = after(vec![conv("in", "x", 1), columns]).unwrap();
        assert_eq!(nodes, [ours("x"), "PRelu(x by column) out".into()]);
        // The network's result is read by the caller.
        let (nodes, _) =
            after(vec![conv("in", "out", 1), node("Relu", &["out"], "y", vec![])]).unwrap();
        assert_eq!(nodes.len(), 2);
    }

    #[test]
    fn other_convolutions_are_left_to_the_library() {
        let with = |name: &str, values: &[i64]| {
            let mut conv = conv("in", "out", 1);
            conv.attribute.push(Attribute::integers(name, values));
            vec![conv]
        };
        let mut grouped = conv("in", "out", 1);
        grouped.attribute.push(Attribute::integer("group", 2));
        let mut computed = conv("in", "out", 1);
        computed.input[1] = "in".into();
        for nodes in [
            vec![conv("in", "out", 0)],
            vec![
                conv("in", "x", 1),
                half("x", "y"),
                node("Resize", &["y", "", "twice"], "out", vec![]),
            ],
            vec![grouped],
            vec![computed],
            with("strides", &[2, 2]),
            with("dilations", &[1, 2]),
            vec![node("Relu", &["in"], "out", vec![])],
        ] {
            assert_eq!(after(nodes.clone()), None, "{nodes:?}");
        }
        assert!(after(with("strides", &[1, 1])).is_some());
        assert_eq!(replaced(b"no network"), None);
    }
}
