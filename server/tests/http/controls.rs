//! Pause, resume, cancel, retry, reset, priority.

use crate::farm::{FILMS, TestFarm};
use pictor_engine::{Run, RunState};
use pictor_tasks::history::{Control, Event};
use pictor_tasks::message::RunId;
use reqwest::Method;
use serde_json::{Value as Json, json};

/// Four tasks; the one with the number 3 fails until a certain file exists.
const STUBBORN: &str = r#"pictor: v1
name: stubborn
retry: { attempts: 1 }
dims: { n: { range: 1-4 } }
steps:
  - name: work
    over: [n]
    command: { run: [sh, -c, 'test "$1" != 3 || test -e "$2"', sh, "{n}", "@"] }
  - name: after
    needs: [work]
    noop: {}
"#;

#[tokio::test]
async fn a_run_is_paused_resumed_given_a_priority_and_cancelled() {
    let farm = TestFarm::idle().await;
    let id = farm.submit(&farm.admin, FILMS).await;
    let paused = farm.post(&format!("/v1/runs/{id}/pause"), &Json::Null).await.is(200);
    assert_eq!(paused["run"]["state"], "paused");
    assert_eq!(farm.get(&format!("/v1/runs/{id}")).await.is(200)["state"], "paused");
    let resumed =
        farm.call(&farm.admin, Method::POST, &format!("/v1/runs/{id}/resume"), None).await;
    assert_eq!(resumed.is(200)["run"]["state"], "running");
    let patch = async |body: Json| {
        farm.call(&farm.admin, Method::PATCH, &format!("/v1/runs/{id}"), Some(&body)).await
    };
    assert_eq!(patch(json!({ "priority": 7 })).await.is(200)["run"]["priority"], 7);
    for bad in [
        json!({}),
        json!({ "priority": "high" }),
        json!({ "priority": i32::MAX }),
        json!({ "priority": -101 }),
        json!({ "priority": 1, "x": 1 }),
    ] {
        patch(bad).await.refused(400, "invalid_request");
    }
    let cancelled = farm.post(&format!("/v1/runs/{id}/cancel"), &Json::Null).await.is(200);
    assert_eq!(cancelled["run"]["state"], "cancelled");
    assert!(cancelled["run"]["finished_ms"].is_i64(), "{cancelled}");
    for verb in ["pause", "resume", "cancel"] {
        let answer = farm.post(&format!("/v1/runs/{id}/{verb}"), &Json::Null).await;
        answer.refused(409, "run_is_over");
    }
    patch(json!({ "priority": 7 })).await.refused(409, "run_is_over");
    farm.post("/v1/runs/nobody/pause", &Json::Null).await.refused(404, "not_found");
    farm.stop().await;
}

/// Queries need not wait for a commit, unless a command came before them.
#[tokio::test]
async fn a_question_sees_what_was_ordered_before_it_and_nothing_else() {
    let farm = TestFarm::idle().await;
    let run = RunId(farm.submit(&farm.admin, FILMS).await.into());
    let mut before = RunState::Running;
    for (id, event, after) in
        [(1, Event::Paused, RunState::Paused), (2, Event::Resumed, RunState::Running)]
    {
        let state = || {
            let run = run.clone();
            farm.owner.ask(move |engine| engine.run(&run).map(Run::state))
        };
        let order = farm.owner.control(run.clone(), Control { id, event });
        // The owner gets them in this order.
        let (first, new, second) = tokio::join!(state(), order, state());
        assert_eq!(
            (first.unwrap(), new.unwrap(), second.unwrap()),
            (Some(before), true, Some(after))
        );
        before = after;
    }
    farm.stop().await;
}

#[tokio::test]
async fn what_failed_is_done_again_after_it_was_counted() {
    let farm = TestFarm::start().await;
    let open = farm.path("shared/open");
    let id = farm.submit(&farm.admin, &STUBBORN.replace('@', open.to_str().unwrap())).await;
    farm.until_over(&id).await;
    let run = farm.get(&format!("/v1/runs/{id}")).await.is(200);
    assert_eq!((&run["state"], &run["tasks"]["failed"]), (&"failed".into(), &1.into()));
    assert_eq!(run["failures"][0]["name"], "work[n=3]");
    let task = farm.get(&format!("/v1/runs/{id}/tasks/work[n=3]")).await.is(200);
    assert_eq!(task["attempts"][0]["state"], "failed");
    assert!(task["attempts"][0]["message"].as_str().unwrap().contains("code 1"), "{task}");
    let skipped = farm.get(&format!("/v1/runs/{id}/tasks?state=skipped")).await.is(200);
    assert_eq!(skipped["items"][0]["reason"], "needs work[n=3], which was failed");

    let retry = async |body: Json| farm.post(&format!("/v1/runs/{id}/retry"), &body).await;
    let dry = retry(json!({ "dry_run": true })).await.is(200);
    assert_eq!((&dry["count"], &dry["run"]), (&2.into(), &Json::Null));
    assert_eq!(farm.get(&format!("/v1/runs/{id}")).await.is(200)["state"], "failed");
    retry(json!({ "tasks": ["nothing"] })).await.refused(404, "not_found");
    retry(json!({ "task": "work" })).await.refused(400, "invalid_request");
    // Settings are changed before any task is reset, and stay changed.
    retry(json!({ "set": { "dims.n.range": "1-9" } })).await.refused(400, "invalid_request");
    retry(json!({ "set": { "retry.attempts": "none" } })).await.refused(400, "invalid_request");
    let set = json!({ "set": { "retry.attempts": "2", "retry.backoff": "0s" } });
    assert_eq!(retry(set).await.is(200)["count"], 2);
    farm.until_over(&id).await;
    let task = farm.get(&format!("/v1/runs/{id}/tasks/work[n=3]")).await.is(200);
    assert_eq!(task["attempts"].as_array().unwrap().len(), 3, "{task}");
    std::fs::write(open, "").unwrap();
    // The body may be omitted.
    let path = format!("/v1/runs/{id}/retry");
    let again = farm.call(&farm.admin, Method::POST, &path, None).await.is(200);
    assert_eq!(again["count"], 2);
    farm.until_over(&id).await;
    let run = farm.get(&format!("/v1/runs/{id}")).await.is(200);
    assert_eq!((&run["state"], &run["tasks"]["succeeded"]), (&"succeeded".into(), &5.into()));
    retry(json!({})).await.refused(409, "conflict");

    let reset = async |body: Json| farm.post(&format!("/v1/runs/{id}/reset"), &body).await;
    let names = json!(["work[n=1]", "work[n=2]"]);
    let dry = reset(json!({ "tasks": names, "dry_run": true })).await.is(200);
    assert_eq!((&dry["count"], &dry["remade"]), (&3.into(), &0.into()));
    let done = reset(json!({ "tasks": names })).await.is(200);
    assert_eq!((&done["count"], &done["run"]["state"]), (&3.into(), &"running".into()));
    farm.until_over(&id).await;
    let task = farm.get(&format!("/v1/runs/{id}/tasks/work[n=1]")).await.is(200);
    assert_eq!(task["attempts"].as_array().unwrap().len(), 2);
    reset(json!({ "tasks": [] })).await.refused(400, "invalid_request");
    reset(json!({})).await.refused(400, "invalid_request");
    farm.stop().await;
}
