//! All runs and all workers as one synchronous state machine. Messages go in, effects come out; the caller first
//! commits the rows, and then sends the messages.

mod assign;
mod backlog;
mod class;
mod index;
mod limits;
#[cfg(test)]
mod oracle;
mod pools;
mod report;

use crate::plan::Plan;
use crate::run::transitions::TaskFact;
use crate::run::{FoldError, Run, RunLimits, RunState, TaskState};
use assign::BundleSize;
pub(crate) use class::Class;
use index::{Index, RunIndex};
use pictor_tasks::body::Body;
use pictor_tasks::history::{Control, Ended, Event, Fact, Row, TaskRef};
use pictor_tasks::message::{
    Assignment, Brief, Cancel, Execution, Outcome, RunId, TaskId, Try, WorkerId,
};
use pictor_tasks::worker::Inventory;
use pools::PoolId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

/// The settings of the engine.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long a claim is valid without a heartbeat.
    pub lease_ms: i64,
    /// How long to wait for a claim, an end or a heartbeat that lists an assignment before it is published again.
    pub deadline_ms: i64,
    /// Whether no further worker will join: a task that none of the present ones can do then fails at once instead of
    /// waiting.
    pub workers_are_final: bool,
    /// How many tasks may hold each named limit at a time. Other names are not limited.
    pub limits: BTreeMap<String, u32>,
    /// How large a run may become when a step reports the values of a late-bound dimension.
    pub run_limits: RunLimits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease_ms: 60_000,
            deadline_ms: 30_000,
            workers_are_final: false,
            limits: BTreeMap::new(),
            run_limits: RunLimits::default(),
        }
    }
}

impl Config {
    /// For queries about a run whose limits are not known any more.
    pub fn of(plan: &Plan) -> Self {
        let limits = plan.steps.iter().flat_map(|step| &step.limits);
        Self { limits: limits.map(|name| (name.clone(), u32::MAX)).collect(), ..Self::default() }
    }
}

/// The actions to take after a batch of messages, in this order: commit `rows`, publish `cancel` and `assign`, delete
/// the artifacts in `remove`, announce `changed`.
#[derive(Debug, Default)]
pub struct Effects {
    /// New rows of history, by run, in order.
    pub rows: BTreeMap<RunId, Vec<Row>>,
    /// Assignments to publish. Each must be confirmed with [`Engine::published`].
    pub assign: Vec<(WorkerId, Assignment)>,
    /// Cancellations to publish.
    pub cancel: Vec<(WorkerId, Cancel)>,
    /// Keys of artifacts to delete, by run. After a takeover some are repeated, so a missing artifact is not an error.
    pub remove: BTreeMap<RunId, Vec<String>>,
    /// The runs whose state has changed, with the new state.
    pub changed: BTreeMap<RunId, RunState>,
    /// The number of messages without effect because they came late, twice or from the wrong worker.
    pub stale: u64,
}

/// A worker as the engine sees it.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) inventory: Inventory,
    /// The number of bundles that it holds.
    pub(crate) load: u32,
    /// The scenes (by digest) and networks (by name) that it has used, the latest last.
    pub(crate) warm: Vec<Arc<str>>,
    /// The time of its last sign of life, in milliseconds since 1970.
    pub(crate) seen_ms: i64,
    /// Whether it accepts new tasks; its operator may have taken it out of service.
    pub(crate) accepts: bool,
    pool: PoolId,
    /// Whether it counts as present in its pool.
    pub(crate) listed: bool,
    /// Whether the engine will look whether it has become silent.
    watched: bool,
}

/// The tasks of one assignment that a worker holds.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    pub(crate) worker: WorkerId,
    pub(crate) run: RunId,
    pub(crate) step: u16,
    pub(crate) tasks: Vec<Try>,
    pub(crate) remaining: u32,
}

/// A run, and information about it that is not part of its history.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) run: Run,
    /// Who submitted it.
    pub(crate) account: String,
    pub(crate) submitted_ms: i64,
    pub(crate) state: RunState,
    pub(crate) sizes: Vec<BundleSize>,
    pub(crate) briefs: Vec<Option<(u32, Arc<Brief>)>>,
    /// The number of failures in this run, by worker.
    pub(crate) failures: HashMap<WorkerId, u32>,
    /// The workers with so many failures that the run avoids them.
    pub(crate) avoided: BTreeSet<WorkerId>,
    pub(crate) progress: HashMap<TaskId, (f32, String)>,
    /// The steps, ordered from the end of the graph.
    pub(crate) steps_by_order: Vec<u16>,
    pub(crate) index: RunIndex,
}

/// All runs and all workers.
#[derive(Debug, Default)]
pub struct Engine {
    pub(crate) config: Config,
    /// With a fixed hasher, so that the same messages always have the same effects.
    pub(crate) runs: HashMap<RunId, Box<Entry>, BuildHasherDefault<DefaultHasher>>,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    pub(crate) bundles: HashMap<u64, Bundle>,
    /// The bundles by the worker that holds them.
    holdings: BTreeSet<(WorkerId, u64)>,
    pub(crate) last_bundle: u64,
    /// The slots of all workers.
    pub(crate) slots: u32,
    pub(crate) index: Index,
}

impl Engine {
    /// An engine without runs and workers.
    pub fn new(config: Config) -> Self {
        let index = Index::new(&config.limits, config.workers_are_final);
        Self { config, index, ..Self::default() }
    }

    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Adds a run: a new one, or one whose history has been folded. Its leases start now.
    pub fn add_run(&mut self, mut run: Run, account: String, submitted_ms: i64, now_ms: i64) {
        for live in run.live.values_mut() {
            live.until_ms = now_ms + self.config.lease_ms;
        }
        run.wait_no_longer(now_ms);
        let steps = &run.plan.steps;
        let mut steps_by_order: Vec<u16> =
            (0..u16::try_from(steps.len()).expect("limited")).collect();
        steps_by_order.sort_by_key(|s| (steps[*s as usize].to_sink, *s));
        let sizes = steps.iter().map(|s| BundleSize::first(&s.body)).collect();
        if self.index.pools.is_stale(self.workers.len()) {
            self.rebuild_pools();
        }
        let index = self.index.add(&run, (&account, submitted_ms), &mut self.workers);
        let entry = Entry {
            account,
            submitted_ms,
            state: run.state(),
            sizes,
            briefs: vec![None; steps.len()],
            failures: HashMap::new(),
            avoided: BTreeSet::new(),
            index,
            progress: HashMap::new(),
            steps_by_order,
            run,
        };
        let id = entry.run.id.clone();
        let held: BTreeSet<TaskId> = entry.run.live.keys().copied().collect();
        self.runs.insert(id.clone(), Box::new(entry));
        for at in held {
            self.adopt(&id, at);
        }
        self.reindex(&id);
    }

    /// Counts a task that a worker holds although this engine has not assigned it.
    pub(crate) fn adopt(&mut self, run: &RunId, at: TaskId) {
        let entry = self.runs.get_mut(run).expect("the caller has it");
        let attempt = entry.run.steps[at.step as usize].attempts[at.index as usize];
        let Some(live) = entry.run.live.get_mut(&at) else { return };
        self.last_bundle += 1;
        live.bundle = self.last_bundle;
        let (run, tasks) = (run.clone(), vec![Try { index: at.index, attempt }]);
        let bundle = Bundle { worker: live.worker, run, step: at.step, tasks, remaining: 1 };
        self.change_worker(bundle.worker, |worker| worker.load += 1);
        self.hold(self.last_bundle, bundle);
    }

    /// Counts a bundle among those that its worker holds.
    fn hold(&mut self, id: u64, bundle: Bundle) {
        self.holdings.insert((bundle.worker, id));
        self.bundles.insert(id, bundle);
    }

    /// The bundles that a worker holds.
    pub(crate) fn bundles_of(&self, id: WorkerId) -> impl Iterator<Item = &Bundle> {
        let held = self.holdings.range((id, 0)..=(id, u64::MAX));
        held.filter_map(|(_, bundle)| self.bundles.get(bundle))
    }

    /// The reverse, for a bundle that is done.
    fn free(&mut self, id: u64) -> Option<Bundle> {
        let bundle = self.bundles.remove(&id)?;
        self.holdings.remove(&(bundle.worker, id));
        self.change_worker(bundle.worker, |worker| worker.load = worker.load.saturating_sub(1));
        Some(bundle)
    }

    /// Drops a run from memory. Its stored rows are unaffected.
    pub fn remove_run(&mut self, id: &RunId) -> Option<Run> {
        let entry = self.runs.remove(id)?;
        let bundles: BTreeSet<u64> = entry.run.live.values().map(|live| live.bundle).collect();
        for bundle in bundles {
            self.free(bundle);
        }
        self.index.remove(entry.index);
        Some(entry.run)
    }

    /// The run with an id, if it is in memory.
    pub fn run(&self, id: &RunId) -> Option<&Run> {
        self.runs.get(id).map(|entry| &entry.run)
    }

    /// All runs in memory, in no particular order.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.values().map(|entry| &entry.run)
    }

    /// Adds a worker, or updates one that has returned: it may still hold its tasks, and whether it accepts tasks is
    /// unchanged.
    pub fn join(&mut self, id: WorkerId, inventory: Inventory, now_ms: i64) {
        let held = self.bundles_of(id).count();
        let known = self.forget(id);
        self.slots = self.slots.saturating_add(inventory.slots);
        let mut worker = Worker {
            load: u32::try_from(held).unwrap_or(u32::MAX),
            inventory,
            warm: Vec::new(),
            seen_ms: now_ms,
            accepts: known.is_none_or(|known| known.accepts),
            pool: 0,
            listed: false,
            watched: false,
        };
        self.index.pools.join(&mut worker);
        self.workers.insert(id, worker);
        self.list(id, now_ms);
        self.suspect_all();
    }

    fn forget(&mut self, id: WorkerId) -> Option<Worker> {
        let worker = self.workers.remove(&id)?;
        self.index.pools.leave(id, &worker);
        self.slots = self.slots.saturating_sub(worker.inventory.slots);
        Some(worker)
    }

    /// Restores a worker after a takeover, with `seen_ms` as the time of its last sign of life.
    pub fn remember(&mut self, id: WorkerId, inventory: Inventory, seen_ms: i64, accepts: bool) {
        self.join(id, inventory, seen_ms);
        self.set_accepts(id, accepts);
    }

    /// The time of each worker's last sign of life, in milliseconds since 1970.
    pub fn workers_seen(&self) -> impl Iterator<Item = (WorkerId, i64)> + '_ {
        self.workers.iter().map(|(id, worker)| (*id, worker.seen_ms))
    }

    /// Workers without a sign of life for the length of a lease.
    pub fn silent_workers(&self, now_ms: i64) -> impl Iterator<Item = WorkerId> + '_ {
        let lease = self.config.lease_ms;
        let silent = move |worker: &Worker| now_ms.saturating_sub(worker.seen_ms) > lease;
        self.workers.iter().filter(move |(_, worker)| silent(worker)).map(|(id, _)| *id)
    }

    /// Takes a worker out of service or back into it. It keeps the tasks that it holds.
    pub fn set_accepts(&mut self, id: WorkerId, accepts: bool) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.accepts = accepts;
            self.list(id, self.index.now_ms);
        }
    }

    /// Extends every lease, deadline and worker by this much: until `now_ms`, messages could not be received or history
    /// could not be written, so silence had no meaning.
    pub fn extend_leases(&mut self, by_ms: i64, now_ms: i64) {
        for entry in self.runs.values_mut() {
            for live in entry.run.live.values_mut() {
                live.until_ms = live.until_ms.saturating_add(by_ms);
            }
        }
        let outage_began = now_ms.saturating_sub(by_ms);
        for worker in self.workers.values_mut() {
            if outage_began.saturating_sub(worker.seen_ms) <= self.config.lease_ms {
                worker.seen_ms = worker.seen_ms.saturating_add(by_ms).min(now_ms);
            }
        }
        self.list_all(now_ms);
    }

    /// Adjusts to a clock that was set back to `now_ms`: nothing waits longer than if it had begun to wait now.
    pub fn set_back(&mut self, now_ms: i64) {
        let longest = now_ms.saturating_add(self.config.lease_ms.max(self.config.deadline_ms));
        for entry in self.runs.values_mut() {
            entry.run.wait_no_longer(now_ms);
            for live in entry.run.live.values_mut() {
                live.until_ms = live.until_ms.min(longest);
            }
        }
        for worker in self.workers.values_mut() {
            worker.seen_ms = worker.seen_ms.min(now_ms);
        }
        self.index.now_ms = self.index.now_ms.min(now_ms);
        self.restart_clocks();
    }

    /// Handles a control message and returns whether it was new; the same id has no effect twice. The removal of
    /// outputs cannot be requested, as the engine decides on it.
    pub fn control(
        &mut self,
        run: &RunId,
        control: Control,
        now_ms: i64,
        fx: &mut Effects,
    ) -> bool {
        let Some(entry) = self.runs.get_mut(run) else { return false };
        let own = matches!(control.event, Event::Removed(_));
        if own || entry.run.controls.contains(&control.id) {
            fx.stale += 1;
            return false;
        }
        if matches!(control.event, Event::Changed(_)) {
            // The briefs for workers have changed.
            entry.briefs.fill(None);
        }
        entry.record(Fact::Event(control), now_ms, fx);
        self.settle(run, fx);
        true
    }

    /// To be called after changes to a run: frees bundles that are done, and records a new state of the run in the
    /// effects.
    pub(crate) fn settle(&mut self, run: &RunId, fx: &mut Effects) {
        let entry = self.runs.get_mut(run).expect("the caller has it");
        for id in std::mem::take(&mut entry.run.freed) {
            let Some(bundle) = self.bundles.get_mut(&id) else { continue };
            bundle.remaining -= 1;
            if bundle.remaining > 0 {
                continue;
            }
            let Some(bundle) = self.free(id) else { continue };
            let entry = self.runs.get_mut(run).expect("the caller has it");
            let step = &entry.run.steps[bundle.step as usize];
            let done = |task: &Try| step.state(task.index) == Some(TaskState::Succeeded);
            if bundle.tasks.iter().all(done) {
                entry.sizes[bundle.step as usize].came_back(bundle.tasks.len());
            }
        }
        let entry = self.runs.get_mut(run).expect("the caller has it");
        let state = entry.run.state();
        if state != entry.state {
            entry.state = state;
            if state.is_terminal() {
                entry.remove_unread(entry.run.time_ms, fx);
            }
            fx.changed.insert(run.clone(), state);
        }
        self.index.update(entry);
    }

    /// Handles the result of a publication. If it was confirmed, its tasks are queued; otherwise they become ready
    /// again, unless something else has happened to them since.
    pub fn published(&mut self, assignment: u64, confirmed: bool, fx: &mut Effects) {
        let Some(bundle) = self.bundles.get(&assignment) else { return };
        let (id, step) = (bundle.run.clone(), bundle.step);
        let Some(entry) = self.runs.get_mut(&id) else { return };
        for task in &bundle.tasks {
            let at = TaskId { step, index: task.index };
            let ours = entry.run.live.get(&at).is_some_and(|l| l.bundle == assignment);
            if ours && entry.run.task_state(at) == Some(TaskState::Ready) {
                if confirmed {
                    entry.run.happens(at, TaskFact::Sent);
                } else {
                    entry.run.unassign(at);
                }
            }
        }
        self.settle(&id, fx);
    }
}

impl Entry {
    /// Records a fact: folds it and adds its row to the effects.
    pub(crate) fn record(&mut self, fact: Fact, now_ms: i64, fx: &mut Effects) {
        let row = Row { seq: self.run.seq + 1, time_ms: now_ms.max(self.run.time_ms), fact };
        let dropped: Result<_, FoldError> = self.run.apply(&row);
        if row.time_ms > now_ms {
            self.run.wait_no_longer(now_ms);
        }
        fx.cancel.extend(dropped.expect("the engine decides only what can be folded"));
        match fx.rows.get_mut(&self.run.id) {
            Some(rows) => rows.push(row),
            None => {
                fx.rows.insert(self.run.id.clone(), vec![row]);
            }
        }
    }

    /// Records an end of an attempt that the engine itself has decided.
    pub(crate) fn record_end(
        &mut self,
        (task, worker, execution): (TaskRef, WorkerId, Execution),
        outcome: Outcome,
        now_ms: i64,
        fx: &mut Effects,
    ) {
        let ended = Ended { task, execution, worker, started_ms: now_ms, took_ms: 0, outcome };
        self.record(Fact::Ended(ended), now_ms, fx);
    }

    /// Removes outputs that no task will read: first in history, so that no task is given an artifact that is about to
    /// be deleted, and then by an effect. A recovered run repeats the effect for earlier removals.
    pub(crate) fn remove_unread(&mut self, now_ms: i64, fx: &mut Effects) {
        loop {
            let due = self.run.take_due();
            if due.is_empty() {
                break;
            }
            // Ids of senders are random.
            let mut id = u64::MAX - self.run.seq;
            while self.run.controls.contains(&id) {
                id -= 1;
            }
            let event = Event::Removed(due);
            self.record(Fact::Event(Control { id, event }), now_ms, fx);
        }
        let pending_deletions = std::mem::take(&mut self.run.pending_deletions);
        if !pending_deletions.is_empty() {
            fx.remove.entry(self.run.id.clone()).or_default().extend(pending_deletions);
        }
    }
}

impl Worker {
    /// The memory of its largest GPU, in bytes.
    pub(crate) fn vram_bytes(&self) -> u64 {
        self.inventory.gpus.iter().map(|g| g.vram_bytes).max().unwrap_or(0)
    }

    /// Its bundles per thousand slots.
    fn load_ratio(&self) -> u32 {
        self.load * 1000 / self.inventory.slots.max(1)
    }

    /// Whether it accepts tasks and has sent a message within a lease. A silent one gets no new tasks.
    pub(crate) fn is_present(&self, now_ms: i64, lease_ms: i64) -> bool {
        self.accepts && now_ms.saturating_sub(self.seen_ms) <= lease_ms
    }
}

/// Whether the tasks do nothing and take no time.
fn is_instant(body: &Body) -> bool {
    matches!(body, Body::Noop(noop) if noop.duration.is_none())
}
