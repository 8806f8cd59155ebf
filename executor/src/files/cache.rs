//! A cache of files on this machine, named by digest: `cache/<blake3>`. A packed scene is laid out as a tree of links
//! to them, so that relative paths in it work. The least recently used files are removed first, and those in use never.

mod files;
mod stock;
#[cfg(test)]
mod tests;

pub(crate) use files::{blocking, hash, link};

use crate::ground::failure::{failure, storage_failure};
use crate::ground::lock;
use crate::ground::progress::{Progress, StopSignal};
use files::{lay_out, read_manifest};
use pictor_artifacts::Stored;
use pictor_tasks::message::{Failure, FailureKind, FileRef};
use pictor_tasks::pack::{PackManifest, PackedFile, is_digest};
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use stock::{File, Stock, Tree, What};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The default size limit of a cache, in bytes.
pub const CACHE_BYTES: u64 = 20 << 30;
/// The most files that are transferred at a time, over all slots.
pub(crate) const TRANSFERS: usize = 16;

/// Receives the progress of a transfer, and can stop it.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) progress: Progress,
    pub(crate) stop: StopSignal,
}

impl Watch {
    /// Completes an operation, unless the task is stopped before it ends.
    pub(crate) async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            _ = self.stop.stopped() => Err(self.stop.failure()),
        }
    }
}

/// A file in the cache, with everything that belongs to it. It cannot be removed while this exists.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The path of the file; for a packed scene, that of the scene.
    pub(crate) path: PathBuf,
    /// The folder of a packed scene.
    pub(crate) tree: Option<PathBuf>,
    hold: Hold,
}

/// A cache of files. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    limit_bytes: u64,
    stock: Mutex<Stock>,
    /// One caller fetches a file, while others that want the same one wait.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    transfers: Semaphore,
    parts: AtomicU64,
}

/// Protects a file or a tree from removal.
#[derive(Debug)]
struct Hold {
    cache: Cache,
    what: What,
    /// False once a tree has taken over.
    armed: bool,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let mut stock = lock(&self.cache.0.stock);
        let holds = match &self.what {
            What::File(digest) => stock.files.get_mut(digest).map(|file| &mut file.holds),
            What::Tree(digest) => stock.trees.get_mut(digest).map(|tree| &mut tree.holds),
        };
        if let Some(holds) = holds {
            *holds = holds.saturating_sub(1);
        }
    }
}

/// A file or folder that is being written. It is removed unless it is moved to its final path.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let removed = match std::fs::symlink_metadata(&self.0) {
            Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&self.0),
            Ok(_) => std::fs::remove_file(&self.0),
            Err(_) => Ok(()),
        };
        if let Err(error) = removed {
            tracing::warn!(path = %self.0.display(), %error, "a part of the cache stays behind");
        }
    }
}

impl Cache {
    /// Opens a cache in a folder of its own, including what an earlier process left there. Files of an earlier process
    /// are verified before their first use: a power failure may have left them incomplete.
    pub(crate) fn open(folder: &Path, limit_bytes: u64) -> io::Result<Self> {
        for name in ["parts", "trees"] {
            match std::fs::remove_dir_all(folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => std::fs::create_dir_all(folder.join(name))?,
            }
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let (name, meta) =
                (entry.file_name().to_string_lossy().into_owned(), entry.metadata()?);
            if meta.is_file() && is_digest(&name) {
                found.push((meta.modified()?, name, meta.len()));
            }
        }
        found.sort();
        let mut stock = Stock::default();
        for (_, digest, size_bytes) in found {
            stock.clock += 1;
            stock.bytes += size_bytes;
            let used = stock.clock;
            stock.files.insert(digest, File { size_bytes, used, holds: 0, checked: false });
        }
        Ok(Self(Arc::new(Inner {
            folder: folder.to_owned(),
            limit_bytes,
            stock: Mutex::new(stock),
            turns: Mutex::default(),
            transfers: Semaphore::new(TRANSFERS),
            parts: AtomicU64::new(0),
        })))
    }

    /// The total size of all files.
    #[cfg(test)]
    pub(crate) fn size_bytes(&self) -> u64 {
        lock(&self.0.stock).bytes
    }

    /// A file, or the scene of a packed one with everything that belongs to it; with `only` just that one of its files,
    /// by its relative path. `fetch` downloads a file that is not here: it gets the digest and the path to write to.
    pub(crate) async fn scene<F, Fut>(
        &self,
        wanted: &FileRef,
        only: Option<&str>,
        fetch: F,
        watch: &Watch,
    ) -> Result<Kept, Failure>
    where
        F: Fn(PackedFile, PathBuf) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Stored, Failure>> + Send,
    {
        let FileRef { digest, size_bytes, .. } = wanted;
        if let Some(kept) = self.tree(digest).filter(|_| only.is_none()) {
            return Ok(kept);
        }
        let (path, digest, size_bytes) = (wanted.path.clone(), digest.clone(), *size_bytes);
        let wanted = PackedFile { path, digest, size_bytes };
        let digest = wanted.digest.clone();
        let bring = fetch.clone();
        let file = self.file(&digest, size_bytes, |part| bring(wanted, part)).await?;
        let path = file.path.clone();
        let Some(manifest) = blocking(move || read_manifest(&path)).await? else { return Ok(file) };
        if let Some(path) = only {
            let Some(file) = manifest.files.into_iter().find(|file| file.path == path) else {
                let message = format!("{path} is not among the files that were submitted.");
                return Err(failure(FailureKind::Invalid, message));
            };
            let digest = file.digest.clone();
            return self.file(&digest, file.size_bytes, |part| fetch(file, part)).await;
        }
        let made = Box::pin(async {
            match self.tree(&digest) {
                Some(kept) => Ok(kept),
                None => self.make_tree((&digest, file), manifest, fetch, watch).await,
            }
        });
        self.in_turn(&format!("tree of {digest}"), made).await
    }

    /// A file by its digest. `fetch` downloads it if it is not here.
    pub(crate) async fn file<Fut>(
        &self,
        digest: &str,
        size_bytes: u64,
        fetch: impl FnOnce(PathBuf) -> Fut + Send,
    ) -> Result<Kept, Failure>
    where
        Fut: Future<Output = Result<Stored, Failure>> + Send,
    {
        if let Some((kept, true)) = self.held(digest) {
            return Ok(kept);
        }
        if !is_digest(digest) {
            let message = format!("`{}` is no digest.", digest.escape_debug());
            return Err(failure(FailureKind::Invalid, message));
        }
        let work = Box::pin(self.checked_or_fetched(digest, size_bytes, fetch));
        self.in_turn(digest, work).await
    }

    /// Adds a file that was made here, as a link. If that fails, a later task downloads it. Blocks.
    pub(crate) fn adopt(&self, made: &Stored, path: &Path) {
        let part = self.part();
        let room = self.make_room(made.size_bytes);
        let linked = room.and_then(|()| std::fs::hard_link(path, &part.0));
        let kept = linked.and_then(|()| self.keep(&part, made, 0));
        if let Err(error) = kept {
            tracing::debug!(path = %path.display(), %error, "a result is not kept for later tasks");
        }
    }

    async fn checked_or_fetched<Fut>(
        &self,
        digest: &str,
        size_bytes: u64,
        fetch: impl FnOnce(PathBuf) -> Fut + Send,
    ) -> Result<Kept, Failure>
    where
        Fut: Future<Output = Result<Stored, Failure>> + Send,
    {
        let _transfer = self.0.transfers.acquire().await.expect("it is never closed");
        if let Some((kept, checked)) = self.held(digest) {
            let path = kept.path.clone();
            if checked || blocking(move || hash(&path)).await.is_ok_and(|f| f.digest == digest) {
                self.mark_checked(digest);
                return Ok(kept);
            }
            tracing::warn!(%digest, "a file of the cache was damaged and is fetched again");
            drop(kept);
            self.forget(digest);
        }
        let unwritable = |error: io::Error| storage_failure("The cache cannot be used", &error);
        let cache = self.clone();
        blocking(move || cache.make_room(size_bytes).map_err(unwritable)).await?;
        let part = self.part();
        let fetched = fetch(part.0.clone()).await?;
        if fetched.digest != digest {
            let message = format!("A file that should have the digest {digest} has another one.");
            return Err(failure(FailureKind::Storage, message));
        }
        self.keep(&part, &fetched, 1).map_err(unwritable)?;
        Ok(self.kept(digest))
    }

    /// Fetches all files of a packed scene, several at a time, and lays them out as a tree.
    async fn make_tree<F, Fut>(
        &self,
        (digest, list): (&str, Kept),
        manifest: PackManifest,
        fetch: F,
        watch: &Watch,
    ) -> Result<Kept, Failure>
    where
        F: Fn(PackedFile, PathBuf) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Stored, Failure>> + Send,
    {
        let mut held = self.fetch_all(&manifest, fetch, watch).await?;
        held.push(list);
        let part = self.part();
        let place = |file: PackedFile| (self.path(&file.digest), file.path);
        let places: Vec<(PathBuf, String)> = manifest.files.into_iter().map(place).collect();
        let unusable =
            |error: io::Error| storage_failure("A packed scene cannot be laid out", &error);
        let part = blocking(move || match lay_out(&part.0, &places) {
            Ok(()) => Ok(part),
            Err(error) => Err(unusable(error)),
        })
        .await?;
        // There is no await between this and what follows, so it cannot be cancelled halfway.
        std::fs::rename(&part.0, self.tree_folder(digest)).map_err(unusable)?;
        let mut stock = lock(&self.0.stock);
        let files = held.into_iter().filter_map(Kept::keep).collect();
        stock.clock += 1;
        let tree = Tree { scene: manifest.scene, files, used: stock.clock, holds: 0 };
        stock.trees.insert(digest.to_owned(), tree);
        drop(stock);
        Ok(self.tree(digest).expect("put there a moment ago, and never removed by another"))
    }

    async fn fetch_all<F, Fut>(
        &self,
        manifest: &PackManifest,
        fetch: F,
        watch: &Watch,
    ) -> Result<Vec<Kept>, Failure>
    where
        F: Fn(PackedFile, PathBuf) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Stored, Failure>> + Send,
    {
        let mut seen = HashSet::new();
        let mut files: Vec<PackedFile> =
            manifest.files.iter().filter(|file| seen.insert(&file.digest)).cloned().collect();
        let count = files.len();
        // The largest first, so that all transfers end at about the same time.
        files.sort_by_key(|file| file.size_bytes);
        let files = Arc::new(Mutex::new(files));
        let mut fetchers = JoinSet::new();
        for _ in 0..TRANSFERS.min(count) {
            let (cache, files, fetch, watch) =
                (self.clone(), files.clone(), fetch.clone(), watch.clone());
            fetchers.spawn(async move {
                let mut held = Vec::new();
                loop {
                    let next = lock(&files).pop();
                    let Some(file) = next else { return Ok(held) };
                    if watch.stop.reason().is_some() {
                        return Err(watch.stop.failure());
                    }
                    let (digest, size) = (file.digest.clone(), file.size_bytes);
                    held.push(cache.file(&digest, size, |part| fetch(file, part)).await?);
                    let done = count - lock(&files).len().min(count);
                    watch
                        .progress
                        .report(0.0, &format!("fetching the scene: {done}/{count} files"));
                }
            });
        }
        let mut held = Vec::with_capacity(count);
        while let Some(fetched) = fetchers.join_next().await {
            held.append(&mut fetched.map_err(io::Error::other).map_err(|error| {
                storage_failure("A file of the scene cannot be fetched", &error)
            })??);
        }
        Ok(held)
    }
}

impl Kept {
    /// Passes the hold of a file on to a tree, and ends this one.
    fn keep(mut self) -> Option<String> {
        let What::File(digest) = &self.hold.what else { return None };
        let digest = digest.clone();
        self.hold.armed = false;
        Some(digest)
    }
}
