//! The resources of a machine that a program needs, as declared by the code that starts it.

use pictor_tasks::worker::Gpu;
use std::path::PathBuf;
use tokio::process::Command;

/// The GPU that a slot uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index on this machine, by the driver's numbering.
    pub index: u32,
    /// Its model, memory and driver.
    pub gpu: Gpu,
}

/// What a program needs in addition to the files of the system. It runs in the first of the folders that it writes to,
/// and sees only its own GPU; access to the rest of the machine is not restricted yet.
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
}

impl Confinement {
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

    /// Prepares the start of the program: sets its working folder, unless it has one already, and its GPU.
    pub(super) fn apply(&self, command: &mut Command) {
        if let Some(folder) = self.write.first()
            && command.as_std().get_current_dir().is_none()
        {
            command.current_dir(folder);
        }
        if let Some(Device { index, gpu }) = &self.gpu {
            // CUDA numbers GPUs by speed and the driver by bus: only the unique id is always correct.
            let number = index.to_string();
            let id = if gpu.uuid.is_empty() { &number } else { &gpu.uuid };
            command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID").env("CUDA_VISIBLE_DEVICES", id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::path::Path;

    #[test]
    fn a_program_works_where_it_writes_and_sees_one_gpu() {
        let gpu = Gpu { name: "x".into(), uuid: "GPU-1".into(), vram_bytes: 1, driver: "1".into() };
        let mut device = Device { index: 3, gpu };
        for id in ["GPU-1", "3"] {
            let needs = Confinement { gpu: Some(device.clone()), ..Confinement::default() };
            let mut command = Command::new("x");
            needs.writes("/a").writes("/b").apply(&mut command);
            assert_eq!(command.as_std().get_current_dir(), Some(Path::new("/a")));
            let seen = (OsStr::new("CUDA_VISIBLE_DEVICES"), Some(OsStr::new(id)));
            assert!(command.as_std().get_envs().any(|set| set == seen));
            device.gpu.uuid.clear();
        }
        let mut command = Command::new("x");
        Confinement::default().writes("/a").apply(command.current_dir("/c"));
        assert_eq!(command.as_std().get_current_dir(), Some(Path::new("/c")));
        assert_eq!(command.as_std().get_envs().count(), 0);
    }
}
