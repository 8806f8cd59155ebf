//! Server-sent events: in order, and resumed after a disconnection.

use crate::farm::{FILMS, TestFarm};
use pictor_api::TokenRole;
use reqwest::{Method, Response};
use serde_json::{Value as Json, json};

/// One event: id, name and data.
type Event = (String, String, Json);

/// A client that receives events.
struct Listener {
    response: Response,
    text: String,
}

impl Listener {
    async fn open(farm: &TestFarm, token: &str, query: &str, last: Option<&str>) -> Self {
        let request = farm.request(token, Method::GET, &format!("/v1/events{query}"));
        let request = last.into_iter().fold(request, |r, last| r.header("last-event-id", last));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    async fn next(&mut self) -> Event {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let lines = event.lines().find_map(|line| line.strip_prefix(name));
                    lines.unwrap_or_default().trim().to_owned()
                };
                let (id, name, data) = (field("id:"), field("event:"), field("data:"));
                let rest = rest.to_owned();
                self.text = rest;
                if !data.is_empty() {
                    return (id, name, serde_json::from_str(&data).unwrap());
                }
                continue;
            }
            let piece = self.response.chunk().await.unwrap().expect("it goes on");
            self.text += std::str::from_utf8(&piece).unwrap();
        }
    }

    async fn take_until(&mut self, is_last: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            events.push(self.next().await);
            if is_last(&events[events.len() - 1]) {
                return events;
            }
        }
    }
}

fn over(event: &Event) -> bool {
    event.1 == "run" && event.2["state"] == "succeeded"
}

/// The events that are rows of history.
fn rows(events: &[Event]) -> Vec<Event> {
    events.iter().filter(|event| event.1 != "run").cloned().collect()
}

#[tokio::test]
async fn a_run_tells_its_whole_history_and_goes_on_from_any_event() {
    let farm = TestFarm::start().await;
    farm.owner.ask(|_| ()).await.unwrap();
    let id = farm.submit(&farm.admin, FILMS).await;
    let query = format!("?run={id}");
    let mut live = Listener::open(&farm, &farm.admin, &query, Some("0")).await;
    let all = rows(&live.take_until(over).await);
    let seqs: Vec<u64> = all.iter().map(|event| event.0.parse().unwrap()).collect();
    assert_eq!(seqs, (1..=all.len() as u64).collect::<Vec<_>>());
    let ends = all.iter().filter(|event| event.2["state"] == "succeeded").count();
    assert_eq!(ends, 6);
    let join = &all[all.len() - 1];
    assert_eq!((&*join.1, &join.2["task"]), ("task", &"join".into()));
    assert_eq!(all[0].2["run"], id.as_str());
    let named = all.iter().any(|event| event.2["task"] == "make[frame=3]");
    assert!(named, "{all:?}");
    // Resumed in the middle: exactly the rest, then the state.
    for last in [0, 3, all.len() - 1, all.len()] {
        let mut again = Listener::open(&farm, &farm.admin, &query, Some(&last.to_string())).await;
        assert_eq!(rows(&again.take_until(over).await), all[last..]);
    }
    // The same with the query parameter.
    let from = format!("{query}&last_event_id=5");
    let mut again = Listener::open(&farm, &farm.admin, &from, None).await;
    assert_eq!(rows(&again.take_until(over).await), all[5..]);
    // Without a last event the stream begins with the current state.
    let mut now = Listener::open(&farm, &farm.admin, &query, None).await;
    let (_, name, data) = now.next().await;
    assert_eq!((&*name, data), ("run", json!({ "run": id, "state": "succeeded" })));
    // After an unknown event everything has to be looked up again.
    let mut strange = Listener::open(&farm, &farm.admin, &query, Some("999")).await;
    let (last, name, _) = strange.next().await;
    assert_eq!((&*name, last), ("reset", all.len().to_string()));
    let bad = farm.request(&farm.admin, Method::GET, &format!("/v1/events{query}"));
    farm.send(bad.header("last-event-id", "x-1")).await.refused(400, "invalid_request");
    farm.stop().await;
}

#[tokio::test]
async fn the_farm_tells_of_all_runs_and_of_controls() {
    let farm = TestFarm::start().await;
    let mut live = Listener::open(&farm, &farm.admin, "", None).await;
    let id = farm.submit(&farm.admin, FILMS).await;
    let path = format!("/v1/runs/{id}");
    farm.call(&farm.admin, Method::PATCH, &path, Some(&json!({ "priority": 4 }))).await;
    let all = live.take_until(over).await;
    assert_eq!(all[0].2, json!({ "run": id, "state": "running" }));
    let ends = all.iter().filter(|e| e.1 == "task" && e.2["state"] == "succeeded").count();
    assert_eq!(ends, 6);
    let control = all.iter().find(|event| event.1 == "control");
    if let Some((_, _, data)) = control {
        assert_eq!((&data["change"], &data["priority"]), (&"priority".into(), &4.into()));
    }
    for last in [0, 2, all.len() - 2] {
        let mut again = Listener::open(&farm, &farm.admin, "", Some(&all[last].0)).await;
        assert_eq!(again.take_until(over).await, all[last + 1..]);
    }
    let mut late = Listener::open(&farm, &farm.admin, "", Some("1-1-1")).await;
    let (reset, name, _) = late.next().await;
    assert_eq!(name, "reset");
    // From there the stream continues.
    let mut on = Listener::open(&farm, &farm.admin, "", Some(&reset)).await;
    let other = farm.submit(&farm.admin, FILMS).await;
    assert_eq!(on.next().await.2, json!({ "run": other, "state": "running" }));
    farm.stop().await;
}

#[tokio::test]
async fn submitters_hear_of_their_own_runs_only() {
    let farm = TestFarm::start().await;
    let anna = farm.token(TokenRole::Submitter, "anna").await;
    let bert = farm.token(TokenRole::Submitter, "bert").await;
    let mut live = Listener::open(&farm, &bert, "", None).await;
    let others = farm.submit(&anna, FILMS).await;
    farm.until_over(&others).await;
    let own = farm.submit(&bert, FILMS).await;
    let all = live.take_until(over).await;
    assert!(all.iter().all(|event| event.2["run"] == own.as_str()), "{all:?}");
    farm.stop().await;
}
