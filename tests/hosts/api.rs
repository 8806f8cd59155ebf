//! Requests to the farm's HTTP API, repeated: if one server does not answer, another one is tried.

use super::super::support::until;
use reqwest::{Client, Method, StatusCode};
use serde_json::Value as Json;
use std::cell::Cell;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Time limit for an answer, after which the server counts as frozen.
const ANSWER: Duration = Duration::from_secs(3);

/// A client with an administrator's token.
pub(crate) struct Api {
    runtime: Runtime,
    client: Client,
    servers: Vec<String>,
    current: Cell<usize>,
    token: String,
}

impl Api {
    pub(crate) fn new(servers: Vec<String>, token: String) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = pictor_net::client(ANSWER).timeout(ANSWER).build().unwrap();
        Self { runtime, client, servers, current: Cell::new(0), token }
    }

    /// One request to one server. Returns `None` if it did not answer.
    pub(crate) fn ask(
        &self,
        server: usize,
        method: Method,
        path: &str,
        body: Option<&Json>,
    ) -> Option<(StatusCode, String)> {
        let url = format!("{}{path}", self.servers[server % self.servers.len()]);
        let mut request = self.client.request(method, url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.runtime.block_on(async {
            let answer = request.send().await.ok()?;
            Some((answer.status(), answer.text().await.ok()?))
        })
    }

    /// The response of the first server that can act.
    pub(crate) fn call(&self, method: &Method, path: &str, body: Option<&Json>) -> Json {
        let mut found = None;
        until(path, || {
            match self.ask(self.current.get(), method.clone(), path, body) {
                Some((status, text)) if status.is_success() => found = Some(text),
                Some((status, text)) if status.is_client_error() => {
                    panic!("{method} {path}: {status}\n{text}")
                }
                _ => self.current.set(self.current.get() + 1),
            }
            found.is_some()
        });
        let text = found.expect("it was waited for");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}\n{text}"))
    }

    pub(crate) fn get(&self, path: &str) -> Json {
        self.call(&Method::GET, path, None)
    }

    pub(crate) fn post(&self, path: &str, body: &Json) -> Json {
        self.call(&Method::POST, path, Some(body))
    }

    /// Submits a job and returns the run's id.
    pub(crate) fn submit(&self, job: &str) -> String {
        let answer = self.post("/v1/runs", &serde_json::json!({ "job": job }));
        answer["run"]["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// The run's state and counts, as the API shows them.
    pub(crate) fn run(&self, run: &str) -> Json {
        self.get(&format!("/v1/runs/{run}"))
    }

    /// Waits until the run has succeeded.
    pub(crate) fn until_succeeded(&self, run: &str) {
        until("the run ends", || {
            let now = self.run(run);
            let state = now["state"].as_str().unwrap_or_default();
            assert!(matches!(state, "running" | "succeeded"), "{now:#}");
            state == "succeeded"
        });
    }

    /// Every item of a list, across its pages.
    pub(crate) fn all(&self, path: &str) -> Vec<Json> {
        let (mut items, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}?limit=1000{after}"));
            items.extend(page["items"].as_array().unwrap().iter().cloned());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return items,
            }
        }
    }

    /// The sum of the samples of one metric, over all servers that answer.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let servers = 0..self.servers.len();
        let told = servers.filter_map(|server| self.ask(server, Method::GET, "/metrics", None));
        told.map(|(_, text)| sum(&text, name)).sum()
    }
}

/// The sum of a metric's samples, whatever their labels.
fn sum(text: &str, name: &str) -> f64 {
    let value = |line: &str| {
        let (what, value) = line.rsplit_once(' ')?;
        let is_it = what.strip_prefix(name).is_some_and(|l| l.is_empty() || l.starts_with('{'));
        is_it.then(|| value.parse::<f64>().ok()).flatten()
    };
    text.lines().filter_map(value).sum()
}
