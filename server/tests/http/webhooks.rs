//! The status of webhooks, as operators see it.

use crate::farm::{Options, TestFarm};
use pictor_server::now_ms;
use pictor_server::webhook::{EventKind, HookConfig};
use pictor_storage::Delivery;
use pictor_tasks::units::Millis;
use serde_json::{Value as Json, json};

#[tokio::test]
async fn operators_see_what_waits_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let secret_file = folder.path().join("secret");
    std::fs::write(&secret_file, "0123456789abcdefghijklmnopqrstuv").unwrap();
    let hook = |name: &str, events: &[EventKind]| HookConfig {
        name: name.to_owned(),
        url: format!("https://{name}.example/a/secret/path"),
        secret_file: secret_file.clone(),
        events: events.to_vec(),
        timeout: Millis(1000),
    };
    let hooks = vec![hook("mail", &EventKind::all()), hook("chat", &[EventKind::RunFailed])];
    let farm = TestFarm::with(Options { idle: true, hooks, ..Options::default() }).await;
    let quiet = json!({
        "name": "chat", "host": "chat.example", "events": ["run.failed"], "waiting": 0,
        "attempts": 0, "error": "", "given_up": 0, "delivered_ms": null,
    });
    let page = farm.get("/v1/webhooks").await.is(200);
    assert_eq!((&page["items"][0], &page["next"]), (&quiet, &Json::Null));
    assert_eq!(page["items"][1]["name"], "mail");
    assert!(!page.to_string().contains("secret"), "{page}");

    let (hook, now) = ("chat".to_owned(), now_ms());
    let message = Delivery { hook, event_id: "evt_1".into(), next_ms: now, ..Delivery::default() };
    farm.registry.add_deliveries(&[message]).await.unwrap();
    let stored = farm.registry.deliveries("chat", 10).await.unwrap();
    farm.registry.delivery_failed(stored[0].number, "it is asleep", now).await.unwrap();
    let page = farm.get("/v1/webhooks?limit=1").await.is(200);
    let chat = &page["items"][0];
    assert_eq!((&chat["waiting"], &chat["attempts"]), (&1.into(), &1.into()));
    assert_eq!((&chat["error"], &page["next"]), (&"it is asleep".into(), &"chat".into()));
    farm.registry.delivery_done(stored[0].number, now).await.unwrap();
    let page = farm.get("/v1/webhooks").await.is(200);
    assert_eq!(
        (&page["items"][0]["waiting"], &page["items"][0]["delivered_ms"]),
        (&0.into(), &now.into())
    );
    let rest = farm.get("/v1/webhooks?limit=1&after=chat").await.is(200);
    assert_eq!((&rest["items"][0]["name"], &rest["next"]), (&"mail".into(), &Json::Null));
    farm.stop().await;
}
