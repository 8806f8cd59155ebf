//! Artifacts in a folder, for use on this machine only.

use super::artifacts::{Place, Store};
use super::cache::{CACHE_BYTES, Cache, Fetched, Kept, Watch, blocking, hash};
use crate::ground::failure::{failure, io_error, storage_failure};
use crate::ground::{lock, text_of};
use async_trait::async_trait;
use opendal::{ErrorKind, Operator, services};
use pictor_tasks::message::{Failure, FailureKind, FileRef, Output, StepKey, Try};
use pictor_tasks::pack::PackedFile;
use std::error::Error;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tokio::io::AsyncReadExt;

/// The bytes that are read, hashed and written at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The storage of a single machine.
#[derive(Debug)]
pub(super) struct Folder {
    operator: Operator,
    path: PathBuf,
    /// The cache in which packed scenes are laid out; opened when the first one is needed.
    cache: Mutex<Option<Cache>>,
}

impl Folder {
    pub(super) fn open(folder: &Path) -> Result<Self, Failure> {
        let unusable = |error: &(dyn Error + 'static)| {
            storage_failure("Artifact storage cannot be used", error)
        };
        std::fs::create_dir_all(folder).map_err(|error| unusable(&error))?;
        let path = folder.canonicalize().map_err(|error| unusable(&error))?;
        let root = text_of(&path)?;
        let parts = format!("{root}/.parts");
        let service = services::Fs::default().root(&root).atomic_write_dir(&parts);
        let operator = Operator::new(service).map_err(|error| unusable(&error))?;
        Ok(Self { operator, path, cache: Mutex::default() })
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
        place: Place<'_>,
        file: &str,
        path: &Path,
        _: &Watch,
    ) -> Result<(String, Fetched), Failure> {
        let key = place.file(file);
        let unreadable = |error: std::io::Error| {
            storage_failure(&format!("{} cannot be read", path.display()), &error)
        };
        let mut file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        let unwritable = |error: opendal::Error| {
            storage_failure(&format!("The artifact {key} cannot be stored"), &error)
        };
        let mut writer = self.operator.writer(&key).await.map_err(unwritable)?;
        let (mut hasher, mut size_bytes) = (blake3::Hasher::new(), 0);
        let copied = loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            match (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).await {
                Ok(0) => break Ok(()),
                Ok(read) => size_bytes += read as u64,
                Err(error) => break Err(unreadable(error)),
            }
            hasher.update(&chunk);
            if let Err(error) = writer.write(chunk).await {
                break Err(unwritable(error));
            }
        };
        let stored = match copied {
            Ok(()) => writer.close().await.map(|_| ()).map_err(unwritable),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = stored {
            // The incomplete part is useless; whether it can be removed makes no difference.
            let _ = writer.abort().await;
            return Err(failure);
        }
        // Later tasks get the file itself, so none may change it. If this fails, it remains a convention.
        let _ = std::fs::set_permissions(self.path.join(&key), Permissions::from_mode(0o444));
        Ok((key, Fetched { digest: hasher.finalize().to_hex().to_string(), size_bytes }))
    }

    async fn local(
        &self,
        _: Place<'_>,
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
        let assets = self.path.join("assets");
        if !assets.join(&file.digest).is_file() {
            return Ok(None);
        }
        let fetch = move |file: PackedFile, part: PathBuf| {
            let asset = assets.join(&file.digest);
            blocking(move || link_asset(&asset, &part))
        };
        self.cache()?.scene(file, only, fetch, watch).await.map(Some)
    }

    fn forget(&self, _: &StepKey, _: Try) {}
}

/// Links an asset of this machine's own storage into the cache.
fn link_asset(asset: &Path, part: &Path) -> Result<Fetched, Failure> {
    let linked = std::fs::hard_link(asset, part).or_else(|_| std::fs::copy(asset, part).map(drop));
    linked.map_err(|error| storage_failure("An asset cannot be read", &error))?;
    hash(part)
}

fn missing(key: &str, error: &(dyn Error + 'static)) -> Failure {
    let not_found = match (error.downcast_ref::<opendal::Error>(), io_error(error)) {
        (Some(error), _) => error.kind() == ErrorKind::NotFound,
        (None, Some(error)) => error.kind() == std::io::ErrorKind::NotFound,
        (None, None) => false,
    };
    if not_found {
        let message = format!("The artifact {key} is gone. Reset the task that made it.");
        return failure(FailureKind::Storage, message);
    }
    storage_failure(&format!("The artifact {key} cannot be read"), error)
}
