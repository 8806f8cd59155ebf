//! A database that cannot be written or does not respond: reads are answered nevertheless, changes are rejected, nobody
//! waits, and afterwards everything continues by itself.

use crate::farm::{FILMS, Options, TestFarm};
use pictor_test_servers::Postgres;
use reqwest::Method;
use serde_json::{Value as Json, json};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Time limit for every response.
const SOON: Duration = Duration::from_secs(5);

async fn private() -> (Postgres, TestFarm, String) {
    let postgres = tokio::task::spawn_blocking(Postgres::private).await.unwrap();
    let database = postgres.database();
    let options = Options { database: Some(database.clone()), ..Options::default() };
    let farm = TestFarm::with(options).await;
    let (id, _) = farm.machine("node").await;
    // It was registered behind the server's back, which reads all workers again after a change of one.
    let enabled = json!({ "state": "enabled" });
    let path = format!("/v1/workers/{id}");
    farm.call(&farm.admin, Method::PATCH, &path, Some(&enabled)).await.is(200);
    (postgres, farm, database)
}

/// Waits until the server reports that there is an outage, or none: then it has renewed its snapshot since.
async fn until_outage(farm: &TestFarm, wanted: bool) {
    let looks = async {
        loop {
            let health = farm.call("", Method::GET, "/healthz", None).await.is(200);
            if health["outage"].is_string() == wanted {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), looks).await.unwrap();
}

/// Waits until the server has renewed its snapshot.
async fn renewed(postgres: &Postgres, farm: &TestFarm) {
    postgres.freeze();
    until_outage(farm, true).await;
    postgres.thaw();
    until_outage(farm, false).await;
}

/// Sends a GET request; the response must come soon and say how old it is.
async fn old(farm: &TestFarm, path: &str) -> Json {
    let asked = Instant::now();
    let answer = farm.get(path).await;
    assert!(asked.elapsed() < SOON, "{path} after {:?}", asked.elapsed());
    let json = answer.is(200);
    assert!(
        answer.header("age").parse::<u64>().is_ok_and(|age| age < 60),
        "{path}: {:?}",
        answer.headers
    );
    assert_ne!(answer.header("pictor-stale"), "", "{path}");
    json
}

/// Checks the responses of a farm that cannot use its database, and whose run `id` had ended before.
async fn check(farm: &TestFarm, id: &str) {
    let list = old(farm, "/v1/runs").await;
    let run = list["items"].as_array().unwrap().iter().find(|run| run["id"] == id).unwrap();
    assert_eq!((&run["state"], &run["tasks"]["succeeded"]), (&json!("succeeded"), &json!(6)));
    let few = old(farm, "/v1/runs?state=succeeded&limit=1").await;
    assert_eq!(few["items"][0]["id"], id);
    let run = old(farm, &format!("/v1/runs/{id}")).await;
    assert_eq!((&run["steps"][0]["tasks"]["succeeded"], &run["failures"]), (&json!(5), &json!([])));
    let workers = old(farm, "/v1/workers").await;
    assert_eq!(workers["items"][0]["name"], "node");
    let worker = workers["items"][0]["id"].as_u64().unwrap();
    assert_eq!(old(farm, &format!("/v1/workers/{worker}")).await["name"], "node");
    let asked = Instant::now();
    let metrics = farm.call("", Method::GET, "/metrics", None).await;
    let text = metrics.text();
    assert!(text.contains("pictor_tasks{state=\"succeeded\"} 6.0"), "{text}");
    assert!(
        text.contains("pictor_outage_seconds") && !text.contains("pictor_outage_seconds 0.0"),
        "{text}"
    );
    farm.call("", Method::GET, "/readyz", None).await.refused(503, "unavailable");
    assert!(asked.elapsed() < 2 * SOON);
    for (method, path, body) in [
        (Method::POST, "/v1/runs".to_owned(), json!({ "job": FILMS })),
        (
            Method::PUT,
            "/v1/schedules/nightly".to_owned(),
            json!({ "name": "nightly", "cron": "0 2 * * *", "job": FILMS }),
        ),
        (Method::PUT, format!("/v1/assets/{}", blake3::hash(b"\"a file\"")), json!("a file")),
        (Method::POST, format!("/v1/workers/{worker}/heartbeat"), json!({ "holding": [] })),
        (Method::PATCH, format!("/v1/workers/{worker}"), json!({ "state": "disabled" })),
        (
            Method::POST,
            "/v1/tokens".to_owned(),
            json!({ "name": "x", "role": "viewer", "account": "x" }),
        ),
    ] {
        let asked = Instant::now();
        let answer = farm.call(&farm.admin, method, &path, Some(&body)).await;
        assert!(asked.elapsed() < SOON, "{path} after {:?}", asked.elapsed());
        assert!(matches!(answer.status.as_u16(), 503 | 403 | 400), "{path}: {}", answer.text());
        assert!(
            answer.status.as_u16() == 503 || path.ends_with("heartbeat"),
            "{path}: {}",
            answer.text()
        );
    }
}

/// Two tasks at a time that each take a while, and append a line to a file when they begin.
fn slow(executed: &Path) -> String {
    format!(
        "pictor: v1\nname: slow\ndims: {{ i: {{ count: 4 }} }}\nsteps:\n- name: wait\n  over: [i]\n  command: \
         {{ run: [sh, -c, 'echo >> {}; sleep 1'] }}\n",
        executed.display()
    )
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

async fn until_begun(executed: &Path) {
    let begun = async {
        while lines(executed) == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), begun).await.unwrap();
}

#[tokio::test]
async fn a_frozen_database_keeps_nobody_waiting_and_nothing_is_lost_or_done_twice() {
    let (postgres, farm, _) = private().await;
    let films = farm.submit(&farm.admin, FILMS).await;
    farm.until_over(&films).await;
    farm.get("/v1/runs").await.is(200);
    renewed(&postgres, &farm).await;
    let executed = farm.path("shared/executed");
    let run = farm.submit(&farm.admin, &slow(&executed)).await;
    until_begun(&executed).await;
    postgres.freeze();
    until_outage(&farm, true).await;
    check(&farm, &films).await;
    postgres.thaw();
    until_outage(&farm, false).await;
    farm.until_over(&run).await;
    assert_eq!(lines(&executed), 4, "nothing was done twice");
    let answer = farm.get(&format!("/v1/runs/{run}")).await;
    assert_eq!((answer.is(200)["state"].as_str(), answer.header("age")), (Some("succeeded"), ""));
    farm.call("", Method::GET, "/readyz", None).await.is(200);
    farm.stop().await;
}

#[tokio::test]
async fn a_database_that_is_read_only_for_a_while_answers_questions_and_goes_on_by_itself() {
    let (postgres, farm, database) = private().await;
    let films = farm.submit(&farm.admin, FILMS).await;
    farm.until_over(&films).await;
    // This outage is noticed only at the next write, so the server has to have renewed its snapshot before.
    renewed(&postgres, &farm).await;
    let name: String = database.rsplit('/').next().unwrap().to_owned();
    let read_only = |on: &str| {
        let sql = format!(
            "ALTER DATABASE {name} SET default_transaction_read_only = {on}; SELECT \
             count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'"
        );
        postgres.query(&postgres.url(), &sql);
    };
    let executed = farm.path("shared/executed");
    let run = farm.submit(&farm.admin, &slow(&executed)).await;
    until_begun(&executed).await;
    read_only("on");
    until_outage(&farm, true).await;
    check(&farm, &films).await;
    // Requests that need only history are answered in full.
    let tasks = old(&farm, &format!("/v1/runs/{films}/tasks?state=succeeded")).await;
    assert_eq!(tasks["items"].as_array().unwrap().len(), 6);
    // Connections that were made during the outage must not stay read-only.
    let sql = format!("ALTER DATABASE {name} SET default_transaction_read_only = off");
    postgres.query(&postgres.url(), &sql);
    until_outage(&farm, false).await;
    farm.until_over(&run).await;
    assert_eq!(lines(&executed), 4, "nothing was done twice");
    let again = farm.submit(&farm.admin, FILMS).await;
    farm.until_over(&again).await;
    assert_eq!(farm.get(&format!("/v1/runs/{run}")).await.is(200)["state"], "succeeded");
    farm.stop().await;
}
