//! One suite for both kinds of artifact storage, a folder and a bucket, and tests of what only one of them does.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use pictor_artifacts::{Artifacts, Error, Link};
use pictor_artifacts::{asset_key, digest_file};
use pictor_test_servers::S3;
use reqwest::StatusCode;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinSet;

const KEY: &str = "runs/r1/render/0/7/1-99/image.exr";

/// Makes two tests of each function: with a folder and with a bucket. Each gets a folder of its own.
macro_rules! conformance {
    ($($name:ident)*) => {
        mod in_a_folder {$(
            #[tokio::test]
            async fn $name() {
                let dir = tempfile::TempDir::new().unwrap();
                let place = format!("file://{}/store", dir.path().display());
                let artifacts = pictor_artifacts::Artifacts::open(&place, None).unwrap();
                super::$name(&artifacts, dir.path()).await;
            }
        )*}
        mod in_a_bucket {$(
            #[tokio::test]
            async fn $name() {
                let dir = tempfile::TempDir::new().unwrap();
                let s3 = pictor_test_servers::S3::start();
                super::$name(&super::bucket(&s3, &s3.bucket()), dir.path()).await;
            }
        )*}
    };
}

conformance! {
    a_file_comes_back_as_it_was
    a_file_of_another_digest_is_not_handed_out
    any_part_of_an_artifact_can_be_read
    what_is_not_there_is_not_found
    an_asset_is_stored_once
    a_list_has_every_artifact_below_the_folder_in_order
    a_folder_is_removed_with_what_is_in_it
    some_artifacts_are_removed_and_only_from_below_their_folder
    a_key_cannot_leave_the_storage
    what_is_stored_again_is_replaced_as_a_whole
    what_is_new_replaces_nothing
}

fn bucket(s3: &S3, bucket: &str) -> Artifacts {
    let place = format!("s3://{bucket}/farm/one?endpoint={}&region={}", s3.endpoint(), s3.region());
    Artifacts::open(&place, Some((s3.access_key(), s3.secret_key()))).unwrap()
}

fn pattern(size: u32) -> Vec<u8> {
    (0..size).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
}

async fn a_file_comes_back_as_it_was(artifacts: &Artifacts, dir: &Path) {
    artifacts.check().await.unwrap();
    // The last one is uploaded to a bucket in parts.
    for size in [0, 1, 1 << 20, (5 << 20) + 3, (17 << 20) + 1] {
        let bytes = pattern(size);
        let (from, to) = (dir.join("from"), dir.join("a/b/to"));
        fs::write(&from, &bytes).unwrap();
        let stored = artifacts.put_file(&from, KEY).await.unwrap();
        assert_eq!(stored.digest, blake3::hash(&bytes).to_hex().to_string());
        assert_eq!(stored.size_bytes, u64::from(size));
        assert_eq!(stored, digest_file(&from).await.unwrap());
        assert_eq!(artifacts.fetch(KEY, &to, &stored.digest).await.unwrap(), stored);
        assert_eq!(fs::read(&to).unwrap(), bytes);
        assert_eq!(artifacts.read(KEY).await.unwrap(), bytes);
        assert_eq!(artifacts.size(KEY).await.unwrap(), u64::from(size));
    }
    assert_eq!(fs::read_dir(dir.join("a/b")).unwrap().count(), 1, "no part is left");
}

async fn a_file_of_another_digest_is_not_handed_out(artifacts: &Artifacts, dir: &Path) {
    let stored = artifacts.put(b"pixels".to_vec(), KEY).await.unwrap();
    let to = dir.join("to/file");
    let other = blake3::hash(b"other").to_hex();
    let error = artifacts.fetch(KEY, &to, &other).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
    assert_eq!(fs::read_dir(dir.join("to")).unwrap().count(), 0);
    artifacts.fetch(KEY, &to, &stored.digest).await.unwrap();
}

async fn any_part_of_an_artifact_can_be_read(artifacts: &Artifacts, _: &Path) {
    let bytes = pattern(3 << 20);
    artifacts.put(bytes.clone(), KEY).await.unwrap();
    for range in [0..0, 0..1, 5..9, 1_000_000..2_500_000, (3 << 20) - 1..3 << 20] {
        let at = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        assert_eq!(artifacts.range(KEY, range).await.unwrap(), bytes[at]);
    }
    let beyond = artifacts.range(KEY, (3 << 20) - 1..(3 << 20) + 1).await;
    assert!(beyond.is_err(), "{:?}", beyond.map(|bytes| bytes.len()));
}

async fn what_is_not_there_is_not_found(artifacts: &Artifacts, dir: &Path) {
    let to = dir.join("to");
    assert!(!artifacts.exists(KEY).await.unwrap());
    assert!(matches!(artifacts.read(KEY).await, Err(Error::NotFound(_))));
    assert!(matches!(artifacts.range(KEY, 0..1).await, Err(Error::NotFound(_))));
    assert!(matches!(artifacts.fetch(KEY, &to, "").await, Err(Error::NotFound(_))));
    assert!(!to.exists());
    let missing = artifacts.put_file(&to, KEY).await;
    assert!(matches!(missing, Err(Error::NotFound(_))));
    assert!(!artifacts.exists(KEY).await.unwrap());
    artifacts.remove(KEY).await.unwrap();
    artifacts.put(b"x".to_vec(), KEY).await.unwrap();
    assert!(artifacts.exists(KEY).await.unwrap());
    if artifacts.local_path(KEY).is_some() {
        assert!(!artifacts.exists("runs/r1").await.unwrap(), "a folder is no artifact");
    }
    artifacts.remove(KEY).await.unwrap();
    assert!(!artifacts.exists(KEY).await.unwrap());
}

async fn an_asset_is_stored_once(artifacts: &Artifacts, dir: &Path) {
    let (a, b) = (dir.join("a"), dir.join("b"));
    fs::write(&a, "scene").unwrap();
    fs::write(&b, "scene").unwrap();
    let stored = artifacts.put_asset(&a).await.unwrap();
    let key = asset_key(&stored.digest);
    assert_eq!(artifacts.put_asset(&b).await.unwrap(), stored);
    let listed = artifacts.list("assets").await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].key.as_str(), listed[0].size_bytes), (key.as_str(), 5));
}

async fn a_list_has_every_artifact_below_the_folder_in_order(artifacts: &Artifacts, _: &Path) {
    for key in ["runs/b/2", "runs/a/2", "runs/a/1/x", "runs/ab/1"] {
        artifacts.put(key.as_bytes().to_vec(), key).await.unwrap();
    }
    let keys = |folder: &'static str| {
        let list = artifacts.list(folder);
        async move {
            let listed = list.await.unwrap().into_iter();
            listed.inspect(|l| assert_eq!(l.size_bytes, l.key.len() as u64)).map(|l| l.key)
        }
    };
    assert!(keys("runs/a").await.eq(["runs/a/1/x", "runs/a/2"]));
    assert!(keys("runs").await.eq(["runs/a/1/x", "runs/a/2", "runs/ab/1", "runs/b/2"]));
    assert_eq!(keys("nothing").await.count(), 0);
    assert_eq!(artifacts.folders("runs").await.unwrap(), ["a", "ab", "b"]);
    assert_eq!(artifacts.folders("runs/a").await.unwrap(), ["1"]);
    assert!(artifacts.folders("nothing").await.unwrap().is_empty());
}

async fn a_folder_is_removed_with_what_is_in_it(artifacts: &Artifacts, _: &Path) {
    for key in ["runs/a/1/x", "runs/a/2", "runs/ab/1"] {
        artifacts.put(b"x".to_vec(), key).await.unwrap();
    }
    for _ in 0..2 {
        artifacts.remove_folder("runs/a").await.unwrap();
        let left = artifacts.list("runs").await.unwrap();
        assert_eq!(left.iter().map(|l| l.key.as_str()).collect::<Vec<_>>(), ["runs/ab/1"]);
        assert_eq!(artifacts.folders("runs").await.unwrap(), ["ab"]);
    }
}

async fn some_artifacts_are_removed_and_only_from_below_their_folder(
    artifacts: &Artifacts,
    dir: &Path,
) {
    let there = ["assets/0a", "runs/a/s/0/1/1-1/x", "runs/a/s/0/2/1-1/x", "runs/ab/s/0/1/1-1/x"];
    for key in there.into_iter().chain(["runs/a/s/0/2/2-1/x", "runs/a/x"]) {
        artifacts.put(b"x".to_vec(), key).await.unwrap();
    }
    let pending_deletions = [
        "assets/0a",
        "runs/ab/s/0/1/1-1/x",
        "runs/a/../ab/s/0/1/1-1/x",
        "runs/a",
        "",
        "runs/a/nothing",
        "runs/a/s/0/1/1-1/x",
        "runs/a/s/0/2/2-1/x",
        "runs/a/x",
    ];
    let pending_deletions = pending_deletions.map(str::to_owned);
    for _ in 0..2 {
        artifacts.remove_below("runs/a", &pending_deletions).await.unwrap();
        let left = artifacts.list("runs").await.unwrap();
        let left: Vec<&str> = left.iter().map(|l| l.key.as_str()).collect();
        assert_eq!(left, ["runs/a/s/0/2/1-1/x", "runs/ab/s/0/1/1-1/x"]);
    }
    assert!(artifacts.exists("assets/0a").await.unwrap());
    // Thousands of tasks leave no thousands of empty folders behind.
    let tasks = dir.join("store/runs/a/s/0");
    if tasks.exists() {
        let left = |folder: &Path| fs::read_dir(folder).unwrap().count();
        assert_eq!((left(&tasks), left(&tasks.join("2"))), (1, 1));
    }
}

async fn a_key_cannot_leave_the_storage(artifacts: &Artifacts, dir: &Path) {
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
        let invalid = |result: Result<(), Error>| matches!(result, Err(Error::Invalid(_)));
        let to = dir.join("to");
        assert!(invalid(artifacts.put(b"x".to_vec(), key).await.map(drop)), "{key:?}");
        assert!(invalid(artifacts.put_file(&to, key).await.map(drop)), "{key:?}");
        assert!(invalid(artifacts.read(key).await.map(drop)), "{key:?}");
        assert!(invalid(artifacts.range(key, 0..1).await.map(drop)), "{key:?}");
        assert!(invalid(artifacts.fetch(key, &to, "").await.map(drop)), "{key:?}");
        assert!(invalid(artifacts.remove(key).await), "{key:?}");
        assert!(invalid(artifacts.remove_folder(key).await), "{key:?}");
        assert!(invalid(artifacts.list(key).await.map(drop)), "{key:?}");
        assert!(invalid(artifacts.presign_get(key, Duration::from_secs(1)).await.map(drop)));
        assert!(invalid(artifacts.presign_put(key, Duration::from_secs(1)).await.map(drop)));
        assert!(artifacts.local_path(key).is_none(), "{key:?}");
    }
    for key in ["a/..b/tmp/größe 1.exr", "a/b c+d%20&e=f?g#h.exr"] {
        artifacts.put(key.as_bytes().to_vec(), key).await.unwrap();
        assert_eq!(artifacts.read(key).await.unwrap(), key.as_bytes());
    }
    assert_eq!(artifacts.list("a").await.unwrap().len(), 2);
}

async fn what_is_stored_again_is_replaced_as_a_whole(artifacts: &Artifacts, dir: &Path) {
    let (old, new) = (dir.join("old"), dir.join("new"));
    fs::write(&old, pattern(17 << 20)).unwrap();
    fs::write(&new, "short").unwrap();
    artifacts.put_file(&old, KEY).await.unwrap();
    // A copy that is abandoned half-way leaves the earlier artifact intact.
    let half = artifacts.put_file(dir, KEY).await;
    assert!(half.is_err());
    assert_eq!(artifacts.size(KEY).await.unwrap(), 17 << 20);
    artifacts.put_file(&new, KEY).await.unwrap();
    assert_eq!(artifacts.read(KEY).await.unwrap(), b"short");
}

async fn what_is_new_replaces_nothing(artifacts: &Artifacts, dir: &Path) {
    // The second one is uploaded to a bucket in parts.
    for (key, size) in [("runs/r1/small", 5), ("runs/r1/large", (17 << 20) + 1)] {
        let (first, second) = (dir.join("first"), dir.join("second"));
        fs::write(&first, pattern(size)).unwrap();
        fs::write(&second, pattern(size + 1)).unwrap();
        assert!(artifacts.put_new(&first, key).await.unwrap());
        assert!(!artifacts.put_new(&second, key).await.unwrap());
        assert!(!artifacts.put_new(&first, key).await.unwrap());
        assert_eq!(artifacts.read(key).await.unwrap(), pattern(size));
    }
    assert_eq!(artifacts.list("runs").await.unwrap().len(), 2, "no part is left");
}

/// However many store an artifact at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_is_stored_and_stays() {
    let dir = TempDir::new().unwrap();
    let artifacts = Arc::new(Artifacts::folder(&dir.path().join("store")).unwrap());
    let stored: JoinSet<Option<Vec<u8>>> = (0..16)
        .map(|number| {
            let (artifacts, path) = (artifacts.clone(), dir.path().join(number.to_string()));
            async move {
                let bytes = pattern(1_000_000 + number);
                fs::write(&path, &bytes).unwrap();
                artifacts.put_new(&path, KEY).await.unwrap().then_some(bytes)
            }
        })
        .collect();
    let stored: Vec<Vec<u8>> = stored.join_all().await.into_iter().flatten().collect();
    assert_eq!(stored.len(), 1);
    assert_eq!(artifacts.read(KEY).await.unwrap(), stored[0]);
}

#[tokio::test]
async fn a_folder_gives_paths_and_no_links() {
    let dir = TempDir::new().unwrap();
    let artifacts = Artifacts::folder(dir.path()).unwrap();
    artifacts.put(b"x".to_vec(), KEY).await.unwrap();
    assert_eq!(fs::read(artifacts.local_path(KEY).unwrap()).unwrap(), b"x");
    let minute = Duration::from_mins(1);
    assert_eq!(artifacts.presign_get(KEY, minute).await.unwrap(), None);
    assert_eq!(artifacts.presign_put(KEY, minute).await.unwrap(), None);
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

/// Uses a link as a worker does.
async fn follow(method: reqwest::Method, link: &Link, body: Vec<u8>) -> reqwest::Response {
    let mut request = reqwest::Client::new().request(method, &link.url).body(body);
    for (name, value) in &link.headers {
        request = request.header(name, value);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn a_link_works_without_keys_for_its_artifact_and_its_time_only() {
    let s3 = S3::start();
    let artifacts = bucket(&s3, &s3.bucket());
    let (minute, second) = (Duration::from_mins(1), Duration::from_secs(1));
    let put = artifacts.presign_put(KEY, minute).await.unwrap().unwrap();
    assert!(!put.url.contains(s3.secret_key()), "{put:?}");
    let bytes = pattern(100_000);
    let answer = follow(reqwest::Method::PUT, &put, bytes.clone()).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(artifacts.read(KEY).await.unwrap(), bytes);
    // What is stored stays, also if it is sent again by the same link.
    let again = follow(reqwest::Method::PUT, &put, b"forged".to_vec()).await;
    assert_eq!(again.status(), StatusCode::PRECONDITION_FAILED);
    let mut bare = put.clone();
    bare.headers.remove("if-none-match").unwrap();
    let bare = follow(reqwest::Method::PUT, &bare, b"forged".to_vec()).await;
    assert_eq!(bare.status(), StatusCode::FORBIDDEN, "the condition is signed");
    assert_eq!(artifacts.read(KEY).await.unwrap(), bytes);
    let get = artifacts.presign_get(KEY, minute).await.unwrap().unwrap();
    let answer = follow(reqwest::Method::GET, &get, Vec::new()).await;
    assert_eq!(answer.bytes().await.unwrap(), bytes);

    let wrong = follow(reqwest::Method::PUT, &get, b"x".to_vec()).await;
    assert_eq!(wrong.status(), StatusCode::FORBIDDEN, "a link to read is no link to write");
    artifacts.put(b"x".to_vec(), "runs/r2/secret").await.unwrap();
    let url = get.url.replace(KEY, "runs/r2/secret");
    assert_ne!(url, get.url);
    let other = follow(reqwest::Method::GET, &Link { url, ..get }, Vec::new()).await;
    assert_eq!(other.status(), StatusCode::FORBIDDEN);
    let short = artifacts.presign_put("runs/r1/late", second).await.unwrap().unwrap();
    loop {
        let answer = follow(reqwest::Method::PUT, &short, b"late".to_vec()).await;
        if answer.status() == StatusCode::FORBIDDEN {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn where_a_link_could_replace_something_there_is_none() {
    let s3 = S3::careless();
    let artifacts = bucket(&s3, &s3.bucket());
    assert_eq!(artifacts.presign_put(KEY, Duration::from_mins(1)).await.unwrap(), None);
    // It is looked up beforehand instead.
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    for (bytes, is_new) in [("first", true), ("second", false)] {
        fs::write(&file, bytes).unwrap();
        assert_eq!(artifacts.put_new(&file, KEY).await.unwrap(), is_new);
    }
    assert_eq!(artifacts.read(KEY).await.unwrap(), b"first");
}

#[tokio::test]
async fn a_service_that_is_away_and_one_that_refuses_are_told_apart() {
    let s3 = S3::start();
    let name = s3.bucket();
    let place = |endpoint: &str| format!("s3://{name}?endpoint={endpoint}");
    let wrong = Artifacts::open(&place(s3.endpoint()), Some((s3.access_key(), "guess"))).unwrap();
    for error in [wrong.check().await.unwrap_err(), wrong.read(KEY).await.unwrap_err()] {
        assert!(matches!(error, Error::Unavailable { retryable: false, .. }), "{error:?}");
        assert!(error.to_string().contains("rejected the credentials"), "{error}");
    }
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let away = Artifacts::open(&place(&format!("http://{nobody}")), Some(("id", "hush"))).unwrap();
    for error in [away.check().await.unwrap_err(), away.read(KEY).await.unwrap_err()] {
        assert!(error.is_retryable(), "{error:?}");
        assert!(!format!("{error:?}").contains("hush"));
    }
}

#[test]
fn a_place_that_cannot_be_understood_is_explained() {
    for (place, why) in [
        ("s3://", "bucket"),
        ("s3://b?endpiont=x", "`endpiont` is not known"),
        ("s3://id:secret@b", "keys do not belong"),
        ("s3://b?endpoint=:::", "no web address"),
        ("s3://b?endpoint=ftp://host", "no web address"),
    ] {
        let error = Artifacts::open(place, Some(("id", "hush"))).unwrap_err();
        assert!(error.to_string().contains(why), "{place}: {error}");
        assert!(matches!(error, Error::Invalid(_)), "{place}: {error:?}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
