//! One fault at a time: a crash, a loss or a forgery changes nothing about what has been done.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::disallowed_methods, reason = "what runs here has real time limits")]

mod hosts;
mod support;

use hosts::TestFarm;
use hosts::daemon::Daemon;
use hosts::history::{attempts, claims, count, created_ms, one_success_each, rejected};
use pictor_tasks::message::{Execution, Outcome, Products, Report, RunId, StepKey, TaskEnd};
use pictor_tasks::message::{Try, What, WorkerId};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value as Json, json};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{render_job, soak, until};

/// The number of lines in a file to which every execution of a task appends one.
fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

/// Programs of a step over `i` that each append a line to the file `executed` and continue once `gate` exists.
fn gated(farm: &TestFarm, count: u32) -> String {
    let path = |name| farm.dir.shared(name).display().to_string();
    format!(
        "pictor: v1\nname: gated\ndims: {{ i: {{ count: {count} }} }}\nsteps:\n- name: wait\n  \
         over: [i]\n  command: {{ run: [sh, -c, 'echo >> {}; while [ ! -e {} ]; do sleep 0.05; \
         done'] }}\n",
        path("executed"),
        path("gate"),
    )
}

fn open_gate(farm: &TestFarm) {
    farm.dir.write("shared/gate", "");
}

/// Programs that take this long each.
fn sleepers(farm: &TestFarm, count: u32, seconds: &str) -> String {
    let executed = farm.dir.shared("executed").display().to_string();
    format!(
        "pictor: v1\nname: sleepers\ndims: {{ i: {{ count: {count} }} }}\nsteps:\n- name: sleep\n  \
         over: [i]\n  command: {{ run: [sh, -c, 'echo >> {executed}; exec sleep {seconds}'] }}\n"
    )
}

/// Puts a message into the reports queue, as an intruder with access to the broker could.
fn smuggle(farm: &TestFarm, payload: &str) {
    let body = json!({
        "properties": {}, "routing_key": "pictor.reports", "payload": payload,
        "payload_encoding": "string",
    });
    let answer = farm.manage("POST", "exchanges/VHOST/pictor.reports/publish", &body.to_string());
    assert!(answer.contains("\"routed\":true"), "{answer}");
}

/// Waits until a queue holds messages that nobody has consumed, and discards them.
fn purge(farm: &TestFarm, queue: &str) {
    until("messages wait", || {
        let told = farm.manage("GET", &format!("queues/VHOST/{queue}"), "");
        let told: Json = serde_json::from_str(&told).unwrap();
        told["messages_ready"].as_u64().unwrap_or(0) > 0
    });
    farm.manage("DELETE", &format!("queues/VHOST/{queue}/contents"), "");
}

#[test]
fn a_broker_that_is_purged_loses_nothing() {
    let mut farm = TestFarm::start(&[2, 2]);
    let run = farm.api.submit(&sleepers(&farm, 80, "0.2"));
    let executed = farm.dir.shared("executed");
    until("work has begun", || lines(&executed) >= 8);
    // Assignments that a worker had not received.
    farm.workers[0].kill9();
    purge(&farm, "pictor.worker.1");
    farm.workers[0].start();
    // Reports that workers consider delivered.
    farm.servers.iter_mut().for_each(Daemon::kill9);
    purge(&farm, "pictor.reports");
    farm.servers.iter_mut().for_each(Daemon::start);
    farm.api.until_succeeded(&run);
    assert_eq!(one_success_each(&attempts(&farm, &run)).len(), 80);
    // A worker that has nothing more to do ends even if no server receives its messages, long before its drain timeout.
    farm.servers.iter_mut().for_each(Daemon::kill9);
    farm.workers[0].stop();
}

#[test]
fn a_database_that_is_away_costs_no_task_and_no_lease() {
    let mut farm = TestFarm::start_with_services(&[2, 2]);
    let away = Duration::from_secs(if soak() { 60 } else { 15 });
    // Some are claimed and outlast the lease; some end while nobody can record that.
    let run = farm.api.submit(&sleepers(&farm, 8, "9"));
    let short = farm.api.submit(&sleepers(&farm, 40, "0.2"));
    let executed = farm.dir.shared("executed");
    until("work has begun", || lines(&executed) > 8);
    let standby = 1 - farm.owner().unwrap().0;
    farm.services.postgres.kill9();
    // A server that is started meanwhile waits.
    farm.servers[standby].kill9();
    farm.servers[standby].start();
    std::thread::sleep(away);
    farm.services.database.inside(|| farm.services.postgres.start_again());
    for (run, tasks) in [(&run, 8), (&short, 40)] {
        farm.api.until_succeeded(run);
        let ended = attempts(&farm, run);
        assert_eq!(one_success_each(&ended).len(), tasks);
        assert_eq!(ended.len(), tasks, "no attempt was lost: {ended:?}");
    }
    assert_eq!(lines(&executed), 48, "nothing was executed twice");
    until("the server that was started meanwhile answers", || {
        let asked = farm.api.ask(standby, Method::GET, &format!("/v1/runs/{run}"), None);
        asked.is_some_and(|(status, text)| status.is_success() && text.contains("succeeded"))
    });
}

#[test]
fn a_broker_that_is_away_costs_no_task_and_no_lease() {
    let farm = TestFarm::start_with_services(&[2, 2]);
    let run = farm.api.submit(&sleepers(&farm, 12, "7"));
    let executed = farm.dir.shared("executed");
    until("work has begun", || lines(&executed) >= 4);
    let rabbit = &farm.services.rabbit;
    rabbit.kill9();
    std::thread::sleep(Duration::from_secs(if soak() { 60 } else { 12 }));
    farm.services.broker.inside(|| rabbit.start_again());
    farm.api.until_succeeded(&run);
    let ended = attempts(&farm, &run);
    assert_eq!(one_success_each(&ended).len(), 12);
    assert_eq!(ended.len(), 12, "no attempt was lost: {ended:?}");
}

#[test]
fn what_cannot_be_read_is_kept_and_forged_reports_are_refused_and_counted() {
    let farm = TestFarm::start(&[1, 1]);
    let run = farm.api.submit(&gated(&farm, 2));
    let executed = farm.dir.shared("executed");
    until("both run", || lines(&executed) == 2);
    let end = |index| TaskEnd {
        task: Try { index, attempt: 1 },
        started_ms: 1,
        took_ms: 1,
        outcome: Outcome::Succeeded(Products::default()),
    };
    let report = |worker, index| {
        let key = StepKey { run: RunId(run.as_str().into()), step: 0, generation: 0 };
        let what = What::Ended(vec![end(index)]);
        json!(Report { worker: WorkerId(worker), key, execution: Execution(7), what })
    };
    let forged = format!("1-{}", "0".repeat(32));
    let said = |message: Json, tickets: Json| {
        json!({ "report": { "message": message, "tickets": tickets } }).to_string()
    };
    let before = farm.api.metric("pictor_rejected_messages_total");
    smuggle(&farm, "{ this is no message");
    // Whichever of the two has the task: one of these is in its name, one in the other's.
    smuggle(&farm, &said(report(1, 0), json!([forged])));
    smuggle(&farm, &said(report(2, 0), json!([forged])));
    smuggle(&farm, &said(report(1, 0), json!([])));
    until("all four are kept", || rejected(&farm).len() == 4);
    let reasons = rejected(&farm);
    assert_eq!(reasons[0].1, b"{ this is no message");
    assert!(reasons[0].0.contains("cannot be read"), "{}", reasons[0].0);
    assert!(reasons[1].0.contains("ticket is not valid"), "{}", reasons[1].0);
    assert!(reasons[2].0.contains("ticket is not valid"), "{}", reasons[2].0);
    assert!(reasons[3].0.contains("0 tickets"), "{}", reasons[3].0);
    assert!((farm.api.metric("pictor_rejected_messages_total") - before - 4.0).abs() < 0.5);
    assert!(attempts(&farm, &run).is_empty());
    // Later reports are not delayed.
    open_gate(&farm);
    farm.api.until_succeeded(&run);
    assert_eq!(attempts(&farm, &run).len(), 2);
    assert_eq!(rejected(&farm).len(), 4);
}

#[test]
fn a_worker_that_was_frozen_for_longer_than_its_lease_changes_nothing_when_it_wakes() {
    let mut farm = TestFarm::start(&[1]);
    let run = farm.api.submit(&gated(&farm, 1));
    let executed = farm.dir.shared("executed");
    until("it is claimed", || claims(&farm, &run) == 1);
    farm.workers[0].signal(Signal::STOP);
    farm.add_worker(1);
    until("its lease ends and the other one has the task", || lines(&executed) == 2);
    open_gate(&farm);
    farm.api.until_succeeded(&run);
    let before = format!("{:?}", attempts(&farm, &run));
    farm.workers[0].signal(Signal::CONT);
    // By the time it gets new work it has abandoned its execution, or its report of it was rejected.
    let next = farm.api.submit(&sleepers(&farm, 2, "3"));
    farm.api.until_succeeded(&next);
    let workers = attempts(&farm, &next).iter().map(|a| a.worker).collect::<Vec<_>>();
    assert!(workers.contains(&1) && workers.contains(&2), "{workers:?}");
    let ended = attempts(&farm, &run);
    assert_eq!(format!("{ended:?}"), before);
    assert_eq!((count(&ended, 4), count(&ended, 1), ended.len()), (1, 1, 2));
}

#[test]
fn an_owner_that_was_frozen_cannot_write_when_it_wakes() {
    let farm = TestFarm::start(&[2]);
    let run = farm.api.submit(&sleepers(&farm, 60, "0.5"));
    let executed = farm.dir.shared("executed");
    until("work has begun", || lines(&executed) > 4);
    let (first, epoch) = farm.owner().unwrap();
    farm.servers[first].signal(Signal::STOP);
    let second = || farm.owner().filter(|owner| owner.0 == 1 - first && owner.1 > epoch);
    until("the other server takes over", || second().is_some());
    let second = second();
    let known = lines(&executed);
    until("work goes on", || lines(&executed) > known + 4);
    farm.servers[first].signal(Signal::CONT);
    farm.api.until_succeeded(&run);
    let ended = attempts(&farm, &run);
    assert_eq!(one_success_each(&ended).len(), 60);
    assert_eq!(farm.owner(), second, "it did not come back as the owner");
    // It has noticed, stands by, and answers by forwarding to the owner.
    until("it stands by", || {
        let asked = farm.api.ask(first, Method::GET, &format!("/v1/runs/{run}"), None);
        asked.is_some_and(|(status, text)| status.is_success() && text.contains("succeeded"))
    });
}

#[test]
fn a_second_machine_of_a_name_is_refused_and_the_first_does_not_notice() {
    let mut farm = TestFarm::start(&[1]);
    let run = farm.api.submit(&sleepers(&farm, 8, "4"));
    until("work has begun", || lines(&farm.dir.shared("executed")) > 0);
    // Another machine of the same name, and one that is a copy of the first with all its data.
    let mut copy = Command::new("cp");
    copy.arg("-r").args([farm.dir.path("worker-1"), farm.dir.path("copy")]);
    assert!(copy.status().unwrap().success());
    let path = farm.dir.path("programs");
    let mut others =
        ["another", "copy"].map(|data| farm.worker(("worker-1", data), 1, path.as_os_str()));
    for other in &mut others {
        other.start();
        other.fails();
        let why = "the name `worker-1` is in use by worker 1, a machine heard of";
        assert_eq!(
            (other.times(why) > 1, other.times("enrolling anew")),
            (true, 0),
            "{}",
            other.said()
        );
    }
    farm.api.until_succeeded(&run);
    let ended = attempts(&farm, &run);
    assert_eq!((one_success_each(&ended).len(), ended.len()), (8, 8), "{ended:?}");
    assert_eq!(farm.api.all("/v1/workers").len(), 1);
    // The same machine gets its name back at once after a crash.
    farm.workers[0].kill9();
    farm.workers[0].start();
    let next = farm.api.submit(&sleepers(&farm, 2, "0.1"));
    farm.api.until_succeeded(&next);
    assert_eq!(farm.workers[0].times("is in use"), 0);
}

#[test]
fn a_worker_that_comes_back_starts_nothing_that_others_have_done_meanwhile() {
    let mut farm = TestFarm::start(&[1]);
    let run = farm.api.submit(&gated(&farm, 6));
    let executed = farm.dir.shared("executed");
    until("one has begun and others wait in the worker", || {
        lines(&executed) == 1 && farm.api.run(&run)["tasks"]["queued"].as_u64() > Some(0)
    });
    farm.workers[0].kill9();
    farm.add_worker(1);
    open_gate(&farm);
    farm.api.until_succeeded(&run);
    assert_eq!(lines(&executed), 7, "the one that died with its worker was done again");
    farm.workers[0].start();
    until("it has taken what waited for it", || {
        let queue: Json =
            serde_json::from_str(&farm.manage("GET", "queues/VHOST/pictor.worker.1", "")).unwrap();
        queue["consumers"] == 1 && queue["messages"] == 0
    });
    let next = farm.api.submit(&sleepers(&farm, 2, "3"));
    farm.api.until_succeeded(&next);
    let workers = attempts(&farm, &next).iter().map(|a| a.worker).collect::<Vec<_>>();
    assert!(workers.contains(&1), "{workers:?}");
    assert_eq!(lines(&executed), 9, "nothing was done again");
}

/// Servers hear from it, so nothing else would show that it does not receive its assignments.
#[test]
fn a_worker_that_does_not_reach_the_broker_asks_for_no_work() {
    let farm = TestFarm::start(&[1, 1]);
    farm.network.cut(&farm.workers[0].host, &farm.services.broker);
    let run = farm.api.submit(&sleepers(&farm, 20, "0.2"));
    until("it says so", || {
        let told = farm.api.get("/v1/workers/1")["reason"].clone();
        told == "the broker cannot be reached"
    });
    farm.api.until_succeeded(&run);
    let ended = attempts(&farm, &run);
    assert_eq!(one_success_each(&ended).len(), 20);
    farm.network.heal(&farm.workers[0].host, &farm.services.broker);
    until("it takes work again", || farm.api.get("/v1/workers/1")["reason"] == "");
}

/// A task's log, as any server returns it.
fn log(farm: &TestFarm, run: &str, task: &str) -> String {
    let path = format!("/v1/runs/{run}/tasks/{task}/log");
    let told = [0, 1].map(|server| farm.api.ask(server, Method::GET, &path, None));
    let told = told.into_iter().flatten().find(|(status, _)| status.is_success());
    told.map(|(_, text)| text).unwrap_or_default()
}

/// Kills the owner and removes its data folder; the other server then owns the farm.
fn lose_owner(farm: &mut TestFarm) -> usize {
    let (first, _) = farm.owner().unwrap();
    farm.servers[first].kill9();
    let name = format!("server-{}", first + 1);
    std::fs::remove_dir_all(farm.dir.path(&name)).unwrap();
    let is_second = |owner: (usize, i64)| owner.0 == 1 - first;
    until("the other server takes over", || farm.owner().is_some_and(is_second));
    first
}

#[test]
fn logs_outlive_the_servers_that_took_them() {
    let mut farm = TestFarm::start(&[2]);
    let gate = farm.dir.shared("gate").display().to_string();
    let job = "pictor: v1\nname: talk\nsteps:\n- name: short\n  command: { run: [sh, -c, 'echo all'] }\n\
               - name: long\n  command: { run: [sh, -c, 'echo before; while [ ! -e GATE ]; do sleep \
               0.05; done; echo after'] }\n";
    let run = farm.api.submit(&job.replace("GATE", &gate));
    let logs = farm.dir.path("worker-1/worker/logs").join(&run);
    let kept = |step: &str| logs.join(step).join("0").exists();
    until("the worker has given one log away", || {
        log(&farm, &run, "short") == "all\n" && !kept("short")
    });
    until("one grows", || log(&farm, &run, "long") == "before\n");
    let lost = lose_owner(&mut farm);
    assert!(kept("long"));
    until("what is whole is read elsewhere", || log(&farm, &run, "short") == "all\n");
    // Its task prints nothing now.
    until("what grows is sent again", || log(&farm, &run, "long") == "before\n");
    open_gate(&farm);
    farm.api.until_succeeded(&run);
    until("the worker has given it away", || !logs.exists());
    assert_eq!(log(&farm, &run, "long"), "before\nafter\n");
    // The lost server comes back with an empty folder, and the other one is stopped.
    farm.servers[lost].start();
    let stands_by = || farm.api.ask(lost, Method::GET, &format!("/v1/runs/{run}"), None);
    until("it stands by", || stands_by().is_some_and(|(status, _)| status.is_success()));
    lose_owner(&mut farm);
    until("it answers", || log(&farm, &run, "long") == "before\nafter\n");
    assert_eq!(log(&farm, &run, "short"), "all\n");
}

/// Programs of tasks that are running: they are in the folders of workers.
fn running(farm: &TestFarm, program: &str) -> usize {
    farm.processes().iter().filter(|line| line.contains(program)).count()
}

#[test]
fn cancel_reaches_another_host_in_less_than_two_seconds() {
    let mut farm = TestFarm::start(&[]);
    farm.add_renderer(1);
    let command = farm.api.submit(&sleepers(&farm, 1, "600"));
    until("the command runs", || running(&farm, "sleep 600") > 0);
    cancel(&farm, &command, "sleep 600");

    let job = farm.dir.write("job.yaml", &render_job("plain.blend", "  samples: 900000\n"));
    let job = job.display().to_string();
    let said = farm.pictor(&["submit", &job, "--json"]);
    said.expect(0, &[]);
    let line: Json = serde_json::from_str(said.out.lines().last().unwrap()).unwrap();
    let run = line["run"].as_str().or(line["id"].as_str()).unwrap();
    let rendering = |task: &Json| task["step"] == "render" && task["progress"].as_f64().is_some();
    until("samples are rendered", || {
        farm.api.all(&format!("/v1/runs/{run}/tasks")).iter().any(rendering)
    });
    assert!(running(&farm, "blender") > 0);
    cancel(&farm, run, "blender");
}

fn cancel(farm: &TestFarm, run: &str, program: &str) {
    let started = Instant::now();
    farm.api.post(&format!("/v1/runs/{run}/cancel"), &json!({}));
    until("it is gone", || running(farm, program) == 0);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn a_run_of_higher_priority_goes_before_a_hundred_thousand_waiting_tasks() {
    const SLOTS: u32 = 2;
    let farm = TestFarm::start(&[SLOTS]);
    let crowd = farm.api.submit(&sleepers(&farm, 100_000, "2"));
    let executed = farm.dir.shared("executed");
    until("the crowd is at work", || lines(&executed) >= 5);
    let urgent = sleepers(&farm, 1, "0").replace("steps:", "priority: 100\nsteps:");
    let urgent = farm.api.submit(&urgent);
    farm.api.until_succeeded(&urgent);
    let submitted = created_ms(&farm, &urgent);
    let started = attempts(&farm, &urgent)[0].started_ms;
    // Tasks that began before it have ended or will soon: all starts are known then.
    let known = lines(&executed);
    until("the next ones have begun", || lines(&executed) > known + 2);
    farm.api.post(&format!("/v1/runs/{crowd}/cancel"), &json!({}));
    until("the crowd is cancelled", || farm.api.run(&crowd)["state"] == "cancelled");
    let between = attempts(&farm, &crowd)
        .iter()
        .filter(|attempt| (submitted..started).contains(&attempt.started_ms))
        .count();
    assert!(between <= SLOTS as usize, "{between} tasks went before it");
}
