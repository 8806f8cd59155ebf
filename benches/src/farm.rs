//! A farm in one process: owner, queue and one worker, as `pictor run` has them.

use pictor_artifacts::Artifacts;
use pictor_engine::{Config, Plan, Run, RunState};
use pictor_executor::Agent;
use pictor_queue::in_process;
use pictor_server::{Destination, Owner, OwnerHandle, deliver_all, load_run, now_ms, read_job};
use pictor_storage::{NewRun, SqliteStore, Store};
use pictor_tasks::history::{Fact, Row};
use pictor_tasks::message::{RunId, WorkerId};
use pictor_tasks::worker::Inventory;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const WORKER: WorkerId = WorkerId(1);

/// The inventory of a machine with two slots and nothing else.
pub fn two_slots() -> Inventory {
    Inventory { slots: 2, ..Inventory::default() }
}

/// A farm that waits for jobs.
pub struct BenchFarm {
    folder: PathBuf,
    store: Arc<dyn Store>,
    handle: OwnerHandle,
    owner: JoinHandle<Result<(), pictor_server::Error>>,
    agent: pictor_executor::Handle,
    runs: u32,
}

impl BenchFarm {
    /// Starts a farm with one worker of this inventory.
    ///
    /// # Panics
    /// If the folder cannot be used.
    pub async fn start(folder: &Path, inventory: Inventory) -> Self {
        let store = Arc::new(SqliteStore::open(folder).await.expect("the folder is ours"));
        let (port, mut workers) = in_process(&[WORKER]);
        let (owner, handle) = Owner::new(Config::default(), store.clone(), Box::new(port), now_ms);
        let mut config = pictor_executor::Config::new(folder.to_path_buf(), inventory.clone());
        (config.slots, config.allow_commands) = (inventory.slots, inventory.allows_commands);
        let worker = workers.remove(0);
        let outbox = Arc::new(worker.sender());
        let artifacts = pictor_executor::Artifacts::in_folder(&config.artifacts());
        let artifacts = artifacts.expect("the folder is ours");
        let agent = Agent::start(Box::new(worker), outbox, WORKER, config, artifacts)
            .expect("the folder is ours");
        let (owner, folder) = (tokio::spawn(owner.run()), folder.to_path_buf());
        Self { folder, store, handle, owner, agent, runs: 0 }
    }

    /// Submits and runs a job. Returns the seconds from the reading of the job file to the moment at which the
    /// committed success of the run is known.
    ///
    /// # Panics
    /// If the run does not succeed.
    pub async fn run(&mut self, text: &str) -> f64 {
        let file = self.folder.join("job.yaml");
        std::fs::write(&file, text).expect("the disk has room");
        self.runs += 1;
        let id = self.last();
        let started = Instant::now();
        let job = read_job(&file, &[], true, &pictor_engine::RunLimits::default())
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        let new = new_run(&id, text, &job.plan);
        self.store.create_run(&new, None).await.expect("the store works");
        let mut news = self.handle.news();
        let run = Run::new(id.clone(), Arc::new(job.plan));
        self.handle.add(run, String::new(), new.created_ms).await.expect("the owner works");
        let ended = loop {
            let committed = news.recv().await.expect("nobody is behind");
            match committed.changed.get(&id) {
                Some(state) if state.is_terminal() => break *state,
                _ => {}
            }
        };
        assert_eq!(ended, RunState::Succeeded, "{id} in {}", self.folder.display());
        started.elapsed().as_secs_f64()
    }

    /// Copies the results of the last run to the folder `out`. Returns the number of files.
    ///
    /// # Panics
    /// If they cannot be copied.
    pub async fn deliver(&self, out: &Path) -> usize {
        let run = load_run(&*self.store, &self.last(), &pictor_engine::RunLimits::default())
            .await
            .expect("the run is stored");
        let artifacts = Artifacts::folder(&self.folder.join("artifacts")).expect("it is there");
        let destination = Destination { folder: out.to_owned(), ..Destination::default() };
        let delivered = deliver_all(&run, &*self.store, &artifacts, &destination).await;
        let delivered = delivered.expect("its history can be read");
        assert_eq!(delivered.failures, [] as [String; 0]);
        delivered.files.len()
    }

    /// The seconds that each task of a step of the last run took, in the order in which they ended. Empty if the job
    /// has no such step.
    ///
    /// # Panics
    /// If the history cannot be read.
    pub async fn durations(&self, step: &str) -> Vec<f64> {
        let run = load_run(&*self.store, &self.last(), &pictor_engine::RunLimits::default())
            .await
            .expect("the run is stored");
        let Some(step) = run.plan().step(step) else { return Vec::new() };
        let mut took = Vec::new();
        let each = &mut |row: Row| match row.fact {
            Fact::Ended(ended) if ended.task.step == step => {
                took.push(f64::from(ended.took_ms) / 1e3);
            }
            _ => {}
        };
        self.store.load_history(&self.last(), 1, each).await.expect("the store works");
        took
    }

    /// The id of the last run.
    fn last(&self) -> RunId {
        RunId(format!("bench-{}", self.runs).into())
    }

    /// Stops the worker and the owner.
    ///
    /// # Panics
    /// If the owner failed.
    pub async fn stop(self) {
        self.agent.shutdown().await;
        self.handle.stop().await;
        self.owner.await.expect("the owner does not panic").expect("the owner works");
    }
}

/// The record to store for a new run.
///
/// # Panics
/// Never: a plan is plain data.
pub fn new_run(id: &RunId, text: &str, plan: &Plan) -> NewRun {
    NewRun {
        id: id.clone(),
        name: plan.name.clone(),
        spec: text.to_owned(),
        source_name: "bench".into(),
        plan: serde_json::to_string(plan).expect("a plan is plain data"),
        fold_version: plan.fold_version,
        account: String::new(),
        priority: 0,
        created_ms: now_ms(),
        out_dir: String::new(),
    }
}
