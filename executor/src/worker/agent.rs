//! The worker's agent: receives messages at once, passes bundles to its slots, claims those that take long, and sends
//! heartbeats.

use crate::files::artifacts::Artifacts;
use crate::programs::Device;
use crate::programs::Sandbox;
use crate::runners::Warm;
use crate::task::Config;
use crate::worker::bundle::Bundle;
use crate::worker::inventory::watch_models;
use crate::worker::scratch::{remove_tree, scratch_root};
use crate::worker::slot::{Slot, at};
use pictor_queue::{Delivery, Outbox, Receipt, ToOwner, ToWorker, WorkerQueue};
use pictor_tasks::message::{Assignment, Cancel, Execution, Report, StepKey, Try, What, WorkerId};
use pictor_tasks::worker::Inventory;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// The most messages of the agent that wait for a slow owner before the agent waits too.
const MAIL: usize = 256;

/// Whether a worker accepts tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Intake {
    /// It accepts tasks.
    Open,
    /// It finishes its running tasks, hands back the rest and accepts none.
    Finish,
    /// It hands everything back, including its running tasks, and accepts none.
    HandBack,
}

/// The latest instruction to an agent.
#[derive(Clone, Copy, Debug)]
struct Directive {
    intake: Intake,
    /// The agent ends once it holds no tasks.
    leave: bool,
}

/// A running agent. Dropping it shuts the worker down in an orderly way, without waiting for that.
#[derive(Debug)]
pub struct Handle {
    directive: watch::Sender<Directive>,
    holds: Arc<AtomicUsize>,
    agent: JoinHandle<()>,
}

impl Handle {
    /// Starts or stops accepting tasks. Has no effect on a worker that is leaving.
    pub fn take(&self, intake: Intake) {
        self.directive.send_if_modified(|directive| {
            let changes = !directive.leave && directive.intake != intake;
            directive.intake = if changes { intake } else { directive.intake };
            changes
        });
    }

    /// Leaves once everything is finished or handed back. Another call can make it more urgent.
    pub fn leave(&self, intake: Intake) {
        self.directive.send_modify(|directive| {
            *directive =
                Directive { intake: directive.intake.max(intake).max(Intake::Finish), leave: true };
        });
    }

    /// The number of bundles that the worker holds.
    pub fn holds(&self) -> usize {
        self.holds.load(Ordering::Relaxed)
    }

    /// Stops running tasks, hands everything back and says goodbye. Takes less than 2 s.
    pub async fn shutdown(mut self) {
        self.leave(Intake::HandBack);
        self.ended().await;
    }

    /// Finishes running tasks, hands back the rest and says goodbye.
    pub async fn drain(mut self) {
        self.leave(Intake::Finish);
        self.ended().await;
    }

    /// Waits until the worker has ended, on request or because its owner is gone.
    pub async fn ended(&mut self) {
        // A panic has been printed where it occurred.
        let _ = (&mut self.agent).await;
    }
}

/// What the agent sends, in order.
#[derive(Debug)]
enum Mail {
    Message(ToOwner),
    /// Settles a receipt once everything before it has reached the owner.
    Settle(Receipt),
}

/// A worker's agent.
#[derive(Debug)]
pub struct Agent {
    id: WorkerId,
    config: Arc<Config>,
    artifacts: Artifacts,
    outbox: Arc<dyn Outbox>,
    mail: mpsc::Sender<Mail>,
    /// A separate channel: a report that waits through an outage must not hold up heartbeats.
    heartbeats: mpsc::Sender<Mail>,
    slots: Vec<SlotState>,
    /// All bundles, in the order of their arrival.
    held: Vec<Arc<Bundle>>,
    /// The bundles that have not been passed to a slot.
    waiting: VecDeque<Arc<Bundle>>,
    /// The latest instruction.
    directive: Directive,
    /// The number of bundles held, for readers outside.
    holds: Arc<AtomicUsize>,
    /// The networks of this machine.
    models: watch::Receiver<BTreeSet<String>>,
}

#[derive(Debug)]
struct SlotState {
    bundles: mpsc::Sender<Arc<Bundle>>,
    busy: bool,
    /// The digest of the scene that the slot worked on last.
    scene: Option<String>,
    has_gpu: bool,
}

impl Agent {
    /// Starts a worker. Fails if its data folder cannot be used.
    pub fn start(
        queue: Box<dyn WorkerQueue>,
        outbox: Arc<dyn Outbox>,
        id: WorkerId,
        config: Config,
        artifacts: Artifacts,
    ) -> io::Result<Handle> {
        let config = Arc::new(config);
        let scratch = scratch_root(&config, id);
        remove_tree(&scratch)?;
        std::fs::create_dir_all(&scratch)?;
        Sandbox::current().check_hides(&config.data)?;
        let (mail, letters) = mpsc::channel(MAIL);
        let (heartbeats, beats) = mpsc::channel(1);
        let begin = Directive { intake: Intake::Open, leave: false };
        let (directive, directives) = watch::channel(begin);
        let holds = Arc::<AtomicUsize>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(post(outbox.clone(), letters));
        tasks.spawn(post(outbox.clone(), beats));
        let (tell, models) = watch::channel(config.inventory.models.clone());
        tasks.spawn(watch_models(config.models.clone(), config.heartbeat, tell));
        let (free, freed) = mpsc::channel(config.slots.max(1) as usize);
        let mut agent = Self {
            id,
            artifacts,
            outbox,
            mail,
            heartbeats,
            slots: Vec::new(),
            held: Vec::new(),
            waiting: VecDeque::new(),
            directive: begin,
            holds: holds.clone(),
            models,
            config,
        };
        for index in 0..agent.config.slots {
            let (slot, state, bundles) = agent.slot(index);
            agent.slots.push(state);
            tasks.spawn(slot.run(bundles, free.clone()));
        }
        let agent = tokio::spawn(agent.run(queue, directives, freed, tasks));
        Ok(Handle { directive, holds, agent })
    }

    fn slot(&self, index: u32) -> (Slot, SlotState, mpsc::Receiver<Arc<Bundle>>) {
        let gpu = self.config.inventory.gpus.get(index as usize).cloned();
        let device = gpu.map(|gpu| Device { index, gpu });
        let (bundles, receiver) = mpsc::channel(1);
        let state = SlotState { bundles, busy: false, scene: None, has_gpu: device.is_some() };
        let slot = Slot {
            index,
            worker: self.id,
            device,
            config: self.config.clone(),
            artifacts: self.artifacts.clone(),
            outbox: self.outbox.clone(),
            warm: Warm::default(),
            places: BTreeSet::new(),
        };
        (slot, state, receiver)
    }

    async fn run(
        mut self,
        mut queue: Box<dyn WorkerQueue>,
        mut directives: watch::Receiver<Directive>,
        mut freed: mpsc::Receiver<(u32, Execution)>,
        mut tasks: JoinSet<()>,
    ) {
        self.join().await;
        let period = self.config.heartbeat;
        let mut heartbeat = interval_at(Instant::now() + period, period);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut owner_is_there = true;
        // The handle is gone, so nobody can give instructions.
        let mut is_unled = false;
        let leave_now = Directive { intake: Intake::HandBack, leave: true };
        while !(self.directive.leave && self.held.is_empty()) {
            let claim = self.next_claim();
            tokio::select! {
                delivery = queue.receive(), if owner_is_there => {
                    if let Some(delivery) = delivery {
                        self.deliver(delivery).await;
                    } else {
                        owner_is_there = false;
                        self.obey(leave_now).await;
                    }
                }
                Some((slot, execution)) = freed.recv() => self.free(slot, execution),
                () = at(claim) => self.claim().await,
                _ = heartbeat.tick() => self.heartbeat(),
                Ok(()) = self.models.changed() => self.join().await,
                changed = directives.changed(), if !is_unled => {
                    is_unled = changed.is_err();
                    let directive = *directives.borrow_and_update();
                    self.obey(if is_unled { leave_now } else { directive }).await;
                    self.heartbeat();
                }
            }
            self.dispatch();
            self.holds.store(self.held.len(), Ordering::Relaxed);
        }
        self.say(ToOwner::Left(self.id)).await;
        // Without senders the slots and the post end, the post after its last message. The queue stays until then:
        // receipts need it.
        drop(self);
        while tasks.join_next().await.is_some() {}
    }

    /// Announces the worker's inventory: at the start, and when it has changed.
    async fn join(&mut self) {
        let models = self.models.borrow_and_update().clone();
        let offer = Inventory { models, ..self.config.offer() };
        self.say(ToOwner::Joined(self.id, offer)).await;
    }

    async fn say(&self, message: ToOwner) {
        // A lost owner is noticed where messages are received.
        let _ = self.mail.send(Mail::Message(message)).await;
    }

    /// Settles a receipt once everything that was sent before has reached the owner.
    async fn settle(&self, receipt: Option<Receipt>) {
        if let Some(receipt) = receipt {
            // As above.
            let _ = self.mail.send(Mail::Settle(receipt)).await;
        }
    }

    async fn deliver(&mut self, delivery: Delivery) {
        let Delivery { message, receipt, is_kept } = delivery;
        match message {
            ToWorker::Assign(assignment) => self.assign(assignment, receipt, is_kept).await,
            ToWorker::Cancel(cancel) => {
                self.cancel(cancel).await;
                receipt.settle();
            }
        }
    }

    async fn report(&self, bundle: &Bundle, tasks: Vec<Try>, what: fn(Vec<Try>) -> What) {
        if tasks.is_empty() {
            return;
        }
        let (worker, key, execution) = (self.id, bundle.key.clone(), bundle.execution);
        self.say(ToOwner::Report(Report { worker, key, execution, what: what(tasks) })).await;
    }

    async fn assign(&mut self, mut assignment: Assignment, receipt: Receipt, is_kept: bool) {
        // Delivery is at least once: attempts that are held already are not done twice.
        let first = assignment.tasks.first().copied();
        let mut held = Vec::new();
        self.held.iter().filter(|b| b.key == assignment.key).for_each(|b| b.list(&mut held));
        if overlap(&held, &assignment.tasks) {
            let held: HashSet<Try> = held.into_iter().collect();
            assignment.tasks.retain(|task| !held.contains(task));
        }
        if assignment.tasks.is_empty() {
            let holds = |bundle: &&Arc<Bundle>| {
                let mut held = Vec::new();
                bundle.list(&mut held);
                bundle.key == assignment.key && first.is_some_and(|first| held.contains(&first))
            };
            return match self.held.iter().find(holds) {
                Some(bundle) => bundle.renew(receipt),
                None => receipt.settle(),
            };
        }
        let bundle = Arc::new(Bundle::new(assignment, receipt, is_kept));
        if self.directive.intake != Intake::Open {
            self.report(&bundle, bundle.release(false), What::Released).await;
            return self.settle(bundle.take_receipt()).await;
        }
        self.held.push(bundle.clone());
        self.waiting.push_back(bundle);
    }

    async fn cancel(&mut self, cancel: Cancel) {
        let tasks: HashSet<Try> = cancel.tasks.into_iter().collect();
        for bundle in self.held.iter().filter(|bundle| bundle.key == cancel.key) {
            self.report(bundle, bundle.cancel(&tasks), What::Released).await;
        }
        self.forget_empty().await;
    }

    async fn obey(&mut self, directive: Directive) {
        let leave = self.directive.leave || directive.leave;
        self.directive = Directive { leave, ..directive };
        if directive.intake == Intake::Open {
            return;
        }
        for bundle in &self.held {
            let stop = directive.intake == Intake::HandBack;
            self.report(bundle, bundle.release(stop), What::Released).await;
        }
        self.forget_empty().await;
    }

    /// Drops bundles that lost all their tasks before a slot took them.
    async fn forget_empty(&mut self) {
        let (empty, waiting): (Vec<_>, Vec<_>) =
            self.waiting.drain(..).partition(|bundle| bundle.is_empty());
        self.waiting = waiting.into();
        self.held.retain(|held| !empty.iter().any(|bundle| bundle.execution == held.execution));
        for bundle in empty {
            self.settle(bundle.take_receipt()).await;
        }
    }

    fn free(&mut self, slot: u32, execution: Execution) {
        self.held.retain(|bundle| bundle.execution != execution);
        if let Some(slot) = self.slots.get_mut(slot as usize) {
            slot.busy = false;
        }
    }

    /// Passes waiting bundles to idle slots, oldest first.
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
                self.settle(bundle.take_receipt()).await;
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
        // If the channel is full, the owner has not read earlier heartbeats.
        let _ = self.heartbeats.try_send(Mail::Message(ToOwner::Heartbeat(self.id, held)));
    }
}

impl SlotState {
    /// Lower is better: the scene is loaded, no other scene would be dropped, GPUs are left for renders.
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

/// Whether two lists may have an attempt in common.
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

/// Sends the agent's messages, so that a slow owner does not keep the agent from receiving a cancellation.
async fn post(outbox: Arc<dyn Outbox>, mut letters: mpsc::Receiver<Mail>) {
    while let Some(mail) = letters.recv().await {
        match mail {
            Mail::Settle(receipt) => receipt.settle(),
            Mail::Message(message) => {
                if outbox.send(message).await.is_err() {
                    return;
                }
            }
        }
    }
}
