//! Both databases against the pure engine: a random farm writes history, and what is read back, in whatever pieces it
//! was committed, folds to the engine's state.

use super::postgres::database;
use super::{Stores, history, open};
use pictor_engine::{Config, Effects, Engine, Plan, Run, RunState, compile};
use pictor_storage::{NewRun, RunRows, Store};
use pictor_tasks::history::{Control, Event, ResetTasks, Row};
use pictor_tasks::job::{Source, parse};
use pictor_tasks::message::{
    Assignment, Execution, Failure, FailureKind, Outcome, Output, Products, Report, RunId, TaskEnd,
    TaskId, Try, What, WorkerId,
};
use pictor_tasks::worker::Inventory;
use std::sync::Arc;

const JOB: &str = "pictor: v1
name: model
dims: { frame: { range: 1-6 }, tile: { count: 3 } }
retry: { attempts: 2, backoff: 1s }
steps:
  - { name: prepare, noop: {} }
  - { name: render, over: [frame, tile], needs: [prepare], noop: {} }
  - { name: merge, over: [frame], needs: [render], noop: {} }
  - { name: encode, needs: [{ step: merge, on: finished }], noop: {} }
";
const WORKERS: u32 = 3;

fn plan() -> Plan {
    let source = Source { name: "job.yaml".into(), text: JOB.into() };
    let parsed = parse(&source, &[]).unwrap_or_else(|e| panic!("{}", e.render(&source)));
    compile(&parsed.spec).unwrap()
}

/// Reproducible random numbers (xorshift64*).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 33) % end
    }

    fn place(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap()
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A farm without machines: an engine, and what its workers hold.
struct World {
    chance: Chance,
    engine: Engine,
    run: RunId,
    now: i64,
    held: Vec<(WorkerId, Assignment, Try, Execution)>,
    controls: u64,
}

impl World {
    fn new(seed: u64, run: &RunId) -> Self {
        let mut engine = Engine::new(Config::default());
        engine.add_run(Run::new(run.clone(), Arc::new(plan())), "ann".to_owned(), 0, 0);
        let mut world = Self {
            chance: Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            engine,
            run: run.clone(),
            now: 1_000,
            held: Vec::new(),
            controls: 0,
        };
        (1..=WORKERS).for_each(|id| world.join(id));
        world
    }

    fn join(&mut self, id: u32) {
        let inventory = Inventory { slots: 2, cpus: 2, ..Inventory::default() };
        self.engine.join(WorkerId(id), inventory, self.now);
    }

    fn run(&self) -> &Run {
        self.engine.run(&self.run).unwrap()
    }

    /// One random event; returns the new history.
    fn turn(&mut self) -> Vec<Row> {
        let mut fx = Effects::default();
        self.now += i64::try_from(self.chance.below(400)).unwrap();
        match self.chance.below(40) {
            0 => self.control(Event::Paused, &mut fx),
            1..5 => self.control(Event::Resumed, &mut fx),
            5 => {
                let priority = Event::Priority(i32::MIN + 7);
                self.control(priority, &mut fx);
            }
            6 => {
                let step = u16::try_from(self.chance.below(4)).unwrap();
                let reset = ResetTasks { step, tasks: vec![0] };
                self.control(Event::Reset(vec![reset]), &mut fx);
            }
            7 => {
                let id = u32::try_from(self.chance.below(u64::from(WORKERS))).unwrap() + 1;
                self.engine.leave(WorkerId(id), self.now, &mut fx);
                self.join(id);
            }
            8 => {
                self.now += 120_000;
                self.engine.tick(self.now, &mut fx);
            }
            _ => self.report(&mut fx),
        }
        self.engine.assign(self.now, &mut fx);
        for (worker, assignment) in std::mem::take(&mut fx.assign) {
            self.engine.published(assignment.id, true, &mut fx);
            for task in &assignment.tasks {
                let execution = Execution(self.chance.next());
                self.held.push((worker, assignment.clone(), *task, execution));
            }
        }
        fx.rows.remove(&self.run).unwrap_or_default()
    }

    fn control(&mut self, event: Event, fx: &mut Effects) {
        self.controls += 1;
        let control = Control { id: self.controls, event };
        self.engine.control(&self.run, control, self.now, fx);
    }

    /// A worker claims or ends a task that it holds, or once held.
    fn report(&mut self, fx: &mut Effects) {
        if self.held.is_empty() {
            return;
        }
        let at = self.chance.place(self.held.len());
        let (worker, assignment, task, execution) = self.held[at].clone();
        let what = if self.chance.one_in(4) {
            What::Claimed(vec![task])
        } else {
            if !self.chance.one_in(5) {
                self.held.swap_remove(at);
            }
            let took_ms = u32::try_from(self.chance.below(5_000)).unwrap();
            let outcome = self.outcome(execution);
            What::Ended(vec![TaskEnd { task, started_ms: self.now - 5, took_ms, outcome }])
        };
        let report = Report { worker, key: assignment.key, execution, what };
        self.engine.report(report, self.now, fx);
    }

    fn outcome(&mut self, execution: Execution) -> Outcome {
        let output = || Output {
            name: "image".to_owned(),
            key: format!("runs/model/{:x}/größe\n.exr", execution.0),
            digest: "00".to_owned(),
            size_bytes: 1 << 40,
        };
        match self.chance.below(8) {
            0 => Outcome::Failed(Failure {
                kind: FailureKind::Failed,
                message: "it 'broke'\n\u{10ffff}".to_owned(),
            }),
            1 => Outcome::Succeeded(Products { outputs: vec![output()], ..Products::default() }),
            _ => Outcome::Succeeded(Products::default()),
        }
    }
}

/// Commits rows in pieces, some of them twice, with the state after each piece.
async fn write(store: &dyn Store, run: &RunId, rows: &[Row], cuts: &[usize], state: RunState) {
    if rows.is_empty() {
        return;
    }
    let mut from: usize = 0;
    for to in cuts.iter().copied().chain([rows.len()]) {
        let again = from.saturating_sub(2);
        let is_last = to == rows.len();
        let ended = rows.last().filter(|_| state.is_terminal()).map(|row| row.time_ms);
        let state = is_last.then_some((state, ended));
        store.commit(&[RunRows { run, rows: &rows[again..to], state }]).await.unwrap();
        from = to;
    }
}

async fn check(seed: u64, databases: &[Stores]) {
    let run = RunId(format!("model-{seed}").into());
    let mut world = World::new(seed, &run);
    let mut rows: Vec<Row> = Vec::new();
    let new = NewRun {
        plan: serde_json::to_string(&plan()).unwrap(),
        fold_version: plan().fold_version,
        ..super::new_run(&run.0)
    };
    for stores in databases {
        stores.store.create_run(&new, None).await.unwrap();
    }
    for turn in 0..400 {
        rows.extend(world.turn());
        let is_over = world.run().state().is_terminal() && world.chance.one_in(3);
        if turn % 97 == 96 || is_over {
            let known = databases[0].store.load_history(&run, 1, &mut |_| {}).await.unwrap();
            let new = &rows[usize::try_from(known).unwrap()..];
            let mut cuts = [0; 3].map(|_| world.chance.place(new.len() + 1));
            cuts.sort_unstable();
            for stores in databases {
                write(&*stores.store, &run, new, &cuts, world.run().state()).await;
            }
        }
        if is_over {
            break;
        }
    }
    let known = databases[0].store.load_history(&run, 1, &mut |_| {}).await.unwrap();
    rows.truncate(usize::try_from(known).unwrap());
    let mut model = Run::new(run.clone(), Arc::new(plan()));
    for row in &rows {
        drop(model.apply(row).unwrap());
    }
    for stores in databases {
        let stored = stores.store.run_plan(&run).await.unwrap().unwrap();
        let plan = serde_json::from_str(&stored.plan).unwrap();
        let mut folded = Run::new(run.clone(), Arc::new(plan));
        let read = history(&*stores.store, &run, 1).await;
        assert_eq!(read, rows, "seed {seed}");
        for row in &read {
            drop(folded.apply(row).unwrap());
        }
        folded.check().unwrap();
        assert_eq!((folded.seq(), folded.state()), (model.seq(), model.state()), "seed {seed}");
        for step in 0..4 {
            for index in 0..18 {
                let at = TaskId { step, index };
                let of = |run: &Run| (run.task_state(at), run.attempt(at));
                assert_eq!(of(&folded), of(&model), "seed {seed}, step {step}, task {index}");
            }
        }
        let record = stores.store.run(&run.0).await.unwrap().unwrap();
        assert_eq!(record.state, folded.state(), "seed {seed}");
    }
}

#[tokio::test]
async fn history_of_a_farm_of_chance_folds_to_the_state_of_the_engine() {
    let seeds = std::env::var("PICTOR_SIM_SEEDS").ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = seeds.map_or(20, |n| (n / 100).max(20));
    let dir = tempfile::TempDir::new().unwrap();
    let databases = [open(dir.path().to_str().unwrap()).await, open(&database()).await];
    for seed in 0..seeds {
        check(seed, &databases).await;
    }
}
