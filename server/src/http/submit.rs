//! Submission: a job as JSON or YAML, once for each idempotency key, or as a dry run.

use super::caller::Caller;
use super::extract::{Json, NUL, Query};
use super::guard::Target;
use super::limits::{Quotas, Rate};
use super::refusal::Refusal;
use super::uploads::not_stored;
use super::{Api, aside};
use crate::handle::OwnerHandle;
use crate::runs::shape;
use crate::submit::{CompiledJob, Files, Mistakes, SubmitError, compile_job};
use axum::Extension;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pictor_api::{
    self as api, Code, JobBody, PlanSummary, PlannedStep, RunState, Submission, Submitted,
};
use pictor_engine::{Plan, Run, RunLimits, undefined_limits};
use pictor_net::random;
use pictor_storage::{Created, Idempotency, NewRun, RunRecord};
use pictor_tasks::job::Source;
use pictor_tasks::message::{FileRef, RunId};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 255;
/// How long a submission waits until its run is added to the owner. A large one takes longer to expand.
const HAND_OVER: Duration = Duration::from_millis(20);
/// Longest line of a job file that is shown with an error, in characters.
const LINE_CHARS: usize = 200;

/// Parameters of a submission besides its body.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SubmitQuery {
    /// Whether to only report what would be done. A JSON body can set this as well.
    dry_run: Option<bool>,
    /// Name of the job file, for error messages, unless a JSON body has it.
    source_name: Option<String>,
}

/// Submits a job.
///
/// The run belongs to the token's account. With an idempotency key, repeating the same submission does not create
/// another run. The files that the job names have to be uploaded first.
#[utoipa::path(
    post, path = "/v1/runs", tag = "runs",
    params(
        SubmitQuery,
        ("Idempotency-Key" = Option<String>, Header,
         description = "The submitter's name for this submission: 1 to 255 visible characters",
         min_length = 1, max_length = 255, pattern = "^[!-~]+$"),
    ),
    request_body(content(
        (Submission = "application/json"),
        (String = "application/yaml"),
    )),
    responses(
        (status = 201, description = "The new run", body = Submitted),
        (status = 200, description = "The run of the same submission before, or the plan of a dry run",
         body = Submitted),
    ),
)]
pub(super) async fn submit(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Query(query): Query<SubmitQuery>,
    request: Request,
) -> Result<Response, Refusal> {
    let key = idempotency_key(request.headers())?;
    let submission = read(query, request).await?;
    let text = submission.job.text();
    let (assets, missing) = api.stored(&caller, &submission.assets).await?;
    if !submission.dry_run && !missing.is_empty() {
        return Err(not_stored(&missing));
    }
    let once = key.map(|key| Idempotency {
        account: caller.account.clone(),
        key,
        request: digest(&submission, &text),
    });
    let dry_run = submission.dry_run;
    let owner = api.owner()?;
    let job = compile((&api, owner.config().run_limits), submission, text, assets).await?;
    let odd = undefined_limits(&job.plan, &owner.config().limits).into_iter();
    let notes = odd.map(|note| format!("step `{}`: {}", note.example, note.text)).collect();
    if dry_run {
        let plan = Some(summary(&job, missing));
        return Ok(Json(Submitted { run: None, plan, notes }).into_response());
    }
    within_quotas(&api, &caller, &owner, &job).await?;
    let new = job.run_of(&caller.account, Path::new(""), (api.now_ms)(), random());
    match api.store.create_run(&new, once.as_ref()).await? {
        Created::New => Ok(start(&api, job, new, notes).await),
        Created::Again(run) => {
            let record = api.run(&caller, &run.0).await?;
            let target = Extension(Target(format!("runs/{run}")));
            let run = Some(shape::summary(record, None));
            Ok((target, Json(Submitted { run, plan: None, notes })).into_response())
        }
        Created::Conflict(run) => {
            let detail = format!("another job was submitted with this key; it is run `{run}`");
            Err(Refusal::new(Code::IdempotencyConflict, detail))
        }
    }
}

/// Fails if the run would be more than its account may have.
async fn within_quotas(
    api: &Api,
    caller: &Caller,
    owner: &OwnerHandle,
    job: &CompiledJob,
) -> Result<(), Refusal> {
    let (Some(account), quotas) = (caller.only(), &api.limits.quotas) else { return Ok(()) };
    let rate = Rate::per_minute(quotas.submissions_per_minute);
    let what = "submissions of this account (`submissions_per_minute` in the servers' `[quotas]`)";
    api.buckets.take(&format!("submit {account}"), rate, what)?;
    let asked = account.to_owned();
    let (runs, tasks) = owner.ask(move |engine| engine.share_of(&asked)).await?;
    if runs >= quotas.runs {
        let has = format!("the account `{account}` has {runs} unfinished runs");
        return Err(Quotas::exceeded("runs", quotas.runs, has));
    }
    let more: u64 = job.task_counts().into_values().flatten().map(u64::from).sum();
    if tasks + more > quotas.tasks {
        let has = format!(
            "the unfinished runs of the account `{account}` have {tasks} tasks, and this one has {more} more"
        );
        return Err(Quotas::exceeded("tasks", quotas.tasks, has));
    }
    Ok(())
}

/// Starts a stored run and builds the response.
async fn start(api: &Arc<Api>, job: CompiledJob, new: NewRun, notes: Vec<String>) -> Response {
    // Announced first, so that no event about its tasks comes earlier.
    api.events.started(&new.id, &new.account);
    let (id, account) = (new.id.clone(), new.account.clone());
    let handed = tokio::spawn(hand_over(api.clone(), job.plan, id, account, new.created_ms));
    // The run is stored: whatever takes longer continues after the response.
    let _ = tokio::time::timeout(HAND_OVER, handed).await;
    let record = RunRecord {
        id: new.id,
        name: new.name,
        source_name: new.source_name,
        fold_version: new.fold_version,
        account: new.account,
        priority: new.priority,
        created_ms: new.created_ms,
        out_dir: new.out_dir,
        state: RunState::Running,
        finished_ms: None,
    };
    let place = format!("/v1/runs/{}", record.id);
    let target = Extension(Target(format!("runs/{}", record.id)));
    let run = Some(shape::summary(record, None));
    let body = Json(Submitted { run, plan: None, notes });
    (StatusCode::CREATED, [(header::LOCATION, place)], target, body).into_response()
}

/// Expands a run and adds it to the owner. If that fails, the owner finds it in the store.
async fn hand_over(api: Arc<Api>, plan: Plan, id: RunId, account: String, created_ms: i64) {
    let new = id.clone();
    let handed = async {
        let run = aside(move || Run::new(new, plan.into())).await?;
        Ok::<_, Refusal>(api.owner()?.add(run, account, created_ms).await?)
    };
    if let Err(problem) = handed.await {
        tracing::warn!(problem = problem.detail, run = %id, "a new run was not handed over");
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()));
    let key = key.filter(|key| key.bytes().all(|byte| byte.is_ascii_graphic()));
    let key = key.ok_or_else(|| {
        Refusal::invalid(format!(
            "`Idempotency-Key` has to be 1 to {KEY_BYTES_MAX} visible characters"
        ))
    })?;
    Ok(Some(key.to_owned()))
}

/// Parses the body according to its media type.
async fn read(query: SubmitQuery, request: Request) -> Result<Submission, Refusal> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    if !matches!(&*kind, "application/yaml" | "application/x-yaml" | "text/yaml") {
        let Json(mut submission): Json<Submission> = Json::from_request(request, &()).await?;
        submission.dry_run |= query.dry_run.unwrap_or(false);
        submission.source_name = submission.source_name.or(query.source_name);
        return Ok(submission);
    }
    let bytes = Bytes::from_request(request, &()).await;
    let bytes = bytes.map_err(|error| Refusal::rejected(error.status(), error.body_text()))?;
    let text = String::from_utf8(bytes.into());
    let text = text.map_err(|_| Refusal::invalid("the body is not UTF-8"))?;
    if text.contains('\0') {
        return Err(Refusal::invalid(NUL));
    }
    Ok(Submission {
        job: JobBody::Text(text),
        source_name: query.source_name,
        set: BTreeMap::new(),
        dry_run: query.dry_run.unwrap_or(false),
        assets: BTreeMap::new(),
    })
}

/// The digest by which two submissions count as the same one; `text` is the job's.
fn digest(submission: &Submission, text: &str) -> [u8; 32] {
    let content = (text, &submission.source_name, &submission.set, &submission.assets);
    let bytes = serde_json::to_vec(&content).expect("texts");
    *blake3::hash(&bytes).as_bytes()
}

/// Compiles on a thread of its own, because a job file may be long.
async fn compile(
    (api, limits): (&Api, RunLimits),
    submission: Submission,
    text: String,
    assets: BTreeMap<String, FileRef>,
) -> Result<CompiledJob, Refusal> {
    let name = submission.source_name.unwrap_or_else(|| "job".to_owned());
    let overrides: Vec<(String, String)> = submission.set.into_iter().collect();
    let (runtime, artifacts) = (tokio::runtime::Handle::current(), api.artifacts.clone());
    let compiled = aside(move || {
        let source = Source { name, text: text.clone() };
        let files = Files::Uploaded(&assets, &artifacts);
        runtime
            .block_on(compile_job(source, &overrides, files, &limits))
            .map_err(|error| refused(&text, error))
    });
    compiled.await?
}

/// The response to a job that cannot be submitted.
pub(super) fn refused(text: &str, error: SubmitError) -> Refusal {
    let (code, mistakes) = match error {
        SubmitError::Invalid(mistakes) => (Code::InvalidJob, mistakes),
        SubmitError::NotUploaded(mistakes) => (Code::MissingAssets, mistakes),
        SubmitError::Store(error) => return error.into(),
        error @ SubmitError::Unreadable { .. } => return Refusal::invalid(error.to_string()),
    };
    let Mistakes { text: detail, list } = mistakes;
    let lines: Vec<&str> = text.lines().collect();
    let errors = list.into_iter().map(|mistake| {
        let (line, column) = mistake.position.unzip();
        let text = line.and_then(|line| lines.get(line - 1));
        api::Mistake {
            line: line.and_then(|line| line.try_into().ok()),
            column: column.and_then(|column| column.try_into().ok()),
            message: mistake.message,
            hint: mistake.hint,
            text: text.map(|text| text.chars().take(LINE_CHARS).collect()),
        }
    });
    Refusal::new(code, detail.trim_end()).with_errors(errors.collect())
}

fn summary(job: &CompiledJob, missing_assets: Vec<String>) -> PlanSummary {
    let counts = job.task_counts();
    let steps: Vec<PlannedStep> = job
        .plan
        .steps
        .iter()
        .map(|step| PlannedStep {
            name: step.name.clone(),
            kind: step.body.kind().into(),
            over: step.over.iter().map(|dim| job.plan.dims[*dim].name.clone()).collect(),
            size: counts.get(&step.name).copied().flatten(),
        })
        .collect();
    PlanSummary {
        name: job.plan.name.clone(),
        tasks: steps.iter().filter_map(|step| step.size).map(u64::from).sum(),
        longest_path: job.plan.longest_path().0,
        steps,
        missing_assets,
    }
}
