//! Schedules over HTTP: who may do what with them. The schedules themselves are in `schedule/`.

use super::Api;
use super::auth::Caller;
use super::extract::{Json, Path, Query};
use super::guard::Target;
use super::paging::{Name, Paging};
use super::refusal::Refusal;
use super::submit::refused;
use crate::schedule::ScheduleError;
use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use pictor_api::{Code, NewSchedule, Page, ScheduleBody, ScheduleDetail, ScheduleView, Triggered};
use std::sync::Arc;

fn problem(error: ScheduleError, job: &str) -> Refusal {
    match error {
        ScheduleError::Invalid(_) | ScheduleError::Timetable(_) => {
            Refusal::new(Code::InvalidSchedule, error.to_string())
        }
        ScheduleError::Job(error) => refused(job, error),
        ScheduleError::NoSchedule(_) => Refusal::new(Code::NotFound, error.to_string()),
        ScheduleError::Taken(_) | ScheduleError::Going(_) | ScheduleError::Waits(_) => {
            Refusal::new(Code::Conflict, error.to_string())
        }
        ScheduleError::Store(error) => error.into(),
        ScheduleError::Owner(error) => error.into(),
    }
}

fn plain(error: ScheduleError) -> Refusal {
    problem(error, "")
}

/// The schedule of this name, if the caller may see it.
async fn seen(api: &Api, caller: &Caller, name: &str) -> Result<ScheduleDetail, Refusal> {
    let detail = api.schedules.show(name).await.map_err(plain)?;
    if caller.sees(&detail.schedule.account) {
        return Ok(detail);
    }
    Err(Refusal::not_found(format_args!("schedule `{name}`")))
}

/// Only an operator of the farm may choose a folder on its machines for the results.
fn check(caller: &Caller, new: &NewSchedule) -> Result<(), Refusal> {
    if new.out_dir.is_empty() || caller.sees("") {
        return Ok(());
    }
    let detail = "`out_dir` is a folder of the server: only operators may name one";
    Err(Refusal::new(Code::Forbidden, detail))
}

/// Lists schedules, in order of name.
#[utoipa::path(
    get, path = "/v1/schedules", tag = "schedules", params(Paging<Name>),
    responses((status = 200, description = "Schedules", body = Page<ScheduleView>)),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Query(paging): Query<Paging<Name>>,
) -> Result<Json<Page<ScheduleView>>, Refusal> {
    let limit = api.limits.page(paging.limit)?;
    let all = api.schedules.list().await.map_err(plain)?;
    let after = paging.after.map_or_else(String::new, |Name(after)| after);
    let seen = |schedule: &ScheduleView| caller.sees(&schedule.account) && schedule.name > after;
    let found = all.into_iter().filter(seen);
    Ok(Json(Page::of(found, limit, |schedule| schedule.name.clone())))
}

/// Adds a schedule. Its name must not be taken.
#[utoipa::path(
    post, path = "/v1/schedules", tag = "schedules", request_body = ScheduleBody,
    responses((status = 201, description = "The schedule", body = ScheduleDetail)),
)]
pub(super) async fn add(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Json(new): Json<NewSchedule>,
) -> Result<Response, Refusal> {
    check(&caller, &new)?;
    let added = api.schedules.add(&new, &caller.account).await;
    let detail = added.map_err(|error| problem(error, &new.job.text))?;
    let place = format!("/v1/schedules/{}", new.name);
    let target = Extension(Target(format!("schedules/{}", new.name)));
    Ok((StatusCode::CREATED, [(header::LOCATION, place)], target, Json(detail)).into_response())
}

/// Shows a schedule: its job, its next due times, and the outcomes of the last ones.
#[utoipa::path(
    get, path = "/v1/schedules/{id}", tag = "schedules",
    params(("id" = String, Path, description = "Its name")),
    responses((status = 200, description = "The schedule", body = ScheduleDetail)),
)]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<ScheduleDetail>, Refusal> {
    Ok(Json(seen(&api, &caller, &id).await?))
}

/// Replaces a schedule, or adds it. Due times that have passed are not made up for.
#[utoipa::path(
    put, path = "/v1/schedules/{id}", tag = "schedules",
    params(("id" = String, Path, description = "Its name")),
    request_body = ScheduleBody,
    responses((status = 200, description = "The schedule", body = ScheduleDetail)),
)]
pub(super) async fn replace(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
    Json(new): Json<NewSchedule>,
) -> Result<Json<ScheduleDetail>, Refusal> {
    check(&caller, &new)?;
    if new.name != id {
        let detail = "`name` has to be the name in the path";
        return Err(Refusal::new(Code::InvalidSchedule, detail));
    }
    match seen(&api, &caller, &id).await {
        // It belongs to another account: its name is taken, and nothing more is disclosed.
        Err(missing) if missing.code == Code::NotFound && exists(&api, &id).await? => {
            return Err(Refusal::new(Code::Conflict, format!("the name `{id}` is taken")));
        }
        Err(problem) if problem.code != Code::NotFound => return Err(problem),
        _ => {}
    }
    let replaced = api.schedules.replace(&new, &caller.account).await;
    Ok(Json(replaced.map_err(|error| problem(error, &new.job.text))?))
}

async fn exists(api: &Api, name: &str) -> Result<bool, Refusal> {
    Ok(api.registry.schedule(name).await?.is_some())
}

/// Removes a schedule. Runs that it started continue.
#[utoipa::path(
    delete, path = "/v1/schedules/{id}", tag = "schedules",
    params(("id" = String, Path, description = "Its name")),
    responses((status = 204, description = "It is gone")),
)]
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    seen(&api, &caller, &id).await?;
    api.schedules.remove(&id).await.map_err(plain)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pauses a schedule. Runs that it started continue.
#[utoipa::path(
    post, path = "/v1/schedules/{id}/pause", tag = "schedules",
    params(("id" = String, Path, description = "Its name")),
    responses((status = 200, description = "The schedule", body = ScheduleDetail)),
)]
pub(super) async fn pause(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<ScheduleDetail>, Refusal> {
    seen(&api, &caller, &id).await?;
    Ok(Json(api.schedules.pause(&id).await.map_err(plain)?))
}

/// Resumes a schedule. Times that were due while it was paused are skipped.
#[utoipa::path(
    post, path = "/v1/schedules/{id}/resume", tag = "schedules",
    params(("id" = String, Path, description = "Its name")),
    responses((status = 200, description = "The schedule", body = ScheduleDetail)),
)]
pub(super) async fn resume(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<ScheduleDetail>, Refusal> {
    seen(&api, &caller, &id).await?;
    Ok(Json(api.schedules.resume(&id).await.map_err(plain)?))
}

/// Starts a run of a schedule now, as if it were due.
#[utoipa::path(
    post, path = "/v1/schedules/{id}/trigger", tag = "schedules",
    params(("id" = String, Path, description = "Its name")),
    responses((status = 200, description = "The run", body = Triggered)),
)]
pub(super) async fn trigger(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Triggered>, Refusal> {
    let detail = seen(&api, &caller, &id).await?;
    let triggered = api.schedules.trigger(&id).await;
    Ok(Json(triggered.map_err(|error| problem(error, &detail.job.text))?))
}
