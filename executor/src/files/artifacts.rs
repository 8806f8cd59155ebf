//! The worker's access to artifact storage: whole files are stored and fetched, and hashed in transit. On a single
//! machine the storage is a folder; on a farm a server provides links.

use super::cache::{Kept, Watch};
use super::folder::Folder;
use crate::ground::failure::failure;
use async_trait::async_trait;
use pictor_artifacts::{ExecutionKey, Stored, check_key};
use pictor_tasks::message::{Failure, FailureKind, FileRef, Output, StepKey, Try};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Storage for the artifacts that a worker reads and makes.
#[async_trait]
pub(crate) trait Store: Debug + Send + Sync {
    /// Stores a file of a task. Returns its key, digest and size.
    async fn put(
        &self,
        of: ExecutionKey<'_>,
        file: &str,
        path: &Path,
        watch: &Watch,
    ) -> Result<(String, Stored), Failure>;

    /// A path on this machine at which an artifact can be read: that of the stored file itself, or one below `folder`.
    async fn local(
        &self,
        of: ExecutionKey<'_>,
        output: &Output,
        folder: &Path,
        watch: &Watch,
    ) -> Result<PathBuf, Failure>;

    /// A file that the job was submitted with and everything that belongs to it, or, with `only`, just one of these
    /// files. `None` if it was not stored and is to be read at its original path on this machine.
    async fn submitted(
        &self,
        file: &FileRef,
        only: Option<&str>,
        watch: &Watch,
    ) -> Result<Option<Kept>, Failure>;

    /// Drops what was kept for a task that has ended.
    fn forget(&self, key: &StepKey, task: Try);
}

/// Artifact storage as a worker sees it. Clones share it.
#[derive(Clone, Debug)]
pub struct Artifacts(Arc<dyn Store>);

impl Artifacts {
    /// Artifacts in a local folder. A file appears there once it is complete.
    pub fn in_folder(folder: &Path) -> Result<Self, Failure> {
        Ok(Self(Arc::new(Folder::open(folder)?)))
    }

    /// Artifacts in another store, such as that of a farm.
    pub(crate) fn of(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    /// Stores a file. Returns its key, its BLAKE3 digest in hex and its size.
    pub(crate) async fn put(
        &self,
        of: ExecutionKey<'_>,
        file: &str,
        path: &Path,
        watch: &Watch,
    ) -> Result<(String, Stored), Failure> {
        check(&of.file(file))?;
        self.0.put(of, file, path, watch).await
    }

    /// A path on this machine at which an artifact can be read: that of the stored file itself, or one below `folder`.
    pub(crate) async fn local(
        &self,
        of: ExecutionKey<'_>,
        output: &Output,
        folder: &Path,
        watch: &Watch,
    ) -> Result<PathBuf, Failure> {
        check(&output.key)?;
        self.0.local(of, output, folder, watch).await
    }

    /// A file that the job was submitted with, and everything that belongs to it. `None` if it is to be read at its
    /// original path on this machine.
    pub(crate) async fn scene(
        &self,
        file: &FileRef,
        watch: &Watch,
    ) -> Result<Option<Kept>, Failure> {
        self.0.submitted(file, None, watch).await
    }

    /// The same, but only one of the files that belong to it, selected by its relative path.
    pub(crate) async fn scene_file(
        &self,
        file: &FileRef,
        path: &str,
        watch: &Watch,
    ) -> Result<Option<Kept>, Failure> {
        self.0.submitted(file, Some(path), watch).await
    }

    /// Drops what was kept for a task that has ended.
    pub(crate) fn forget(&self, key: &StepKey, task: Try) {
        self.0.forget(key, task);
    }
}

/// Checks a key; an invalid one is a failure of the code that chose it.
fn check(key: &str) -> Result<(), Failure> {
    check_key(key).map_err(|error| failure(FailureKind::Invalid, format!("{error}.")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::progress::{Activity, Progress, Stopper};
    use pictor_tasks::message::{Execution, RunId};

    #[tokio::test]
    async fn a_stored_file_is_whole_and_has_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::in_folder(&folder.path().join("artifacts")).unwrap();
        let path = folder.path().join("a.bin");
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        std::fs::write(&path, &bytes).unwrap();
        let key = StepKey { run: RunId("r".into()), step: 0, generation: 0 };
        let task = Try { index: 7, attempt: 1 };
        let of = ExecutionKey { key: &key, step: "render", task, execution: Execution(255) };
        let watch = Watch { progress: Progress::new(Activity::new()).0, stop: Stopper::new().1 };
        let (key, made) = artifacts.put(of, "a.bin", &path, &watch).await.unwrap();
        assert_eq!(key, "runs/r/render/0/7/1-00000000000000ff/a.bin");
        let Stored { digest, size_bytes } = made;
        assert_eq!(size_bytes, 3_000_000);
        assert_eq!(digest, blake3::hash(&bytes).to_hex().to_string());
        let output = Output { name: "a".into(), key, digest, size_bytes };
        let local = artifacts.local(of, &output, folder.path(), &watch).await.unwrap();
        assert_eq!(std::fs::read(local).unwrap(), bytes);
        let leftovers = folder.path().join("artifacts/tmp/0");
        let leftovers = std::fs::read_dir(leftovers).unwrap().count();
        assert_eq!(leftovers, 1, "only the lock");
        let gone = Output { key: "runs/1/b.bin".into(), ..output };
        let failure = artifacts.local(of, &gone, folder.path(), &watch).await.unwrap_err();
        assert!(failure.message.contains("is gone"), "{failure:?}");
    }
}
