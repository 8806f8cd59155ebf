//! What workers report about themselves over HTTP: their latest heartbeat, in memory, and their cached record.

use super::Api;
use super::caller::Caller;
use super::refusal::Refusal;
use super::workers::unreachable_broker;
use crate::election::interval_of;
use pictor_api::{Code, GpuLoad, MachineLoad, TokenRole};
use pictor_queue::ToOwner;
use pictor_storage::WorkerRecord;
use pictor_tasks::message::WorkerId;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a worker's cached record is used without a look-up. This server changes the records and knows when it does;
/// another one does so only while it believes itself to be the owner.
const BELIEVED: Duration = Duration::from_secs(30);

/// How many heartbeats a machine may miss before another one can be the same worker.
const MISSED: u32 = 3;

/// The latest heartbeat of a worker.
#[derive(Clone, Debug)]
pub(super) struct Beat {
    /// Epoch of the owner that received it. Another owner knows nothing of it.
    pub(super) epoch: u64,
    pub(super) gpus: Vec<GpuLoad>,
    pub(super) machine: MachineLoad,
    /// Whether the worker itself accepts tasks now; below, why not.
    pub(super) accepts: bool,
    pub(super) reason: String,
}

/// The latest reports of all workers.
#[derive(Debug, Default)]
pub(super) struct Heartbeats {
    beats: Mutex<HashMap<u32, Beat>>,
    records: Mutex<HashMap<u32, (Instant, Arc<WorkerRecord>)>>,
    /// The instance of each worker, and when it was last heard from.
    instances: Mutex<HashMap<u32, (String, Instant)>>,
    /// How often a record was changed, or a worker signed off.
    changes: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Heartbeats {
    /// Stores a heartbeat. Returns the previous one.
    pub(super) fn note(&self, worker: u32, beat: Beat) -> Option<Beat> {
        lock(&self.beats).insert(worker, beat)
    }

    /// The latest heartbeat of a worker.
    pub(super) fn latest(&self, worker: u32) -> Option<Beat> {
        lock(&self.beats).get(&worker).cloned()
    }

    /// How often a worker has registered, signed off or been changed, since this server started.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Drops the reports of a worker that signed off.
    pub(super) fn remove(&self, worker: u32) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        lock(&self.beats).remove(&worker);
        lock(&self.instances).remove(&worker);
    }

    /// Records that an instance of a worker was heard from.
    pub(super) fn heard(&self, worker: u32, instance: String) {
        lock(&self.instances).insert(worker, (instance, Instant::now()));
    }

    /// Drops the cached record of a worker that was changed.
    pub(super) fn forget(&self, worker: u32) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        lock(&self.records).remove(&worker);
    }
}

impl Api {
    /// The interval of heartbeats now.
    pub(super) fn interval(&self) -> Duration {
        interval_of(self.heartbeat, self.lease, lock(&self.heartbeats.beats).len())
    }

    /// Rejects a machine that claims to be a worker while another machine is: a second machine of that name, or one
    /// with a copied data folder. Both would be given the same tasks again and again.
    pub(super) fn check_instance(
        &self,
        worker: &WorkerRecord,
        instance: &str,
    ) -> Result<(), Refusal> {
        let (id, name) = (worker.id.0, &worker.name);
        let instances = lock(&self.heartbeats.instances);
        let Some((there, heard)) = instances.get(&id) else { return Ok(()) };
        let silent = heard.elapsed();
        if there.is_empty() || there == instance || silent >= MISSED * self.interval() {
            return Ok(());
        }
        let detail = format!(
            "the name `{name}` is in use by worker {id}, a machine heard of {} s ago: give this machine another \
             name with --name (and its own data folder, if it is a copy), or end that one",
            silent.as_secs()
        );
        Err(Refusal::new(Code::NameInUse, detail))
    }

    /// The record of a worker, which may be cached.
    pub(super) async fn worker(&self, id: u32) -> Result<Option<Arc<WorkerRecord>>, Refusal> {
        if let Some((since, record)) = lock(&self.heartbeats.records).get(&id)
            && since.elapsed() < BELIEVED
        {
            return Ok(Some(record.clone()));
        }
        let (asked, changes) = (Instant::now(), self.heartbeats.changes());
        let Some(record) = self.registry.worker(WorkerId(id)).await? else { return Ok(None) };
        let record = Arc::new(record);
        let mut records = lock(&self.heartbeats.records);
        // It may have been changed after it was read.
        if self.heartbeats.changes() == changes
            && records.insert(id, (asked, record.clone())).is_none()
        {
            // Perhaps another server has registered it.
            self.heartbeats.changes.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Some(record))
    }

    /// After tokens of machines were revoked: removes the access of these workers to the broker, and releases their
    /// tasks. May be repeated. Returns their numbers.
    pub(super) async fn shut_out(&self, tokens: &BTreeSet<String>) -> Result<Vec<u32>, Refusal> {
        let mut workers = self.registry.workers().await?;
        workers.retain(|worker| tokens.contains(&worker.token));
        for worker in &workers {
            if let Some(broker) = &self.broker {
                broker.remove_worker(worker.id).await.map_err(unreachable_broker)?;
            }
            self.owner()?.tell(ToOwner::Left(worker.id)).await?;
            self.registry.worker_left(worker.id, (self.now_ms)()).await?;
            self.heartbeats.remove(worker.id.0);
            self.events.worker(worker.id.0, "left");
        }
        Ok(workers.into_iter().map(|worker| worker.id.0).collect())
    }

    /// The record of the worker that the caller is. Fails if the caller is another one.
    pub(super) async fn own(&self, caller: &Caller, id: u32) -> Result<Arc<WorkerRecord>, Refusal> {
        let record = self.worker(id).await?;
        let record = record.ok_or_else(|| Refusal::not_found(format_args!("worker {id}")))?;
        if caller.role == TokenRole::Machine && record.token == caller.token {
            return Ok(record);
        }
        let detail = format!("the token is not that of worker {id}");
        Err(Refusal::new(Code::Forbidden, detail))
    }
}
