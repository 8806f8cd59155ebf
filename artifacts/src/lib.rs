//! Artifacts: immutable bytes under a key, in a folder or in a bucket of an S3 service. An artifact appears as a whole:
//! a reader never sees part of one. Keys: `assets/<BLAKE3>` for inputs; for outputs
//! `runs/<run>/<step>/<generation>/<index>/<attempt>-<execution>/<file name>`, chosen by workers.

mod digest;
mod error;
mod folder;
mod key;
mod service;

pub use digest::{HashedFile, Hasher, Stored, digest, digest_file};
pub use error::{Error, disk_full, is_full};
pub use folder::lock;
pub use key::{ExecutionKey, asset_key, check_key, logs_folder, run_folder, step_folder};

use futures_util::TryStreamExt;
use opendal::options::WriteOptions;
use opendal::{EntryMode, ErrorKind, Metadata, Operator};
use pictor_net::random;
use service::Service;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::OnceCell;

/// Size of the pieces in which a file is read while it is copied: the memory that copying takes.
const PIECE_BYTES: usize = 1 << 20;
/// The folder for files that are still being written. No key begins with it.
const SCRATCH: &str = "tmp";

/// An artifact as [`Artifacts::list`] returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Key of the artifact, such as `assets/<BLAKE3>`.
    pub key: String,
    /// Size of the artifact in bytes.
    pub size_bytes: u64,
    /// When it was stored, in milliseconds since 1970 by the storage's clock; `None` if the storage does not say.
    pub modified_ms: Option<i64>,
}

/// A presigned request: until it expires, anyone who holds it can make it, because it carries its own signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// URL to send the request to, with its query.
    pub url: String,
    /// Headers that the request must carry: names and values.
    pub headers: BTreeMap<String, String>,
}

/// Artifact storage: a local folder or a bucket.
#[derive(Debug)]
pub struct Artifacts {
    operator: Operator,
    /// Signs requests that others make. It adds no checksums, because it never sees their bytes.
    signer: Option<Operator>,
    /// Location of the storage, as error messages name it.
    place: String,
    /// Path of the folder; `None` for a bucket.
    root: Option<PathBuf>,
    /// Size of the pieces that are transferred, in bytes, and how many are in flight at once.
    wire: (usize, usize),
    /// Whether the bucket leaves an artifact as it is if it is asked to, once that is known.
    keeps: OnceCell<bool>,
    /// Held so that no other process sweeps away this process's unfinished files.
    _lock: Option<File>,
}

impl Artifacts {
    /// Opens storage in a folder, given as a path or as `file:///path`, or in a bucket of an S3 service, given as
    /// `s3://bucket/prefix?endpoint=https://host&region=name`. `keys` are the key id and the secret for that service;
    /// without them they are looked up where AWS tools look. The service is not contacted yet: [`Self::check`] does
    /// that.
    pub fn open(place: &str, keys: Option<(&str, &str)>) -> Result<Self, Error> {
        if place.starts_with("s3://") {
            let service = service::s3(place, keys)?;
            return Ok(Self::over(service));
        }
        Self::folder(Path::new(place.strip_prefix("file://").unwrap_or(place)))
    }

    /// Opens storage in a folder, which is created if needed, and removes unfinished files of processes that have
    /// crashed. Several processes may use one folder.
    pub fn folder(root: &Path) -> Result<Self, Error> {
        service::folder(root).map(Self::over)
    }

    fn over(service: Service) -> Self {
        let Service { operator, signer, place, root, lock, wire } = service;
        Self { operator, signer, place, root, wire, keeps: OnceCell::new(), _lock: lock }
    }

    /// Checks that the service can be reached and accepts the credentials.
    pub async fn check(&self) -> Result<(), Error> {
        self.operator.check().await.map_err(|e| self.failed("", e))
    }

    /// Stores a file under `key`. An earlier artifact of this key is replaced as a whole.
    pub async fn put_file(&self, path: &Path, key: &str) -> Result<Stored, Error> {
        self.upload(path, key, Upload::default()).await
    }

    /// Stores a file under `key` unless an artifact is there: of several that are stored at the same time, the first one
    /// stays. Returns whether it is this file.
    pub async fn put_new(&self, path: &Path, key: &str) -> Result<bool, Error> {
        if self.exists(key).await? {
            return Ok(false);
        }
        let Some(root) = &self.root else {
            let is_new = self.keeps().await?;
            return match self.upload(path, key, Upload { is_new, ..Upload::default() }).await {
                Ok(_) => Ok(true),
                Err(Error::Exists(_)) => Ok(false),
                Err(error) => Err(error),
            };
        };
        let part = format!("{key}.{:016x}", random());
        self.upload(path, &part, Upload::default()).await?;
        let (from, to) = (root.join(&part), root.join(key));
        // Unlike a new name, a second one replaces nothing.
        let stored = match tokio::fs::hard_link(&from, &to).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            // Not every file system has second names.
            Err(_) if self.exists(key).await? => Ok(false),
            Err(_) => {
                return tokio::fs::rename(&from, &to)
                    .await
                    .map(|()| true)
                    .map_err(|e| Error::io(&to, e));
            }
        };
        self.remove(&part).await?;
        stored
    }

    /// Stores a file under its digest, unless it is there already.
    pub async fn put_asset(&self, path: &Path) -> Result<Stored, Error> {
        let stored = digest_file(path).await?;
        let key = asset_key(&stored.digest);
        if !self.exists(&key).await? {
            let expected = Some(&*stored.digest);
            self.upload(path, &key, Upload { expected, is_new: false }).await?;
        }
        Ok(stored)
    }

    /// Stores bytes under `key`.
    pub async fn put(&self, bytes: Vec<u8>, key: &str) -> Result<Stored, Error> {
        check_key(key)?;
        let mut hasher = Hasher::default();
        hasher.update(&bytes);
        self.operator.write(key, bytes).await.map_err(|e| self.failed(key, e))?;
        Ok(hasher.finish())
    }

    async fn upload(
        &self,
        path: &Path,
        key: &str,
        Upload { expected, is_new }: Upload<'_>,
    ) -> Result<Stored, Error> {
        check_key(key)?;
        let mut file = tokio::fs::File::open(path).await.map_err(|e| Error::io(path, e))?;
        let (chunk, at_once) = self.wire;
        let writer = self.operator.writer_with(key).chunk(chunk).concurrent(at_once);
        let writer = writer.if_not_exists(is_new);
        let mut writer = writer.await.map_err(|e| self.failed(key, e))?;
        let copied = async {
            let mut hasher = Hasher::default();
            while let Some(piece) = read_piece(&mut file, path).await? {
                hasher.update(&piece);
                writer.write(piece).await.map_err(|e| self.failed(key, e))?;
            }
            let stored = hasher.finish();
            if expected.is_some_and(|expected| expected != stored.digest) {
                let place = path.display();
                return Err(Error::Invalid(format!("`{place}` was changed while it was stored")));
            }
            writer.close().await.map_err(|e| self.failed(key, e))?;
            Ok(stored)
        };
        let copied = copied.await;
        if copied.is_err() {
            // The first error matters more than one from tidying up after it.
            writer.abort().await.ok();
        }
        copied
    }

    /// Copies an artifact to a file. The file appears only when it is complete and has this digest; with another digest
    /// the error is [`Error::Corrupt`].
    pub async fn fetch(&self, key: &str, to: &Path, digest: &str) -> Result<Stored, Error> {
        check_key(key)?;
        let size = self.size(key).await?;
        let mut part = to.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        if let Some(parent) = to.parent() {
            tokio::fs::create_dir_all(parent).await.map_err(|e| Error::io(parent, e))?;
        }
        let fetched = match self.download(key, size, &part).await {
            Ok(stored) if stored.digest == digest => {
                tokio::fs::rename(&part, to).await.map(|()| stored).map_err(|e| Error::io(to, e))
            }
            Ok(_) => Err(Error::Corrupt(format!("the artifact `{key}` has another digest"))),
            Err(error) => Err(error),
        };
        if fetched.is_err() {
            tokio::fs::remove_file(&part).await.ok();
        }
        fetched
    }

    async fn download(&self, key: &str, size: u64, part: &Path) -> Result<Stored, Error> {
        let failed = |e| self.failed(key, e);
        let (chunk, at_once) = self.wire;
        let reader = self.operator.reader_with(key).chunk(chunk).concurrent(at_once);
        let reader = reader.await.map_err(failed)?;
        let mut pieces = reader.into_stream(0..size).await.map_err(failed)?;
        let unwritable = |e| Error::io(part, e);
        let mut file = HashedFile::create(part).await.map_err(unwritable)?;
        while let Some(piece) = pieces.try_next().await.map_err(failed)? {
            for bytes in piece {
                file.write(&bytes).await.map_err(unwritable)?;
            }
        }
        let stored = file.finish().await.map_err(unwritable)?;
        if stored.size_bytes != size {
            return Err(Error::Corrupt(format!("the artifact `{key}` ended before its end")));
        }
        Ok(stored)
    }

    /// The BLAKE3 digest of an artifact, in hex. All of it is read.
    pub async fn digest(&self, key: &str) -> Result<String, Error> {
        let failed = |e| self.failed(key, e);
        let size = self.size(key).await?;
        let (chunk, at_once) = self.wire;
        let reader = self.operator.reader_with(key).chunk(chunk).concurrent(at_once);
        let reader = reader.await.map_err(failed)?;
        let mut pieces = reader.into_stream(0..size).await.map_err(failed)?;
        let mut hasher = blake3::Hasher::new();
        while let Some(piece) = pieces.try_next().await.map_err(failed)? {
            for bytes in piece {
                hasher.update(&bytes);
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// The path of an artifact in a local folder, whether it exists or not. Returns `None` for a bucket.
    pub fn local_path(&self, key: &str) -> Option<PathBuf> {
        check_key(key).ok()?;
        self.root.as_ref().map(|root| root.join(key))
    }

    /// Reads all bytes of an artifact.
    pub async fn read(&self, key: &str) -> Result<Vec<u8>, Error> {
        check_key(key)?;
        let bytes = self.operator.read(key).await.map_err(|e| self.failed(key, e))?;
        Ok(bytes.to_vec())
    }

    /// Reads the bytes of an artifact from `range.start` to before `range.end`; the artifact must be at least that
    /// long.
    pub async fn range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, Error> {
        check_key(key)?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = range.end - range.start;
        let read = self.operator.read_with(key).range(range);
        let bytes = read.await.map_err(|e| self.failed(key, e))?.to_vec();
        if bytes.len() as u64 == wanted {
            return Ok(bytes);
        }
        Err(Error::Invalid(format!("the artifact `{key}` has not that many bytes")))
    }

    /// A request that reads an artifact and is valid for `expiry`. Returns `None` if the storage cannot presign
    /// requests. Does not check whether the artifact exists.
    pub async fn presign_get(&self, key: &str, expiry: Duration) -> Result<Option<Link>, Error> {
        check_key(key)?;
        let Some(signer) = &self.signer else { return Ok(None) };
        let request = signer.presign_read(key, expiry).await.map_err(|e| self.failed(key, e))?;
        Ok(Some(link(&request)))
    }

    /// A request that stores an artifact and is valid for `expiry`. If an artifact of this key is there, it stays, and
    /// the response is 412. Returns `None` if the storage cannot presign requests, or replaces what is there whatever it
    /// is asked to do. Nobody checks the bytes that arrive this way, nor their number: the signature does not cover them.
    pub async fn presign_put(&self, key: &str, expiry: Duration) -> Result<Option<Link>, Error> {
        check_key(key)?;
        let Some(signer) = &self.signer else { return Ok(None) };
        if !self.keeps().await? {
            return Ok(None);
        }
        let new = WriteOptions { if_not_exists: true, ..WriteOptions::default() };
        let request = signer.presign_write_options(key, expiry, new).await;
        Ok(Some(link(&request.map_err(|e| self.failed(key, e))?)))
    }

    /// Whether the bucket leaves an artifact as it is if it is asked to: not every service that is compatible with S3
    /// does.
    async fn keeps(&self) -> Result<bool, Error> {
        let tried = async || {
            let key = format!("{SCRATCH}/replaced");
            self.operator.write(&key, "no").await.map_err(|e| self.failed(&key, e))?;
            match self.operator.write_with(&key, "yes").if_not_exists(true).await {
                Err(error) if error.kind() == ErrorKind::ConditionNotMatch => Ok(true),
                Err(error) if error.is_temporary() => Err(self.failed(&key, error)),
                Ok(_) | Err(_) => Ok(false),
            }
        };
        self.keeps.get_or_try_init(tried).await.copied()
    }

    /// The size of an artifact in bytes.
    pub async fn size(&self, key: &str) -> Result<u64, Error> {
        Ok(self.look_up(key).await?.content_length())
    }

    async fn look_up(&self, key: &str) -> Result<Metadata, Error> {
        check_key(key)?;
        let metadata = self.operator.stat(key).await.map_err(|e| self.failed(key, e))?;
        if metadata.mode() != EntryMode::FILE {
            return Err(Error::NotFound(format!("the artifact `{key}`")));
        }
        Ok(metadata)
    }

    /// Whether an artifact of this key exists.
    pub async fn exists(&self, key: &str) -> Result<bool, Error> {
        match self.size(key).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes an artifact. Does nothing if there is none.
    pub async fn remove(&self, key: &str) -> Result<(), Error> {
        check_key(key)?;
        self.operator.delete(key).await.map_err(|e| self.failed(key, e))
    }

    /// Removes those of `keys` that are below `folder`, a key without the final slash, and leaves all others alone. A
    /// key without an artifact is no error.
    pub async fn remove_below(&self, folder: &str, keys: &[String]) -> Result<(), Error> {
        check_key(folder)?;
        let below = |key: &&String| {
            let rest = key.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
            rest && check_key(key).is_ok()
        };
        let keys: Vec<String> = keys.iter().filter(below).cloned().collect();
        self.operator.delete_iter(keys.clone()).await.map_err(|e| self.failed(folder, e))?;
        let Some(root) = &self.root else { return Ok(()) };
        for key in keys {
            // Also the folders of the attempt and of its task, if nothing else is in them. A bucket has no folders.
            for parent in Path::new(&key).ancestors().skip(1).take(2) {
                if parent.as_os_str().len() <= folder.len()
                    || tokio::fs::remove_dir(root.join(parent)).await.is_err()
                {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Removes every artifact below `folder`, a key without the final slash.
    pub async fn remove_folder(&self, folder: &str) -> Result<(), Error> {
        check_key(folder)?;
        let removed = self.operator.delete_with(&format!("{folder}/")).recursive(true).await;
        removed.map_err(|e| self.failed(folder, e))
    }

    /// The names of the folders in `folder`, a key without the final slash, in order.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, Error> {
        check_key(folder)?;
        let start = format!("{folder}/");
        let entries = self.operator.list(&start).await.map_err(|e| self.failed(folder, e))?;
        let name = |entry: &opendal::Entry| {
            let name = entry.path().strip_prefix(&start)?.strip_suffix('/')?;
            Some(name.to_owned())
        };
        let mut names: Vec<String> = entries.iter().filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    /// Every artifact below `folder`, a key without the final slash, in order of key.
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
            let key = entry.path().to_owned();
            if self.root.is_none() {
                listed.push(Listed::new(key, entry.metadata()));
                continue;
            }
            // The listing of a folder has no sizes.
            match self.look_up(&key).await {
                Ok(metadata) => listed.push(Listed::new(key, &metadata)),
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

/// How a file is stored.
#[derive(Clone, Copy, Debug, Default)]
struct Upload<'a> {
    /// The digest that it has to have.
    expected: Option<&'a str>,
    /// Whether an artifact that is there stays instead.
    is_new: bool,
}

fn link(signed: &opendal::raw::PresignedRequest) -> Link {
    let headers = signed.header().iter().filter(|(name, _)| name.as_str() != "host");
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = headers.map(|(name, value)| (name.to_string(), text(value.as_bytes())));
    Link { url: signed.uri().to_string(), headers: headers.collect() }
}

impl Listed {
    fn new(key: String, metadata: &Metadata) -> Self {
        let modified = metadata.last_modified();
        let modified_ms = modified.map(|time| time.into_inner().as_millisecond());
        Self { key, size_bytes: metadata.content_length(), modified_ms }
    }
}

/// Reads the next piece of a file. Returns `None` at its end.
async fn read_piece(file: &mut tokio::fs::File, path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    file.take(PIECE_BYTES as u64).read_to_end(&mut piece).await.map_err(|e| Error::io(path, e))?;
    Ok((!piece.is_empty()).then_some(piece))
}
