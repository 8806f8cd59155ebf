//! Chaos: while two servers and three workers execute 2,000 tasks, every few seconds something dies, freezes or is cut
//! off. Nothing is lost, nothing succeeds twice, nothing is left behind.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod hosts;
#[path = "chaos/job.rs"]
mod job;
#[path = "chaos/storm.rs"]
mod storm;
mod support;

use hosts::TestFarm;
use hosts::history::{Attempt, attempts, count, one_success_each};
use std::time::Duration;
use support::{files, soak, until};

#[test]
fn whatever_dies_every_task_succeeds_once_and_every_output_is_there() {
    let faults = storm::sequence(Duration::from_secs(if soak() { 180 } else { 25 }));
    let mut farm = TestFarm::start_with_services(&[2, 2, 2]);
    let executed = farm.dir.shared("executed");
    let run = farm.api.submit(&job::text(&executed));
    let executions = || std::fs::read_to_string(&executed).unwrap_or_default().lines().count();
    until("programs are at work", || executions() >= 3);
    storm::rage(&mut farm, &faults, executions);
    farm.api.until_succeeded(&run);

    let ended = attempts(&farm, &run);
    assert_eq!(one_success_each(&ended).len(), job::TASKS);
    let told = |a: &&Attempt| a.outcome == 2;
    let failures: Vec<_> = ended.iter().filter(told).collect();
    assert!(failures.is_empty(), "an outage of the farm is no failure of a task: {failures:#?}");
    the_api_says_the_same(&farm, &run);
    every_output_is_there(&farm, &run, &ended);

    let owners: usize = farm.servers.iter().map(|server| server.times("owns the farm")).sum();
    farm.stop();
    until("no process is left", || farm.processes().is_empty());
    eprintln!(
        "{} faults, {owners} owners; {} attempts for {} tasks: {} wasted ({} lost, {} \
         cancelled); {} executions of {} programs",
        faults.len(),
        ended.len(),
        job::TASKS,
        ended.len() - job::TASKS,
        count(&ended, 4),
        count(&ended, 3),
        executions(),
        job::programs(),
    );
}

fn the_api_says_the_same(farm: &TestFarm, run: &str) {
    let shown = farm.api.run(run);
    assert_eq!(shown["tasks"]["succeeded"], job::TASKS, "{shown:#}");
    let tasks = farm.api.all(&format!("/v1/runs/{run}/tasks"));
    assert_eq!(tasks.len(), job::TASKS);
    assert!(tasks.iter().all(|task| task["state"] == "succeeded"));
    for task in tasks.iter().step_by(100) {
        let name = task["name"].as_str().unwrap().replace('[', "%5B").replace(']', "%5D");
        let one = farm.api.get(&format!("/v1/runs/{run}/tasks/{name}"));
        let ends = one["attempts"].as_array().unwrap().iter().map(|attempt| &attempt["state"]);
        assert_eq!(ends.filter(|end| **end == "succeeded").count(), 1, "{one:#}");
    }
}

/// Checks the digests in history, and the bytes that a user gets.
fn every_output_is_there(farm: &TestFarm, run: &str, ended: &[Attempt]) {
    let expected = job::results();
    let digest = |text: &String| blake3::hash(text.as_bytes()).to_string();
    let mut known: Vec<String> = expected.values().map(digest).collect();
    let outputs = ended.iter().flat_map(|attempt| &attempt.products.outputs);
    let mut stored: Vec<String> = outputs.map(|output| output.digest.clone()).collect();
    known.sort();
    stored.sort();
    assert_eq!(stored, known, "the digests in history");
    let out = farm.dir.path("out").display().to_string();
    farm.pictor(&["download", run, "--out", &out]).expect(0, &[]);
    let found = files(&farm.dir.path("out"));
    let same = found.iter().map(|(name, bytes)| (name, &bytes[..]));
    assert!(same.eq(expected.iter().map(|(name, text)| (name, text.as_bytes()))));
}
