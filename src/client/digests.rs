//! Digests of local files: computed in parallel, and cached in the data folder by path, size and modification time, so
//! that a second submit reads only what is new.

use pictor_server::now_ms;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Name of the cache in the data folder.
const FILE: &str = "digests.json";
/// Most files in the cache.
const KNOWN_MAX: usize = 500_000;
/// A file that was modified this recently may be modified again within the same tick of its clock.
const FRESH_MS: i64 = 2_000;
/// Threads that read files, even if there are fewer processors: disks and networks are slow.
const READERS: std::ops::RangeInclusive<usize> = 4..=16;

/// Digest and size of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digest {
    /// BLAKE3 digest in hex.
    pub(crate) digest: String,
    /// Size of the file in bytes.
    pub(crate) size_bytes: u64,
}

/// A file that cannot be read, or that changes while it is being read.
#[derive(Debug, thiserror::Error)]
#[error("read {}: {source}", path.display())]
pub(crate) struct ReadError {
    path: PathBuf,
    source: std::io::Error,
}

/// The state of a file when its digest was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    size_bytes: u64,
    modified: (i64, i64),
    inode: u64,
}

/// The cache of digests.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    file: PathBuf,
    known: HashMap<String, (Seen, String)>,
    changed: bool,
}

impl Digests {
    /// Opens the cache of a data folder. An unreadable cache counts as empty.
    pub(crate) fn open(data: &Path) -> Self {
        let file = data.join(FILE);
        let text = std::fs::read(&file).unwrap_or_default();
        let known = serde_json::from_slice(&text).unwrap_or_default();
        Self { file, known, changed: false }
    }

    /// The digests of files. `read` is called repeatedly with the number of bytes read.
    pub(crate) fn of(
        &mut self,
        paths: &BTreeSet<PathBuf>,
        read: &(dyn Fn(u64) + Sync),
    ) -> Result<BTreeMap<PathBuf, Digest>, ReadError> {
        let paths: Vec<&PathBuf> = paths.iter().collect();
        let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(paths.len())));
        let known = &self.known;
        let work = || {
            while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                let taken = take(path, known, read);
                let failed = taken.is_err();
                done.lock().expect("nobody panics with it").push(((*path).clone(), taken));
                if failed {
                    next.store(paths.len(), Ordering::Relaxed);
                }
            }
        };
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        std::thread::scope(|scope| {
            for _ in 0..cpus.clamp(*READERS.start(), *READERS.end()).min(paths.len()) {
                scope.spawn(work);
            }
        });
        let mut digests = BTreeMap::new();
        let now_ms = now_ms();
        for (path, taken) in done.into_inner().expect("nobody panics with it") {
            let (seen, digest) =
                taken.map_err(|source| ReadError { path: path.clone(), source })?;
            let is_fresh = now_ms - seen.modified.0.saturating_mul(1000) < FRESH_MS;
            if let Some(name) = path.to_str().filter(|_| !is_fresh) {
                let before = self.known.insert(name.to_owned(), (seen, digest.clone()));
                self.changed |= before.is_none_or(|(before, _)| before != seen);
            }
            digests.insert(path, Digest { digest, size_bytes: seen.size_bytes });
        }
        Ok(digests)
    }

    /// Saves the cache. If that fails, the next submit takes longer.
    pub(crate) fn save(&self) {
        if !self.changed || self.known.len() > KNOWN_MAX {
            return;
        }
        let save = || -> std::io::Result<()> {
            let folder = self.file.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            serde_json::to_writer(std::io::BufWriter::new(&mut file), &self.known)?;
            file.persist(&self.file)?;
            Ok(())
        };
        if let Err(error) = save() {
            tracing::warn!(%error, "digests are not remembered in {}", self.file.display());
        }
    }
}

/// The digest of one file, computed now.
pub(crate) fn digest_of(path: &Path) -> std::io::Result<Digest> {
    let (seen, digest) = take(path, &HashMap::new(), &|_| ())?;
    Ok(Digest { digest, size_bytes: seen.size_bytes })
}

fn look(file: &std::fs::File) -> std::io::Result<Seen> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let modified = (meta.mtime(), meta.mtime_nsec());
    Ok(Seen { size_bytes: meta.size(), modified, inode: meta.ino() })
}

/// A file's digest, from the cache if the file has not changed.
fn take(
    path: &Path,
    known: &HashMap<String, (Seen, String)>,
    read: &(dyn Fn(u64) + Sync),
) -> std::io::Result<(Seen, String)> {
    let mut file = std::fs::File::open(path)?;
    let seen = look(&file)?;
    if let Some((before, digest)) = path.to_str().and_then(|name| known.get(name))
        && *before == seen
    {
        read(seen.size_bytes);
        return Ok((seen, digest.clone()));
    }
    let digested = pictor_artifacts::digest(&mut file, |count| {
        read(count as u64);
        true
    })?;
    if look(&file)? != seen {
        return Err(std::io::Error::other("it is being changed: try again when it is complete"));
    }
    Ok((seen, digested.digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, FileTimes};
    use std::time::{Duration, UNIX_EPOCH};

    /// A file with this modification time, in seconds since 1970.
    fn file(folder: &Path, name: &str, text: &str, second: u64) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        let time = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(second));
        File::options().write(true).open(&path).unwrap().set_times(time).unwrap();
        path
    }

    fn digests(known: &mut Digests, path: &Path) -> String {
        let of = known.of(&[path.to_path_buf()].into(), &|_| ()).unwrap();
        of[path].digest.clone()
    }

    #[test]
    fn a_digest_is_remembered_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), "a", "one", 1_000);
        let one = blake3::hash(b"one").to_hex().to_string();
        let mut first = Digests::open(folder.path());
        assert_eq!(digests(&mut first, &path), one);
        first.save();
        // Same size, same time: the change cannot be noticed, and the file is not read again.
        file(folder.path(), "a", "two", 1_000);
        let mut second = Digests::open(folder.path());
        assert_eq!(digests(&mut second, &path), one);
        file(folder.path(), "a", "two", 1_001);
        assert_eq!(digests(&mut second, &path), blake3::hash(b"two").to_hex().to_string());
    }

    #[test]
    fn a_file_that_was_just_changed_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "one").unwrap();
        let mut known = Digests::open(folder.path());
        digests(&mut known, &path);
        assert!(known.known.is_empty());
    }

    #[test]
    fn thousands_of_tiny_files_are_read_and_one_that_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut paths: BTreeSet<PathBuf> =
            (0..3_000).map(|n| file(folder.path(), &n.to_string(), &n.to_string(), 9)).collect();
        let mut known = Digests::open(folder.path());
        let bytes = std::sync::atomic::AtomicU64::new(0);
        let of = known.of(&paths, &|n| _ = bytes.fetch_add(n, Ordering::Relaxed)).unwrap();
        assert_eq!((of.len(), known.known.len()), (3_000, 3_000));
        assert_eq!(bytes.into_inner(), of.values().map(|d| d.size_bytes).sum::<u64>());
        paths.insert(folder.path().join("gone"));
        let error = known.of(&paths, &|_| ()).unwrap_err().to_string();
        assert!(error.contains("/gone: "), "{error}");
    }
}
