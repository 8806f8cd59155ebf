//! The matrix: every route with every role, about what is the caller's own and what is another account's. A route that is
//! in no line here fails.

use crate::farm::{FILMS, TestFarm};
use crate::machines::inventory;
use pictor_api::TokenRole;
use pictor_server::http::rules::{RULES, Rule};
use reqwest::{Body, Method};
use serde_json::{Value as Json, json};

/// What an account has.
struct Things {
    run: String,
    key: String,
    digest: String,
    schedule: String,
    worker: u32,
    machine: String,
    /// Id of a token.
    token: String,
}

async fn things(farm: &TestFarm, account: &str) -> Things {
    let token = farm.token(TokenRole::Submitter, account).await;
    let run = farm.submit(&token, FILMS).await;
    farm.until_over(&run).await;
    let task = farm.get(&format!("/v1/runs/{run}/tasks/join")).await.is(200);
    let bytes = format!("of {account}");
    let digest = blake3::hash(bytes.as_bytes()).to_hex().to_string();
    let put = farm.request(&token, Method::PUT, &format!("/v1/assets/{digest}")).body(bytes);
    farm.send(put).await.is(201);
    let nightly = schedule(&format!("nightly-{account}"), "@daily");
    farm.call(&token, Method::POST, "/v1/schedules", Some(&nightly)).await.is(201);
    let (worker, machine) = farm.machine_of(&format!("node-{account}"), account).await;
    let spare = farm.token(TokenRole::Viewer, account).await;
    Things {
        run,
        key: task["outputs"][0]["key"].as_str().unwrap().to_owned(),
        digest,
        schedule: format!("{account}/nightly-{account}"),
        worker,
        machine,
        token: spare.split('_').nth(1).unwrap().to_owned(),
    }
}

fn schedule(name: &str, cron: &str) -> Json {
    json!({ "name": name, "cron": cron, "zone": "UTC", "job": { "text": FILMS } })
}

/// The path and the body of a request to a route, about things.
#[expect(clippy::too_many_lines, reason = "a table")]
fn ask(rule: &Rule, about: &Things) -> (String, Body) {
    let id = match rule.path.split('/').nth(2) {
        Some("schedules") => about.schedule.replace('/', "%2F"),
        Some("workers") => about.worker.to_string(),
        _ => about.token.clone(),
    };
    let digest = if rule.method == "PUT" {
        // One that nobody has uploaded.
        blake3::hash(b"new").to_hex().to_string()
    } else {
        about.digest.clone()
    };
    let values = [
        ("{run}", &*about.run),
        ("{task}", "join"),
        ("{path}", "film.txt"),
        ("{key}", &*about.key),
        ("{digest}", &*digest),
        ("{id}", &*id),
        ("{step}", "make"),
        ("{index}", "0"),
        ("{execution}", "1-1"),
    ];
    let path =
        values.iter().fold(rule.path.to_owned(), |path, (name, value)| path.replace(name, value));
    let key = json!({ "run": about.run, "step": 0, "generation": 0 });
    let task = json!({ "index": 0, "attempt": 1 });
    let body = match (rule.method, rule.path) {
        (
            "GET",
            "/v1/runs"
            | "/v1/runs/{run}"
            | "/v1/runs/{run}/graph"
            | "/v1/runs/{run}/tasks"
            | "/v1/runs/{run}/tasks/{task}"
            | "/v1/runs/{run}/tasks/{task}/log"
            | "/v1/runs/{run}/files"
            | "/v1/runs/{run}/files/{path}"
            | "/v1/artifacts/{key}"
            | "/v1/workers"
            | "/v1/workers/{id}"
            | "/v1/workers/{id}/artifacts/{key}"
            | "/v1/workers/{id}/assets/{digest}"
            | "/v1/schedules"
            | "/v1/schedules/{id}"
            | "/v1/webhooks"
            | "/v1/tokens"
            | "/v1/audit",
        )
        | (
            "POST",
            "/v1/runs/{run}/pause"
            | "/v1/runs/{run}/resume"
            | "/v1/runs/{run}/cancel"
            | "/v1/schedules/{id}/pause"
            | "/v1/schedules/{id}/resume"
            | "/v1/schedules/{id}/trigger"
            | "/v1/workers/{id}/left",
        )
        | ("DELETE", "/v1/schedules/{id}" | "/v1/tokens/{id}") => return (path, Body::default()),
        ("GET", "/v1/events") => return (format!("{path}?run={}", about.run), Body::default()),
        ("PUT", "/v1/assets/{digest}") => return (path, "new".into()),
        ("PUT", "/v1/workers/{id}/artifacts/{key}") => return (path, "x".into()),
        ("PUT", "/v1/workers/{id}/logs/{run}/{step}/{index}/{execution}") => {
            return (format!("{path}?offset=0"), "x".into());
        }
        ("POST", "/v1/runs") => json!({ "job": FILMS, "dry_run": true }),
        ("PATCH", "/v1/runs/{run}") => json!({ "priority": 1 }),
        ("POST", "/v1/runs/{run}/retry" | "/v1/runs/{run}/reset") => {
            json!({ "tasks": ["join"], "dry_run": true })
        }
        ("POST", "/v1/assets/missing") => json!({ "digests": [about.digest] }),
        ("POST", "/v1/workers") => json!({ "name": "new", "inventory": inventory("new") }),
        ("PATCH", "/v1/workers/{id}") => json!({ "state": "enabled" }),
        ("POST", "/v1/workers/{id}/heartbeat") => json!({ "holding": [] }),
        ("POST", "/v1/workers/{id}/inputs") => json!({ "key": key, "task": task }),
        ("POST", "/v1/workers/{id}/outputs") => json!({
            "key": key, "task": task, "execution": 1, "step": "make", "file": "a", "size_bytes": 1,
        }),
        // It adds none: there is no such time.
        ("POST", "/v1/schedules") => schedule("new", "never"),
        ("PUT", "/v1/schedules/{id}") => schedule(&about.schedule, "@hourly"),
        ("POST", "/v1/tokens") => json!({ "name": "n", "role": "viewer", "account": "a" }),
        (method, path) => panic!("nobody has said what {method} {path} is about"),
    };
    (path, body.to_string().into())
}

/// Whether a route is about one thing, which its path or query names.
fn names_one(rule: &Rule) -> bool {
    let of_account = ["{run}", "{key}", "{id}"];
    rule.path == "/v1/events" || of_account.iter().any(|name| rule.path.contains(name))
}

#[tokio::test]
async fn every_role_reaches_what_is_its_own_and_nothing_else() {
    let farm = TestFarm::start().await;
    let (own, foreign) = (things(&farm, "ada").await, things(&farm, "bob").await);
    let restore = async |things: &Things| farm.registry.schedule(&things.schedule).await.unwrap();
    let schedules = [restore(&own).await.unwrap(), restore(&foreign).await.unwrap()];
    for rule in RULES {
        for role in TokenRole::ALL {
            let token = match role {
                TokenRole::Machine => own.machine.clone(),
                role => farm.token(role, "ada").await,
            };
            for (about, is_own) in [(&own, true), (&foreign, false)] {
                let (path, body) = ask(rule, about);
                let request = farm.request(&token, rule.method.parse().unwrap(), &path);
                let request = request.header("content-type", "application/json").body(body);
                let said = path.replace("%2F", "/");
                let case = format!("{} {path} as {}", rule.method, role.name());
                if rule.path == "/v1/events" && rule.roles.contains(&role) {
                    // The response has no end: its beginning is enough.
                    let hidden = !is_own && role == TokenRole::Submitter;
                    let status = request.send().await.unwrap().status().as_u16();
                    assert_eq!(status, if hidden { 404 } else { 200 }, "{case}");
                    continue;
                }
                let answer = farm.send(request).await;
                let status = answer.status.as_u16();
                let closed = status == 403 && answer.json()["code"] == "forbidden";
                let case = format!("{case}: {status} {}", answer.text());
                if !rule.roles.contains(&role) {
                    assert!(closed, "{case}");
                } else if role == TokenRole::Machine && rule.path.contains("{id}") {
                    let other = answer.text().contains("the token is not that of worker");
                    assert_eq!(other, !is_own, "{case}");
                } else if role == TokenRole::Submitter && !is_own {
                    // A schedule of this name cannot be made either.
                    let hidden = if rule.method == "PUT" { 422 } else { 404 };
                    assert_eq!(status == hidden, names_one(rule), "{case}");
                    for secret in [&about.run, &about.schedule, "node-bob"] {
                        let hidden = said.contains(secret) || !answer.text().contains(secret);
                        assert!(hidden, "{case}");
                    }
                    if rule.path == "/v1/assets/missing" {
                        assert_eq!(answer.json()["missing"], json!([about.digest]), "{case}");
                    }
                } else if rule.roles.contains(&TokenRole::Submitter) {
                    assert!(!matches!(status, 401 | 403 | 404), "{case}");
                } else {
                    assert!(!closed && status != 401, "{case}");
                }
                for schedule in &schedules {
                    farm.registry.put_schedule(schedule).await.unwrap();
                }
            }
        }
    }
    farm.stop().await;
}
