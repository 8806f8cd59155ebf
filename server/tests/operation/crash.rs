//! Servers that crash in the middle of their work: it is dropped at every point at which it waits.

use crate::farm::{Base, JOB, crash_after, ms, schedule, set, until, with, work};
use pictor_engine::{RunState, compile};
use pictor_server::{Request, Response, Runs, load_run};
use pictor_storage::{NewRun, RunRows};
use pictor_tasks::history::{Claim, Control, Event, Fact, Row, TaskRef};
use pictor_tasks::job::{Source, parse};
use pictor_tasks::message::{Execution, RunId, Try, WorkerId};

const START: &str = "2026-06-01T00:00:00Z";
const MINUTE: i64 = 60_000;
/// Most points at which a step waits.
const POINTS: usize = 400;

pub(crate) async fn a_crash_at_any_point_starts_each_run_once(base: &Base) {
    let start = ms(START);
    set(start);
    let new = with(&schedule("ten", "*/10 * * * *", "UTC"), &[("overlap", "skip")]);
    base.schedules().add(&new, "ada").await.unwrap();
    let mut points = 0;
    for round in 1.. {
        let due = start + round * 10 * MINUTE;
        set(due);
        let (mut runner, _owner) = base.runner().await;
        let done = crash_after(points, runner.step(due)).await;
        // The next server reads what is stored, and makes the step.
        let (mut runner, owner) = base.runner().await;
        runner.step(due + 1).await.unwrap();
        runner.step(due + 2).await.unwrap();
        let runs = base.runs().await;
        assert_eq!(runs.len(), usize::try_from(round).unwrap(), "after {points} polls");
        let run = &runs.last().unwrap().id;
        assert!(owner.has_run(run).await.unwrap(), "the owner knows of it after {points} polls");
        let due_times = base.registry.due_times("ten", 1000).await.unwrap();
        assert_eq!(due_times.len(), runs.len());
        assert_eq!((due_times[0].due_ms, due_times[0].outcome.name()), (due, "started"));
        base.end_all(&owner).await;
        if done.is_some() {
            assert!(points > 0, "it never waited");
            return;
        }
        points += 1;
        assert!(points < POINTS, "a step does not end");
    }
}

pub(crate) async fn a_crash_while_a_run_is_replaced_leaves_one_run_going(base: &Base) {
    let start = ms(START);
    set(start);
    let new = with(&schedule("ten", "*/10 * * * *", "UTC"), &[("overlap", "replace")]);
    base.schedules().add(&new, "ada").await.unwrap();
    let mut points = 0;
    for round in 1.. {
        let due = start + round * 10 * MINUTE;
        set(due);
        let (mut runner, _owner) = base.runner().await;
        let done = crash_after(points, runner.step(due)).await;
        let (mut runner, owner) = base.runner().await;
        runner.step(due + 1).await.unwrap();
        runner.step(due + 2).await.unwrap();
        let runs = base.runs().await;
        assert_eq!(runs.len(), usize::try_from(round).unwrap(), "after {points} polls");
        let going = base.going().await;
        assert_eq!(going, [runs.last().unwrap().id.clone()], "after {points} polls");
        assert!(owner.has_run(&going[0]).await.unwrap());
        if done.is_some() && points > 4 {
            return;
        }
        points += 1;
        assert!(points < POINTS, "a step does not end");
    }
}

pub(crate) async fn runs_that_cannot_be_read_hold_up_no_other(base: &Base) {
    let before = base.owner().await;
    let job = JOB.replace("noop: {}", "command: { run: [sh] }");
    let good = base.submit(&before, "good", &job).await;
    let strange = base.submit(&before, "strange", &job).await;
    before.stop().await;
    // The history of one is about a step that it does not have, the plan of the other one cannot be parsed.
    let task = TaskRef { step: 7, generation: 0, task: Try { index: 0, attempt: 1 } };
    let claim = Claim { task, execution: Execution(1), worker: WorkerId(1) };
    let row = Row { seq: 1, time_ms: 1, fact: Fact::Claim(claim) };
    base.store.commit(&[RunRows { run: &strange, rows: &[row], state: None }]).await.unwrap();
    let empty = RunId("empty".into());
    let new = NewRun {
        id: empty.clone(),
        name: "empty".into(),
        spec: job,
        source_name: "job.yaml".into(),
        plan: "{}".into(),
        fold_version: load_run(&*base.store, &good, &pictor_engine::RunLimits::default())
            .await
            .unwrap()
            .plan()
            .fold_version,
        account: "ada".into(),
        priority: 0,
        created_ms: 1,
        out_dir: String::new(),
    };
    base.store.create_run(&new, None).await.unwrap();
    let large = too_large(base, new).await;
    // A server that takes over loads the one that can be read, and finishes it.
    let (owner, mut workers) = base.owner_with(&[WorkerId(1)]).await;
    for (run, is_known) in [(&good, true), (&strange, false), (&empty, false), (&large, false)] {
        assert_eq!(owner.has_run(run).await.unwrap(), is_known, "{run}");
    }
    let working = work(workers.remove(0), base, 1);
    let asked = good.clone();
    until(&owner, move |engine| engine.run(&asked).unwrap().state().is_terminal()).await;
    assert_eq!(working.await.unwrap(), 1);
    assert_eq!(base.going().await, [strange.clone(), empty.clone(), large.clone()]);
    // Whoever asks is told why the others do not go on, and can give them up.
    let runs = Runs::of_folder(base.store.clone());
    let listed = runs.answer(Some(&owner), list()).await;
    let Response::Runs(page) = listed else { panic!("{listed:?}") };
    let reasons: Vec<_> =
        page.items.iter().map(|run| run.set_aside.as_deref().unwrap_or_default()).collect();
    assert!(reasons.iter().any(|why| why.contains("fold row 1")), "{reasons:?}");
    assert!(reasons.iter().any(|why| why.contains("its plan")), "{reasons:?}");
    assert_eq!(reasons.iter().filter(|why| why.is_empty()).count(), 1, "{reasons:?}");
    for run in [&strange, &empty, &large] {
        let shown = runs.answer(Some(&owner), Request::Show { run: run.to_string() }).await;
        let Response::Run(shown) = shown else { panic!("{shown:?}") };
        assert!(shown.run.set_aside.is_some());
        let control = Control { id: 1, event: Event::Cancelled };
        let cancel = Request::Control { run: run.to_string(), control };
        let cancelled = runs.answer(Some(&owner), cancel).await;
        let Response::Changed(run) = cancelled else { panic!("{cancelled:?}") };
        assert_eq!(run.state, RunState::Cancelled);
        assert!(run.finished_ms.is_some(), "it can be pruned");
    }
    assert!(base.going().await.is_empty());
}

/// A run that was accepted by an earlier version, but is more than memory holds.
async fn too_large(base: &Base, like: NewRun) -> RunId {
    let id = RunId("large".into());
    let steps = "{ name: sN, over: [a], noop: {} }, ";
    let steps: String = (0..100).map(|i| steps.replace('N', &i.to_string())).collect();
    let text = format!("pictor: v1\nname: large\ndims: {{ a: 1-16000000 }}\nsteps: [{steps}]\n");
    let source = Source { name: "job.yaml".into(), text };
    let plan = compile(&parse(&source, &[]).unwrap().spec).unwrap();
    let plan = serde_json::to_string(&plan).unwrap();
    base.store.create_run(&NewRun { id: id.clone(), plan, ..like }, None).await.unwrap();
    id
}

fn list() -> Request {
    Request::Runs { state: None, owner: None, name: None, limit: 10, after: None }
}
