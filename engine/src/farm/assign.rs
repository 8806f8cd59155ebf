//! Assignment: which task goes to which worker. Tasks by the run's priority (raised by one for each
//! hour waited), then fair share between accounts, then age; inside a run nearest to the end of the graph
//! first. Workers by what they have, what failed on them, whether they have the scene or the network
//! loaded, and load.

use super::backlog::{Demand, Position};
use super::class::how_to_get;
use super::pools::Search;
use super::{Bundle, Effects, Engine, Entry, is_instant};
use crate::run::TaskState;
use crate::run::state::{FailureRecord, Live};
use pictor_tasks::body::Body;
use pictor_tasks::history::TaskRef;
use pictor_tasks::message::{
    Assignment, Brief, Execution, Failure, FailureKind, Outcome, RunId, TaskId, Try, WorkerId,
};
use pictor_tasks::worker::BLENDER;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

/// The most tasks in one message, for tasks that take no time.
const MAX_BUNDLE: u32 = 512;
/// The duration of the work that a bundle should contain.
const BUNDLE_MS: f64 = 2_000.0;
/// The number of failures of one run on one worker after which the run avoids that worker.
pub(super) const MAX_FAILURES_ON_WORKER: u32 = 3;
/// For how many scenes and networks it is remembered that a worker has loaded them.
const WARM: usize = 8;

/// How many tasks of a step go into one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BundleSize(u32);

impl BundleSize {
    /// One until durations are known; the maximum for tasks that do nothing.
    pub(crate) fn first(body: &Body) -> Self {
        Self(if is_instant(body) { MAX_BUNDLE } else { 1 })
    }

    /// Records that a bundle of `tasks` is done: the next may be twice as large.
    pub(crate) fn came_back(&mut self, tasks: usize) {
        if tasks >= self.0 as usize {
            self.0 = (self.0 * 2).min(MAX_BUNDLE);
        }
    }

    pub(super) fn now(self, mean_ms: Option<f64>) -> u32 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let by_time =
            mean_ms.map_or(self.0, |mean| (BUNDLE_MS / mean.max(0.001)).clamp(1.0, 1e6) as u32);
        self.0.min(by_time)
    }
}

/// A decision to assign these tasks to this worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) step: u16,
    pub(super) tasks: Vec<Try>,
    pub(super) worker: WorkerId,
}

/// One round of assignments.
#[derive(Debug, Default)]
pub(super) struct Round {
    now_ms: i64,
    /// The first run of each demand that may be met. Positions may be too early, never too late.
    heads: BinaryHeap<Reverse<(Position, Demand)>>,
    /// Demands that cannot be met any more: no worker has capacity, or a limit has none left.
    unmet: BTreeSet<Demand>,
    /// Runs whose demands can be met, but not for their tasks.
    parked: Vec<RunId>,
}

impl Engine {
    /// Assigns ready tasks to workers with free capacity.
    pub fn assign(&mut self, now_ms: i64, fx: &mut Effects) {
        let mut round = self.begin_round(now_ms, fx);
        while let Some((id, choice)) = self.next_choice(&mut round) {
            self.send(&id, choice, now_ms, fx);
        }
        self.end_round(round);
    }

    pub(super) fn end_round(&mut self, round: Round) {
        for id in round.parked {
            self.park(&id, false);
        }
    }

    pub(super) fn begin_round(&mut self, now_ms: i64, fx: &mut Effects) -> Round {
        self.advance(now_ms);
        // This comes first, as a failure may invalidate assignments. A failed task may make others ready.
        while let Some(id) = self.index.impossible.pop_first() {
            while self.fail_impossible(&id, now_ms, fx) {}
        }
        self.index.pools.await_none();
        let mut round = Round { now_ms, ..Round::default() };
        for demand in self.index.backlog.demands().collect::<Vec<_>>() {
            let head = self.index.backlog.head(demand);
            round.heads.extend(head.map(|head| Reverse((head, demand))));
        }
        round
    }

    /// The next decision: for the first run that has a task for which there is a worker.
    pub(super) fn next_choice(&mut self, round: &mut Round) -> Option<(RunId, Choice)> {
        while let Some(Reverse((position, demand))) = round.heads.pop() {
            if round.unmet.contains(&demand) {
                continue;
            }
            let Some(head) = self.index.backlog.head(demand) else { continue };
            if head != position {
                round.heads.push(Reverse((head, demand)));
                continue;
            }
            let (_, id) = head.2.clone();
            let choice = self.choose(&id, round);
            if choice.is_none() && !round.unmet.contains(&demand) {
                self.park(&id, true);
                round.parked.push(id.clone());
            }
            round.heads.push(Reverse((head, demand)));
            if let Some(choice) = choice {
                return Some((id, choice));
            }
        }
        None
    }

    /// The earliest time at which a task that waits for its next attempt may be assigned. Tasks that may be assigned
    /// already wait for something else.
    pub fn next_wake(&self) -> Option<i64> {
        self.index.next_wake()
    }

    fn choose(&mut self, id: &RunId, round: &mut Round) -> Option<Choice> {
        let steps = self.runs[id].steps_by_order.len();
        (0..steps).find_map(|position| {
            let entry = &self.runs[id];
            let step = entry.steps_by_order[position];
            let demand = entry.index.steps[step as usize].demand?;
            if round.unmet.contains(&demand) {
                return None;
            }
            self.choose_in(id, step, demand, round)
        })
    }

    fn choose_in(
        &mut self,
        id: &RunId,
        step: u16,
        demand: Demand,
        round: &mut Round,
    ) -> Option<Choice> {
        if !self.index.limits.allow(demand.limits) {
            round.unmet.insert(demand);
            return None;
        }
        let entry = &self.runs[id];
        let Some(best) = self.best_worker(entry, step, demand, &BTreeSet::new()) else {
            // Until one is free, nothing is queued ahead on the workers that can do it: a task that comes later would
            // have precedence over it for as long as there are other tasks.
            self.index.pools.set_awaited(demand.class);
            if entry.avoided.is_empty() {
                round.unmet.insert(demand);
            }
            return None;
        };
        let due: Vec<TaskId> = entry.run.ready_singly.due(step, round.now_ms).collect();
        for at in due {
            let worker = match self.runs[id].run.failure_record(at).cloned() {
                None => Some(best),
                Some(record) => self.worker_for_single(id, step, demand, &record),
            };
            if let Some(worker) = worker {
                let attempt = self.runs[id].run.steps[step as usize].attempts[at.index as usize];
                return Some(Choice {
                    step,
                    tasks: vec![Try { index: at.index, attempt }],
                    worker,
                });
            }
        }
        let plain = self.runs[id].run.steps[step as usize].ready.len() > 0;
        plain.then(|| Choice { step, tasks: self.take(id, step, demand), worker: best })
    }

    /// Takes a bundle of ready tasks: about two seconds of work, but never so many that none would be left for another
    /// slot.
    fn take(&mut self, id: &RunId, step: u16, demand: Demand) -> Vec<Try> {
        let entry = self.runs.get_mut(id).expect("chosen from the runs");
        let state = &mut entry.run.steps[step as usize];
        let share = state.ready.len().div_ceil(self.index.pools.slots(demand.class).max(1));
        let mut size = entry.sizes[step as usize].now(state.mean_ms()).min(share).max(1);
        if !entry.run.plan.steps[step as usize].limits.is_empty() {
            size = 1;
        }
        let mut tasks = Vec::with_capacity(size as usize);
        while let Some(rank) = (tasks.len() < size as usize).then(|| state.ready.pop()).flatten() {
            let index = state.index_of_rank(rank);
            tasks.push(Try { index, attempt: state.attempts[index as usize] });
        }
        tasks
    }

    /// The best worker for a task that has failed before: if it can be, one on which it has not, and with more GPU
    /// memory than was too little.
    fn worker_for_single(
        &mut self,
        id: &RunId,
        step: u16,
        demand: Demand,
        record: &FailureRecord,
    ) -> Option<WorkerId> {
        let too_small = record.too_small.iter().filter_map(|id| self.workers.get(id));
        let needed = too_small.map(|worker| worker.vram_bytes() + 1).max();
        let class = match needed {
            None => demand.class,
            Some(bytes) => self.index.pools.class_with_vram(demand.class, bytes, &mut self.workers),
        };
        self.best_worker(&self.runs[id], step, Demand { class, ..demand }, &record.avoid)
    }

    /// The best worker with capacity for the step, if possible none of those on which the task or too many tasks of the
    /// run have failed.
    fn best_worker(
        &self,
        entry: &Entry,
        step: u16,
        demand: Demand,
        failed_on: &BTreeSet<WorkerId>,
    ) -> Option<WorkerId> {
        let pools = &self.index.pools;
        let is_able = |id: &WorkerId| {
            let worker = self.workers.get(id);
            worker.is_some_and(|w| w.listed && pools.can_do(demand.class, w))
        };
        let able = pools.listed(demand.class) as usize;
        let failed = failed_on.iter().filter(|id| is_able(id)).count();
        let fresh_exist = able > failed;
        // A worker on which many tasks fail is soon free again, but must not get tasks that others could do.
        let also = |id: &&WorkerId| is_able(id) && !(fresh_exist && failed_on.contains(*id));
        let bad = entry.avoided.iter().filter(also).count() + if fresh_exist { failed } else { 0 };
        let others_exist = able > bad;
        let search = Search {
            class: demand.class,
            loads: entry.index.steps[step as usize].loads.as_deref(),
            ahead: demand.ahead,
            failures: &entry.failures,
        };
        pools.best(&search, |id| {
            fresh_exist && failed_on.contains(&id) || others_exist && entry.avoided.contains(&id)
        })
    }

    pub(super) fn send(&mut self, id: &RunId, choice: Choice, now_ms: i64, fx: &mut Effects) {
        let Choice { step, tasks, worker } = choice;
        self.last_bundle += 1;
        let bundle = self.last_bundle;
        let entry = self.runs.get_mut(id).expect("chosen from the runs");
        let until_ms = now_ms + self.config.deadline_ms;
        for task in &tasks {
            let live = Live { worker, bundle, claim: None, until_ms };
            entry.run.assign(TaskId { step, index: task.index }, live);
        }
        let brief = entry.brief(step);
        let (key, loads) = (entry.run.key(step), entry.index.steps[step as usize].loads.clone());
        self.change_worker(worker, |holder| {
            holder.load += 1;
            if let Some(what) = loads {
                holder.warm.retain(|warm| *warm != what);
                holder.warm.push(what);
                if holder.warm.len() > WARM {
                    holder.warm.remove(0);
                }
            }
        });
        let remaining = u32::try_from(tasks.len()).expect("a bundle is small");
        self.hold(
            bundle,
            Bundle { worker, run: id.clone(), step, tasks: tasks.clone(), remaining },
        );
        self.reindex(id);
        fx.assign.push((worker, Assignment { key, id: bundle, brief, tasks }));
    }

    /// As no more workers will join, fails ready tasks that none can do, with the reason. Returns whether there were
    /// any.
    fn fail_impossible(&mut self, id: &RunId, now_ms: i64, fx: &mut Effects) -> bool {
        let Some(&worker) = self.workers.keys().next() else { return false };
        let entry = &self.runs[id];
        let mut impossible: BTreeMap<u16, String> = BTreeMap::new();
        for (step, state) in (0u16..).zip(&entry.run.steps) {
            if state.counts[TaskState::Ready as usize] == 0 {
                continue;
            }
            let class = entry.index.steps[step as usize].class;
            if !self.index.pools.any_can_do(class) {
                let lacks = self.workers.get(&worker);
                impossible
                    .extend(lacks.and_then(|w| Some((step, self.index.pools.lacks(class, w)?))));
            }
        }
        let entry = self.runs.get_mut(id).expect("looked up above");
        let before = entry.run.seq;
        for (step, what) in impossible {
            let scene = entry.run.plan.steps[step as usize].body.scene();
            let hint = self.workers.get(&worker).map(|w| how_to_get(&what, scene, &w.inventory));
            let hint = hint.unwrap_or_default();
            let message = format!("this machine does not have {what}{hint}");
            for index in entry.run.indices(step) {
                let sent = entry.run.live.contains_key(&TaskId { step, index });
                if sent || entry.run.task_state(TaskId { step, index }) != Some(TaskState::Ready) {
                    continue;
                }
                let state = &entry.run.steps[step as usize];
                let task = Try { index, attempt: state.attempts[index as usize] };
                let task = TaskRef { step, generation: state.generation, task };
                let failure = Failure { kind: FailureKind::Invalid, message: message.clone() };
                entry.record_end(
                    (task, worker, Execution(0)),
                    Outcome::Failed(failure),
                    now_ms,
                    fx,
                );
            }
        }
        let failed = entry.run.seq > before;
        self.settle(id, fx);
        failed
    }
}

impl Entry {
    fn brief(&mut self, step: u16) -> Arc<Brief> {
        let generation = self.run.steps[step as usize].generation;
        if let Some((made, brief)) = &self.briefs[step as usize]
            && *made == generation
        {
            return brief.clone();
        }
        let plan = &self.run.plan;
        let step_plan = &plan.steps[step as usize];
        let space = self.run.steps[step as usize].space.as_deref().cloned().unwrap_or_default();
        let brief = Arc::new(Brief {
            step: step_plan.name.clone(),
            space,
            body: step_plan.body.clone(),
            timeout: step_plan.timeout,
            stalled: step_plan.stalled,
            files: plan.files.clone(),
            folder: plan.folder.clone(),
            has_inputs: step_plan
                .needs
                .iter()
                .any(|need| plan.steps[need.step as usize].body.has_outputs())
                && step_plan.body.reads_inputs(),
            binds: plan.bound_by(step).map(|dim| plan.dims[dim].name.clone()).collect(),
            blender: step_plan.requires.software.get(BLENDER).filter(|v| *v != "*").cloned(),
        });
        self.briefs[step as usize] = Some((generation, brief.clone()));
        brief
    }
}
