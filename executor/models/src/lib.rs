//! Neural networks for upscaling: importing them, keeping them with their digests, and running them
//! on tiles.
//! A model is an ONNX file in a [`Folder`], named by its digest, with a [`Manifest`] that gives it a name.
//! [`Folder::pull`] imports the public ones, [`Net`] runs one, and [`Tiling`] cuts a picture so that the result has no
//! seams.
//! that what comes out has no seams.

mod convert;
mod field;
mod folder;
mod ncnn;
mod net;
mod onnx;
mod operator;
mod planar;
mod tiling;
mod wheel;

pub use folder::{Folder, Manifest, Origin};
pub use net::{Device, Ender, Net, Runtime};
pub use operator::Listener;
pub use planar::{Planar, upscale_tiled};
pub use tiling::{Tile, Tiling};

use std::io;
use std::path::{Path, PathBuf};

/// Why a model cannot be imported, found or run. The message says where, what, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The disk or the file system failed.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// The content of a file is invalid, with the reason.
    #[error("{0} {1}")]
    File(PathBuf, String),
    /// A layer of an ncnn model cannot be imported.
    #[error("{path}, line {line}, layer `{name}` ({kind}): {problem}")]
    Layer {
        /// The `.param` file.
        path: PathBuf,
        /// The line of the layer, from 1.
        line: usize,
        /// The layer's name.
        name: String,
        /// The layer's type, such as `Convolution`.
        kind: String,
        /// The reason, as a sentence without its end.
        problem: String,
    },
    /// A model's name has characters that a file name should not have.
    #[error(
        "`{0}` cannot name a model: expected 1 to 64 of a-z, 0-9, `.`, `_` and `-`, the first a letter \
         or digit"
    )]
    Name(String),
    /// Another model has the name already.
    #[error(
        "there is another model `{name}` in {folder}: give this one another name, or remove the other's \
         {name}.json"
    )]
    Taken {
        /// The name that was given to both.
        name: String,
        /// The folder of models.
        folder: PathBuf,
    },
    /// There is no model of that name.
    #[error("there is no model `{name}` in {folder}: {hint}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The folder of models that was searched.
        folder: PathBuf,
        /// The models that exist instead, or how to get some.
        hint: String,
    },
    /// The ONNX Runtime library cannot be loaded.
    #[error(
        "ONNX Runtime cannot be loaded from {0}: {1}. Set ORT_DYLIB_PATH to a libonnxruntime.so of \
         version 1.17 or newer, or fetch one with `pictor models pull`"
    )]
    Library(PathBuf, String),
    /// ONNX Runtime refused the model or failed while it ran.
    #[error("ONNX Runtime cannot {0}: {1}")]
    Runtime(&'static str, String),
    /// A package could not be fetched.
    #[error("{0} cannot be fetched: {1}")]
    Fetch(String, String),
}

/// The largest factor by which a network resizes a value.
const FACTOR: u16 = 16;

/// A resizing factor as `(up, down)` in lowest terms; `None` unless both are at most [`FACTOR`].
#[expect(clippy::float_cmp, reason = "files hold the nearest float of the fraction")]
fn fraction(scale: f32) -> Option<(u16, u16)> {
    let up = |down: u16| (1..=FACTOR).find(|up| f32::from(*up) / f32::from(down) == scale);
    (1..=FACTOR).find_map(|down| Some((up(down)?, down)))
}

/// Adds the path to an error of the file system.
fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ModelError + '_ {
    move |error| ModelError::Io(path.to_owned(), error)
}

/// Reads a whole file of at most `limit` bytes.
fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, ModelError> {
    use io::Read as _;
    let file = std::fs::File::open(path).map_err(io_error(path))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io_error(path))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= limit) {
        return Ok(bytes);
    }
    Err(ModelError::File(path.to_owned(), format!("is too large: at most {limit} bytes")))
}
