//! The first token of a farm: whatever crashes or happens at the same time, somebody can get in.

use pictor_api::TokenRole;
use pictor_server::http::auth::{Purpose, mint};
use pictor_server::http::{FirstTokenError, first_token};
use pictor_server::now_ms;
use pictor_storage::Registry;
use pictor_test_servers::Postgres;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

async fn open(place: &str) -> Arc<dyn Registry> {
    pictor_storage::open(place).await.unwrap().1
}

/// An empty farm in a folder.
async fn farm() -> (TempDir, Arc<dyn Registry>) {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path().to_str().unwrap()).await;
    (folder, registry)
}

/// The token in a file; asserts that it is valid for this farm.
async fn valid(registry: &dyn Registry, path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let (id, secret) = text.trim().strip_prefix("pictor_").unwrap().split_once('_').unwrap();
    let stored = registry.token(id).await.unwrap().expect("the farm knows the token");
    assert_eq!(blake3::hash(secret.as_bytes()), stored.secret_hash);
    assert_eq!((stored.role, stored.revoked_ms), (TokenRole::Admin, None));
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others can read it");
    text
}

/// Leaves what a server leaves that crashes after writing the file and before storing the token.
fn leave_a_dead_token(path: &Path) {
    let purpose = Purpose { name: "dead", role: TokenRole::Admin, account: "admin" };
    std::fs::write(path, mint(&purpose, now_ms()).text + "\n").unwrap();
}

#[tokio::test]
async fn the_first_token_is_made_once() {
    let (folder, registry) = farm().await;
    let path = folder.path().join("admin-token");
    assert!(first_token(&*registry, &path, now_ms()).await.unwrap());
    let text = valid(&*registry, &path).await;
    assert!(!first_token(&*registry, &path, now_ms()).await.unwrap());
    assert_eq!(valid(&*registry, &path).await, text);
    assert_eq!(registry.tokens().await.unwrap().len(), 1);
    let names = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name());
    assert!(!names.into_iter().any(|name| name == "admin-token.new"));
}

#[tokio::test]
async fn a_token_that_cannot_be_written_is_not_stored() {
    let (folder, registry) = farm().await;
    let path = folder.path().join("missing/admin-token");
    let failed = first_token(&*registry, &path, now_ms()).await;
    assert!(matches!(failed, Err(FirstTokenError::File { .. })), "{failed:?}");
    assert!(registry.tokens().await.unwrap().is_empty(), "nobody could ever show it");
}

#[tokio::test]
async fn dying_between_the_file_and_the_database_leaves_no_farm_without_an_admin() {
    let (folder, registry) = farm().await;
    let path = folder.path().join("admin-token");
    leave_a_dead_token(&path);
    // And a third server crashed while it wrote the file.
    std::fs::write(folder.path().join("admin-token.new"), "pictor_").unwrap();
    assert!(first_token(&*registry, &path, now_ms()).await.unwrap());
    valid(&*registry, &path).await;
}

#[tokio::test]
async fn a_dead_token_goes_when_another_server_was_faster() {
    let (folder, registry) = farm().await;
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    leave_a_dead_token(&ours);
    assert!(first_token(&*registry, &theirs, now_ms()).await.unwrap());
    assert!(!first_token(&*registry, &ours, now_ms()).await.unwrap());
    assert!(!ours.exists(), "nobody is let in with it");
    valid(&*registry, &theirs).await;
    // Anything else that an operator keeps under that name must not be removed.
    std::fs::write(&ours, "a note\n").unwrap();
    assert!(!first_token(&*registry, &ours, now_ms()).await.unwrap());
    assert!(ours.exists());
}

#[tokio::test]
async fn servers_that_start_at_once_leave_a_valid_token_in_every_file() {
    let url = Postgres::start().database();
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..4).map(|n| folder.path().join(format!("{n}"))).collect();
    let servers = paths.iter().map(|path| {
        let (url, path) = (url.clone(), path.clone());
        tokio::spawn(async move {
            let registry = open(&url).await;
            first_token(&*registry, &path, now_ms()).await.unwrap()
        })
    });
    let mut made = 0;
    for server in servers.collect::<Vec<_>>() {
        made += usize::from(server.await.unwrap());
    }
    let registry = open(&url).await;
    let files = paths.iter().filter(|path| path.exists());
    for path in files.clone() {
        valid(&*registry, path).await;
    }
    assert_eq!((files.count(), registry.tokens().await.unwrap().len()), (made, made));
    assert!(made >= 1);
}
