//! The API for machines: registration, heartbeats, inputs and outputs with tickets, logs; and how workers are shown and
//! managed.

use crate::farm::{FILMS, Options, TICKET_KEY, TestFarm};
use pictor_api::TokenRole;
use pictor_queue::{Address, Broker, RabbitWorker, Sealer, ToOwner};
use pictor_tasks::message::{
    Execution, Failure, FailureKind, Outcome, Report, RunId, StepKey, TaskEnd, Try, What, WorkerId,
};
use reqwest::Method;
use serde_json::{Value as Json, json};

pub(crate) fn inventory(name: &str) -> Json {
    json!({
        "name": name, "cpus": 4, "memory_bytes": 1, "disk_bytes": 1, "slots": 1, "labels": [],
        "gpus": [{ "name": "G", "uuid": "GPU-1", "vram_bytes": 7, "driver": "1" }],
        "software": { "blender": "4.2" }, "allows_commands": false,
    })
}

/// The ticket of an attempt that is given to a worker.
fn ticket(run: &str, task: Try, worker: u32) -> String {
    let key = StepKey { run: RunId(run.into()), step: 0, generation: 0 };
    Sealer::new(1, TICKET_KEY).seal(&key, task, WorkerId(worker)).to_string()
}

/// Two machines of one name, or one and its copy: the second is rejected with the reason as long as the first is alive,
/// and the first does not notice.
#[tokio::test]
async fn a_second_machine_cannot_be_the_same_worker() {
    let farm = TestFarm::idle().await;
    let (id, token) = farm.machine("node").await;
    let beat = format!("/v1/workers/{id}/heartbeat");
    let beats = async |place: &str| {
        let body = json!({ "holding": [], "place": place });
        farm.call(&token, Method::POST, &beat, Some(&body)).await
    };
    beats("first").await.is(200);
    let refused = beats("second").await;
    let why = refused.refused(409, "name_in_use")["detail"].clone();
    let why = why.as_str().unwrap();
    assert!(
        why.contains("the name `node` is in use by worker 1, a machine heard of 0 s ago"),
        "{why}"
    );
    // The same machine after a crash, and one that does not say where it is.
    beats("first").await.is(200);
    beats("").await.refused(409, "name_in_use");
    // Workers that have signed off are not missed.
    farm.call(&token, Method::POST, &format!("/v1/workers/{id}/left"), Some(&json!(null)))
        .await
        .is(204);
    beats("second").await.is(200);
    beats("first").await.refused(409, "name_in_use");
    farm.stop().await;
}

#[tokio::test]
async fn a_machine_registers_works_under_its_own_name_and_is_known_again() {
    let broker = tokio::task::spawn_blocking(|| {
        let server = pictor_test_servers::RabbitMq::start();
        let vhost = server.vhost();
        let address = Address::new(&vhost.amqp_url, None).unwrap();
        (Broker::new(address, Some(&server.management_url()), None).unwrap(), vhost)
    });
    let (broker, _vhost) = broker.await.unwrap();
    let options = Options { idle: true, broker: Some(broker), ..Options::default() };
    let farm = TestFarm::with(options).await;
    let enrolment = farm.token(TokenRole::Worker, "lab").await;
    let register = async |token: &str, name: &str| {
        let body = json!({ "name": name, "inventory": inventory(name) });
        farm.call(token, Method::POST, "/v1/workers", Some(&body)).await
    };
    let made = register(&enrolment, "node-1").await.is(201);
    let (id, token) = (made["id"].as_u64().unwrap(), made["token"].as_str().unwrap());
    assert_eq!((&made["heartbeat_ms"], &made["lease_ms"]), (&1000.into(), &5000.into()));
    let url = made["amqp"]["url"].as_str().unwrap();
    assert!(url.contains(&format!("pictor%2Eworker%2E{id}:")), "{url}");
    let beat = format!("/v1/workers/{id}/heartbeat");
    let body = json!({ "holding": [] });
    let orders = farm.call(token, Method::POST, &beat, Some(&body)).await.is(200);
    assert_eq!(orders, json!({ "state": "enabled" }));
    let worker = farm.get(&format!("/v1/workers/{id}")).await.is(200);
    assert_eq!((&worker["name"], &worker["account"]), (&"node-1".into(), &"lab".into()));
    assert_eq!((&worker["online"], &worker["slots"]), (&true.into(), &1.into()));
    // Again, with its own token: the same worker, another token.
    let again = register(token, "node-1").await.is(201);
    assert_eq!(again["id"], id);
    farm.call(token, Method::POST, &beat, Some(&body)).await.refused(401, "unauthorized");
    let token = again["token"].as_str().unwrap();
    farm.call(token, Method::POST, &beat, Some(&body)).await.is(200);
    register(token, "node-2").await.refused(403, "forbidden");
    let other = register(&enrolment, "node-2").await.is(201)["token"].clone();
    let others = farm.call(other.as_str().unwrap(), Method::POST, &beat, Some(&body)).await;
    others.refused(403, "forbidden");
    // Another machine with a name that is in use.
    let there = json!({ "name": "node-3", "inventory": inventory("node-3"), "place": "there" });
    let elsewhere =
        json!({ "name": "node-3", "inventory": inventory("node-3"), "place": "elsewhere" });
    let first = farm.call(&enrolment, Method::POST, "/v1/workers", Some(&there)).await.is(201);
    let second = farm.call(&enrolment, Method::POST, "/v1/workers", Some(&elsewhere)).await;
    second.refused(409, "name_in_use");
    let again = farm.call(&enrolment, Method::POST, "/v1/workers", Some(&there)).await.is(201);
    assert_eq!(again["id"], first["id"], "its data is lost, and it is the same machine");
    for bad in ["", "two words", "../x"] {
        register(&enrolment, bad).await.refused(400, "invalid_request");
    }
    let bad = json!({ "name": "x" });
    let bad = farm.call(&enrolment, Method::POST, "/v1/workers", Some(&bad)).await;
    bad.refused(400, "invalid_request");
    // A machine whose token is revoked is rejected everywhere.
    let url = again["amqp"]["url"].as_str().unwrap();
    let at_broker = WorkerId(u32::try_from(id).unwrap());
    let (_queue, reports) = RabbitWorker::connect(Address::new(url, None).unwrap(), at_broker);
    let revoke = format!("/v1/tokens/{}", token.split('_').nth(1).unwrap());
    let said = farm.call(&farm.admin, Method::DELETE, &revoke, None).await.is(200);
    assert_eq!(said["machines"], json!([id]));
    reports.refused().await;
    farm.call(token, Method::POST, &beat, Some(&body)).await.refused(401, "unauthorized");
    let worker = farm.get(&format!("/v1/workers/{id}")).await.is(200);
    assert_eq!(worker["online"], false);
    farm.stop().await;
}

#[tokio::test]
async fn without_a_broker_no_machine_is_taken() {
    let farm = TestFarm::idle().await;
    let body = json!({ "name": "node", "inventory": inventory("node") });
    farm.post("/v1/workers", &body).await.refused(409, "no_broker");
    farm.stop().await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story")]
async fn workers_are_listed_with_what_they_said_last_and_taken_out_of_service() {
    let farm = TestFarm::idle().await;
    let (first, token) = farm.machine("one").await;
    let (second, _) = farm.machine("two").await;
    let beat = format!("/v1/workers/{first}/heartbeat");
    let gpu = json!({ "uuid": "GPU-1", "utilisation_percent": 93, "memory_used_bytes": 5,
                      "power_watts": 250.5, "temperature_celsius": 71 });
    let body = json!({
        "holding": [], "gpus": [gpu], "inventory": inventory("one"), "accepts": true,
        "machine": { "load": 1.5, "memory_available_bytes": 8, "disk_free_bytes": 9 },
    });
    farm.call(&token, Method::POST, &beat, Some(&body)).await.is(200);
    let page = farm.get("/v1/workers").await.is(200);
    let workers = page["items"].as_array().unwrap();
    assert_eq!((&workers[0]["id"], &workers[1]["id"]), (&first.into(), &second.into()));
    assert_eq!((&workers[0]["online"], &workers[1]["online"]), (&true.into(), &false.into()));
    assert_eq!((&workers[0]["gpus"][0], &workers[0]["machine"]["load"]), (&gpu, &1.5.into()));
    assert_eq!(workers[0]["inventory"]["software"]["blender"], "4.2");
    let first_page = farm.get("/v1/workers?limit=1").await.is(200);
    let next = format!("/v1/workers?limit=1&after={}", first_page["next"].as_str().unwrap());
    assert_eq!(farm.get(&next).await.is(200)["items"][0]["id"], second);
    farm.get("/v1/workers/99").await.refused(404, "not_found");
    farm.get("/v1/workers/x").await.refused(400, "invalid_request");

    let metrics = farm.get("/metrics").await.text();
    for line in [
        "pictor_gpu_utilisation_percent{worker=\"one\",gpu=\"GPU-1\"} 93.0",
        "pictor_gpu_power_watts{worker=\"one\",gpu=\"GPU-1\"} 250.5",
        "pictor_workers{state=\"enabled\",online=\"true\"} 1.0",
        "pictor_workers{state=\"enabled\",online=\"false\"} 1.0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }

    let patch = async |state: &str| {
        let body = json!({ "state": state });
        farm.call(&farm.admin, Method::PATCH, &format!("/v1/workers/{first}"), Some(&body)).await
    };
    assert_eq!(patch("draining").await.is(200)["state"], "draining");
    let body = json!({ "holding": [] });
    let orders = farm.call(&token, Method::POST, &beat, Some(&body)).await.is(200);
    assert_eq!(orders["state"], "draining");
    let present = async || {
        let ask = move |engine: &pictor_engine::Engine| engine.workers(pictor_server::now_ms());
        let views = farm.owner.ask(ask).await.unwrap();
        views.iter().any(|view| view.id.0 == first && view.is_present)
    };
    assert!(!present().await);
    patch("enabled").await.is(200);
    assert!(present().await);
    patch("asleep").await.refused(400, "invalid_request");
    let nobody = "/v1/workers/99";
    let state = json!({ "state": "enabled" });
    farm.call(&farm.admin, Method::PATCH, nobody, Some(&state)).await.refused(404, "not_found");
    // Outside its working hours it accepts nothing, and its owner can read why.
    let body = json!({ "holding": [], "accepts": false, "reason": "works from 19:00" });
    farm.call(&token, Method::POST, &beat, Some(&body)).await.is(200);
    assert!(!present().await);
    let worker = farm.get(&format!("/v1/workers/{first}")).await.is(200);
    assert_eq!(
        (&worker["accepts"], &worker["reason"]),
        (&false.into(), &"works from 19:00".into())
    );

    // What no machine has is not believed.
    let mut large = inventory("one");
    large["slots"] = u32::MAX.into();
    for many in [
        json!({ "holding": [], "gpus": vec![gpu.clone(); 65] }),
        json!({ "holding": [], "reason": "a".repeat(2000) }),
        json!({ "holding": [], "inventory": large }),
    ] {
        farm.call(&token, Method::POST, &beat, Some(&many)).await.refused(400, "invalid_request");
    }

    let left = format!("/v1/workers/{first}/left");
    farm.call(&token, Method::POST, &left, Some(&Json::Null)).await.is(204);
    let worker = farm.get(&format!("/v1/workers/{first}")).await.is(200);
    assert_eq!(worker["online"], false);
    farm.stop().await;
}

#[tokio::test]
async fn inputs_and_outputs_need_the_ticket_of_the_task() {
    let farm = TestFarm::idle().await;
    let (id, token) = farm.machine("node").await;
    let (other, others) = farm.machine("other").await;
    let run = farm.submit(&farm.admin, FILMS).await;
    farm.first_step(&run).await;
    let key = json!({ "run": run, "step": 0, "generation": 0 });
    let task = Try { index: 2, attempt: 1 };
    let good = ticket(&run, task, id);
    let outputs = format!("/v1/workers/{id}/outputs");
    let ask = |ticket: Json| {
        json!({
            "key": key, "task": { "index": 2, "attempt": 1 }, "execution": 0xab_u64,
            "ticket": ticket, "step": "make", "file": "a b.txt", "size_bytes": 3,
        })
    };
    let foreign = ticket(&run, task, other);
    let wrong = ticket(&run, Try { index: 3, attempt: 1 }, id);
    for bad in [Json::Null, foreign.clone().into(), wrong.into()] {
        let answer = farm.call(&token, Method::POST, &outputs, Some(&ask(bad))).await;
        answer.refused(403, "bad_ticket");
    }
    let nonsense = farm.call(&token, Method::POST, &outputs, Some(&ask("x".into()))).await;
    nonsense.refused(400, "invalid_request");
    let stolen = farm.call(&others, Method::POST, &outputs, Some(&ask(good.clone().into()))).await;
    stolen.refused(403, "forbidden");
    assert!(farm.get("/metrics").await.text().contains("pictor_bad_tickets_total 3"));

    let place = farm.call(&token, Method::POST, &outputs, Some(&ask(good.into()))).await.is(200);
    assert_eq!(place["key"], format!("runs/{run}/make/0/2/1-00000000000000ab/a b.txt"));
    let url = place["link"]["url"].as_str().unwrap();
    let proof = place["link"]["headers"]["pictor-link"].as_str().unwrap();
    let put = async |token: &str, url: &str, proof: &str, body: &'static str| {
        let request = farm.request(token, Method::PUT, url).header("pictor-link", proof);
        farm.send(request.body(body)).await
    };
    put(&token, url, "1.2", "abc").await.refused(403, "bad_ticket");
    put(&token, &url.replace("a%20b", "c"), proof, "abc").await.refused(403, "bad_ticket");
    put(&others, url, proof, "abc").await.refused(403, "forbidden");
    put(&token, url, proof, "abc").await.is(201);
    put(&token, url, proof, "abc").await.is(204);
    put(&token, url, proof, "abcd").await.refused(409, "conflict");
    let path = place["key"].as_str().unwrap().replace(' ', "%20");
    assert_eq!(farm.get(&format!("/v1/artifacts/{path}")).await.text(), "abc");
    let get = farm.request(&token, Method::GET, url).header("pictor-link", proof);
    farm.send(get).await.refused(403, "bad_ticket");
    for bad in ["../x", "", "a/../b", "/a", "a//b", "a\\b"] {
        let mut body = ask(ticket(&run, task, id).into());
        body["file"] = bad.into();
        let answer = farm.call(&token, Method::POST, &outputs, Some(&body)).await;
        answer.refused(400, "invalid_request");
    }
    let mut body = ask(ticket(&run, task, id).into());
    body["file"] = "files/depth 1.exr".into();
    let place = farm.call(&token, Method::POST, &outputs, Some(&body)).await.is(200);
    let (key, link) = (place["key"].as_str().unwrap(), &place["link"]);
    assert!(key.ends_with("/files/depth 1.exr"), "{key}");
    let proof = link["headers"]["pictor-link"].as_str().unwrap();
    put(&token, link["url"].as_str().unwrap(), proof, "abc").await.is(201);
    // The ticket ends with the attempt.
    farm.post(&format!("/v1/runs/{run}/cancel"), &Json::Null).await.is(200);
    farm.call(&token, Method::POST, &outputs, Some(&body)).await.refused(409, "conflict");
    farm.stop().await;
}

#[tokio::test]
async fn a_task_that_is_current_gets_its_inputs_as_links() {
    let farm = TestFarm::start().await;
    let (id, token) = farm.machine("node").await;
    let job = FILMS.replace("cat \"$1\"/*", "sleep 600; cat \"$1\"/*");
    let run = farm.submit(&farm.admin, &job).await;
    let running = format!("/v1/runs/{run}/tasks?step=join&state=pending");
    let mut news = farm.owner.news();
    while farm.get(&running).await.is(200)["items"] != json!([]) {
        let _ = news.recv().await;
    }
    let task = Try { index: 0, attempt: 1 };
    let join = StepKey { run: RunId(run.as_str().into()), step: 1, generation: 0 };
    let ticket = Sealer::new(1, TICKET_KEY).seal(&join, task, WorkerId(id)).to_string();
    let body = |ticket: &str, attempt: u32| {
        json!({
            "key": { "run": run, "step": 1, "generation": 0 },
            "task": { "index": 0, "attempt": attempt }, "ticket": ticket,
        })
    };
    let path = format!("/v1/workers/{id}/inputs");
    let asked = farm.call(&token, Method::POST, &path, Some(&body(&ticket, 1))).await.is(200);
    let inputs = asked["inputs"].as_array().unwrap();
    assert_eq!(inputs.len(), 5);
    assert_eq!(inputs[3]["input"]["label"], "frame=4");
    assert_eq!(inputs[3]["input"]["coordinates"], json!({ "frame": 4 }));
    let link = &inputs[3]["link"];
    let proof = link["headers"]["pictor-link"].as_str().unwrap();
    let get = farm.request(&token, Method::GET, link["url"].as_str().unwrap());
    let get = farm.send(get.header("pictor-link", proof)).await;
    assert_eq!(get.text(), "picture 4");
    // A ticket for an attempt that is not the current one.
    let later = Try { index: 0, attempt: 2 };
    let ticket = Sealer::new(1, TICKET_KEY).seal(&join, later, WorkerId(id)).to_string();
    let stale = farm.call(&token, Method::POST, &path, Some(&body(&ticket, 2))).await;
    stale.refused(409, "conflict");
    farm.post(&format!("/v1/runs/{run}/cancel"), &Json::Null).await.is(200);
    farm.stop().await;
}

#[tokio::test]
async fn logs_and_assets_of_machines_are_theirs_alone() {
    let farm = TestFarm::idle().await;
    let (id, token) = farm.machine("node").await;
    let run = farm.submit(&farm.admin, FILMS).await;
    let put = async |place: &str, offset: u64, text: &'static str| {
        let path = format!("/v1/workers/{id}/logs/{place}?offset={offset}");
        farm.send(farm.request(&token, Method::PUT, &path).body(text)).await
    };
    let place = format!("{run}/make/2/1-00000000000000ab");
    // Nobody has the task yet: whoever writes has no business with it, or has not said so yet.
    farm.first_step(&run).await;
    put(&place, 0, "one\n").await.refused(503, "unavailable");
    farm.give(id, &run, Try { index: 2, attempt: 1 }).await;
    put(&place, 0, "one\n").await.is(204);
    put(&place, 9, "late\n").await.refused(409, "conflict");
    // Sent twice, and a part of it again.
    put(&place, 0, "one\n").await.is(204);
    put(&place, 2, "e\ntwo\n").await.is(204);
    let log = farm.get(&format!("/v1/runs/{run}/tasks/make[frame=3]/log")).await;
    assert_eq!(log.text(), "one\ntwo\n");
    for bad in ["make/2/x", "make/2/1-zz", "..%2Fx/2/1-ab", "make/-1/1-ab"] {
        put(&format!("{run}/{bad}"), 0, "x").await.refused(400, "invalid_request");
    }
    put("nobody/make/2/1-ab", 0, "x").await.refused(404, "not_found");
    let digest = blake3::hash(b"scene").to_hex().to_string();
    let path = format!("/v1/workers/{id}/assets/{digest}");
    farm.call(&token, Method::GET, &path, None).await.refused(404, "not_found");
    let upload = farm.request(&farm.admin, Method::PUT, &format!("/v1/assets/{digest}"));
    farm.send(upload.body("scene")).await.is(201);
    assert_eq!(farm.call(&token, Method::GET, &path, None).await.text(), "scene");
    let (other, others) = farm.machine("other").await;
    let theirs = format!("/v1/workers/{other}/logs/{place}?offset=0");
    let forged = farm.request(&others, Method::PUT, &theirs).body("forged\n");
    farm.send(forged).await.refused(403, "forbidden");
    let path = format!("/v1/workers/{other}/assets/{digest}");
    farm.call(&token, Method::GET, &path, None).await.refused(403, "forbidden");
    farm.stop().await;
}

#[tokio::test]
async fn a_log_that_is_whole_moves_to_storage_and_reads_the_same() {
    let farm = TestFarm::idle().await;
    let (id, token) = farm.machine("node").await;
    let run = farm.submit(&farm.admin, FILMS).await;
    let task = Try { index: 2, attempt: 1 };
    farm.give(id, &run, task).await;
    let put = async |execution: &str, query: &str, text: &'static str| {
        let path = format!("/v1/workers/{id}/logs/{run}/make/2/{execution}?{query}");
        farm.send(farm.request(&token, Method::PUT, &path).body(text)).await
    };
    let log = format!("/v1/runs/{run}/tasks/make[frame=3]/log");
    let read = async |query: &str| farm.get(&format!("{log}{query}")).await.text();
    let here = farm.path(&format!("logs/{run}/make/2/1-00000000000000ab.log"));
    let stored = farm.path(&format!("artifacts/runs/{run}/_logs/make/2/1-00000000000000ab.log"));
    put("1-ab", "offset=0", "one\n").await.is(204);
    assert!(here.exists() && !stored.exists());
    let follow = farm.request(&farm.admin, Method::GET, &format!("{log}?follow=true"));
    let mut follow = follow.send().await.unwrap();
    assert_eq!(follow.chunk().await.unwrap().unwrap(), "one\n");
    // The last piece may be empty; a piece before it may be missing.
    put("1-ab", "offset=8&whole=true", "").await.refused(409, "conflict");
    put("1-ab", "offset=4&whole=true", "two\n").await.is(204);
    assert!(!farm.path(&format!("logs/{run}")).exists() && stored.exists());
    assert_eq!(follow.chunk().await.unwrap().unwrap(), "two\n");
    // Sent again because the response was lost, and a piece that arrives late.
    put("1-ab", "offset=4&whole=true", "two\n").await.is(204);
    put("1-ab", "offset=0", "one\n").await.is(204);
    assert!(!here.exists());
    // What a former owner has of it is not all of it.
    std::fs::create_dir_all(here.parent().unwrap()).unwrap();
    std::fs::write(&here, "on").unwrap();
    assert_eq!(read("").await, "one\ntwo\n");
    assert_eq!(read("?offset=4").await, "two\n");
    assert_eq!(read("?offset=99").await, "");
    assert_eq!(read("?attempt=2").await, "");
    put("1-ab", "offset=4&whole=true", "two\n").await.is(204);
    assert!(!here.exists());
    // A later attempt counts, wherever its log is stored.
    let failure = Failure { kind: FailureKind::Invalid, message: "no".into() };
    let end = TaskEnd { task, started_ms: 1, took_ms: 2, outcome: Outcome::Failed(failure) };
    let (worker, key) = (WorkerId(id), farm.first_step(&run).await);
    let what = What::Ended(vec![end]);
    let report = Report { worker, key, execution: Execution(0xab), what };
    farm.owner.tell(ToOwner::Report(report)).await.unwrap();
    put("2-cd", "offset=0", "early\n").await.refused(403, "forbidden");
    farm.post(&format!("/v1/runs/{run}/retry"), &Json::Null).await.is(200);
    farm.give(id, &run, Try { index: 2, attempt: 2 }).await;
    put("2-cd", "offset=0", "again\n").await.is(204);
    assert_eq!((read("").await, read("?attempt=1").await), ("again\n".into(), "one\ntwo\n".into()));
    put("2-cd", "offset=6&whole=true", "").await.is(204);
    assert_eq!((read("").await, read("?attempt=1").await), ("again\n".into(), "one\ntwo\n".into()));
    // A client that follows a log before it exists gets it, although it is stored at once.
    farm.give(id, &run, Try { index: 3, attempt: 1 }).await;
    let path = format!("/v1/runs/{run}/tasks/make[frame=4]/log?follow=true");
    let mut follow = farm.request(&farm.admin, Method::GET, &path).send().await.unwrap();
    let path = format!("/v1/workers/{id}/logs/{run}/make/3/1-ef?offset=0&whole=true");
    farm.send(farm.request(&token, Method::PUT, &path).body("all\n")).await.is(204);
    assert_eq!(follow.chunk().await.unwrap().unwrap(), "all\n");
    drop(follow);
    farm.stop().await;
}

#[tokio::test]
async fn a_log_that_cannot_be_stored_is_not_given_up() {
    let farm = TestFarm::idle().await;
    let (id, token) = farm.machine("node").await;
    let run = farm.submit(&farm.admin, FILMS).await;
    farm.give(id, &run, Try { index: 2, attempt: 1 }).await;
    // Nothing can be created below a file.
    let obstacle = farm.path(&format!("artifacts/runs/{run}"));
    std::fs::create_dir_all(obstacle.parent().unwrap()).unwrap();
    std::fs::write(&obstacle, "").unwrap();
    let path = format!("/v1/workers/{id}/logs/{run}/make/2/1-ab?offset=0&whole=true");
    let put = async || farm.request(&token, Method::PUT, &path).body("all\n").send().await.unwrap();
    assert!(put().await.status().is_server_error());
    let log = format!("/v1/runs/{run}/tasks/make[frame=3]/log");
    assert_eq!(farm.get(&log).await.text(), "all\n");
    std::fs::remove_file(&obstacle).unwrap();
    assert_eq!(put().await.status(), 204);
    assert_eq!(farm.get(&log).await.text(), "all\n");
    farm.stop().await;
}
