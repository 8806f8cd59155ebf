//! Workers: showing and managing them, and how machines become workers.

use super::Api;
use super::auth::{Purpose, mint};
use super::caller::Caller;
use super::extract::{Json, Path, Query};
use super::guard::Target;
use super::heartbeats::Beat;
use super::limits::{Quotas, Rate};
use super::paging::Paging;
use super::refusal::Refusal;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pictor_api::{
    Amqp, Code, Enrol, Enrolled, GpuLoad, Heartbeat, HeartbeatReply, Holding, Inventory, Page,
    Service, TokenRole, Worker, WorkerPatch,
};
use pictor_engine::{Engine, WorkerView};
use pictor_net::random_bytes;
use pictor_queue::{Broker, BrokerError, Sealer, Ticket, ToOwner};
use pictor_storage::{NewWorker, WorkerRecord};
use pictor_tasks::message::{Try, WorkerId};
use pictor_tasks::worker::{GPUS_MAX, WORD_BYTES_MAX};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest name of a worker, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Longest reason for accepting no tasks, in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// A worker as the API shows it; `view` is what the engine knows about it.
pub(super) fn worker(api: &Api, record: WorkerRecord, view: Option<&WorkerView>) -> Worker {
    let beat = api.heartbeats.latest(record.id.0);
    // What is stored may be later than now: by the clock of another server, or by this one before it was set back.
    let now_ms = (api.now_ms)();
    let seen_ms = view.map_or(record.seen_ms, |view| view.seen_ms).min(now_ms);
    let lease_ms = i64::try_from(api.lease.as_millis()).unwrap_or(i64::MAX);
    let mut inventory = record.inventory;
    // The worker in the server's own process reports changes only to the engine.
    if let Some(view) = view {
        inventory.models.clone_from(&view.models);
    }
    Worker {
        id: record.id.0,
        name: record.name,
        account: record.account,
        state: record.state,
        online: view.is_some() && now_ms.saturating_sub(seen_ms) <= lease_ms,
        accepts: beat.as_ref().is_none_or(|beat| beat.accepts),
        reason: beat.as_ref().map_or_else(String::new, |beat| beat.reason.clone()),
        seen_ms,
        registered_ms: record.registered_ms,
        slots: inventory.slots,
        tasks: view.map_or(0, |view| view.tasks),
        inventory,
        machine: beat.as_ref().map(|beat| beat.machine),
        gpus: beat.map(|beat| beat.gpus).unwrap_or_default(),
    }
}

/// Lists workers, in order of number. A submitter sees those of its own account: a page may then have fewer than its limit.
#[utoipa::path(
    get, path = "/v1/workers", tag = "workers", params(Paging<u32>),
    responses((status = 200, description = "Workers", body = Page<Worker>)),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Query(paging): Query<Paging<u32>>,
) -> Result<Json<Page<Worker>>, Refusal> {
    let limit = api.limits.page(paging.limit)?;
    let after = paging.after.unwrap_or(0);
    // One more than asked for, which tells whether there is a next page.
    let count = u32::try_from(limit + 1).unwrap_or(u32::MAX);
    let records = api.registry.workers_page(count, WorkerId(after)).await?;
    let views = views(&api, records.iter().map(|record| record.id).collect()).await?;
    let workers = records.into_iter().map(|record| {
        let view = views.get(&record.id);
        worker(&api, record, view)
    });
    let mut page = Page::of(workers, limit, |worker| worker.id.to_string());
    page.items.retain(|worker| caller.sees(&worker.account));
    Ok(Json(page))
}

/// What the engine knows about these workers.
async fn views(api: &Api, ids: Vec<WorkerId>) -> Result<BTreeMap<WorkerId, WorkerView>, Refusal> {
    let now_ms = (api.now_ms)();
    let ask = move |engine: &Engine| -> Vec<WorkerView> {
        ids.into_iter().filter_map(|id| engine.worker(id, now_ms)).collect()
    };
    let views = api.owner()?.ask(ask).await?;
    Ok(views.into_iter().map(|view| (view.id, view)).collect())
}

/// Shows one worker and its current state.
#[utoipa::path(
    get, path = "/v1/workers/{id}", tag = "workers",
    params(("id" = u32, Path, description = "Its number")),
    responses((status = 200, description = "The worker", body = Worker)),
)]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<u32>,
) -> Result<Json<Worker>, Refusal> {
    let record = api.registry.worker(WorkerId(id)).await?;
    let record = record.filter(|record| caller.sees(&record.account));
    let record = record.ok_or_else(|| Refusal::not_found(format_args!("worker {id}")))?;
    let views = views(&api, vec![record.id]).await?;
    let view = views.get(&record.id);
    Ok(Json(worker(&api, record, view)))
}

/// Changes a worker's state: `enabled`, `disabled` or `draining`.
#[utoipa::path(
    patch, path = "/v1/workers/{id}", tag = "workers",
    params(("id" = u32, Path, description = "Its number")),
    request_body = WorkerPatch,
    responses((status = 200, description = "The worker", body = Worker)),
)]
pub(super) async fn patch(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<u32>,
    Json(WorkerPatch { state }): Json<WorkerPatch>,
) -> Result<Json<Worker>, Refusal> {
    if !api.registry.set_worker_state(WorkerId(id), state).await? {
        return Err(Refusal::not_found(format_args!("worker {id}")));
    }
    api.heartbeats.forget(id);
    let willing = api.heartbeats.latest(id).is_none_or(|beat| beat.accepts);
    let accepts = willing && state == Service::Enabled;
    api.owner()?.set_accepts(WorkerId(id), accepts).await?;
    api.events.worker(id, state.name());
    show(State(api), caller, Path(id)).await
}

/// Registers a machine as a worker. An earlier token and password of that worker become invalid. While another machine
/// is alive under that name, the request is rejected (`name_in_use`).
#[utoipa::path(
    post, path = "/v1/workers", tag = "machines", request_body = Enrol,
    responses((status = 201, description = "It is a worker", body = Enrolled)),
)]
pub(super) async fn enrol(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Json(Enrol { name, inventory, instance }): Json<Enrol>,
) -> Result<Response, Refusal> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
        return Err(Refusal::invalid("`name` has to be 1 to 64 letters, digits, `.`, `_` and `-`"));
    }
    within_bounds((Some(&inventory), &[], ""))?;
    let known = api.registry.worker_named(&name, &caller.account).await?;
    if caller.role == TokenRole::Worker {
        within_quotas(&api, &caller, known.as_ref()).await?;
    }
    let broker = api.broker.clone().ok_or_else(|| {
        let detail = "this server works alone: it has no message broker (start it with `--broker`)";
        Refusal::new(Code::NoBroker, detail)
    })?;
    if caller.role == TokenRole::Machine && known.as_ref().is_none_or(|r| r.token != caller.token) {
        let detail = "a machine's token registers that machine only";
        return Err(Refusal::new(Code::Forbidden, detail));
    }
    if let Some(known) = &known {
        api.check_instance(known, &instance)?;
    }
    let origin = if caller.role == TokenRole::Machine {
        api.registry.token(&caller.token).await?.map(|token| token.origin)
    } else {
        Some(caller.token.clone())
    };
    let label = format!("worker {name}");
    let purpose = Purpose { name: &label, role: TokenRole::Machine, account: &caller.account };
    let now_ms = (api.now_ms)();
    let (mut minted, password) = (mint(&purpose, now_ms), password());
    minted.record.origin = origin.unwrap_or_default();
    // A known worker keeps its token and password until the broker has its new queue and user.
    let early = match &known {
        Some(known) => Some(add(&broker, known.id, &password).await?),
        None => None,
    };
    api.registry.add_token(&minted.record).await?;
    let (account, token) = (&*caller.account, &*minted.record.id);
    let new = NewWorker { name: &name, account, token, inventory: &inventory };
    let id = api.registry.register_worker(&new, now_ms).await?;
    let url = match early {
        Some(url) => url,
        None => add(&broker, id, &password).await?,
    };
    if let Some(old) = known {
        api.registry.revoke_token(&old.token, now_ms).await?;
        api.tokens.forget(&old.token);
    }
    api.heartbeats.forget(id.0);
    api.heartbeats.heard(id.0, instance);
    api.owner()?.tell(ToOwner::Joined(id, inventory)).await?;
    api.events.worker(id.0, "registered");
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (heartbeat_ms, lease_ms) = (millis(api.heartbeat), millis(api.lease));
    let amqp = Amqp { url };
    let enrolled = Enrolled { id: id.0, token: minted.text, amqp, heartbeat_ms, lease_ms };
    let target = Extension(Target(format!("workers/{id}", id = id.0)));
    Ok((StatusCode::CREATED, target, Json(enrolled)).into_response())
}

/// Fails if as many machines have enrolled with the caller's token as may, or too many in a short time: each takes a token,
/// a queue and a user of the broker. `known` is the
/// worker that enrols again.
async fn within_quotas(
    api: &Api,
    caller: &Caller,
    known: Option<&WorkerRecord>,
) -> Result<(), Refusal> {
    let quotas = &api.limits.quotas;
    if known.is_none() {
        let rate = Rate::per_minute(quotas.machines_per_minute);
        let rate = Rate { burst: (rate.burst / 2.0).max(1.0), ..rate };
        let what =
            "new machines with this token (`machines_per_minute` in the servers' `[quotas]`)";
        api.buckets.take(&format!("new worker {}", caller.token), rate, what)?;
    }
    let mut machines = api.registry.machines_of(&caller.token).await?;
    machines.retain(|machine| machine.revoked_ms.is_none());
    let again = known.is_some_and(|known| machines.iter().any(|token| token.id == known.token));
    if machines.len() as u64 >= quotas.machines && !again {
        let has = format!("{} machines have enrolled with this token", machines.len());
        return Err(Quotas::exceeded("machines", quotas.machines, has));
    }
    Ok(())
}

/// Rejects what no machine has, before it is stored or counted.
fn within_bounds(
    (inventory, gpus, reason): (Option<&Inventory>, &[GpuLoad], &str),
) -> Result<(), Refusal> {
    if let Some(inventory) = inventory {
        inventory.check().map_err(Refusal::invalid)?;
    }
    if gpus.len() > GPUS_MAX || gpus.iter().any(|gpu| gpu.uuid.len() > WORD_BYTES_MAX) {
        return Err(Refusal::invalid(format!("`gpus` may have at most {GPUS_MAX} entries")));
    }
    if reason.len() > REASON_BYTES_MAX {
        return Err(Refusal::invalid(format!(
            "`reason` may have at most {REASON_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}

async fn add(broker: &Broker, id: WorkerId, password: &str) -> Result<String, Refusal> {
    broker.add_worker(id, password).await.map_err(unreachable_broker)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
pub(super) fn unreachable_broker(error: BrokerError) -> Refusal {
    match error {
        BrokerError::Unavailable(_) => {
            Refusal::new(Code::Unavailable, error.to_string()).retry_after(5)
        }
        BrokerError::Invalid(_) | BrokerError::Refused(_) => {
            tracing::error!(%error, "the broker does not do what it is asked about a worker");
            Refusal::new(Code::Internal, "the server's log says more")
        }
    }
}

fn password() -> String {
    blake3::hash(&random_bytes::<24>()).to_hex()[..48].to_owned()
}

/// Reports that a worker is alive, and the tasks that it holds. Extends their leases. While another machine is alive as
/// this worker, the request is rejected (`name_in_use`).
#[utoipa::path(
    post, path = "/v1/workers/{id}/heartbeat", tag = "machines",
    params(("id" = u32, Path, description = "The worker")),
    request_body = Heartbeat,
    responses((status = 200, description = "What the operator wants of it", body = HeartbeatReply)),
)]
pub(super) async fn heartbeat(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<u32>,
    Json(said): Json<Heartbeat>,
) -> Result<Json<HeartbeatReply>, Refusal> {
    let record = api.own(&caller, id).await?;
    let (owner, worker) = (api.owner()?, record.id);
    let state = record.state;
    let Heartbeat { holding, gpus, machine, inventory, accepts, reason, instance } = said;
    api.check_instance(&record, &instance)?;
    api.heartbeats.heard(id, instance);
    let begins = inventory.is_some();
    within_bounds((inventory.as_ref(), &gpus, &reason))?;
    if let Some(has) = inventory.as_ref().filter(|has| **has != record.inventory) {
        let WorkerRecord { name, account, token, .. } = &*record;
        let new = NewWorker { name, account, token, inventory: has };
        api.registry.register_worker(&new, (api.now_ms)()).await?;
        api.heartbeats.forget(id);
    }
    let epoch = owner.sealer().map_or(0, Sealer::epoch);
    let before = api.heartbeats.note(id, Beat { epoch, gpus, machine, accepts, reason });
    let before = before.filter(|before| before.epoch == epoch);
    if begins || before.is_none() {
        let has = inventory.unwrap_or_else(|| record.inventory.clone());
        owner.tell(ToOwner::Joined(worker, has)).await?;
    }
    if begins || before.is_none_or(|before| before.accepts != accepts) {
        owner.set_accepts(worker, accepts && state == Service::Enabled).await?;
    }
    let (mut proven, mut unproven) = (Vec::new(), Vec::new());
    for Holding { key, tasks, tickets } in holding {
        let sealer = owner.sealer();
        let shown = tasks.into_iter().zip(tickets.iter().map(Some).chain(std::iter::repeat(None)));
        let (good, other): (Vec<_>, Vec<_>) = shown.partition(|(task, ticket)| {
            let checked = |(sealer, ticket): (&Sealer, &Ticket)| {
                sealer.verify(ticket, &key, *task, worker).is_ok()
            };
            sealer.zip(*ticket).is_some_and(checked)
        });
        let tries = |shown: Vec<(Try, _)>| shown.into_iter().map(|(task, _)| task).collect();
        if !other.is_empty() {
            unproven.push((key.clone(), tries(other)));
        }
        proven.push((key, tries(good)));
    }
    owner.tell(ToOwner::Heartbeat(worker, proven)).await?;
    if !unproven.is_empty() {
        owner.tell(ToOwner::Unproven(worker, unproven)).await?;
    }
    let longer = Some(api.interval()).filter(|interval| *interval > api.heartbeat);
    let heartbeat_ms = longer.and_then(|interval| u64::try_from(interval.as_millis()).ok());
    Ok(Json(HeartbeatReply { state, heartbeat_ms }))
}

/// Signs off a worker, which holds no tasks any more.
#[utoipa::path(
    post, path = "/v1/workers/{id}/left", tag = "machines",
    params(("id" = u32, Path, description = "The worker")),
    responses((status = 204, description = "It is gone")),
)]
pub(super) async fn left(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<u32>,
) -> Result<StatusCode, Refusal> {
    let record = api.own(&caller, id).await?;
    api.owner()?.tell(ToOwner::Left(record.id)).await?;
    api.registry.worker_left(record.id, (api.now_ms)()).await?;
    api.heartbeats.remove(id);
    api.events.worker(id, "left");
    Ok(StatusCode::NO_CONTENT)
}
