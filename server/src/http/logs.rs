//! Logs of tasks: read, followed while they grow, and written by workers on other machines.

use super::Api;
use super::blobs::Binary;
use super::caller::Caller;
use super::extract::{Path, Query};
use super::log_place::{Found, LogPlace, Piece};
use super::refusal::Refusal;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use pictor_api::{Code, Problem};
use pictor_engine::{Engine, Run};
use pictor_storage::RunRecord;
use pictor_tasks::history::{Fact, Row};
use pictor_tasks::message::{Execution, RunId, TaskId, WorkerId};
use serde::Deserialize;
use std::io::{ErrorKind, SeekFrom};
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use utoipa::ToSchema;

/// Bytes of a log that are read at a time from a file; below, from artifact storage.
const PIECE_BYTES: usize = 256 << 10;
const STORED_PIECE_BYTES: u64 = 1 << 20;
/// How often a followed log is checked for more; below, how often its task is.
const LOOK: Duration = Duration::from_millis(200);
const LOOK_AT_TASK: Duration = Duration::from_secs(1);
/// How often a log that does not exist yet is looked for in artifact storage.
const LOOK_AT_STORAGE: Duration = Duration::from_secs(1);
/// How long after the end of its task the last lines of a log may take to arrive from the worker.
const LAST_LINES: Duration = Duration::from_secs(3);
/// Longest name in a log's path, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Which part of which log to read.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// Number of the attempt; if absent, the last one that has a log.
    attempt: Option<u32>,
    /// Offset of the first byte to read.
    offset: Option<u64>,
    /// Whether to continue while the log grows, until the task ends.
    #[serde(default, deserialize_with = "truth")]
    #[param(value_type = Option<bool>)]
    follow: bool,
}

/// Parses a truth value in a URL, as clients in several languages write it: `true`, `True`.
fn truth<'de, D: serde::Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    let text = String::deserialize(from)?;
    text.to_ascii_lowercase().parse().map_err(|_| {
        serde::de::Error::custom(format!(
            "`{text}` is not a truth value: expected `true` or `false`"
        ))
    })
}

/// Reads the log of a task, even while it grows.
#[utoipa::path(
    get, path = "/v1/runs/{run}/tasks/{task}/log", tag = "tasks",
    params(
        ("run" = String, Path, description = "The run's id, or enough of the beginning of it"),
        ("task" = String, Path, description = "As in `render[frame=7,tile=3]`, URL-encoded"),
        LogQuery,
    ),
    responses((status = 200, description = "The log, from the offset on; empty if there is none",
               body = String, content_type = "text/plain")),
)]
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path((run, task)): Path<(String, String)>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Refusal> {
    let record = api.run(&caller, &run).await?;
    let (at, step_name) = api.runs.find_task(Some(&api.owner()?), &record, &task).await?;
    let place = LogPlace { run: record.id.clone(), step: step_name, index: at.index };
    let log = Log {
        api: api.clone(),
        place,
        attempt: query.attempt,
        offset: query.offset.unwrap_or(0),
        source: None,
        asked: None,
    };
    let stop = api.stop.clone();
    let task = query.follow.then(|| Followed::new(api, record, (at, query.attempt)));
    let reading = Reading { log, task, stop };
    let pieces = stream::unfold(reading, |mut reading| async move {
        let piece = reading.next().await.transpose()?;
        Some((piece, reading))
    });
    let kind = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((kind, Body::from_stream(pieces)).into_response())
}

/// A log that is being read; it may not exist yet.
struct Log {
    api: Arc<Api>,
    place: LogPlace,
    attempt: Option<u32>,
    offset: u64,
    source: Option<Source>,
    /// When it was last looked for in artifact storage.
    asked: Option<Instant>,
}

/// Where the log is read from.
enum Source {
    /// A file that may still grow. It stays readable when the log moves to storage.
    File(File),
    /// Key and size of a complete log in storage.
    Stored(String, u64),
}

impl Log {
    /// The next bytes that are available now.
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        if self.source.is_none() {
            self.source = self.find().await?;
        }
        let piece = match &mut self.source {
            None => return Ok(None),
            Some(Source::File(file)) => {
                let mut piece = Vec::with_capacity(PIECE_BYTES);
                file.take(PIECE_BYTES as u64).read_to_end(&mut piece).await?;
                piece
            }
            Some(Source::Stored(key, size)) => {
                let end = self.offset.saturating_add(STORED_PIECE_BYTES).min(*size);
                let range = self.offset.min(end)..end;
                self.api.artifacts.range(key, range).await.map_err(std::io::Error::other)?
            }
        };
        self.offset += piece.len() as u64;
        Ok((!piece.is_empty()).then(|| piece.into()))
    }

    async fn find(&mut self) -> std::io::Result<Option<Source>> {
        let mut everywhere = self.asked.is_none_or(|asked| asked.elapsed() >= LOOK_AT_STORAGE);
        loop {
            if everywhere {
                self.asked = Some(Instant::now());
            }
            let found = self.place.newest(&self.api, self.attempt, everywhere).await;
            let path = match found.map_err(std::io::Error::other)? {
                None => return Ok(None),
                Some(Found::Stored(key, size)) => return Ok(Some(Source::Stored(key, size))),
                Some(Found::Here(path)) => path,
            };
            match File::open(&path).await {
                Ok(mut file) => {
                    // The log may be shorter than the offset yet; file systems refuse to seek beyond the largest file.
                    if self.offset > file.metadata().await?.len() {
                        return Ok(None);
                    }
                    file.seek(SeekFrom::Start(self.offset)).await?;
                    return Ok(Some(Source::File(file)));
                }
                // It has just moved to storage.
                Err(error) if error.kind() == ErrorKind::NotFound => everywhere = true,
                Err(error) => return Err(error),
            }
        }
    }
}

/// The task whose log is followed.
struct Followed {
    api: Arc<Api>,
    record: RunRecord,
    at: TaskId,
    attempt: Option<u32>,
    looked: Instant,
    over: Option<Instant>,
}

impl Followed {
    fn new(api: Arc<Api>, record: RunRecord, (at, attempt): (TaskId, Option<u32>)) -> Self {
        let looked = Instant::now();
        Self { api, record, at, attempt, looked: looked - LOOK_AT_TASK, over: None }
    }

    /// Whether nothing more will be added to the log.
    async fn is_whole(&mut self) -> bool {
        if let Some(since) = self.over {
            return since.elapsed() > LAST_LINES;
        }
        let last_ms = i64::try_from(LAST_LINES.as_millis()).unwrap_or(i64::MAX);
        if self.record.finished_ms.is_some_and(|end| (self.api.now_ms)() - end > last_ms) {
            return true;
        }
        if self.looked.elapsed() >= LOOK_AT_TASK {
            self.looked = Instant::now();
            let (at, attempt) = (self.at, self.attempt);
            let look = move |_: &Engine, run: &Run| {
                let over = run.task_state(at).is_none_or(pictor_engine::TaskState::is_terminal);
                let later = run.attempt(at) > attempt && attempt.is_some();
                over || later
            };
            // If the state cannot be determined, the log is not followed any longer.
            if self.api.ask(&self.record, look).await.unwrap_or(true) {
                self.over = Some(Instant::now());
            }
        }
        false
    }
}

/// One client's reading of a log.
struct Reading {
    log: Log,
    task: Option<Followed>,
    stop: watch::Receiver<bool>,
}

impl Reading {
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        loop {
            if let Some(piece) = self.log.next().await? {
                return Ok(Some(piece));
            }
            let Some(task) = &mut self.task else { return Ok(None) };
            if task.is_whole().await {
                return Ok(None);
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                _ = self.stop.wait_for(|stop| *stop) => return Ok(None),
            }
        }
    }
}

/// Position of a piece in the log.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PieceQuery {
    /// Offset of the first byte of the piece. Bytes that the server already has are left unchanged.
    offset: u64,
    /// Whether this is the last piece, which may be empty. The response then means that all of the log is stored: until
    /// it arrives, the sender has to keep the log.
    #[serde(default, deserialize_with = "truth")]
    #[param(value_type = Option<bool>)]
    whole: bool,
}

/// A name that is part of a log's path.
#[derive(ToSchema)]
#[schema(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")]
pub(super) struct LogName(#[expect(dead_code, reason = "only a schema")] String);

fn is_plain(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.starts_with('.') && name.bytes().all(inner) && (1..=NAME_BYTES_MAX).contains(&name.len())
}

/// An execution, as a log's path names it.
struct LogOf<'a> {
    step: &'a str,
    index: u32,
    attempt: u32,
    execution: Execution,
}

/// Fails unless the worker executes the task, or history says that it did.
async fn check_author(
    api: &Api,
    record: &RunRecord,
    worker: WorkerId,
    log: LogOf<'_>,
) -> Result<(), Refusal> {
    let LogOf { step, index, attempt, execution } = log;
    let step = step.to_owned();
    let look = move |_: &Engine, run: &Run| {
        let at = TaskId { step: run.plan().step(&step)?, index };
        let current = run.attempt(at) == Some(attempt);
        let waits = current && run.task_state(at).is_some_and(|state| !state.is_terminal());
        Some((run.holder(at), waits, run.rows_of(at)))
    };
    let found = api.ask(record, look).await?;
    let (holder, waits, rows) =
        found.ok_or_else(|| Refusal::not_found(format_args!("this task")))?;
    if waits && holder == Some(worker) {
        return Ok(());
    }
    let rows = api.store.rows(&record.id, &rows).await?;
    let is_its = |row: &Row| {
        let (task, by) = match &row.fact {
            Fact::Claim(claim) => (claim.task, (claim.worker, claim.execution)),
            Fact::Ended(ended) => (ended.task, (ended.worker, ended.execution)),
            Fact::Event(_) => return false,
        };
        task.task.attempt == attempt && by == (worker, execution)
    };
    if rows.iter().any(is_its) {
        Ok(())
    } else if waits && holder.is_none() {
        // After a takeover it may be this worker's, which has not said so yet.
        Err(Refusal::new(Code::Unavailable, "nobody has the task at the moment").retry_after(1))
    } else {
        let detail = "the log is that of an execution by another worker";
        Err(Refusal::new(Code::Forbidden, detail))
    }
}

/// Appends to the log of an attempt.
#[utoipa::path(
    put, path = "/v1/workers/{id}/logs/{run}/{step}/{index}/{execution}", tag = "machines",
    params(
        ("id" = u32, Path, description = "The worker"),
        ("run" = inline(LogName), Path, description = "The run"),
        ("step" = inline(LogName), Path, description = "The step's name"),
        ("index" = u32, Path, description = "The task's index in the step"),
        ("execution" = String, Path, description = "`ATTEMPT-EXECUTION`, the latter in hex",
         pattern = "^[0-9]{1,9}-[0-9a-f]{1,16}$"),
        PieceQuery,
    ),
    request_body(content = inline(Binary), content_type = "application/octet-stream"),
    responses(
        (status = 204, description = "The piece is taken; if it is the last one, the log is stored"),
        (status = 409, description = "There is a gap before the piece, or the log is full",
         body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn append(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path((id, run, step, index, execution)): Path<(u32, String, String, u32, String)>,
    Query(PieceQuery { offset, whole }): Query<PieceQuery>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let worker = api.own(&caller, id).await?.id;
    let number = execution.split_once('-').and_then(|(attempt, execution)| {
        // Parsing alone would accept signs and capital letters.
        let digits = attempt.len() <= 9 && attempt.bytes().all(|b| b.is_ascii_digit());
        let hex = execution.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let number = u64::from_str_radix(execution, 16).ok().filter(|_| digits && hex)?;
        Some((attempt.parse::<u32>().ok()?, number))
    });
    let Some((attempt, number)) = number.filter(|_| is_plain(&run) && is_plain(&step)) else {
        return Err(Refusal::invalid("this cannot be the place of a log"));
    };
    let record = api.store.run(&run).await?.filter(|record| *record.id.0 == *run);
    let record = record.ok_or_else(|| Refusal::not_found(format_args!("run `{run}`")))?;
    let log = LogOf { step: &step, index, attempt, execution: Execution(number) };
    check_author(&api, &record, worker, log).await?;
    let bytes = Bytes::from_request(request, &()).await;
    let bytes = bytes.map_err(|error| Refusal::rejected(error.status(), error.body_text()))?;
    let place = LogPlace { run: RunId(run.into()), step, index };
    let name = format!("{attempt}-{number:016x}.log");
    place.take(api, &name, Piece { offset, bytes, whole }).await?;
    Ok(StatusCode::NO_CONTENT)
}
