//! Whole processes that are killed: a schedule of every second, servers that die all the time, and exactly one run for
//! each second. The processes are this test binary, started again.

use crate::farm::{Base, JOB};
use pictor_api::NewSchedule;
use pictor_server::ServerRole;
use pictor_server::schedule::Schedules;
use pictor_test_servers::Postgres;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::sleep;

/// Environment variable with the database that a child process works on.
const PLACE: &str = "PICTOR_TEST_PLACE";
const FOLDER: &str = "PICTOR_TEST_FOLDER";
/// How often servers are killed, and how long they live.
const KILLS: u64 = 8;
const LIFE: Duration = Duration::from_millis(1_300);

/// Not a test, but a server that the tests below start and kill.
#[tokio::test]
async fn a_server_that_is_told_where_to_work() {
    let Ok(place) = std::env::var(PLACE) else { return };
    let folder = std::env::var(FOLDER).unwrap();
    let (store, registry) = loop {
        // The folder's lock of a killed server is free once the kernel has ended it.
        match pictor_storage::open(&place).await {
            Ok(opened) => break opened,
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    };
    store.take_ownership("child", pictor_server::now_ms()).await.unwrap();
    let artifacts = Arc::new(pictor_artifacts::Artifacts::folder(Path::new(&folder)).unwrap());
    let schedules = Schedules::new(store.clone(), registry, artifacts, pictor_server::now_ms);
    let (port, _workers) = pictor_queue::in_process(&[]);
    let config = pictor_engine::Config::default();
    let now_ms = pictor_server::now_ms;
    let (owner, handle) = pictor_server::Owner::new(config, store, Box::new(port), now_ms);
    tokio::spawn(owner.run());
    let (_role, role) = watch::channel(ServerRole::Owner(handle));
    schedules.run(role).await;
}

fn server(place: &str, folder: &Path) -> Child {
    let test = "process::a_server_that_is_told_where_to_work";
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(PLACE, place)
        .env(FOLDER, folder.join("artifacts"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets `count` servers at a time work and die; afterwards each second must have one run.
async fn every_second_has_one_run(place: String, folder: Arc<TempDir>, count: usize) {
    let base = Base::open(place.clone(), folder.clone()).await;
    let schedules = Schedules::new(
        base.store.clone(),
        base.registry.clone(),
        base.artifacts.clone(),
        pictor_server::now_ms,
    );
    let mut start = 0;
    for (name, overlap, catch_up) in [("replaced", "replace", "none"), ("every", "skip", "all")] {
        let new = serde_json::json!({
            "name": name, "cron": "* * * * * *", "overlap": overlap, "catch_up": catch_up,
            "job": { "text": JOB },
        });
        let new: NewSchedule = serde_json::from_value(new).unwrap();
        start = schedules.add(&new, "ada").await.unwrap().schedule.created_ms;
    }
    base.store.close().await.unwrap();
    drop((schedules, base));
    let mut servers: Vec<Child> = (0..count).map(|_| server(&place, folder.path())).collect();
    for kill in 0..KILLS {
        sleep(LIFE + Duration::from_millis(kill * 37)).await;
        let mut dead = servers.remove(0);
        dead.kill().unwrap();
        dead.wait().unwrap();
        servers.push(server(&place, folder.path()));
    }
    sleep(LIFE).await;
    for mut last in servers {
        last.kill().unwrap();
        last.wait().unwrap();
    }
    let base = Base::open(place, folder).await;
    let every = base.registry.due_times("every", 1000).await.unwrap();
    let seconds: Vec<i64> = every.iter().rev().map(|due| due.due_ms / 1000).collect();
    let expected: Vec<i64> = (start / 1000 + 1..).take(seconds.len()).collect();
    assert_eq!(seconds, expected, "no second is missing, none is there twice");
    let replaced = base.registry.due_times("replaced", 1000).await.unwrap();
    assert!(replaced.len() as u64 > KILLS, "{replaced:?}");
    let fired = every.into_iter().chain(replaced).filter_map(|due| due.run);
    let fired: BTreeSet<_> = fired.collect();
    let runs: Vec<_> = base.runs().await.into_iter().map(|run| run.id).collect();
    let stored: BTreeSet<_> = runs.iter().cloned().collect();
    assert_eq!(fired, stored, "each time that started a run has it");
    assert_eq!(runs.len(), stored.len(), "and only one");
}

#[tokio::test]
async fn a_server_that_is_killed_again_and_again_starts_each_run_once() {
    let folder = Arc::new(TempDir::new().unwrap());
    let place = folder.path().join("data").display().to_string();
    every_second_has_one_run(place, folder, 1).await;
}

#[tokio::test]
async fn two_servers_that_are_killed_again_and_again_start_each_run_once() {
    let folder = Arc::new(TempDir::new().unwrap());
    every_second_has_one_run(Postgres::start().database(), folder, 2).await;
}
