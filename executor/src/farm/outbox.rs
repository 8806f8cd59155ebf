//! The sending side of a worker: reports through the broker, everything else by HTTP.

use super::GOODBYE;
use super::api::{Api, ApiError};
use super::duty::Standing;
use super::store::FarmStore;
use crate::ground::lock;
use crate::worker::agent::Intake;
use crate::worker::inventory::Telemetry;
use async_trait::async_trait;
use pictor_api::{GpuLoad, Heartbeat, HeartbeatReply, Holding, MachineLoad, Service};
use pictor_queue::{Outbox, RabbitReports, SendError, ToOwner};
use pictor_tasks::message::{Input, StepKey, Try, WorkerId};
use pictor_tasks::worker::Inventory;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Duration, Instant, timeout};

/// The time limit for a heartbeat: when it is given up, the next one is almost due.
const HEARTBEAT: Duration = Duration::from_secs(4);

/// How much too early a heartbeat is sent rather than left out. They come every few seconds at the earliest.
const EARLY: Duration = Duration::from_secs(2);
/// How long a heartbeat waits for the load of the machine.
const TELEMETRY: Duration = Duration::from_secs(1);
/// A worker that has not reached the broker for that long stops asking for work: tasks would not arrive. A shorter
/// outage concerns all workers alike.
const CUT_OFF: Duration = Duration::from_secs(20);

/// The load of the GPUs and of the rest of the machine.
type Looks = (Vec<GpuLoad>, MachineLoad);

/// The last heartbeat that the farm has heard.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Whether the worker accepted tasks, and why not.
    accepts: bool,
    reason: String,
    /// When the next one is due; `None` if at once.
    next: Option<Instant>,
}

/// Sends a worker's messages to its farm.
#[derive(Debug)]
pub(crate) struct FarmOutbox {
    pub(crate) api: Arc<Api>,
    pub(crate) worker: WorkerId,
    /// The name of this instance of the worker (`identity::instance`).
    pub(crate) instance: String,
    /// Sends reports through the broker.
    pub(crate) reports: RabbitReports,
    pub(crate) store: Arc<FarmStore>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) data: PathBuf,
    /// The inventory, until a server has received it.
    pub(crate) inventory: Mutex<Option<Inventory>>,
    pub(crate) standing: watch::Receiver<Standing>,
    /// A measurement that has not finished in time.
    pub(crate) looking: Mutex<Option<JoinHandle<Looks>>>,
    /// The time since which the broker has been unreachable.
    pub(crate) cut_off: Mutex<Option<Instant>>,
    /// What the farm has heard, and when it expects the next heartbeat.
    pub(crate) heard: Mutex<Heard>,
    /// The operator's wish.
    pub(crate) service: watch::Sender<Service>,
    /// Why the farm does not know this worker any more, if so.
    pub(crate) unknown: watch::Sender<Option<String>>,
}

impl Heard {
    /// Whether a heartbeat with this content can be left out: the next one will be early enough.
    fn is_enough(&self, accepts: bool, reason: &str) -> bool {
        let is_early = self.next.is_some_and(|next| Instant::now() + EARLY < next);
        is_early && (self.accepts, &*self.reason) == (accepts, reason)
    }
}

impl FarmOutbox {
    /// The tasks with their tickets, if it has all of them: a server matches them by position.
    fn holding(&self, key: StepKey, tasks: Vec<Try>) -> Holding {
        let tickets = tasks.iter().map(|task| self.store.tickets.of(&key, *task));
        let tickets = tickets.collect::<Option<_>>().unwrap_or_default();
        Holding { key, tasks, tickets }
    }

    /// Sends one heartbeat, unless the farm wants them less often and nothing has changed. If it is not received, the
    /// next one follows soon.
    async fn heartbeat(&self, held: Vec<(StepKey, Vec<Try>)>) {
        let Standing { intake, mut reason } = self.standing.borrow().clone();
        let is_cut_off = self.is_cut_off();
        if is_cut_off && intake == Intake::Open {
            "the broker cannot be reached".clone_into(&mut reason);
        }
        let accepts = intake == Intake::Open && !is_cut_off;
        let inventory = lock(&self.inventory).clone();
        let tells = inventory.is_some();
        if !tells && lock(&self.heard).is_enough(accepts, &reason) {
            return;
        }
        let (gpus, machine) = self.look().await;
        let holding = held.into_iter().map(|(key, tasks)| self.holding(key, tasks)).collect();
        let said = (accepts, reason.clone());
        let (asked, instance) = (Instant::now(), self.instance.clone());
        let heartbeat = Heartbeat { instance, holding, gpus, machine, inventory, accepts, reason };
        let path = format!("/v1/workers/{}/heartbeat", self.worker.0);
        match self.api.post::<HeartbeatReply>(&path, &heartbeat, Some(HEARTBEAT)).await {
            Ok(reply) => {
                if tells {
                    *lock(&self.inventory) = None;
                }
                let (accepts, reason) = said;
                let next = reply.heartbeat_ms.map(|ms| asked + Duration::from_millis(ms));
                *lock(&self.heard) = Heard { accepts, reason, next };
                self.service
                    .send_if_modified(|now| std::mem::replace(now, reply.state) != reply.state);
            }
            Err(error) => {
                tracing::debug!(%error, "a heartbeat was not heard");
                lock(&self.heard).next = None;
                self.notice(&error);
            }
        }
    }

    /// The load of the machine, if it can be measured quickly: a driver or a disk may hang, and leases must not expire
    /// because of that.
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

    /// A farm that does not know this worker sends no more work. Something in between, such as a proxy, may answer in
    /// the same way.
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
            // The former are requested by HTTP, the others sent by servers only.
            ToOwner::Inputs { .. } | ToOwner::Barrier(_) | ToOwner::Unproven(..) => {}
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
