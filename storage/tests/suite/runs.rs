//! What every store must do with runs, rejected messages and ownership.

use super::{commit, done, dones, history, new_run, task, with_run};
use pictor_storage::{
    Created, Error, Idempotency, NewRun, Rejected, RunFilter, RunRecord, RunRows, Store,
};
use pictor_tasks::history::{Claim, Control, Event, Fact, Row};
use pictor_tasks::message::{Execution, RunId, WorkerId};
use pictor_tasks::state::RunState;

pub(crate) async fn runs_are_listed_and_found_by_prefix(store: &dyn Store) {
    for id in ["find-1a", "find-1b", "find-2", "find-1"] {
        with_run(store, id).await;
    }
    let newest = store.runs(&RunFilter::default(), 2, None).await.unwrap();
    let ids =
        |runs: &[RunRecord]| -> Vec<String> { runs.iter().map(|run| run.id.to_string()).collect() };
    assert_eq!(ids(&newest), ["find-1", "find-2"]);
    let older = store.runs(&RunFilter::default(), 2, Some(&newest[1].id)).await.unwrap();
    assert_eq!(ids(&older), ["find-1b", "find-1a"]);

    let found = |id: &'static str| async move {
        store.run(id).await.map(|run| run.map(|run| run.id.to_string()))
    };
    assert_eq!(found("find-2").await.unwrap().as_deref(), Some("find-2"));
    assert_eq!(found("find-1b").await.unwrap().as_deref(), Some("find-1b"));
    assert_eq!(found("find-1").await.unwrap().as_deref(), Some("find-1"), "exact before prefix");
    assert_eq!(found("nothing").await.unwrap(), None);
    assert_eq!(found("").await.unwrap(), None);
    let error = found("find-").await.unwrap_err();
    assert!(error.to_string().starts_with("`find-` fits several runs, for example `find-1` and"));
    assert!(found("fin%").await.unwrap().is_none());
}

pub(crate) async fn a_run_is_kept_as_it_was_created(store: &dyn Store) {
    let run = new_run("kept");
    assert_eq!(store.create_run(&run, None).await.unwrap(), Created::New);
    let again = store.create_run(&run, None).await.unwrap();
    assert_eq!(again, Created::Again(run.id.clone()));
    let other = NewRun { spec: "other".to_owned(), ..run.clone() };
    let error = store.create_run(&other, None).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    let plan = store.run_plan(&run.id).await.unwrap().unwrap();
    assert_eq!((plan.spec, plan.plan, plan.fold_version), (run.spec, run.plan, 1));
    assert_eq!(store.run_plan(&RunId("none".into())).await.unwrap(), None);

    let record = store.run("kept").await.unwrap().unwrap();
    assert_eq!((record.state, record.finished_ms), (RunState::Running, None));
    assert_eq!((record.priority, record.account.as_str()), (-3, "ann"));
    assert!(store.unfinished_runs(None).await.unwrap().contains(&record));
    let end =
        RunRows { run: &run.id, rows: &dones(1, 1), state: Some((RunState::Failed, Some(77))) };
    store.commit(&[end]).await.unwrap();
    let record = store.run("kept").await.unwrap().unwrap();
    assert_eq!((record.state, record.finished_ms), (RunState::Failed, Some(77)));
    assert!(!store.unfinished_runs(None).await.unwrap().contains(&record));
    let again = RunRows { rows: &dones(2, 2), state: Some((RunState::Running, None)), ..end };
    store.commit(&[again]).await.unwrap();
    assert_eq!(history(store, &run.id, 1).await, dones(1, 2));
}

pub(crate) async fn unfinished_runs_are_read_from_a_run_on(store: &dyn Store) {
    let ids: Vec<RunId> = ["open-1", "open-2", "open-3"].map(|id| RunId(id.into())).into();
    for id in &ids {
        with_run(store, &id.0).await;
    }
    let after = async |run: &RunId| -> Vec<RunId> {
        let found = store.unfinished_runs(Some(run)).await.unwrap();
        found.into_iter().map(|run| run.id).collect()
    };
    assert_eq!(after(&ids[0]).await, ids[1..]);
    let rows = dones(1, 1);
    let end = |run| RunRows { run, rows: &rows, state: Some((RunState::Succeeded, Some(5))) };
    store.commit(&[end(&ids[0]), end(&ids[1])]).await.unwrap();
    assert_eq!(after(&ids[0]).await, ids[2..]);
    assert_eq!(after(&ids[2]).await, []);
    assert!(store.remove_run(&ids[0]).await.unwrap());
    assert_eq!(after(&ids[0]).await, ids[2..], "all, after a run that is gone");
}

pub(crate) async fn rejected_messages_are_kept(store: &dyn Store) {
    let rejected =
        |time_ms, size| Rejected { time_ms, reason: "not JSON".to_owned(), raw: vec![0; size] };
    store.reject(&rejected(1, 3)).await.unwrap();
    store.reject(&rejected(2, 1 << 20)).await.unwrap();
    let kept = store.rejected(10).await.unwrap();
    assert_eq!(kept, [rejected(2, 64 << 10), rejected(1, 3)]);
    let odd = Rejected { time_ms: 3, reason: "a\0b".to_owned(), raw: Vec::new() };
    store.reject(&odd).await.unwrap();
    assert_eq!(store.rejected(1).await.unwrap()[0].reason, "a\u{fffd}b");
}

pub(crate) async fn runs_are_filtered_by_state_owner_and_name(store: &dyn Store) {
    let all = [
        ("filter-1", "ann", "Shot_010 50%"),
        ("filter-2", "ben", "shot_020"),
        ("filter-3", "ann", "trailer\\x"),
    ];
    for (id, account, name) in all {
        let run = NewRun { account: account.to_owned(), name: name.to_owned(), ..new_run(id) };
        store.create_run(&run, None).await.unwrap();
    }
    let failed = RunId("filter-2".into());
    let end =
        RunRows { run: &failed, rows: &dones(1, 1), state: Some((RunState::Failed, Some(5))) };
    store.commit(&[end]).await.unwrap();
    let list = |filter: RunFilter| async move {
        let found = store.runs(&filter, 10, None).await.unwrap();
        found.into_iter().map(|run| run.id.to_string()).collect::<Vec<_>>()
    };
    let text = |text: &str| Some(text.to_owned());
    let none = RunFilter::default;
    assert_eq!(list(none()).await, ["filter-3", "filter-2", "filter-1"]);
    assert_eq!(list(RunFilter { state: Some(RunState::Failed), ..none() }).await, ["filter-2"]);
    assert_eq!(list(RunFilter { account: text("ann"), ..none() }).await, ["filter-3", "filter-1"]);
    assert_eq!(list(RunFilter { name: text("SHOT_0"), ..none() }).await, ["filter-2", "filter-1"]);
    assert_eq!(list(RunFilter { name: text("0%"), ..none() }).await, ["filter-1"]);
    assert_eq!(list(RunFilter { name: text("r\\x"), ..none() }).await, ["filter-3"]);
    assert_eq!(list(RunFilter { name: text("h%_"), ..none() }).await, [] as [&str; 0]);
    let (account, state) = (text("ben"), Some(RunState::Running));
    let both = RunFilter { name: text("shot"), account: account.clone(), state };
    assert_eq!(list(both.clone()).await, [] as [&str; 0]);
    assert_eq!(list(RunFilter { state: Some(RunState::Failed), ..both }).await, ["filter-2"]);
    assert_eq!(list(RunFilter { account, state, name: None }).await, [] as [&str; 0]);
    assert_eq!(list(RunFilter { account: text("ann"), state, name: text("") }).await.len(), 2);
    let after = store.runs(&RunFilter { account: text("ann"), ..none() }, 10, Some(&failed)).await;
    assert_eq!(after.unwrap().len(), 1);
    let long = NewRun { name: "😀x".repeat(2048), ..new_run("filter-4") };
    assert_eq!(store.create_run(&long, None).await.unwrap(), Created::New);
    assert_eq!(list(RunFilter { name: text("X😀"), ..none() }).await, ["filter-4"]);
}

fn once(key: &str, request: u8) -> Idempotency {
    Idempotency { account: "ann".to_owned(), key: key.to_owned(), request: [request; 32] }
}

pub(crate) async fn a_submission_happens_once_under_its_key(store: &dyn Store) {
    let (first, second) = (new_run("once-1"), new_run("once-2"));
    assert_eq!(store.create_run(&first, Some(&once("k", 1))).await.unwrap(), Created::New);
    let again = store.create_run(&second, Some(&once("k", 1))).await.unwrap();
    assert_eq!(again, Created::Again(first.id.clone()));
    let other = store.create_run(&second, Some(&once("k", 2))).await.unwrap();
    assert_eq!(other, Created::Conflict(first.id.clone()));
    assert_eq!(store.run("once-2").await.unwrap(), None, "nothing was stored of it");
    let lost = store.create_run(&first, Some(&once("k", 1))).await.unwrap();
    assert_eq!(lost, Created::Again(first.id.clone()), "the answer was lost, the call made again");
    let mut ben = once("k", 1);
    "ben".clone_into(&mut ben.account);
    assert_eq!(store.create_run(&second, Some(&ben)).await.unwrap(), Created::New);
}

pub(crate) async fn a_text_that_cannot_be_stored_is_the_callers_mistake(store: &dyn Store) {
    let run = NewRun { plan: "{".to_owned(), ..new_run("no-json") };
    let error = store.create_run(&run, None).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    assert_eq!(store.run("no-json").await.unwrap(), None);
    with_run(store, "after-no-json").await;
}

pub(crate) async fn a_run_that_has_ended_is_removed_with_everything(store: &dyn Store) {
    let (run, kept) = (with_run(store, "remove-1").await, with_run(store, "remove-2").await);
    let submitted = new_run("remove-3");
    store.create_run(&submitted, Some(&once("remove", 1))).await.unwrap();
    let claim = Claim { task: task(3), execution: Execution(1), worker: WorkerId(1) };
    let pause = Control { id: 9, event: Event::Paused };
    let mut rows = dones(1, 2);
    rows.push(Row { seq: 3, time_ms: 1000, fact: Fact::Claim(claim) });
    rows.push(Row { seq: 4, time_ms: 1000, fact: Fact::Event(pause) });
    for run in [&run, &kept] {
        commit(store, run, &rows).await.unwrap();
    }
    let error = store.remove_run(&run).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    for run in [&run, &submitted.id] {
        let end = RunRows { run, rows: &[], state: Some((RunState::Cancelled, Some(7))) };
        store.commit(&[end]).await.unwrap();
        assert!(store.remove_run(run).await.unwrap());
        assert!(!store.remove_run(run).await.unwrap());
        assert_eq!(store.run(&run.0).await.unwrap(), None);
    }
    let error = commit(store, &run, &[done(5)]).await.unwrap_err();
    assert!(error.to_string().contains("`remove-1` is not in the store"), "{error}");
    let new = store.create_run(&new_run("remove-4"), Some(&once("remove", 2))).await.unwrap();
    assert_eq!(new, Created::New, "a removed run's key is free");
    with_run(store, "remove-1").await;
    assert_eq!(history(store, &run, 1).await, []);
    assert_eq!(history(store, &kept, 1).await, rows);
}

pub(crate) async fn each_owner_has_a_higher_epoch_and_the_same_key(store: &dyn Store) {
    let first = store.take_ownership("http://one", 1).await.unwrap();
    assert_eq!(store.owner().await.unwrap().as_ref(), Some(&first));
    let second = store.take_ownership("http://two", 2).await.unwrap();
    assert_eq!(second.epoch, first.epoch + 1);
    assert_eq!((second.ticket_key, second.address.as_str()), (first.ticket_key, "http://two"));
    assert_ne!(second.ticket_key, [0; 32]);
    assert_eq!(store.owner().await.unwrap().as_ref(), Some(&second));
    let text = format!("{second:?}");
    assert!(!text.contains("key"), "a secret is not printed: {text}");
    let run = with_run(store, "owned").await;
    commit(store, &run, &dones(1, 2)).await.unwrap();
    assert_eq!(history(store, &run, 1).await, dones(1, 2));
    let third = store.take_ownership("http://one", 50_000).await.unwrap();
    assert_eq!(third.epoch, 50, "higher than what an older copy of the database can know");
    assert_eq!(store.take_ownership("http://two", 50_001).await.unwrap().epoch, 51);
}

pub(crate) async fn a_closed_store_says_so(store: &dyn Store) {
    let run = with_run(store, "closed").await;
    store.close().await.unwrap();
    store.close().await.unwrap();
    let error = commit(store, &run, &dones(1, 1)).await.unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
    let error = store.run("closed").await.unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
}
