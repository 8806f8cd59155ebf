//! Changes of runs. Each request is answered after its commit.

use super::Api;
use super::auth::Caller;
use super::extract::{Json, MaybeJson, Path};
use super::refusal::Refusal;
use crate::access::{ResetSize, to_retry};
use crate::runs::shape;
use axum::extract::State;
use pictor_api::{Changed, Code, ResetAnswer, ResetRequest, RetryRequest, RunPatch, RunSummary};
use pictor_engine::{Engine, Run};
use pictor_storage::RunRecord;
use pictor_tasks::history::{Control, Event};
use pictor_tasks::job::changes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most tasks that one request names.
const NAMES_MAX: usize = 10_000;

/// Pauses a run: no more of its tasks are assigned. Running tasks continue.
#[utoipa::path(
    post, path = "/v1/runs/{run}/pause", tag = "runs",
    params(("run" = String, Path, description = "Its id, or enough of the beginning of it")),
    responses((status = 200, description = "The run, paused", body = Changed)),
)]
pub(super) async fn pause(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(run): Path<String>,
) -> Result<Json<Changed>, Refusal> {
    change(&api, &caller, &run, Event::Paused).await
}

/// Resumes a paused run.
#[utoipa::path(
    post, path = "/v1/runs/{run}/resume", tag = "runs",
    params(("run" = String, Path, description = "Its id, or enough of the beginning of it")),
    responses((status = 200, description = "The run, going on", body = Changed)),
)]
pub(super) async fn resume(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(run): Path<String>,
) -> Result<Json<Changed>, Refusal> {
    change(&api, &caller, &run, Event::Resumed).await
}

/// Cancels a run: every task that has not ended.
#[utoipa::path(
    post, path = "/v1/runs/{run}/cancel", tag = "runs",
    params(("run" = String, Path, description = "Its id, or enough of the beginning of it")),
    responses((status = 200, description = "The run, cancelled", body = Changed)),
)]
pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(run): Path<String>,
) -> Result<Json<Changed>, Refusal> {
    change(&api, &caller, &run, Event::Cancelled).await
}

/// Changes the priority of a run.
#[utoipa::path(
    patch, path = "/v1/runs/{run}", tag = "runs",
    params(("run" = String, Path, description = "Its id, or enough of the beginning of it")),
    request_body = RunPatch,
    responses((status = 200, description = "The run with its new priority", body = Changed)),
)]
pub(super) async fn patch(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(run): Path<String>,
    Json(patch): Json<RunPatch>,
) -> Result<Json<Changed>, Refusal> {
    change(&api, &caller, &run, Event::Priority(patch.priority)).await
}

/// Executes failed and cancelled tasks again, and every task that depends on them.
#[utoipa::path(
    post, path = "/v1/runs/{run}/retry", tag = "runs",
    params(("run" = String, Path, description = "Its id, or enough of the beginning of it")),
    request_body = Option<RetryRequest>,
    responses((status = 200, description = "How many tasks are done again", body = ResetAnswer)),
)]
pub(super) async fn retry(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(run): Path<String>,
    MaybeJson(request): MaybeJson<RetryRequest>,
) -> Result<Json<ResetAnswer>, Refusal> {
    again(&api, &caller, &run, (request.tasks, request.set, request.dry_run)).await
}

/// Executes tasks again, whatever their state, and every task that depends on them.
#[utoipa::path(
    post, path = "/v1/runs/{run}/reset", tag = "runs",
    params(("run" = String, Path, description = "Its id, or enough of the beginning of it")),
    request_body = ResetRequest,
    responses((status = 200, description = "How many tasks are done again", body = ResetAnswer)),
)]
pub(super) async fn reset(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(run): Path<String>,
    Json(request): Json<ResetRequest>,
) -> Result<Json<ResetAnswer>, Refusal> {
    if request.tasks.is_empty() {
        return Err(Refusal::invalid("`tasks` has to name at least one task or step"));
    }
    again(&api, &caller, &run, (request.tasks, BTreeMap::new(), request.dry_run)).await
}

async fn change(
    api: &Api,
    caller: &Caller,
    run: &str,
    event: Event,
) -> Result<Json<Changed>, Refusal> {
    let record = api.run(caller, run).await?;
    let state = api.ask(&record, |_, run| run.state()).await?;
    if state.is_terminal() {
        let detail = format!(
            "run `{}` is over ({}); tasks of it can be done again with `retry` or `reset`",
            record.id,
            state.name()
        );
        return Err(Refusal::new(Code::RunIsOver, detail));
    }
    let run = commit(api, record, event).await?;
    Ok(Json(Changed { run }))
}

async fn again(
    api: &Api,
    caller: &Caller,
    run: &str,
    (names, set, dry_run): (Vec<String>, BTreeMap<String, String>, bool),
) -> Result<Json<ResetAnswer>, Refusal> {
    if names.len() > NAMES_MAX {
        return Err(Refusal::invalid(format!("`tasks` may have at most {NAMES_MAX} names")));
    }
    let record = api.run(caller, run).await?;
    let chosen = !names.is_empty();
    let set: Vec<(String, String)> = set.into_iter().collect();
    if let Err(why) = changes(&set) {
        return Err(Refusal::invalid(why));
    }
    let ask = move |_: &Engine, run: &Run| -> Result<(Event, ResetSize), String> {
        to_retry(run, &names, &set)
    };
    let asked = api.ask(&record, ask).await?;
    let code = if chosen { Code::NotFound } else { Code::Conflict };
    let (event, ResetSize { tasks: count, remade }) =
        asked.map_err(|why| Refusal::new(code, why))?;
    if dry_run {
        return Ok(Json(ResetAnswer { count, remade, run: None }));
    }
    let run = Some(commit(api, record, event).await?);
    Ok(Json(ResetAnswer { count, remade, run }))
}

/// Makes the change and waits until it is in history.
async fn commit(api: &Api, record: RunRecord, event: Event) -> Result<RunSummary, Refusal> {
    let id =
        getrandom::u64().map_err(|error| Refusal::new(Code::Unavailable, error.to_string()))?;
    let owner = api.owner()?;
    // The engine lets go of runs that are over: it can happen between any two of these.
    for _ in 0..3 {
        let control = Control { id, event: event.clone() };
        if owner.control(record.id.clone(), control).await? {
            let asked = record.id.clone();
            let view = owner.ask(move |engine| engine.run(&asked).map(|run| engine.view(run)));
            let view = view.await?;
            let record = api.store.run(&record.id.0).await?.unwrap_or(record);
            return Ok(shape::summary(record, view.as_ref()));
        }
        api.revive(&record).await?;
    }
    Err(Refusal::new(Code::Unavailable, "the run is being put away").retry_after(1))
}
