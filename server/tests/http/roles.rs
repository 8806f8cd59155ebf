//! Permissions: every route of the description with every role.

use crate::farm::{FILMS, TestFarm};
use pictor_api::TokenRole;
use pictor_server::http::rules::{RULES, rule};
use reqwest::Method;
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// The routes of the description: method and path.
async fn routes(farm: &TestFarm) -> Vec<(String, String)> {
    let description = farm.get("/openapi.json").await.is(200);
    let mut routes = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            routes.push((method.to_uppercase(), path.clone()));
        }
    }
    routes
}

#[tokio::test]
async fn the_description_and_the_table_of_rules_have_the_same_routes() {
    let farm = TestFarm::idle().await;
    let described = routes(&farm).await;
    for (method, path) in &described {
        let open = ["/healthz", "/readyz", "/metrics"].contains(&path.as_str());
        assert_eq!(rule(method, path).is_none(), open, "{method} {path}");
    }
    for rule in RULES {
        let route = (rule.method.to_owned(), rule.path.to_owned());
        assert!(described.contains(&route), "{route:?}");
    }
    farm.stop().await;
}

#[tokio::test]
async fn every_route_lets_exactly_its_roles_through() {
    let farm = TestFarm::idle().await;
    let mut tokens = BTreeMap::new();
    for role in TokenRole::ALL {
        tokens.insert(role, farm.token(role, "somebody").await);
    }
    for (method, path) in routes(&farm).await {
        let Some(rule) = rule(&method, &path) else { continue };
        // Nothing has these names, so a permitted call changes nothing.
        let place = ["run", "task", "step", "path", "key", "digest", "execution"];
        let place = place
            .iter()
            .fold(path.clone(), |path, name| path.replace(&format!("{{{name}}}"), "nothing"));
        let place = place.replace("{id}", "77").replace("{index}", "0");
        let verb: Method = method.parse().unwrap();
        let nobody = farm.call("", verb.clone(), &place, None).await;
        nobody.refused(401, "unauthorized");
        for (role, token) in &tokens {
            let answer = if place == "/v1/events" {
                // The response has no end: its beginning is enough.
                let request = farm.request(token, verb.clone(), &place);
                request.send().await.unwrap().status().as_u16()
            } else {
                farm.call(token, verb.clone(), &place, None).await.status.as_u16()
            };
            let may = rule.roles.contains(role);
            assert_eq!(answer != 403, may, "{method} {path} as {}: {answer}", role.name());
        }
    }
    farm.stop().await;
}

#[tokio::test]
async fn submitters_see_and_change_only_what_is_their_accounts() {
    let farm = TestFarm::start().await;
    let anna = farm.token(TokenRole::Submitter, "anna").await;
    let bert = farm.token(TokenRole::Submitter, "bert").await;
    let viewer = farm.token(TokenRole::Viewer, "vera").await;
    let id = farm.submit(&anna, FILMS).await;
    farm.until_over(&id).await;
    let file = format!("/v1/runs/{id}/files/film.txt");
    let task = farm.get(&format!("/v1/runs/{id}/tasks/join")).await.is(200);
    let key = format!("/v1/artifacts/{}", task["outputs"][0]["key"].as_str().unwrap());
    for path in ["", "/graph", "/tasks", "/tasks/join", "/tasks/join/log", "/files"] {
        let path = format!("/v1/runs/{id}{path}");
        farm.call(&bert, Method::GET, &path, None).await.refused(404, "not_found");
        assert_eq!(farm.call(&anna, Method::GET, &path, None).await.status, 200);
        assert_eq!(farm.call(&viewer, Method::GET, &path, None).await.status, 200);
    }
    for path in [&file, &key] {
        farm.call(&bert, Method::GET, path, None).await.refused(404, "not_found");
        assert_eq!(farm.call(&anna, Method::GET, path, None).await.status, 200);
    }
    let events = format!("/v1/events?run={id}");
    farm.call(&bert, Method::GET, &events, None).await.refused(404, "not_found");
    for verb in ["pause", "resume", "cancel", "retry"] {
        let path = format!("/v1/runs/{id}/{verb}");
        farm.call(&bert, Method::POST, &path, None).await.refused(404, "not_found");
    }
    let reset = serde_json::json!({ "tasks": ["join"] });
    let path = format!("/v1/runs/{id}/reset");
    farm.call(&bert, Method::POST, &path, Some(&reset)).await.refused(404, "not_found");
    farm.call(&anna, Method::POST, &path, Some(&reset)).await.is(200);
    let of = async |token: &str, query: &str| {
        let page = farm.call(token, Method::GET, &format!("/v1/runs{query}"), None).await.is(200);
        page["items"].as_array().unwrap().len()
    };
    assert_eq!((of(&anna, "").await, of(&bert, "").await, of(&viewer, "").await), (1, 0, 1));
    assert_eq!((of(&bert, "?owner=anna").await, of(&anna, "?owner=anna").await), (0, 1));
    let other = farm.call(&bert, Method::GET, "/v1/runs?owner=anna", None).await.is(200);
    assert_eq!(other["next"], Json::Null);
    farm.stop().await;
}

/// Ids of other accounts do not exist for a submitter, whatever is asked about them.
#[tokio::test]
async fn a_submitter_learns_no_names_of_others() {
    let farm = TestFarm::idle().await;
    let (ada, bob) = (TokenRole::Submitter, TokenRole::Submitter);
    let (ada, bob) = (farm.token(ada, "ada").await, farm.token(bob, "bob").await);
    let (first, second) = (farm.submit(&bob, FILMS).await, farm.submit(&bob, FILMS).await);
    let get = async |token: &str, path: &str| farm.call(token, Method::GET, path, None).await;
    let beginning = format!("/v1/runs/{}", &first[..3]);
    get(&bob, &beginning).await.refused(409, "ambiguous_run");
    for path in [beginning.clone(), format!("/v1/runs/{first}"), format!("/v1/runs?after={second}")]
    {
        let problem = get(&ada, &path).await.refused(404, "not_found");
        assert!(path.contains(&second) || !problem.to_string().contains(&second), "{problem}");
    }
    // Nor does she learn of their machines, which whoever watches the farm sees.
    let (worker, _) = farm.machine("node").await;
    let viewer = farm.token(TokenRole::Viewer, "ada").await;
    for (token, count) in [(&ada, 0), (&viewer, 1)] {
        let page = get(token, "/v1/workers").await.is(200);
        assert_eq!(page["items"].as_array().unwrap().len(), count);
    }
    get(&ada, &format!("/v1/workers/{worker}")).await.refused(404, "not_found");
    // Her own run is found by its beginning although others begin like it.
    let own = farm.submit(&ada, FILMS).await;
    assert_eq!(get(&ada, &beginning).await.is(200)["id"], own);
    farm.stop().await;
}
