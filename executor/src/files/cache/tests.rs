//! What the cache fetches, removes, and keeps.

use super::{Cache, Kept, Watch, hash};
use crate::ground::progress::{Activity, Progress, Stopper};
use pictor_artifacts::Stored;
use pictor_tasks::message::{Failure, FailureKind, FileRef};
use pictor_tasks::pack::{PackManifest, PackedFile};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

/// The files of a server, and how often each was requested.
#[derive(Clone, Default)]
struct Server {
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    fn add(&self, bytes: &[u8]) -> FileRef {
        let digest = blake3::hash(bytes).to_hex().to_string();
        self.files.lock().unwrap().insert(digest.clone(), bytes.to_vec());
        FileRef { path: "x".into(), digest, size_bytes: bytes.len() as u64 }
    }

    fn packed(&self, path: &str, bytes: &[u8]) -> PackedFile {
        let FileRef { digest, size_bytes, .. } = self.add(bytes);
        PackedFile { path: path.into(), digest, size_bytes }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    async fn give(self, file: PackedFile, part: PathBuf) -> Result<Stored, Failure> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let bytes = self.files.lock().unwrap().get(&file.digest).cloned();
        let bytes = bytes.ok_or_else(|| crate::failure(FailureKind::Storage, "gone"))?;
        std::fs::write(&part, bytes).unwrap();
        hash(&part)
    }
}

async fn get(cache: &Cache, server: &Server, file: &FileRef) -> Result<Kept, Failure> {
    get_of(cache, server, file, None).await
}

async fn get_of(
    cache: &Cache,
    server: &Server,
    file: &FileRef,
    only: Option<&str>,
) -> Result<Kept, Failure> {
    let (progress, _) = Progress::new(Activity::new());
    let watch = Watch { progress, stop: Stopper::new().1 };
    let server = server.clone();
    cache.scene(file, only, move |file, part| server.clone().give(file, part), &watch).await
}

fn open(folder: &Path, limit_bytes: u64) -> Cache {
    Cache::open(&folder.join("cache"), limit_bytes).unwrap()
}

#[tokio::test]
async fn a_file_is_fetched_once_however_many_want_it_at_a_time() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::default());
    let cache = open(folder.path(), 1000);
    let file = server.add(b"scene");
    let (one, two, three) =
        tokio::join!(get(&cache, &server, &file), get(&cache, &server, &file), async {
            get(&cache, &server, &file).await
        });
    for kept in [one, two, three] {
        assert_eq!(std::fs::read(kept.unwrap().path).unwrap(), b"scene");
    }
    assert_eq!((server.asked(), cache.size_bytes()), (1, 5));
}

#[tokio::test]
async fn what_was_not_used_for_longest_goes_first_and_what_is_in_use_stays() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::default());
    let cache = open(folder.path(), 100);
    let files: Vec<FileRef> = (0..4).map(|n| server.add(&[n; 30])).collect();
    let first = get(&cache, &server, &files[0]).await.unwrap();
    for file in [&files[1], &files[2], &files[1]] {
        drop(get(&cache, &server, file).await.unwrap());
    }
    // The first is in use, the second was used after the third.
    drop(get(&cache, &server, &files[3]).await.unwrap());
    let there = |n: usize| folder.path().join("cache").join(&files[n].digest).exists();
    assert_eq!([0, 1, 2, 3].map(there), [true, true, false, true]);
    assert_eq!(cache.size_bytes(), 90);
    // More is in use than the limit allows.
    let large = server.add(&[9; 200]);
    let large = get(&cache, &server, &large).await.unwrap();
    assert!(large.path.exists() && first.path.exists());
    assert_eq!(cache.size_bytes(), 230);
    drop((first, large));
    drop(get(&cache, &server, &files[2]).await.unwrap());
    assert_eq!(cache.size_bytes(), 30);
}

#[tokio::test]
async fn a_packed_scene_is_a_tree_that_goes_as_a_whole() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::default());
    let cache = open(folder.path(), 1000);
    let files = vec![
        server.packed("scenes/a.blend", b"BLENDER-a"),
        server.packed("textures/wood.png", b"wood"),
        server.packed("textures/again.png", b"wood"),
        server.packed("_abs/home/x/sky.exr", b"sky"),
    ];
    let manifest = PackManifest::new("scenes/a.blend".into(), files).unwrap();
    let list = server.add(&manifest.to_json());
    let kept = get(&cache, &server, &list).await.unwrap();
    let tree = kept.tree.clone().unwrap();
    assert_eq!(tree, folder.path().join("cache/trees").join(&list.digest));
    assert_eq!(kept.path, tree.join("scenes/a.blend"));
    for (path, bytes) in [
        ("scenes/a.blend", "BLENDER-a"),
        ("scenes/../textures/wood.png", "wood"),
        ("textures/again.png", "wood"),
        ("_abs/home/x/sky.exr", "sky"),
    ] {
        assert_eq!(std::fs::read_to_string(tree.join(path)).unwrap(), bytes);
    }
    assert_eq!(server.asked(), 4);
    let again = get(&cache, &server, &list).await.unwrap();
    assert_eq!((again.path.clone(), server.asked()), (kept.path.clone(), 4));
    // The files of a tree in use are kept; for one that is not, tree and files are removed.
    let large = server.add(&[1; 990]);
    drop(get(&cache, &server, &large).await.unwrap());
    assert!(tree.join("textures/wood.png").exists());
    drop((kept, again));
    drop(get(&cache, &server, &server.add(&[2; 990])).await.unwrap());
    assert!(!tree.exists());
    assert_eq!(cache.size_bytes(), 990);
    assert_eq!(std::fs::read_dir(folder.path().join("cache/parts")).unwrap().count(), 0);
}

#[tokio::test]
async fn one_file_of_many_is_fetched_without_the_others() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::default());
    let cache = open(folder.path(), 10_000);
    let one = |n: u32| server.packed(&format!("s_{n:04}.png"), format!("picture {n}").as_bytes());
    let files = (1..=20).map(one).collect();
    let list = server.add(&PackManifest::new("s_0001.png".into(), files).unwrap().to_json());
    for _ in 0..2 {
        let kept = get_of(&cache, &server, &list, Some("s_0007.png")).await.unwrap();
        assert_eq!(std::fs::read_to_string(&kept.path).unwrap(), "picture 7");
        assert_eq!((server.asked(), kept.tree.is_none()), (2, true), "it and the list");
    }
    let missing = get_of(&cache, &server, &list, Some("s_0021.png")).await.unwrap_err();
    assert!(missing.message.starts_with("s_0021.png is not among"), "{missing:?}");
    drop(get(&cache, &server, &list).await.unwrap());
    assert_eq!(server.asked(), 21);
    // After that, a single file of them need not be fetched, either.
    get_of(&cache, &server, &list, Some("s_0009.png")).await.unwrap();
    assert_eq!(server.asked(), 21);
}

#[tokio::test]
async fn a_tree_that_lacks_a_file_is_not_there_at_all() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::default());
    let cache = open(folder.path(), 1000);
    let missing = PackedFile { path: "b".into(), digest: "0f".repeat(32), size_bytes: 1 };
    let files = vec![server.packed("a.blend", b"a"), missing];
    let list = server.add(&PackManifest::new("a.blend".into(), files).unwrap().to_json());
    assert_eq!(get(&cache, &server, &list).await.unwrap_err().message, "gone");
    assert_eq!(std::fs::read_dir(folder.path().join("cache/trees")).unwrap().count(), 0);
    // None of it is held.
    drop(get(&cache, &server, &server.add(&[2; 990])).await.unwrap());
    assert_eq!(cache.size_bytes(), 990);
}

#[tokio::test]
async fn files_of_an_earlier_process_are_used_if_they_are_whole() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::default());
    let (good, torn) = (server.add(b"good"), server.add(b"torn"));
    let cache = open(folder.path(), 1000);
    for file in [&good, &torn] {
        drop(get(&cache, &server, file).await.unwrap());
    }
    drop(cache);
    let path = folder.path().join("cache").join(&torn.digest);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "to").unwrap();
    let cache = open(folder.path(), 1000);
    assert_eq!(cache.size_bytes(), 6);
    for file in [&good, &torn] {
        drop(get(&cache, &server, file).await.unwrap());
    }
    assert_eq!((server.asked(), cache.size_bytes()), (3, 8));
    assert_eq!(std::fs::read(&path).unwrap(), b"torn");
}

#[tokio::test]
async fn a_result_that_was_made_here_is_not_fetched() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::default());
    let cache = open(folder.path(), 1000);
    let made = folder.path().join("frame.exr");
    std::fs::write(&made, "frame").unwrap();
    let fetched = hash(&made).unwrap();
    cache.adopt(&fetched, &made);
    let Stored { digest, size_bytes } = fetched;
    let kept = get(&cache, &server, &FileRef { path: "x".into(), digest, size_bytes }).await;
    assert_eq!(std::fs::read(kept.unwrap().path).unwrap(), b"frame");
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn twenty_thousand_small_files_are_a_matter_of_seconds() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::default());
    let cache = open(folder.path(), 1 << 30);
    let mut files = vec![server.packed("a.blend", b"BLENDER")];
    for number in 0..20_000_u32 {
        let path = format!("cache/{}/{number:05}.vdb", number % 100);
        files.push(server.packed(&path, &number.to_le_bytes()));
    }
    let list = server.add(&PackManifest::new("a.blend".into(), files).unwrap().to_json());
    let started = Instant::now();
    let kept = get(&cache, &server, &list).await.unwrap();
    let took = started.elapsed();
    eprintln!("20,000 files in {took:?}");
    assert!(kept.tree.unwrap().join("cache/99/19999.vdb").exists());
    assert!(took.as_secs() < 30, "{took:?}");
}
