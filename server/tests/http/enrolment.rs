//! How machines enrol with a token, and what becomes of them when it is revoked.

use crate::farm::{Answer, Options, TestFarm};
use crate::machines::inventory;
use pictor_api::TokenRole;
use pictor_queue::{Address, Broker};
use pictor_server::http::{Limits, Quotas};
use pictor_test_servers::Vhost;
use reqwest::Method;
use serde_json::json;

async fn farm(quotas: Quotas) -> (TestFarm, Vhost) {
    let broker = tokio::task::spawn_blocking(|| {
        let server = pictor_test_servers::RabbitMq::start();
        let vhost = server.vhost();
        let address = Address::new(&vhost.amqp_url, None).unwrap();
        (Broker::new(address, Some(&server.management_url()), None).unwrap(), vhost)
    });
    let (broker, vhost) = broker.await.unwrap();
    let limits = Some(Limits { quotas, ..Limits::default() });
    let options = Options { idle: true, broker: Some(broker), limits, ..Options::default() };
    (TestFarm::with(options).await, vhost)
}

async fn enrol(farm: &TestFarm, token: &str, name: &str) -> Answer {
    let body = json!({ "name": name, "inventory": inventory(name) });
    farm.call(token, Method::POST, "/v1/workers", Some(&body)).await
}

/// The number and the token of a machine that enrols.
async fn machine(farm: &TestFarm, token: &str, name: &str) -> (u64, String) {
    let made = enrol(farm, token, name).await.is(201);
    (made["id"].as_u64().unwrap(), made["token"].as_str().unwrap().to_owned())
}

async fn revoke(farm: &TestFarm, token: &str, query: &str) -> Answer {
    let path = format!("/v1/tokens/{}{query}", token.split('_').nth(1).unwrap());
    farm.call(&farm.admin, Method::DELETE, &path, None).await
}

#[tokio::test]
async fn one_token_enrols_so_many_machines() {
    let (farm, _vhost) = farm(Quotas { machines: 2, ..Quotas::default() }).await;
    let enrolment = farm.token(TokenRole::Worker, "lab").await;
    let (_, first) = machine(&farm, &enrolment, "one").await;
    machine(&farm, &enrolment, "two").await;
    let problem = enrol(&farm, &enrolment, "three").await.refused(409, "quota_exceeded");
    assert!(problem["detail"].as_str().unwrap().contains("`machines` in `[quotas]`"), "{problem}");
    // A known machine is not another one, and one that is gone makes room.
    machine(&farm, &enrolment, "two").await;
    revoke(&farm, &first, "").await.is(200);
    machine(&farm, &enrolment, "three").await;
    enrol(&farm, &enrolment, "four").await.refused(409, "quota_exceeded");
    machine(&farm, &farm.token(TokenRole::Worker, "lab").await, "four").await;
    farm.stop().await;
}

#[tokio::test]
async fn a_revoked_enrolment_token_takes_its_machines_with_it() {
    let (farm, _vhost) = farm(Quotas::default()).await;
    let enrolment = farm.token(TokenRole::Worker, "lab").await;
    let other = farm.token(TokenRole::Worker, "lab").await;
    let (one, first) = machine(&farm, &enrolment, "one").await;
    let (two, second) = machine(&farm, &enrolment, "two").await;
    let (three, third) = machine(&farm, &other, "three").await;
    // With its own token it is enrolled by the same one as before.
    let (_, second) = machine(&farm, &second, "two").await;
    let beat = async |id: u64, token: &str| {
        let path = format!("/v1/workers/{id}/heartbeat");
        let body = json!({ "holding": [] });
        farm.call(token, Method::POST, &path, Some(&body)).await.status.as_u16()
    };
    assert_eq!((beat(one, &first).await, beat(two, &second).await), (200, 200));
    // Again as well, for a call that has not come to its end.
    for _ in 0..2 {
        let said = revoke(&farm, &enrolment, "").await.is(200);
        assert_eq!(said["machines"], json!([one, two]));
    }
    assert_eq!((beat(one, &first).await, beat(two, &second).await), (401, 401));
    assert_eq!(farm.get(&format!("/v1/workers/{two}")).await.is(200)["online"], false);
    assert_eq!(beat(three, &third).await, 200);
    let said = revoke(&farm, &other, "?keep_machines=true").await.is(200);
    assert_eq!((&said["machines"], beat(three, &third).await), (&json!([]), 200));
    enrol(&farm, &other, "four").await.refused(401, "unauthorized");
    farm.stop().await;
}
