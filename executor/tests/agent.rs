//! The messages of a worker to its owner, and when it sends them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod farm;

use farm::{TestFarm, first_try, key, noop, shell, sleeper};
use pictor_executor::Intake;
use pictor_queue::ToOwner;
use pictor_tasks::message::{Outcome, Products, Try, What};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn a_hundred_thousand_noops_are_answered_in_one_report() {
    let mut farm = TestFarm::start();
    for round in 0..3 {
        let started = Instant::now();
        farm.assign(noop(None, 100_000), 0..100_000);
        let ends = farm.ended().await;
        let took = started.elapsed();
        assert_eq!(ends.len(), 100_000);
        assert!(ends.iter().zip(0..).all(|(end, index)| end.task == first_try(index)));
        eprintln!("round {round}: {} ns a task", took.as_nanos() / 100_000);
    }
    assert!(!farm.folder.path().join("data/logs").exists());
}

#[tokio::test]
async fn noops_in_bundles_of_512_keep_two_slots_busy() {
    let mut farm = TestFarm::start_with(|config| config.slots = 2);
    let started = Instant::now();
    let (mut sent, mut done) = (0, 0);
    while done < 512 * 1000 {
        while sent < done + 512 * 8 && sent < 512 * 1000 {
            farm.assign(noop(None, 512 * 1000), sent..sent + 512);
            sent += 512;
        }
        done += u32::try_from(farm.ended().await.len()).unwrap();
    }
    eprintln!("{} ns a task", started.elapsed().as_nanos() / 512_000);
}

#[tokio::test]
async fn results_are_sent_several_at_a_time_but_not_late() {
    let mut farm = TestFarm::start();
    farm.assign(noop(Some(10), 60), 0..60);
    let (mut tasks, mut reports) = (BTreeSet::new(), 0);
    while tasks.len() < 60 {
        let ends = farm.ended().await;
        tasks.extend(ends.iter().map(|end| end.task));
        reports += 1;
    }
    assert!((2..=15).contains(&reports), "{reports} reports");
    farm.assign(noop(Some(260), 2), 0..2);
    assert_eq!(farm.ended().await.len(), 1);
    assert_eq!(farm.ended().await.len(), 1);
    // The first task's result does not wait for the end of the second.
    farm.assign(shell("test {frame} = 1 || exec sleep 600"), 0..2);
    assert_eq!(farm.ended().await[0].task, first_try(0));
    farm.cancel([1]);
    assert_eq!(farm.ended().await[0].outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn what_is_held_for_long_is_claimed_once() {
    let mut farm = TestFarm::start_with(|config| config.claim_after = Duration::from_millis(100));
    farm.assign(noop(Some(400), 3), 0..3);
    let claim = farm.full_report().await;
    assert_eq!(claim.what, What::Claimed((0..3).map(first_try).collect()));
    for _ in 0..3 {
        let report = farm.full_report().await;
        assert!(matches!(report.what, What::Ended(_)), "{report:?}");
        assert_eq!(report.execution, claim.execution);
    }
}

#[tokio::test]
async fn heartbeats_list_what_is_held_running_or_waiting() {
    let mut farm = TestFarm::start_with(|config| config.heartbeat = Duration::from_millis(50));
    let ToOwner::Joined(_, inventory) = farm.message().await else { panic!("first it joins") };
    assert!(inventory.allows_commands);
    farm.assign(noop(Some(60_000), 100), 0..60);
    farm.assign(noop(Some(60_000), 100), 60..100);
    let all: BTreeSet<Try> = (0..100).map(first_try).collect();
    loop {
        if let ToOwner::Heartbeat(_, held) = farm.message().await
            && let [(step, tasks)] = &held[..]
        {
            assert_eq!(*step, key());
            if tasks.iter().copied().collect::<BTreeSet<_>>() == all {
                assert_eq!(tasks.len(), 100);
                break;
            }
        }
    }
}

#[tokio::test]
async fn what_is_delivered_twice_is_done_once() {
    let mut farm = TestFarm::start();
    farm.assign(noop(Some(20), 10), 0..4);
    farm.assign(noop(Some(20), 10), 2..6);
    farm.assign(noop(Some(20), 10), [9]);
    let mut tasks = Vec::new();
    while tasks.last() != Some(&first_try(9)) {
        tasks.extend(farm.ended().await.iter().map(|end| end.task));
    }
    assert_eq!(tasks, [0, 1, 2, 3, 4, 5, 9].map(first_try));
}

#[tokio::test]
async fn a_cancel_stops_the_running_task_and_hands_back_the_others() {
    let mut farm = TestFarm::start();
    let mut brief = shell("echo openjd_status: up; exec sleep 600");
    brief.space = noop(None, 10).space;
    farm.assign(brief.clone(), 0..5);
    assert!(matches!(farm.report().await, What::Progress { .. }));
    farm.assign(brief, 5..7);
    farm.cancel([0, 2, 3, 5, 6]);
    let (mut released, mut ended, mut started) = (Vec::new(), Vec::new(), Vec::new());
    while released.len() < 4 || ended.is_empty() || started.is_empty() {
        match farm.report().await {
            What::Released(tasks) => released.extend(tasks),
            What::Ended(ends) => ended.extend(ends),
            What::Progress { task, .. } => started.push(task),
            What::Claimed(tasks) => panic!("{tasks:?}"),
        }
    }
    assert_eq!(released, [2, 3, 5, 6].map(first_try));
    assert_eq!((ended[0].task, &ended[0].outcome), (first_try(0), &Outcome::Cancelled));
    // The bundle continues with its remaining tasks.
    assert_eq!(started, [first_try(1)]);
}

#[tokio::test]
async fn a_task_that_is_no_longer_ours_is_dropped_silently() {
    let mut farm = TestFarm::start();
    let mut brief = shell("exit 1");
    brief.has_inputs = true;
    farm.assign(brief.clone(), [0, 1]);
    brief.has_inputs = false;
    farm.assign(brief, [2]);
    assert_eq!(farm.ended().await[0].task, first_try(2));
}

#[tokio::test]
async fn a_limit_on_time_holds_for_every_kind() {
    let mut farm = TestFarm::start();
    let mut brief = noop(Some(60_000), 3);
    brief.timeout = Some(pictor_tasks::units::Millis(50));
    let failure = farm.failure(brief).await;
    let expected = "step[frame=1] ran longer than its `timeout` of 50ms and was stopped.";
    assert_eq!(failure.message, expected);
}

#[tokio::test]
async fn a_worker_that_shuts_down_hands_everything_back() {
    let mut farm = TestFarm::start();
    farm.assign(shell("echo openjd_status: up; exec sleep 600"), 0..3);
    assert!(matches!(farm.report().await, What::Progress { .. }));
    let started = Instant::now();
    farm.leave(true);
    let mut released = BTreeSet::new();
    loop {
        match farm.message().await {
            ToOwner::Report(report) => match report.what {
                What::Released(tasks) => released.extend(tasks),
                other => panic!("{other:?}"),
            },
            ToOwner::Left(_) => break,
            _ => {}
        }
    }
    assert_eq!(released, (0..3).map(first_try).collect());
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_worker_that_drains_finishes_what_runs() {
    let mut farm = TestFarm::start();
    farm.assign(shell("echo openjd_status: up; until test -e go; do :; done"), 0..3);
    assert!(matches!(farm.report().await, What::Progress { .. }));
    farm.leave(false);
    assert_eq!(farm.report().await, What::Released([1, 2].map(first_try).to_vec()));
    farm.assign(noop(None, 9), [8]);
    assert_eq!(farm.report().await, What::Released(vec![first_try(8)]));
    farm.signal("go");
    let ends = farm.ended().await;
    assert!(matches!(ends[0].outcome, Outcome::Succeeded(_)), "{ends:?}");
    while !matches!(farm.message().await, ToOwner::Left(_)) {}
}

#[tokio::test]
async fn a_worker_that_takes_no_work_hands_it_back_until_it_takes_work_again() {
    let mut farm = TestFarm::start();
    farm.assign(shell("echo openjd_status: up; until test -e go; do :; done"), 0..2);
    assert!(matches!(farm.report().await, What::Progress { .. }));
    farm.take(Intake::Finish);
    assert_eq!(farm.report().await, What::Released(vec![first_try(1)]));
    farm.assign(noop(None, 9), [8]);
    assert_eq!(farm.report().await, What::Released(vec![first_try(8)]));
    farm.signal("go");
    assert!(matches!(farm.ended().await[0].outcome, Outcome::Succeeded(_)));
    farm.take(Intake::Open);
    // Until the worker has received the instruction, tasks are handed back.
    loop {
        farm.assign(noop(None, 9), [7]);
        match farm.report().await {
            What::Released(tasks) => assert_eq!(tasks, [first_try(7)]),
            What::Ended(ends) => break assert_eq!(ends[0].task, first_try(7)),
            other => panic!("{other:?}"),
        }
    }
    // Told to hand back its running tasks, it does.
    farm.assign(shell("echo openjd_status: up; exec sleep 600"), [6]);
    assert!(matches!(farm.report().await, What::Progress { .. }));
    farm.take(Intake::HandBack);
    assert_eq!(farm.report().await, What::Released(vec![first_try(6)]));
}

#[tokio::test]
async fn a_worker_that_drains_can_be_hurried() {
    let mut farm = TestFarm::start();
    farm.assign(shell("echo openjd_status: up; exec sleep 600"), [0]);
    assert!(matches!(farm.report().await, What::Progress { .. }));
    farm.leave(false);
    farm.assign(noop(None, 9), [8]);
    assert_eq!(farm.report().await, What::Released(vec![first_try(8)]));
    let started = Instant::now();
    farm.leave(true);
    assert_eq!(farm.report().await, What::Released(vec![first_try(0)]));
    while !matches!(farm.message().await, ToOwner::Left(_)) {}
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_worker_without_an_owner_ends() {
    let mut farm = TestFarm::start();
    farm.assign(sleeper("exec sleep 600", farm.folder.path()), [0]);
    let processes = farm.sleeping().await;
    let (mut handle, folder) = farm.lose_owner();
    handle.ended().await;
    assert!(processes.iter().all(|process| farm::is_gone(process)));
    assert_eq!(std::fs::read_dir(folder.path().join("data/scratch/7/0")).unwrap().count(), 0);
}

/// The networks in the worker's next message about its inventory.
async fn joined(farm: &mut TestFarm) -> Vec<String> {
    loop {
        if let ToOwner::Joined(_, offer) = farm.message().await {
            assert!(offer.allows_commands);
            return offer.models.into_iter().collect();
        }
    }
}

#[tokio::test]
async fn a_worker_says_which_networks_it_has_when_it_gets_or_loses_one() {
    let mut folder = None;
    let mut farm = TestFarm::start_with(|config| {
        config.heartbeat = Duration::from_millis(50);
        folder = Some(config.models.clone());
    });
    let folder = folder.unwrap();
    assert_eq!(joined(&mut farm).await, [""; 0]);
    // It works meanwhile, and continues.
    farm.assign(shell("while [ ! -e gate ]; do sleep 0.05; done"), [0]);
    std::fs::create_dir_all(&folder).unwrap();
    let digest = blake3::hash(b"").to_hex();
    let manifest = |name: &str| {
        let text = format!(
            "{{\"name\": \"{name}\", \"scale\": 2, \"receptive_field\": 9, \"channels\": 3, \
             \"licence\": \"MIT\", \"digest\": \"{digest}\", \"source\": \"here\"}}"
        );
        let part = folder.join("part");
        std::fs::write(&part, text).unwrap();
        std::fs::rename(part, folder.join(format!("{name}.json"))).unwrap();
    };
    manifest("one");
    std::fs::write(folder.join("libonnxruntime.so"), "").unwrap();
    assert_eq!(joined(&mut farm).await, ["one"]);
    manifest("two");
    assert_eq!(joined(&mut farm).await, ["one", "two"]);
    std::fs::remove_file(folder.join("one.json")).unwrap();
    assert_eq!(joined(&mut farm).await, ["two"]);
    farm.signal("gate");
    assert_eq!(farm.ended().await[0].outcome, Outcome::Succeeded(Products::default()));
}
