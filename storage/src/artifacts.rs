//! Artifacts: immutable bytes under a key. A reader sees all of an artifact or nothing of it.
//!
//! Keys: `assets/<BLAKE3>` for inputs; for outputs
//! `runs/<run>/<step>/<generation>/<index>/<attempt>-<execution>/<file name>`, chosen by workers.

use crate::{Error, folder};
use opendal::{EntryMode, Operator, services};
use std::fs::File;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How much of a file is in memory while it is copied.
const PIECE_BYTES: usize = 1 << 20;
/// The longest key.
const KEY_BYTES_MAX: usize = 1024;
/// The longest part of a key between two slashes: what file systems accept, less the name that is
/// added while a file is written.
const PART_BYTES_MAX: usize = 200;
/// The folder for files that are being written. No key begins with it.
const SCRATCH: &str = "tmp";

/// What was stored or fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// BLAKE3 of the bytes, in hex.
    pub digest: String,
    /// Their number.
    pub size_bytes: u64,
}

/// An artifact in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its size.
    pub size_bytes: u64,
}

/// Artifact storage.
#[derive(Debug)]
pub struct Artifacts {
    operator: Operator,
    /// Where it is, for people.
    place: PathBuf,
    /// The folder, when it is one.
    root: Option<PathBuf>,
    /// Held so that nobody sweeps this process's unfinished files away.
    _lock: File,
}

impl Artifacts {
    /// Artifacts in a folder, which is created if needed. Unfinished files of processes that have
    /// crashed are removed. Several processes may use one folder.
    pub fn folder(root: &Path) -> Result<Self, Error> {
        let (lock, scratch) = folder::lock_scratch(&root.join(SCRATCH))?;
        let root = root.canonicalize().map_err(|e| Error::io(root, e))?;
        let text = |path: &Path| {
            path.to_str().map(str::to_owned).ok_or_else(|| {
                Error::Invalid(format!("the path `{}` is not UTF-8", path.display()))
            })
        };
        let service =
            services::Fs::default().root(&text(&root)?).atomic_write_dir(&text(&scratch)?);
        let operator = Operator::new(service).map_err(|e| Error::artifact(&root, "", e))?;
        Ok(Self { operator, place: root.clone(), root: Some(root), _lock: lock })
    }

    /// Stores a file under `key`. What was there before is replaced as a whole.
    pub async fn put_file(&self, path: &Path, key: &str) -> Result<Stored, Error> {
        self.upload(path, key, None).await
    }

    /// Stores a file under its digest, unless it is there already.
    pub async fn put_asset(&self, path: &Path) -> Result<Stored, Error> {
        let stored = digest_file(path).await?;
        let key = asset_key(&stored.digest);
        if !self.exists(&key).await? {
            self.upload(path, &key, Some(&stored.digest)).await?;
        }
        Ok(stored)
    }

    /// Stores bytes under `key`.
    pub async fn put(&self, bytes: Vec<u8>, key: &str) -> Result<Stored, Error> {
        check_key(key)?;
        let stored = Stored {
            digest: blake3::hash(&bytes).to_hex().to_string(),
            size_bytes: bytes.len() as u64,
        };
        self.operator.write(key, bytes).await.map_err(|e| self.failed(key, e))?;
        Ok(stored)
    }

    async fn upload(
        &self,
        path: &Path,
        key: &str,
        expected: Option<&str>,
    ) -> Result<Stored, Error> {
        check_key(key)?;
        let mut file = tokio::fs::File::open(path).await.map_err(|e| Error::io(path, e))?;
        let mut writer = self.operator.writer(key).await.map_err(|e| self.failed(key, e))?;
        let copied = async {
            let (mut hasher, mut size_bytes) = (blake3::Hasher::new(), 0);
            while let Some(piece) = read_piece(&mut file, path).await? {
                hasher.update(&piece);
                size_bytes += piece.len() as u64;
                writer.write(piece).await.map_err(|e| self.failed(key, e))?;
            }
            let digest = hasher.finalize().to_hex().to_string();
            if expected.is_some_and(|expected| expected != digest) {
                let place = path.display();
                return Err(Error::Invalid(format!("`{place}` was changed while it was stored")));
            }
            writer.close().await.map_err(|e| self.failed(key, e))?;
            Ok(Stored { digest, size_bytes })
        };
        let copied = copied.await;
        if copied.is_err() {
            // The error that is returned matters more than that of tidying up after it.
            writer.abort().await.ok();
        }
        copied
    }

    /// Copies an artifact to a file. The file appears when it is complete. The caller compares the
    /// digest with the one that it expects.
    pub async fn fetch(&self, key: &str, to: &Path) -> Result<Stored, Error> {
        check_key(key)?;
        let size = self.size(key).await?;
        let mut part = to.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        if let Some(parent) = to.parent() {
            tokio::fs::create_dir_all(parent).await.map_err(|e| Error::io(parent, e))?;
        }
        let fetched = match self.download(key, size, &part).await {
            Ok(stored) => {
                tokio::fs::rename(&part, to).await.map(|()| stored).map_err(|e| Error::io(to, e))
            }
            Err(error) => Err(error),
        };
        if fetched.is_err() {
            tokio::fs::remove_file(&part).await.ok();
        }
        fetched
    }

    async fn download(&self, key: &str, size: u64, part: &Path) -> Result<Stored, Error> {
        let reader = self.operator.reader(key).await.map_err(|e| self.failed(key, e))?;
        let mut file = tokio::fs::File::create(part).await.map_err(|e| Error::io(part, e))?;
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < size {
            let end = size.min(at + PIECE_BYTES as u64);
            let piece = reader.read(at..end).await.map_err(|e| self.failed(key, e))?;
            for bytes in piece {
                hasher.update(&bytes);
                file.write_all(&bytes).await.map_err(|e| Error::io(part, e))?;
            }
            at = end;
        }
        file.flush().await.map_err(|e| Error::io(part, e))?;
        Ok(Stored { digest: hasher.finalize().to_hex().to_string(), size_bytes: size })
    }

    /// The path of an artifact that lies in a local folder, whether it exists or not.
    pub fn local_path(&self, key: &str) -> Option<PathBuf> {
        check_key(key).ok()?;
        self.root.as_ref().map(|root| root.join(key))
    }

    /// The bytes of an artifact.
    pub async fn read(&self, key: &str) -> Result<Vec<u8>, Error> {
        check_key(key)?;
        let bytes = self.operator.read(key).await.map_err(|e| self.failed(key, e))?;
        Ok(bytes.to_vec())
    }

    /// The size of an artifact.
    pub async fn size(&self, key: &str) -> Result<u64, Error> {
        check_key(key)?;
        let metadata = self.operator.stat(key).await.map_err(|e| self.failed(key, e))?;
        if metadata.mode() != EntryMode::FILE {
            return Err(Error::NotFound(format!("the artifact `{key}`")));
        }
        Ok(metadata.content_length())
    }

    /// Whether there is such an artifact.
    pub async fn exists(&self, key: &str) -> Result<bool, Error> {
        match self.size(key).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes an artifact. Nothing happens if there is none.
    pub async fn remove(&self, key: &str) -> Result<(), Error> {
        check_key(key)?;
        self.operator.delete(key).await.map_err(|e| self.failed(key, e))
    }

    /// Every artifact below `folder`, a key without the last slash, in order of key.
    pub async fn list(&self, folder: &str) -> Result<Vec<Listed>, Error> {
        check_key(folder)?;
        let entries = self
            .operator
            .list_with(&format!("{folder}/"))
            .recursive(true)
            .await
            .map_err(|e| self.failed(folder, e))?;
        let mut listed = Vec::new();
        for entry in entries.into_iter().filter(|entry| !entry.path().ends_with('/')) {
            // A folder's list has no sizes.
            match self.size(entry.path()).await {
                Ok(size_bytes) => listed.push(Listed { key: entry.path().to_owned(), size_bytes }),
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(listed)
    }

    fn failed(&self, key: &str, error: opendal::Error) -> Error {
        Error::artifact(&self.place, key, error)
    }
}

/// The key of an asset.
pub fn asset_key(digest: &str) -> String {
    format!("assets/{digest}")
}

/// The digest and size of a file.
pub async fn digest_file(path: &Path) -> Result<Stored, Error> {
    let mut file = tokio::fs::File::open(path).await.map_err(|e| Error::io(path, e))?;
    let (mut hasher, mut size_bytes) = (blake3::Hasher::new(), 0);
    while let Some(piece) = read_piece(&mut file, path).await? {
        hasher.update(&piece);
        size_bytes += piece.len() as u64;
    }
    Ok(Stored { digest: hasher.finalize().to_hex().to_string(), size_bytes })
}

/// The next piece of a file; nothing at its end.
async fn read_piece(file: &mut tokio::fs::File, path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    file.take(PIECE_BYTES as u64).read_to_end(&mut piece).await.map_err(|e| Error::io(path, e))?;
    Ok((!piece.is_empty()).then_some(piece))
}

/// Checks that a key names one place inside the storage, on every kind of storage.
fn check_key(key: &str) -> Result<(), Error> {
    let bad_part =
        |part: &str| part.is_empty() || part == "." || part == ".." || part.len() > PART_BYTES_MAX;
    let reserved = key.split('/').next() == Some(SCRATCH);
    let bad_char = |c: char| c.is_control() || c == '\\';
    let bad = key.len() > KEY_BYTES_MAX || reserved || key.contains(bad_char);
    if bad || key.split('/').any(bad_part) {
        return Err(Error::Invalid(format!(
            "`{}` is not an artifact key: expected names with single slashes between them",
            key.escape_debug()
        )));
    }
    Ok(())
}
