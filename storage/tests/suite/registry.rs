//! What every store must do with tokens, machines, schedules and webhook messages.

use super::new_run;
use pictor_storage::{
    AuditEntry, Delivery, DueTime, Error, NewWorker, Registry, RunFilter, Schedule, Store, Token,
    Upload,
};
use pictor_tasks::message::{RunId, WorkerId};
use pictor_tasks::state::{CatchUp, DueOutcome, Overlap, RunState, Service, TokenRole};
use pictor_tasks::worker::{Gpu, Inventory};

fn token(id: &str, created_ms: i64) -> Token {
    Token {
        id: id.to_owned(),
        name: "größe".to_owned(),
        role: TokenRole::Operator,
        account: "ann".to_owned(),
        secret_hash: [7; 32],
        created_ms,
        revoked_ms: None,
        origin: String::new(),
    }
}

pub(crate) async fn a_token_is_kept_until_it_is_revoked(registry: &dyn Registry) {
    let (a, b) = (token("a", 2), token("b", 1));
    for token in [&a, &b, &a] {
        registry.add_token(token).await.unwrap();
    }
    let other = Token { role: TokenRole::Admin, ..a.clone() };
    assert!(matches!(registry.add_token(&other).await, Err(Error::Corrupt(_))));
    let listed = registry.tokens().await.unwrap();
    let listed: Vec<_> = listed.iter().map(|token| (&*token.id, token.role)).collect();
    assert_eq!(listed, [("b", Some(TokenRole::Operator)), ("a", Some(TokenRole::Operator))]);
    assert_eq!(registry.token("c").await.unwrap(), None);
    assert_eq!(registry.revocations().await.unwrap(), 0);
    assert!(registry.revoke_token("a", 9).await.unwrap());
    assert!(!registry.revoke_token("a", 10).await.unwrap());
    assert!(!registry.revoke_token("c", 10).await.unwrap());
    assert_eq!(registry.revocations().await.unwrap(), 1);
    let revoked = Token { revoked_ms: Some(9), ..a };
    assert_eq!(registry.token("a").await.unwrap(), Some(revoked));
    assert_eq!(registry.token("b").await.unwrap(), Some(b));
}

pub(crate) async fn a_worker_that_registers_again_is_the_same_worker(registry: &dyn Registry) {
    let gpu = Gpu {
        name: "NVIDIA \"H100\"".to_owned(),
        uuid: "GPU-1".to_owned(),
        vram_bytes: u64::MAX,
        driver: "550".to_owned(),
    };
    let inventory = Inventory { gpus: vec![gpu], slots: 1, ..Inventory::default() };
    let register = async |name, account, now| {
        let worker = NewWorker { name, account, token: "t", inventory: &inventory };
        registry.register_worker(&worker, now).await
    };
    let one = register("box", "ann", 1).await.unwrap();
    let two = register("box", "ben", 2).await.unwrap();
    assert!(registry.set_worker_state(one, Service::Draining).await.unwrap());
    assert!(!registry.set_worker_state(WorkerId(99), Service::Enabled).await.unwrap());
    let bigger = Inventory { slots: 2, ..inventory.clone() };
    let worker = NewWorker { name: "box", account: "ann", token: "t2", inventory: &bigger };
    let again = registry.register_worker(&worker, 5).await.unwrap();
    assert_eq!(again, one);
    let workers = registry.workers().await.unwrap();
    assert_eq!(workers.iter().map(|w| w.id).collect::<Vec<_>>(), [one, two]);
    assert_eq!((one.0, two.0), (1, 2));
    let worker = registry.worker(one).await.unwrap().unwrap();
    assert_eq!(worker, workers[0]);
    assert_eq!((&worker.inventory, worker.token.as_str()), (&bigger, "t2"));
    assert_eq!((worker.state, worker.registered_ms, worker.seen_ms), (Service::Draining, 1, 5));
    assert_eq!(registry.worker(WorkerId(99)).await.unwrap(), None);
    assert_eq!(registry.worker_named(&worker.name, &worker.account).await.unwrap(), Some(worker));
    assert_eq!(registry.worker_named("nobody", "ann").await.unwrap(), None);
    assert_eq!(registry.workers_page(9, one).await.unwrap(), workers[1..]);
    assert_eq!(registry.workers_page(1, WorkerId(0)).await.unwrap(), workers[..1]);
    let names = registry.worker_names(&[two, WorkerId(99)]).await.unwrap();
    assert_eq!(names, [(two, workers[1].name.clone())]);
    assert_eq!(registry.worker_names(&[]).await.unwrap(), []);

    registry.workers_seen(&[]).await.unwrap();
    registry.workers_seen(&[(one, 4), (two, 8), (WorkerId(99), 9)]).await.unwrap();
    let seen: Vec<_> = registry.workers().await.unwrap().iter().map(|w| w.seen_ms).collect();
    assert_eq!(seen, [5, 8], "never back");
    // It signs off after the clock was set back.
    registry.worker_left(two, 7).await.unwrap();
    let left = async || registry.worker(two).await.unwrap().unwrap().has_left();
    assert!(left().await && !registry.worker(one).await.unwrap().unwrap().has_left());
    registry.workers_seen(&[(two, 9)]).await.unwrap();
    assert!(!left().await, "it is there again");
    let three = register("box 3", "ann", 9).await.unwrap();
    assert_eq!(three.0, 3, "to register again uses up no number");
}

pub(crate) async fn the_audit_log_is_read_backwards_in_pages(registry: &dyn Registry) {
    let entry = |n: i64| AuditEntry {
        number: 0,
        time_ms: n,
        account: "ann".to_owned(),
        token: "t".to_owned(),
        action: "cancel".to_owned(),
        target: format!("run {n}\0"),
        detail: "{\"a\":  1}".to_owned(),
        address: "127.0.0.1".to_owned(),
    };
    registry.audit(&[entry(1)]).await.unwrap();
    registry.audit(&[entry(2), entry(3), entry(4), entry(5)]).await.unwrap();
    registry.audit(&[]).await.unwrap();
    let newest = registry.audit_page(2, None).await.unwrap();
    let times = |page: &[AuditEntry]| page.iter().map(|e| e.time_ms).collect::<Vec<_>>();
    assert_eq!(times(&newest), [5, 4]);
    let older = registry.audit_page(10, Some(newest[1].number)).await.unwrap();
    assert_eq!(times(&older), [3, 2, 1]);
    let target = "run 1\u{fffd}".to_owned();
    assert_eq!(older[2], AuditEntry { number: older[2].number, target, ..entry(1) });
}

pub(crate) async fn the_audit_log_forgets_what_is_old_and_what_is_too_much(
    registry: &dyn Registry,
) {
    registry.forget_audit(5, 5).await.unwrap();
    let entry = |time_ms| AuditEntry { time_ms, detail: "{}".to_owned(), ..AuditEntry::default() };
    registry.audit(&(1..=9).map(entry).collect::<Vec<_>>()).await.unwrap();
    let left = async |time_ms, keep| {
        registry.forget_audit(time_ms, keep).await.unwrap();
        let page = registry.audit_page(10, None).await.unwrap();
        page.iter().map(|entry| entry.time_ms).collect::<Vec<_>>()
    };
    assert_eq!(left(3, 100).await, [9, 8, 7, 6, 5, 4, 3]);
    assert_eq!(left(3, u64::MAX).await.len(), 7);
    assert_eq!(left(0, 4).await, [9, 8, 7, 6]);
    assert!(left(10, 4).await.is_empty());
}

pub(crate) async fn machines_are_found_by_the_token_they_enrolled_with(registry: &dyn Registry) {
    let machine = |id: &str, origin: &str| Token { origin: origin.to_owned(), ..token(id, 1) };
    for token in [machine("m2", "e"), machine("m1", "e"), machine("m3", "other"), token("m4", 1)] {
        registry.add_token(&token).await.unwrap();
    }
    assert_eq!(registry.token("m1").await.unwrap(), Some(machine("m1", "e")));
    registry.revoke_token("m1", 5).await.unwrap();
    let machines = async |token| {
        let machines = registry.machines_of(token).await.unwrap().into_iter();
        machines.map(|token| (token.id, token.revoked_ms)).collect::<Vec<_>>()
    };
    assert_eq!(machines("e").await, [("m1".to_owned(), Some(5)), ("m2".to_owned(), None)]);
    assert_eq!(machines("").await, []);
}

pub(crate) async fn an_account_knows_what_it_has_uploaded(registry: &dyn Registry) {
    let upload = |account: &str, digest: &str, uploaded_ms| {
        let (account, digest) = (account.to_owned(), digest.to_owned());
        Upload { account, digest, size_bytes: 7, uploaded_ms }
    };
    let (first, second) = (upload("ann", "a", 1), upload("ann", "b", 2));
    for upload in [&first, &second, &upload("ben", "a", 3), &first] {
        registry.add_upload(upload).await.unwrap();
    }
    assert_eq!(registry.uploaded_by("ann", &["c", "b", "a"]).await.unwrap(), ["a", "b"]);
    assert_eq!(registry.uploaded_by("ben", &["a", "b"]).await.unwrap(), ["a"]);
    assert_eq!(registry.uploaded_by("eve", &["a"]).await.unwrap(), [""; 0]);
    let bytes = async |account| registry.uploaded_bytes(account).await.unwrap();
    assert_eq!((bytes("ann").await, bytes("ben").await, bytes("eve").await), (14, 7, 0));
    assert_eq!(registry.uploads().await.unwrap(), [first, second.clone(), upload("ben", "a", 3)]);
    // Uploaded again after somebody looked.
    registry.add_upload(&upload("ann", "a", 9)).await.unwrap();
    let gone = [upload("ann", "a", 1), second];
    registry.forget_uploads(&gone, 5).await.unwrap();
    assert_eq!(registry.uploaded_by("ann", &["a", "b"]).await.unwrap(), ["a"]);
    assert_eq!(registry.uploaded_by("ben", &["a"]).await.unwrap(), ["a"]);
}

fn schedule(id: &str, account: &str) -> Schedule {
    Schedule {
        id: id.to_owned(),
        account: account.to_owned(),
        cron: "0 3 * * *".to_owned(),
        zone: "Europe/Berlin".to_owned(),
        overlap: Overlap::Skip,
        catch_up: CatchUp::One,
        jitter_ms: 5,
        job: "pictor: v1\n".to_owned(),
        source_name: "nightly.yaml".to_owned(),
        out_dir: String::new(),
        paused: false,
        created_ms: 10,
        planned_ms: 20,
    }
}

pub(crate) async fn a_schedule_belongs_to_its_account(registry: &dyn Registry) {
    let nightly = schedule("nightly", "ann");
    assert!(registry.put_schedule(&nightly).await.unwrap());
    assert!(registry.put_schedule(&schedule("a", "ann")).await.unwrap());
    assert!(!registry.put_schedule(&schedule("nightly", "ben")).await.unwrap());
    assert_eq!(registry.schedule("nightly").await.unwrap(), Some(nightly.clone()));
    let later = Schedule { cron: "0 4 * * *".to_owned(), planned_ms: 30, ..nightly };
    assert!(registry.put_schedule(&later).await.unwrap());
    assert!(registry.pause_schedule("nightly", true).await.unwrap());
    assert!(!registry.pause_schedule("none", true).await.unwrap());
    let paused = Schedule { paused: true, ..later };
    assert_eq!(registry.schedules().await.unwrap(), [schedule("a", "ann"), paused]);
    assert!(registry.remove_schedule("a").await.unwrap());
    assert!(!registry.remove_schedule("a").await.unwrap());
    assert_eq!(registry.schedule("a").await.unwrap(), None);
}

fn due_time(due_ms: i64, outcome: DueOutcome) -> DueTime {
    DueTime { schedule: "nightly".to_owned(), due_ms, outcome, run: None }
}

pub(crate) async fn a_due_time_starts_one_run((store, registry): (&dyn Store, &dyn Registry)) {
    registry.put_schedule(&schedule("nightly", "ann")).await.unwrap();
    let (one, two) = (new_run("fire-1"), new_run("fire-2"));
    assert!(
        registry.record_due_time(&due_time(100, DueOutcome::Started), Some(&one)).await.unwrap()
    );
    assert!(
        !registry.record_due_time(&due_time(100, DueOutcome::Started), Some(&two)).await.unwrap()
    );
    assert!(!registry.record_due_time(&due_time(100, DueOutcome::Skipped), None).await.unwrap());
    assert_eq!(store.run("fire-2").await.unwrap(), None);
    assert_eq!(store.run("fire-1").await.unwrap().unwrap().state, RunState::Running);
    let planned = || async { registry.schedule("nightly").await.unwrap().unwrap().planned_ms };
    assert_eq!(planned().await, 100);
    let taken = registry.record_due_time(&due_time(200, DueOutcome::Started), Some(&one)).await;
    assert!(matches!(taken, Err(Error::Invalid(_))), "{taken:?}");
    assert_eq!(planned().await, 100, "nothing of it was kept");
    assert!(registry.record_due_time(&due_time(50, DueOutcome::Skipped), None).await.unwrap());
    assert_eq!(planned().await, 100, "never back");

    assert!(registry.record_due_time(&due_time(300, DueOutcome::Queued), None).await.unwrap());
    assert!(!registry.record_due_time(&due_time(300, DueOutcome::Queued), None).await.unwrap());
    assert!(
        registry.record_due_time(&due_time(300, DueOutcome::Started), Some(&two)).await.unwrap()
    );
    assert!(
        !registry
            .record_due_time(&due_time(300, DueOutcome::Started), Some(&new_run("fire-3")))
            .await
            .unwrap()
    );
    let run = |id: &str| Some(RunId(id.into()));
    let started = |due, id| DueTime { run: run(id), ..due_time(due, DueOutcome::Started) };
    let all = [started(300, "fire-2"), started(100, "fire-1"), due_time(50, DueOutcome::Skipped)];
    assert_eq!(registry.due_times("nightly", 10).await.unwrap(), all);
    assert_eq!(registry.due_times("nightly", 1).await.unwrap(), all[..1]);
    let none = registry
        .record_due_time(
            &DueTime { schedule: "none".to_owned(), ..due_time(1, DueOutcome::Skipped) },
            None,
        )
        .await;
    assert!(matches!(none, Err(Error::Invalid(_))), "{none:?}");
    assert!(registry.remove_schedule("nightly").await.unwrap());
    assert_eq!(registry.due_times("nightly", 10).await.unwrap(), []);
}

fn message(hook: &str, event: &str, next_ms: i64) -> Delivery {
    Delivery {
        hook: hook.to_owned(),
        event_id: event.to_owned(),
        body: "{}".to_owned(),
        next_ms,
        ..Delivery::default()
    }
}

fn names(due: &[Delivery]) -> Vec<String> {
    due.iter().map(|d| format!("{}{}", d.hook, d.event_id)).collect()
}

pub(crate) async fn a_message_is_due_until_it_is_delivered(registry: &dyn Registry) {
    let all = [message("h", "1", 30), message("h", "2", 10), message("h", "3", 20)];
    registry.add_deliveries(&all).await.unwrap();
    registry.add_deliveries(&all[1..]).await.unwrap();
    registry.add_deliveries(&[message("g", "1", 5)]).await.unwrap();
    registry.add_deliveries(&[]).await.unwrap();
    let due = registry.due_deliveries("h", 20, 10).await.unwrap();
    assert_eq!(names(&due), ["h2", "h3"]);
    assert_eq!(names(&registry.due_deliveries("h", 40, 1).await.unwrap()), ["h2"]);
    registry.delivery_failed(due[0].number, "refused\0", 35).await.unwrap();
    registry.delivery_done(due[1].number, 21).await.unwrap();
    registry.delivery_done(due[1].number, 22).await.unwrap();
    registry.delivery_failed(due[1].number, "late", 0).await.unwrap();
    let due = registry.due_deliveries("h", 40, 10).await.unwrap();
    assert_eq!(names(&due), ["h1", "h2"]);
    assert_eq!((due[1].attempts, due[1].next_ms), (1, 35));
    assert_eq!(due[1].error, "refused\u{fffd}");
    let last = registry.deliveries("h", 2).await.unwrap();
    assert_eq!(names(&last), ["h3", "h2"]);
    assert_eq!(last[0].done_ms, Some(21));
}

pub(crate) async fn what_is_long_over_is_forgotten((_, registry): (&dyn Store, &dyn Registry)) {
    use DueOutcome::{Queued, Skipped, Started};
    registry.put_schedule(&schedule("nightly", "ann")).await.unwrap();
    for (due, outcome) in [(10, Queued), (20, Skipped), (30, Started), (40, Queued)] {
        assert!(registry.record_due_time(&due_time(due, outcome), None).await.unwrap());
    }
    let waiting = [due_time(10, Queued), due_time(40, Queued)];
    assert_eq!(registry.queued_due_times().await.unwrap(), waiting);
    let messages = [message("h", "1", 1), message("h", "2", 100), message("h", "3", 20)];
    registry.add_deliveries(&messages).await.unwrap();
    let first = registry.deliveries("h", 1000).await.unwrap()[2].number;
    registry.delivery_done(first, 90).await.unwrap();
    assert_eq!(registry.forget_before(30).await.unwrap(), 2);
    assert_eq!(registry.forget_before(30).await.unwrap(), 0);
    let due_times = [due_time(40, Queued), due_time(30, Started), due_time(10, Queued)];
    assert_eq!(registry.due_times("nightly", 10).await.unwrap(), due_times);
    assert_eq!(names(&registry.deliveries("h", 10).await.unwrap()), ["h2", "h1"]);
}

/// Updates that leave a word which nothing understands, each by the table that it damages. A run that sleeps has
/// an end, as the table asks of one that does not run.
pub(crate) const DAMAGES: [&str; 5] = [
    "UPDATE run SET state = 'sleeping', finished_ms = 1",
    "UPDATE token SET role = 'emperor'",
    "UPDATE worker SET state = 'asleep'",
    "UPDATE schedule SET overlap = 'sometimes'",
    "UPDATE fire SET outcome = 'forgotten'",
];

/// A run, a token, a worker, a schedule and a due time that are read well.
pub(crate) async fn with_one_of_each((store, registry): (&dyn Store, &dyn Registry)) {
    registry.add_token(&token("t", 1)).await.unwrap();
    let inventory = &Inventory::default();
    let worker = NewWorker { name: "box", account: "ann", token: "t", inventory };
    registry.register_worker(&worker, 1).await.unwrap();
    registry.put_schedule(&schedule("nightly", "ann")).await.unwrap();
    let run = new_run("fired");
    assert!(
        registry.record_due_time(&due_time(100, DueOutcome::Started), Some(&run)).await.unwrap()
    );
    for read in read_each((store, registry)).await {
        read.unwrap();
    }
}

/// What is read of each table, in the order of [`DAMAGES`].
async fn read_each((store, registry): (&dyn Store, &dyn Registry)) -> [Result<(), Error>; 5] {
    let filter = RunFilter::default();
    [
        store.runs(&filter, 9, None).await.and(store.run("fired").await.map(drop)),
        registry.token("t").await.map(drop),
        registry.workers().await.and(registry.worker(WorkerId(1)).await.map(drop)),
        registry.schedules().await.and(registry.schedule("nightly").await.map(drop)),
        registry.due_times("nightly", 9).await.map(drop),
    ]
}

/// After `damaged` of [`DAMAGES`]: what they touched is said to be damaged, and nothing else.
pub(crate) async fn is_damaged(both: (&dyn Store, &dyn Registry), damaged: usize) {
    for (place, read) in read_each(both).await.into_iter().enumerate() {
        let is_corrupt = matches!(read, Err(Error::Corrupt(_)));
        assert_eq!(is_corrupt, place < damaged, "{}: {read:?}", DAMAGES[place]);
        assert_eq!(read.is_ok(), place >= damaged, "{read:?}");
    }
    // A damaged token does not hide the others.
    let listed = both.1.tokens().await.unwrap();
    let roles: Vec<_> = listed.iter().map(|token| (&*token.id, token.role)).collect();
    assert_eq!(roles, [("t", Some(TokenRole::Operator).filter(|_| damaged < 2))]);
}
