//! A farm with a hundred thousand tasks: what costs nothing for ten tasks must cost little for many.

use super::rng::Rng;
use super::world::machine;
use pictor_engine::{Config, Effects, Engine, Run, RunState, TaskState, compile};
use pictor_tasks::history::{Control, Event, ResetTasks, Row};
use pictor_tasks::job::{Source, parse};
use pictor_tasks::message::{
    Assignment, Execution, Failure, FailureKind, Outcome, Output, Products, Report, RunId, TaskEnd,
    TaskId, What, WorkerId,
};
use std::sync::Arc;

const JOB: &str = "
pictor: v1
name: large
retry: { attempts: 50, backoff: 1s }
dims: { frame: 1-1000, tile: { grid: 10x10 }, act: { of: frame, size: 100 } }
steps:
  - { name: prepare, noop: {} }
  - { name: render, over: [frame, tile], needs: [prepare], noop: {} }
  - { name: merge, over: [frame], needs: [render, { step: merge, offset: { frame: -1 } }], command: { run: [merge] }, keep: { until: encode } }
  - { name: encode, over: [act], needs: [merge], noop: {} }
  - { name: tell, needs: [{ step: encode, on: finished }], noop: {} }
";

/// A farm whose workers respond at once, or never.
struct LargeFarm {
    engine: Engine,
    id: RunId,
    rows: Vec<Row>,
    now: i64,
    rng: Rng,
}

impl LargeFarm {
    fn start(plan: pictor_engine::Plan) -> Self {
        let id = RunId("large".into());
        let mut farm = Self {
            engine: Engine::new(Config::default()),
            id: id.clone(),
            rows: Vec::new(),
            now: 0,
            rng: Rng::new(1),
        };
        farm.engine.add_run(Run::new(id, Arc::new(plan)), "me".into(), 0, 0);
        farm.join();
        farm
    }

    fn join(&mut self) {
        for id in 0..32 {
            self.engine.join(WorkerId(id), machine(&mut Rng::new(3), true), self.now);
        }
    }

    fn run(&self) -> &Run {
        self.engine.run(&self.id).unwrap()
    }

    fn take(&mut self, fx: Effects) -> Vec<(WorkerId, Assignment)> {
        self.rows.extend(fx.rows.into_values().flatten());
        fx.assign
    }

    /// Assigns tasks once, and lets the workers respond.
    fn turn(&mut self) {
        let mut fx = Effects::default();
        self.now += 100;
        for id in 0..32 {
            self.engine.heartbeat(WorkerId(id), &[], self.now, &mut fx);
        }
        self.engine.tick(self.now, &mut fx);
        self.engine.assign(self.now, &mut fx);
        let assign = self.take(fx);
        if assign.is_empty() {
            self.now += 1_000;
        }
        for (worker, assignment) in assign {
            let mut fx = Effects::default();
            self.engine.published(assignment.id, true, &mut fx);
            if self.rng.percent(98) {
                let report = self.report(worker, assignment);
                self.engine.report(report, self.now, &mut fx);
            }
            self.take(fx);
        }
    }

    fn report(&mut self, worker: WorkerId, assignment: Assignment) -> Report {
        let ends = assignment.tasks.into_iter().map(|task| {
            let kind = FailureKind::Failed;
            let outcome = if self.rng.below(200) == 0 {
                Outcome::Failed(Failure { kind, message: String::new() })
            } else {
                let (name, key) =
                    ("image".into(), format!("{}/{}", assignment.key.step, task.index));
                let output = Output { name, key, digest: String::new(), size_bytes: 1 };
                Outcome::Succeeded(Products { outputs: vec![output], ..Products::default() })
            };
            TaskEnd { task, started_ms: 0, took_ms: 1, outcome }
        });
        let what = What::Ended(ends.collect());
        Report { worker, key: assignment.key, execution: Execution(1), what }
    }

    fn finish(&mut self) {
        for _ in 0..100_000 {
            self.turn();
            if self.run().state().is_terminal() {
                return;
            }
        }
        panic!("it does not come to an end");
    }

    fn recover(&mut self) {
        let mut run = Run::new(self.id.clone(), self.run().plan().clone());
        for row in &self.rows {
            run.apply(row).unwrap();
        }
        assert!(run.durable() == self.run().durable());
        run.check().unwrap();
        self.engine = Engine::new(Config::default());
        self.engine.add_run(run, "me".into(), 0, self.now);
        self.join();
    }
}

#[test]
fn a_hundred_thousand_tasks_survive_losses_failures_a_crash_and_a_reset() {
    let source = Source { name: "large.yaml".into(), text: JOB.into() };
    let mut farm = LargeFarm::start(compile(&parse(&source, &[]).unwrap().spec).unwrap());
    while farm.rows.len() < 60_000 {
        farm.turn();
    }
    farm.recover();
    farm.finish();
    assert_eq!(farm.run().state(), RunState::Succeeded);
    farm.run().check().unwrap();
    let stitched = |index| TaskId { step: 2, index };
    assert!((0..1_000).all(|frame| farm.run().is_removed(stitched(frame))));
    let tasks = (5_000..15_000).collect();
    let event = Event::Reset(vec![ResetTasks { step: 1, tasks }]);
    let mut fx = Effects::default();
    assert!(farm.engine.control(&farm.id, Control { id: 1, event }, farm.now, &mut fx));
    farm.take(fx);
    assert_eq!(farm.run().tasks_in(1, TaskState::Ready).count(), 10_000);
    let all = farm.run().tasks_in(2, TaskState::Pending).count();
    assert_eq!(all, 999, "all after, and those before, which were removed; the first one is ready");
    farm.finish();
    assert_eq!(farm.run().state(), RunState::Succeeded);
    farm.recover();
}
