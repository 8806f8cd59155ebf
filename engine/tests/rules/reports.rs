//! Which reports count: attempts, claims, leases, publications, takeovers.

use super::bench::{Bench, failure, machine, success};
use pictor_engine::{Config, Effects, Engine, Run, RunState, TaskState};
use pictor_tasks::history::{Event, Fact};
use pictor_tasks::message::{
    Execution, Failure, FailureKind, Outcome, Output, Products, Report, TaskId, What, WorkerId,
};

use pictor_tasks::worker::Inventory;

const JOB: &str = "
retry: { attempts: 5, backoff: 0s }
steps: [{ name: render, noop: { duration: 1h } }, { name: encode, needs: [render], noop: {} }]
";
const ONE: WorkerId = WorkerId(1);
const TWO: WorkerId = WorkerId(2);

fn two_workers() -> Bench {
    let mut bench = Bench::without_workers(JOB, Config::default());
    bench.join(1, machine(1));
    bench.join(2, machine(1));
    bench.turn();
    bench
}

#[test]
fn first_valid_result_wins_before_a_claim() {
    let mut bench = two_workers();
    let given = bench.given("render");
    assert_eq!(given.worker, ONE);
    assert_eq!(bench.end_by(TWO, &given, success()), 0, "from an earlier publication");
    assert_eq!(bench.state("render"), TaskState::Succeeded);
    assert_eq!(bench.cancelled[0].0, ONE, "the other one is told to stop");
    assert_eq!(bench.end_by(ONE, &given, success()), 1, "the second result is stale");
    assert_eq!(bench.rows.len(), 1);
    bench.check_recovery();
}

#[test]
fn only_the_claimer_counts_after_a_claim() {
    let mut bench = two_workers();
    let given = bench.given("render");
    bench.claim(ONE, &given);
    assert_eq!(bench.state("render"), TaskState::Running);
    assert_eq!(bench.end_by(TWO, &given, success()), 1);
    assert_eq!(bench.end_by(TWO, &given, failure(FailureKind::Failed)), 1);
    assert_eq!(bench.state("render"), TaskState::Running);
    assert_eq!(bench.end_by(ONE, &given, success()), 0);
    assert_eq!(bench.state("render"), TaskState::Succeeded);
}

#[test]
fn second_claimer_is_told_to_stop() {
    let mut bench = two_workers();
    let given = bench.given("render");
    assert_eq!(bench.claim(ONE, &given), 0);
    assert_eq!(bench.claim(ONE, &given), 0, "the same claim again");
    assert_eq!(bench.claim(TWO, &given), 1);
    let (worker, cancel) = bench.cancelled.last().unwrap();
    assert_eq!((*worker, &cancel.tasks[..]), (TWO, &[given.task][..]));
    assert_eq!(bench.rows.len(), 1, "one claim");
}

#[test]
fn what_was_never_started_is_handed_back_under_the_same_attempt() {
    let mut bench = two_workers();
    let given = bench.given("render");
    bench.report(ONE, &given, What::Released(vec![given.task]));
    assert_eq!(bench.rows, [], "no history");
    bench.turn();
    assert_eq!(bench.given("render").task.attempt, 1);
}

#[test]
fn handing_back_another_copy_does_not_end_the_claimed_one() {
    let mut bench = two_workers();
    let given = bench.given("render");
    bench.claim(ONE, &given);
    let copy = Report {
        worker: ONE,
        key: given.assignment.key.clone(),
        execution: Execution(99),
        what: What::Released(vec![given.task]),
    };
    bench.engine.report(copy, bench.now, &mut Effects::default());
    assert_eq!(bench.state("render"), TaskState::Running);
}

#[test]
fn giving_up_counts_only_from_the_worker_that_has_the_task() {
    let mut bench = two_workers();
    let given = bench.given("render");
    assert_eq!(bench.end_by(TWO, &given, Outcome::Cancelled), 1);
    assert_eq!(bench.end_by(ONE, &given, Outcome::Lost), 1, "a worker cannot say that it is lost");
    assert_eq!(bench.end_by(ONE, &given, Outcome::Cancelled), 0);
    assert_eq!(bench.attempt("render"), 2);
}

#[test]
fn a_stale_report_never_cancels_a_pending_publish() {
    let mut bench = two_workers();
    let first = bench.given("render");
    bench.end(&first, failure(FailureKind::Failed));
    let mut fx = Effects::default();
    bench.engine.assign(bench.now, &mut fx);
    let (worker, second) = fx.assign.pop().unwrap();
    // It is on its way to a worker when the first attempt reports again.
    assert_eq!(bench.end_by(first.worker, &first, failure(FailureKind::Failed)), 1);
    bench.report(first.worker, &first, What::Released(vec![first.task]));
    bench.engine.published(second.id, true, &mut Effects::default());
    assert_eq!(bench.state("render"), TaskState::Queued);
    assert_eq!(second.tasks[0].attempt, 2);
    assert_ne!(worker, first.worker);
}

#[test]
fn an_unconfirmed_publish_stays_ready() {
    let mut bench = Bench::without_workers(JOB, Config::default());
    bench.confirms = false;
    bench.join(1, machine(1));
    bench.turn();
    assert_eq!(bench.state("render"), TaskState::Ready);
    let given = bench.given("render");
    bench.confirms = true;
    bench.turn();
    assert_eq!(bench.state("render"), TaskState::Queued);
    assert_eq!(bench.end(&given, success()), 0, "it had arrived all the same");
    assert_eq!(bench.state("render"), TaskState::Succeeded);
}

#[test]
fn a_deadline_republishes_under_the_same_attempt() {
    let mut bench = two_workers();
    let first = bench.given("render");
    bench.wait(30_000);
    assert_eq!(bench.held().len(), 1);
    bench.wait(1);
    let second = bench.given("render");
    assert_ne!(first.assignment.id, second.assignment.id);
    assert_eq!(first.task, second.task);
    assert_eq!(bench.rows, [], "no history");
}

#[test]
fn a_heartbeat_that_lists_a_task_holds_its_deadline_and_its_lease() {
    let mut bench = two_workers();
    let given = bench.given("render");
    let holding = [(given.assignment.key.clone(), vec![given.task])];
    for _ in 0..10 {
        bench.now += 20_000;
        let mut fx = Effects::default();
        bench.engine.heartbeat(ONE, &holding, bench.now, &mut fx);
        bench.engine.tick(bench.now, &mut fx);
        bench.engine.assign(bench.now, &mut fx);
        assert!(fx.assign.is_empty() && fx.cancel.is_empty());
    }
    bench.claim(ONE, &given);
    bench.now += 59_000;
    bench.engine.heartbeat(ONE, &holding, bench.now, &mut Effects::default());
    bench.now += 59_000;
    bench.engine.tick(bench.now, &mut Effects::default());
    assert_eq!(bench.state("render"), TaskState::Running);
    bench.now += 2_000;
    bench.engine.tick(bench.now, &mut Effects::default());
    assert_eq!(bench.attempt("render"), 2, "lost");
}

#[test]
fn a_heartbeat_with_a_task_of_somebody_else_is_answered_with_a_cancel() {
    let mut bench = two_workers();
    let given = bench.given("render");
    let holding = [(given.assignment.key.clone(), vec![given.task])];
    let mut fx = Effects::default();
    bench.engine.heartbeat(TWO, &holding, bench.now, &mut fx);
    assert_eq!((fx.cancel.len(), fx.cancel[0].0), (1, TWO));
}

#[test]
fn a_worker_that_comes_back_late_finds_its_attempt_stale() {
    let mut bench = two_workers();
    let given = bench.given("render");
    bench.claim(ONE, &given);
    bench.wait(60_001);
    assert_eq!(bench.given("render").worker, TWO, "not where it was lost");
    assert_eq!(bench.end_by(ONE, &given, success()), 1);
    assert!(matches!(&bench.rows[1].fact, Fact::Ended(end) if end.outcome == Outcome::Lost));
}

#[test]
fn a_worker_that_leaves_gives_everything_back() {
    let mut bench = two_workers();
    let given = bench.given("render");
    bench.claim(ONE, &given);
    let mut fx = Effects::default();
    bench.engine.leave(ONE, bench.now, &mut fx);
    bench.take(fx);
    bench.turn();
    assert_eq!(bench.given("render").worker, TWO);
    assert_eq!(bench.attempt("render"), 2);
}

#[test]
fn the_same_control_twice_changes_nothing() {
    let mut bench = two_workers();
    assert!(bench.control_with_id(7, Event::Paused));
    assert!(bench.control_with_id(8, Event::Resumed));
    assert!(!bench.control_with_id(7, Event::Paused));
    assert_eq!(bench.run_state(), RunState::Running);
    assert_eq!(bench.rows.len(), 2);
}

#[test]
fn time_in_history_never_goes_backwards() {
    let mut bench = two_workers();
    bench.control(Event::Paused);
    bench.now -= 500;
    bench.control(Event::Resumed);
    assert_eq!(bench.rows[1].time_ms, bench.rows[0].time_ms);
}

/// Replaces the engine by one that another server builds from the rows.
fn take_over(bench: &mut Bench) {
    let mut run = Run::new(bench.run.clone(), bench.run().plan().clone());
    bench.rows.iter().for_each(|row| drop(run.apply(row).unwrap()));
    bench.engine = Engine::new(Config::default());
    bench.engine.add_run(run, "me".into(), 0, bench.now);
}

#[test]
fn after_a_takeover_claims_stand_and_their_workers_have_no_room() {
    let mut bench = two_workers();
    let given = bench.given("render");
    bench.claim(ONE, &given);
    take_over(&mut bench);
    assert_eq!(bench.state("render"), TaskState::Running);
    bench.now += 59_000;
    bench.engine.tick(bench.now, &mut Effects::default());
    assert_eq!(bench.state("render"), TaskState::Running, "its lease began anew");
    assert_eq!(bench.end(&given, success()), 0);
}

#[test]
fn after_a_takeover_a_heartbeat_keeps_what_was_not_claimed() {
    let mut bench = two_workers();
    let given = bench.given("render");
    take_over(&mut bench);
    bench.join(1, machine(1));
    bench.join(2, machine(1));
    let holding = [(given.assignment.key.clone(), vec![given.task])];
    let mut fx = Effects::default();
    bench.engine.heartbeat(TWO, &holding, bench.now, &mut fx);
    bench.engine.assign(bench.now, &mut fx);
    assert!(fx.cancel.is_empty() && fx.assign.is_empty(), "it is with the second worker");
    assert_eq!(bench.claim(TWO, &given), 0);
}

#[test]
fn a_heartbeat_adopts_nothing_without_proof_or_what_its_worker_cannot_do() {
    let job = "steps: [{ name: render, command: { run: [sh] } }]";
    let mut bench = Bench::without_workers(job, Config::default());
    bench.join(1, machine(1));
    bench.turn();
    let given = bench.given("render");
    take_over(&mut bench);
    bench.join(2, machine(1));
    let holding = [(given.assignment.key.clone(), vec![given.task])];
    let mut fx = Effects::default();
    bench.engine.unproven(TWO, &holding, bench.now, &mut fx);
    assert_eq!((fx.cancel.len(), bench.state("render")), (1, TaskState::Ready));
    bench.join(3, Inventory { allows_commands: false, ..machine(1) });
    bench.engine.heartbeat(WorkerId(3), &holding, bench.now, &mut fx);
    assert_eq!((fx.cancel.len(), bench.state("render")), (2, TaskState::Ready));
    bench.engine.heartbeat(TWO, &holding, bench.now, &mut fx);
    assert_eq!((fx.cancel.len(), bench.state("render")), (2, TaskState::Queued));
    // What it has it keeps, with proof or without.
    bench.engine.unproven(TWO, &holding, bench.now, &mut fx);
    assert_eq!((fx.cancel.len(), bench.state("render")), (2, TaskState::Queued));
}

#[test]
fn texts_of_a_worker_have_a_limit() {
    let mut bench = two_workers();
    let given = bench.given("render");
    let failure = Failure { kind: FailureKind::Failed, message: "ä".repeat(1 << 20) };
    bench.end(&given, Outcome::Failed(failure));
    let Some(Fact::Ended(ended)) = bench.rows.last().map(|row| &row.fact) else { panic!() };
    let Outcome::Failed(failure) = &ended.outcome else { panic!() };
    assert!(failure.message.ends_with("ä…") && failure.message.len() < 17 << 10);
}

#[test]
fn no_lease_expires_through_an_outage_of_ours() {
    let mut bench = two_workers();
    let given = bench.given("render");
    bench.claim(ONE, &given);
    bench.now += 3_600_000;
    bench.engine.extend_leases(3_599_000, bench.now);
    bench.engine.tick(bench.now, &mut Effects::default());
    assert_eq!(bench.state("render"), TaskState::Running);
    assert_eq!(bench.engine.silent_workers(bench.now).count(), 0);
    bench.now += 61_000;
    let silent: Vec<WorkerId> = bench.engine.silent_workers(bench.now).collect();
    assert_eq!(silent, [ONE, TWO]);
    bench.engine.extend_leases(10_000, bench.now);
    let still: Vec<WorkerId> = bench.engine.silent_workers(bench.now).collect();
    assert_eq!(still, [] as [WorkerId; 0], "they may have fallen silent only in the outage");
    bench.now += 120_000;
    bench.engine.extend_leases(10_000, bench.now);
    assert_eq!(bench.engine.silent_workers(bench.now).count(), 2, "they were silent before it");
}

fn leaving(names: &[&str]) -> Outcome {
    let output = |name: &&str| Output {
        name: (*name).to_owned(),
        key: format!("runs/run/{name}"),
        digest: String::new(),
        size_bytes: 1,
    };
    Outcome::Succeeded(Products {
        outputs: names.iter().map(output).collect(),
        ..Products::default()
    })
}

#[test]
fn outputs_may_be_files_of_folders_and_lead_nowhere_else() {
    for bad in [&["files/../../etc/passwd"][..], &["/etc/passwd"], &["files/a", "files/a"]] {
        let mut bench = two_workers();
        let given = bench.given("render");
        bench.end(&given, leaving(bad));
        assert_eq!(bench.run().outputs(TaskId { step: 0, index: 0 }), None, "{bad:?}");
        assert!(
            bench.run().failure(TaskId { step: 0, index: 0 }).contains("output"),
            "{}",
            bench.run().failure(TaskId { step: 0, index: 0 })
        );
    }
    let mut bench = two_workers();
    let given = bench.given("render");
    bench.end(&given, leaving(&["image", "files/a/0001.exr", "files/b.exr"]));
    assert_eq!(bench.run().outputs(TaskId { step: 0, index: 0 }).unwrap().1.len(), 3);
    bench.check_recovery();
}
