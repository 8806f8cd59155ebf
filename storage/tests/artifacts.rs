//! Artifacts in a folder.

use pictor_storage::artifacts::{asset_key, digest_file};
use pictor_storage::{Artifacts, Error};
use std::fs;
use tempfile::TempDir;

const KEY: &str = "runs/r1/render/0/7/1-99/image.exr";

#[tokio::test]
async fn a_file_comes_back_as_it_was() {
    let dir = TempDir::new().unwrap();
    let artifacts = Artifacts::folder(&dir.path().join("store")).unwrap();
    for size in [0, 1, 1 << 20, (5 << 20) + 3] {
        let bytes: Vec<u8> = (0..size).map(|n: u32| n.to_le_bytes()[n as usize % 3]).collect();
        let (from, to) = (dir.path().join("from"), dir.path().join("a/b/to"));
        fs::write(&from, &bytes).unwrap();
        let stored = artifacts.put_file(&from, KEY).await.unwrap();
        assert_eq!(stored.digest, blake3::hash(&bytes).to_hex().to_string());
        assert_eq!(stored.size_bytes, u64::from(size));
        assert_eq!(stored, digest_file(&from).await.unwrap());
        assert_eq!(artifacts.fetch(KEY, &to).await.unwrap(), stored);
        assert_eq!(fs::read(&to).unwrap(), bytes);
        assert_eq!(artifacts.read(KEY).await.unwrap(), bytes);
        assert_eq!(fs::read(artifacts.local_path(KEY).unwrap()).unwrap(), bytes);
    }
    assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1, "no part is left");
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let dir = TempDir::new().unwrap();
    let artifacts = Artifacts::folder(dir.path()).unwrap();
    let to = dir.path().join("to");
    assert!(!artifacts.exists(KEY).await.unwrap());
    assert!(matches!(artifacts.read(KEY).await, Err(Error::NotFound(_))));
    assert!(matches!(artifacts.fetch(KEY, &to).await, Err(Error::NotFound(_))));
    assert!(!to.exists());
    let missing = artifacts.put_file(&to, KEY).await;
    assert!(matches!(missing, Err(Error::NotFound(_))));
    assert!(!artifacts.exists(KEY).await.unwrap());
    artifacts.remove(KEY).await.unwrap();
    artifacts.put(b"x".to_vec(), KEY).await.unwrap();
    assert!(artifacts.exists(KEY).await.unwrap());
    assert!(!artifacts.exists("runs/r1").await.unwrap(), "a folder is no artifact");
    artifacts.remove(KEY).await.unwrap();
    assert!(!artifacts.exists(KEY).await.unwrap());
}

#[tokio::test]
async fn an_asset_is_stored_once() {
    let dir = TempDir::new().unwrap();
    let artifacts = Artifacts::folder(&dir.path().join("store")).unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    fs::write(&a, "scene").unwrap();
    fs::write(&b, "scene").unwrap();
    let stored = artifacts.put_asset(&a).await.unwrap();
    let key = asset_key(&stored.digest);
    let modified =
        || fs::metadata(artifacts.local_path(&key).unwrap()).unwrap().modified().unwrap();
    let before = modified();
    assert_eq!(artifacts.put_asset(&b).await.unwrap(), stored);
    assert_eq!(modified(), before);
    let listed = artifacts.list("assets").await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].key.as_str(), listed[0].size_bytes), (key.as_str(), 5));
}

#[tokio::test]
async fn a_list_has_every_artifact_below_the_folder_in_order() {
    let dir = TempDir::new().unwrap();
    let artifacts = Artifacts::folder(dir.path()).unwrap();
    for key in ["runs/b/2", "runs/a/2", "runs/a/1/x", "runs/ab/1"] {
        artifacts.put(key.as_bytes().to_vec(), key).await.unwrap();
    }
    let keys = |folder: &'static str| {
        let list = artifacts.list(folder);
        async move { list.await.unwrap().into_iter().map(|l| l.key).collect::<Vec<_>>() }
    };
    assert_eq!(keys("runs/a").await, ["runs/a/1/x", "runs/a/2"]);
    assert_eq!(keys("runs").await, ["runs/a/1/x", "runs/a/2", "runs/ab/1", "runs/b/2"]);
    assert!(keys("nothing").await.is_empty());
}

#[tokio::test]
async fn a_key_cannot_leave_the_storage() {
    let dir = TempDir::new().unwrap();
    let artifacts = Artifacts::folder(&dir.path().join("store")).unwrap();
    let long = "x".repeat(201);
    for key in [
        "",
        "/",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "./a",
        "a//b",
        "a/",
        "a\\b",
        "a\nb",
        "a\0",
        "tmp/0/x",
        "tmp",
        &long,
    ] {
        let stored = artifacts.put(b"x".to_vec(), key).await;
        assert!(matches!(stored, Err(Error::Invalid(_))), "{key:?}: {stored:?}");
        assert!(matches!(artifacts.read(key).await, Err(Error::Invalid(_))), "{key:?}");
        assert!(matches!(artifacts.remove(key).await, Err(Error::Invalid(_))), "{key:?}");
        assert!(artifacts.local_path(key).is_none(), "{key:?}");
    }
    artifacts.put(b"x".to_vec(), "a/..b/tmp/größe 1.exr").await.unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn rubbish_of_the_dead_is_swept_but_not_that_of_the_living() {
    let dir = TempDir::new().unwrap();
    let living = Artifacts::folder(dir.path()).unwrap();
    let second = Artifacts::folder(dir.path()).unwrap();
    let (ours, dead) = (dir.path().join("tmp/0/half"), dir.path().join("tmp/1/half"));
    fs::write(&ours, "half").unwrap();
    fs::write(&dead, "half").unwrap();
    drop(second);
    let third = Artifacts::folder(dir.path()).unwrap();
    assert!(ours.exists());
    assert!(!dead.exists());
    third.put(b"x".to_vec(), KEY).await.unwrap();
    assert_eq!(living.read(KEY).await.unwrap(), b"x");
}
