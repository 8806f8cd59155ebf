//! Tokens: created, shown once, checked, revoked; and the audit log.

use crate::farm::{FILMS, TestFarm};
use pictor_api::TokenRole;
use reqwest::Method;
use serde_json::{Value as Json, json};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;
use std::collections::BTreeMap;

#[tokio::test]
async fn a_token_works_until_it_is_revoked() {
    let farm = TestFarm::idle().await;
    let body = json!({ "name": "a laptop", "role": "viewer", "account": "anna" });
    let made = farm.post("/v1/tokens", &body).await.is(201);
    let (token, id) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert!(token.starts_with(&format!("pictor_{id}_")), "{made}");
    farm.call(token, Method::GET, "/v1/runs", None).await.is(200);
    let listed = farm.get("/v1/tokens").await.is(200);
    let listed = listed["items"].as_array().unwrap();
    assert_eq!(
        listed[1],
        json!({
            "id": id, "name": "a laptop", "role": "viewer", "account": "anna",
            "created_ms": made["created_ms"], "revoked_ms": null,
        })
    );
    let first = farm.get("/v1/tokens?limit=1").await.is(200);
    let next = format!("/v1/tokens?limit=1&after={}", first["next"].as_str().unwrap());
    let second = farm.get(&next).await.is(200);
    assert_eq!((&second["items"][0]["id"], &second["next"]), (&id.into(), &Json::Null));

    let path = format!("/v1/tokens/{id}");
    farm.call(&farm.admin, Method::DELETE, &path, None).await.is(200);
    // At once, although the token was cached.
    let refused = farm.call(token, Method::GET, "/v1/runs", None).await;
    refused.refused(401, "unauthorized");
    assert_eq!(refused.header("www-authenticate"), "Bearer");
    farm.call(&farm.admin, Method::DELETE, "/v1/tokens/nobody", None)
        .await
        .refused(404, "not_found");
    let own = format!("/v1/tokens/{}", farm.admin.split('_').nth(1).unwrap());
    farm.call(&farm.admin, Method::DELETE, &own, None).await.refused(409, "conflict");
    farm.stop().await;
}

#[tokio::test]
async fn a_damaged_token_is_listed_with_the_others_and_can_be_revoked() {
    let farm = TestFarm::idle().await;
    let (id, token) = damaged_token(&farm).await;
    let listed = async || {
        let tokens = farm.get("/v1/tokens").await.is(200)["items"].take();
        let tokens = tokens.as_array().unwrap().iter();
        let by_account =
            |token: &Json| (token["account"].as_str().unwrap().to_owned(), token.clone());
        tokens.map(by_account).collect::<BTreeMap<String, Json>>()
    };
    let tokens = listed().await;
    assert_eq!(tokens["root"]["role"], "admin");
    assert_eq!(
        (&tokens["vera"]["role"], &tokens["vera"]["id"]),
        (&Json::Null, &id.as_str().into())
    );
    let used = farm.request(&token, Method::GET, "/v1/runs").send().await.unwrap();
    assert!(!used.status().is_success(), "{}", used.status());

    farm.call(&farm.admin, Method::DELETE, &format!("/v1/tokens/{id}"), None).await.is(200);
    assert!(listed().await["vera"]["revoked_ms"].is_i64());
    farm.stop().await;
}

/// A viewer's token whose role in the database is a word that nothing understands: its id, and the token.
async fn damaged_token(farm: &TestFarm) -> (String, String) {
    let token = farm.token(TokenRole::Viewer, "vera").await;
    let id = token.split('_').nth(1).unwrap().to_owned();
    let file = SqliteConnectOptions::new().filename(farm.path("pictor.sqlite"));
    // The table refuses such a word itself.
    let mut on = file.pragma("ignore_check_constraints", "on").connect().await.unwrap();
    let damage = sqlx::query("UPDATE token SET role = 'emperor' WHERE id = $1").bind(&id);
    assert_eq!(damage.execute(&mut on).await.unwrap().rows_affected(), 1);
    (id, token)
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    let farm = TestFarm::idle().await;
    let (id, secret) = farm.admin["pictor_".len()..].split_once('_').unwrap();
    let other = secret.chars().rev().collect::<String>();
    for wrong in [
        String::new(),
        "Bearer".to_owned(),
        "Bearer nonsense".to_owned(),
        format!("Basic {}", farm.admin),
        format!("Bearer pictor_{id}_{other}"),
        format!("Bearer pictor_{}_{secret}", id.chars().rev().collect::<String>()),
        format!("Bearer pictor_{id}_"),
    ] {
        let request = farm.request("", Method::GET, "/v1/runs").header("authorization", &wrong);
        farm.send(request).await.refused(401, "unauthorized");
    }
    farm.call("", Method::GET, "/v1/runs", None).await.refused(401, "unauthorized");
    for bad in [
        json!({ "name": "", "role": "viewer", "account": "a" }),
        json!({ "name": "n", "role": "king", "account": "a" }),
        json!({ "name": "n", "role": "machine", "account": "a" }),
        json!({ "name": "n", "role": "viewer", "account": "a b" }),
        json!({ "name": "n\n", "role": "viewer", "account": "a" }),
        json!({ "name": "n", "role": "viewer" }),
    ] {
        farm.post("/v1/tokens", &bad).await.refused(400, "invalid_request");
    }
    farm.stop().await;
}

#[tokio::test]
async fn every_change_is_in_the_audit_log_and_so_is_every_refusal() {
    let farm = TestFarm::idle().await;
    let viewer = farm.token(TokenRole::Viewer, "vera").await;
    let id = farm.submit(&farm.admin, FILMS).await;
    farm.post(&format!("/v1/runs/{id}/pause"), &Json::Null).await.is(200);
    farm.post("/v1/runs/nobody/pause", &Json::Null).await.refused(404, "not_found");
    let path = format!("/v1/runs/{id}/cancel");
    farm.call(&viewer, Method::POST, &path, None).await.refused(403, "forbidden");
    farm.post("/v1/runs", &json!({ "job": "pictor: v1" })).await.refused(422, "invalid_job");
    farm.get("/v1/runs").await.is(200);
    let log = farm.get("/v1/audit").await.is(200);
    let log = log["items"].as_array().unwrap();
    let said: Vec<_> = log
        .iter()
        .map(|entry| {
            let text = |field: &str| entry[field].as_str().unwrap().to_owned();
            let detail = &entry["detail"];
            (text("account"), text("action"), text("target"), detail["code"].clone())
        })
        .collect();
    let line = |account: &str, action: &str, target: String, code: Json| {
        (account.to_owned(), action.to_owned(), target, code)
    };
    assert_eq!(
        said,
        [
            line("root", "run.submit", "runs".into(), "invalid_job".into()),
            line("vera", "run.cancel", format!("runs/{id}/cancel"), "forbidden".into()),
            line("root", "run.pause", "runs/nobody/pause".into(), "not_found".into()),
            line("root", "run.pause", format!("runs/{id}/pause"), Json::Null),
            line("root", "run.submit", format!("runs/{id}"), Json::Null),
        ]
    );
    assert_eq!(log[4]["detail"], json!({ "outcome": "done", "status": 201, "code": null }));
    assert_eq!(log[1]["detail"]["outcome"], "refused");
    assert_eq!(log[0]["address"], "127.0.0.1");
    let first = farm.get("/v1/audit?limit=4").await.is(200);
    let next = format!("/v1/audit?limit=4&after={}", first["next"].as_str().unwrap());
    assert_eq!(farm.get(&next).await.is(200)["items"][0], log[4]);
    farm.stop().await;
}
