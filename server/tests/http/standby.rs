//! A standby: it forwards every request, even with an endless response, and reports when nobody owns the farm.

use crate::farm::{FILMS, TestFarm};
use pictor_server::ServerRole;
use reqwest::Method;
use serde_json::{Value as Json, json};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;

#[tokio::test]
async fn a_standby_passes_everything_on() {
    let (owner, standby) = (TestFarm::start().await, TestFarm::idle().await);
    let own = standby.admin.clone();
    // Servers of one farm share a secret in their database.
    let secret = owner.store.owner().await.unwrap().unwrap().ticket_key;
    let file = SqliteConnectOptions::new().filename(standby.path("pictor.sqlite"));
    let share = sqlx::query("UPDATE ownership SET ticket_key = $1").bind(&secret[..]);
    share.execute(&mut file.connect().await.unwrap()).await.unwrap();
    standby.be.send_replace(ServerRole::Standby { owner: Some(owner.url.clone()) });
    // The owner's tokens are the valid ones now.
    standby.call(&own, Method::GET, "/v1/runs", None).await.refused(401, "unauthorized");
    let token = &owner.admin;
    let health = standby.call("", Method::GET, "/readyz", None).await.is(200);
    assert_eq!(health, json!({ "role": "standby", "owner": owner.url }));
    let request = standby.request(token, Method::GET, "/v1/events");
    let mut events = request.send().await.unwrap();
    let id = standby.submit(token, FILMS).await;
    let first = events.chunk().await.unwrap().unwrap();
    assert!(std::str::from_utf8(&first).unwrap().contains(&id));
    owner.until_over(&id).await;
    let path = format!("/v1/runs/{id}/files/frames/0003.txt");
    let part = standby.request(token, Method::GET, &path).header("range", "bytes=0-2");
    let part = standby.send(part).await;
    assert_eq!((part.status.as_u16(), part.text()), (206, "pic".to_owned()));
    let big = vec![b'x'; 3 << 20];
    let digest = blake3::hash(&big).to_hex().to_string();
    let put = standby.request(token, Method::PUT, &format!("/v1/assets/{digest}"));
    standby.send(put.body(big)).await.is(201);
    standby.call(token, Method::GET, "/v1/runs/none", None).await.refused(404, "not_found");
    let log = owner.get("/v1/audit?limit=1").await.is(200);
    assert_eq!(log["items"][0]["address"], "127.0.0.1 by 127.0.0.1");
    // From anybody else that is only a claim.
    let pause = owner.request(token, Method::POST, "/v1/runs/none/pause");
    let pause = pause.header("x-pictor-forwarded", "6.6.6.6");
    let pause = pause.header("x-pictor-forwarded-proof", "0".repeat(64));
    owner.send(pause).await.refused(404, "not_found");
    let log = owner.get("/v1/audit?limit=1").await.is(200);
    assert_eq!(log["items"][0]["address"], "127.0.0.1");
    // Two servers that take each other for the owner do not forward requests for ever.
    owner.be.send_replace(ServerRole::Standby { owner: Some(standby.url.clone()) });
    standby.call(token, Method::GET, "/v1/runs", None).await.refused(503, "no_owner");
    standby.stop().await;
    owner.stop().await;
}

#[tokio::test]
async fn without_an_owner_clients_are_asked_to_come_back() {
    let farm = TestFarm::start().await;
    for owner in [None, Some("http://127.0.0.1:1".to_owned())] {
        farm.be.send_replace(ServerRole::Standby { owner });
        let refused = farm.get("/v1/runs").await;
        refused.refused(503, "no_owner");
        assert_eq!(refused.header("retry-after"), "1");
    }
    farm.be.send_replace(ServerRole::Standby { owner: None });
    farm.call("", Method::GET, "/readyz", None).await.refused(503, "no_owner");
    farm.call("", Method::GET, "/healthz", None).await.is(200);
    assert!(farm.get("/metrics").await.text().contains("pictor_owner 0.0"));
    // An owner that ends during a query.
    farm.be.send_replace(ServerRole::Owner(farm.owner.clone()));
    let id = farm.submit(&farm.admin, FILMS).await;
    farm.until_over(&id).await;
    farm.owner.stop().await;
    let path = format!("/v1/runs/{id}/retry");
    farm.post(&path, &Json::Null).await.refused(503, "no_owner");
    farm.stop().await;
}
