//! The resources of a machine that a program needs, as declared by the code that starts it.

use pictor_tasks::worker::Gpu;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The GPU that a slot uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index on this machine, by the driver's numbering.
    pub index: u32,
    /// Its model, memory and driver.
    pub gpu: Gpu,
}

/// What a program needs in addition to the files of the system. It runs in the first of the folders that it writes to,
/// which is also its home, and sees only its own GPU; the sandbox gives it nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// Files, and folders with their entire content, that it reads. Folders that it writes to are readable as well.
    pub read: Vec<PathBuf>,
    /// Folders that it writes to.
    pub write: Vec<PathBuf>,
    /// Whether it connects to other machines.
    pub network: bool,
    /// The GPU that it uses, if any.
    pub gpu: Option<Device>,
    /// Whether it opens nobody's files, as a program that is asked for its version: then it is started without sandbox.
    pub is_trusted: bool,
}

impl Confinement {
    /// For a program that opens nobody's files, and may do whatever we may.
    pub fn trusted() -> Self {
        Self { is_trusted: true, ..Self::default() }
    }

    /// For a program that looks at a scene on its user's own machine, which may refer to files anywhere: it reads all that
    /// does not belong to the system and is not hidden.
    pub fn looking(scene: &Path) -> Self {
        let mut read = visible_below(Path::new("/"), &home());
        read.extend(scene.parent().map(Path::to_owned));
        Self { read, ..Self::default() }
    }

    /// Adds a file or folder that the program reads.
    #[must_use]
    pub fn reads(mut self, path: impl Into<PathBuf>) -> Self {
        self.read.push(path.into());
        self
    }

    /// Adds a folder that the program writes to.
    #[must_use]
    pub fn writes(mut self, folder: impl Into<PathBuf>) -> Self {
        self.write.push(folder.into());
        self
    }

    /// The variables that select its GPU.
    pub(super) fn gpu_variables(&self) -> Vec<(OsString, OsString)> {
        let Some(Device { index, gpu }) = &self.gpu else { return Vec::new() };
        // CUDA numbers GPUs by speed and the driver by bus: only the unique id is always correct.
        let id = if gpu.uuid.is_empty() { index.to_string() } else { gpu.uuid.clone() };
        let order = ("CUDA_DEVICE_ORDER".into(), "PCI_BUS_ID".into());
        vec![order, ("CUDA_VISIBLE_DEVICES".into(), id.into())]
    }
}

/// The folders at the top of the file system in which no user keeps files.
const OF_SYSTEM: [&str; 9] =
    ["/boot", "/dev", "/etc", "/lost+found", "/proc", "/run", "/sys", "/usr", "/var"];

fn home() -> PathBuf {
    std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default()
}

/// What is in a folder, and is neither hidden nor of the system. Of folders that lead to the user's home, their content.
fn visible_below(folder: &Path, home: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if name.as_encoded_bytes().starts_with(b".")
            || OF_SYSTEM.iter().any(|of| path == Path::new(of))
        {
            continue;
        }
        if home.starts_with(&path) {
            all.extend(visible_below(&path, home));
        } else {
            all.push(path);
        }
    }
    all
}
