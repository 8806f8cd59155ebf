//! The worker's sending half: reports by the broker, everything else by HTTP.

use super::GOODBYE;
use super::api::{Api, ApiError};
use super::duty::Standing;
use super::store::FarmStore;
use super::wire::{Heartbeat, Holding, Orders};
use crate::ground::lock;
use crate::worker::agent::Intake;
use crate::worker::inventory::{GpuLoad, MachineLoad, Telemetry};
use async_trait::async_trait;
use pictor_queue::{Outbox, RabbitReports, SendError, ToOwner};
use pictor_tasks::message::{Input, StepKey, Try, WorkerId};
use pictor_tasks::state::Service;
use pictor_tasks::worker::Inventory;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Duration, Instant, timeout};

/// The next heartbeat is about to come when this one is given up.
const HEARTBEAT: Duration = Duration::from_secs(4);

/// A heartbeat waits so long for what the machine is doing.
const TELEMETRY: Duration = Duration::from_secs(1);
/// A worker that has not reached the broker for so long asks for no work: what it is given does not arrive.
/// A shorter outage is everybody's.
const CUT_OFF: Duration = Duration::from_secs(20);

/// What the machine is doing.
type Looks = (Vec<GpuLoad>, MachineLoad);

/// What a worker sends to its farm.
#[derive(Debug)]
pub(crate) struct FarmOutbox {
    pub(crate) api: Arc<Api>,
    pub(crate) worker: WorkerId,
    /// Where this worker runs.
    pub(crate) place: String,
    /// Takes reports to the broker.
    pub(crate) reports: RabbitReports,
    pub(crate) store: Arc<FarmStore>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) data: PathBuf,
    /// What the machine has, until a server has heard it.
    pub(crate) inventory: Mutex<Option<Inventory>>,
    pub(crate) standing: watch::Receiver<Standing>,
    /// A look at the machine that takes long.
    pub(crate) looking: Mutex<Option<JoinHandle<Looks>>>,
    /// Since when the broker is not reached.
    pub(crate) cut_off: Mutex<Option<Instant>>,
    /// What the operator wants.
    pub(crate) service: watch::Sender<Service>,
    /// Why the farm does not know this worker any more.
    pub(crate) unknown: watch::Sender<Option<String>>,
}

impl FarmOutbox {
    /// Says once that we are alive. If nobody hears it, the next time is near.
    async fn heartbeat(&self, held: Vec<(StepKey, Vec<Try>)>) {
        let (gpus, machine) = self.look().await;
        let holding = held.into_iter().map(|(key, tasks)| Holding { key, tasks }).collect();
        let Standing { intake, mut reason } = self.standing.borrow().clone();
        let is_cut_off = self.is_cut_off();
        if is_cut_off && intake == Intake::Open {
            "the broker cannot be reached".clone_into(&mut reason);
        }
        let inventory = lock(&self.inventory).clone();
        let heartbeat = Heartbeat {
            place: &self.place,
            holding,
            gpus,
            machine,
            inventory: inventory.as_ref(),
            accepts: intake == Intake::Open && !is_cut_off,
            reason: &reason,
        };
        let path = format!("/v1/workers/{}/heartbeat", self.worker.0);
        match self.api.post::<Orders>(&path, &heartbeat, Some(HEARTBEAT)).await {
            Ok(orders) => {
                if inventory.is_some() {
                    *lock(&self.inventory) = None;
                }
                self.service
                    .send_if_modified(|now| std::mem::replace(now, orders.state) != orders.state);
            }
            Err(error) => {
                tracing::debug!(%error, "a heartbeat was not heard");
                self.notice(&error);
            }
        }
    }

    /// What the machine is doing, if it can be told at once: a driver or a disk may hang, and leases must not
    /// end for that.
    async fn look(&self) -> Looks {
        let (telemetry, data) = (self.telemetry.clone(), self.data.clone());
        let under_way = lock(&self.looking).take();
        let mut look = under_way.unwrap_or_else(|| {
            spawn_blocking(move || (telemetry.gpus(), telemetry.machine(&data)))
        });
        if let Ok(found) = timeout(TELEMETRY, &mut look).await {
            return found.unwrap_or_default();
        }
        *lock(&self.looking) = Some(look);
        <_>::default()
    }

    fn is_cut_off(&self) -> bool {
        let mut since = lock(&self.cut_off);
        *since =
            if self.reports.is_connected() { None } else { since.or_else(|| Some(Instant::now())) };
        since.is_some_and(|since| since.elapsed() >= CUT_OFF)
    }

    /// A farm that does not know us gives us no more work. What stands between may say such things, too.
    fn notice(&self, error: &ApiError) {
        if error.disowns_us() || error.is_in_use() {
            self.unknown.send_replace(Some(error.to_string()));
        }
    }
}

#[async_trait]
impl Outbox for FarmOutbox {
    async fn send(&self, message: ToOwner) -> Result<(), SendError> {
        match message {
            ToOwner::Report(report) => return self.reports.send(report).await,
            ToOwner::Joined(_, inventory) => {
                *lock(&self.inventory) = Some(inventory);
                self.heartbeat(Vec::new()).await;
            }
            ToOwner::Heartbeat(_, held) => self.heartbeat(held).await,
            ToOwner::Left(id) => {
                let path = format!("/v1/workers/{}/left", id.0);
                let said = self.api.post_patiently::<serde_json::Value>(&path, &());
                match timeout(GOODBYE, said).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "the farm does not take our goodbye"),
                    Err(_) => tracing::warn!("the farm is not there to hear our goodbye"),
                }
            }
            // Asked by HTTP; made by servers.
            ToOwner::Inputs { .. } | ToOwner::Barrier(_) => {}
        }
        Ok(())
    }

    async fn inputs(&self, key: StepKey, task: Try) -> Option<Vec<Input>> {
        match self.store.inputs(&key, task).await {
            Ok(inputs) => Some(inputs.into_iter().map(|linked| linked.input).collect()),
            Err(error) => {
                tracing::warn!(%error, run = %key.run, "a task is not ours any more");
                self.reports.forget(&key, &[task]);
                None
            }
        }
    }
}
