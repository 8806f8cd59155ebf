//! Results and assets: the files that a run has delivered, artifacts by key, files that jobs need.

use super::Api;
use super::auth::Caller;
use super::blobs::{Binary, Download, Wanted, serve};
use super::delivered::{delivered, find};
use super::extract::{Json, Path, Query};
use super::paging::Paging;
use super::refusal::Refusal;
use crate::runs::{TaskCursor, from, next};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use pictor_api::{Code, Digest, Digests, Missing, Page, RunFile};
use pictor_artifacts::asset_key;
use pictor_engine::{Effort, Engine, Found, Run, TaskQuery, TaskState};
use pictor_tasks::message::TaskId;
use pictor_tasks::pack::is_digest;
use std::sync::Arc;

/// Most digests in one request.
const DIGESTS_MAX: usize = 10_000;
/// Queries to storage at once.
const AT_ONCE: usize = 16;

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
        // A caller who knows a digest has had the file, or may see a run that uses it.
        (Some("assets"), Some(_)) => {}
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

/// Tells which of some files the farm lacks, so that only those have to be uploaded.
#[utoipa::path(
    post, path = "/v1/assets/missing", tag = "files", request_body = Digests,
    responses((status = 200, description = "What is to be uploaded", body = Missing)),
)]
pub(super) async fn missing(
    State(api): State<Arc<Api>>,
    Json(Digests { digests }): Json<Digests>,
) -> Result<Json<Missing>, Refusal> {
    if digests.len() > DIGESTS_MAX {
        return Err(Refusal::invalid(format!("`digests` may have at most {DIGESTS_MAX}")));
    }
    if let Some(bad) = digests.iter().find(|digest| !is_digest(digest)) {
        let bad: String = bad.chars().take(80).collect();
        return Err(Refusal::invalid(format!("`{bad}` is not a digest: 64 hexadecimal digits")));
    }
    let lacks = |digest: String| {
        let api = api.clone();
        async move {
            let there = api.artifacts.exists(&asset_key(&digest)).await?;
            Ok::<_, Refusal>((!there).then_some(digest))
        }
    };
    let answers = stream::iter(digests).map(lacks).buffered(AT_ONCE);
    let missing = answers.try_filter_map(async |digest| Ok(digest)).try_collect().await?;
    Ok(Json(Missing { missing }))
}

/// Uploads a file that jobs need. Uploading the same file again changes nothing.
#[utoipa::path(
    put, path = "/v1/assets/{digest}", tag = "files",
    params(("digest" = inline(Digest), Path, description = "BLAKE3 of the file, in hex")),
    request_body(content = inline(Binary), content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "It is stored"),
        (status = 204, description = "It was there already"),
    ),
)]
pub(super) async fn upload(
    State(api): State<Arc<Api>>,
    Path(digest): Path<String>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    if !is_digest(&digest) {
        return Err(Refusal::invalid("a digest has 64 hexadecimal digits"));
    }
    let spooled = api.spool(request.into_body()).await?;
    if spooled.digest != digest {
        let detail = format!("the {} bytes have the digest {}", spooled.size_bytes, spooled.digest);
        return Err(Refusal::new(Code::DigestMismatch, detail));
    }
    let key = asset_key(&digest);
    if api.artifacts.exists(&key).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    api.store(spooled, key).await?;
    Ok(StatusCode::CREATED)
}
