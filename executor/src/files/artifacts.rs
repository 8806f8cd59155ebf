//! The worker's access to artifact storage: whole files in, whole files out, digests on the way. On one
//! machine the storage is a folder; on a farm a server says where things are.

use crate::farm::FarmStore;
use crate::files::cache::{CACHE_BYTES, Cache, Fetched, Kept, Watch, blocking, hash};
use crate::ground::failure::{failure, io_error, storage_failure};
use crate::ground::lock;
use opendal::{ErrorKind, Operator, services};
use pictor_tasks::message::{Execution, Failure, FailureKind, FileRef, Output, StepKey, Try};
use pictor_tasks::pack::PackedFile;
use std::error::Error;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::io::AsyncReadExt;

/// How much is read, hashed and written at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// The longest key.
const KEY_BYTES_MAX: usize = 1_024;

/// Artifact storage as a worker sees it. Clones share it.
#[derive(Clone, Debug)]
pub struct Artifacts(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Folder(Folder),
    Farm(Arc<FarmStore>),
}

/// Artifacts of this machine alone.
#[derive(Clone, Debug)]
struct Folder {
    operator: Operator,
    path: PathBuf,
    /// Where packed scenes are laid out; opened when there is one.
    cache: Arc<Mutex<Option<Cache>>>,
}

/// Whose outputs and inputs they are: one execution of one task.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The step.
    pub key: &'a StepKey,
    /// The step's name.
    pub step: &'a str,
    /// The task and its attempt.
    pub task: Try,
    /// The execution.
    pub execution: Execution,
}

impl Place<'_> {
    /// The key of a file of it.
    fn file(&self, file: &str) -> String {
        let (StepKey { run, generation, .. }, Try { index, attempt }) = (self.key, self.task);
        let (step, execution) = (self.step, self.execution.0);
        format!("runs/{run}/{step}/{generation}/{index}/{attempt}-{execution:016x}/{file}")
    }
}

impl Artifacts {
    /// Artifacts in a local folder. A file appears there when it is whole.
    pub fn in_folder(folder: &Path) -> Result<Self, Failure> {
        let unusable = |error: &(dyn Error + 'static)| {
            storage_failure("Artifact storage cannot be used", error)
        };
        std::fs::create_dir_all(folder).map_err(|error| unusable(&error))?;
        let path = folder.canonicalize().map_err(|error| unusable(&error))?;
        let root = crate::ground::text_of(&path)?;
        let parts = format!("{root}/.parts");
        let service = services::Fs::default().root(&root).atomic_write_dir(&parts);
        let operator = Operator::new(service).map_err(|error| unusable(&error))?;
        Ok(Self(Kind::Folder(Folder { operator, path, cache: Arc::default() })))
    }

    /// Artifacts of a farm.
    pub(crate) fn of_farm(store: Arc<FarmStore>) -> Self {
        Self(Kind::Farm(store))
    }

    /// Stores a file. Gives its key, its BLAKE3 digest in hex and its size.
    pub(crate) async fn put(
        &self,
        place: Place<'_>,
        file: &str,
        path: &Path,
        watch: &Watch,
    ) -> Result<(String, Fetched), Failure> {
        let key = place.file(file);
        check_key(&key)?;
        match &self.0 {
            Kind::Folder(folder) => Ok((key.clone(), folder.put(&key, path).await?)),
            Kind::Farm(store) => tokio::select! {
                stored = store.put(place, file, path, watch) => stored,
                _ = watch.stop.stopped() => Err(watch.stop.failure()),
            },
        }
    }

    /// A path on this machine that holds an artifact which the task reads: the stored file itself, or one
    /// below `folder`.
    pub(crate) async fn local(
        &self,
        place: Place<'_>,
        output: &Output,
        folder: &Path,
        watch: &Watch,
    ) -> Result<PathBuf, Failure> {
        check_key(&output.key)?;
        let store = match &self.0 {
            Kind::Folder(folder) => return folder.local(output).await,
            Kind::Farm(store) => store,
        };
        // Programs look at the extension.
        let name = Path::new(&output.key).file_name().unwrap_or_default();
        let path = folder.join(&output.digest).join(name);
        if tokio::fs::try_exists(&path).await.unwrap_or(false) {
            return Ok(path);
        }
        let fetch = async |part: PathBuf| store.input(place, output, &part, watch).await;
        let kept = tokio::select! {
            kept = store.cache.file(&output.digest, output.size_bytes, fetch) => kept?,
            _ = watch.stop.stopped() => return Err(watch.stop.failure()),
        };
        let to = path.clone();
        blocking(move || {
            let linked = std::fs::create_dir_all(to.parent().unwrap_or(&to))
                .and_then(|()| std::fs::hard_link(&kept.path, &to))
                .or_else(|_| std::fs::copy(&kept.path, &to).map(drop));
            linked.map_err(|error| storage_failure("An input cannot be put into its place", &error))
        })
        .await?;
        Ok(path)
    }

    /// A file that the job was submitted with, and all that belongs to it. Nothing: it is the one that
    /// lies at its path on this machine.
    pub(crate) async fn scene(
        &self,
        file: &FileRef,
        watch: &Watch,
    ) -> Result<Option<Kept>, Failure> {
        self.submitted(file, None, watch).await
    }

    /// The same, but only one file of all that belongs to it, by its path there.
    pub(crate) async fn scene_file(
        &self,
        file: &FileRef,
        path: &str,
        watch: &Watch,
    ) -> Result<Option<Kept>, Failure> {
        self.submitted(file, Some(path), watch).await
    }

    async fn submitted(
        &self,
        file: &FileRef,
        only: Option<&str>,
        watch: &Watch,
    ) -> Result<Option<Kept>, Failure> {
        let kept = match &self.0 {
            Kind::Folder(folder) => {
                let assets = folder.path.join("assets");
                if !assets.join(&file.digest).is_file() {
                    return Ok(None);
                }
                let cache = folder.cache()?;
                let fetch = move |file: PackedFile, part: PathBuf| {
                    let asset = assets.join(&file.digest);
                    blocking(move || link_asset(&asset, &part))
                };
                return cache.scene(file, only, fetch, watch).await.map(Some);
            }
            Kind::Farm(store) => {
                let (from, watched) = (store.clone(), watch.clone());
                let fetch = move |file: PackedFile, part: PathBuf| {
                    let (store, watch) = (from.clone(), watched.clone());
                    async move { store.asset(&file.digest, &part, &watch).await }
                };
                store.cache.scene(file, only, fetch, watch)
            }
        };
        tokio::select! {
            kept = kept => kept.map(Some),
            _ = watch.stop.stopped() => Err(watch.stop.failure()),
        }
    }

    /// The task is over.
    pub(crate) fn forget(&self, key: &StepKey, task: Try) {
        if let Kind::Farm(store) = &self.0 {
            store.forget(key, task);
        }
    }
}

impl Folder {
    async fn put(&self, key: &str, path: &Path) -> Result<Fetched, Failure> {
        let unreadable = |error: std::io::Error| {
            storage_failure(&format!("{} cannot be read", path.display()), &error)
        };
        let mut file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        let unwritable = |error: opendal::Error| {
            storage_failure(&format!("The artifact {key} cannot be stored"), &error)
        };
        let mut writer = self.operator.writer(key).await.map_err(unwritable)?;
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
            // The half-written part is of no use; that it could not be removed would change nothing.
            let _ = writer.abort().await;
            return Err(failure);
        }
        // Later tasks get the file itself: none may change it. Without this, none should.
        let _ = std::fs::set_permissions(self.path.join(key), Permissions::from_mode(0o444));
        Ok(Fetched { digest: hasher.finalize().to_hex().to_string(), size_bytes })
    }

    async fn local(&self, output: &Output) -> Result<PathBuf, Failure> {
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

/// Brings an asset of this machine's own storage in.
fn link_asset(asset: &Path, part: &Path) -> Result<Fetched, Failure> {
    let linked = std::fs::hard_link(asset, part).or_else(|_| std::fs::copy(asset, part).map(drop));
    linked.map_err(|error| storage_failure("An asset cannot be read", &error))?;
    hash(part)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::progress::{Activity, Progress, Stopper};
    use pictor_tasks::message::RunId;

    #[tokio::test]
    async fn a_stored_file_is_whole_and_has_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::in_folder(&folder.path().join("artifacts")).unwrap();
        let path = folder.path().join("a.bin");
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        std::fs::write(&path, &bytes).unwrap();
        let key = StepKey { run: RunId("r".into()), step: 0, generation: 0 };
        let task = Try { index: 7, attempt: 1 };
        let place = Place { key: &key, step: "render", task, execution: Execution(255) };
        let watch = Watch { progress: Progress::new(Activity::new()).0, stop: Stopper::new().1 };
        let (key, made) = artifacts.put(place, "a.bin", &path, &watch).await.unwrap();
        assert_eq!(key, "runs/r/render/0/7/1-00000000000000ff/a.bin");
        let Fetched { digest, size_bytes } = made;
        assert_eq!(size_bytes, 3_000_000);
        assert_eq!(digest, blake3::hash(&bytes).to_hex().to_string());
        let output = Output { name: "a".into(), key, digest, size_bytes };
        let local = artifacts.local(place, &output, folder.path(), &watch).await.unwrap();
        assert_eq!(std::fs::read(local).unwrap(), bytes);
        let leftovers = folder.path().join("artifacts/.parts");
        let leftovers = std::fs::read_dir(leftovers).map_or(0, Iterator::count);
        assert_eq!(leftovers, 0);
        let gone = Output { key: "runs/1/b.bin".into(), ..output };
        let failure = artifacts.local(place, &gone, folder.path(), &watch).await.unwrap_err();
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
}
