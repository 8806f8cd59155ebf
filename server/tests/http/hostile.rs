//! What a hostile machine, or whoever else reaches the port, does not get.

use crate::farm::{FILMS, Options, TICKET_KEY, TestFarm};
use pictor_api::TokenRole;
use pictor_artifacts::Artifacts;
use pictor_queue::{Sealer, ToOwner};
use pictor_server::now_ms;
use pictor_tasks::message::{
    Execution, Outcome, Output, Products, Report, TaskEnd, Try, What, WorkerId,
};
use pictor_test_servers::S3;
use reqwest::{Method, StatusCode};
use serde_json::{Value as Json, json};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TASK: Try = Try { index: 2, attempt: 1 };
const EXECUTION: Execution = Execution(0xab);

/// Sends bytes by a link, as a worker does.
async fn follow(farm: &TestFarm, token: &str, link: &Json, bytes: &'static str) -> StatusCode {
    let url = link["url"].as_str().unwrap();
    let mut request = if url.starts_with('/') {
        farm.request(token, Method::PUT, url)
    } else {
        reqwest::Client::new().put(url)
    };
    for (name, value) in link["headers"].as_object().unwrap() {
        request = request.header(name, value.as_str().unwrap());
    }
    request.body(bytes).send().await.unwrap().status()
}

/// What the farm serves as a file.
async fn served(farm: &TestFarm, path: &str) -> String {
    let answer = farm.get(path).await;
    if answer.status == StatusCode::TEMPORARY_REDIRECT {
        return reqwest::get(answer.header("location")).await.unwrap().text().await.unwrap();
    }
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.text()
}

/// Commits a result, and attacks it with everything that its maker has.
async fn is_kept(farm: TestFarm) {
    let (id, token) = farm.machine("node").await;
    let run = farm.submit(&farm.admin, FILMS).await;
    let step = farm.first_step(&run).await;
    let ticket = Sealer::new(1, TICKET_KEY).seal(&step, TASK, WorkerId(id)).to_string();
    let ask = async |file: &str| {
        let body = json!({
            "key": { "run": run, "step": 0, "generation": 0 },
            "task": { "index": 2, "attempt": 1 }, "execution": EXECUTION.0,
            "ticket": ticket, "step": "make", "file": file, "size_bytes": 3,
        });
        farm.call(&token, Method::POST, &format!("/v1/workers/{id}/outputs"), Some(&body)).await
    };
    let place = ask("a.txt").await.is(200);
    let put = async |bytes| follow(&farm, &token, &place["link"], bytes).await;
    assert!(put("abc").await.is_success());
    let key = place["key"].as_str().unwrap().to_owned();
    let digest = blake3::hash(b"abc").to_hex().to_string();
    let output = Output { name: "text".into(), key: key.clone(), digest, size_bytes: 3 };
    let outcome = Outcome::Succeeded(Products { outputs: vec![output], ..Products::default() });
    let what = What::Ended(vec![TaskEnd { task: TASK, started_ms: 1, took_ms: 2, outcome }]);
    let report = Report { worker: WorkerId(id), key: step, execution: EXECUTION, what };
    farm.owner.tell(ToOwner::Report(report)).await.unwrap();
    let task = farm.get(&format!("/v1/runs/{run}/tasks/make[frame=3]")).await.is(200);
    assert_eq!(task["task"]["state"], "succeeded", "{task}");

    for forged in ["abd", "something else"] {
        let refused = put(forged).await;
        let refusals = [StatusCode::CONFLICT, StatusCode::PRECONDITION_FAILED];
        assert!(refusals.contains(&refused), "{refused}");
    }
    for file in ["a.txt", "b.txt"] {
        ask(file).await.refused(409, "conflict");
    }
    let result = format!("/v1/runs/{run}/files/frames/0003.txt");
    for path in [format!("/v1/artifacts/{key}"), result] {
        assert_eq!(served(&farm, &path).await, "abc");
    }
    farm.stop().await;
}

#[tokio::test]
async fn a_result_that_counts_is_not_replaced_in_a_folder() {
    is_kept(TestFarm::idle().await).await;
}

#[tokio::test]
async fn a_result_that_counts_is_not_replaced_in_a_bucket() {
    let s3 = S3::start();
    let place = format!("s3://{}?endpoint={}", s3.bucket(), s3.endpoint());
    let artifacts = Artifacts::open(&place, Some((s3.access_key(), s3.secret_key()))).unwrap();
    let options = Options { idle: true, artifacts: Some(artifacts), ..Options::default() };
    is_kept(TestFarm::with(options).await).await;
}

/// By how much the server's clock was changed, in milliseconds.
static SET: AtomicI64 = AtomicI64::new(0);

fn clock_ms() -> i64 {
    now_ms() + SET.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_clock_that_is_set_back_keeps_no_dead_worker_online() {
    let lease = Some(Duration::from_secs(1));
    let options = Options { idle: true, lease, now_ms: Some(clock_ms), ..Options::default() };
    let farm = TestFarm::with(options).await;
    let (id, token) = farm.machine("node").await;
    let mut news = farm.owner.news();
    let beat = format!("/v1/workers/{id}/heartbeat");
    farm.call(&token, Method::POST, &beat, Some(&json!({ "holding": [] }))).await.is(200);
    farm.registry.workers_seen(&[(WorkerId(id), clock_ms())]).await.unwrap();
    let worker = format!("/v1/workers/{id}");
    assert_eq!(farm.get(&worker).await.is(200)["online"], true);
    SET.fetch_sub(3_600_000, Ordering::Relaxed);
    while !news.recv().await.unwrap().lost.contains(&WorkerId(id)) {}
    assert_eq!(farm.get(&worker).await.is(200)["online"], false);
    let metrics = farm.get("/metrics").await.text();
    assert!(metrics.contains("{state=\"enabled\",online=\"false\"} 1.0"), "{metrics}");
    farm.stop().await;
}

#[tokio::test]
async fn the_names_of_gpus_become_no_lines_of_their_own() {
    let farm = TestFarm::idle().await;
    let (id, token) = farm.machine("node").await;
    let uuid = "x\",gpu=\"y\"} 1\npictor_owner 7\n\\";
    let gpu = json!({ "uuid": uuid, "utilisation_percent": 93 });
    let body = json!({ "holding": [], "gpus": [gpu] });
    let beat = format!("/v1/workers/{id}/heartbeat");
    farm.call(&token, Method::POST, &beat, Some(&body)).await.is(200);
    let metrics = farm.get("/metrics").await.text();
    let owner: Vec<&str> = metrics.lines().filter(|l| l.starts_with("pictor_owner")).collect();
    assert_eq!(owner, ["pictor_owner 1.0"]);
    let gpu = r#"{worker="node",gpu="x\",gpu=\"y\"} 1\npictor_owner 7\n\\"} 93.0"#;
    assert!(metrics.contains(gpu), "{metrics}");
    farm.stop().await;
}

#[tokio::test]
async fn no_secret_of_a_token_is_on_the_disk() {
    let farm = TestFarm::idle().await;
    let (_, machine) = farm.machine("node").await;
    let body = json!({ "name": "laptop", "role": "viewer", "account": "anna" });
    let made = farm.post("/v1/tokens", &body).await.is(201);
    let tokens = [made["token"].as_str().unwrap().to_owned(), machine, farm.admin.clone()];
    let mut folders = vec![farm.folder.path().to_owned()];
    let mut is_known = false;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let has = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
            for token in &tokens {
                let (id, secret) = token.trim_start_matches("pictor_").split_once('_').unwrap();
                is_known |= has(id);
                assert!(!has(secret), "{}", path.display());
            }
        }
    }
    assert!(is_known, "tokens are stored");
    farm.stop().await;
}

/// Requests whose end a server and a proxy before it could see at different places: each is answered once, and what
/// follows it is no request.
#[tokio::test]
async fn no_request_is_smuggled_behind_another_one() {
    let farm = TestFarm::idle().await;
    let address = farm.url.trim_start_matches("http://");
    let hidden = "GET /v1/runs HTTP/1.1\r\nhost: x\r\n\r\n";
    let length = hidden.len();
    for (headers, body, statuses) in [
        ("content-length: 0\r\ncontent-length: 5", "", "400"),
        ("content-length: 0, 5", "", "400"),
        ("content-length: +0", "", "400"),
        ("content-length: 0\r\ntransfer-encoding: chunked", "0\r\n\r\n", "401"),
        ("transfer-encoding: chunked\r\ncontent-length: 0", "0\r\n\r\n", "401"),
        ("transfer-encoding: chunked, identity", "0\r\n\r\n", "400"),
        ("transfer-encoding: xchunked", "0\r\n\r\n", "400"),
        ("transfer-encoding : chunked", "0\r\n\r\n", "400"),
        ("transfer-encoding: chunked", "0x0\r\n\r\n", "401"),
        ("transfer-encoding: chunked\r\nx: y", "-0\r\n\r\n", "401"),
    ] {
        let mut line = TcpStream::connect(address).await.unwrap();
        let message =
            format!("POST /v1/runs HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{body}{hidden}");
        line.write_all(message.as_bytes()).await.unwrap();
        let mut answers = Vec::new();
        // The server may close the connection with what it has not read.
        let _ = line.read_to_end(&mut answers).await;
        let answers = String::from_utf8_lossy(&answers);
        let lines: Vec<&str> = answers.matches("HTTP/1.1 ").collect();
        assert_eq!(lines.len(), 1, "{headers}\n{answers}");
        assert!(answers.starts_with(&format!("HTTP/1.1 {statuses}")), "{headers}\n{answers}");
    }
    // Two that are what they seem are two.
    let mut line = TcpStream::connect(address).await.unwrap();
    let message = format!("POST /v1/runs HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    let last = hidden.replace("host: x", "connection: close\r\nhost: x");
    line.write_all(format!("{message}{hidden}{last}").as_bytes()).await.unwrap();
    let mut answers = String::new();
    line.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 401").count(), 2, "{answers}");
    farm.stop().await;
}

#[tokio::test]
async fn one_enrolment_makes_no_crowd_of_workers() {
    let farm = TestFarm::idle().await;
    let enrolment = farm.token(TokenRole::Worker, "lab").await;
    let enrol = async |token: &str, number: u32| {
        let inventory = json!({
            "name": "n", "cpus": 1, "memory_bytes": 1, "disk_bytes": 1, "slots": 1, "labels": [],
            "gpus": [], "software": {}, "allows_commands": false,
        });
        let body = json!({ "name": format!("n{number}"), "inventory": inventory });
        farm.call(token, Method::POST, "/v1/workers", Some(&body)).await
    };
    // There is no broker: that is found out later.
    for number in 0..30 {
        enrol(&enrolment, number).await.refused(409, "no_broker");
    }
    while enrol(&enrolment, 30).await.status != StatusCode::TOO_MANY_REQUESTS {}
    enrol(&farm.admin, 31).await.refused(409, "no_broker");
    farm.stop().await;
}

#[tokio::test]
async fn no_path_leads_out_of_the_storage() {
    let farm = TestFarm::idle().await;
    let (id, token) = farm.machine("node").await;
    let capital = "A".repeat(64);
    for bad in ["..%2F..%2Fadmin-token", "%2Fetc%2Fpasswd", "a", &*capital] {
        let upload = farm.request(&farm.admin, Method::PUT, &format!("/v1/assets/{bad}"));
        farm.send(upload.body("x")).await.refused(400, "invalid_request");
        let path = format!("/v1/workers/{id}/assets/{bad}");
        farm.call(&token, Method::GET, &path, None).await.refused(400, "invalid_request");
    }
    let until = now_ms() + 1000;
    let proof = format!("{until}.{}", "0".repeat(64));
    for key in ["..%2F..%2Fadmin-token", "%2Fetc%2Fpasswd", "runs/x/y"] {
        let path = format!("/v1/workers/{id}/artifacts/{key}");
        for method in [Method::GET, Method::PUT] {
            let forged = farm.request(&token, method, &path).header("pictor-link", &proof);
            farm.send(forged.body("x")).await.refused(403, "bad_ticket");
        }
    }
    farm.stop().await;
}

#[tokio::test]
async fn the_metrics_are_for_those_who_may_see_everything_if_they_are_closed() {
    let options = Options { idle: true, metrics_need_token: true, ..Options::default() };
    let farm = TestFarm::with(options).await;
    farm.call("", Method::GET, "/metrics", None).await.refused(401, "unauthorized");
    farm.call("pictor_x", Method::GET, "/metrics", None).await.refused(401, "unauthorized");
    for role in TokenRole::ALL {
        let token = farm.token(role, "somebody").await;
        let answer = farm.call(&token, Method::GET, "/metrics", None).await;
        let sees = matches!(role, TokenRole::Admin | TokenRole::Operator | TokenRole::Viewer);
        assert_eq!(answer.status, if sees { 200 } else { 403 }, "{role:?}");
    }
    farm.stop().await;
}
