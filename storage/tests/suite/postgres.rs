//! What only a shared database can do: have several owners in turn and several users at once, go away and come back.

use super::registry::{DAMAGES, is_damaged, with_one_of_each};
use super::{Stores, commit, done, dones, history, new_run, open, with_run};
use pictor_storage::{Created, DueTime, Error, Idempotency, Registry, RunRows, Schedule, Store};
use pictor_tasks::history::Row;
use pictor_tasks::message::RunId;
use pictor_tasks::state::{DueOutcome, RunState};
use pictor_test_servers::Postgres;
use sqlx::{Connection, Executor, PgConnection};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Makes an empty database.
pub(crate) fn database() -> String {
    Postgres::start().database()
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

/// Opens the store; nobody owns it.
async fn store(url: &str) -> Arc<dyn Store> {
    pictor_storage::open(url).await.unwrap().0
}

/// Makes each insertion of attempts' ends wait after its rows are written and before it commits, for as long as the
/// returned connection holds its lock.
async fn hold_back(url: &str) -> PgConnection {
    let mut on = connect(url).await;
    on.execute(
        "CREATE FUNCTION hold_back() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END $$; \
         CREATE TRIGGER hold_back AFTER INSERT ON attempt FOR EACH STATEMENT \
         EXECUTE FUNCTION hold_back(); \
         SELECT pg_advisory_lock(7)",
    )
    .await
    .unwrap();
    on
}

async fn release(on: &mut PgConnection) {
    on.execute("SELECT pg_advisory_unlock(7)").await.unwrap();
}

/// Waits until this many sessions of the database wait for a lock.
async fn until_waiting(on: &mut PgConnection, count: i64) {
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut *on).await.unwrap() != count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn spawn_commit(
    store: &Arc<dyn Store>,
    run: &RunId,
    rows: Vec<Row>,
) -> JoinHandle<Result<(), Error>> {
    let (store, run) = (store.clone(), run.clone());
    tokio::spawn(async move { commit(&*store, &run, &rows).await })
}

fn spawn_takeover(store: &Arc<dyn Store>) -> JoinHandle<u64> {
    let store = store.clone();
    tokio::spawn(async move { store.take_ownership("there", 2).await.unwrap().epoch })
}

#[tokio::test]
async fn servers_that_start_at_once_agree_on_the_tables() {
    let url = database();
    let opened = (0..8).map(|_| {
        tokio::spawn({
            let url = url.clone();
            async move { open(&url).await }
        })
    });
    let mut databases: Vec<Stores> = Vec::new();
    for stores in opened.collect::<Vec<_>>() {
        databases.push(stores.await.unwrap());
    }
    let epoch = databases[0].store.owner().await.unwrap().unwrap().epoch;
    assert_eq!(epoch, 8, "each of them took ownership once");
    let mut on = connect(&url).await;
    let version: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM pictor_schema").fetch_all(&mut on).await.unwrap();
    assert_eq!(version, [1, 2, 3, 4]);
    on.execute("INSERT INTO pictor_schema VALUES (99)").await.unwrap();
    let error = pictor_storage::open(&url).await.err().unwrap();
    assert!(error.to_string().contains("newer pictor"), "{error}");
}

#[tokio::test]
async fn nobody_commits_who_does_not_own() {
    let url = database();
    let (first, second) = (store(&url).await, store(&url).await);
    let run = with_run(&*first, "owned").await;
    let error = commit(&*first, &run, &dones(1, 1)).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    let old = first.take_ownership("one", 1).await.unwrap();
    commit(&*first, &run, &dones(1, 2)).await.unwrap();
    let new = second.take_ownership("two", 2).await.unwrap();
    assert_eq!((new.epoch, new.ticket_key), (old.epoch + 1, old.ticket_key));
    assert_eq!(first.owner().await.unwrap(), Some(new));
    for _ in 0..2 {
        let end =
            RunRows { run: &run, rows: &dones(3, 3), state: Some((RunState::Failed, Some(1))) };
        let error = first.commit(&[end]).await.unwrap_err();
        assert!(matches!(error, Error::Fenced), "{error:?}");
        assert!(!error.is_retryable());
    }
    assert_eq!(history(&*second, &run, 1).await, dones(1, 2));
    assert_eq!(second.run("owned").await.unwrap().unwrap().state, RunState::Running);
    commit(&*second, &run, &dones(3, 5)).await.unwrap();
    first.take_ownership("one", 3).await.unwrap();
    commit(&*first, &run, &dones(6, 6)).await.unwrap();
    assert_eq!(history(&*first, &run, 1).await, dones(1, 6));
}

#[tokio::test]
async fn a_takeover_waits_for_a_commit_that_has_passed_the_fence() {
    let url = database();
    let (old, new) = (open(&url).await.store, store(&url).await);
    let run = with_run(&*old, "run").await;
    let mut on = hold_back(&url).await;
    let committed = spawn_commit(&old, &run, dones(1, 3));
    until_waiting(&mut on, 1).await;
    let taken = spawn_takeover(&new);
    until_waiting(&mut on, 2).await;
    assert!(!taken.is_finished() && !committed.is_finished());
    release(&mut on).await;
    committed.await.unwrap().unwrap();
    assert_eq!(taken.await.unwrap(), 2);
    assert_eq!(history(&*new, &run, 1).await, dones(1, 3), "the new owner knows of it");
    let error = commit(&*old, &run, &dones(4, 4)).await.unwrap_err();
    assert!(matches!(error, Error::Fenced), "{error:?}");
}

#[tokio::test]
async fn a_commit_waits_for_a_takeover_and_is_fenced() {
    let url = database();
    let old = open(&url).await.store;
    let run = with_run(&*old, "run").await;
    commit(&*old, &run, &dones(1, 1)).await.unwrap();
    let mut on = connect(&url).await;
    for (end, is_fenced) in [("ROLLBACK", false), ("COMMIT", true)] {
        on.execute("BEGIN; UPDATE ownership SET epoch = epoch + 1").await.unwrap();
        let committed = spawn_commit(&old, &run, dones(2, 2));
        let mut watch = connect(&url).await;
        until_waiting(&mut watch, 1).await;
        on.execute(end).await.unwrap();
        let committed = committed.await.unwrap();
        assert_eq!(matches!(committed, Err(Error::Fenced)), is_fenced, "{committed:?}");
        assert_eq!(committed.is_ok(), !is_fenced);
    }
    assert_eq!(history(&*old, &run, 1).await, dones(1, 2));
}

/// The tests of the fence only prove something if a former owner would get through without it.
#[tokio::test]
async fn without_the_fence_a_former_owner_would_write() {
    let url = database();
    let (old, new) = (open(&url).await.store, store(&url).await);
    let run = with_run(&*old, "run").await;
    assert_eq!(new.take_ownership("there", 2).await.unwrap().epoch, 2);
    assert!(matches!(commit(&*old, &run, &dones(1, 1)).await, Err(Error::Fenced)));
    // A fence that lets everybody through.
    let mut on = connect(&url).await;
    on.execute(
        "ALTER TABLE ownership RENAME TO real_ownership; \
         CREATE VIEW ownership AS SELECT shard, 1::bigint AS epoch FROM real_ownership",
    )
    .await
    .unwrap();
    commit(&*old, &run, &dones(1, 1)).await.unwrap();
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_made_again() {
    let url = database();
    let old = open(&url).await.store;
    let run = with_run(&*old, "run").await;
    commit(&*old, &run, &dones(1, 1)).await.unwrap();
    let mut on = hold_back(&url).await;
    let lost = spawn_commit(&old, &run, dones(2, 4));
    until_waiting(&mut on, 1).await;
    lost.abort();
    assert!(lost.await.unwrap_err().is_cancelled());
    // Its rows are in the database, not committed: another writer of the same rows must wait for them.
    let again = spawn_commit(&old, &run, dones(2, 4));
    until_waiting(&mut on, 2).await;
    release(&mut on).await;
    again.await.unwrap().unwrap();
    commit(&*old, &run, &dones(2, 5)).await.unwrap();
    assert_eq!(history(&*old, &run, 1).await, dones(1, 5));

    on.execute("SELECT pg_advisory_lock(7)").await.unwrap();
    let lost = spawn_commit(&old, &run, dones(6, 7));
    until_waiting(&mut on, 1).await;
    let mut other = done(6);
    other.time_ms += 1;
    let again = spawn_commit(&old, &run, vec![other]);
    // Within the process, the second waits for the first.
    lost.abort();
    until_waiting(&mut on, 2).await;
    release(&mut on).await;
    let error = again.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
    assert_eq!(history(&*old, &run, 1).await, dones(1, 7));
}

#[tokio::test]
async fn a_connection_that_was_cut_is_replaced() {
    let url = database();
    let stores = open(&url).await;
    let run = with_run(&*stores.store, "cut").await;
    commit(&*stores.store, &run, &dones(1, 1)).await.unwrap();
    let mut on = connect(&url).await;
    on.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .await
    .unwrap();
    let error = commit(&*stores.store, &run, &dones(2, 2)).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    commit(&*stores.store, &run, &dones(2, 2)).await.unwrap();
    assert_eq!(history(&*stores.store, &run, 1).await, dones(1, 2));
}

#[tokio::test]
async fn a_database_that_is_away_is_unavailable_and_nothing_else() {
    let server = Postgres::private();
    let url = server.database();
    let stores = open(&url).await;
    let run = with_run(&*stores.store, "away").await;
    commit(&*stores.store, &run, &dones(1, 1)).await.unwrap();
    let mut last = 1;
    let stop: fn(&Postgres) = Postgres::stop;
    let again: fn(&Postgres) = Postgres::start_again;
    let ways = [(stop, again), (Postgres::kill9, again), (Postgres::freeze, Postgres::thaw)];
    for (away, back) in ways {
        away(&server);
        let rows = dones(last + 1, last + 1);
        let (committed, read, heard) = tokio::join!(
            commit(&*stores.store, &run, &rows),
            stores.store.run("away"),
            stores.registry.revoke_token("none", 1),
        );
        let errors = [committed.unwrap_err(), read.unwrap_err(), heard.unwrap_err()];
        for error in errors {
            let text = error.to_string();
            assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
            assert!(error.is_retryable() && !text.contains("pictor:"), "{error:?}");
        }
        back(&server);
        while let Err(error) = commit(&*stores.store, &run, &rows).await {
            assert!(error.is_retryable(), "{error:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        last += 1;
        assert_eq!(history(&*stores.store, &run, 1).await, dones(1, last));
    }
}

#[tokio::test]
async fn an_address_that_leads_nowhere_is_explained_without_the_password() {
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let error = |url: String| async move { pictor_storage::open(&url).await.err().unwrap() };
    let text = |error: &Error| format!("{error} {error:?}");
    let away = error(format!("postgres://me:hush@{nobody}/farm")).await;
    assert!(away.is_retryable(), "{away:?}");
    assert!(away.to_string().contains(&format!("farm at 127.0.0.1:{}", nobody.port())), "{away}");
    let odd = error("postgres://me:hush@localhost/farm?sslmode=maybe".to_owned()).await;
    assert!(matches!(odd, Error::Invalid(_)), "{odd:?}");
    let url = database();
    let at = url.find(':').unwrap();
    let user_end = at + url[at + 1..].find(':').unwrap() + 1;
    let host = url.find('@').unwrap();
    let wrong = error(format!("{}:hush{}", &url[..user_end], &url[host..])).await;
    assert!(matches!(wrong, Error::Unavailable { retryable: false, .. }), "{wrong:?}");
    for error in [away, odd, wrong] {
        assert!(!text(&error).contains("hush"), "{error:?}");
    }
}

#[tokio::test]
async fn a_due_time_starts_one_run_though_two_servers_see_it() {
    let url = database();
    let (one, two) = (open(&url).await, open(&url).await);
    let schedule = Schedule { id: "nightly".to_owned(), ..Schedule::default() };
    one.registry.put_schedule(&schedule).await.unwrap();
    let start = |registry: Arc<dyn Registry>, name: &'static str| async move {
        let mut started = Vec::new();
        for due_ms in 1..=50 {
            let run = new_run(&format!("{name}-{due_ms}"));
            let outcome = DueOutcome::Started;
            let due_time = DueTime { schedule: "nightly".to_owned(), due_ms, outcome, run: None };
            if registry.record_due_time(&due_time, Some(&run)).await.unwrap() {
                started.push((due_ms, run.id));
            }
        }
        started
    };
    let (a, b) = tokio::join!(
        tokio::spawn(start(one.registry.clone(), "one")),
        tokio::spawn(start(two.registry.clone(), "two")),
    );
    let mut started = [a.unwrap(), b.unwrap()].concat();
    started.sort();
    assert!(started.iter().map(|(due_ms, _)| *due_ms).eq(1..=50));
    assert_eq!(one.store.unfinished_runs(None).await.unwrap().len(), 50);
    let due_times = two.registry.due_times("nightly", 1000).await.unwrap();
    let done: Vec<_> =
        due_times.into_iter().rev().map(|due| (due.due_ms, due.run.unwrap())).collect();
    assert_eq!(done, started);
    assert_eq!(one.registry.schedule("nightly").await.unwrap().unwrap().planned_ms, 50);
}

#[tokio::test]
async fn a_submission_happens_once_though_two_servers_get_it() {
    let url = database();
    let (one, two) = (store(&url).await, store(&url).await);
    for n in 0..20 {
        let same =
            Idempotency { account: "ann".to_owned(), key: format!("key {n}"), request: [1; 32] };
        let (a, b) = (new_run(&format!("a{n}")), new_run(&format!("b{n}")));
        let both = tokio::join!(one.create_run(&a, Some(&same)), two.create_run(&b, Some(&same)));
        match (both.0.unwrap(), both.1.unwrap()) {
            (Created::New, Created::Again(id)) => assert_eq!(id, a.id),
            (Created::Again(id), Created::New) => assert_eq!(id, b.id),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(one.unfinished_runs(None).await.unwrap().len(), 20);
}

#[tokio::test]
async fn a_run_that_another_server_removed_gets_no_more_history() {
    let url = database();
    let (owner, other) = (open(&url).await.store, store(&url).await);
    let run = with_run(&*owner, "pruned").await;
    let end =
        RunRows { run: &run, rows: &dones(1, 2), state: Some((RunState::Cancelled, Some(7))) };
    owner.commit(&[end]).await.unwrap();
    // A row that changes no state: the owner remembers where the history ends.
    commit(&*owner, &run, &dones(3, 3)).await.unwrap();
    assert!(other.remove_run(&run).await.unwrap());
    let error = commit(&*owner, &run, &dones(4, 4)).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM attempt")
        .fetch_one(&mut connect(&url).await)
        .await
        .unwrap();
    assert_eq!(rows, 0);
}

#[tokio::test]
async fn a_word_that_nothing_understands_is_damage() {
    let url = database();
    let stores = open(&url).await;
    with_one_of_each(stores.both()).await;
    let mut on = connect(&url).await;
    // The tables refuse such words themselves.
    on.execute(
        "DO $$ DECLARE c record; BEGIN FOR c IN SELECT conrelid::regclass AS of, conname FROM pg_constraint \
         WHERE contype = 'c' AND connamespace = current_schema()::regnamespace \
         LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.of, c.conname); END LOOP; END $$",
    )
    .await
    .unwrap();
    for (place, damage) in DAMAGES.into_iter().enumerate() {
        on.execute(damage).await.unwrap();
        is_damaged(stores.both(), place + 1).await;
    }
}
