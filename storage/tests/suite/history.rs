//! What every store must do with history.

use super::{commit, done, dones, history, with_run};
use pictor_storage::{Error, RunRows, Store};
use pictor_tasks::body::OnError;
use pictor_tasks::history::{
    Changes, Claim, Control, Ended, Event, Fact, RemovedOutputs, ResetTasks, Row, TaskRef,
};
use pictor_tasks::job::spec::OnFailure;
use pictor_tasks::message::{
    Binding, Bound, Execution, Failure, FailureKind, Outcome, Output, Products, RunId, Try,
    WorkerId,
};
use pictor_tasks::range::Ranges;
use pictor_tasks::space::Values;
use pictor_tasks::state::RunState;
use pictor_tasks::units::Millis;
use std::sync::Arc;

fn output(name: &str) -> Output {
    Output {
        name: name.to_owned(),
        key: format!("runs/a/1/0/7/1-9/{name}"),
        digest: "00ff".to_owned(),
        size_bytes: u64::MAX >> 1,
    }
}

fn outcomes() -> Vec<Outcome> {
    let values = [
        Values::Ints("1-100x5,7".parse::<Ranges>().unwrap()),
        Values::Names(Arc::from(["red".to_owned(), "it's \"blue\"\n\u{1}%d\\".to_owned()])),
        Values::Blocks { of: Arc::new(Values::count(10)), size: 3 },
    ];
    let bound = |values| Binding { dim: "frame".to_owned(), values: Bound::Values(values) };
    let mut bindings: Vec<Binding> = values.map(bound).into();
    let counts = Bound::Counts(Arc::from([0, 1, u32::MAX]));
    bindings.push(Binding { dim: "tile".to_owned(), values: counts });
    let mut outcomes = vec![
        Outcome::Succeeded(Products::default()),
        Outcome::Succeeded(Products {
            outputs: vec![output("image"), output("größe\n1")],
            bindings: bindings.clone(),
            notes: vec!["scripts were blocked".to_owned(), String::new()],
        }),
        Outcome::Succeeded(Products { bindings, ..Products::default() }),
        Outcome::Succeeded(Products {
            notes: vec!["only a note".to_owned()],
            ..Products::default()
        }),
        Outcome::Cancelled,
        Outcome::Lost,
    ];
    let kinds = [
        FailureKind::Invalid,
        FailureKind::Failed,
        FailureKind::Unsupported,
        FailureKind::TimedOut,
        FailureKind::OutOfMemory,
        FailureKind::BadOutput,
        FailureKind::Storage,
    ];
    let message = "line 1\nline 2 'quoted' \"twice\" %s \u{10ffff}";
    let failed = |kind| Outcome::Failed(Failure { kind, message: message.to_owned() });
    outcomes.extend(kinds.map(failed));
    outcomes
}

fn events() -> Vec<Event> {
    vec![
        Event::Paused,
        Event::Resumed,
        Event::Cancelled,
        Event::Priority(i32::MIN),
        Event::Reset(vec![
            ResetTasks { step: u16::MAX, tasks: vec![0, u32::MAX] },
            ResetTasks { step: 0, tasks: vec![] },
        ]),
        Event::Changed(Changes::default()),
        Event::Changed(Changes {
            on_error: Some(OnError::Copy),
            attempts: Some(u32::MAX),
            backoff: Some(Millis(3_650 * 86_400_000)),
            timeout: Some(Millis(0)),
            stalled: Some(Millis(1)),
            on_failure: Some(OnFailure::Stop),
            max_failures: Some(1),
            priority: Some(i32::MIN),
            reset: vec![ResetTasks { step: 0, tasks: vec![7] }],
        }),
        Event::Removed(vec![RemovedOutputs {
            step: u16::MAX,
            tasks: "0-99,4294967295".parse().unwrap(),
        }]),
    ]
}

/// Fails to compile when a variant is added: it then belongs in the lists above.
fn is_listed(fact: &Fact) {
    match fact {
        Fact::Claim(_) => {}
        Fact::Ended(ended) => match ended.outcome {
            Outcome::Succeeded(_) | Outcome::Failed(_) | Outcome::Cancelled | Outcome::Lost => {}
        },
        Fact::Event(control) => match control.event {
            Event::Paused
            | Event::Resumed
            | Event::Cancelled
            | Event::Priority(_)
            | Event::Reset(_)
            | Event::Changed(_)
            | Event::Removed(_) => {}
        },
    }
}

/// One row of every kind, with numbers at the ends of their ranges.
fn every_kind() -> Vec<Row> {
    let task = TaskRef {
        step: u16::MAX,
        generation: u32::MAX,
        task: Try { index: u32::MAX, attempt: u32::MAX },
    };
    let (execution, worker) = (Execution(u64::MAX), WorkerId(u32::MAX));
    let mut facts = vec![Fact::Claim(Claim { task, execution, worker })];
    facts.extend(outcomes().into_iter().map(|outcome| {
        let (started_ms, took_ms) = (i64::MIN, u32::MAX);
        Fact::Ended(Ended { task, execution, worker, started_ms, took_ms, outcome })
    }));
    let control = |(id, event)| Fact::Event(Control { id: u64::MAX - id, event });
    facts.extend((0..).zip(events()).map(control));
    facts.push(Fact::Claim(Claim { task, execution: Execution(0), worker: WorkerId(0) }));
    facts.iter().for_each(is_listed);
    let row = |(seq, fact)| Row { seq, time_ms: i64::MAX, fact };
    (1..).zip(facts).map(row).collect()
}

pub(crate) async fn every_kind_of_row_comes_back_as_it_was(store: &dyn Store) {
    let run = with_run(store, "kinds").await;
    let rows = every_kind();
    commit(store, &run, &rows).await.unwrap();
    assert_eq!(history(store, &run, 1).await, rows);
    assert_eq!(history(store, &run, 3).await, rows[2..]);
    assert_eq!(history(store, &run, 1000).await, []);
    let seqs: Vec<u64> = rows.iter().map(|row| row.seq).collect();
    assert_eq!(store.rows(&run, &seqs).await.unwrap(), rows);
    let some = store.rows(&run, &[2, 7, 1000]).await.unwrap();
    assert_eq!(some, [rows[1].clone(), rows[6].clone()], "those that there are");
    assert_eq!(store.rows(&run, &[]).await.unwrap(), []);
    let error = store.rows(&RunId("nobody".into()), &[1]).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
}

pub(crate) async fn rows_come_back_in_order_whatever_their_commits(store: &dyn Store) {
    let (a, b) = (with_run(store, "order-a").await, with_run(store, "order-b").await);
    let rows = dones(1, 40);
    for (from, to) in [(0, 1), (1, 20), (20, 40)] {
        let part = |run| RunRows { run, rows: &rows[from..to], state: None };
        store.commit(&[part(&b), part(&a)]).await.unwrap();
    }
    assert_eq!(history(store, &a, 1).await, rows);
    assert_eq!(history(store, &b, 1).await, rows);
}

pub(crate) async fn the_same_rows_again_change_nothing(store: &dyn Store) {
    let run = with_run(store, "again").await;
    let rows = every_kind();
    let (first, _) = rows.split_at(5);
    commit(store, &run, first).await.unwrap();
    commit(store, &run, first).await.unwrap();
    commit(store, &run, &rows[2..]).await.unwrap();
    commit(store, &run, &rows).await.unwrap();
    assert_eq!(history(store, &run, 1).await, rows);
}

pub(crate) async fn another_row_in_the_same_place_is_an_error(store: &dyn Store) {
    let run = with_run(store, "conflict").await;
    let rows = dones(1, 10);
    commit(store, &run, &rows).await.unwrap();
    let mut other = dones(10, 12);
    let Fact::Ended(ended) = &mut other[0].fact else { unreachable!("`done` makes ends") };
    ended.took_ms += 1;
    let error = commit(store, &run, &other).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
    let pause = Control { id: 1, event: Event::Paused };
    let event = Row { seq: 5, time_ms: 1000, fact: Fact::Event(pause) };
    let error = commit(store, &run, &[event]).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
    assert_eq!(history(store, &run, 1).await, rows, "nothing of either commit was kept");
}

pub(crate) async fn a_gap_or_a_step_back_in_time_is_refused(store: &dyn Store) {
    let run = with_run(store, "gap").await;
    commit(store, &run, &dones(1, 2)).await.unwrap();
    let mut early = done(3);
    early.time_ms = 999;
    for rows in [vec![done(4)], vec![done(3), done(5)], vec![done(0)], vec![early]] {
        let error = commit(store, &run, &rows).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    }
    let rows = [done(3)];
    let part = [RunRows { run: &run, rows: &rows, state: None }; 2];
    assert!(matches!(store.commit(&part).await, Err(Error::Invalid(_))));
    commit(store, &run, &dones(3, 4)).await.unwrap();
    assert_eq!(history(store, &run, 1).await, dones(1, 4));
}

pub(crate) async fn a_control_message_is_kept_once(store: &dyn Store) {
    let run = with_run(store, "control").await;
    let pause = Fact::Event(Control { id: 9, event: Event::Paused });
    let row = |seq| Row { seq, time_ms: 0, fact: pause.clone() };
    commit(store, &run, &[row(1)]).await.unwrap();
    let error = commit(store, &run, &[row(2)]).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
    assert_eq!(history(store, &run, 1).await, [row(1)]);
}

pub(crate) async fn one_bad_run_keeps_the_whole_batch_out(store: &dyn Store) {
    let run = with_run(store, "batch").await;
    let unknown = RunId("nobody".into());
    let rows = dones(1, 3);
    let part = |run| RunRows { run, rows: &rows, state: None };
    let error = store.commit(&[part(&run), part(&unknown)]).await.unwrap_err();
    assert!(error.to_string().contains("`nobody` is not in the store"), "{error}");
    let bad_state = RunRows { state: Some((RunState::Failed, None)), ..part(&run) };
    let error = store.commit(&[bad_state]).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    assert_eq!(history(store, &run, 1).await, []);
    let error = store.load_history(&unknown, 1, &mut |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
}

pub(crate) async fn a_big_batch_comes_back(store: &dyn Store) {
    let run = with_run(store, "big").await;
    let mut rows = dones(1, 20_001);
    let kinds = every_kind();
    for (at, kind) in (9_000..).zip(kinds.iter().cycle().take(2_000)) {
        if !matches!(kind.fact, Fact::Event(_)) {
            rows[at].fact = kind.fact.clone();
        }
    }
    commit(store, &run, &rows).await.unwrap();
    commit(store, &run, &rows).await.unwrap();
    assert_eq!(history(store, &run, 1).await, rows);
    assert_eq!(history(store, &run, 8_193).await, rows[8_192..]);
}
