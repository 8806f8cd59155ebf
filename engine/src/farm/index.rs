//! Keeps the indexes from which tasks are assigned equal to the runs and workers that they are about: the pools of
//! workers, the backlog of runs, the limits, and what is due at a later time. Each change costs about as much as it
//! changes.

use super::backlog::{AccountId, Age, Backlog, Demand};
use super::class::Class;
use super::limits::Limits;
use super::pools::{ClassId, Pools};
use super::{Engine, Entry, Worker, is_instant};
use crate::plan::Plan;
use crate::run::{Run, RunState, TaskState};
use pictor_tasks::body::Body;
use pictor_tasks::message::{RunId, WorkerId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

/// The mean duration in milliseconds below which tasks are queued ahead: a task must not wait behind one that takes an
/// hour while another machine becomes idle.
const SHORT_MS: f64 = 2_000.0;
/// The milliseconds of waiting that raise a run's priority by one.
const AGE_MS: i64 = 3_600_000;
/// The most by which waiting raises a run's priority.
const MAX_AGE_BONUS: i64 = 24;

/// All indexes.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) pools: Pools,
    pub(crate) backlog: Backlog,
    pub(crate) limits: Limits,
    /// When a worker may have become silent.
    silence: BinaryHeap<Reverse<(i64, WorkerId)>>,
    /// When waiting raises a run's priority.
    aging: BTreeSet<(i64, RunId)>,
    /// When a task of a run may be assigned again.
    waking: BTreeSet<(i64, RunId)>,
    /// Runs that may have tasks which no worker can do. Only used if no further worker will join.
    pub(crate) impossible: BTreeSet<RunId>,
    workers_are_final: bool,
    /// The time of the last assignment round.
    pub(crate) now_ms: i64,
}

/// What the indexes know about a run.
#[derive(Debug)]
pub(crate) struct RunIndex {
    account: AccountId,
    age: Age,
    /// By how much waiting has raised its priority.
    bonus: i64,
    /// The priority under which its steps are queued; `None` while they are not.
    priority: Option<i64>,
    /// Whether it is passed over until the end of this round.
    parked: bool,
    wake_ms: Option<i64>,
    pub(crate) steps: Vec<StepIndex>,
}

/// What the indexes know about a step.
#[derive(Debug)]
pub(crate) struct StepIndex {
    pub(crate) class: ClassId,
    /// The set of limits that its tasks hold.
    pub(crate) limits: u32,
    /// What a worker loads for its tasks and keeps for the next one: a scene (its digest) or a network (its name).
    pub(crate) loads: Option<Arc<str>>,
    /// What its tasks need, if any of them can be assigned.
    pub(crate) demand: Option<Demand>,
    live: u32,
}

fn loads(plan: &Plan, body: &Body) -> Option<Arc<str>> {
    match body {
        Body::Upscale(upscale) => Some((*upscale.model).into()),
        body => {
            let file = body.scene().and_then(|scene| plan.files.get(&scene.scene));
            file.map(|file| (*file.digest).into())
        }
    }
}

impl Index {
    pub(crate) fn new(limits: &BTreeMap<String, u32>, workers_are_final: bool) -> Self {
        Self { limits: Limits::new(limits), workers_are_final, ..Self::default() }
    }

    /// Adds a run; no step is queued yet.
    pub(crate) fn add(
        &mut self,
        run: &Run,
        (account, submitted_ms): (&str, i64),
        workers: &mut BTreeMap<WorkerId, Worker>,
    ) -> RunIndex {
        let mut steps = Vec::with_capacity(run.plan.steps.len());
        for step in &run.plan.steps {
            let class = self.pools.class(Class::of(step), workers);
            self.pools.retain(class);
            let (limits, loads) = (self.limits.set(step), loads(&run.plan, &step.body));
            steps.push(StepIndex { class, limits, loads, demand: None, live: 0 });
        }
        self.aging.insert((submitted_ms.saturating_add(AGE_MS), run.id.clone()));
        RunIndex {
            account: self.backlog.account(account),
            age: (submitted_ms, run.id.clone()),
            bonus: 0,
            priority: None,
            parked: false,
            wake_ms: None,
            steps,
        }
    }

    /// Removes a run.
    pub(crate) fn remove(&mut self, mut index: RunIndex) {
        self.unqueue(&mut index);
        let mut held = self.backlog.held(index.account);
        for step in &index.steps {
            self.limits.count(step.limits, step.live, 0);
            held -= step.live;
            self.pools.release(step.class);
        }
        self.backlog.set_held(index.account, held);
        let (_, id) = index.age;
        self.impossible.remove(&id);
        if let Some(at) = index.wake_ms {
            self.waking.remove(&(at, id));
        }
    }

    fn unqueue(&mut self, index: &mut RunIndex) {
        let Some(priority) = index.priority.take() else { return };
        let queued: BTreeSet<Demand> =
            index.steps.iter_mut().filter_map(|step| step.demand.take()).collect();
        for demand in queued {
            self.backlog.remove(demand, priority, index.account, &index.age);
        }
    }

    /// Follows a change of a run.
    pub(crate) fn update(&mut self, entry: &mut Entry) {
        let Entry { run, index, state, .. } = entry;
        let touched = run.take_touched();
        let is_running = *state == RunState::Running;
        let priority = (is_running && !index.parked).then(|| i64::from(run.priority) + index.bonus);
        let before = self.backlog.held(index.account);
        let mut held = before;
        for &step in &touched {
            let (of, live) = (&mut index.steps[step as usize], run.steps[step as usize].live);
            self.limits.count(of.limits, of.live, live);
            held = held + live - of.live;
            of.live = live;
        }
        if held != before {
            self.backlog.set_held(index.account, held);
        }
        if index.priority == priority {
            for step in touched {
                self.queue(run, index, step, is_running);
            }
        } else {
            self.unqueue(index);
            index.priority = priority;
            for step in (0u16..).take(run.steps.len()) {
                self.queue(run, index, step, is_running);
            }
        }
        let wake_ms = if is_running { run.ready_singly.next_after(self.now_ms) } else { None };
        if wake_ms != index.wake_ms {
            if let Some(at) = index.wake_ms {
                self.waking.remove(&(at, run.id.clone()));
            }
            if let Some(at) = wake_ms {
                self.waking.insert((at, run.id.clone()));
            }
            index.wake_ms = wake_ms;
        }
    }

    /// Queues a step under what its tasks need, or removes it if none can be assigned.
    fn queue(&mut self, run: &Run, index: &mut RunIndex, step: u16, is_running: bool) {
        let number = step as usize;
        let (state, of) = (&run.steps[number], &index.steps[number]);
        if self.workers_are_final
            && is_running
            && state.counts[TaskState::Ready as usize] > 0
            && !self.pools.any_can_do(of.class)
        {
            self.impossible.insert(run.id.clone());
        }
        let wants = state.ready.len() > 0 || run.ready_singly.any_due(step, self.now_ms);
        let demand = (wants && index.priority.is_some()).then(|| {
            let instant = is_instant(&run.plan.steps[number].body);
            let ahead = instant || state.mean_ms().is_some_and(|mean| mean < SHORT_MS);
            Demand { class: of.class, ahead, limits: of.limits }
        });
        let old = std::mem::replace(&mut index.steps[number].demand, demand);
        let Some(priority) = index.priority.filter(|_| old != demand) else { return };
        if let Some(old) = old
            && index.steps.iter().all(|step| step.demand != Some(old))
        {
            self.backlog.remove(old, priority, index.account, &index.age);
        }
        if let Some(demand) = demand {
            self.backlog.insert(demand, priority, index.account, &index.age);
        }
    }

    /// The earliest time after the last round at which a task may be assigned that waits for its next attempt.
    pub(crate) fn next_wake(&self) -> Option<i64> {
        self.waking.first().map(|(at, _)| *at)
    }
}

impl Engine {
    /// Follows a change of a run.
    pub(crate) fn reindex(&mut self, run: &RunId) {
        if let Some(entry) = self.runs.get_mut(run) {
            self.index.update(entry);
        }
    }

    /// Passes over a run, or considers it again.
    pub(crate) fn park(&mut self, run: &RunId, parked: bool) {
        if let Some(entry) = self.runs.get_mut(run) {
            entry.index.parked = parked;
            self.reindex(run);
        }
    }

    /// Lets time pass for the indexes: workers that have become silent, priorities raised by waiting, and tasks that
    /// have waited for their next attempt.
    pub(crate) fn advance(&mut self, now_ms: i64) {
        let went_back = now_ms < self.index.now_ms;
        self.index.now_ms = now_ms;
        if went_back {
            self.restart_clocks();
        }
        while let Some(&Reverse((at, id))) = self.index.silence.peek()
            && at < now_ms
        {
            self.index.silence.pop();
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.watched = false;
                self.list(id, now_ms);
            }
        }
        while self.index.aging.first().is_some_and(|(at, _)| *at <= now_ms) {
            let (_, run) = self.index.aging.pop_first().expect("looked at above");
            let Some(entry) = self.runs.get_mut(&run) else { continue };
            let waited = now_ms.saturating_sub(entry.submitted_ms) / AGE_MS;
            entry.index.bonus = waited.clamp(0, MAX_AGE_BONUS);
            if waited < MAX_AGE_BONUS {
                let next = entry.submitted_ms.saturating_add((waited + 1) * AGE_MS);
                self.index.aging.insert((next, run.clone()));
            }
            self.reindex(&run);
        }
        while self.index.waking.first().is_some_and(|(at, _)| *at <= now_ms) {
            let (_, run) = self.index.waking.pop_first().expect("looked at above");
            let Some(entry) = self.runs.get_mut(&run) else { continue };
            entry.index.wake_ms = None;
            entry.run.touch_singles();
            self.reindex(&run);
        }
    }

    /// Computes everything again that depends on the time, as it was set back.
    pub(crate) fn restart_clocks(&mut self) {
        let runs: Vec<RunId> = self.runs.keys().cloned().collect();
        for id in runs {
            let entry = self.runs.get_mut(&id).expect("runs do not go meanwhile");
            entry.index.bonus = 0;
            self.index.aging.insert((entry.submitted_ms.saturating_add(AGE_MS), id.clone()));
            entry.run.touch_singles();
            self.reindex(&id);
        }
        self.index.silence.clear();
        self.workers.values_mut().for_each(|worker| worker.watched = false);
        self.list_all(self.index.now_ms);
    }

    /// Lists or unlists every worker, as it is heard of at this time.
    pub(crate) fn list_all(&mut self, now_ms: i64) {
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in ids {
            self.list(id, now_ms);
        }
    }

    /// Lists a worker that accepts tasks and is heard of, or unlists it; and watches a listed one for silence.
    pub(crate) fn list(&mut self, id: WorkerId, now_ms: i64) {
        let lease_ms = self.config.lease_ms;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let listed = worker.is_present(now_ms, lease_ms);
        if listed != worker.listed {
            self.index.pools.withdraw(id, worker);
            worker.listed = listed;
            self.index.pools.offer(id, worker);
        }
        if listed && !worker.watched {
            worker.watched = true;
            self.index.silence.push(Reverse((worker.seen_ms.saturating_add(lease_ms), id)));
        }
    }

    /// Changes a worker's load, and what it has loaded.
    pub(crate) fn change_worker(&mut self, id: WorkerId, change: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.workers.get_mut(&id) {
            self.index.pools.withdraw(id, worker);
            change(worker);
            self.index.pools.offer(id, worker);
        }
    }

    /// Looks again for tasks that no worker can do, after a change of the workers.
    pub(crate) fn suspect_all(&mut self) {
        if self.index.workers_are_final {
            let running = self.runs.values().filter(|entry| entry.state == RunState::Running);
            self.index.impossible.extend(running.map(|entry| entry.run.id.clone()));
        }
    }

    /// Finds the pools again, with only the classes that are in use.
    pub(crate) fn rebuild_pools(&mut self) {
        for entry in self.runs.values_mut() {
            self.index.unqueue(&mut entry.index);
        }
        self.index.pools = Pools::default();
        for worker in self.workers.values_mut() {
            worker.listed = false;
            self.index.pools.join(worker);
        }
        for entry in self.runs.values_mut() {
            for (step, of) in entry.run.plan.steps.iter().zip(&mut entry.index.steps) {
                of.class = self.index.pools.class(Class::of(step), &mut self.workers);
                self.index.pools.retain(of.class);
            }
            self.index.update(entry);
        }
        self.list_all(self.index.now_ms);
    }
}
