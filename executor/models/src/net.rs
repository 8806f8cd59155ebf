//! Runs a network with ONNX Runtime. Its library is loaded when the worker starts: it is neither linked nor built, and
//! a machine with a GPU brings the library that fits it.

use super::operator::{self, Layers, Listener};
use super::{ModelError, Planar, Tile};
use ort::environment::Environment;
use ort::ep;
use ort::session::builder::SessionBuilder;
use ort::session::{RunOptions, Session};
use ort::value::TensorRef;
use pictor_convolution::is_fast;
use pictor_tasks::units::{Rect, Resolution};
use std::fmt;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The file name of the library in a folder of models.
pub(super) const LIBRARY: &str = "libonnxruntime.so";

/// The loaded library.
#[derive(Clone, Debug)]
pub struct Runtime(Environment);

/// The library of this process: ONNX Runtime allows only one.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// The path of the library: the one in `ORT_DYLIB_PATH`, otherwise the one in a folder of models. `None` if there
    /// is no library.
    pub fn find(folder: &Path) -> Option<PathBuf> {
        let named = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
        named.map(PathBuf::from).or_else(|| Some(folder.join(LIBRARY)).filter(|path| path.exists()))
    }

    /// Loads the library: version 1.17 or newer, such as in the packages `onnxruntime` and `onnxruntime-gpu` of `PyPI`.
    /// Only the first call in a process loads it; later ones return the same, whatever path they give.
    pub fn load(library: &Path) -> Result<Self, ModelError> {
        let failed = |error: String| ModelError::Library(library.to_owned(), error);
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*loaded {
            return Ok(runtime.clone());
        }
        // A relative path would be resolved against the folder of this program.
        let path = std::path::absolute(library).map_err(|error| failed(error.to_string()))?;
        let builder = ort::init_from(path).map_err(|error| failed(error.to_string()))?;
        let builder = builder.with_name("pictor").with_telemetry(false);
        let runtime = Self(builder.build().map_err(|error| failed(error.to_string()))?);
        Ok(loaded.insert(runtime).clone())
    }
}

/// What a network runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU, with that many threads.
    Cpu(NonZero<usize>),
    /// The NVIDIA GPU with that index, through `TensorRT` if its libraries are there, else CUDA. If neither can be used
    /// it is an error: falling back to a CPU would be fifty times slower.
    ///
    /// The project's own tests have no GPU and only cover that error.
    Gpu(i32),
}

/// A network that is loaded and stays warm from one tile to the next.
pub struct Net {
    session: Session,
    options: Arc<RunOptions>,
    layers: Arc<Layers>,
    /// Whether it computes rows and columns in pairs, so that tiles have to begin at even ones.
    in_pairs: bool,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net").field("session", &self.session).finish_non_exhaustive()
    }
}

/// Cancels the runs of a network, from another thread.
#[derive(Clone)]
pub struct Ender(Arc<RunOptions>);

impl Ender {
    /// Makes a run fail after its current layer, and all later runs at once.
    pub fn end(&self) {
        // This does not fail; and if it did, nobody is waiting for the run any more.
        let _ = self.0.terminate();
    }
}

impl Net {
    /// Loads the bytes of an ONNX file, as [`Folder::read`](super::Folder::read) gives them.
    pub fn load(runtime: &Runtime, model: &[u8], device: Device) -> Result<Self, ModelError> {
        let failed = |error: ort::Error| ModelError::Runtime("load the model", error.to_string());
        let builder = Session::builder(&runtime.0).map_err(failed)?;
        let mut builder = Self::on(device, builder).map_err(failed)?;
        let options = Arc::new(RunOptions::new().map_err(failed)?);
        let replaced = (matches!(device, Device::Cpu(_)) && is_fast())
            .then(|| operator::replaced(model))
            .flatten();
        let layers = Arc::new(Layers::new(replaced.as_ref().map_or(0, |(_, count)| *count)));
        if replaced.is_some() {
            let domain = operator::domain(layers.clone()).map_err(failed)?;
            builder = builder.with_operators(domain).map_err(|error| failed(error.into()))?;
        }
        let used = replaced.as_ref().map_or(model, |(replaced, _)| replaced);
        let session = builder.commit_from_memory(used).map_err(failed)?;
        Ok(Self { session, options, layers, in_pairs: replaced.is_some() })
    }

    /// A handle that cancels its runs.
    pub fn ender(&self) -> Ender {
        Ender(self.options.clone())
    }

    fn on(device: Device, builder: SessionBuilder) -> ort::Result<SessionBuilder> {
        Ok(match device {
            Device::Cpu(threads) => builder
                .with_intra_threads(threads.get())?
                // Threads that spin while they wait for the next tile would take time from other slots.
                .with_config_entry("session.intra_op.allow_spinning", "0")?,
            Device::Gpu(index) => builder.with_execution_providers([
                ep::TensorRT::default().with_device_id(index).build(),
                ep::CUDA::default().with_device_id(index).build().error_on_failure(),
            ])?,
        })
    }

    /// Makes the next run report its progress to `listener`. On a GPU, or where ONNX Runtime computes everything
    /// itself, a run takes a moment or cannot be observed: then the listener is not called.
    pub fn tell(&self, listener: Listener) {
        self.layers.begin(listener);
    }

    /// Runs the network on a tile whose first pixel is the one at column `x` and row `y` of its picture.
    /// The result has the network's scale.
    pub fn run(&mut self, tile: &Planar, [x, y]: [u32; 2]) -> Result<Planar, ModelError> {
        let odd = [x % 2, y % 2];
        if !self.in_pairs || odd == [0, 0] {
            return self.run_whole(tile);
        }
        // Pairs must be those of the whole picture: add one column or row of any content, no further from the tile's
        // core than the end of what the tile shows.
        let Resolution { width, height } = tile.size();
        let size = Resolution { width: width + odd[0], height: height + odd[1] };
        let mut larger = Planar::zeros(tile.channels(), size)
            .ok_or_else(|| ModelError::Runtime("run the model", "the tile is too large".into()))?;
        let place = Rect { x0: odd[0], y0: odd[1], x1: size.width, y1: size.height };
        larger.paste(Tile { window: place, core: place }, tile, 1);
        let made = self.run_whole(&larger)?;
        let scale = made.size().width / size.width;
        let Resolution { width: x1, height: y1 } = made.size();
        Ok(made.cut(Rect { x0: odd[0] * scale, y0: odd[1] * scale, x1, y1 }))
    }

    fn run_whole(&mut self, tile: &Planar) -> Result<Planar, ModelError> {
        let wrong = |what: String| ModelError::Runtime("run the model", what);
        let failed = |error: ort::Error| wrong(error.to_string());
        let Resolution { width, height } = tile.size();
        let shape = [1, tile.channels() as usize, height as usize, width as usize];
        let input = TensorRef::from_array_view((shape, tile.samples())).map_err(failed)?;
        let outputs =
            self.session.run_with_options(ort::inputs![input], &*self.options).map_err(failed)?;
        let (shape, samples) = outputs[0].try_extract_tensor::<f32>().map_err(failed)?;
        let lengths: Option<Vec<u32>> = shape.iter().map(|n| u32::try_from(*n).ok()).collect();
        let Some([1, channels, height, width]) = lengths.as_deref() else {
            return Err(wrong(format!("its result has the shape {shape:?}: expected a picture")));
        };
        let size = Resolution { width: *width, height: *height };
        Ok(Planar::new(*channels, size, samples.to_vec())
            .expect("as many samples as the shape says"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_says_what_to_do() {
        let refused =
            Runtime::load(Path::new("/nowhere/libonnxruntime.so")).unwrap_err().to_string();
        assert!(refused.contains("from /nowhere/libonnxruntime.so"), "{refused}");
        assert!(refused.contains("ORT_DYLIB_PATH"), "{refused}");
    }
}
