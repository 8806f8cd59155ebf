//! Programs of this machine: their paths and versions, and how they are started and stopped.

mod confinement;
pub mod process;
mod sandbox;
pub mod software;
pub(crate) mod version_cache;

pub use confinement::{Confinement, Device};
pub use sandbox::{Sandbox, SandboxPolicy, Shared};

use std::path::{Path, PathBuf};

/// The programs that runners start: paths, or names to look up in PATH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// Blender programs of any versions.
    pub blenders: Vec<PathBuf>,
    /// The `ffmpeg` program.
    pub ffmpeg: PathBuf,
    /// The `ffprobe` program.
    pub ffprobe: PathBuf,
    /// The Python 3 interpreter.
    pub python: PathBuf,
}

impl Default for Programs {
    fn default() -> Self {
        Self {
            blenders: vec!["blender".into()],
            ffmpeg: "ffmpeg".into(),
            ffprobe: "ffprobe".into(),
            python: "python3".into(),
        }
    }
}

/// How to install a program, as a sentence.
pub(crate) fn how_to_get(program: &str) -> String {
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or(program);
    match name {
        "blender" => {
            "Get a current one with `pictor setup-blender`, or from blender.org and name it with \
             `--blender PATH`; `apt install blender` has an older one without denoiser."
        }
        "ffmpeg" | "ffprobe" => "Get it with `apt install ffmpeg`.",
        "python" | "python3" => "Get it with `apt install python3`.",
        _ => "Install it and make sure that it is in PATH, or give its full path.",
    }
    .to_owned()
}
