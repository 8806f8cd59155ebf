//! Limits on sizes and rates of requests.

use crate::farm::{Answer, FILMS, Options, TestFarm};
use pictor_api::TokenRole;
use pictor_server::http::{Limits, Quotas, Rate};
use pictor_tasks::message::RunId;
use reqwest::Method;
use serde_json::{Value as Json, json};

#[tokio::test]
async fn bodies_have_limits() {
    let limits = Limits { job_bytes: 2000, body_bytes: 500, asset_bytes: 100, ..Limits::default() };
    let options = Options { idle: true, limits: Some(limits), ..Options::default() };
    let farm = TestFarm::with(options).await;
    let body = json!({ "job": "x".repeat(3000) });
    farm.post("/v1/runs", &body).await.refused(413, "body_too_large");
    let yaml = farm.request(&farm.admin, Method::POST, "/v1/runs").body("x".repeat(3000));
    let yaml = yaml.header("content-type", "application/yaml");
    farm.send(yaml).await.refused(413, "body_too_large");
    let body = json!({ "job": "x".repeat(1000) });
    farm.post("/v1/runs", &body).await.refused(422, "invalid_job");
    let body = json!({ "digests": vec!["a".repeat(64); 20] });
    farm.post("/v1/assets/missing", &body).await.refused(413, "body_too_large");
    let put = farm.request(&farm.admin, Method::PUT, &format!("/v1/assets/{}", "a".repeat(64)));
    farm.send(put.body("x".repeat(200))).await.refused(413, "body_too_large");
    assert_eq!(std::fs::read_dir(farm.path("spool")).unwrap().count(), 0);
    farm.stop().await;
}

#[tokio::test]
async fn one_token_cannot_use_up_the_server() {
    let limits = Limits { rate: Rate { per_second: 0.01, burst: 3.0 }, ..Limits::default() };
    let options = Options { idle: true, limits: Some(limits), ..Options::default() };
    let farm = TestFarm::with(options).await;
    let other = farm.token(TokenRole::Viewer, "other").await;
    for _ in 0..3 {
        farm.get("/v1/runs").await.is(200);
    }
    let refused = farm.get("/v1/runs").await;
    refused.refused(429, "rate_limited");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=101).contains(&wait), "{wait}");
    farm.call(&other, Method::GET, "/v1/runs", None).await.is(200);
    farm.stop().await;
}

/// Quotas hold for submitters; whoever operates the farm may go beyond.
#[tokio::test]
async fn one_account_cannot_fill_the_farm_alone() {
    let farm = with(Quotas { runs: 2, streams: 2, ..Quotas::default() }).await;
    let ada = farm.token(TokenRole::Submitter, "ada").await;
    for _ in 0..2 {
        submitted(&farm, &ada).await;
    }
    let body = json!({ "job": FILMS });
    let submit = async |token: &str| farm.call(token, Method::POST, "/v1/runs", Some(&body)).await;
    told(&submit(&ada).await, &["`ada` has 2 unfinished runs", "limit is 2", "`runs`"]);
    submit(&farm.token(TokenRole::Submitter, "bob").await).await.is(201);
    submit(&farm.token(TokenRole::Operator, "ada").await).await.is(201);
    let stream = async || farm.request(&ada, Method::GET, "/v1/events").send().await.unwrap();
    let (one, two) = (stream().await, stream().await);
    assert_eq!((one.status().as_u16(), two.status().as_u16()), (200, 200));
    let third = farm.call(&ada, Method::GET, "/v1/events", None).await;
    told(&third, &["2 event streams", "`streams`"]);
    drop(one);
    farm.stop().await;
}

/// A farm without workers and with these quotas.
async fn with(quotas: Quotas) -> TestFarm {
    let limits = Limits { quotas, ..Limits::default() };
    TestFarm::with(Options { idle: true, limits: Some(limits), ..Options::default() }).await
}

/// Submits six tasks, and returns when they count.
async fn submitted(farm: &TestFarm, token: &str) {
    let run = RunId(farm.submit(token, FILMS).await.into());
    while !farm.owner.has_run(&run).await.unwrap() {
        tokio::task::yield_now().await;
    }
}

/// A quota is used up: the answer says which one, how large it is, and who sets it.
fn told(answer: &Answer, words: &[&str]) {
    let problem = answer.refused(409, "quota_exceeded");
    let detail = problem["detail"].as_str().unwrap();
    for word in words.iter().chain(&["`[quotas]`", "farm's operator sets"]) {
        assert!(detail.contains(word), "{word}: {detail}");
    }
}

#[tokio::test]
async fn the_tasks_of_an_account_are_counted_over_its_runs() {
    let farm = with(Quotas { tasks: 13, ..Quotas::default() }).await;
    let ada = farm.token(TokenRole::Submitter, "ada").await;
    for _ in 0..2 {
        submitted(&farm, &ada).await;
    }
    let body = json!({ "job": FILMS });
    let third = farm.call(&ada, Method::POST, "/v1/runs", Some(&body)).await;
    told(&third, &["have 12 tasks", "6 more", "limit is 13", "`tasks`"]);
    submitted(&farm, &farm.token(TokenRole::Submitter, "bob").await).await;
    farm.stop().await;
}

#[tokio::test]
async fn an_account_submits_so_often_whatever_its_tokens() {
    let farm = with(Quotas { submissions_per_minute: 2, ..Quotas::default() }).await;
    let body = json!({ "job": FILMS });
    let submit = async || {
        let token = farm.token(TokenRole::Submitter, "ada").await;
        farm.call(&token, Method::POST, "/v1/runs", Some(&body)).await
    };
    submit().await.is(201);
    submit().await.is(201);
    let problem = submit().await.refused(429, "rate_limited");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("`submissions_per_minute`"), "{detail}");
    farm.stop().await;
}

#[tokio::test]
async fn an_account_has_so_many_schedules() {
    let farm = with(Quotas { schedules: 1, ..Quotas::default() }).await;
    let ada = farm.token(TokenRole::Submitter, "ada").await;
    let add = async |token: &str, method: Method, name: &str| {
        let job = json!({ "text": FILMS });
        let body = json!({ "name": name, "cron": "@daily", "zone": "UTC", "job": job });
        let path = if method == Method::PUT { format!("/{name}") } else { String::new() };
        farm.call(token, method, &format!("/v1/schedules{path}"), Some(&body)).await
    };
    add(&ada, Method::POST, "one").await.is(201);
    for method in [Method::POST, Method::PUT] {
        told(&add(&ada, method, "two").await, &["has 1 schedules", "`schedules`"]);
    }
    add(&ada, Method::PUT, "one").await.is(200);
    add(&farm.token(TokenRole::Submitter, "bob").await, Method::POST, "two").await.is(201);
    farm.stop().await;
}

/// The database keeps the last room on the disk.
#[tokio::test]
async fn a_disk_that_is_almost_full_takes_no_files() {
    let limits = Limits { disk_floor: u64::MAX, ..Limits::default() };
    let options = Options { idle: true, limits: Some(limits), ..Options::default() };
    let farm = TestFarm::with(options).await;
    let path = format!("/v1/assets/{}", blake3::hash(b"x").to_hex());
    let put = farm.request(&farm.admin, Method::PUT, &path).body("x");
    let problem = farm.send(put).await.refused(507, "insufficient_storage");
    assert!(problem["detail"].as_str().unwrap().contains("`disk_floor`"), "{problem}");
    assert_eq!(std::fs::read_dir(farm.path("spool")).unwrap().count(), 0);

    let (id, token) = farm.machine("node").await;
    let run = farm.submit(&farm.admin, FILMS).await;
    let (place, proof) = farm.output(&run, id, &token).await;
    let put = farm.request(&token, Method::PUT, &place).header("pictor-link", &proof).body("x");
    farm.send(put).await.refused(507, "insufficient_storage");
    farm.stop().await;
}

/// Guessing is slow, and who has a token is not kept out by those who guess beside it.
#[tokio::test]
async fn calls_without_a_token_are_throttled() {
    let farm = TestFarm::idle().await;
    let mut last = 401;
    for _ in 0..400 {
        last = farm.call("", Method::GET, "/v1/runs", None).await.status.as_u16();
        if last != 401 {
            break;
        }
    }
    assert_eq!(last, 429);
    farm.get("/v1/runs").await.is(200);
    farm.stop().await;
}

#[tokio::test]
async fn calls_that_are_refused_again_and_again_fill_no_audit_log() {
    let farm = TestFarm::idle().await;
    let viewer = farm.token(TokenRole::Viewer, "vera").await;
    for _ in 0..60 {
        let cancel = farm.call(&viewer, Method::POST, "/v1/runs/none/cancel", None).await;
        cancel.refused(403, "forbidden");
    }
    let log = farm.get("/v1/audit?limit=100").await.is(200);
    let entries = log["items"].as_array().unwrap().len();
    assert!((20..30).contains(&entries), "{entries}");
    farm.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let farm = TestFarm::idle().await;
    let ada = farm.token(TokenRole::Viewer, "ada").await;
    let mut stream = farm.request(&ada, Method::GET, "/v1/events").send().await.unwrap();
    let id = ada.split('_').nth(1).unwrap();
    let revoke = format!("/v1/tokens/{id}");
    farm.call(&farm.admin, Method::DELETE, &revoke, None).await.is(200);
    // Comments that keep the connection open may come before its end.
    while stream.chunk().await.unwrap().is_some() {}
    farm.stop().await;
}

#[tokio::test]
async fn the_audit_log_does_not_grow_for_ever() {
    let limits = Limits { audit_entries: 3, ..Limits::default() };
    let options = Options { idle: true, limits: Some(limits), ..Options::default() };
    let farm = TestFarm::with(options).await;
    for _ in 0..20 {
        farm.post("/v1/runs/none/pause", &Json::Null).await.refused(404, "not_found");
    }
    let log = farm.get("/v1/audit").await.is(200);
    let entries = log["items"].as_array().unwrap();
    assert!((3..6).contains(&entries.len()), "{log}");
    assert_eq!(entries[0]["number"], 20);
    farm.stop().await;
}
