//! One run and a few workers, controlled by the test: every message is a line of the test.

use pictor_engine::{Config, Effects, Engine, Run, RunState, TaskState, compile};
use pictor_tasks::history::{Control, Event, ResetTasks, Row};
use pictor_tasks::job::{Source, parse};
use pictor_tasks::message::{
    Assignment, Binding, Bound, Cancel, Execution, Failure, FailureKind, Outcome, Output, Products,
    Report, RunId, TaskEnd, Try, What, WorkerId,
};
use pictor_tasks::range::Ranges;
use pictor_tasks::space::Values;
use pictor_tasks::worker::{Gpu, Inventory};
use std::sync::Arc;

/// One GiB, in bytes.
pub(crate) const GIB: u64 = 1 << 30;

/// A task that was assigned to a worker.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) worker: WorkerId,
    pub(crate) assignment: Assignment,
    pub(crate) task: Try,
}

pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) run: RunId,
    pub(crate) now: i64,
    pub(crate) rows: Vec<Row>,
    /// The assigned tasks, oldest first; those that have ended are removed.
    pub(crate) given: Vec<Given>,
    pub(crate) cancelled: Vec<(WorkerId, Cancel)>,
    /// The keys of artifacts to delete.
    pub(crate) removed: Vec<String>,
    /// Whether the next assignments are confirmed.
    pub(crate) confirms: bool,
    /// The duration of tasks in milliseconds.
    pub(crate) took_ms: u32,
    controls: u64,
    /// The plan in its stored form.
    plan: Arc<pictor_engine::Plan>,
}

/// The plan of a job; the version and a name are added.
pub(crate) fn plan(job: &str) -> pictor_engine::Plan {
    let text = format!("pictor: v1\nname: test\n{job}");
    let source = Source { name: "job.yaml".into(), text };
    compile(&parse(&source, &[]).unwrap().spec).unwrap()
}

/// A machine that runs commands.
pub(crate) fn machine(slots: u32) -> Inventory {
    Inventory { slots, cpus: 4, allows_commands: true, ..Inventory::default() }
}

/// The same machine with a GPU.
pub(crate) fn with_gpu(slots: u32, vram: u64) -> Inventory {
    let gpu =
        Gpu { name: "GPU".into(), uuid: "u".into(), vram_bytes: vram * GIB, driver: "1".into() };
    let software = [("blender".to_owned(), "5.0".to_owned())].into();
    Inventory { gpus: vec![gpu], software, ..machine(slots) }
}

impl Bench {
    /// A job and one worker with many slots.
    pub(crate) fn new(job: &str) -> Self {
        let mut bench = Self::without_workers(job, Config::default());
        bench.join(1, machine(64));
        bench.turn();
        bench
    }

    pub(crate) fn without_workers(job: &str, config: Config) -> Self {
        let plan = Arc::new(plan(job));
        let mut bench = Self {
            engine: Engine::new(config),
            run: RunId("run".into()),
            now: 1_000,
            rows: Vec::new(),
            given: Vec::new(),
            cancelled: Vec::new(),
            removed: Vec::new(),
            confirms: true,
            took_ms: 10,
            controls: 0,
            plan: plan.clone(),
        };
        let run = Run::new(bench.run.clone(), plan);
        bench.engine.add_run(run, "me".into(), 0, 0);
        bench
    }

    pub(crate) fn join(&mut self, id: u32, inventory: Inventory) {
        self.engine.join(WorkerId(id), inventory, self.now);
    }

    pub(crate) fn run(&self) -> &Run {
        self.engine.run(&self.run).unwrap()
    }

    /// Handles the effects as an owner would: stores rows, answers assignments.
    pub(crate) fn take(&mut self, fx: Effects) {
        self.rows.extend(fx.rows.into_values().flatten());
        self.cancelled.extend(fx.cancel);
        self.removed.extend(fx.remove.into_values().flatten());
        for (worker, assignment) in fx.assign {
            self.engine.published(assignment.id, self.confirms, &mut Effects::default());
            for task in assignment.tasks.clone() {
                self.given.push(Given { worker, assignment: assignment.clone(), task });
            }
        }
        self.run().check().unwrap();
    }

    /// Assigns all tasks that can be assigned.
    pub(crate) fn turn(&mut self) {
        let mut fx = Effects::default();
        self.engine.assign(self.now, &mut fx);
        self.take(fx);
    }

    /// Lets time pass, including leases and deadlines, while the workers send heartbeats.
    pub(crate) fn wait(&mut self, ms: i64) {
        self.now += ms;
        let mut fx = Effects::default();
        for id in 1..10 {
            self.engine.heartbeat(WorkerId(id), &[], self.now, &mut fx);
        }
        self.engine.tick(self.now, &mut fx);
        self.take(fx);
        self.turn();
    }

    pub(crate) fn name(&self, given: &Given) -> String {
        self.run().task_name(given.assignment.key.task(given.task.index))
    }

    /// The names of the tasks that were assigned and have not ended, in the order of assignment.
    pub(crate) fn held(&self) -> Vec<String> {
        self.given.iter().map(|given| self.name(given)).collect()
    }

    /// The latest assignment of a task.
    pub(crate) fn given(&self, name: &str) -> Given {
        let found = self.given.iter().rev().find(|given| self.name(given) == name);
        found.unwrap_or_else(|| panic!("{name} is not assigned, but {:?}", self.held())).clone()
    }

    pub(crate) fn report(&mut self, worker: WorkerId, given: &Given, what: What) -> u64 {
        let execution = Execution(u64::from(worker.0));
        let report = Report { worker, key: given.assignment.key.clone(), execution, what };
        let mut fx = Effects::default();
        self.engine.report(report, self.now, &mut fx);
        let stale = fx.stale;
        self.take(fx);
        stale
    }

    /// Ends a task as its worker would.
    pub(crate) fn end(&mut self, given: &Given, outcome: Outcome) -> u64 {
        self.end_by(given.worker, given, outcome)
    }

    pub(crate) fn end_by(&mut self, worker: WorkerId, given: &Given, outcome: Outcome) -> u64 {
        let (task, took_ms) = (given.task, self.took_ms);
        let end = TaskEnd { task, started_ms: self.now, took_ms, outcome };
        let key = (given.assignment.key.clone(), given.task);
        self.given.retain(|g| (g.assignment.key.clone(), g.task) != key);
        self.report(worker, given, What::Ended(vec![end]))
    }

    /// Reports the success of the oldest bundle in one message. Returns its size.
    pub(crate) fn end_bundle(&mut self) -> usize {
        let first = self.given[0].clone();
        let id = first.assignment.id;
        self.given.retain(|given| given.assignment.id != id);
        let (started_ms, took_ms) = (self.now, self.took_ms);
        let end = |task: &Try| TaskEnd { task: *task, started_ms, took_ms, outcome: success() };
        let ends: Vec<TaskEnd> = first.assignment.tasks.iter().map(end).collect();
        let size = ends.len();
        self.report(first.worker, &first, What::Ended(ends));
        size
    }

    pub(crate) fn claim(&mut self, worker: WorkerId, given: &Given) -> u64 {
        self.report(worker, given, What::Claimed(vec![given.task]))
    }

    /// Removes what is due to be removed, without letting time pass.
    pub(crate) fn tick(&mut self) {
        let mut fx = Effects::default();
        self.engine.tick(self.now, &mut fx);
        self.take(fx);
    }

    /// Lets a task succeed with an artifact whose key is its name and attempt, such as `cut[part=1]#2`.
    pub(crate) fn leave(&mut self, name: &str) {
        let given = self.given(name);
        let (name, key) = ("image".to_owned(), format!("{name}#{}", given.task.attempt));
        let output = Output { name, key, digest: String::new(), size_bytes: 1 };
        let products = Products { outputs: vec![output], ..Products::default() };
        assert_eq!(self.end(&given, Outcome::Succeeded(products)), 0);
        self.turn();
    }

    /// Lets a task succeed, and assigns what can then be assigned.
    pub(crate) fn succeed(&mut self, name: &str) {
        let given = self.given(name);
        assert_eq!(self.end(&given, success()), 0, "{name}");
        self.turn();
    }

    pub(crate) fn fail(&mut self, name: &str, kind: FailureKind) {
        let given = self.given(name);
        assert_eq!(self.end(&given, failure(kind)), 0, "{name}");
        self.turn();
    }

    /// Lets a task succeed and report values for a dimension.
    pub(crate) fn bind(&mut self, name: &str, dim: &str, values: &[i64]) {
        let values = Bound::Values(Values::Ints(Ranges::from_values(values).unwrap()));
        self.bind_to(name, dim, values);
    }

    pub(crate) fn bind_to(&mut self, name: &str, dim: &str, values: Bound) {
        let bindings = vec![Binding { dim: dim.into(), values }];
        let given = self.given(name);
        self.end(&given, Outcome::Succeeded(Products { bindings, ..Products::default() }));
        self.turn();
    }

    /// Lets everything that is assigned succeed, until nothing more is.
    pub(crate) fn finish(&mut self) {
        while let Some(given) = self.given.first().cloned() {
            self.end(&given, success());
            self.turn();
        }
    }

    /// Sends a control message. Returns whether it was new.
    pub(crate) fn control(&mut self, event: Event) -> bool {
        self.controls += 1;
        self.control_with_id(self.controls, event)
    }

    pub(crate) fn control_with_id(&mut self, id: u64, event: Event) -> bool {
        let mut fx = Effects::default();
        let (run, control) = (self.run.clone(), Control { id, event });
        let new = self.engine.control(&run, control, self.now, &mut fx);
        self.take(fx);
        self.turn();
        new
    }

    pub(crate) fn reset(&mut self, names: &[&str]) {
        let at = |name: &&str| self.run().find_task(name).unwrap();
        let tasks =
            names.iter().map(at).map(|at| ResetTasks { step: at.step, tasks: vec![at.index] });
        let event = Event::Reset(tasks.collect());
        self.control(event);
    }

    pub(crate) fn state(&self, name: &str) -> TaskState {
        let at = self.run().find_task(name).unwrap_or_else(|| panic!("there is no {name}"));
        self.run().task_state(at).unwrap()
    }

    /// The names of all tasks in a state.
    pub(crate) fn all(&self, state: TaskState) -> Vec<String> {
        let run = self.run();
        let steps = (0..).take(run.plan().steps.len());
        let named = |step| run.tasks_in(step, state).map(|at| run.task_name(at));
        steps.flat_map(named).collect()
    }

    pub(crate) fn attempt(&self, name: &str) -> u32 {
        self.run().attempt(self.run().find_task(name).unwrap()).unwrap()
    }

    pub(crate) fn reason(&self, name: &str) -> String {
        let at = self.run().find_task(name).unwrap();
        self.engine.task(self.run(), at, self.now).unwrap().reason.to_string()
    }

    pub(crate) fn run_state(&self) -> RunState {
        self.run().state()
    }

    /// Checks that a run recovered from the rows equals this one.
    pub(crate) fn check_recovery(&self) {
        let mut again = Run::new(self.run.clone(), self.plan.clone());
        for row in &self.rows {
            again.apply(row).unwrap();
        }
        assert!(again.durable() == self.run().durable());
        assert_eq!(again.plan(), self.run().plan());
    }
}

pub(crate) fn success() -> Outcome {
    Outcome::Succeeded(Products::default())
}

pub(crate) fn failure(kind: FailureKind) -> Outcome {
    Outcome::Failed(Failure { kind, message: "it broke".into() })
}
