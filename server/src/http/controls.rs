//! Changes of runs. Each request is answered after its commit.

use super::Api;
use super::caller::Caller;
use super::extract::{Json, MaybeJson, Path};
use super::refusal::Refusal;
use axum::extract::State;
use pictor_api::{Changed, ResetAnswer, ResetRequest, RetryRequest, RunPatch};
use pictor_net::random;
use pictor_tasks::history::{Control, Event};
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
    again(&api, &caller, &run, request).await
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
    {
        let ResetRequest { tasks, dry_run } = request;
        again(&api, &caller, &run, RetryRequest { tasks, dry_run, ..RetryRequest::default() }).await
    }
}

async fn change(
    api: &Api,
    caller: &Caller,
    run: &str,
    event: Event,
) -> Result<Json<Changed>, Refusal> {
    let record = api.run(caller, run).await?;
    let control = Control { id: random(), event };
    let run = api.runs.change(Some(&api.owner()?), record, control).await?;
    Ok(Json(Changed { run }))
}

async fn again(
    api: &Api,
    caller: &Caller,
    run: &str,
    request: RetryRequest,
) -> Result<Json<ResetAnswer>, Refusal> {
    if request.tasks.len() > NAMES_MAX {
        return Err(Refusal::invalid(format!("`tasks` may have at most {NAMES_MAX} names")));
    }
    let record = api.run(caller, run).await?;
    Ok(Json(api.runs.retry(Some(&api.owner()?), record, random(), request).await?))
}
