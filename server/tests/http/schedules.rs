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
    let list = farm.call(&bert, Method::GET, "/v1/schedules", None).await.is(200);
    assert_eq!(list["items"], json!([]));
    let mut outside = nightly("outside");
    outside["out_dir"] = "/etc".into();
    add(&bert, outside).await.refused(403, "forbidden");
    farm.stop().await;
}

/// A name that somebody else has is free: nobody learns of the others' schedules, and nobody takes their names away.
#[tokio::test]
async fn the_names_of_an_accounts_schedules_are_its_own() {
    let farm = TestFarm::idle().await;
    let anna = farm.token(TokenRole::Submitter, "anna").await;
    let bert = farm.token(TokenRole::Submitter, "bert").await;
    let call = async |token: &str, method: Method, path: &str, body: Option<&Json>| {
        farm.call(token, method, &format!("/v1/schedules{path}"), body).await
    };
    let body = nightly("nightly");
    for token in [&anna, &bert, &farm.admin] {
        let added = call(token, Method::POST, "", Some(&body)).await.is(201);
        assert_eq!(added["name"], "nightly");
        call(token, Method::POST, "", Some(&body)).await.refused(409, "conflict");
    }
    let mut hourly = nightly("nightly");
    hourly["cron"] = "@hourly".into();
    let put = call(&bert, Method::PUT, "/nightly", Some(&hourly)).await.is(200);
    assert_eq!((&put["account"], &put["name"]), (&"bert".into(), &"nightly".into()));
    let mut runs = Vec::new();
    for (token, cron) in [(&anna, "30 2 * * *"), (&bert, "@hourly"), (&farm.admin, "30 2 * * *")] {
        assert_eq!(call(token, Method::GET, "/nightly", None).await.is(200)["cron"], cron);
        let run = call(token, Method::POST, "/nightly/trigger", None).await.is(200)["run"].take();
        runs.push(farm.store.run(run.as_str().unwrap()).await.unwrap().unwrap().account);
    }
    assert_eq!(runs, ["anna", "bert", "root"]);
    let names = async |token: &str| {
        let page = call(token, Method::GET, "", None).await.is(200);
        let names = page["items"].as_array().unwrap().iter();
        names.map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&anna).await, ["nightly"]);
    // Whoever sees all of them tells them apart by their accounts.
    assert_eq!(names(&farm.admin).await, ["anna/nightly", "bert/nightly", "nightly"]);
    let paused = call(&farm.admin, Method::POST, "/bert%2Fnightly/pause", None).await.is(200);
    assert_eq!((&paused["paused"], &paused["name"]), (&true.into(), &"bert/nightly".into()));
    assert_eq!(call(&anna, Method::GET, "/nightly", None).await.is(200)["paused"], false);
    for path in ["/bert%2Fnightly", "/anna%2Fnightly"] {
        call(&anna, Method::GET, path, None).await.is(if path.contains("bert") {
            404
        } else {
            200
        });
    }
    // Nobody puts one among the names of another account.
    for token in [&anna, &farm.admin] {
        let body = nightly("bert/weekly");
        call(token, Method::POST, "", Some(&body)).await.refused(422, "invalid_schedule");
    }
    call(&bert, Method::DELETE, "/nightly", None).await.is(204);
    assert_eq!(names(&farm.admin).await, ["anna/nightly", "nightly"]);

    // One of before, when names were those of the farm.
    let mut old = farm.registry.schedule("anna/nightly").await.unwrap().unwrap();
    old.id = "old".to_owned();
    farm.registry.put_schedule(&old).await.unwrap();
    assert_eq!(names(&anna).await, ["nightly", "old"]);
    call(&anna, Method::POST, "", Some(&nightly("old"))).await.refused(409, "conflict");
    call(&bert, Method::GET, "/old", None).await.refused(404, "not_found");
    call(&bert, Method::POST, "", Some(&nightly("old"))).await.is(201);
    farm.stop().await;
}
