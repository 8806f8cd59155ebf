//! What a program needs of its machine: said by whoever starts it, where it is started.

use pictor_tasks::worker::Gpu;
use std::path::PathBuf;
use tokio::process::Command;

/// The GPU that a slot drives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number on this machine, as the driver counts.
    pub index: u32,
    /// What it is.
    pub gpu: Gpu,
}

/// What a program needs beside what comes with the system. It works in the first folder that it writes
/// into, and sees no other GPU than its own; nothing keeps it from the rest of the machine yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// Files, and folders with all that is in them, that it reads. What it writes it may read as well.
    pub read: Vec<PathBuf>,
    /// Folders in which it writes.
    pub write: Vec<PathBuf>,
    /// Whether it speaks to other machines.
    pub network: bool,
    /// The GPU that it computes on.
    pub gpu: Option<Device>,
}

impl Confinement {
    /// The same, and it reads this.
    #[must_use]
    pub fn reads(mut self, path: impl Into<PathBuf>) -> Self {
        self.read.push(path.into());
        self
    }

    /// The same, and it writes into this folder.
    #[must_use]
    pub fn writes(mut self, folder: impl Into<PathBuf>) -> Self {
        self.write.push(folder.into());
        self
    }

    /// Prepares the program's start: its working folder, unless it has one already, and its GPU.
    pub(super) fn apply(&self, command: &mut Command) {
        if let Some(folder) = self.write.first()
            && command.as_std().get_current_dir().is_none()
        {
            command.current_dir(folder);
        }
        if let Some(Device { index, gpu }) = &self.gpu {
            // CUDA counts the fastest first and the driver by bus: only the unique id is always right.
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
