//! Assignment: which task goes to which worker. Tasks by the run's priority (raised by one for each
//! hour waited), then fair share between accounts, then age; inside a run nearest to the end of the graph
//! first. Workers by what they have, what failed on them, whether they have the scene or the network
//! loaded, and load.

use super::{Bundle, Effects, Engine, Entry, Worker};
use crate::plan::Step;
use crate::run::state::{FailureRecord, Live};
use crate::run::{RunState, TaskState};
use pictor_tasks::body::{Body, Render, Scene};
use pictor_tasks::history::TaskRef;
use pictor_tasks::message::{
    Assignment, Brief, Execution, Failure, FailureKind, FileRef, Outcome, RunId, TaskId, Try,
    WorkerId,
};
use pictor_tasks::worker::{BLENDER, Device, Inventory, model_hint};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The most tasks in one message, for tasks that take no time.
const MAX_BUNDLE: u32 = 512;
/// The duration of the work that a bundle should contain.
const BUNDLE_MS: f64 = 2_000.0;
/// The most by which waiting increases a run's priority, at one per hour.
const MAX_AGE_BONUS: i64 = 24;
/// The number of failures of one run on one worker after which the run avoids that worker.
const MAX_FAILURES_ON_WORKER: u32 = 3;
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

    fn now(self, mean_ms: Option<f64>) -> u32 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let by_time =
            mean_ms.map_or(self.0, |mean| (BUNDLE_MS / mean.max(0.001)).clamp(1.0, 1e6) as u32);
        self.0.min(by_time)
    }
}

/// What a worker loads for such a task and keeps for the next one: a scene (its digest) or a network (its name).
fn loaded<'a>(body: &'a Body, files: &'a BTreeMap<String, FileRef>) -> Option<&'a str> {
    match body {
        Body::Upscale(upscale) => Some(&upscale.model),
        body => body.scene().and_then(|s| files.get(&s.scene)).map(|file| &*file.digest),
    }
}

fn is_instant(body: &Body) -> bool {
    matches!(body, Body::Noop(noop) if noop.duration.is_none())
}

/// A decision to assign these tasks to this worker.
struct Choice {
    step: u16,
    tasks: Vec<Try>,
    worker: WorkerId,
}

impl Engine {
    /// Assigns ready tasks to workers with free capacity.
    pub fn assign(&mut self, now_ms: i64, fx: &mut Effects) {
        self.assigned_ms = now_ms;
        if self.config.workers_are_final {
            // This comes first, as a failure may invalidate assignments. A failed task may make others ready.
            let running = self.runs.values().filter(|entry| entry.state == RunState::Running);
            let ids: Vec<RunId> = running.map(|entry| entry.run.id.clone()).collect();
            for id in ids {
                while self.fail_impossible(&id, now_ms, fx) {}
            }
        }
        self.awaited.clear();
        let mut stuck = BTreeSet::new();
        while let Some(id) = self.next_run(now_ms, &stuck) {
            match self.choose(&id, now_ms) {
                Some(choice) => self.send(&id, choice, now_ms, fx),
                None => {
                    stuck.insert(id);
                }
            }
        }
    }

    /// The earliest time at which a task that waits for its next attempt may be assigned. Tasks that may be assigned
    /// already wait for something else.
    pub fn next_wake(&self) -> Option<i64> {
        let waiting = self.runs.values().flat_map(|entry| {
            entry
                .run
                .ready_singly
                .iter()
                .filter_map(|at| entry.run.failure_record(*at))
                .map(|t| t.not_before_ms)
        });
        waiting.filter(|at| *at > self.assigned_ms).min()
    }

    fn next_run(&self, now_ms: i64, stuck: &BTreeSet<RunId>) -> Option<RunId> {
        let wanting = |entry: &&Entry| {
            entry.state == RunState::Running
                && !stuck.contains(&entry.run.id)
                && (!entry.run.ready_singly.is_empty()
                    || entry.run.steps.iter().any(|s| s.ready.len() > 0))
        };
        let mut candidates = self.runs.values().filter(wanting);
        let first = candidates.next()?;
        let Some(second) = candidates.next() else { return Some(first.run.id.clone()) };
        let mut held: HashMap<&str, usize> = HashMap::new();
        for entry in self.runs.values() {
            *held.entry(&entry.account).or_default() += entry.run.live.len();
        }
        [first, second]
            .into_iter()
            .chain(candidates)
            .min_by_key(|entry| {
                let age = ((now_ms - entry.submitted_ms) / 3_600_000).clamp(0, MAX_AGE_BONUS);
                let priority = i64::from(entry.run.priority) + age;
                (Reverse(priority), held[&*entry.account], entry.submitted_ms, &entry.run.id)
            })
            .map(|entry| entry.run.id.clone())
    }

    fn choose(&mut self, id: &RunId, now_ms: i64) -> Option<Choice> {
        let entry = &self.runs[id];
        for &step in &entry.steps_by_order {
            if !self.limits_allow(&entry.run.plan.steps[step as usize]) {
                continue;
            }
            let mut ready_singly = entry
                .run
                .ready_singly
                .range(TaskId { step, index: 0 }..=TaskId { step, index: u32::MAX })
                .peekable();
            let plain = entry.run.steps[step as usize].ready.len() > 0;
            if ready_singly.peek().is_none() && !plain {
                continue;
            }
            let Some(best) = self.best_worker(entry, step, now_ms, |_, _| true) else {
                let due =
                    |at| entry.run.failure_record(at).is_none_or(|t| t.not_before_ms <= now_ms);
                if !plain && !ready_singly.any(|at| due(*at)) {
                    continue;
                }
                let step = &entry.run.plan.steps[step as usize];
                let able = self.workers.iter().filter(|(_, worker)| worker.can_do(step));
                self.awaited.extend(able.map(|(id, _)| *id));
                continue;
            };
            for at in ready_singly {
                let worker = match entry.run.failure_record(*at) {
                    None => Some(best),
                    Some(record) => self.worker_for_single(entry, *at, record, now_ms),
                };
                if let Some(worker) = worker {
                    let attempt = entry.run.steps[step as usize].attempts[at.index as usize];
                    let tasks = vec![Try { index: at.index, attempt }];
                    return Some(Choice { step, tasks, worker });
                }
            }
            if plain {
                let tasks = self.take(id, step, now_ms);
                return Some(Choice { step, tasks, worker: best });
            }
        }
        None
    }

    /// Takes a bundle of ready tasks: about two seconds of work, but never so many that none would be left for another
    /// slot.
    fn take(&mut self, id: &RunId, step: u16, now_ms: i64) -> Vec<Try> {
        let entry = &self.runs[id];
        let plan = &entry.run.plan.steps[step as usize];
        let state = &entry.run.steps[step as usize];
        let slots: u32 = self
            .workers
            .values()
            .filter(|w| self.is_present(w, now_ms) && w.can_do(plan))
            .map(|w| w.inventory.slots)
            .sum();
        let share = state.ready.len().div_ceil(slots.max(1));
        let mut size = entry.sizes[step as usize].now(state.mean_ms()).min(share).max(1);
        if !plan.limits.is_empty() {
            size = 1;
        }
        let entry = self.runs.get_mut(id).expect("looked up above");
        let state = &mut entry.run.steps[step as usize];
        let mut tasks = Vec::with_capacity(size as usize);
        while let Some(rank) = (tasks.len() < size as usize).then(|| state.ready.pop()).flatten() {
            let index = state.index_of_rank(rank);
            tasks.push(Try { index, attempt: state.attempts[index as usize] });
        }
        tasks
    }

    fn worker_for_single(
        &self,
        entry: &Entry,
        at: TaskId,
        record: &FailureRecord,
        now_ms: i64,
    ) -> Option<WorkerId> {
        if record.not_before_ms > now_ms {
            return None;
        }
        let needed = record
            .too_small
            .iter()
            .filter_map(|id| self.workers.get(id))
            .map(|worker| worker.vram_bytes() + 1)
            .max();
        let step = &entry.run.plan.steps[at.step as usize];
        let large_enough = |w: &Worker| needed.is_none_or(|bytes| w.vram_bytes() >= bytes);
        let fresh_exists = self.workers.iter().any(|(id, w)| {
            self.is_present(w, now_ms)
                && w.can_do(step)
                && large_enough(w)
                && !record.avoid.contains(id)
        });
        self.best_worker(entry, at.step, now_ms, |id, worker| {
            large_enough(worker) && !(fresh_exists && record.avoid.contains(id))
        })
    }

    /// The best worker with free capacity for the step.
    fn best_worker(
        &self,
        entry: &Entry,
        step: u16,
        now_ms: i64,
        also: impl Fn(&WorkerId, &Worker) -> bool,
    ) -> Option<WorkerId> {
        let plan = &entry.run.plan.steps[step as usize];
        let loaded = loaded(&plan.body, &entry.run.plan.files);
        // Only short tasks are queued ahead: a task must not wait behind one that takes an hour while another machine
        // becomes idle.
        let mean_ms = entry.run.steps[step as usize].mean_ms();
        let short = is_instant(&plan.body) || mean_ms.is_some_and(|mean| mean < BUNDLE_MS);
        let failures = |id: &WorkerId| entry.failures.get(id).copied().unwrap_or(0);
        let avoided = |id: &WorkerId| failures(id) >= MAX_FAILURES_ON_WORKER;
        let able = || {
            let present = self.workers.iter().filter(|(_, w)| self.is_present(w, now_ms));
            present.filter(|(id, w)| w.can_do(plan) && also(id, w))
        };
        // A worker on which many tasks fail is soon free again, but must not get tasks that others could do.
        let others_exist = able().any(|(id, _)| !avoided(id));
        able()
            .filter(|(id, w)| {
                let ahead = short && !self.awaited.contains(id);
                w.load < w.inventory.slots + u32::from(ahead)
            })
            .filter(|(id, _)| !(others_exist && avoided(id)))
            .min_by_key(|(id, w)| {
                let cold = loaded.is_some_and(|what| !w.warm.iter().any(|warm| warm == what));
                let busy = w.load >= w.inventory.slots;
                (busy, cold, w.load * 1000 / w.inventory.slots.max(1), failures(id), **id)
            })
            .map(|(id, _)| *id)
    }

    /// Whether the worker accepts tasks and has sent a message recently. A silent one gets no new tasks.
    pub(crate) fn is_present(&self, worker: &Worker, now_ms: i64) -> bool {
        worker.accepts && now_ms.saturating_sub(worker.seen_ms) <= self.config.lease_ms
    }

    /// Whether every limit that the step's tasks hold has capacity left.
    pub(crate) fn limits_allow(&self, step: &Step) -> bool {
        self.full_limit(step).is_none()
    }

    /// The first limit of the step that has no capacity left.
    pub(crate) fn full_limit<'a>(&self, step: &'a Step) -> Option<&'a str> {
        step.limits.iter().map(String::as_str).find(|name| {
            self.config.limits.get(*name).is_some_and(|limit| {
                let held = self.runs.values().flat_map(|entry| {
                    let holds = |at: &&TaskId| {
                        let step = &entry.run.plan.steps[at.step as usize];
                        step.limits.iter().any(|l| l == name)
                    };
                    entry.run.live.keys().filter(holds).collect::<Vec<_>>()
                });
                held.count() >= *limit as usize
            })
        })
    }

    fn send(&mut self, id: &RunId, choice: Choice, now_ms: i64, fx: &mut Effects) {
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
        let holder = self.workers.get_mut(&worker).expect("chosen from the workers");
        holder.load += 1;
        if let Some(what) = loaded(&brief.body, &brief.files) {
            holder.warm.retain(|warm| warm != what);
            holder.warm.push(what.to_owned());
            if holder.warm.len() > WARM {
                holder.warm.remove(0);
            }
        }
        let key = entry.run.key(step);
        let remaining = u32::try_from(tasks.len()).expect("a bundle is small");
        self.bundles.insert(
            bundle,
            Bundle { worker, run: id.clone(), step, tasks: tasks.clone(), remaining },
        );
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
            let plan = &entry.run.plan.steps[step as usize];
            let lacks: Option<Vec<String>> = self.workers.values().map(|w| w.lacks(plan)).collect();
            if let Some(first) = lacks.and_then(|all| all.into_iter().next()) {
                impossible.insert(step, first);
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

impl Worker {
    /// The first requirement of the step that the worker does not meet.
    pub(crate) fn lacks(&self, step: &Step) -> Option<String> {
        if matches!(step.body, Body::Command(_)) && !self.inventory.allows_commands {
            return Some("permission to run commands".into());
        }
        if let Body::Upscale(upscale) = &step.body
            && !self.inventory.models.contains(&upscale.model)
        {
            let (name, held) = (&upscale.model, self.inventory.models.iter().map(String::as_str));
            return Some(format!("model `{name}`: {}", model_hint(name, held)));
        }
        step.requires.missing(&self.inventory).or_else(|| {
            lacks_gpu_blender(step, &self.inventory)
                .then(|| "a Blender that can use its GPU".into())
        })
    }

    /// Whether it meets all requirements of the step.
    pub(crate) fn can_do(&self, step: &Step) -> bool {
        self.lacks(step).is_none()
    }
}

/// Whether the step renders and the machine has GPUs that no suitable Blender can use.
fn lacks_gpu_blender(step: &Step, has: &Inventory) -> bool {
    let Body::Blender(Render { scene, .. }) = &step.body else { return false };
    let version = step.requires.software.get(BLENDER).map_or("*", String::as_str);
    matches!(scene.device, None | Some(Device::Gpu)) && has.lacks_gpu_blender(version)
}

/// A hint on how to install something on a machine.
fn how_to_get(what: &str, scene: Option<&Scene>, has: &Inventory) -> String {
    match what.split(' ').next() {
        Some(BLENDER) => {
            let held: Vec<&str> = has.versions(BLENDER).collect();
            let held = if held.is_empty() {
                "; install blender".to_owned()
            } else {
                let needed = scene.map_or(String::new(), |s| format!(", which {} needs", s.scene));
                format!("{needed}; it has {}; get one that fits", held.join(", "))
            };
            format!("{held} (`pictor setup-blender`, `--blender PATH`) and try again")
        }
        Some("ffmpeg") => "; install it (`apt-get install ffmpeg`) and try again".into(),
        Some("a") if what.contains("Blender") => {
            "; get one (`pictor setup-blender`), or say `device: any` to render on the processors"
                .into()
        }
        Some("permission") => "; start it with `--allow-commands`".into(),
        _ => String::new(),
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
