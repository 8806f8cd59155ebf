//! Results: the files that a run has delivered, and artifacts by key.

use super::Api;
use super::blobs::{Download, Wanted, serve};
use super::caller::Caller;
use super::delivered::{delivered, find};
use super::extract::{Json, Path, Query};
use super::paging::Paging;
use super::refusal::Refusal;
use crate::runs::{TaskCursor, from, next};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use pictor_api::{Page, RunFile};
use pictor_engine::{Effort, Engine, Found, Run, TaskQuery, TaskState};
use pictor_tasks::message::TaskId;
use std::sync::Arc;

/// Lists the files that a run has delivered so far.
#[utoipa::path(
    get, path = "/v1/runs/{run}/files", tag = "files",
    params(("run" = String, Path, description = "Its id, or enough of the beginning of it"), Paging<TaskCursor>),
    responses((status = 200, description = "Files", body = Page<RunFile>)),
)]
pub(super) async fn files(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(run): Path<String>,
    Query(paging): Query<Paging<TaskCursor>>,
) -> Result<Json<Page<RunFile>>, Refusal> {
    let limit = api.limits.page(paging.limit)?;
    let record = api.run(&caller, &run).await?;
    // A task may deliver several files, so pages may be a little longer than requested.
    let look = |_: &Engine, run: &Run, from, effort| Ok(look(run, from, effort));
    let start = (from(paging.after), limit);
    let found = api.runs.search(Some(&api.owner()?), &record, start, look).await?;
    let next = next(&found);
    Ok(Json(Page { items: found.items, next }))
}

/// The files of the next tasks that deliver any.
fn look(run: &Run, mut from: TaskId, effort: Effort) -> Found<RunFile> {
    // Steps that deliver nothing are skipped as a whole.
    while run.plan().steps.get(from.step as usize).is_some_and(|plan| plan.deliver.is_empty()) {
        from = TaskId { step: from.step + 1, index: 0 };
    }
    if run.plan().steps.len() <= from.step as usize {
        return Found { items: Vec::new(), next: None };
    }
    let state = Some(TaskState::Succeeded);
    let query = TaskQuery { step: Some(from.step), state, ..TaskQuery::default() };
    let found = run.find(&query, from, effort);
    let items = found.items.iter().flat_map(|at| {
        let files = delivered(run, *at).into_iter();
        let task = run.task_name(*at);
        files.map(move |(path, output)| RunFile {
            path,
            digest: output.digest.clone(),
            size_bytes: output.size_bytes,
            key: output.key.clone(),
            task: task.clone(),
        })
    });
    Found {
        items: items.collect(),
        next: found.next.or(Some(TaskId { step: from.step + 1, index: 0 })),
    }
}

/// Downloads a delivered result, or a range of it.
#[utoipa::path(
    get, path = "/v1/runs/{run}/files/{*path}", tag = "files",
    params(
        ("run" = String, Path, description = "Its id, or enough of the beginning of it"),
        ("path" = String, Path, description = "The file's path; it may hold slashes"),
        ("Range" = Option<String>, Header, description = "`bytes=0-1023`"),
        ("If-None-Match" = Option<String>, Header, description = "The file's digest, in quotes"),
    ),
    responses(Download),
)]
pub(super) async fn file(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path((run, path)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let record = api.run(&caller, &run).await?;
    let wanted = path.clone();
    let found = api.ask(&record, move |_, run| find(run, &wanted)).await?;
    let output = found.ok_or_else(|| Refusal::not_found(format_args!("file `{path}`")))?;
    let wanted = Wanted { key: &output.key, tag: output.digest.clone(), redirect: true };
    serve(&api, wanted, &headers).await
}

/// Downloads an artifact, or a range of it.
#[utoipa::path(
    get, path = "/v1/artifacts/{*key}", tag = "files",
    params(
        ("key" = String, Path, description = "Its key; it may hold slashes"),
        ("Range" = Option<String>, Header, description = "`bytes=0-1023`"),
        ("If-None-Match" = Option<String>, Header, description = "The artifact's `ETag`"),
    ),
    responses(Download),
)]
pub(super) async fn artifact(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let missing = || Refusal::not_found(format_args!("artifact `{key}`"));
    let mut parts = key.split('/');
    match (parts.next(), parts.next()) {
        (Some("assets"), Some(digest)) => {
            api.has(&caller, &[digest])
                .await?
                .contains(digest)
                .then_some(())
                .ok_or_else(missing)?;
        }
        (Some("runs"), Some(run)) => {
            let found = api.store.run(run).await.map_err(|_| missing())?;
            let found = found.filter(|record| *record.id.0 == *run && caller.sees(&record.account));
            found.ok_or_else(missing)?;
        }
        _ => return Err(missing()),
    }
    serve(&api, Wanted { key: &key, tag: tag_of(&key), redirect: true }, &headers).await
}

/// The `ETag` of an artifact: it never changes, so its key identifies its content.
pub(super) fn tag_of(key: &str) -> String {
    match key.strip_prefix("assets/") {
        Some(digest) => digest.to_owned(),
        None => blake3::hash(key.as_bytes()).to_hex().to_string(),
    }
}
