//! Routes that need no token: the description, the page to browse it, health, metrics; and routes that do not exist.

use crate::farm::{FILMS, TestFarm};
use reqwest::Method;
use serde_json::Value as Json;
use std::collections::BTreeSet;

#[tokio::test]
async fn the_description_is_whole() {
    let farm = TestFarm::idle().await;
    let answer = farm.call("", Method::GET, "/openapi.json", None).await;
    assert_eq!(answer.header("content-type"), "application/json");
    let description = answer.is(200);
    assert_eq!(description["openapi"], "3.1.0");
    let printed: Json = pictor_server::http::description().parse().unwrap();
    assert!(printed == description, "what is printed is not what is served");
    let mut ids = BTreeSet::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{name}");
            assert!(!operation["summary"].as_str().unwrap().is_empty(), "{name}");
            let default = &operation["responses"]["default"]["content"];
            let problem = &default["application/problem+json"]["schema"]["$ref"];
            assert_eq!(problem, "#/components/schemas/Problem", "{name}");
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(parameter["description"].is_string(), "{name}: {parameter}");
            }
        }
    }
    // Every schema that is referenced exists, and every field has a description.
    let schemas = description["components"]["schemas"].as_object().unwrap();
    let text = description.to_string();
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
    for (name, schema) in schemas {
        for (field, part) in schema["properties"].as_object().into_iter().flatten() {
            let mut forms = part["oneOf"].as_array().into_iter().flatten();
            let described = part["description"].is_string()
                || forms.any(|form| form["description"].is_string());
            assert!(described || name.starts_with("Page_"), "{name}.{field}: {part}");
        }
    }
    farm.stop().await;
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let farm = TestFarm::idle().await;
    let page = farm.call("", Method::GET, "/docs", None).await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    let text = page.text();
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!text.contains(outside), "{outside}");
    }
    farm.stop().await;
}

#[tokio::test]
async fn health_and_metrics_tell_how_the_server_is() {
    let farm = TestFarm::start().await;
    for path in ["/healthz", "/readyz"] {
        let health = farm.call("", Method::GET, path, None).await.is(200);
        assert_eq!(health, serde_json::json!({ "role": "owner", "owner": null }));
    }
    let id = farm.submit(&farm.admin, FILMS).await;
    farm.until_over(&id).await;
    let metrics = farm.call("", Method::GET, "/metrics", None).await;
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
    let metrics = metrics.text();
    for line in [
        "pictor_owner 1.0",
        "pictor_runs{state=\"succeeded\"} 1.0",
        "pictor_tasks{state=\"succeeded\"} 6.0",
        "pictor_tasks{state=\"running\"} 0.0",
        "pictor_assigned_tasks_total 6",
        "pictor_stale_messages_total 0",
        "pictor_commit_seconds_bucket{le=\"+Inf\"}",
        "pictor_http_request_seconds_count{method=\"POST\",path=\"/v1/runs\",status=\"201\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    assert_eq!(metrics.matches("# EOF").count(), 1);
    farm.stop().await;
}

#[tokio::test]
async fn what_does_not_exist_is_a_problem_too() {
    let farm = TestFarm::idle().await;
    for path in ["/", "/v1", "/v1/", "/v1/nothing", "/v2/runs", "/v1/runs/x/y/z", "/v1/runs/"] {
        farm.get(path).await.refused(404, "not_found");
    }
    for (method, path, allow) in [
        (Method::DELETE, "/v1/runs", "GET,HEAD,POST"),
        (Method::OPTIONS, "/v1/runs", "GET,HEAD,POST"),
        (Method::PUT, "/v1/runs/x", "GET,HEAD,PATCH"),
        (Method::GET, "/v1/runs/x/pause", "POST"),
    ] {
        let answer = farm.call(&farm.admin, method, path, None).await;
        answer.refused(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), allow, "{path}");
    }
    for path in ["/healthz", "/openapi.json", "/docs"] {
        let answer = farm.call("", Method::POST, path, None).await;
        answer.refused(405, "method_not_allowed");
        assert!(answer.header("allow").contains("GET"), "{path}: {:?}", answer.headers);
    }
    farm.stop().await;
}

#[tokio::test]
async fn every_whole_number_has_its_range_in_the_description() {
    let farm = TestFarm::idle().await;
    let description = farm.get("/openapi.json").await.is(200);
    let schemas = &description["components"]["schemas"];
    let range = |schema: &str, field: &str| {
        let part = &schemas[schema]["properties"][field];
        (part["minimum"].clone(), part["maximum"].clone())
    };
    assert_eq!(range("RunPatch", "priority"), ((-100).into(), 100.into()));
    assert_eq!(range("TryRef", "index"), (0.into(), u32::MAX.into()));
    assert_eq!(range("StepRef", "step"), (0.into(), u16::MAX.into()));
    assert_eq!(range("Inventory", "memory_bytes"), (0.into(), u64::MAX.into()));
    // And JSON may write one as a fraction.
    let id = farm.submit(&farm.admin, FILMS).await;
    let request = farm.request(&farm.admin, Method::PATCH, &format!("/v1/runs/{id}"));
    let request = request.header("content-type", "application/json");
    let patched = farm.send(request.body(r#"{"priority":3.0}"#)).await.is(200);
    assert_eq!(patched["run"]["priority"], 3);
    let request = farm.request(&farm.admin, Method::PATCH, &format!("/v1/runs/{id}"));
    let request = request.header("content-type", "application/json");
    farm.send(request.body(r#"{"priority":3.5}"#)).await.refused(400, "invalid_request");
    farm.stop().await;
}
