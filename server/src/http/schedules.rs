//! Schedules over HTTP: who may do what with them. The schedules themselves are in `schedule/`.

use super::Api;
use super::caller::Caller;
use super::extract::{Json, Path, Query};
use super::guard::Target;
use super::limits::Quotas;
use super::paging::{Name, Paging};
use super::refusal::Refusal;
use super::submit::refused;
use super::uploads::not_stored;
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

/// The schedule of this name, if the caller may see it. A submitter's names are its own: its schedules are stored as
/// `ACCOUNT/NAME`, which is the name for everybody who sees several accounts. Those of before have a plain name.
async fn seen(api: &Api, caller: &Caller, name: &str) -> Result<ScheduleDetail, Refusal> {
    let own = caller.only().map(|account| format!("{account}/{name}"));
    for stored in own.iter().map(String::as_str).chain([name]) {
        match api.schedules.show(stored).await {
            Ok(detail) if caller.sees(&detail.schedule.account) => return Ok(detail),
            Ok(_) | Err(ScheduleError::NoSchedule(_)) => {}
            Err(error) => return Err(plain(error)),
        }
    }
    Err(Refusal::not_found(format_args!("schedule `{name}`")))
}

/// A schedule with the name that it has for the caller.
fn named(caller: &Caller, mut schedule: ScheduleView) -> ScheduleView {
    let own =
        caller.only().and_then(|account| schedule.name.strip_prefix(account)?.strip_prefix('/'));
    if let Some(own) = own {
        schedule.name = own.to_owned();
    }
    schedule
}

fn answer(caller: &Caller, detail: ScheduleDetail) -> Json<ScheduleDetail> {
    Json(ScheduleDetail { schedule: named(caller, detail.schedule), ..detail })
}

/// Fails if the caller's account may not have another schedule, or this one.
async fn check_new(api: &Api, caller: &Caller, new: &NewSchedule) -> Result<(), Refusal> {
    let Some(account) = caller.only() else { return Ok(()) };
    let (all, most) = (api.registry.schedules().await?, api.limits.quotas.schedules);
    let count = all.iter().filter(|schedule| schedule.account == account).count() as u64;
    if count >= most {
        let has = format!("the account `{account}` has {count} schedules");
        return Err(Quotas::exceeded("schedules", most, has));
    }
    if seen(api, caller, &new.name).await.is_ok() {
        return Err(plain(ScheduleError::Taken(new.name.clone())));
    }
    Ok(())
}

/// Checks what of a schedule depends on the caller: only an operator of the farm may choose a folder on its machines for
/// the results, and a submitter may use only files that it has uploaded.
async fn check(api: &Api, caller: &Caller, new: &NewSchedule) -> Result<(), Refusal> {
    if !new.out_dir.is_empty() && caller.only().is_some() {
        let detail = "`out_dir` is a folder of the server: only operators may name one";
        return Err(Refusal::new(Code::Forbidden, detail));
    }
    let (_, missing) = api.stored(caller, &new.job.assets).await?;
    if caller.only().is_some() && !missing.is_empty() {
        return Err(not_stored(&missing));
    }
    Ok(())
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
    let seen = all.into_iter().filter(|schedule| caller.sees(&schedule.account));
    let mut found: Vec<_> = seen.map(|schedule| named(&caller, schedule)).collect();
    found.retain(|schedule| schedule.name > after);
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(Page::of(found.into_iter(), limit, |schedule| schedule.name.clone())))
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
    check(&api, &caller, &new).await?;
    let detail = store(&api, &caller, &new).await?;
    let place = format!("/v1/schedules/{}", new.name);
    let target = Extension(Target(format!("schedules/{}", new.name)));
    let answer = answer(&caller, detail);
    Ok((StatusCode::CREATED, [(header::LOCATION, place)], target, answer).into_response())
}

/// Stores a schedule that is not there yet.
async fn store(api: &Api, caller: &Caller, new: &NewSchedule) -> Result<ScheduleDetail, Refusal> {
    check_new(api, caller, new).await?;
    let mut stored = new.clone();
    if let Some(account) = caller.only() {
        stored.name = format!("{account}/{}", new.name);
    }
    let added = api.schedules.add(&stored, &caller.account).await;
    added.map_err(|error| problem(error, &new.job.text))
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
    Ok(answer(&caller, seen(&api, &caller, &id).await?))
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
    check(&api, &caller, &new).await?;
    if new.name != id {
        let detail = "`name` has to be the name in the path";
        return Err(Refusal::new(Code::InvalidSchedule, detail));
    }
    let detail = match seen(&api, &caller, &id).await {
        Err(missing) if missing.code == Code::NotFound => store(&api, &caller, &new).await?,
        known => {
            let name = known?.schedule.name;
            let stored = NewSchedule { name, ..new.clone() };
            let replaced = api.schedules.replace(&stored, &caller.account).await;
            replaced.map_err(|error| problem(error, &new.job.text))?
        }
    };
    Ok(answer(&caller, detail))
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
    let stored = seen(&api, &caller, &id).await?.schedule.name;
    api.schedules.remove(&stored).await.map_err(plain)?;
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
    let stored = seen(&api, &caller, &id).await?.schedule.name;
    Ok(answer(&caller, api.schedules.pause(&stored).await.map_err(plain)?))
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
    let stored = seen(&api, &caller, &id).await?.schedule.name;
    Ok(answer(&caller, api.schedules.resume(&stored).await.map_err(plain)?))
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
    let triggered = api.schedules.trigger(&detail.schedule.name).await;
    Ok(Json(triggered.map_err(|error| problem(error, &detail.job.text))?))
}
