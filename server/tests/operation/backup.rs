//! A backup that is taken while a farm is working, as `docs/operations.md` describes it, restored elsewhere: the
//! database first, then the artifacts.

use crate::farm::{Base, set, until, work};
use pictor_engine::{Engine, TaskState};
use pictor_server::{OwnerHandle, load_run};
use pictor_tasks::message::{RunId, TaskId, WorkerId};
use pictor_test_servers::Postgres;
use sqlx::ConnectOptions;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

const TASKS: usize = 60;
const JOB: &str = "pictor: v1\nname: frames\ndims: { frame: 1-30 }\nsteps:\n  \
                   - { name: render, over: [frame], noop: {} }\n  \
                   - { name: develop, over: [frame], needs: [render], noop: {} }\n";

/// Runs a program of Postgres to its end.
fn postgres_tool(name: &str, arguments: &[&str]) {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let program = installed.map(|entry| entry.path().join("bin").join(name)).find(|p| p.exists());
    let program = program.unwrap_or_else(|| name.into());
    let said = Command::new(&program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{}: {error}", program.display());
}

/// Copies the database to another place. Returns that place.
async fn back_up_database(base: &Base, to: &Path) -> String {
    if base.is_postgres() {
        let dump = to.join("pictor.dump");
        let file = format!("--file={}", dump.display());
        postgres_tool("pg_dump", &["--format=custom", &file, &base.place]);
        let restored = Postgres::start().database();
        let place = format!("--dbname={restored}");
        postgres_tool("pg_restore", &["--no-owner", &place, &dump.display().to_string()]);
        return restored;
    }
    let folder = to.join("data");
    std::fs::create_dir(&folder).unwrap();
    let file = Path::new(&base.place).join("pictor.sqlite");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file).read_only(true);
    let mut on = options.connect().await.unwrap();
    let copy = format!("VACUUM INTO '{}'", folder.join("pictor.sqlite").display());
    sqlx::query(sqlx::AssertSqlSafe(copy)).execute(&mut on).await.unwrap();
    folder.display().to_string()
}

/// Copies artifacts, without unfinished files.
fn back_up_artifacts(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            if entry.file_name() != "tmp" {
                back_up_artifacts(&path, &copy);
            }
        } else {
            std::fs::copy(&path, &copy).unwrap();
        }
    }
}

/// The accepted artifact of each task: its digest, checked against the bytes.
async fn results(base: &Base, run: &RunId) -> BTreeMap<TaskId, String> {
    let run = load_run(&*base.store, run, &pictor_engine::RunLimits::default()).await.unwrap();
    let mut found = BTreeMap::new();
    for step in 0..2 {
        for index in 0..30 {
            let at = TaskId { step, index };
            if let Some((_, outputs)) = run.outputs(at) {
                let bytes = base.artifacts.read(&outputs[0].key).await.unwrap();
                let digest = blake3::hash(&bytes).to_hex().to_string();
                assert_eq!(digest, outputs[0].digest, "{}", outputs[0].key);
                found.insert(at, digest);
            }
        }
    }
    found
}

async fn finish(owner: &OwnerHandle, run: &RunId) {
    let asked = run.clone();
    until(owner, move |engine| engine.run(&asked).is_some_and(|run| run.state().is_terminal()))
        .await;
}

pub(crate) async fn a_backup_of_a_farm_at_work_is_restored_and_finishes_with_the_same_results(
    base: &Base,
) {
    set(1_000_000);
    let worker = WorkerId(1);
    let (owner, mut workers) = base.owner_with(&[worker, WorkerId(2)]).await;
    let run = base.submit(&owner, "frames", JOB).await;
    // One worker executes a third and ends; then the backup begins while another one continues.
    let third = work(workers.remove(0), base, TASKS / 3).await.unwrap();
    assert_eq!(third, TASKS / 3);
    let asked = run.clone();
    let is_stored = move |engine: &Engine| {
        let steps = engine.view(engine.run(&asked).expect("it is there")).steps;
        let done: u32 = steps.iter().map(|step| step.count(TaskState::Succeeded)).sum();
        done as usize >= third
    };
    until(&owner, is_stored).await;
    let going_on = work(workers.remove(0), base, TASKS);
    let copy = Arc::new(TempDir::new().unwrap());
    let place = back_up_database(base, copy.path()).await;
    finish(&owner, &run).await;
    back_up_artifacts(&base.path("artifacts"), &copy.path().join("artifacts"));
    going_on.abort();

    let restored = Base::open(place, copy).await;
    let before = results(&restored, &run).await;
    assert!(before.len() >= TASKS / 3, "{}", before.len());
    let (owner, mut workers) = restored.owner_with(&[worker]).await;
    let working = work(workers.remove(0), &restored, TASKS);
    let state = restored.store.run(&run.0).await.unwrap().unwrap().state;
    if state == pictor_engine::RunState::Running {
        finish(&owner, &run).await;
    }
    working.abort();
    let after = results(&restored, &run).await;
    assert_eq!(after.len(), TASKS);
    assert_eq!(after, results(base, &run).await);
    assert!(before.iter().all(|(task, digest)| after.get(task) == Some(digest)));
}
