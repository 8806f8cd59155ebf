//! A farm in one process behind a real port, and a client that checks every error response.

use pictor_api::TokenRole;
use pictor_artifacts::Artifacts;
use pictor_engine::{Config, Run};
use pictor_executor::{Agent, Sandbox, SandboxPolicy, Shared};
use pictor_queue::{Broker, OwnerQueue, Sealer, ToOwner, WorkerPort, in_process};
use pictor_server::http::auth::{Purpose, mint};
use pictor_server::http::{Api, Limits, Setup, serve};
use pictor_server::schedule::Schedules;
use pictor_server::webhook::{HookConfig, Webhooks};
use pictor_server::{Error, Owner, OwnerHandle, ServerRole, now_ms};
use pictor_storage::{NewWorker, Registry, Store};
use pictor_tasks::message::{RunId, StepKey, Try, WorkerId};
use pictor_tasks::worker::Inventory;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The worker in the farm's own process.
const HERE: WorkerId = WorkerId(1);
/// Time limit, after which a test counts as hung.
const LIMIT: Duration = Duration::from_secs(30);
/// The key that the tickets of these farms are made with.
pub(crate) const TICKET_KEY: [u8; 32] = [7; 32];

/// Five tasks that write a file and a log, then one that depends on them all.
pub(crate) const FILMS: &str = r#"pictor: v1
name: films
dims:
  frame: { range: 1-5 }
steps:
  - name: make
    over: [frame]
    command:
      run: [sh, -c, 'echo "frame $1"; printf "picture %s" "$1" > "$2"', sh, "{frame}", "{output.text}"]
      outputs: { text: a.txt }
    deliver: { text: "frames/{frame:04}.txt" }
  - name: join
    needs: [make]
    command:
      run: [sh, -c, 'cat "$1"/* > "$2"', sh, "{inputs.make}", "{output.film}"]
      outputs: { film: film.txt }
    deliver: { film: film.txt }
"#;

/// A million tasks that no worker of these farms can execute.
pub(crate) const MILLION: &str = r"pictor: v1
name: million
dims:
  frame: { count: 1000 }
  tile: { count: 1000 }
requires: { labels: [nowhere] }
steps:
  - name: render
    over: [frame, tile]
    noop: {}
  - name: join
    over: [frame]
    needs: [render]
    noop: {}
";

/// How to start a farm.
#[derive(Default)]
pub(crate) struct Options {
    /// Whether the farm's process has no worker.
    pub(crate) idle: bool,
    pub(crate) limits: Option<Limits>,
    pub(crate) broker: Option<Broker>,
    pub(crate) hooks: Vec<HookConfig>,
    /// URL of the database, unless it is to be a file.
    pub(crate) database: Option<String>,
    /// Where artifacts are stored, unless in a folder.
    pub(crate) artifacts: Option<Artifacts>,
    pub(crate) metrics_need_token: bool,
    pub(crate) lease: Option<Duration>,
    /// The clock, unless that of the machine.
    pub(crate) now_ms: Option<fn() -> i64>,
}

pub(crate) struct TestFarm {
    pub(crate) url: String,
    pub(crate) folder: TempDir,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) owner: OwnerHandle,
    pub(crate) be: watch::Sender<ServerRole>,
    pub(crate) admin: String,
    client: reqwest::Client,
    stop: watch::Sender<bool>,
    loops: JoinHandle<Result<(), Error>>,
    server: JoinHandle<std::io::Result<()>>,
    agent: Option<pictor_executor::Handle>,
}

/// Status, headers and body of a response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

/// A worker with two slots that runs programs.
fn start_agent(port: WorkerPort, data: &Path) -> pictor_executor::Handle {
    let shared = data.join("shared");
    std::fs::create_dir_all(&shared).unwrap();
    let shared = Shared { read: Vec::new(), write: vec![shared] };
    Sandbox::choose(SandboxPolicy::Preferred, shared).unwrap();
    let has = Inventory { slots: 2, allows_commands: true, ..Inventory::default() };
    let mut config = pictor_executor::Config::new(data.to_path_buf(), has);
    (config.slots, config.allow_commands) = (2, true);
    let store = pictor_executor::Artifacts::in_folder(&config.artifacts()).unwrap();
    let outbox = Arc::new(port.sender());
    Agent::start(Box::new(port), outbox, HERE, config, store).unwrap()
}

impl TestFarm {
    /// Starts a farm with one worker of two slots.
    pub(crate) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// Starts a farm without workers.
    pub(crate) async fn idle() -> Self {
        Self::with(Options { idle: true, ..Options::default() }).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let folder = tempfile::Builder::new().prefix("pictor-http-").tempdir().unwrap();
        let data = folder.path().to_path_buf();
        let place = options.database.as_deref().unwrap_or(data.to_str().unwrap());
        let (store, registry) = pictor_storage::open(place).await.unwrap();
        store.take_ownership("here", now_ms()).await.unwrap();
        let folder_of = || Artifacts::folder(&data.join("artifacts")).unwrap();
        let artifacts = Arc::new(options.artifacts.unwrap_or_else(folder_of));
        let now_ms = options.now_ms.unwrap_or(now_ms);
        let lease = options.lease.unwrap_or(Duration::from_secs(5));
        let (mut port, mut ports) = in_process(&[HERE]);
        port.begin(1, TICKET_KEY);
        let lease_ms = i64::try_from(lease.as_millis()).unwrap();
        let config = Config { lease_ms, ..Config::default() };
        let (owner, handle) = Owner::new(config, store.clone(), Box::new(port), now_ms);
        let handle = handle.with_sealer(Sealer::new(1, TICKET_KEY));
        let loops = tokio::spawn(owner.run());
        let agent = (!options.idle).then(|| start_agent(ports.remove(0), &data));
        let (be, role) = watch::channel(ServerRole::Owner(handle.clone()));
        let (stop, stopped) = watch::channel(false);
        let webhooks = Webhooks::new(&options.hooks, store.clone(), registry.clone(), now_ms);
        let setup = Setup {
            schedules: Schedules::new(store.clone(), registry.clone(), artifacts.clone(), now_ms),
            webhooks: webhooks.unwrap(),
            store: store.clone(),
            registry: registry.clone(),
            artifacts,
            broker: options.broker.map(Arc::new),
            role,
            stop: stopped,
            data,
            limits: options.limits.unwrap_or_default(),
            metrics_need_token: options.metrics_need_token,
            heartbeat: Duration::from_secs(1),
            lease,
            now_ms,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(serve(listener, Api::new(setup).unwrap()));
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let mut farm = Self {
            url,
            folder,
            store,
            registry,
            owner: handle,
            be,
            admin: String::new(),
            client: client.timeout(LIMIT).build().unwrap(),
            stop,
            loops,
            server,
            agent,
        };
        farm.admin = farm.token(TokenRole::Admin, "root").await;
        farm
    }

    /// Creates a token, as an administrator would.
    pub(crate) async fn token(&self, role: TokenRole, account: &str) -> String {
        let minted = mint(&Purpose { name: "a test", role, account }, now_ms());
        self.registry.add_token(&minted.record).await.unwrap();
        minted.text
    }

    /// Registers a machine without a broker; returns its id and token.
    pub(crate) async fn machine(&self, name: &str) -> (u32, String) {
        self.machine_of(name, "lab").await
    }

    /// The same, for an account.
    pub(crate) async fn machine_of(&self, name: &str, account: &str) -> (u32, String) {
        let purpose = Purpose { name, role: TokenRole::Machine, account };
        let minted = mint(&purpose, now_ms());
        self.registry.add_token(&minted.record).await.unwrap();
        let has = Inventory { name: name.to_owned(), slots: 1, ..Inventory::default() };
        let token = &minted.record.id;
        let worker = NewWorker { name, account, token, inventory: &has };
        let id = self.registry.register_worker(&worker, now_ms()).await.unwrap();
        (id.0, minted.text)
    }

    /// Waits until the owner has a run, and returns the key of its first step.
    pub(crate) async fn first_step(&self, run: &str) -> StepKey {
        let run = RunId(run.into());
        while !self.owner.has_run(&run).await.unwrap() {
            tokio::task::yield_now().await;
        }
        StepKey { run, step: 0, generation: 0 }
    }

    /// Lets a machine have a task of the first step of a run.
    pub(crate) async fn give(&self, machine: u32, run: &str, task: Try) {
        let (id, key) = (WorkerId(machine), self.first_step(run).await);
        let has = Inventory { slots: 1, allows_commands: true, ..Inventory::default() };
        self.owner.tell(ToOwner::Joined(id, has)).await.unwrap();
        self.owner.tell(ToOwner::Heartbeat(id, vec![(key, vec![task])])).await.unwrap();
    }

    /// Where a machine may put an output of a run's first task, and what proves that.
    pub(crate) async fn output(&self, run: &str, worker: u32, token: &str) -> (String, String) {
        let task = Try { index: 0, attempt: 1 };
        self.give(worker, run, task).await;
        let key = self.first_step(run).await;
        let ticket = Sealer::new(1, TICKET_KEY).seal(&key, task, WorkerId(worker)).to_string();
        let body = serde_json::json!({
            "key": key, "task": task, "execution": 1, "ticket": ticket, "step": "make",
            "file": "a.txt", "size_bytes": 1,
        });
        let path = format!("/v1/workers/{worker}/outputs");
        let place = self.call(token, Method::POST, &path, Some(&body)).await.is(200);
        let link = &place["link"];
        let text = |value: &Json| value.as_str().unwrap().to_owned();
        (text(&link["url"]), text(&link["headers"]["pictor-link"]))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A request, which is not sent yet.
    pub(crate) fn request(
        &self,
        token: &str,
        method: Method,
        path: &str,
    ) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        if token.is_empty() { request } else { request.bearer_auth(token) }
    }

    /// Sends a request. Every error response has to be a proper problem document.
    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.unwrap().to_vec();
        let answer = Answer { status, headers, bytes };
        if status.is_client_error() || status.is_server_error() {
            answer.check_problem();
        }
        answer
    }

    pub(crate) async fn call(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<&Json>,
    ) -> Answer {
        let request = self.request(token, method, path);
        self.send(body.into_iter().fold(request, reqwest::RequestBuilder::json)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(&self.admin, Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Json) -> Answer {
        self.call(&self.admin, Method::POST, path, Some(body)).await
    }

    /// Submits the text of a job; returns the run's id.
    pub(crate) async fn submit(&self, token: &str, job: &str) -> String {
        let body = serde_json::json!({ "job": job });
        let answer = self.call(token, Method::POST, "/v1/runs", Some(&body)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
        answer.json()["run"]["id"].as_str().unwrap().to_owned()
    }

    /// Waits until a run has ended.
    pub(crate) async fn until_over(&self, run: &str) {
        let id = RunId(run.into());
        let mut news = self.owner.news();
        let over = async {
            loop {
                let asked = id.clone();
                let state = self.owner.ask(move |engine| engine.run(&asked).map(Run::state)).await;
                if state.unwrap().is_some_and(pictor_engine::RunState::is_terminal) {
                    return;
                }
                // After a lag the state is checked again.
                let _ = news.recv().await;
            }
        };
        tokio::time::timeout(LIMIT, over).await.unwrap();
    }

    /// Stops everything cleanly.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        tokio::time::timeout(LIMIT, self.server).await.unwrap().unwrap().unwrap();
        if let Some(agent) = self.agent {
            agent.shutdown().await;
        }
        self.owner.stop().await;
        self.loops.await.unwrap().unwrap();
    }
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub(crate) fn json(&self) -> Json {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts the status; returns the body.
    pub(crate) fn is(&self, status: u16) -> Json {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        if self.bytes.is_empty() { Json::Null } else { self.json() }
    }

    /// Asserts the status and the code of an error response; returns the body.
    pub(crate) fn refused(&self, status: u16, code: &str) -> Json {
        let problem = self.is(status);
        assert_eq!(problem["code"], code, "{}", self.text());
        problem
    }

    fn check_problem(&self) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text());
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16(), "{problem}");
        let code = problem["code"].as_str().unwrap();
        assert_eq!(problem["type"], format!("urn:pictor:problem:{code}"));
        for field in ["title", "detail"] {
            assert!(!problem[field].as_str().unwrap().is_empty(), "{problem}");
        }
        assert_ne!(self.status.as_u16(), 500, "{problem}");
        let later = matches!(self.status.as_u16(), 429 | 503);
        assert_eq!(later, self.headers.contains_key("retry-after"), "{problem}");
    }
}
