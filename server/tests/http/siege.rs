//! A farm under a hostile tenant and a hostile machine: beside them an honest run ends as soon as ever. For a few seconds,
//! and for a minute with `PICTOR_SOAK`.

use crate::farm::{MILLION, TICKET_KEY, TestFarm};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use pictor_api::TokenRole;
use pictor_queue::{Sealer, ToOwner};
use pictor_tasks::message::{
    Execution, Failure, FailureKind, Outcome, Report, RunId, StepKey, TaskEnd, Try, What, WorkerId,
};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// Forty tasks that take half a second together.
const HONEST: &str = "pictor: v1\nname: honest\ndims:\n  frame: { range: 1-40 }\nsteps:\n  - name: render\n    \
                      over: [frame]\n    noop: { duration: 25ms }\n";
/// Connections that say nothing.
const SILENT: usize = 300;

/// How often each attack was answered with which status; 0 if with none.
type Answers = Mutex<BTreeMap<(&'static str, u16), u64>>;

async fn send(answers: &Answers, attack: &'static str, request: RequestBuilder) {
    let status = request.send().await.map_or(0, |answer| answer.status().as_u16());
    *answers.lock().unwrap().entry((attack, status)).or_default() += 1;
    // What is refused at once would otherwise keep this process busy.
    sleep(Duration::from_millis(1)).await;
}

/// The time from a submission to the end of its run.
async fn honest(farm: &TestFarm, token: &str) -> Duration {
    let started = Instant::now();
    let run = farm.submit(token, HONEST).await;
    farm.until_over(&run).await;
    started.elapsed()
}

/// Requests of nobody, too many and too large ones of a tenant, open streams and silent connections.
fn tenant<'a>(farm: &'a TestFarm, token: &'a str, answers: &'a Answers) -> Vec<BoxFuture<'a, ()>> {
    let stranger = async {
        for number in 0_u64.. {
            let token = format!("pictor_{number:016x}_{number:064x}");
            for path in ["/v1/runs", "/v1/workers", "/v1/events"] {
                send(answers, "stranger", farm.request(&token, Method::GET, path)).await;
            }
        }
    };
    let submit = async {
        loop {
            let request = farm.request(token, Method::POST, "/v1/runs");
            send(answers, "submit", request.json(&json!({ "job": MILLION }))).await;
        }
    };
    let giant = async {
        let text = "x".repeat(3 << 20);
        loop {
            let request = farm.request(token, Method::POST, "/v1/runs");
            send(answers, "giant", request.json(&json!({ "job": text }))).await;
            let deep = format!("{}1", "[".repeat(100_000));
            let request = farm.request(token, Method::POST, "/v1/runs").body(deep);
            send(answers, "deep", request.header("content-type", "application/json")).await;
        }
    };
    let streams = async {
        let mut open = Vec::new();
        loop {
            match farm.request(token, Method::GET, "/v1/events").send().await {
                Ok(stream) if stream.status().is_success() => open.push(stream),
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let silent = async {
        let address = farm.url.trim_start_matches("http://");
        let mut open = Vec::new();
        while open.len() < SILENT {
            let mut connection = TcpStream::connect(address).await.unwrap();
            // The server may close it again.
            let _ = connection.write_all(b"POST /v1/runs HTTP/1.1\r\nHost: x\r\n").await;
            open.push(connection);
        }
        std::future::pending::<()>().await;
    };
    vec![stranger.boxed(), submit.boxed(), giant.boxed(), streams.boxed(), silent.boxed()]
}

/// Junk from a machine whose own token is good: heartbeats, requests for links with forged tickets, reports.
fn machine<'a>(
    farm: &'a TestFarm,
    (id, token): (u32, &'a str),
    victim: &'a str,
    answers: &'a Answers,
) -> Vec<BoxFuture<'a, ()>> {
    let key = move || StepKey { run: RunId(victim.into()), step: 0, generation: 0 };
    let beats = async move {
        let beat = format!("/v1/workers/{id}/heartbeat");
        let tasks: Vec<_> =
            (0..1000).map(|index| json!({ "index": index, "attempt": 1 })).collect();
        let holding = json!([{ "key": key(), "tasks": tasks }]);
        loop {
            let request = farm.request(token, Method::POST, &beat);
            send(answers, "heartbeat", request.json(&json!({ "holding": holding }))).await;
            let request = farm.request(token, Method::POST, &beat);
            send(
                answers,
                "text",
                request.json(&json!({ "holding": [], "place": "x".repeat(1 << 20) })),
            )
            .await;
        }
    };
    let links = async move {
        let task = Try { index: 2, attempt: 1 };
        let forged = Sealer::new(1, [8; 32]).seal(&key(), task, WorkerId(id)).to_string();
        let others = Sealer::new(1, TICKET_KEY).seal(&key(), task, WorkerId(id + 1)).to_string();
        loop {
            for ticket in [&forged, &others] {
                let body = json!({
                    "key": key(), "task": task, "execution": 7, "ticket": ticket, "step": "render",
                    "file": "../../a", "size_bytes": u64::MAX,
                });
                let path = format!("/v1/workers/{id}/outputs");
                send(answers, "link", farm.request(token, Method::POST, &path).json(&body)).await;
            }
        }
    };
    let reports = async move {
        for number in 0.. {
            let message = "x".repeat(100_000);
            let outcome = Outcome::Failed(Failure { kind: FailureKind::Failed, message });
            let task = Try { index: number % 100, attempt: 1 };
            let what = What::Ended(vec![TaskEnd { task, started_ms: 1, took_ms: 1, outcome }]);
            let execution = Execution(number.into());
            let report = Report { worker: WorkerId(id), key: key(), execution, what };
            if farm.owner.tell(ToOwner::Report(report)).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    vec![beats.boxed(), links.boxed(), reports.boxed()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_run_beside_attackers_ends_as_soon_as_ever() {
    let soak = std::env::var_os("PICTOR_SOAK").is_some();
    let length = Duration::from_secs(if soak { 60 } else { 3 });
    let farm = TestFarm::start().await;
    let ada = farm.token(TokenRole::Submitter, "ada").await;
    let mallory = farm.token(TokenRole::Submitter, "mallory").await;
    let evil = farm.machine("evil").await;
    let victim = farm.submit(&ada, MILLION).await;
    let mut usual = Vec::new();
    for _ in 0..3 {
        usual.push(honest(&farm, &ada).await);
    }
    let answers = Answers::default();
    let mut attacks = tenant(&farm, &mallory, &answers);
    attacks.extend(machine(&farm, (evil.0, &evil.1), &victim, &answers));
    let (begun, mut beside) = (Instant::now(), Vec::new());
    let working = async {
        while begun.elapsed() < length {
            beside.push(honest(&farm, &ada).await);
        }
    };
    tokio::select! {
        _ = join_all(attacks) => panic!("the farm does not hear reports any more"),
        () = working => {}
    }
    let after = honest(&farm, &ada).await;
    for times in [&mut usual, &mut beside] {
        times.sort_unstable();
    }
    let (middle, worst) = (beside[beside.len() / 2], beside[beside.len() - 1]);
    let usual = usual[1];
    eprintln!(
        "alone {usual:?}; beside attackers {middle:?}, at worst {worst:?}; after them {after:?}"
    );
    let answers = answers.into_inner().unwrap();
    eprintln!("{answers:?}");
    for attack in ["stranger", "submit", "giant", "deep", "heartbeat", "text", "link"] {
        let of_it = answers.iter().filter(|((name, _), _)| *name == attack);
        let statuses: Vec<u16> = of_it.map(|((_, status), _)| *status).collect();
        assert!(!statuses.is_empty(), "{attack}");
        assert!(
            !statuses.iter().any(|status| (500..503).contains(status)),
            "{attack}: {statuses:?}"
        );
    }
    assert!(answers.keys().all(|(attack, status)| *attack != "stranger" || *status != 200));
    assert!(answers.keys().all(|(attack, status)| *attack != "link" || *status != 200));
    if soak {
        assert!(middle < 2 * usual, "{middle:?}, and {usual:?} alone");
    }
    // Nothing of what the machine said counts.
    let run = farm.get(&format!("/v1/runs/{victim}")).await.is(200);
    assert_eq!(run["state"], "running", "{run}");
    assert_eq!(run["steps"][0]["tasks"]["failed"].as_u64().unwrap_or(0), 0, "{run}");
    farm.stop().await;
}
