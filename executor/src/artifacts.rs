//! The worker's access to artifact storage: whole files in, whole files out, digests on the way.

use crate::task::failure;
use opendal::{ErrorKind, Operator, services};
use pictor_tasks::message::{Failure, FailureKind, Output};
use std::error::Error;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;

/// How much is read, hashed and written at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// The longest key.
const KEY_BYTES_MAX: usize = 1_024;

/// Artifact storage as a worker sees it. Clones share it.
#[derive(Clone, Debug)]
pub struct Artifacts {
    operator: Operator,
    /// The folder that holds the artifacts as files, if they are in one.
    folder: Option<PathBuf>,
}

impl Artifacts {
    /// Artifacts in a local folder. A file appears there when it is whole.
    pub fn in_folder(folder: &Path) -> Result<Self, Failure> {
        let unusable = |error: &(dyn Error + 'static)| {
            storage_failure("Artifact storage cannot be used", error)
        };
        std::fs::create_dir_all(folder).map_err(|error| unusable(&error))?;
        let folder = folder.canonicalize().map_err(|error| unusable(&error))?;
        let root = crate::task::text_of(&folder)?;
        let parts = format!("{root}/.parts");
        let service = services::Fs::default().root(&root).atomic_write_dir(&parts);
        let operator = Operator::new(service).map_err(|error| unusable(&error))?;
        Ok(Self { operator, folder: Some(folder) })
    }

    /// Artifacts anywhere. Inputs are copied to the task's scratch folder before they are read.
    pub fn new(operator: Operator) -> Self {
        Self { operator, folder: None }
    }

    /// Stores a file. Gives its BLAKE3 digest in hex and its size.
    pub async fn put(&self, key: &str, path: &Path) -> Result<(String, u64), Failure> {
        check_key(key)?;
        let unreadable = |error: std::io::Error| {
            storage_failure(&format!("{} cannot be read", path.display()), &error)
        };
        let mut file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        let unwritable = |error: opendal::Error| {
            storage_failure(&format!("The artifact {key} cannot be stored"), &error)
        };
        let mut writer = self.operator.writer(key).await.map_err(unwritable)?;
        let (mut hasher, mut size) = (blake3::Hasher::new(), 0);
        let copied = loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            match (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).await {
                Ok(0) => break Ok(()),
                Ok(read) => size += read as u64,
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
            // The half-written part is of no use; that it could not be removed would change nothing.
            let _ = writer.abort().await;
            return Err(failure);
        }
        if let Some(folder) = &self.folder {
            // Later tasks get the file itself: none may change it. Without this, none should.
            let _ = std::fs::set_permissions(folder.join(key), Permissions::from_mode(0o444));
        }
        Ok((hasher.finalize().to_hex().to_string(), size))
    }

    /// A path on this machine that holds the artifact: the stored file itself, or a copy below
    /// `folder`.
    pub async fn local(&self, output: &Output, folder: &Path) -> Result<PathBuf, Failure> {
        check_key(&output.key)?;
        if let Some(root) = &self.folder {
            let path = root.join(&output.key);
            let size = tokio::fs::metadata(&path).await.map(|meta| meta.len());
            return match size {
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
            };
        }
        let path = folder.join(&output.digest);
        if !tokio::fs::try_exists(&path).await.unwrap_or(false) {
            self.fetch(output, &path).await?;
        }
        Ok(path)
    }

    async fn fetch(&self, output: &Output, path: &Path) -> Result<(), Failure> {
        let unwritable = |error: std::io::Error| {
            storage_failure(&format!("{} cannot be written", path.display()), &error)
        };
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder).await.map_err(unwritable)?;
        }
        let part = path.with_extension("part");
        let mut hasher = blake3::Hasher::new();
        let mut file = tokio::fs::File::create(&part).await.map_err(unwritable)?;
        for start in (0..output.size_bytes).step_by(CHUNK_BYTES) {
            let range = start..(start + CHUNK_BYTES as u64).min(output.size_bytes);
            let read = self.operator.read_with(&output.key).range(range).await;
            let chunk = read.map_err(|error| missing(&output.key, &error))?.to_vec();
            hasher.update(&chunk);
            tokio::io::AsyncWriteExt::write_all(&mut file, &chunk).await.map_err(unwritable)?;
        }
        tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(unwritable)?;
        if hasher.finalize().to_hex().as_str() != output.digest {
            let message =
                format!("The artifact {} does not have the digest it should.", output.key);
            return Err(failure(FailureKind::Storage, message));
        }
        tokio::fs::rename(&part, path).await.map_err(unwritable)
    }
}

/// Keys are relative paths of plain names, so that none can lead out of the storage.
fn check_key(key: &str) -> Result<(), Failure> {
    let plain = |part: &str| !matches!(part, "" | "." | ".." | ".parts");
    let printable = !key.bytes().any(|byte| byte.is_ascii_control() || byte == b'\\');
    if key.len() <= KEY_BYTES_MAX && printable && key.split('/').all(plain) {
        return Ok(());
    }
    let message = format!("`{}` cannot be the key of an artifact.", key.escape_debug());
    Err(failure(FailureKind::Invalid, message))
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

/// A failure of storage, with what to do if the disk is full.
pub(crate) fn storage_failure(what: &str, error: &(dyn Error + 'static)) -> Failure {
    let cause = io_error(error);
    let full = cause.is_some_and(|error| {
        matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    });
    let message = if full {
        format!("{what}: the disk of this worker is full. Free some space and retry.")
    } else {
        let cause = cause.map_or_else(|| error.to_string(), ToString::to_string);
        format!("{what}: {cause}.")
    };
    failure(FailureKind::Storage, message)
}

fn io_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a std::io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stored_file_is_whole_and_has_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::in_folder(&folder.path().join("artifacts")).unwrap();
        let path = folder.path().join("a.bin");
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        std::fs::write(&path, &bytes).unwrap();
        let (digest, size_bytes) = artifacts.put("runs/1/a.bin", &path).await.unwrap();
        assert_eq!(size_bytes, 3_000_000);
        assert_eq!(digest, blake3::hash(&bytes).to_hex().to_string());
        let output = Output { name: "a".into(), key: "runs/1/a.bin".into(), digest, size_bytes };
        let local = artifacts.local(&output, folder.path()).await.unwrap();
        assert_eq!(std::fs::read(local).unwrap(), bytes);
        let remote = Artifacts { folder: None, ..artifacts.clone() };
        let copy = remote.local(&output, &folder.path().join("copies")).await.unwrap();
        assert_eq!(std::fs::read(copy).unwrap(), bytes);
        let leftovers = folder.path().join("artifacts/.parts");
        let leftovers = std::fs::read_dir(leftovers).map_or(0, Iterator::count);
        assert_eq!(leftovers, 0);
        let gone = Output { key: "runs/1/b.bin".into(), ..output };
        let failure = artifacts.local(&gone, folder.path()).await.unwrap_err();
        assert!(failure.message.contains("is gone"), "{failure:?}");
    }

    #[test]
    fn keys_cannot_lead_out_of_the_storage() {
        for bad in
            ["", "/etc/passwd", "a/../b", "a//b", "a/./b", "a/b/", "a\\b", "a\nb", ".parts/x"]
        {
            assert!(check_key(bad).is_err(), "{bad}");
        }
        assert!(check_key("runs/1/render/0/7/1-ab/frame.exr").is_ok());
    }

    #[test]
    fn a_full_disk_is_named() {
        let full = std::io::Error::from_raw_os_error(28);
        let failure = storage_failure("x cannot be stored", &full);
        assert_eq!(failure.kind, FailureKind::Storage);
        assert!(failure.message.contains("the disk of this worker is full"), "{failure:?}");
    }
}
