//! Old runs are removed with their artifacts; nothing that is needed is.

use crate::farm::{Base, JOB, cancel, crash_after, job_with, schedule, set, work};
use pictor_server::prune::{Policy, Pruned, Pruner};
use pictor_server::{OwnerHandle, load_run};
use pictor_storage::Upload;
use pictor_tasks::message::{RunId, TaskId, WorkerId};
use pictor_tasks::pack::{PackManifest, PackedFile};
use pictor_tasks::units::Millis;
use std::path::Path;
use std::time::{Duration, SystemTime};

const DAY: i64 = 86_400_000;

pub(crate) fn pruner(base: &Base) -> Pruner {
    Pruner {
        store: base.store.clone(),
        registry: base.registry.clone(),
        artifacts: base.artifacts.clone(),
        logs: base.path("logs"),
    }
}

fn days(count: u64) -> Millis {
    Millis(count * DAY.unsigned_abs())
}

pub(crate) fn policy(archive: Option<&Path>) -> Policy {
    Policy { older_than: days(30), keep_failed: None, archive: archive.map(Path::to_path_buf) }
}

/// The current time by the clock of the file system.
pub(crate) fn today() -> i64 {
    pictor_server::now_ms()
}

/// Makes a file this many days old.
fn age(path: &Path, days: u64) {
    let file = std::fs::File::options().append(true).open(path).unwrap();
    #[expect(clippy::disallowed_methods, reason = "files have the times of the real clock")]
    let then = SystemTime::now() - Duration::from_secs(days * 86_400);
    file.set_modified(then).unwrap();
}

/// A run whose three tasks were executed when the clock showed `at`: each has left an artifact, one of them a log in
/// the data folder and one a log in storage.
async fn done(base: &Base, id: &str, at: i64) -> (RunId, OwnerHandle) {
    set(at);
    let (owner, mut workers) = base.owner_with(&[WorkerId(1)]).await;
    let working = work(workers.remove(0), base, 3);
    let job = JOB.replace("noop", "over: [n], noop").replace("steps", "dims: { n: 1-3 }\nsteps");
    let run = base.submit(&owner, id, &job).await;
    let asked = run.clone();
    crate::farm::until(&owner, move |engine| {
        engine.run(&asked).is_some_and(|run| run.state().is_terminal())
    })
    .await;
    working.await.unwrap();
    let folder = base.path("logs").join(id).join("one/0");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("1-00.log"), "hello\n").unwrap();
    let stored = format!("runs/{id}/_logs/one/1/1-00.log");
    base.artifacts.put(b"hello\n".to_vec(), &stored).await.unwrap();
    (run, owner)
}

/// Checks that every run in the database can be loaded, and that every artifact of it exists.
async fn check(base: &Base) -> usize {
    let runs = base.runs().await;
    for record in &runs {
        let run =
            load_run(&*base.store, &record.id, &pictor_engine::RunLimits::default()).await.unwrap();
        for index in 0..3 {
            for output in
                run.outputs(TaskId { step: 0, index }).map_or(&[][..], |(_, outputs)| outputs)
            {
                assert!(base.artifacts.exists(&output.key).await.unwrap(), "{}", output.key);
            }
        }
    }
    runs.len()
}

async fn bytes(base: &Base) -> usize {
    base.artifacts.list("runs").await.unwrap().len()
}

pub(crate) async fn old_runs_go_with_their_bytes_and_an_archive_is_kept(base: &Base) {
    let now_ms = today();
    let (old, _) = done(base, "old", now_ms - 31 * DAY).await;
    let (new, _) = done(base, "new", now_ms - 29 * DAY).await;
    let (_going, owner) = done(base, "x", now_ms - 29 * DAY).await;
    set(now_ms - 60 * DAY);
    let waiting = base.submit(&owner, "waiting", JOB).await;
    let failed = base.submit(&owner, "given-up", JOB).await;
    cancel(&owner, &failed).await;
    let archive = base.path("archive");
    let pruned = pruner(base).prune(&policy(Some(&archive)), false, now_ms).await.unwrap();
    assert_eq!((pruned.runs, pruned.artifacts.files, pruned.logs.files), (2, 3, 2), "{pruned:?}");
    assert!(pruned.artifacts.size_bytes > 0 && pruned.failures.is_empty(), "{pruned:?}");
    let left: Vec<RunId> = base.runs().await.into_iter().map(|run| run.id).collect();
    assert_eq!(left, [new, RunId("x".into()), waiting]);
    assert_eq!(bytes(base).await, 8);
    assert!(!base.path("logs/old").exists() && base.path("logs/new").exists());

    let text = std::fs::read_to_string(archive.join(format!("{old}.jsonl"))).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["pictor_archive"], 1);
    assert_eq!(lines[0]["run"]["id"], "old");
    assert!(lines[1]["job"].as_str().unwrap().starts_with("pictor: v1"));
    assert_eq!(lines[2]["plan"]["name"], "still");
    // The archive folds to the same state.
    let plan = serde_json::from_value(lines[2]["plan"].clone()).unwrap();
    let mut run = pictor_engine::Run::new(old, std::sync::Arc::new(plan));
    for line in &lines[3..] {
        run.apply(&serde_json::from_value(line["row"].clone()).unwrap()).unwrap();
    }
    assert_eq!(run.state(), pictor_engine::RunState::Succeeded);
    assert!(archive.join("given-up.jsonl").exists());
}

pub(crate) async fn a_dry_run_counts_and_removes_nothing(base: &Base) {
    let now_ms = today();
    done(base, "old", now_ms - 31 * DAY).await;
    let (failed, owner) = done(base, "older", now_ms - 80 * DAY).await;
    drop((failed, owner));
    base.artifacts.put(vec![1; 10], "runs/nobody/a/0/0/1-1/image").await.unwrap();
    age(&base.artifacts.local_path("runs/nobody/a/0/0/1-1/image").unwrap(), 2);
    base.artifacts.put(vec![1; 10], "runs/new/a/0/0/1-1/image").await.unwrap();
    let archive = base.path("archive");
    let dry = pruner(base).prune(&policy(Some(&archive)), true, now_ms).await.unwrap();
    assert_eq!((bytes(base).await, base.runs().await.len()), (10, 2));
    assert!(!archive.exists());
    assert_eq!((dry.runs, dry.orphans.files, dry.orphans.size_bytes), (2, 1, 10), "{dry:?}");
    let real = pruner(base).prune(&policy(None), false, now_ms).await.unwrap();
    assert_eq!(Pruned { records: 0, ..real }, dry);
    assert_eq!(bytes(base).await, 1, "what was written today is left alone");
}

pub(crate) async fn a_crash_at_any_point_leaves_no_history_without_its_bytes(base: &Base) {
    let now_ms = today();
    let archive = base.path("archive");
    for points in 0..1000 {
        let id = format!("run-{points}");
        done(base, &id, now_ms - 40 * DAY).await;
        let (pruner, policy) = (pruner(base), policy(Some(&archive)));
        let crashed = crash_after(points, pruner.prune(&policy, false, now_ms)).await;
        if check(base).await == 0 {
            assert!(archive.join(format!("{id}.jsonl")).exists(), "after {points} polls");
        }
        // The next prune finds what was left over, once it is older than the grace period.
        let later = now_ms + 2 * DAY;
        pruner.prune(&policy, false, later).await.unwrap();
        assert_eq!((base.runs().await.len(), bytes(base).await), (0, 0), "after {points} polls");
        assert!(!base.path("logs").join(&id).exists());
        if crashed.is_some() {
            // The faster the machine, the fewer points at which it waits: 9 were observed.
            assert!(points > 4, "it waited only {points} times");
            return;
        }
    }
    panic!("a prune does not end");
}

#[expect(clippy::too_many_lines, reason = "one story")]
pub(crate) async fn assets_that_nothing_uses_go_after_a_while(base: &Base) {
    let now_ms = today();
    set(now_ms);
    let put = async |text: &str, days: u64| {
        let file = base.path("asset");
        std::fs::write(&file, text).unwrap();
        let stored = base.artifacts.put_asset(&file).await.unwrap();
        let key = pictor_artifacts::asset_key(&stored.digest);
        age(&base.artifacts.local_path(&key).unwrap(), days);
        stored
    };
    let (unused, fresh) = (put("unused", 3).await, put("fresh", 0).await);
    let (scene, texture) = (put("a scene", 3).await, put("a texture", 3).await);
    let nightly = put("nightly", 3).await;
    let file = |path: &str, stored: &pictor_artifacts::Stored| PackedFile {
        path: path.into(),
        digest: stored.digest.clone(),
        size_bytes: stored.size_bytes,
    };
    let files = vec![file("a.blend", &scene), file("wood.png", &texture)];
    let packed = PackManifest::new("a.blend".into(), files).unwrap();
    let packed = put(std::str::from_utf8(&packed.to_json()).unwrap(), 3).await;

    let mut new = schedule("nightly", "@daily", "UTC");
    new.job = job_with(&[("b.blend", &nightly.digest)]);
    base.schedules().add(&new, "ada").await.unwrap();
    let owner = base.owner().await;
    let run = base.submit(&owner, "packed", JOB).await;
    let mut stored = base.store.run_plan(&run).await.unwrap().unwrap();
    let mut plan: pictor_engine::Plan = serde_json::from_str(&stored.plan).unwrap();
    let reference = pictor_tasks::message::FileRef {
        path: "a.blend".into(),
        digest: packed.digest.clone(),
        size_bytes: packed.size_bytes,
    };
    plan.files.insert("a.blend".into(), reference);
    stored.plan = serde_json::to_string(&plan).unwrap();
    let new = pictor_storage::NewRun {
        id: RunId("uses".into()),
        name: "uses".into(),
        spec: stored.spec,
        source_name: String::new(),
        plan: stored.plan,
        fold_version: stored.fold_version,
        account: "ada".into(),
        priority: 0,
        created_ms: now_ms,
        out_dir: String::new(),
    };
    base.store.create_run(&new, None).await.unwrap();

    for (account, stored, age) in
        [("ada", &unused, 3), ("ada", &scene, 3), ("bob", &scene, 3), ("bob", &fresh, 0)]
    {
        let (account, digest) = (account.to_owned(), stored.digest.clone());
        let uploaded_ms = now_ms - age * DAY;
        let upload = Upload { account, digest, size_bytes: stored.size_bytes, uploaded_ms };
        base.registry.add_upload(&upload).await.unwrap();
    }
    let pruned = pruner(base).prune(&policy(None), false, now_ms).await.unwrap();
    assert_eq!((pruned.assets.files, pruned.failures.len()), (1, 0), "{pruned:?}");
    // What an account does not use counts no longer as its own, whoever else uses it.
    let mut left = Vec::new();
    for upload in base.registry.uploads().await.unwrap() {
        left.push((upload.account, upload.digest));
    }
    let of = |account: &str, stored: &pictor_artifacts::Stored| {
        (account.to_owned(), stored.digest.clone())
    };
    assert_eq!(left, [of("ada", &scene), of("bob", &fresh)]);
    let is_there = async |stored: &pictor_artifacts::Stored| {
        let key = pictor_artifacts::asset_key(&stored.digest);
        base.artifacts.exists(&key).await.unwrap()
    };
    assert!(!is_there(&unused).await);
    for kept in [&fresh, &scene, &texture, &nightly, &packed] {
        assert!(is_there(kept).await, "{kept:?}");
    }
    base.schedules().remove("nightly").await.unwrap();
    let pruned = pruner(base).prune(&policy(None), false, now_ms).await.unwrap();
    assert_eq!(pruned.assets.files, 1);
    assert!(!is_there(&nightly).await);
}
