//! The HTTP API: JSON over `/v1`, described at `/openapi.json`, with tokens, roles and an audit log.

mod artifacts;
mod audit_log;
pub mod auth;
mod blobs;
pub mod caller;
mod connections;
mod controls;
mod delivered;
mod events;
mod extract;
mod first_token;
mod guard;
mod health;
mod heartbeats;
mod hub;
pub mod limits;
mod log_place;
mod logs;
mod malformed;
mod memory;
mod metrics;
mod openapi;
mod paging;
mod proxy;
mod refusal;
pub mod rules;
mod runs;
mod schedules;
mod submit;
mod tasks;
mod tokens;
mod transfers;
mod uploads;
mod webhooks;
mod workers;

pub use connections::serve;
#[cfg(test)]
pub(crate) use delivered::find as find_delivered;
pub use first_token::{FirstTokenError, first_token};
pub use limits::{Limits, Quotas, Rate};
pub use refusal::Refusal;

use crate::role::ServerRole;
use crate::runs::{Runs, aside};
use crate::schedule::Schedules;
use crate::webhook::Webhooks;
use audit_log::AuditLog;
use auth::Tokens;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use heartbeats::Heartbeats;
use hub::Hub;
use limits::{Buckets, Taken};
use log_place::LogLocks;
use memory::Memory;
use metrics::Metrics;
use pictor_api::Code;
use pictor_artifacts::Artifacts;
use pictor_queue::Broker;
use pictor_storage::{Registry, Store};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;
use uploads::Uploads;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The parts that the API works with.
pub struct Setup {
    /// Runs and their history.
    pub store: Arc<dyn Store>,
    /// Tokens, workers, schedules and the audit log.
    pub registry: Arc<dyn Registry>,
    /// Artifact storage, for results and assets.
    pub artifacts: Arc<Artifacts>,
    /// The schedules of the farm.
    pub schedules: Schedules,
    /// The webhooks that the configuration names.
    pub webhooks: Webhooks,
    /// The message broker, if there is one that workers on other machines can reach.
    pub broker: Option<Arc<Broker>>,
    /// The current role of this server.
    pub role: watch::Receiver<ServerRole>,
    /// Becomes true when the server stops: this ends responses that would never end by themselves.
    pub stop: watch::Receiver<bool>,
    /// The server's data folder, for logs of tasks and for bodies on their way to storage.
    pub data: PathBuf,
    /// Limits on what callers may request.
    pub limits: Limits,
    /// Whether `/metrics` is only for those who may see everything, and not for everybody who reaches the port.
    pub metrics_need_token: bool,
    /// How often workers have to send heartbeats.
    pub heartbeat: Duration,
    /// How long a worker may be silent before its tasks are given to others.
    pub lease: Duration,
    /// Source of the time, in milliseconds since 1970.
    pub now_ms: fn() -> i64,
}

/// The state of the API, shared by its handlers.
pub struct Api {
    store: Arc<dyn Store>,
    registry: Arc<dyn Registry>,
    artifacts: Arc<Artifacts>,
    schedules: Schedules,
    webhooks: Webhooks,
    broker: Option<Arc<Broker>>,
    role: watch::Receiver<ServerRole>,
    stop: watch::Receiver<bool>,
    data: PathBuf,
    limits: Limits,
    metrics_need_token: bool,
    heartbeat: Duration,
    lease: Duration,
    now_ms: fn() -> i64,
    tokens: Tokens,
    buckets: Buckets,
    streams: Taken,
    uploads: Uploads,
    audit_log: AuditLog,
    runs: Runs,
    log_locks: LogLocks,
    events: Hub,
    heartbeats: Heartbeats,
    metrics: Metrics,
    memory: Memory,
    http: reqwest::Client,
    began: Instant,
    link_key: [u8; 32],
    forward_key: OnceCell<[u8; 32]>,
}

impl Api {
    /// Prepares the API. Has to be called in a runtime, because it starts to collect the owner's commits.
    pub fn new(setup: Setup) -> Result<Arc<Self>, Refusal> {
        let http = pictor_net::client(Duration::from_secs(3))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Refusal::new(Code::Internal, error.to_string()))?;
        // Bodies that an earlier process left behind when it crashed.
        let _ = std::fs::remove_dir_all(setup.data.join("spool"));
        let role = setup.role.clone();
        let audit_log = AuditLog::new(setup.limits.audit_age_ms, setup.limits.audit_entries);
        let api = Arc::new(Self {
            events: Hub::new((setup.now_ms)()),
            runs: Runs::of_farm(setup.store.clone(), setup.registry.clone(), setup.now_ms),
            store: setup.store,
            registry: setup.registry,
            artifacts: setup.artifacts,
            schedules: setup.schedules,
            webhooks: setup.webhooks,
            broker: setup.broker,
            role: setup.role,
            stop: setup.stop,
            data: setup.data,
            limits: setup.limits,
            metrics_need_token: setup.metrics_need_token,
            heartbeat: setup.heartbeat,
            lease: setup.lease,
            now_ms: setup.now_ms,
            tokens: Tokens::default(),
            buckets: Buckets::default(),
            streams: Taken::default(),
            uploads: Uploads::default(),
            audit_log,
            log_locks: LogLocks::default(),
            heartbeats: Heartbeats::default(),
            metrics: Metrics::new(),
            memory: Memory::default(),
            http,
            began: Instant::now(),
            link_key: pictor_net::random_bytes(),
            forward_key: OnceCell::new(),
        });
        tokio::spawn(hub::feed(Arc::downgrade(&api), role));
        tokio::spawn(memory::look(Arc::downgrade(&api)));
        Ok(api)
    }

    fn logs(&self) -> PathBuf {
        self.data.join("logs")
    }
}

/// The complete router. It needs the caller's address: see [`serve`].
pub fn router(api: Arc<Api>) -> Router {
    let (v1, _) = v1(&api.limits).split_for_parts();
    let v1 = v1
        .route_layer(from_fn_with_state(api.clone(), guard::guard))
        .route_layer(from_fn_with_state(api.clone(), proxy::proxy));
    let (open, _) = open().split_for_parts();
    let json = [(CONTENT_TYPE, "application/json")];
    let text: Arc<str> = description().into();
    Router::new()
        .merge(v1)
        .merge(open)
        .route("/openapi.json", get(move || async move { (json, text.to_string()) }))
        .route("/docs", get(openapi::docs))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(api.clone(), metrics::measure))
        .layer(DefaultBodyLimit::max(api.limits.body_bytes))
        .with_state(api)
}

/// The `OpenAPI` description, as `/openapi.json` has it.
pub fn description() -> String {
    let mut description = v1(&Limits::default()).into_openapi();
    description.merge(open().into_openapi());
    openapi::finish(&mut description);
    let description = serde_json::to_value(description).expect("a description is plain data");
    format!("{:#}", openapi::with_ranges(description))
}

/// The routes that need no token.
fn open() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(metrics::metrics))
}

fn v1(limits: &Limits) -> OpenApiRouter<Arc<Api>> {
    let jobs = DefaultBodyLimit::max(limits.job_bytes);
    OpenApiRouter::with_openapi(openapi::begin())
        .merge(
            OpenApiRouter::default()
                .routes(routes!(runs::list, submit::submit))
                .routes(routes!(schedules::list, schedules::add))
                .routes(routes!(schedules::show, schedules::replace, schedules::remove))
                .layer(jobs),
        )
        .routes(routes!(runs::show, controls::patch))
        .routes(routes!(runs::graph))
        .routes(routes!(controls::pause))
        .routes(routes!(controls::resume))
        .routes(routes!(controls::cancel))
        .routes(routes!(controls::retry))
        .routes(routes!(controls::reset))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::show))
        .routes(routes!(logs::read))
        .routes(routes!(artifacts::files))
        .routes(routes!(artifacts::file))
        .routes(routes!(artifacts::artifact))
        .routes(routes!(uploads::missing))
        .routes(routes!(uploads::upload))
        .routes(routes!(events::events))
        .routes(routes!(workers::list, workers::enrol))
        .routes(routes!(workers::show, workers::patch))
        .routes(routes!(workers::heartbeat))
        .routes(routes!(workers::left))
        .routes(routes!(transfers::inputs))
        .routes(routes!(transfers::outputs))
        .routes(routes!(transfers::fetch, transfers::store))
        .routes(routes!(transfers::asset))
        .routes(routes!(logs::append))
        .routes(routes!(schedules::pause))
        .routes(routes!(schedules::resume))
        .routes(routes!(schedules::trigger))
        .routes(routes!(webhooks::list))
        .routes(routes!(tokens::list, tokens::add))
        .routes(routes!(tokens::revoke))
        .routes(routes!(tokens::audit))
}

async fn no_such_path(uri: Uri) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is nothing at `{}`", uri.path()))
}

async fn no_such_method() -> Refusal {
    Refusal::new(Code::MethodNotAllowed, "the path exists, but not for this method")
}
