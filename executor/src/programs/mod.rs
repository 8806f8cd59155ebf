//! Programs of this machine: where they are, which versions, and how they are started and ended.

pub mod process;
pub mod software;
pub(crate) mod told;

use std::path::PathBuf;

/// The programs that runners start: a path, or a name to look for in PATH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// Blenders, of any versions.
    pub blenders: Vec<PathBuf>,
    /// ffmpeg.
    pub ffmpeg: PathBuf,
    /// ffprobe.
    pub ffprobe: PathBuf,
    /// Python 3.
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
