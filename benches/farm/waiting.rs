//! Many small runs on a server that works alone: what those that wait cost, and how fast they are done.

use crate::served::{Served, Services};
use pictor_benches::table::{Series, head, line, verdict};
use pictor_benches::{machine, say};
use reqwest::Method;
use serde_json::{Value as Json, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Numbers of waiting runs at which the server is watched.
const WAITING: [usize; 4] = [100, 300, 1_000, 10_000];
/// Tokens that take turns: a single one may not send requests this often.
const TOKENS: usize = 12;
/// How long its processor time is watched while nobody asks anything.
const WATCHED: Duration = Duration::from_secs(10);
/// Median time of a submission above which more runs are not waited for.
const HOPELESS_MS: f64 = 500.0;
const SMALL: usize = 5_000;
const CLIENTS: usize = 4;

/// A client with several tokens.
struct Client {
    tokens: Vec<String>,
    turn: usize,
}

impl Client {
    async fn new(farm: &Served) -> Self {
        let mut tokens = Vec::new();
        for _ in 0..TOKENS {
            tokens.push(farm.token("admin").await);
        }
        Self { tokens, turn: 0 }
    }

    async fn ask(
        &mut self,
        farm: &Served,
        (method, path): (Method, &str),
        body: Option<&Json>,
    ) -> (f64, Json) {
        self.turn += 1;
        let request = farm.request_with(&self.tokens[self.turn % TOKENS], method, path);
        let request = body.into_iter().fold(request, reqwest::RequestBuilder::json);
        let started = Instant::now();
        let answer = request.send().await.expect("the server answers");
        let (status, answer) = (answer.status(), answer.bytes().await.expect("it answers"));
        let seconds = started.elapsed().as_secs_f64();
        assert!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&answer));
        (seconds, serde_json::from_slice(&answer).expect("JSON"))
    }

    async fn submit(&mut self, farm: &Served, step: &str) -> (f64, String) {
        let job = format!("pictor: v1\nname: small\nsteps:\n- {{ name: a, {step} }}\n");
        let body = json!({ "job": job });
        let (seconds, answer) = self.ask(farm, (Method::POST, "/v1/runs"), Some(&body)).await;
        (seconds, answer["run"]["id"].as_str().expect("an id").to_owned())
    }
}

/// Both slots are busy for an hour, and ever more runs wait.
pub(crate) async fn waiting(services: &Services) {
    let farm = Served::alone(services, machine::fresh_folder("farm-waiting")).await;
    let mut client = Client::new(&farm).await;
    for _ in 0..2 {
        client.submit(&farm, "command: { run: [sleep, '3600'] }").await;
    }
    head("Alone: runs of one task that wait, with both slots busy");
    let (mut count, mut last) = (0, String::new());
    for target in WAITING {
        let mut submits = Vec::new();
        while count < target {
            let (took, run) = client.submit(&farm, "command: { run: [sleep, '1'] }").await;
            (count, last) = (count + 1, run);
            submits.push(took * 1e3);
        }
        let submits: Series = submits.into_iter().rev().take(500).collect();
        let (mut lists, mut runs, mut alive) = <(Series, Series, Series)>::default();
        let show = format!("/v1/runs/{last}");
        for _ in 0..200 {
            let page = (Method::GET, "/v1/runs?limit=20");
            lists.push(client.ask(&farm, page, None).await.0 * 1e3);
            runs.push(client.ask(&farm, (Method::GET, &show), None).await.0 * 1e3);
            alive.push(client.ask(&farm, (Method::GET, "/healthz"), None).await.0 * 1e3);
        }
        sleep(Duration::from_secs(3)).await;
        let (from, before) = (Instant::now(), farm.server_seconds());
        sleep(WATCHED).await;
        let idle = (farm.server_seconds() - before) / from.elapsed().as_secs_f64() * 100.0;
        let p99 = |series: &Series, limit: f64| {
            let p99 = series.percentile(99);
            format!("p99 {p99:.1} ms, {}", verdict(p99 < limit, &format!("< {limit} ms")))
        };
        line(&format!("{count} wait: a submission"), &submits, "ms", &p99(&submits, 20.0));
        line(&format!("{count} wait: GET of 20 runs"), &lists, "ms", &p99(&lists, 10.0));
        line(&format!("{count} wait: GET of one"), &runs, "ms", &p99(&runs, 10.0));
        line("floor: `/healthz` between them", &alive, "ms", "");
        let idle = Series::from_iter([idle]);
        let remark = verdict(idle.median() < 2.0, "< 2 % of one core");
        line(&format!("{count} wait: processor while nobody asks"), &idle, "%", &remark);
        line("peak memory of the server", &Series::from_iter([farm.server_megabytes()]), "MB", "");
        if submits.median() > HOPELESS_MS {
            say(&format!("(no more than {count}: a submission takes too long)"));
            return;
        }
    }
}

/// Many runs of one task that does nothing, from the first submission to the answer about each that it has succeeded.
pub(crate) async fn small(services: &Services) {
    let farm = Served::alone(services, machine::fresh_folder("farm-small")).await;
    let started = Instant::now();
    let clients = (0..CLIENTS).map(|_| async {
        let mut client = Client::new(&farm).await;
        let (mut submits, mut runs) = (Vec::new(), Vec::new());
        for _ in 0..SMALL / CLIENTS {
            let (took, run) = client.submit(&farm, "noop: {}").await;
            submits.push(took * 1e3);
            runs.push(run);
        }
        for run in runs {
            let path = format!("/v1/runs/{run}");
            while client.ask(&farm, (Method::GET, &path), None).await.1["state"] != "succeeded" {
                sleep(Duration::from_millis(20)).await;
            }
        }
        submits
    });
    let submits = futures_util::future::join_all(clients).await;
    let took = Series::from_iter([started.elapsed().as_secs_f64()]);
    let submits: Series = submits.into_iter().flatten().collect();
    head(&format!("Alone: {SMALL} runs of one task that does nothing, from {CLIENTS} clients"));
    line("all submitted, done and answered", &took, "s", &verdict(took.max() < 15.0, "< 15 s"));
    let remark = format!("p99 {:.1} ms", submits.percentile(99));
    line("a submission", &submits, "ms", &remark);
}
