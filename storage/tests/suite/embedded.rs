//! What only an embedded store can do: be locked, survive being killed, come from an older version.

use super::open;
use super::registry::{DAMAGES, is_damaged, with_one_of_each};
use pictor_storage::{Error, Rejected, SqliteStore, Store};
use pictor_tasks::message::RunId;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Executor};
use std::env;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const CHILD: &str = "PICTOR_TEST_STORE";
/// Rows of one commit of the child process.
const ROWS: u64 = 100;

/// Not a test by itself, but the process that the tests below start and kill. It commits for ever and prints the number
/// of rows after each commit.
#[tokio::test]
async fn child() {
    let Some(dir) = env::var_os(CHILD) else {
        return;
    };
    let store = SqliteStore::open(Path::new(&dir)).await.unwrap();
    let run = super::with_run(&store, "crash").await;
    let mut out = std::io::stdout();
    for batch in 0.. {
        let rows = super::dones(batch * ROWS + 1, (batch + 1) * ROWS);
        super::commit(&store, &run, &rows).await.unwrap();
        writeln!(out, "committed {}", (batch + 1) * ROWS).unwrap();
    }
}

fn start_child(dir: &Path) -> (Child, impl Iterator<Item = u64>) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["suite::embedded::child", "--exact", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reported = lines
        .map_while(Result::ok)
        .filter_map(|line| line.split("committed ").nth(1)?.trim().parse().ok());
    (child, reported)
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_it_reported() {
    let dir = TempDir::new().unwrap();
    let run = RunId("crash".into());
    for kill_after in [1, 5, 30] {
        let folder = dir.path().join(kill_after.to_string());
        let (mut child, mut reported) = start_child(&folder);
        let mut last = reported.by_ref().take(kill_after).last().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        last = reported.last().unwrap_or(last);

        let store = SqliteStore::open(&folder).await.unwrap();
        let rows = super::history(&store, &run, 1).await;
        let count = rows.len() as u64;
        assert!(count >= last, "{last} rows were reported, {count} are there");
        assert!(count.is_multiple_of(ROWS), "{count} rows: a commit is there in part");
        assert_eq!(rows, super::dones(1, count));
        super::commit(&store, &run, &super::dones(count + 1, count + 1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_locked_folder_names_its_owner_and_is_free_when_that_is_killed() {
    let dir = TempDir::new().unwrap();
    let (mut child, mut reported) = start_child(dir.path());
    reported.next().unwrap();
    match SqliteStore::open(dir.path()).await {
        Err(Error::Locked { pid }) => assert_eq!(pid, Some(child.id())),
        other => panic!("expected `Locked`, got {:?}", other.map(|_| "a store")),
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let store = SqliteStore::open(dir.path()).await.unwrap();
    let error = SqliteStore::open(dir.path()).await.err().unwrap();
    assert!(matches!(error, Error::Locked { pid } if pid == Some(std::process::id())));
    store.close().await.unwrap();
    SqliteStore::open(dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_opened_again_has_everything() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("a/new/folder");
    for opened in 1..=3 {
        let store = SqliteStore::open(&folder).await.unwrap();
        let run = super::with_run(&store, "kept").await;
        super::commit(&store, &run, &super::dones(opened, opened)).await.unwrap();
        assert_eq!(super::history(&store, &run, 1).await, super::dones(1, opened));
        if opened == 1 {
            store.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_damaged_not_overwritten() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("pictor.sqlite");
    std::fs::write(&path, "something else entirely".repeat(500)).unwrap();
    let error = SqliteStore::open(dir.path()).await.err().unwrap();
    assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("something else"));
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_left_alone() {
    use sqlx::{Connection, SqliteConnection};
    let dir = TempDir::new().unwrap();
    SqliteStore::open(dir.path()).await.unwrap().close().await.unwrap();
    let url = format!("sqlite://{}", dir.path().join("pictor.sqlite").display());
    let mut on = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("PRAGMA user_version = 99").execute(&mut on).await.unwrap();
    on.close().await.unwrap();
    let error = SqliteStore::open(dir.path()).await.err().unwrap();
    assert!(error.to_string().contains("newer pictor"), "{error}");
}

#[tokio::test]
async fn a_store_of_version_1_is_brought_up_to_date_with_what_is_in_it() {
    use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
    use sqlx::{ConnectOptions, Connection, Executor};
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("pictor.sqlite");
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut on: SqliteConnection = options.connect().await.unwrap();
    on.execute(include_str!("../../src/sqlite/schema1.sql")).await.unwrap();
    let old = "INSERT INTO run (id, name, spec, source_name, plan, fold_version, owner, priority, \
               created_ms, out_dir) VALUES ('old', 'n', '', '', '{}', 1, 'ann', 0, 0, ''); \
               INSERT INTO event VALUES (1, 1, 5, 7, '\"paused\"'); PRAGMA user_version = 1";
    on.execute(old).await.unwrap();
    on.close().await.unwrap();
    let store = SqliteStore::open(dir.path()).await.unwrap();
    let run = RunId("old".into());
    assert_eq!(super::history(&store, &run, 1).await.len(), 1);
    assert_eq!(store.take_ownership("", 0).await.unwrap().epoch, 1);
    let mut next = super::done(2);
    next.time_ms = 6;
    super::commit(&store, &run, &[next]).await.unwrap();
}

#[tokio::test]
async fn a_word_that_nothing_understands_is_damage() {
    let dir = TempDir::new().unwrap();
    let stores = open(dir.path().to_str().unwrap()).await;
    with_one_of_each(stores.both()).await;
    let file = SqliteConnectOptions::new().filename(dir.path().join("pictor.sqlite"));
    // The tables refuse such words themselves.
    let mut on = file.pragma("ignore_check_constraints", "on").connect().await.unwrap();
    for (place, damage) in DAMAGES.into_iter().enumerate() {
        on.execute(damage).await.unwrap();
        is_damaged(stores.both(), place + 1).await;
    }
}

/// Whoever sends what cannot be read fills no disk with it.
#[tokio::test]
async fn only_the_newest_rejected_messages_are_kept() {
    let dir = TempDir::new().unwrap();
    let store = SqliteStore::open(dir.path()).await.unwrap();
    let file = SqliteConnectOptions::new().filename(dir.path().join("pictor.sqlite"));
    let mut on = file.connect().await.unwrap();
    let many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200) \
                INSERT INTO rejected (time_ms, reason, raw) SELECT i, '', x'' FROM n";
    on.execute(many).await.unwrap();
    let last = Rejected { time_ms: 1201, reason: "not JSON".to_owned(), raw: Vec::new() };
    store.reject(&last).await.unwrap();
    let kept = sqlx::query_as("SELECT count(*), min(time_ms) FROM rejected");
    let kept: (i64, i64) = kept.fetch_one(&mut on).await.unwrap();
    assert_eq!(kept, (1000, 202));
}

#[tokio::test]
async fn nobody_else_on_the_machine_reads_the_database() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("pictor.sqlite");
    // As an older version made it.
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let store = SqliteStore::open(dir.path()).await.unwrap();
    super::with_run(&store, "private").await;
    let mut modes = Vec::new();
    for name in ["pictor.sqlite", "pictor.sqlite-wal", "pictor.sqlite-shm"] {
        let metadata = std::fs::metadata(dir.path().join(name)).unwrap();
        modes.push(metadata.permissions().mode() & 0o777);
    }
    assert_eq!(modes, [0o600; 3]);
}
