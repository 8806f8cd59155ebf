//! Changes of runs. Each answers after its commit.

use super::Api;
use super::auth::Caller;
use super::extract::{Json, MaybeJson, Path};
use super::problem::{Code, Problem};
use super::runs::RunSummary;
use crate::access::{ResetSize, to_retry};
use axum::extract::State;
use pictor_engine::{Engine, Run};
use pictor_storage::RunRecord;
use pictor_tasks::history::{Control, Event};
use pictor_tasks::job::changes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// The most tasks that one call names.
const NAMES_MAX: usize = 10_000;

/// A run after a change.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Changed {
    /// The run.
    pub run: RunSummary,
}

/// Which tasks to do again.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryRequest {
    /// Tasks (`render[frame=7]`) and steps (`render`); none: all that failed or were cancelled.
    #[serde(default)]
    #[schema(max_items = 10_000)]
    tasks: Vec<String>,
    /// Settings of the job that are changed before, each with a value that is read as YAML: `upscale.on_error`,
    /// `retry.attempts`, `retry.backoff`, `timeout`, `stalled`, `on_failure`, `max_failures`, `priority`. They go
    /// for all steps. With settings and no task that failed, only the settings are changed.
    #[serde(default)]
    #[schema(example = json!({ "upscale.on_error": "copy" }))]
    set: BTreeMap<String, String>,
    /// Only say how many tasks that would be.
    #[serde(default)]
    dry_run: bool,
}

/// Which tasks to do again, whatever their state.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResetRequest {
    /// Tasks (`render[frame=7]`) and steps (`render`).
    #[schema(min_items = 1, max_items = 10_000)]
    tasks: Vec<String>,
    /// Only say how many tasks that would be.
    #[serde(default)]
    dry_run: bool,
}

/// What is or would be done again.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ResetAnswer {
    /// How many tasks: those that were named, everything that was built on them, and `remade`.
    pub count: u64,
    /// How many of them had succeeded and left what was removed since, because nobody read it any more.
    pub remade: u64,
    /// The run, unless this was only asked for.
    pub run: Option<RunSummary>,
}

/// Changes of a run's settings.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunPatch {
    /// The new priority: higher goes first.
    priority: i32,
}

/// Stops assigning tasks of a run. What runs goes on.
#[utoipa::path(
    post, path = "/v1/runs/{run}/pause", tag = "runs",
    params(("run" = String, Path, description = "Its id, or enough of the beginning of it")),
    responses((status = 200, description = "The run, paused", body = Changed)),
)]
pub(super) async fn pause(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(run): Path<String>,
) -> Result<Json<Changed>, Problem> {
    change(&api, &caller, &run, Event::Paused).await
}

/// Assigns tasks of a run again.
#[utoipa::path(
    post, path = "/v1/runs/{run}/resume", tag = "runs",
    params(("run" = String, Path, description = "Its id, or enough of the beginning of it")),
    responses((status = 200, description = "The run, going on", body = Changed)),
)]
pub(super) async fn resume(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(run): Path<String>,
) -> Result<Json<Changed>, Problem> {
    change(&api, &caller, &run, Event::Resumed).await
}

/// Gives up everything of a run that is not finished.
#[utoipa::path(
    post, path = "/v1/runs/{run}/cancel", tag = "runs",
    params(("run" = String, Path, description = "Its id, or enough of the beginning of it")),
    responses((status = 200, description = "The run, cancelled", body = Changed)),
)]
pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(run): Path<String>,
) -> Result<Json<Changed>, Problem> {
    change(&api, &caller, &run, Event::Cancelled).await
}

/// Changes a run's priority.
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
) -> Result<Json<Changed>, Problem> {
    change(&api, &caller, &run, Event::Priority(patch.priority)).await
}

/// Does tasks again that failed or were cancelled, and everything that was built on them.
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
) -> Result<Json<ResetAnswer>, Problem> {
    again(&api, &caller, &run, (request.tasks, request.set, request.dry_run)).await
}

/// Does tasks again, whatever their state, and everything that was built on them.
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
) -> Result<Json<ResetAnswer>, Problem> {
    if request.tasks.is_empty() {
        return Err(Problem::invalid("`tasks` has to name at least one task or step"));
    }
    again(&api, &caller, &run, (request.tasks, BTreeMap::new(), request.dry_run)).await
}

async fn change(
    api: &Api,
    caller: &Caller,
    run: &str,
    event: Event,
) -> Result<Json<Changed>, Problem> {
    let record = api.run(caller, run).await?;
    let state = api.ask(&record, |_, run| run.state()).await?;
    if state.is_terminal() {
        let detail = format!(
            "run `{}` is over ({}); tasks of it can be done again with `retry` or `reset`",
            record.id,
            state.name()
        );
        return Err(Problem::new(Code::RunIsOver, detail));
    }
    let run = commit(api, record, event).await?;
    Ok(Json(Changed { run }))
}

async fn again(
    api: &Api,
    caller: &Caller,
    run: &str,
    (names, set, dry_run): (Vec<String>, BTreeMap<String, String>, bool),
) -> Result<Json<ResetAnswer>, Problem> {
    if names.len() > NAMES_MAX {
        return Err(Problem::invalid(format!("`tasks` may have at most {NAMES_MAX} names")));
    }
    let record = api.run(caller, run).await?;
    let chosen = !names.is_empty();
    let set: Vec<(String, String)> = set.into_iter().collect();
    if let Err(why) = changes(&set) {
        return Err(Problem::invalid(why));
    }
    let ask = move |_: &Engine, run: &Run| -> Result<(Event, ResetSize), String> {
        to_retry(run, &names, &set)
    };
    let asked = api.ask(&record, ask).await?;
    let code = if chosen { Code::NotFound } else { Code::Conflict };
    let (event, ResetSize { tasks: count, remade }) =
        asked.map_err(|why| Problem::new(code, why))?;
    if dry_run {
        return Ok(Json(ResetAnswer { count, remade, run: None }));
    }
    let run = Some(commit(api, record, event).await?);
    Ok(Json(ResetAnswer { count, remade, run }))
}

/// Makes the change and waits until it is in history.
async fn commit(api: &Api, record: RunRecord, event: Event) -> Result<RunSummary, Problem> {
    let id =
        getrandom::u64().map_err(|error| Problem::new(Code::Unavailable, error.to_string()))?;
    let owner = api.owner()?;
    // The engine lets go of runs that are over: it can happen between any two of these.
    for _ in 0..3 {
        let control = Control { id, event: event.clone() };
        if owner.control(record.id.clone(), control).await? {
            let asked = record.id.clone();
            let view = owner.ask(move |engine| engine.run(&asked).map(|run| engine.view(run)));
            let view = view.await?;
            let record = api.store.run(&record.id.0).await?.unwrap_or(record);
            return Ok(RunSummary::new(record, view.as_ref()));
        }
        api.revive(&record).await?;
    }
    Err(Problem::new(Code::Unavailable, "the run is being put away").retry_after(1))
}
