//! The rules of assignment as a search through all runs and all workers: slow, and plain enough to be believed. Random
//! farms check that the indexes lead to the same choices.

use super::assign::{Choice, MAX_FAILURES_ON_WORKER};
use super::{Class, Effects, Engine, Entry, Worker, is_instant};
use crate::plan::Step;
use crate::run::RunState;
use crate::run::state::FailureRecord;
use pictor_tasks::message::{RunId, TaskId, Try, WorkerId};
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

/// One round of assignments.
#[derive(Debug, Default)]
struct Oracle {
    now_ms: i64,
    /// Runs for whose tasks there is no worker.
    stuck: BTreeSet<RunId>,
    /// Busy workers that a task with precedence waits for: nothing is queued ahead on them.
    awaited: BTreeSet<WorkerId>,
}

impl Oracle {
    fn next_choice(&mut self, engine: &Engine) -> Option<(RunId, Choice)> {
        while let Some(id) = self.next_run(engine) {
            if let Some(choice) = self.choose(engine, &engine.runs[&id]) {
                return Some((id, choice));
            }
            self.stuck.insert(id);
        }
        None
    }

    fn next_run(&self, engine: &Engine) -> Option<RunId> {
        let mut held: HashMap<&str, usize> = HashMap::new();
        for entry in engine.runs.values() {
            *held.entry(&entry.account).or_default() += entry.run.live.len();
        }
        let wanting = |entry: &&Entry| {
            let steps = || (0u16..).zip(&entry.run.steps);
            entry.state == RunState::Running
                && !self.stuck.contains(&entry.run.id)
                && steps().any(|(step, state)| {
                    state.ready.len() > 0 || entry.run.ready_singly.steps().any(|s| s == step)
                })
        };
        let first =
            engine.runs.values().map(|entry| &**entry).filter(wanting).min_by_key(|entry| {
                let hours = (self.now_ms - entry.submitted_ms) / 3_600_000;
                let priority = i64::from(entry.run.priority) + hours.clamp(0, 24);
                (Reverse(priority), held[&*entry.account], entry.submitted_ms, &entry.run.id)
            });
        first.map(|entry| entry.run.id.clone())
    }

    fn choose(&mut self, engine: &Engine, entry: &Entry) -> Option<Choice> {
        for &step in &entry.steps_by_order {
            let plan = &entry.run.plan.steps[step as usize];
            let state = &entry.run.steps[step as usize];
            let is_ready = state.ready.len() > 0;
            let due: Vec<TaskId> = entry.run.ready_singly.due(step, self.now_ms).collect();
            if is_limited(engine, plan) || !is_ready && due.is_empty() {
                continue;
            }
            let Some(best) = self.best_worker(engine, entry, step, |_, _| true) else {
                let able = engine.workers.iter().filter(|(_, worker)| can_do(worker, plan));
                self.awaited.extend(able.map(|(id, _)| *id));
                continue;
            };
            for at in due {
                let worker = match entry.run.failure_record(at) {
                    None => Some(best),
                    Some(record) => self.worker_for_single(engine, entry, step, record),
                };
                if let Some(worker) = worker {
                    let attempt = state.attempts[at.index as usize];
                    let tasks = vec![Try { index: at.index, attempt }];
                    return Some(Choice { step, tasks, worker });
                }
            }
            if is_ready {
                let tasks = self.bundle(engine, entry, step);
                return Some(Choice { step, tasks, worker: best });
            }
        }
        None
    }

    fn bundle(&self, engine: &Engine, entry: &Entry, step: u16) -> Vec<Try> {
        let (plan, state) = (&entry.run.plan.steps[step as usize], &entry.run.steps[step as usize]);
        let present = engine.workers.values().filter(|w| self.is_present(engine, w));
        let slots: u32 = present.filter(|w| can_do(w, plan)).map(|w| w.inventory.slots).sum();
        let share = state.ready.len().div_ceil(slots.max(1));
        let mut size = entry.sizes[step as usize].now(state.mean_ms()).min(share).max(1);
        if !plan.limits.is_empty() {
            size = 1;
        }
        let mut ready = state.ready.clone();
        let ranks = std::iter::from_fn(|| ready.pop()).take(size as usize);
        let index = ranks.map(|rank| state.index_of_rank(rank));
        index.map(|index| Try { index, attempt: state.attempts[index as usize] }).collect()
    }

    fn worker_for_single(
        &self,
        engine: &Engine,
        entry: &Entry,
        step: u16,
        record: &FailureRecord,
    ) -> Option<WorkerId> {
        let plan = &entry.run.plan.steps[step as usize];
        let too_small = record.too_small.iter().filter_map(|id| engine.workers.get(id));
        let needed = too_small.map(|worker| worker.vram_bytes() + 1).max();
        let large_enough = |w: &Worker| needed.is_none_or(|bytes| w.vram_bytes() >= bytes);
        let fresh_exists = engine.workers.iter().any(|(id, w)| {
            let able = self.is_present(engine, w) && can_do(w, plan) && large_enough(w);
            able && !record.avoid.contains(id)
        });
        self.best_worker(engine, entry, step, |id, worker| {
            large_enough(worker) && !(fresh_exists && record.avoid.contains(id))
        })
    }

    fn best_worker(
        &self,
        engine: &Engine,
        entry: &Entry,
        step: u16,
        also: impl Fn(&WorkerId, &Worker) -> bool,
    ) -> Option<WorkerId> {
        let plan = &entry.run.plan.steps[step as usize];
        let loads = entry.index.steps[step as usize].loads.as_ref();
        let mean_ms = entry.run.steps[step as usize].mean_ms();
        let short = is_instant(&plan.body) || mean_ms.is_some_and(|mean| mean < 2_000.0);
        let failures = |id: &WorkerId| entry.failures.get(id).copied().unwrap_or(0);
        let avoided = |id: &WorkerId| failures(id) >= MAX_FAILURES_ON_WORKER;
        let able = || {
            let present = engine.workers.iter().filter(|(_, w)| self.is_present(engine, w));
            present.filter(|(id, w)| can_do(w, plan) && also(id, w))
        };
        let others_exist = able().any(|(id, _)| !avoided(id));
        able()
            .filter(|(id, w)| {
                let ahead = short && !self.awaited.contains(id);
                w.load < w.inventory.slots + u32::from(ahead)
            })
            .filter(|(id, _)| !(others_exist && avoided(id)))
            .min_by_key(|(id, w)| {
                let cold = loads.is_some_and(|what| !w.warm.contains(what));
                let busy = w.load >= w.inventory.slots;
                (busy, cold, w.load * 1000 / w.inventory.slots.max(1), failures(id), **id)
            })
            .map(|(id, _)| *id)
    }

    fn is_present(&self, engine: &Engine, worker: &Worker) -> bool {
        worker.is_present(self.now_ms, engine.config.lease_ms)
    }
}

fn can_do(worker: &Worker, step: &Step) -> bool {
    Class::of(step).lacks(worker).is_none()
}

fn is_limited(engine: &Engine, step: &Step) -> bool {
    step.limits.iter().any(|name| {
        let held = engine.runs.values().flat_map(|entry| {
            let holds = |at: &&TaskId| {
                entry.run.plan.steps[at.step as usize].limits.iter().any(|limit| limit == name)
            };
            entry.run.live.keys().filter(holds)
        });
        let most = engine.config.limits.get(name);
        most.is_some_and(|most| held.count() >= *most as usize)
    })
}

impl Engine {
    /// Assigns as [`Engine::assign`] does, and compares each choice with the oracle's.
    pub(super) fn assign_and_compare(&mut self, now_ms: i64, fx: &mut Effects) {
        let mut round = self.begin_round(now_ms, fx);
        let mut oracle = Oracle { now_ms, ..Oracle::default() };
        loop {
            let expected = oracle.next_choice(self);
            let choice = self.next_choice(&mut round);
            assert_eq!(choice, expected);
            let Some((id, choice)) = choice else {
                return self.end_round(round);
            };
            self.send(&id, choice, now_ms, fx);
        }
    }
}

mod random_farms;
