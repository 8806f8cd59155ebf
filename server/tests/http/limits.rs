//! Limits on sizes and rates of requests.

use crate::farm::{Options, TestFarm};
use pictor_server::http::{Limits, Rate};
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
    let other = farm.token(pictor_api::TokenRole::Viewer, "other").await;
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
