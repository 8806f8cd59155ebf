//! Random farms, to which everything happens that can happen to a farm.

use crate::farm::{Config, Effects, Engine};
use crate::plan::{Plan, compile};
use crate::run::Run;
use pictor_tasks::history::{Control, Event, ResetTasks};
use pictor_tasks::job::{Source, parse};
use pictor_tasks::message::{
    Assignment, Execution, Failure, FailureKind, FileRef, Outcome, Products, Report, RunId,
    TaskEnd, What, WorkerId,
};
use pictor_tasks::worker::{Gpu, Inventory};
use proptest::prelude::*;
use std::sync::{Arc, LazyLock};

/// The jobs, without their priorities. `a.blend` and `b.blend` are scenes that a worker keeps loaded.
const JOBS: [&str; 10] = [
    "steps: [{ name: a, noop: {} }]",
    "dims: { f: 1-40 }\nsteps: [{ name: a, over: [f], noop: {} }, { name: b, needs: [a], noop: { duration: 5s } }]",
    "dims: { f: 1-4 }\nsteps: [{ name: a, over: [f], command: { run: [x] }, requires: { cpus: 4 }, limits: [one] }]",
    "dims: { f: 1-5 }\nsteps: [{ name: a, over: [f], command: { run: [x] }, limits: [one, two] }, { name: b, over: [f], needs: [a], noop: {}, limits: [two] }]",
    "retry: { attempts: 4, backoff: 1s }\ndims: { f: 1-6 }\nsteps: [{ name: a, over: [f], command: { run: [x] }, requires: { gpu: {} } }]",
    "retry: { attempts: 9, backoff: 0s }\ndims: { f: 1-6 }\nsteps: [{ name: a, over: [f], command: { run: [x] }, requires: { gpu: { vram: 4GiB } }, order: preview }]",
    "dims: { f: 1-6 }\nsteps: [{ name: a, over: [f], blender: { scene: { scene: a.blend } } }]",
    "dims: { f: 1-6 }\nsteps: [{ name: a, over: [f], blender: { scene: { scene: b.blend } } }, { name: b, over: [f], needs: [a], command: { run: [x] } }]",
    "dims: { tile: { grid: 2x2 } }\nsteps: [{ name: up, over: [tile], upscale: { source: a.png, model: net } }]",
    "retry: { attempts: 2, backoff: 1h }\ndims: { f: 1-3 }\nsteps: [{ name: a, over: [f], command: { run: [x] }, requires: { labels: [fast] } }, { name: b, over: [f], command: { run: [x] } }]",
];

static PLANS: LazyLock<Vec<Plan>> = LazyLock::new(|| {
    let plan = |job: &str| {
        let text = format!("pictor: v1\nname: test\n{job}");
        let source = Source { name: "job.yaml".into(), text };
        let mut plan = compile(&parse(&source, &[]).unwrap().spec).unwrap();
        for scene in ["a.blend", "b.blend"] {
            let file = FileRef { path: format!("/{scene}"), digest: scene.into(), size_bytes: 1 };
            plan.files.insert(scene.into(), file);
        }
        plan
    };
    JOBS.iter().map(|job| plan(job)).collect()
});

/// Something that happens to the farm. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Happens {
    Submit { job: usize, account: u8, priority: i32 },
    Join { worker: u32, kind: u8 },
    Leave { worker: u32 },
    Accept { worker: u32, accepts: bool },
    Heartbeat { worker: u32, holding: u8 },
    Confirm { number: usize, confirmed: bool },
    Claim { number: usize },
    End { number: usize, how: u8, took_ms: u32 },
    Release { number: usize },
    Control { run: usize, what: u8, value: i32 },
    Forget { run: usize },
    Wait { ms: i64 },
    Tick,
    SetBack { ms: i64 },
    Outage { ms: i64 },
    Assign,
}

fn happens() -> impl Strategy<Value = Happens> {
    let any_worker = || 1u32..9;
    let number = || 0usize..1_000;
    prop_oneof![
        6 => (0..JOBS.len(), 0u8..3, -1..2i32)
            .prop_map(|(job, account, priority)| Happens::Submit { job, account, priority }),
        5 => (any_worker(), 0u8..8).prop_map(|(worker, kind)| Happens::Join { worker, kind }),
        1 => any_worker().prop_map(|worker| Happens::Leave { worker }),
        1 => (any_worker(), any::<bool>())
            .prop_map(|(worker, accepts)| Happens::Accept { worker, accepts }),
        3 => (any_worker(), 0u8..3)
            .prop_map(|(worker, holding)| Happens::Heartbeat { worker, holding }),
        4 => (number(), prop::bool::weighted(0.9))
            .prop_map(|(number, confirmed)| Happens::Confirm { number, confirmed }),
        2 => number().prop_map(|number| Happens::Claim { number }),
        9 => (number(), 0u8..10, prop_oneof![Just(10u32), Just(1_000), Just(50_000)])
            .prop_map(|(number, how, took_ms)| Happens::End { number, how, took_ms }),
        1 => number().prop_map(|number| Happens::Release { number }),
        2 => (number(), 0u8..6, -3..4i32)
            .prop_map(|(run, what, value)| Happens::Control { run, what, value }),
        1 => number().prop_map(|run| Happens::Forget { run }),
        4 => prop_oneof![Just(1i64), Just(1_000), Just(25_000), Just(61_000), Just(3_700_000)]
            .prop_map(|ms| Happens::Wait { ms }),
        1 => Just(Happens::Tick),
        1 => prop_oneof![Just(5_000i64), Just(4_000_000)].prop_map(|ms| Happens::SetBack { ms }),
        1 => (0i64..100_000).prop_map(|ms| Happens::Outage { ms }),
        9 => Just(Happens::Assign),
    ]
}

fn inventory(kind: u8) -> Inventory {
    let gpu = |gib: u64| Gpu {
        name: "GPU".into(),
        uuid: String::new(),
        vram_bytes: gib << 30,
        driver: String::new(),
    };
    let slots = [1, 2, 3, 1, 4, 1, 2, 0][kind as usize];
    let gpus = [0, 2, 8, 0, 16, 8, 0, 0][kind as usize];
    Inventory {
        slots,
        cpus: 2 + 2 * u32::from(kind % 3),
        allows_commands: kind != 3,
        gpus: if gpus > 0 { vec![gpu(gpus)] } else { Vec::new() },
        software: [("blender".to_owned(), "5.0".to_owned())].into(),
        labels: if kind.is_multiple_of(2) { ["fast".to_owned()].into() } else { [].into() },
        models: if kind < 5 { ["net".to_owned()].into() } else { [].into() },
        ..Inventory::default()
    }
}

fn chosen<T: Clone>(from: &[T], number: usize) -> Option<T> {
    from.get(number.checked_rem(from.len())?).cloned()
}

struct Farm {
    engine: Engine,
    now: i64,
    runs: Vec<RunId>,
    sent: Vec<(WorkerId, Assignment)>,
    controls: u64,
}

impl Farm {
    fn new(workers_are_final: bool) -> Self {
        let limits = [("one".to_owned(), 1), ("two".to_owned(), 2)].into();
        let config = Config { workers_are_final, limits, ..Config::default() };
        let engine = Engine::new(config);
        let now = 10_000_000;
        Self { engine, now, runs: Vec::new(), sent: Vec::new(), controls: 0 }
    }

    fn end(how: u8) -> Outcome {
        let kind = match how {
            0..5 => return Outcome::Succeeded(Products::default()),
            5 => return Outcome::Cancelled,
            6 | 7 => FailureKind::Failed,
            8 => FailureKind::OutOfMemory,
            _ => FailureKind::Unsupported,
        };
        Outcome::Failed(Failure { kind, message: String::new() })
    }

    fn happens(&mut self, event: &Happens) {
        let fx = &mut Effects::default();
        match *event {
            Happens::Submit { job, account, priority } => self.submit(job, account, priority),
            Happens::Join { worker, kind } => {
                self.engine.join(WorkerId(worker), inventory(kind), self.now);
            }
            Happens::Leave { worker } => self.engine.leave(WorkerId(worker), self.now, fx),
            Happens::Accept { worker, accepts } => {
                self.engine.set_accepts(WorkerId(worker), accepts);
            }
            Happens::Heartbeat { worker, holding } => {
                let held = self.sent.iter().rev().take(holding.into());
                let held: Vec<_> = held.map(|(_, a)| (a.key.clone(), a.tasks.clone())).collect();
                self.engine.heartbeat(WorkerId(worker), &held, self.now, fx);
            }
            Happens::Control { run, what, value } => self.control(run, what, value, fx),
            Happens::Forget { run } => {
                if let Some(id) = chosen(&self.runs, run)
                    && self.engine.run(&id).is_some_and(|run| run.state().is_terminal())
                {
                    self.engine.remove_run(&id);
                }
            }
            Happens::Wait { ms } => self.now += ms,
            Happens::Tick => self.engine.tick(self.now, fx),
            Happens::SetBack { ms } => {
                self.now -= ms;
                self.engine.set_back(self.now);
            }
            Happens::Outage { ms } => self.engine.extend_leases(ms, self.now),
            Happens::Assign => {
                self.engine.assign_and_compare(self.now, fx);
            }
            Happens::Confirm { number, .. }
            | Happens::Claim { number }
            | Happens::End { number, .. }
            | Happens::Release { number } => {
                if let Some(sent) = chosen(&self.sent, number) {
                    self.happens_to(sent, event, fx);
                }
            }
        }
        self.sent.extend(std::mem::take(&mut fx.assign));
    }

    fn submit(&mut self, job: usize, account: u8, priority: i32) {
        let id = RunId(format!("{:03}", self.runs.len() * 7 % 101).into());
        let mut plan = PLANS[job].clone();
        plan.priority = priority;
        self.runs.push(id.clone());
        let submitted_ms = self.now - i64::from(account) * 1_800_000;
        let run = Run::new(id, Arc::new(plan));
        self.engine.add_run(run, format!("{account}"), submitted_ms, self.now);
    }

    /// Something happens to the tasks of an assignment.
    fn happens_to(
        &mut self,
        (worker, assignment): (WorkerId, Assignment),
        event: &Happens,
        fx: &mut Effects,
    ) {
        let tasks = assignment.tasks;
        let what = match *event {
            Happens::Claim { .. } => What::Claimed(tasks),
            Happens::Release { .. } => What::Released(tasks),
            Happens::End { how, took_ms, .. } => {
                self.sent.retain(|(_, other)| other.id != assignment.id);
                let (started_ms, outcome) = (self.now, || Self::end(how));
                let end = |task| TaskEnd { task, started_ms, took_ms, outcome: outcome() };
                What::Ended(tasks.into_iter().map(end).collect())
            }
            Happens::Confirm { confirmed, .. } => {
                return self.engine.published(assignment.id, confirmed, fx);
            }
            _ => return,
        };
        let execution = Execution(u64::from(worker.0));
        let report = Report { worker, key: assignment.key, execution, what };
        self.engine.report(report, self.now, fx);
    }

    fn control(&mut self, run: usize, what: u8, value: i32, fx: &mut Effects) {
        let Some(id) = chosen(&self.runs, run) else { return };
        let event = match what {
            0 => Event::Paused,
            1 | 2 => Event::Resumed,
            3 => Event::Priority(value),
            4 => Event::Cancelled,
            _ => Event::Reset(vec![ResetTasks { step: 0, tasks: vec![0, 1] }]),
        };
        self.controls += 1;
        self.engine.control(&id, Control { id: self.controls, event }, self.now, fx);
    }
}

fn play(workers_are_final: bool, events: &[Happens]) {
    let mut farm = Farm::new(workers_are_final);
    for event in events {
        farm.happens(event);
    }
    farm.happens(&Happens::Assign);
    for run in &farm.runs {
        farm.engine.run(run).map_or(Ok(()), Run::check).unwrap();
    }
}

fn random_farms() -> (impl Strategy<Value = bool>, impl Strategy<Value = Vec<Happens>>) {
    (prop::bool::weighted(0.2), prop::collection::vec(happens(), 1..150))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
    #[test]
    fn indexes_lead_to_the_choices_of_a_search_through_everything((is_final, events) in random_farms()) {
        play(is_final, &events);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]
    #[test]
    #[ignore = "the long form of the one above, for `make soak`"]
    fn indexes_lead_to_the_choices_of_a_search_on_many_farms((is_final, events) in random_farms()) {
        play(is_final, &events);
    }
}
