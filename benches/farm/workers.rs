//! Many workers that only send heartbeats. Their queues at the broker are not consumed.

use crate::served::{Served, Services};
use pictor_api::{GpuLoad, MachineLoad};
use pictor_benches::table::{Series, head, line, verdict};
use pictor_server::http::auth::{Purpose, mint};
use pictor_server::now_ms;
use pictor_storage::{NewWorker, Registry};
use pictor_tasks::state::TokenRole;
use pictor_tasks::worker::{Gpu, Inventory};
use reqwest::{Method, StatusCode};
use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};

/// How many of the workers enrol as machines do; the others are stored, since the broker takes long for each.
const ENROLLED: u32 = 100;
/// Most requests at a time, and so most connections.
const CONNECTIONS: usize = 16;
const WATCHED: Duration = Duration::from_secs(30);

/// Measures farms of these sizes.
pub(crate) async fn workers(services: &Services) {
    for count in [1_000, 10_000] {
        measure(services, count).await;
    }
}

async fn measure(services: &Services, count: u32) {
    let database = services.postgres.database();
    let vhost = services.rabbit.vhost();
    let folder = pictor_benches::machine::fresh_folder("farm-workers");
    let farm = Served::start_in(services, folder, Some((&database, &vhost))).await;
    let (store, registry) = pictor_storage::open(&database).await.expect("the database answers");
    let started = Instant::now();
    let mut known = Vec::new();
    for number in 0..ENROLLED {
        known.push(enrol(&farm, number).await);
    }
    let enrolled = started.elapsed().as_secs_f64() * 1e3 / f64::from(ENROLLED);
    for number in ENROLLED..count {
        known.push(store_one(&*registry, number).await);
    }
    store.close().await.expect("the database works");
    let crowd = Arc::new(Crowd {
        client: reqwest::Client::new(),
        turns: Semaphore::new(CONNECTIONS),
        beats: AtomicU32::new(0),
    });
    let mut beats = Vec::new();
    for (number, (id, token)) in (0u32..).zip(known) {
        let url = farm.url(&format!("/v1/workers/{id}/heartbeat"));
        // They do not act in step.
        let first = Duration::from_secs(5).mul_f64(f64::from(number) / f64::from(count));
        beats.push(tokio::spawn(crowd.clone().live(url, token, Instant::now() + first)));
    }
    sleep(Duration::from_secs(25)).await;
    let (from, before) = (Instant::now(), farm.server_seconds());
    let sent = crowd.beats.load(Ordering::Relaxed);
    sleep(WATCHED).await;
    let seconds = from.elapsed().as_secs_f64();
    let share = (farm.server_seconds() - before) / seconds * 100.0;
    let rate = f64::from(crowd.beats.load(Ordering::Relaxed) - sent) / seconds;
    let (mut pages, mut alive, mut after) = (Series::default(), Series::default(), String::new());
    for _ in 0..300 {
        let (took, page) = farm.timed(&format!("/v1/workers?limit=100{after}")).await;
        pages.push(took * 1e3);
        after = page["next"].as_str().map_or_else(String::new, |next| format!("&after={next}"));
        alive.push(farm.timed("/healthz").await.0 * 1e3);
    }
    let memory = farm.server_megabytes();
    assert!(beats.iter().all(|beat| !beat.is_finished()), "every heartbeat was heard");
    beats.iter().for_each(tokio::task::JoinHandle::abort);
    head(&format!("Farm: {count} workers with heartbeats"));
    let one = |value: f64| Series::from_iter([value]);
    line("enrolment of one", &one(enrolled), "ms", "");
    line("heartbeats a second", &one(rate), "/s", "");
    line("processor of the server", &one(share), "%", &verdict(share < 60.0, "< 60 % of one core"));
    let p99 = pages.percentile(99);
    let remark = format!("p99 {p99:.1} ms, {}", verdict(p99 < 50.0, "< 50 ms"));
    line("GET of 100 workers meanwhile", &pages, "ms", &remark);
    let remark = format!("p99 {:.1} ms", alive.percentile(99));
    line("floor: `/healthz` meanwhile", &alive, "ms", &remark);
    line("peak memory of the server", &one(memory), "MB", "");
}

fn inventory(number: u32) -> Inventory {
    let gpu = |slot| Gpu {
        name: "NVIDIA GeForce RTX 4090".to_owned(),
        uuid: format!("GPU-{number:08x}-0000-0000-0000-{slot:012x}"),
        vram_bytes: 24 << 30,
        driver: "550.54.14".to_owned(),
    };
    let software = [("blender", "4.2.1"), ("ffmpeg", "5.1.6"), ("ffprobe", "5.1.6")];
    Inventory {
        name: format!("simulated-{number}"),
        cpus: 32,
        memory_bytes: 128 << 30,
        disk_bytes: 1 << 40,
        gpus: (0..2).map(gpu).collect(),
        software: software.map(|(name, version)| (name.to_owned(), version.to_owned())).into(),
        slots: 2,
        ..Inventory::default()
    }
}

async fn enrol(farm: &Served, number: u32) -> (u64, String) {
    let body = json!({ "name": format!("simulated-{number}"), "inventory": inventory(number) });
    let answer = loop {
        let asked = farm.request(Method::POST, "/v1/workers").json(&body).send().await;
        let answer = asked.expect("the server answers");
        // A single account may not send requests this often.
        if answer.status() != StatusCode::TOO_MANY_REQUESTS {
            break answer;
        }
        sleep(Duration::from_millis(100)).await;
    };
    let answer: Json = answer.json().await.expect("JSON");
    let id = answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"));
    (id, answer["token"].as_str().unwrap_or_default().to_owned())
}

/// Stores a worker as its enrolment would.
async fn store_one(registry: &dyn Registry, number: u32) -> (u64, String) {
    let name = format!("simulated-{number}");
    let purpose = Purpose { name: &name, role: TokenRole::Machine, account: "admin" };
    let minted = mint(&purpose, now_ms());
    registry.add_token(&minted.record).await.expect("the database works");
    let (inventory, token) = (inventory(number), &minted.record.id);
    let new = NewWorker { name: &name, account: "admin", token, inventory: &inventory };
    let id = registry.register_worker(&new, now_ms()).await;
    (id.expect("the database works").0.into(), minted.text)
}

/// All workers, which share connections.
struct Crowd {
    client: reqwest::Client,
    turns: Semaphore,
    beats: AtomicU32,
}

impl Crowd {
    /// Sends the heartbeats of one worker as often as the server says; fails if one is rejected.
    async fn live(self: Arc<Self>, url: String, token: String, mut next: Instant) {
        let gpu = GpuLoad { utilisation_percent: Some(3), ..GpuLoad::default() };
        let body = json!({
            "holding": [], "gpus": [gpu, gpu], "machine": MachineLoad::default(), "accepts": true,
            "place": "simulated",
        });
        loop {
            sleep_until(next).await;
            let _turn = self.turns.acquire().await.expect("it is never closed");
            let sent = self.client.post(&url).bearer_auth(&token).json(&body).send().await;
            let answer = sent.unwrap_or_else(|error| panic!("a heartbeat was not heard: {error}"));
            assert!(answer.status().is_success(), "a heartbeat was refused: {}", answer.status());
            let orders: Json = answer.json().await.expect("JSON");
            self.beats.fetch_add(1, Ordering::Relaxed);
            next += Duration::from_millis(orders["heartbeat_ms"].as_u64().unwrap_or(5_000));
        }
    }
}
