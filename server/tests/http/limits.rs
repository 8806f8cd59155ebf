//! Limits on sizes and rates of requests.

use crate::farm::{FILMS, Options, TestFarm};
use pictor_api::TokenRole;
use pictor_server::http::{Limits, Rate};
use pictor_tasks::message::RunId;
use reqwest::Method;
use serde_json::json;

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
    let limits = Limits { account_runs: 2, account_streams: 2, ..Limits::default() };
    let options = Options { idle: true, limits: Some(limits), ..Options::default() };
    let farm = TestFarm::with(options).await;
    let ada = farm.token(TokenRole::Submitter, "ada").await;
    for _ in 0..2 {
        let run = RunId(farm.submit(&ada, FILMS).await.into());
        while !farm.owner.has_run(&run).await.unwrap() {
            tokio::task::yield_now().await;
        }
    }
    let body = json!({ "job": FILMS });
    let submit = async |token: &str| farm.call(token, Method::POST, "/v1/runs", Some(&body)).await;
    submit(&ada).await.refused(409, "conflict");
    submit(&farm.token(TokenRole::Submitter, "bob").await).await.is(201);
    submit(&farm.token(TokenRole::Operator, "ada").await).await.is(201);
    let stream = async || farm.request(&ada, Method::GET, "/v1/events").send().await.unwrap();
    let (one, two) = (stream().await, stream().await);
    assert_eq!((one.status().as_u16(), two.status().as_u16()), (200, 200));
    assert_eq!(stream().await.status(), 429);
    farm.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let farm = TestFarm::idle().await;
    let ada = farm.token(TokenRole::Viewer, "ada").await;
    let mut stream = farm.request(&ada, Method::GET, "/v1/events").send().await.unwrap();
    let id = ada.split('_').nth(1).unwrap();
    let revoke = format!("/v1/tokens/{id}");
    farm.call(&farm.admin, Method::DELETE, &revoke, None).await.is(204);
    // Comments that keep the connection open may come before its end.
    while stream.chunk().await.unwrap().is_some() {}
    farm.stop().await;
}
