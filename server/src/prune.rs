//! Removes old data: runs that have ended, with their artifacts and logs, and artifacts that nothing refers to any
//! more.
//!
//! **Invariant:** history never points to artifacts that a prune has removed. The archive is on disk before the rows
//! are removed, and the rows are removed before the artifacts; what a crash leaves in between are artifacts without a
//! run, which every prune looks for.

mod archive;
mod assets;

use crate::{Error, ServerRole, load_run};
use pictor_artifacts::{Artifacts, logs_folder, run_folder, step_folder};
use pictor_engine::{Plan, RunLimits};
use pictor_storage::{Registry, RunFilter, RunRecord, Store};
use pictor_tasks::message::RunId;
use pictor_tasks::state::RunState;
use pictor_tasks::units::Millis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

/// Minimum age at which artifacts without a run and unused assets are removed: younger ones may be about to become part
/// of one.
const GRACE_MS: i64 = 86_400_000;
/// Minimum age of removed records: outcomes of due times and webhook messages.
const RECORDS_MIN_MS: i64 = 30 * 86_400_000;
/// Minimum age of removed runs: somebody may be about to reset a younger one.
const AGE_MIN_MS: i64 = 3_600_000;
/// Runs that are read at a time.
const PAGE: u32 = 1000;
/// How often a server prunes.
const EVERY: Duration = Duration::from_hours(24);
/// Most failures that are listed one by one.
const FAILURES_MAX: usize = 100;

/// The rules for what is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Age, counted from its end, above which a run is removed; at least an hour.
    pub older_than: Millis,
    /// Age above which a failed run is removed, if that is more than `older_than`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_failed: Option<Millis>,
    /// Folder in which each removed run is kept as one file of JSON lines: the run itself, its job file, its plan and
    /// its history, but not its artifacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<PathBuf>,
}

/// A number of files and their total size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Files {
    /// Number of files or artifacts.
    pub files: u64,
    /// Total size in bytes.
    pub size_bytes: u64,
}

/// What was removed, or would be removed in a dry run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Runs that were removed with their history.
    pub runs: u64,
    /// Artifacts of these runs.
    pub artifacts: Files,
    /// Logs of these runs, on disk and in artifact storage.
    pub logs: Files,
    /// Artifacts and logs of runs that are not in the database, and artifacts that are no longer needed.
    pub orphans: Files,
    /// Uploaded files that no run and no schedule uses.
    pub assets: Files,
    /// Outcomes of due times and webhook messages. Not counted in a dry run.
    pub records: u64,
    /// What could not be removed, and why; the next prune retries.
    pub failures: Vec<String>,
}

impl Files {
    fn add(&mut self, more: Self) {
        self.files += more.files;
        self.size_bytes += more.size_bytes;
    }
}

impl Pruned {
    fn failed(&mut self, what: impl std::fmt::Display, why: impl std::fmt::Display) {
        let text = format!("{what}: {why}");
        warn!("not pruned: {text}");
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(text);
        }
    }
}

/// The stores that hold what a run leaves behind.
#[derive(Clone)]
pub struct Pruner {
    /// Runs and their history.
    pub store: Arc<dyn Store>,
    /// Schedules, with the outcomes of their due times, and webhook messages.
    pub registry: Arc<dyn Registry>,
    /// Artifact storage, with results, assets and stored logs.
    pub artifacts: Arc<Artifacts>,
    /// Folder with one folder of logs for each run: the logs that are not in artifact storage.
    pub logs: PathBuf,
}

impl Pruner {
    /// Prunes once a day while this server owns the farm, until the sender of the role is dropped.
    pub async fn run(
        &self,
        policy: &Policy,
        now_ms: fn() -> i64,
        mut role: watch::Receiver<ServerRole>,
    ) {
        loop {
            let is_owner = role.borrow_and_update().owner().is_some();
            let work = async {
                if !is_owner {
                    std::future::pending::<()>().await;
                }
                match self.prune(policy, false, now_ms()).await {
                    Ok(pruned) => info!(?pruned, "old runs were removed"),
                    Err(failure) => warn!(error = %failure, "old runs could not be removed"),
                }
                sleep(EVERY).await;
            };
            tokio::select! {
                () = work => {}
                changed = role.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Removes what is old at `now_ms`; with `dry_run` it only counts. An error means that the prune could not
    /// continue; objects that could not be removed are listed as failures.
    pub async fn prune(
        &self,
        policy: &Policy,
        dry_run: bool,
        now_ms: i64,
    ) -> Result<Pruned, Error> {
        let mut pruned = Pruned::default();
        let old = self.old_runs(policy, now_ms).await?;
        for record in &old {
            match self.one_run(record, policy, dry_run).await {
                Ok(None) => {}
                Ok(Some((artifacts, logs))) => {
                    pruned.runs += 1;
                    pruned.artifacts.add(artifacts);
                    pruned.logs.add(logs);
                }
                Err(why) => pruned.failed(format!("run {}", record.id), why),
            }
        }
        self.orphans(&mut pruned, dry_run, now_ms).await?;
        // In a dry run these runs still exist, but what they use counts as unused.
        let gone: Vec<&str> = old.iter().map(|record| &*record.id.0).collect();
        self.assets(&gone, &mut pruned, dry_run, now_ms).await?;
        if !dry_run {
            let keep_ms = age(policy.older_than).max(RECORDS_MIN_MS);
            pruned.records = self.registry.forget_before(now_ms - keep_ms).await?;
        }
        Ok(pruned)
    }

    /// The runs to be removed, oldest first.
    async fn old_runs(&self, policy: &Policy, now_ms: i64) -> Result<Vec<RunRecord>, Error> {
        let older_than = age(policy.older_than).max(AGE_MIN_MS);
        let failed = policy.keep_failed.map_or(older_than, |keep| age(keep).max(older_than));
        let is_old = |record: &RunRecord| {
            let keep_ms = if record.state == RunState::Failed { failed } else { older_than };
            record.finished_ms.is_some_and(|end| end < now_ms - keep_ms)
        };
        let (mut old, mut after) = (Vec::new(), None);
        loop {
            let page = self.store.runs(&RunFilter::default(), PAGE, after.as_ref()).await?;
            after = page.last().map(|record| record.id.clone());
            let is_last = page.len() < PAGE as usize;
            old.extend(page.into_iter().filter(|record| is_old(record)));
            if is_last {
                // Oldest first: an interrupted prune is resumed where it stopped.
                old.reverse();
                return Ok(old);
            }
        }
    }

    /// Removes one run. Returns `None` if it has been removed already, or is running again.
    async fn one_run(
        &self,
        record: &RunRecord,
        policy: &Policy,
        dry_run: bool,
    ) -> Result<Option<(Files, Files)>, Error> {
        let id = &record.id;
        if dry_run {
            let (artifacts, mut logs) = self.count_run(id).await?;
            logs.add(count_folder(&self.logs.join(&*id.0)).0);
            return Ok(Some((artifacts, logs)));
        }
        if let Some(folder) = &policy.archive {
            archive::write(&*self.store, record, folder).await?;
        }
        match self.store.remove_run(id).await {
            Ok(true) => {}
            Ok(false) | Err(pictor_storage::Error::Invalid(_)) => return Ok(None),
            Err(failure) => return Err(failure.into()),
        }
        let (artifacts, mut logs) = self.count_run(id).await?;
        self.artifacts.remove_folder(&run_folder(id)).await?;
        logs.add(remove_folder(&self.logs.join(&*id.0)).map_err(pictor_storage_io)?);
        Ok(Some((artifacts, logs)))
    }

    /// Removes artifacts and logs of runs that are not in the database.
    async fn orphans(&self, pruned: &mut Pruned, dry_run: bool, now_ms: i64) -> Result<(), Error> {
        for run in self.artifacts.folders("runs").await? {
            if self.is_stored(&run).await? {
                match self.unswept(&RunId((*run).into()), dry_run).await {
                    Ok(files) => pruned.orphans.add(files),
                    Err(why) => pruned.failed(run, why),
                }
                continue;
            }
            let folder = run_folder(&RunId((*run).into()));
            let (files, newest_ms) = self.count(&folder).await?;
            if newest_ms.is_some_and(|newest| newest > now_ms - GRACE_MS) {
                continue;
            }
            let removed = if dry_run { Ok(files) } else { self.remove(&folder).await };
            match removed {
                Ok(files) => pruned.orphans.add(files),
                Err(why) => pruned.failed(folder, why),
            }
        }
        for run in folders_in(&self.logs) {
            let folder = self.logs.join(&run);
            let (files, newest_ms) = count_folder(&folder);
            let is_new = newest_ms.is_some_and(|newest| newest > now_ms - GRACE_MS);
            if is_new || self.is_stored(&run).await? {
                continue;
            }
            let removed = if dry_run { Ok(files) } else { remove_folder(&folder) };
            match removed {
                Ok(files) => pruned.orphans.add(files),
                Err(why) => pruned.failed(folder.display(), why),
            }
        }
        Ok(())
    }

    /// Removes what is still stored of an ended run although its history says it is removed, because a server died in
    /// between. For a run that has not ended, its owner does that.
    async fn unswept(&self, id: &RunId, dry_run: bool) -> Result<Files, Error> {
        let mut files = Files::default();
        let record = self.store.run(&id.0).await?;
        let is_over = record.is_some_and(|record| record.finished_ms.is_some());
        let Some(stored) = self.store.run_plan(id).await?.filter(|_| is_over) else {
            return Ok(files);
        };
        // An unreadable plan is reported where assets are examined.
        let Ok(plan) = serde_json::from_str::<Plan>(&stored.plan) else { return Ok(files) };
        let mut there = Vec::new();
        for step in plan.steps.iter().filter(|step| step.keep_until.is_some()) {
            there.extend(self.artifacts.list(&step_folder(id, &step.name)).await?);
        }
        if there.is_empty() {
            return Ok(files);
        }
        let run = load_run(&*self.store, id, &RunLimits::default()).await?;
        let pending_deletions: BTreeSet<&String> = run.pending_deletions().iter().collect();
        there.retain(|artifact| pending_deletions.contains(&artifact.key));
        let size_bytes = there.iter().map(|artifact| artifact.size_bytes).sum();
        files.add(Files { files: there.len() as u64, size_bytes });
        if !dry_run {
            let keys: Vec<String> = there.into_iter().map(|artifact| artifact.key).collect();
            self.artifacts.remove_below(&run_folder(id), &keys).await?;
        }
        Ok(files)
    }

    /// Whether there is a run with exactly this id.
    async fn is_stored(&self, id: &str) -> Result<bool, Error> {
        match self.store.run(id).await {
            Ok(found) => Ok(found.is_some_and(|record| &*record.id.0 == id)),
            // An ambiguous prefix of ids is not an id itself.
            Err(pictor_storage::Error::Invalid(_)) => Ok(false),
            Err(failure) => Err(failure.into()),
        }
    }

    /// The artifacts below a folder, and when the newest of them was written, if that is known.
    async fn count(&self, folder: &str) -> Result<(Files, Option<i64>), Error> {
        let listed = self.artifacts.list(folder).await?;
        let size_bytes = listed.iter().map(|artifact| artifact.size_bytes).sum();
        let newest = listed.iter().filter_map(|artifact| artifact.modified_ms).max();
        Ok((Files { files: listed.len() as u64, size_bytes }, newest))
    }

    /// The artifacts and the logs of a run in artifact storage.
    async fn count_run(&self, id: &RunId) -> Result<(Files, Files), Error> {
        let (mut artifacts, mut logs) = (Files::default(), Files::default());
        let of_logs = format!("{}/", logs_folder(id));
        for stored in self.artifacts.list(&run_folder(id)).await? {
            let one = Files { files: 1, size_bytes: stored.size_bytes };
            if stored.key.starts_with(&of_logs) { logs.add(one) } else { artifacts.add(one) }
        }
        Ok((artifacts, logs))
    }

    async fn remove(&self, folder: &str) -> Result<Files, Error> {
        let (files, _) = self.count(folder).await?;
        self.artifacts.remove_folder(folder).await?;
        Ok(files)
    }
}

fn age(age: Millis) -> i64 {
    i64::try_from(age.0).unwrap_or(i64::MAX)
}

fn pictor_storage_io(error: std::io::Error) -> Error {
    Error::Store(pictor_storage::Error::Unavailable {
        message: "logs cannot be removed".to_owned(),
        retryable: false,
        source: Some(Box::new(error)),
    })
}

/// The names of the folders in a folder; empty if it does not exist.
fn folders_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The files below a folder, and when the newest of them was written.
fn count_folder(folder: &Path) -> (Files, Option<i64>) {
    let (mut files, mut newest) = (Files::default(), None);
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
                continue;
            }
            files.add(Files { files: 1, size_bytes: metadata.len() });
            let written = metadata.modified().ok();
            let since = written.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
            newest = newest.max(since.and_then(|since| i64::try_from(since.as_millis()).ok()));
        }
    }
    (files, newest)
}

fn remove_folder(folder: &Path) -> std::io::Result<Files> {
    let (files, _) = count_folder(folder);
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(files),
    }
}
