//! The scale and the receptive field of a network, derived from its graph.

use super::fraction;
use super::onnx::{Graph, Node, Tensor};
use std::collections::{HashMap, HashSet};

/// The largest length that an attribute may have, in pixels.
const LENGTH: i64 = 256;
/// The largest size of a value inside the network, as a multiple of the picture's.
const SCALE: i64 = 64;
/// Operators that compute each pixel from the pixels at the same place.
const POINTWISE: [&str; 19] = [
    "Add",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Div",
    "Dropout",
    "Elu",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Mish",
    "Mul",
    "PRelu",
    "Relu",
    "Sigmoid",
    "Sub",
    "Tanh",
];

/// What tiling needs to know of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// Pixels of the result for each pixel of the picture, along each axis.
    pub(super) scale: u32,
    /// How many pixels around a block of the picture its part of the result depends on.
    pub(super) receptive_field: u32,
}

/// The pixels that pixel `x` of a node's output reads along one axis: those from
/// `floor((x * step + shift) / parts) + first` to the same `+ last`.
#[derive(Clone, Copy)]
struct Reads {
    step: i64,
    shift: i64,
    parts: i64,
    first: i64,
    last: i64,
}

impl Reads {
    const SAME: Self = Self { step: 1, shift: 0, parts: 1, first: 0, last: 0 };

    fn place(self, x: i64) -> i64 {
        (x * self.step + self.shift).div_euclid(self.parts)
    }
}

/// The pixels before and after a block.
type Margin = [i64; 2];

/// Derives the field. The error names the node that is not understood.
pub(super) fn field(graph: &Graph) -> Result<Field, String> {
    let (rows, columns) = (axis_field(graph, 0)?, axis_field(graph, 1)?);
    if rows.scale != columns.scale {
        return Err(format!("scales rows by {} and columns by {}", rows.scale, columns.scale));
    }
    let receptive_field = rows.receptive_field.max(columns.receptive_field);
    Ok(Field { scale: rows.scale, receptive_field })
}

/// The field along the rows (0) or the columns (1).
fn axis_field(graph: &Graph, axis: usize) -> Result<Field, String> {
    let constants: HashSet<&str> = graph.initializer.iter().map(|t| &*t.name).collect();
    // Some exporters list the weights among the inputs.
    let mut inputs = graph.input.iter().filter(|input| !constants.contains(&*input.name));
    let (Some(input), None, [output]) = (inputs.next(), inputs.next(), &*graph.output) else {
        return Err("must have one input and one output".into());
    };
    let mut scales = HashMap::from([(&*input.name, 1)]);
    let mut steps = Vec::new();
    for node in &graph.node {
        let pictures = || node.input.iter().filter_map(|name| scales.get(&**name));
        let Some(scale) = pictures().next().copied() else { continue };
        if pictures().any(|other| *other != scale) {
            return Err(format!("node `{}` combines values of different sizes", node.name));
        }
        let reads = reads(graph, node, axis)
            .map_err(|problem| format!("node `{}` ({}) {problem}", node.name, node.op_type))?;
        let parts = scale * reads.parts;
        if parts % reads.step != 0 || parts / reads.step > SCALE {
            return Err(format!(
                "node `{}` makes {parts}/{} times the picture: expected a whole number up to {SCALE}",
                node.name, reads.step
            ));
        }
        scales.extend(node.output.iter().map(|name| (&**name, parts / reads.step)));
        steps.push((node, reads));
    }
    let scale = *scales.get(&*output.name).ok_or("has an output that the input does not reach")?;
    let mut margins: HashMap<&str, Margin> = HashMap::from([(&*output.name, [0, 0])]);
    for (node, reads) in steps.iter().rev() {
        let needed = node.output.iter().filter_map(|name| margins.get(&**name));
        let Some([before, after]) = needed.copied().reduce(larger) else { continue };
        // A block that ends before pixel 0 and one that begins there represent all blocks.
        let margin =
            [-(reads.place(-before) + reads.first), reads.place(after - 1) + reads.last + 1];
        for name in node.input.iter().filter(|name| scales.contains_key(&***name)) {
            let known = margins.entry(name).or_insert(margin);
            *known = larger(*known, margin);
        }
    }
    let [before, after] = margins.get(&*input.name).copied().unwrap_or_default();
    let whole = |value: i64| u32::try_from(value).map_err(|_| "sees too far".to_owned());
    Ok(Field { scale: whole(scale)?, receptive_field: whole(before.max(after).max(0))? })
}

fn larger(a: Margin, b: Margin) -> Margin {
    [a[0].max(b[0]), a[1].max(b[1])]
}

fn reads(graph: &Graph, node: &Node, axis: usize) -> Result<Reads, String> {
    match &*node.op_type {
        "Conv" => convolution(graph, node, axis),
        "Pad" => {
            let name = node.input.get(1).ok_or("has no pads")?;
            let pads = graph.constant(name).and_then(Tensor::as_integers);
            let before = pads.and_then(|pads| (pads.len() == 8).then(|| pads[2 + axis]));
            let before = bounded(before.ok_or("does not have constant pads of a picture")?)?;
            Ok(Reads { first: -before, last: -before, ..Reads::SAME })
        }
        "DepthToSpace" => {
            let parts = node.attribute("blocksize").map_or(0, |a| a.i);
            Ok(Reads { parts: bounded(parts)?.max(1), ..Reads::SAME })
        }
        "Concat" if matches!(node.attribute("axis").map(|a| a.i), Some(1 | -3)) => Ok(Reads::SAME),
        "Resize" => resize(graph, node, axis),
        op if POINTWISE.contains(&op) => Ok(Reads::SAME),
        _ => Err("reads an unknown part of the picture".into()),
    }
}

fn bounded(length: i64) -> Result<i64, String> {
    if (0..=LENGTH).contains(&length) {
        return Ok(length);
    }
    Err(format!("has a length of {length}: expected 0 to {LENGTH}"))
}

fn convolution(graph: &Graph, node: &Node, axis: usize) -> Result<Reads, String> {
    if node.text("auto_pad", "NOTSET") != "NOTSET" {
        return Err("has automatic padding: export it with explicit pads".into());
    }
    let length = |name: &str, default: i64| {
        let values = node.attribute(name).map(|attribute| &attribute.ints);
        bounded(values.and_then(|values| values.get(axis)).copied().unwrap_or(default))
    };
    let weights = node.input.get(1).and_then(|name| graph.constant(name));
    let kernel = weights.and_then(|tensor| tensor.dims.get(2 + axis)).copied().unwrap_or(0);
    let (kernel, dilation) = (length("kernel_shape", kernel)?.max(1), length("dilations", 1)?);
    let (step, before) = (length("strides", 1)?.max(1), length("pads", 0)?);
    Ok(Reads { step, first: -before, last: (kernel - 1) * dilation - before, ..Reads::SAME })
}

fn resize(graph: &Graph, node: &Node, axis: usize) -> Result<Reads, String> {
    // The second input was the scales before version 11, and is the region of interest since.
    let name = node.input.get(if node.input.len() == 2 { 1 } else { 2 });
    let scales = name.and_then(|name| graph.constant(name)).and_then(Tensor::as_floats);
    let scale = scales.filter(|scales| scales.len() == 4).map(|scales| scales[2 + axis]);
    let scale = scale.ok_or("does not have constant scales of a picture")?;
    let (up, down) =
        fraction(scale).ok_or_else(|| format!("resizes by {scale}: expected a simple fraction"))?;
    let (up, down) = (i64::from(up), i64::from(down));
    let (mode, rounding) = (node.text("mode", "nearest"), node.text("nearest_mode", ""));
    let (first, last) = match mode {
        "nearest" if rounding == "floor" => (0, 0),
        "nearest" | "linear" => (0, 1),
        "cubic" => (-1, 2),
        _ => return Err(format!("has the unknown mode `{mode}`")),
    };
    let shift = match node.text("coordinate_transformation_mode", "half_pixel") {
        "asymmetric" => 0,
        "half_pixel" | "pytorch_half_pixel" => down - up,
        other => return Err(format!("has the mode `{other}`, which depends on the whole picture")),
    };
    Ok(Reads { step: 2 * down, shift, parts: 2 * up, first, last })
}

#[cfg(test)]
mod tests {
    use super::super::onnx::{Attribute, ValueInfo};
    use super::*;

    /// A chain of nodes from `0` to the last; weights and pads are the initializers.
    fn chain(nodes: Vec<Node>, initializer: Vec<Tensor>) -> Result<Field, String> {
        let mut node = nodes;
        for (index, node) in node.iter_mut().enumerate() {
            node.input.insert(0, index.to_string());
            node.output.push((index + 1).to_string());
            node.name = format!("n{index}");
        }
        let last = node.len().to_string();
        let value = |name: &str| vec![ValueInfo::picture(name, 3, ["h", "w"])];
        let (input, output) = (value("0"), value(&last));
        field(&Graph { node, initializer, input, output, ..Graph::default() })
    }

    fn node(op: &str, inputs: &[&str], attribute: Vec<Attribute>) -> Node {
        let input = inputs.iter().map(|&input| input.into()).collect();
        Node { op_type: op.into(), input, attribute, ..Node::default() }
    }

    fn conv(size: i64, pad: i64, stride: i64) -> Node {
        let attributes = vec![
            Attribute::integers("kernel_shape", &[size; 2]),
            Attribute::integers("pads", &[pad; 4]),
            Attribute::integers("strides", &[stride; 2]),
        ];
        node("Conv", &["w"], attributes)
    }

    fn resize(mode: &str, coordinates: &str) -> Node {
        let attributes = vec![
            Attribute::text("mode", mode),
            Attribute::text("coordinate_transformation_mode", coordinates),
            Attribute::text("nearest_mode", "floor"),
        ];
        node("Resize", &["", "scales"], attributes)
    }

    fn scales(scale: f32) -> Vec<Tensor> {
        vec![Tensor::floats("scales", vec![4], &[1.0, 1.0, scale, scale])]
    }

    fn is(scale: u32, receptive_field: u32) -> Field {
        Field { scale, receptive_field }
    }

    #[test]
    fn convolutions_add_up() {
        assert_eq!(chain(vec![conv(3, 1, 1); 18], vec![]).unwrap(), is(1, 18));
        assert_eq!(chain(vec![conv(5, 2, 1), conv(1, 0, 1)], vec![]).unwrap(), is(1, 2));
    }

    #[test]
    fn pixels_after_enlarging_count_for_less() {
        let shuffle = node("DepthToSpace", &[], vec![Attribute::integer("blocksize", 4)]);
        let enlarged = |convs| {
            let mut nodes = vec![conv(3, 1, 1), shuffle.clone()];
            nodes.extend(vec![conv(3, 1, 1); convs]);
            chain(nodes, vec![])
        };
        assert_eq!(enlarged(0).unwrap(), is(4, 1));
        assert_eq!(enlarged(1).unwrap(), is(4, 2));
        assert_eq!(enlarged(4).unwrap(), is(4, 2));
        assert_eq!(enlarged(5).unwrap(), is(4, 3));
    }

    #[test]
    fn the_longest_path_counts() {
        let mut nodes = vec![conv(3, 1, 1), conv(3, 1, 1), node("Add", &["0"], vec![])];
        assert_eq!(chain(nodes.clone(), vec![]).unwrap(), is(1, 2));
        nodes.reverse();
        nodes[0].input[0] = "unknown".into();
        assert_eq!(chain(nodes, vec![]).unwrap(), is(1, 2));
    }

    #[test]
    fn resizing_reads_the_pixels_of_its_kernel() {
        for (mode, coordinates, scale, expected) in [
            ("nearest", "asymmetric", 4.0, is(4, 0)),
            ("linear", "half_pixel", 2.0, is(2, 1)),
            ("cubic", "half_pixel", 2.0, is(2, 2)),
            ("cubic", "half_pixel", 3.0, is(3, 2)),
        ] {
            let nodes = vec![resize(mode, coordinates)];
            assert_eq!(chain(nodes, scales(scale)).unwrap(), expected, "{mode} {scale}");
        }
    }

    #[test]
    fn a_padded_convolution_with_a_stride_is_centred() {
        let shuffle = node("DepthToSpace", &[], vec![Attribute::integer("blocksize", 2)]);
        let pads = vec![Tensor::integers("pads", &[0, 0, 1, 1, 0, 0, 1, 1])];
        let nodes = vec![shuffle, node("Pad", &["pads"], vec![]), conv(4, 0, 2)];
        assert_eq!(chain(nodes, pads).unwrap(), is(1, 1));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let refused = |nodes, tensors| chain(nodes, tensors).unwrap_err();
        let softmax = refused(vec![conv(3, 1, 1), node("Softmax", &[], vec![])], vec![]);
        assert!(softmax.contains("node `n1` (Softmax) reads an unknown part"), "{softmax}");
        let aligned = refused(vec![resize("linear", "align_corners")], scales(2.0));
        assert!(aligned.contains("depends on the whole picture"), "{aligned}");
        let shrunk = refused(vec![conv(3, 1, 2)], vec![]);
        assert!(shrunk.contains("makes 1/2 times the picture"), "{shrunk}");
        let large = refused(vec![conv(99_999, 1, 1)], vec![]);
        assert!(large.contains("length of 99999"), "{large}");
        assert!(
            refused(vec![node("Resize", &["", "scales"], vec![])], vec![]).contains("constant")
        );
    }
}
