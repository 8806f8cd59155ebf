//! `pictor serve`: the owner loop, the HTTP API, schedules and webhooks. Alone it is a farm on one machine; with a
//! Postgres database and a broker it is one of several servers of a farm.

use crate::SUCCEEDED;
use crate::blenders::BlenderTable;
use crate::session::interruption;
use crate::settings::{Configured, ServeArgs};
use crate::terminal::say;
use anyhow::Context;
use pictor_artifacts::Artifacts;
use pictor_engine::Config;
use pictor_executor::{Agent, SandboxPolicy};
use pictor_queue::{Address, Broker, Check, OwnerQueue, in_process};
use pictor_server::http::{Api, Limits, Setup, first_token};
use pictor_server::prune::Pruner;
use pictor_server::schedule::Schedules;
use pictor_server::webhook::Webhooks;
use pictor_server::{
    Election, Owner, ServerRole, checked, listen, load_runs, look_for_runs, now_ms, socket_path,
};
use pictor_storage::{NewWorker, Registry, Store};
use pictor_tasks::message::WorkerId;
use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The worker of `pictor run` in the same data folder, which may have died while it held tasks.
const RUN_WORKER: WorkerId = WorkerId(1);
/// Interval between heartbeats of workers.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Pause before the next attempt to open a database that does not respond.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// Time limit for a clean shutdown; what is still running then ends with the process.
const STOP: Duration = Duration::from_secs(8);

/// What all parts of a server share.
struct Base {
    store: Arc<dyn Store>,
    registry: Arc<dyn Registry>,
    artifacts: Arc<Artifacts>,
    engine: Config,
    stop: watch::Receiver<bool>,
}

/// `pictor serve`: runs a server until it is stopped.
pub(crate) async fn serve(data: &Path, args: &ServeArgs) -> anyhow::Result<u8> {
    crate::raise_descriptor_limit();
    let configured = args.configured()?;
    configured.check()?;
    let settings = &configured.settings;
    // For nobody else: it holds the results of everybody, and the admin's token.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.with_context(|| format!("make the folder {}", data.display()))?;
    let folder = data.display().to_string();
    let place = settings.database.as_deref().unwrap_or(&folder);
    let (store, registry) = open_store(place, settings.database.is_some()).await?;
    let artifacts = Arc::new(open_artifacts(data, &configured)?);
    let listener = TcpListener::bind(&configured.listen)
        .await
        .with_context(|| format!("listen on {}", configured.listen))?;
    let address = match &settings.public_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("http://{}", listener.local_addr()?),
    };
    let (tell_stop, stop) = watch::channel(false);
    let base =
        Base { store: store.clone(), registry, artifacts, engine: engine(&configured), stop };
    let mut parts = JoinSet::new();
    start(&mut parts, base, (data, args, &configured), (listener, address.clone())).await?;
    let interrupted = interruption()?;
    say(&format!("listening on {address}"));
    let failed = tokio::select! {
        () = interrupted => None,
        Some(ended) = parts.join_next() => ended.context("a part of the server").flatten().err(),
    };
    tell_stop.send_replace(true);
    let rest = async { while parts.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP, rest).await.is_err() {
        tracing::warn!("not everything stops; it ends with this process");
    }
    store.close().await.context("close the database")?;
    failed.map_or(Ok(SUCCEEDED), Err)
}

/// Opens the database. Waits for a database server that does not respond: it may be starting, like this one.
async fn open_store(
    place: &str,
    is_server: bool,
) -> anyhow::Result<(Arc<dyn Store>, Arc<dyn Registry>)> {
    let mut told = false;
    loop {
        match pictor_storage::open(place).await {
            Err(error) if is_server && error.is_retryable() => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "the database cannot be opened; trying again");
                }
                tokio::time::sleep(OPEN_AGAIN).await;
            }
            opened => return opened.context("open the database"),
        }
    }
}

/// Starts the API, schedules, webhooks, pruning and the owner loop.
async fn start(
    parts: &mut JoinSet<anyhow::Result<()>>,
    base: Base,
    (data, args, configured): (&Path, &ServeArgs, &Configured),
    (listener, address): (TcpListener, String),
) -> anyhow::Result<()> {
    let Base { store, registry, artifacts, engine, stop } = &base;
    let (be, role) = watch::channel(ServerRole::Standby { owner: None });
    let schedules = Schedules::new(store.clone(), registry.clone(), artifacts.clone(), now_ms)
        .limited(engine.run_limits);
    let webhooks = Webhooks::new(&configured.webhooks, store.clone(), registry.clone(), now_ms)?;
    let broker = broker(configured)?;
    let api = Api::new(Setup {
        store: store.clone(),
        registry: registry.clone(),
        artifacts: artifacts.clone(),
        schedules: schedules.clone(),
        webhooks: webhooks.clone(),
        broker: broker.clone(),
        role: role.clone(),
        stop: stop.clone(),
        data: data.to_path_buf(),
        limits: limits(configured),
        metrics_need_token: configured.settings.metrics_need_token,
        heartbeat: HEARTBEAT,
        lease: Duration::from_millis(engine.lease_ms.unsigned_abs()),
        now_ms,
    })
    .map_err(|problem| anyhow::anyhow!("start the API: {}", problem.detail))?;
    let token = data.join("admin-token");
    if first_token(&**registry, &token, now_ms()).await? {
        say(&format!("the admin's token is in {}", token.display()));
    }
    parts.spawn(async move { pictor_server::http::serve(listener, api).await.context("the API") });
    if let Some(policy) = configured.prune.clone() {
        let (logs, role) = (data.join("logs"), role.clone());
        let (store, registry) = (store.clone(), registry.clone());
        let pruner = Pruner { store, registry, artifacts: artifacts.clone(), logs };
        tokio::spawn(async move { pruner.run(&policy, now_ms, role).await });
    }
    let for_schedules = role.clone();
    tokio::spawn(async move { schedules.run(for_schedules).await });
    tokio::spawn(async move { webhooks.run(role).await });
    if let Some(broker) = broker {
        parts.spawn(lead(base, address, broker, be));
    } else {
        let (data, args) = (data.to_path_buf(), args.clone());
        let blenders = configured.blenders.clone();
        if !args.no_worker {
            args.sandbox.choose(&configured.sandbox, SandboxPolicy::Required)?;
        }
        parts.spawn(async move { alone(base, &data, &args, &blenders, be).await });
    }
    Ok(())
}

fn limits(configured: &Configured) -> Limits {
    let defaults = Limits { quotas: configured.quotas.clone(), ..Limits::default() };
    let settings = &configured.settings;
    Limits {
        disk_floor: settings.disk_floor.map_or(defaults.disk_floor, |bytes| bytes.0),
        audit_age_ms: settings.audit_age.map_or(defaults.audit_age_ms, |age| age.0),
        audit_entries: settings.audit_entries.unwrap_or(defaults.audit_entries),
        ..defaults
    }
}

fn engine(configured: &Configured) -> Config {
    let mut engine = Config { limits: configured.limits.clone(), ..Config::default() };
    if let Some(lease) = configured.settings.lease {
        engine.lease_ms = i64::try_from(lease.0).unwrap_or(i64::MAX).max(1_000);
    }
    let (limits, settings) = (&mut engine.run_limits, &configured.settings);
    limits.tasks = settings.run_tasks.unwrap_or(limits.tasks);
    limits.memory_bytes = settings.run_memory.map_or(limits.memory_bytes, |bytes| bytes.0);
    engine
}

pub(crate) fn open_artifacts(data: &Path, configured: &Configured) -> anyhow::Result<Artifacts> {
    let settings = &configured.settings;
    let Some(place) = &settings.artifacts else {
        return Artifacts::folder(&data.join("artifacts")).context("open the artifacts");
    };
    let key = settings.s3_key_id.as_deref().zip(settings.s3_secret.as_deref());
    Artifacts::open(place, key).with_context(|| format!("open the artifacts in {place}"))
}

fn broker(configured: &Configured) -> anyhow::Result<Option<Arc<Broker>>> {
    let settings = &configured.settings;
    let Some(url) = &settings.broker else { return Ok(None) };
    let certificates = settings.broker_ca.as_ref().map(|path| {
        std::fs::read_to_string(path)
            .with_context(|| format!("read the certificates in {}", path.display()))
    });
    let address = Address::new(url, certificates.transpose()?)?;
    let management = settings.broker_management.as_deref();
    let workers = settings.broker_for_workers.as_deref();
    Ok(Some(Arc::new(Broker::new(address, management, workers)?)))
}

/// As one of several servers: owns the farm whenever it is elected.
async fn lead(
    base: Base,
    address: String,
    broker: Arc<Broker>,
    role: watch::Sender<ServerRole>,
) -> anyhow::Result<()> {
    let Base { store, registry, artifacts, engine, stop } = base;
    let (config, heartbeat) = (engine, HEARTBEAT);
    let check = Check::new({
        let artifacts = artifacts.clone();
        move |report| {
            let artifacts = artifacts.clone();
            async move { checked(&artifacts, report).await }
        }
    });
    let election = Election { store, registry, artifacts, address, config, heartbeat, now_ms };
    let connect = || -> Box<dyn OwnerQueue> { Box::new(broker.owner().checked(check.clone())) };
    election.lead(connect, &role, stop).await;
    Ok(())
}

/// As the only server, which executes the tasks itself. It continues every run in its data folder.
async fn alone(
    base: Base,
    data: &Path,
    args: &ServeArgs,
    blenders: &BlenderTable,
    role: watch::Sender<ServerRole>,
) -> anyhow::Result<()> {
    let Base { store, registry, artifacts, engine, mut stop } = base;
    let programs = args.blender.programs(Some(blenders), data)?;
    let wanted = BTreeSet::from(["blender", "ffmpeg", "ffprobe", "python3"]);
    let (models, cache) = (crate::models::folder(data), crate::cache());
    let mut inventory =
        pictor_executor::inventory::find(data, &programs, &wanted, &models, cache.as_deref()).await;
    for note in inventory.blenders.iter().flat_map(|blender| &blender.notes) {
        tracing::warn!("{note}");
    }
    inventory.slots = args.slots.unwrap_or(inventory.slots);
    inventory.allows_commands = args.allow_commands;
    let here =
        NewWorker { name: "this machine", account: "admin", token: "", inventory: &inventory };
    let here = registry.register_worker(&here, now_ms()).await?;
    let workers: &[WorkerId] = if args.no_worker { &[] } else { &[here] };
    let (port, mut ports) = in_process(workers);
    let (mut owner, handle) = Owner::new(engine, store.clone(), Box::new(port), now_ms);
    owner.sweeps(artifacts);
    // Before leases are released, because those are in the runs. Later runs are found by `look_for_runs`.
    load_runs(&*store, &mut owner).await?;
    // The tasks of an earlier process died with it: this one has the folder's lock.
    for worker in BTreeSet::from([RUN_WORKER, here]) {
        owner.forget_worker(worker).await?;
    }
    let socket = listen(data, store.clone(), handle.clone());
    let mut owner = tokio::spawn(owner.run());
    // Schedules store their runs, and may die before they add them to the owner.
    let look = tokio::spawn(look_for_runs(store, handle.clone()));
    role.send_replace(ServerRole::Owner(handle.clone()));
    let agent = ports.pop().map(|port| {
        let mut config = pictor_executor::Config::new(data.to_path_buf(), inventory.clone());
        (config.slots, config.allow_commands) = (inventory.slots, args.allow_commands);
        config.allow_network = args.allow_network;
        (config.models, config.cache) = (models.clone(), cache.clone());
        config.programs = programs.clone();
        let artifacts = pictor_executor::Artifacts::in_folder(&config.artifacts())
            .map_err(|failure| anyhow::anyhow!(failure.message))?;
        let outbox = Arc::new(port.sender());
        Agent::start(Box::new(port), outbox, here, config, artifacts).context("start the worker")
    });
    let agent = agent.transpose()?;
    tokio::select! {
        ended = &mut owner => ended.context("the engine")??,
        () = async { drop(stop.wait_for(|stop| *stop).await) } => {
            if let Some(agent) = agent {
                agent.shutdown().await;
            }
            handle.stop().await;
            owner.await.context("the engine")??;
        }
    }
    look.abort();
    if let Ok(socket) = socket {
        socket.abort();
    }
    // The socket would lead other commands to a process that is gone.
    let _ = std::fs::remove_file(socket_path(data));
    Ok(())
}
