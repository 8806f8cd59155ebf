//! The cache's operations on the file system.

use crate::ground::failure::{failure, storage_failure};
use pictor_artifacts::{Stored, digest};
use pictor_tasks::message::{Failure, FailureKind};
use pictor_tasks::pack::{MANIFEST_BYTES_MAX, PackManifest};
use std::collections::HashSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Reads the list of a packed scene; `None` if the file is not such a list.
pub(super) fn read_manifest(path: &Path) -> Result<Option<PackManifest>, Failure> {
    let unreadable = |error: io::Error| storage_failure("A scene cannot be read", &error);
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    (&mut file).take(32).read_to_end(&mut bytes).map_err(unreadable)?;
    if !PackManifest::is_one(&bytes) {
        return Ok(None);
    }
    file.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    let manifest = PackManifest::from_json(&bytes);
    manifest.map(Some).map_err(|error| failure(FailureKind::Invalid, format!("{error}.")))
}

/// Places files in a new folder, as links or, where those are not possible, as copies.
pub(super) fn lay_out(folder: &Path, files: &[(PathBuf, String)]) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut made = HashSet::new();
    for (from, path) in files {
        let to = folder.join(path);
        if let Some(parent) = to.parent().map(Path::to_owned)
            && !made.contains(&parent)
        {
            std::fs::create_dir_all(&parent)?;
            made.insert(parent);
        }
        link(from, &to)?;
    }
    Ok(())
}

/// Makes a file appear at another path: as a link or, where that is not possible, as a copy.
pub(crate) fn link(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::hard_link(from, to).or_else(|_| std::fs::copy(from, to).map(drop))
}

/// Computes the digest and size of a file.
pub(crate) fn hash(path: &Path) -> Result<Stored, Failure> {
    let unreadable =
        |error: io::Error| storage_failure(&format!("{} cannot be read", path.display()), &error);
    digest(std::fs::File::open(path).map_err(unreadable)?, |_| true).map_err(unreadable)
}

/// Runs blocking work on files off the threads that wait for messages.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| {
        Err(failure(FailureKind::Storage, format!("Work on a file failed: {panic}.")))
    })
}
