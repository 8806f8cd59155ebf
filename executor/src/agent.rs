//! The worker's agent: takes messages at once, hands bundles to its slots, claims what takes long, and
//! says that it is alive.

use crate::artifacts::Artifacts;
use crate::blender::Sessions;
use crate::bundle::Bundle;
use crate::slot::{Slot, at, scratch_root};
use crate::task::Device;
use pictor_queue::{Sender, ToOwner, ToWorker, WorkerPort};
use pictor_tasks::message::{Assignment, Cancel, Execution, Report, StepKey, Try, What, WorkerId};
use pictor_tasks::worker::Inventory;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Duration, Instant, MissedTickBehavior, interval};

/// Messages of the agent that may wait for a slow owner before the agent waits too.
const OUTBOX: usize = 256;

/// The programs that runners start: a path, or a name to look for in PATH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// Blender.
    pub blender: PathBuf,
    /// ffmpeg.
    pub ffmpeg: PathBuf,
    /// ffprobe.
    pub ffprobe: PathBuf,
    /// Python 3.
    pub python: PathBuf,
}

impl Default for Programs {
    fn default() -> Self {
        Self {
            blender: "blender".into(),
            ffmpeg: "ffmpeg".into(),
            ffprobe: "ffprobe".into(),
            python: "python3".into(),
        }
    }
}

/// A worker's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of artifacts, logs and scratch folders. It is made if needed.
    pub data: PathBuf,
    /// Tasks at a time. Slot `i` drives GPU `i`, if there is one.
    pub slots: u32,
    /// What the machine has.
    pub inventory: Inventory,
    /// Whether `command` steps may run here.
    pub allow_commands: bool,
    /// How often the worker says that it is alive.
    pub heartbeat: Duration,
    /// How long a bundle may be held before it is claimed.
    pub claim_after: Duration,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// Where the programs are.
    pub programs: Programs,
}

impl Config {
    /// One slot for each GPU, or one, and no commands.
    pub fn new(data: PathBuf, inventory: Inventory) -> Self {
        let slots = u32::try_from(inventory.gpus.len()).unwrap_or(u32::MAX).max(1);
        Self {
            data,
            slots,
            inventory,
            allow_commands: false,
            heartbeat: Duration::from_secs(5),
            claim_after: Duration::from_secs(5),
            grace: Duration::from_secs(1),
            programs: Programs::default(),
        }
    }

    /// The folder of the artifacts.
    pub fn artifacts(&self) -> PathBuf {
        self.data.join("artifacts")
    }
}

/// How a worker goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// Running tasks are finished first.
    Drained,
    /// Running tasks are stopped and handed back.
    Now,
}

/// A running agent. Dropping it stops the worker in good order, without waiting for that.
#[derive(Debug)]
pub struct Handle {
    leave: watch::Sender<Option<Leave>>,
    agent: JoinHandle<()>,
}

impl Handle {
    /// Stops running tasks, hands everything back and says goodbye. Takes less than 2 s.
    pub async fn shutdown(self) {
        self.end(Leave::Now).await;
    }

    /// Finishes running tasks, hands back the rest and says goodbye.
    pub async fn drain(self) {
        self.end(Leave::Drained).await;
    }

    /// Waits until the worker has ended by itself, because its owner is gone.
    pub async fn ended(&mut self) {
        // A panic was printed where it happened.
        let _ = (&mut self.agent).await;
    }

    async fn end(mut self, leave: Leave) {
        self.leave.send_replace(Some(leave));
        self.ended().await;
    }
}

/// A worker's agent.
#[derive(Debug)]
pub struct Agent {
    id: WorkerId,
    config: Arc<Config>,
    outbox: mpsc::Sender<ToOwner>,
    slots: Vec<SlotState>,
    /// Everything that is held, in the order of its arrival.
    held: Vec<Arc<Bundle>>,
    /// What no slot has yet.
    waiting: VecDeque<Arc<Bundle>>,
    leaving: bool,
}

#[derive(Debug)]
struct SlotState {
    bundles: mpsc::Sender<Arc<Bundle>>,
    busy: bool,
    /// The scene that the slot worked on last.
    scene: Option<String>,
    has_gpu: bool,
}

impl Agent {
    /// Starts a worker. It fails if its data folder cannot be used.
    pub fn start(port: WorkerPort, config: Config) -> io::Result<Handle> {
        let config = Arc::new(config);
        let artifacts = Artifacts::in_folder(&config.artifacts())
            .map_err(|failure| io::Error::other(failure.message))?;
        let scratch = scratch_root(&config, port.id);
        match std::fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir_all(&scratch)?,
        }
        let (outbox, mail) = mpsc::channel(OUTBOX);
        let (leave, asked) = watch::channel(None);
        let mut tasks = JoinSet::new();
        tasks.spawn(post(port.sender(), mail));
        let (free, freed) = mpsc::channel(config.slots.max(1) as usize);
        let mut agent = Self {
            id: port.id,
            outbox,
            slots: Vec::new(),
            held: Vec::new(),
            waiting: VecDeque::new(),
            leaving: false,
            config,
        };
        for index in 0..agent.config.slots {
            let (slot, state, bundles) = agent.slot(index, &artifacts, port.sender());
            agent.slots.push(state);
            tasks.spawn(slot.run(bundles, free.clone()));
        }
        let agent = tokio::spawn(agent.run(port, asked, freed, tasks));
        Ok(Handle { leave, agent })
    }

    fn slot(
        &self,
        index: u32,
        artifacts: &Artifacts,
        sender: Sender,
    ) -> (Slot, SlotState, mpsc::Receiver<Arc<Bundle>>) {
        let gpu = self.config.inventory.gpus.get(index as usize).cloned();
        let device = gpu.map(|gpu| Device { index, gpu });
        let (bundles, receiver) = mpsc::channel(1);
        let state = SlotState { bundles, busy: false, scene: None, has_gpu: device.is_some() };
        let slot = Slot {
            index,
            worker: self.id,
            device,
            config: self.config.clone(),
            artifacts: artifacts.clone(),
            sender,
            sessions: Sessions::default(),
        };
        (slot, state, receiver)
    }

    async fn run(
        mut self,
        mut port: WorkerPort,
        mut asked: watch::Receiver<Option<Leave>>,
        mut freed: mpsc::Receiver<(u32, Execution)>,
        mut tasks: JoinSet<()>,
    ) {
        let inventory = Inventory {
            slots: self.config.slots,
            allows_commands: self.config.allow_commands,
            ..self.config.inventory.clone()
        };
        self.say(ToOwner::Joined(self.id, inventory)).await;
        let mut heartbeat = interval(self.config.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut owner_is_there = true;
        while !(self.leaving && self.held.is_empty()) {
            let claim = self.next_claim();
            tokio::select! {
                message = port.receive(), if owner_is_there => match message {
                    Some(ToWorker::Assign(assignment)) => self.assign(assignment).await,
                    Some(ToWorker::Cancel(cancel)) => self.cancel(cancel).await,
                    None => {
                        owner_is_there = false;
                        self.leave(Leave::Now).await;
                    }
                },
                Some((slot, execution)) = freed.recv() => self.free(slot, execution),
                () = at(claim) => self.claim().await,
                _ = heartbeat.tick() => self.heartbeat(),
                changed = asked.changed(), if !self.leaving => {
                    let leave = changed.ok().and_then(|()| *asked.borrow_and_update());
                    self.leave(leave.unwrap_or(Leave::Now)).await;
                }
            }
            self.dispatch();
        }
        self.say(ToOwner::Left(self.id)).await;
        // Without senders the slots and the outbox end, the outbox after its last message.
        drop(self);
        while tasks.join_next().await.is_some() {}
    }

    async fn say(&self, message: ToOwner) {
        // A lost owner is noticed where messages come in.
        let _ = self.outbox.send(message).await;
    }

    async fn report(&self, bundle: &Bundle, tasks: Vec<Try>, what: fn(Vec<Try>) -> What) {
        if tasks.is_empty() {
            return;
        }
        let (worker, key, execution) = (self.id, bundle.key.clone(), bundle.execution);
        self.say(ToOwner::Report(Report { worker, key, execution, what: what(tasks) })).await;
    }

    async fn assign(&mut self, mut assignment: Assignment) {
        // Delivery is at least once: what is held already is not done twice.
        let mut held = Vec::new();
        self.held.iter().filter(|b| b.key == assignment.key).for_each(|b| b.list(&mut held));
        if overlap(&held, &assignment.tasks) {
            let held: HashSet<Try> = held.into_iter().collect();
            assignment.tasks.retain(|task| !held.contains(task));
        }
        if assignment.tasks.is_empty() {
            return;
        }
        let bundle = Arc::new(Bundle::new(assignment));
        if self.leaving {
            return self.report(&bundle, bundle.release(false), What::Released).await;
        }
        self.held.push(bundle.clone());
        self.waiting.push_back(bundle);
    }

    async fn cancel(&mut self, cancel: Cancel) {
        let tasks: HashSet<Try> = cancel.tasks.into_iter().collect();
        for bundle in self.held.iter().filter(|bundle| bundle.key == cancel.key) {
            self.report(bundle, bundle.cancel(&tasks), What::Released).await;
        }
        self.forget_empty();
    }

    async fn leave(&mut self, leave: Leave) {
        self.leaving = true;
        for bundle in &self.held {
            self.report(bundle, bundle.release(leave == Leave::Now), What::Released).await;
        }
        self.forget_empty();
    }

    /// Forgets bundles that lost all their tasks before a slot took them.
    fn forget_empty(&mut self) {
        let gone = |bundle: &Arc<Bundle>| bundle.is_empty();
        let empty: Vec<Execution> =
            self.waiting.iter().filter(|b| gone(b)).map(|b| b.execution).collect();
        self.waiting.retain(|bundle| !gone(bundle));
        self.held.retain(|bundle| !empty.contains(&bundle.execution));
    }

    fn free(&mut self, slot: u32, execution: Execution) {
        self.held.retain(|bundle| bundle.execution != execution);
        if let Some(slot) = self.slots.get_mut(slot as usize) {
            slot.busy = false;
        }
    }

    /// Gives waiting bundles to idle slots, oldest first.
    fn dispatch(&mut self) {
        while let Some(bundle) = self.waiting.front() {
            let idle = self.slots.iter_mut().filter(|slot| !slot.busy);
            let Some(slot) = idle.min_by_key(|slot| slot.rank(bundle)) else {
                return;
            };
            slot.busy = true;
            if bundle.scene.is_some() {
                slot.scene.clone_from(&bundle.scene);
            }
            if let Some(bundle) = self.waiting.pop_front() {
                slot.bundles.try_send(bundle).expect("an idle slot's channel is empty");
            }
        }
    }

    fn next_claim(&self) -> Option<Instant> {
        let open = self.held.iter().filter(|bundle| !bundle.is_claimed());
        open.map(|bundle| bundle.received + self.config.claim_after).min()
    }

    async fn claim(&mut self) {
        let limit = self.config.claim_after;
        for bundle in &self.held {
            if !bundle.is_claimed() && bundle.received.elapsed() >= limit {
                self.report(bundle, bundle.claim(), What::Claimed).await;
            }
        }
    }

    fn heartbeat(&self) {
        let mut held: BTreeMap<&StepKey, Vec<Try>> = BTreeMap::new();
        for bundle in &self.held {
            bundle.list(held.entry(&bundle.key).or_default());
        }
        let held = held.into_iter().filter(|(_, tasks)| !tasks.is_empty());
        let held = held.map(|(key, tasks)| (key.clone(), tasks)).collect();
        // An owner that does not keep up has the last heartbeats still to read.
        let _ = self.outbox.try_send(ToOwner::Heartbeat(self.id, held));
    }
}

impl SlotState {
    /// Less is better: the scene is loaded, no other scene would be lost, GPUs are left to renders.
    fn rank(&self, bundle: &Bundle) -> (u8, bool) {
        let renders = bundle.brief.body.scene().is_some();
        let scene = match (&self.scene, &bundle.scene) {
            (Some(loaded), Some(wanted)) if loaded == wanted => 0,
            (None, _) => 1,
            (Some(_), _) => 2,
        };
        (scene, self.has_gpu != renders)
    }
}

/// Whether two lists may have a try in common.
fn overlap(held: &[Try], tasks: &[Try]) -> bool {
    let ends = |list: &[Try]| {
        let indices = || list.iter().map(|task| task.index);
        Some((indices().min()?, indices().max()?))
    };
    let (Some((first, last)), Some((low, high))) = (ends(held), ends(tasks)) else {
        return false;
    };
    first <= high && low <= last
}

/// Sends the agent's messages, so that a slow owner does not keep the agent from hearing a cancel.
async fn post(sender: Sender, mut mail: mpsc::Receiver<ToOwner>) {
    while let Some(message) = mail.recv().await {
        if sender.send(message).await.is_err() {
            return;
        }
    }
}
