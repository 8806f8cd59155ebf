//! Parts of pictor, one at a time: the compiler and the fold in memory, the store on a real disk.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pictor_benches::floor::Commits;
use pictor_benches::jobs;
use pictor_engine::{Config, Effects, Engine, Run};
use pictor_tasks::history::Row;
use pictor_tasks::message::{Execution, Outcome, Products, Report, RunId, TaskEnd, What, WorkerId};
use pictor_tasks::worker::Inventory;
use std::hint::black_box;
use std::sync::Arc;

const TASKS: u32 = 100_000;
const WORKER: WorkerId = WorkerId(1);

criterion_group!(parts, compile, new_run, fold, live, commit);
criterion_main!(parts);

/// Compiles a job file to a plan of a million tasks.
fn compile(criterion: &mut Criterion) {
    let text = jobs::million();
    criterion
        .bench_function("compile a million tasks", |b| b.iter(|| jobs::plan(black_box(&text))));
}

/// Builds the counters and states of a million tasks.
fn new_run(criterion: &mut Criterion) {
    let plan = Arc::new(jobs::plan(&jobs::million()));
    let mut group = criterion.benchmark_group("begin");
    group.sample_size(10);
    group.bench_function("a run of a million tasks", |b| {
        b.iter(|| Run::new(RunId("bench".into()), plan.clone()));
    });
    group.finish();
}

/// Recovery without the disk: folds history into state.
fn fold(criterion: &mut Criterion) {
    let plan = Arc::new(jobs::plan(&jobs::fan(TASKS)));
    let mut rows: Vec<Row> = Vec::new();
    play(&plan, &mut |fx| rows.extend(fx.rows.values().flatten().cloned()));
    let fresh = Run::new(RunId("bench".into()), plan);
    let mut group = criterion.benchmark_group("fold");
    group.sample_size(20).throughput(Throughput::Elements(rows.len() as u64));
    group.bench_function("rows of history", |b| {
        let fold = |mut run: Run| {
            for row in &rows {
                run.apply(row).expect("the engine decided it");
            }
            run
        };
        b.iter_batched(|| fresh.clone(), fold, BatchSize::LargeInput);
    });
    group.finish();
}

/// Everything that the owner does for a task except the disk: assignment, report, fold.
fn live(criterion: &mut Criterion) {
    let plan = Arc::new(jobs::plan(&jobs::fan(TASKS)));
    let mut group = criterion.benchmark_group("live");
    group.sample_size(20).throughput(Throughput::Elements(u64::from(TASKS)));
    group.bench_function("tasks", |b| b.iter(|| play(&plan, &mut |_| {})));
    group.finish();
}

/// Makes durable commits through the store.
fn commit(criterion: &mut Criterion) {
    let runtime = pictor_benches::runtime();
    let mut store = runtime.block_on(Commits::open("parts"));
    let mut group = criterion.benchmark_group("commit");
    for rows in [1, 64, 512, 4096] {
        group.sample_size(30).throughput(Throughput::Elements(u64::from(rows)));
        group.bench_function(format!("{rows} rows"), |b| {
            b.iter(|| runtime.block_on(store.commit(rows)));
        });
    }
    group.finish();
}

/// Simulates a whole run with one worker of two slots whose tasks all succeed at once.
fn play(plan: &Arc<pictor_engine::Plan>, each: &mut dyn FnMut(&Effects)) {
    let mut engine = Engine::new(Config::default());
    engine.join(WORKER, Inventory { slots: 2, ..Inventory::default() }, 0);
    engine.add_run(Run::new(RunId("bench".into()), plan.clone()), String::new(), 0, 0);
    let mut fx = Effects::default();
    engine.assign(0, &mut fx);
    while !fx.assign.is_empty() {
        let mut done = Effects::default();
        for (_, assignment) in &fx.assign {
            engine.published(assignment.id, true, &mut done);
        }
        for (_, assignment) in fx.assign.drain(..) {
            let end = |task| {
                let outcome = Outcome::Succeeded(Products::default());
                TaskEnd { task, started_ms: 0, took_ms: 0, outcome }
            };
            let ends = assignment.tasks.into_iter().map(end).collect();
            let (key, execution) = (assignment.key, Execution(assignment.id));
            let report = Report { worker: WORKER, key, execution, what: What::Ended(ends) };
            engine.report(report, 0, &mut done);
        }
        engine.assign(0, &mut done);
        each(&done);
        fx = done;
    }
    let run = engine.runs().next().expect("it was added");
    assert!(run.state().is_terminal(), "every task is done");
}
