//! What a hostile machine, or whoever else reaches the port, does not get.

use crate::farm::{FILMS, Options, TICKET_KEY, TestFarm};
use pictor_artifacts::Artifacts;
use pictor_queue::{Sealer, ToOwner};
use pictor_server::now_ms;
use pictor_tasks::message::{
    Execution, Outcome, Output, Products, Report, TaskEnd, Try, What, WorkerId,
};
use pictor_test_servers::S3;
use reqwest::{Method, StatusCode};
use serde_json::{Value as Json, json};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

const TASK: Try = Try { index: 2, attempt: 1 };
const EXECUTION: Execution = Execution(0xab);

/// Sends bytes by a link, as a worker does.
async fn follow(farm: &TestFarm, token: &str, link: &Json, bytes: &'static str) -> StatusCode {
    let url = link["url"].as_str().unwrap();
    let mut request = if url.starts_with('/') {
        farm.request(token, Method::PUT, url)
    } else {
        reqwest::Client::new().put(url)
    };
    for (name, value) in link["headers"].as_object().unwrap() {
        request = request.header(name, value.as_str().unwrap());
    }
    request.body(bytes).send().await.unwrap().status()
}

/// What the farm serves as a file.
async fn served(farm: &TestFarm, path: &str) -> String {
    let answer = farm.get(path).await;
    if answer.status == StatusCode::TEMPORARY_REDIRECT {
        return reqwest::get(answer.header("location")).await.unwrap().text().await.unwrap();
    }
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.text()
}

/// Commits a result, and attacks it with everything that its maker has.
async fn is_kept(farm: TestFarm) {
    let (id, token) = farm.machine("node").await;
    let run = farm.submit(&farm.admin, FILMS).await;
    let step = farm.first_step(&run).await;
    let ticket = Sealer::new(1, TICKET_KEY).seal(&step, TASK, WorkerId(id)).to_string();
    let ask = async |file: &str| {
        let body = json!({
            "key": { "run": run, "step": 0, "generation": 0 },
            "task": { "index": 2, "attempt": 1 }, "execution": EXECUTION.0,
            "ticket": ticket, "step": "make", "file": file, "size_bytes": 3,
        });
        farm.call(&token, Method::POST, &format!("/v1/workers/{id}/outputs"), Some(&body)).await
    };
    let place = ask("a.txt").await.is(200);
    let put = async |bytes| follow(&farm, &token, &place["link"], bytes).await;
    assert!(put("abc").await.is_success());
    let key = place["key"].as_str().unwrap().to_owned();
    let digest = blake3::hash(b"abc").to_hex().to_string();
    let output = Output { name: "text".into(), key: key.clone(), digest, size_bytes: 3 };
    let outcome = Outcome::Succeeded(Products { outputs: vec![output], ..Products::default() });
    let what = What::Ended(vec![TaskEnd { task: TASK, started_ms: 1, took_ms: 2, outcome }]);
    let report = Report { worker: WorkerId(id), key: step, execution: EXECUTION, what };
    farm.owner.tell(ToOwner::Report(report)).await.unwrap();
    let task = farm.get(&format!("/v1/runs/{run}/tasks/make[frame=3]")).await.is(200);
    assert_eq!(task["task"]["state"], "succeeded", "{task}");

    for forged in ["abd", "something else"] {
        let refused = put(forged).await;
        let refusals = [StatusCode::CONFLICT, StatusCode::PRECONDITION_FAILED];
        assert!(refusals.contains(&refused), "{refused}");
    }
    for file in ["a.txt", "b.txt"] {
        ask(file).await.refused(409, "conflict");
    }
    let result = format!("/v1/runs/{run}/files/frames/0003.txt");
    for path in [format!("/v1/artifacts/{key}"), result] {
        assert_eq!(served(&farm, &path).await, "abc");
    }
    farm.stop().await;
}

#[tokio::test]
async fn a_result_that_counts_is_not_replaced_in_a_folder() {
    is_kept(TestFarm::idle().await).await;
}

#[tokio::test]
async fn a_result_that_counts_is_not_replaced_in_a_bucket() {
    let s3 = S3::start();
    let place = format!("s3://{}?endpoint={}", s3.bucket(), s3.endpoint());
    let artifacts = Artifacts::open(&place, Some((s3.access_key(), s3.secret_key()))).unwrap();
    let options = Options { idle: true, artifacts: Some(artifacts), ..Options::default() };
    is_kept(TestFarm::with(options).await).await;
}

/// By how much the server's clock was changed, in milliseconds.
static SET: AtomicI64 = AtomicI64::new(0);

fn clock_ms() -> i64 {
    now_ms() + SET.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_clock_that_is_set_back_keeps_no_dead_worker_online() {
    let lease = Some(Duration::from_secs(1));
    let options = Options { idle: true, lease, now_ms: Some(clock_ms), ..Options::default() };
    let farm = TestFarm::with(options).await;
    let (id, token) = farm.machine("node").await;
    let mut news = farm.owner.news();
    let beat = format!("/v1/workers/{id}/heartbeat");
    farm.call(&token, Method::POST, &beat, Some(&json!({ "holding": [] }))).await.is(200);
    farm.registry.workers_seen(&[(WorkerId(id), clock_ms())]).await.unwrap();
    let worker = format!("/v1/workers/{id}");
    assert_eq!(farm.get(&worker).await.is(200)["online"], true);
    SET.fetch_sub(3_600_000, Ordering::Relaxed);
    while !news.recv().await.unwrap().lost.contains(&WorkerId(id)) {}
    assert_eq!(farm.get(&worker).await.is(200)["online"], false);
    let metrics = farm.get("/metrics").await.text();
    assert!(metrics.contains("{state=\"enabled\",online=\"false\"} 1.0"), "{metrics}");
    farm.stop().await;
}
