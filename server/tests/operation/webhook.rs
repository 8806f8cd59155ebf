//! Webhooks against a real receiver that fails, hangs, and finally accepts messages.

use crate::farm::{Base, JOB, cancel, ms, now, set};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pictor_server::webhook::{EventKind, HookConfig, Webhooks};
use pictor_server::{OwnerHandle, ServerRole};
use pictor_storage::{NewWorker, WorkerRecord};
use pictor_tasks::message::RunId;
use pictor_tasks::units::Millis;
use ring::hmac;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

const START: &str = "2026-06-01T00:00:00Z";
const SECRET: &[u8] = b"0123456789abcdefghijklmnopqrstuv";
const HOUR: i64 = 3_600_000;

/// How the receiver responds to the next message.
#[derive(Clone, Copy, Debug)]
enum Mood {
    Status(u16),
    /// A redirect to itself.
    Redirect,
    /// `Retry-After`, in seconds.
    Later(u64),
    Hang,
}

/// A message as it arrived.
#[derive(Debug)]
struct Got {
    id: String,
    time_s: i64,
    body: serde_json::Value,
}

/// A web server that responds as it is told, and otherwise with 200.
struct Receiver {
    url: String,
    moods: Arc<Mutex<VecDeque<Mood>>>,
    got: mpsc::Receiver<Got>,
}

type Shared = (Arc<Mutex<VecDeque<Mood>>>, mpsc::Sender<Got>);

async fn take(State((moods, got)): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let text = |name: &str| headers[name].to_str().unwrap().to_owned();
    assert_eq!(text("content-type"), "application/json");
    let (id, time_s) = (text("webhook-id"), text("webhook-timestamp"));
    // According to the specification: id, time and body, separated by dots.
    let signed = [id.as_bytes(), b".", time_s.as_bytes(), b".", &body].concat();
    let signature = text("webhook-signature");
    let signature = STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    hmac::verify(&key, &signed, &signature).unwrap();
    let body = serde_json::from_slice(&body).unwrap();
    got.send(Got { id, time_s: time_s.parse().unwrap(), body }).await.unwrap();
    let mood = moods.lock().unwrap().pop_front();
    match mood {
        None => StatusCode::OK.into_response(),
        Some(Mood::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Some(Mood::Redirect) => (StatusCode::FOUND, [("location", "/hook")]).into_response(),
        Some(Mood::Later(seconds)) => {
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", seconds.to_string())]).into_response()
        }
        Some(Mood::Hang) => std::future::pending().await,
    }
}

impl Receiver {
    async fn start() -> Self {
        let (sender, got) = mpsc::channel(1000);
        let moods = Arc::<Mutex<VecDeque<Mood>>>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let app = Router::new().route("/hook", post(take)).with_state((moods.clone(), sender));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, moods, got }
    }

    fn will(&self, moods: &[Mood]) {
        self.moods.lock().unwrap().extend(moods);
    }

    /// The messages that have arrived so far.
    fn all(&mut self) -> Vec<Got> {
        std::iter::from_fn(|| self.got.try_recv().ok()).collect()
    }

    fn config(&self, base: &Base, name: &str, events: &[EventKind]) -> HookConfig {
        let secret_file = base.path("secret");
        std::fs::write(&secret_file, SECRET).unwrap();
        HookConfig {
            name: name.into(),
            url: self.url.clone(),
            secret_file,
            events: events.to_vec(),
            timeout: Millis(300),
        }
    }
}

fn hooks(base: &Base, configs: &[HookConfig]) -> Webhooks {
    Webhooks::new(configs, base.store.clone(), base.registry.clone(), now).unwrap()
}

/// A run that has just been cancelled.
async fn ended(base: &Base, owner: &OwnerHandle, id: &str) -> RunId {
    let run = base.submit(owner, id, JOB).await;
    cancel(owner, &run).await;
    run
}

const CANCELLED: &[EventKind] = &[EventKind::RunCancelled];

#[expect(clippy::too_many_lines, reason = "one story")]
pub(crate) async fn a_message_is_tried_until_it_is_taken(base: &Base) {
    set(ms(START));
    let mut receiver = Receiver::start().await;
    let hooks = hooks(base, &[receiver.config(base, "chat", CANCELLED)]);
    let owner = base.owner().await;
    let (role, watch) = watch::channel(ServerRole::Owner(owner.clone()));
    hooks.catch_up().await.unwrap();
    receiver.will(&[Mood::Status(500), Mood::Hang, Mood::Redirect, Mood::Later(7200)]);
    let serving = tokio::spawn({
        let hooks = hooks.clone();
        async move { hooks.run(watch).await }
    });
    tokio::task::yield_now().await;
    let run = ended(base, &owner, "still-1").await;
    let first = receiver.got.recv().await.unwrap();
    assert_eq!(first.body["event"], "run.cancelled");
    assert_eq!(first.body["run"]["id"], *run.0);
    assert_eq!(first.body["id"], first.id);
    assert_eq!(first.time_s, ms(START) / 1000);
    let status = loop {
        let status = hooks.status().await.unwrap().remove(0);
        if status.attempts > 0 {
            break status;
        }
    };
    assert_eq!((status.waiting, status.attempts), (1, 1));
    assert_eq!(status.error, "it answers with 500 Internal Server Error");
    // From here on the test decides when deliveries are attempted.
    role.send_replace(ServerRole::Standby { owner: None });
    drop(role);
    serving.await.unwrap();

    let mut errors = Vec::new();
    let mut pause = 10_000;
    for _ in 0..3 {
        assert_eq!(hooks.deliver_due().await.unwrap(), 0, "not before its time");
        set(now() + pause);
        assert_eq!(hooks.deliver_due().await.unwrap(), 1);
        let again = receiver.got.recv().await.unwrap();
        assert_eq!((&again.id, again.time_s), (&first.id, now() / 1000));
        assert_eq!(again.body, first.body);
        errors.push(hooks.status().await.unwrap().remove(0).error);
        pause *= 4;
    }
    assert_eq!(
        errors,
        [
            "it does not answer in time",
            "it answers with 302 Found; redirects are not followed",
            "it answers with 429 Too Many Requests"
        ]
    );
    set(now() + 2 * HOUR - 1000);
    assert_eq!(hooks.deliver_due().await.unwrap(), 0, "the receiver asked for two hours");
    set(now() + HOUR);
    assert_eq!(hooks.deliver_due().await.unwrap(), 1);
    assert_eq!(receiver.got.recv().await.unwrap().id, first.id);
    let status = hooks.status().await.unwrap().remove(0);
    assert_eq!((status.waiting, status.given_up, status.delivered_ms), (0, 0, Some(now())));
    set(now() + 100 * HOUR);
    assert_eq!(hooks.deliver_due().await.unwrap(), 0);
    assert!(receiver.all().is_empty());
}

pub(crate) async fn an_end_that_was_committed_just_before_a_crash_is_told_once(base: &Base) {
    set(ms(START));
    let mut receiver = Receiver::start().await;
    let config = [receiver.config(base, "chat", CANCELLED)];
    let owner = base.owner().await;
    ended(base, &owner, "before").await;
    // A new hook gets events from now on.
    set(now() + 1000);
    let first = hooks(base, &config);
    first.catch_up().await.unwrap();
    assert_eq!(first.deliver_due().await.unwrap(), 0);
    // This end is committed, and the server dies before it is reported.
    set(now() + 1000);
    ended(base, &owner, "lost").await;
    set(now() + 3 * 24 * HOUR);
    for _ in 0..3 {
        let next = hooks(base, &config);
        next.catch_up().await.unwrap();
        next.deliver_due().await.unwrap();
    }
    let got = receiver.all();
    assert_eq!(got.len(), 1, "{got:?}");
    assert_eq!(got[0].body["run"]["id"], "lost");
    assert_eq!(got[0].body["time_ms"], ms(START) + 2000);
    // An event that is too old is not reported.
    ended(base, &owner, "old").await;
    set(now() + 8 * 24 * HOUR);
    let next = hooks(base, &config);
    next.catch_up().await.unwrap();
    assert_eq!(next.deliver_due().await.unwrap(), 0);
}

pub(crate) async fn a_takeover_tells_nothing_twice(base: &Base) {
    set(ms(START));
    let mut receiver = Receiver::start().await;
    let config = [
        receiver.config(base, "chat", CANCELLED),
        receiver.config(base, "deaf", &[EventKind::RunSucceeded]),
    ];
    let other = base.other().await;
    let (one, two) = (hooks(base, &config), hooks(&other, &config));
    tokio::try_join!(one.catch_up(), two.catch_up()).unwrap();
    let owner = base.owner().await;
    let (_role, watch) = watch::channel(ServerRole::Owner(owner.clone()));
    // Both believe that they own the farm.
    for hooks in [one.clone(), two.clone()] {
        let watch = watch.clone();
        tokio::spawn(async move { hooks.run(watch).await });
    }
    tokio::task::yield_now().await;
    for n in 0..5 {
        ended(base, &owner, &format!("still-{n}")).await;
    }
    let mut ids = std::collections::BTreeSet::new();
    while ids.len() < 5 {
        ids.insert(receiver.got.recv().await.unwrap().id);
    }
    tokio::try_join!(one.catch_up(), two.catch_up()).unwrap();
    let stored = base.registry.deliveries("chat", 100).await.unwrap();
    assert_eq!(stored.len(), 5 + 1, "each event once, and the note since when it is told");
    assert_eq!(base.registry.deliveries("deaf", 100).await.unwrap().len(), 1);
}

pub(crate) async fn a_lost_worker_is_told_once_until_it_is_seen_again(base: &Base) {
    set(ms(START));
    let mut receiver = Receiver::start().await;
    let hooks = hooks(base, &[receiver.config(base, "chat", &EventKind::all())]);
    hooks.catch_up().await.unwrap();
    let inventory = pictor_tasks::worker::Inventory::default();
    let worker = NewWorker { name: "rack7", account: "ada", token: "t", inventory: &inventory };
    let id = base.registry.register_worker(&worker, now()).await.unwrap();
    let owner = base.owner().await;
    let committed = |lost| {
        let (rows, changed, spaces) = Default::default();
        pictor_server::Committed { rows, changed, spaces, lost }
    };
    let tell = async |times: usize| {
        for _ in 0..times {
            hooks.note(&committed(vec![id])).await.unwrap();
        }
        hooks.deliver_due().await.unwrap();
    };
    set(now() + 60_000);
    tell(2).await;
    let WorkerRecord { seen_ms, .. } = base.registry.worker(id).await.unwrap().unwrap();
    let got = receiver.all();
    assert_eq!(got.len(), 1, "{got:?}");
    assert_eq!(got[0].body["event"], "worker.lost");
    assert_eq!(
        got[0].body["worker"],
        serde_json::json!({ "id": id.0, "name": "rack7", "account": "ada", "seen_ms": seen_ms })
    );
    base.registry.workers_seen(&[(id, now())]).await.unwrap();
    set(now() + 60_000);
    tell(1).await;
    assert_eq!(receiver.all().len(), 1);
    drop(owner);
}

pub(crate) async fn messages_that_nobody_wants_are_given_up(base: &Base) {
    set(ms(START));
    let mut receiver = Receiver::start().await;
    let hooks = hooks(base, &[receiver.config(base, "chat", CANCELLED)]);
    hooks.catch_up().await.unwrap();
    let owner = base.owner().await;
    set(now() + 1000);
    ended(base, &owner, "gone").await;
    hooks.catch_up().await.unwrap();
    receiver.will(&[Mood::Status(410)]);
    assert_eq!(hooks.deliver_due().await.unwrap(), 1);
    let status = hooks.status().await.unwrap().remove(0);
    assert_eq!((status.waiting, status.given_up, status.delivered_ms), (0, 1, None));

    ended(base, &owner, "refused").await;
    hooks.catch_up().await.unwrap();
    receiver.will(&[Mood::Status(503); 20]);
    let (start, mut tried) = (now(), 0);
    for _ in 0..20 {
        tried += hooks.deliver_due().await.unwrap();
        set(now() + 24 * HOUR);
    }
    assert_eq!(tried, 10);
    let status = hooks.status().await.unwrap().remove(0);
    assert_eq!((status.waiting, status.given_up), (0, 2));
    assert!(now() - start > 48 * HOUR);
    assert_eq!(receiver.all().len(), 11);
}

pub(crate) async fn a_hook_that_hangs_holds_up_no_other(base: &Base) {
    set(ms(START));
    let (mut bad, mut good) = (Receiver::start().await, Receiver::start().await);
    bad.will(&[Mood::Hang; 100]);
    let mut slow = bad.config(base, "bad", CANCELLED);
    slow.timeout = Millis(60_000);
    let hooks = hooks(base, &[slow, good.config(base, "good", CANCELLED)]);
    hooks.catch_up().await.unwrap();
    let owner = base.owner().await;
    let (_role, watch) = watch::channel(ServerRole::Owner(owner.clone()));
    tokio::spawn(async move { hooks.run(watch).await });
    tokio::task::yield_now().await;
    for n in 0..20 {
        ended(base, &owner, &format!("still-{n}")).await;
        assert_eq!(good.got.recv().await.unwrap().body["run"]["id"], format!("still-{n}"));
    }
    assert!(!bad.all().is_empty());
}
