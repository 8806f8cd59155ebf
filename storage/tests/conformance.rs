//! The conformance suite over the embedded store, and what only an embedded store can do: be locked,
//! be killed and come back.

#![expect(clippy::unwrap_used, reason = "what starts the child is a test, but not marked as such")]

mod suite;

use pictor_storage::{Error, Store};
use pictor_tasks::message::RunId;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

macro_rules! conformance {
    ($($name:ident)*) => {$(
        #[tokio::test]
        async fn $name() {
            let dir = TempDir::new().unwrap();
            suite::$name(&Store::open(dir.path()).await.unwrap()).await;
        }
    )*};
}

conformance! {
    every_kind_of_row_comes_back_as_it_was
    rows_come_back_in_order_whatever_their_commits
    the_same_rows_again_change_nothing
    another_row_in_the_same_place_is_an_error
    a_gap_or_a_step_back_in_time_is_refused
    a_control_message_is_kept_once
    one_bad_run_keeps_the_whole_batch_out
    a_big_batch_comes_back
    runs_are_listed_and_found_by_prefix
    a_run_is_kept_as_it_was_created
    rejected_messages_are_kept
}

const CHILD: &str = "PICTOR_TEST_STORE";
/// Rows of one commit of the child.
const ROWS: u64 = 100;

/// Not a test by itself: the process that the tests below start and kill. It commits for ever and says
/// after each commit how many rows there are.
#[tokio::test]
async fn child() {
    let Some(dir) = env::var_os(CHILD) else {
        return;
    };
    let store = Store::open(Path::new(&dir)).await.unwrap();
    let run = suite::with_run(&store, "crash").await;
    let mut out = std::io::stdout();
    for batch in 0.. {
        let rows = suite::dones(batch * ROWS + 1, (batch + 1) * ROWS);
        suite::commit(&store, &run, &rows).await.unwrap();
        writeln!(out, "committed {}", (batch + 1) * ROWS).unwrap();
    }
}

fn start_child(dir: &Path) -> (Child, impl Iterator<Item = u64>) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
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

        let store = Store::open(&folder).await.unwrap();
        let rows = suite::history(&store, &run, 1).await;
        let count = rows.len() as u64;
        assert!(count >= last, "{last} rows were reported, {count} are there");
        assert!(count.is_multiple_of(ROWS), "{count} rows: a commit is there in part");
        assert_eq!(rows, suite::dones(1, count));
        suite::commit(&store, &run, &suite::dones(count + 1, count + 1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_locked_folder_names_its_owner_and_is_free_when_that_is_killed() {
    let dir = TempDir::new().unwrap();
    let (mut child, mut reported) = start_child(dir.path());
    reported.next().unwrap();
    match Store::open(dir.path()).await {
        Err(Error::Locked { pid }) => assert_eq!(pid, Some(child.id())),
        other => panic!("expected `Locked`, got {:?}", other.map(|_| "a store")),
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let error = Store::open(dir.path()).await.err().unwrap();
    assert!(matches!(error, Error::Locked { pid } if pid == Some(std::process::id())));
    store.close().await.unwrap();
    Store::open(dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_opened_again_has_everything() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("a/new/folder");
    for opened in 1..=3 {
        let store = Store::open(&folder).await.unwrap();
        let run = suite::with_run(&store, "kept").await;
        suite::commit(&store, &run, &suite::dones(opened, opened)).await.unwrap();
        assert_eq!(suite::history(&store, &run, 1).await, suite::dones(1, opened));
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
    let error = Store::open(dir.path()).await.err().unwrap();
    assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("something else"));
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_left_alone() {
    use sqlx::{Connection, SqliteConnection};
    let dir = TempDir::new().unwrap();
    Store::open(dir.path()).await.unwrap().close().await.unwrap();
    let url = format!("sqlite://{}", dir.path().join("pictor.sqlite").display());
    let mut on = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("PRAGMA user_version = 99").execute(&mut on).await.unwrap();
    on.close().await.unwrap();
    let error = Store::open(dir.path()).await.err().unwrap();
    assert!(error.to_string().contains("newer pictor"), "{error}");
}
