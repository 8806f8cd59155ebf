//! The world: virtual time, the network, and faults.

use super::draft;
use super::model::Model;
use super::outcome::{Chances, Doing, GIB, failed};
use super::rng::Rng;
use super::worker::{Condition, Timer, ToOwner, Wishes, Worker};
use pictor_engine::{Config, Engine, Plan, Run, RunState, TaskState};
use pictor_tasks::history::{Fact, Row};
use pictor_tasks::message::{
    Assignment, Cancel, Execution, FailureKind, Outcome, RunId, StepKey, TaskId, Try, WorkerId,
};
use pictor_tasks::worker::{Gpu, Inventory};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const BEAT_MS: i64 = 10_000;
const TICK_MS: i64 = 5_000;

#[derive(Clone, Debug)]
pub(crate) enum ToWorker {
    Assign(Assignment),
    Cancel(Cancel),
}

/// An event that occurs at a certain time.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    ToOwner(ToOwner),
    ToWorker(usize, ToWorker),
    Timer(usize, u32, Timer),
    Turn,
    Tick,
    Chaos,
    Calm,
}

/// The probabilities of faults, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) loss: u32,
    pub(crate) twice: u32,
    pub(crate) late: u32,
    pub(crate) unconfirmed: u32,
    pub(crate) crash: u32,
}

/// Faults that are scripted rather than random.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) crash_after_commits: bool,
    pub(crate) all_twice: bool,
    /// This task fails: the first time only, or always.
    pub(crate) fails: Option<(u16, u32, bool)>,
}

#[derive(Debug)]
pub(crate) struct SimRun {
    pub(crate) id: RunId,
    pub(crate) owner: String,
    pub(crate) plan: Arc<Plan>,
    /// The rows in the store.
    pub(crate) rows: Vec<Row>,
    pub(crate) controls: BTreeSet<u64>,
    /// The keys of artifacts that are removed in history.
    pub(crate) removed: BTreeSet<String>,
    pub(crate) model: Model,
    /// A run that is only updated by rows.
    pub(crate) shadow: Run,
}

impl SimRun {
    /// Checks that the rows of each task are those of its attempts: the end of each, or its claim if it has no end.
    fn check_trails(&self, live: &Run) {
        let mut trails: BTreeMap<TaskId, BTreeMap<_, u64>> = BTreeMap::new();
        for row in &self.rows {
            let (task, execution) = match &row.fact {
                Fact::Claim(claim) => (claim.task, claim.execution),
                Fact::Ended(ended) => (ended.task, ended.execution),
                Fact::Event(_) => continue,
            };
            let attempt = (task.generation, task.task.attempt, execution);
            trails.entry(task.id()).or_default().insert(attempt, row.seq);
        }
        for (at, attempts) in trails {
            let mut rows: Vec<u64> = attempts.into_values().collect();
            rows.sort_unstable();
            assert_eq!(live.rows_of(at), rows, "{}: {}", self.id, live.task_name(at));
        }
    }
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: i64,
    events: BTreeMap<(i64, u64), Event>,
    last_event: u64,
    pub(crate) engine: Engine,
    pub(crate) config: Config,
    pub(crate) runs: Vec<SimRun>,
    pub(crate) workers: Vec<Worker>,
    /// Messages that the owner has not acknowledged.
    pub(crate) inbox: Vec<ToOwner>,
    /// Attempts that were assigned and may still be held.
    pub(crate) sent: Vec<(WorkerId, StepKey, Vec<Try>)>,
    /// The keys in artifact storage.
    pub(crate) stored: BTreeSet<String>,
    pub(crate) faults: Faults,
    pub(crate) chances: Chances,
    pub(crate) script: Script,
    pub(crate) down_until: i64,
    pub(crate) turns: u64,
    pub(crate) check_every: u64,
    pub(crate) crashes: u64,
    pub(super) calm: bool,
    pub(super) last_control: u64,
}

impl World {
    /// A world without faults.
    pub(crate) fn new(
        seed: u64,
        config: Config,
        plans: Vec<Plan>,
        machines: Vec<Inventory>,
    ) -> Self {
        let mut engine = Engine::new(config.clone());
        let run = |(number, plan): (usize, Plan)| {
            let (id, plan) = (RunId(format!("run{number}").into()), Arc::new(plan));
            let new = Run::new(id.clone(), plan.clone());
            let owner = format!("owner{}", number % 2);
            engine.add_run(new.clone(), owner.clone(), 0, 0);
            let (model, rows) = (Model::new(plan.clone()), Vec::new());
            let (controls, removed) = (BTreeSet::new(), BTreeSet::new());
            SimRun { id, owner, plan, rows, controls, removed, model, shadow: new }
        };
        let runs = plans.into_iter().enumerate().map(run).collect();
        let mut world = Self {
            rng: Rng::new(seed),
            now: 0,
            events: BTreeMap::new(),
            last_event: 0,
            engine,
            config,
            runs,
            workers: (1..).zip(machines).map(|(id, machine)| Worker::new(id, machine)).collect(),
            inbox: Vec::new(),
            sent: Vec::new(),
            stored: BTreeSet::new(),
            faults: Faults::default(),
            chances: Chances::default(),
            script: Script::default(),
            down_until: 0,
            turns: 0,
            check_every: 4,
            crashes: 0,
            calm: true,
            last_control: 0,
        };
        for worker in 0..world.workers.len() {
            world.come(worker);
        }
        world.schedule(0, Event::Tick);
        world
    }

    /// A world with random faults of every kind.
    pub(crate) fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let plans = (0..=rng.below(2)).map(|_| draft::plan(&mut rng)).collect();
        let machines = (0..=rng.below(3)).map(|number| machine(&mut rng, number == 0)).collect();
        let limits = [("one".to_owned(), 1), ("two".to_owned(), 2)].into();
        let workers_are_final = rng.percent(20);
        let config = Config { limits, workers_are_final, ..Config::default() };
        let mut world = Self::new(rng.next(), config, plans, machines);
        let rng = &mut world.rng;
        let quiet = rng.percent(15);
        let mut chance = |most: u32| if quiet { 0 } else { rng.below(most) };
        world.faults = Faults {
            loss: chance(20),
            twice: chance(25),
            late: chance(30),
            unconfirmed: chance(25),
            crash: chance(6),
        };
        world.chances = Chances {
            fails: chance(25),
            binds_otherwise: chance(60),
            binds_wrongly: chance(12),
            hungry: chance(20),
        };
        world.calm = false;
        let until_calm = world.rng.between(10_000, 90_000);
        world.schedule(until_calm, Event::Calm);
        world.schedule(500, Event::Chaos);
        world
    }

    pub(crate) fn schedule(&mut self, after: i64, event: Event) {
        self.last_event += 1;
        self.events.insert((self.now + after, self.last_event), event);
    }

    /// Lets time pass until every run has ended, or is paused and idle.
    pub(crate) fn run(&mut self) {
        for _ in 0..60_000 {
            let Some(((at, _), event)) = self.events.pop_first() else {
                break;
            };
            self.now = self.now.max(at);
            self.happen(event);
            if self.calm && self.inbox.is_empty() && self.is_over() {
                // What a crash has left undone is done in the next turn.
                self.turn();
                return self.check_end();
            }
        }
        panic!("it does not come to an end: {:?}", self.open_tasks());
    }

    /// The tasks that have not ended, and why.
    fn open_tasks(&self) -> Vec<String> {
        let mut open = Vec::new();
        for run in &self.runs {
            let live = self.engine.run(&run.id).unwrap();
            for step in 0..u16::try_from(run.plan.steps.len()).unwrap() {
                for state in TaskState::ALL.into_iter().filter(|state| !state.is_terminal()) {
                    let tasks = live.tasks_in(step, state);
                    let task = |at| self.engine.task(live, at, self.now).unwrap();
                    open.extend(
                        tasks
                            .map(task)
                            .map(|t| format!("{} {}: {}", t.name, state.name(), t.reason)),
                    );
                }
            }
        }
        open
    }

    fn is_over(&self) -> bool {
        self.runs.iter().all(|run| match self.engine.run(&run.id).unwrap().state() {
            RunState::Running => false,
            RunState::Paused => self.workers.iter().all(|worker| worker.held.is_empty()),
            _ => true,
        })
    }

    fn check_end(&self) {
        for run in &self.runs {
            let live = self.engine.run(&run.id).unwrap();
            live.check().unwrap();
            run.model.compare(live).unwrap();
            assert!(live.durable() == run.shadow.durable());
            assert!(run.model.overdue().is_empty(), "{}: {:?}", run.id, run.model.overdue());
            self.check_stored(run, live);
            run.check_trails(live);
            if live.state().is_terminal() {
                for step in 0..u16::try_from(run.plan.steps.len()).unwrap() {
                    for state in TaskState::ALL.iter().filter(|state| !state.is_terminal()) {
                        assert_eq!(live.tasks_in(step, *state).count(), 0, "{}", run.id);
                    }
                }
            }
        }
    }

    /// Checks that the outputs of tasks exist unless they were removed, and then do not.
    fn check_stored(&self, sim: &SimRun, live: &Run) {
        let mut left = BTreeSet::new();
        for step in 0..u16::try_from(sim.plan.steps.len()).unwrap() {
            for at in live.tasks_in(step, TaskState::Succeeded) {
                let outputs = live.outputs(at).map_or(&[] as &[_], |(_, outputs)| outputs);
                left.extend(outputs.iter().map(|output| &output.key));
            }
        }
        assert!(left.iter().all(|key| self.stored.contains(*key)), "{}: {left:?}", sim.id);
        let gone = sim.removed.iter().filter(|key| self.stored.contains(*key));
        assert_eq!(gone.count(), 0, "{}: removed and still there", sim.id);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToOwner(message) => {
                self.inbox.push(message);
                self.schedule(1, Event::Turn);
            }
            Event::Turn if self.inbox.is_empty() => self.owner_turn(),
            Event::Turn => {
                while !self.inbox.is_empty() && self.now >= self.down_until {
                    self.turn();
                }
            }
            Event::Tick => {
                self.owner_turn();
                self.schedule(TICK_MS, Event::Tick);
            }
            Event::ToWorker(worker, message) => self.worker_hears(worker, message),
            Event::Timer(worker, life, timer) => self.worker_acts(worker, life, timer),
            Event::Chaos => self.chaos(),
            Event::Calm => self.become_calm(),
        }
    }

    fn owner_turn(&mut self) {
        if self.now >= self.down_until {
            self.turn();
        }
    }

    fn delay(&mut self) -> i64 {
        if self.rng.percent(self.faults.late) {
            self.rng.between(0, 4_000)
        } else {
            self.rng.between(1, 20)
        }
    }

    fn copies(&mut self) -> u32 {
        let twice = self.script.all_twice || self.rng.percent(self.faults.twice);
        let lost = self.rng.percent(self.faults.loss);
        if lost { 0 } else { 1 + u32::from(twice) }
    }

    pub(crate) fn send_worker(&mut self, id: WorkerId, message: &ToWorker) {
        let worker = self.workers.iter().position(|worker| worker.id == id).unwrap();
        for _ in 0..self.copies() {
            let delay = self.delay();
            self.schedule(delay, Event::ToWorker(worker, message.clone()));
        }
    }

    pub(super) fn send_owner(&mut self, message: &ToOwner) {
        let copies = if matches!(message, ToOwner::Join(..)) { 1 } else { self.copies() };
        for _ in 0..copies {
            let delay = self.delay();
            self.schedule(delay, Event::ToOwner(message.clone()));
        }
    }

    /// Lets a worker act, and carries out the actions that it requests.
    pub(super) fn with_worker(
        &mut self,
        number: usize,
        act: impl FnOnce(&mut Worker, &mut Wishes<'_>),
    ) {
        let mut wishes = Wishes::new(self.now, &mut self.rng);
        act(&mut self.workers[number], &mut wishes);
        let Wishes { send, timers, .. } = wishes;
        for message in send {
            self.send_owner(&message);
        }
        let life = self.workers[number].life;
        for (after, timer) in timers {
            self.schedule(after, Event::Timer(number, life, timer));
        }
    }

    /// For how long the worker will not act yet, if it exists at all.
    fn silence(&mut self, number: usize) -> Option<i64> {
        let worker = &mut self.workers[number];
        match worker.condition {
            Condition::Gone => None,
            Condition::Frozen(until) if until > self.now => Some(until - self.now),
            Condition::Frozen(_) | Condition::Up => {
                worker.condition = Condition::Up;
                Some(0)
            }
        }
    }

    fn worker_hears(&mut self, number: usize, message: ToWorker) {
        match self.silence(number) {
            None => {}
            Some(1..) => self.schedule(1_000, Event::ToWorker(number, message)),
            Some(_) => self.with_worker(number, |worker, wishes| match message {
                ToWorker::Assign(assignment) => worker.assign(assignment, wishes),
                ToWorker::Cancel(cancel) => worker.cancel(&cancel, wishes),
            }),
        }
    }

    fn worker_acts(&mut self, number: usize, life: u32, timer: Timer) {
        let Some(silence) = self.silence(number) else {
            return;
        };
        if self.workers[number].life != life {
            return;
        }
        if silence > 0 {
            return self.schedule(silence, Event::Timer(number, life, timer));
        }
        match timer {
            Timer::Beat => {
                self.with_worker(number, |worker, wishes| worker.beat(wishes));
                self.schedule(BEAT_MS, Event::Timer(number, life, Timer::Beat));
            }
            Timer::Claim(execution) => {
                self.with_worker(number, |worker, wishes| worker.claim(execution, wishes));
            }
            Timer::Done(execution, task) => self.task_done(number, (execution, task)),
        }
    }

    fn task_done(&mut self, number: usize, (execution, task): (Execution, Try)) {
        let worker = &self.workers[number];
        let Some(held) = worker.held.iter().find(|held| held.execution == execution) else {
            return;
        };
        let run = self.runs.iter().find(|run| run.id == held.key.run).unwrap();
        let scripted = self.script.fails.filter(|(step, index, always)| {
            (held.key.step, task.index) == (*step, *index) && (*always || task.attempt == 1)
        });
        let machine = &worker.inventory;
        let doing = Doing { plan: &run.plan, key: &held.key, task, execution, machine };
        let outcome: Outcome = match scripted {
            Some(_) => failed(FailureKind::Failed),
            None => doing.outcome(self.chances, &mut self.rng),
        };
        if let Outcome::Succeeded(products) = &outcome {
            self.stored.extend(products.outputs.iter().map(|output| output.key.clone()));
        }
        self.with_worker(number, |worker, wishes| {
            worker.done((execution, task), outcome, wishes);
        });
    }

    pub(super) fn come(&mut self, number: usize) {
        let worker = &mut self.workers[number];
        worker.condition = Condition::Up;
        worker.life += 1;
        worker.held.clear();
        let life = worker.life;
        self.announce(number, 0);
        self.schedule(100, Event::Timer(number, life, Timer::Beat));
    }

    /// Has a worker send its inventory, if it is present.
    pub(crate) fn announce(&mut self, number: usize, after: i64) {
        let worker = &self.workers[number];
        if worker.condition != Condition::Gone {
            let message = ToOwner::Join(worker.id, worker.inventory.clone());
            let delay = after + self.delay();
            self.schedule(delay, Event::ToOwner(message));
        }
    }
}

/// A random machine; a `full` one can do everything.
pub(crate) fn machine(rng: &mut Rng, full: bool) -> Inventory {
    let memory = if full { 24 } else { *rng.pick(&[0, 8, 12, 16]) };
    let gpu = Gpu {
        name: "GPU".into(),
        uuid: String::new(),
        vram_bytes: memory * GIB,
        driver: String::new(),
    };
    let fast = full || rng.percent(50);
    Inventory {
        name: "machine".into(),
        cpus: if fast { 16 } else { 2 },
        gpus: if memory > 0 { vec![gpu] } else { vec![] },
        labels: fast.then(|| "fast".to_owned()).into_iter().collect(),
        slots: 1 + rng.below(3),
        allows_commands: full || rng.percent(70),
        ..Inventory::default()
    }
}
