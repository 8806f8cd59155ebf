//! ONNX files: the part of their format that networks for upscaling use.
//!
//! ONNX is protobuf. Messages and fields have the names and numbers of `onnx.proto`. What is not declared here is
//! skipped when a file is read, and so is missing from what is written of it: it has no effect on how a network runs
//! (names, documentation, hints). A message of which no field is used is declared as its bytes.

use prost::Message;

/// The operator set version of the files that are written: the first whose `Resize` needs no region of interest, and
/// old enough (2020) for every runtime in use.
const OPSET: i64 = 13;
/// The version of the file format that came with [`OPSET`].
const IR_VERSION: i64 = 7;
/// The element type of floats.
pub(super) const FLOAT: i32 = 1;
/// The element type of 64-bit integers.
const INT64: i32 = 7;

/// Attribute types.
const TYPE_FLOAT: i32 = 1;
const TYPE_INT: i32 = 2;
const TYPE_STRING: i32 = 3;
const TYPE_INTS: i32 = 7;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Model {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(string, tag = "2")]
    producer_name: String,
    #[prost(message, optional, tag = "7")]
    pub(super) graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSet>,
    #[prost(bytes = "vec", repeated, tag = "25")]
    functions: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorSet {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

/// A graph whose nodes are in an order in which they can be computed.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub(super) node: Vec<Node>,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub(super) input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub(super) output: Vec<ValueInfo>,
    #[prost(bytes = "vec", repeated, tag = "15")]
    pub(super) sparse_initializer: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(super) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) output: Vec<String>,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(string, tag = "4")]
    pub(super) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) attribute: Vec<Attribute>,
    #[prost(string, tag = "7")]
    pub(super) domain: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(float, tag = "2")]
    pub(super) f: f32,
    #[prost(int64, tag = "3")]
    pub(super) i: i64,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) s: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub(super) t: Option<Tensor>,
    #[prost(bytes = "vec", optional, tag = "6")]
    g: Option<Vec<u8>>,
    #[prost(float, repeated, tag = "7")]
    floats: Vec<f32>,
    #[prost(int64, repeated, tag = "8")]
    pub(super) ints: Vec<i64>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    strings: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "10")]
    tensors: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "11")]
    graphs: Vec<Vec<u8>>,
    #[prost(int32, tag = "20")]
    kind: i32,
    #[prost(bytes = "vec", optional, tag = "22")]
    sparse_tensor: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    pub(super) dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(float, repeated, tag = "4")]
    float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    int32_data: Vec<i32>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    string_data: Vec<Vec<u8>>,
    #[prost(int64, repeated, tag = "7")]
    int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    pub(super) name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
    #[prost(double, repeated, tag = "10")]
    double_data: Vec<f64>,
    #[prost(uint64, repeated, tag = "11")]
    uint64_data: Vec<u64>,
    /// 1 if the values are in another file.
    #[prost(int32, tag = "14")]
    pub(super) data_location: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ValueInfo {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    element: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dim>,
}

/// A length, or the name of one that is known when the network runs.
#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, optional, tag = "1")]
    value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
}

impl Model {
    /// Wraps a graph into a model.
    pub(super) fn new(graph: Graph) -> Self {
        Self {
            ir_version: IR_VERSION,
            producer_name: "pictor".into(),
            graph: Some(graph),
            opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
            functions: Vec::new(),
        }
    }

    /// Declares that the model uses the operators of another namespace.
    pub(super) fn import(&mut self, domain: &str, version: i64) {
        self.opset_import.push(OperatorSet { domain: domain.into(), version });
    }
}

impl Graph {
    /// A value that is stored in the file; `None` if the network computes it.
    pub(super) fn constant(&self, name: &str) -> Option<&Tensor> {
        let made_by =
            |node: &&Node| node.op_type == "Constant" && node.output.iter().any(|o| o == name);
        self.initializer
            .iter()
            .find(|tensor| tensor.name == name)
            .or_else(|| self.node.iter().find(made_by)?.attribute("value")?.t.as_ref())
    }
}

impl Tensor {
    pub(super) fn floats(name: &str, dims: Vec<i64>, values: &[f32]) -> Self {
        let raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dims, data_type: FLOAT, name: name.into(), raw_data, ..Self::default() }
    }

    pub(super) fn integers(name: &str, values: &[i64]) -> Self {
        let raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let dims = vec![i64::try_from(values.len()).expect("a few values")];
        Self { dims, data_type: INT64, name: name.into(), raw_data, ..Self::default() }
    }

    /// The values, if they are floats that are stored in this file.
    pub(super) fn as_floats(&self) -> Option<Vec<f32>> {
        match (self.data_type, self.raw_data.as_chunks()) {
            (FLOAT, ([], [])) => Some(self.float_data.clone()),
            (FLOAT, (words, [])) => Some(words.iter().map(|w| f32::from_le_bytes(*w)).collect()),
            _ => None,
        }
    }

    /// The values, if they are 64-bit integers that are stored in this file.
    pub(super) fn as_integers(&self) -> Option<Vec<i64>> {
        match (self.data_type, self.raw_data.as_chunks()) {
            (INT64, ([], [])) => Some(self.int64_data.clone()),
            (INT64, (words, [])) => Some(words.iter().map(|w| i64::from_le_bytes(*w)).collect()),
            _ => None,
        }
    }
}

impl ValueInfo {
    /// A batch of one picture of any size.
    pub(super) fn picture(name: &str, channels: i64, axes: [&str; 2]) -> Self {
        let fixed = |value| Dim { value: Some(value), name: None };
        let named = |name: &str| Dim { value: None, name: Some(name.into()) };
        let dim = vec![fixed(1), fixed(channels), named(axes[0]), named(axes[1])];
        let tensor = TensorType { element: FLOAT, shape: Some(Shape { dim }) };
        Self { name: name.into(), kind: Some(Type { tensor: Some(tensor) }) }
    }

    /// The element type and the lengths, of which some may be unknown; `None` if it is not a tensor.
    pub(super) fn tensor(&self) -> Option<(i32, Vec<Option<i64>>)> {
        let tensor = self.kind.as_ref()?.tensor.as_ref()?;
        let lengths = tensor.shape.as_ref()?.dim.iter().map(|dim| dim.value).collect();
        Some((tensor.element, lengths))
    }
}

impl Attribute {
    pub(super) fn float(name: &str, f: f32) -> Self {
        Self { name: name.into(), f, kind: TYPE_FLOAT, ..Self::default() }
    }

    pub(super) fn integer(name: &str, i: i64) -> Self {
        Self { name: name.into(), i, kind: TYPE_INT, ..Self::default() }
    }

    pub(super) fn integers(name: &str, values: &[i64]) -> Self {
        Self { name: name.into(), ints: values.into(), kind: TYPE_INTS, ..Self::default() }
    }

    pub(super) fn text(name: &str, text: &str) -> Self {
        Self { name: name.into(), s: text.into(), kind: TYPE_STRING, ..Self::default() }
    }
}

impl Node {
    /// The attribute of that name, if the node has it.
    pub(super) fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attribute.iter().find(|attribute| attribute.name == name)
    }

    /// The text attribute of that name, or a default.
    pub(super) fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.attribute(name).and_then(|a| std::str::from_utf8(&a.s).ok()).unwrap_or(default)
    }
}
