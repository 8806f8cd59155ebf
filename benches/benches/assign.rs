//! Assignment in memory: how many tasks a second the engine gives to workers, on small farms and on large ones.
//! A worker has one slot and a task takes ten seconds, so nothing is bundled and nothing is queued ahead. Tasks end
//! in batches of 256, as the owner handles them; the time of a batch covers its ends and the assignments after them.

#![expect(clippy::cast_precision_loss, reason = "figures for people")]
#![expect(clippy::disallowed_methods, reason = "it measures real time")]

use pictor_benches::machine::{self, resident_bytes};
use pictor_benches::render_farm::{CLASSES, LICENCE, inventory, plan};
use pictor_benches::table::{self, Series};
use pictor_benches::{jobs, say};
use pictor_engine::{Config, Effects, Engine, Plan, Run};
use pictor_tasks::message::{
    Assignment, Execution, Outcome, Products, Report, RunId, TaskEnd, What, WorkerId,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// The tasks that end between two rounds of assignments.
const BATCH: usize = 256;
/// The batches of one measurement.
const BATCHES: usize = 200;
const ACCOUNTS: u32 = 100;

fn main() {
    if !machine::measures() {
        return;
    }
    machine::introduce("Assignment in memory");
    memory();
    table::head("Tasks a second, batches of 256 ends and their assignments");
    let mut small = Series::default();
    for (workers, runs, target) in [
        (100, 10, None),
        (1_000, 10, None),
        (1_000, 1_000, None),
        (10_000, 1_000, None),
        (10_000, 10_000, Some(50_000.0)),
    ] {
        let (mut rates, mut fills) = (Series::default(), Series::default());
        for _ in 0..3 {
            let mut farm = Farm::new(workers);
            // Enough tasks for every worker and every batch.
            let frames = 100.max(100_000 / runs);
            let plans: Vec<Plan> = (0..CLASSES).map(|class| plan(class, frames)).collect();
            farm.submit(runs, &plans);
            fills.push(farm.fill());
            rates.push(farm.steady());
        }
        if small.is_empty() {
            small = rates.clone();
        }
        let verdict =
            target.map(|t| table::verdict(rates.median() >= t, "≥ 50,000")).unwrap_or_default();
        let what = format!("{workers} workers × {runs} runs");
        table::line(&what, &rates, "/s", &verdict);
        if target.is_some() {
            let times = small.median() / rates.median();
            let met = table::verdict(times <= 3.0, "≤ 3 × slower than 100 × 10");
            table::line("100 × 10 ÷ 10,000 × 10,000", &Series::from_iter([times]), "×", &met);
            let met = table::verdict(fills.median() < 0.2, "< 0.2 s");
            table::line("cold fill of 10,000 workers", &fills, "s", &met);
        }
    }
    say("");
}

/// Prints the memory of workers and of runs of which no task is assigned. This comes first, as memory that was used
/// before and is free again is not counted.
fn memory() {
    table::head("Memory of 10,000 workers and 10,000 runs");
    let mut farm = Farm::new(10_000);
    let met = table::verdict(farm.bytes < 2_000.0, "< 2 kB");
    table::line("a worker", &Series::from_iter([farm.bytes]), "bytes", &met);
    let one = farm
        .submit(10_000, &[jobs::plan("pictor: v1\nname: one\nsteps: [{ name: work, noop: {} }]")]);
    let met = table::verdict(one < 4_000.0, "< 4 kB");
    table::line("a run of one task", &Series::from_iter([one]), "bytes", &met);
    let two = farm.submit(10_000, &[jobs::plan(&jobs::fan(1))]);
    table::line("a run of two steps, each of one task", &Series::from_iter([two]), "bytes", "");
    let plans: Vec<Plan> = (0..CLASSES).map(|class| plan(class, 100)).collect();
    let many = farm.submit(10_000, &plans);
    table::line("a render of 100 frames", &Series::from_iter([many]), "bytes", "");
}

/// What each of these takes of the memory that is used since then.
fn each(before: u64, count: u32) -> f64 {
    resident_bytes().saturating_sub(before) as f64 / f64::from(count)
}

struct Farm {
    engine: Engine,
    now: i64,
    runs: u32,
    busy: VecDeque<(WorkerId, Assignment)>,
    /// The memory of each worker.
    bytes: f64,
}

impl Farm {
    fn new(workers: u32) -> Self {
        let limits = [(LICENCE.to_owned(), workers / 50 + 1)].into();
        let mut engine = Engine::new(Config { limits, ..Config::default() });
        let (now, before) = (1_000_000, resident_bytes());
        for number in 0..workers {
            engine.join(WorkerId(number + 1), inventory(number), now);
        }
        let bytes = each(before, workers);
        Self { engine, now, runs: 0, busy: VecDeque::new(), bytes }
    }

    /// Submits runs of these plans in turn and returns the memory of each of them.
    fn submit(&mut self, count: u32, plans: &[Plan]) -> f64 {
        let before = resident_bytes();
        for plan in plans.iter().cycle().take(count as usize) {
            self.runs += 1;
            let id = RunId(format!("{:026}", self.runs).into());
            // Each run has a plan of its own, as if it had been submitted.
            let run = Run::new(id, Arc::new(plan.clone()));
            let account = format!("account-{}", self.runs * 7 % ACCOUNTS);
            self.engine.add_run(run, account, self.now - i64::from(self.runs), self.now);
        }
        each(before, count)
    }

    /// Assigns what can be assigned and returns the number of tasks.
    fn assign(&mut self) -> usize {
        let mut fx = Effects::default();
        self.engine.assign(self.now, &mut fx);
        let count = fx.assign.len();
        for (worker, assignment) in fx.assign {
            self.engine.published(assignment.id, true, &mut Effects::default());
            self.busy.push_back((worker, assignment));
        }
        count
    }

    /// The seconds until every worker that can have a task has one.
    fn fill(&mut self) -> f64 {
        let start = Instant::now();
        self.assign();
        start.elapsed().as_secs_f64()
    }

    /// The tasks a second while workers end tasks and get new ones.
    fn steady(&mut self) -> f64 {
        let (mut count, start) = (0, Instant::now());
        for _ in 0..BATCHES {
            self.now += 100;
            let mut fx = Effects::default();
            for _ in 0..BATCH.min(self.busy.len()) {
                let (worker, assignment) = self.busy.pop_front().expect("as many as that are busy");
                let end = |task: &_| TaskEnd {
                    task: *task,
                    started_ms: self.now,
                    took_ms: 10_000,
                    outcome: Outcome::Succeeded(Products::default()),
                };
                let what = What::Ended(assignment.tasks.iter().map(end).collect());
                let report = Report { worker, key: assignment.key, execution: Execution(1), what };
                self.engine.report(report, self.now, &mut fx);
            }
            count += self.assign();
        }
        count as f64 / start.elapsed().as_secs_f64()
    }
}
