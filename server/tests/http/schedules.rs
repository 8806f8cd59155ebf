//! Schedules over the API: who may do what with them.

use crate::farm::{FILMS, TestFarm};
use pictor_api::TokenRole;
use reqwest::Method;
use serde_json::{Value as Json, json};

fn nightly(name: &str) -> Json {
    json!({ "name": name, "cron": "30 2 * * *", "zone": "Europe/Berlin", "job": { "text": FILMS } })
}

#[tokio::test]
async fn a_schedule_is_added_shown_paused_triggered_and_removed() {
    let farm = TestFarm::idle().await;
    let added = farm.post("/v1/schedules", &nightly("nightly")).await;
    assert_eq!(added.header("location"), "/v1/schedules/nightly");
    let added = added.is(201);
    assert_eq!((&added["account"], &added["paused"]), (&"root".into(), &false.into()));
    assert_eq!(added["next_ms"].as_array().unwrap().len(), 5);
    farm.post("/v1/schedules", &nightly("nightly")).await.refused(409, "conflict");
    farm.post("/v1/schedules", &nightly("weekly")).await.is(201);
    let first = farm.get("/v1/schedules?limit=1").await.is(200);
    assert_eq!(
        (&first["items"][0]["name"], &first["next"]),
        (&"nightly".into(), &"nightly".into())
    );
    let second = farm.get("/v1/schedules?limit=1&after=nightly").await.is(200);
    assert_eq!((&second["items"][0]["name"], &second["next"]), (&"weekly".into(), &Json::Null));
    let post = async |verb: &str| {
        farm.call(&farm.admin, Method::POST, &format!("/v1/schedules/nightly/{verb}"), None).await
    };
    assert_eq!(post("pause").await.is(200)["paused"], true);
    assert_eq!(post("resume").await.is(200)["paused"], false);
    let run = post("trigger").await.is(200)["run"].clone();
    assert!(farm.store.run(run.as_str().unwrap()).await.unwrap().is_some());
    let shown = farm.get("/v1/schedules/nightly").await.is(200);
    assert_eq!(shown["fires"][0]["run"], run);
    let put = async |path: &str, body: Json| {
        farm.call(&farm.admin, Method::PUT, &format!("/v1/schedules/{path}"), Some(&body)).await
    };
    let mut hourly = nightly("nightly");
    hourly["cron"] = "@hourly".into();
    assert_eq!(put("nightly", hourly.clone()).await.is(200)["cron"], "@hourly");
    put("other", hourly).await.refused(422, "invalid_schedule");
    farm.call(&farm.admin, Method::DELETE, "/v1/schedules/nightly", None).await.is(204);
    farm.get("/v1/schedules/nightly").await.refused(404, "not_found");
    post("trigger").await.refused(404, "not_found");
    let mut bad = nightly("bad");
    bad["cron"] = "never".into();
    farm.post("/v1/schedules", &bad).await.refused(422, "invalid_schedule");
    bad = nightly("bad");
    bad["job"]["text"] = "pictor: v1".into();
    farm.post("/v1/schedules", &bad).await.refused(422, "invalid_job");
    farm.stop().await;
}

#[tokio::test]
async fn schedules_belong_to_accounts() {
    let farm = TestFarm::idle().await;
    let anna = farm.token(TokenRole::Submitter, "anna").await;
    let bert = farm.token(TokenRole::Submitter, "bert").await;
    let add = async |token: &str, schedule: Json| {
        farm.call(token, Method::POST, "/v1/schedules", Some(&schedule)).await
    };
    assert_eq!(add(&anna, nightly("annas")).await.is(201)["account"], "anna");
    farm.call(&bert, Method::GET, "/v1/schedules/annas", None).await.refused(404, "not_found");
    farm.call(&bert, Method::DELETE, "/v1/schedules/annas", None).await.refused(404, "not_found");
    for verb in ["pause", "resume", "trigger"] {
        let path = format!("/v1/schedules/annas/{verb}");
        farm.call(&bert, Method::POST, &path, None).await.refused(404, "not_found");
    }
    let body = nightly("annas");
    let put = farm.call(&bert, Method::PUT, "/v1/schedules/annas", Some(&body)).await;
    put.refused(409, "conflict");
    let list = farm.call(&bert, Method::GET, "/v1/schedules", None).await.is(200);
    assert_eq!(list["items"], json!([]));
    let mut outside = nightly("outside");
    outside["out_dir"] = "/etc".into();
    add(&bert, outside).await.refused(403, "forbidden");
    farm.stop().await;
}
