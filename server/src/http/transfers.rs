//! Transfer of tasks' files, from and to workers. A worker shows the ticket that came with a task and gets links: to
//! storage itself if that can presign them, else to this server.

use super::Api;
use super::artifacts::tag_of;
use super::blobs::{Binary, Download, LINK, Wanted, serve};
use super::caller::Caller;
use super::extract::{Json, Path};
use super::refusal::Refusal;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use pictor_api::{
    Code, Digest, Inputs, InputsRequest, Link, LinkedInput, OutputPlace, OutputRequest,
};
use pictor_artifacts::{ExecutionKey, asset_key};
use pictor_engine::Engine;
use pictor_queue::{Ticket, ToOwner};
use pictor_tasks::message::{StepKey, Try, WorkerId};
use pictor_tasks::output::check_name;
use pictor_tasks::pack::is_digest;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The header that makes a link to this server valid.
const LINK_HEADER: &str = "pictor-link";
/// Characters of a key that are percent-encoded in a URL.
const IN_PATHS: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// How long an upload may take to begin.
const UPLOAD: Duration = Duration::from_mins(5);
/// Longest name of a step, in bytes.
const NAME_BYTES_MAX: usize = 150;

/// S3 accepts no more in one request. A larger file goes through a server, which uploads it in parts.
const SINGLE_PUT_BYTES_MAX: u64 = 5 << 30;

/// Returns the inputs of a task, with links to them.
#[utoipa::path(
    post, path = "/v1/workers/{id}/inputs", tag = "machines",
    params(("id" = u32, Path, description = "The worker")),
    request_body = InputsRequest,
    responses((status = 200, description = "What the task reads", body = Inputs)),
)]
pub(super) async fn inputs(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<u32>,
    Json(InputsRequest { key, task, ticket }): Json<InputsRequest>,
) -> Result<Json<Inputs>, Refusal> {
    let worker = api.own(&caller, id).await?.id;
    check(&api, ticket.as_ref(), &key, task, worker)?;
    let owner = api.owner()?;
    // If nobody holds the task (any more), it belongs to this worker, which has it, from now on.
    owner.tell(ToOwner::Heartbeat(worker, vec![(key.clone(), vec![task])])).await?;
    let found = owner.ask(move |engine| engine.inputs(&key, task, Some(worker))).await?;
    let found = found.ok_or_else(not_theirs)?;
    let mut inputs = Vec::with_capacity(found.len());
    for input in found {
        let link = match api.artifacts.presign_get(&input.output.key, LINK).await? {
            Some(link) => Link { url: link.url, headers: link.headers },
            None => api.link(worker, "GET", &input.output.key, LINK),
        };
        inputs.push(LinkedInput { input, link });
    }
    Ok(Json(Inputs { inputs }))
}

/// Returns the destination of a file that a task made.
#[utoipa::path(
    post, path = "/v1/workers/{id}/outputs", tag = "machines",
    params(("id" = u32, Path, description = "The worker")),
    request_body = OutputRequest,
    responses((status = 200, description = "Where it belongs", body = OutputPlace)),
)]
pub(super) async fn outputs(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<u32>,
    Json(asked): Json<OutputRequest>,
) -> Result<Json<OutputPlace>, Refusal> {
    let worker = api.own(&caller, id).await?.id;
    let (key, task) = (asked.key, asked.task);
    check(&api, asked.ticket.as_ref(), &key, task, worker)?;
    let plain = |name: &str| {
        let bad = |c: char| c.is_control() || matches!(c, '/' | '\\');
        !matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES_MAX && !name.contains(bad)
    };
    if !plain(&asked.step) || !plain(&key.run.0) {
        return Err(Refusal::invalid("`step` has to be a plain name"));
    }
    check_name(&asked.file).map_err(Refusal::invalid)?;
    let at = key.clone();
    let name = move |engine: &Engine| {
        let run = engine.open(&at, task, Some(worker))?;
        Some(run.plan().steps[usize::from(at.step)].name.clone())
    };
    // The ticket ends with the attempt.
    let name = api.owner()?.ask(name).await?.ok_or_else(not_theirs)?;
    if name != asked.step {
        // It would be the path of another task.
        return Err(Refusal::invalid("`step` is not the name of this step"));
    }
    if asked.size_bytes > api.limits.asset_bytes {
        let detail = format!("a file may have {} bytes", api.limits.asset_bytes);
        return Err(Refusal::new(Code::BodyTooLarge, detail));
    }
    let (step, execution) = (&*asked.step, asked.execution);
    let key = ExecutionKey { key: &key, step, task, execution }.file(&asked.file);
    let mut direct = None;
    if asked.size_bytes <= SINGLE_PUT_BYTES_MAX {
        direct = api.artifacts.presign_put(&key, UPLOAD).await?;
    }
    let link = match direct {
        Some(link) => Link { url: link.url, headers: link.headers },
        None => api.link(worker, "PUT", &key, UPLOAD),
    };
    Ok(Json(OutputPlace { key, link }))
}

fn not_theirs() -> Refusal {
    Refusal::new(Code::Conflict, "the task is not this worker's any more: it is over or reset")
}

/// Checks that a task was given to a worker.
fn check(
    api: &Api,
    ticket: Option<&Ticket>,
    key: &StepKey,
    task: Try,
    worker: WorkerId,
) -> Result<(), Refusal> {
    let owner = api.owner()?;
    let bad = |detail: String| {
        api.metrics.bad_tickets.inc();
        Refusal::new(Code::BadTicket, detail)
    };
    let ticket =
        ticket.ok_or_else(|| bad("the ticket that came with the task is missing".into()))?;
    let sealer = owner.sealer().ok_or_else(Refusal::no_owner)?;
    sealer.verify(ticket, key, task, worker).map_err(|error| bad(error.to_string()))
}

impl Api {
    /// A link to this server that is valid for one worker, method and artifact, and for a limited time.
    fn link(&self, worker: WorkerId, method: &str, key: &str, valid: Duration) -> Link {
        let span = i64::try_from(valid.as_millis()).unwrap_or(i64::MAX);
        let until_ms = self.age_ms().saturating_add(span);
        let proof = format!("{until_ms}.{}", self.proof(worker, method, key, until_ms).to_hex());
        let path = utf8_percent_encode(key, IN_PATHS);
        Link {
            url: format!("/v1/workers/{}/artifacts/{path}", worker.0),
            headers: BTreeMap::from([(LINK_HEADER.to_owned(), proof)]),
        }
    }

    /// For how long this server has run, in milliseconds: links outlive neither it nor a change of the clock.
    fn age_ms(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn proof(&self, worker: WorkerId, method: &str, key: &str, until_ms: i64) -> blake3::Hash {
        let content = format!("{} {until_ms} {method} {key}", worker.0);
        blake3::keyed_hash(&self.link_key, content.as_bytes())
    }

    fn check_link(
        &self,
        headers: &HeaderMap,
        worker: WorkerId,
        method: &str,
        key: &str,
    ) -> Result<(), Refusal> {
        let shown = headers.get(LINK_HEADER).and_then(|value| value.to_str().ok());
        let parts = shown.and_then(|shown| shown.split_once('.'));
        let good = parts.is_some_and(|(until, proof)| {
            let until_ms = until.parse().unwrap_or(i64::MIN);
            let proof = blake3::Hash::from_hex(proof);
            let right = self.proof(worker, method, key, until_ms);
            until_ms >= self.age_ms() && proof.is_ok_and(|proof| proof == right)
        });
        if good {
            return Ok(());
        }
        self.metrics.bad_tickets.inc();
        let detail = "the link is not valid (any more): ask for another one";
        Err(Refusal::new(Code::BadTicket, detail))
    }
}

/// Downloads an artifact that a worker's task reads.
#[utoipa::path(
    get, path = "/v1/workers/{id}/artifacts/{*key}", tag = "machines",
    params(
        ("id" = u32, Path, description = "The worker"),
        ("key" = String, Path, description = "The artifact's key; it may hold slashes"),
        ("pictor-link" = Option<String>, Header, description = "What came with the link"),
    ),
    responses(Download),
)]
pub(super) async fn fetch(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path((id, key)): Path<(u32, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let worker = api.own(&caller, id).await?.id;
    api.check_link(&headers, worker, "GET", &key)?;
    serve(&api, Wanted { key: &key, tag: tag_of(&key), redirect: false }, &headers).await
}

/// Uploads a file that a worker's task made. A stored artifact is not changed.
#[utoipa::path(
    put, path = "/v1/workers/{id}/artifacts/{*key}", tag = "machines",
    params(
        ("id" = u32, Path, description = "The worker"),
        ("key" = String, Path, description = "The artifact's key; it may hold slashes"),
        ("pictor-link" = Option<String>, Header, description = "What came with the link"),
    ),
    request_body(content = inline(Binary), content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "It is stored"),
        (status = 204, description = "It was there already"),
    ),
)]
pub(super) async fn store(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path((id, key)): Path<(u32, String)>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let worker = api.own(&caller, id).await?.id;
    api.check_link(request.headers(), worker, "PUT", &key)?;
    let spooled = api.spool(request.into_body()).await?;
    let (size, digest) = (spooled.size_bytes, spooled.digest.clone());
    if api.store(spooled, key.clone()).await? {
        return Ok(StatusCode::CREATED);
    }
    if api.artifacts.size(&key).await? == size && api.artifacts.digest(&key).await? == digest {
        return Ok(StatusCode::NO_CONTENT);
    }
    let detail = "another file is stored there already: artifacts never change";
    Err(Refusal::new(Code::Conflict, detail))
}

/// Downloads a file that a job needs, for a worker.
#[utoipa::path(
    get, path = "/v1/workers/{id}/assets/{digest}", tag = "machines",
    params(
        ("id" = u32, Path, description = "The worker"),
        ("digest" = inline(Digest), Path, description = "BLAKE3 of the file, in hex"),
    ),
    responses(Download),
)]
pub(super) async fn asset(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path((id, digest)): Path<(u32, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    api.own(&caller, id).await?;
    if !is_digest(&digest) {
        return Err(Refusal::invalid("a digest has 64 hexadecimal digits"));
    }
    let key = asset_key(&digest);
    serve(&api, Wanted { key: &key, tag: digest, redirect: true }, &headers).await
}
