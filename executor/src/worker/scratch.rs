//! The folders that tasks write to, each below that of its slot and run: what a program may see is shared with nothing of
//! another run.

use crate::task::{Config, TaskContext};
use pictor_tasks::message::WorkerId;
use pictor_tasks::units::Bytes;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// After so many files a folder counts as one that fills the disk.
const FILES_MAX: u64 = 1 << 20;

/// The folder of a worker's scratch folders.
pub(super) fn scratch_root(config: &Config, worker: WorkerId) -> PathBuf {
    config.data.join("scratch").join(worker.0.to_string())
}

/// Removes a task's scratch folder, even if its runner is dropped or panics.
pub(super) struct Scratch<'a>(pub(super) &'a TaskContext);

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.0.artifacts.forget(&self.0.key, self.0.task);
        for folder in [&self.0.scratch, &self.0.fetched] {
            if let Err(error) = remove_tree(folder) {
                let path = folder.display();
                tracing::warn!(%path, %error, "a scratch folder stays behind");
            }
        }
    }
}

/// Removes a folder, if it exists, with whatever a program has put there.
pub(super) fn remove_tree(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            // Folders may be nested more deeply than there are descriptors for, and their permissions taken away.
            let script =
                "find \"$0\" -type d ! -perm -700 -exec chmod u+rwx {} \\;; rm -rf -- \"$0\"";
            let mut remove = Command::new("/bin/sh");
            remove.args(["-c", script]).arg(folder);
            remove.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let gone = remove.status().is_ok_and(|status| status.success());
            if gone { Ok(()) } else { Err(error) }
        }
        _ => Ok(()),
    }
}

/// Removes the folder of a run, if all its tasks have ended, and returns whether it is gone.
pub(super) fn remove(place: &Path) -> bool {
    for part in ["made", "fetched"] {
        let _ = std::fs::remove_dir(place.join(part));
    }
    let _ = std::fs::remove_dir(place);
    !place.exists()
}

/// What a task has written, if less than `left` is left on the disk and it is to blame.
pub(super) async fn fills_disk(scratch: &Path, left: Bytes) -> Option<Bytes> {
    let scratch = scratch.to_owned();
    let look = move || {
        let disk = rustix::fs::statvfs(&scratch).ok()?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let used = (free < left.0).then(|| size_of_folder(&scratch))?;
        (used > left.0).then_some(Bytes(used))
    };
    tokio::task::spawn_blocking(look).await.ok().flatten()
}

/// The bytes that the files in a folder take on the disk.
fn size_of_folder(folder: &Path) -> u64 {
    let (mut folders, mut files, mut size) = (vec![folder.to_owned()], 0_u64, 0_u64);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            files += 1;
            match entry.metadata() {
                Ok(_) if files > FILES_MAX => return u64::MAX,
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) => size = size.saturating_add(meta.blocks().saturating_mul(512)),
                Err(_) => {}
            }
        }
    }
    size
}
