//! Artifacts that are no longer needed are deleted, eventually even if a server dies in between; those that are needed
//! never are.

use crate::farm::{Base, crash_after, set, until, work};
use crate::prune::{policy, pruner, today};
use pictor_engine::Run;
use pictor_server::{OwnerHandle, load_run, sweep_again};
use pictor_tasks::message::{RunId, TaskId, WorkerId};
use std::time::Duration;

/// Three frames in two steps whose outputs are removed, and a film.
const FILM: &str = "
pictor: v1
name: film
dims: { frame: 1-3 }
steps:
  - { name: cut, over: [frame], command: { run: [cut] }, keep: { until: film } }
  - { name: draw, over: [frame], needs: [cut], command: { run: [draw] }, keep: { until: film } }
  - { name: film, needs: [draw], command: { run: [film] } }
";

/// A film that was finished today.
async fn done(base: &Base, id: &str, sweeps: bool) -> (Run, OwnerHandle) {
    set(today());
    let (owner, mut workers) = base.owner_that(sweeps, &[WorkerId(1)]).await;
    let working = work(workers.remove(0), base, 7);
    let id = base.submit(&owner, id, FILM).await;
    let asked = id.clone();
    until(&owner, move |engine| engine.run(&asked).is_some_and(|run| run.state().is_terminal()))
        .await;
    working.await.unwrap();
    (load_run(&*base.store, &id, &pictor_engine::RunLimits::default()).await.unwrap(), owner)
}

/// The names of the steps with stored outputs, once for each output.
async fn there(base: &Base, run: &RunId) -> Vec<String> {
    let listed = base.artifacts.list(&format!("runs/{run}")).await.unwrap();
    listed.iter().map(|found| found.key.split('/').nth(2).unwrap().to_owned()).collect()
}

async fn until_there_is(base: &Base, run: &RunId, steps: &[&str]) {
    while there(base, run).await != steps {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn what_nobody_reads_any_more_is_deleted(base: &Base) {
    base.artifacts.put(vec![1], "runs/other/cut/0/0/1-1/image").await.unwrap();
    let (run, _owner) = done(base, "film", true).await;
    until_there_is(base, run.id(), &["film"]).await;
    assert_eq!(
        (run.outputs(TaskId { step: 0, index: 1 }), run.is_removed(TaskId { step: 0, index: 1 })),
        (None, true)
    );
    assert_eq!(run.outputs(TaskId { step: 2, index: 0 }).unwrap().1.len(), 1);
    assert_eq!(there(base, &RunId("other".into())).await, ["cut"], "another run's stay");
}

pub(crate) async fn whoever_takes_over_deletes_what_was_to_be_deleted(base: &Base) {
    let (owner, mut workers) = base.owner_that(false, &[WorkerId(1)]).await;
    let working = work(workers.remove(0), base, 4);
    let id = base.submit(&owner, "film", &FILM.replacen("film }", "draw }", 1)).await;
    working.await.unwrap();
    let asked = id.clone();
    until(&owner, move |engine| {
        (0..3).any(|at| engine.run(&asked).unwrap().is_removed(TaskId { step: 0, index: at }))
    })
    .await;
    assert_eq!(there(base, &id).await.len(), 4, "it died before it deleted anything");
    owner.stop().await;
    let before = load_run(&*base.store, &id, &pictor_engine::RunLimits::default()).await.unwrap();
    let _owner = base.owner_with(&[]).await;
    let removed = before.pending_deletions().len();
    while there(base, &id).await.len() > 4 - removed {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let run = load_run(&*base.store, &id, &pictor_engine::RunLimits::default()).await.unwrap();
    for output in (0..3)
        .filter_map(|at| run.outputs(TaskId { step: 1, index: at }))
        .flat_map(|(_, outputs)| outputs)
    {
        assert!(base.artifacts.exists(&output.key).await.unwrap(), "{}", output.key);
    }
}

pub(crate) async fn a_crash_at_any_point_of_a_deletion_leaves_nothing_for_ever(base: &Base) {
    for points in 0..1000 {
        let (run, _owner) = done(base, &format!("film-{points}"), false).await;
        assert_eq!(there(base, run.id()).await.len(), 7);
        let crashed = crash_after(points, sweep_again(&run, &base.artifacts)).await;
        let left = there(base, run.id()).await.len() - 1;
        let dry = pruner(base).prune(&policy(None), true, today()).await.unwrap();
        let pruned = pruner(base).prune(&policy(None), false, today()).await.unwrap();
        assert_eq!((dry.orphans, dry.runs), (pruned.orphans, 0), "after {points} polls");
        assert_eq!(pruned.orphans.files, left as u64, "after {points} polls: {pruned:?}");
        assert_eq!(there(base, run.id()).await, ["film"], "after {points} polls");
        if crashed.is_some() {
            assert!(points > 5, "it waited only {points} times");
            return;
        }
    }
    panic!("a deletion does not end");
}
