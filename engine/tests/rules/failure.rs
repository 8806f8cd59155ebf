//! Failures, losses, retries and resets.

use super::bench::{Bench, failure, machine, plan, success, with_gpu};
use pictor_engine::{Config, MAX_LOSSES, RunState, TaskState};
use pictor_tasks::history::{Event, ResetTasks};
use pictor_tasks::message::{FailureKind, WorkerId};

const CHAIN: &str = "
dims: { frame: 1-2 }
retry: { attempts: 2, backoff: 0s }
steps:
  - { name: render, over: [frame], noop: {} }
  - { name: grade, over: [frame], needs: [render], noop: {} }
  - { name: encode, needs: [grade], noop: {} }
";

/// One task, and workers that hold it until they are lost.
const SINGLE: &str = "
retry: { attempts: 2, backoff: 1s }
steps: [{ name: render, noop: { duration: 1h } }]
";

#[test]
fn a_failure_for_good_skips_what_needs_it_and_the_rest_goes_on() {
    let mut bench = Bench::new(CHAIN);
    bench.fail("render[frame=1]", FailureKind::Failed);
    bench.fail("render[frame=1]", FailureKind::Failed);
    assert_eq!(bench.state("render[frame=1]"), TaskState::Failed);
    assert_eq!(bench.all(TaskState::Skipped), ["grade[frame=1]", "encode"]);
    assert_eq!(bench.reason("encode"), "needs grade[frame=1], which was skipped");
    bench.finish();
    assert_eq!(bench.state("grade[frame=2]"), TaskState::Succeeded);
    assert_eq!(bench.run_state(), RunState::Failed);
    bench.check_recovery();
}

#[test]
fn skipped_is_undone_by_a_retry() {
    let mut bench = Bench::new(CHAIN);
    bench.fail("render[frame=1]", FailureKind::Invalid);
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Failed);
    bench.reset(&["render[frame=1]"]);
    assert_eq!(bench.state("encode"), TaskState::Pending);
    assert_eq!(bench.attempt("encode"), 1, "it never began");
    assert_eq!(bench.attempt("grade[frame=2]"), 1, "it has nothing to do with it");
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Succeeded);
    bench.check_recovery();
}

#[test]
fn what_cannot_be_is_not_tried_again() {
    let mut bench = Bench::new(CHAIN);
    bench.fail("render[frame=1]", FailureKind::Invalid);
    assert_eq!(bench.state("render[frame=1]"), TaskState::Failed);
}

#[test]
fn backoff_doubles_and_ends_at_an_hour() {
    let job = "
retry: { attempts: 40, backoff: 2s }
steps: [{ name: render, noop: {} }]
";
    let mut bench = Bench::new(job);
    for pause in [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600] {
        bench.fail("render", FailureKind::Failed);
        let again = bench.now + pause * 1_000;
        assert_eq!(bench.engine.next_wake(), Some(again));
        bench.wait(pause * 1_000 - 1);
        assert_eq!(bench.held(), [] as [&str; 0], "before {pause} s");
        assert_eq!(bench.reason("render"), "tries again in 1 s after: it broke");
        bench.wait(1);
        assert_eq!(bench.held(), ["render"], "after {pause} s");
        assert_eq!(bench.engine.next_wake(), None);
    }
}

#[test]
fn a_clock_that_is_set_back_keeps_no_try_waiting_longer_than_its_pause() {
    const DAY: i64 = 24 * 3_600_000;
    let job = "
retry: { attempts: 9, backoff: 5s }
steps: [{ name: render, noop: {} }]
";
    let mut bench = Bench::new(job);
    bench.wait(2 * DAY);
    bench.fail("render", FailureKind::Failed);
    // The clock is set back while it waits, and between a start and a failure.
    bench.now -= DAY;
    bench.engine.set_back(bench.now);
    assert_eq!(bench.engine.next_wake(), Some(bench.now + 5_000));
    bench.wait(5_000);
    assert_eq!(bench.held(), ["render"]);
    bench.fail("render", FailureKind::Failed);
    assert_eq!(bench.reason("render"), "tries again in 10 s after: it broke");
    bench.wait(10_000);
    assert_eq!(bench.held(), ["render"]);
    // The worker is missed as soon as usual, although its last sign of life is in the future.
    let given = bench.given("render");
    bench.claim(WorkerId(1), &given);
    bench.now -= 3_600_000;
    bench.engine.set_back(bench.now);
    bench.now += 60_001;
    bench.tick();
    assert_eq!(bench.state("render"), TaskState::Ready, "its lease has ended");
    assert_eq!(bench.engine.silent_workers(bench.now).count(), 1);
    // A new owner reads history with times in the future.
    bench.join(1, machine(1));
    bench.turn();
    bench.fail("render", FailureKind::Failed);
    let mut folded = pictor_engine::Run::new(bench.run().id().clone(), plan(job).into());
    for row in bench.rows.clone() {
        folded.apply(&row).unwrap();
    }
    let mut engine = pictor_engine::Engine::new(Config::default());
    engine.add_run(folded, "me".into(), 0, bench.now);
    assert_eq!(engine.next_wake(), Some(bench.now + 20_000));
}

#[test]
fn a_failure_of_an_unassigned_task_makes_it_wait_like_any_other() {
    let job = "
retry: { attempts: 3, backoff: 10s }
steps: [{ name: render, noop: {} }]
";
    let mut bench = Bench::new(job);
    let given = bench.given("render");
    bench.wait(29_000);
    bench.join(2, machine(1));
    bench.now += 2_000;
    let mut fx = pictor_engine::Effects::default();
    bench.engine.tick(bench.now, &mut fx);
    assert_eq!(bench.state("render"), TaskState::Ready, "its deadline has passed");
    bench.end(&given, failure(FailureKind::Failed));
    bench.turn();
    assert_eq!(bench.held(), [] as [&str; 0]);
    bench.wait(10_000);
    assert_eq!(bench.held(), ["render"]);
}

#[test]
fn losses_and_resets_do_not_use_up_attempts() {
    let mut bench = Bench::without_workers(SINGLE, Config::default());
    bench.join(1, machine(1));
    bench.join(2, machine(1));
    bench.turn();
    for attempt in 1..=3 {
        let given = bench.given("render");
        assert_eq!(given.task.attempt, attempt);
        bench.claim(given.worker, &given);
        bench.given.clear();
        bench.wait(60_001);
    }
    bench.reset(&["render"]);
    bench.fail("render", FailureKind::Failed);
    bench.wait(1_000);
    bench.reset(&["render"]);
    bench.fail("render", FailureKind::Failed);
    assert_eq!(bench.state("render"), TaskState::Ready, "one failure after the reset");
    bench.wait(1_000);
    bench.fail("render", FailureKind::Failed);
    assert_eq!(bench.state("render"), TaskState::Failed, "two failures");
    bench.check_recovery();
}

#[test]
fn five_losses_fail_the_task() {
    let mut bench = Bench::without_workers(SINGLE, Config::default());
    bench.join(1, machine(1));
    bench.turn();
    for _ in 0..MAX_LOSSES {
        let given = bench.given("render");
        assert_eq!(bench.claim(given.worker, &given), 0);
        bench.given.clear();
        bench.wait(60_001);
    }
    assert_eq!(bench.state("render"), TaskState::Failed);
    assert_eq!(bench.reason("render"), "its worker was lost");
    bench.check_recovery();
}

#[test]
fn out_of_memory_goes_to_a_larger_gpu_and_uses_up_no_attempt() {
    let job = "
retry: { attempts: 1, backoff: 0s }
steps: [{ name: render, requires: { gpu: {} }, noop: {} }]
";
    let mut bench = Bench::without_workers(job, Config::default());
    for (id, vram) in [(1, 8), (2, 8), (3, 24)] {
        bench.join(id, with_gpu(1, vram));
    }
    bench.turn();
    assert_eq!(bench.given("render").worker, WorkerId(1));
    bench.fail("render", FailureKind::OutOfMemory);
    assert_eq!(bench.given("render").worker, WorkerId(3), "8 GiB are too little elsewhere as well");
    bench.fail("render", FailureKind::OutOfMemory);
    assert_eq!(bench.state("render"), TaskState::Failed, "no GPU is larger");
    assert_eq!(bench.reason("render"), "it broke (no worker has a GPU with more memory)");
    bench.check_recovery();
}

#[test]
fn what_a_worker_does_not_support_is_tried_elsewhere_if_there_is_an_elsewhere() {
    let job = "
retry: { attempts: 3, backoff: 0s }
steps: [{ name: render, noop: {} }]
";
    let mut bench = Bench::without_workers(job, Config::default());
    bench.join(1, machine(1));
    bench.join(2, machine(1));
    bench.turn();
    bench.fail("render", FailureKind::Unsupported);
    assert_eq!(bench.given("render").worker, WorkerId(2));
    bench.fail("render", FailureKind::Unsupported);
    assert_eq!(bench.state("render"), TaskState::Failed, "nobody is left");
}

#[test]
fn a_failure_stops_the_run_if_the_job_says_so() {
    let mut bench = Bench::new(&format!("on_failure: stop\n{CHAIN}"));
    bench.fail("render[frame=1]", FailureKind::Invalid);
    assert_eq!(bench.run_state(), RunState::Failed);
    assert_eq!(bench.state("render[frame=2]"), TaskState::Cancelled);
    assert_eq!(bench.reason("render[frame=2]"), "given up after another task failed");
    assert_eq!(bench.cancelled.len(), 1, "its worker is told");
    bench.check_recovery();
}

#[test]
fn the_run_stops_at_its_limit_of_failures() {
    let job = "
dims: { frame: 1-4 }
max_failures: 2
steps: [{ name: render, over: [frame], noop: {} }]
";
    let mut bench = Bench::new(job);
    bench.fail("render[frame=1]", FailureKind::Invalid);
    assert_eq!(bench.run_state(), RunState::Running);
    bench.fail("render[frame=2]", FailureKind::Invalid);
    assert_eq!(bench.run_state(), RunState::Failed);
    assert_eq!(bench.all(TaskState::Cancelled).len(), 2);
}

#[test]
fn reset_cancels_running_descendants_and_reopens_exactly_what_depends() {
    let mut bench = Bench::new(CHAIN);
    for name in ["render[frame=1]", "render[frame=2]", "grade[frame=2]"] {
        bench.succeed(name);
    }
    let running = bench.given("grade[frame=1]");
    bench.claim(running.worker, &running);
    bench.reset(&["render[frame=1]"]);
    assert_eq!(bench.cancelled.len(), 1);
    let (worker, cancel) = &bench.cancelled[0];
    assert_eq!((*worker, &cancel.tasks[..]), (running.worker, &[running.task][..]));
    assert_eq!(bench.attempt("render[frame=1]"), 2);
    assert_eq!(bench.attempt("grade[frame=1]"), 2);
    assert_eq!(bench.state("grade[frame=1]"), TaskState::Pending);
    assert_eq!(bench.state("grade[frame=2]"), TaskState::Succeeded);
    assert_eq!(bench.end(&running, success()), 1, "stale");
    bench.check_recovery();
}

#[test]
fn a_reset_counts_what_was_assigned_and_what_was_ready_alike() {
    let job = "
dims: { frame: 1-2 }
steps:
  - { name: render, over: [frame], noop: { duration: 1h } }
  - { name: grade, over: [frame], needs: [render], noop: { duration: 1h } }
";
    // One slot: one `grade` is assigned, the other one is ready. In history they do not differ.
    let mut bench = Bench::without_workers(job, Config::default());
    bench.join(1, machine(1));
    bench.turn();
    bench.succeed("render[frame=1]");
    let given = bench.given.clone();
    bench.end_by(WorkerId(7), &given[0], success());
    bench.turn();
    for name in ["render[frame=1]", "render[frame=2]"] {
        if bench.state(name) != TaskState::Succeeded {
            bench.succeed(name);
        }
    }
    bench.control(Event::Reset(vec![ResetTasks { step: 0, tasks: vec![] }]));
    bench.check_recovery();
}

#[test]
fn a_reset_after_a_cancel_brings_back_what_it_names_and_the_run_stays_cancelled() {
    let job = "
steps:
  - { name: one, noop: {} }
  - { name: other, noop: {} }
";
    let mut bench = Bench::new(job);
    bench.control(Event::Cancelled);
    assert_eq!(bench.run_state(), RunState::Cancelled);
    assert_eq!(bench.all(TaskState::Cancelled).len(), 2);
    bench.given.clear();
    bench.reset(&["one"]);
    assert_eq!(bench.run_state(), RunState::Running);
    bench.finish();
    assert_eq!(bench.state("other"), TaskState::Cancelled);
    assert_eq!(bench.run_state(), RunState::Cancelled, "not everything was done");
    bench.reset(&["other"]);
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Succeeded);
    bench.check_recovery();
}

#[test]
fn cancelling_a_run_that_is_over_changes_nothing() {
    let mut bench = Bench::new("steps: [{ name: one, noop: {} }]");
    bench.finish();
    bench.control(Event::Cancelled);
    assert_eq!(bench.run_state(), RunState::Succeeded);
}
