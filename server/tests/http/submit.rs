//! Submission: JSON and YAML, errors, dry runs, idempotency, uploaded files.

use crate::farm::{FILMS, TestFarm};
use reqwest::Method;
use serde_json::{Value as Json, json};

#[tokio::test]
async fn a_job_comes_as_text_as_a_tree_or_as_yaml() {
    let farm = TestFarm::idle().await;
    let tree = json!({
        "pictor": "v1", "name": "tree", "dims": { "n": { "count": 3 } },
        "steps": [{ "name": "a", "over": ["n"], "noop": {} }],
    });
    let set = json!({ "dims.n.count": "5" });
    let answer = farm.post("/v1/runs", &json!({ "job": tree, "set": set })).await;
    let run = answer.is(201)["run"].clone();
    assert_eq!(answer.header("location"), format!("/v1/runs/{}", run["id"].as_str().unwrap()));
    let path = answer.header("location").to_owned();
    assert_eq!(farm.get(&path).await.is(200)["tasks"]["ready"], 5);
    let yaml = farm.request(&farm.admin, Method::POST, "/v1/runs?source_name=films.yaml");
    let yaml = yaml.header("content-type", "application/yaml; charset=utf-8").body(FILMS);
    let run = farm.send(yaml).await.is(201)["run"]["id"].clone();
    let run = farm.get(&format!("/v1/runs/{}", run.as_str().unwrap())).await.is(200);
    assert_eq!((&run["source_name"], &run["owner"]), (&"films.yaml".into(), &"root".into()));
    farm.stop().await;
}

/// A limit protects a licence server or a disk: one that nobody defines is reported before anything runs.
#[tokio::test]
async fn a_limit_that_no_server_defines_is_told() {
    let farm = TestFarm::idle().await;
    let job = "pictor: v1\nname: a\nsteps:\n  - { name: a, limits: [licences], noop: {} }\n";
    for dry_run in [true, false] {
        let body = json!({ "job": job, "dry_run": dry_run });
        let answer = farm.post("/v1/runs", &body).await.is(if dry_run { 200 } else { 201 });
        let note = answer["notes"][0].as_str().unwrap();
        assert!(note.contains("`licences` is not defined"), "{note}");
    }
    let defined = farm.post("/v1/runs", &json!({ "job": FILMS, "dry_run": true })).await.is(200);
    assert_eq!(defined["notes"].as_array().map_or(0, Vec::len), 0, "{defined}");
    farm.stop().await;
}

/// A job of a few lines may stand for more than any machine holds: it is refused before anything of it exists.
#[tokio::test]
async fn a_job_that_is_too_large_is_refused_and_the_farm_goes_on() {
    let farm = TestFarm::idle().await;
    let step = |i| json!({ "name": format!("s{i}"), "over": ["a"], "noop": {} });
    let steps: Vec<Json> = (0..100).map(step).collect();
    let job = json!({
        "pictor": "v1", "name": "bomb", "dims": { "a": { "range": "1-16000000" } }, "steps": steps,
    });
    for dry_run in [true, false] {
        let body = json!({ "job": job, "dry_run": dry_run });
        let problem = farm.post("/v1/runs", &body).await.refused(422, "invalid_job");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("1600000000 tasks; the limit is 16777216"), "{detail}");
    }
    assert_eq!(farm.get("/v1/runs").await.is(200)["items"], json!([]));
    farm.post("/v1/runs", &json!({ "job": FILMS })).await.is(201);
    farm.stop().await;
}

#[tokio::test]
async fn mistakes_are_shown_where_they_stand() {
    let farm = TestFarm::idle().await;
    let job = "pictor: v1\nname: wrong\nsteps:\n  - name: a\n    nop: {}\n    over: [frame]\n";
    let answer = farm.post("/v1/runs", &json!({ "job": job, "source_name": "wrong.yaml" })).await;
    let problem = answer.refused(422, "invalid_job");
    let errors = problem["errors"].as_array().unwrap();
    let nop = errors.iter().find(|e| e["line"] == 5).unwrap_or_else(|| panic!("{problem}"));
    assert_eq!((&nop["column"], &nop["text"]), (&5.into(), &"    nop: {}".into()));
    assert!(nop["message"].as_str().unwrap().contains("nop"), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("wrong.yaml:5:5"), "{problem}");
    let body = json!({ "job": FILMS, "set": { "dims.frame.range": "nonsense" } });
    let problem = farm.post("/v1/runs", &body).await.refused(422, "invalid_job");
    assert!(problem["detail"].as_str().unwrap().contains("--set dims.frame.range"), "{problem}");
    for bad in [json!({}), json!({ "job": 7 }), json!({ "job": FILMS, "when": "now" }), json!([])] {
        farm.post("/v1/runs", &bad).await.refused(400, "invalid_request");
    }
    let bad = farm.request(&farm.admin, Method::POST, "/v1/runs").body("{\"job\":");
    let bad = bad.header("content-type", "application/json");
    farm.send(bad).await.refused(400, "invalid_request");
    let plain = farm.request(&farm.admin, Method::POST, "/v1/runs").body(FILMS);
    let plain = plain.header("content-type", "text/html");
    farm.send(plain).await.refused(415, "unsupported_media_type");
    farm.stop().await;
}

#[tokio::test]
async fn a_dry_run_tells_what_would_be_done_and_does_nothing() {
    let farm = TestFarm::idle().await;
    let answer = farm.post("/v1/runs", &json!({ "job": FILMS, "dry_run": true })).await.is(200);
    let plan = &answer["plan"];
    assert_eq!((&plan["tasks"], &plan["longest_path"]), (&6.into(), &2.into()));
    assert_eq!(
        plan["steps"][0],
        json!({
            "name": "make", "kind": "command", "over": ["frame"], "size": 5
        })
    );
    assert_eq!(answer.get("run"), None);
    let runs = farm.get("/v1/runs").await.is(200);
    assert_eq!(runs["items"], Json::Array(vec![]));
    farm.stop().await;
}

#[tokio::test]
async fn the_same_submission_twice_is_one_run() {
    let farm = TestFarm::idle().await;
    let submit = async |token: &str, key: &str, name: &str| {
        let body = json!({ "job": FILMS.replace("films", name) });
        let request = farm.request(token, Method::POST, "/v1/runs");
        farm.send(request.header("idempotency-key", key).json(&body)).await
    };
    let first = submit(&farm.admin, "k1", "films").await.is(201)["run"]["id"].clone();
    let again = submit(&farm.admin, "k1", "films").await.is(200)["run"]["id"].clone();
    assert_eq!(first, again);
    let other = submit(&farm.admin, "k1", "movies").await;
    let problem = other.refused(422, "idempotency_conflict");
    assert!(problem["detail"].as_str().unwrap().contains(first.as_str().unwrap()), "{problem}");
    // Other accounts have keys of their own.
    let token = farm.token(pictor_api::TokenRole::Submitter, "other").await;
    let others = submit(&token, "k1", "films").await.is(201)["run"]["id"].clone();
    assert_ne!(first, others);
    assert_ne!(first, submit(&farm.admin, "k2", "films").await.is(201)["run"]["id"]);
    let long = "k".repeat(256);
    for bad in ["", "two words", &long] {
        submit(&farm.admin, bad, "films").await.refused(400, "invalid_request");
    }
    farm.stop().await;
}

#[tokio::test]
async fn files_of_a_job_are_uploaded_before_it() {
    let farm = TestFarm::idle().await;
    let job = "pictor: v1\nname: still\nrender:\n  scene: scenes/a.blend\n  frames: 1\n";
    let digest = blake3::hash(b"BLENDER").to_hex().to_string();
    let problem =
        farm.post("/v1/runs", &json!({ "job": job })).await.refused(422, "missing_assets");
    let error = &problem["errors"][0];
    assert_eq!((&error["line"], &error["text"]), (&4.into(), &"  scene: scenes/a.blend".into()));
    assert!(error["message"].as_str().unwrap().contains("scenes/a.blend"), "{problem}");
    let assets = json!({ "scenes/a.blend": digest });
    let body = json!({ "job": job, "assets": assets });
    let problem = farm.post("/v1/runs", &body).await.refused(422, "missing_assets");
    assert!(problem["detail"].as_str().unwrap().contains("scenes/a.blend"), "{problem}");
    let dry = json!({ "job": job, "assets": assets, "dry_run": true });
    let plan = farm.post("/v1/runs", &dry).await.is(200)["plan"].clone();
    assert_eq!(plan["missing_assets"], json!(["scenes/a.blend"]));
    let put = farm.request(&farm.admin, Method::PUT, &format!("/v1/assets/{digest}"));
    farm.send(put.body("BLENDER")).await.is(201);
    let run = farm.post("/v1/runs", &body).await.is(201)["run"]["id"].clone();
    let run = pictor_tasks::message::RunId(run.as_str().unwrap().into());
    let plan = farm.store.run_plan(&run).await.unwrap().unwrap().plan;
    let plan: Json = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["files"]["scenes/a.blend"]["digest"], digest.as_str());
    assert_eq!(plan["files"]["scenes/a.blend"]["size_bytes"], 7);
    let bad = json!({ "job": job, "assets": { "scenes/a.blend": "abc" } });
    farm.post("/v1/runs", &bad).await.refused(400, "invalid_request");
    farm.stop().await;
}
