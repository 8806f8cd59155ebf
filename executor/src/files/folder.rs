//! Artifacts in a folder, for use on this machine only.

use super::artifacts::Store;
use super::cache::{CACHE_BYTES, Cache, Kept, Watch, blocking, hash, link};
use crate::ground::failure::{failure, storage_failure};
use crate::ground::lock;
use async_trait::async_trait;
use pictor_artifacts::{Artifacts, ExecutionKey, Stored, asset_key};
use pictor_tasks::message::{Failure, FailureKind, FileRef, Output, StepKey, Try};
use pictor_tasks::pack::PackedFile;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The storage of a single machine.
#[derive(Debug)]
pub(super) struct Folder {
    artifacts: Artifacts,
    path: PathBuf,
    /// The cache in which packed scenes are laid out; opened when the first one is needed.
    cache: Mutex<Option<Cache>>,
}

impl Folder {
    pub(super) fn open(folder: &Path) -> Result<Self, Failure> {
        let unusable = |error: &(dyn std::error::Error + 'static)| {
            storage_failure("Artifact storage cannot be used", error)
        };
        let artifacts = Artifacts::folder(folder).map_err(|error| unusable(&error))?;
        let path = folder.canonicalize().map_err(|error| unusable(&error))?;
        Ok(Self { artifacts, path, cache: Mutex::default() })
    }

    fn cache(&self) -> Result<Cache, Failure> {
        let mut cache = lock(&self.cache);
        if let Some(cache) = &*cache {
            return Ok(cache.clone());
        }
        let folder = self.path.parent().unwrap_or(&self.path).join("cache");
        let opened = Cache::open(&folder, CACHE_BYTES)
            .map_err(|error| storage_failure("The cache cannot be used", &error))?;
        Ok(cache.insert(opened).clone())
    }
}

#[async_trait]
impl Store for Folder {
    async fn put(
        &self,
        of: ExecutionKey<'_>,
        file: &str,
        path: &Path,
        _: &Watch,
    ) -> Result<(String, Stored), Failure> {
        let key = of.file(file);
        let stored = self.artifacts.put_file(path, &key).await.map_err(|error| {
            storage_failure(&format!("The artifact {key} cannot be stored"), &error)
        })?;
        // Later tasks get the file itself, so none may change it. If this fails, it remains a convention.
        let _ = std::fs::set_permissions(self.path.join(&key), Permissions::from_mode(0o444));
        Ok((key, stored))
    }

    async fn local(
        &self,
        _: ExecutionKey<'_>,
        output: &Output,
        _: &Path,
        _: &Watch,
    ) -> Result<PathBuf, Failure> {
        let path = self.path.join(&output.key);
        match tokio::fs::metadata(&path).await.map(|meta| meta.len()) {
            Ok(size) if size == output.size_bytes => Ok(path),
            Ok(size) => Err(failure(
                FailureKind::Storage,
                format!(
                    "The artifact {} has {size} bytes and should have {}: it was changed after \
                     it was made. Reset the task that made it.",
                    output.key, output.size_bytes
                ),
            )),
            Err(error) => Err(missing(&output.key, &error)),
        }
    }

    async fn submitted(
        &self,
        file: &FileRef,
        only: Option<&str>,
        watch: &Watch,
    ) -> Result<Option<Kept>, Failure> {
        if !self.path.join(asset_key(&file.digest)).is_file() {
            return Ok(None);
        }
        let folder = self.path.clone();
        let fetch = move |file: PackedFile, part: PathBuf| {
            let asset = folder.join(asset_key(&file.digest));
            blocking(move || {
                let unreadable = |error| storage_failure("An asset cannot be read", &error);
                link(&asset, &part).map_err(unreadable)?;
                hash(&part)
            })
        };
        self.cache()?.scene(file, only, fetch, watch).await.map(Some)
    }

    fn forget(&self, _: &StepKey, _: Try) {}
}

fn missing(key: &str, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::NotFound {
        let message = format!("The artifact {key} is gone. Reset the task that made it.");
        return failure(FailureKind::Storage, message);
    }
    storage_failure(&format!("The artifact {key} cannot be read"), error)
}
